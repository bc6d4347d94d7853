"""Published weights against a forward pass written from TensorFlow's definitions, and damaged files.

The networks have 8 channels where the published ones have 64.
"""

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path

import bundle_writer as writer
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.transforms._presets import ImageClassification

from sklearn_simclr._utils import container
from sklearn_simclr.encoders import resnet as _resnet
from sklearn_simclr.encoders.heads import ProjectionHead
from sklearn_simclr.encoders.resnet import ResNet
from sklearn_simclr.encoders.weights._networks import detect_encoder
from sklearn_simclr.encoders.weights.pretrained import (
    Preprocessing,
    Pretrained,
    convert_checkpoint,
    load_pretrained,
    save_pretrained,
)

CHANNELS = 8
MOMENTS = ("moving_mean", "moving_variance")
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@pytest.fixture(autouse=True)
def narrow(monkeypatch, request):
    if "full_width" not in request.fixturenames:
        monkeypatch.setattr(_resnet, "BASE_CHANNELS", CHANNELS)


@pytest.fixture
def full_width():
    """Leave the channels as they are."""


class Variables:
    """Variables under the names of TensorFlow 1's layers, drawn where they do not exist; a scope counts."""

    def __init__(self, rng=None, values=None):
        self.rng, self.values = rng, {} if values is None else values
        self.counts = {}

    def name(self, scope, layer):
        count = self.counts.setdefault((scope, layer), 0)
        self.counts[scope, layer] += 1
        return f"{scope}/{layer}" + (f"_{count}" if count else "")

    def get(self, name, shape, draw):
        if name not in self.values:
            self.values[name] = draw(shape).astype("f4")
        return self.values[name].astype("f8")

    def kernel(self, name, shape):
        fan_in = np.prod(shape[:-1])
        return self.get(name, shape, lambda s: self.rng.standard_normal(s) * np.sqrt(2 / fan_in))


