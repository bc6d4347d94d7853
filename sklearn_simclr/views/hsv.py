"""Colours by hue, saturation and value, without branches."""

from collections.abc import Callable

import torch
from torch import Tensor

from .._utils.devices import is_cpu

__all__ = ["change_chosen", "from_hue", "to_hue"]


def to_hue(views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, chroma and hue (n, H, W) of colours (n, 3, H, W) in [0, 1].

    The value is the largest channel, chroma how much the smallest one is below it. The hue is in sixths of
    the colour circle, from -1 to 5; 0 for grey.
    """
    value, lowest = views.amax(dim=1), views.amin(dim=1)
    chroma = value - lowest
    red, green, blue = views.unbind(dim=1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return value, chroma, hue


def from_hue(value: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """Undo `to_hue`; any hue will do, since the circle closes after 6."""
    channels = []
    for offset in (5.0, 3.0, 1.0):  # channel c is value - chroma * max(0, min(k, 4 - k, 1))
        k = (hue + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def change_chosen(views: Tensor, chosen: Tensor, change: Callable[..., Tensor], *drawn: Tensor) -> Tensor:
    """Return ``change(views, *drawn)`` for the views that are chosen (V,), and the others as they are."""
    if is_cpu(views.device) and not views.requires_grad:
        index = chosen.nonzero()[:, 0]
        views[index] = change(views[index], *(numbers[index] for numbers in drawn))
        return views
    # All views are changed: on an accelerator, choosing some would wait for their number.
    return torch.where(chosen.view(-1, 1, 1, 1), change(views, *drawn), views)
