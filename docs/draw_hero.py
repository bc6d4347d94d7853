"""Draw the first picture of README and site: pairs of views, and accuracy by number of labels.

The curves are those of ``docs/benchmarks/few_labels_clothing.csv``, which a benchmark writes; the photographs
are of the same collection (CC0, github.com/alexeygrigorev/clothing-dataset-small).

    python docs/draw_hero.py
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import torch

from sklearn_simclr import Augmentation, load_images

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = sorted((HERE / "images" / "clothing").glob("*.jpg"))
# Name in the table: label, colour, width.
CURVES = {
    "SimCLR": ("C0", 2.6),
    "HOG": ("C1", 1.6),
    "supervised": ("C2", 1.6),
    "raw pixels": ("C7", 1.6),
}


def draw_views(axes):
    """Draw one row per photograph: the image, and a pair of views."""
    X = torch.from_numpy(load_images(PHOTOGRAPHS, image_size=96)).permute(0, 3, 1, 2).float() / 255
    augmentation = Augmentation().resolve((3, 96, 96))
    generator = torch.Generator().manual_seed(5)
    columns = [X, augmentation(X, generator), augmentation(X, generator)]
    for row in range(len(X)):
        for ax, column in zip(axes[row], columns, strict=True):
            ax.imshow(column[row].permute(1, 2, 0).clamp(0, 1))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for ax, title in zip(axes[0], ("photograph", "view 1", "view 2"), strict=True):
        ax.set_title(title, fontsize=10)


def draw_curves(ax, table):
    """Draw accuracy by number of labels, one curve per method."""
    for name, (color, width) in CURVES.items():
        rows = table[table["method"] == name]
        ax.plot(rows["labels"], rows["accuracy"], "o-", color=color, lw=width, ms=4)
        last = rows.iloc[-1]
        ax.annotate(
            name,
            (last["labels"], last["accuracy"]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            weight="bold" if name == "SimCLR" else "normal",
        )
    ax.set_xscale("log")
    ticks = sorted(table["labels"].unique())
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="labelled photographs", ylabel="accuracy (%)")
    ax.margins(x=0.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)


def draw(path, ink):
    """Draw the picture on no background, with text of the colour `ink`."""
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    table = pd.read_csv(HERE / "benchmarks" / "few_labels_clothing.csv")
    with plt.rc_context(dict.fromkeys(keys, ink)):
        figure = plt.figure(figsize=(10, 3.9), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1.5])
        draw_views(left.subplots(len(PHOTOGRAPHS), 3))
        draw_curves(right.subplots(), table)
        figure.savefig(path, dpi=110, transparent=True)
        plt.close(figure)


def main(folder=HERE / "images"):
    """Draw for a light and for a dark page."""
    draw(folder / "hero_light.png", "#1f2328")
    draw(folder / "hero_dark.png", "#e6edf3")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
