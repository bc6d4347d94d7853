"""SimCLRTransformer as a user meets it: alone, in pipelines and searches, with good and bad input."""

import functools
import io
import os
import pickle
import pickletools
import re
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from helpers import CountTrainings, same, tiny, trainings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring
from torch import nn

from sklearn_simclr import (
    Augmentation,
    LabelFractionClassifier,
    SimCLRTransformer,
)
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.encoders.traits import read_part
from sklearn_simclr.losses import margin_triplet, nt_xent

# An encoder that is to learn something needs more; most tests here do not ask for that.
pytestmark = pytest.mark.filterwarnings("ignore:X has 40 images:sklearn.exceptions.ConvergenceWarning")


def make(**params):
    defaults = {"encoder": tiny, "max_epochs": 2, "batch_size": 16, "projection_dim": 5, "random_state": 0}
    return SimCLRTransformer(**{**defaults, **params})


def weights(simclr):
    modules = {"encoder": simclr.encoder_, "projector": simclr.projector_}
    return {f"{n}.{k}": v.clone() for n, m in modules.items() for k, v in m.state_dict().items()}


@pytest.fixture(scope="module")
def images():
    X = np.random.default_rng(0).integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    X.setflags(write=False)
    return X


@pytest.fixture(scope="module")
def labels():
    return np.arange(40) % 4


@pytest.fixture(scope="module")
def fitted(images):
    return make().fit(images)


# ---- What fit and transform return -----------------------------------------------------------


def test_fitted_attributes(fitted, images):
    assert fitted.image_shape_ == (12, 10, 3)
    assert fitted.pixel_range_ == (0.0, 255.0)
    assert fitted.n_features_in_ == 360
    assert fitted.n_iter_ == 2
    assert len(fitted.loss_curve_) == 2
    assert list(fitted.history_.columns) == [
        "epoch",
        "loss",
        "chance_level",
        "contrastive_accuracy",
        "effective_rank",
        "images_per_second",
        "learning_rate",
        "seconds",
    ]
    assert list(fitted.history_["epoch"]) == [1, 2]
    assert np.allclose(fitted.history_["chance_level"], np.log(31))
    assert isinstance(fitted.augmentation_, Augmentation)
    assert not fitted.encoder_.training
    H = fitted.transform(images)
    assert H.shape == (40, 6) and H.dtype == np.float32
    assert list(fitted.get_feature_names_out()) == [f"simclrtransformer{i}" for i in range(6)]


@pytest.mark.parametrize(("output", "dim"), [("encoder", 6), (0, 6), (1, 6), (2, 5), ("projection", 5)])
def test_output(fitted, images, output, dim):
    simclr = pickle.loads(pickle.dumps(fitted)).set_params(output=output)
    H = simclr.transform(images)
    assert H.shape == (40, dim)
    assert len(simclr.get_feature_names_out()) == dim
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        h = simclr.encoder_(x)
        layer = {"encoder": 0, "projection": 2}.get(output, output)
        np.testing.assert_allclose(H, simclr.projector_(h, layer), atol=1e-5)


@pytest.mark.parametrize(("encoder", "is_part"), [("compactx0.5", True), (tiny, False)])
def test_means_are_the_part_of_a_representation_that_the_head_reads(images, encoder, is_part):
    simclr = make(encoder=encoder, max_epochs=0).fit(images)
    H = simclr.transform(images)
    read = simclr.projector_.read_dim
    assert (read < H.shape[1]) == is_part
    simclr.set_params(output="means")
    np.testing.assert_array_equal(simclr.transform(images), H[:, :read])
    assert len(simclr.get_feature_names_out()) == read


@pytest.mark.parametrize("output", [3, -1, "h", None])
def test_bad_output(fitted, images, output):
    simclr = clone(fitted).set_params(output=output)
    simclr.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_") or k == "_format"})
    with pytest.raises(ValueError, match="output.*'encoder'"):
        simclr.transform(images)


# ---- Mirror images ---------------------------------------------------------------------------


def mirrored(X):
    return X[:, :, ::-1].copy()


def test_mirror_is_the_mean_over_an_image_and_its_mirror_image(fitted, images):
    simclr = pickle.loads(pickle.dumps(fitted))
    plain = simclr.set_params(mirror=False).transform(images)
    np.testing.assert_array_equal(plain, fitted.transform(images))  # "auto", another encoder
    expected = (plain + simclr.transform(mirrored(images))) / 2
    found = simclr.set_params(mirror=True).transform(images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, plain, atol=1e-4)
    np.testing.assert_array_equal(simclr.transform(mirrored(images)), found)


