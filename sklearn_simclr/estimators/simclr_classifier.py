"""SimCLRClassifier: pretraining without labels, then fine-tuning with labels."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from torch import nn

from .._utils.ranks import together
from .._utils.seeds import draw_seed
from .._utils.sklearn_private import Interval, StrOptions, fit_context
from .._utils.types import Device, Images, Labels, Memory, OptimizerName, PathLike, Precision, RandomState
from ..encoders.blocks import parts_to_freeze
from ..encoders.mirror import MirroredNetwork
from ..images.source import ImageSource
from ..training.classification import ClassificationObjective, Targets, Validation
from ..training.linear_start import linear_start
from ..training.optimizers import default_learning_rate
from ..training.plan import Plan
from ..training.trainer import train
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from .base import ReadImages
from .classifier_base import (
    TrainedImageClassifier,
    is_fitted,
    make_classifier_head,
    through,
    unwrap_frozen,
)
from .simclr_transformer import SimCLRTransformer

__all__ = ["SimCLRClassifier"]

# V1 appendix B.5: Nesterov momentum with 0.05 * batch_size / 256; V2 has LARS and batches of 1,024.
_FINE_TUNING_RATE = 0.05

# V1 appendix B.6, linear evaluation: twice that rate, and 90 epochs.
_FROZEN_RATE, _FROZEN_EPOCHS = 0.1, 90

# If training begins with a linear classifier, small steps of Muon gain more than SGD with the rate of V1.
_MUON_RATE = 0.01

# "auto" epochs: none with fewer labelled images per class, with which training lost more on some images than
# it gained on others; else so many steps, and so many passes at least. examples/benchmarks/fine_tuning.py
# compares.
_LABELS_PER_CLASS, _STEPS, _PASSES = 500, 200, 20

# Parameters that fine-tuning takes over from the views of pretraining.
_GEOMETRY = (
    "size",
    "crop_scale",
    "crop_ratio",
    "flip_probability",
    "vertical_flip_probability",
    "rotation",
)


class SimCLRClassifier(TrainedImageClassifier):
    """Classify images: pretrain without labels, then fine-tune with the labels there are.

    ``fit`` trains a :class:`SimCLRTransformer` on all images and puts a linear layer on its representation,
    or on a hidden layer of its projection head. It then trains the whole network on the labelled images,
    with crops and flips. The linear layer begins as a logistic regression on the standardised
    representations [3]_, whose penalty is chosen by cross-validation on the labelled images.

    Parameters
    ----------
    pretrained : SimCLRTransformer, FrozenEstimator or None, default=None
        The transformer whose encoder is fine-tuned. None is ``SimCLRTransformer()``. A transformer that is
        not fitted is cloned and fitted on all rows of X, with this ``random_state`` if it has none. A fitted
        transformer is used as it is. ``clone``, and so cross-validation, forgets the fit of a plain
        transformer: wrap a fitted one in :class:`sklearn.frozen.FrozenEstimator` to share it between folds.

        Image files are read with the ``image_size``, ``cache_dir`` and ``on_error`` of the transformer. With
        ``on_error="nan"``, files that cannot be read are left out of both trainings, predict_proba returns
        rows of NaN for them, and predict raises an error. With ``"grey"``, predict and predict_proba take
        these files for grey images.
    head_layer : int, default=0
        Layer of the projection head that the linear layer is put on: 0 is the representation h. V2 found 1
        best with few labels, for a head of 3 layers.
    start : {"linear", "zero"}, default="linear"
        First weights of the linear layer: those of the logistic regression, or zero, as in the commands of
        Google's code.
    trainable : "all", int or sequence of str, default="all"
        The part of the encoder that is trained. An int is a number of last blocks, 0 for none; strings are
        names of modules, as in ``encoder_.named_modules()``. The other parts keep their weights and the
        statistics of their BatchNorm. The blocks of the compact network are its four convolutions; those of
        a ResNet are its stem and its stages; those of another network are its children that have
        parameters. Layers of the head and the linear layer are always trained. ``start="zero"`` with 0 is
        the linear evaluation of V1, appendix B.6, whose ``batch_size`` is 4096.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as in scikit-learn.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The random views for training. None is crops and flips only, of the size of the views in
        pretraining. A callable makes one view: see :class:`~sklearn_simclr.ExternalViews`.
    batch_size : int, default=256
        Images per step, at least 2. Fewer labelled images are one batch.
    max_epochs : "auto" or int, default="auto"
        Passes over the labelled images. 0 trains nothing: the encoder stays as it is, and the linear layer
        is the logistic regression that it begins as. ``"auto"`` is 0 with fewer than 500 labelled images
        per class, since training on so few can lose accuracy; otherwise it is 20, but at least 200 steps.
        With ``start="zero"``, ``"auto"`` is 60 (V1, V2), but at least 300 steps, and 90 for linear evaluation
        (V1 B.6).
    max_time : float or None, default=None
        Seconds of fine-tuning, in place of ``max_epochs``; the pretraining has its own. Reading does not
        count. If few steps fit, fit does the same as in :class:`SimCLRTransformer`.
    early_stopping : bool, default=False
        Whether a part of the labelled images is held out, the training ends when the loss on that part has
        stopped falling, and the weights with the lowest such loss are kept. With ``start="linear"``, these
        may be the weights of the start.
    validation_fraction : float, default=0.1
        Part of the labelled images that is held out, in (0, 1).
    n_iter_no_change : int, default=10
        Epochs without improvement after which early stopping ends the training.
    optimizer : {"auto", "lars", "sgd", "adamw", "muon"}, default="auto"
        ``"auto"`` is Muon; with ``start="zero"`` it is SGD with Nesterov momentum, as in V1. V2 uses LARS.
    learning_rate : "auto" or float, default="auto"
        Peak learning rate. ``"auto"`` is 0.01 for Muon. For SGD it is 0.05 per 256 images of the batch
        (V1 B.5), or 0.1 for linear evaluation (V1 B.6).
    weight_decay : "auto" or float, default="auto"
        Weight decay; ``"auto"`` is 0 (V1, V2).
    warmup : float, default=0
        Fraction of the training over which the learning rate rises from 0 (V2: none).
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        As in :class:`SimCLRTransformer`.
    device : str or torch.device, default="auto"
        Device that computes.
    memory : str, joblib.Memory or None, default=None
        Folder that keeps trained weights: a fit on the same images and labels with the same parameters reads
        them. The pretraining has its own folder.
    checkpoint_dir : str, os.PathLike or None, default=None
        Folder in which fit keeps the state of the fine-tuning. The pretraining has its own folder.
    callbacks : list or None, default=None
        Callbacks of skorch.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of views and batches.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels that occur in y.
    pretrained_ : SimCLRTransformer
        The fitted transformer, before fine-tuning.
    encoder_ : torch.nn.Module
        The fine-tuned encoder.
    head_ : torch.nn.Module
        The fine-tuned layers of the projection head; with ``head_layer=0`` there are none.
    classifier_ : torch.nn.Linear
        The layer that maps the representation, or the hidden layer, to logits.
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
    mirror_ : bool
        Whether predictions use the mean of the representations of an image and of its mirror image, as
        transform of the transformer does.
    n_iter_ : int
        Number of epochs of fine-tuning.
    loss_curve_ : list of float
        Mean loss of each epoch.
    history_ : pandas.DataFrame
        One row per epoch of fine-tuning: loss, accuracy (of the last batch), images_per_second,
        learning_rate, seconds; with early stopping also validation_loss and validation_accuracy.

    See Also
    --------
    DistilledClassifier : Teaches a smaller network, with the images that have no label.
    LabelFractionClassifier : A classifier on frozen representations.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020, appendix B.5. :arxiv:`2002.05709`
    .. [2] Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong
           Semi-Supervised Learners", NeurIPS 2020, section 2. :arxiv:`2006.10029`
    .. [3] Kumar, Raghunathan, Jones, Ma and Liang, "Fine-Tuning can Distort Pretrained Features and
           Underperform Out-of-Distribution", ICLR 2022. :arxiv:`2202.10054`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> y[30:] = -1  # no label
    >>> pretrained = SimCLRTransformer(max_epochs=3, random_state=0)
    >>> model = SimCLRClassifier(pretrained, max_epochs=30, random_state=0).fit(X, y)
    >>> model.predict(X[:3])
    array([0, 1, 2])
    """

    # label_fraction_curve reads that this estimator also learns from rows whose labels were not drawn.
    learns_from_unlabelled = True

    _reading_setting = "pretrained=SimCLRTransformer(..., {})"

    _parameter_constraints = {
        name: constraint
        for name, constraint in {
            **TrainedImageClassifier._classification_constraints,
            "pretrained": [object, None],
            "head_layer": [Interval(Integral, 0, None, closed="left")],
            "start": [StrOptions({"linear", "zero"})],
            "trainable": [StrOptions({"all"}), Interval(Integral, 0, None, closed="left"), tuple, list],
        }.items()
        if name not in ("encoder", "image_shape", "pixel_range")
    }

    def __init__(
        self,
        pretrained: BaseEstimator | None = None,
        *,
        head_layer: int = 0,
        start: Literal["linear", "zero"] = "linear",
        trainable: Literal["all"] | int | Sequence[str] = "all",
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        augmentation: Augmentation | ExternalViews | Callable[..., Any] | None = None,
        batch_size: int = 256,
        max_epochs: Literal["auto"] | int = "auto",
        max_time: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        optimizer: OptimizerName = "auto",
        learning_rate: Literal["auto"] | float = "auto",
        weight_decay: Literal["auto"] | float = "auto",
        warmup: float = 0.0,
        precision: Precision = "auto",
        device: Device = "auto",
        memory: Memory = None,
        checkpoint_dir: PathLike | None = None,
        callbacks: Sequence[Any] | None = None,
        verbose: int = 0,
        random_state: RandomState = None,
    ) -> None:
        self.pretrained = pretrained
        self.head_layer = head_layer
        self.start = start
        self.trainable = trainable
        self.class_weight = class_weight
        self.augmentation = augmentation
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
        """Pretrain on all images, then fine-tune on the labelled ones.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images.
        y : array-like of shape (n,)
            One class per image; -1, None or NaN where there is none.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images in the loss of fine-tuning, >= 0.

        Returns
        -------
        SimCLRClassifier
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X, y or a parameter cannot be used; the estimator is then as it was before.
        """
        with together():
            begin, fitted = self._transformer()
            # Labels first: a mistake there must not cost a pretraining.
            if fitted:
                self._take_format(begin)
            images = self._read_images(X, reset=not fitted, y=y)
            labels, weights = self._read_labels(y, sample_weight, images)
            seed = draw_seed(self.random_state)
            rows, held = self._split_validation(np.flatnonzero(weights > 0), labels, seed)
            self.pretrained_ = begin if fitted else begin.fit(ReadImages(images, self), y)
            layers = self.pretrained_.projector_.n_layers
            if self.head_layer > layers:
                raise ValueError(
                    f"head_layer={self.head_layer}, but the projection head has {layers} layers. Pass an int "
                    f"from 0 to {layers}."
                )
            self._take_format(self.pretrained_)
            self.mirror_ = isinstance(self.pretrained_._served_encoder(), MirroredNetwork)
            started = time.perf_counter()
            validation = self._held_out(images.select(held), self._labelled(labels, weights, held))
            images, targets = images.select(rows), self._labelled(labels, weights, rows)
            plan = self._plan(len(images), seed, started)
            objective = self._new_objective(images, plan, targets=targets, validation=validation)
            history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
            self._adopt(objective, history, plan, images)
        return self

    def _transformer(self) -> tuple[SimCLRTransformer, bool]:
        """Return the transformer to begin with, and whether it is fitted."""
        if self.pretrained is None:
            return SimCLRTransformer(random_state=self.random_state, device=self.device), False
        given = unwrap_frozen(self.pretrained)
        if not isinstance(given, SimCLRTransformer):
            raise TypeError(
                "pretrained must be a SimCLRTransformer, a FrozenEstimator of one or None, got "
                f"{self.pretrained!r}."
            )
        if is_fitted(given):
            return given, True
        if given is not self.pretrained:
            raise ValueError(
                "pretrained is a FrozenEstimator of a transformer that is not fitted; fit the transformer "
                "first."
            )
        given = clone(given)
        given._validate_params()
        if given.random_state is None:
            given.set_params(random_state=self.random_state)
        return given, False

    def _reading(self) -> BaseEstimator:
        return unwrap_frozen(self.pretrained) or SimCLRTransformer()

    def _encoder_setting(self) -> Any:
        return self.pretrained_.encoder

    def _default_augmentation(self) -> Augmentation:
        known = self.pretrained_.augmentation_ if hasattr(self, "pretrained_") else None
        views = super()._default_augmentation()
        if isinstance(known, Augmentation):
            views.set_params(**{name: getattr(known, name) for name in _GEOMETRY})
        return views

    def _resolve_epochs(self, n_images: int) -> int:
        if self.max_epochs == "auto" and self._evaluates_linearly():
            return _FROZEN_EPOCHS
        if self.max_epochs != "auto" or self.start == "zero":
            return super()._resolve_epochs(n_images)
        if self.max_time is None and n_images < _LABELS_PER_CLASS * len(self.classes_):
            return 0
        return max(_PASSES, -(-_STEPS // max(1, n_images // self.batch_size)))

    def _resolve_optimizer(self, batch_size: int) -> tuple[str, float, float]:
        usual = "sgd" if self.start == "zero" else "muon"
        name = usual if self.optimizer == "auto" else self.optimizer
        rate, decay = self.learning_rate, self.weight_decay
        if rate == "auto":
            of_sgd = _FROZEN_RATE if self._evaluates_linearly() else _FINE_TUNING_RATE
            rates = {"muon": _MUON_RATE, "sgd": of_sgd * batch_size / 256}
            rate = rates[name] if name in rates else default_learning_rate(name, batch_size)
        return name, float(rate), 0.0 if decay == "auto" else float(decay)

    def _evaluates_linearly(self) -> bool:
        """Return whether only a linear layer is trained, from zero."""
        none = isinstance(self.trainable, Integral) and self.trainable == 0
        return self.start == "zero" and none and self.head_layer == 0

    def _network(self) -> tuple[nn.Module, ...]:
        return self.encoder_, self.head_, self.classifier_

    def _make_objective(
        self, images: ImageSource, plan: Plan, *, targets: Targets, validation: Validation | None
    ) -> ClassificationObjective:
        begin = self.pretrained_
        encoder, head = copy.deepcopy((begin.encoder_, begin.projector_.layers[: self.head_layer]))
        in_dim = begin.projector_.layer_dim(self.head_layer)
        hidden = nn.Sequential(*head)
        classifier = make_classifier_head(in_dim, len(self.classes_))
        trainable = int(self.trainable) if isinstance(self.trainable, Integral) else self.trainable
        frozen = parts_to_freeze(encoder, trainable)
        linear = self.start == "linear" and targets.labels.ndim == 1
        if linear:
            served = MirroredNetwork(encoder) if self.mirror_ else encoder
            features = self._infer(through, (served, hidden), images)
            start = linear_start(
                features, targets.labels.numpy(), targets.weights.numpy(), len(self.classes_), plan.seed
            )
            classifier.load_state_dict({"weight": start.weight, "bias": start.bias})
        return self._objective(
            {"encoder": encoder, "head": hidden, "classifier": classifier},
            self._views(images, encoder),
            targets,
            validation=validation,
            n_classes=len(self.classes_),
            given=("encoder", "head"),
            initialize=False,  # the first layer stays as it was pretrained
            frozen=frozen,
            start_counts=linear,
        )
