"""Read and decode images in threads, some chunks before they are taken."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from .decode import ImageError, decode, from_array, from_pillow
from .files import RecentFile, read_file
from .items import fetch, is_missing, is_pillow
from .reading_time import Progress
from .sizes import Target

__all__ = ["MOST_THREADS", "decoded", "fetched"]

MOST_THREADS = 16

# Seconds between two looks at the clock while threads decode.
_LOOK = 0.2

# Most bytes of pixels, and most images, that a thread hands over at a time.
_BYTES_A_CHUNK = 4 << 20
_ROWS_A_CHUNK = 256

# Smaller files cost the interpreter more time than the decoder: threads would wait for each other.
_SMALL_FILE = 8 << 10

# Rows with what was decoded, or the bytes of small files, and the seconds that took.
_Read: TypeAlias = tuple[list[tuple[int, NDArray | ImageError | bytes]], float]


def decoded(
    indices: Iterable[int], rows: list[Any], target: Target | None, progress: Progress
) -> Iterator[list[tuple[int, NDArray | ImageError]]]:
    """Yield lists of (row, image or ImageError), in order.

    Small files that are read quickly need no threads: threads would wait for the interpreter, not for the
    disk. Whether the files are such files is found out without threads, from few files at first: in threads,
    reading seems slow while it waits for the interpreter.
    """
    threads = max(2, min(MOST_THREADS, cpu_count()))
    indices = iter(indices)
    size, alone = 2, True
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[_Read]] = deque()
        try:
            while True:
                ahead = 1 if alone else 2 * threads
                while len(waiting) < ahead and (
                    some := [(i, fetched(rows[i])) for i in islice(indices, size)]
                ):
                    decode_some = _decode_here if alone else pool.submit
                    waiting.append(decode_some(_decode_chunk, some, target, progress))
                if not waiting:
                    return
                while not wait([waiting[0]], timeout=_LOOK).done:
                    progress.check()
                read, seconds = waiting.popleft().result()
                started = time.perf_counter()
                chunk = _decode_small(read, target, progress)
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


def fetched(row: object, how: Callable[[Any], Any] = fetch) -> Any:
    """Return what a row stands for, or an ImageError."""
    try:
        return how(row)
    except Exception as error:
        return ImageError(f"it cannot be loaded ({type(error).__name__}: {error})")


def _decode_here(function: Callable[..., _Read], *args: Any) -> Future[_Read]:
    """Call a function in this thread, with the interface of a pool."""
    done: Future[_Read] = Future()
    done.set_result(function(*args))
    return done


def _decode_chunk(chunk: list[tuple[int, Any]], target: Target | None, progress: Progress) -> _Read:
    """Return the images of a chunk, or the bytes of those that are small, and the seconds it took."""
    started = time.perf_counter()
    images = []
    for i, item in chunk:
        if progress.over:
            break
        if isinstance(item, str | os.PathLike | RecentFile):
            item = item.read(target) if isinstance(item, RecentFile) else read_file(os.fspath(item), target)
            if isinstance(item, bytes) and len(item) > _SMALL_FILE:
                item = _decode_one(item, target)
        elif not isinstance(item, bytes) or len(item) > _SMALL_FILE:
            item = _decode_one(item, target)
        if not isinstance(item, bytes):
            progress.count()
        images.append((i, item))
    return images, time.perf_counter() - started


def _decode_small(
    read: list[tuple[int, NDArray | ImageError | bytes]], target: Target | None, progress: Progress
) -> list[tuple[int, NDArray | ImageError]]:
    """Decode the small files of a chunk, of which `_decode_chunk` has returned the bytes."""
    chunk: list[tuple[int, NDArray | ImageError]] = []
    for i, item in read:
        if isinstance(item, bytes):
            item = _decode_one(item, target)
            progress.count()
        chunk.append((i, item))
    return chunk


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
        if is_missing(item):
            raise ImageError(f"it is missing ({item})")
        raise ImageError(f"{type(item).__name__} is not a path, not a Pillow image and not bytes")
    except ImageError as error:
        return error
