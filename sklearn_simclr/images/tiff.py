"""TIFF images that Pillow cannot read whole, read by tifffile: many channels, or many bits in several."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2
    from tifffile import TiffPage

__all__ = ["TiffError", "over_white", "read_tiff", "tiff_size"]

# Tags of TIFF 6.0, section 8.
_WIDTH, _HEIGHT = 256, 257
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _EXTRA_SAMPLES = 258, 262, 274, 277, 338

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _ALPHA = 1, 2

# Compressions whose decoders are told how much they may write. The others allocate what a file asks for.
_UNCOMPRESSED = 1
_COMPRESSIONS = {
    _UNCOMPRESSED: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "Zstandard",
}

# Pixels whose numbers are widened at a time: a whole image would take several times its memory.
_PIXELS_AT_ONCE = 1 << 16


class TiffError(ValueError):
    """Why a TIFF cannot be read."""


def read_tiff(file: BinaryIO, most_pixels: int | None = None) -> NDArray | None:
    """Return the first image of a TIFF with many channels or many bits.

    Parameters
    ----------
    file : binary file
        Of any content.
    most_pixels : int or None, default=None
        A third of the numbers that an image may have.

    Returns
    -------
    ndarray of shape (H, W, C) or None
        uint8 or uint16, turned as its orientation says, without alpha: transparent parts are white. None
        for what is no TIFF, or one that Pillow reads whole.

    Raises
    ------
    TiffError
        If the file is damaged, too large, or of a kind that is not read, or if tifffile is missing.
    """
    tags = _tags(file)
    if tags is None or _pillow_reads(tags):
        return None
    try:
        import tifffile
    except ImportError as error:
        raise _missing("tifffile") from error
    file.seek(0)
    # Without a name, tifffile asks for that of the file, which may be a number.
    with tifffile.TiffFile(file, name="image.tif") as tiff:
        page = tiff.pages[0]
        _check_kind(page)
        _check_size(page, most_pixels)
        _check_blocks(page, tiff.filehandle.size)
        if page.compression != _UNCOMPRESSED or page.fillorder != 1:
            try:
                # tifffile takes its decoders from it, and without it one that has no limit.
                import imagecodecs  # noqa: F401
            except ImportError as error:
                raise _missing("imagecodecs") from error
        # Images are read by several threads already.
        image = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        image = np.moveaxis(image, 0, -1)
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    extra = _values(tags, _EXTRA_SAMPLES)
    if extra[:1] in ((_PREMULTIPLIED,), (_ALPHA,)) and image.shape[-1] in (2, 4):
        image = over_white(image, extra[0] == _PREMULTIPLIED)
    return _turned(image, _one(tags, _ORIENTATION, 1))


def tiff_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return height and width of the first image of a TIFF, turned as its orientation says.

    Parameters
    ----------
    file : binary file
        Of any content.

    Returns
    -------
    (int, int) or None
        None for what is no TIFF.
    """
    tags = _tags(file)
    if tags is None:
        return None
    height, width = _one(tags, _HEIGHT, 0), _one(tags, _WIDTH, 0)
    return (width, height) if _one(tags, _ORIENTATION, 1) >= 5 else (height, width)


