"""Losses with and without labels: tell which take them, and call those on projections without any."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["takes_labels", "without_labels"]


def takes_labels(loss: Callable[..., Tensor]) -> bool:
    """Return whether a loss has an argument ``labels``.

    Parameters
    ----------
    loss : callable
        A loss of projections.

    Returns
    -------
    bool
        Also of what :func:`functools.partial` has made, and of modules by their ``forward``.

    Examples
    --------
    >>> from sklearn_simclr.losses import nt_xent, supcon
    >>> from sklearn_simclr.losses.labelled import takes_labels
    >>> takes_labels(supcon), takes_labels(nt_xent)
    (True, False)
    """
    try:
        return "labels" in inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    except (TypeError, ValueError):  # functions written in C have no signature
        return False


def without_labels(loss: Callable[..., Tensor], z: Tensor) -> Tensor:
    """Return the loss of projections of images none of which has a label.

    Parameters
    ----------
    loss : callable
        A loss of projections, and perhaps of labels.
    z : tensor of shape (2N, d)
        Projections.

    Returns
    -------
    tensor of shape ()
        The result of the loss.
    """
    if not takes_labels(loss):
        return loss(z)
    return loss(z, labels=z.new_full((len(z) // 2,), -1, dtype=torch.int64))
