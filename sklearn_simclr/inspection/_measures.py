"""Measure a fitted encoder and its untrained twins: views, representations, neighbours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import nn

from ..encoders.preprocessing import network_of_views
from ..estimators.views import drawn_views
from ..images.computed import ComputedImages
from ..images.indexing import row_blocks
from ..images.source import ImageSource, as_float
from ..losses.labelled import without_labels
from ..losses.measures import alignment, contrastive_accuracy, rankme, uniformity
from ..losses.ntxent import nt_xent
from ..training.watch import spread
from ..views.augmentation import Augmentation
from ..views.external import as_views
from ..views.interface import Views

__all__ = ["Measures", "Neighbours", "ViewMeasures", "measure_neighbours", "measure_views"]

# Images whose views are compared with each other, as in the score of SimCLRTransformer.
_PAIRS = 256

# Similarities of views of different images that are kept, for a histogram.
_NEGATIVES = 20_000

# For estimators without a contrastive loss: the default of SimCLRTransformer.
_TEMPERATURE = 0.2

# Temperature of the vote of neighbours (Wu et al. 2018, arXiv:1805.01978).
_VOTE_TEMPERATURE = 0.07

_BLOCK_ENTRIES = 2**22


@dataclass
class ViewMeasures:
    """Numbers of one encoder; loss and similarities come from its projections, if it has a head."""

    loss: float
    accuracy: float
    alignment: float
    uniformity: float
    spread: float
    spread_representations: float
    rank: float
    n_dimensions: int
    positives: np.ndarray
    negatives: np.ndarray
    spectrum: np.ndarray


@dataclass
class Neighbours:
    """Accuracies of the vote of the nearest labelled images."""

    encoder: float
    untrained: float
    pixels: float
    guess: float
    n_labels: int
    n_classes: int
    n_neighbors: int

    @property
    def error(self) -> float:
        """Largest possible standard error of an accuracy, which is at 50%."""
        return 0.5 / np.sqrt(self.n_labels)


@dataclass
class Measures:
    """All that a report is made from."""

    n_images: int
    n_pairs: int
    has_head: bool
    chance_loss: float
    trained: ViewMeasures
    untrained: list[ViewMeasures]
    neighbours: Neighbours | None

    @property
    def chance_accuracy(self) -> float:
        """Accuracy of a guess among all other views."""
        return 1 / (2 * self.n_pairs - 1)


def measure_views(
    step: Any, networks: Sequence[Sequence[nn.Module]], source: ImageSource, seed: int
) -> tuple[list[ViewMeasures], int, float]:
    """Measure encoders on the same random views.

    Parameters
    ----------
    step : estimator
        Fitted; whose views and loss.
    networks : list of list of nn.Module
        The encoder of each network, and its projection head if there is one.
    source : ImageSource
        At least two images.
    seed : int
        Seed of the random views.

    Returns
    -------
    list of ViewMeasures
        One for each network.
    n_pairs : int
        Images compared at a time, at most.
    chance : float
        Loss of an encoder that maps every view to one point.
    """
    generator = torch.Generator().manual_seed(seed)
    augmentation = _augmentation(step, source.shape)
    loss = _loss(step)
    parts = np.array_split(np.arange(len(source)), -(-len(source) // _PAIRS))
    views = [drawn_views(augmentation, source.select(part), generator, n_views=2) for part in parts]
    representations = _represent(step, [network[:1] for network in networks], source)
    of_views = [[network_of_views(network[0]), *network[1:]] for network in networks]
    projections = zip(*(_represent(step, of_views, view) for view in views), strict=True)
    measured = [
        _measure(h, [np.split(part, 2) for part in z], loss)
        for h, z in zip(representations, projections, strict=True)
    ]
    sizes = [len(part) for part in parts]
    chance = np.average([_value(loss, np.ones((2 * size, 2))) for size in sizes], weights=sizes)
    return measured, max(sizes), float(chance)


def _measure(
    h: np.ndarray, pairs: list[list[np.ndarray]], loss: Callable[[torch.Tensor], torch.Tensor]
) -> ViewMeasures:
    sizes = [len(first) for first, _ in pairs]
    stacked = [np.concatenate(pair) for pair in pairs]
    first, second = (np.concatenate(views) for views in zip(*pairs, strict=True))
    positives = (_unit(first) * _unit(second)).sum(1)
    negatives = np.concatenate([(_unit(a) @ _unit(b).T)[~np.eye(len(a), dtype=bool)] for a, b in pairs])
    centred = h.astype(np.float64) - h.mean(axis=0, dtype=np.float64)
    return ViewMeasures(
        loss=float(np.average([_value(loss, z) for z in stacked], weights=sizes)),
        accuracy=float(np.average([contrastive_accuracy(z) for z in stacked], weights=sizes)),
        alignment=alignment(first, second),
        uniformity=uniformity(first),
        spread=spread(torch.from_numpy(first)),
        spread_representations=spread(torch.from_numpy(h)),
        rank=rankme(h),
        n_dimensions=h.shape[1],
        positives=positives,
        negatives=negatives[:: -(-len(negatives) // _NEGATIVES)],
        spectrum=np.linalg.svd(centred, compute_uv=False),
    )


def measure_neighbours(
    step: Any,
    encoder: nn.Module,
    twins: Sequence[nn.Module],
    source: ImageSource,
    codes: np.ndarray,
    n_neighbors: int,
) -> Neighbours:
    """Classify each labelled image by the others nearest to it.

    Parameters
    ----------
    step : estimator
        Fitted.
    encoder : nn.Module
        Its encoder.
    twins : list of nn.Module
        Untrained ones.
    source : ImageSource
        The labelled images.
    codes : int array of shape (n,)
        Their classes, 0 to n_classes - 1, of at least two.
    n_neighbors : int
        Most neighbours that vote.

    Returns
    -------
    Neighbours
        Accuracies.
    """
    k = min(n_neighbors, len(codes) - 1)
    representations = _represent(step, [[network] for network in (encoder, *twins)], source)
    trained, *untrained = (_leave_one_out(_cosines(h), codes, k) for h in representations)
    return Neighbours(
        encoder=trained,
        untrained=float(np.mean(untrained)),
        pixels=_leave_one_out(_cosines_of_pixels(source), codes, k),
        guess=float(np.bincount(codes).max() / len(codes)),
        n_labels=len(codes),
        n_classes=len(np.unique(codes)),
        n_neighbors=k,
    )


def _cosines(h: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Return a function that gives the cosines of some rows with all rows."""
    unit = _unit(h)
    return lambda rows: unit[rows] @ unit.T


