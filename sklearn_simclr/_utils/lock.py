"""Lock a file: the lock names its holder, and nobody waits for a holder that has died."""

import contextlib
import errno
import math
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from .atomic_write import open_no_link
from .warn import warn

__all__ = ["Lock"]

# Seconds between two signs of life of a holder.
_BEAT = 10.0

# Seconds without a sign of life after which a holder counts as dead. NFS shows changes up to a minute late.
_SILENCE = 300.0

# Seconds after which a process says what it waits for.
_PATIENCE = 120.0

# Characters of a note.
_NOTE = 300

# Seconds between two looks at the holder.
_LOOK = 1.0

# What file systems without locks answer, such as Lustre without its option flock.
_LACKING = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class Lock:
    """A lock on a file. A note next to the file names the holder, who renews the note while it lives.

    The kernel frees the lock of a process that has died. Where a file system has no locks, a marker file
    stands in for one. A marker outlives its process, so a marker whose note is not renewed is removed.

    Parameters
    ----------
    path : pathlib.Path
        The file, in a folder that is there.
    task : str
        What the holder does, such as "trains the same encoder", for messages.
    wait : bool, default=True
        Whether to wait for a holder that gives signs of life.

    Raises
    ------
    TimeoutError
        When entered, if another process holds the lock and either gives no sign of life or is not waited for.
    OSError
        When entered, if the file cannot be made.
    """

    def __init__(self, path: Path, task: str, wait: bool = True) -> None:
        self.path = path
        self.task = task
        self.wait = wait
        self._note = path.with_suffix(".holder")
        self._lock: BaseFileLock | None = None
        self._life: threading.Thread | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def acquire(self, seconds: float = math.inf) -> bool:
        """Take the lock, a marker even from a holder that gives no sign of life.

        Parameters
        ----------
        seconds : float, default=inf
            After which to return without the lock. A later call goes on waiting.

        Returns
        -------
        bool
            Whether this process has the lock.
        """
        began = time.monotonic()
        if self._lock is None:
            self._begin(began)
        assert self._lock is not None
        while True:
            try:
                # Whether the process behind a marker still lives shows only after a while.
                self._lock.acquire(timeout=_LOOK if self.wait or self._marks else 0)
                break
            except Timeout:
                now = time.monotonic()
                self._look_at_holder(now)
            if now - began > seconds:
                return False
        # A link of that name might lead to a file of somebody else, which would be emptied.
        with contextlib.suppress(OSError), open(self._note, "w", opener=open_no_link) as note:
            note.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._over.clear()
        self._life = threading.Thread(target=self._show_life, daemon=True)
        self._life.start()
        return True

    def release(self) -> None:
        """Let go of the lock, if this process has it."""
        if self._lock is None or self._life is None:
            return
        self._over.set()
        self._life.join()
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)
        self._lock.release()
        self._lock = self._life = None

    def _begin(self, now: float) -> None:
        self._marks = _lacks_locks(self.path.parent)
        if self._marks:
            warn(
                f"The file system of {str(self.path.parent)!r} has no locks. A marker file stands in for "
                "a lock: if a process on another machine dies while it holds the marker, the next process "
                f"waits {_SILENCE:.0f} s. Use a folder on another file system to avoid that."
            )
        self._lock = (SoftFileLock if self._marks else FileLock)(self.path)
        self._began = self._heard = now
        self._seen, self._said = self._beat(), False

    def _look_at_holder(self, now: float) -> None:
        """Say who holds the lock; remove the marker of a holder that shows no life, or raise."""
        seen, self._seen = self._seen, self._beat()
        if self._seen != seen:
            self._heard = now
        if not self.wait and (not self._marks or self._seen != seen):
            raise TimeoutError(f"{self._holder()} {self.task}.")
        if now - self._heard > _SILENCE:
            if not self._marks:
                raise TimeoutError(
                    f"{self._holder()} {self.task}, but has given no sign of life for {_SILENCE:.0f} s."
                )
            self.path.unlink(missing_ok=True)
            self._heard = now
        elif now - self._began > _PATIENCE and not self._said:
            self._said = True
            warn(f"Waiting for {self._holder()}, which {self.task} ({str(self.path)!r}).")

    def _holder(self) -> str:
        try:
            with open(self._note, opener=open_no_link) as note:
                return note.read(_NOTE) or "another process"
        except (OSError, ValueError):
            return "another process"

    def _beat(self) -> int | None:
        """Return what changes while the holder lives."""
        try:
            return self._note.stat().st_mtime_ns
        except OSError:
            return None

    def _show_life(self) -> None:
        while not self._over.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._note)


def _lacks_locks(folder: Path) -> bool:
    """Return whether the file system of a folder has no locks that the kernel frees."""
    try:
        import fcntl
    except ImportError:  # Windows has locks on every file system
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            return True
    return False
