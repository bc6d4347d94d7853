"""Figure of accuracy.py: accuracy against the seconds of training."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter


def draw(path):
    """Return a figure with two panels: all labels, and few."""
    rows = json.loads(Path(path).read_text())["rows"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    curves = list(dict.fromkeys(row["name"] for row in rows if row["budget"]))
    points = [row for row in rows if not row["budget"]]
    ticks = sorted({row["budget"] for row in rows if row["budget"]})
    for axes, part, title in zip(panels, ("all", "few"), ("all labels", "1% of the labels"), strict=True):
        for k, name in enumerate(curves):
            inside = [row for row in rows if row["name"] == name]
            times = sorted({row["budget"] for row in inside})
            means = [100 * np.mean([row[part] for row in inside if row["budget"] == t]) for t in times]
            axes.plot(times, means, "-", color=f"C{k}", label=name)
            axes.plot(
                [row["budget"] for row in inside], [100 * row[part] for row in inside], ".", color=f"C{k}"
            )
            axes.annotate(
                f"{means[-1]:.1f}",
                (times[-1], means[-1]),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        for k, row in enumerate(points):
            axes.axhline(100 * row[part], color="0.5", linestyle=("--", ":", "-.")[k % 3], label=row["name"])
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.12)
        axes.set(xlabel="seconds of training", title=f"logistic regression, {title}")
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    # The documentation runs this file without __file__.
    root = Path(sys.argv[0]).resolve().parents[2]
    draw(root / "docs" / "benchmarks" / "accuracy.json")
    plt.show()
