"""Work that a device records and repeats by itself: the host starts it in one call."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from .devices import current_on, module_of

__all__ = ["Recording", "has_recordings", "noted_waits"]


def has_recordings(device: torch.device) -> bool:
    """Return whether a device records work and repeats it by itself, as CUDA's graphs do."""
    return hasattr(module_of(device), "CUDAGraph")


class Recording:
    """Work that is recorded once and then repeated in one call, on what memory then holds."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.module = device, module_of(device)
        self.stream = self.module.Stream(device)
        self.graph: Any = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Give work to the stream that records, after what was given before and before what comes next.

        What is to be recorded has to have been done there: libraries keep memory for each stream.
        """
        usual = self.module.current_stream(self.device)
        self.stream.wait_stream(usual)
        try:
            with self.module.stream(self.stream):
                yield
        finally:
            usual.wait_stream(self.stream)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what the context gives to the device, which does not do it yet."""
        usual = self.module.current_stream(self.device)
        # A recording that fails leaves its own stream behind as the current one.
        with current_on(self.device), self.module.stream(usual):
            self.graph = self.module.CUDAGraph()
            # Where none is named, torch records on a stream of the device that recorded first. Threads that
            # bring images may allocate memory meanwhile.
            with self.module.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                yield

    def repeat(self) -> None:
        """Let the device do what was recorded."""
        self.graph.replay()


@contextlib.contextmanager
def noted_waits(device: torch.device) -> Iterator[list[str]]:
    """Note where the host waits for a device until the context ends, on devices that tell.

    A recording fails if the host has to wait for the device. torch's generators and its allocator are then in
    a state of which little is known. Hence the work is looked through for waits before it is recorded.
    """
    module, waits = module_of(device), list[str]()
    if not hasattr(module, "set_sync_debug_mode"):
        yield waits
        return
    before = module.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            module.set_sync_debug_mode(before)
    for found in caught:
        said = str(found.message)
        if "called a synchronizing" in said:
            waits.append(said)
        elif "ynchronization debug mode" not in said:
            warnings.warn_explicit(found.message, found.category, found.filename, found.lineno)
