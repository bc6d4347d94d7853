"""An objective goes through the loop: what is trained, counted, recorded, kept, and how it ends."""

import math
import os
import signal
import threading
from functools import partial

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import same, tiny
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklearn_simclr import Augmentation
from sklearn_simclr._utils import container
from sklearn_simclr.encoders import ProjectionHead
from sklearn_simclr.images import ImageSource
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training import (
    Batch,
    KeepOnCtrlC,
    Objective,
    Plan,
    Step,
    step_decay,
    train,
    warmup_cosine,
)
from sklearn_simclr.training.classification import ClassificationObjective, Targets
from sklearn_simclr.training.contrastive import ContrastiveObjective


class Regression(Objective):
    """The mean of an image, by a linear map of its pixels."""

    columns = {"train_loss": "loss", "largest": "largest", "dur": "seconds"}

    def __init__(self):
        torch.manual_seed(0)
        super().__init__({"encoder": nn.Sequential(nn.Flatten(), nn.Linear(16, 1))})
        self.seen, self.steps = [], 0

    def step(self, batch):
        x = batch.pixels()
        self.seen.append(batch.index.tolist())
        error = self.modules["encoder"](x)[:, 0] - x.mean((1, 2, 3))
        return Step(error.square().mean(), {"error": error.detach()})

    def after_step(self):
        self.steps += 1

    def measure(self, outputs, epoch):
        return {"largest": outputs["error"].abs().max().item()}


@pytest.fixture
def images():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 4, 4), dtype=np.uint8))
    return ImageSource(pixels, (0.0, 255.0))


def plan(max_epochs=3, batch_size=4, **options):
    schedule = partial(warmup_cosine, warmup=0.1)
    options = {"optimizer": "sgd", "learning_rate": 0.05, "schedule": schedule, "seed": 0, **options}
    return Plan(max_epochs, batch_size, **options)


def test_an_epoch_leaves_out_what_does_not_fill_a_batch_or_keeps_it(images):
    for keep_last, sizes in ((False, [4, 4]), (True, [4, 4, 2])):
        objective = Regression()
        train(objective, images, plan(2, keep_last=keep_last))
        assert [len(index) for index in objective.seen] == 2 * sizes
        first, second = objective.seen[: len(sizes)], objective.seen[len(sizes) :]
        assert len({row for index in first for row in index}) == sum(sizes)
        assert first != second
        assert objective.steps == 2 * len(sizes)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images(images):
    objective = Regression()
    losses = []
    step = objective.step
    objective.step = lambda batch: losses.append((len(batch.index), step(batch))) or losses[-1][1]
    history = train(objective, images, plan(1, keep_last=True))
    expected = sum(n * found.loss.item() for n, found in losses) / 10
    assert history.rows[0]["train_loss"] == pytest.approx(expected, rel=1e-6)
    assert history.rows[0]["largest"] == losses[-1][1].outputs["error"].abs().max().item()
    assert history.rows[0].keys() == Regression.columns.keys()


def test_training_is_gradient_descent_with_the_schedule(images):
    """Against a loop in float64: Nesterov momentum, without weight decay, one batch of all images."""
    schedule = partial(step_decay, after=0.5, factor=0.1)
    objective = Regression()
    weight, bias = (p.detach().double().numpy().copy() for p in objective.modules["encoder"].parameters())
    x = images.pixels.double().numpy().reshape(10, 16) / 255
    target, velocity = x.mean(1), np.zeros(17)
    for epoch in range(4):
        error = x @ weight[0] + bias - target
        gradient = np.append(2 * error @ x, 2 * error.sum()) / 10
        velocity = 0.9 * velocity + gradient
        step = 0.05 * (1.0 if epoch < 2 else 0.1) * (gradient + 0.9 * velocity)
        weight[0] -= step[:16]
        bias -= step[16]
    train(objective, images, plan(4, batch_size=10, schedule=schedule))
    found = [p.detach().numpy() for p in objective.modules["encoder"].parameters()]
    np.testing.assert_allclose(found[0], weight, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1], bias, rtol=1e-5, atol=1e-7)


