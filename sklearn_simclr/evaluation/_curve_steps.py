"""Find the steps of an estimator that all draws of labels share, and make equal keys for equal steps."""

import inspect
import numbers
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.feature_selection import SelectKBest, SelectPercentile
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.semi_supervised import LabelPropagation, LabelSpreading, SelfTrainingClassifier
from sklearn.utils import get_tags

from ._curve_methods import named_method

__all__ = [
    "encoders_inside",
    "key_of",
    "learns_from_unlabelled",
    "marks_with_minus_one",
    "named_estimators",
    "needs_labels",
    "shared_steps",
]

_SEMI_SUPERVISED = (LabelPropagation, LabelSpreading, SelfTrainingClassifier)

# Whether these need labels depends on their score_func, and their tags say that they do not.
_WITH_SOME_SCORES = (SelectKBest, SelectPercentile)


def marks_with_minus_one(estimator: Any) -> bool:
    """Return whether the only mark of an unlabelled row that the estimator knows is -1."""
    return isinstance(estimator, _SEMI_SUPERVISED)


def learns_from_unlabelled(estimator: Any) -> bool:
    """Return whether `fit` takes rows without a label, and learns from them."""
    return bool(getattr(estimator, "learns_from_unlabelled", False)) or marks_with_minus_one(estimator)


def needs_labels(step: Any) -> bool:
    """Return whether the step of a Pipeline, or a part of it, learns from labels."""
    return not hasattr(step, "transform") or _is_supervised(step)


def _is_supervised(estimator: Any) -> bool:
    if isinstance(estimator, FrozenEstimator):
        return False
    if learns_from_unlabelled(estimator) or get_tags(estimator).target_tags.required:
        return True
    if isinstance(estimator, _WITH_SOME_SCORES) or _fit_requires_y(estimator):
        return True
    # These predict features from features.
    if type(estimator).__module__.startswith("sklearn.impute."):
        return False
    return any(_is_supervised(part) for part in _parts(estimator) if _may_learn(part))


def _fit_requires_y(estimator: Any) -> bool:
    y = inspect.signature(estimator.fit).parameters.get("y")
    return y is not None and y.default is inspect.Parameter.empty


def _may_learn(part: Any) -> bool:
    return not inspect.isclass(part) and hasattr(part, "fit") and hasattr(part, "__sklearn_tags__")


def _parts(step: Any) -> Iterator[Any]:
    """Yield the values of the parameters of an estimator, and the members of lists among them."""
    pending = list(step.get_params(deep=False).values()) if hasattr(step, "get_params") else []
    while pending:
        value = pending.pop()
        if isinstance(value, (list, tuple)):
            pending.extend(value)
        else:
            yield value


def shared_steps(estimator: Any, name: str) -> tuple[int, bool]:
    """Count the first steps that need no labels, and tell whether the rest learns from unlabelled rows.

    Parameters
    ----------
    estimator : estimator
        A Pipeline, or anything else, of which no step is shared.
    name : str
        For messages.

    Returns
    -------
    n_shared : int
        Number of steps of the Pipeline that may be fitted without labels, once for all draws.
    semi_supervised : bool
        Whether the other steps are to be fitted on all rows, labelled or not.

    Raises
    ------
    ValueError
        If some of the other steps learn from unlabelled rows, and some do not accept them.
    """
    if not isinstance(estimator, Pipeline):
        return 0, learns_from_unlabelled(estimator)
    steps = [step for _, step in estimator.steps]
    n_shared = 0
    while n_shared < len(steps) - 1 and (_is_idle(steps[n_shared]) or not needs_labels(steps[n_shared])):
        n_shared += 1
    last = learns_from_unlabelled(steps[-1])
    for step_name, step in estimator.steps[n_shared:-1]:
        if not _is_idle(step) and needs_labels(step) and learns_from_unlabelled(step) != last:
            unlabelled, labelled = (step_name, estimator.steps[-1][0])[:: -1 if last else 1]
            raise ValueError(
                f"In estimator {name!r} the step {unlabelled!r} learns from unlabelled rows, but "
                f"{labelled!r} learns from labelled rows only. Replace one, so that both use unlabelled rows "
                "or neither does."
            )
    return n_shared, last


