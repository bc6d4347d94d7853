"""The transfer protocol, on digits, against the steps done by hand; and the script that uses it."""

import copy
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from sklearn_simclr import (
    LinearEvaluationClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    compare_transfers,
    export_encoder,
    transfer_evaluation,
)
from sklearn_simclr.encoders import Preprocessing
from sklearn_simclr.encoders import resnet as _resnet
from sklearn_simclr.encoders.preprocessing import PreprocessedNetwork
from sklearn_simclr.estimators.multilabel_classifier import MultiLabelFineTuning
from sklearn_simclr.evaluation import mean_average_precision_11point
from sklearn_simclr.evaluation._multilabel import MultiLabelProbe

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "transfer_stl10.py"
HELD = np.arange(0, 120, 5)
TRAINING = np.setdiff1d(np.arange(120), HELD)
QUICK = {"n_steps": 2, "grid": [(0.05, 0.0), (0.1, 0.01)], "validation": HELD, "random_state": 0}


def tiny(in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 24),
    )


@pytest.fixture(scope="module")
def data(digits):
    """Training and test images; rows of each class in both."""
    X, y = digits
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    return {"X": X[:120], "y": names[y[:120]], "X_test": X[120:270], "y_test": names[y[120:270]]}


@pytest.fixture(scope="module")
def labels(data):
    """A matrix of three labels that do not exclude each other."""

    def matrix(names):
        has = [np.char.find(names, letter) >= 0 for letter in "eoi"]
        return np.stack(has, axis=1).astype(int)

    return {**data, "y": matrix(data["y"]), "y_test": matrix(data["y_test"])}


@pytest.fixture(scope="module")
def encoder(digits):
    params = {"max_epochs": 1, "batch_size": 64, "random_state": 0}
    return SimCLRTransformer(tiny, **params).fit(digits[0][300:500])


@pytest.fixture(scope="module")
def result(encoder, data):
    return transfer_evaluation(encoder, **data, **QUICK)


def test_the_tables(result, data):
    assert result.scores["protocol"].tolist() == ["linear", "fine_tuned", "random_init"]
    assert set(result.scores["metric"]) == {"accuracy"} == {result.metric}
    assert set(result.scores["n_train"]) == {120}
    assert set(result.scores["n_test"]) == {150}
    assert result.trials.groupby("protocol", sort=False).size().to_dict() == {
        "linear": 45,
        "fine_tuned": 2,
        "random_init": 2,
    }
    for row in result.scores.itertuples():
        assert row.score == np.mean(result.predictions[row.protocol] == data["y_test"])
        trials = result.trials[result.trials["protocol"] == row.protocol]
        assert row.validation_score == trials["validation_score"].max()
        chosen = trials[trials["validation_score"] == row.validation_score]
        assert row.penalty in set(chosen["penalty"]) or row.learning_rate in set(chosen["learning_rate"])
    # Twice as many steps from random weights, in whole epochs of one batch.
    epochs = result.scores.set_index("protocol")["n_epochs"]
    assert epochs[["fine_tuned", "random_init"]].tolist() == [2, 4]
    assert pd.isna(epochs["linear"])


def test_linear_is_linear_evaluation_of_frozen_features(result, encoder, data):
    probe = LinearEvaluationClassifier(validation=HELD).fit(encoder.transform(data["X"]), data["y"])
    assert np.array_equal(probe.predict(encoder.transform(data["X_test"])), result.predictions["linear"])
    trials = result.trials[result.trials["protocol"] == "linear"]
    assert trials["penalty"].tolist() == probe.penalties_.tolist()
    assert trials["validation_score"].tolist() == probe.validation_scores_.tolist()
    assert result.scores["penalty"][0] == probe.penalty_
    answers = np.unique(data["y"])[result.estimators["linear"].predict(data["X_test"])]
    assert np.array_equal(answers, result.predictions["linear"])


