"""LARS against a loop in float64, the schedule, the groups, and what the factory builds."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_simclr.training import LARS, Muon, muon
from sklearn_simclr.training.optimizers import (
    default_learning_rate,
    make_optimizer,
    parameter_groups,
)
from sklearn_simclr.training.orthogonal import orthogonalize_together
from sklearn_simclr.training.schedule import warmup_cosine


def naive_lars(weight, gradients, rates, *, momentum, decay, eta, nesterov, adapt):
    """Return the weights after one step a gradient, by google-research/simclr's rules."""
    w, v = np.array(weight, dtype=np.float64), 0.0
    for g, lr in zip(gradients, rates, strict=True):
        g = np.asarray(g, dtype=np.float64)
        trust = 1.0
        if adapt:
            g = g + decay * w
            w_norm, g_norm = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
            trust = eta * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
        v = momentum * v + lr * trust * g
        w = w - (momentum * v + lr * trust * g if nesterov else v)
    return w


def run(optimizer, parameters, gradients, rates):
    for step, lr in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter, series in zip(parameters, gradients, strict=True):
            parameter.grad = torch.as_tensor(series[step], dtype=parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_is_the_loop_of_the_reference(decay, nesterov):
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (2, 3, 2), (5,), (3,)]
    weights = [rng.normal(size=shape) for shape in shapes]
    gradients = [rng.normal(size=(5, *shape)) for shape in shapes]
    rates = [0.1, 2.0, 3.0, 0.5, 1.0]
    parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "adapt": False, "weight_decay": 9.0}]
    optimizer = LARS(groups, 1.0, momentum=0.8, weight_decay=decay, eta=0.01, nesterov=nesterov)
    run(optimizer, parameters, gradients, rates)
    for k, parameter in enumerate(parameters):
        expected = naive_lars(
            weights[k],
            gradients[k],
            rates,
            momentum=0.8,
            decay=decay,
            eta=0.01,
            nesterov=nesterov,
            adapt=k < 2,
        )
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-12)


def test_lars_trusts_fully_where_a_norm_is_zero():
    """A zero weight has to leave zero, and a zero gradient must not make it NaN."""
    weights = [np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 2))]
    gradients = [np.ones((1, 2, 2)), np.zeros((1, 2, 2)), np.zeros((1, 2, 2))]
    parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
    run(LARS(parameters, 1.0), parameters, gradients, [0.5])
    np.testing.assert_array_equal(parameters[0].detach(), np.full((2, 2), -0.5))
    np.testing.assert_array_equal(parameters[1].detach(), np.ones((2, 2)))
    np.testing.assert_array_equal(parameters[2].detach(), np.zeros((2, 2)))


def test_lars_leaves_parameters_without_gradient_and_the_gradients_alone():
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.full((2, 2), 2.0)
    optimizer = LARS([used, unused], 1.0, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert unused not in optimizer.state
    assert torch.equal(used.grad, torch.full((2, 2), 2.0))


def test_lars_mixes_dtypes():
    single = nn.Parameter(torch.ones(2, 2))
    double = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    run(LARS([single, double], 1.0), [single, double], [np.ones((2, 2, 2))] * 2, [1.0, 1.0])
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0.0)


def test_lars_continues_from_its_state_dict():
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(4, 3, 3))]
    straight = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    run(LARS([straight], 1.0), [straight], gradients, [1.0, 2.0, 1.0, 0.5])

    broken = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    first = LARS([broken], 1.0)
    run(first, [broken], [gradients[0][:2]], [1.0, 2.0])
    second = LARS([broken], 7.0, momentum=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, [broken], [gradients[0][2:]], [1.0, 0.5])
    assert torch.equal(straight, broken)


def test_lars_evaluates_a_closure_with_gradients():
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], 1.0)

    def closure():
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert (weight < 1).all()


def test_lars_refuses_a_sparse_gradient():
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        LARS(embedding.parameters(), 1.0).step()


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": 1.0, "momentum": 1.0}, "momentum"),
        ({"lr": 1.0, "weight_decay": -1.0}, "weight_decay"),
        ({"lr": 1.0, "eta": 0.0}, "eta"),
        ({"lr": math.inf}, "lr"),
    ],
)
def test_lars_names_the_argument_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"{name}=.* is out of range; pass a finite number"):
        LARS([nn.Parameter(torch.ones(1))], **arguments)


