"""Grey levels, and colours by hue, saturation and value, without branches.

On a CPU, torch.where takes 20 to 30 times as long as a product: here factors of 0 and 1 choose.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .._utils.devices import is_cpu

__all__ = ["LUMA", "TINY", "change_chosen", "from_hue", "in_grey", "luma", "to_hue"]

# ITU-R 601 luma, as used by torchvision's and Pillow's greyscale conversion.
LUMA = (0.2989, 0.587, 0.114)

# Less than any difference that can be seen: a divisor instead of 0.
TINY = 1e-20


def luma(views: Tensor) -> Tensor:
    """Return the grey level of every pixel: the luma of three channels, the mean of any other number."""
    if views.shape[1] != 3:
        return views.mean(dim=1, keepdim=True)
    red, green, blue = views.split(1, dim=1)
    return torch.add(red * LUMA[0], green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def in_grey(views: Tensor) -> Tensor:
    """Return the grey level of every pixel in all channels."""
    return luma(views).expand_as(views)


def to_hue(views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, chroma and hue (n, H, W) of colours (n, 3, H, W) in [0, 1].

    The value is the largest channel, chroma how much the smallest one is below it. The hue is in sixths of
    the colour circle, from -1 to 5; 0 for grey.
    """
    value, lowest = views.amax(dim=1), views.amin(dim=1)
    chroma = value - lowest
    red, green, blue = views.unbind(dim=1)
    # Grey has differences of 0, so any divisor will do. With weights of 0 and 1, lerp is exact.
    divisor = chroma.clamp(min=TINY)
    hue = (red - green).div_(divisor).add_(4)
    hue = hue.lerp_((blue - red).div_(divisor).add_(2), (value == green).to(hue.dtype))
    hue = hue.lerp_((green - blue).div_(divisor), (value == red).to(hue.dtype))
    return value, chroma, hue


def from_hue(value: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """Undo `to_hue`; any hue will do, since the circle closes after 6."""
    channels = []
    for offset in (5.0, 3.0, 1.0):  # channel c is value - chroma * max(0, min(k, 4 - k, 1))
        k = hue + offset
        k -= 6 * (k / 6).floor_()  # k % 6, in a quarter of its time
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def change_chosen(views: Tensor, chosen: Tensor, change: Callable[..., Tensor], *drawn: Tensor) -> Tensor:
    """Return ``change(views, *drawn)`` for the views that are chosen (V,), and the others as they are."""
    if is_cpu(views.device) and not views.requires_grad:
        index = chosen.nonzero()[:, 0]
        if len(index):
            views[index] = change(views[index], *(numbers[index] for numbers in drawn))
        return views
    # All views are changed: on an accelerator, choosing some would wait for their number.
    return torch.where(chosen.view(-1, 1, 1, 1), change(views, *drawn), views)
