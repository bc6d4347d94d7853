"""Representations brought to two dimensions."""

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE

from .._utils.types import RandomState
from ._plotting import random_numbers

__all__ = ["reduce_to_plane", "transformer_of"]

# The default of scikit-learn's TSNE.
_PERPLEXITY = 30


def transformer_of(estimator: Any) -> Any:
    """Return the part of an estimator that turns images into representations, without a final classifier."""
    while isinstance(estimator, FrozenEstimator) or (
        not hasattr(estimator, "transform") and hasattr(estimator, "best_estimator_")
    ):
        frozen = isinstance(estimator, FrozenEstimator)
        estimator = estimator.estimator if frozen else estimator.best_estimator_
    if not hasattr(estimator, "transform") and hasattr(estimator, "steps") and len(estimator.steps) > 1:
        estimator = estimator[:-1]
    return estimator


def reduce_to_plane(
    h: np.ndarray, reducer: Literal["tsne", "pca"] | BaseEstimator | None, random_state: RandomState
) -> tuple[np.ndarray, tuple[str, str] | None, str | None]:
    """Return points in the plane, the names of their axes, and of the method."""
    n, d = h.shape
    if reducer is None:
        if d != 2:
            raise ValueError(
                f"reducer=None draws representations of two columns, but these have {d}. Pass reducer='tsne' "
                "or 'pca'."
            )
        return h, None, None
    if isinstance(reducer, str):
        if reducer not in ("tsne", "pca"):
            raise ValueError(f"reducer must be 'tsne', 'pca', a transformer or None, got {reducer!r}.")
        if n < 4 or d < 2:
            raise ValueError(
                f"reducer={reducer!r} needs at least 4 images and representations of at least 2 columns, got "
                f"{n} images and {d} columns. Pass more images, or reducer=None for two columns."
            )
        rng = random_numbers(random_state)
        if reducer == "pca":
            pca = PCA(2, random_state=rng)
            points = pca.fit_transform(h)
            names = [f"PC {i} ({100 * part:.0f}%)" for i, part in enumerate(pca.explained_variance_ratio_, 1)]
            return points, (names[0], names[1]), "PCA"
        tsne = TSNE(perplexity=min(_PERPLEXITY, (n - 1) / 3), init="pca", random_state=rng)
        return tsne.fit_transform(h), None, "t-SNE"
    if not hasattr(reducer, "fit_transform"):
        raise TypeError(f"reducer must be 'tsne', 'pca', a transformer or None, got {reducer!r}.")
    points = np.asarray(clone(reducer).fit_transform(h))
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(
            f"reducer={type(reducer).__name__} returned an array of shape {points.shape}. Pass a transformer "
            "whose fit_transform returns at least two columns."
        )
    return points[:, :2], None, type(reducer).__name__
