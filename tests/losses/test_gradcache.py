"""Gradients by chunks against the graph that holds all the chunks at once."""

import copy

import pytest
import torch
from torch import nn

from sklearn_simclr.losses import nt_xent
from sklearn_simclr.losses.large_batch import cached_backward

SIZES = [3, 5, 2]


def encoder(*, norm=True, dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.BatchNorm1d(5, momentum=None) if norm else nn.Identity(),
    )
    return net.to(dtype)


def inputs(sizes=SIZES, dtype=torch.float64):
    """Return for each chunk the first views of its images, then their second views."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2 * m, 1, 5, 5, generator=generator, dtype=torch.float64).to(dtype) for m in sizes]


def pair_layout(parts):
    halves = [part.chunk(2) for part in parts]
    return torch.cat([first for first, _ in halves] + [second for _, second in halves])


def joint_backward(net, parts, loss_fn=nt_xent):
    """The reference: one graph over all the chunks."""
    z = pair_layout([net(x) for x in parts])
    loss = loss_fn(z)
    loss.backward()
    return loss.detach(), z.detach()


def by_chunks(net, parts, loss_fn=nt_xent):
    return cached_backward(net, [lambda x=x: x for x in parts], loss_fn, module=net)


def assert_same_gradients(net, reference, rtol):
    for (name, a), b in zip(net.named_parameters(), reference.parameters(), strict=True):
        scale = b.grad.abs().max().item()
        torch.testing.assert_close(
            a.grad, b.grad, rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("sizes", [SIZES, [4], [1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_and_statistics_are_those_of_the_joint_graph(sizes, dtype, rtol):
    net, reference = encoder(dtype=dtype), encoder(dtype=dtype)
    # A bias before BatchNorm has no gradient but rounding, which no relative tolerance allows for.
    for model in (net, reference):
        model[0].bias.requires_grad_(False).zero_()
        model[5].bias.requires_grad_(False).zero_()
    for model in (net, reference):
        model[6].weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    parts = inputs(sizes, dtype)
    loss, z = by_chunks(net, parts)
    expected_loss, expected_z = joint_backward(reference, parts)
    torch.testing.assert_close(loss, expected_loss, rtol=rtol, atol=0.0)
    torch.testing.assert_close(z, expected_z, rtol=rtol, atol=rtol)
    trained = [
        (a, b) for a, b in zip(net.parameters(), reference.parameters(), strict=True) if a.requires_grad
    ]
    for a, b in trained:
        torch.testing.assert_close(a.grad, b.grad, rtol=rtol, atol=rtol * b.grad.abs().max().item())
    for (name, a), b in zip(net.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_without_batchnorm_it_is_the_gradient_of_the_whole_batch():
    net, reference = encoder(norm=False), encoder(norm=False)
    parts = inputs()
    by_chunks(net, parts)
    whole = pair_layout(parts)
    nt_xent(reference(whole)).backward()
    assert_same_gradients(net, reference, 1e-10)


def test_projections_come_in_pair_layout():
    net = nn.Flatten()
    net.register_parameter("scale", nn.Parameter(torch.ones(1)))
    parts = inputs()
    _, z = cached_backward(
        lambda x: net(x) * net.scale, [lambda x=x: x for x in parts], torch.sum, module=net
    )
    assert torch.equal(z, pair_layout([net(x) for x in parts]))
    assert not z.requires_grad


def test_dropout_is_replayed_and_the_generator_ends_where_one_pass_ends():
    net, reference = encoder(dropout=0.4), encoder(dropout=0.4)
    parts = inputs()
    torch.manual_seed(7)
    loss, _ = by_chunks(net, parts)
    after = torch.rand(3)
    torch.manual_seed(7)
    expected, _ = joint_backward(reference, parts)
    assert torch.equal(after, torch.rand(3))
    assert loss == expected
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_inputs_drawn_from_the_global_generator_are_drawn_again():
    net, reference = encoder(norm=False), encoder(norm=False)

    def draw():
        return torch.randn(4, 1, 5, 5, dtype=torch.float64)

    torch.manual_seed(3)
    cached_backward(net, [draw] * 3, nt_xent, module=net)
    torch.manual_seed(3)
    joint_backward(reference, [draw() for _ in range(3)])
    assert_same_gradients(net, reference, 1e-10)


def test_gradients_accumulate():
    net, reference = encoder(norm=False), encoder(norm=False)
    parts = inputs()
    for _ in range(2):
        by_chunks(net, parts)
    joint_backward(reference, parts, lambda z: 2 * nt_xent(z))
    assert_same_gradients(net, reference, 1e-10)


def test_a_loss_with_parameters_gets_its_gradients_once():
    net = encoder(norm=False)
    temperature = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    loss, z = by_chunks(net, inputs(), lambda z: temperature**2 * z.square().sum())
    torch.testing.assert_close(temperature.grad, 4.0 * z.square().sum())
    assert loss.requires_grad is False


def test_batchnorm_in_evaluation_mode_stays_as_it_is():
    net, reference = encoder(), encoder()
    for model in (net, reference):
        model[1].eval()
    before = copy.deepcopy(net[1].state_dict())
    parts = inputs()
    by_chunks(net, parts)
    joint_backward(reference, parts)
    assert all(torch.equal(value, before[name]) for name, value in net[1].state_dict().items())
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_an_exception_in_the_second_pass_leaves_batchnorm_tracking_and_the_generator_in_place():
    net = encoder(dropout=0.2)
    parts = inputs()
    calls = []

    def breaks():
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return parts[0]

    torch.manual_seed(5)
    with pytest.raises(RuntimeError, match="out of memory"):
        cached_backward(net, [breaks, lambda: parts[1]], nt_xent, module=net)
    after = torch.get_rng_state()
    assert net[1].track_running_stats and net[6].track_running_stats
    assert net[1].num_batches_tracked == 2
    torch.manual_seed(5)
    net(parts[0]), net(parts[1])
    assert torch.equal(after, torch.get_rng_state())


def test_autocast_of_the_caller_is_kept_and_weights_get_their_gradients():
    net, reference = encoder(dtype=torch.float32), encoder(dtype=torch.float32)
    parts = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, z = by_chunks(net, parts)
        expected, expected_z = joint_backward(reference, parts)
    assert torch.equal(z, expected_z)
    assert loss == expected
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0.05, atol=0.02 * b.grad.abs().max().item() + 1e-3)


def test_it_works_where_the_caller_switched_gradients_off():
    net, reference = encoder(norm=False), encoder(norm=False)
    with torch.no_grad():
        by_chunks(net, inputs())
    joint_backward(reference, inputs())
    assert_same_gradients(net, reference, 1e-10)


def test_unusable_chunks_are_refused():
    net = encoder(norm=False)
    with pytest.raises(ValueError, match="chunks is empty"):
        cached_backward(net, [], nt_xent, module=net)
    with pytest.raises(ValueError, match="chunk 1 gave 3 projections"):
        by_chunks(net, [inputs()[0], inputs()[0][:3]])
    shrinking = iter([inputs()[0], inputs()[0][:4]])
    with pytest.raises(ValueError, match=r"shape \(6, 5\), and of shape \(4, 5\) when called again"):
        cached_backward(net, [lambda: next(shrinking), lambda: inputs()[1]], nt_xent, module=net)


def test_a_loss_of_its_own_parameters_alone_leaves_the_network_as_it_is():
    net, scale = encoder(), torch.ones((), dtype=torch.float64, requires_grad=True)
    loss, _ = by_chunks(net, inputs(), lambda z: 3 * scale)
    assert loss == 3 and scale.grad == 3
    assert not any(parameter.grad.any() for parameter in net.parameters())


@pytest.mark.gpu
def test_dropout_is_replayed_on_the_gpu():
    net = encoder(dropout=0.4).cuda()
    reference = copy.deepcopy(net)
    parts = [x.cuda() for x in inputs()]
    torch.manual_seed(7)
    loss, _ = by_chunks(net, parts)
    after = torch.rand(3, device="cuda")
    torch.manual_seed(7)
    expected, _ = joint_backward(reference, parts)
    assert torch.equal(after, torch.rand(3, device="cuda"))
    torch.testing.assert_close(loss, expected)
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)
