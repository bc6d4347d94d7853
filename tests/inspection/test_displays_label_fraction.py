"""LabelFractionDisplay and label_saving: closed forms, what the artists hold, and that nothing overlaps."""

import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t
from sklearn.cluster import KMeans
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from sklearn_simclr.evaluation import curve
from sklearn_simclr.evaluation.label_efficiency import LabelSaving, label_saving
from sklearn_simclr.inspection.label_fraction_display import LabelFractionDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def table(curves, n_total=10_000, noise=None):
    """Results from {name: function of the fraction} at 0.1% to 100%; `noise` has shape (folds, draws)."""
    noise = np.zeros((1, 1)) if noise is None else noise
    rows = [
        (name, f, round(f * n_total), fold, draw, score(f) + noise[fold, draw])
        for name, score in curves.items()
        for f in (0.001, 0.01, 0.1, 1.0)
        for fold, draw in np.ndindex(*noise.shape)
    ]
    return pd.DataFrame(rows, columns=["estimator", "fraction", "n_labels", "fold", "draw", "score"])


def log_linear(offset):
    """A score that grows by 0.1 for ten times as many labels, and reaches `offset` with all."""
    return lambda fraction: offset + 0.1 * np.log10(fraction)


@given(st.floats(0.0, 0.19), st.floats(0.02, 1.0))
def test_saving_of_parallel_curves_is_their_distance(gap, at):
    # Where the reference has its score at `at`, a curve higher by `gap` has it at 10 ** (-10 gap) as many.
    results = table({"better": log_linear(0.7 + gap), "reference": log_linear(0.7)}, n_total=10**6)
    saving = label_saving(results, "better", "reference", at=at)
    if at * 10 ** (-10 * gap) > 0.001:
        assert saving.factor == pytest.approx(10 ** (10 * gap), rel=1e-6)
        assert saving.fraction == pytest.approx(at * 10 ** (-10 * gap), rel=1e-6)
        assert not saving.at_least
    assert saving.score == pytest.approx(0.7 + 0.1 * np.log10(at))
    assert saving.reference_fraction == at


def test_saving_is_a_lower_bound_where_the_first_score_is_above():
    results = table({"better": lambda f: 0.9, "reference": log_linear(0.7)})
    assert label_saving(results, "better", "reference") == pytest.approx((1000.0, True, 0.7, 0.001, 1.0))
    assert label_saving(results, "better", "reference", at=0.1).factor == pytest.approx(100)


def test_saving_is_exact_where_the_first_score_is_the_one():
    results = table({"better": lambda f: 0.5, "reference": lambda f: 0.5})
    assert label_saving(results, "better", "reference")[:2] == pytest.approx((1000.0, False))


def test_saving_is_nan_where_the_score_is_never_reached():
    results = table({"worse": log_linear(0.6), "reference": log_linear(0.7)})
    saving = label_saving(results, "worse", "reference")
    assert np.isnan(saving.factor) and np.isnan(saving.fraction) and not saving.at_least
    assert str(saving) == "not reached"
    # With a tenth of the labels the reference is no better than the other with all.
    assert label_saving(results, "worse", "reference", at=0.1).factor == pytest.approx(0.1)


def test_saving_counts_from_the_first_crossing():
    scores = {0.001: 0.1, 0.01: 0.8, 0.1: 0.2, 1.0: 0.9}
    results = table({"unsteady": scores.__getitem__, "reference": lambda f: 0.45})
    # Half of the way from 0.001 to 0.01 on a logarithmic axis.
    saving = label_saving(results, "unsteady", "reference")
    assert saving.fraction == pytest.approx(0.001 * 10**0.5)
    assert saving.factor == pytest.approx(10**2.5)


def test_saving_counts_labels_not_fractions():
    results = table({"better": log_linear(0.8), "reference": log_linear(0.7)})
    # At least one label per class: the smallest fraction has more than its share.
    results.loc[results["fraction"] == 0.001, "n_labels"] = 50
    results["score"] -= 0.1 * (results["estimator"] == "better")
    assert label_saving(results, "better", "reference", at=0.001).factor == pytest.approx(1.0)
    assert label_saving(results, "better", "reference", at=0.01).factor == pytest.approx(1.0)


