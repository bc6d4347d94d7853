"""
Why does contrastive learning work?
===================================

Contrastive training never sees a class. It pulls together two images that belong together, and pushes other
images away. Why should this help a classifier? The theory of Arora et al. (:arxiv:`1902.09229`) has an
answer: if the contrastive loss is small, the loss of a very simple classifier on the same representations
must be small, too. This lesson checks the theory on handwritten digits, where the classes are known and
everything can be measured. :doc:`/explanation/theory` explains the formulas.
"""

# %%
# Tuples
# ------
# The theory assumes *latent classes*. A tuple is an anchor, a positive of the same class, and a negative
# whose class is drawn at random. If the negative happens to have the class of the anchor, that is a
# *collision*. With ten equally frequent digits, one tuple in ten has a collision.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.theory import (
    PACBayesContrastiveTransformer,
    block_bound,
    collision_probability,
    degenerate_loss,
    intraclass_deviation,
    k_negative_bound,
    no_collision_bound,
    pair_bound,
    sample_tuples,
    supervised_loss,
    unsupervised_loss,
)

n_tuples = 50_000

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images, digits.target, test_size=500, stratify=digits.target, random_state=0
)
shown = sample_tuples(y_test, 200, random_state=3)
collides = shown.negative_class[:, 0] == shown.positive_class
chosen = [*np.flatnonzero(~collides)[:5], np.flatnonzero(collides)[0]]

tuples_figure, axes = plt.subplots(3, len(chosen), figsize=(6.4, 3.6), layout="constrained")
for column, t in zip(axes.T, chosen, strict=True):
    for ax, row in zip(column, (shown.anchor[t], shown.positive[t, 0], shown.negative[t, 0, 0]), strict=True):
        ax.imshow(X_test[row], cmap="gray_r")
        ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[:, 0], ("anchor", "positive", "negative"), strict=True):
    ax.set_ylabel(name)
axes[0, -1].set_title("collision", color="C3")
for spine in axes[2, -1].spines.values():
    spine.set(color="C3", lw=2)

# %%
# Three representations
# ---------------------
# The representations are the raw pixels, those of an untrained encoder, and those of SimCLR, which learnt
# from the training images without labels. All are centred and scaled to length 2, because the losses depend
# on the length. From here on, only test images are used, and they stand for the whole distribution.

length = 2.0
encoders = {
    "raw pixels": None,
    "untrained encoder": SimCLRTransformer(max_epochs=0, random_state=0),
    "SimCLR": SimCLRTransformer(max_epochs=30, random_state=0),
}
colours = dict(zip(encoders, ("C7", "C5", "C0"), strict=True))
represented = {}
for name, encoder in encoders.items():
    if encoder is None:
        H_train, H = (X.reshape(len(X), -1) for X in (X_train, X_test))
    else:
        H_train, H = encoder.fit(X_train).transform(X_train), encoder.transform(X_test)
    H = H - H_train.mean(axis=0)
    represented[name] = length * H / np.linalg.norm(H, axis=1, keepdims=True)

# %%
# The bound, and what blocks do to it
# -----------------------------------
# The *mean classifier* needs no training: it compares an image with the mean of each class. Its average loss
# in telling two digits apart (dotted lines) lies below the bound that lemma 4.3 derives from the
# contrastive loss (leftmost points). If means of blocks of images replace the single positive and negative,
# the bound falls towards the loss (proposition 6.2), because the mean of many images is close to the class
# mean.
#
# The bound puts the three representations in the same order as the loss of the mean classifier does, although
# it only compares images with each other.

prior = np.bincount(y_test) / len(y_test)
tau = collision_probability(prior)
blocks = (1, 2, 4, 8, 16)
block_tuples = {b: sample_tuples(y_test, n_tuples, block_size=b, random_state=b) for b in blocks}
block_figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
rows = []
for name, H in represented.items():
    losses = {b: unsupervised_loss(H, t) for b, t in block_tuples.items()}
    bounds = [block_bound(losses[b].total, tau).total for b in blocks]
    spread = no_collision_bound(losses[1].no_collision, intraclass_deviation(H, y_test), tau).total
    mean = supervised_loss(H, y_test)
    errors = supervised_loss(H, y_test, loss="zero_one")
    rows.append((name, 100 * errors, mean, bounds[-1], bounds[0], spread))
    ax.plot(blocks, bounds, marker="o", color=colours[name], label=f"{name}: bound")
    ax.axhline(mean, color=colours[name], ls=":", label=f"{name}: mean classifier")
ax.set_xscale("log", base=2)
ax.set_xticks(blocks, [str(b) for b in blocks])
ax.set_ylim(bottom=0)
ax.set(
    xlabel="images in a block", ylabel="logistic loss (bits)", title="Pairs of digits; guessing costs 1 bit"
)
ax.legend(fontsize="small", ncols=2)

columns = ["representation", "errors (%)", "loss", "bound, blocks of 16", "bound, pairs", "theorem 4.5"]
print(pd.DataFrame(rows, columns=columns).round(3).to_string(index=False))

# %%
# Collisions
# ----------
# No representation can avoid the loss from collisions. It grows with the probability of a collision,
# :math:`\tau`, which is 1/2 for two equally frequent classes and 1/10 for ten. A collision costs at least 1
# bit, and the theory subtracts this bit. Since images of a class differ, collisions cost more than that. The
# excess stays in the bound, multiplied by :math:`\tau / (1 - \tau)`. With two classes, it is about half of
# the bound.

