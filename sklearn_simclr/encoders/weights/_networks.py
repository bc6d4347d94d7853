"""Networks with published weights: told from names and shapes, then filled."""

from collections import Counter
from typing import Any

import torch
from torch import nn

from ..._utils.warn import warn
from .. import resnet
from ..description import encoder_name, not_finite
from ..heads import ProjectionHead
from ..preprocessing import Preprocessing
from ..resnet import _SK_MIN_CHANNELS, _STAGES, ResNet
from ._files import StoredWeights
from ._names import Shape
from .network_file import Pretrained, check_heads

__all__ = ["detect_encoder", "fill_pretrained"]

# V2 section 2 and the command lines of its authors.
_SK_RATIO = 1 / 16

# A message that lists every variable of a checkpoint is of no use.
_LISTED = 20

# The authors evaluate images of the small stem whole (V1 appendix B.9).
_SMALL_SIDE = 32

# sthalles/SimCLR trains and evaluates on STL-10 by default, without a normalisation.
_STL_SIDE = 96

# Means and standard deviations that MoCo, lightly and torchvision normalise by, and solo-learn for CIFAR-10.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def fill_pretrained(stored: StoredWeights, *, classifier_layer: int = 0) -> Pretrained:
    """Return the network of some stored weights, filled with them one by one.

    Parameters
    ----------
    stored : StoredWeights
        What a file holds.
    classifier_layer : int, default=0
        Layer of the projector that the classifier reads.

    Returns
    -------
    Pretrained
        The network in evaluation mode.

    Raises
    ------
    ValueError
        If the file holds no known network, or not all of its weights.
    TypeError
        If `classifier_layer` is no int.
    """
    with torch.device("meta"):
        model = _told(stored)
    model.classifier_layer = classifier_layer
    names = stored.dialect.names(model.encoder, model.projector, model.classifier, stored.shapes)
    parts = model.parts()
    state = {
        key: v for part, module in parts.items() for key, v in module.state_dict(prefix=f"{part}.").items()
    }
    _check_variables(stored, names, state, model.preprocessing)
    try:
        check_heads(model)
    except ValueError as error:
        raise ValueError(f"{stored.origin}: {error}") from None
    for part, module in parts.items():
        filled = {}
        for key in module.state_dict():
            theirs = names.get(f"{part}.{key}")
            # Counters of BatchNorm, which only training uses, are not in such files.
            filled[key] = torch.tensor(0) if theirs is None else stored.read(theirs)
        odd = not_finite(filled)
        if odd:
            raise ValueError(
                f"{stored.origin}: {names[f'{part}.{odd}']!r} holds numbers that are not finite."
            )
        module.load_state_dict(filled, assign=True)
        module.eval()
    return model


def _told(stored: StoredWeights) -> Pretrained:
    """Return the network that names and shapes tell, without weights."""
    kernels, n_kernels, matrices = stored.dialect.kernels(stored.shapes)
    if not kernels:
        raise ValueError(f"{stored.origin} does not hold a ResNet of SimCLR: it has no first convolution.")
    program = stored.dialect.program
    try:
        parameters = detect_encoder(kernels, n_kernels)
        # The converter knows no other depth: these are torchvision's.
        if program == "tonylins" and parameters["depth"] != 50:
            program = "torchvision"
        if program == "solo-learn" and parameters["stem"] == "small":
            parameters["stem"] = "padded"
        padding = "same" if program in ("simclr", "tonylins") else "symmetric"
        encoder = ResNet(**parameters, pool_padding=padding, zero_init_residual=False)
    except ValueError as error:
        raise ValueError(f"{stored.origin} does not hold a ResNet of SimCLR: {error}.") from None
    projector = None
    if matrices:
        hidden = matrices[0][0] if len(matrices) > 1 else None
        projector = ProjectionHead(matrices[0][1], matrices[-1][0], len(matrices), hidden_dim=hidden)
    preprocessing = _preprocessing(program, parameters["stem"], parameters["in_channels"])
    return Pretrained(encoder, preprocessing, projector, _classifier(stored), name=encoder_name(encoder))


def _preprocessing(program: str, stem: str, channels: int) -> Preprocessing:
    """Return what images go through in the programs, which their files do not tell."""
    small = stem in ("small", "padded")
    if program in ("simclr", "tonylins"):
        return Preprocessing(_SMALL_SIDE, 1.0) if small else Preprocessing()
    if program == "sthalles":
        return Preprocessing(_SMALL_SIDE if small else _STL_SIDE, 1.0, "bilinear")
    statistics = _CIFAR if program == "solo-learn" and small else _IMAGENET
    mean, std = statistics if channels == 3 else (None, None)
    if small:
        return Preprocessing(_SMALL_SIDE, 1.0, "bilinear", mean=mean, std=std)
    return Preprocessing(interpolation="bilinear", mean=mean, std=std, fit="resize")


