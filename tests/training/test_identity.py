"""A key of a training is equal for equal content, and for nothing else."""

import functools
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from helpers import tiny
from torch import nn
from torchvision.transforms import v2

from sklearn_simclr import Augmentation, ExternalViews, SimCLRTransformer
from sklearn_simclr.images import ImageSource
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training.identity import content_key, describe


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)


def closing_over(value):
    return lambda z: z * value


def with_default(value):
    return lambda z, scale=value: z * scale


def with_inner(value):
    def outer(z):
        return (lambda x: x + value)(z)

    return outer


class Scale:
    def __init__(self, value):
        self.value = value

    def __call__(self, z):
        return z * self.value

    def scaled(self, z):
        return z * self.value


class Buffered(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(value)))

    def forward(self, z):
        return z * self.scale


MAKERS = {
    "closure": closing_over,
    "default": with_default,
    "inner function": with_inner,
    "object": Scale,
    "bound method": lambda value: Scale(value).scaled,
    "module": Buffered,
    "partial": lambda value: functools.partial(nt_xent, temperature=value),
    "array": lambda value: np.array([1.0, value]),
    "tensor": lambda value: torch.tensor([1.0, value]),
    "bfloat16": lambda value: torch.tensor([1.0, value], dtype=torch.bfloat16),
    "nested": lambda value: {"a": [(value, {"b": value})], "c": {value}},
    "augmentation": lambda value: Augmentation(color_strength=value),
    "external views": lambda value: ExternalViews(v2.Compose([v2.RandomHorizontalFlip(value)])),
    "views of Pillow images": lambda value: ExternalViews(T.Compose([T.RandomSolarize(value), T.ToTensor()])),
    "generator": lambda value: np.random.default_rng(int(100 * value)),
    "generator of Python": lambda value: random.Random(value),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_equal_content_is_equal_and_other_content_is_not(make):
    assert describe(make(0.5)) == describe(make(0.5))
    assert describe(make(0.5)) != describe(make(0.25))


def test_a_number_is_not_its_text_and_a_list_is_no_tuple():
    values = [1, "1", 1.0, True, None, "None", [1], (1,), {1}, b"1"]
    assert len({repr(describe(value)) for value in values}) == len(values)


def test_what_contains_itself_ends():
    value = Scale(1)
    value.value = value
    assert describe(value) == describe(value)


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(TypeError, match="cannot be told from another.*memory"):
        describe(object())


def test_an_edited_method_is_another_class():
    def make(body):
        namespace = {"nn": nn, "__name__": "mine"}
        exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {body}", namespace)
        return namespace["Net"]()

    assert describe(make("x.mean((2, 3))")) == describe(make("x.mean((2, 3))"))
    assert describe(make("x.mean((2, 3))")) != describe(make("x.amax((2, 3))"))


def test_the_key_is_the_same_in_another_process(tmp_path):
    script = textwrap.dedent(
        """
        import torch
        from sklearn_simclr.images import ImageSource
        from sklearn_simclr import ExternalViews
        from sklearn_simclr.training.identity import content_key

        def outer(scale):
            def loss(z):
                assert scale not in {"a", "b", "c"}
                return sum(map(lambda x: x * scale, z))
            return loss

        def darker(factor):
            return lambda image: image * factor

        views = ExternalViews(darker(0.5))
        known = {"loss": outer(2), 3: {"a", "b"}, "views": views.resolve((1, 4, 4))}
        print(content_key(ImageSource(torch.zeros(2, 1, 4, 4), (0, 1)), known))
        """
    )
    found = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def test_a_pixel_a_range_and_an_order_are_other_images():
    pixels = torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4)
    other = pixels.clone()
    other[0, 0, 0, 0] += 1
    sources = [
        ImageSource(pixels, (0, 255)),
        ImageSource(other, (0, 255)),
        ImageSource(pixels, (0, 31)),
        ImageSource(pixels, (0, 255), rows=torch.tensor([1, 0])),
        ImageSource(pixels.view(2, 1, 2, 8), (0, 255)),
    ]
    assert len({content_key(source, {}) for source in sources}) == len(sources)
    assert content_key(ImageSource(pixels.clone(), (0, 255)), {}) == content_key(sources[0], {})


@pytest.mark.parametrize(
    "make", [closing_over, with_default, Scale, Buffered], ids=lambda make: make.__name__
)
def test_memory_tells_losses_apart(images, tmp_path, make):
    def fit(value):
        scaled = make(value)
        simclr = SimCLRTransformer(
            tiny, loss=Sum(scaled), max_epochs=1, batch_size=8, random_state=0, memory=str(tmp_path)
        )
        return simclr.fit(images).loss_curve_

    assert fit(1.0) == fit(1.0)
    assert fit(1.0) != fit(2.0)


class Sum:
    """A loss by another loss: an object that is called."""

    def __init__(self, function):
        self.function = function

    def __call__(self, z):
        return nt_xent(self.function(z), 0.5) * self.function(torch.ones(()))


class Darker(Augmentation):
    """Views that are half as bright."""

    def apply(self, images, draws):
        return super().apply(images, draws) / 2


def test_memory_tells_kinds_of_views_apart(images, tmp_path):
    params = {"max_epochs": 1, "batch_size": 8, "random_state": 0, "memory": str(tmp_path)}
    first, second = (
        SimCLRTransformer(tiny, augmentation=views, **params).fit(images).loss_curve_
        for views in (Augmentation(), Darker())
    )
    assert first != second
