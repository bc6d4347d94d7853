"""The size that images are brought to: chosen, given, and the same for files and arrays."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_simclr import (
    AugmentationDisplay,
    AutoencoderTransformer,
    DistilledClassifier,
    EmbeddingDisplay,
    HOGTransformer,
    PACBayesContrastiveTransformer,
    PixelTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    SimilarityDisplay,
    SupervisedTransformer,
    WeightedKNNClassifier,
    label_fraction_curve,
    load_estimator,
    load_images,
    representation_report,
    save_estimator,
    transfer_evaluation,
)
from sklearn_simclr.images import reading, threads
from sklearn_simclr.images.layout import layout_of_mixed
from sklearn_simclr.images.reading import read_rows
from sklearn_simclr.images.resizing import resize_array, resize_images
from sklearn_simclr.images.sizes import Target, check_image_size, choose_target

UNTRAINED = {"encoder": "compactx0.5", "max_epochs": 0, "random_state": 0, "device": "cpu"}


def photographs(sizes, seed=0):
    """Smooth colour images of these heights and widths, uint8."""
    rng = np.random.default_rng(seed)
    images = []
    for height, width in sizes:
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        images.append(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))
    return images


def written(folder, images, name="PNG", **options):
    folder.mkdir(exist_ok=True)
    paths = []
    for i, image in enumerate(images):
        paths.append(str(folder / f"{i}.{name.lower()}"))
        Image.fromarray(image).save(paths[-1], name, **options)
    return paths


# The size that is chosen


@pytest.mark.parametrize(
    ("sizes", "side", "expected"),
    [
        ([(32, 32)] * 3, 96, (32, 32)),
        ([(40, 200)] * 3, 96, (40, 200)),
        ([(96, 96)] * 3, 96, (96, 96)),
        ([(400, 533)] * 3, 96, (96, 96)),
        ([(600, 400)] * 3, 96, (96, 96)),
        ([(400, 800)] * 3, 96, (68, 136)),
        ([(800, 400)] * 3, 96, (136, 68)),
        ([(400, 800), (800, 400), (300, 600)], 96, (68, 136)),
        ([(500, 480), (300, 310)], 96, (96, 96)),
        ([(50, 50), (60, 60), (40, 40)], 96, (48, 48)),
        ([(7, 7), (9, 9), (8, 8)], 96, (8, 8)),
        ([(1, 5000), (1, 6000)], 96, (1, 5224)),
        ([(4000, 8000)], 128, (92, 180)),
        ([(64, 64)] * 2, 32, (32, 32)),
    ],
)
def test_the_size_that_is_chosen(sizes, side, expected):
    assert choose_target(sizes, side) == (*expected, True)


def test_the_chosen_area_and_aspect_ratio():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(150, 4000, (rng.integers(2, 30), 2))
        height, width, _ = choose_target(sizes)
        aspect = np.median(sizes[:, 0] / sizes[:, 1])
        aspect = 1.0 if 2 / 3 <= aspect <= 3 / 2 else aspect
        boxes = [min(h, w * aspect) for h, w in sizes]
        side = min(96, np.median(boxes) / math.sqrt(aspect))
        assert abs(height / side - math.sqrt(aspect)) < 0.1 * math.sqrt(aspect)
        assert abs(height * width / side**2 - 1) < 0.15


@pytest.mark.parametrize("crop", [True, False])
def test_the_box_is_the_largest_centred_one(crop):
    rng = np.random.default_rng(0)
    for height, width, to_height, to_width in rng.integers(1, 200, (200, 4)).tolist():
        left, top, right, bottom = Target(to_height, to_width, crop).box(height, width)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert left + right == pytest.approx(width) and top + bottom == pytest.approx(height)
        assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)
        if crop:
            assert (bottom - top) / (right - left) == pytest.approx(to_height / to_width)
        else:
            assert (right - left, bottom - top) == (width, height)


def test_image_size_in_words():
    assert check_image_size(None) is None and check_image_size("auto") == "auto"
    assert check_image_size(np.int64(8)) == (8, 8, True) and check_image_size([8, 9]) == (8, 9, False)
    for wrong in ("large", 0, (8,), (1, 2, 3), (4.5, 4), (), 2**15, {8, 9}):
        with pytest.raises(ValueError, match="image_size must be 'auto'"):
            check_image_size(wrong)


def test_sizes_are_read_from_the_heads_of_files(tmp_path, monkeypatch):
    images = photographs([(200, 400)] * 12)
    paths = written(tmp_path / "a", images, "JPEG")
    lying = written(
        tmp_path / "b",
        images[:5],
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    )
    decoded = []
    monkeypatch.setattr(reading, "decoded", lambda *args: decoded.append(args[2]) or iter(()))
    opened = [Image.open(path) for path in paths]
    for rows, expected in [
        (paths, (68, 136)),
        (lying, (136, 68)),
        (paths + lying[:2] + [str(tmp_path), "missing.png", b"", b"no image"], (68, 136)),
        ([Path(path).read_bytes() for path in lying], (136, 68)),
        (opened, (68, 136)),
        ([{"image": image} for image in opened], (68, 136)),
        (images, (68, 136)),
        ([str(tmp_path)], None),
    ]:
        read_rows(rows, image_size="auto", on_error="nan")
        assert decoded.pop() == (None if expected is None else (*expected, True))
    for image in opened:
        assert not hasattr(image, "_im") or image._im is None
        image.close()


def test_few_of_many_files_and_of_the_items_of_a_dataset_are_looked_at(monkeypatch):
    class Items:
        asked = ()

        def __len__(self):
            return 500

        def __getitem__(self, index):
            self.asked = (*self.asked, index)
            return Image.new("L", (100 + index % 3, 200), index % 256), 0

    from sklearn_simclr.images.items import as_rows

    items = Items()
    assert read_rows(as_rows(items), image_size="auto").pixels.shape == (500, 136, 68, 1)
    # as_rows looks at the first, twice.
    assert len(items.asked) == 2 + 32 + 500 and items.asked[2] == 0 and items.asked[33] == 499
    looked_at = []
    monkeypatch.setattr(reading, "_size", lambda item: looked_at.append(item))
    read_rows([Image.new("L", (9, 9))] * 3000, image_size="auto")
    assert len(looked_at) == 1000


# Fit and transform


def test_files_of_any_size_are_brought_to_the_size_of_fit(tmp_path):
    images = photographs([(300, 400), (280, 400), (400, 300), (150, 200)])
    paths = written(tmp_path / "train", images)
    others = photographs([(700, 200), (20, 30), (84, 112)], seed=1)
    simclr = SimCLRTransformer(**UNTRAINED).fit(paths)
    assert simclr.image_shape_ == (96, 96, 3) and simclr.n_features_in_ == 96 * 96 * 3
    resized = np.stack([resize_array(image, Target(96, 96, crop=True)) for image in images + others])
    np.testing.assert_array_equal(resized[:4], load_images(paths))
    expected = SimCLRTransformer(**UNTRAINED).fit(resized[:4]).transform(resized)
    found = simclr.transform([*paths, *written(tmp_path / "test", others)])
    np.testing.assert_array_equal(found, expected)
    # One image alone, of any form: its own size says nothing.
    for form in (
        [Image.fromarray(others[0])],
        [others[0]],
        others[0][None],
        written(tmp_path / "one", others[:1]),
        pd.DataFrame({"image": written(tmp_path / "one", others[:1])}),
    ):
        np.testing.assert_array_equal(simclr.transform(form), expected[4:5])
    # Another transform, another size: a fitted size is not chosen again.
    assert simclr.partial_fit(written(tmp_path / "test", others)).image_shape_ == (96, 96, 3)
    assert 0 <= simclr.score(written(tmp_path / "test", others)) <= 1
    save_estimator(simclr, tmp_path / "simclr.safetensors")
    loaded = load_estimator(tmp_path / "simclr.safetensors")
    np.testing.assert_array_equal(loaded.transform(paths), simclr.transform(paths))


def test_small_images_of_one_size_stay_as_they_are(tmp_path):
    images = photographs([(24, 32)] * 4)
    simclr = SimCLRTransformer(**UNTRAINED).fit(written(tmp_path, images))
    np.testing.assert_array_equal(
        simclr.transform([str(tmp_path / "0.png")]), simclr.transform(np.stack(images))[:1]
    )
    assert simclr.image_shape_ == (24, 32, 3)


def test_decoded_files_in_a_folder_are_known_by_the_size_they_got(tmp_path, monkeypatch):
    paths = written(tmp_path / "a", photographs([(120, 160), (160, 120), (130, 170)]))
    read = {
        image_size: load_images(paths, image_size, cache_dir=tmp_path / "cache")
        for image_size in ("auto", 32, (32, 40), (84, 112), 32, "auto")
    }
    for image_size, found in read.items():
        np.testing.assert_array_equal(found, load_images(paths, image_size))
    # A second reading finds them there.
    monkeypatch.setattr(threads, "decode", None)
    np.testing.assert_array_equal(load_images(paths, 32, cache_dir=tmp_path / "cache"), read[32])


# Arrays


def naive(array, target):
    """Resize in float64 by the weights of a triangle, as wide as a pixel of the result."""
    left, top, right, bottom = target.box(*array.shape[:2])

    def weights(n, to, start, end):
        scale = (end - start) / to
        rows = np.zeros((to, n))
        for i in range(to):
            centre = start + (i + 0.5) * scale
            for j in range(n):
                rows[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / max(scale, 1.0))
        return rows / rows.sum(axis=1, keepdims=True)

    down = weights(array.shape[0], target.height, top, bottom)
    across = weights(array.shape[1], target.width, left, right)
    return np.einsum("ih,hwc,jw->ijc", down, array.astype(np.float64), across)


@pytest.mark.parametrize("target", [Target(7, 5, True), Target(7, 5, False), Target(33, 30, True)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.int64, np.float16, np.float32, np.float64, ">f8", ">u2"]
)
def test_arrays_are_resized_as_a_naive_reference_does(target, channels, dtype):
    rng = np.random.default_rng(0)
    array = (rng.random((21, 26, channels)) * 200).astype(dtype)
    found = resize_array(array, target)
    assert found.dtype == (np.float64 if dtype == np.int64 else np.dtype(dtype))
    whole = np.dtype(dtype).kind in "iu"
    tolerance = 1.01 if dtype == np.uint8 else 0.51 if whole else 0.1 if dtype == np.float16 else 1e-3
    np.testing.assert_allclose(found.astype(float), naive(array, target), atol=tolerance)


def test_numbers_of_any_size_are_resized():
    rng = np.random.default_rng(0)
    unit = rng.random((20, 20, 1))
    target = Target(6, 6, True)
    expected = naive(unit, target)
    for offset, factor in [(1e9, 1.0), (-1e6, 1e-3), (0.0, 1e300), (0.0, 1e-300)]:
        found = resize_array(unit * factor + offset, target)
        np.testing.assert_allclose((found - offset) / factor, expected, atol=1e-3)
    extreme = np.where(unit < 0.5, -np.finfo(float).max, np.finfo(float).max)
    assert np.isfinite(resize_array(extreme, target)).all()
    huge = np.full((9, 9, 1), np.iinfo(np.uint64).max, dtype=np.uint64)
    assert resize_array(huge, target).min() > 2**63
    np.testing.assert_array_equal(resize_array(np.full((9, 9, 2), 3.5), target), 3.5)


def test_a_size_that_is_given_holds_for_arrays_as_for_files(tmp_path):
    images = photographs([(40, 60)] * 5)
    paths, array = written(tmp_path, images), np.stack(images)
    grey = array[..., 0].copy()
    for image_size in (16, (20, 24), [20, 24]):
        by_path = SimCLRTransformer(image_size=image_size, **UNTRAINED).fit(paths)
        by_array = SimCLRTransformer(image_size=image_size, **UNTRAINED).fit(array)
        assert by_path.image_shape_ == by_array.image_shape_ == (*check_image_size(image_size)[:2], 3)
        expected = by_path.transform(paths)
        np.testing.assert_array_equal(by_array.transform(array), expected)
        np.testing.assert_array_equal(by_array.transform(paths), expected)
        np.testing.assert_array_equal(by_path.transform(array), expected)
        np.testing.assert_array_equal(by_path.transform(torch.from_numpy(array)), expected)
        # Another size than in fit.
        other = photographs([(70, 50)], seed=2)
        np.testing.assert_array_equal(
            by_array.transform(np.stack(other)), by_array.transform(written(tmp_path / "other", other))
        )
    first = SimCLRTransformer(image_size=16, **UNTRAINED).fit(array.transpose(0, 3, 1, 2))
    assert first.image_shape_ == (3, 16, 16)
    np.testing.assert_array_equal(
        first.transform(array.transpose(0, 3, 1, 2)),
        SimCLRTransformer(image_size=16, **UNTRAINED).fit_transform(array),
    )
    expected = PixelTransformer(image_size=16).fit_transform(grey)
    table = pd.DataFrame(grey.reshape(5, -1)).rename(columns=str)
    flat = PixelTransformer(image_size=16, image_shape=(40, 60)).fit(table)
    np.testing.assert_array_equal(flat.transform(table), expected)
    assert (
        flat.n_features_in_ == 2400 and flat.image_shape_ == (16, 16) and len(flat.feature_names_in_) == 2400
    )
    np.testing.assert_allclose(
        PixelTransformer(image_size=16).fit_transform(grey / 255.0), expected, atol=1.1 / 255
    )
    mask = PixelTransformer(image_size=16).fit_transform(grey > 128)
    np.testing.assert_allclose(
        mask, PixelTransformer(image_size=16).fit_transform((grey > 128) * np.uint8(255))
    )


def test_arrays_of_the_size_that_is_given_are_not_touched():
    X = np.random.default_rng(0).random((6, 64))
    for image_size in (8, (8, 8), "auto"):
        pixel = PixelTransformer(image_size=image_size).fit(X)
        np.testing.assert_allclose(pixel.transform(X), X, atol=1e-6)
        assert pixel._format.flat


def test_what_cannot_be_resized_is_refused():
    color = np.random.default_rng(0).random((4, 192))
    with pytest.raises(ValueError, match="order of their axes is unknown"):
        PixelTransformer(image_size=4).fit(color)
    flat = PixelTransformer(image_size=4, image_shape=(8, 8, 3)).fit(color)
    with pytest.raises(ValueError, match="75 features.*192 features"):
        flat.transform(color[:, :75])
    images = PixelTransformer(image_size=4).fit(color.reshape(-1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"shape \(9, 9, 2\).*\(4, 4, 3\)"):
        images.transform(np.ones((1, 9, 9, 2)))
    with pytest.raises(ValueError, match=r"shape \(9, 9\).*\(4, 4, 3\)"):
        images.transform(np.ones((1, 9, 9)))
    with pytest.raises(ValueError, match="NaN: row 1"):
        images.transform([np.ones((9, 9, 3)), np.full((7, 9, 3), np.nan)])
    as_they_are = PixelTransformer().fit(color.reshape(-1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"shape \(9, 9, 3\).*\(8, 8, 3\).*image_size=\(8, 8\)"):
        as_they_are.transform(np.ones((1, 9, 9, 3)))


def test_lists_of_arrays_of_mixed_sizes():
    images = photographs([(60, 80), (60, 90), (40, 40), (200, 300)])
    pixel = PixelTransformer(image_size="auto").fit(images)
    target = choose_target([image.shape[:2] for image in images], 32)
    assert pixel.image_shape_ == (*target[:2], 3)
    expected = np.stack([resize_array(image, target) for image in images])
    expected = expected.transpose(0, 3, 1, 2).reshape(4, -1) / 255
    np.testing.assert_allclose(pixel.transform(images), expected, atol=1e-6)
    np.testing.assert_allclose(pixel.transform(images[2:3]), expected[2:3], atol=1e-6)
    first = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in images]
    by_tensor = PixelTransformer().fit(first)
    assert by_tensor.image_shape_ == (3, *target[:2])
    assert PixelTransformer(image_size=(8, 9)).fit(pd.Series(images)).image_shape_ == (8, 9, 3)
    with pytest.raises(ValueError, match="mixed sizes.*row 1.*image_size='auto'"):
        PixelTransformer(image_size=None).fit(images)
    with pytest.raises(ValueError, match="mixed kinds.*row 1"):
        PixelTransformer().fit([images[0], images[1][:, :, :2]])
    with pytest.raises(ValueError, match="Ambiguous.*image_shape='HWC'"):
        PixelTransformer().fit([np.ones((5, 6, 5)), np.ones((7, 6, 7))])
    assert layout_of_mixed([(5, 6, 5), (7, 6, 5)], "HWC") == "HWC"


def test_arrays_of_mixed_dtypes_get_one():
    found = resize_images([np.ones((4, 4), np.uint8), np.full((6, 6), 0.5)], "HW", Target(3, 3, True))
    assert found.dtype == np.float64 and found[1, 0, 0] == 0.5


# Every estimator


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Paths of 48 photographs of three sizes and two classes, and their classes."""
    folder = tmp_path_factory.mktemp("study")
    y = np.arange(48) % 2
    images = photographs([((120, 160), (130, 160), (240, 320))[i % 3] for i in range(48)])
    images = [
        np.clip(image * 0.6 + 80 * label, 0, 255).astype(np.uint8)
        for image, label in zip(images, y, strict=True)
    ]
    return written(folder, images), y


