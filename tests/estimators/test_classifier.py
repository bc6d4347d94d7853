import numpy as np
import pytest
import torch
from helpers import equal, state
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from sklearn_simclr import Augmentation, SimCLRClassifier, SimCLRTransformer
from sklearn_simclr.encoders import Preprocessing, make_encoder
from sklearn_simclr.encoders.blocks import blocks
from sklearn_simclr.encoders.preprocessing import PreprocessedNetwork
from sklearn_simclr.training.linear_start import linear_start


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(n_class=4, return_X_y=True)
    return X.reshape(-1, 8, 8), y


@pytest.fixture(scope="module")
def few(digits):
    """Labels of 40 images only."""
    y = digits[1].copy()
    y[40:] = -1
    return y


@pytest.fixture(scope="module")
def pretrained(digits):
    return SimCLRTransformer(max_epochs=10, projection_layers=3, random_state=0).fit(digits[0])


def test_fine_tuning_learns_from_few_labels(digits, few, pretrained):
    X, y = digits
    before = state(pretrained.encoder_, pretrained.projector_)
    model = SimCLRClassifier(pretrained, start="zero", max_epochs=100, random_state=0).fit(X, few)
    # Over seeds 0.91 to 0.95 in float32 and 0.89 to 0.95 in bfloat16, which is used where the CPU has AMX.
    assert model.score(X[40:], y[40:]) > 0.87
    assert equal(state(pretrained.encoder_, pretrained.projector_), before)
    assert not equal(state(model.encoder_), state(pretrained.encoder_))
    assert model.pretrained_ is pretrained


def test_with_few_labels_it_is_the_linear_classifier_it_starts_from(digits, few, pretrained, monkeypatch):
    X, y = digits
    model = SimCLRClassifier(FrozenEstimator(pretrained), random_state=0).fit(X, few)
    assert model.n_iter_ == 0 and equal(state(model.encoder_), state(pretrained.encoder_))
    H = model.transform(X)
    penalty = linear_start(H[:40], y[:40], np.ones(40, dtype=np.float32), 4, 0).penalty
    spread = H[:40].astype(np.float64).std(axis=0)
    Z = H / np.maximum(spread, 0.03 * np.sqrt(np.mean(spread**2)))
    linear = LogisticRegression(C=1 / penalty, max_iter=2000, tol=1e-8).fit(Z[:40], y[:40])
    np.testing.assert_allclose(model.predict_proba(X), linear.predict_proba(Z), atol=0.03)
    # With many labels the network is trained, from there.
    monkeypatch.setattr("sklearn_simclr.estimators.simclr_classifier._LABELS_PER_CLASS", 100)
    tuned = SimCLRClassifier(pretrained, random_state=0).fit(X[:500], y[:500])
    assert tuned.n_iter_ >= 20 and not equal(state(tuned.encoder_), state(pretrained.encoder_))
    linear.fit(Z[:500], y[:500])
    assert tuned.score(X[500:], y[500:]) >= linear.score(Z[500:], y[500:]) - 0.02


def test_a_linear_start_with_a_class_of_no_row_and_one_class():
    rng = np.random.default_rng(0)
    H, codes = rng.normal(size=(30, 5)).astype(np.float32), np.repeat([0, 2], 15)
    H[codes == 2] += 3
    start = linear_start(H, codes, np.ones(30, dtype=np.float32), 3, 0)
    logits = H @ start.weight.numpy().T + start.bias.numpy()
    assert (logits.argmax(axis=1) == codes).all() and not start.weight[1].any()
    alone = linear_start(H[:3], codes[:3], np.ones(3, dtype=np.float32), 3, 0)
    assert not alone.weight.any() and not alone.bias.any()


