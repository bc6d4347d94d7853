"""Files of estimators: the estimator comes back bit by bit, and forged files are refused."""

import os
import pickle
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import skops.io as sio
import torch
from fitted import FAST, shake
from helpers import fitted_modules, tiny
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from torch import nn

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    HOGTransformer,
    LabelFractionClassifier,
    PACBayesContrastiveTransformer,
    PixelTransformer,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr._utils import container
from sklearn_simclr.export.encoder_files import export_encoder, load_encoder
from sklearn_simclr.export.estimator_files import load_estimator, save_estimator
from sklearn_simclr.losses import nt_xent

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
    for name, module in fitted_modules(estimator).items():
        assert_same_state(module.state_dict(), fitted_modules(loaded)[name].state_dict())
        assert repr(module) == repr(fitted_modules(loaded)[name])
    left_out = {"teacher_"}
    assert vars(loaded).keys() == vars(estimator).keys() - left_out
    assert loaded.history_.equals(estimator.history_)
    assert loaded.history_.dtypes.equals(estimator.history_.dtypes)
    return loaded


def test_verbose_is_of_who_watched_and_does_not_come_back(digits, tmp_path):
    model = SimCLRTransformer(max_epochs=0, verbose=1, random_state=0).fit(digits[0][:8])
    assert round_trip(model, tmp_path).verbose == 0
    assert pickle.loads(pickle.dumps(model)).verbose == 1


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
    with_weights = SimCLRTransformer(loss=WithTemperature(), **FAST).partial_fit(X)
    with pytest.raises(TypeError, match=r"estimator\.loss is a WithTemperature.*loss='nt_xent'"):
        save_estimator(with_weights, path)
    save_estimator(with_weights.set_params(loss="nt_xent"), path)
    again = load_estimator(path)
    path.unlink()
    assert np.array_equal(again.transform(X), with_weights.transform(X)) and not hasattr(again, "loss_")
    assert again.partial_fit(X).n_iter_ == 2  # without the optimizer's numbers for the loss
    model.set_params(loss="nt_xent").note_ = "mine"
    with pytest.raises(TypeError, match="attribute 'note_'"):
        save_estimator(model, path)
    del model.note_
    with pytest.raises(ValueError, match="'optimizer' parameter .* must be"):
        save_estimator(model.set_params(optimizer="addam"), path)

    class Child(SimCLRTransformer):
        pass

    for other in (make_pipeline(PCA(), LogisticRegression()), Child(), "simclr"):
        with pytest.raises(TypeError, match="estimator must be one of"):
            save_estimator(other, path)
    assert os.listdir(tmp_path) == []


