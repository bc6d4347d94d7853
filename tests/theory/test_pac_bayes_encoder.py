"""The encoder that is trained by a bound: what it says of itself is recomputed from its parts."""

import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from sklearn_simclr import Augmentation
from sklearn_simclr.theory import (
    PACBayesContrastiveTransformer,
    contrastive_margins,
    contrastive_risk,
    kl_gaussians,
    mean_classifier,
    risk_bound,
    supervised_loss,
)
from sklearn_simclr.theory._posterior import GaussianPosterior, make_mlp


@parametrize_with_checks([PACBayesContrastiveTransformer(max_epochs=1, n_posterior_samples=2)])
@pytest.mark.filterwarnings("ignore:X has .* features, not a square number:UserWarning")
@pytest.mark.filterwarnings("ignore:X has pixels from:UserWarning")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def small(**params):
    defaults = {
        "n_tuples": 600,
        "max_epochs": 5,
        "hidden_dim": 16,
        "representation_dim": 8,
        "random_state": 0,
    }
    return PACBayesContrastiveTransformer(**{**defaults, **params})


@pytest.fixture(scope="module")
def fitted(digits):
    X, y = digits
    return small(n_negatives=2, block_size=2).fit(X[:400], y[:400])


def draw_by_hand(model, images, rng):
    """Return the representations by one network drawn from the posterior, in float64 without torch."""
    w = {name: p.detach().double().numpy() for name, p in model.encoder_.named_parameters()}
    w = {name: value + model.posterior_std_[name] * rng.normal(size=value.shape) for name, value in w.items()}
    low, high = model.pixel_range_
    x = 2 * (images.reshape(len(images), -1) - low) / (high - low) - 1
    return np.maximum(x @ w["1.weight"].T + w["1.bias"], 0) @ w["3.weight"].T + w["3.bias"]


def test_the_risk_is_that_of_networks_drawn_from_the_posterior(fitted, digits):
    rng, t = np.random.default_rng(0), fitted.tuples_
    risks = []
    for _ in range(30):
        H = draw_by_hand(fitted, digits[0][:400], rng)
        risks.append(contrastive_risk(contrastive_margins(H[t.anchor], H[t.positive], H[t.negative])))
    error = fitted.risk_std_ * math.sqrt(1 / 10 + 1 / 30)
    assert fitted.risk_ == pytest.approx(np.mean(risks), abs=4 * error)
    assert fitted.risk_std_ == pytest.approx(np.std(risks, ddof=1), rel=0.8)


def test_divergence_and_bound_are_those_of_the_fitted_distributions(fitted):
    flat = [
        np.concatenate([np.ravel(part[name]) for name in fitted.posterior_std_])
        for part in (
            {name: p.detach().numpy() for name, p in fitted.encoder_.named_parameters()},
            fitted.posterior_std_,
            fitted.prior_mean_,
        )
    ]
    kl = kl_gaussians(flat[0], flat[1].astype(np.float64) ** 2, flat[2], fitted.prior_variance_)
    assert fitted.kl_ == pytest.approx(kl, rel=1e-6)
    assert fitted.prior_variance_ == pytest.approx(0.1 * math.exp(-fitted.prior_index_ / 100), rel=1e-12)
    bound = risk_bound(fitted.risk_, fitted.kl_, 600, delta=0.05, prior_index=fitted.prior_index_)
    assert (fitted.bound_, fitted.lambda_) == (bound.total, bound.lam)


def test_transform_is_the_mean_of_the_posterior(fitted, digits):
    fixed = copy.deepcopy(fitted)
    fixed.posterior_std_ = {name: np.zeros_like(std) for name, std in fixed.posterior_std_.items()}
    expected = draw_by_hand(fixed, digits[0][400:450], np.random.default_rng(0))
    np.testing.assert_allclose(fitted.transform(digits[0][400:450]), expected, rtol=1e-4, atol=1e-5)


def test_without_epochs_the_posterior_is_the_prior(digits):
    model = small(max_epochs=0).fit(*digits)
    assert model.n_iter_ == len(model.history_) == 0
    # The prior's variance moves to the grid, the posterior's does not.
    assert model.kl_ < 1e-3 * sum(s.size for s in model.prior_mean_.values())
    for name, p in model.encoder_.named_parameters():
        assert (p.detach().numpy() == model.prior_mean_[name]).all()


