"""Image files and the like, decoded once by threads, as rows of pixels of one kind."""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from .._utils.places import is_address
from .._utils.progress import in_words, progress_bar
from .._utils.types import ImageSize, OnError, PathLike
from .._utils.warn import warn
from .._version import __version__
from .decode import (
    ImageError,
    convert,
    decode,
    from_array,
    from_pillow,
    pillow_size,
    size_of,
    strict_decoders,
)
from .indexing import row_blocks
from .items import fetch, is_of_dataset, is_pillow, name_of, peek, reference
from .remote import RemoteError, open_remote, read_remote
from .sizes import DEFAULT_SIDE, Target, check_image_size, choose_target
from .store import FileRows, FolderStore, MemoryRows, Place, StoredKind, scratch_rows

__all__ = ["DecodedRows", "MissingImagesError", "read_rows"]

# Seconds and images of reading after which it is estimated how long the rest will take: the first files may
# be slow. Where so few take this part of the time, that says enough. An estimate may be so many times too
# high at the beginning; from half of the time on it is believed.
_ESTIMATED_AFTER = 0.5
_FEW_IMAGES = 16
_LONG = 0.25
_DOUBT = 2.0

# Seconds between two looks at the clock while threads decode, and at least between two marks of it.
_LOOK = 0.2
_BETWEEN_MARKS = 0.02

# Reading that takes a larger part of the time than this is worth a word.
_MUCH = 0.5

# Bad images and odd sizes that a message lists; reading ends soon after as many were found.
_LISTED = 10

# Decoded pixels that a thread hands over at a time, and the images that may be.
_BYTES_A_CHUNK = 4 << 20
_ROWS_A_CHUNK = 256

# Smaller files cost the interpreter more time than the decoder: threads would wait for each other.
_SMALL_FILE = 8 << 10

_FIRST_READ = 64 << 10

# A larger file is not read as a whole before it is known to be an image.
_READ_AT_ONCE = 64 << 20

_MOST_THREADS = 16

# Nanoseconds after which a file that changes again gets another time: FAT counts in steps of two seconds.
_SETTLED = 3 * 10**9

# Images whose sizes are looked at to choose one, spread evenly over X; and items of a data set, which may
# decode an image to give it.
_SIZES = 1000
_SIZES_OF_ITEMS = 32

# Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
_OPENING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

_ADVICE = (
    "Leave them out of X, or pass on_error='grey': fit leaves them out, and transform and predict take them "
    "for grey images; 'nan': transform gives rows of NaN."
)

# Of decoded images, by their character.
_DTYPES = {"B": "uint8", "H": "uint16", "h": "int16", "f": "float32"}

# Channels and name of the dtype of an image.
_Kind: TypeAlias = tuple[int, str]

# Rows with what was decoded, or the bytes of small files, and the seconds that took.
_Read: TypeAlias = "tuple[list[tuple[int, NDArray | ImageError | bytes]], float]"


class DecodedRows(NamedTuple):
    """Decoded images, some of which may be missing.

    Parameters
    ----------
    pixels : ndarray of shape (m, H, W, C)
        uint8 or uint16; int16 or float32 of files that hold such numbers. Perhaps a read-only memory map.
    rows : int64 ndarray of shape (k,) or None
        Where in ``pixels`` the k images are that could be read, in their order; None is 0, ..., k - 1.
    bad : int64 ndarray of shape (b,)
        Rows of X that could not be read, ascending.
    """

    pixels: NDArray
    rows: NDArray[np.int64] | None
    bad: NDArray[np.int64]


