"""Contrastive losses against loops over the papers' formulas in float64."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_simclr.losses import _tiles as losses
from sklearn_simclr.losses import margin_triplet, nt_logistic, nt_xent

TEMPERATURES = [0.01, 1 / 59, 0.1, 0.5, 1.0, 10.0]


@pytest.fixture(params=[1024, 5, 4, 23], ids=["one tile", "ragged tiles", "even tiles", "lone row"])
def tile(request, monkeypatch):
    """24 rows in one tile, in tiles of 5, 5, 5, 5, 4, in tiles that end with the first views, in 23 and 1."""
    monkeypatch.setitem(losses._TILE_ROWS, "cpu", request.param)
    return request.param


def projections(n_pairs=12, d=7, *, seed=0, dtype=torch.float64, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n_pairs, d, generator=generator, dtype=torch.float64)
    views = [
        image + spread * torch.randn(n_pairs, d, generator=generator, dtype=torch.float64) for _ in (1, 2)
    ]
    return torch.cat(views).to(dtype)


def cosine(u, v):
    lengths = math.sqrt(u @ u) * math.sqrt(v @ v)
    return float(u @ v) / lengths if lengths > 0 else 0.0


def similarities(z):
    """Return the positive similarity and the list of negative ones of each anchor."""
    z = np.asarray(z.detach(), dtype=np.float64)
    n = len(z) // 2
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        yield cosine(z[i], z[j]), [cosine(z[i], z[k]) for k in range(2 * n) if k not in (i, j)]


def naive_nt_xent(z, temperature):
    total = 0.0
    for positive, negatives in similarities(z):
        logits = np.array([positive, *negatives]) / temperature
        largest = logits.max()
        total += largest + math.log(np.exp(logits - largest).sum()) - logits[0]
    return total / len(z)


def autograd_nt_xent(z, temperature):
    """Return the loss as a graph over the dense matrix; for gradients."""
    z = z / z.norm(dim=1, keepdim=True)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


def gradient(loss, *inputs):
    grads = torch.autograd.grad(loss, inputs)
    return grads[0] if len(grads) == 1 else grads


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_is_the_loop_of_the_paper(tile, temperature):
    z = projections()
    expected = naive_nt_xent(z, temperature)
    assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-12)
    assert nt_xent(z.float(), temperature).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_nt_xent_gradient_is_that_of_the_dense_graph(tile, temperature, dtype, rtol):
    z = projections().requires_grad_()
    expected = gradient(3.0 * autograd_nt_xent(z, temperature), z)
    z = z.detach().to(dtype).requires_grad_()
    found = gradient(3.0 * nt_xent(z, temperature), z)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=rtol * expected.abs().max().item())


@pytest.mark.parametrize("temperature", [0.001, 0.05, 1.0])
def test_nt_xent_gradcheck(tile, temperature):
    z = projections(6, 3).requires_grad_()
    eps = 1e-6 * min(1.0, 20 * temperature)
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, temperature), z, eps=eps, atol=1e-5)


def test_nt_xent_of_equal_rows_is_the_chance_level(tile):
    z = torch.ones(24, 5)
    for temperature in TEMPERATURES:
        assert nt_xent(z, temperature).item() == pytest.approx(math.log(23), rel=1e-5)


def test_nt_xent_of_orthogonal_images(tile):
    z = torch.eye(12, dtype=torch.float64).repeat(2, 1)
    for temperature in TEMPERATURES:
        expected = math.log1p(22 * math.exp(-1 / temperature))
        assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_nt_xent_survives_terms_that_all_underflow(tile):
    """At T = 0.001 every exp((s - 1) / T) of an anchor far from all the rest is 0 in float32."""
    z = -torch.ones(24, 3) + 0.1 * projections(12, 3, dtype=torch.float32)
    z[0] = 1.0
    z.requires_grad_()
    loss = nt_xent(z, 0.001)
    assert loss.item() == pytest.approx(naive_nt_xent(z, 0.001), rel=1e-4)
    assert torch.isfinite(gradient(loss, z)).all()


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e4, 1e30])
def test_nt_xent_does_not_see_the_length_of_rows(tile, factor):
    z = projections(dtype=torch.float32)
    scales = torch.full((24, 1), factor)
    scales[::3] = 1.0
    assert nt_xent(z * scales).item() == pytest.approx(nt_xent(z).item(), rel=1e-6)
    scaled = (z * scales).requires_grad_()
    z.requires_grad_()
    torch.testing.assert_close(
        gradient(nt_xent(scaled), scaled) * scales, gradient(nt_xent(z), z), rtol=1e-4, atol=1e-7
    )


def test_nt_xent_does_not_see_the_order_of_images_nor_of_views(tile):
    z = projections()
    first, second = z.chunk(2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    swapped = torch.arange(12) % 2 == 0
    shuffled = torch.cat(
        [torch.where(swapped[:, None], second, first), torch.where(swapped[:, None], first, second)]
    )
    expected = nt_xent(z).item()
    assert nt_xent(torch.cat([second, first])).item() == pytest.approx(expected, rel=1e-12)
    assert nt_xent(torch.cat([first[order], second[order]])).item() == pytest.approx(expected, rel=1e-12)
    assert nt_xent(shuffled).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_nt_xent_of_duplicates_and_zero_rows(tile, temperature):
    z = projections(dtype=torch.float32)
    z[3] = z[7]
    z[15] = z[3]
    z[[1, 2, 14]] = 0.0
    z.requires_grad_()
    loss = nt_xent(z, temperature)
    assert loss.item() == pytest.approx(naive_nt_xent(z, temperature), rel=1e-5)
    grad = gradient(loss, z)
    assert torch.isfinite(grad).all()
    assert (grad[[1, 2, 14]] == 0).all()
    assert torch.isfinite(gradient(nt_xent(zeros := torch.zeros(24, 3, requires_grad=True)), zeros)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_shows_in_the_loss(tile, value):
    z = projections()
    z[5, 1] = value
    for loss in (nt_xent, nt_logistic, margin_triplet):
        assert math.isnan(loss(z).item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_computed_in_float32(tile, dtype):
    z = projections(dtype=dtype).requires_grad_()
    upcast = z.detach().float().requires_grad_()
    for loss in (nt_xent, nt_logistic, margin_triplet):
        half, full = loss(z), loss(upcast)
        assert half.dtype == torch.float32
        assert half.item() == full.item()
        assert torch.equal(gradient(half, z), gradient(full, upcast).to(dtype))


@pytest.mark.parametrize("loss", [nt_xent, nt_logistic, margin_triplet])
def test_autocast_changes_nothing(tile, loss):
    z = projections(dtype=torch.float32).requires_grad_()
    outside = loss(z)
    expected = gradient(outside, z)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(z)
        found = gradient(inside, z)
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()
    assert torch.equal(found, expected)


def local_rows(z, start, stop):
    n = len(z) // 2
    return torch.cat([z[start:stop], z[n + start : n + stop]])


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("ranks", [1, 2, 4, 12])
def test_gathered_ranks_average_to_the_whole_batch(tile, ranks, temperature):
    z = projections().requires_grad_()
    step = 12 // ranks
    parts = [
        nt_xent(local_rows(z, k, k + step), temperature, gathered=z, offset=k) for k in range(0, 12, step)
    ]
    whole = nt_xent(z, temperature)
    mean = torch.stack(parts).mean()
    assert mean.item() == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(gradient(mean, z), gradient(whole, z), rtol=1e-9, atol=1e-12)


def test_gathered_with_unequal_ranks_is_the_mean_over_local_anchors(tile):
    z = projections()
    bounds = [0, 1, 6, 12]
    parts = [
        (stop - start) * nt_xent(local_rows(z, start, stop), 0.2, gathered=z, offset=start).item()
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    assert sum(parts) / 12 == pytest.approx(naive_nt_xent(z, 0.2), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.005, 0.5])
def test_gathered_gradcheck_in_both_arguments(tile, temperature):
    others = projections(6, 3).requires_grad_()
    z = local_rows(others.detach(), 2, 4).requires_grad_()
    eps = 1e-6 * min(1.0, 20 * temperature)

    def loss(z, others):
        return nt_xent(z, temperature, gathered=others, offset=2)

    assert torch.autograd.gradcheck(loss, (z, others), eps=eps, atol=1e-5)
    alone = gradient(loss(z, others.detach()), z)
    assert torch.equal(alone, gradient(loss(z, others), z, others)[0])


def test_gathered_takes_the_dtype_of_each_argument():
    others = projections(dtype=torch.float32).requires_grad_()
    z = local_rows(others.detach(), 0, 3).bfloat16().requires_grad_()
    loss = nt_xent(z, gathered=others, offset=0)
    grads = gradient(loss, z, others)
    assert (loss.dtype, grads[0].dtype, grads[1].dtype) == (torch.float32, torch.bfloat16, torch.float32)


class LargestTensor(TorchDispatchMode):
    """Keeps the number of elements of the largest storage that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(item, torch.Tensor):
                self.elements = max(self.elements, item.untyped_storage().nbytes() // item.element_size())
        return out


@pytest.mark.parametrize(
    "loss",
    [
        nt_xent,
        lambda z: nt_xent(z, 0.01),
        lambda z: nt_xent(local_rows(z, 0, 128), gathered=z, offset=0),
        nt_logistic,
        lambda z: margin_triplet(z, semi_hard=True),
    ],
    ids=["nt_xent", "nt_xent, cold", "gathered", "nt_logistic", "margin_triplet"],
)
def test_no_matrix_of_all_similarities_is_ever_made(loss, monkeypatch):
    monkeypatch.setitem(losses._TILE_ROWS, "cpu", 32)
    z = projections(256, 8, dtype=torch.float32).requires_grad_()
    with LargestTensor() as largest:
        loss(z).backward()
    assert z.numel() <= largest.elements <= z.numel() + 32 * 32


def test_the_memory_test_sees_a_dense_loss():
    z = projections(256, 8, dtype=torch.float32).requires_grad_()
    with LargestTensor() as largest:
        autograd_nt_xent(z, 0.5).backward()
    assert largest.elements == 512 * 512


def naive_logistic(z, temperature, semi_hard):
    def log_sigma(x):
        return -math.log1p(math.exp(-x))

    total = 0.0
    for positive, negatives in similarities(z):
        total -= log_sigma(positive / temperature)
        if semi_hard:
            farther = [s for s in negatives if s < positive]
            total -= log_sigma(-max(farther) / temperature) if farther else 0.0
        else:
            total -= sum(log_sigma(-s / temperature) for s in negatives) / len(negatives)
    return total / len(z)


def naive_triplet(z, margin, semi_hard):
    total = 0.0
    for positive, negatives in similarities(z):
        if semi_hard:
            within = [s for s in negatives if positive - margin < s < positive]
            total += max(within) - positive + margin if within else 0.0
        else:
            total += sum(max(s - positive + margin, 0.0) for s in negatives) / len(negatives)
    return total / len(z)


@pytest.mark.parametrize("semi_hard", [False, True])
@pytest.mark.parametrize("spread", [0.1, 1.0])
@pytest.mark.parametrize("value", [0.1, 0.4, 1.6])
def test_logistic_and_triplet_are_loops_over_triples(tile, value, spread, semi_hard):
    z = projections(spread=spread)
    found = nt_logistic(z, value, semi_hard=semi_hard).item()
    assert found == pytest.approx(naive_logistic(z, value, semi_hard), rel=1e-12)
    found = margin_triplet(z, value, semi_hard=semi_hard).item()
    assert found == pytest.approx(naive_triplet(z, value, semi_hard), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("semi_hard", [False, True])
def test_logistic_and_triplet_gradcheck(tile, semi_hard):
    z = projections(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_logistic(z, 0.3, semi_hard=semi_hard), z)
    assert torch.autograd.gradcheck(lambda z: margin_triplet(z, 0.7, semi_hard=semi_hard), z)


def test_semi_hard_without_any_farther_negative():
    """Every negative is as close as the positive: only the attraction of the logistic loss is left."""
    z = torch.ones(8, 3, dtype=torch.float64, requires_grad=True)
    assert margin_triplet(z, 0.8, semi_hard=True).item() == 0.0
    loss = nt_logistic(z, 0.5, semi_hard=True)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-12)
    assert torch.isfinite(gradient(loss, z)).all()


def test_losses_of_constant_input_need_no_gradient():
    z = projections()
    for loss in (nt_xent, nt_logistic, margin_triplet):
        assert not loss(z).requires_grad
        with torch.no_grad():
            assert not loss(projections().requires_grad_()).requires_grad


def test_backward_twice_through_a_kept_graph_gives_the_same(tile):
    z = projections().requires_grad_()
    for loss in (nt_xent(z), nt_logistic(z), nt_xent(z[:], gathered=z)):
        grads = [torch.autograd.grad(loss, z, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*grads)


@pytest.mark.parametrize("loss", [nt_xent, nt_logistic, margin_triplet])
@pytest.mark.parametrize("shape", [(2, 3), (5, 3), (0, 3), (8,), (2, 2, 2), (8, 0)])
def test_shapes_that_are_no_pairs_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"z has shape .* pass \(2N, d\) with N >= 2"):
        loss(torch.zeros(shape))


@pytest.mark.parametrize("loss", [nt_xent, nt_logistic, margin_triplet])
@pytest.mark.parametrize("z", [np.zeros((4, 2)), torch.zeros(4, 2, dtype=torch.long)])
def test_what_is_no_floating_point_tensor_is_refused(loss, z):
    with pytest.raises(TypeError, match=r"z must be a floating-point torch\.Tensor"):
        loss(z)


@pytest.mark.parametrize("loss", [nt_xent, nt_logistic])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 1e-300])
def test_temperature_out_of_range_is_refused(loss, temperature):
    with pytest.raises(ValueError, match=r"temperature=.* finite number > 0"):
        loss(projections(), temperature)


