"""The displays of images and of training: what the artists hold, against what is computed independently."""

import copy
import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_simclr import (
    Augmentation,
    DistilledClassifier,
    HOGTransformer,
    LabelFractionClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    export_encoder,
    representation_report,
)
from sklearn_simclr.estimators.nested import trained_step
from sklearn_simclr.inspection.augmentation_display import AugmentationDisplay
from sklearn_simclr.inspection.embedding_display import EmbeddingDisplay
from sklearn_simclr.inspection.similarity_display import SimilarityDisplay
from sklearn_simclr.inspection.training_display import TrainingDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def images(digits):
    return digits[0][:150], digits[1][:150]


@pytest.fixture(scope="module")
def simclr(images):
    return SimCLRTransformer(max_epochs=2, batch_size=64, random_state=0).fit(images[0])


@pytest.fixture(scope="module")
def pipeline(images):
    model = make_pipeline(
        FunctionTransformer(np.negative),
        SimCLRTransformer(max_epochs=1, batch_size=64, random_state=0),
        StandardScaler(),
        LogisticRegression(max_iter=500),
    )
    return model.fit(*images)


def forms(rgb):
    """The same colour images in every form that is accepted, and the parameters to read them by."""
    floats = rgb.astype(np.float32) / 255
    flat = rgb.reshape(len(rgb), -1)
    return {
        "HWC": (rgb, {}),
        "CHW": (rgb.transpose(0, 3, 1, 2), {}),
        "float": (floats, {}),
        "float 0..255": (rgb.astype(float), {"pixel_range": (0, 255)}),
        "uint16": (rgb.astype(np.uint16) * 257, {}),
        "tensor": (torch.from_numpy(rgb), {}),
        "list": (list(rgb), {}),
        "flat": (flat, {"image_shape": rgb.shape[1:]}),
        "table": (pd.DataFrame(flat).rename(columns=str), {"image_shape": rgb.shape[1:]}),
    }


FORMS = ["HWC", "CHW", "float", "float 0..255", "uint16", "tensor", "list", "flat", "table"]


