"""TIFF images that Pillow cannot read whole: more than four channels, or 16 bits in more than one."""

import struct
import zlib

import numpy as np

__all__ = ["TiffError", "over_white", "read_tiff"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 284, 317, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_TAGS = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES),
    *(_ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS),
    *(_TILE_COUNTS, _EXTRA_SAMPLES, _SAMPLE_FORMAT),
}

# Of TIFF 6.0, section 2: codes of the types BYTE, SHORT and LONG.
_TYPES = {1: "B", 3: "H", 4: "I"}

_NONE, _DEFLATE, _OLD_DEFLATE = 1, 8, 32946
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _ALPHA = 1, 2


class TiffError(ValueError):
    """Why a TIFF cannot be read."""


def read_tiff(file, most_pixels=None):
    """Return the first image of a TIFF with many channels or many bits.

    Uncompressed and deflated files are read here, strips and tiles, interleaved and planar; others by
    tifffile, if it is installed.

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
        If it is damaged, or of a kind that nothing here reads.
    """
    file.seek(0)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(file.read(4))
    if order is None:
        return None
    tags = _read_tags(file, order)
    if _pillow_reads(tags):
        return None
    width, height, samples = (_one(tags, tag, 1) for tag in (_WIDTH, _HEIGHT, _SAMPLES))
    if not (width and height and samples):
        raise TiffError(f"it has no pixels ({width} x {height}, {samples} channels)")
    if most_pixels is not None and width * height * samples > 3 * most_pixels:
        raise TiffError(
            f"{width} x {height} pixels of {samples} channels are more than the limit, 3 x "
            f"PIL.Image.MAX_IMAGE_PIXELS = {3 * most_pixels} numbers; raise it if you trust the file"
        )
    bits, formats = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (1,)))
    if not (bits in ({8}, {16}) and formats == {1}):
        raise TiffError(
            f"its channels have {sorted(bits)} bits of sample format {sorted(formats)}, not 8 or 16 bits of "
            "unsigned whole numbers; load it as an array"
        )
    compression, predictor = _one(tags, _COMPRESSION, _NONE), _one(tags, _PREDICTOR, 1)
    if compression in (_NONE, _DEFLATE, _OLD_DEFLATE) and predictor in (1, 2):
        image = _read_blocks(file, tags, np.dtype(f"{order}u{bits.pop() // 8}"))
    else:
        image = _read_by_tifffile(file, f"compression {compression}, predictor {predictor}")
        if image.shape[:2] != (height, width):
            raise TiffError(f"its pixels have the shape {image.shape}")
    extra = tags.get(_EXTRA_SAMPLES, ())
    if extra[:1] in ((_PREMULTIPLIED,), (_ALPHA,)) and samples in (2, 4):
        image = over_white(image, extra[0] == _PREMULTIPLIED)
    return _turned(image, _one(tags, _ORIENTATION, 1))


def _read_tags(file, order):
    """Return {tag: tuple of ints} of the first directory, as far as it matters here."""
    size = file.seek(0, 2)
    at = struct.unpack(order + "I", _exactly(file, 4, 4))[0]
    n = struct.unpack(order + "H", _exactly(file, at, 2))[0]
    entries = _exactly(file, at + 2, 12 * n)
    tags = {}
    for k in range(n):
        tag, kind, count = struct.unpack_from(order + "HHI", entries, 12 * k)
        if tag not in _TAGS or kind not in _TYPES:
            continue
        code = f"{order}{count}{_TYPES[kind]}"
        if count > size:
            raise TiffError("it is damaged (a tag is longer than the file)")
        length = struct.calcsize(code)
        if length <= 4:
            raw = entries[12 * k + 8 : 12 * k + 8 + length]
        else:
            raw = _exactly(file, struct.unpack_from(order + "I", entries, 12 * k + 8)[0], length)
        tags[tag] = struct.unpack(code, raw)
    return tags