def test_learning_lowers_the_risk_and_the_bound_is_not_vacuous(digits):
    X, y = digits
    options = {"n_tuples": 6000, "learning_rate": 0.02, "hidden_dim": 50, "representation_dim": 50}
    before, after = (small(max_epochs=e, **options).fit(X[:1300], y[:1300]) for e in (0, 15))
    assert after.risk_ < before.risk_ - 0.05
    assert after.bound_ < before.bound_
    risk = 1 - after.score(X[1300:], y[1300:])
    assert after.risk_ - 0.03 < risk < after.bound_ < 0.35
    W, _ = mean_classifier(after.transform(X[:1300]), y[:1300])
    H = after.transform(X[1300:])
    W_before, _ = mean_classifier(before.transform(X[:1300]), y[:1300])
    errors = supervised_loss(H, y[1300:], classifier=W, loss="zero_one")
    assert errors < supervised_loss(
        before.transform(X[1300:]), y[1300:], classifier=W_before, loss="zero_one"
    )


def test_a_small_lambda_stays_nearer_to_the_prior(digits):
    models = [small(lam=lam, max_epochs=10).fit(*digits) for lam in (0.02, 3.0)]
    assert models[0].kl_ < models[1].kl_
    assert models[0].risk_ > models[1].risk_


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("block_size, n_negatives", [(1, 1), (2, 3)])
def test_views_without_labels(digits, loss, block_size, n_negatives):
    X = digits[0][:200]
    params = {"loss": loss, "block_size": block_size, "n_negatives": n_negatives, "max_epochs": 2}
    model = small(**params).fit(X)
    assert (model.tuples_.anchor == model.tuples_.positive.T).all()  # of the same image
    assert 0 < model.risk_ < model.bound_ < 1
    again = small(pairs="views", **params).fit(X, digits[1][:200])
    assert (again.transform(X) == model.transform(X)).all()
    assert model.score(X) == again.score(X, digits[1][:200])


def test_views_of_a_tuple_are_different_views(digits):
    X = digits[0][:50]
    model = small(max_epochs=0, block_size=2, pairs="views").fit(X)
    source = model._read_images(X, reset=False)
    tuples = model._bank(source, model.tuples_, 0)
    bank, (anchor, positive, negative) = tuples.bank, tuples.rows
    assert len(bank) == 5 * 50
    for image in (0, 7):
        views = bank.take(torch.arange(5) * 50 + image)
        assert len(torch.unique(views.flatten(1), dim=0)) == 5
    assert (anchor < 50).all() and (positive % 50 == anchor[:, None]).all()
    assert ((positive >= 50) & (positive < 150)).all() and (negative >= 150).all()
    assert (negative[:, 0, 0].numpy() % 50 == model.tuples_.negative[:, 0, 0]).all()


def test_other_encoders_run_as_functions_of_one_image(digits):
    X, y = digits
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6))
    model = small(encoder=net, max_epochs=1).fit(X[:300], y[:300])
    assert model.transform(X[:5]).shape == (5, 6)
    assert (model.encoder_[1].running_mean == 0).all()
    assert model.encoder_[1].num_batches_tracked == 0
    assert set(model.posterior_std_) == {name for name, _ in net.named_parameters()}
    assert small(encoder="compact", max_epochs=1).fit(X[:100], y[:100]).bound_ < 1


def test_the_seed_decides(digits):
    X, y = digits[0][:200], digits[1][:200]
    first, second, other = (small(max_epochs=2, random_state=s).fit(X, y) for s in (0, 0, 1))
    assert (first.transform(X) == second.transform(X)).all()
    assert (first.risk_, first.bound_) == (second.risk_, second.bound_)
    assert first.bound_ != other.bound_
    state = torch.random.get_rng_state()
    small(max_epochs=1).fit(X, y)
    assert (torch.random.get_rng_state() == state).all()


