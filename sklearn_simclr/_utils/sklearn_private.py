"""Private names of scikit-learn, imported here and nowhere else: when one changes, this module changes."""

from collections.abc import Callable
from typing import Any, TypeVar

from sklearn.base import _clone_parametrized as clone_by_parameters
from sklearn.base import _fit_context
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_feature_names as check_feature_names

__all__ = [
    "Checked",
    "Interval",
    "Method",
    "StrOptions",
    "check_feature_names",
    "clone_by_parameters",
    "columns_of",
    "fit_context",
]

Method = TypeVar("Method", bound=Callable[..., Any])


class Checked(Options):
    """Values of a parameter that a function accepts, described in words.

    Parameters
    ----------
    accepts : callable
        Returns whether a value can be used. A ValueError means that the value cannot be used.
    words : str
        What to pass: follows "must be" in the message.
    """

    def __init__(self, accepts: Callable[[Any], object], words: str) -> None:
        super().__init__(object, set())
        self.accepts, self.words = accepts, words

    def is_satisfied_by(self, val: Any) -> bool:
        """Return whether a value can be used."""
        try:
            return self.accepts(val) is not False
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return what to pass."""
        return self.words


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Check the parameters before a method fits; scikit-learn's decorator, with the method's type kept."""
    decorator: Callable[[Method], Method] = _fit_context(
        prefer_skip_nested_validation=prefer_skip_nested_validation
    )
    return decorator


def columns_of(X: Any, columns: Any) -> Any:
    """Return columns of a table or an array as a ColumnTransformer does: of a single name one column."""
    return _safe_indexing(X, columns, axis=1)
