"""The accuracy of classifiers on rows that have a label, and a warning where scorers count the others."""

import sys
from types import FrameType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score

from .labels import labelled_rows
from .types import Images, Labels
from .warn import warn

__all__ = ["LabelledScoreMixin", "warn_if_scored"]

# Calls between a scorer of scikit-learn and predict, with a Pipeline and a search in between.
_MOST_CALLS = 40


class LabelledScoreMixin(ClassifierMixin):
    """A classifier whose `score` leaves out rows without a label."""

    classes_: NDArray

    def score(self, X: Images, y: Labels, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy on the rows that have a label.

        Parameters
        ----------
        X : array-like
            As for predict.
        y : array-like of shape (n,)
            True labels, with -1, None or NaN where there is none. Where ``classes_`` has -1, it is a class.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the rows.

        Returns
        -------
        float
            Share in [0, 1] of the labelled rows that are predicted right.
        """
        predicted = self.predict(X)  # first, since it says whether the classifier is fitted
        rows, labels, n = labelled_rows(y, known_classes=np.asarray(self.classes_))
        if n != len(predicted):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {[len(predicted), n]}. Pass "
                "one label per image, and -1 or None for images without a label."
            )
        if sample_weight is not None:
            weights = np.asarray(sample_weight)
            if weights.shape != (n,):
                raise ValueError(
                    f"sample_weight.shape == {weights.shape}, expected {(n,)}: pass one weight per row."
                )
            sample_weight = weights[rows]
        return float(accuracy_score(labels, predicted[rows], sample_weight=sample_weight))


def warn_if_scored(classes: ArrayLike) -> None:
    """Warn if a scorer of scikit-learn, which is to be found among the callers, scores unlabelled rows.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        Classes of the classifier whose predictions are scored.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_CALLS):
        if frame is None:
            return
        if frame.f_globals.get("__name__") == "sklearn.metrics._scorer" and "y_true" in frame.f_locals:
            break
        frame = frame.f_back
    else:
        return
    try:
        rows, _, n = labelled_rows(frame.f_locals["y_true"], known_classes=np.asarray(classes))
    except (TypeError, ValueError):
        return  # no class labels, or no labelled row: the scorer raises
    if len(rows) < n:
        warn(
            f"A scorer of scikit-learn counts {n - len(rows)} of {n} rows as wrong because they have no "
            "label. Pass cv=SemiSupervisedKFold(), which tests on labelled rows only, or leave scoring=None."
        )
