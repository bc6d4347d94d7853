"""Checkpoints of lightly, solo-learn, MoCo, sthalles and torchvision give the features of their networks.

The files are built from a random ResNet-18 of torchvision, with the names and contents that the programs use.
"""

import argparse
import re

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from sklearn_simclr import SimCLRTransformer, load_pretrained

IMAGENET, CIFAR = (0.485, 0.456, 0.406), (0.4914, 0.4822, 0.4465)


class Settings(dict):
    """Stands for the classes of Lightning and OmegaConf: of a package that a reader need not have."""

    def __init__(self, **values):
        super().__init__(values)
        self.device = torch.device("cpu")


class Loud:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.fixture(scope="module")
def networks():
    """ResNet-18 of torchvision by its first convolution: for ImageNet, for CIFAR, solo-learn's for CIFAR."""
    torch.manual_seed(0)
    made = {}
    for name, padding in {"imagenet": None, "small": 1, "padded": 2}.items():
        net = torchvision.models.resnet18(weights=None)
        net.fc = nn.Identity()
        if padding is not None:
            net.conv1 = nn.Conv2d(3, 64, 3, padding=padding, bias=False)
            net.maxpool = nn.Identity()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        made[name] = net.eval()
    return made


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def noise(state):
    return {name: torch.rand_like(value.float()) for name, value in state.items()}


def linear(prefix, *shape, bias=True):
    return under(prefix, nn.Linear(*shape, bias=bias).state_dict())


def sequence(net, without=()):
    """Names of the parts in an nn.Sequential of them."""
    parts = [part for name, part in net.named_children() if name not in ("fc", *without)]
    return nn.Sequential(*parts).state_dict()


