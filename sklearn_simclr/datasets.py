"""Public image collections, fetched once and kept on disk."""

import hashlib
import http.client
import os
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from filelock import FileLock
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

__all__ = ["fetch_cifar10"]

# The version that is plain bytes; the one for Python is a pickle, which may run code when it is read.
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_FOLDER = "cifar-10-batches-bin"
_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_IMAGES_A_FILE = 10_000
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Bytes that are read at a time, and seconds of silence after which a connection is given up.
_CHUNK = 2**20
_TIMEOUT = 60

_DESCR = """\
CIFAR-10: 60,000 colour photographs of 32 x 32 pixels, 6,000 of each of ten classes; 50,000 are for training,
10,000 for testing. Collected by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton.

images: uint8 of shape (n, 32, 32, 3), red, green and blue. target: 0 to 9, positions in target_names.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
https://www.cs.toronto.edu/~kriz/cifar.html
"""


def fetch_cifar10(
    *,
    data_home=None,
    subset="train",
    download_if_missing=True,
    return_X_y=False,
    n_retries=3,
    delay=1.0,
):
    """Load CIFAR-10, small photographs of ten classes; download it if necessary.

    The archive has 162 MiB. It is compared with its known checksum, and only then unpacked; a download that
    broke off goes on where it was. Nothing is unpickled.

    ===================  ===================
    Classes                               10
    Images for training               50,000
    Images for testing                10,000
    Size                  32 x 32, in colour
    ===================  ===================

    Parameters
    ----------
    data_home : str or os.PathLike, default=None
        Folder to keep the images in, 176 MiB; None is :func:`sklearn.datasets.get_data_home`. An archive
        that lies there already, or was unpacked there, is used.
    subset : {"train", "test", "all"}, default="train"
        The 50,000 images for training, the 10,000 for testing, or both in this order.
    download_if_missing : bool, default=True
        Whether to download what is not there; if False, that is an error.
    return_X_y : bool, default=False
        Whether to return only ``(images, target)``.
    n_retries : int, default=3
        How many times to try again, >= 0, when the connection fails.
    delay : float, default=1.0
        Seconds between two trials, >= 0.

    Returns
    -------
    Bunch
        ``images``, uint8 array (n, 32, 32, 3), to be passed as X; ``target``, int64 array (n,) of positions
        in ``target_names``, list of str; ``DESCR``, a description.
    (images, target) : tuple of ndarrays
        If `return_X_y`.

    Raises
    ------
    OSError
        If the images are not there and must not or cannot be downloaded, or if a file is damaged.
    ValueError
        If a parameter is out of range.

    See Also
    --------
    sklearn_simclr.load_image_paths : Images of your own, in folders.
    sklearn.datasets.load_digits : Smaller images, which need no download.

    References
    ----------
    .. [1] A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
       University of Toronto, 2009. https://www.cs.toronto.edu/~kriz/cifar.html

    Examples
    --------
    >>> from sklearn_simclr.datasets import fetch_cifar10
    >>> cifar = fetch_cifar10(subset="test")  # doctest: +SKIP
    >>> cifar.images.shape, cifar.target_names[cifar.target[0]]  # doctest: +SKIP
    ((10000, 32, 32, 3), 'cat')

    With ``download_if_missing=False`` it never uses the network:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     fetch_cifar10(data_home=empty, download_if_missing=False)
    Traceback (most recent call last):
    OSError: CIFAR-10 is not in ...
    """
    if subset not in ("train", "test", "all"):
        raise ValueError(f"subset must be 'train', 'test' or 'all', got {subset!r}.")
    if not isinstance(n_retries, Integral) or n_retries < 0:
        raise ValueError(f"n_retries must be an int >= 0, got {n_retries!r}.")
    if not isinstance(delay, Real) or not delay >= 0:
        raise ValueError(f"delay must be a number of seconds >= 0, got {delay!r}.")
    home = Path(get_data_home(data_home))
    folder = home / _FOLDER
    if not _is_complete(folder):
        # Of several workers that find nothing, one downloads.
        with FileLock(home / f"{_FOLDER}.lock"):
            if not _is_complete(folder):
                _install(folder, download_if_missing, int(n_retries), delay)
    names = _FILES["train"] + _FILES["test"] if subset == "all" else _FILES[subset]
    images, target = _read([folder / name for name in names])
    if return_X_y:
        return images, target
    return Bunch(images=images, target=target, target_names=list(_NAMES), DESCR=_DESCR)


def _is_complete(folder):
    """Whether all files are there. They come all at once, or from the user's own unpacking."""
    return all((folder / name).is_file() for names in _FILES.values() for name in names)


