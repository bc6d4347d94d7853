"""Processes that share a folder, of which one is killed: nothing is lost or left, nothing wrong is read."""

import gc
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import same_weights
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_simclr import SimCLRTransformer, representation_report
from sklearn_simclr.images.reading import read_rows

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="forks, and counts by /proc")

TIMES = 20
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)


def simclr(**params):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    params = {"max_epochs": 2, "batch_size": 8, "projection_dim": 4, "random_state": 0, **params}
    return SimCLRTransformer(network, augmentation=None, mirror=False, device="cpu", **params)


def forked(work, *args):
    """Return the number of a process that works, and ends with status 0 if it works to its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work(*args)
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid, limit=120.0):
    """Return the status of a process once it has ended, minus the number of its signal."""
    end = time.monotonic() + limit
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail(f"a process was not done after {limit:g} s")
        time.sleep(0.001)


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [str(folder / f"{k}.png") for k in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    return paths


def read(paths, cache_dir, times=1):
    for _ in range(times):
        found = read_rows(paths, cache_dir=cache_dir)
        pixels = found.pixels if found.rows is None else found.pixels[found.rows]
        np.testing.assert_array_equal(pixels[..., 0], IMAGES)


def test_two_processes_and_a_killed_one_on_one_cache(paths, tmp_path):
    generator = np.random.default_rng(0)
    killed = 0
    for k in range(TIMES):
        cache = tmp_path / f"cache{k % 4}"  # some new, some that others were killed in
        victim, other = forked(read, paths, cache, 100), forked(read, paths, cache)
        time.sleep(generator.uniform(0, 0.03))
        os.kill(victim, signal.SIGKILL)
        assert ended(other) == 0
        killed += ended(victim) == -signal.SIGKILL
        read(paths, cache)
    assert killed >= TIMES // 2
    assert {path.suffix for path in tmp_path.glob("cache*/*")} <= {".sqlite", ".pixels", ".lock"}


def test_two_processes_and_a_killed_one_on_one_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("sklearn_simclr.training.checkpoint._INTERVAL", 0.0)
    monkeypatch.setattr("sklearn_simclr.training.checkpoint._SHARE", float("inf"))
    expected = simclr().fit(IMAGES)
    generator = np.random.default_rng(1)

    def train(folder):
        try:
            assert same_weights(simclr(checkpoint_dir=folder).fit(IMAGES), expected)
        except ValueError as error:
            assert "is in use by another fit" in str(error)

    killed = 0
    for k in range(TIMES):
        folder = tmp_path / f"{k % 10}"
        victim, other = forked(train, folder), forked(train, folder)
        time.sleep(generator.uniform(0, 0.04))
        os.kill(victim, signal.SIGKILL)
        assert ended(other) == 0
        killed += ended(victim) == -signal.SIGKILL
        assert same_weights(simclr(checkpoint_dir=folder).fit(IMAGES), expected)
        assert sorted(os.listdir(folder)) == ["training.lock", "training.safetensors"]
    assert killed >= TIMES // 4


def held():
    """Return what this process and its folders for temporary files hold."""
    gc.collect()
    descriptors = [f"/proc/self/fd/{k}" for k in os.listdir("/proc/self/fd")]
    files = sorted(os.readlink(name) for name in descriptors if os.path.lexists(name))
    files = [name for name in files if not name.startswith(("socket:", "/proc", "anon_inode:"))]
    threads = {thread.name.rstrip("0123456789") for thread in threading.enumerate()}
    mapped = [
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "sklearn_simclr" in line
    ]
    mapped = [name for name in mapped if not name.endswith(".so")]
    # torch makes a folder for its compiler, whether it compiles or not.
    kept = [name for name in os.listdir(tempfile.gettempdir()) if not name.startswith("torchinductor_")]
    return files, threads, mapped, sorted(kept)


def test_nothing_is_left_by_fit_search_and_report(paths, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    y = np.arange(len(paths)) % 2

    def work(k):
        folders = {name: str(tmp_path / f"{name}{k}") for name in ("cache_dir", "checkpoint_dir", "memory")}
        fitted = simclr(**folders).fit(paths)
        fitted.transform(paths)
        pipeline = make_pipeline(simclr(cache_dir=folders["cache_dir"]), LogisticRegression())
        GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1]}, cv=2).fit(paths, y)
        representation_report(fitted, paths, y)
        with pytest.raises(ValueError, match="cannot be read"):
            simclr(**folders).fit([*paths, "none.png"])

    work(0)  # imports, and pools that live as long as the process
    before = held()
    work(1)
    assert held() == before
    assert before[2] == before[3] == []
