"""Files that were changed by chance or on purpose: they are refused by name, and take little memory."""

import contextlib
import copy
import ctypes
import io
import json
import os
import pickle
import re
import sqlite3
import struct
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from sklearn_simclr import SimCLRTransformer, load_encoder, load_estimator, load_pretrained
from sklearn_simclr._utils import container
from sklearn_simclr.encoders import Preprocessing, Pretrained, save_pretrained
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.export import export_encoder, save_estimator
from sklearn_simclr.images.decode import ImageError, decode, strict_decoders
from sklearn_simclr.images.reading import read_rows

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)

# What a file may ask for beside the memory of the process: the limit of pixels is that of the test, too.
PIXELS = 1 << 18
BYTES = 384 << 20

# Values that stand in for those of a file.
ODD = [None, True, -1, 0, 3, 10**9, 10**15, 10**400, 1e308, float("nan"), "", "x" * 10**5, [], {}, [[0]], "0"]
ODD += [{"tensor": "0"}, {"list": [1]}, {"array": "0"}, "torchvision:regnet_y_128gf", {"kind": "relu"}]


def nodes(value):
    """Yield (container, key) of all values in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from nodes(inner)


def forged(rng, arrays, header):
    """Return the bytes of a container with other content and the right checksum."""
    header, arrays = copy.deepcopy(header), dict(arrays)
    if rng.random() < 0.2 and arrays:
        name = sorted(arrays)[rng.integers(len(arrays))]
        kind = [torch.float64, torch.int8, torch.bfloat16, torch.float8_e4m3fn, torch.complex64][
            rng.integers(5)
        ]
        arrays[name] = torch.full([(), (0,), (3,), (2, 0, 5)][rng.integers(4)], 1.0).to(kind)
    else:
        places = list(nodes(header["meta"]))
        for _ in range(rng.integers(1, 3)):
            where, key = places[rng.integers(len(places))]
            where[key] = ODD[rng.integers(len(ODD))]
    text = json.dumps(header)
    return save(arrays, {container._HEADER: text, container._DIGEST: container._digest(text, arrays)})


def mutated(rng, data):
    """Return bytes of which some are others, or the end is missing; heads matter most."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 200))] = rng.integers(256)
    if rng.random() < 0.1:
        del data[rng.integers(len(data)) :]
    return bytes(data)


def pictures():
    """Yield the bytes of small images of every format."""
    Image.init()
    image = Image.effect_noise((24, 20), 90)
    colours = Image.merge("RGB", [Image.effect_noise((24, 20), 90) for _ in range(3)])
    for name, kind, options in [
        ("JPEG", colours, {}),
        (
            "JPEG",
            image,
            {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"},
        ),
        ("PNG", colours, {}),
        ("PNG", Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24) * 130), {}),
        ("TIFF", colours, {}),
        ("TIFF", image, {"compression": "tiff_lzw"}),
        ("TIFF", image, {"save_all": True, "append_images": [image] * 2}),
        ("TIFF", Image.fromarray(np.ones((20, 24), dtype=np.float32)), {}),
        ("WEBP", colours, {}),
        ("WEBP", colours, {"lossless": True}),
        ("BMP", colours, {}),
        ("GIF", image, {}),
        ("PPM", colours, {}),
        ("JPEG2000", colours, {}),
        ("AVIF", colours, {"quality": 20, "speed": 10}),
    ]:
        if name in Image.SAVE:
            file = io.BytesIO()
            kind.save(file, name, **options)
            yield file.getvalue()


def check_pictures(rng, folder, count):
    originals = list(pictures())
    with strict_decoders():
        for k in range(count):
            try:
                image = decode(mutated(rng, originals[k % len(originals)]), 4 if k % 3 == 0 else None)
            except ImageError as error:
                assert "enough memory" not in str(error)
                yield True
            else:
                assert image.ndim == 3
                yield False


def refused(call):
    """Return whether a call raises what it may."""
    try:
        call()
    except ValueError as error:
        assert len(str(error)) < 3000
        return True
    return False


def check_containers(rng, folder, count, path, kind, call):
    arrays, _ = container.read(path, kind)
    with open(path, "rb") as file:
        header = json.loads(
            json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"][container._HEADER]
        )
    for _ in range(count):
        path.write_bytes(forged(rng, arrays, header))
        yield refused(call)


def check_estimators(rng, folder, count):
    path = folder / "estimator.safetensors"
    save_estimator(SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(IMAGES), path)
    yield from check_containers(rng, folder, count, path, "estimator", lambda: load_estimator(path))


