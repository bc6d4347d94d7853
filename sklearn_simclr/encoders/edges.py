"""Histograms of oriented gradients: the directions of edges in the cells of an image."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["edge_votes", "normalized_blocks"]

# Dalal and Triggs, section 6.4: the second of two normalisations clips here.
_CLIP = 0.2
_EPS = 1e-5

# Smaller than the smallest difference between squared lengths of two gradients in images of 8 bits. Channels
# are often equal in such images, and rounding must not choose between them: it differs between bytes,
# floating-point images and ONNX. Shrunk images have simple fractions of these differences, unlike 0.4142.
_TIE = 0.4142 / 255**2


def edge_votes(images: Tensor, orientations: int = 9) -> Tensor:
    """Return for each pixel its gradient's length, shared between the two nearest of some directions.

    Parameters
    ----------
    images : tensor of shape (N, C, H, W)
        Floating point in [0, 1]. Of several channels, the one with the longest gradient counts in each pixel,
        the first of those that are equally long to 8 bits.
    orientations : int, default=9
        Bins of the direction, over 180 degrees.

    Returns
    -------
    tensor of shape (N, orientations, H, W)
        Not negative.

    References
    ----------
    Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.
    """
    padded = F.pad(images.contiguous(), (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    squared = dx * dx + dy * dy
    across, down, longest = dx[:, :1], dy[:, :1], squared[:, :1]
    # On a CPU, lerp with weights of 0 and 1 takes a quarter of the time of where.
    for channel in range(1, images.shape[1]):
        other = squared[:, channel : channel + 1]
        longer = (other > longest + _TIE).to(images.dtype)
        across = torch.lerp(across, dx[:, channel : channel + 1], longer)
        down = torch.lerp(down, dy[:, channel : channel + 1], longer)
        longest = torch.lerp(longest, other, longer)
    length = longest.sqrt()
    # Bin k is centred on the direction (k + 1/2) pi / orientations.
    place = torch.atan2(down, across) * (orientations / math.pi) - 0.5
    below = place.floor()
    share = place - below
    first = torch.remainder(below, orientations).long()
    votes = torch.zeros_like(length).repeat(1, orientations, 1, 1)
    votes.scatter_(1, first, length * (1 - share))
    return votes.scatter_(1, torch.remainder(first + 1, orientations), length * share)


def normalized_blocks(cells: Tensor, block: int = 2, *, step: int = 1) -> Tensor:
    """Return histograms of cells, normalised in blocks.

    Parameters
    ----------
    cells : tensor of shape (N, orientations, H, W)
        Mean votes in each cell.
    block : int, default=2
        Side of a block in cells; at most all cells.
    step : int, default=1
        From block to block, in cells: with 1 they overlap, as in the paper.

    Returns
    -------
    tensor of shape (N, d)
        ``orientations * block**2`` numbers per block, in [0, 1].
    """
    height, width = (int(side) for side in cells.shape[2:])
    block = min(block, height, width)
    down, across = height - block + 1, width - block + 1
    parts = [
        cells[:, :, i : i + down : step, j : j + across : step] for i in range(block) for j in range(block)
    ]
    blocks = torch.stack(parts, dim=2).flatten(1, 2)  # (N, orientations * block**2, down, across)
    return _normalized(_normalized(blocks).clamp(max=_CLIP)).flatten(1)


def _normalized(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(dim=1, keepdim=True) + _EPS**2).sqrt()
