"""Writes checkpoints in TensorFlow's format, for the tests of what reads them."""

from pathlib import Path

import google_crc32c
import numpy as np

NUMBERS = {"f4": 1, "f8": 2, "i4": 3, "u1": 4, "i8": 9, "f2": 19}


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(dtype, shape, shard=0, offset=0, size=0, checksum=0, more=b""):
    dims = b"".join(field(2, field(1, side)) for side in shape)
    message = field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size)
    return message + varint(6 << 3 | 5) + checksum.to_bytes(4, "little") + more


def header(n_shards=1, endianness=0):
    return field(1, n_shards) + field(2, endianness)


def masked_crc32c(data):
    # lib/hash/crc32c.h: rotate right by 15, then add a constant.
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


def block_of(items, restart=16):
    out, last = bytearray(), b""
    restarts = []
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(out) + b"".join(r.to_bytes(4, "little") for r in [*restarts, len(restarts)])


def write_index(path, items, *, kind=0, per_block=50):
    """Write sorted (key, value) pairs as a table; `kind` is the compression that its blocks claim to have."""
    out, handles = bytearray(), []

    def append(block):
        handle = varint(len(out)) + varint(len(block))
        kept = block + bytes([kind])
        out.extend(kept + masked_crc32c(kept).to_bytes(4, "little"))
        return handle

    for start in range(0, len(items), per_block):
        some = items[start : start + per_block]
        handles.append((some[-1][0], append(block_of(some))))
    meta = append(block_of([]))
    index = append(block_of(handles))
    footer = (meta + index).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    Path(path).write_bytes(bytes(out) + footer)


def write_bundle(prefix, variables, *, n_shards=1, big_endian=False):
    """Write arrays by name as NAME.index and its data files, one after the other in turn."""
    shards = [bytearray() for _ in range(n_shards)]
    items = [(b"", header(n_shards, int(big_endian)))]
    for i, name in enumerate(sorted(variables, key=str.encode)):
        values = variables[name]
        if isinstance(values, bytes):
            # tensor_bundle.cc, WriteStringTensor: the length as four bytes enters the checksums.
            order = "big" if big_endian else "little"
            length = len(values).to_bytes(4, order)
            tail = masked_crc32c(length).to_bytes(4, order) + values
            number, shape, raw, summed = 7, (), varint(len(values)) + tail, length + tail
        else:
            values = np.asarray(values)
            number, shape = NUMBERS[values.dtype.str[1:]], values.shape
            raw = summed = values.astype(values.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
        shard = i % n_shards
        place = entry(number, shape, shard, len(shards[shard]), len(raw), masked_crc32c(summed))
        items.append((name.encode(), place))
        shards[shard] += raw
    write_index(f"{prefix}.index", items)
    for i, content in enumerate(shards):
        Path(f"{prefix}.data-{i:05d}-of-{n_shards:05d}").write_bytes(content)
