"""Residual networks of the SimCLR papers: wide, with selective kernels, with a stem for small images."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ResNet"]

# He et al. 2016, table 1: blocks per stage. True: bottleneck blocks, False: basic blocks.
_STAGES = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
_STEMS = ("imagenet", "medium", "small", "padded")
_WITHOUT_POOL = ("small", "padded")
_POOL_PADDINGS = ("symmetric", "same")

# Channels of the first stage at width 1.
BASE_CHANNELS = 64

# The mixing layer of the authors' selective kernels never gets narrower than this.
_SK_MIN_CHANNELS = 32

# A normal variable cut at two standard deviations keeps this share of its standard deviation.
_TRUNCATED_STD = 0.87962566103423978


class ResNet(nn.Module):
    """Residual network that turns images into globally pooled features.

    The network of SimCLR and SimCLRv2: the stride of a bottleneck sits in its 3x3 convolution, the width
    multiplies the channels of every layer, and the last BatchNorm of a block starts at zero, so that a new
    network is its shortcuts only. Without selective kernels, the names and shapes of the state dict are those
    of torchvision's networks without ``fc``, so weights can be exchanged.

    Convolutions are drawn as in the authors' code: normal, cut at two standard deviations, of variance
    ``1 / fan_in``. torchvision draws with variance ``2 / fan_out``; in front of a BatchNorm the two differ in
    the relative step size only. The draws come from torch's global generator.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
        Number of layers. 18 and 34 have blocks of two 3x3 convolutions, the others have bottlenecks.
    width : int, default=1
        Factor on the channels of every layer, >= 1. The papers use 1, 2, 3 and 4.
    in_channels : int, default=3
        Channels of the images, >= 1.
    stem : {"imagenet", "medium", "small", "padded"}, default="imagenet"
        How the network begins. "imagenet": a 7x7 convolution of stride 2 and a max-pool of stride 2. "small":
        one 3x3 convolution of stride 1, no max-pool, the authors' choice for sides up to 32. "medium": a 3x3
        convolution of stride 1 and the max-pool, for sides a little above; it is not in the papers. "padded":
        "small" with two pixels of padding instead of one, as solo-learn has it for CIFAR.
    sk_ratio : float, default=0.0
        In [0, 1]. Above 0, selective kernels take the place of the 3x3 convolution that carries the stride,
        and their mixing layer has ``max(int(sk_ratio * channels), 32)`` channels; SimCLRv2 uses 1/16. The
        network then is a ResNet-D also: a stem of three 3x3 convolutions (unless ``stem`` is "small"
        or "padded"), and an average pool before the 1x1 convolution of a shortcut.
    zero_init_residual : bool, default=True
        Whether the last BatchNorm of each block starts with a gain of 0 rather than 1.
    pool_padding : {"symmetric", "same"}, default="symmetric"
        Padding of the max-pool: "symmetric" is torchvision's, one pixel on each side. "same" is TensorFlow's,
        which for an even side pads right and bottom only; the authors' weights were trained with it.
    convolve_first : bool, default=False
        Whether depth 18 and 34 without selective kernels have a convolution in the shortcut of the very first
        block, as in the authors' code. The other networks have one anyway.

    Attributes
    ----------
    out_dim : int
        Number of features: ``512 * width`` for depth 18 and 34, ``2048 * width`` for the others.
    options : dict
        The parameters that make a network of the same shape and function; plain numbers and strings.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    TypeError
        If `width`, `in_channels` or `sk_ratio` is not a number of the kind asked for.

    Notes
    -----
    The forward pass takes float images (n, in_channels, H, W) of any H and W >= 1, and returns (n, out_dim).

    In the first block of depth 18 and 34 the authors convolve the shortcut and torchvision does not: networks
    without selective kernels follow torchvision unless `convolve_first`, those with them follow the authors.
    The authors' code gives depth 18 and 34 a ResNet-D but no selective kernels; here these replace the first
    3x3 convolution of a block, as in timm's ``skresnet18``.

    Without the final linear layer, ResNet-50 has 24, 94 and 375 million parameters at width 1, 2 and 4, and
    ResNet-152 of width 3 with selective kernels has 795 million ([2]_, table 1).

    References
    ----------
    .. [1] Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
       arXiv:2002.05709, sections 4.1 and 6, appendix B.9.
    .. [2] Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", arXiv:2006.10029,
       section 2 and table 1.
    .. [3] He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
    .. [4] He et al., "Bag of Tricks for Image Classification with CNNs", arXiv:1812.01187 (ResNet-D).
    .. [5] Li et al., "Selective Kernel Networks", arXiv:1903.06586.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders.resnet import ResNet
    >>> net = ResNet(18, stem="small").eval()
    >>> net.out_dim
    512
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 512])
    """

    out_dim: int
    options: dict[str, Any]
    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        depth: int,
        *,
        width: int = 1,
        in_channels: int = 3,
        stem: str = "imagenet",
        sk_ratio: float = 0.0,
        zero_init_residual: bool = True,
        pool_padding: str = "symmetric",
        convolve_first: bool = False,
    ) -> None:
        super().__init__()
        _check_choice("depth", depth, tuple(_STAGES))
        _check_positive_int("width", width)
        _check_positive_int("in_channels", in_channels)
        _check_choice("stem", stem, _STEMS)
        _check_choice("pool_padding", pool_padding, _POOL_PADDINGS)
        if not isinstance(sk_ratio, Real) or isinstance(sk_ratio, bool):
            raise TypeError(f"sk_ratio must be a number between 0 and 1, got {sk_ratio!r}.")
        if not 0 <= sk_ratio <= 1:
            raise ValueError(
                f"sk_ratio must lie in [0, 1], got {sk_ratio!r}; pass 0, or 1/16 as SimCLRv2 does."
            )

        self.options = {
            "depth": int(depth),
            "width": int(width),
            "in_channels": int(in_channels),
            "stem": stem,
            "sk_ratio": float(sk_ratio),
            "pool_padding": pool_padding,
            "convolve_first": bool(convolve_first),
        }
        bottleneck, blocks = _STAGES[depth]
        block_type = _Bottleneck if bottleneck else _BasicBlock
        channels = BASE_CHANNELS * width
        self.conv1 = _stem_convolution(in_channels, channels, stem, deep=sk_ratio > 0)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        if stem in _WITHOUT_POOL:
            self.maxpool: nn.Module = nn.Identity()
        elif pool_padding == "same":
            self.maxpool = _SameMaxPool()
        else:
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        entering = channels
        for stage, n_blocks in enumerate(blocks):
            inner = channels * 2**stage
            layers = []
            for i in range(n_blocks):
                stride = 2 if i == 0 and stage > 0 else 1
                first = i == 0 and (sk_ratio > 0 or convolve_first)
                layers.append(block_type(entering, inner, stride, first=first, sk_ratio=sk_ratio))
                entering = inner * block_type.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.out_dim = entering
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _draw_truncated_normal(module.weight, variance=1 / module.weight[0].numel())
            elif isinstance(module, _Block) and zero_init_residual:
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (n, out_dim) of float images (n, in_channels, H, W)."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return maps.mean(dim=(2, 3))


class _Block(nn.Module):
    """Base of both kinds of block: ``relu(residual(x) + shortcut(x))``."""

    expansion: int

    def __init__(self, entering: int, inner: int, stride: int, *, first: bool, sk_ratio: float) -> None:
        super().__init__()
        leaving = inner * self.expansion
        # The authors convolve the first shortcut of every stage; torchvision only one whose shape changes.
        convolve = first or stride > 1 or entering != leaving
        self.downsample = None
        if convolve and sk_ratio > 0:
            pool = _avg_pool(stride)
            self.downsample = nn.Sequential(pool, _conv(entering, leaving, 1), nn.BatchNorm2d(leaving))
        elif convolve:
            self.downsample = nn.Sequential(_conv(entering, leaving, 1, stride), nn.BatchNorm2d(leaving))
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        raise NotImplementedError

    def residual(self, maps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return self.relu(self.residual(maps) + shortcut)


class _BasicBlock(_Block):
    """Two 3x3 convolutions, the stride in the first."""

    expansion = 1

    def __init__(self, entering: int, inner: int, stride: int, *, first: bool, sk_ratio: float) -> None:
        super().__init__(entering, inner, stride, first=first, sk_ratio=sk_ratio)
        self.conv1, self.bn1, self.relu1 = _strided_convolution(entering, inner, stride, sk_ratio)
        self.conv2 = _conv(inner, inner, 3)
        self.bn2 = nn.BatchNorm2d(inner)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def residual(self, maps: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(maps)))))


class _Bottleneck(_Block):
    """1x1, 3x3 with the stride, 1x1 to four times the channels."""

    expansion = 4

    def __init__(self, entering: int, inner: int, stride: int, *, first: bool, sk_ratio: float) -> None:
        super().__init__(entering, inner, stride, first=first, sk_ratio=sk_ratio)
        self.conv1 = _conv(entering, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2, self.bn2, self.relu2 = _strided_convolution(inner, inner, stride, sk_ratio)
        self.conv3 = _conv(inner, 4 * inner, 1)
        self.bn3 = nn.BatchNorm2d(4 * inner)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def residual(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.bn1(self.conv1(maps)))
        maps = self.relu2(self.bn2(self.conv2(maps)))
        return self.bn3(self.conv3(maps))


class _SelectiveKernel(nn.Module):
    """Two 3x3 convolutions of the same input, mixed per channel by weights that depend on the image.

    As in the authors' code both streams have the plain 3x3 kernel; Li et al. dilate the second one.
    """

    def __init__(self, entering: int, leaving: int, stride: int, sk_ratio: float) -> None:
        super().__init__()
        mixing = max(int(leaving * sk_ratio), _SK_MIN_CHANNELS)
        self.conv = _conv(entering, 2 * leaving, 3, stride)
        self.bn = nn.BatchNorm2d(2 * leaving)
        self.reduce = _conv(leaving, mixing, 1)
        self.bn_reduce = nn.BatchNorm2d(mixing)
        self.expand = _conv(mixing, 2 * leaving, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        first, second = self.relu(self.bn(self.conv(maps))).chunk(2, dim=1)
        context = (first + second).mean(dim=(2, 3), keepdim=True)
        context = self.relu(self.bn_reduce(self.reduce(context)))
        logit_first, logit_second = self.expand(context).chunk(2, dim=1)
        # A softmax over two streams is a sigmoid of their difference, and its weighted sum a lerp: no copies.
        return torch.lerp(second, first, torch.sigmoid(logit_first - logit_second))


class _SameMaxPool(nn.Module):
    """3x3 max-pool of stride 2 with TensorFlow's SAME padding."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        before_h, before_w = maps.shape[-2] % 2, maps.shape[-1] % 2
        # Zeros serve as padding because the maps come out of a ReLU.
        return F.max_pool2d(F.pad(maps, (before_w, 1, before_h, 1)), 3, stride=2)


