"""Which views a training draws: what an augmentation leaves to the images is decided here."""

from typing import Any

from ..encoders.mirror import mirror_images_fit_in
from ..images.source import ImageSource
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews, as_views

__all__ = ["is_open", "resolve_views"]


def is_open(augmentation: Any) -> bool:
    """Return whether an augmentation leaves it to the images whether views are mirrored."""
    return (
        isinstance(augmentation, Augmentation)
        and augmentation.recipe == "auto"
        and isinstance(augmentation.flip_probability, str)
    )


def resolve_views(
    augmentation: Any,
    source: ImageSource,
    before: Augmentation | ExternalViews | None = None,
    *,
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
    look : bool, default=True
        Whether the images are looked at. Else views are mirrored where the images would decide.

    Returns
    -------
    Augmentation or ExternalViews
        Another one.
    """
    views = as_views(augmentation).resolve(source.shape)
    if isinstance(views, Augmentation) and is_open(augmentation) and views.flip_probability > 0:
        if isinstance(before, Augmentation):
            views.set_params(flip_probability=before.flip_probability)
        elif look and not mirror_images_fit_in(source):
            views.set_params(flip_probability=0.0)
    return views
