"""X of every accepted form, and of forms that are refused."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sklearn_simclr import PixelTransformer, SimCLRTransformer
from sklearn_simclr.images.arrays import as_array
from sklearn_simclr.images.layout import decoded_format, image_format
from sklearn_simclr.images.source import as_float, decoded_source, image_source


def pixels(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def read(X, **params):
    array = as_array(X)
    return image_source(array, image_format(array, **params))


@pytest.mark.parametrize(
    ("shape", "image_shape", "expected"),
    [
        ((5, 9, 7), "auto", (1, 9, 7)),
        ((5, 9, 7), (9, 7), (1, 9, 7)),
        ((5, 32, 32, 3), "auto", (3, 32, 32)),
        ((5, 3, 32, 32), "auto", (3, 32, 32)),
        ((5, 28, 28, 1), "auto", (1, 28, 28)),
        ((5, 1, 28, 20), "auto", (1, 28, 20)),
        ((5, 4, 4, 3), "auto", (3, 4, 4)),
        ((5, 3, 4, 4), "auto", (3, 4, 4)),
        ((5, 64, 48, 5), "auto", (5, 64, 48)),
        ((5, 5, 64, 48), "auto", (5, 64, 48)),
        ((5, 60, 32, 32), "auto", (60, 32, 32)),
        ((5, 8, 8, 8), "HWC", (8, 8, 8)),
        ((5, 3, 20, 3), (20, 3), (3, 20, 3)),
        ((5, 3, 20, 3), (3, 20), (3, 3, 20)),
        ((5, 64), "auto", (1, 8, 8)),
        ((5, 12), (3, 4), (1, 3, 4)),
        ((5, 12 * 12 * 3), (12, 12, 3), (3, 12, 12)),
        ((5, 12 * 12 * 3), (3, 12, 12), (3, 12, 12)),
        ((5, 12), (2, 2, 3), (3, 2, 2)),
    ],
)
def test_layouts(shape, image_shape, expected):
    assert read(pixels(shape), image_shape=image_shape).shape == expected


def test_all_layouts_hold_the_same_pixels():
    images = pixels((6, 10, 12, 3))
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    index = torch.tensor([4, 0, 3])
    for X, image_shape in [
        (images, "auto"),
        (images.transpose(0, 3, 1, 2), "auto"),
        (np.ascontiguousarray(images.transpose(0, 3, 1, 2)), (3, 10, 12)),
        (images.reshape(6, -1), (10, 12, 3)),
        (images.transpose(0, 3, 1, 2).reshape(6, -1), (3, 10, 12)),
        (torch.from_numpy(images), "HWC"),
        (list(images), "auto"),
        (pd.Series(list(images)), "auto"),
        (pd.DataFrame({"image": list(images)}), "auto"),
        (images[:, ::-1][:, ::-1], "auto"),
    ]:
        source = read(X, image_shape=image_shape)
        assert len(source) == 6
        assert torch.equal(source.take(index), expected[index])
        assert torch.equal(source.take(slice(1, 3)), expected[1:3])


def test_one_row_of_pixels_warns():
    with pytest.warns(UserWarning, match=r"12 features.*one pixel high.*image_shape=\(height, width\)"):
        assert read(pixels((5, 12))).shape == (1, 1, 12)


@pytest.mark.parametrize(
    ("X", "image_shape", "message"),
    [
        (pixels((4, 192)), "auto", r"192 = 3 x 8 x 8.*image_shape=\(8, 8, 3\).*image_shape=\(3, 8, 8\)"),
        (pixels((4, 64)), (8, 9), r"image_shape=\(8, 9\) has 72 numbers, but X has 64 features"),
        (pixels((4, 64)), "HWC", r"image_shape='HWC' gives no height"),
        (pixels((4, 27)), (3, 3, 3), "Ambiguous.*'HWC'"),
        (pixels((4, 3, 3, 3)), "auto", "Ambiguous.*'HWC'"),
        (pixels((4, 8, 8, 8)), "auto", "Ambiguous.*'HWC'"),
        (pixels((4, 8, 8, 8)), (8, 8), "Ambiguous.*'CHW'"),
        (pixels((4, 3, 20, 3)), "auto", "Ambiguous"),
        (pixels((4, 3, 3, 5)), "auto", "Ambiguous"),
        (pixels((4, 20, 20, 3)), (20, 21), r"image_shape=\(20, 21\)"),
        (pixels((4, 20, 20, 3)), (3, 20, 20), r"image_shape=\(3, 20, 20\)"),
        (pixels((4, 20, 20)), "HWC", "three axes"),
        (pixels((4, 20, 20)), (20, 21), r"\(20, 20\)"),
        (pixels((480, 640, 3)), "auto", r"one colour image.*X\[None\]"),
        (pixels((3, 40, 50)), "auto", r"one colour image.*X\[None\].*image_shape=\(40, 50\) for 3 grey"),
        (pixels((4, 2, 3, 4, 5)), "auto", r"must have shape"),
        (pixels((4, 0, 8)), "auto", "without pixels"),
        (np.full((4, 8, 8), 0.25), "auto", "constant: every pixel is 0.25"),
    ],
)
def test_refused_shapes(X, image_shape, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        read(X, image_shape=image_shape)


@pytest.mark.parametrize(
    "X",
    [
        np.array([[-1.7e308, 0.0, 1.7e308]]),
        np.array([[-3.4e38, 0.0, 3.4e38]], dtype=np.float32),
        np.array([[-1e-310, 0.0, 1e-310]]),
        np.array([[-1e-40, 0.0, 1e-40]], dtype=np.float32),
    ],
    ids=["huge", "huge float32", "subnormal", "subnormal float32"],
)
def test_ranges_at_the_ends_of_the_numbers(X):
    source = image_source(X, image_format(X, image_shape=(1, 3)))
    found = source.take(slice(None)).flatten()
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0], rtol=1e-6)


def test_mixed_sizes_name_the_row():
    X = [pixels((8, 8, 3)), pixels((8, 8, 3)), pixels((8, 9, 3))]
    for rows in (X, pd.Series(X)):
        with pytest.raises(ValueError, match=r"row 0 of X has shape \(8, 8, 3\), row 2 has \(8, 9, 3\)"):
            read(rows)


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (pixels((3, 4, 5)), (0, 255)),
        (257 * pixels((3, 4, 5), np.uint16), (0, 65535)),
        (pixels((3, 4, 5)) > 99, (0, 1)),
        (pixels((3, 4, 5)) / 255.0, (0, 1)),
        ((pixels((3, 4, 5)) / 255.0).astype(np.float16), (0, 1)),
        (pixels((3, 4, 5)) / 16.0, None),
        (pixels((3, 4, 5), np.int64) - 100, None),
        (pixels((3, 4, 5), np.float32) * -1e6, None),
    ],
)
def test_pixel_ranges(X, expected):
    fmt = image_format(X)
    low, high = (float(X.min()), float(X.max())) if expected is None else expected
    assert fmt.pixel_range == (low, high)
    batch = image_source(X, fmt).take(torch.arange(3))
    values = batch / 255 if batch.dtype == torch.uint8 else batch
    scaled = (X.astype(np.float64) - low) / (high - low)
    np.testing.assert_allclose(values[:, 0].numpy(), scaled, atol=1e-6)


def test_uint8_stays_uint8_and_shares_memory():
    X = pixels((3, 6, 7, 3))
    source = read(X)
    assert source.take(torch.arange(3)).dtype == torch.uint8
    assert source.pixels.data_ptr() == X.ctypes.data
    big = 257 * pixels((3, 4, 5), np.uint16)
    assert read(big).pixels.data_ptr() == big.ctypes.data


def test_sixteen_bits_keep_their_precision():
    X = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256).repeat(2, axis=0)
    values = read(X).take(torch.tensor([1]))
    assert len(torch.unique(values)) == 65536


def test_offset_float64_keeps_its_precision():
    X = 1e9 + np.linspace(0, 1, 2 * 64).reshape(2, 8, 8)
    values = read(X).take(torch.arange(2)).numpy().reshape(-1)
    np.testing.assert_allclose(values, np.linspace(0, 1, 128), atol=2e-7)


@pytest.mark.parametrize("dtype", [">u2", ">f4", "<i8", np.int8, np.uint32, np.longdouble, np.float16])
def test_unusual_dtypes_and_byte_orders(dtype):
    X = (pixels((3, 6, 6)) // 3).astype(dtype)
    expected = read(X.astype(np.float64), pixel_range=(0, 85)).take(torch.arange(3))
    torch.testing.assert_close(
        read(X, pixel_range=(0, 85)).take(torch.arange(3)), expected, atol=1e-6, rtol=0
    )


@pytest.mark.skipif(np.finfo(np.longdouble).max <= np.finfo(np.float64).max, reason="long double is float64")
def test_numbers_beyond_float64_are_refused_by_row():
    images = list(pixels((3, 8, 8)).astype(np.longdouble))
    images[1][2, 3] = np.longdouble("1e400")
    X = np.stack(images)
    masked = np.ma.masked_equal(X, X[0, 0, 0])
    mixed = [np.ones((9, 8)), *images]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given, row in (
            (X, 1),
            (images, 1),
            (X.reshape(3, 64), 1),
            (masked, 1),
            (mixed, 2),
            (X.tolist(), 1),
        ):
            with pytest.raises(ValueError, match=rf"Row {row} of X has a number of .*1\.8e308"):
                PixelTransformer(image_size=8).fit(given)
        with pytest.raises(ValueError, match=r"Row 1 of X.*1\.8e308"):
            read(X)
        masked = np.ma.masked_greater(X, 1e300)
        assert np.isfinite(PixelTransformer().fit_transform(masked)).all()


def test_read_only_arrays_are_accepted_in_silence():
    X = pixels((3, 6, 6))
    X.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(X).take(torch.arange(2))


def test_other_data_is_clipped_to_the_fitted_range_with_one_warning():
    X = pixels((4, 6, 6)) / 8.0
    fmt = image_format(X)
    with pytest.warns(UserWarning, match=r"outside of the pixel range.*clipped") as record:
        source = image_source(X * 2, fmt, fitted=True)
    assert len(record) == 1
    assert source.take(torch.arange(4)).amax() == 1.0
    with pytest.warns(UserWarning, match="almost black"):
        image_source(pixels((4, 6, 6)) / 255.0, image_format(pixels((4, 6, 6))), fitted=True)


@pytest.mark.parametrize("pixel_range", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
def test_bad_pixel_range(pixel_range):
    with pytest.raises(ValueError, match="pixel_range must be .* with low < high"):
        read(pixels((3, 4, 5)), pixel_range=pixel_range)


def test_other_shape_than_in_fit():
    fmt = image_format(pixels((4, 8, 8, 3)))
    for shape in [(4, 8, 9, 3), (4, 8, 8, 1), (4, 3, 8, 8), (4, 8, 8), (4, 192)]:
        with pytest.raises(ValueError, match=r"images of shape \(8, 8, 3\) were seen in fit"):
            image_source(pixels(shape), fmt)
    with pytest.raises(ValueError, match="64 features were seen in fit"):
        image_source(pixels((4, 8)), image_format(pixels((4, 64))))


@settings(max_examples=150, deadline=None)
@given(
    X=npst.arrays(
        dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64, np.bool_]),
        shape=npst.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=9),
    )
)
def test_any_array_is_read_or_refused(X):
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        X = np.nan_to_num(X, nan=0.0, posinf=1.0, neginf=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            source = read(X)
        except ValueError:
            return
    batch = source.take(torch.arange(len(X)))
    assert batch.shape == (len(X), *source.shape)
    assert batch.numel() == X.size
    assert batch.dtype == torch.uint8 or (batch.amin() >= 0 and batch.amax() <= 1)


def test_images_of_bools_take_a_byte_a_pixel():
    X = pixels((9, 6, 5)) > 127
    source = image_source(X, image_format(X))
    assert source.pixels.dtype == source.take(slice(0, 9)).dtype == torch.uint8
    assert np.array_equal(source.take(slice(0, 9))[:, 0], 255 * X)


def test_chosen_rows_are_those_of_the_array():
    for dtype in (np.uint8, np.uint16, np.float32):
        X = pixels((9, 6, 5, 3), dtype) * (257 if dtype is np.uint16 else 1)
        source = image_source(X, image_format(X))
        rows = np.array([7, 0, 7, 3, 8])
        chosen = source.select(rows).select([4, 1, 0])
        expected = source.take(torch.tensor([8, 0, 7]))
        assert len(chosen) == 3 and chosen.shape == source.shape
        assert torch.equal(chosen.take(slice(0, 3)), expected)
        assert torch.equal(chosen.take(torch.tensor([1])), expected[1:2])
        assert chosen.nbytes == expected.nbytes
        assert torch.equal(chosen.pixels[0:2], torch.stack([source.pixels[8], source.pixels[0]]))


def test_bad_images_have_a_place_until_they_are_left_out():
    decoded = pixels((3, 4, 5, 1))
    fmt = decoded_format(decoded)
    source = decoded_source(decoded, fmt, np.array([2, 0]), bad=[0, 2])
    assert len(source) == 4 and source.bad.tolist() == [0, 2]
    assert source.select([1, 2]).bad.tolist() == [1]
    good = source.without_bad()
    assert good.bad.size == 0 and good.without_bad() is good
    expected = torch.from_numpy(decoded[[2, 0]]).permute(0, 3, 1, 2)
    assert torch.equal(good.take(slice(0, 2)), expected)
    assert torch.equal(source.take(torch.tensor([1, 3])), expected)
    assert len(decoded_source(decoded[:0], fmt, bad=[0, 1])) == 2


def test_decoded_images_know_their_axes():
    assert decoded_format(pixels((3, 7, 7, 7))).shape == (7, 7, 7)
    assert decoded_format(pixels((3, 6, 5, 1))).image_shape == (6, 5)
    for shape in ((6, 5), (6, 5, 3), (3, 6, 5), "CHW"):
        assert decoded_format(pixels((3, 6, 5, 3)), image_shape=shape).image_shape == (6, 5, 3)
    with pytest.raises(ValueError, match=r"image_shape=\(5, 6\).*height 6, width 5.*image_size=\(5, 6\)"):
        decoded_format(pixels((3, 6, 5, 3)), image_shape=(5, 6))
    with pytest.raises(ValueError, match=r"image_shape=\(3, 8, 9\).*image_size=\(8, 9\)"):
        decoded_format(pixels((3, 6, 5, 3)), image_shape=(3, 8, 9))
    with pytest.raises(ValueError, match="constant"):
        decoded_format(
            np.concatenate([pixels((1, 4, 4, 3)), np.full((2, 4, 4, 3), 9, np.uint8)]), np.array([1, 2])
        )


def test_decoded_images_on_the_scale_of_arrays():
    X = pixels((5, 4, 4, 3))
    fmt = image_format(X / 255.0)
    found = decoded_source(X, fmt, fitted=True).take(slice(0, 5))
    torch.testing.assert_close(as_float(found), image_source(X / 255.0, fmt).take(slice(0, 5)))


def test_memory_maps_stay_where_they_are(tmp_path):
    psutil = pytest.importorskip("psutil")
    path = tmp_path / "images"
    with open(path, "wb") as file:
        file.truncate(4 << 30)
        file.seek(0)
        file.write(pixels((1, 32, 32, 3)).tobytes())
    X = np.memmap(path, dtype=np.uint8, mode="r", shape=((4 << 30) // 3072, 32, 32, 3))
    reader = SimCLRTransformer()
    before = psutil.Process().memory_info().rss
    source = reader._read_images(X, reset=True)
    again = reader._read_images(X, reset=False)
    assert psutil.Process().memory_info().rss - before < 100 << 20
    assert source.file is not None and again.file is not None
    rows = [0, len(X) - 1, 5000]
    np.testing.assert_array_equal(source.take(torch.tensor(rows)).permute(0, 2, 3, 1), X[rows])
    assert image_source(X[:2].copy(), image_format(X)).file is None


def test_a_table_of_nullable_bytes_has_the_range_of_bytes():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(pixels((10, 64)), columns=[f"p{i}" for i in range(64)])
    reader = SimCLRTransformer()
    expected = reader._read_images(table, reset=True)
    source = reader._read_images(table.astype("UInt8"), reset=True)
    assert source.pixel_range == expected.pixel_range == (0.0, 255.0)
    assert torch.equal(source.take(slice(0, 10)), expected.take(slice(0, 10)))
    assert reader.feature_names_in_.tolist() == table.columns.tolist()
    table = table.astype("UInt8")
    table.iloc[3, 5] = pd.NA
    with pytest.raises(ValueError, match="NaN: row 3"):
        reader._read_images(table, reset=True)


def test_a_range_that_the_pixels_do_not_fill():
    X = pixels((10, 8, 8))
    reader = SimCLRTransformer(pixel_range=(0, 65535))
    with pytest.warns(UserWarning, match="next to no contrast"):
        reader._read_images(X, reset=True)
    reader.set_params(pixel_range=(0, 1000))
    reader._read_images(X, reset=True)
    masks, twelve_bits = (X > 99).astype(np.uint8), X.astype(np.uint16) * 16
    for images, top in ((masks, 1), (twelve_bits, twelve_bits.max())):
        with pytest.warns(UserWarning, match=rf"hardly any contrast\. Pass pixel_range=\(0, {top}\)"):
            SimCLRTransformer()._read_images(images, reset=True)


@pytest.mark.parametrize("rows, number", [(["image", None], 1), ([7, "image"], 0)])
def test_what_is_no_image_among_arrays_is_named(rows, number):
    X = [pixels((8, 8)) if row == "image" else row for row in rows]
    with pytest.raises(ValueError, match=f"Row {number} of X is {rows[number]}, not an image"):
        SimCLRTransformer()._read_images(X, reset=True)


def test_all_rows_of_an_array_are_that_array_and_others_are_not():
    whole = np.arange(3 * 4 * 4).reshape(3, 4, 4).copy()
    assert as_array(list(whole)) is whole
    for rows in ([*whole[:2]], [whole[1], whole[0], whole[2]], [row.T for row in whole], [whole[0]] * 3):
        found = as_array(rows)
        assert found is not whole
        np.testing.assert_array_equal(found, np.array(rows))
    turned = as_array([whole.astype(np.int32)[k][:, ::-1] for k in range(3)])
    np.testing.assert_array_equal(turned, whole[:, :, ::-1])
