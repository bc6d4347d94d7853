"""Quantities of the theory against loops in float64, closed forms, and each other."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_simclr.theory import (
    ContrastiveTuples,
    collision_probability,
    contrastive_margins,
    degenerate_loss,
    intraclass_deviation,
    margin_loss,
    sample_tuples,
    unsupervised_loss,
)

PRIORS = st.lists(st.floats(0.01, 1), min_size=1, max_size=5).map(lambda p: np.array(p) / sum(p))


def naive_loss(v, loss):
    if loss == "hinge":
        return max(0.0, 1 + max(-x for x in v))
    if loss == "logistic":
        return math.log(1 + sum(math.exp(-x) for x in v)) / math.log(2)
    return float(any(x < 0 for x in v))


def points(n=40, d=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=[0.6, 0.3, 0.1][:classes])])
    return rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[y], y


@pytest.mark.parametrize("loss", ["logistic", "hinge", "zero_one"])
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=5))
def test_margin_loss_is_its_formula(loss, v):
    assert margin_loss(v, loss) == pytest.approx(naive_loss(v, loss), rel=1e-12, abs=1e-15)


def test_margin_loss_of_margins_too_large_for_exponentials():
    assert margin_loss([-5000.0], "logistic") == pytest.approx(5000 / math.log(2))
    assert margin_loss([5000.0], "logistic") == 0.0
    assert margin_loss([0.5, math.inf], "logistic") == margin_loss([0.5], "logistic")
    assert margin_loss([0.5], "hinge", gamma=2.0) == 0.75


@pytest.mark.parametrize("k", [1, 2, 9])
def test_margin_loss_of_no_margin(k):
    assert margin_loss(np.zeros(k), "logistic") == pytest.approx(math.log2(1 + k))
    assert margin_loss(np.zeros(k), "hinge") == 1.0
    assert margin_loss(np.zeros(k), "zero_one") == 0.0


def test_contrastive_margins_are_a_loop():
    rng = np.random.default_rng(0)
    a, p, n = rng.normal(size=(5, 3)), rng.normal(size=(5, 2, 3)), rng.normal(size=(5, 4, 2, 3))
    expected = [
        [sum(a[m] * (p[m, 0] + p[m, 1] - n[m, i, 0] - n[m, i, 1])) / 2 for i in range(4)] for m in range(5)
    ]
    np.testing.assert_allclose(contrastive_margins(a, p, n), expected, rtol=1e-12)
    np.testing.assert_allclose(
        contrastive_margins(a, p[:, 0], n[:, 0, 0])[:, 0], ((p[:, 0] - n[:, 0, 0]) * a).sum(1)
    )


def test_tuples_are_of_their_classes_and_follow_the_prior():
    y = np.array(["b", "a", "c", "a", "b", "b"])
    prior = [0.5, 0.2, 0.3]
    tuples = sample_tuples(y, 40_000, n_negatives=2, block_size=3, class_prior=prior, random_state=0)
    labels = np.array(["a", "b", "c"])
    assert (y[tuples.anchor] == labels[tuples.positive_class]).all()
    assert (y[tuples.positive] == labels[tuples.positive_class][:, None]).all()
    assert (y[tuples.negative] == labels[tuples.negative_class][:, :, None]).all()
    for drawn in (tuples.positive_class, tuples.negative_class[:, 0], tuples.negative_class[:, 1]):
        # Four standard errors of a share of one half.
        np.testing.assert_allclose(np.bincount(drawn) / 40_000, prior, atol=0.01)
    # Within a class all rows are equally likely, and positives do not depend on the anchor.
    among_b = tuples.positive_class == 1
    for rows in (tuples.anchor[among_b], tuples.positive[among_b, 2]):
        np.testing.assert_allclose(
            np.bincount(rows, minlength=6)[[0, 4, 5]] / among_b.sum(), 1 / 3, atol=0.025
        )
    assert (tuples.anchor == tuples.positive[:, 0])[among_b].mean() == pytest.approx(1 / 3, abs=0.025)


def test_tuples_are_seeded():
    y = np.arange(20) % 4
    first, second, other = (sample_tuples(y, 50, random_state=seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first.anchor != other.anchor).any()


def test_one_class_an_image_is_no_reason_to_warn():
    tuples = sample_tuples(np.arange(30), 100, random_state=0)
    assert (tuples.anchor == tuples.positive[:, 0]).all()


@pytest.mark.parametrize("loss", ["logistic", "hinge", "zero_one"])
@pytest.mark.parametrize("k, b", [(1, 1), (3, 1), (2, 3)])
def test_unsupervised_loss_is_a_loop(loss, k, b):
    H, y = points()
    tuples = sample_tuples(y, 300, n_negatives=k, block_size=b, random_state=0)
    total, apart, together = [], [], []
    for i in range(300):
        v = [
            H[tuples.anchor[i]] @ (H[tuples.positive[i]].mean(0) - H[tuples.negative[i, j]].mean(0))
            for j in range(k)
        ]
        same = [tuples.negative_class[i, j] == tuples.positive_class[i] for j in range(k)]
        total.append(naive_loss(v, loss))
        if not all(same):
            apart.append(naive_loss([x for x, s in zip(v, same, strict=True) if not s], loss))
        if any(same):
            together.append(naive_loss([x for x, s in zip(v, same, strict=True) if s], loss))
    result = unsupervised_loss(H, tuples, loss=loss)
    assert result.total == pytest.approx(np.mean(total), rel=1e-12)
    assert result.standard_error == pytest.approx(np.std(total, ddof=1) / math.sqrt(300), rel=1e-9)
    assert result.no_collision == pytest.approx(np.mean(apart), rel=1e-12)
    assert result.collision == pytest.approx(np.mean(together), rel=1e-12)
    assert result.collision_rate == len(together) / 300
    assert result.all_collision_rate == pytest.approx(1 - len(apart) / 300)
    if loss != "zero_one":
        split = (
            result.collision_rate * result.collision + (1 - result.all_collision_rate) * result.no_collision
        )
        assert result.total <= split + 1e-12
        if k == 1:  # eq. 8
            assert result.total == pytest.approx(split, rel=1e-12)


def test_a_loss_without_collisions_says_so():
    tuples = ContrastiveTuples(*(np.array(a) for a in ([0], [[0]], [[[1]]], [0], [[1]])))
    result = unsupervised_loss([[1.0], [2.0]], tuples, loss="hinge")
    assert math.isnan(result.collision) and math.isnan(result.standard_error)
    assert (result.total, result.no_collision, result.collision_rate) == (2.0, 2.0, 0.0)


@settings(max_examples=30)
@given(PRIORS, st.integers(1, 3))
def test_collision_probabilities_are_sums_over_all_draws(prior, k):
    some = every = cost = 0.0
    for drawn in itertools.product(range(len(prior)), repeat=k + 1):
        probability = math.prod(prior[c] for c in drawn)
        collisions = sum(c == drawn[0] for c in drawn[1:])
        some += probability * (collisions > 0)
        every += probability * (collisions == k)
        cost += probability * (math.log2(1 + collisions) if collisions else 0.0)
    assert collision_probability(prior, k) == pytest.approx(some, rel=1e-9)
    assert collision_probability(prior, k, every=True) == pytest.approx(every, rel=1e-9)
    assert degenerate_loss(prior, k) == pytest.approx(cost / some, rel=1e-9)
    assert degenerate_loss(prior, k, loss="hinge") == 1.0


def test_intraclass_deviation_is_its_formula():
    H, y = points()
    prior = np.array([0.2, 0.3, 0.5])
    terms = []
    for c in range(3):
        rows = H[y == c]
        covariance = np.cov(rows.T, bias=True)
        terms.append(
            math.sqrt(np.linalg.eigvalsh(covariance)[-1]) * np.mean([math.sqrt(h @ h) for h in rows])
        )
    expected = (prior**2 @ terms) / (prior**2).sum()
    assert intraclass_deviation(H, y, class_prior=prior) == pytest.approx(expected, rel=1e-10)
    assert intraclass_deviation(3 * H, y, class_prior=prior) == pytest.approx(9 * expected, rel=1e-10)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("seed", range(5))
def test_the_collision_loss_lies_between_the_bounds_of_lemma_4_4(loss, seed):
    H, y = points(n=25, seed=seed)
    share = np.bincount(y) / len(y)
    total = 0.0
    for c in range(3):
        rows = H[y == c]
        inner = rows @ rows.T
        v = inner[:, :, None] - inner[:, None, :]  # all (x, x+, x-)
        total += share[c] ** 2 * margin_loss(v[..., None], loss).mean()
    collision = total / (share**2).sum()
    constant = math.sqrt(2) / (math.log(2) if loss == "logistic" else 1.0)
    assert 1 <= collision <= 1 + constant * intraclass_deviation(H, y)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sample_tuples([[0, 1]], 1), r"one label per row, found shape \(1, 2\)"),
        (lambda: sample_tuples([0.5, 1.0], 1), "class labels are whole numbers or strings"),
        (lambda: sample_tuples([0, 1], 0), "n_tuples=0"),
        (lambda: sample_tuples([0, 1], 1, n_negatives=1.5), "n_negatives=1.5"),
        (lambda: sample_tuples([0, 1], 1, block_size=-1), "block_size=-1"),
        (lambda: sample_tuples([0, 1], 1, class_prior=[1.0]), "class_prior has 1 entries but y has 2"),
        (lambda: sample_tuples([0, 1], 1, class_prior=[0.7, 0.7]), "not a distribution"),
        (lambda: margin_loss([1.0], "squared"), "loss='squared' is unknown"),
        (lambda: margin_loss([1.0], gamma=0.0), "gamma=0.0"),
        (lambda: margin_loss(np.ones((2, 0))), "k >= 1"),
        (
            lambda: contrastive_margins(np.ones((2, 3)), np.ones((2, 4)), np.ones((2, 3))),
            "positives has shape",
        ),
        (
            lambda: unsupervised_loss([[1.0]], sample_tuples([0, 1], 9, random_state=0)),
            "row 1, but H has only 1",
        ),
        (lambda: intraclass_deviation([[1.0]], [0, 1]), "H has 1 rows and y has 2"),
        (lambda: intraclass_deviation([[1.0], [math.nan]], [0, 1]), "row 1"),
        (lambda: collision_probability([-0.5, 1.5]), "not a distribution"),
        (lambda: degenerate_loss([1.0], loss="zero_one"), "loss='zero_one'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("mark", [-1, None, float("nan")])
def test_rows_without_a_label_are_refused(mark):
    from sklearn_simclr.theory import intraclass_deviation, sample_tuples, supervised_loss

    y = [0, 1, mark, 2, mark]
    for call in (
        lambda: sample_tuples(y, 10),
        lambda: supervised_loss(np.eye(5), y),
        lambda: intraclass_deviation(np.eye(5), y),
    ):
        with pytest.raises(ValueError, match="no label .* in 2 of 5 rows, the first one row 2"):
            call()
    # As for scikit-learn's classifiers, -1 and 1 are two classes.
    with pytest.warns(UserWarning, match="two classes of a binary problem"):
        assert intraclass_deviation(np.eye(4), [-1, 1, -1, 1]) > 0


def test_what_is_no_number_is_named():
    from sklearn_simclr.theory import (
        collision_probability,
        contrastive_margins,
        margin_loss,
        unsupervised_loss,
    )

    with pytest.raises(TypeError, match="tuples is of type ndarray; pass the result of sample_tuples"):
        unsupervised_loss(np.eye(3), np.zeros(3))
    with pytest.raises(ValueError, match="class_prior is 'ab', of type str"):
        collision_probability("ab")
    with pytest.raises(ValueError, match="margins contains NaN, first at \\(1,\\)"):
        margin_loss([1.0, np.nan])
    with pytest.raises(ValueError, match="negatives contains NaN or infinity, first at \\(0, 1\\)"):
        contrastive_margins([[1.0, 0.0]], [[1.0, 0.0]], [[1.0, np.inf]])
    with pytest.raises(ValueError, match="anchors has shape \\(2,\\); pass"):
        contrastive_margins([1.0, 0.0], [1.0, 0.0], [1.0, 0.0])
