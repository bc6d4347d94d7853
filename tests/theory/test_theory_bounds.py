"""The bounds of CURL hold on data whose losses are computed exactly, and have the terms of the paper."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sklearn_simclr.theory import (
    Bound,
    block_bound,
    collision_probability,
    competitive_bound,
    competitive_margin,
    degenerate_loss,
    generalization_error,
    intraclass_deviation,
    k_negative_bound,
    k_negative_deviation_bound,
    largest_loss,
    margin_loss,
    no_collision_bound,
    pair_bound,
    sample_tuples,
    supervised_loss,
    unsupervised_loss,
)

CONSTANT = {"hinge": math.sqrt(2), "logistic": math.sqrt(2) / math.log(2)}


def points(seed, scale=1.0):
    """20 rows of three classes of shares 0.6, 0.25 and 0.15."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], [12, 5, 3])
    return scale * (rng.normal(size=(3, 2))[y] + 0.7 * rng.normal(size=(20, 2))), y


def exact_losses(H, y, k, loss):
    """Return L_un and L_un without collisions, exactly: over all the tuples of the rows of H."""
    n = len(y)
    same = y[:, None] == y
    inner = H @ H.T
    grids = np.meshgrid(*[np.arange(n)] * k, indexing="ij")
    negatives = np.stack([g.ravel() for g in grids], axis=1)
    total = apart = mass = 0.0
    for x in range(n):
        positives = np.flatnonzero(same[x])
        v = inner[x, positives][:, None, None] - inner[x][negatives]
        total += margin_loss(v, loss).mean() / n
        differ = ~same[x][negatives]
        kept = differ.any(axis=1)
        masked = np.where(differ[kept], v[:, kept], math.inf)
        if kept.any():
            apart += margin_loss(masked, loss).mean(axis=0).sum() / len(negatives) / n
        mass += kept.mean() / n
    return total, apart / mass


def shares(y):
    return np.bincount(y) / len(y)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("seed, scale", [(0, 0.1), (1, 0.5), (2, 1.0), (3, 1.0), (4, 3.0)])
def test_pairs(loss, seed, scale):
    H, y = points(seed, scale)
    tau = collision_probability(shares(y))
    total, apart = exact_losses(H, y, 1, loss)
    mean, best = (supervised_loss(H, y, loss=loss, classifier=c) for c in ("mean", "best"))
    assert best <= mean + 1e-9
    assert mean <= pair_bound(total, tau).total + 1e-12
    # Theorem 4.5 follows from 4.1 by bounding the collision part of the loss.
    assert (
        pair_bound(total, tau).total
        <= no_collision_bound(apart, intraclass_deviation(H, y), tau, loss=loss).total
    )


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("seed, scale", [(0, 0.3), (1, 1.0), (2, 2.0)])
@pytest.mark.parametrize("k", [2, 3])
def test_several_negatives(loss, seed, scale, k):
    H, y = points(seed, scale)
    rho = shares(y)
    tau, tau_k = collision_probability(rho), collision_probability(rho, k)
    tau_all = collision_probability(rho, k, every=True)
    total, apart = exact_losses(H, y, k, loss)
    mean = supervised_loss(H, y, n_negatives=k, loss=loss, tasks="collision_free")
    direct = k_negative_bound(total, tau_k, degenerate_loss(rho, k, loss=loss)).total
    split = k_negative_deviation_bound(
        apart, intraclass_deviation(H, y), tau, tau_k, tau_all, n_negatives=k, loss=loss
    ).total
    assert mean <= direct + 1e-12
    assert direct <= split + 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2])
def test_the_loss_between_classes_competes_with_the_mean_classifier(seed, k):
    H, y = points(seed, 0.4)
    radius = np.linalg.norm(H, axis=1).max()
    for epsilon in (0.05, 0.5):
        # Any variable that lies in [-R, R] is R^2-sub-Gaussian.
        gamma = competitive_margin(radius, radius, epsilon, n_negatives=k)
        tasks = "distinct" if k == 1 else "any"
        loss = supervised_loss(H, y, n_negatives=k, loss="hinge", gamma=gamma, tasks=tasks)
        assert exact_losses(H, y, k, "hinge")[1] <= gamma * loss + epsilon


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_blocks_on_digits_tighten_the_bound_towards_the_loss_of_the_mean_classifier(loss):
    H, y = load_digits(return_X_y=True)
    # Long enough for margins beyond 1, below which the hinge loss is linear and blocks do not matter.
    H = H / 20
    tau = collision_probability(shares(y))
    totals, errors = [], []
    for b in (1, 2, 4, 16):
        found = unsupervised_loss(H, sample_tuples(y, 20_000, block_size=b, random_state=b), loss=loss)
        totals.append(block_bound(found.total, tau).total)
        errors.append(4 * found.standard_error / (1 - tau))
    mean = supervised_loss(H, y, loss=loss)
    assert all(b < a for a, b in zip(totals, totals[1:], strict=False))
    assert all(mean <= total + error for total, error in zip(totals, errors, strict=True))
    assert totals[-1] - mean < 0.2 * (totals[0] - mean)


