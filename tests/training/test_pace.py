"""How long a step takes is known before the first one, and a training that cannot work says so."""

import math
import re
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from sklearn_simclr import SimCLRTransformer, SupervisedTransformer
from sklearn_simclr._utils.progress import in_words
from sklearn_simclr.images import ImageSource
from sklearn_simclr.training import Objective, Plan, Step, default_learning_rate
from sklearn_simclr.training.clock import Clock
from sklearn_simclr.training.loop import Loop
from sklearn_simclr.training.pace import Pace, fit_into_time, measure_pace


class Trials:
    """Steps that take known times; the first one also what is done but once."""

    def __init__(self, image, fixed=0.0, update=0.0, once=0.0, smallest=0):
        self.image, self.fixed, self.update, self.once, self.smallest = image, fixed, update, once, smallest
        self.sizes, self.spent = [], 0.0

    def __call__(self, n):
        if n < self.smallest:
            raise RuntimeError("too few images")
        gradient = self.image * n + self.fixed + (0.0 if self.sizes else self.once)
        self.sizes.append(n)
        self.spent += gradient + self.update
        return gradient, self.update


@pytest.mark.parametrize("image", [1e-5, 1e-3, 0.02])
def test_quick_steps_are_measured_exactly_and_at_next_to_no_cost(image):
    trials = Trials(image, fixed=0.002, update=0.003, once=0.1)
    pace = measure_pace(trials, 256, 600.0)
    assert pace.step(256) == pytest.approx(256 * image + 0.005, rel=0.05)
    assert trials.spent < 0.01 * 600


@pytest.mark.parametrize("image", [0.1, 1.0, 8.0])
def test_slow_steps_are_foreseen_from_a_few_images(image):
    trials = Trials(image, update=0.5, once=0.3)
    pace = measure_pace(trials, 256, 100.0)
    assert pace.step(256) == pytest.approx(256 * image + 0.5, rel=0.2)
    assert trials.spent <= max(0.15 * 100, 5 * image + 1.5)


def test_what_is_the_same_for_any_number_of_images_is_not_counted_for_each():
    trials = Trials(0.0001, fixed=0.05, once=0.05)
    assert measure_pace(trials, 256, 2.0).step(256) == pytest.approx(0.0756, rel=0.2)


def test_a_first_trial_that_takes_all_the_time_is_the_only_one():
    trials = Trials(30.0)
    assert measure_pace(trials, 256, 40.0).step(2) == 60.0
    assert trials.sizes == [2]


def test_a_loss_that_wants_more_images_gets_them():
    trials = Trials(0.001, smallest=20)
    assert measure_pace(trials, 256, 100.0).step(256) == pytest.approx(0.256)
    assert min(trials.sizes) == 32
    with pytest.raises(RuntimeError, match="too few images"):
        measure_pace(Trials(0.001, smallest=20), 10, 100.0)


def plan(max_time, batch_size=256, **options):
    options = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": lambda fraction: 1.0, **options}
    return Plan(100, batch_size, seed=0, max_time=max_time, **options)


def test_a_training_with_time_is_left_alone():
    given = plan(100.0)
    assert fit_into_time(given, 3000, Pace(0.001, 0.01), 90.0, "less") is given


@pytest.mark.parametrize(
    "image, size, steps",
    [(0.01, 256, 33), (0.02, 128, 33), (0.05, 64, 27), (0.1, 32, 27), (0.4, 32, 6)],
)
def test_where_few_steps_fit_the_batch_becomes_smaller(image, size, steps):
    given = plan(100.0, resolve_optimizer=lambda n: ("muon", n / 1000, 0.25))
    with pytest.warns(
        ConvergenceWarning, match=f"about {steps} steps of {size} images.*3,000.*too few"
    ) as said:
        found = fit_into_time(given, 3000, Pace(image, 0.1), 90.0, "less")
    assert "or more, less." in str(said[0].message)
    assert found.batch_size == size
    if size < 256:
        assert (found.optimizer, found.learning_rate, found.weight_decay) == ("muon", size / 1000, 0.25)
        assert f"A step of 256 images would take {in_words(256 * image + 0.1)}" in str(said[0].message)
    else:
        assert found is given


