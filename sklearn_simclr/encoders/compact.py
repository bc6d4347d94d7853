"""A small encoder that learns quickly on a CPU: a data-driven first layer and plain convolutions."""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._utils.devices import is_cpu
from ..images.computed import ComputedImages
from ..images.source import ImageSource, as_float
from .edges import edge_votes, normalized_blocks
from .first_layer import patch_components
from .traits import Traits

__all__ = ["TINY_SIDE", "VIEW_PART", "CompactNet", "shrink", "shrunk_size"]

# At most this many whitened directions: 3 x 3 patches of RGB images have 27.
_MAX_DIRECTIONS = 32

# Added to each variance before its root is taken, as a fraction of the total: noise is not blown up.
_WHITENING_EPS = 1e-4

# For images of up to this side, such as digits, half the width suffices. Their levels are averaged before the
# pooling, which leaves few pixels.
TINY_SIDE = 16

# Pixels that the first trained convolution sees along each side of an image (all, if there are fewer); for a
# view, three quarters of them. The time of a step then grows smoothly with the size of the images.
_FIRST_SIDE = 16

# Larger images are shrunk to this side first. Networks that saw more pixels have learnt less in minutes.
_SIDE = 64

# Views are so much smaller than images: an object in a random crop looks larger than in the whole image, and
# a smaller view makes up for that (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
VIEW_PART = 0.75

# Cells along each side of the grid in which the third level is kept.
_GRID = 4
_GRID_LEVEL = 2

# Cells along each side in which edges are counted, half of them in tiny images; 2 x 2 cells are a block.
# Overlapping blocks are three times as many numbers, and no better.
_EDGE_CELLS = 8
_ORIENTATIONS = 9

# Factors of the grid and of the edges. To a classifier that does not scale its input, the means then count at
# least as much as either: on hand signs and blood cells, where the means are best, it loses little.
_GRID_WEIGHT = 0.125
_EDGE_WEIGHT = 2.0

# Numbers of the first layer that a CPU computes at a time: few enough to stay in the cache from one operation
# to the next.
_CACHED = 2**21


