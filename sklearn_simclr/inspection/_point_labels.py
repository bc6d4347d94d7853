"""Labels of points: classes or numbers, missing ones, colours and names."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._utils.types import Labels

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

__all__ = ["MOST_CLASSES", "check_labels_fit", "class_colors", "class_name", "read_labels"]

# More colours can hardly be told apart, and a legend has no room for them.
MOST_CLASSES = 20


def check_labels_fit(y: Any, n: int) -> None:
    if y is None:
        return
    shape = np.shape(y)
    if len(shape) != 1 or shape[0] != n:
        raise ValueError(f"y must have shape ({n},), one label per point, got {shape}.")


def read_labels(y: Labels | None, n: int) -> tuple[str, Any, np.ndarray]:
    """Return "none", "classes" or "numbers", the labels as an array, and a mask of the missing ones."""
    if y is None:
        return "none", None, np.zeros(n, dtype=bool)
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    values = np.asarray(y, dtype=object)
    missing = np.array([_is_missing(value) for value in values], dtype=bool)
    known = values[~missing].tolist()
    numeric = all(isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) for value in known)
    if not numeric:
        return "classes", values, missing
    numbers = np.array(known, dtype=float)
    whole = (numbers == np.floor(numbers)).all()
    if whole and set(numbers) != {-1.0, 1.0}:
        missing[~missing] = numbers == -1
        numbers = numbers[numbers != -1]
    if not whole or len(np.unique(numbers)) > MOST_CLASSES:
        return "numbers", values, missing
    values[~missing] = numbers.astype(int)
    return "classes", values, missing


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, Real) and bool(value != value)


def class_colors(labels: np.ndarray, cmap: "str | Colormap | None") -> dict[Any, Any]:
    """Return {class: colour}, in the order of the classes."""
    import matplotlib as mpl

    classes = sorted(set(labels.tolist()), key=lambda label: (isinstance(label, str), label))
    n = len(classes)
    if cmap is None:
        cmap = "tab10" if n <= 10 else "tab20" if n <= MOST_CLASSES else "turbo"
    colors = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
    if hasattr(colors, "colors") and len(colors.colors) >= n and colors.N <= MOST_CLASSES:
        return {label: colors(i) for i, label in enumerate(classes)}
    return {label: colors(i / max(n - 1, 1)) for i, label in enumerate(classes)}


def class_name(label: Any, names: Mapping[Any, str] | Sequence[str] | None) -> str:
    """Return the name of a class in the legend."""
    if names is None:
        return str(label)
    try:
        if not isinstance(names, Mapping) and label < 0:
            raise IndexError
        return str(names[label])
    except (IndexError, KeyError, TypeError):
        raise ValueError(
            f"target_names has no name for the label {label!r}. Pass a dict from each label to its name, or "
            "a list whose entry k is the name of label k."
        ) from None
