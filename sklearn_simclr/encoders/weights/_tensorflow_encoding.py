"""TensorFlow's encodings in checkpoints: sorted tables of LevelDB and messages of protocol buffers.

The formats are those of TensorFlow's ``lib/io/format.h`` and of protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import google_crc32c
import numpy as np

__all__ = ["Malformed", "Message", "masked_crc32c", "read_table", "read_varint"]

T = TypeVar("T", int, bytes)

_FOOTER = 48
_MAGIC = bytes.fromhex("57fb808b247547db")

# A table of a few thousand variables takes some 100 kB. The limits keep a hostile file, whose keys may stand
# for much more than their bytes, from filling the memory.
_MAX_TABLE = 1 << 26
_MAX_KEY = 4096
_MAX_KEYS = 1 << 24


class Malformed(Exception):
    """Fault of a message or block."""


def masked_crc32c(data: bytes | np.ndarray) -> int:
    """Return the CRC-32C checksum of bytes (n,) in the form stored in checkpoints: rotated, and shifted."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(path: Path) -> dict[bytes, bytes]:
    """Return all of a sorted table of a checkpoint.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    table : dict of bytes to bytes
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no such table or is compressed, or a block does not match its checksum.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    length = path.stat().st_size
    if length > _MAX_TABLE:
        raise ValueError(f"{path} has {length} bytes, too many for a checkpoint index.")
    content = path.read_bytes()
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise ValueError(
            f"{path} is not a checkpoint index, or is truncated: it has {len(content)} bytes and does not "
            "end with the mark of a sorted table."
        )
    try:
        footer = content[-_FOOTER:]
        _, position = _handle(footer, 0)
        handle, _ = _handle(footer, position)
        table, reached, n_bytes = {}, 0, 0
        for _, value in _block_entries(_block(content, handle)):
            handle, _ = _handle(value, 0)
            if handle[0] < reached:
                raise Malformed("its blocks overlap")
            reached = sum(handle)
            for key, entry in _block_entries(_block(content, handle)):
                n_bytes += len(key)
                if n_bytes > _MAX_KEYS:
                    raise Malformed("its names are too long")
                table[key] = entry
    except Malformed as error:
        raise ValueError(f"{path} cannot be read as a checkpoint index: {error}.") from None
    return table


def _block(content: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    end = offset + size
    if end + 5 > len(content) - _FOOTER:
        raise Malformed(f"a block of {size} bytes at byte {offset} lies beyond its end")
    if masked_crc32c(content[offset : end + 1]) != int.from_bytes(content[end + 1 : end + 5], "little"):
        raise Malformed(f"the block at byte {offset} does not match its checksum: the file is damaged")
    block, kind = content[offset:end], content[end]
    # BundleWriter in TensorFlow's tensor_bundle.cc writes without compression.
    if kind != 0:
        raise Malformed(
            f"the block at byte {offset} is compressed (kind {kind}), but TensorFlow writes no such "
            "blocks; read the checkpoint with TensorFlow, and save it again"
        )
    return block


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of a block: keys share prefixes with those before them."""
    if len(block) < 4:
        raise Malformed("a block is empty")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise Malformed("a block has more restarts than bytes")
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        fresh, position = read_varint(block, position)
        n_value, position = read_varint(block, position)
        if shared > len(key) or shared + fresh > _MAX_KEY or position + fresh + n_value > end:
            raise Malformed("a name or value is longer than its block")
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + n_value]
        position += n_value


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position of some bytes, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise Malformed("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise Malformed("it has a number of more than ten bytes")


class Message:
    """The fields of a protocol buffer.

    Parameters
    ----------
    data : bytes
        The encoded message.
    """

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        position = 0
        value: int | bytes
        while position < len(data):
            tag, position = read_varint(data, position)
            kind = tag & 7
            if kind == 0:
                value, position = read_varint(data, position)
            elif kind in (1, 5):
                end = position + (8 if kind == 1 else 4)
                value, position = int.from_bytes(data[position:end], "little"), end
            elif kind == 2:
                size, position = read_varint(data, position)
                value, position = data[position : position + size], position + size
            else:
                raise Malformed(f"a message has a field of the unknown kind {kind}")
            if position > len(data):
                raise Malformed("a message is truncated")
            self._fields.setdefault(tag >> 3, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def value(self, number: int, default: T) -> T:
        """Return the last value of a field; one that is not there has the value `default`, of its type."""
        value = self._fields.get(number, [default])[-1]
        if type(value) is not type(default):
            raise Malformed(f"field {number} has a value of a wrong type")
        return value

    def messages(self, number: int) -> "list[Message]":
        """Return the messages in a field, as list."""
        values = self._fields.get(number, [])
        parts = [value for value in values if isinstance(value, bytes)]
        if len(parts) < len(values):
            raise Malformed(f"field {number} has a number instead of a message")
        return [Message(part) for part in parts]
