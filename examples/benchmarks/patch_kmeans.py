"""Features that need no network: patches compared with k-means centres (Coates and Ng, 2011)."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.cluster import MiniBatchKMeans

from sklearn_simclr import load_images


class PatchKMeans(BaseEstimator):
    """Features of Coates and Ng (2011): how near the patches of each quarter are to centres of patches.

    Images in files are read at `image_size` pixels.
    """

    def __init__(self, n_centres=800, side=6, seed=0, image_size=64):
        self.n_centres, self.side, self.seed, self.image_size = n_centres, side, seed, image_size

    def _patches(self, images):
        # (n, rows, columns, patch), each patch with mean 0 and deviation 1.
        views = np.lib.stride_tricks.sliding_window_view(images, (self.side, self.side), axis=(1, 2))
        patches = views.reshape(*views.shape[:3], -1).astype(np.float32)
        patches -= patches.mean(axis=-1, keepdims=True)
        patches /= np.sqrt(patches.var(axis=-1, keepdims=True) + 10)
        return patches

    def fit(self, images):
        """Find the whitening and the centres."""
        if np.asarray(images[:1]).ndim < 4:
            images = load_images(images, image_size=self.image_size)
        self.image_shape_ = images.shape[1:]
        rng = np.random.default_rng(self.seed)
        pixels = images.shape[1] * images.shape[2]
        some = images[rng.permutation(len(images))[: max(1, 2_000_000 // pixels)]]
        patches = self._patches(some).reshape(-1, self.side**2 * images.shape[3])
        patches = patches[rng.permutation(len(patches))[:100_000]]
        self.mean = patches.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(patches - self.mean, rowvar=False))
        self.whiten = (vectors / np.sqrt(values + 0.1)) @ vectors.T
        whitened = (patches - self.mean) @ self.whiten
        means = MiniBatchKMeans(self.n_centres, batch_size=4096, n_init=1, random_state=self.seed)
        self.centres = means.fit(whitened).cluster_centers_.astype(np.float32)
        return self

    def transform(self, images):
        """Return four times as many features as there are centres."""
        found = []
        step = max(1, 50_000 // (images.shape[1] * images.shape[2]))
        for start in range(0, len(images), step):
            patches = self._patches(images[start : start + step])
            x = (patches - self.mean.astype(np.float32)) @ self.whiten.astype(np.float32)
            squares = (x**2).sum(-1, keepdims=True) - 2 * x @ self.centres.T + (self.centres**2).sum(1)
            distances = np.sqrt(np.maximum(squares, 0))
            near = np.maximum(0, distances.mean(-1, keepdims=True) - distances)
            middle = [length // 2 for length in near.shape[1:3]]
            quarters = [
                near[:, rows, columns].sum(axis=(1, 2))
                for rows in (slice(None, middle[0]), slice(middle[0], None))
                for columns in (slice(None, middle[1]), slice(middle[1], None))
            ]
            found.append(np.concatenate(quarters, axis=1))
        return np.concatenate(found)
