"""Whatever draws random views: the interface that trainings need of an augmentation."""

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Views"]


class Views(Protocol):
    """Draws random views: an `Augmentation` or `ExternalViews`."""

    size: Any  # height and width of a view, once the shape of the images is known

    def resolve(self, image_shape: tuple[int, ...]) -> "Views":
        """Return a copy for images of a shape (C, H, W)."""

    def draw(
        self,
        n: int,
        image_shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Any:
        """Draw the random numbers of n views; the result's ``rows(index)`` are the draws of some views."""

    def apply(self, images: Tensor, draws: Any) -> Tensor:
        """Make the views that were drawn, float32 in [0, 1]; view i is one of image i mod N."""

    def __call__(self, images: Tensor, generator: torch.Generator | None = None, n_views: int = 1) -> Tensor:
        """Make random views of each image."""