def test_saving_uses_means_and_leaves_out_rows_without_a_score():
    noise = np.array([[0.02, -0.01], [0.01, -0.02]])
    results = table({"better": log_linear(0.8), "reference": log_linear(0.7)}, noise=noise)
    failed = results.iloc[[0]].assign(score=np.nan)
    saving = label_saving(pd.concat([results, failed]), "better", "reference")
    assert saving.factor == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize(
    "factor, at_least, text",
    [
        (12.345, False, "12× fewer labels"),
        (9.96, False, "10× fewer labels"),
        (2.04, False, "2× fewer labels"),
        (2.5, True, "≥ 2.5× fewer labels"),
        (1000.0, True, "≥ 1,000× fewer labels"),
    ],
)
def test_saving_in_words(factor, at_least, text):
    assert str(LabelSaving(factor, at_least, 0.5, 0.01, 0.1)) == text


RESULTS = table({"A": log_linear(0.8), "B": log_linear(0.65)})


@pytest.mark.parametrize(
    "change, options, match",
    [
        (lambda r: r.drop(columns=["score", "n_labels"]), {}, r"lacks the columns \['n_labels', 'score'\]"),
        (lambda r: r.assign(fraction=r["fraction"] * 100), {}, r"fraction must be in \(0, 1\], but row 2"),
        (lambda r: r.assign(fraction=np.nan), {}, "fraction must be in"),
        (lambda r: r.assign(n_labels=0), {}, r"n_labels must be in \(0, inf\)"),
        (lambda r: r.assign(score=np.nan), {}, "no row with a score"),
        (lambda r: r.iloc[:0], {}, "no row with a score"),
        (lambda r: r, {"reference": "C"}, "'C' is not among the estimators"),
        (lambda r: r, {"reference": "A", "estimator": "C"}, "'C' is not among the estimators"),
        (lambda r: r, {"reference": "A", "estimator": "A"}, "no other estimator"),
        (lambda r: r, {"estimator": "A"}, "needs a reference"),
        (lambda r: r, {"reference": "A", "at": 0.0001}, "at=0.0001"),
        (lambda r: r, {"error": "variance"}, "error must be"),
        (lambda r: r, {"error": "interval", "confidence": 95}, "confidence must be"),
    ],
)
def test_display_refuses(change, options, match):
    with pytest.raises(ValueError, match=match):
        LabelFractionDisplay.from_results(change(RESULTS), **options)
    assert not plt.get_fignums()


def test_display_refuses_what_is_no_table():
    with pytest.raises(TypeError, match="DataFrame"):
        LabelFractionDisplay.from_results([("A", 0.1, 10, 0.5)])


def test_constructor_only_stores():
    before = plt.get_fignums()  # other tests may have left theirs
    display = LabelFractionDisplay(RESULTS, score_name="Accuracy")
    assert display.results is RESULTS and display.score_name == "Accuracy"
    assert not hasattr(display, "ax_") and plt.get_fignums() == before


def test_lines_are_means_and_bands_their_errors():
    noise = np.random.default_rng(0).normal(0, 0.05, (4, 3))
    results = table({"A": log_linear(0.8), "B": log_linear(0.6)}, noise=noise)
    shuffled = results.sample(frac=1, random_state=0)
    fold_means = noise.mean(axis=1)
    sem = fold_means.std(ddof=1) / 2
    half = {"std": noise.std(ddof=1), "sem": sem, "interval": sem * student_t.ppf(0.9, 3)}
    for error, expected in half.items():
        display = LabelFractionDisplay.from_results(shuffled, error=error, confidence=0.8)
        assert set(display.lines_) == {"A", "B"}
        for name, offset in (("A", 0.8), ("B", 0.6)):
            x, y = display.lines_[name].get_data()
            np.testing.assert_allclose(x, [0.001, 0.01, 0.1, 1.0])
            np.testing.assert_allclose(y, offset + 0.1 * np.log10(x) + noise.mean())
            (path,) = display.fill_between_[name].get_paths()
            band = path.vertices[np.isclose(path.vertices[:, 0], 0.1)][:, 1]
            np.testing.assert_allclose([band.min(), band.max()], y[2] + np.array([-expected, expected]))


