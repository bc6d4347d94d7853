"""The optimizers by name: parameter groups and default learning rates."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .._utils.devices import has_fused_optimizers
from .lars import LARS
from .muon import Muon

__all__ = ["default_learning_rate", "make_optimizer", "never_wait", "parameter_groups"]

_DEFAULT_LEARNING_RATES: dict[str, Callable[[int], float]] = {
    "lars": lambda batch_size: 0.3 * batch_size / 256,  # V1 section 2.3
    "sgd": lambda batch_size: 0.1 * batch_size / 256,
    "adam": lambda batch_size: 0.002 * math.sqrt(batch_size / 256),
    "adamw": lambda batch_size: 0.002 * math.sqrt(batch_size / 256),
    "muon": lambda batch_size: 0.04 * math.sqrt(batch_size / 256),
}


def parameter_groups(modules: nn.Module | Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Scalars and vectors (BatchNorm's scale and shift, biases) are left out of weight decay and of the
    adaptation of `LARS`, as in SimCLR.

    Parameters
    ----------
    modules : torch.nn.Module or iterable of torch.nn.Module
        Where the parameters are. One that several modules share is listed once.
    weight_decay : float
        For the group that decays, >= 0.

    Returns
    -------
    groups : list of dict
        At most two, empty ones left out, each with "params", "weight_decay" and "adapt".

    Raises
    ------
    ValueError
        If no parameter requires a gradient.

    See Also
    --------
    make_optimizer : Makes an optimizer of these groups.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_simclr.training import parameter_groups
    >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 1e-4)
    >>> [(len(g["params"]), g["weight_decay"], g["adapt"]) for g in groups]
    [(1, 0.0001, True), (3, 0.0, False)]
    """
    if isinstance(modules, nn.Module):
        modules = [modules]
    # A dict and not a set: the order decides how an optimizer's state_dict is numbered.
    parameters = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
    if not parameters:
        raise ValueError("modules has no parameter that requires a gradient; pass modules to be trained.")
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: str,
    modules: nn.Module | Iterable[nn.Module],
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    dtype: torch.dtype | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer for the trainable parameters of modules.

    Parameters
    ----------
    name : {"lars", "sgd", "adam", "adamw", "muon"}
        `LARS`, SGD with Nesterov momentum, Adam, AdamW, or `Muon`.
    modules : torch.nn.Module or iterable of torch.nn.Module
        What is trained; see `parameter_groups` for what is left out of weight decay.
    lr : float
        Learning rate, >= 0; every parameter group also keeps it as "initial_lr", for a schedule to multiply.
    weight_decay : float
        >= 0.
    momentum : float, default=0.9
        In [0, 1), for "lars", "sgd" and "muon"; "adam" and "adamw" have moments of their own.
    dtype : torch.dtype or None, default=None
        For "muon": as in `Muon`.

    Returns
    -------
    optimizer : torch.optim.Optimizer
        With one or two parameter groups.

    Raises
    ------
    ValueError
        If `name` is unknown, a number out of range, or nothing can be trained.

    See Also
    --------
    LARS : The optimizer of large batches.
    Muon : The optimizer of small batches.
    default_learning_rate : The rate where none is given.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_simclr.training import make_optimizer
    >>> make_optimizer("sgd", nn.Linear(3, 4), lr=0.1, weight_decay=1e-4).param_groups[0]["initial_lr"]
    0.1
    """
    _check_name(name)
    groups = [{**group, "initial_lr": lr} for group in parameter_groups(modules, weight_decay)]
    if name == "lars":
        return LARS(groups, lr, momentum=momentum)
    if name == "muon":
        return Muon(groups, lr, momentum=momentum, dtype=dtype)
    if name == "adam":
        return torch.optim.Adam(groups, lr)
    # One pass over the memory instead of several; not every device has it.
    fused = all(has_fused_optimizers(p.device) for group in groups for p in group["params"])
    if name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    return torch.optim.AdamW(groups, lr, fused=fused)


def never_wait(optimizer: torch.optim.Optimizer, on_device: bool = True) -> None:
    """Let an optimizer keep on the device whatever its steps depend on, or its counters on the CPU as usual.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        As `make_optimizer` returned it, perhaps with another state.
    on_device : bool, default=True
        Whether learning rates may be tensors of the device, and steps be counted there.
    """
    if isinstance(optimizer, Muon):
        optimizer.counts_on_device = on_device
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = on_device


def default_learning_rate(name: str, batch_size: int) -> float:
    """Return the learning rate that goes with an optimizer and a batch size.

    Parameters
    ----------
    name : {"lars", "sgd", "adam", "adamw", "muon"}
        As for `make_optimizer`.
    batch_size : int
        N, the number of images (not of views) a step, >= 1.

    Returns
    -------
    learning_rate : float
        0.3 N / 256 for "lars", 0.1 N / 256 for "sgd", 0.002 sqrt(N / 256) for "adam" and "adamw",
        0.04 sqrt(N / 256) for "muon".

    Raises
    ------
    ValueError
        If `name` is unknown or `batch_size` < 1.

    See Also
    --------
    make_optimizer : Makes the optimizer with this rate.
    warmup_cosine : How the rate changes in training.

    Notes
    -----
    V1 (section 2.3) uses the linear rule with LARS; for small batches and few epochs it found
    0.075 sqrt(N) better (B.1). V2 uses 0.1 sqrt(N). The other rules are this package's own.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, section 2.3 and appendix B.1.

    Examples
    --------
    >>> from sklearn_simclr.training import default_learning_rate
    >>> default_learning_rate("lars", 4096)
    4.8
    """
    _check_name(name)
    if not batch_size >= 1:
        raise ValueError(f"batch_size={batch_size} is out of range; pass the images per step, >= 1.")
    return _DEFAULT_LEARNING_RATES[name](batch_size)


def _check_name(name: str) -> None:
    if name not in _DEFAULT_LEARNING_RATES:
        raise ValueError(f"optimizer {name!r} is unknown; pass one of {sorted(_DEFAULT_LEARNING_RATES)}.")
