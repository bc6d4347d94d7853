"""Estimators with a callable as augmentation: fit, clone, search, pickle, cache, checkpoint, displays."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers import equal, state
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torchvision.transforms import v2

from sklearn_simclr import (
    Augmentation,
    AugmentationDisplay,
    AutoencoderTransformer,
    DistilledClassifier,
    ExternalViews,
    PACBayesContrastiveTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    representation_report,
)
from sklearn_simclr.inspection import SimilarityDisplay
from sklearn_simclr.training import watch

CROP = v2.RandomResizedCrop(8, (0.5, 1.0))
TRANSFORM = v2.Compose([CROP, v2.RandomRotation(10)])


@pytest.fixture(scope="module", autouse=True)
def patience():
    """A busy machine must not make a warning of slow views."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "_SLOW_SECONDS", 1e9)
        yield


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:64], load_digits().target[:64]


def simclr(augmentation=TRANSFORM, **params):
    params = {"max_epochs": 2, "batch_size": 32, "random_state": 0, "projection_dim": 8, **params}
    return SimCLRTransformer("compactx0.5", augmentation=augmentation, **params)


@pytest.fixture(scope="module")
def fitted(digits):
    return simclr().fit(digits[0])


def darker(image):
    return image * (0.5 + 0.5 * torch.rand(()))


def test_fit_is_repeatable_and_changes_no_parameter(digits, fitted):
    again = simclr().fit(digits[0])
    assert again.augmentation is TRANSFORM
    assert isinstance(again.augmentation_, ExternalViews) and again.augmentation_.transform is not TRANSFORM
    assert equal(state(again.encoder_), state(fitted.encoder_))
    assert not equal(state(simclr(darker).fit(digits[0]).encoder_), state(fitted.encoder_))
    assert again.mirror_ is False
    assert fitted.score(digits[0]) == fitted.score(digits[0]) > 0


def test_micro_batches_see_the_same_views_twice(digits):
    losses = [simclr(micro_batch_size=size, max_epochs=1).fit(digits[0]).loss_curve_ for size in (16, 32)]
    assert all(np.isfinite(losses).ravel())
    again = simclr(micro_batch_size=16, max_epochs=1).fit(digits[0])
    assert again.loss_curve_ == losses[0]


