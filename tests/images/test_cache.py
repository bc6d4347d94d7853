"""A folder of decoded images tells files from what they were, and trusts nothing that it holds."""

import contextlib
import os
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import CountTrainings, tiny, trainings
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.images import files, reading, stored, threads
from sklearn_simclr.images.decode import decode
from sklearn_simclr.images.reading import read_rows
from sklearn_simclr.images.store import FolderStore

posix = pytest.mark.skipif(os.name != "posix", reason="of file systems that have inodes and links")


def write(path, value, shape=(8, 8)):
    """Write an image of one grey: all of one shape have the same size as files."""
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(path, "BMP")
    return str(path)


def read(paths, cache):
    """Return the grey of each image, or -1 where its pixels differ."""
    decoded = read_rows(list(paths), cache_dir=cache)
    pixels = decoded.pixels[decoded.rows]
    return [int(image.flat[0]) if (image == image.flat[0]).all() else -1 for image in pixels]


@pytest.fixture
def settled(monkeypatch):
    """Files count as unchanged for long."""
    monkeypatch.setattr(stored, "_SETTLED", -(10**12))


@pytest.fixture
def decoded(monkeypatch):
    """One entry for each image that is decoded."""
    calls = []
    monkeypatch.setattr(threads, "decode", lambda data, size=None: calls.append(1) or decode(data, size))
    return calls


# Pixels that are not those of the index


def remove(path):
    path.unlink()


def cut(path):
    os.truncate(path, 64)


def cut_within_a_row(path):
    os.truncate(path, 100)


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip_one_bit(path):
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)


def swap_rows(path):
    data = path.read_bytes()
    path.write_bytes(data[128:] + data[:128])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [remove, cut, cut_within_a_row, zeros, flip_one_bit, swap_rows, empty])
def test_harmed_pixels_are_decoded_again(harm, tmp_path):
    paths = [write(tmp_path / f"{i}.bmp", 10 * i) for i in range(8)]
    cache = tmp_path / "cache"
    assert read(paths[:4], cache) == [0, 10, 20, 30]
    [pixels] = cache.glob("*.pixels")
    harm(pixels)
    # Other images may take the rows of those that are lost.
    assert read(paths[4:], cache) == [40, 50, 60, 70]
    assert read(paths, cache) == [0, 10, 20, 30, 40, 50, 60, 70]


def test_a_cache_of_pixels_without_index_and_the_other_way_round(tmp_path):
    paths = [write(tmp_path / f"{i}.bmp", 10 * i) for i in range(4)]
    for kept in ("images.sqlite", "uint8-8x8x1.pixels"):
        cache = tmp_path / f"only {kept}"
        read(paths, tmp_path / "cache")
        cache.mkdir()
        shutil.copy(tmp_path / "cache" / kept, cache)
        assert read(paths[::-1], cache) == [30, 20, 10, 0]


# Files that have changed


def copied_over(new, old):
    shutil.copy2(new, old)  # cp -p


def moved_over(new, old):
    os.replace(new, old)  # rsync -t, tar


def linked_over(new, old):
    os.unlink(old)
    os.symlink(new, old)


@posix
@pytest.mark.parametrize("replace", [copied_over, moved_over, linked_over])
@pytest.mark.parametrize("is_settled", [False, True])
def test_another_file_of_the_same_size_and_time(replace, is_settled, tmp_path, monkeypatch):
    if is_settled:
        monkeypatch.setattr(stored, "_SETTLED", -(10**12))
    path, new = write(tmp_path / "a.bmp", 10), write(tmp_path / "b.bmp", 200)
    assert read([path], tmp_path / "cache") == [10]
    time.sleep(0.02)  # the clock of ctime has ticks of up to 10 ms
    status = os.stat(path)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    replace(new, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == status.st_mtime_ns and os.stat(path).st_size == status.st_size
    assert read([path], tmp_path / "cache") == [200]


def test_edits_that_leave_no_trace(tmp_path):
    path = write(tmp_path / "a.bmp", 0)
    for k in range(40):
        with open(path, "r+b") as file:
            file.seek(-64, os.SEEK_END)
            file.write(bytes([k]) * 64)
        os.utime(path, ns=(0, 0))
        found = decode(Path(path).read_bytes()).flat[0]
        assert read([path, path], tmp_path / "cache") == [found, found]


def test_a_file_that_changes_while_others_are_decoded(tmp_path, monkeypatch):
    """What is stored for a content are the pixels of that content."""
    path, cache = write(tmp_path / "a.bmp", 10), tmp_path / "cache"
    inner = reading.decoded

    def edit_first(*args):
        write(path, 200)
        return inner(*args)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "decoded", edit_first)
        assert read([path, path], cache) == [200, 200]
    write(path, 10)
    assert read([path], cache) == [10]
    write(path, 200)
    assert read([path], cache) == [200]


def test_a_search_decodes_each_file_and_trains_each_encoder_once(tmp_path, decoded, settled):
    paths, y = [write(tmp_path / f"{i}.bmp", 20 * i) for i in range(12)], np.arange(12) % 2
    settings = {"max_epochs": 1, "batch_size": 4, "random_state": 0}
    SimCLRTransformer(tiny, **settings).fit_transform(paths)
    assert len(decoded) == 12
    decoded.clear()
    memory, log = str(tmp_path / "memory"), tmp_path / "log"
    places = {"memory": memory, "cache_dir": tmp_path / "cache", "callbacks": [CountTrainings(log)]}
    model = Pipeline(
        [("simclr", SimCLRTransformer(tiny, **settings, **places)), ("clf", LogisticRegression())]
    )
    grid = {"simclr__augmentation__crop_scale": [(0.2, 1.0), (0.5, 1.0)], "clf__C": [0.1, 1.0]}
    GridSearchCV(model, grid, cv=2, refit=False, error_score="raise").fit(paths, y)
    assert len(decoded) == 12 and trainings(log) == 4


