"""Base of the image classifiers: labels and weights, training with them, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._utils.labels import labelled_rows
from .._utils.scoring import LabelledScoreMixin, warn_if_scored
from .._utils.sklearn_private import Interval, StrOptions
from .._utils.types import Images, Labels
from .._utils.warn import warn
from ..encoders.mirror import MirroredNetwork
from ..images.source import ImageSource
from ..training.classification import ClassificationObjective, Targets, Validation
from ..views.augmentation import Augmentation
from .base import BaseImageTransformer
from .trained_base import TrainedImageEstimator

__all__ = ["TrainedImageClassifier", "is_fitted", "make_classifier_head", "unwrap_frozen"]

# "auto" epochs: so many passes, but at least so many steps, since few labels fill few batches.
_EPOCHS, _STEPS = 60, 300

# Rows that a message lists.
_LISTED = 10


class TrainedImageClassifier(LabelledScoreMixin, TrainedImageEstimator, BaseImageTransformer):
    """Base of the classifiers that are trained on images; rows without a label do not count.

    The last of the modules maps features to logits. Subclasses have the parameters ``early_stopping``,
    ``validation_fraction``, ``n_iter_no_change`` and perhaps ``class_weight`` beside those of their base.
    """

    _objective: type[ClassificationObjective] = ClassificationObjective

    _classification_constraints = {
        **TrainedImageEstimator._training_constraints,
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    }

    def _resolve_epochs(self, n_images: int) -> int:
        if self.max_epochs != "auto":
            return self.max_epochs
        return max(_EPOCHS, -(-_STEPS // max(1, n_images // self.batch_size)))

    def _read_labels(
        self, y: Labels, sample_weight: ArrayLike | None, source: ImageSource
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set ``classes_``; return a class number for every row, -1 for none, and its weight.

        The label of an image that could not be read counts as none.
        """
        rows, labels, n = labelled_rows(y)
        readable = ~np.isin(rows, source.bad)
        if not readable.any():
            raise ValueError(
                f"None of the {len(rows)} labelled images can be read (n_samples={n}). Repair these files, "
                "or label images that can be read."
            )
        self.classes_, codes = np.unique(labels[readable], return_inverse=True)
        _warn_of_lost_classes(rows[~readable], labels[~readable], self.classes_)
        rows, labels = rows[readable], labels[readable]
        numbers = np.full(n, -1, dtype=np.int64)
        numbers[rows] = codes
        weights = np.zeros(n, dtype=np.float32)
        weights[rows] = 1.0
        if sample_weight is not None:
            weights *= _check_weights(sample_weight, n)
        if getattr(self, "class_weight", None) is not None:
            by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
            weights[rows] *= by_class[codes].astype(np.float32)
        if sample_weight is not None and not weights.any():
            raise ValueError("The sample_weight of every labelled row is zero; pass some positive weights.")
        if (weights > 0).sum() < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 labelled images with a positive weight, found "
                f"{int((weights > 0).sum())} (n_samples={n}"
                + (f", of which {len(source.bad)} cannot be read" if len(source.bad) else "")
                + "). Label more images."
            )
        return numbers, weights

    def _split_validation(
        self, rows: np.ndarray, numbers: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and the rows to stop by; classes keep their shares if possible."""
        if not self.early_stopping:
            return rows, rows[:0]
        counts = np.bincount(numbers[rows], minlength=len(self.classes_))
        n_held = round(self.validation_fraction * len(rows))
        if not 0 < n_held < len(rows) - 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {len(rows)} labelled rows is {n_held}, "
                "but at least 1 row is needed to stop by, and 2 to train on. Pass another fraction, or "
                "early_stopping=False."
            )
        if counts.min() >= 2 and n_held >= len(counts) and len(rows) - n_held >= len(counts):
            split = StratifiedShuffleSplit(1, test_size=n_held, random_state=seed)
            train, held = next(split.split(rows, numbers[rows]))
        else:
            train, held = train_test_split(np.arange(len(rows)), test_size=n_held, random_state=seed)
        return rows[np.sort(train)], rows[np.sort(held)]

    def _labelled(self, numbers: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> Targets:
        """Return the labels and weights of some rows as an objective takes them."""
        return Targets(torch.from_numpy(numbers[rows]), torch.from_numpy(weights[rows]))

    def _held_out(self, images: ImageSource, targets: Targets) -> Validation | None:
        """Return the images and labels by which early stopping decides; None without early stopping."""
        return Validation(images, targets, self.n_iter_no_change) if self.early_stopping else None

    def _network(self) -> tuple[nn.Module, ...]:
        """Return the modules that images go through, to logits."""
        return self.encoder_, self.classifier_

    def _served(self) -> tuple[nn.Module, ...]:
        """Return the modules for predictions: those of `_network`, perhaps for mirror images as well."""
        encoder, *rest = self._network()
        return (MirroredNetwork(encoder) if getattr(self, "mirror_", False) else encoder, *rest)

    def _default_augmentation(self) -> Augmentation:
        return Augmentation(jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)

    def _logits(self, X: Images) -> NDArray[np.float32]:
        check_is_fitted(self, "classes_")
        warn_if_scored(self.classes_)
        source = self._read_images(X, reset=False)
        return self._infer(through, self._served(), source)

    def transform(self, X: Images) -> NDArray[np.float32]:
        """Return the features that the linear classifier gets.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, d)
            float32; a row does not depend on the rows around it.
        """
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False)
        return self._infer(through, self._served()[:-1], source)

    @property
    def _n_features_out(self) -> int:
        return self.classifier_.in_features

    def predict_proba(self, X: Images) -> NDArray[np.float64]:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Rows sum to 1; columns as in ``classes_``. With ``on_error="nan"``, rows of NaN for images that
            cannot be read.
        """
        logits = self._logits(X).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def decision_function(self, X: Images) -> NDArray[np.float32]:
        """Return the logits of the classes.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, n_classes), or (n,) for two classes
            For two classes the logit of the second against the first. With ``on_error="nan"``, NaN for
            images that cannot be read.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Images) -> NDArray[Any]:
        """Return the most probable class of each image.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n,)
            Classes, of the type of the labels in y.

        Raises
        ------
        ValueError
            If X cannot be used, or has images that cannot be read. This holds for ``on_error="nan"``, too:
            no class stands for such images.
        """
        logits = self._logits(X)
        bad = np.flatnonzero(np.isnan(logits).all(axis=1))
        if len(bad):
            more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
            grey = self._reading_setting.format("on_error='grey'")
            raise ValueError(
                f"{len(bad)} of {len(logits)} images cannot be read, so that their class cannot be "
                f"predicted: rows {bad[:_LISTED].tolist()}{more}. Leave these rows out, or pass {grey} to "
                "predict grey images in their place; predict_proba returns NaN for these rows."
            )
        return self.classes_[logits.argmax(axis=1)]


def through(modules: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
    """Apply modules to images, one after the other."""
    for module in modules:
        images = module(images)
    return images


def make_classifier_head(in_dim: int, n_classes: int) -> nn.Linear:
    """Return a linear layer that starts with all classes equally likely.

    Parameters
    ----------
    in_dim : int
        Width of its input.
    n_classes : int
        Width of its output.

    Returns
    -------
    nn.Linear
        With weights of zero (as Google's commands for fine-tuning do), drawn from no generator.
    """
    head = nn.utils.skip_init(nn.Linear, in_dim, n_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def unwrap_frozen(estimator: Any) -> Any:
    """Return what a FrozenEstimator holds, and any other estimator as it is."""
    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator


def is_fitted(estimator: BaseEstimator | None) -> bool:
    """Return whether there is an estimator and it is fitted."""
    if estimator is None:
        return False
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _warn_of_lost_classes(rows: NDArray, labels: NDArray, known: NDArray) -> None:
    """Warn of classes without a readable image, given rows and labels of the images that cannot be read."""
    learnt = set(known.tolist())
    lost = [label for label in np.unique(labels).tolist() if label not in learnt]
    if lost:
        named = []
        for label in lost[:_LISTED]:
            at = rows[labels == label]
            named.append(f"{label!r} (row {at[0]}" + (f" and {len(at) - 1} others)" if len(at) > 1 else ")"))
        more = f" and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
        classes = "this class" if len(lost) == 1 else "these classes"
        warn(
            f"None of the labelled images of {', '.join(named)}{more} can be read: the classifier will not "
            f"know {classes}. Repair these files, or add other images of {classes}."
        )


def _check_weights(sample_weight: ArrayLike, n: int) -> np.ndarray:
    weights = np.asarray(sample_weight, dtype=np.float32)
    if weights.ndim == 0:
        weights = np.full(n, weights, dtype=np.float32)
    if weights.shape != (n,):
        raise ValueError(
            f"sample_weight.shape == {weights.shape}, expected {(n,)}: pass one weight per image."
        )
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"sample_weight[{row}] is {weights[row]}; pass finite numbers >= 0.")
    return weights
