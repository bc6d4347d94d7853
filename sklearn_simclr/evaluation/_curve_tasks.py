"""Work of a label-fraction study: fit shared steps once per fold, fit and score on draws."""

import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from joblib import Memory
from sklearn.base import clone

from .._utils.labels import hide_labels
from ..images.indexing import indexable, take, take_columns, take_if_aligned

__all__ = ["Fit", "Fold", "FoldData", "Outcome", "SharedStep", "is_cached", "run_fit", "run_shared"]


@dataclass
class SharedStep:
    """A step that is fitted once per fold, with the parameters of its methods for all rows."""

    name: str
    transformer: Any
    params: dict[str, Any]
    key: str


@dataclass
class Fold:
    """Rows of one fold, and the labels of those that have one."""

    number: int
    train: np.ndarray
    test: np.ndarray
    labelled: np.ndarray  # positions in `train`
    labels: np.ndarray
    test_labels: np.ndarray
    key: str


@dataclass
class FoldData:
    """Data that the steps after the shared ones learn from and are tested on."""

    train: Any = None
    test: Any = None
    transformers: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Fit:
    """One fit on one draw: `indices` are its places among the labels of the fold; X has `n_rows` rows."""

    key: str
    estimator: Any
    params: dict[str, Any]
    scorer: Any
    score_params: dict[str, Any]
    indices: np.ndarray
    n_rows: int
    semi_supervised: bool
    mark: float | None
    pairwise: bool
    return_train_score: bool
    return_estimator: bool
    raise_error: bool


@dataclass
class Outcome:
    """Scores (by name, or a single number) and times of one fit, or its errors."""

    score: Any = None
    train_score: Any = None
    fit_time: float = np.nan
    score_time: float = 0.0
    shared_time: float = np.nan
    estimator: Any = None
    fit_error: str | None = None
    score_errors: list[str] = field(default_factory=list)


class _NotToKeep(Exception):
    """Carries an outcome past the cache, which would otherwise keep a failure for ever."""


def is_cached(memory: Any, fit: Fit) -> bool:
    """Return whether the outcome of the fit is in the cache."""
    if not isinstance(memory, Memory) or memory.location is None:
        return False
    return memory.cache(_fit_and_score, ignore=["fit", "fold", "data"]).check_call_in_cache(
        fit.key, None, None, None
    )


def run_shared(
    X: Any, fold: Fold, chains: list[list[SharedStep]], pairwise: bool, memory: Any, raise_error: bool
) -> list[FoldData]:
    """Fit chains of steps that begin with the same step, on all training rows and without labels.

    Parameters
    ----------
    X : object
        All rows.
    fold : Fold
        Which of them to fit on.
    chains : list of list of SharedStep
        What to fit. What two chains have in common is fitted once.
    pairwise : bool
        Whether X is a matrix of kernels or distances.
    memory : joblib.Memory
        Where to keep outputs and fitted steps.
    raise_error : bool
        Whether to raise what a step raises.

    Returns
    -------
    list of FoldData
        One a chain.
    """
    X, n = indexable(X)
    train = X if len(fold.train) == n else take(X, fold.train)
    test = take(X, fold.test)
    if pairwise:
        train, test = take_columns(train, fold.train), take_columns(test, fold.train)
    known: dict[tuple[str, ...], FoldData] = {(): FoldData(train, test)}
    outputs = []
    for chain in chains:
        at: tuple[str, ...] = ()
        for step in chain:
            before, at = known[at], (*at, step.key)
            if at not in known:
                known[at] = _run_step(step, before, fold, n, at, memory, raise_error)
        outputs.append(known[at])
    return outputs


def _run_step(
    step: SharedStep,
    before: FoldData,
    fold: Fold,
    n: int,
    at: tuple[str, ...],
    memory: Any,
    raise_error: bool,
) -> FoldData:
    if before.error is not None:
        return before
    params = {method: _sliced(given, fold.train, n) for method, given in step.params.items()}
    test_params = _sliced(step.params["transform"], fold.test, n)
    cached = memory.cache(_fit_step, ignore=["transformer", "train", "test", "params", "test_params"])
    try:
        train, test, fitted, seconds = cached(
            "-".join((fold.key, *at)), step.transformer, before.train, before.test, params, test_params
        )
    except Exception as error:
        if raise_error:
            raise
        return FoldData(error=_said(error))
    return FoldData(train, test, [*before.transformers, fitted], before.seconds + seconds)


