"""The permutation test of the paper's table of transfer: do two results differ by more than chance?"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats
from sklearn.utils.class_weight import compute_sample_weight

from .._utils.seeds import draw_seed
from .._utils.types import RandomState
from .metrics import mean_average_precision_11point

__all__ = ["compare_transfers"]

# Exchanges that scipy draws at a time: some 100 MB for 10,000 images.
_BATCH = 100


def compare_transfers(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    protocol: str | tuple[str, str] = "linear",
    *,
    n_resamples: int = 10_000,
    random_state: RandomState = None,
) -> Any:
    """Test whether two results of `transfer_evaluation` differ, by the test of the paper's table 8.

    Parameters
    ----------
    first : Bunch
        Result of `transfer_evaluation`, on at least two test rows.
    second : Bunch
        Another result, for the same test rows and metric; or the same result, to compare two protocols.
    protocol : str or (str, str), default="linear"
        Protocol to compare, or the protocol of `first` and that of `second`.
    n_resamples : int, default=10_000
        Number of samples of the null distribution if it cannot be enumerated, at least 1. The paper has
        100,000.
    random_state : int, RandomState instance or None, default=None
        Seed of these samples.

    Returns
    -------
    result : scipy.stats._result_classes.PermutationTestResult
        Result of :func:`scipy.stats.permutation_test`. Its attributes are `statistic`, the score of the first
        minus that of the second, `pvalue` and `null_distribution`. The paper calls a score "not significantly
        worse" if p > 0.05.

    Raises
    ------
    ValueError
        If the results have different test rows or metrics, or a protocol is missing.

    See Also
    --------
    transfer_evaluation : Computes the results.
    scipy.stats.permutation_test : Tests any statistic.

    Notes
    -----
    Under the null hypothesis, the predictions of the two models for an image are exchangeable. The observed
    difference is compared with the differences after exchanging the predictions for each image with
    probability 1/2. The p-value is two-sided. For accuracies, only those images count on which one model is
    right and the other one is wrong. If all their exchanges are at most `n_resamples`, the p-value is exact.
    Otherwise it is (b + 1) / (n_resamples + 1) for each side, with b samples at least as extreme [2]_.

    The paper tests accuracy on all data sets, including VOC 2007. For mean average precision, this function
    exchanges the rank of the image for each label, since the scores of two models have no common unit. The
    ranks of one image depend on those of the others, so that predictions are exchangeable only
    approximately. Read this p-value with care.

    The test does not include the variation between trainings.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, table 8 and appendix B.8. :arxiv:`2002.05709`
    .. [2] B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", 2010.
       :doi:`10.2202/1544-6115.1585`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer, compare_transfers, transfer_evaluation
    >>> X, y = load_digits(return_X_y=True)
    >>> results = [
    ...     transfer_evaluation(
    ...         SimCLRTransformer(max_epochs=epochs, random_state=0).fit(X[:600]),
    ...         X[600:700], y[600:700], X_test=X[700:], y_test=y[700:], protocols=("linear",), random_state=0,
    ...     )
    ...     for epochs in (3, 0)
    ... ]
    >>> test = compare_transfers(*results, random_state=0)
    >>> bool(-1 <= test.statistic <= 1), bool(0 < test.pvalue <= 1)
    (True, True)
    """
    one, other = _predictions(first, second, protocol)
    y_test, metric = first["y_test"], first["metric"]
    if metric == "mean_average_precision":
        signs, difference = np.ones(len(y_test)), _difference_of_rankings(one, other, y_test)
    else:
        signs, difference = _difference_of_accuracies(one == y_test, other == y_test, y_test, metric)
    # Exchanging two predictions for an image changes the sign of the image's share.
    with np.errstate(over="ignore"):  # scipy before 1.17 counts the 2^n exchanges in float64
        return stats.permutation_test(
            (signs,),
            difference,
            permutation_type="samples",
            n_resamples=n_resamples,
            batch=_BATCH,
            rng=draw_seed(random_state),
        )


def _predictions(
    first: Mapping[str, Any], second: Mapping[str, Any], protocol: str | tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the two models predict for the same rows."""
    names = (protocol, protocol) if isinstance(protocol, str) else tuple(protocol)
    if len(names) != 2:
        raise ValueError(f"protocol must be a name or a pair of names, got {protocol!r}.")
    for which, result, name in zip(("first", "second"), (first, second), names, strict=True):
        if name not in result["predictions"]:
            raise ValueError(
                f"{which} has no protocol {name!r}, only {', '.join(result['predictions'])}. Pass one of "
                "these names as protocol."
            )
    if first["metric"] != second["metric"]:
        raise ValueError(
            f"first was scored by {first['metric']} and second by {second['metric']}; pass results with the "
            "same metric."
        )
    if not np.array_equal(first["y_test"], second["y_test"]):
        raise ValueError("first and second differ in y_test; pass results on the same test rows.")
    return first["predictions"][names[0]], second["predictions"][names[1]]


def _difference_of_accuracies(
    one: np.ndarray, other: np.ndarray, y_test: np.ndarray, metric: str
) -> tuple[np.ndarray, Callable[..., Any]]:
    """Return each image's share in the difference, and the function that sums the shares."""
    n = len(y_test)
    shares = one.astype(np.float64) - other
    if metric == "mean_per_class":
        shares *= compute_sample_weight("balanced", y_test)
    # Images on which both are right or both wrong do not matter, but scipy asks for two images at least.
    kept = np.argsort(shares == 0, kind="stable")[: max(2, int(np.count_nonzero(shares)))]
    return shares[kept], lambda shares, axis: shares.sum(axis) / n


def _difference_of_rankings(
    one: np.ndarray, other: np.ndarray, y_test: np.ndarray
) -> Callable[[np.ndarray], float]:
    """Return the difference of the mean average precisions as a function of each image's sign."""
    first, second = (
        -np.argsort(np.argsort(-scores, axis=0, kind="stable"), axis=0) for scores in (one, other)
    )

    def difference(signs: np.ndarray) -> float:
        exchanged = (signs < 0)[:, None]
        one_score = mean_average_precision_11point(y_test, np.where(exchanged, second, first))
        other_score = mean_average_precision_11point(y_test, np.where(exchanged, first, second))
        return float(one_score - other_score)

    return difference
