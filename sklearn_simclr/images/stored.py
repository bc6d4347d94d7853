"""Find the images of X that a folder keeps decoded, and add others to it."""

import hashlib
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from .._version import __version__
from .decode import convert, truncated_are_read
from .files import READ_AT_ONCE, RecentFile
from .indexing import row_blocks
from .items import reference
from .sizes import Target
from .store import FolderStore, Place, StoredKind
from .threads import MOST_THREADS

__all__ = ["StoredImages"]

# Nanoseconds after which a file that changes again gets another time: FAT counts in steps of two seconds.
_SETTLED = 3 * 10**9


class StoredImages:
    """The keys of rows, and the places of the images that are in a store.

    A file is known by its path and by what the system says about its state, or by its content if it has
    changed so lately that a further change might leave no trace. The key of its name is kept, too: if the
    name is known, but not the state, the content is looked at: an unchanged file is not decoded again.
    """

    # Keys of the rows; None for rows whose key is known only when they are decoded.
    keys: list[str | None]
    # Places of the images that are in the store, by key.
    places: dict[str, Place]
    # Files that changed lately and are not in the store, by row.
    recent: dict[int, RecentFile]

    def __init__(self, store: FolderStore, rows: list[Any], target: Target | None) -> None:
        self._store = store
        # Files that changed before they were read: from the key that they had to the key that they have.
        self._changed: dict[str, str] = {}
        self.keys, self.recent = [], {}
        version = _decoder_version()
        for i, row in enumerate(rows):
            source, key = reference(row), None
            if isinstance(source, bytes):
                key = _digest("bytes", target, version, source)
            elif source is not None:
                key, recent = _keys_of_file(source, target, version)
                if recent is not None:
                    self.recent[i] = recent
            self.keys.append(key)
        self.places = store.find({key for key in self.keys if key is not None})
        self._look_at_recent(target)

    def _look_at_recent(self, target: Target | None) -> None:
        """Look for recent files by their content."""
        store, keys, places = self._store, self.keys, self.places
        recent = {i: file for i, file in self.recent.items() if keys[i] not in places}
        names = store.find({file.name for i, file in recent.items() if keys[i] is not None})
        recent = {i: file for i, file in recent.items() if keys[i] is None or file.name in names}
        with ThreadPoolExecutor(MOST_THREADS) as pool:
            for reading in [pool.submit(file.look, target) for file in recent.values()]:
                reading.result()
        places.update(store.find({file.key for file in recent.values() if file.key is not None}))
        also = {}
        for i, file in recent.items():
            if file.key in places:
                also[keys[i] or file.name] = file.key
            keys[i] = keys[i] or file.key
        store.also(also)
        places.update({key: places[content] for key, content in also.items()})
        self.recent = {i: file for i, file in recent.items() if keys[i] not in places}

    def missing(self) -> list[int]:
        """Return the rows that have to be decoded, one for each key that is not in the store."""
        first: dict[str, int] = {}
        for i, key in enumerate(self.keys):
            if key is not None and key not in self.places:
                first.setdefault(key, i)
        return [i for i, key in enumerate(self.keys) if key is None or first.get(key) == i]

    def add(self, images: list[tuple[int, NDArray]]) -> None:
        """Add decoded images of (row, image) to the store."""
        added: dict[tuple[np.dtype, tuple[int, ...]], dict[str, NDArray]] = {}
        names = {}
        for i, image in images:
            before, recent = self.keys[i], self.recent.get(i)
            key = before if recent is None else recent.key
            if key is None:
                content = np.ascontiguousarray(image).data
                key = _digest("pixels", image.shape, image.dtype.name, content)
                self.places.update(self._store.find([key]))
            elif recent is not None:
                names[recent.name] = key
            if before is not None and before != key:
                self._changed[before] = key
            self.keys[i] = key
            if key not in self.places:
                added.setdefault((image.dtype, image.shape), {})[key] = image
        for some in added.values():
            self.places.update(self._store.add(list(some), np.stack(list(some.values()))))
        self._store.also(names)

    def follow_changes(self) -> None:
        """Give all rows of a file that changed before it was read the key that it has now."""
        self.keys = [
            key if key is None or key in self.places else self._changed.get(key, key) for key in self.keys
        ]

    def of_kind(self, keys: list[str], target: StoredKind) -> NDArray[np.int64]:
        """Return the rows of images in the file of one kind; images of other kinds are converted once."""
        store, places = self._store, self.places
        others = {key: f"{key}>{target}" for key in keys if places[key][0] != target}
        converted = store.find(others.values())
        missing = [key for key, name in others.items() if name not in converted]
        arrays = {kind: store.array(kind) for kind in {places[key][0] for key in missing}}
        for rows in row_blocks(len(missing), math.prod(target[1:]) * np.dtype(target[0]).itemsize):
            some = missing[rows]
            images = [convert(arrays[places[key][0]][places[key][1]], target[3], target[0]) for key in some]
            converted.update(store.add([others[key] for key in some], np.stack(images)))
        found = (converted[others[key]] if key in others else places[key] for key in keys)
        return np.array([row for _, row in found], dtype=np.int64)


def _keys_of_file(
    source: str | os.PathLike[str], target: Target | None, version: str
) -> tuple[str | None, RecentFile | None]:
    """Return the key of a file's state, if it can be trusted, and the file, if it is to be looked at."""
    try:
        status, path = os.stat(source), os.path.abspath(os.fspath(source))
    except (OSError, TypeError, ValueError):
        return None, None
    state = _state(status)
    key = None if state is None else _digest("file", path, target, version, state)
    if status.st_size > READ_AT_ONCE:
        return key, None
    name = _digest("name", path, target, version)
    return key, RecentFile(path, name, lambda data: _digest("bytes", target, version, data))


def _state(status: os.stat_result) -> tuple[int, ...] | None:
    """Return numbers that change with each change of a file; None where they cannot be trusted to.

    The time of change of its entry (ctime) cannot be set, unlike that of its content (mtime), which cp -p,
    rsync -t and tar keep. Windows has no such time.
    """
    last = max(status.st_mtime_ns, status.st_ctime_ns)
    if os.name != "posix" or status.st_ino == 0 or last > time.time_ns() - _SETTLED:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _digest(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes | memoryview) else repr(part).encode(errors="surrogateescape")
        digest.update(data)
        digest.update(b"\0")
    return digest.hexdigest()


def _decoder_version() -> str:
    return f"{__version__}/{PIL.__version__}" + ("/truncated" if truncated_are_read() else "")
