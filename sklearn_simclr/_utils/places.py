"""Paths as users write them: "~", "file://", and addresses on the net."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["is_address", "local_folder", "local_path"]


def local_path(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return a path without "~" and "file://", which other programs understand."""
    text = os.fspath(path)
    if not isinstance(text, str):
        return path
    if text.startswith("~"):
        return os.path.expanduser(text)
    if match := re.match("file:/+", text, re.IGNORECASE):
        rest = text[match.end() - 1 :] if match.end() != len("file://") else urlsplit(text).path
        return url2pathname(rest)
    return path


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address on the net."""
    # pathlib makes one slash of two.
    return re.match("[a-z][a-z0-9+.-]+:/", os.fsdecode(os.fspath(path)), re.IGNORECASE) is not None


def local_folder(folder: str | os.PathLike[str], name: str) -> Path:
    """Return the folder that a parameter names, without "~" and "file://".

    Parameters
    ----------
    folder : str or path-like
        As the user wrote it.
    name : str
        Name of the parameter, for the message.

    Returns
    -------
    pathlib.Path
        On this machine.

    Raises
    ------
    ValueError
        If `folder` is an address on the net.
    """
    path = local_path(folder)
    if is_address(path):
        raise ValueError(f"{name}={str(folder)!r} is a network address. Pass a folder on this machine.")
    return Path(path)
