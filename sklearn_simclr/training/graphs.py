"""Steps that an accelerator records once and repeats in one call, without the host's part in each kernel."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._utils.devices import (
    generator_states,
    has_fused_optimizers,
    out_of_memory,
    pack,
    pins_memory,
    set_generator_states,
    unpack,
)
from .._utils.ranks import current
from .._utils.recordings import Recording, has_recordings, noted_waits
from ..encoders.compiled import is_compiled
from ..views.augmentation import Augmentation, maps_of, turns_freely
from ..views.interface import Views
from .objective import Objective
from .plan import Plan

__all__ = ["RepeatedStep", "can_be_recorded", "without_graphs"]

# Steps before the one that is recorded: libraries choose their kernels, optimizers make their buffers.
_STEPS_BEFORE = 3

# A repeated step may differ from a computed one by this share of the largest change of a tensor, and of the
# loss: sums in another order differ by less, and numbers that did not follow the batch by more.
_TOLERANCE, _TOLERANCE_OF_LOSS = 0.05, 1e-3

# A step of code from these packages does the same whatever the numbers are, and waits for none of them.
_KNOWN = ("sklearn_simclr", "torch")

# These do not wait for a learning rate that is a tensor; the second ones only in their fused form.
_OWN_OPTIMIZERS = frozenset({"lars", "muon"})
_FUSED_OPTIMIZERS = frozenset({"adamw", "sgd"})

_allowed: ContextVar[bool] = ContextVar("_allowed", default=True)

Found = tuple[Tensor, Mapping[str, Tensor]]


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Let the steps of trainings within the context be given to an accelerator kernel by kernel.

    On CUDA devices the steps of a training are otherwise recorded as a CUDA graph where all that they do is
    known to be the same at each step. What is learnt does not depend on it; a debugger or a profiler sees
    more without it.

    Yields
    ------
    None
        Nothing; the context is all.

    See Also
    --------
    train : Trains an objective.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.training import without_graphs
    >>> X = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    >>> with without_graphs():
    ...     fitted = SimCLRTransformer(max_epochs=1, random_state=0).fit(X)
    """
    before = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(before)


def can_be_recorded(objective: Objective, plan: Plan) -> bool:
    """Return whether the steps of a training can be repeated by a device.

    Parameters
    ----------
    objective : Objective
        What is learnt. Its objects must be of this package and of torch: others may decide in Python what a
        step does.
    plan : Plan
        Callbacks may change what a step does, micro-batches are computed with the generators put back, and
        steps of float16 may be left out.

    Returns
    -------
    bool
        Whether the device records, and all of that is given.
    """
    views, fused = objective.augmentation, has_fused_optimizers(plan.device)
    return (
        _allowed.get()
        and has_recordings(plan.device)
        and current().size == 1
        and objective.repeats
        and plan.optimizer in _OWN_OPTIMIZERS | (_FUSED_OPTIMIZERS if fused else frozenset())
        and plan.precision is not torch.float16
        and plan.micro_batch_size is None
        and not plan.callbacks
        and (views is None or (type(views) is Augmentation and not turns_freely(views)))
        and _is_known(type(objective))
        and all(_all_known(value) for name, value in vars(objective).items() if name != "augmentation")
    )


def _all_known(value: object) -> bool:
    """Return whether all parts of an objective that compute something are of known classes."""
    if isinstance(value, nn.Module):
        return all(map(_is_plain, value.modules()))
    return _is_known(value) if callable(value) else True


def _is_plain(module: nn.Module) -> bool:
    hooks = (value for name, value in vars(module).items() if name.endswith("_hooks"))
    changed = is_compiled(module) or "forward" in vars(module)
    return _is_known(type(module)) and not changed and not any(hooks)


def _is_known(function: Any) -> bool:
    """Return whether a class or function is of this package or of torch."""
    while isinstance(function, partial):
        function = function.func
    return (getattr(function, "__module__", None) or "").partition(".")[0] in _KNOWN