def moco(net, v3=False):
    query, key = ("base_encoder", "momentum_encoder") if v3 else ("encoder_q", "encoder_k")
    state = net.state_dict()
    weights = under(f"{query}.", state) | under(f"{key}.", noise(state))
    weights |= linear(f"{query}.fc.0.", 512, 512) | linear(f"{query}.fc.2.", 512, 128)
    weights |= {"queue": torch.rand(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": under("module.", weights),
        "optimizer": {"state": {}},
    }


def lightning(weights, settings):
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": weights,
        "loops": {},
        "callbacks": {"ModelCheckpoint": {"best_model_score": np.float64(0.5)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": []}],
        "hparams_name": "kwargs",
        "hyper_parameters": settings,
    }


def solo(net, name="backbone"):
    weights = under(f"{name}.", net.state_dict()) | linear("classifier.", 512, 10)
    weights |= linear("projector.0.", 512, 2048) | linear("projector.2.", 2048, 128)
    weights |= under(f"momentum_{name}.", noise(net.state_dict()))
    return lightning(weights, {"cfg": Settings(method="simclr"), "args": argparse.Namespace(lr=0.3)})


def lightly(state):
    head = linear("0.", 512, 512, bias=False) | under("1.", nn.BatchNorm1d(512).state_dict())
    head |= linear("3.", 512, 128, bias=False) | under("4.", nn.BatchNorm1d(128).state_dict())
    weights = under("backbone.", state) | under("projection_head.layers.", head)
    weights |= linear("online_classifier.linear.", 512, 10)
    return lightning(weights, {"batch_size": 256})


def lightly_own(net):
    """lightly's own ResNet, for CIFAR: no modules for activation and pool, "shortcut" for "downsample"."""
    state = sequence(net, without=("relu", "maxpool", "avgpool"))
    return {name.replace("downsample", "shortcut"): value for name, value in state.items()}


def sthalles(net):
    weights = net.state_dict() | linear("fc.0.", 512, 512) | linear("fc.2.", 512, 128)
    return {"epoch": 100, "arch": "resnet18", "state_dict": under("backbone.", weights), "optimizer": {}}


CASES = {
    # kind of network: what the file holds, mean of the normalisation, side, program, what is left out
    "moco": (
        "imagenet",
        moco,
        IMAGENET,
        224,
        "moco",
        "encoder_k (120), encoder_q.fc (4), queue (1), queue_ptr (1)",
    ),
    "moco v3": (
        "imagenet",
        lambda n: moco(n, v3=True),
        IMAGENET,
        224,
        "moco",
        "momentum_encoder (120), base_encoder.fc (4)",
    ),
    "solo": (
        "imagenet",
        solo,
        IMAGENET,
        224,
        "solo-learn",
        "classifier (2), projector (4), momentum_backbone",
    ),
    "solo, old": (
        "imagenet",
        lambda n: solo(n, "encoder"),
        IMAGENET,
        224,
        "solo-learn",
        "momentum_encoder (120)",
    ),
    "solo, cifar": ("padded", solo, CIFAR, 32, "solo-learn", "classifier (2)"),
    "lightly": (
        "imagenet",
        lambda n: lightly(n.state_dict()),
        IMAGENET,
        224,
        "lightly",
        "projection_head (12), online_classifier.linear (2)",
    ),
    "lightly, sequence": (
        "imagenet",
        lambda n: lightly(sequence(n)),
        IMAGENET,
        224,
        "lightly",
        "projection_head",
    ),
    "lightly, cifar": ("small", lambda n: lightly(sequence(n)), IMAGENET, 32, "lightly", "projection_head"),
    "lightly, own": ("small", lambda n: lightly(lightly_own(n)), IMAGENET, 32, "lightly", "projection_head"),
    "sthalles": ("imagenet", sthalles, None, 96, "sthalles", "backbone.fc (4)"),
    "plain": ("imagenet", lambda n: n.state_dict(), IMAGENET, 224, None, None),
    "compiled": ("small", lambda n: under("_orig_mod.", n.state_dict()), IMAGENET, 32, None, None),
    "model": ("imagenet", lambda n: {"model": under("model.", n.state_dict())}, IMAGENET, 224, None, None),
    "in parallel": (
        "imagenet",
        lambda n: {"net": under("module.", n.state_dict())},
        IMAGENET,
        224,
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_the_network(networks, tmp_path, case, recwarn):
    kind, build, mean, side, program, left_out = CASES[case]
    net, path = networks[kind], tmp_path / "checkpoint.ckpt"
    torch.save(build(net), path)
    loaded = load_pretrained(path)
    # Odd sides tell one padding from another.
    images = torch.rand(2, 3, 45, 33)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder(images), net(images))
    assert (loaded.name, loaded.projector, loaded.classifier) == ("resnet18", None, None)
    assert (loaded.preprocessing.mean, loaded.preprocessing.sides) == (mean, (side, side))
    messages = [str(warning.message) for warning in recwarn]
    if program is None:
        assert messages == []
    else:
        (message,) = messages
        assert f"checkpoint of {program}." in message
        assert left_out in message
        assert str(loaded.preprocessing) in message


def test_the_moving_average_is_taken_if_asked_for(networks, tmp_path):
    net, path = networks["imagenet"], tmp_path / "moco.pth"
    content = moco(net)
    for name in list(content["state_dict"]):
        if "encoder_k" in name:
            content["state_dict"][name] = content["state_dict"][name.replace("encoder_k", "encoder_q")] * 0.9
    torch.save(content, path)
    with pytest.warns(UserWarning, match=r"encoder_q \(120\)"):
        loaded = load_pretrained(path, ema=True)
    torch.testing.assert_close(loaded.encoder.conv1.weight, net.conv1.weight * 0.9)
    torch.save(net.state_dict(), path)
    with pytest.raises(ValueError, match="has no moving average of its weights; pass ema=False"):
        load_pretrained(path, ema=True)


def test_several_networks_are_named(networks, tmp_path):
    state = networks["imagenet"].state_dict()
    other = {name: value.clone() for name, value in state.items()}
    torch.save(under("first.", state) | under("second.", other), tmp_path / "two.pth")
    with pytest.raises(
        ValueError, match=r"two.pth: it holds several networks: 'first\.', 'second\.'; keep one"
    ):
        load_pretrained(tmp_path / "two.pth")


def test_a_classifier_of_torchvision_is_kept(networks, tmp_path):
    net = networks["imagenet"]
    fc = nn.Linear(512, 7)
    torch.save(net.state_dict() | under("fc.", fc.state_dict()), tmp_path / "supervised.pth")
    loaded = load_pretrained(tmp_path / "supervised.pth")
    images = torch.rand(2, 3, 256, 300)
    with torch.no_grad():
        expected = fc(net(loaded.preprocessing(images)))
    torch.testing.assert_close(loaded.logits(images), expected)


def test_other_networks_are_refused(networks, tmp_path):
    state = networks["imagenet"].state_dict()
    torch.save(state | {"layer1.0.se.fc1.weight": torch.rand(4, 64)}, tmp_path / "senet.pth")
    with pytest.raises(ValueError, match="1 superfluous: layer1.0.se.fc1.weight"):
        load_pretrained(tmp_path / "senet.pth")
    wide = torchvision.models.wide_resnet50_2(weights=None).state_dict()
    torch.save({key: value.half() for key, value in wide.items()}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"misshapen: layer1.0.conv1.weight \(128, 64, 1, 1\) instead of"):
        load_pretrained(tmp_path / "wide.pth")


def test_settings_in_a_file_are_not_run(networks, tmp_path, capsys):
    content = solo(networks["imagenet"])
    content["hyper_parameters"]["loud"] = Loud()
    torch.save(content, tmp_path / "loud.ckpt")
    with pytest.warns(UserWarning, match="solo-learn"):
        load_pretrained(tmp_path / "loud.ckpt")
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"If you trust it.*torch\.save\(\{\"state_dict\""):
        load_pretrained(tmp_path / "old.ckpt")
    assert capsys.readouterr().out == ""


def test_fit_starts_from_a_checkpoint(networks, tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    torch.save(lightly(lightly_own(networks["small"])), tmp_path / "cifar.ckpt")
    with pytest.warns(UserWarning, match=re.escape("projection_head (12)")):
        simclr = SimCLRTransformer(weights=tmp_path / "cifar.ckpt", max_epochs=0).fit(X)
    images = torch.from_numpy(X).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = networks["small"](simclr.encoder_.preprocessing(images))
    np.testing.assert_allclose(simclr.transform(X), expected, rtol=1e-4, atol=1e-4)