H = represented["SimCLR"]
collision_figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
taus, parts = [], []
for n_classes in range(2, 11):
    kept = y_test < n_classes
    some = collision_probability(np.bincount(y_test[kept]) / kept.sum())
    tuples = sample_tuples(y_test[kept], n_tuples, random_state=n_classes)
    loss = unsupervised_loss(H[kept], tuples)
    excess = some / (1 - some) * (loss.collision - 1)
    mean = supervised_loss(H[kept], y_test[kept])
    bound = pair_bound(some * loss.collision + (1 - some) * loss.no_collision, some).total
    taus.append(some)
    parts.append((mean, loss.no_collision, excess, bound))
mean, contrast, excess, bound = np.array(parts).T
ax.fill_between(taus, 0, contrast, color="C0", alpha=0.25, lw=0, label="contrast between classes")
ax.fill_between(taus, contrast, contrast + excess, color="C3", alpha=0.25, lw=0, label="cost of collisions")
ax.plot(taus, bound, color="k", marker="o", label="bound (lemma 4.3)")
ax.plot(taus, mean, color="C0", ls=":", label="mean classifier")
ax.set_xlim(min(taus), max(taus))
ax.set_ylim(bottom=0)
ax.set(
    xlabel="probability of a collision, $\\tau$",
    ylabel="logistic loss (bits)",
    title="SimCLR, 10 to 2 digits",
)
ax.legend(fontsize="small")

# %%
# In practice, an anchor is compared with many negatives at once. Then there are more classes to tell apart,
# and more collisions: with ten digits and eight negatives, more than half of the tuples have one. The bound
# still holds, but it moves away from the loss (theorem B.1).

negatives_figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
negatives = (1, 2, 3, 4, 6, 8)
for name, H in represented.items():
    bounds, means = [], []
    for k in negatives:
        loss = unsupervised_loss(H, sample_tuples(y_test, n_tuples, n_negatives=k, random_state=k)).total
        bound = k_negative_bound(loss, collision_probability(prior, k), degenerate_loss(prior, k))
        bounds.append(bound.total)
        means.append(supervised_loss(H, y_test, n_negatives=k, tasks="collision_free"))
    ax.plot(negatives, bounds, marker="o", color=colours[name], label=f"{name}: bound")
    ax.plot(negatives, means, color=colours[name], ls=":", label=f"{name}: mean classifier")
ax.plot(negatives, np.log2(1 + np.array(negatives)), color="k", lw=0.8, label="guessing, k + 1 classes")
ax.set_ylim(bottom=0)
ax.set(xlabel="negatives k", ylabel="logistic loss (bits)", title="Tasks of up to k + 1 digits")
ax.legend(fontsize="small", ncols=2)

# %%
# A guarantee from a sample
# -------------------------
# So far, all images were available. What can be guaranteed for tuples that were not used in training?
# PAC-Bayes (Nozawa et al., :arxiv:`1910.04464`) gives every weight a distribution, and bounds the risk by the
# distance (KL) that training moves this distribution. :class:`~sklearn_simclr.PACBayesContrastiveTransformer`
# minimises such a bound, here with the labels as latent classes. Its parameter ``lam`` is the weight of the
# loss relative to the distance. Five models are trained. Each guarantee may fail with a probability of 1%, so
# all five hold together with a probability of 95%, and with them the guarantee of the best model.
#
# The left panel shows one training: the risk falls, and when the learning rate falls in the last quarter, the
# distance and the bound fall, too. The right panel compares values of ``lam``: with a small value, little is
# learnt; with a large value, the distance grows more than the risk falls. The bound finds the best value
# without a test image. The guarantee holds for new tuples of the training images. For the test images it is
# no theorem, but their risk is below the bound, too. A risk of 1/2 is chance; because of collisions, the
# smallest possible risk is about 1/20.

lams = (0.03, 0.1, 0.3, 1.0, 3.0)
models = {
    lam: PACBayesContrastiveTransformer(
        lam=lam,
        delta=0.05 / len(lams),
        max_epochs=30,
        random_state=0,
    ).fit(X_train, y_train)
    for lam in lams
}
best = min(models, key=lambda lam: models[lam].bound_)
table = pd.DataFrame(
    [(lam, m.risk_, 1 - m.score(X_test, y_test), m.kl_, m.bound_) for lam, m in models.items()],
    columns=["lam", "risk", "test risk", "KL", "bound"],
)
print(f"\n{models[best].n_tuples_} tuples\n{table.round(3).to_string(index=False)}")

pac_figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), layout="constrained", sharey=True)
history = models[best].history_
left.plot(history["epoch"], history["bound"], color="k", label="bound")
left.plot(history["epoch"], history["risk"], color="C0", label="risk on the tuples")
left.set(xlabel="epoch", ylabel="contrastive risk", title=f"Training with lam = {best}")
twin = left.twinx()
twin.plot(history["epoch"], history["kl"], color="C1", ls="--")
twin.set_ylim(0, 1.1 * history["kl"].max())
twin.set_ylabel("KL (dashed)", color="C1")
left.legend(loc="lower left", ncols=2)
right.plot(table["lam"], table["bound"], color="k", marker="o", label="bound")
right.plot(table["lam"], table["test risk"], color="C3", marker="s", label="risk on test images")
right.plot(table["lam"], table["risk"], color="C0", marker="o", label="risk on the tuples")
right.axvline(best, color="C7", lw=0.8)
right.set_xscale("log")
right.set_ylim(0, 0.5)
right.set(xlabel="lam", title=f"After training; guaranteed at best: {models[best].bound_:.2f}")
right.legend()

plt.show()
