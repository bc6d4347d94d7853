"""Graphs in ONNX: they answer as the estimators do, or are not written."""

import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fitted import FAST, only_file, shake
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sklearn_simclr import (
    AutoencoderTransformer,
    LabelFractionClassifier,
    LinearEvaluationClassifier,
    PixelTransformer,
    SimCLRTransformer,
    WeightedKNNClassifier,
)
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.encoders.resnet import _avg_pool, _SelectiveKernel
from sklearn_simclr.estimators.nested import ImageStep, trained_step
from sklearn_simclr.export._onnx import ServedNetwork, _PaddedAvgPool, how_to_run, write_onnx
from sklearn_simclr.export._onnx_steps import later_steps, steps_graph
from sklearn_simclr.export.encoder_files import export_encoder
from sklearn_simclr.images.layout import ImageFormat


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnx", reason='needs the extra "onnx"')
    pytest.importorskip("onnxscript", reason='needs the extra "onnx"')
    return pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')


@pytest.fixture
def skl2onnx(onnxruntime):
    return pytest.importorskip("skl2onnx", reason='needs the extra "onnx"')


def answers(onnxruntime, path, X):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert images.shape[1:] == list(X.shape[1:]) and not isinstance(images.shape[0], int)
    return session.run(None, {images.name: X})[0]


def test_onnx_of_the_means_alone(onnxruntime, tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (4, 9, 8), dtype=np.uint8)
    model = SimCLRTransformer("compactx0.5", output="means", **FAST | {"max_epochs": 0}).fit(X)
    path = str(tmp_path / "net.onnx")
    export_encoder(model, path, format="onnx")
    np.testing.assert_allclose(answers(onnxruntime, path, X), model.transform(X), rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(86, 114), (81, 133)])
def test_the_images_of_the_trial_leave_nothing_to_rounding(size, dtype):
    network = CompactNet(3, size)
    shown = ServedNetwork([network], ImageFormat("HWC", (*size, 3), False, (0.0, 255.0)), dtype)
    images = shown.example(4)
    assert images.shape == (4, *size, 3) and images.dtype == dtype
    # Channels take turns in having the most contrast.
    assert images.float().std(dim=(1, 2)).argmax(dim=1).tolist() == [0, 2, 1, 0]
    # Noise far above the rounding of a graph, far below what it is compared with.
    noise = 2e-4 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = shown(images + noise)
        assert (found - shown(images)).abs().max() < 1e-4


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
    with pytest.raises(ValueError, match="differs from that of the estimator"):
        export_encoder(model, path, format="onnx")
    assert path.read_bytes() == b"older" and only_file(tmp_path) == "net.onnx"


def test_onnx_without_its_packages_says_what_to_install(simclr, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[onnx\]"):
        export_encoder(simclr, tmp_path / "net.onnx", format="onnx")
    assert os.listdir(tmp_path) == []


def last_steps(n):
    """Later steps of many kinds; the labels of the classifiers are of many kinds, too."""
    y = np.arange(n) % 3
    words = np.array(["cat", "dog", "eel"])[y]
    yield make_pipeline(StandardScaler(), LogisticRegression()), words, ["labels", "probabilities"]
    yield make_pipeline(MinMaxScaler(), Normalizer(), PCA(5), LogisticRegression()), y == 1, None
    yield make_pipeline("passthrough", StandardScaler(), LinearSVC()), y + 7, ["labels", "scores"]
    yield make_pipeline(make_pipeline(StandardScaler(), None), LinearSVC()), words == "eel", None
    yield LabelFractionClassifier(make_pipeline(StandardScaler(), RidgeClassifier())), y % 2, None
    yield GridSearchCV(LogisticRegression(), {"C": [1.0, 2.0]}, cv=2), words.astype(object), None
    yield LinearEvaluationClassifier(penalties=[1e-2]), words, None
    yield OneVsRestClassifier(LogisticRegression()), np.eye(3, dtype=int)[y], ["labels", "probabilities"]
    yield Ridge(), y * 0.5, ["predictions"]
    yield PCA(4), None, ["representations"]


def test_later_steps_answer_as_in_scikit_learn(skl2onnx, onnxruntime):
    rows = np.random.default_rng(0).normal(2, 3, (40, 12)).astype(np.float32)
    for last, y, names in last_steps(len(rows)):
        model = make_pipeline(FunctionTransformer(), last).fit(rows, y)
        found = ImageStep(None, [], "", [("estimator[1]", last)])
        graph = steps_graph(later_steps(found), rows)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]
        assert names is None or outputs == names
        answer = dict(zip(outputs, session.run(None, {session.get_inputs()[0].name: rows}), strict=True))
        if "labels" in outputs:
            assert (answer["labels"] == model.predict(rows)).all()
        for name, how in (
            ("probabilities", "predict_proba"),
            ("scores", "decision_function"),
            ("predictions", "predict"),
            ("representations", "transform"),
        ):
            if name in outputs:
                expected = getattr(model, how)(rows)
                assert answer[name].shape == expected.shape and np.ptp(expected) > 0.01
                np.testing.assert_allclose(answer[name], expected, rtol=1e-5, atol=1e-5)


