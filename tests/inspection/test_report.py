"""Reports tell good encoders from bad ones; their numbers agree with loops in float64; a page is a page."""

import copy
import html
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_simclr import (
    AutoencoderTransformer,
    PACBayesContrastiveTransformer,
    PixelTransformer,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr.estimators.untrained import untrained_modules
from sklearn_simclr.images import ImageSource
from sklearn_simclr.inspection._measures import (
    _cosines,
    _cosines_of_pixels,
    _leave_one_out,
    measure_views,
)
from sklearn_simclr.inspection._report import Finding, representation_report
from sklearn_simclr.inspection._report_page import report_page, report_text
from sklearn_simclr.training.forecast import LossPrediction, predict_loss
from sklearn_simclr.training.watch import TrainingWatch, spread


def small_encoder():
    """Return an encoder that learns digits in seconds."""
    layers = []
    for before, after, stride in ((1, 16, 2), (16, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def plain_encoder():
    """Return an encoder that nothing keeps from collapsing."""
    convolutions = (nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def fit(X, max_epochs, **params):
    params = {"encoder": small_encoder, "batch_size": 64, "random_state": 0, **params}
    return SimCLRTransformer(max_epochs=max_epochs, **params).fit(X)


@pytest.fixture(scope="module")
def images(digits):
    return digits[0][:384]


@pytest.fixture(scope="module")
def labels(digits):
    y = digits[1][:384].copy()
    y[200:] = -1
    return y


@pytest.fixture(scope="module")
def good(images):
    return fit(images, 60)


@pytest.fixture(scope="module")
def report(good, images, labels):
    return representation_report(good, images, labels)


def collapse(fitted):
    """Return a copy whose last layer gives the same for all images."""
    fitted = copy.deepcopy(fitted)
    with torch.no_grad():
        fitted.encoder_[7].weight.zero_()
        fitted.encoder_[7].bias.fill_(1.0)
    return fitted


def test_the_report_tells_the_four_apart(report, good, images, labels):
    encoders = {
        "collapsed": collapse(good),
        "untrained": fit(images, 0),
        "undertrained": fit(images, 1),
    }
    reports = {name: representation_report(encoder, images, labels) for name, encoder in encoders.items()}
    reports["trained"] = report
    assert {name: found.verdict for name, found in reports.items()} == {name: name for name in reports}
    titles = {name: found.findings[0].title for name, found in reports.items()}
    assert titles["collapsed"] == "collapsed: every view maps to one point"
    assert titles["untrained"].startswith("untrained")
    assert titles["undertrained"].startswith("hardly begun to learn: 1 epoch of")
    assert "6 steps" in titles["undertrained"]
    assert [reports[name].findings[0].level for name in reports] == ["problem"] * 3 + ["good"]
    advice = {name: found.findings[0].advice for name, found in reports.items()}
    assert "learning_rate" in advice["collapsed"] and "max_epochs" in advice["undertrained"]
    values = {name: found.values for name, found in reports.items()}
    assert values["collapsed"]["contrastive_accuracy"] == 0 and values["collapsed"]["alignment"] == 0
    assert values["trained"]["contrastive_accuracy"] > 3 * values["untrained"]["contrastive_accuracy"]
    assert values["trained"]["knn_accuracy"] > values["untrained"]["knn_accuracy"]
    assert values["trained"]["knn_accuracy_pixels"] == values["untrained"]["knn_accuracy_pixels"]


@pytest.mark.parametrize("seed", [1, 2])
def test_verdicts_do_not_depend_on_the_draw(good, images, seed):
    verdicts = [
        representation_report(encoder, images, n_images=300, random_state=seed).verdict
        for encoder in (collapse(good), fit(images, 0, random_state=seed), good)
    ]
    assert verdicts == ["collapsed", "untrained", "trained"]


def test_an_encoder_that_is_still_learning_is_told_what_2x_brings(images):
    found = representation_report(fit(images, 8), images)
    assert found.verdict == "undertrained"
    assert found.findings[0].title == "still learning after 8 epochs: 2x the epochs is predicted to help"
    text = " ".join(str(found).split())
    assert f"from {found.prediction.loss:.2f} to about {found.prediction.predicted:.2f} (" in text


def test_a_collapsed_projection_of_good_representations_is_told_apart(good, images):
    fitted = copy.deepcopy(good)
    with torch.no_grad():
        fitted.projector_.layers[-1][0].weight.zero_()
    found = representation_report(fitted, images)
    assert found.verdict == "collapsed" and "every projection" in found.findings[0].title
    assert found.prediction is None and "predicted_training_loss" not in found.values


def test_training_that_taught_nothing_is_not_called_undertrained(images):
    """As many steps as a good encoder had, but so small that the weights stayed."""
    with warnings.catch_warnings():
        # Of fit, which may have noticed as well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = fit(images[:64], 80, learning_rate=1e-9, batch_size=16, encoder=plain_encoder)
    found = representation_report(fitted, images)
    assert found.verdict == "untrained" and found.findings[0].title.startswith("learnt nothing in 80 epochs")


def naive_loss(z, temperature):
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):
        others = [z[i] @ z[k] / temperature for k in range(2 * n) if k != i]
        total += np.logaddexp.reduce(others) - z[i] @ z[(i + n) % (2 * n)] / temperature
    return total / (2 * n)


def test_the_numbers_are_those_of_loops_in_float64(good, images):
    source = good._read_images(images[:30], reset=False)
    (measured,), n_pairs, chance = measure_views(good, [[good.encoder_, good.projector_]], source, seed=5)
    generator = torch.Generator().manual_seed(5)
    pixels = source.take(slice(0, 30))
    views = good.augmentation_(pixels, generator, n_views=2)
    with torch.no_grad():
        z = good.projector_(good.encoder_(views)).double().numpy()
        h = good.encoder_(pixels).double().numpy()
    assert n_pairs == 30 and chance == pytest.approx(np.log(59), rel=1e-6)
    assert measured.loss == pytest.approx(naive_loss(z, good.temperature), rel=1e-4)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.testing.assert_allclose(measured.positives, np.diagonal(similarity, 30), atol=1e-5)
    assert measured.alignment == pytest.approx(np.mean(2 - 2 * np.diagonal(similarity, 30)), rel=1e-4)
    assert np.sort(measured.negatives) == pytest.approx(
        np.sort([similarity[i, 30 + j] for i in range(30) for j in range(30) if i != j]), abs=1e-5
    )
    np.testing.assert_allclose(
        measured.spectrum**2, np.linalg.eigvalsh(30 * np.cov(h.T, bias=True))[::-1][:30], rtol=1e-3, atol=1e-5
    )


def test_the_vote_leaves_one_out():
    rng = np.random.default_rng(0)
    h, codes = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    right = 0
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j: -(unit[i] @ unit[j]))[:7]
        votes = [sum(np.exp(unit[i] @ unit[j] / 0.07) for j in others if codes[j] == c) for c in range(3)]
        right += np.argmax(votes) == codes[i]
    assert _leave_one_out(_cosines(h), codes, 7) == right / 40
    twice = _cosines(np.eye(4)[[0, 0, 1, 1]])
    assert _leave_one_out(twice, np.array([0, 0, 1, 1]), 1) == 1.0


def test_cosines_of_pixels_are_those_of_the_images_as_rows(monkeypatch):
    monkeypatch.setattr("sklearn_simclr.images.indexing._BLOCK_BYTES", 2500)
    pixels = np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8))
    rows = pixels.reshape(23, -1) / 255
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = _cosines_of_pixels(ImageSource(torch.from_numpy(pixels), (0, 255)))
    np.testing.assert_allclose(found(slice(4, 21)), unit[4:21] @ unit.T, atol=1e-6)


