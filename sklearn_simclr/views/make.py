"""Make the views that were drawn, in the way that suits the device."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from .._utils.devices import is_cpu, send
from .by_matrices import Maps, compute_maps, views_by_matrices
from .by_rows import views_by_rows
from .draws import Draws

__all__ = ["IMPLEMENTATIONS", "make_views"]

# How the operations are computed; the names are those of `Augmentation`.
IMPLEMENTATIONS = ("linear", "torchvision", "google_v1", "google_v2")

# Views that are turned by any angle are made in groups of about so many values of their surroundings.
_ROTATED = 2**24


def make_views(
    images: Tensor,
    draws: Draws | Maps,
    size: tuple[int, int],
    *,
    blurs: bool,
    implementation: str,
    rotation: float = 0.0,
) -> Tensor:
    """Compute the views that were drawn, in the way that suits the device.

    Crop, flip, antialiased resize and blur are one linear map along the rows and one along the columns. Each
    view has its own; quarter turns exchange the two. On accelerators they are small dense matrices
    (`by_matrices.py`), on a CPU their few nonzero weights (`by_rows.py`).

    Parameters
    ----------
    images : tensor of shape (N, C, H, W)
        uint8, or floating point in [0, 1].
    draws : named tuple of tensors
        What was drawn for V views, V a multiple of N; view i is one of image i mod N. On the device of the
        images, or on the CPU. Or what `compute_maps` made of the draws.
    size : (int, int)
        Height and width of a view.
    blurs : bool
        Whether views with sigma > 0 are blurred.
    implementation : str
        One of `IMPLEMENTATIONS`. All but ``"linear"`` apply the colour operations one by one and clip after
        each.
    rotation : float, default=0.0
        The largest angle in degrees by which views are turned, where angles were drawn.

    Returns
    -------
    tensor of shape (V, C, *size)
        float32 in [0, 1].
    """
    how: dict[str, Any] = {"blurs": blurs, "implementation": implementation}
    if isinstance(draws, Draws) and draws.angle is not None:
        views = _rotated_views(images, draws, size, blurs, implementation, rotation)
    elif isinstance(draws, Draws) and is_cpu(images.device) and not images.requires_grad:
        views = views_by_rows(images, draws, size, **how)
    else:
        if isinstance(draws, Draws):
            draws = compute_maps(draws, images.shape, images.dtype, size, **how)
        draws = draws.to(images.device)
        views = views_by_matrices(images, draws, size, implementation)
    return views if draws.erased is None else _erase(views, *send([draws.erased], views.device))


def _rotated_views(
    images: Tensor, draws: Draws, size: tuple[int, int], blurs: bool, implementation: str, rotation: float
) -> Tensor:
    """Make views of crops that are turned by any angle.

    The upright box around the turned crop is resized to about the resolution of the view, with
    antialiasing; from it the view is interpolated; its colours come last. Where the crop reaches beyond the
    image, the box ends at the edge, and the interpolation reflects there.
    """
    n, channels, height, width = images.shape
    around = _size_around(size, math.radians(rotation)), _size_around(size[::-1], math.radians(rotation))
    step = max(1, _ROTATED // (channels * around[0] * around[1]))
    parts = []
    for start in range(0, len(draws.top), step):
        part = draws.rows(slice(start, start + step))
        box, grid = _surround(part, height, width)
        source = images[torch.arange(start, start + len(part.top), device=images.device) % n]
        views = make_views(source, box, around, blurs=False, implementation="linear")
        (grid,) = send([grid], images.device)
        grid = affine_grid(grid, [len(views), channels, *size], align_corners=False)
        views = grid_sample(views, grid, padding_mode="reflection", align_corners=False)
        rest = _whole(part, *size)
        parts.append(make_views(views, rest, size, blurs=blurs, implementation=implementation))
    return torch.cat(parts) if parts else images.new_empty((0, channels, *size), dtype=torch.float32)


def _size_around(size: tuple[int, int], angle: float) -> int:
    """Return the height of the upright box around a box (height, width) turned by at most an angle."""
    height, width = size
    angle = min(angle, math.atan2(width, height))
    return math.ceil(height * math.cos(angle) + width * math.sin(angle))


def _surround(draws: Draws, height: int, width: int) -> tuple[Draws, Tensor]:
    """Return the upright boxes around turned crops, and the maps (N, 2, 3) from view to box.

    Both have coordinates from -1 to 1, as :func:`torch.nn.functional.affine_grid` has.
    """
    assert draws.angle is not None
    angle = torch.deg2rad(draws.angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    half_v, half_h = draws.height / 2, draws.width / 2
    centre_v, centre_h = draws.top + half_v, draws.left + half_h
    reach_v, reach_h = half_v * cos.abs() + half_h * sin.abs(), half_h * cos.abs() + half_v * sin.abs()
    top, left = (centre_v - reach_v).floor().clamp(min=0), (centre_h - reach_h).floor().clamp(min=0)
    box_v = (centre_v + reach_v).ceil().clamp(max=height) - top
    box_h = (centre_h + reach_h).ceil().clamp(max=width) - left
    right = half_h * (1 - 2 * draws.flip.float())
    down = half_v if draws.vertical_flip is None else half_v * (1 - 2 * draws.vertical_flip.float())
    rows = [
        torch.stack([cos * right, -sin * down, centre_h - left - box_h / 2], dim=1) * (2 / box_h)[:, None],
        torch.stack([sin * right, cos * down, centre_v - top - box_v / 2], dim=1) * (2 / box_v)[:, None],
    ]
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    plain = {"brightness": one, "contrast": one, "saturation": one, "hue": zero, "sigma": zero}
    box = _whole(draws, height, width)._replace(
        top=top, left=left, height=box_v, width=box_h, grayscale=torch.zeros_like(draws.grayscale), **plain
    )
    return box, torch.stack(rows, dim=1)


def _whole(draws: Draws, height: int, width: int) -> Draws:
    """Return draws of views that show the whole of their image, as it is, in other colours."""
    zero = torch.zeros_like(draws.top)
    return draws._replace(
        top=zero,
        left=zero,
        height=zero + height,
        width=zero + width,
        flip=torch.zeros_like(draws.flip),
        vertical_flip=None,
        transposed=None,
        angle=None,
        erased=None,
    )


def _erase(views: Tensor, boxes: Tensor) -> Tensor:
    """Replace rectangles (V, 4) by the mean of each channel of their view."""
    row = torch.arange(views.shape[2], device=views.device)
    column = torch.arange(views.shape[3], device=views.device)
    top, left, bottom, right = boxes.unbind(dim=1)
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, views.mean(dim=(2, 3), keepdim=True), views)
