"""CIFAR-10 is fetched, checked and read: from archives of the same format, ten images a file."""

import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

from sklearn_simclr import datasets
from sklearn_simclr.datasets import fetch_cifar10

N = 10
NAMES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]


def records(seed):
    """Labels (N,), images (N, 32, 32, 3), and the bytes of a file of them, written number by number."""
    rng = np.random.default_rng(seed)
    labels, images = rng.integers(0, 10, N), rng.integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    raw = bytearray()
    for label, image in zip(labels, images, strict=True):
        raw.append(label)
        for channel in range(3):
            for row in range(32):
                raw.extend(image[row, :, channel].tolist())
    return labels, images, bytes(raw)


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def content():
    files = {f"cifar-10-batches-bin/{name}": records(seed)[2] for seed, name in enumerate(NAMES)}
    # As in the archive, and not to be read.
    return {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n", "../outside": b"no", **files}


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """A function that makes `files` the published archive; returns its path."""
    monkeypatch.setattr(datasets, "_IMAGES_A_FILE", N)

    def function(files):
        path = tmp_path / "server" / "cifar-10-binary.tar.gz"
        path.parent.mkdir(exist_ok=True)
        write_archive(path, files)
        monkeypatch.setattr(datasets, "_URL", path.as_uri())
        monkeypatch.setattr(datasets, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return path

    return function


class Server:
    """Serves the bytes `body`: `breaks` times it ends after half of what was asked for."""

    def __init__(self, body, breaks=0, ranges=True):
        self.body, self.breaks, self.ranges, self.asked = body, breaks, ranges, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                start = int(asked[len("bytes=") : -1]) if asked and outer.ranges else 0
                if start >= len(outer.body):
                    self.send_error(416)
                    return
                part = outer.body[start:]
                self.send_response(206 if asked and outer.ranges else 200)
                if asked and outer.ranges:
                    end = len(outer.body)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if outer.breaks:
                    outer.breaks -= 1
                    part = part[: len(part) // 2]
                self.wfile.write(part)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/cifar-10-binary.tar.gz"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize(
    "subset, seeds", [("train", range(5)), ("test", [5]), ("all", range(6))], ids=["train", "test", "all"]
)
def test_the_images_are_those_of_the_files_in_order(subset, seeds, content, publish, tmp_path):
    publish(content)
    cifar = fetch_cifar10(data_home=tmp_path / "home", subset=subset)
    assert cifar.images.dtype == np.uint8 and cifar.target.dtype == np.int64
    np.testing.assert_array_equal(cifar.images, np.concatenate([records(seed)[1] for seed in seeds]))
    np.testing.assert_array_equal(cifar.target, np.concatenate([records(seed)[0] for seed in seeds]))
    assert cifar.target_names[3] == "cat" and len(cifar.target_names) == 10
    assert "Krizhevsky" in cifar.DESCR
    X, y = fetch_cifar10(data_home=tmp_path / "home", subset=subset, return_X_y=True)
    np.testing.assert_array_equal(X, cifar.images)
    np.testing.assert_array_equal(y, cifar.target)


def test_the_second_time_needs_neither_network_nor_archive(content, publish, tmp_path):
    archive = publish(content)
    home = tmp_path / "home"
    first = fetch_cifar10(data_home=home)
    archive.unlink()
    second = fetch_cifar10(data_home=home, download_if_missing=False)
    np.testing.assert_array_equal(first.images, second.images)
    # Nothing of the archive but the six files, and nothing outside of the folder.
    assert sorted(path.name for path in (home / "cifar-10-batches-bin").iterdir()) == sorted(NAMES)
    assert {path.name for path in home.iterdir()} <= {"cifar-10-batches-bin", "cifar-10-batches-bin.lock"}
    assert not (tmp_path / "outside").exists()


def test_the_default_home_is_that_of_scikit_learn(content, publish, tmp_path, monkeypatch):
    publish(content)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "elsewhere"))
    fetch_cifar10()
    assert (tmp_path / "elsewhere" / "cifar-10-batches-bin" / "test_batch.bin").is_file()


def test_an_archive_that_the_user_put_there_is_used_and_stays(content, publish, tmp_path):
    archive = publish(content)
    home = tmp_path / "home"
    home.mkdir()
    own = archive.rename(home / archive.name)
    assert len(fetch_cifar10(data_home=home, download_if_missing=False).images) == 5 * N
    assert own.is_file()


def test_a_damaged_archive_of_the_user_is_refused_and_stays(content, publish, tmp_path):
    archive = publish(content)
    home = tmp_path / "home"
    home.mkdir()
    own = home / archive.name
    own.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(OSError, match="checksum .* instead of .*damaged"):
        fetch_cifar10(data_home=home)
    assert own.is_file() and not (home / "cifar-10-batches-bin").exists()


def test_what_has_another_checksum_is_not_unpacked(content, publish, tmp_path, monkeypatch):
    publish(content)
    monkeypatch.setattr(datasets, "_SHA256", "0" * 64)
    with pytest.raises(OSError, match="instead of 0{64}, and was removed"):
        fetch_cifar10(data_home=tmp_path / "home")
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {"cifar-10-batches-bin.lock"}


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_broken_download_goes_on(ranges, content, publish, tmp_path, monkeypatch):
    body = publish(content).read_bytes()
    with Server(body, breaks=2, ranges=ranges) as server:
        monkeypatch.setattr(datasets, "_URL", server.url)
        cifar = fetch_cifar10(data_home=tmp_path / "home", subset="test", delay=0)
    np.testing.assert_array_equal(cifar.images, records(5)[1])
    half = len(body) // 2
    quarter = (len(body) - half) // 2
    expected = [None, half, half + quarter if ranges else half]
    assert server.asked == [None if start is None else f"bytes={start}-" for start in expected]