class RepeatedStep:
    """A step of the training on batches of one size, which a device repeats once it has been recorded.

    What changes from step to step is copied into memory that stays where it is: rows, images, views and
    learning rates. The first steps are computed as ever, the next one is recorded, and its repetition is
    compared with the same step computed. If the two differ, or there is not enough memory for both, or the
    step cannot be recorded, all further ones are computed.

    Parameters
    ----------
    compute : callable
        Takes rows, images and what ``Batch.drawn`` is, computes gradients, moves the weights and returns
        loss and outputs.
    module : torch.nn.Module
        The modules to train.
    optimizer : torch.optim.Optimizer
        What trains it; ``"lr"`` of its groups is the learning rate of the next step.
    generator : torch.Generator
        Generator of the views, on the CPU.
    device : torch.device
        Where.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor, Callable[[Views, int], Any]], Found],
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.compute, self.module, self.optimizer = compute, module, optimizer
        self.generator, self.device = generator, device
        self.rates = torch.zeros(len(optimizer.param_groups), dtype=torch.float32, device=device)
        self.images: Tensor | None = None
        self.views: list[_StaticViews] = []
        self.steps = 0
        self.recording: Recording | None = Recording(device)
        self.found: Found | None = None
        self.gradients: list[Tensor | None] = []
        self.verified = False

    @property
    def repeats(self) -> bool:
        """True where the device repeats the step by itself."""
        return self.verified and self.recording is not None

    def step(self, index: Tensor, images: Tensor) -> Found:
        """Take a step.

        Parameters
        ----------
        index : int64 tensor of shape (n,)
            Rows of the images, n at each step.
        images : tensor of shape (n, C, H, W)
            The images.

        Returns
        -------
        loss : tensor of shape ()
            Valid until the next step, as the outputs are.
        outputs : dict of str to tensor
            Outputs of the step of the objective.
        """
        self._fill(index, images)
        self.steps += 1
        if self.recording is None:
            return self._computed()
        if self.steps <= _STEPS_BEFORE:
            return self._prepared(self.recording)
        if self.verified:
            return self._repeated(self.recording)
        self._record(self.recording)
        return self._computed() if self.found is None else self._verify(self.recording)

    def _fill(self, index: Tensor, images: Tensor) -> None:
        """Copy the new inputs of a step to the places where the device expects them."""
        if self.images is None:
            self.index, self.images = index.clone(), images.clone()
        else:
            self.index.copy_(index)
            self.images.copy_(images)
        self.taken = 0
        for views in self.views:
            views.draw(self.generator)
        numbers = [group["lr"] for group in self.optimizer.param_groups]
        rates = torch.tensor(numbers, dtype=torch.float32)
        _bring([rates], self.rates.view(torch.uint8))

    def _drawn(self, augmentation: Views, n_views: int) -> Any:
        """Return the views of this step, in the same memory as the views of the last step."""
        assert isinstance(augmentation, Augmentation) and self.images is not None
        if self.taken == len(self.views):
            self.views.append(_StaticViews(augmentation, n_views, self.images))
            self.views[-1].draw(self.generator)
        found = self.views[self.taken]
        self.taken += 1
        return found.maps

    def _computed(self) -> Found:
        """Take the step kernel by kernel."""
        assert self.images is not None
        self.taken = 0
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates.unbind(), strict=True):
            group["lr"] = rate
        try:
            return self.compute(self.index, self.images, self._drawn)
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    def _prepared(self, recording: Recording) -> Found:
        """Take one of the first steps; the last of them shows whether the host waits for the device."""
        if self.steps < _STEPS_BEFORE:
            with recording.aside():
                return self._computed()
        with recording.aside(), noted_waits(self.device) as waits:
            found = self._computed()
        if waits:
            self._give_up()
        return found

    def _record(self, recording: Recording) -> None:
        """Record the step, if that is possible; nothing is computed."""
        try:
            with recording.recorded():
                self.found = self._computed()
            self.gradients = [parameter.grad for parameter in self.module.parameters()]
        except RuntimeError:  # the host has to wait for a number, or there is too little memory
            self._give_up()

    def _give_up(self) -> None:
        """Compute all further steps; the memory of the recording is given back."""
        self.recording, self.found, self.gradients = None, None, []

    def _repeated(self, recording: Recording) -> Found:
        recording.repeat()
        for parameter, gradient in zip(self.module.parameters(), self.gradients, strict=True):
            parameter.grad = gradient
        assert self.found is not None
        return self.found

    def _verify(self, recording: Recording) -> Found:
        """Take the step in both ways, and go on with repetitions if they do the same."""
        tensors, random = self._state(), generator_states(self.device)
        before: list[Tensor] = []
        try:
            before += [tensor.clone() for tensor in tensors]
            return self._compared(recording, tensors, before, random)
        except Exception as error:
            # The recording holds as much memory as the step takes.
            if not out_of_memory(error):
                raise
        # Outside of the except block nothing holds the tensors of the step any longer.
        self._give_up()
        if before:
            _copy(before, tensors)
        set_generator_states(random, self.device)
        return self._computed()

    def _compared(
        self, recording: Recording, tensors: list[Tensor], before: list[Tensor], random: Mapping[str, Tensor]
    ) -> Found:
        loss, outputs = self._computed()
        after, advanced = [tensor.clone() for tensor in tensors], generator_states(self.device)
        _copy(before, tensors)
        set_generator_states(random, self.device)
        again, repeated = self._repeated(recording)
        close = [
            (tensor - other).abs().amax() <= _TOLERANCE * (other - old).abs().amax()
            for tensor, other, old in zip(tensors, after, before, strict=True)
            if tensor.is_floating_point() and tensor.numel()
        ]
        close.append((again - loss).abs() <= _TOLERANCE_OF_LOSS * loss.abs())
        self.verified = bool(torch.stack(close).all().item())
        if self.verified:
            return again, repeated
        _copy(after, tensors)
        set_generator_states(advanced, self.device)
        self._give_up()
        return loss, outputs

    def _state(self) -> list[Tensor]:
        """Return all that a step changes, beside the generators."""
        kept = [value for known in self.optimizer.state.values() for value in known.values()]
        known = [*self.module.state_dict(keep_vars=True).values(), *kept]
        found = {id(tensor): tensor.detach() for tensor in known if isinstance(tensor, Tensor)}
        return list(found.values())


class _StaticViews:
    """Views of a batch, computed on the CPU and brought to one place of the device's memory."""

    def __init__(self, augmentation: Augmentation, n_views: int, images: Tensor) -> None:
        self.augmentation, self.n = augmentation, n_views * len(images)
        self.shape, self.dtype, self.device = tuple(images.shape[1:]), images.dtype, images.device
        self.packed: Tensor | None = None

    def draw(self, generator: torch.Generator) -> None:
        """Draw the next views."""
        draws = self.augmentation.draw(self.n, self.shape, generator=generator)
        maps = maps_of(self.augmentation, draws, self.shape, self.dtype)
        tensors = maps.tensors()
        if self.packed is None:
            n_bytes = sum(tensor.nbytes for tensor in tensors)
            self.packed = torch.zeros(n_bytes, dtype=torch.uint8, device=self.device)
            self.maps = maps.with_tensors(iter(unpack(self.packed, tensors)))
        _bring(tensors, self.packed)


def _bring(tensors: list[Tensor], place: Tensor) -> None:
    """Bring tensors of the CPU to a place in the memory of a device, which the host does not wait for."""
    pinned = pins_memory(place.device)
    place.copy_(pack(tensors, pinned), non_blocking=pinned)


def _copy(values: list[Tensor], to: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(to, values, strict=True):
            tensor.copy_(value)
