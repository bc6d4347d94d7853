"""Where decoded images live: in memory, in a temporary file, or in a folder for next time."""

import contextlib
import os
import re
import sqlite3
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._utils.lock import Lock
from .._utils.types import PathLike

__all__ = ["FileRows", "FolderStore", "MemoryRows", "Place", "StoredKind", "memory_limit", "scratch_rows"]

# Name of the dtype, height, width and channels of a stored image.
StoredKind: TypeAlias = tuple[str, int, int, int]

# The kind of a stored image, and its row among those of this kind.
Place: TypeAlias = tuple[StoredKind, int]

# What is larger than this part of the memory of the machine is kept in a file.
_MEMORY_PART = 0.25

# Where the size of the memory is unknown.
_USUAL_MEMORY = 8 << 30

_BYTES_A_COMMIT = 256 << 20

# SQLite takes 999 at least.
_KEYS_A_QUERY = 500


class MemoryRows:
    """Images of one shape in memory, to which more can be added.

    Parameters
    ----------
    shape : tuple of int
        Of one image.
    dtype : dtype
        Of its numbers.
    capacity : int
        Most images there will be; memory that is not written to is not used.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, capacity: int) -> None:
        self._rows = np.empty((capacity, *shape), dtype=dtype)
        self._n = 0

    def append(self, images: NDArray) -> int:
        """Add images (k, *shape); return the position of the first."""
        first, self._n = self._n, self._n + len(images)
        self._rows[first : self._n] = images
        return first

    def array(self) -> NDArray:
        """Return all images, without a copy."""
        return self._rows[: self._n]


class FileRows:
    """Images of one shape, one after the other in a file; read through a memory map.

    Parameters
    ----------
    file : binary file
        Open for reading and writing, unbuffered; may hold rows already.
    shape : tuple of int
        Of one image.
    dtype : dtype
        Of its numbers.
    """

    def __init__(self, file: FileIO, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._file, self._shape, self._dtype = file, tuple(shape), np.dtype(dtype)
        self._bytes_a_row = int(np.prod(shape)) * self._dtype.itemsize
        # A row that was cut off by a crash is written over.
        self._n = os.fstat(file.fileno()).st_size // self._bytes_a_row

    def __len__(self) -> int:
        """Return the number of images."""
        return self._n

    def append(self, images: NDArray) -> int:
        """Add images (k, *shape); return the position of the first."""
        # Written, not mapped: pages of a map that were written to count as memory of the process.
        data = np.ascontiguousarray(images, dtype=self._dtype).data.cast("B")
        self._file.seek(self._n * self._bytes_a_row)
        while data:
            data = data[self._file.write(data) :]
        first, self._n = self._n, self._n + len(images)
        return first

    def sync(self) -> None:
        """Wait until all images are on the disk."""
        os.fsync(self._file.fileno())

    def array(self) -> NDArray:
        """Return all images as a read-only memory map."""
        if self._n == 0:
            return np.empty((0, *self._shape), dtype=self._dtype)
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=(self._n, *self._shape))


class _ScratchFileRows(FileRows):
    """Rows in a temporary file."""

    def append(self, images: NDArray) -> int:
        try:
            return super().append(images)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Decoded images cannot be written to a temporary file in {tempfile.gettempdir()!r}: "
                f"{error.strerror or error}. More than a quarter of memory: pass cache_dir=, or set TMPDIR "
                "to a folder with more space",
            ) from error


def scratch_rows(shape: tuple[int, ...], dtype: DTypeLike, capacity: int) -> MemoryRows | FileRows:
    """Return rows in memory, or, if they are many, in a temporary file that is removed with the last use.

    Parameters
    ----------
    shape : tuple of int
        Of one image.
    dtype : dtype
        Of its numbers.
    capacity : int
        Most images there will be.

    Returns
    -------
    MemoryRows or FileRows
        Empty.
    """
    if capacity * int(np.prod(shape)) * np.dtype(dtype).itemsize <= memory_limit():
        return MemoryRows(shape, dtype, capacity)
    file = tempfile.TemporaryFile(buffering=0, prefix="sklearn_simclr-")  # noqa: SIM115 (closed with the rows)
    rows = _ScratchFileRows(file, shape, dtype)
    # A memory map of it goes on without the file being open.
    weakref.finalize(rows, file.close)
    return rows


def memory_limit() -> int:
    """Return the bytes that images may take in memory: a quarter of what the machine or its container has."""
    sizes = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return int(_MEMORY_PART * min((size for size in sizes if size > 0), default=_USUAL_MEMORY))


class FolderStore:
    """Decoded images in a folder, found by a key; processes and threads take turns to add to it.

    An index (SQLite) says in which row of which file of pixels an image is; an image is in the index only
    when its pixels are written, so that an interruption leaves nothing half done.

    Parameters
    ----------
    folder : str or os.PathLike
        Made if it is not there.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_simclr.images.store import FolderStore
    >>> with tempfile.TemporaryDirectory() as folder, FolderStore(folder) as store:
    ...     _ = store.add(["a", "b"], np.zeros((2, 8, 8, 3), dtype=np.uint8))
    ...     sorted(store.find(["b", "c"]).items())
    [('b', (('uint8', 8, 8, 3), 1))]
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            with self._clear_errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(Lock(self.folder / "images.lock", "adds images to it"))
                self._index = stack.enter_context(
                    contextlib.closing(sqlite3.connect(self.folder / "images.sqlite"))
                )
                self._index.execute(
                    "CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, kind TEXT, row INTEGER) "
                    "WITHOUT ROWID"
                )
            self._files = stack.enter_context(contextlib.ExitStack())
            self._rows: dict[StoredKind, FileRows] = {}
            self._not_safe = 0
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            with self._clear_errors():
                self._commit()
        finally:
            self._rows = {}
            self._stack.close()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"cache_dir={str(self.folder)!r} cannot be written to ({reason}). Pass another folder, on a "
                "disk with free space; what was stored before is kept."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"The index of cache_dir={str(self.folder)!r} is damaged ({error}). Remove the folder, "
                "or pass another."
            ) from error

    def _commit(self) -> None:
        """Let the index know of what was added, after that is on the disk."""
        if self._not_safe:
            for rows in self._rows.values():
                rows.sync()
            self._index.commit()
            self._not_safe = 0

    def find(self, keys: Iterable[str]) -> dict[str, Place]:
        """Return what is known of some keys.

        Parameters
        ----------
        keys : iterable of str
            Of images.

        Returns
        -------
        dict
            {key: (kind, row)} of those that are here; a kind is (name of the dtype, H, W, C).
        """
        found: dict[str, Place] = {}
        kinds: dict[str, StoredKind] = {}
        keys = iter(keys)
        while some := list(islice(keys, _KEYS_A_QUERY)):
            marks = ",".join("?" * len(some))
            query = f"SELECT key, kind, row FROM images WHERE key IN ({marks})"
            for key, name, row in self._index.execute(query, some):
                kind = kinds.setdefault(name, _kind(name))
                # Pixels can be missing where a folder was copied in part.
                if row < len(self._open(kind)):
                    found[key] = (kind, row)
        return found

    def add(self, keys: list[str], images: NDArray) -> dict[str, Place]:
        """Store images.

        Parameters
        ----------
        keys : list of str
            One an image; one that is known already stands for the new image from now on.
        images : ndarray of shape (k, H, W, C)
            uint8 or uint16.

        Returns
        -------
        dict
            As of `find`.
        """
        kind = (images.dtype.name, *images.shape[1:])
        with self._clear_errors():
            first = self._open(kind).append(images)
            name = _name(kind)
            self._index.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?)",
                [(key, name, first + k) for k, key in enumerate(keys)],
            )
            self._not_safe += images.nbytes
            if self._not_safe > _BYTES_A_COMMIT:
                self._commit()
        return {key: (kind, first + k) for k, key in enumerate(keys)}

    def array(self, kind: StoredKind) -> NDArray:
        """Return all images of a kind as a read-only memory map of shape (n, H, W, C)."""
        return self._open(kind).array()

    def _open(self, kind: StoredKind) -> FileRows:
        if kind not in self._rows:
            path = self.folder / f"{_name(kind)}.pixels"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            file = self._files.enter_context(os.fdopen(handle, "r+b", buffering=0))
            self._rows[kind] = FileRows(file, kind[1:], kind[0])
        return self._rows[kind]


def _name(kind: StoredKind) -> str:
    return "{}-{}x{}x{}".format(*kind)


def _kind(name: str) -> StoredKind:
    dtype, height, width, channels = re.split("[-x]", name)
    return dtype, int(height), int(width), int(channels)
