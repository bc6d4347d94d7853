"""Networks of this package as plain dicts, from which networks of the same shape are built again."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .compact import CompactNet
from .heads import ProjectionHead, _BatchNorm, _LeadingLinear
from .libraries import LibraryNetwork
from .preprocessing import PreprocessedNetwork, Preprocessing
from .resnet import ResNet

__all__ = [
    "build_network",
    "build_preprocessing",
    "describe_network",
    "encoder_name",
    "fill_network",
    "not_finite",
]

_Network = TypeVar("_Network", bound=nn.Module)

# Pixels of the images that a network of a library is tried with when it is built: a file cannot ask for more.
_MOST_PIXELS = 2**22

# Pixels that images may be resized to by what a file says, 8192 x 8192.
MOST_RESIZED = 2**26


class _WeightsOnMeta(TorchFunctionMode):
    """Gives weights no memory, and leaves the small tensors that shapes are computed with as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.ones, torch.zeros) and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def describe_network(module: nn.Module) -> dict[str, Any] | None:
    """Return what `build_network` needs to build a network of the same shape.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    description : dict or None
        Numbers, strings, lists and dicts; None for a network of another package.
    """
    if type(module) is ResNet:
        return {"kind": "resnet", **module.options}
    if type(module) is CompactNet:
        return {
            "kind": "compact",
            "in_channels": module.in_channels,
            "stem_pool": module.stem_pool,
            "means_of_pooled": module.means_of_pooled,
            "width": module.convs[0].out_channels,
            "side": module.side,
            **({} if module.multiple == 1 else {"multiple": module.multiple}),
        }
    if type(module) is LibraryNetwork:
        return {"kind": "library", **module.options}
    if type(module) is PreprocessedNetwork:
        inner = describe_network(module.network)
        return inner and {
            "kind": "preprocessed",
            "preprocessing": asdict(module.preprocessing),
            "network": inner,
        }
    if type(module) is ProjectionHead:
        return {
            "kind": "projector",
            "in_dim": module.in_dim,
            "out_dim": module.out_dim,
            "n_layers": module.n_layers,
            "hidden_dim": module.layer_dim(1) if module.n_layers > 1 else None,
            **({} if module.read_dim == module.in_dim else {"read_dim": module.read_dim}),
        }
    if type(module) in (nn.Linear, _LeadingLinear):
        shape = {"in_features": module.in_features, "out_features": module.out_features}
        name = "linear" if type(module) is nn.Linear else "leading_linear"
        return {"kind": name, **shape, "bias": module.bias is not None}
    if type(module) is _BatchNorm:
        return {"kind": "batchnorm", "width": module.num_features, "shift": module.bias is not None}
    if type(module) is nn.ReLU:
        return {"kind": "relu"}
    if type(module) is nn.Sequential:
        parts = [describe_network(part) for part in module]
        return None if None in parts else {"kind": "sequential", "parts": parts}
    return None


def build_network(description: Mapping[str, Any], n_tensors: int) -> nn.Module:
    """Return a network without numbers, on the meta device.

    Parameters
    ----------
    description : dict
        The result of `describe_network`.
    n_tensors : int
        Number of tensors that will fill the network, which cannot have more layers.

    Returns
    -------
    module : torch.nn.Module
        To be filled by `fill_network`.

    Raises
    ------
    ValueError, TypeError, KeyError, RuntimeError
        If the description is not valid.
    """
    options = dict(description)
    kind = options.pop("kind")
    if kind == "projector" and options["n_layers"] > n_tensors:
        raise ValueError("a projector has more layers than there are tensors")
    with torch.device("meta"):
        if kind == "resnet":
            return ResNet(**options, zero_init_residual=False)
        if kind == "compact":
            # These depend on the size of the images, which the description lacks.
            pool, pooled = options.pop("stem_pool"), options.pop("means_of_pooled")
            if type(pool) not in (int, float) or not 1 <= pool <= MOST_RESIZED:
                raise ValueError(f"stem_pool is {pool!r}, not a number from 1 to {MOST_RESIZED}")
            if type(pooled) is not bool:
                raise ValueError(f"means_of_pooled is {pooled!r}, not true or false")
            if type(options["side"]) is not int or options["side"] < 1:
                raise ValueError(f"side is {options['side']!r}, not an int >= 1")
            network = CompactNet(**options, image_size=(1, 1))
            network.stem_pool, network.means_of_pooled = pool, pooled
            return network
        if kind == "library":
            if math.prod(options["image_size"]) > _MOST_PIXELS:
                raise ValueError(
                    f"its encoder takes images of {options['image_size']} pixels, more than {_MOST_PIXELS}"
                )
            try:
                return LibraryNetwork(**options)
            except NotImplementedError:  # RegNets of torchvision compute their shapes by tensors
                with torch.device("cpu"), _WeightsOnMeta():
                    return LibraryNetwork(**options)
        if kind == "projector":
            return ProjectionHead(**options)
        if kind == "linear":
            return nn.Linear(**options)
        if kind == "leading_linear":
            return _LeadingLinear(**options)
        if kind == "batchnorm":
            return _BatchNorm(**options)
        if kind == "relu":
            return nn.ReLU(inplace=True)
    if kind == "preprocessed":
        inner = build_network(options["network"], n_tensors)
        if not hasattr(inner, "out_dim") or isinstance(inner, ProjectionHead):
            raise ValueError("the network behind its preprocessing is not an encoder")
        return PreprocessedNetwork(inner, build_preprocessing(options["preprocessing"]))
    if kind == "sequential":
        return nn.Sequential(*(build_network(part, n_tensors) for part in options["parts"]))
    raise ValueError(f"{kind!r} is not a network of this package")