def test_a_single_fold_has_its_error_over_draws():
    noise = np.random.default_rng(0).normal(0, 0.05, (1, 5))
    display = LabelFractionDisplay.from_results(table({"A": log_linear(0.8)}, noise=noise), error="sem")
    vertices = display.fill_between_["A"].get_paths()[0].vertices
    assert np.ptp(vertices[np.isclose(vertices[:, 0], 1.0)][:, 1]) == pytest.approx(
        2 * noise.std(ddof=1) / 5**0.5
    )


@pytest.mark.parametrize("noise, error", [(np.zeros((1, 1)), "std"), (np.ones((3, 2)), None)])
def test_no_band_where_there_is_nothing_to_tell(noise, error):
    display = LabelFractionDisplay.from_results(table({"A": log_linear(0.8)}, noise=noise), error=error)
    assert display.fill_between_ == {"A": None}


def test_axes_say_percent_and_labels():
    display = LabelFractionDisplay.from_results(RESULTS)
    assert display.ax_.get_xscale() == "log"
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["0.1%", "1%", "10%", "100%"]
    assert [t.get_text() for t in display.top_ax_.get_xticklabels()] == ["10", "100", "1,000", "10,000"]
    np.testing.assert_allclose(display.ax_.get_xticks(), display.top_ax_.get_xticks())
    assert display.ax_.get_ylabel() == "Score"


@pytest.mark.parametrize("options, label", [({}, "Negative score"), ({"score_name": "Log loss"}, "Log loss")])
def test_negated_scores(options, label):
    results = RESULTS.assign(score=RESULTS["score"] - 1)
    display = LabelFractionDisplay.from_results(results, negate_score=True, reference="B", **options)
    np.testing.assert_allclose(display.lines_["A"].get_ydata(), 0.2 - 0.1 * np.array([-3, -2, -1, 0]))
    assert display.ax_.get_ylabel() == label
    assert display.arrow_.xy[1] == pytest.approx(0.35)
    assert display.saving_.factor == pytest.approx(10**1.5)


def test_arrow_says_what_is_saved():
    display = LabelFractionDisplay.from_results(RESULTS, reference="B", at=0.1)
    assert display.saving_ == label_saving(RESULTS, "A", "B", at=0.1)
    assert display.arrow_.get_text() == "32× fewer labels"
    arrow = next(a for a in display.ax_.texts if a.arrow_patch is not None)
    np.testing.assert_allclose([*arrow.xy, *arrow.xyann], [0.1 / 10**1.5, 0.55, 0.1, 0.55])


def test_arrow_is_from_the_estimator_that_saves_most():
    results = table(
        {"some": log_linear(0.7), "most": log_linear(0.8), "B": log_linear(0.65), "none": log_linear(0.1)}
    )
    assert LabelFractionDisplay.from_results(results, reference="B").saving_.factor == pytest.approx(10**1.5)
    chosen = LabelFractionDisplay.from_results(results, reference="B", estimator="some")
    assert chosen.saving_.factor == pytest.approx(10**0.5)


RIVALS = {"HOG": log_linear(0.7), "SimCLR": log_linear(0.8), "raw pixels": log_linear(0.65)}


def arrow_ends(display):
    found = [text for text in display.ax_.texts if text.arrow_patch is not None]
    return [(*arrow.xy, *arrow.xyann) for arrow in found]


def test_arrow_compares_simclr_with_the_best_rival():
    display = LabelFractionDisplay.from_results(table(RIVALS | {"late": log_linear(0.81)}), reference="best")
    # Another one is ahead of it: nothing is saved.
    assert display.arrow_ is None
    display = LabelFractionDisplay.from_results(table(RIVALS), reference="best")
    np.testing.assert_allclose(arrow_ends(display), [(0.1, 0.7, 1.0, 0.7)])
    assert display.arrow_.get_text() == "10× fewer labels"
    best = LabelFractionDisplay.from_results(table(RIVALS), reference="best", estimator="HOG", at=0.1)
    assert best.arrow_ is None and not best.saving_.factor >= 1


