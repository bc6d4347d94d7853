"""Similarities of projections tile by tile: what the contrastive losses share."""

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

from .._utils.devices import by_kind

# Side of the square tiles into which the similarity matrix is cut. On a CPU two float32 tiles of this size
# stay in the last-level cache; elsewhere larger ones are needed to hide the launch of a kernel.
_TILE_ROWS = {"cpu": 1024, "accelerator": 4096}

# With smaller temperatures, the logits leave the range of float32.
_SMALLEST_TEMPERATURE = 1e-30


def _check_pairs(z: Tensor, name: str, smallest: int) -> None:
    if not isinstance(z, torch.Tensor) or not z.is_floating_point():
        found = f"a tensor of {z.dtype}" if isinstance(z, torch.Tensor) else type(z).__name__
        raise TypeError(f"{name} must be a floating-point torch.Tensor, got {found}.")
    if z.ndim != 2 or len(z) % 2 or len(z) < 2 * smallest or not z.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(z.shape)}; pass (2N, d) with N >= {smallest}, the first views of N "
            "images and then their second views" + (" (one image has no negatives)." if smallest > 1 else ".")
        )


def _check_temperature(temperature: float) -> None:
    if not isinstance(temperature, Real) or isinstance(temperature, bool):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}; pass a float > 0.")
    if not _SMALLEST_TEMPERATURE <= temperature < math.inf:
        raise ValueError(
            f"temperature={temperature} is out of range; pass a finite number > 0 "
            f"(at least {_SMALLEST_TEMPERATURE:g})."
        )


def _normalise(z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the rows of z at unit length, and the factors (2N, 1) of their gradients."""
    z = z.to(dtype)
    tiny = torch.finfo(dtype).tiny
    # Squares of entries beyond 1e19 overflow float32 and those below 1e-23 vanish, hence two steps.
    largest = z.abs().amax(1, keepdim=True)
    divisor = largest.clamp_min(tiny)
    unit = z / divisor
    length = torch.linalg.vecdot(unit, unit)[:, None].sqrt_().clamp_min_(1.0)
    unit /= length
    return unit, (largest > tiny) / divisor / length


def _through_normalisation(gradient: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Turn the gradient of the unit rows, in place, into that of the rows before normalisation."""
    gradient.addcmul_(unit, torch.linalg.vecdot(unit, gradient)[:, None], value=-1.0)
    return gradient.mul_(inverse)


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _tile_side(device: torch.device) -> int:
    return by_kind(device, **_TILE_ROWS)


def _spans(n: int, device: torch.device) -> list[tuple[int, int]]:
    step = _tile_side(device)
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def _buffer(rows: int, columns: int, like: Tensor) -> Callable[[int, int], Tensor]:
    """Return a function that gives (r, c) matrices which all share one piece of memory."""
    flat = like.new_empty(rows * columns)
    return lambda r, c: flat[: r * c].view(r, c)


def _logits(a: Tensor, b: Tensor, scale: float, out: Tensor) -> Tensor:
    # With beta = 0 the first argument is ignored; the product is scaled for free.
    return torch.addmm(out, a, b.T, beta=0, alpha=scale, out=out)


def _fill_self(tile: Tensor, diagonal: int, value: float) -> None:
    if -tile.shape[0] < diagonal < tile.shape[1]:
        tile.diagonal(diagonal).fill_(value)


def _no_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device_type=device.type, enabled=False)