def _avg_pool(stride: int) -> nn.Module:
    """Return the 2x2 average pool of a ResNet-D shortcut, with the edges of the authors' code.

    At stride 2 the authors pad right and bottom with zeros that count in the mean. At stride 1 (SAME) their
    padding does not count, to which a repeated last row and column amount.
    """
    if stride == 1:
        return nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1))
    return nn.AvgPool2d(2, stride=stride, ceil_mode=True, divisor_override=4)


def _conv(entering: int, leaving: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(entering, leaving, kernel, stride=stride, padding=kernel // 2, bias=False)


def _strided_convolution(
    entering: int, leaving: int, stride: int, sk_ratio: float
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return convolution, norm and activation; selective kernels contain the latter two."""
    if sk_ratio > 0:
        return _SelectiveKernel(entering, leaving, stride, sk_ratio), nn.Identity(), nn.Identity()
    return _conv(entering, leaving, 3, stride), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True)


def _stem_convolution(in_channels: int, channels: int, stem: str, *, deep: bool) -> nn.Module:
    if stem in _WITHOUT_POOL:
        return nn.Conv2d(in_channels, channels, 3, padding=1 if stem == "small" else 2, bias=False)
    stride = 2 if stem == "imagenet" else 1
    if not deep:
        return _conv(in_channels, channels, 7 if stem == "imagenet" else 3, stride)
    half = channels // 2
    return nn.Sequential(
        _conv(in_channels, half, 3, stride),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        _conv(half, half, 3),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        _conv(half, channels, 3),
    )


@torch.no_grad()
def _draw_truncated_normal(weight: torch.Tensor, variance: float) -> None:
    """Fill `weight` from a normal cut at two standard deviations, whose variance after the cut is given.

    Redrawing the few numbers that lie outside takes a fifth of the time of torch's ``trunc_normal_``, which
    takes over a second for a ResNet-50.
    """
    flat = weight.normal_().view(-1)
    # A tensor on the meta device has a shape, but no values to look at.
    outside = None if weight.is_meta else (flat.abs() > 2).nonzero().squeeze(1)
    while outside is not None and len(outside):
        draws = flat.new_empty(len(outside)).normal_()
        flat[outside] = draws
        outside = outside[draws.abs() > 2]
    weight.mul_(math.sqrt(variance) / _TRUNCATED_STD)


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _check_positive_int(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
