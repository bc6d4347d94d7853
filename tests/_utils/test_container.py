"""Containers come back as written, changed ones are refused, and a failure leaves the old file alone."""

import errno
import json
import math
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sklearn_simclr import __version__
from sklearn_simclr._utils import container
from sklearn_simclr._utils.atomic_write import remove_unfinished
from sklearn_simclr._utils.container import peek, read, write

OLD = {"a": torch.arange(3)}


@pytest.fixture
def path(tmp_path):
    """A container in a folder of its own."""
    write(tmp_path / "kept.safetensors", "test", OLD, {"old": True})
    return tmp_path / "kept.safetensors"


def assert_old(path):
    arrays, meta = read(path, "test")
    assert meta == {"old": True}
    assert torch.equal(arrays["a"], OLD["a"])
    assert os.listdir(path.parent) == [path.name]


matrix = torch.arange(12.0).reshape(3, 4)
ARRAYS = {
    "float64": torch.tensor([0.1, math.nan, -math.inf], dtype=torch.float64),
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "half": torch.tensor([1.5], dtype=torch.float16),
    "bool": torch.tensor([True, False, True]),
    "without dimensions": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "transposed": matrix.T,
    "every second": matrix[:, ::2],
    "the whole": matrix,
    "a row of it": matrix[1],
    "the same": matrix,
    "expanded": torch.ones(1).expand(4),
    "stride of no step": torch.ones(1).as_strided((1,), (0,)),
    "one row": matrix[1:2],
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_tensors_come_back_bit_by_bit(name, tmp_path):
    write(tmp_path / "c", "test", ARRAYS, None)
    found = read(tmp_path / "c", "test")[0]
    assert found.keys() == ARRAYS.keys()
    assert found[name].dtype == ARRAYS[name].dtype
    assert found[name].is_contiguous() and type(found[name]) is torch.Tensor
    assert torch.equal(found[name].nan_to_num(), ARRAYS[name].detach().nan_to_num())


def test_nothing_that_is_written_is_changed(tmp_path):
    weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).T)
    kept, stride, version = weight.detach().clone(), weight.stride(), weight._version
    arrays = {"w": weight, "part": weight[0]}
    write(tmp_path / "c", "test", arrays, {})
    assert arrays["w"] is weight and weight.requires_grad
    assert (weight.stride(), weight._version) == (stride, version)
    assert torch.equal(weight, kept)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3, dtype=np.uint8),
        np.array(3),
        np.broadcast_to(np.array(3.0), (1,)),
        np.array([[True], [False]]),
        np.arange(6, dtype=np.int64)[::-1],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
        np.broadcast_to(np.float32(2), (2, 2)),
        np.empty((2, 0)),
        np.arange(3, dtype=np.uint16),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_ndarrays_come_back_as_tensors(array, tmp_path):
    write(tmp_path / "c", "test", {"x": array, "read only, again": array}, {})
    for found in read(tmp_path / "c", "test")[0].values():
        assert found.numpy().dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found.numpy(), array)


def test_what_is_read_has_memory_of_its_own(path):
    first, _ = read(path, "test")
    first["a"].fill_(9)
    assert_old(path)


def test_meta_comes_back_as_json_has_it(tmp_path):
    meta = {"loss": [0.5, math.nan, math.inf], "größe": None, "pair": (1, 2), 3: "three"}
    write(tmp_path / "c", "test", {}, meta)
    arrays, found = read(tmp_path / "c", "test")
    assert arrays == {}
    assert math.isnan(found["loss"].pop(1))
    assert found == {"loss": [0.5, math.inf], "größe": None, "pair": [1, 2], "3": "three"}


def test_other_programs_read_the_arrays(path):
    with safe_open(path, framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("a"), [0, 1, 2])


