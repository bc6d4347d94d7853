"""Metrics of the transfer protocol beside top-1 accuracy, and the test of a difference between two models.

Appendix B.8 of the paper reports mean per-class accuracy, or 11-point mean average precision on VOC 2007, and
compares models by a permutation test.
"""

import numbers
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.utils import check_random_state

__all__ = [
    "PermutationTestResult",
    "average_precision_11point",
    "mean_average_precision_11point",
    "mean_per_class_accuracy",
    "paired_permutation_test",
]

# Sums of the exact null distribution: up to so many there is nothing to sample for.
_MAX_SUPPORT = 2**20

# Sums that differ by roundings alone are equally extreme.
_ROUNDING = 1e-12

_RESAMPLES_A_BLOCK = 2**22


def mean_per_class_accuracy(y_true, y_pred, *, sample_weight=None):
    """Return the accuracy within each class, averaged over the classes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.
    y_pred : array-like of shape (n_samples,)
        Predicted labels.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights >= 0 of the rows within their class.

    Returns
    -------
    accuracy : float
        In [0, 1].

    Raises
    ------
    ValueError
        If the lengths differ, nothing is given, or a weight is negative.

    See Also
    --------
    sklearn.metrics.balanced_accuracy_score : The same number, under another name.

    Notes
    -----
    The mean is over the classes that occur in `y_true` with positive weight, each with the same share,
    however frequent. It is `balanced_accuracy_score`, except that predictions of a class that does not
    occur in `y_true` are just wrong here, where that function warns.

    References
    ----------
    T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, appendix B.8, arXiv:2002.05709.

    Examples
    --------
    >>> from sklearn_simclr.evaluation import mean_per_class_accuracy
    >>> mean_per_class_accuracy(["cat", "cat", "cat", "dog"], ["cat", "cat", "cat", "cat"])
    0.5
    """
    y_true, y_pred = _vector(y_true, "y_true"), _vector(y_pred, "y_pred")
    _check_length(y_pred, "y_pred", len(y_true))
    weight = np.ones(len(y_true))
    if sample_weight is not None:
        weight = _numbers(sample_weight, "sample_weight")
        _check_length(weight, "sample_weight", len(y_true))
        if (weight < 0).any() or not weight.any():
            raise ValueError("sample_weight must not be negative, nor zero everywhere; pass weights >= 0.")
    _, codes = np.unique(y_true, return_inverse=True)
    totals = np.bincount(codes, weights=weight)
    right = np.bincount(codes, weights=weight * (y_true == y_pred))
    occurs = totals > 0
    return float(np.mean(right[occurs] / totals[occurs]))


