"""The size that images are brought to: as the user says, or chosen by the sizes that they have."""

import math
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["DEFAULT_SIDE", "IMAGE_SIZES", "Target", "check_image_size", "choose_target"]

# Side of the square whose area images get by default. The networks learn from small views: larger images cost
# memory and decoding time, and teach nothing more.
DEFAULT_SIDE = 96

# An aspect ratio up to so far from 1, which is that of most cameras, is taken for 1. Photographs of clothing
# and of blood cells, 3:4 and 4:3, were classified better as centred squares than as whole images of as many
# pixels: what is in the middle is larger in them.
_ABOUT_SQUARE = 1.5

# Sides are multiples of this number, so that they can be halved twice, unless they are small.
_STEP = 4
_SMALLEST_IN_STEPS = 32

_LARGEST = 2**15 - 1

# A random crop of smaller images is a pixel or two, in which nothing can be recognised.
_SMALLEST = 4

# What the parameter image_size can be, for messages.
IMAGE_SIZES = (
    "'auto', None (images stay as they are), an int (the side of a square in pixels) or a pair of ints "
    f"(height, width), from {_SMALLEST} to {_LARGEST} (a random view of a smaller image shows a pixel or two)"
)


class Target(NamedTuple):
    """The size that images are brought to, and which part of them.

    Parameters
    ----------
    height, width : int
        The size, in pixels.
    crop : bool
        Whether the largest centred box of that aspect ratio is resized, or the whole image.

    Examples
    --------
    >>> from sklearn_simclr.images.sizes import Target
    >>> Target(64, 64, crop=True).box(300, 400)
    (50.0, 0.0, 350.0, 300.0)
    """

    height: int
    width: int
    crop: bool

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the part of an image that is resized.

        Parameters
        ----------
        height, width : int
            Size of the image.

        Returns
        -------
        tuple of float
            Left, top, right and bottom, in pixels.
        """
        if not self.crop:
            return 0.0, 0.0, float(width), float(height)
        if width * self.height <= height * self.width:
            across, down = float(width), width * self.height / self.width
        else:
            across, down = height * self.width / self.height, float(height)
        left, top = (width - across) / 2, (height - down) / 2
        return left, top, min(left + across, width), min(top + down, height)

    def turned(self) -> "Target":
        """Return the target of images that lie on their side."""
        return Target(self.width, self.height, self.crop)


def check_image_size(image_size: Any) -> Target | Literal["auto"] | None:
    """Return what the parameter ``image_size`` of an estimator means.

    Parameters
    ----------
    image_size : "auto", int, (int, int) or None
        As in :class:`SimCLRTransformer`.

    Returns
    -------
    Target, "auto" or None
        None: images are not resized.

    Raises
    ------
    ValueError
        If `image_size` is something else.

    Examples
    --------
    >>> from sklearn_simclr.images.sizes import check_image_size
    >>> check_image_size(64)
    Target(height=64, width=64, crop=True)
    """
    if image_size is None:
        return None
    if isinstance(image_size, str) and image_size == "auto":
        return "auto"
    sizes = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    if (
        isinstance(sizes, tuple | list)
        and len(sizes) == 2
        and all(
            isinstance(size, Integral) and not isinstance(size, bool) and _SMALLEST <= int(size) <= _LARGEST
            for size in sizes
        )
    ):
        return Target(int(sizes[0]), int(sizes[1]), crop=sizes is not image_size)
    raise ValueError(f"image_size must be {IMAGE_SIZES}. Got {image_size!r}.")


def choose_target(sizes: ArrayLike, side: int = DEFAULT_SIDE) -> Target:
    """Choose one size for images.

    The size is a square, or has the median of the images' aspect ratios if that is beyond 3:2. Its area is
    that of a square of a given side, or, if images are smaller, the median of the areas that they have within
    that aspect ratio. Images of one size that are no larger keep it.

    Parameters
    ----------
    sizes : array-like of shape (n, 2)
        Heights and widths.
    side : int, default=96
        Side of the square that says how large the area is at most.

    Returns
    -------
    Target
        With ``crop=True``.

    Examples
    --------
    >>> from sklearn_simclr.images.sizes import choose_target
    >>> choose_target([(533, 400), (480, 360), (300, 500)])
    Target(height=96, width=96, crop=True)
    >>> choose_target([(800, 400), (720, 360)])
    Target(height=136, width=68, crop=True)
    >>> choose_target([(32, 32), (32, 32)])
    Target(height=32, width=32, crop=True)
    """
    heights, widths = np.asarray(sizes, dtype=np.float64).T
    first = Target(int(heights[0]), int(widths[0]), crop=True)
    same = (heights == heights[0]).all() and (widths == widths[0]).all()
    if same and first.height * first.width <= side**2:
        return first
    aspect = float(np.median(heights / widths))
    if 1 / _ABOUT_SQUARE <= aspect <= _ABOUT_SQUARE:
        aspect = 1.0
    # Sides of the squares with the area of the largest box of that aspect ratio in each image.
    own = float(np.median(np.minimum(heights, widths * aspect))) / math.sqrt(aspect)
    root, how = (side, round) if own >= side else (own, math.floor)
    sides = []
    for value in (root * math.sqrt(aspect), root / math.sqrt(aspect)):
        step = _STEP if value >= _SMALLEST_IN_STEPS else 1
        sides.append(min(_LARGEST, max(1, step * how(value / step))))
    return Target(sides[0], sides[1], crop=True)
