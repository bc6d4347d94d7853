"""Read published weights: checkpoints of SimCLR's authors, their conversions and torchvision's."""

import enum
import os
from pathlib import Path
from typing import Any

import torch

from ..._utils.container import peek
from ..preprocessing import Preprocessing
from ._files import find_prefix, open_bundle, open_file, open_torch
from ._networks import fill_pretrained
from .network_file import Pretrained, check_heads, read_network, save_pretrained

__all__ = ["Preprocessing", "Pretrained", "convert_checkpoint", "load_pretrained", "save_pretrained"]

_TORCHVISION = "torchvision:"
_TORCHVISION_ENUMS = tuple(f"ResNet{depth}_Weights" for depth in (18, 34, 50, 101, 152))


def load_pretrained(
    weights: str | os.PathLike | enum.Enum,
    *,
    ema: bool = False,
    classifier_layer: int | None = None,
    download: bool = False,
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
          :func:`~sklearn_simclr.export.export_encoder`.
        - A ``.pth`` of tonylins/simclr-converter or Separius/SimCLRv2-Pytorch, or the same in safetensors.
        - A checkpoint of lightly, solo-learn, MoCo or sthalles/SimCLR, or another file of torch with the
          weights of a ResNet-18, 34, 50, 101 or 152 under torchvision's names, alone or as a part of a larger
          module (``module.encoder_q.conv1.weight``, ``backbone.0.weight``); see Notes.
        - ``"torchvision:ResNet50_Weights.IMAGENET1K_V2"`` or that enum: supervised weights of a ResNet-18,
          34, 50, 101 or 152.
    ema : bool, default=False
        Whether to take the moving average of the weights, which some checkpoints hold as ``ema_model/``,
        ``encoder_k`` or ``momentum_backbone``.
    classifier_layer : int or None, default=None
        Layer of the projector that the classifier reads. Files of others do not tell; None is 0, which suits
        the linear evaluation of SimCLR and SimCLRv2 and the fine-tuning on all labels. SimCLRv2 fine-tuned on
        1% and 10% of the labels from layer 1.
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

    Warns
    -----
    UserWarning
        If a checkpoint holds more than a network, such as a projection head of another shape: the message
        says what is left out.

    See Also
    --------
    convert_checkpoint : The same, written as one file that loads faster.
    Preprocessing : What images go through.

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
    if isinstance(weights, enum.Enum) or str(weights).startswith(_TORCHVISION):
        return _load_torchvision(weights if isinstance(weights, enum.Enum) else str(weights), download)
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be a path or a torchvision weight enum, got {weights!r}.")
    if "://" in str(weights):
        raise ValueError(f"weights={str(weights)!r} is an address; copy the files to this machine first.")
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
    download: bool = False,
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
    pretrained = load_pretrained(weights, ema=ema, classifier_layer=classifier_layer, download=download)
    save_pretrained(pretrained, path)
    return pretrained


def _load_torchvision(weights: str | enum.Enum, download: bool) -> Pretrained:
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
    pretrained = fill_pretrained(open_torch(path))
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


def torchvision_name(member: enum.Enum) -> str:
    """Return the text that `load_pretrained` takes for a weight enum of torchvision."""
    return f"{_TORCHVISION}{member}"


def _torchvision_member(weights: str | enum.Enum) -> Any:
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
