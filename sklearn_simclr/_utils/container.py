"""Keep named arrays and JSON in one safetensors file that is replaced as a whole and holds no code."""

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .._version import __version__

__all__ = ["peek", "read", "write"]

# Keys in the header of the safetensors file.
_HEADER = "sklearn_simclr"
_DIGEST = "blake2b"

_FORMAT = 1


def write(
    path: str | os.PathLike, kind: str, arrays: Mapping[str, torch.Tensor | np.ndarray], meta: Any
) -> None:
    """Write a container; a file of that name is replaced when the new one is complete.

    Parameters
    ----------
    path : str or path-like
        The file. Its folder has to be there. A link of that name is replaced, not followed.
    kind : str
        What the container is, such as "checkpoint". `read` asks for it.
    arrays : mapping of str to tensor or ndarray
        Numbers of any shape, memory layout and device. Arrays that share memory are written
        once for each name.
    meta : object
        What ``json`` can write, NaN included. Tuples come back as lists, keys of dicts as str.

    Raises
    ------
    TypeError
        If `arrays` or `meta` holds what such a file cannot.
    OSError
        If the file cannot be written. What was there before stays.
    """
    path = Path(path)
    tensors = _to_tensors(arrays)
    text = json.dumps({"kind": kind, "format": _FORMAT, "version": __version__, "meta": meta})
    header = {_HEADER: text, _DIGEST: _digest(text, tensors)}
    try:
        # In a folder that nobody else may enter, no link can wait under the name of the unfinished file.
        with tempfile.TemporaryDirectory(
            prefix=".unfinished-", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            unfinished = os.path.join(folder, "container")
            with open(unfinished, "xb") as file:
                permissions = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            save_file(tensors, unfinished, header)
            with open(unfinished, "rb+", opener=_open_no_link) as file:
                if os.chmod in os.supports_fd:
                    # safetensors makes files that only their owner may read.
                    os.chmod(file.fileno(), permissions)
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        # safetensors has an error of its own for a full disk.
        kind_of_error = type(error) if isinstance(error, OSError) else OSError
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
        raise kind_of_error(
            number or errno.EIO,
            f"cannot be written: {reason or error}. Pass a path in a folder that exists and can be written "
            "to, on a disk with free space. What was there before is unchanged",
            str(path),
        ) from error


def read(path: str | os.PathLike, kind: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Read a container that `write` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : str
        What the container has to be.

    Returns
    -------
    arrays : dict of str to tensor
        On the CPU, contiguous, in memory of their own.
    meta : object
        As json reads it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no container, is one of another kind or of a later version, or is damaged.
    """
    path = Path(path)
    try:
        with safe_open(_existing(path), framework="pt") as file:
            metadata = file.metadata() or {}
            header = _parse(metadata)
            if header is None:
                raise ValueError(
                    f"{path} is a safetensors file of another program, not a container of kind {kind!r}. "
                    "Pass a file that this package wrote."
                )
            if header["format"] != _FORMAT:
                raise ValueError(
                    f"{path} is of format version {header['format']!r}, which this version does not read: "
                    f"sklearn-simclr {header['version']} wrote it. Use that version, or write the file anew."
                )
            if header["kind"] != kind:
                raise ValueError(
                    f"{path} is a container of kind {header['kind']!r}, not {kind!r}. Pass another file, "
                    "or use the function that reads this kind."
                )
            # Copies: what is checked below cannot be changed afterwards through the file.
            arrays = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
    except (SafetensorError, _Damaged) as error:
        raise ValueError(
            f"{path} is damaged, or no safetensors file: {error}. Write it anew, or pass another file. "
            "Other files, such as pickles, are never opened."
        ) from None
    if metadata.get(_DIGEST) != _digest(metadata[_HEADER], arrays):
        raise ValueError(
            f"{path} is damaged: its content does not have the checksum that it was written with. Write "
            "it anew, or pass another file."
        )
    return arrays, header["meta"]


def peek(path: str | os.PathLike) -> tuple[str, Any] | None:
    """Return kind and meta of a container without reading its arrays, or None for any other file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    kind, meta : str, object
        As given to `write`. The checksum is not looked at.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    try:
        with safe_open(_existing(Path(path)), framework="pt") as file:
            header = _parse(file.metadata() or {})
    except (SafetensorError, _Damaged):
        return None
    if header is None or header["format"] != _FORMAT:
        return None
    return header["kind"], header["meta"]


class _Damaged(Exception):
    """The header is none that `write` writes."""


def _to_tensors(arrays):
    """Return tensors as safetensors wants them: on the CPU, contiguous, without shared memory."""
    tensors, seen = {}, set()
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"The names in arrays must be str, got {name!r} of type {type(name).__name__}.")
        if isinstance(array, torch.Tensor):
            if array.layout != torch.strided:
                raise TypeError(f"arrays[{name!r}] is a tensor of layout {array.layout}; pass a dense one.")
            tensor = array.detach().cpu().contiguous()
        elif isinstance(array, np.ndarray):
            # ascontiguousarray would give arrays without dimensions one.
            array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
            try:
                # torch warns of arrays that may not be written to.
                tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
            except TypeError:
                raise TypeError(
                    f"arrays[{name!r}] is of dtype {array.dtype}; pass bools or numbers of at most 64 bits."
                ) from None
        else:
            raise TypeError(f"arrays[{name!r}] must be a tensor or an ndarray, got {type(array).__name__}.")
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return tensors


def _digest(text, tensors):
    """Return the checksum of the header's text and of all arrays with their names, types and shapes."""
    encoded = text.encode()
    total = hashlib.blake2b(f"{len(encoded)} ".encode() + encoded, digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), tuple(tensor.shape)]).encode())
        # Of a single element the stride may be anything, and view takes none but 1.
        flat = tensor.as_strided((tensor.numel(),), (1,))
        total.update(flat.view(torch.uint8).numpy())
    return total.hexdigest()


def _parse(metadata):
    """Return the header of a container, or None if there is no such header."""
    if _HEADER not in metadata:
        return None
    try:
        header = json.loads(metadata[_HEADER])
    except (ValueError, RecursionError) as error:
        raise _Damaged(f"its header is no JSON ({error})") from None
    keys = {"kind", "format", "version", "meta"}
    if not isinstance(header, dict) or not header.keys() >= keys or not isinstance(header["kind"], str):
        raise _Damaged(f"its header has not the fields {', '.join(sorted(keys))}")
    return header


def _existing(path):
    """Return the path after having raised the system's own error if no file can be opened there."""
    with open(path, "rb"):
        return path


def _open_no_link(path, flags):
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
