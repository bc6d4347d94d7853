"""Batch normalisation over the batch of all ranks, with torch's kernels."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._utils.ranks import Ranks

__all__ = ["norms_over"]


@contextlib.contextmanager
def norms_over(ranks: Ranks, modules: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the rows of all ranks in training.

    Parameters
    ----------
    ranks : Ranks
        The processes that train together. Each has to run the same layers in the same order.
    modules : torch.nn.Module
        The modules; those in evaluation mode do as ever.

    Notes
    -----
    ``torch.nn.SyncBatchNorm`` computes the same, on GPUs only.
    """
    norms = [module for module in modules.modules() if isinstance(module, _BatchNorm)]
    if ranks.size == 1:
        norms = []
    for norm in norms:
        norm.forward = partial(_forward, norm, ranks)  # type: ignore[method-assign]  # for the time being
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: _BatchNorm, ranks: Ranks, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)
    mean, variance, count = _statistics(x, ranks)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        _keep(norm, mean, variance, count)
    return _Normalize.apply(x, norm.weight, norm.bias, mean, variance, norm.eps, count, ranks)


@torch.no_grad()
def _statistics(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel over the rows of all ranks, and how many numbers each has.

    All are tensors of the device, which the host does not wait for.
    """
    numbers = x if x.dtype in (torch.float32, torch.float64) else x.float()
    mean, variance = torch.batch_norm_update_stats(numbers, None, None, 0.0)
    own = mean.new_full((1,), numbers.numel() // max(1, numbers.shape[1]), dtype=torch.float64)
    counts, means, variances = ranks.stack(torch.cat([own, mean.to(own), variance.to(own)])).split(
        [1, len(mean), len(mean)], dim=1
    )
    total = counts.sum()
    together = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - together).square())).sum(0) / total
    return together.to(mean), spread.to(mean), total


@torch.no_grad()
def _keep(norm: Any, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics, as torch does."""
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    unbiased = variance * (count / (count - 1).clamp(min=1.0))
    norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)


class _Normalize(torch.autograd.Function):
    """Normalise by given statistics, whose own gradient is that of the rows of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        count: Tensor,
        ranks: Ranks,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.ranks, ctx.shifted = eps, ranks, bias is not None
        return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dy = gradients[0]
        x, weight, mean, variance, count = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()
        # Sums over the own rows of dy and of dy times the normalised x: the gradients of shift and scale.
        # CUDA makes room for them by the weight.
        known = torch.ones_like(mean) if weight is None else weight
        _, of_scale, of_shift = torch.ops.aten.native_batch_norm_backward(
            dy, x, known, mean, variance, mean, scale, False, ctx.eps, [False, True, True]
        )
        dx = None
        if ctx.needs_input_grad[0]:
            # Gathering is one exchange, where adding up in place would be two.
            sums = ctx.ranks.stack(torch.stack([of_scale, of_shift])).sum(0)
            # weight * scale * (dy - mean(dy) - normalised x * mean(dy * normalised x)), in two passes.
            gain = scale if weight is None else scale * weight
            by_x = -gain * scale * sums[0] / count
            constant = -gain * sums[1] / count - by_x * mean
            gain, by_x, constant = (row.view(1, -1, *[1] * (x.ndim - 2)) for row in (gain, by_x, constant))
            # In place: memory that is new to the process costs more than the numbers.
            dx = torch.addcmul(constant, x, by_x).addcmul_(dy, gain).to(x.dtype)
        has_weight, has_shift = weight is not None, ctx.shifted
        return dx, of_scale if has_weight else None, of_shift if has_shift else None, *([None] * 5)
