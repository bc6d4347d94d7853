"""Fits on the pretended device: equal to those on the CPU, and no step waits for the device.

``tests/test_pretended_device.py`` runs these tests in a process of their own.
"""

import numpy as np
import pytest
import torch
from helpers import fitted_modules
from pretended.device import DEVICE, SETTINGS, SYNCS, Settings
from torch import nn

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr.estimators.multilabel_classifier import MultiLabelFineTuning
from sklearn_simclr.theory import PACBayesContrastiveTransformer

torch.set_num_threads(1)

X = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
Y = np.arange(24) % 3
LABELS = np.stack([Y == 0, Y > 0], axis=1).astype(int)


@pytest.fixture(autouse=True)
def usual():
    """Give back what a test changed of the device, and forget what was counted."""
    SYNCS.clear()
    yield
    for name, value in vars(Settings).items():
        if not name.startswith("_"):
            setattr(SETTINGS, name, value)


def tiny(in_channels):
    """Return an encoder that costs nothing.

    It has no bias that a later BatchNorm takes away: its gradient would be rounding, of which Adam makes steps.
    """
    convolution = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
    pool = nn.AdaptiveAvgPool2d(1)
    norm, last = nn.BatchNorm2d(8), nn.Linear(8, 6, bias=False)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.Dropout(0.1), pool, nn.Flatten(), last)


def new(make, device, **changed):
    known = {"device": device, "batch_size": 8, "max_epochs": 2, "random_state": 0}
    return make(**{**known, **changed})


def simclr(**params):
    return SimCLRTransformer(**{"encoder": tiny, **params})


def pretrained():
    return SimCLRTransformer(tiny, max_epochs=1, batch_size=8, random_state=0, device="cpu").fit(X)


def classifier(**params):
    return SimCLRClassifier(pretrained(), **params)


def several_labels(**params):
    return MultiLabelFineTuning(pretrained(), **params)


def distilled(**params):
    teacher = SimCLRClassifier(pretrained(), max_epochs=1, batch_size=8, random_state=0, device="cpu").fit(
        X, Y
    )
    return DistilledClassifier(teacher, **params)


def plain_loss(z):
    """The cross-view loss in one line, as a user may write it."""
    assert z.dtype == torch.float32
    a, b = nn.functional.normalize(z).chunk(2)
    return nn.functional.cross_entropy(a @ b.T / 0.5, torch.arange(len(a), device=z.device))


ESTIMATORS = {
    "simclr": (SimCLRTransformer, {}, None),
    "simclr, dropout": (simclr, {}, None),
    **{f"simclr, {name}": (simclr, {"optimizer": name}, None) for name in ("lars", "sgd", "adamw", "muon")},
    **{
        f"simclr, {name}": (simclr, {"loss": name}, None)
        for name in ("nt_logistic", "margin_triplet", "curl_logistic", "curl_hinge")
    },
    "simclr, own loss": (simclr, {"loss": plain_loss}, None),
    "simclr, micro-batches": (simclr, {"micro_batch_size": 2}, None),
    "simclr, sequential": (
        simclr,
        {"augmentation": Augmentation(color_mode="sequential", blur_probability=0.5)},
        None,
    ),
    "simclr, no up": (simclr, {"augmentation": Augmentation(recipe="no_up", blur_probability=0.5)}, None),
    "supervised": (SupervisedTransformer, {"encoder": tiny}, Y),
    "supervised, stopped": (
        SupervisedTransformer,
        {"encoder": tiny, "early_stopping": True, "validation_fraction": 0.5},
        Y,
    ),
    "autoencoder": (AutoencoderTransformer, {"encoder": tiny}, None),
    "autoencoder, views": (AutoencoderTransformer, {"encoder": tiny, "augmentation": Augmentation()}, None),
    "classifier": (classifier, {}, Y),
    "classifier, head": (classifier, {"head_layer": 1}, Y),
    "classifier, several labels": (several_labels, {}, LABELS),
    "distilled": (distilled, {}, None),
    "distilled, labels": (distilled, {"alpha": 0.5}, Y),
    "distilled, images": (distilled, {"teacher_views": "image"}, None),
    "pac-bayes": (PACBayesContrastiveTransformer, {}, None),
    "pac-bayes, labels": (PACBayesContrastiveTransformer, {}, Y),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_is_that_of_the_cpu_and_no_step_waits(name):
    make, params, y = ESTIMATORS[name]
    there = new(make, DEVICE, **params).fit(X, y)
    here = new(make, "cpu", **params).fit(X, y)
    method = "predict_proba" if hasattr(here, "predict_proba") else "transform"
    np.testing.assert_allclose(getattr(there, method)(X), getattr(here, method)(X), rtol=1e-3, atol=1e-4)
    for module, known in zip(fitted_modules(there).values(), fitted_modules(here).values(), strict=True):
        for found, expected in zip(module.state_dict().values(), known.state_dict().values(), strict=True):
            assert found.device.type == "cpu"
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-4)

    def waits(batch_size):
        SYNCS.clear()
        new(make, DEVICE, **{**params, "batch_size": batch_size}).fit(X, y)
        return dict(SYNCS)

    few, many = waits(12), waits(4)
    assert {line: n - few.get(line, 0) for line, n in many.items() if n > few.get(line, 0)} == {}
