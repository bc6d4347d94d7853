"""Image files in folders, and the images of datasets, as rows that cross-validation can slice."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state

from .._utils.types import PathLike, RandomState, Rows
from .items import dataset_rows

__all__ = ["image_rows", "load_image_paths"]

_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
    *(".pgm", ".ppm", ".pnm", ".jp2", ".avif"),
)


def load_image_paths(
    folder: PathLike,
    *,
    categories: Sequence[str] | None = None,
    extensions: Sequence[str] | None = None,
    shuffle: bool = False,
    random_state: RandomState = None,
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray, NDArray | None]:
    """Find the image files of a folder, whose sub-folders are classes.

    Nothing is opened: estimators read the files when they need them.

    Parameters
    ----------
    folder : str or os.PathLike
        With a sub-folder a class, in which images may lie at any depth; or, without sub-folders, with
        images of unknown class.
    categories : list of str, default=None
        The sub-folders to take, in the order of the labels; None takes all, in natural order (img2 comes
        before img10). Hidden ones, and hidden files, are left out.
    extensions : list of str, default=None
        Ends of the names of image files, such as ".jpg", in any case; None takes the usual ones.
    shuffle : bool, default=False
        Whether the order is random instead of natural.
    random_state : int, RandomState or None, default=None
        Seed of that order.
    return_X_y : bool, default=False
        Whether to return only ``(data, target)``.

    Returns
    -------
    Bunch
        ``data``, object array (n,) of paths, to be passed as X; ``target``, int array (n,) of positions in
        ``target_names``, or None; ``target_names``, list of str; ``filenames``, object array (n,) of paths
        relative to the folder; ``DESCR``, a description.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images, a class has none, or images lie beside sub-folders.

    See Also
    --------
    sklearn.datasets.load_files : The same for texts.
    image_rows : The same for datasets.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_simclr.images import load_image_paths
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["cat/img10.png", "cat/img2.png", "dog/1.jpg", "dog/notes.txt"]:
    ...         path = Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     images = load_image_paths(folder)
    >>> [Path(name).name for name in images.filenames], images.target_names
    (['img2.png', 'img10.png', '1.jpg'], ['cat', 'dog'])
    >>> images.target
    array([0, 0, 1])
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise (NotADirectoryError if folder.exists() else FileNotFoundError)(f"{str(folder)!r} {kind}.")
    if isinstance(extensions, str) or isinstance(categories, str):
        raise TypeError("categories and extensions must be lists of str, got a str.")
    extensions = _EXTENSIONS if extensions is None else extensions
    endings = tuple(f".{e.lower().lstrip('.')}" for e in extensions)
    classes = sorted(
        (entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")),
        key=_natural,
    )
    lying = [] if categories is not None else _images_in(folder, endings, deep=False)
    if categories is not None:
        unknown = [name for name in categories if name not in classes]
        if unknown or len(set(categories)) < len(categories):
            raise ValueError(
                f"categories must be different sub-folders of {str(folder)!r}, which are {classes}; got "
                f"{list(categories)}."
            )
        classes = list(categories)
    found = [_images_in(folder / name, endings, deep=True) for name in classes]
    what = f"images ({', '.join(endings)})"
    if lying and any(found):
        raise ValueError(
            f"{str(folder)!r} holds {len(lying)} images, such as {lying[0].name!r}, beside the sub-folders "
            f"{classes}. Pass categories= to take sub-folders only, or move them."
        )
    if lying:
        classes, paths, target = [], lying, None
    else:
        empty = [name for name, paths in zip(classes, found, strict=True) if not paths]
        if not any(found):
            raise ValueError(f"{str(folder)!r} holds no {what}. Pass extensions= if they have other names.")
        if empty:
            raise ValueError(
                f"The sub-folders {empty} of {str(folder)!r} hold no {what}. Leave them out with categories=."
            )
        paths = [path for some in found for path in some]
        target = np.repeat(np.arange(len(classes)), [len(some) for some in found])
    order = check_random_state(random_state).permutation(len(paths)) if shuffle else np.arange(len(paths))
    data, filenames = np.empty(len(paths), dtype=object), np.empty(len(paths), dtype=object)
    data[:] = [str(path) for path in paths]
    filenames[:] = [str(path.relative_to(folder)) for path in paths]
    data, filenames = data[order], filenames[order]
    target = None if target is None else target[order]
    if return_X_y:
        return data, target
    text = f"{len(data)} images of {len(classes) or 'no'} classes, found in {str(folder)!r}."
    return Bunch(data=data, target=target, target_names=classes, filenames=filenames, DESCR=text)


def image_rows(dataset: Rows) -> NDArray:
    """Return the images of a dataset as an array that cross-validation can slice.

    Parameters
    ----------
    dataset : object with a length and items
        Its items are images, (image, label) pairs as in torchvision's datasets, or dicts with the key "image"
        as in MONAI's, torchgeo's and Hugging Face's, or with "bytes" and "path". Images are arrays, tensors,
        Pillow images or paths.

    Returns
    -------
    ndarray of shape (n,)
        Of objects, each of which stands for one item. It is read when an estimator reads the row, by the
        main thread; what the dataset decodes itself is decoded with each reading. Files are read faster by
        their paths.

    Raises
    ------
    TypeError
        If the dataset has no length or no items, such as one that is only iterated over.

    See Also
    --------
    load_image_paths : Image files of a folder.

    Examples
    --------
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_simclr.images import image_rows
    >>> dataset = [(Image.fromarray(np.full((8, 8), i, dtype=np.uint8)), i % 2) for i in range(6)]
    >>> X = image_rows(dataset)
    >>> X[np.array([0, 3])].shape
    (2,)
    """
    return dataset_rows(dataset)


def _natural(path: PathLike) -> tuple[list[tuple[int, str]], str]:
    text = str(path)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)], text


def _images_in(folder: Path, endings: tuple[str, ...], *, deep: bool) -> list[Path]:
    found, visited = [], set()
    for top, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(top))
        folders[:] = [
            name
            for name in folders
            if deep and not name.startswith(".") and os.path.realpath(os.path.join(top, name)) not in visited
        ]
        found += [
            Path(top, name) for name in names if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: _natural(path.relative_to(folder)))