def test_modules_end_in_evaluation_mode_without_gradients(images):
    objective = Regression()
    train(objective, images, plan())
    assert not objective.modules.training
    assert all(parameter.grad is None for parameter in objective.modules.parameters())


def test_no_epochs_leave_the_modules_as_they_are(images):
    objective, before = Regression(), Regression().modules.state_dict()
    assert train(objective, images, plan(0)).rows == []
    assert same(objective.modules.state_dict(), before)


def test_the_step_of_simclr_is_that_of_a_naive_loop():
    """One view of an image against all others, pair by pair in float64 (V1, equation 1)."""
    torch.manual_seed(0)
    encoder, head = tiny(3), ProjectionHead(6, 5)
    views = Augmentation(size=8).resolve((3, 8, 8))
    objective = ContrastiveObjective(encoder, head, views, partial(nt_xent, temperature=0.3))
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    drawn = [torch.Generator().manual_seed(2) for _ in range(2)]
    objective.modules.eval()
    step = objective.step(Batch(torch.arange(4), pixels, drawn[0], plan()))
    with torch.no_grad():
        z = head(encoder(views.apply(pixels, views.draw(8, (3, 8, 8), generator=drawn[1])))).double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(8):
        others = [math.exp(z[i] @ z[k] / 0.3) for k in range(8) if k != i]
        total -= math.log(math.exp(z[i] @ z[(i + 4) % 8] / 0.3) / sum(others))
    assert step.loss.item() == pytest.approx(total / 8, rel=1e-5)
    assert step.outputs["z"].shape == (8, 5) and step.outputs["h"].shape == (8, 6)


def test_a_loss_without_a_chance_level_is_trained_and_shows_none(images):
    views = Augmentation(size=4).resolve((1, 4, 4))
    encoder, head = nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), ProjectionHead(6, 5)
    rows = train(ContrastiveObjective(encoder, head, views, nt_xent), images, plan(2)).rows
    assert all(math.isnan(row["chance_level"]) and math.isfinite(row["train_loss"]) for row in rows)
    assert len(rows) == 2


def test_a_weight_of_the_teacher_without_a_teacher_is_refused(images):
    views = Augmentation(size=4).resolve((1, 4, 4))
    modules = {"encoder": nn.Sequential(nn.Flatten(), nn.Linear(16, 2))}
    targets = Targets(torch.zeros(10, dtype=torch.int64), torch.ones(10))
    with pytest.raises(ValueError, match=r"alpha=0.5 weighs the answers of a teacher, but teacher is None"):
        train(ClassificationObjective(modules, views, targets, alpha=0.5), images, plan())


def test_a_second_training_is_read_from_the_cache(images, tmp_path, capsys):
    first = Regression()
    history = train(first, images, plan(), cache=str(tmp_path))
    second = Regression()
    again = train(second, images, plan(verbose=1), cache=str(tmp_path))
    assert second.steps == 0 and "from memory" in capsys.readouterr().err
    assert same(second.modules.state_dict(), first.modules.state_dict())
    assert again.rows == history.rows
    third = Regression()
    train(third, images, plan(learning_rate=0.04), cache=str(tmp_path))
    assert third.steps == 6
    other = Regression()
    with torch.no_grad():
        other.modules["encoder"][1].bias += 1
    train(other, images, plan(), cache=str(tmp_path))
    assert other.steps == 6


def test_without_a_chosen_seed_the_initial_weights_are_not_looked_at(images, tmp_path):
    train(Regression(), images, plan(repeatable=False), cache=str(tmp_path))
    other = Regression()
    with torch.no_grad():
        other.modules["encoder"][1].bias += 1
    train(other, images, plan(repeatable=False, seed=5), cache=str(tmp_path))
    assert other.steps == 0


def test_a_damaged_file_of_the_cache_is_named(images, tmp_path):
    train(Regression(), images, plan(), cache=str(tmp_path))
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    objective = Regression()
    before = objective.modules.state_dict()
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        train(objective, images, plan(), cache=str(tmp_path))
    assert same(objective.modules.state_dict(), before)


