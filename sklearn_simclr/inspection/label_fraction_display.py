"""Score against the share of the labels, a curve for each estimator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from scipy.stats import t as student_t

from .._utils.types import Images, Labels
from ..evaluation.label_efficiency import LabelSaving, check_results, mean_curve
from ._plotting import is_taken, new_axes, percent_of, require_matplotlib
from ._saving import compare_savings, draw_saving

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

__all__ = ["LabelFractionDisplay"]

# Corners for the legend, of which the first free one is taken.
_CORNERS = ("lower right", "upper left", "upper right", "lower left")

# Colours of methods that are often compared, so that each has the same one in every figure.
_COLORS = {
    "SimCLR": "C0",
    "HOG": "C1",
    "supervised": "C2",
    "fine-tuned": "C3",
    "autoencoder": "C4",
    "untrained encoder": "C5",
    "PCA": "C6",
    "raw pixels": "C7",
}
_OTHER_COLORS = ("C8", "C9")

# Scores that are shares of rows are shown in percent.
_SHARES = ("accuracy", "balanced_accuracy", "top_k_accuracy")
_NAMES = {"r2": "R²"}


class LabelFractionDisplay:
    """Draw the score by the share of the labels, with one curve per estimator.

    :meth:`from_estimators` computes and draws the curves. :meth:`from_results` draws a table of
    :func:`~sklearn_simclr.label_fraction_curve`.

    Parameters
    ----------
    results : DataFrame
        Columns ``estimator`` (names, the curves in order of appearance), ``fraction`` (in (0, 1]),
        ``n_labels`` (> 0), ``score`` and, if there are several, ``fold``; one row per fit.
    score_name : str, default=None
        Name of the score, for the axis. None takes the name from ``results.attrs``, where
        ``label_fraction_curve`` writes it. An accuracy is then shown in percent.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the curves.
    figure_ : matplotlib Figure
        The figure of these axes.
    top_ax_ : matplotlib SecondaryAxis
        The upper axis, with numbers of labels.
    lines_ : dict of str to matplotlib Line2D
        Curves of mean scores, by estimator.
    fill_between_ : dict of str to matplotlib PolyCollection or None
        Error bands, by estimator; None if an estimator has a single score at each fraction.
    chance_line_ : matplotlib Line2D or None
        Line at the score of guessing.
    arrow_ : matplotlib Annotation or None
        Arrow from the curve of the reference to that of the estimator, with the saving in words.
    saving_ : LabelSaving or None
        The saving that the arrow shows; also if there is no place for the arrow.
    legend_ : matplotlib Legend
        Names of the estimators, in the order in which the curves end. The legend is in a corner that is free
        of curves, or below the axes.

    See Also
    --------
    sklearn_simclr.label_fraction_curve : Computes the table.
    sklearn_simclr.label_saving : Computes how many times fewer labels an estimator needs than another.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020, section 6. :arxiv:`2002.05709`
    .. [2] Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong
           Semi-Supervised Learners", NeurIPS 2020, figure 4. :arxiv:`2006.10029`

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_simclr.inspection import LabelFractionDisplay
    >>> results = pd.DataFrame({
    ...     "estimator": ["SimCLR"] * 3 + ["supervised"] * 3,
    ...     "fraction": [0.01, 0.1, 1.0] * 2,
    ...     "n_labels": [10, 100, 1000] * 2,
    ...     "score": [0.7, 0.8, 0.9, 0.5, 0.6, 0.75],
    ... })
    >>> display = LabelFractionDisplay.from_results(results, reference="supervised")
    >>> display.arrow_.get_text()
    '32× fewer labels'
    """

    ax_: Axes
    lines_: dict[str, Any]
    fill_between_: dict[str, Any]
    chance_line_: Any
    saving_: LabelSaving | None
    arrow_: Annotation | None

    def __init__(self, results: pd.DataFrame, *, score_name: str | None = None) -> None:
        self.results = results
        self.score_name = score_name

    @classmethod
    def from_results(
        cls,
        results: pd.DataFrame,
        *,
        score_name: str | None = None,
        ax: Axes | None = None,
        **plot_options: Any,
    ) -> Self:
        """Draw a table of results.

        Parameters
        ----------
        results : DataFrame
            Table from ``label_fraction_curve``: columns ``estimator``, ``fraction``, ``n_labels``,
            ``score`` and perhaps ``fold``, one row per fit.
        score_name : str, default=None
            Name of the score, for the axis.
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.
        **plot_options : dict
            Options of :meth:`plot`.

        Returns
        -------
        LabelFractionDisplay
            The display, drawn.
        """
        return cls(results, score_name=score_name).plot(ax, **plot_options)

    @classmethod
    def from_estimators(
        cls,
        estimators: Any,
        X: Images,
        y: Labels,
        *,
        score_name: str | None = None,
        ax: Axes | None = None,
        negate_score: bool = False,
        error: Literal["std", "sem", "interval"] | None = "std",
        confidence: float = 0.95,
        chance: float | None = None,
        reference: str | None = None,
        estimator: str | None = None,
        at: float | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        **curve_options: Any,
    ) -> Self:
        """Fit estimators on fractions of the labels, and draw their scores.

        Parameters
        ----------
        estimators : dict of str to estimator
            Estimators by their names for the legend.
        X : array-like
            Images, or whatever the estimators accept.
        y : array-like of shape (n_samples,)
            Labels.
        score_name : str, default=None
            Name of the score, for the axis. None derives the name from ``scoring``. The default scores of
            classifiers and regressors are "Accuracy", in percent, and "R²".
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.
        negate_score : bool, default=False
            As in :meth:`plot`.
        error : {"std", "sem", "interval"} or None, default="std"
            As in :meth:`plot`.
        confidence : float, default=0.95
            As in :meth:`plot`.
        chance : float, default=None
            As in :meth:`plot`.
        reference : str, default=None
            As in :meth:`plot`.
        estimator : str, default=None
            As in :meth:`plot`.
        at : float, default=None
            As in :meth:`plot`.
        line_kw : dict, default=None
            As in :meth:`plot`.
        fill_between_kw : dict, default=None
            As in :meth:`plot`.
        **curve_options : dict
            Options of ``label_fraction_curve``: ``fractions``, ``cv``, ``scoring``, ``n_draws``, ``n_jobs``,
            ``random_state`` and so on.

        Returns
        -------
        LabelFractionDisplay
            The display, drawn; ``results`` is the table of ``label_fraction_curve``.
        """
        require_matplotlib(f"{cls.__name__}.from_estimators")
        from ..evaluation.curve import label_fraction_curve

        for name in (None if reference == "best" else reference, estimator):
            # An error after hours of fitting would waste them.
            if name is not None and isinstance(estimators, dict) and name not in estimators:
                raise ValueError(
                    f"{name!r} is not among the names of estimators: {list(estimators)}. Pass one of them as "
                    "reference and as estimator."
                )
        results = label_fraction_curve(estimators, X, y, **curve_options)
        return cls(results, score_name=score_name).plot(
            ax,
            negate_score=negate_score,
            error=error,
            confidence=confidence,
            chance=chance,
            reference=reference,
            estimator=estimator,
            at=at,
            line_kw=line_kw,
            fill_between_kw=fill_between_kw,
        )

    def plot(
        self,
        ax: Axes | None = None,
        *,
        negate_score: bool = False,
        score_name: str | None = None,
        error: Literal["std", "sem", "interval"] | None = "std",
        confidence: float = 0.95,
        chance: float | None = None,
        reference: str | None = None,
        estimator: str | None = None,
        at: float | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.
        negate_score : bool, default=False
            Whether to draw the scores with the opposite sign, for scorers that begin with ``neg_``.
        score_name : str, default=None
            Name of the score, for the axis; None is the ``score_name`` of the display.
        error : {"std", "sem", "interval"} or None, default="std"
            Half the width of the bands: ``"std"`` is the standard deviation over folds and draws, ``"sem"``
            the standard error of the mean, and ``"interval"`` half of Student's confidence interval of the
            mean. With several folds, the last two average the draws within each fold first, since draws of
            one fold are not independent. Folds are not quite independent either.
        confidence : float, default=0.95
            Confidence of the interval, in (0, 1).
        chance : float, default=None
            Score of guessing, drawn as a dashed line. With ``negate_score``, pass the value as drawn.
        reference : str, default=None
            Name of the estimator at the tail of an arrow that shows how many times fewer labels another
            estimator needs for the same score. ``"best"`` is the rival with the highest mean score at the
            fraction ``at``. None draws no arrow. If no labels are saved, there is no arrow either. If the
            arrow would cross a curve, only the text is drawn, in a corner and with both names.
        estimator : str, default=None
            Name of the estimator at the arrow's head. None is "SimCLR" if there is such a curve, else the
            estimator that saves the most labels.
        at : float, default=None
            Fraction of the labels for the reference. None is the largest measured fraction at which the arrow
            crosses no curve.
        line_kw : dict, default=None
            Keywords for ``Axes.plot``. Without ``color``, methods that are often compared (SimCLR, HOG,
            supervised, fine-tuned, autoencoder, untrained encoder, PCA, raw pixels) have a colour each, and
            other names get the colours that are left.
        fill_between_kw : dict, default=None
            Keywords for ``Axes.fill_between``.

        Returns
        -------
        LabelFractionDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If a column of ``results`` is missing, or a parameter cannot be used.
        """
        results = check_results(self.results)
        if error not in ("std", "sem", "interval", None):
            raise ValueError(f"error must be 'std', 'sem', 'interval' or None, got {error!r}.")
        if not isinstance(confidence, Real) or not 0 < confidence < 1:
            raise ValueError(f"confidence must be in (0, 1), got {confidence!r}.")
        if estimator is not None and reference is None:
            raise ValueError(
                f"estimator={estimator!r} needs a reference to be compared with; pass the name of another "
                "estimator as reference."
            )
        compared = None if reference is None else compare_savings(results, estimator, reference, at)
        sign = -1 if negate_score else 1

        ax = new_axes(ax, (7.0, 4.8), f"{type(self).__name__}.plot")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.fill_between_ = {}, {}
        ax.set_xscale("log")
        names = list(results["estimator"].unique())
        for name, color in zip(names, _colors_of(names), strict=True):
            fractions, _, means = mean_curve(results, name)
            style = {"color": color, "marker": "o", "markersize": 4.5, "linewidth": 1.8, "zorder": 3}
            style |= {"label": name, **(line_kw or {})}
            (line,) = ax.plot(fractions, sign * means, **style)
            self.lines_[name] = line
            self.fill_between_[name] = None
            if error is not None:
                grouped = results[results["estimator"] == name].groupby("fraction")
                half = np.array([_error(rows, error, confidence) for _, rows in grouped], dtype=float)
                if not np.isnan(half).all():
                    style = {"color": line.get_color(), "alpha": 0.18, "linewidth": 0}
                    self.fill_between_[name] = ax.fill_between(
                        fractions,
                        sign * means - half,
                        sign * means + half,
                        **{**style, **(fill_between_kw or {})},
                    )
        self.chance_line_ = None
        if chance is not None:
            self.chance_line_ = ax.axhline(chance, color="0.45", linestyle="--", linewidth=1, label="chance")
        self._label_axes(results, score_name, negate_score)
        self.saving_ = None if compared is None else compared.saving
        self.arrow_ = None if compared is None else draw_saving(ax, compared, sign, self._drawn_paths())
        self._draw_legend(ax)
        return self

    def _drawn_paths(self) -> list[tuple[Any, bool]]:
        """Return curves and bands in pixels; the inside counts for bands only."""
        to_pixels = self.ax_.transData.transform_path
        lines = [line for line in (*self.lines_.values(), self.chance_line_) if line is not None]
        # Not transData: the chance line spans the axes whatever their limits.
        paths = [(line.get_transform().transform_path(line.get_path()), False) for line in lines]
        bands = [band for band in self.fill_between_.values() if band is not None]
        return paths + [(to_pixels(path), True) for band in bands for path in band.get_paths()]

    def _label_axes(self, results: pd.DataFrame, score_name: str | None, negate_score: bool) -> None:
        from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, PercentFormatter

        ax = self.ax_
        counts = results.groupby("fraction")["n_labels"].mean()
        fractions = counts.index.to_numpy(float)
        top = ax.secondary_xaxis("top")
        top.set_xlabel("Number of labels")
        self.top_ax_ = top
        ax.set_xlabel("Labelled share of the training images")
        named = score_name or self.score_name
        ax.set_ylabel(named or _score_name(self.results, negate_score))
        if named is None and self.results.attrs.get("score_name") in _SHARES:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)

        def set_ticks(ticks: np.ndarray) -> None:
            for axis, labels in (
                (ax.xaxis, [percent_of(f) for f in ticks]),
                (top.xaxis, [f"{counts[f]:,.0f}" for f in ticks]),
            ):
                axis.set_major_locator(FixedLocator(ticks))
                axis.set_ticklabels(labels)
                axis.set_minor_locator(NullLocator())
                axis.set_minor_formatter(NullFormatter())

        set_ticks(fractions)
        ax.figure.figure.draw_without_rendering()
        # The ends of the axis first, then 1%, 10%, ..., then the others from the right.
        whole = np.isclose(np.log10(fractions), np.round(np.log10(fractions)))
        ends = np.isin(fractions, [fractions[0], fractions[-1]])
        ranks = np.where(ends, 0.0, np.where(whole, 1.0, 3.0 - np.arange(len(fractions)) / len(fractions)))
        kept = set(range(len(fractions)))
        for axis in (ax.xaxis, top.xaxis):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
            among = sorted(kept)
            boxes, among_ranks = [boxes[i] for i in among], ranks[among]
            gap = 0.4 * boxes[0].height
            kept = {among[i] for i in _free_of_overlap(boxes, among_ranks, gap)}
        set_ticks(fractions[sorted(kept)])
        ax.figure.figure.draw_without_rendering()

    def _draw_legend(self, ax: Axes) -> None:
        handles = sorted(self.lines_.values(), key=lambda line: -line.get_ydata()[-1])
        if self.chance_line_ is not None:
            handles.append(self.chance_line_)
        taken = self._drawn_paths()
        shown = self.saving_
        if self.arrow_ is not None and shown is not None:
            taken.append((_path(self.arrow_.get_window_extent().corners()[[0, 1, 3, 2]]), True))
            if self.arrow_.xycoords == "data":
                y = self.arrow_.xy[1]
                ends = ax.transData.transform([(shown.fraction, y), (shown.reference_fraction, y)])
                taken.append((_path(ends), False))
        for corner in _CORNERS:
            legend = ax.legend(handles=handles, loc=corner, frameon=False)
            if not is_taken(legend.get_window_extent(), taken):
                break
        else:
            # Below the axes, where no curve can be: four font sizes leave room for ticks and label.
            for columns in range(len(handles), 0, -1):
                legend = ax.legend(
                    handles=handles,
                    loc="upper center",
                    bbox_to_anchor=(0.5, 0),
                    borderaxespad=4,
                    frameon=False,
                    ncols=columns,
                )
                if legend.get_window_extent().width <= ax.bbox.width:
                    break
        self.legend_ = legend


