"""Read published weights: checkpoints of SimCLR's authors, their conversions and torchvision's."""

import contextlib
import enum
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..._utils.container import peek
from ..._utils.usual_settings import usual_settings
from ..libraries import TIMM, TORCHVISION, LibraryNetwork, without_classifier
from ..preprocessing import Preprocessing
from ._files import find_prefix, open_bundle, open_file, open_torch
from ._networks import fill_pretrained
from .network_file import Pretrained, check_heads, read_network, save_pretrained

__all__ = ["Preprocessing", "Pretrained", "convert_checkpoint", "load_pretrained", "save_pretrained"]

# Torchvision's networks that are networks of this package, too.
_OUR_RESNETS = tuple(f"ResNet{depth}_Weights" for depth in (18, 34, 50, 101, 152))


@usual_settings()
def load_pretrained(
    weights: str | os.PathLike | enum.Enum,
    *,
    ema: bool = False,
    classifier_layer: int | None = None,
    download: bool = True,
) -> Pretrained:
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
          :func:`~sklearn_simclr.export_encoder`.
        - A ``.pth`` of tonylins/simclr-converter or Separius/SimCLRv2-Pytorch, or the same in safetensors.
        - A checkpoint of lightly, solo-learn, MoCo or sthalles/SimCLR, or another file of torch with the
          weights of a ResNet-18, 34, 50, 101 or 152 under torchvision's names, alone or as a part of a larger
          module (``module.encoder_q.conv1.weight``, ``backbone.0.weight``); see Notes.
        - ``"torchvision:NAME"``: weights of an image classifier of torchvision, such as
          ``"torchvision:resnet50"`` for its default ones, or
          ``"torchvision:ResNet50_Weights.IMAGENET1K_V2"``, or that enum.
        - ``"timm:NAME"``: weights of timm, such as ``"timm:resnet18.a1_in1k"``; needs the extra ``timm``.
    ema : bool, default=False
        Whether to take the moving average of the weights, which some checkpoints hold as ``ema_model/``,
        ``encoder_k`` or ``momentum_backbone``.
    classifier_layer : int or None, default=None
        Layer of the projector that the classifier reads. Files of others do not tell; None is 0, which suits
        the linear evaluation of SimCLR and SimCLRv2 and the fine-tuning on all labels. SimCLRv2 fine-tuned on
        1% and 10% of the labels from layer 1.
    download : bool, default=True
        Whether weights of torchvision and timm may be fetched, if they are not yet in the cache of torch or
        of huggingface.co.

    Returns
    -------
    Pretrained
        The network in evaluation mode, its weights float32 on the CPU. It shares no memory with the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or if weights of torchvision or timm are in no cache and cannot be fetched.
    ValueError
        If the file is of no known kind, is damaged, or its variables are not those of the network: the
        message lists the missing, superfluous and misshapen ones.
    TypeError
        If `weights` is neither a path nor a weight enum.
    ImportError
        If the weights are timm's, and it is not installed.

    Warns
    -----
    UserWarning
        If a checkpoint holds more than a network, such as a projection head of another shape: the message
        says what is left out.

    See Also
    --------
    sklearn_simclr.encoders.convert_checkpoint : The same, written as one file that loads faster.
    sklearn_simclr.encoders.Preprocessing : What images go through.

    Notes
    -----
    Files are never unpickled freely: torch files are read with ``weights_only=True``. In place of the
    settings that PyTorch Lightning adds, objects of classes that torch does not know, nothing is created.

    Files of torch do not tell what images went through in training. For those of lightly, MoCo and
    torchvision it is a resize to 256 pixels, the central 224 and a normalisation by the mean of ImageNet;
    with the first layer that is usual for CIFAR, 3x3, it is a resize to 32 pixels. solo-learn's are
    normalised by the mean of CIFAR-10 if they have that layer. sthalles' are resized to 96 pixels and not
    normalised. Replace the attribute ``preprocessing`` where it was otherwise, and keep the result with
    `save_pretrained`.

    A file with ``state_dict`` alone, or of safetensors, that holds a ResNet-50 is taken for one of
    tonylins/simclr-converter: not normalised. For torchvision's weights pass ``"torchvision:NAME"``.

    All checksums in a TensorFlow checkpoint and in files of this package are compared. Files of others in
    torch's format or safetensors have none: one that is cut short is refused, a changed number in it is not
    noticed.

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
    if isinstance(weights, enum.Enum) or str(weights).startswith(TORCHVISION):
        return _load_torchvision(weights if isinstance(weights, enum.Enum) else str(weights), download)
    if str(weights).startswith(TIMM):
        return _load_timm(str(weights), download)
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be a path or a torchvision weight enum, got {weights!r}.")
    if "://" in str(weights):
        raise ValueError(
            f"weights={str(weights)!r} is a network address; copy the files to this machine first."
        )
    path = Path(weights)
    is_file = path.suffix != ".index" and ".data-" not in path.name and path.is_file()
    if is_file and peek(path) is not None:
        if ema:
            raise ValueError(f"{path} has no moving average of its weights; pass ema=False.")
        pretrained = read_network(path)
        if classifier_layer is not None:
            pretrained.classifier_layer = classifier_layer
            check_heads(pretrained)
        return pretrained
    stored = open_file(path, ema) if is_file else open_bundle(find_prefix(path), ema)
    return fill_pretrained(stored, classifier_layer=0 if classifier_layer is None else classifier_layer)


