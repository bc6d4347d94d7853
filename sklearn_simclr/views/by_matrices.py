"""Make views by small dense matrices, all views at once: few operations, as suits an accelerator."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._utils.devices import send
from .colors import apply_in_turn, color_matrices
from .draws import Draws
from .filters import blur_matrix, gauss_kernels, resize_matrices
from .google_form import is_googles
from .hsv import LUMA

__all__ = ["Maps", "compute_maps", "views_by_matrices"]


class Maps(NamedTuple):
    """The linear maps and colours of V views in few numbers, from which an accelerator makes the views.

    Parameters
    ----------
    lines : tensor of shape (2, V, 5)
        For rows and columns: the filter of output pixel j has its centre at
        ``lines[..., 0] + lines[..., 1] * (lines[..., 2] + lines[..., 3] * (j + 1/2))``, and reaches
        ``lines[..., 4]`` to both sides.
    inside : bool tensor of shape (2, V, max(H, W))
        Which pixels are in the crop.
    mix, grey : tensors of shape (V, 3, 3) or (V, 1)
        Factors of the channels, and of their means over the view: matrices for three channels, else numbers.
    blurs : tensor of shape (V, R + 1) or None
        Weights of the Gaussian at the distances 0 to R.
    transposed, erased : tensor or None
        As drawn.
    colors : Draws or None
        The draws, where the colour operations follow one another.
    """

    lines: Tensor
    inside: Tensor
    mix: Tensor
    grey: Tensor
    blurs: Tensor | None
    transposed: Tensor | None
    erased: Tensor | None
    colors: Draws | None

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        own = [field for field in self[:-1] if isinstance(field, Tensor)]
        return own + [field for field in self.colors or () if field is not None]

    def with_tensors(self, tensors: Iterator[Tensor]) -> "Maps":
        """Return maps with other tensors, in the order of `tensors`."""
        own: list[Any] = [None if field is None else next(tensors) for field in self[:-1]]
        own.append(None if self.colors is None else self.colors.with_tensors(tensors))
        return Maps(*own)

    def to(self, device: torch.device | str) -> "Maps":
        """Return the maps on a device, from the CPU in one copy."""
        return self.with_tensors(iter(send(self.tensors(), torch.device(device))))


def compute_maps(
    draws: Draws,
    image_shape: Sequence[int],
    dtype: torch.dtype,
    size: tuple[int, int],
    *,
    blurs: bool,
    implementation: str,
) -> Maps:
    """Compute the maps of the views, on the device of the draws.

    Draws are best on the CPU: an accelerator starts a kernel for each operation, however few the numbers.

    The draws are without angles; ``image_shape`` and ``dtype`` are those of the images, the rest is as for
    `make_views`.
    """
    channels, height, width = image_shape[-3:]
    if draws.transposed is not None:
        draws = _upright(draws)
    start = torch.stack([draws.top, draws.left])
    length = torch.stack([draws.height, draws.width])
    step, end = torch.stack([draws.height / size[0], draws.width / size[1]]), start + length
    vertical = torch.zeros_like(draws.flip) if draws.vertical_flip is None else draws.vertical_flip
    flip = torch.stack([vertical, draws.flip])
    last = torch.stack([flip[0] * float(size[0]), flip[1] * float(size[1])])
    pixel = torch.arange(max(height, width), device=start.device)
    inside = (pixel >= start[:, :, None]) & (pixel < end[:, :, None])
    factor = draws.brightness * (1 / 255 if dtype == torch.uint8 else 1.0)
    mix, grey = factor * draws.contrast, factor * (1 - draws.contrast)
    if channels == 3:
        luma = torch.tensor(LUMA).expand(3, 3).to(mix.device)
        mix, grey = mix.view(-1, 1, 1) * color_matrices(draws), grey.view(-1, 1, 1) * luma
    return Maps(
        lines=torch.stack([start, step, last, 1.0 - 2.0 * flip, step.clamp(min=1.0)], dim=2),
        inside=inside,
        mix=mix if channels == 3 else mix[:, None],
        grey=grey if channels == 3 else grey[:, None],
        blurs=gauss_kernels(draws.sigma, size, max(size), is_googles(implementation)) if blurs else None,
        transposed=draws.transposed,
        erased=draws.erased,
        colors=draws._replace(transposed=None, erased=None) if implementation != "linear" else None,
    )


def views_by_matrices(images: Tensor, maps: Maps, size: tuple[int, int], implementation: str) -> Tensor:
    """Make all views from their maps, which are on the device of the images; nothing is erased yet."""
    n, channels, height, width = images.shape
    total = maps.lines.shape[1]
    if maps.transposed is not None:
        height = width = max(height, width)
        images = pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
    # One pass: conversion, and a copy for each view.
    pixels = torch.empty(total // max(1, n), n, channels, height, width, device=images.device)
    pixels = pixels.copy_(images.expand_as(pixels)).flatten(0, 1)
    if maps.transposed is not None:
        pixels = torch.where(maps.transposed.view(-1, 1, 1, 1), pixels.mT, pixels)
    google = is_googles(implementation)
    rows, columns = resize_matrices(maps.lines, maps.inside, (height, width), size, google=google)
    blurs = None
    if maps.blurs is not None:
        blurs = [blur_matrix(maps.blurs, n_out, google) for n_out in dict.fromkeys(size)]
    if maps.colors is not None:
        scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
        views = apply_in_turn(_separable(pixels, rows * scale, columns), maps.colors, implementation)
        views = _separable(views, blurs[0], blurs[-1]).clamp(0, 1) if blurs else views
    else:
        if blurs:
            rows, columns = blurs[0] @ rows, blurs[-1] @ columns
        x = _separable(pixels, rows, columns).flatten(2)
        if channels == 3:
            grey = torch.bmm(maps.grey, x.mean(dim=2, keepdim=True))
            # The three channels of a pixel lie side by side: convolutions are fastest with this order.
            views = torch.baddbmm(grey.mT, x.mT, maps.mix.mT).view(total, *size, 3).permute(0, 3, 1, 2)
        else:
            grey = (maps.grey * x.mean(dim=(1, 2))[:, None])[:, :, None]
            views = torch.addcmul(grey, maps.mix[:, :, None], x).view(total, channels, *size)
        views = views.clamp_(0, 1)
    return views


def _upright(draws: Draws) -> Draws:
    """Exchange rows and columns in the draws of transposed views: their images are transposed first."""
    chosen, vertical = draws.transposed, draws.vertical_flip
    assert chosen is not None and vertical is not None
    swapped = {
        one: torch.where(chosen, other, this)
        for one, this, other in (
            ("top", draws.top, draws.left),
            ("left", draws.left, draws.top),
            ("height", draws.height, draws.width),
            ("width", draws.width, draws.height),
            ("flip", draws.flip, vertical),
            ("vertical_flip", vertical, draws.flip),
        )
    }
    return draws._replace(**swapped)


def _separable(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows @ image @ columns^T for every image and channel."""
    n, channels, height, width = pixels.shape
    pixels = torch.bmm(pixels.reshape(n, channels * height, width), columns.mT)
    return torch.matmul(rows[:, None], pixels.view(n, channels, height, -1))
