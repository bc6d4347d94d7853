"""Preprocess images for a pretrained network, and join the preprocessing and the network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._utils.devices import by_kind, is_cpu
from .traits import traits

__all__ = ["PreprocessedNetwork", "Preprocessing", "input_channels", "network_of_views", "view_size"]

# Pixels of a forward pass in evaluation mode, and its fewest images: a batch of small images, which the
# preprocessing may enlarge, is too large for the network.
_PIXELS = 64 * 32 * 32
_PIXELS_GPU = 1024 * 32 * 32
_FEWEST = 4


_MODES = ("bicubic", "bilinear")
_FITS = ("crop", "resize", "squash", "border")


@dataclass(frozen=True)
class Preprocessing:
    """Preprocess a batch of images as a pretrained network expects.

    Images are brought to the size that the network was trained with, clipped to [0, 1] and, if there are a
    mean and a standard deviation, normalised.

    Parameters
    ----------
    size : int or (int, int), default=224
        Side of the result, or its height and width, in pixels, >= 1.
    crop_fraction : float, default=0.875
        Part of the image's extent that is in the result, in (0, 1].
    interpolation : {"bicubic", "bilinear"}, default="bicubic"
        Kernel of the resize.
    antialias : bool, default=True
        Whether the kernel is widened where the image shrinks. The authors' resize did not; photographs much
        larger than `size` need it.
    mean : tuple of float or None, default=None
        Subtracted from each channel of images in [0, 1]. None, as in SimCLR, subtracts nothing.
    std : tuple of float or None, default=None
        What each channel is then divided by, > 0.
    fit : {"crop", "resize", "squash", "border"}, default="crop"
        How images of other shapes come to that of the result.

        - ``"crop"``, as SimCLR's authors do: cut out the largest rectangle of its shape in the centre, times
          `crop_fraction`, and resize that.
        - ``"resize"``, as torchvision and most networks of timm do: resize the image, its aspect kept, until
          it just covers ``size / crop_fraction``, and cut out the centre.
        - ``"squash"``: resize the image to ``size / crop_fraction`` whatever its aspect, and cut out the
          centre.
        - ``"border"``: resize the image, its aspect kept, until it just fits into ``size / crop_fraction``,
          and cut out the centre; what is missing gets the colour `mean`, or black.

    Raises
    ------
    TypeError
        If a parameter is not of its type.
    ValueError
        If a parameter is out of its range, or only one of `mean` and `std` is given.

    See Also
    --------
    sklearn_simclr.load_pretrained : Weights together with their preprocessing.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, appendices B.5 and B.8; github.com/google-research/simclr,
    data_util.py.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import Preprocessing
    >>> photographs = torch.randint(0, 256, (2, 3, 120, 160), dtype=torch.uint8)
    >>> Preprocessing(size=96)(photographs).shape
    torch.Size([2, 3, 96, 96])
    """

    size: int | tuple[int, int] = 224
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    antialias: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: str = "crop"

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,)
        if len(sides) not in (1, 2) or not all(
            isinstance(side, Integral) and not isinstance(side, bool) for side in sides
        ):
            raise TypeError(f"size must be an int or a pair of ints, (height, width), got {self.size!r}.")
        if min(sides) < 1:
            raise ValueError(f"size must be at least 1, got {self.size}.")
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))  # as JSON has it
        if not _is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be a number in (0, 1], got {self.crop_fraction!r}.")
        if self.interpolation not in _MODES:
            raise ValueError(f"interpolation must be one of {_MODES}, got {self.interpolation!r}.")
        if self.fit not in _FITS:
            raise ValueError(f"fit must be one of {_FITS}, got {self.fit!r}.")
        if not isinstance(self.antialias, bool):
            raise TypeError(f"antialias must be a bool, got {self.antialias!r}.")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"Pass both mean and std, or neither; got mean={self.mean}, std={self.std}.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not isinstance(values, (tuple, list)) or not values or not all(map(_is_number, values)):
                raise TypeError(f"{name} must be a tuple of one number per channel, got {values!r}.")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.mean and self.std and (min(self.std) <= 0 or len(self.std) != len(self.mean)):
            raise ValueError(
                f"std must hold one positive number per channel, as many as mean; got std={self.std} and "
                f"mean={self.mean}."
            )

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the result.

        Returns
        -------
        (int, int)
            In pixels.
        """
        height, width = self.size if isinstance(self.size, tuple) else (self.size,) * 2
        return height, width

    def of_views(self) -> "Preprocessing":
        """Return the preprocessing for random views, of which nothing is cut off.

        Returns
        -------
        Preprocessing
            Resizes the whole view to the same size, and normalises the same.
        """
        return replace(self, crop_fraction=1.0, fit="squash")

    def with_channels(self, channels: int) -> "Preprocessing":
        """Return the preprocessing for images of another number of channels.

        Parameters
        ----------
        channels : int
            That number.

        Returns
        -------
        Preprocessing
            With the average of `mean` and of `std` for every channel.
        """
        if self.mean is None or self.std is None:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)

    def __call__(self, images: Tensor, *, channels: int = 3) -> Tensor:
        """Return the batch as the network takes it.

        Parameters
        ----------
        images : torch.Tensor of shape (n, C, H, W)
            Images, uint8 or floats in [0, 1], on any device. Grey images (C = 1) are repeated if the network
            takes more channels.
        channels : int, default=3
            Channels that the network takes, >= 1.

        Returns
        -------
        batch : torch.Tensor of shape (n, channels, height, width)
            Float32, on the same device.

        Raises
        ------
        TypeError
            If `images` is no tensor of uint8 or floats.
        ValueError
            If it has another shape, the channels do not fit, or floats lie outside [0, 1].
        """
        images = _check_batch(images, channels, self.mean)
        # Traced or compiled code has no values to look at.
        if images.is_floating_point() and not torch.compiler.is_compiling() and images.numel():
            low, high = (value.item() for value in torch.aminmax(images))
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"float images must lie in [0, 1], got values from {low:g} to {high:g}. Scale them, or "
                    "pass uint8."
                )
        return self._apply(images, channels)

    def _apply(self, images: Tensor, channels: int) -> Tensor:
        """Return the batch as the network takes it; the images are known to be right."""
        if self.fit == "crop":
            batch = self._resized(self._cropped(images), self.sides)
        else:
            batch = self._central(self._resized(images, self._covering(images.shape[-2:])))
        batch = batch.expand(-1, channels, -1, -1)
        if self.mean is not None:
            mean, std = (_of_channels(numbers, batch) for numbers in (self.mean, self.std))
            batch = (batch - mean) / std
        if self.fit == "border":
            # Normalised, the mean colour is zero.
            below, right = (side - int(n) for side, n in zip(self.sides, batch.shape[-2:], strict=True))
            batch = F.pad(batch, (right // 2, right - right // 2, below // 2, below - below // 2))
        return batch.contiguous()

    def _cropped(self, images: Tensor) -> Tensor:
        """Cut out the part that is to be resized."""
        height, width = (int(side) for side in images.shape[-2:])  # a graph's sizes may be tensors
        high, wide = self.sides
        h = max(1, round(self.crop_fraction * min(height, width * high / wide)))
        w = max(1, round(self.crop_fraction * min(width, height * wide / high)))
        top, left = (height - h + 1) // 2, (width - w + 1) // 2
        return images[..., top : top + h, left : left + w]

    def _covering(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return height and width that an image is resized to, before its centre is cut out."""
        height, width = (int(side) for side in shape)
        high, wide = (round(side / self.crop_fraction) for side in self.sides)
        if self.fit == "squash":
            return high, wide
        choose = max if self.fit == "resize" else min
        if self.fit == "resize" and high == wide:
            # The longer side is cut, not rounded, to whole pixels: torchvision's Resize of one side.
            return (high, high * width // height) if height <= width else (wide * height // width, wide)
        factor = choose(high / height, wide / width)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def _resized(self, images: Tensor, sides: tuple[int, int]) -> Tensor:
        batch = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if (int(images.shape[-2]), int(images.shape[-1])) == sides:
            return batch
        return F.interpolate(batch, sides, mode=self.interpolation, antialias=self.antialias).clamp(0, 1)

    def _central(self, batch: Tensor) -> Tensor:
        """Cut out the centre."""
        high, wide = self.sides
        top, left = (
            max(0, round((int(n) - side) / 2)) for side, n in zip((high, wide), batch.shape[-2:], strict=True)
        )
        return batch[..., top : top + high, left : left + wide]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _of_channels(numbers: Sequence[float] | None, like: Tensor) -> Tensor:
    """Return one number for each channel, (C, 1, 1), where a batch is."""
    numbers = tuple(numbers or ())
    # Traced or compiled code makes its own tensor.
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return like.new_tensor(numbers)[:, None, None]
    return _made_of(numbers, like.device)


@lru_cache(maxsize=64)
def _made_of(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device; the host waits for them the first time only."""
    with torch.inference_mode(False):
        return torch.tensor(numbers).to(device)[:, None, None]


def _check_batch(images: Tensor, channels: int, mean: tuple[float, ...] | None) -> Tensor:
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images must be a torch.Tensor (n, C, H, W), got {type(images).__name__}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8, or floats in [0, 1]; got {images.dtype}.")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have the shape (n, C, H, W), got {tuple(images.shape)}.")
    if images.shape[1] not in (1, channels):
        raise ValueError(
            f"images have {images.shape[1]} channels, but the network takes {channels}. Pass images with "
            f"{channels} channels, or grey images."
        )
    if mean is not None and len(mean) != channels:
        raise ValueError(
            f"mean has {len(mean)} numbers, but the network takes {channels} channels. Use one number per "
            "channel."
        )
    return images


class PreprocessedNetwork(nn.Module):
    """A network behind its preprocessing: one module that takes images of any size.

    In training mode it takes random views: they are brought to the size of the network, and nothing is cut
    off.

    Parameters
    ----------
    network : torch.nn.Module
        From preprocessed images to representations (n, out_dim).
    preprocessing : Preprocessing
        What images go through first.

    Attributes
    ----------
    out_dim : int
        Width of the representation.
    traits : Traits
        The traits of `network`.
    """

    out_dim: int

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.channels = input_channels(network)
        self.out_dim = network.out_dim  # type: ignore[assignment]  # torch knows no attributes of modules
        self.traits = traits(network)

    def forward(self, images: Tensor) -> Tensor:
        """Return the representations (n, out_dim) of images (n, C, H, W) in [0, 1]."""
        # In another memory format a resize rounds differently. Convolutions use the format of their weights.
        images = images.contiguous()
        if self.training:
            return self.network(self.preprocessing.of_views()._apply(images, self.channels))
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._represent(images)
        pixels = by_kind(images.device, cpu=_PIXELS, accelerator=_PIXELS_GPU)
        rows = max(_FEWEST, pixels // math.prod(self.preprocessing.sides))
        if not is_cpu(images.device):
            return torch.cat([self._represent(part) for part in images.split(rows)])
        done: list[Tensor] = []
        black: dict[int, Tensor] = {}
        for part in images.split(rows):
            if part.any():
                done.append(self._represent(part))
            else:
                # Black images fill up the last batch: there are many of them if few images are given.
                if len(part) not in black:
                    black[len(part)] = self._represent(part)
                done.append(black[len(part)])
        return torch.cat(done)

    def extra_repr(self) -> str:
        """Return the preprocessing as it is shown."""
        return repr(self.preprocessing)

    def _represent(self, images: Tensor) -> Tensor:
        if is_cpu(images.device):
            return self.network(self.preprocessing(images, channels=self.channels))
        # A look at the values would make the host wait for the device.
        checked = _check_batch(images, self.channels, self.preprocessing.mean)
        return self.network(self.preprocessing._apply(checked, self.channels))


def view_size(network: nn.Module) -> tuple[int, int] | None:
    """Return the size that random views for a network should have.

    Parameters
    ----------
    network : torch.nn.Module
        An encoder.

    Returns
    -------
    (int, int) or None
        Height and width that the network was trained with; None if it takes images as they are.
    """
    return network.preprocessing.sides if type(network) is PreprocessedNetwork else None


def network_of_views(network: nn.Module) -> nn.Module:
    """Return a network for random views in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        An encoder of images.

    Returns
    -------
    network : torch.nn.Module
        `network` itself, or if it has a preprocessing, one with the same weights that cuts nothing off.
    """
    if type(network) is not PreprocessedNetwork:
        return network
    return PreprocessedNetwork(network.network, network.preprocessing.of_views()).train(network.training)


def input_channels(network: nn.Module) -> int:
    """Return the number of channels that a network of this package takes.

    Parameters
    ----------
    network : torch.nn.Module
        A network that has an attribute ``in_channels`` or begins with a convolution.

    Returns
    -------
    channels : int
        At least 1.
    """
    known = getattr(network, "in_channels", None)
    if isinstance(known, int):
        return known
    return next(part for part in network.modules() if isinstance(part, nn.Conv2d)).in_channels
