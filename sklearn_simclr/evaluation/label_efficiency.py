"""Compute how many times fewer labels one estimator needs than another for the same score."""

from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LabelSaving", "label_saving"]

_COLUMNS = ("estimator", "fraction", "n_labels", "score")


class LabelSaving(NamedTuple):
    """Ratio of the numbers of labels that two estimators need for the same score.

    Parameters
    ----------
    factor : float
        Labels of the reference divided by labels of the estimator; NaN if the estimator does not reach the
        score.
    at_least : bool
        Whether `factor` is only a lower bound, because the estimator reaches the score already with the
        fewest labels that were measured.
    score : float
        Mean score of the reference, which the estimator has to reach.
    fraction : float
        Fraction of the labels with which the estimator reaches the score; NaN if it does not.
    reference_fraction : float
        Fraction of the labels with which the reference has the score.

    See Also
    --------
    sklearn_simclr.label_saving : Computes the ratio.

    Examples
    --------
    >>> from sklearn_simclr.evaluation import LabelSaving
    >>> str(LabelSaving(12.3, False, 0.9, 0.01, 0.123)), str(LabelSaving(0.82, True, 0.9, 0.01, 0.0082))
    ('12× fewer labels', '≥ 0.8× fewer labels')
    """

    factor: float
    at_least: bool
    score: float
    fraction: float
    reference_fraction: float

    def __str__(self) -> str:
        if np.isnan(self.factor):
            return "not reached"
        number = f"{self.factor:,.0f}" if self.factor >= 9.95 else f"{self.factor:.1f}"
        return f"{'≥ ' if self.at_least else ''}{number.removesuffix('.0')}× fewer labels"


def label_saving(
    results: "pd.DataFrame", estimator: str, reference: str, *, at: float | None = None
) -> LabelSaving:
    """Compute how many times fewer labels an estimator needs to reach the score of a reference.

    Scores are averaged over folds and draws. Between two measured fractions, the mean score is assumed to
    grow linearly with the logarithm of the number of labels.

    Parameters
    ----------
    results : DataFrame
        Columns ``estimator``, ``fraction`` (in (0, 1]), ``n_labels`` (> 0) and ``score`` (greater is
        better), one row per fit. Rows without a score are left out.
    estimator : str
        Name of the estimator that saves labels.
    reference : str
        Name of the estimator whose score is to be reached.
    at : float, default=None
        Fraction of the labels for the reference, within its measured fractions. None is the largest of
        these.

    Returns
    -------
    LabelSaving
        The factor is

        - the ratio of the two numbers of labels, at the point where the estimator's mean curve first reaches
          the score;
        - a lower bound, with ``at_least=True``, if the estimator reaches the score at its smallest fraction;
        - NaN if the estimator does not reach the score at any measured fraction.

    Raises
    ------
    TypeError
        If `results` is no DataFrame.
    ValueError
        If a column or an estimator is missing, or `at` is outside of the reference's fractions.

    See Also
    --------
    LabelFractionDisplay : Draws the saving as an arrow between the curves.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_simclr.evaluation import label_saving
    >>> results = pd.DataFrame({
    ...     "estimator": ["SimCLR"] * 3 + ["supervised"] * 3,
    ...     "fraction": [0.01, 0.1, 1.0] * 2,
    ...     "n_labels": [10, 100, 1000] * 2,
    ...     "score": [0.7, 0.8, 0.9, 0.5, 0.6, 0.75],
    ... })
    >>> label_saving(results, "SimCLR", "supervised").factor
    31.62
    >>> label_saving(results, "SimCLR", "supervised", at=0.1)
    LabelSaving(factor=10.0, at_least=True, score=0.6, fraction=0.01, reference_fraction=0.1)
    """
    results = check_results(results)
    for name in (estimator, reference):
        check_known(results, name)
    fractions, n_labels, scores = mean_curve(results, reference)
    if at is None:
        at = fractions[-1]
    if not isinstance(at, Real) or not fractions[0] <= at <= fractions[-1]:
        raise ValueError(
            f"at={at!r}, but {reference!r} was measured at fractions from {fractions[0]:g} to "
            f"{fractions[-1]:g}. Pass a fraction between them."
        )
    at = float(at)
    target = float(np.interp(np.log(at), np.log(fractions), scores))
    needed_by_reference = _interpolate_log(at, fractions, n_labels)

    fractions, n_labels, scores = mean_curve(results, estimator)
    reached = scores >= target
    if not reached.any():
        return LabelSaving(np.nan, False, target, np.nan, float(at))
    first = int(reached.argmax())
    if first == 0:
        at_least = bool(scores[0] > target)
        return LabelSaving(
            needed_by_reference / float(n_labels[0]), at_least, target, float(fractions[0]), float(at)
        )
    share = (target - scores[first - 1]) / (scores[first] - scores[first - 1])
    fraction = np.exp(np.interp(share, [0, 1], np.log(fractions[first - 1 : first + 1])))
    needed = np.exp(np.interp(share, [0, 1], np.log(n_labels[first - 1 : first + 1])))
    return LabelSaving(needed_by_reference / float(needed), False, target, float(fraction), float(at))


def _interpolate_log(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    return float(np.exp(np.interp(np.log(x), np.log(xs), np.log(ys))))


def check_results(results: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows that have a score."""
    if not hasattr(results, "columns"):
        raise TypeError(
            "results must be a DataFrame with one row per fit, as label_fraction_curve returns it, got "
            f"{type(results).__name__}."
        )
    missing = [name for name in _COLUMNS if name not in results.columns]
    if missing:
        raise ValueError(
            f"results lacks the columns {missing}; it has {list(results.columns)}. "
            "Pass what label_fraction_curve returns."
        )
    for name, low, high in (("fraction", 0, 1), ("n_labels", 0, np.inf)):
        bad = ~((results[name] > low) & (results[name] <= high)).to_numpy()
        if bad.any():
            value = results[name].iloc[int(bad.argmax())]
            raise ValueError(
                f"{name} must be in (0, {high:g}{']' if high == 1 else ')'}, but row {int(bad.argmax())} of "
                f"results has {value}."
            )
    results = results[results["score"].notna()]
    if not len(results):
        raise ValueError("results has no row with a score; pass results of fits that succeeded.")
    return results


def check_known(results: "pd.DataFrame", name: str) -> None:
    """Raise unless an estimator has a score."""
    known = list(results["estimator"].unique())
    if name not in known:
        raise ValueError(f"{name!r} is not among the estimators with a score in results: {known}.")


def mean_curve(results: "pd.DataFrame", name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return fractions in rising order, with the means of labels and scores over folds and draws."""
    means = results[results["estimator"] == name].groupby("fraction")[["n_labels", "score"]].mean()
    return means.index.to_numpy(float), *means.to_numpy(float).T