def _classifier(stored: StoredWeights) -> nn.Linear | None:
    name = stored.dialect.classifier
    shape = stored.shapes.get(name) if name else None
    if shape is None:
        return None
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{stored.origin}: {name!r} must be a matrix, but its shape is {shape}.")
    return nn.Linear(shape[1], shape[0])


def _check_variables(
    stored: StoredWeights, names: dict[str, str], state: dict[str, torch.Tensor], preprocessing: Preprocessing
) -> None:
    """Raise one error that lists missing, superfluous and misshapen variables; warn of ignored ones."""
    missing, misshapen = [], []
    for ours, theirs in names.items():
        found, expected = stored.shapes.get(theirs), tuple(state[ours].shape)
        if found is None:
            missing.append(stored.shown(theirs))
        elif found != expected:
            misshapen.append(f"{stored.shown(theirs)} {found} instead of {expected}")
    used = set(names.values())
    extra = [
        stored.shown(name)
        for name in stored.shapes
        if name not in used
        and not name.endswith("num_batches_tracked")
        and not stored.dialect.ignored(name)
        and not _is_idle(stored, name, names)
    ]
    problems = [
        f"{len(found)} {what}: {', '.join(found[:_LISTED])}{', ...' if len(found) > _LISTED else ''}"
        for what, found in (("missing", missing), ("misshapen", misshapen), ("superfluous", extra))
        if found
    ]
    ignored = Counter(
        _group(name) for name in stored.shapes if name not in used and stored.dialect.ignored(name)
    )
    if ignored and not problems:
        listed = ", ".join(f"{name} ({count})" for name, count in ignored.items())
        warn(
            f"{stored.origin} was read as a checkpoint of {stored.dialect.program}. The tensors of {listed} "
            f"are left out. Images go through {preprocessing}; to change that, set the attribute "
            "preprocessing of the object that load_pretrained returns."
        )
    if problems:
        raise ValueError(
            f"{stored.origin} was taken for a SimCLR network of {len(names)} variables, but does not fit: "
            f"{'; '.join(problems)}."
        )


def _group(name: str) -> str:
    """Return the part of a network that a tensor belongs to."""
    head, _, rest = name.removeprefix("module.").partition(".")
    return f"{head}.{rest.partition('.')[0]}" if rest.startswith(("fc.", "linear.")) else head


def _is_idle(stored: StoredWeights, name: str, names: dict[str, str]) -> bool:
    """Return whether a variable is the shift of Separius' last BatchNorm, a zero that the authors lack."""
    norm, _, key = name.rpartition(".")
    is_shift = key == "bias" and norm.startswith("head.") and f"{norm}.running_mean" in names.values()
    return is_shift and not stored.read(name).any()


def detect_encoder(kernels: list[Shape], n_kernels: int) -> dict[str, Any]:
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
        Parameters of ResNet, except those that shapes do not tell.

    Raises
    ------
    ValueError
        If a ResNet of SimCLR does not begin with such a convolution.
    """
    leaving, entering, *window = kernels[0]
    if window not in ([3, 3], [7, 7]):
        raise ValueError(f"its first convolution is {window[0]}x{window[1]}, but SimCLR's are 7x7 or 3x3")
    small = window == [3, 3]
    candidates = []
    for depth, (bottleneck, blocks) in _STAGES.items():
        stem, per_block = "small" if small else "imagenet", 3 if bottleneck else 2
        candidates.append((5 + per_block * sum(blocks), depth, stem, False))
        if not bottleneck:
            candidates.append((4 + per_block * sum(blocks), depth, stem, False))
        elif small:
            # Selective kernels take two convolutions more for each block, and a stem of three.
            candidates += [
                (n + 5 * sum(blocks), depth, stem, True) for n, stem in ((7, "imagenet"), (5, "small"))
            ]
    count, depth, stem, sk = min(candidates, key=lambda candidate: abs(candidate[0] - n_kernels))
    channels = 2 * leaving if sk and stem == "imagenet" else leaving
    width, rest = divmod(channels, resnet.BASE_CHANNELS)
    if rest or not width:
        raise ValueError(
            f"its first stage has {channels} channels, but a ResNet has a multiple of {resnet.BASE_CHANNELS}"
        )
    parameters = {"depth": depth, "width": width, "in_channels": entering, "stem": stem}
    parameters["sk_ratio"] = _sk_ratio(kernels, 8 * channels) if sk else 0.0
    bottleneck, blocks = _STAGES[depth]
    parameters["convolve_first"] = not sk and not bottleneck and count == 5 + 2 * sum(blocks)
    return parameters


def _sk_ratio(kernels: list[Shape], widest: int) -> float:
    """Return the share of channels in the mixing layers, by the mixing layers of the last stage."""
    mixing = [
        out for out, entering, *window in kernels if window == [1, 1] and entering == widest and out < widest
    ]
    if not mixing or mixing[-1] == max(int(widest * _SK_RATIO), _SK_MIN_CHANNELS):
        return _SK_RATIO
    return mixing[-1] / widest
