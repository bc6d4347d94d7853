"""Image files in folders, and the images of datasets, as rows that cross-validation can slice."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.utils import Bunch, check_random_state

from .._utils.places import local_path
from .._utils.types import PathLike, RandomState, Rows
from .._utils.warn import warn
from .decode import plugin_formats
from .items import dataset_rows
from .remote import address_advice

__all__ = ["image_rows", "load_image_paths"]

_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
    *(".pgm", ".ppm", ".pnm", ".jp2", ".avif"),
)

# Files that often lie next to images. A warning counts all other files that are left out.
_NO_IMAGES = (
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"),
    *(".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".parquet", ".db", ".log", ".lock", ".py"),
    *(".ipynb", ".sh", ".zip", ".gz", ".tar", ".md5", ".sha256"),
)

# Extensions that a message lists.
_LISTED = 10

# Names of folders that are parts of a data set, not classes of images.
_PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def load_image_paths(
    folder: PathLike,
    *,
    categories: Sequence[str] | None = None,
    extensions: Sequence[str] | None = None,
    shuffle: bool = False,
    random_state: RandomState = None,
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray, NDArray | None]:
    """List the image files of a folder, with its sub-folders as classes.

    No file is opened: estimators read the files when they need them.

    Parameters
    ----------
    folder : str or os.PathLike
        Folder with one sub-folder per class, in which images may lie at any depth; or a folder without
        sub-folders, whose images have no class.
    categories : list of str, default=None
        Names of the sub-folders to list, in the order of the labels. None lists all, in natural order (img2
        comes before img10). Hidden sub-folders and hidden files are left out.
    extensions : list of str, default=None
        Extensions of image files, such as ".jpg", in upper or lower case. None is the usual ones, and those
        of plugins that are registered with Pillow, such as ".heic" after
        ``pillow_heif.register_heif_opener()``. With None, a warning counts other files by their extensions,
        except for texts and tables.
    shuffle : bool, default=False
        Whether the order is random. Otherwise the order is natural, class by class.
    random_state : int, RandomState or None, default=None
        Seed of the random order.
    return_X_y : bool, default=False
        Whether to return only ``(data, target)``.

    Returns
    -------
    Bunch
        ``data``, object array (n,) of paths, to be passed as X; ``target``, int array (n,) of positions in
        ``target_names``, or None without sub-folders; ``target_names``, list of str; ``filenames``, object
        array (n,) of paths relative to the folder; ``DESCR``, a description.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images, a class has none, or images lie next to sub-folders. Also if the sub-folders
        have names of parts of a data set, such as train and test, unless ``categories`` lists them.

    See Also
    --------
    load_images : Decodes the files into an array.
    sklearn.datasets.load_files : Reads texts from such folders.
    image_rows : Takes the images of a dataset.

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
    advice = address_advice(folder)
    folder = Path(local_path(folder))
    if advice is not None and not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} cannot be read: {advice}.")
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(f"folder={str(folder)!r} is a file, not a folder.")
        raise FileNotFoundError(f"folder={str(folder)!r} does not exist.")
    if isinstance(extensions, str) or isinstance(categories, str):
        raise TypeError("categories and extensions must be lists of str, got a str. Pass a list of one str.")
    told = extensions is not None
    extensions = (*_EXTENSIONS, *_plugin_extensions()) if extensions is None else extensions
    endings = tuple(f".{e.lower().lstrip('.')}" for e in extensions)
    classes = sorted(
        (entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")),
        key=_natural,
    )
    left_out: Counter[str] = Counter()
    lying = [] if categories is not None else _images_in(folder, endings, left_out, deep=False)
    if categories is not None:
        unknown = [name for name in categories if name not in classes]
        if unknown or len(set(categories)) < len(categories):
            raise ValueError(
                f"categories must name different sub-folders of {str(folder)!r}. Its sub-folders are "
                f"{classes}; got {list(categories)}."
            )
        classes = list(categories)
    found = {name: _images_in(folder / name, endings, left_out, deep=True) for name in classes}
    what = f"images ({', '.join(endings)})"
    if lying and any(found.values()):
        raise ValueError(
            f"{str(folder)!r} holds {len(lying)} images, such as {lying[0].name!r}, next to the sub-folders "
            f"{classes}. Pass categories= to list the sub-folders only, or move these images."
        )
    if lying:
        classes, paths, target = [], lying, None
    else:
        _check_classes(folder, found, what, "" if told else _advice(left_out), categories is not None)
        paths = [path for some in found.values() for path in some]
        target = np.repeat(np.arange(len(classes)), [len(some) for some in found.values()])
    if left_out and not told:
        warn(
            f"{sum(left_out.values())} files of {str(folder)!r} are left out; {len(paths)} images are listed."
            + _advice(left_out)
        )
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


def _check_classes(folder: Path, found: dict[str, list[Path]], what: str, advice: str, chosen: bool) -> None:
    """Raise unless the sub-folders of a folder are classes, each with images."""
    classes = list(found)
    empty = [name for name, paths in found.items() if not paths]
    if len(empty) == len(classes):
        raise ValueError(
            f"{str(folder)!r} holds no {what}. Pass extensions= if images have other extensions.{advice}"
        )
    if empty:
        raise ValueError(
            f"The sub-folders {empty} of {str(folder)!r} hold no {what}. Leave these sub-folders out with "
            "categories=."
        )
    if not chosen and len(classes) > 1 and {name.lower() for name in classes} <= _PARTS:
        raise ValueError(
            f"The sub-folders {classes} of {str(folder)!r} have the names of parts of a data set, not of "
            f"classes. Pass one of them, such as {str(folder / classes[0])!r}, or categories={classes} "
            "if they are classes."
        )


def image_rows(dataset: Rows) -> NDArray:
    """Return the images of a dataset as an array that cross-validation can split.

    Parameters
    ----------
    dataset : object with a length and items
        Dataset whose items are images, or (image, label) pairs as in torchvision, or dicts with the key
        "image" as in MONAI, torchgeo and Hugging Face, or dicts with "bytes" and "path". Images are arrays,
        tensors, Pillow images or paths.

    Returns
    -------
    ndarray of shape (n,)
        One object per item. An item is read when an estimator reads its row, in the main thread. Images that
        the dataset decodes by itself are decoded at each reading. Files are read faster by their paths.

    Raises
    ------
    TypeError
        If the dataset has no length, or its items cannot be read by number.

    See Also
    --------
    load_image_paths : Lists the image files of a folder.

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


def _images_in(folder: Path, endings: tuple[str, ...], left_out: Counter[str], *, deep: bool) -> list[Path]:
    """Return the images of a folder; count the other files by their extensions."""
    found, visited = [], set()
    for top, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(top))
        folders[:] = [
            name
            for name in folders
            if deep and not name.startswith(".") and os.path.realpath(os.path.join(top, name)) not in visited
        ]
        for name in names:
            lower = name.lower()
            if name.startswith("."):
                continue
            if lower.endswith(endings):
                found.append(Path(top, name))
            elif not lower.endswith(_NO_IMAGES) and lower not in ("thumbs.db", "readme", "license"):
                left_out[os.path.splitext(lower)[1] or "no extension"] += 1
    return sorted(found, key=lambda path: _natural(path.relative_to(folder)))


def _plugin_extensions() -> Iterable[str]:
    formats = plugin_formats()
    return [extension for extension, name in Image.registered_extensions().items() if name in formats]


def _advice(left_out: Counter[str]) -> str:
    """Return what to do about files that are left out, by their extensions."""
    if not left_out:
        return ""
    most = sorted(left_out, key=lambda extension: (-left_out[extension], extension))[:_LISTED]
    counts = ", ".join(f"{left_out[extension]} of {extension}" for extension in most)
    advice = f" Files left out, by extension: {counts}. Pass extensions= to say which files are images."
    if {".heic", ".heif"} & left_out.keys():
        advice += " HEIC needs pip install pillow-heif, and then pillow_heif.register_heif_opener()."
    return advice
