"""Rows of X that are images: paths, bytes, Pillow images, items of datasets."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from .._utils.places import local_path
from .._utils.types import Rows
from .._utils.warn import shortened
from .foreign import array_of_tensor, naming_errors
from .tables import rows_of_column

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "as_rows",
    "dataset_rows",
    "fetch",
    "is_dataset",
    "is_missing",
    "is_of_dataset",
    "is_pillow",
    "name_of",
    "peek",
    "reference",
]

# Among this many rows, the first one that can be loaded decides what all rows are.
_TRIED = 100

# Keys of the image in the items of MONAI, torchgeo, Hugging Face and of WebDataset.
_IMAGE_KEYS = ("image", "img", "pixel_values", "images", "jpg", "jpeg", "png", "X")


def as_rows(X: Any) -> list[Any] | None:
    """Return X as a list of image files, Pillow images and the like, or None if it is anything else.

    Parameters
    ----------
    X : object
        As an estimator gets it.

    Returns
    -------
    list or None
        One item per row; arrays where a dataset gives arrays or tensors, parts of one array if all have one
        shape.

    Raises
    ------
    ValueError
        If X is one path or one image.
    TypeError
        If X is a dict, a loader or a generator, or a dataset whose items are no images.

    Examples
    --------
    >>> from sklearn_simclr.images.items import as_rows
    >>> as_rows(("a.png", "b.png"))
    ['a.png', 'b.png']
    >>> as_rows([[0, 1], [1, 0]]) is None
    True
    """
    if isinstance(X, str | bytes | os.PathLike) or is_pillow(X):
        what = "one image" if isinstance(X, bytes) or is_pillow(X) else f"one path, {shortened(str(X))!r}"
        raise ValueError(
            f"X is {what}. Pass a list with one row per image: [X], or load_image_paths(X).data for a folder."
        )
    with naming_errors(X):
        return _as_rows(rows_of_column(X))


def _as_rows(X: Any) -> list[Any] | None:
    _check_is_indexable(X)
    if isinstance(X, np.ndarray):
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim != 1 or X.dtype.kind not in "OUST":
            return None
        rows = X.tolist()
    elif isinstance(X, list | tuple):
        rows = list(X)
    elif is_dataset(X):
        if len(X) == 0:
            return []
        rows = list(dataset_rows(X))
        first, item = _first_loaded(rows)
        if first is not None and not (_is_image(item) or isinstance(item, np.ndarray) and item.ndim):
            if isinstance(item, list | tuple) and item:  # rows of numbers in a sequence of another kind
                return [np.asarray(_loaded(rows, i, peek)) for i in range(len(rows))]
            raise TypeError(_no_image(X, first, X[first]))
    else:
        return None
    examples = {type(row): row for row in reversed(rows)}
    if not any(_is_image(row) for row in examples.values()):
        return None
    if _DatasetImage in examples and not is_dataset(X):
        _check_item(examples[_DatasetImage])
    kinds_of_items = all(issubclass(kind, tuple | dict | list | _DatasetImage) for kind in examples)
    if kinds_of_items and isinstance(_first_loaded(rows)[1], np.ndarray):
        return _fetch_arrays(rows)
    return rows


def _check_is_indexable(X: Any) -> None:
    """Refuse what holds images but has no rows: dicts, loaders, generators."""
    if hasattr(X, "__array__") or hasattr(X, "__array_interface__") or hasattr(X, "toarray"):
        return
    if isinstance(X, Mapping):
        keys = shortened(repr(list(X)))
        image = next((name for name in _IMAGE_KEYS if name in X), None)
        if image is None:
            image = next((name for name in ("train", "data") if name in X), next(iter(X), "image"))
        raise TypeError(
            f"X is a {type(X).__name__} with the keys {keys}, not a list of images. Pass X[{image!r}]. If "
            "X is a slice of a dataset, pass a slice of image_rows(dataset) instead."
        )
    if hasattr(X, "dataset") and hasattr(X, "batch_size"):
        raise TypeError(
            f"X is a {type(X).__name__}, which gives batches. Pass its dataset, X.dataset: an estimator "
            "makes batches itself."
        )
    if (isinstance(X, Iterable) or hasattr(X, "__getitem__")) and not _is_indexable(X):
        raise TypeError(
            f"X is a {type(X).__name__}, whose rows cannot be taken by number. Pass list(X), or a list of "
            "paths or other images."
        )


def is_dataset(X: Any) -> bool:
    """Return whether X has items and a length, but is no array, table or list."""
    known = isinstance(X, list | tuple) or any(
        hasattr(X, name) for name in ("__array__", "__array_interface__", "iloc", "toarray")
    )
    return not known and _is_indexable(X)


def _check_item(row: _DatasetImage) -> None:
    """Refuse a dataset whose item has no image; an item that cannot be loaded may be a damaged file."""
    try:
        item = row.dataset[row.index]
        found = fetch(item)
    except Exception:
        return
    if not (is_missing(found) or _is_image(found) or isinstance(found, np.ndarray) and found.ndim):
        raise TypeError(_no_image(row.dataset, row.index, item))


def _no_image(X: Any, i: int, item: Any) -> str:
    kind = type(item).__name__
    if isinstance(item, Mapping):
        kind += f" with the keys {shortened(repr(list(item)))}"
    return (
        f"X is of type {type(X).__name__}, but no image is found in its item {i}, of type {kind}. Pass a "
        "dataset whose items are images, (image, label) pairs or dicts with the key 'image', or a list of "
        "its images."
    )


def dataset_rows(dataset: Rows) -> NDArray:
    """Return an object array that stands for the items of a dataset."""
    if not _is_indexable(dataset):
        raise TypeError(
            f"A dataset must have a length and items, got {type(dataset).__name__}. Pass a list of the "
            "items instead."
        )
    try:
        rows = np.empty(len(dataset), dtype=object)
    except MemoryError:
        raise ValueError(
            f"A {type(dataset).__name__} with a length of {len(dataset):,} has more rows than memory has "
            "room for. Pass a part of the dataset."
        ) from None
    rows[:] = [_DatasetImage(dataset, i) for i in range(len(dataset))]
    return rows


def _fetch_arrays(rows: list[Any]) -> list[NDArray]:
    """Return the arrays of rows, as parts of one array where they are of one shape and dtype."""
    first = _loaded(rows, 0)
    empty = np.ma.empty if isinstance(first, np.ma.MaskedArray) else np.empty
    images = empty((len(rows), *first.shape), dtype=first.dtype)
    for i in range(len(rows)):
        image = first if i == 0 else _loaded(rows, i)
        same = type(image) is type(first) and image.shape == first.shape and image.dtype == first.dtype
        if not same:
            return [*images[:i], image, *(_loaded(rows, k) for k in range(i + 1, len(rows)))]
        images[i] = image
    return list(images)


def _first_loaded(rows: list[Any]) -> tuple[int | None, Any]:
    """Return number and content of the first row that can be loaded, None if none of the first 100 can."""
    for i, row in enumerate(rows[:_TRIED]):
        try:
            found = fetch(row)
        except Exception:
            continue
        if not is_missing(found):
            return i, found
    return None, None


def _loaded(rows: list[Any], i: int, how: Callable[[Any], Any] | None = None) -> Any:
    """Return the content of a row, or raise: where the others are arrays, nothing can stand in for it."""
    try:
        found = (how or fetch)(rows[i])
    except Exception as error:
        raise ValueError(
            f"Row {i} of X, {name_of(rows[i])}, cannot be loaded ({type(error).__name__}: "
            f"{shortened(str(error))}). Leave this row out of X, or pass paths and on_error='grey'."
        ) from error
    if is_missing(found):
        raise ValueError(
            f"Row {i} of X, {name_of(rows[i])}, has no image ({found}). Leave this row out of X."
        )
    return found


class _DatasetImage:
    """One item of a dataset, fetched when it is needed."""

    __slots__ = ("dataset", "index")

    def __init__(self, dataset: Rows, index: int) -> None:
        self.dataset, self.index = dataset, index

    def __repr__(self) -> str:
        return f"item {self.index} of a {type(self.dataset).__name__}"


def is_of_dataset(row: object) -> bool:
    """Return whether a row stands for an item of a dataset, which may be slow to give it."""
    return isinstance(row, _DatasetImage)


def _is_image(row: object) -> bool:
    if isinstance(row, str | bytes | bytearray | memoryview | os.PathLike | _DatasetImage):
        return True
    if isinstance(row, Mapping):
        return _image_of_dict(row) is not None or any(name in row for name in _IMAGE_KEYS)
    if isinstance(row, list) and len(row) > 1:  # a list of arrays may be one of channels
        is_pair = getattr(row[0], "ndim", 0) >= 2 and getattr(row[1], "ndim", 0) == 0
        return is_pillow(row[0]) or is_pair
    if isinstance(row, tuple) and row:
        smallest = 2 if len(row) > 1 else 3
        return _is_image(row[0]) or getattr(row[0], "ndim", 0) >= smallest
    return is_pillow(row)


def is_pillow(value: object) -> TypeGuard[PIL.Image.Image]:
    """Return whether a value is a Pillow image, without importing Pillow for it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_indexable(X: Any) -> TypeGuard[Rows]:
    if isinstance(X, str | bytes | dict | set | IterableDataset) or not hasattr(X, "__getitem__"):
        return False
    try:
        len(X)
    except TypeError:
        return False
    except Exception as error:
        raise ValueError(
            f"X is a {type(X).__name__}, whose length cannot be found ({type(error).__name__}: "
            f"{shortened(str(error))}). Pass a list, or a dataset with a length."
        ) from error
    return True


