"""Identify a training: a key that is equal for equal images, objectives and plans only."""

import copyreg
import dis
import hashlib
import importlib.util
import inspect
import json
import logging
import reprlib
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import nn

from .._version import __version__
from ..encoders.compiled import is_compiled
from ..images.source import ImageSource
from ..views.external import ExternalViews

__all__ = ["architecture", "content_by_part", "content_of", "describe"]

# Functions and classes that are described already, by their id, with their numbers. They are kept: an id must
# not be taken by another object meanwhile.
_Known = dict[int, tuple[int, object]]

# Attributes that torch keeps in each module. Hooks are numbered anew in each process.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OF_WEIGHTS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_OF_TORCH = vars(nn.Module()).keys()
_OF_VIEWS = vars(ExternalViews(len)).keys()

# With these, a function reads values that its code does not name.
_READS_ALL = {"eval", "exec", "globals"}
_READS_MODULES = {"__dict__", "getattr", "vars"}

# Members of a class that are neither methods nor attributes given by its author.
_SLOTS = (GetSetDescriptorType, MemberDescriptorType)
_OF_CLASSES = {"__dict__", "__doc__", "__firstlineno__", "__module__", "__static_attributes__", "__weakref__"}


def content_by_part(images: ImageSource, description: Mapping[str, Any]) -> dict[str, str]:
    """Return digests, part by part, that are equal for equal images and descriptions only.

    Parameters
    ----------
    images : ImageSource
        On the CPU.
    description : dict of str to object
        Whatever else the result depends on, as `describe` takes it.

    Returns
    -------
    dict of str to str
        Numbers and strings as they are written in Python, digests of all else. Version and images are parts,
        too.
    """
    parts = {"version": __version__, "images": images, **description}
    plain = (bool, int, float, str, type(None))
    return {k: repr(part) if type(part) in plain else content_of(part) for k, part in parts.items()}


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
    try:
        text = json.dumps(describe(value), sort_keys=True)
    except (RecursionError, ValueError) as error:  # deeper than Python goes, or a number of 4,300 digits
        raise _unknowable(value) from error
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def describe(value: Any, within: tuple[int, ...] = (), known: _Known | None = None) -> Any:
    """Return a description of a value that json can write: equal for equal content, in any process.

    Parameters
    ----------
    value : object
        Numbers, strings, arrays, tensors, images, modules, functions, classes, other objects, and containers
        of them.
    within : tuple of int, default=()
        Which objects the value is a part of, by their ``id``: a part that contains the whole is named, once.
    known : dict or None, default=None
        Which functions and classes are described already: they are named by their numbers.

    Returns
    -------
    object
        Arrays and tensors become a digest of their content. A function becomes its code, its default
        arguments, what it closes over, the object it is bound to, and the globals that its code names. A
        class becomes its methods and attributes, another object its class and what pickle keeps of it.
        Libraries become their name and version.

    Raises
    ------
    TypeError
        If the content of a value cannot be found out: two of its kind could not be told apart.
    """
    known = {} if known is None else known
    value = getattr(value, "_torchdynamo_orig_callable", value) if isinstance(value, FunctionType) else value
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) in (float, complex, bytes, torch.dtype, torch.device, torch.layout, torch.memory_format):
        return [type(value).__name__, repr(value)]
    if isinstance(value, ImageSource):
        return ["images", value.content()]
    if isinstance(value, np.ma.MaskedArray):
        return ["masked", describe(np.ma.getdata(value), within, known), describe(np.ma.getmaskarray(value))]
    if isinstance(value, torch.Tensor):
        return [*_describe_tensor(value), *_more_than_numbers(value, within, known)]
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=20).hexdigest()
        numbers = ["array", str(value.dtype), list(value.shape), digest]
        return [*numbers, *_more_than_numbers(value, within, known)]
    if isinstance(value, type | FunctionType):
        if id(value) in known:
            return ["known", known[id(value)][0]]
        known[id(value)] = (len(known), value)
        return _describe_class(value, known) if isinstance(value, type) else _describe_function(value, known)
    if id(value) in within:
        return ["above", len(within) - within.index(id(value))]
    within = (*within, id(value))
    if type(value) in (dict, OrderedDict, defaultdict, MappingProxyType):
        items = sorted(((describe(key), item) for key, item in value.items()), key=lambda item: repr(item[0]))
        return ["dict", *([key, describe(item, within, known)] for key, item in items)]
    if type(value) in (list, tuple, np.ndarray):
        return [type(value).__name__, *(describe(item, within, known) for item in value)]
    if type(value) in (set, frozenset):
        # Items are described alone and sorted: their order differs from process to process.
        return ["set", *sorted((describe(item, within) for item in value), key=repr)]
    if isinstance(value, ModuleType):
        library = _library(value.__name__)
        own = {name: item for name, item in vars(value).items() if not name.startswith("__")}
        return ["package", *(library or describe(own, within, known))]
    if isinstance(value, logging.Logger):
        return ["logger", value.name]
    if type(value) is partial:
        parts = (value.func, value.args, value.keywords)
        return ["partial", *(describe(part, within, known) for part in parts)]
    if inspect.ismethod(value):
        return ["method", describe(value.__func__, within, known), describe(value.__self__, within, known)]
    if isinstance(value, ExternalViews):
        own = {key: item for key, item in vars(value).items() if key not in _OF_VIEWS}
        content = [type(value), own, value.content()]
        return ["views", value.takes, *(describe(part, within, known) for part in content)]
    if isinstance(value, torch.Generator):
        return ["generator", describe(value.get_state())]
    if isinstance(value, nn.Module):
        weights = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        return ["module", architecture(value, within, known), describe(weights, within, known)]
    return _describe_object(value, within, known)


