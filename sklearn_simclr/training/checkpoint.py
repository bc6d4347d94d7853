"""The state of a training on disk: one file, replaced as a whole, and used by the same training only."""

import contextlib
import os
import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch

from .._utils import container
from .._utils.atomic_write import remove_unfinished
from .._utils.lock import Lock
from .._utils.places import local_folder
from .._utils.ranks import current
from .._utils.warn import shortened

__all__ = ["Checkpoint"]

_FILE = "training.safetensors"
_LOCK = "training.lock"
_KIND = "checkpoint"
_ADVICE = "Pass another checkpoint_dir, or remove the file to start anew."

# What a user calls the parts of a training.
_NAMES = {
    "images": "images or pixel_range",
    "initial weights": "the weights that the training begins with",
    "loss": "loss or temperature",
    "loop_seed": "random_state",
    "modules": "the architecture of the networks",
    "objective": "the class of the objective",
    "schedule": "warmup",
    "seed": "random_state",
    "validation": "early_stopping",
    "weights": "class_weight or sample_weight",
}

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
    parts : dict of str to str
        Stand for the images and the parameters; a checkpoint with others is refused, unless it is one of a
        shorter training.

    Raises
    ------
    ValueError
        If the folder holds the checkpoint of another training, a damaged one, or is in use.
    OSError
        If the folder cannot be made or written to, or the disk is full. The older checkpoint stays.
    """

    def __init__(self, folder: str | os.PathLike, parts: Mapping[str, str]) -> None:
        self.folder = local_folder(folder, "checkpoint_dir")
        self.parts = dict(parts)
        self.lock = Lock(self.folder / _LOCK, "keeps its training there", wait=False)
        self.written = time.perf_counter()
        self.cost = 0.0
        # Whether the file held a shorter training of the same kind.
        self.extended = False

    def __enter__(self) -> Self:
        current().first(self._open)
        return self

    def _open(self) -> None:
        """Lock the folder; the first of several ranks does so for all."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            remove_unfinished(self.folder)
        except TimeoutError as error:
            raise ValueError(
                f"checkpoint_dir={str(self.folder)!r} is in use by another fit: {error} Wait until that fit "
                "has ended, or pass each fit a folder of its own."
            ) from None
        except OSError as error:
            raise self._unusable(error) from error

    def __exit__(self, *exception: object) -> None:
        self.lock.release()

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved, or None.

        Returns
        -------
        dict or None
            As given to `save`, tensors on the CPU. The same on all ranks.
        """
        state, self.extended = current().first(self._load)
        return state

    def _load(self) -> tuple[dict[str, Any] | None, bool]:
        path = self.folder / _FILE
        if not path.exists():
            return None, False
        try:
            tensors, meta = container.read(path, _KIND, advice=_ADVICE)
        except OSError as error:
            raise self._unusable(error) from error
        with self.refusing():
            parts = dict(meta["parts"])
            if not all(isinstance(part, str) for part in parts.values()):
                raise TypeError("its parts are not texts")
            state = _unflatten(meta["state"], tensors)
        extended = _is_shorter(parts, self.parts)
        if parts != self.parts and not extended:
            raise ValueError(
                f"{str(path)!r} holds the training of other images or of other parameters, from which this "
                f"fit cannot go on: {_differences(parts, self.parts)}. {_ADVICE}"
            )
        return state, extended

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn what a damaged state raises into an error that names the file and says what to do.

        Raises
        ------
        ValueError
            If what is done with the state in the context fails.
        """
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(".") or type(error).__name__
            raise ValueError(
                f"{str(self.folder / _FILE)!r} is no valid checkpoint: {reason}. {_ADVICE}"
            ) from error

    def due(self) -> bool:
        """Return whether it is time for a checkpoint within an epoch."""
        return time.perf_counter() - self.written > max(_INTERVAL, self.cost / _SHARE)

    def save(self, state: dict[str, Any], last: bool = False) -> None:
        """Write the state, unless the last one is so recent that writing would slow the training down.

        Parameters
        ----------
        state : dict
            Holds tensors, numbers, strings, None, and dicts, lists and tuples of these.
        last : bool, default=False
            Whether it is written in any case.
        """
        started = time.perf_counter()
        if not last and started - self.written < self.cost / _SHARE:
            return
        tensors: dict[str, torch.Tensor] = {}
        flat = _flatten(state, tensors)
        try:
            container.write(self.folder / _FILE, _KIND, tensors, {"parts": self.parts, "state": flat})
        except OSError as error:
            raise self._unusable(error) from error
        self.written = time.perf_counter()
        self.cost = self.written - started

    def _unusable(self, error: Exception) -> OSError:
        reason = getattr(error, "strerror", None) or str(error)
        return OSError(
            getattr(error, "errno", None),
            f"checkpoint_dir={str(self.folder)!r} cannot be used: {reason}. Pass a folder that can be "
            "written to, on a disk with free space; a checkpoint that was written before is still whole",
        )


def _is_shorter(there: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Return whether the second of two trainings is longer and otherwise equal."""
    names = [name for name in there.keys() | here.keys() if there.get(name) != here.get(name)]
    if names not in (["max_epochs"], ["max_time"]):
        return False
    try:
        return float(there[names[0]]) < float(here[names[0]])
    except (KeyError, ValueError):  # max_time=None, or a file that somebody wrote
        return False


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return which parts of two trainings differ, with advice on some of them."""
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    pairs = {name: (there.get(name), here.get(name)) for name in names}
    texts = {}
    for name, (one, other) in pairs.items():
        # A digest would tell the reader nothing.
        is_digest = any(len(part or "") == 40 for part in (one, other))
        shown = "" if is_digest else f" ({shortened(str(one))} in the file, {other} here)"
        texts[_NAMES.get(name, name)] = f"{_NAMES.get(name, name)}{shown}"
    more = ""
    if "random_state" in texts:
        more = ". A RandomState gives every fit another seed: pass an int"
    if names in (["max_epochs"], ["max_time"]) and "None" not in pairs[names[0]]:
        more = ". A longer training goes on from the file, a shorter one cannot"
    return shortened(", ".join(texts.values())) + more


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return what json can write, and put the tensors aside."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_flatten(item, tensors) for item in value]}
    if isinstance(value, list):
        return {"list": [_flatten(item, tensors) for item in value]}
    return value


def _unflatten(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
