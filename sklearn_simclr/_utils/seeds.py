"""Seeds of a fit, and torch's global generators, seeded for its time only."""

import contextlib
import numbers
import threading
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.utils import check_random_state

from .types import RandomState

__all__ = ["draw_seed", "isolated_generators"]

_GENERATORS = threading.RLock()


def draw_seed(random_state: RandomState) -> int:
    """Return the seed of one fit.

    Parameters
    ----------
    random_state : None, int or numpy.random.RandomState
        None takes fresh entropy from the system, numpy's global generator is left alone; a
        RandomState is advanced.

    Returns
    -------
    int
        In [0, 2**31).
    """
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


@contextlib.contextmanager
def isolated_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and put them back as they were at the end.

    Threads that fit at the same time take turns: they share these generators.

    Parameters
    ----------
    seed : int
        For what draws from them: initial weights, dropout.
    device : torch.device
        Whose generator is used beside the CPU's.
    """
    cuda = device.type == "cuda"
    with _GENERATORS, torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
