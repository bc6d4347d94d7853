"""Read what a network tells about itself: what a head reads, the batch, mirror images, the views."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from .compiled import compiled_as, plain

__all__ = ["Traits", "read_part", "traits"]


class Traits(NamedTuple):
    """Properties of an encoder that its users need; the encoder has them as its attribute ``traits``.

    Attributes
    ----------
    read_dim : int or None
        How many numbers at the beginning of a representation a projection head reads; None is all of them.
        A network that computes these in less time alone has a method ``read`` that returns them.
    batch_scale : float
        How many times as many images as usual are a good batch when nothing is trained.
    mirror_pays : bool
        Whether the mean over an image and its mirror image is a better representation.
    shrinks_to : int or None
        Larger images are shrunk, before anything else, to as many pixels as a square of this side has. None
        shrinks no images.
    largest_view : int or None
        Side of the square with as many pixels as the largest views that are worth their time; None is any.
    """

    read_dim: int | None = None
    batch_scale: float = 1.0
    mirror_pays: bool = False
    shrinks_to: int | None = None
    largest_view: int | None = None


def traits(network: nn.Module) -> Traits:
    """Return the traits of a network, or the usual traits if the network names none."""
    return getattr(network, "traits", Traits())


def read_part(network: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a function that computes only the part of representations that a head reads, or None."""
    if traits(network).read_dim is None:
        return None
    # Attributes of a compiled network are those of the plain one.
    read = getattr(plain(network), "read", None)
    return None if read is None else compiled_as(network, read)
