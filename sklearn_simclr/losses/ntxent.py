"""NT-Xent, the loss of SimCLR, in memory that grows linearly with the batch.

Every loss takes projections ``z`` of shape (2N, d) in which rows i and i + N are the two views of image i,
normalises the rows itself, and returns a scalar. Arithmetic is float32 (float64 for float64 input) whatever
autocast says: half precision can hold neither the logits nor their sums.
"""

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._tiles import (
    _buffer,
    _check_pairs,
    _check_temperature,
    _fill_self,
    _logits,
    _no_autocast,
    _normalise,
    _spans,
    _through_normalisation,
    _working_dtype,
)

__all__ = ["nt_xent"]

# Up to this 1/temperature, exp(s) of a cosine similarity s over the temperature neither overflows (not even
# summed over 2**40 rows) nor underflows, so that no maximum has to be subtracted.
_LARGEST_PLAIN_LOGIT = {torch.float32: 60.0, torch.float64: 600.0}


def nt_xent(
    z: Tensor,
    temperature: float = 0.5,
    *,
    gathered: Tensor | None = None,
    offset: int = 0,
    negatives: Tensor | None = None,
) -> Tensor:
    r"""Return the normalised temperature-scaled cross-entropy of SimCLR.

    For an anchor i with the other view j of the same image,

    .. math:: \ell_i = -\log \frac{\exp(s_{ij} / T)}{\sum_{k \ne i} \exp(s_{ik} / T)}

    where s is the cosine similarity and T the temperature; the result is the mean over the 2N anchors, each
    with 1 positive and 2N - 2 negatives. The value for a representation that tells nothing is log(2N - 1).

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised. A row
        of zeros has similarity 0 with every row and receives no gradient.
    temperature : float, default=0.5
        T > 0 (at least 1e-30). V1 uses 0.1 on ImageNet and 0.5 on CIFAR-10.
    gathered : torch.Tensor of shape (2M, d) or None, default=None
        For data-parallel training: the projections of all ranks in the same layout, all first views, then
        all second views. M >= 2; here N = 1 is allowed. The anchors are the rows of `z` and everything they
        are compared with is taken from `gathered`.
    offset : int, default=0
        Where the local rows stand in `gathered`: local row i < N is row offset + i there and local row N + i
        is row M + offset + i. 0 <= offset <= M - N. Only read when `gathered` is given.
    negatives : torch.Tensor of shape (Q, d) or None, default=None
        Further projections that every anchor is compared with, such as those of earlier batches (the memory
        of MoCo and SimCLRv2). They are normalised here and receive no gradient. Not together with `gathered`.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Mean over the 2N anchors in `z`, float32 (float64 if an input is float64).

    Raises
    ------
    TypeError
        If `z`, `gathered` or `negatives` is not a floating-point tensor, `temperature` not a number, `offset`
        not an int.
    ValueError
        If a shape, `temperature` or `offset` is out of range.

    See Also
    --------
    dcl : Without the positive in the denominator.
    hard_nt_xent : Similar negatives count for more.
    supcon : Images of one class are positives of each other.
    sklearn_simclr.inspection.chance_level : The loss of an encoder that tells nothing apart.

    Notes
    -----
    The similarity matrix is cut into tiles that are computed, used and overwritten, and are computed once
    more in the backward pass, so that memory is linear in N; the result is exact. Without `gathered` the
    symmetry of the matrix halves the work. The backward pass is written by hand and cannot be differentiated
    again.

    The mean is over all 2N anchors, as in equation 1 and algorithm 1. Google's code adds up the losses of the
    first views and of the second, each a mean over N, which is twice as much: with SGD an equal learning rate
    makes half the step here. LARS, Adam and Muon do not depend on the scale of the loss.

    With `gathered`, gradients flow to `z` as anchors and to `gathered` as what the anchors are compared
    with; if both come from the same leaf they add up. Averaged over equally large ranks, the losses and
    gradients are those of the whole batch.

    References
    ----------
    Chen et al., "A simple framework for contrastive learning of visual representations", 2020,
    arXiv:2002.05709, eq. 1 and algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import nt_xent
    >>> views = torch.eye(4)
    >>> loss = nt_xent(torch.cat([views, views]), temperature=0.5)
    >>> round(loss.item(), 4)
    0.5944
    """
    _check_temperature(temperature)
    if gathered is None:
        _check_pairs(z, "z", smallest=2)
        if negatives is not None:
            _check_negatives(negatives, z)
            negatives = negatives.detach()
        return _NTXent.apply(z, float(temperature), negatives)
    if negatives is not None:
        raise ValueError("negatives and gathered exclude each other; pass only one of them.")
    _check_pairs(z, "z", smallest=1)
    _check_pairs(gathered, "gathered", smallest=2)
    if gathered.shape[1] != z.shape[1]:
        raise ValueError(
            f"gathered has {gathered.shape[1]} columns and z has {z.shape[1]}; pass projections of the same "
            "head."
        )
    if not isinstance(offset, Integral) or isinstance(offset, bool):
        raise TypeError(f"offset must be an int, got {type(offset).__name__}.")
    last = (len(gathered) - len(z)) // 2
    if not 0 <= offset <= last:
        pairs = f"z has {len(z) // 2} pairs and gathered has {len(gathered) // 2}"
        wanted = (
            f"pass an int in [0, {last}]"
            if last >= 0
            else "pass the projections of all processes as gathered"
        )
        raise ValueError(f"offset={offset} is out of range: {pairs}; {wanted}.")
    return _GatheredNTXent.apply(z, gathered, float(temperature), int(offset))


