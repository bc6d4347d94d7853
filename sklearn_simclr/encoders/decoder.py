"""A network from representations back to images, for autoencoders."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Decoder"]

# Side of the feature maps that the decoder starts from, at most.
_FIRST_SIDE = 7

# Channels of the decoder's last feature maps; each doubling of the side before halves them.
_LAST_CHANNELS = 32
_MOST_CHANNELS = 256


class Decoder(nn.Module):
    """From a vector to an image: a linear map to small feature maps, then convolutions that double the side.

    Parameters
    ----------
    in_dim : int
        Length of the vector.
    image_shape : (int, int, int)
        Channels, height and width of the image.
    """

    def __init__(self, in_dim: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.in_dim = in_dim
        channels, height, width = image_shape
        doublings = max(0, math.ceil(math.log2(max(height, width) / _FIRST_SIDE)))
        sides = [(-(-height // 2**k), -(-width // 2**k)) for k in range(doublings, -1, -1)]
        widths = [min(_LAST_CHANNELS * 2**k, _MOST_CHANNELS) for k in range(doublings, -1, -1)]
        self.sides = sides
        self.first = nn.Sequential(
            nn.Linear(in_dim, widths[0] * sides[0][0] * sides[0][1]),
            nn.Unflatten(1, (widths[0], *sides[0])),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (0, 1) for vectors (N, in_dim)."""
        x = self.first(h)
        for block, side in zip(self.blocks, self.sides[1:], strict=True):
            x = block(F.interpolate(x, size=side, mode="nearest"))
        return torch.sigmoid(self.last(x))
