"""Keep a network, its heads and its preprocessing in one container."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, cast

import torch
from torch import nn

from ..._utils import container
from ..._utils.warn import shortened
from ..description import build_network, build_preprocessing, describe_network, fill_network
from ..heads import ProjectionHead
from ..preprocessing import Preprocessing, input_channels

__all__ = ["ENCODER", "Pretrained", "check_heads", "read_network", "save_pretrained", "write_network"]

# Kind of the container.
ENCODER = "encoder"

_PARTS = ("encoder", "projector", "classifier")


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
    sklearn_simclr.load_pretrained : Where these come from.
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
    def out_dim(self) -> int:
        """Width of the representation.

        Returns
        -------
        int
            Number of features of the encoder.
        """
        return cast(int, self.encoder.out_dim)

    def __repr__(self) -> str:
        _, *heads = self.parts()
        return f"<Pretrained {self.name}: {', '.join([f'encoder to {self.out_dim} features', *heads])}>"

    def parts(self) -> dict[str, nn.Module]:
        """Return the networks that there are.

        Returns
        -------
        parts : dict of str to torch.nn.Module
            Under "encoder", "projector" and "classifier".
        """
        modules = {name: getattr(self, name) for name in _PARTS}
        return {name: module for name, module in modules.items() if module is not None}

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the classifier's outputs for images, without gradients.

        Parameters
        ----------
        images : torch.Tensor of shape (n, C, H, W)
            Images as `preprocessing` takes them.

        Returns
        -------
        logits : torch.Tensor of shape (n, n_classes)
            One column per class; the authors' are the 1000 of ImageNet in the order of their synsets.

        Raises
        ------
        ValueError
            If the file had no classifier.
        """
        if self.classifier is None:
            raise ValueError(f"{self.name} has no classifier; use the features of its encoder instead.")
        hidden = self.encoder(self.preprocessing(images, channels=input_channels(self.encoder)))
        if self.classifier_layer and self.projector is not None:
            hidden = self.projector(hidden, n_layers=self.classifier_layer)
        return self.classifier(hidden)


def save_pretrained(pretrained: Pretrained, path: str | os.PathLike) -> None:
    """Write a network as one file of safetensors, its architecture and preprocessing in the header.

    Parameters
    ----------
    pretrained : Pretrained
        The network.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.

    Raises
    ------
    TypeError
        If the encoder is a module that is not of this package.
    OSError
        If the file cannot be written. What was there before stays.

    See Also
    --------
    sklearn_simclr.load_pretrained : Read it back.

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
    if describe_network(pretrained.encoder) is None:
        raise TypeError(
            f"pretrained.encoder is a {type(pretrained.encoder).__name__}, which is not of this package: a "
            "file without code cannot say how to build it. Save its state_dict with "
            "safetensors.torch.save_file."
        )
    write_network(pretrained, path)


def write_network(
    pretrained: Pretrained, path: str | os.PathLike, about: Mapping[str, Any] | None = None
) -> None:
    """Write a network. If it is not of this package, the file has its numbers alone.

    Parameters
    ----------
    pretrained : Pretrained
        The network.
    path : str or path-like
        Where to write.
    about : mapping or None, default=None
        Further information on the origin of the network for the file; JSON.
    """
    parts = pretrained.parts()
    meta = {
        "name": pretrained.name,
        "networks": {name: describe_network(part) for name, part in parts.items()},
        "classifier_layer": pretrained.classifier_layer,
        "preprocessing": asdict(pretrained.preprocessing),
        "about": about,
    }
    arrays = {
        f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()
    }
    container.write(path, ENCODER, arrays, meta)


def read_network(path: str | os.PathLike) -> Pretrained:
    """Read what `write_network` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Pretrained
        The network in evaluation mode, its weights float32 on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no container of an encoder, is damaged, or describes no network of this package.
    """
    arrays, meta = container.read(path, ENCODER)
    try:
        if meta["networks"]["encoder"] is None:
            raise ValueError(
                f"the file has the weights of a {shortened(str(meta['name']))}, which is not of this "
                "package; build that module, and load the weights with safetensors.torch.load_file"
            )
        parts = {}
        for part, description in meta["networks"].items():
            names = [name for name in arrays if name.startswith(f"{part}.")]
            state = {name.removeprefix(f"{part}."): _as_float32(arrays.pop(name)) for name in names}
            parts[part] = fill_network(build_network(description, len(state)), state)
        if arrays:
            raise ValueError(f"{len(arrays)} of its arrays belong to no network, such as {min(arrays)!r}")
        encoder, projector, classifier = _of_their_kinds(**parts)
        pretrained = Pretrained(
            encoder,
            build_preprocessing(meta["preprocessing"]),
            projector,
            classifier,
            meta["classifier_layer"],
            str(meta["name"]),
        )
        check_heads(pretrained)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(
            f"{path}: its description of the network is not valid: {shortened(detail)}."
        ) from None
    return pretrained


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _of_their_kinds(
    encoder: nn.Module, projector: nn.Module | None = None, classifier: nn.Module | None = None
) -> tuple[nn.Module, ProjectionHead | None, nn.Linear | None]:
    """Return the networks, or raise if one of them is of a wrong kind."""
    if not hasattr(encoder, "out_dim") or isinstance(encoder, ProjectionHead):
        raise ValueError(f"its encoder is a {type(encoder).__name__}, which is not an encoder")
    if projector is not None and not isinstance(projector, ProjectionHead):
        raise ValueError(f"its projector is a {type(projector).__name__}, which is not a projection head")
    if classifier is not None and not isinstance(classifier, nn.Linear):
        raise ValueError(f"its classifier is a {type(classifier).__name__}, which is not a linear layer")
    return encoder, projector, classifier


def check_heads(pretrained: Pretrained) -> None:
    """Raise unless encoder, projector and classifier fit together.

    Parameters
    ----------
    pretrained : Pretrained
        Networks, or their shapes on the meta device.

    Raises
    ------
    TypeError
        If the layer of the classifier is no int.
    ValueError
        If a head takes another number of features than the part before it gives.
    """
    encoder, projector, classifier = pretrained.encoder, pretrained.projector, pretrained.classifier
    layer = pretrained.classifier_layer
    if not isinstance(layer, Integral) or isinstance(layer, bool):
        raise TypeError(f"classifier_layer must be an int or None, got {layer!r}.")
    if projector is not None and projector.in_dim != encoder.out_dim:
        raise ValueError(
            f"the projector takes {projector.in_dim} features, but the encoder gives {encoder.out_dim}."
        )
    n_layers = projector.n_layers if projector is not None else 0
    if not 0 <= layer <= n_layers:
        raise ValueError(
            f"classifier_layer={layer} is out of range: the projector has {n_layers} layers. Pass an int "
            f"from 0 to {n_layers}."
        )
    width = projector.layer_dim(layer) if layer else encoder.out_dim
    if classifier is not None and classifier.in_features != width:
        raise ValueError(
            f"the classifier takes {classifier.in_features} features, but layer {layer} has {width}; pass "
            "another classifier_layer."
        )
