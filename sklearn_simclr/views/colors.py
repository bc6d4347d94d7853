"""Colours of views: all operations at once as one matrix, or one operation after the other."""

import math

import torch
from torch import Tensor

from .draws import Draws
from .google_form import google_colors, is_googles
from .hsv import LUMA, change_chosen, from_hue, in_grey, luma, to_hue

__all__ = ["apply_contrast", "apply_in_turn", "color_matrices"]

# The YIQ axes: hue is the angle and saturation the radius in the (I, Q) plane, luma stays as it is.
_YIQ = torch.tensor(
    (LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)), dtype=torch.float64
)
_RGB = torch.linalg.inv(_YIQ)

# A turn of the hue by an angle, with the saturation multiplied by s, is
# _KEPT + s cos(angle) * _COSINE + s sin(angle) * _SINE: no product of matrices for each view.
_KEPT = torch.outer(_RGB[:, 0], _YIQ[0]).tolist()
_COSINE = (torch.outer(_RGB[:, 1], _YIQ[1]) + torch.outer(_RGB[:, 2], _YIQ[2])).tolist()
_SINE = (torch.outer(_RGB[:, 2], _YIQ[1]) - torch.outer(_RGB[:, 1], _YIQ[2])).tolist()


def color_matrices(draws: Draws) -> Tensor:
    """Return saturation, hue and greyscale of each view as one matrix (N, 3, 3), which keeps the luma."""
    chroma = torch.where(draws.grayscale, 0.0, draws.saturation)
    # A positive hue shift of HSV, red towards yellow, turns (I, Q) clockwise.
    angle = -2 * math.pi * draws.hue
    cos, sin = chroma * torch.cos(angle), chroma * torch.sin(angle)
    entries = [cos * _COSINE[i][j] + sin * _SINE[i][j] + _KEPT[i][j] for i in range(3) for j in range(3)]
    return torch.stack(entries, dim=1).view(-1, 3, 3)


def apply_contrast(views: Tensor, contrast: Tensor) -> Tensor:
    """Blend every view with its mean grey level."""
    grey = luma(views.mean(dim=(2, 3), keepdim=True))
    contrast = contrast.view(-1, 1, 1, 1)
    # Not addcmul: with a factor for each view it is slower than two operations.
    return views.mul_(contrast).add_((1 - contrast) * grey)


def apply_in_turn(views: Tensor, draws: Draws, implementation: str) -> Tensor:
    """Apply the colour operations one after the other."""
    if is_googles(implementation):
        return google_colors(views, draws, additive=implementation == "google_v1")
    return _torchvision_colors(views, draws)


def _torchvision_colors(views: Tensor, draws: Draws) -> Tensor:
    """Apply torchvision's operations in a drawn order, clip after each, and turn the hue in HSV."""
    channels = views.shape[1]
    views = views.clamp(0, 1)
    factors = torch.stack([draws.brightness, draws.contrast, draws.saturation], dim=1)
    for position in range(4):
        turn = draws.order[:, position].view(-1, 1, 1, 1)
        blends = turn < 3 if channels == 3 else turn < 2
        factor = factors.gather(1, turn.view(-1, 1).clamp(max=2)).view(-1, 1, 1, 1)
        factor = torch.where(blends, factor, 1.0)
        # Brightness blends a view with black, contrast with its mean grey level, saturation with its grey
        # levels. Factors of 0 choose among them.
        levels = luma(views)
        grey = levels.mean(dim=(2, 3), keepdim=True).mul_((1 - factor) * (turn == 1))
        other = levels.mul_((1 - factor) * (turn == 2)).add_(grey)
        views = (views * factor).add_(other).clamp_(0, 1)
        if channels == 3:
            views = change_chosen(views, turn.flatten() == 3, _turned, draws.hue)
    if channels == 3:
        views = change_chosen(views, draws.grayscale, in_grey)
    return views


def _turned(views: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by a fraction of the colour circle in HSV space."""
    value, chroma, hue = to_hue(views)
    return from_hue(value, chroma, hue + 6 * shift.view(-1, 1, 1))