def test_kind_and_meta_are_seen_without_the_arrays(path, tmp_path):
    assert peek(path) == ("test", {"old": True})
    save_file(OLD, tmp_path / "foreign")
    assert peek(tmp_path / "foreign") is None
    (tmp_path / "text").write_text("no container")
    assert peek(tmp_path / "text") is None
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        peek(tmp_path / "nothing_here")


def test_another_kind_is_refused_with_its_name(path):
    with pytest.raises(ValueError, match=r"kept\.safetensors is a container of kind 'test', not 'encoder'"):
        read(path, "encoder")


def forge(path, **changes):
    """Write a container of other header fields, with a checksum that fits."""
    fields = {"kind": "test", "format": 1, "version": __version__, "meta": None} | changes
    text = json.dumps({name: value for name, value in fields.items() if value != "left out"})
    save_file(OLD, path, {"sklearn_simclr": text, "blake2b": container._digest(text, OLD)})


def test_a_later_format_is_refused_with_its_version(path):
    forge(path)
    assert read(path, "test")[1] is None
    forge(path, format=2, version="9.1")
    with pytest.raises(ValueError, match=r"has format version 2, .*does not read.*sklearn-simclr 9\.1"):
        read(path, "test")
    assert peek(path) == ("test", None)


@pytest.mark.parametrize("field", ["kind", "format", "version", "meta"])
def test_a_header_without_a_field_is_refused(field, path):
    forge(path, **{field: "left out"})
    with pytest.raises(ValueError, match="is damaged"):
        read(path, "test")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"kind": 1}', "9" * 5000])
def test_a_header_that_is_none_is_refused(text, path):
    save_file(OLD, path, {"sklearn_simclr": text, "blake2b": container._digest(text, OLD)})
    with pytest.raises(ValueError, match="is damaged"):
        read(path, "test")
    assert peek(path) is None


def test_every_flipped_byte_is_noticed(path):
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged|of another program|of kind|has format version"):
            read(path, "test")


def test_every_truncation_is_noticed(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged"):
            read(path, "test")
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        read(path, "test")


def test_renamed_and_reshaped_arrays_are_noticed(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    for arrays in ({"b": OLD["a"]}, {"a": OLD["a"][None]}, {"a": OLD["a"].double()}, {}):
        save_file(arrays, path, metadata)
        with pytest.raises(ValueError, match="is damaged"):
            read(path, "test")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gift").write_bytes(pickle.dumps(Bomb()))
    torch.save(Bomb(), tmp_path / "torch")
    for name in ("gift", "torch"):
        with pytest.raises(ValueError, match=r"pickles, are never opened"):
            read(tmp_path / name, "test")
    assert not (tmp_path / "exploded").exists()


def test_files_of_other_programs_are_refused(tmp_path):
    save_file(OLD, tmp_path / "foreign", {"format": "pt"})
    with pytest.raises(ValueError, match="foreign is a safetensors file of another program"):
        read(tmp_path / "foreign", "test")


@pytest.mark.skipif(os.name != "posix", reason="of pipes")
def test_no_pipe_is_waited_for(tmp_path):
    pipe = tmp_path / ".unfinished-pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="it is not a regular file"):
        container.read(pipe, "test")
    remove_unfinished(tmp_path)
    assert pipe.exists()


def test_errors_of_the_system_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        read(tmp_path / "nothing_here", "test")
    with pytest.raises(IsADirectoryError):
        read(tmp_path, "test")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({1: torch.ones(1)}, "must be str, got 1 of type int"),
        ({"x": [1.0]}, r"arrays\['x'\] must be a tensor or an ndarray, got list"),
        ({"x": np.array(["text"])}, r"arrays\['x'\] is of dtype <U4"),
        ({"x": np.array([None])}, r"arrays\['x'\] is of dtype object"),
        ({"x": torch.eye(2).to_sparse()}, r"arrays\['x'\] is a tensor of layout torch.sparse_coo"),
    ],
)
def test_what_a_container_cannot_hold_is_named(arrays, message, path):
    with pytest.raises(TypeError, match=message):
        write(path, "test", arrays, {})
    assert_old(path)


