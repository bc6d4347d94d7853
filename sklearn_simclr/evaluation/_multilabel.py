"""Several labels per image, as in VOC 2007: a linear classifier of features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..training.logistic import LogisticPath
from .metrics import mean_average_precision_11point

__all__ = ["MultiLabelProbe"]

_MAX_ITER, _TOL = 1000, 1e-5

# The path only has to rank penalties; the chosen one is fitted again with a tolerance smaller by this factor.
_REFIT_TOL = 0.01


class MultiLabelProbe:
    """Separate logistic regressions of the labels, with one penalty for all, chosen on validation rows.

    Parameters
    ----------
    penalties : ndarray of shape (n_penalties,)
        Candidates, > 0, as of :class:`LinearEvaluationClassifier`.
    held : ndarray of int
        Validation rows.

    Attributes
    ----------
    penalty_ : float
        The largest of the penalties with the best mean average precision.
    validation_scores_ : ndarray of shape (n_penalties,)
        Mean average precision on the validation rows.
    """

    def __init__(self, penalties: ArrayLike, held: np.ndarray) -> None:
        self.penalties = np.asarray(penalties, dtype=np.float64)
        self.held = held

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Choose the penalty on the validation rows, and fit again on all."""
        features = torch.from_numpy(np.ascontiguousarray(X))
        training = np.ones(len(X))
        training[self.held] = 0
        order = np.argsort(-self.penalties, kind="stable")
        held_out = features[torch.from_numpy(self.held)].double()
        logits = np.empty((len(order), len(self.held), Y.shape[1]))
        for label in range(Y.shape[1]):
            for i, coef, intercept in self._follow(features, Y[:, label], training, order):
                logits[i, :, label] = held_out @ coef + intercept
        truth = Y[self.held]
        scores = np.array([mean_average_precision_11point(truth, each) for each in logits])
        if np.isnan(scores).any():
            raise ValueError(
                "None of the validation rows has a label, so no penalty can be chosen. Pass a larger share "
                "or other rows as validation."
            )
        self.validation_scores_ = scores
        self.penalty_ = float(self.penalties[scores >= scores.max() - 1e-12].max())
        parts = []
        for label in range(Y.shape[1]):
            at = np.flatnonzero(self.penalties == self.penalty_)[:1]
            ((_, *part),) = self._follow(features, Y[:, label], np.ones(len(X)), at, _REFIT_TOL)
            parts.append(part)
        self.coef_ = torch.stack([coef for coef, _ in parts]).numpy()
        self.intercept_ = np.array([float(intercept) for _, intercept in parts])
        return self

    def _follow(
        self, X: torch.Tensor, y: np.ndarray, weights: np.ndarray, order: np.ndarray, factor: float = 1.0
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield (place of the penalty, coefficients, intercept) for one label."""
        if len(np.unique(y[weights > 0])) < 2:
            # There is nothing to learn: every image has the label, or none.
            for i in order:
                yield i, torch.zeros(X.shape[1], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
            return
        codes, counted = torch.from_numpy(y.astype(np.int64)), torch.from_numpy(weights)
        path = LogisticPath(X, codes, counted, 2, standardize=False, max_iter=_MAX_ITER, tol=_TOL * factor)
        for i in order:
            # One vector w stands for two, -w / 2 and w / 2, whose squared norm is half as large.
            path.fit(2 * float(self.penalties[i]))
            coef, intercept = path.coefficients()
            yield i, coef[1] - coef[0], intercept[1] - intercept[0]

    def decision_function(self, X: np.ndarray) -> NDArray[np.float64]:
        """Return the logits (n, n_labels)."""
        return np.asarray(X, dtype=np.float64) @ self.coef_.T + self.intercept_
