import math

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_simclr import HOGTransformer, PixelTransformer


@pytest.fixture(scope="module")
def photographs():
    image = load_sample_image("china.jpg")
    return np.stack([image[y : y + 32, x : x + 24] for y in range(0, 300, 60) for x in range(0, 400, 50)])


def naive_hog(image, n_orientations, cell, block):
    """One image (H, W, C) of floats, pixel by pixel."""
    height, width, channels = image.shape
    cells = np.zeros((height // cell, width // cell, n_orientations))
    for y in range(height // cell * cell):
        for x in range(width // cell * cell):
            best = (-1.0, 0.0, 0.0)
            for c in range(channels):
                dx = image[y, min(x + 1, width - 1), c] - image[y, max(x - 1, 0), c]
                dy = image[min(y + 1, height - 1), x, c] - image[max(y - 1, 0), x, c]
                if dx * dx + dy * dy > best[0] + 1e-12:
                    best = (dx * dx + dy * dy, dx, dy)
            square, dx, dy = best
            angle = math.degrees(math.atan2(dy, dx)) % 180.0
            step = 180.0 / n_orientations
            position = angle / step - 0.5
            low = math.floor(position)
            for k, share in ((low, 1 - (position - low)), (low + 1, position - low)):
                cells[y // cell, x // cell, k % n_orientations] += share * math.sqrt(max(square, 0)) / cell**2
    rows = []
    for y in range(cells.shape[0] - block + 1):
        for x in range(cells.shape[1] - block + 1):
            vector = cells[y : y + block, x : x + block].ravel()
            vector = vector / math.sqrt((vector**2).sum() + 1e-10)
            vector = np.minimum(vector, 0.2)
            rows.append(np.sort(vector / math.sqrt((vector**2).sum() + 1e-10)))
    return np.array(rows)


@pytest.mark.parametrize(("n_orientations", "cell", "block"), [(9, 8, 2), (6, 5, 3), (4, 4, 1)])
def test_hog_against_pixel_by_pixel(photographs, n_orientations, cell, block):
    model = HOGTransformer(n_orientations=n_orientations, cell_size=cell, block_size=block)
    features = model.fit_transform(photographs[:4])
    for image, row in zip(photographs[:4] / 255.0, features, strict=True):
        expected = naive_hog(image, n_orientations, cell, block)
        # unfold puts the histogram's place before the block's: compare each block's sorted values.
        found = np.sort(row.reshape(n_orientations * block**2, -1).T, axis=1)
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_hog_of_bytes_is_hog_of_the_same_pixels_as_floating_point_numbers(photographs):
    # Few levels, of which many gradients in two channels are equally long: rounding must not choose.
    images = photographs[:8] // 16 * 16
    expected = HOGTransformer(pixel_range=(0, 255)).fit_transform(images)
    found = HOGTransformer(pixel_range=(0, 1)).fit_transform(images / 255.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hog_ignores_brightness_and_contrast(photographs):
    images = photographs.mean(axis=3) / 255.0
    model = HOGTransformer(pixel_range=(0, 1)).fit(images)
    np.testing.assert_allclose(model.transform(images * 0.5 + 0.2), model.transform(images), atol=1e-3)


def test_a_horizontal_edge_is_in_the_bin_of_its_gradient():
    image = np.zeros((1, 16, 16))
    image[:, 8:] = 1.0
    row = HOGTransformer(n_orientations=9, cell_size=16, block_size=1, pixel_range=(0, 1)).fit_transform(
        image
    )
    # The gradient points down: 90 degrees is the centre of the fifth of nine bins.
    assert row.argmax() == 4
    assert row[0, 4] == pytest.approx(1.0, abs=1e-4)


def test_pixels_are_the_pixels(photographs):
    features = PixelTransformer().fit_transform(photographs)
    np.testing.assert_allclose(features, photographs.transpose(0, 3, 1, 2).reshape(40, -1) / 255, rtol=1e-6)


def test_layouts_give_the_same_features(photographs):
    first = photographs.transpose(0, 3, 1, 2)
    for model in (PixelTransformer(), HOGTransformer()):
        np.testing.assert_array_equal(
            clone(model).fit_transform(photographs), clone(model).fit_transform(first)
        )


@pytest.mark.parametrize(
    "first", [PixelTransformer(), HOGTransformer(), make_pipeline(PixelTransformer(), PCA(8))]
)
def test_each_is_the_first_step_of_a_pipeline(first):
    digits = load_digits()
    model = make_pipeline(first, LogisticRegression(max_iter=500))
    assert cross_val_score(model, digits.images[:400], digits.target[:400], cv=2).mean() > 0.8


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 9), (3, 5, 3, 2)])
def test_tiny_images(shape):
    images = np.random.default_rng(0).random(shape)
    features = HOGTransformer(image_shape=shape[1:]).fit_transform(images)
    assert np.isfinite(features).all()
