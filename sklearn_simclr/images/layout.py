"""The form of the images in X: layout, channels and the range of the pixels."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._utils.types import ImageShape, PixelRange
from .._utils.warn import warn
from .foreign import without_long_doubles
from .indexing import row_blocks
from .mapped import mapped_rows
from .outliers import range_without_outliers

__all__ = [
    "ImageFormat",
    "array_layout",
    "decoded_format",
    "image_format",
    "layout_of_mixed",
    "warn_about_range",
]

# Numbers of channels that photographs have: grey, RGB, RGB with alpha.
_COMMON_CHANNELS = (1, 3, 4)

# Pixels that fill less than this part of a range that was given: it is that of other data.
_LITTLE_CONTRAST = 0.01

# The same for images that come after fit, such as those that were divided by 16 meanwhile.
_OTHER_SCALE = 0.1

# What lies between two floats must not be a larger part of the range.
_EXACT = 1 / 1024

# From this side on, d = 3 k^2 flat pixels are taken for a colour image whose channel order is unknown.
_SMALLEST_FLAT_COLOR = 8

# Three arrays of at least this side are taken for the channels of one photograph, not for three grey images.
_PHOTOGRAPH = 32


class ImageFormat(NamedTuple):
    """Properties of X that fit learnt and transform has to find again.

    Parameters
    ----------
    layout : {"HW", "HWC", "CHW"}
        Meaning of the axes of one image.
    image_shape : tuple of int
        Shape of one image, in that layout.
    flat : bool
        Whether an image is a row of pixels of a two-dimensional X.
    pixel_range : (float, float)
        The values that are mapped to 0 and 1.
    decoded_dtype : str, default=""
        Name of the dtype of decoded files: uint8, uint16, int16 or float32; empty where X was an array.

    See Also
    --------
    image_format : Finds the format of an array.
    decoded_format : The format of decoded files.
    ImageSource : Images together with their format.

    Examples
    --------
    >>> from sklearn_simclr.images import ImageFormat
    >>> ImageFormat("HWC", (32, 24, 3), False, (0.0, 255.0)).shape
    (3, 32, 24)
    """

    layout: str
    image_shape: tuple[int, ...]
    flat: bool
    pixel_range: tuple[float, float]
    decoded_dtype: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        sizes = dict(zip(self.layout, self.image_shape, strict=True))
        return sizes.get("C", 1), sizes["H"], sizes["W"]


def image_format(
    X: NDArray, *, image_shape: ImageShape = "auto", pixel_range: PixelRange = "auto"
) -> ImageFormat:
    """Find out what the axes and the values of X mean.

    Parameters
    ----------
    X : array of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
        Finite numbers.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        Shape of an image: (H, W), (H, W, C) or (C, H, W); or only the meaning of the axes.
    pixel_range : "auto" or (float, float), default="auto"
        The values that are mapped to 0 and 1.

    Returns
    -------
    ImageFormat
        The layout, the shape and the range.

    Raises
    ------
    ValueError
        If X has no image shape, an ambiguous one, or another one than ``image_shape``; if its pixels
        all have one value.

    See Also
    --------
    decoded_format : The same for decoded files.
    image_source : Images with such a format.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images import image_format
    >>> image_format(255 * np.eye(64, dtype=np.uint8))
    ImageFormat(layout='HW', image_shape=(8, 8), flat=True, pixel_range=(0.0, 255.0), decoded_dtype='')
    """
    layout, shape = array_layout(X.shape, image_shape)
    low_high = _find_pixel_range(without_long_doubles(X), None, pixel_range)
    return ImageFormat(layout, shape, X.ndim == 2, low_high)


def array_layout(X_shape: tuple[int, ...], image_shape: ImageShape = "auto") -> tuple[str, tuple[int, ...]]:
    """Find out what the axes of X mean.

    Parameters
    ----------
    X_shape : tuple of int
        Shape of X, with the number of images.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        Shape of an image: (H, W), (H, W, C) or (C, H, W); or only the meaning of the axes.

    Returns
    -------
    layout : {"HW", "HWC", "CHW"}
        Meaning of the axes of one image.
    shape : tuple of int
        Shape of one image, in that layout.

    Raises
    ------
    ValueError
        If X has no image shape, an ambiguous one, or another one than ``image_shape``.

    Examples
    --------
    >>> from sklearn_simclr.images.layout import array_layout
    >>> array_layout((10, 192), (3, 8, 8))
    ('CHW', (3, 8, 8))
    """
    if not isinstance(image_shape, str):
        sizes_are_fine = all(isinstance(size, Integral) and size >= 1 for size in image_shape)
        if len(image_shape) not in (2, 3) or not sizes_are_fine:
            raise ValueError(
                "image_shape must be 'auto', 'HWC', 'CHW', or (H, W), (H, W, C) or (C, H, W) in positive "
                f"ints, got {image_shape!r}."
            )
    if len(X_shape) == 2:
        layout, shape = _flat_layout(X_shape[1], image_shape)
    elif len(X_shape) == 3:
        layout, shape = _grey_layout(X_shape, image_shape)
    elif len(X_shape) == 4:
        layout, shape = _channel_layout(X_shape, image_shape)
    else:
        raise ValueError(
            f"X must have shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W), got {X_shape}. "
            "Reshape your data: one image is X[i]."
        )
    if 0 in shape:
        raise ValueError(f"X has images without pixels: its shape is {X_shape}.")
    return layout, tuple(shape)


def layout_of_mixed(shapes: Sequence[tuple[int, ...]], image_shape: ImageShape | str = "auto") -> str:
    """Find out what the axes of images of several sizes mean.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Shapes of the images.
    image_shape : "auto", "HW", "HWC", "CHW" or tuple of int, default="auto"
        The meaning of the axes; anything else says nothing.

    Returns
    -------
    {"HW", "HWC", "CHW"}
        Meaning of the axes of each image.

    Raises
    ------
    ValueError
        If the images differ in the number of axes or of channels, or their axes are ambiguous.

    Examples
    --------
    >>> from sklearn_simclr.images.layout import layout_of_mixed
    >>> layout_of_mixed([(3, 20, 30), (3, 24, 18)])
    'CHW'
    """
    odd = next((i for i, shape in enumerate(shapes) if len(shape) != len(shapes[0])), None)
    if odd is None and len(shapes[0]) == 2:
        return "HW"
    if odd is None and len(shapes[0]) == 3:
        known = image_shape in ("HWC", "CHW")
        votes = {str(image_shape)} if known else {_channel_axis(shape) or "" for shape in shapes} - {""}
        if len(votes) != 1:
            raise ValueError(_ambiguous(f"X with images of shape {shapes[0]}", "Pass"))
        layout = votes.pop()
        channel = layout.index("C")
        odd = next((i for i, shape in enumerate(shapes) if shape[channel] != shapes[0][channel]), None)
        if odd is None:
            return layout
    row = odd or 0
    raise ValueError(
        f"Images of mixed kinds: row 0 of X has shape {shapes[0]}, row {row} has {shapes[row]}. Pass arrays "
        "with two axes each, or three and the same number of channels."
    )


def decoded_format(
    pixels: NDArray,
    rows: NDArray[np.int64] | None = None,
    *,
    image_shape: ImageShape = "auto",
    pixel_range: PixelRange = "auto",
) -> ImageFormat:
    """Return the format of decoded images, of which the axes are known.

    Parameters
    ----------
    pixels : ndarray of shape (n, H, W, C)
        uint8, uint16, int16 or float32.
    rows : int64 ndarray or None, default=None
        Which of them are meant; None is all.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        The size to insist on: (H, W), (H, W, C) or (C, H, W).
    pixel_range : "auto" or (float, float), default="auto"
        The values that are mapped to 0 and 1.

    Returns
    -------
    ImageFormat
        With the layout "HW" for grey images, else "HWC".

    Raises
    ------
    ValueError
        If the images have another size than ``image_shape``, or all pixels one value.

    See Also
    --------
    image_format : The same for arrays that were passed as X.
    decoded_source : Images with such a format.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images import decoded_format
    >>> decoded_format(np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)).image_shape
    (8, 8)
    """
    height, width, channels = pixels.shape[1:]
    known = [(height, width), (height, width, channels), (channels, height, width)]
    if not isinstance(image_shape, str) and tuple(image_shape) not in known:
        raise ValueError(
            f"image_shape={tuple(image_shape)}, but the images have height {height}, width {width} and "
            f"{channels} channels. Pass image_size={tuple(image_shape[:2])} to have them resized."
        )
    low_high = _find_pixel_range(pixels, rows, pixel_range)
    layout, shape = ("HW", known[0]) if channels == 1 else ("HWC", known[1])
    return ImageFormat(layout, shape, False, low_high, pixels.dtype.name)


def _flat_layout(d: int, image_shape: ImageShape) -> tuple[str, tuple[int, ...]]:
    if isinstance(image_shape, str) and image_shape == "auto":
        side = math.isqrt(d)
        if side * side == d:
            return "HW", (side, side)
        side = math.isqrt(d // 3)
        if 3 * side * side == d and side >= _SMALLEST_FLAT_COLOR:
            raise ValueError(
                f"X has {d} = 3 x {side} x {side} features: colour images, but the order of their axes "
                f"is unknown. Pass image_shape=({side}, {side}, 3) if the channels come last, "
                f"image_shape=(3, {side}, {side}) if they come first."
            )
        warn(
            f"X has {d} features, not a square number: each row is taken for an image one pixel high "
            f"and {d} pixels wide. Pass image_shape=(height, width) if it is not.",
        )
        return "HW", (1, d)
    if isinstance(image_shape, str):
        raise ValueError(
            f"image_shape={image_shape!r} says nothing about X of shape (n, {d}). "
            "Pass the numbers: (H, W), (H, W, C) or (C, H, W)."
        )
    if math.prod(image_shape) != d:
        raise ValueError(
            f"image_shape={tuple(image_shape)} has {math.prod(image_shape)} pixels, but X has {d} features."
        )
    layout = "HW" if len(image_shape) == 2 else _channel_axis(tuple(image_shape))
    if layout is None:
        raise ValueError(_ambiguous(f"image_shape={tuple(image_shape)}", "Reshape X to four axes and pass"))
    return layout, tuple(image_shape)


def _grey_layout(shape: tuple[int, ...], image_shape: ImageShape) -> tuple[str, tuple[int, ...]]:
    if isinstance(image_shape, tuple | list):
        if tuple(image_shape) not in (shape[1:], (*shape[1:], 1), (1, *shape[1:])):
            raise ValueError(f"image_shape={tuple(image_shape)}, but the images of X have shape {shape[1:]}.")
    elif image_shape != "auto":
        raise ValueError(f"image_shape={image_shape!r}, but X has shape {shape}: three axes, no channels.")
    elif shape[2] in (3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"X of shape {shape} looks like one colour image, not like {shape[0]} grey images "
            f"{shape[2]} pixels wide. Pass X[None] for one image, or image_shape={shape[1:]} for narrow ones."
        )
    elif shape[0] == 3 and min(shape[1:]) >= _PHOTOGRAPH:
        raise ValueError(
            f"X of shape {shape} looks like one colour image, not like 3 grey images. Pass X[None] for one "
            f"image, or image_shape={shape[1:]} for 3 grey ones."
        )
    return "HW", shape[1:]


def _channel_layout(shape: tuple[int, ...], image_shape: ImageShape) -> tuple[str, tuple[int, ...]]:
    shape = shape[1:]
    if isinstance(image_shape, str) and image_shape != "auto":
        return image_shape, shape
    if image_shape == "auto":
        layout = _channel_axis(shape)
    elif len(image_shape) == 2:
        last, first = shape[:2] == tuple(image_shape), shape[1:] == tuple(image_shape)
        if not (last or first):
            raise ValueError(f"image_shape={tuple(image_shape)}, but the images of X have shape {shape}.")
        layout = None if last and first else "HWC" if last else "CHW"
    elif tuple(image_shape) != shape:
        raise ValueError(f"image_shape={tuple(image_shape)}, but the images of X have shape {shape}.")
    else:
        layout = _channel_axis(shape)
    if layout is None:
        raise ValueError(_ambiguous(f"X with images of shape {shape}", "Pass"))
    return layout, shape


def _ambiguous(what: str, advice: str) -> str:
    return (
        f"Ambiguous layout: {what} can have its channels first or last. "
        f"{advice} image_shape='HWC' (channels last) or image_shape='CHW' (channels first)."
    )


def _channel_axis(shape: tuple[int, ...]) -> str | None:
    """Return "HWC", "CHW", or None where both readings are plausible."""
    first, middle, last = shape
    votes = set()
    if (first in _COMMON_CHANNELS) != (last in _COMMON_CHANNELS):
        votes.add("CHW" if first in _COMMON_CHANNELS else "HWC")
    if (first == middle) != (middle == last):
        votes.add("CHW" if middle == last else "HWC")
    if not votes and first not in _COMMON_CHANNELS and first != last:
        smallest = min(shape)
        if shape.count(smallest) == 1 and middle != smallest:
            votes.add("CHW" if first == smallest else "HWC")
    return votes.pop() if len(votes) == 1 else None


def _find_pixel_range(
    X: NDArray, rows: NDArray[np.int64] | None, pixel_range: PixelRange
) -> tuple[float, float]:
    whole = _whole_range(X.dtype)
    # Bytes need not be looked at to the end, once they fill some of their range.
    enough = _OTHER_SCALE * (whole[1] - whole[0]) if whole and isinstance(pixel_range, str) else math.inf
    low, high = _extremes(X, rows, enough=enough)
    _check_precision(X.dtype, low, high)
    if low == high:
        raise ValueError(
            f"X is constant: every pixel is {low:g}. There is nothing to learn from; check how it was loaded."
        )
    if not isinstance(pixel_range, str):
        try:
            first, second = (float(v) for v in pixel_range)
        except (TypeError, ValueError):
            first = second = math.nan
        if not (math.isfinite(first) and math.isfinite(second) and first < second):
            raise ValueError(
                f"pixel_range must be 'auto' or finite (low, high) with low < high, got {pixel_range!r}."
            )
        warn_about_range(X, rows, (first, second), (low, high))
        return first, second
    if whole is not None:
        if high - low < enough:
            warn(
                f"X has pixels from {low:g} to {high:g}, but {X.dtype} is read as (0, {whole[1]:g}): "
                f"hardly any contrast. Pass pixel_range=({low:g}, {high:g}) if these are black and white."
            )
        return whole
    if low < 0 or high > 1:
        low, high = range_without_outliers(X, rows, low, high)
        _check_precision(X.dtype, low, high)
    if low < 0 or high > 1:
        return low, high
    if high - low < _OTHER_SCALE:
        warn(
            f"X has pixels from {low:g} to {high:g}, but numbers in [0, 1] are read as (0, 1): hardly any "
            f"contrast. Pass pixel_range=({low:g}, {high:g}) if these are black and white."
        )
    return 0.0, 1.0


def _check_precision(dtype: np.dtype, low: float, high: float) -> None:
    """Refuse whole numbers that are too large for their differences: floats have 53 bits."""
    largest = max(abs(low), abs(high))
    if dtype.kind in "iu" and largest > 2**53 and np.spacing(largest) > _EXACT * (high - low):
        raise ValueError(
            f"X has whole numbers from {low:.0f} to {high:.0f}, which differ by less than floating-point "
            "numbers of that size can. Pass X - X.min()."
        )


def _whole_range(dtype: np.dtype) -> tuple[float, float] | None:
    """Return the range of a dtype that images use from end to end, None for any other."""
    if dtype == np.bool_:
        return 0.0, 1.0
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return 0.0, float(np.iinfo(dtype).max)
    return None


def _extremes(
    X: NDArray, rows: NDArray[np.int64] | None = None, *, enough: float = math.inf
) -> tuple[float, float]:
    """Return the smallest and the largest pixel, or two that are as far from each other as is enough."""
    low, high = math.inf, -math.inf
    n = len(X) if rows is None else len(rows)
    file = mapped_rows(X)
    for some in row_blocks(n, X[:1].nbytes):
        block = X[some] if rows is None else X[rows[some]]
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        if file is not None:
            file.seen(len(block), scattered=rows is not None)
        if high - low >= enough:
            break
    return low, high


def warn_about_range(
    X: NDArray,
    rows: NDArray[np.int64] | None,
    pixel_range: tuple[float, float],
    found: tuple[float, float] | None = None,
) -> None:
    """Warn of pixels outside of a range, or that fill next to nothing of it.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Images.
    rows : int64 ndarray of shape (m,) or None
        Which of them; None is all.
    pixel_range : (float, float)
        What they are read with.
    found : (float, float) or None, default=None
        Their smallest and largest pixel in fit; None is to look for them.

    See Also
    --------
    image_format : Decides the pixel range.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from sklearn_simclr.images import warn_about_range
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_about_range(np.full((1, 8, 8), 2.0), None, (0.0, 1.0))
    >>> len(caught)
    1
    """
    low, high = pixel_range
    whole = _whole_range(X.dtype)
    if found is None and whole is not None and low <= whole[0] and whole[1] <= high:
        return
    found_low, found_high = _extremes(X, rows) if found is None else found
    if found_low < low or found_high > high:
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, outside of the pixel range "
            f"({low:g}, {high:g}); they are clipped to it. Pass pixel_range=(low, high) to fit for another.",
        )
    elif found is not None and found_high - found_low < _LITTLE_CONTRAST * (high - low):
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, but pixel_range is ({low:g}, {high:g}): "
            "images with next to no contrast. Pass a range that the pixels fill.",
        )
    elif X.dtype.kind == "f" and high >= 255 and found_high <= 1 and low >= 0:
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, but the pixel range is ({low:g}, {high:g}): "
            "almost black images. Scale X as it was in fit.",
        )
    elif (
        found is None
        and len(X) > 1
        and (low, high) != (0.0, 1.0)
        and (found_high - found_low < _OTHER_SCALE * (high - low))
    ):
        warn(
            f"X has pixels from {found_low:g} to {found_high:g}, but the pixel range is ({low:g}, {high:g}): "
            "hardly any contrast. Scale X as it was in fit.",
        )
