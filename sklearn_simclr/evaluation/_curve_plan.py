"""Plan a label-fraction study: the steps and the rows of each estimator."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    get_routing_for_object,
    process_routing,
)

from .._utils.labels import check_fraction, check_n_drawn, class_codes, quantile_codes, turns
from .._utils.types import Labels
from .._utils.warn import warn
from ._curve_steps import encoders_inside, key_of, marks_with_minus_one, shared_steps
from ._curve_tasks import Fold, SharedStep
from .label_fraction import LabelFractionClassifier, LabelFractionRegressor
from .splitters import SemiSupervisedKFold, TargetKind

__all__ = ["Plan", "draws", "make_folds", "make_plans", "make_splitter", "numbers_of_labels", "target_kind"]

_OWNER = "label_fraction_curve"

# Bins for the targets of a regression, as in LabelFractionRegressor.
_N_BINS = 10


@dataclass
class Plan:
    """One estimator: the steps to share, the rest to fit on every draw, and what to pass to it."""

    name: str
    chain: list[SharedStep]
    estimator: Any
    params: dict[str, Any]
    scorer: Any
    score_params: dict[str, Any]
    semi_supervised: bool
    pairwise: bool
    key: str

    @property
    def chain_key(self) -> tuple[Any, ...]:
        """Return a key that is equal for plans with equal shared steps."""
        return (self.pairwise, *(step.key for step in self.chain))

    @property
    def mark(self) -> float | None:
        """Return the mark of an unlabelled row, as for `hide_labels`."""
        if is_regressor(self.estimator):
            return np.nan
        last = self.estimator.steps[-1][1] if isinstance(self.estimator, Pipeline) else self.estimator
        return -1 if marks_with_minus_one(last) else None

    @property
    def is_deterministic(self) -> bool:
        """Return whether two fits on the same rows are the same."""
        return not get_tags(self.estimator).non_deterministic


def target_kind(named: dict[str, Any], y: Labels) -> TargetKind:
    """Return what y holds, "classes" or "numbers"; "auto" if the estimators do not tell."""
    kinds: dict[str, TargetKind] = {
        name: "classes" if is_classifier(e) else "numbers" if is_regressor(e) else "auto"
        for name, e in named.items()
    }
    found: set[TargetKind] = {kind for kind in kinds.values() if kind != "auto"}
    if len(found) > 1:
        raise ValueError(f"estimators mixes classifiers and regressors: {kinds}. Pass only one kind.")
    return found.pop() if found else "auto"


def make_splitter(cv: Any, kind: TargetKind) -> SemiSupervisedKFold:
    """Return `cv` as a splitter whose test rows are labelled."""
    if isinstance(cv, SemiSupervisedKFold):
        if cv.target != "auto":
            return cv
        return SemiSupervisedKFold(
            cv.n_splits, shuffle=cv.shuffle, random_state=cv.random_state, cv=cv.cv, target=kind
        )
    return SemiSupervisedKFold(cv=list(cv) if isinstance(cv, Iterator) else cv, target=kind)


def make_plans(
    named: dict[str, Any],
    splitter: SemiSupervisedKFold,
    scoring: Any,
    params: Mapping[str, Any] | None,
    groups: Any,
    raise_error: bool,
    stored: bool,
) -> tuple[list[Plan], dict[str, Any]]:
    """Return plans for the estimators, and the parameters for the splitter.

    Parameters
    ----------
    named : dict of str to estimator
        The estimators.
    splitter : SemiSupervisedKFold
        Takes its part of `params` where metadata routing is enabled.
    scoring : object
        As for ``cross_validate``.
    params : dict or None
        Parameters for the estimators and the splitter.
    groups : array-like or None
        For the splitter, without metadata routing.
    raise_error : bool
        Whether scorers raise.
    stored : bool
        Whether the keys are to mean the same in another process.

    Returns
    -------
    plans : list of Plan
        One plan per estimator.
    split_params : dict
        For ``splitter.split``.
    """
    params = {} if params is None else dict(params)
    scorers = {
        name: check_scoring(estimator, scoring=scoring, raise_exc=raise_error)
        for name, estimator in named.items()
    }
    if get_config()["enable_metadata_routing"]:
        if groups is not None:
            raise ValueError(
                "With metadata routing enabled, pass params={'groups': groups} instead of groups."
            )
        split_params, fit_params, score_params = _routed(named, scorers, splitter, params)
        step_params = _routed_to_steps
    else:
        split_params = {"groups": groups}
        fit_params = _by_prefix(named, params)
        score_params = dict.fromkeys(named, {})
        step_params = _prefixed_of_steps
    scoring_key = key_of(scoring, "scoring" if stored else None)
    plans = []
    for name, estimator in named.items():
        n_shared, semi_supervised = shared_steps(estimator, name)
        label = f"estimators[{name!r}]" if stored else None
        rest, rest_params, chain = _all_labels(clone(estimator)), fit_params[name], []
        if n_shared:
            if getattr(estimator, "transform_input", None) is not None:
                raise ValueError(
                    f"estimators[{name!r}] is a Pipeline with transform_input, but its first steps are "
                    "fitted apart from the others here. Pass a Pipeline with transform_input=None."
                )
            shared = [step_name for step_name, _ in estimator.steps[:n_shared]]
            given, rest_params = step_params(estimator, fit_params[name], shared)
            for step_name, step in estimator.steps[:n_shared]:
                if step is not None and not isinstance(step, str):
                    key = key_of([step, given[step_name]], label)
                    chain.append(SharedStep(step_name, step, given[step_name], key))
            rest.set_params(**dict.fromkeys(shared, "passthrough"))
            rest_params = _consumed(rest, rest_params)
        inside = [] if semi_supervised else encoders_inside(rest)
        if inside:
            warn(
                f"estimators[{name!r}] has a {type(inside[0]).__name__} inside a {type(rest).__name__}, "
                "which is fitted on the drawn labelled rows: the encoder learns from these rows instead of "
                "from all images. Pass a fitted encoder in a FrozenEstimator, or make the encoder the first "
                "step of a Pipeline."
            )
        # The names of passthrough steps make no difference, so they stay out of the key.
        parts = rest.steps[n_shared:] if isinstance(rest, Pipeline) else rest
        key = key_of([parts, rest_params, semi_supervised, score_params[name]], label) + scoring_key
        pairwise = get_tags(estimator).input_tags.pairwise
        plans.append(
            Plan(
                name,
                chain,
                rest,
                rest_params,
                scorers[name],
                score_params[name],
                semi_supervised,
                pairwise,
                key,
            )
        )
    return plans, split_params


def _all_labels(estimator: Any) -> Any:
    """Return the estimator; if it would draw a fraction itself, it is set to use all labels instead."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if isinstance(last, (LabelFractionClassifier, LabelFractionRegressor)):
        last.set_params(label_fraction=1.0)
    return estimator


