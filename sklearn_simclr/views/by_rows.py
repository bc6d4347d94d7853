"""Make views by the few nonzero weights of their linear maps: few multiplications, as suits a CPU."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import channel_shuffle, embedding_bag

from .colors import apply_contrast, apply_in_turn, color_matrices
from .draws import Draws
from .filters import GAUSS_REACH, Taps, blur_taps, resize_taps
from .google_form import is_googles

__all__ = ["views_by_rows"]

# Views are made in groups of about so many values: enough to outweigh the calls, few enough to stay in the
# cache.
_GROUP = 800_000

# Views of at least so many values are written one by one.
_LARGE = 20_000

# The largest block, in bytes, that glibc can be made to keep for itself: just below 32 MiB.
_ARENA = 32_000_000


def views_by_rows(
    images: Tensor, draws: Draws, size: tuple[int, int], *, blurs: bool, implementation: str
) -> Tensor:
    """Make the views that were drawn, without angles; nothing is erased yet.

    Crop, flip, resize and blur are applied as their few nonzero weights, to whole rows of pixels, with a
    transposition between the axes: fewer operations than with dense matrices by an order of magnitude, and
    pixels outside the crop are hardly touched.
    """
    if draws.transposed is None:
        return _upright_views(images, draws, size, blurs, implementation)
    views = images.new_empty((len(draws.top), images.shape[1], *size), dtype=torch.float32)
    for transposed in (False, True):
        index = draws.transposed.eq(transposed).nonzero()[:, 0]
        source = images[index % max(1, len(images))]
        made_size = size[::-1] if transposed else size
        made = _upright_views(source, draws.rows(index), made_size, blurs, implementation)
        views[index] = made.mT if transposed else made
    return views


def _upright_views(
    images: Tensor, draws: Draws, size: tuple[int, int], blurs: bool, implementation: str
) -> Tensor:
    """Make the views in groups, from the nonzero weights of the linear maps only."""
    n, channels, height, width = images.shape
    total = len(draws.top)
    # Fresh memory from numpy comes in huge pages, which take fewer page faults.
    views = torch.from_numpy(np.empty((total, channels, *size), dtype=np.float32))
    if total == 0:
        return views
    # glibc gives freed blocks back to the system, page by page, and faults them in again, unless it has
    # once seen a block as large as this one freed. Nothing touches the block.
    torch.empty(_ARENA, dtype=torch.uint8)
    repeats = total // n
    largest = channels * max(height, size[0]) * max(width, size[1])
    group = min(n, max(1, _GROUP // (largest * repeats)))
    # All views of an image are in one group, so that its pixels are converted once. Those with the
    # least blur come first in it.
    order = torch.arange(total)
    if blurs:
        order = draws.sigma.argsort(stable=True)
    order = order[(order % n // group).argsort(stable=True)]
    draws = draws.rows(order)
    blurred = draws.sigma > 0 if blurs else torch.zeros(total, dtype=torch.bool)
    parts, begins = _parts(blurred.tolist(), group * repeats)
    sequential = implementation != "linear"
    source, place = order % n % group, torch.arange(total) - begins
    maps = _RowMaps(draws, images, size, source, place, blurs, implementation)
    places = order.tolist()
    made = torch.empty(group * repeats, channels, *size)
    for first, in_group in zip(range(0, n, group), parts, strict=True):
        pixels = images[first : first + group].to(torch.float32, memory_format=torch.contiguous_format)
        # A column of pixels becomes a row, as long as the image is high, times its channels.
        pixels = _transpose(pixels.flatten(1, 2))
        start = first * repeats
        for part, blur in in_group:
            x = maps.resize_columns(pixels, part)
            if blur and not sequential:
                x = maps.blur_columns(x, part)
            x = maps.resize_rows(_transpose(x), part)
            if sequential:
                x = x.unflatten(1, (channels, size[0]))
                x = apply_in_turn(x, draws.rows(part), implementation).flatten(1, 2)
            if blur:
                x = maps.blur_rows(x, part)
            if blur and sequential:
                x = _transpose(maps.blur_columns(_transpose(x), part))
            x = x.view(-1, channels, *size)
            if not sequential:
                x = apply_contrast(x, draws.contrast[part])
            if largest < _LARGE:
                torch.clamp(x, 0, 1, out=made[part.start - start : part.stop - start])
            else:
                for view, place in zip(x, places[part], strict=True):
                    torch.clamp(view, 0, 1, out=views[place])
        if largest < _LARGE:
            stop = start + group * repeats
            for repeat, index in enumerate(order[start:stop].argsort().view(repeats, -1)):
                begin = repeat * n + first
                torch.index_select(made, 0, index, out=views[begin : begin + len(index)])
    return views


def _parts(blurred: list[bool], length: int) -> tuple[list[list[tuple[slice, bool]]], Tensor]:
    """Cut groups of sorted views into those without and those with blur; return also where each begins."""
    parts, begins = [], []
    for start in range(0, len(blurred), length):
        stop = min(start + length, len(blurred))
        first = stop - sum(blurred[start:stop])
        both = [(slice(start, first), False), (slice(first, stop), True)]
        parts.append([(part, blur) for part, blur in both if part.stop > part.start])
        begins += [start] * (first - start) + [first] * (stop - first)
    return parts, torch.tensor(begins)


class _RowMaps:
    """The nonzero weights of the linear maps of some views, ready to be applied to a part of them.

    ``source`` is the position of the image of every view in its group, ``place`` the position of the
    view in its part.
    """

    def __init__(
        self,
        draws: Draws,
        images: Tensor,
        size: tuple[int, int],
        source: Tensor,
        place: Tensor,
        blurs: bool,
        implementation: str,
    ) -> None:
        _, channels, height, width = images.shape
        self.channels = channels
        google = is_googles(implementation)
        index, weight = resize_taps(draws.left, draws.width, width, size[1], draws.flip, google=google)
        self._columns = _row_map(index, weight, source, width)
        flip = draws.vertical_flip
        index, weight = resize_taps(draws.top, draws.height, height, size[0], flip, google=google)
        if images.dtype == torch.uint8:
            weight.mul_(1 / 255)
        mix = None
        if implementation == "linear":
            weight.mul_(draws.brightness[:, None, None])
            mix = color_matrices(draws) if channels == 3 else None
        # With many weights it pays to mix the channels afterwards.
        later = mix is not None and index.shape[1] > 3
        self._rows = _row_map(index, weight, place, height, channels, None if later else mix)
        self._mix = None
        if later:
            same = torch.arange(size[0], dtype=torch.int32).view(1, 1, -1).expand(len(place), -1, -1)
            self._mix = _row_map(same, torch.ones(same.shape), place, size[0], channels, mix)
        if blurs:
            self._reach = (GAUSS_REACH * draws.sigma).tolist()
            self._blurs = [blur_taps(draws.sigma, size, n, padded=google) for n in size]

    def resize_columns(self, x: Tensor, part: slice) -> Tensor:
        """Crop, flip and resize along the width; x holds the images of a group, transposed."""
        return _map_rows(x, self._columns, part)

    def resize_rows(self, x: Tensor, part: slice) -> Tensor:
        """Crop and resize along the height, brightness and the mixing of channels."""
        x = _map_rows(x, self._rows, part)
        return x if self._mix is None else _map_rows(x, self._mix, part)

    def blur_columns(self, x: Tensor, part: slice) -> Tensor:
        """Blur along the width; x is transposed."""
        return self._blur(x, self._blurs[1], part, 1)

    def blur_rows(self, x: Tensor, part: slice) -> Tensor:
        """Blur along the height."""
        return self._blur(x, self._blurs[0], part, self.channels)

    def _blur(self, x: Tensor, taps: Taps, part: slice, channels: int) -> Tensor:
        index, weight = taps
        radius = len(index) // 2
        reach = min(int(self._reach[part.stop - 1]), radius)  # the views are sorted by sigma
        near = slice(radius - reach, radius + reach + 1)
        index, weight = index[None, near], weight[part, near].expand(-1, -1, index.shape[1])
        return _map_rows(x, _row_map(index, weight, torch.arange(len(x)), index.shape[2], channels))


def _row_map(
    index: Tensor, weight: Tensor, source: Tensor, n_in: int, channels: int = 1, mix: Tensor | None = None
) -> Taps:
    """Return a map that makes row s of plane c of view v from some rows, weighted by weight[v, t, s].

    These rows are index[v, t, s] in plane c of image source[v]; a plane has n_in rows. With ``mix``
    (V, C, C), the same rows of every plane k are taken, weighted by mix[v, c, k] as well.

    Returns
    -------
    index, weight : tensors of shape (V, C * S, T) or (V, C * S, C * T)
        Rows are counted through all planes of all images.
    """
    source = (source.to(torch.int32) * (channels * n_in)).view(-1, 1, 1, 1)
    plane = torch.arange(0, channels * n_in, n_in, dtype=torch.int32).view(-1, 1, 1)
    index = index[:, None] + (source + plane)
    weight = weight[:, None]
    if mix is not None:
        index = index.flatten(1, 2)[:, None]
        weight = (weight[:, None] * mix[:, :, :, None, None]).flatten(2, 3)

    def transposed(x: Tensor) -> Tensor:
        # Only floats are transposed in blocks, so the bits of an index are taken for those of a float.
        x = x.expand(len(source), -1, -1, -1)
        y = _transpose(x.flatten(0, 1).view(torch.float32)).view(x.dtype)
        y = y.unflatten(0, x.shape[:2]).expand(-1, channels, -1, -1)
        return y.reshape(len(y), -1, y.shape[3])

    return transposed(index), transposed(weight)


def _map_rows(x: Tensor, row_map: Taps, part: slice = slice(None)) -> Tensor:
    """Apply a map to rows x (K, R, D) for a part of its views; return (V, C * S, D)."""
    index, weight = (t[part] for t in row_map)
    n = len(index)
    x = embedding_bag(
        index.flatten(0, 1), x.flatten(0, 1), per_sample_weights=weight.flatten(0, 1), mode="sum"
    )
    return x.view(n, -1, x.shape[1])


def _transpose(x: Tensor) -> Tensor:
    """Return x.transpose(1, 2), contiguous."""
    n, rows, columns = x.shape
    # Channels-last memory makes the shuffle of channels a blocked transposition, several times as fast
    # as a strided copy.
    x = x.reshape(1, n, 1, rows * columns).permute(0, 3, 1, 2)
    return channel_shuffle(x, rows).permute(0, 2, 3, 1).reshape(n, columns, rows)