class CompactNet(nn.Module):
    """Whitened patches, four 3 x 3 convolutions, and means of every level as representation.

    Images with more than `side` squared pixels are shrunk to so many first. The first layer projects 3 x 3
    patches on their whitened principal components and keeps the positive and the negative part of each; it
    is set from the images by :meth:`initialize_from_images` and not trained. Each convolution is followed by
    BatchNorm and ReLU; max-pooling halves the resolution after the first and after the third.

    The representation is the average over the image of the last level, followed by those of the levels
    before it: what the task makes the last level forget, an earlier one still has. A level that is pooled is
    averaged afterwards, in images of at most 16 pixels before. Two parts follow that say where in the image
    something is: the averages of the third level in the 4 x 4 cells of a grid, except in images of at most
    16 pixels, and histograms of oriented gradients (HOG), which are not learnt. Both are for users of the
    representation. A projection head reads only the numbers before them, since a crop shows another part of
    the image in the same cell.

    Parameters
    ----------
    in_channels : int
        Channels of the images.
    image_size : (int, int)
        Height and width of the images; decides how often the resolution is halved.
    width : int or None, default=None
        Channels of the first convolution; the others have 2, 2 and 4 times as many. None is 64, and 32
        for images of at most 16 pixels, times `multiple`.
    multiple : float, default=1
        How many times as wide as usual; if `width` is given, only a part of the network's name.
    side : int, default=64
        Side of the square that has as many pixels as the largest images that are not shrunk.

    Attributes
    ----------
    out_dim : int
        Length of the representation.
    read_dim : int
        How many numbers at the beginning of the representation are for a projection head.
    grid_dim : int
        How many numbers after these belong to the grid.
    edge_dim : int
        How many numbers at the end are histograms of oriented gradients.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        width: int | None = None,
        multiple: float = 1,
        side: int = _SIDE,
    ) -> None:
        super().__init__()
        if width is None:
            width = int((32 if max(image_size) <= TINY_SIDE else 64) * multiple)
        self.side = side
        self.multiple = multiple
        self.in_channels = in_channels
        directions = min(9 * in_channels, _MAX_DIRECTIONS)
        stem = nn.Conv2d(in_channels, directions, 3, padding=1)
        stem.requires_grad_(False)
        self.stem = stem
        self.stem_pool = max(1.0, min(side, math.sqrt(math.prod(image_size))) / _FIRST_SIDE)
        widths = (width, 2 * width, 2 * width, 4 * width)
        channels = (2 * directions, *widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(channels[:-1], widths, strict=True)
        )
        # torch's own initialisation: BatchNorm makes the scale of the weights irrelevant to the output, but
        # the smaller they are the faster the first steps turn them.
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in widths)
        self.pools = (True, False, True, False)  # after each convolution
        self.means_of_pooled = max(image_size) > TINY_SIDE
        self._widths = widths
        self.read_dim = sum(widths)

    @property
    def traits(self) -> Traits:
        """Tell others how to use the network: a head reads only the means over the image."""
        return Traits(
            read_dim=self.read_dim,
            batch_scale=2.0,
            mirror_pays=True,
            shrinks_to=self.side,
            largest_view=round(VIEW_PART * self.side),
        )

    @property
    def blocks(self) -> list[tuple[str, ...]]:
        """Name the parts that are trained, first to last: each a convolution and its normalisation."""
        return [(f"convs.{k}", f"norms.{k}") for k in range(len(self.convs))]

    @property
    def _edge_cells(self) -> int:
        return _EDGE_CELLS if self.means_of_pooled else _EDGE_CELLS // 2

    @property
    def grid_dim(self) -> int:
        """Count the numbers of the grid, which follow the means."""
        # In tiny images the edges say as much with fewer numbers.
        return self._widths[_GRID_LEVEL] * _GRID**2 if self.means_of_pooled else 0

    @property
    def edge_dim(self) -> int:
        """Count the histograms of oriented gradients, the last numbers of a representation."""
        return _ORIENTATIONS * self._edge_cells**2

    @property
    def out_dim(self) -> int:
        """Length of the representation."""
        return self.read_dim + self.grid_dim + self.edge_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the representations (N, out_dim) of images (N, C, H, W)."""
        x = shrink(x, self.side)
        means, grid = self._levels(x)
        votes = edge_votes(x.float(), _ORIENTATIONS)
        down, across = (_cells(length, self._edge_cells, votes) for length in votes.shape[2:])
        edges = normalized_blocks(down @ votes @ across.T, step=2)
        return torch.cat([means, grid, _EDGE_WEIGHT * edges.to(means.dtype)], dim=1)

    def read(self, x: Tensor) -> Tensor:
        """Return what a projection head reads, the first numbers (N, read_dim) of representations, only."""
        return self._levels(shrink(x, self.side))[0]

    def _levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return means of all levels, and the third level in a grid."""
        x = self._patches(x)
        means: list[Tensor] = []
        for level, (conv, norm, pool) in enumerate(zip(self.convs, self.norms, self.pools, strict=True)):
            x = norm(conv(x))
            if pool and self.means_of_pooled:
                # The order does not change the result, and after the pooling ReLU has a quarter of the work.
                x, pool = F.max_pool2d(x, 2, ceil_mode=True), False
            x = F.relu(x, inplace=True)
            averages = _averages(x, _GRID if level == _GRID_LEVEL and self.grid_dim else 0)
            means.append(averages[:, 0])
            if level == _GRID_LEVEL:
                cells = _GRID_WEIGHT * averages[:, 1:].flatten(1)
            if pool:
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return torch.cat(means[::-1], dim=1), cells

    def _patches(self, x: Tensor) -> Tensor:
        """Return the positive and the negative parts of whitened patches, pooled."""
        assert self.stem.bias is not None
        weight = torch.cat([self.stem.weight, -self.stem.weight])
        bias = torch.cat([self.stem.bias, -self.stem.bias])

        def first(x: Tensor) -> Tensor:
            return _pooled(F.conv2d(x, weight, bias, padding=1).relu_(), self.stem_pool)

        # A traced graph must hold for any number of images.
        if not is_cpu(x.device) or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return first(x)
        rows = max(1, _CACHED // (len(bias) * x.shape[2] * x.shape[3]))
        return torch.cat([first(part) for part in x.split(rows)]) if len(x) > rows else first(x)

    @torch.no_grad()
    def initialize_from_images(
        self, images: ImageSource | ComputedImages, generator: torch.Generator
    ) -> None:
        """Set the first layer to the whitened principal components of the images' patches.

        Parameters
        ----------
        images : ImageSource or ComputedImages
            The training images; some patches of at most 2,048 images are used.
        generator : torch.Generator
            Generator of the CPU that chooses the patches.
        """
        channels, height, width = images.shape
        small = shrunk_size(height, width, self.side)
        if small != (height, width):
            images = ComputedImages(
                images, lambda taken, _: shrink(as_float(taken), self.side), (channels, *small)
            )
        mean, variances, directions, total = patch_components(images, len(self.stem.weight), generator)
        eps = _WHITENING_EPS * total + 1e-12
        weight = directions / (variances[:, None].clamp(min=0) + eps).sqrt()
        # The sign of an eigenvector is arbitrary: make it the same on every machine.
        sign = torch.where(weight.gather(1, weight.abs().argmax(dim=1, keepdim=True)) < 0, -1.0, 1.0)
        weight = weight * sign
        assert self.stem.bias is not None
        self.stem.weight.copy_(weight.view_as(self.stem.weight))
        self.stem.bias.copy_(-(weight @ mean))


def shrink(images: Tensor, side: int) -> Tensor:
    """Return images (N, C, H, W), antialiased and resized to side**2 pixels where they have more."""
    # A graph's sizes may be tensors.
    height, width = (int(length) for length in images.shape[2:])
    size = shrunk_size(height, width, side)
    if size == (height, width):
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def shrunk_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size of images after `shrink`."""
    scale = side / math.sqrt(height * width)
    return (height, width) if scale >= 1 else (max(1, round(scale * height)), max(1, round(scale * width)))


