"""Weights of crop, resize and blur along one axis: as few taps, or as dense matrices.

A tap is one of the pixels that an output pixel is made of. A CPU applies taps (`by_rows.py`), an accelerator
multiplies by matrices (`by_matrices.py`).
"""

import math
from functools import cache

import torch
from torch import Tensor

from .google_form import bicubic_matrices, bicubic_taps

__all__ = [
    "GAUSS_REACH",
    "Taps",
    "blur_matrix",
    "blur_taps",
    "gauss_kernels",
    "resize_matrices",
    "resize_taps",
]

# Weights of a Gaussian beyond so many standard deviations are less than float32 resolves.
GAUSS_REACH = 6.0

# Indices of the pixels that each output pixel is made of, and their weights.
Taps = tuple[Tensor, Tensor]


def resize_taps(
    start: Tensor, length: Tensor, n_in: int, n_out: int, flip: Tensor | None, *, google: bool
) -> Taps:
    """Return indices and weights (N, T, n_out) of crop, flip and resize along one axis.

    The filter is that of Pillow and of torchvision's ``antialias=True``: a triangle as wide as the
    downscaling, cut at the edges of the crop. Google's is TensorFlow's bicubic one.
    """
    out = torch.arange(n_out, dtype=torch.float32)
    if flip is not None:
        out = torch.where(flip[:, None], n_out - 1 - out, out)
    scale = (length / n_out)[:, None]
    if google:
        index, weight = bicubic_taps(start[:, None], length[:, None], out * scale)
        return index.transpose(0, 1).to(torch.int32), weight.transpose(0, 1).contiguous()
    centre, support = start[:, None] + (out + 0.5) * scale, scale.clamp(min=1.0)
    # An open interval of twice the support contains so many pixels at most.
    n_taps = math.ceil(2 * max(1.0, n_in / n_out))
    first = (centre - support).sub_(0.5).floor_().add_(1.0)
    pixel = first[:, None] + torch.arange(n_taps, dtype=torch.float32)[:, None]
    weight = (pixel + 0.5 - centre[:, None]).div_(support[:, None]).abs_().neg_().add_(1.0)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight.clamp_(min=0.0).mul_(inside)
    weight = weight.div_(weight.sum(dim=1, keepdim=True))
    return pixel.clamp_(0, n_in - 1).to(torch.int32), weight


def resize_matrices(
    lines: Tensor, inside: Tensor, n_in: tuple[int, int], n_out: tuple[int, int], *, google: bool
) -> tuple[Tensor, Tensor]:
    """Return the weights of `resize_taps` as matrices (V, n_out, n_in), for rows and for columns.

    ``lines`` and ``inside`` are those of `Maps`.
    """
    if google:
        rows, columns = (_bicubic_matrix(*axis) for axis in zip(lines, n_in, n_out, strict=True))
        return rows, columns
    start, step, last, sign, reach = lines[..., None, None].unbind(dim=2)
    # Rounded as on the CPU, hence two steps.
    centre = start + step * torch.addcmul(last, sign, _middles(max(n_out), lines.device)[:, None])
    weight = (_middles(max(n_in), lines.device) - centre).div_(reach)
    weight = weight.abs_().neg_().add_(1.0).clamp_(min=0.0).mul_(inside[:, :, None])
    weight = weight.div_(weight.sum(dim=3, keepdim=True))
    # The rows of the shorter axis that are left out may be NaN.
    rows, columns = (weight[k, :, : n_out[k], : n_in[k]] for k in range(2))
    return rows, columns


def _bicubic_matrix(lines: Tensor, n_in: int, n_out: int) -> Tensor:
    start, step, last, sign, _ = lines[:, :, None].unbind(dim=1)
    place = (last + sign * _middles(n_out, lines.device) - 0.5) * step
    return bicubic_matrices(start, (step * n_out).round(), place, n_in)


@cache
def _middles(n: int, device: torch.device) -> Tensor:
    """Return the middles of n pixels, made once on each device."""
    with torch.inference_mode(False):
        return torch.arange(n, device=device) + 0.5


def gauss_kernels(sigma: Tensor, size: tuple[int, int], n: int, padded: bool) -> Tensor:
    """Return weights (N, R + 1) of a Gaussian blur at the distances 0 to R; sigma 0 is the identity.

    R is less than n unless edges are `padded` with zeros.
    """
    radius = min(size) // 20 if padded else min(max(1, min(size) // 20), n - 1)
    distance = torch.arange(radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2)
    # The weight at distance 0 is 1 and stands once, the others twice.
    return kernel.div_(2 * kernel.sum(dim=1, keepdim=True) - 1)


def blur_taps(sigma: Tensor, size: tuple[int, int], n: int, padded: bool) -> Taps:
    """Return indices (T, n) and weights (N, T, 1 or n) of a Gaussian blur along one axis.

    Edges are reflected; if `padded`, zeros lie beyond them.
    """
    kernel = gauss_kernels(sigma, size, n, padded)
    distance = torch.arange(1 - kernel.shape[1], kernel.shape[1])
    place = torch.arange(n) + distance[:, None]
    index = place.clamp(0, n - 1) if padded else torch.minimum(place.abs(), 2 * (n - 1) - place.abs())
    distance = distance.abs_()
    weight = kernel[:, distance].mul_(distance <= GAUSS_REACH * sigma[:, None])[:, :, None]
    return index.to(torch.int32), weight * (index == place) if padded else weight


def blur_matrix(kernels: Tensor, n: int, padded: bool) -> Tensor:
    """Return weights (V, n, n) of Gaussian blurs along one axis, edges as `blur_taps` has."""
    return (kernels @ _meetings(n, kernels.shape[1], kernels.device, padded)).view(-1, n, n)


@cache
def _meetings(n: int, distances: int, device: torch.device, padded: bool) -> Tensor:
    """Return how often (distances, n * n) one of n pixels is met at each distance from another."""
    with torch.inference_mode(False):
        row, column = torch.arange(n)[:, None], torch.arange(n)
        distance = torch.arange(distances).view(-1, 1, 1)
        met = (distance == (row - column).abs()).float()
        if padded:
            return met.flatten(1).to(device)
        # A pixel other than the first and the last is also met as its own mirror image.
        met[:, :, 1:] += distance == row + column[1:]
        met[:, :, :-1] += distance == 2 * (n - 1) - row - column[:-1]
        if n == 1:  # its mirror images are itself, on both sides
            met[1:] = 2.0
        return met.flatten(1).to(device)
