"""Networks of this package as plain dicts, from which networks of the same shape are built again."""

import torch
from torch import nn

from ._compact import CompactNet
from ._resnet import ResNet
from .heads import ProjectionHead, _BatchNorm

__all__ = ["build_network", "describe_network", "encoder_name", "fill_network"]


def describe_network(module):
    """Return what `build_network` needs to build a network of the same shape.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    description : dict or None
        Of numbers, strings, lists and dicts; None for a network of another package.
    """
    kind = type(module)
    if kind is ResNet:
        return {"kind": "resnet", **module.options}
    if kind is CompactNet:
        return {
            "kind": "compact",
            "in_channels": module.in_channels,
            "stem_pool": module.stem_pool,
            "width": module.convs[0].out_channels,
        }
    if kind is ProjectionHead:
        return {
            "kind": "projector",
            "in_dim": module.in_dim,
            "out_dim": module.out_dim,
            "n_layers": module.n_layers,
            "hidden_dim": module.layer_dim(1) if module.n_layers > 1 else None,
        }
    if kind is nn.Linear:
        shape = {"in_features": module.in_features, "out_features": module.out_features}
        return {"kind": "linear", **shape, "bias": module.bias is not None}
    if kind is _BatchNorm:
        return {"kind": "batchnorm", "width": module.num_features, "shift": module.bias is not None}
    if kind is nn.ReLU:
        return {"kind": "relu"}
    if kind is nn.Sequential:
        parts = [describe_network(part) for part in module]
        return None if None in parts else {"kind": "sequential", "parts": parts}
    return None


def build_network(description, n_tensors):
    """Return a network without numbers, on the meta device.

    Parameters
    ----------
    description : dict
        As from `describe_network`.
    n_tensors : int
        Tensors there are to fill it with: it has not more layers than that.

    Returns
    -------
    module : torch.nn.Module
        To be filled by `fill_network`.

    Raises
    ------
    ValueError, TypeError, KeyError, RuntimeError
        If the description is not one.
    """
    options = dict(description)
    kind = options.pop("kind")
    if kind == "projector" and options["n_layers"] > n_tensors:
        raise ValueError("a projector has more layers than there are tensors")
    with torch.device("meta"):
        if kind == "resnet":
            return ResNet(**options, zero_init_residual=False)
        if kind == "compact":
            # A side of one pixel is never pooled before the first convolution: the number is set instead.
            pool = options.pop("stem_pool")
            if type(pool) is not int or pool < 1:
                raise ValueError(f"stem_pool is {pool!r}, not an int >= 1")
            network = CompactNet(**options, image_size=(1, 1))
            network.stem_pool = pool
            return network
        if kind == "projector":
            return ProjectionHead(**options)
        if kind == "linear":
            return nn.Linear(**options)
        if kind == "batchnorm":
            return _BatchNorm(**options)
        if kind == "relu":
            return nn.ReLU(inplace=True)
    if kind == "sequential":
        return nn.Sequential(*(build_network(part, n_tensors) for part in options["parts"]))
    raise ValueError(f"{kind!r} is no network of this package")


def fill_network(module, state):
    """Give a network its numbers, and put it into evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        As from `build_network`, or one with numbers of its own.
    state : dict of str to tensor
        Its whole state.

    Returns
    -------
    module : torch.nn.Module
        The same; its parameters are the tensors of `state`.

    Raises
    ------
    ValueError
        If tensors are missing, superfluous, or of another shape or type.
    """
    own = module.state_dict()
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ValueError(f"{len(odd)} tensors are missing or superfluous, the first is {odd[0]!r}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape or tensor.is_floating_point() != own[name].is_floating_point():
            raise ValueError(
                f"{name!r} is {tensor.dtype} of shape {tuple(tensor.shape)} instead of {own[name].dtype} of "
                f"shape {tuple(own[name].shape)}"
            )
    module.load_state_dict(state, assign=True)
    return module.eval()


def encoder_name(module):
    """Return what the ``encoder`` parameter calls a network.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    name : str
        As "resnet50x2-sk" or "compact"; of other networks that of the class.
    """
    if type(module) is ResNet:
        options = module.options
        width = f"x{options['width']}" if options["width"] > 1 else ""
        return f"resnet{options['depth']}{width}{'-sk' if options['sk_ratio'] else ''}"
    return "compact" if type(module) is CompactNet else type(module).__name__