def test_warmup_cosine_values():
    assert warmup_cosine(0.0) == 1.0
    assert warmup_cosine(0.25) == pytest.approx(0.5 + 0.5 * math.sqrt(0.5))
    assert warmup_cosine(0.5) == pytest.approx(0.5)
    assert warmup_cosine(1.0) == pytest.approx(0.0, abs=1e-15)
    assert warmup_cosine(0.0, 0.1) == 0.0
    assert warmup_cosine(0.05, 0.1) == pytest.approx(0.5)
    assert warmup_cosine(0.1, 0.1) == 1.0
    assert warmup_cosine(0.55, 0.1) == pytest.approx(0.5)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.9])
def test_warmup_cosine_rises_then_falls_and_is_clipped(warmup):
    grid = np.linspace(0, 1, 201)
    values = np.array([warmup_cosine(f, warmup) for f in grid])
    assert (np.diff(values[grid <= warmup]) > 0).all()
    assert (np.diff(values[grid >= warmup]) < 0).all()
    assert values.min() >= 0 and values.max() <= 1
    assert warmup_cosine(-3.0, warmup) == warmup_cosine(0.0, warmup)
    assert warmup_cosine(1.7, warmup) == warmup_cosine(1.0, warmup)


def test_warmup_cosine_refuses_what_is_no_fraction():
    for warmup in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="warmup="):
            warmup_cosine(0.5, warmup)
    with pytest.raises(ValueError, match="fraction is NaN"):
        warmup_cosine(math.nan)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_parameter_groups_split_by_the_number_of_dimensions():
    net = network()
    decay, plain = parameter_groups(net, 0.01)
    assert [id(p) for p in decay["params"]] == [id(net[0].weight), id(net[3].weight)]
    vectors = [net[0].bias, net[1].weight, net[1].bias, net[3].bias]
    assert [id(p) for p in plain["params"]] == [id(p) for p in vectors]
    assert (decay["weight_decay"], decay["adapt"]) == (0.01, True)
    assert (plain["weight_decay"], plain["adapt"]) == (0.0, False)


def test_parameter_groups_list_shared_parameters_once_and_frozen_ones_never():
    net, twin = network(), network()
    twin[3].weight = net[3].weight
    twin[0].weight.requires_grad_(False)
    listed = [p for group in parameter_groups([net, twin, net], 0.01) for p in group["params"]]
    assert len({id(p) for p in listed}) == len(listed) == 6 + 4
    assert not any(p is twin[0].weight for p in listed)


def test_parameter_groups_leave_out_empty_groups():
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), 0.0)) == 1
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        parameter_groups(nn.ReLU(), 0.0)


