"""The reader of TensorFlow's checkpoints, against TensorFlow's own, a writer and damaged files."""

from pathlib import Path

import bundle_writer as writer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_simclr.encoders.weights._files import find_prefix
from sklearn_simclr.encoders.weights._tensor_bundle import TensorBundle

TENSORFLOW = Path(__file__).parent / "data" / "tf"


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    variables = {f"layer_{i}/kernel": rng.standard_normal((3, i)) for i in range(120)}
    variables["half"] = rng.standard_normal(4).astype("f2")
    prefix = tmp_path / "model.ckpt-1"
    writer.write_bundle(prefix, variables)
    return prefix, variables


def overwrite(path, position, data):
    content = bytearray(path.read_bytes())
    content[position : position + len(data)] = data
    path.write_bytes(content)


def data_file(prefix):
    return Path(f"{prefix}.data-00000-of-00001")


def test_variables_of_tensorflow_are_read_bit_for_bit():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 4, 5)).astype("f4")
    b = rng.standard_normal(7)
    expected = {
        "a/kernel": a,
        "b/float64": b,
        "c/float16": a[0].astype("f2"),
        "d/int32": np.arange(-3, 4, dtype="i4"),
        "d/int64": np.array([[1 << 40, -1]]),
        "e/scalar": np.float32(2.5),
        "f/empty": np.zeros((0, 3), "f4"),
        "h/bool": np.array([True, False, True]),
    }
    expected |= {f"many/batch_normalization_{i}/gamma": np.array([i], "f4") for i in range(40)}
    bundle = TensorBundle(TENSORFLOW)
    assert set(bundle) == {*expected, "c/bfloat16", "g/string", "part"}
    for name, values in expected.items():
        assert bundle[name].dtype == values.dtype and bundle[name].shape == values.shape, name
        np.testing.assert_array_equal(bundle[name], values)
    # bfloat16 keeps eight bits of the significand.
    np.testing.assert_allclose(bundle["c/bfloat16"], a[1], rtol=2.0**-8)
    assert (bundle["c/bfloat16"].view("u4") & 0xFFFF == 0).all()
    assert bundle.read_string("g/string") == b"a graph"
    assert bundle.object_graph() is None


@pytest.mark.parametrize("name, reason", [("part", "slices"), ("g/string", "not numbers")])
def test_what_is_no_array_is_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        TensorBundle(TENSORFLOW)[name]


@pytest.mark.parametrize("options", [{}, {"n_shards": 3}, {"big_endian": True}])
def test_round_trip(tmp_path, options):
    rng = np.random.default_rng(0)
    variables = {f"v{i}": rng.standard_normal((i, 2)) for i in range(150)}
    variables["single"] = rng.standard_normal((2, 3, 4)).astype("f4")
    variables["wide"] = np.array([-5, 1 << 40])
    variables["text"] = b"a graph"
    writer.write_bundle(tmp_path / "m", variables, **options)
    bundle = TensorBundle(tmp_path / "m")
    assert bundle.keys() == variables.keys()
    assert bundle.read_string("text") == variables.pop("text")
    for name, values in variables.items():
        np.testing.assert_array_equal(bundle[name], values)


def test_variables_map_the_file(written):
    prefix, variables = written
    values = TensorBundle(prefix)["layer_7/kernel"]
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    np.testing.assert_array_equal(values, variables["layer_7/kernel"])


def test_a_changed_byte_is_noticed(written):
    prefix, variables = written
    place = TensorBundle(prefix).entries["layer_9/kernel"].offset
    overwrite(data_file(prefix), place, b"\x55")
    with pytest.raises(ValueError, match=r"'layer_9/kernel'.*checksum.*damaged"):
        TensorBundle(prefix)["layer_9/kernel"]
    np.testing.assert_array_equal(TensorBundle(prefix)["layer_8/kernel"], variables["layer_8/kernel"])


@pytest.mark.parametrize("place", range(12))
def test_no_changed_byte_of_a_string_is_unnoticed(tmp_path, place):
    writer.write_bundle(tmp_path / "m", {"text": b"a graph"})
    path = data_file(tmp_path / "m")
    overwrite(path, place, bytes([path.read_bytes()[place] ^ 1]))
    with pytest.raises(ValueError, match="'text'"):
        TensorBundle(tmp_path / "m").read_string("text")


@given(st.data())
def test_no_changed_byte_of_the_index_goes_unnoticed_or_crashes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    writer.write_bundle(folder / "m", {f"v{i}": np.full(i, 1.0) for i in range(8)})
    index = folder / "m.index"
    position = data.draw(st.integers(0, index.stat().st_size - 1))
    # Padding in the footer and the meta block, of which nothing is read, may change.
    old = index.read_bytes()
    overwrite(index, position, bytes([old[position] ^ data.draw(st.integers(1, 255))]))
    try:
        bundle = TensorBundle(folder / "m")
    except ValueError as error:
        assert "m.index" in str(error)
    else:
        assert [len(bundle[f"v{i}"]) for i in range(8)] == list(range(8))


