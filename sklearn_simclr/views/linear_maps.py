"""Compute views from their random draws: linear maps along rows and columns, then colours."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, channel_shuffle, embedding_bag, grid_sample, pad

from .._utils.devices import is_cpu, send
from .google_form import bicubic_matrices, bicubic_taps, google_colors
from .hsv import from_hue, to_hue

__all__ = ["IMPLEMENTATIONS", "Draws", "Maps", "compute_maps", "make_views"]

# How the operations are computed; the names are those of `Augmentation`.
IMPLEMENTATIONS = ("linear", "torchvision", "google_v1", "google_v2")

# ITU-R 601 luma, as used by torchvision's and Pillow's greyscale conversion.
_LUMA = (0.2989, 0.587, 0.114)

# The YIQ axes: hue is the angle and saturation the radius in the (I, Q) plane, luma stays as it is.
_YIQ = torch.tensor(
    (_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)), dtype=torch.float64
)
_RGB = torch.linalg.inv(_YIQ)

# A turn of the hue by an angle, with the saturation multiplied by s, is
# _KEPT + s cos(angle) * _COSINE + s sin(angle) * _SINE: no product of matrices for each view.
_KEPT = torch.outer(_RGB[:, 0], _YIQ[0]).tolist()
_COSINE = (torch.outer(_RGB[:, 1], _YIQ[1]) + torch.outer(_RGB[:, 2], _YIQ[2])).tolist()
_SINE = (torch.outer(_RGB[:, 2], _YIQ[1]) - torch.outer(_RGB[:, 1], _YIQ[2])).tolist()

# Views on a CPU are made in groups of about so many values: enough to outweigh the calls, few enough to
# stay in the cache.
_GROUP = 800_000

# Views of at least so many values are written one by one.
_LARGE = 20_000

# The largest block, in bytes, that glibc can be made to keep for itself: just below 32 MiB.
_ARENA = 32_000_000

# Views that are turned by any angle are made in groups of about so many values of their surroundings.
_ROTATED = 2**24

# Weights of a Gaussian beyond so many standard deviations are less than float32 resolves.
_GAUSS_REACH = 6.0


# Where what is computed is taken from, and with which weights.
_Taps = tuple[Tensor, Tensor]


class Draws(NamedTuple):
    """Draws for N views: N rows in each field, None where nothing is asked for."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    grayscale: Tensor
    sigma: Tensor
    vertical_flip: Tensor | None = None
    transposed: Tensor | None = None
    angle: Tensor | None = None
    erased: Tensor | None = None

    def rows(self, index: Tensor | slice) -> "Draws":
        """Return the draws of some of the views."""
        fields: Iterator[Any] = (None if field is None else field[index] for field in self)
        return Draws(*fields)

    def to(self, device: torch.device | str) -> "Draws":
        """Return the draws on a device, from the CPU in one copy."""
        there = send([field for field in self if field is not None], torch.device(device))
        return self.with_tensors(iter(there))

    def with_tensors(self, tensors: Iterator[Tensor]) -> "Draws":
        """Return draws of which those that are not None are tensors, in turn."""
        fields: Iterator[Any] = (None if field is None else next(tensors) for field in self)
        return Draws(*fields)


class Maps(NamedTuple):
    """The linear maps and colours of V views in few numbers, from which an accelerator makes them.

    Parameters
    ----------
    lines : tensor of shape (2, V, 5)
        For rows and columns: the filter of output pixel j has its centre at
        ``lines[..., 0] + lines[..., 1] * (lines[..., 2] + lines[..., 3] * (j + 1/2))``, and reaches
        ``lines[..., 4]`` to both sides.
    inside : bool tensor of shape (2, V, max(H, W))
        Which pixels are in the crop.
    mix, grey : tensors of shape (V, 3, 3) or (V, 1)
        What channels are multiplied by, and their means over the view; a number where there are not three.
    blurs : tensor of shape (V, R + 1) or None
        Weights of the Gaussian at the distances 0 to R.
    transposed, erased : tensor or None
        As drawn.
    colors : Draws or None
        What was drawn, where the colour operations follow one another.
    """

    lines: Tensor
    inside: Tensor
    mix: Tensor
    grey: Tensor
    blurs: Tensor | None
    transposed: Tensor | None
    erased: Tensor | None
    colors: Draws | None

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        own = [field for field in self[:-1] if isinstance(field, Tensor)]
        return own + [field for field in self.colors or () if field is not None]

    def with_tensors(self, tensors: Iterator[Tensor]) -> "Maps":
        """Return maps with other tensors, in the order of `tensors`."""
        own: list[Any] = [None if field is None else next(tensors) for field in self[:-1]]
        own.append(None if self.colors is None else self.colors.with_tensors(tensors))
        return Maps(*own)

    def to(self, device: torch.device | str) -> "Maps":
        """Return the maps on a device, from the CPU in one copy."""
        return self.with_tensors(iter(send(self.tensors(), torch.device(device))))


