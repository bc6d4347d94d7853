"""Networks that take images of one size get views of that size, or the error says what to pass."""

import numpy as np
import pytest
from torch import nn

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)

X = np.random.default_rng(0).integers(0, 256, (8, 36, 28, 3), dtype=np.uint8)
Y = np.arange(8) % 2


def flat(height=36, width=28):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SimCLRTransformer(flat(), max_epochs=1, random_state=0),
        lambda: SimCLRTransformer(flat, max_epochs=1, random_state=0),
        lambda: AutoencoderTransformer(flat(), max_epochs=1, augmentation=Augmentation()),
        lambda: SupervisedTransformer(flat(), max_epochs=1),
        lambda: SimCLRClassifier(SimCLRTransformer(flat(), max_epochs=1), max_epochs=1),
        lambda: DistilledClassifier(
            SupervisedTransformer(max_epochs=0), SimCLRTransformer(flat()), max_epochs=1
        ),
    ],
)
def test_views_have_the_size_of_the_images(make):
    fitted = make().fit(X, Y)
    assert fitted.augmentation_.size == (36, 28)
    answer = fitted.predict if hasattr(fitted, "predict") else fitted.transform
    assert len(answer(X)) == 8


def test_networks_of_any_size_keep_their_views():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    small = SimCLRTransformer(network, max_epochs=0, random_state=0).fit(X).augmentation_.size
    assert small == Augmentation().resolve((3, 36, 28)).size != (36, 28)


def test_vision_transformers_of_timm():
    timm = pytest.importorskip("timm")
    images = np.random.default_rng(0).random((4, 32, 32, 3))
    fitted = SimCLRTransformer("timm:vit_tiny_patch16_224", max_epochs=0, random_state=0).fit(images)
    assert fitted.augmentation_.size == (32, 32)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(ValueError, match=r"made for images of 224 x 224.*image_size=\(224, 224\)"):
        SimCLRTransformer(module, max_epochs=0).fit(images)


def test_what_cannot_be_brought_to_the_size_says_what_to_pass():
    given = SimCLRTransformer(flat(), max_epochs=1, augmentation=Augmentation(size=8))
    with pytest.raises(ValueError, match=r"of 8 x 8\. Pass Augmentation\(size=\(36, 28\)\)"):
        given.fit(X)
    cut = SimCLRTransformer(flat(), max_epochs=1, augmentation=lambda image: image[:, :8, :8])
    with pytest.raises(ValueError, match=r"not views of 8 x 8\. Pass a transform"):
        cut.fit(X)
    with pytest.raises(ValueError, match=r"of one size only, pass this size as image_size="):
        SimCLRTransformer(flat(20, 20), max_epochs=1).fit(X)
    fitted = SimCLRTransformer(flat(20, 20), max_epochs=1, image_size=20, random_state=0).fit(X)
    assert fitted.transform(X).shape == (8, 4)