@pytest.mark.parametrize("kept", [0, 10, 60, 500, -1])
def test_a_truncated_index_is_refused(written, kept):
    prefix, _ = written
    index = Path(f"{prefix}.index")
    index.write_bytes(index.read_bytes()[:kept])
    with pytest.raises(ValueError, match="truncated|damaged"):
        TensorBundle(prefix)


def test_a_truncated_data_file_is_refused(written):
    prefix, _ = written
    data_file(prefix).write_bytes(data_file(prefix).read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        TensorBundle(prefix)


def test_a_missing_data_file_is_refused(tmp_path):
    writer.write_bundle(tmp_path / "m", {"a": np.zeros(2), "b": np.zeros(2)}, n_shards=2)
    (tmp_path / "m.data-00001-of-00002").unlink()
    with pytest.raises(ValueError, match=r"m\.data-00001-of-00002 is missing.*2 data file"):
        TensorBundle(tmp_path / "m")


def test_an_index_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.index"):
        TensorBundle(tmp_path / "m")


@pytest.mark.parametrize(
    "place, reason",
    [
        (dict(dtype=1, shape=(1 << 40,), size=4 << 40), "truncated, or belongs"),
        (dict(dtype=1, shape=(2,), size=4), "takes 8 bytes"),
        (dict(dtype=1, shape=(-2,), size=-8), "shape"),
        (dict(dtype=1, shape=(2,), size=8, offset=-8), "takes 8 bytes"),
        (dict(dtype=1, shape=(2,), size=8, offset=12), "needs 20"),
        (dict(dtype=1, shape=(2,), size=8, shard=1), "data file 1 of 1"),
        (dict(dtype=1, shape=(1 << 62, 1 << 62), size=0), "bytes"),
    ],
)
def test_a_table_that_claims_too_much_is_refused(tmp_path, place, reason):
    writer.write_index(tmp_path / "m.index", [(b"", writer.header()), (b"v", writer.entry(**place))])
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16))
    with pytest.raises(ValueError, match=reason):
        TensorBundle(tmp_path / "m")


def test_variables_that_share_their_bytes_are_refused(tmp_path):
    place = writer.entry(1, (4,), 0, 0, 16)
    items = [(b"", writer.header())] + [(b"v%03d" % i, place) for i in range(100)]
    writer.write_index(tmp_path / "m.index", items)
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16))
    with pytest.raises(ValueError, match="needs 1600"):
        TensorBundle(tmp_path / "m")


@pytest.mark.parametrize("n_shards", [0, 1 << 40])
def test_an_absurd_number_of_data_files_is_refused(tmp_path, n_shards):
    writer.write_index(tmp_path / "m.index", [(b"", writer.header(n_shards))])
    with pytest.raises(ValueError, match="data files"):
        TensorBundle(tmp_path / "m")


def test_a_compressed_table_is_refused(tmp_path):
    writer.write_index(tmp_path / "m.index", [(b"", writer.header())], kind=1)
    with pytest.raises(
        ValueError, match=r"m\.index.*compressed.*read the checkpoint with TensorFlow, and save"
    ):
        TensorBundle(tmp_path / "m")


def test_names_that_grow_without_bound_are_refused(tmp_path):
    items = [(b"", writer.header())] + [(b"v" * i, b"") for i in range(1, 5000)]
    writer.write_index(tmp_path / "m.index", items, per_block=len(items))
    with pytest.raises(ValueError, match="longer than|too long"):
        TensorBundle(tmp_path / "m")


def test_a_checkpoint_is_found_by_any_of_its_files_and_directories(written):
    prefix, _ = written
    for path in (prefix, f"{prefix}.index", str(data_file(prefix)), prefix.parent):
        assert find_prefix(path) == prefix
    saved_model = prefix.parent / "saved"
    (saved_model / "variables").mkdir(parents=True)
    writer.write_bundle(saved_model / "variables" / "variables", {"a": np.zeros(1)})
    assert find_prefix(saved_model) == saved_model / "variables" / "variables"


def test_the_state_file_chooses_among_several_checkpoints(written):
    prefix, variables = written
    writer.write_bundle(prefix.with_name("model.ckpt-2"), variables)
    with pytest.raises(ValueError, match=r"several checkpoints, model\.ckpt-1, model\.ckpt-2"):
        find_prefix(prefix.parent)
    state = 'model_checkpoint_path: "/elsewhere/model.ckpt-2"\nall_model_checkpoint_paths: "model.ckpt-1"\n'
    (prefix.parent / "checkpoint").write_text(state)
    assert find_prefix(prefix.parent) == prefix.with_name("model.ckpt-2")


def test_a_directory_without_a_checkpoint_and_nothing_at_all(tmp_path):
    with pytest.raises(ValueError, match="directory without a checkpoint"):
        find_prefix(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_prefix(tmp_path / "nothing")
