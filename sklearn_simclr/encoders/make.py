"""Make the module that a user's `encoder` stands for: it turns images into features."""

from __future__ import annotations

import contextlib
import copy
import difflib
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .._utils.devices import is_cpu
from .._utils.seeds import unchanged_generators
from .compact import VIEW_PART, CompactNet
from .preprocessing import PreprocessedNetwork
from .resnet import ResNet

__all__ = ["default_encoder", "make_encoder"]

# Where a residual network may be the default: on an accelerator, from so many views of images on. On a CPU a
# small plain network has learnt better features in any time that a user waits.
_RESNET_VIEWS = 20_000_000

# V1 appendix B.9 (CIFAR-10): no stride and no max-pool at the start of the network.
_SMALL_STEM_MAX_SIDE = 32

# Neither stem of the papers suits these: without stride or max-pool, 64 pixels cost four times as much as 32,
# and the stem for ImageNet leaves 2 x 2 pixels to the last stage.
_MEDIUM_STEM_MAX_SIDE = 64

# V2 section 2 and the command lines of its authors.
_SK_RATIO = 1 / 16

# Torch counts the numbers of an image in 32 bits in many places.
_MOST_NUMBERS = 2**31 - 1

_RESNET = re.compile(r"resnet(18|34|50|101|152)(?:x([234]))?(-sk)?")
_RESNET_NAMES = tuple(
    f"resnet{depth}{width}{kernels}"
    for depth, width, kernels in itertools.product(
        (18, 34, 50, 101, 152), ("", "x2", "x3", "x4"), ("", "-sk")
    )
)
_COMPACT_WIDTHS = {"compact": 1, "compactx0.5": 0.5, "compactx1.5": 1.5, "compactx2": 2, "compactx4": 4}
_TIMM = "timm:"
_FORMS = (
    '"auto", "compact" with an optional width "x0.5|x1.5|x2|x4", "resnet18|34|50|101|152" with an optional '
    'width "x2|x3|x4" and an optional "-sk" (as in "resnet50x2-sk"), "timm:NAME", a torch.nn.Module, or a '
    "callable that returns one"
)


def make_encoder(
    encoder: str | nn.Module | Callable[..., nn.Module],
    in_channels: int,
    image_size: tuple[int, int],
    view_size: tuple[int, int] | None = None,
) -> tuple[nn.Module, int]:
    """Build the encoder that a name, a module or a factory stands for.

    Parameters
    ----------
    encoder : str, torch.nn.Module or callable
        - ``"auto"``: ``"compact"``. Estimators choose by device and length of the training, see
          :class:`~sklearn_simclr.SimCLRTransformer`.
        - ``"compact"``: a small convolutional network that trains in minutes on a CPU; ``"compactx0.5"``,
          ``"compactx1.5"``, ``"compactx2"`` and ``"compactx4"`` are as many times as wide. It shrinks images
          of more than 64 x 64 pixels to so many: larger views cost time and have not taught it more.
        - ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"``, ``"resnet152"``: the papers'
          networks. ``"x2"``, ``"x3"`` or ``"x4"`` multiplies the width and ``"-sk"`` adds selective kernels
          and the changes of ResNet-D, as in ``"resnet152x3-sk"``. If the longer side has at most 32 pixels,
          the network begins as the papers' for small images (3x3, stride 1, no max-pool); from 33 to 64
          pixels, a max-pool follows; above, it begins as for ImageNet (7x7, stride 2, max-pool).
        - ``"timm:NAME"``: the network `NAME` of the package timm, with new weights and without its
          classifier; networks of a fixed input size are built for `image_size`.
        - a module: a deep copy of it, which starts from its present weights. It maps float32 images
          (n, in_channels, H, W) to features (n, n_features), and may have lazy layers.
        - a callable, such as a subclass of ``torch.nn.Module``: called once, with those of the keywords
          ``in_channels`` and ``image_size`` (height, width) that its signature names. It must return a new
          module at each call.
    in_channels : int
        Channels of the images, >= 1.
    image_size : tuple of int
        Height and width of the images in pixels, both >= 1; an image has less than 2**31 numbers.
    view_size : tuple of int or None, default=None
        Height and width of the views that it will be trained on, if they are not left to the network: the
        compact network then works on images that are larger than such views by a third.

    Returns
    -------
    module : torch.nn.Module
        Maps float32 images (n, in_channels, H, W) to features (n, out_dim). Never the object passed as
        `encoder`. If built from a name, it is on torch's default device and in training mode, and its weights
        were drawn from torch's global generator.
    out_dim : int
        Number of features.

    Raises
    ------
    ValueError
        If the name is unknown, if a module or what a factory returned fails on a batch of two images, if its
        output is not a floating 2-D tensor of two rows, if a factory raises, or if `in_channels`,
        `image_size` or `view_size` is out of range.
    TypeError
        If `encoder` is none of the above, if a factory needs other arguments, or if it does not return a
        module.
    ImportError
        If the name asks for timm and it is not installed.

    See Also
    --------
    ProjectionHead : The network on top of the encoder in training.
    sklearn_simclr.load_pretrained : Reads an encoder that was trained elsewhere.

    Notes
    -----
    The output of modules, of factories and of timm's networks is found by one forward pass of two black
    images, in evaluation mode and without gradients. It leaves buffers such as the BatchNorm statistics,
    training flags and torch's random generators as they were.

    References
    ----------
    .. [1] Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
       arXiv:2002.05709, appendix B.9 for small images.
    .. [2] Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", arXiv:2006.10029,
       section 2.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_simclr.encoders import make_encoder
    >>> module, out_dim = make_encoder("resnet18", in_channels=3, image_size=(32, 32))
    >>> out_dim
    512
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> module, out_dim = make_encoder(net, in_channels=1, image_size=(8, 8))
    >>> out_dim, module is net
    (8, False)
    """
    in_channels, image_size = _check_images(in_channels, image_size)
    if view_size is not None:
        view_size = _check_images(in_channels, view_size, "view_size")[1]
    if isinstance(encoder, str):
        if encoder.startswith(_TIMM):
            module = _make_timm(encoder, in_channels, image_size)
        else:
            named = _make_named(encoder, in_channels, image_size, view_size)
            return named, named.out_dim
    elif isinstance(encoder, nn.Module):
        module = _copy_module(encoder)
    elif callable(encoder):
        module = _call_factory(encoder, in_channels, image_size)
    else:
        raise TypeError(f"encoder must be {_FORMS}; got {encoder!r} of type {type(encoder).__name__}.")
    return module, _find_out_dim(module, in_channels, image_size)