class TestAugmentationDisplay:
    @pytest.mark.parametrize("form", FORMS)
    def test_shows_images_of_every_form_as_they_are(self, form, rgb_images):
        X, options = forms(rgb_images[:3])[form]
        display = AugmentationDisplay.from_augmentation(
            None, X, n_images=3, n_views=2, random_state=0, **options
        )
        assert display.images_.shape == (3, 3)
        for i in range(3):
            shown = display.images_[i, 0].get_array()
            np.testing.assert_allclose(shown, rgb_images[i] / 255, atol=1e-6)
        unfitted = SimCLRTransformer(**options)
        again = AugmentationDisplay.from_estimator(unfitted, X, n_images=3, n_views=2, random_state=0)
        np.testing.assert_allclose(again.views, display.views, atol=1e-5)
        assert not hasattr(unfitted, "image_shape_")

    @pytest.mark.parametrize("n, shown", [(6, 6), (9, 4)])
    def test_shows_all_of_few_images(self, digits, n, shown):
        display = AugmentationDisplay.from_augmentation(None, digits[0][:n], n_views=1)
        assert display.images_.shape == (shown, 2)

    def test_shows_grey_digits_between_black_and_white(self, digits):
        X = digits[0][:4]
        for given, options in ((X, {}), (X.reshape(4, 64), {}), (X.reshape(4, 64), {"image_shape": (8, 8)})):
            display = AugmentationDisplay.from_augmentation(None, given, **options)
            np.testing.assert_allclose(display.images_[2, 0].get_array(), X[2] / 16, atol=1e-6)
            assert display.images_[2, 0].get_clim() == (0, 1)
            assert display.images_[2, 0].get_cmap().name == "gray"

    @pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (4, 3), (5, 1)])
    def test_shows_other_numbers_of_channels(self, channels, shown):
        X = np.random.default_rng(0).random((4, channels, 12, 12))
        display = AugmentationDisplay.from_augmentation(Augmentation(), X, image_shape="CHW")
        expected = X[1].mean(axis=0) if shown == 1 else X[1, :3].transpose(1, 2, 0)
        np.testing.assert_allclose(display.images_[1, 0].get_array(), expected, atol=1e-6)

    def test_views_are_those_of_the_augmentation(self, rgb_images):
        # A darkened copy of the image: no view can be taken for one of another image.
        def darken(image):
            return image * torch.rand(1)

        display = AugmentationDisplay.from_augmentation(
            darken, rgb_images[:5], n_images=5, n_views=3, random_state=3
        )
        for i in range(5):
            original = display.images_[i, 0].get_array()
            factors = [display.images_[i, 1 + j].get_array().mean() / original.mean() for j in range(3)]
            for j, factor in enumerate(factors):
                np.testing.assert_allclose(
                    display.images_[i, 1 + j].get_array(), original * factor, atol=1e-6
                )
            assert len({round(float(factor), 4) for factor in factors}) == 3

    def test_views_stay_between_0_and_1(self, rgb_images):
        display = AugmentationDisplay.from_augmentation(Augmentation(color_strength=2), rgb_images)
        assert display.views.min() >= 0 and display.views.max() <= 1

    def test_pictures_do_not_overlap_and_lie_in_the_axes(self, rgb_images):
        display = AugmentationDisplay.from_augmentation(None, rgb_images[:, :20], image_shape="HWC")
        display.figure_.canvas.draw()
        boxes = [image.get_window_extent() for image in display.images_.flat]
        assert not any(a.padded(-1).overlaps(b) for a, b in itertools.combinations(boxes, 2))
        box = display.ax_.get_window_extent().padded(1)
        assert all(box.contains(*b.min) and box.contains(*b.max) for b in boxes)
        # Pixels are square: 20 high, 32 wide.
        assert boxes[0].height / boxes[0].width == pytest.approx(20 / 32, rel=0.02)

    def test_random_state_decides(self, rgb_images):
        first, same, other = (
            AugmentationDisplay.from_augmentation(None, rgb_images, random_state=seed) for seed in (0, 0, 1)
        )
        assert np.array_equal(first.views, same.views) and np.array_equal(first.images, same.images)
        assert not np.array_equal(first.images, other.images)

    def test_none_leaves_the_global_generators_alone(self, rgb_images):
        numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        AugmentationDisplay.from_augmentation(None, rgb_images)
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_fitted_estimator_in_a_pipeline(self, pipeline, images):
        X = images[0][:3]
        display = AugmentationDisplay.from_estimator(pipeline, X, n_images=3)
        # The pipeline shows its encoder negatives, and the range is that of all images in fit.
        np.testing.assert_allclose(display.images, 1 - X / 16, atol=1e-6)

    @pytest.mark.parametrize(
        "options, match",
        [
            ({"n_images": 25}, "n_images=25, but X has 24 images"),
            ({"n_images": 0}, "n_images must be an int of at least 1"),
            ({"n_views": 1.5}, "n_views must be an int"),
            ({"image_shape": (3, 3)}, "image_shape"),
        ],
    )
    def test_refuses(self, options, match, rgb_images):
        with pytest.raises(ValueError, match=match):
            AugmentationDisplay.from_augmentation(None, rgb_images, **options)
        assert not plt.get_fignums()

    def test_refuses_what_reads_no_images(self, rgb_images):
        with pytest.raises(TypeError, match="needs an estimator of images.*found PCA"):
            AugmentationDisplay.from_estimator(PCA(), rgb_images)


def naive_similarities(z):
    z = z.astype(np.float64)
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in z] for a in z])


