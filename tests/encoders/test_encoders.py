"""make_encoder: each kind of encoder gives a module of known width, and leaves the user's object alone."""

import copy
import functools
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_simclr import HOGTransformer
from sklearn_simclr.encoders.compact import CompactNet, _cells, _pooled
from sklearn_simclr.encoders.make import default_encoder, make_encoder
from sklearn_simclr.encoders.resnet import ResNet
from sklearn_simclr.images import ImageSource

RESNETS = [
    f"resnet{depth}{width}{kernels}"
    for depth in (18, 34, 50, 101, 152)
    for width in ("", "x2", "x3", "x4")
    for kernels in ("", "-sk")
]
RGB = {"in_channels": 3, "image_size": (32, 32)}


def small_net(in_channels=3, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Forward(nn.Module):
    """A module whose forward is the function given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


# --- names ---


@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_name_gives_features_of_the_promised_width(name):
    with torch.device("meta"):
        module, out_dim = make_encoder(name, **RGB)
        assert module(torch.zeros(2, 3, 32, 32)).shape == (2, out_dim)
    factor = int(name.removesuffix("-sk").partition("x")[2] or 1)
    assert out_dim == (512 if name.startswith(("resnet18", "resnet34")) else 2048) * factor
    assert any("reduce" in key for key in module.state_dict()) == name.endswith("-sk")


def test_selective_kernels_have_the_ratio_of_simclrv2():
    with torch.device("meta"):
        module, _ = make_encoder("resnet50x4-sk", **RGB)
    assert module.layer4[0].conv2.reduce.out_channels == 2048 // 16


@pytest.mark.parametrize("name, depth", [("resnet18", 18), ("resnet50-sk", 50)])
def test_named_weights_follow_the_global_seed(name, depth):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(make_encoder(name, **RGB)[0].conv1.weight)
    assert torch.equal(*states)


@pytest.mark.parametrize(
    "image_size, kernel, stride, pools",
    [
        ((32, 32), 3, 1, False),
        ((1, 5), 3, 1, False),
        ((33, 8), 3, 1, True),
        ((64, 64), 3, 1, True),
        ((20, 65), 7, 2, True),
        ((224, 224), 7, 2, True),
    ],
)
def test_stem_follows_the_longer_side(image_size, kernel, stride, pools):
    with torch.device("meta"):
        module, out_dim = make_encoder("resnet18", 1, image_size)
        assert module(torch.zeros(2, 1, *image_size)).shape == (2, out_dim)
    assert module.conv1.kernel_size == (kernel, kernel)
    assert module.conv1.stride == (stride, stride)
    assert isinstance(module.maxpool, nn.MaxPool2d) == pools


@pytest.mark.parametrize("image_size", [(8, 8), (96, 96), (97, 20), (20, 224), (300, 400)])
def test_auto_is_compact_for_images_of_any_size(image_size):
    module, out_dim = make_encoder("auto", 3, image_size)
    assert type(module) is CompactNet
    assert module.eval()(torch.rand(2, 3, *image_size)).shape == (2, out_dim)


@pytest.mark.parametrize(
    "device, n_views, name",
    [("cpu", 1e9, "compact"), ("meta", 1e9, "resnet18"), ("meta", 1e6, "compact")],
)
def test_a_residual_network_is_the_default_where_it_has_the_time_to_learn(device, n_views, name):
    assert default_encoder(torch.device(device), n_views) == name


@pytest.mark.parametrize("image_size, width", [((8, 8), 32), ((32, 20), 64)])
@pytest.mark.parametrize(
    "name, multiple", [("compactx0.5", 0.5), ("compactx1.5", 1.5), ("compactx2", 2), ("compactx4", 4)]
)
def test_widths_of_compact(name, multiple, image_size, width):
    module, out_dim = make_encoder(name, 3, image_size)
    assert module.convs[0].out_channels == width * multiple
    grid = 2 * 16 * width * multiple if max(image_size) > 16 else 0
    assert (module.read_dim, module.grid_dim) == (9 * width * multiple, grid)
    assert out_dim == module.read_dim + module.grid_dim + module.edge_dim
    assert module.eval()(torch.rand(2, 3, *image_size)).shape == (2, out_dim)


@pytest.mark.parametrize("image_size", [(8, 8), (1, 5), (32, 32)])
@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_compact(image_size, in_channels):
    module, out_dim = make_encoder("compact", in_channels, image_size)
    assert module.training
    assert module.eval()(torch.rand(2, in_channels, *image_size)).shape == (2, out_dim)


@pytest.mark.parametrize("side", [16, 32])
def test_compact_against_its_definition(side):
    torch.manual_seed(0)
    net, _ = make_encoder("compactx0.5", 3, (side, side))
    net.stem.bias.data.uniform_(-1, 1)
    net = net.double().train()
    images = torch.rand(
        400, 3, side, side, dtype=torch.float64
    )  # the first layer takes some of them at a time
    x = F.conv2d(images, net.stem.weight, net.stem.bias, padding=1)
    x = torch.cat([x.relu(), (-x).relu()], dim=1)
    x = F.avg_pool2d(x, 2) if side == 32 else x
    levels = []
    for conv, norm, pool in zip(net.convs, net.norms, (True, False, True, False), strict=True):
        x = F.conv2d(x, conv.weight, padding=1)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), False, keepdim=True) + norm.eps).sqrt()
        x = (x * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).relu()
        before, x = x, F.max_pool2d(x, 2) if pool else x
        levels.append(x if side == 32 else before)
    cells = 0.125 * levels[2].permute(0, 2, 3, 1).flatten(1)  # row by row, all channels of a cell together
    assert levels[2].shape[2] == (4 if side == 32 else 8)
    cells = cells if side == 32 else cells[:, :0]
    means = torch.cat([level.mean((2, 3)) for level in levels[::-1]], dim=1)
    n_cells = side // 4
    n_edges = 9 * n_cells**2
    found = net(images)
    torch.testing.assert_close(found[:, :-n_edges], torch.cat([means, cells], dim=1), rtol=1e-9, atol=1e-9)
    hog = HOGTransformer(cell_size=4).fit_transform(images.numpy())  # this has a test of its own
    hog = hog.reshape(-1, 36, n_cells - 1, n_cells - 1)[:, :, ::2, ::2].reshape(-1, n_edges)
    np.testing.assert_allclose(found[:, -n_edges:].detach(), 2 * hog, atol=1e-5)
    assert (net.read_dim, net.grid_dim, net.edge_dim) == (means.shape[1], cells.shape[1], n_edges)
    torch.testing.assert_close(net.read(images), means, rtol=1e-9, atol=1e-9)


def test_cells_of_a_grid_share_the_pixels_on_their_edges():
    # Three pixels in two cells: the middle one is half in each.
    torch.testing.assert_close(_cells(3, 2, torch.ones(1)), torch.tensor([[2.0, 1, 0], [0, 1, 2]]) / 3)
    for n in (1, 3, 4, 7, 16):
        weights = _cells(n, 4, torch.ones(1, dtype=torch.float64))
        torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(weights.sum(0), torch.full((n,), 4 / n, dtype=torch.float64))


@pytest.mark.parametrize("n, pool, n_out", [(12, 1.0, 12), (12, 3.0, 4), (30, 2.5, 12), (7, 2.25, 3)])
def test_pooling_by_parts_of_pixels(n, pool, n_out):
    x = torch.rand(2, 3, n, n, dtype=torch.float64)
    fine = x.repeat_interleave(n_out, 2).repeat_interleave(n_out, 3)  # every cell is a whole number of these
    expected = F.avg_pool2d(fine, n)
    torch.testing.assert_close(_pooled(x, pool), expected)


def test_the_end_of_the_compact_representation_tells_where_things_are():
    net, n = make_encoder("compact", 1, (32, 32))
    middle, corner = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    middle[:, :, 12:20, 12:20] = corner[:, :, 4:12, 4:12] = torch.rand(8, 8)
    net.initialize_from_images(
        ImageSource(torch.rand(10, 1, 32, 32), (0, 1)), torch.Generator().manual_seed(0)
    )
    for norm in net.norms:
        nn.init.constant_(norm.bias, 0.1)
    with torch.no_grad():
        h = net.eval()(torch.cat([middle[:1], corner[:1]]))
    differences = (h[0] - h[1]).norm(), (h[0] - h[1])[: net.read_dim].norm()
    assert differences[0] > 1.5 * differences[1] > 0


@pytest.mark.parametrize("image_size, shrunk", [((224, 224), (64, 64)), ((288, 384), (55, 74))])
def test_compact_shrinks_large_images(image_size, shrunk):
    torch.manual_seed(0)
    net, _ = make_encoder("compact", 3, image_size)
    images = torch.rand(2, 3, *image_size)
    small = F.interpolate(images, shrunk, mode="bilinear", antialias=True)
    torch.testing.assert_close(net.eval()(images), net(small))
    assert net.stem_pool == 4


def test_compact_works_on_images_that_are_larger_than_the_views_by_a_third():
    net, _ = make_encoder("compact", 3, (224, 224), view_size=(96, 96))
    assert (net.side, net.stem_pool, net.traits.largest_view) == (128, 8, 96)
    small, _ = make_encoder("compact", 3, (32, 32), view_size=(32, 32))
    assert small.stem_pool == make_encoder("compact", 3, (32, 32))[0].stem_pool == 2


def test_numpy_strings_and_numbers_are_understood():
    with torch.device("meta"):
        module, out_dim = make_encoder(np.str_("resnet18"), np.int64(4), np.array([16, 16]))
    assert (module.conv1.in_channels, out_dim) == (4, 512)


@pytest.mark.parametrize(
    "name, closest",
    [
        ("resnet5", "'resnet50'"),
        ("ResNet50", "'resnet50'"),
        ("resnet_18", "'resnet18'"),
        ("resnet50x5", "'resnet50x"),
        ("resnet50x2sk", "'resnet50x2-sk'"),
        ("compakt", "'compact'"),
        ("compactx3", "'compactx"),
        ("Auto", "'auto'"),
    ],
)
def test_unknown_name_is_answered_with_the_closest(name, closest):
    with pytest.raises(ValueError) as raised:
        make_encoder(name, **RGB)
    message = str(raised.value)
    assert f"encoder={name!r}" in message
    assert "Did you mean" in message and closest in message
    for form in ('"auto"', '"compact"', '"-sk"', '"timm:NAME"', "torch.nn.Module"):
        assert form in message


@pytest.mark.parametrize("name", ["", "qqqq", "resnet18 ", "xresnet18\n"])
def test_a_name_must_match_whole(name):
    with pytest.raises(ValueError, match="is not a known name"):
        make_encoder(name, **RGB)


# --- timm ---


@pytest.mark.parametrize("in_channels", [1, 3])
def test_timm(in_channels, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the network is not for this")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    module, out_dim = make_encoder("timm:test_resnet", in_channels, (32, 24))
    assert module.training
    assert module(torch.rand(2, in_channels, 32, 24)).shape == (2, out_dim)


def test_timm_width_is_what_comes_out_not_what_is_declared():
    with torch.device("meta"):
        module, out_dim = make_encoder("timm:mobilenetv3_small_050", **RGB)
    assert out_dim == 1024 != module.num_features


def test_timm_transformer_is_built_for_the_size_of_the_images():
    # 224 pixels by its name, and strict about it.
    with torch.device("meta"):
        module, out_dim = make_encoder("timm:vit_tiny_patch16_224", 3, (32, 48))
    assert out_dim == 192
    assert module.patch_embed.num_patches == 6


@pytest.mark.parametrize(
    "name, parts",
    [
        ("timm:resnet10tt", ["'resnet10tt'", "Did you mean", "'timm:resnet10t'"]),
        ("timm:", ["has no network ''", "timm.list_models()"]),
        ("timm:hf-hub:someone/something", ["has no network"]),
        ("timm:resnet18.nosuchtag", ["could not build", "nosuchtag"]),
    ],
)
def test_unknown_timm_names(name, parts):
    with pytest.raises(ValueError) as raised:
        make_encoder(name, **RGB)
    assert all(part in str(raised.value) for part in ["encoder=", *parts])


def test_timm_network_that_does_not_fit_the_images():
    with pytest.raises(ValueError, match="encoder") as raised:
        make_encoder("timm:test_vit", 3, (5, 5))
    assert raised.value.__cause__ is not None


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError) as raised:
        make_encoder("timm:resnet18", **RGB)
    assert 'pip install "sklearn-simclr[timm]"' in str(raised.value)
    assert "timm:resnet18" in str(raised.value)


# --- modules ---


def test_module_is_copied_with_its_weights():
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    module, out_dim = make_encoder(net, **RGB)
    assert out_dim == 4
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    module(torch.rand(4, 3, 8, 8))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_frozen_parameters_stay_frozen():
    net = small_net()
    net[0].weight.requires_grad_(False)
    module, _ = make_encoder(net, **RGB)
    assert [parameter.requires_grad for parameter in module.parameters()] == [False, True, True, True]


class Counting(nn.Module):
    """Moves its buffers at each forward, one in place and one by assignment, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.ones(1))

    def forward(self, images):
        self.calls += 1
        self.last = images.mean().reshape(1)
        return images


