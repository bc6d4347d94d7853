"""Files of encoders and estimators: they answer as the estimators do, or are refused."""

import json
import os
import pickle
import stat
import warnings

import numpy as np
import pytest
import skops.io as sio
import torch
import torchvision
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
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr._utils import container
from sklearn_simclr.encoders.make import make_encoder
from sklearn_simclr.encoders.resnet import ResNet, _avg_pool, _SelectiveKernel
from sklearn_simclr.encoders.weights.pretrained import load_pretrained
from sklearn_simclr.export._onnx import _PaddedAvgPool
from sklearn_simclr.export.encoder_files import export_encoder, load_encoder
from sklearn_simclr.export.estimator_files import load_estimator, save_estimator

FAST = {"max_epochs": 1, "batch_size": 16, "random_state": 0, "device": "cpu"}


def shake(estimator):
    """Draw all numbers of the networks anew, also those that begin as zeros or ones."""
    generator = torch.Generator().manual_seed(1)
    for module in estimator._fitted_modules().values():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(generator=generator).mul_(0.1)
                part.running_var.uniform_(0.5, 2.0, generator=generator)
                with torch.no_grad():
                    part.weight.uniform_(0.5, 1.0, generator=generator)
    return estimator


@pytest.fixture
def narrow(monkeypatch):
    """Give residual networks 8 channels where they have 64, to be quick."""
    monkeypatch.setattr("sklearn_simclr.encoders.resnet.BASE_CHANNELS", 8)


