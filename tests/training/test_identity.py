"""A key of a training is equal for equal content, and for nothing else."""

import dataclasses
import functools
import random
import re
import subprocess
import sys
import textwrap
import threading
import types

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
from sklearn_simclr.training import Objective, Plan, Step, train
from sklearn_simclr.training.identity import content_of, describe


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


def with_global(value, body="return z * scale"):
    """Return a function that reads a global of its module, as a cell of a notebook does."""
    space = {"__name__": "notebook", "scale": value, "settings": types.ModuleType("settings")}
    space["settings"].scale = value
    exec(f"def helper(z):\n    {body}\ndef loss(z):\n    return helper(z)", space)
    return space["loss"]


def with_attribute_of_class(value):
    return type(
        "Loss", (), {"__module__": "notebook", "scale": value, "__call__": lambda self, z: z * self.scale}
    )


def decorated(value):
    def decorate(function):
        @functools.wraps(function)
        def inner(z):
            return function(z) * value

        return inner

    return decorate(nt_xent)


def hooked(value):
    module = nn.Linear(2, 2)
    nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    module.register_forward_hook(lambda module, args, output: output * value)
    return module


def with_table(value):
    module = nn.Identity()
    module.register_buffer("table", torch.tensor([value]), persistent=False)
    return module


def with_plain_attribute(value):
    module = nn.Identity()
    module.scale = value
    return module


def frozen(value):
    module = with_plain_attribute(1)
    module.weight = nn.Parameter(torch.ones(2), requires_grad=value > 0.3)
    return module


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Numbers(list):
    pass


def subclass_of_list(value):
    numbers = Numbers([1])
    numbers.scale = value
    return numbers


def from_code(code):
    """Return what makes the last name of a program, in which VALUE stands for a number."""

    def make(value):
        temperatures = types.ModuleType("package.temperatures")
        temperatures.scale = value
        package = types.ModuleType("package")
        package.temperatures = temperatures
        sys.modules.update({"package": package, "package.temperatures": temperatures})
        space = {"__name__": "__main__", "__package__": "package", "settings": temperatures}
        space |= {"dataclasses": dataclasses, "functools": functools, "np": np, "nn": nn, "torch": torch}
        space |= {"views": ExternalViews, "nt_xent": nt_xent}
        exec(code.replace("VALUE", str(value)), space)
        return list(space.values())[-1]

    return make


PROGRAMS = {
    "wrapper of a library's function": "@functools.wraps(nt_xent)\ndef loss(z): return nt_xent(z, VALUE)",
    "subclass of partial": (
        "class Loss(functools.partial):\n  def __call__(self, z): return z * VALUE\nloss = Loss(nt_xent)"
    ),
    "subclass of views": (
        "class Views(views):\n  def apply(self, *args): return super().apply(*args) * VALUE\nit = Views(abs)"
    ),
    "subclass of array": "class Array(np.ndarray): pass\nx = np.zeros(1).view(Array)\nx.scale = VALUE\ny = x",
    "attribute of a tensor": "x = torch.zeros(1)\nx.scale = VALUE\ny = x",
    "metaclass": "class Kind(type):\n  scale = VALUE\nclass Loss(metaclass=Kind): pass",
    "descriptor": (
        "class Given:\n  def __init__(self, value): self.value = value\n"
        "  def __get__(self, *args): return self.value\n  def __set__(self, *args): pass\n"
        "class Loss:\n  scale = Given(VALUE)"
    ),
    "cached property": "class Loss:\n  @functools.cached_property\n  def scale(self): return VALUE",
    "dataclass": "@dataclasses.dataclass\nclass Loss:\n  scale: float = VALUE\nloss = Loss()",
    "dataclass made by a call": (
        "loss = dataclasses.make_dataclass('Loss', [], namespace={'__call__': lambda self, z: z * VALUE})"
    ),
    "import within a function": "def loss(z):\n  from .temperatures import scale\n  return z * scale",
    "import of a module within": "def loss(z):\n  from . import temperatures as t\n  return z * t.scale",
    "getattr": "def loss(z): return z * getattr(settings, 'scale')",
    "hook of a gradient": (
        "x = nn.Linear(1, 1)\nfor w in x.parameters(): nn.init.ones_(w)\n"
        "h = x.weight.register_hook(lambda gradient: gradient * VALUE)\ny = x"
    ),
}