def _routed(
    named: dict[str, Any], scorers: dict[str, Any], splitter: SemiSupervisedKFold, params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    fit, score, split = (
        MethodMapping().add(caller="fit", callee=callee) for callee in ("fit", "score", "split")
    )
    router = MetadataRouter(owner=_OWNER).add(splitter=splitter, method_mapping=split)
    for i, name in enumerate(named):
        router.add(**{f"estimator_{i}": named[name]}, method_mapping=fit)
        router.add(**{f"scorer_{i}": scorers[name]}, method_mapping=score)
    try:
        routed = process_routing(router, "fit", **params)
    except UnsetMetadataPassedError as error:
        raise UnsetMetadataPassedError(
            message=str(error).replace(f"{_OWNER}.fit", _OWNER),
            unrequested_params=error.unrequested_params,
            routed_params=error.routed_params,
        ) from None
    return (
        routed["splitter"]["split"],
        {name: dict(routed[f"estimator_{i}"]["fit"]) for i, name in enumerate(named)},
        {name: dict(routed[f"scorer_{i}"]["score"]) for i, name in enumerate(named)},
    )


def _routed_to_steps(
    pipeline: Pipeline, params: dict[str, Any], shared: list[str]
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Any]]:
    routed = process_routing(pipeline, "fit", **params) if params else {}
    methods = ("fit", "fit_transform", "transform")
    given = {
        name: {method: dict(routed.get(name, {}).get(method, {})) for method in methods} for name in shared
    }
    return given, params


