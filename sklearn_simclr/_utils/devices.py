"""All that depends on the kind of device: CUDA, XPU, MPS and others take the same branches.

Nothing else in the package asks for the kind. What differs is asked of the device's own module in torch
(``torch.cuda``, ``torch.xpu`` and so on): a kind that lacks a function does without it.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .forks import in_each_process
from .types import Device, Precision
from .workers import in_worker

__all__ = [
    "Copies",
    "Mark",
    "autocast_off",
    "by_kind",
    "check_float64",
    "current_on",
    "empty_cache",
    "exact_float32",
    "free_memory",
    "generator_states",
    "has_fused_optimizers",
    "is_cpu",
    "mark",
    "module_of",
    "out_of_memory",
    "pack",
    "pins_memory",
    "resolve_device",
    "resolve_precision",
    "seed_device",
    "send",
    "set_generator_states",
    "synchronize",
    "total_memory",
    "unpack",
]

_T = TypeVar("_T")

# Kinds whose fused optimizers every supported version of torch has.
_FUSED = frozenset({"cpu", "cuda", "mps", "xpu"})

# Float16 pays from this compute capability on, the first with units for products of float16 (V100).
_FLOAT16_FROM = (7, 0)


def resolve_device(device: Device) -> torch.device:
    """Return the torch.device that a ``device`` parameter means.

    Parameters
    ----------
    device : "auto", str or torch.device
        "auto" is the accelerator that torch finds, else the CPU. Of several devices it is the one that
        LOCAL_RANK names where a launcher has started several processes, else the one that had most free
        memory when this process first asked. An accelerator without float64 (MPS) has to be named.

    Returns
    -------
    torch.device
        Usable here, with an index if it is no CPU.

    Raises
    ------
    ValueError
        If torch does not know the device or does not find it.
    """
    if isinstance(device, str) and device == "auto":
        return _accelerator() or torch.device("cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"device={device!r} cannot be used here: {reason}. Pass 'auto' or 'cpu'.") from error
    if device.type == "meta":
        raise ValueError("device='meta' cannot be used: its tensors hold no numbers. Pass 'auto' or 'cpu'.")
    if device.index is None and not is_cpu(device):
        current: int = getattr(module_of(device), "current_device", int)()
        device = torch.device(device.type, current)
    return device


def _accelerator() -> torch.device | None:
    """Return the accelerator that "auto" means, if there is one."""
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    if found is None:
        return None
    n = module_of(found).device_count()
    rank = _local_rank()
    index = rank if rank is not None else _freest(found.type) if n > 1 else 0
    # Asked on the rank's own device: on the first one, each rank would take some of its memory.
    if not _has_float64(torch.device(found.type, min(index, n - 1))):
        return None
    if index >= n:
        raise ValueError(
            f"device='auto' found only {n} devices of kind {found.type!r} on this machine, but this process "
            f"has LOCAL_RANK={rank}. Start at most {n} processes per machine, or pass device='cpu'."
        )
    return torch.device(found.type, index)


def _local_rank() -> int | None:
    """Return the number of this process among those that a launcher has started on this machine."""
    rank = os.environ.get("LOCAL_RANK", "")
    if not rank.isdigit() or os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    # Workers inherit the variables of the process that has started them, unless they are a group themselves.
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    return int(rank) if grouped or not in_worker() else None


@cache
def _freest(kind: str) -> int:
    """Return the index of the device with most free memory, the first of equal ones.

    The choice is made once per process: later, the memory that this process has taken would change it.
    """
    devices = [torch.device(kind, k) for k in range(module_of(torch.device(kind)).device_count())]
    return max(range(len(devices)), key=lambda k: (free_memory(devices[k]), -k))


def check_float64(device: torch.device, purpose: str) -> None:
    """Raise if a device has no float64, as MPS has none; `purpose` says what needs float64."""
    if not _has_float64(device):
        raise ValueError(f"device={str(device)!r} has no float64, which {purpose} needs. Pass device='cpu'.")


def _has_float64(device: torch.device) -> bool:
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the dtype for autocast, or None for float32 throughout.

    "auto" is bfloat16 on GPUs that have units for it and on CPUs that multiply matrices of it (AMX), else
    float16 on GPUs that have units for that, else float32.
    """
    if precision == "auto":
        return _fastest_dtype(device)
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def _fastest_dtype(device: torch.device) -> torch.dtype | None:
    if is_cpu(device):
        return torch.bfloat16 if _multiplies_bfloat16() else None
    module = module_of(device)
    if not hasattr(module, "is_bf16_supported"):
        return None
    with current_on(device):
        # Emulated bfloat16 is slower than float32.
        if module.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        capability = getattr(module, "get_device_capability", lambda: (0, 0))()
    # Not all kinds of device have a compute capability of two numbers.
    return torch.float16 if isinstance(capability, tuple) and capability >= _FLOAT16_FROM else None


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Bring tensors of one device to another.

    From the CPU they come in one copy, parts of one piece of memory, and the host does not wait for the copy
    where memory can be pinned.
    """
    if not tensors or tensors[0].device == device:
        return list(tensors)
    if not is_cpu(tensors[0].device):
        return [tensor.to(device) for tensor in tensors]
    pinned = pins_memory(device)
    return unpack(pack(tensors, pinned).to(device, non_blocking=pinned), tensors)


def pack(tensors: Sequence[Tensor], pinned: bool = False) -> Tensor:
    """Return the bytes of tensors of the CPU in one piece of memory, as `unpack` reads it.

    A device may read the memory while the host goes on if it is pinned.
    """
    flat = [tensors[k].contiguous().flatten().view(torch.uint8) for k in _by_item_size(tensors)]
    packed = torch.empty(sum(map(len, flat)), dtype=torch.uint8, pin_memory=pinned)
    return torch.cat(flat, out=packed)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that were packed, as parts of the piece of memory, which may lie on any device.

    ``like`` are the tensors that were packed, or others of the same shapes and types.
    """
    order = _by_item_size(like)
    parts = dict(zip(order, packed.split([like[k].nbytes for k in order]), strict=True))
    return [parts[k].view(tensor.dtype).view(tensor.shape) for k, tensor in enumerate(like)]