@pytest.mark.parametrize(
    "name, cls", [("lars", LARS), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
def test_make_optimizer_sets_every_group(name, cls):
    optimizer = make_optimizer(name, [network(), network()], lr=0.3, weight_decay=0.02)
    assert type(optimizer) is cls
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]
    if name != "adamw":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    if name == "sgd":
        assert all(group["nesterov"] for group in optimizer.param_groups)


def test_make_optimizer_without_momentum_is_plain_sgd():
    optimizer = make_optimizer("sgd", nn.Linear(2, 2), lr=0.3, weight_decay=0.0, momentum=0.0)
    assert not optimizer.param_groups[0]["nesterov"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_pass_updates_equal_the_plain_ones_whatever_the_memory_layout(name):
    # No bias before BatchNorm: its gradient is rounding, which AdamW would blow up.
    nets = [
        nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2)
        ).double()
        for _ in range(2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0].to(memory_format=torch.channels_last)
    fused = make_optimizer(name, nets[0], lr=0.1, weight_decay=0.1)
    plain = make_optimizer(name, nets[1], lr=0.1, weight_decay=0.1)
    for group in plain.param_groups:
        group["fused"], group["foreach"] = False, False
    x = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(3):
        for net, optimizer in zip(nets, (fused, plain), strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_unknown_optimizers_are_refused_with_the_known_ones():
    for call in (
        lambda: make_optimizer("adagrad", network(), lr=0.1, weight_decay=0.0),
        lambda: default_learning_rate("adagrad", 256),
    ):
        with pytest.raises(
            ValueError,
            match=r"optimizer 'adagrad' is unknown; pass one of \['adam', 'adamw', 'lars', 'muon', 'sgd'\]",
        ):
            call()


def test_default_learning_rates():
    assert default_learning_rate("lars", 4096) == pytest.approx(4.8)
    assert default_learning_rate("sgd", 512) == pytest.approx(0.2)
    assert default_learning_rate("adamw", 1024) == pytest.approx(0.004)
    with pytest.raises(ValueError, match="batch_size=0"):
        default_learning_rate("lars", 0)


def naive_muon(weight, gradients, rates, *, momentum, decay):
    """Return the weights of a matrix after one step a gradient, with numpy, in float64."""
    w, v = np.array(weight, dtype=np.float64), 0.0
    for g, lr in zip(gradients, rates, strict=True):
        v = momentum * v + g
        u = (g + momentum * v).reshape(len(w), -1)
        u = u / (np.sqrt((u**2).sum()) + 1e-7)
        for _ in range(3):
            u = 3.4445 * u - 4.7750 * u @ u.T @ u + 2.0315 * u @ u.T @ u @ u.T @ u
        w = (1 - lr * decay) * w - lr * max(1, u.shape[0] / u.shape[1]) ** 0.5 * u.reshape(w.shape)
    return w


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 3, 2, 2), (20, 2, 2, 2)])
def test_muon_is_the_loop_written_naively(shape):
    rng = np.random.default_rng(0)
    weight, gradients, rates = (
        rng.normal(size=shape),
        rng.normal(size=(5, *shape)),
        [0.1, 0.2, 0.05, 0.3, 0.1],
    )
    parameter = nn.Parameter(torch.tensor(weight))
    run(Muon([parameter], 1.0, momentum=0.8, weight_decay=0.1), [parameter], [gradients], rates)
    expected = naive_muon(weight, gradients, rates, momentum=0.8, decay=0.1)
    np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
def test_muon_computes_matrices_of_one_shape_together_as_one_by_one(channels_last, monkeypatch):
    monkeypatch.setattr(muon, "orthogonalize_each", orthogonalize_together)  # as a GPU
    rng = np.random.default_rng(0)
    shapes = [(4, 9), (4, 1, 3, 3), (9, 4), (5, 3, 2, 2), (20, 2, 2, 2), (5, 12, 1, 1), (2, 3, 4), (4, 9)]
    weights = [rng.normal(size=shape) for shape in shapes]
    gradients, rates = [rng.normal(size=(5, *shape)) for shape in shapes], [0.1, 0.2, 0.05, 0.3, 0.1]
    formats = [
        torch.channels_last if channels_last and len(shape) == 4 else torch.contiguous_format
        for shape in shapes
    ]
    parameters = [
        nn.Parameter(torch.tensor(weight).contiguous(memory_format=layout))
        for weight, layout in zip(weights, formats, strict=True)
    ]
    strides = [parameter.stride() for parameter in parameters]
    run(Muon(parameters, 1.0, momentum=0.8, weight_decay=0.1), parameters, gradients, rates)
    for parameter, weight, series in zip(parameters, weights, gradients, strict=True):
        expected = naive_muon(weight, series, rates, momentum=0.8, decay=0.1)
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-9, atol=1e-12)
    assert [parameter.stride() for parameter in parameters] == strides