def test_a_feature_that_hardly_varies_over_the_labelled_rows_does_not_outweigh_all_others():
    rng = np.random.default_rng(0)
    H, codes = rng.normal(size=(40, 5)), np.repeat([0, 1], 20)
    H[:, 0] += codes
    H[:, 4] = 1e-4 * (codes + H[:, 4])  # 0.5 and more in other images
    start = linear_start(H.astype(np.float32), codes, np.ones(40, dtype=np.float32), 2, 0)
    spread = H.std(axis=0)
    scale = np.maximum(spread, 0.03 * np.sqrt(np.mean(spread**2)))
    reference = LogisticRegression(C=2 / start.penalty, tol=1e-8).fit(H / scale, codes)
    slope = (start.weight[1] - start.weight[0]).numpy()
    np.testing.assert_allclose(slope, reference.coef_[0] / scale, rtol=0.02, atol=0.02)
    assert abs(slope[4]) < 100  # 1e4 by its own spread


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_any_layer_of_the_head_can_be_kept(digits, few, pretrained, layer):
    X = digits[0]
    model = SimCLRClassifier(pretrained, head_layer=layer, max_epochs=0).fit(X, few)
    assert model.classifier_.in_features == pretrained.projector_.layer_dim(layer)
    # Put another linear layer in the place of the one it starts with, to see what it is given.
    torch.nn.init.eye_(model.classifier_.weight)
    torch.nn.init.zeros_(model.classifier_.bias)
    expected = clone(pretrained).set_params(output=layer)
    expected.__dict__.update({k: v for k, v in pretrained.__dict__.items() if k != "output"})
    np.testing.assert_allclose(
        model.decision_function(X[:9]), expected.transform(X[:9])[:, :4], rtol=1e-4, atol=1e-5
    )


def test_a_layer_that_does_not_exist(digits, few, pretrained):
    with pytest.raises(ValueError, match="head_layer=4, but the projection head has 3 layers"):
        SimCLRClassifier(pretrained, head_layer=4).fit(digits[0], few)


class Counting(SimCLRTransformer):
    def fit(self, X, y=None):
        self.asked_ = len(X)
        return super().fit(X)


def test_fit_of_a_subclass_is_asked(digits, few):
    model = SimCLRClassifier(Counting(max_epochs=0), max_epochs=0).fit(digits[0], few)
    assert model.pretrained_.asked_ == len(few)


def test_an_unfitted_transformer_is_fitted_on_all_rows(digits, few):
    X = digits[0]
    transformer = SimCLRTransformer(max_epochs=1, random_state=3)
    model = SimCLRClassifier(transformer, max_epochs=0).fit(X, few)
    assert not hasattr(transformer, "encoder_")
    assert equal(state(model.encoder_), state(clone(transformer).fit(X).encoder_))


def test_only_labelled_rows_are_fine_tuned_on(digits, few, pretrained):
    X, y = digits
    alone = SimCLRClassifier(pretrained, max_epochs=3, random_state=0).fit(X[:40], y[:40])
    masked = SimCLRClassifier(pretrained, max_epochs=3, random_state=0).fit(X, few)
    assert equal(state(alone.encoder_, alone.classifier_), state(masked.encoder_, masked.classifier_))


def test_a_frozen_transformer_is_shared_by_folds(digits, pretrained, monkeypatch):
    X, y = digits[0][:200], digits[1][:200]
    model = SimCLRClassifier(FrozenEstimator(pretrained), max_epochs=40, random_state=0)

    def forbidden(*args, **kwargs):
        raise AssertionError("pretrained again")

    monkeypatch.setattr(SimCLRTransformer, "fit", forbidden)
    assert cross_val_score(clone(model), X, y, cv=2, error_score="raise").mean() > 0.8


def test_a_mistake_in_labels_costs_no_pretraining(digits, monkeypatch):
    monkeypatch.setattr(SimCLRTransformer, "fit", lambda *args: pytest.fail("pretrained"))
    with pytest.raises(ValueError, match="no labelled row"):
        SimCLRClassifier().fit(digits[0], np.full(len(digits[0]), -1))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (LogisticRegression(), TypeError, "pretrained must be a SimCLRTransformer"),
        (FrozenEstimator(SimCLRTransformer()), ValueError, "not fitted; fit the transformer first"),
        ("simclr", TypeError, "pretrained must be a SimCLRTransformer"),
    ],
)
def test_what_cannot_be_fine_tuned(digits, few, given, error, message):
    with pytest.raises(error, match=message):
        SimCLRClassifier(given).fit(digits[0], few)


