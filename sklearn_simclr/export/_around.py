"""Save the scikit-learn estimators around those of this package: pipelines, column transformers, frozen ones.

skops keeps it, as JSON and arrays, with marks in the places of the estimators of this package.
"""

import copy
import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.preprocessing import FunctionTransformer

__all__ = ["join", "split"]

# Parameter of the mark that stands in the place of an estimator.
_MARK = "sklearn_simclr"

# What skops may build besides the estimators of scikit-learn: classifiers of this package, which hold numbers
# and estimators only, and the scores of scikit-learn's feature selection.
_TRUSTED = [
    *(
        f"sklearn.feature_selection._univariate_selection.{name}"
        for name in ("chi2", "f_classif", "f_regression")
    ),
    *(f"sklearn.feature_selection._mutual_info.mutual_info_{kind}" for kind in ("classif", "regression")),
    "sklearn_simclr.evaluation.label_fraction.LabelFractionClassifier",
    "sklearn_simclr.evaluation.label_fraction.LabelFractionRegressor",
    "sklearn_simclr.evaluation.linear_evaluation.LinearEvaluationClassifier",
    "sklearn_simclr.evaluation.weighted_knn.WeightedKNNClassifier",
]


def split(estimator: BaseEstimator, is_inner: Callable[[Any], bool]) -> tuple[np.ndarray, list[Any]]:
    """Take some estimators out of another one; return the rest as bytes, and these estimators.

    Parameters
    ----------
    estimator : estimator
        An estimator of scikit-learn.
    is_inner : callable
        Returns whether an object is one of those that are taken out.

    Returns
    -------
    around : uint8 ndarray
        A file of skops.
    inner : list
        The estimators that were taken out, each once.

    Raises
    ------
    TypeError
        If skops cannot keep something, or a reader would have to trust it.
    ImportError
        If skops is not installed.
    """
    io_ = _skops()
    inner = [part for part in _parts(estimator, is_inner) if is_inner(part)]
    marks = {id(part): FunctionTransformer(kw_args={_MARK: k}) for k, part in enumerate(inner)}
    shell = copy.deepcopy(estimator, dict(marks))
    for part in _parts(shell):
        if getattr(part, "memory", None) is not None:
            part.memory = None
    try:
        data = io_.dumps(shell)
        unknown = sorted(set(io_.get_untrusted_types(data=data)) - set(_TRUSTED))
    except Exception as error:
        raise TypeError(f"estimator holds an object that skops cannot write: {error}. {_ADVICE}") from error
    if unknown:
        raise TypeError(
            f"estimator holds {', '.join(unknown)}, which a file without code cannot hold. {_ADVICE}"
        )
    _check(data)
    return np.frombuffer(data, dtype=np.uint8), inner


_ADVICE = "Save the step of this package by itself, or pickle the estimator for your own use."


def join(around: np.ndarray, inner: list[Any]) -> tuple[Any, Any]:
    """Undo `split`.

    Parameters
    ----------
    around : uint8 ndarray
        The bytes that `split` returned.
    inner : list
        The estimators to put in.

    Returns
    -------
    estimator : estimator
        The estimator that `split` was given.
    memory : object
        A place for a cache that the file names, and that was not taken from it; None if there is none.

    Raises
    ------
    ValueError
        If `split` did not return these bytes.
    ImportError
        If skops is not installed.
    """
    io_ = _skops()
    data = around.tobytes()
    try:
        _check(data)
        unknown = sorted(set(io_.get_untrusted_types(data=data)) - set(_TRUSTED))
        if unknown:
            raise ValueError(f"it holds {', '.join(unknown)}, which is not read")
        shell = io_.loads(data, trusted=_TRUSTED)
        places = {}
        memory = None
        for part in _parts(shell):
            if isinstance(part, FunctionTransformer) and _MARK in (part.kw_args or {}):
                places[id(part)] = inner[part.kw_args[_MARK]]
            elif getattr(part, "memory", None) is not None:
                memory, part.memory = part.memory, None
        if {id(part) for part in places.values()} != {id(part) for part in inner}:
            raise ValueError("some estimators of this package have no place in it")
        return copy.deepcopy(shell, dict(places)), memory
    except Exception as error:
        raise ValueError(f"the part of the file that skops has written cannot be read: {error}") from error


def _check(data: bytes) -> None:
    """Raise for archives that are larger than they look, and for sparse matrices, which skops compresses."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > len(data):
        raise ValueError("its content is larger than its file")
    if any(not entry.filename.endswith((".json", ".npy", ".bin")) for entry in entries):
        raise TypeError(f"estimator holds a sparse matrix, which cannot be saved. {_ADVICE}")


def _parts(value: Any, stop: Callable[[Any], bool] = lambda part: False) -> Iterator[Any]:
    """Yield a value and the objects that it is made of; do not look into those at which to stop."""
    pending, seen = [value], dict[int, Any]()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part  # kept, too: its id must not be taken by another object meanwhile
        if isinstance(part, dict):
            pending.extend(part.values())
        if isinstance(part, list | tuple | set):
            pending.extend(part)
        elif isinstance(part, np.ndarray) and part.dtype == object:
            pending.extend(part.ravel().tolist())
        elif type(part).__module__.partition(".")[0] in ("sklearn", "sklearn_simclr"):
            yield part
            if not stop(part):
                pending.extend(getattr(part, "__dict__", {}).values())


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "Pipelines and other estimators of scikit-learn are saved with skops, which is not installed. "
            "Install it with: pip install 'sklearn-simclr[skops]'"
        ) from error
    return skops.io
