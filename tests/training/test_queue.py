"""The memory of SimCLRv2: negatives of earlier batches, by an averaged network."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_simclr import Augmentation, SimCLRTransformer
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training import Plan
from sklearn_simclr.training import checkpoint as _checkpoint
from sklearn_simclr.training.batch import Batch
from sklearn_simclr.training.contrastive import ContrastiveObjective
from sklearn_simclr.training.queue import ProjectionQueue

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)


class Flat(nn.Module):
    def forward(self, x):
        return x.double().flatten(1)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(Flat(), nn.Linear(192, 5, bias=False), nn.Tanh()).double()


def naive_loss(z, earlier, temperature):
    """Return the loss with explicit lists of negatives."""
    n, losses = len(z) // 2, []
    z = z / z.norm(dim=1, keepdim=True)
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [z[k] for k in range(2 * n) if k != i] + [e / e.norm() for e in earlier]
        logits = torch.stack([z[i] @ other for other in others]) / temperature
        losses.append(torch.logsumexp(logits, 0) - z[i] @ z[j] / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("micro", [None, 2])
def test_steps_are_those_of_a_naive_memory(micro):
    encoder, head = network(0), nn.Linear(5, 4).double()
    naive, naive_head = copy.deepcopy((encoder, head))
    average, average_head = copy.deepcopy((encoder, head))
    augmentation = Augmentation().resolve((3, 8, 8))
    objective = ContrastiveObjective(
        encoder,
        head,
        augmentation,
        partial(nt_xent, temperature=0.3),
        queue_size=19,
        queue_momentum=0.7,
    )
    plan = Plan(1, 6, "sgd", 0.5, lambda fraction: 1.0, seed=0, micro_batch_size=micro)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    images = torch.from_numpy(IMAGES).movedim(3, 1).contiguous()
    memory = []
    for index in torch.arange(24).split(6):
        step = objective.step(Batch(index, images[index], generators[0], plan))
        if not step.has_gradients:
            step.loss.backward()
        draws = augmentation.draw(12, (3, 8, 8), generator=generators[1])
        views = augmentation.apply(images[index], draws)
        expected = naive_loss(naive_head(naive(views)), memory[-19:], 0.3)
        expected.backward()
        assert step.loss.item() == pytest.approx(expected.item(), rel=1e-10)
        with torch.no_grad():
            memory += list(average_head(average(views)))
            pairs = zip(
                [*encoder.parameters(), *head.parameters()],
                [*naive.parameters(), *naive_head.parameters()],
                [*average.parameters(), *average_head.parameters()],
                strict=True,
            )
            for ours, theirs, mean in pairs:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
                ours -= 0.5 * ours.grad
                theirs -= 0.5 * theirs.grad
                mean *= 0.7
                mean += 0.3 * theirs
                ours.grad = theirs.grad = None
        objective.after_step()
    assert all(p.grad is None and not p.requires_grad for p in objective.modules["averaged"].parameters())
    assert len(objective.queue.rows()) == 19


class Stop(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step):
        self.left = step

    def on_batch_end(self, net, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise Stop


def simclr(**params):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh())
    params = {"encoder": encoder, "max_epochs": 2, "batch_size": 8, "queue_size": 20, **params}
    return SimCLRTransformer(**params, random_state=0)


def test_a_fit_with_a_queue_is_resumed_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "_INTERVAL", 0.0)
    monkeypatch.setattr(_checkpoint, "_SHARE", float("inf"))
    whole = simclr().fit(IMAGES)
    with pytest.raises(Stop):
        simclr(checkpoint_dir=tmp_path / "a", callbacks=[StopAt(4)]).fit(IMAGES)
    resumed = simclr(checkpoint_dir=tmp_path / "a", memory=str(tmp_path / "b")).fit(IMAGES)
    again = simclr(memory=str(tmp_path / "b")).fit(IMAGES)
    for other in (resumed, again):
        assert np.array_equal(other.transform(IMAGES), whole.transform(IMAGES))
        assert not hasattr(other, "averaged_")
    assert not np.array_equal(simclr(queue_size=0).fit(IMAGES).transform(IMAGES), whole.transform(IMAGES))
    assert whole.history_["chance_level"][0] == pytest.approx(math.log(15 + 20))
    with pytest.raises(ValueError, match="queue_size"):  # another training than that of the folder
        simclr(checkpoint_dir=tmp_path / "a", queue_size=10).fit(IMAGES)


def test_what_does_not_go_with_a_queue():
    with pytest.raises(ValueError, match="queue_size=20 needs loss='nt_xent'"):
        simclr(loss="nt_logistic").fit(IMAGES)
    with pytest.warns(UserWarning, match="queue_size=50 is larger than the number of images, 24"):
        simclr(queue_size=50, max_epochs=1).fit(IMAGES)


def test_the_oldest_rows_leave_first():
    queue = ProjectionQueue(5)
    assert queue.rows() is None
    for rows in (torch.arange(3.0), torch.arange(3.0, 7.0), torch.arange(7.0, 19.0)):
        queue.put(rows[:, None])
        seen = sorted(queue.rows()[:, 0].tolist())
        assert seen == list(range(max(0, int(rows[-1]) - 4), int(rows[-1]) + 1))
    other = ProjectionQueue(5)
    other.load_state(queue.state())
    assert torch.equal(other.rows(), queue.rows())
    with pytest.raises(ValueError, match="its queue has 5 rows"):
        ProjectionQueue(4).load_state(queue.state())
