"""Image files as one array, decoded as estimators decode them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._utils.types import Images, ImageSize, PathLike
from .items import as_rows
from .reading import read_rows

__all__ = ["load_images"]


def load_images(
    paths: Images,
    image_size: ImageSize = "auto",
    *,
    cache_dir: PathLike | None = None,
    verbose: int = 0,
) -> NDArray:
    """Decode image files into one array, as ``fit`` decodes them.

    A fit on the array learns from the same pixels as a fit on the files with the same ``image_size``. With
    ``"auto"``, the size depends on the images. So load training and test images together, or pass the files
    to an estimator, which keeps the size of ``fit``.

    Parameters
    ----------
    paths : array-like or dataset
        Paths, Pillow images, bytes of files, or a dataset of such items, as for :class:`SimCLRTransformer`.
        ``load_image_paths(folder).data`` has the paths of a folder.
    image_size : "auto", int, (int, int) or None, default="auto"
        Size to which the images are resized, as in :class:`SimCLRTransformer`.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded files, as in :class:`SimCLRTransformer`.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    ndarray of shape (n, H, W, C)
        The images. The dtype is uint8, or uint16 if any image has 16 bits, or int16 or float32 for TIFFs
        with such numbers. C is 3 if any image has colours, and 1 if all are grey. For TIFFs with many
        channels or grey pages, C is their number; if C is larger than H or W, pass ``image_shape="HWC"`` to
        estimators. The array is a read-only memory map if the images take more than a quarter of memory.

    Raises
    ------
    TypeError
        If ``paths`` holds other things than image files.
    ValueError
        If ``paths`` is one path instead of a list, if images cannot be read, or if the images differ in size
        and ``image_size`` is None. If files are missing, the error is a FileNotFoundError as well.

    See Also
    --------
    load_image_paths : Lists the files of a folder, with sub-folders as classes.

    Examples
    --------
    >>> from PIL import Image
    >>> from sklearn_simclr.images import load_images
    >>> images = [Image.new("RGB", (400, 300)), Image.new("L", (1200, 900))]
    >>> load_images(images).shape
    (2, 96, 96, 3)
    >>> load_images(images, image_size=64).shape
    (2, 64, 64, 3)
    """
    rows = as_rows(paths)
    if rows == [] or (isinstance(paths, list | tuple) and not paths):
        raise ValueError("paths has no images. Check the folder or pattern that the paths come from.")
    if rows is None or all(isinstance(row, np.ndarray) for row in rows):
        raise TypeError(
            f"paths must be a list of paths, Pillow images or the like, got {type(paths).__name__}. Arrays "
            "are images already: pass them to estimators."
        )
    advice = "Leave these images out of paths."
    decoded = read_rows(rows, image_size=image_size, cache_dir=cache_dir, verbose=verbose, advice=advice)
    return decoded.pixels if decoded.rows is None else decoded.pixels[decoded.rows]
