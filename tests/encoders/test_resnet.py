"""ResNet against torchvision, the papers' parameter counts and a naive float64 reference."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from sklearn_simclr.encoders.resnet import ResNet

DEPTHS = (18, 34, 50, 101, 152)


def on_meta(*args, **kwargs):
    with torch.device("meta"):
        return ResNet(*args, **kwargs)


def torchvision_resnet(depth):
    return getattr(torchvision.models, f"resnet{depth}")(weights=None)


def scramble(module, seed=0):
    """Random gains, shifts and running statistics, so that no BatchNorm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            with torch.no_grad():
                for tensor in (part.weight, part.bias, part.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator).mul(0.3).add(0.4))
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    return module


@functools.cache
def built_once(depth):
    torch.manual_seed(0)
    return scramble(ResNet(depth, sk_ratio=1 / 16))


def resnet_sk(depth):
    return copy.deepcopy(built_once(depth))


@pytest.mark.parametrize("depth", DEPTHS)
def test_state_dict_is_that_of_torchvision_without_fc(depth):
    with torch.device("meta"):
        theirs = torchvision_resnet(depth).state_dict()
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    ours = on_meta(depth)
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    assert ours.out_dim == theirs["fc.weight"].shape[1]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("depth", [18, 50])
def test_output_and_gradient_equal_torchvision(depth, training):
    torch.manual_seed(0)
    theirs = scramble(torchvision_resnet(depth)).train(training)
    ours = ResNet(depth).train(training)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    theirs.fc = nn.Identity()
    images = torch.randn(3, 3, 43, 70)
    inputs = [images.clone().requires_grad_(), images.clone().requires_grad_()]
    outputs = [net(x) for net, x in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)


# V1 section 4.2 and V2 table 1, in millions, "up to final average pooling layer".
@pytest.mark.parametrize(
    "depth, width, sk_ratio, millions",
    [
        (50, 1, 0, 24),
        (50, 1, 1 / 16, 35),
        (50, 2, 0, 94),
        (50, 2, 1 / 16, 140),
        (50, 4, 0, 375),
        (101, 1, 0, 43),
        (101, 1, 1 / 16, 65),
        (101, 2, 0, 170),
        (101, 2, 1 / 16, 257),
        (152, 1, 0, 58),
        (152, 1, 1 / 16, 89),
        (152, 2, 0, 233),
        (152, 2, 1 / 16, 354),
        (152, 3, 1 / 16, 795),
    ],
)
def test_parameter_counts_of_the_papers(depth, width, sk_ratio, millions):
    net = on_meta(depth, width=width, sk_ratio=sk_ratio)
    trained = sum(parameter.numel() for parameter in net.parameters())
    statistics = sum(buffer.numel() for buffer in net.buffers() if buffer.ndim)
    # The table of V2 counts the running statistics, V1 does not.
    assert millions in {round(trained / 1e6), round((trained + statistics) / 1e6)}
    assert net.out_dim == 2048 * width


@pytest.mark.parametrize("width", [2, 3])
def test_width_multiplies_every_channel(width):
    narrow, wide = on_meta(50).state_dict(), on_meta(50, width=width).state_dict()
    assert narrow.keys() == wide.keys()
    for key, value in narrow.items():
        grows = [
            n if key == "conv1.weight" and axis == 1 else n * width for axis, n in enumerate(value.shape)
        ]
        assert list(wide[key].shape) == grows[:2] + list(value.shape[2:])


def test_stride_of_a_bottleneck_is_in_its_3x3():
    net = on_meta(50)
    for stage in (net.layer2, net.layer3, net.layer4):
        assert [conv.stride[0] for conv in (stage[0].conv1, stage[0].conv2, stage[0].conv3)] == [1, 2, 1]


