"""The same network, untrained: what a trained one is compared with."""

import copy

import torch
from torch import nn

from ..images.computed import ComputedImages
from ..images.source import ImageSource
from .libraries import LibraryNetwork
from .preprocessing import PreprocessedNetwork
from .resnet import ResNet

__all__ = ["untrained_network"]


@torch.no_grad()
def untrained_network(
    module: nn.Module, images: ImageSource | ComputedImages, generator: torch.Generator
) -> nn.Module:
    """Return an encoder of the same shape with new weights, drawn from torch's global generator.

    Parameters
    ----------
    module : torch.nn.Module
        The encoder. An encoder of another package needs ``reset_parameters`` wherever it has weights.
    images : ImageSource or ComputedImages
        Images for layers that are set from images.
    generator : torch.Generator
        Generator for these layers.

    Returns
    -------
    module : torch.nn.Module
        Another network, in evaluation mode.

    Raises
    ------
    ValueError
        If a part of another package has weights, but no ``reset_parameters``.
    """
    if type(module) is PreprocessedNetwork:
        prepare, channels = module.preprocessing, module.channels
        prepared = ComputedImages(
            images,
            lambda some, index: prepare(some, channels=channels),
            (channels, *prepare.sides),
        )
        inner = untrained_network(module.network, prepared, generator)
        return PreprocessedNetwork(inner, module.preprocessing).eval()
    if type(module) is LibraryNetwork:
        return module.new().eval()
    if type(module) is ResNet:
        return ResNet(**module.options).eval()
    new = copy.deepcopy(module)
    for part in new.modules():
        reset = getattr(part, "reset_parameters", None)
        if reset is not None:
            reset()
        elif any(True for _ in part.parameters(recurse=False)):
            raise ValueError(
                f"the part {type(part).__name__} of the encoder has weights, but no reset_parameters() that "
                "draws new ones"
            )
    initialize = getattr(new, "initialize_from_images", None)
    if initialize is not None:
        initialize(images, generator)
    return new.eval()