def convert_checkpoint(
    weights: str | os.PathLike | enum.Enum,
    path: str | os.PathLike,
    *,
    ema: bool = False,
    classifier_layer: int | None = None,
    download: bool = True,
) -> Pretrained:
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
    download : bool, default=True
        Whether weights of torchvision and timm may be fetched.

    Returns
    -------
    Pretrained
        The network.

    See Also
    --------
    sklearn_simclr.load_pretrained : Says what is known and which errors are raised.

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
    pretrained = load_pretrained(weights, ema=ema, classifier_layer=classifier_layer, download=download)
    save_pretrained(pretrained, path)
    return pretrained


def _load_torchvision(weights: str | enum.Enum, download: bool) -> Pretrained:
    member = _torchvision_member(weights)
    from torchvision import models

    architectures = [
        name for name in models.list_models(module=models) if models.get_model_weights(name) is type(member)
    ]
    if not architectures:
        raise ValueError(
            f"weights={str(member)!r} are not of an image classifier of torchvision. All its classifiers are "
            "in torchvision.models.list_models(module=torchvision.models)."
        )
    path = _fetched(member.url, torchvision_name(member), download)
    if type(member).__name__ in _OUR_RESNETS:
        pretrained = fill_pretrained(open_torch(path))
    else:
        with _only_weights():
            model = models.get_model(architectures[0], weights=member, progress=False)
        module, classifier = without_classifier(model)
        preset = member.transforms()
        size = (preset.crop_size[0],) * 2
        network = LibraryNetwork(f"{TORCHVISION}{architectures[0]}", image_size=size, module=module)
        if classifier is not None and classifier.in_features != network.out_dim:
            classifier = None
        pretrained = Pretrained(network.eval(), Preprocessing(), classifier=classifier and classifier.eval())
    pretrained.name = torchvision_name(member)
    transform = member.transforms()
    pretrained.preprocessing = Preprocessing(
        size=transform.crop_size[0],
        crop_fraction=transform.crop_size[0] / transform.resize_size[0],
        interpolation=transform.interpolation.value,
        antialias=bool(transform.antialias),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        fit="resize",
    )
    return pretrained


def torchvision_name(member: enum.Enum) -> str:
    """Return the text that `load_pretrained` takes for a weight enum of torchvision."""
    return f"{TORCHVISION}{member}"


