"""Train once: trained weights on disk under a key, and processes that wait for each other."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from sklearn.utils.validation import check_memory
from torch import nn

from .._utils import container
from .._utils.lock import Lock
from .._utils.places import local_folder
from .._utils.ranks import current
from .._utils.warn import shortened, warn
from ..encoders.description import not_finite
from .objective import History

__all__ = ["train_once"]

_KIND = "training"

# Seconds after which a process that waits for another one's training looks again.
_WAIT = 60.0


def train_once(
    key: Callable[[], str],
    run: Callable[[], History],
    modules: nn.Module,
    cache: Any,
    columns: Collection[str] = (),
) -> History:
    """Return what ``run()`` returns, or what it returned before for the same key.

    A grid search in parallel soon has two workers that want the same encoder at the same time: the second
    waits for the first.

    Parameters
    ----------
    key : callable
        Takes nothing; returns the key of the images and parameters. Called only if there is use for it.
    run : callable
        Takes nothing; trains the modules and returns a History.
    modules : torch.nn.Module
        Modules to train; they take the weights of an earlier training.
    cache : str, joblib.Memory or None
        Where results are kept; None, or a memory without a location, keeps none.
    columns : collection of str, default=()
        Names that every row of the history has.

    Returns
    -------
    History
        History of this training, or of the earlier one.

    Raises
    ------
    ValueError
        If a file of the cache is damaged; the message names it.
    """
    if not isinstance(cache, str | os.PathLike):
        cache = getattr(check_memory(cache), "location", None)
    if cache is None:
        return run()
    folder = local_folder(cache, "memory") / "sklearn_simclr"
    name = key()
    path = folder / f"{name}.safetensors"
    ranks = current()  # of several, the first one looks, locks, reads and writes
    # Files are replaced as a whole: one that is there can be read without the lock, and from a disk that
    # cannot be written to.
    if ranks.first(path.exists):
        return _read(path, modules, columns)
    lock = Lock(folder / f"{name}.lock", f"trains the same encoder for memory={str(cache)!r}")

    def acquire() -> bool | None:
        """Return whether the lock was to be had soon: ranks that wait for one must hear of it in time."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(_WAIT)
        except TimeoutError as error:
            # Two trainings for one cost time, not correctness: the file is replaced as a whole.
            warn(f"{error} This fit trains the encoder as well, without the lock.")
            return None

    try:
        while ranks.first(acquire) is False:
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"memory={str(cache)!r} cannot be used: {error.strerror or error}. Pass a folder that can be "
            "written to, or None",
        ) from error
    try:
        if ranks.first(path.exists):
            return _read(path, modules, columns)
        history = run()
        if history.repeatable:
            ranks.first(lambda: container.write(path, _KIND, modules.state_dict(), history.rows))
        return history
    finally:
        lock.release()


def _read(path: Path, modules: nn.Module, columns: Collection[str]) -> History:
    """Give modules the weights of a file, and return the history in it."""
    advice = "Remove the file, and fit trains anew."
    arrays, rows = current().first(lambda: container.read(path, _KIND, advice=advice))
    try:
        _take(modules.cpu(), arrays)
        if not all(row.keys() >= set(columns) for row in rows):
            raise ValueError("its history has other columns.")
        return History([{str(name): float(value) for name, value in row.items()} for row in rows])
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = shortened(str(error))
        raise ValueError(f"{str(path)!r} holds no training of these networks: {reason} {advice}") from None


@torch.no_grad()
def _take(module: nn.Module, arrays: dict[str, torch.Tensor]) -> None:
    """Give a module its whole state."""
    own = module.state_dict()
    if own.keys() != arrays.keys():
        raise ValueError(f"only one of the two networks has {sorted(own.keys() ^ arrays.keys())[:5]}.")
    odd = [name for name, tensor in own.items() if tensor.shape != arrays[name].shape]
    if odd or not_finite(arrays):
        raise ValueError(f"{odd[0] if odd else not_finite(arrays)!r} is of another shape or not finite.")
    for name, tensor in own.items():
        tensor.copy_(arrays[name])