def test_before_a_linear_classifier_nothing_is_cut_off_images(encoder, data):
    def sees(part):
        other = copy.copy(encoder)
        network = copy.deepcopy(encoder.encoder_)
        network.out_dim = 24
        other.encoder_ = PreprocessedNetwork(network, Preprocessing(8, part)).eval()
        return other

    given = sees(0.5)
    found = transfer_evaluation(given, **data, protocols="linear", validation=HELD)
    probe = LinearEvaluationClassifier(validation=HELD).fit(sees(1.0).transform(data["X"]), data["y"])
    expected = probe.predict(sees(1.0).transform(data["X_test"]))
    assert np.array_equal(expected, found.predictions["linear"])
    assert given.encoder_.preprocessing.crop_fraction == 0.5  # of fine-tuning, and of transform
    assert not np.array_equal(given.transform(data["X"]), sees(1.0).transform(data["X"]))


def test_fine_tuning_is_chosen_on_the_validation_rows_and_fitted_again(result, encoder, data):
    y = np.unique(data["y"], return_inverse=True)[1]
    scores = {}
    for rate, decay in QUICK["grid"]:
        model = SimCLRClassifier(
            FrozenEstimator(encoder),
            start="zero",
            optimizer="sgd",
            learning_rate=rate,
            weight_decay=decay / rate,
        ).set_params(max_epochs=2, random_state=0)
        tuned = model.fit(data["X"][TRAINING], y[TRAINING])
        scores[rate] = np.mean(tuned.predict(data["X"][HELD]) == y[HELD])
        if rate == result.scores["learning_rate"][1]:
            again = model.fit(data["X"], y).predict(data["X_test"])
            assert np.array_equal(np.unique(data["y"])[again], result.predictions["fine_tuned"])
    trials = result.trials[result.trials["protocol"] == "fine_tuned"]
    assert dict(zip(trials["learning_rate"], trials["validation_score"], strict=True)) == scores


def test_test_labels_choose_nothing(encoder, data, result):
    shuffled = np.random.default_rng(0).permutation(data["y_test"])
    other = transfer_evaluation(encoder, **{**data, "y_test": shuffled}, **QUICK)
    columns = ["protocol", "penalty", "learning_rate", "weight_decay", "n_epochs", "validation_score"]
    pd.testing.assert_frame_equal(other.trials[columns], result.trials[columns])
    for protocol, predicted in result.predictions.items():
        assert np.array_equal(other.predictions[protocol], predicted)
    assert (other.scores["score"] != result.scores["score"]).any()


def test_random_init_knows_nothing_of_the_trained_weights(encoder, data, result, digits):
    params = {"max_epochs": 0, "random_state": 5}
    other = SimCLRTransformer(tiny, **params).fit(digits[0][300:500])
    found = transfer_evaluation(other, **data, **QUICK, protocols="random_init")
    assert np.array_equal(found.predictions["random_init"], result.predictions["random_init"])
    begun = result.estimators["random_init"].pretrained_.encoder_
    assert not torch.equal(begun[0].weight, encoder.encoder_[0].weight)
    assert torch.equal(begun[1].running_mean, torch.zeros(8))
    fine = result.estimators["fine_tuned"].pretrained_.encoder_
    assert torch.equal(fine[0].weight, encoder.encoder_[0].weight)


@pytest.mark.parametrize("name", ["compact", "resnet18"])
def test_random_init_of_named_and_of_published_networks(tmp_path, monkeypatch, digits, data, name):
    monkeypatch.setattr(_resnet, "BASE_CHANNELS", 8)
    simclr = SimCLRTransformer(name, max_epochs=0, random_state=0).fit(digits[0][300:500])
    export_encoder(simclr, tmp_path / "mine")
    published = SimCLRTransformer(weights=tmp_path / "mine", max_epochs=0).fit(digits[0][300:500])
    X = {**data, "X": data["X"][:40], "y": data["y"][:40]}
    settings = {**QUICK, "validation": 0.2, "n_steps": 1, "grid": [(0.05, 0)], "protocols": ("random_init",)}
    found = [transfer_evaluation(estimator, **X, **settings) for estimator in (simclr, published)]
    begun = [each.estimators["random_init"].pretrained_.encoder_.state_dict() for each in found]
    for key, value in begun[0].items():
        assert torch.equal(value, begun[1][key])
        if value.ndim > 1:
            assert not torch.equal(value, simclr.encoder_.state_dict()[key])
    assert np.array_equal(*(each.predictions["random_init"] for each in found))