def architecture(module: nn.Module, within: tuple[int, ...] = (), known: _Known | None = None) -> list:
    """Return what a module is without its state: its parts, their classes and attributes."""
    known = {} if known is None else known
    parts = []
    for name, part in module.named_modules():
        if is_compiled(part):  # counts compilations; what is compiled is a part of its own
            continue
        above = (*within, id(module), id(part))
        own = {key: item for key, item in vars(part).items() if key not in _OF_TORCH}
        hooks = [list(vars(part).get(kind, {}).values()) for kind in _HOOKS]
        trained = {
            key: [
                weight.requires_grad,
                *(list((getattr(weight, kind) or {}).values()) for kind in _OF_WEIGHTS),
            ]
            for key, weight in part.named_parameters(recurse=False)
        }
        # Buffers that are computed beforehand, such as a table of positions, may be left out of the state.
        fixed = {key: part._buffers[key] for key in sorted(part._non_persistent_buffers_set)}
        content = [describe(item, above, known) for item in (type(part), own, hooks, trained, fixed)]
        parts.append([name, *content])
    return [repr(module), parts]


def _unknowable(value: object) -> TypeError:
    return TypeError(
        f"{reprlib.repr(value)} cannot be told from another {type(value).__name__}, so results that depend "
        "on it cannot be stored. Pass a function, a dense tensor or an object whose attributes pickle can "
        "write instead, or pass neither memory nor checkpoint_dir."
    )


def _describe_tensor(tensor: torch.Tensor) -> list:
    """Return a tensor's digest, type and shape."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        raise _unknowable(tensor)
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    digest = hashlib.blake2b(dense.reshape(-1).view(torch.uint8).numpy().data, digest_size=20).hexdigest()
    return ["array", str(tensor.dtype), list(tensor.shape), digest]


def _more_than_numbers(value: Any, within: tuple[int, ...], known: _Known) -> list:
    """Return the class and the attributes of an array or a tensor, if these are not the usual ones."""
    if isinstance(value, np.memmap):
        return []
    own = getattr(value, "__dict__", {})
    usual = isinstance(value, np.generic) or type(value) in (np.ndarray, torch.Tensor, nn.Parameter)
    return [] if usual and not own else [describe(part, within, known) for part in (type(value), own)]


def _describe_object(value: object, within: tuple[int, ...], known: _Known) -> list:
    """Return the class of an object and the content that pickle would write."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        kept = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception as error:
        raise _unknowable(value) from error
    if type(value) is object:
        raise _unknowable(value)
    if isinstance(kept, str):  # the name of something global, such as a function with a cache around it
        parts = [kept, getattr(value, "__module__", None), getattr(value, "__wrapped__", None)]
    else:
        parts = [list(part) if isinstance(part, Iterator) else part for part in kept]
    return ["object", describe(type(value), (), known), *(describe(p, within, known) for p in parts)]


