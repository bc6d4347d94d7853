"""Train once: trained weights on disk under a key, and processes that wait for each other."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from sklearn.utils.validation import check_memory
from torch import nn

from .._utils import container
from .objective import History

__all__ = ["train_once"]

_KIND = "training"


def train_once(key: Callable[[], str], run: Callable[[], History], modules: nn.Module, cache: Any) -> History:
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
        What is trained; they take the weights of an earlier training.
    cache : str, joblib.Memory or None
        Where results are kept; None, or a memory without a location, keeps none.

    Returns
    -------
    History
        Of this training, or of the earlier one.

    Raises
    ------
    ValueError
        If a file of the cache is damaged; the message names it.
    """
    if not isinstance(cache, str | os.PathLike):
        cache = getattr(check_memory(cache), "location", None)
    if cache is None:
        return run()
    folder = Path(cache) / "sklearn_simclr"
    name = key()
    path = folder / f"{name}.safetensors"
    # Files are replaced as a whole: one that is there can be read without the lock, and from a disk that
    # cannot be written to.
    if path.exists():
        return _read(path, modules)
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise OSError(
            error.errno,
            f"memory={str(cache)!r} cannot be used: {error.strerror or error}. Pass a folder that can be "
            "written to, or None",
        ) from error
    try:
        if path.exists():
            return _read(path, modules)
        history = run()
        container.write(path, _KIND, modules.state_dict(), history.rows)
        return history
    finally:
        lock.release()


def _read(path: Path, modules: nn.Module) -> History:
    """Give modules the weights of a file, and return the history in it."""
    arrays, rows = container.read(path, _KIND, advice="Remove it, and fit trains anew.")
    _take(modules.cpu(), arrays)
    return History(rows)


@torch.no_grad()
def _take(module: nn.Module, arrays: dict[str, torch.Tensor]) -> None:
    """Give a module its whole state."""
    own = module.state_dict()
    if own.keys() != arrays.keys():
        raise ValueError(f"The state is of another network: {sorted(own.keys() ^ arrays.keys())[:5]}.")
    for name, tensor in own.items():
        tensor.copy_(arrays[name])
