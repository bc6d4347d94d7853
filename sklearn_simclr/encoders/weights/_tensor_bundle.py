"""Read TensorFlow checkpoints of version 2, "tensor bundles", without TensorFlow.

A bundle is a file NAME.index, a sorted table in LevelDB's format from the names of the variables to where and
what they are, and files NAME.data-00000-of-0000N with their bytes. The formats are those of TensorFlow's
``tensor_bundle.h``, ``tensor_bundle.proto`` and ``lib/io/format.h``, and of snappy's
``format_description.txt``.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["TensorBundle", "TensorEntry", "crc32c", "find_prefix", "masked_crc32c", "snappy_decompress"]

_FOOTER = 48
_MAGIC = bytes.fromhex("57fb808b247547db")

# A table of a few thousand variables takes some 100 kB. The limits keep a hostile file, whose keys and
# compressed blocks may stand for much more than their bytes, from filling the memory.
_MAX_INDEX = 1 << 26
_MAX_KEY = 4096
_MAX_KEYS = 1 << 24
_MAX_SHARDS = 99999

# A copy element of snappy gives at most 64 bytes for 3 of the file (or 11 for 2).
_MAX_SNAPPY_RATIO = 22

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
    """Where a variable lies and what it is, as the table of a bundle says.

    Parameters
    ----------
    dtype : str
        NumPy's short name, "bfloat16", "string", or "type N" for another number of TensorFlow's.
    shape : tuple of int
        Lengths of the dimensions.
    shard, offset, size : int
        Which data file, at which byte of it, how many bytes.
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


