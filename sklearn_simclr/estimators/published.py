"""Published networks for the images of X: the parameter ``weights`` of an estimator."""

from __future__ import annotations

import enum
from collections.abc import Callable

from torch import nn

from .._utils.types import PathLike
from .._utils.warn import warn
from ..encoders.description import encoder_name
from ..encoders.heads import ProjectionHead
from ..encoders.libraries import with_channels
from ..encoders.preprocessing import PreprocessedNetwork, Preprocessing, input_channels
from ..encoders.weights.pretrained import load_pretrained

__all__ = ["published_modules"]


def published_modules(
    weights: PathLike | enum.Enum,
    encoder: str | nn.Module | Callable[..., nn.Module],
    shape: tuple[int, int, int],
    *,
    trained: bool,
) -> tuple[nn.Module, ProjectionHead]:
    """Return the encoder and the projection head of a file of weights.

    Parameters
    ----------
    weights : str, os.PathLike or torchvision weight enum
        As `load_pretrained` takes them.
    encoder : str, torch.nn.Module or callable
        The parameter of the estimator, which must not name another network.
    shape : (int, int, int)
        Channels, height and width of the images.
    trained : bool
        Whether the network will be trained on these images.

    Returns
    -------
    encoder : torch.nn.Module
        Takes images of that shape; begins with its preprocessing where that changes anything.
    head : ProjectionHead
        The projection head, without layers if the file has no head.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds another network, or one that cannot take the channels of the images.
    """
    where = f"weights={str(weights)!r}"
    try:
        loaded = load_pretrained(weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    network, preprocessing = loaded.encoder, loaded.preprocessing
    name = encoder_name(network)
    if not isinstance(encoder, str) or encoder not in ("auto", name):
        given = repr(encoder) if isinstance(encoder, str) else type(encoder).__name__
        raise ValueError(
            f"{where} is a {name}, but encoder is {given}. Pass encoder='auto', or weights=None."
        )
    channels = input_channels(network)
    if shape[0] not in (1, channels):
        try:
            network = with_channels(network, shape[0], preprocessing.sides)
        except ValueError as error:
            raise ValueError(
                f"{where} takes images of {channels} channels (or grey images), but those of X have "
                f"{shape[0]}. Convert the images, since {error}."
            ) from None
        channels = shape[0]
        preprocessing = preprocessing.with_channels(channels)
        if not trained:
            warn(
                f"The images of X have {channels} channels, but {where} takes another number. The first "
                "layer was changed to see the mean of the channels; without training it sees nothing else. "
                "Pass max_epochs of at least 1, or choose or mix channels of X."
            )
    if not _changes_nothing(preprocessing, shape, channels):
        network = PreprocessedNetwork(network, preprocessing)
    head = loaded.projector
    return network, ProjectionHead(loaded.out_dim, n_layers=0) if head is None else head


def _changes_nothing(preprocessing: Preprocessing, shape: tuple[int, ...], channels: int) -> bool:
    """Return whether images (C, H, W) enter a network as they are."""
    whole = shape == (channels, *preprocessing.sides)
    return whole and preprocessing.crop_fraction == 1 and preprocessing.mean is None
