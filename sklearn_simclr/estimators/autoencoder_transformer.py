"""AutoencoderTransformer: representations learnt by reconstruction, with which SimCLR is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional as F

from .._utils.types import Images
from ..encoders.compact import shrunk_size
from ..encoders.decoder import Decoder
from ..encoders.traits import traits
from ..images.source import ImageSource
from ..training.plan import Plan
from ..training.reconstruction import ReconstructionObjective
from .self_supervised import SelfSupervisedTransformer

__all__ = ["AutoencoderTransformer"]


class AutoencoderTransformer(SelfSupervisedTransformer):
    """Learn representations of images without labels, as a convolutional autoencoder.

    ``fit`` trains the encoder of SimCLR together with a decoder, so that the mean squared difference between
    the decoder's output and the images is small. The decoder doubles the side of its feature maps as often
    as an encoder halves it. ``transform`` returns the output of the encoder.

    Parameters
    ----------
    encoder : str, torch.nn.Module or callable, default="auto"
        As in :class:`SimCLRTransformer`.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        As in :class:`SimCLRTransformer`.
    pixel_range : "auto" or (float, float), default="auto"
        As in :class:`SimCLRTransformer`.
    image_size : "auto", int, (int, int) or None, default="auto"
        Size to which images are resized, as in :class:`SimCLRTransformer`.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded image files, as in :class:`SimCLRTransformer`.
    on_error : {"raise", "nan", "grey"}, default="raise"
        Treatment of image files that cannot be read. ``"raise"``: an error lists the files. ``"nan"``: fit
        leaves the files out, transform returns rows of NaN. ``"grey"``: fit leaves the files out, transform
        takes them for grey images. Both warn.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        Random views that are encoded and decoded in place of the images. None takes the images themselves.
        A callable makes one view: see :class:`~sklearn_simclr.ExternalViews`.
    batch_size : int, default=256
        Images per step, at least 2. A smaller X is one batch.
    max_epochs : int, default=100
        Passes over the images. 0 leaves the weights random.
    max_time : float or None, default=None
        Seconds that fit takes, in place of ``max_epochs``, as in :class:`SimCLRTransformer`.
    optimizer : {"auto", "lars", "sgd", "adamw", "muon"}, default="auto"
        As in :class:`SimCLRTransformer`.
    learning_rate : "auto" or float, default="auto"
        Peak learning rate; ``"auto"`` depends on the optimizer and the batch size.
    weight_decay : "auto" or float, default="auto"
        Weight decay; ``"auto"`` depends on the optimizer.
    warmup : float, default=0.1
        Fraction of the training over which the learning rate rises from 0.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        As in :class:`SimCLRTransformer`.
    device : str or torch.device, default="auto"
        Device that computes.
    memory : str, joblib.Memory or None, default=None
        Folder that keeps trained weights: a fit on the same images with the same parameters reads them.
    checkpoint_dir : str, os.PathLike or None, default=None
        Folder in which fit keeps the state of the training, as in :class:`SimCLRTransformer`.
    callbacks : list or None, default=None
        Callbacks of skorch.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of weights, views and batches.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The trained encoder.
    decoder_ : torch.nn.Module
        The trained decoder. It maps representations to images (N, C, h, w) in [0, 1], of the size to which
        the encoder shrinks large images; ``reconstruct`` enlarges them.
    augmentation_ : Augmentation, ExternalViews or None
        The views with all values that were used.
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels per image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.
    n_iter_ : int
        Number of epochs.
    loss_curve_ : list of float
        Mean squared error of each epoch, for pixels in [0, 1].
    history_ : pandas.DataFrame
        One row per epoch: loss, images_per_second, learning_rate, seconds.

    See Also
    --------
    SimCLRTransformer : Learns by telling images apart.
    SupervisedTransformer : Learns from labels.

    References
    ----------
    .. [1] Masci, Meier, Ciresan and Schmidhuber, "Stacked Convolutional Auto-Encoders for Hierarchical
           Feature Extraction", ICANN 2011.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import AutoencoderTransformer
    >>> X, _ = load_digits(return_X_y=True)
    >>> autoencoder = AutoencoderTransformer(max_epochs=5, random_state=0).fit(X)
    >>> autoencoder.reconstruct(X[:2]).shape
    (2, 1, 8, 8)
    """

    def reconstruct(self, X: Images) -> NDArray[np.float32]:
        """Encode images, then decode them.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, C, H, W)
            float32 in [0, 1], whatever the pixel range of X.
        """
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False)
        size = source.shape[1:] if self.augmentation_ is None else tuple(self.augmentation_.size)

        def again(modules: Sequence[nn.Module], images: Tensor) -> Tensor:
            encoder, decoder = modules
            small = decoder(encoder(images))
            return small if small.shape[2:] == size else F.interpolate(small, size, mode="bilinear")

        return self._infer(again, (self.encoder_, self.decoder_), source)

    def _default_augmentation(self) -> None:
        return None

    def make_objective(self, images: ImageSource, plan: Plan) -> ReconstructionObjective:
        """Return the reconstruction of images or of views, as an objective.

        Parameters
        ----------
        images : ImageSource
            The training images.
        plan : Plan
            How they are trained on.

        Returns
        -------
        ReconstructionObjective
            With a new encoder and a new decoder.
        """
        encoder, out_dim = self.build_encoder(images)
        views, shape = self.make_views(images, encoder), images.shape
        if views is not None:
            shape = (shape[0], *views.size)
        side = traits(encoder).shrinks_to
        if side is not None:
            shape = (shape[0], *shrunk_size(*shape[1:], side))
        decoder = Decoder(out_dim, shape)
        return ReconstructionObjective(encoder, decoder, views, given=self._given("encoder"))