def _by_item_size(tensors: Sequence[Tensor]) -> list[int]:
    """Return positions, the largest items first: each tensor then begins at a multiple of its item size."""
    return sorted(range(len(tensors)), key=lambda k: -tensors[k].element_size())


@cache
def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has units for products of bfloat16 matrices; mere instructions do not pay."""
    # Older versions of torch have no such function.
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16")) and torch.backends.mkldnn.is_available()


def is_cpu(device: torch.device) -> bool:
    """Return whether a device is the CPU, where the host computes by itself and waits for nothing."""
    return device.type == "cpu"


def by_kind(device: torch.device, *, cpu: _T, accelerator: _T) -> _T:
    """Return the value for a CPU, or the one for all other kinds."""
    return cpu if is_cpu(device) else accelerator


def has_fused_optimizers(device: torch.device) -> bool:
    """Return whether torch's optimizers have a form for a device that passes once over the memory."""
    return device.type in _FUSED


def free_memory(device: torch.device) -> float:
    """Return the bytes that can still be allocated on a device; infinity if unknown."""
    module = module_of(device)
    if hasattr(module, "mem_get_info"):
        free = module.mem_get_info(device)[0]
        # What torch keeps for later tensors is free, too.
        if hasattr(module, "memory_reserved"):
            free += module.memory_reserved(device) - module.memory_allocated(device)
        return free
    if hasattr(module, "recommended_max_memory"):
        return module.recommended_max_memory() - module.driver_allocated_memory()
    return float("inf")


def total_memory(device: torch.device) -> float:
    """Return the bytes of memory of a device; infinity if unknown."""
    module = module_of(device)
    if hasattr(module, "mem_get_info"):
        return module.mem_get_info(device)[1]
    return module.recommended_max_memory() if hasattr(module, "recommended_max_memory") else float("inf")


def empty_cache(device: torch.device) -> None:
    """Give the memory back that torch keeps on a device for later tensors."""
    if not is_cpu(device) and hasattr(module_of(device), "empty_cache"):
        module_of(device).empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be allocated, on any kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The allocators of the CPU and of MPS raise a RuntimeError like others, and so do CUDA's libraries.
    said = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if not is_cpu(device):
        module = module_of(device)
        module.synchronize(*_named(module, device))


class Mark(Protocol):
    """A point in the work of a device."""

    def synchronize(self) -> None:
        """Wait until the work before it is done."""


