"""Losses by the names that ``loss`` of an estimator takes, and their values if all views map to one point."""

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .curl import curl_hinge, curl_logistic
from .labelled import without_labels
from .ntxent import nt_xent
from .pairwise import margin_triplet, nt_logistic
from .reweighted import dcl, hard_nt_xent
from .supervised import supcon

__all__ = ["LOSSES", "loss_of_one_point", "named_loss"]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "nt_xent": nt_xent,
    "nt_logistic": nt_logistic,
    "margin_triplet": margin_triplet,
    "curl_logistic": curl_logistic,
    "curl_hinge": curl_hinge,
    "supcon": supcon,
    "dcl": dcl,
    "hard_nt_xent": hard_nt_xent,
}

# For 2N equal rows, these losses are log(2N - k): an anchor is not compared with k of the rows.
_NOT_COMPARED = {"nt_xent": 1, "supcon": 1, "hard_nt_xent": 1, "dcl": 2}

# The other losses are computed for at most so many pairs: more would take memory and change nothing.
_PAIRS = 1024


def named_loss(name: str, temperature: float) -> Callable[..., Tensor]:
    """Return a loss by its name.

    Parameters
    ----------
    name : str
        One of `LOSSES`.
    temperature : float
        Temperature of the losses that have one.

    Returns
    -------
    callable
        Projections (2N, d) to a tensor of shape ().

    Examples
    --------
    >>> from sklearn_simclr.losses.by_name import named_loss
    >>> named_loss("dcl", 0.2).keywords
    {'temperature': 0.2}
    """
    loss = LOSSES[name]
    if "temperature" not in inspect.signature(loss).parameters:
        return loss
    return partial(loss, temperature=temperature)


def loss_of_one_point(loss: Callable[..., Tensor], name: object, queue_size: int, n_pairs: int) -> float:
    """Return the loss of an encoder that maps every view to one point.

    Parameters
    ----------
    loss : callable
        Projections (2N, d) to a tensor of shape ().
    name : str or object
        Name of the loss among `LOSSES`; anything else if it has none.
    queue_size : int
        Further projections that each view is compared with; the queue is taken as full.
    n_pairs : int
        N, images with two views each.

    Returns
    -------
    float
        Without labels.

    Raises
    ------
    ValueError
        If the loss is no scalar tensor.

    Examples
    --------
    >>> from sklearn_simclr.losses import nt_xent
    >>> from sklearn_simclr.losses.by_name import loss_of_one_point
    >>> round(loss_of_one_point(nt_xent, "nt_xent", 0, 256), 3)
    6.236
    """
    if isinstance(name, str) and name in _NOT_COMPARED:
        return math.log(2 * n_pairs - _NOT_COMPARED[name] + queue_size)
    device = next((p.device for p in loss.parameters()), None) if isinstance(loss, nn.Module) else None
    with torch.no_grad():
        value = without_labels(loss, torch.ones(2 * min(n_pairs, _PAIRS), 2, device=device))
    if not isinstance(value, torch.Tensor) or value.ndim:
        found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise ValueError(
            f"loss must return a scalar tensor computed from z, got {found}. Return, for example, the mean "
            "over the rows of z."
        )
    return float(value)
