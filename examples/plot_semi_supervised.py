"""
Fifty labels and a thousand images
==================================

The label ``-1`` marks images without a label, as in the module ``sklearn.semi_supervised``. The estimators of
this package accept such a ``y`` from the first step to the score: you need not separate the images by hand.
"""

# %%
# The data
# --------
# There are a thousand images of handwritten digits. Five images of each digit have a label, fifty in total;
# the figure shows these. The other images have the label -1.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from sklearn_simclr import (
    Augmentation,
    LabelFractionClassifier,
    PixelTransformer,
    SemiSupervisedKFold,
    SimCLRClassifier,
    SimCLRTransformer,
    label_subset,
)

digits = load_digits()
X, X_test, y_all, y_test = train_test_split(
    digits.images, digits.target, train_size=1000, stratify=digits.target, random_state=0
)
labelled = label_subset(y_all, 0.05, random_state=0)
y = np.full(len(y_all), -1)
y[labelled] = y_all[labelled]
print(f"{len(X)} images, {np.sum(y != -1)} labels")

labels_figure, axes = plt.subplots(5, 10, figsize=(6.4, 3.3), layout="constrained")
for column, digit in zip(axes.T, range(10), strict=True):
    for ax, row in zip(column, np.flatnonzero(y == digit), strict=True):
        ax.imshow(X[row], cmap="gray_r")
        ax.set(xticks=[], yticks=[])
labels_figure.suptitle("The labelled images: five of each digit")

# %%
# A pipeline
# ----------
# The encoder learns from the thousand images, the classifier from the fifty labels:
# :class:`~sklearn_simclr.LabelFractionClassifier` leaves the rows with -1 out. A plain ``LogisticRegression``
# would treat -1 as an eleventh digit.

simclr = SimCLRTransformer(augmentation=Augmentation(flip_probability=0.0), max_epochs=30, random_state=0)
pipeline = Pipeline(
    [
        ("simclr", simclr),
        ("scale", StandardScaler()),
        ("clf", LabelFractionClassifier(LogisticRegression(max_iter=2000))),
    ]
)
pipeline.fit(X, y)
print(f"classes: {pipeline.classes_}")

# %%
# ``score`` ignores images without a label, so that the same call is right on both sets.

print(f"accuracy on the labelled training images {pipeline.score(X, y):.1%}")
print(f"accuracy on the test images {pipeline.score(X_test, y_test):.1%}")

# %%
# Fine-tuning
# -----------
# :class:`~sklearn_simclr.SimCLRClassifier` also takes the ``y`` with -1. Here it starts from the encoder of
# the pipeline, and adapts the whole network to the fifty labels.

tuned = SimCLRClassifier(pipeline["simclr"], max_epochs=300, random_state=0).fit(X, y)

# %%
# Compare
# -------
# Two classifiers of the raw pixels get the same fifty labels. ``SelfTrainingClassifier`` also predicts labels
# for the images that it is most certain about, and learns from these labels.

pixels = make_pipeline(
    PixelTransformer(), StandardScaler(), LabelFractionClassifier(LogisticRegression(max_iter=2000))
).fit(X, y)
guessing = SelfTrainingClassifier(
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), threshold=0.9
).fit(X.reshape(len(X), -1), y)

accuracy = {
    "pixels, 50 labels": pixels.score(X_test, y_test),
    "pixels, self-training": guessing.score(X_test.reshape(len(X_test), -1), y_test),
    "SimCLR, 50 labels": pipeline.score(X_test, y_test),
    "SimCLR, fine-tuned": tuned.score(X_test, y_test),
}
full = make_pipeline(PixelTransformer(), StandardScaler(), LogisticRegression(max_iter=2000)).fit(X, y_all)
ceiling = full.score(X_test, y_test)
for name, value in {**accuracy, "pixels, all 1000 labels": ceiling}.items():
    print(f"{name}: {value:.1%}")

# %%
# The unlabelled images help in two ways: with predicted labels, the classifier of the pixels gains a few
# percentage points; as training images for SimCLR, they gain about twice as much. Adapting the whole network
# to fifty labels does not help here: the logistic regression on the frozen encoder is better. The dashed line
# is the accuracy of the pixels if the other 950 images are labelled, too.

bars, ax = plt.subplots(figsize=(6.8, 2.9), layout="constrained")
drawn = ax.barh(list(accuracy), [100 * v for v in accuracy.values()], color=["C7", "C7", "C0", "C0"])
ax.bar_label(drawn, fmt="%.1f", padding=3)
ax.axvline(100 * ceiling, color="k", ls="--", lw=1)
ax.annotate(
    "pixels, all 1000 labels",
    (100 * ceiling, 1.0),
    xycoords=("data", "axes fraction"),
    xytext=(0, 3),
    textcoords="offset points",
    ha="right",
    fontsize="small",
)
ax.invert_yaxis()
ax.set(xlabel=f"accuracy on {len(X_test)} test images (%)", xlim=(0, 103))

# %%
# Choosing a parameter
# --------------------
# A search gets the same fifty labels. :class:`~sklearn_simclr.SemiSupervisedKFold` holds out ten of them at a
# time, and puts all unlabelled images into every training set. The encoder is frozen, so the search does not
# train it again.

search = GridSearchCV(
    Pipeline([("simclr", FrozenEstimator(pipeline["simclr"])), *pipeline.steps[1:]]),
    {"clf__estimator__C": np.logspace(-4, 1, 6)},
    cv=SemiSupervisedKFold(5, shuffle=True, random_state=0),
).fit(X, y)
print(f"C = {search.best_params_['clf__estimator__C']:g}, cross-validated accuracy {search.best_score_:.1%}")
print(f"accuracy on the test images {search.score(X_test, y_test):.1%}")

# %%
# The bars are standard errors over five folds of ten labels each. They are wide: with fifty labels, most
# values of ``C`` cannot be told apart. Both curves say that the smallest value is too small. Where the curves
# differ, trust the test images, since there are many of them.

found = search.cv_results_
test = [
    clone(search.estimator).set_params(clf__estimator__C=C).fit(X, y).score(X_test, y_test)
    for C in found["param_clf__estimator__C"]
]
search_figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
C = np.asarray(found["param_clf__estimator__C"], dtype=float)
mean, sem = found["mean_test_score"], found["std_test_score"] / np.sqrt(5)
ax.errorbar(C, 100 * mean, 100 * sem, marker="o", capsize=3, label="cross-validation on 50 labels")
ax.plot(C, 100 * np.array(test), "s--", color="C3", label=f"{len(X_test)} test images")
ax.set_xscale("log")
ax.set(xlabel="C of the logistic regression", ylabel="accuracy (%)")
ax.legend()

plt.show()
