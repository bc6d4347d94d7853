"""The operations on views as google-research/simclr computes them on TensorFlow 1, for both papers."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .hsv import TINY, change_chosen, from_hue, in_grey, to_hue

if TYPE_CHECKING:
    from .draws import Draws

__all__ = [
    "CROP_TRIES",
    "bicubic_matrices",
    "bicubic_taps",
    "draw_google_crops",
    "google_colors",
    "is_googles",
]

CROP_TRIES = 100

# A crop that covers less of the image is drawn again: Google's code asks for this much of the image as the
# one object in it, so that areas of 8% to 10% never occur although 8% is the lower end of their range.
_LEAST_COVERED = 0.1

# The parameter of TensorFlow's cubic kernel, and the steps into which the distance from a pixel is rounded.
_CUBIC = -0.75
_CUBIC_STEPS = 1024


def is_googles(implementation: str) -> bool:
    """Return whether an implementation of `Augmentation` computes as Google's code does."""
    return implementation.startswith("google")


def draw_google_crops(
    tall: Tensor,
    ratio: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    image_size: tuple[int, int],
    area: tuple[float, float],
    ratios: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make boxes of numbers in [0, 1) as TensorFlow's sample_distorted_bounding_box does.

    The ratio (width / height) is uniform; given the ratio, so is the height, between those of the smallest
    and of the largest area. A box is the first of many that fits and covers a tenth of the image, or else the
    whole image. The last row and the last column are not reached by boxes that are smaller than the image.

    ``tall`` and ``ratio`` (n, tries) are for height and ratio, ``vertical`` and ``horizontal`` (n,) for the
    place. ``area`` is a range of fractions of the image's area, ``ratios`` are the lowest and the
    highest ratio of each view. Top, left, height and width (n,) are in pixels.
    """
    height, width = image_size
    low, high = (r[:, None] for r in ratios)
    ratio = ratio * (high - low) + low
    smallest, largest = (part * height * width for part in area)
    shortest, tallest = (smallest / ratio).sqrt_().round_(), (largest / ratio).sqrt_().round_()
    as_wide = ((width + 0.5 - 1e-7) / ratio).floor_()
    as_wide = torch.where((as_wide * ratio).round_() > width, as_wide - 1, as_wide)
    tallest = torch.where((tallest * ratio).round_() > width, as_wide, tallest).clamp_(max=height)
    shortest = torch.minimum(shortest, tallest)
    box_height = torch.minimum(shortest + (tall * (tallest - shortest + 1)).floor_(), tallest)
    for too_much, step in ((False, 1), (True, -1)):  # rounding may leave the range by a pixel
        box_area = box_height * (box_height * ratio).round_()
        box_height += step * (box_area > largest if too_much else box_area < smallest)
    box_width = (box_height * ratio).round_()
    box_area = box_height * box_width
    fits = (box_area >= smallest) & (box_area <= largest) & (box_width <= width) & (box_height <= height)
    fits &= (box_height > 0) & (box_width > 0) & (box_area >= _LEAST_COVERED * height * width)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    box_height = torch.where(found, box_height.gather(1, first)[:, 0], float(height))
    box_width = torch.where(found, box_width.gather(1, first)[:, 0], float(width))
    top, left = (vertical * (height - box_height)).floor_(), (horizontal * (width - box_width)).floor_()
    return top, left, box_height, box_width


def bicubic_taps(start: Tensor, length: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return which four pixels make an output pixel, and their weights, along one axis.

    As TensorFlow 1 resizes: no antialiasing, output pixel j is at ``j * length / n_out`` of the crop (half a
    pixel beside where other libraries have it), and pixels beyond the crop are the crop's last ones.

    ``start`` and ``length`` (..., 1) of the crop and ``place`` (..., n_out), counted from its start, are in
    pixels. Index, in floating point, and weight have shape (4, ..., n_out).
    """
    base = place.floor()
    beyond = ((place - base) * _CUBIC_STEPS).round_().div_(_CUBIC_STEPS)
    index = torch.stack([torch.minimum((base + k).clamp_(min=0), length - 1) + start for k in range(-1, 3)])
    far, near, other_near, other_far = 1 + beyond, beyond, 1 - beyond, 2 - beyond
    weight = torch.stack([_outer(far), _inner(near), _inner(other_near), _outer(other_far)])
    return index, weight


def _inner(x: Tensor) -> Tensor:
    return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1


def _outer(x: Tensor) -> Tensor:
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC


def bicubic_matrices(start: Tensor, length: Tensor, place: Tensor, n_in: int) -> Tensor:
    """Return the weights of `bicubic_taps` as matrices (..., n_out, n_in)."""
    index, weight = bicubic_taps(start, length, place)
    pixel = torch.arange(n_in, device=index.device)
    matrix = torch.zeros((*place.shape, n_in), device=index.device)
    for tap, of_tap in zip(index, weight, strict=True):
        matrix += (tap[..., None] == pixel) * of_tap[..., None]
    return matrix


def google_colors(views: Tensor, draws: "Draws", *, additive: bool) -> Tensor:
    """Apply TensorFlow's colour operations in the order that was drawn, clipped after each.

    Contrast is about the mean of each channel; saturation and hue are changed in HSV space. Views whose
    colours are not jittered are clipped at the end only, after they have perhaps turned grey.

    The views (V, C, H, W) may be a little outside of [0, 1], as bicubic interpolation leaves them; the result
    lies within [0, 1]. With ``additive``, brightness - 1 is added, as for V1, instead of multiplying by
    brightness, as for V2.
    """
    brightness, contrast, saturation, hue = draws.brightness, draws.contrast, draws.saturation, draws.hue
    jittered = (brightness != 1) | (contrast != 1) | (saturation != 1) | (hue != 0)
    numbers = draws.order, brightness, contrast, saturation, hue
    views = change_chosen(views.clone(), jittered, partial(_jittered, additive=additive), *numbers)
    if views.shape[1] == 3:
        views = change_chosen(views, draws.grayscale, in_grey)
    return views.clamp(0, 1)


def _jittered(
    views: Tensor,
    order: Tensor,
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor,
    *,
    additive: bool,
) -> Tensor:
    """Apply the four operations in their order."""
    for position in range(4):
        turn = order[:, position]
        factor = torch.where(turn == 1, contrast, 1.0)
        offset = (1 - factor).view(-1, 1, 1, 1) * views.mean(dim=(2, 3), keepdim=True)
        if additive:
            offset += torch.where(turn == 0, brightness - 1, 0.0).view(-1, 1, 1, 1)
        else:
            factor = torch.where(turn == 0, brightness, factor)
        views = views * factor.view(-1, 1, 1, 1) + offset
        if views.shape[1] == 3:
            views = change_chosen(views, turn >= 2, _in_hsv, turn, saturation, hue)
        views = views.clamp(0, 1)
    return views


def _in_hsv(views: Tensor, turn: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Multiply the saturation of views whose turn is 2, and turn the hue of those whose turn is 3."""
    value, chroma, sector = to_hue(views)
    saturates = (turn == 2).view(-1, 1, 1)
    # Black has no chroma, so any divisor will do.
    part = (chroma / value.clamp(min=TINY) * saturation.view(-1, 1, 1)).clamp_(0, 1)
    chroma = chroma.lerp(value * part, saturates.to(chroma.dtype))
    angle = sector + torch.where(saturates, 0.0, 6 * hue.view(-1, 1, 1))
    return from_hue(value, chroma, angle)
