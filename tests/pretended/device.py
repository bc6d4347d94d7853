"""A device that is none: numbers on the CPU, and an error wherever a real device would raise one.

``import pretended.device`` registers the kind "pretended" with torch, with two devices. A process cannot undo
it: import this in a process of its own. What a real device refuses is refused:

- tensors of several devices in one operation, also of the CPU (numbers without axes may come from there);
- a generator of another device;
- reading what is copied without waiting for it: until then it holds rubbish.

``SYNCS`` counts where the host waits for a device. Every device has its own generator, as a GPU has.
"""

import collections
import contextlib
import sys
import threading
import warnings
from functools import partial

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

__all__ = ["DEVICE", "KIND", "OTHER", "SETTINGS", "SYNCS", "Settings"]

KIND = "pretended"

# Where the host waited for the device, and how often.
SYNCS: collections.Counter = collections.Counter()

aten = torch.ops.aten

# These take tensors of two devices; the first ones copy from one to the other.
_COPIES = {aten.copy_.default, aten._to_copy.default}
_ACROSS = _COPIES | {aten.set_.source_Tensor, aten._has_compatible_shallow_copy_type.default}

# Their results have a shape, or a value on the host, that only the numbers decide.
_WAITING = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
}
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class Settings:
    """What the devices can, to be changed by tests."""

    bfloat16 = False
    capability = (0, 0)
    free = {0: 2**30, 1: 2**30}
    float64 = True
    largest = None  # bytes of a tensor beyond which memory is exhausted
    sync_debug = "default"


SETTINGS = Settings()


class _State(threading.local):
    def __init__(self):
        self.current, self.streams = 0, {}


_STATE = _State()
_GENERATORS = [torch.Generator().manual_seed(0) for _ in range(2)]
_PENDING: list[tuple[torch.Tensor, torch.Tensor]] = []
_LOCK = threading.RLock()


def _index(device=None):
    if device is None:
        return _STATE.current
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    if index is not None and index >= 2:
        raise RuntimeError(f"{KIND}: invalid device ordinal {index}")
    return _STATE.current if index is None else index


def _arrive():
    """Let all copies arrive that the host has not waited for."""
    with _LOCK:
        while _PENDING:
            target, value = _PENDING.pop()
            target.copy_(value)


class Stream:
    """A queue of work, which is done at once."""

    def __init__(self, device=None):
        self.device = torch.device(KIND, _index(device))

    def record_event(self):
        event = Event()
        event.record(self)
        return event

    def wait_stream(self, stream):
        assert stream.device == self.device

    def wait_event(self, event):
        assert event.device is not None, "an event is waited for that was never recorded"

    def synchronize(self):
        _arrive()


class Event:
    """A point in a queue of work."""

    device = None

    def record(self, stream=None):
        self.device = torch.device(KIND, _STATE.current) if stream is None else stream.device

    def synchronize(self):
        assert self.device is not None, "an event is waited for that was never recorded"
        _arrive()


