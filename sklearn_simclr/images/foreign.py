"""Read the numbers of other libraries' and users' objects, with errors that name the row and what to pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .._utils.warn import shortened

__all__ = ["array_of_tensor", "naming_errors", "without_long_doubles"]

# What is raised on purpose, by this package or by those that it calls, says what is wrong.
_CLEAR = (ImportError, MemoryError, OSError, TypeError, ValueError, Warning)

_BEYOND = "Replace numbers beyond the range of float64 (1.8e308), or leave that image out."


def without_long_doubles(array: NDArray, row: int | None = None) -> NDArray:
    """Return an array with float64 in place of long doubles; any other as it came.

    Parameters
    ----------
    array : ndarray
        An array of any dtype.
    row : int or None, default=None
        Row of X that the array is; None if its rows are the rows of X.

    Returns
    -------
    ndarray
        An array of the same shape.

    Raises
    ------
    ValueError
        If a finite number is beyond the range of float64.
    """
    if array.dtype.type is not np.longdouble:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float64)
    beyond = np.ma.filled(np.isfinite(array) & ~np.isfinite(narrow), False)
    if beyond.any():
        if row is None:
            row = int(np.argwhere(np.atleast_1d(beyond))[0][0])
        raise ValueError(f"Row {row} of X has a number of {array.dtype} that float64 cannot hold. {_BEYOND}")
    return narrow


def array_of_tensor(tensor: Tensor) -> NDArray:
    """Return a tensor as an array, without a copy on a CPU.

    Parameters
    ----------
    tensor : torch.Tensor
        A tensor of any device, layout and dtype.

    Returns
    -------
    ndarray
        Numbers that NumPy lacks, such as bfloat16, become float32.

    Raises
    ------
    TypeError
        If the tensor has no numbers or no shape.
    """
    if tensor.is_nested:
        raise TypeError("A nested tensor has no shape. Pass the list of its images, X.unbind().")
    if tensor.is_meta:
        raise TypeError("A tensor on the device 'meta' has no numbers. Pass a tensor on the CPU or on a GPU.")
    if tensor.is_quantized:
        raise TypeError(f"A tensor of {tensor.dtype} holds codes, not numbers. Pass X.dequantize().")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        return tensor.numpy()
    except TypeError:
        if not tensor.is_floating_point():
            raise
        return tensor.float().numpy()


@contextlib.contextmanager
def naming_errors(X: Any) -> Iterator[None]:
    """Turn errors that users' objects raise while they are read into a ValueError.

    Parameters
    ----------
    X : object
        What is read in the block.

    Raises
    ------
    ValueError
        In place of errors of other kinds; it names the row, if X is a list or an array of objects, and says
        what to pass.
    """
    try:
        yield
    except _CLEAR:
        raise
    except Exception as error:
        row, cause = _row_that_fails(X)
        cause = error if row is None else cause
        if isinstance(cause, OverflowError):
            advice = _BEYOND
        else:
            advice = "Pass an array, or a list or dataset whose length and rows can be read."
        raise ValueError(
            f"{'X' if row is None else f'Row {row} of X'} ({type(X).__name__}) cannot be read: "
            f"{type(cause).__name__}: {shortened(str(cause)).rstrip('.')}. {advice}"
        ) from error


def _row_that_fails(X: Any) -> tuple[int | None, Exception | None]:
    """Return the first row of which no array of numbers can be made, and the error; None if there is none."""
    if isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim):
        for i, row in enumerate(X):
            try:
                np.asarray(row, dtype=np.float64)
            except _CLEAR:
                continue
            except Exception as error:
                return i, error
    return None, None
