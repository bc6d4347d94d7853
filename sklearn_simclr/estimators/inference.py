"""Apply fitted networks to images: in batches of one shape, on any device, shared by ranks."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .._utils.devices import (
    Copies,
    Mark,
    current_on,
    empty_cache,
    exact_float32,
    is_cpu,
    mark,
    out_of_memory,
    total_memory,
)
from .._utils.ranks import connected, together
from ..encoders.traits import Traits, traits
from ..images.computed import ComputedImages
from ..images.source import ImageSource, as_float
from ..training.identity import content_of
from ..training.part import part_of

__all__ = ["Inference", "images_a_forward", "infer"]

# A function of modules and float images (n, C, H, W) that returns n rows.
Inference: TypeAlias = Callable[[Sequence[nn.Module], torch.Tensor], torch.Tensor]

# Pixels of a forward in inference, on a CPU and elsewhere: few enough for a single row to be answered quickly
# (every batch is padded to one size), enough for full speed.
_PIXELS = 64 * 32 * 32
_PIXELS_ELSEWHERE = 4 * 1024 * 32 * 32

# Bytes that a pixel of a forward may take on an accelerator, and the share of its memory that may be taken.
_BYTES_A_PIXEL = 1024
_MEMORY_PART = 0.25

# Batches of at least so many images are faster, as long as they have no more pixels than that: a network may
# hold 1 KB per pixel.
_IMAGES = 16
_MOST_PIXELS = 4 * 224 * 224
_MOST_PIXELS_ELSEWHERE = 16 * 1024 * 1024

# With more channels, the memory of a pixel grows with their number.
_CHANNELS = 8

# Largest size of the images of a forward, in numbers: the limit if a network shrinks large images at once.
_NUMBERS = 2**23

# Fewer images are transformed sooner than ranks can agree on who transforms which.
_SHARED_FROM = 1024


def infer(
    function: Inference,
    modules: Sequence[nn.Module],
    source: ImageSource | ComputedImages,
    device: torch.device,
    layout: torch.memory_format,
    *,
    key: str,
) -> NDArray[np.float32]:
    """Apply a function of modules and images to all images of a source, in eval mode.

    Every batch has the same shape, the last one is padded: the result of a row does not depend on the number
    of rows around it. Ranks that want the same of many images share the work.

    Parameters
    ----------
    function : callable
        Takes the modules, on the device, and float images (n, C, H, W); returns n rows.
    modules : sequence of torch.nn.Module
        Stay where they are; the first one decides how many images are a batch.
    source : ImageSource or ComputedImages
        The images. Those that could not be read are taken as grey.
    device : torch.device
        Where to compute.
    layout : torch.memory_format
        Layout in which the modules take images.
    key : str
        Name of what is computed: ranks with the same key, source and modules want the same.

    Returns
    -------
    float32 ndarray of shape (len(source), ...)
        The same on all ranks that want it.

    Raises
    ------
    MemoryError
        If the memory of the device is exhausted by a single image.
    """
    if isinstance(source, ImageSource) and len(source) >= _SHARED_FROM and connected():
        with together() as ranks:
            if ranks.meet(lambda: content_of([key, source, *modules])):
                part = part_of(len(source), None, ranks)
                own = _infer_here(function, modules, source.select(part.rows), device, layout)
                return part.gather_forward(torch.from_numpy(own)).numpy()
    return _infer_here(function, modules, source, device, layout)


def _infer_here(
    function: Inference,
    modules: Sequence[nn.Module],
    source: ImageSource | ComputedImages,
    device: torch.device,
    layout: torch.memory_format,
) -> NDArray[np.float32]:
    """Infer on this rank alone, in smaller batches where the memory of the device is exhausted."""
    size = images_a_forward(source.shape, device, traits(modules[0]) if modules else Traits())
    while True:
        try:
            with (
                current_on(device),
                _in_eval_mode(modules, device) as there,
                torch.inference_mode(),
                exact_float32(),
            ):
                return _infer_in_batches(partial(function, there), source, device, layout, size)
        except Exception as error:
            if not out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        # Outside of the except block nothing holds the tensors of the batch any longer. All rows are computed
        # anew, since a row must not depend on the size of its batch.
        _ON_DEVICES.clear()
        empty_cache(device)
        if size == 1:
            raise MemoryError(
                f"The memory of device {str(device)!r} is exhausted by a single image of shape "
                f"{tuple(source.shape)}: {said} Pass another device, or a smaller image_size. In fit, also "
                "lower micro_batch_size or batch_size."
            )
        size //= 2


def _infer_in_batches(
    function: Callable[[torch.Tensor], torch.Tensor],
    source: ImageSource | ComputedImages,
    device: torch.device,
    layout: torch.memory_format,
    size: int,
) -> NDArray[np.float32]:
    bad = source.bad
    copies = Copies(device)
    waiting: deque[tuple[int, torch.Tensor, Mark]] = deque()
    result: Any = None  # an array, once the shape of a row is known

    def fetch() -> None:
        nonlocal result
        start, rows, done = waiting.popleft()
        done.synchronize()
        if result is None:
            result = np.empty((len(source), *rows.shape[1:]), dtype=np.float32)
        result[start : start + len(rows)] = rows.numpy()

    for start in range(0, len(source), size):
        taken = source.take(slice(start, start + size))
        if taken.device != device:
            taken = copies.receive(*copies.send(taken))
        images = as_float(taken)
        n = len(images)
        grey = bad[(bad >= start) & (bad < start + n)] - start
        if len(grey):
            images = images.index_fill(0, torch.from_numpy(grey).to(device), 0.5)
        if n < size:
            images = torch.cat([images, images.new_zeros(size - n, *images.shape[1:])])
        rows = function(images.contiguous(memory_format=layout))[:n].float()
        waiting.append((start, rows.to("cpu", non_blocking=True), mark(device)))
        # The host goes on while the device works on a batch.
        if len(waiting) > 1:
            fetch()
    while waiting:
        fetch()
    return result


def images_a_forward(shape: tuple[int, int, int], device: torch.device, network: Traits) -> int:
    """Return how many images go through a network at a time in inference.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width of the images: the number depends on nothing else of them.
    device : torch.device
        The device of the network; its memory counts.
    network : Traits
        Traits of the network.

    Returns
    -------
    int
        1 to 1,024.
    """
    channels, height, width = shape
    pixels = height * width if network.shrinks_to is None else min(height * width, network.shrinks_to**2)
    cost = pixels * max(1.0, channels / _CHANNELS)
    here = is_cpu(device)
    # All of the memory and not the free part: the same row is to be computed in the same batch each time.
    room = math.inf if here else _MEMORY_PART * total_memory(device) / _BYTES_A_PIXEL
    usual = min(room, network.batch_scale * (_PIXELS if here else _PIXELS_ELSEWHERE)) // cost
    most = (_MOST_PIXELS if here else _MOST_PIXELS_ELSEWHERE) // cost
    held = _NUMBERS // math.prod(shape) if here else math.inf
    return int(max(1, min(1024, held, max(usual, min(_IMAGES, most)))))


@contextlib.contextmanager
def _in_eval_mode(modules: Sequence[nn.Module], device: torch.device) -> Iterator[Sequence[nn.Module]]:
    """Give modules in eval mode, on a device; what the estimator holds stays on the CPU."""
    modes = [[(m, m.training) for m in module.modules()] for module in modules]
    if is_cpu(device):
        try:
            for module in modules:
                module.eval()
            yield modules
        finally:
            for mode in modes:
                for module, training in mode:
                    module.training = training
    else:
        yield [_on_device(module, device) for module in modules]


# Copies of fitted networks on other devices, as long as these are there and have not changed.
_ON_DEVICES: weakref.WeakKeyDictionary[nn.Module, dict[torch.device, tuple[Any, nn.Module]]] = (
    weakref.WeakKeyDictionary()
)


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a module in eval mode on a device: the one made before, if nothing has changed."""
    state, copies = _state_of(module), _ON_DEVICES.setdefault(module, {})
    if device not in copies or copies[device][0] != state:
        copies.pop(device, None)  # gives its memory back before the new one takes it
        copies[device] = state, copy.deepcopy(module).to(device).eval()
    return copies[device][1]


def _state_of(module: nn.Module) -> tuple:
    """Return values that change whenever a module may compute something else: parts, hooks and numbers."""
    parts = [
        (id(part), repr(part) if not list(part.children()) else "", len(part._forward_hooks))
        for part in module.modules()
    ]
    # Numbers, not the versions of tensors: writing to .data or to a view of numpy leaves the version as it
    # is.
    tensors = [tensor.detach() for tensor in itertools.chain(module.parameters(), module.buffers())]
    held = [(tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors]
    return (*parts, *held, *(_checksum(tensor) for tensor in tensors))


def _checksum(tensor: torch.Tensor) -> int:
    """Return a checksum of the bytes of a tensor; one change in 4 billion goes unnoticed."""
    array = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()
    array.setflags(write=False)
    return google_crc32c.value(array)
