"""A linear classifier that watches: what it learns, and that nothing else depends on it."""

import numpy as np
import pytest
import torch
from helpers import equal, state, tiny

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.training import loop
from sklearn_simclr.training.probe import OnlineProbe

IMAGES = np.random.default_rng(0).integers(0, 120, (48, 8, 8), dtype=np.uint8)
LABELS = np.arange(48) % 2
IMAGES[LABELS == 1] += 100
PARAMS = {"encoder": tiny, "max_epochs": 3, "batch_size": 16, "random_state": 0}


def watched(**params):
    return SimCLRTransformer(**{**PARAMS, "online_probe": True, **params})


@pytest.mark.parametrize("more", [{}, {"micro_batch_size": 6}, {"queue_size": 20}])
def test_the_encoder_learns_the_same_bit_by_bit(more):
    y = np.where(np.arange(48) < 30, LABELS, -1)
    alone = SimCLRTransformer(**PARAMS, **more).fit(IMAGES)
    model = watched(**more).fit(IMAGES, y)
    assert equal(state(alone.encoder_, alone.projector_), state(model.encoder_, model.projector_))
    shown = model.history_.pop("probe_accuracy")
    assert shown.between(0, 1).all() and shown.iloc[-1] > 0.6
    shared = ["loss", "effective_rank", "contrastive_accuracy"]
    assert model.history_[shared].equals(alone.history_[shared])
    assert "probe_accuracy" not in alone.history_


def test_steps_are_those_of_a_naive_softmax_regression():
    rng = np.random.default_rng(1)
    labels = np.array([2, -1, 0, 1, -1, 2])
    probe = OnlineProbe(torch.from_numpy(labels))
    mean = variance = None
    W, b = np.zeros((3, 4)), np.zeros(3)
    moments = {"W": [0, 0], "b": [0, 0]}
    hits = rows = 0
    for step in range(1, 5):
        index = rng.permutation(6)[:4]
        h = rng.normal(2, 3, size=(8, 4))
        probe.see(torch.from_numpy(h).float(), torch.from_numpy(index))
        if mean is None:
            mean, variance = h.mean(0), h.var(0)
        mean, variance = 0.9 * mean + 0.1 * h.mean(0), 0.9 * variance + 0.1 * h.var(0)
        gradient_W, gradient_b, known = np.zeros((3, 4)), np.zeros(3), 0
        for row, place in zip(h, [*index, *index], strict=True):
            if labels[place] < 0:
                continue
            x = (row - mean) / np.sqrt(variance + 1e-6)
            logits = W @ x + b
            p = np.exp(logits) / np.exp(logits).sum()
            hits, rows, known = hits + (logits.argmax() == labels[place]), rows + 1, known + 1
            p[labels[place]] -= 1
            gradient_W, gradient_b = gradient_W + np.outer(p, x), gradient_b + p
        for name, parameter, gradient in (("W", W, gradient_W / known), ("b", b, gradient_b / known)):
            moments[name][0] = 0.9 * moments[name][0] + 0.1 * gradient
            moments[name][1] = 0.95 * moments[name][1] + 0.05 * gradient**2
            root = np.sqrt(moments[name][1] / (1 - 0.95**step)) + 1e-8
            parameter -= 0.01 * moments[name][0] / (1 - 0.9**step) / root
    np.testing.assert_allclose(probe.state()["weight"], W, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(probe.state()["bias"], b, rtol=1e-3, atol=1e-5)
    assert probe.accuracy() == pytest.approx(hits / rows)
    assert np.isnan(probe.accuracy())  # since the last call


def test_a_fit_that_is_watched_is_cached_and_resumed(tmp_path, monkeypatch):
    whole = watched(memory=str(tmp_path / "memory")).fit(IMAGES, LABELS)
    again = watched(memory=str(tmp_path / "memory")).fit(IMAGES, LABELS)
    assert again.history_["probe_accuracy"].equals(whole.history_["probe_accuracy"])
    other = watched(memory=str(tmp_path / "memory")).fit(IMAGES, np.ones(48, dtype=int))
    assert (other.history_["probe_accuracy"] == 1).all()  # a single class: not what was kept for others
    record = loop.Loop._record

    def stop(self, *args):
        record(self, *args)
        if len(self.history) == 2:
            raise RuntimeError("stop")

    monkeypatch.setattr(loop.Loop, "_record", stop)
    with pytest.raises(RuntimeError, match="stop"):
        watched(checkpoint_dir=tmp_path / "state").fit(IMAGES, LABELS)
    monkeypatch.undo()
    resumed = watched(checkpoint_dir=tmp_path / "state").fit(IMAGES, LABELS)
    assert resumed.history_["probe_accuracy"].equals(whole.history_["probe_accuracy"])
    assert equal(state(resumed.encoder_), state(whole.encoder_))


def test_labels_are_needed():
    with pytest.raises(ValueError, match="online_probe=True watches labels, but the target y is None"):
        watched().fit(IMAGES)


def test_rows_that_cannot_be_read_take_their_labels_with_them(tmp_path):
    from PIL import Image

    paths = []
    for number, image in enumerate(IMAGES[:20]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(paths[-1])
    (tmp_path / "3.png").write_bytes(b"no image")
    y = np.where(np.arange(20) == 3, 9, 5)  # two classes, and one image has the second
    with pytest.warns(UserWarning):
        model = watched(on_error="nan", max_epochs=1, batch_size=8).fit(paths, y)
    assert model.history_["probe_accuracy"].tolist() == [1.0]