def encoders_inside(estimator: Any) -> list[Any]:
    """Return the parts of an estimator that learn an encoder from all images, if they get all images.

    Parameters
    ----------
    estimator : estimator
        A voting classifier, for instance. Frozen parts have learnt already.

    Returns
    -------
    list of estimator
        Transformers that train for some epochs, and need no labels.
    """
    found = []
    for part in _parts(estimator):
        if not _may_learn(part) or isinstance(part, FrozenEstimator):
            continue
        if getattr(part, "max_epochs", 0) != 0 and not needs_labels(part):
            found.append(part)
        else:
            found += encoders_inside(part)
    return found


def _is_idle(step: Any) -> bool:
    return step is None or isinstance(step, str)


def named_estimators(estimators: Any) -> dict[str, Any]:
    """Return {name: estimator}; a list or a single estimator gets names from the classes."""
    if isinstance(estimators, Mapping):
        named = dict(estimators)
    else:
        listed = list(estimators) if isinstance(estimators, (list, tuple)) else [estimators]
        if any(isinstance(entry, tuple) for entry in listed):
            listed = [(entry, entry) if isinstance(entry, str) else entry for entry in listed]
        if all(isinstance(entry, tuple) and len(entry) == 2 for entry in listed):
            named = dict(listed)
            if len(named) < len(listed):
                raise ValueError(
                    f"estimators has a name twice: {[name for name, _ in listed]}. Pass different names."
                )
        else:
            names = [_class_names(estimator) for estimator in listed]
            count, seen = Counter(names), Counter[str]()
            named = {}
            for name, estimator in zip(names, listed, strict=True):
                seen[name] += 1
                named[f"{name}-{seen[name]}" if count[name] > 1 else name] = estimator
    if not named:
        raise ValueError("estimators is empty; pass at least one estimator.")
    for name, estimator in named.items():
        if not isinstance(name, str):
            raise TypeError(f"The names of estimators must be strings, found {name!r}.")
        if isinstance(estimator, str):
            named[name] = named_method(estimator)
            continue
        if inspect.isclass(estimator):
            raise TypeError(f"estimators[{name!r}] is the class {estimator.__name__}; pass an instance.")
        if not hasattr(estimator, "fit") or not hasattr(estimator, "get_params"):
            raise TypeError(
                f"estimators[{name!r}] must be an estimator with fit and get_params, found {estimator!r}."
            )
    return named


def _class_names(estimator: Any) -> str:
    if isinstance(estimator, str):
        return estimator
    if isinstance(estimator, Pipeline):
        return "+".join(_class_names(step) for _, step in estimator.steps if not _is_idle(step))
    return type(estimator).__name__.lower()


def key_of(value: object, name: str | None = None) -> str:
    """Return a string that is equal for equal values: equal arrays, estimators with equal parameters, etc.

    Parameters
    ----------
    value : object
        What is fitted in a frozen estimator counts; what is fitted in others does not.
    name : str or None
        For the message, where the key is to mean the same in another process. With None, what cannot be
        pickled is equal to itself only.

    Returns
    -------
    str
        40 hexadecimal digits.

    Raises
    ------
    ValueError
        If `name` is given, and something cannot be pickled.
    """
    # Each part is hashed by itself: in a whole, pickle writes a part that occurs twice unlike two equal
    # parts.
    return joblib.hash(repr(_described(value, name)), hash_name="sha1")


def _described(value: Any, name: str | None) -> tuple[Any, ...]:
    if value is None or isinstance(value, (str, bytes, bool, numbers.Number)):
        return type(value).__name__, repr(value)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [_described(entry, name) for entry in value]
    if isinstance(value, dict):
        return "dict", [(repr(key), _described(entry, name)) for key, entry in value.items()]
    if hasattr(value, "get_params") and not inspect.isclass(value) and not isinstance(value, FrozenEstimator):
        parameters = sorted(clone(value).get_params(deep=False).items())
        output = getattr(value, "_sklearn_output_config", None)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return kind, repr(output), [(key, _described(entry, name)) for key, entry in parameters]
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = value.detach().cpu().numpy()
    try:
        return type(value).__name__, joblib.hash(
            value, hash_name="sha1", coerce_mmap=isinstance(value, np.memmap)
        )
    except Exception as error:
        if name is None:
            return type(value).__name__, f"id {id(value)}"
        raise ValueError(
            f"memory needs estimators that can be pickled, but {name} holds {value!r}, which cannot be "
            f"pickled: {error}. Pass memory=None, or use a function or class that can be imported."
        ) from error
