"""Store decoded images in memory, in a temporary file, or in a folder for next time."""

import contextlib
import math
import os
import re
import sqlite3
import stat
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Self, TypeAlias, overload

import numpy as np
from joblib import cpu_count
from numpy.typing import DTypeLike, NDArray

from .._utils.lock import Lock
from .._utils.places import local_folder
from .._utils.types import PathLike
from .indexing import row_blocks
from .mapped import mapped_rows

__all__ = ["FileRows", "FolderStore", "MemoryRows", "Place", "StoredKind", "memory_limit", "scratch_rows"]

# Name of the dtype, height, width and channels of a stored image.
StoredKind: TypeAlias = tuple[str, int, int, int]

# The kind of a stored image, and its row among those of this kind.
Place: TypeAlias = tuple[StoredKind, int]

# Images that take more than this part of the machine's memory are kept in a file.
_MEMORY_PART = 0.25

# Assumed where the size of the memory is unknown.
_USUAL_MEMORY = 8 << 30

_BYTES_A_COMMIT = 256 << 20

# SQLite allows at least 999 keys in a query.
_KEYS_A_QUERY = 500

# The name of a kind in the index. This class writes no other names.
_KIND = re.compile("(uint8|uint16|int16|float32)-([1-9][0-9]{0,6})x([1-9][0-9]{0,6})x([1-9][0-9]{0,6})")

_COLUMNS = ("key", "kind", "row", "checksum")


class MemoryRows:
    """Images of one shape in memory, to which more can be added.

    Parameters
    ----------
    shape : tuple of int
        Shape of one image.
    dtype : dtype
        Type of the numbers.
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
        Shape of one image.
    dtype : dtype
        Type of the numbers.
    """

    def __init__(self, file: FileIO, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._file, self._shape, self._dtype = file, tuple(shape), np.dtype(dtype)
        self._bytes_a_row = math.prod(shape) * self._dtype.itemsize
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
                f"{error.strerror or error}. The images take more than a quarter of memory: pass cache_dir=, "
                "or set TMPDIR to a folder with more space",
            ) from error


