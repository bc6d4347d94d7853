"""Measure the progress of a training by steps or by time, and draw its bar."""

import sys
import time
from typing import Any, Self

from torch import Tensor

from .._utils.devices import Mark, mark
from .._utils.progress import in_words, progress_bar
from .pace import Pace
from .plan import Plan

__all__ = ["Clock"]

# Seconds between two updates of the progress bar; reading the loss waits for the device.
_REFRESH = 0.5

# After so many seconds and steps the speed is known well enough to say how long the training will take.
_ANNOUNCED_AFTER = 2.0
_ANNOUNCED_STEPS = 3


class Clock:
    """Progress of a training by steps or by time, with its bar.

    Parameters
    ----------
    plan : Plan
        How long the training is to be.
    n_images : int
        How many images there are.
    title : str
        Stands before the progress bar.
    chance_level : float or None, default=None
        Loss of modules that tell nothing apart, shown beside the loss.
    pace : Pace, default=Pace(0, 0)
        Seconds that steps are expected to take; 0 where nobody knows.
    """

    def __init__(
        self,
        plan: Plan,
        n_images: int,
        title: str,
        chance_level: float | None = None,
        pace: Pace = Pace(0.0, 0.0),  # noqa: B008, a tuple
    ) -> None:
        self.plan, self.n_images, self.title, self.chance_level = plan, n_images, title, chance_level
        self.size = min(plan.batch_size, n_images)
        self.n_steps = plan.n_steps(n_images)
        self.steps = 0
        self.step_time = pace.step(self.size)
        self.marks: list[Mark] = []
        self.begun = time.perf_counter()  # the first step; before it images are read and the rest is set up
        self.started = self.begun if plan.max_time is None else plan.started

    def __enter__(self) -> Self:
        self.last = self.shown = time.perf_counter()
        self.undrawn: Tensor | None = None
        self.bar: Any = None
        self.announced = False
        if self.plan.verbose:
            limit = self.plan.max_time
            if limit is None:
                epochs = self.plan.max_epochs
                self.bar = progress_bar(
                    self.title, epochs, "epochs", layout="{n:.1f}/{total:.0f} epochs{postfix}"
                )
            else:
                digits = 1 if limit < 10 else 0
                layout = f"{{n:.{digits}f}}/{{total:.{digits}f}} s{{postfix}}"
                self.bar = progress_bar(self.title, limit, "s", layout=layout)
                if self.step_time > 0:
                    self._announce()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            if self.undrawn is not None and exception[0] is None:
                self._draw(self.undrawn)
            self.bar.close()

    def resume(self, steps: int, elapsed: float, setup: float, step_time: float) -> None:
        """Go on where another training was after some steps and seconds.

        Parameters
        ----------
        steps : int
            Steps done.
        elapsed : float
            Seconds since that training began.
        setup : float
            Seconds that went by before its first step.
        step_time : float
            Seconds that a step took.
        """
        self.steps, self.step_time = steps, step_time
        self.started = time.perf_counter() - elapsed
        self.begun = self.started + setup

    def elapsed(self) -> float:
        """Return the seconds since the training began."""
        return time.perf_counter() - self.started

    @property
    def setup(self) -> float:
        """Seconds before the first step."""
        return self.begun - self.started

    def fraction(self) -> float:
        """Return the part of the training that is done, in [0, 1], at the middle of the next step.

        A single step is not at the beginning, where the learning rate is 0. With `max_time` the training is
        what comes after reading and setting up.
        """
        if self.plan.max_time is None:
            return (self.steps + 0.5) / self.n_steps
        done, end = self.elapsed() + self.step_time / 2 - self.setup, self.plan.max_time - self.setup
        return 1.0 if done >= end else done / end

    def over(self) -> bool:
        """Return whether there is no time for another step."""
        if self.plan.max_time is None:
            return self.steps >= self.n_steps
        return self.steps > 0 and self.elapsed() + self.step_time / 2 > self.plan.max_time

    def tick(self, loss: Tensor) -> None:
        """Count a step."""
        self.steps += 1
        if self.plan.max_time is not None:
            # The host runs ahead of the device; two steps ahead is enough to keep it busy.
            self.marks.append(mark(self.plan.device))
            if len(self.marks) > 2:
                self.marks.pop(0).synchronize()
        now = time.perf_counter()
        # A running mean: a single slow step must not end the training early.
        step = now - self.last
        self.step_time = step if self.steps == 1 or not self.step_time else 0.8 * self.step_time + 0.2 * step
        self.last = now
        if self.bar is not None:
            self.undrawn = loss  # the last step is drawn at the end: no step knows that it is the last
            if now - self.shown > _REFRESH:
                self._draw(loss)

    def _draw(self, loss: Tensor) -> None:
        self.shown, self.undrawn = self.last, None
        if (
            not self.announced
            and self.steps >= _ANNOUNCED_STEPS
            and self.last - self.begun > _ANNOUNCED_AFTER
        ):
            self._announce()
        text = f"{self._speed():,.0f} images/s"
        if self.plan.max_time is None:
            done = self.plan.max_epochs * self.steps / self.n_steps
            text += f", {in_words((self.n_steps - self.steps) * self.step_time)} left"
        else:
            done = self.last - self.started
        chance = "" if self.chance_level is None else f" (chance {self.chance_level:.3f})"
        self.bar.set_postfix_str(f"{text}, loss {loss.item():.3f}{chance}", refresh=False)
        self.bar.update(min(done, self.bar.total) - self.bar.n)
        self.bar.refresh()

    def _speed(self) -> float:
        return self.size / self.step_time if self.step_time > 0 else 0.0

    def _announce(self) -> None:
        """Say in a line how long the training will take, or how far it will come."""
        self.announced = True
        plan, n = self.plan, f"{self.n_images:,} images"
        if plan.max_time is None:
            what = f"{in_words(self.n_steps * self.step_time)} for {plan.max_epochs:,} epochs of {n}"
        else:
            epochs = self._speed() * max(0.0, plan.max_time - self.setup) / self.n_images
            what = f"{epochs:,.{0 if epochs >= 10 else 1}f} epochs of {n} in max_time={plan.max_time:g} s"
        self.bar.write(f"{self.title}: about {self._speed():,.0f} images/s: {what}", file=sys.stderr)