def test_pixels_are_read_as_in_pretraining(digits, few, pretrained):
    dark = digits[0] / 2
    model = SimCLRClassifier(pretrained, max_epochs=1, random_state=0).fit(dark, few)
    assert model.pixel_range_ == pretrained.pixel_range_


def test_default_views_are_crops_and_flips_of_the_size_seen_in_pretraining(digits, few, pretrained):
    model = SimCLRClassifier(pretrained, max_epochs=0).fit(digits[0], few)
    views, before = model.augmentation_, pretrained.augmentation_
    assert (views.jitter_probability, views.grayscale_probability, views.blur_probability) == (0, 0, 0)
    assert views.size == before.size
    assert views.flip_probability == before.flip_probability


def test_other_views_can_be_asked_for(digits, few, pretrained):
    model = SimCLRClassifier(pretrained, max_epochs=0).set_params(augmentation__crop_scale=(0.9, 1.0))
    assert isinstance(model.augmentation, Augmentation)
    assert model.fit(digits[0], few).augmentation_.crop_scale == (0.9, 1.0)


def test_the_learning_rate_is_the_papers(digits, few, pretrained):
    params = {"max_epochs": 4, "start": "zero", "random_state": 0}
    model = SimCLRClassifier(pretrained, **params).fit(digits[0], few)
    first = model.history_["learning_rate"].iloc[0]
    assert first == pytest.approx(0.05 * 40 / 256 * (1 + np.cos(np.pi / 8)) / 2)


def test_early_stopping(digits, pretrained):
    X, y = digits
    # At 0.5, which stood here, the accuracy falls from the first epoch on: that it was high there was luck.
    model = SimCLRClassifier(
        pretrained,
        early_stopping=True,
        n_iter_no_change=2,
        max_epochs=200,
        learning_rate=0.05,
        random_state=0,
    ).fit(X[:200], y[:200])
    assert model.n_iter_ < 200
    assert model.history_["validation_accuracy"].max() > 0.8


def test_early_stopping_keeps_the_start_that_no_epoch_betters(digits, pretrained):
    X, y = digits
    options = {"early_stopping": True, "n_iter_no_change": 1, "learning_rate": 0.5, "random_state": 0}
    model = SimCLRClassifier(pretrained, max_epochs=3, **options).fit(X[:60], y[:60])
    start = SimCLRClassifier(pretrained, max_epochs=0, **options).fit(X[:60], y[:60])
    assert model.n_iter_ == 1
    assert equal(state(model.encoder_), state(pretrained.encoder_))
    np.testing.assert_array_equal(model.predict_proba(X[60:90]), start.predict_proba(X[60:90]))