def check_encoders(rng, folder, count):
    path = folder / "encoder.safetensors"
    network = CompactNet(1, (8, 8), multiple=0.5)
    save_pretrained(Pretrained(network, Preprocessing(8, 1.0), name="mine"), path)
    yield from check_containers(rng, folder, count, path, "encoder", lambda: load_encoder(path))


def small(**params):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    return SimCLRTransformer(
        network, max_epochs=1, random_state=0, augmentation=None, projection_dim=4, **params
    )


def check_checkpoints(rng, folder, count):
    fit = small(checkpoint_dir=folder).fit
    fit(IMAGES)
    path = folder / "training.safetensors"
    yield from check_containers(rng, folder, count, path, "checkpoint", lambda: fit(IMAGES))


def check_trainings(rng, folder, count):
    fit = small(memory=str(folder)).fit
    fit(IMAGES)
    (path,) = folder.glob("sklearn_simclr/*.safetensors")
    yield from check_containers(rng, folder, count, path, "training", lambda: fit(IMAGES))


def check_caches(rng, folder, count):
    files = []
    for k, image in enumerate(IMAGES):
        files.append(str(folder / f"{k}.png"))
        Image.fromarray(image).save(files[-1])
    expected = read_rows(files).pixels
    read_rows(files, cache_dir=folder / "cache")
    originals = {path: path.read_bytes() for path in (folder / "cache").iterdir() if path.suffix != ".lock"}
    for _ in range(count):
        for path in (folder / "cache").iterdir():
            if path.suffix != ".lock":
                path.unlink()
        for path, data in originals.items():
            path.write_bytes(mutated(rng, data))

        def read():
            found = read_rows(files, cache_dir=folder / "cache")
            pixels = found.pixels if found.rows is None else found.pixels[found.rows]
            np.testing.assert_array_equal(pixels, expected)

        yield refused(read)


def check_bundles(rng, folder, count):
    sys.path.insert(0, str(Path(__file__).parent / "encoders"))
    import bundle_writer as writer

    from sklearn_simclr.encoders.weights._tensor_bundle import TensorBundle

    values = np.arange(6, dtype="f4")
    checksum = writer.masked_crc32c(values.tobytes())
    (folder / "b.data-00000-of-00001").write_bytes(values.tobytes())
    odd = [0, 1, 3, 24, 2**31, 2**62, 2**64 - 1]
    for _ in range(count):
        numbers = {"dtype": 1, "shape": [2, 3], "shard": 0, "offset": 0, "size": 24, "checksum": checksum}
        name = list(numbers)[rng.integers(6)]
        value = odd[rng.integers(len(odd))]
        numbers[name] = [value] * int(rng.integers(1, 4)) if name == "shape" else value % 2**32
        items = [
            (b"", writer.header()),
            (b"a", writer.entry(**numbers)),
            (b"b", writer.entry(9, [value], size=8)),
        ]
        writer.write_index(folder / "b.index", items[: rng.integers(2, 4)])

        def read():
            bundle = TensorBundle(folder / "b")
            assert sum(bundle[name].nbytes for name in bundle) <= 2 * values.nbytes

        yield refused(read)


def check_torch_files(rng, folder, count):
    path = folder / "weights.pth"
    for k in range(count):
        if k % 50 == 0:
            torch.save(
                {"state_dict": {"conv1.weight": torch.zeros(4, 3, 3, 3)}},
                path,
                _use_new_zipfile_serialization=k % 100 == 0,
            )
            data = path.read_bytes()
        path.write_bytes(mutated(rng, data))
        yield refused(lambda: load_pretrained(path))


# How many files of each kind, and what reads them.
KINDS = {
    "pictures": (check_pictures, 3600),
    "estimators": (check_estimators, 350),
    "encoders": (check_encoders, 350),
    "checkpoints": (check_checkpoints, 150),
    "trainings": (check_trainings, 100),
    "caches": (check_caches, 100),
    "bundles": (check_bundles, 250),
    "torch_files": (check_torch_files, 100),
}