def _fit_step(
    key: str, transformer: Any, train: Any, test: Any, params: dict[str, Any], test_params: dict[str, Any]
) -> tuple[Any, Any, Any, float]:
    start = time.perf_counter()
    fitted = clone(transformer)
    if hasattr(fitted, "fit_transform"):
        train = fitted.fit_transform(train, None, **params["fit_transform"])
    else:
        train = fitted.fit(train, None, **params["fit"]).transform(train, **params["transform"])
    test = fitted.transform(test, **test_params)
    return train, test, fitted, time.perf_counter() - start


def run_fit(fit: Fit, fold: Fold, data: FoldData | None, memory: Any) -> Outcome:
    """Fit on the draw and score on the fold's test rows, or look the outcome up in the cache.

    Parameters
    ----------
    fit : Fit
        What to fit.
    fold : Fold
        The fold of the draw.
    data : FoldData or None
        Outputs of the shared steps; None if the outcome is in the cache.
    memory : joblib.Memory
        Where to keep outcomes.

    Returns
    -------
    Outcome
        The result of the fit.
    """
    if data is not None and data.error is not None:
        return Outcome(fit_error=data.error)
    cached = memory.cache(_fit_and_score, ignore=["fit", "fold", "data"])
    try:
        return cached(fit.key, fit, fold, data)
    except _NotToKeep as failed:
        return failed.args[0]


def _fit_and_score(key: str, fit: Fit, fold: Fold, data: FoldData) -> Outcome:
    rows = fold.labelled[fit.indices]
    labels = fold.labels[fit.indices]
    train, test = data.train, data.test
    n = len(fold.train)
    drawn = train if len(rows) == n else take(train, rows)
    if fit.pairwise and not fit.semi_supervised and len(rows) < n:
        drawn, test = take_columns(drawn, rows), take_columns(test, rows)
    outcome = Outcome(shared_time=data.seconds)
    start = time.perf_counter()
    try:
        estimator = clone(fit.estimator)
        if fit.semi_supervised:
            y = hide_labels(fold.labels, fit.indices, fold.labelled, n, fit.mark)
            estimator.fit(train, y, **_sliced(fit.params, fold.train, fit.n_rows))
        else:
            estimator.fit(drawn, labels, **_sliced(fit.params, fold.train[rows], fit.n_rows))
    except Exception as error:
        if fit.raise_error:
            raise
        outcome.fit_time, outcome.fit_error = time.perf_counter() - start, _said(error)
        raise _NotToKeep(outcome) from None
    outcome.fit_time = time.perf_counter() - start
    start = time.perf_counter()
    outcome.score = _scored(fit, outcome, estimator, test, fold.test_labels, fold.test)
    outcome.score_time = time.perf_counter() - start
    if fit.return_train_score:
        outcome.train_score = _scored(fit, outcome, estimator, drawn, labels, fold.train[rows])
    if fit.return_estimator:
        outcome.estimator = estimator
    if outcome.score_errors:
        raise _NotToKeep(outcome)
    return outcome


def _scored(
    fit: Fit, outcome: Outcome, estimator: Any, X: Any, y: np.ndarray, rows: np.ndarray
) -> float | dict[str, float | None] | None:
    """Return scores by name, or one number; None, with an error in the outcome, for a score that failed."""
    try:
        scores = fit.scorer(estimator, X, y, **_sliced(fit.score_params, rows, fit.n_rows))
    except Exception as error:
        if fit.raise_error:
            raise
        outcome.score_errors.append(_said(error))
        return None
    if not isinstance(scores, dict):
        return _number(scores)
    # A scorer of several metrics gives the traceback in place of the number.
    outcome.score_errors += [score.splitlines()[-1] for score in scores.values() if isinstance(score, str)]
    return {name: None if isinstance(score, str) else _number(score) for name, score in scores.items()}


def _said(error: Exception) -> str:
    """Return the type and the message of an error, without the traceback."""
    return "".join(traceback.format_exception_only(error)).strip()


def _number(score: Any) -> float:
    score = score.item() if hasattr(score, "item") else score
    if not isinstance(score, (int, float)):
        raise ValueError(f"scoring must return a number, found {score!r} of type {type(score).__name__}.")
    return float(score)


def _sliced(params: dict[str, Any], rows: np.ndarray, n: int) -> dict[str, Any]:
    return {name: take_if_aligned(value, rows, n) for name, value in params.items()}