def _check_negatives(negatives: Tensor, z: Tensor) -> None:
    if not isinstance(negatives, torch.Tensor) or not negatives.is_floating_point():
        found = getattr(negatives, "dtype", type(negatives).__name__)
        raise TypeError(f"negatives must be a floating-point torch.Tensor, got {found}.")
    if negatives.ndim != 2 or negatives.shape[1] != z.shape[1]:
        raise ValueError(
            f"negatives has shape {tuple(negatives.shape)}; pass (Q, {z.shape[1]}), projections as long as "
            "those of z."
        )


class _LogSums:
    """The logarithm of a growing sum of exponentials, one value per row."""

    def __init__(self, n: int, like: Tensor, plain: bool) -> None:
        self.plain = plain
        self.values = like.new_full((n,), 0.0 if plain else -math.inf)

    def add(self, rows: slice, tile: Tensor, dim: int) -> None:
        """Add a tile: of exponentials if plain, else of logits."""
        values = self.values[rows]
        if self.plain:
            values += tile.sum(dim)
        else:
            torch.logaddexp(values, tile.logsumexp(dim), out=values)

    def log(self) -> Tensor:
        return self.values.log() if self.plain else self.values


def _softmax_sums(
    tile: Tensor,
    rows: slice,
    columns: slice,
    log_sums: Tensor,
    reciprocals: Tensor | None,
    scratch: Tensor | None,
) -> Tensor:
    """Overwrite a tile of logits with its softmax over each row plus, given `scratch`, that over each column.

    `reciprocals` are 1 / exp(log_sums), or None where that could overflow; `scratch` is as large as the tile.
    """
    if reciprocals is not None:
        # exp(s) (1/Z_i + 1/Z_j): one exponential serves both softmaxes.
        tile.exp_()
        if scratch is not None:
            return tile.mul_(torch.add(reciprocals[rows, None], reciprocals[columns], out=scratch))
        return tile.mul_(reciprocals[rows, None])
    if scratch is not None:
        torch.sub(tile, log_sums[columns], out=scratch).exp_()
    tile.sub_(log_sums[rows, None]).exp_()
    return tile if scratch is None else tile.add_(scratch)


