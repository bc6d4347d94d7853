"""CIFAR-10 is fetched, checked and read: from a server on this machine, ten images a file."""

import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

from sklearn_simclr.images import datasets
from sklearn_simclr.images.datasets import fetch_cifar10

N = 10
NAMES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
ARCHIVE = "cifar-10-binary.tar.gz"


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


def write_archive():
    files = {f"cifar-10-batches-bin/{name}": records(seed)[2] for seed, name in enumerate(NAMES)}
    # Other files, and another order than that of the images.
    files = {"../outside": b"no", "cifar-10-batches-bin/batches.meta.txt": b"airplane\n", **files}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in reversed(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Publish an archive: `answers` says, for each request, how; then as it is. `asked` counts them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = server.answers.pop(0) if server.answers else "whole"
            server.asked += 1
            if isinstance(answer, int):
                self.send_error(answer)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.body)))
            self.end_headers()
            half = len(server.body) // 2
            parts = {"whole": server.body, "broken": server.body[:half], "changed": bytes(len(server.body))}
            self.wfile.write(parts[answer])

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.answers, server.asked = write_archive(), [], 0
    # A proxy would be asked for this machine, too.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets, "_URL", f"http://127.0.0.1:{server.server_port}/{ARCHIVE}")
    monkeypatch.setattr(datasets, "_SHA256", hashlib.sha256(server.body).hexdigest())
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def left_in(home):
    return {path.name for path in home.iterdir()} - {f"{ARCHIVE}.lock"}


@pytest.mark.parametrize(
    "subset, seeds", [("train", range(5)), ("test", [5]), ("all", range(6))], ids=["train", "test", "all"]
)
def test_the_images_are_those_of_the_files_in_order(subset, seeds, server, tmp_path):
    cifar = fetch_cifar10(data_home=tmp_path, subset=subset)
    assert cifar.images.dtype == np.uint8 and cifar.target.dtype == np.int64
    assert cifar.images.flags.c_contiguous and cifar.images.flags.writeable
    np.testing.assert_array_equal(cifar.images, np.concatenate([records(seed)[1] for seed in seeds]))
    np.testing.assert_array_equal(cifar.target, np.concatenate([records(seed)[0] for seed in seeds]))
    assert cifar.target_names[3] == "cat" and len(cifar.target_names) == 10
    assert "Krizhevsky" in cifar.DESCR
    X, y = fetch_cifar10(data_home=tmp_path, subset=subset, return_X_y=True)
    np.testing.assert_array_equal(X, cifar.images)
    np.testing.assert_array_equal(y, cifar.target)
    # Once was enough, and nothing is unpacked: no name in an archive leads out of the folder.
    assert server.asked == 1 and left_in(tmp_path) == {ARCHIVE}


def test_an_archive_that_the_user_put_there_is_used(server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(server.body)
    tmp_path.chmod(0o500)
    assert len(fetch_cifar10(data_home=tmp_path, download_if_missing=False).images) == 5 * N
    tmp_path.chmod(0o700)
    assert server.asked == 0


def test_the_default_home_is_that_of_scikit_learn(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "elsewhere"))
    fetch_cifar10()
    assert left_in(tmp_path / "elsewhere") == {ARCHIVE}


def test_a_damaged_archive_is_refused_or_replaced(server, tmp_path):
    own = tmp_path / ARCHIVE
    own.write_bytes(server.body[:-1])
    with pytest.raises(OSError, match="damaged there, and download_if_missing is False. Pass True"):
        fetch_cifar10(data_home=tmp_path, download_if_missing=False)
    assert own.read_bytes() == server.body[:-1] and server.asked == 0
    assert len(fetch_cifar10(data_home=tmp_path).images) == 5 * N
    assert own.read_bytes() == server.body


@pytest.mark.parametrize("answer", [404, 503, "broken", "changed"])
def test_a_download_that_fails_is_tried_again_and_leaves_nothing(answer, server, tmp_path):
    server.answers = [answer] * 5
    with pytest.raises(
        OSError, match=f"{ARCHIVE} could not be downloaded: .*\\n.*put it into .*{tmp_path.name}"
    ):
        fetch_cifar10(data_home=tmp_path, n_retries=2)
    assert server.asked == 3 and not left_in(tmp_path)
    assert len(fetch_cifar10(data_home=tmp_path, n_retries=2).images) == 5 * N
    assert server.asked == 6


def test_without_a_network_the_error_says_what_to_do(server, tmp_path, monkeypatch):
    # Nobody listens on port 9 of this machine.
    monkeypatch.setattr(datasets, "_URL", f"http://127.0.0.1:9/{ARCHIVE}")
    with pytest.raises(
        OSError, match="could not be downloaded: .*refused.*\\nWithout a network, get the file elsewhere"
    ):
        fetch_cifar10(data_home=tmp_path, n_retries=0)


def test_nothing_is_downloaded_unless_wanted(server, tmp_path):
    with pytest.raises(OSError, match="CIFAR-10 is not in .* Pass True, or the data_home that"):
        fetch_cifar10(data_home=tmp_path, download_if_missing=False)
    assert server.asked == 0


@pytest.mark.parametrize(
    "params, message",
    [
        ({"subset": "valid"}, "subset must be 'train', 'test' or 'all', got 'valid'"),
        ({"n_retries": -1}, "n_retries must be an int >= 0, got -1"),
        ({"n_retries": 1.5}, "n_retries"),
    ],
)
def test_errors_name_the_parameter(params, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fetch_cifar10(data_home=tmp_path, **params)


def test_the_published_archive_is_the_one_of_plain_bytes():
    assert datasets._URL.startswith("https://") and datasets._URL.endswith(f"/{ARCHIVE}")
