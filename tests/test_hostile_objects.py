"""Objects that break their word: the error names the row or the object, and what to pass."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_simclr import LinearEvaluationClassifier, SimCLRTransformer
from sklearn_simclr.images import load_images

IMAGES = np.random.default_rng(0).random((6, 8, 8))


def simclr():
    return SimCLRTransformer(nn.Flatten(), max_epochs=0, random_state=0, mirror=False)


class Rows:
    """A sequence of images, of which some cannot be had."""

    def __init__(self, length=6, broken=(), error=RuntimeError, images=IMAGES):
        self.length, self.broken, self.error, self.images = length, broken, error, images

    def __len__(self):
        if isinstance(self.length, Exception):
            raise self.length
        return self.length

    def __getitem__(self, i):
        if i in self.broken:
            raise self.error("it is gone")
        return self.images[i]


class Array:
    shape = (6, 8, 8)

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no numbers today")


class Interface:
    @property
    def __array_interface__(self):
        raise RuntimeError("no numbers today")


class Path:
    def __fspath__(self):
        raise RuntimeError("no path today")


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words today")


def with_integer(value):
    rows = (IMAGES * 255).astype(int).reshape(6, 64).tolist()
    rows[4][7] = value
    return rows


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            Rows(RuntimeError("no")),
            r"X is a Rows, whose length cannot be found \(RuntimeError: no\)\. Pass a list",
        ),
        (Rows(-1), "whose length cannot be found"),
        (Rows(10**30), "whose length cannot be found"),
        (Rows(10**15), "length of 1,000,000,000,000,000 has more rows than memory"),
        (
            Rows(broken=[3]),
            r"Row 3 of X, item 3 of a Rows, cannot be loaded \(RuntimeError: it is gone\)\. Leave",
        ),
        (Rows(broken=[0, 1], error=OSError), "Row 0 of X, item 0 of a Rows, cannot be loaded"),
        (
            Rows(broken=range(6), error=KeyError),
            r"(?s)6 of 6 images.*row 5, item 5 of a Rows: it cannot be loaded",
        ),
        (Array(), r"X \(Array\) cannot be read: RuntimeError: no numbers today\. Pass an array"),
        (Interface(), r"X \(Interface\) cannot be read: RuntimeError: no numbers today"),
        ([Array()] * 6, r"Row 0 of X \(list\) cannot be read: RuntimeError: no numbers today"),
        ([Path()] * 6, r"X \(list\) cannot be read: RuntimeError: no path today"),
        (Unspeakable(), r"X \(Unspeakable\) cannot be read: RuntimeError: no words today"),
        (
            with_integer(10**400),
            r"Row 4 of X \(list\) cannot be read: OverflowError: .* Replace numbers beyond",
        ),
        (
            np.array(with_integer(-(10**400)), dtype=object),
            r"Row 4 of X \(ndarray\) cannot be read: OverflowError",
        ),
        (None, "X is None, of type NoneType, which holds no images. Pass an array"),
        (len, "X is <built-in function len>"),
        (np.ndarray, "X is <class 'numpy.ndarray'>"),
        (
            torch.nested.nested_tensor([torch.rand(8, 8)] * 6, layout=torch.jagged),
            r"nested tensor has no shape.*X\.unbind\(\)",
        ),
        (torch.zeros(6, 8, 8, device="meta"), "on the device 'meta' has no numbers"),
        ([torch.zeros(8, 8, device="meta")] * 6, "on the device 'meta' has no numbers"),
        (Rows(images=torch.zeros(6, 8, 8, device="meta")), "row 0, .*on the device 'meta' has no numbers"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else type(value).__name__,
)
def test_what_breaks_its_word_is_named(X, message):
    fitted = simclr().fit(IMAGES)
    for call in (simclr().fit, fitted.transform):
        with pytest.raises((ValueError, TypeError), match=message):
            call(X)


def test_of_files_in_a_dataset_the_first_may_be_broken(tmp_path):
    from PIL import Image

    images = [Image.fromarray((image * 255).astype(np.uint8)) for image in IMAGES]
    X = Rows(broken=[0, 4], error=OSError, images=images)
    with pytest.raises(ValueError, match=r"(?s)2 of 6 images cannot be read:\n  row 0, .*\n  row 4, .*grey"):
        simclr().fit(X)
    with pytest.warns(UserWarning, match="2 of 6 images cannot be read"):
        fitted = simclr().set_params(on_error="nan").fit(X)
        assert np.isnan(fitted.transform(X)).any(axis=1).tolist() == [True, False, False, False, True, False]
    with pytest.raises(ValueError, match="2 of 6 images cannot be read"):
        load_images(X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_numbers_that_numpy_lacks_are_those_of_float32(dtype):
    X = torch.from_numpy(IMAGES).to(dtype)
    expected = simclr().fit(X.float()).transform(X.float())
    for same in (X, list(X), Rows(images=X)):
        np.testing.assert_array_equal(simclr().fit(same).transform(same), expected)


def test_what_has_numbers_only_when_asked():
    class Asked:
        def __array__(self, *args, **kwargs):
            return IMAGES

    expected = simclr().fit(IMAGES).transform(IMAGES)
    for same in (Asked(), (torch.from_numpy(IMAGES) * -1j).conj().imag):
        np.testing.assert_array_equal(simclr().fit(same).transform(same), expected)


def test_features_whose_squares_overflow_are_named():
    features = IMAGES.reshape(6, 64).copy()
    features[3, 1] = 1e308
    with pytest.raises(ValueError, match=r"Row 3 of X has a number of size 1e\+308, whose square overflows"):
        LinearEvaluationClassifier().fit(features, np.arange(6) % 2)
