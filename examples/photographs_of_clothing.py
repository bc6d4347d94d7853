"""
Ten kinds of clothing, few labels
=================================

The images are 3,068 photographs of clothing in ten classes, taken by ordinary people, about 288 x 384 pixels
each. How accurate is a classifier that learns from 61 labels, or from 307? This lesson needs a download, so
this page shows stored results of a similar study.
"""

# %%
# The photographs
# ---------------
# Alexey Grigorev's collection is free to use (CC0). Before you run this script, download the collection into
# the same folder: ``git clone https://github.com/alexeygrigorev/clothing-dataset-small``. It has the folders
# ``train`` and ``validation``, each with one sub-folder per class.
#
# :func:`~sklearn_simclr.load_image_paths` lists the files. The encoder learns from all photographs of
# ``train``; accuracy is measured on those of ``validation``.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    HOGTransformer,
    LabelFractionDisplay,
    PixelTransformer,
    SimCLRTransformer,
    label_fraction_curve,
    load_image_paths,
    load_images,
)

folder = Path("clothing-dataset-small")
if not folder.is_dir():
    raise SystemExit("First run: git clone https://github.com/alexeygrigorev/clothing-dataset-small")
train, test = (load_image_paths(folder / part) for part in ("train", "validation"))
X = np.concatenate([train.data, test.data])
y = np.concatenate([train.target, test.target])
train_rows, test_rows = np.arange(len(train.data)), np.arange(len(train.data), len(X))
print(f"{len(train_rows):,} photographs for training, {len(test_rows)} for testing")
print(", ".join(train.target_names))

# %%
# Three kinds of features
# -----------------------
# Each pipeline ends in the same classifier. ``C=0.01`` is a strong penalty, which is needed because there are
# more features than labels. Every transformer reads the files by itself, and shrinks the centred square of
# each photograph.


def classify(features):
    """Return a pipeline that classifies features by logistic regression."""
    return make_pipeline(features, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


models = {
    "raw pixels": classify(PixelTransformer()),
    "HOG": classify(HOGTransformer()),
    "SimCLR": classify(SimCLRTransformer(max_epochs=10, random_state=0)),
}

# %%
# Accuracy by number of labels
# ----------------------------
# :func:`~sklearn_simclr.label_fraction_curve` trains the encoder once, on all training photographs. For each
# share of the labels, all three classifiers learn from the same three draws of labelled photographs.

results = label_fraction_curve(
    models,
    X,
    y,
    fractions=[0.02, 0.1, 0.3, 1.0],
    cv=[(train_rows, test_rows)],
    n_draws=3,
    random_state=0,
    return_estimator=True,
)
accuracy = 100 * results.groupby(["estimator", "n_labels"], sort=False)["score"].mean().unstack()
print("\nAccuracy in percent, by number of labels")
print(accuracy.round(1).to_string())

display = LabelFractionDisplay.from_results(results, score_name="Accuracy (%)", reference="best", chance=0.1)
display.ax_.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
display.figure_.set_label("curve")
# sphinx_gallery_thumbnail_path = 'images/hero_light.png'

# %%
# The stored results answer the same question for the same photographs, with more methods. Each network was
# trained for 40 seconds. With five labels per class, the untrained network and the autoencoder are ahead of
# SimCLR, and HOG is level with it. With 100 labels per class, SimCLR is ahead of all others.
# :doc:`/reference/benchmarks` has the machine and the command.
#
# .. image:: /images/hero_light.png
#    :class: only-light
#    :alt: Photographs of clothing with views; accuracy by number of labels of SimCLR, HOG and others.
#
# .. image:: /images/hero_dark.png
#    :class: only-dark
#    :alt: Photographs of clothing with views; accuracy by number of labels of SimCLR, HOG and others.
#
# .. csv-table:: Accuracy in percent
#    :file: ../benchmarks/rivals_clothing.csv
#    :header-rows: 1
#    :class: table-sm
#
# What looks alike to the encoder
# -------------------------------
# Photographs that look alike to the encoder have representations that point in similar directions. The first
# column shows photographs that the encoder has not seen. To the right of each are the five training
# photographs with the most similar representations. No labels were used for this.

encoder = results.loc[results["estimator"] == "SimCLR", "fitted_estimator"].iloc[0][0]
shown = [np.flatnonzero(test.target == k)[0] for k in range(0, len(test.target_names), 2)]
index = NearestNeighbors(n_neighbors=5, metric="cosine").fit(encoder.transform(train.data))
_, neighbours = index.kneighbors(encoder.transform(test.data[shown]))

figure, axes = plt.subplots(
    len(shown), 6, figsize=(6.4, 1.1 * len(shown)), layout="constrained", num="neighbours"
)
for row, photograph, similar in zip(axes, shown, neighbours, strict=True):
    thumbnails = load_images([test.data[photograph], *train.data[similar]], image_size=96)
    for ax, thumbnail in zip(row, thumbnails, strict=True):
        ax.imshow(thumbnail)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(test.target_names[test.target[photograph]])
axes[0, 0].set_title("new", fontsize="medium")
axes[0, 3].set_title("the most similar training photographs", fontsize="medium")

# %%
# More time, and other methods
# ----------------------------
# ``SimCLRTransformer(max_time=600)`` trains for ten minutes, and learns more. :doc:`/how_to/imagenet`
# compares with the features of a network that was trained on ImageNet. :doc:`/how_to/photographs` is about
# folders of your own.

plt.show()
