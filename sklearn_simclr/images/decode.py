"""One image as people have it, the bytes of a file or a Pillow image, as an array of whole numbers."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._utils.types import ImageSize
from .tiff import TiffError, over_white, read_tiff

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["ImageError", "convert", "decode", "from_array", "from_pillow", "strict_decoders"]

# Formats by content. Those that start other programs (EPS) or that have no signature (TGA) are left out.
_FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")

# Where a JPEG is decoded at a reduced scale, it keeps at least this many times the pixels a side asked for:
# the antialiased resize that follows does the rest.
_DRAFT_GAP = 2

_STRICT = threading.RLock()


class ImageError(ValueError):
    """Why one image cannot be read."""


@contextlib.contextmanager
def strict_decoders() -> Iterator[None]:
    """Have Pillow refuse truncated files, and decoders keep their warnings to themselves, in all threads."""
    from PIL import Image, ImageFile

    log = logging.getLogger("tifffile")
    with _STRICT, warnings.catch_warnings():
        Image.init()
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        truncated, level = ImageFile.LOAD_TRUNCATED_IMAGES, log.level
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = truncated
            log.setLevel(level)


def decode(file: bytes | BinaryIO, image_size: ImageSize = None) -> NDArray:
    """Return the first image of a file.

    Parameters
    ----------
    file : bytes or binary file
        In any of the formats, whatever its name says.
    image_size : None, int or (int, int)
        None keeps the size. An int is the side of the square that the centre of the image, a square of its
        shorter side, is resized to. (height, width) is the size that the whole image is resized to.

    Returns
    -------
    ndarray of shape (H, W, C)
        uint8 or uint16; C is 1 for grey, 3 for RGB, anything for a multi-channel TIFF.

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
            array = read_tiff(file, _most_pixels())
        return _decode_by_pillow(file, image_size) if array is None else _resize_array(array, image_size)
    except (ImageError, TiffError) as error:
        raise ImageError(str(error)) from None
    except MemoryError:
        raise ImageError("there is not enough memory for its pixels") from None
    # Damaged files make decoders fail in any way: struct.error, KeyError, SyntaxError, OverflowError...
    except Exception as error:
        raise ImageError(_reason(error)) from error


def from_pillow(image: PIL.Image.Image, image_size: ImageSize = None) -> NDArray:
    """Return a Pillow image as an array.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode with whole numbers.
    image_size : None, int or (int, int)
        As in `decode`.

    Returns
    -------
    ndarray of shape (H, W, C)
        uint8 or uint16. The pixels as they are: whoever opened the file decided about its orientation.

    Raises
    ------
    ImageError
        If it cannot be loaded.
    """
    try:
        _check_size(*image.size)
        return _pixels(image, image_size)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_reason(error)) from error


def from_array(array: NDArray, image_size: ImageSize = None) -> NDArray:
    """Return one image that is an array already.

    Parameters
    ----------
    array : ndarray of shape (H, W) or (H, W, C)
        bool, uint8 or uint16.
    image_size : None, int or (int, int)
        As in `decode`.

    Returns
    -------
    ndarray of shape (H, W, C)
        uint8 or uint16.

    Raises
    ------
    ImageError
        If it is something else.
    """
    if array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(f"an array among image files must be (H, W) or (H, W, C), got shape {array.shape}")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"an array among image files must be uint8 or uint16, got {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return _resize_array(array if array.ndim == 3 else array[:, :, None], image_size)