class TestSimilarityDisplay:
    @pytest.mark.parametrize("output", ["projection", "encoder"])
    def test_similarities_are_those_of_the_views(self, simclr, images, output):
        X = images[0][:6]
        display = SimilarityDisplay.from_estimator(simclr, X, n_images=6, output=output, random_state=0)
        # Views of digits are as large as digits, so that transform takes them.
        views = display.views
        models = {
            "before training": clone(simclr).set_params(max_epochs=0, pixel_range=(0, 16)).fit(X),
            "after training": simclr,
        }
        assert list(display.similarities) == list(models)
        for panel, (title, model) in zip(display.axes_, models.items(), strict=True):
            model = copy.copy(model).set_params(output=output)
            expected = naive_similarities(model.transform(views * 16))
            np.testing.assert_allclose(display.similarities[title], expected, atol=1e-4)
            image = display.images_[list(models).index(title)]
            shown = display.similarities[title][:6, 6:]
            np.testing.assert_array_equal(image.get_array(), shown)
            assert image.get_clim() == (-1, 1)
            positive = np.mean([display.similarities[title][i, i + 6] for i in range(6)])
            negatives = [
                display.similarities[title][i, j] for i in range(12) for j in range(12) if (i - j) % 6
            ]
            text = panel.get_title().replace("\N{MINUS SIGN}", "-").split("\n")
            assert text[0] == title
            assert float(text[1].removeprefix("mean positive ")) == pytest.approx(positive, abs=0.0051)
            assert float(text[2].removeprefix("mean negative ")) == pytest.approx(
                np.mean(negatives), abs=0.0051
            )

    def test_before_has_the_initial_weights(self, images):
        # An encoder that is not initialised from images, untrained itself: before is what it is.
        def encoder():
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16))

        model = SimCLRTransformer(encoder, max_epochs=0, random_state=3).fit(images[0])
        display = SimilarityDisplay.from_estimator(model, images[0], n_images=4, random_state=1)
        before, after = display.similarities.values()
        np.testing.assert_allclose(before, after, atol=1e-6)

    def test_training_parts_positives_from_negatives(self, images):
        trained = SimCLRTransformer(max_epochs=10, batch_size=50, random_state=0).fit(images[0])
        display = SimilarityDisplay.from_estimator(trained, images[0], n_images=20, random_state=0)
        margins = np.subtract(display.positive_, display.negative_)
        assert margins[1] > margins[0] + 0.2

    @pytest.mark.parametrize("layout", ["pairs", "batch"])
    def test_marks_are_on_the_positives(self, layout):
        n = 4
        matrix = 0.1 * np.ones((2 * n, 2 * n))
        for i in range(n):
            matrix[i, i + n] = matrix[i + n, i] = 0.8
        np.fill_diagonal(matrix, 1)
        display = SimilarityDisplay({"one": matrix}).plot(layout=layout)
        shown = display.images_[0].get_array()
        centres = [(p.get_x() + 0.5, p.get_y() + 0.5) for p in display.axes_[0].patches]
        assert len(centres) == (n if layout == "pairs" else 2 * n)
        assert {float(shown[int(y), int(x)]) for x, y in centres} == {0.8}
        assert (display.positive_, display.negative_) == (pytest.approx([0.8]), pytest.approx([0.1]))

    def test_views_stand_along_the_axes(self):
        rng = np.random.default_rng(0)
        views = rng.random((6, 5, 5, 3))
        display = SimilarityDisplay({"": np.eye(6)}, views).plot()
        _, *pictures = display.axes_[0].images
        left = {p.get_extent()[3] // 1: p.get_array() for p in pictures if p.get_extent()[1] < -0.5}
        top = {p.get_extent()[0] // 1: p.get_array() for p in pictures if p.get_extent()[2] < -0.5}
        for i in range(3):
            np.testing.assert_array_equal(left[i - 1], views[i])
            np.testing.assert_array_equal(top[i - 1], views[i + 3])

    def test_before_may_be_another_estimator_or_absent(self, simclr, pipeline, images):
        X = images[0]
        alone = SimilarityDisplay.from_estimator(simclr, X, before=False, random_state=0)
        assert len(alone.axes_) == 1 and len(alone.similarities) == 1
        two = SimilarityDisplay.from_estimator(simclr, X, before=pipeline, random_state=0)
        assert list(two.similarities) == ["before", "after"]
        np.testing.assert_allclose(two.similarities["after"], alone.similarities[""], atol=1e-6)
        assert not np.allclose(two.similarities["before"], two.similarities["after"], atol=1e-4)

    def test_pipeline(self, pipeline, images):
        display = SimilarityDisplay.from_estimator(pipeline, images[0], n_images=3, layout="batch")
        assert display.images_[1].get_array().shape == (6, 6)

    @pytest.mark.parametrize("one", [True, False])
    def test_draws_in_given_axes(self, simclr, images, one):
        figure, axes = plt.subplots(1, 3, figsize=(14, 4))
        ax = axes[0] if one else axes[:2]
        display = SimilarityDisplay.from_estimator(simclr, images[0], ax=ax)
        assert display.figure_ is figure and len(display.axes_) == 2
        if not one:
            assert list(display.axes_) == list(axes[:2])
        figure.canvas.draw()
        titles = [panel.title.get_window_extent() for panel in display.axes_]
        assert not titles[0].overlaps(titles[1])
        if one:
            box = axes[0].get_window_extent().padded(1)
            for panel in display.axes_:
                assert box.contains(*panel.get_window_extent().min)
        assert plt.get_fignums() == [figure.number]

    @pytest.mark.parametrize(
        "options, match",
        [
            ({"n_images": 151}, "n_images=151, but X has 150 images"),
            ({"n_images": 1}, "n_images must be an int of at least 2"),
            ({"output": "h"}, "output must be"),
            ({"layout": "rows"}, "layout must be"),
        ],
    )
    def test_refuses(self, simclr, images, options, match):
        with pytest.raises(ValueError, match=match):
            SimilarityDisplay.from_estimator(simclr, images[0], **options)
        assert not plt.get_fignums()

    @pytest.mark.parametrize("shapes", [[(5, 5)], [(4, 6)], [(4, 4), (6, 6)], [(2, 2)], []])
    def test_refuses_matrices_of_no_pairs(self, shapes):
        with pytest.raises(ValueError, match="similarities"):
            SimilarityDisplay({i: np.zeros(s) for i, s in enumerate(shapes)}).plot()

    def test_refuses_axes_of_another_number(self):
        _, axes = plt.subplots(1, 3)
        with pytest.raises(ValueError, match="ax holds 3 Axes, but 1"):
            SimilarityDisplay({"": np.eye(4)}).plot(axes)

    def test_refuses_an_estimator_that_is_not_fitted(self, images):
        with pytest.raises(NotFittedError):
            SimilarityDisplay.from_estimator(SimCLRTransformer(), images[0])


def blobs(n=60):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)) + 6 * np.eye(3)[np.arange(n) % 3, :2]


