"""The images of one step, and the views that are drawn of them."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..views.external import Views
from .plan import Plan

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """The images of one step, and how the training loop wants them to be computed.

    Parameters
    ----------
    index : int64 tensor of shape (n,)
        Rows of the training images.
    images : tensor of shape (n, C, H, W)
        Their pixels: uint8 in 0 to 255, or float32 in [0, 1].
    generator : torch.Generator
        What views and noise are drawn from, of the CPU: all devices draw the same.
    plan : Plan
        Precision and the size of micro-batches.
    memory_format : torch.memory_format, default=torch.contiguous_format
        The layout in which the encoder is fastest.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr import Augmentation
    >>> from sklearn_simclr.training import Batch, Plan
    >>> plan = Plan(1, 4, "sgd", 0.1, lambda fraction: 1.0, seed=0)
    >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    >>> batch = Batch(torch.arange(4), images, torch.Generator().manual_seed(0), plan)
    >>> batch.views(Augmentation().resolve((3, 8, 8)), n_views=2).shape
    torch.Size([8, 3, 8, 8])
    """

    index: Tensor
    images: Tensor
    generator: torch.Generator
    plan: Plan
    memory_format: torch.memory_format = torch.contiguous_format

    def draw(self, augmentation: Views, n_views: int = 1) -> Any:
        """Draw the random numbers of views.

        Parameters
        ----------
        augmentation : Augmentation or ExternalViews
            With concrete values.
        n_views : int, default=1
            Views of each image.

        Returns
        -------
        Draws
            As ``augmentation.apply`` takes it, on the CPU: those of all first views come first.
        """
        shape = tuple(self.images.shape[1:])
        return augmentation.draw(n_views * len(self.images), shape, generator=self.generator)

    def views(self, augmentation: Views, n_views: int = 1) -> Tensor:
        """Return random views of the images.

        Parameters
        ----------
        augmentation : Augmentation or ExternalViews
            With concrete values.
        n_views : int, default=1
            Views of each image.

        Returns
        -------
        tensor of shape (n_views * n, C, h, w)
            float32 in [0, 1]; rows i, i + n, ... are of one image.
        """
        return augmentation.apply(self.images, self.draw(augmentation, n_views))

    def pixels(self) -> Tensor:
        """Return the images themselves.

        Returns
        -------
        tensor of shape (n, C, H, W)
            float32 in [0, 1].
        """
        return self.images.float().div_(255) if self.images.dtype == torch.uint8 else self.images

    def lay_out(self, images: Tensor) -> Tensor:
        """Return images in the memory format of the encoder.

        Parameters
        ----------
        images : tensor of shape (m, C, h, w)
            Images or views.

        Returns
        -------
        tensor of shape (m, C, h, w)
            The same numbers.
        """
        return images.contiguous(memory_format=self.memory_format)

    def precision(self) -> contextlib.AbstractContextManager:
        """Return the context in which modules compute; losses stay outside of it.

        Returns
        -------
        context manager
            torch's autocast, or one that does nothing.
        """
        return self.plan.autocast()
