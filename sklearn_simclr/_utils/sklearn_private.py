"""Private names of scikit-learn, imported here and nowhere else: when one changes, this module changes."""

from collections.abc import Callable
from typing import Any, TypeVar

from sklearn.base import _clone_parametrized as clone_by_parameters
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names as check_feature_names

__all__ = [
    "Interval",
    "Method",
    "StrOptions",
    "check_feature_names",
    "clone_by_parameters",
    "fit_context",
]

Method = TypeVar("Method", bound=Callable[..., Any])


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Check the parameters before a method fits; scikit-learn's decorator, with the method's type kept."""
    decorator: Callable[[Method], Method] = _fit_context(
        prefer_skip_nested_validation=prefer_skip_nested_validation
    )
    return decorator
