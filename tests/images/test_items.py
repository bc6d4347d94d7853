"""Items of datasets, columns of tables, and what holds images but has no rows."""

import collections
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from sklearn_simclr import PixelTransformer, image_rows, load_images
from sklearn_simclr.evaluation import label_fraction_curve

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
TENSORS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
FEATURES = np.sort(IMAGES.reshape(12, -1) / 255)


class Items(torch.utils.data.Dataset):
    """A dataset that never raises IndexError, as many in notebooks."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return self.item(int(i) % 12)


class Table(Items):
    """What is special about Hugging Face's datasets: a shape, and slices that are dicts of columns."""

    shape = (12, 2)

    def __getitem__(self, i):
        if np.ndim(i) > 0 or isinstance(i, slice):
            return {"image": [self.item(k)["image"] for k in np.arange(12)[i]]}
        return super().__getitem__(i)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(12)]


def same_pixels(X, **params):
    """Return whether X is read as the images, whatever the order of their axes."""
    found = np.sort(PixelTransformer(**params).fit_transform(X))
    return found.shape == FEATURES.shape and np.allclose(found, FEATURES, atol=1e-6)


@pytest.mark.parametrize(
    "item",
    [
        lambda i: TENSORS[i],
        lambda i: IMAGES[i],
        lambda i: (TENSORS[i],),
        lambda i: (TENSORS[i], i % 2),
        lambda i: [TENSORS[i], i % 2],
        lambda i: [Image.fromarray(IMAGES[i]), i % 2],
        lambda i: {"image": TENSORS[i], "label": i % 2},
        lambda i: {"image": TENSORS[i], "mask": TENSORS[i], "crs": "EPSG:32632", "bounds": (0, 1)},
        lambda i: {"img": IMAGES[i], "label": i % 2},
        lambda i: {"image": Image.fromarray(IMAGES[i]), "label": i % 2},
        lambda i: {"image": IMAGES[i].tolist(), "label": i % 2},
        lambda i: {"pixel_values": TENSORS[i], "labels": torch.tensor(i % 2)},
        lambda i: {"photo": TENSORS[i], "label": i % 2, "name": "a.png"},
        lambda i: collections.UserDict({"image": TENSORS[i], "label": i % 2}),
    ],
)
def test_items_of_datasets(item):
    for X in (Items(item), image_rows(Items(item)), [item(i) for i in range(12)]):
        assert same_pixels(X)


def test_items_with_paths(paths):
    for item in (lambda i: {"image": paths[i], "label": 0}, lambda i: (paths[i], 0)):
        for X in (Items(item), image_rows(Items(item)), [item(i) for i in range(12)]):
            np.testing.assert_array_equal(load_images(X), IMAGES)


@pytest.mark.parametrize(
    "X",
    [Table(lambda i: {"image": TENSORS[i], "label": 0}), Items(lambda i: {"image": TENSORS[i], "label": 0})],
)
def test_a_study_on_datasets(X):
    y = np.arange(12) % 2
    model = make_pipeline(PixelTransformer(), LogisticRegression())
    options = {"fractions": [1.0], "cv": 2, "random_state": 0, "error_score": "raise"}
    found, expected = (label_fraction_curve(model, rows, y, **options) for rows in (X, IMAGES))
    np.testing.assert_allclose(found["score"], expected["score"])
    cross_val_score(model, image_rows(X), y, cv=2, error_score="raise")


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (lambda i: {"a": TENSORS[i], "b": TENSORS[i]}, r"dict with the keys \['a', 'b'\]"),
        (lambda i: {"label": 1}, r"dict with the keys \['label'\]"),
        (lambda i: i, "int"),
        (lambda i: object(), "object"),
    ],
)
def test_datasets_without_images_end_and_are_named(item, kind):
    for X in (Items(item), image_rows(Items(item))):
        with pytest.raises(TypeError, match=f"of type Items, .* item 0, of type {kind}.*'image'"):
            PixelTransformer().fit(X)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(TENSORS)


class SizedStream(Stream):
    def __len__(self):
        return 12


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.utils.data.DataLoader(TENSORS), r"DataLoader, which gives batches.*X\.dataset"),
        ((image for image in IMAGES), r"generator.*list\(X\)"),
        (map(str, IMAGES), r"map.*list\(X\)"),
        ({"a.png", "b.png"}, r"set.*list\(X\)"),
        (Stream(), r"Stream.*list\(X\)"),
        (SizedStream(), r"SizedStream.*list\(X\)"),
        ([(i, image) for i, image in enumerate(IMAGES)], "Row 0 of X is a tuple of int, ndarray.*begin with"),
        ({"image": IMAGES, "label": 1}, r"dict with the keys \['image', 'label'\].*X\['image'\]"),
        ({"train": [], "test": []}, r"X\['train'\].*image_rows"),
        (Bunch(data=IMAGES, target=1), r"X\['data'\]"),
        (range(5), "of type range"),
    ],
)
def test_what_has_no_rows_is_refused_by_name(X, message):
    with pytest.raises(TypeError, match=message):
        PixelTransformer().fit(X)


