"""How published weights of SimCLR are named, and which network their names and shapes stand for.

Every function speaks of the weights under the names of this package: those of the state dicts of the encoder,
the projector and the classifier, after "encoder.", "projector." and "classifier.".
"""

import re

from torch import nn

from ..resnet import _STAGES, BASE_CHANNELS, _Block

__all__ = [
    "detect_encoder",
    "detect_head",
    "google_kernels",
    "google_names",
    "own_names",
    "separius_names",
    "torchvision_names",
]

# V2 section 2 and the command lines of its authors.
_SK_RATIO = 1 / 16
_SK_MIN_CHANNELS = 32

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_GOOGLE_KERNEL = re.compile(r"base_model/conv2d(?:_(\d+))?/kernel")
_GOOGLE_HEAD = re.compile(r"head_contrastive/(n?l_\d+)/dense/kernel")


def detect_encoder(kernels, n_kernels):
    """Return the parameters of the ResNet that has such convolutions.

    Parameters
    ----------
    kernels : list of tuple of int
        Shapes (out, in, height, width), that of the network's first convolution first.
    n_kernels : int
        How many there should be; `kernels` may lack some of them.

    Returns
    -------
    parameters : dict
        Of ResNet, without those that shapes do not tell.

    Raises
    ------
    ValueError
        If the first convolution is none that a ResNet of SimCLR begins with.
    """
    leaving, entering, *window = kernels[0]
    if window not in ([3, 3], [7, 7]):
        raise ValueError(f"its first convolution is {window[0]}x{window[1]}, and SimCLR's are 7x7 or 3x3")
    stem, with_kernels = ("imagenet", (False,)) if window == [7, 7] else ("small", (False, True))
    candidates = []
    for depth, (bottleneck, blocks) in _STAGES.items():
        n_blocks = sum(blocks)
        if not bottleneck:
            candidates += [(4 + 2 * n_blocks, depth, stem, False), (5 + 2 * n_blocks, depth, stem, False)]
        else:
            candidates += [(5 + 3 * n_blocks, depth, stem, False)]
        if bottleneck and True in with_kernels:
            candidates += [(7 + 5 * n_blocks, depth, "imagenet", True)]
            candidates += [(5 + 5 * n_blocks, depth, "small", True)]
    count, depth, stem, sk = min(candidates, key=lambda candidate: abs(candidate[0] - n_kernels))
    channels = 2 * leaving if sk and stem == "imagenet" else leaving
    width, rest = divmod(channels, BASE_CHANNELS)
    if rest or not width:
        raise ValueError(
            f"its first stage has {channels} channels, and a ResNet a multiple of {BASE_CHANNELS}"
        )
    parameters = {"depth": depth, "width": width, "in_channels": entering, "stem": stem}
    parameters["sk_ratio"] = _sk_ratio(kernels, 8 * channels) if sk else 0.0
    bottleneck, blocks = _STAGES[depth]
    parameters["convolve_first"] = not sk and not bottleneck and count == 5 + 2 * sum(blocks)
    return parameters


def _sk_ratio(kernels, widest):
    """The share of channels in the mixing layers, from those of the last stage."""
    mixing = [
        out for out, entering, *window in kernels if window == [1, 1] and entering == widest and out < widest
    ]
    if not mixing or mixing[-1] == max(int(widest * _SK_RATIO), _SK_MIN_CHANNELS):
        return _SK_RATIO
    return mixing[-1] / widest


def detect_head(matrices):
    """Return the parameters of the ProjectionHead with such matrices, or None if there are none.

    Parameters
    ----------
    matrices : list of tuple of int
        Shapes (out, in) of its layers in order.

    Returns
    -------
    parameters : dict or None
        Of ProjectionHead.
    """
    if not matrices:
        return None
    return {
        "in_dim": matrices[0][1],
        "hidden_dim": matrices[0][0] if len(matrices) > 1 else None,
        "out_dim": matrices[-1][0],
        "n_layers": len(matrices),
    }


def own_names(module, prefix):
    """Return {name: name} of the parameters and buffers of a module that hold weights.

    Parameters
    ----------
    module : torch.nn.Module or None
        The network, or nothing.
    prefix : str
        What its names begin with, such as "encoder.".

    Returns
    -------
    names : dict of str to str
        Without the counters of BatchNorm.
    """
    if module is None:
        return {}
    keys = [prefix + key for key in module.state_dict() if not key.endswith("num_batches_tracked")]
    return dict(zip(keys, keys, strict=True))


