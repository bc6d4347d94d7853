"""Images to measure on, and how representations of them are scored."""

import numpy as np
from joblib import Parallel, delayed
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset

# Values of C that the logistic regression is chosen from.
GRID = (0.003, 0.01, 0.03, 0.1, 0.3)


def some(X, y, n):
    """Return n images and their labels, always the same ones, in random order; all of them if n is None."""
    chosen = np.random.default_rng(0).permutation(len(y))[:n]
    return X[chosen], y[chosen]


def from_folder(folder, n=None):
    """Return images in RGB and labels of a folder with a sub-folder a class, as `some` chooses them."""
    from sklearn_simclr import load_image_paths

    found = load_image_paths(folder)
    paths, y = some(np.asarray(found.data), np.asarray(found.target), n)
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]), y


def probe(H, y, H_test, y_test, C=0.1):
    """Return the accuracy of a logistic regression on standardised representations."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    return model.fit(H, y).score(H_test, y_test)


def chosen_C(H, y, grid=GRID):
    """Return the C of the logistic regression that is best on a fifth of the rows, held out."""
    H, H_held, y, y_held = train_test_split(H, y, test_size=0.2, stratify=y, random_state=0)
    accuracies = Parallel(n_jobs=-1, prefer="threads")(delayed(probe)(H, y, H_held, y_held, C) for C in grid)
    return grid[int(np.argmax(accuracies))]


def crops(n, size, seed=0):
    """Return n square crops, of random place and extent, at size x size pixels.

    Parameters
    ----------
    n : int
        How many.
    size : int
        Their side in pixels.
    seed : int, default=0
        Of the random numbers.

    Returns
    -------
    ndarray of shape (n, size, size, 3)
        uint8.
    """
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    generator = np.random.default_rng(seed)
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    for k in range(n):
        photograph = photographs[k % len(photographs)]
        side = int(generator.integers(size, min(photograph.size) + 1))
        left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
        box = (left, top, left + side, top + side)
        images[k] = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return images


class PillowImages(Dataset):
    """A torch data set of (Pillow image, 0), made from an array on demand as torchvision's CIFAR10 does.

    LightlyDataset sets ``transform``.
    """

    transform = None

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = Image.fromarray(self.images[index])
        return image if self.transform is None else self.transform(image), 0


class TwoViews(Dataset):
    """A torch data set of pairs of views, made by a transform of one image tensor (C, H, W)."""

    def __init__(self, images, transform):
        self.images = images
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.transform(self.images[index])