def test_pipelines_and_the_like_come_back(simclr, labelled, tmp_path):
    X, y = labelled
    table = pd.DataFrame({"photo": list(X), "age": np.arange(len(X), dtype=float)})
    frozen = FrozenEstimator(simclr)
    steps = (
        StandardScaler(),
        VarianceThreshold(),
        SelectKBest(k=20),
        PCA(5),
        LabelFractionClassifier(LogisticRegression()),
    )
    pipeline = make_pipeline(frozen, *steps, memory=str(tmp_path / "cache")).fit(X, y)
    columns = [
        ("photo", SimCLRTransformer(projection_dim=8, **FAST), "photo"),
        ("age", "passthrough", ["age"]),
    ]
    union = FeatureUnion([("a", frozen), ("b", make_pipeline(frozen, PCA(2)))])
    path = tmp_path / "model.safetensors"
    hog = HOGTransformer(n_orientations=4, cache_dir=tmp_path / "decoded")
    features = FeatureUnion([("pixels", PixelTransformer(image_size=(4, 4))), ("hog", hog)])
    for model, data in (
        (pipeline, X),
        (make_pipeline(features, PCA(3), GaussianNB()).fit(X, y), X),
        (PixelTransformer().fit(X), X),
        (frozen, X),
        (make_pipeline(ColumnTransformer(columns), GaussianNB()).fit(table, y), table),
        (make_pipeline(union, SVC()).fit(X, y), X),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save_estimator(model, path)
            again = load_estimator(path)
        answer = "predict" if hasattr(model, "predict") else "transform"
        assert np.array_equal(getattr(again, answer)(data), getattr(model, answer)(data))
        assert clone(again).get_params(deep=False).keys() == model.get_params(deep=False).keys()
        assert again.get_params().get("memory") is None
    assert pipeline.memory is not None


class WithTemperature(nn.Module):
    """A loss with a number that is trained."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.5))

    def forward(self, z):
        return nt_xent(z, 0.2) / self.temperature.exp()


class Unknown(TransformerMixin, BaseEstimator):
    """A step of somebody's own."""

    def __sklearn_is_fitted__(self):
        return True


def test_steps_that_a_file_cannot_hold_are_named(simclr, tmp_path):
    path = tmp_path / "all.safetensors"
    frozen, last = FrozenEstimator(simclr), GaussianNB().fit([[0], [1]], [0, 1])
    for step, found in (
        (FunctionTransformer(tiny), "helpers.tiny"),
        (Unknown(), "Unknown"),
        (FunctionTransformer(kw_args={"a": scipy.sparse.csr_array(np.eye(3))}), "csr_array"),
    ):
        model = Pipeline([("simclr", frozen), ("step", step), ("clf", last)])
        with pytest.raises(TypeError, match=f"{found}.*pickle the estimator for your own use"):
            save_estimator(model, path)
    with pytest.raises(NotFittedError):
        save_estimator(make_pipeline(simclr, LogisticRegression()), path)
    of_theory = FeatureUnion([("simclr", frozen), ("bound", PACBayesContrastiveTransformer())])
    with pytest.raises(
        TypeError, match=r"\['bound'\] must be one of .* got PACBayes.*Pickle this step.*export_encoder"
    ):
        save_estimator(make_pipeline(of_theory, last), path)
    assert os.listdir(tmp_path) == []


def test_what_is_around_is_not_trusted(simclr, labelled, tmp_path):
    X, y = labelled
    path, forged = tmp_path / "model.safetensors", tmp_path / "forged.safetensors"
    save_estimator(make_pipeline(FrozenEstimator(simclr), GaussianNB()).fit(X, y), path)
    arrays, meta = container.read(path, "estimator")

    def refused(around, reason, **changes):
        changed = {**arrays, meta["around"]: np.frombuffer(around, dtype=np.uint8)}
        container.write(forged, "estimator", changed, {**meta, **changes})
        with pytest.raises(ValueError, match=f"not a valid file of an estimator.*{reason}"):
            load_estimator(forged)

    around = arrays[meta["around"]].numpy().tobytes()
    refused(b"PK", "zip")
    refused(sio.dumps(Unknown()), "Unknown")
    refused(sio.dumps(PCA()), "no place")
    refused(around, "no estimator 7", held=[7])
    refused(sio.dumps({"a": np.zeros(10**5)}, compression=zipfile.ZIP_DEFLATED), "larger than its file")
    # A cache in a folder that somebody else chose may hold pickles, wherever it hides.
    inner = make_pipeline(PCA(), memory="theirs")
    kept = sio.loads(around, trusted=[])
    kept.steps.insert(1, ("b", FunctionTransformer(kw_args={"deep": [np.array([{"x": inner}, None])]})))
    changed = {**arrays, meta["around"]: np.frombuffer(sio.dumps(kept), dtype=np.uint8)}
    container.write(forged, "estimator", changed, meta)
    with pytest.warns(UserWarning, match="memory='theirs', which is not taken from a file"):
        found = load_estimator(forged)
    assert found.steps[1][1].kw_args["deep"][0][0]["x"].memory is None


# Files that are refused


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


def forge_generator(place):
    def change(records, record, arrays):
        _, keys, _, has_gauss, cached = np.random.RandomState(0).get_state()
        arrays["keys"] = torch.from_numpy(keys)
        state = ["MT19937", {"array": "keys"}, place, has_gauss, cached]
        record["params"]["random_state"] = {"random_state": {"tuple": state}}

    return change


FORGERIES = {
    "generator that reads beyond its numbers": (forge_generator(10**6), "at the place 1000000"),
    "generator that reads before its numbers": (forge_generator(-5), "at the place -5"),
    "unknown class": (lambda c, e, t: e.update({"class": "Popen"}), "'Popen'"),
    "module path as class": (lambda c, e, t: e.update({"class": "os.system"}), "'os.system'"),
    "newer parameter": (lambda c, e, t: e["params"].update(new=1), "no parameter 'new'"),
    "invalid parameter": (lambda c, e, t: e["params"].update(temperature=-1.0), "temperature"),
    "method": (lambda c, e, t: e["attributes"].update(transform=1), "'transform'"),
    "class attribute": (lambda c, e, t: e["attributes"].update(__class__=1), "'__class__'"),
    "attribute of another type": (lambda c, e, t: e["attributes"].update(encoder_=1), "'encoder_'"),
    "missing attribute": (lambda c, e, t: e["attributes"].pop("_format"), "'_format'"),
    "not fitted": (lambda c, e, t: e.update(attributes={}), "not fitted|belong to no estimator"),
    "unknown kind": (lambda c, e, t: e["params"].update(loss={"call": "os.system"}), "kind 'call'"),
    "two kinds": (lambda c, e, t: e["params"].update(loss={"list": [], "dict": []}), "valid"),
    "no estimator": (lambda c, e, t: c.clear(), "belong to no estimator"),
    "no list": (lambda c, e, t: c.__setitem__(0, "estimator"), "valid"),
    "refers to itself": (lambda c, e, t: e["params"].update(loss={"estimator": 0}), "no estimator 0"),
    "array that is described": (
        lambda c, e, t: e["params"].update(loss={"array": ["<U200000000", [1], ["a"]]}),
        "unhashable",
    ),
    "strings of numbers": (
        lambda c, e, t: add_strings(e, t, torch.zeros(3, 5)),
        "arrays of strings is not valid",
    ),
    "strings without length": (
        lambda c, e, t: add_strings(e, t, torch.zeros(3, 0, dtype=torch.int32)),
        "arrays of strings is not valid",
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
        "other than columns",
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
    "superfluous tensor": (lambda c, e, t: t.update(more=torch.zeros(3)), "belong to no estimator"),
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


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda e: e["params"].update(n_orientations=10**6), "n_orientations"),
        (lambda e: e["attributes"].update(_n_features_out=2**40), "too many"),
        (lambda e: e["attributes"].pop("_n_features_out"), "lacks"),
    ],
)
def test_a_file_cannot_ask_for_any_number_of_features(change, reason, digits, tmp_path):
    path = tmp_path / "hog.safetensors"
    save_estimator(HOGTransformer().fit(digits[0][:2]), path)
    forge(path, tmp_path / "forged", lambda records, last, arrays: change(last))
    with pytest.raises(ValueError, match=f"not a valid file of an estimator.*{reason}"):
        load_estimator(tmp_path / "forged")


def test_strings_take_the_memory_that_they_have_in_the_file(saved, tmp_path):
    """A length that the header names, or one long string among short ones, cannot ask for more."""
    path = tmp_path / "forged.safetensors"
    names = np.array(["short"] * 9 + ["ü" * 50])
    forge(saved, path, lambda c, e, t: add_strings(e, t, torch.from_numpy(names[:, None].view(np.int32))))
    classes = load_estimator(path).classes_
    assert classes.dtype == names.dtype and classes.tolist() == names.tolist()
    forge(saved, path, lambda c, e, t: add_strings(e, t, torch.empty(0, 10**8, dtype=torch.int32)))
    assert load_estimator(path).classes_.dtype == "U1"


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
        ({"in_channels": 10**6}, "instead of"),
        ({"in_channels": 10**9}, "at most 2147483647 numbers"),
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
