"""The CURL losses against loops over the formulas in float64, and in closed form."""

import math

import numpy as np
import pytest
import torch

from sklearn_simclr.losses import _tiles, curl_hinge, curl_logistic
from sklearn_simclr.theory import contrastive_margins, margin_loss

LOSSES = {"logistic": curl_logistic, "hinge": curl_hinge}


def representations(n=6, d=5, b=1, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1 + b) * n, d, generator=generator, dtype=torch.float64).to(dtype)


def naive(z, loss, k, b, normalize):
    z = z.detach().numpy().astype(np.float64)
    if normalize:
        z = z / np.sqrt((z**2).sum(axis=1, keepdims=True))
    n = len(z) // (1 + b)
    losses = []
    for view in range(1 + b):
        others = [v for v in range(1 + b) if v != view]
        for i in range(n):
            positive = sum(z[v * n + i] for v in others) / b
            margins = []
            for shift in range(1, k + 1):
                negative = sum(z[v * n + (i + shift) % n] for v in others) / b
                margins.append(float(z[view * n + i] @ (positive - negative)))
            if loss == "logistic":
                losses.append(math.log(1 + sum(math.exp(-v) for v in margins)) / math.log(2))
            else:
                losses.append(max(0.0, 1 + max(-v for v in margins)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [1, 3, None])
@pytest.mark.parametrize("b", [1, 2, 4])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_the_loop_of_the_paper(loss, k, b, normalize):
    z = representations(b=b)
    expected = naive(z, loss, k or 5, b, normalize)
    options = {"n_negatives": k, "block_size": b, "normalize": normalize}
    assert LOSSES[loss](z, **options).item() == pytest.approx(expected, rel=1e-12)
    result = LOSSES[loss](z.float(), **options)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_pairs_agree_with_the_arrays_of_the_theory(loss):
    z = representations(n=5)
    first, second = z[:5].numpy(), z[5:].numpy()
    margins = [
        contrastive_margins(a, p, np.stack([np.roll(p, -1, axis=0), np.roll(p, -2, axis=0)], axis=1))
        for a, p in ((first, second), (second, first))
    ]
    expected = margin_loss(np.concatenate(margins), loss).mean()
    assert LOSSES[loss](z, n_negatives=2).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("b", [1, 3])
def test_equal_points_cost_what_guessing_costs(k, b):
    z = torch.full(((1 + b) * 8, 3), 0.7)
    assert curl_logistic(z, n_negatives=k, block_size=b).item() == pytest.approx(math.log2(1 + k), rel=1e-6)
    assert curl_hinge(z, n_negatives=k, block_size=b).item() == pytest.approx(1.0, rel=1e-6)


def test_orthogonal_pairs_have_margins_of_their_squared_length():
    z = 3 * torch.eye(4, dtype=torch.float64).repeat(2, 1)
    assert curl_logistic(z).item() == pytest.approx(math.log2(1 + 3 * math.exp(-9)), rel=1e-12)
    assert curl_hinge(z / 6).item() == pytest.approx(1 - 0.25, rel=1e-12)
    assert curl_logistic(z, normalize=True).item() == pytest.approx(math.log2(1 + 3 / math.e), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k, b", [(None, 1), (2, 3)])
def test_gradients(loss, normalize, k, b):
    z = representations(n=4, d=3, b=b, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: LOSSES[loss](z, n_negatives=k, block_size=b, normalize=normalize), z
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k, b", [(None, 1), (4, 1), (3, 2)])
def test_some_anchors_at_a_time_give_what_all_at_once_give(monkeypatch, loss, k, b):
    monkeypatch.setitem(_tiles._TILE_ROWS, "cpu", 6)  # two or three of the 13 anchors of a view
    z = representations(n=13, b=b, seed=2).requires_grad_()
    found = LOSSES[loss](z, n_negatives=k, block_size=b, normalize=True)
    assert found.item() == pytest.approx(naive(z, loss, k or 12, b, True), rel=1e-12)
    found.backward()
    again = z.detach().clone().requires_grad_()
    dense(again, loss, k or 12, b).backward()
    torch.testing.assert_close(z.grad, again.grad, rtol=1e-10, atol=1e-12)


def dense(z, loss, k, b):
    """Return the loss of normalised rows from the whole matrix of margins."""
    views = (z / z.norm(dim=1, keepdim=True)).view(1 + b, -1, z.shape[1])
    n = views.shape[1]
    losses = []
    for view in range(1 + b):
        block = torch.stack([views[v] for v in range(1 + b) if v != view]).mean(0)
        similarity = views[view] @ block.T
        shifted = [[(i + shift) % n for shift in range(1, k + 1)] for i in range(n)]
        margins = similarity.diag()[:, None] - similarity.gather(1, torch.tensor(shifted))
        if loss == "logistic":
            losses.append((1 + (-margins).exp().sum(1)).log2())
        else:
            losses.append((1 - margins.amin(1)).clamp(min=0))
    return torch.cat(losses).mean()


def test_huge_margins_neither_overflow_nor_lose_their_gradient():
    z = (1e4 * representations(dtype=torch.float32)).requires_grad_()
    loss = curl_logistic(z)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()
    assert loss.item() == pytest.approx(naive_large(z), rel=1e-5)


def naive_large(z):
    z = z.detach().double().numpy()
    first, second = np.split(z, 2)
    total = []
    for a, p in ((first, second), (second, first)):
        s = a @ p.T
        total.append(np.logaddexp.reduce(s - np.diag(s)[:, None], axis=1))
    return np.concatenate(total).mean() / math.log(2)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_autocast_does_not_reach_the_loss(loss):
    z = representations(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(z)
    assert inside.item() == loss(z).item()
    assert loss(z.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", LOSSES.values())
def test_the_order_of_the_views_is_of_no_matter(loss):
    z = representations(b=2)
    swapped = torch.cat([z[6:12], z[12:], z[:6]])
    assert loss(swapped, block_size=2).item() == pytest.approx(loss(z, block_size=2).item(), rel=1e-12)


def test_unnormalised_rows_are_left_as_they_are():
    z = representations()
    assert abs(curl_logistic(z).item() - curl_logistic(2 * z).item()) > 1e-3
    assert curl_logistic(z, normalize=True).item() == pytest.approx(
        curl_logistic(2 * z, normalize=True).item(), rel=1e-12
    )


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize(
    "z, options, error, message",
    [
        (np.ones((4, 2)), {}, TypeError, "z must be a floating-point torch.Tensor, got ndarray"),
        (torch.ones(4, 2, dtype=torch.int64), {}, TypeError, "torch.int64"),
        (torch.ones(5, 2), {}, ValueError, r"z has shape \(5, 2\)"),
        (torch.ones(8, 2), {"block_size": 2}, ValueError, r"pass \(3 N, d\)"),
        (torch.ones(2, 2), {}, ValueError, "N >= 2"),
        (torch.ones(4, 2, 1), {}, ValueError, "z has shape"),
        (torch.ones(8, 2), {"n_negatives": 4}, ValueError, "4 images have at most 3 negatives"),
        (torch.ones(8, 2), {"n_negatives": 0}, ValueError, "n_negatives=0"),
        (torch.ones(8, 2), {"n_negatives": 1.0}, TypeError, "n_negatives must be an int"),
        (torch.ones(8, 2), {"block_size": 0}, ValueError, "block_size=0"),
        (torch.ones(8, 2), {"block_size": None}, TypeError, "block_size must be an int"),
    ],
)
def test_bad_arguments_are_named(loss, z, options, error, message):
    with pytest.raises(error, match=message):
        loss(z, **options)