def test_files_are_decoded_once_for_both_trainings(digits, few, tmp_path, monkeypatch):
    from PIL import Image

    from sklearn_simclr.estimators import base as _base

    paths = []
    for number, image in enumerate(digits[0][:60]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray((image * 15).astype(np.uint8)).save(paths[-1])
    calls = []
    read = _base.read_rows
    monkeypatch.setattr(_base, "read_rows", lambda rows, **how: calls.append(len(rows)) or read(rows, **how))
    model = SimCLRClassifier(SimCLRTransformer(max_epochs=1), max_epochs=1, random_state=0)
    model.fit(paths, few[:60])
    assert calls == [60]
    # As if it had read them itself.
    alone = SimCLRTransformer(max_epochs=1, random_state=0).fit(paths)
    np.testing.assert_array_equal(model.pretrained_.transform(paths), alone.transform(paths))


def test_parameters_of_an_unfitted_transformer_are_checked(digits, few):
    model = SimCLRClassifier(SimCLRTransformer(max_epochs=-1))
    with pytest.raises(ValueError, match="'max_epochs' parameter of SimCLRTransformer"):
        model.fit(digits[0], few)
    assert not hasattr(model, "pretrained_")


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [
        (0, set()),
        (1, {"convs.3", "norms.3"}),
        (["norms.0", "convs.2"], {"norms.0", "convs.2"}),
        ("all", {f"{kind}.{k}" for kind in ("convs", "norms") for k in range(4)}),
    ],
)
def test_only_the_chosen_part_of_the_encoder_is_trained(digits, few, pretrained, trainable, moved):
    model = SimCLRClassifier(pretrained, trainable=trainable, max_epochs=2, random_state=0)
    model.fit(digits[0], few)
    before, after = pretrained.encoder_.state_dict(), model.encoder_.state_dict()
    found = {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert found == moved  # with the statistics of BatchNorm, which are in the state
    assert model.classifier_.weight.abs().sum() > 0
    needs = [p.requires_grad for p in model.encoder_.parameters()]
    assert needs == [p.requires_grad for p in pretrained.encoder_.parameters()]


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (5, "trainable=5, but the encoder has 4 blocks"),
        (["layer4"], "\\['layer4'\\], but the encoder has no such modules"),
    ],
)
def test_parts_that_the_encoder_does_not_have(digits, few, pretrained, trainable, message):
    with pytest.raises(ValueError, match=message):
        SimCLRClassifier(pretrained, trainable=trainable).fit(digits[0], few)


def test_blocks_of_other_networks():
    resnet = make_encoder("resnet18", 3, (8, 8))[0]
    names = [("conv1",), ("bn1",), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    assert blocks(resnet) == names
    assert blocks(PreprocessedNetwork(resnet, Preprocessing(8))) == [(f"network.{n}",) for (n,) in names]
    assert blocks(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))) == [("1",)]


def test_mirror_images_count_where_they_do_for_the_transformer(digits, few):
    X = digits[0]
    transformer = SimCLRTransformer(max_epochs=0, mirror=True, random_state=0).fit(X)
    model = SimCLRClassifier(transformer, random_state=0).fit(X, few)
    assert model.mirror_
    np.testing.assert_array_equal(model.transform(X), transformer.transform(X))
    np.testing.assert_allclose(model.predict_proba(X), model.predict_proba(X[..., ::-1]), atol=1e-5)


def test_linear_evaluation_is_a_naive_loop_of_sgd_with_nesterov_momentum(digits, few, pretrained):
    X, y = digits
    whole = Augmentation(size=(8, 8), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)
    whole.set_params(jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)
    model = SimCLRClassifier(pretrained, start="zero", trainable=0, augmentation=whole, random_state=0)
    model.set_params(precision="float32").fit(X, few)
    assert model.n_iter_ == 90 and equal(state(model.encoder_), state(pretrained.encoder_))
    h = model.transform(X[:40]).astype(np.float64)
    W, b = np.zeros((4, h.shape[1])), np.zeros(4)
    moving = [np.zeros_like(W), np.zeros_like(b)]
    for step in range(90):  # one batch an epoch, whose rate is that of its middle
        rate = 0.1 * 40 / 256 * (1 + np.cos(np.pi * (step + 0.5) / 90)) / 2
        odds = np.exp(h @ W.T + b)
        residual = (odds / odds.sum(1, keepdims=True) - np.eye(4)[y[:40]]) / 40
        for k, (parameter, gradient) in enumerate(((W, residual.T @ h), (b, residual.sum(0)))):
            moving[k] = 0.9 * moving[k] + gradient
            parameter -= rate * (gradient + 0.9 * moving[k])
    np.testing.assert_allclose(model.classifier_.weight.detach(), W, atol=1e-3 * np.abs(W).max())
    np.testing.assert_allclose(model.classifier_.bias.detach(), b, atol=1e-3)