def _image_of_dict(row: Mapping[str, Any]) -> Any:
    """Return the image of a dataset's item, else its bytes, its path, or its only value that may be one."""
    for name in _IMAGE_KEYS:
        value = row.get(name)
        if isinstance(value, str | os.PathLike) or _may_be_image(value):
            return value
        if isinstance(value, list) and np.ndim(value) >= 2:
            return np.asarray(value)
        if name in row and is_missing(value):  # a mask or a path next to it does not stand in for it
            return None
    if row.get("bytes") is not None:
        return row["bytes"]
    if isinstance(row.get("path"), str | os.PathLike):
        return row["path"]
    images = [value for value in row.values() if _may_be_image(value)]
    return images[0] if len(images) == 1 else None


def is_missing(value: Any) -> bool:
    """Return whether a value stands for nothing, in tables and datasets."""
    name = type(value).__name__
    return value is None or name in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _may_be_image(value: Any) -> bool:
    return is_pillow(value) or isinstance(value, dict | bytes) or getattr(value, "ndim", 0) >= 2


def reference(row: object) -> str | bytes | os.PathLike[str] | None:
    """Return the path or the bytes that an image is decoded from, or None if that is known only later."""
    if isinstance(row, tuple) and row:
        row = row[0]
    if isinstance(row, Mapping):
        row = _image_of_dict(row)
        row = _image_of_dict(row) if isinstance(row, Mapping) else row
    if isinstance(row, bytearray | memoryview):
        return bytes(row)
    return local_path(row) if isinstance(row, str | os.PathLike) else row if isinstance(row, bytes) else None