def test_a_batch_that_is_small_stays():
    with pytest.warns(ConvergenceWarning, match="about 10 steps of 40 images"):
        assert fit_into_time(plan(10.0), 40, Pace(0.025, 0.0), 10.0, "less").batch_size == 256
    with pytest.warns(ConvergenceWarning, match="about 10 steps of 48 images"):
        assert fit_into_time(plan(10.0, 48), 400, Pace(1 / 48, 0.0), 10.0, "less").batch_size == 48


def test_the_time_that_is_advised_is_enough():
    with pytest.warns(ConvergenceWarning) as said:
        fit_into_time(plan(40.0), 3000, Pace(0.01, 0.0), 30.0, "less")
    advised = float(str(said[0].message).partition("max_time=")[2].partition("Pass max_time=")[2].split()[0])
    given = plan(advised)
    assert fit_into_time(given, 3000, Pace(0.01, 0.0), advised - 10.0, "less") is given
    assert advised == 800


@pytest.mark.parametrize("seconds", [5.9, 0.0, -20.0])
def test_a_time_in_which_no_step_fits_is_refused(seconds):
    message = (
        "max_time=10 is too short.*took .* s of it.*step of 32 images takes about 2 s.*Pass max_time=.*less"
    )
    with pytest.raises(ValueError, match=message):
        fit_into_time(plan(10.0), 3000, Pace(2 / 32, 0.0), seconds, "less")


class Hands:
    """A clock that stands still until somebody moves it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def __reduce__(self):
        return Hands, ()  # the time is no part of a network that has a clock


@pytest.fixture
def hands(monkeypatch):
    found = Hands()
    monkeypatch.setattr(time, "perf_counter", found)
    return found


class Slow(nn.Module):
    """An encoder that takes a known time for each view, on a clock of its own."""

    def __init__(self, hands, seconds, fixed=0.0):
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 6), nn.BatchNorm1d(6)
        self.hands, self.seconds, self.fixed, self.sizes = hands, seconds, fixed, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        if self.training:
            self.sizes.append(len(x))
            self.hands.now += self.seconds * len(x) + self.fixed
        return self.norm(self.linear(x.flatten(1)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)


def said_by(model, *data):
    """Fit, and return what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(*data)
    assert {warning.category for warning in said} <= {ConvergenceWarning}
    return [str(warning.message) for warning in said]


def simclr(hands, seconds, **params):
    params = {"projection_dim": 5, "random_state": 0, "mirror": False, "max_time": 40.0, **params}
    torch.manual_seed(0)
    encoder = Slow(hands, seconds / 512)
    return SimCLRTransformer(encoder, **params), encoder


@pytest.mark.parametrize("seconds, size", [(1.0, 256), (3.0, 128), (25.0, 32), (90.0, 32)])
def test_max_time_holds_from_the_first_step_on(hands, images, seconds, size):
    """`seconds` for a step of 256 images; 90 were 207 before anybody looked."""
    model, encoder = simclr(hands, seconds, max_epochs=1)  # which max_time replaces
    started = hands.now
    first, *_ = said_by(model, images)
    assert f"steps of {size} images" in first
    assert encoder.sizes[-1] == 2 * size
    step = seconds * size / 256
    assert 40 - step < hands.now - started < 40 + step
    assert np.allclose(model.history_["chance_level"], math.log(2 * size - 1))
    assert model.history_["learning_rate"].max() <= default_learning_rate("muon", size)
    assert model.history_["learning_rate"].iloc[-1] < 0.3 * default_learning_rate("muon", size)


def test_a_fit_without_hope_ends_at_once_with_what_to_pass(hands, images):
    model, encoder = simclr(hands, 200.0)
    started = hands.now
    with pytest.raises(ValueError, match="max_time=40 is too short.*image_size.*a smaller encoder than Slow"):
        model.fit(images)
    assert hands.now - started < 10
    assert not hasattr(model, "encoder_")


def test_supervised_training_is_foreseen_too(hands, images):
    model = SupervisedTransformer(Slow(hands, 12 / 256), max_time=40.0, random_state=0)
    (text,) = said_by(model, images, np.arange(300) % 3)
    assert text.startswith("max_time=40 is enough for about ") and "steps of 32 images" in text
    assert hands.now - 1000.0 < 42


