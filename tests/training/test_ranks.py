"""Several ranks learn what one process learns, and all of them come to an end."""

import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_ranks import ForkedRanks
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    PACBayesContrastiveTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    losses,
)
from sklearn_simclr._utils.ranks import LostRankError, current, speaks, together
from sklearn_simclr.encoders import ProjectionHead
from sklearn_simclr.images import ImageSource
from sklearn_simclr.training import Plan, loop, train, warmup_cosine
from sklearn_simclr.training.batch import Batch
from sklearn_simclr.training.contrastive import ContrastiveObjective

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
Y = np.arange(40) % 3


@pytest.fixture(scope="module")
def forked():
    ranks = ForkedRanks()
    yield ranks
    ranks.close()


class Double(nn.Module):
    def forward(self, x):
        return x.double()


def encoder():
    # Without biases, which BatchNorm takes away: their gradients are rounding, of which Adam makes steps.
    first, second = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 8, 3, stride=2, bias=False)
    layers = [Double(), first, nn.BatchNorm2d(6), nn.ReLU(), second]
    return nn.Sequential(*layers, nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Flatten()).double()


def state(modules):
    return [tensor.numpy() for tensor in modules.state_dict().values()]


def learn_in_float64(optimizer="muon", loss="nt_xent", micro=None, fault=None):
    """Return weights and loss curve after 20 steps in float64 on batches of 10 images."""
    if fault == "no synced BatchNorm":
        loop.norms_over = lambda ranks, modules: contextlib.nullcontext()
    if fault == "no world factor":
        Batch.weight = loop.Part.weight = 1.0
    torch.manual_seed(0)
    head = ProjectionHead(32, 5, 2).double()
    augmentation = Augmentation().resolve((3, 8, 8))
    objective = ContrastiveObjective(encoder(), head, augmentation, getattr(losses, loss))
    rate = {"muon": 0.02, "lars": 0.3}[optimizer]
    schedule = partial(warmup_cosine, warmup=0.1)
    plan = Plan(5, 10, optimizer, rate, schedule, seed=0, micro_batch_size=micro, keep_last=True)
    images = torch.from_numpy(IMAGES).movedim(3, 1).contiguous()
    with together():
        history = train(objective, ImageSource(images, (0, 255)), plan)
    return [*state(objective.modules), np.array([row["train_loss"] for row in history.rows])]


def furthest(found, expected):
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))


CASES = [
    (2, "muon", "nt_xent", None),
    (3, "lars", "nt_logistic", None),
    (4, "muon", "margin_triplet", 5),
    (3, "lars", "nt_xent", 5),
]


@pytest.mark.parametrize(("size", "optimizer", "loss", "micro"), CASES)
def test_ranks_learn_what_one_process_learns(forked, size, optimizer, loss, micro):
    found = forked.run(size, learn_in_float64, optimizer, loss, micro)
    alone = learn_in_float64(optimizer, loss, micro)
    assert furthest(found[0], alone) <= 1e-12
    assert all(furthest(other, found[0]) == 0 for other in found[1:])


@pytest.mark.parametrize("fault", ["no synced BatchNorm", "no world factor"])
def test_without_a_part_of_it_they_do_not(forked, fault):
    found = forked.run(3, learn_in_float64, "muon", "nt_xent", None, fault)
    assert furthest(found[0], learn_in_float64()) > 1e-6
