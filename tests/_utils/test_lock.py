"""A lock names its holder, outlives none, and keeps nobody waiting for the dead."""

import errno
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings

import pytest
from filelock import FileLock

from sklearn_simclr._utils import lock as _lock
from sklearn_simclr._utils.lock import Lock

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and flock are those of POSIX")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.lock"


@pytest.fixture
def quick(monkeypatch):
    """Fractions of a second for minutes."""
    for name, seconds in {"_BEAT": 0.02, "_SILENCE": 0.5, "_PATIENCE": 0.2, "_LOOK": 0.05}.items():
        monkeypatch.setattr(_lock, name, seconds)


def refuse(*args):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr("fcntl.flock", refuse)


def hold(path, marks, holding):
    if marks:
        import fcntl

        fcntl.flock = refuse
        warnings.simplefilter("ignore")
    with Lock(path, "sleeps"):
        holding.set()
        time.sleep(60)


@pytest.fixture
def holder(path):
    """Start a process that holds the lock; a marker instead if so asked."""
    context = multiprocessing.get_context("spawn")
    processes = []

    def start(marks=False):
        holding = context.Event()
        process = context.Process(target=hold, args=(path, marks, holding))
        processes.append(process)
        process.start()
        assert holding.wait(60)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_one_at_a_time(path, quick):
    inside, order = threading.Event(), []
    threads = threading.active_count()

    def first():
        with Lock(path, "works"):
            inside.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with Lock(path, "works"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert not path.with_suffix(".holder").exists()
    assert threading.active_count() == threads


@posix
def test_the_holder_is_named_and_its_death_frees_the_lock(path, holder):
    process = holder()
    with pytest.raises(TimeoutError, match=f"^process {process.pid} on {socket.gethostname()} sleeps"):
        Lock(path, "sleeps", wait=False).__enter__()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Lock(path, "sleeps", wait=False):
        pass


@posix
def test_a_holder_that_has_stopped_is_not_waited_for_for_ever(path, holder, quick):
    os.kill(holder().pid, signal.SIGSTOP)
    with (
        pytest.warns(UserWarning, match="Waiting for process .* which sleeps"),
        pytest.raises(TimeoutError, match="process .* sleeps, but has given no sign of life"),
    ):
        Lock(path, "sleeps").__enter__()


def test_a_holder_that_lives_is_waited_for_however_long(path, quick):
    inside = threading.Event()

    def work():
        with Lock(path, "works"):
            inside.set()
            time.sleep(1.2)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    with pytest.warns(UserWarning, match=f"Waiting for process {os.getpid()} .* which works .*some.lock"):
        Lock(path, "works").__enter__().__exit__()
    thread.join()


@posix
@pytest.mark.filterwarnings("ignore:The file system of .* has no locks")
def test_a_marker_stands_in_where_there_are_no_locks(path, quick, without_locks):
    inside, order = threading.Event(), []

    def first():
        with Lock(path, "works"):
            inside.set()
            time.sleep(1.0)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with pytest.raises(TimeoutError, match="process .* works"):
        Lock(path, "works", wait=False).__enter__()
    with pytest.warns(UserWarning, match="Waiting for process"), Lock(path, "works"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert list(path.parent.iterdir()) == []


@posix
def test_a_file_system_without_locks_is_named(path, without_locks):
    with (
        pytest.warns(UserWarning, match="file system of '.*' has no locks. A marker file"),
        Lock(path, "works"),
    ):
        assert path.exists()


@posix
@pytest.mark.filterwarnings("ignore:The file system of .* has no locks")
@pytest.mark.parametrize("wait", [True, False])
def test_the_marker_of_a_dead_process_is_taken_away(path, wait, holder, quick, without_locks):
    process = holder(marks=True)
    # As from a machine that cannot be asked whether the process lives.
    path.write_text(path.read_text().replace(socket.gethostname(), "elsewhere"))
    process.kill()
    process.join()
    warnings.filterwarnings("ignore", "Waiting for process")
    with Lock(path, "sleeps", wait=wait):
        assert path.with_suffix(".holder").read_text().startswith(f"process {os.getpid()}")


@posix
def test_other_errors_of_a_lock_are_raised(path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output"):
        Lock(path, "works").__enter__()


@posix
def test_a_pipe_in_the_place_of_the_note_is_not_waited_for(path):
    os.mkfifo(path.with_suffix(".holder"))
    with Lock(path, "works"), pytest.raises(TimeoutError, match="another process works"):
        Lock(path, "works", wait=False).acquire()


def test_a_holder_without_a_note_counts_as_silent(path, quick):
    with (
        FileLock(path),
        pytest.warns(UserWarning, match="Waiting for another process"),
        pytest.raises(TimeoutError, match="another process works, but"),
    ):
        Lock(path, "works").__enter__()