@pytest.mark.parametrize("temperature", ["0.5", None, True, torch.tensor(0.5)])
def test_temperature_that_is_no_number_is_refused(temperature):
    with pytest.raises(TypeError, match="temperature must be a number"):
        nt_xent(projections(), temperature)


def test_margin_is_checked():
    for margin in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"margin=.* finite number >= 0"):
            margin_triplet(projections(), margin)
    with pytest.raises(TypeError, match="margin must be a number"):
        margin_triplet(projections(), "0.8")


def test_gathered_and_offset_are_checked():
    z = projections()
    with pytest.raises(ValueError, match="gathered has 3 columns and z has 7"):
        nt_xent(z, gathered=torch.zeros(24, 3))
    with pytest.raises(ValueError, match="gathered has shape"):
        nt_xent(z, gathered=torch.zeros(25, 7))
    for offset in (-1, 7):
        with pytest.raises(ValueError, match=r"offset=.* in \[0, 6\]"):
            nt_xent(local_rows(z, 0, 6), gathered=z, offset=offset)
    with pytest.raises(TypeError, match="offset must be an int"):
        nt_xent(z, gathered=z, offset=0.0)
    with pytest.raises(ValueError, match="offset=0 is out of range"):
        nt_xent(z, gathered=local_rows(z, 0, 6))


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_negatives_of_earlier_batches_stand_beside_those_of_the_batch(tile, temperature):
    z, earlier = projections().requires_grad_(), projections(9, seed=1).requires_grad_()
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (z, earlier.detach())]
    logits = torch.cat([unit[0] @ unit[0].T, unit[0] @ unit[1].T], dim=1) / temperature
    logits = logits.masked_fill(torch.eye(*logits.shape, dtype=torch.bool), -math.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))
    found = nt_xent(z, temperature, negatives=earlier)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient(found, z), gradient(expected, z), rtol=1e-9, atol=1e-13)
    assert not torch.autograd.grad(nt_xent(z, temperature, negatives=earlier), earlier, allow_unused=True)[0]
    assert nt_xent(z, temperature, negatives=earlier[:0]) == nt_xent(z, temperature)


def test_bad_negatives_are_named():
    z = projections()
    with pytest.raises(ValueError, match=r"negatives has shape \(24, 3\); pass \(Q, 7\)"):
        nt_xent(z, negatives=z[:, :3])
    with pytest.raises(TypeError, match="negatives must be a floating-point torch.Tensor, got list"):
        nt_xent(z, negatives=[1.0])
    with pytest.raises(ValueError, match="exclude each other"):
        nt_xent(z, negatives=z, gathered=z)
