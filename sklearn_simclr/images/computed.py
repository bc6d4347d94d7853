"""Compute images from others when they are taken, so that memory holds only a few of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .source import ImageSource

__all__ = ["ComputedImages"]

# Numbers of the images of the source that are worked on at a time.
_NUMBERS = 2**22


class ComputedImages:
    """Images of one shape, each computed from one image of a source; taken like those of a source.

    Parameters
    ----------
    source : ImageSource or ComputedImages
        n images.
    compute : callable
        ``compute(images, index)`` returns float32 images for images (m, C, H, W) as ``source.take`` gives
        them; ``index`` (m,) says which of the computed images are wanted.
    shape : (int, int, int)
        Channels, height and width of a computed image.
    repeats : int, default=1
        How many images are computed from each; image i is computed from image i mod n.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.images import ImageSource
    >>> from sklearn_simclr.images.computed import ComputedImages
    >>> source = ImageSource(torch.rand(3, 1, 4, 4), (0, 1))
    >>> halves = ComputedImages(source, lambda images, index: images[..., :2], (1, 4, 2))
    >>> halves.take(slice(1, 3)).shape
    torch.Size([2, 1, 4, 2])
    """

    def __init__(
        self,
        source: ImageSource | ComputedImages,
        compute: Callable[[Tensor, Tensor], Tensor],
        shape: tuple[int, int, int],
        repeats: int = 1,
    ) -> None:
        self.source, self.compute, self.shape, self.repeats = source, compute, shape, repeats

    def __len__(self) -> int:
        """Return the number of computed images."""
        return self.repeats * len(self.source)

    @property
    def nbytes(self) -> int:
        """Bytes of the images of the source."""
        return self.source.nbytes

    @property
    def device(self) -> torch.device:
        """Device of the source's images."""
        return self.source.device

    @property
    def bad(self) -> np.ndarray:
        """Images that are computed from bad ones."""
        return np.concatenate([self.source.bad + k * len(self.source) for k in range(self.repeats)])

    def take(self, index: slice | Tensor) -> Tensor:
        """Return some of the images.

        Parameters
        ----------
        index : slice or int64 tensor of shape (m,)
            Rows, on the device of the source.

        Returns
        -------
        tensor of shape (m, C, H, W)
            float32.
        """
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)), device=self.device)
        # A few at a time: the images of the source may be much larger than those computed from them.
        parts = index.split(max(1, _NUMBERS // math.prod(self.source.shape)))
        found = [self.compute(self.source.take(part % len(self.source)), part) for part in parts]
        return torch.cat(found) if len(found) > 1 else found[0]

    def ask(self, index: Tensor) -> None:
        """Have images of the source that are in a file read from the disk while something else is done.

        Parameters
        ----------
        index : int64 tensor of shape (m,)
            Images that will be taken next.
        """
        self.source.ask(index % len(self.source))