@pytest.mark.parametrize("source", ["module", "factory"])
def test_the_trial_leaves_flags_and_buffers(source):
    net = nn.Sequential(Counting(), small_net())
    net[1][1].eval()
    flags = [part.training for part in net.modules()]
    assert set(flags) == {True, False}
    before = copy.deepcopy(net.state_dict())
    module, _ = make_encoder(net if source == "module" else lambda: net, **RGB)
    for each in (net, module):
        assert [part.training for part in each.modules()] == flags
        torch.testing.assert_close(each.state_dict(), before, rtol=0, atol=0)


def test_the_trial_moves_no_batch_norm_that_ignores_eval():
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    module, _ = make_encoder(nn.Sequential(Stubborn(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), **RGB)
    assert module[0].training
    assert module[0].num_batches_tracked == 0
    assert torch.equal(module[0].running_var, torch.ones(3))


@pytest.mark.parametrize("fails", [False, True])
def test_the_trial_leaves_the_random_generator_and_the_gradient_mode(fails):
    def noisy(images):
        features = nn.functional.dropout(images, 0.5, training=True).flatten(1)
        assert not torch.is_grad_enabled()
        if fails:
            raise RuntimeError("as told")
        return features

    before = torch.get_rng_state()
    if fails:
        with pytest.raises(ValueError, match="as told"):
            make_encoder(Forward(noisy), **RGB)
    else:
        make_encoder(Forward(noisy), **RGB)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_the_trial_passes_two_black_float32_images():
    seen = []
    make_encoder(Forward(lambda images: seen.append(images.clone()) or images.flatten(1)), 5, (2, 7))
    (images,) = seen
    assert torch.equal(images, torch.zeros(2, 5, 2, 7))
    assert images.dtype == torch.float32


@pytest.mark.parametrize("source", ["module", "factory"])
def test_lazy_layers_get_their_shapes(source):
    def build():
        # torch itself cannot copy a lazy BatchNorm, a factory needs no copy.
        norm = nn.LazyBatchNorm2d() if source == "factory" else nn.BatchNorm2d(6)
        return nn.Sequential(nn.LazyConv2d(6, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    net = build()
    module, out_dim = make_encoder(net if source == "module" else build, 7, (8, 8))
    assert out_dim == 6
    assert module[0].weight.shape == (6, 7, 3, 3)
    assert module.training and module[1].training
    assert module[0].weight.requires_grad
    assert module[1].num_batches_tracked == 0
    assert type(net[0]) is nn.LazyConv2d
    assert module(torch.rand(3, 7, 8, 8)).shape == (3, 6)


def test_module_that_cannot_be_copied():
    net = small_net()
    net.cache = net[0].weight * 2
    with pytest.raises(ValueError, match="encoder .* pass a function that builds it") as raised:
        make_encoder(net, **RGB)
    assert raised.value.__cause__ is not None


@pytest.mark.gpu
def test_module_on_a_gpu_is_tried_there():
    net = small_net().cuda()
    before = torch.cuda.get_rng_state()
    module, out_dim = make_encoder(net, **RGB)
    assert out_dim == 4
    assert next(module.parameters()).is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), before)


# --- what a module may give ---


@pytest.mark.parametrize(
    "function, found",
    [
        (lambda images: images, "shape (2, 3, 32, 32)"),
        (lambda images: images.mean((1, 2, 3)), "shape (2,)"),
        (lambda images: images.mean((2, 3), keepdim=True), "shape (2, 3, 1, 1)"),
        (lambda images: images.reshape(-1, 32), "shape (192, 32)"),
        (lambda images: images.flatten(1)[:, :0], "shape (2, 0)"),
        (lambda images: (images.flatten(1), images), "type tuple"),
        (lambda images: {"features": images.flatten(1)}, "type dict"),
        (lambda images: images.flatten(1).long(), "torch.int64"),
        (lambda images: None, "type NoneType"),
    ],
)
def test_output_must_be_a_row_of_features_for_each_image(function, found):
    with pytest.raises(ValueError) as raised:
        make_encoder(Forward(function), **RGB)
    message = str(raised.value)
    for part in (
        "encoder",
        "(n_images, n_features)",
        "(2, 3, 32, 32)",
        found,
        "AdaptiveAvgPool2d",
        "Flatten",
    ):
        assert part in message


@pytest.mark.parametrize("encoder", [small_net(1), lambda: small_net(1)], ids=["module", "factory"])
def test_errors_inside_the_module_are_explained_and_chained(encoder):
    with pytest.raises(ValueError) as raised:
        make_encoder(encoder, **RGB)
    message = str(raised.value)
    assert "encoder" in message and "Sequential" in message and "(2, 3, 32, 32)" in message
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert str(raised.value.__cause__) in message


def test_interrupts_pass_through():
    def interrupt(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_encoder(Forward(interrupt), **RGB)


# --- factories ---


def factory_of(signature):
    """A function of that signature which notes its calls, and the list of them."""
    calls = []
    space = {"calls": calls, "small_net": small_net}
    exec(f"def factory({signature}):\n    calls.append(locals().copy())\n    return small_net()", space)
    return space["factory"], calls


@pytest.mark.parametrize(
    "signature, expected",
    [
        ("", {}),
        ("width=4", {"width": 4}),
        ("in_channels", {"in_channels": 3}),
        ("in_channels=1", {"in_channels": 3}),
        ("*, in_channels", {"in_channels": 3}),
        ("*, image_size, in_channels", {"image_size": (32, 32), "in_channels": 3}),
        ("*args, **kwargs", {"args": (), "kwargs": {}}),
    ],
)
def test_factory_is_called_once_with_what_its_signature_names(signature, expected):
    factory, calls = factory_of(signature)
    module, out_dim = make_encoder(factory, **RGB)
    assert calls == [expected]
    assert out_dim == 4 and isinstance(module, nn.Module)


@pytest.mark.parametrize(
    "signature, missing",
    [("channels", "channels"), ("in_channels, a, b=1, *, c", "a, c"), ("in_channels, /", "in_")],
)
def test_factory_that_needs_more_is_refused_uncalled(signature, missing):
    factory, calls = factory_of(signature)
    with pytest.raises(TypeError, match=f"encoder .*'factory', which needs {missing}.*functools.partial"):
        make_encoder(factory, **RGB)
    assert calls == []


def test_classes_and_partials_are_factories():
    module, out_dim = make_encoder(CompactNet, **RGB)
    assert type(module) is CompactNet and out_dim == module.out_dim
    module, out_dim = make_encoder(functools.partial(ResNet, 18, stem="small"), 2, (8, 8))
    assert module.conv1.in_channels == 2 and out_dim == 512
    module, out_dim = make_encoder(nn.Flatten, 2, (8, 8))
    assert out_dim == 2 * 8 * 8


@pytest.mark.parametrize("returned", [None, 3, "resnet18", small_net])
def test_factory_must_return_a_module(returned):
    with pytest.raises(TypeError) as raised:
        make_encoder(lambda: returned, **RGB)
    message = str(raised.value)
    assert "encoder" in message and "torch.nn.Module" in message and type(returned).__name__ in message


def test_factory_that_raises():
    def broken(in_channels):
        raise KeyError("weights")

    with pytest.raises(ValueError) as raised:
        make_encoder(broken, **RGB)
    assert "encoder" in str(raised.value) and "broken(in_channels=3)" in str(raised.value)
    assert isinstance(raised.value.__cause__, KeyError)


# --- what is none of these ---


@pytest.mark.parametrize("encoder", [None, 18, ["resnet18"], b"resnet18"])
def test_other_types(encoder):
    with pytest.raises(TypeError) as raised:
        make_encoder(encoder, **RGB)
    message = str(raised.value)
    assert "encoder" in message and repr(encoder) in message and type(encoder).__name__ in message
    assert '"resnet18|34|50|101|152"' in message


@pytest.mark.parametrize(
    "in_channels, image_size, name",
    [
        (0, (8, 8), "in_channels"),
        (3.0, (8, 8), "in_channels"),
        (3, (8,), "image_size"),
        (3, 8, "image_size"),
        (3, (0, 8), "image_size"),
        (3, (8.0, 8), "image_size"),
        (3, (8, 8, 3), "image_size"),
        (3, (8, 10**30), "image_size"),
        (3, (2**20, 2**20), "image_size"),
        (3, (True, True), "image_size"),
        (True, (8, 8), "in_channels"),
        (10**30, (8, 8), "in_channels"),
    ],
)
def test_shape_of_the_images_is_checked(in_channels, image_size, name):
    for encoder in ("compact", "resnet18"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            make_encoder(encoder, in_channels, image_size)


@pytest.mark.parametrize("view_size", [(True, 8), (8, 10**30), (0, 8), 8])
def test_the_size_of_views_is_checked(view_size):
    with pytest.raises(ValueError, match="view_size must be"):
        make_encoder("compact", 3, (8, 8), view_size)