class TestEmbeddingDisplay:
    def test_points_by_class(self):
        points, y = blobs(), np.arange(60) % 3
        display = EmbeddingDisplay.from_embedding(points, y)
        assert list(display.scatter_) == [0, 1, 2]
        for label, drawn in display.scatter_.items():
            np.testing.assert_array_equal(drawn.get_offsets(), points[y == label])
        assert [t.get_text() for t in display.legend_.get_texts()] == ["0", "1", "2"]
        assert len({tuple(drawn.get_facecolor()[0]) for drawn in display.scatter_.values()}) == 3
        assert display.colorbar_ is None

    @pytest.mark.parametrize(
        "y, classes, missing",
        [
            (np.array([0, 1, -1] * 20), [0, 1], 20),
            (np.array([-1, 1, 1] * 20), [-1, 1], 0),
            (["a", None, "b"] * 20, ["a", "b"], 20),
            (pd.Series(["a", pd.NA, "b"] * 20), ["a", "b"], 20),
            (np.array([0.0, np.nan, 4.0] * 20), [0, 4], 20),
            (torch.tensor([2, -1, -1] * 20), [2], 40),
            ([True, False, False] * 20, [False, True], 0),
            (np.full(60, -1), [], 60),
        ],
    )
    def test_unlabelled_are_grey(self, y, classes, missing):
        display = EmbeddingDisplay.from_embedding(blobs(), y)
        assert [label for label in display.scatter_ if label is not None] == classes
        texts = [str(label) for label in classes]
        if missing:
            assert len(display.scatter_[None].get_offsets()) == missing
            red, green, blue, _ = display.scatter_[None].get_facecolor()[0]
            assert red == green == blue
            texts.append("unlabelled")
        assert [t.get_text() for t in display.legend_.get_texts()] == texts

    @pytest.mark.parametrize("y", [np.linspace(0.05, 1, 60), np.arange(60)])
    def test_numbers_have_a_colour_bar(self, y):
        display = EmbeddingDisplay.from_embedding(blobs(), y)
        np.testing.assert_array_equal(display.scatter_["y"].get_array(), y)
        assert display.legend_ is None and display.colorbar_ is not None

    def test_missing_numbers_are_grey(self):
        y = np.where(np.arange(60) % 4, np.linspace(0.05, 1, 60), np.nan)
        display = EmbeddingDisplay.from_embedding(blobs(), y)
        assert len(display.scatter_[None].get_offsets()) == 15
        np.testing.assert_array_equal(display.scatter_["y"].get_array(), y[~np.isnan(y)])

    def test_many_classes_have_no_legend(self):
        display = EmbeddingDisplay.from_embedding(blobs(), [f"class {i % 21}" for i in range(60)])
        assert len(display.scatter_) == 21 and display.legend_ is None

    def test_classes_have_the_names_that_are_given(self, simclr, images):
        y = np.array([0, 2, 2, -1])
        for names in (["cat", "cow", "dog"], {0: "cat", 2: "dog"}):
            display = EmbeddingDisplay.from_embedding(blobs(4), y, target_names=names)
            texts = [text.get_text() for text in display.legend_.get_texts()]
            assert texts == ["cat", "dog", "unlabelled"] and set(display.scatter_) == {None, 0, 2}
        for names in (["cat", "cow"], {0: "cat"}):
            with pytest.raises(ValueError, match="no name for the label 2"):
                EmbeddingDisplay.from_embedding(blobs(4), y, target_names=names)
        drawn = EmbeddingDisplay.from_estimator(simclr, images[0][:20], random_state=0)
        assert drawn.ax_.get_xlabel() == "t-SNE"

    def test_legend_lies_in_axes_that_make_no_room(self):
        figure, axes = plt.subplots(1, 2)
        display = EmbeddingDisplay.from_embedding(blobs(), np.arange(60) % 5, ax=axes[1])
        figure.canvas.draw()
        assert axes[1].bbox.contains(*display.legend_.get_window_extent().min)
        assert axes[1].bbox.contains(*display.legend_.get_window_extent().max)

    def test_legend_covers_no_point(self):
        display = EmbeddingDisplay.from_embedding(blobs(), [f"a long name {i % 20}" for i in range(60)])
        display.figure_.canvas.draw()
        legend = display.legend_.get_window_extent()
        assert not legend.overlaps(display.ax_.get_window_extent())
        assert display.figure_.bbox.padded(1).contains(*legend.max)

    def test_pca_is_that_of_the_representations(self, simclr, images):
        X, y = images
        display = EmbeddingDisplay.from_estimator(simclr, X, y, reducer="pca", random_state=0)
        h = simclr.transform(X).astype(np.float64)
        h -= h.mean(axis=0)
        _, singular, axes = np.linalg.svd(h, full_matrices=False)
        np.testing.assert_allclose(np.abs(display.embedding), np.abs(h @ axes[:2].T), atol=1e-3)
        share = 100 * singular[0] ** 2 / (singular**2).sum()
        assert display.ax_.get_xlabel() == f"PC 1 ({share:.0f}%)"

    def test_tsne_keeps_neighbours_and_its_seed(self, simclr, images):
        X, y = images[0][:60], images[1][:60]
        first, same = (EmbeddingDisplay.from_estimator(simclr, X, y, random_state=0) for _ in range(2))
        np.testing.assert_array_equal(first.embedding, same.embedding)
        h = simclr.transform(X)
        neighbour = np.linalg.norm(h[:, None] - h, axis=2)
        np.fill_diagonal(neighbour, np.inf)
        distance = np.linalg.norm(first.embedding[:, None] - first.embedding, axis=2)
        near = distance[np.arange(60), neighbour.argmin(axis=1)].mean()
        assert near < 0.5 * distance.mean()
        assert not len(first.ax_.get_xticks())

    def test_reducer_may_be_a_transformer_or_none(self, images):
        class FirstColumns(TransformerMixin, BaseEstimator):
            def fit(self, X, y=None):
                return self

            def transform(self, X):
                return X[:, :3]

        X = images[0].reshape(150, 64)[:, 20:]
        identity = FunctionTransformer().fit(X)
        display = EmbeddingDisplay.from_estimator(identity, X, reducer=FirstColumns())
        np.testing.assert_array_equal(display.embedding, X[:, :2])
        display = EmbeddingDisplay.from_estimator(identity, X[:, :2], reducer=None)
        np.testing.assert_array_equal(display.embedding, X[:, :2])

    def test_pipelines_with_and_without_a_classifier(self, pipeline, images):
        X, y = images
        display = EmbeddingDisplay.from_estimator(pipeline, X, y, reducer="pca", n_thumbnails=5)
        expected = PCA(2).fit_transform(pipeline[:-1].transform(X))
        # Of so many columns, the components are found by a random start.
        atol = 1e-2 * np.abs(expected).max()
        np.testing.assert_allclose(np.abs(display.embedding), np.abs(expected), atol=atol)
        np.testing.assert_allclose(display.images, 1 - X / 16, atol=1e-6)
        again = EmbeddingDisplay.from_estimator(pipeline[:-1], X, y, reducer="pca")
        np.testing.assert_allclose(np.abs(again.embedding), np.abs(display.embedding), atol=1e-2)

    def test_thumbnails_lie_on_their_points_and_do_not_overlap(self, images):
        X, y = images
        points = np.random.default_rng(0).normal(size=(150, 2)) ** 3
        display = EmbeddingDisplay.from_embedding(points, y, images=X, n_thumbnails=40)
        assert 5 < len(display.thumbnails_) <= 40
        display.figure_.canvas.draw()
        for row, box in zip(display.thumbnail_rows_, display.thumbnails_, strict=True):
            np.testing.assert_allclose(box.xy, points[row])
            np.testing.assert_allclose(box.offsetbox.get_data(), X[row] / 16, atol=1e-6)
            color = display.scatter_[y[row]].get_facecolor()[0]
            np.testing.assert_allclose(box.patch.get_edgecolor()[:3], color[:3])
        boxes = [box.patch.get_window_extent() for box in display.thumbnails_]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))

    def test_thumbnails_take_every_form(self, rgb_images):
        points = blobs(24)
        for form in ("HWC", "CHW", "float", "tensor", "list"):
            X, _ = forms(rgb_images)[form]
            display = EmbeddingDisplay.from_embedding(points, images=X, n_thumbnails=3)
            np.testing.assert_allclose(display.images, rgb_images / 255, atol=1e-6)
            assert len(display.thumbnails_) == 3

    def test_thumbnails_of_an_estimator_that_knows_no_images(self, digits):
        X = digits[0][:50].reshape(50, 64)
        display = EmbeddingDisplay.from_estimator(PCA(5).fit(X), X, reducer="pca", n_thumbnails=2)
        np.testing.assert_allclose(display.images[7], digits[0][7] / 16, atol=1e-6)

    @pytest.mark.parametrize(
        "embedding, options, match",
        [
            (np.zeros((5, 3)), {}, r"embedding must have shape \(n, 2\)"),
            (np.zeros((0, 2)), {}, r"embedding must have shape \(n, 2\)"),
            (np.full((5, 2), np.nan), {}, "finite"),
            (np.zeros((5, 2)), {"y": [0, 1]}, r"y must have shape \(5,\)"),
            (np.zeros((5, 2)), {"n_thumbnails": 3}, "no images"),
            (np.zeros((5, 2)), {"n_thumbnails": -1}, "n_thumbnails must be"),
            (np.zeros((5, 2)), {"images": np.random.rand(4, 8, 8)}, "5 points, but 4 images"),  # noqa: NPY002
            (np.zeros((5, 2)), {"thumbnail_size": 0}, "thumbnail_size"),
        ],
    )
    def test_refuses(self, embedding, options, match):
        with pytest.raises(ValueError, match=match):
            EmbeddingDisplay.from_embedding(embedding, **options)
        assert not plt.get_fignums()

    def test_refuses_estimators_and_reducers(self, simclr, images):
        X = images[0]
        with pytest.raises(NotFittedError):
            EmbeddingDisplay.from_estimator(SimCLRTransformer(), X)
        with pytest.raises(TypeError, match="must have transform, found LogisticRegression"):
            EmbeddingDisplay.from_estimator(LogisticRegression(), X)
        with pytest.raises(ValueError, match="reducer must be"):
            EmbeddingDisplay.from_estimator(simclr, X, reducer="umap")
        with pytest.raises(ValueError, match="two columns"):
            EmbeddingDisplay.from_estimator(simclr, X, reducer=None)
        with pytest.raises(ValueError, match="at least 4 images"):
            EmbeddingDisplay.from_estimator(simclr, X[:3])

    def test_draws_in_given_axes(self):
        figure, axes = plt.subplots(1, 2)
        display = EmbeddingDisplay(blobs()).plot(axes[0], scatter_kw={"s": 7})
        assert display.ax_ is axes[0] and display.figure_ is figure
        assert display.scatter_[None].get_sizes() == [7]


