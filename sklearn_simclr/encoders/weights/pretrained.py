"""Read published weights: checkpoints of SimCLR's authors, their conversions and torchvision's."""

import enum
import os
from pathlib import Path

import torch
from torch import nn

from ..._utils.container import peek
from ..heads import ProjectionHead
from ..networks import encoder_name
from ..preprocessing import Preprocessing
from ..resnet import ResNet
from . import _names as naming
from ._files import open_bundle, open_file, open_torch
from ._tensor_bundle import find_prefix
from .network_file import Pretrained, check_heads, read_network, save_pretrained

__all__ = ["Preprocessing", "Pretrained", "convert_checkpoint", "load_pretrained", "save_pretrained"]

_TORCHVISION = "torchvision:"
_TORCHVISION_ENUMS = tuple(f"ResNet{depth}_Weights" for depth in (18, 34, 50, 101, 152))

_NO_AVERAGE = "{} has no moving average of its weights; pass ema=False."

# A message that lists every variable of a checkpoint is of no use.
_LISTED = 20

# The authors evaluate images of the small stem whole (V1 appendix B.9).
_SMALL_SIDE = 32


def load_pretrained(weights, *, ema=False, classifier_layer=None, verify=True, download=False):
    """Return the network that a file of weights holds.

    Depth, width and selective kernels are found from the names and shapes in the file.

    Parameters
    ----------
    weights : str, path-like or torchvision weight enum
        - A checkpoint of github.com/google-research/simclr, of SimCLR or SimCLRv2, whether pretrained,
          fine-tuned, distilled or supervised: its prefix (the path without ".index"), one of its files, its
          directory or the directory of a SavedModel. TensorFlow is not needed. The names of TensorFlow 1 and
          2 are both known.
        - A file of safetensors from `save_pretrained`, `convert_checkpoint` or
          :func:`~sklearn_simclr.export.export_encoder`.
        - A ``.pth`` of tonylins/simclr-converter or Separius/SimCLRv2-Pytorch, or the same in safetensors.
        - ``"torchvision:ResNet50_Weights.IMAGENET1K_V2"`` or that enum: supervised weights of a ResNet-18,
          34, 50, 101 or 152.
    ema : bool, default=False
        Whether to take the moving average of the weights, which some checkpoints hold as ``ema_model/``.
    classifier_layer : int or None, default=None
        Layer of the projector that the classifier reads. Files of others do not tell; None is 0, which suits
        the linear evaluation of SimCLR and SimCLRv2 and the fine-tuning on all labels. SimCLRv2 fine-tuned on
        1% and 10% of the labels from layer 1.
    verify : bool, default=True
        Whether the checksums in a TensorFlow checkpoint are compared.
    download : bool, default=False
        Whether torchvision's weights may be fetched, if they are not yet in torch's cache.

    Returns
    -------
    Pretrained
        The network in evaluation mode, its weights float32 on the CPU. It shares no memory with the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or torchvision's weights are not in the cache and `download` is false.
    ValueError
        If the file is of no known kind, is damaged, or its variables are not those of the network: the
        message lists the missing, superfluous and misshapen ones.
    TypeError
        If `weights` is neither a path nor a weight enum.

    See Also
    --------
    convert_checkpoint : The same, written as one file that loads faster.
    Preprocessing : What images go through.

    Notes
    -----
    Files are never unpickled freely: torch files are read with ``weights_only=True``.

    A loaded network takes little more memory than its weights, which are converted one by one.

    The bias of the classifier is random in files made by tonylins' converter, which does not set it.

    References
    ----------
    .. [1] Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
       arXiv:2002.05709.
    .. [2] Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", arXiv:2006.10029,
       section 2 for the layer to fine-tune from, table 1 for the networks.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn_simclr.encoders.resnet import ResNet
    >>> from sklearn_simclr.encoders import Preprocessing, Pretrained, load_pretrained, save_pretrained
    >>> model = Pretrained(ResNet(18, stem="small"), Preprocessing(32, 1.0), name="mine")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "mine.safetensors")
    ...     save_pretrained(model, path)
    ...     load_pretrained(path)
    <Pretrained mine: encoder to 512 features>
    """
    if isinstance(weights, enum.Enum) or str(weights).startswith(_TORCHVISION):
        return _load_torchvision(weights, download)
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be a path or a torchvision weight enum, got {weights!r}.")
    if "://" in str(weights):
        raise ValueError(f"weights={str(weights)!r} is an address; copy the files to this machine first.")
    path = Path(weights)
    if path.suffix != ".index" and ".data-" not in path.name and path.is_file():
        if peek(path) is not None:
            return _read_own(path, ema, classifier_layer)
        stored = open_file(path)
    else:
        stored = open_bundle(find_prefix(path), ema, verify)
    if ema and stored.dialect != "google":
        raise ValueError(_NO_AVERAGE.format(path))
    return _build(stored, classifier_layer)


