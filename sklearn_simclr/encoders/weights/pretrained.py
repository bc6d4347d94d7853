"""Published weights: checkpoints of SimCLR's authors, their conversions, torchvision's, and our own files."""

import enum
import json
import os
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import nn

from ..heads import ProjectionHead
from ..networks import build_network, describe_network, encoder_name, input_channels
from ..preprocessing import Preprocessing
from ..resnet import ResNet
from . import _names as naming
from ._files import METADATA, StoredWeights, open_bundle, open_file, open_torch
from ._tensor_bundle import find_prefix

__all__ = ["Preprocessing", "Pretrained", "convert_checkpoint", "load_pretrained", "save_pretrained"]

_FORMAT = 1

# Key of the description that export_encoder writes into the header of its files.
_EXPORTED = "sklearn_simclr_encoder"

_TORCHVISION = "torchvision:"
_TORCHVISION_ENUMS = tuple(f"ResNet{depth}_Weights" for depth in (18, 34, 50, 101, 152))

# A message that lists every variable of a checkpoint is of no use.
_LISTED = 20

# The authors evaluate images of the small stem whole (V1 appendix B.9).
_SMALL_SIDE = 32


@dataclass(eq=False)
class Pretrained:
    """A network with its weights, in evaluation mode, and what it needs to be used.

    Parameters
    ----------
    encoder : torch.nn.Module
        A network of this package, from images (n, C, H, W) to representations h (n, out_dim).
    preprocessing : Preprocessing
        What images go through first.
    projector : ProjectionHead or None, default=None
        Representations to projections z, if the file has them.
    classifier : torch.nn.Linear or None, default=None
        The supervised head, if the file has one.
    classifier_layer : int, default=0
        Layer of the projector that the classifier reads, 0 for h.
    name : str, default=""
        Name of the architecture or of the weights.

    Attributes
    ----------
    out_dim : int
        Width of h.

    See Also
    --------
    load_pretrained : Where these come from.
    save_pretrained : Where they go.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sklearn_simclr.encoders.resnet import ResNet
    >>> from sklearn_simclr.encoders import Preprocessing, Pretrained
    >>> net = ResNet(18, stem="small").eval()
    >>> model = Pretrained(net, Preprocessing(32, 1.0), classifier=nn.Linear(512, 10))
    >>> model.logits(torch.zeros(2, 3, 40, 40)).shape
    torch.Size([2, 10])
    """

    encoder: nn.Module
    preprocessing: Preprocessing
    projector: ProjectionHead | None = None
    classifier: nn.Linear | None = None
    classifier_layer: int = 0
    name: str = ""

    @property
    def out_dim(self):
        """Width of the representation.

        Returns
        -------
        int
            Number of features of the encoder.
        """
        return self.encoder.out_dim

    def __repr__(self):
        heads = "".join(
            f", {head}" for head in ("projector", "classifier") if getattr(self, head) is not None
        )
        return f"<Pretrained {self.name}: encoder to {self.out_dim} features{heads}>"

    @torch.no_grad()
    def logits(self, images):
        """Return the classifier's outputs for images, without gradients.

        Parameters
        ----------
        images : torch.Tensor of shape (n, C, H, W)
            Images as `preprocessing` takes them.

        Returns
        -------
        logits : torch.Tensor of shape (n, n_classes)
            One column a class; the authors' are the 1000 of ImageNet in the order of their synsets.

        Raises
        ------
        ValueError
            If the file had no classifier.
        """
        if self.classifier is None:
            raise ValueError(f"{self.name} has no classifier; take the features of its encoder.")
        hidden = self.encoder(self.preprocessing(images, channels=input_channels(self.encoder)))
        if self.classifier_layer:
            hidden = self.projector(hidden, n_layers=self.classifier_layer)
        return self.classifier(hidden)


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
        stored = _open_exported(path) or open_file(path)
    else:
        stored = open_bundle(find_prefix(path), ema, verify)
    if ema and stored.dialect != "google":
        raise ValueError(f"{path} has no moving average of its weights; pass ema=False.")
    return _build(stored, classifier_layer)