def test_what_arrived_is_kept_for_the_next_call(content, publish, tmp_path, monkeypatch):
    body = publish(content).read_bytes()
    home = tmp_path / "home"
    with Server(body, breaks=1) as server:
        monkeypatch.setattr(datasets, "_URL", server.url)
        with pytest.raises(
            OSError, match=f"put it into .*The {len(body) // 2:,} bytes that arrived are kept"
        ):
            fetch_cifar10(data_home=home, n_retries=0)
        assert not (home / "cifar-10-batches-bin").exists()
        fetch_cifar10(data_home=home, n_retries=0)
    assert server.asked == [None, f"bytes={len(body) // 2}-"]


def test_a_download_that_ended_just_before_it_was_unpacked_is_not_repeated(
    content, publish, tmp_path, monkeypatch
):
    body = publish(content).read_bytes()
    home = tmp_path / "home"
    home.mkdir()
    (home / "cifar-10-binary.tar.gz.part").write_bytes(body)
    with Server(body) as server:
        monkeypatch.setattr(datasets, "_URL", server.url)
        assert len(fetch_cifar10(data_home=home).images) == 5 * N
    assert server.asked == [f"bytes={len(body)}-"]


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_URL", (tmp_path / "nothing" / "cifar-10-binary.tar.gz").as_uri())
    with pytest.raises(OSError, match="could not be downloaded: .*put it into .*home"):
        fetch_cifar10(data_home=tmp_path / "home", n_retries=1, delay=0)


def test_a_refusal_is_not_repeated_but_a_trouble_of_the_server_is(tmp_path, monkeypatch):
    for code, times in ((404, 1), (503, 3)):
        trials = []

        def refuse(request, timeout, code=code, trials=trials):
            trials.append(request.full_url)
            raise datasets.urllib.error.HTTPError(request.full_url, code, "no", {}, None)

        monkeypatch.setattr(datasets.urllib.request, "urlopen", refuse)
        with pytest.raises(OSError, match=f"could not be downloaded: HTTP Error {code}"):
            fetch_cifar10(data_home=tmp_path / "home", n_retries=2, delay=0)
        assert len(trials) == times


def test_nothing_is_downloaded_unless_wanted(content, publish, tmp_path, monkeypatch):
    publish(content)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda *a, **k: pytest.fail("used the network"))
    with pytest.raises(OSError, match="download_if_missing is False. Pass True, or the data_home"):
        fetch_cifar10(data_home=tmp_path / "home", download_if_missing=False)


def link(_):
    info = tarfile.TarInfo()
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "change",
    [lambda raw: None, lambda raw: raw[:-1], lambda raw: raw + b"\0", link],
    ids=["missing", "short", "long", "link"],
)
def test_an_archive_of_other_files_is_refused_as_a_whole(change, content, publish, tmp_path):
    name = "cifar-10-batches-bin/test_batch.bin"
    changed = change(content.pop(name))
    if changed is not None:
        content[name] = changed
    publish(content)
    with pytest.raises(OSError, match=r"no file 'cifar-10-batches-bin/test_batch.bin' of 30,730 bytes"):
        fetch_cifar10(data_home=tmp_path / "home")
    assert not (tmp_path / "home" / "cifar-10-batches-bin").exists()
    assert not list((tmp_path / "home").glob("cifar-10-batches-bin.*/*"))


def test_a_folder_that_lacks_a_file_is_completed(content, publish, tmp_path):
    publish(content)
    home = tmp_path / "home"
    fetch_cifar10(data_home=home)
    (home / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    np.testing.assert_array_equal(fetch_cifar10(data_home=home).images[2 * N : 3 * N], records(2)[1])


def test_a_damaged_file_is_named(content, publish, tmp_path):
    publish(content)
    home = tmp_path / "home"
    fetch_cifar10(data_home=home)
    file = home / "cifar-10-batches-bin" / "test_batch.bin"
    raw = bytearray(file.read_bytes())
    raw[3073] = 10
    file.write_bytes(raw)
    with pytest.raises(OSError, match="test_batch.bin' has a label 10"):
        fetch_cifar10(data_home=home, subset="test")
    file.write_bytes(raw[:-5])
    with pytest.raises(OSError, match="test_batch.bin' has 30,725 bytes instead of 30,730"):
        fetch_cifar10(data_home=home, subset="test")
    # The other files are as they were.
    assert len(fetch_cifar10(data_home=home, subset="train").images) == 5 * N


@pytest.mark.parametrize(
    "params, message",
    [
        ({"subset": "valid"}, "subset must be 'train', 'test' or 'all', got 'valid'"),
        ({"n_retries": -1}, "n_retries must be an int >= 0, got -1"),
        ({"n_retries": 1.5}, "n_retries"),
        ({"delay": -1.0}, "delay must be a number of seconds >= 0"),
        ({"delay": float("nan")}, "delay"),
    ],
)
def test_errors_name_the_parameter(params, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fetch_cifar10(data_home=tmp_path, **params)


def test_the_published_archive_is_the_one_of_plain_bytes():
    assert datasets._URL.startswith("https://") and datasets._URL.endswith("/cifar-10-binary.tar.gz")
    # Six files of 10,000 records: what the code takes for granted, in bytes.
    assert datasets._IMAGES_A_FILE * datasets._RECORD == 30_730_000