def _read_own(path, ema, classifier_layer):
    if ema:
        raise ValueError(_NO_AVERAGE.format(path))
    pretrained = read_network(path)
    if classifier_layer is not None:
        pretrained.classifier_layer = classifier_layer
        _check_heads(path, pretrained)
    return pretrained


def _check_heads(origin, pretrained):
    try:
        check_heads(pretrained)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


def convert_checkpoint(weights, path, *, ema=False, classifier_layer=None, verify=True, download=False):
    """Write what `load_pretrained` reads as one file of safetensors, which loads faster.

    Parameters
    ----------
    weights : str, path-like or torchvision weight enum
        As of `load_pretrained`.
    path : str or path-like
        Where to write.
    ema : bool, default=False
        Whether to take the moving average of the weights.
    classifier_layer : int or None, default=None
        Layer of the projector that the classifier reads; kept in the file.
    verify : bool, default=True
        Whether the checksums in a TensorFlow checkpoint are compared.
    download : bool, default=False
        Whether torchvision's weights may be fetched.

    Returns
    -------
    Pretrained
        The network.

    See Also
    --------
    load_pretrained : Says what is known and which errors are raised.

    Examples
    --------
    >>> import os, tempfile, torch
    >>> from torchvision.models import resnet18
    >>> from sklearn_simclr.encoders import convert_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     theirs = os.path.join(folder, "theirs.pth")
    ...     torch.save({"state_dict": resnet18().state_dict()}, theirs)
    ...     convert_checkpoint(theirs, os.path.join(folder, "ours.safetensors"))
    <Pretrained resnet18: encoder to 512 features, classifier>
    """
    pretrained = load_pretrained(
        weights, ema=ema, classifier_layer=classifier_layer, verify=verify, download=download
    )
    save_pretrained(pretrained, path)
    return pretrained


def _build(stored, classifier_layer, pool_padding="same"):
    """The network of some stored weights, filled with them one by one.

    The weights converted to torch are the authors', who trained with TensorFlow's padding.
    """
    with torch.device("meta"):
        encoder, projector, head, preprocessing = _architecture(stored, pool_padding)
        classifier = _classifier(stored)
    if stored.dialect == "google":
        names = naming.google_names(encoder, projector, classifier, head)
    elif stored.dialect == "separius":
        names = naming.separius_names(encoder, projector, classifier)
    else:
        names = naming.torchvision_names(encoder, projector, classifier)
    state = {}
    for part, module in _parts(encoder, projector, classifier):
        if module is not None:
            state |= {f"{part}.{key}": value for key, value in module.state_dict().items()}
    _check_variables(stored, names, state)
    layer = 0 if classifier_layer is None else classifier_layer
    pretrained = Pretrained(encoder, preprocessing, projector, classifier, layer, encoder_name(encoder))
    _check_heads(stored.origin, pretrained)
    for part, module in _parts(encoder, projector, classifier):
        if module is None:
            continue
        filled = {}
        for key in module.state_dict():
            theirs = names.get(f"{part}.{key}")
            filled[key] = torch.tensor(0) if theirs is None else stored.read(theirs)
        module.load_state_dict(filled, assign=True)
        module.eval()
    return pretrained


def _parts(encoder, projector, classifier):
    return ("encoder", encoder), ("projector", projector), ("classifier", classifier)


