"""Rows of X that are images: paths, bytes, Pillow images, items of datasets."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .._utils.types import Rows

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "as_rows",
    "dataset_rows",
    "fetch",
    "is_of_dataset",
    "is_pillow",
    "name_of",
    "peek",
    "reference",
]


def as_rows(X: Any) -> list[Any] | None:
    """Return X as a list of image files, Pillow images and the like, or None if it is anything else.

    Parameters
    ----------
    X : object
        As an estimator gets it.

    Returns
    -------
    list or None
        One item a row; arrays where a dataset gives arrays or tensors, parts of one array if they have one
        shape.

    Raises
    ------
    ValueError
        If X is one path or one image.

    Examples
    --------
    >>> from sklearn_simclr.images.items import as_rows
    >>> as_rows(("a.png", "b.png"))
    ['a.png', 'b.png']
    >>> as_rows([[0, 1], [1, 0]]) is None
    True
    """
    if isinstance(X, str | bytes | os.PathLike) or is_pillow(X):
        what = "one image" if isinstance(X, bytes) or is_pillow(X) else f"one path, {str(X)!r}"
        raise ValueError(
            f"X is {what}. Pass a list with a row an image: [X], or load_image_paths(X).data for a folder."
        )
    if hasattr(X, "iloc"):
        if getattr(X, "ndim", 0) == 2 and X.shape[1] == 1:
            X = X.iloc[:, 0]
        if getattr(X, "ndim", 0) != 1:
            return None
        X = X.to_numpy(dtype=object)
    if isinstance(X, np.ndarray):
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim != 1 or X.dtype.kind not in "OUST":
            return None
        rows = X.tolist()
    elif isinstance(X, list | tuple):
        rows = list(X)
    elif _is_indexable(X) and not hasattr(X, "__array__") and not hasattr(X, "__array_interface__"):
        if len(X) == 0:
            return None
        item = fetch(X[0])
        if not (_is_image(item) or getattr(item, "ndim", 0) >= 2):
            return None
        rows = list(dataset_rows(X))
    else:
        return None
    examples = {type(row): row for row in reversed(rows)}
    if not any(_is_image(row) for row in examples.values()):
        return None
    if examples.keys() <= {tuple, _DatasetImage} and isinstance(fetch(rows[0]), np.ndarray):
        return _fetch_arrays(rows)
    return rows


def dataset_rows(dataset: Rows) -> NDArray:
    """Return an object array that stands for the items of a dataset."""
    if not _is_indexable(dataset):
        raise TypeError(
            f"A dataset must have a length and items, got {type(dataset).__name__}. Collect what it iterates "
            "over in a list."
        )
    rows = np.empty(len(dataset), dtype=object)
    rows[:] = [_DatasetImage(dataset, i) for i in range(len(dataset))]
    return rows


def _fetch_arrays(rows: list[Any]) -> list[NDArray]:
    """Return the arrays of rows, as parts of one array where they are of one shape and dtype."""
    first = fetch(rows[0])
    empty = np.ma.empty if isinstance(first, np.ma.MaskedArray) else np.empty
    images = empty((len(rows), *first.shape), dtype=first.dtype)
    for i, row in enumerate(rows):
        image = fetch(row)
        same = type(image) is type(first) and image.shape == first.shape and image.dtype == first.dtype
        if not same:
            return [*images[:i], image, *map(fetch, rows[i + 1 :])]
        images[i] = image
    return list(images)


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
    if isinstance(row, dict):
        return _image_of_dict(row) is not None
    if isinstance(row, tuple) and len(row) > 1:
        return _is_image(row[0]) or getattr(row[0], "ndim", 0) >= 2
    return is_pillow(row)


def is_pillow(value: object) -> TypeGuard[PIL.Image.Image]:
    """Return whether a value is a Pillow image, without importing Pillow for it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_indexable(X: Any) -> TypeGuard[Rows]:
    if isinstance(X, str | bytes | dict | set) or not hasattr(X, "__getitem__"):
        return False
    try:
        len(X)
    except TypeError:
        return False
    return True


def _image_of_dict(row: dict[str, Any]) -> Any:
    """Return the image of a dataset's item: its bytes, else its path, else the only value that is one."""
    if row.get("bytes") is not None:
        return row["bytes"]
    if isinstance(row.get("path"), str | os.PathLike):
        return row["path"]
    values = [row[name] for name in ("image", "img") if name in row] or list(row.values())
    images = [value for value in values if is_pillow(value) or isinstance(value, dict | bytes)]
    return images[0] if len(images) == 1 else None


def reference(row: object) -> str | bytes | os.PathLike[str] | None:
    """Return the path or the bytes that an image is decoded from, or None if that is known only later."""
    if isinstance(row, tuple) and row:
        row = row[0]
    if isinstance(row, dict):
        row = _image_of_dict(row)
        row = _image_of_dict(row) if isinstance(row, dict) else row
    if isinstance(row, bytearray | memoryview):
        return bytes(row)
    return row if isinstance(row, str | bytes | os.PathLike) else None


def fetch(row: Any) -> Any:
    """Return what a thread can decode: a path, bytes, an array or a loaded Pillow image, if it is an image.

    Datasets and Pillow images are not made for threads. Whatever a dataset raises is raised.
    """
    row = peek(row)
    if is_pillow(row):
        row.load()
    return row


def peek(row: Any) -> Any:
    """Return a row as `fetch` does, but for the pixels of a Pillow image, which need not be loaded."""
    if isinstance(row, _DatasetImage):
        row = row.dataset[row.index]
    known = reference(row)
    if known is not None:
        return known
    if isinstance(row, tuple | list) and len(row) > 0:
        row = row[0]
    if isinstance(row, dict):
        row = _image_of_dict(row)
    if hasattr(row, "detach") and hasattr(row, "numpy"):
        return row.detach().cpu().numpy()
    return row


def name_of(row: object) -> str:
    """Return how a message calls a row."""
    if isinstance(row, str | os.PathLike):
        return repr(os.fsdecode(os.fspath(row)))
    if isinstance(row, bytes):
        return f"{len(row)} bytes"
    if isinstance(row, _DatasetImage):
        return repr(row)
    if isinstance(row, tuple) and row:
        return name_of(row[0])
    return f"a {type(row).__name__}"
