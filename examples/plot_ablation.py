"""
Which augmentation? A grid search over views and temperature
=============================================================

The encoder learns what two views of an image have in common, and ignores what differs. The paper finds the
right augmentation by ablation: train, classify with few labels, change one thing, repeat (section 3 and, for
the temperature, section 5.1 of :arxiv:`2002.05709`). Here the augmentation is an estimator, so an ablation is
a ``GridSearchCV``. This lesson also shows a case in which an ablation says nothing.
"""

# %%
# The pipeline and its grid
# -------------------------
# The images are handwritten digits of 8 x 8 pixels. The encoder is trained on all images of a training fold,
# the classifier on 10% of their labels. The score is the accuracy on the test fold. The first grid has two
# parameters: the smallest part of an image that a view may show, and the temperature of the loss. The second
# grid mirrors half of the views, or none.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import Augmentation, LabelFractionClassifier, SimCLRTransformer

digits = load_digits()
n_images = 700
X, y = digits.images[:n_images], digits.target[:n_images]

model = Pipeline(
    [
        (
            "simclr",
            SimCLRTransformer(
                augmentation=Augmentation(flip_probability=0.0),
                max_epochs=8,
                random_state=0,
            ),
        ),
        ("scale", StandardScaler()),
        (
            "clf",
            LabelFractionClassifier(LogisticRegression(max_iter=1000), label_fraction=0.1, random_state=0),
        ),
    ]
)
crops = [(0.02, 1.0), (0.2, 1.0), (0.6, 1.0), (1.0, 1.0)]
temperatures = [0.05, 0.2, 1.0]
grid = {"simclr__augmentation__crop_scale": crops, "simclr__temperature": temperatures}

# %%
# What the views look like
# ------------------------
# Each row shows the same digit and seven views of it, with the smallest crops in the first row and no crops
# in the last. The encoder has to find out which views belong together.

views_figure, axes = plt.subplots(len(crops), 8, figsize=(7.2, 3.9), layout="constrained")
image = torch.as_tensor(X[4][None, None] / 16, dtype=torch.float32)
for row, crop in zip(axes, crops, strict=True):
    augmentation = Augmentation(crop_scale=crop, flip_probability=0.0).resolve((1, 8, 8))
    views = augmentation(image.repeat(7, 1, 1, 1), torch.Generator().manual_seed(1))
    for ax, shown in zip(row, [image[0, 0], *views[:, 0]], strict=True):
        ax.imshow(shown, cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"{crop[0]:.0%} to 100%", rotation=0, ha="right", va="center")
axes[0, 0].set_title("image")
axes[0, 4].set_title("views; the part of the image that a crop keeps is on the left")

# %%
# The search
# ----------
# The search fits twelve settings, and two more for the flips, in each of two folds.

folds = StratifiedKFold(2, shuffle=True, random_state=0)
flips = {"simclr__augmentation__flip_probability": [0.0, 0.5]}
search = GridSearchCV(model, [grid, flips], cv=folds).fit(X, y)
results = pd.DataFrame(search.cv_results_)
results = results.rename(columns=lambda name: name.split("__")[-1])
print(f"best: {search.best_params_}, accuracy {search.best_score_:.1%}")

# %%
# The heatmap
# -----------
# The colours suggest large differences, but look at the scale: all twelve settings are within a few
# percentage points. The accuracy of a single setting differs more than that between the two folds, which have
# 35 labels each. So the grid says that crops and temperature hardly matter for these digits. It does not say
# which field is best. The best of twelve is partly the luckiest: measure a final choice on images that the
# search has not seen.
#
# Why do the settings differ so little? The images have 8 x 8 pixels, and a good part of the representation is
# not learnt: the histograms of oriented gradients are the same in all fields. Photographs leave more to
# learn: :doc:`/reference/trials`.

ablation = results[results["temperature"].notna()].assign(smallest=lambda r: r["crop_scale"].map(min))
table = 100 * ablation.pivot(index="smallest", columns="temperature", values="mean_test_score").astype(float)
print(table.round(1).to_string())
folds_of = 100 * ablation.filter(regex=r"^split\d_test_score")
print(f"\nlargest difference between two settings: {np.ptp(table.to_numpy()):.1f} points")
print(f"mean difference between the folds: {folds_of.diff(axis=1).iloc[:, 1].abs().mean():.1f} points")

heatmap, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
drawn = ax.imshow(table, cmap="viridis", aspect="auto")
ax.set_xticks(range(len(table.columns)), [f"{t:g}" for t in table.columns])
ax.set_yticks(range(len(table.index)), [f"{s:.0%}" for s in table.index])
ax.set(xlabel="temperature", ylabel="smallest part that a crop keeps")
middle = (table.to_numpy().min() + table.to_numpy().max()) / 2
for (i, j), value in np.ndenumerate(table.to_numpy()):
    ax.text(j, i, f"{value:.1f}", ha="center", va="center", color="k" if value > middle else "w")
heatmap.colorbar(drawn, label="test accuracy with 10% of the labels (%)")

# %%
# Flips
# -----
# Most mirrored digits are no digits, so one expects that flips reduce the accuracy. Here they make a smaller
# difference than the choice of the fold. To tell such settings apart, use more folds or more draws of the
# labels: :func:`~sklearn_simclr.label_fraction_curve` makes ten draws as easily as one.

flipped = results[results["flip_probability"].notna()].set_index("flip_probability")
per_fold = 100 * flipped.filter(regex=r"^split\d_test_score")
print(per_fold.round(1).to_string())

flip_figure, ax = plt.subplots(figsize=(5.6, 2.4), layout="constrained")
for fold, scores in enumerate(per_fold.T.to_numpy()):
    ax.plot(scores, range(len(scores)), "o-", color="0.6", label=None if fold else "folds")
ax.plot(per_fold.mean(axis=1), range(len(per_fold)), "D", color="C0", label="mean")
ax.set_yticks(range(len(per_fold)), ["no flips", "half of the views mirrored"])
ax.set(xlabel="test accuracy with 10% of the labels (%)", ylim=(-0.5, 1.5))
ax.legend(loc="center")

plt.show()