def test_mean_per_class_accuracy_chooses_and_is_reported(encoder, data):
    keep = np.flatnonzero(np.isin(data["y"], ["one", "two"]) | (np.arange(120) % 3 == 0))
    X, y = data["X"][keep], data["y"][keep]
    held = np.arange(0, len(keep), 4)
    found = transfer_evaluation(
        encoder, X, y, X_test=data["X_test"], y_test=data["y_test"], metric="mean_per_class",
        protocols=("linear",), validation=held,
    )  # fmt: skip
    probe = LinearEvaluationClassifier(validation=held, scoring="balanced_accuracy")
    probe.fit(encoder.transform(X), y)
    assert found.trials["validation_score"].tolist() == probe.validation_scores_.tolist()
    expected = balanced_accuracy_score(data["y_test"], probe.predict(encoder.transform(data["X_test"])))
    assert found.scores["score"][0] == pytest.approx(expected)


def test_a_transformer_that_learnt_more_scores_higher(digits):
    X, y = digits
    rows = {"X": X[:200], "y": y[:200], "X_test": X[1000:], "y_test": y[1000:]}
    settings = {"protocols": ("linear",), "random_state": 0}
    trained = SimCLRTransformer(max_epochs=5, random_state=0).fit(X[200:1000])
    random = SimCLRTransformer(tiny, max_epochs=0, random_state=0).fit(X[200:1000])
    first, second = (transfer_evaluation(each, **rows, **settings) for each in (trained, random))
    test = compare_transfers(first, second)
    assert test.statistic == pytest.approx(first.scores["score"][0] - second.scores["score"][0])
    assert test.pvalue < 0.05


# ---- Several labels per image -----------------------------------------------------------------


def test_several_labels_an_image(encoder, labels):
    found = transfer_evaluation(encoder, **labels, **{**QUICK, "n_steps": 20})
    assert found.metric == "mean_average_precision"
    assert found.classes.tolist() == [0, 1, 2]
    chance = labels["y_test"].mean()
    for row in found.scores.itertuples():
        outputs = found.predictions[row.protocol]
        assert outputs.shape == (150, 3)
        assert row.score == mean_average_precision_11point(labels["y_test"], outputs)
        assert row.score > chance
    test = compare_transfers(found, found, ("linear", "fine_tuned"), n_resamples=50, random_state=0)
    assert test.statistic == pytest.approx(found.scores["score"][0] - found.scores["score"][1])
    assert 2 / 51 <= test.pvalue <= 1


def test_the_linear_classifiers_of_several_labels_are_scikit_learns():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 6))
    Y = (X @ rng.standard_normal((6, 3)) + 2 * rng.standard_normal((80, 3)) > 0.3).astype(int)
    penalties, held = np.array([0.1, 1000.0, 10.0]), np.arange(0, 80, 4)
    probe = MultiLabelProbe(penalties, held).fit(X, Y)
    training = np.setdiff1d(np.arange(80), held)

    def logits(rows, penalty, at):
        fits = [LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000) for _ in range(3)]
        return np.stack([fit.fit(X[rows], Y[rows, k]).decision_function(at) for k, fit in enumerate(fits)], 1)

    expected = [mean_average_precision_11point(Y[held], logits(training, p, X[held])) for p in penalties]
    np.testing.assert_allclose(probe.validation_scores_, expected)
    assert probe.penalty_ == penalties[np.argmax(expected)]
    new = rng.standard_normal((5, 6))
    np.testing.assert_allclose(
        probe.decision_function(new), logits(np.arange(80), probe.penalty_, new), atol=1e-3
    )
    # A label that all or none have says nothing.
    constant = MultiLabelProbe(penalties, held).fit(X, np.column_stack([Y, np.ones(80, int)]))
    assert np.ptp(constant.decision_function(new)[:, 3]) == 0