def test_spread_is_half_the_mean_squared_distance():
    x = np.random.default_rng(0).normal(size=(12, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = np.mean([np.sum((a - b) ** 2) for a in unit for b in unit]) / 2
    assert spread(torch.tensor(x)) == pytest.approx(expected)
    assert spread(torch.zeros(5, 3)) == 0.0
    assert spread(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("encoder", [small_encoder, "compact"])
def test_twins_are_new_and_repeatable(images, encoder):
    fitted = fit(images[:64], 1, encoder=encoder() if encoder is small_encoder else encoder, batch_size=32)
    source = fitted._read_images(images[:64], reset=False)
    before = copy.deepcopy(fitted.encoder_.state_dict())
    first, again, other = (untrained_modules(fitted, source, seed) for seed in (1, 1, 2))
    weights = [
        [p for p in encoder.parameters() if p.ndim == 4][-1]
        for encoder in (first[0], again[0], other[0], fitted.encoder_)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not any(torch.equal(weights[0], weight) for weight in weights[2:])
    assert all(torch.equal(value, before[name]) for name, value in fitted.encoder_.state_dict().items())


def test_other_estimators_and_wrappers(good, images, labels):
    few, y = images[:150], labels[:150]
    params = {"encoder": small_encoder, "batch_size": 64, "random_state": 0}
    supervised = SupervisedTransformer(max_epochs=20, **params).fit(few, y)
    estimators = [
        supervised,
        AutoencoderTransformer(max_epochs=3, **params).fit(few),
        SimCLRClassifier(FrozenEstimator(good), max_epochs=2, random_state=0).fit(few, y),
        PACBayesContrastiveTransformer(max_epochs=1, n_tuples=100, random_state=0).fit(few),
    ]
    for estimator in estimators:
        found = representation_report(estimator, few, y)
        assert found.name == type(estimator).__name__
        assert "there is no projection head" in [finding.title for finding in found.findings]
    found = representation_report(supervised, few, y)
    assert any("trained on labels" in finding.advice for finding in found.findings)
    plain = representation_report(good, few, y)
    pipeline = make_pipeline(FunctionTransformer(), FrozenEstimator(good), LogisticRegression())
    for wrapped in (FrozenEstimator(good), pipeline):
        assert representation_report(wrapped, few, y).values == plain.values


def test_labels_may_be_strings_and_unknown(good, images, labels):
    names = np.array([None if label < 0 else f"digit {label}" for label in labels], dtype=object)
    by_number, by_name = (representation_report(good, images, y, n_images=250) for y in (labels, names))
    assert by_number.values == by_name.values
    votes = by_number.measures.neighbours
    assert votes.n_labels == 200 and votes.n_neighbors == 20
    assert votes.guess == np.bincount(labels[:200]).max() / 200
    one_class = representation_report(good, images, np.ones(384), n_images=50)
    assert one_class.measures.neighbours is None and one_class.n_images == 50
    assert any("only 50 images" in finding.title for finding in one_class.findings)


def test_the_table(report):
    table = report.to_frame()
    assert list(table.index) == list(report.values)
    assert list(table["value"]) == list(report.values.values())
    assert table.loc["loss", "chance"] == pytest.approx(np.log(383))
    assert table.loc["contrastive_accuracy", "chance"] == pytest.approx(1 / 383)
    assert table["meaning"].str.len().min() > 10
    assert len(report.spectrum) == 64 and (np.diff(report.spectrum) <= 0).all()


def test_the_text_says_what_was_found(report):
    text = str(report)
    assert text.startswith("Has SimCLRTransformer learnt anything? Trained.\n")
    flat = " ".join(text.split())
    for finding in report.findings:
        assert finding.title[1:] in flat and finding.advice in flat
    assert all(len(line) <= 100 for line in text.splitlines())
    assert repr(report) == "<RepresentationReport of SimCLRTransformer: trained>"


def test_the_page_is_well_formed_and_needs_no_other_file(report, tmp_path):
    before = plt.get_fignums()
    page = report.to_html()
    # A page in a notebook's last line is not wanted where it was written to a file.
    assert report.to_html(tmp_path / "report.html") is None
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    # A link is replaced, and what it points to stays.
    (kept := tmp_path / "kept").write_text("mine")
    (tmp_path / "link.html").symlink_to(kept)
    report.to_html(tmp_path / "link.html")
    assert kept.read_text() == "mine" and not (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "link.html").read_text(encoding="utf-8") == page
    with pytest.raises(TypeError, match="path must be"):
        report.to_html(3)
    with pytest.raises(FileNotFoundError, match="cannot be written"):
        report.to_html(tmp_path / "none" / "report.html")
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    sources = [element.get("src") for element in root.iter("img")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,iVBOR")
    assert "http" not in page.replace(sources[0], "")
    assert plt.get_fignums() == before
    part = ElementTree.fromstring(report._repr_html_())
    assert part.tag == "div" and len(part.findall("ul/li")) == len(report.findings)
    assert len(part.findall("table/tbody/tr")) == len(report.values)


def test_what_is_put_into_the_page_is_escaped():
    hostile = '<script>alert("1")</script>&'
    rows = [(hostile, "1", "2", "3", hostile)]
    page = report_page(hostile, [Finding("note", hostile, hostile)], rows, b"png", whole=True)
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.add(tag)
    parser.feed(page)
    assert "script" not in tags and html.escape(hostile) in page
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert hostile in report_text("title", [Finding("note", "x", hostile)], rows)


def test_the_figure(report, images):
    panels = report.plot()
    assert len(panels) == 6
    assert [len(panels[i].containers[0]) for i in (2, 5)] == [3, 4]
    widths = [bar.get_width() for bar in panels[2].containers[0]]
    assert widths[0] == report.values["contrastive_accuracy"]
    np.testing.assert_allclose(panels[3].lines[0].get_ydata(), report.history["loss"])
    assert report.prediction.predicted in [y for line in panels[3].lines for y in line.get_ydata()]
    plt.close(panels[0].figure)
    figure, axes = plt.subplots(1, 6)
    untrained = representation_report(fit(images, 0), images)
    assert untrained.plot(axes)[3].texts[0].get_text() == "no training is known"
    with pytest.raises(ValueError, match="axes holds 2 Axes, but 6 panels"):
        report.plot(axes[:2])
    plt.close(figure)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda m, X: representation_report(SimCLRTransformer(), X), NotFittedError, "not fitted"),
        (lambda m, X: representation_report(LogisticRegression(), X), TypeError, "LogisticRegression"),
        (lambda m, X: representation_report(PixelTransformer().fit(X), X), TypeError, "PixelTransformer"),
        (lambda m, X: representation_report(m, X[:1]), ValueError, "at least 2 images"),
        (lambda m, X: representation_report(m, X[:, :7]), ValueError, r"X has images of shape"),
        (lambda m, X: representation_report(m, np.stack([X] * 3, 1)), ValueError, "X has images of shape"),
        (lambda m, X: representation_report(m, X, [0, 1]), ValueError, "X has 384 rows and y has 2"),
        (lambda m, X: representation_report(m, X, [None] * 384), ValueError, "no labelled row"),
        (lambda m, X: representation_report(m, X, n_images=1), ValueError, "n_images"),
        (lambda m, X: representation_report(m, X, n_neighbors=0), ValueError, "n_neighbors"),
    ],
)
def test_wrong_input_is_refused(good, images, call, error, message):
    with pytest.raises(error, match=message):
        call(good, images)


def schedule(n):
    return np.cos(np.linspace(0, np.pi / 2, n + 1)[1:]) ** 2


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("annealed", [False, True])
def test_the_loss_of_a_longer_training_is_predicted(exponent, annealed):
    """Of curves of the form that is fitted, with a constant rate and with one that falls to 0."""
    import pandas as pd

    def history(n):
        rates = schedule(n) if annealed else np.ones(n)
        mean = (rates + np.concatenate([rates[:1] / 2, rates[:-1]])) / 2
        mean = mean / mean.max()
        falling = np.arange(n) > np.argmax(mean)
        loss = 2 + 3 * (np.cumsum(mean) - mean / 2) ** -exponent + 0.4 * np.where(falling, mean, 1.0)
        return pd.DataFrame({"loss": loss, "learning_rate": rates})

    found = predict_loss(history(40))
    truth = history(80)["loss"].iloc[-1]
    assert found.predicted == pytest.approx(truth, abs=0.02) and found.epochs == 40
    assert found.low <= found.predicted <= found.high
    assert found.gain == found.loss - found.predicted > 0


def test_the_prediction_for_digits_is_near_what_happens(images):
    history = fit(images, 12).history_
    found, truth = predict_loss(history), fit(images, 24).loss_curve_
    assert abs(found.predicted - np.mean(truth[-3:])) < 0.5 * (found.loss - np.mean(truth[-3:]))


def test_predictions_of_curves_that_do_not_fall():
    flat = predict_loss(np.full(10, 3.0))
    assert flat.gain == pytest.approx(0, abs=1e-6) and "leave the loss at about 3.00" in str(flat)
    rising = predict_loss(np.linspace(1, 2, 10))
    assert rising.gain == pytest.approx(0, abs=1e-6)
    small = predict_loss(1e-3 / np.arange(1, 20))
    assert 0 <= small.low <= small.predicted < small.loss
    below_zero = predict_loss(-5 + 3 / np.sqrt(np.arange(1, 20)))
    assert -5 < below_zero.predicted < below_zero.loss < -4
    assert isinstance(small, LossPrediction)


@pytest.mark.parametrize(
    "history, factor, message",
    [
        (np.ones(5), 2, "history has 5 epochs; a prediction needs at least 6"),
        (np.ones((6, 2)), 2, r"history has shape \(6, 2\)"),
        ([1, 1, 1, 1, 1, np.nan], 2, "history contains nan as a loss"),
        (np.ones(9), 1.0, "factor=1.0 is out of range"),
        (np.ones(9), np.inf, "factor=inf is out of range"),
    ],
)
def test_histories_that_predict_nothing_are_refused(history, factor, message):
    with pytest.raises(ValueError, match=message):
        predict_loss(history, factor)


def test_a_verbose_fit_ends_with_the_prediction(images, capsys):
    fitted = fit(images[:128], 7, verbose=1)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"SimCLR: {predict_loss(fitted.history_)}"
    fit(images[:128], 3, verbose=1)
    fit(images[:128], 7)
    assert capsys.readouterr().out == ""


def test_a_fit_that_collapses_warns_once(images):
    params = {"encoder": plain_encoder, "projection_layers": 0, "optimizer": "sgd", "learning_rate": 1000}
    with pytest.warns(ConvergenceWarning, match="collapsed.*than 1000.*projection_layers") as said:
        fit(images[:256], 15, batch_size=64, **params)
    assert len(said) == 1


def test_a_fit_that_diverges_warns(images):
    with pytest.warns(ConvergenceWarning, match="diverging.*smaller learning_rate than 1000"):
        fit(images[:256], 30, optimizer="sgd", learning_rate=1000, batch_size=64)
    with pytest.raises(ValueError, match="diverged"):
        fit(images[:256], 8, optimizer="adamw", learning_rate=1000, batch_size=64)


def losses_warn(losses, chance=5.0, steps=20):
    watch = TrainingWatch(0.1, 0.0, chance)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for epoch, loss in enumerate(losses, 1):
            watch.see_loss(loss, epoch * steps, epoch / len(losses))
    return [str(warning.message) for warning in said]


def test_losses_that_are_watched():
    assert losses_warn([5, 4, 3, 3.1, 3, 2.9, 3.0]) == []
    (high,) = losses_warn([6, 6.2, 6.1, 6.4, 6.0, 6.1])
    assert "gets nowhere" in high and "above the 5 of" in high and "weight_decay" not in high
    (lost,) = losses_warn([5, 3, 2, 2, 2, 4, 4, 4.5, 4.5])
    assert "but was 2 before" in lost
    # A bad beginning is forgiven, and so is a loss that comes down; a few steps are no training.
    assert losses_warn([6, 6, 6, 6, 4.5, 4, 3.8, 3.7, 3.6, 3.5, 3.4, 3.3]) == []
    assert losses_warn([8, 7.7, 7.4, 7.1, 6.8, 6.5, 6.2]) == []
    assert losses_warn([6, 6.2, 6.4, 6.8, 6.9, 7.0], steps=1) == []
    assert losses_warn([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], chance=None) == []
    assert losses_warn([1, 1, 1, 1, 1, 1, 1], chance=0.0) == []


def views_warn(h, z, accuracy, epochs=6, steps=20):
    watch = TrainingWatch(0.1, 0.5, 5.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for epoch in range(1, epochs + 1):
            watch.see_views(h, z, accuracy, epoch * steps)
    return [str(warning.message) for warning in said]


def test_views_that_are_watched():
    random = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    point = torch.ones(64, 8)
    assert views_warn(random, random, 0.0) == []
    (message,) = views_warn(random, point, 0.0)
    assert "collapsed" in message and "weight_decay than 0.5" in message
    assert len(views_warn(point, random, 0.0)) == 1
    # A little spread is enough for an encoder that finds views; rounding is not.
    assert views_warn(random, point + 0.01 * random, 0.5) == []
    assert len(views_warn(random, point + 0.01 * random, 0.01)) == 1
    assert len(views_warn(random, point + 1e-5 * random, 0.5)) == 1
    assert views_warn(random, point, 0.0, epochs=1) == views_warn(random, point, 0.0, steps=1) == []


def test_a_class_is_no_estimator(images):
    with pytest.raises(TypeError, match="is the class SimCLRTransformer. Pass a fitted instance"):
        representation_report(SimCLRTransformer, images)


def test_a_diverged_training_is_not_called_trained(images):
    with pytest.warns(ConvergenceWarning, match="diverging"):
        model = fit(images[:300], 40, learning_rate=1e6)
    for rows in (images[:300], images[300:]):
        report = representation_report(model, rows)
        assert report.verdict == "untrained"
        assert "diverged" in report.findings[0].title and "learning_rate" in report.findings[0].advice


def test_a_training_that_stands_still_needs_another_learning_rate(images):
    report = representation_report(fit(images[:256], 12, learning_rate=1e-7), images)
    assert report.verdict == "untrained"
    assert "stood still" in report.findings[0].title
    assert "Raise learning_rate" in report.findings[0].advice


def test_equal_images_are_refused_and_not_the_encoder_blamed(good, images):
    with pytest.raises(ValueError, match="The 50 images of X are all equal"):
        representation_report(good, np.repeat(images[:1], 50, axis=0))


def test_labels_that_say_nothing_are_noted(good, images):
    for y in (np.arange(100), np.zeros(100), np.r_[np.arange(99), 0]):
        report = representation_report(good, images[:100], y)
        assert report.measures.neighbours is None and "knn_accuracy" not in report.values
        assert any("labels say nothing" in finding.title for finding in report.findings)
    # Those that do count, without the ones that are alone in their class.
    y = np.r_[[7], np.arange(99) % 2]
    assert representation_report(good, images[:100], y).measures.neighbours.n_labels == 99


def test_directions_of_a_handful_of_images_are_not_counted(good, images):
    report = representation_report(good, images[:10])
    assert not any("directions" in finding.title for finding in report.findings)


def test_pulled_together_without_negatives_is_collapsed(images):
    """Long before all views are one point, and though the few differences that are left tell some apart."""

    def together(z):
        first, second = torch.nn.functional.normalize(z, dim=1).chunk(2)
        return (first - second).square().sum(1).mean()

    settings = {"encoder": plain_encoder, "projection_layers": 0}
    fitted = fit(images[:128], 25, loss=together, optimizer="adamw", learning_rate=0.01, **settings)
    found = representation_report(fitted, images[:200])
    assert found.verdict == "collapsed" and found.measures.trained.spread > 1e-6
    assert "times as close together as with random weights" in found.findings[0].title
    assert "pushes views of different images apart" in found.findings[0].advice
    assert "batch_size" not in found.findings[0].advice
    # The same network without training is as it was before.
    assert representation_report(fit(images[:128], 0, **settings), images[:200]).verdict == "untrained"
