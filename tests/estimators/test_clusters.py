"""A search on the workers of any backend of joblib trains each encoder once."""

import contextlib
import importlib.util
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
from helpers import CountTrainings, tiny, trainings
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_simclr import SimCLRTransformer

pytestmark = pytest.mark.filterwarnings("ignore:X has 20 images:sklearn.exceptions.ConvergenceWarning")


def needs(library):
    """Skip a test where a library is not installed, and let pass what the library itself warns of."""
    missing = importlib.util.find_spec(library) is None
    skip = pytest.mark.skipif(missing, reason=f'needs {library}: pip install "sklearn-simclr[dask,ray]"')
    return lambda test: pytest.mark.filterwarnings("ignore")(skip(test))


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Return a function that runs a search of 2 folds and 4 values of C, and returns trainings and scores."""
    # Workers that others start import this folder, too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    y = np.arange(40) % 2
    X[y == 1, :, :, 0] //= 2

    def run(memory="memory", **parallel):
        simclr = SimCLRTransformer(
            tiny, max_epochs=10, batch_size=10, projection_dim=4, device="cpu", random_state=0,
            callbacks=[CountTrainings(str(tmp_path / "log"))], memory=memory and str(tmp_path / memory),
        )  # fmt: skip
        model = Pipeline([("simclr", simclr), ("clf", LogisticRegression())])
        grid = {"clf__C": [1e-4, 0.1, 1.0, 1e4]}
        found = GridSearchCV(model, grid, cv=2, refit=False, error_score="raise")
        with joblib.parallel_config(**parallel):
            found.fit(X, y)
        if memory:
            left = sorted(path.suffix for path in (tmp_path / memory / "sklearn_simclr").iterdir())
            assert left == [".lock"] * 2 + [".safetensors"] * 2
        return trainings(tmp_path / "log"), found.cv_results_["mean_test_score"]

    return run


def test_without_memory_every_fit_trains(search):
    number, _ = search(memory=None, backend="threading", n_jobs=2)
    assert number == 8


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_backends_of_joblib(search, backend):
    number, scores = search(backend=backend, n_jobs=2)
    assert number == 2
    # Read from the cache, and from one more encoder per fold, trained in turn.
    np.testing.assert_array_equal(search(backend="threading", n_jobs=1)[1], scores)
    number, expected = search(memory="another", backend="threading", n_jobs=1)
    assert number == 4
    np.testing.assert_allclose(scores, expected, atol=0.05)


@needs("distributed")
def test_dask_in_this_process(search):
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        number, _ = search(backend="dask")
    assert number == 2


@contextlib.contextmanager
def dask(*arguments):
    process = subprocess.Popen([sys.executable, "-m", "dask", *arguments], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@needs("distributed")
@pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals")
def test_dask_workers_started_by_hand(search, tmp_path):
    from distributed import Client

    file = ("--scheduler-file", str(tmp_path / "scheduler.json"))
    worker = ("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", *file)
    with (
        dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *file),
        dask(*worker),
        dask(*worker),
        Client(scheduler_file=file[1], timeout=120) as client,
    ):
        client.wait_for_workers(2, timeout=120)
        number, _ = search(backend="dask")
        assert len(set(client.run(os.getpid).values()) - {os.getpid()}) == 2
    assert number == 2


@pytest.mark.slow
@needs("ray")
def test_ray(search, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        number, _ = search(backend="ray", n_jobs=2)
    finally:
        ray.shutdown()
    assert number == 2