def read_rows(
    rows: list[Any],
    *,
    image_size: ImageSize | Target = None,
    side: int = DEFAULT_SIDE,
    cache_dir: PathLike | None = None,
    kind: _Kind | None = None,
    on_error: OnError = "raise",
    verbose: int = 0,
    max_time: float | None = None,
    advice: str = _ADVICE,
) -> DecodedRows:
    """Decode images, each of them once.

    Parameters
    ----------
    rows : list
        As `as_rows` returns it.
    image_size : "auto", int, (int, int), Target or None, default=None
        As in :class:`SimCLRTransformer`; None: all images must have one size.
    side : int, default=96
        Side of the square whose area images get at most with ``"auto"``.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded files; None decodes into memory, or into a temporary file if they would
        take more than a quarter of it.
    kind : (int, str) or None, default=None
        Channels and dtype of the result. None: RGB if any image has colours, uint16 if any has 16 bits. With
        an empty dtype, uint8 of images of 8 or 16 bits, and the dtype of those that hold other numbers.
    on_error : {"raise", "nan", "grey"}, default="raise"
        Whether an image that cannot be read is an error, or one of the ``bad`` ones, with a warning.
    verbose : int, default=0
        1 shows a progress bar.
    max_time : float or None, default=None
        Seconds of a training that includes reading: a warning says that reading will take most of them.
    advice : str, optional
        What to do about images that cannot be read, for the error.

    Returns
    -------
    DecodedRows
        Pixels, and where they are.

    Raises
    ------
    ValueError
        If images cannot be read or differ in size or channels. It is a FileNotFoundError, too, if the
        files are missing. And as soon as it is clear that reading will take longer than `max_time`.

    Examples
    --------
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_simclr.images.reading import read_rows
    >>> read_rows([Image.new("L", (9, 6)), Image.new("RGB", (4, 4))], image_size=8).pixels.shape
    (2, 8, 8, 3)
    """
    wanted = image_size if isinstance(image_size, Target) else check_image_size(image_size)
    if _truncated_are_read():
        warn(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True: truncated files are read as far as they go, and "
            "the rest of such images is grey or black. Set it to False to have these files listed."
        )
    found = _Found(len(rows), rows, on_error, advice)
    bar = progress_bar("images", len(rows), "images", shown=bool(verbose))
    with strict_decoders() as notes, bar:
        progress = _Progress(bar, len(rows), max_time, kept=cache_dir is not None)
        target = _choose(rows, side) if wanted == "auto" else wanted
        if cache_dir is None:
            pixels, places = _read_to_scratch(rows, target, kind, found, progress)
        else:
            pixels, places = _read_through_store(rows, target, cache_dir, kind, found, progress)
    if notes:
        warn(
            f"Only the first page of {len(notes)} TIFFs was read: one has {notes[0]}. For the others, pass "
            "pages as images of their own: [page.copy() for page in "
            "PIL.ImageSequence.Iterator(PIL.Image.open(path))]."
        )
    if kind is not None and kind[0] == 1 and any(channels == 3 for channels, _ in found.kinds):
        warn(
            "X has images with colours, but fit saw only grey ones: they are turned to grey.",
        )
    return DecodedRows(pixels, places, np.array(sorted(found.bad), dtype=np.int64))


def _choose(rows: list[Any], side: int) -> Target | None:
    """Return the size that suits images; None if the sizes of none are known."""
    most = _SIZES_OF_ITEMS if any(is_of_dataset(row) for row in rows[:1]) else _SIZES
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))
    items = [_fetched(rows[i], peek) for i in chosen]
    with ThreadPoolExecutor(_MOST_THREADS) as pool:
        sizes = [size for size in pool.map(_size, items) if size is not None]
    return choose_target(sizes, side) if sizes else None


def _size(item: Any) -> tuple[int, int] | None:
    """Return height and width of an image; None if it cannot be read, which is said when it is decoded."""
    try:
        if isinstance(item, np.ndarray):
            return item.shape[0], item.shape[1]
        if is_pillow(item):
            return pillow_size(item)
        if isinstance(item, bytes):
            return size_of(io.BytesIO(item))
        if is_address(item) and not os.path.exists(item):
            with open_remote(os.fspath(item)) as file:
                return size_of(file)
        with open(item, "rb", opener=lambda path, flags: os.open(path, flags | _OPENING)) as file:
            return size_of(file) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except Exception:
        return None