@pytest.fixture(scope="module")
def photographs():
    """Eight RGB images of 72 pixels, uint8."""
    return np.random.default_rng(3).integers(0, 256, (8, 72, 72, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def simclr(digits):
    X, _ = digits
    return shake(SimCLRTransformer(projection_dim=8, projection_layers=3, **FAST).fit(X[:32]))


@pytest.fixture(scope="module")
def labelled(digits):
    X, y = digits
    return X[:40], np.array([f"digit {label}" for label in y[:40] % 3])


@pytest.fixture(scope="module")
def classifier(simclr, labelled):
    return SimCLRClassifier(simclr, head_layer=1, **FAST).fit(*labelled)


@pytest.fixture(scope="module")
def resnet(photographs):
    return shake(SimCLRTransformer("resnet18", **(FAST | {"max_epochs": 0})).fit(photographs))


def only_file(folder):
    (name,) = os.listdir(folder)
    return name


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
        "image_size": None,
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


# ONNX


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

    def wrong(network, path, output, metadata):
        from sklearn_simclr.export._onnx import torch as onnx_torch

        batch = {0: onnx_torch.export.Dim("n")}
        doubled = nn.Sequential(nn.Flatten(), nn.Linear(64, 576))
        onnx_torch.onnx.export(
            doubled.eval(),
            (network.example(2),),
            path,
            input_names=["images"],
            dynamo=True,
            dynamic_shapes=(batch,),
            external_data=False,
            verbose=False,
        )

    monkeypatch.setattr("sklearn_simclr.export._onnx.write_onnx", wrong)
    with pytest.raises(ValueError, match="answers otherwise"):
        export_encoder(model, path, format="onnx")
    assert path.read_bytes() == b"older" and only_file(tmp_path) == "net.onnx"


def test_onnx_without_its_packages_says_what_to_install(simclr, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[onnx\]"):
        export_encoder(simclr, tmp_path / "net.onnx", format="onnx")
    assert os.listdir(tmp_path) == []


# Whole estimators


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


def round_trip(estimator, tmp_path):
    path = tmp_path / "estimator.safetensors"
    save_estimator(estimator, path)
    loaded = load_estimator(path)
    assert type(loaded) is type(estimator)
    for name, module in estimator._fitted_modules().items():
        assert_same_state(module.state_dict(), loaded._fitted_modules()[name].state_dict())
        assert repr(module) == repr(loaded._fitted_modules()[name])
    left_out = {"teacher_"}
    assert vars(loaded).keys() == vars(estimator).keys() - left_out
    assert loaded.history_.equals(estimator.history_)
    assert loaded.history_.dtypes.equals(estimator.history_.dtypes)
    return loaded


def test_a_transformer_comes_back_bit_by_bit(digits, tmp_path):
    X = digits[0][:32]
    model = SimCLRTransformer(
        augmentation=Augmentation(size=7, crop_scale=(0.5, 1.0)),
        temperature=np.float64(0.3),
        pixel_range=[0, 16],
        output=1,
        device=torch.device("cpu"),
        random_state=np.random.RandomState(3),
        memory=str(tmp_path / "cache"),
        **{name: value for name, value in FAST.items() if name not in ("random_state", "device")},
    )
    model.set_output(transform="pandas").partial_fit(X).partial_fit(X)
    loaded = round_trip(model, tmp_path)
    assert loaded.transform(X).equals(model.transform(X))
    expected, found = model.get_params(), loaded.get_params()
    for unequal in ("memory", "random_state", "augmentation"):
        expected.pop(unequal), found.pop(unequal)
    assert found == expected
    assert loaded.memory is None and type(loaded.temperature) is np.float64
    assert model.random_state.randint(2**31 - 1) == loaded.random_state.randint(2**31 - 1)
    assert loaded.score(X) == model.score(X)
    # Training goes on as it would have: the optimizer's state is there too.
    model.partial_fit(X), loaded.partial_fit(X)
    assert_same_state(model.encoder_.state_dict(), loaded.encoder_.state_dict())


@pytest.mark.parametrize("encoder", ["resnet18", "resnet18-sk", "timm:test_resnet.r160_in1k"])
def test_named_networks_come_back(encoder, narrow, tmp_path):
    if encoder.startswith("timm"):
        pytest.importorskip("timm", reason='needs the extra "timm"')
    X = np.random.default_rng(0).integers(0, 256, (4, 33, 35, 3), dtype=np.uint8)
    model = shake(SimCLRTransformer(encoder, **(FAST | {"max_epochs": 0})).fit(X))
    before = torch.random.get_rng_state()
    loaded = round_trip(model, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(loaded.transform(X), model.transform(X))


def test_the_other_transformers_come_back(labelled, tmp_path):
    X, y = labelled
    loaded = round_trip(autoencoder := AutoencoderTransformer(**FAST).fit(X), tmp_path)
    assert np.array_equal(loaded.reconstruct(X), autoencoder.reconstruct(X))
    loaded = round_trip(supervised := SupervisedTransformer(**FAST).fit(X, y), tmp_path)
    assert np.array_equal(loaded.transform(X), supervised.transform(X))
    assert np.array_equal(loaded.predict(X), supervised.predict(X)) and loaded.classes_.dtype == y.dtype


def test_a_classifier_comes_back_with_what_it_was_made_of(classifier, labelled, simclr, tmp_path):
    X, y = labelled
    loaded = round_trip(classifier, tmp_path)
    assert np.array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert loaded.pretrained is loaded.pretrained_
    assert np.array_equal(loaded.pretrained_.transform(X), simclr.transform(X))
    size = (tmp_path / "estimator.safetensors").stat().st_size
    student = DistilledClassifier(FrozenEstimator(classifier), FrozenEstimator(simclr), **FAST).fit(X)
    loaded = round_trip(student, tmp_path)
    assert np.array_equal(loaded.predict_proba(X), student.predict_proba(X))
    # The transformer that both were made of is there once.
    assert (tmp_path / "estimator.safetensors").stat().st_size < 1.6 * size
    assert loaded.student.estimator is loaded.teacher.estimator.pretrained_


def test_labels_of_any_type_come_back(digits, tmp_path):
    X = digits[0][:8]
    for labels in (
        np.array(["a", "ü"], dtype=object),
        np.array([1.0, 2.0**53]),
        np.array([3, 2**40]),
        np.array([False, True]),
    ):
        model = SupervisedTransformer(**(FAST | {"max_epochs": 0})).fit(X, labels[np.arange(8) % 2])
        loaded = round_trip(model, tmp_path)
        assert loaded.classes_.dtype == model.classes_.dtype
        assert loaded.classes_.tolist() == labels.tolist()


def test_what_a_file_cannot_hold_is_named(simclr, labelled, tmp_path):
    X, y = labelled
    path = tmp_path / "all.safetensors"
    student = DistilledClassifier(LogisticRegression().fit(X.reshape(40, -1), y), **FAST)
    student.fit(X.reshape(40, -1))
    with pytest.raises(TypeError, match=r"estimator\.teacher is LogisticRegression"):
        save_estimator(student, path)
    student.set_params(teacher=None)
    assert np.array_equal(
        round_trip(student, tmp_path).predict(X.reshape(40, -1)), student.predict(X.reshape(40, -1))
    )
    (tmp_path / "estimator.safetensors").unlink()
    model = SimCLRTransformer(loss=lambda z: z.square().mean(), **FAST).fit(X)
    with pytest.raises(TypeError, match=r"estimator\.loss is <function"):
        save_estimator(model, path)
    model.set_params(loss="nt_xent").note_ = "mine"
    with pytest.raises(TypeError, match="attribute 'note_'"):
        save_estimator(model, path)
    del model.note_
    with pytest.raises(ValueError, match="'optimizer' parameter .* must be"):
        save_estimator(model.set_params(optimizer="addam"), path)

    class Child(SimCLRTransformer):
        pass

    for other in (make_pipeline(simclr, LogisticRegression()), Child(), "simclr"):
        with pytest.raises(TypeError, match="estimator must be one of"):
            save_estimator(other, path)
    assert os.listdir(tmp_path) == []


def test_a_pipeline_is_saved_in_two_parts(simclr, labelled, tmp_path):
    X, y = labelled
    model = make_pipeline(FrozenEstimator(simclr), LogisticRegression()).fit(X, y)
    save_estimator(model[0].estimator, tmp_path / "encoder.safetensors")
    sio.dump(model[1:], tmp_path / "rest.skops")
    assert sio.get_untrusted_types(file=tmp_path / "rest.skops") == []
    rest = sio.load(tmp_path / "rest.skops", trusted=[])
    again = make_pipeline(
        FrozenEstimator(load_estimator(tmp_path / "encoder.safetensors")), *rest.named_steps.values()
    )
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


# Files that are refused


@pytest.fixture(scope="module")
def saved(simclr, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "simclr.safetensors"
    save_estimator(simclr, path)
    return path


class Bomb:
    def __reduce__(self):
        return os._exit, (1,)


def test_pickles_are_not_opened(tmp_path, simclr, saved):
    path = tmp_path / "bomb"
    torch_file = tmp_path / "torch"
    path.write_bytes(pickle.dumps(Bomb()))
    torch.save(Bomb(), torch_file)
    for load in (load_estimator, load_encoder):
        for bad in (path, torch_file):
            with pytest.raises(ValueError, match="pickles, are never opened"):
                load(bad)
        with pytest.raises(FileNotFoundError, match="nothing"):
            load(tmp_path / "nothing")
        with pytest.raises(TypeError, match="path must be"):
            load(3)
    export_encoder(simclr, path)
    with pytest.raises(ValueError, match="of kind 'encoder', not 'estimator'"):
        load_estimator(path)
    with pytest.raises(ValueError, match="of kind 'estimator', not 'encoder'"):
        load_encoder(saved)


def forge(saved, path, change):
    """Write a file with another description and the right checksum."""
    arrays, records = container.read(saved, "estimator")
    change(records, records[-1], arrays)
    container.write(path, "estimator", arrays, records)


def add_strings(record, arrays, codes):
    arrays["codes"] = codes
    record["attributes"]["classes_"] = {"strings": "codes"}


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"list": [value]}
    return value


FORGERIES = {
    "unknown class": (lambda c, e, t: e.update({"class": "Popen"}), "'Popen'"),
    "module path as class": (lambda c, e, t: e.update({"class": "os.system"}), "'os.system'"),
    "newer parameter": (lambda c, e, t: e["params"].update(new=1), "no parameter 'new'"),
    "invalid parameter": (lambda c, e, t: e["params"].update(temperature=-1.0), "temperature"),
    "method": (lambda c, e, t: e["attributes"].update(transform=1), "'transform'"),
    "class attribute": (lambda c, e, t: e["attributes"].update(__class__=1), "'__class__'"),
    "attribute of another type": (lambda c, e, t: e["attributes"].update(encoder_=1), "'encoder_'"),
    "missing attribute": (lambda c, e, t: e["attributes"].pop("_format"), "'_format'"),
    "not fitted": (lambda c, e, t: e.update(attributes={}), "not fitted|belong to nothing"),
    "unknown kind": (lambda c, e, t: e["params"].update(loss={"call": "os.system"}), "kind 'call'"),
    "two kinds": (lambda c, e, t: e["params"].update(loss={"list": [], "dict": []}), "valid"),
    "no estimator": (lambda c, e, t: c.clear(), "belong to nothing"),
    "no list": (lambda c, e, t: c.__setitem__(0, "estimator"), "valid"),
    "refers to itself": (lambda c, e, t: e["params"].update(loss={"estimator": 0}), "no estimator 0"),
    "array that is described": (
        lambda c, e, t: e["params"].update(loss={"array": ["<U200000000", [1], ["a"]]}),
        "unhashable",
    ),
    "strings of numbers": (lambda c, e, t: add_strings(e, t, torch.zeros(3, 5)), "strings that is none"),
    "strings without length": (
        lambda c, e, t: add_strings(e, t, torch.zeros(3, 0, dtype=torch.int32)),
        "strings that is none",
    ),
    "characters that do not exist": (
        lambda c, e, t: add_strings(e, t, torch.full((3, 5), 0x110000, dtype=torch.int32)),
        "do not exist",
    ),
    "one array, often": (
        lambda c, e, t: e["attributes"].update(history_={"list": [{"tensor": "0"}] * 1000}),
        "'0' is missing",
    ),
    "table of one number": (
        lambda c, e, t: e["attributes"].update(history_={"frame": {"dict": [["a", 1]]}}),
        "else than columns",
    ),
    "unknown network": (
        lambda c, e, t: e["attributes"]["encoder_"]["network"]["of"].update(kind="mine"),
        "'mine'",
    ),
    "huge network": (
        lambda c, e, t: e["attributes"]["projector_"]["network"]["of"].update(n_layers=10**9),
        "more layers",
    ),
    "other shape": (
        lambda c, e, t: e["attributes"]["encoder_"]["network"]["of"].update(width=33),
        "instead of",
    ),
    "superfluous tensor": (lambda c, e, t: t.update(more=torch.zeros(3)), "belong to nothing"),
    "missing tensor": (lambda c, e, t: t.pop("0"), "'0' is missing"),
    "deep nesting": (lambda c, e, t: e["attributes"].update(history_=nested(400)), "recursion"),
    "images without pixels": (
        lambda c, e, t: e["attributes"]["_format"]["format"]["tuple"].__setitem__(1, {"tuple": [0, 8]}),
        "description of the images",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files_are_refused(name, saved, tmp_path):
    change, reason = FORGERIES[name]
    path = tmp_path / "forged.safetensors"
    forge(saved, path, change)
    with pytest.raises(ValueError, match=reason):
        load_estimator(path)


def test_a_file_that_was_not_changed_passes_the_forge(saved, simclr, digits, tmp_path):
    path = tmp_path / "same.safetensors"
    forge(saved, path, lambda c, e, t: None)
    X = digits[0][:3]
    assert np.array_equal(load_estimator(path).transform(X), simclr.transform(X))


def test_strings_take_the_memory_that_they_have_in_the_file(saved, tmp_path):
    """A length that the header names, or one long string among short ones, cannot ask for more."""
    path = tmp_path / "forged.safetensors"
    names = np.array(["short"] * 9 + ["ü" * 50])
    forge(saved, path, lambda c, e, t: add_strings(e, t, torch.from_numpy(names[:, None].view(np.int32))))
    classes = load_estimator(path).classes_
    assert classes.dtype == names.dtype and classes.tolist() == names.tolist()


@pytest.mark.parametrize("place", ["memory", "cache_dir", "checkpoint_dir"])
def test_places_are_not_taken_from_a_file(place, saved, simclr, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forge(saved, "gift.safetensors", lambda c, e, t: e["params"].update({place: "gift"}))
    with pytest.warns(UserWarning, match=rf"gift\.safetensors has {place}='gift', .* None") as caught:
        loaded = load_estimator("gift.safetensors")
    assert caught[0].filename == __file__
    assert getattr(loaded, place) is None
    loaded.fit(digits[0][:16])
    assert os.listdir() == ["gift.safetensors"]


def test_a_file_of_ones_own_is_read_without_a_warning(digits, tmp_path):
    model = SimCLRTransformer(memory=str(tmp_path / "m"), checkpoint_dir=tmp_path / "c", **FAST)
    save_estimator(model.fit(digits[0][:16]), tmp_path / "mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_estimator(tmp_path / "mine")
    assert loaded.memory is loaded.checkpoint_dir is None


def timm_of(changes):
    def change(records, record, arrays):
        record["attributes"]["encoder_"]["network"]["of"].update(changes)

    return change


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "timm:eva_giant_patch14_560.m30m_ft_in22k_in1k"}, "missing or superfluous"),
        ({"in_channels": 10**9}, "instead of"),
        ({"image_size": [10**5, 10**5]}, "too many"),
        ({"image_size": [0, 8]}, "image_size must be"),
        ({"name": "timm:no_such_network"}, "no network"),
        ({"name": "resnet18"}, "no network of timm"),
    ],
)
def test_a_network_of_timm_is_as_large_as_its_arrays(changes, reason, tmp_path):
    pytest.importorskip("timm", reason='needs the extra "timm"')
    X = np.random.default_rng(0).integers(0, 256, (4, 33, 35, 3), dtype=np.uint8)
    model = SimCLRTransformer("timm:test_resnet.r160_in1k", **(FAST | {"max_epochs": 0})).fit(X)
    save_estimator(model, tmp_path / "saved")
    forge(tmp_path / "saved", tmp_path / "forged", timm_of(changes))
    with pytest.raises(ValueError, match=reason):
        load_estimator(tmp_path / "forged")


# What is asked for, and where it is to go


def test_wrong_requests(simclr, tmp_path):
    path = tmp_path / "net"
    with pytest.raises(ValueError, match="format must be one of"):
        export_encoder(simclr, path, format="tflite")
    with pytest.raises(ValueError, match="input_dtype"):
        export_encoder(simclr, path, input_dtype="float16")
    with pytest.raises(TypeError, match="path must be"):
        export_encoder(simclr, None)
    with pytest.raises(TypeError, match="got LogisticRegression"):
        export_encoder(LogisticRegression(), path)
    with pytest.raises(ValueError, match="got Pipeline"):
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
    assert load_encoder(path).out_dim == 576
    other = tmp_path / "other"
    other.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_names_of_networks_are_those_that_make_encoder_knows():
    from sklearn_simclr.encoders.networks import encoder_name

    for name in ("compact", "compactx0.5", "compactx2", "resnet34", "resnet50x2-sk"):
        with torch.device("meta"):
            network, _ = make_encoder(name, 3, (32, 32))
        assert encoder_name(network) == name
    assert encoder_name(ResNet(18)) == "resnet18"
