"""Fitted estimators that all tests of files share."""

import numpy as np
import pytest
from fitted import FAST, shake

from sklearn_simclr import (
    SimCLRClassifier,
    SimCLRTransformer,
)
from sklearn_simclr.export.estimator_files import save_estimator


@pytest.fixture
def narrow(monkeypatch):
    """Give residual networks 8 channels where they have 64, to be quick."""
    monkeypatch.setattr("sklearn_simclr.encoders.resnet.BASE_CHANNELS", 8)


@pytest.fixture(scope="session")
def photographs():
    """Eight RGB images of 72 pixels, uint8."""
    return np.random.default_rng(3).integers(0, 256, (8, 72, 72, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def simclr(digits):
    X, _ = digits
    return shake(SimCLRTransformer(projection_dim=8, projection_layers=3, **FAST).fit(X[:32]))


@pytest.fixture(scope="session")
def labelled(digits):
    X, y = digits
    return X[:40], np.array([f"digit {label}" for label in y[:40] % 3])


@pytest.fixture(scope="session")
def classifier(simclr, labelled):
    return SimCLRClassifier(simclr, head_layer=1, **FAST).fit(*labelled)


@pytest.fixture(scope="session")
def resnet(photographs):
    return shake(SimCLRTransformer("resnet18", **(FAST | {"max_epochs": 0})).fit(photographs))


@pytest.fixture(scope="session")
def saved(simclr, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "simclr.safetensors"
    save_estimator(simclr, path)
    return path