class _Progress:
    """Counts the images that have been read; warns or raises once it is clear that reading takes too long."""

    def __init__(self, bar: Any, total: int, max_time: float | None, kept: bool) -> None:
        self.bar, self.total, self.max_time, self.kept = bar, total, max_time, kept
        self.started = time.perf_counter()
        self.lock = threading.Lock()
        # How many images had been decoded when. The first ones pay for what is done but once.
        self.decoded, self.marks = 0, [(self.started, 0)]
        self.warned = self.over = False

    def skip(self, n: int) -> None:
        """Leave out images that need not be read."""
        self.bar.update(n)
        self.total -= n

    def count(self) -> None:
        """Count an image that has been decoded, in any thread."""
        with self.lock:
            self.decoded += 1
            now = time.perf_counter()
            if now - self.marks[-1][0] > _BETWEEN_MARKS or self.decoded == 1:
                self.marks.append((now, self.decoded))

    def check(self) -> None:
        """Warn or raise where reading takes too long."""
        if self.max_time is None:
            return
        now = time.perf_counter()
        spent = now - self.started
        with self.lock:
            decoded = self.decoded
            later = (mark for mark in self.marks if 2 * mark[1] >= decoded)
            at, before = next(later, self.marks[-1])  # many may have been decoded since the last mark
            if before == decoded:
                at, before = self.marks[min(1, len(self.marks) - 1)]
        if spent > self.max_time:
            expected = spent * self.total / max(1, decoded)
            self._judge(spent, expected)
            return
        enough = decoded >= _FEW_IMAGES or spent >= _LONG * self.max_time
        if enough and now - at >= _ESTIMATED_AFTER and decoded > before:
            # By the later half of what has been decoded.
            self._judge(spent, spent + (now - at) / (decoded - before) * (self.total - decoded))

    def _judge(self, spent: float, expected: float) -> None:
        assert self.max_time is not None
        given = f"max_time={self.max_time:g}"
        takes = f"reading {self.total:,} of them takes about {in_words(expected)}"
        wanted = f"Pass max_time={math.ceil(2 * expected)} or more, or fewer images; "
        wanted += (
            "cache_dir keeps those that have been read, and the next fit begins with them."
            if self.kept
            else "with cache_dir, decoded files are kept for the next fit."
        )
        if expected > self.max_time * max(1.0, _DOUBT * (1 - spent / self.max_time)):
            raise ValueError(f"{given} is too short for these images: {takes}. {wanted}")
        if expected > _MUCH * self.max_time and not self.warned:
            self.warned = True
            warn(f"{given} is short for these images: {takes}. {wanted}", ConvergenceWarning)


def _read_to_scratch(
    rows: list[Any], target: Target | None, kind: _Kind | None, found: _Found, progress: _Progress
) -> tuple[NDArray, None]:
    out: MemoryRows | FileRows | None = None
    current: _Kind | None = None
    for chunk in _decoded(range(len(rows)), rows, target, progress):
        good = found.good(chunk)
        if not good:
            continue
        images = [image for _, image in good]
        kinds = {_kind(image) for image in images}
        found.kinds |= kinds
        wanted = _common_kind(kinds if current is None else kinds | {current}, kind)
        if out is None or wanted != current:
            larger = scratch_rows((*found.size, wanted[0]), wanted[1], len(rows))
            before = np.empty(0) if out is None else out.array()
            for some in row_blocks(len(before), before[:1].nbytes):
                larger.append(convert(before[some], *wanted))
            out, current = larger, wanted
        if kinds != {wanted}:
            images = [convert(image, *wanted) for image in images]
        out.append(np.stack(images))
    found.finish()
    return np.empty((0, 0, 0, 1), dtype=np.uint8) if out is None else out.array(), None


