"""The label-fraction study: scores of estimators against the share of the labels that they learn from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import sklearn
from numpy.typing import ArrayLike
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import FitFailedWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_memory

from .._utils.labels import labelled_rows, labelled_targets
from .._utils.places import local_folder
from .._utils.types import Images, Labels, Memory, RandomState
from .._utils.warn import warn
from .._version import __version__
from ..images.indexing import indexable, length_mismatch
from ._curve_plan import Plan, draws, make_folds, make_plans, make_splitter, numbers_of_labels, target_kind
from ._curve_run import FitId, Study, run_fits
from ._curve_steps import key_of, named_estimators
from ._curve_tasks import Fit, Fold, Outcome
from .splitters import is_continuous

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["label_fraction_curve"]

_COLUMNS = ("estimator", "fraction", "n_labels", "fold", "draw")
_TIMES = ("fit_time", "score_time", "shared_time")

# Characters of an error in a message that may list several.
_LONGEST = 1000


def label_fraction_curve(
    estimators: Any,
    X: Images,
    y: Labels,
    *,
    fractions: Sequence[float],
    cv: Any = None,
    scoring: Any = None,
    n_draws: int = 1,
    n_jobs: int | None = None,
    random_state: RandomState = None,
    params: Mapping[str, Any] | None = None,
    groups: ArrayLike | None = None,
    error_score: float | Literal["raise"] = np.nan,
    memory: Memory = None,
    verbose: int = 0,
    return_train_score: bool = False,
    return_indices: bool = False,
    return_estimator: bool = False,
) -> pd.DataFrame:
    """Score estimators that learn from fractions of the labels.

    In each fold of a cross-validation, every estimator is fitted on balanced, nested draws of the labels of
    the training set, and scored on the test set. The first steps of a Pipeline that need no labels are fitted
    once per fold, on all training rows, whatever the number of fractions and draws. Pipelines that begin with
    equal steps share these.

    Parameters
    ----------
    estimators : dict of str to estimator or str, list, estimator or str
        Pipelines, classifiers or regressors to compare. A list holds pairs of a name and an estimator, or
        estimators, which are named after their classes. The string ``"torchvision:NAME"`` or ``"timm:NAME"``
        stands for frozen features of a network that was trained on photographs, with a logistic regression
        whose penalty is chosen by cross-validation on the labels drawn. ``"imagenet"`` is
        ``"torchvision:resnet50"``. See the parameter ``weights`` of :class:`SimCLRTransformer` for the names
        and for downloads.
    X : array-like, sparse matrix, DataFrame, list or dataset, with n_samples rows
        Images, or whatever the estimators accept.
    y : array-like of shape (n_samples,)
        Labels. -1 (classes only), None and NaN mark rows without a label.
    fractions : list of float or list of int
        Shares in (0, 1] of the labels of the training set. If all are ints, they are numbers of labels over
        all classes, like ``train_sizes`` of ``learning_curve``.
    cv : int, cross-validator, iterable or None, default=None
        Splits of the labelled rows, as in ``cross_validate``. None is 5 folds, stratified for classifiers.
        Rows without a label are in every training set, and in no test set; see `SemiSupervisedKFold`.
    scoring : str, callable, list, tuple, dict or None, default=None
        One metric or several, as in ``cross_validate``. None is the `score` of each estimator.
    n_draws : int, default=1
        Number of draws of the labels in each fold, at least 1. Several draws show how much the score depends
        on the draw.
    n_jobs : int or None, default=None
        Number of parallel jobs, first over folds, then over fits. The results do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws. Draw k of fold j is the same for all estimators, fractions and values of `n_draws`.
    params : dict or None, default=None
        Metadata. With metadata routing enabled, estimators, scorers and splitter get what they request.
        Otherwise `fit` gets the entries ``step__name`` for a step of a Pipeline and ``name`` for other
        estimators, as far as its signature has the name. Values with one entry per row are sliced.
    groups : array-like of shape (n_samples,) or None, default=None
        Groups for `cv`. With metadata routing enabled, pass them in `params`.
    error_score : "raise" or float, default=nan
        Score of a fit that fails, with a ``FitFailedWarning``. "raise" raises the error of the fit.
    memory : str, joblib.Memory or None, default=None
        Folder that keeps the shared steps and the scores of each fit that succeeded. An interrupted study
        goes on where it stopped; a study with more fractions, draws or estimators fits only the new ones.
        For that, `random_state` and the seeds of `cv` and of the shared steps must be ints, not None.
    verbose : int, default=0
        1 shows a progress bar.
    return_train_score : bool, default=False
        Whether to score also on the labels drawn.
    return_indices : bool, default=False
        Whether to add the columns ``train_indices``, rows of X whose labels were drawn, and
        ``test_indices``.
    return_estimator : bool, default=False
        Whether to add the column ``fitted_estimator``. These estimators include the shared steps and take
        rows of X.

    Returns
    -------
    results : DataFrame
        One row per fit, ordered by estimator, fraction, fold and draw, with the columns

        - ``estimator`` (name), ``fraction``, ``n_labels``, ``fold`` and ``draw`` (from 0 on). If `fractions`
          are numbers of labels, ``fraction`` is the share of the labels in the largest training set;
        - ``score``, and ``train_score`` if asked for. Several metrics have one column each, ``NAME`` and
          ``train_NAME``;
        - ``fit_time``, ``score_time`` and ``shared_time``, in seconds. The first is for fitting the other
          steps on the draw, the second for scoring on the test set. The third is for fitting the shared steps
          and applying them to all rows of the fold, which happens once for all fits that share them.

        ``attrs["score_name"]`` of the table is the name of the score, such as ``"accuracy"``, if it is known.

    Raises
    ------
    TypeError
        If an entry of `estimators` is not an estimator.
    ValueError
        If a parameter is out of range, classifiers and regressors are mixed, or all fits fail. Also, before
        any fit, if a fraction leaves a class without a label in a fold.

    Warns
    -----
    FitFailedWarning
        If some fits fail.

    See Also
    --------
    sklearn_simclr.LabelFractionDisplay : Draws the table.
    sklearn_simclr.LabelFractionClassifier : Makes the fraction a parameter of a search.
    sklearn_simclr.SemiSupervisedKFold : Makes the folds.
    sklearn.model_selection.learning_curve : Fits on fewer rows, where this function fits on fewer labels.

    Notes
    -----
    No label leaks. Shared steps get no `y`, and other steps get only the labels drawn. From the first step
    that needs labels on, a Pipeline is fitted on the drawn rows only. A step needs labels in three cases: its
    tags say so (``target_tags.required``, as for ``LinearDiscriminantAnalysis`` or ``SelectKBest``), an
    estimator among its parameters needs labels (``SelectFromModel``), or the step also learns from unlabelled
    rows.

    An estimator that learns from labelled and unlabelled rows declares it by a true attribute
    ``learns_from_unlabelled``. ``SelfTrainingClassifier``, ``LabelPropagation`` and ``LabelSpreading`` are
    recognised without it. Such an estimator gets all training rows, with -1 in place of the labels that were
    not drawn. The mark is None if labels are not numbers or -1 is a class, and NaN in a regression.

    A `LabelFractionClassifier` or `LabelFractionRegressor`, alone or as the last step, takes all labels of
    the draw: its own ``label_fraction`` is set to 1.

    Draws are balanced as in `label_subset`: classes have equal counts, as far as the rare classes allow.
    Targets of regressors are drawn equally from ten quantile bins.

    Scorers get the Pipeline with "passthrough" for the shared steps, and the output of these steps for the
    test rows. If several draws have the same rows, as at fraction 1, one fit stands for all of them, unless
    the tags of the estimator say that it is not deterministic.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_simclr.evaluation import label_fraction_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> estimators = {
    ...     "logistic": make_pipeline(PCA(20, random_state=0), LogisticRegression(max_iter=1000)),
    ...     "bayes": make_pipeline(PCA(20, random_state=0), GaussianNB()),
    ... }
    >>> results = label_fraction_curve(
    ...     estimators, X / 16, y, fractions=[0.03, 1.0], cv=3, n_draws=2, random_state=0
    ... )
    >>> results.groupby(["estimator", "n_labels"])["score"].mean().round(1)
    estimator  n_labels
    bayes      36          0.5
               1198        0.9
    logistic   36          0.8
               1198        0.9
    Name: score, dtype: float64
    """
    n_draws, raise_error = _checked(n_draws, error_score)
    named = named_estimators(estimators)
    X, n = indexable(X)
    kind = target_kind(named, y)
    if kind == "auto":
        kind = "numbers" if is_continuous(y) else "classes"
    is_classes = kind == "classes"
    rows, labels, n_y = (labelled_rows if is_classes else labelled_targets)(y)
    if n != n_y:
        raise ValueError(length_mismatch(n, n_y))
    if isinstance(memory, str | os.PathLike):
        memory = str(local_folder(memory, "memory"))
    memory = check_memory(memory)
    stored = getattr(memory, "location", None) is not None
    splitter = make_splitter(cv, kind)
    plans, split_params = make_plans(named, splitter, scoring, params, groups, raise_error, stored)
    folds = make_folds(splitter.split(X, y, **split_params), rows, labels, n)
    numbers, shares = numbers_of_labels(fractions, folds, is_classes)
    seed = _seed(random_state)
    if stored:
        data_key = key_of([X, sklearn.__version__, __version__], "X")
        for fold in folds:
            fold.key = key_of([data_key, fold.train, fold.test])

    options = {
        "n_rows": n,
        "return_train_score": bool(return_train_score),
        "return_estimator": bool(return_estimator),
        "raise_error": raise_error,
    }
    # Draws of the same rows share one fit.
    fits: dict[FitId, Fit] = {}
    fit_of = {}
    for fold in folds:
        orders = draws(fold, n_draws, seed, is_classes)
        for p, plan in enumerate(plans):
            for f, draw in product(range(len(shares)), range(n_draws)):
                drawn = np.sort(orders[draw][: numbers[f, fold.number]])
                fit = _make_fit(plan, fold, drawn, () if plan.is_deterministic else (f, draw), options)
                fit_of[p, f, fold.number, draw] = at = (fold.number, p, fit.key)
                fits.setdefault(at, fit)
    study = Study(X, plans, folds, memory, n_jobs, raise_error)
    outcomes = run_fits(study, fits, verbose=verbose)
    _warn_of_failures(outcomes, plans, error_score)
    metrics = {
        kind: _metrics(outcomes.values(), kind)
        for kind in (("score", "train_score") if return_train_score else ("score",))
    }
    records = [
        {
            "estimator": plans[p].name,
            "fraction": shares[f],
            "n_labels": len(fits[at].indices),
            "fold": number,
            "draw": draw,
            **_scores(outcomes[at], metrics, error_score),
            **{name: getattr(outcomes[at], name) for name in _TIMES},
            **_extras(outcomes[at], fits[at], folds[number], return_indices, return_estimator),
        }
        for (p, f, number, draw), at in sorted(fit_of.items())
    ]
    import pandas as pd

    results = pd.DataFrame.from_records(records)
    results.attrs["score_name"] = _score_name(scoring, list(named.values()))
    return results


def _score_name(scoring: Any, estimators: list[Any]) -> str | None:
    """Return the name of the score that a scorer computes; None if it is not known."""
    if scoring is None:
        if all(map(is_classifier, estimators)):
            return "accuracy"
        return "r2" if all(map(is_regressor, estimators)) else None
    return scoring if isinstance(scoring, str) else getattr(scoring, "__name__", None)


def _checked(n_draws: int, error_score: float | Literal["raise"]) -> tuple[int, bool]:
    if not isinstance(n_draws, Integral) or isinstance(n_draws, bool) or n_draws < 1:
        raise ValueError(f"n_draws must be an int of at least 1, found {n_draws!r}.")
    is_number = isinstance(error_score, Real) and not isinstance(error_score, bool)
    if not is_number and not (isinstance(error_score, str) and error_score == "raise"):
        raise ValueError(f"error_score must be 'raise' or a number, found {error_score!r}.")
    return int(n_draws), not is_number


def _seed(random_state: RandomState) -> int:
    if isinstance(random_state, Integral):
        check_random_state(random_state)
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def _make_fit(
    plan: Plan, fold: Fold, drawn: np.ndarray, which: tuple[int, ...], options: dict[str, Any]
) -> Fit:
    rows = fold.labelled[drawn]
    asked_for = options["return_train_score"], options["return_estimator"]
    steps = plan.chain_key, plan.key
    key = key_of([fold.key, steps, rows, fold.labels[drawn], fold.test_labels, which, asked_for])
    return Fit(
        key=key,
        estimator=plan.estimator,
        params=plan.params,
        scorer=plan.scorer,
        score_params=plan.score_params,
        indices=drawn,
        semi_supervised=plan.semi_supervised,
        mark=plan.mark,
        # The output of shared steps is not a kernel any more.
        pairwise=plan.pairwise and not plan.chain,
        **options,
    )


def _warn_of_failures(
    outcomes: dict[FitId, Outcome],
    plans: list[Plan],
    error_score: float | Literal["raise"],
) -> None:
    """Say once which estimators failed, how often and why."""
    failed: dict[int, list[str]] = {}
    unscored: dict[int, list[str]] = {}
    fits = Counter(p for _, p, _ in outcomes)
    for (_, p, _), outcome in outcomes.items():
        if outcome.fit_error is not None:
            failed.setdefault(p, []).append(outcome.fit_error)
        elif outcome.score_errors:
            unscored.setdefault(p, []).append(outcome.score_errors[0])

    def listed(errors: dict[int, list[str]]) -> str:
        lines = []
        for p, said in sorted(errors.items()):
            lines.append(f"estimator {plans[p].name!r}, {len(said)} of {fits[p]} fits: {_shortened(said[0])}")
            if len(set(said)) > 1:
                lines[-1] += "\n  and the like"
        return "\n".join(lines)

    n_failed = sum(map(len, failed.values()))
    if n_failed == len(outcomes):
        raise ValueError(
            f"All of the {n_failed} fits failed. Pass error_score='raise' for the traceback.\n"
            f"{listed(failed)}"
        )
    if failed:
        warn(
            f"{n_failed} of {len(outcomes)} fits failed; their scores are {error_score}. Pass "
            f"error_score='raise' for the traceback.\n{listed(failed)}",
            FitFailedWarning,
        )
    if unscored:
        warn(f"Scoring failed; the score is {error_score}.\n{listed(unscored)}")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _metrics(outcomes: Iterable[Outcome], kind: str) -> list[str] | None:
    """Return the names of the metrics, which failed fits lack; None for a single metric."""
    names = next((list(s) for outcome in outcomes if isinstance(s := getattr(outcome, kind), dict)), None)
    clashes = {*_COLUMNS, *_TIMES}.intersection(names or ())
    if clashes:
        raise ValueError(
            f"scoring has a metric {min(clashes)!r}, but a column of the results has this name. Rename the "
            "metric."
        )
    return names


def _scores(
    outcome: Outcome, metrics: dict[str, list[str] | None], error_score: float | Literal["raise"]
) -> dict[str, Any]:
    columns = {}
    for kind, names in metrics.items():
        found = getattr(outcome, kind)
        if names is None:
            columns[kind] = error_score if found is None else found
            continue
        for name in names:
            score = None if found is None else found[name]
            columns[name if kind == "score" else f"train_{name}"] = error_score if score is None else score
    return columns


def _extras(
    outcome: Outcome, fit: Fit, fold: Fold, return_indices: bool, return_estimator: bool
) -> dict[str, Any]:
    extras = {}
    if return_indices:
        extras["train_indices"] = fold.train[fold.labelled[fit.indices]]
        extras["test_indices"] = fold.test
    if return_estimator:
        extras["fitted_estimator"] = outcome.estimator
    return extras
