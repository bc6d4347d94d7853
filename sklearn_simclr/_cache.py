"""Train once: a key for images and parameters, results on disk, and processes that wait for each other."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from joblib import Memory

__all__ = ["content_key", "train_once"]


def content_key(pixels, description):
    """Return a key that is equal for equal images and parameters only.

    Parameters
    ----------
    pixels : tensor of shape (n, ...)
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
    digest.update(repr((tuple(pixels.shape), str(pixels.dtype))).encode())
    for start in range(0, len(pixels), 4096):
        digest.update(np.ascontiguousarray(pixels[start : start + 4096].numpy()).data)
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
    if owner is None:
        return train()
    folder = Path(tempfile.gettempdir()) / f"sklearn_simclr-{_user()}-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        return train()
    try:
        return _hand_over(folder, key(), train)
    finally:
        with contextlib.suppress(OSError):  # not empty: other workers still use it
            folder.rmdir()


def _train(key, train):
    return train()


def _owner():
    """Return the process that workers work for, or None outside of workers."""
    if multiprocessing.current_process().name != "MainProcess":
        return os.getppid()
    return None if threading.current_thread() is threading.main_thread() else os.getpid()


def _user():
    return os.getuid() if hasattr(os, "getuid") else "user"


def _hand_over(folder, key, train):
    """Train, and leave the result to those who came meanwhile; or wait for it as one of them."""
    result_file, lock_file = folder / f"{key}.npz", folder / f"{key}.lock"
    marker = folder / f"{key}.waits-{os.getpid()}-{threading.get_ident()}"
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        marker.touch()
        lock.acquire()
    try:
        marker.unlink(missing_ok=True)
        result = _load(result_file) if result_file.exists() else train()
        if _others_wait(folder, key):
            _save(result_file, result)
        else:
            result_file.unlink(missing_ok=True)
            lock_file.unlink(missing_ok=True)
        return result
    finally:
        marker.unlink(missing_ok=True)
        lock.release()


def _save(path, result):
    if not path.exists():
        with open(path, "wb") as file:
            np.savez(file, meta=json.dumps(result["meta"]), **result["arrays"])


def _load(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return {"meta": json.loads(str(arrays.pop("meta"))), "arrays": arrays}


def _others_wait(folder, key):
    return any(folder.glob(f"{key}.waits-*"))
