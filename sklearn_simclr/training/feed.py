"""Batches of images on the device: all live there, or the system or a thread brings the next ones in time."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from .._utils.devices import Copies, free_memory, is_cpu
from ..images.source import ImageSource

__all__ = ["make_feed"]

# Images that take more than this part of the free memory of a GPU are brought batch by batch.
_RESIDENT_PART = 0.5

# Batches on their way while one is worked on.
_AHEAD = 2


class Feed(Protocol):
    """Source of batches of images on the device that needs them."""

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each index tensor of `order` and the images in its rows, both on the device."""


def make_feed(source: ImageSource, device: torch.device) -> Feed:
    """Return a feed that hands out batches of a source on a device.

    Parameters
    ----------
    source : ImageSource
        The images.
    device : torch.device
        Where batches are needed.

    Returns
    -------
    Feed
        Its ``batches(order)`` yields, for each int64 tensor of a sequence ``order`` on the device, that
        tensor and the images whose rows it holds, on the device.
    """
    if is_cpu(device):
        if source.file is None:
            return _Resident(source)
        return _ReadAhead(source) if source.file.asks else _Stream(source, device)
    if source.device == device:
        return _Resident(source)
    if source.nbytes <= _RESIDENT_PART * free_memory(device):
        return _Resident(source.to(device))
    return _Stream(source, device)


class _Resident:
    """Images that are where they are needed."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (index, images) for each index of order."""
        for index in order:
            yield index, self.source.take(index)


class _ReadAhead:
    """Images in a file that is mapped into memory: the system reads the next batches in time."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (index, images) for each index of order."""
        for step, index in enumerate(order):
            for ahead in order[step + _AHEAD if step else 0 : step + _AHEAD + 1]:
                self.source.ask(ahead)
            yield index, self.source.take(index)


class _Stream:
    """Images that are elsewhere: a thread gathers the next batches while one is worked on.

    To a GPU they go by way of pinned memory, on a stream of their own.
    """

    def __init__(self, source: ImageSource, device: torch.device) -> None:
        self.source = source
        self.copies = Copies(device)

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (index, images) for each index of order."""
        # All rows are copied at once: each copy would wait for the device.
        rows = torch.cat(list(order)).to(self.source.device).split([len(index) for index in order])
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as pool:
            waiting: deque[Future[tuple[Tensor, Any]]] = deque()
            try:
                for step, index in enumerate(order):
                    for k in range(step + len(waiting), min(step + 1 + _AHEAD, len(order))):
                        waiting.append(pool.submit(self._fetch, rows[k]))
                    yield index, self.copies.receive(*waiting.popleft().result())
            finally:
                for future in waiting:
                    future.cancel()

    def _fetch(self, rows: Tensor) -> tuple[Tensor, Any]:
        images = self.source.take(rows)
        return (images, None) if images.device == self.copies.device else self.copies.send(images)