def test_fine_tuning_for_several_labels_minimises_their_cross_entropy(encoder, labels):
    X, Y = labels["X"], labels["y"]
    model = MultiLabelFineTuning(
        FrozenEstimator(encoder), max_epochs=1, learning_rate=1e-9, batch_size=120, random_state=0
    ).fit(X, Y)
    # Nothing is learnt at that rate, and the classifier starts at zero: log 2 a label.
    assert model.loss_curve_[0] == pytest.approx(np.log(2), abs=1e-5)
    model.set_params(max_epochs=100, learning_rate=0.1).fit(X, Y)
    odds = 1 / (1 + np.exp(-model.decision_function(X).astype(np.float64)))
    entropy = -np.mean(Y * np.log(odds) + (1 - Y) * np.log1p(-odds))
    assert entropy < 0.35
    assert ((odds > 0.5) == Y).mean() > 0.8


# ---- The permutation test --------------------------------------------------------------------


def result_of(predicted, y, metric="accuracy"):
    return {"predictions": {"linear": predicted}, "metric": metric, "y_test": y}


def all_exchanges(first, second, y, statistic):
    """Return the p-value from all 2^n ways to exchange the predictions for n images."""
    observed = abs(statistic(y, first) - statistic(y, second))
    extreme = 0
    for swap in itertools.product([False, True], repeat=len(y)):
        swap = np.array(swap).reshape(-1, *(1,) * (first.ndim - 1))
        one = np.where(swap, second, first)
        other = np.where(swap, first, second)
        extreme += abs(statistic(y, one) - statistic(y, other)) >= observed - 1e-12
    return extreme / 2 ** len(y)


@pytest.mark.parametrize("better, worse", [(0, 0), (1, 0), (3, 0), (5, 5), (10, 2)])
def test_few_accuracies_that_differ_are_compared_by_the_sign_test(better, worse):
    y = np.zeros(better + worse + 22, dtype=int)
    one, other = y.copy(), y.copy()
    other[:better] = 1
    one[better : better + worse] = 1
    one[-5:] = other[-5:] = 1  # wrong in both
    found = compare_transfers(result_of(one, y), result_of(other, y))
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1
    assert found.pvalue == pytest.approx(expected, rel=1e-9)
    assert found.statistic == pytest.approx((better - worse) / len(y))


def test_many_accuracies_that_differ_are_sampled():
    y = np.zeros(2000, dtype=int)
    one, other = y.copy(), y.copy()
    other[:200], one[200:350] = 1, 1
    results = result_of(one, y), result_of(other, y)
    expected = stats.binomtest(200, 350).pvalue
    found = compare_transfers(*results, random_state=0)
    # One side is estimated and doubled.
    assert found.pvalue == pytest.approx(expected, abs=4 * np.sqrt(2 * expected / 10_000))
    assert found.pvalue == compare_transfers(*results, random_state=0).pvalue
    assert compare_transfers(result_of(y, y), result_of(1 - y, y), n_resamples=99).pvalue == 0.02


@pytest.mark.parametrize("seed", range(6))
def test_the_test_of_mean_per_class_accuracy_against_all_exchanges(seed):
    rng = np.random.default_rng(seed)
    y = np.repeat(["a", "b", "c"], [6, 3, 2])
    one, other = np.where(rng.integers(0, 2, (2, 11)), y, "d")
    found = compare_transfers(*(result_of(each, y, "mean_per_class") for each in (one, other)))

    def mean_per_class(y, predicted):
        return np.mean([np.mean(predicted[y == label] == label) for label in "abc"])

    assert found.pvalue == pytest.approx(all_exchanges(one, other, y, mean_per_class))
    assert found.statistic == pytest.approx(mean_per_class(y, one) - mean_per_class(y, other), abs=1e-12)


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(0)
    y, pvalues = np.ones(100), []
    for _ in range(300):
        one, other = rng.random((2, 100)) < 0.7
        pvalues.append(compare_transfers(result_of(one, y), result_of(other, y), n_resamples=499).pvalue)
    # Discrete: never more often below a level than the level, but for chance, and not much less often.
    assert 0.01 < np.mean(np.array(pvalues) <= 0.05) < 0.085


