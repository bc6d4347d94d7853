"""Draw random views of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator

from .._utils.types import Images, ImageShape, ImageSize, PixelRange, RandomState
from ..estimators.nested import trained_step
from ..estimators.simclr_transformer import SimCLRTransformer
from ..estimators.views import drawn_views
from ..images.source import ImageSource
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews, as_views
from ._plotting import (
    check_count,
    new_axes,
    pictures,
    random_numbers,
    read_images,
    require_matplotlib,
    sample_rows,
    show_picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AugmentationDisplay"]

# Images to draw if n_images is None; all of them if there are at most _SHOW_ALL.
_N_IMAGES = 4
_SHOW_ALL = 8

# Gap between pictures, in widths of a picture.
_GAP = 0.08


class AugmentationDisplay:
    """Draw images and their random views, one row per image.

    Create the display by :meth:`from_estimator` or :meth:`from_augmentation`.

    Parameters
    ----------
    images : ndarray of shape (n, H, W) or (n, H, W, 3)
        The originals, in [0, 1].
    views : ndarray of shape (n, n_views, S, S) or (n, n_views, S, S, 3)
        Views of each image, in [0, 1].

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the grid. The first column has the originals.
    figure_ : matplotlib Figure
        The figure of these axes.
    images_ : ndarray of matplotlib AxesImage, shape (n, 1 + n_views)
        The pictures.

    See Also
    --------
    Augmentation : Makes the views.
    SimilarityDisplay : Draws how similar an encoder finds the views.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020, section 3, figure 4. :arxiv:`2002.05709`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import Augmentation
    >>> from sklearn_simclr.inspection import AugmentationDisplay
    >>> X = load_digits().images
    >>> display = AugmentationDisplay.from_augmentation(Augmentation(), X, n_images=3, n_views=5)
    >>> display.images_.shape
    (3, 6)
    """

    def __init__(self, images: np.ndarray, views: np.ndarray) -> None:
        self.images = images
        self.views = views

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Images,
        *,
        n_images: int | None = None,
        n_views: int = 7,
        random_state: RandomState = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the views that an estimator is trained on.

        Parameters
        ----------
        estimator : SimCLRTransformer or another estimator with an ``augmentation``, or a Pipeline or the like
            The estimator, fitted or not.
        X : array-like
            Images, as for fit of the estimator.
        n_images : int or None, default=None
            Number of images, drawn at random. None is all of up to 8 images, and 4 of more.
        n_views : int, default=7
            Number of views per image.
        random_state : int, RandomState or None, default=None
            Seed of the choice of images and of the views.
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.

        Returns
        -------
        AugmentationDisplay
            The display, drawn.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        step, before, *_ = trained_step(estimator, f"{cls.__name__}.from_estimator")
        source, step = read_images(step, before, X)
        augmentation = getattr(step, "augmentation_", None) or step.augmentation
        if augmentation is None:
            augmentation = step._default_augmentation() or Augmentation()
        return cls._from_source(augmentation, source, n_images, n_views, random_state, ax)

    @classmethod
    def from_augmentation(
        cls,
        augmentation: Augmentation | ExternalViews | Callable[..., Any] | None,
        X: Images,
        *,
        n_images: int | None = None,
        n_views: int = 7,
        image_shape: ImageShape = "auto",
        pixel_range: PixelRange = "auto",
        image_size: ImageSize = "auto",
        random_state: RandomState = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the views that an augmentation makes.

        Parameters
        ----------
        augmentation : Augmentation, ExternalViews, callable or None
            As for SimCLRTransformer; None is ``Augmentation()``.
        X : array-like of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images, as for SimCLRTransformer; paths, too.
        n_images : int or None, default=None
            Number of images, drawn at random. None is all of up to 8 images, and 4 of more.
        n_views : int, default=7
            Number of views per image.
        image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
            As for SimCLRTransformer.
        pixel_range : "auto" or (float, float), default="auto"
            As for SimCLRTransformer.
        image_size : "auto", int, (int, int) or None, default="auto"
            As for SimCLRTransformer.
        random_state : int, RandomState or None, default=None
            Seed of the choice of images and of the views.
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.

        Returns
        -------
        AugmentationDisplay
            The display, drawn.
        """
        require_matplotlib(f"{cls.__name__}.from_augmentation")
        reader = SimCLRTransformer(image_shape=image_shape, pixel_range=pixel_range, image_size=image_size)
        source = reader._read_images(X, reset=True)
        if augmentation is None:
            augmentation = Augmentation()
        return cls._from_source(augmentation, source, n_images, n_views, random_state, ax)

    @classmethod
    def _from_source(
        cls,
        augmentation: Augmentation | ExternalViews | Callable[..., Any],
        source: ImageSource,
        n_images: int | None,
        n_views: int,
        random_state: RandomState,
        ax: Axes | None,
    ) -> Self:
        if n_images is None:
            n_images = len(source) if len(source) <= _SHOW_ALL else _N_IMAGES
        check_count("n_images", n_images)
        check_count("n_views", n_views)
        rng = random_numbers(random_state)
        images = source.select(sample_rows(len(source), n_images, rng, "n_images"))
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        made_by = as_views(augmentation).resolve(source.shape)
        views = pictures(drawn_views(made_by, images, generator, n_views))
        return cls(pictures(images), views.reshape(n_views, n_images, *views.shape[1:]).swapaxes(0, 1)).plot(
            ax
        )

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the grid.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.

        Returns
        -------
        AugmentationDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        n, n_views = self.views.shape[:2]
        height, width = self.images.shape[1:3]
        aspect = height / width
        # Views need not have the aspect ratio of the images.
        view_aspect = self.views.shape[2] / self.views.shape[3]
        row = max(aspect, view_aspect)
        columns, rows = n_views + 1 + 2 * _GAP, n * row
        scale = min(1.1, 10 / columns)
        ax = new_axes(ax, (scale * columns, scale * rows + 0.35), f"{type(self).__name__}.plot")
        self.ax_, self.figure_ = ax, ax.figure
        self.images_ = np.empty((n, n_views + 1), dtype=object)
        # The original stands a little apart from its views.
        lefts = [j * (1 + _GAP) + (2 * _GAP if j else 0) for j in range(n_views + 1)]
        tops = [i * (row + _GAP) for i in range(n)]
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                picture, height = (self.images[i], aspect) if j == 0 else (self.views[i, j - 1], view_aspect)
                self.images_[i, j] = show_picture(ax, picture, (left, left + 1, top + height, top))
        ax.set(xlim=(0, lefts[-1] + 1), ylim=(tops[-1] + row, 0), yticks=[])
        middle = (lefts[1] + lefts[-1] + 1) / 2
        ax.set_xticks([0.5, middle], ["image", "random view" if n_views == 1 else "random views"])
        ax.tick_params(length=0, labeltop=True, labelbottom=False)
        ax.spines[:].set_visible(False)
        return self
