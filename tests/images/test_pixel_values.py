"""Pixels that are no measurements: outliers, marks of missing data and masks do not decide the range."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from sklearn_simclr import HOGTransformer, PixelTransformer, SimCLRTransformer
from sklearn_simclr.images import image_format

DIGITS = load_digits().images[:600]


def found_range(X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixel_range = image_format(X).pixel_range
    return pixel_range, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("scale", [1 / 16, 1, 100])
@pytest.mark.parametrize("value", [-9999, -3.4e38, 1e7, 1e300, -7777, -32768])
@pytest.mark.parametrize("where", ["pixel", "part", "all"])
def test_marks_and_broken_pixels_do_not_decide_the_range(scale, value, where):
    X = DIGITS * scale
    places = {"pixel": np.s_[7, 3, 3], "part": np.s_[:12, :, :4], "all": np.s_[:, 0]}[where]
    X[places] = value
    n = np.count_nonzero(value == X)
    pixel_range, messages = found_range(X)
    if where == "all" and value not in (-9999, -3.4e38, -32768):
        # An eighth of all pixels that is no known mark: this may be what images look like.
        assert value in pixel_range and not messages
        return
    assert pixel_range == (0.0, 16.0 * scale)
    (message,) = messages
    assert message.startswith(f"{n} pixels of X, in {np.count_nonzero((value == X).any(axis=(1, 2)))} of 600")
    assert f"{value:g}" in message and "pixel_range=(" in message


def test_outliers_on_both_sides_and_beside_a_mark():
    X = DIGITS * 100
    X[0, 0, 0], X[1, 1, 1] = -7777, 7e6
    assert found_range(X)[0] == (0.0, 1600.0)
    X[:, :4] = -9999
    assert found_range(X)[0] == (0.0, 1600.0)
    X = X.astype(np.int32)
    assert found_range(X)[0] == (0.0, 1600.0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.normal(size=shape),
        lambda rng, shape: rng.lognormal(size=shape),
        lambda rng, shape: 5 * rng.exponential(size=shape),
        # Few bright spots in front of nothing; air around a body.
        lambda rng, shape: np.where(rng.random(shape) < 0.97, 0.0, rng.uniform(100, 200, shape)),
        lambda rng, shape: np.where(rng.random(shape) < 0.3, -1000.0, rng.uniform(-100, 200, shape)),
        lambda rng, shape: np.where(rng.random(shape) < 0.5, -1.0, 1.0),
        lambda rng, shape: rng.integers(-1000, 9999, shape),
        lambda rng, shape: 1e308 * rng.uniform(-1, 1, shape),
        lambda rng, shape: -1e-310 * rng.random(shape),
    ],
)
def test_ordinary_pixels_have_no_outliers(draw):
    X = draw(np.random.default_rng(0), (300, 8, 8))
    assert found_range(X) == ((X.min(), X.max()), [])


@pytest.mark.parametrize("scale", [1 / 255, 1e-310])
def test_numbers_that_fill_little_of_0_to_1_are_named(scale):
    X = DIGITS / 16 * scale
    pixel_range, (message,) = found_range(X)
    assert pixel_range == (0.0, 1.0)
    assert "hardly any contrast" in message and f"pixel_range=(0, {X.max():g})" in message


def test_whole_numbers_beyond_the_precision_of_floats():
    X = DIGITS.astype(np.int64)
    for far in (X + 2**60, X.astype(np.uint64) + 2**63):
        with pytest.raises(ValueError, match=r"whole numbers from \d+ to .* Pass X - X\.min\(\)"):
            image_format(far)
    assert found_range(X * 2**56) == ((0.0, 2.0**60), [])


@pytest.mark.parametrize("low, high", [(-1e308, 1e308), (-1e-310, 0.0), (-3.4e38, 3.4e38)])
def test_finite_pixels_give_finite_features(low, high):
    share = np.random.default_rng(0).random((12, 8, 8))
    X = low * (1 - share) + high * share
    if X.min() == X.max():
        X[0, 0, 0] = high
    for estimator in (PixelTransformer(), HOGTransformer(), SimCLRTransformer(max_epochs=0, random_state=0)):
        assert np.isfinite(estimator.fit_transform(X)).all()


@pytest.mark.filterwarnings("ignore:.*are far from all others", "ignore:X has pixels from")
def test_features_are_those_of_clipped_pixels():
    X = DIGITS[:100] * 100
    broken = X.copy()
    broken[4, 2, 2], X[4, 2, 2] = 1e7, 1600
    broken[5, 2, 2], X[5, 2, 2] = -9999, 0
    np.testing.assert_array_equal(
        PixelTransformer().fit_transform(broken), PixelTransformer().fit_transform(X)
    )


def listed(X):
    series = pd.Series(index=range(len(X)), dtype=object)
    series[:] = list(X)
    return series


class Items(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], 0


@pytest.mark.parametrize("form", [lambda X: X, list, tuple, listed, Items])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_masked_pixels_are_black(form, dtype):
    X = (DIGITS[:40] * 10).astype(dtype) + dtype(20)
    mask = np.zeros(X.shape, dtype=bool)
    mask[3:9, 2:5, 2:5] = True
    plain = np.where(mask, 0 if dtype == np.uint8 else X.min(), X)
    hidden = np.where(mask, X.dtype.type(77), X)
    expected = PixelTransformer().fit(plain)
    found = PixelTransformer().fit(form(np.ma.MaskedArray(hidden, mask)))
    assert found.pixel_range_ == expected.pixel_range_
    H = expected.transform(plain)
    np.testing.assert_array_equal(found.transform(form(np.ma.MaskedArray(hidden, mask))), H)
    # A row does not depend on the others.
    np.testing.assert_array_equal(found.transform(form(np.ma.MaskedArray(hidden, mask)[5:7])), H[5:7])


def test_masks_over_nan_and_between_sizes_and_of_whole_images():
    X = np.ma.masked_invalid(np.where(DIGITS[:20] > 15, np.nan, DIGITS[:20] / 16))
    H = PixelTransformer().fit_transform(X)
    np.testing.assert_array_equal(H, PixelTransformer().fit_transform(X.filled(0)))
    mixed = [np.ma.masked_less(DIGITS[0], 3), DIGITS[1][:6], DIGITS[2]]
    filled = [np.where(DIGITS[0] < 3, 0, DIGITS[0]), *mixed[1:]]
    np.testing.assert_array_equal(
        PixelTransformer().fit_transform(mixed), PixelTransformer().fit_transform(filled)
    )
    X[4] = np.ma.masked
    with pytest.raises(ValueError, match="All pixels of row 4 of X are masked"):
        PixelTransformer().fit(X)
