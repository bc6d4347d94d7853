"""Decode one image, given as the bytes of a file or as a Pillow image, to an array."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageFile

from .._utils.forks import in_each_process
from .resizing import resize_array, resize_pillow
from .sizes import Target
from .tiff import TiffError, over_white, read_tiff, tiff_size

__all__ = ["ImageError", "convert", "decode", "from_array", "from_pillow", "pillow_size"]
__all__ += ["plugin_formats", "size_of", "strict_decoders", "truncated_are_read"]

# Formats by content, as in docs/how_to/files.rst. Those that start other programs (EPS) or that have no
# signature (TGA) are left out.
_FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")

# Bytes at the start of a file that tell how large its image is.
_HEAD = 1 << 16

# A JPEG that is decoded at a reduced scale keeps at least this many times the wanted pixels per side: the
# antialiased resize that follows does the rest.
_DRAFT_GAP = 2

# Where an image is to be flipped or turned so that it is upright, by its orientation in EXIF.
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
_TURNS |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}

# Within `strict_decoders`, a line for each image of which something is left out.
_notes: list[str] = []


_STRICT: contextlib.AbstractContextManager


@in_each_process
def _new_lock() -> None:
    global _STRICT
    _STRICT = threading.RLock()


class ImageError(ValueError):
    """Why one image cannot be read."""


@contextlib.contextmanager
def strict_decoders() -> Iterator[list[str]]:
    """Have decoders keep their warnings to themselves, in all threads.

    Yields
    ------
    list of str
        Gets a line for each image of which something is left out.
    """
    global _notes
    log = logging.getLogger("tifffile")
    with _STRICT, warnings.catch_warnings():
        Image.init()
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        level = log.level
        log.setLevel(logging.CRITICAL + 1)
        before, _notes = _notes, []
        try:
            yield _notes
        finally:
            _notes = before
            log.setLevel(level)


def truncated_are_read() -> bool:
    """Return whether the user, or a library, has told Pillow to read truncated files."""
    return ImageFile.LOAD_TRUNCATED_IMAGES


def decode(file: bytes | BinaryIO, target: Target | None = None) -> NDArray:
    """Return the image of a file; of an animation, the first one.

    Parameters
    ----------
    file : bytes or binary file
        In any of the formats, whatever its name says.
    target : Target or None, default=None
        Size that the image is brought to; None keeps its own.

    Returns
    -------
    ndarray of shape (H, W, C)
        uint8 or uint16, or int16 or float32 of a TIFF with signed, wider or floating-point numbers; C is 1
        for grey, 3 for RGB, anything for a TIFF of many channels or pages.

    Raises
    ------
    ImageError
        If there is no whole image.
    """
    try:
        if isinstance(file, bytes):
            if not file:
                raise ImageError("the file is empty")
            file = io.BytesIO(file)
        array = _read_deep_png(file)
        if array is None:
            array = read_tiff(file, _most_pixels(), _notes)
        return _decode_by_pillow(file, target) if array is None else _resized(array, target)
    except (ImageError, TiffError) as error:
        raise ImageError(str(error)) from None
    except MemoryError:
        raise ImageError("there is not enough memory for its pixels") from None
    # Damaged files make decoders fail in any way: struct.error, KeyError, SyntaxError, OverflowError...
    except Exception as error:
        raise ImageError(_reason(error)) from error


def from_pillow(image: Image.Image, target: Target | None = None) -> NDArray:
    """Return a Pillow image as an array.

    Parameters
    ----------
    image : PIL.Image.Image
        An image of any mode.
    target : Target or None, default=None
        As in `decode`.

    Returns
    -------
    ndarray of shape (H, W, C)
        As from `decode`. Turned as its orientation says, if the image still has one:
        `PIL.ImageOps.exif_transpose` takes it away.

    Raises
    ------
    ImageError
        If the image cannot be loaded.
    """
    try:
        _check_size(*image.size)
        image.load()
        pixels = _pixels(_upright(image), target)
        pages = _pages_of(image)
        if pages > 1:
            _notes.append(f"{pages} pages, but was passed as a loaded Pillow image")
        return pixels
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_reason(error)) from error


def _pages_of(image: Image.Image) -> int:
    """Return how many pages the TIFF of a Pillow image has, as far as Pillow can read them."""
    shown = image.tell()
    try:
        return getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    except Exception:
        image.seek(shown)  # counting turns the pages
        return 1


def from_array(array: NDArray, target: Target | None = None) -> NDArray:
    """Return one image that is an array already.

    Parameters
    ----------
    array : ndarray of shape (H, W) or (H, W, C)
        bool, uint8 or uint16.
    target : Target or None, default=None
        As in `decode`.

    Returns
    -------
    ndarray of shape (H, W, C)
        uint8 or uint16.

    Raises
    ------
    ImageError
        If the array has another shape or dtype.
    """
    if array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(f"an array among image files must have shape (H, W) or (H, W, C), got {array.shape}")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"an array among image files must be uint8 or uint16, got {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return _resized(array if array.ndim == 3 else array[:, :, None], target)


def convert(images: NDArray, channels: int, dtype: DTypeLike) -> NDArray:
    """Return images with other channels and bits.

    Parameters
    ----------
    images : ndarray of shape (..., C)
        uint8, uint16, int16 or float32.
    channels : int
        C, or 3 where C is 1 (grey three times), or 1 where C is 3 (luma, ITU-R BT.601).
    dtype : dtype
        uint8 or uint16 of either: black stays black and white stays white. float32 of int16: the numbers
        stay.

    Returns
    -------
    ndarray of shape (..., channels)
        The same images.
    """
    dtype = np.dtype(dtype)
    if images.dtype != dtype:
        if dtype == np.float32:
            images = images.astype(dtype)
        elif dtype == np.uint16:
            images = images * np.uint16(257)
        else:
            images = ((images.astype(np.uint32) + 128) // 257).astype(np.uint8)
    found = images.shape[-1]
    if found == 1 and channels == 3:
        return np.repeat(images, 3, axis=-1)
    if found == 3 and channels == 1:
        # The fixed-point weights of Pillow's convert("L").
        weights = np.array([19595, 38470, 7471], dtype=np.int64)
        if dtype == np.float32:
            return (images @ (weights / 65536).astype(dtype))[..., None]
        return ((images @ weights + 0x8000) >> 16).astype(dtype)[..., None]
    return images


def size_of(file: BinaryIO) -> tuple[int, int]:
    """Return the size of the first image of a file, of which only the head is read.

    Parameters
    ----------
    file : binary file
        As for `decode`.

    Returns
    -------
    (int, int)
        Height and width, once the image is turned as its orientation says.

    Raises
    ------
    Exception
        An exception of any kind, if the file is damaged.
    """
    found = tiff_size(file)
    if found is not None:
        return found
    with _open(file) as image:
        return pillow_size(image)


def _read_deep_png(file: BinaryIO) -> NDArray | None:
    """Return the uint16 pixels of a PNG with 16 bits and colours or alpha, None for any other file.

    Pillow reads only the high bytes of such a PNG.
    """
    file.seek(0)
    head = file.read(26)
    # The first chunk holds width, height, bits and colour type, which is 0 without colours and alpha.
    if head[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or len(head) < 26 or head[24] != 16 or head[25] == 0:
        return None
    _check_size(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))
    try:
        import imagecodecs
    except ImportError as error:
        raise ImageError(
            "imagecodecs, which reads PNGs with colours or alpha of 16 bits, is not installed: "
            'pip install "sklearn-simclr[tiff]"'
        ) from error
    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    return over_white(pixels) if pixels.shape[2] in (2, 4) else pixels


def _decode_by_pillow(file: BinaryIO, target: Target | None) -> NDArray:
    image = _open(file)
    with image:
        _check_size(*image.size)
        if target is not None and image.format in ("JPEG", "MPO"):
            wanted = target.turned() if _orientation(image) >= 5 else target
            image.draft(image.mode, _draft_size(*image.size, wanted))
        image.load()
        # Not before: PNGs may have their orientation at the end, and TIFFs are turned while they are loaded.
        return _pixels(_upright(image), target)


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    # Not exif_transpose: it also writes an EXIF block without the orientation, which can fail.
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _open(file: BinaryIO) -> Image.Image:
    """Return the image of a file, of which only the head has been read."""
    _check_head(file)
    file.seek(0)
    Image.init()
    try:
        return Image.open(file, formats=_known_formats(tuple(Image.OPEN)))
    except Image.UnidentifiedImageError:
        file.seek(0)
        start = file.read(8)
        advice = ""
        if start[4:] == b"ftyp":
            advice = "; HEIC needs pip install pillow-heif, and pillow_heif.register_heif_opener()"
        raise ImageError(
            f"it is no image of a known format, or damaged at its start ({start!r}){advice}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{error} The limit is PIL.Image.MAX_IMAGE_PIXELS; raise the limit if you trust the file"
        ) from None


@cache
def _known_formats(registered: tuple[str, ...]) -> list[str]:
    """Return the formats that are read, of those that Pillow knows now."""
    return [name for name in _FORMATS if name in registered] + plugin_formats()


def plugin_formats() -> list[str]:
    """Return the formats that plugins of other packages have registered with Pillow, such as HEIF."""
    return [name for name, (opener, _) in Image.OPEN.items() if not opener.__module__.startswith("PIL.")]


def _check_head(file: BinaryIO) -> None:
    """Refuse sizes for which Pillow's decoders of WebP and AVIF take memory when a file is opened."""
    file.seek(0)
    head = file.read(_HEAD)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if head[12:16] == b"VP8X" and len(head) >= 30:
            _check_size(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
        elif head[12:16] == b"VP8L" and len(head) >= 25:
            bits = int.from_bytes(head[21:25], "little")
            _check_size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif head[12:16] == b"VP8 " and len(head) >= 30:
            sides = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
            _check_size(*(side & 0x3FFF for side in sides))
    elif head[4:8] == b"ftyp":
        # The sizes of the image and of its tiles, if it has any.
        for found in re.finditer(b"ispe", head):
            size = head[found.end() + 4 : found.end() + 12]
            _check_size(int.from_bytes(size[:4], "big"), int.from_bytes(size[4:], "big"))


def pillow_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width that a Pillow image has once it is turned as its orientation says."""
    # Sizes of TIFFs are turned when they are opened. The orientation of a PNG may be at its end; to find it
    # there, Pillow would decode everything before.
    asked = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    turned = asked and _orientation(image) >= 5
    return image.size if turned else image.size[::-1]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    # If the EXIF block is damaged, only the orientation is lost.
    except Exception:
        return 1


def _draft_size(width: int, height: int, target: Target) -> tuple[int, int]:
    """Return the size that suffices; Pillow decodes a JPEG at 1/2, 1/4 or 1/8 where that is no smaller."""
    left, top, right, bottom = target.box(height, width)
    scale = max(target.width / (right - left), target.height / (bottom - top)) * _DRAFT_GAP
    return int(np.ceil(width * scale)), int(np.ceil(height * scale))


def _pixels(image: Image.Image, target: Target | None) -> NDArray:
    """Return the pixels of a Pillow image, in the size asked for."""
    mode = image.mode
    if mode.startswith("I"):
        array = np.asarray(image)
        tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
        signed = tags.get(339) in (2, (2,))
        if mode == "I" and tags.get(258) == (32,):  # a TIFF that the user opened; as `read_tiff` has it
            array = array if signed else array.view(np.uint32)
            return _resized(array.astype(np.float32)[:, :, None], target)
        if mode.startswith("I;16") and tags.get(262) == 0:  # white is zero: Pillow inverts only up to 8 bits
            array = 65535 - array
        low, high = (-32768, 32767) if signed else (0, 65535)
        if mode == "I" and (array.min(initial=0) < low or array.max(initial=0) > high):
            raise ImageError("its pixels have 32 bits; load it as an array")
        return _resized(array.astype(np.int16 if signed else np.uint16)[:, :, None], target)
    if mode == "F":
        array = np.asarray(image)
        if not np.isfinite(array).all():
            raise ImageError(
                "some of its pixels are NaN or infinite; load it as an array, and give these pixels a value"
            )
        return _resized(array[:, :, None], target)
    base = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode != base:
        image = image.convert(base)
    if target is not None:
        image = resize_pillow(image, target)
    width, height = image.size
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(height, width, -1)


def _resized(array: NDArray, target: Target | None) -> NDArray:
    return array if target is None else resize_array(array, target)


def _most_pixels() -> int | None:
    return Image.MAX_IMAGE_PIXELS


def _check_size(width: int, height: int) -> None:
    limit = _most_pixels()
    if width < 1 or height < 1:
        raise ImageError(f"it has no pixels ({width} x {height})")
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{width} x {height} pixels are more than the limit PIL.Image.MAX_IMAGE_PIXELS = {limit}; raise "
            "the limit if you trust the file"
        )


def _reason(error: Exception) -> str:
    text = str(error).strip()
    lines = text.splitlines()
    return f"it is damaged ({lines[0][:200] if lines else type(error).__name__})"