def test_reading_counts_and_the_schedule_begins_at_the_first_step(hands, images):
    """Of 300 seconds 150 are gone before the first step: the rate rises and falls over the other ones."""
    rates = []
    given = plan(300.0, started=hands.now, schedule=lambda fraction: rates.append(fraction) or 1.0)
    objective = Mean(nn.Linear(64, 1))
    objective.step_takes = lambda: setattr(hands, "now", hands.now + 1.0)
    hands.now += 150.0
    Loop(objective, given).run(ImageSource(torch.from_numpy(images[:, None]), (0.0, 255.0)))
    assert rates[0] == pytest.approx(0.5 / 150, abs=0.02) and rates[-1] == pytest.approx(1.0, abs=0.02)
    assert 1300 - 1 < hands.now < 1300 + 1
    assert np.diff(rates).min() >= 0


class Mean(Objective):
    """The mean of an image, with dropout, and with a buffer that each step replaces."""

    step_takes = staticmethod(lambda: None)

    def __init__(self, linear):
        linear.register_buffer("seen", torch.zeros(()), persistent=False)
        super().__init__({"encoder": nn.Sequential(nn.Flatten(), nn.Dropout(0.2), linear, nn.BatchNorm1d(1))})
        self.extra = torch.zeros(1)

    def step(self, batch):
        self.step_takes()
        x = batch.pixels()
        linear = self.modules["encoder"][2]
        linear.seen = linear.seen + len(x)
        self.extra += 1
        noise = torch.rand(len(x), generator=batch.generator)
        return Step((self.modules["encoder"](x)[:, 0] - x.mean((1, 2, 3)) - noise).square().mean())

    def state(self):
        return {"extra": self.extra}

    def load_state(self, state):
        self.extra = state["extra"]


def test_the_trials_change_nothing(images, monkeypatch):
    torch.manual_seed(0)
    objective = Mean(nn.Linear(64, 1))
    loop = Loop(objective, plan(50.0))
    before = {name: value.clone() for name, value in objective.modules.state_dict().items()}
    drawn, everywhere = loop.generator.get_state(), torch.get_rng_state()
    taken = []
    monkeypatch.setattr(loop, "fit_loop", lambda *args, **kwargs: taken.append(kwargs))
    loop.pressed_ = []
    monkeypatch.setattr(loop.objective, "end", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # on a slow machine
        loop.run(ImageSource(torch.from_numpy(images[:, None]), (0.0, 255.0)))
    after = objective.modules.state_dict()
    assert taken[0]["pace"].step(256) > 0
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert objective.modules["encoder"][2].seen == 0 and objective.extra == 0
    assert all(parameter.grad is None for parameter in objective.modules.parameters())
    assert torch.equal(loop.generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), everywhere)
    assert not loop.optimizer_.state


