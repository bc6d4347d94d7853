"""Images to measure on: crops of the two photographs that come with scikit-learn."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import Dataset


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
