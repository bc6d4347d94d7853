"""The pictures of a report: similarities of views, the training, the directions in use, accuracies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..training.forecast import LossPrediction

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ._measures import Measures, Neighbours

__all__ = ["FIGURE_SIZE", "draw_report"]

FIGURE_SIZE = (12.5, 7.2)

_TRAINED, _UNTRAINED, _OTHER = "C0", "0.55", "C1"

_BINS = 50

# Smaller singular values, as a share of the largest, would stretch the logarithmic axis: they are cut off.
_LEAST_SHARE = 1e-5


def draw_report(
    axes: "Sequence[Axes] | np.ndarray",
    measures: "Measures",
    history: "pd.DataFrame | None",
    prediction: LossPrediction | None,
) -> None:
    """Draw the six panels of a report.

    Parameters
    ----------
    axes : sequence of six matplotlib Axes
        The Axes to draw in.
    measures : Measures
        Numbers of the encoder and its untrained twins.
    history : DataFrame or None
        One row for each epoch of the training.
    prediction : LossPrediction or None
        For twice the epochs.
    """
    _draw_similarities(axes[0], axes[1], measures)
    _draw_accuracy(axes[2], measures)
    _draw_loss(axes[3], history, prediction)
    _draw_spectrum(axes[4], measures)
    _draw_neighbours(axes[5], measures.neighbours)


def _draw_similarities(before: "Axes", after: "Axes", measures: "Measures") -> None:
    twin, trained = measures.untrained[0], measures.trained
    samples = [twin.positives, twin.negatives, trained.positives, trained.negatives]
    # Similarities that are all 1 need bins as well.
    low = min(min(sample.min() for sample in samples), 0.95)
    bins = np.linspace(low, 1.0, _BINS + 1)
    for ax, views, title in ((before, twin, "Random weights"), (after, trained, "This encoder")):
        for sample, color, label in (
            (views.negatives, _OTHER, "different images"),
            (views.positives, _TRAINED, "one image"),
        ):
            share = np.full(len(sample), 1 / len(sample))
            ax.hist(np.clip(sample, low, 1.0), bins, weights=share, color=color, alpha=0.6, label=label)
        ax.set(title=title, xlabel="similarity (cosine) of two views", ylabel="share of pairs", yticks=[])
        ax.set_xlim(low, 1.01)
    before.legend(title="two views of", frameon=False, loc="upper left")


def _draw_accuracy(ax: "Axes", measures: "Measures") -> None:
    untrained = float(np.mean([twin.accuracy for twin in measures.untrained]))
    _bars(
        ax,
        [
            ("this encoder", measures.trained.accuracy, _TRAINED),
            ("random weights", untrained, _UNTRAINED),
            ("guessing", measures.chance_accuracy, "0.8"),
        ],
    )
    ax.set(title="Finds the other view of an image", xlabel=f"right, among {2 * measures.n_pairs - 1} views")


def _draw_neighbours(ax: "Axes", votes: "Neighbours | None") -> None:
    ax.set_title("Nearest neighbours vote for the right class")
    if votes is None:
        _say(ax, "pass y, the classes of a few images,\nto see whether neighbours share them")
        return
    _bars(
        ax,
        [
            ("this encoder", votes.encoder, _TRAINED),
            ("random weights", votes.untrained, _UNTRAINED),
            ("raw pixels", votes.pixels, _OTHER),
            ("guessing", votes.guess, "0.8"),
        ],
    )
    ax.set_xlabel(f"right, of {votes.n_labels} labelled images")


def _bars(ax: "Axes", rows: list[tuple[str, float, str]]) -> None:
    names, values, colors = zip(*rows, strict=True)
    bars = ax.barh(range(len(rows)), values, color=colors, height=0.65)
    ax.bar_label(bars, [f"{value:.1%}" for value in values], padding=3)
    ax.set_yticks(range(len(rows)), names)
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.19))
    ax.set_xticks([0, 0.5, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    ax.spines[["top", "right"]].set_visible(False)


def _draw_loss(ax: "Axes", history: "pd.DataFrame | None", prediction: LossPrediction | None) -> None:
    ax.set(title="Training", xlabel="epoch", ylabel="loss")
    if history is None or not len(history):
        _say(ax, "no training is known")
        return
    epochs, losses = history["epoch"].to_numpy(), history["loss"].to_numpy()
    ax.plot(
        epochs, losses, color=_TRAINED, marker="o" if len(epochs) < 10 else None, markersize=4, label="loss"
    )
    if "chance_level" in history and np.isfinite(history["chance_level"]).all():
        ax.axhline(history["chance_level"].iloc[-1], color="0.45", linestyle="--", label="chance level")
    if prediction is not None:
        end = prediction.factor * prediction.epochs
        low, high = prediction.predicted - prediction.low, prediction.high - prediction.predicted
        ax.plot([epochs[-1], end], [prediction.loss, prediction.predicted], ":", color=_OTHER)
        ax.errorbar(
            end,
            prediction.predicted,
            [[max(low, 0)], [max(high, 0)]],
            fmt="o",
            color=_OTHER,
            capsize=4,
            label=f"predicted after {prediction.factor:g}x",
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_spectrum(ax: "Axes", measures: "Measures") -> None:
    for views, color, label in (
        (measures.untrained[0], _UNTRAINED, "random weights"),
        (measures.trained, _TRAINED, "this encoder"),
    ):
        values = views.spectrum / max(views.spectrum.max(), np.finfo(float).tiny)
        if views.spectrum.max() <= np.finfo(np.float32).eps:
            values = np.zeros_like(values)
        ax.semilogy(np.arange(1, len(values) + 1), np.maximum(values, _LEAST_SHARE), color=color, label=label)
    ax.set(
        title="Directions that representations use",
        xlabel="direction, by strength",
        ylabel="strength, of the first",
        ylim=(_LEAST_SHARE / 2, 2),
    )
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _say(ax: "Axes", text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", color="0.45", transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
