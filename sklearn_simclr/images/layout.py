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
from .pixel_range import find_pixel_range

__all__ = [
    "ImageFormat",
    "array_layout",
    "decoded_format",
    "image_format",
    "layout_of_mixed",
]

# Numbers of channels that photographs have: grey, RGB, RGB with alpha.
_COMMON_CHANNELS = (1, 3, 4)

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
    low_high = find_pixel_range(without_long_doubles(X), None, pixel_range)
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
        The meaning of the axes; all other values are ignored.

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
        "with two axes each, or with three axes each and the same number of channels."
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
        first = len(image_shape) == 3 and _channel_axis(tuple(image_shape)) == "CHW"
        size = tuple(image_shape[1:] if first else image_shape[:2])
        raise ValueError(
            f"image_shape={tuple(image_shape)}, but the images have height {height}, width {width} and "
            f"{channels} channels. Pass image_size={size} to have them resized."
        )
    low_high = find_pixel_range(pixels, rows, pixel_range)
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
            f"and {d} pixels wide. Pass image_shape=(height, width) if the images have another shape.",
        )
        return "HW", (1, d)
    if isinstance(image_shape, str):
        raise ValueError(
            f"image_shape={image_shape!r} gives no height and width for the images in X of shape (n, {d}). "
            "Pass numbers: (H, W), (H, W, C) or (C, H, W)."
        )
    if math.prod(image_shape) != d:
        raise ValueError(
            f"image_shape={tuple(image_shape)} has {math.prod(image_shape)} numbers, but X has {d} features. "
            f"Pass a shape of {d} numbers."
        )
    layout = "HW" if len(image_shape) == 2 else _channel_axis(tuple(image_shape))
    if layout is None:
        raise ValueError(_ambiguous(f"image_shape={tuple(image_shape)}", "Reshape X to four axes and pass"))
    return layout, tuple(image_shape)


def _grey_layout(shape: tuple[int, ...], image_shape: ImageShape) -> tuple[str, tuple[int, ...]]:
    if isinstance(image_shape, tuple | list):
        if tuple(image_shape) not in (shape[1:], (*shape[1:], 1), (1, *shape[1:])):
            raise ValueError(_other_shape(image_shape, shape[1:]))
    elif image_shape != "auto":
        raise ValueError(
            f"image_shape={image_shape!r}, but X of shape {shape} has three axes, without channels. Pass "
            "image_shape='auto' for grey images."
        )
    elif shape[2] in (3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"X of shape {shape} looks like one colour image, not like {shape[0]} grey images "
            f"{shape[2]} pixels wide. Pass X[None] for one image, or image_shape={shape[1:]} for "
            f"{shape[0]} grey images."
        )
    elif shape[0] == 3 and min(shape[1:]) >= _PHOTOGRAPH:
        raise ValueError(
            f"X of shape {shape} looks like one colour image, not like 3 grey images. Pass X[None] for one "
            f"image, or image_shape={shape[1:]} for 3 grey images."
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
            raise ValueError(_other_shape(image_shape, shape))
        layout = None if last and first else "HWC" if last else "CHW"
    elif tuple(image_shape) != shape:
        raise ValueError(_other_shape(image_shape, shape))
    else:
        layout = _channel_axis(shape)
    if layout is None:
        raise ValueError(_ambiguous(f"X with images of shape {shape}", "Pass"))
    return layout, shape


def _other_shape(image_shape: Sequence[int], found: tuple[int, ...]) -> str:
    return (
        f"image_shape={tuple(image_shape)}, but the images of X have shape {found}. Pass images of shape "
        f"{tuple(image_shape)}, or image_shape='auto'."
    )


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