@pytest.mark.parametrize("transform", [TRANSFORM, CROP, darker, ExternalViews(darker)])
def test_clone_pickle_and_search(digits, transform):
    X, y = digits
    model = simclr(transform, max_epochs=1)
    assert model.get_params()["augmentation"] is transform
    twin = clone(model)
    assert (twin.augmentation is transform) == (transform is darker)
    assert repr(twin)
    X_new = pickle.loads(pickle.dumps(model.fit(X))).transform(X)
    np.testing.assert_array_equal(X_new, model.transform(X))
    np.testing.assert_array_equal(twin.fit(X).transform(X), X_new)
    pipe = Pipeline([("simclr", model), ("clf", LogisticRegression())])
    # A search clones its values, and takes the get_params of a single transform for scikit-learn's.
    given = transform if transform is not CROP else ExternalViews(transform)
    grid = {"simclr__augmentation": [given, None, Augmentation()]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_parameters_of_a_callable_cannot_be_set():
    with pytest.raises(ValueError, match="augmentation is a Compose, which has no parameters"):
        simclr().set_params(augmentation__size=4)
    changed = simclr().set_params(augmentation=Augmentation(), augmentation__size=4)
    assert changed.augmentation.size == 4
    assert simclr(None).set_params(augmentation__size=4).augmentation.size == 4


@pytest.mark.parametrize("wrong", [3, "cifar", v2.RandomResizedCrop, Augmentation, (TRANSFORM, TRANSFORM)])
def test_what_is_no_augmentation_is_refused(digits, wrong):
    with pytest.raises(TypeError, match="augmentation"):
        simclr(wrong).fit(digits[0])


def test_faults_of_a_transform_show_before_the_training(digits):
    with pytest.raises(ValueError, match="Leave out Normalize"):
        simclr(v2.Normalize([0.5], [0.1]), max_epochs=10**6).fit(digits[0])


def test_cache_and_checkpoint_know_the_transform(digits, tmp_path):
    X = digits[0]

    def fit(transform, **where):
        return simclr(transform, **where).fit(X).history_["images_per_second"].iloc[-1]

    first = fit(TRANSFORM, memory=tmp_path / "cache")
    assert fit(v2.Compose(TRANSFORM.transforms), memory=tmp_path / "cache") == first  # from the cache
    assert fit(v2.Compose(TRANSFORM.transforms[:1]), memory=tmp_path / "cache") != first
    assert fit(darker, memory=tmp_path / "cache") != first
    fit(TRANSFORM, checkpoint_dir=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="checkpoint"):
        fit(darker, checkpoint_dir=tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "make",
    [
        lambda views: SupervisedTransformer("compactx0.5", augmentation=views, max_epochs=1, random_state=0),
        lambda views: AutoencoderTransformer("compactx0.5", augmentation=views, max_epochs=1, random_state=0),
        lambda views: SimCLRClassifier(
            simclr(views, max_epochs=1), augmentation=views, max_epochs=1, random_state=0
        ),
        lambda views: DistilledClassifier(
            SimCLRClassifier(simclr(None), max_epochs=1), simclr(), augmentation=views, max_epochs=1
        ),
        lambda views: PACBayesContrastiveTransformer(
            augmentation=views, pairs="views", max_epochs=1, random_state=0
        ),
    ],
    ids=["supervised", "autoencoder", "classifier", "distilled", "pac-bayes"],
)
def test_every_estimator_takes_a_callable(digits, make):
    X, y = digits
    assert clone(make(TRANSFORM)).fit(X, y) is not None


def test_fine_tuning_after_views_of_a_callable_has_its_own(digits, fitted):
    model = SimCLRClassifier(fitted, max_epochs=1, random_state=0).fit(*digits)
    assert isinstance(model.augmentation_, Augmentation)


def test_views_of_another_size_are_refused_by_pac_bayes(digits):
    model = PACBayesContrastiveTransformer(augmentation=v2.CenterCrop(6), pairs="views", max_epochs=1)
    with pytest.raises(ValueError, match=r"views of \(6, 6\) pixels from images of \(8, 8\)"):
        model.fit(digits[0])


def test_partial_fit_and_another_augmentation(digits):
    model = simclr().partial_fit(digits[0]).set_params(augmentation=None).partial_fit(digits[0])
    assert isinstance(model.augmentation_, Augmentation)
    assert isinstance(
        model.set_params(augmentation=darker).partial_fit(digits[0]).augmentation_, ExternalViews
    )


def test_displays_and_report(digits, fitted):
    pytest.importorskip("matplotlib")
    X = digits[0]
    for augmentation in (darker, TRANSFORM, v2.Resize((4, 8)), Augmentation(recipe="no_up")):
        display = AugmentationDisplay.from_augmentation(
            augmentation, X, n_images=2, n_views=3, random_state=0
        )
        assert display.images_.shape == (2, 4)
    for model in (fitted, simclr()):
        assert AugmentationDisplay.from_estimator(model, X, n_images=2, n_views=3).images_.shape == (2, 4)
    assert SimilarityDisplay.from_estimator(fitted, X, n_images=4).similarities
    assert representation_report(fitted, X)


def test_slow_views_are_named_once(digits, monkeypatch):
    monkeypatch.setattr(watch, "_SLOW_SECONDS", 0.0)
    monkeypatch.setattr(watch, "_SLOW_VIEWS", 0.0)
    with pytest.warns(UserWarning, match=r"made by Compose, take \d+% of the time.*times as fast") as caught:
        simclr(max_epochs=3).fit(digits[0])
    assert sum("times as fast" in str(w.message) for w in caught) == 1
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simclr().fit(digits[0])
