"""Read TensorFlow checkpoints of version 2, "tensor bundles", without TensorFlow.

A bundle is a file NAME.index, a sorted table from the names of the variables to where and what they are, and
files NAME.data-00000-of-0000N with their bytes. The formats are those of TensorFlow's ``tensor_bundle.h`` and
``tensor_bundle.proto``.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ._tensorflow_encoding import Malformed, Message, masked_crc32c, read_table, read_varint

__all__ = ["TensorBundle", "TensorEntry"]

_MAX_SHARDS = 99999

# tensorflow/core/framework/types.proto. bfloat16 has no NumPy type: its bits are the upper half of a float32.
_DTYPES = {
    1: "f4",
    2: "f8",
    3: "i4",
    4: "u1",
    5: "i2",
    6: "i1",
    8: "c8",
    9: "i8",
    10: "b1",
    14: "bfloat16",
    17: "u2",
    18: "c16",
    19: "f2",
    22: "u4",
    23: "u8",
}
_STRING = 7
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLE = ".ATTRIBUTES/VARIABLE_VALUE"
_BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class TensorEntry:
    """Place, type and shape of a variable, from the table of a bundle.

    Parameters
    ----------
    dtype : str
        NumPy's short name, "bfloat16", "string", or "type N" for another number of TensorFlow's.
    shape : tuple of int
        Lengths of the dimensions.
    shard, offset, size : int
        Number of the data file, first byte in the file, and number of bytes.
    checksum : int
        Masked CRC-32C of the bytes.
    sliced : bool
        Whether the variable is partitioned over other entries, and has no bytes of its own.
    """

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


class TensorBundle(Mapping[str, np.ndarray]):
    """The variables of a checkpoint, by name; each is read when it is asked for.

    ``bundle[name]`` is an array that maps the file and cannot be written to; only bfloat16 is converted, to a
    float32 array in memory. Nothing stays mapped but what the caller keeps. The checksum of the
    bytes is compared at each reading, those of the table when the bundle is opened.

    Parameters
    ----------
    prefix : str or path-like
        Path of the checkpoint without ".index".

    Attributes
    ----------
    entries : dict of str to TensorEntry
        The table, sorted by name.

    Raises
    ------
    FileNotFoundError
        If there is no index file.
    ValueError
        If the index is not one or is damaged, or a data file is missing or too short. Reading a variable
        raises one if its bytes are damaged or it is partitioned or a string.
    """

    def __init__(self, prefix: str | os.PathLike) -> None:
        self.prefix = Path(prefix)
        index = Path(f"{self.prefix}.index")
        table = read_table(index)
        try:
            header = Message(table.pop(b"", b""))
            n_shards = header.value(1, 0)
            big_endian = header.value(2, 0) == 1
            # A name that begins with zero is that of a slice.
            self.entries = {
                name.decode(): _parse_entry(Message(value))
                for name, value in table.items()
                if not name.startswith(b"\0")
            }
        except (Malformed, UnicodeDecodeError) as error:
            raise ValueError(f"{index} cannot be read as a checkpoint index: {error}.") from None
        if not 1 <= n_shards <= _MAX_SHARDS:
            raise ValueError(f"{index} is not a checkpoint index: it claims {n_shards} data files.")
        self._order: Literal["big", "little"] = "big" if big_endian else "little"
        self._shards = [Path(f"{self.prefix}.data-{i:05d}-of-{n_shards:05d}") for i in range(n_shards)]
        self._check_entries()

    def _check_entries(self) -> None:
        claimed = dict.fromkeys(range(len(self._shards)), 0)
        ends = dict(claimed)
        for name, entry in self.entries.items():
            if entry.sliced:
                continue
            if entry.shard not in claimed:
                raise ValueError(
                    f"{self.prefix}.index is damaged: it places {name!r} in data file {entry.shard} of "
                    f"{len(self._shards)}."
                )
            expected = _n_bytes(entry)
            if entry.size < 0 or entry.offset < 0 or (expected is not None and entry.size != expected):
                raise ValueError(
                    f"{self.prefix}.index is damaged: {name!r}, {entry.dtype} of shape {entry.shape}, takes "
                    f"{expected} bytes, but the index gives it {entry.size} from byte {entry.offset} on."
                )
            claimed[entry.shard] += entry.size
            ends[entry.shard] = max(ends[entry.shard], entry.offset + entry.size)
        for shard, total in claimed.items():
            path = self._shards[shard]
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing: the checkpoint {self.prefix} has {len(self._shards)} data file(s); "
                    "put all of them next to its index."
                )
            length = path.stat().st_size
            # Variables do not overlap: a table that claims more than the file holds would multiply its bytes.
            if max(ends[shard], total) > length:
                raise ValueError(
                    f"{path} has {length} bytes, but the index needs {max(ends[shard], total)}: the file is "
                    "truncated, or belongs to another index."
                )

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        if entry.sliced:
            raise ValueError(
                f"{self.prefix}: {name!r} was saved in slices (a partitioned variable); save it as a whole."
            )
        if _n_bytes(entry) is None:
            raise ValueError(f"{self.prefix}: {name!r} holds {entry.dtype}, not numbers.")
        raw = self._raw(name)
        self._check(name, raw)
        dtype = "u2" if entry.dtype == _BFLOAT16 else entry.dtype
        values = raw.view(np.dtype(dtype).newbyteorder(self._order)).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def read_string(self, name: str) -> bytes:
        """Return the bytes of a string variable of one element."""
        entry = self.entries[name]
        raw = self._raw(name).tobytes()
        try:
            length, start = read_varint(raw, 0)
        except Malformed as error:
            raise ValueError(f"{self.prefix}: {name!r}: {error}.") from None
        if entry.dtype != "string" or math.prod(entry.shape) != 1 or start + 4 + length != len(raw):
            raise ValueError(f"{self.prefix}: {name!r} is not one string.")
        # The length enters the checksum as a number of four bytes, before its own checksum and the text.
        self._check(name, (length % 2**32).to_bytes(4, self._order) + raw[start:])
        return raw[start + 4 :]

    def object_graph(self) -> list[tuple[dict[str, int], str | None]] | None:
        """Return the graph of saved objects of a TensorFlow 2 checkpoint, or None if it is not one.

        Returns
        -------
        nodes : list of (dict of str to int, str or None), or None
            For each object its children, as positions in the list by name, and the name of its variable.
        """
        if _OBJECT_GRAPH not in self.entries:
            return None
        try:
            nodes = []
            for node in Message(self.read_string(_OBJECT_GRAPH)).messages(1):
                children = {child.value(2, b"").decode(): child.value(1, 0) for child in node.messages(1)}
                keys = [item.value(3, b"").decode() for item in node.messages(2)]
                variable = next((key for key in keys if key.endswith(_VARIABLE)), None)
                nodes.append((children, variable))
        except (Malformed, UnicodeDecodeError) as error:
            raise ValueError(f"{self.prefix}: the graph of its objects is damaged: {error}.") from None
        if any(child >= len(nodes) for children, _ in nodes for child in children.values()):
            raise ValueError(f"{self.prefix}: the graph of its objects is damaged: it lacks objects.")
        return nodes

    def _raw(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        if entry.size == 0:
            return np.zeros(0, np.uint8)
        path = self._shards[entry.shard]
        return np.memmap(path, np.uint8, "r", entry.offset, (entry.size,)).view(np.ndarray)

    def _check(self, name: str, content: bytes | np.ndarray) -> None:
        entry = self.entries[name]
        if masked_crc32c(content) != entry.checksum:
            raise ValueError(
                f"{self._shards[entry.shard]}: the bytes of {name!r} do not match the checksum in the index; "
                "the file is damaged."
            )


def _n_bytes(entry: TensorEntry) -> int | None:
    if entry.dtype == _BFLOAT16:
        return 2 * math.prod(entry.shape)
    if entry.dtype == "string" or entry.dtype.startswith("type "):
        return None
    return np.dtype(entry.dtype).itemsize * math.prod(entry.shape)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _parse_entry(message: Message) -> TensorEntry:
    number = message.value(1, 0)
    shape = [_signed(dim.value(1, 0)) for part in message.messages(2) for dim in part.messages(2)]
    if any(side < 0 for side in shape):
        raise Malformed(f"a variable has the shape {tuple(shape)}")
    return TensorEntry(
        dtype="string" if number == _STRING else _DTYPES.get(number, f"type {number}"),
        shape=tuple(shape),
        shard=_signed(message.value(3, 0)),
        offset=_signed(message.value(4, 0)),
        size=_signed(message.value(5, 0)),
        checksum=message.value(6, 0),
        sliced=7 in message,
    )
