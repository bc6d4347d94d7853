"""Networks that ``torch.compile`` has wrapped: the plain network within, and others compiled alike."""

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["compiled_as", "is_compiled", "plain"]


def is_compiled(network: object) -> bool:
    """Return whether an object is a module that ``torch.compile`` has wrapped."""
    return isinstance(network, nn.Module) and "_orig_mod" in network._modules


def plain(network: nn.Module) -> nn.Module:
    """Return the network that is compiled, or the network itself."""
    return getattr(network, "_orig_mod", network) if is_compiled(network) else network


def compiled_as(network: Any, function: Any) -> Any:
    """Return a module or function, compiled with the settings by which a network is compiled.

    Parameters
    ----------
    network : object
        A module that ``torch.compile`` has wrapped, or anything else.
    function : torch.nn.Module or callable
        What is to be compiled.

    Returns
    -------
    torch.nn.Module or callable
        `function` itself where `network` is not compiled.
    """
    if not is_compiled(network):
        return function
    compile_it: Callable[[Any], Any] = network.dynamo_ctx
    return compile_it(function)