@pytest.mark.parametrize(
    "X",
    [
        *([], (), np.array([]), np.array([], dtype=object), pd.Series([], dtype=object)),
        torch.utils.data.Subset(Items(lambda i: IMAGES[i]), []),
    ],
)
def test_nothing_is_named(X):
    with pytest.raises(ValueError, match=r"X has no images \(n_samples=0\)"):
        PixelTransformer().fit(X)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([io.BytesIO(b"")] * 3, r"objects such as .* of type BytesIO.*file\.read\(\)"),
        ([None] * 3, "objects such as None, of type NoneType"),
        (pd.DataFrame(index=range(3)), r"table of shape \(3, 0\)"),
        (
            IMAGES.view([(name, "u1") for name in "rgb"]),
            "real numbers, got dtype.*structured_to_unstructured",
        ),
        (np.ma.array(IMAGES.view([("grey", "u1")])), "real numbers, got dtype"),
    ],
)
def test_what_is_no_image_is_named(X, message):
    with pytest.raises(ValueError, match=message):
        PixelTransformer().fit(X)


def test_the_image_of_an_item_is_not_what_lies_beside_it(paths):
    mask = Image.new("L", (8, 8))
    for item in (
        lambda i: {"path": paths[0], "image": IMAGES[i]},
        lambda i: {"bytes": b"", "image": Image.fromarray(IMAGES[i])},
    ):
        for X in (Items(item), [item(i) for i in range(12)]):
            assert same_pixels(X)
    for missing, k in ((None, 0), (np.nan, 5)):
        rows = [{"mask": mask, "image": missing if i == k else Image.fromarray(IMAGES[i])} for i in range(12)]
        for X in (rows, Items(rows.__getitem__)):
            with pytest.raises(ValueError, match=rf"1 of 12 images .*\n  row {k}, .*: it is missing"):
                PixelTransformer().fit(X)
        with pytest.raises(ValueError, match=rf"Row {k} of X, .* has no image"):
            PixelTransformer().fit(Items(lambda i, k=k: None if i == k else TENSORS[i]))


@pytest.mark.parametrize("X", [IMAGES[0].ravel(), list(range(5)), pd.Series([1.0, 2.0]), pd.Series([1, 2])])
def test_numbers_without_an_axis_of_images(X):
    with pytest.raises(ValueError, match=r"without an axis of images.*X\[None\]"):
        PixelTransformer().fit(X)


def test_one_image_in_place_of_many():
    for X in (IMAGES, TENSORS, IMAGES[..., 0]):
        fitted = PixelTransformer().fit(X)
        with pytest.raises(ValueError, match=r"shape of one image, .*\. Pass X\[None\]"):
            fitted.transform(X[0])
        assert len(fitted.transform(X[0][None])) == 1


def nested(rows):
    column = pd.Series(index=range(len(rows)), dtype=object)
    column[:] = list(rows)
    return column


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize(
    "column",
    [
        nested(IMAGES),
        nested(TENSORS.unbind()),
        nested(IMAGES.tolist()),
        # As Arrow gives nested lists: arrays of arrays.
        nested([nested([nested(list(row)).to_numpy() for row in image]).to_numpy() for image in IMAGES]),
        nested([Image.fromarray(image) for image in IMAGES]),
    ],
    ids=["arrays", "tensors", "lists", "arrays of arrays", "Pillow"],
)
def test_columns_of_images(column, frame):
    X = column.to_frame("image") if frame else column
    assert same_pixels(X)


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_columns_of_paths(paths, dtype):
    column = pd.Series(paths, index=list("abcdefghijkl"), dtype=dtype)
    for X in (column, column.to_frame("path"), column.array, pd.Index(column)):
        np.testing.assert_array_equal(load_images(X), IMAGES)
        assert same_pixels(X)


def test_columns_of_flat_images():
    column = nested(IMAGES.reshape(12, -1).tolist())
    for X in (column, column.to_frame()):
        assert same_pixels(X, image_shape=(8, 8, 3))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_rows_are_named(paths, missing):
    for column in (nested([*paths[:3], missing]), nested([*paths[:3], missing]).to_frame()):
        with pytest.raises(ValueError, match=r"row 3, .*: it is missing"):
            load_images(column)
    with pytest.raises(ValueError, match="Row 3 of X is .*, not an image"):
        PixelTransformer().fit(nested([*IMAGES[:3], missing]))


def test_polars(paths):
    pl = pytest.importorskip("polars")
    flat = IMAGES.reshape(12, -1)
    for X in (pl.Series(paths), pl.DataFrame({"path": paths}), pl.Series(IMAGES.tolist())):
        assert same_pixels(X)
    for X in (pl.DataFrame(flat), pl.Series(flat, dtype=pl.Array(pl.UInt8, 192))):
        assert same_pixels(X, image_shape=(8, 8, 3))
    with pytest.raises(TypeError, match=r"LazyFrame.*X\.collect"):
        PixelTransformer().fit(pl.DataFrame({"path": paths}).lazy())


def test_arrow(paths):
    pa = pytest.importorskip("pyarrow")
    kind = pd.ArrowDtype(pa.list_(pa.list_(pa.list_(pa.uint8()))))
    for X in (
        *(pa.array(paths), pa.chunked_array([paths]), pa.table({"path": paths}), pa.array(IMAGES.tolist())),
        *(pd.Series(paths, dtype="string[pyarrow]"), pd.Series(IMAGES.tolist(), dtype=kind)),
    ):
        assert same_pixels(X)