def test_onnx_of_a_pipeline_answers_as_all_its_steps(skl2onnx, onnxruntime, simclr, labelled, tmp_path):
    (X, y), path = labelled, str(tmp_path / "net.onnx")
    model = make_pipeline(FrozenEstimator(simclr), StandardScaler(), LogisticRegression()).fit(X, y)
    read = {"X": X}
    exec(export_encoder(model, path, format="onnx"), read)
    assert read["labels"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(read["probabilities"], model.predict_proba(X), rtol=0, atol=1e-5)
    about = json.loads(read["session"].get_modelmeta().custom_metadata_map["sklearn_simclr"])
    assert about["images"]["layout"] == "HW" and about["classes"] == model.classes_.tolist()


def test_steps_that_onnx_cannot_hold_are_named(skl2onnx, simclr, labelled, tmp_path):
    (X, y), path = labelled, tmp_path / "net.onnx"
    frozen = FrozenEstimator(simclr)
    table = pd.DataFrame({"image": list(X), "age": np.arange(len(X), dtype=float)})
    columns = [("image", frozen, "image"), ("age", "passthrough", ["age"])]
    both = ColumnTransformer(columns)
    for model, data, found in (
        (Pipeline([("net", frozen), ("odd", FunctionTransformer(np.abs)), ("c", Ridge())]), X, r"\['odd'\]"),
        (make_pipeline(frozen, WeightedKNNClassifier()), X, "a WeightedKNNClassifier, cannot be written"),
        (make_pipeline(both, LogisticRegression()), table, r"estimator\['columntransformer'\], a Column"),
        (CalibratedClassifierCV(make_pipeline(frozen, LogisticRegression()), cv=2), X, "estimator, a Cali"),
    ):
        target = np.arange(len(X)) if isinstance(model, Pipeline) and "c" in model.named_steps else y
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(data, target)
        with pytest.raises(ValueError, match=found):
            export_encoder(model, path, format="onnx")
    with pytest.raises(NotFittedError):
        export_encoder(make_pipeline(simclr, LogisticRegression()), path, format="onnx")
    assert os.listdir(tmp_path) == []


def test_what_comes_before_the_encoder_is_said(simclr, labelled):
    X = labelled[0]
    table = pd.DataFrame({"image": list(X)})
    one = ColumnTransformer([("image", FrozenEstimator(simclr), "image")]).fit(table)
    assert later_steps(trained_step(one, "test")) == []
    model = make_pipeline(FunctionTransformer(), FrozenEstimator(simclr)).fit(X)
    with pytest.warns(UserWarning, match="FunctionTransformer before estimator"):
        assert later_steps(trained_step(model, "test")) == []


def test_later_steps_without_skl2onnx_say_what_to_install(
    onnxruntime, simclr, labelled, tmp_path, monkeypatch
):
    model = make_pipeline(FrozenEstimator(simclr), StandardScaler()).fit(labelled[0])
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[onnx\]"):
        export_encoder(model, tmp_path / "net.onnx", format="onnx")
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of many kinds: turned, transparent, grey, with a palette, decoded at a reduced scale."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 4), dtype=np.uint8)
    image = Image.fromarray(noise).resize((120, 80))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {"a.png": image, "b.png": image.convert("LA"), "c.jpg": image.convert("RGB")}
    kinds |= {"d.jpg": image.convert("L"), "e.png": image.convert("P"), "f.tif": image.convert("RGB")}
    kinds |= {
        "g.jpg": image.convert("RGB").crop((0, 0, 100, 50)),
        "h.bmp": image.resize((8, 8)).convert("RGB"),
    }
    for name, kind in kinds.items():
        kind.save(folder / name, **({"exif": turned} if name in ("c.jpg", "f.tif", "g.jpg") else {}))
    return sorted(str(path) for path in folder.iterdir())


@pytest.mark.parametrize("image_size", [8, (8, 12), (13, 7)])
def test_the_lines_for_files_give_the_pixels_of_fit(image_size, photos, tmp_path):
    for paths in (photos, [path for path in photos if path[-5:] in ("b.png", "d.jpg")]):
        model = PixelTransformer(image_size=image_size).fit(paths)
        # What follows the pixels needs a graph.
        lines, _, _ = how_to_run(model, "net.onnx", ["labels", "scores"], "uint8").partition("from onnxrun")
        read = {"paths": photos}
        exec(lines, read)
        assert read["X"].shape[1:] == model.image_shape_
        found = model.transform(read["X"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of colours that become grey
            expected = model.transform(photos)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    "dtype, layout", [("uint8", "HWC"), ("uint16", "CHW"), ("float32", "HW"), ("bool", "HW")]
)
def test_the_lines_for_arrays_give_the_pixels_of_fit(dtype, layout):
    shape = {"HWC": (20, 30, 3), "CHW": (5, 20, 30), "HW": (20, 30)}[layout]
    noise = np.random.default_rng(0).random((3, *shape))
    images = list(
        (noise > 0.5) if dtype == "bool" else (noise * (65535 if dtype == "uint16" else 255)).astype(dtype)
    )
    options = {} if layout == "HW" else {"image_shape": layout}
    model = PixelTransformer(image_size=(8, 9), **options).fit(np.stack(images))
    lines, _, _ = how_to_run(model, "net.onnx", ["labels"], "float32").partition("from onnxrun")
    read = {"images": images}
    exec(lines, read)
    np.testing.assert_allclose(
        model.transform(read["X"]), model.transform(np.stack(images)), rtol=0, atol=2e-7
    )


def test_the_lines_take_images_of_the_size_of_fit_as_they_are(digits):
    model = PixelTransformer().fit(digits[0][:4])
    assert how_to_run(model, "net.onnx", ["labels", "scores"], "float32").splitlines() == [
        "from onnxruntime import InferenceSession",
        "session = InferenceSession('net.onnx')",
        "labels, scores = session.run(None, {'images': X.astype('float32')})",
    ]