def _read_through_store(
    rows: list[Any],
    target: Target | None,
    cache_dir: PathLike,
    kind: _Kind | None,
    found: _Found,
    progress: _Progress,
) -> tuple[NDArray, NDArray[np.int64] | None]:
    with FolderStore(cache_dir) as store:
        keys, places, recent = _find(store, rows, target)
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key in places:
                found.check_size(i, places[key][0][1:3])
            elif key is not None:
                first.setdefault(key, i)
        missing = [i for i, key in enumerate(keys) if key is None or first.get(key) == i]
        progress.skip(len(rows) - len(missing))
        rows = [recent.get(i, row) for i, row in enumerate(rows)]
        changed: dict[str, str] = {}
        for chunk in _decoded(missing, rows, target, progress):
            added: dict[tuple[np.dtype, tuple[int, ...]], dict[str, NDArray]] = {}
            names = {}
            for i, image in found.good(chunk):
                key = recent[i].key if i in recent else keys[i]
                if key is None:
                    content = np.ascontiguousarray(image).data
                    key = _digest("pixels", image.shape, image.dtype.name, content)
                    places.update(store.find([key]))
                elif i in recent:
                    names[recent[i].name] = key
                if (before := keys[i]) is not None and before != key:
                    changed[before] = key
                keys[i] = key
                if key not in places:
                    added.setdefault((image.dtype, image.shape), {})[key] = image
            for images in added.values():
                places.update(store.add(list(images), np.stack(list(images.values()))))
            store.also(names)
        # Other rows of a file that changed while it was waited for.
        keys = [None if key is None else key if key in places else changed.get(key, key) for key in keys]
        bad_keys = {keys[i]: reason for i, reason in found.bad.items() if keys[i] is not None}
        for i, key in enumerate(keys):
            if key in bad_keys and i not in found.bad:
                found.add_bad(i, bad_keys[key])
        good = [key for i, key in enumerate(keys) if i not in found.bad and key is not None and key in places]
        found.finish()
        if not good:
            return np.empty((0, 0, 0, 1), dtype=np.uint8), None
        found.kinds = {(places[key][0][3], places[key][0][0]) for key in good}
        wanted = _common_kind(found.kinds, kind)
        stored = (wanted[1], *found.size, wanted[0])
        where = _of_kind(store, good, places, stored)
        return store.array(stored), where


def _of_kind(
    store: FolderStore, keys: list[str], places: dict[str, Place], target: StoredKind
) -> NDArray[np.int64]:
    """Return the rows of images in the file of one kind; those of other kinds are converted once."""
    others = {key: f"{key}>{target}" for key in keys if places[key][0] != target}
    converted = store.find(others.values())
    missing = [key for key, name in others.items() if name not in converted]
    arrays = {kind: store.array(kind) for kind in {places[key][0] for key in missing}}
    for rows in row_blocks(len(missing), math.prod(target[1:]) * np.dtype(target[0]).itemsize):
        some = missing[rows]
        images = [convert(arrays[places[key][0]][places[key][1]], target[3], target[0]) for key in some]
        converted.update(store.add([others[key] for key in some], np.stack(images)))
    return np.array(
        [(converted[others[key]] if key in others else places[key])[1] for key in keys], dtype=np.int64
    )