def test_the_test_of_mean_average_precision_against_all_exchanges():
    rng = np.random.default_rng(1)
    y = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0]])
    strong = y + 0.3 * rng.standard_normal(y.shape)
    weak = 0.3 * y + rng.standard_normal(y.shape)
    # Of another unit: only the order counts.
    results = [result_of(scores, y, "mean_average_precision") for scores in (strong, 1e6 * weak - 7)]
    ranks = [np.argsort(np.argsort(scores, axis=0), axis=0) for scores in (strong, weak)]
    expected = all_exchanges(*ranks, y, mean_average_precision_11point)
    assert compare_transfers(*results).pvalue == pytest.approx(expected)
    sampled = compare_transfers(*results, n_resamples=127, random_state=0)
    assert sampled.pvalue == pytest.approx(expected, abs=8 * np.sqrt(0.25 / 127))
    assert len(sampled.null_distribution) == 127
    same = compare_transfers(results[0], results[0], n_resamples=10, random_state=0)
    assert (same.statistic, same.pvalue) == (0, 1)


# ---- Parameters ------------------------------------------------------------------------------


def test_the_papers_grids():
    from sklearn_simclr.evaluation._transfer_checks import check_grid

    fine, random = (np.array(check_grid("paper")[name]) for name in ("fine_tuned", "random_init"))
    assert len(fine) == len(random) == 56
    np.testing.assert_allclose(np.unique(fine[:, 0])[[0, -1]], [1e-4, 0.1])
    np.testing.assert_allclose(np.unique(fine[:, 1])[[0, 1, -1]], [0, 1e-6, 1e-3])
    np.testing.assert_allclose(np.unique(random[:, 0])[[0, -1]], [1e-3, 1])
    np.testing.assert_allclose(np.unique(random[:, 1])[[0, -1]], [1e-5, 10**-1.5])


def test_a_mask_names_the_same_rows(encoder, data):
    mask = np.isin(np.arange(120), HELD)
    settings = {"protocols": ("linear",), "penalties": [1, 100]}
    one, other = (transfer_evaluation(encoder, **data, **settings, validation=rows) for rows in (HELD, mask))
    assert one.trials["validation_score"].tolist() == other.trials["validation_score"].tolist()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"estimator": LogisticRegression()}, TypeError, "SimCLRTransformer, got LogisticRegression"),
        ({"estimator": SimCLRTransformer()}, NotFittedError, "not fitted"),
        ({"protocols": ("linear", "zero_shot")}, ValueError, "protocols must be some of"),
        ({"protocols": ()}, ValueError, "protocols must be some of"),
        ({"metric": "auc"}, ValueError, "metric must be 'auto' or one of"),
        ({"metric": "mean_average_precision"}, ValueError, "does not go with y of 1 dimensions"),
        ({"validation": 1.5}, ValueError, "validation=1.5 of 120 rows"),
        ({"validation": [500]}, ValueError, "validation names row 500; X has rows 0 to 119"),
        ({"validation": np.arange(119)}, ValueError, "validation names 119 of 120 rows"),
        ({"validation": "half"}, ValueError, "validation must be a share"),
        ({"grid": [(0, 1)]}, ValueError, "grid must be"),
        ({"grid": "long"}, ValueError, "grid must be"),
        ({"n_steps": 0}, ValueError, "n_steps must be"),
        ({"penalties": [-1]}, ValueError, r"penalties\[0\] is -1"),
        ({"y": np.zeros(7)}, ValueError, r"y has the shape \(7,\) for 120 images"),
        ({"y": np.zeros((120, 2))}, ValueError, "the same kind of labels"),
        ({"y": np.array([None] * 120, dtype=object)}, ValueError, r"y\[0\] has no label"),
        ({"y": np.full(120, "two")}, ValueError, "single class"),
        ({"y": np.full((120, 2), 3), "y_test": np.zeros((150, 2))}, ValueError, "must hold 0 and 1"),
    ],
)
def test_bad_parameters(encoder, data, change, error, message):
    arguments = {"estimator": encoder, **data, **change}
    with pytest.raises(error, match=message):
        transfer_evaluation(arguments.pop("estimator"), arguments.pop("X"), arguments.pop("y"), **arguments)


def test_rates_that_diverge_are_not_chosen(encoder, data):
    settings = {**QUICK, "protocols": ("fine_tuned",), "n_steps": 30}
    found = transfer_evaluation(encoder, **data, **{**settings, "grid": [(1e12, 0), (0.05, 0)]})
    assert found.scores["learning_rate"].tolist() == [0.05]
    scores = found.trials["validation_score"]
    assert np.isnan(scores[0])
    with pytest.raises(ValueError, match="no score for any pair of grid"):
        transfer_evaluation(encoder, **data, **{**settings, "grid": [(1e12, 0)]})


