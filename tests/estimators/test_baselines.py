import numpy as np
import pytest
import torch
from helpers import same_weights
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_simclr import Augmentation, AutoencoderTransformer, SupervisedTransformer
from sklearn_simclr.encoders.decoder import Decoder
from sklearn_simclr.images import ImageSource
from sklearn_simclr.training import Batch, Plan
from sklearn_simclr.training.classification import ClassificationObjective


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(n_class=4, return_X_y=True)
    return X.reshape(-1, 8, 8)[:240], y[:240]


def supervised(**params):
    return SupervisedTransformer(**{"max_epochs": 4, "batch_size": 64, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted(digits):
    return supervised(max_epochs=30).fit(*digits)


def test_it_learns_the_labels(digits, fitted):
    X, y = load_digits(n_class=4, return_X_y=True)
    assert fitted.score(X[240:].reshape(-1, 8, 8), y[240:]) > 0.9


def test_the_representation_is_what_the_classifier_sees(digits, fitted):
    h = torch.from_numpy(fitted.transform(digits[0]))
    with torch.no_grad():
        logits = fitted.classifier_(h).numpy()
    np.testing.assert_allclose(logits, fitted.decision_function(digits[0]), rtol=1e-4, atol=1e-4)
    assert h.shape[1] == len(fitted.get_feature_names_out())


def test_probabilities_are_the_softmax_of_the_logits(digits, fitted):
    logits = fitted.decision_function(digits[0]).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    proba = fitted.predict_proba(digits[0])
    np.testing.assert_allclose(proba, expected, rtol=1e-5)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("mark", [-1, None, np.nan])
def test_rows_without_a_label_are_left_out(digits, mark):
    X, y = digits
    known = np.arange(len(y)) % 3 > 0
    if mark == -1:
        masked = np.where(known, y, -1)
    else:
        masked = y.astype(object) if mark is None else y.astype(float)
        masked[~known] = mark
    # The pixel range is that of all images.
    alone = supervised(pixel_range=(0, 16)).fit(X[known], y[known])
    assert same_weights(supervised(pixel_range=(0, 16)).fit(X, masked), alone)


def test_a_weight_of_zero_leaves_a_row_out(digits):
    X, y = digits
    weights = np.where(np.arange(len(y)) % 4 > 0, 2.0, 0.0)
    alone = supervised(pixel_range=(0, 16)).fit(X[weights > 0], y[weights > 0])
    weighted = supervised(pixel_range=(0, 16)).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(
        weighted.decision_function(X), alone.decision_function(X), rtol=1e-3, atol=1e-3
    )


def test_strings_are_classes(digits):
    X, y = digits
    names = np.array(["zero", "one", "two", "three"])[y]
    model = supervised(max_epochs=15).fit(X, names)
    assert model.classes_.tolist() == ["one", "three", "two", "zero"]
    assert set(model.predict(X[:20])) <= set(names)


def test_the_loss_is_the_weighted_mean_over_labelled_rows():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(6, 3))
    labels, weights = np.array([0, 2, -1, 1, -1, 2]), np.array([1.0, 0.5, 0, 2.0, 0, 0])
    naive = total = 0.0
    for row, label, weight in zip(logits, labels, weights, strict=True):
        if label >= 0:
            naive -= weight * (row[label] - np.log(np.exp(row).sum()))
            total += weight
    losses = ClassificationObjective.cross_entropy(None, torch.from_numpy(logits), torch.from_numpy(labels))
    plan = Plan(1, 6, "sgd", 0.1, lambda fraction: 1.0, seed=0)
    batch = Batch(torch.arange(6), torch.zeros(6, 1, 8, 8), torch.Generator(), plan)
    loss = batch.mean(losses, torch.from_numpy(weights))
    assert loss.item() == pytest.approx(naive / total, rel=1e-12)


def test_class_weight_moves_the_decision(digits):
    X, y = digits
    y = (y > 0).astype(int)
    heavy = supervised(max_epochs=10, class_weight={0: 1000, 1: 0.001}).fit(X, y)
    assert (heavy.predict(X) == 0).mean() > 0.8


def test_early_stopping_keeps_the_best_weights(digits):
    X, y = digits
    model = supervised(
        max_epochs=40, early_stopping=True, n_iter_no_change=3, validation_fraction=0.25, learning_rate=0.05,
        precision="float32",  # as predict_proba computes
    ).fit(X, y)  # fmt: skip
    losses = model.history_["validation_loss"].to_numpy()
    assert model.n_iter_ < 40
    assert model.n_iter_ == losses.argmin() + 1 + 3
    rows, held = model._split_validation(np.arange(len(y)), y, 0)
    assert not set(rows) & set(held)
    log_proba = np.log(model.predict_proba(X[held]))
    assert -log_proba[np.arange(len(held)), y[held]].mean() == pytest.approx(losses.min(), rel=1e-3)


def test_resumed_and_cached_fits_are_the_same(digits, tmp_path):
    whole = supervised().fit(*digits)
    first = supervised(checkpoint_dir=tmp_path / "state", memory=str(tmp_path / "memory")).fit(*digits)
    again = supervised(checkpoint_dir=tmp_path / "state").fit(*digits)
    cached = supervised(memory=str(tmp_path / "memory")).fit(*digits)
    assert all(same_weights(other, whole) for other in (first, again, cached))
    with pytest.raises(ValueError, match="other images or of other parameters"):
        supervised(checkpoint_dir=tmp_path / "state").fit(digits[0], digits[1][::-1])


def test_few_labels_get_enough_steps():
    model = SupervisedTransformer(batch_size=100)
    assert model._resolve_epochs(50) == 300
    assert model._resolve_epochs(250) == 150
    assert model._resolve_epochs(10_000) == 60


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0], "inconsistent numbers of samples"),
        ([-1] * 240, "no labelled row"),
        ([0] + [-1] * 239, "at least 2 labelled images"),
        (np.zeros((240, 2)), "1d array"),
        (None, "y"),
    ],
)
def test_bad_labels(digits, y, message):
    model = supervised()
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(digits[0], y)
    assert not hasattr(model, "encoder_")


