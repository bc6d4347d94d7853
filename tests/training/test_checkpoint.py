import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import same_weights
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from skorch.callbacks import Callback

from sklearn_simclr import Augmentation, SimCLRTransformer
from sklearn_simclr._utils import container
from sklearn_simclr.training import checkpoint as _checkpoint
from sklearn_simclr.training.checkpoint import Checkpoint


class Stop(Exception):
    pass


class StopAt(Callback):
    """Interrupt the training after some steps, as a crash would."""

    def __init__(self, step):
        self.step = step

    def on_train_begin(self, net, **kwargs):
        self.left = self.step

    def on_batch_end(self, net, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise Stop


class Slow(Callback):
    """Leave time to be killed in."""

    def on_batch_end(self, net, **kwargs):
        time.sleep(0.03)


@pytest.fixture(scope="module")
def images():
    return load_digits().images[:120]


def simclr(**params):
    params = {"max_epochs": 3, "batch_size": 32, "random_state": 0, "projection_dim": 8, **params}
    return SimCLRTransformer(**params)


@pytest.fixture(scope="module")
def uninterrupted(images):
    return simclr().fit(images)


@pytest.fixture
def often(monkeypatch):
    """Write a checkpoint after every step."""
    monkeypatch.setattr(_checkpoint, "_INTERVAL", 0.0)
    monkeypatch.setattr(_checkpoint, "_SHARE", float("inf"))


@pytest.mark.parametrize("step", range(1, 10))
def test_a_fit_interrupted_at_any_step_ends_with_the_same_bits(images, uninterrupted, often, tmp_path, step):
    with pytest.raises(Stop):
        simclr(checkpoint_dir=tmp_path, callbacks=[StopAt(step)]).fit(images)
    resumed = simclr(checkpoint_dir=tmp_path).fit(images)
    assert same_weights(resumed, uninterrupted)
    columns = ["epoch", "loss", "contrastive_accuracy", "effective_rank", "learning_rate"]
    assert resumed.history_[columns].equals(uninterrupted.history_[columns])


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_the_state_of_every_optimizer_is_kept(images, often, tmp_path, optimizer):
    whole = simclr(optimizer=optimizer, max_epochs=2).fit(images)
    options = {"optimizer": optimizer, "max_epochs": 2, "checkpoint_dir": tmp_path}
    with pytest.raises(Stop):
        simclr(callbacks=[StopAt(4)], **options).fit(images)
    assert same_weights(simclr(**options).fit(images), whole)


def test_generators_of_dropout_are_kept(images, often, tmp_path):
    def encoder(in_channels):
        nn = torch.nn
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(), nn.ReLU())

    params = {"encoder": encoder, "max_epochs": 2, "micro_batch_size": 20}
    params["augmentation"] = Augmentation(size=8)
    whole = simclr(**params).fit(images)
    with pytest.raises(Stop):
        simclr(callbacks=[StopAt(3)], checkpoint_dir=tmp_path, **params).fit(images)
    assert same_weights(simclr(checkpoint_dir=tmp_path, **params).fit(images), whole)


def test_only_whole_epochs_are_kept_when_steps_are_quick(images, tmp_path):
    with pytest.raises(Stop):
        simclr(checkpoint_dir=tmp_path, callbacks=[StopAt(5)]).fit(images)
    with Checkpoint(tmp_path, stored_parts(tmp_path)) as checkpoint:
        state = checkpoint.load()
    assert state["steps"] == 3
    assert state["position"] is None


def stored_parts(folder):
    kind, meta = container.peek(folder / "training.safetensors")
    assert kind == "checkpoint"
    return meta["parts"]


def test_a_fit_that_had_ended_is_not_repeated(images, uninterrupted, tmp_path):
    simclr(checkpoint_dir=tmp_path).fit(images)

    class Count(Callback):
        epochs = 0

        def on_epoch_begin(self, net, **kwargs):
            Count.epochs += 1

    with pytest.warns(UserWarning, match="is over, and had other callbacks"):
        again = simclr(checkpoint_dir=tmp_path, callbacks=[Count]).fit(images)
    assert Count.epochs == 0
    assert same_weights(again, uninterrupted)
    assert len(again.history_) == 3


