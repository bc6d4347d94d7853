"""Whether mirror images look like the images: what mirror="auto" goes by."""

import numpy as np
import pytest
import torch
from helpers import tiny
from sklearn.datasets import load_digits, load_sample_images

from sklearn_simclr import Augmentation, SimCLRTransformer, SupervisedTransformer
from sklearn_simclr.encoders.mirror import left_right_accuracy
from sklearn_simclr.images import ImageSource


def crops(n, turned, seed=0):
    """Return crops of photographs, some of them mirrored at random."""
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    X = np.empty((n, 32, 32, 3), dtype=np.uint8)
    for k in range(n):
        photograph = photographs[rng.integers(2)]
        top, left = rng.integers(0, 300), rng.integers(0, 500)
        crop = photograph[top : top + 64 : 2, left : left + 64 : 2]
        X[k] = crop[:, ::-1] if turned and rng.random() < 0.5 else crop
    return X


def test_mirrored_photographs_look_like_photographs_and_mirrored_digits_unlike_digits():
    pixels = torch.from_numpy(crops(300, turned=True)).permute(0, 3, 1, 2)
    assert left_right_accuracy(ImageSource(pixels, (0, 255))) < 0.6
    digits = ImageSource(torch.from_numpy(load_digits().images[:300, None]), (0, 16))
    assert left_right_accuracy(digits) > 0.8
    assert left_right_accuracy(ImageSource(torch.ones(4, 1, 8, 8), (0, 1))) == 0.5


def test_large_images_are_told_apart_as_small_ones():
    small = torch.randint(256, (40, 3, 96, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = (small.float() * torch.linspace(0.9, 1, 48)).to(torch.uint8)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    expected, found = (left_right_accuracy(ImageSource(pixels, (0, 255))) for pixels in (small, large))
    assert abs(found - expected) < 0.1 and min(found, expected) > 0.6


def test_accuracy_is_that_of_ridge_regression():
    from sklearn.linear_model import Ridge

    from sklearn_simclr._utils.seeds import isolated_generators
    from sklearn_simclr.encoders.compact import CompactNet

    images = torch.from_numpy(load_digits().images[:60, None]).float() / 16
    source = ImageSource(images, (0, 1))
    with isolated_generators(0, torch.device("cpu")):
        network = CompactNet(1, (8, 8)).eval()
        network.initialize_from_images(source, torch.Generator().manual_seed(0))
    with torch.no_grad():
        differences = (network(images) - network(images.flip(3)))[:, : network.read_dim].double().numpy()
    differences = differences / np.maximum(np.sqrt((differences**2).mean(0)), 1e-30)
    right = 0
    for here, there in (slice(30), slice(30, None)), (slice(30, None), slice(30)):
        alpha = (differences[here] ** 2).sum(1).mean()
        ridge = Ridge(alpha, fit_intercept=False).fit(differences[here], np.ones(30))
        right += (ridge.predict(differences[there]) > 0).sum()
    assert left_right_accuracy(source) == right / 60


def one_sided(X):
    """Return images whose light comes from the right."""
    return (X * np.linspace(0.3, 1, 32)[:, None]).astype(np.uint8)


@pytest.mark.parametrize("turned", [True, False])
def test_auto_goes_by_the_images(turned):
    X = crops(400, turned)
    X = X if turned else one_sided(X)
    simclr = SimCLRTransformer(max_epochs=0, random_state=0).fit(X)
    assert simclr.mirror_ is turned
    assert simclr.augmentation_.flip_probability == (0.5 if turned else 0.0)
    same = np.array_equal(simclr.transform(X), simclr.transform(X[:, :, ::-1].copy()))
    assert same is turned
    simclr.set_params(mirror=not turned)
    same = np.array_equal(simclr.transform(X), simclr.transform(X[:, :, ::-1].copy()))
    assert same is not turned


@pytest.mark.parametrize(
    "make",
    [
        lambda views: SimCLRTransformer("compactx0.5", augmentation=views, max_epochs=0, random_state=0),
        lambda views: SupervisedTransformer("compactx0.5", augmentation=views, max_epochs=1, random_state=0),
    ],
)
def test_what_is_given_is_taken(make):
    X, y = one_sided(crops(100, turned=False)), np.arange(100) % 2
    for views, flips in (
        (None, 0.0),
        (Augmentation(), 0.0),
        (Augmentation(flip_probability=0.5), 0.5),
        (Augmentation(recipe="cifar"), 0.5),
    ):
        model = make(views).fit(X, y)
        assert model.augmentation_.flip_probability == flips
        assert views is None or views.flip_probability in ("auto", 0.5)
        assert getattr(model, "mirror_", False) is False


def test_images_are_not_looked_at_where_the_views_say_it(monkeypatch):
    def fail(source):
        raise AssertionError("looked")

    monkeypatch.setattr("sklearn_simclr.estimators.views.mirror_images_fit_in", fail)
    monkeypatch.setattr("sklearn_simclr.estimators.simclr_transformer.mirror_images_fit_in", fail)
    X = crops(20, turned=True)
    params = {"max_epochs": 0, "random_state": 0}
    assert not SimCLRTransformer(augmentation=Augmentation(flip_probability=0), **params).fit(X).mirror_
    flips = Augmentation(flip_probability=0.5)
    assert not SimCLRTransformer("resnet18", augmentation=flips, **params).fit(X).mirror_
    no_up = SimCLRTransformer(augmentation=Augmentation(recipe="no_up"), **params).fit(X)
    assert no_up.mirror_ and no_up.augmentation_.flip_probability == 0.5
    with pytest.raises(AssertionError, match="looked"):
        SimCLRTransformer("resnet18", max_epochs=1).fit(X)


def test_images_are_looked_at_once_they_are_trained_on(monkeypatch):
    looks = []
    look = "sklearn_simclr.estimators.views.mirror_images_fit_in"
    monkeypatch.setattr(look, lambda source: bool(looks.append(len(source))))
    X, network = crops(20, turned=True), tiny(3)
    simclr = SimCLRTransformer(network, max_epochs=0, warm_start=True, random_state=0).fit(X)
    assert not looks and simclr.augmentation_.flip_probability == 0.5
    simclr.set_params(max_epochs=1).fit(X)
    assert looks == [20] and simclr.augmentation_.flip_probability == 0
    assert simclr.fit(X).augmentation_.flip_probability == 0 and looks == [20]


def test_partial_fit_looks_once():
    X = crops(64, turned=True)
    simclr = SimCLRTransformer("compactx0.5", batch_size=32, random_state=0).partial_fit(X)
    before = simclr.mirror_
    assert (
        simclr.partial_fit(np.tril(np.ones((32, 32), dtype=np.uint8))[None, ..., None] * X).mirror_ is before
    )


def test_generators_of_the_user_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    left_right_accuracy(ImageSource(images, (0, 1)))
    assert torch.equal(torch.rand(1), expected)
