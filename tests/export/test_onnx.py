"""Graphs in ONNX: they answer as the estimators do, or are not written."""

import json
import os

import numpy as np
import pytest
import torch
from fitted import FAST, only_file, shake
from torch import nn

from sklearn_simclr import (
    AutoencoderTransformer,
    SimCLRTransformer,
)
from sklearn_simclr.encoders.resnet import _avg_pool, _SelectiveKernel
from sklearn_simclr.export._onnx import _PaddedAvgPool, write_onnx
from sklearn_simclr.export.encoder_files import export_encoder


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnx", reason='needs the extra "onnx"')
    pytest.importorskip("onnxscript", reason='needs the extra "onnx"')
    return pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')


def answers(onnxruntime, path, X):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert images.shape[1:] == list(X.shape[1:]) and not isinstance(images.shape[0], int)
    return session.run(None, {images.name: X})[0]


def test_onnx_takes_bytes_and_gives_what_transform_gives(onnxruntime, tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (6, 3, 35, 27), dtype=np.uint8)
    model = shake(SimCLRTransformer(output=1, **FAST).fit(X))
    path = str(tmp_path / "net.onnx")
    how = export_encoder(model, path, format="onnx")
    assert only_file(tmp_path) == "net.onnx"
    expected = model.transform(X)
    assert expected.std() > 0.01
    for n in (1, 6):
        np.testing.assert_allclose(answers(onnxruntime, path, X[:n]), expected[:n], rtol=1e-4, atol=1e-4)
    read = {"X": X}
    exec(how, read)
    np.testing.assert_allclose(read["representations"], expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["sklearn_simclr"])
    assert about["images"]["layout"] == "CHW"


def test_onnx_mirrors_as_transform_does(onnxruntime, tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    model = SimCLRTransformer("compactx0.5", max_epochs=1, batch_size=32, random_state=0).fit(X)
    path = tmp_path / "net.onnx"
    export_encoder(model, path, format="onnx")
    found = answers(onnxruntime, path, X)
    np.testing.assert_allclose(found, model.transform(X), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answers(onnxruntime, path, X[:, :, ::-1].copy()), found, atol=1e-5)


def test_onnx_of_a_classifier_gives_probabilities_and_clips(onnxruntime, classifier, labelled, tmp_path):
    X = labelled[0].astype(np.float32) * 1.5 - 2
    path = str(tmp_path / "net.onnx")
    export_encoder(classifier, path, format="onnx")
    with pytest.warns(UserWarning, match="clipped"):
        expected = classifier.predict_proba(X)
    np.testing.assert_allclose(answers(onnxruntime, path, X), expected, atol=1e-4)


def test_onnx_of_selective_kernels_on_odd_sides_and_flat_rows(onnxruntime, tmp_path):
    X = np.random.default_rng(0).random((4, 37 * 33), dtype=np.float32)
    layers = _SelectiveKernel(1, 8, 2, 1 / 16), _avg_pool(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    options = FAST | {"max_epochs": 0, "image_shape": (37, 33)}
    model = shake(AutoencoderTransformer(nn.Sequential(*layers), **options).fit(X))
    path = str(tmp_path / "net.onnx")
    export_encoder(model, path, format="onnx")
    expected = model.transform(X)
    assert expected.std() > 1e-2
    np.testing.assert_allclose(answers(onnxruntime, path, X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height, width", [(4, 6), (5, 6), (4, 7), (5, 7)])
def test_the_pool_that_is_exported_is_that_of_the_network(height, width):
    maps = torch.randn(2, 3, height, width)
    pool = nn.AvgPool2d(2, stride=2, ceil_mode=True, divisor_override=4)
    torch.testing.assert_close(_PaddedAvgPool()(maps), pool(maps))


def test_onnx_of_a_network_that_the_exporter_gets_wrong_is_refused(
    onnxruntime, digits, tmp_path, monkeypatch
):
    model = SimCLRTransformer(projection_layers=0, **(FAST | {"max_epochs": 0})).fit(digits[0][:4])
    path = tmp_path / "net.onnx"
    path.write_bytes(b"older")

    def wrong(network, *where):
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 576)).eval()
        other.example = network.example
        write_onnx(other, *where)

    monkeypatch.setattr("sklearn_simclr.export._onnx.write_onnx", wrong)
    with pytest.raises(ValueError, match="answers otherwise"):
        export_encoder(model, path, format="onnx")
    assert path.read_bytes() == b"older" and only_file(tmp_path) == "net.onnx"


def test_onnx_without_its_packages_says_what_to_install(simclr, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[onnx\]"):
        export_encoder(simclr, tmp_path / "net.onnx", format="onnx")
    assert os.listdir(tmp_path) == []
