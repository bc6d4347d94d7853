"""Preprocess images for a pretrained network, and join the preprocessing and the network."""

from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .traits import traits

__all__ = ["PreprocessedNetwork", "Preprocessing", "input_channels"]

# Pixels of a forward in evaluation mode, and the fewest images: small images, which the preprocessing may
# enlarge, come in batches that are too large for the network.
_PIXELS = 64 * 32 * 32
_PIXELS_GPU = 1024 * 32 * 32
_FEWEST = 16


_MODES = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of images before they enter a pretrained network; call it on a batch.

    The central square of `crop_fraction` of the shorter side is cut out, resized to the side the network was
    trained with, clipped to [0, 1] and, if there are a mean and a standard deviation, normalised.

    Parameters
    ----------
    size : int, default=224
        Side of the result in pixels, >= 1.
    crop_fraction : float, default=0.875
        Side of the square over the shorter side of the image, in (0, 1].
    interpolation : {"bicubic", "bilinear"}, default="bicubic"
        Kernel of the resize.
    antialias : bool, default=True
        Whether the kernel is widened where the image shrinks. The authors' resize did not; photographs much
        larger than `size` need it.
    mean : tuple of float or None, default=None
        Subtracted from each channel of images in [0, 1]. None, as in SimCLR, subtracts nothing.
    std : tuple of float or None, default=None
        What each channel is then divided by, > 0.

    Raises
    ------
    TypeError
        If a parameter is not of its type.
    ValueError
        If a parameter is out of its range, or only one of `mean` and `std` is given.

    See Also
    --------
    load_pretrained : Weights together with their preprocessing.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, appendix B; github.com/google-research/simclr, data_util.py.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import Preprocessing
    >>> photographs = torch.randint(0, 256, (2, 3, 120, 160), dtype=torch.uint8)
    >>> Preprocessing(size=96)(photographs).shape
    torch.Size([2, 3, 96, 96])
    """

    size: int = 224
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    antialias: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.size, Integral) or isinstance(self.size, bool):
            raise TypeError(f"size must be an int, got {self.size!r}.")
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}.")
        if not _is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be a number in (0, 1], got {self.crop_fraction!r}.")
        if self.interpolation not in _MODES:
            raise ValueError(f"interpolation must be one of {_MODES}, got {self.interpolation!r}.")
        if not isinstance(self.antialias, bool):
            raise TypeError(f"antialias must be a bool, got {self.antialias!r}.")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must both be given, or neither.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not isinstance(values, (tuple, list)) or not values or not all(map(_is_number, values)):
                raise TypeError(f"{name} must be a tuple of one number per channel, got {values!r}.")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.std is not None and (min(self.std) <= 0 or len(self.std) != len(self.mean)):
            raise ValueError(f"std must be positive, one per channel as mean; got {self.std}.")

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
        batch : torch.Tensor of shape (n, channels, size, size)
            Float32, on the same device.

        Raises
        ------
        TypeError
            If `images` is no tensor of uint8 or floats.
        ValueError
            If it has another shape, the channels do not fit, or floats lie outside [0, 1].
        """
        images = _check_batch(images, channels, self.mean)
        height, width = (int(side) for side in images.shape[-2:])  # a graph's sizes may be tensors
        side = max(1, round(self.crop_fraction * min(height, width)))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        crop = images[..., top : top + side, left : left + side]
        batch = crop.float() / 255 if crop.dtype == torch.uint8 else crop.float()
        if side != self.size:
            batch = F.interpolate(
                batch, (self.size, self.size), mode=self.interpolation, antialias=self.antialias
            ).clamp(0, 1)
        batch = batch.expand(-1, channels, -1, -1)
        if self.mean is not None:
            mean, std = batch.new_tensor(self.mean), batch.new_tensor(self.std)
            batch = (batch - mean[:, None, None]) / std[:, None, None]
        return batch.contiguous()


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_batch(images: Tensor, channels: int, mean: tuple[float, ...] | None) -> Tensor:
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images must be a torch.Tensor (n, C, H, W), got {type(images).__name__}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8, or floats in [0, 1]; got {images.dtype}.")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have the shape (n, C, H, W), got {tuple(images.shape)}.")
    if images.shape[1] not in (1, channels):
        raise ValueError(f"images have {images.shape[1]} channels, and the network takes {channels}.")
    if mean is not None and len(mean) != channels:
        raise ValueError(f"mean has {len(mean)} numbers, and the network takes {channels} channels.")
    # What is traced or compiled has no values to look at.
    if images.is_floating_point() and not torch.compiler.is_compiling() and images.numel():
        low, high = (value.item() for value in torch.aminmax(images))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"float images must lie in [0, 1], got values from {low:g} to {high:g}.")
    return images


class PreprocessedNetwork(nn.Module):
    """A network with what images go through before they enter it: one module that takes images of any size.

    Parameters
    ----------
    network : torch.nn.Module
        Preprocessed images to representations (n, out_dim).
    preprocessing : Preprocessing
        What comes first.

    Attributes
    ----------
    out_dim : int
        Width of the representation.
    traits : Traits
        Those of the network.
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
        # In another memory format a resize rounds otherwise. Convolutions take that of their weights.
        images = images.contiguous()
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._represent(images)
        pixels = _PIXELS if images.device.type == "cpu" else _PIXELS_GPU
        rows = max(_FEWEST, pixels // self.preprocessing.size**2)
        done: list[Tensor] = []
        black: dict[int, Tensor] = {}
        for part in images.split(rows):
            if part.any():
                done.append(self._represent(part))
            else:
                # What fills up a last batch is black: of one small image there is a lot of it.
                if len(part) not in black:
                    black[len(part)] = self._represent(part)
                done.append(black[len(part)])
        return torch.cat(done)

    def extra_repr(self) -> str:
        """Return the preprocessing as it is shown."""
        return repr(self.preprocessing)

    def _represent(self, images: Tensor) -> Tensor:
        return self.network(self.preprocessing(images, channels=self.channels))


def input_channels(network: nn.Module) -> int:
    """Return the number of channels that a network of this package takes.

    Parameters
    ----------
    network : torch.nn.Module
        One that begins with a convolution.

    Returns
    -------
    channels : int
        At least 1.
    """
    return next(part for part in network.modules() if isinstance(part, nn.Conv2d)).in_channels
