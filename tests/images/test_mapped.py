"""Rows of arrays in files: which are in one, what is asked for, and when pages are let go of."""

import gc
import mmap
import sys

import numpy as np
import pytest
import torch

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.images import mapped as _mapped
from sklearn_simclr.images.layout import image_format
from sklearn_simclr.images.mapped import mapped_rows
from sklearn_simclr.images.source import image_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")


@pytest.fixture
def path(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5000, 32, 32, 3), dtype=np.uint8)
    values.tofile(tmp_path / "images")
    return tmp_path / "images"


def mapped(path, mode="r"):
    return np.memmap(path, dtype=np.uint8, mode=mode, shape=(5000, 32, 32, 3))


def in_memory_of_process():
    """Return the bytes of mapped files that are in the memory of this process."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssFile"))


def test_arrays_in_files_are_known_by_where_their_numbers_are(path):
    X = mapped(path)
    assert mapped_rows(X) is not None
    assert mapped_rows(np.asarray(X)[3:7]) is not None
    assert mapped_rows(X.copy()) is None and mapped_rows(X[[1, 2]]) is None
    assert mapped_rows(np.zeros((2, 8, 8))) is None
    assert mapped_rows(X[:0]) is None
    # Between two of its rows there are others.
    assert mapped_rows(X[::2]) is None and mapped_rows(X[::-1]) is None
    assert mapped_rows(X.transpose(3, 1, 2, 0)) is None


class Map(mmap.mmap):
    """A map that remembers what the system was told."""

    def madvise(self, *arguments):
        self.told = [*getattr(self, "told", []), arguments]
        super().madvise(*arguments)


@pytest.mark.skipif(not _mapped._ASKS, reason="this system does not take advice about maps")
@pytest.mark.parametrize("first", [0, 3])
def test_the_pages_of_the_rows_are_asked_for(path, first):
    with open(path, "rb") as file:
        told = Map(file.fileno(), 0, access=mmap.ACCESS_READ)
    rows = _mapped.MappedRows(told, first * 3072, 3072, 5000 - first, True)
    rows.ask([0, 4000])
    assert len(told.told) == 2
    for row, (advice, start, length) in zip([0, 4000], told.told, strict=True):
        begin = (first + row) * 3072
        assert advice == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert start <= begin < start + mmap.PAGESIZE and start + length == begin + 3072


@linux
def test_pages_are_let_go_of_and_numbers_stay(path, monkeypatch):
    monkeypatch.setattr(_mapped, "_HELD", 1 << 20)
    X = mapped(path)
    expected = np.fromfile(path, dtype=np.uint8).reshape(X.shape)
    source = image_source(X, image_format(X))
    gc.collect()
    before = in_memory_of_process()
    most = 0
    for start in range(0, len(X), 100):
        found = source.take(slice(start, start + 100)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(found, expected[start : start + 100])
        most = max(most, in_memory_of_process() - before)
    # Of 14.6 MiB.
    assert most < 6 << 20
    rows = torch.randperm(len(X))[:500]
    np.testing.assert_array_equal(source.take(rows).permute(0, 2, 3, 1).numpy(), expected[rows])


@pytest.mark.parametrize("mode, drops", [("r", True), ("r+", True), ("c", False)])
def test_what_was_written_to_a_copy_on_write_map_is_kept(path, monkeypatch, mode, drops):
    monkeypatch.setattr(_mapped, "_HELD", 1 << 20)
    X = mapped(path, mode)
    if mode != "r":
        X[7] = 1
    file = mapped_rows(X)
    assert file._drops == (drops and _mapped._DROPS)
    file.seen(len(X))
    if mode != "r":
        assert (X[7] == 1).all()


def test_a_fit_on_a_map_is_that_on_an_array(path, monkeypatch):
    monkeypatch.setattr(_mapped, "_HELD", 1 << 20)
    X = mapped(path)[:600]
    model = SimCLRTransformer("compactx0.5", max_epochs=1, batch_size=64, random_state=0)
    expected = model.fit(np.array(X)).transform(np.array(X))
    np.testing.assert_array_equal(model.fit(X).transform(X), expected)
    np.testing.assert_array_equal(model.transform(X[100:200]), expected[100:200])