class TensorBundle(Mapping):
    """The variables of a checkpoint, by name; each is read when it is asked for.

    ``bundle[name]`` is an array that maps the file and cannot be written to; only bfloat16 is converted, to a
    float32 array in memory. Nothing stays mapped but what the caller keeps.

    Parameters
    ----------
    prefix : str or path-like
        Path of the checkpoint without ".index".
    verify : bool, default=True
        Whether the checksum of a variable is compared at each reading (0.4 s for 100 MB). Those of the table
        always are.

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

    def __init__(self, prefix, *, verify=True):
        self.prefix = Path(prefix)
        self.verify = verify
        index = Path(f"{self.prefix}.index")
        table = _read_table(index)
        try:
            header = _fields(table.pop(b"", b""))
            n_shards = _only(header, 1, 0)
            big_endian = _only(header, 2, 0) == 1
            # A name that begins with zero is that of a slice.
            self.entries = {
                name.decode(): _parse_entry(value)
                for name, value in table.items()
                if not name.startswith(b"\0")
            }
        except (_Malformed, UnicodeDecodeError) as error:
            raise ValueError(f"{index} is a damaged checkpoint index: {error}.") from None
        if not 1 <= n_shards <= _MAX_SHARDS:
            raise ValueError(f"{index} is no checkpoint index: it claims {n_shards} data files.")
        self._order = ">" if big_endian else "<"
        self._shards = [Path(f"{self.prefix}.data-{i:05d}-of-{n_shards:05d}") for i in range(n_shards)]
        self._check_entries()

    def _check_entries(self):
        claimed = dict.fromkeys(range(len(self._shards)), 0)
        ends = dict(claimed)
        for name, entry in self.entries.items():
            if entry.sliced:
                continue
            if entry.shard not in claimed:
                raise ValueError(
                    f"{self.prefix}.index: {name!r} lies in data file {entry.shard} of {len(self._shards)}."
                )
            expected = _n_bytes(entry)
            if entry.size < 0 or entry.offset < 0 or (expected is not None and entry.size != expected):
                raise ValueError(
                    f"{self.prefix}.index: {name!r}, {entry.dtype} of shape {entry.shape}, takes {expected} "
                    f"bytes, but the table gives it {entry.size} from byte {entry.offset} on."
                )
            claimed[entry.shard] += entry.size
            ends[entry.shard] = max(ends[entry.shard], entry.offset + entry.size)
        for shard, total in claimed.items():
            path = self._shards[shard]
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing: the checkpoint {self.prefix} has {len(self._shards)} data file(s); "
                    "put all of them beside its index."
                )
            length = path.stat().st_size
            # Variables do not overlap: a table that claims more than the file holds would multiply its bytes.
            if max(ends[shard], total) > length:
                raise ValueError(
                    f"{path} has {length} bytes, and the index needs {max(ends[shard], total)}: the file is "
                    "truncated, or belongs to another index."
                )

    def __len__(self):
        return len(self.entries)

    def __iter__(self):
        return iter(self.entries)

    def __getitem__(self, name):
        entry = self.entries[name]
        if entry.sliced:
            raise ValueError(
                f"{self.prefix}: {name!r} was saved in slices (a partitioned variable); save it whole."
            )
        if _n_bytes(entry) is None:
            raise ValueError(f"{self.prefix}: {name!r} holds {entry.dtype}, not numbers.")
        raw = self._raw(name)
        dtype = "u2" if entry.dtype == _BFLOAT16 else entry.dtype
        values = raw.view(np.dtype(dtype).newbyteorder(self._order)).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def read_string(self, name):
        """Return the bytes of a string variable of one element."""
        entry = self.entries[name]
        raw = self._raw(name, verify=False).tobytes()
        try:
            length, start = _varint(raw, 0)
        except _Malformed as error:
            raise ValueError(f"{self.prefix}: {name!r}: {error}.") from None
        if entry.dtype != "string" or math.prod(entry.shape) != 1 or start + 4 + length != len(raw):
            raise ValueError(f"{self.prefix}: {name!r} is not one string.")
        return raw[start + 4 :]

    def object_graph(self):
        """Return the graph of saved objects of a TensorFlow 2 checkpoint, or None if it is not one.

        Returns
        -------
        nodes : list of (dict of str to int, str or None), or None
            Of each object its children, as positions in the list by name, and the name of the variable it is.
        """
        if _OBJECT_GRAPH not in self.entries:
            return None
        try:
            nodes = []
            for message in _fields(self.read_string(_OBJECT_GRAPH)).get(1, []):
                node = _fields(_bytes(message))
                children = {}
                for child in map(_fields, map(_bytes, node.get(1, []))):
                    children[_only(child, 2, b"").decode()] = _only(child, 1, 0)
                keys = [_only(_fields(_bytes(item)), 3, b"").decode() for item in node.get(2, [])]
                variable = next((key for key in keys if key.endswith(_VARIABLE)), None)
                nodes.append((children, variable))
        except (_Malformed, UnicodeDecodeError) as error:
            raise ValueError(f"{self.prefix}: the graph of its objects is damaged: {error}.") from None
        if any(child >= len(nodes) for children, _ in nodes for child in children.values()):
            raise ValueError(f"{self.prefix}: the graph of its objects is damaged: it lacks objects.")
        return nodes

    def _raw(self, name, verify=None):
        entry = self.entries[name]
        path = self._shards[entry.shard]
        if entry.size == 0:
            return np.zeros(0, np.uint8)
        raw = np.memmap(path, np.uint8, "r", entry.offset, (entry.size,)).view(np.ndarray)
        if (self.verify if verify is None else verify) and masked_crc32c(raw) != entry.checksum:
            raise ValueError(
                f"{path}: the bytes of {name!r} do not have the checksum of the index; the file is damaged."
            )
        return raw


class _Malformed(Exception):
    """What is wrong with a message or block."""


def _n_bytes(entry):
    if entry.dtype == _BFLOAT16:
        return 2 * math.prod(entry.shape)
    if entry.dtype == "string" or entry.dtype.startswith("type "):
        return None
    return np.dtype(entry.dtype).itemsize * math.prod(entry.shape)


def _read_table(path):
    """All of a sorted table, as {key: value}."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    length = path.stat().st_size
    if length > _MAX_INDEX:
        raise ValueError(f"{path} has {length} bytes, too many for a checkpoint index.")
    content = path.read_bytes()
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise ValueError(
            f"{path} is no checkpoint index, or is truncated: it has {len(content)} bytes and does not end "
            "with the mark of a sorted table."
        )
    try:
        footer = content[-_FOOTER:]
        _, position = _handle(footer, 0)
        handle, _ = _handle(footer, position)
        table, reached, n_bytes = {}, 0, 0
        for _, value in _block_entries(_block(content, handle)):
            handle, _ = _handle(value, 0)
            if handle[0] < reached:
                raise _Malformed("its blocks overlap")
            reached = sum(handle)
            for key, entry in _block_entries(_block(content, handle)):
                n_bytes += len(key)
                if n_bytes > _MAX_KEYS:
                    raise _Malformed("its names are too long")
                table[key] = entry
    except _Malformed as error:
        raise ValueError(f"{path} is a damaged checkpoint index: {error}.") from None
    return table