def _cosines_of_pixels(source: ImageSource) -> Callable[[slice], np.ndarray]:
    """Return a function that gives the cosines of some images with all images, few of them at a time."""

    def unit(rows: slice) -> np.ndarray:
        return _unit(as_float(source.take(rows).cpu()).flatten(1).numpy()).astype(np.float32)

    def cosines(rows: slice) -> np.ndarray:
        found = np.empty((rows.stop - rows.start, len(source)))
        # Each block is compared with all images: the longer the block, the less often the images are read.
        for some in row_blocks(len(found), math.prod(source.shape)):
            here = unit(slice(rows.start + some.start, rows.start + some.stop))
            for others in row_blocks(len(source), 8 * math.prod(source.shape)):
                found[some, others] = here @ unit(others).T
        return found

    return cosines


def _leave_one_out(cosines: Callable[[slice], np.ndarray], codes: np.ndarray, k: int) -> float:
    """Return how often the weighted vote of the k most similar other rows is right."""
    n, right = len(codes), 0
    step = max(_BLOCK_ENTRIES // n, 1)
    for start in range(0, n, step):
        similarity = cosines(slice(start, min(start + step, n)))
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similarity, nearest, axis=1)
        weights = np.exp((values - values.max(axis=1, keepdims=True)) / _VOTE_TEMPERATURE)
        votes = np.zeros((len(rows), codes.max() + 1))
        np.add.at(votes, (rows[:, None], codes[nearest]), weights)
        right += int((votes.argmax(axis=1) == codes[start : start + step]).sum())
    return right / n


def _augmentation(step: Any, shape: tuple[int, ...]) -> Views:
    """Return the views that an encoder was trained on; those of SimCLR if it was not trained on views."""
    origin = getattr(step, "pretrained_", step)
    fitted = getattr(origin, "augmentation_", None)
    if fitted is not None:
        return fitted
    given = getattr(origin, "augmentation", None)
    given = Augmentation() if given is None else as_views(given)
    if not isinstance(given, Augmentation):
        return given.resolve(shape)
    # An encoder that was given no views takes images of one size.
    return clone(given).set_params(size=tuple(shape[1:])).resolve(shape)


def _loss(step: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    origin = getattr(step, "pretrained_", step)
    if hasattr(origin, "_make_loss"):
        return origin._make_loss(trained=True)
    return partial(nt_xent, temperature=_TEMPERATURE)


def _value(loss: Callable[[torch.Tensor], torch.Tensor], z: np.ndarray) -> float:
    with torch.no_grad():
        return float(without_labels(loss, torch.as_tensor(z, dtype=torch.float32)))


def _represent(
    step: Any, networks: Sequence[Sequence[nn.Module]], source: ImageSource | ComputedImages
) -> list[np.ndarray]:
    """Return the outputs of chains of modules for the same images, which are read once."""
    widths: list[int] = []

    def chains(modules: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
        one_by_one, found = iter(modules), []
        for network in networks:
            x = images.clone()  # a network may change its input
            for module in islice(one_by_one, len(network)):
                x = module(x)
            found.append(x.float())
        widths[:] = [x.shape[1] for x in found]
        return torch.cat(found, dim=1)

    whole = step._infer(chains, [module for network in networks for module in network], source)
    return np.split(whole, np.cumsum(widths)[:-1], axis=1)


def _unit(x: np.ndarray) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)