@pytest.mark.parametrize("weights", [np.full(240, -1.0), np.full(240, np.nan), np.ones(3), np.zeros(240)])
def test_bad_weights(digits, weights):
    with pytest.raises(ValueError, match="sample_weight"):
        supervised().fit(*digits, sample_weight=weights)


def test_it_is_a_step_of_a_pipeline(digits):
    model = make_pipeline(supervised(), LogisticRegression(max_iter=500)).fit(*digits)
    assert model.score(*digits) > 0.8


def test_not_fitted():
    for call in (SupervisedTransformer().predict, SupervisedTransformer().transform):
        with pytest.raises(NotFittedError):
            call(np.zeros((2, 8, 8)))


def test_clone_keeps_parameters(fitted):
    assert clone(fitted).get_params() == fitted.get_params()


# Autoencoder


@pytest.fixture(scope="module")
def autoencoder(digits):
    return AutoencoderTransformer(max_epochs=60, random_state=0).fit(digits[0])


def test_the_decoder_gives_the_images_back(digits, autoencoder):
    X = digits[0]
    images = (X / 16)[:, None]
    error = ((autoencoder.reconstruct(X) - images) ** 2).mean()
    assert error < 0.5 * images.var(axis=0).mean()
    assert autoencoder.loss_curve_[-1] == pytest.approx(error, rel=0.3)


def test_representations_have_the_width_of_the_encoder(digits, autoencoder):
    h = autoencoder.transform(digits[0])
    assert h.dtype == np.float32
    assert h.shape == (240, len(autoencoder.get_feature_names_out()))
    np.testing.assert_array_equal(h[:3], autoencoder.transform(digits[0][:3]))


def test_views_can_be_reconstructed_instead(digits):
    model = AutoencoderTransformer(max_epochs=2, augmentation=Augmentation(size=6), random_state=0)
    assert model.fit(digits[0]).decoder_.sides[-1] == (6, 6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 31, 17), (2, 96, 64), (1, 1, 5), (1, 1, 1)])
def test_the_decoder_reaches_any_shape(shape):
    decoder = Decoder(16, shape)
    images = decoder(torch.randn(2, 16))
    assert images.shape == (2, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    sides = decoder.sides
    assert all(b[0] in (2 * a[0], 2 * a[0] - 1) for a, b in zip(sides[:-1], sides[1:], strict=True))


def test_large_images_are_given_back_as_the_encoder_sees_them():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    model = AutoencoderTransformer(max_epochs=1, random_state=0).fit(X)
    assert model.decoder_.sides[-1] == (55, 74)
    again = model.reconstruct(X)
    assert again.shape == (2, 3, 90, 120) and again.min() >= 0 and again.max() <= 1
    small = torch.nn.functional.interpolate(
        torch.from_numpy(X).permute(0, 3, 1, 2) / 255, (55, 74), mode="bilinear", antialias=True
    )
    objective = model.make_objective(ImageSource(torch.from_numpy(X).permute(0, 3, 1, 2), (0, 255)), None)
    plan = Plan(1, 2, "sgd", 0.1, lambda fraction: 1.0, seed=0)
    batch = Batch(torch.arange(2), torch.from_numpy(X).permute(0, 3, 1, 2), torch.Generator(), plan)
    torch.testing.assert_close(objective._images(batch), small)
    assert objective.step(batch).loss.item() > 0


def test_the_autoencoder_ignores_labels(digits):
    params = {"max_epochs": 2, "random_state": 0}
    with_labels = AutoencoderTransformer(**params).fit(*digits)
    assert same_weights(with_labels, AutoencoderTransformer(**params).fit(digits[0]))