def test_the_terms_are_those_of_the_theorems():
    gen = 0.2
    assert pair_bound(0.7, 0.2, generalization=gen).terms == pytest.approx(
        {"loss": 0.7 / 0.8, "collision": -0.2 / 0.8, "generalization": 0.2 / 0.8}
    )
    for loss, constant in CONSTANT.items():
        assert no_collision_bound(0.7, 3.0, 0.2, loss=loss, generalization=gen).terms == pytest.approx(
            {"loss": 0.7, "deviation": constant * 0.25 * 3.0, "generalization": 0.25}
        )
        assert k_negative_deviation_bound(
            0.7, 3.0, 0.2, 0.5, 0.1, n_negatives=4, loss=loss, generalization=gen
        ).terms == pytest.approx(
            {"loss": 0.9 / 0.5 * 0.7, "deviation": constant * 4 * 0.2 / 0.5 * 3, "generalization": 0.4}
        )
    assert k_negative_bound(1.5, 0.5, 1.2, generalization=gen).terms == pytest.approx(
        {"loss": 3.0, "collision": -1.2, "generalization": 0.4}
    )
    assert competitive_bound(
        0.1, 3.0, 0.2, gamma=2.0, epsilon=0.3, generalization=gen
    ).terms == pytest.approx(
        {"loss": 0.2, "deviation": math.sqrt(2) * 0.75, "generalization": 0.25, "epsilon": 0.3}
    )


def test_a_bound_is_the_sum_of_its_terms_and_a_number():
    bound = Bound({"a": 0.5, "b": -0.125})
    assert bound.total == float(bound) == 0.375
    with pytest.raises(AttributeError):
        bound.total = 1.0


def test_block_and_pair_bounds_are_one_function_of_their_losses():
    assert block_bound(0.4, 0.1, generalization=0.1) == pair_bound(0.4, 0.1, generalization=0.1)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("k", [1, 4])
def test_the_largest_loss_is_that_of_opposite_vectors(loss, k):
    for radius in (0.3, 1.0, 4.0):
        rows = radius * np.array([1.0, 0.0])
        margins = [rows @ (-rows - rows)] * k
        assert largest_loss(radius, k, loss=loss) == pytest.approx(margin_loss(margins, loss), rel=1e-12)
    assert largest_loss(100.0, k, loss="logistic") == pytest.approx(
        (2e4 + math.log(k)) / math.log(2), rel=1e-12
    )


def test_generalization_error_has_the_constants_of_the_proof():
    radius, complexity, m, delta, k = 0.5, 30.0, 1000, 0.1, 3
    # From eq. 17 and theorem A.3, in the order of the proof.
    eta, largest = 1 / math.log(2), math.log2(1 + k * math.exp(2 * radius**2))
    lipschitz = math.sqrt(6) * eta * radius * math.sqrt(k) / largest
    rademacher = math.sqrt(2) * lipschitz * complexity
    uniform = largest * (2 * rademacher / m + 3 * math.sqrt(math.log(4 / delta) / (2 * m)))
    hoeffding = 3 * largest * math.sqrt(math.log(2 / delta) / (2 * m))
    found = generalization_error(radius, complexity, m, delta=delta, n_negatives=k)
    assert found == pytest.approx(uniform + hoeffding, rel=1e-12)


def test_the_generalization_error_covers_what_one_representation_does_on_samples():
    H, y = points(0, 0.3)
    total, _ = exact_losses(H, y, 1, "hinge")
    radius = np.linalg.norm(H, axis=1).max()
    # A class of one representation has complexity 0.
    error = generalization_error(radius, 0.0, 200, loss="hinge")
    for seed in range(50):
        sampled = unsupervised_loss(H, sample_tuples(y, 200, random_state=seed), loss="hinge").total
        assert abs(sampled - total) <= error


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pair_bound(-1.0, 0.1), "loss=-1.0"),
        (lambda: pair_bound(math.nan, 0.1), "loss=nan"),
        (lambda: pair_bound(1.0, 1.0), "tau=1.0"),
        (lambda: pair_bound(1.0, 0.1, generalization=-1), "generalization=-1"),
        (lambda: no_collision_bound(1.0, 1.0, 0.1, loss="zero_one"), "loss='zero_one'"),
        (lambda: no_collision_bound(1.0, -1.0, 0.1), "deviation=-1.0"),
        (lambda: k_negative_bound(1.0, -0.1, 1.0), "tau_k=-0.1"),
        (lambda: k_negative_deviation_bound(1.0, 1.0, 0.3, 0.2, 0.1), "not in rising order"),
        (lambda: k_negative_deviation_bound(1.0, 1.0, 0.1, 0.2, 0.0, n_negatives=0), "n_negatives=0"),
        (lambda: competitive_bound(1.0, 1.0, 0.1, gamma=0.5, epsilon=0.1), "gamma=0.5"),
        (lambda: competitive_bound(1.0, 1.0, 0.1, gamma=1, epsilon=0.1, n_negatives=2), "needs tau_k"),
        (lambda: competitive_margin(0.0, 1.0, 0.1), "radius=0.0"),
        (lambda: largest_loss(math.inf), "radius=inf"),
        (lambda: generalization_error(1.0, 1.0, 10, delta=0.0), "delta=0.0"),
        (lambda: generalization_error(1.0, 1.0, 0), "n_tuples=0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_loss_and_a_tau_of_different_classes_are_refused():
    from sklearn_simclr.theory import pair_bound

    with pytest.raises(ValueError, match="loss=0.05 is below tau=0.1"):
        pair_bound(0.05, 0.1)
    # A sample of tuples may have a collision less than expected.
    assert pair_bound(0.099, 0.1).total == pytest.approx(-0.001 / 0.9)
    with pytest.raises(TypeError, match="loss is of type str"):
        pair_bound("0.5", 0.1)
    with pytest.raises(ValueError, match="tau=1.0 .* nothing to contrast"):
        pair_bound(0.5, 1.0)
    with pytest.raises(ValueError) as raised:
        pair_bound(0.5, -0.1)
    assert "nothing to contrast" not in str(raised.value)
