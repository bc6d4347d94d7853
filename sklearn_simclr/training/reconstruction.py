"""The objective of an autoencoder: give back the images, in the mean squared error."""

from collections.abc import Iterable

from torch import nn
from torch.nn import functional as F

from ..views.external import Views
from .batch import Batch
from .objective import Objective, Step

__all__ = ["ReconstructionObjective"]


class ReconstructionObjective(Objective):
    """Give back images that went through an encoder and a decoder.

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
        views = batch.pixels() if self.augmentation is None else batch.views(self.augmentation)
        with batch.precision():
            again = self.modules["decoder"](self.modules["encoder"](batch.lay_out(views)))
        return Step(F.mse_loss(again.float(), views))
