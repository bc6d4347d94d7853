"""Work that a device records and repeats by itself: the host starts it in one call."""

import contextlib
from collections.abc import Iterator

import torch

from .devices import current_on, module_of

__all__ = ["Recording", "aside", "has_recordings"]


def has_recordings(device: torch.device) -> bool:
    """Return whether a device records work and repeats it by itself, as CUDA's graphs do."""
    return hasattr(module_of(device), "CUDAGraph")


class Recording:
    """Work that is recorded once and then repeated in one call, on what memory then holds."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.module = device, module_of(device)
        self.graph = self.module.CUDAGraph()

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what the context gives to the device, which does not do it yet."""
        # Threads that bring images may allocate memory meanwhile.
        with current_on(self.device), self.module.graph(self.graph, capture_error_mode="thread_local"):
            yield

    def repeat(self) -> None:
        """Let the device do what was recorded."""
        self.graph.replay()


@contextlib.contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Give work to another stream of a device, after what was given before and before what comes next.

    What is to be recorded has to have been done on such a stream.
    """
    module = module_of(device)
    usual, other = module.current_stream(device), module.Stream(device)
    other.wait_stream(usual)
    with module.stream(other):
        yield
    usual.wait_stream(other)