class StreamContext:
    """Makes a stream the current one of its device, and its device the current one."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        index = self.stream.device.index
        self.before = _STATE.current, _STATE.streams.get(index)
        _STATE.current, _STATE.streams[index] = index, self.stream

    def __exit__(self, *error):
        _STATE.current, _STATE.streams[self.stream.device.index] = self.before


_DEFAULT_STREAMS = {}


class Module(_DummyBackendModule):
    """What torch.cuda is for CUDA."""

    Stream, Event = Stream, Event

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def is_bf16_supported(self, including_emulation=True):
        return SETTINGS.bfloat16 or including_emulation

    def get_device_capability(self, device=None):
        return SETTINGS.capability

    def device_count(self):
        return 2

    def current_device(self):
        return _STATE.current

    @contextlib.contextmanager
    def device(self, device):
        before, _STATE.current = _STATE.current, _index(device)
        try:
            yield
        finally:
            _STATE.current = before

    def current_stream(self, device=None):
        index = _index(device)
        return _STATE.streams.get(index) or _DEFAULT_STREAMS.setdefault(index, Stream(index))

    def stream(self, stream):
        return StreamContext(stream)

    def set_sync_debug_mode(self, mode):
        SETTINGS.sync_debug = mode

    def get_sync_debug_mode(self):
        return SETTINGS.sync_debug

    def synchronize(self, device=None):
        _arrive()

    def mem_get_info(self, device=None):
        return SETTINGS.free[_index(device)], 2**31

    def get_rng_state(self, device=None):
        return _GENERATORS[_index(device)].get_state()

    def set_rng_state(self, state, device=None):
        _GENERATORS[_index(device)].set_state(state)

    def manual_seed(self, seed):
        _GENERATORS[_STATE.current].manual_seed(seed)

    def manual_seed_all(self, seed):
        for generator in _GENERATORS:
            generator.manual_seed(seed)

    def _lazy_init(self):
        pass


_setup_privateuseone_for_python_backend(KIND, backend_module=Module())
DEVICE, OTHER = torch.device(KIND, 0), torch.device(KIND, 1)


class Pretended(torch.Tensor):
    """A tensor that says it is on the device."""

    @staticmethod
    def __new__(cls, inner, device):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
            requires_grad=False,
        )

    def __init__(self, inner, device):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __tensor_flatten__(self):
        return ["inner"], self.device

    @staticmethod
    def __tensor_unflatten__(inner, device, size, stride):
        return Pretended(inner["inner"], device)

    def __repr__(self):
        return f"Pretended({self.inner}, {self.device})"

    def record_stream(self, stream):
        assert stream.device == self.device, f"a tensor of {self.device} is recorded on {stream.device}"

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, dtype=None, device=None):
        # torch's own makes a tensor of the CPU here.
        return torch.tensor(data, dtype=dtype or self.dtype).to(device or self.device)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return _run(func, args, kwargs)


def _line():
    """Return the line of the package that is at work."""
    frame = sys._getframe()
    while frame is not None:
        if "/sklearn_simclr/" in (name := frame.f_code.co_filename):
            return f"{name.split('/sklearn_simclr/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _refuse(func, why):
    raise RuntimeError(f"{KIND}: {func} {why}, at {_line()}")


def _is_mask(tensor):
    return tensor is not None and tensor.dtype in (torch.bool, torch.uint8)


def _run(func, args, kwargs):
    """Do an operation on the CPU if a device would, and count what the host would wait for."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretended)]
    devices = {t.device for t in ours}
    others = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    if func not in _ACROSS and (len(devices) > 1 or (devices and others)):
        _refuse(func, f"mixes {sorted(map(str, devices))} and {len(others)} tensors of the CPU")
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    if target is not None:
        where = torch.device(KIND, _index(target)) if target.type == KIND else None
        kwargs = {**kwargs, "device": torch.device("cpu")}
    else:
        where = next(iter(devices), None)
    if any(isinstance(leaf, torch.Generator) for leaf in leaves) and (devices or where is not None):
        _refuse(func, f"draws on {where} from a generator of the CPU")
    if "pin_memory" in kwargs:
        kwargs = {**kwargs, "pin_memory": False}
    _check_written(func, args, kwargs, ours)
    if func is aten.native_batch_norm_backward.default and devices and args[2] is None and any(args[-1][1:]):
        _refuse(func, "makes room for gradients by a weight that is None")

    waits = func in _WAITING and bool(devices)
    waits |= func in _INDEXING and bool(devices) and any(map(_is_mask, args[1]))
    leaves_device = arrives = False
    if func is aten.copy_.default:
        leaves_device = not isinstance(args[0], Pretended) and bool(devices)
        arrives = isinstance(args[0], Pretended) and not isinstance(args[1], Pretended)
    elif func is aten._to_copy.default:
        leaves_device, arrives = bool(devices) and where is None, not devices and where is not None
    late = bool(kwargs.get("non_blocking")) or (func is aten.copy_.default and len(args) > 2 and args[2])
    # A number without axes is handed over with the call.
    waits |= (leaves_device or (arrives and tensors[-1].dim() > 0)) and not late
    if waits:
        SYNCS[f"{func} at {_line()}"] += 1
        if SETTINGS.sync_debug == "warn":
            warnings.warn(f"{KIND}: called a synchronizing operation, {func}", stacklevel=1)
        _arrive()

    inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
    with _drawing(func, where):
        result = func(*inner_args, **inner_kwargs)
    if not SETTINGS.float64 and (devices or where is not None) and _has_float64(result):
        raise TypeError(f"{KIND}: no float64 on this device ({func} at {_line()})")
    if where is not None and SETTINGS.largest is not None:
        _check_memory(result)
    if leaves_device and late:
        with _LOCK:
            _PENDING.append((result, result.clone()))
            result.view(torch.uint8).fill_(255) if result.dim() else result.fill_(-1)
    if torch.Tag.inplace_view in func.tags and ours:
        with no_dispatch():
            func(*args, **kwargs)  # gives the outer tensor the shape, too
    known = {id(t.inner): t for t in ours}

    def outer(value):
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in known:  # written in place
            assert known[id(value)].shape == value.shape, (
                f"{func} has resized a tensor, which is not pretended"
            )
            return known[id(value)]
        return value if where is None else Pretended(value, where)

    return tree_map(outer, result)


