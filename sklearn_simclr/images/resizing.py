"""Images, as arrays or Pillow has them, brought to one size, antialiased."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from PIL import Image

from .mapped import mapped_rows
from .sizes import Target
from .store import scratch_rows

__all__ = ["resize_array", "resize_images", "resize_pillow"]

# Images that are resized at a time.
_ROWS_AT_A_TIME = 64


def resize_pillow(image: Image.Image, target: Target) -> Image.Image:
    """Return a Pillow image in another size.

    Parameters
    ----------
    image : PIL.Image.Image
        An image of the mode L, RGB or F.
    target : Target
        The size.

    Returns
    -------
    PIL.Image.Image
        `image` itself if it has that size.
    """
    size = (target.width, target.height)
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.BILINEAR, box=target.box(image.height, image.width))


def resize_array(array: NDArray, target: Target) -> NDArray:
    """Return one image in another size, resized as Pillow resizes files.

    Parameters
    ----------
    array : ndarray of shape (H, W, C)
        Real numbers, of any number of channels.
    target : Target
        The size.

    Returns
    -------
    ndarray of shape (target.height, target.width, C)
        The same dtype, but float64 for whole numbers of 64 bits. Whole numbers are rounded. No value lies
        outside those of ``array``.
    """
    if array.shape[:2] == target[:2]:
        return array
    channels = array.shape[2]
    if array.dtype == np.uint8 and channels in (1, 3):
        whole = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if channels == 1 else array))
        return np.asarray(resize_pillow(whole, target)).reshape(target.height, target.width, channels)
    lowest, highest = array.min(), array.max()
    if array.dtype.itemsize > 4 or (array.dtype.kind in "iu" and array.dtype.itemsize == 4):
        # Pillow computes in float32, which suffices for places between the extremes, not for any number.
        # Halves of numbers always have finite differences.
        half = array.astype(np.float64) / 2
        low = half.min()
        span = half.max() - low or 1.0
        with np.errstate(over="ignore"):
            resized = 2 * (_resize_floats((half - low) / span, target).astype(np.float64) * span + low)
    else:
        resized = _resize_floats(array, target)
    if array.dtype.kind != "f":
        resized = resized.round()
    resized = resized.clip(lowest, highest)
    return resized if array.dtype.kind in "iu" and array.dtype.itemsize == 8 else resized.astype(array.dtype)


def _resize_floats(array: NDArray, target: Target) -> NDArray[np.float32]:
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(array, -1, 0)]
    return np.stack([np.asarray(resize_pillow(plane, target)) for plane in planes], axis=-1)


def resize_images(images: Sequence[NDArray] | NDArray, layout: str, target: Target) -> NDArray:
    """Return images that are arrays in one size.

    Parameters
    ----------
    images : array of shape (n, ...) or sequence of n arrays
        At least one.
    layout : {"HW", "HWC", "CHW"}
        Meaning of the axes of one image.
    target : Target
        The size.

    Returns
    -------
    ndarray of shape (n, ...)
        In the same layout, of the dtype that the images have in common; bool becomes uint8 from 0 to 255. A
        read-only memory map if it would take more than a quarter of memory.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images.resizing import resize_images
    >>> from sklearn_simclr.images.sizes import Target
    >>> resize_images([np.zeros((3, 20, 30)), np.ones((3, 8, 8))], "CHW", Target(8, 12, crop=True)).shape
    (2, 3, 8, 12)
    """
    file = None
    if isinstance(images, np.ndarray):
        dtype, file = images.dtype, mapped_rows(images)
    else:
        dtype = np.result_type(*{image.dtype for image in images})
    axis = layout.find("C")

    def resized(image: NDArray) -> NDArray:
        image = image.astype(dtype.newbyteorder("="), copy=False)
        if dtype == np.bool_:
            image = image * np.uint8(255)
        pixels = resize_array(image[..., None] if axis < 0 else np.moveaxis(image, axis, -1), target)
        return pixels[..., 0] if axis < 0 else np.moveaxis(pixels, -1, axis)

    first = resized(images[0])
    rows = scratch_rows(first.shape, first.dtype, len(images))
    with ThreadPoolExecutor(cpu_count()) as pool:
        for start in range(0, len(images), _ROWS_AT_A_TIME):
            some = images[start : start + _ROWS_AT_A_TIME]
            rows.append(np.stack(list(pool.map(resized, some))))
            if file is not None:
                file.seen(len(some))
    return rows.array()