def build_preprocessing(description: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a file describes.

    Parameters
    ----------
    description : dict
        Parameters of the preprocessing.

    Returns
    -------
    Preprocessing
        A preprocessing whose images fit into memory.

    Raises
    ------
    ValueError, TypeError
        If the description is not valid, or asks for images that are too large.
    """
    preprocessing = Preprocessing(**description)
    if math.prod(preprocessing.sides) > MOST_RESIZED * preprocessing.crop_fraction**2:
        raise ValueError(
            f"its images are resized to {preprocessing.sides} / {preprocessing.crop_fraction} pixels, more "
            f"than {MOST_RESIZED}"
        )
    return preprocessing


def fill_network(module: _Network, state: Mapping[str, Tensor]) -> _Network:
    """Give a network its numbers, and put it into evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        The result of `build_network`, or a network with numbers of its own.
    state : dict of str to tensor
        Whole state of the network.

    Returns
    -------
    module : torch.nn.Module
        `module` itself; its parameters are the tensors of `state`.

    Raises
    ------
    ValueError
        If tensors are missing, superfluous, not finite, or of another shape or type.
    """
    own = module.state_dict()
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ValueError(f"{len(odd)} tensors are missing or superfluous, such as {odd[0]!r}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape or tensor.is_floating_point() != own[name].is_floating_point():
            raise ValueError(
                f"{name!r} is {tensor.dtype} of shape {tuple(tensor.shape)} instead of {own[name].dtype} of "
                f"shape {tuple(own[name].shape)}"
            )
    state = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    broken = not_finite(state)
    if broken:
        raise ValueError(f"{broken!r} holds numbers that are not finite")
    module = _with_memory(module)
    module.load_state_dict(state, assign=True)
    return module.eval()


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity.

    Parameters
    ----------
    state : dict of str to tensor
        State of a network.

    Returns
    -------
    str or None
        None where all numbers are finite.
    """
    for name, tensor in state.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(tensor.isfinite().all()):
            return name
    return None


def _with_memory(module: Any) -> Any:
    """Build a network of a library on the CPU: its state lacks some numbers that are computed on the way."""
    if type(module) is LibraryNetwork and next(module.parameters()).is_meta:
        with torch.random.fork_rng(devices=[]):
            return module.new()
    if type(module) is PreprocessedNetwork:
        return PreprocessedNetwork(_with_memory(module.network), module.preprocessing)
    return module


def encoder_name(module: nn.Module) -> str:
    """Return what the ``encoder`` parameter calls a network.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    name : str
        Such as "resnet50x2-sk" or "compact"; for other networks, the name of their class.
    """
    if type(module) is PreprocessedNetwork:
        return encoder_name(module.network)
    if type(module) is LibraryNetwork:
        return module.name
    if type(module) is ResNet:
        options = module.options
        width = f"x{options['width']}" if options["width"] > 1 else ""
        return f"resnet{options['depth']}{width}{'-sk' if options['sk_ratio'] else ''}"
    if type(module) is CompactNet:
        return "compact" if module.multiple == 1 else f"compactx{module.multiple:g}"
    return type(module).__name__