@pytest.mark.parametrize(
    ("params", "mirrors"),
    [
        ({"encoder": "compactx0.5"}, True),
        ({"encoder": "compactx0.5", "augmentation": Augmentation(flip_probability=0)}, False),
        ({"encoder": "resnet18"}, False),
    ],
)
def test_auto_mirrors_for_the_compact_encoder_if_its_views_were(images, params, mirrors):
    simclr = make(**params, max_epochs=0).fit(images)
    same = np.array_equal(simclr.transform(images), simclr.transform(mirrored(images)))
    assert same == mirrors


def test_mirror_does_not_change_what_is_learnt(images, tmp_path):
    params = {"encoder": "compactx0.5", "memory": str(tmp_path), "max_epochs": 1}
    assert same(weights(make(**params, mirror=True).fit(images)), weights(make(**params).fit(images)))


@pytest.mark.parametrize("mirror", ["yes", None, 2])
def test_bad_mirror(images, fitted, mirror):
    with pytest.raises(ValueError, match="mirror.*'auto'"):
        make(mirror=mirror).fit(images)
    with pytest.raises(ValueError, match="mirror must be 'auto', True or False"):
        pickle.loads(pickle.dumps(fitted)).set_params(mirror=mirror).transform(images)


def test_set_output_to_pandas(images):
    frame = make(max_epochs=0).set_output(transform="pandas").fit_transform(images)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == [f"simclrtransformer{i}" for i in range(6)]


def test_fit_learns(digits):
    X, _ = digits
    simclr = SimCLRTransformer(encoder=wide, max_epochs=20, random_state=0, batch_size=128)
    simclr.fit(X[:640])
    untrained = clone(simclr).set_params(max_epochs=0).fit(X[:640])
    assert simclr.loss_curve_[-1] < simclr.loss_curve_[0] < np.log(255) + 0.5
    assert simclr.score(X[640:]) > 2 * untrained.score(X[640:])


