"""Public image collections, fetched once and kept on disk."""

import os
import tarfile
from numbers import Integral
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

from .._utils.lock import Lock

__all__ = ["fetch_cifar10"]

# The version that is plain bytes; the one for Python is a pickle, which may run code when it is read.
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_FILES = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}
_FILES["all"] = _FILES["train"] + _FILES["test"]
_SHAPE = (3, 32, 32)
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_DESCR = """\
CIFAR-10: 60,000 colour photographs of 32 x 32 pixels, 6,000 of each of ten classes; 50,000 are for training,
10,000 for testing. Collected by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton.

images: uint8 of shape (n, 32, 32, 3), red, green and blue. target: 0 to 9, positions in target_names.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
https://www.cs.toronto.edu/~kriz/cifar.html
"""


def fetch_cifar10(
    *,
    data_home: str | os.PathLike | None = None,
    subset: Literal["train", "test", "all"] = "train",
    download_if_missing: bool = True,
    return_X_y: bool = False,
    n_retries: int = 3,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Load CIFAR-10, small photographs of ten classes; download it if necessary.

    The archive has 162 MiB and is kept as it is. It is compared with its known checksum at every call. Its
    images are read out of it in memory: nothing is unpacked to disk or unpickled.

    ===================  ===================
    Classes                               10
    Images for training               50,000
    Images for testing                10,000
    Size                  32 x 32, in colour
    ===================  ===================

    Parameters
    ----------
    data_home : str or os.PathLike, default=None
        Folder to keep the archive in; None is :func:`sklearn.datasets.get_data_home`. An archive that lies
        there already is used, and replaced only if it is damaged.
    subset : {"train", "test", "all"}, default="train"
        The 50,000 images for training, the 10,000 for testing, or both in this order.
    download_if_missing : bool, default=True
        Whether to download an archive that is missing or damaged; if False, that is an error.
    return_X_y : bool, default=False
        Whether to return only ``(images, target)``.
    n_retries : int, default=3
        How many times to try again, >= 0, when a download fails. The first pause is 1 s, each later one 1 s
        longer.

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
        If the archive is missing or damaged, and must not or cannot be downloaded.
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
    >>> from sklearn_simclr.images import fetch_cifar10
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
    if subset not in _FILES:
        raise ValueError(f"subset must be 'train', 'test' or 'all', got {subset!r}.")
    if not isinstance(n_retries, Integral) or n_retries < 0:
        raise ValueError(f"n_retries must be an int >= 0, got {n_retries!r}.")
    archive = _find_archive(Path(get_data_home(data_home)), download_if_missing, int(n_retries))
    images, target = _read(archive, _FILES[subset])
    if return_X_y:
        return images, target
    return Bunch(images=images, target=target, target_names=list(_NAMES), DESCR=_DESCR)


def _find_archive(home: Path, download_if_missing: bool, n_retries: int) -> Path:
    """Return the path of the archive, whose checksum is right."""
    archive = home / _URL.rpartition("/")[2]
    if archive.is_file() and pooch.file_hash(archive) == _SHA256:
        return archive
    if not download_if_missing:
        raise OSError(
            f"CIFAR-10 is not in {str(home)!r}, or is damaged there, and download_if_missing is False. Pass "
            f"True, or the data_home that holds the archive, or put the file {_URL} there."
        )
    name = archive.name
    fetcher = pooch.create(home, "", registry={name: _SHA256}, urls={name: _URL}, retry_if_failed=n_retries)
    try:
        # If several workers find no archive, one of them downloads it.
        with Lock(home / f"{name}.lock", f"downloads {name}"):
            fetcher.fetch(name)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{_URL} could not be downloaded: {error}\nWithout a network, get the file elsewhere and put it "
            f"into {str(home)!r}, or pass the data_home that holds it."
        ) from error
    return archive


def _read(archive: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 32, 32, 3) and labels; a record is a label, then planes of red, green and blue."""
    parts = {}
    with tarfile.open(archive, "r:gz") as tar:
        # In the order of the archive: each step back would decompress it from the beginning.
        for member in tar:
            if member.name in names and (file := tar.extractfile(member)):
                raw = np.frombuffer(file.read(), np.uint8)
                parts[member.name] = raw.reshape(-1, 1 + np.prod(_SHAPE))
    records = np.concatenate([parts[name] for name in names])
    images = records[:, 1:].reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)
