"""The losses of CURL on projections, and on margins."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._tiles import _no_autocast, _tile_side, _working_dtype

__all__ = ["curl_hinge", "curl_logistic", "hinge_of_margins", "logistic_of_margins"]


def curl_logistic(
    z: Tensor, *, n_negatives: int | None = None, block_size: int = 1, normalize: bool = False
) -> Tensor:
    r"""Return the logistic contrastive loss of CURL, in bits.

    The mean over the anchors of :math:`\log_2(1 + \sum_{i=1}^k e^{-v_i})` with the margins
    :math:`v_i = f(x)^\top (\bar f(x^+) - \bar f(x^-_i))`, where :math:`\bar f` is the mean of a block of b
    views.

    Parameters
    ----------
    z : torch.Tensor of shape ((1 + b) N, d)
        Representations or projections, floating point, N >= 2: b + 1 views of N images, all first views, then
        all second views and so on. With b = 1, rows i and i + N are a pair. In place of the views of one
        image there may be images of one class.
    n_negatives : int or None, default=None
        k in [1, N - 1]: the negatives of image i are images i + 1, ..., i + k, cyclically. None takes all the
        N - 1 others.
    block_size : int, default=1
        b >= 1. Each view is an anchor in turn. Its positives are the b other views of its image, its
        negatives the views with the same numbers of each negative image.
    normalize : bool, default=False
        Whether rows are scaled to unit length before anything else.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Mean over the (1 + b) N anchors, float32 (float64 if `z` is float64). log2(1 + k) if all rows are
        equal.

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor, or a number is not an int.
    ValueError
        If the shape of `z`, `n_negatives` or `block_size` is out of range.

    See Also
    --------
    curl_hinge : The other loss of the same theory.
    nt_xent : The loss of SimCLR.

    Notes
    -----
    Without `normalize` the loss can be made small by long rows, as in the paper, which bounds their norm.
    The margins are computed for some anchors at a time, and with them the gradient, so that memory is linear
    in N; the result is exact and cannot be differentiated twice.

    References
    ----------
    Arora et al., "A theoretical analysis of contrastive unsupervised representation learning", 2019,
    arXiv:1902.09229, eq. 6 and eq. 12; section 6.1 for k negatives.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import curl_logistic
    >>> curl_logistic(torch.ones(8, 2)).item()  # 4 images, 3 negatives: log2(1 + 3)
    2.0
    """
    return _mean_over_anchors(z, n_negatives, block_size, normalize, logistic_of_margins)


def curl_hinge(
    z: Tensor, *, n_negatives: int | None = None, block_size: int = 1, normalize: bool = False
) -> Tensor:
    r"""Return the hinge contrastive loss of CURL.

    The mean over the anchors of :math:`\max(0, 1 + \max_i(-v_i))` with the margins
    :math:`v_i = f(x)^\top (\bar f(x^+) - \bar f(x^-_i))`, where :math:`\bar f` is the mean of a block of b
    views.

    Parameters
    ----------
    z : torch.Tensor of shape ((1 + b) N, d)
        As for :func:`curl_logistic`.
    n_negatives : int or None, default=None
        k in [1, N - 1]; None is N - 1.
    block_size : int, default=1
        b >= 1.
    normalize : bool, default=False
        Whether rows are scaled to unit length before anything else. Then a margin is at most 2.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Mean over the (1 + b) N anchors, float32 (float64 if `z` is float64). 1 if all rows are equal.

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor, or a number is not an int.
    ValueError
        If the shape of `z`, `n_negatives` or `block_size` is out of range.

    See Also
    --------
    curl_logistic : The other loss of the same theory; says which negatives and blocks there are.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 2, eq. 6 and eq. 12.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import curl_hinge
    >>> views = torch.eye(3)
    >>> curl_hinge(torch.cat([views, views])).item()  # every margin is 1
    0.0
    """
    return _mean_over_anchors(z, n_negatives, block_size, normalize, hinge_of_margins)


def logistic_of_margins(margins: Tensor) -> Tensor:
    """Return the logistic loss, in bits, of each row of k margins."""
    return torch.logsumexp(torch.nn.functional.pad(-margins, (1, 0)), dim=-1) / math.log(2)


def hinge_of_margins(margins: Tensor) -> Tensor:
    return torch.relu(1.0 - margins.amin(dim=-1))


def _mean_over_anchors(
    z: Tensor,
    n_negatives: int | None,
    block_size: int,
    normalize: bool,
    loss: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the mean loss of the (1 + b) N anchors; `loss` takes the margins (m, k) of some of them."""
    views, n, k = _check(z, n_negatives, block_size)
    with _no_autocast(z.device):
        z = z.to(_working_dtype(z))
        if normalize:
            z = torch.nn.functional.normalize(z, dim=1)
    return _MeanOverAnchors.apply(z.view(views, n, -1), k, loss, z.requires_grad and torch.is_grad_enabled())


