"""
What does the projection head throw away?
=========================================

SimCLR compares projections z = g(h), but hands out the representation h. The paper gives a reason: the loss
wants two views of an image to be alike, so z may forget whatever the augmentation changes, and some of it is
useful to a classifier. Its table 3 (section 4.2 of :arxiv:`2002.05709`) measures this: is the transformation
of an image still to be seen in h, and in z? This lesson repeats the experiment with squares of two
photographs.
"""

# %%
# Images and transformations
# --------------------------
# The encoder learns from overlapping squares of the left two thirds of both photographs. The right thirds
# are for the test. The transformations are three of the paper's four. Its fourth is a quarter turn:
# leaves and roofs in such small squares have no up that would tell a turned one.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_sample_images
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import Augmentation, ExternalViews, SimCLRTransformer

side = 32


def squares(photograph, step):
    """Cut a photograph (H, W, 3) into squares."""
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (side, side), axis=(0, 1))
    return windows[::step, ::step].reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


photographs = load_sample_images().images
X_train = np.concatenate([squares(image[:, :416], step=12) for image in photographs])
X_test = np.concatenate([squares(image[:, 416:], step=16) for image in photographs])
print(f"{len(X_train)} squares to learn from, {len(X_test)} for the test")


def greyscale(images):
    return images.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def noise(images):
    return (images + 0.04 * torch.randn(images.shape)).clamp(0, 1)


def sobel(images):
    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    filters = torch.stack([across, across.T])[:, None]
    grey = torch.nn.functional.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="reflect")
    edges = torch.nn.functional.conv2d(grey, filters)
    return edges.norm(dim=1, keepdim=True).clamp(0, 1).expand(-1, 3, -1, -1)


transformations = {"greyscale": greyscale, "noise": noise, "Sobel filter": sobel}

shown = torch.as_tensor(X_test[[164, 533]] / 255, dtype=torch.float32).permute(0, 3, 1, 2)
images_figure, axes = plt.subplots(2, 4, figsize=(5.2, 2.9), layout="constrained")
pictures = {"image": shown} | {name: change(shown) for name, change in transformations.items()}
for column, (name, pair) in zip(axes.T, pictures.items(), strict=True):
    column[0].set_title(name)
    for ax, picture in zip(column, pair, strict=True):
        ax.imshow(picture.permute(1, 2, 0))
        ax.set(xticks=[], yticks=[])

# %%
# Training, and the question
# --------------------------
# One training has all of them in its views: greyscale as always in SimCLR, the others in every second
# view. The projections have as many numbers as the part of h that the head reads, ``output="means"``.
# Then a network with one hidden layer predicts how a new image was transformed, from h or from z. It
# learns this from the squares of the left.

of_simclr = Augmentation().resolve((3, side, side))


def views(images):
    """Return one view of each image of a batch (N, 3, H, W), in [0, 1]."""
    made = of_simclr(images, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))
    for change in (noise, sobel):
        chosen = torch.rand(len(made)) < 0.5
        made[chosen] = change(made[chosen])
    return made


def questions(X, change, seed):
    """Return images (N, H, W, 3) of uint8, half of them transformed, and which."""
    torch.manual_seed(seed)
    chosen = torch.rand(len(X)) < 0.5
    images = torch.as_tensor(X / 255, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
    images[chosen] = change(images[chosen])
    return (255 * images).round().byte().permute(0, 2, 3, 1).numpy(), chosen.numpy()


simclr = SimCLRTransformer(
    augmentation=ExternalViews(views, takes="batch"),
    projection_dim=576,  # as many as the numbers of h that the head reads
    max_epochs=12,
    mirror=False,
    random_state=0,
).fit(X_train)

rows = []
for name, change in transformations.items():
    A, a = questions(X_train, change, seed=0)
    B, b = questions(X_test, change, seed=1)
    row = {"transformation": name}
    for symbol, output in (("h", "means"), ("z", "projection")):
        simclr.set_params(output=output)
        reader = make_pipeline(StandardScaler(), MLPClassifier(256, early_stopping=True, random_state=0))
        reader.fit(simclr.transform(A), a)
        row[symbol] = 100 * reader.score(simclr.transform(B), b)
    rows.append(row)
table = pd.DataFrame(rows).set_index("transformation")
print(table.round(1).to_string())

result_figure, ax = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
heights = np.arange(len(table))[::-1]
ax.hlines(heights, table["z"], table["h"], color="0.7")
ax.plot(table["z"], heights, "s", color="C1", label="from z")
ax.plot(table["h"], heights, "o", color="C0", label="from h")
ax.set_yticks(heights, table.index)
ax.set(xlabel="recognised on new images (%); a coin recognises 50%", xlim=(50, 101), ylim=(-0.5, 2.5))
ax.legend(loc="center left")

# %%
# The answer
# ----------
# Greyscale and noise are recognised more often from h than from z, here and with other seeds. For the Sobel
# filter the difference is small. The head forgets what the views change, and h keeps more of it. In the
# paper, whose network is larger and was trained for much longer, the difference is far greater: noise is
# recognised from h in 99.5% of the images, and from z in 59.6%. So use h, which is the default of
# ``transform``; ``output="projection"`` gives z.

plt.show()