@pytest.mark.parametrize(
    "loss", [1.0, torch.ones(3, requires_grad=True), torch.ones(())], ids=["float", "vector", "no gradient"]
)
def test_a_loss_that_is_no_scalar_tensor_is_refused(images, loss):
    objective = Regression()
    objective.step = lambda batch: Step(loss)
    with pytest.raises(ValueError, match="loss must return a scalar tensor"):
        train(objective, images, plan())


def test_a_step_that_returns_a_tensor_is_named(images):
    objective = Regression()
    objective.step = lambda batch: torch.ones((), requires_grad=True)
    with pytest.raises(TypeError, match="step of Regression must return a Step.*shape \\(\\)"):
        train(objective, images, plan())


def test_a_loss_that_no_module_has_a_part_in_is_refused(images):
    objective = Regression()
    objective.step = lambda batch: Step(torch.ones((), requires_grad=True) * 1)
    with pytest.raises(ValueError, match="no parameter of the modules a gradient"):
        train(objective, images, plan())


@pytest.mark.parametrize(
    "columns, measured, message",
    [
        ({"train_loss": "loss"}, {"extra": 1.0}, "'extra', which is recorded already or is not in columns"),
        ({"train_loss": "loss"}, {"lr": 1.0}, "'lr', which is recorded already"),
        ({"train_loss": "loss", "extra": "extra"}, {}, "must name values that are recorded"),
        ({"train_loss": "epoch"}, {}, "no column can be called 'epoch'"),
    ],
)
def test_columns_that_do_not_fit_are_refused_after_one_epoch(images, columns, measured, message):
    objective = Regression()
    objective.columns = columns
    objective.measure = lambda outputs, epoch: measured
    with pytest.raises(ValueError, match=message):
        train(objective, images, plan())
    assert objective.steps == 2


def test_a_parameter_outside_of_the_modules_is_refused(images):
    objective = Regression()
    objective.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="Regression.scale is a parameter outside of modules"):
        train(objective, images, plan())


@pytest.mark.parametrize(
    "modules, error, message",
    [
        ({"decoder": nn.Identity()}, ValueError, "with an 'encoder', got \\['decoder'\\]"),
        ([nn.Identity()], ValueError, "with an 'encoder', got list"),
        ({"encoder": None}, TypeError, "modules\\['encoder'\\] must be a torch.nn.Module"),
        *[
            ({"encoder": nn.Identity(), name: nn.Identity()}, ValueError, f"cannot have the name '{name}'")
            for name in ("image_shape", "history", "keys", "training", "two words")
        ],
    ],
)
def test_modules_that_cannot_be_fitted_attributes_are_refused(modules, error, message):
    with pytest.raises(error, match=message):
        Objective(modules)


def test_callbacks_belong_to_what_the_cache_looks_for(images, tmp_path):
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=0.9)

    def fit(callbacks):
        objective = Regression()
        slow = plan(9, learning_rate=1e-6, callbacks=callbacks)
        history = train(objective, images, slow, cache=str(tmp_path))
        return objective.steps, len(history.rows)

    assert fit([stop]) == (6, 3)
    assert fit([]) == (18, 9)
    assert fit([EarlyStopping(monitor="train_loss", patience=2, threshold=0.9)]) == (0, 3)


