"""The state of a training on disk: one file, replaced as a whole, and used by the same training only."""

import contextlib
import json
import os
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

__all__ = ["Checkpoint"]

_FILE = "training.safetensors"
_PARTIAL = "training.partial"
_LOCK = "training.lock"
_FORMAT = "1"

# Seconds between two checkpoints within an epoch.
_INTERVAL = 60.0

# Writing takes at most about this part of the time of a training.
_SHARE = 0.05


class Checkpoint:
    """A folder that keeps the state of one training.

    Used as a context: while one training has the folder, no other gets it.

    Parameters
    ----------
    folder : str or os.PathLike
        Made if it is not there.
    key : str
        Stands for the images and the parameters; a checkpoint with another is refused.

    Raises
    ------
    ValueError
        If the folder holds the checkpoint of another training, a damaged one, or is in use.
    OSError
        If the folder cannot be made or written to, or the disk is full. The older checkpoint stays.
    """

    def __init__(self, folder, key):
        self.folder = Path(folder)
        self.key = key
        self.written = time.perf_counter()
        self.cost = 0.0

    def __enter__(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / _PARTIAL, "wb"):
                pass
            (self.folder / _PARTIAL).unlink(missing_ok=True)
            self.lock = FileLock(self.folder / _LOCK)
            self.lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"checkpoint_dir={str(self.folder)!r} is in use by another fit. Wait for it to end, or give "
                "every fit a folder of its own."
            ) from None
        except OSError as error:
            raise self._unusable(error) from error
        return self

    def __exit__(self, *exception):
        self.lock.release()

    def load(self):
        """Return the state that was saved, or None.

        Returns
        -------
        dict or None
            As given to `save`, tensors on the CPU.
        """
        from safetensors import SafetensorError, safe_open

        path = self.folder / _FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                self._check(meta)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
            return _unflatten(json.loads(meta["state"]), tensors)
        except (SafetensorError, json.JSONDecodeError, KeyError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged or is no checkpoint: {error}. Remove it, or pass another "
                "checkpoint_dir."
            ) from error
        except OSError as error:
            raise self._unusable(error) from error

    def _check(self, meta):
        advice = "Pass another checkpoint_dir, or remove the file to start anew."
        path = str(self.folder / _FILE)
        if meta.get("format") != _FORMAT:
            raise ValueError(f"{path!r} was not written by this version's fit. {advice}")
        if meta.get("key") != self.key:
            raise ValueError(
                f"{path!r} holds the training of other images or of other parameters, from which this fit "
                f"cannot go on. {advice}"
            )

    def due(self):
        """Return whether it is time for a checkpoint within an epoch."""
        return time.perf_counter() - self.written > max(_INTERVAL, self.cost / _SHARE)

    def save(self, state, last=False):
        """Write the state, unless the last one is so recent that writing would slow the training down.

        Parameters
        ----------
        state : dict
            Of tensors, numbers, strings, None and of dicts, lists and tuples of them.
        last : bool, default=False
            Whether it is written in any case.
        """
        from safetensors.torch import save_file

        started = time.perf_counter()
        if not last and started - self.written < self.cost / _SHARE:
            return
        tensors = {}
        text = json.dumps(_flatten(state, tensors))
        partial = self.folder / _PARTIAL
        try:
            save_file(tensors, partial, {"format": _FORMAT, "key": self.key, "state": text})
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            partial.replace(self.folder / _FILE)
        except Exception as error:  # safetensors has an error of its own for a full disk
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise self._unusable(error) from error
        self.written = time.perf_counter()
        self.cost = self.written - started

    def _unusable(self, error):
        reason = getattr(error, "strerror", None) or str(error)
        return OSError(
            getattr(error, "errno", None),
            f"checkpoint_dir={str(self.folder)!r} cannot be used: {reason}. Pass a folder that can be "
            "written to, on a disk with free space; a checkpoint that was written before is still whole",
        )


def _flatten(value, tensors):
    """Return what json can write, and put the tensors aside."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_flatten(item, tensors) for item in value]}
    if isinstance(value, list):
        return {"list": [_flatten(item, tensors) for item in value]}
    return value


def _unflatten(value, tensors):
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
