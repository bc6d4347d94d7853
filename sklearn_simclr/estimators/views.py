"""Decide which views a training draws if the augmentation leaves this to the images."""

from typing import Any

import torch
from sklearn.base import clone
from torch import nn

from ..encoders.make import takes_size
from ..encoders.mirror import mirror_images_fit_in
from ..encoders.preprocessing import view_size
from ..encoders.traits import traits
from ..images.computed import ComputedImages
from ..images.source import ImageSource
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews, as_views
from ..views.interface import Views

__all__ = ["drawn_views", "given_size", "is_open", "resolve_views", "smaller_views"]


def is_open(augmentation: Any) -> bool:
    """Return whether an augmentation lets the images decide about mirrored views."""
    return (
        isinstance(augmentation, Augmentation)
        and augmentation.recipe == "auto"
        and isinstance(augmentation.flip_probability, str)
    )


def given_size(augmentation: Any, shape: tuple[int, int, int]) -> tuple[int, int] | None:
    """Return height and width of views of images (C, H, W) if the user chose them, else None."""
    if augmentation is None or isinstance(augmentation, Augmentation) and isinstance(augmentation.size, str):
        return None
    return as_views(augmentation).resolve(shape).size


def resolve_views(
    augmentation: Any,
    source: ImageSource,
    before: Augmentation | ExternalViews | None = None,
    *,
    network: nn.Module | None = None,
    look: bool = True,
) -> Augmentation | ExternalViews:
    """Return an augmentation with concrete values.

    Parameters
    ----------
    augmentation : Augmentation, ExternalViews or callable
        If it leaves that to the images, views are not mirrored where mirror images do not fit in.
    source : ImageSource
        The images.
    before : Augmentation, ExternalViews or None, default=None
        With the values of a training that is to go on.
    network : torch.nn.Module or None, default=None
        The encoder that will see the views: it may say which size it wants.
    look : bool, default=True
        Whether the images are looked at. Else views are mirrored where the images would decide.

    Returns
    -------
    Augmentation or ExternalViews
        Another one.
    """
    views = as_views(augmentation)
    if isinstance(views, ExternalViews):
        views = views.resolve(source.shape)
        if network is not None:
            _check_size(network, source.shape, views.size, "a transform that makes views of that size")
        return views
    largest = None if network is None else traits(network).largest_view
    views = views.resolve(source.shape, largest=largest)
    wanted = None if network is None else view_size(network)
    if wanted is not None and isinstance(augmentation.size, str):
        views.set_params(size=wanted)
    elif network is not None and isinstance(augmentation.size, str):
        if views.size != source.shape[1:] and not takes_size(network, source.shape[0], views.size):
            views.set_params(size=source.shape[1:])  # the network is made for images of one size
    elif network is not None:
        _check_size(network, source.shape, views.size, "Augmentation(size={})")
    if is_open(augmentation) and views.flip_probability > 0:
        if isinstance(before, Augmentation):
            views.set_params(flip_probability=before.flip_probability)
        elif look and not mirror_images_fit_in(source):
            views.set_params(flip_probability=0.0)
    return views


def smaller_views(views: Any, network: nn.Module, shape: tuple[int, int, int]) -> Augmentation:
    """Return an augmentation that makes small views of small crops, for a network that also sees larger ones.

    Parameters
    ----------
    views : Augmentation
        Makes the larger ones, with concrete values.
    network : torch.nn.Module
        The encoder.
    shape : (int, int, int)
        Channels, height and width of the images.

    Returns
    -------
    Augmentation
        Makes views of half the side, from crops between a third of the smallest area and the smallest area.
    """
    if not isinstance(views, Augmentation):
        raise ValueError(
            "small_views are made by the built-in Augmentation, but augmentation is of type "
            f"{type(views).__name__}. Pass small_views=0, or an Augmentation."
        )
    height, width = (max(1, side // 2) for side in views.size)
    if not takes_size(network, shape[0], (height, width)):
        raise ValueError(
            f"encoder ({type(network).__name__}) does not take small_views of {height} x {width} pixels. "
            "Pass small_views=0, or another encoder."
        )
    low = views.crop_scale[0]
    return clone(views).set_params(size=(height, width), crop_scale=(low / 3, low))


def _check_size(network: nn.Module, shape: tuple[int, int, int], size: tuple[int, int], advice: str) -> None:
    channels, *image_size = shape
    if tuple(size) != tuple(image_size) and not takes_size(network, channels, size):
        side = tuple(image_size)
        raise ValueError(
            f"encoder ({type(network).__name__}) takes images of {side[0]} x {side[1]} pixels, but not views "
            f"of {size[0]} x {size[1]}. Pass {advice.format(side)}."
        )


def drawn_views(
    augmentation: Views, source: ImageSource, generator: torch.Generator, n_views: int
) -> ComputedImages:
    """Draw views of images, which are made when they are taken.

    Parameters
    ----------
    augmentation : Augmentation or ExternalViews
        With concrete values.
    source : ImageSource
        n images.
    generator : torch.Generator
        Where the draws come from.
    n_views : int
        Views of each image.

    Returns
    -------
    ComputedImages
        n_views * n views; rows i, i + n, ... are of one image.
    """
    draws = augmentation.draw(n_views * len(source), source.shape, generator=generator, device=source.device)
    shape = (source.shape[0], *augmentation.size)
    return ComputedImages(
        source, lambda images, index: augmentation.apply(images, draws.rows(index)), shape, n_views
    )
