"""Work with the usual settings of torch and NumPy, whatever the user's program has set."""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch

from .devices import autocast_off, is_cpu
from .forks import in_each_process

__all__ = ["usual_settings"]


class _Dtype:
    """Count the users of the usual default dtype, and keep the one that is put back after the last."""

    lock: threading.Lock
    users: int
    before: torch.dtype


@in_each_process
def _begin() -> None:
    _Dtype.lock = threading.Lock()
    _Dtype.users = 0


@contextlib.contextmanager
def usual_settings() -> Iterator[None]:
    """Compute on the CPU in float32 with gradients, and warn of NaN, unless the code within says otherwise.

    Default dtype and device, gradients, inference mode, autocast and NumPy's ``seterr`` are at the end what
    they were before. The default dtype is that of all threads; it is put back when the last context ends.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_usual_dtype())
        # Within a context for the default device, every call of torch is slower.
        if not is_cpu(torch.get_default_device()):
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(autocast_off())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        yield


@contextlib.contextmanager
def _usual_dtype() -> Iterator[None]:
    with _Dtype.lock:
        if _Dtype.users == 0:
            _Dtype.before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _Dtype.users += 1
    try:
        yield
    finally:
        with _Dtype.lock:
            _Dtype.users -= 1
            if _Dtype.users == 0:
                torch.set_default_dtype(_Dtype.before)
