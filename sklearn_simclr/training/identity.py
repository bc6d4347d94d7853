"""Identify a training: a key that is equal for equal images, objectives and plans only."""

import hashlib
import inspect
import json
import random
from functools import partial
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import nn

from .._version import __version__
from ..images.source import ImageSource
from ..views.external import ExternalViews

__all__ = ["architecture", "content_key", "content_of", "describe"]

# Whose code changes with their version only.
_LIBRARIES = ("builtins", "sklearn_simclr", "sklearn", "skorch", "torch", "torchvision", "typing", "abc")


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
    return content_of({"version": __version__, "images": images.content(), "of": describe(description)})


def content_of(value: Any) -> str:
    """Return a digest of a value.

    Parameters
    ----------
    value : object
        As `describe` takes it.

    Returns
    -------
    str
        40 hexadecimal digits.
    """
    return hashlib.blake2b(json.dumps(describe(value), sort_keys=True).encode(), digest_size=20).hexdigest()


def describe(value: Any, within: tuple[int, ...] = ()) -> Any:
    """Return what json can write of a value: equal for equal content, in any process.

    Parameters
    ----------
    value : object
        Numbers, strings, arrays, tensors, images, modules, functions, classes, other objects, and containers
        of them.
    within : tuple of int, default=()
        Which objects the value is a part of, by their ``id``: a part that contains the whole is named, once.

    Returns
    -------
    object
        Arrays and tensors are there as a digest of their content. Of a function there are its code, its
        default arguments, what it closes over and the object it is bound to, not the functions that it calls
        by name. Of an object there are its class and its attributes.

    Raises
    ------
    TypeError
        If the content of a value cannot be found out: two of its kind could not be told apart.
    """
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device):
        return value if isinstance(value, bool | int | str) or value is None else repr(value)
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=20).hexdigest()
        return ["array", str(value.dtype), list(value.shape), digest]
    if isinstance(value, ImageSource):
        return ["images", value.content()]
    if id(value) in within:
        return ["above", len(within) - within.index(id(value))]
    within = (*within, id(value))
    if isinstance(value, dict):
        return ["dict", *sorted(([describe(k), describe(v, within)] for k, v in value.items()), key=repr)]
    if isinstance(value, list | tuple | np.ndarray):
        return [type(value).__name__, *(describe(item, within) for item in value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted((describe(item, within) for item in value), key=repr)]
    if isinstance(value, partial):
        return ["partial", *(describe(part, within) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, type):
        return ["class", f"{value.__module__}.{value.__qualname__}", _describe_class(value)]
    if inspect.ismethod(value):
        return ["method", describe(value.__func__, within), describe(value.__self__, within)]
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = (value.__defaults__, value.__kwdefaults__, cells)
        name = f"{value.__module__}.{value.__qualname__}"
        return ["function", name, _describe_code(value.__code__), *(describe(part, within) for part in parts)]
    if inspect.isbuiltin(value) or inspect.isroutine(value):
        return [
            "builtin",
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}",
        ]
    if isinstance(value, ExternalViews):
        return ["views", value.takes, describe(value.content(), within)]
    if isinstance(value, np.random.Generator):
        return ["generator", describe(value.bit_generator.state)]
    if isinstance(value, random.Random):
        return ["generator", describe(value.getstate())]
    if isinstance(value, nn.Module):
        # Not what is in state_dict only: a list of transforms is not.
        return ["module", architecture(value), describe(vars(value), within)]
    if hasattr(value, "__dict__"):
        return ["object", describe(type(value)), describe(vars(value), within)]
    if type(value).__repr__ is not object.__repr__:
        return [type(value).__qualname__, repr(value)]
    raise TypeError(
        f"{value!r} cannot be told from another {type(value).__name__}, so nothing that depends on it can be "
        "kept. Pass a function, an object with attributes, or neither memory nor checkpoint_dir."
    )


def architecture(module: nn.Module) -> list:
    """Return what a module is without its numbers: its parts, and the code of their classes."""
    kinds = {type(part) for part in module.modules()}
    return [repr(module), *sorted((describe(kind) for kind in kinds), key=repr)]


def _describe_class(cls: type) -> list:
    """Return the code of the methods that a class has from outside of torch and of this package."""
    found = []
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in _LIBRARIES:
            continue
        for name, member in sorted(vars(base).items()):
            member = getattr(member, "fget", getattr(member, "__func__", member))
            if inspect.isfunction(member):
                found.append([base.__qualname__, name, _describe_code(member.__code__)])
    return found


def _describe_code(code: CodeType) -> list:
    """Return the code of a function without the places at which it is in memory."""
    constants = [
        # The order of a set differs from process to process.
        _describe_code(c)
        if isinstance(c, CodeType)
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), constants]