def make_views(
    images: Tensor,
    draws: Draws | Maps,
    size: tuple[int, int],
    *,
    blurs: bool,
    implementation: str,
    rotation: float = 0.0,
) -> Tensor:
    """Compute the views that were drawn, in the way that suits the device.

    Crop, flip, antialiased resize and blur are one linear map along the rows and one along the columns. Each
    view has its own; quarter turns exchange the two. On accelerators they are small dense matrices. On a CPU
    their few nonzero weights are applied to whole rows of pixels (:func:`_map_rows`), with a transposition
    between the axes: fewer operations by an order of magnitude, and pixels outside the crop are hardly
    touched.

    Parameters
    ----------
    images : tensor of shape (N, C, H, W)
        uint8, or floating point in [0, 1].
    draws : named tuple of tensors
        What was drawn for V views, V a multiple of N; view i is one of image i mod N. On the device of the
        images, or on the CPU. Or what `compute_maps` made of the draws.
    size : (int, int)
        Height and width of a view.
    blurs : bool
        Whether views with sigma > 0 are blurred.
    implementation : str
        One of `IMPLEMENTATIONS`. All but ``"linear"`` apply the colour operations one by one and clip after
        each.
    rotation : float, default=0.0
        The largest angle in degrees by which views are turned, where angles were drawn.

    Returns
    -------
    tensor of shape (V, C, *size)
        float32 in [0, 1].
    """
    if isinstance(draws, Maps):
        return _views_by_matrices(images, draws.to(images.device), size, implementation)
    if draws.angle is None and (not is_cpu(images.device) or images.requires_grad):
        keywords: dict[str, Any] = {"blurs": blurs, "implementation": implementation}
        maps = compute_maps(draws, images.shape, images.dtype, size, **keywords)
        return _views_by_matrices(images, maps.to(images.device), size, implementation)
    if draws.angle is not None:
        views = _rotated_views(images, draws, size, blurs, implementation, rotation)
    elif draws.transposed is not None:
        views = _transposed_by_rows(images, draws, size, blurs, implementation)
    else:
        views = _views_by_rows(images, draws, size, blurs, implementation)
    return views if draws.erased is None else _erase(views, draws.erased.to(views.device))


