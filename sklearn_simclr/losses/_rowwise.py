"""Losses that are a mean over anchors, for a block of rows of the similarity matrix at a time."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._tiles import _no_autocast, _normalise, _through_normalisation, _tile_side, _working_dtype

# A function from the cosine similarities (m, 2N) of m anchors with all rows, and the row numbers (m,) of the
# anchors, to losses (m,).
Anchors: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _mean_over_anchors(z: Tensor, anchors: Anchors) -> Tensor:
    """Return the mean loss of the 2N rows of z as anchors, in memory that is linear in N.

    The loss of an anchor does not depend on the others, so the forward pass computes the gradient, too.
    """
    return _RowwiseLoss.apply(z, anchors, z.requires_grad and torch.is_grad_enabled())


def _partners(rows: Tensor, similarity: Tensor) -> Tensor:
    """Return for each anchor the row of the other view of its image, of shape (m, 1)."""
    n = similarity.shape[1]
    return ((rows + n // 2) % n)[:, None]


def _negatives(rows: Tensor, similarity: Tensor) -> Tensor:
    """Return a mask (m, 2N) of the rows of other images."""
    negative = torch.ones_like(similarity, dtype=torch.bool)
    return negative.scatter_(1, _partners(rows, similarity), False).scatter_(1, rows[:, None], False)


class _RowwiseLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, anchors: Anchors, differentiate: bool) -> Tensor:
        with _no_autocast(z.device):
            unit, inverse = _normalise(z, _working_dtype(z))
            n = len(unit)
            side = _tile_side(z.device)
            step = max(side * side // n, 1)
            index = torch.arange(n, device=z.device)
            total = unit.new_zeros(())
            gradient = torch.zeros_like(unit) if differentiate else None
            for start in range(0, n, step):
                here = slice(start, start + step)
                rows = index[here]
                similarity = unit[here] @ unit.T
                with torch.set_grad_enabled(differentiate):
                    similarity.requires_grad_(differentiate)
                    loss = anchors(similarity, rows).sum()
                total += loss.detach()
                if gradient is not None:
                    (weights,) = torch.autograd.grad(loss, similarity)
                    gradient[here].addmm_(weights, unit)
                    gradient.addmm_(weights.T, unit[here])
            if gradient is not None:
                gradient = _through_normalisation(gradient, unit, inverse / n)
        ctx.save_for_backward(gradient)
        ctx.dtype = z.dtype
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_loss).to(ctx.dtype), None, None
