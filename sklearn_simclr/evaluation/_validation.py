"""Choose the rows that a parameter is validated on: a stratified share, given rows, folds or a splitter."""

import hashlib
import numbers
from typing import Any

import numpy as np
from sklearn.model_selection import ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit, check_cv

__all__ = ["validation_rows", "validation_splits"]


def validation_splits(
    validation: Any, X: np.ndarray, codes: np.ndarray, weights: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs (weights of the training rows, validation rows).

    `validation` is that of `LinearEvaluationClassifier`; `codes` number the classes of the rows of positive
    weight from 0 on.
    """
    n, n_classes = len(X), int(codes.max()) + 1
    if validation is None:
        raise ValueError(
            "validation is None; pass a share of the rows such as 0.2, row indices or a splitter."
        )
    if isinstance(validation, numbers.Real) and not isinstance(validation, numbers.Integral):
        held_out = _draw_validation(X, codes, weights, float(validation), seed)
        pairs = [(np.setdiff1d(np.arange(n), held_out), held_out)]
    elif isinstance(validation, numbers.Integral):
        folds = StratifiedKFold(int(validation), shuffle=True, random_state=seed)
        kept = np.flatnonzero(weights > 0)
        pairs = [(kept[a], kept[b]) for a, b in folds.split(kept, codes[kept])]
    elif (named := _row_indices(validation, n)) is not None:
        pairs = [(np.setdiff1d(np.arange(n), named), named)]
    else:
        pairs = list(check_cv(validation, codes, classifier=True).split(X, codes))
    splits = []
    for training, held_out in pairs:
        training_weights = np.zeros(n)
        training_weights[training] = weights[training]
        held_out = np.asarray(held_out)
        held_out = np.arange(n)[held_out]
        held_out = held_out[weights[held_out] > 0]
        if not len(held_out):
            raise ValueError(
                f"validation={validation!r} leaves no validation row of positive weight among {n} "
                "samples. Pass a larger share, or more rows."
            )
        present = np.bincount(codes[training_weights > 0], minlength=n_classes) > 0
        if present.sum() < 2:
            raise ValueError(
                f"validation={validation!r} leaves {present.sum()} class for training. Pass a smaller "
                "share or other rows."
            )
        splits.append((training_weights, held_out))
    if not splits:
        raise ValueError(
            f"validation={validation!r} yields no split; pass a splitter that yields at least one."
        )
    return splits


def validation_rows(y: np.ndarray, validation: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows to validate on, without reading the images.

    `validation` is that of `transfer_evaluation`; `y` are numbers of classes, or a matrix of 0 and 1.
    """
    rows, n = np.arange(len(y)), len(y)
    if isinstance(validation, numbers.Real) and not isinstance(validation, numbers.Integral):
        n_held = round(float(validation) * n) if 0 < float(validation) < 1 else 0
        if not 0 < n_held < n - 1:
            raise ValueError(
                f"validation={validation} of {n} rows leaves too few rows to validate on, or to train on. "
                "Pass another share in (0, 1), or row indices."
            )
        splitter = ShuffleSplit
        if y.ndim == 1:
            counts = np.unique(y, return_counts=True)[1]
            if counts.min() >= 2 and min(n_held, n - n_held) >= len(counts):
                splitter = StratifiedShuffleSplit
        training, held = next(splitter(1, test_size=n_held, random_state=seed).split(rows, y))
        return np.sort(training), np.sort(held)
    held = _row_indices(validation, n)
    if held is None:
        raise ValueError(
            f"validation must be a share in (0, 1), or rows of X as ints or a mask, got {validation!r}."
        )
    if not 0 < len(held) < n - 1:
        raise ValueError(
            f"validation names {len(held)} of {n} rows; pass at least one row, and leave at least two to "
            "train on."
        )
    return np.setdiff1d(rows, held), held


def _row_indices(validation: Any, n: int) -> np.ndarray | None:
    """Return the row numbers of an array of indices or a mask; None if `validation` is neither."""
    if hasattr(validation, "split"):
        return None
    try:
        array = np.asarray(validation)
    except ValueError:
        return None
    if array.ndim != 1 or array.dtype.kind not in "biu":
        return None
    if array.dtype.kind == "b":
        if len(array) != n:
            raise ValueError(
                f"validation is a mask of {len(array)} entries for {n} rows; pass one entry per row."
            )
        return np.flatnonzero(array)
    outside = (array < 0) | (array >= n)
    if outside.any():
        raise ValueError(f"validation names row {array[np.argmax(outside)]}; X has rows 0 to {n - 1}.")
    return np.unique(array)


def _draw_validation(
    X: np.ndarray, codes: np.ndarray, weights: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """Draw about `share` of the weight of each class; at least one different row of each is left.

    If the share is too small for a row of any class, the row that comes closest to it is drawn.

    Rows are in the order of a keyed hash of their contents. Equal rows are neighbours in this order, so that
    a weight of two and a repeated row give the same result.
    """
    key = (seed % 2**64).to_bytes(8, "little")
    kept = np.flatnonzero(weights > 0)
    digests = np.array(
        [
            int.from_bytes(hashlib.blake2b(X[row].tobytes(), digest_size=8, key=key).digest(), "little")
            for row in kept
        ],
        dtype=np.uint64,
    )
    drawn, missed = [], []
    for code in np.unique(codes[kept]):
        members = codes[kept] == code
        _, group = np.unique(digests[members], return_inverse=True)
        sizes = np.bincount(group, weights=weights[kept][members])
        # A group is drawn if most of it lies below the share: rounding to the nearest for equal weights.
        below = np.cumsum(sizes) - sizes / 2 < share * sizes.sum()
        below[-1] = False
        drawn.append(kept[members][below[group]])
        if len(sizes) > 1:
            missed.append((sizes[0] / sizes.sum(), code, kept[members][group == 0]))
    rows = np.concatenate(drawn)
    if not len(rows) and missed:
        rows = min(missed, key=lambda entry: entry[:2])[2]
    return np.sort(rows)