def same_padding(size, window, stride):
    """tf.nn, "SAME": the output has ceil(size / stride) places, the odd pixel of padding comes last."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def windows(x, window, stride):
    """Patches (n, H', W', C, window, window) of NHWC maps."""
    view = np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(1, 2))
    return view[:, ::stride, ::stride]


def conv(v, x, filters, window, stride):
    # Strided convolutions are padded as if they had no stride, and then "VALID".
    pads = [same_padding(side, window, 1) for side in x.shape[1:3]]
    kernel = v.kernel(v.name("base_model", "conv2d") + "/kernel", (window, window, x.shape[3], filters))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    return np.einsum("nhwcij,ijcf->nhwf", windows(padded, window, stride), kernel, optimize=True)


def batch_norm(v, x, relu=True, scope="base_model", center=True):
    name, width = v.name(scope, "batch_normalization"), x.shape[-1:]
    gamma = v.get(f"{name}/gamma", width, lambda s: v.rng.uniform(0.5, 1, s))
    beta = v.get(f"{name}/beta", width, lambda s: v.rng.normal(0, 0.2, s)) if center else 0.0
    mean = v.get(f"{name}/moving_mean", width, lambda s: v.rng.normal(0, 0.2, s))
    variance = v.get(f"{name}/moving_variance", width, lambda s: v.rng.uniform(0.5, 1.5, s))
    x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    return np.maximum(x, 0) if relu else x


def selective_kernel(v, x, filters, stride):
    streams = batch_norm(v, conv(v, x, 2 * filters, 3, stride))
    streams = np.stack([streams[..., :filters], streams[..., filters:]])
    context = streams.sum(0).mean((1, 2), keepdims=True)
    context = batch_norm(v, conv(v, context, max(int(filters * 0.0625), 32), 1, 1))
    mixing = conv(v, context, 2 * filters, 1, 1)
    mixing = np.exp(np.stack([mixing[..., :filters], mixing[..., filters:]]))
    return (streams * mixing / mixing.sum(0)).sum(0)


def average_pool(x, stride):
    """Of 2x2: SAME at stride 1, which does not count the padding; else zeros behind, which do count."""
    ones = np.pad(np.ones_like(x), [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=stride > 1)
    sums = windows(np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]), 2, stride).sum((4, 5))
    return sums / windows(ones, 2, stride).sum((4, 5))


def shortcut(v, x, filters, stride, sk):
    x = conv(v, average_pool(x, stride), filters, 1, 1) if sk else conv(v, x, filters, 1, stride)
    return batch_norm(v, x, relu=False)


def block(v, x, filters, stride, project, sk, basic):
    wide = filters if basic else 4 * filters
    residual = shortcut(v, x, wide, stride, sk) if project else x
    if basic:
        x = batch_norm(v, conv(v, x, filters, 3, stride))
    else:
        x = batch_norm(v, conv(v, x, filters, 1, 1))
        x = selective_kernel(v, x, filters, stride) if sk else batch_norm(v, conv(v, x, filters, 3, stride))
    x = batch_norm(v, conv(v, x, wide, 3 if basic else 1, 1), relu=False)
    return np.maximum(x + residual, 0)


def base_model(v, x, depth, width=1, sk=False, small=False):
    channels = CHANNELS * width
    if small:
        x = batch_norm(v, conv(v, x, channels, 3, 1))
    else:
        if sk:
            x = batch_norm(v, conv(v, x, channels // 2, 3, 2))
            x = batch_norm(v, conv(v, x, channels // 2, 3, 1))
            x = conv(v, x, channels, 3, 1)
        else:
            x = conv(v, x, channels, 7, 2)
        x = batch_norm(v, x)
        pads = [same_padding(side, 3, 2) for side in x.shape[1:3]]
        x = windows(np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-np.inf), 3, 2).max((4, 5))
    for stage, n_blocks in enumerate(BLOCKS[depth]):
        for i in range(n_blocks):
            stride = 2 if stage and not i else 1
            x = block(v, x, channels * 2**stage, stride, i == 0, sk, depth < 50)
    return x.mean((1, 2))


def heads(v, h, n_layers, n_classes=10, head="nl", layer=0):
    hidden = [h]
    for j in range(n_layers):
        last = j == n_layers - 1
        scope, units = f"head_contrastive/{head}_{j}", 16 if last else h.shape[1]
        z = hidden[-1] @ v.kernel(f"{scope}/dense/kernel", (h.shape[1], units))
        hidden.append(batch_norm(v, z, relu=not last, scope=scope, center=not last))
    scope = "head_supervised/linear_layer/dense"
    kernel = v.kernel(f"{scope}/kernel", (h.shape[1], n_classes))
    bias = v.get(f"{scope}/bias", (n_classes,), lambda s: v.rng.standard_normal(s))
    return hidden[-1], hidden[layer] @ kernel + bias


def checkpoint(seed=0, depth=50, n_layers=3, head="nl", size=(32, 32), layer=0, **options):
    """Variables by name, images NHWC, and what TensorFlow would make of them: h, z and logits."""
    rng = np.random.default_rng(seed)
    v = Variables(rng)
    images = rng.random((2, *size, 3)).astype("f4")
    h = base_model(v, images.astype("f8"), depth, **options)
    return v.values, images, (h, *heads(v, h, n_layers, head=head, layer=layer))


def write(path, variables, **options):
    path.parent.mkdir(exist_ok=True)
    slots = {f"{name}/Momentum": np.ones(1) for name in list(variables)[:3]}
    writer.write_bundle(path, {**variables, **slots, "global_step": np.array(7)}, **options)
    return path


def outputs(model, images):
    with torch.no_grad():
        h = model.encoder(torch.from_numpy(images).permute(0, 3, 1, 2))
        z = model.projector(h) if model.projector is not None else h
        k = model.classifier_layer
        logits = model.classifier(model.projector(h, n_layers=k) if k else h)
    return h.numpy(), z.numpy(), logits.numpy()


def assert_close(found, expected):
    for values, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, reference, rtol=0, atol=2e-5 * np.abs(reference).max())


def assert_same_weights(a, b):
    for part in ("encoder", "projector", "classifier"):
        one, other = getattr(a, part), getattr(b, part)
        assert (one is None) == (other is None)
        if one is not None:
            one, other = one.state_dict(), other.state_dict()
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A ResNet-18 with a head of two layers: path, variables, images, outputs."""
    variables, images, expected = checkpoint(depth=18, n_layers=2, small=True)
    path = write(tmp_path_factory.mktemp("plain") / "model.ckpt-7", variables)
    return path, variables, images, expected


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet50", dict(n_layers=2, size=(35, 38))),
        ("resnet50-sk", dict(sk=True, size=(37, 32))),
        ("resnet50x2", dict(width=2, n_layers=0)),
        ("resnet50-sk", dict(sk=True, small=True, size=(16, 17))),
        ("resnet18", dict(depth=18, n_layers=2, size=(40, 33))),
        ("resnet18x2", dict(depth=18, n_layers=1, head="l", width=2, small=True, size=(15, 16))),
        ("resnet101-sk", dict(depth=101, sk=True)),
    ],
)
def test_activations_are_those_of_tensorflow(tmp_path, name, options):
    variables, images, expected = checkpoint(**options)
    model = load_pretrained(write(tmp_path / "model.ckpt-7", variables))
    assert model.name == name
    assert not any(part.training for part in (model.encoder, model.classifier))
    assert model.out_dim == expected[0].shape[1]
    n_layers = options.get("n_layers", 3)
    assert (model.projector.n_layers if n_layers else model.projector) == (n_layers or None)
    assert_close(outputs(model, images), expected)
    whole = options.get("small", False)
    assert model.preprocessing == (Preprocessing(32, 1.0) if whole else Preprocessing(224, 0.875))
    assert model.preprocessing.mean is None