def test_meta_that_json_cannot_write_is_refused(path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(path, "test", {}, {"x": object()})
    assert_old(path)


def test_a_file_is_as_readable_as_any_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "c", "test", OLD, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o640


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Pass a path in a folder that exists") as caught:
        write(tmp_path / "no" / "c", "test", OLD, {})
    assert caught.value.filename == str(tmp_path / "no" / "c")


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(IsADirectoryError, match="Pass a path"):
        write(tmp_path / "c", "test", OLD, {})
    assert os.listdir(tmp_path) == ["c"]


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("container.save_file", FULL),
        ("container.save_file", SafetensorError("No space left")),
        ("container.save_file", KeyboardInterrupt()),
        ("atomic_write.os.fsync", FULL),
        ("atomic_write.os.replace", FULL),
        ("atomic_write.os.replace", KeyboardInterrupt()),
    ],
)
def test_a_failure_leaves_the_old_file(place, error, path, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(f"sklearn_simclr._utils.{place}", fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    with pytest.raises(expected) as caught:
        write(path, "test", {"a": torch.zeros(5)}, {})
    if expected is OSError:
        assert caught.value.filename == str(path)
        assert "No space left" in str(caught.value) and "free space" in str(caught.value)
    monkeypatch.undo()
    assert_old(path)


def test_a_disk_that_is_full_leaves_the_old_file(path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written") as caught:
            write(path, "test", {"a": torch.zeros(50_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(path)
    assert_old(path)


def test_what_is_flushed_is_the_whole_file(path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "sklearn_simclr._utils.atomic_write.os.fsync", lambda fd: sizes.append(os.fstat(fd).st_size)
    )
    write(path, "test", {"a": torch.zeros(1000)}, {})
    assert sizes == [path.stat().st_size]


def test_no_link_is_followed(path, tmp_path):
    """A link under the name itself is replaced; nothing is written under a name that one could guess."""
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    for name in ("c", "c.partial", "c.part", ".c.part", "c.tmp", ".c.tmp", "training.partial"):
        (tmp_path / name).symlink_to(victim)
    write(tmp_path / "c", "test", OLD, {"old": True})
    assert victim.read_text() == "years of work"
    assert not (tmp_path / "c").is_symlink()
    assert torch.equal(read(tmp_path / "c", "test")[0]["a"], OLD["a"])


def test_a_link_that_takes_the_place_of_the_unfinished_file_is_not_followed(path, tmp_path, monkeypatch):
    victim = tmp_path.parent / f"{tmp_path.name}-victim"
    victim.write_text("years of work")
    victim.chmod(0o600)

    def swap(tensors, filename, metadata):
        os.unlink(filename)
        os.symlink(victim, filename)

    monkeypatch.setattr("sklearn_simclr._utils.container.save_file", swap)
    with pytest.raises(OSError, match="symbolic link"):
        write(path, "test", {}, {})
    assert victim.read_text() == "years of work"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    victim.unlink()
    assert_old(path)


def test_unfinished_files_are_out_of_reach_and_of_names_that_cannot_be_guessed(path, monkeypatch):
    folders = set()

    def look(tensors, filename, metadata):
        folder = os.path.dirname(filename)
        assert os.path.dirname(folder) == str(path.parent)
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        folders.add(folder)
        save_file(tensors, filename, metadata)

    monkeypatch.setattr("sklearn_simclr._utils.container.save_file", look)
    for _ in range(5):
        write(path, "test", OLD, {"old": True})
    assert len(folders) == 5
    assert_old(path)


def test_a_process_that_is_killed_leaves_the_old_file(path):
    code = (
        "import os, signal, sys; from sklearn_simclr._utils import container\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "container.write(sys.argv[1], 'test', {}, {'old': False})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert read(path, "test")[1] == {"old": True}