class _End:
    """The end of the work that a device has been given, where there are no events."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        synchronize(self.device)


def mark(device: torch.device) -> Mark:
    """Mark what a device has been given so far; on a CPU everything is done already."""
    module = module_of(device)
    if is_cpu(device) or not hasattr(module, "current_stream"):
        return _End(device)
    event = module.Event()
    event.record(module.current_stream(device))
    return event


def pins_memory(device: torch.device) -> bool:
    """Return whether a device copies from pinned memory while the host goes on."""
    # The device "meta" has no module.
    return not is_cpu(device) and hasattr(getattr(torch, device.type, None), "current_stream")


class Copies:
    """Copies from the CPU to a device, on a stream of their own where there are streams."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module = module_of(device)
        self.stream = self.module.Stream(device) if pins_memory(device) else None

    def send(self, tensor: Tensor) -> tuple[Tensor, Any]:
        """Begin to copy a tensor of the CPU; return what `receive` needs before the tensor is used."""
        if self.stream is None:
            return tensor.to(self.device), None
        with self.module.stream(self.stream):
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
            return tensor, self.stream.record_event()

    def receive(self, tensor: Tensor, copied: Any) -> Tensor:
        """Return a tensor that was sent; operations on the tensor wait for its arrival."""
        if copied is not None:
            current = self.module.current_stream(self.device)
            current.wait_event(copied)
            tensor.record_stream(current)
        return tensor


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's global generators, of the CPU and of a device, by kind of device."""
    states = {"cpu": torch.get_rng_state()}
    if not is_cpu(device) and device.type != "meta":  # "meta" has no numbers, hence no generator
        module = module_of(device)
        states[device.type] = module.get_rng_state(*_named(module, device))
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's global generators, of the CPU and of a device, into states of `generator_states`.

    A state for another kind of device means nothing on this one and is left out.
    """
    torch.set_rng_state(states["cpu"].cpu())
    if not is_cpu(device) and device.type in states:
        module = module_of(device)
        module.set_rng_state(states[device.type].cpu(), *_named(module, device))


def seed_device(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, that of the CPU and that of one device, by a number in [0, 2**63)."""
    torch.default_generator.manual_seed(seed)
    if not is_cpu(device):
        with current_on(device):
            module_of(device).manual_seed(seed)


@contextlib.contextmanager
def autocast_off() -> Iterator[None]:
    """Compute without the autocast that the caller is in, on all kinds of devices."""
    with contextlib.ExitStack() as stack:
        for kind in sorted(_FUSED):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def module_of(device: torch.device) -> ModuleType:
    """Return the module of torch for a kind of device, such as ``torch.cuda``."""
    return torch.get_device_module(device)


def _named(module: ModuleType, device: torch.device) -> tuple[torch.device, ...]:
    """Return the argument that names a device to functions of its module: none for MPS, a single device."""
    return (device,) if hasattr(module, "current_device") else ()


def current_on(device: torch.device) -> contextlib.AbstractContextManager:
    """Return a context in which a device is the current one of its kind."""
    module = module_of(device)
    return module.device(device) if hasattr(module, "device") else contextlib.nullcontext()


class _Exact:
    """Count the users of exact products, and keep the flags that are put back after the last one."""

    lock: threading.Lock
    users: int
    before: list[tuple[Callable[[Any], None], Any]]


@in_each_process
def _begin() -> None:
    _Exact.lock = threading.Lock()
    _Exact.users = 0


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute products of float32 in float32, not in TF32 with its 10 bits.

    torch's flags for that hold for the whole process. They are put back when the last context ends.
    """
    with _Exact.lock:
        if _Exact.users == 0:
            found = [(write, read(), exact) for read, write, exact in _flags_of_float32()]
            _Exact.before = [(write, value) for write, value, exact in found if value != exact]
            for write, value, exact in found:
                if value != exact:
                    write(exact)
        _Exact.users += 1
    try:
        yield
    finally:
        with _Exact.lock:
            _Exact.users -= 1
            if _Exact.users == 0:
                for write, value in _Exact.before:
                    write(value)


# Functions that read and write a flag, and its value for exact products.
_Flag = tuple[Callable[[], Any], Callable[[Any], None], Any]


def _flags_of_float32() -> list[_Flag]:
    """Return the flags for products of float32.

    torch has older and newer flags. It raises an error if the older flags are read, as compilers and
    ``torch.backends.cudnn.flags`` read them, while they disagree with the newer ones. Setting the older flags
    also sets the newer ones. Hence the newer flags are set here only where somebody has set them before.
    """
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def flag(holder: Any, name: str, exact: Any) -> _Flag:
        return partial(getattr, holder, name), partial(setattr, holder, name), exact

    older = flag(cudnn, "allow_tf32", False)
    precision: _Flag = (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    try:
        _ = products.allow_tf32, precision[0](), older[0]()
    except RuntimeError:
        parts = products, *(getattr(cudnn, name) for name in ("conv", "rnn"))
        return [flag(part, "fp32_precision", "ieee") for part in parts]
    return [precision, older]
