"""Fit the linear classifier on features from which a fine-tuning starts."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .logistic import LogisticPath

__all__ = ["LinearStart", "linear_start"]

# Candidates of the penalty, on standardised features.
_PENALTIES = np.logspace(4, -1, 11)

# Folds on which the penalty is chosen. With many rows one fold is enough.
_FOLDS = 5
_MANY_ROWS = 1000

# The least that a feature is divided by, as a part of the root mean square spread of all. A feature that
# hardly varies over a few labelled images may vary far more over their views and over other images: divided
# by its own spread, it would outweigh all others there.
_LEAST_SCALE = 0.03

_MAX_ITER = 300
_TOL = 1e-4


class LinearStart(NamedTuple):
    """A linear classifier on features as they are.

    Parameters
    ----------
    weight : tensor of shape (n_classes, d)
        float32; zero for classes without a row.
    bias : tensor of shape (n_classes,)
        float32.
    penalty : float
        The one that was chosen.
    """

    weight: Tensor
    bias: Tensor
    penalty: float


def linear_start(
    features: NDArray[np.float32],
    codes: NDArray[np.int64],
    weights: NDArray[np.float32],
    n_classes: int,
    seed: int,
) -> LinearStart:
    """Fit logistic regression on standardised features, its penalty chosen by cross-validation.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Features of the labelled rows.
    codes : ndarray of shape (n,)
        Their classes, 0 to n_classes - 1.
    weights : ndarray of shape (n,)
        Weights of the rows, > 0.
    n_classes : int
        At least 1; those that have no row are never predicted.
    seed : int
        Seed of the folds.

    Returns
    -------
    LinearStart
        For features as they are: the standardisation is a part of the weights.
    """
    known, numbers = np.unique(codes, return_inverse=True)
    X, y = torch.from_numpy(features), torch.from_numpy(numbers)
    s = torch.from_numpy(weights).double()
    weight, bias = X.new_zeros(n_classes, X.shape[1]), X.new_zeros(n_classes)
    if len(known) == 1:
        return LinearStart(weight, bias, float(_PENALTIES[0]))
    folds = _folds(numbers, seed)
    hits, losses = (np.zeros(len(_PENALTIES)) for _ in range(2))
    for fold in range(1 if len(X) >= _MANY_ROWS else _FOLDS):
        held = torch.from_numpy(np.flatnonzero(folds == fold))
        kept = s.clone()
        kept[held] = 0
        present = torch.bincount(y[kept > 0], minlength=len(known)) > 0
        if len(held) == 0 or present.sum() < 2:
            continue
        held = held[present[y[held]]]
        renumbered = (present.cumsum(0) - 1).clamp(min=0)
        path = _path(X, renumbered[y], kept, int(present.sum()))
        for k, penalty in enumerate(_PENALTIES):
            path.fit(penalty)
            coef, intercept = path.coefficients()
            logits, truth = X[held].double() @ coef.T + intercept, renumbered[y[held]]
            hits[k] += float(s[held] @ (logits.argmax(1) == truth).double())
            losses[k] += float(s[held] @ F.cross_entropy(logits, truth, reduction="none"))
    # Several penalties often get all of a few rows right: of these, the one with the smallest loss is taken.
    best = hits >= hits.max() - 1e-9
    chosen = int(np.flatnonzero(best)[np.argmin(losses[best])])
    path = _path(X, y, s, len(known))
    for penalty in _PENALTIES[: chosen + 1]:
        path.fit(penalty)
    coef, intercept = path.coefficients()
    rows = torch.from_numpy(known)
    weight[rows], bias[rows] = coef.float(), intercept.float()
    missing = np.setdiff1d(np.arange(n_classes), known)
    if len(missing):
        # A missing class counts as rarer than one row in ten times as many.
        bias[torch.from_numpy(missing)] = float(intercept.min()) - np.log(10.0 * len(X))
    return LinearStart(weight, bias, float(_PENALTIES[chosen]))


def _path(X: Tensor, codes: Tensor, weights: Tensor, n_classes: int) -> LogisticPath:
    return LogisticPath(
        X,
        codes,
        weights,
        n_classes,
        standardize=True,
        max_iter=_MAX_ITER,
        tol=_TOL,
        least_scale=_LEAST_SCALE,
    )


def _folds(codes: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each row: the rows of a class are shared out evenly."""
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    folds = np.empty(len(codes), dtype=np.int64)
    folds[order] = np.arange(len(codes)) % _FOLDS
    return folds
