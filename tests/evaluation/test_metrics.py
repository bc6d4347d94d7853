"""The 11-point average precision of VOC 2007."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_simclr.evaluation import average_precision_11point, mean_average_precision_11point


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


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: average_precision_11point([0, 2], [0.1, 0.2]), "y_true must hold booleans"),
        (lambda: average_precision_11point([0, 1], [0.1, np.nan]), r"y_score\[1\] is nan"),
        (lambda: average_precision_11point([0, 1], [0.1, 1], difficult=[3, 0]), "difficult must hold"),
        (lambda: average_precision_11point([0, 1], [1]), r"y_score has shape \(1,\)"),
        (lambda: average_precision_11point([], []), r"y_true has shape \(0,\)"),
        (lambda: average_precision_11point([0, 1], ["a", "b"]), "y_score has dtype"),
        (lambda: mean_average_precision_11point([0, 1], [0, 1]), "y_true has shape"),
        (lambda: mean_average_precision_11point([[0, 1]], [[0, np.inf]]), r"y_score\[0, 1\] is inf"),
        (lambda: mean_average_precision_11point([[0, 1]], [[0.5]]), "y_score has shape"),
        (lambda: mean_average_precision_11point([[1]], [[0.5]], average="micro"), "average is 'micro'"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