def _read(paths):
    """Images (n, 32, 32, 3) and labels of files of records: a label, then planes of red, green and blue."""
    images = np.empty((len(paths) * _IMAGES_A_FILE, *_SHAPE[1:], _SHAPE[0]), dtype=np.uint8)
    target = np.empty(len(images), dtype=np.int64)
    for number, path in enumerate(paths):
        size = path.stat().st_size
        if size != _IMAGES_A_FILE * _RECORD:
            raise OSError(
                f"{str(path)!r} has {size:,} bytes instead of {_IMAGES_A_FILE * _RECORD:,}. Remove "
                f"{str(path.parent)!r} to have it made anew."
            )
        records = np.fromfile(path, dtype=np.uint8).reshape(_IMAGES_A_FILE, _RECORD)
        here = slice(number * _IMAGES_A_FILE, (number + 1) * _IMAGES_A_FILE)
        target[here] = records[:, 0]
        if target[here].max() >= len(_NAMES):
            raise OSError(
                f"{str(path)!r} has a label {target[here].max()}, where 0 to {len(_NAMES) - 1} are possible. "
                f"Remove {str(path.parent)!r} to have it made anew."
            )
        images[here] = records[:, 1:].reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)
    return images, target


def _unpack(archive, folder):
    """Write the batches of an archive into a folder that appears with all of them, or not at all."""
    wanted = [name for names in _FILES.values() for name in names]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{_FOLDER}.") as temporary:
        made = Path(temporary, _FOLDER)
        made.mkdir()
        with tarfile.open(archive, "r:gz") as tar:
            for name in wanted:
                # The names written to are ours, whatever paths or links the archive holds.
                with open(made / name, "wb") as file:
                    _copy(_member(tar, f"{_FOLDER}/{name}", archive), file)
        if folder.exists():
            # An incomplete one, of an interrupted unpacking by other means.
            for name in wanted:
                os.replace(made / name, folder / name)
        else:
            os.replace(made, folder)


def _member(tar, name, archive):
    try:
        member = tar.getmember(name)
    except KeyError:
        member = None
    expected = _IMAGES_A_FILE * _RECORD
    if member is None or not member.isfile() or member.size != expected:
        raise OSError(f"{str(archive)!r} has no file {name!r} of {expected:,} bytes: it is not CIFAR-10.")
    return tar.extractfile(member)


def _copy(source, file):
    while chunk := source.read(_CHUNK):
        file.write(chunk)


def _install(folder, download_if_missing, n_retries, delay):
    """Unpack the user's archive, which stays, or one that is downloaded, which does not."""
    own = folder.parent / _URL.rpartition("/")[2]
    if own.is_file():
        if (found := _sha256(own)) != _SHA256:
            raise OSError(
                f"{str(own)!r} has the SHA-256 checksum {found} instead of {_SHA256}: it is damaged or "
                "another file. Remove it to have it downloaded."
            )
        _unpack(own, folder)
        return
    if not download_if_missing:
        raise OSError(
            f"CIFAR-10 is not in {str(folder.parent)!r}, and download_if_missing is False. Pass True, or the "
            f"data_home where it is, or put {_URL} there."
        )
    part = own.with_name(f"{own.name}.part")
    _download_patiently(part, n_retries, delay)
    if (found := _sha256(part)) != _SHA256:
        part.unlink()
        raise OSError(
            f"What came from {_URL} has the SHA-256 checksum {found} instead of {_SHA256}, and was removed. "
            "Call again; if it comes again, something between here and there changes the file."
        )
    _unpack(part, folder)
    part.unlink()


def _download_patiently(part, n_retries, delay):
    for trial in range(n_retries + 1):
        try:
            return _download(part)
        except (OSError, http.client.HTTPException) as error:
            if trial == n_retries or not _may_pass(error):
                size = part.stat().st_size if part.is_file() else 0
                raise OSError(
                    f"{_URL} could not be downloaded: {error or type(error).__name__}. Without a network, "
                    f"get it elsewhere and put it into {str(part.parent)!r}, or pass the data_home where it "
                    f"is. The {size:,} bytes that arrived are kept; the next call goes on from there."
                ) from error
            time.sleep(delay)


def _may_pass(error):
    """Whether another trial makes sense: of the answers of a server, only if it is in trouble itself."""
    return not isinstance(error, urllib.error.HTTPError) or error.code >= 500 or error.code in (408, 429)


def _download(part):
    """Append to a file what it lacks of the archive."""
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(_URL, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:
            # Nothing lies beyond: the file is whole, or not of this archive, as its checksum will say.
            return
        raise
    with response:
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        length = response.headers.get("Content-Length")
        # A server that knows no ranges sends everything.
        with open(part, "ab" if start and goes_on else "wb") as file:
            before = file.tell()
            _copy(response, file)
            arrived = file.tell() - before
    if length is not None and arrived < int(length):
        raise OSError(f"the connection ended after {arrived:,} of {int(length):,} bytes")


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