def _block(content, handle):
    offset, size = handle
    end = offset + size
    if end + 5 > len(content) - _FOOTER:
        raise _Malformed(f"a block of {size} bytes at {offset} lies beyond its end")
    if masked_crc32c(content[offset : end + 1]) != int.from_bytes(content[end + 1 : end + 5], "little"):
        raise _Malformed(f"the block at byte {offset} does not have its checksum")
    block, kind = content[offset:end], content[end]
    if kind == 1:
        try:
            return snappy_decompress(block)
        except ValueError as error:
            raise _Malformed(f"the block at byte {offset}: {error}") from None
    if kind != 0:
        raise _Malformed(f"the block at byte {offset} has the unknown compression {kind}")
    return block


def _block_entries(block):
    """Yield (key, value) of a block: keys share prefixes with those before them."""
    if len(block) < 4:
        raise _Malformed("a block is empty")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise _Malformed("a block has more restarts than bytes")
    key, position = b"", 0
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        n_value, position = _varint(block, position)
        if shared > len(key) or shared + fresh > _MAX_KEY or position + fresh + n_value > end:
            raise _Malformed("a name or value is longer than its block")
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + n_value]
        position += n_value


def _handle(data, position):
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data, position):
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _Malformed("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise _Malformed("it has a number of more than ten bytes")


def _fields(message):
    """The fields of a protocol buffer, {number: list of int or bytes}."""
    fields, position = {}, 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value = int.from_bytes(message[position : position + size], "little")
            position += size
        elif kind == 2:
            size, position = _varint(message, position)
            value = message[position : position + size]
            position += size
        else:
            raise _Malformed(f"a message has a field of the unknown kind {kind}")
        if position > len(message):
            raise _Malformed("a message is truncated")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _only(fields, number, default):
    value = fields.get(number, [default])[-1]
    if type(value) is not type(default):
        raise _Malformed(f"field {number} is not of its type")
    return value


def _bytes(value):
    if not isinstance(value, bytes):
        raise _Malformed("a message is a number")
    return value


def _signed(value):
    return value - (1 << 64) if value >> 63 else value


def _parse_entry(message):
    fields = _fields(message)
    number = _only(fields, 1, 0)
    shape = []
    for dim in _fields(_only(fields, 2, b"")).get(2, []):
        shape.append(_signed(_only(_fields(_bytes(dim)), 1, 0)))
    if any(side < 0 for side in shape):
        raise _Malformed(f"a variable has the shape {tuple(shape)}")
    return TensorEntry(
        dtype="string" if number == _STRING else _DTYPES.get(number, f"type {number}"),
        shape=tuple(shape),
        shard=_signed(_only(fields, 3, 0)),
        offset=_signed(_only(fields, 4, 0)),
        size=_signed(_only(fields, 5, 0)),
        checksum=_only(fields, 6, 0),
        sliced=7 in fields,
    )


def snappy_decompress(data):
    """Return the bytes that a block of snappy's raw format stands for.

    Parameters
    ----------
    data : bytes
        The compressed block.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    ValueError
        If the block is damaged, or claims more than so many bytes can stand for.
    """
    try:
        length, position = _varint(data, 0)
    except _Malformed as error:
        raise ValueError(f"compressed data are damaged: {error}") from None
    if length > _MAX_SNAPPY_RATIO * len(data):
        raise ValueError(f"{len(data)} bytes of compressed data claim to hold {length}")
    out = bytearray()
    while position < len(data) and len(out) <= length:
        tag = data[position]
        position += 1
        kind = tag & 3
        if kind == 0:
            size = tag >> 2
            if size >= 60:
                extra = size - 59
                size = int.from_bytes(data[position : position + extra], "little")
                position += extra
            size += 1
            out += data[position : position + size]
            position += size
        else:
            extra = (1, 2, 4)[kind - 1]
            distance = int.from_bytes(data[position : position + extra], "little")
            position += extra
            if kind == 1:
                size = 4 + ((tag >> 2) & 7)
                distance |= (tag >> 5) << 8
            else:
                size = 1 + (tag >> 2)
            if not 1 <= distance <= len(out):
                raise ValueError("compressed data are damaged: a copy from before the beginning")
            start = len(out) - distance
            # The source may run into what it writes: the bytes then repeat.
            piece = bytes(out[start : start + size])
            out += (piece * -(-size // len(piece)))[:size]
    if position != len(data) or len(out) != length:
        raise ValueError(f"compressed data are damaged: {len(out)} bytes instead of {length}")
    return bytes(out)


# Castagnoli's polynomial, bits reversed.
_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
_CHUNK = 1 << 20


@cache
def _shift_columns(log2_bytes):
    """What 2**log2_bytes zero bytes make of each bit of the register, a linear map over GF(2)."""
    if log2_bytes > 0:
        half = _shift_columns(log2_bytes - 1)
        return tuple(_apply(half, column) for column in half)
    columns = []
    for bit in range(32):
        register = 1 << bit
        for _ in range(8):
            register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
        columns.append(register)
    return tuple(columns)


def _apply(columns, register):
    result = 0
    for bit, column in enumerate(columns):
        if register >> bit & 1:
            result ^= column
    return result


def _shift(register, n_bytes):
    for bit in range(n_bytes.bit_length()):
        if n_bytes >> bit & 1:
            register = _apply(_shift_columns(bit), register)
    return register


@cache
def _shift_tables(log2_bytes):
    """The same map for arrays: a table for the lower and one for the upper half of the register."""
    tables = []
    for columns in (_shift_columns(log2_bytes)[:16], _shift_columns(log2_bytes)[16:]):
        table = np.zeros(1, np.uint32)
        for column in columns:
            table = np.concatenate([table, table ^ np.uint32(column)])
        tables.append(table)
    return tuple(tables)


def _fold(chunk):
    """The register, less a shift by its own four bytes, that starts at zero and reads `chunk`.

    Neighbouring words are joined, then neighbouring pairs, and so on: an operation on whole arrays each.
    """
    n_words = 1 << max(0, (len(chunk) + 3) // 4 - 1).bit_length()
    # Zeros in front leave a register of zero as it is.
    padded = np.zeros(4 * n_words, np.uint8)
    padded[len(padded) - len(chunk) :] = chunk
    halves = padded.view("<u2")
    log2_bytes = 2
    while len(halves) > 2:
        lower, upper = _shift_tables(log2_bytes)
        left = lower[halves[0::4]]
        left ^= upper[halves[1::4]]
        left ^= halves.view("<u4")[1::2]
        halves = left.astype("<u4", copy=False).view("<u2")
        log2_bytes += 1
    return int(halves.view("<u4")[0])


def crc32c(data):
    """Return the CRC-32C checksum of some bytes.

    Parameters
    ----------
    data : bytes or ndarray of uint8, shape (n,)
        The bytes.

    Returns
    -------
    int
        The checksum, in [0, 2**32).
    """
    data = np.frombuffer(data, np.uint8)
    first = len(data) % _CHUNK
    register = _fold(data[:first]) if first else 0
    for start in range(first, len(data), _CHUNK):
        register = _shift(register, _CHUNK) ^ _fold(data[start : start + _CHUNK])
    return _shift(_ONES, len(data)) ^ _shift(register, 4) ^ _ONES


def masked_crc32c(data):
    """Return the checksum in the form stored in tables: rotated by 15 bits and shifted by a constant.

    Parameters
    ----------
    data : bytes or ndarray of uint8, shape (n,)
        The bytes.

    Returns
    -------
    int
        The masked checksum, in [0, 2**32).
    """
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & _ONES


def find_prefix(path):
    """Return the prefix of the one checkpoint that a path stands for.

    Parameters
    ----------
    path : str or path-like
        Its prefix, one of its files, or the directory it lies in (a file ``checkpoint`` there may choose) or
        that of a SavedModel.

    Returns
    -------
    pathlib.Path
        The path without ".index".

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If a directory has no checkpoint, or several.
    """
    path = Path(path)
    if path.is_dir():
        return _find_in_directory(path)
    if path.suffix == ".index":
        return path.with_suffix("")
    stem, mark, _ = path.name.rpartition(".data-")
    if mark:
        return path.with_name(stem)
    if not Path(f"{path}.index").is_file():
        raise FileNotFoundError(f"{path} does not exist, nor does {path}.index.")
    return path


def _find_in_directory(path):
    found = sorted(path.glob("*.index")) or sorted((path / "variables").glob("*.index"))
    if len(found) > 1:
        chosen = _latest(path)
        if Path(f"{chosen}.index") not in found:
            raise ValueError(
                f"{path} holds several checkpoints, {', '.join(index.stem for index in found)}; pass the "
                "path of one of them."
            )
        return chosen
    if not found:
        raise ValueError(f"{path} is a directory without a checkpoint (a file that ends with .index).")
    return found[0].with_suffix("")


def _latest(path):
    """The checkpoint that the text file ``checkpoint`` of a directory names, or None."""
    state = path / "checkpoint"
    if not state.is_file() or state.stat().st_size > _MAX_INDEX:
        return None
    for line in state.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            return path / os.path.basename(value.strip().strip('"'))
    return None