def test_files_are_not_decoded_again_once_they_are_old(tmp_path, decoded, monkeypatch):
    paths = [write(tmp_path / f"{i}.bmp", 10 * i) for i in range(4)]
    cache = tmp_path / "cache"
    for settled in (10**11, 10**11, -(10**12), -(10**12), 10**11):
        monkeypatch.setattr(stored, "_SETTLED", settled)
        assert read(paths, cache) == [0, 10, 20, 30]
        assert len(decoded) == 4


def test_old_files_are_not_even_read(tmp_path, settled, monkeypatch):
    paths = [write(tmp_path / f"{i}.bmp", 10 * i) for i in range(4)]
    assert read(paths, tmp_path / "cache") == [0, 10, 20, 30]
    for module in (files, threads):
        monkeypatch.setattr(module, "read_file", None)
    assert read(paths, tmp_path / "cache") == [0, 10, 20, 30]


def test_without_inodes_and_times_of_change_the_content_decides(tmp_path, settled, decoded, monkeypatch):
    monkeypatch.setattr(stored, "_state", lambda status: None)
    path, cache = write(tmp_path / "a.bmp", 10), tmp_path / "cache"
    assert read([path], cache) == read([path], cache) == [10]
    assert len(decoded) == 1
    status = os.stat(path)
    write(path, 200)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read([path], cache) == [200]


# A damaged or crafted index

CRAFTED = [
    "UPDATE images SET kind='junk'",
    "UPDATE images SET kind='uint8-0x8x1'",
    "UPDATE images SET kind='uint8-8x8'",
    "UPDATE images SET kind='uint8--8x-8x1'",
    "UPDATE images SET kind='object-8x8x1'",
    "UPDATE images SET kind='uint8-9999999x9999999x9999999'",
    "UPDATE images SET kind=NULL",
    "UPDATE images SET kind=x'00ff'",
    "UPDATE images SET kind=CAST(x'ff' AS TEXT)",
    "UPDATE images SET kind='../../escaped-8x8x1'",
    "UPDATE images SET kind='/tmp/escaped-8x8x1'",
    "UPDATE images SET kind='uint16-8x8x1'",
    "UPDATE images SET row=-1",
    "UPDATE images SET row=1000000",
    "UPDATE images SET row=9223372036854775807",
    "UPDATE images SET row=0",
    "UPDATE images SET row='one'",
    "UPDATE images SET row=0.5",
    "UPDATE images SET row=NULL",
    "UPDATE images SET checksum='a'",
    "UPDATE images SET checksum=NULL",
    "UPDATE images SET checksum=-1",
    "ALTER TABLE images DROP COLUMN checksum",
    "DROP TABLE images; CREATE TABLE images (a)",
]


@pytest.mark.parametrize("sql", CRAFTED)
def test_rows_of_a_crafted_index_are_decoded_again(sql, tmp_path):
    paths = [write(tmp_path / f"{i}.bmp", 10 * i) for i in range(3)]
    cache = tmp_path / "folder" / "cache"
    read(paths, cache)
    before = {path.name for path in tmp_path.rglob("*")}
    with contextlib.closing(sqlite3.connect(cache / "images.sqlite")) as index:
        index.executescript(sql)
    for _ in range(2):
        assert read(paths, cache) == [0, 10, 20]
    assert {path.name for path in tmp_path.rglob("*")} == before


def test_a_view_in_place_of_the_index_is_refused(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "images.sqlite")) as index:
        index.execute("CREATE VIEW images AS SELECT 1 AS key, 2 AS kind, 0 AS row, 0 AS checksum")
    with pytest.raises(ValueError, match="cache_dir="), FolderStore(tmp_path) as store:
        store.add(["a"], np.zeros((1, 8, 8, 1), np.uint8))


def test_flipped_bytes_of_an_index_are_refused_or_harmless(tmp_path):
    paths = [write(tmp_path / f"{i}.bmp", 10 * i) for i in range(3)]
    cache = tmp_path / "cache"
    read(paths, cache)
    whole = (cache / "images.sqlite").read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    rng = np.random.default_rng(0)
    for _ in range(25):
        data = bytearray(whole)
        for at in rng.choice(used, 3):
            data[at] ^= 1 << int(rng.integers(8))
        (cache / "images.sqlite").write_bytes(data)
        try:
            assert read(paths, cache) == [0, 10, 20]
        except ValueError as error:
            assert "cache_dir=" in str(error)


@posix
@pytest.mark.parametrize("name", ["images.sqlite", "images.lock", "images.holder", "uint8-8x8x1.pixels"])
@pytest.mark.parametrize("content", [b"years of work", b""])
def test_a_link_in_a_cache_does_not_lead_to_other_files(name, content, tmp_path):
    (tmp_path / "thesis").write_bytes(content)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / name).symlink_to(tmp_path / "thesis")
    with contextlib.suppress(ValueError):
        assert read([write(tmp_path / "a.bmp", 10)], cache) == [10]
    assert (tmp_path / "thesis").read_bytes() == content


@posix
def test_links_out_of_a_cache_are_named(tmp_path):
    (tmp_path / "uint8-8x8x1.pixels").symlink_to(tmp_path / "thesis")
    with pytest.raises(ValueError, match="cache_dir=.*cannot be written to"):
        read([write(tmp_path / "a.bmp", 10)], tmp_path)
