"""The objective of an autoencoder: reproduce the images, with the mean squared error as loss."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.compact import shrink
from ..encoders.traits import traits
from ..images.source import as_float
from ..views.interface import Views
from .batch import Batch
from .objective import Objective, Step

__all__ = ["ReconstructionObjective"]

# Numbers of the images that are shrunk at a time.
_NUMBERS = 2**22


class ReconstructionObjective(Objective):
    """Give back images that went through an encoder and a decoder.

    An encoder that shrinks large images is to give back the small ones: it sees no others.

    Parameters
    ----------
    encoder : torch.nn.Module
        Images (n, C, H, W) to representations (n, d).
    decoder : torch.nn.Module
        Representations to images of the same shape, in [0, 1].
    augmentation : Augmentation, ExternalViews or None
        Makes the views that are given back; None gives back the images as they are.
    given : iterable of str, default=()
        The modules that begin with weights that somebody chose.
    """

    repeats = True

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        augmentation: Views | None,
        *,
        given: Iterable[str] = (),
    ) -> None:
        super().__init__({"encoder": encoder, "decoder": decoder}, augmentation, given=given)

    def step(self, batch: Batch) -> Step:
        """Return the mean squared error of the pixels."""
        images = self._images(batch)
        with batch.precision():
            again = self.modules["decoder"](self.modules["encoder"](batch.lay_out(images)))
        return Step(F.mse_loss(again.float(), images))

    def _images(self, batch: Batch) -> Tensor:
        """Return the images to be encoded and reproduced; large ones in the size that the encoder uses."""
        side = traits(self.modules["encoder"]).shrinks_to
        if self.augmentation is not None:
            images = batch.views(self.augmentation)
            return images if side is None else shrink(images, side)
        if side is None:
            return batch.pixels()
        step = max(1, _NUMBERS // batch.images[0].numel())
        return torch.cat([shrink(as_float(part), side) for part in batch.images.split(step)])