class _MeanOverAnchors(torch.autograd.Function):
    """Mean loss of the margins of z (V, N, d), for some anchors at a time.

    The loss of an anchor does not depend on the others, so the forward pass computes the gradient, too.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, k: int, loss: Callable[[Tensor], Tensor], differentiate: bool) -> Tensor:
        views, n, _ = z.shape
        side = _tile_side(z.device)
        step = max(side * side // n, 1)
        image = torch.arange(n, device=z.device)[:, None]
        total = z.new_zeros(())
        gradient, of_blocks = (torch.zeros_like(z) for _ in range(2)) if differentiate else (None, None)
        with _no_autocast(z.device):
            blocks = _others(z)
            for view in range(views):
                for start in range(0, n, step):
                    rows = slice(start, start + step)
                    similarity = z[view, rows] @ blocks[view].T
                    negative = (image[rows] + torch.arange(1, k + 1, device=z.device)) % n
                    with torch.set_grad_enabled(differentiate):
                        similarity.requires_grad_(differentiate)
                        margins = similarity.gather(1, image[rows]) - similarity.gather(1, negative)
                        losses = loss(margins).sum()
                    total += losses.detach()
                    if gradient is not None and of_blocks is not None:
                        (weights,) = torch.autograd.grad(losses, similarity)
                        gradient[view, rows] = weights @ blocks[view]
                        of_blocks[view].addmm_(weights.T, z[view, rows])
            if gradient is not None and of_blocks is not None:
                gradient += _others(of_blocks)
                gradient /= views * n
        ctx.save_for_backward(gradient)
        return total / (views * n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None, None, None


def _others(z: Tensor) -> Tensor:
    """Return for each view (V, N, d) the mean of the other views."""
    return (z.sum(0) - z) / (len(z) - 1) if len(z) > 2 else z.flip(0)


def _check(z: Tensor, n_negatives: int | None, block_size: int) -> tuple[int, int, int]:
    """Return the number of views, of images and of negatives of each."""
    for name, value in (("block_size", block_size), ("n_negatives", n_negatives)):
        if name == "n_negatives" and value is None:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}.")
        if value < 1:
            raise ValueError(f"{name}={value} is out of range; pass an int >= 1.")
    if not isinstance(z, torch.Tensor) or not z.is_floating_point():
        found = f"a tensor of {z.dtype}" if isinstance(z, torch.Tensor) else type(z).__name__
        raise TypeError(f"z must be a floating-point torch.Tensor, got {found}.")
    views = 1 + int(block_size)
    if z.ndim != 2 or len(z) % views or len(z) < 2 * views or not z.shape[1]:
        raise ValueError(
            f"z has shape {tuple(z.shape)}; with block_size={block_size} pass ({views} N, d) with N >= 2, "
            "all first views of N images, then all second views and so on."
        )
    n = len(z) // views
    k = n - 1 if n_negatives is None else int(n_negatives)
    if k > n - 1:
        raise ValueError(
            f"n_negatives={k} is out of range; {n} images have at most {n - 1} negatives each. Pass an int "
            f"in [1, {n - 1}], or None for all."
        )
    return views, n, k
