"""State without tensors: modules and optimizers with numpy arrays in their place, and back."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from sklearn.exceptions import InconsistentVersionWarning
from torch import Tensor, nn

from .._version import __version__
from .warn import warn

__all__ = ["VersionedPickles", "arrays_to_tensors", "tensors_to_arrays"]


_Kind = TypeVar("_Kind")

# By the id of a value: what it was converted to, and the value itself.
_Memo = dict[int, tuple[object, object]]


# Key of the version in what pickle keeps.
_VERSION = "_sklearn_simclr_version"


class VersionedPickles:
    """Pickles hold the version that wrote them; one of another version warns, as scikit-learn's do."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), _VERSION: __version__}  # type: ignore[dict-item]  # scikit-learn has no types

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        written = state.pop(_VERSION, "before 0.1")
        if written != __version__:
            warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=f"{__version__} of sklearn-simclr",
                    original_sklearn_version=written,
                )
            )
        # A later version may have more parameters: they get their defaults.
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.default is not parameter.empty:
                state.setdefault(name, parameter.default)
        super().__setstate__(state)  # type: ignore[misc]  # as above


class _Array:
    """A tensor as a numpy array."""

    def __init__(self, tensor: Tensor) -> None:
        self.parameter = isinstance(tensor, nn.Parameter)
        self.requires_grad = tensor.requires_grad
        self.bfloat16 = tensor.dtype == torch.bfloat16
        tensor = tensor.detach().cpu()
        self.array = (tensor.view(torch.int16) if self.bfloat16 else tensor).numpy().copy()

    def tensor(self) -> Tensor:
        tensor = torch.from_numpy(self.array.copy())
        tensor = tensor.view(torch.bfloat16) if self.bfloat16 else tensor
        if self.parameter:
            return nn.Parameter(tensor, requires_grad=self.requires_grad)
        return tensor.requires_grad_(self.requires_grad)


def tensors_to_arrays(value: Any, memo: _Memo | None = None) -> Any:
    """Return a copy of a value in which numpy arrays stand for the tensors.

    Parameters
    ----------
    value : object
        Modules, skorch's callbacks, lists, tuples and dicts are searched.
    memo : dict, default=None
        What was converted already, so that shared tensors stay shared.

    Returns
    -------
    object
        Picklable without torch's storage format; hashes equally for equal numbers.
    """
    return _convert(value, {} if memo is None else memo, torch.Tensor, _Array)


def arrays_to_tensors(value: Any, memo: _Memo | None = None) -> Any:
    """Undo `tensors_to_arrays`.

    Parameters
    ----------
    value : object
        What `tensors_to_arrays` returned.
    memo : dict, default=None
        What was converted already.

    Returns
    -------
    object
        The value, with tensors on the CPU.
    """
    return _convert(value, {} if memo is None else memo, _Array, _Array.tensor)


def _convert(value: Any, memo: _Memo, kind: type[_Kind], function: Callable[[_Kind], object]) -> Any:
    if id(value) in memo:
        return memo[id(value)][0]
    if isinstance(value, kind):
        result = function(value)
    elif isinstance(value, nn.Module) or _is_callback(value):
        result = object.__new__(type(value))
        # The value itself is kept too, so that no other object can get its id meanwhile.
        memo[id(value)] = (result, value)
        for name, item in vars(value).items():
            result.__dict__[name] = _convert(item, memo, kind, function)
    elif type(value) in (list, tuple):
        result = type(value)(_convert(item, memo, kind, function) for item in value)
    elif isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
        result = copy.copy(value)
        for name, item in value.items():
            result[name] = _convert(item, memo, kind, function)
    else:
        return value
    memo[id(value)] = (result, value)
    return result


def _is_callback(value: object) -> bool:
    return any(cls.__module__.startswith("skorch.callbacks") for cls in type(value).__mro__)
