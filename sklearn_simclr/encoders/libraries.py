"""Networks of timm and torchvision as encoders: without their classifier, for any number of channels."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from .make import _find_out_dim, _make_timm
from .resnet import ResNet

__all__ = ["TIMM", "TORCHVISION", "LibraryNetwork", "take_channels", "with_channels", "without_classifier"]

TIMM = "timm:"
TORCHVISION = "torchvision:"

# Channels of the images that both libraries train on.
_CHANNELS = 3

# By default these draw their weights slowly, and their published weights need pixels on another scale.
_INCEPTIONS = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1", "aux2", "AuxLogits")


class LibraryNetwork(nn.Module):
    """A network of timm or torchvision that returns features.

    Parameters
    ----------
    name : str
        ``"timm:NAME"`` or ``"torchvision:NAME"``.
    in_channels : int, default=3
        Channels of the images, >= 1.
    image_size : (int, int), default=(224, 224)
        Height and width of the images.
    module : torch.nn.Module or None, default=None
        The network without its classifier, for such images. None: a new one, with random weights.

    Attributes
    ----------
    out_dim : int
        Number of features.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = _CHANNELS,
        image_size: tuple[int, int] = (224, 224),
        module: nn.Module | None = None,
    ) -> None:
        super().__init__()
        height, width = image_size
        self.name, self.in_channels, self.image_size = name, int(in_channels), (int(height), int(width))
        self.module = self._build() if module is None else module
        self.out_dim = _find_out_dim(self.module, self.in_channels, self.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, out_dim) of float images (n, in_channels, H, W)."""
        return self.module(images)

    @property
    def options(self) -> dict[str, Any]:
        """The parameters that make a network of the same shape.

        Returns
        -------
        dict
            Numbers and strings.
        """
        return {"name": self.name, "in_channels": self.in_channels, "image_size": list(self.image_size)}

    def new(self) -> Self:
        """Return a network of the same shape with random weights, drawn from torch's global generator.

        Returns
        -------
        LibraryNetwork
            Another network.
        """
        return type(self)(**self.options)

    def _build(self) -> nn.Module:
        if self.name.startswith(TIMM):
            module = _make_timm(self.name, _CHANNELS, self.image_size)
        elif self.name.startswith(TORCHVISION):
            module, _ = without_classifier(
                _make_torchvision(self.name.removeprefix(TORCHVISION), self.image_size)
            )
        else:
            raise ValueError(f"{self.name!r} is not a network of timm or torchvision")
        return take_channels(module, _CHANNELS, self.in_channels, self.image_size)


def _make_torchvision(name: str, image_size: tuple[int, int]) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no image classifier {name!r}")
    options: dict[str, Any] = {}
    if name in _INCEPTIONS:
        options = {"transform_input": True, "init_weights": False}
    elif name.startswith("vit_"):
        options = {"image_size": image_size[0]}  # as many positions as patches
    return models.get_model(name, weights=None, **options)


def without_classifier(model: nn.Module) -> tuple[nn.Module, nn.Linear | None]:
    """Take the classifier of a network of torchvision away.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier; changed in place.

    Returns
    -------
    features : torch.nn.Module
        The network: images to the pooled input of its last layer of weights.
    classifier : torch.nn.Linear or None
        The last layer of weights; None if it is a convolution.
    """
    # Further classifiers of inner layers, which only training uses.
    for name in _AUXILIARY:
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]  # torch knows no attributes of modules
    name, head = [
        (name, part) for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))
    ][-1]
    model.set_submodule(name, nn.Identity())
    return model, head if isinstance(head, nn.Linear) else None


def with_channels(network: nn.Module, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Make a pretrained network take images of another number of channels, as `take_channels` does.

    Parameters
    ----------
    network : torch.nn.Module
        A network of this package; changed in place.
    channels : int
        Channels that it is to take.
    image_size : (int, int)
        Height and width of its images.

    Returns
    -------
    network : torch.nn.Module
        `network` itself.

    Raises
    ------
    ValueError
        If the first layer of the network cannot be changed.
    """
    if type(network) is ResNet:
        take_channels(network, network.options["in_channels"], channels, image_size)
        network.options = {**network.options, "in_channels": channels}
    elif type(network) is LibraryNetwork:
        take_channels(network.module, network.in_channels, channels, image_size)
        network.in_channels = channels
    else:
        raise ValueError(f"a {type(network).__name__} has a first layer for its own channels only")
    return network


@torch.no_grad()
def take_channels(module: nn.Module, before: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Make a network take images of another number of channels.

    The weights of its first convolutions become their mean over the channels, for every channel, times
    ``before / channels``. An image whose channels are all the same is represented as the grey image is.

    Parameters
    ----------
    module : torch.nn.Module
        The network; changed in place.
    before : int
        Channels that it takes.
    channels : int
        Channels that it is to take.
    image_size : (int, int)
        Height and width of an image to try it with.

    Returns
    -------
    module : torch.nn.Module
        `module` itself.

    Raises
    ------
    ValueError
        If the network does not begin with a convolution of all channels.
    """
    if channels == before:
        return module
    first: list[nn.Conv2d] = []
    images = torch.zeros(1, before, *image_size, device=next(module.parameters()).device)

    def note(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(part, nn.Conv2d) and inputs and inputs[0] is images:
            first.append(part)

    trial = copy.deepcopy(module).eval()
    hooks = [part.register_forward_pre_hook(note) for part in trial.modules()]
    trial(images)
    for hook in hooks:
        hook.remove()
    names = [name for name, part in trial.named_modules() if part in first]
    if not names or any(part.groups != 1 for part in first):
        raise ValueError(
            f"{type(module).__name__} does not begin with a convolution of all {before} channels, so it "
            f"cannot be changed to take {channels}"
        )
    for name in names:
        part: Any = module.get_submodule(name)
        mean = part.weight.mean(dim=1, keepdim=True) * (before / channels)
        part.weight = nn.Parameter(mean.repeat(1, channels, 1, 1))
        part.in_channels = channels
    return module
