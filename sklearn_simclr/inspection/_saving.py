"""Compare the labels that two estimators need, and draw the arrow that says how many are saved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..evaluation.label_efficiency import LabelSaving, check_known, label_saving, mean_curve
from ._plotting import is_taken, percent_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

__all__ = ["Comparison", "compare_savings", "draw_saving"]

# Places for the words, of which the first free one is taken: along the arrow from its head to its tail, then
# in front of its head and behind its tail; above (1) or below (-1) the arrow.
_PLACES = (
    *((share, side, "center") for share in (0.5, 0.65, 0.35, 0.8, 0.2) for side in (1, -1)),
    *((share, side, beside) for share, beside in ((0.0, "right"), (1.0, "left")) for side in (1, -1)),
)
_TEXT_BESIDE = {"right": -8, "center": 0, "left": 8}  # points

# Corners for the words where an arrow would cross a curve.
_CORNERS_OF_TEXT = ("top left", "bottom right", "top right", "bottom left")

# Smaller savings are not shown: with one decimal they would read 1.0.
_LEAST = 1.05

# Fractions, numbers of labels and scores.
_Curve: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


class Comparison(NamedTuple):
    """Two estimators, the saving that an arrow between them shows, and whether the arrow crosses a curve."""

    saving: LabelSaving
    estimator: str
    reference: str
    crosses: bool


def _score_at(curve: _Curve, fraction: float) -> float:
    """Return the score of a drawn curve at a fraction; NaN beyond its ends."""
    fractions, _, scores = curve
    if not isinstance(fraction, Real) or not fractions[0] <= fraction <= fractions[-1]:
        return np.nan
    return float(np.interp(np.log(fraction), np.log(fractions), scores))


def _crosses(saving: LabelSaving, estimator: str, reference: str, curves: dict[str, _Curve]) -> bool:
    """Return whether an arrow meets a curve anywhere but at its ends."""
    low, high = saving.fraction, saving.reference_fraction
    for name, curve in curves.items():
        # The two curves that the arrow compares meet it at its ends.
        first = low * 1.001 if name == estimator else low
        last = high / 1.001 if name == reference else high
        places = [x for x in (first, *curve[0], last) if first <= x <= last]
        heights = np.array([_score_at(curve, x) for x in places]) - saving.score
        heights = heights[~np.isnan(heights)]
        if len(heights) and heights.min() <= 1e-9 and heights.max() >= -1e-9:
            return True
    return False


def compare_savings(
    results: pd.DataFrame, estimator: str | None, reference: str, at: float | None
) -> Comparison:
    """Return the comparison to draw: the first one whose arrow crosses no curve, else the first one.

    Parameters
    ----------
    results : DataFrame
        Results of a label-fraction study.
    estimator, reference : str or None
        As in `LabelFractionDisplay.plot`.
    at : float or None
        Fraction of the labels that the reference is given.

    Returns
    -------
    Comparison
        Perhaps of a saving that is too small to be shown.

    Raises
    ------
    ValueError
        If a name or the fraction is unknown, or there is nothing to compare with.
    """
    names = list(results["estimator"].unique())
    curves = {name: mean_curve(results, name) for name in names}
    chosen = None if reference == "best" and reference not in names else reference
    if chosen is not None:
        check_known(results, chosen)
    if estimator is None and "SimCLR" in names and chosen != "SimCLR":
        estimator = "SimCLR"
    heads = [name for name in (names if estimator is None else [estimator]) if name != chosen]
    if not heads or len(names) == 1:
        raise ValueError(
            f"reference={reference!r} has no other estimator to be compared with among {names}. Pass the "
            "results of at least two estimators and different names as estimator and reference."
        )
    if chosen is None:
        check_known(results, heads[0])
        heads = [max(heads, key=lambda name: curves[name][2].mean())]
    rivals = [name for name in names if name not in heads] if chosen is None else [chosen]
    measured = np.unique(np.concatenate([curves[rival][0] for rival in rivals]))[::-1]
    found: list[Comparison] = []
    for fraction in measured if at is None else [at]:
        within = [r for r in rivals if at is not None or fraction in curves[r][0]]
        # label_saving raises for a value that is no fraction, or none of these curves.
        within = [r for r in within if not np.isnan(_score_at(curves[r], fraction))] or within[:1]
        rival = max(within, key=lambda name: _score_at(curves[name], fraction))
        savings = {name: label_saving(results, name, rival, at=fraction) for name in heads}
        # Ties of bounds go to the better score at the smallest fraction; a score never reached comes last.
        head = max(
            heads, key=lambda name: (np.nan_to_num(savings[name].factor, nan=-np.inf), curves[name][2][0])
        )
        crosses = _crosses(savings[head], head, rival, curves)
        found.append(Comparison(savings[head], head, rival, crosses))
        if not savings[head].factor >= _LEAST:
            break
        if not crosses:
            return found[-1]
    return found[0]


def draw_saving(
    ax: Axes, compared: Comparison, sign: int, taken: Sequence[tuple[Any, bool]]
) -> Annotation | None:
    """Draw an arrow that says how many labels are saved.

    Parameters
    ----------
    ax : matplotlib Axes
        With the curves.
    compared : Comparison
        As `compare_savings` returned it.
    sign : int
        -1 where scores are drawn with the opposite sign, else 1.
    taken : sequence of (matplotlib Path, bool)
        Curves and bands in pixels, with whether their inside counts.

    Returns
    -------
    matplotlib Annotation or None
        The words: at the arrow, or alone where the arrow would cross a curve. None where next to nothing is
        saved.
    """
    saving = compared.saving
    if not saving.factor >= _LEAST:
        return None
    y = sign * saving.score
    if compared.crosses:
        percent = percent_of(saving.reference_fraction)
        words = f"{compared.estimator}: {saving} than {compared.reference} with {percent}"
        text = ax.annotate(words, xy=(0, 0), xycoords="axes fraction", zorder=5)
        for corner in (*_CORNERS_OF_TEXT, _CORNERS_OF_TEXT[0]):
            vertical, horizontal = corner.split()
            text.xy = (0.02 if horizontal == "left" else 0.98, 0.97 if vertical == "top" else 0.03)
            text.set(ha=horizontal, va=vertical, position=text.xy)
            if not is_taken(text.get_window_extent(), taken):
                break
        return text
    ax.annotate(
        "",
        xy=(saving.fraction, y),
        xytext=(saving.reference_fraction, y),
        arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.2, "shrinkA": 3, "shrinkB": 3},
        zorder=4,
    )
    text = ax.annotate(
        str(saving),
        xy=(saving.fraction, y),
        xytext=(0, 0),
        textcoords="offset points",
        zorder=5,
    )
    inside = ax.get_window_extent()
    # If bands cover every place, one free of curves will do; failing that, the place above the middle.
    curves = [(path, filled) for path, filled in taken if not filled]
    nothing: list[tuple[Any, bool]] = []
    places = [*itertools.product((taken, curves), _PLACES), (nothing, _PLACES[0])]
    for paths, (share, side, horizontal) in places:
        text.xy = (saving.fraction ** (1 - share) * saving.reference_fraction**share, y)
        text.set_position((_TEXT_BESIDE[horizontal], 5 * side))
        text.set(ha=horizontal, va="bottom" if side > 0 else "top")
        box = text.get_window_extent()
        if inside.x0 <= box.x0 and box.x1 <= inside.x1 and not is_taken(box, paths):
            break
    return text
