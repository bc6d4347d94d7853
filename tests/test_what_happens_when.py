"""The table of what happens when: each row is carried out, and says what the table says."""

import pickle
import re
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skorch.callbacks import Callback
from torch import nn

from sklearn_simclr import SimCLRTransformer, load_estimator, load_pretrained, save_estimator
from sklearn_simclr._utils import container
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.training.checkpoint import Checkpoint

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "what_happens_when.rst"
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is not in a package")


def rows():
    """Return {when: words} of the table."""
    text = PAGE.read_text().partition(":widths:")[2]
    cells = re.findall(r"^   \* - (.+)\n     - (.+)\n     -(?: (.+))?$", text, re.MULTILINE)
    return {when: words for when, _, words in cells[1:]}


def simclr(**params):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    params = {"max_epochs": 0, "random_state": 0, "mirror": False, "augmentation": None, **params}
    return SimCLRTransformer(network, projection_dim=4, **params)


@pytest.fixture
def paths(tmp_path):
    paths = [str(tmp_path / f"{k}.png") for k in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    return paths


def with_bytes(paths, data):
    Path(paths[3]).write_bytes(data)
    return paths


def with_value(value, dtype=float):
    X = IMAGES.astype(dtype)
    X[3, 1, 1] = value
    return X


def huge_png():
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 10**6, 10**6, 16, 2, 0, 0, 0)


def tiled_tiff():
    tags = [
        (256, 4, 1, 6000),
        (257, 4, 1, 6000),
        (258, 3, 1, 16),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (277, 3, 1, 3),
    ]
    tags += [(322, 4, 1, 1), (323, 4, 1, 1), (324, 4, 1, 8), (325, 4, 1, 8)]
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHII", *t) for t in tags)
        + bytes(4)
    )


class Broken:
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        return IMAGES[i // (i != 3)]


class Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        signal.raise_signal(signal.SIGINT)


class Opaque:
    """Two of them look the same, and may be different."""

    __slots__ = ()

    def __reduce__(self):
        raise TypeError("no state")

    def __call__(self, z):
        return nt_xent(z)


def changed_cache(tmp_path, paths, change):
    simclr(cache_dir=tmp_path / "cache").fit(paths)
    change()
    again = simclr(cache_dir=tmp_path / "cache").fit(paths)
    np.testing.assert_array_equal(again.transform(paths), simclr().fit(paths).transform(paths))


def change_image(paths):
    Image.fromarray(255 - IMAGES[3]).save(paths[3])


def damage(pattern, tmp_path, at):
    (path,) = tmp_path.glob(pattern)
    data = bytearray(path.read_bytes())
    data[at : at + 20] = bytes(byte ^ 255 for byte in data[at : at + 20])
    path.write_bytes(data)


def damaged_index(tmp_path, paths):
    simclr(cache_dir=tmp_path / "cache").fit(paths)
    damage("cache/images.sqlite", tmp_path, 0)
    simclr(cache_dir=tmp_path / "cache").fit(paths)


def another_checkpoint(tmp_path):
    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(IMAGES)
    simclr(checkpoint_dir=tmp_path, max_epochs=1, temperature=0.3).fit(IMAGES)


def flipped_checkpoint(tmp_path):
    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(IMAGES)
    damage("training.safetensors", tmp_path, -50)
    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(IMAGES)


def shared_checkpoint(tmp_path):
    with Checkpoint(tmp_path, {}):
        simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(IMAGES)


def as_it_was(error, **params):
    estimator = SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(IMAGES)
    before = estimator.transform(IMAGES)
    try:
        estimator.set_params(max_epochs=1, **params).fit(IMAGES)
    except error:
        np.testing.assert_array_equal(estimator.transform(IMAGES), before)
        raise


def pickled(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps(Broken()))
    load_estimator(tmp_path / "a")


def forged(tmp_path, change):
    estimator = SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(IMAGES)
    save_estimator(estimator, tmp_path / "a")
    arrays, records = container.read(tmp_path / "a", "estimator")
    change(records[-1])
    container.write(tmp_path / "a", "estimator", arrays, records)
    load_estimator(tmp_path / "a")


def claim(record):
    record["attributes"]["projector_"]["network"]["of"]["n_layers"] = 10**9


def calling(tmp_path):
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, bytearray(b"a"), [])]
    (tmp_path / "a.pth").write_bytes(b"".join(parts))
    load_pretrained(tmp_path / "a.pth")


