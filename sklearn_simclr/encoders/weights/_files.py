"""Open files of weights: what they hold, under which names and in which shapes, read one by one."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ._tensor_bundle import TensorBundle

__all__ = ["StoredWeights", "google_names_of_objects", "open_bundle", "open_file", "open_torch"]

_NORM_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")

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


@dataclass
class StoredWeights:
    """The weights in a file: what they are called, what shape they have, how each is read.

    ``read(name)`` gives a new float32 tensor in torch's order of dimensions, as `shapes` are.
    """

    origin: str
    dialect: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    shown: Callable[[str], str] = str


def open_bundle(prefix, ema, verify):
    bundle = TensorBundle(prefix, verify=verify)
    graph = bundle.object_graph()
    if graph is None:
        scope = _scope(bundle, prefix, ema)
        variables = {name.removeprefix(scope): name for name in bundle if name.startswith(scope)}
    elif ema:
        raise ValueError(f"{prefix} has no ema_model/; pass ema=False.")
    else:
        variables = google_names_of_objects(graph)
        if not variables:
            raise ValueError(f"{prefix} is a TensorFlow checkpoint, but not one of SimCLR.")
    shapes = {}
    for name, variable in variables.items():
        # What optimizers keep for a variable is called after it.
        if name.startswith(("base_model/", "head_")) and name.rpartition("/")[0] not in variables:
            entry = bundle.entries.get(variable)
            if entry is not None:
                shapes[name] = tuple(entry.shape[axis] for axis in _axes(len(entry.shape)))

    def read(name):
        values = bundle[variables[name]]
        values = values.transpose(_axes(values.ndim))
        return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))

    return StoredWeights(str(prefix), "google", shapes, read, shown=lambda name: variables.get(name, name))


def _axes(n_dims):
    """Order of TensorFlow's dimensions in torch: kernels (H, W, in, out), matrices (in, out)."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(n_dims, tuple(range(n_dims)))


def _scope(bundle, prefix, ema):
    """What stands before the names of the network: "", "ema_model/", or the scope of a hub module."""
    first = "base_model/conv2d/kernel"
    scopes = [name.removesuffix(first) for name in bundle if name.endswith(first)]
    chosen = [scope for scope in scopes if ("ema_model/" in scope) == ema]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise ValueError(f"{prefix} holds several networks: {', '.join(map(repr, chosen))}.")
    if scopes:
        raise ValueError(
            f"{prefix} has {'no' if ema else 'only a'} moving average of its weights; pass ema={not ema}."
        )
    some = ", ".join(list(bundle)[:5]) or "nothing"
    raise ValueError(
        f"{prefix} is a TensorFlow checkpoint, but not one of SimCLR: it has no {first}. It holds {some}, ..."
    )


def open_file(path):
    with path.open("rb") as file:
        start = file.read(16)
    length = path.stat().st_size
    if length > 9 and int.from_bytes(start[:8], "little") < length and start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return open_torch(path)
    raise ValueError(
        f"{path} is no file of weights that is known: neither safetensors nor a torch file. Of a TensorFlow "
        'checkpoint, pass the path without ".index".'
    )


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="pt")
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no iterator of its own)
    except SafetensorError as error:
        raise ValueError(f"{path} is a damaged or truncated safetensors file: {error}.") from None
    del opened

    def read(name):
        # Opened anew: what one handle has read stays mapped, in the end the whole file beside the copy.
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name).to(torch.float32, copy=True)

    return StoredWeights(str(path), _dialect(shapes, path), shapes, read)


def open_torch(path):
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        try:
            with zipfile.ZipFile(path) as archive:
                compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is a damaged torch file: {error}.") from None
        if compressed:
            raise ValueError(f"{path} is a compressed archive, not a torch file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path} could not be read as a torch file of weights alone. It is damaged, or a pickle with "
            f"other objects, which is not opened because a pickle can run any code: {reason[0]}"
        ) from None
    tensors = {}
    if isinstance(content, dict) and {"resnet", "head"} <= content.keys():
        for part in ("resnet", "head"):
            tensors |= {f"{part}.{key}": value for key, value in _tensors(content[part]).items()}
    else:
        for key in ("state_dict", "model"):
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
        tensors = {key.removeprefix("module."): value for key, value in _tensors(content).items()}
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    length = path.stat().st_size
    if claimed > length:
        raise ValueError(f"{path} has {length} bytes, but its tensors claim to have {claimed}.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(name):
        return tensors[name].to(torch.float32, copy=True).contiguous()

    return StoredWeights(str(path), _dialect(shapes, path), shapes, read)


def _tensors(content):
    items = content.items() if isinstance(content, dict) else ()
    return {
        key: value
        for key, value in items
        if isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
    }


def _dialect(shapes, path):
    if "resnet.net.0.0.weight" in shapes:
        return "separius"
    if "conv1.weight" in shapes:
        return "torchvision"
    some = ", ".join(list(shapes)[:5]) or "no tensors"
    raise ValueError(f"{path} holds no known ResNet: it has {some}, ...")


def google_names_of_objects(nodes):
    """Return the names that the variables of a TensorFlow 2 checkpoint have in those of TensorFlow 1.

    Parameters
    ----------
    nodes : list of (dict of str to int, str or None)
        The graph of saved objects: of each its children by name, and the variable it is.

    Returns
    -------
    names : dict of str to str
        TensorFlow 1's name to the variable's; empty if the graph has no network of SimCLR.
    """
    names = {}
    resnet = _first(nodes, {"initial_conv_relu_max_pool", "block_groups"})
    if resnet is None:
        return names
    for kind, layer in _numbered_layers(nodes, resnet):
        for part, child in nodes[layer][0].items():
            if part in ("kernel", *_NORM_PARTS):
                names[f"base_model/{kind}/{part}"] = nodes[child][1]
    head = _first(nodes, {"linear_layers"})
    if head is not None:
        for number, layer in nodes[_child(nodes, head, "linear_layers")][0].items():
            scope = f"head_contrastive/nl_{number}"
            names[f"{scope}/dense/kernel"] = _variable(nodes, layer, "dense", "kernel")
            for part in _NORM_PARTS:
                variable = _variable(nodes, layer, "bn_relu", "bn", part)
                names[f"{scope}/batch_normalization/{part}"] = variable
    model = _first(nodes, {"supervised_head"})
    if model is not None:
        for part in ("kernel", "bias"):
            variable = _variable(nodes, model, "supervised_head", "linear_layer", "dense", part)
            names[f"head_supervised/linear_layer/dense/{part}"] = variable
    return {name: variable for name, variable in names.items() if variable is not None}


def _first(nodes, children):
    return next((i for i, (own, _) in enumerate(nodes) if children <= own.keys()), None)


def _child(nodes, node, *path):
    for name in path:
        node = nodes[node][0].get(name)
        if node is None:
            return None
    return node


def _variable(nodes, node, *path):
    found = _child(nodes, node, *path)
    return None if found is None else nodes[found][1]


def _numbered_layers(nodes, root):
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


def _suffix(number):
    return f"_{number}" if number else ""
