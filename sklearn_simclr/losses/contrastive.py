"""Contrastive losses on projections, with memory that grows linearly with the batch.

Every loss takes projections ``z`` of shape (2N, d) in which rows i and i + N are the two views of image i,
normalises the rows itself, and returns a scalar. Arithmetic is float32 (float64 for float64 input) whatever
autocast says: half precision can hold neither the logits nor their sums.
"""

import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

__all__ = ["curl_hinge", "curl_logistic", "margin_triplet", "nt_logistic", "nt_xent"]

# Side of the square tiles into which the similarity matrix is cut. On a CPU two float32 tiles of this size
# stay in the last-level cache; elsewhere larger ones are needed to hide the launch of a kernel.
_TILE_ROWS = {"cpu": 1024}
_TILE_ROWS_ELSEWHERE = 4096

# Up to this 1/temperature, exp(s) of a cosine similarity s over the temperature neither overflows (not even
# summed over 2**40 rows) nor underflows, so that no maximum has to be subtracted.
_LARGEST_PLAIN_LOGIT = {torch.float32: 60.0, torch.float64: 600.0}

# Below, similarities divided by the temperature leave the range of float32.
_SMALLEST_TEMPERATURE = 1e-30


def nt_xent(
    z: Tensor, temperature: float = 0.5, *, gathered: Tensor | None = None, offset: int = 0
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

    Returns
    -------
    loss : torch.Tensor of shape ()
        Mean over the 2N anchors in `z`, float32 (float64 if an input is float64).

    Raises
    ------
    TypeError
        If `z` or `gathered` is not a floating-point tensor, `temperature` not a number, `offset` not an int.
    ValueError
        If a shape, `temperature` or `offset` is out of range.

    Notes
    -----
    The similarity matrix is cut into tiles that are computed, used and overwritten, and are computed once
    more in the backward pass, so that memory is linear in N; the result is exact. Without `gathered` the
    symmetry of the matrix halves the work. The backward pass is written by hand and cannot be differentiated
    again.

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
        return _NTXent.apply(z, float(temperature))
    _check_pairs(z, "z", smallest=1)
    _check_pairs(gathered, "gathered", smallest=2)
    if gathered.shape[1] != z.shape[1]:
        raise ValueError(
            f"gathered has {gathered.shape[1]} columns and z has {z.shape[1]}: pass projections of one head."
        )
    if not isinstance(offset, Integral) or isinstance(offset, bool):
        raise TypeError(f"offset must be an int, got {type(offset).__name__}.")
    last = (len(gathered) - len(z)) // 2
    if not 0 <= offset <= last:
        raise ValueError(
            f"offset={offset} is out of range: {len(z) // 2} local pairs among {len(gathered) // 2} gathered "
            f"ones begin at an offset in [0, {last}]."
        )
    return _GatheredNTXent.apply(z, gathered, float(temperature), int(offset))


def nt_logistic(z: Tensor, temperature: float = 0.5, *, semi_hard: bool = False) -> Tensor:
    r"""Return the normalised temperature-scaled logistic loss.

    Per anchor u with positive v+ and negatives v-,
    :math:`-\log\sigma(u^T v^+ / T) - \mathrm{mean}_{v^-} \log\sigma(-u^T v^- / T)`, averaged over the 2N
    anchors. V1 states the loss for one triple (u, v+, v-); the mean over an anchor's 2N - 2 negatives is the
    mean of that over all triples, so that the balance of the two terms does not depend on the batch size.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    temperature : float, default=0.5
        T > 0 (at least 1e-30). V1 searched 0.1, 0.2, 0.5 and 1.
    semi_hard : bool, default=False
        Use only one negative an anchor: the one closest to it of those farther from it than its positive. An
        anchor that has none keeps the positive term alone.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64).

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor or `temperature` not a number.
    ValueError
        If the shape of `z` or `temperature` is out of range.

    Notes
    -----
    V1 takes the negatives from one of the two views "for simplicity, which slightly impairs performance"
    (B.10); here they are all 2N - 2 rows of other images, as in `nt_xent`.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, table 2, section 5.1 and appendix B.10.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import nt_logistic
    >>> views = torch.eye(4)
    >>> round(nt_logistic(torch.cat([views, views]), temperature=0.5).item(), 4)
    0.8201
    """
    _check_temperature(temperature)
    _check_pairs(z, "z", smallest=2)
    scale = 1.0 / float(temperature)

    def anchors(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        attraction = softplus(-scale * positive)
        if semi_hard:
            return attraction + softplus(scale * _closest_farther(similarity, positive, negative))
        return attraction + _mean_over(softplus(scale * similarity), negative)

    return _RowwiseLoss.apply(z, anchors, z.requires_grad and torch.is_grad_enabled())


def margin_triplet(z: Tensor, margin: float = 0.8, *, semi_hard: bool = False) -> Tensor:
    r"""Return the margin triplet loss on cosine similarities.

    Per anchor u with positive v+ and negatives v-,
    :math:`\mathrm{mean}_{v^-} \max(u^T v^- - u^T v^+ + m, 0)`, averaged over the 2N anchors: the mean of V1's
    loss over all triples (u, v+, v-). Triples that keep the margin count as zeros in that mean.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    margin : float, default=0.8
        m >= 0; similarities lie in [-1, 1], so that beyond 2 no triple keeps it. V1 searched 0, 0.4, 0.8
        and 1.6 and does not say which was best.
    semi_hard : bool, default=False
        Use only one negative an anchor: the one closest to it of those farther from it than its positive
        (and within the margin; elsewhere the loss is zero anyway). An anchor that has none counts as zero.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64).

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor or `margin` not a number.
    ValueError
        If the shape of `z` or `margin` is out of range.

    Notes
    -----
    V1 takes the negatives from one of the two views "for simplicity, which slightly impairs performance"
    (B.10); here they are all 2N - 2 rows of other images, as in `nt_xent`.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, table 2, section 5.1 ("within the loss margin and closest in
    distance, but farther than positive examples") and appendix B.10.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import margin_triplet
    >>> views = torch.eye(4)
    >>> round(margin_triplet(torch.cat([views, views]), margin=1.6).item(), 4)
    0.6
    """
    if not isinstance(margin, Real) or isinstance(margin, bool):
        raise TypeError(f"margin must be a number, got {type(margin).__name__}; pass a float >= 0.")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin} is out of range; pass a finite number >= 0.")
    _check_pairs(z, "z", smallest=2)
    margin = float(margin)

    def anchors(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        if semi_hard:
            return torch.relu(_closest_farther(similarity, positive, negative) - positive + margin)
        return _mean_over(torch.relu(similarity - positive[:, None] + margin), negative)

    return _RowwiseLoss.apply(z, anchors, z.requires_grad and torch.is_grad_enabled())


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
    """Return the rows of z at unit length and, of shape (2N, 1), what their gradients are multiplied by."""
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
    """Turn, in place, the gradient for unit rows into that for the rows they were made from."""
    gradient.addcmul_(unit, torch.linalg.vecdot(unit, gradient)[:, None], value=-1.0)
    return gradient.mul_(inverse)


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _spans(n: int, device: torch.device) -> list[tuple[int, int]]:
    step = _TILE_ROWS.get(device.type, _TILE_ROWS_ELSEWHERE)
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


class _LogSums:
    """The logarithm of a growing sum of exponentials, a value a row."""

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
    def forward(ctx: Any, z: Tensor, temperature: float) -> Tensor:
        with _no_autocast(z.device):
            unit, inverse = _normalise(z, _working_dtype(z))
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
            log_sums = sums.log()
            positives = torch.linalg.vecdot(unit[: n // 2], unit[n // 2 :]).mul_(scale)
            loss = (log_sums.view(2, -1) - positives).mean()
        # A lone tile is small: keeping it saves the backward pass a product and an exponential.
        only_tile = tile if plain and len(spans) == 1 else None
        ctx.save_for_backward(unit, inverse, log_sums, only_tile)
        ctx.scale, ctx.plain, ctx.dtype = scale, plain, z.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        unit, inverse, log_sums, only_tile = ctx.saved_tensors
        n = len(unit)
        with _no_autocast(unit.device):
            reciprocals = log_sums.neg().exp_() if ctx.plain else None
            if only_tile is not None and reciprocals is not None:
                weights = (reciprocals[:, None] + reciprocals).mul_(only_tile)
                gradient = weights @ unit
            else:
                gradient = _NTXent._gradient_in_tiles(unit, log_sums, reciprocals, ctx.scale)
            # A pair is the positive of both its anchors.
            gradient[: n // 2].sub_(unit[n // 2 :], alpha=2.0)
            gradient[n // 2 :].sub_(unit[: n // 2], alpha=2.0)
            gradient = _through_normalisation(gradient, unit, inverse * (grad_loss * (ctx.scale / n)))
        return gradient.to(ctx.dtype), None

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
        """Return, for the first and the second local views, where they are and where their positives are."""
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


class _RowwiseLoss(torch.autograd.Function):
    """Mean of `anchors(similarity, positive, negative)` over the 2N anchors, for a block of rows at a time.

    These losses need nothing from other rows, so that the gradient is found in the forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, anchors: Callable[[Tensor, Tensor, Tensor], Tensor], differentiate: bool
    ) -> Tensor:
        with _no_autocast(z.device):
            unit, inverse = _normalise(z, _working_dtype(z))
            n = len(unit)
            side = _TILE_ROWS.get(z.device.type, _TILE_ROWS_ELSEWHERE)
            step = max(side * side // n, 1)
            index = torch.arange(n, device=z.device)
            partner = index.roll(n // 2)[:, None]
            total = unit.new_zeros(())
            gradient = torch.zeros_like(unit) if differentiate else None
            for start in range(0, n, step):
                rows = slice(start, start + step)
                similarity = unit[rows] @ unit.T
                negative = torch.ones_like(similarity, dtype=torch.bool)
                negative.scatter_(1, partner[rows], False).scatter_(1, index[rows, None], False)
                with torch.set_grad_enabled(differentiate):
                    similarity.requires_grad_(differentiate)
                    loss = anchors(similarity, similarity.gather(1, partner[rows])[:, 0], negative).sum()
                total += loss.detach()
                if gradient is not None:
                    (weights,) = torch.autograd.grad(loss, similarity)
                    gradient[rows].addmm_(weights, unit)
                    gradient.addmm_(weights.T, unit[rows])
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


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    # Every anchor has all the rows but itself and its positive as negatives.
    return (values * mask).sum(1) / (values.shape[1] - 2)


def _closest_farther(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the largest similarity below the positive's among the negatives, minus infinity if none."""
    return similarity.where(negative & (similarity < positive[:, None]), -math.inf).amax(1)


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
    Memory is (1 + b) N (N + d).

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
    return logistic_of_margins(_curl_margins(z, n_negatives, block_size, normalize)).mean()


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
    return hinge_of_margins(_curl_margins(z, n_negatives, block_size, normalize)).mean()


def logistic_of_margins(margins: Tensor) -> Tensor:
    """Return the logistic loss, in bits, of each row of k margins."""
    return torch.logsumexp(torch.nn.functional.pad(-margins, (1, 0)), dim=-1) / math.log(2)


def hinge_of_margins(margins: Tensor) -> Tensor:
    return torch.relu(1.0 - margins.amin(dim=-1))


def _curl_margins(z: Tensor, n_negatives: int | None, block_size: int, normalize: bool) -> Tensor:
    """Return the margins of every anchor, ((1 + b) N, k)."""
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
        raise ValueError(f"n_negatives={k} is out of range; {n} images have at most {n - 1} negatives.")
    with _no_autocast(z.device):
        z = z.to(_working_dtype(z))
        if normalize:
            z = torch.nn.functional.normalize(z, dim=1)
        z = z.view(views, n, -1)
        # The mean of the views but the anchor's own.
        blocks = (z.sum(0) - z) / (views - 1) if views > 2 else z.flip(0)
        similarity = z @ blocks.transpose(1, 2)
        image = torch.arange(n, device=z.device)
        shifted = (image[:, None] + torch.arange(1, k + 1, device=z.device)) % n
        negative = similarity.gather(2, shifted.expand(views, n, k))
        return (similarity.diagonal(dim1=1, dim2=2)[..., None] - negative).flatten(0, 1)
