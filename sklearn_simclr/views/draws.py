"""Draw the random numbers of views: crops, turns, colours, blurs, erased rectangles."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .._utils.devices import send
from .google_form import CROP_TRIES, draw_google_crops, is_googles

if TYPE_CHECKING:
    from .augmentation import Augmentation

__all__ = ["Draws", "draw_views"]

# The number of boxes that torchvision tries.
_CROP_TRIES = 10

# Area, as a fraction of the view's, and aspect ratio of what is erased: those of Zhong et al., but half of
# their largest area since SimCLR crops already.
_ERASED_AREA = (0.02, 0.2)
_ERASED_RATIO = (0.3, 1 / 0.3)

# First row, first column, height and width of crops.
_Boxes = tuple[Tensor, Tensor, Tensor, Tensor]


class Draws(NamedTuple):
    """Draws for N views: N rows in each field, None where nothing is asked for."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    grayscale: Tensor
    sigma: Tensor
    vertical_flip: Tensor | None = None
    transposed: Tensor | None = None
    angle: Tensor | None = None
    erased: Tensor | None = None

    def rows(self, index: Tensor | slice) -> "Draws":
        """Return the draws of some of the views."""
        fields: Iterator[Any] = (None if field is None else field[index] for field in self)
        return Draws(*fields)

    def to(self, device: torch.device | str) -> "Draws":
        """Return the draws on a device, from the CPU in one copy."""
        there = send([field for field in self if field is not None], torch.device(device))
        return self.with_tensors(iter(there))

    def with_tensors(self, tensors: Iterator[Tensor]) -> "Draws":
        """Return draws with other tensors in the fields that are not None, in their order."""
        fields: Iterator[Any] = (None if field is None else next(tensors) for field in self)
        return Draws(*fields)


def draw_views(
    views: "Augmentation", n: int, image_shape: tuple[int, ...], generator: torch.Generator | None
) -> Draws:
    """Draw for n views on the generator's device; the parameters of ``views`` are concrete."""
    device = torch.device("cpu") if generator is None else generator.device
    google = is_googles(views.implementation)
    tries = CROP_TRIES if google else _CROP_TRIES
    counts = {"area": tries, "ratio": tries, "vertical": 1, "horizontal": 1, "jitter": 1, "factors": 4}
    counts |= {"order": 4, "blur": 1, "flip": 1, "grey": 1, "sigma": 1}
    # One call for all random numbers: small calls cost more than the numbers.
    numbers = torch.rand(n * sum(counts.values()), generator=generator, device=device)
    parts = numbers.split([n * count for count in counts.values()])
    uniform = dict(zip(counts, parts, strict=True))
    uniform |= {name: uniform[name].view(n, tries) for name in ("area", "ratio")}
    turns = _draw_turns(views, n, uniform["flip"], generator, device)
    draw_crops = _draw_as_google if google else _draw_crops
    top, left, height, width = draw_crops(views, uniform, image_shape, turns["transposed"])
    strength = float(views.color_strength)
    low, high = max(0.0, 1.0 - 0.8 * strength), 1.0 + 0.8 * strength
    jittered = uniform["jitter"] < views.jitter_probability
    factors = uniform["factors"].view(4, n)
    added = 1.0 + 0.8 * strength * (2.0 * factors[0] - 1.0)  # V1's, 1 + U(-0.8 s, 0.8 s)
    brightness, contrast, saturation = torch.where(jittered, _between(factors[:3], low, high), 1.0)
    if views.implementation == "google_v1":
        brightness = torch.where(jittered, added, 1.0)
    hue = torch.where(jittered, _between(factors[3], -0.2 * strength, 0.2 * strength), 0.0)
    sigma = _between(uniform["sigma"], *views.blur_sigma)
    return Draws(
        top=top,
        left=left,
        height=height,
        width=width,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        order=uniform["order"].view(n, 4).argsort(dim=1),
        grayscale=uniform["grey"] < views.grayscale_probability,
        sigma=torch.where(uniform["blur"] < views.blur_probability, sigma, 0.0),
        **turns,
    )


