"""SupervisedTransformer: the encoder of SimCLR trained on labels alone, with which SimCLR is compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from torch import nn

from .._utils.ranks import together
from .._utils.seeds import draw_seed
from .._utils.sklearn_private import fit_context
from .._utils.types import (
    Device,
    Images,
    ImageShape,
    ImageSize,
    Labels,
    Memory,
    OnError,
    OptimizerName,
    PathLike,
    PixelRange,
    Precision,
    RandomState,
)
from ..images.source import ImageSource
from ..training.classification import ClassificationObjective, Targets, Validation
from ..training.plan import Plan
from ..training.trainer import train
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from .classifier_base import TrainedImageClassifier, make_classifier_head

__all__ = ["SupervisedTransformer"]


class SupervisedTransformer(TrainedImageClassifier):
    """Train the encoder of SimCLR on labels alone: a classifier, and its features.

    ``fit`` trains an encoder and a linear layer on top, from random weights, to predict the labels of random
    views. Rows without a label are left out. The classifier is the curve "supervised" of a label-fraction
    study. ``transform`` returns the output of the encoder, so that this estimator can take the place of
    :class:`SimCLRTransformer` in a Pipeline.

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
        leaves the files out, transform and predict_proba return rows of NaN, and predict raises an error.
        ``"grey"``: fit leaves the files out, and the other methods take them for grey images. Both warn.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The random views for training. None is ``Augmentation()``, as for SimCLR. A callable makes one view:
        see :class:`~sklearn_simclr.ExternalViews`.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as in scikit-learn.
    batch_size : int, default=256
        Images per step, at least 2. Fewer labelled images are one batch.
    max_epochs : "auto" or int, default="auto"
        Passes over the labelled images; ``"auto"`` is 60, but at least 300 steps. 0 leaves the weights
        random.
    max_time : float or None, default=None
        Seconds that fit takes, in place of ``max_epochs``, as in :class:`SimCLRTransformer`.
    early_stopping : bool, default=False
        Whether a part of the labelled images is held out, the training ends when the loss on that part has
        stopped falling, and the weights with the lowest such loss are kept.
    validation_fraction : float, default=0.1
        Part of the labelled images that is held out, in (0, 1).
    n_iter_no_change : int, default=10
        Epochs without improvement after which early stopping ends the training.
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
        Folder that keeps trained weights: a fit on the same images and labels with the same parameters reads
        them.
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
    classes_ : ndarray of shape (n_classes,)
        Labels that occur in y.
    encoder_ : torch.nn.Module
        The trained encoder.
    classifier_ : torch.nn.Linear
        The layer that maps the encoder's features to logits.
    augmentation_ : Augmentation or ExternalViews
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
        Mean loss of each epoch.
    history_ : pandas.DataFrame
        One row per epoch: loss, accuracy (of the last batch), images_per_second, learning_rate, seconds;
        with early stopping also validation_loss and validation_accuracy.

    See Also
    --------
    SimCLRTransformer : Learns without labels.
    AutoencoderTransformer : Learns without labels, by reconstruction.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020, section 6. :arxiv:`2002.05709`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SupervisedTransformer
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> supervised = SupervisedTransformer(max_epochs=40, random_state=0).fit(X, y)
    >>> supervised.predict(X[:3])
    array([0, 1, 2])
    """

    _parameter_constraints = TrainedImageClassifier._classification_constraints

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
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        batch_size: int = 256,
        max_epochs: Literal["auto"] | int = "auto",
        max_time: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
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
        self.class_weight = class_weight
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Images, y: Labels, sample_weight: ArrayLike | None = None) -> Self:
        """Train encoder and classifier on the labelled images.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images.
        y : array-like of shape (n,)
            One class per image; -1, None or NaN where there is none.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images in the loss, >= 0.

        Returns
        -------
        SupervisedTransformer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X, y or a parameter cannot be used; the estimator is then as it was before.
        """
        started = time.perf_counter()
        with together():
            images = self._read_images(X, reset=True, max_time=self._time(), y=y)
            labels, weights = self._read_labels(y, sample_weight, images)
            seed = draw_seed(self.random_state)
            rows, held = self._split_validation(np.flatnonzero(weights > 0), labels, seed)
            validation = self._held_out(images.select(held), self._labelled(labels, weights, held))
            images, targets = images.select(rows), self._labelled(labels, weights, rows)
            plan = self._plan(len(images), seed, started)
            objective = self._new_objective(images, plan, targets=targets, validation=validation)
            history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
            self._adopt(objective, history, plan, images)
        return self

    def _default_augmentation(self) -> Augmentation:
        return Augmentation()

    def _make_objective(
        self, images: ImageSource, plan: Plan, *, targets: Targets, validation: Validation | None
    ) -> ClassificationObjective:
        encoder, out_dim = self._build_encoder(images)
        return ClassificationObjective(
            {"encoder": encoder, "classifier": make_classifier_head(out_dim, len(self.classes_))},
            self._views(images, encoder),
            targets,
            validation=validation,
            n_classes=len(self.classes_),
            given=self._given("encoder"),
        )