class _Found:
    """Faults of images, collected until they are reported."""

    def __init__(self, n: int, rows: list[Any], on_error: OnError, advice: str) -> None:
        self.n, self.rows, self.on_error, self.advice = n, rows, on_error, advice
        self.bad: dict[int, ImageError] = {}
        # The row of the first image, -1 before there is one, and its size.
        self.first, self.size = -1, (0, 0)
        self.odd: list[tuple[int, tuple[int, ...]]] = []
        self.kinds: set[_Kind] = set()
        self.seen = 0

    def good(self, chunk: list[tuple[int, NDArray | ImageError]]) -> list[tuple[int, NDArray]]:
        """Return the (row, image) of a chunk that could be read."""
        good = []
        for i, image in chunk:
            self.seen += 1
            if isinstance(image, Exception):
                self.add_bad(i, image)
            elif self.check_size(i, image.shape[:2]):
                good.append((i, image))
        if len(self.odd) >= _LISTED or (self.on_error == "raise" and len(self.bad) >= _LISTED):
            self.finish(all_seen=self.seen == self.n)
        return good

    def add_bad(self, i: int, reason: ImageError) -> None:
        self.bad[i] = reason

    def check_size(self, i: int, size: tuple[int, int]) -> bool:
        """Return whether the image of a row has the size of the first."""
        if self.first < 0:
            self.first, self.size = i, size
        if size == self.size:
            return True
        self.odd.append((i, size))
        return False

    def finish(self, all_seen: bool = True) -> None:
        """Raise what there is to raise."""
        if self.bad:
            lines = [f"row {i}, {name_of(self.rows[i])}: {self.bad[i]}" for i in sorted(self.bad)[:_LISTED]]
            more = len(self.bad) - _LISTED
            lines += [f"and {more} more" if more > 0 else ""] if all_seen else ["and perhaps more"]
            count = f"{len(self.bad)}" if all_seen else f"At least {len(self.bad)}"
            found = (
                f"{count} of {self.n} images cannot be read:\n  " + "\n  ".join(filter(None, lines)) + "\n"
            )
            if self.on_error == "raise":
                missing = all(isinstance(reason, _NoSuchFile) for reason in self.bad.values())
                raise (MissingImagesError if missing else ValueError)(f"{found}{self.advice}")
            if self.on_error == "grey":
                warn(f"{found}They are left out of a fit; transform and predict take them for grey images.")
            else:
                warn(
                    f"{found}They are left out of a fit; transform gives rows of NaN for them, which many "
                    "classifiers refuse. Pass on_error='grey' to have them taken for grey images there."
                )
        if self.odd:
            lines = [f"row {i}, {name_of(self.rows[i])}: {h} x {w}" for i, (h, w) in self.odd[:_LISTED]]
            raise ValueError(
                f"Images of mixed sizes (height x width). Row {self.first}, "
                f"{name_of(self.rows[self.first])}, is {self.size[0]} x {self.size[1]}, but\n  "
                + "\n  ".join(lines)
                + ("\n  and perhaps more" if len(self.odd) > _LISTED or not all_seen else "")
                + "\nPass image_size='auto', the side of a square or (height, width) to have all resized."
            )


class MissingImagesError(FileNotFoundError, ValueError):
    """Image files that do not exist."""


class _NoSuchFile(ImageError):
    """A file that does not exist."""