def _inner(value):
    return value.inner if isinstance(value, Pretended) else value


def _check_written(func, args, kwargs, ours):
    """Refuse to write what a device has computed into a tensor of the CPU."""
    if not ours or func in _ACROSS or not func._schema.is_mutable:
        return
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        value = given.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(value, torch.Tensor) and not isinstance(value, Pretended):
            _refuse(func, "writes to a tensor of the CPU")


@contextlib.contextmanager
def _drawing(func, where):
    """Draw from the generator of a device."""
    if where is None or torch.Tag.nondeterministic_seeded not in func.tags:
        yield
        return
    before = torch.get_rng_state()
    torch.set_rng_state(_GENERATORS[where.index].get_state())
    try:
        yield
    finally:
        _GENERATORS[where.index].set_state(torch.get_rng_state())
        torch.set_rng_state(before)


def _has_float64(result):
    return any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves(result))


def _check_memory(result):
    largest = max((t.nbytes for t in tree_leaves(result) if isinstance(t, torch.Tensor)), default=0)
    if largest > SETTINGS.largest:
        raise torch.OutOfMemoryError(f"{KIND}: out of memory: {largest} bytes")


_LIBRARY = torch.library.Library("_", "IMPL")


def _fallback(operator, *args, **kwargs):
    return _run(operator, args, kwargs)


_LIBRARY.fallback(_fallback, "PrivateUse1")


# torch makes these from an empty tensor that is resized, which a tensor of Python cannot be.
_MADE_RESIZED = ("arange", "arange.start", "arange.start_step", "randperm", "randperm.generator")
_FACTORIES = torch.library.Library("aten", "IMPL")


def _make_factories():
    for name in _MADE_RESIZED:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(aten, packet), overload or "default")
        _FACTORIES.impl(name, partial(_fallback, operator), "PrivateUse1")


_make_factories()


def _without_pinning():
    """Let memory be pinned where no driver does it."""
    empty = torch.empty

    def pageable(*args, pin_memory=False, **kwargs):
        return empty(*args, **kwargs)

    torch.empty = pageable
    torch.Tensor.pin_memory = lambda self, *args: self.clone()


_without_pinning()


# What autocast computes in few bits; all else stays as it is.
_FEW_BITS = ("conv2d", "linear", "matmul", "mm", "addmm")
_AUTOCAST = torch.library.Library("_", "IMPL")
_AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _in_few_bits(operator, *args, **kwargs):
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    dtype = torch.get_autocast_dtype(KIND)

    def cast(value):
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    with torch._C._ExcludeDispatchKeyGuard(keys):
        return operator(*tree_map(cast, args), **kwargs)


for _name in _FEW_BITS:
    _FACTORIES.impl(_name, partial(_in_few_bits, getattr(aten, _name).default), "AutocastPrivateUse1")