def wide(in_channels):
    """Return an encoder that can learn digits."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
    )


# ---- The contracts of scikit-learn, for images -------------------------------------------------


def test_input_and_parameters_are_not_changed(images):
    module, augmentation = tiny(3), Augmentation(color_strength=0.2)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    X = images.copy()
    simclr = make(encoder=module, augmentation=augmentation)
    params = simclr.get_params()
    simclr.fit(X).transform(X)
    assert (images == X).all()
    assert same(before, module.state_dict())
    assert simclr.get_params() == params
    assert simclr.augmentation is augmentation and augmentation.size == "auto"


def test_same_seed_same_bits(images, fitted):
    torch.manual_seed(123)
    np.random.seed(99)  # noqa: NPY002  (the global generator is what must not matter)
    again = make().fit(images)
    assert same(weights(fitted), weights(again))
    assert (fitted.transform(images) == again.transform(images)).all()
    assert not same(weights(fitted), weights(make(random_state=1).fit(images)))
    assert not same(
        weights(make(random_state=None).fit(images)), weights(make(random_state=None).fit(images))
    )


def test_a_random_state_instance_is_advanced(images):
    rng = np.random.RandomState(0)
    first, second = (weights(make(random_state=rng).fit(images)) for _ in range(2))
    assert not same(first, second)
    assert same(first, weights(make(random_state=np.random.RandomState(0)).fit(images)))


def test_another_number_of_threads_agrees_within_rounding(images):
    # Not AdamW: it turns a gradient that is zero but for rounding into a full step.
    first = make(optimizer="sgd").fit_transform(images)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        other = make(optimizer="sgd").fit_transform(images)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(other, first, atol=1e-4)


@pytest.mark.parametrize("random_state", [0, None])
def test_global_state_is_as_before(images, random_state):
    def state():
        return (
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),  # noqa: NPY002
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.mkldnn.enabled,
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            warnings.filters[:],
        )

    torch.manual_seed(1)
    before = state()
    make(random_state=random_state).fit(images).transform(images)
    assert state() == before


def test_y_is_ignored(images, fitted, labels):
    for y in (labels, ["a"] * 40, np.full(40, np.nan), object()):
        assert same(weights(fitted), weights(make().fit(images, y)))


def test_rows_do_not_depend_on_their_batch(fitted, images):
    X = np.concatenate([images] * 8)
    H = fitted.transform(X)
    before = weights(fitted)
    for rows in (slice(0, 1), slice(3, 20), slice(0, 257), [39, 0, 5]):
        np.testing.assert_allclose(fitted.transform(X[rows]), H[rows], atol=1e-6)
    assert same(before, weights(fitted))


def test_all_layouts_give_the_same_representations(images):
    H = make(optimizer="sgd").fit_transform(images)
    chw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    for X, image_shape in [
        (chw, "auto"),
        (images.reshape(40, -1), (12, 10, 3)),
        (chw.reshape(40, -1), (3, 12, 10)),
        (torch.from_numpy(images.copy()), "auto"),
        (list(images), "auto"),
        (pd.DataFrame(images.reshape(40, -1)), (12, 10, 3)),
        (pd.DataFrame(images.reshape(40, -1)).rename(columns=str), (12, 10, 3)),
    ]:
        assert (make(optimizer="sgd", image_shape=image_shape).fit_transform(X) == H).all()
    as_float = make(optimizer="sgd").fit_transform(images / 255.0)
    np.testing.assert_allclose(as_float, H, atol=1e-4)


def test_column_names(images):
    frame = pd.DataFrame(images.reshape(40, -1)).add_prefix("p")
    simclr = make(image_shape=(12, 10, 3)).fit(frame)
    assert list(simclr.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        simclr.transform(frame[frame.columns[::-1]])
    simclr.fit(images)
    assert not hasattr(simclr, "feature_names_in_")


# ---- Pipelines, searches, caches ---------------------------------------------------------------


def test_pipeline_with_classifier(images, labels):
    pipe = Pipeline([("simclr", make()), ("clf", LogisticRegression())])
    result = cross_validate(pipe, images, labels, cv=2, error_score="raise")
    assert result["test_score"].shape == (2,)


@pytest.mark.parametrize(
    ("where", "n_jobs", "random_state"),
    [("transformer", 2, 0), ("transformer", 2, None), ("transformer", 1, None), ("pipeline", 1, None)],
)
def test_a_search_over_label_fractions_pretrains_once_a_fold(
    tmp_path, images, labels, where, n_jobs, random_state
):
    log, cache = tmp_path / "log", str(tmp_path / "cache")
    simclr = make(callbacks=[CountTrainings(str(log))], max_epochs=5, random_state=random_state)
    if where == "transformer":
        simclr.set_params(memory=cache)
    clf = LabelFractionClassifier(LogisticRegression(), random_state=0)
    pipe = Pipeline([("simclr", simclr), ("clf", clf)], memory=cache if where == "pipeline" else None)
    grid = {"clf__label_fraction": [0.2, 0.5, 1.0], "clf__estimator__C": [0.1, 1.0]}
    search = GridSearchCV(pipe, grid, cv=3, n_jobs=n_jobs, refit=False, error_score="raise")
    search.fit(images, labels)
    assert trainings(log) == 3
    assert len(search.cv_results_["params"]) == 6


def test_workers_that_want_the_same_encoder_at_the_same_time_train_it_once(tmp_path, images):
    simclr = make(memory=str(tmp_path / "cache"), max_epochs=40)
    for seed, backend in enumerate(("loky", "threading")):
        log = tmp_path / backend
        simclr.set_params(callbacks=[CountTrainings(str(log))], random_state=seed)
        fits = joblib.Parallel(n_jobs=2, backend=backend)(
            joblib.delayed(lambda s: s.fit(images).transform(images))(clone(simclr)) for _ in range(4)
        )
        assert all((fits[0] == other).all() for other in fits)
        assert trainings(log) == 1


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_without_memory_workers_share_nothing(tmp_path, images, backend):
    log = tmp_path / "log"
    simclr = make(callbacks=[CountTrainings(str(log))], random_state=None)
    fits = joblib.Parallel(n_jobs=2, backend=backend)(
        joblib.delayed(lambda s: s.fit(images).loss_curve_)(clone(simclr)) for _ in range(4)
    )
    assert trainings(log) == 4
    assert len({tuple(curve) for curve in fits}) == 4


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_train_with_the_loss_that_they_were_given(images, backend):
    def loss_of(temperature):
        return lambda z: nt_xent(z, temperature)

    def fit(temperature):
        return make(loss=loss_of(temperature)).fit(images).loss_curve_

    temperatures = [0.1, 0.5, 5.0]
    found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(fit)(t) for t in temperatures)
    np.testing.assert_allclose(found, [fit(t) for t in temperatures], rtol=1e-5)


def test_memory_sees_what_matters_to_the_training(tmp_path, images):
    log = tmp_path / "log"
    callbacks = [CountTrainings(str(log))]
    simclr = make(memory=str(tmp_path / "cache"), callbacks=callbacks)
    first = clone(simclr).fit(images)
    for params in (
        {"verbose": 0},
        {"device": "cpu"},
        {"output": "projection"},
        {"mirror": False},
        {"encoder": functools.partial(tiny)},  # the same network with the same weights
    ):
        same_one = clone(simclr).set_params(**params).fit(images)
        assert same(weights(first), weights(same_one))
        pd.testing.assert_frame_equal(same_one.history_, first.history_)
    clone(simclr).fit(torch.from_numpy(images.copy()))
    assert trainings(log) == 1
    for n, params in enumerate(
        (
            {"temperature": 0.3},
            {"augmentation__color_strength": 0.1},
            {"random_state": 1},
            {"encoder": nn.Sequential(nn.Flatten(), nn.Linear(360, 4))},
            {"max_epochs": 3},
            {"callbacks": [*callbacks, EarlyStopping(monitor="train_loss")]},
            {"loss": functools.partial(margin_triplet, margin=0.1)},
            {"loss": functools.partial(margin_triplet, margin=0.2)},
        ),
        start=2,
    ):
        clone(simclr).set_params(**params).fit(images)
        assert trainings(log) == n, params
    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    clone(simclr).fit(other)
    clone(simclr).fit(images[:-1])
    assert trainings(log) == 11


def test_frozen_encoder_is_not_refitted(tmp_path, images, labels):
    log = tmp_path / "log"
    simclr = make(callbacks=[CountTrainings(str(log))]).fit(images)
    pipe = make_pipeline(FrozenEstimator(simclr), LogisticRegression()).fit(images, labels)
    cross_validate(pipe, images, labels, cv=3, error_score="raise")
    assert trainings(log) == 1
    assert pipe[0].estimator is simclr


def test_augmentation_and_temperature_can_be_searched_without_labels(images):
    grid = {"augmentation__color_strength": [0.1, 0.9], "temperature": [0.1, 0.5]}
    search = GridSearchCV(make(), grid, cv=2, error_score="raise").fit(images)
    assert len({tuple(sorted(p.items())) for p in search.cv_results_["params"]}) == 4
    assert search.best_estimator_.augmentation_.color_strength in (0.1, 0.9)
    pipe = Pipeline([("simclr", make(augmentation=Augmentation(size=8))), ("clf", LogisticRegression())])
    pipe.set_params(simclr__augmentation__color_strength=0.3, simclr__temperature=0.4)
    assert pipe["simclr"].augmentation.color_strength == 0.3
    assert pipe["simclr"].augmentation.size == 8


# ---- Pickles -----------------------------------------------------------------------------------


ENCODERS = {"tiny": tiny, "compact": "compact", "linear": nn.Sequential(nn.Flatten(), nn.Linear(360, 4))}


@pytest.fixture(scope="module")
def pipes(images, labels):
    """One fitted pipeline for each kind of encoder."""

    def fit(encoder):
        simclr = make(encoder=encoder, callbacks=[EarlyStopping(monitor="train_loss", load_best=True)])
        pipe = make_pipeline(simclr, LogisticRegression(max_iter=2000)).fit(images, labels)
        pipe[0].partial_fit(images)
        return pipe

    return {name: fit(encoder) for name, encoder in ENCODERS.items()}


@pytest.mark.parametrize("name", ENCODERS)
def test_pickles_hold_arrays_and_hash_stably(pipes, images, name):
    pipe = pipes[name]
    dumped = pickle.dumps(pipe)
    strings = {arg for op, arg, _ in pickletools.genops(dumped) if isinstance(arg, str)}
    assert not {"_rebuild_tensor_v2", "_rebuild_parameter", "torch._utils", "torch.storage"} & strings
    loaded = pickle.loads(dumped)
    assert same(weights(pipe[0]), weights(loaded[0]))
    again = pickle.loads(pickle.dumps(loaded))
    assert joblib.hash(pipe[0]) == joblib.hash(loaded[0]) == joblib.hash(again[0])
    assert (loaded[0].transform(images) == pipe[0].transform(images)).all()
    assert isinstance(loaded[0].encoder_, nn.Module)
    assert all(isinstance(p, nn.Parameter) for p in loaded[0].encoder_.parameters())
    loaded[0].partial_fit(images)


def test_another_process_finds_the_hash_and_the_representations(tmp_path, pipes, images):
    joblib.dump((pipes, images), tmp_path / "pipes.joblib")
    code = (
        "import joblib, sys; pipes, X = joblib.load(sys.argv[1]); "
        "[print(joblib.hash(pipe[0]), float(abs(pipe[0].transform(X)).sum())) for pipe in pipes.values()]"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pipes.joblib")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for pipe, line in zip(pipes.values(), out, strict=True):
        key, total = line.split()
        assert key == joblib.hash(pipe[0])
        assert float(total) == pytest.approx(float(abs(pipe[0].transform(images)).sum()), rel=1e-5)


def test_shared_weights_stay_shared_in_a_pickle(images):
    linear = nn.Linear(360, 360, bias=False)
    module = nn.Sequential(nn.Flatten(), linear, nn.ReLU(), linear)
    loaded = pickle.loads(pickle.dumps(make(encoder=module).fit(images)))
    assert loaded.encoder_[1].weight is loaded.encoder_[3].weight


# ---- Training ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", ["nt_xent", "nt_logistic", "margin_triplet", "curl_logistic", "curl_hinge", margin_triplet]
)
@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw", "muon"])
def test_losses_and_optimizers(images, loss, optimizer):
    simclr = make(loss=loss, optimizer=optimizer).fit(images)
    assert np.isfinite(simclr.loss_curve_).all()
    assert not same(weights(simclr), weights(make(max_epochs=0).fit(images)))


@pytest.mark.parametrize("projection_layers", [0, 1, 3])
def test_projection_layers(images, projection_layers):
    simclr = make(projection_layers=projection_layers, output="projection").fit(images)
    assert simclr.transform(images).shape == (40, 5 if projection_layers else 6)


def test_the_whole_schedule_is_run(images):
    rates = make(max_epochs=20, warmup=0.25, learning_rate=0.5).fit(images).history_["learning_rate"]
    assert rates.idxmax() in (4, 5) and rates.max() == pytest.approx(0.5, rel=0.05)
    assert rates.iloc[-1] < 0.01


def test_small_x_is_one_batch(images):
    simclr = make(batch_size=256, max_epochs=3).fit(images[:7])
    assert simclr.n_iter_ == 3
    assert np.allclose(simclr.history_["chance_level"], np.log(13))
    assert make().fit(images[:2]).transform(images).shape == (40, 6)


def test_auto_is_one_network_however_long_it_trains():
    images = np.random.default_rng(0).random((40, 20, 20, 3), dtype=np.float32)
    widths = [
        SimCLRTransformer(max_time=seconds, max_epochs=0).fit(images).transform(images).shape[1]
        for seconds in (None, 599, 600, 10_000)
    ]
    assert widths == 4 * [3200]


def test_untrained_baseline(images):
    simclr = make(max_epochs=0, max_time=5).fit(images)
    assert simclr.n_iter_ == 0 and simclr.loss_curve_ == [] and len(simclr.history_) == 0
    assert simclr.transform(images).shape == (40, 6)


def test_warm_start_continues(images):
    simclr = make(warm_start=True).fit(images)
    before = weights(simclr)
    simclr.set_params(max_epochs=0).fit(images)
    assert same(before, weights(simclr))
    simclr.set_params(max_epochs=3).fit(images)
    assert not same(before, weights(simclr))
    assert simclr.n_iter_ == 5 and list(simclr.history_["epoch"]) == [1, 2, 3, 4, 5]
    assert same(before, weights(make().fit(images)))
    with pytest.raises(ValueError, match="were seen in fit"):
        simclr.fit(images[:, :8])
    assert simclr.n_iter_ == 5


def test_partial_fit_is_one_epoch_on_the_images_given(images):
    simclr = make(max_epochs=10, warmup=0.2)
    rates = []
    for part in np.array_split(images, 4):
        simclr.partial_fit(part)
        rates.append(simclr.history_["learning_rate"].iloc[-1])
    assert simclr.n_iter_ == 4
    assert rates[0] <= rates[1] <= rates[2] == rates[3]
    again = make(max_epochs=10, warmup=0.2)
    for part in np.array_split(images, 4):
        again = pickle.loads(pickle.dumps(again.partial_fit(part)))
    assert same(weights(simclr), weights(again))
    simclr.fit(images)
    assert same(weights(simclr), weights(make(max_epochs=10, warmup=0.2).fit(images)))


@pytest.mark.parametrize("kept", [0, 69_119])
def test_views_of_a_large_batch_are_kept_where_they_are_small(images, monkeypatch, kept):
    drawn = []
    apply = Augmentation.apply
    monkeypatch.setattr(
        Augmentation, "apply", lambda *args, **more: drawn.append(args) or apply(*args, **more)
    )
    params = {"batch_size": 24, "micro_batch_size": 8, "max_epochs": 1}
    expected = weights(make(**params).fit(images))
    assert len(drawn) == 3
    monkeypatch.setattr("sklearn_simclr.training.contrastive._KEPT_BYTES", kept)
    assert same(weights(make(**params).fit(images)), expected)
    assert len(drawn) == 3 + 5


class Centred(nn.Module):
    """An encoder that changes its input in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 6)

    def forward(self, images):
        return self.linear(images.sub_(0.5).mul_(3).square().mean(dim=(2, 3)))