def _check_images(
    in_channels: int, size: tuple[int, int], name: str = "image_size"
) -> tuple[int, tuple[int, int]]:
    if not _is_count(in_channels):
        raise ValueError(f"in_channels must be an int from 1 to {_MOST_NUMBERS}, got {in_channels!r}.")
    try:
        height, width = size
        valid = _is_count(height) and _is_count(width)
    except (TypeError, ValueError):
        valid = False
    if not valid or int(in_channels) * int(height) * int(width) > _MOST_NUMBERS:
        raise ValueError(
            f"{name} must be (height, width), two ints >= 1, for images of at most {_MOST_NUMBERS} numbers; "
            f"got {size!r}, with in_channels={in_channels}."
        )
    return int(in_channels), (int(height), int(width))


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= _MOST_NUMBERS


def default_encoder(device: torch.device, n_views: float) -> str:
    """Return the name of the network that suits a device and the length of a training.

    Parameters
    ----------
    device : torch.device
        Where the network is to be trained.
    n_views : float
        How many images the network will see in all, counted as often as they are seen.

    Returns
    -------
    str
        What ``"auto"`` stands for.
    """
    return "resnet18" if not is_cpu(device) and n_views >= _RESNET_VIEWS else "compact"


def _make_named(
    name: str, in_channels: int, image_size: tuple[int, int], view_size: tuple[int, int] | None
) -> ResNet | CompactNet:
    side = max(image_size)
    resolved = "compact" if name == "auto" else name
    if resolved in _COMPACT_WIDTHS:
        options = {} if view_size is None else {"side": round(math.sqrt(math.prod(view_size)) / VIEW_PART)}
        return CompactNet(in_channels, image_size, multiple=_COMPACT_WIDTHS[resolved], **options)
    match = _RESNET.fullmatch(resolved)
    if match is None:
        closest = _closest(name, ("auto", *_COMPACT_WIDTHS, *_RESNET_NAMES))
        raise ValueError(f"encoder={name!r} is not a known name.{closest} encoder must be {_FORMS}.")
    depth, width, kernels = match.groups()
    if side <= _SMALL_STEM_MAX_SIDE:
        stem = "small"
    elif side <= _MEDIUM_STEM_MAX_SIDE:
        stem = "medium"
    else:
        stem = "imagenet"
    return ResNet(
        int(depth),
        width=int(width or 1),
        in_channels=in_channels,
        stem=stem,
        sk_ratio=_SK_RATIO if kernels else 0.0,
    )


