"""Decoded rows in memory, in files and in a folder that several processes share."""

import multiprocessing
import os
import signal
import sqlite3
import threading

import numpy as np
import pytest

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.images import store as _store
from sklearn_simclr.images.store import FileRows, FolderStore, MemoryRows, memory_limit, scratch_rows


def images(n, shape=(4, 6, 3), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rows_come_back_in_order(tmp_path, dtype):
    parts = [images(3, dtype=dtype), images(1, dtype=dtype, seed=1), images(5, dtype=dtype, seed=2)]
    with open(tmp_path / "rows", "w+b", buffering=0) as file:
        for rows in (MemoryRows((4, 6, 3), dtype, 9), FileRows(file, (4, 6, 3), dtype)):
            assert [rows.append(part) for part in parts] == [0, 3, 4]
            np.testing.assert_array_equal(rows.array(), np.concatenate(parts))


def test_a_row_cut_off_by_a_crash_is_written_over(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(images(2).tobytes() + b"half a row")
    with open(path, "r+b", buffering=0) as file:
        rows = FileRows(file, (4, 6, 3), np.uint8)
        assert rows.append(images(1, seed=3)) == 2
        np.testing.assert_array_equal(rows.array(), np.concatenate([images(2), images(1, seed=3)]))


def test_many_rows_are_kept_in_a_file_that_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "memory_limit", lambda: 1000)
    monkeypatch.setattr(_store.tempfile, "tempdir", str(tmp_path))
    assert isinstance(scratch_rows((10, 10), np.uint8, 10), MemoryRows)
    rows = scratch_rows((10, 10), np.uint8, 11)
    rows.append(images(11, (10, 10)))
    array = rows.array()
    assert isinstance(array, np.memmap)
    del rows
    np.testing.assert_array_equal(array, images(11, (10, 10)))
    del array
    assert list(tmp_path.iterdir()) == []


def test_memory_limit_is_a_part_of_the_memory():
    psutil = pytest.importorskip("psutil")
    assert 1 << 20 < memory_limit() <= psutil.virtual_memory().total / 4 + 1


def test_store_finds_what_was_added(tmp_path):
    with FolderStore(tmp_path / "new" / "folder") as store:
        assert store.find(["a"]) == {}
        places = store.add(["a", "b"], images(2))
        assert places == {"a": (("uint8", 4, 6, 3), 0), "b": (("uint8", 4, 6, 3), 1)}
        assert store.find(["b", "x"]) == {"b": places["b"]}
        store.add(["wide"], images(1, (4, 7, 3), np.uint16))
    with FolderStore(tmp_path / "new" / "folder") as store:
        found = store.find(["a", "b", "wide"])
        kind, row = found["b"]
        np.testing.assert_array_equal(store.array(kind)[row], images(2)[1])
        assert found["wide"] == (("uint16", 4, 7, 3), 0)
        store.add(["a"], images(1, seed=5))
        kind, row = store.find(["a"])["a"]
        np.testing.assert_array_equal(store.array(kind)[row], images(1, seed=5)[0])


def test_arrays_outlive_the_store(tmp_path):
    with FolderStore(tmp_path) as store:
        store.add(["a"], images(1))
        array = store.array(("uint8", 4, 6, 3))
    with FolderStore(tmp_path) as store:
        store.add(["b"], images(1, seed=1))
    np.testing.assert_array_equal(array, images(1))
    assert not array.flags.writeable


def test_pixels_that_are_missing_are_not_found(tmp_path):
    with FolderStore(tmp_path) as store:
        store.add(["a", "b"], images(2))
    [path] = tmp_path.glob("*.pixels")
    os.truncate(path, 4 * 6 * 3)
    with FolderStore(tmp_path) as store:
        assert set(store.find(["a", "b"])) == {"a"}


def test_what_was_added_before_an_error_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), FolderStore(tmp_path) as store:
        store.add(["a"], images(1))
        raise KeyboardInterrupt
    with FolderStore(tmp_path) as store:
        assert set(store.find(["a"])) == {"a"}


def test_a_damaged_index_is_refused(tmp_path):
    (tmp_path / "images.sqlite").write_bytes(b"no database " * 1000)
    with (
        pytest.raises(ValueError, match="index of cache_dir=.*damaged.*Remove the folder"),
        FolderStore(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="cache_dir=.*file.*cannot be written to"),
        FolderStore(tmp_path / "file"),
    ):
        pass


