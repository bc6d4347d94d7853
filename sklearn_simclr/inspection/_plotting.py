"""Tools for the displays: matplotlib on demand, axes to draw in, images as matplotlib takes them."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state

from .._utils.types import RandomState
from ..images.computed import ComputedImages
from ..images.indexing import row_blocks
from ..images.source import ImageSource, as_float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = [
    "check_count",
    "is_taken",
    "new_axes",
    "percent_of",
    "pictures",
    "random_numbers",
    "read_images",
    "require_matplotlib",
    "sample_rows",
    "show_picture",
    "split_axes",
]

# Longer side of a picture: a figure of several pictures has about half as many pixels for each.
_PICTURE_SIDE = 256


def require_matplotlib(caller: str) -> Any:
    """Return ``matplotlib.pyplot``.

    Parameters
    ----------
    caller : str
        Who needs it, for the message.

    Returns
    -------
    module
        Imported now, not before.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message names the extra that brings it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib. Install it with: pip install 'sklearn-simclr[plot]'"
        ) from error
    return plt


def new_axes(ax: "Axes | None", figsize: tuple[float, float], caller: str) -> "Axes":
    """Return the Axes to draw in, those of a new figure if `ax` is None."""
    plt = require_matplotlib(caller)
    if ax is not None:
        return ax
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def split_axes(
    ax: "Axes | Sequence[Axes] | np.ndarray | None",
    n: int,
    figsize: tuple[float, float],
    caller: str,
    spacing: float = 0.22,
    right: float = 0.0,
) -> np.ndarray:
    """Return n Axes side by side.

    Parameters
    ----------
    ax : None, Axes or sequence of n Axes
        None makes a new figure; the place of one Axes is divided.
    n : int
        How many panels.
    figsize : (float, float)
        Size of the new figure in inches.
    caller : str
        Who needs them, for the messages.
    spacing : float, default=0.22
        Between two panels of a divided Axes, as a fraction of a panel's width.
    right : float, default=0.0
        What is left free at the right of a divided Axes, as a fraction of its width.

    Returns
    -------
    ndarray of Axes, shape (n,)
        The panels.
    """
    plt = require_matplotlib(caller)
    if ax is None:
        return plt.subplots(1, n, figsize=figsize, layout="constrained", squeeze=False)[1][0]
    axes = np.empty(n, dtype=object)
    if isinstance(ax, Sequence | np.ndarray):
        given = np.asarray(ax, dtype=object).ravel()
        if len(given) != n:
            raise ValueError(
                f"ax holds {len(given)} Axes, but {n} panels are to be drawn. Pass {n} Axes in a list, or a "
                "single one to be divided."
            )
        axes[:] = given
    elif n == 1:
        axes[0] = ax
    else:
        ax.set_axis_off()
        width = (1 - right) / (n + (n - 1) * spacing)
        axes[:] = [ax.inset_axes((i * width * (1 + spacing), 0, width, 1)) for i in range(n)]
    return axes


def pictures(images: torch.Tensor | ImageSource | ComputedImages, side: int = _PICTURE_SIDE) -> np.ndarray:
    """Return images as matplotlib shows them.

    Parameters
    ----------
    images : tensor of shape (n, C, H, W), ImageSource or ComputedImages
        uint8, or floating point in [0, 1].
    side : int, default=256
        Larger pictures are averaged down to this longer side.

    Returns
    -------
    ndarray of shape (n, h, w) or (n, h, w, 3)
        float32 in [0, 1]. Three channels are colours, of four the first three; any other number of
        channels is shown as grey, by its mean.
    """
    shape = tuple(images.shape[-3:])
    scale = min(1.0, side / max(shape[1:]))
    size = max(1, round(scale * shape[1])), max(1, round(scale * shape[2]))
    shown = []
    for rows in row_blocks(len(images), 4 * math.prod(shape)):
        some = images[rows] if isinstance(images, torch.Tensor) else images.take(rows)
        pixels = as_float(some.detach().cpu()).float().clamp(0, 1)
        pixels = pixels[:, :3] if shape[0] in (3, 4) else pixels.mean(dim=1, keepdim=True)
        if scale < 1:
            pixels = torch.nn.functional.adaptive_avg_pool2d(pixels, size)
        shown.append(pixels.permute(0, 2, 3, 1))
    found = torch.cat(shown).numpy()
    return found if found.shape[3] == 3 else found[..., 0]


def show_picture(ax: "Axes", picture: np.ndarray, extent: tuple[float, float, float, float]) -> "AxesImage":
    """Draw one of `pictures` at (left, right, bottom, top) in data coordinates; return the artist."""
    color: dict[str, Any] = {} if picture.ndim == 3 else {"cmap": "gray", "vmin": 0, "vmax": 1}
    return ax.imshow(picture, extent=extent, interpolation="nearest", aspect="equal", **color)


def random_numbers(random_state: RandomState) -> np.random.RandomState:
    """Return a RandomState; None takes fresh entropy and leaves numpy's global generator alone."""
    if random_state is None:
        return np.random.RandomState(int(np.random.default_rng().integers(2**31)))
    return check_random_state(random_state)


def sample_rows(n: int, size: int, rng: np.random.RandomState, name: str) -> np.ndarray:
    """Return `size` random rows of 0..n-1 in their order; all of them if size is n."""
    if size < 1 or size > n:
        raise ValueError(f"{name}={size}, but X has {n} images. Pass a number from 1 to {n}.")
    return np.arange(n) if size == n else np.sort(rng.permutation(n)[:size])


def check_count(name: str, value: object, smallest: int = 1) -> None:
    """Raise unless a number is an int of at least `smallest`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < smallest:
        raise ValueError(f"{name} must be an int of at least {smallest}, got {value!r}.")


def read_images(step: Any, before: list[Any], X: Any) -> tuple[ImageSource, Any]:
    """Read X as a step of a pipeline does; return the images and the step, cloned if it is not fitted."""
    for transformer in before:
        X = transformer.transform(X)
    if hasattr(step, "encoder_"):
        return step._read_images(X, reset=False), step
    step = clone(step)
    return step._read_images(X, reset=True), step


def is_taken(box: Any, paths: Iterable[tuple[Any, bool]]) -> bool:
    """Return whether a path meets a box; each path comes with a flag that says whether its inside counts."""
    return any(path.intersects_bbox(box, filled=filled) for path, filled in paths)


def percent_of(fraction: float) -> str:
    """Return a fraction in percent, to three digits."""
    return f"{100 * fraction:.3g}%"
