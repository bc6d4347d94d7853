"""The course of the training that an encoder comes from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Course", "course_of", "steps_of"]


class Course(NamedTuple):
    """The course of a training.

    Parameters
    ----------
    epochs, steps : int
        How long it was; 0 where nothing was trained.
    start, end : float
        Loss before the first epoch and in the last one.
    last_fall : float
        By how much the loss fell in the last epoch.
    moved : float
        Range of the loss, as a part of its first value.
    ended_high : bool
        Whether the loss ended above that of an encoder that tells nothing apart.
    by_labels : bool
        Whether the encoder was trained on labels.
    """

    epochs: int
    steps: int
    start: float
    end: float
    last_fall: float
    moved: float
    ended_high: bool
    by_labels: bool


def course_of(history: pd.DataFrame | None, chance: float, *, steps: int, by_labels: bool) -> Course:
    """Return the course of a training as its history tells it.

    Parameters
    ----------
    history : DataFrame or None
        One row per epoch; None where nothing was trained.
    chance : float
        Loss of an encoder that tells nothing apart.
    steps : int
        Steps of the training.
    by_labels : bool
        Whether the encoder was trained on labels.

    Returns
    -------
    Course
        Its course.
    """
    if history is None:
        return Course(0, steps, chance, chance, 0.0, 0.0, ended_high=False, by_labels=by_labels)
    losses = history["loss"].to_numpy(dtype=float)
    level = history["chance_level"].iloc[-1] if "chance_level" in history else math.nan
    return Course(
        epochs=len(history),
        steps=steps,
        start=float(level) if level > losses.min() else float(losses[0]),
        end=float(losses[-1]),
        last_fall=float(losses[-2] - losses[-1]) if len(losses) > 1 else 0.0,
        moved=float(np.ptp(losses) / max(abs(losses[0]), 1e-12)),
        ended_high=bool(level > 0 and losses[-3:].min() > 1.02 * level),
        by_labels=by_labels,
    )


def steps_of(step: Any) -> int:
    """Return about how many steps an estimator was trained for.

    Parameters
    ----------
    step : estimator
        Fitted.

    Returns
    -------
    int
        At least its epochs.
    """
    history = getattr(step, "history_", None)
    if history is None or not len(history):
        return 0
    if hasattr(step, "n_tuples_"):
        return len(history) * math.ceil(step.n_tuples_ / step.batch_size)
    if "images_per_second" not in history:
        return len(history)
    seen = float((history["images_per_second"] * history["seconds"]).sum())
    return max(round(seen / step.batch_size), len(history))
