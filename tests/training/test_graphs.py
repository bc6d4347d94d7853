"""Steps that a device repeats do what computed steps do; `recorded_graph` stands for CUDA's graphs."""

from functools import partial

import numpy as np
import pytest
import torch
from recorded_graph import RecordedGraph, record
from skorch.callbacks import EarlyStopping
from torch import nn

from sklearn_simclr import Augmentation
from sklearn_simclr._utils.devices import is_cpu
from sklearn_simclr.encoders import ProjectionHead
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.images import ImageSource
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training import Plan, graphs, train, warmup_cosine, without_graphs
from sklearn_simclr.training.classification import ClassificationObjective, Targets
from sklearn_simclr.training.contrastive import ContrastiveObjective
from sklearn_simclr.training.reconstruction import ReconstructionObjective
from sklearn_simclr.views import hsv, make

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (13, 3, 8, 8), dtype=np.uint8))


@pytest.fixture(autouse=True)
def records(monkeypatch):
    """Let the CPU record as CUDA devices do."""
    monkeypatch.setattr(torch.cpu, "CUDAGraph", RecordedGraph, raising=False)
    monkeypatch.setattr(torch.cpu, "graph", record, raising=False)
    # Views as accelerators make them: on a CPU their number is asked for.
    for module in (make, hsv):
        monkeypatch.setattr(module, "is_cpu", lambda device: False)
    RecordedGraph.made.clear()


def network():
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def objective(name="plain"):
    torch.manual_seed(0)
    if name == "labels":
        targets = Targets(torch.arange(13) % 3, torch.linspace(0, 1, 13))
        modules = {"encoder": network(), "linear": nn.Linear(4, 3)}
        return ClassificationObjective(modules, Augmentation().resolve((3, 8, 8)), targets, n_classes=3)
    if name == "pixels":
        decoder = nn.Sequential(nn.Linear(4, 192), nn.Unflatten(1, (3, 8, 8)))
        return ReconstructionObjective(network(), decoder, None)
    more = {
        "sequential": {"implementation": "torchvision", "blur_probability": 0.5},
        "turned": {"recipe": "no_up"},
    }
    views = Augmentation(**more.get(name, {"erasing_probability": 0.5})).resolve((3, 8, 8))
    encoder = CompactNet(3, (8, 8), width=4) if name == "compact" else network()
    head = ProjectionHead(encoder.read_dim if name == "compact" else 4, 5, 2)
    return ContrastiveObjective(encoder, head, views, partial(nt_xent, temperature=0.5))


def learn(name="plain", optimizer="muon", epochs=10, make=objective, **options):
    """Return weights and optimizer, and losses, after epochs of two or three batches and a smaller one."""
    options = {"keep_last": name != "compact", "weight_decay": 0.01, "precision": None, **options}
    rate, schedule = {"lars": 0.3}.get(optimizer, 0.02), partial(warmup_cosine, warmup=0.1)
    plan = Plan(epochs, 4 if name == "labels" else 5, optimizer, rate, schedule, seed=1, **options)
    made = make(name)
    history = train(made, ImageSource(PIXELS, (0, 255)), plan)
    kept = [value for known in history.optimizer["state"].values() for value in known.values()]
    return [*made.modules.state_dict().values(), *kept], [row["train_loss"] for row in history.rows]


CASES = [("plain", "muon"), ("plain", "lars"), ("plain", "sgd"), ("plain", "adamw"), ("compact", "muon")]
CASES += [("sequential", "sgd"), ("turned", "sgd"), ("labels", "muon"), ("pixels", "adamw")]


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_repeated_steps_are_computed_steps_bit_by_bit(monkeypatch, name, optimizer):
    found, losses = learn(name, optimizer)
    assert [graph.replays for graph in RecordedGraph.made] == [27 if name == "labels" else 17]
    monkeypatch.setattr(graphs, "_STEPS_BEFORE", 1000)
    expected, computed = learn(name, optimizer)
    assert losses == computed and len(RecordedGraph.made) == 1
    for tensor, other in zip(found, expected, strict=True):
        assert torch.equal(tensor, other)
    with without_graphs():
        plain, losses = learn(name, optimizer)
    assert len(RecordedGraph.made) == 1
    np.testing.assert_allclose(losses, computed, rtol=1e-3)


def test_a_step_for_which_the_host_waits_is_computed(monkeypatch):
    monkeypatch.setattr(hsv, "is_cpu", is_cpu)  # a CPU asks for the number of views to be turned
    usual = torch.cpu.current_stream()
    found, _ = learn("sequential", "sgd", epochs=4)
    assert [graph.replays for graph in RecordedGraph.made] == [0]
    assert torch.cpu.current_stream() is usual
    monkeypatch.setattr(graphs, "_STEPS_BEFORE", 1000)
    expected, _ = learn("sequential", "sgd", epochs=4)
    assert all(map(torch.equal, found, expected))


def test_a_repetition_that_does_something_else_is_not_used(monkeypatch):
    class Forgetful(RecordedGraph):
        def replay(self):
            self.count.replays += 1

    monkeypatch.setattr(torch.cpu, "CUDAGraph", Forgetful)
    found, _ = learn("plain", "sgd", epochs=4)
    assert [graph.replays for graph in RecordedGraph.made] == [1]
    monkeypatch.setattr(graphs, "_STEPS_BEFORE", 1000)
    expected, _ = learn("plain", "sgd", epochs=4)
    assert all(map(torch.equal, found, expected))


def test_a_step_is_computed_where_memory_is_not_enough_for_its_recording_besides(monkeypatch):
    def exhausted(self, *known):
        self._computed()
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(graphs.RepeatedStep, "_compared", exhausted)
        found, _ = learn("plain", "muon", epochs=4)
    assert [graph.replays for graph in RecordedGraph.made] == [0]
    monkeypatch.setattr(graphs, "_STEPS_BEFORE", 1000)
    expected, _ = learn("plain", "muon", epochs=4)
    assert all(map(torch.equal, found, expected))


def squared(z):
    return z.square().mean()


@pytest.mark.parametrize("reason", ["callback", "micro-batches", "a loss of one's own", "a queue"])
def test_steps_that_may_change_are_not_recorded(reason):
    options = {
        "callback": {"callbacks": [EarlyStopping("train_loss")]},
        "micro-batches": {"micro_batch_size": 2},
    }

    def make(name):
        made = objective(name)
        if reason == "a loss of one's own":
            made.loss = squared
        if reason == "a queue":
            parts = made.modules["encoder"], made.modules["projector"], made.augmentation, made.loss
            made = ContrastiveObjective(*parts, queue_size=4)
        return made

    learn(epochs=3, make=make, **options.get(reason, {}))
    assert RecordedGraph.made == []
