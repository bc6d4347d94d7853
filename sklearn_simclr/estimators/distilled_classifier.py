"""DistilledClassifier: a student that learns from a teacher's predictions for images without labels."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils import Tags
from torch import nn

from .._utils.ranks import together
from .._utils.seeds import draw_seed
from .._utils.sklearn_private import Interval, StrOptions, fit_context
from .._utils.types import Device, Images, Labels, Memory, OptimizerName, PathLike, Precision, RandomState
from ..encoders.traits import traits
from ..images.indexing import indexable, take
from ..images.source import ImageSource
from ..training.classification import ClassificationObjective, Targets, Validation
from ..training.plan import Plan
from ..training.trainer import train
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from .classifier_base import TrainedImageClassifier, is_fitted, make_classifier_head, unwrap_frozen
from .simclr_transformer import SimCLRTransformer

__all__ = ["DistilledClassifier"]

# A teacher may round probabilities to zero, whose logarithm would be infinite.
_PROBABILITY_FLOOR = 1e-12


class DistilledClassifier(TrainedImageClassifier):
    """Train a network to predict as another classifier does, also on images without labels.

    The targets of the network, the *student*, are the probabilities that the *teacher* predicts for every
    image, labelled or not. The student is usually smaller. The loss is the mean over a batch of
    ``(1 - alpha) * cross-entropy with the labels + alpha * cross-entropy with the teacher``. In the second
    term, the logits of teacher and student are divided by a temperature.

    Parameters
    ----------
    teacher : classifier
        Classifier with ``predict_proba`` on images, such as :class:`SimCLRClassifier` or a Pipeline. A
        fitted teacher is used as it is; otherwise a clone is fitted on X and y first. ``clone`` forgets a
        fit: wrap a fitted teacher in :class:`sklearn.frozen.FrozenEstimator` to share it between folds.
    student : SimCLRTransformer, FrozenEstimator or None, default=None
        The transformer that gives the student its network. A fitted transformer gives its trained encoder,
        for self-distillation (V2 section 3: a student of the teacher's architecture). A transformer that is
        not fitted gives a network with random weights, built from its parameters ``encoder``,
        ``image_shape`` and ``pixel_range``. None is ``SimCLRTransformer()``.

        Image files are read with the ``image_size``, ``cache_dir`` and ``on_error`` of this transformer.
        With ``on_error="nan"``, files that cannot be read are left out of the training, also of the
        teacher's; predict_proba returns rows of NaN for them, and predict raises an error. With ``"grey"``,
        predict and predict_proba take these files for grey images.
    alpha : float, default=1
        Weight of the teacher in the loss, in [0, 1]; the labels have the rest. With 1 the student sees no
        labels.
    temperature : float, default=1
        Temperature of the teacher's and the student's logits, > 0. V2 uses 0.1 for a fine-tuned teacher, and
        1 otherwise (appendix F). The loss is that of V2, equation 3. Google's notebook multiplies that loss
        by the square of the temperature. This has the effect of another learning rate and, if labels are used
        too, of another weight of the teacher.
    teacher_views : {"auto", "same", "image"}, default="auto"
        The images that the teacher predicts. ``"same"``: in each step, the view that the student sees (V2);
        possible for :class:`SimCLRClassifier` and other networks of this package. ``"image"``: the whole
        image, once before the training; possible for any teacher. ``"auto"`` is ``"same"`` where possible.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The random views that the student sees. None is crops and flips only. A callable makes one view: see
        :class:`~sklearn_simclr.ExternalViews`.
    batch_size : int, default=256
        Images per step, at least 2.
    max_epochs : "auto" or int, default="auto"
        Passes over all images, labelled or not; ``"auto"`` is 60, but at least 300 steps (V2: 400 epochs).
    max_time : float or None, default=None
        Seconds of the student's training, in place of ``max_epochs``. Reading and the teacher do not count.
        If few steps fit, fit does the same as in :class:`SimCLRTransformer`.
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
        Folder that keeps trained weights: a fit on the same images and targets with the same parameters
        reads them.
    checkpoint_dir : str, os.PathLike or None, default=None
        Folder in which fit keeps the state of the student's training.
    callbacks : list or None, default=None
        Callbacks of skorch.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of weights, views and batches.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes of the teacher.
    teacher_ : classifier
        The fitted teacher.
    encoder_ : torch.nn.Module
        The student's encoder.
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
    mirror_ : bool
        Whether predictions use the mean of the representations of an image and of its mirror image. True
        for the compact network if views are mirrored.
    n_iter_ : int
        Number of epochs.
    loss_curve_ : list of float
        Mean loss of each epoch.
    history_ : pandas.DataFrame
        One row per epoch: loss, accuracy (on the labelled images of the last batch), images_per_second,
        learning_rate, seconds; with early stopping also validation_loss and validation_accuracy.

    See Also
    --------
    SimCLRClassifier : The usual teacher.

    References
    ----------
    .. [1] Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong
           Semi-Supervised Learners", NeurIPS 2020, section 2, equations 2 and 3. :arxiv:`2006.10029`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_simclr import DistilledClassifier
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> teacher = LogisticRegression(max_iter=1000).fit(X[:100], y[:100])
    >>> student = DistilledClassifier(teacher, max_epochs=40, random_state=0).fit(X)
    >>> student.predict(X[:3])
    array([0, 1, 2])
    """

    # label_fraction_curve reads that this estimator also learns from rows whose labels were not drawn.
    learns_from_unlabelled = True

    _reading_setting = "student=SimCLRTransformer(..., {})"

    _parameter_constraints = {
        name: constraint
        for name, constraint in {
            **TrainedImageClassifier._classification_constraints,
            "teacher": [object],
            "student": [object, None],
            "alpha": [Interval(Real, 0, 1, closed="both")],
            "temperature": [Interval(Real, 0, None, closed="neither")],
            "teacher_views": [StrOptions({"auto", "same", "image"})],
        }.items()
        if name not in ("class_weight", "encoder", "image_shape", "pixel_range")
    }

    def __init__(
        self,
        teacher: BaseEstimator,
        student: BaseEstimator | None = None,
        *,
        alpha: float = 1.0,
        temperature: float = 1.0,
        teacher_views: Literal["auto", "same", "image"] = "auto",
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
        warmup: float = 0.1,
        precision: Precision = "auto",
        device: Device = "auto",
        memory: Memory = None,
        checkpoint_dir: PathLike | None = None,
        callbacks: Sequence[Any] | None = None,
        verbose: int = 0,
        random_state: RandomState = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.alpha = alpha
        self.temperature = temperature
        self.teacher_views = teacher_views
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
        tags.target_tags.required = not is_fitted(unwrap_frozen(self.teacher))
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Images, y: Labels | None = None, sample_weight: ArrayLike | None = None) -> Self:
        """Train the student on what the teacher says about the images.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            At least two images.
        y : array-like of shape (n,) or None, default=None
            One class per image; -1, None or NaN where there is none. Needed where the teacher is to be
            fitted, alpha is less than 1, or for early stopping.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images in the loss with the labels, >= 0.

        Returns
        -------
        DistilledClassifier
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X, y or a parameter cannot be used; the estimator is then as it was before.
        """
        with together():
            self._check_teacher(y)
            student = unwrap_frozen(self.student)
            if is_fitted(student):
                self._take_format(student)
            images = self._read_images(X, reset=not is_fitted(student), smallest=2, y=y)
            n = len(images)
            labels, weights = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.float32)
            if y is not None:
                labels, weights = self._read_labels(y, sample_weight, images)
            readable = np.setdiff1d(np.arange(n), images.bad)
            if len(readable) < 2:
                raise ValueError(
                    f"Only {len(readable)} of {n} images can be read; pass at least 2 images that can be "
                    "read."
                )
            self.teacher_ = self._fit_teacher(X, y, None if len(readable) == n else readable)
            self._take_classes(y is not None, labels)
            seed = draw_seed(self.random_state)
            held = np.empty(0, dtype=np.int64)
            if self.early_stopping:
                _, held = self._split_validation(np.flatnonzero(weights > 0), labels, seed)
            rows = np.setdiff1d(readable, held)
            teacher = self._ask_teacher(X, rows)
            started = time.perf_counter()
            validation = self._held_out(images.select(held), self._labelled(labels, weights, held))
            images, targets = images.select(rows), self._labelled(labels, weights, rows)
            plan = self._plan(len(images), seed, started)
            objective = self._new_objective(
                images, plan, targets=targets, validation=validation, teacher=teacher
            )
            history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
            self._adopt(objective, history, plan, images)
            views = self.augmentation_
            flips = isinstance(views, Augmentation) and views.flip_probability > 0
            self.mirror_ = flips and traits(self.encoder_).mirror_pays
        return self

    def _check_teacher(self, y: Labels | None) -> None:
        if isinstance(self.teacher, type):
            name = self.teacher.__name__
            raise TypeError(f"teacher is the class {name}. Pass an instance of it, fitted or not.")
        teacher = unwrap_frozen(self.teacher)
        if not hasattr(teacher, "predict_proba") or not is_classifier(teacher):
            raise TypeError(f"teacher must be a classifier with predict_proba, got {self.teacher!r}.")
        student = unwrap_frozen(self.student)
        if student is not None and not isinstance(student, SimCLRTransformer):
            raise TypeError(
                "student must be a SimCLRTransformer, such as SimCLRTransformer('compactx0.5'), a "
                f"FrozenEstimator of one or None, got {self.student!r}."
            )
        if student is not None and not is_fitted(student) and student.weights is not None:
            raise ValueError(
                f"student has weights={str(student.weights)!r} but is not fitted, so it would begin with "
                "random weights. Pass a fitted student: SimCLRTransformer(weights=..., max_epochs=0).fit(X)."
            )
        if y is None:
            needs = [
                name
                for name, needed in (
                    ("a teacher that is not fitted", not is_fitted(teacher)),
                    (f"alpha={self.alpha}", self.alpha < 1),
                    ("early_stopping=True", self.early_stopping),
                )
                if needed
            ]
            if needs:
                more = "" if is_fitted(teacher) else ", or a fitted teacher"
                raise ValueError(
                    f"{needs[0]} requires y to be passed, but the target y is None. Pass y{more}."
                )

    def _fit_teacher(self, X: Images, y: Labels | None, rows: np.ndarray | None) -> Any:
        """Return the teacher, fitted on some rows (None: on all) if it was not."""
        teacher = unwrap_frozen(self.teacher)
        if is_fitted(teacher):
            return teacher
        if rows is not None:
            X, y = _some(X, rows), _some(y, rows)
        return clone(teacher).fit(X, y)

    def _take_classes(self, labelled: bool, numbers: np.ndarray) -> None:
        """Number the labels as the teacher does."""
        known = np.asarray(self.teacher_.classes_)
        if labelled:
            place = {label: k for k, label in enumerate(known.tolist())}
            own = self.classes_.tolist()
            new = [label for label in own if label not in place]
            if new:
                raise ValueError(
                    f"y has the labels {new}, but the teacher knows only {list(place)}. Pass labels that the "
                    "teacher knows, or a teacher fitted on all of them."
                )
            spare = [label for label in place if label not in own]
            if spare and not is_fitted(unwrap_frozen(self.teacher)):
                raise ValueError(
                    f"The teacher took {spare} in y for classes, but these values mark rows without a label. "
                    "Wrap the last step of the teacher in LabelFractionClassifier, or fit the teacher on the "
                    "labelled rows first."
                )
            renumbered = np.array([place[label] for label in own])
            numbers[numbers >= 0] = renumbered[numbers[numbers >= 0]]
        self.classes_ = known

    def _ask_teacher(self, X: Images, rows: np.ndarray) -> nn.Module | torch.Tensor:
        """Return the teacher's network if it sees the student's views, else its log-probabilities."""
        network = isinstance(self.teacher_, TrainedImageClassifier)
        able = network and self.teacher_._format == self._format
        if self.teacher_views == "same" and not able:
            raise ValueError(
                "teacher_views='same' needs a teacher that is a network of this package, fitted on images "
                f"of the same form, got {self.teacher_!r}. Pass 'auto' or 'image'."
            )
        if able and self.teacher_views != "image":
            return nn.Sequential(*copy.deepcopy(self.teacher_._network())).eval()
        odds = np.asarray(self.teacher_.predict_proba(_some(X, rows)), dtype=np.float64)
        unknown = rows[~np.isfinite(odds).all(axis=1)]
        if len(unknown):
            raise ValueError(
                f"The probabilities that the teacher gives row {unknown[0]} of X"
                + (f" and {len(unknown) - 1} others" if len(unknown) > 1 else "")
                + " are not finite. Leave these rows out of X."
            )
        return torch.from_numpy(np.log(np.maximum(odds, _PROBABILITY_FLOOR)).astype(np.float32))

    def _reading(self) -> BaseEstimator:
        return unwrap_frozen(self.student) or SimCLRTransformer()

    def _encoder_setting(self) -> Any:
        return self._reading().encoder

    def _make_objective(
        self,
        images: ImageSource,
        plan: Plan,
        *,
        targets: Targets,
        validation: Validation | None,
        teacher: nn.Module | torch.Tensor,
    ) -> ClassificationObjective:
        student = unwrap_frozen(self.student)
        known = is_fitted(student)
        if known:
            encoder, out_dim = copy.deepcopy(student.encoder_), student.projector_.in_dim
        else:
            encoder, out_dim = self._build_encoder(images)
        return ClassificationObjective(
            {"encoder": encoder, "classifier": make_classifier_head(out_dim, len(self.classes_))},
            self._views(images, encoder),
            targets,
            teacher=teacher,
            alpha=float(self.alpha),
            temperature=float(self.temperature),
            validation=validation,
            n_classes=len(self.classes_),
            given=("encoder",) if known else self._given("encoder"),
            initialize=not known,
        )


def _some(X: Any, rows: np.ndarray) -> Any:
    X, n = indexable(X)
    return X if len(rows) == n else take(X, rows)
