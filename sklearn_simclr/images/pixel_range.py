"""The range of the pixels: which values are black and white, and whether later images have the same."""

import math

import numpy as np
from numpy.typing import NDArray

from .._utils.types import PixelRange
from .._utils.warn import warn
from .indexing import row_blocks
from .mapped import mapped_rows
from .outliers import range_without_outliers

__all__ = ["find_pixel_range", "warn_about_range"]

# If pixels fill less than this part of a given range, the range belongs to other data.
_LITTLE_CONTRAST = 0.01

# The same for images that come after fit, such as images that were divided by 16.
_OTHER_SCALE = 0.1

# The distance of neighbouring floats must not be a larger part of the range.
_EXACT = 1 / 1024


def find_pixel_range(
    X: NDArray, rows: NDArray[np.int64] | None, pixel_range: PixelRange
) -> tuple[float, float]:
    """Return the values that are mapped to 0 and 1.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Images of finite numbers.
    rows : int64 ndarray of shape (m,) or None
        Rows of the images that count; None is all.
    pixel_range : "auto" or (float, float)
        The parameter of the estimator.

    Returns
    -------
    (float, float)
        The smaller value first. A warning says if the pixels do not suit the range.

    Raises
    ------
    ValueError
        If all pixels have one value, or ``pixel_range`` is no range.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images.pixel_range import find_pixel_range
    >>> find_pixel_range(np.array([[-1.0, 0.5], [0.0, 1.0]]), None, "auto")
    (-1.0, 1.0)
    """
    whole = _whole_range(X.dtype)
    # Bytes need not be looked at to the end, once they fill some of their range.
    enough = _OTHER_SCALE * (whole[1] - whole[0]) if whole and isinstance(pixel_range, str) else math.inf
    low, high = _extremes(X, rows, enough=enough)
    _check_precision(X.dtype, low, high)
    if low == high:
        raise ValueError(
            f"X is constant: every pixel is {low:g}. There is nothing to learn from; check how X was loaded."
        )
    if not isinstance(pixel_range, str):
        try:
            first, second = (float(v) for v in pixel_range)
        except (TypeError, ValueError):
            first = second = math.nan
        if not (math.isfinite(first) and math.isfinite(second) and first < second):
            raise ValueError(
                f"pixel_range must be 'auto' or finite (low, high) with low < high, got {pixel_range!r}."
            )
        warn_about_range(X, rows, (first, second), (low, high))
        return first, second
    if whole is not None:
        if high - low < enough:
            warn(
                f"X has pixels from {low:g} to {high:g}, but {X.dtype} is read as (0, {whole[1]:g}): "
                "the images have hardly any contrast. Pass "
                f"pixel_range=({low:g}, {high:g}) if these values are black and white."
            )
        return whole
    if low < 0 or high > 1:
        low, high = range_without_outliers(X, rows, low, high)
        _check_precision(X.dtype, low, high)
    if low < 0 or high > 1:
        return low, high
    if high - low < _OTHER_SCALE:
        warn(
            f"X has pixels from {low:g} to {high:g}, but numbers in [0, 1] are read as (0, 1): the images "
            f"have hardly any contrast. Pass pixel_range=({low:g}, {high:g}) if these values are black and "
            "white."
        )
    return 0.0, 1.0


def _check_precision(dtype: np.dtype, low: float, high: float) -> None:
    """Refuse whole numbers that are too large for their differences: floats have 53 bits."""
    largest = max(abs(low), abs(high))
    if dtype.kind in "iu" and largest > 2**53 and np.spacing(largest) > _EXACT * (high - low):
        raise ValueError(
            f"X has whole numbers from {low:.0f} to {high:.0f}, which floating-point numbers cannot tell "
            "apart well enough. Pass X - X.min()."
        )


def _whole_range(dtype: np.dtype) -> tuple[float, float] | None:
    """Return the range of a dtype that images use from end to end, None for any other."""
    if dtype == np.bool_:
        return 0.0, 1.0
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return 0.0, float(np.iinfo(dtype).max)
    return None


def _extremes(
    X: NDArray, rows: NDArray[np.int64] | None = None, *, enough: float = math.inf
) -> tuple[float, float]:
    """Return the smallest and the largest pixel, or the first two found whose distance is `enough`."""
    low, high = math.inf, -math.inf
    n = len(X) if rows is None else len(rows)
    file = mapped_rows(X)
    for some in row_blocks(n, X[:1].nbytes):
        block = X[some] if rows is None else X[rows[some]]
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        if file is not None:
            file.seen(len(block), scattered=rows is not None)
        if high - low >= enough:
            break
    return low, high


def warn_about_range(
    X: NDArray,
    rows: NDArray[np.int64] | None,
    pixel_range: tuple[float, float],
    found: tuple[float, float] | None = None,
) -> None:
    """Warn of pixels outside of a range, or that fill next to nothing of it.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Images.
    rows : int64 ndarray of shape (m,) or None
        Rows of the images that count; None is all.
    pixel_range : (float, float)
        What they are read with.
    found : (float, float) or None, default=None
        Their smallest and largest pixel in fit; None is to look for them.

    See Also
    --------
    image_format : Decides the pixel range.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from sklearn_simclr.images import warn_about_range
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_about_range(np.full((1, 8, 8), 2.0), None, (0.0, 1.0))
    >>> len(caught)
    1
    """
    low, high = pixel_range
    whole = _whole_range(X.dtype)
    if found is None and whole is not None and low <= whole[0] and whole[1] <= high:
        return
    found_low, found_high = _extremes(X, rows) if found is None else found
    if found_low < low or found_high > high:
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, outside of the pixel range "
            f"({low:g}, {high:g}); they are clipped to this range. To use another range, fit with "
            "pixel_range=(low, high).",
        )
    elif found is not None and found_high - found_low < _LITTLE_CONTRAST * (high - low):
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, but pixel_range is ({low:g}, {high:g}): "
            "the images have next to no contrast. Pass a range that the pixels fill.",
        )
    elif X.dtype.kind == "f" and high >= 255 and found_high <= 1 and low >= 0:
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, but the pixel range is ({low:g}, {high:g}): "
            "the images are almost black. Scale X as it was scaled in fit.",
        )
    elif (
        found is None
        and len(X) > 1
        and (low, high) != (0.0, 1.0)
        and (found_high - found_low < _OTHER_SCALE * (high - low))
    ):
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, but the pixel range is ({low:g}, {high:g}): "
            "the images have hardly any contrast. Scale X as it was scaled in fit.",
        )