def test_arrow_crosses_no_curve():
    results = table(RIVALS)
    display = LabelFractionDisplay.from_results(results, reference="raw pixels")
    assert arrow_ends(display) == [] and display.saving_.factor == pytest.approx(10**1.5)
    assert display.arrow_.get_text() == "SimCLR: 32× fewer labels than raw pixels with 100%"
    display.figure_.canvas.draw()
    words = display.arrow_.get_window_extent()
    assert not any(
        line.get_path().intersects_bbox(words.transformed(display.ax_.transData.inverted()))
        for line in display.lines_.values()
    )
    # At the largest fraction the curve of HOG is in between, at the next it is not.
    steep = table(RIVALS | {"HOG": lambda f: 0.75 if f == 1 else 0.1})
    display = LabelFractionDisplay.from_results(steep, reference="raw pixels", estimator="SimCLR")
    assert display.saving_.reference_fraction == 0.1 and len(arrow_ends(display)) == 1


def test_no_arrow_where_nothing_is_saved():
    display = LabelFractionDisplay.from_results(RESULTS, reference="A")
    assert display.arrow_ is None and np.isnan(display.saving_.factor) and not display.ax_.texts
    assert LabelFractionDisplay.from_results(RESULTS).saving_ is None


def test_chance_line_and_legend():
    display = LabelFractionDisplay.from_results(RESULTS.iloc[::-1], chance=0.1)
    assert set(display.chance_line_.get_ydata()) == {0.1}
    # From the best to the worst at all labels, whatever their order in the table.
    assert [t.get_text() for t in display.legend_.get_texts()] == ["A", "B", "chance"]


CROWDED = {
    "rising": {f"estimator {i}": log_linear(0.8 - 0.12 * i) for i in range(5)},
    "falling": {f"estimator {i}": lambda f, i=i: 0.5 - log_linear(0.8 - 0.2 * i)(f) for i in range(3)},
    "crossing": {"up with a long name": log_linear(0.8), "down": lambda f: 0.2 - 0.15 * np.log10(f)},
    "flat": {f"a rather long name of an estimator {i}": lambda f, i=i: 0.1 * i for i in range(11)},
}


@pytest.mark.parametrize("curves", CROWDED.values(), ids=CROWDED)
def test_legend_covers_no_curve_and_ticks_do_not_overlap(curves):
    results = table(curves, noise=np.random.default_rng(0).normal(0, 0.01, (3, 2)))
    more = results.assign(
        fraction=results["fraction"].clip(upper=0.9) * 0.8, n_labels=results["n_labels"] * 0.8
    )
    results = pd.concat([results, more])
    display = LabelFractionDisplay.from_results(
        results, reference=next(iter(curves)) if len(curves) == 2 else None
    )
    display.figure_.canvas.draw()
    legend = display.legend_.get_window_extent()
    for line in display.lines_.values():
        x, y = line.get_data()
        dense = np.geomspace(x[0], x[-1], 2000)
        points = display.ax_.transData.transform(np.c_[dense, np.interp(np.log(dense), np.log(x), y)])
        assert not legend.count_contains(points)
    for axis in (display.ax_.xaxis, display.top_ax_.xaxis):
        labels = sorted((t.get_window_extent() for t in axis.get_ticklabels()), key=lambda box: box.x0)
        assert len(labels) >= 4
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(labels))
    assert not legend.overlaps(display.ax_.xaxis.label.get_window_extent())
    assert display.figure_.bbox.padded(1).contains(*legend.min)


def test_draws_in_given_axes_without_touching_styles():
    before = dict(plt.rcParams)
    figure, axes = plt.subplots(1, 2)
    display = LabelFractionDisplay(RESULTS).plot(axes[1], line_kw={"linewidth": 5})
    assert display.ax_ is axes[1] and display.figure_ is figure
    assert display.lines_["A"].get_linewidth() == 5
    assert not axes[0].lines and plt.get_fignums() == [figure.number]
    assert dict(plt.rcParams) == before


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[plot\]"):
        LabelFractionDisplay.from_results(RESULTS)


