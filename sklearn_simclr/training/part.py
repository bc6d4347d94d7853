"""Divide work among ranks: the images of a batch, and whatever else all of them need."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from .._utils.devices import send
from .._utils.ranks import ALONE, Ranks, share

__all__ = ["Part", "divide", "part_of"]


@dataclass(frozen=True)
class Part:
    """Rows of a batch that one rank computes.

    Parameters
    ----------
    n : int
        Images of the whole batch.
    chunks : tuple of slice
        Rows of the whole batch that are this rank's, for each micro-batch.
    others : tuple of tuple of slice
        Those of every rank, in the order of the ranks.
    ranks : Ranks
        The processes that share the batch.
    """

    n: int
    chunks: tuple[slice, ...]
    others: tuple[tuple[slice, ...], ...] = ()
    ranks: Ranks = field(default=ALONE)

    @property
    def whole(self) -> bool:
        """True if the part is the whole batch."""
        return self.ranks.size == 1

    @cached_property
    def rows(self) -> Tensor:
        """Rows of the whole batch, int64."""
        return _rows(self.chunks)

    @cached_property
    def weight(self) -> float:
        """Part of the images of the batch."""
        return 1.0 if self.whole else len(self.rows) / self.n

    @cached_property
    def _columns(self) -> tuple[int, Tensor]:
        """The longest part, and where each row of the batch is among parts of that length."""
        parts = [_rows(chunks) for chunks in self.others]
        longest = max(map(len, parts))
        columns = torch.empty(self.n, dtype=torch.int64)
        for rank, rows in enumerate(parts):
            columns[rows] = rank * longest + torch.arange(len(rows))
        return longest, columns

    def select(self, index: Tensor) -> Tensor:
        """Return the rows of this part.

        Parameters
        ----------
        index : tensor of shape (n, ...)
            Rows of the whole batch.

        Returns
        -------
        tensor of shape (m, ...)
            Some of them.
        """
        return index if self.whole else torch.cat([index[chunk] for chunk in self.chunks])

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of the whole batch, in its order; the gradient comes back to each rank.

        Parameters
        ----------
        tensor : tensor of shape (v * m, ...)
            Rows of the m images of this part, those of all first views first.

        Returns
        -------
        tensor of shape (v * n, ...)
            Rows of all images, in the same order.
        """
        return tensor if self.whole else cast(Tensor, _Gather.apply(tensor, self))

    def gather_output(self, output: Tensor) -> Tensor:
        """Return an output of a step with the rows of the whole batch.

        Parameters
        ----------
        output : tensor
            Has a whole number of rows per image of this part, or another shape.

        Returns
        -------
        tensor
            Without a graph; something else stays as it is.
        """
        own = len(self.rows)
        rows = output.ndim > 0 and len(output) > 0 and len(output) % own == 0
        return output if self.whole or not rows else self.gather_forward(output)

    def add_up(self, loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """Add up the gradients of parameters over the ranks, in one message for each dtype.

        One message after the backward pass serves every objective, also one that sends micro-batches through
        its modules by itself, for which ``DistributedDataParallel`` has no hooks.

        Parameters
        ----------
        loss : tensor of shape ()
            Loss of this part, times `weight`.
        parameters : iterable of torch.nn.Parameter
            With gradients of that loss.

        Returns
        -------
        tensor of shape ()
            Loss of the whole batch.
        """
        if self.whole:
            return loss
        found = [loss, *(p.grad for p in parameters if p.grad is not None)]
        for dtype in sorted({tensor.dtype for tensor in found}, key=str):
            tensors = [tensor for tensor in found if tensor.dtype == dtype]
            flat = [_in_memory_order(tensor) for tensor in tensors]
            sums = self.ranks.add(torch.cat(flat))
            torch._foreach_copy_(flat, list(sums.split([t.numel() for t in flat])))
        return loss

    def gather_forward(self, tensor: Tensor) -> Tensor:
        """Return what `gather` returns, without a graph."""
        if self.whole:
            return tensor
        longest, columns = self._columns
        views = tensor.detach().unflatten(0, (-1, len(self.rows)))
        padded = views.new_zeros(views.shape[0], longest, *views.shape[2:])
        padded[:, : len(self.rows)] = views
        stacked = self.ranks.stack(padded).transpose(0, 1).flatten(1, 2)
        return stacked.index_select(1, *send([columns], tensor.device)).flatten(0, 1)


def part_of(n: int, micro_batch_size: int | None, ranks: Ranks) -> Part:
    """Return the part of a batch of n images that this rank computes.

    Parameters
    ----------
    n : int
        Images of the batch.
    micro_batch_size : int or None
        Images of all ranks that go through the modules at a time; None is the whole batch.
    ranks : Ranks
        The processes that share the batch.

    Returns
    -------
    Part
        The whole batch, on each of the ranks, where a micro-batch has fewer images than there are ranks.
    """
    step = min(n, micro_batch_size or n)
    chunks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    if ranks.size == 1 or any(chunk.stop - chunk.start < ranks.size for chunk in chunks):
        return Part(n, tuple(chunks))
    others = tuple(tuple(_within(chunk, ranks.size, rank) for chunk in chunks) for rank in range(ranks.size))
    return Part(n, others[ranks.rank], others, ranks)


def _within(chunk: slice, size: int, rank: int) -> slice:
    own = share(chunk.stop - chunk.start, size, rank)
    return slice(chunk.start + own.start, chunk.start + own.stop)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return a view of shape (m,) that ranks agree on, since a layer has one layout on all of them."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _rows(chunks: tuple[slice, ...]) -> Tensor:
    return torch.cat([torch.arange(chunk.start, chunk.stop) for chunk in chunks])


class _Gather(torch.autograd.Function):
    """Gather rows; the gradient of a row is the sum of what all ranks say about it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return part.gather_forward(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        part = ctx.part
        gradient = part.ranks.add(gradients[0].contiguous().clone())
        views = gradient.unflatten(0, (-1, part.n))
        return torch.cat([views[:, chunk] for chunk in part.chunks], dim=1).flatten(0, 1), None


def divide(
    ranks: Ranks, like: Sequence[Tensor], costs: Sequence[float], compute: Callable[[list[int]], list[Tensor]]
) -> list[Tensor]:
    """Compute each of some tensors on one rank, and return all of them on all ranks.

    Parameters
    ----------
    ranks : Ranks
        The processes that need the tensors.
    like : sequence of tensor
        Tensors of the shapes of the results, of one dtype and on one device.
    costs : sequence of float
        Cost of each result, in any unit.
    compute : callable
        Takes numbers of tensors and returns these tensors.

    Returns
    -------
    list of tensor
        Bit by bit equal on all ranks.
    """
    if ranks.size == 1:
        return compute(list(range(len(like))))
    owned: list[list[int]] = [[] for _ in range(ranks.size)]
    load = [0.0] * ranks.size
    for k in sorted(range(len(like)), key=lambda k: -costs[k]):
        idlest = load.index(min(load))
        owned[idlest].append(k)
        load[idlest] += costs[k]
    sizes = [[like[k].numel() for k in rows] for rows in owned]
    own = like[0].new_zeros(max(map(sum, sizes)))
    start = 0
    for tensor in compute(owned[ranks.rank]) if owned[ranks.rank] else []:
        own[start : start + tensor.numel()] = tensor.flatten()
        start += tensor.numel()
    found: dict[int, Tensor] = {}
    for rows, lengths, message in zip(owned, sizes, ranks.stack(own), strict=True):
        for k, values in zip(rows, message[: sum(lengths)].split(lengths), strict=True):
            found[k] = values.view(like[k].shape)
    return [found[k] for k in range(len(like))]
