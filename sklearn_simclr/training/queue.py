"""Keep the projections of earlier batches as negatives: the memory of MoCo and SimCLRv2."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ProjectionQueue", "move_average"]


class ProjectionQueue:
    """The last projections that were put in, without gradients; the oldest leave first.

    Parameters
    ----------
    size : int
        How many rows it holds.

    References
    ----------
    He, Fan, Wu, Xie and Girshick, "Momentum contrast for unsupervised visual representation learning", 2020,
    arXiv:1911.05722, section 3.2. Chen et al., 2020, arXiv:2006.10029, section 2 and appendix D.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._buffer: Tensor | None = None
        self._place = self._filled = 0

    def rows(self) -> Tensor | None:
        """Return what is in the queue, in no order; None if nothing is."""
        return None if self._buffer is None else self._buffer[: self._filled]

    def put(self, z: Tensor) -> None:
        """Append projections (n, p); of more than the queue holds, the last ones stay."""
        z = z.detach()[-self.size :]
        if self._buffer is None:
            self._buffer = z.new_zeros(self.size, z.shape[1])
        places = (self._place + torch.arange(len(z), device=z.device)) % self.size
        self._buffer = self._buffer.index_copy(0, places, z.to(self._buffer.dtype))
        self._place = (self._place + len(z)) % self.size
        self._filled = min(self.size, self._filled + len(z))

    def state(self) -> dict[str, Any]:
        """Return what `load_state` takes."""
        return {"buffer": self._buffer, "place": self._place, "filled": self._filled}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        buffer, place, filled = state["buffer"], state["place"], state["filled"]
        if buffer is not None and (len(buffer) != self.size or not 0 <= place < self.size >= filled >= 0):
            raise ValueError(f"its queue has {len(buffer)} rows, {filled} of them filled")
        self._buffer, self._place, self._filled = buffer, int(place), int(filled)


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move the parameters of an average towards those of a module of the same shape."""
    means = [p.detach() for p in average.parameters()]
    weights = [p.detach() for p in module.parameters()]
    torch._foreach_lerp_(means, weights, 1.0 - momentum)