def test_a_checkpoint_of_other_images_or_parameters_is_refused(images, tmp_path):
    simclr(checkpoint_dir=tmp_path, max_epochs=2).fit(images)
    before = (tmp_path / "training.safetensors").read_bytes()
    for change, message in (
        ({"X": images[1:]}, "go on: images"),
        ({"max_epochs": 1}, r"max_epochs \(2 in the file, 1 here\)\. A longer training goes on"),
        ({"random_state": 1}, r"random_state \(0 in the file, 1 here\)"),
        ({"batch_size": 16, "temperature": 0.3}, r"batch_size \(32 in the file, 16 here\).*loss"),
        ({"augmentation": Augmentation(blur_probability=0.4)}, "go on: augmentation"),
        ({"encoder": "compactx2"}, "architecture of the networks"),
    ):
        params = {"checkpoint_dir": tmp_path, "max_epochs": 2, **change}
        X = params.pop("X", images)
        with pytest.raises(
            ValueError, match=f"other images or of other parameters.*{message}.*checkpoint_dir"
        ):
            simclr(**params).fit(X)
    assert (tmp_path / "training.safetensors").read_bytes() == before


def test_what_differs_has_the_name_that_a_user_knows_and_no_digest():
    one, other = "0" * 40, "1" * 40
    for there, here, text in (
        ({"images": one}, {"images": other}, "images or pixel_range"),
        ({"weights": one}, {"weights": other}, "class_weight or sample_weight"),
        ({"validation": "None"}, {"validation": other}, "early_stopping"),
        ({"precision": "None"}, {"precision": other}, "precision"),
        ({"teacher": one}, {}, "teacher"),
        ({"alpha": "1.0"}, {"alpha": "0.5"}, "alpha (1.0 in the file, 0.5 here)"),
        # What had no time to end by is no shorter training.
        ({"max_time": "None"}, {"max_time": "3.0"}, "max_time (None in the file, 3.0 here)"),
    ):
        assert _checkpoint._differences({"seed": "0", **there}, {"seed": "0", **here}) == text


def test_a_training_is_made_longer(images, tmp_path):
    short = simclr(checkpoint_dir=tmp_path / "run", memory=str(tmp_path)).fit(images)
    longer = simclr(checkpoint_dir=tmp_path / "run", memory=str(tmp_path), max_epochs=6).fit(images)
    np.testing.assert_array_equal(longer.history_["loss"][:3], short.history_["loss"])
    # As in a training of six epochs from the beginning, of which the first half is done.
    planned = simclr(max_epochs=6).fit(images)
    np.testing.assert_allclose(longer.history_["learning_rate"][3:], planned.history_["learning_rate"][3:])
    assert longer.history_["learning_rate"][3] > short.history_["learning_rate"][2]
    # It is another training than the planned one: a cache does not give one for the other.
    again = simclr(memory=str(tmp_path), max_epochs=6).fit(images)
    assert same_weights(again, planned)
    with pytest.raises(ValueError, match="a shorter one cannot"):
        simclr(checkpoint_dir=tmp_path / "run", max_epochs=5).fit(images)