def test_one_at_a_time(tmp_path):
    order = []

    def wait():
        with FolderStore(tmp_path) as store:
            order.append(sorted(store.find(["a", "b"])))

    with FolderStore(tmp_path) as store:
        store.add(["a"], images(1))
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.2)
        assert order == []
        store.add(["b"], images(1))
    thread.join(10)
    assert order == [["a", "b"]]


def _add_some(folder, name):
    for k in range(10):
        with FolderStore(folder) as store:
            store.add([f"{name}{k}"], np.full((1, 4, 6, 3), 10 * name + k, dtype=np.uint8))


def test_processes_add_without_losing_rows(tmp_path):
    # Forked where that is possible, since a new process takes seconds to import.
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    workers = [context.Process(target=_add_some, args=(tmp_path, name)) for name in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with FolderStore(tmp_path) as store:
        found = store.find([f"{name}{k}" for name in range(3) for k in range(10)])
        assert len(found) == 30
        for key, (kind, row) in found.items():
            assert (store.array(kind)[row] == int(key[0]) * 10 + int(key[1:])).all()
    with sqlite3.connect(tmp_path / "images.sqlite") as index:
        assert index.execute("SELECT count(*) FROM images").fetchone() == (30,)
    index.close()


@pytest.mark.skipif(os.name != "posix", reason="needs limits of the system")
def test_a_full_disk_keeps_what_was_stored_before(tmp_path):
    import resource

    kept = images(3)
    with FolderStore(tmp_path) as store:
        store.add(list("abc"), kept)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        refused = pytest.raises(ValueError, match="cache_dir=.* cannot be written to.*Pass another folder")
        with refused, FolderStore(tmp_path) as store:
            store.add([str(k) for k in range(1000)], images(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    with FolderStore(tmp_path) as store:
        found = store.find(["a", "b", "c", "0", "999"])
        assert sorted(found) == ["a", "b", "c"]
        rows = store.array(("uint8", *kept.shape[1:]))
        np.testing.assert_array_equal(rows[[found[key][1] for key in "abc"]], kept)


def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_store, "memory_limit", lambda: 0)
    monkeypatch.setattr(_store.tempfile, "tempdir", str(tmp_path))
    rows = scratch_rows((4, 6, 3), np.uint8, 10)
    monkeypatch.setattr(rows, "_file", type("Full", (), {"write": full, "seek": lambda self, at: None})())
    with pytest.raises(OSError, match="No space left on device.*TMPDIR") as error:
        rows.append(images(2))
    assert error.value.errno == 28 and str(tmp_path) in str(error.value)


@pytest.mark.skipif(os.name != "posix", reason="of links and pipes")
@pytest.mark.parametrize("name", ["images.sqlite", "images.sqlite-journal"])
def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path, name):
    for make in (os.mkfifo, lambda path: os.symlink(__file__, path)):
        make(tmp_path / name)
        with (
            pytest.raises(ValueError, match=f"{name} is a link or not a regular file"),
            FolderStore(tmp_path),
        ):
            pass
        os.unlink(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="of links")
def test_training_in_a_thread_leaves_a_shared_temporary_folder_alone(tmp_path, monkeypatch):
    """Others may write to it: no name in it is guessed, looked for or removed."""
    shared, home = tmp_path / "shared", tmp_path / "home"
    shared.mkdir()
    home.mkdir()
    np.savez(home / "results.npz", x=1)
    os.utime(home / "results.npz", (1e9, 1e9))
    monkeypatch.setattr(_store.tempfile, "tempdir", str(shared))
    (shared / f"sklearn_simclr-{os.getuid()}-{os.getpid()}").symlink_to(home)
    (shared / f"sklearn_simclr-{os.getuid()}-1").mkdir()  # of a process in another container
    before = set(tmp_path.rglob("*"))
    simclr = SimCLRTransformer(max_epochs=1, random_state=0)
    thread = threading.Thread(target=simclr.fit, args=(images(20, (8, 8, 3)),))
    thread.start()
    thread.join()
    assert hasattr(simclr, "encoder_")
    after = {path for path in tmp_path.rglob("*") if "torchinductor" not in path.name}  # torch's own
    assert after == before