@pytest.fixture(scope="module")
def of_a_table(images):
    """A pipeline on a table with a column of images and one of numbers, and the table."""
    X, y = images[0][:40], images[1][:40] % 2
    table = pd.DataFrame({"age": np.arange(40.0), "photo": list(X)})
    columns = [("photo", SimCLRTransformer(tiny, max_epochs=1, random_state=0), "photo")]
    columns.append(("age", StandardScaler(), ["age"]))
    return make_pipeline(ColumnTransformer(columns), LogisticRegression(max_iter=500)).fit(table, y), table


class TestNested:
    def test_encoder_of_a_column(self, of_a_table, images, tmp_path):
        model, table = of_a_table
        X = images[0][:40]
        display = EmbeddingDisplay.from_estimator(model, table, reducer="pca", n_thumbnails=2)
        np.testing.assert_allclose(display.images, X / 16, atol=1e-6)
        step = model[0].named_transformers_["photo"]
        assert representation_report(model, table).values == representation_report(step, X).values
        seen = SimilarityDisplay.from_estimator(model, table, n_images=3, random_state=0)
        expected = SimilarityDisplay.from_estimator(step, X, n_images=3, random_state=0)
        for title, similarities in expected.similarities.items():
            np.testing.assert_array_equal(seen.similarities[title], similarities)
        assert AugmentationDisplay.from_estimator(model, table, n_images=2).images_.shape == (2, 8)
        assert len(TrainingDisplay.from_estimator(model).history) == 1
        export_encoder(model, tmp_path / "encoder.safetensors", format="torch")

    def test_encoders_of_other_estimators(self, simclr, images):
        union = FeatureUnion([("simclr", simclr), ("hog", HOGTransformer())])
        held = [
            union,
            FrozenEstimator(make_pipeline(union, StandardScaler())),
            LabelFractionClassifier(make_pipeline(FrozenEstimator(simclr), LogisticRegression())),
            VotingClassifier([("a", make_pipeline(FrozenEstimator(simclr), LogisticRegression()))]),
        ]
        held[2].fit(images[0][:40], images[1][:40] % 2)
        held[3].fit(images[0][:40], images[1][:40] % 2)
        for estimator in held:
            assert trained_step(estimator, "test").step is simclr
        search = GridSearchCV(make_pipeline(FrozenEstimator(simclr), LogisticRegression()), {}, cv=2)
        search.fit(images[0][:40], images[1][:40] % 2)
        assert trained_step(search, "test").step is simclr
        display = EmbeddingDisplay.from_estimator(search, images[0][:40], reducer="pca", n_thumbnails=1)
        assert len(display.thumbnails_) == 1

    def test_several_encoders_are_named(self, simclr):
        union = make_pipeline(FeatureUnion([("a", simclr), ("b", FrozenEstimator(simclr))]), StandardScaler())
        place = r"estimator\['featureunion'\].named_transformers\['a'\]"
        with pytest.raises(ValueError, match=f"2 encoders.*{place}"):
            TrainingDisplay.from_estimator(union)

    def test_a_table_without_images_is_named(self):
        table = pd.DataFrame({"age": [1.0, 2, 3, 4], "size": range(4), "name": list("abcd")})
        ages = ColumnTransformer([("age", StandardScaler(), ["age", "size"])]).fit(table)
        with pytest.raises(TypeError, match="Thumbnails need images, and X is a DataFrame"):
            EmbeddingDisplay.from_estimator(ages, table, reducer=None, n_thumbnails=1)

    def test_displays_of_classifiers(self, simclr, images):
        X, y = images[0][:40], images[1][:40] % 2
        tuned = SimCLRClassifier(FrozenEstimator(simclr), max_epochs=1, early_stopping=True, random_state=0)
        student = DistilledClassifier(tuned.fit(X, y), max_epochs=1, random_state=0).fit(X)
        for estimator in (tuned, student):
            assert "accuracy" in TrainingDisplay.from_estimator(estimator).lines_
            shown = SimilarityDisplay.from_estimator(estimator, X, n_images=2, random_state=0)
            assert list(shown.similarities) == ["before training", "after training"]
            assert AugmentationDisplay.from_estimator(estimator, X, n_images=2).images_.shape == (2, 8)
            drawn = EmbeddingDisplay.from_estimator(estimator, X, y, reducer="pca", n_thumbnails=1)
            assert drawn.embedding.shape == (40, 2)
        assert "validation_accuracy" in TrainingDisplay.from_estimator(tuned).lines_


