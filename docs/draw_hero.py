"""Draw the first picture of README and site: pairs of views, and accuracy by number of labels.

The curves are those of ``docs/benchmarks/rivals_clothing.csv``, which ``make numbers`` writes. The
photographs are of the same collection (CC0, github.com/alexeygrigorev/clothing-dataset-small).

    python docs/draw_hero.py
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import torch
from PIL import Image

from sklearn_simclr import Augmentation, load_images

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = sorted((HERE / "images" / "clothing").glob("*.jpg"))
N_CLASSES = 10
# Name in the table: colour and width of its curve.
CURVES = {
    "SimCLR": ("C0", 2.6),
    "untrained network": ("C5", 1.6),
    "HOG": ("C1", 1.6),
    "supervised network": ("C2", 1.6),
    "raw pixels": ("C7", 1.6),
}


def draw_views(axes):
    """Draw one row per photograph: the image, and a pair of views."""
    X = torch.from_numpy(load_images(PHOTOGRAPHS, image_size=96)).permute(0, 3, 1, 2).float() / 255
    augmentation = Augmentation().resolve((3, 96, 96))
    generator = torch.Generator().manual_seed(11)
    columns = [X, augmentation(X, generator), augmentation(X, generator)]
    for row in range(len(X)):
        for ax, column in zip(axes[row], columns, strict=True):
            ax.imshow(column[row].permute(1, 2, 0).clamp(0, 1))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for ax, title in zip(axes[0], ("photograph", "view 1", "view 2"), strict=True):
        ax.set_title(title, fontsize=10)


def read_curves():
    """Return the numbers of labels, and accuracy in percent by method."""
    table = pd.read_csv(HERE / "benchmarks" / "rivals_clothing.csv", index_col="method").iloc[:, 1:]
    labels = [
        int(re.sub(r"\D", "", name)) * (1 if name.startswith("all") else N_CLASSES) for name in table.columns
    ]
    return labels, table.loc[list(CURVES)].map(lambda cell: float(str(cell).split()[0]))


def draw_curves(ax):
    """Draw accuracy by number of labels, one curve per method."""
    labels, accuracy = read_curves()
    ends = accuracy.iloc[:, -1].to_dict()
    places = dict(zip(sorted(ends, key=ends.get), spread(sorted(ends.values()), 3.0), strict=True))
    for name, (color, width) in CURVES.items():
        ax.plot(labels, accuracy.loc[name], "o-", color=color, lw=width, ms=4)
        style = {"color": color, "weight": "bold" if name == "SimCLR" else "normal", "va": "center"}
        ax.annotate(name, (labels[-1] * 1.12, places[name]), annotation_clip=False, **style)
    ax.set_xscale("log")
    ax.set_xticks(labels, [f"{n:,}" for n in labels])
    ax.minorticks_off()
    ax.set(xlabel="labelled photographs", ylabel="accuracy (%)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)


def spread(values, gap):
    """Return rising values that are at least `gap` apart."""
    places = []
    for value in values:
        places.append(value if not places else max(value, places[-1] + gap))
    return places


def draw(path, ink):
    """Draw the picture on no background, with text of the colour `ink`."""
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with plt.rc_context(dict.fromkeys(keys, ink)):
        figure = plt.figure(figsize=(10, 3.9), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1.5])
        draw_views(left.subplots(len(PHOTOGRAPHS), 3))
        draw_curves(right.subplots())
        figure.savefig(path, dpi=110, transparent=True)
        plt.close(figure)
    with Image.open(path) as picture:  # 256 colours: a third of the bytes
        picture.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def main(folder=HERE / "images"):
    """Draw for a light and for a dark page."""
    draw(folder / "hero_light.png", "#1f2328")
    draw(folder / "hero_dark.png", "#e6edf3")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
