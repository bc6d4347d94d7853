"""
How many labels does a representation save?
===========================================

Most images of a collection have no label. Here, SimCLR trains an encoder on handwritten digits without a
single label. Then logistic regression learns from 1% to 100% of the labels, on three kinds of features: raw
pixels, the features of an untrained encoder, and those of SimCLR.
"""

# %%
# Two views of one photograph
# ---------------------------
# SimCLR learns from pairs of views. Each view is a random crop of an image in random colours, and the encoder
# learns which two of many views show the same image. Each row of the figure shows a photograph and six views
# of it.

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    AugmentationDisplay,
    EmbeddingDisplay,
    LabelFractionDisplay,
    PixelTransformer,
    SimCLRTransformer,
    label_fraction_curve,
)

photographs = AugmentationDisplay.from_estimator(
    SimCLRTransformer(image_size=128), load_sample_images().images, n_images=2, n_views=6, random_state=0
)
photographs.figure_.set_label("views")

# %%
# The images and the three models
# -------------------------------
# The study itself takes 1,797 grey images of 8 x 8 pixels that come with scikit-learn: 1,297 for training and
# 500 for testing. Each model is a pipeline. ``max_epochs=0`` leaves the encoder as it was initialised.

X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 8, 8)


def pipeline(features):
    """Return a pipeline that classifies features by logistic regression."""
    classifier = LogisticRegression(max_iter=2000)
    return Pipeline([("features", features), ("scale", StandardScaler()), ("clf", classifier)])


models = {
    "raw pixels": pipeline(PixelTransformer()),
    "untrained encoder": pipeline(SimCLRTransformer(max_epochs=0, random_state=0)),
    "SimCLR": pipeline(SimCLRTransformer(random_state=0)),
}

# %%
# Accuracy by number of labels
# ----------------------------
# :func:`~sklearn_simclr.label_fraction_curve` trains each encoder once, on all training images. The
# classifiers learn from ten draws of the labels. Each draw has equally many labels per digit, as nearly as
# possible: 1% of the labels is 13, one or two per digit.

results = label_fraction_curve(
    models,
    X,
    y,
    fractions=[0.01, 0.02, 0.05, 0.1, 1.0],
    cv=StratifiedShuffleSplit(1, test_size=500, random_state=0),
    n_draws=10,
    random_state=0,
    return_estimator=True,
)
accuracy = 100 * results.groupby(["estimator", "fraction"], sort=False)["score"].agg(["mean", "std"])
table = accuracy.apply(lambda row: f"{row['mean']:.1f} ± {row['std']:.1f}", axis=1).unstack("fraction")
table.columns = [f"{fraction:.0%}" for fraction in table.columns]
print("Test accuracy in percent: mean and standard deviation over ten draws of the labels\n")
print(table.loc[list(models)].to_string())

# %%
# The fewer the labels, the more training without labels helps. The arrow in the figure shows how many times
# fewer labels SimCLR needs to be as accurate as its best rival with 10% of the labels. With all labels, raw
# pixels nearly suffice for images as small as these.

curves = LabelFractionDisplay.from_results(results, score_name="Test accuracy (%)", reference="best", at=0.1)
curves.ax_.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
curves.figure_.set_label("label_fractions")

# %%
# Features in two dimensions
# --------------------------
# Both panels show the 500 test images, which no encoder has seen, in two dimensions by t-SNE. Colours are
# digits. SimCLR has put most digits in groups of their own, although it saw no labels.

_, X_test, _, y_test = train_test_split(X, y, test_size=500, stratify=y, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", num="embedding")
for ax, name in zip(axes, ["raw pixels", "SimCLR"], strict=True):
    fitted = results.loc[results["estimator"] == name, "fitted_estimator"].iloc[0]
    EmbeddingDisplay.from_estimator(
        fitted[:-1], X_test, y_test, ax=ax, legend=name == "SimCLR", random_state=0
    )
    ax.set_title(name)

plt.show()