MAKERS = {
    **{name: from_code(code) for name, code in PROGRAMS.items()},
    "name of an argument": lambda value: eval(
        "lambda z, labels=0: z" if value == 0.5 else "lambda z, y=0: z"
    ),
    "compiled function": lambda value: torch.compile(closing_over(value)),
    "compiled module": lambda value: nn.Sequential(torch.compile(with_plain_attribute(value))),
    "global of a helper": with_global,
    "global of a module": lambda value: with_global(value, "return z * settings.scale"),
    "attribute of a class": with_attribute_of_class,
    "attribute of an object's class": lambda value: with_attribute_of_class(value)(),
    "decorator": decorated,
    "cached function": lambda value: functools.lru_cache(closing_over(value)),
    "hook": hooked,
    "buffer beside the state": with_table,
    "attribute of a module": with_plain_attribute,
    "frozen weights": frozen,
    "slots": Slots,
    "subclass of list": subclass_of_list,
    "pattern": lambda value: re.compile("a" * 300 + str(value)),
    "times": lambda value: np.array([int(value * 100)], dtype="datetime64[s]"),
    "masked": lambda value: np.ma.array([1, 2], mask=[value > 0.3, False]),
    "records": lambda value: np.array([(1, value)], dtype=[("a", int), ("b", float)]),
    "float8": lambda value: torch.tensor([value]).to(torch.float8_e5m2),
    "complex": lambda value: torch.tensor([value + 1j]).conj(),
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
    values = [1, "1", 1.0, "1.0", "b'1'", True, None, "None", [1], (1,), {1}, b"1"]
    assert len({repr(describe(value)) for value in values}) == len(values)


def test_what_contains_itself_ends():
    value = Scale(1)
    value.value = value
    assert describe(value) == describe(value)


def test_what_cannot_be_told_apart_is_refused():
    deep = []
    for _ in range(3000):
        deep = [deep]
    for value in (
        deep,
        lambda z: z * eval("scale"),
        object(),
        threading.Lock(),
        (i for i in range(3)),
        {"tensor": torch.empty(2, device="meta")},
        torch.eye(2).to_sparse(),
        functools.partial(nt_xent, temperature=threading.Lock()),
    ):
        with pytest.raises(TypeError, match="cannot be told from another.*memory"):
            content_of(value)


def test_functions_that_name_each_other_end():
    space = {"__name__": "notebook"}
    exec(
        "\n".join(f"def f{i}(z):\n    return {'+'.join(f'f{k}(z)' for k in range(12))}" for i in range(12)),
        space,
    )
    assert describe(space["f0"]) == describe(space["f0"])


def test_an_objective_of_ones_own_is_known_by_all_its_attributes(images, tmp_path):
    def fit(scale):
        objective = Bright({"encoder": nn.Sequential(nn.Flatten(), nn.Linear(192, 1))}, given=["encoder"])
        for weight in objective.modules.parameters():
            nn.init.constant_(weight, 0.1)
        objective.scale = scale
        plan = Plan(1, 8, "sgd", 0.1, lambda fraction: 1.0, seed=0)
        source = ImageSource(torch.from_numpy(images).movedim(-1, 1).contiguous(), (0, 255))
        return train(objective, source, plan, cache=str(tmp_path)).rows[0]["train_loss"]

    assert fit(1.0) == fit(1.0)
    assert fit(1.0) != fit(2.0)


class Bright(Objective):
    """Its author has not written `identity`."""

    def step(self, batch):
        return Step((self.modules["encoder"](batch.pixels()) - self.scale).square().mean())


def test_an_edited_method_is_another_class():
    def make(body):
        namespace = {"nn": nn, "__name__": "mine"}
        exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {body}", namespace)
        return namespace["Net"]()

    assert describe(make("x.mean((2, 3))")) == describe(make("x.mean((2, 3))"))
    assert describe(make("x.mean((2, 3))")) != describe(make("x.amax((2, 3))"))


@pytest.mark.slow
def test_the_key_is_the_same_in_another_process(monkeypatch, capsys):
    script = textwrap.dedent(
        """
        import torch
        from sklearn_simclr.images import ImageSource
        from sklearn_simclr import ExternalViews
        from sklearn_simclr.training.identity import content_by_part

        def outer(scale):
            def loss(z):
                assert scale not in {"a", "b", "c", "d", "e"}  # in another order there
                return sum(map(lambda x: x * scale, z))
            return loss

        def darker(factor):
            return lambda image: image * factor

        views = ExternalViews(darker(0.5))
        known = {"loss": outer(2), "set": {"a", "b", "c", "d", "e"}, "views": views.resolve((1, 4, 4))}
        print(content_by_part(ImageSource(torch.zeros(2, 1, 4, 4), (0, 1)), known))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    program = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    exec(script, vars(program))
    assert capsys.readouterr().out == done.stdout


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
    assert len({source.content() for source in sources}) == len(sources)
    assert ImageSource(pixels.clone(), (0, 255)).content() == sources[0].content()


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