def test_kept_views_survive_an_encoder_that_changes_them(images, monkeypatch):
    params = {"encoder": Centred(), "batch_size": 24, "micro_batch_size": 8, "max_epochs": 2}
    expected = weights(make(**params).fit(images))
    monkeypatch.setattr("sklearn_simclr.training.contrastive._KEPT_BYTES", 0)
    assert same(weights(make(**params).fit(images)), expected)


def test_micro_batches_learn_the_same_without_batchnorm(images):
    def plain():
        return nn.Sequential(nn.Flatten(), nn.Linear(360, 16), nn.Tanh())

    params = {"encoder": plain, "projection_layers": 0, "batch_size": 24, "max_epochs": 3}
    params |= {"optimizer": "sgd", "loss": functools.partial(margin_triplet, margin=0.7)}
    whole = make(**params).fit(images)
    parts = make(**params, micro_batch_size=7).fit(images)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=1e-5, rtol=1e-4)
    assert np.isfinite(make(batch_size=24, micro_batch_size=8).fit(images).loss_curve_).all()


def test_a_single_step_trains(images):
    untrained = weights(make(max_epochs=0).fit(images))
    for simclr in (make(max_epochs=1, batch_size=256), make(max_epochs=1, batch_size=256, warmup=0.9)):
        assert simclr.fit(images).history_["learning_rate"].iloc[0] > 0
        assert not torch.equal(weights(simclr)["encoder.6.weight"], untrained["encoder.6.weight"])
    assert make(batch_size=256).partial_fit(images).history_["learning_rate"].iloc[0] > 0