def _path(vertices: np.ndarray) -> Any:
    from matplotlib.path import Path

    return Path(vertices)


def _colors_of(names: Sequence[str]) -> list[str]:
    """Return one colour per name: that of a known method, else the next free one."""
    taken = {_COLORS[name] for name in names if name in _COLORS}
    free = [color for color in (*_COLORS.values(), *_OTHER_COLORS) if color not in taken]
    others = itertools.cycle(free or _OTHER_COLORS)
    return [_COLORS.get(name) or next(others) for name in names]


def _score_name(results: pd.DataFrame, negate_score: bool) -> str:
    """Return the label of the score axis, in the words of scikit-learn's displays."""
    name = results.attrs.get("score_name")
    if name is None or (negate_score and not name.startswith("neg_")):
        return "Negative score" if negate_score else "Score"
    if name.startswith("neg_"):
        name = name.removeprefix("neg_") if negate_score else "negative_" + name.removeprefix("neg_")
    return _NAMES.get(name) or name.replace("_", " ").capitalize()


def _error(rows: pd.DataFrame, kind: str, confidence: float) -> float:
    """Return half the width of the band at a fraction of an estimator; NaN if there is one value only."""
    scores = rows["score"]
    if kind != "std" and "fold" in rows and rows["fold"].nunique() > 1:
        # Draws within a fold share the encoder and the test images, so they do not repeat the experiment.
        scores = scores.groupby(rows["fold"]).mean()
    n = len(scores)
    deviation = scores.std(ddof=1)
    if kind == "std":
        return deviation
    sem = deviation / np.sqrt(n)
    return sem if kind == "sem" else sem * student_t.ppf(0.5 + confidence / 2, max(n - 1, 1))


def _free_of_overlap(boxes: Sequence[Any], ranks: np.ndarray, gap: float) -> list[int]:
    """Return indices of boxes no two of which are closer than `gap`; small ranks are kept first."""
    kept: list[int] = []
    for i in np.argsort(ranks, kind="stable"):
        if all(boxes[i].x0 - gap > boxes[j].x1 or boxes[i].x1 + gap < boxes[j].x0 for j in kept):
            kept.append(i)
    return sorted(kept)
