"""Identify a training: a key that is equal for equal images, objectives and plans only."""

import hashlib
import inspect
import json
from functools import partial
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..images.source import ImageSource

__all__ = ["content_key", "describe"]


def content_key(images: ImageSource, description: Any) -> str:
    """Return a key that is equal for equal images and descriptions only.

    Parameters
    ----------
    images : ImageSource
        On the CPU.
    description : object
        Whatever else the result depends on, as `describe` takes it.

    Returns
    -------
    str
        40 hexadecimal digits.
    """
    known = {"version": __version__, "images": images.content(), "of": describe(description)}
    return hashlib.blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=20).hexdigest()


def describe(value: Any) -> Any:
    """Return what json can write of a value, equal for equal values in any process.

    Parameters
    ----------
    value : object
        Numbers, strings, arrays, tensors, functions, classes, modules, and containers of them. What is none
        of these stands for itself by its ``repr``.

    Returns
    -------
    object
        Arrays and tensors are there as a digest of their content.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        value = value.numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=20).hexdigest()
        return ["array", str(value.dtype), list(value.shape), digest]
    if isinstance(value, ImageSource):
        return ["images", value.content()]
    if isinstance(value, dict):
        return ["dict", sorted([str(key), describe(item)] for key, item in value.items())]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(describe(item) for item in value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(map(str, value))]
    if isinstance(value, partial):
        return ["partial", describe(value.func), describe(value.args), describe(value.keywords)]
    if inspect.isclass(value):
        return ["class", f"{value.__module__}.{value.__qualname__}"]
    if callable(value) and hasattr(value, "__qualname__"):
        name = f"{getattr(value, '__module__', '')}.{value.__qualname__}"
        code = getattr(value, "__code__", None)
        if code is None:
            return ["function", name]
        return ["function", name, code.co_code.hex(), list(code.co_names), repr(code.co_consts)]
    return repr(value)
