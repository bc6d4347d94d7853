"""Image files and the like, decoded once by threads, as rows of pixels of one kind."""

import io
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._utils.places import is_address
from .._utils.progress import progress_bar
from .._utils.types import ImageSize, OnError, PathLike
from .._utils.warn import warn
from .decode import convert, pillow_size, size_of, strict_decoders, truncated_are_read
from .faults import Faults, MissingImagesError
from .files import OPENING
from .indexing import row_blocks
from .items import is_of_dataset, is_pillow, peek
from .kinds import Kind, common_kind, kind_of
from .reading_time import Progress
from .remote import open_remote
from .sizes import DEFAULT_SIDE, Target, check_image_size, choose_target
from .store import FileRows, FolderStore, MemoryRows, scratch_rows
from .stored import StoredImages
from .threads import MOST_THREADS, decoded, fetched

__all__ = ["DecodedRows", "MissingImagesError", "read_rows"]

# Images, spread evenly over X, whose sizes are looked at to choose one size. Of a data set, which may have to
# decode an image to give it, only so many items are looked at.
_SIZES = 1000
_SIZES_OF_ITEMS = 32


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
    kind: Kind | None = None,
    on_error: OnError = "raise",
    verbose: int = 0,
    max_time: float | None = None,
    advice: str | None = None,
    setting: str = "{}",
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
        Whether an image that cannot be read is an error, or is among the ``bad`` ones, with a warning.
    verbose : int, default=0
        1 shows a progress bar.
    max_time : float or None, default=None
        Seconds of a training that includes reading: a warning says that reading will take most of them.
    advice : str or None, default=None
        What the error says to do about images that cannot be read; None: pass another ``on_error``.
    setting : str, default="{}"
        How messages show a parameter, with {} in the place of the parameter.

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
    if truncated_are_read():
        warn(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True: truncated files are read as far as they go, and "
            "the rest of such images is grey or black. Set it to False to have these files listed."
        )
    faults = Faults(len(rows), rows, on_error, advice, setting)
    bar = progress_bar("images", len(rows), "images", shown=bool(verbose))
    with strict_decoders() as notes, bar:
        progress = Progress(bar, len(rows), max_time, kept=cache_dir is not None)
        target = _choose(rows, side) if wanted == "auto" else wanted
        if cache_dir is None:
            pixels, places = _read_to_scratch(rows, target, kind, faults, progress)
        else:
            pixels, places = _read_through_store(rows, target, cache_dir, kind, faults, progress)
    if notes:
        warn(
            f"Only the first page of {len(notes)} TIFFs was read: one has {notes[0]}. To use all pages of a "
            "file, pass each page as an image: [page.copy() for page in "
            "PIL.ImageSequence.Iterator(PIL.Image.open(path))]."
        )
    if kind is not None and kind[0] == 1 and any(channels == 3 for channels, _ in faults.kinds):
        warn(
            "X has colour images, but fit saw only grey images: the colour images are turned to grey. Fit on "
            "colour images to keep their colours.",
        )
    return DecodedRows(pixels, places, np.array(sorted(faults.bad), dtype=np.int64))


def _choose(rows: list[Any], side: int) -> Target | None:
    """Return the size that suits images; None if no size is known."""
    most = _SIZES_OF_ITEMS if any(is_of_dataset(row) for row in rows[:1]) else _SIZES
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))
    items = [fetched(rows[i], peek) for i in chosen]
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        sizes = [size for size in pool.map(_size, items) if size is not None]
    return choose_target(sizes, side) if sizes else None


def _size(item: Any) -> tuple[int, int] | None:
    """Return height and width of an image; None if it cannot be read: decoding it says why."""
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
        with open(item, "rb", opener=lambda path, flags: os.open(path, flags | OPENING)) as file:
            return size_of(file) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except Exception:
        return None


def _read_to_scratch(
    rows: list[Any], target: Target | None, kind: Kind | None, faults: Faults, progress: Progress
) -> tuple[NDArray, None]:
    out: MemoryRows | FileRows | None = None
    current: Kind | None = None
    for chunk in decoded(range(len(rows)), rows, target, progress):
        good = faults.good(chunk)
        if not good:
            continue
        images = [image for _, image in good]
        kinds = {kind_of(image) for image in images}
        faults.kinds |= kinds
        wanted = common_kind(kinds if current is None else kinds | {current}, kind)
        if out is None or wanted != current:
            larger = scratch_rows((*faults.size, wanted[0]), wanted[1], len(rows))
            before = np.empty(0) if out is None else out.array()
            for some in row_blocks(len(before), before[:1].nbytes):
                larger.append(convert(before[some], *wanted))
            out, current = larger, wanted
        if kinds != {wanted}:
            images = [convert(image, *wanted) for image in images]
        out.append(np.stack(images))
    faults.finish()
    return np.empty((0, 0, 0, 1), dtype=np.uint8) if out is None else out.array(), None


def _read_through_store(
    rows: list[Any],
    target: Target | None,
    cache_dir: PathLike,
    kind: Kind | None,
    faults: Faults,
    progress: Progress,
) -> tuple[NDArray, NDArray[np.int64] | None]:
    with FolderStore(cache_dir) as store:
        known = StoredImages(store, rows, target)
        for i, key in enumerate(known.keys):
            if key in known.places:
                faults.check_size(i, known.places[key][0][1:3])
        missing = known.missing()
        progress.skip(len(rows) - len(missing))
        rows = [known.recent.get(i, row) for i, row in enumerate(rows)]
        for chunk in decoded(missing, rows, target, progress):
            known.add(faults.good(chunk))
        known.follow_changes()
        keys, places = known.keys, known.places
        bad_keys = {keys[i]: reason for i, reason in faults.bad.items() if keys[i] is not None}
        faults.bad |= {
            i: bad_keys[key] for i, key in enumerate(keys) if key in bad_keys and i not in faults.bad
        }
        good = [
            key for i, key in enumerate(keys) if i not in faults.bad and key is not None and key in places
        ]
        faults.finish()
        if not good:
            return np.empty((0, 0, 0, 1), dtype=np.uint8), None
        faults.kinds = {(places[key][0][3], places[key][0][0]) for key in good}
        channels, dtype = common_kind(faults.kinds, kind)
        stored = (dtype, *faults.size, channels)
        where = known.of_kind(good, stored)
        return store.array(stored), where
