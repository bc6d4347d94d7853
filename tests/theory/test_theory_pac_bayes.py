"""PAC-Bayes bounds against the published table, brute force, integrals, and samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from sklearn_simclr.theory import (
    catoni_phi,
    chi2_gaussians,
    contrastive_risk,
    dependent_moment,
    f_divergence_bound,
    kl_gaussians,
    mean_classifier_bound,
    prior_grid_index,
    risk_bound,
)

# Nozawa et al., table 2: risk of Q on the sample, KL, the best lambda times m, m, bound.
TABLE_2 = {
    "CIFAR-100 s-valid": (0.172, 32756, 122781, 47500, 0.733),
    "CIFAR-100 det-valid": (0.170, 30894, 119687, 47500, 0.718),
    "CIFAR-100 PB": (0.323, 1333, 24295, 50000, 0.437),
    "AUSLAN s-valid": (0.199, 9769, 95683, 89775, 0.419),
    "AUSLAN det-valid": (0.195, 10018, 97379, 89775, 0.417),
    "AUSLAN PB": (0.267, 2054, 45198, 102600, 0.361),
}


@pytest.mark.parametrize("row", TABLE_2.values(), ids=TABLE_2)
def test_the_published_table(row):
    risk, kl, lam_m, m, published = row
    index, _ = prior_grid_index(math.exp(-8))
    assert index == 570
    bound = risk_bound(risk, kl, m, delta=0.05, prior_index=index)
    assert bound.total == pytest.approx(published, abs=0.001)
    assert bound.lam * m == pytest.approx(lam_m, rel=0.001)  # the risks are rounded to three digits


@given(st.floats(0.001, 0.999), st.floats(0, 1e4), st.integers(10, 10**6), st.one_of(st.none(), st.just(570)))
def test_no_lambda_gives_a_smaller_bound(risk, kl, m, index):
    bound = risk_bound(risk, kl, m, prior_index=index)
    complexity = (kl + math.log(2 * math.sqrt(m) / 0.05)) / m
    if index:
        complexity += math.log(math.pi**2 * index**2 / 6) / m
    assert bound.complexity == pytest.approx(complexity, rel=1e-12)
    lambdas = np.geomspace(1e-4, 300, 3001)
    on_grid = np.expm1(-lambdas * risk - complexity) / np.expm1(-lambdas)
    assert bound.total <= on_grid.min() * (1 + 1e-9)
    assert risk < bound.total <= 1
    if 1e-3 < bound.lam < 100:
        assert on_grid.min() == pytest.approx(bound.total, rel=1e-3)


def test_the_bound_of_no_errors_and_of_nothing_but_errors():
    assert risk_bound(0.0, 10.0, 1000).total == pytest.approx(
        1 - math.exp(-(10 + math.log(2 * math.sqrt(1000) / 0.05)) / 1000), rel=1e-12
    )
    assert risk_bound(0.0, 10.0, 1000).lam == math.inf
    assert risk_bound(1e-12, 10.0, 1000).total == pytest.approx(risk_bound(0.0, 10.0, 1000).total, rel=1e-6)
    assert risk_bound(1.0, 0.0, 1000).total == 1.0


def test_the_bound_holds_for_coins():
    # One predictor, so that Q = P and KL = 0: the bound may fail for at most one sample in twenty.
    rng = np.random.default_rng(0)
    for p in (0.02, 0.3, 0.7):
        risks = rng.binomial(200, p, size=400) / 200
        failures = np.mean([risk_bound(risk, 0.0, 200).total < p for risk in risks])
        fixed = np.mean([catoni_phi(risk, 0.0, 200, 0.5) < p for risk in risks])
        assert failures <= 0.05 and fixed <= 0.05


def test_catoni_phi_is_its_formula():
    expected = (1 - math.exp(-0.4 * 0.2 - (7 + math.log(10)) / 300)) / (1 - math.exp(-0.4))
    assert catoni_phi(0.2, 7.0, 300, 0.4, delta=0.1) == pytest.approx(expected, rel=1e-12)
    # Without a complexity and for small lambda it is the risk itself.
    assert catoni_phi(0.2, 0.0, 10**15, 1e-6) == pytest.approx(0.2, rel=1e-5)


def test_the_bounds_on_the_mean_classifier_are_their_formulas():
    largest, tau, m = 3.0, 0.1, 5000
    phi = (1 - math.exp(-0.7 / 3 * 0.6 - (20 + math.log(20)) / m)) / (1 - math.exp(-0.7))
    found = mean_classifier_bound(0.6, 20.0, m, largest_loss=largest, tau=tau, lam=0.7)
    assert found.unsupervised == pytest.approx(3 * phi, rel=1e-12)
    assert found.total == pytest.approx((3 * phi - 0.1) / 0.9, rel=1e-12)
    k = mean_classifier_bound(0.6, 20.0, m, largest_loss=largest, tau=tau, lam=0.7, degenerate=1.3)
    assert k.total == pytest.approx((3 * phi - 0.13) / 0.9, rel=1e-12)
    # The best lambda costs a logarithm, and is worth it against a bad one.
    best = mean_classifier_bound(0.6, 20.0, m, largest_loss=largest, tau=tau)
    assert best.unsupervised == pytest.approx(3 * risk_bound(0.2, 20.0, m).total, rel=1e-9)
    assert best.total < mean_classifier_bound(0.6, 20.0, m, largest_loss=largest, tau=tau, lam=5.0).total


def test_the_bound_by_divergence_is_its_formula():
    for p in (1.5, 2.0, 4.0):
        q = p / (p - 1)
        added = (0.01 / 0.05) ** (1 / q) * (3.0 + 1) ** (1 / p)
        found = f_divergence_bound(0.5, 3.0, 0.01, tau=0.2, p=p)
        assert found.complexity == pytest.approx(added, rel=1e-12)
        assert found.total == pytest.approx((0.5 + added - 0.2) / 0.8, rel=1e-12)
    # Eq. 36, for a prior of index j and a loss in [0, 1].
    j, m, T, chi2 = 12, 400, 2, 0.8
    delta = 6 * 0.05 / (math.pi * j) ** 2
    found = f_divergence_bound(0.3, chi2, dependent_moment(m, 1.0, dependency=T), tau=0.0, delta=delta)
    expected = 0.3 + math.pi * j * math.sqrt((1 + 8 * T) * (chi2 + 1) / (24 * m * 0.05))
    assert found.total == pytest.approx(expected, rel=1e-12)


def test_the_moment_bounds_that_of_dependent_averages():
    rng = np.random.default_rng(0)
    for T in (0, 1, 3):
        signs = rng.integers(0, 2, size=(4000, 50 + T))
        # Each loss depends on T + 1 neighbouring coins.
        losses = np.stack([signs[:, i : i + T + 1].max(axis=1) for i in range(50)], axis=1)
        moment = ((losses.mean(axis=1) - (1 - 0.5 ** (T + 1))) ** 2).mean()
        assert moment <= 1.1 * dependent_moment(50, 1.0, dependency=T)
    assert dependent_moment(50, 2.0) == 4 / 200  # of a fair coin


def test_divergences_of_gaussians_are_integrals():
    for mq, vq, mp, vp in [(0.3, 0.5, 0.0, 1.0), (-1.0, 1.5, 0.5, 1.0), (0.0, 1.0, 0.0, 1.0)]:
        q, p = stats.norm(mq, math.sqrt(vq)), stats.norm(mp, math.sqrt(vp))
        kl = integrate.quad(lambda x, q=q, p=p: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -12, 12)[0]
        chi2 = integrate.quad(lambda x, q=q, p=p: np.exp(2 * q.logpdf(x) - p.logpdf(x)), -30, 30)[0] - 1
        assert kl_gaussians([mq], [vq], [mp], [vp]) == pytest.approx(kl, abs=1e-8)
        assert chi2_gaussians([mq], [vq], [mp], [vp]) == pytest.approx(chi2, abs=1e-7)


def test_divergences_of_many_independent_weights():
    rng = np.random.default_rng(0)
    mq, mp, vq = rng.normal(size=(3, 7))
    vq = np.exp(vq / 4)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.tensor(mq), torch.tensor(np.sqrt(vq))),
        torch.distributions.Normal(torch.tensor(mp), torch.tensor(math.sqrt(1.2), dtype=torch.float64)),
    ).sum()
    assert kl_gaussians(mq, vq, mp, 1.2) == pytest.approx(float(expected), rel=1e-12)
    # Section 4.1.1, as printed.
    printed = (((mq - mp) ** 2).sum() / 1.2 - 7 + vq.sum() / 1.2 + 7 * math.log(1.2) - np.log(vq).sum()) / 2
    assert kl_gaussians(mq, vq, mp, 1.2) == pytest.approx(printed, rel=1e-12)
    product = math.prod(1 + chi2_gaussians(mq[i], vq[i], mp[i], 1.2) for i in range(7)) - 1
    assert chi2_gaussians(mq, vq, mp, 1.2) == pytest.approx(product, rel=1e-10)


def test_chi_squared_is_infinite_for_too_wide_a_posterior():
    assert chi2_gaussians([0.0], 2.0, 0.0, 1.0) == math.inf
    assert chi2_gaussians([100.0], 1.0, 0.0, 1.0) == math.inf
    assert kl_gaussians([0.0], 2.0, 0.0, 1.0) < 1


def test_contrastive_risk_is_the_share_of_negative_margins():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(20, 3))
    assert contrastive_risk(v) == np.mean([[x < 0 for x in row] for row in v])
    assert contrastive_risk([[0.0]]) == 0.0


@given(st.floats(1e-6, 0.0999))
def test_the_grid_of_prior_variances(variance):
    index, nearest = prior_grid_index(variance)
    assert index >= 1
    assert nearest == pytest.approx(0.1 * math.exp(-index / 100), rel=1e-12)
    if variance < 0.099:
        assert abs(math.log(nearest / variance)) <= 0.5 / 100 + 1e-9


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: risk_bound(1.5, 1.0, 10), "risk=1.5"),
        (lambda: risk_bound(0.5, -1.0, 10), "kl=-1.0"),
        (lambda: risk_bound(0.5, math.nan, 10), "kl=nan"),
        (lambda: risk_bound(0.5, 1.0, 0), "m=0"),
        (lambda: risk_bound(0.5, 1.0, 10, delta=1.0), "delta=1.0"),
        (lambda: risk_bound(0.5, 1.0, 10, prior_index=0), "prior_index=0"),
        (lambda: catoni_phi(0.5, 1.0, 10, 0.0), "lam=0.0"),
        (lambda: mean_classifier_bound(4.0, 1.0, 10, largest_loss=3.0, tau=0.1), "loss=4.0"),
        (lambda: mean_classifier_bound(1.0, 1.0, 10, largest_loss=3.0, tau=1.0), "tau=1.0"),
        (lambda: f_divergence_bound(1.0, 1.0, 1.0, tau=0.1, p=1.0), "p=1.0"),
        (lambda: dependent_moment(10, 1.0, dependency=-1), "dependency=-1"),
        (lambda: prior_grid_index(0.0), "prior_variance=0.0"),
        (lambda: contrastive_risk([1.0]), r"\(M, k\)"),
        (lambda: kl_gaussians([0.0], 0.0, 0.0, 1.0), "variance_q must be > 0"),
        (lambda: chi2_gaussians([0.0], 1.0, 0.0, -1.0), "variance_p must be > 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