def over_white(image: NDArray, premultiplied: bool = False) -> NDArray:
    """Return the colours of an image whose last channel is alpha, laid over white."""
    top = int(np.iinfo(image.dtype).max)
    pixels = image.reshape(-1, image.shape[-1])
    out = np.empty((len(pixels), image.shape[-1] - 1), dtype=image.dtype)
    for start in range(0, len(pixels), _PIXELS_AT_ONCE):
        some = slice(start, start + _PIXELS_AT_ONCE)
        colors, alpha = np.split(pixels[some].astype(np.uint32), [-1], axis=1)
        if not premultiplied:
            colors = (colors * alpha + top // 2) // top
        out[some] = np.minimum(colors + (top - alpha), top)
    return out.reshape(*image.shape[:-1], -1)


def _tags(file: BinaryIO) -> ImageFileDirectory_v2 | None:
    """Return the tags of the first image of a TIFF, None for any other file."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    # The last is BigTIFF; Pillow does not know its big-endian form.
    size = {b"II*\0": 8, b"MM\0*": 8, b"II+\0": 16}.get(file.read(4))
    if size is None:
        return None
    file.seek(0)
    tags = ImageFileDirectory_v2(file.read(size))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _values(tags: ImageFileDirectory_v2, tag: int) -> tuple:
    values = tags.get(tag, ())
    return values if isinstance(values, tuple) else (values,)


def _one(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return (*_values(tags, tag), default)[0]


def _pillow_reads(tags: ImageFileDirectory_v2) -> bool:
    """Return whether Pillow gives all channels and all bits."""
    samples, photometric = _one(tags, _SAMPLES, 1), _one(tags, _PHOTOMETRIC, _BLACK_IS_ZERO)
    if samples == 1:
        return True
    if max(_values(tags, _BITS), default=1) > 8:
        return False
    extra = _values(tags, _EXTRA_SAMPLES)
    if photometric == _RGB:
        return samples == 3 or samples == 4 and extra in ((_PREMULTIPLIED,), (_ALPHA,))
    if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return samples == 2 and extra in ((_PREMULTIPLIED,), (_ALPHA,))
    return samples <= 4  # CMYK, YCbCr, LAB


def _check_kind(page: TiffPage) -> None:
    if 0 in page.shape:
        raise TiffError(f"it has no pixels (shape {page.shape})")
    if page.axes not in ("YXS", "SYX"):
        raise TiffError(f"its axes are {page.axes}, not those of one image; load it as an array")
    if page.bitspersample not in (8, 16) or page.sampleformat != 1:
        raise TiffError(
            f"its channels have {page.bitspersample} bits of sample format {page.sampleformat}, not 8 or 16 "
            "bits of unsigned whole numbers; load it as an array"
        )
    if page.compression not in _COMPRESSIONS:
        raise TiffError(
            f"its compression, {page.compression}, tells the size of the pixels only when they are decoded; "
            f"save it with one of {sorted(set(_COMPRESSIONS.values()))}, or load it as an array"
        )
    # tifffile sums such pixels across rows and channels, libtiff not at all.
    if page.compression == _UNCOMPRESSED and page.predictor != 1:
        raise TiffError(f"it has a predictor, {page.predictor}, but no compression; load it as an array")


def _check_size(page: TiffPage, most_pixels: int | None) -> None:
    """Refuse what would take more memory than Pillow gives to an image."""
    numbers = math.prod(page.shape)
    if page.is_tiled:
        numbers = max(numbers, math.prod(page.chunked) * math.prod(page.chunks))
    if most_pixels is not None and numbers > 3 * most_pixels:
        raise TiffError(
            f"{page.imagewidth} x {page.imagelength} pixels of {page.samplesperpixel} channels, in tiles or "
            f"strips of shape {page.chunks}, are more than the limit, 3 x PIL.Image.MAX_IMAGE_PIXELS = "
            f"{3 * most_pixels} numbers; raise it if you trust the file"
        )


def _check_blocks(page: TiffPage, size: int) -> None:
    """Refuse missing tiles or strips, for which tifffile gives zeros, or what follows in the file."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if not math.prod(page.chunked) == len(offsets) == len(counts) or min(min(offsets), min(counts)) < 1:
        raise TiffError("it is damaged (tiles or strips are missing)")
    least = page.nbytes if page.compression == _UNCOMPRESSED else 0
    if sum(counts) < least or any(a + b > size for a, b in zip(offsets, counts, strict=True)):
        raise TiffError("it is truncated")


def _turned(image: NDArray, orientation: int) -> NDArray:
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _missing(name: str) -> TiffError:
    return TiffError(
        f"{name} is not installed, which reads TIFFs of many channels or bits: "
        'pip install "sklearn-simclr[tiff]"'
    )
