"""TIFF images that Pillow cannot read whole: many channels or pages, many bits, signs or fractions."""

from __future__ import annotations

import math
import os
import re
import struct
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["TiffError", "over_white", "read_tiff", "tiff_size"]

# Tags of TIFF 6.0, section 8, 15 and 19.
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_DESCRIPTION, _STRIPS, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 270, 273, 274, 277, 322, 323
_TILES, _EXTRA_SAMPLES, _FORMAT = 324, 338, 339
_WANTED = {_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES}
_WANTED |= {_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _FORMAT}

# Bytes of a number of each type, and its letter for struct where it is a whole number or text.
_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_LETTERS = {1: "B", 2: "s", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q"}

# What a reduced copy or a mask of another page says of itself in its subfile type.
_REDUCED_OR_MASK = 1 | 4

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3

# Formats and bits of the numbers that are read, and the dtype that they get.
_DTYPES = {(_UNSIGNED, 8): "uint8", (_UNSIGNED, 16): "uint16", (_SIGNED, 8): "int16", (_SIGNED, 16): "int16"}
_DTYPES |= {(_FLOAT, bits): "float32" for bits in (16, 32, 64)}
_DTYPES |= {(_UNSIGNED, 32): "float32", (_SIGNED, 32): "float32"}

# More pages are a film, more tiles or strips are nonsense: lists of them would take more memory than pixels.
_MOST_PAGES = 1 << 12
_MOST_BLOCKS = 1 << 20
_MOST_SAMPLES = 1 << 16

# Numbers that a tile may have, however small the image is.
_LARGE_TILE = 1 << 24

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


# The tags of one page: values of the tags that are wanted, and the number of strips and tiles.
_Tags: TypeAlias = dict[int, tuple]


class TiffError(ValueError):
    """Why a TIFF cannot be read."""


def read_tiff(
    file: BinaryIO, most_pixels: int | None = None, notes: list[str] | None = None
) -> NDArray | None:
    """Return the image of a TIFF with many channels, many bits, other numbers than whole ones, or many pages.

    Grey pages of one size are channels of one image, in their order. Otherwise the first page is the image.

    Parameters
    ----------
    file : binary file
        A file of any content.
    most_pixels : int or None, default=None
        A third of the numbers that an image may have.
    notes : list of str or None, default=None
        Gets a line about what was left out.

    Returns
    -------
    ndarray of shape (H, W, C) or None
        uint8, uint16, int16 or float32, turned as its orientation says, without alpha: transparent parts are
        white. None for what is no TIFF, or one that Pillow reads whole.

    Raises
    ------
    TiffError
        If the file is damaged, too large, or of a kind that is not read, or if tifffile is missing.
    """
    pages = _directories(file)
    if pages is None:
        return None
    tags = pages[0]
    for page in pages:
        _check_claims(page, most_pixels)
    shown = [0, *(k for k, page in enumerate(pages) if k and not _one(page, _SUBFILE, 0) & _REDUCED_OR_MASK)]
    planes = _planes_behind(tags) if len(shown) == 1 else 1
    is_stack = max(len(shown), planes) > 1 and _is_channel(tags) and len(pages) <= _MOST_PAGES
    is_stack = is_stack and all(_alike(pages[k], tags) for k in shown)
    if not is_stack:
        shown, planes = shown[:1], 1
        left_out = len(pages) - 1 - sum(_one(page, _SUBFILE, 0) & _REDUCED_OR_MASK != 0 for page in pages[1:])
        if left_out and notes is not None:
            notes.append(_why_no_channels(pages, left_out + 1))
        if _pillow_reads(tags):
            return None
    try:
        import tifffile
    except ImportError as error:
        raise _missing("tifffile") from error
    file.seek(0)
    # Without a name, tifffile asks for that of the file, which may be a number.
    with tifffile.TiffFile(file, name="image.tif") as tiff:
        image = _pixels(tiff, shown, planes, most_pixels)
    extra, whole = tags.get(_EXTRA_SAMPLES, ()), image.dtype.kind == "u"
    has_alpha = whole and extra in ((_PREMULTIPLIED,), (_ALPHA,)) and image.shape[-1] in (2, 4)
    if whole and _one(tags, _PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO:
        colors = image[:, :, :-1] if has_alpha else image
        np.subtract(np.iinfo(image.dtype).max, colors, out=colors)
    if has_alpha:
        image = over_white(image, extra[0] == _PREMULTIPLIED)
    return _turned(image, _one(tags, _ORIENTATION, 1))


def _pixels(tiff: TiffFile, shown: list[int], planes: int, most_pixels: int | None) -> NDArray:
    """Return the pixels (H, W, C) of pages, or of planes that lie behind a single page."""
    image: NDArray | None = None
    for channel, number in enumerate(shown):
        page = tiff.pages[number]
        _check_kind(page)
        _check_size(page, most_pixels, len(shown) * planes)
        _check_blocks(page, tiff.filehandle.size, planes)
        if page.compression != _UNCOMPRESSED or page.fillorder != 1:
            try:
                # tifffile takes its decoders from imagecodecs; without imagecodecs, one that has no limit.
                import imagecodecs  # noqa: F401
            except ImportError as error:
                raise _missing("imagecodecs") from error
        if planes > 1:
            count = planes * math.prod(page.shape)
            dtype = np.dtype(tiff.byteorder + page.dtype.char)
            read = tiff.filehandle.read_array(dtype, count, page.dataoffsets[0]).reshape(planes, *page.shape)
        else:
            # Images are read by several threads already.
            read = page.asarray(maxworkers=1)
        if page.axes == "YX":
            read = read.reshape(-1, *page.shape)
        if page.axes != "YXS":
            read = np.moveaxis(read, 0, -1)
        read = read.astype(_DTYPES[page.sampleformat, page.bitspersample], copy=False)
        if len(shown) == 1:
            image = read
            break
        if image is None:
            image = np.empty((*read.shape[:2], len(shown)), dtype=read.dtype)
        image[:, :, channel] = read[:, :, 0]
    assert image is not None
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = image.size - np.count_nonzero(np.isfinite(image))
        raise TiffError(
            f"{bad} of its {image.size} numbers are NaN or infinite; load it as an array, and give these "
            "numbers a value"
        )
    return image


def tiff_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return height and width of the first image of a TIFF, turned as its orientation says.

    Parameters
    ----------
    file : binary file
        A file of any content.

    Returns
    -------
    (int, int) or None
        None for what is no TIFF.
    """
    pages = _directories(file, most=1)
    if pages is None:
        return None
    height, width = _one(pages[0], _HEIGHT, 0), _one(pages[0], _WIDTH, 0)
    return (width, height) if _one(pages[0], _ORIENTATION, 1) >= 5 else (height, width)


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


def _directories(file: BinaryIO, most: int = _MOST_PAGES + 1) -> list[_Tags] | None:
    """Return the tags of the pages of a TIFF, at least of one, None for any other file.

    Pillow and tifffile would take as much memory as the tags of a file claim, many of which may share bytes.
    """
    file.seek(0)
    head = file.read(16)
    # The last is BigTIFF; Pillow does not know its big-endian form.
    form = {b"II*\0": "<LH4s", b"MM\0*": ">LH4s", b"II+\0": "<QQ8s"}.get(head[:4])
    if form is None:
        return None
    order, pointer, number = form[0], form[0] + form[1], form[0] + form[2]
    entry = f"{order}HH{form[1]}{form[3:]}"
    size = file.seek(0, os.SEEK_END)
    if len(head) < 8 or (len(head) < 16 and form[1] == "Q"):
        raise TiffError("it is truncated")
    (at,) = struct.unpack_from(pointer, head, struct.calcsize(pointer))
    pages: list[_Tags] = []
    seen: set[int] = set()
    claimed = 0
    while at and at not in seen and len(pages) < most:
        seen.add(at)
        try:
            file.seek(at)
            (n,) = struct.unpack(number, file.read(struct.calcsize(number)))
            raw = file.read(min(n * struct.calcsize(entry), size))
            claimed += len(raw)
            tags: _Tags = {}
            for tag, kind, count, value in struct.iter_unpack(entry, raw):
                length = count * _BYTES.get(kind, 0)
                claimed += length
                if claimed > 2 * size or (tag in _WANTED - {_DESCRIPTION} and count > _MOST_SAMPLES):
                    raise TiffError("it is damaged (its tags claim more bytes than the file has)")
                if tag in (_STRIPS, _TILES):
                    tags[tag] = (count,)
                elif tag in _WANTED and kind in _LETTERS and count:
                    if length > len(value):
                        file.seek(struct.unpack(pointer, value)[0])
                        value = file.read(length)
                    tags[tag] = struct.unpack_from(f"{order}{count}{_LETTERS[kind]}", value)
            file.seek(at + struct.calcsize(number) + n * struct.calcsize(entry))
            (at,) = struct.unpack(pointer, file.read(struct.calcsize(pointer)))
        except (struct.error, OverflowError, OSError):
            # Where pages are channels, none may be missing.
            if not pages or _is_channel(pages[0]):
                raise TiffError(f"it is damaged or truncated (page {len(pages)} is cut off)") from None
            break
        pages.append(tags)
    if not pages:
        raise TiffError("it is damaged (it has no page)")
    return pages


def _one(tags: _Tags, tag: int, default: int) -> int:
    values = tags.get(tag, ())
    return values[0] if values and isinstance(values[0], int) else default


def _numbers(tags: _Tags) -> tuple[int, int]:
    """Return the format and the bits of the numbers of a page, 0 where its samples differ."""
    formats, bits = set(tags.get(_FORMAT, (_UNSIGNED,))), set(tags.get(_BITS, (1,)))
    return (formats.pop() if len(formats) == 1 else 0), (bits.pop() if len(bits) == 1 else 0)


def _is_channel(tags: _Tags) -> bool:
    """Return whether a page can be a channel of an image whose other channels are pages like it."""
    return (
        _one(tags, _SAMPLES, 1) == 1
        and _one(tags, _PHOTOMETRIC, _BLACK_IS_ZERO) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        and _numbers(tags) in _DTYPES
        and _one(tags, _COMPRESSION, _UNCOMPRESSED) in _COMPRESSIONS
    )


def _why_no_channels(pages: list[_Tags], count: int) -> str:
    """Return how many pages there are, and why they are not channels of one image."""
    if len(pages) > _MOST_PAGES:
        return f"more than {_MOST_PAGES} pages, which is too many for channels"
    first = pages[0]
    samples, photometric = _one(first, _SAMPLES, 1), _one(first, _PHOTOMETRIC, _BLACK_IS_ZERO)
    kind, bits = _numbers(first)
    if samples != 1 or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        why = "of which the first is not grey"
    elif (kind, bits) not in _DTYPES:
        why = (
            f"whose pixels have {bits} bits and sample format {kind}: channels must be whole numbers of 8, "
            "16 or 32 bits, or floating-point numbers of 16, 32 or 64 bits"
        )
    elif _one(first, _COMPRESSION, _UNCOMPRESSED) not in _COMPRESSIONS:
        known = ", ".join(sorted(set(_COMPRESSIONS.values())))
        why = f"which would be channels if they were saved with one of the compressions {known}"
    else:
        why = "which differ in size or kind"
    return f"{count} pages, {why}"


def _alike(page: _Tags, first: _Tags) -> bool:
    what = (_WIDTH, _HEIGHT, _SAMPLES, _PHOTOMETRIC, _ORIENTATION)
    return _numbers(page) == _numbers(first) and all(page.get(tag) == first.get(tag) for tag in what)


def _planes_behind(tags: _Tags) -> int:
    """Return how many planes a single page stands for, as ImageJ and tifffile write stacks of many."""
    text = tags.get(_DESCRIPTION, (b"",))[0]
    if _one(tags, _COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED or not isinstance(text, bytes):
        return 1
    if text.startswith(b"ImageJ="):
        found = re.search(rb"^images=([0-9]{1,9})\s*$", text, re.MULTILINE)
        return max(1, int(found[1])) if found else 1
    found = re.match(rb'{"shape": \[((?:[0-9]{1,9}, )*)[0-9]{1,9}, [0-9]{1,9}\]', text)
    return max(1, math.prod(int(size) for size in found[1].split(b",")[:-1])) if found else 1


def _check_claims(tags: _Tags, most_pixels: int | None) -> None:
    """Refuse sizes for which decoders would take memory before they look whether there is anything."""
    width, height = _one(tags, _WIDTH, 0), _one(tags, _HEIGHT, 0)
    samples = _one(tags, _SAMPLES, 1)
    numbers = width * height * max(1, samples)
    tile_width, tile_height = _one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)
    blocks = max(_one(tags, _STRIPS, 0), _one(tags, _TILES, 0))
    padded = tile = numbers
    if tile_width > 0 and tile_height > 0:
        across, down = -(-width // tile_width), -(-height // tile_height)
        blocks = max(blocks, across * down)
        tile = tile_width * tile_height * max(1, samples)
        padded = across * down * tile
    if blocks > _MOST_BLOCKS:
        raise TiffError(
            f"it is damaged ({width} x {height} pixels in {blocks} pieces: tiles or strips are missing)"
        )
    limit = math.inf if most_pixels is None else 3 * most_pixels
    found = f"{width} x {height} pixels of {samples} channels"
    tiles = f"tiles of {tile_width} x {tile_height} pixels" if padded > numbers else "strips"
    if padded > limit:
        raise TiffError(
            f"{found}, in whole {tiles}, are more than the limit, 3 x PIL.Image.MAX_IMAGE_PIXELS = {limit} "
            "numbers; raise the limit if you trust the file"
        )
    if tile > max(4 * numbers, _LARGE_TILE):
        raise TiffError(
            f"{found} are in {tiles}, and one tile is more than four times its pixels; save it with smaller "
            "tiles"
        )


def _pillow_reads(tags: _Tags) -> bool:
    """Return whether Pillow gives all channels and all bits."""
    samples, photometric = _one(tags, _SAMPLES, 1), _one(tags, _PHOTOMETRIC, _BLACK_IS_ZERO)
    kind, bits = _numbers(tags)
    if (kind, bits) in _DTYPES and (kind != _UNSIGNED or bits > 16):
        return False
    if samples == 1:
        return True
    if max(tags.get(_BITS, (1,)), default=1) > 8:
        return False
    extra = tags.get(_EXTRA_SAMPLES, ())
    if photometric == _RGB:
        return samples == 3 or samples == 4 and extra in ((_PREMULTIPLIED,), (_ALPHA,))
    if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return samples == 2 and photometric != _WHITE_IS_ZERO and extra in ((_PREMULTIPLIED,), (_ALPHA,))
    return samples <= 4  # CMYK, YCbCr, LAB


def _check_kind(page: TiffPage) -> None:
    if 0 in page.shape:
        raise TiffError(f"it has no pixels (shape {page.shape})")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise TiffError(f"its axes, {page.axes}, are not the axes of one image; load it as an array")
    if (page.sampleformat, page.bitspersample) not in _DTYPES:
        raise TiffError(
            f"its channels have {page.bitspersample} bits of sample format {page.sampleformat}; only whole "
            "numbers of 8, 16 or 32 bits and floating-point numbers of 16, 32 or 64 bits are read; load it "
            "as an array"
        )
    if page.compression not in _COMPRESSIONS:
        raise TiffError(
            f"its compression, {page.compression}, does not tell the size of the pixels beforehand; "
            f"save it with one of {sorted(set(_COMPRESSIONS.values()))}, or load it as an array"
        )
    # tifffile sums such pixels across rows and channels, libtiff not at all.
    if page.compression == _UNCOMPRESSED and page.predictor != 1:
        raise TiffError(f"it has a predictor, {page.predictor}, but no compression; load it as an array")


def _check_size(page: TiffPage, most_pixels: int | None, pages: int) -> None:
    """Refuse what would take more memory than Pillow gives to an image."""
    numbers = math.prod(page.shape) * pages
    if page.is_tiled:
        numbers = max(numbers, math.prod(page.chunked) * math.prod(page.chunks))
    numbers = numbers * max(16, page.bitspersample) // 16
    if most_pixels is not None and numbers > 3 * most_pixels:
        raise TiffError(
            f"{page.imagewidth} x {page.imagelength} pixels of {page.samplesperpixel * pages} channels, in "
            f"tiles or strips of shape {page.chunks}, are more than the limit, 3 x "
            f"PIL.Image.MAX_IMAGE_PIXELS = {3 * most_pixels} numbers of 16 bits; raise the "
            "limit if you trust the file"
        )


def _check_blocks(page: TiffPage, size: int, planes: int = 1) -> None:
    """Refuse missing tiles or strips, for which tifffile gives zeros, or what follows in the file."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if not math.prod(page.chunked) == len(offsets) == len(counts) or min(min(offsets), min(counts)) < 1:
        raise TiffError("it is damaged (tiles or strips are missing)")
    if planes > 1 and offsets[0] + planes * page.nbytes > size:
        raise TiffError(f"it is truncated: it claims {planes} planes")
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
        f"{name}, which reads TIFFs of many channels, pages or bits, is not installed: "
        'pip install "sklearn-simclr[tiff]"'
    )
