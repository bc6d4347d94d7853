"""Read the bytes of image files."""

import os
import stat
from collections.abc import Callable

from numpy.typing import NDArray

from .._utils.places import is_address
from .decode import ImageError, decode
from .remote import RemoteError, read_remote
from .sizes import Target

__all__ = ["OPENING", "READ_AT_ONCE", "NoSuchFile", "RecentFile", "read_file"]

# Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
OPENING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

# A larger file is not read as a whole before it is known to be an image.
READ_AT_ONCE = 64 << 20

_FIRST_READ = 64 << 10


class NoSuchFile(ImageError):
    """A file that does not exist."""


def read_file(path: str | bytes, target: Target | None) -> NDArray | ImageError | bytes:
    """Return the bytes of a file, the image if it is too large for that, or an ImageError."""
    try:
        handle = os.open(path, OPENING)
        try:
            data = os.read(handle, _FIRST_READ)
            if 0 < len(data) < _FIRST_READ:
                return data
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("it is not a regular file")
            if status.st_size <= READ_AT_ONCE:
                parts = [data]
                while part := os.read(handle, READ_AT_ONCE):
                    parts.append(part)
                return b"".join(parts)
            with os.fdopen(os.dup(handle), "rb") as file:
                return decode(file, target)
        finally:
            os.close(handle)
    except FileNotFoundError:
        text = os.fsdecode(path)
        return _at_address(text) if is_address(text) else NoSuchFile("no such file")
    except IsADirectoryError:
        return ImageError("it is a folder; load_image_paths lists its images")
    except OSError as error:
        return ImageError((error.strerror or str(error)).lower())
    except ValueError as error:
        return error if isinstance(error, ImageError) else ImageError(str(error))


def _at_address(address: str) -> bytes | ImageError:
    try:
        return read_remote(address)
    except RemoteError as error:
        return ImageError(str(error))


class RecentFile:
    """A file that changed a moment ago, so that its times may not show a further change.

    ``name`` is the key of the file's name; the callable ``key`` returns the key of its content.
    """

    def __init__(self, path: str | bytes, name: str, key: Callable[[bytes], str]) -> None:
        self.path, self.name, self._key = path, name, key
        # Key of the bytes that were decoded.
        self.key: str | None = None

    def read(self, target: Target | None) -> NDArray | ImageError | bytes:
        """Return what `read_file` returns, and remember the key of the bytes."""
        data = read_file(self.path, target)
        self.key = self._key(data) if isinstance(data, bytes) else None
        return data

    def look(self, target: Target | None) -> None:
        """Find out the key of the content, if the file can be read, without keeping the bytes."""
        self.read(target)