def test_muon_counts_the_steps_of_a_vector_that_comes_later():
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=(2, 3)), rng.normal(size=(5, 2, 3))
    ours = [nn.Parameter(torch.tensor(w)) for w in weights]
    adams = [nn.Parameter(torch.tensor(w)) for w in weights]
    for optimizer, parameters in (
        (Muon([{"params": ours, "adapt": False}], 0.5), ours),
        (torch.optim.Adam(adams, 0.05, betas=(0.9, 0.95)), adams),
    ):
        for step in range(5):
            for k, parameter in enumerate(parameters):
                parameter.grad = None if k == 1 and step < 2 else torch.tensor(gradients[step, k])
            optimizer.step()
    for one, other in zip(ours, adams, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", [LARS, Muon])
def test_the_learning_rate_may_be_a_tensor(cls):
    rng = np.random.default_rng(0)
    shapes = [(4, 5), (5,)]
    weights, gradients = [rng.normal(size=s) for s in shapes], [rng.normal(size=(4, *s)) for s in shapes]
    found = []
    for rates in (
        [0.1, 0.3, 0.2, 0.1],
        [torch.tensor(rate, dtype=torch.float64) for rate in (0.1, 0.3, 0.2, 0.1)],
    ):
        parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
        groups = [{"params": parameters[:1]}, {"params": parameters[1:], "adapt": False}]
        run(cls(groups, 0.1, weight_decay=0.1), parameters, gradients, rates)
        found.append(parameters)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_muon_in_bfloat16_keeps_weights_in_their_dtype():
    rng = np.random.default_rng(0)
    weight, gradients = rng.normal(size=(6, 20)), rng.normal(size=(3, 6, 20))
    parameter = nn.Parameter(torch.tensor(weight))
    optimizer = Muon([parameter], 1.0, momentum=0.8, dtype=torch.bfloat16)
    run(optimizer, [parameter], [gradients], [0.1] * 3)
    expected = naive_muon(weight, gradients, [0.1] * 3, momentum=0.8, decay=0.0)
    assert parameter.dtype == torch.float64
    moved = np.linalg.norm(expected - weight)
    assert 0 < np.linalg.norm(parameter.detach().numpy() - expected) < 0.03 * moved
    (state,) = optimizer.state_dict()["state"].values()
    assert state["momentum_buffer"].dtype == torch.float64


def test_muon_moves_all_directions_about_equally():
    gradient = np.random.default_rng(0).normal(size=(12, 12))
    parameter = nn.Parameter(torch.zeros(12, 12, dtype=torch.float64))
    run(Muon([parameter], 1.0), [parameter], [gradient[None]], [1.0])
    before = np.linalg.svd(gradient, compute_uv=False)
    after = np.linalg.svd(parameter.detach().numpy(), compute_uv=False)
    assert after[0] / after[-3] < 0.3 * before[0] / before[-3]
    assert after[0] < 1.3


def test_muon_trains_vectors_by_adam():
    rng = np.random.default_rng(0)
    weight, gradients = rng.normal(size=6), rng.normal(size=(4, 6))
    ours, adams = (nn.Parameter(torch.tensor(weight)) for _ in range(2))
    run(Muon([{"params": [ours], "adapt": False}], 0.5), [ours], [gradients], [0.5] * 4)
    run(torch.optim.Adam([adams], 0.05, betas=(0.9, 0.95)), [adams], [gradients], [0.05] * 4)
    torch.testing.assert_close(ours, adams, rtol=1e-9, atol=1e-9)


def test_muon_state_round_trips():
    rng = np.random.default_rng(0)
    shapes = [(4, 5), (5,)]
    weights, gradients = [rng.normal(size=s) for s in shapes], [rng.normal(size=(6, *s)) for s in shapes]

    def build():
        parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
        groups = [{"params": parameters[:1]}, {"params": parameters[1:], "adapt": False}]
        return parameters, Muon(groups, 0.1)

    parameters, optimizer = build()
    run(optimizer, parameters, gradients, [0.1] * 6)
    others, first = build()
    run(first, others, [g[:3] for g in gradients], [0.1] * 3)
    second = Muon([{"params": others[:1]}, {"params": others[1:], "adapt": False}], 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, others, [g[3:] for g in gradients], [0.1] * 3)
    for one, other in zip(parameters, others, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("params", [{"lr": -1}, {"momentum": 1}, {"weight_decay": math.inf}])
def test_muon_refuses_numbers_out_of_range(params):
    with pytest.raises(ValueError, match=f"^{next(iter(params))}="):
        Muon([nn.Parameter(torch.zeros(2, 2))], **{"lr": 0.1, **params})


@pytest.mark.parametrize("name", ["lars", "muon"])
def test_a_step_whose_scaled_gradients_overflow_changes_nothing(name):
    def trained(overflows, scaled):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = make_optimizer(name, layer, lr=0.1, weight_decay=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
        for k in range(4):
            optimizer.zero_grad()
            loss = (layer(torch.full((1, 3), k + 1.0)) ** 2).sum()
            scaler.scale(loss).backward()
            if overflows(k):
                layer.weight.grad[0, 0] = math.inf
            if scaled or not overflows(k):
                scaler.step(optimizer)
            scaler.update()
        known = [value for state in optimizer.state.values() for value in state.values()]
        return [*layer.parameters(), *known]

    def some(k):
        return k in (0, 2)

    for found, expected in zip(trained(some, True), trained(some, False), strict=True):
        torch.testing.assert_close(found, expected)