def convert(images: NDArray, channels: int, dtype: DTypeLike) -> NDArray:
    """Return images with other channels and bits.

    Parameters
    ----------
    images : ndarray of shape (..., C)
        uint8 or uint16.
    channels : int
        C, or 3 where C is 1 (grey three times), or 1 where C is 3 (luma, ITU-R BT.601).
    dtype : dtype
        uint8 or uint16; black stays black and white stays white.

    Returns
    -------
    ndarray of shape (..., channels)
        The same images.
    """
    dtype = np.dtype(dtype)
    if images.dtype != dtype:
        if dtype == np.uint16:
            images = images * np.uint16(257)
        else:
            images = ((images.astype(np.uint32) + 128) // 257).astype(np.uint8)
    found = images.shape[-1]
    if found == 1 and channels == 3:
        return np.repeat(images, 3, axis=-1)
    if found == 3 and channels == 1:
        # The fixed-point weights of Pillow's convert("L").
        weights = np.array([19595, 38470, 7471], dtype=np.int64)
        return ((images @ weights + 0x8000) >> 16).astype(dtype)[..., None]
    return images


def _read_deep_png(file: BinaryIO) -> NDArray | None:
    """Return the uint16 pixels of a PNG with 16 bits and colours or alpha, None for any other file.

    Pillow gives the high bytes of these only.
    """
    file.seek(0)
    head = file.read(26)
    # Of its first chunk: width, height, bits, colour type, which is 0 without colours and alpha.
    if head[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or len(head) < 26 or head[24] != 16 or head[25] == 0:
        return None
    _check_size(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))
    try:
        import imagecodecs
    except ImportError as error:
        raise ImageError(
            "imagecodecs is not installed, which reads PNGs with colours or alpha of 16 bits: "
            'pip install "sklearn-simclr[tiff]"'
        ) from error
    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    return over_white(pixels) if pixels.shape[2] in (2, 4) else pixels


def _decode_by_pillow(file: BinaryIO, image_size: ImageSize) -> NDArray:
    from PIL import Image, ImageOps

    file.seek(0)
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=formats)
    except Image.UnidentifiedImageError:
        file.seek(0)
        start = file.read(8)
        raise ImageError(f"it is no image of a known format, or damaged at its start ({start!r})") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{error} The limit is PIL.Image.MAX_IMAGE_PIXELS") from None
    with image:
        _check_size(*image.size)
        if image_size is not None and image.format in ("JPEG", "MPO"):
            swapped = _orientation(image) >= 5
            wanted = image_size[::-1] if swapped and not isinstance(image_size, int) else image_size
            image.draft(image.mode, _draft_size(*image.size, wanted))
        image.load()
        # Only now: PNGs may have it at their end, and TIFFs are turned while they are loaded.
        if _orientation(image) != 1:
            # Once the image is turned, Pillow writes an EXIF block without the orientation, which can fail.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
        return _pixels(image, image_size)


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    # Of a damaged EXIF block only the orientation is lost.
    except Exception:
        return 1


def _draft_size(width: int, height: int, image_size: int | tuple[int, ...]) -> tuple[int, int]:
    """Return the size that suffices; Pillow decodes a JPEG at 1/2, 1/4 or 1/8 where that is no smaller."""
    (to_width, to_height), box = _target(width, height, image_size)
    scale = max(to_width / (box[2] - box[0]), to_height / (box[3] - box[1])) * _DRAFT_GAP
    return int(np.ceil(width * scale)), int(np.ceil(height * scale))


def _pixels(image: PIL.Image.Image, image_size: ImageSize) -> NDArray:
    """Return the pixels of a Pillow image, in the size asked for."""
    from PIL import Image

    mode = image.mode
    if mode.startswith("I"):
        array = np.asarray(image)
        if mode == "I" and (array.min(initial=0) < 0 or array.max(initial=0) > 65535):
            raise ImageError("its pixels have 32 bits; load it as an array")
        return _resize_array(array.astype(np.uint16)[:, :, None], image_size)
    if mode == "F":
        raise ImageError("its pixels are floating-point numbers; load it as an array")
    base = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode != base:
        image = image.convert(base)
    if image_size is not None:
        size, box = _target(*image.size, image_size)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR, box=box)
    width, height = image.size
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(height, width, -1)


def _resize_array(array: NDArray, image_size: ImageSize) -> NDArray:
    """Resize an image of any channels and whole numbers as Pillow does one of bytes."""
    from PIL import Image

    if image_size is None:
        return array
    size, box = _target(array.shape[1], array.shape[0], image_size)
    if (array.shape[1], array.shape[0]) == size:
        return array
    channels = [
        np.asarray(
            Image.fromarray(array[:, :, c].astype(np.float32)).resize(size, Image.Resampling.BILINEAR, box)
        )
        for c in range(array.shape[2])
    ]
    top = np.iinfo(array.dtype).max
    return np.stack(channels, axis=-1).round().clip(0, top).astype(array.dtype)


def _target(
    width: int, height: int, image_size: int | tuple[int, ...]
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Return (width, height) asked for, and the part of the image that is resized to it."""
    if isinstance(image_size, int):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return (image_size, image_size), (left, top, left + side, top + side)
    return (image_size[1], image_size[0]), (0, 0, width, height)


def _most_pixels() -> int | None:
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS


def _check_size(width: int, height: int) -> None:
    limit = _most_pixels()
    if width < 1 or height < 1:
        raise ImageError(f"it has no pixels ({width} x {height})")
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{width} x {height} pixels are more than the limit PIL.Image.MAX_IMAGE_PIXELS = {limit}; raise "
            "it if you trust the file"
        )


def _reason(error: Exception) -> str:
    text = str(error).strip()
    lines = text.splitlines()
    return f"it is damaged ({lines[0][:200] if lines else type(error).__name__})"