@pytest.mark.parametrize("params", [{"projection_dim": 7}, {"projection_layers": 3}, {"encoder": "compact"}])
def test_warm_start_refuses_another_architecture(images, params):
    simclr = make(warm_start=True).fit(images)
    before = weights(simclr)
    with pytest.raises(ValueError, match=f"{next(iter(params))} changed from"):
        simclr.set_params(**params).fit(images)
    assert same(before, weights(simclr))


def test_checkpoint_alone(images, tmp_path):
    checkpoint = Checkpoint(dirname=str(tmp_path), monitor="train_loss_best", f_pickle=None)
    make(callbacks=(checkpoint,)).fit(images)
    assert (tmp_path / "params.pt").exists()


def test_bfloat16(images):
    H = make(precision="bfloat16").fit_transform(images)
    assert H.dtype == np.float32 and np.isfinite(H).all()


def test_verbose_shows_speed_loss_and_chance(images, capsys):
    make(verbose=1, max_epochs=1).fit(images)
    text = capsys.readouterr().err  # less than the half second between two updates: the end is shown
    assert text.count("images/s") == 1 and "epochs, " in text and "chance 3.434" in text
    make(max_epochs=1).fit(images)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_callbacks_of_skorch(images, tmp_path):
    class Steps(Callback):
        def on_train_begin(self, net, **kwargs):
            self.n = 0

        def on_batch_end(self, net, batch, training, loss, y_pred, **kwargs):
            assert training and torch.isfinite(loss)
            self.n += 1

    steps = Steps()
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0, threshold_mode="abs")
    checkpoint = Checkpoint(dirname=str(tmp_path), monitor="train_loss_best", f_pickle=None)
    rank = EpochScoring(lambda net, X, y: 1.5, name="constant", use_caching=False)
    simclr = make(max_epochs=50, callbacks=[steps, stop, checkpoint, ("rank", rank)]).fit(images)
    assert simclr.n_iter_ < 10
    assert steps.n == 2 * simclr.n_iter_
    assert (tmp_path / "params.pt").exists()


