"""Files of encoders: they answer as the estimators do, or are refused."""

import json
import os
import resource
import signal
import stat
import warnings

import numpy as np
import pytest
import torch
import torchvision
from fitted import FAST, only_file, shake
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_simclr import (
    AutoencoderTransformer,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr._utils import container
from sklearn_simclr.encoders.make import make_encoder
from sklearn_simclr.encoders.resnet import ResNet
from sklearn_simclr.encoders.weights.pretrained import load_pretrained
from sklearn_simclr.export.encoder_files import export_encoder, load_encoder
from sklearn_simclr.export.estimator_files import save_estimator

# safetensors


def test_a_resnet_is_read_by_load_pretrained(resnet, photographs, tmp_path):
    path = tmp_path / "net.safetensors"
    export_encoder(resnet, path)
    assert only_file(tmp_path) == "net.safetensors"
    images = torch.from_numpy(photographs).permute(0, 3, 1, 2)
    for load in (load_pretrained, load_encoder):
        loaded = load(path)
        assert loaded.name == "resnet18"
        with torch.no_grad():
            h = loaded.encoder(loaded.preprocessing(images))
            z = loaded.projector(h)
        np.testing.assert_allclose(h, resnet.transform(photographs), rtol=1e-4, atol=1e-5)
        expected = clone(resnet).set_params(output="projection")
        expected.__dict__.update({k: v for k, v in vars(resnet).items() if k != "output"})
        np.testing.assert_allclose(z, expected.transform(photographs), rtol=1e-4, atol=1e-4)


def test_the_header_says_how_images_are_read(simclr, tmp_path):
    path = tmp_path / "net.safetensors"
    export_encoder(make_pipeline(FrozenEstimator(simclr), "passthrough"), path)
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["sklearn_simclr"])
        assert {name.partition(".")[0] for name in file.keys()} == {"encoder", "projector"}  # noqa: SIM118
    found = header["meta"]["about"]
    assert found["images"] == {
        "channels": 1,
        "size": [8, 8],
        "image_shape": [8, 8],
        "layout": "HW",
        "flat": False,
        "pixel_range": [0.0, 16.0],
        "image_size": "auto",
    }
    assert (found["encoder"], found["estimator"]) == ("compact", "SimCLRTransformer")
    assert header["meta"]["networks"]["projector"]["n_layers"] == 3
    assert header["version"]


def test_the_small_network_comes_back(simclr, digits, tmp_path):
    X = digits[0][:20]
    path = tmp_path / "net.safetensors"
    how = export_encoder(simclr, path)
    read = {}
    exec(how, read)
    loaded = read["pretrained"]
    images = torch.from_numpy(X[:, None] / 16).float()
    with torch.no_grad():
        h = loaded.encoder(loaded.preprocessing(images, channels=1))
        hidden = loaded.projector(h, 2)
    np.testing.assert_allclose(h, simclr.transform(X), rtol=1e-4, atol=1e-5)
    assert hidden.shape == (20, 288)
    assert not loaded.encoder.stem.weight.requires_grad


def test_a_classifier_comes_back_with_its_hidden_layer(classifier, labelled, tmp_path):
    X, _ = labelled
    path = tmp_path / "net.safetensors"
    export_encoder(classifier, path)
    loaded = load_encoder(path)
    assert loaded.classifier_layer == 1
    logits = loaded.logits(torch.from_numpy(X[:, None] / 16).float())
    np.testing.assert_allclose(logits.softmax(1), classifier.predict_proba(X), atol=1e-5)


