"""Weights that are not finite are refused, whoever brings them."""

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import nn

from sklearn_simclr import (
    AutoencoderTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    load_estimator,
    save_estimator,
)
from sklearn_simclr._utils import container

X = np.random.default_rng(1).integers(0, 256, (24, 8, 8), dtype=np.uint8)
y = np.arange(24) % 2


@pytest.mark.parametrize(
    "estimator",
    [
        SimCLRTransformer("compactx0.5", learning_rate=1e38, warmup=0, max_epochs=1, random_state=0),
        AutoencoderTransformer("compactx0.5", learning_rate=1e38, warmup=0, max_epochs=1, random_state=0),
        SimCLRClassifier(
            SimCLRTransformer(tiny, max_epochs=0, random_state=0), max_epochs=1, weight_decay=1e308
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_last_step_that_leaves_nan_fails(estimator):
    with pytest.raises(ValueError, match="diverged: .* Pass a smaller learning_rate"):
        estimator.fit(X, y)
    assert not hasattr(estimator, "encoder_")


@pytest.mark.parametrize("epochs", [0, 1])
def test_an_encoder_with_nan_is_refused_by_name(epochs):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        network[1].bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"begins with weights that are not finite: '.*1\.bias'"):
        SimCLRTransformer(network, max_epochs=epochs).fit(X)


def test_files_with_weights_that_are_not_finite_are_refused(tmp_path):
    simclr = SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(X)
    path = tmp_path / "estimator.safetensors"
    save_estimator(simclr, path)
    arrays, records = container.read(path, "estimator")
    name = next(name for name, array in arrays.items() if array.dtype == torch.float32 and array.ndim == 4)
    arrays[name][0, 0, 0, 0] = torch.inf
    container.write(path, "estimator", arrays, records)
    with pytest.raises(ValueError, match="not finite"):
        load_estimator(path)