def test_tensorboard(images, tmp_path):
    from skorch.callbacks import TensorBoard

    class Writer:
        def __init__(self):
            self.tags = set()

        def add_scalar(self, tag, scalar_value, global_step):
            self.tags.add(tag)

        def close(self):
            self.closed = True

    writer = Writer()
    make(callbacks=[TensorBoard(writer)]).fit(images)
    assert {"Loss/train_loss", "contrastive_accuracy"} <= writer.tags
    assert writer.closed


@pytest.mark.parametrize("method", ["on_batch_end", "on_epoch_end"])
def test_ctrl_c_leaves_the_estimator_as_it_was(images, fitted, method, ctrl_c):
    class Interrupt(Callback):
        pass

    setattr(Interrupt, method, lambda self, net, **kwargs: ctrl_c())
    simclr = pickle.loads(pickle.dumps(fitted))
    attributes = {k: v for k, v in vars(simclr).items() if k != "callbacks"}
    simclr.set_params(callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        simclr.fit(images[:, :8])
    assert {k: v for k, v in vars(simclr).items() if k != "callbacks"} == attributes
    assert (simclr.transform(images) == fitted.transform(images)).all()
    unfitted = make(callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        unfitted.fit(images)
    with pytest.raises(NotFittedError):
        unfitted.transform(images)


@pytest.mark.slow
def test_memory_is_flat_over_20_fits(images):
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    X = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    sizes = []
    for _ in range(20):
        make(max_epochs=1, batch_size=64).fit(X).transform(X)
        sizes.append(process.memory_info().rss)
    assert max(sizes[10:]) - max(sizes[4:10]) < 8 * 2**20


@pytest.mark.gpu
def test_gpu_fit_is_usable_without_one(images):
    simclr = make(device="cuda").fit(images)
    assert all(p.device.type == "cpu" for p in simclr.encoder_.parameters())
    on_gpu = simclr.transform(images)
    np.testing.assert_allclose(simclr.set_params(device="cpu").transform(images), on_gpu, atol=1e-3)


# ---- Bad input ---------------------------------------------------------------------------------

NAN = np.random.default_rng(0).random((6, 8, 8))
NAN[3, 2, 2] = np.nan
INFINITE = np.random.default_rng(0).random((6, 64))
INFINITE[5, 0] = -np.inf


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (NAN, ValueError, "NaN: row 3"),
        (INFINITE, ValueError, "infinity: row 5"),
        ([np.zeros((8, 8)), np.zeros((8, 9, 3))], ValueError, "mixed kinds.*row 1"),
        ([[[1, 2], [3, 4]], [[1, 2], [3]]], ValueError, "mixed sizes.*row 1"),
        (np.full((5, 8, 8), 3.0), ValueError, "constant"),
        (np.zeros((1, 8, 8)), ValueError, r"1 sample\(s\)"),
        (np.zeros((0, 8, 8)), ValueError, r"0 sample\(s\)"),
        (np.zeros((0, 64)), ValueError, r"0 sample\(s\)"),
        (np.ones((5, 8, 8, 8)), ValueError, "Ambiguous.*image_shape='HWC'"),
        (np.random.default_rng(0).random((5, 192)), ValueError, r"image_shape=\(8, 8, 3\)"),
        (sp.random(10, 64, format="csr", random_state=0), TypeError, "(?i)sparse"),
        (np.array([["a", "b"], ["c", "d"]]), ValueError, "strings"),
        (["a.png", "b.png"], ValueError, "no such file"),
        (pd.Series(["a.png", "b.png"]), ValueError, "no such file"),
        (np.ones((4, 8, 8)) * 1j, ValueError, "[Cc]omplex"),
        (np.array([[{}, 1], [2, 3]], dtype=object), TypeError, "number"),
        (np.zeros(8), ValueError, "1D array"),
        (np.zeros((2, 2, 2, 2, 2)), ValueError, "must have shape"),
        (np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]").reshape(2, 1), (ValueError, TypeError), None),
        (None, TypeError, None),
        ("images/", ValueError, None),
        (7, TypeError, None),
    ],
)
def test_bad_images(fitted, X, error, message):
    simclr = pickle.loads(pickle.dumps(fitted))
    before = joblib.hash(simclr)
    with pytest.raises(error, match=message):
        simclr.fit(X)
    assert joblib.hash(simclr) == before
    with pytest.raises((ValueError, TypeError)):
        simclr.transform(X)