def test_a_cache_that_cannot_be_written_to_is_named_and_read(images, tmp_path, monkeypatch):
    first = train(Regression(), images, plan(), cache=str(tmp_path))

    def refuse(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert train(Regression(), images, plan(), cache=str(tmp_path)).rows == first.rows
    with pytest.raises(OSError, match="memory=.*cannot be used: Read-only file system.*or None"):
        train(Regression(), images, plan(seed=1), cache=str(tmp_path))


@pytest.mark.parametrize("change", ["shape", "nan", "name"])
def test_a_cached_training_is_checked_before_it_is_taken(images, tmp_path, change):
    train(Regression(), images, plan(), cache=str(tmp_path))
    (file,) = tmp_path.glob("sklearn_simclr/*.safetensors")
    arrays, rows = container.read(file, "training", advice="")
    name = next(iter(arrays))
    if change == "name":
        arrays["another"] = arrays.pop(name)
    else:
        arrays[name] = arrays[name][..., 1:] if change == "shape" else arrays[name] * float("nan")
    container.write(file, "training", arrays, rows)
    objective = Regression()
    before = {key: tensor.clone() for key, tensor in objective.modules.state_dict().items()}
    with pytest.raises(ValueError, match="no training of these networks: .*Remove the file, and fit trains"):
        train(objective, images, plan(), cache=str(tmp_path))
    assert all(torch.equal(tensor, before[key]) for key, tensor in objective.modules.state_dict().items())


def test_nobody_waits_for_a_training_that_has_stopped(images, tmp_path, monkeypatch):
    train(Regression(), images, plan(), cache=str(tmp_path))
    (file,) = tmp_path.glob("sklearn_simclr/*.safetensors")
    file.unlink()
    monkeypatch.setattr("sklearn_simclr._utils.lock._LOOK", 0.01)
    monkeypatch.setattr("sklearn_simclr._utils.lock._SILENCE", 0.1)
    with (
        FileLock(file.with_suffix(".lock")),
        pytest.warns(
            UserWarning, match="another process trains the same encoder for memory=.* This fit trains"
        ),
    ):
        train(Regression(), images, plan(), cache=str(tmp_path))
    assert file.exists()


def test_a_callback_ends_the_training_and_keeps_what_was_learnt(images):
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=0.9)
    objective = Regression()
    history = train(objective, images, plan(50, learning_rate=1e-6, callbacks=[stop]))
    assert len(history.rows) == 3
    assert not objective.modules.training


class AtTheEnd(Callback):
    """Does something at the end of the second epoch."""

    def __init__(self, do):
        self.do = do

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            self.do()


@pytest.fixture
def interruptible():
    """Python's own answer to Ctrl-C, also where the tests run in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_callback_is_no_end_of_the_training(images, interruptible):
    callbacks = [AtTheEnd(lambda: os.kill(os.getpid(), signal.SIGINT))]
    with pytest.raises(KeyboardInterrupt):
        train(Regression(), images, plan(callbacks=callbacks))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class PressCtrlC(Callback):
    """Press Ctrl-C in the second step."""

    times = 1

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == 1 and len(net.history[-1, "batches"]) == 2:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_what_was_learnt_if_asked(images, interruptible, tmp_path):
    settings = {"cache": str(tmp_path / "cache"), "checkpoint": tmp_path}
    with pytest.warns(UserWarning, match="ended the training in epoch 1 of 3; the weights learnt so far"):
        history = train(Regression(), images, plan(callbacks=[KeepOnCtrlC(), PressCtrlC()]), **settings)
    assert len(history.rows) == 1 and not history.repeatable
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # Neither a cache nor a checkpoint takes it for a training that has ended.
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    whole = train(Regression(), images, plan(callbacks=[KeepOnCtrlC()]), **settings)
    losses = [[row["train_loss"] for row in h.rows] for h in (whole, train(Regression(), images, plan()))]
    assert losses[0] == losses[1] and whole.repeatable
    twice = PressCtrlC()
    twice.times = 2
    with pytest.raises(KeyboardInterrupt):
        train(Regression(), images, plan(callbacks=[KeepOnCtrlC(), twice]))


def test_a_handler_of_the_user_is_asked_and_put_back(images, interruptible):
    asked = []
    handler = lambda number, frame: asked.append(number)  # noqa: E731 (signal wants a function)
    signal.signal(signal.SIGINT, handler)
    history = train(
        Regression(), images, plan(callbacks=[AtTheEnd(lambda: os.kill(os.getpid(), signal.SIGINT))])
    )
    assert asked == [signal.SIGINT] and len(history.rows) == 3
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_callback_ends_a_training_in_a_thread(images):
    def stop():
        raise KeyboardInterrupt

    found = []
    thread = threading.Thread(
        target=lambda: found.append(train(Regression(), images, plan(callbacks=[AtTheEnd(stop)])))
    )
    thread.start()
    thread.join()
    assert len(found[0].rows) == 2
