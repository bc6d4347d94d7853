"""The images of one step, and the views that are drawn of them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._utils.ranks import ALONE
from ..views.interface import Views
from .part import Part, part_of
from .plan import Plan

__all__ = ["Batch"]


def _unscaled(loss: Tensor) -> Tensor:
    return loss


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
        Generator of views and noise, on the CPU: all devices and all ranks draw the same.
    plan : Plan
        Precision and the size of micro-batches.
    memory_format : torch.memory_format, default=torch.contiguous_format
        The layout in which the encoder is fastest.
    part : Part or None, default=None
        Which rows of the whole batch these are, where several ranks share it; None is all of them.
    scale : callable, optional
        The loss to what gradients are computed of: with float16 a large multiple of it, else it itself. Only
        an objective that computes gradients by itself calls it.
    drawn : callable or None, default=None
        Where `draw` takes draws from instead of the generator: augmentation and number of views to draws.

    See Also
    --------
    Objective : Its step gets a batch.
    Step : What the step returns.

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
    part: Part | None = None
    scale: Callable[[Tensor], Tensor] = field(default_factory=lambda: _unscaled)
    drawn: Callable[[Views, int], Any] | None = None

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
        if self.drawn is not None:
            return self.drawn(augmentation, n_views)
        part, shape = self.part, tuple(self.images.shape[1:])
        n = len(self.images) if part is None else part.n
        draws = augmentation.draw(n_views * n, shape, generator=self.generator)
        if part is None or part.whole:
            return draws
        return draws.rows((torch.arange(n_views)[:, None] * n + part.rows).flatten())

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

    @property
    def weight(self) -> float:
        """Part of the whole batch that these images are: weighs the gradients of their loss."""
        return 1.0 if self.part is None else self.part.weight

    def micro_batches(self) -> list[int]:
        """Return how many images go through the modules at a time.

        Returns
        -------
        list of int
            Images of each micro-batch, in order; the whole batch where they are not limited.
        """
        part = self.part or part_of(len(self.images), self.plan.micro_batch_size, ALONE)
        return [chunk.stop - chunk.start for chunk in part.chunks]

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of the images of all ranks, for a loss that compares images with each other.

        Parameters
        ----------
        tensor : tensor of shape (n_views * n, ...)
            Rows of views of these images, those of all first views first, as `views` returns them.

        Returns
        -------
        tensor of shape (n_views * N, ...)
            Rows of the N images of the whole batch, in the same order. The gradient comes back to each rank.
        """
        return tensor if self.part is None else self.part.gather(tensor)

    def mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean of what images have, for a loss that weighs images.

        Parameters
        ----------
        values, weights : tensor of shape (n,)
            One for each image.

        Returns
        -------
        tensor of shape ()
            0 where all weights are 0. With several ranks their mean is the weighted mean over all images.
        """
        return (values * weights).sum() / self.total(weights.sum()).clamp(min=1e-12) / self.weight

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, without a graph.

        Parameters
        ----------
        tensor : tensor
            Tensor of the same shape on all ranks.

        Returns
        -------
        tensor
            The same on all ranks.
        """
        tensor = tensor.detach()
        return tensor if self.part is None else self.part.ranks.add(tensor.clone())

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
