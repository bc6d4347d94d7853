"""Make the masked pixels of masked arrays black."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_arrays
from .foreign import without_long_doubles

__all__ = ["without_masks"]


def without_masks(X: Any, black: float | None = None) -> Any:
    """Return masked arrays as plain ones, in which the masked pixels are black; anything else as it came.

    Parameters
    ----------
    X : object
        An array, or a list, Series or the like of arrays.
    black : float or None, default=None
        The value of a black pixel. None is 0 for unsigned integers and for pixels in [0, 1], else the
        smallest pixel that is not masked.

    Returns
    -------
    object
        An array, a list of arrays, or X.

    Raises
    ------
    ValueError
        If all pixels of an image are masked.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images.masks import without_masks
    >>> X = np.ma.masked_equal([[[3.0, -9999.0], [4.0, 5.0]]], -9999)
    >>> without_masks(X).tolist()
    [[[3.0, 3.0], [4.0, 5.0]]]
    """
    whole = isinstance(X, np.ma.MaskedArray) and X.dtype.kind in "biuf"
    X = without_long_doubles(X) if whole else X
    rows = [X] if whole else as_arrays(X)
    if rows is None or not any(isinstance(row, np.ma.MaskedArray) for row in rows):
        return X
    images = X if whole else rows
    empty = [i for i, image in enumerate(images) if np.ma.getmaskarray(image).all()]
    if empty and len(images):
        more = f" and {len(empty) - 1} others" if len(empty) > 1 else ""
        raise ValueError(f"All pixels of row {empty[0]} of X{more} are masked. Leave these images out of X.")
    if black is None:
        black = _black(rows)
    filled = [_fill(row, black) if isinstance(row, np.ma.MaskedArray) else row for row in rows]
    return filled[0] if whole else filled


def _black(rows: list[NDArray]) -> float:
    if all(row.dtype.kind in "ub" for row in rows):
        return 0.0
    low, high = min(float(row.min()) for row in rows), max(float(row.max()) for row in rows)
    return 0.0 if low >= 0 and high <= 1 else low


def _fill(row: np.ma.MaskedArray, black: float) -> NDArray:
    if row.dtype.kind in "iu":
        limits = np.iinfo(row.dtype)
        black = min(max(int(np.ceil(black)), limits.min), limits.max)
    return row.filled(black)