def _describe_class(cls: type, known: _Known) -> list:
    """Return the members of a class from outside of libraries, and the names of those from libraries."""
    found: list = ["class", cls.__qualname__]
    if type(cls) is not type:
        found.append(describe(type(cls), (), known))
    for base in cls.__mro__:
        library = _library(base.__module__)
        functions = [member for member in vars(base).values() if isinstance(member, FunctionType)]
        # A class that names a library as its module, or is of a library, may have methods of the user.
        if library and not any(_is_users(function) for function in functions):
            found.append([base.__qualname__, library])
            continue
        for name, member in sorted(vars(base).items()):
            parts = [member]
            if isinstance(member, property):
                parts = [member.fget, member.fset]
            elif isinstance(member, cached_property):
                parts = [member.func]
            elif name in _OF_CLASSES or name.startswith("_abc_") or isinstance(member, _SLOTS):
                continue
            elif isinstance(member, staticmethod | classmethod):
                parts = [member.__func__]
            found.append([base.__qualname__, name, *(describe(part, (), known) for part in parts)])
    return found


def _describe_function(function: FunctionType, known: _Known) -> list:
    """Return the code of a function, and the values that it has at hand."""
    name, library = function.__qualname__, _library(_home(function))
    if library and getattr(sys.modules.get(_home(function)), name, None) is function:
        return ["function", name, library]
    found: list = ["function", name, library, _describe_code(function.__code__)]
    for cell in function.__closure__ or ():
        try:
            found.append(describe(cell.cell_contents, (), known))
        except ValueError:  # it gets its value later
            found.append("empty")
    found += [describe(part, (), known) for part in (function.__defaults__, function.__kwdefaults__)]
    # Attributes set on a function: the function that it wraps, or a number that it reads.
    found.append(describe(vars(function), (), known))
    if not library:
        found.append([[name, item] for name, item in _describe_globals(function, known)])
    return found


def _home(function: FunctionType) -> str:
    """Return the module that a function was written in; a wrapper claims that of the wrapped function."""
    return function.__globals__.get("__name__") or ""


def _is_users(function: FunctionType) -> bool:
    """Return whether a function was written in a module that is no library."""
    return _home(function) in sys.modules and not _library(_home(function))


def _describe_globals(function: FunctionType, known: _Known) -> Iterator[tuple[str, Any]]:
    """Yield the values that a function reads by name: globals, and attributes of modules of the user."""
    names: set[str] = set()
    attributes: set[str] = set()
    imported: dict[str, Any] = {}
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        attributes.update(code.co_names)
        constants: list[Any] = []
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                imported[f"import {step.argval}"] = _imported(function, step.argval, *constants[-2:])
            elif step.opname != "EXTENDED_ARG":
                constants.append(step.argval)
    if _READS_ALL & names - function.__globals__.keys():
        raise _unknowable(function)
    own = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    for name, value in sorted({**own, **imported}.items()):
        if not isinstance(value, ModuleType) or _library(value.__name__) or _READS_MODULES & attributes:
            yield name, describe(value, (), known)
            continue
        for attribute in sorted(attributes & vars(value).keys()):
            yield f"{name}.{attribute}", describe(vars(value)[attribute], (), known)


def _imported(function: FunctionType, name: str, level: int, wanted: tuple[str, ...]) -> ModuleType | None:
    """Return the module that a function imports when it runs, None if it cannot be imported."""
    package = function.__globals__.get("__package__") or _home(function).rpartition(".")[0]
    try:
        name = importlib.util.resolve_name("." * level + name, package)
        __import__(name, None, None, wanted or ())
    except Exception:
        return None
    return sys.modules.get(name)


def _library(module: object) -> list[str] | None:
    """Return name and version of the library that a module belongs to, None for the user's own."""
    if not isinstance(module, str | None):  # of a class written in C
        module = "builtins"
    top = (module or "").partition(".")[0]
    if (
        top == "__main__"
    ):  # in a worker of joblib, and under python -m, the file of a library; not its functions
        return None
    if top in sys.stdlib_module_names:
        return [top, sys.version]
    package = sys.modules.get(top)
    file = getattr(package, "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    if top == __package__.partition(".")[0] or installed:
        return [str(module), str(getattr(package, "__version__", ""))]
    return None


def _describe_code(code: CodeType) -> list:
    """Return the code of a function without its addresses in memory."""
    constants = [
        # The order of a set differs from process to process.
        _describe_code(c)
        if isinstance(c, CodeType)
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]
    # A loss is called by the names of its arguments.
    names = [list(code.co_names), list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), *names, constants]
