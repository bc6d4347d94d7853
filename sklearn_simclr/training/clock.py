"""How far a training is, by its steps or by the time, and the progress bar that shows it."""

import time
from typing import Any, Self

import torch
from torch import Tensor

from .plan import Plan

__all__ = ["Clock"]

# Seconds between two updates of the progress bar; reading the loss waits for the device.
_REFRESH = 0.5


class Clock:
    """How far the training is, by steps or by the time; draws the progress bar.

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
    """

    def __init__(self, plan: Plan, n_images: int, title: str, chance_level: float | None = None) -> None:
        size = min(plan.batch_size, n_images)
        self.n_steps = plan.max_epochs * (-(-n_images // size) if plan.keep_last else n_images // size)
        self.deadline = None if plan.max_time is None else (plan.started, plan.started + plan.max_time)
        self.size = size
        self.chance_level = chance_level
        self.title = title
        self.steps = 0
        self.step_time = 0.0
        self.verbose = plan.verbose
        self.cuda = plan.device.type == "cuda"
        self.events: list[torch.cuda.Event] = []
        self.started = time.perf_counter() if self.deadline is None else self.deadline[0]

    def __enter__(self) -> Self:
        self.last = self.shown = time.perf_counter()
        self.undrawn: Tensor | None = None
        self.bar: Any = None  # tqdm's has no types
        if self.verbose:
            from tqdm.auto import tqdm

            total: float
            if self.deadline is None:
                total, unit = self.n_steps * self.size, "image"
                layout = None
            else:
                total, unit = round(self.deadline[1] - self.deadline[0], 1), "s"
                digits = 1 if total < 10 else 0
                layout = f"{{l_bar}}{{bar}}| {{n:.{digits}f}}/{{total:.{digits}f}} s{{postfix}}"
            self.bar = tqdm(total=total, unit=unit, desc=self.title, bar_format=layout, mininterval=0.0)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            if self.undrawn is not None and exception[0] is None:
                self._draw(self.undrawn)
            self.bar.close()

    def resume(self, steps: int, elapsed: float) -> None:
        """Go on where another training was after some steps and seconds."""
        self.steps = steps
        ahead = elapsed - self.elapsed()
        self.started -= ahead
        if self.deadline is not None:
            self.deadline = (self.deadline[0] - ahead, self.deadline[1] - ahead)

    def elapsed(self) -> float:
        """Return the seconds since the training began."""
        return time.perf_counter() - self.started

    def fraction(self) -> float:
        """Return the part of the training that is done, in [0, 1]."""
        if self.deadline is None:
            return (self.steps + 0.5) / self.n_steps  # the middle of a step: a lone one is not at rate 0
        start, end = self.deadline
        return min(1.0, (time.perf_counter() - start) / (end - start))

    def over(self) -> bool:
        """Return whether there is no time for another step."""
        if self.deadline is None:
            return self.steps >= self.n_steps
        return self.steps > 0 and time.perf_counter() + self.step_time / 2 > self.deadline[1]

    def tick(self, loss: Tensor) -> None:
        """Count a step."""
        self.steps += 1
        if self.deadline is not None and self.cuda:
            # The host runs ahead of the device; two steps ahead is enough to keep it busy.
            self.events.append(torch.cuda.Event())
            self.events[-1].record()
            if len(self.events) > 2:
                self.events.pop(0).synchronize()
        now = time.perf_counter()
        # A running mean: a single slow step must not end the training early.
        step = now - self.last
        self.step_time = step if self.step_time == 0.0 else 0.8 * self.step_time + 0.2 * step
        self.last = now
        if self.bar is not None:
            self.undrawn = loss  # the last step is drawn at the end, since none knows that it is the last
            if now - self.shown > _REFRESH:
                self._draw(loss)

    def _draw(self, loss: Tensor) -> None:
        self.shown, self.undrawn = self.last, None
        done = self.steps * self.size if self.deadline is None else round(self.last - self.deadline[0], 1)
        rate = self.size / self.step_time if self.step_time > 0 else 0.0
        chance = "" if self.chance_level is None else f" (chance {self.chance_level:.3f})"
        self.bar.set_postfix_str(f"{rate:.0f} images/s, loss {loss.item():.3f}{chance}", refresh=False)
        self.bar.update(min(done, self.bar.total) - self.bar.n)
        self.bar.refresh()