def test_it_is_a_transformer_like_the_others(fitted, digits):
    X, y = digits
    copied = pickle.loads(pickle.dumps(fitted))
    assert (copied.transform(X[:9]) == fitted.transform(X[:9])).all()
    assert copied.score(X[:99], y[:99]) == fitted.score(X[:99], y[:99])
    assert clone(fitted).get_params() == fitted.get_params()
    frame = small(max_epochs=1).set_output(transform="pandas").fit(X[:99], y[:99]).transform(X[:9])
    assert isinstance(frame, pd.DataFrame) and frame.shape == (9, 8)
    assert make_pipeline(small(max_epochs=1)).fit_transform(X[:99], y[:99]).dtype == np.float32
    assert list(fitted.history_["epoch"]) == [1, 2, 3, 4, 5]


def test_string_labels(digits):
    X, y = digits[0][:100], digits[1][:100]
    assert small(max_epochs=1).fit(X, y.astype(str)).bound_ == small(max_epochs=1).fit(X, y).bound_


def test_verbose_shows_a_progress_bar(digits, capsys):
    small(max_epochs=2, verbose=1).fit(digits[0][:50], digits[1][:50])
    assert "PAC-Bayes: 100%" in capsys.readouterr().err


def test_a_trained_posterior_is_taken_from_the_cache(digits, tmp_path, monkeypatch):
    X, y = digits[0][:50], digits[1][:50]
    model = small(max_epochs=2, memory=str(tmp_path)).fit(X, y)
    monkeypatch.setattr("sklearn_simclr.training.loop.make_optimizer", None)
    again = small(max_epochs=2, memory=str(tmp_path)).fit(X, y)
    assert (again.bound_, again.kl_, again.risk_) == (model.bound_, model.kl_, model.risk_)
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def test_a_training_is_made_longer(digits, tmp_path):
    X, y = digits
    for epochs in (1, 2, 3):
        model = small(n_tuples=64, n_posterior_samples=1, max_epochs=epochs, checkpoint_dir=tmp_path)
        assert model.fit(X[:40], y[:40]).n_iter_ == epochs


@torch.no_grad()
def test_the_differentiable_divergence_is_the_exact_one():
    torch.manual_seed(0)
    posterior = GaussianPosterior(make_mlp(6, 4, 3), 0.01)
    assert posterior.kl().item() == pytest.approx(0.0, abs=1e-4)
    for parameter in posterior.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    means, stds, prior = posterior.arrays()
    variance = posterior.prior_log_variance.exp().item()
    expected = sum(kl_gaussians(means[n], stds[n].astype(float) ** 2, prior[n], variance) for n in means)
    assert posterior.kl().item() == pytest.approx(expected, rel=1e-5)
    index = 100 * math.log(0.1 / variance)
    assert posterior.complexity().item() == pytest.approx(expected + 2 * math.log(index), rel=1e-5)
    posterior.prior_log_variance.fill_(3.0)
    posterior.keep_in_range()
    assert posterior.prior_log_variance.item() == pytest.approx(math.log(0.1) - 0.01, rel=1e-5)
    assert math.isfinite(posterior.complexity().item())


@pytest.mark.parametrize(
    "params, y, message",
    [
        ({}, np.zeros(20), "single class"),
        ({"pairs": "labels"}, None, "y is None"),
        ({}, np.arange(19), "inconsistent numbers of samples"),
        ({"lam": 0}, None, "'lam' parameter"),
        ({"prior_variance": 0.1}, None, "'prior_variance' parameter"),
        ({"augmentation": Augmentation(size=4)}, None, "with size='auto'"),
        ({"encoder": nn.Flatten()}, None, "no parameter that requires a gradient"),
        ({"learning_rate": 1e30, "max_epochs": 5}, None, "The training diverged"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(digits, params, y, message):
    model = small(**params)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(digits[0][:20], y)
    assert vars(model) == before


def test_score_asks_for_what_fit_had(fitted, digits):
    with pytest.raises(ValueError, match="y is None"):
        fitted.score(digits[0][:20])
    with pytest.raises(ValueError, match="at least 2 images"):
        fitted.score(digits[0][:1], digits[1][:1])