def average_precision_11point(y_true, y_score, *, difficult=None):
    """Return the 11-point interpolated average precision of PASCAL VOC 2007.

    Rows are ranked by score. The result is the mean, over the recalls 0, 0.1, ..., 1, of the largest
    precision at any rank that has at least that recall.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Whether the class is present: booleans, or 0 and 1.
    y_score : array-like of shape (n_samples,)
        Scores, the larger the more likely; finite.
    difficult : array-like of shape (n_samples,), default=None
        Booleans: rows to leave out, as VOC does with images in which all objects of the class are difficult.

    Returns
    -------
    average_precision : float
        In [0, 1]; NaN if no row is positive.

    Raises
    ------
    ValueError
        If the lengths differ, a score is not finite, or `y_true` or `difficult` is not binary.

    See Also
    --------
    mean_average_precision_11point : The mean over classes.
    sklearn.metrics.average_precision_score : The area under the curve, without interpolation.

    Notes
    -----
    Rows with equal scores are ranked in the order in which they are given, as by the official code. Recalls
    are compared as fractions of whole numbers: 3 of 10 positives have a recall of at least 0.3, which
    floating point arithmetic may deny.

    References
    ----------
    M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The PASCAL Visual Object Classes
    (VOC) Challenge", IJCV 88, 2010, section 4.2. :doi:`10.1007/s11263-009-0275-4`

    Examples
    --------
    >>> from sklearn_simclr.evaluation import average_precision_11point
    >>> average_precision_11point([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6])  # (6 * 1 + 5 * 2/3) / 11
    0.8485
    """
    positive, score = _binary(_vector(y_true, "y_true"), "y_true"), _numbers(y_score, "y_score")
    _check_length(score, "y_score", len(positive))
    if difficult is not None:
        difficult = _binary(_vector(difficult, "difficult"), "difficult")
        _check_length(difficult, "difficult", len(positive))
        positive, score = positive[~difficult], score[~difficult]
    n_positive = int(positive.sum())
    if not n_positive:
        return float("nan")
    hits = np.cumsum(positive[np.argsort(-score, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # The first rank at which 10 * hits >= tenths * n_positive.
    ranks = np.searchsorted(10 * hits, np.arange(11) * n_positive)
    return float(best_from_here[ranks].mean())


def mean_average_precision_11point(y_true, y_score, *, difficult=None, average="macro"):
    """Return the 11-point average precision of each class of a multi-label problem, or their mean.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        Whether each class is present: booleans, or 0 and 1.
    y_score : array-like of shape (n_samples, n_classes)
        Scores, the larger the more likely; finite.
    difficult : array-like of shape (n_samples, n_classes), default=None
        Booleans: rows to leave out for a class.
    average : {"macro", None}, default="macro"
        "macro" for the mean over classes, None for each class.

    Returns
    -------
    float or ndarray of shape (n_classes,)
        In [0, 1]. A class without a positive row is NaN and does not enter the mean; where there is no other
        the mean is NaN.

    Raises
    ------
    ValueError
        If the shapes differ, a score is not finite, or `y_true` or `difficult` is not binary.

    See Also
    --------
    average_precision_11point : One class.

    References
    ----------
    M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The PASCAL Visual Object Classes
    (VOC) Challenge", IJCV 88, 2010, section 4.2. :doi:`10.1007/s11263-009-0275-4`

    Examples
    --------
    >>> from sklearn_simclr.evaluation import mean_average_precision_11point
    >>> y_true = [[1, 0], [0, 1], [1, 1]]
    >>> y_score = [[0.9, 0.1], [0.2, 0.6], [0.8, 0.7]]
    >>> mean_average_precision_11point(y_true, y_score)
    1.0
    """
    if average not in ("macro", None):
        raise ValueError(f"average is {average!r}; pass 'macro' or None.")
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    if y_true.ndim != 2 or not y_true.shape[1]:
        raise ValueError(f"y_true has shape {y_true.shape}; pass one row a sample and one column a class.")
    others = {"y_score": y_score} if difficult is None else {"y_score": y_score, "difficult": difficult}
    for name, value in others.items():
        if np.shape(value) != y_true.shape:
            raise ValueError(
                f"{name} has shape {np.shape(value)} and y_true {y_true.shape}; pass equal shapes."
            )
    columns = np.zeros(y_true.shape, dtype=bool) if difficult is None else np.asarray(difficult)
    each = np.array(
        [
            average_precision_11point(y_true[:, k], y_score[:, k], difficult=columns[:, k])
            for k in range(y_true.shape[1])
        ]
    )
    if average is None:
        return each
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else float("nan")


class PermutationTestResult(NamedTuple):
    """Outcome of `paired_permutation_test`.

    Parameters
    ----------
    statistic : float
        The difference observed, first model minus second.
    pvalue : float
        Probability under the null hypothesis of a difference at least as extreme.
    exact : bool
        Whether `pvalue` is exact, and not an estimate from samples.

    Examples
    --------
    >>> from sklearn_simclr.evaluation import paired_permutation_test
    >>> paired_permutation_test([1, 1, 1], [0, 0, 0])
    PermutationTestResult(statistic=1.0, pvalue=0.25, exact=True)
    """

    statistic: float
    pvalue: float
    exact: bool


def paired_permutation_test(
    first, second, *, y_true=None, alternative="two-sided", n_resamples=100_000, random_state=None
):
    """Test whether two models differ in accuracy on the same examples.

    Under the null hypothesis the two models' outcomes on an example are exchangeable. The observed difference
    of the means is compared with those after exchanging the outcomes of each example with probability 1/2.

    Parameters
    ----------
    first : array-like of shape (n_samples,)
        What the first model scores on each example: whether it is right (booleans, or 0 and 1), or any other
        finite numbers.
    second : array-like of shape (n_samples,)
        The same for the second model, in the same order.
    y_true : array-like of shape (n_samples,), default=None
        If given, the statistic is the difference in mean per-class accuracy over these classes, else in
        accuracy.
    alternative : {"two-sided", "greater", "less"}, default="two-sided"
        Whether the first model may be better or worse, better, or worse.
    n_resamples : int, default=100_000
        Number of samples of the null distribution, >= 1, where it is too large to be enumerated.
    random_state : int, RandomState instance or None, default=None
        Seed of these samples.

    Returns
    -------
    PermutationTestResult
        The named tuple (statistic, pvalue, exact).

    Raises
    ------
    ValueError
        If the lengths differ, a value is not finite, or a parameter is out of range.

    See Also
    --------
    scipy.stats.permutation_test : Any statistic, by sampling.

    Notes
    -----
    This is the test of [1]_, appendix B.8, which takes 100,000 samples and calls p < 0.05 significant. Only
    the examples count on which the models differ, and of those with the same absolute difference only how
    many go which way: a binomial number. Hence

    - for accuracy the p-value is exact, that of the sign test, which is also McNemar's exact test;
    - otherwise, as for mean per-class accuracy, it is exact where the null distribution has at most 2**20
      combinations of such numbers, and else (b + 1) / (n_resamples + 1), where b samples are at least as
      extreme [2]_.

    Outcomes that are no sum over examples, such as mean average precision, are not exchangeable in this way.
    The test knows nothing of what another run of the training would give.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, appendix B.8. :doi:`10.48550/arXiv.2002.05709`
    .. [2] B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", 2010.
       :doi:`10.2202/1544-6115.1585`

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.evaluation import paired_permutation_test
    >>> first = np.array([1] * 90 + [0] * 10)  # 90 % right
    >>> second = np.array([1] * 80 + [0] * 18 + [1] * 2)  # 82 %: worse on 10 examples, better on 2
    >>> result = paired_permutation_test(first, second)
    >>> result.statistic, result.pvalue
    (0.08, 0.0386)
    """
    first, second = _numbers(first, "first"), _numbers(second, "second")
    _check_length(second, "second", len(first), "first")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative is {alternative!r}; pass 'two-sided', 'greater' or 'less'.")
    if isinstance(n_resamples, bool) or not isinstance(n_resamples, numbers.Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples!r}; pass an int >= 1.")
    difference = first - second
    if y_true is None:
        weight = np.full(len(first), 1 / len(first))
    else:
        y_true = _vector(y_true, "y_true")
        _check_length(y_true, "y_true", len(first), "first")
        _, codes, counts = np.unique(y_true, return_inverse=True, return_counts=True)
        weight = 1 / (counts[codes] * len(counts))
    terms = (weight * difference)[difference != 0]
    if not len(terms):
        return PermutationTestResult(0.0, 1.0, True)

    sizes, counts = _distinct(np.abs(terms))
    observed = float(terms.sum())
    # Slack in proportion to the terms, so that sums equal but for roundings count as equal.
    slack = _ROUNDING * float(np.abs(terms).sum())
    if len(sizes) == 1 or np.prod(counts + 1.0) <= _MAX_SUPPORT:
        sums, chances = _null_distribution(sizes, counts)
        pvalue = float(chances[_extreme(sums, observed, alternative, slack)].sum())
        return PermutationTestResult(observed, min(pvalue, 1.0), True)

    rng = check_random_state(random_state)
    n_extreme, step = 0, max(1, _RESAMPLES_A_BLOCK // len(sizes))
    for start in range(0, n_resamples, step):
        n = min(step, n_resamples - start)
        sums = (2 * rng.binomial(counts, 0.5, size=(n, len(counts))) - counts) @ sizes
        n_extreme += int(_extreme(sums, observed, alternative, slack).sum())
    return PermutationTestResult(observed, (n_extreme + 1) / (int(n_resamples) + 1), False)


def _distinct(sizes):
    """Distinct values, those that differ by roundings taken for one, and how often each occurs."""
    ordered = np.sort(sizes)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered) > _ROUNDING * ordered[1:]]))
    counts = np.diff(np.append(starts, len(ordered)))
    return ordered[starts], counts


