"""
SimCLR and what it has to beat
==============================

Is it worth it to train an encoder without labels? That depends on the alternatives: classify the pixels,
reduce them with PCA, count edges, use an untrained network, train the network as an autoencoder, or train it
on the few labels alone. Here all of these get the same draws of labels, and
:func:`~sklearn_simclr.label_saving` says how many labels SimCLR saves.
"""

# %%
# The contestants
# ---------------
# Six of the seven methods are steps of a pipeline that ends in the same classifier. These six need no labels,
# so they learn from every training image. The network "supervised" is a classifier by itself, and learns only
# from the images whose labels were drawn.

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    HOGTransformer,
    LabelFractionDisplay,
    PixelTransformer,
    SimCLRTransformer,
    SupervisedTransformer,
    label_fraction_curve,
    label_saving,
)

X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 8, 8)
# Most mirrored digits are no digits, so no network is trained on mirrored views.
augmentation = Augmentation(flip_probability=0.0)


def with_classifier(*steps):
    return make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=2000))


estimators = {
    "raw pixels": with_classifier(PixelTransformer()),
    "PCA": with_classifier(PixelTransformer(), PCA(20, random_state=0)),
    "HOG": with_classifier(HOGTransformer()),
    "untrained encoder": with_classifier(SimCLRTransformer(max_epochs=0, random_state=0)),
    "autoencoder": with_classifier(
        AutoencoderTransformer(augmentation=augmentation, max_epochs=15, random_state=0)
    ),
    "supervised": SupervisedTransformer(
        augmentation=augmentation, batch_size=64, max_epochs=150, random_state=0
    ),
    "SimCLR": with_classifier(SimCLRTransformer(augmentation=augmentation, max_epochs=20, random_state=0)),
}

# %%
# The study
# ---------
# One call runs the study. Each encoder is trained once. The labels are drawn anew for each number of labels,
# balanced over the digits, and all methods get the same labels.

results = label_fraction_curve(
    estimators,
    X,
    y,
    fractions=[10, 30, 100],
    cv=StratifiedShuffleSplit(1, train_size=800, random_state=0),
    n_draws=2,
    random_state=0,
)
mean = 100 * results.groupby(["estimator", "n_labels"], sort=False)["score"].mean().unstack()
print("Test accuracy in percent, by number of labels\n")
print(mean.round(1).to_string())

# %%
# The curves
# ----------
# SimCLR's curve is the highest at every number of labels, and its lead is largest with ten labels, one per
# digit. The autoencoder comes second: it also learns from all images. The untrained encoder is close behind,
# since random features already help on images as small as these. The supervised network and the hand-made
# features (HOG) follow, and PCA and the raw pixels come last. The arrow compares SimCLR with the best of the
# others: it shows how many times fewer labels SimCLR needs for the same accuracy.

display = LabelFractionDisplay.from_results(
    results,
    score_name="Test accuracy",
    reference="best",
    estimator="SimCLR",
)

# %%
# What SimCLR saves
# -----------------
# For each of the others, the table answers this question: with how many labels is SimCLR as accurate as the
# other method with a hundred? The numbers are interpolated between the measured points of the mean curves.
# There are only two draws of the labels, so take the numbers as rough estimates. SimCLR needs less than half
# of the labels that the pixels, PCA, HOG and the supervised network need. The autoencoder comes closest to
# SimCLR.

n_most = int(results["n_labels"].max())
others = [name for name in estimators if name != "SimCLR"]
savings = {name: label_saving(results, "SimCLR", name) for name in others}
table = pd.DataFrame(
    [(name, f"{100 * s.score:.1f}", str(s)) for name, s in savings.items()],
    columns=["compared with", f"its accuracy with {n_most} labels (%)", "SimCLR needs"],
)
print(table.to_string(index=False))

bars, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
drawn = ax.barh(others, [s.factor for s in savings.values()], color="C0", alpha=0.7)
ax.bar_label(drawn, [f"{s}" for s in savings.values()], padding=3, fontsize="small")
ax.axvline(1, color="k", lw=0.8)
ax.set(xlabel=f"{n_most} labels of the other, divided by those that SimCLR needs")
ax.margins(x=0.35)

plt.show()
