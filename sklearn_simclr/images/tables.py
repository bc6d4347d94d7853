"""The rows of a column: of Series and tables of one column of pandas, polars and Arrow."""

import numbers
from typing import Any

import numpy as np

__all__ = ["rows_of_column"]


def rows_of_column(X: Any) -> Any:
    """Return the rows of a column of paths, images or lists as an object array; anything else as it came.

    Parameters
    ----------
    X : object
        A Series, or a table of one column; or anything.

    Returns
    -------
    object
        An object array of shape (n,), in which nested lists of numbers are arrays; an array of numbers for
        a column of numbers or of arrays of one shape; X itself if it is no column.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_simclr.images.tables import rows_of_column
    >>> rows_of_column(pd.DataFrame({"path": ["a.png", "b.png"]}))
    array(['a.png', 'b.png'], dtype=object)
    """
    library = type(X).__module__.partition(".")[0]
    if library == "pyarrow" and hasattr(X, "to_pandas"):
        X = _of_arrow(X)
    elif library == "polars":
        X = _of_polars(X)
    if hasattr(X, "iloc"):
        column = X
        if getattr(X, "ndim", 0) == 2 and X.shape[1] == 1:
            column = X.iloc[:, 0]
        if getattr(column, "ndim", 0) != 1 or _is_numeric(column.dtype):
            return X
        X = column.to_numpy(dtype=object)
    elif library == "pandas" and getattr(X, "ndim", 0) == 1 and not _is_numeric(X.dtype):
        X = X.to_numpy(dtype=object)  # the values of a column, or an index
    elif isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    if not isinstance(X, np.ndarray) or X.ndim != 1 or X.dtype != object:
        return X
    rows = np.empty(len(X), dtype=object)
    rows[:] = [_array_of(row) for row in X]
    return rows


def _of_arrow(X: Any) -> Any:
    if getattr(X, "num_columns", 0) == 1:
        X = X.column(0)
    if hasattr(X, "combine_chunks"):
        X = X.combine_chunks()
    # pandas would lay each tensor out flat.
    return X.to_numpy_ndarray() if hasattr(X, "to_numpy_ndarray") else X.to_pandas()


def _of_polars(X: Any) -> Any:
    if hasattr(X, "collect") and not hasattr(X, "to_numpy"):
        raise TypeError("X is a LazyFrame of polars, which holds no rows yet. Pass X.collect().")
    if hasattr(X, "to_series"):
        if X.width != 1:
            return X
        X = X.to_series(0)
    if X.dtype.is_numeric():
        return X.to_numpy()
    rows = np.empty(len(X), dtype=object)
    rows[:] = X.to_list()
    return rows


def _is_numeric(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "biuf"


def _array_of(row: Any) -> Any:
    """Return nested lists of numbers, and arrays of such, as an array of numbers; anything else as it is."""
    if isinstance(row, np.ndarray) and row.dtype == object and row.ndim:
        row = row.tolist()
        row = [part.tolist() if isinstance(part, np.ndarray) else part for part in row]
    first = row
    while isinstance(first, list | np.ndarray) and len(first):
        first = first[0]
    if not isinstance(row, list) or not isinstance(first, numbers.Real):
        return row
    try:
        array = np.array([_plain(part) for part in row])
    except ValueError:
        return row
    return array if array.dtype.kind in "biuf" else row


def _plain(part: Any) -> Any:
    """Return arrays within arrays as lists."""
    if isinstance(part, np.ndarray):
        part = part.tolist()
    return [_plain(inner) for inner in part] if isinstance(part, list) else part