def _pooled(x: Tensor, pool: float) -> Tensor:
    """Return means of maps (N, C, H, W) over squares with sides of `pool` pixels, a whole number or not."""
    if pool == 1:
        return x
    if pool == int(pool):
        return F.avg_pool2d(x, int(pool), ceil_mode=True)
    down, across = (_cells(n, max(1, round(n / pool)), x) for n in (int(length) for length in x.shape[2:]))
    return down @ x @ across.T


def _averages(x: Tensor, grid: int) -> Tensor:
    """Return means of maps (N, C, H, W) over the image and in the cells of a grid: (N, 1 + grid**2, C)."""
    height, width = (int(length) for length in x.shape[2:])
    weights = _kept(_mean_and_cells)(height, width, grid, x.device, x.dtype)
    # One product of matrices reads the maps once, in the order in which convolutions leave them.
    return weights @ x.permute(0, 2, 3, 1).flatten(1, 2)


def _mean_and_cells(height: int, width: int, grid: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return weights (1 + grid**2, H * W): of all pixels, and of those in each cell."""
    weights = torch.full((1, height * width), 1 / (height * width), device=device, dtype=dtype)
    if grid:
        down, across = (_weights_of_cells(n, grid, device, dtype) for n in (height, width))
        cells = down[:, None, :, None] * across[:, None, :]
        weights = torch.cat([weights, cells.reshape(grid**2, height * width)])
    return weights


def _cells(n: int, grid: int, like: Tensor) -> Tensor:
    """Return weights (grid, n), each row with the sum 1: the part of each of n pixels that is in a cell."""
    return _kept(_weights_of_cells)(int(n), grid, like.device, like.dtype)


def _weights_of_cells(n: int, grid: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    precise = torch.promote_types(dtype, torch.float32)
    pixel = torch.arange(n, device=device, dtype=precise)
    edge = torch.arange(grid + 1, device=device, dtype=precise)[:, None] * (n / grid)
    inside = (torch.minimum(edge[1:], pixel + 1) - torch.maximum(edge[:-1], pixel)).clamp(min=0)
    return (inside * (grid / n)).to(dtype)


def _kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that makes weights once and keeps them; traced or compiled code makes its own."""
    return make if torch.jit.is_tracing() or torch.compiler.is_compiling() else partial(_made_once, make)


@lru_cache(maxsize=256)
def _made_once(make: Callable[..., Tensor], *sizes: object) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return make(*sizes)
