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
    ``"auto"`` the size depends on the images: load those of training and test together, or pass files to
    estimators, which keep the size of ``fit``.

    Parameters
    ----------
    paths : array-like or dataset
        Paths, Pillow images, bytes of files, or a dataset of them, as :class:`SimCLRTransformer` takes them;
        those of a folder are ``load_image_paths(folder).data``.
    image_size : "auto", int, (int, int) or None, default="auto"
        Size that the images are brought to, as in :class:`SimCLRTransformer`.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded files, as in :class:`SimCLRTransformer`.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    ndarray of shape (n, H, W, C)
        uint8, or uint16 if any image has 16 bits; int16 or float32 of TIFFs with such numbers. C is 3 if any
        image has colours, 1 if all are grey, and the number of channels, or of grey pages, for TIFFs of many;
        with more channels than rows or columns of pixels, pass ``image_shape="HWC"`` to estimators. A
        read-only memory map if the images take more than a quarter of memory.

    Raises
    ------
    TypeError
        If ``paths`` holds no image files or the like.
    ValueError
        If ``paths`` is one path instead of a list, if images cannot be read, or if they differ in size and
        ``image_size`` is None. It is a FileNotFoundError, too, if files are missing.

    See Also
    --------
    load_image_paths : The paths of a folder, with the classes that its sub-folders are.

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
        raise ValueError("paths has no images. Check where they were looked for.")
    if rows is None or all(isinstance(row, np.ndarray) for row in rows):
        raise TypeError(
            f"paths must be a list of paths, Pillow images or the like, got {type(paths).__name__}. Arrays "
            "are images already: pass them to estimators."
        )
    advice = "Leave them out of paths."
    decoded = read_rows(rows, image_size=image_size, cache_dir=cache_dir, verbose=verbose, advice=advice)
    return decoded.pixels if decoded.rows is None else decoded.pixels[decoded.rows]
