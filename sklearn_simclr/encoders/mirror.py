"""Mirror images: whether they can be told from the images, and a network that averages over both."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from .._utils.seeds import isolated_generators
from ..images.source import ImageSource, as_float
from .compact import CompactNet
from .traits import Traits, traits

__all__ = ["MirroredNetwork", "left_right_accuracy", "mirror_images_fit_in"]

# Images that are compared with their mirror images; fewer if together they hold more numbers than this.
_IMAGES = 500
_NUMBERS = 2**30

# Numbers of the images that go through the network at a time.
_BATCH = 2**19

# Mirror images do not fit in if a classifier tells more than this part of the images from them, and more than
# this many standard errors above a guess.
_TOLD = 0.6
_ERRORS = 2.5


class MirroredNetwork(nn.Module):
    """Represent an image by the mean of another network's representations of the image and its mirror image.

    Parameters
    ----------
    network : torch.nn.Module
        Images (n, C, H, W) to representations (n, d).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def traits(self) -> Traits:
        """Tell others how to use the network: as the other one, with half as many images."""
        found = traits(self.network)
        return found._replace(batch_scale=found.batch_scale / 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the representations (n, d) of images (n, C, H, W)."""
        mirrored = images.flip(3)
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return 0.5 * (self.network(images) + self.network(mirrored))
        first, second = self.network(torch.cat([images, mirrored])).chunk(2)
        return 0.5 * (first + second)


def mirror_images_fit_in(source: ImageSource) -> bool:
    """Return whether mirror images could be further images of the same kind.

    Parameters
    ----------
    source : ImageSource
        The images; 500 of them, always the same, are looked at.

    Returns
    -------
    bool
        Whether a linear classifier tells at most 60% of the images from their mirror images. For photographs
        of animals and vehicles it tells half, which is a guess; for digits it tells most.
    """
    most = min(_IMAGES, _NUMBERS // math.prod(source.shape))
    drawn = np.random.default_rng(0).permutation(len(source))[:most]
    if len(drawn) < 2:
        return True
    accuracy = left_right_accuracy(source.select(drawn))
    return accuracy <= max(_TOLD, 0.5 + _ERRORS * 0.5 / math.sqrt(len(drawn)))


@torch.no_grad()
def left_right_accuracy(source: ImageSource) -> float:
    """Return the share of images that a linear classifier tells from their mirror images.

    The classifier reads representations by an untrained compact network. It is a ridge regression on 1 of the
    difference between the representations of an image and of its mirror image, fitted on one half of the
    images and tested on the other half, and the other way round.

    Parameters
    ----------
    source : ImageSource
        At least two images.

    Returns
    -------
    float
        In [0, 1]; 0.5 is a guess.
    """
    channels, *size = source.shape
    with isolated_generators(0, torch.device("cpu")):
        network = CompactNet(channels, (size[0], size[1])).eval()
        network.initialize_from_images(source, torch.Generator().manual_seed(0))
    network.to(memory_format=torch.channels_last)
    step = max(1, _BATCH // math.prod(source.shape))
    index = torch.arange(len(source), device=source.device)
    source.ask(index)
    parts = (as_float(source.take(rows).cpu()) for rows in index.split(step))
    parts = (part.contiguous(memory_format=torch.channels_last) for part in parts)
    # `read` leaves out where in the image something is: that differs even if mirror images fit in.
    found = torch.cat([network.read(part) - network.read(part.flip(3)) for part in parts])
    differences = found.double().numpy()
    scale = np.sqrt(np.mean(differences**2, axis=0))
    differences = differences[:, scale > 0] / scale[scale > 0]
    products = differences @ differences.T
    half = len(products) // 2
    told = 0.0
    for here, there in (slice(half), slice(half, None)), (slice(half, None), slice(half)):
        gram = products[here, here]
        ridge = max(np.trace(gram) / len(gram), np.finfo(float).tiny)
        weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), np.ones(len(gram)))
        answers = products[there, here] @ weights
        told += np.sum(answers > 0) + 0.5 * np.sum(answers == 0)
    return float(told / len(products))
