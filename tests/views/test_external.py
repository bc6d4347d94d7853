"""Views by transforms of other libraries: what they are called with, seeds, and what is refused."""

import pickle
import random

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from sklearn_simclr import Augmentation, ExternalViews
from sklearn_simclr.training.identity import describe
from sklearn_simclr.views.external import as_views


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, channels=3, height=20, width=24):
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator())


class Kornia(nn.Module):
    """Stands for a module of kornia: a batch, a draw for each image, and what it drew is kept."""

    same_on_batch = None

    def forward(self, batch):
        assert batch.ndim == 4 and batch.dtype == torch.float32
        self.drawn = torch.rand(len(batch), 1, 1, 1)
        return batch.mul_(self.drawn)


class Albumentations:
    """Stands for a composition of albumentations, which draws from its own generator."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def set_random_seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *, image):
        assert image.ndim == 3 and image.dtype == np.uint8
        image -= image // 2
        row = self.rng.integers(5)
        return {"image": image[row : row + 10, :12]}

    def to_dict(self):
        return {"transform": "crop"}


Kornia.__module__ = "kornia.augmentation"
Albumentations.__module__ = "albumentations.core.composition"


def by_python(image):
    return image * random.random()


def by_numpy(image):
    return image.mul_(np.random.rand())  # noqa: NPY002


def by_torch(image):
    return image * torch.rand(())


CROPS = [v2.RandomResizedCrop((12, 16)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]
TRANSFORMS = {
    "v2": (v2.Compose(CROPS), "image"),
    "v2 with conversions": (
        v2.Compose([v2.ToImage(), *CROPS, v2.ToDtype(torch.float32, scale=True)]),
        "image",
    ),
    "one": (v2.RandomResizedCrop(16), "image"),
    "sequential": (nn.Sequential(*CROPS), "image"),
    "Pillow": (T.Compose([T.RandomResizedCrop(12), T.Compose([T.ToTensor()])]), "pillow"),
    "to Pillow and back": (T.Compose([T.ToPILImage(), T.RandomCrop(12), T.ToTensor()]), "image"),
    "ends with Pillow": (T.Compose([T.ToPILImage(), T.RandomCrop(12)]), "image"),
    "kornia": (Kornia(), "batch"),
    "in kornia": (nn.Sequential(Kornia()), "batch"),
    "albumentations": (Albumentations(), "array"),
    "python": (by_python, "image"),
    "numpy": (by_numpy, "image"),
    "torch": (by_torch, "image"),
}


@pytest.mark.parametrize(("transform", "takes"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_views_of_any_transform(transform, takes):
    views = ExternalViews(transform)
    assert views.takes == takes
    x = images()
    before = x.clone()
    made = views(x, generator(1), n_views=2)
    assert made.dtype == torch.float32 and made.shape[:2] == (12, 3)
    assert made.amin() >= 0 and made.amax() <= 1
    assert len(torch.unique(made.flatten(1), dim=0)) == 12
    assert torch.equal(x, before)
    assert torch.equal(views(x, generator(1), n_views=2), made)
    assert not torch.equal(views(x, generator(2), n_views=2), made)
    resolved = views.resolve((3, 20, 24))
    assert resolved.size == made.shape[2:]
    assert torch.equal(resolved(x, generator(1), n_views=2), made)


@pytest.mark.parametrize(("transform", "takes"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_same_draws_are_the_same_views(transform, takes):
    views, x = ExternalViews(transform), images()
    draws = views.draw(12, (3, 20, 24), generator=generator())
    made = views.apply(x, draws)
    assert torch.equal(views.apply(x, draws), made)
    part = torch.tensor([4, 1])
    rows = torch.cat([part, part + 6])
    again = [views.apply(x[part], draws.rows(rows)) for _ in range(2)]
    assert torch.equal(again[0], again[1])
    if takes != "batch":  # where a view depends on its company
        assert torch.equal(again[0], made[rows])


def test_views_are_what_the_transform_makes_of_an_image():
    x = images()
    views = ExternalViews(v2.Compose([v2.RandomHorizontalFlip(1.0), v2.RandomInvert(1.0)]))(x, generator())
    torch.testing.assert_close(views, 1 - x.flip(3) / 255)
    for takes, transform in (
        ("pillow", T.functional.hflip),
        ("array", lambda image: image[:, ::-1]),
        ("batch", lambda batch: batch.flip(3)),
    ):
        made = ExternalViews(transform, takes=takes)(x, generator())
        torch.testing.assert_close(made, x.flip(3) / 255)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pillow_images(channels, mode):
    def seen(image):
        assert isinstance(image, Image.Image) and image.mode == mode
        return TF.to_tensor(image)

    x = images(channels=channels)
    torch.testing.assert_close(ExternalViews(seen, takes="pillow")(x), x / 255)
    torch.testing.assert_close(ExternalViews(seen, takes="pillow")(x / 255), x / 255)
    with pytest.raises(ValueError, match="1, 3 or 4 channels, but the images have 2"):
        ExternalViews(seen, takes="pillow").resolve((2, 8, 8))


def test_images_of_more_than_8_bits_keep_their_precision():
    x = torch.rand(3, 5, 8, 8, generator=generator())
    assert torch.equal(ExternalViews(lambda image: {"image": image}, takes="array")(x), x)
    assert torch.equal(ExternalViews(lambda image: image)(x), x)


def test_global_generators_are_left_alone():
    def state():
        drawn = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), drawn, torch.get_rng_state().tolist()

    before = state()
    for transform in (by_python, by_numpy, by_torch):
        ExternalViews(transform)(images(), generator())
    assert state() == before


def test_the_transform_itself_stays_as_it_is():
    transform = Kornia()
    ExternalViews(transform).resolve((3, 20, 24))(images(), generator())
    assert not hasattr(transform, "drawn")


def two_views(image):
    return [image, image]


def random_size(image):
    return v2.functional.center_crop(image, [12, int(torch.randint(5, 20, ()))])


@pytest.mark.parametrize(
    ("transform", "error", "match"),
    [
        (random_size, ValueError, r"different sizes: 12 x \d+ and 12 x \d+ pixels.*one size"),
        (v2.Normalize([0.5] * 3, [0.2] * 3), ValueError, r"in \[-2.*Leave out Normalize"),
        (lambda image: image / 0, ValueError, "in .*Leave out Normalize"),
        (lambda image: image * 255, ValueError, r"255\], but views must be in \[0, 1\]"),
        (v2.Grayscale(1), ValueError, r"3 channels of the images.*\(1, 20, 24\)"),
        (two_views, TypeError, r"one view \(C, h, w\), got a list. Pass the transform that makes one view"),
        (lambda image: None, TypeError, "got a NoneType"),
        (lambda image: image[None], TypeError, r"got a Tensor of shape \(1, 3, 20, 24\)"),
    ],
)
def test_what_is_no_view_is_refused(transform, error, match):
    views = ExternalViews(transform)
    with pytest.raises(error, match=match):
        views(images(), generator())
    if transform is not random_size:
        with pytest.raises(error, match=match):
            views.resolve((3, 20, 24))


def test_another_size_than_that_of_the_trial_is_refused():
    views = ExternalViews(lambda image: image).resolve((3, 20, 24))
    with pytest.raises(ValueError, match="different sizes: 20 x 24 and 24 x 20"):
        views(images().mT)


@pytest.mark.parametrize("result", [lambda b: b[:1], lambda b: b[0], lambda b: b.numpy()])
def test_a_batch_of_views_is_wanted_for_a_batch(result):
    with pytest.raises(TypeError, match=r"one view per image of a batch, a tensor \(6, C, h, w\)"):
        ExternalViews(result, takes="batch")(images())


@pytest.mark.parametrize("what", [3, "cifar", [v2.ToImage()], v2.Compose, Augmentation])
def test_what_cannot_be_called_is_refused(what):
    with pytest.raises(TypeError, match=r"must be an Augmentation, a callable.*, got"):
        as_views(what)


def test_what_it_takes_is_checked():
    with pytest.raises(ValueError, match="takes must be one of"):
        ExternalViews(by_torch, takes="tensor")


def test_one_draw_for_a_batch_is_refused():
    transform = Kornia()
    transform.same_on_batch = True
    for wrong in (transform, nn.Sequential(transform)):
        with pytest.raises(ValueError, match="same_on_batch=False"):
            ExternalViews(wrong)


def test_an_error_says_what_the_transform_was_called_with():
    with pytest.raises(ValueError, match="PIL Image.*takes") as caught:
        ExternalViews(lambda image: TF.to_tensor(image))(images())
    assert "function fails on a Tensor of shape (3, 20, 24) and dtype torch.float32:" in str(caught.value)
    too_large = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32)])
    with pytest.raises(ValueError, match=r"RandomCrop fails on .*\(3, 20, 24\).*larger than input image"):
        ExternalViews(too_large).resolve((3, 20, 24))


def test_draws_of_other_images_are_refused():
    views = ExternalViews(by_torch)
    with pytest.raises(ValueError, match="5 views for 6 images"):
        views.apply(images(), views.draw(5, (3, 20, 24)))
    assert views(images(0)).shape == (0, 3, 20, 24)


def test_it_is_pickled_and_shown():
    views = ExternalViews(TRANSFORMS["v2"][0]).resolve((3, 20, 24))
    again = pickle.loads(pickle.dumps(views))
    assert torch.equal(again(images(), generator()), views(images(), generator()))
    assert "RandomResizedCrop" in repr(again) and "takes='image'" in repr(again)


def test_the_content_of_albumentations_is_what_they_write_and_their_parts():
    views = [ExternalViews(Albumentations()).resolve((3, 20, 24)) for _ in range(2)]
    assert describe(views[0]) == describe(views[1])
    views[0].transform.limit = 3
    assert describe(views[0]) != describe(views[1])


def test_real_kornia():
    K = pytest.importorskip("kornia.augmentation")
    transform = K.AugmentationSequential(
        K.RandomResizedCrop((12, 16)),
        K.ColorJiggle(0.4, 0.4, 0.4, 0.1),
        K.RandomGaussianBlur((3, 3), (0.1, 2.0)),
    )
    views = ExternalViews(transform)
    assert views.takes == "batch" and ExternalViews(nn.Sequential(K.RandomHorizontalFlip())).takes == "batch"
    resolved = views.resolve((3, 20, 24))
    key = describe(resolved)
    made = resolved(images(), generator(), n_views=2)
    assert made.shape == (12, 3, 12, 16) and len(torch.unique(made.flatten(1), dim=0)) == 12
    assert torch.equal(views.resolve((3, 20, 24))(images(), generator(), n_views=2), made)
    assert describe(views.resolve((3, 20, 24))) == key
    with pytest.raises(ValueError, match="same_on_batch"):
        ExternalViews(K.RandomHorizontalFlip(same_on_batch=True))


def test_real_albumentations():
    A = pytest.importorskip("albumentations")
    make = [A.RandomResizedCrop((12, 16)), A.HorizontalFlip(), A.ColorJitter(), A.GaussianBlur((3, 3))]
    for transform in (A.Compose(make), A.RandomResizedCrop((12, 16))):
        views = ExternalViews(transform)
        assert views.takes == "array"
        made = views(images(), generator(), n_views=2)
        assert made.shape == (12, 3, 12, 16)
        assert torch.equal(views(images(), generator(), n_views=2), made)
        assert describe(views.resolve((3, 8, 8))) == describe(views.resolve((3, 8, 8)))
    other = ExternalViews(A.Compose(make[:-1]))
    assert describe(other.resolve((3, 8, 8))) != describe(ExternalViews(A.Compose(make)).resolve((3, 8, 8)))