def _decoded(
    indices: Iterable[int], rows: list[Any], target: Target | None, progress: _Progress
) -> Iterator[list[tuple[int, NDArray | ImageError]]]:
    """Yield lists of (row, image or ImageError), in order, read and decoded by threads some chunks ahead.

    Small files that are quickly read need no threads: they would wait for the interpreter, not for the disk.
    Which ones these are is found out without threads, from few files at first: among threads, reading seems
    slow while it waits for the interpreter.
    """
    threads = max(2, min(_MOST_THREADS, cpu_count()))
    indices = iter(indices)
    size, alone = 2, True
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[_Read]] = deque()
        try:
            while True:
                while len(waiting) < (1 if alone else 2 * threads):
                    some = [(i, _fetched(rows[i])) for i in islice(indices, size)]
                    if not some:
                        break
                    if alone and not waiting:
                        done: Future[_Read] = Future()
                        done.set_result(_decode_chunk(some, target, progress))
                        waiting.append(done)
                    else:
                        waiting.append(pool.submit(_decode_chunk, some, target, progress))
                if not waiting:
                    return
                while not wait([waiting[0]], timeout=_LOOK).done:
                    progress.check()
                read, seconds = waiting.popleft().result()
                started = time.perf_counter()
                chunk: list[tuple[int, NDArray | ImageError]] = []
                for i, item in read:
                    if isinstance(item, bytes):
                        chunk.append((i, _decode_one(item, target)))
                        progress.count()
                    else:
                        chunk.append((i, item))
                progress.bar.update(len(chunk))
                progress.check()
                alone = seconds < time.perf_counter() - started and isinstance(read[-1][1], bytes)
                largest = max(
                    (image.nbytes for _, image in chunk if isinstance(image, np.ndarray)), default=0
                )
                size = max(1, min(8 * size, _ROWS_A_CHUNK, _BYTES_A_CHUNK // max(1, largest)))
                yield chunk
        finally:
            progress.over = True
            for future in waiting:
                future.cancel()


def _fetched(row: object, how: Callable[[Any], Any] = fetch) -> Any:
    try:
        return how(row)
    except Exception as error:
        return ImageError(f"it cannot be loaded ({type(error).__name__}: {error})")


def _decode_chunk(chunk: list[tuple[int, Any]], target: Target | None, progress: _Progress) -> _Read:
    """Return the images of a chunk, or the bytes of those that are small, and the seconds it took."""
    started = time.perf_counter()
    images = []
    for i, item in chunk:
        if progress.over:
            break
        if isinstance(item, str | os.PathLike | _Recent):
            item = item.read(target) if isinstance(item, _Recent) else _read_file(os.fspath(item), target)
            if isinstance(item, bytes) and len(item) > _SMALL_FILE:
                item = _decode_one(item, target)
        elif not isinstance(item, bytes) or len(item) > _SMALL_FILE:
            item = _decode_one(item, target)
        if not isinstance(item, bytes):
            progress.count()
        images.append((i, item))
    return images, time.perf_counter() - started


def _decode_one(item: object, target: Target | None) -> NDArray | ImageError:
    try:
        if isinstance(item, bytes):
            return decode(item, target)
        if isinstance(item, np.ndarray):
            return from_array(np.ma.filled(item, 0), target)
        if is_pillow(item):
            return from_pillow(item, target)
        if isinstance(item, ImageError):
            return item
        if item is None or type(item).__name__ in ("NAType", "float"):
            raise ImageError(f"it is missing ({item})")
        raise ImageError(f"{type(item).__name__} is no path, no Pillow image and no bytes")
    except ImageError as error:
        return error


def _read_file(path: str | bytes, target: Target | None) -> NDArray | ImageError | bytes:
    """Return the bytes of a file, the image if it is too large for that, or an ImageError."""
    try:
        handle = os.open(path, _OPENING)
        try:
            data = os.read(handle, _FIRST_READ)
            if 0 < len(data) < _FIRST_READ:
                return data
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("it is no regular file")
            if status.st_size <= _READ_AT_ONCE:
                parts = [data]
                while part := os.read(handle, _READ_AT_ONCE):
                    parts.append(part)
                return b"".join(parts)
            with os.fdopen(os.dup(handle), "rb") as file:
                return decode(file, target)
        finally:
            os.close(handle)
    except FileNotFoundError:
        text = os.fsdecode(path)
        return _at_address(text) if is_address(text) else _NoSuchFile("no such file")
    except IsADirectoryError:
        return ImageError("it is a folder")
    except OSError as error:
        return ImageError((error.strerror or str(error)).lower())
    except ValueError as error:
        return error if isinstance(error, ImageError) else ImageError(str(error))


def _at_address(address: str) -> bytes | ImageError:
    try:
        return read_remote(address)
    except RemoteError as error:
        return ImageError(str(error))


class _Recent:
    """A file that changed a moment ago, so that its times do not tell it from what it is a moment later.

    Parameters
    ----------
    path : str or bytes
        Of the file.
    name : str
        Key of its name.
    key : callable
        Gives the key of its content.
    """

    def __init__(self, path: str | bytes, name: str, key: Callable[[bytes], str]) -> None:
        self.path, self.name, self._key = path, name, key
        # Of the bytes that were decoded.
        self.key: str | None = None

    def read(self, target: Target | None) -> NDArray | ImageError | bytes:
        """Return the bytes of the file and remember their key; or as `_read_file` does."""
        data = _read_file(self.path, target)
        self.key = self._key(data) if isinstance(data, bytes) else None
        return data

    def look(self, target: Target | None) -> None:
        """Find out the key of the content, if it can be read."""
        self.read(target)


def _find(
    store: FolderStore, rows: list[Any], target: Target | None
) -> tuple[list[str | None], dict[str, Place], dict[int, _Recent]]:
    """Look for rows in a store.

    A file is known by its path and by what the system says about its state, or by its content where it has
    changed so lately that a further change might leave no trace. So that it is not decoded again once it is
    old enough, its name is kept, too: where that is known and the state is not, the content is looked at.

    Parameters
    ----------
    store : FolderStore
        Where to look.
    rows : list
        Images.
    target : Target or None
        Their size.

    Returns
    -------
    keys : list of str or None
        Of the rows; None for those that have one only when they are decoded.
    places : dict
        {key: place} of those that are in the store.
    recent : dict
        {row: _Recent} of the others that changed lately.
    """
    version = _decoder_version()
    keys: list[str | None] = []
    recent: dict[int, _Recent] = {}
    for i, row in enumerate(rows):
        source, key = reference(row), None
        if isinstance(source, bytes):
            key = _digest("bytes", target, version, source)
        elif source is not None:
            try:
                status, path = os.stat(source), os.path.abspath(os.fspath(source))
            except (OSError, TypeError, ValueError):
                pass
            else:
                name = _digest("name", path, target, version)
                state = _state(status)
                key = None if state is None else _digest("file", path, target, version, state)
                if status.st_size <= _READ_AT_ONCE:
                    recent[i] = _Recent(path, name, lambda data: _digest("bytes", target, version, data))
        keys.append(key)
    places = store.find({key for key in keys if key is not None})
    recent = {i: one for i, one in recent.items() if keys[i] not in places}
    names = store.find({one.name for i, one in recent.items() if keys[i] is not None})
    recent = {i: one for i, one in recent.items() if keys[i] is None or one.name in names}
    with ThreadPoolExecutor(_MOST_THREADS) as pool:
        for reading in [pool.submit(one.look, target) for one in recent.values()]:
            reading.result()
    places.update(store.find({one.key for one in recent.values() if one.key is not None}))
    also = {}
    for i, one in recent.items():
        if one.key in places:
            also[keys[i] or one.name] = one.key
        keys[i] = keys[i] or one.key
    store.also(also)
    places.update({key: places[content] for key, content in also.items()})
    return keys, places, {i: one for i, one in recent.items() if keys[i] not in places}


def _state(status: os.stat_result) -> tuple[int, ...] | None:
    """Return what changes with each change of a file; None where it cannot be trusted to.

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
    import PIL

    return f"{__version__}/{PIL.__version__}" + ("/truncated" if _truncated_are_read() else "")


def _truncated_are_read() -> bool:
    """Return whether the user, or a library, has told Pillow to read truncated files."""
    from PIL import ImageFile

    return ImageFile.LOAD_TRUNCATED_IMAGES


def _kind(image: NDArray) -> _Kind:
    # dtype.name takes as long as the decoding of a small image.
    return image.shape[-1], _DTYPES[image.dtype.char]


def _common_kind(kinds: set[_Kind], wanted: _Kind | None) -> _Kind:
    """Return the channels and the dtype that images of several kinds have in common, or those wanted."""
    channels = {channels for channels, _ in kinds}
    if wanted is not None and channels | {wanted[0]} not in ({wanted[0]}, {1, 3}):
        raise ValueError(
            f"X has images with {sorted(channels)} channels, but images with {wanted[0]} channels were seen "
            "in fit. Pass images with the same channels."
        )
    if len(channels) > 1 and channels != {1, 3}:
        raise ValueError(
            f"X has images with {sorted(channels)} channels; only grey and RGB images can be mixed. Pass "
            "images with the same channels."
        )
    dtypes = {dtype for _, dtype in kinds}
    before = "" if wanted is None else wanted[1]
    # Black and white of 8 and of 16 bits are the same; other numbers are measurements, such as those of CT.
    plain, measured = {"uint8", "uint16"}, {"int16", "float32"}
    if not (dtypes | {before} - {""} <= plain or dtypes | {before} - {""} <= measured) or (
        before == "int16" and "float32" in dtypes
    ):
        raise ValueError(
            f"X has images of {' and '.join(sorted(dtypes))}"
            + (f", but images of {before} were seen in fit" if before else "")
            + ": their numbers have different meanings. Pass images of one kind, or arrays that you scaled."
        )
    if not before:
        before = next(dtype for dtype in ("float32", "int16", "uint16", "uint8") if dtype in dtypes)
        if wanted is not None and dtypes <= plain:
            before = "uint8"
    return wanted[0] if wanted is not None else max(channels), before