def google_names(encoder, projector, classifier, head="nl"):
    """Return the names in the checkpoints of google-research/simclr: layers counted in order of creation.

    Parameters
    ----------
    encoder : ResNet
        The network.
    projector : ProjectionHead or None
        Its head.
    classifier : torch.nn.Linear or None
        The supervised head.
    head : {"nl", "l"}, default="nl"
        What the layers of the projector are called.

    Returns
    -------
    names : dict of str to str
        The package's name to theirs.
    """
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
    for ours in own_names(projector, "projector."):
        layer, part, key = ours.removeprefix("projector.layers.").split(".")
        theirs = "dense/kernel" if part == "0" else f"batch_normalization/{_NORM[key]}"
        names[ours] = f"head_contrastive/{head}_{layer}/{theirs}"
    for ours in own_names(classifier, "classifier."):
        theirs = "kernel" if ours.endswith("weight") else "bias"
        names[ours] = f"head_supervised/linear_layer/dense/{theirs}"
    return names


def _suffix(number):
    return f"_{number}" if number else ""


def google_kernels(shapes):
    """Return the convolutions and heads of a checkpoint of google-research/simclr.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Of the variables, in torch's order of dimensions.

    Returns
    -------
    kernels : list of tuple of int
        Shapes (out, in, height, width) in order; empty if the first is not there.
    n_kernels : int
        How many there should be by their numbers.
    matrices : list of tuple of int
        Shapes (out, in) of the projector's layers.
    head : str
        What they are called: "nl" or "l".
    """
    numbered, layers = {}, {}
    for name, shape in shapes.items():
        if (match := _GOOGLE_KERNEL.fullmatch(name)) and len(shape) == 4:
            numbered[int(match[1] or 0)] = shape
        elif (match := _GOOGLE_HEAD.fullmatch(name)) and len(shape) == 2:
            kind, number = match[1].split("_")
            layers[int(number)] = (kind, shape)
    kernels = [numbered[number] for number in sorted(numbered)] if 0 in numbered else []
    ordered = [layers[number] for number in sorted(layers)]
    head = ordered[0][0] if ordered else "nl"
    return kernels, max(numbered, default=-1) + 1, [shape for _, shape in ordered], head


def torchvision_names(encoder, projector, classifier):
    """Return the names in torchvision's state dicts, which tonylins/simclr-converter keeps.

    Parameters
    ----------
    encoder : ResNet
        The network, without selective kernels.
    projector : None
        These files have none.
    classifier : torch.nn.Linear or None
        The supervised head.

    Returns
    -------
    names : dict of str to str
        The package's name to theirs.
    """
    names = {ours: ours.removeprefix("encoder.") for ours in own_names(encoder, "encoder.")}
    return names | {
        ours: "fc." + ours.removeprefix("classifier.") for ours in own_names(classifier, "classifier.")
    }


def separius_names(encoder, projector, classifier):
    """Return the names in the files of Separius/SimCLRv2-Pytorch.

    Parameters
    ----------
    encoder : ResNet
        The network, with bottleneck blocks.
    projector : ProjectionHead or None
        Its head.
    classifier : torch.nn.Linear or None
        The supervised head.

    Returns
    -------
    names : dict of str to str
        The package's name to theirs.
    """
    deep = isinstance(encoder.conv1, nn.Sequential)
    layers = {"conv1.0": "0.0", "conv1.1": "0.1.0", "conv1.3": "0.2", "conv1.4": "0.3.0", "conv1.6": "0.4"}
    layers = {**layers, "bn1": "0.5.0"} if deep else {"conv1": "0.0", "bn1": "0.1.0"}
    for path, block in encoder.named_modules():
        if isinstance(block, _Block):
            stage, number = path.removeprefix("layer").split(".")
            for ours, theirs in _separius_block(block).items():
                layers[f"{path}.{ours}"] = f"{stage}.blocks.{number}.{theirs}"
    names = {}
    for ours in own_names(encoder, "encoder."):
        layer, _, key = ours.removeprefix("encoder.").rpartition(".")
        names[ours] = f"resnet.net.{layers.get(layer, layer)}.{key}"
    for ours in own_names(projector, "projector."):
        layer, part, key = ours.removeprefix("projector.layers.").split(".")
        names[ours] = f"head.layers.{3 * int(layer) + int(part)}.{key}"
    for ours in own_names(classifier, "classifier."):
        names[ours] = "resnet.fc." + ours.removeprefix("classifier.")
    return names


def _separius_block(block):
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
