"""Representations of images in two dimensions, coloured by label, with some of the images beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from .._utils.types import Images, Labels, RandomState
from ..estimators.nested import image_steps
from ..images.arrays import as_array
from ..images.layout import image_format
from ..images.source import image_source
from ._plane import reduce_to_plane, transformer_of
from ._plotting import new_axes, pictures, require_matplotlib
from ._point_labels import MOST_CLASSES, check_labels_fit, class_colors, class_name, read_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.legend import Legend

__all__ = ["EmbeddingDisplay"]

_UNLABELLED = "0.8"

# Longer side of the pictures that thumbnails are drawn from.
_THUMBNAIL_SIDE = 128


class EmbeddingDisplay:
    """Draw points in the plane, one per image, coloured by label.

    :meth:`from_estimator` computes the points from images. :meth:`from_embedding` draws given points.

    Parameters
    ----------
    embedding : ndarray of shape (n, 2)
        The points.
    y : array-like of shape (n,), default=None
        Labels or numbers that colour the points. None, NaN, and -1 among numbers of classes mark points
        without a label; if -1 and 1 are the only values, they are two classes.
    images : ndarray of shape (n, H, W) or (n, H, W, 3), default=None
        Images in [0, 1], for thumbnails.
    axis_names : (str, str), default=None
        Names of the axes. None is for axes without a meaning, which get no ticks.
    method : str, default=None
        Name of the method that computed the points, written below axes without a meaning.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the points.
    figure_ : matplotlib Figure
        The figure of these axes.
    scatter_ : dict of object to matplotlib PathCollection
        The points by class. The key None has the points without a label. If y is continuous, the key is "y".
    legend_ : matplotlib Legend or None
        The classes, if there are at most 20. The legend is next to the points, or among the points in a
        figure of your own whose layout has no room for a legend.
    colorbar_ : matplotlib Colorbar or None
        The colour bar, if y is continuous.
    thumbnails_ : list of matplotlib AnnotationBbox
        The images drawn.
    thumbnail_rows_ : list of int
        Row numbers of these images.

    See Also
    --------
    SimCLRTransformer : Computes representations.
    sklearn.manifold.TSNE : Reduces representations to two dimensions, by default.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.inspection import EmbeddingDisplay
    >>> X, y = load_digits().images[:200], load_digits().target[:200]
    >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(X)
    >>> display = EmbeddingDisplay.from_estimator(simclr, X, y, reducer="pca")
    >>> len(display.scatter_)
    10
    """

    def __init__(
        self,
        embedding: ArrayLike,
        y: Labels | None = None,
        *,
        images: np.ndarray | None = None,
        axis_names: tuple[str, str] | None = None,
        method: str | None = None,
    ) -> None:
        self.embedding = embedding
        self.y = y
        self.images = images
        self.axis_names = axis_names
        self.method = method

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Images,
        y: Labels | None = None,
        *,
        reducer: Literal["tsne", "pca"] | BaseEstimator | None = "tsne",
        n_thumbnails: int | None = None,
        random_state: RandomState = None,
        ax: Axes | None = None,
        **plot_options: Any,
    ) -> Self:
        """Compute the representations of images, reduce them to two dimensions, and draw them.

        Parameters
        ----------
        estimator : transformer, Pipeline or search
            Fitted estimator. If a Pipeline ends in a classifier, the steps before the classifier are used.
        X : array-like
            Images, as for the estimator.
        y : array-like of shape (n,), default=None
            Labels or numbers that colour the points.
        reducer : {"tsne", "pca"}, transformer or None, default="tsne"
            Reduction to two dimensions. A transformer is cloned, and the first two columns of its
            ``fit_transform`` are drawn. None is for representations that have two columns already.
        n_thumbnails : int, default=None
            Maximum number of images to draw, as in :meth:`plot`. The images are drawn as read by the first
            step that takes images.
        random_state : int, RandomState or None, default=None
            Seed of ``"tsne"`` and ``"pca"``.
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.
        **plot_options : dict
            Options of :meth:`plot`.

        Returns
        -------
        EmbeddingDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If there are too few images, or a parameter cannot be used.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        estimator = transformer_of(estimator)
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"estimator must have transform, found {type(estimator).__name__}. Pass a transformer, or a "
                "Pipeline that has a transformer before its classifier."
            )
        check_is_fitted(estimator)
        h = np.asarray(estimator.transform(X))
        h = h.reshape(len(h), -1)
        check_labels_fit(y, len(h))
        embedding, axis_names, method = reduce_to_plane(h, reducer, random_state)
        images = _thumbnail_images(estimator, X) if n_thumbnails else None
        display = cls(embedding, y, images=images, axis_names=axis_names, method=method)
        return display.plot(ax, n_thumbnails=n_thumbnails, **plot_options)

    @classmethod
    def from_embedding(
        cls,
        embedding: ArrayLike,
        y: Labels | None = None,
        *,
        images: Images | None = None,
        n_thumbnails: int | None = None,
        ax: Axes | None = None,
        **plot_options: Any,
    ) -> Self:
        """Draw given points.

        Parameters
        ----------
        embedding : array-like of shape (n, 2)
            The points.
        y : array-like of shape (n,), default=None
            Labels or numbers that colour the points.
        images : array-like, default=None
            The images, in any form that SimCLRTransformer takes without further parameters.
        n_thumbnails : int, default=None
            Maximum number of images to draw, as in :meth:`plot`.
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.
        **plot_options : dict
            Options of :meth:`plot`.

        Returns
        -------
        EmbeddingDisplay
            The display, drawn.
        """
        if images is not None:
            images = _plain_pictures(images)
        display = cls(np.asarray(embedding), y, images=images)
        return display.plot(ax, n_thumbnails=n_thumbnails, **plot_options)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_thumbnails: int | None = None,
        thumbnail_size: float = 22,
        legend: bool = True,
        target_names: Mapping[Any, str] | Sequence[str] | None = None,
        cmap: str | Colormap | None = None,
        scatter_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.
        n_thumbnails : int, default=None
            Maximum number of images to draw, over their points. The images are chosen far from each other.
            Fewer are drawn if more would overlap at the present size of the figure. None draws none.
        thumbnail_size : float, default=22
            Longer side of a thumbnail in points (1/72 inch).
        legend : bool, default=True
            Whether to draw the legend of the classes, or the colour bar.
        target_names : dict of label to str, or sequence of str, default=None
            Names of the classes in the legend. In a sequence, such as the ``target_names`` of
            :func:`~sklearn_simclr.load_image_paths`, label k has the name at place k.
        cmap : str or Colormap, default=None
            Colours; None is "tab10" or "tab20" for classes, "viridis" for numbers.
        scatter_kw : dict, default=None
            Keywords for ``Axes.scatter``.

        Returns
        -------
        EmbeddingDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the shapes of points, labels and images do not fit, or there are no images for thumbnails.
        """
        points = self._check(n_thumbnails, thumbnail_size)
        n = len(points)
        kind, values, missing = read_labels(self.y, n)
        self.ax_ = ax = new_axes(ax, (6.4, 4.8), f"{type(self).__name__}.plot")
        self.figure_ = ax.figure
        size = float(np.clip(6000 / n, 5, 30))
        style = {"s": size, "linewidths": 0, "alpha": 0.85, **(scatter_kw or {})}
        self.scatter_: dict[Any, Any] = {}
        self.legend_, self.colorbar_ = None, None
        edges = np.tile([*(3 * [0.3]), 1.0], (n, 1))
        if missing.any():
            grey = {**style, "color": _UNLABELLED, "zorder": 1}
            self.scatter_[None] = ax.scatter(*points[missing].T, label="unlabelled", **grey)
            edges[missing, :3] = float(_UNLABELLED)
        if kind == "none":
            self.scatter_[None] = ax.scatter(*points.T, **{"color": "C0", **style})
        elif kind == "numbers":
            numbers = values[~missing].astype(float)
            drawn = ax.scatter(*points[~missing].T, c=numbers, cmap=cmap or "viridis", **style)
            self.scatter_["y"] = drawn
            edges[~missing] = drawn.to_rgba(numbers)
            if legend:
                self.colorbar_ = self.figure_.colorbar(drawn, ax=ax)
        else:
            for label, color in class_colors(values[~missing], cmap).items():
                members = ~missing
                members[members] = values[members] == label  # pandas.NA equals nothing and is no bool
                self.scatter_[label] = ax.scatter(
                    *points[members].T, label=class_name(label, target_names), **{"color": [color], **style}
                )
                edges[members] = color
        if self.axis_names is None:
            ax.set(xticks=[], yticks=[], xlabel=self.method or "")
        else:
            ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        classes = kind == "classes" and len(self.scatter_) - int(missing.any()) <= MOST_CLASSES
        if legend and (classes or (kind != "none" and missing.any())):
            self.legend_ = self._draw_legend(ax, classes)
        self._draw_thumbnails(points, n_thumbnails or 0, thumbnail_size, edges)
        return self

    def _check(self, n_thumbnails: int | None, thumbnail_size: float) -> np.ndarray:
        points = np.asarray(self.embedding)
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(f"embedding must have shape (n, 2) with n >= 1, got {points.shape}.")
        if points.dtype.kind not in "fiu":
            raise ValueError(f"embedding has dtype {points.dtype}; pass an array of real numbers.")
        if not np.isfinite(points).all():
            row = np.flatnonzero(~np.isfinite(points).all(axis=1))[0]
            raise ValueError(f"embedding contains NaN or infinity, first in row {row}; pass finite numbers.")
        check_labels_fit(self.y, len(points))
        if self.images is not None and len(self.images) != len(points):
            raise ValueError(
                f"There are {len(points)} points, but {len(self.images)} images; pass one image per point."
            )
        if n_thumbnails is not None:
            if not isinstance(n_thumbnails, Integral) or isinstance(n_thumbnails, bool) or n_thumbnails < 0:
                raise ValueError(f"n_thumbnails must be None or an int of at least 0, got {n_thumbnails!r}.")
            if n_thumbnails and self.images is None:
                raise ValueError(
                    f"n_thumbnails={n_thumbnails}, but there are no images to draw. Pass images, or "
                    "n_thumbnails=None."
                )
        if not isinstance(thumbnail_size, Real) or not thumbnail_size > 0:
            raise ValueError(f"thumbnail_size must be > 0, got {thumbnail_size!r}.")
        return points.astype(float)

    def _draw_legend(self, ax: Axes, classes: bool) -> Legend:
        handles = [handle for label, handle in self.scatter_.items() if classes or label is None]
        if classes and None in self.scatter_:
            handles = [*handles[1:], handles[0]]
        engine = self.figure_.figure.get_layout_engine()
        if engine is not None and engine.adjust_compatible is False:
            # Beside the axes: among the points a free place is not certain.
            place = {
                "loc": "center left" if classes else "upper left",
                "bbox_to_anchor": (1.0, 0.5) if classes else (0.0, 0.0),
                "borderaxespad": 0.5 if classes else 2 if self.axis_names is None else 4,
                "frameon": False,
            }
        else:
            # A legend outside the axes would be cut off, or cover the neighbouring axes.
            place = {"loc": "best", "framealpha": 0.8}
        legend = ax.legend(handles=handles, handletextpad=0.2, **place)
        for handle in legend.legend_handles:
            handle.set_sizes([36])
            handle.set_alpha(1)
        return legend

    def _draw_thumbnails(self, points: np.ndarray, count: int, size: float, edges: np.ndarray) -> None:
        from matplotlib.colors import Normalize
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        self.thumbnails_, self.thumbnail_rows_ = [], []
        if not count or self.images is None:
            return
        # Distances on the screen are known only after the layout.
        self.ax_.margins(0.08)
        self.figure_.figure.draw_without_rendering()
        places = self.ax_.transData.transform(points) * 72 / self.figure_.figure.dpi
        height, width = self.images.shape[1:3]
        zoom = size / max(height, width)
        frame = 3.0
        boxes = zoom * width + frame, zoom * height + frame
        self.thumbnail_rows_ = _far_apart(places / boxes, count)
        for row in self.thumbnail_rows_:
            picture = self.images[row]
            color = {} if picture.ndim == 3 else {"cmap": "gray", "norm": Normalize(0, 1)}
            image = OffsetImage(picture, zoom=zoom, interpolation="nearest", **color)
            box = AnnotationBbox(
                image,
                points[row],
                pad=0.08,
                bboxprops={"edgecolor": edges[row], "linewidth": 1.2, "facecolor": "white"},
            )
            # The layout must stay as it was when the places were measured.
            box.set_in_layout(False)
            self.thumbnails_.append(self.ax_.add_artist(box))


def _far_apart(places: np.ndarray, count: int) -> list[int]:
    """Return at most `count` rows, each the farthest from those before, so that no unit boxes overlap.

    The distance of two places is the larger of their differences in x and y.
    """
    first = int(np.abs(places - np.median(places, axis=0)).max(axis=1).argmin())
    rows = [first]
    distance = np.abs(places - places[first]).max(axis=1)
    while len(rows) < count:
        farthest = int(distance.argmax())
        if distance[farthest] <= 1:
            break
        rows.append(farthest)
        distance = np.minimum(distance, np.abs(places - places[farthest]).max(axis=1))
    return rows


def _thumbnail_images(estimator: Any, X: Any) -> np.ndarray:
    """Read X as the estimator does, or as plain images if no step of the estimator reads images."""
    found = next(image_steps(estimator), None)
    if found is None:
        return _plain_pictures(X)
    step, before, *_ = found
    for transformer in before:
        X = transformer.transform(X)
    source = step._read_images(X, reset=False)
    return pictures(source, _THUMBNAIL_SIDE)


def _plain_pictures(X: Images) -> np.ndarray:
    try:
        n_columns = len(getattr(X, "columns", ()))
        if math.isqrt(n_columns) ** 2 != n_columns:
            raise TypeError(f"{n_columns} columns cannot be the pixels of a square image.")
        X = np.asarray(as_array(X))
        source = image_source(X, image_format(X))
    except TypeError as error:
        raise TypeError(
            f"Thumbnails need images, and X is a {type(X).__name__} in which none were found. Pass "
            "n_thumbnails=None, or pass the images to EmbeddingDisplay.from_embedding."
        ) from error
    return pictures(source, _THUMBNAIL_SIDE)
