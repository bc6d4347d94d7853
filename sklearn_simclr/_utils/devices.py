"""Devices and precisions: from what a user passes to what torch computes with."""

from functools import cache

import torch

from .types import Device, Precision

__all__ = ["resolve_device", "resolve_precision"]


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


@cache
def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has units for products of bfloat16 matrices, which pay; instructions do not."""
    # Older versions of torch do not tell.
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16")) and torch.backends.mkldnn.is_available()