def _torchvision_member(weights: str | enum.Enum) -> Any:
    from torchvision.models import WeightsEnum, get_model_weights, get_weight

    if isinstance(weights, enum.Enum):
        if not isinstance(weights, WeightsEnum):
            raise TypeError(f"weights must be a path or a torchvision weight enum, got {weights!r}.")
        return weights
    name = weights.removeprefix(TORCHVISION)
    try:
        return get_weight(name) if "." in name else get_model_weights(name).DEFAULT
    except (ValueError, AttributeError, KeyError):
        raise ValueError(
            f"weights={weights!r}: torchvision has no weights {name!r}. Pass the name of a network, as in "
            '"torchvision:resnet50", or of its weights, as in "torchvision:ResNet50_Weights.IMAGENET1K_V2".'
        ) from None


def _load_timm(weights: str, download: bool) -> Pretrained:
    name = weights.removeprefix(TIMM)
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as error:
        raise ImportError(
            f'weights={weights!r} needs the package timm; install it with pip install "sklearn-simclr[timm]".'
        ) from error
    if not timm.is_model(name):
        raise ValueError(
            f"weights={weights!r}: timm {timm.__version__} has no network {name!r}. timm.list_pretrained() "
            "lists those with weights."
        )
    architecture = name.partition(".")[0]
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None or not config.has_weights:
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        raise ValueError(
            f"weights={weights!r}: timm {timm.__version__} has no weights of that name. For {architecture} "
            f"it has {', '.join(known) or 'none; timm.list_pretrained() lists the names of all weights'}."
        )
    path = _timm_file(config, weights, download)
    # Files of the hub are in timm's own format; others may be in that of their authors.
    overlay = {"file": str(path), "custom_load": config.custom_load and path.suffix == ".npz"}
    try:
        with _only_weights():
            module = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except Exception as error:
        raise ValueError(f"weights={weights!r}: timm could not load {path}: {error}") from error
    data = resolve_model_data_config(module)
    _, *size = data["input_size"]
    preprocessing = Preprocessing(
        size=tuple(size),
        crop_fraction=size[0] / math.floor(size[0] / data["crop_pct"]),
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        fit={"center": "resize"}.get(data["crop_mode"], data["crop_mode"]),
    )
    network = LibraryNetwork(weights, image_size=tuple(size), module=module)
    return Pretrained(network.eval(), preprocessing, name=weights)


def _timm_file(config: Any, weights: str, download: bool) -> Path:
    """Return the file that timm would load, from the cache of the hub or of torch, or fetched."""
    if config.file:
        return Path(config.file)
    if not config.hf_hub_id:
        return _fetched(config.url, weights, download)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = config.hf_hub_id.partition("@")
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for local in (True, False) if download else (True,):
        for file in files:
            try:
                return Path(
                    hf_hub_download(repository, file, revision=revision or None, local_files_only=local)
                )
            except LocalEntryNotFoundError as error:
                if not local:
                    _cannot_fetch(weights, f"{repository} of huggingface.co", "the hub's cache", error)
            except EntryNotFoundError:
                continue  # there may be another file
            except OSError as error:
                _cannot_fetch(weights, f"{repository} of huggingface.co", "the hub's cache", error)
    _cannot_fetch(weights, f"{repository} of huggingface.co", "the hub's cache", None)


def _fetched(url: str, weights: str, download: bool) -> Path:
    """Return where torch keeps the file of an address, after it is there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    if not download:
        _cannot_fetch(weights, url, str(path), None)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = path.stem.rpartition("-")[2]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except OSError as error:
        _cannot_fetch(weights, url, str(path), error)
    return path


def _cannot_fetch(weights: str, origin: str, place: str, error: Exception | None) -> NoReturn:
    reason = "download=False" if error is None else str(error).strip().splitlines()[0]
    raise FileNotFoundError(
        f"{weights} is not in {place}, and was not fetched from {origin}: {reason}. On a machine with a "
        f"network, run convert_checkpoint({weights!r}, 'weights.safetensors'), and pass the path of that "
        "file as weights here; or copy the cache."
    )


@contextlib.contextmanager
def _only_weights() -> Iterator[None]:
    """Let no library unpickle more than weights, whatever it asks torch for."""
    asked = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
