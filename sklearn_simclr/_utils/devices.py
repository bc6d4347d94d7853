"""Devices and precisions: from what a user passes to what torch computes with."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from .types import Device, Precision

__all__ = ["pack", "resolve_device", "resolve_precision", "send", "unpack"]


def resolve_device(device: Device) -> torch.device:
    """Return the torch.device that a ``device`` parameter means.

    Parameters
    ----------
    device : "auto", str or torch.device
        "auto" is CUDA where there is one, else the CPU.

    Returns
    -------
    torch.device
        Usable here.

    Raises
    ------
    ValueError
        If torch does not know it or does not find it.
    """
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here: {str(error).splitlines()[0]} Pass 'auto' or 'cpu'."
        ) from error
    if device.type == "meta":
        raise ValueError("device='meta' holds no numbers. Pass 'auto' or 'cpu'.")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the dtype for autocast, or None for float32 throughout.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        "auto" is bfloat16 on GPUs that compute with it and on CPUs that multiply matrices of it (AMX), else
        float32.
    device : torch.device
        Where.

    Returns
    -------
    torch.dtype or None
        As torch.autocast takes it.
    """
    if precision == "auto":
        if device.type == "cuda":
            able = torch.cuda.is_bf16_supported()
        else:
            able = device.type == "cpu" and _multiplies_bfloat16()
        precision = "bfloat16" if able else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Bring tensors to a device together.

    Parameters
    ----------
    tensors : sequence of torch.Tensor
        All on one device.
    device : torch.device
        Where they are needed.

    Returns
    -------
    list of torch.Tensor
        With the same values. From the CPU they come in one copy, parts of one piece of memory, and the host
        does not wait for it where memory can be pinned.
    """
    if not tensors or tensors[0].device == device:
        return list(tensors)
    if tensors[0].device.type != "cpu":
        return [tensor.to(device) for tensor in tensors]
    pinned = device.type == "cuda"
    return unpack(pack(tensors, pinned).to(device, non_blocking=pinned), tensors)


def pack(tensors: Sequence[Tensor], pinned: bool = False) -> Tensor:
    """Return the bytes of tensors in one piece of memory.

    Parameters
    ----------
    tensors : sequence of torch.Tensor
        On the CPU.
    pinned : bool, default=False
        Whether a device may read the memory while the host goes on.

    Returns
    -------
    uint8 tensor of shape (m,)
        As `unpack` reads it.
    """
    flat = [tensors[k].contiguous().flatten().view(torch.uint8) for k in _by_item_size(tensors)]
    packed = torch.empty(sum(map(len, flat)), dtype=torch.uint8, pin_memory=pinned)
    return torch.cat(flat, out=packed)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that were packed, as parts of the piece of memory.

    Parameters
    ----------
    packed : uint8 tensor of shape (m,)
        What `pack` returned, on any device.
    like : sequence of torch.Tensor
        What was packed, or tensors of the same shapes and types.

    Returns
    -------
    list of torch.Tensor
        On the device of `packed`.
    """
    order = _by_item_size(like)
    parts = dict(zip(order, packed.split([like[k].nbytes for k in order]), strict=True))
    return [parts[k].view(tensor.dtype).view(tensor.shape) for k, tensor in enumerate(like)]


def _by_item_size(tensors: Sequence[Tensor]) -> list[int]:
    """Return positions, the largest items first: each tensor then begins at a multiple of its item size."""
    return sorted(range(len(tensors)), key=lambda k: -tensors[k].element_size())


@cache
def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has units for products of bfloat16 matrices, which pay; instructions do not."""
    # Older versions of torch do not tell.
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16")) and torch.backends.mkldnn.is_available()
