"""What every test module shares: images, a backend for figures that needs no screen, and the GPU marker."""

import os
import signal

# Before anything imports matplotlib; subprocesses inherit it.
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest

# What lies there changes torch for the process that imports it. test_pretended_device.py starts another one.
collect_ignore = ["pretended"]


@pytest.fixture(scope="session")
def digits():
    """Handwritten digits, read-only: X (1797, 8, 8) float64 of whole numbers in 0..16, y (1797,) in 0..9."""
    from sklearn.datasets import load_digits

    data = load_digits()
    data.images.setflags(write=False)
    data.target.setflags(write=False)
    return data.images, data.target


@pytest.fixture(scope="session")
def forked():
    """Processes that are forked from one that has imported everything: each saves the seconds of a start."""
    from forked_ranks import ForkedRanks

    ranks = ForkedRanks()
    yield ranks
    ranks.close()


@pytest.fixture
def rgb_images():
    """Random images (24, 32, 32, 3), uint8, the same in every test."""
    return np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def ctrl_c():
    """Press Ctrl-C. It reaches this process also where SIGINT is ignored, as in a job in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, handler)


def pytest_collection_modifyitems(items):
    # The longest begin first, so that no worker is left alone with one at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needs_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch finds none"))