def test_a_resumed_fit_keeps_the_smaller_batch(hands, images, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    model, encoder = simclr(hands, 14.0, checkpoint_dir=tmp_path)
    gradient = Loop._gradient

    def interrupted(self, *batch):
        if hands.now > 1025:
            raise Stop
        return gradient(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_gradient", interrupted)
        with pytest.warns(ConvergenceWarning, match="steps of 32 images"), pytest.raises(Stop):
            model.fit(images)
    spent = hands.now - 1000
    hands.now += 10_000
    again, encoder = simclr(hands, 14.0, checkpoint_dir=tmp_path)
    began = hands.now
    said = said_by(again, images)
    assert not any("max_time=40" in text for text in said)  # no trials: what was found out is kept
    assert set(encoder.sizes) == {64}
    # What was spent before the last checkpoint, after the first epoch, counts; the rest is repeated.
    assert hands.now - began < 40 - 9 * 14 / 8 + 14 / 8 and spent < 40
    assert np.allclose(again.history_["chance_level"], math.log(63))


def test_a_fit_that_has_learnt_nothing_says_so_and_one_of_few_epochs_does_not(hands, images):
    model, _ = simclr(hands, 0.8)
    model.set_params(learning_rate=1e-12, temperature=1.0)
    few, nothing = said_by(model, images)
    assert "too few to learn much" in few
    assert re.match(
        "The encoder has learnt next to nothing: after [45]. steps .* larger learning_rate", nothing
    )
    assert said_by(model.set_params(max_time=None, max_epochs=1), images) == []
    (nothing,) = said_by(model.set_params(max_epochs=60), images)
    assert "after 60 steps the loss is" in nothing


def test_few_images_are_named_before_the_training(hands, images):
    model, encoder = simclr(hands, 0.1)
    model.set_params(encoder=lambda: encoder)
    with (
        warnings.catch_warnings(),
        pytest.raises(ConvergenceWarning, match="X has 60 images.*fewer than 100"),
    ):
        warnings.simplefilter("error")
        model.fit(images[:60])
    assert encoder.sizes == []
    assert said_by(model.set_params(max_time=None, max_epochs=2), images[:60]) == []
    assert "X has 60 images" in said_by(model.set_params(max_epochs=50), images[:60])[0]


def test_a_clock_counts_epochs_or_seconds(hands, capsys):
    loss = torch.tensor(2.5)
    with Clock(plan(None, 100, verbose=1), 1000, "SimCLR", 5.0) as clock:
        assert clock.n_steps == 1000
        for _ in range(1000):
            assert not clock.over()
            hands.now += 0.5
            clock.tick(loss)
        assert clock.over()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "SimCLR: about 200 images/s: 8 minutes for 100 epochs of 1,000 images"
    assert lines[1] == "SimCLR: 10%, 10.0/100 epochs, 200 images/s, 8 minutes left, loss 2.500 (chance 5.000)"
    assert lines[-1] == "SimCLR: 100%, 100.0/100 epochs, 200 images/s, 0 s left, loss 2.500 (chance 5.000)"
    assert len(lines) == 11
    started = hands.now
    hands.now += 20
    with Clock(plan(200.0, 100, verbose=1, started=started), 1000, "SimCLR", pace=Pace(0.004, 0.1)) as clock:
        while not clock.over():
            hands.now += 0.5
            clock.tick(loss)
    assert clock.steps == 360 and clock.fraction() == 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "SimCLR: about 200 images/s: 36 epochs of 1,000 images in max_time=200 s"
    assert lines[1].startswith("SimCLR: 10%, 21/200 s, 200 images/s, loss 2.500")
    assert lines[-1] == "SimCLR: 100%, 200/200 s, 200 images/s, loss 2.500"
    assert len(lines) <= 12


def test_reading_that_would_take_all_the_time_ends_early(hands, images, monkeypatch):
    rows = [Image.fromarray(image) for image in images]

    def decode(*args):
        hands.now += 1.0
        return images[0][:, :, None]

    monkeypatch.setattr("sklearn_simclr.images.threads._decode_one", decode)
    model, encoder = simclr(hands, 1.0, image_size=8)
    with pytest.raises(
        ValueError, match="max_time=40 is too short for these images: reading 300 of them takes"
    ):
        model.fit(rows)
    assert encoder.sizes == []
    model.set_params(max_epochs=0).fit(rows)


def test_cold_first_files_are_no_estimate_of_the_others(hands, images, monkeypatch):
    rows, spent = [Image.fromarray(image) for image in images], [0.0]
    costs = iter([2.0] * 2 + [0.02] * 298)

    def decode(*args):
        spent[0] = next(costs)
        hands.now += spent[0]
        return images[0][:, :, None]

    monkeypatch.setattr("sklearn_simclr.images.threads._decode_one", decode)
    model, _ = simclr(hands, 0.01, image_size=8)
    assert not any("reading" in text for text in said_by(model, rows))


def test_reading_that_takes_most_of_the_time_is_named_at_once(hands, images, monkeypatch):
    rows, begun = [Image.fromarray(image) for image in images], hands.now
    monkeypatch.setattr(
        "sklearn_simclr.images.threads._decode_one",
        lambda *args: (setattr(hands, "now", hands.now + 0.11), images[0][:, :, None])[1],
    )
    model, _ = simclr(hands, 0.01, image_size=8)
    said = [text for text in said_by(model, rows) if "reading" in text]
    assert len(said) == 1
    assert re.match(
        r"max_time=40 is short for these images: reading 300 of them takes about 33 s. Pass max_", said[0]
    )
    assert begun < hands.now and model.n_iter_ >= 1


def test_setting_up_is_checked_against_the_clock(hands, images):
    def encoder(in_channels):
        hands.now += 50.0
        return Slow(hands, 1.0)

    model = SimCLRTransformer(encoder, max_time=40.0, projection_dim=5, random_state=0)
    with pytest.raises(
        ValueError, match="max_time=40 is over before the first step: .*took 50 s. Pass max_time=150"
    ):
        model.fit(images)
