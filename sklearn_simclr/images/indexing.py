"""Rows of whatever estimators accept as X: arrays, DataFrames, sparse matrices, tensors, lists."""

from collections.abc import Mapping, Set, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from .items import dataset_rows, is_dataset
from .tables import rows_of_column

__all__ = ["indexable", "length_mismatch", "row_blocks", "take", "take_columns", "take_if_aligned"]

# Bytes of the rows of an array that are looked at or copied at a time.
_BLOCK_BYTES = 16 << 20


def indexable(X: Any, name: str = "X") -> tuple[Any, int]:
    """Return `X` in a form that has a length, and that length."""
    if is_dataset(X) and hasattr(X, "shape"):
        X = dataset_rows(X)  # slices of Hugging Face's datasets are dicts of columns
    elif hasattr(X, "to_pandas") and not hasattr(X, "iloc"):
        X = rows_of_column(X)  # tables of Arrow take no rows by number
    if not hasattr(X, "shape") and not isinstance(X, Sized) and hasattr(X, "__array__"):
        X = np.asarray(X)
    # Shape before length: sparse containers have no length, and one of them is a dict.
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape):
        return X, shape[0]
    if shape is not None or not isinstance(X, Sized) or isinstance(X, (str, bytes, Mapping, Set)):
        raise TypeError(
            f"{name} must hold one entry per row, found {type(X).__name__}. Pass an array, a DataFrame or a "
            "list."
        )
    return X, len(X)


def take(X: Any, rows: NDArray[np.integer]) -> Any:
    """Return rows of what scikit-learn estimators accept; a sequence without a shape gives a list."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    if issparse(X):
        return X.tocsr()[rows]
    if hasattr(X, "shape"):
        return X[rows]
    return [X[row] for row in rows.tolist()]


def take_columns(X: Any, columns: NDArray[np.integer]) -> Any:
    """Return columns of a kernel or distance matrix: an array, a DataFrame or a sparse matrix."""
    if hasattr(X, "iloc"):
        return X.iloc[:, columns]
    return (X.tocsr() if issparse(X) else np.asarray(X))[:, columns]


def length_mismatch(n: int, n_y: int) -> str:
    """Return the message for X of n rows and y of n_y."""
    return f"X has {n} rows and y has {n_y}; pass one label per row, and -1 or None for unknown labels."


def take_if_aligned(value: Any, rows: NDArray[np.integer], n: int) -> Any:
    """Return `rows` of a fit parameter that has one entry per sample (n); any other parameter as it is."""
    try:
        with_length, length = indexable(value)
    except TypeError:
        return value
    return take(with_length, rows) if length == n else value


def row_blocks(n: int, n_bytes: int) -> list[slice]:
    """Return slices that cut n rows into blocks of at most 16 MiB, and of at least one row.

    Parameters
    ----------
    n : int
        Rows there are.
    n_bytes : int
        Bytes of a row.

    Returns
    -------
    list of slice
        In ascending order.
    """
    step = max(1, _BLOCK_BYTES // max(1, n_bytes))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