def _draw_turns(
    views: "Augmentation", n: int, flip: Tensor, generator: torch.Generator | None, device: torch.device
) -> dict[str, Any]:
    """Draw how n views are mirrored, turned and erased; only what is asked for takes random numbers."""

    def uniform(count: int = 1) -> Tensor:
        return torch.rand(count, n, generator=generator, device=device)

    flipped: Tensor = flip < views.flip_probability
    vertical = transposed = angle = erased = None
    if views.vertical_flip_probability > 0:
        vertical = uniform()[0] < views.vertical_flip_probability
    if views.rotation == "quarter":
        # A quarter turn counterclockwise is a mirroring, then an exchange of rows and columns.
        turn = (4 * uniform()[0]).floor_()
        transposed = turn % 2 == 1
        flipped = flipped ^ ((turn == 1) | (turn == 2))
        vertical = (turn >= 2) if vertical is None else vertical ^ (turn >= 2)
    elif views.rotation is not None:
        angle = _between(uniform()[0], -views.rotation, views.rotation)
    if views.erasing_probability > 0:
        erased = _draw_erased(uniform(5), views.erasing_probability, *views.size)
    return {
        "flip": flipped,
        "vertical_flip": vertical,
        "transposed": transposed,
        "angle": angle,
        "erased": erased,
    }


def _draw_crops(
    views: "Augmentation", uniform: dict[str, Tensor], image_shape: tuple[int, ...], transposed: Tensor | None
) -> _Boxes:
    """Make boxes of numbers in [0, 1) as torchvision's RandomResizedCrop does.

    A box is the first of ten that fits, or a central box. Its ratio is relative to that of the image. Where a
    view is transposed, the ratio of its box is such that the view is stretched as much as the others.
    """
    _, height, width = image_shape
    vertical, horizontal = uniform["vertical"], uniform["horizontal"]
    ratios = [r * (width / height) for r in views.crop_ratio]
    stretch = (views.size[0] / views.size[1]) ** 2
    area = _between(uniform["area"], *views.crop_scale).mul_(height * width)
    ratio = _between(uniform["ratio"], *(math.log(r) for r in ratios)).exp_()
    if transposed is not None:
        ratio = torch.where(transposed[:, None], ratio * stretch, ratio)
    crop_width = (area * ratio).sqrt_().round_()
    crop_height = (area / ratio).sqrt_().round_()
    fits = (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    central = _central_crop(height, width, *ratios)
    if transposed is not None:
        other = _central_crop(height, width, *(r * stretch for r in ratios))
        central = [torch.where(transposed, *sides) for sides in zip(other, central, strict=True)]
    crop_height = torch.where(any_fits, crop_height.gather(1, first)[:, 0], central[0])
    crop_width = torch.where(any_fits, crop_width.gather(1, first)[:, 0], central[1])
    room_v, room_h = height - crop_height, width - crop_width
    # u < 1, but u * (room + 1) can round up to room + 1.
    top = torch.minimum((vertical * (room_v + 1)).floor_(), room_v)
    left = torch.minimum((horizontal * (room_h + 1)).floor_(), room_h)
    top = torch.where(any_fits, top, (height - central[0]) // 2)
    left = torch.where(any_fits, left, (width - central[1]) // 2)
    return top, left, crop_height, crop_width


def _central_crop(height: int, width: int, low: float, high: float) -> list[Any]:
    """Return height and width of the central crop of torchvision: the image, cut to the nearest ratio."""
    if width / height < low:
        height = max(1, round(width / low))
    elif width / height > high:
        width = max(1, round(height * high))
    return [float(height), float(width)]


def _draw_as_google(
    views: "Augmentation", uniform: dict[str, Tensor], image_shape: tuple[int, ...], transposed: Tensor | None
) -> _Boxes:
    """Make boxes as Google's code does; their ratio is relative to that of the view."""
    vertical, horizontal = uniform["vertical"], uniform["horizontal"]
    aspect = torch.full_like(vertical, views.size[1] / views.size[0])
    if transposed is not None:
        aspect = torch.where(transposed, 1 / aspect, aspect)
    low, high = (r * aspect for r in views.crop_ratio)
    size = image_shape[1], image_shape[2]
    places = uniform["area"], uniform["ratio"], vertical, horizontal
    return draw_google_crops(*places, size, views.crop_scale, (low, high))


def _draw_erased(numbers: Tensor, probability: float, height: int, width: int) -> Tensor:
    """Make rectangles (n, 4) of numbers (5, n): first and last row and column, the last ones excluded."""
    chosen, area, ratio, vertical, horizontal = numbers
    area = _between(area, *_ERASED_AREA).mul_(height * width)
    ratio = _between(ratio, *(math.log(r) for r in _ERASED_RATIO)).exp_()
    tall = (area * ratio).sqrt_().round_().clamp_(1, height)
    wide = (area / ratio).sqrt_().round_().clamp_(1, width)
    top = torch.minimum((vertical * (height - tall + 1)).floor_(), height - tall)
    left = torch.minimum((horizontal * (width - wide + 1)).floor_(), width - wide)
    box = torch.stack([top, left, top + tall, left + wide], dim=1)
    return torch.where((chosen < probability)[:, None], box, 0.0)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    """Stretch numbers in [0, 1) to [low, high), in place."""
    return u.mul_(high - low).add_(low)
