"""Settings of the user's program, other threads and forks do not change what estimators give."""

import contextlib
import copy
import os
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning

from sklearn_simclr import (
    Augmentation,
    LabelFractionClassifier,
    LinearEvaluationClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    WeightedKNNClassifier,
)
from sklearn_simclr._utils import pickling
from sklearn_simclr.export import export_encoder, load_encoder, load_estimator, save_estimator
from sklearn_simclr.losses import nt_xent


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)


def simclr(**params):
    return SimCLRTransformer(tiny, max_epochs=1, batch_size=8, random_state=0, **params)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "dtype": lambda: default_dtype(torch.float64),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "errors of NumPy": lambda: np.errstate(all="raise"),
}


def settings():
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        np.geterr(),
    )


@pytest.fixture(scope="module")
def usual(images):
    return everything(images)


@pytest.fixture(scope="module")
def files(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    fitted = SimCLRTransformer(max_epochs=0, random_state=0).fit(images)
    save_estimator(fitted, folder / "estimator")
    export_encoder(fitted, folder / "encoder")
    return folder


def from_files(images, folder):
    """Return what files and views say of images."""
    batch = torch.from_numpy(images)[:, None]
    encoder = load_encoder(folder / "encoder").encoder
    views = Augmentation()(batch, torch.Generator(device="cpu").manual_seed(0), n_views=2)
    found = [load_estimator(folder / "estimator").transform(images), views.numpy()]
    return [*found, *(weight.detach().numpy() for weight in encoder.parameters())]


def everything(images):
    """Return what estimators say of images."""
    labels = np.arange(16) % 2
    transformer = simclr().fit(images)
    transformer.partial_fit(images)
    classifier = SimCLRClassifier(transformer, max_epochs=1, random_state=0).fit(images, labels)
    supervised = SupervisedTransformer(tiny, max_epochs=1, random_state=0).fit(images, labels)
    return [
        transformer.loss_curve_,
        transformer.transform(images),
        transformer.score(images),
        classifier.predict_proba(images),
        supervised.transform(images),
    ]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_torch_and_numpy_change_nothing_and_stay(images, usual, setting):
    with setting():
        before = settings()
        found = everything(images)
        assert settings() == before
    for one, other in zip(found, usual, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_files_and_views_are_the_same_with_any_settings(images, files, setting):
    with setting():
        found = from_files(images, files)
    for one, other in zip(found, from_files(images, files), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_threads_that_end_in_any_order_leave_the_default_dtype(images):
    with default_dtype(torch.float64):
        threads = [threading.Thread(target=simclr().fit, args=(images[: 8 + k],)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_default_dtype() == torch.float64


def test_transform_while_a_refit_runs_is_of_the_earlier_fit(images):
    colours = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    inside, go_on = threading.Event(), threading.Event()

    def loss(z):
        inside.set()
        go_on.wait(60)
        return nt_xent(z)

    transformer = simclr().fit(images)
    before = transformer.transform(images)
    refit = threading.Thread(target=transformer.set_params(loss=loss).fit, args=(colours,))
    refit.start()
    try:
        assert inside.wait(60)
        np.testing.assert_array_equal(transformer.transform(images), before)
        assert transformer.image_shape_ == (8, 8)
    finally:
        go_on.set()
        refit.join()
    assert transformer.image_shape_ == (8, 8, 3)
    assert transformer.transform(colours).shape[0] == 16


@pytest.mark.filterwarnings("ignore:.*estimator Augmentation")
def test_pickles_of_another_version_warn_and_new_parameters_have_their_defaults(images, monkeypatch):
    transformer = simclr(augmentation=Augmentation()).fit(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(transformer)), copy.deepcopy(transformer), clone(transformer)
    expected = transformer.transform(images)
    del transformer.mirror, transformer.augmentation.recipe
    monkeypatch.setattr(pickling, "__version__", "0.0.1")
    old = pickle.dumps(transformer)
    monkeypatch.undo()
    with pytest.warns(InconsistentVersionWarning, match="SimCLRTransformer from version 0.0.1"):
        loaded = pickle.loads(old)
    assert loaded.mirror == SimCLRTransformer().mirror
    assert loaded.augmentation.recipe == "auto"
    np.testing.assert_array_equal(loaded.transform(images), expected)


def test_pickles_of_classifiers_of_features_know_their_version(monkeypatch):
    for estimator in (LinearEvaluationClassifier(), WeightedKNNClassifier(), LabelFractionClassifier()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pickle.loads(pickle.dumps(estimator))
        monkeypatch.setattr(pickling, "__version__", "0.0.1")
        old = pickle.dumps(estimator)
        monkeypatch.undo()
        with pytest.warns(InconsistentVersionWarning, match=f"{type(estimator).__name__} from version 0.0.1"):
            pickle.loads(old)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_fits_while_a_thread_of_its_parent_does(images):
    inside, go_on = threading.Event(), threading.Event()

    def loss(z):
        inside.set()
        go_on.wait(60)
        return nt_xent(z)

    thread = threading.Thread(target=simclr(loss=loss).fit, args=(images,))
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        try:
            simclr().fit(images)
            os._exit(0)
        except BaseException:
            os._exit(1)
    try:
        ended, began = (0, 0), time.monotonic()
        while ended[0] == 0 and time.monotonic() - began < 60:
            time.sleep(0.05)
            ended = os.waitpid(child, os.WNOHANG)
        assert ended == (child, 0)
    finally:
        go_on.set()
        thread.join()
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
