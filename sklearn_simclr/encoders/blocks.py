"""Name the blocks of an encoder, and find the parts that a training of some blocks leaves as they are."""

from collections.abc import Iterable

from torch import nn

__all__ = ["blocks", "parts_to_freeze"]


def blocks(network: nn.Module) -> list[tuple[str, ...]]:
    """Return the blocks of a network, first to last.

    Parameters
    ----------
    network : torch.nn.Module
        An encoder. Its attribute ``blocks`` may be such a list; else the blocks are its children that have
        parameters, in the order in which they were added, or those of an only child.

    Returns
    -------
    list of tuple of str
        Names of the modules in each block, as ``named_modules`` has them.
    """
    known = getattr(network, "blocks", None)
    if isinstance(known, list):
        return known
    children = [(name, child) for name, child in network.named_children() if _has(child.parameters())]
    if len(children) != 1:
        return [(name,) for name, _ in children]
    name, child = children[0]
    return [tuple(f"{name}.{part}" for part in names) for names in blocks(child)] or [(name,)]


def parts_to_freeze(network: nn.Module, trainable: str | int | Iterable[str]) -> list[nn.Module]:
    """Return the modules of a network whose own parameters and statistics are to stay as they are.

    Parameters
    ----------
    network : torch.nn.Module
        An encoder.
    trainable : "all", int or iterable of str
        What is trained: everything, this number of last blocks, or modules with all that they contain.

    Returns
    -------
    list of torch.nn.Module
        Each counts without the modules that it contains.

    Raises
    ------
    ValueError
        If there are not so many blocks, or no module has one of the names.
    """
    if trainable == "all":
        return []
    known, named = blocks(network), dict(network.named_modules())
    if isinstance(trainable, int):
        if trainable > len(known):
            raise ValueError(
                f"trainable={trainable}, but the encoder has {len(known)} blocks: {known}. Pass 0 to "
                f"{len(known)}, names of modules, or 'all'."
            )
        chosen = [name for block in known[len(known) - trainable :] for name in block]
    else:
        chosen = [trainable] if isinstance(trainable, str) else list(trainable)
        unknown = [name for name in chosen if name not in named or not name]
        if unknown:
            raise ValueError(
                f"trainable has the names {unknown}, but the encoder has no such modules. Its blocks are "
                f"{known}. Pass names from encoder.named_modules(), a number of blocks, or 'all'."
            )
    return [
        module
        for name, module in named.items()
        if not any(f"{name}.".startswith(f"{part}.") for part in chosen)
        and (_has(module.parameters(recurse=False)) or _has(module.buffers(recurse=False)))
    ]


def _has(tensors: Iterable[object]) -> bool:
    return any(True for _ in tensors)