def fetch(row: Any) -> Any:
    """Return what a thread can decode: a path, bytes, an array or a loaded Pillow image, if a row has one.

    Datasets and Pillow images are not made for threads. Whatever a dataset raises is raised.
    """
    row = peek(row)
    if is_pillow(row):
        file = getattr(row, "fp", None)
        if row.format == "TIFF" and file is not None and row.tell() == 0:
            # The TIFF is opened, but not loaded: all pages, channels and bits are read, as from its path. It
            # stays unloaded, so that it gives the same in fit and in transform.
            file.seek(0)
            data = file.read()
            if getattr(row, "_exclusive_fp", False):  # opened by Pillow, by a path
                file.close()
                vars(row).update(dict.fromkeys(("fp", "_fp"), io.BytesIO(data)))
            return data
        row.load()
    return row


def peek(row: Any) -> Any:
    """Return a row as `fetch` does, except that the pixels of a Pillow image need not be loaded."""
    if isinstance(row, _DatasetImage):
        row = row.dataset[row.index]
    known = reference(row)
    if known is not None:
        return known
    if isinstance(row, tuple | list) and len(row) > 0:
        row = row[0]
    if isinstance(row, Mapping) and _is_image(row):
        row = _image_of_dict(row)
    if hasattr(row, "detach") and hasattr(row, "numpy"):
        return array_of_tensor(row)
    return row


def name_of(row: object) -> str:
    """Return how a message calls a row."""
    if isinstance(row, str | os.PathLike):
        return repr(shortened(os.fsdecode(os.fspath(row))))
    if isinstance(row, bytes):
        return f"{len(row)} bytes"
    if isinstance(row, _DatasetImage):
        return repr(row)
    if isinstance(row, tuple) and row:
        return name_of(row[0])
    return f"a {type(row).__name__}"