def test_weights_that_cannot_be_drawn_anew(data):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images):
            return self.scale * images.flatten(1)

    simclr = SimCLRTransformer(Fixed(), max_epochs=0).fit(data["X"])
    with pytest.raises(ValueError, match="random_init: .*Fixed.*reset_parameters.*Leave 'random_init' out"):
        transfer_evaluation(simclr, **data, protocols="random_init")


def test_results_that_cannot_be_compared(encoder, data, result, labels):
    linear = {"protocols": ("linear",), "penalties": [1], "validation": HELD}
    fewer = {**data, "X_test": data["X_test"][:100], "y_test": data["y_test"][:100]}
    with pytest.raises(ValueError, match="differ in y_test"):
        compare_transfers(result, transfer_evaluation(encoder, **fewer, **linear))
    with pytest.raises(ValueError, match="first was scored by accuracy and second by mean_average_precision"):
        compare_transfers(result, transfer_evaluation(encoder, **labels, **linear))
    with pytest.raises(ValueError, match="first has no protocol 'zero_shot', only linear, fine_tuned"):
        compare_transfers(result, result, "zero_shot")
    with pytest.raises(ValueError, match="n_resamples"):
        compare_transfers(result, result, n_resamples=0)


# ---- The script ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    """The script as a module, which finds the one beside it as when it is run."""
    spec = importlib.util.spec_from_file_location("transfer_stl10", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec.loader.exec_module(module)
    return module


def run(script, output, *arguments):
    arguments = ["--n-train", 100, "--n-test", 80, "--output", output, *arguments]
    script.main(list(map(str, arguments)))
    table, curves = (pd.read_csv(output / f"{name}.csv") for name in ("transfer", "label_fractions"))
    assert table["encoder"].tolist() == ["SimCLR", "supervised", "random"]
    assert (output / "transfer.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in output.iterdir()} == {"transfer.csv", "label_fractions.csv", "transfer.png"}
    return table, curves


def test_the_script_on_digits(script, tmp_path, capsys):
    arguments = ("--data", "digits", "--max-epochs", 2, "--draws", 2, "--fractions", 0.2, 1.0)
    table, curves = run(script, tmp_path, *arguments)
    # Half of the ten digits are for the encoders.
    assert table["score"].between(0.4, 1).all()
    assert curves.groupby(["estimator", "fraction"]).size().to_dict() == {
        (name, fraction): 2 for name in ("SimCLR", "supervised", "random") for fraction in (0.2, 1.0)
    }
    text = capsys.readouterr().out
    assert "100 training and 80 test images of 5 classes" in text
    assert "SimCLR - supervised: " in text
    assert "p = " in text


def test_the_script_on_files_and_published_weights(script, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(100):
            pixels = rng.integers(0, 100, (10, 12, 3), dtype=np.uint8) + np.uint8(100 * number)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    X = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    export_encoder(SimCLRTransformer(max_epochs=0, random_state=0).fit(X), tmp_path / "simclr")
    supervised = SupervisedTransformer(max_epochs=0, random_state=0).fit(X, np.arange(40) % 2)
    export_encoder(supervised, tmp_path / "supervised")
    table, _ = run(
        script, tmp_path / "out", "--data", "folder", tmp_path / "images", "--image-size", 8, "--draws", 1,
        "--fractions", 1.0, "--encoders", "published", "--simclr-weights", tmp_path / "simclr",
        "--supervised-weights", tmp_path / "supervised",
    )  # fmt: skip
    assert (table["score"] > 0.7).all()  # chance is 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "digits", "--encoders", "published"], "needs --simclr-weights"),
        (["--data", "stl10"], "needs --simclr-weights"),
        (["--data", "stl10", "--encoders", "trained"], "for stl10 pass weights"),
        (["--data", "folder"], "digits, stl10 or folder PATH"),
        (["--data", "mnist"], "digits, stl10 or folder PATH"),
    ],
)
def test_the_script_says_what_is_missing(script, capsys, arguments, message):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err
