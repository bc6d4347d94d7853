"""The parameters and targets of the transfer protocol, checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "PROTOCOLS",
    "check_grid",
    "check_metric",
    "check_n_steps",
    "check_protocols",
    "check_targets",
]

PROTOCOLS = ("linear", "fine_tuned", "random_init")
_METRICS = ("accuracy", "mean_per_class", "mean_average_precision")

# Pairs of a learning rate and a weight decay, which is yet to be divided by the rate (V1, appendix B.8).
_PAPER_GRIDS = {
    "fine_tuned": tuple(itertools.product(np.logspace(-4, -1, 7), (0.0, *np.logspace(-6, -3, 7)))),
    "random_init": tuple(itertools.product(np.logspace(-3, 0, 7), np.logspace(-5, -1.5, 8))),
}
# The rates among them that suit tens of epochs. Random weights need the paper's larger ones.
_SHORT_GRIDS = {
    "fine_tuned": tuple(itertools.product(np.logspace(-2, -1, 3), (0.0,))),
    "random_init": tuple(itertools.product(np.logspace(-1.5, -0.5, 3), (1e-5,))),
}


def check_protocols(protocols: str | Sequence[str]) -> tuple[str, ...]:
    """Return the protocols as a tuple."""
    protocols = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown or not protocols or len(set(protocols)) < len(protocols):
        raise ValueError(f"protocols must be some of {PROTOCOLS}, each once, got {protocols!r}.")
    return protocols


def check_metric(metric: str, n_dims: int) -> str:
    """Return the name of the metric, for targets of one or two dimensions."""
    if metric == "auto":
        return "accuracy" if n_dims == 1 else "mean_average_precision"
    if metric not in _METRICS:
        raise ValueError(f"metric must be 'auto' or one of {_METRICS}, got {metric!r}.")
    if (metric == "mean_average_precision") != (n_dims == 2):
        raise ValueError(
            f"metric={metric!r} does not go with y of {n_dims} dimensions: mean average precision needs a "
            "matrix of 0 and 1, the accuracies need one class per image. Pass metric='auto'."
        )
    return metric


def check_grid(grid: Any) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Return, by protocol, pairs of a learning rate and a weight decay."""
    if isinstance(grid, str):
        if grid not in ("short", "paper"):
            raise ValueError(f"grid must be 'short', 'paper' or pairs of numbers, got {grid!r}.")
        return _SHORT_GRIDS if grid == "short" else _PAPER_GRIDS
    try:
        pairs = [(float(rate), float(decay)) for rate, decay in grid]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or not all(0 < rate < math.inf and 0 <= decay < math.inf for rate, decay in pairs):
        raise ValueError(
            f"grid must be 'short', 'paper' or pairs (learning rate > 0, weight decay >= 0), got {grid!r}."
        )
    return dict.fromkeys(PROTOCOLS, pairs)


def check_n_steps(n_steps: Any) -> None:
    """Raise unless n_steps is "auto" or an int of at least 1."""
    is_int = isinstance(n_steps, Integral) and not isinstance(n_steps, bool)
    if n_steps != "auto" and not (is_int and n_steps >= 1):
        raise ValueError(f"n_steps must be 'auto' or an int of at least 1, got {n_steps!r}.")


def check_targets(
    y: ArrayLike, y_test: ArrayLike, n: int, n_test: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the class numbers of both sets and the classes; or matrices of 0 and 1 and column numbers."""
    y, y_test = np.asarray(y), np.asarray(y_test)
    for name, values, length in (("y", y, n), ("y_test", y_test, n_test)):
        if values.ndim not in (1, 2) or len(values) != length:
            raise ValueError(
                f"{name} has the shape {values.shape} for {length} images; pass one class per image, or one "
                "row of 0 and 1 per image."
            )
    if y.ndim != y_test.ndim or y.shape[1:] != y_test.shape[1:]:
        raise ValueError(
            f"y has the shape {y.shape} and y_test has the shape {y_test.shape}; pass the same kind of "
            "labels for both."
        )
    if y.ndim == 2:
        for name, values in (("y", y), ("y_test", y_test)):
            if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
                raise ValueError(f"{name} has two dimensions and must hold 0 and 1, one column per label.")
        return y.astype(np.int64), y_test.astype(np.int64), np.arange(y.shape[1])
    for name, values in (("y", y), ("y_test", y_test)):
        missing = np.array([value is None or value != value for value in values.tolist()])
        if missing.any():
            raise ValueError(
                f"{name}[{int(np.argmax(missing))}] has no label; pass labelled images only. Unlabelled "
                "images can train the encoder."
            )
    # Classes of the test set that training lacks are never predicted, but have a number.
    classes, codes = np.unique(np.concatenate([y, y_test]), return_inverse=True)
    if len(np.unique(codes[:n])) < 2:
        raise ValueError("y has a single class; pass images of at least two classes.")
    return codes[:n], codes[n:], classes