def test_home_and_addresses_in_places(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fit = simclr(max_epochs=1, checkpoint_dir="~/run", memory="~/cache").fit(images[:32])
    assert (tmp_path / "run" / "training.safetensors").is_file()
    assert len(list((tmp_path / "cache" / "sklearn_simclr").glob("*.safetensors"))) == 1
    uri = (tmp_path / "cache").as_uri()
    assert same_weights(simclr(max_epochs=1, memory=uri).fit(images[:32]), fit)
    for name in ("checkpoint_dir", "memory"):
        with pytest.raises(ValueError, match=f"{name}='s3://b/c' is a network address. Pass a folder"):
            simclr(max_epochs=1, **{name: "s3://b/c"}).fit(images[:32])


def not_finite(tensors):
    tensors["2"].fill_(np.nan)


@pytest.mark.parametrize(
    "change",
    [
        not_finite,
        lambda meta: meta.pop("state"),
        lambda meta: meta.update(parts=3),
        lambda meta: meta.update(state={"dict": [["module", {"tensor": "none"}]]}),
        lambda meta: entry(meta, "batch_size", "32"),
        lambda meta: entry(meta, "batch_size", 0),
        lambda meta: entry(meta, "steps", None),
        lambda meta: entry(meta, "history", {"list": [3]}),
        lambda meta: entry(meta, "history", {"list": [{"dict": [["train_loss", "x"]]}]}),
        lambda meta: entry(meta, "module", {"dict": []}),
        lambda meta: entry(meta, "optimizer", {"dict": [["state", 1]]}),
        lambda meta: entry(meta, "random", {"dict": []}),
        lambda meta: entry(meta, "position", {"dict": []}),
        lambda meta: entry(meta, "generator", {"tensor": "0"}),
        lambda meta: entry(meta, "scaler", {"list": []}),
        lambda meta: entry(meta, "objective", {"dict": [["x", {"many": 1, "kinds": 2}]]}),
    ],
)
def test_a_checkpoint_that_says_something_else_is_refused(images, tmp_path, change):
    fit = simclr(checkpoint_dir=tmp_path, max_epochs=1).fit
    fit(images[:32])
    path = tmp_path / "training.safetensors"
    tensors, meta = container.read(path, "checkpoint")
    change(tensors if change is not_finite else meta)
    container.write(path, "checkpoint", tensors, meta)
    with pytest.raises(ValueError, match="no valid checkpoint.*checkpoint_dir, or remove the file"):
        fit(images[:32])


def entry(meta, name, value):
    """Give an entry of the state of a checkpoint another value."""
    items = meta["state"]["dict"]
    meta["state"]["dict"] = [[key, value if key == name else old] for key, old in items]


def test_two_fits_cannot_share_a_folder(images, tmp_path):
    with (
        Checkpoint(tmp_path, {"of": "a"}),
        pytest.raises(ValueError, match="checkpoint_dir=.* is in use by another fit"),
    ):
        simclr(checkpoint_dir=tmp_path).fit(images)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(images, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="checkpoint_dir=.*cannot be used.*Permission"):
        simclr(checkpoint_dir=tmp_path).fit(images)


def test_a_file_in_the_place_of_the_folder(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoint_dir=.*cannot be used"):
        simclr(checkpoint_dir=tmp_path / "file").fit(images)


def test_a_full_disk_leaves_the_older_checkpoint_whole(images, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        simclr(checkpoint_dir=tmp_path, callbacks=[StopAt(4)]).fit(images)
    before = (tmp_path / "training.safetensors").read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sklearn_simclr._utils.container.save_file", full)
    estimator = simclr(checkpoint_dir=tmp_path)
    with pytest.raises(OSError, match="No space left on device.*written before is still whole"):
        estimator.fit(images)
    assert not hasattr(estimator, "encoder_")
    assert (tmp_path / "training.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training.lock", "training.safetensors"]


def test_damaged_files_and_strangers_are_refused(images, tmp_path):
    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(images)
    path = tmp_path / "training.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="is damaged or is not a safetensors file.*checkpoint_dir"):
        simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(images)
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="is damaged or is not a safetensors file.*checkpoint_dir"):
        simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(images)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="training.safetensors is a safetensors file of another program"):
        simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(images)


def test_the_file_holds_plain_tensors_and_text(images, tmp_path):
    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(images)
    assert all(
        isinstance(value, torch.Tensor) for value in load_file(tmp_path / "training.safetensors").values()
    )


@pytest.mark.parametrize(
    "state",
    [
        {"a": [1, 2.5, None, True, "x"], "b": (1, (2, {"c": 3})), 0: {1: torch.arange(3)}},
        {"nan": float("inf"), "empty": [{}, [], ()]},
        {"t": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "u": torch.zeros(0)},
    ],
)
def test_any_state_comes_back_as_it_was(state, tmp_path):
    with Checkpoint(tmp_path, {"of": "k"}) as checkpoint:
        checkpoint.save(state)
        back = checkpoint.load()
    assert json.dumps(back, default=lambda t: t.tolist()) == json.dumps(state, default=lambda t: t.tolist())
    assert type(back.get("b")) is type(state.get("b"))
    assert list(back) == list(state)


def test_search_over_folds_says_that_a_folder_serves_one_training(images, tmp_path):
    y = np.arange(len(images)) % 2
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(simclr(checkpoint_dir=tmp_path, max_epochs=1), LogisticRegression())
    with pytest.raises(ValueError, match="other images or of other parameters"):
        cross_val_score(model, images, y, cv=2, error_score="raise")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_goes_on(forked, images, uninterrupted, tmp_path):
    assert forked.run(1, fit_until_killed, tmp_path, launched=False, limit=300) == [None]
    assert (tmp_path / "training.safetensors").exists()
    assert same_weights(simclr(checkpoint_dir=tmp_path).fit(images), uninterrupted)


class Kill(Callback):
    """Kill the process at the start of the third epoch."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def fit_until_killed(folder):
    simclr(checkpoint_dir=folder, callbacks=[Kill()]).fit(load_digits().images[:120])


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_process_killed_again_and_again_at_random_moments_goes_on(images, uninterrupted, tmp_path):
    # Forked, since a new process takes seconds to import.
    generator = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")

    def train():
        torch.set_num_threads(1)
        _checkpoint._INTERVAL, _checkpoint._SHARE = 0.0, float("inf")
        simclr(checkpoint_dir=tmp_path, callbacks=[Slow()]).fit(images)

    killed = 0
    for _ in range(3):
        process = context.Process(target=train)
        process.start()
        deadline = time.monotonic() + 30
        while not (tmp_path / "training.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(generator.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 1
    assert same_weights(simclr(checkpoint_dir=tmp_path).fit(images), uninterrupted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training.lock", "training.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="needs limits of the system")
def test_a_file_that_cannot_grow_leaves_the_older_checkpoint_whole(tmp_path):
    import resource

    with Checkpoint(tmp_path, {"of": "k"}) as checkpoint:
        checkpoint.save({"x": torch.zeros(10)})
        before = (tmp_path / "training.safetensors").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(
                OSError, match="checkpoint_dir=.*cannot be used.*written before is still whole"
            ):
                checkpoint.save({"x": torch.zeros(1_000_000)}, last=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert (tmp_path / "training.safetensors").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "training.holder",
            "training.lock",
            "training.safetensors",
        ]
        assert torch.equal(checkpoint.load()["x"], torch.zeros(10))


def test_a_folder_of_a_read_only_disk(images, tmp_path, monkeypatch):
    # Whoever runs the tests may write anywhere: the system's answer is played.
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(tmp_path)):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OSError, match="checkpoint_dir=.*cannot be used: Read-only file system") as error:
        simclr(checkpoint_dir=tmp_path).fit(images)
    assert error.value.errno == 30


def test_a_second_fit_in_the_same_folder_is_refused_while_the_first_goes_on(images, uninterrupted, tmp_path):
    class Intruder(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                with pytest.raises(
                    ValueError, match="is in use by another fit: process .* Wait until that fit"
                ):
                    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(images)

    first = simclr(checkpoint_dir=tmp_path, callbacks=[Intruder()])
    assert same_weights(first.fit(images), uninterrupted)
    assert same_weights(first.fit(images), uninterrupted)
