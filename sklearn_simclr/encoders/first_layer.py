"""Find what a data-driven first layer is made from: the principal components of patches of images."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images.computed import ComputedImages
from ..images.source import ImageSource, as_float

__all__ = ["Components", "patch_components"]

# So many images are enough, fewer if they are large: each has many patches.
_IMAGES = 2048
_FEWEST_IMAGES = 128
_BYTES = 2**28

# So many patches are enough, fewer if they have many channels.
_PATCHES = 200_000
_PATCH_NUMBERS = 2**24

# Numbers of the images and of the patches that are looked at together.
_CHUNK = 2**21

# For patches of up to this length, all directions are found. For longer ones (more than 32 channels) only the
# first directions are found, which needs no matrix of length x length.
_EXACT_LENGTH = 288
_SPARE_DIRECTIONS = 16
_ROUNDS = 4


class Components(NamedTuple):
    """Principal components of patches.

    Parameters
    ----------
    mean : tensor of shape (d,)
        Mean patch, in float64 as all of these.
    variances : tensor of shape (k,)
        Variance along each direction, the largest first.
    directions : tensor of shape (k, d)
        Orthonormal.
    total : tensor of shape ()
        Variance along all d directions together.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor
    total: Tensor


def patch_components(
    images: ImageSource | ComputedImages, n_directions: int, generator: torch.Generator
) -> Components:
    """Return the first principal components of the 3 x 3 patches of images, with zeros around each image.

    At most 2,048 images and 200,000 patches are looked at, or all there are. The images are taken a few at a
    time, so that memory depends neither on their number nor on their size.

    Parameters
    ----------
    images : ImageSource or ComputedImages
        All images.
    n_directions : int
        k, at most 9 C.
    generator : torch.Generator
        Generator of the CPU that chooses images and patches.

    Returns
    -------
    Components
        Components of patches of length d = 9 C, in the order of ``torch.nn.functional.unfold``.
    """
    patches = _sample_patches(images, generator)
    chunks = patches.split(max(1, _CHUNK // patches.shape[1]))
    mean = torch.stack([chunk.sum(dim=0, dtype=torch.float64) for chunk in chunks]).sum(dim=0) / len(patches)
    if patches.shape[1] <= _EXACT_LENGTH:
        covariance = _sum_of_products(chunks, mean) / len(patches)
        try:
            variances, directions = torch.linalg.eigh(covariance)
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                f"The patches of these images have no principal components ({error}). Pass another "
                "pixel_range, or an encoder other than 'compact'."
            ) from error
        total = variances.sum()
        variances, directions = variances.flip(0), directions.flip(1).T
    else:
        patches -= mean.to(patches.dtype)
        total = patches.square().sum(dtype=torch.float64) / len(patches)
        variances, directions = _leading_directions(patches, n_directions, generator)
    return Components(mean, variances[:n_directions], directions[:n_directions], total)


def _sum_of_products(chunks: tuple[Tensor, ...], mean: Tensor) -> Tensor:
    found = mean.new_zeros(len(mean), len(mean))
    for chunk in chunks:
        centred = chunk.double() - mean
        found.addmm_(centred.T, centred)
    return found


def _leading_directions(centred: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return variances and directions by subspace iteration (Halko et al. 2011, algorithm 4.4)."""
    width = min(k + _SPARE_DIRECTIONS, *centred.shape)
    basis = torch.randn(centred.shape[1], width, generator=generator)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, sizes, turns = torch.linalg.svd((centred @ basis).double(), full_matrices=False)
    return sizes.square() / len(centred), turns @ basis.T.double()


def _sample_patches(images: ImageSource | ComputedImages, generator: torch.Generator) -> Tensor:
    """Return patches (m, 9 C), float32: all of the chosen images or some, drawn with replacement."""
    channels, height, width = images.shape
    n_pixels = height * width
    most = min(_IMAGES, max(_FEWEST_IMAGES, _BYTES * len(images) // images.nbytes))
    chosen = torch.randperm(len(images), generator=generator)[:most]
    n_patches = min(_PATCHES, max(1, _PATCH_NUMBERS // (9 * channels)))
    n_places = len(chosen) * n_pixels
    if n_places <= n_patches:
        places = torch.arange(n_places)
    else:
        places = torch.randint(n_places, (n_patches,), generator=generator).sort().values
    chosen = chosen.to(images.device)
    images.ask(chosen)
    step = max(1, _CHUNK // (channels * n_pixels))
    starts = torch.arange(0, len(chosen) + step, step)
    sizes = torch.searchsorted(places, starts * n_pixels).diff().tolist()
    parts = [
        _patches_at(images.take(rows).cpu(), part % (step * n_pixels))
        for rows, part in zip(chosen.split(step), places.split(sizes), strict=True)
        if len(part)
    ]
    return torch.cat(parts)


def _patches_at(images: Tensor, places: Tensor) -> Tensor:
    """Return patches (m, 9 C) around pixels that are counted through all images (n, C, H, W)."""
    _, channels, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1))
    image, pixel = places // (height * width), places % (height * width)
    offset = torch.arange(3)
    rows = (pixel // width)[:, None, None, None] + offset[:, None]
    columns = (pixel % width)[:, None, None, None] + offset
    channel = torch.arange(channels)[:, None, None]
    return as_float(padded[image[:, None, None, None], channel, rows, columns]).flatten(1)
