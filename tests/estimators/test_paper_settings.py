"""The settings of the papers, number by number."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import sklearn_simclr
from sklearn_simclr import Augmentation, SimCLRClassifier, SimCLRTransformer, paper_settings

PAGES = Path(__file__).resolve().parents[2] / "docs" / "explanation"

EXPECTED = {
    # Published: encoder, batch, epochs, rate, decay, temperature, layers, dimension, warm-up, queue
    ("v1", "imagenet"): ("resnet50", 4096, 100, 0.3 * 4096 / 256, 1e-6, 0.1, 2, 128, 10 / 100, None),
    ("v1", "cifar10"): ("resnet50", 1024, 1000, 1.0, 1e-6, 0.5, 2, 128, 10 / 1000, None),
    ("v2", "imagenet"): ("resnet50", 4096, 800, 0.1 * 64, 1e-4, 0.1, 3, 128, 0.05, 2**16),
}
NAMES = (
    *("encoder", "batch_size", "max_epochs", "learning_rate", "weight_decay", "temperature"),
    *("projection_layers", "projection_dim", "warmup", "queue_size"),
)


@pytest.mark.parametrize("which", EXPECTED)
def test_numbers_are_the_papers(which):
    settings = paper_settings(*which)
    assert tuple(settings.get(name) for name in NAMES) == pytest.approx(EXPECTED[which])
    assert settings["optimizer"] == "lars" and settings["loss"] == "nt_xent"
    assert settings.get("queue_momentum", 0.999) == 0.999
    views = settings["augmentation"].resolve((3, 224, 224) if which[1] == "imagenet" else (3, 32, 32))
    assert views.crop_scale == (0.08, 1.0) and views.crop_ratio == (3 / 4, 4 / 3)
    assert (views.flip_probability, views.jitter_probability, views.grayscale_probability) == (0.5, 0.8, 0.2)
    assert views.blur_sigma == (0.1, 2.0) and views.implementation == f"google_{which[0]}"
    strength = {"imagenet": (1.0, 0.5), "cifar10": (0.5, 0.0)}[which[1]]
    assert (views.color_strength, views.blur_probability) == strength
    SimCLRTransformer().set_params(**settings)


def test_rate_and_warmup_follow_batch_and_epochs():
    settings = paper_settings("v1", batch_size=512, max_epochs=200, rate="sqrt")
    assert settings["learning_rate"] == pytest.approx(0.075 * math.sqrt(512))
    assert settings["warmup"] == 10 / 200
    assert paper_settings("v1", batch_size=512)["learning_rate"] == pytest.approx(0.6)
    assert paper_settings("v2", batch_size=256, max_epochs=5)["learning_rate"] == pytest.approx(1.6)
    assert paper_settings(max_epochs=5)["warmup"] == 1.0


def test_settings_train():
    settings = paper_settings("v2", batch_size=4, max_epochs=1)
    settings |= {"encoder": "compactx0.5", "image_size": None, "queue_size": 4}
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    simclr = SimCLRTransformer(**settings, random_state=0).fit(images)
    assert simclr.augmentation_.size == (16, 16) and np.isfinite(simclr.loss_curve_).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paper": "v3"}, "no settings of paper='v3' for data='imagenet'"),
        ({"paper": "v2", "data": "cifar10"}, "no settings of paper='v2' for data='cifar10'"),
        ({"batch_size": 1}, "batch_size must be an int of at least 2 or None, got 1"),
        ({"max_epochs": True}, "max_epochs must be an int of at least 1 or None, got True"),
        ({"rate": "cosine"}, "rate must be 'linear', 'sqrt' or None, got 'cosine'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        paper_settings(**arguments)


@pytest.mark.parametrize("page", ["paper_to_code.rst", "seminar.rst"])
def test_every_name_on_the_pages_exists(page):
    text = (PAGES / page).read_text()
    names = re.findall(r":(?:class|func|mod|meth|attr):`~?([\w.]+)`", text)
    assert names
    for name in names:
        found = sklearn_simclr
        for part in name.removeprefix("sklearn_simclr.").split("."):
            found = getattr(found, part)
    estimators = (SimCLRTransformer(), SimCLRClassifier(), Augmentation())
    parameters = {name for estimator in estimators for name in estimator.get_params()}
    of_functions = {"among", "rate", "paper", "data", "metric", "reducer", "semi_hard"}
    assert set(re.findall(r"``(\w+)=", text)) <= parameters | of_functions
    for script in re.findall(r"``(examples/[\w/]+\.py)``", text):
        assert (PAGES.parents[1] / script).is_file(), script
