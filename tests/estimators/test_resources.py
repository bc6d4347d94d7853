"""Many fits in one process: memory, open files, threads and shared memory stay as they are."""

import gc
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_simclr import AutoencoderTransformer, SimCLRTransformer, SupervisedTransformer

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts by /proc")

FITS = 7


def resident():
    """Return the anonymous memory of this process in MiB; the system may drop what is mapped from files."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    # Linux before 4.5 gives only the sum with what is mapped from files, which says nothing about a leak.
    pytest.skip("this kernel does not tell anonymous memory")


def held():
    """Return what a process may hold beside memory: open files, threads, shared memory, temporary files."""
    gc.collect()
    # Other processes share memory there, too; what is this one's has its number in the name.
    shared = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    shared = [name for name in shared if str(os.getpid()) in name]
    ours = [
        name for name in os.listdir(tempfile.gettempdir()) if name.startswith(("sklearn_simclr-", "joblib"))
    ]
    return len(os.listdir("/proc/self/fd")), threading.active_count(), sorted(shared), sorted(ours)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Paths of 60 JPEGs of 16 x 16 pixels, and labels; other processes' temporary files are elsewhere."""
    generator = np.random.default_rng(0)
    paths = [str(tmp_path / f"{k}.jpg") for k in range(60)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield np.array(paths, dtype=object), np.arange(60) % 2
    tempfile.tempdir = None


def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


@pytest.mark.slow
def test_fits_leave_nothing_behind(files, tmp_path):
    X, y = files
    params = {"encoder": tiny(), "batch_size": 16, "random_state": 0, "max_epochs": 1}
    counts, sizes = [], []
    for k in range(FITS):
        estimator = (SimCLRTransformer, SupervisedTransformer, AutoencoderTransformer)[k % 3]
        folders = {"cache_dir": tmp_path / "cache", "checkpoint_dir": tmp_path / f"checkpoint{k}"}
        fitted = estimator(**params, **(folders if k % 2 else {})).fit(X, y)
        assert np.isfinite(fitted.transform(X)).all()
        del fitted
        counts.append(held())
        sizes.append(resident())
    # The first of each kind warms up.
    assert counts[3:] == counts[2:3] * (FITS - 3)
    assert sizes[-1] - sizes[2] < 20


@pytest.mark.slow
def test_a_search_in_parallel_leaves_nothing_behind(files, tmp_path):
    X, y = files
    simclr = SimCLRTransformer(tiny(), max_epochs=1, batch_size=16, random_state=0)
    search = GridSearchCV(
        make_pipeline(simclr.set_params(cache_dir=str(tmp_path / "cache")), LogisticRegression()),
        {"logisticregression__C": [0.1, 1.0]},
        cv=2,
        n_jobs=2,
    )
    counts, sizes = [], []
    for _ in range(3):
        search.fit(X, y)
        counts.append(held())
        sizes.append(resident())
    assert counts[2][:2] == counts[1][:2]
    assert counts[2][2] == counts[1][2] == counts[0][2]
    # Workers live on, and keep a folder of their own until they end; it does not grow.
    assert len(counts[2][3]) == len(counts[1][3])
    assert sizes[2] - sizes[0] < 20
