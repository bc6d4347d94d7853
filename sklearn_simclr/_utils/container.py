"""Keep named arrays and JSON in one safetensors file that is replaced as a whole and holds no code."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._version import __version__
from .atomic_write import as_path, replacing
from .warn import shortened

__all__ = ["peek", "read", "write"]

# Keys in the header of the safetensors file.
_HEADER = "sklearn_simclr"
_DIGEST = "blake2b"

_FORMAT = 1

# Bytes that are read from a file before it is opened anew: what one handle has read stays mapped.
_MAPPED = 2**24


def write(path: str | os.PathLike, kind: str, arrays: Mapping[str, Tensor | np.ndarray], meta: Any) -> None:
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
        If `arrays` or `meta` holds something that such a file cannot hold.
    OSError
        If the file cannot be written. What was there before stays.
    """
    tensors = _to_tensors(arrays)
    text = json.dumps({"kind": kind, "format": _FORMAT, "version": __version__, "meta": meta})
    header = {_HEADER: text, _DIGEST: _digest(text, tensors)}
    with replacing(path) as unfinished:
        try:
            save_file(tensors, unfinished, header)
        except SafetensorError as error:  # its own error for a full disk
            raise OSError(errno.EIO, str(error)) from error


def read(
    path: str | os.PathLike, kind: str, *, advice: str = "Write it anew, or pass another file."
) -> tuple[dict[str, Tensor], Any]:
    """Read a container that `write` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : str
        What the container has to be.
    advice : str, optional
        What to do about a damaged file.

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
    path = as_path(path)
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
                    f"{path} has format version {shortened(repr(header['format']))}, which sklearn-simclr "
                    f"{__version__} does not read. The file was written by sklearn-simclr "
                    f"{shortened(str(header['version']))}: use that version, or write the file anew."
                )
            if header["kind"] != kind:
                raise ValueError(
                    f"{path} is a container of kind {shortened(repr(header['kind']))}, not {kind!r}. Pass "
                    "another file, or use the function that reads this kind."
                )
            names = list(file.keys())
        arrays = _copy_arrays(path, names)
    except (SafetensorError, _Damaged) as error:
        raise ValueError(
            f"{path} is damaged or is not a safetensors file: {shortened(str(error))}. {advice} Files of "
            "other formats, such as pickles, are never opened."
        ) from None
    if metadata.get(_DIGEST) != _digest(metadata[_HEADER], arrays):
        raise ValueError(
            f"{path} is damaged: its content does not match the checksum in its header. {advice}"
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
        As given to `write`. Neither format nor checksum is looked at: `read` does that.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    try:
        with safe_open(_existing(as_path(path)), framework="pt") as file:
            header = _parse(file.metadata() or {})
    except (SafetensorError, _Damaged):
        return None
    return None if header is None else (header["kind"], header["meta"])


class _Damaged(Exception):
    """The header is not one that `write` writes."""


def _to_tensors(arrays: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
    """Return tensors as safetensors wants them: on the CPU, contiguous, without shared memory."""
    tensors, seen = {}, set()
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"The names in arrays must be str, got {name!r} of type {type(name).__name__}.")
        if isinstance(array, torch.Tensor):
            if array.layout != torch.strided:
                raise TypeError(
                    f"arrays[{name!r}] is a tensor of layout {array.layout}; pass a dense tensor."
                )
            tensor = array.detach().cpu().contiguous()
        elif isinstance(array, np.ndarray):
            # ascontiguousarray would give arrays without dimensions one.
            array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
            try:
                # torch warns about read-only arrays.
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


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of the header's text and of all arrays with their names, types and shapes."""
    encoded = text.encode()
    total = hashlib.blake2b(f"{len(encoded)} ".encode() + encoded, digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), tuple(tensor.shape)]).encode())
        # A single element may have any stride, and view takes a stride of 1 only.
        flat = tensor.as_strided((tensor.numel(),), (1,))
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def _parse(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the header of a container, or None if there is no such header."""
    if _HEADER not in metadata:
        return None
    try:
        header = json.loads(metadata[_HEADER])
    except (ValueError, RecursionError) as error:
        raise _Damaged(f"its header is not JSON ({error})") from None
    keys = {"kind", "format", "version", "meta"}
    if not isinstance(header, dict) or not header.keys() >= keys or not isinstance(header["kind"], str):
        raise _Damaged(f"its header lacks one of the fields {', '.join(sorted(keys))}, or has a wrong type")
    return header


def _copy_arrays(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Return arrays that cannot be changed through the file after they have been checked."""
    arrays, left = {}, list(reversed(names))
    while left:
        # All that one handle has read stays mapped: in the end the whole file, in addition to the copies.
        with safe_open(path, framework="pt") as file:
            mapped = 0
            while left and mapped < _MAPPED:
                name = left.pop()
                arrays[name] = file.get_tensor(name).clone()
                mapped += arrays[name].nbytes
    return arrays


def _existing(path: Path) -> Path:
    """Return the path after having raised the system's own error if no file can be opened there."""
    # Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
    with open(
        path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    ) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _Damaged("it is not a regular file")
    return path