TINY = {"max_epochs": 1, "random_state": 0, "device": "cpu"}


@pytest.mark.parametrize(
    "estimator",
    [
        PixelTransformer(),
        HOGTransformer(),
        SimCLRTransformer("compactx0.5", **TINY),
        AutoencoderTransformer("compactx0.5", **TINY),
        SupervisedTransformer("compactx0.5", **TINY),
        SimCLRClassifier(SimCLRTransformer("compactx0.5", **TINY), **TINY),
        DistilledClassifier(
            make_pipeline(PixelTransformer(), LogisticRegression()),
            SimCLRTransformer("compactx0.5"),
            **TINY,
        ),
        PACBayesContrastiveTransformer(n_posterior_samples=2, **TINY),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_every_estimator_takes_files_of_mixed_sizes(study, estimator):
    paths, y = study
    side = getattr(estimator, "_auto_side", 96)
    size = choose_target([(120, 160), (130, 160), (240, 320)], side)[:2]
    estimator.fit(paths, y)
    assert estimator.image_shape_ == (*size, 3)
    method = "predict_proba" if hasattr(estimator, "predict_proba") else "transform"
    assert len(getattr(estimator, method)([*paths[:2], Image.new("RGB", (50, 500), (9, 99, 9))])) == 3


def test_classifiers_by_themselves_take_files(study):
    paths, y = study
    assert SimCLRClassifier()._reading().image_size == "auto"
    fitted = (
        SimCLRClassifier(max_epochs=0).set_params(pretrained=SimCLRTransformer(**UNTRAINED)).fit(paths, y)
    )
    assert fitted.image_shape_ == (96, 96, 3)
    teacher = make_pipeline(PixelTransformer(), LogisticRegression()).fit(paths, y)
    assert DistilledClassifier(teacher, max_epochs=0, random_state=0).fit(paths).image_shape_ == (96, 96, 3)


@pytest.mark.filterwarnings("ignore:.* images cannot be read")
@pytest.mark.parametrize("pairs", ["labels", "views"])
def test_pac_bayes_leaves_out_what_cannot_be_read(study, tmp_path, pairs):
    paths, y = study
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows, labels = [paths[0], str(tmp_path / "bad.png"), *paths[1:8]], [y[0], 0, *y[1:8]]
    settings = {
        "pairs": pairs,
        "n_posterior_samples": 2,
        "max_epochs": 0,
        "random_state": 0,
        "image_size": 16,
    }
    with pytest.warns(UserWarning, match="1 of 9 images cannot be read"):
        model = PACBayesContrastiveTransformer(on_error="nan", **settings).fit(rows, labels)
    assert not np.isin(1, model.tuples_.anchor) and model.tuples_.anchor.max() == 8
    assert not np.isin(1, model.tuples_.positive) and not np.isin(1, model.tuples_.negative)
    found = model.transform(rows)
    assert np.isnan(found[1]).all() and np.isfinite(np.delete(found, 1, axis=0)).all()
    assert 0 <= model.score(rows, labels) <= 1
    if pairs == "views":  # other numbers are drawn for one image more
        return
    without = PACBayesContrastiveTransformer(**settings).fit(paths[:8], y[:8])
    assert model.score(rows, labels) == without.score(paths[:8], y[:8])


@pytest.mark.filterwarnings("ignore:.* images cannot be read")
def test_hog_and_pixels_give_rows_of_nan(study, tmp_path):
    paths, _ = study
    (tmp_path / "bad.png").write_bytes(b"no image")
    for estimator in (
        HOGTransformer(on_error="nan"),
        PixelTransformer(on_error="nan", cache_dir=tmp_path / "c"),
    ):
        found = estimator.fit_transform([*paths[:3], str(tmp_path / "bad.png")])
        assert np.isnan(found[3]).all() and np.isfinite(found[:3]).all()


def test_a_label_fraction_study_on_files_is_the_one_on_their_array(study):
    paths, y = study
    encoder = SimCLRTransformer("compactx0.5", image_size=24, **TINY)
    estimators = {
        "simclr": make_pipeline(encoder, LogisticRegression()),
        "hog": make_pipeline(HOGTransformer(image_size=24), LogisticRegression()),
        "supervised": make_pipeline(
            SupervisedTransformer("compactx0.5", image_size=24, **TINY), LogisticRegression()
        ),
    }
    by_path, by_array = (
        label_fraction_curve(estimators, X, y, fractions=[0.2, 1.0], cv=2, random_state=0)
        for X in (paths, load_images(paths, image_size=24))
    )
    columns = [name for name in by_path if "time" not in name]
    pd.testing.assert_frame_equal(by_path[columns], by_array[columns])


def test_every_tool_takes_files(study):
    paths, y = study
    encoder = SimCLRTransformer(tiny, image_size=24, **TINY).fit(paths)
    array = load_images(paths, image_size=24)
    drawn = {"n_images": 4, "random_state": 0}

    def told(X):
        knn = make_pipeline(encoder, WeightedKNNClassifier()).fit(X[:32], y[:32])
        report = representation_report(encoder, X, y, random_state=0)
        transfer = transfer_evaluation(
            encoder,
            X[:32],
            y[:32],
            X_test=X[32:],
            y_test=y[32:],
            grid=[(0.1, 0.0)],
            n_steps=1,
            penalties=[1.0],
            random_state=0,
        )
        return [
            knn.predict_proba(X[32:]),
            transfer.scores["score"].to_numpy(),
            AugmentationDisplay.from_estimator(encoder, X, **drawn).views,
            AugmentationDisplay.from_augmentation(None, X, image_size=24, **drawn).views,
            EmbeddingDisplay.from_estimator(encoder, X, y, random_state=0).embedding,
            np.stack(list(SimilarityDisplay.from_estimator(encoder, X, **drawn).similarities.values())),
            np.array(list(report.values.values())),
        ]

    for by_path, by_array in zip(told(paths), told(array), strict=True):
        np.testing.assert_array_equal(by_path, by_array)
    plt.close("all")
    assert AugmentationDisplay.from_augmentation(None, paths, n_views=1).images.shape == (4, 96, 96, 3)


def test_load_images(study, tmp_path):
    paths, _ = study
    array = load_images(paths)
    assert array.shape == (48, 96, 96, 3) and array.dtype == np.uint8
    fitted = SimCLRTransformer(**UNTRAINED).fit(array)
    np.testing.assert_array_equal(
        fitted.transform(array), SimCLRTransformer(**UNTRAINED).fit(paths).transform(paths)
    )
    grey = written(tmp_path, [image[..., 0] for image in photographs([(40, 50)] * 3)])
    assert load_images(grey, None).shape == (3, 40, 50, 1)
    assert PixelTransformer().fit(load_images(grey)).image_shape_ == (40, 50, 1)
    with pytest.raises(ValueError, match=r"Pass a list"):
        load_images(paths[0])
    with pytest.raises(TypeError, match="paths must be a list of paths"):
        load_images(array)
    with pytest.raises(FileNotFoundError, match="missing.png': no such file"):
        load_images([str(tmp_path / "missing.png")])
    with pytest.raises(ValueError, match=r"no such file\nLeave these images out of paths\.$"):
        load_images([str(tmp_path / "missing.png")])


@pytest.mark.parametrize("size", [2, 0, True, (8, 3), "large"])
def test_sizes_that_show_nothing_are_refused(size):
    for fit in (PixelTransformer(image_size=size).fit, SimCLRTransformer(image_size=size).fit):
        with pytest.raises(
            ValueError, match=r"'image_size' parameter of .* must be .*, from 4 to 32767 \(.* Got"
        ):
            fit(np.zeros((4, 8, 8)))