def _make_timm(encoder: str, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f'encoder={encoder!r} needs the package timm; install it with pip install "sklearn-simclr[timm]".'
        ) from error
    name = encoder.removeprefix(_TIMM)
    if not timm.is_model(name):
        closest = _closest(name, timm.list_models(), prefix=_TIMM)
        raise ValueError(
            f"encoder={encoder!r}: timm {timm.__version__} has no network {name!r}.{closest} "
            "timm.list_models() lists them all."
        )
    options: dict[str, Any] = {}
    try:
        config = timm.get_pretrained_cfg(name)
        if config is not None and config.fixed_input_size:
            options["img_size"] = image_size
        return timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **options)
    except Exception as error:
        raise ValueError(
            f"encoder={encoder!r}: timm could not build this network for {in_channels} channels and images "
            f"of {image_size[0]} x {image_size[1]} pixels: {error}"
        ) from error


def _closest(name: str, known: tuple[str, ...] | list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name.lower(), known, n=3)
    return f" Did you mean {' or '.join(repr(prefix + other) for other in close)}?" if close else ""


def _copy_module(encoder: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(encoder)
    except Exception as error:
        raise ValueError(
            f"encoder is a {type(encoder).__name__} that copy.deepcopy cannot copy ({error}); "
            "pass a function that builds it instead."
        ) from error


def _call_factory(
    factory: Callable[..., nn.Module], in_channels: int, image_size: tuple[int, int]
) -> nn.Module:
    name = getattr(factory, "__name__", type(factory).__name__)
    parameters: Mapping[str, inspect.Parameter]
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        parameters = {}
    by_keyword = {
        key
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    known = {"in_channels": in_channels, "image_size": image_size}
    arguments = {key: value for key, value in known.items() if key in by_keyword}
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in arguments
    ]
    if missing:
        raise TypeError(
            f"encoder is the callable {name!r}, which needs {', '.join(missing)}; only in_channels and "
            "image_size can be passed to it. Give the others a default, or bind them with functools.partial."
        )
    try:
        module = factory(**arguments)
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(
            f"encoder: the call {name}({shown}) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"encoder is the callable {name!r}, which must return a torch.nn.Module; it returned "
            f"{module!r} of type {type(module).__name__}."
        )
    return module


def takes_size(module: nn.Module, in_channels: int, size: tuple[int, int]) -> bool:
    """Return whether a module turns images of a size into features, by a trial that leaves no trace in it.

    Parameters
    ----------
    module : torch.nn.Module
        An encoder.
    in_channels : int
        Channels of the images.
    size : (int, int)
        Height and width.

    Returns
    -------
    bool
        False for a network that was built for another size.
    """
    if isinstance(module, CompactNet | ResNet | PreprocessedNetwork):
        return True
    try:
        _find_out_dim(module, in_channels, size)
    except ValueError:
        return False
    return True


def _hint_of_size(module: nn.Module, image_size: tuple[int, int]) -> str:
    """Return what to pass if a network was perhaps made for images of another size only."""
    config = getattr(module, "pretrained_cfg", None) or {}
    known = config.get("input_size") if isinstance(config, dict) and config.get("fixed_input_size") else None
    if known is not None and tuple(known[1:]) != tuple(image_size):
        return (
            f" This network is made for images of {known[1]} x {known[2]} pixels: pass "
            f"image_size={tuple(known[1:])}."
        )
    return " If the network takes images of one size only, pass this size as image_size=(height, width)."


def _find_out_dim(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> int:
    """Return the number of features of a module, by a trial that leaves no trace in it."""
    shape = (2, in_channels, *image_size)
    tensors = itertools.chain(module.parameters(), module.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    try:
        with _untouched(module, device), torch.no_grad():
            features = module.eval()(torch.zeros(shape, dtype=torch.float32, device=device))
    except Exception as error:
        said = f"{type(error).__name__}: {error}".rstrip(".")
        raise ValueError(
            f"encoder: {type(module).__name__} failed on a float32 batch of shape {shape}, that is (images, "
            f"channels, height, width): {said}.{_hint_of_size(module, image_size)}"
        ) from error
    if not isinstance(features, torch.Tensor):
        found = f"an object of type {type(features).__name__}"
    elif features.ndim != 2 or features.shape[0] != 2 or features.shape[1] < 1:
        found = f"a tensor of shape {tuple(features.shape)}"
    elif not features.is_floating_point():
        found = f"a tensor of {features.dtype}"
    else:
        return features.shape[1]
    raise ValueError(
        "encoder must map images to a floating tensor of shape (n_images, n_features); for a batch of shape "
        f"{shape}, {type(module).__name__} returned {found}. End the network with pooling and flattening, as "
        "in nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten())."
    )


@contextlib.contextmanager
def _untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore training flags, buffers and torch's random generators at the end."""
    flags = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
        if not is_lazy(buffer)  # the trial gives it its shape, and there is nothing yet to keep
    ]
    try:
        with unchanged_generators(device):
            yield
    finally:
        with torch.no_grad():
            for part, name, buffer, kept in buffers:
                setattr(part, name, buffer.copy_(kept))
        for part, flag in flags:
            part.training = flag
