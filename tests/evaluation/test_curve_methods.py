"""Methods of a label-fraction study that are given by name: frozen pretrained features, classified."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_simclr import (
    LabelFractionDisplay,
    LinearEvaluationClassifier,
    SimCLRTransformer,
    label_fraction_curve,
)
from sklearn_simclr.evaluation._curve_methods import UpToFiveFolds, named_method

SMALL = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """torch's cache with random weights of a small network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    member = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    torch.manual_seed(0)
    net = torchvision.models.shufflenet_v2_x0_5(weights=None)
    torch.save(net.state_dict(), tmp_path / "hub" / "checkpoints" / member.url.rpartition("/")[2])


@pytest.fixture
def data():
    """Two classes of noise, brighter below or above."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 120, (32, 24, 24, 3), dtype=np.uint8)
    y = np.arange(32) % 2
    X[y == 1, :12] += 100
    return X, y


def test_a_name_is_the_frozen_network_and_logistic_regression(data, tmp_path):
    X, y = data
    options = {"fractions": [2, 16], "cv": 2, "random_state": 0, "error_score": "raise"}
    results = label_fraction_curve(
        {"ImageNet": SMALL, "chance": DummyClassifier()}, X, y, return_estimator=True, **options
    )
    ours = results[results.estimator == "ImageNet"]
    assert len(ours) == 4
    assert ours.score.groupby(ours.n_labels).mean()[16] > 0.9
    for estimator in ours.fitted_estimator:
        features, classifier = estimator.named_steps.values()
        assert (features.weights, features.n_iter_) == (SMALL, 0)
        assert classifier.penalty_ in classifier.penalties_
    # The same as a pipeline of one's own.
    pipeline = make_pipeline(SimCLRTransformer(weights=SMALL, max_epochs=0), named_method(SMALL)[-1])
    own = label_fraction_curve({"own": pipeline}, X, y, **options)
    assert own.score.tolist() == ours.score.tolist()
    # The same from files.
    paths = [str(tmp_path / f"{i}.png") for i in range(len(X))]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    files = label_fraction_curve([("ImageNet", SMALL)], paths, y, **options)
    assert np.abs(files.score.to_numpy() - ours.score.to_numpy()).max() <= 1 / 16


def test_names_in_a_list(data):
    X, y = data
    options = {"fractions": [1.0], "cv": 2, "random_state": 0}
    results = label_fraction_curve([("chance", DummyClassifier()), SMALL], X, y, **options)
    assert set(results.estimator) == {"chance", SMALL}
    display = LabelFractionDisplay.from_estimators([SMALL, DummyClassifier()], X, y, **options)
    assert set(display.results.estimator) == {SMALL, "dummyclassifier"}
    assert named_method("imagenet")[0].weights == "torchvision:resnet50"
    assert named_method("timm:resnet18")[0].weights == "timm:resnet18"
    with pytest.raises(ValueError, match="'resnet50', which names no method. Pass \"imagenet\""):
        label_fraction_curve(["resnet50"], X, y, **options)


def test_the_penalty_is_chosen_with_few_labels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    y = np.where(X[:, 0] + rng.normal(size=60) > 0, "a", "b")
    for rows, n_folds in (
        (slice(0, 60), 5),
        ([*np.flatnonzero(y == "a")[:9], *np.flatnonzero(y == "b")[:3]], 3),
    ):
        pairs = list(UpToFiveFolds().split(X[rows], y[rows]))
        assert len(pairs) == n_folds
        assert all(not set(training) & set(held) for training, held in pairs)
    one = [int(np.flatnonzero(y == label)[0]) for label in "ab"]
    ((training, held),) = UpToFiveFolds().split(X[one], y[one])
    assert training.tolist() == held.tolist() == [0, 1]
    classifier = named_method(SMALL)[-1]
    assert isinstance(classifier, LinearEvaluationClassifier)
    assert classifier.fit(X[one], y[one]).score(X[one], y[one]) == 1
    # As good as the best of the penalties on other rows, or nearly.
    assert cross_val_score(classifier, X, y, cv=3).mean() > 0.55
