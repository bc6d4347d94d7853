"""AutoencoderTransformer: representations learnt by reconstruction, with which SimCLR is compared."""

import time

from sklearn.utils.validation import check_is_fitted

from .._utils.seeds import draw_seed
from .._utils.sklearn_private import fit_context
from ..encoders.decoder import Decoder
from ..images.source import ImageSource
from ..training.loop import train
from ..training.plan import Plan
from ..training.reconstruction import ReconstructionObjective
from .base import BaseImageTransformer
from .trained import TrainedImageEstimator

__all__ = ["AutoencoderTransformer"]


class AutoencoderTransformer(TrainedImageEstimator, BaseImageTransformer):
    """Representations of a convolutional autoencoder, learnt without labels.

    ``fit`` trains the encoder of SimCLR together with a decoder, which doubles the side of its feature maps
    as often as an encoder halves it, so that the images come back with a small mean squared error;
    ``transform`` returns what lies between the two.

    Parameters
    ----------
    encoder : str, torch.nn.Module or callable, default="auto"
        As in :class:`SimCLRTransformer`.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        As in :class:`SimCLRTransformer`.
    pixel_range : "auto" or (float, float), default="auto"
        As in :class:`SimCLRTransformer`.
    image_size : None, int or (int, int), default=None
        Size that image files are brought to, as in :class:`SimCLRTransformer`.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded image files, as in :class:`SimCLRTransformer`.
    on_error : {"raise", "nan"}, default="raise"
        What to do with image files that cannot be read: with ``"raise"`` an error says which; with
        ``"nan"`` fit leaves them out, with a warning, and transform gives rows of NaN.
    augmentation : Augmentation or None, default=None
        Random views that are to be given back instead of the images; None is the images as they are.
    batch_size : int, default=256
        Images a step, at least 2. A smaller X is one batch.
    max_epochs : int, default=100
        Passes over the images. 0 leaves the weights random.
    max_time : float or None, default=None
        Seconds to train for, instead of ``max_epochs``.
    optimizer : {"auto", "lars", "sgd", "adamw", "muon"}, default="auto"
        As in :class:`SimCLRTransformer`.
    learning_rate : "auto" or float, default="auto"
        Peak learning rate; ``"auto"`` depends on the optimizer and the batch size.
    weight_decay : "auto" or float, default="auto"
        Weight decay; ``"auto"`` depends on the optimizer.
    warmup : float, default=0.1
        Fraction of the training over which the learning rate rises from 0.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        As in :class:`SimCLRTransformer`.
    device : str or torch.device, default="auto"
        Where to compute.
    memory : str, joblib.Memory or None, default=None
        Where to keep trained weights, keyed by images and parameters.
    checkpoint_dir : str, os.PathLike or None, default=None
        Folder in which the state of the training is kept, as in :class:`SimCLRTransformer`.
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
        From representations to images (N, C, H, W) in [0, 1].
    augmentation_ : Augmentation or None
        With the values that were used.
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels of an image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.
    n_iter_ : int
        Epochs done.
    loss_curve_ : list of float
        Mean squared error of each epoch, of pixels in [0, 1].
    history_ : pandas.DataFrame
        A row an epoch: loss, images_per_second, learning_rate, seconds.

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

    _parameter_constraints = TrainedImageEstimator._training_constraints

    def __init__(
        self,
        encoder="auto",
        *,
        image_shape="auto",
        pixel_range="auto",
        image_size=None,
        cache_dir=None,
        on_error="raise",
        augmentation=None,
        batch_size=256,
        max_epochs=100,
        max_time=None,
        optimizer="auto",
        learning_rate="auto",
        weight_decay="auto",
        warmup=0.1,
        precision="auto",
        device="auto",
        memory=None,
        checkpoint_dir=None,
        callbacks=None,
        verbose=0,
        random_state=None,
    ):
        self.encoder = encoder
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.image_size = image_size
        self.cache_dir = cache_dir
        self.on_error = on_error
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.precision = precision
        self.device = device
        self.memory = memory
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Train encoder and decoder.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            At least two images.
        y : object, default=None
            Ignored.

        Returns
        -------
        AutoencoderTransformer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X or a parameter cannot be used; the estimator is then as it was before.
        """
        started = time.perf_counter()
        with self._unchanged_on_error():
            images = self._read_training_images(X, reset=True)
            plan = self._plan(len(images), draw_seed(self.random_state), started)
            objective = self._make_objective(images, plan)
            history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
            self._adopt(objective, history, plan)
        return self

    def transform(self, X):
        """Return the representations of images.

        Parameters
        ----------
        X : array-like
            Images of the size, channels and layout seen in fit.

        Returns
        -------
        ndarray of shape (n, d)
            float32.
        """
        return self._apply(X, 1)

    def reconstruct(self, X):
        """Return what the decoder makes of the representations of images.

        Parameters
        ----------
        X : array-like
            Images of the size, channels and layout seen in fit.

        Returns
        -------
        ndarray of shape (n, C, H, W)
            float32 in [0, 1], whatever the pixel range of X.
        """
        return self._apply(X, 2)

    def _apply(self, X, n_modules):
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False)

        def chain(modules, images):
            for module in modules:
                images = module(images)
            return images

        modules = (self.encoder_, self.decoder_)[:n_modules]
        return self._infer(chain, modules, source)

    def _default_augmentation(self):
        return None

    @property
    def _n_features_out(self):
        return self.decoder_.in_dim

    def _make_objective(self, images: ImageSource, plan: Plan) -> ReconstructionObjective:
        views = self._views(images)
        shape = images.shape
        if views is not None:
            shape = (
                (shape[0], *views.size) if isinstance(views.size, tuple) else (shape[0], *2 * [views.size])
            )
        with plan.building():
            encoder, out_dim = self._build_encoder(images)
            objective = ReconstructionObjective(
                encoder, Decoder(out_dim, shape), views, given=self._given("encoder")
            )
            objective.channels_last = self._takes_channels_last(encoder, images)
        return objective
