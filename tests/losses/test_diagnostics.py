"""Diagnostics against loops in float64 and against their closed forms."""

import math

import numpy as np
import pytest
import torch

from sklearn_simclr.losses import measures, nt_xent
from sklearn_simclr.losses.measures import (
    alignment,
    chance_level,
    contrastive_accuracy,
    contrastive_accuracy_tensor,
    rankme,
    uniformity,
)


@pytest.fixture(params=[2**22, 50], ids=["one block", "many blocks"], autouse=True)
def block(request, monkeypatch):
    monkeypatch.setattr(measures, "_BLOCK_ENTRIES", request.param)


def matrix(n=20, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive_accuracy(z):
    z, n = unit(z), len(z) // 2
    right = 0
    for i in range(2 * n):
        pair = (i + n) % (2 * n)
        right += all(z[i] @ z[pair] > z[i] @ z[k] for k in range(2 * n) if k not in (i, pair))
    return right / (2 * n)


def test_alignment_is_the_mean_squared_distance_of_unit_rows():
    x, y = matrix(), matrix(seed=1)
    expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(unit(x), unit(y), strict=True)])
    assert alignment(x, y) == pytest.approx(expected, rel=1e-12)
    assert alignment(3 * x, y * np.arange(1, 21)[:, None]) == pytest.approx(expected, rel=1e-12)
    assert alignment(x, x) == 0.0
    assert alignment(x, -x) == pytest.approx(4.0)


@pytest.mark.parametrize("t", [0.5, 2.0, 1e4])
def test_uniformity_is_a_loop_over_pairs(t):
    x = unit(matrix())
    exponents = [-t * np.sum((x[i] - x[j]) ** 2) for i in range(20) for j in range(i)]
    expected = np.logaddexp.reduce(exponents) - math.log(len(exponents))
    assert uniformity(5 * x, t) == pytest.approx(expected, rel=1e-9)


def test_uniformity_of_collapse_of_antipodes_and_of_zero_rows():
    assert uniformity(np.ones((9, 3))) == pytest.approx(0.0, abs=1e-12)
    assert uniformity([[0.0, 1.0], [0.0, -1.0]], t=3.0) == pytest.approx(-12.0)
    assert uniformity([[0.0, 0.0], [0.0, 1.0]], t=3.0) == pytest.approx(-3.0)


def test_rankme_is_the_exponential_of_the_entropy():
    h = matrix(20, 6)
    values = np.linalg.svd(h, compute_uv=False)
    p = values / values.sum() + 1e-7
    assert rankme(h) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-10)
    assert rankme(1e6 * h) == pytest.approx(rankme(h), rel=1e-10)


def test_rankme_counts_directions():
    basis = np.linalg.qr(matrix(20, 6))[0]
    for k in range(1, 7):
        assert rankme(basis[:, :k] @ np.eye(k, 6)) == pytest.approx(k, rel=1e-4)
    assert rankme(np.ones((20, 6))) == pytest.approx(1.0, abs=1e-4)
    assert rankme(np.zeros((20, 6))) == pytest.approx(1.0, abs=1e-4)
    assert rankme(np.eye(3), eps=0.0) == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize("n", [2, 17])
def test_chance_level_is_the_loss_of_a_collapsed_batch(n):
    assert chance_level(n) == pytest.approx(nt_xent(torch.ones(2 * n, 3, dtype=torch.float64)).item())


def test_contrastive_accuracy_is_a_loop_over_anchors():
    for spread in (0.1, 0.7, 3.0):
        first = matrix(15)
        z = np.vstack([first, first + spread * matrix(15, seed=1)])
        assert contrastive_accuracy(z) == naive_accuracy(z)
        assert contrastive_accuracy(1e30 * z) == naive_accuracy(z)
        for scale in (1.0, 1e30, 1e-30):
            found = contrastive_accuracy_tensor(torch.tensor(scale * z, dtype=torch.float32))
            assert found.shape == () and found.item() == pytest.approx(naive_accuracy(z))