def test_batch_norms_have_the_constants_of_the_authors():
    norms = [part for part in on_meta(50, sk_ratio=1 / 16).modules() if isinstance(part, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


@pytest.mark.parametrize("depth, last, blocks", [(18, "bn2", 8), (50, "bn3", 16)])
@pytest.mark.parametrize("sk_ratio", [0, 1 / 16])
def test_zero_init_residual(depth, last, blocks, sk_ratio):
    net = ResNet(depth, sk_ratio=sk_ratio)
    silent = [
        name
        for name, part in net.named_modules()
        if isinstance(part, nn.BatchNorm2d) and not part.weight.any()
    ]
    assert len(silent) == blocks
    assert all(name.startswith("layer") and name.endswith(f".{last}") for name in silent)
    kept = ResNet(18, sk_ratio=sk_ratio, zero_init_residual=False)
    assert all(part.weight.all() for part in kept.modules() if isinstance(part, nn.BatchNorm2d))


def test_weights_are_truncated_normal_of_variance_one_over_fan_in():
    torch.manual_seed(0)
    for conv in ResNet(50, sk_ratio=1 / 16).modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 30_000:
            fan_in = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
            scaled = conv.weight.detach().double() * math.sqrt(fan_in)
            assert abs(scaled.std().item() - 1) < 0.02
            assert abs(scaled.mean().item()) < 0.02
            # Two standard deviations of the normal that was cut.
            assert 2.0 < scaled.abs().max() <= 2 / 0.87962 + 1e-4


def test_weights_follow_the_global_seed():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(ResNet(18).conv1.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# --- an independent reference: NHWC, HWIO, loops over the kernel, TensorFlow's padding rules ---


def naive_conv(x, kernel, stride):
    """As the authors: SAME at stride 1; at stride > 1 zeros, (k - 1) // 2 before and the rest after."""
    k = kernel.shape[0]
    before, after = (k - 1) // 2, k - 1 - (k - 1) // 2
    x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    rows = range(0, x.shape[1] - k + 1, stride)
    columns = range(0, x.shape[2] - k + 1, stride)
    out = np.zeros((x.shape[0], len(rows), len(columns), kernel.shape[3]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            out[:, i, j] = np.tensordot(x[:, row : row + k, column : column + k], kernel, 3)
    return out


def naive_norm(x, norm, training):
    mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
    if training:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def naive_average_pool(x, stride):
    """2x2: at stride 2 after zeros right and below, which count; at stride 1 SAME, where padding does not."""
    n, height, width, channels = x.shape
    out = np.zeros((n, math.ceil(height / stride), math.ceil(width / stride), channels))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            window = x[:, i * stride : i * stride + 2, j * stride : j * stride + 2]
            out[:, i, j] = window.mean((1, 2)) if stride == 1 else window.sum((1, 2)) / 4
    return out


def hwio(conv):
    return conv.weight.detach().numpy().transpose(2, 3, 1, 0)


def naive_selective_kernel(x, part, stride, training):
    streams = np.maximum(naive_norm(naive_conv(x, hwio(part.conv), stride), part.bn, training), 0)
    streams = np.stack(np.split(streams, 2, axis=3))
    context = streams.sum(0).mean((1, 2), keepdims=True)
    context = naive_norm(naive_conv(context, hwio(part.reduce), 1), part.bn_reduce, training)
    logits = np.stack(np.split(naive_conv(np.maximum(context, 0), hwio(part.expand), 1), 2, axis=3))
    mixing = np.exp(logits) / np.exp(logits).sum(0)
    return (streams * mixing).sum(0)


def naive_shortcut(x, block, stride, training):
    if block.downsample is None:
        return x
    pooled = naive_average_pool(x, stride)
    return naive_norm(naive_conv(pooled, hwio(block.downsample[1]), 1), block.downsample[2], training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 3)])
@pytest.mark.parametrize("layer, index, stride", [("layer1", 0, 1), ("layer2", 0, 2), ("layer1", 1, 1)])
def test_bottleneck_with_selective_kernels_equals_naive_reference(layer, index, stride, size, training):
    block = getattr(resnet_sk(50), layer)[index].double().train(training)
    maps = torch.randn(3, block.conv1.in_channels, *size, dtype=torch.float64)

    x = maps.numpy().transpose(0, 2, 3, 1)
    residual = np.maximum(naive_norm(naive_conv(x, hwio(block.conv1), 1), block.bn1, training), 0)
    residual = naive_selective_kernel(residual, block.conv2, stride, training)
    residual = naive_norm(naive_conv(residual, hwio(block.conv3), 1), block.bn3, training)
    expected = np.maximum(residual + naive_shortcut(x, block, stride, training), 0)

    found = block(maps).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layer, stride", [("layer1", 1), ("layer2", 2)])
def test_basic_block_with_selective_kernels_equals_naive_reference(layer, stride):
    block = getattr(resnet_sk(18), layer)[0].double().eval()
    maps = torch.randn(2, 64, 5, 6, dtype=torch.float64)

    x = maps.numpy().transpose(0, 2, 3, 1)
    residual = naive_selective_kernel(x, block.conv1, stride, False)
    residual = naive_norm(naive_conv(residual, hwio(block.conv2), 1), block.bn2, False)
    expected = np.maximum(residual + naive_shortcut(x, block, stride, False), 0)

    found = block(maps).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_selective_kernel_passes_gradcheck():
    part = resnet_sk(18).layer1[0].conv1.double().eval()
    maps = torch.randn(1, 64, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(part, (maps,))


@pytest.mark.parametrize(
    "sk_ratio, widths", [(1 / 16, [32, 32, 32, 32]), (1 / 4, [32, 32, 64, 128]), (1, [64, 128, 256, 512])]
)
def test_mixing_layer_has_a_least_width(sk_ratio, widths):
    net = on_meta(50, sk_ratio=sk_ratio)
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    assert [stage[-1].conv2.reduce.out_channels for stage in stages] == widths


def test_every_stage_with_selective_kernels_begins_with_a_convolved_shortcut():
    for depth in (18, 50):
        net = on_meta(depth, sk_ratio=1 / 16)
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            assert [block.downsample is not None for block in stage] == [True] + [False] * (len(stage) - 1)


# --- the stem ---


@pytest.mark.parametrize(
    "stem, sk_ratio, kernels",
    [
        ("imagenet", 0, [(7, 2, 64)]),
        ("medium", 0, [(3, 1, 64)]),
        ("small", 0, [(3, 1, 64)]),
        ("imagenet", 1 / 16, [(3, 2, 32), (3, 1, 32), (3, 1, 64)]),
        ("medium", 1 / 16, [(3, 1, 32), (3, 1, 32), (3, 1, 64)]),
        ("small", 1 / 16, [(3, 1, 64)]),
    ],
)
def test_stem_convolutions(stem, sk_ratio, kernels):
    convs = [
        part for part in on_meta(50, stem=stem, sk_ratio=sk_ratio).conv1.modules() if hasattr(part, "stride")
    ]
    assert [(conv.kernel_size[0], conv.stride[0], conv.out_channels) for conv in convs] == kernels


@pytest.mark.parametrize(
    "stem, sides", [("imagenet", [8, 4, 2, 1]), ("medium", [16, 8, 4, 2]), ("small", [32, 16, 8, 4])]
)
@pytest.mark.parametrize("sk_ratio", [0, 1 / 16])
def test_stem_decides_the_size_of_the_maps(stem, sides, sk_ratio):
    net = on_meta(18, stem=stem, sk_ratio=sk_ratio)
    found = []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        stage.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[2:])))
    net(torch.zeros(2, 3, 32, 32, device="meta"))
    assert found == [(side, side) for side in sides]


@pytest.mark.parametrize("stem", ["medium", "small"])
def test_only_the_first_convolution_differs_between_stems(stem):
    imagenet, other = on_meta(18).state_dict(), on_meta(18, stem=stem).state_dict()
    assert imagenet.keys() == other.keys()
    assert [key for key in imagenet if imagenet[key].shape != other[key].shape] == ["conv1.weight"]


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (6, 7), (1, 1), (2, 3)])
def test_same_max_pool_pads_as_tensorflow(size):
    torch.manual_seed(0)
    maps = torch.rand(2, 3, *size)
    found = ResNet(18, pool_padding="same").maxpool(maps)
    starts = []
    for side in size:
        n_out = math.ceil(side / 2)
        total = max((n_out - 1) * 2 + 3 - side, 0)
        starts.append([2 * i - total // 2 for i in range(n_out)])
    for i, row in enumerate(starts[0]):
        for j, column in enumerate(starts[1]):
            window = maps[:, :, max(row, 0) : row + 3, max(column, 0) : column + 3]
            assert torch.equal(found[:, :, i, j], window.amax((2, 3)))
    assert found.shape[2:] == (len(starts[0]), len(starts[1]))


def test_pool_padding_matters_for_even_sides_only():
    torch.manual_seed(0)
    symmetric, same = (ResNet(18, pool_padding=name).maxpool for name in ("symmetric", "same"))
    odd, even = torch.rand(1, 2, 7, 9), torch.rand(1, 2, 8, 8)
    assert torch.equal(symmetric(odd), same(odd))
    assert not torch.equal(symmetric(even), same(even))


# --- any image ---


@pytest.mark.parametrize("stem", ["imagenet", "medium", "small"])
@pytest.mark.parametrize("sk_ratio", [0, 1 / 16])
def test_small_images(stem, sk_ratio):
    torch.manual_seed(0)
    net = ResNet(18, stem=stem, sk_ratio=sk_ratio, in_channels=2, pool_padding="same")
    for size in [(8, 8), (1, 5), (1, 1), (3, 2), (33, 17)]:
        net.zero_grad()
        features = net(torch.randn(4, 2, *size))
        assert features.shape == (4, 512)
        assert features.isfinite().all()
        features.sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("in_channels", [1, 4, 13])
def test_any_number_of_channels(in_channels):
    net = on_meta(50, in_channels=in_channels)
    assert net(torch.zeros(2, in_channels, 64, 64, device="meta")).shape == (2, 2048)


@pytest.mark.parametrize("sk_ratio", [0, 1 / 16])
def test_channels_last_gives_the_same_features(sk_ratio):
    torch.manual_seed(0)
    net = scramble(ResNet(18, stem="medium", sk_ratio=sk_ratio)).eval()
    images = torch.randn(2, 3, 9, 8)
    expected = net(images)
    found = net.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sk_ratio", [0, 1 / 16])
def test_runs_under_bfloat16_autocast(sk_ratio):
    net = ResNet(18, stem="medium", sk_ratio=sk_ratio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net(torch.rand(2, 3, 8, 8))
    features.float().sum().backward()
    assert features.isfinite().all()


@pytest.mark.parametrize(
    "arguments, error, parts",
    [
        ({"depth": 20}, ValueError, ["depth", "18, 34, 50, 101, 152", "20"]),
        ({"depth": 18, "width": 0}, ValueError, ["width", "at least 1", "0"]),
        ({"depth": 18, "width": 1.5}, TypeError, ["width", "1.5", "float"]),
        ({"depth": 18, "in_channels": 0}, ValueError, ["in_channels", "at least 1"]),
        ({"depth": 18, "in_channels": True}, TypeError, ["in_channels", "bool"]),
        ({"depth": 18, "stem": "cifar"}, ValueError, ["stem", "'small'", "'cifar'"]),
        ({"depth": 18, "sk_ratio": 2}, ValueError, ["sk_ratio", "[0, 1]", "1/16"]),
        ({"depth": 18, "sk_ratio": float("nan")}, ValueError, ["sk_ratio", "nan"]),
        ({"depth": 18, "sk_ratio": "yes"}, TypeError, ["sk_ratio", "'yes'"]),
        ({"depth": 18, "pool_padding": "valid"}, ValueError, ["pool_padding", "'same'", "'valid'"]),
    ],
)
def test_errors_name_the_parameter_and_the_remedy(arguments, error, parts):
    with pytest.raises(error) as raised:
        ResNet(**arguments)
    assert all(part in str(raised.value) for part in parts)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("sk_ratio", [0, 1 / 16])
def test_convolve_first_adds_a_shortcut_where_only_the_authors_have_one(depth, sk_ratio):
    plain = on_meta(depth, sk_ratio=sk_ratio).state_dict()
    authors = on_meta(depth, sk_ratio=sk_ratio, convolve_first=True).state_dict()
    assert plain.keys() <= authors.keys()
    added = {key.rpartition(".")[0] for key in authors.keys() - plain.keys()}
    first = {"layer1.0.downsample.0", "layer1.0.downsample.1"}
    assert added == (first if depth < 50 and not sk_ratio else set())


@pytest.mark.parametrize(
    "parameters",
    [
        dict(depth=18, convolve_first=True, pool_padding="same"),
        dict(depth=50, width=2, in_channels=1, stem="medium", sk_ratio=0.25),
    ],
)
def test_options_rebuild_the_network(parameters):
    net = on_meta(**parameters)
    again = on_meta(**net.options)
    assert str(net) == str(again)
    assert net.options.items() >= parameters.items()
    assert again.options == net.options