def _rotated_views(
    images: Tensor, draws: Draws, size: tuple[int, int], blurs: bool, implementation: str, rotation: float
) -> Tensor:
    """Make views of crops that are turned by any angle.

    The upright box around the turned crop is resized to about the resolution of the view, with
    antialiasing; from it the view is interpolated; its colours come last. Where the crop reaches beyond the
    image, the box ends at the edge, and the interpolation reflects there.
    """
    n, channels, height, width = images.shape
    around = _size_around(size, math.radians(rotation)), _size_around(size[::-1], math.radians(rotation))
    step = max(1, _ROTATED // (channels * around[0] * around[1]))
    parts = []
    for start in range(0, len(draws.top), step):
        part = draws.rows(slice(start, start + step))
        box, grid = _surround(part, height, width)
        source = images[torch.arange(start, start + len(part.top), device=images.device) % n]
        views = make_views(source, box, around, blurs=False, implementation="linear")
        (grid,) = send([grid], images.device)
        grid = affine_grid(grid, [len(views), channels, *size], align_corners=False)
        views = grid_sample(views, grid, padding_mode="reflection", align_corners=False)
        rest = _whole(part, *size)
        parts.append(make_views(views, rest, size, blurs=blurs, implementation=implementation))
    return torch.cat(parts) if parts else images.new_empty((0, channels, *size), dtype=torch.float32)


def _size_around(size: tuple[int, int], angle: float) -> int:
    """Return the height of the upright box around a box (height, width) turned by at most an angle."""
    height, width = size
    angle = min(angle, math.atan2(width, height))
    return math.ceil(height * math.cos(angle) + width * math.sin(angle))


def _surround(draws: Draws, height: int, width: int) -> tuple[Draws, Tensor]:
    """Return the upright boxes around turned crops, and the maps (N, 2, 3) from view to box.

    Both have coordinates from -1 to 1, as :func:`torch.nn.functional.affine_grid` has.
    """
    assert draws.angle is not None
    angle = torch.deg2rad(draws.angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    half_v, half_h = draws.height / 2, draws.width / 2
    centre_v, centre_h = draws.top + half_v, draws.left + half_h
    reach_v, reach_h = half_v * cos.abs() + half_h * sin.abs(), half_h * cos.abs() + half_v * sin.abs()
    top, left = (centre_v - reach_v).floor().clamp(min=0), (centre_h - reach_h).floor().clamp(min=0)
    box_v = (centre_v + reach_v).ceil().clamp(max=height) - top
    box_h = (centre_h + reach_h).ceil().clamp(max=width) - left
    right = half_h * (1 - 2 * draws.flip.float())
    down = half_v if draws.vertical_flip is None else half_v * (1 - 2 * draws.vertical_flip.float())
    rows = [
        torch.stack([cos * right, -sin * down, centre_h - left - box_h / 2], dim=1) * (2 / box_h)[:, None],
        torch.stack([sin * right, cos * down, centre_v - top - box_v / 2], dim=1) * (2 / box_v)[:, None],
    ]
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    plain = {"brightness": one, "contrast": one, "saturation": one, "hue": zero, "sigma": zero}
    box = _whole(draws, height, width)._replace(
        top=top, left=left, height=box_v, width=box_h, grayscale=torch.zeros_like(draws.grayscale), **plain
    )
    return box, torch.stack(rows, dim=1)


def _whole(draws: Draws, height: int, width: int) -> Draws:
    """Return draws of views that show the whole of their image, as it is, in other colours."""
    zero = torch.zeros_like(draws.top)
    return draws._replace(
        top=zero,
        left=zero,
        height=zero + height,
        width=zero + width,
        flip=torch.zeros_like(draws.flip),
        vertical_flip=None,
        transposed=None,
        angle=None,
        erased=None,
    )


def _transposed_by_rows(
    images: Tensor, draws: Draws, size: tuple[int, int], blurs: bool, implementation: str
) -> Tensor:
    """Make views of which some lie on their side."""
    assert draws.transposed is not None
    views = images.new_empty((len(draws.top), images.shape[1], *size), dtype=torch.float32)
    for transposed in (False, True):
        index = draws.transposed.eq(transposed).nonzero()[:, 0]
        source = images[index % max(1, len(images))]
        made_size = size[::-1] if transposed else size
        made = _views_by_rows(source, draws.rows(index), made_size, blurs, implementation)
        views[index] = made.mT if transposed else made
    return views


def _upright(draws: Draws) -> Draws:
    """Return draws of upright views of images that lie on their side where the views do."""
    chosen, vertical = draws.transposed, draws.vertical_flip
    assert chosen is not None and vertical is not None
    swapped = {
        one: torch.where(chosen, other, this)
        for one, this, other in (
            ("top", draws.top, draws.left),
            ("left", draws.left, draws.top),
            ("height", draws.height, draws.width),
            ("width", draws.width, draws.height),
            ("flip", draws.flip, vertical),
            ("vertical_flip", vertical, draws.flip),
        )
    }
    return draws._replace(**swapped)


def _erase(views: Tensor, boxes: Tensor) -> Tensor:
    """Replace rectangles (V, 4) by the mean of each channel of their view."""
    row = torch.arange(views.shape[2], device=views.device)
    column = torch.arange(views.shape[3], device=views.device)
    top, left, bottom, right = boxes.unbind(dim=1)
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, views.mean(dim=(2, 3), keepdim=True), views)


def _views_by_rows(
    images: Tensor, draws: Draws, size: tuple[int, int], blurs: bool, implementation: str
) -> Tensor:
    """Make the views in groups, from the nonzero weights of the linear maps only."""
    n, channels, height, width = images.shape
    total = len(draws.top)
    # Fresh memory from numpy comes in huge pages: a quarter of the time that page faults take otherwise.
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
                x = _colored(x, draws.rows(part), implementation).flatten(1, 2)
            if blur:
                x = maps.blur_rows(x, part)
            if blur and sequential:
                x = _transpose(maps.blur_columns(_transpose(x), part))
            x = x.view(-1, channels, *size)
            if not sequential:
                x = _contrasted(x, draws.contrast[part])
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
        google = _is_googles(implementation)
        resize_taps = _bicubic_taps if google else _resize_taps
        index, weight = resize_taps(draws.left, draws.width, width, size[1], draws.flip)
        self._columns = _row_map(index, weight, source, width)
        index, weight = resize_taps(draws.top, draws.height, height, size[0], draws.vertical_flip)
        if images.dtype == torch.uint8:
            weight.mul_(1 / 255)
        mix = None
        if implementation == "linear":
            weight.mul_(draws.brightness[:, None, None])
            mix = _color_matrices(draws) if channels == 3 else None
        # With many weights it pays to mix the channels afterwards.
        later = mix is not None and index.shape[1] > 3
        self._rows = _row_map(index, weight, place, height, channels, None if later else mix)
        self._mix = None
        if later:
            same = torch.arange(size[0], dtype=torch.int32).view(1, 1, -1).expand(len(place), -1, -1)
            self._mix = _row_map(same, torch.ones(same.shape), place, size[0], channels, mix)
        if blurs:
            self._reach = (_GAUSS_REACH * draws.sigma).tolist()
            self._blurs = [_blur_taps(draws.sigma, size, n, padded=google) for n in size]

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

    def _blur(self, x: Tensor, taps: _Taps, part: slice, channels: int) -> Tensor:
        index, weight = taps
        radius = len(index) // 2
        reach = min(int(self._reach[part.stop - 1]), radius)  # the views are sorted by sigma
        near = slice(radius - reach, radius + reach + 1)
        index, weight = index[None, near], weight[part, near].expand(-1, -1, index.shape[1])
        return _map_rows(x, _row_map(index, weight, torch.arange(len(x)), index.shape[2], channels))


def _row_map(
    index: Tensor, weight: Tensor, source: Tensor, n_in: int, channels: int = 1, mix: Tensor | None = None
) -> _Taps:
    """Return what makes row s of plane c of view v of rows index[v, t, s], weighted with weight[v, t, s].

    They are rows of plane c of image source[v], whose planes have n_in rows. With ``mix`` (V, C, C),
    they are those of every plane k, weighted with mix[v, c, k] as well.

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
        # Only floats are transposed in blocks; the bits of an index pass for one.
        x = x.expand(len(source), -1, -1, -1)
        y = _transpose(x.flatten(0, 1).view(torch.float32)).view(x.dtype)
        y = y.unflatten(0, x.shape[:2]).expand(-1, channels, -1, -1)
        return y.reshape(len(y), -1, y.shape[3])

    return transposed(index), transposed(weight)


def _map_rows(x: Tensor, row_map: _Taps, part: slice = slice(None)) -> Tensor:
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


def compute_maps(
    draws: Draws,
    image_shape: Sequence[int],
    dtype: torch.dtype,
    size: tuple[int, int],
    *,
    blurs: bool,
    implementation: str,
) -> Maps:
    """Compute where the draws are what an accelerator needs to make the views.

    An accelerator starts a kernel for each operation on however few numbers; a CPU does these at once.

    Parameters
    ----------
    draws : Draws
        Without angles.
    image_shape : sequence of int
        That of the images; channels, height and width are the last three.
    dtype : torch.dtype
        Of the images.
    size, blurs, implementation
        As for `make_views`.

    Returns
    -------
    Maps
        On the device of the draws.
    """
    channels, height, width = image_shape[-3:]
    if draws.transposed is not None:
        draws = _upright(draws)
    start = torch.stack([draws.top, draws.left])
    length = torch.stack([draws.height, draws.width])
    step, end = torch.stack([draws.height / size[0], draws.width / size[1]]), start + length
    vertical = torch.zeros_like(draws.flip) if draws.vertical_flip is None else draws.vertical_flip
    flip = torch.stack([vertical, draws.flip])
    last = torch.stack([flip[0] * float(size[0]), flip[1] * float(size[1])])
    pixel = torch.arange(max(height, width), device=start.device)
    inside = (pixel >= start[:, :, None]) & (pixel < end[:, :, None])
    factor = draws.brightness * (1 / 255 if dtype == torch.uint8 else 1.0)
    mix, grey = factor * draws.contrast, factor * (1 - draws.contrast)
    if channels == 3:
        luma = torch.tensor(_LUMA).expand(3, 3).to(mix.device)
        mix, grey = mix.view(-1, 1, 1) * _color_matrices(draws), grey.view(-1, 1, 1) * luma
    return Maps(
        lines=torch.stack([start, step, last, 1.0 - 2.0 * flip, step.clamp(min=1.0)], dim=2),
        inside=inside,
        mix=mix if channels == 3 else mix[:, None],
        grey=grey if channels == 3 else grey[:, None],
        blurs=_gauss_kernels(draws.sigma, size, max(size), _is_googles(implementation)) if blurs else None,
        transposed=draws.transposed,
        erased=draws.erased,
        colors=draws._replace(transposed=None, erased=None) if implementation != "linear" else None,
    )


def _views_by_matrices(images: Tensor, maps: Maps, size: tuple[int, int], implementation: str) -> Tensor:
    """Make all views at once, from a pair of dense matrices each."""
    n, channels, height, width = images.shape
    total = maps.lines.shape[1]
    if maps.transposed is not None:
        height = width = max(height, width)
        images = pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
    # One pass: conversion, and a copy for each view.
    pixels = torch.empty(total // max(1, n), n, channels, height, width, device=images.device)
    pixels = pixels.copy_(images.expand_as(pixels)).flatten(0, 1)
    if maps.transposed is not None:
        pixels = torch.where(maps.transposed.view(-1, 1, 1, 1), pixels.mT, pixels)
    google = _is_googles(implementation)
    resize_matrices = _bicubic_matrices if google else _resize_matrices
    rows, columns = resize_matrices(maps, (height, width), size)
    blurs = None
    if maps.blurs is not None:
        blurs = [_blur_matrix(maps.blurs, n_out, google) for n_out in dict.fromkeys(size)]
    if maps.colors is not None:
        scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
        views = _colored(_separable(pixels, rows * scale, columns), maps.colors, implementation)
        views = _separable(views, blurs[0], blurs[-1]).clamp(0, 1) if blurs else views
    else:
        if blurs:
            rows, columns = blurs[0] @ rows, blurs[-1] @ columns
        x = _separable(pixels, rows, columns).flatten(2)
        if channels == 3:
            grey = torch.bmm(maps.grey, x.mean(dim=2, keepdim=True))
            # Pixel by pixel, the three channels side by side, as convolutions are fastest with.
            views = torch.baddbmm(grey.mT, x.mT, maps.mix.mT).view(total, *size, 3).permute(0, 3, 1, 2)
        else:
            grey = (maps.grey * x.mean(dim=(1, 2))[:, None])[:, :, None]
            views = torch.addcmul(grey, maps.mix[:, :, None], x).view(total, channels, *size)
        views = views.clamp_(0, 1)
    return views if maps.erased is None else _erase(views, maps.erased)


def _separable(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows @ image @ columns^T for every image and channel."""
    n, channels, height, width = pixels.shape
    pixels = torch.bmm(pixels.reshape(n, channels * height, width), columns.mT)
    return torch.matmul(rows[:, None], pixels.view(n, channels, height, -1))


def _resize_matrices(maps: Maps, n_in: tuple[int, int], n_out: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return weights (V, n_out, n_in) of crop and antialiased bilinear resize along rows and columns."""
    device = maps.lines.device
    start, step, last, sign, reach = maps.lines[..., None, None].unbind(dim=2)
    # Rounded as on the CPU, hence two steps.
    centre = start + step * torch.addcmul(last, sign, _middles(max(n_out), device)[:, None])
    weight = (_middles(max(n_in), device) - centre).div_(reach)
    weight = weight.abs_().neg_().add_(1.0).clamp_(min=0.0).mul_(maps.inside[:, :, None])
    weight = weight.div_(weight.sum(dim=3, keepdim=True))
    # Rows of the shorter axis that are left out may be no numbers.
    rows, columns = (weight[k, :, : n_out[k], : n_in[k]] for k in range(2))
    return rows, columns


@cache
def _middles(n: int, device: torch.device) -> Tensor:
    """Return the middles of n pixels, made once on each device."""
    with torch.inference_mode(False):
        return torch.arange(n, device=device) + 0.5


def _resize_taps(start: Tensor, length: Tensor, n_in: int, n_out: int, flip: Tensor | None = None) -> _Taps:
    """Return indices and weights (N, T, n_out) of crop and antialiased bilinear resize along one axis."""
    centre, support = _resize_centres(start, length, n_out, flip)
    # An open interval of twice the support contains so many pixels at most.
    n_taps = math.ceil(2 * max(1.0, n_in / n_out))
    first = (centre - support).sub_(0.5).floor_().add_(1.0)
    pixel = first[:, None] + torch.arange(n_taps, dtype=torch.float32)[:, None]
    weight = _triangle(pixel, centre[:, None], support, start, length, dim=1)
    return pixel.clamp_(0, n_in - 1).to(torch.int32), weight


def _bicubic_taps(start: Tensor, length: Tensor, n_in: int, n_out: int, flip: Tensor | None = None) -> _Taps:
    """Return indices and weights (N, 4, n_out) of crop and TensorFlow's bicubic resize along one axis."""
    out = torch.arange(n_out, dtype=torch.float32)
    if flip is not None:
        out = torch.where(flip[:, None], n_out - 1 - out, out)
    index, weight = bicubic_taps(start[:, None], length[:, None], out * (length / n_out)[:, None])
    return index.transpose(0, 1).to(torch.int32), weight.transpose(0, 1).contiguous()


def _bicubic_matrices(maps: Maps, n_in: tuple[int, int], n_out: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return weights (V, n_out, n_in) of crop and TensorFlow's bicubic resize along rows and columns."""
    found = []
    for k in range(2):
        start, step, last, sign, _ = maps.lines[k, :, :, None].unbind(dim=1)
        middle = last + sign * _middles(n_out[k], maps.lines.device)
        found.append(bicubic_matrices(start, (step * n_out[k]).round(), (middle - 0.5) * step, n_in[k]))
    return found[0], found[1]


def _resize_centres(start: Tensor, length: Tensor, n_out: int, flip: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the centre (N, n_out) of the filter of every output pixel, and half of its width (N, 1)."""
    out = torch.arange(n_out, device=start.device) + 0.5
    scale = (length / n_out)[:, None]
    if flip is not None:
        out = torch.where(flip[:, None], n_out - out, out)
    return start[:, None] + out * scale, scale.clamp(min=1.0)


def _triangle(
    pixel: Tensor, centre: Tensor, support: Tensor, start: Tensor, length: Tensor, dim: int
) -> Tensor:
    """Return weights of pixels in the filter of Pillow and of torchvision's ``antialias=True``.

    It is as wide as the downscaling, cut at the edges of the crop, normalised along a dimension.
    """
    start, end, support = start[:, None, None], (start + length)[:, None, None], support[:, None]
    weight = (pixel + 0.5 - centre).div_(support).abs_().neg_().add_(1.0)
    weight = weight.clamp_(min=0.0).mul_((pixel >= start) & (pixel < end))
    return weight.div_(weight.sum(dim=dim, keepdim=True))


def _gauss_kernels(sigma: Tensor, size: tuple[int, int], n: int, padded: bool) -> Tensor:
    """Return weights (N, R + 1) of a Gaussian blur at the distances 0 to R; sigma 0 is the identity.

    R is less than n unless edges are `padded` with zeros.
    """
    radius = min(size) // 20 if padded else min(max(1, min(size) // 20), n - 1)
    distance = torch.arange(radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2)
    # The weight at distance 0 is 1 and stands once, the others twice.
    return kernel.div_(2 * kernel.sum(dim=1, keepdim=True) - 1)


def _blur_taps(sigma: Tensor, size: tuple[int, int], n: int, padded: bool) -> _Taps:
    """Return indices (T, n) and weights (N, T, 1 or n) of a Gaussian blur along one axis.

    Edges are reflected, or beyond them are zeros if they are `padded`.
    """
    kernel = _gauss_kernels(sigma, size, n, padded)
    distance = torch.arange(1 - kernel.shape[1], kernel.shape[1])
    place = torch.arange(n) + distance[:, None]
    index = place.clamp(0, n - 1) if padded else torch.minimum(place.abs(), 2 * (n - 1) - place.abs())
    distance = distance.abs_()
    weight = kernel[:, distance].mul_(distance <= _GAUSS_REACH * sigma[:, None])[:, :, None]
    return index.to(torch.int32), weight * (index == place) if padded else weight


def _blur_matrix(kernels: Tensor, n: int, padded: bool) -> Tensor:
    """Return weights (V, n, n) of Gaussian blurs along one axis, edges as `_blur_taps` has."""
    return (kernels @ _meetings(n, kernels.shape[1], kernels.device, padded)).view(-1, n, n)


@cache
def _meetings(n: int, distances: int, device: torch.device, padded: bool) -> Tensor:
    """Return how often (distances, n * n) one of n pixels is met at each distance from another."""
    with torch.inference_mode(False):
        row, column = torch.arange(n)[:, None], torch.arange(n)
        distance = torch.arange(distances).view(-1, 1, 1)
        met = (distance == (row - column).abs()).float()
        if padded:
            return met.flatten(1).to(device)
        # A pixel other than the first and the last is also met as its own mirror image.
        met[:, :, 1:] += distance == row + column[1:]
        met[:, :, :-1] += distance == 2 * (n - 1) - row - column[:-1]
        if n == 1:  # its mirror images are itself, on both sides
            met[1:] = 2.0
        return met.flatten(1).to(device)


def _color_matrices(draws: Draws) -> Tensor:
    """Return saturation, hue and greyscale of each view as one matrix (N, 3, 3), which keeps the luma."""
    chroma = torch.where(draws.grayscale, 0.0, draws.saturation)
    # A positive hue shift of HSV, red towards yellow, turns (I, Q) clockwise.
    angle = -2 * math.pi * draws.hue
    cos, sin = chroma * torch.cos(angle), chroma * torch.sin(angle)
    entries = [cos * _COSINE[i][j] + sin * _SINE[i][j] + _KEPT[i][j] for i in range(3) for j in range(3)]
    return torch.stack(entries, dim=1).view(-1, 3, 3)


def _contrasted(views: Tensor, contrast: Tensor) -> Tensor:
    """Blend every view with its mean grey level."""
    grey = _luma(views.mean(dim=(2, 3), keepdim=True))
    contrast = contrast.view(-1, 1, 1, 1)
    # Not addcmul: with a factor for each view it is slower than two operations.
    return views.mul_(contrast).add_((1 - contrast) * grey)


def _luma(views: Tensor) -> Tensor:
    """Return the grey level of every pixel: the luma of three channels, the mean of any other number."""
    if views.shape[1] != 3:
        return views.mean(dim=1, keepdim=True)
    red, green, blue = (views[:, c : c + 1] for c in range(3))
    return torch.add(red * _LUMA[0], green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _is_googles(implementation: str) -> bool:
    return implementation.startswith("google")


def _colored(views: Tensor, draws: Draws, implementation: str) -> Tensor:
    """Apply the colour operations one after the other."""
    if _is_googles(implementation):
        return google_colors(views, draws, additive=implementation == "google_v1")
    return _torchvision_colors(views, draws)


def _torchvision_colors(views: Tensor, draws: Draws) -> Tensor:
    """Apply torchvision's operations in a drawn order, clip after each, and turn the hue in HSV."""
    channels = views.shape[1]
    views = views.clamp(0, 1)
    factors = torch.stack([draws.brightness, draws.contrast, draws.saturation], dim=1)
    for position in range(4):
        turn = draws.order[:, position].view(-1, 1, 1, 1)
        # Three of the operations blend the view with black, its mean grey level and its grey levels.
        blends = turn < 3 if channels == 3 else turn < 2
        factor = factors.gather(1, turn.view(-1, 1).clamp(max=2)).view(-1, 1, 1, 1)
        factor = torch.where(blends, factor, 1.0)
        luma = _luma(views)
        other = torch.where(turn == 1, luma.mean(dim=(2, 3), keepdim=True), luma)
        other = torch.where(turn == 0, 0.0, other)
        views = (views * factor).add_((1 - factor) * other).clamp_(0, 1)
        if channels == 3:
            views = _turned_where(turn == 3, views, draws.hue.view(-1, 1, 1))
    if channels == 3:
        views = torch.where(draws.grayscale.view(-1, 1, 1, 1), _luma(views), views)
    return views


def _turned_where(chosen: Tensor, views: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of the chosen views."""
    if not is_cpu(views.device) or views.requires_grad:
        # All are turned: on an accelerator, choosing some would wait for their number.
        return torch.where(chosen, _turned(views, shift), views)
    chosen = chosen.flatten().nonzero()[:, 0]
    views[chosen] = _turned(views[chosen], shift[chosen])
    return views


def _turned(views: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by a fraction of the colour circle in HSV space."""
    value, chroma, hue = to_hue(views)
    return from_hue(value, chroma, hue + 6 * shift)
