"""Figures of the benchmarks, from the numbers that run.py wrote."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogFormatter, NullFormatter, ScalarFormatter

COLORS = {"met": "tab:blue", "missed": "tab:red"}


def margins(rows):
    """Return (label, margin, low, high) of the rows with a target: how far they are on its good side.

    1 is the target itself, 2 is twice as good.
    """
    found = []
    for row in rows:
        if not row["target"] or row["ratio"] is None:
            continue
        sign, bound = row["target"].split()
        # A single round has no quartiles.
        ratios = [row["ratio"] if row[name] is None else row[name] for name in ("ratio", "low", "high")]
        middle, low, high = (r / float(bound) if sign == ">=" else float(bound) / r for r in ratios)
        label = f"{row['comparison']}: {row['case']}, compared with {row['peer']}"
        found.append((label, middle, min(low, high), max(low, high)))
    return found


def draw_targets(rows):
    """Return a figure of every ratio and its target."""
    found = margins(rows)[::-1]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.28 * len(found)), layout="constrained")
    for place, (_, middle, low, high) in enumerate(found):
        color = COLORS["met" if middle >= 1 else "missed"]
        axes.plot([low, high], [place, place], color=color)
        axes.plot(middle, place, "o", color=color, markersize=5)
    axes.axvline(1, color="0.3", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(found)), [label for label, *_ in found], fontsize=8)
    axes.set(xscale="log", xlabel="ratio relative to its target (right of the line: met)")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.grid(axis="x", alpha=0.3)
    return figure


def draw_growth(points):
    """Return a figure with a small panel for each family of curves."""
    panels = list(dict.fromkeys(point["panel"] for point in points))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.2 * columns, 2.8 * lines), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        inside = [point for point in points if point["panel"] == panel]
        for series in dict.fromkeys(point["series"] for point in inside):
            curve = sorted((p for p in inside if p["series"] == series), key=lambda p: p["x"])
            x = [point["x"] for point in curve]
            (line,) = axes.plot(x, [point["y"] for point in curve], "o-", markersize=3, label=series)
            low, high = ([point[name] for point in curve] for name in ("low", "high"))
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
        axes.set_xscale("log", base=2)
        ticks = sorted({point["x"] for point in inside})
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], rotation=45, fontsize=8)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=inside[0]["x_label"], ylabel=inside[0]["y_label"])
        if len({point["series"] for point in inside}) > 1:
            axes.set_yscale("log")
            axes.legend(fontsize=8)
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    return figure


def draw(path):
    """Return {name: figure} for a results.json; only figures that have something to show."""
    records = json.loads(Path(path).read_text())["comparisons"].values()
    rows = [row for record in records for row in record["rows"]]
    points = [point for record in records for point in record["points"]]
    figures = {}
    if margins(rows):
        figures["targets"] = draw_targets(rows)
    if points:
        figures["growth"] = draw_growth(points)
    return figures


if __name__ == "__main__":
    # The documentation runs this file without __file__.
    root = Path(sys.argv[0]).resolve().parents[2]
    draw(root / "docs" / "benchmarks" / "results.json")
    plt.show()