def _architecture(stored, pool_padding):
    """Encoder, projector, how its layers are called, preprocessing."""
    head = "nl"
    if stored.dialect == "google":
        kernels, n_kernels, matrices, head = naming.google_kernels(stored.shapes)
    else:
        stem = "resnet.net.0.0.weight" if stored.dialect == "separius" else "conv1.weight"
        shapes = {stem: stored.shapes[stem], **stored.shapes}
        kernels = [shape for shape in shapes.values() if len(shape) == 4]
        n_kernels = len(kernels)
        matrices = [
            shape for name, shape in shapes.items() if name.startswith("head.layers.") and len(shape) == 2
        ]
    if not kernels or len(kernels[0]) != 4:
        raise ValueError(f"{stored.origin} has no convolution to begin with.")
    try:
        parameters = naming.detect_encoder(kernels, n_kernels)
        encoder = ResNet(**parameters, pool_padding=pool_padding, zero_init_residual=False)
    except ValueError as error:
        raise ValueError(f"{stored.origin} does not hold a ResNet of SimCLR: {error}.") from None
    projector = naming.detect_head(matrices)
    if projector is not None:
        projector = ProjectionHead(**projector)
    small = parameters["stem"] == "small"
    preprocessing = Preprocessing(_SMALL_SIDE, 1.0) if small else Preprocessing()
    return encoder, projector, head, preprocessing


def _classifier(stored):
    names = {
        "google": "head_supervised/linear_layer/dense/kernel",
        "separius": "resnet.fc.weight",
        "torchvision": "fc.weight",
    }
    shape = stored.shapes.get(names[stored.dialect])
    if shape is None:
        return None
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{stored.origin}: {names[stored.dialect]!r} is no matrix: its shape is {shape}.")
    return nn.Linear(shape[1], shape[0])


def _check_variables(stored, names, state):
    """Raise one error that lists what is missing, too much, or of another shape."""
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
        if name not in used and not name.endswith("num_batches_tracked") and not _is_idle(stored, name, names)
    ]
    problems = [
        f"{len(found)} {what}: {', '.join(found[:_LISTED])}{', ...' if len(found) > _LISTED else ''}"
        for what, found in (("missing", missing), ("misshapen", misshapen), ("superfluous", extra))
        if found
    ]
    if problems:
        raise ValueError(
            f"{stored.origin} was taken for a SimCLR network of {len(names)} variables, and does not fit it: "
            f"{'; '.join(problems)}."
        )


def _is_idle(stored, name, names):
    """Whether a variable is the shift of Separius' last BatchNorm, which the authors do not have: zero."""
    norm, _, key = name.rpartition(".")
    if stored.dialect != "separius" or not norm.startswith("head.") or key != "bias":
        return False
    return f"{norm}.running_mean" in names.values() and not stored.read(name).any()


def _load_torchvision(weights, download):
    member = _torchvision_member(weights)
    kind = type(member).__name__
    if kind not in _TORCHVISION_ENUMS:
        raise ValueError(
            f"weights={str(member)!r} are not of a ResNet that is known; pass some of "
            f"{', '.join(_TORCHVISION_ENUMS)}."
        )
    url = member.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        if not download:
            raise FileNotFoundError(
                f"{path} does not exist: load_pretrained(..., download=True) fetches {member} from {url}, or "
                "put it there."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    pretrained = _build(open_torch(path), None, pool_padding="symmetric")
    pretrained.name = torchvision_name(member)
    transform = member.transforms()
    pretrained.preprocessing = Preprocessing(
        size=transform.crop_size[0],
        crop_fraction=transform.crop_size[0] / transform.resize_size[0],
        interpolation=transform.interpolation.value,
        antialias=bool(transform.antialias),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
    return pretrained


def torchvision_name(member):
    """Return the text that `load_pretrained` takes for a weight enum of torchvision."""
    return f"{_TORCHVISION}{member}"


def _torchvision_member(weights):
    from torchvision.models import WeightsEnum, get_weight

    if isinstance(weights, enum.Enum):
        if not isinstance(weights, WeightsEnum):
            raise TypeError(f"weights must be a path or a torchvision weight enum, got {weights!r}.")
        return weights
    name = weights.removeprefix(_TORCHVISION)
    try:
        return get_weight(name)
    except (ValueError, AttributeError, KeyError):
        raise ValueError(
            f'weights={weights!r}: torchvision has no weights {name!r}; a name is like "ResNet50_Weights.'
            'IMAGENET1K_V2".'
        ) from None