def test_the_classifier_of_a_network_fine_tuned_from_a_hidden_layer(tmp_path):
    variables, images, expected = checkpoint(depth=18, n_layers=3, layer=1, small=True)
    path = write(tmp_path / "m", variables)
    model = load_pretrained(path, classifier_layer=1)
    assert_close(outputs(model, images), expected)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    np.testing.assert_allclose(model.logits(batch).numpy(), expected[2], atol=1e-4)
    assert not np.allclose(outputs(load_pretrained(path), images)[2], expected[2], atol=0.1)
    for layer, reason in ((4, "projector has 3 layers"), (3, "takes 64 features, but layer 3 has 16")):
        with pytest.raises(ValueError, match=reason):
            load_pretrained(path, classifier_layer=layer)


def test_the_moving_average_is_chosen_by_ema(tmp_path):
    variables, images, expected = checkpoint(depth=18, n_layers=2, small=True)
    average, _, of_average = checkpoint(seed=1, depth=18, n_layers=2, small=True)
    v = Variables(values=average)
    h = base_model(v, images.astype("f8"), 18, small=True)
    of_average = (h, *heads(v, h, 2))
    both = {**variables, **{f"ema_model/{name}": values for name, values in average.items()}}
    path = write(tmp_path / "m", both)
    assert_close(outputs(load_pretrained(path), images), expected)
    assert_close(outputs(load_pretrained(path, ema=True), images), of_average)


def test_ema_where_there_is_no_choice(plain, tmp_path):
    path, variables, _, _ = plain
    with pytest.raises(ValueError, match="has no moving average.*ema=False"):
        load_pretrained(path, ema=True)
    only = write(tmp_path / "m", {f"ema_model/{name}": values for name, values in variables.items()})
    with pytest.raises(ValueError, match="only a moving average.*ema=True"):
        load_pretrained(only)


def object_graph(variables, depth=18):
    """The graph that TensorFlow 2 saves of the authors' model with the small stem; the renamed variables."""
    nodes, renamed = [{}], {}
    keys = {0: None}

    def node(path):
        current = 0
        for part in path:
            children = nodes[current]
            if part not in children:
                children[part] = len(nodes)
                nodes.append({})
            current = children[part]
        return current

    v = Variables(values=variables)

    def add(path, layer, scope="base_model", kinds=("gamma", "beta", *MOMENTS)):
        name = v.name(scope, layer)
        for kind in ("kernel",) if layer == "conv2d" else kinds:
            leaf(path, kind, f"{name}/{kind}")

    def leaf(path, kind, name):
        number = node([*path, kind])
        # As in a SavedModel, the name says nothing of the place.
        keys[number] = f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE"
        renamed[keys[number]] = variables[name]

    root = ["model", "resnet_model"]
    add([*root, "initial_conv_relu_max_pool", "0", "conv2d"], "conv2d")
    add([*root, "initial_conv_relu_max_pool", "2", "bn"], "batch_normalization")
    for group, n_blocks in enumerate(BLOCKS[depth]):
        for i in range(n_blocks):
            place = [*root, "block_groups", str(group), "layers", str(i)]
            for part, n in (("shortcut_layers", 1 if i == 0 else 0), ("conv2d_bn_layers", 2)):
                for j in range(n):
                    add([*place, part, str(2 * j), "conv2d"], "conv2d")
                    add([*place, part, str(2 * j + 1), "bn"], "batch_normalization")
    for j, kinds in enumerate([("gamma", "beta", *MOMENTS), ("gamma", *MOMENTS)]):
        scope = f"head_contrastive/nl_{j}"
        place = ["model", "_projection_head", "linear_layers", str(j)]
        leaf([*place, "dense"], "kernel", f"{scope}/dense/kernel")
        add([*place, "bn_relu", "bn"], "batch_normalization", scope, kinds)
    for kind in ("kernel", "bias"):
        leaf(
            ["model", "supervised_head", "linear_layer", "dense"],
            kind,
            f"head_supervised/linear_layer/dense/{kind}",
        )
    messages = b""
    for number, children in enumerate(nodes):
        # Children in reverse, since the order of creation must not be taken from the file's.
        message = b"".join(
            writer.field(1, writer.field(1, child) + writer.field(2, part.encode()))
            for part, child in reversed(children.items())
        )
        if number in keys and keys[number]:
            attribute = writer.field(1, b"VARIABLE_VALUE") + writer.field(3, keys[number].encode())
            message += writer.field(2, attribute)
        messages += writer.field(1, message)
    return messages, renamed


def test_a_checkpoint_of_tensorflow_2_is_read_by_its_object_graph(plain, tmp_path):
    _, variables, images, expected = plain
    graph, renamed = object_graph(variables)
    assert len(renamed) == len(variables)
    prefix = tmp_path / "saved_model" / "variables" / "variables"
    prefix.parent.mkdir(parents=True)
    writer.write_bundle(prefix, {**renamed, "_CHECKPOINTABLE_OBJECT_GRAPH": graph})
    assert_close(outputs(load_pretrained(tmp_path / "saved_model"), images), expected)


