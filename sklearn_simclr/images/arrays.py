"""Make one array of numbers of X, and refuse what holds no images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._utils.warn import shortened
from .foreign import array_of_tensor, without_long_doubles
from .indexing import row_blocks
from .mapped import mapped_rows
from .tables import rows_of_column

__all__ = ["array_like", "as_array", "as_arrays", "as_tensor", "checked_numbers"]

# An object without any of these attributes is neither an array nor a table nor a list.
_OF_ARRAYS = ("__array__", "__array_interface__", "__getitem__", "__len__", "shape")


def as_array(X: Any) -> Any:
    """Return X as a numpy array where it is one in all but name; anything else as it came.

    Parameters
    ----------
    X : object
        Torch tensors become arrays (without a copy on a CPU); a list, object array, Series or
        one-column DataFrame of equally shaped arrays is stacked.

    Returns
    -------
    object
        An array, or X.

    Raises
    ------
    ValueError
        If the images of a list have different shapes; the message names the first odd row.

    See Also
    --------
    image_source : The other direction.
    sklearn_simclr.load_images : Pixels of files, as an array.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images import as_array
    >>> as_array([np.zeros((8, 8)), np.ones((8, 8))]).shape
    (2, 8, 8)
    """
    if isinstance(X, torch.Tensor):
        return array_of_tensor(X)
    rows = as_arrays(X)
    if rows is None:
        return X
    for i, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise ValueError(
                f"Images of mixed sizes: row 0 of X has shape {rows[0].shape}, row {i} has {row.shape}. "
                "Pass image_size='auto' or a size to have all resized, or arrays of one size."
            )
    whole = _whole_of(rows)
    if whole is not None:
        return whole
    masked = any(isinstance(row, np.ma.MaskedArray) for row in rows)
    return np.ma.stack(rows) if masked else np.stack(rows)


def _whole_of(rows: list[NDArray]) -> NDArray | None:
    """Return the array of which these arrays are all rows, in their order, or None if there is none."""
    whole = rows[0].base
    if not isinstance(whole, np.ndarray) or whole.shape != (len(rows), *rows[0].shape):
        return None
    # Strides are compared, too: a row may be mirrored or transposed.
    places = ((row.base is whole, row.__array_interface__["data"][0], row.strides) for row in rows)
    known = ((True, part.__array_interface__["data"][0], part.strides) for part in whole)
    alike = rows[0].dtype == whole.dtype and all(a == b for a, b in zip(places, known, strict=True))
    return whole if alike else None


def as_arrays(X: Any) -> list[NDArray] | None:
    """Return the arrays of a list, object array, Series or one-column DataFrame of arrays.

    Parameters
    ----------
    X : object
        Anything.

    Returns
    -------
    list of ndarray or None
        None for anything else.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images.arrays import as_arrays
    >>> [image.shape for image in as_arrays([np.zeros((8, 8)), np.ones((9, 8))])]
    [(8, 8), (9, 8)]
    """
    rows = rows_of_column(X)
    is_sequence = isinstance(rows, list | tuple) or (
        isinstance(rows, np.ndarray) and rows.dtype == object and rows.ndim == 1
    )
    if not is_sequence or len(rows) == 0:
        return None
    if not all(
        isinstance(row, np.ndarray | torch.Tensor) or hasattr(row, "__array_interface__") for row in rows
    ):
        return None
    rows = [array_of_tensor(row) if isinstance(row, torch.Tensor) else np.asanyarray(row) for row in rows]
    if rows[0].ndim < 1:
        return None
    return [without_long_doubles(row, i) for i, row in enumerate(rows)]


def as_tensor(array: NDArray) -> Tensor:
    """Share the memory of an array, whatever its byte order, strides or flags."""
    array = without_long_doubles(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in (np.uint32, np.uint64):
        array = array.astype(np.float64)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # Read-only arrays (memory maps, joblib's) are only read here.
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        return torch.from_numpy(array)


def array_like(X: Any, one: tuple[int, ...] | None = None) -> Any:
    """Return X as an array or a table that scikit-learn can check.

    Parameters
    ----------
    X : object
        Anything.
    one : tuple of int or None, default=None
        Shape of a single image, which is refused with advice; None where it is not known.

    Returns
    -------
    object
        An array, a table, or something else with a shape.

    Raises
    ------
    TypeError
        If X holds no images.
    ValueError
        If X holds strings, is a single image, has no axis of images, or its rows differ in shape.
    """
    X = as_array(rows_of_column(X))
    if isinstance(X, type) or not any(hasattr(X, name) for name in _OF_ARRAYS):
        raise TypeError(
            f"X is {shortened(repr(X))}, of type {type(X).__name__}, which holds no images. Pass an "
            "array of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W), or a list of images."
        )
    if isinstance(X, np.ndarray) and X.dtype.kind == "V":
        raise ValueError(
            f"X must hold real numbers, got dtype {X.dtype}. Pass its fields as channels: "
            "numpy.lib.recfunctions.structured_to_unstructured(X)."
        )
    shape = getattr(X, "shape", ())
    if hasattr(X, "iloc") and 0 in shape:
        raise ValueError(
            f"X is a table of shape {shape}: it has no images (n_samples=0) or no pixels. Pass a table with "
            "one row per image and one column per pixel."
        )
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = X.tolist()
    if isinstance(X, list | tuple):
        X = _nested_lists(X)
    if not hasattr(X, "ndim") and (hasattr(X, "__array__") or hasattr(X, "__array_interface__")):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) < 2 and not _is_text(X):
        raise ValueError(_no_batch(np.asarray(X)))
    if one is not None and getattr(X, "shape", None) == one:
        raise ValueError(f"X has the shape of one image, {one}. Pass X[None].")
    if _is_text(X):
        raise ValueError(
            "X holds strings, bytes or dicts in several columns. Pass one column of paths, or an array of "
            "numbers of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)."
        )
    return _plain_dtype(X)


def checked_numbers(array: NDArray) -> NDArray:
    """Return an array of finite real numbers.

    Parameters
    ----------
    array : ndarray of shape (n, ...)
        Images.

    Returns
    -------
    ndarray of shape (n, ...)
        The same, with long doubles as float64.

    Raises
    ------
    ValueError
        If the dtype is not one of real numbers, or rows hold NaN or infinity.
    """
    if array.dtype.kind not in "fiub":
        raise ValueError(f"X must hold real numbers, got dtype {array.dtype}. Pass ints, floats or bools.")
    array = without_long_doubles(array)
    if array.dtype.kind != "f":
        return array
    bad: list[int] = []
    file = mapped_rows(array)
    for block in row_blocks(len(array), array[:1].nbytes):
        rows = array[block]
        finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
        if file is not None:
            file.seen(len(rows))
        if not finite.all():
            bad.extend(block.start + np.flatnonzero(~finite))
    if bad:
        kind = "NaN" if np.isnan(array[bad[0]]).any() else "infinity"
        more = f" and {len(bad) - 1} other rows" if len(bad) > 1 else ""
        raise ValueError(
            f"Input X contains {kind}: row {bad[0]}{more}. Leave these images out, or replace the values."
        )
    return array


def _nested_lists(X: Sequence[Any]) -> np.ndarray:
    try:
        return np.asarray(X)
    except ValueError as error:
        shapes = [np.shape(row) if _has_shape(row) else None for row in X]
        for i, shape in enumerate(shapes):
            if shape is None and isinstance(X[i], tuple):
                kinds = ", ".join(type(part).__name__ for part in X[i][:5])
                raise TypeError(
                    f"Row {i} of X is a tuple of {kinds}. Pass a list of images, or of tuples that begin "
                    "with the image."
                ) from error
            if shape == ():
                raise ValueError(
                    f"Row {i} of X is {X[i]!r:.60}, not an image. Leave it out of X, or put an image there."
                ) from error
        odd = next((i for i, shape in enumerate(shapes) if shape is None or shape != shapes[0]), 0)
        raise ValueError(
            f"Images of mixed sizes: row {odd} of X differs in shape from row 0. "
            "Resize or crop the images to one size, and stack them into one array."
        ) from error


def _has_shape(row: Any) -> bool:
    try:
        np.shape(row)
    except ValueError:
        return False
    return True


def _no_batch(X: np.ndarray) -> str:
    """Return the message about an array of fewer than two axes."""
    if X.size == 0:
        return "X has no images (n_samples=0). Check the code that collects the images."
    if X.dtype.hasobject and X.ndim:
        return (
            f"X is a list of objects such as {shortened(repr(X[0]))}, of type {type(X[0]).__name__}, which "
            "are not images. Pass arrays, Pillow images, paths, or the bytes of files (file.read())."
        )
    return (
        f"X is a {X.ndim}D array of {X.size} numbers, without an axis of images. If X is one image as a row "
        "of pixels, pass X[None]. Otherwise pass an array of shape (n, d), (n, H, W), (n, H, W, C) or "
        "(n, C, H, W), or a list of images. Reshape your data."
    )


def _is_text(X: Any) -> bool:
    if hasattr(X, "iloc"):
        kinds = (str, bytes, dict, PathLike)
        return any(isinstance(value, kinds) for value in np.asarray(X.iloc[:1], dtype=object).flat)
    if not isinstance(X, np.ndarray):
        return isinstance(X, str | bytes)
    if X.dtype.kind == "O":
        return X.size > 0 and isinstance(X.flat[0], str | bytes)
    return X.dtype.kind in "US"


def _plain_dtype(X: Any) -> Any:
    """Return a table of pandas' nullable numbers with numpy's dtype, which tells the range of the pixels."""
    dtypes = set(getattr(X, "dtypes", ()))
    kind = getattr(next(iter(dtypes)), "numpy_dtype", None) if len(dtypes) == 1 else None
    if not isinstance(kind, np.dtype) or kind.kind not in "iufb" or X.isna().to_numpy().any():
        return X
    return X.astype(kind)