def check_all(folder, report):
    """Read all kinds within the limit of memory, and write down what happened; the process ends."""
    import resource

    said = {}
    kind = seed = None
    try:
        torch.set_num_threads(1)
        Image.MAX_IMAGE_PIXELS = PIXELS
        # Threads reserve room that they do not use: one heap for all, small stacks.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).mallopt(-8, 1)
        threading.stack_size(1 << 18)
        taken = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, taken + BYTES))
        warnings.simplefilter("ignore")
        for seed, (kind, (check, count)) in enumerate(KINDS.items()):
            (folder / kind).mkdir()
            began = os.times().user
            outcomes = list(check(np.random.default_rng(seed), folder / kind, count))
            said[kind] = [len(outcomes), sum(outcomes), round(os.times().user - began, 2)]
    except BaseException as error:
        import traceback

        said["error"] = f"{kind}: {''.join(traceback.format_exception(error))[-3000:]}"
    report.write_text(json.dumps(said))
    os._exit(0)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads the memory of a process from /proc")
def test_mutated_files_take_little_memory_and_raise_nothing_else(tmp_path):
    small().fit(IMAGES)  # imports what a fit needs, which takes memory, too
    pid = os.fork()
    if pid == 0:
        check_all(tmp_path, tmp_path / "report.json")
    assert os.waitpid(pid, 0)[1] == 0
    said = json.loads((tmp_path / "report.json").read_text())
    assert "error" not in said, said["error"]
    print(said)
    assert {kind: found[0] for kind, found in said.items()} == {
        kind: count for kind, (_, count) in KINDS.items()
    }
    assert sum(found[0] for found in said.values()) == 5000
    # Some are refused, and some do no harm.
    assert all(found[1] > 0 for found in said.values())
    assert 500 < said["pictures"][1] < 3500


# Files that somebody has made


def long(n):
    return b"\x8a\x08" + struct.pack("<q", n)


CALLS = {
    "bytearray": b"c__builtin__\nbytearray\n" + long(1 << 40) + b"\x85R.",
    "hex": b"c_codecs\nencode\n(c_codecs\nencode\n(X\x01\0\0\0aX\x06\0\0\0latin1tRX\x03\0\0\0HextR.",
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_pickles_that_call_for_memory_are_refused(name, is_zip, tmp_path):
    path = tmp_path / "weights.pth"
    content = b"\x80\x02" + CALLS[name]
    if is_zip:
        torch.save({}, tmp_path / "theirs")
        with zipfile.ZipFile(tmp_path / "theirs") as theirs, zipfile.ZipFile(path, "w") as ours:
            for member in theirs.namelist():
                ours.writestr(member, content if member.endswith("data.pkl") else theirs.read(member))
    else:
        parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join(parts) + content + pickle.dumps([], 2))
    with pytest.raises(ValueError, match="makes more bytes than it has"):
        load_pretrained(path)


@pytest.mark.parametrize("size", [{"size": 10**6}, {"size": 224, "crop_fraction": 1e-9, "fit": "squash"}])
def test_preprocessing_to_images_beyond_memory_is_refused(size, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_pretrained(Pretrained(CompactNet(1, (8, 8), multiple=0.5), Preprocessing(**size)), path)
    with pytest.raises(
        ValueError, match="description of the network is not valid: its images are resized to"
    ):
        load_encoder(path)


def test_images_of_a_format_beyond_memory_are_refused(tmp_path):
    path = tmp_path / "estimator.safetensors"
    save_estimator(SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(IMAGES), path)
    arrays, records = container.read(path, "estimator")
    records[-1]["attributes"]["_format"]["format"]["tuple"][1] = {"tuple": [10**6, 10**6]}
    container.write(path, "estimator", arrays, records)
    with pytest.raises(ValueError, match="description of the images is not valid"):
        load_estimator(path)


def test_what_a_file_calls_itself_is_shortened_in_messages(tmp_path):
    container.write(tmp_path / "a", "k" * 10**6, {}, None)
    with pytest.raises(ValueError, match="container of kind") as error:
        load_encoder(tmp_path / "a")
    assert len(str(error.value)) < 1000


def test_the_same_network_comes_back(tmp_path):
    simclr = SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(IMAGES)
    export_encoder(simclr, tmp_path / "a")
    assert load_encoder(tmp_path / "a").out_dim == simclr.transform(IMAGES).shape[1]


def test_an_index_of_another_program_is_no_cache(tmp_path):
    with sqlite3.connect(tmp_path / "images.sqlite") as index:
        index.execute("CREATE TABLE other (x)")
    index.close()
    file = tmp_path / "a.png"
    Image.fromarray(IMAGES[0]).save(file)
    np.testing.assert_array_equal(read_rows([file], cache_dir=tmp_path).pixels[0, :, :, 0], IMAGES[0])
