"""Write a file under a name that nobody can guess or reach, and put it in its place when it is complete."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["as_path", "open_no_link", "remove_unfinished", "replacing"]

_UNFINISHED = ".unfinished-"


def as_path(path: str | os.PathLike) -> Path:
    """Convert the `path` that the user passed.

    Parameters
    ----------
    path : str or path-like
        The name of a file.

    Returns
    -------
    pathlib.Path
        `path`, with the home folder in place of "~".

    Raises
    ------
    TypeError
        If `path` is neither a str nor path-like.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or path-like, got {path!r} of type {type(path).__name__}.")
    return Path(path).expanduser()


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove the unfinished files that killed processes left in a folder.

    Parameters
    ----------
    folder : str or path-like
        A folder in which no other process writes now.
    """
    for left in Path(folder).glob(f"{_UNFINISHED}*"):
        # Anything but a folder is not of this package, and rmtree would wait for ever for a pipe.
        if stat.S_ISDIR(left.lstat().st_mode):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """Give the name of a file that takes the place of `path` when the block ends without an error.

    Parameters
    ----------
    path : str or path-like
        The file to be replaced or made. Its folder has to be there. A link of that name is replaced, not
        followed.

    Yields
    ------
    str
        A file that is there and empty, to be written to or replaced.

    Raises
    ------
    TypeError
        If `path` is neither a str nor path-like.
    OSError
        If the file cannot be written. What was there before stays.
    """
    path = as_path(path)
    try:
        # In a folder that nobody else may enter, no link can wait under the name of the unfinished file.
        # On the same disk as the target, so that the last step is a rename.
        with tempfile.TemporaryDirectory(
            prefix=_UNFINISHED, dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            unfinished = os.path.join(folder, "file")
            with open(unfinished, "xb") as file:
                permissions = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield unfinished
            with open(unfinished, "rb+", opener=open_no_link) as file:
                if os.chmod in os.supports_fd:
                    # safetensors makes files that only their owner may read.
                    os.chmod(file.fileno(), permissions)
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot be written: {error.strerror or error}. Pass a path in a folder that exists and can be "
            "written to, on a disk with free space. An older file of this name is unchanged",
            str(path),
        ) from error


def open_no_link(path: str | os.PathLike, flags: int) -> int:
    """Open a file, as `opener` of `open`; a link of that name is an OSError, a pipe is not waited for.

    Parameters
    ----------
    path : str or path-like
        The file.
    flags : int
        Flags as for `os.open`.

    Returns
    -------
    int
        Descriptor of the file.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