@pytest.fixture
def recorded_curve(monkeypatch):
    """A curve that is computed at once, and what it was asked for."""
    calls = []

    def label_fraction_curve(*args, **options):
        calls.append((args, options))
        results = RESULTS.copy()
        results.attrs["score_name"] = curve._score_name(options.get("scoring"), list(args[0].values()))
        return results

    monkeypatch.setattr(curve, "label_fraction_curve", label_fraction_curve)
    return calls


CLASSIFIERS = {"A": LogisticRegression(), "B": DummyClassifier()}


@pytest.mark.parametrize(
    "estimators, options, label",
    [
        (CLASSIFIERS, {}, "Accuracy"),
        ({"A": Ridge(), "B": Ridge()}, {}, "R²"),
        ({"A": KMeans(), "B": Ridge()}, {}, "Score"),
        (CLASSIFIERS, {"scoring": "balanced_accuracy"}, "Balanced accuracy"),
        (CLASSIFIERS, {"scoring": "neg_log_loss"}, "Negative log loss"),
        (CLASSIFIERS, {"scoring": "neg_log_loss", "negate_score": True}, "Log loss"),
        (CLASSIFIERS, {"scoring": "roc_auc", "score_name": "AUC"}, "AUC"),
    ],
)
def test_scores_are_named(recorded_curve, estimators, options, label):
    display = LabelFractionDisplay.from_estimators(estimators, None, None, **options)
    assert display.ax_.get_ylabel() == label
    percent = display.ax_.yaxis.get_major_formatter()(0.5).endswith("%")
    assert percent == label.lower().endswith("accuracy")


def test_options_of_the_curve_are_passed_on(recorded_curve):
    X, y = np.zeros((4, 2)), np.arange(4)
    options = {"fractions": [0.1, 1.0], "cv": 3, "n_draws": 2, "random_state": 0}
    _, ax = plt.subplots()
    display = LabelFractionDisplay.from_estimators(
        CLASSIFIERS, X, y, reference="B", chance=0.2, ax=ax, **options
    )
    (((estimators, X_given, y_given), given),) = recorded_curve
    assert estimators is CLASSIFIERS and X_given is X and y_given is y and given == options
    assert display.results.equals(RESULTS) and display.ax_ is ax
    assert display.chance_line_ is not None and display.arrow_ is not None


def test_an_unknown_reference_is_refused_before_anything_is_fitted(recorded_curve):
    with pytest.raises(ValueError, match="'C' is not among the names of estimators"):
        LabelFractionDisplay.from_estimators(CLASSIFIERS, None, None, reference="C")
    assert not recorded_curve


def test_from_estimators_draws_the_real_curve(digits):
    pytest.importorskip("sklearn_simclr.evaluation.curve", reason="needs label_fraction_curve")
    X, y = digits[0][:400].reshape(400, 64) / 16, digits[1][:400]
    display = LabelFractionDisplay.from_estimators(
        {"linear": LogisticRegression(max_iter=500), "guess": DummyClassifier()},
        X,
        y,
        fractions=[0.1, 1.0],
        cv=3,
        random_state=0,
        reference="guess",
    )
    results = display.results
    for name, line in display.lines_.items():
        means = [
            results[(results["estimator"] == name) & (results["fraction"] == f)]["score"].mean()
            for f in (0.1, 1)
        ]
        np.testing.assert_allclose(line.get_ydata(), means)
    assert display.saving_.at_least and display.saving_.factor == pytest.approx(10, rel=0.1)


def test_a_method_has_one_colour_in_every_figure():
    for names in (["SimCLR", "mine"], ["mine", "raw pixels", "SimCLR"], ["HOG", "SimCLR"]):
        curves = table({name: lambda fraction: fraction for name in names})
        lines = LabelFractionDisplay.from_results(curves).lines_
        colors = [line.get_color() for line in lines.values()]
        assert lines["SimCLR"].get_color() == "C0" and len(set(colors)) == len(colors)
    many = table({str(k): lambda fraction: fraction for k in range(23)})
    assert len(LabelFractionDisplay.from_results(many).lines_) == 23
