"""Train once: a key for images and parameters, results on disk, and processes that wait for each other."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from filelock import FileLock
from joblib import Memory

__all__ = ["content_key", "train_once"]

_FOLDER = f"sklearn_simclr-{os.getuid() if hasattr(os, 'getuid') else 'user'}-"

# For how long a worker's result is there for the others.
_KEPT_SECONDS = 10.0


def content_key(source, description):
    """Return a key that is equal for equal images and parameters only.

    Parameters
    ----------
    source : ImageSource
        On the CPU.
    description : dict
        Whatever else the result depends on; arrays, numbers, strings and containers of them.

    Returns
    -------
    str
        40 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=20)
    digest.update(json.dumps(description, sort_keys=True, default=_describe).encode())
    pixels = source.pixels
    digest.update(repr((tuple(pixels.shape), str(pixels.dtype))).encode())
    for start in range(0, len(pixels), 4096):
        block = pixels[start : start + 4096].numpy()
        digest.update(np.ascontiguousarray(block).data)
        source.seen(len(block))
    return digest.hexdigest()


def _describe(value):
    """Return what json cannot write by itself: arrays by their content, the rest by their text."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.blake2b(np.ascontiguousarray(value).data).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    return repr(value)


def train_once(key, train, memory):
    """Return ``train()``, or what it returned before, or what another worker is about to return.

    A grid search in parallel soon has two workers that want the same encoder at the same time: a cache
    that is filled at the end of the training would not keep the second from training it again.

    Parameters
    ----------
    key : callable
        Takes nothing; returns the key of the images and parameters. Called only if there is use for it.
    train : callable
        Takes nothing; returns {"arrays": dict of arrays, "meta": what json can write}.
    memory : joblib.Memory
        Where results are kept; one without a location keeps none.

    Returns
    -------
    dict
        The result.
    """
    location = getattr(memory, "location", None)
    if location is not None:
        key = key()
        folder = Path(location) / "sklearn_simclr-locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            return memory.cache(_train, ignore=["train"])(key, train)
    if not isinstance(memory, Memory):
        return memory.cache(_train, ignore=["train"])(key(), train)
    owner = _owner()
    _remove_abandoned_folders()
    if owner is None:
        return train()
    folder = Path(tempfile.gettempdir()) / f"{_FOLDER}{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        return train()
    return _hand_over(folder, key(), train)


def _train(key, train):
    return train()


def _owner():
    """Return the process that workers work for, or None outside of workers."""
    if multiprocessing.current_process().name != "MainProcess":
        return os.getppid()
    return None if threading.current_thread() is threading.main_thread() else os.getpid()


def _hand_over(folder, key, train):
    """Train, unless another worker has just done so, and leave the result for those who wait for it.

    It is also left for those who come a moment too late: a Pipeline with a cache looks there first, and
    the other worker may not have written it yet.
    """
    result_file = folder / f"{key}.npz"
    with FileLock(folder / f"{key}.lock"):
        if result_file.exists() and time.time() - result_file.stat().st_mtime < _KEPT_SECONDS:
            return _load(result_file)
        result = train()
        with contextlib.suppress(OSError):  # a full disk must not lose the training
            _save(result_file, result)
    for other in folder.glob("*.npz"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _KEPT_SECONDS:
                other.unlink()
    return result


def _remove_abandoned_folders():
    """Remove what workers left: those of processes that are gone, and of this one when it fits by itself."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER)
        if owner.isdigit() and (int(owner) == os.getpid() and _owner() is None or not _is_alive(int(owner))):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process):
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _save(path, result):
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(file, meta=json.dumps(result["meta"]), **result["arrays"])
    partial.replace(path)


def _load(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return {"meta": json.loads(str(arrays.pop("meta"))), "arrays": arrays}
