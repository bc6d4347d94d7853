"""
Has it learnt?
==============

Training without labels gives no accuracy to check. This lesson has four encoders of handwritten digits: one
has collapsed, one was never trained, and two were trained for 8 and for 28 epochs. ``representation_report``
tells them apart without a single label, and says what to change.
"""

# %%
# The task that the encoder is set
# --------------------------------
# Scanned digits of 8 x 8 pixels come with scikit-learn. SimCLR crops, shifts and changes every image at
# random, twice, and trains a network to recognise which two of many such *views* come from one image.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from sklearn_simclr import AugmentationDisplay, SimCLRTransformer
from sklearn_simclr.inspection import representation_report

digits = load_digits()
X, X_new = digits.images[:640], digits.images[640:1152]
y_new = digits.target[640:1152].copy()

views = AugmentationDisplay.from_estimator(SimCLRTransformer(), X, n_images=3, n_views=6, random_state=1)

# %%
# Each row of the figure shows one digit and six views of it. You can mostly tell that the views in a row
# belong together, although no two are equal. An encoder that can tell must know something about shapes.
#
# Four encoders
# -------------
# The first one is set up to fail: a network without normalisation, with a learning rate that is far too high.
# ``fit`` notices, and warns.


def unbounded():
    """Return a network without normalisation."""
    convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", ConvergenceWarning)
    collapsed = SimCLRTransformer(
        encoder=unbounded,
        projection_layers=0,
        optimizer="sgd",
        learning_rate=1000,
        batch_size=64,
        max_epochs=12,
        random_state=0,
    ).fit(X)
for warning in caught:
    print(f"{warning.category.__name__}: {warning.message}")

# %%
# The other three differ in the number of epochs only.

settings = {"batch_size": 64, "random_state": 0}
epochs = {"untrained": 0, "8 epochs": 8, "28 epochs": 28}
encoders = {"collapsed": collapsed}
for name, max_epochs in epochs.items():
    encoders[name] = SimCLRTransformer(max_epochs=max_epochs, **settings).fit(X)

# %%
# What the reports say
# --------------------
# The reports use images that no encoder has seen. The first line is the verdict. Both trained encoders are
# "undertrained": their loss curves predict that more epochs help.

reports = {name: representation_report(encoder, X_new) for name, encoder in encoders.items()}
for name, report in reports.items():
    first = report.findings[0]
    print(f"{name}: {report.verdict}\n    {first.title}\n    {first.advice}\n")

# %%
# One picture tells the four apart. It shows how similar the encoder finds two views. For two views of *one*
# image (blue), the similarity should be higher than for views of *different* images (orange).

figure, axes = plt.subplots(2, 2, figsize=(8.8, 5.6), layout="constrained", sharex=True)
bins = np.linspace(-0.8, 1.0, 51)
for ax, (name, report) in zip(axes.ravel(), reports.items(), strict=True):
    seen = report.measures.trained
    for similarities, color, label in (
        (seen.negatives, "C1", "different images"),
        (seen.positives, "C0", "one image"),
    ):
        shares = np.full(len(similarities), 1 / len(similarities))
        ax.hist(similarities.clip(-0.8, 1), bins, weights=shares, color=color, alpha=0.6, label=label)
    accuracy = report.values["contrastive_accuracy"]
    ax.set(title=f"{name}: finds the other view in {accuracy:.0%}", yticks=[])
for ax in axes[1]:
    ax.set_xlabel("similarity of two views")
for ax in axes[:, 0]:
    ax.set_ylabel("share of pairs")
axes[0, 0].legend(title="two views of", loc="upper left", frameon=False)

# %%
# - *collapsed*: all pairs have the highest similarity. The encoder gives the same output for every image.
# - *untrained*: nearly the same picture, but the blue hill is a little to the right. Even random weights
#   notice that views of one image have pixels in common. So the report compares with random weights, and not
#   only with guessing.
# - *8 epochs*: the orange hill has moved to the left. Different images have become different to the encoder.
# - *28 epochs*: the hills are narrower and overlap less, and the other view is found more often. Where orange
#   still reaches under blue, the encoder finds different images similar; these may show the same digit.
#
# How much would more epochs help?
# --------------------------------
# The loss curve of 8 epochs predicts what 16 would bring. To see whether it is right, train again for 16
# epochs.

prediction = reports["8 epochs"].prediction
print(prediction)
longer = SimCLRTransformer(max_epochs=2 * prediction.epochs, **settings).fit(X)

curves, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
short, long = encoders["8 epochs"].loss_curve_, longer.loss_curve_
ax.axhline(longer.history_["chance_level"].iloc[-1], color="0.4", ls="--", lw=1, label="chance level")
ax.plot(range(1, len(long) + 1), long, color="0.6", label="training for twice the epochs")
ax.plot(range(1, len(short) + 1), short, "o-", color="C0", label="training that is known")
ax.errorbar(
    len(long),
    prediction.predicted,
    [[prediction.predicted - prediction.low], [prediction.high - prediction.predicted]],
    fmt="o",
    color="C1",
    capsize=5,
    label="prediction",
)
ax.set(xlabel="epoch", ylabel="loss", title="What a loss curve says about a longer training")
ax.legend(loc="upper right", bbox_to_anchor=(1, 0.94))

# %%
# The blue curve flattens at its end, as if nothing more could be learnt. In fact it flattens because the
# learning rate falls to zero there. The learning rate of the grey curve falls later, so its loss falls
# further. The prediction takes the schedule into account; its bar is the range of losses that are compatible
# with the blue curve. :doc:`/how_to/has_it_learnt` shows how accurate such predictions are.
#
# The whole report
# ----------------
# With labels for some images, here a hundred, the report also checks whether neighbours have the same class.
# ``-1`` marks images without a label.

y_new[100:] = -1
report = representation_report(encoders["28 epochs"], X_new, y_new)
print(report)
panels = report.plot()

# %%
# The panels from the top left:
#
# - similarities of views, for random weights and for this encoder;
# - how often the other view of an image is found;
# - the loss, with the prediction for twice the epochs;
# - the directions that the representations use: a curve that falls early means that few directions are used;
# - how often the nearest labelled images have the class of an image, compared with random weights and raw
#   pixels. Digits are so small and so neatly centred that raw pixels do well, too; on photographs they do
#   not.
#
# In a notebook, ``report`` alone shows all of this. ``report.to_html("report.html")`` writes it to a file.

plt.show()
