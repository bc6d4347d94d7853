"""Measure the time of a step before the first one, and fit a training into the time that is left."""

from collections.abc import Callable
from typing import NamedTuple

from sklearn.exceptions import ConvergenceWarning

from .._utils.progress import in_words
from .._utils.warn import warn
from .plan import Plan

__all__ = ["Pace", "fit_into_time", "measure_pace"]

# Images of the first trial, and how many times as many each further one has.
_FIRST_TRIAL = 2
_GROWTH = 4

# A trial may take this part of the time that is left. As long as few steps seem to fit, trials of few images
# may take more, and this many seconds in any case: they say little where most time goes by for any number.
_SHARE = 0.005
_SHARE_IN_DOUBT = 0.1
_SECONDS_IN_DOUBT = 0.3

# A first trial that took longer is not repeated if no time is left for that.
_SECONDS_OF_A_COLD_TRIAL = 3.0

# Each further image takes at least this part of what an image takes on average.
_LEAST_SLOPE = 0.1

# The batch is halved, not below this many images, until so many steps fit into the time.
_SMALLEST_BATCH = 32
_WANTED_STEPS = 20

# With fewer steps next to nothing is learnt, with fewer than the least nothing at all; so many do well.
_FEW_STEPS = 50
_LEAST_STEPS = 3
_GOOD_STEPS = 300


class Pace(NamedTuple):
    """Seconds that steps take.

    Parameters
    ----------
    image : float
        Seconds for each image.
    update : float
        Seconds for each step, however many images it has: those of the optimizer, above all.
    """

    image: float
    update: float

    def step(self, size: int) -> float:
        """Return the seconds of a step on so many images."""
        return self.image * size + self.update


def measure_pace(
    try_step: Callable[[int], tuple[float, float]], size: int, seconds: float, least: int | None = None
) -> Pace:
    """Measure how long steps take, by a few small ones.

    Parameters
    ----------
    try_step : callable
        Takes the number of images, and returns the seconds of forward and backward and those of the
        optimizer. It may raise for fewer images than `size`: some losses want more.
    size : int
        Images of a batch.
    seconds : float
        How much time is left for the training. The trials take a small part of it, unless a few images
        take a large one.
    least : int or None, default=None
        Images of the first trial, which may then not fail; None begins with a few.

    Returns
    -------
    Pace
        The pace of the largest trials.
    """
    pace, before, n = Pace(0.0, 0.0), (0, 0.0), min(size, least or _FIRST_TRIAL)
    repeated = False
    while True:
        try:
            gradient, update = try_step(n)
        except Exception:
            if n == size or least:
                raise
            n = min(size, _GROWTH * n)
            continue
        seconds -= gradient + update
        # The time that all sizes have in common is not that of the images; one size cannot tell them apart.
        slope = (gradient - before[1]) / (n - before[0]) if n > before[0] > 0 else gradient / n
        slope = min(max(slope, _LEAST_SLOPE * gradient / n), gradient / n)
        pace = Pace(slope, update + gradient - slope * n)
        if not repeated:
            # The first trial also pays for work that is done only once. Another trial of its size says more,
            # even if no time is left, since the message says how long a step takes.
            if pace.step(n) > max(seconds, _SECONDS_OF_A_COLD_TRIAL):
                return pace
            repeated = True
            continue
        allowed = _SHARE * seconds
        if n < _SMALLEST_BATCH and seconds < _FEW_STEPS * pace.step(size):
            allowed = max(_SHARE_IN_DOUBT * seconds, _SECONDS_IN_DOUBT)
        larger = min(size, _GROWTH * n)
        if n == size or pace.step(larger) > allowed:
            return pace
        before, n = (n, gradient), larger


def fit_into_time(plan: Plan, n_images: int, pace: Pace, seconds: float, smaller: str) -> Plan:
    """Return a plan of which enough steps fit into the time that is left.

    Where few steps of its batch fit, the batch becomes smaller.

    Parameters
    ----------
    plan : Plan
        With `max_time`.
    n_images : int
        How many images there are.
    pace : Pace
        How long steps take.
    seconds : float
        How much of `max_time` is left.
    smaller : str
        Advice on what to pass so that a step takes less time.

    Returns
    -------
    Plan
        The plan itself, or one with a smaller batch. A ConvergenceWarning says so, and says so where the
        training will be too short to learn much.

    Raises
    ------
    ValueError
        If hardly a step of the smallest batch fits.
    """
    size = asked = min(plan.batch_size, n_images)
    while size // 2 >= _SMALLEST_BATCH and seconds < _WANTED_STEPS * pace.step(size):
        size //= 2
    steps = int(max(0.0, seconds) / pace.step(size))
    if steps >= _FEW_STEPS:
        return plan
    given = f"max_time={plan.max_time:g}"
    spent = plan.max_time - seconds if plan.max_time is not None else 0.0
    wanted = _rounded_up(spent + _GOOD_STEPS * pace.step(asked))
    advice = f"Pass max_time={wanted:.0f} or more, {smaller}."
    if steps < _LEAST_STEPS:
        raise ValueError(
            f"{given} is too short for a training: reading and setting up took {in_words(spent)} of it, and "
            f"a step of {size} images takes about {in_words(pace.step(size))}. {advice}"
        )
    epochs = steps * size / n_images
    found = (
        f"{given} is enough for about {steps} steps of {size} images ({epochs:.2g} epochs of {n_images:,} "
        "images): too few to learn much."
    )
    if size < asked:
        long = in_words(pace.step(asked))
        found += f" A step of {asked} images would take {long}, so batch_size is {size} instead."
    warn(f"{found} {advice}", ConvergenceWarning)
    return plan if size == asked else plan.resized(size)


def _rounded_up(seconds: float) -> float:
    """Return a time of one digit that is not shorter."""
    digit = 10 ** (len(str(int(seconds))) - 1)
    return -(-seconds // digit) * digit
