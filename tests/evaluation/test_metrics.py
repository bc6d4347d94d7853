"""Mean per-class accuracy, VOC 2007 average precision and the paired permutation test."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from sklearn_simclr.evaluation.metrics import (
    average_precision_11point,
    mean_average_precision_11point,
    mean_per_class_accuracy,
    paired_permutation_test,
)


def test_mean_per_class_accuracy_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    weight = rng.random(200)
    assert mean_per_class_accuracy(y_true, y_pred) == pytest.approx(balanced_accuracy_score(y_true, y_pred))
    assert mean_per_class_accuracy(y_true, y_pred, sample_weight=weight) == pytest.approx(
        balanced_accuracy_score(y_true, y_pred, sample_weight=weight)
    )


def test_mean_per_class_accuracy_ignores_the_frequencies_of_classes():
    assert mean_per_class_accuracy([0] * 99 + [1], [0] * 100) == 0.5
    # A class that is only predicted has no share.
    assert mean_per_class_accuracy(["a", "a", "b"], ["a", "c", "b"]) == 0.75


def test_mean_per_class_accuracy_leaves_out_classes_of_weight_zero():
    assert mean_per_class_accuracy([0, 0, 1], [0, 1, 0], sample_weight=[1, 3, 0]) == 0.25


def naive_ap(relevant, score):
    """In exact fractions, by the definition: a loop over recalls and ranks."""
    ranked = [relevant[i] for i in sorted(range(len(score)), key=lambda i: -score[i])]
    total = sum(relevant)
    precisions = []
    for tenths in range(11):
        best = Fraction(0)
        for rank in range(1, len(ranked) + 1):
            hits = sum(ranked[:rank])
            if Fraction(hits, total) >= Fraction(tenths, 10):
                best = max(best, Fraction(hits, rank))
        precisions.append(best)
    return float(sum(precisions) / 11)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=25))
def test_average_precision_is_its_definition(rows):
    relevant, score = [int(r) for r, _ in rows], [s for _, s in rows]
    if not any(relevant):
        assert math.isnan(average_precision_11point(relevant, score))
    else:
        assert average_precision_11point(relevant, score) == pytest.approx(
            naive_ap(relevant, score), abs=1e-12
        )


def test_average_precision_in_closed_form():
    assert average_precision_11point([1, 1, 0, 0], [4, 3, 2, 1]) == 1
    # The only positive comes last of four: precision 1/4 at every recall.
    assert average_precision_11point([0, 0, 0, 1], [4, 3, 2, 1]) == 0.25
    # 0 .. 0.5 at rank 1, 0.6 .. 1 at rank 4.
    assert average_precision_11point([1, 0, 0, 1], [4, 3, 2, 1]) == pytest.approx((6 + 5 * 2 / 4) / 11)


def test_recalls_are_compared_exactly():
    # Three of ten positives come first: recalls 0, 0.1, 0.2 and 0.3 have precision 1, though 3 / 10 < 3 * 0.1
    # in floating point.
    relevant = [1] * 3 + [0] * 90 + [1] * 7
    assert average_precision_11point(relevant, -np.arange(100)) == pytest.approx((4 + 7 * 0.1) / 11)


def test_difficult_rows_count_neither_as_hits_nor_as_misses():
    y, score, difficult = [1, 0, 1, 0, 1], [5, 4, 3, 2, 1], [0, 1, 1, 0, 0]
    assert average_precision_11point(y, score, difficult=difficult) == average_precision_11point(
        [1, 0, 1], [5, 2, 1]
    )
    assert average_precision_11point(y, score, difficult=difficult) != average_precision_11point(y, score)


def test_mean_average_precision_is_the_mean_over_classes():
    rng = np.random.default_rng(1)
    y, score = rng.random((50, 4)) < 0.3, rng.random((50, 4))
    y[:, 3] = False
    difficult = rng.random((50, 4)) < 0.2
    each = mean_average_precision_11point(y, score, difficult=difficult, average=None)
    for k in range(3):
        kept = ~difficult[:, k]
        assert each[k] == pytest.approx(naive_ap(y[kept, k].astype(int).tolist(), score[kept, k].tolist()))
    assert np.isnan(each[3])
    assert mean_average_precision_11point(y, score, difficult=difficult) == pytest.approx(each[:3].mean())


@pytest.mark.parametrize("better, worse", [(0, 0), (3, 0), (5, 5), (10, 2), (200, 150), (4000, 3700)])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_test_of_accuracies_is_the_sign_test(better, worse, alternative):
    first = [1] * better + [0] * worse + [1] * 17 + [0] * 5
    second = [0] * better + [1] * worse + [1] * 17 + [0] * 5
    result = paired_permutation_test(first, second, alternative=alternative)
    expected = 1.0
    if better + worse:
        expected = stats.binomtest(better, better + worse, alternative=alternative).pvalue
    assert result.exact
    assert result.pvalue == pytest.approx(expected, rel=1e-9)
    assert result.statistic == pytest.approx((better - worse) / len(first))


def enumerated(first, second, weight, alternative):
    """The p-value from all 2^n ways to exchange the outcomes of n examples, in exact fractions."""
    terms = [w * (a - b) for a, b, w in zip(first, second, weight, strict=True)]
    observed, extreme = sum(terms), 0
    for signs in itertools.product((1, -1), repeat=len(terms)):
        value = sum(sign * term for sign, term in zip(signs, terms, strict=True))
        extreme += {
            "two-sided": abs(value) >= abs(observed),
            "greater": value >= observed,
            "less": value <= observed,
        }[alternative]
    return extreme / 2 ** len(terms)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("seed", range(6))
def test_mean_per_class_test_equals_enumeration(seed, alternative):
    rng = np.random.default_rng(seed)
    classes = np.repeat([0, 1, 2], [6, 3, 2])
    first, second = rng.integers(0, 2, (2, 11))
    weight = [Fraction(1, 3 * int((classes == c).sum())) for c in classes]
    result = paired_permutation_test(first, second, y_true=classes, alternative=alternative)
    assert result.exact
    expected = enumerated(first.tolist(), second.tolist(), weight, alternative)
    assert result.pvalue == pytest.approx(expected, rel=1e-9)
    difference = mean_per_class_accuracy(classes, np.where(first, classes, -1)) - mean_per_class_accuracy(
        classes, np.where(second, classes, -1)
    )
    assert result.statistic == pytest.approx(difference, abs=1e-12)


def test_values_other_than_right_and_wrong_equal_enumeration():
    first, second = [3, -1, 2, 7, 0, 2], [1, 1, -3, 2, 4, 2]
    result = paired_permutation_test(first, second)
    assert result.pvalue == pytest.approx(enumerated(first, second, [1] * 6, "two-sided"))


def test_samples_approach_the_exact_value():
    # 40 different absolute differences, so that sampling has to do it; their sum is nearly normal.
    rng = np.random.default_rng(0)
    first = rng.normal(0.3, 1, 400)
    result = paired_permutation_test(first, np.zeros(400), random_state=0)
    assert not result.exact
    z = first.sum() / np.sqrt((first**2).sum())
    expected = 2 * stats.norm.sf(abs(z))
    assert result.pvalue == pytest.approx(expected, abs=5 * np.sqrt(expected / 1e5) + 1e-4)
    assert result == paired_permutation_test(first, np.zeros(400), random_state=0)
    assert paired_permutation_test(first + 10, np.zeros(400), n_resamples=99).pvalue == 0.01


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(0)
    pvalues = []
    for _ in range(400):
        first, second = rng.random((2, 300)) < 0.7
        pvalues.append(paired_permutation_test(first, second).pvalue)
    # Discrete: never more often below a level than the level, but for chance, and not much less often.
    assert 0.02 < np.mean(np.array(pvalues) <= 0.05) < 0.085


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_per_class_accuracy([0, 1], [0]), "y_pred has 1 entries"),
        (lambda: mean_per_class_accuracy([], []), "y_true has shape"),
        (lambda: mean_per_class_accuracy([0, 1], [0, 1], sample_weight=[-1, 1]), "sample_weight"),
        (lambda: average_precision_11point([0, 2], [0.1, 0.2]), "y_true must hold booleans"),
        (lambda: average_precision_11point([0, 1], [0.1, np.nan]), r"y_score\[1\] is nan"),
        (lambda: average_precision_11point([0, 1], [0.1, 1], difficult=[3, 0]), "difficult must hold"),
        (lambda: mean_average_precision_11point([0, 1], [0, 1]), "y_true has shape"),
        (lambda: mean_average_precision_11point([[0, 1]], [[0.5]]), "y_score has shape"),
        (lambda: mean_average_precision_11point([[1]], [[0.5]], average="micro"), "average is 'micro'"),
        (lambda: paired_permutation_test([1, 0], [1]), "second has 1 entries"),
        (lambda: paired_permutation_test([1, 0], [1, 1], alternative="both"), "alternative is 'both'"),
        (lambda: paired_permutation_test([1, 0], [1, 1], n_resamples=0), "n_resamples is 0"),
        (lambda: paired_permutation_test(["a"], ["b"]), "first has dtype"),
        (lambda: paired_permutation_test([1, 0], [1, 1], y_true=[1]), "y_true has 1 entries"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