class _NTXent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float, negatives: Tensor | None) -> Tensor:
        with _no_autocast(z.device):
            unit, inverse = _normalise(z, _working_dtype(z))
            others = None if negatives is None else _normalise(negatives, unit.dtype)[0]
            n, scale = len(unit), 1.0 / temperature
            plain = scale <= _LARGEST_PLAIN_LOGIT[unit.dtype]
            spans = _spans(n, z.device)
            side = spans[0][1]
            buffer = _buffer(side, side, unit)
            sums = _LogSums(n, unit, plain)
            for k, (r0, r1) in enumerate(spans):
                for c0, c1 in spans[k:]:
                    tile = _logits(unit[r0:r1], unit[c0:c1], scale, buffer(r1 - r0, c1 - c0))
                    if r0 == c0:
                        _fill_self(tile, 0, -math.inf)
                    if plain:
                        tile.exp_()
                    sums.add(slice(r0, r1), tile, 1)
                    if r0 != c0:
                        sums.add(slice(c0, c1), tile, 0)
            if others is not None:
                for rows, _, other in _NTXent._tiles_of_negatives(unit, others, scale):
                    sums.add(rows, other.exp_() if plain else other, 1)
            log_sums = sums.log()
            positives = torch.linalg.vecdot(unit[: n // 2], unit[n // 2 :]).mul_(scale)
            loss = (log_sums.view(2, -1) - positives).mean()
        # A lone tile is small: keeping it saves the backward pass a product and an exponential.
        only_tile = tile if plain and len(spans) == 1 else None
        ctx.save_for_backward(unit, inverse, log_sums, only_tile, others)
        ctx.scale, ctx.plain, ctx.dtype = scale, plain, z.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        unit, inverse, log_sums, only_tile, others = ctx.saved_tensors
        n = len(unit)
        with _no_autocast(unit.device):
            reciprocals = log_sums.neg().exp_() if ctx.plain else None
            if only_tile is not None and reciprocals is not None:
                weights = (reciprocals[:, None] + reciprocals).mul_(only_tile)
                gradient = weights @ unit
            else:
                gradient = _NTXent._gradient_in_tiles(unit, log_sums, reciprocals, ctx.scale)
            if others is not None:
                for rows, columns, tile in _NTXent._tiles_of_negatives(unit, others, ctx.scale):
                    weights = _softmax_sums(tile, rows, columns, log_sums, reciprocals, None)
                    gradient[rows].addmm_(weights, others[columns])
            # Each view of a pair is the positive of the other, hence twice.
            gradient[: n // 2].sub_(unit[n // 2 :], alpha=2.0)
            gradient[n // 2 :].sub_(unit[: n // 2], alpha=2.0)
            gradient = _through_normalisation(gradient, unit, inverse * (grad_loss * (ctx.scale / n)))
        return gradient.to(ctx.dtype), None, None

    @staticmethod
    def _tiles_of_negatives(
        unit: Tensor, others: Tensor, scale: float
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield row slice, column slice and the logits there."""
        row_spans, column_spans = _spans(len(unit), unit.device), _spans(len(others), unit.device)
        buffer = _buffer(row_spans[0][1], column_spans[0][1], unit) if column_spans else None
        for r0, r1 in row_spans:
            for c0, c1 in column_spans:
                assert buffer is not None
                tile = _logits(unit[r0:r1], others[c0:c1], scale, buffer(r1 - r0, c1 - c0))
                yield slice(r0, r1), slice(c0, c1), tile

    @staticmethod
    def _gradient_in_tiles(
        unit: Tensor, log_sums: Tensor, reciprocals: Tensor | None, scale: float
    ) -> Tensor:
        spans = _spans(len(unit), unit.device)
        side = spans[0][1]
        buffer, second_buffer = _buffer(side, side, unit), _buffer(side, side, unit)
        gradient = torch.zeros_like(unit)
        for k, (r0, r1) in enumerate(spans):
            for c0, c1 in spans[k:]:
                rows, columns, shape = slice(r0, r1), slice(c0, c1), (r1 - r0, c1 - c0)
                tile = _logits(unit[rows], unit[columns], scale, buffer(*shape))
                if r0 == c0:
                    _fill_self(tile, 0, -math.inf)
                weights = _softmax_sums(tile, rows, columns, log_sums, reciprocals, second_buffer(*shape))
                gradient[rows].addmm_(weights, unit[columns])
                if r0 != c0:
                    gradient[columns].addmm_(weights.T, unit[rows])
        return gradient


class _GatheredNTXent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, gathered: Tensor, temperature: float, offset: int) -> Tensor:
        with _no_autocast(z.device):
            dtype = _working_dtype(z, gathered)
            unit, inverse = _normalise(z, dtype)
            others, others_inverse = _normalise(gathered, dtype)
            scale = 1.0 / temperature
            plain = scale <= _LARGEST_PLAIN_LOGIT[dtype]
            sums = _LogSums(len(unit), unit, plain)
            for rows, _, tile in _GatheredNTXent._tiles(unit, others, scale, offset):
                sums.add(rows, tile.exp_() if plain else tile, 1)
            log_sums = sums.log()
            positives = torch.cat(
                [
                    torch.linalg.vecdot(unit[rows], others[columns])
                    for rows, columns in _GatheredNTXent._positives(unit, others, offset)
                ]
            )
            loss = (log_sums - positives.mul_(scale)).mean()
        ctx.save_for_backward(unit, inverse, others, others_inverse, log_sums)
        ctx.scale, ctx.plain, ctx.offset, ctx.dtypes = scale, plain, offset, (z.dtype, gathered.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        unit, inverse, others, others_inverse, log_sums = ctx.saved_tensors
        with _no_autocast(unit.device):
            reciprocals = log_sums.neg().exp_() if ctx.plain else None
            gradient = torch.zeros_like(unit)
            others_gradient = torch.zeros_like(others) if ctx.needs_input_grad[1] else None
            for rows, columns, tile in _GatheredNTXent._tiles(unit, others, ctx.scale, ctx.offset):
                weights = _softmax_sums(tile, rows, columns, log_sums, reciprocals, None)
                gradient[rows].addmm_(weights, others[columns])
                if others_gradient is not None:
                    others_gradient[columns].addmm_(weights.T, unit[rows])
            for rows, columns in _GatheredNTXent._positives(unit, others, ctx.offset):
                gradient[rows] -= others[columns]
                if others_gradient is not None:
                    others_gradient[columns] -= unit[rows]
            factor = grad_loss * (ctx.scale / len(unit))
            gradient = _through_normalisation(gradient, unit, inverse * factor).to(ctx.dtypes[0])
            if others_gradient is not None:
                others_gradient = _through_normalisation(others_gradient, others, others_inverse * factor)
                others_gradient = others_gradient.to(ctx.dtypes[1])
        return gradient, others_gradient, None, None

    @staticmethod
    def _positives(
        unit: Tensor, others: Tensor, offset: int
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows of the first and second local views, each with the rows of their positives."""
        n, m = len(unit) // 2, len(others) // 2
        return (slice(0, n), slice(m + offset, m + offset + n)), (slice(n, 2 * n), slice(offset, offset + n))

    @staticmethod
    def _tiles(
        unit: Tensor, others: Tensor, scale: float, offset: int
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield row slice, column slice and the logits there, minus infinity where an anchor meets itself."""
        n, m = len(unit) // 2, len(others) // 2
        row_spans, column_spans = _spans(n, unit.device), _spans(2 * m, unit.device)
        buffer = _buffer(row_spans[0][1], column_spans[0][1], unit)
        for view in (0, 1):
            for r0, r1 in row_spans:
                rows = slice(view * n + r0, view * n + r1)
                for c0, c1 in column_spans:
                    tile = _logits(unit[rows], others[c0:c1], scale, buffer(r1 - r0, c1 - c0))
                    _fill_self(tile, view * m + offset + r0 - c0, -math.inf)
                    yield rows, slice(c0, c1), tile