def test_the_weights_of_a_module_of_ones_own_are_written_with_a_warning(digits, tmp_path):
    class Mine(nn.Sequential):
        pass

    net = Mine(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = AutoencoderTransformer(net, **FAST).fit(digits[0][:16])
    path = tmp_path / "net.safetensors"
    with pytest.warns(UserWarning, match="Mine, which is not of this package"):
        how = export_encoder(model, path)
    assert "Mine that was passed as encoder" in how
    written = load_file(path)
    assert written.keys() == {"encoder.0.weight", "encoder.0.bias"}
    assert torch.equal(written["encoder.0.weight"], model.encoder_[0].weight)
    with pytest.raises(ValueError, match="weights of a .*Mine"):
        load_encoder(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_encoder(model, tmp_path / "net.pt", format="torch")
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    assert torch.equal(state["0.bias"], model.encoder_[0].bias)
    with pytest.raises(TypeError, match=r"estimator\.encoder is a Mine"):
        save_estimator(model, tmp_path / "all.safetensors")


# torch


def test_torchvision_loads_a_resnet(resnet, photographs, tmp_path):
    path = tmp_path / "net.pt"
    how = export_encoder(resnet, path, format="torch")
    theirs = torchvision.models.resnet18(num_classes=7)
    report = theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"} and not report.unexpected_keys
    read = {}
    exec(how, read)
    theirs.fc = nn.Identity()
    images = torch.from_numpy(photographs).permute(0, 3, 1, 2) / 255
    for model in (theirs, read["model"]):
        with torch.no_grad():
            features = model.eval()(images)
        assert features.std() > 0.01
        np.testing.assert_allclose(features, resnet.transform(photographs), rtol=1e-4, atol=1e-5)


def test_torchvision_gets_a_linear_classifier_as_fc(photographs, tmp_path):
    y = np.arange(8) % 2
    model = SupervisedTransformer("resnet18", **(FAST | {"max_epochs": 0})).fit(photographs, y)
    nn.init.normal_(model.classifier_.weight)
    path = tmp_path / "net.pt"
    read = {}
    exec(export_encoder(model, path, format="torch"), read)
    images = torch.from_numpy(photographs).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = read["model"].eval()(images)
    np.testing.assert_allclose(logits.softmax(1), model.predict_proba(photographs), atol=1e-5)


@pytest.mark.parametrize("encoder", ["compact", "compactx0.5", "resnet18", "resnet18-sk"])
def test_the_lines_for_other_networks_rebuild_them(encoder, digits, narrow, tmp_path):
    X = digits[0][:4]
    model = shake(SimCLRTransformer(encoder, **(FAST | {"max_epochs": 0})).fit(X))
    read = {}
    how = export_encoder(model, tmp_path / "net.pt", format="torch")
    assert "torchvision" not in how
    exec(how, read)
    with torch.no_grad():
        h = read["model"].eval()(torch.from_numpy(X[:, None] / 16).float())
    np.testing.assert_allclose(h, model.transform(X), rtol=1e-4, atol=1e-5)


# What is asked for, and where it is to go


def test_wrong_requests(simclr, tmp_path):
    path = tmp_path / "net"
    with pytest.raises(ValueError, match="format must be one of"):
        export_encoder(simclr, path, format="tflite")
    with pytest.raises(ValueError, match="input_dtype"):
        export_encoder(simclr, path, input_dtype="float16")
    with pytest.raises(TypeError, match="path must be"):
        export_encoder(simclr, None)
    with pytest.raises(TypeError, match="found LogisticRegression"):
        export_encoder(LogisticRegression(), path)
    with pytest.raises(TypeError, match="found Pipeline"):
        export_encoder(make_pipeline(FunctionTransformer(), LogisticRegression()), path)
    with pytest.raises(ValueError, match="2 encoders"):
        export_encoder(make_pipeline(simclr, simclr), path)
    for format in ("safetensors", "torch", "onnx"):
        with pytest.raises(NotFittedError):
            export_encoder(SimCLRTransformer(), path, format=format)
    with pytest.raises(NotFittedError):
        save_estimator(SimCLRTransformer(), path)
    assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_written_to(simclr, tmp_path):
    writers = [
        lambda path: export_encoder(simclr, path),
        lambda path: export_encoder(simclr, path, format="torch"),
        lambda path: save_estimator(simclr, path),
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    for write in writers:
        with pytest.raises(FileNotFoundError, match="cannot be written.*absent"):
            write(tmp_path / "absent" / "net")
        with pytest.raises(OSError, match="cannot be written.*folder"):
            write(folder)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(folder) == []


@pytest.mark.parametrize("format", ["safetensors", "torch", "onnx"])
def test_a_disk_that_is_full_leaves_the_old_file(format, simclr, tmp_path):
    path = tmp_path / "net"
    path.write_bytes(b"older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written.*free space") as caught:
            export_encoder(simclr, path, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"older" and only_file(tmp_path) == "net"


def test_a_file_is_replaced_as_a_whole(simclr, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"older")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("sklearn_simclr._utils.container.save_file", fail)
        for write in (export_encoder, save_estimator):
            with pytest.raises(OSError, match="No space left"):
                write(simclr, path)
    assert path.read_bytes() == b"older" and only_file(tmp_path) == path.name
    export_encoder(simclr, path)
    assert load_encoder(path).out_dim == 432
    other = tmp_path / "other"
    other.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_names_of_networks_are_those_that_make_encoder_knows():
    from sklearn_simclr.encoders.description import encoder_name

    for name in ("compact", "compactx0.5", "compactx2", "resnet34", "resnet50x2-sk"):
        with torch.device("meta"):
            network, _ = make_encoder(name, 3, (32, 32))
        assert encoder_name(network) == name
    assert encoder_name(ResNet(18)) == "resnet18"


def test_an_estimator_of_ones_own_is_exported_like_the_others(digits, tmp_path):
    class Mine(SimCLRTransformer):
        pass

    model = Mine(**FAST).fit(digits[0][:16])
    model.projector_ = nn.Sequential(nn.Linear(576, 2))
    export_encoder(make_pipeline(model), tmp_path / "net")
    loaded = load_encoder(tmp_path / "net")
    assert torch.equal(loaded.encoder.stem.weight, model.encoder_.stem.weight)
    # A head that only the estimator's class knows how to use is left out.
    assert loaded.projector is None
    assert container.peek(tmp_path / "net")[1]["about"]["estimator"] == "Mine"
