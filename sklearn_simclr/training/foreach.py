"""Shared parts of the optimizers: many tensors in one call, steps that are undone, ranges of numbers."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["add_scaled", "alike", "buffers_of", "check_ranges", "unless_overflown"]


def alike(parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Return parameters that have a gradient, in lists of one device and type, as foreach operations want."""
    alike: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            alike[parameter.device, parameter.dtype].append(parameter)
    return alike.values()


def buffers_of(optimizer: torch.optim.Optimizer, parameters: list[Tensor], name: str) -> list[Tensor]:
    """Return the buffers that an optimizer keeps for parameters under a name, at first zeros."""
    for parameter in parameters:
        if name not in optimizer.state[parameter]:
            optimizer.state[parameter][name] = torch.zeros_like(parameter)
    return [optimizer.state[parameter][name] for parameter in parameters]


def add_scaled(to: list[Tensor], what: list[Tensor] | tuple[Tensor, ...], rate: float | Tensor) -> None:
    """Add tensors, multiplied by a rate; a tensor of a device is not waited for."""
    if isinstance(rate, Tensor):
        torch._foreach_add_(to, torch._foreach_mul(what, rate))
    else:
        torch._foreach_add_(to, what, alpha=rate)


@contextlib.contextmanager
def unless_overflown(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo a step whose scaled gradients are not finite, where a GradScaler asks for it; no host waits.

    ``torch.amp.GradScaler`` gives optimizers with ``_step_supports_amp_scaling`` the scale and 0 or 1 as
    attributes for the time of a step.
    """
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    if found is None:
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    scale: Tensor | None = optimizer.grad_scale  # type: ignore[attr-defined]
    if scale is not None:
        torch._foreach_mul_([p.grad for p in parameters], scale.reciprocal())
    known = {p: dict(optimizer.state[p]) for p in parameters}
    kept = [(p, p.clone()) for p in parameters]
    for state in known.values():
        kept += [(value, value.clone()) for value in state.values()]
    yield
    skip = found > 0
    for tensor, before in kept:
        tensor.copy_(torch.where(skip, before, tensor))
    # Buffers that a first step has made are zero again.
    for p in parameters:
        for name, value in optimizer.state[p].items():
            if name not in known[p]:
                value.masked_fill_(skip, 0)


def check_ranges(*checks: tuple[str, float, bool, str]) -> None:
    for name, value, valid, allowed in checks:
        if not (valid and value < math.inf):
            raise ValueError(f"{name}={value} is out of range; pass a finite number {allowed}.")
