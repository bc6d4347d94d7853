"""SelfSupervisedTransformer: what a transformer that learns from images alone is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from torch import nn

from .._utils.ranks import together
from .._utils.seeds import draw_seed
from .._utils.sklearn_private import fit_context
from .._utils.types import (
    Device,
    Images,
    ImageShape,
    ImageSize,
    Memory,
    OnError,
    OptimizerName,
    PathLike,
    PixelRange,
    Precision,
    RandomState,
)
from ..images.source import ImageSource
from ..training.objective import Objective
from ..training.plan import Plan
from ..training.trainer import train
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from .trained_base import TrainedImageTransformer

__all__ = ["SelfSupervisedTransformer"]


class SelfSupervisedTransformer(TrainedImageTransformer):
    """Base of transformers that learn from images alone. A subclass writes ``make_objective``.

    ``fit`` reads the images, makes the objective, trains it and adopts its modules as fitted attributes;
    ``transform`` returns what the encoder makes of images. Cache, checkpoints, callbacks, devices and
    precision come with it.

    Parameters
    ----------
    encoder : str, torch.nn.Module or callable, default="auto"
        As in :class:`SimCLRTransformer`.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        As in :class:`SimCLRTransformer`.
    pixel_range : "auto" or (float, float), default="auto"
        As in :class:`SimCLRTransformer`.
    image_size : "auto", int, (int, int) or None, default="auto"
        Size that image files are brought to, as in :class:`SimCLRTransformer`.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded image files, as in :class:`SimCLRTransformer`.
    on_error : {"raise", "nan", "grey"}, default="raise"
        What to do with image files that cannot be read: with ``"raise"`` an error says which; with
        ``"nan"`` fit leaves them out, with a warning, and transform gives rows of NaN; with ``"grey"``
        transform gives what it gives for a grey image, with a warning.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The random views; None is ``Augmentation()``. A callable makes one view: see
        :class:`~sklearn_simclr.ExternalViews`.
    batch_size : int, default=256
        Images per step, at least 2. A smaller X is one batch.
    max_epochs : int, default=100
        Passes over the images. 0 leaves the weights random.
    max_time : float or None, default=None
        Seconds from the beginning of fit to its end, as in :class:`SimCLRTransformer`, instead of
        ``max_epochs``.
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
        The trained encoder. Every other module of the objective is there under its name, too.
    augmentation_ : Augmentation, ExternalViews or None
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
        Number of epochs.
    loss_curve_ : list of float
        Mean loss of each epoch.
    history_ : pandas.DataFrame
        One row for each epoch, with the columns of the objective.

    See Also
    --------
    sklearn_simclr.SimCLRTransformer : Learns by telling images apart.
    sklearn_simclr.training.Objective : What is learnt.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from torch import nn
    >>> from sklearn_simclr.estimators import SelfSupervisedTransformer
    >>> from sklearn_simclr.training import Objective, Step
    >>> class Agreement(Objective):
    ...     def step(self, batch):
    ...         first, second = self.modules["encoder"](batch.views(self.augmentation, n_views=2)).chunk(2)
    ...         return Step(-nn.functional.cosine_similarity(first, second).mean())
    >>> class AgreementTransformer(SelfSupervisedTransformer):
    ...     def make_objective(self, images, plan):
    ...         encoder, out_dim = self.build_encoder(images)
    ...         return Agreement({"encoder": encoder}, self.make_views(images, encoder))
    >>> X, _ = load_digits(return_X_y=True)
    >>> AgreementTransformer(max_epochs=1, random_state=0).fit_transform(X).shape
    (1797, 432)
    """

    _parameter_constraints = TrainedImageTransformer._training_constraints

    def __init__(
        self,
        encoder: str | nn.Module | Callable[..., nn.Module] = "auto",
        *,
        image_shape: ImageShape = "auto",
        pixel_range: PixelRange = "auto",
        image_size: ImageSize = "auto",
        cache_dir: PathLike | None = None,
        on_error: OnError = "raise",
        augmentation: Augmentation | ExternalViews | Callable[..., Any] | None = None,
        batch_size: int = 256,
        max_epochs: int = 100,
        max_time: float | None = None,
        optimizer: OptimizerName = "auto",
        learning_rate: Literal["auto"] | float = "auto",
        weight_decay: Literal["auto"] | float = "auto",
        warmup: float = 0.1,
        precision: Precision = "auto",
        device: Device = "auto",
        memory: Memory = None,
        checkpoint_dir: PathLike | None = None,
        callbacks: Sequence[Any] | None = None,
        verbose: int = 0,
        random_state: RandomState = None,
    ) -> None:
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
    def fit(self, X: Images, y: object = None) -> Self:
        """Learn from images, without labels.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            At least two images.
        y : array-like of shape (n,) or None, default=None
            Not used; another length than that of X raises an error.

        Returns
        -------
        SelfSupervisedTransformer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X or a parameter cannot be used; the estimator is then as it was before.
        """
        started = time.perf_counter()
        with together():
            images = self._read_training_images(X, reset=True, max_time=self._time(), y=y)
            plan = self._plan(len(images), draw_seed(self.random_state), started)
            objective = self._new_objective(images, plan)
            history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
            self._adopt(objective, history, plan, images)
        return self

    def make_objective(self, images: ImageSource, plan: Plan) -> Objective:
        """Return what is learnt from images; to be written by a subclass.

        Parameters
        ----------
        images : ImageSource
            The training images.
        plan : Plan
            How they are trained on: batch size, epochs, precision, device.

        Returns
        -------
        Objective
            With new modules. torch's generators are seeded while they are built.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define make_objective, which returns the objective to be trained."
        )

    def build_encoder(self, images: ImageSource) -> tuple[nn.Module, int]:
        """Return a new encoder, as the parameter ``encoder`` says.

        Parameters
        ----------
        images : ImageSource
            Images of the size and the channels that it is for.

        Returns
        -------
        encoder : torch.nn.Module
            Images (n, C, H, W) to representations (n, d).
        out_dim : int
            d.
        """
        return self._build_encoder(images)

    def make_views(self, images: ImageSource, encoder: nn.Module) -> Augmentation | ExternalViews | None:
        """Return the augmentation with concrete values, as the parameter ``augmentation`` says.

        Parameters
        ----------
        images : ImageSource
            The training images: their size decides, and whether mirror images fit in among them.
        encoder : torch.nn.Module
            The encoder that will see the views: it may say which size it wants.

        Returns
        -------
        Augmentation, ExternalViews or None
            What views are drawn from.
        """
        if self.augmentation is None and self._default_augmentation() is None:
            return None
        return self._views(images, encoder)

    def _make_objective(self, images: ImageSource, plan: Plan) -> Objective:
        return self.make_objective(images, plan)