def save_pretrained(pretrained, path):
    """Write a network as one file of safetensors, its architecture and preprocessing in the header.

    Parameters
    ----------
    pretrained : Pretrained
        The network.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.

    See Also
    --------
    load_pretrained : Read it back.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn_simclr.encoders.resnet import ResNet
    >>> from sklearn_simclr.encoders import Preprocessing, Pretrained, save_pretrained
    >>> model = Pretrained(ResNet(18, stem="small"), Preprocessing(32, 1.0), name="mine")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(model, os.path.join(folder, "mine.safetensors"))
    ...     os.listdir(folder)
    ['mine.safetensors']
    """
    from safetensors.torch import save_file

    header = {
        "format": _FORMAT,
        "name": pretrained.name,
        "encoder": _encoder_parameters(pretrained.encoder),
        "projector": _projector_parameters(pretrained.projector),
        "classifier_layer": pretrained.classifier_layer,
        "preprocessing": asdict(pretrained.preprocessing),
    }
    tensors = {}
    for part, module in _parts(pretrained.encoder, pretrained.projector, pretrained.classifier):
        state = {} if module is None else module.state_dict()
        for key in naming.own_names(module, ""):
            tensors[f"{part}.{key}"] = state[key].detach().cpu().contiguous()
    path = Path(path)
    # Beside the target, so that the last step is a rename.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        # safetensors writes files that nobody else may read; this one has the rights of any new file.
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file(tensors, unfinished, metadata={METADATA: json.dumps(header)})
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


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
        encoder, projector, head, name, preprocessing, layer = _architecture(stored, pool_padding)
        classifier = _classifier(stored)
    if classifier_layer is not None:
        layer = classifier_layer
    if stored.dialect == "google":
        names = naming.google_names(encoder, projector, classifier, head)
    elif stored.dialect in ("own", "exported"):
        names = {}
        for part, module in _parts(encoder, projector, classifier):
            names |= naming.own_names(module, f"{part}.")
    elif stored.dialect == "separius":
        names = naming.separius_names(encoder, projector, classifier)
    else:
        names = naming.torchvision_names(encoder, projector, classifier)
    state = {}
    for part, module in _parts(encoder, projector, classifier):
        if module is not None:
            state |= {f"{part}.{key}": value for key, value in module.state_dict().items()}
    _check_variables(stored, names, state)
    _check_heads(stored.origin, encoder, projector, classifier, layer)
    for part, module in _parts(encoder, projector, classifier):
        if module is None:
            continue
        filled = {}
        for key in module.state_dict():
            theirs = names.get(f"{part}.{key}")
            filled[key] = torch.tensor(0) if theirs is None else stored.read(theirs)
        module.load_state_dict(filled, assign=True)
        module.eval()
    return Pretrained(encoder, preprocessing, projector, classifier, layer, name)


def _parts(encoder, projector, classifier):
    return ("encoder", encoder), ("projector", projector), ("classifier", classifier)


def _architecture(stored, pool_padding):
    """Encoder, projector, how its layers are called, name, preprocessing, layer of the classifier."""
    if stored.dialect in ("own", "exported"):
        return _described(stored)
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
    return encoder, projector, head, encoder_name(encoder), preprocessing, 0


def _described(stored):
    """The same for our own files, whose header says it."""
    try:
        described = _exported_parts if stored.dialect == "exported" else _own_parts
        encoder, projector, preprocessing, layer, name = described(stored.header, len(stored.shapes))
        if type(layer) is not int:
            raise ValueError(f"classifier_layer is {layer!r}, not an int")
        return encoder, projector, "nl", str(name), preprocessing, layer
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{stored.origin}: its description of the network is not valid: {detail}.") from None


