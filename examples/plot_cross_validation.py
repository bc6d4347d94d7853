"""
Cross-validation of a pipeline that begins with SimCLR
======================================================

A score on the images that the encoder was trained on says little, even though it was trained without labels.
``cross_validate`` trains encoder and classifier anew in each fold and scores both on images that neither has
seen. It works as with any other pipeline.
"""

# %%
# Several scores at once
# ----------------------
# For scikit-learn, the encoder is a step like ``StandardScaler``: it is cloned, fitted on the training fold,
# and applied to the test fold. Scores are given by name or made by ``make_scorer``: the top-2 accuracy here
# says how often the right digit is among the two most probable ones.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, make_scorer, top_k_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    Augmentation,
    LabelFractionClassifier,
    PixelTransformer,
    SemiSupervisedKFold,
    SimCLRTransformer,
)

digits = load_digits()
n_images = 1200
X, y = digits.images[:n_images], digits.target[:n_images]


def with_classifier(transformer):
    # The classifier gets 60 labels of each training set.
    classifier = LabelFractionClassifier(LogisticRegression(max_iter=2000), 0.075, random_state=0)
    return make_pipeline(transformer, StandardScaler(), classifier)


simclr = SimCLRTransformer(augmentation=Augmentation(flip_probability=0.0), max_epochs=15, random_state=0)
models = {"raw pixels": with_classifier(PixelTransformer()), "SimCLR": with_classifier(simclr)}
scoring = {
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "top-2 accuracy": make_scorer(top_k_accuracy_score, k=2, response_method="predict_proba"),
    "log loss": "neg_log_loss",
}
folds = StratifiedKFold(3, shuffle=True, random_state=0)
scores = {
    name: cross_validate(model, X, y, cv=folds, scoring=scoring, return_estimator=True, return_indices=True)
    for name, model in models.items()
}

# %%
# The fold table
# --------------
# One row per fold and one column per score, accuracies in percent. ``log loss`` is negated as in
# scikit-learn, so that greater is better. Both models find the last fold the hardest, by several points.
# Compare the models within a fold, not by their means: in all three folds and by all four scores, the line
# from raw pixels to SimCLR rises.

table = pd.concat(
    {
        name: pd.DataFrame({s: found[f"test_{s}"] for s in scoring}).assign(seconds=found["fit_time"])
        for name, found in scores.items()
    },
    names=["model", "fold"],
)
accuracies = [score for score in scoring if "accuracy" in score]
table[accuracies] *= 100
digits_shown = {score: 1 for score in accuracies} | {"log loss": 3, "seconds": 1}
print(table.round(digits_shown).to_string())

fold_figure, axes = plt.subplots(1, len(scoring), figsize=(9.6, 3.2), layout="constrained")
for ax, score in zip(axes, scoring, strict=True):
    for fold in range(3):
        pair = [table.loc[(name, fold), score] for name in models]
        ax.plot(list(models), pair, color="0.7", lw=1, zorder=1)
        ax.scatter(list(models), pair, color=["C7", "C0"], zorder=2)
    ax.set_title(f"{score} (%)" if score in accuracies else "negative log loss")
    ax.margins(x=0.3)
fold_figure.suptitle("Three folds; a line joins the two models on the same test images")

# %%
# Which digits are confused
# -------------------------
# With ``return_estimator`` and ``return_indices``, each image can be predicted by the model that has not seen
# it, without another training. The most frequent mistake of both models is to take a 5 for a 9. SimCLR takes
# an 8 for a 1 less often than the raw pixels do.

confusion_figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained")
for ax, (name, found) in zip(axes, scores.items(), strict=True):
    predicted = np.empty_like(y)
    for model, test in zip(found["estimator"], found["indices"]["test"], strict=True):
        predicted[test] = model.predict(X[test])
    ConfusionMatrixDisplay.from_predictions(y, predicted, ax=ax, colorbar=False, cmap="Blues")
    ax.set_title(f"{name}: {np.mean(predicted != y):.1%} wrong")

# %%
# If not every image has a label
# ------------------------------
# A test fold with unlabelled images cannot be scored: ``-1`` would count as a class that is always missed.
# :class:`~sklearn_simclr.SemiSupervisedKFold` puts the images without a label into every training set, where
# an encoder learns from them, and into no test set. With the plain splitter, they count as wrong predictions,
# so the score is about half as high for the same model and labels. The package warns of this.

few = y.copy()
few[np.random.default_rng(0).random(len(y)) < 0.5] = -1
classifier = LabelFractionClassifier(LogisticRegression(max_iter=2000))
pixels = make_pipeline(PixelTransformer(), StandardScaler(), classifier)
unlabelled = {
    "SemiSupervisedKFold": SemiSupervisedKFold(3, shuffle=True, random_state=0),
    "StratifiedKFold": folds,
}
for name, splitter in unlabelled.items():
    with warnings.catch_warnings(record=True) as caught:
        found = cross_validate(pixels, X, few, cv=splitter, scoring="accuracy", return_indices=True)
    without = [np.mean(few[test] == -1) for test in found["indices"]["test"]]
    accuracy = found["test_score"].mean()
    print(f"{name}: accuracy {accuracy:.1%}, {np.mean(without):.0%} of the test images have no label")
    for warning in caught[:1]:
        print(f"Warning: {warning.message}")

plt.show()
