"""Mirror images: whether they can be told from the images, and a network that averages over both."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from .._utils.seeds import isolated_generators
from ..images.source import ImageSource, as_float
from .compact import CompactNet

__all__ = ["MirroredNetwork", "left_right_accuracy", "mirror_images_fit_in"]

# Images that are compared with their mirror images, fewer if they are large; and how many go through the
# network at a time.
_IMAGES = 500
_PIXELS = 500 * 96 * 96
_BATCH = 128

# Part of the images that has to be told from the mirror images, at least, and how many standard errors above
# a guess.
_TOLD = 0.6
_ERRORS = 2.5


class MirroredNetwork(nn.Module):
    """A network that answers for an image and its mirror image by the mean of what another answers for each.

    Parameters
    ----------
    network : torch.nn.Module
        Images (n, C, H, W) to representations (n, d).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

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
        Whether a linear classifier does not tell more than 60% of them from their mirror images. Of
        photographs of animals and vehicles it tells half, which is a guess; of digits 80 to 90%.
    """
    most = min(_IMAGES, _PIXELS // (source.shape[1] * source.shape[2]))
    drawn = np.random.default_rng(0).permutation(len(source))[:most]
    if len(drawn) < 2:
        return True
    chosen = torch.from_numpy(drawn).to(source.device)
    source.ask(chosen)
    accuracy = left_right_accuracy(as_float(source.take(chosen).cpu()))
    return accuracy <= max(_TOLD, 0.5 + _ERRORS * 0.5 / math.sqrt(len(chosen)))


@torch.no_grad()
def left_right_accuracy(images: Tensor) -> float:
    """Return for how many images a linear classifier says which of two is the mirror image.

    It reads the representations by an untrained compact network: ridge regression of the difference between
    that of an image and that of its mirror image on 1, by one half of the images for the other half.

    Parameters
    ----------
    images : tensor of shape (n, C, H, W)
        At least two, floating point in [0, 1].

    Returns
    -------
    float
        In [0, 1]; 0.5 is a guess.
    """
    with isolated_generators(0, torch.device("cpu")):
        network = CompactNet(images.shape[1], (images.shape[2], images.shape[3])).eval()
        network.initialize_from_images(images, torch.Generator().manual_seed(0))
    network.to(memory_format=torch.channels_last)
    parts = images.contiguous(memory_format=torch.channels_last).split(_BATCH)
    differences = torch.cat([network(part) - network(part.flip(3)) for part in parts]).double().numpy()
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