def _consumed(estimator: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Return the params that the estimator still takes without its shared steps."""
    if not get_config()["enable_metadata_routing"] or not params:
        return params
    consumed = get_routing_for_object(estimator).consumes("fit", params.keys())
    return {name: value for name, value in params.items() if name in consumed}


def _prefixed_of_steps(
    pipeline: Pipeline, params: dict[str, Any], shared: list[str]
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Any]]:
    given: dict[str, dict[str, dict[str, Any]]] = {
        name: {"fit": {}, "fit_transform": {}, "transform": {}} for name in shared
    }
    rest = {}
    for key, value in params.items():
        step, _, name = key.partition("__")
        if step in given:
            given[step]["fit"][name] = given[step]["fit_transform"][name] = value
        else:
            rest[key] = value
    return given, rest


def _by_prefix(named: dict[str, Any], params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the params of each estimator: ``step__name`` for a Pipeline, else the arguments of `fit`."""
    known = {}
    for name, estimator in named.items():
        if isinstance(estimator, Pipeline):
            steps = {step for step, _ in estimator.steps}
            known[name] = {key: v for key, v in params.items() if key.partition("__")[0] in steps}
        else:
            accepted = inspect.signature(estimator.fit).parameters
            takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
            known[name] = {key: v for key, v in params.items() if takes_any or key in accepted}
    unknown = sorted(set(params) - set().union(*known.values()))
    if unknown:
        raise ValueError(
            f"params has {unknown}, which the fit of no estimator takes. Pass 'step__name' for a step of a "
            "Pipeline, and 'name' for any other estimator."
        )
    return known


def make_folds(
    splits: Iterable[tuple[np.ndarray, np.ndarray]], rows: np.ndarray, labels: np.ndarray, n: int
) -> list[Fold]:
    """Return the folds made from the rows of a splitter."""
    label_of = np.full(n, -1, dtype=np.intp)
    label_of[rows] = np.arange(len(rows))
    folds = []
    for number, (train, test) in enumerate(splits):
        labelled = np.flatnonzero(label_of[train] >= 0)
        folds.append(
            Fold(
                number,
                train,
                test,
                labelled,
                labels[label_of[train[labelled]]],
                labels[label_of[test]],
                key="",
            )
        )
        if not len(labelled):
            raise ValueError(f"No training row of fold {number} has a label. Pass another cv.")
    return folds


def numbers_of_labels(fractions: Any, folds: list[Fold], is_classes: bool) -> tuple[np.ndarray, list[float]]:
    """Return the number of labels of each fraction in each fold, and the name of the fraction.

    Parameters
    ----------
    fractions : list of float or of int
        Shares of the labels in (0, 1]; or numbers of labels, if all are ints.
    folds : list of Fold
        The folds.
    is_classes : bool
        Whether every class has to have a label.

    Returns
    -------
    numbers : ndarray of shape (n_fractions, n_folds)
        Numbers of labels.
    shares : list of float
        The fractions; of numbers of labels, the shares of the labels in the largest training set.
    """
    given = np.atleast_1d(np.asarray(fractions, dtype=object))  # as objects, ints stay ints beside floats
    fractions = [f.item() if isinstance(f, np.generic) else f for f in given] if given.ndim == 1 else []
    if not fractions:
        raise ValueError("fractions must be a list of at least one number.")
    if any(fractions.count(f) > 1 for f in fractions):
        raise ValueError(f"fractions has a number twice: {fractions}. Pass each number once.")
    sizes = [len(fold.labels) for fold in folds]
    absolute = all(isinstance(f, Integral) and not isinstance(f, bool) for f in fractions)
    numbers = np.empty((len(fractions), len(folds)), dtype=np.intp)
    for i, fraction in enumerate(fractions):
        if absolute:
            if not 0 < fraction <= min(sizes):
                raise ValueError(
                    f"fractions has {fraction}. All of them are ints, so they are numbers of labels and must "
                    f"be in [1, {min(sizes)}], the labels of the smallest training set. Pass such numbers, "
                    "or floats for shares."
                )
            numbers[i] = fraction
        elif isinstance(fraction, (int, float)) and fraction > 1:
            raise ValueError(
                f"fractions has {fraction} among {fractions}. Pass ints only, for numbers of labels; or only "
                "shares in (0, 1], with 1.0 for all labels."
            )
        else:
            share = check_fraction(fraction, "fractions")
            numbers[i] = [round(share * size) for size in sizes]
        for fold, size, n_drawn in zip(folds, sizes, numbers[i].tolist(), strict=True):
            n_classes = int(class_codes(fold.labels).max()) + 1 if is_classes else 1
            check_n_drawn(n_drawn, n_classes, size, fraction, "fractions")
    shares = [f / max(sizes) for f in fractions] if absolute else [float(f) for f in fractions]
    return numbers, shares


def draws(fold: Fold, n_draws: int, seed: int, is_classes: bool) -> list[np.ndarray]:
    """Return an order of the labels of a fold for each draw, which takes a prefix; order k never changes."""
    codes = class_codes(fold.labels) if is_classes else quantile_codes(fold.labels, _N_BINS)
    return [
        turns(codes, int(np.random.SeedSequence((seed, fold.number, draw)).generate_state(1)[0]))
        for draw in range(n_draws)
    ]