def _own_parts(header, n_tensors):
    if header["format"] != _FORMAT:
        raise ValueError(
            f"format {header['format']} of the file is not {_FORMAT}; update sklearn-simclr to read it"
        )
    # A ResNet, if it does not say what it is.
    encoder = _build_encoder({"kind": "resnet", **header["encoder"]}, n_tensors)
    projector = header["projector"]
    if projector is not None:
        projector = build_network({"kind": "projector", **projector}, n_tensors)
    preprocessing = Preprocessing(**header["preprocessing"])
    return encoder, projector, preprocessing, header["classifier_layer"], header["name"]


def _exported_parts(header, n_tensors):
    about = header["encoder"]
    if about["network"] is None:
        raise ValueError(
            f"it has the weights of a {about['class']}, which is not of this package; build that module and "
            "load them with safetensors.torch.load_file"
        )
    encoder = _build_encoder(about["network"], n_tensors)
    projector = header["heads"].get("projector")
    if projector is not None:
        projector = build_network(projector, n_tensors)
        if not isinstance(projector, ProjectionHead):
            raise ValueError("its projector is no projection head")
    return (
        encoder,
        projector,
        Preprocessing(**header["resize"]),
        header["classifier_layer"],
        about["name"],
    )


def _build_encoder(description, n_tensors):
    encoder = build_network(description, n_tensors)
    if not hasattr(encoder, "out_dim") or isinstance(encoder, ProjectionHead):
        raise ValueError(f"{description['kind']!r} is no encoder")
    return encoder


def _open_exported(path):
    """The weights in a file of export_encoder, or None for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if METADATA in metadata or _EXPORTED not in metadata:
                return None
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError:
        return None
    try:
        header = json.loads(metadata[_EXPORTED])
    except ValueError as error:
        raise ValueError(f"{path}: its description of the network is no JSON: {error}.") from None

    def read(name):
        # Opened anew: what one handle has read stays mapped, in the end the whole file beside the copy.
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name).to(torch.float32, copy=True)

    return StoredWeights(str(path), "exported", shapes, read, header=header)


def _classifier(stored):
    names = {
        "exported": "classifier.weight",
        "google": "head_supervised/linear_layer/dense/kernel",
        "own": "classifier.weight",
        "separius": "resnet.fc.weight",
        "torchvision": "fc.weight",
    }
    shape = stored.shapes.get(names[stored.dialect])
    if shape is None:
        return None
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{stored.origin}: {names[stored.dialect]!r} is no matrix: its shape is {shape}.")
    return nn.Linear(shape[1], shape[0])


def _check_heads(origin, encoder, projector, classifier, layer):
    if not isinstance(layer, Integral) or isinstance(layer, bool):
        raise TypeError(f"classifier_layer must be an int or None, got {layer!r}.")
    if projector is not None and projector.in_dim != encoder.out_dim:
        raise ValueError(
            f"{origin}: the projector takes {projector.in_dim} features, the encoder gives {encoder.out_dim}."
        )
    n_layers = projector.n_layers if projector is not None else 0
    if not 0 <= layer <= n_layers:
        raise ValueError(f"classifier_layer={layer}: {origin} has a projector of {n_layers} layers.")
    width = projector.layer_dim(layer) if layer else encoder.out_dim
    if classifier is not None and classifier.in_features != width:
        raise ValueError(
            f"{origin}: the classifier takes {classifier.in_features} features, layer {layer} has {width}; "
            "pass another classifier_layer."
        )


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


def _encoder_parameters(encoder):
    if isinstance(encoder, ResNet):
        return encoder.options
    description = describe_network(encoder)
    if description is None:
        raise TypeError(
            f"pretrained.encoder is a {type(encoder).__name__}, which is not of this package: a file without "
            "code cannot say how to build it. Save its state_dict with safetensors.torch.save_file."
        )
    return description


def _projector_parameters(projector):
    if projector is None:
        return None
    description = describe_network(projector)
    del description["kind"]
    return description


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
