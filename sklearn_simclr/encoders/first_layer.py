"""Choose the images that a data-driven first layer is set from."""

import torch
from torch import Tensor

from ..images.source import ImageSource, as_float

__all__ = ["first_layer_images"]

# So many are enough: the layer follows from their patches, of which each has many.
_IMAGES = 2048


def first_layer_images(images: ImageSource, generator: torch.Generator) -> Tensor:
    """Return some of the images, for an encoder's ``initialize_from_images``.

    Parameters
    ----------
    images : ImageSource
        All images.
    generator : torch.Generator
        For the choice.

    Returns
    -------
    tensor of shape (n, C, H, W)
        At most 2,048 of them, float32 in [0, 1], on the device of the generator.
    """
    chosen = torch.randperm(len(images), generator=generator, device=generator.device)[:_IMAGES]
    chosen = chosen.to(images.device)
    images.ask(chosen)
    return as_float(images.take(chosen).to(generator.device))
