"""The 11-point average precision of PASCAL VOC 2007, which scikit-learn lacks."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["average_precision_11point", "mean_average_precision_11point"]


def average_precision_11point(
    y_true: ArrayLike, y_score: ArrayLike, *, difficult: ArrayLike | None = None
) -> float:
    """Return the 11-point interpolated average precision of PASCAL VOC 2007.

    Rows are ranked by score. The result is the mean, over the recalls 0, 0.1, ..., 1, of the largest
    precision at any rank that has at least that recall.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Whether the class is present: booleans, or 0 and 1.
    y_score : array-like of shape (n_samples,)
        Scores, the larger the more likely; finite.
    difficult : array-like of shape (n_samples,), default=None
        Booleans: rows to leave out, as VOC does with images in which all objects of the class are difficult.

    Returns
    -------
    average_precision : float
        In [0, 1]; NaN if no row is positive.

    Raises
    ------
    ValueError
        If the shapes differ, a score is not finite, or `y_true` or `difficult` is not binary.

    See Also
    --------
    mean_average_precision_11point : The mean over classes.
    sklearn.metrics.average_precision_score : The area under the curve, without interpolation.

    Notes
    -----
    Rows with equal scores are ranked in the order in which they are given, as by the official code. Recalls
    are compared as fractions of whole numbers: 3 of 10 positives have a recall of at least 0.3, which
    floating point arithmetic may deny.

    References
    ----------
    M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The PASCAL Visual Object Classes
    (VOC) Challenge", IJCV 88, 2010, section 4.2. :doi:`10.1007/s11263-009-0275-4`

    Examples
    --------
    >>> from sklearn_simclr.evaluation import average_precision_11point
    >>> average_precision_11point([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6])  # (6 * 1 + 5 * 2/3) / 11
    0.8485
    """
    return _average_precision(*_checked(y_true, y_score, difficult, "(n_samples,)"))


@overload
def mean_average_precision_11point(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    difficult: ArrayLike | None = None,
    average: Literal["macro"] = "macro",
) -> float: ...


@overload
def mean_average_precision_11point(
    y_true: ArrayLike, y_score: ArrayLike, *, difficult: ArrayLike | None = None, average: None
) -> NDArray[np.float64]: ...


def mean_average_precision_11point(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    difficult: ArrayLike | None = None,
    average: Literal["macro"] | None = "macro",
) -> float | NDArray[np.float64]:
    """Return the 11-point average precision of each class of a multi-label problem, or their mean.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        Whether each class is present: booleans, or 0 and 1.
    y_score : array-like of shape (n_samples, n_classes)
        Scores, the larger the more likely; finite.
    difficult : array-like of shape (n_samples, n_classes), default=None
        Booleans: rows to leave out for a class.
    average : {"macro", None}, default="macro"
        "macro" for the mean over classes, None for each class.

    Returns
    -------
    float or ndarray of shape (n_classes,)
        In [0, 1]. A class without a positive row is NaN and does not enter the mean; where there is no other
        the mean is NaN.

    Raises
    ------
    ValueError
        If the shapes differ, a score is not finite, or `y_true` or `difficult` is not binary.

    See Also
    --------
    average_precision_11point : One class.

    References
    ----------
    M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The PASCAL Visual Object Classes
    (VOC) Challenge", IJCV 88, 2010, section 4.2. :doi:`10.1007/s11263-009-0275-4`

    Examples
    --------
    >>> from sklearn_simclr.evaluation import mean_average_precision_11point
    >>> y_true = [[1, 0], [0, 1], [1, 1]]
    >>> y_score = [[0.9, 0.1], [0.2, 0.6], [0.8, 0.7]]
    >>> mean_average_precision_11point(y_true, y_score)
    1.0
    """
    if average not in ("macro", None):
        raise ValueError(f"average is {average!r}; pass 'macro' or None.")
    columns = (array.T for array in _checked(y_true, y_score, difficult, "(n_samples, n_classes)"))
    each = np.array([_average_precision(*column) for column in zip(*columns, strict=True)])
    if average is None:
        return each
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else float("nan")


def _average_precision(positive: np.ndarray, score: np.ndarray, kept: np.ndarray) -> float:
    positive, score = positive[kept], score[kept]
    n_positive = int(positive.sum())
    if not n_positive:
        return float("nan")
    hits = np.cumsum(positive[np.argsort(-score, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # The first rank at which 10 * hits >= tenths * n_positive.
    ranks = np.searchsorted(10 * hits, np.arange(11) * n_positive)
    return float(best_from_here[ranks].mean())


def _checked(
    y_true: ArrayLike, y_score: ArrayLike, difficult: ArrayLike | None, shape: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows are positive, their scores, and which rows count, in arrays of one shape."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    difficult = np.zeros(y_true.shape, dtype=bool) if difficult is None else np.asarray(difficult)
    if y_true.ndim != shape.count("n_") or not y_true.size:
        raise ValueError(f"y_true has shape {y_true.shape}; pass {shape}, at least one row.")
    for name, value in (("y_score", y_score), ("difficult", difficult)):
        if value.shape != y_true.shape:
            raise ValueError(
                f"{name} has shape {value.shape} and y_true has {y_true.shape}; pass equal shapes."
            )
    for name, value in (("y_true", y_true), ("difficult", difficult)):
        if value.dtype.kind not in "biuf" or not np.isin(value, (0, 1)).all():
            raise ValueError(f"{name} must hold booleans, or 0 and 1; found {value.flat[:5].tolist()}, ...")
    if y_score.dtype.kind not in "biuf":
        raise ValueError(f"y_score has dtype {y_score.dtype}; pass numbers.")
    bad = np.argwhere(~np.isfinite(y_score))
    if len(bad):
        at = tuple(bad[0].tolist())
        raise ValueError(f"y_score[{', '.join(map(str, at))}] is {y_score[at]}; pass finite numbers.")
    return y_true.astype(bool), y_score.astype(np.float64), ~difficult.astype(bool)
