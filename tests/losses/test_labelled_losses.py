"""SupCon, decoupled and hard-negative NT-Xent against loops over the papers' formulas in float64."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from sklearn_simclr.losses import _tiles, dcl, hard_nt_xent, nt_xent, supcon
from sklearn_simclr.losses.labelled import takes_labels, without_labels

LABELS = [None, [-1] * 6, [0, 1, -1, 0, 0, -1], [2] * 6]


@pytest.fixture(params=[1024, 4], ids=["one block", "blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setitem(_tiles._TILE_ROWS, "cpu", request.param)


def projections(dtype=torch.float64):
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def logits(z, temperature):
    z = np.asarray(z.detach(), dtype=np.float64)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit @ unit.T / temperature


def naive_supcon(z, labels, temperature):
    s, n, total = logits(z, temperature), len(z) // 2, 0.0
    labels = [-1] * n if labels is None else labels
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        same = [k for k in others if labels[i % n] >= 0 and labels[k % n] == labels[i % n]]
        positives = sorted({*same, (i + n) % (2 * n)})
        denominator = math.log(sum(math.exp(s[i, k]) for k in others))
        total += sum(denominator - s[i, p] for p in positives) / len(positives)
    return total / (2 * n)


def naive_of_negatives(z, temperature, loss):
    s, n = logits(z, temperature), len(z) // 2
    pairs = [(i, (i + n) % (2 * n)) for i in range(2 * n)]
    return np.mean([loss(s[i, j], [s[i, k] for k in range(2 * n) if k not in (i, j)]) for i, j in pairs])


def naive_dcl(z, temperature):
    return naive_of_negatives(z, temperature, lambda p, ns: -p + math.log(sum(map(math.exp, ns))))


def naive_hard(z, temperature, beta, tau_plus):
    """Follow the authors' code: importances, the debiased sum, its floor."""

    def loss(positive, negatives):
        m, pos, neg = len(negatives), math.exp(positive), np.exp(negatives)
        importance = np.exp(beta * np.log(neg))
        reweighted = (importance * neg).sum() / importance.mean()
        g = max((-tau_plus * m * pos + reweighted) / (1 - tau_plus), m * math.exp(-1 / temperature))
        return -math.log(pos / (pos + g))

    return naive_of_negatives(z, temperature, loss)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_supcon(blocks, labels, temperature):
    z = projections().requires_grad_()
    given = None if labels is None else torch.tensor(labels)
    loss = partial(supcon, labels=given, temperature=temperature)
    assert loss(z).item() == pytest.approx(naive_supcon(z, labels, temperature), rel=1e-10)
    assert torch.autograd.gradcheck(loss, z, atol=1e-5)
    assert loss(projections(torch.float32)).item() == pytest.approx(loss(z).item(), rel=1e-5)
    if labels is None or max(labels) < 0:
        torch.testing.assert_close(loss(z), nt_xent(z, temperature))


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_decoupled_nt_xent(blocks, temperature):
    z = projections().requires_grad_()
    assert dcl(z, temperature).item() == pytest.approx(naive_dcl(z, temperature), rel=1e-10)
    assert torch.autograd.gradcheck(partial(dcl, temperature=temperature), z, atol=1e-5)


@pytest.mark.parametrize("beta, tau_plus", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.1), (2.0, 0.4)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_hard_negatives(blocks, beta, tau_plus, temperature):
    z = projections()
    z[6:9] = z[:3] + 0.1  # their positives outweigh the negatives
    z.requires_grad_()
    loss = partial(hard_nt_xent, temperature=temperature, beta=beta, tau_plus=tau_plus)
    assert loss(z).item() == pytest.approx(naive_hard(z, temperature, beta, tau_plus), rel=1e-9)
    assert torch.autograd.gradcheck(loss, z, atol=1e-5)
    if beta == tau_plus == 0:
        torch.testing.assert_close(loss(z), nt_xent(z, temperature))


@pytest.mark.parametrize("loss", [dcl, supcon, partial(hard_nt_xent, tau_plus=0.3)])
def test_low_temperatures_and_zeros_stay_finite(loss):
    z = projections(torch.float32)
    z[0] = 0
    z.requires_grad_()
    value = loss(z, temperature=1e-3)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all() and (z.grad[0] == 0).all()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda z: supcon(z, torch.zeros(6)), TypeError, "labels must be a torch.Tensor of ints"),
        (lambda z: supcon(z, torch.zeros(12, dtype=torch.int64)), ValueError, r"labels has shape \(12,\)"),
        (lambda z: supcon(z[:5]), ValueError, "shape"),
        (lambda z: hard_nt_xent(z, beta=-1), ValueError, "beta=-1 is out of range"),
        (lambda z: hard_nt_xent(z, tau_plus=1), ValueError, "tau_plus=1 is out of range"),
        (lambda z: hard_nt_xent(z, beta="1"), TypeError, "beta must be a number"),
        (lambda z: dcl(z, temperature=0), ValueError, "temperature"),
    ],
)
def test_what_cannot_be_used_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(projections())


def test_losses_that_take_labels_are_known():
    class Module(torch.nn.Module):
        def forward(self, z, labels):
            return z.sum() + labels.sum()

    assert takes_labels(supcon) and takes_labels(partial(supcon, temperature=1)) and takes_labels(Module())
    assert not takes_labels(nt_xent) and not takes_labels(torch.sum)
    assert without_labels(Module(), torch.zeros(4, 2)).item() == -2
