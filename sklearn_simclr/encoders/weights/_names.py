"""The names that programs give to the weights of SimCLR's networks.

Names of this package are those of the state dicts of the encoder, the projector and the classifier, after
"encoder.", "projector." and "classifier.".
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..resnet import _Block

__all__ = [
    "GOOGLE",
    "Dialect",
    "Shape",
    "Shapes",
    "google_names",
    "google_names_of_objects",
    "find_torch_dialect",
]

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_GOOGLE_KERNEL = re.compile(r"base_model/conv2d(?:_(\d+))?/kernel")
_GOOGLE_HEAD = re.compile(r"head_contrastive/n?l_(\d+)/dense/kernel")

# Members of the authors' classes in the order in which their layers are applied.
_OBJECT_ORDER = (
    "initial_conv_relu_max_pool",
    "block_groups",
    "layers",
    "shortcut_layers",
    "projection_layers",
    "conv2d_bn_layers",
    "conv_relu_dropblock_layers",
    "conv2d_fixed_padding",
    "batch_norm_relu",
    "conv2d_0",
    "batch_norm_relu_1",
    "conv2d_1",
    "conv2d",
    "bn",
)


Shape = Sequence[int]
Shapes = Mapping[str, Shape]
Nodes = list[tuple[dict[str, int], str | None]]


@dataclass(frozen=True)
class Dialect:
    """The names that one program gives to weights.

    Parameters
    ----------
    names : callable
        ``names(encoder, projector, classifier, shapes)`` gives this package's names and those of the program,
        as dict; `shapes` is what a file has.
    classifier : str
        Name of the matrix of the supervised head; "" if there is none.
    kernels : callable
        ``kernels(shapes)`` gives the shapes (out, in, height, width) of the convolutions in order, as list
        that is empty if the first is not there; how many there should be; and the shapes (out, in) of the
        layers of the projector.
    program : {"simclr", "tonylins", "torchvision", "moco", "lightly", "solo-learn", "sthalles"}
        Whose training the weights are from: it decides the padding and the preprocessing.
    ignored : callable
        ``ignored(name)`` tells whether a tensor belongs to something else than the network.
    """

    names: Callable[..., dict[str, str]]
    classifier: str
    kernels: Callable[[Shapes], tuple[list[Shape], int, list[Shape]]]
    program: str = "simclr"
    ignored: Callable[[str], bool] = lambda name: False


def google_names(
    encoder: nn.Module, projector: nn.Module | None, classifier: nn.Module | None, shapes: Container[str] = ()
) -> dict[str, str]:
    """Return the names in the checkpoints of google-research/simclr: layers counted in order of creation.

    Parameters
    ----------
    encoder : ResNet
        The network.
    projector : ProjectionHead or None
        The projection head.
    classifier : torch.nn.Linear or None
        The supervised head.
    shapes : container of str, default=()
        Names in the checkpoint: they tell whether the layers of the projector are called "nl" or "l".

    Returns
    -------
    names : dict of str to str
        The package's name to theirs.
    """
    head = "l" if "head_contrastive/l_0/dense/kernel" in shapes else "nl"
    names = {}
    n_convolutions = n_norms = 0
    # Modules are registered in the order in which the authors create the layers: a block's shortcut first.
    for path, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            names[f"encoder.{path}.weight"] = f"base_model/conv2d{_suffix(n_convolutions)}/kernel"
            n_convolutions += 1
        elif isinstance(module, nn.BatchNorm2d):
            for ours, theirs in _NORM.items():
                layer = f"base_model/batch_normalization{_suffix(n_norms)}"
                names[f"encoder.{path}.{ours}"] = f"{layer}/{theirs}"
            n_norms += 1
    for ours in _own_names("projector", projector):
        layer, part, key = ours.removeprefix("projector.layers.").split(".")
        theirs = "dense/kernel" if part == "0" else f"batch_normalization/{_NORM[key]}"
        names[ours] = f"head_contrastive/{head}_{layer}/{theirs}"
    for ours in _own_names("classifier", classifier):
        theirs = "kernel" if ours.endswith("weight") else "bias"
        names[ours] = f"head_supervised/linear_layer/dense/{theirs}"
    return names


def _own_names(part: str, module: nn.Module | None) -> list[str]:
    """Return names of the parameters and buffers of a part, without the counters of BatchNorm."""
    keys = [] if module is None else module.state_dict(prefix=f"{part}.")
    return [key for key in keys if not key.endswith("num_batches_tracked")]


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _google_kernels(shapes: Shapes) -> tuple[list[Shape], int, list[Shape]]:
    kernels, layers = {}, {}
    for name, shape in shapes.items():
        if (match := _GOOGLE_KERNEL.fullmatch(name)) and len(shape) == 4:
            kernels[int(match[1] or 0)] = shape
        elif (match := _GOOGLE_HEAD.fullmatch(name)) and len(shape) == 2:
            layers[int(match[1])] = shape
    ordered = [kernels[number] for number in sorted(kernels)] if 0 in kernels else []
    return ordered, max(kernels, default=-1) + 1, [layers[number] for number in sorted(layers)]


def google_names_of_objects(nodes: Nodes) -> dict[str, str]:
    """Return the names that the variables of a TensorFlow 2 checkpoint have in those of TensorFlow 1.

    Parameters
    ----------
    nodes : list of (dict of str to int, str or None)
        The graph of saved objects: for each object its children by name, and the variable that it is.

    Returns
    -------
    names : dict of str to str
        TensorFlow 1's name to the variable's; empty if the graph has no network of SimCLR.
    """
    resnet = _first(nodes, {"initial_conv_relu_max_pool", "block_groups"})
    if resnet is None:
        return {}
    names = {}
    for kind, layer in _numbered_layers(nodes, resnet):
        for part, child in nodes[layer][0].items():
            if part in ("kernel", *_NORM.values()):
                names[f"base_model/{kind}/{part}"] = nodes[child][1]
    head = _first(nodes, {"linear_layers"})
    if head is not None:
        for number, layer in nodes[nodes[head][0]["linear_layers"]][0].items():
            scope = f"head_contrastive/nl_{number}"
            names[f"{scope}/dense/kernel"] = _variable(nodes, layer, "dense", "kernel")
            for part in _NORM.values():
                variable = _variable(nodes, layer, "bn_relu", "bn", part)
                names[f"{scope}/batch_normalization/{part}"] = variable
    model = _first(nodes, {"supervised_head"})
    if model is not None:
        for part in ("kernel", "bias"):
            variable = _variable(nodes, model, "supervised_head", "linear_layer", "dense", part)
            names[f"head_supervised/linear_layer/dense/{part}"] = variable
    return {name: variable for name, variable in names.items() if variable is not None}


def _first(nodes: Nodes, children: set[str]) -> int | None:
    return next((i for i, (own, _) in enumerate(nodes) if children <= own.keys()), None)


def _variable(nodes: Nodes, node: int, *path: str) -> str | None:
    for name in path:
        if name not in nodes[node][0]:
            return None
        node = nodes[node][0][name]
    return nodes[node][1]


def _numbered_layers(nodes: Nodes, root: int) -> Iterator[tuple[str, int]]:
    """Yield (name with number, node) of convolutions and norms below `root`, in order of creation."""
    counts = {"conv2d": 0, "batch_normalization": 0}
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        children = nodes[node][0]
        kind = "conv2d" if "kernel" in children else "batch_normalization"
        if "kernel" in children or "moving_mean" in children:
            yield kind + _suffix(counts[kind]), node
            counts[kind] += 1
            continue
        order = sorted((name for name in children if name.isdecimal()), key=int)
        order += [name for name in _OBJECT_ORDER if name in children]
        stack.extend(children[name] for name in reversed(order))


def _separius_names(
    encoder: nn.Module, projector: nn.Module | None, classifier: nn.Module | None, shapes: Container[str]
) -> dict[str, str]:
    """Return names in the files of Separius/SimCLRv2-Pytorch, whose networks have bottleneck blocks."""
    deep = isinstance(encoder.conv1, nn.Sequential)
    layers = {"conv1.0": "0.0", "conv1.1": "0.1.0", "conv1.3": "0.2", "conv1.4": "0.3.0", "conv1.6": "0.4"}
    layers = {**layers, "bn1": "0.5.0"} if deep else {"conv1": "0.0", "bn1": "0.1.0"}
    for path, block in encoder.named_modules():
        if isinstance(block, _Block):
            stage, number = path.removeprefix("layer").split(".")
            for ours, theirs in _separius_block(block).items():
                layers[f"{path}.{ours}"] = f"{stage}.blocks.{number}.{theirs}"
    names = {}
    for ours in _own_names("encoder", encoder):
        layer, _, key = ours.removeprefix("encoder.").rpartition(".")
        names[ours] = f"resnet.net.{layers.get(layer, layer)}.{key}"
    for ours in _own_names("projector", projector):
        layer, part, key = ours.removeprefix("projector.layers.").split(".")
        names[ours] = f"head.layers.{3 * int(layer) + int(part)}.{key}"
    for ours in _own_names("classifier", classifier):
        names[ours] = "resnet.fc." + ours.removeprefix("classifier.")
    return names


def _separius_block(block: _Block) -> dict[str, str]:
    layers = {"conv1": "net.0", "bn1": "net.1.0"}
    if isinstance(block.bn2, nn.Identity):
        mixed = {"conv": "main_conv.0", "bn": "main_conv.1.0", "reduce": "mixing_conv.0"}
        mixed |= {"bn_reduce": "mixing_conv.1.0", "expand": "mixing_conv.2"}
        layers |= {f"conv2.{ours}": f"net.2.{theirs}" for ours, theirs in mixed.items()}
        layers |= {"conv3": "net.3", "bn3": "net.4.0"}
        layers |= {"downsample.1": "projection.shortcut.2", "downsample.2": "projection.bn.0"}
    else:
        layers |= {"conv2": "net.2", "bn2": "net.3.0", "conv3": "net.4", "bn3": "net.5.0"}
        layers |= {"downsample.0": "projection.shortcut", "downsample.1": "projection.bn.0"}
    return layers


def _torch_kernels(first: str, prefix: str = "") -> Callable[[Shapes], tuple[list[Shape], int, list[Shape]]]:
    def kernels(shapes: Shapes) -> tuple[list[Shape], int, list[Shape]]:
        inside = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        ordered = [shape for shape in {first: shapes[first], **inside}.values() if len(shape) == 4]
        heads = [s for name, s in shapes.items() if name.startswith("head.layers.") and len(s) == 2]
        return ordered, len(ordered), heads

    return kernels


GOOGLE = Dialect(google_names, "head_supervised/linear_layer/dense/kernel", _google_kernels)

_SEPARIUS = "resnet.net.0.0.weight"

# The first block of a ResNet of torchvision, by its name or as a part of an nn.Sequential, whose parts are
# numbered; activation and pool may have numbers, too.
_FIRST_BLOCK = re.compile(r"((?:.*\.)?)(?:layer1|([234]))\.0\.conv1\.weight")

# A network with such a name is a moving average of another network in the same file.
_AVERAGE = re.compile(r"momentum|encoder_k|target|teacher|\bema\b|_ema\b|\bema_")


def find_torch_dialect(shapes: Shapes, *, bare: bool, ema: bool = False) -> Dialect | None:
    """Return the dialect of a torch file with weights of such names, or None.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Names and shapes of the tensors in the file.
    bare : bool
        Whether the file has nothing but weights under "state_dict", or is one of safetensors.
    ema : bool, default=False
        Whether the network wanted is the moving average.

    Returns
    -------
    dialect : Dialect or None
        None if no ResNet of a known program has such names.

    Raises
    ------
    ValueError
        If there are several networks, or if there is no moving average.
    """
    if _SEPARIUS in shapes and not ema:
        return Dialect(_separius_names, "resnet.fc.weight", _torch_kernels(_SEPARIUS))
    found: dict[str, int | None] = {}
    for name in shapes:
        match = _FIRST_BLOCK.fullmatch(name)
        if match:
            prefix, number = match[1], int(match[2]) if match[2] else None
            if f"{prefix}{'conv1' if number is None else 0}.weight" in shapes:
                # Blocks of later stages have larger numbers.
                found[prefix] = number if number is None else min(number, found.get(prefix) or number)
    prefixes = [prefix for prefix in found if bool(_AVERAGE.search(prefix)) == ema]
    if len(prefixes) > 1:
        raise ValueError(f"it holds several networks: {', '.join(map(repr, prefixes))}; keep one of them.")
    if found and not prefixes:
        raise ValueError(
            f"it has {'no' if ema else 'only a'} moving average of its weights; pass ema={not ema}."
        )
    if not prefixes:
        return None
    return _torchvision_dialect(prefixes[0], found[prefixes[0]], shapes, bare)


def _torchvision_dialect(prefix: str, number: int | None, shapes: Shapes, bare: bool) -> Dialect:
    """Return the dialect of a network of torchvision whose names begin with a prefix."""
    program = _program(prefix, number, shapes, bare)
    first = f"{prefix}{'conv1' if number is None else 0}.weight"
    shortcut = "shortcut" if any(".shortcut." in name for name in shapes) else "downsample"

    def names(
        encoder: nn.Module, projector: None, classifier: nn.Module | None, shapes: Container[str]
    ) -> dict[str, str]:
        named = {}
        for ours in _own_names("encoder", encoder):
            part, _, rest = ours.removeprefix("encoder.").partition(".")
            if number is not None:
                numbers = {"conv1": 0, "bn1": 1, **{f"layer{k}": number + k - 1 for k in range(1, 5)}}
                part = str(numbers[part])
            named[ours] = f"{prefix}{part}.{rest.replace('downsample', shortcut)}"
        for ours in _own_names("classifier", classifier):
            named[ours] = f"{prefix}fc." + ours.removeprefix("classifier.")
        return named

    def ignored(name: str) -> bool:
        # The last layers of torchvision's and of lightly's own networks: a head, if they are there.
        return not name.startswith(prefix) or name.startswith((f"{prefix}fc.", f"{prefix}linear."))

    # A classifier of a network in a larger whole is its projection head.
    classifier = f"{prefix}fc.weight" if program in ("tonylins", "torchvision") else ""
    return Dialect(names, classifier, _torch_kernels(first, prefix), program, ignored)


def _program(prefix: str, number: int | None, shapes: Shapes, bare: bool) -> str:
    """Return whose training weights are from, as far as names tell."""
    if re.search(r"encoder_[qk]\.|(?:base|momentum)_encoder\.", prefix):
        return "moco"
    if number is not None or any(name.startswith("projection_head") for name in shapes):
        return "lightly"
    if f"{prefix}fc.0.weight" in shapes:
        return "sthalles"
    if "classifier.weight" in shapes and prefix:
        return "solo-learn"
    return "tonylins" if bare and prefix in ("", "module.") else "torchvision"
