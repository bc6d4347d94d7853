"""The projection head: which layers it has, what they compute, and where it can be tapped."""

import pytest
import torch
from torch import nn

from sklearn_simclr.encoders.heads import ProjectionHead


def rows(n=6, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def naive_head(head, h):
    """Return the output of every layer in training mode, from the weights, in float64."""
    outputs = [h.double()]
    for k, layer in enumerate(head.layers):
        x = outputs[-1] @ layer[0].weight.double().T
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * layer[1].weight.double()
        if k < len(head.layers) - 1:
            x = (x + layer[1].bias.double()).clamp_min(0)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_every_layer_is_that_of_the_paper(n_layers):
    head = ProjectionHead(8, 4, n_layers, hidden_dim=5)
    for name, parameter in head.named_parameters():
        nn.init.uniform_(parameter, 0.5, 1.5) if ".1." in name else nn.init.normal_(parameter)
    h = rows()
    expected = naive_head(head, h)
    assert len(expected) == n_layers + 1
    for k, output in enumerate(expected):
        found = head(h, n_layers=k)
        torch.testing.assert_close(found.double(), output, rtol=1e-4, atol=1e-5)
        assert found.shape[1] == head.layer_dim(k)
    assert torch.equal(head(h), head(h, n_layers=n_layers))


def test_hidden_layers_have_a_shift_and_the_last_has_none():
    assert list(ProjectionHead(8, 4, 2).state_dict()) == [
        "layers.0.0.weight",
        "layers.0.1.weight",
        "layers.0.1.bias",
        "layers.0.1.running_mean",
        "layers.0.1.running_var",
        "layers.0.1.num_batches_tracked",
        "layers.1.0.weight",
        "layers.1.1.weight",
        "layers.1.1.running_mean",
        "layers.1.1.running_var",
        "layers.1.1.num_batches_tracked",
    ]


def test_only_the_first_numbers_may_be_read():
    head = ProjectionHead(8, 4, 2, read_dim=3).eval()
    assert [head.layer_dim(k) for k in range(3)] == [8, 3, 4] and (head.in_dim, head.read_dim) == (8, 3)
    narrow = ProjectionHead(3, 4, 2).eval()
    narrow.load_state_dict(head.state_dict())
    h = rows()
    for k in (1, 2):
        assert torch.equal(head(h, n_layers=k), narrow(h[:, :3], n_layers=k))
    assert torch.equal(head(h, n_layers=0), h)
    h.requires_grad_()
    head(h).square().sum().backward()
    assert h.grad[:, :3].any(dim=0).all() and not h.grad[:, 3:].any()
    assert torch.equal(ProjectionHead(8, n_layers=0, read_dim=3)(rows()), rows())
    with pytest.raises(ValueError, match="read_dim=9 is more than in_dim=8"):
        ProjectionHead(8, read_dim=9)


def test_hidden_width_is_that_of_the_representation_unless_given():
    assert [ProjectionHead(8, 4, 3).layer_dim(k) for k in range(4)] == [8, 8, 8, 4]
    assert [ProjectionHead(8, 4, 3, hidden_dim=6).layer_dim(k) for k in range(4)] == [8, 6, 6, 4]
    assert [ProjectionHead(8, 4, 1, hidden_dim=6).layer_dim(k) for k in range(2)] == [8, 4]


def test_no_layers_is_the_identity():
    head = ProjectionHead(8, n_layers=0)
    h = rows()
    assert head(h) is h
    assert head.out_dim == head.layer_dim(0) == 8
    assert not list(head.parameters())


def test_state_round_trips_and_evaluation_uses_running_statistics():
    head = ProjectionHead(8, 4, 3)
    for seed in range(3):
        head(rows(seed=seed))
    head.eval()
    other = ProjectionHead(8, 4, 3).eval()
    other.load_state_dict(head.state_dict())
    h = rows(seed=9)
    assert torch.equal(head(h), other(h))
    assert torch.equal(head(h)[:2], head(h[:2]))


def test_running_statistics_decay_by_nine_tenths():
    head = ProjectionHead(3, 2, 1)
    h = rows(d=3)
    x = h @ head.layers[0][0].weight.T
    head(h)
    norm = head.layers[0][1]
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var(0))


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_a_lone_row_in_training_mode_uses_running_statistics(n_layers):
    head = ProjectionHead(8, 4, n_layers)
    head(rows())
    before = {name: value.clone() for name, value in head.state_dict().items()}
    h = rows(1, seed=1).requires_grad_()
    z = head(h)
    z.sum().backward()
    assert torch.isfinite(h.grad).all()
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert torch.equal(z, head.eval()(h))


def test_gradients_reach_every_parameter():
    head = ProjectionHead(8, 4, 3)
    head(rows()).square().mul(torch.arange(4)).mean(1).sin().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_synchronised_batchnorm_can_take_its_place():
    head = ProjectionHead(8, 4, 2)
    h = rows()
    head(h)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    assert list(synchronised.state_dict()) == list(head.state_dict())
    assert torch.equal(synchronised.eval()(h), head.eval()(h))


@pytest.mark.parametrize("k", [-1, 3, 1.5, True, "z"])
def test_a_layer_that_is_not_there_is_refused(k):
    head = ProjectionHead(8, 4, 2)
    for call in (lambda: head(rows(), n_layers=k), lambda: head.layer_dim(k)):
        with pytest.raises(ValueError, match=r"layer .* does not exist; .* 0 \(h\) to 2 \(z\)"):
            call()


@pytest.mark.parametrize(
    "name, value", [("in_dim", 0), ("out_dim", 0), ("n_layers", -1), ("hidden_dim", 0), ("read_dim", 0)]
)
def test_widths_out_of_range_are_refused(name, value):
    arguments = {"in_dim": 8, "out_dim": 4, "n_layers": 2, "hidden_dim": 5, "read_dim": 3}
    with pytest.raises(ValueError, match=f"{name}={value} is out of range; pass an int >="):
        ProjectionHead(**(arguments | {name: value}))
    with pytest.raises(TypeError, match=f"{name} must be an int, got 2.5"):
        ProjectionHead(**(arguments | {name: 2.5}))
