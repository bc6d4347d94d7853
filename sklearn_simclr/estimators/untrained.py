"""The same encoder, untrained: new random weights for the modules of a fitted estimator."""

import torch
from torch import nn

from .._utils.seeds import isolated_generators
from ..encoders.make import make_encoder
from ..encoders.untrained import untrained_network
from ..images.source import ImageSource
from .trained_base import TrainedImageEstimator

__all__ = ["untrained_modules"]


def untrained_modules(estimator: TrainedImageEstimator, images: ImageSource, seed: int) -> list[nn.Module]:
    """Return the encoder of a fitted estimator, and its projection head if any, with new random weights.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    images : ImageSource
        Some of its images: the first layer of some encoders depends on them.
    seed : int
        Seed of the new weights.

    Returns
    -------
    list of torch.nn.Module
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If a part of the encoder has weights and no ``reset_parameters`` that draws new ones.
    """
    generator = torch.Generator().manual_seed(seed)
    setting = estimator._encoder_setting()
    heads = [estimator.projector_] if hasattr(estimator, "projector_") else []
    with isolated_generators(seed, torch.device("cpu")):
        if (
            isinstance(setting, str)
            and setting.startswith("timm:")
            and not getattr(estimator, "weights", None)
        ):
            encoder, _ = make_encoder(setting, images.shape[0], images.shape[1:])
        else:
            encoder = untrained_network(estimator.encoder_, images, generator)
        return [encoder.eval(), *(untrained_network(head, images, generator) for head in heads)]
