"""Find pixels that are no measurements, such as marks of missing data: they must not decide the range."""

import math

import numpy as np
from numpy.typing import NDArray

from .._utils.warn import warn
from .indexing import row_blocks
from .mapped import mapped_rows

__all__ = ["range_without_outliers"]

# Pixels that are looked at to find out what most are like.
_SAMPLE = 2**20

# At least so many images are among them.
_IMAGES = 256

# Up to this part of the pixels can be outliers, if the gap is this many times the range of the others.
_FEW = 0.05
_FAR = 3.0

# Gaps among the sorted pixels that are looked at together: outliers can lie on both sides.
_GAPS = 4

# Marks of missing data in GIS, in netCDF and in ESRI's float grids. Any part of the pixels can be such marks,
# if the gap is this many times the range of the others.
_MARKS = (
    *(-999.0, -9999.0, -99999.0, -999999.0, 9999.0, -32767.0, -32768.0, -(2.0**31), -1e20, 1e20, 1e36),
    *(-3.4e38, float(np.finfo(np.float32).min), float(np.finfo(np.float64).min), 9.969209968386869e36),
)
_MARKS_FAR = 0.5
_LARGE = 1e15


def range_without_outliers(
    X: NDArray, rows: NDArray[np.int64] | None, low: float, high: float
) -> tuple[float, float]:
    """Return the smallest and the largest of the pixels that are not far from all others.

    A warning says how many pixels are far from all others.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Images of finite numbers.
    rows : int64 ndarray of shape (m,) or None
        Rows of the images that count; None is all.
    low, high : float
        Their smallest and largest pixel.

    Returns
    -------
    (float, float)
        ``low`` and ``high`` if there are no outliers.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from sklearn_simclr.images.outliers import range_without_outliers
    >>> X = np.arange(400.0).reshape(4, 10, 10)
    >>> X[0, 0, 0] = -9999
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     range_without_outliers(X, None, -9999.0, 399.0)
    (1.0, 399.0)
    """
    fence = _fence(_sample(X, rows, low, high))
    if fence[0] <= low and high <= fence[1]:
        return low, high
    n_pixels, images = 0, 0
    inside_low, inside_high = math.inf, -math.inf
    n = len(X) if rows is None else len(rows)
    file = mapped_rows(X)
    for some in row_blocks(n, X[:1].nbytes):
        block = X[some] if rows is None else X[rows[some]]
        inside = (block >= fence[0]) & (block <= fence[1])
        inside_low = min(inside_low, float(block.min(where=inside, initial=_largest(block.dtype))))
        inside_high = max(inside_high, float(block.max(where=inside, initial=_smallest(block.dtype))))
        outside = np.count_nonzero(~inside.reshape(len(block), -1), axis=1)
        n_pixels, images = n_pixels + int(outside.sum()), images + int(np.count_nonzero(outside))
        if file is not None:
            file.seen(len(block), scattered=rows is not None)
    far = " and ".join(f"{end:g}" for end in (low, high) if not fence[0] <= end <= fence[1])
    warn(
        f"{n_pixels} pixels of X, in {images} of {n} images, are far from all others (such as {far}). The "
        f"pixel range is that of all others, ({inside_low:g}, {inside_high:g}), and the far pixels are "
        "clipped to it. If such pixels mark missing data, replace them or mask them with numpy.ma; if such "
        f"pixels are right, pass pixel_range=({low:g}, {high:g}).",
    )
    return inside_low, inside_high


def _largest(dtype: np.dtype) -> float | int:
    return np.inf if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _smallest(dtype: np.dtype) -> float | int:
    return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _sample(X: NDArray, rows: NDArray[np.int64] | None, low: float, high: float) -> NDArray[np.float64]:
    """Return some of the pixels, sorted, with the smallest and the largest."""
    n, size = len(X) if rows is None else len(rows), math.prod(X.shape[1:])
    n_images = min(n, max(_IMAGES, _SAMPLE // size))
    chosen = np.linspace(0, n - 1, n_images).astype(np.int64)
    chosen = chosen if rows is None else rows[chosen]
    n_places = min(size, max(1, _SAMPLE // n_images))
    if n_places == size:
        found = X[chosen].ravel()
    else:
        places = np.random.default_rng(0).choice(size, n_places, replace=False)
        index = np.unravel_index(np.sort(places), X.shape[1:])
        found = X[(chosen[:, None], *(axis[None] for axis in index))].ravel()
    return np.sort(np.concatenate([found.astype(np.float64), [low, high]]))


def _fence(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the limits beyond which sorted pixels are outliers; infinite where there are none."""
    limits = [-math.inf, math.inf]
    # A difference of the largest numbers would be infinite.
    values = values / 4
    few = _FEW * len(values)
    left_out = 0
    while len(values := _without_marks(values, limits)) > 2:
        gaps = np.diff(values)
        for k in range(1, min(_GAPS, len(gaps)) + 1):
            cuts = np.sort(np.argpartition(gaps, -k)[-k:]) + 1
            edges = np.concatenate([[0], cuts, [len(values)]])
            most = int(np.argmax(np.diff(edges)))
            first, last = int(edges[most]), int(edges[most + 1])
            span = values[last - 1] - values[first]
            far_below = first == 0 or values[first] - values[first - 1] > _FAR * span
            far_above = last == len(values) or values[last] - values[last - 1] > _FAR * span
            cut = len(values) - (last - first)
            if span > 0 and cut and left_out + cut <= few and far_below and far_above:
                break
        else:
            break
        if first > 0:
            limits[0] = 4 * (values[first] - _FAR * span)
        if last < len(values):
            limits[1] = 4 * (values[last - 1] + _FAR * span)
        left_out += cut
        values = values[first:last]
    return limits[0], limits[1]


def _without_marks(values: NDArray[np.float64], limits: list[float]) -> NDArray[np.float64]:
    """Return values without the marks of missing data at their ends, and set the limits."""
    while True:
        below, above = values > values[0], values < values[-1]
        for side, (end, rest) in enumerate(((values[0], values[below]), (values[-1], values[above]))):
            if len(rest) < 2 or not any(math.isclose(4 * end, mark, rel_tol=1e-6) for mark in _MARKS):
                continue
            span = rest[-1] - rest[0]
            gap = abs(end - (rest[0] if side == 0 else rest[-1]))
            # Measurements are far from the large marks; -9999 can be near to them.
            if span > 0 and gap >= (_MARKS_FAR if abs(end) < _LARGE else _FAR) * span:
                limits[side] = 4 * (end + (gap / 2 if side == 0 else -gap / 2))
                values = rest
                break
        else:
            return values
