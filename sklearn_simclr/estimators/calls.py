"""Public calls of estimators: each works on the estimator as it was at the time of the call."""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from .._utils.usual_settings import usual_settings

__all__ = ["isolate_calls"]

_FITS = ("fit", "partial_fit")

_CALLS = (*_FITS, "transform", "reconstruct", "predict", "predict_proba", "decision_function", "score")


def isolate_calls(cls: type) -> None:
    """Let each public method of a class work on attributes of its own, with the usual settings of torch.

    What ``fit`` sets becomes the estimator's when ``fit`` is over, all at once: the estimator stays as it was
    if ``fit`` fails, and another thread transforms with what was learnt before or with what is learnt then.

    Parameters
    ----------
    cls : type
        Changed in place.
    """
    for name in _CALLS:
        method = vars(cls).get(name)
        if isinstance(method, FunctionType):
            setattr(cls, name, _isolated(method, name in _FITS))


def _isolated(method: Callable[..., Any], fits: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        twin = object.__new__(type(self))
        twin.__dict__ = vars(self).copy()
        with usual_settings():
            result = method(twin, *args, **kwargs)
        if not fits:
            return result
        # Parameters are the caller's, who may have set them meanwhile.
        parameters = {name: vars(self)[name] for name in self._get_param_names() if name in vars(self)}
        self.__dict__ = {**vars(twin), **parameters}
        return self

    return call