def scratch_rows(shape: tuple[int, ...], dtype: DTypeLike, capacity: int) -> MemoryRows | FileRows:
    """Return rows in memory, or, if they are many, in a temporary file that is removed with the last use.

    Parameters
    ----------
    shape : tuple of int
        Shape of one image.
    dtype : dtype
        Type of the numbers.
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
    # A memory map of the file stays valid after the file is closed.
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

    An index (SQLite) says in which row of which file of pixels an image is, and what the checksum of its
    pixels is. An image is in the index only when its pixels are written, so that an interruption leaves
    nothing half done. Where the index and the pixels disagree, such as after a copy of only some files, an
    image counts as not stored.

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
        self.folder = local_folder(folder, "cache_dir")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            with self._clear_errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(Lock(self.folder / "images.lock", "adds images to this folder"))
                self._index = stack.enter_context(contextlib.closing(self._open_index()))
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

    def _open_index(self) -> sqlite3.Connection:
        path = self.folder / "images.sqlite"
        for ending in ("", "-journal", "-wal", "-shm"):
            name = f"{path.name}{ending}"
            with contextlib.suppress(FileNotFoundError):
                # A link might lead to a file of somebody else; for a pipe, SQLite would wait.
                if not stat.S_ISREG(os.lstat(self.folder / name).st_mode):
                    raise OSError(f"{name} is a link or not a regular file")
        index = sqlite3.connect(path)
        # Bytes that are no text are neither a key nor a kind: they are ignored, and raise no error.
        index.text_factory = lambda data: data.decode(errors="replace")
        columns = tuple(row[1] for row in index.execute("PRAGMA table_info(images)"))
        if columns and columns != _COLUMNS:  # of an earlier version, without checksums
            index.execute("DROP TABLE images")
        index.execute(
            "CREATE TABLE IF NOT EXISTS images "
            "(key TEXT PRIMARY KEY, kind TEXT, row INTEGER, checksum INTEGER) WITHOUT ROWID"
        )
        return index

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"cache_dir={str(self.folder)!r} cannot be written to ({reason}). Pass another folder, on a "
                "disk with free space; images that were stored before are kept."
            ) from error
        # Messages of SQLite quote what is in the index, which may not be text.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise ValueError(
                f"The index of cache_dir={str(self.folder)!r} is damaged ({error}). Remove the folder, "
                "or pass another one."
            ) from error

    def _commit(self) -> None:
        """Add new images to the index after their pixels are on the disk."""
        if self._not_safe:
            for rows in self._rows.values():
                rows.sync()
            self._index.commit()
            self._not_safe = 0

    def find(self, keys: Iterable[str]) -> dict[str, Place]:
        """Return where the images of some keys are stored.

        Parameters
        ----------
        keys : iterable of str
            Keys of images.

        Returns
        -------
        dict
            {key: (kind, row)} of the images that are here; a kind is (name of the dtype, H, W, C).
        """
        wanted: dict[StoredKind, list[tuple[int, int, str]]] = {}
        keys = iter(keys)
        with self._clear_errors():
            while some := list(islice(keys, _KEYS_A_QUERY)):
                marks = ",".join("?" * len(some))
                query = f"SELECT key, kind, row, checksum FROM images WHERE key IN ({marks})"
                for key, name, row, checksum in self._index.execute(query, some):
                    kind = _kind(name)
                    if kind is not None and type(row) is type(checksum) is int:
                        wanted.setdefault(kind, []).append((row, checksum, key))
            return {key: (kind, row) for kind, rows in wanted.items() for key, row in self._whole(kind, rows)}

    def _whole(self, kind: StoredKind, wanted: list[tuple[int, int, str]]) -> Iterator[tuple[str, int]]:
        """Yield (key, row) of each (row, checksum, key) whose pixels are there and have the checksum."""
        rows = self._open(kind, make=False)
        if rows is None:
            return
        there = sorted(entry for entry in wanted if 0 <= entry[0] < len(rows))
        pixels = rows.array()
        file = mapped_rows(pixels)

        def checksums(some: slice) -> list[int]:
            return [_checksum(pixels[row]) for row, _, _ in there[some]]

        blocks = row_blocks(len(there), pixels[:1].nbytes)
        with ThreadPoolExecutor(cpu_count()) as pool:
            for some, found in zip(blocks, pool.map(checksums, blocks), strict=True):
                for (row, checksum, key), actual in zip(there[some], found, strict=True):
                    if actual == checksum:
                        yield key, row
                if file is not None:
                    file.seen(len(found))

    def add(self, keys: list[str], images: NDArray) -> dict[str, Place]:
        """Store images.

        Parameters
        ----------
        keys : list of str
            One per image; a key that is known already stands for the new image from now on.
        images : ndarray of shape (k, H, W, C)
            uint8, uint16, int16 or float32.

        Returns
        -------
        dict
            As from `find`.
        """
        kind = (images.dtype.name, *images.shape[1:])
        with self._clear_errors():
            rows = self._open(kind)
            first, name = rows.append(images), _name(kind)
            self._index.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)",
                [(key, name, first + k, _checksum(images[k])) for k, key in enumerate(keys)],
            )
            self._not_safe += images.nbytes
            if self._not_safe > _BYTES_A_COMMIT:
                self._commit()
        return {key: (kind, first + k) for k, key in enumerate(keys)}

    def also(self, names: dict[str, str]) -> None:
        """Let images be found by further keys.

        Parameters
        ----------
        names : dict
            {further key: key of an image that is stored}.
        """
        with self._clear_errors():
            self._index.executemany(
                "INSERT OR REPLACE INTO images SELECT ?, kind, row, checksum FROM images WHERE key = ?",
                list(names.items()),
            )
            self._not_safe += len(names)

    def array(self, kind: StoredKind) -> NDArray:
        """Return all images of a kind as a read-only memory map of shape (n, H, W, C)."""
        rows = self._open(kind)
        return rows.array()

    @overload
    def _open(self, kind: StoredKind) -> FileRows: ...
    @overload
    def _open(self, kind: StoredKind, make: bool) -> FileRows | None: ...
    def _open(self, kind: StoredKind, make: bool = True) -> FileRows | None:
        if kind not in self._rows:
            path = self.folder / f"{_name(kind)}.pixels"
            flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
            try:
                handle = os.open(path, flags | (os.O_CREAT if make else 0), 0o666)
            except FileNotFoundError:
                if make:
                    raise
                return None
            file = self._files.enter_context(os.fdopen(handle, "r+b", buffering=0))
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{path.name} is not a regular file")
            self._rows[kind] = FileRows(file, kind[1:], kind[0])
        return self._rows[kind]


def _checksum(image: NDArray) -> int:
    return zlib.crc32(np.ascontiguousarray(image).data)


def _name(kind: StoredKind) -> str:
    return "{}-{}x{}x{}".format(*kind)


def _kind(name: object) -> StoredKind | None:
    """Return the kind of a name in the index, None if the name is not that of a kind."""
    match = _KIND.fullmatch(name) if isinstance(name, str) else None
    return None if match is None else (match[1], int(match[2]), int(match[3]), int(match[4]))