@pytest.mark.parametrize("shape", [(4, 12, 11, 3), (4, 12, 10, 1), (4, 3, 12, 10), (4, 12, 10), (4, 360)])
def test_wrong_size_in_transform(fitted, shape):
    with pytest.raises(ValueError, match=r"images of shape \(12, 10, 3\) were seen in fit"):
        fitted.transform(np.zeros(shape, dtype=np.uint8))


def test_transform_and_score_before_fit(images):
    for method in ("transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(make(), method)(images)


def test_score_needs_two_images(fitted, images):
    with pytest.raises(ValueError, match="2 images"):
        fitted.score(images[:1])
    assert 0 <= fitted.score(images) <= 1
    assert fitted.score(images) == fitted.score(images)


class NotFlat(nn.Module):
    """An encoder that forgets to pool."""

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"batch_size": 1}, ValueError, "'batch_size'.*range \\[2"),
        ({"temperature": 0}, ValueError, "'temperature'"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"max_time": -1}, ValueError, "'max_time'"),
        ({"max_epochs": -1}, ValueError, "'max_epochs'"),
        ({"encoder": "resnet51"}, ValueError, "resnet5?0?.*"),
        ({"encoder": "copmact"}, ValueError, "compact"),
        ({"encoder": NotFlat()}, ValueError, r"\(n_images, n_features\)"),
        ({"encoder": 3}, ValueError, "'encoder'"),
        ({"encoder": lambda: 3}, TypeError, "encoder"),
        ({"optimizer": "adam"}, ValueError, "'optimizer'"),
        ({"loss": "ntxent"}, ValueError, "'loss'"),
        ({"device": "tpu9"}, ValueError, "device='tpu9'"),
        ({"precision": "float8"}, ValueError, "'precision'"),
        ({"image_shape": (4, 4)}, ValueError, r"image_shape=\(4, 4\)"),
        ({"image_shape": (4,)}, ValueError, "image_shape must be"),
        ({"image_shape": (4.0, 4.0)}, ValueError, "image_shape must be"),
        ({"image_shape": (-12, -10)}, ValueError, "image_shape must be"),
        ({"callbacks": [3]}, ValueError, "callbacks must hold"),
        ({"callbacks": [EarlyStopping()]}, ValueError, "valid_loss.*train_loss"),
        ({"loss": lambda z: 3.0}, ValueError, "loss must return"),
        ({"loss": lambda z: z.detach().sum()}, ValueError, "loss must return"),
        ({"device": "meta"}, ValueError, "device='meta'"),
        ({"image_shape": (4, "a")}, ValueError, "image_shape"),
        ({"pixel_range": (1, 0)}, ValueError, "pixel_range"),
        ({"pixel_range": (1, 2, 3)}, ValueError, "pixel_range"),
        ({"augmentation": "no_up"}, ValueError, r"'augmentation'.*Augmentation\(recipe='no_up'\)"),
        ({"augmentation": Augmentation(crop_scale=(0, 2))}, ValueError, "crop_scale"),
        ({"callbacks": "early"}, ValueError, "'callbacks'"),
        ({"memory": 3}, ValueError, "memory"),
        ({"learning_rate": 1e30, "max_epochs": 30, "optimizer": "sgd"}, ValueError, "learning_rate"),
    ],
)
def test_bad_parameters(images, params, error, message):
    simclr = make(**params)
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        simclr.fit(images)
    assert not [name for name in vars(simclr) if name.endswith("_")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    X=npst.arrays(
        dtype=st.one_of(
            st.sampled_from(
                ["u1", "u2", "i4", "f2", "f4", "f8", "?", "c8", "U3", "S2", "M8[s]", ">f8", ">u2"]
            )
        ),
        shape=npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7),
    ),
    as_list=st.booleans(),
)
def test_any_input_gives_representations_or_a_value_or_type_error(X, as_list):
    data = X.tolist() if as_list else X
    simclr = make(
        max_epochs=1, encoder=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            H = simclr.fit_transform(data)
        except (ValueError, TypeError) as error:
            assert str(error)
            return
    assert H.shape == (len(X), 3) and np.isfinite(H).all()


def test_repr_and_html_work(fitted):
    assert "SimCLRTransformer" in repr(fitted)
    assert "SimCLRTransformer" in fitted._repr_html_()
    io.StringIO(str(fitted.get_params()))


def test_bfloat16_on_a_cpu_is_for_those_with_units_for_it(monkeypatch):
    from sklearn_simclr._utils import devices

    cpu = torch.device("cpu")
    for known, expected in (({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, None), ({}, None)):
        devices._multiplies_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert devices.resolve_precision("auto", cpu) is expected
    devices._multiplies_bfloat16.cache_clear()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert devices.resolve_precision("auto", cpu) is None
    devices._multiplies_bfloat16.cache_clear()
    assert devices.resolve_precision("bfloat16", cpu) is torch.bfloat16
    assert devices.resolve_precision("float32", cpu) is None


def test_bfloat16_learns_what_float32_does(digits):
    X = digits[0][:256]
    params = {"max_epochs": 4, "batch_size": 64, "random_state": 0}
    found = {
        precision: SimCLRTransformer(precision=precision, **params).fit(X)
        for precision in ("float32", "bfloat16")
    }
    losses = {precision: model.loss_curve_ for precision, model in found.items()}
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
    # Weights stay in float32, and so does what is computed with them.
    assert all(p.dtype == torch.float32 for p in found["bfloat16"].encoder_.parameters())
    assert found["bfloat16"].transform(X[:2]).dtype == np.float32


compiled = []


def eager_backend(graph, inputs):
    """Compile as torch's backend "eager" does, without a compiler, and take note."""
    compiled.append(graph)
    return graph.forward


def test_a_compiled_encoder_is_trained_compiled_and_left_plain():
    X = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), dtype=np.uint8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    settings = {"max_epochs": 2, "batch_size": 8, "random_state": 0}
    plain = SimCLRTransformer(encoder=network, **settings).fit(X)
    fitted = clone(SimCLRTransformer(encoder=torch.compile(network, backend=eager_backend), **settings)).fit(
        X
    )
    assert compiled
    assert type(fitted.encoder_) is nn.Sequential
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.transform(X), plain.transform(X), rtol=1e-5, atol=1e-6)
    assert list(fitted.history_["loss"]) == pytest.approx(list(plain.history_["loss"]), rel=1e-5)
    compiled.clear()
    torch.compiler.reset()
    fitted.partial_fit(X)
    assert compiled and type(fitted.encoder_) is nn.Sequential
    fitted.set_params(warm_start=True, max_epochs=1).fit(X)
    assert type(fitted.encoder_) is nn.Sequential


def test_what_a_head_reads_of_a_compiled_network_is_compiled():
    network = torch.compile(CompactNet(3, (8, 8), width=4), backend=eager_backend)
    compiled.clear()
    read = read_part(network)(torch.zeros(2, 3, 8, 8))
    assert compiled and read.shape == (2, network.read_dim)