def test_missing_extra_and_misshapen_variables_are_listed_together(plain, tmp_path):
    variables = dict(plain[1])
    del variables["base_model/conv2d_4/kernel"], variables["base_model/batch_normalization_2/beta"]
    variables["base_model/batch_normalization_3/gamma"] = np.ones(3, "f4")
    variables["base_model/se/kernel"] = np.ones(3, "f4")
    with pytest.raises(ValueError) as caught:
        load_pretrained(write(tmp_path / "m", variables))
    message = str(caught.value)
    assert "2 missing: base_model/batch_normalization_2/beta, base_model/conv2d_4/kernel" in message
    assert "1 misshapen: base_model/batch_normalization_3/gamma (3,) instead of (8,)" in message
    assert "1 superfluous: base_model/se/kernel." in message


def test_networks_of_another_shape_are_refused(plain, tmp_path):
    variables = plain[1]
    first = "base_model/conv2d/kernel"
    for shape, reason in (
        ((3, 3, 3, 12), "12 channels"),
        ((5, 5, 3, 8), "5x5"),
        ((3, 3, 3, 16), "misshapen"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_pretrained(write(tmp_path / "m", {**variables, first: np.zeros(shape, "f4")}))
    with pytest.raises(ValueError, match="not one of SimCLR"):
        load_pretrained(write(tmp_path / "m", {"dense/kernel": np.zeros((2, 2), "f4")}))


def test_a_changed_byte_of_a_checkpoint_is_noticed(plain, tmp_path):
    path = write(tmp_path / "m", plain[1])
    data = Path(f"{path}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        load_pretrained(path)


@pytest.mark.parametrize("stored", ["f2", "f8"])
def test_other_precisions_become_float32(plain, tmp_path, stored):
    variables = {name: values.astype(stored) for name, values in plain[1].items()}
    model = load_pretrained(write(tmp_path / "m", variables))
    assert {tensor.dtype for tensor in model.encoder.parameters()} == {torch.float32}
    np.testing.assert_allclose(outputs(model, plain[2])[0], plain[3][0], atol=0.05)


def test_loading_leaves_the_generator_and_trains(plain):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model = load_pretrained(plain[0])
    assert torch.equal(torch.get_rng_state(), state)
    loss = model.encoder.train()(torch.rand(2, 3, 16, 16)).square().sum()
    loss.backward()
    assert all(p.requires_grad and p.grad is not None for p in model.encoder.parameters())
    assert {int(b) for n, b in model.encoder.named_buffers() if n.endswith("num_batches_tracked")} == {1}


# Conversions to torch


def separius_state(variables, n_blocks=BLOCKS[50], sk=True):
    """The modules of that repository, built in its order, hold the variables in order of creation."""

    def norm(width):
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())

    def conv2d(a, b, k=1):
        return nn.Conv2d(a, b, k, bias=False)

    class Kernel(nn.Module):
        def __init__(self, f):
            super().__init__()
            mid = max(int(f * 0.0625), 32)
            self.main_conv = nn.Sequential(conv2d(f, 2 * f, 3), norm(2 * f))
            self.mixing_conv = nn.Sequential(conv2d(f, mid), norm(mid), conv2d(mid, 2 * f))

    class Projection(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            layer = conv2d(a, b)
            self.shortcut = nn.Sequential(nn.Identity(), nn.Identity(), layer) if sk else layer
            self.bn = norm(b)

    class Block(nn.Module):
        def __init__(self, a, f, project):
            super().__init__()
            self.projection = Projection(a, 4 * f) if project else nn.Identity()
            middle = [Kernel(f)] if sk else [conv2d(f, f, 3), norm(f)]
            self.net = nn.Sequential(conv2d(a, f), norm(f), *middle, conv2d(f, 4 * f), norm(4 * f))

    class Blocks(nn.Module):
        def __init__(self, n, a, f):
            super().__init__()
            self.blocks = nn.ModuleList([Block(a if i == 0 else 4 * f, f, i == 0) for i in range(n)])

    c = CHANNELS
    if sk:
        first = [conv2d(3, c // 2, 3), norm(c // 2), conv2d(c // 2, c // 2, 3), norm(c // 2)]
        first += [conv2d(c // 2, c, 3)]
    else:
        first = [conv2d(3, c, 7)]
    stem = nn.Sequential(*first, norm(c), nn.MaxPool2d(3))
    entering = [c, 4 * c, 8 * c, 16 * c]
    stages = [Blocks(n, entering[i], c * 2**i) for i, n in enumerate(n_blocks)]
    net = nn.Module()
    net.net = nn.Sequential(stem, *stages)
    net.fc = nn.Linear(32 * c, 10)
    head = nn.Module()
    layers = []
    for j in range(3):
        last = j == 2
        layers += [
            nn.Linear(32 * c, 16 if last else 32 * c, bias=False),
            nn.BatchNorm1d(16 if last else 32 * c),
        ]
        layers += [] if last else [nn.ReLU()]
    head.layers = nn.ModuleList(layers)

    def fill(tensor, values):
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[values.ndim]
        tensor.data.copy_(torch.from_numpy(values.transpose(axes)))

    def fill_norm(module, name):
        fill(module.weight, variables[f"{name}/gamma"])
        if f"{name}/beta" in variables:
            fill(module.bias, variables[f"{name}/beta"])
        fill(module.running_mean, variables[f"{name}/moving_mean"])
        fill(module.running_var, variables[f"{name}/moving_variance"])

    v = Variables(values=variables)
    for module in net.net.modules():
        if isinstance(module, nn.Conv2d):
            fill(module.weight, variables[v.name("base_model", "conv2d") + "/kernel"])
        elif isinstance(module, nn.BatchNorm2d):
            fill_norm(module, v.name("base_model", "batch_normalization"))
    for j in range(3):
        fill(head.layers[3 * j].weight, variables[f"head_contrastive/nl_{j}/dense/kernel"])
        fill_norm(head.layers[3 * j + 1], f"head_contrastive/nl_{j}/batch_normalization")
    fill(net.fc.weight, variables["head_supervised/linear_layer/dense/kernel"])
    fill(net.fc.bias, variables["head_supervised/linear_layer/dense/bias"])
    return {"resnet": net.state_dict(), "head": head.state_dict()}


@pytest.mark.parametrize("sk", [True, False])
def test_files_of_separius(tmp_path, sk):
    variables, images, expected = checkpoint(sk=sk, n_layers=3)
    state = separius_state(variables, sk=sk)
    torch.save(state, tmp_path / "r50.pth")
    assert_close(outputs(load_pretrained(tmp_path / "r50.pth"), images), expected)
    # The authors' last BatchNorm has no shift: one that is not zero has no place to go.
    state["head"]["layers.7.bias"][0] = 1
    torch.save(state, tmp_path / "r50.pth")
    with pytest.raises(ValueError, match="1 superfluous: head.layers.7.bias"):
        load_pretrained(tmp_path / "r50.pth")


def tonylins_state(variables):
    net = ResNet(50, stem="imagenet")
    v = Variables(values=variables)
    state = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            kernel = variables[v.name("base_model", "conv2d") + "/kernel"]
            state[f"{name}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        elif isinstance(module, nn.BatchNorm2d):
            layer = v.name("base_model", "batch_normalization")
            for ours, theirs in (
                ("weight", "gamma"),
                ("bias", "beta"),
                ("running_mean", "moving_mean"),
                ("running_var", "moving_variance"),
            ):
                state[f"{name}.{ours}"] = torch.from_numpy(variables[f"{layer}/{theirs}"])
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    scope = "head_supervised/linear_layer/dense"
    state["fc.weight"] = torch.from_numpy(variables[f"{scope}/kernel"]).t()
    state["fc.bias"] = torch.from_numpy(variables[f"{scope}/bias"])
    return state


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_tonylins(tmp_path, legacy, prefix):
    variables, images, expected = checkpoint(n_layers=0)
    state = {f"{prefix}{key}": value for key, value in tonylins_state(variables).items()}
    path = tmp_path / "resnet50-1x.pth"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    model = load_pretrained(path)
    assert model.projector is None
    assert_close(outputs(model, images), expected)


def test_safetensors_of_others(tmp_path):
    from safetensors.torch import save_file

    variables, images, expected = checkpoint(n_layers=0)
    state = {key: value.contiguous() for key, value in tonylins_state(variables).items()}
    save_file(state, tmp_path / "theirs.safetensors")
    assert_close(outputs(load_pretrained(tmp_path / "theirs.safetensors"), images), expected)


# Our own files


def test_a_converted_checkpoint_is_the_same_network(plain, tmp_path):
    path, _, images, expected = plain
    out = tmp_path / "ours.safetensors"
    returned = convert_checkpoint(path, out)
    loaded = load_pretrained(out)
    assert_same_weights(returned, loaded)
    assert loaded.encoder.options == returned.encoder.options
    assert loaded.encoder.options["pool_padding"] == "same" and loaded.encoder.options["convolve_first"]
    assert (loaded.name, loaded.preprocessing) == (returned.name, returned.preprocessing)
    assert_close(outputs(loaded, images), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["ours.safetensors"]
    (tmp_path / "plain").touch()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_shapes_do_not_tell_is_kept(tmp_path):
    torch.manual_seed(0)
    encoder = ResNet(18, stem="medium", in_channels=1, sk_ratio=0.5)
    preprocessing = Preprocessing(48, 0.9, "bilinear", False, (0.5,), (0.25,))
    projector = ProjectionHead(64, 8, 2, hidden_dim=32)
    model = Pretrained(encoder.eval(), preprocessing, projector.eval(), nn.Linear(32, 5), 1, "odd")
    save_pretrained(model, tmp_path / "m")
    loaded = load_pretrained(tmp_path / "m")
    assert_same_weights(model, loaded)
    assert (loaded.preprocessing, loaded.name, loaded.classifier_layer) == (preprocessing, "odd", 1)
    images = torch.randint(0, 256, (2, 1, 50, 60), dtype=torch.uint8)
    assert torch.equal(loaded.logits(images), model.logits(images))
    assert loaded.logits(images).shape == (2, 5)


def test_loaded_weights_do_not_depend_on_the_file(plain, tmp_path):
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pth"):
        if path.suffix == ".pth":
            torch.save({"state_dict": tonylins_state(checkpoint(n_layers=0)[0])}, path)
        else:
            convert_checkpoint(plain[0], path)
        model = load_pretrained(path)
        before = [p.clone() for p in model.encoder.parameters()]
        path.write_bytes(bytes(path.stat().st_size))
        assert all(torch.equal(a, b) for a, b in zip(before, model.encoder.parameters(), strict=True))


def test_a_failed_save_leaves_the_old_file(plain, tmp_path, monkeypatch):
    model = load_pretrained(plain[0])
    out = tmp_path / "m.safetensors"
    out.write_text("old")
    model.preprocessing = dataclasses.replace(model.preprocessing)
    monkeypatch.setattr(
        "sklearn_simclr._utils.atomic_write.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk"))
    )
    with pytest.raises(OSError, match="disk"):
        save_pretrained(model, out)
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


# Refusals


def with_other_meta(model, tmp_path, **changes):
    save_pretrained(model, tmp_path / "whole")
    arrays, meta = container.read(tmp_path / "whole", "encoder")
    networks = {**meta["networks"], **changes.pop("networks", {})}
    container.write(tmp_path / "changed", "encoder", arrays, {**meta, "networks": networks, **changes})
    return tmp_path / "changed"


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"networks": {"encoder": {"kind": "resnet", "depth": 19}}}, "depth"),
        ({"networks": {"encoder": {"kind": "resnet", "depth": 18, "command": "x"}}}, "command"),
        (
            {"networks": {"encoder": {"kind": "resnet", "depth": 18, "stem": "small", "width": 100}}},
            "missing or superfluous|instead of",
        ),
        (
            {"networks": {"encoder": {"kind": "resnet", "depth": 18, "stem": "small", "width": 10**30}}},
            "not valid",
        ),
        ({"networks": {"encoder": {"kind": "relu"}}}, "is not an encoder|superfluous"),
        ({"networks": {"encoder": {"kind": "mystery"}}}, "is not a network of this package"),
        ({"networks": {"encoder": None}, "name": "your.Module"}, "your.Module, which is not of this package"),
        ({"networks": {"projector": {"kind": "projector", "in_dim": 64, "n_layers": 10**9}}}, "more layers"),
        ({"networks": {"projector": "none"}}, "not valid"),
        ({"networks": {"other": {"kind": "relu"}}}, "other"),
        ({"preprocessing": {"size": 0}}, "size"),
        ({"preprocessing": None}, "not valid"),
        ({"classifier_layer": "0"}, "classifier_layer"),
        ({"classifier_layer": 7}, "classifier_layer=7"),
    ],
)
def test_a_file_with_a_wrong_description_is_refused(plain, tmp_path, changes, reason):
    path = with_other_meta(load_pretrained(plain[0]), tmp_path, **changes)
    with pytest.raises(ValueError, match=reason) as caught:
        load_pretrained(path)
    assert str(path) in str(caught.value)


def test_a_changed_byte_in_a_file_of_ours_is_noticed(plain, tmp_path):
    path = tmp_path / "m.safetensors"
    convert_checkpoint(plain[0], path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_pretrained(path)


def test_a_container_of_something_else_is_named(tmp_path):
    container.write(tmp_path / "cache", "training", {}, {})
    with pytest.raises(ValueError, match="of kind 'training', not 'encoder'"):
        load_pretrained(tmp_path / "cache")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def torch_bytes(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def compressed_zeros():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 24))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content, reason",
    [
        (lambda: b"no weights, but some text\n", "neither safetensors nor a torch file"),
        (lambda: b"", "neither"),
        (lambda: pickle.dumps(Payload()), "pickle"),
        (lambda: torch_bytes({"state_dict": Payload()}), "pickle"),
        (lambda: torch_bytes({"state_dict": {"a": torch.zeros(2)}}), "no known ResNet"),
        (lambda: torch_bytes([1, 2]), "no known ResNet"),
        (lambda: torch_bytes({"conv1.weight": torch.zeros(1).expand(8, 3, 3, 1 << 40)}), "claim to have"),
        (lambda: torch_bytes({"conv1.weight": torch.zeros(8, 3, 3, 3)})[:-40], "damaged|neither"),
        (compressed_zeros, "compressed archive"),
        (lambda: torch_bytes([1, 2]).replace(b"PK\x01\x02", b"PK\x01\x09"), "damaged torch file"),
        (lambda: (1 << 20).to_bytes(8, "little") + b"{}" + bytes(100), "neither"),
        (lambda: (20).to_bytes(8, "little") + b'{"conv1.weight": 3   ' + bytes(9), "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(content())
    with pytest.raises(ValueError, match=reason):
        load_pretrained(tmp_path / "weights")
    assert not (tmp_path / "executed").exists()


def test_truncated_safetensors_are_refused(plain, tmp_path):
    path = tmp_path / "m.safetensors"
    convert_checkpoint(plain[0], path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        load_pretrained(path)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match="directory without a checkpoint"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match="copy the files"):
        load_pretrained("gs://simclr-checkpoints/simclrv2/pretrained/r50_1x_sk0")
    with pytest.raises(TypeError, match="path or a torchvision weight enum"):
        load_pretrained(3)


# torchvision


def test_torchvision_weights_come_from_the_cache(full_width, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    with pytest.raises(
        FileNotFoundError, match=r"resnet18-f37072fd.pth, and was not fetched.*download=False"
    ):
        load_pretrained(weights, download=False)
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints" / Path(weights.url).name)
    model = load_pretrained("torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert model.name == "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    assert_same_weights(model, load_pretrained(weights))
    photographs = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(model.preprocessing(photographs))
    torch.testing.assert_close(model.logits(photographs), expected)
    # 256 pixels need no resize there, and 224 of them remain.
    torch.testing.assert_close(model.preprocessing(photographs), weights.transforms()(photographs))


@pytest.mark.parametrize(
    "weights, error, reason",
    [
        ("torchvision:ResNet18_Weights.NONE", ValueError, "no weights"),
        ("torchvision:Nothing", ValueError, "no weights"),
        ("torchvision:RAFT_LARGE_Weights.DEFAULT", ValueError, "no weights"),
        ("torchvision:FCN_ResNet50_Weights.DEFAULT", ValueError, "not of an image classifier"),
        (zipfile.ZIP_STORED, TypeError, "path or"),
    ],
)
def test_other_torchvision_weights_are_refused(weights, error, reason):
    with pytest.raises(error, match=reason):
        load_pretrained(weights)


# Preprocessing


def test_preprocessing_crops_the_centre_and_resizes_it():
    images = torch.randint(0, 256, (2, 3, 100, 161), dtype=torch.uint8)
    crop = images[:, :, 6:94, 37:125].float() / 255
    expected = F.interpolate(crop, (40, 40), mode="bicubic", antialias=True).clamp(0, 1)
    batch = Preprocessing(40)(images)
    torch.testing.assert_close(batch, expected)
    torch.testing.assert_close(Preprocessing(40)(images.float() / 255), expected)
    normalised = Preprocessing(40, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))(images)
    shift, scale = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(normalised * scale + shift, expected)


SHAPES = [(100, 161), (161, 100), (64, 64), (30, 300), (40, 41), (224, 224)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_of_torchvision(shape, interpolation):
    mode = torchvision.transforms.InterpolationMode(interpolation)
    normal = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 4.0)}
    theirs = ImageClassification(crop_size=44, resize_size=53, interpolation=mode, antialias=True, **normal)
    ours = Preprocessing(44, 44 / 53, interpolation, fit="resize", **normal)
    images = torch.rand(2, 3, *shape)
    expected = theirs(images)
    if interpolation == "bicubic":  # theirs may leave [0, 1]; from Pillow images they may not
        mean, std = (torch.tensor(normal[name])[:, None, None] for name in ("mean", "std"))
        expected = ((expected * std + mean).clamp(0, 1) - mean) / std
    torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode, fit", [("center", "resize"), ("squash", "squash"), ("border", "border")])
@pytest.mark.parametrize("size, crop_pct", [((44, 44), 0.9), ((40, 60), 1.0), ((40, 60), 0.8)])
def test_preprocessing_of_timm(shape, mode, fit, size, crop_pct):
    create_transform = pytest.importorskip("timm.data").create_transform
    normal = {"mean": (0.2, 0.4, 0.6), "std": (0.5, 0.25, 0.125)}  # 51, 102 and 153 of 255
    theirs = create_transform(
        (3, *size), crop_pct=crop_pct, crop_mode=mode, interpolation="bicubic", **normal
    )
    # Pillow clips between the two directions of a resize, and rounds to 8 bits: far from black and white.
    images = torch.randint(64, 192, (1, 3, *shape), dtype=torch.uint8)
    expected = theirs(torchvision.transforms.functional.to_pil_image(images[0]))
    fraction = size[0] / int(size[0] / crop_pct)
    found = Preprocessing(size, fraction, "bicubic", fit=fit, **normal)(images)[0]
    std = torch.tensor(normal["std"])[:, None, None]
    assert ((found - expected) * std).abs().max() < 1.6 / 255


def test_views_are_resized_whole():
    views = torch.rand(2, 3, 30, 50)
    for fit in ("crop", "resize", "squash", "border"):
        prepared = Preprocessing((20, 40), 0.8, fit=fit).of_views()
        whole = F.interpolate(views, (20, 40), mode="bicubic", antialias=True).clamp(0, 1)
        torch.testing.assert_close(prepared(views), whole)
        exact = torch.rand(2, 3, 20, 40)
        assert torch.equal(prepared(exact), exact)


def test_preprocessing_without_anything_to_do_only_scales():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(Preprocessing(32, 1.0)(images), images.float() / 255)


def test_grey_images_are_repeated():
    images = torch.rand(2, 1, 32, 32)
    batch = Preprocessing(32, 1.0)(images)
    assert torch.equal(batch, images.expand(-1, 3, -1, -1)) and batch.is_contiguous()
    assert Preprocessing(32, 1.0)(images, channels=1).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("size", [1, 3, 400])
@pytest.mark.parametrize("shape", [(0, 3, 9, 9), (1, 3, 1, 1), (2, 3, 1, 50)])
def test_preprocessing_takes_images_of_any_size(size, shape):
    batch = Preprocessing(size)(torch.rand(shape))
    assert batch.shape == (shape[0], 3, size, size)
    assert ((batch >= 0) & (batch <= 1)).all()


@pytest.mark.parametrize(
    "images, error, reason",
    [
        (np.zeros((1, 3, 8, 8)), TypeError, "torch.Tensor"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(3, 8, 8), ValueError, "shape"),
        (torch.zeros(1, 4, 8, 8), ValueError, "4 channels"),
        (torch.full((1, 3, 8, 8), 255.0), ValueError, "255"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "nan"),
    ],
)
def test_preprocessing_refuses(images, error, reason):
    with pytest.raises(error, match=reason):
        Preprocessing()(images)


@pytest.mark.parametrize(
    "parameters, reason",
    [
        ({"size": 0}, "size"),
        ({"size": 2.5}, "size"),
        ({"size": (3, 4, 5)}, "size"),
        ({"size": (3, 0)}, "size"),
        ({"fit": "cover"}, "fit must be one of"),
        ({"crop_fraction": 1.5}, "crop_fraction"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"antialias": 1}, "antialias"),
        ({"mean": (0.5,)}, "both"),
        ({"mean": (0.5,), "std": (0.0,)}, "std"),
        ({"mean": 0.5, "std": 0.5}, "mean"),
    ],
)
def test_preprocessing_checks_its_parameters(parameters, reason):
    with pytest.raises((TypeError, ValueError), match=reason):
        Preprocessing(**parameters)


# The papers' counts


def variables_on_meta(depth, width, sk):
    with torch.device("meta"):
        net = ResNet(depth, width=width, sk_ratio=0.0625 if sk else 0.0)
    return net.parameters(), net.buffers()


@pytest.mark.parametrize("width, millions", [(1, 24), (2, 94), (4, 375)])
def test_networks_have_as_many_parameters_as_v1_says(full_width, width, millions):
    # V1 table 6
    parameters, _ = variables_on_meta(50, width, False)
    assert round(sum(p.numel() for p in parameters) / 1e6) == millions


@pytest.mark.parametrize(
    "depth, width, sk, millions",
    [
        (50, 1, False, 24),
        (50, 1, True, 35),
        (50, 2, False, 94),
        (50, 2, True, 140),
        (101, 1, False, 43),
        (101, 1, True, 65),
        (101, 2, False, 170),
        (101, 2, True, 257),
        (152, 1, False, 58),
        (152, 1, True, 89),
        (152, 2, False, 233),
        (152, 2, True, 354),
        (152, 3, True, 795),
    ],
)
def test_networks_have_as_many_variables_as_v2_says(full_width, depth, width, sk, millions):
    # V2 table 1 counts the moments of BatchNorm too.
    parameters, buffers = variables_on_meta(depth, width, sk)
    assert round(sum(tensor.numel() for tensor in (*parameters, *buffers)) / 1e6) == millions


@pytest.mark.parametrize(
    "depth, sk", [(18, False), (34, False), *((d, sk) for d in (50, 101, 152) for sk in (False, True))]
)
@pytest.mark.parametrize("stem, width", [("imagenet", 1), ("small", 3)])
def test_the_network_is_told_by_its_kernels(full_width, depth, sk, stem, width):
    parameters = dict(depth=depth, width=width, in_channels=3, stem=stem, sk_ratio=0.0625 if sk else 0.0)
    parameters["convolve_first"] = depth < 50
    with torch.device("meta"):
        net = ResNet(**parameters)
    kernels = [tuple(m.weight.shape) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert detect_encoder(kernels, len(kernels)) == parameters