def test_contrastive_accuracy_among_the_other_view_is_googles():
    first = matrix(15)
    for spread in (0.7, 3.0):
        z = unit(np.vstack([first, first + spread * matrix(15, seed=1)]))
        expected = np.mean([np.argmax(z[i] @ z[15:].T) == i for i in range(15)])
        assert contrastive_accuracy(z, among="other_view") == pytest.approx(expected)
        assert contrastive_accuracy(z, among="other_view") >= contrastive_accuracy(z)
    with pytest.raises(ValueError, match="among must be 'all' or 'other_view', got 'both'"):
        contrastive_accuracy(z, among="both")


def test_contrastive_accuracy_of_perfect_views_and_of_chance():
    assert contrastive_accuracy(np.vstack([matrix(15, 8)] * 2)) == 1.0
    accuracies = [contrastive_accuracy(matrix(20, 8, seed)) for seed in range(50)]
    assert np.mean(accuracies) == pytest.approx(1 / 19, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ties_are_wrong(dtype):
    """Whatever order a matrix product sums in, collapsed rows must not look like pairs."""
    for n, d in ((4, 3), (30, 128), (130, 100)):
        z = torch.randn(1, d, generator=torch.Generator().manual_seed(d)).to(dtype).repeat(n, 1)
        assert contrastive_accuracy(z) == 0.0
        assert contrastive_accuracy_tensor(z).item() == 0.0
        # Of powers of two, so that the rows stay parallel to the last bit.
        lengths = 2.0 ** (torch.arange(n) % 7)[:, None]
        assert contrastive_accuracy_tensor(z * lengths.to(dtype)).item() == 0.0
    assert contrastive_accuracy(np.zeros((6, 3))) == 0.0
    twins = np.vstack([np.eye(3)[[0, 0, 2]], np.eye(3)[[0, 0, 2]]])
    assert contrastive_accuracy(twins) == pytest.approx(1 / 3)


def test_contrastive_accuracy_tensor_is_float32_under_autocast_and_outside_the_graph():
    z = torch.tensor(matrix(20), dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_accuracy_tensor(z)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert found.item() == pytest.approx(naive_accuracy(matrix(20)))


def test_arrays_and_tensors_give_the_same_floats():
    z = matrix()
    for function in (uniformity, rankme, contrastive_accuracy, lambda x: alignment(x, x[::-1].copy())):
        assert type(function(z)) is float
    for function in (uniformity, rankme, contrastive_accuracy):
        tensor = torch.tensor(z, requires_grad=True)
        assert function(z) == function(tensor) == function(z.tolist())
        assert function(tensor.bfloat16()) == function(tensor.bfloat16().double())
    assert alignment(z, torch.tensor(z)) == 0.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: alignment(matrix(3), matrix(4)), r"y has shape \(4, 4\) and x has shape \(3, 4\)"),
        (lambda: alignment(np.ones(3), np.ones(3)), r"x has shape \(3,\); pass a matrix"),
        (lambda: uniformity(matrix(1)), r"x has shape \(1, 4\); pass a matrix of at least 2 rows"),
        (lambda: uniformity(matrix(), t=0), "t=0 is out of range"),
        (lambda: uniformity(matrix(), t=math.nan), "t=nan is out of range"),
        (lambda: rankme(matrix(0)), r"h has shape \(0, 4\)"),
        (lambda: rankme(np.ones((3, 0))), r"h has shape \(3, 0\)"),
        (lambda: rankme(matrix(), eps=-1), "eps=-1 is out of range"),
        (lambda: rankme([[1.0, math.nan]]), "h contains NaN or infinity"),
        (lambda: contrastive_accuracy(matrix(5)), "z has 5 rows; pass an even number"),
        (lambda: contrastive_accuracy(matrix(2)), r"z has shape \(2, 4\)"),
        (lambda: contrastive_accuracy(torch.full((4, 2), math.inf)), "z contains NaN or infinity"),
        (lambda: chance_level(0), "n_pairs=0 is out of range"),
        (lambda: chance_level(2.0), "n_pairs=2.0 is out of range"),
    ],
)
def test_wrong_input_is_refused_with_its_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