class TestTrainingDisplay:
    def test_lines_are_the_history(self, simclr, pipeline):
        display = TrainingDisplay.from_estimator(simclr)
        assert [panel.get_ylabel() for panel in display.axes_] == [
            "Loss",
            "Contrastive accuracy",
            "Effective rank",
        ]
        for name, line in display.lines_.items():
            np.testing.assert_array_equal(line.get_xdata(), [1, 2])
            np.testing.assert_array_equal(line.get_ydata(), simclr.history_[name])
        assert set(display.lines_) == {"loss", "chance_level", "contrastive_accuracy", "effective_rank"}
        assert len(TrainingDisplay.from_estimator(pipeline).lines_["loss"].get_xdata()) == 1

    def test_columns_and_axes_are_chosen(self, simclr):
        figure, axes = plt.subplots(1, 2)
        display = TrainingDisplay.from_history(simclr.history_, columns=["learning_rate", "loss"], ax=axes)
        assert list(display.axes_) == list(axes) and display.figure_ is figure
        np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), simclr.history_["learning_rate"])
        single = TrainingDisplay.from_history(simclr.history_, columns="seconds", ax=axes[0])
        assert single.axes_[0] is axes[0]
        divided = TrainingDisplay.from_history(simclr.history_, ax=axes[1])
        assert len(divided.axes_) == 3 and divided.figure_ is figure

    def test_draws_what_was_recorded(self):
        history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]})
        display = TrainingDisplay.from_history(history)
        assert set(display.lines_) == {"loss"}

    @pytest.mark.parametrize(
        "history, options, error, match",
        [
            ([1.0], {}, TypeError, "DataFrame"),
            (pd.DataFrame({"epoch": [1]}), {}, ValueError, r"lacks the columns \['loss'\]"),
            (pd.DataFrame({"loss": [1.0]}), {}, ValueError, r"lacks the columns \['epoch'\]"),
            (pd.DataFrame({"epoch": [], "loss": []}), {}, ValueError, "no epochs"),
            (pd.DataFrame({"epoch": [1], "loss": [1]}), {"columns": ["rank"]}, ValueError, r"\['rank'\]"),
            (pd.DataFrame({"epoch": [1], "loss": [1]}), {"columns": []}, ValueError, "at least one"),
            (pd.DataFrame({"epoch": [1], "loss": [1]}), {"columns": ["loss"] * 2}, ValueError, "once"),
        ],
    )
    def test_refuses(self, history, options, error, match):
        with pytest.raises(error, match=match):
            TrainingDisplay.from_history(history, **options)
        assert not plt.get_fignums()

    def test_refuses_an_estimator_that_is_not_fitted(self):
        with pytest.raises(NotFittedError):
            TrainingDisplay.from_estimator(SimCLRTransformer())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: AugmentationDisplay.from_augmentation(None, np.eye(64)),
        lambda: SimilarityDisplay({"": np.eye(4)}).plot(),
        lambda: EmbeddingDisplay.from_embedding(np.zeros((4, 2))),
        lambda: TrainingDisplay.from_history(pd.DataFrame({"epoch": [1], "loss": [1.0]})),
    ],
)
def test_without_matplotlib_the_extra_is_named(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[plot\]"):
        draw()


def test_styles_stay_as_they_were(simclr, images):
    before = dict(plt.rcParams)
    AugmentationDisplay.from_estimator(simclr, images[0])
    SimilarityDisplay.from_estimator(simclr, images[0])
    EmbeddingDisplay.from_estimator(simclr, *images, reducer="pca")
    TrainingDisplay.from_estimator(simclr)
    assert dict(plt.rcParams) == before
