"""A linear classifier that watches representations while the encoder learns without its labels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["OnlineProbe"]

# Step size of Adam on standardised features: some hundred steps have to do.
_RATE = 0.01

# Part of the running mean and variance that a batch replaces.
_MOMENTUM = 0.1

_EPS = 1e-6

_MOMENTS = ("first", "second")


class OnlineProbe:
    """Softmax regression on representations as they are in each step; no gradient goes to the encoder.

    Each labelled image is predicted before the probe learns from it: the accuracy is one on new views.

    Parameters
    ----------
    labels : int64 tensor of shape (n,)
        Classes of the training images from 0 on, -1 where there is none.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.n_classes = int(labels.max()) + 1
        self._state: dict[str, Tensor] = {}

    @torch.no_grad()
    def see(self, h: Tensor, index: Tensor) -> None:
        """Predict the labels of some rows, count the hits, and learn from the rows.

        Parameters
        ----------
        h : tensor of shape (m * n, d)
            Representations of m views of n images, the first views first.
        index : int64 tensor of shape (n,)
            Which images these are.
        """
        h = h.detach().float()
        self.labels = self.labels.to(h.device)
        labels = self.labels[index].repeat(len(h) // len(index))
        known = labels >= 0
        state = self._state = self._state or self._begin(h)
        state["mean"].lerp_(h.mean(dim=0), _MOMENTUM)
        state["variance"].lerp_(h.var(dim=0, correction=0), _MOMENTUM)
        x = (h - state["mean"]) / (state["variance"] + _EPS).sqrt()
        # Rows without a label are left in, with a weight of 0: which they are is not asked of the device.
        logits = F.linear(x, state["weight"], state["bias"])
        state["hits"] += ((logits.argmax(dim=1) == labels) & known).sum()
        state["rows"] += known.sum()
        residual = logits.softmax(dim=1) - F.one_hot(labels.clamp(min=0), self.n_classes)
        residual *= (known / known.sum().clamp(min=1))[:, None]
        state["steps"] += 1
        for name, gradient in (("weight", residual.T @ x), ("bias", residual.sum(dim=0))):
            self._adam(name, gradient)

    def _begin(self, h: Tensor) -> dict[str, Tensor]:
        start = {"weight": h.new_zeros(self.n_classes, h.shape[1]), "bias": h.new_zeros(self.n_classes)}
        moments = {f"{name}_{kind}": zeros.clone() for name, zeros in start.items() for kind in _MOMENTS}
        counts = {name: h.new_zeros(()) for name in ("hits", "rows", "steps")}
        return {"mean": h.mean(dim=0), "variance": h.var(dim=0, correction=0), **start, **moments, **counts}

    def _adam(self, name: str, gradient: Tensor, beta1: float = 0.9, beta2: float = 0.95) -> None:
        state = self._state
        first, second, steps = state[f"{name}_first"], state[f"{name}_second"], state["steps"]
        first.lerp_(gradient, 1 - beta1)
        second.lerp_(gradient.square(), 1 - beta2)
        root = (second / (1 - beta2**steps)).sqrt() + 1e-8
        state[name] -= _RATE * (first / (1 - beta1**steps)) / root

    def accuracy(self) -> float:
        """Return the share of labelled views that were right since the last call; the host waits for it.

        Returns
        -------
        float
            NaN where none was seen.
        """
        if not self._state:
            return float("nan")
        hits, rows = float(self._state["hits"]), float(self._state["rows"])
        self._state["hits"].zero_()
        self._state["rows"].zero_()
        return hits / rows if rows else float("nan")

    def state(self) -> dict[str, Tensor]:
        """Return what the probe has learnt, for a checkpoint."""
        return self._state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._state = dict(state)
