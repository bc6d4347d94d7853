"""Find rows of memory-mapped files: ask for the next ones early, and let go of those that were read."""

import mmap
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["MappedRows", "mapped_rows"]

# Bytes of a map that may be in the memory of the process. They belong to the cache of the system, which can
# take them back. Yet they count as memory of the process, which can be ended where its memory is limited.
_HELD = 512 << 20

# A page that is touched brings its neighbours along.
_AROUND = 64 << 10

_ASKS = hasattr(mmap, "MADV_WILLNEED") and hasattr(mmap.mmap, "madvise")
_DROPS = hasattr(mmap, "MADV_DONTNEED") and hasattr(mmap.mmap, "madvise")


class MappedRows:
    """Find the rows of a memory-mapped array in its file.

    Parameters
    ----------
    file : mmap.mmap
        The map.
    first : int
        Position of the first row in the map.
    n_bytes : int
        Bytes of a row.
    n_rows : int
        Number of rows.
    only_read : bool
        Whether the map has no pages of its own, which would be lost.

    Attributes
    ----------
    asks : bool
        Whether the system reads ahead on request.
    """

    asks = _ASKS

    def __init__(self, file: mmap.mmap, first: int, n_bytes: int, n_rows: int, only_read: bool) -> None:
        self._file, self._first, self._n_bytes = file, first, n_bytes
        self._size = n_rows * n_bytes
        self._drops = _DROPS and only_read and self._size > _HELD
        self._held = 0

    def ask(self, rows: Iterable[int]) -> None:
        """Have rows read from the disk while something else is done.

        Parameters
        ----------
        rows : iterable of int
            Their positions.
        """
        if not self.asks:
            return
        for row in rows:
            start = self._first + row * self._n_bytes
            page = start - start % mmap.PAGESIZE
            self._file.madvise(mmap.MADV_WILLNEED, page, start + self._n_bytes - page)

    def seen(self, n_rows: int, *, scattered: bool = False) -> None:
        """Count rows that were read; now and then, let go of all pages of the map.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        scattered : bool, default=False
            Whether they were in different places.
        """
        if not self._drops:
            return
        self._held += n_rows * (self._n_bytes + (_AROUND if scattered else 0))
        if self._held > _HELD:
            self._held = 0
            page = self._first - self._first % mmap.PAGESIZE
            self._file.madvise(mmap.MADV_DONTNEED, page, self._first + self._size - page)


def mapped_rows(array: NDArray) -> MappedRows | None:
    """Return where the rows of an array are in a file, None for an array that is in memory.

    Parameters
    ----------
    array : ndarray of shape (n, ...)
        As numpy.memmap gives it, or a view of such an array.

    Returns
    -------
    MappedRows or None
        Found by its memory. The type tells nothing: a copy of a part of a memory map has the same type.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_simclr.images.mapped import mapped_rows
    >>> with tempfile.TemporaryFile() as file:
    ...     X = np.memmap(file, dtype=np.uint8, shape=(10, 8, 8))
    ...     mapped_rows(X) is None, mapped_rows(X[2:]) is None, mapped_rows(X[2:].copy()) is None
    (False, False, True)
    """
    whole: object = array
    mode = None
    while isinstance(whole, np.ndarray):
        mode = getattr(whole, "mode", mode)
        whole = whole.base
    if not isinstance(whole, mmap.mmap) or array.size == 0:
        return None
    n_bytes = array.nbytes // len(array)
    if array.strides[0] != n_bytes and len(array) > 1:
        return None  # not one row after the other
    start = np.frombuffer(whole, dtype=np.uint8).ctypes.data
    first = array.ctypes.data - start
    # Copy-on-write: pages that were written to exist nowhere else.
    return MappedRows(whole, first, n_bytes, len(array), mode in ("r", "r+", "w+"))