def _null_distribution(sizes, counts):
    """All values of sum_j sizes_j (2 B_j - counts_j), B_j binomial(counts_j, 1/2), and their chances."""
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        number = np.arange(count + 1)
        sums = np.add.outer(sums, size * (2 * number - count)).ravel()
        chances = np.multiply.outer(chances, stats.binom.pmf(number, count, 0.5)).ravel()
    return sums, chances


def _extreme(sums, observed, alternative, slack):
    if alternative == "greater":
        return sums >= observed - slack
    if alternative == "less":
        return sums <= observed + slack
    return np.abs(sums) >= abs(observed) - slack


def _vector(value, name):
    value = np.asarray(value)
    if value.ndim != 1 or not len(value):
        raise ValueError(f"{name} has shape {value.shape}; pass one entry a row, and at least one row.")
    return value


def _numbers(value, name):
    value = _vector(value, name)
    if value.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {value.dtype}; pass numbers.")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        at = int(np.argmin(np.isfinite(value)))
        raise ValueError(f"{name}[{at}] is {value[at]}; pass finite numbers.")
    return value


def _binary(value, name):
    if value.dtype.kind not in "biuf" or not np.isin(value, (0, 1)).all():
        raise ValueError(f"{name} must hold booleans, or 0 and 1 alone; found {value[:5].tolist()}, ...")
    return value.astype(bool)


def _check_length(value, name, n, other="y_true"):
    if len(value) != n:
        raise ValueError(f"{name} has {len(value)} entries and {other} {n}; pass one for each sample.")