def _pillow_reads(tags):
    """Return whether Pillow gives all channels and all bits."""
    samples, photometric = _one(tags, _SAMPLES, 1), _one(tags, _PHOTOMETRIC, _BLACK_IS_ZERO)
    if samples == 1:
        return True
    if max(tags.get(_BITS, (1,)), default=1) > 8:
        return False
    extra = tags.get(_EXTRA_SAMPLES, ())
    if photometric == _RGB:
        return samples == 3 or samples == 4 and extra in ((_PREMULTIPLIED,), (_ALPHA,))
    if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return samples == 2 and extra in ((_PREMULTIPLIED,), (_ALPHA,))
    return samples <= 4  # CMYK, YCbCr, LAB


def _read_blocks(file, tags, dtype):
    """Return the pixels of strips or tiles."""
    width, height, samples = (_one(tags, tag, 1) for tag in (_WIDTH, _HEIGHT, _SAMPLES))
    tiled = _TILE_WIDTH in tags
    if tiled:
        block_width, block_height = _one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)
        offsets, counts = tags.get(_TILE_OFFSETS, ()), tags.get(_TILE_COUNTS, ())
    else:
        block_width, block_height = width, min(_one(tags, _ROWS_PER_STRIP, height), height)
        offsets, counts = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_COUNTS, ())
    if not (0 < block_width <= 2 * width + 4096 and 0 < block_height <= 2 * height + 4096):
        raise TiffError("it is damaged (tiles or strips of an impossible size)")
    planar = _one(tags, _PLANAR, 1) == 2
    planes, depth = (samples, 1) if planar else (1, samples)
    corners = [
        (plane, top, left)
        for plane in range(planes)
        for top in range(0, height, block_height)
        for left in range(0, width, block_width)
    ]
    if not len(corners) == len(offsets) == len(counts):
        raise TiffError("it is damaged (tiles or strips are missing)")
    deflated = _one(tags, _COMPRESSION, _NONE) != _NONE
    image = np.empty((height, width, samples), dtype=dtype.newbyteorder("="))
    for (plane, top, left), offset, count in zip(corners, offsets, counts, strict=True):
        rows = block_height if tiled else min(block_height, height - top)
        length = rows * block_width * depth * dtype.itemsize
        raw = _exactly(file, offset, count)
        if deflated:
            raw = zlib.decompressobj().decompress(raw, length)
        if len(raw) < length:
            raise TiffError("it is truncated")
        block = np.frombuffer(raw, dtype=dtype, count=length // dtype.itemsize).astype(image.dtype)
        block = block.reshape(rows, block_width, depth)
        if _one(tags, _PREDICTOR, 1) == 2:
            block = np.cumsum(block, axis=1, dtype=image.dtype)
        block = block[: height - top, : width - left]
        channels = slice(plane, plane + 1) if planar else slice(None)
        image[top : top + block.shape[0], left : left + block.shape[1], channels] = block
    return image


def _read_by_tifffile(file, what):
    try:
        import tifffile
    except ImportError as error:
        raise TiffError(
            f"a TIFF of this kind ({what}) needs tifffile: pip install tifffile imagecodecs; or save it "
            "without compression"
        ) from error
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        image, axes = page.asarray(), page.axes
    if axes == "SYX":
        image = np.moveaxis(image, 0, -1)
    elif axes != "YXS":
        raise TiffError(f"its axes are {axes}, not those of one image")
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        raise TiffError(f"its pixels are {image.dtype}, not 8 or 16 bits; load it as an array")
    return image


def over_white(image, premultiplied=False):
    """Return the colours of an image whose last channel is alpha, laid over white."""
    top = int(np.iinfo(image.dtype).max)
    colors, alpha = image[..., :-1].astype(np.int64), image[..., -1:].astype(np.int64)
    if not premultiplied:
        colors = (colors * alpha + top // 2) // top
    return np.minimum(colors + (top - alpha), top).astype(image.dtype)


def _turned(image, orientation):
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _one(tags, tag, default):
    values = tags.get(tag, ())
    return values[0] if values else default


def _exactly(file, offset, length):
    file.seek(offset)
    raw = file.read(length)
    if len(raw) != length:
        raise TiffError("it is truncated")
    return raw