MIXED = [IMAGES[0], IMAGES[1, :6]]

# What the words of the table stand for; each gets a folder and the paths of images.
WHEN = {
    "a file in X is not an image": (ValueError, lambda d, p: simclr().fit(with_bytes(p, b"<html>"))),
    "a file in X is missing": (FileNotFoundError, lambda d, p: simclr().fit([*p, "none.png"])),
    'a file in X is broken, and ``on_error="grey"``': (
        UserWarning,
        lambda d, p: simclr(on_error="grey").fit(with_bytes(p, b"<html>")),
    ),
    "the header of an image declares a huge size": (
        ValueError,
        lambda d, p: simclr().fit(with_bytes(p, huge_png())),
    ),
    "a TIFF declares millions of tiles": (ValueError, lambda d, p: simclr().fit(with_bytes(p, tiled_tiff()))),
    "a pixel is NaN": (ValueError, lambda d, p: simclr().fit(with_value(np.nan))),
    "a few pixels are far from all others, such as -9999": (
        UserWarning,
        lambda d, p: simclr().fit(with_value(-9999)),
    ),
    "all pixels have the same value": (ValueError, lambda d, p: simclr().fit(np.zeros((8, 8, 8)))),
    "arrays have several sizes, and ``image_size=None``": (
        ValueError,
        lambda d, p: simclr(image_size=None).fit(MIXED),
    ),
    "an item of a dataset raises an error": (ValueError, lambda d, p: simclr().fit(Broken())),
    "X is a DataLoader": (TypeError, lambda d, p: simclr().fit(torch.utils.data.DataLoader(IMAGES))),
    'X is a tensor on the device ``"meta"``': (
        TypeError,
        lambda d, p: simclr().fit(torch.zeros(8, 8, 8, device="meta")),
    ),
    "an integer is beyond the range of float64": (
        ValueError,
        lambda d, p: simclr().fit(with_value(10**400, object)),
    ),
    "``transform`` gets images of another size than ``fit``": (
        ValueError,
        lambda d, p: simclr().fit(IMAGES).transform(IMAGES[:, :6]),
    ),
    "an image file changes after its pixels were stored in ``cache_dir``": (
        None,
        lambda d, p: changed_cache(d, p, lambda: change_image(p)),
    ),
    "pixels in ``cache_dir`` are cut off or changed": (
        None,
        lambda d, p: changed_cache(d, p, lambda: damage("cache/*.pixels", d, 70)),
    ),
    "the index of ``cache_dir`` is damaged": (ValueError, damaged_index),
    "``checkpoint_dir`` holds another training": (ValueError, lambda d, p: another_checkpoint(d)),
    "a checkpoint is damaged": (ValueError, lambda d, p: flipped_checkpoint(d)),
    "two fits use one ``checkpoint_dir`` at the same time": (ValueError, lambda d, p: shared_checkpoint(d)),
    "a training diverges": (
        ValueError,
        lambda d, p: as_it_was(ValueError, learning_rate=1e38, warmup=0),
    ),
    "Ctrl-C interrupts ``fit``": (
        KeyboardInterrupt,
        lambda d, p: as_it_was(KeyboardInterrupt, callbacks=[Interrupt()]),
    ),
    "``memory`` is set, and the code of the loss cannot be identified": (
        TypeError,
        lambda d, p: simclr(loss=Opaque(), memory=str(d), max_epochs=1).fit(IMAGES),
    ),
    "``load_estimator`` gets a pickle": (ValueError, lambda d, p: pickled(d)),
    "a saved estimator names a ``memory`` folder": (
        UserWarning,
        lambda d, p: forged(d, lambda record: record["params"].update(memory="gift")),
    ),
    "a saved estimator declares larger networks than it contains": (
        ValueError,
        lambda d, p: forged(d, claim),
    ),
    "reading a file of weights would take much more memory than its size": (
        ValueError,
        lambda d, p: calling(d),
    ),
}


def test_the_table_has_all_rows():
    assert rows().keys() == WHEN.keys()


@pytest.mark.parametrize("when", WHEN)
def test_what_happens_when(when, tmp_path, paths, ctrl_c):
    kind, act = WHEN[when]
    words = re.escape(rows()[when]) or None
    if kind is None:
        act(tmp_path, paths)
    elif issubclass(kind, Warning):
        with pytest.warns(kind, match=words):
            act(tmp_path, paths)
    else:
        with pytest.raises(kind, match=words):
            act(tmp_path, paths)
