"""Plan a training: how long, on which batches, with which optimizer and schedule, where and how precisely."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from .._utils.progress import in_words
from .._utils.ranks import current
from .._utils.seeds import isolated_generators

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """All that a training needs to know beside the objective and the images.

    Parameters
    ----------
    max_epochs : int
        Passes over the images, >= 0.
    batch_size : int
        Images in a step, >= 1.
    optimizer : {"lars", "sgd", "adam", "adamw", "muon"}
        Name of the optimizer.
    learning_rate : float
        Peak learning rate, > 0.
    schedule : callable
        The fraction of the training that is done, in [0, 1], to what the learning rate is multiplied by.
    seed : int
        Decides about initial weights, order, views and noise.
    weight_decay : float, default=0
        Weight decay, >= 0.
    micro_batch_size : int or None, default=None
        Images that go through the modules at a time, for objectives that can; None is the whole batch.
    keep_last : bool, default=False
        Whether a last batch that is smaller than the others is trained on, or left out.
    max_time : float or None, default=None
        Seconds from `started` to the end of the training, instead of `max_epochs`.
    started : float, optional
        When the training began, on the clock of ``time.perf_counter``; the default is now.
    precision : torch.dtype or None, default=None
        Precision of the forward; None is float32.
    device : torch.device, default=cpu
        Device to train on.
    callbacks : sequence, default=()
        Callbacks of skorch.
    verbose : int, default=0
        Whether to draw a progress bar.
    epochs_before : int, default=0
        Epochs of earlier trainings of the same modules; they change what the seed means.
    loop_seed : int or None, default=None
        Seed of order, views and noise alone; None follows from `seed`.
    repeatable : bool, default=True
        Whether the user chose the seed: only then does it belong to what a cache looks for.
    resolve_optimizer : callable or None, default=None
        Another batch size to the name of the optimizer, its learning rate and its weight decay; None: they do
        not depend on it. The batch becomes smaller where few steps fit into `max_time`.

    See Also
    --------
    train : Carries out the plan.

    Examples
    --------
    >>> from functools import partial
    >>> from sklearn_simclr.training import Plan, warmup_cosine
    >>> plan = Plan(10, 256, "sgd", 0.1, partial(warmup_cosine, warmup=0.1), seed=0)
    >>> plan.schedule(0.05)
    0.5
    """

    max_epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: Callable[[float], float]
    seed: int
    weight_decay: float = 0.0
    micro_batch_size: int | None = None
    keep_last: bool = False
    max_time: float | None = None
    started: float = field(default_factory=time.perf_counter)
    precision: torch.dtype | None = None
    device: torch.device = torch.device("cpu")
    callbacks: Sequence[Any] = ()
    verbose: int = 0
    epochs_before: int = 0
    loop_seed: int | None = None
    repeatable: bool = True
    resolve_optimizer: Callable[[int], tuple[str, float, float]] | None = None

    @property
    def seeds(self) -> tuple[int, int, int]:
        """Seeds of initial weights, of torch's global generators in the training, of order and views."""
        drawn = np.random.SeedSequence([self.seed, self.epochs_before]).generate_state(3).tolist()
        return drawn[0], drawn[1], drawn[2] if self.loop_seed is None else self.loop_seed

    def time_left(self) -> float:
        """Return the seconds of `max_time` that are left.

        Returns
        -------
        float
            Infinity where there is no `max_time`; negative when it is over.
        """
        if self.max_time is None:
            return math.inf
        return self.max_time - (time.perf_counter() - self.started)

    def check_time(self) -> None:
        """Raise if `max_time` is over before the first step.

        Raises
        ------
        ValueError
            That says what took the time, and what to pass.
        """
        if self.max_time is None or self.max_epochs == 0:
            return
        (left,) = current().lead((self.time_left(),))
        if left <= 0:
            spent = self.max_time - left
            raise ValueError(
                f"max_time={self.max_time:g} is over before the first step: reading and setting up took "
                f"{in_words(spent)}. Pass max_time={math.ceil(3 * spent)} or more, fewer images, or smaller "
                "ones (image_size)."
            )

    def n_steps(self, n_images: int) -> int:
        """Return the steps of `max_epochs`.

        Parameters
        ----------
        n_images : int
            How many images there are.

        Returns
        -------
        int
            Number of steps in all epochs together.
        """
        size = min(self.batch_size, n_images)
        return self.max_epochs * (-(-n_images // size) if self.keep_last else n_images // size)

    def resized(self, batch_size: int) -> "Plan":
        """Return the plan with another batch size, and what depends on it.

        Parameters
        ----------
        batch_size : int
            Images in a step, >= 1.

        Returns
        -------
        Plan
            With the optimizer and the learning rate for that batch size.
        """
        if self.resolve_optimizer is None:
            return replace(self, batch_size=batch_size)
        optimizer, rate, decay = self.resolve_optimizer(batch_size)
        return replace(
            self, batch_size=batch_size, optimizer=optimizer, learning_rate=rate, weight_decay=decay
        )

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which modules compute in the precision of the plan.

        Returns
        -------
        context manager
            torch's autocast, or one that does nothing.
        """
        if self.precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def building(self) -> contextlib.AbstractContextManager:
        """Return the context in which modules are built.

        Returns
        -------
        context manager
            For its time torch's global generators are seeded.
        """
        return isolated_generators(self.seeds[0], self.device)

    def identity(self) -> dict[str, Any]:
        """Return what the learnt weights depend on.

        Returns
        -------
        dict
            Fields of the plan by name, but not where it is trained or what is shown.
        """
        left_out = {"started", "device", "callbacks", "verbose", "repeatable", "resolve_optimizer"}
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return known if self.repeatable else {**known, "seed": None, "loop_seed": None}
