"""Seeds of a fit, and global generators, seeded for its time only."""

import contextlib
import numbers
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.utils import check_random_state

from .devices import generator_states, seed_device, set_generator_states
from .forks import in_each_process
from .ranks import current
from .types import RandomState

__all__ = [
    "draw_seed",
    "isolated_generators",
    "isolated_global_generators",
    "seed_global_generators",
    "unchanged_generators",
]


_GENERATORS: contextlib.AbstractContextManager


@in_each_process
def _new_lock() -> None:
    global _GENERATORS
    _GENERATORS = threading.RLock()


def draw_seed(random_state: RandomState) -> int:
    """Return the seed of one fit.

    Parameters
    ----------
    random_state : None, int or numpy.random.RandomState
        None takes fresh entropy from the system and leaves numpy's global generator alone; a RandomState is
        advanced. With None, all ranks that train together get the same seed.

    Returns
    -------
    int
        In [0, 2**31).
    """
    if random_state is None:
        return current().broadcast(int(np.random.default_rng().integers(2**31)))
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
        Seed of the generators, from which initial weights and dropout are drawn.
    device : torch.device
        Device whose generator is used in addition to the CPU's.
    """
    with _GENERATORS, unchanged_generators(device):
        seed_device(seed, device)
        yield


@contextlib.contextmanager
def unchanged_generators(device: torch.device) -> Iterator[None]:
    """Put torch's global generators back as they were at the end.

    Parameters
    ----------
    device : torch.device
        Device whose generator is used in addition to the CPU's.
    """
    states = generator_states(device)
    try:
        yield
    finally:
        set_generator_states(states, device)


@contextlib.contextmanager
def isolated_global_generators(device: torch.device) -> Iterator[None]:
    """Put the global generators of torch, NumPy and Python back as they were at the end.

    Parameters
    ----------
    device : torch.device
        Device whose generator is put back in addition to the CPU's.
    """
    with isolated_generators(0, device):
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 (transforms draw from it)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002 (as above)


def seed_global_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of torch, NumPy and Python.

    Parameters
    ----------
    seed : int
        In [0, 2**31).
    device : torch.device or None, default=None
        Device whose generator is seeded in addition to the CPU's.
    """
    seed_device(seed, torch.device("cpu") if device is None else device)
    np.random.seed(seed)  # noqa: NPY002 (transforms draw from it)
    random.seed(seed)
