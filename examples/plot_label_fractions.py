"""
How many labels does a representation save?
===========================================

Most images of a collection have no label. Here an encoder is trained on all handwritten digits of a
training set without looking at a single label; then a logistic regression is fitted on its representations
with 1%, 2%, 5%, 10% and 100% of the labels, and compared with the same classifier on the raw pixels and on
the representations of an encoder that was not trained at all.
"""

# %%
# The images
# ----------
# 1,797 grey images of 8 x 8 pixels that come with scikit-learn. Of the 1,297 for training, 1% is 13 labels:
# one or two for each of the ten digits.

import argparse
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_simclr import LabelFractionClassifier, SimCLRTransformer

parser = argparse.ArgumentParser(description="Accuracy against the fraction of labels, on digits.")
parser.add_argument("--output-dir", type=Path, help="folder for the figures; without it they are shown")
options, _ = parser.parse_known_args()
fast = os.environ.get("SKLEARN_SIMCLR_EXAMPLES_FAST") == "1"

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images, digits.target, test_size=500, stratify=digits.target, random_state=0
)
print(f"{len(X_train)} images for training, {len(X_test)} for testing, of shape {X_train.shape[1:]}")

# %%
# Three representations
# ---------------------
# All see the same training images, none sees a label. ``max_epochs=0`` leaves the encoder as it was
# initialised. Everything else is the default.

encoders = {
    "raw pixels": FunctionTransformer(lambda X: X.reshape(len(X), -1)),
    "random encoder": SimCLRTransformer(max_epochs=0, random_state=0),
    "SimCLR": SimCLRTransformer(max_epochs=2 if fast else 100, verbose=1, random_state=0),
}
represented = {}
for name, encoder in encoders.items():
    started = time.perf_counter()
    encoder.fit(X_train)
    represented[name] = encoder.transform(X_train), encoder.transform(X_test)
    seconds = time.perf_counter() - started
    print(f"{name}: {represented[name][0].shape[1]} features, {seconds:.1f} s")

# %%
# Accuracy against the fraction of labels
# ---------------------------------------
# The labels are drawn ten times; each draw has the same number of labels for every digit, as nearly as
# possible, and a smaller fraction is a part of a larger one.

fractions = [0.01, 0.02, 0.05, 0.1, 1.0]
rows = []
for name, (H_train, H_test) in represented.items():
    for draw in range(3 if fast else 10):
        for fraction in fractions:
            classifier = LabelFractionClassifier(
                make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
                fraction,
                random_state=draw,
            )
            classifier.fit(H_train, y_train)
            accuracy = classifier.score(H_test, y_test)
            rows.append((name, fraction, classifier.n_labels_, draw, accuracy))
results = pd.DataFrame(rows, columns=["representation", "fraction", "labels", "draw", "accuracy"])

summary = results.groupby(["representation", "fraction"], sort=False)["accuracy"].agg(["mean", "std"])
table = (100 * summary).apply(lambda row: f"{row['mean']:.1f} ± {row['std']:.1f}", axis=1).unstack("fraction")
table.columns = [f"{fraction:.0%}" for fraction in table.columns]
print("\nTest accuracy in percent, mean and standard deviation over the draws of labels\n")
print(table.loc[list(encoders)].to_string())

# %%
# The fewer the labels, the more the training without labels is worth: at 1%, SimCLR's curve lies far above
# the two others. With all labels, raw pixels are nearly enough for digits this small.

figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for name in encoders:
    mean, std = summary.loc[name]["mean"], summary.loc[name]["std"]
    (line,) = ax.plot(100 * mean.index, 100 * mean, marker="o", label=name)
    ax.fill_between(
        100 * mean.index, 100 * (mean - std), 100 * (mean + std), color=line.get_color(), alpha=0.15, lw=0
    )
ax.set_xscale("log")
ax.set_xticks([100 * f for f in fractions], [f"{f:.0%}" for f in fractions])
ax.minorticks_off()
ax.set_xlabel(f"labels, of {len(X_train)}")
ax.set_ylabel("test accuracy (%)")
ax.set_title("Logistic regression on digits")
ax.grid(alpha=0.3)
ax.legend(loc="lower right")

# %%
# What the encoder sees
# ---------------------
# The test images, which no encoder has seen, in two dimensions by t-SNE. SimCLR has gathered the digits in
# groups of their own without ever being told that there are ten.

embedding, axes = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained")
for panel, name in zip(axes, ["raw pixels", "SimCLR"], strict=True):
    H = StandardScaler().fit_transform(represented[name][1])
    points = TSNE(init="pca", random_state=0).fit_transform(H)
    for digit in range(10):
        members = points[y_test == digit]
        panel.scatter(*members.T, s=8, color=plt.colormaps["tab10"](digit))
        panel.annotate(
            str(digit),
            np.median(members, axis=0),
            ha="center",
            va="center",
            weight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.75},
        )
    panel.set(title=name, xticks=[], yticks=[])
embedding.suptitle("500 test images, coloured by their digit")

if options.output_dir is not None:
    options.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output_dir / "label_fractions.png", dpi=150)
    embedding.savefig(options.output_dir / "embedding.png", dpi=150)
    results.to_csv(options.output_dir / "label_fractions.csv", index=False)
    print(f"\nFigures and numbers are in {options.output_dir}/")
else:
    plt.show()
