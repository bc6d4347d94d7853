"""All that the rest of a training depends on: a checkpoint keeps it, and trial steps leave it as it was."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .._utils.devices import generator_states, set_generator_states
from ..encoders.description import not_finite

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["Position", "as_it_was", "check_state", "restore", "state_of"]

_KINDS: dict[str, type | tuple[type, ...]] = {
    "module": dict,
    "optimizer": dict,
    "generator": torch.Tensor,
    "random": dict,
    "position": (dict, type(None)),
    "batch_size": int,
    "steps": int,
    "elapsed": (int, float),
    "setup": (int, float),
    "step_time": (int, float),
    "history": list,
    "objective": dict,
    "scaler": dict,
    "callbacks": str,
}


@dataclass
class Position:
    """Place within an epoch.

    Parameters
    ----------
    order : int64 tensor of shape (n,)
        Rows of the images of the epoch, on the device.
    total : float32 tensor of shape (2,)
        Sum of the losses of its steps, and of the steps that were left out, in batches.
    done : int
        Steps done.
    """

    order: torch.Tensor
    total: torch.Tensor
    done: int = 0

    def count(self, loss: torch.Tensor, size: float, *, overflows: bool) -> None:
        """Count a step.

        Parameters
        ----------
        loss : tensor of shape ()
            Loss of the step.
        size : float
            Size of its batch, in batches: a last one that is smaller counts for less.
        overflows : bool
            Whether the step was left out, and its loss says nothing, if the loss is not finite.
        """
        self.done += 1
        if overflows:
            left_out = ~loss.isfinite()
            counted = torch.stack([loss.masked_fill(left_out, 0.0), left_out.to(loss.dtype)])
            self.total.add_(counted, alpha=size)
        else:
            self.total[0].add_(loss, alpha=size)


def state_of(loop: Loop, position: Position | None = None) -> dict[str, Any]:
    """Return the state of a training, as a checkpoint keeps it.

    Parameters
    ----------
    loop : Loop
        Between two steps.
    position : Position or None, default=None
        How far its epoch is; None at the end of an epoch.

    Returns
    -------
    dict
        Holds tensors, numbers, strings, None, and dicts, lists and tuples of these.
    """
    clock = loop.clock_
    return {
        "module": loop.module_.state_dict(),
        "optimizer": loop.optimizer_.state_dict(),
        "generator": loop.generator.get_state(),
        "random": generator_states(loop.plan.device),
        "position": None if position is None else vars(position),
        "batch_size": loop.plan.batch_size,
        "steps": clock.steps,
        "elapsed": clock.elapsed(),
        "setup": clock.setup,
        "step_time": clock.step_time,
        "history": [{k: v for k, v in row.items() if k != "batches"} for row in loop.history if "dur" in row],
        "objective": loop.objective.state(),
        "scaler": loop.scaler.state_dict(),
        "callbacks": loop.known_callbacks_,
    }


def check_state(state: Any) -> None:
    """Raise unless a state has the entries that `state_of` gives it, of their types."""
    if not isinstance(state, dict):
        raise TypeError("its state is not a dict")
    for name, kind in _KINDS.items():
        if name not in state or not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise ValueError(f"its {name!r} is missing or of a wrong type, {type(state.get(name)).__name__}")
    for row in state["history"]:
        if not isinstance(row, dict) or not all(isinstance(value, int | float) for value in row.values()):
            raise ValueError("its 'history' has a row that holds something other than numbers")


def restore(loop: Loop, state: dict[str, Any]) -> Position | None:
    """Let a loop go on from a state.

    Parameters
    ----------
    loop : Loop
        Before its first step.
    state : dict
        As `state_of` returned it, with tensors on the CPU.

    Returns
    -------
    Position or None
        How far its epoch is; None at the end of an epoch.
    """
    device = loop.plan.device
    odd = not_finite(state["module"])
    if odd:
        raise ValueError(f"{odd!r} is not finite")
    loop.module_.load_state_dict(state["module"])
    loop.optimizer_.load_state_dict(state["optimizer"])
    _lay_out_as_parameters(loop.optimizer_)
    loop.generator.set_state(state["generator"].cpu())
    set_generator_states(state["random"], device)
    loop.clock_.resume(*(state[name] for name in ("steps", "elapsed", "setup", "step_time")))
    for row in state["history"]:
        if not row.keys() >= loop.objective.columns.keys():
            raise ValueError("its 'history' has other columns")
        loop.history.new_epoch()
        loop.history.new_batch()
        loop.history.record_batch("train_loss", row["train_loss"])
        for name, value in row.items():
            loop.history.record(name, value)
    loop.objective.load_state(state["objective"])
    loop.scaler.load_state_dict(state["scaler"])
    if state["position"] is None:
        return None
    order, total, done = (state["position"][name] for name in ("order", "total", "done"))
    if order.dtype != torch.int64:
        raise TypeError("its order does not hold row numbers")
    return Position(order.to(device), total.to(device), done)


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's buffers out as its parameters: sums depend on the order in memory."""
    for parameter, buffers in optimizer.state.items():
        for name, buffer in buffers.items():
            if isinstance(buffer, torch.Tensor) and buffer.shape == parameter.shape:
                with torch.no_grad():
                    buffers[name] = torch.empty_like(parameter, dtype=buffer.dtype).copy_(buffer)


@contextlib.contextmanager
def as_it_was(loop: Loop) -> Iterator[None]:
    """Put a training back as it was before its first step, bit by bit, when the context ends."""
    weights = [(weight, weight.detach().clone()) for weight in loop.module_.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in loop.module_.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    known, drawn = copy.deepcopy(loop.objective.state()), loop.generator.get_state()
    scale = loop.scaler.state_dict()
    states = generator_states(loop.plan.device)
    loop.module_.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in weights:
                weight.copy_(before)
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer.copy_(before))
        loop.initialize_optimizer()
        loop.optimizer_.zero_grad(set_to_none=True)
        loop.generator.set_state(drawn)
        loop.scaler.load_state_dict(scale)
        set_generator_states(states, loop.plan.device)
        loop.objective.load_state(known)
