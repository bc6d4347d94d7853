"""Draw the similarities of random views before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._utils.types import Images, RandomState
from ..estimators.base import ReadImages
from ..estimators.nested import trained_step
from ..estimators.untrained import untrained_modules
from ..estimators.views import drawn_views
from ..images.computed import ComputedImages
from ..images.source import ImageSource
from ..views.augmentation import Augmentation
from ._plotting import (
    check_count,
    pictures,
    random_numbers,
    read_images,
    require_matplotlib,
    sample_rows,
    show_picture,
    split_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap

__all__ = ["SimilarityDisplay"]

# These many suffice to initialise an encoder from images.
_INITIAL_IMAGES = 2048


class SimilarityDisplay:
    """Draw cosine similarities of random views of some images, before and after training.

    Training makes the two views of an image (positives) similar, and views of different images (negatives)
    dissimilar. Create the display by :meth:`from_estimator`.

    Parameters
    ----------
    similarities : dict of str to ndarray of shape (2N, 2N)
        Cosine similarities of 2N views, in [-1, 1], by title. Rows i and i + N are views of one image.
    views : ndarray of shape (2N, S, S) or (2N, S, S, 3), default=None
        Pictures of the views, in [0, 1]; None draws no pictures.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One Axes per matrix.
    figure_ : matplotlib Figure
        The figure of these axes.
    images_ : list of matplotlib AxesImage
        The matrices.
    colorbar_ : matplotlib Colorbar
        Colour bar of the similarities.
    positive_ : list of float
        Mean similarity of the N pairs, for each matrix.
    negative_ : list of float
        Mean similarity of two views of different images, over all views.

    See Also
    --------
    AugmentationDisplay : Draws views of images.
    representation_report : Measures similarities over many images.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020, algorithm 1. :arxiv:`2002.05709`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.inspection import SimilarityDisplay
    >>> X = load_digits().images[:200]
    >>> simclr = SimCLRTransformer(max_epochs=2, random_state=0).fit(X)
    >>> display = SimilarityDisplay.from_estimator(simclr, X, n_images=5, random_state=0)
    >>> list(display.similarities)
    ['before training', 'after training']
    """

    def __init__(self, similarities: Mapping[str, np.ndarray], views: np.ndarray | None = None) -> None:
        self.similarities = similarities
        self.views = views

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Images,
        *,
        n_images: int = 8,
        before: BaseEstimator | Literal[False] | None = None,
        output: Literal["projection", "encoder"] = "projection",
        random_state: RandomState = None,
        ax: Axes | Sequence[Axes] | None = None,
        layout: Literal["pairs", "batch"] = "pairs",
        cmap: str | Colormap = "RdBu_r",
    ) -> Self:
        """Compute and draw the similarities of views of some images.

        Parameters
        ----------
        estimator : SimCLRTransformer, or a Pipeline or the like with one
            Fitted estimator. For other estimators of images, the representations are compared.
        X : array-like
            Images, as for transform.
        n_images : int, default=8
            Number of images, at least 2, drawn at random. If X has exactly this number, all are shown in
            their order.
        before : estimator, None or False, default=None
            Fitted estimator of the same images for the first matrix, with the same views. None is a clone of
            `estimator` that is not trained (``max_epochs=0``). False shows one matrix only.
        output : {"projection", "encoder"}, default="projection"
            Vectors that are compared: the projections z, as in the loss, or the representations h.
        random_state : int, RandomState or None, default=None
            Seed of the choice of images and of the views.
        ax : matplotlib Axes or sequence of Axes, default=None
            As in :meth:`plot`.
        layout : {"pairs", "batch"}, default="pairs"
            As in :meth:`plot`.
        cmap : str or Colormap, default="RdBu_r"
            As in :meth:`plot`.

        Returns
        -------
        SimilarityDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X has too few images, or a parameter cannot be used.
        """
        caller = f"{cls.__name__}.from_estimator"
        require_matplotlib(caller)
        if output not in ("projection", "encoder"):
            raise ValueError(f"output must be 'projection' or 'encoder', got {output!r}.")
        check_count("n_images", n_images, smallest=2)
        step, steps, *_ = trained_step(estimator, caller)
        check_is_fitted(step, "encoder_")
        source, _ = read_images(step, steps, X)
        rng = random_numbers(random_state)
        rows = sample_rows(len(source), n_images, rng, "n_images")
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        augmentation = getattr(step, "augmentation_", None) or Augmentation().resolve(source.shape)
        views = drawn_views(augmentation, source.select(rows), generator, n_views=2)

        models: dict[str, tuple[Any, list[nn.Module]]] = {}
        if before is None:
            models["before training"] = step, _untrained(step, source, rng)
        elif before is not False:
            other = trained_step(before, caller).step
            check_is_fitted(other, "encoder_")
            models["before"] = other, _modules(other)
        models["after training" if before is None else "after" if models else ""] = step, _modules(step)
        similarities = {}
        for title, (model, modules) in models.items():
            z = _represent(model, modules, views, output).astype(np.float64)
            z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.finfo(np.float32).tiny)
            similarities[title] = np.clip(z @ z.T, -1, 1)
        return cls(similarities, pictures(views)).plot(ax, layout=layout, cmap=cmap)

    def plot(
        self,
        ax: Axes | Sequence[Axes] | None = None,
        *,
        layout: Literal["pairs", "batch"] = "pairs",
        cmap: str | Colormap = "RdBu_r",
    ) -> Self:
        """Draw the matrices side by side.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of Axes, default=None
            Axes to draw into: one per matrix, or one Axes that is divided. None makes a new figure.
        layout : {"pairs", "batch"}, default="pairs"
            ``"pairs"``: one row for the first view and one column for the second view of each image. The
            positives are on the diagonal. ``"batch"``: all 2N views along both sides, as in the loss. The
            positives are on the diagonals of the two off-diagonal blocks.
        cmap : str or Colormap, default="RdBu_r"
            Colours of similarities from -1 to 1.

        Returns
        -------
        SimilarityDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the matrices are not similarities of pairs, or `layout` or `ax` cannot be used.
        """
        matrices = [np.asarray(matrix, dtype=float) for matrix in self.similarities.values()]
        _check_matrices(matrices, self.views)
        if layout not in ("pairs", "batch"):
            raise ValueError(f"layout must be 'pairs' or 'batch', got {layout!r}.")
        n = len(matrices[0]) // 2
        side = n if layout == "pairs" else 2 * n
        count = len(matrices)
        self.axes_ = split_axes(
            ax, count, (4.1 * count + 0.9, 4.7), f"{type(self).__name__}.plot", right=0.16
        )
        self.figure_ = self.axes_[0].figure
        columns = np.arange(side) + (n if layout == "pairs" else 0)
        if layout == "pairs":
            positives = [(i, i) for i in range(n)]
        else:
            positives = [(i, (i + n) % side) for i in range(side)]
        different = np.arange(2 * n)[:, None] % n != np.arange(2 * n) % n
        self.images_, self.positive_, self.negative_ = [], [], []
        for panel, title, matrix in zip(self.axes_, self.similarities, matrices, strict=True):
            self.positive_.append(float(np.diagonal(matrix, n).mean()))
            self.negative_.append(float(matrix[different].mean()))
            shown = matrix[:side, columns[0] : columns[0] + side]
            self.images_.append(panel.imshow(shown, cmap=cmap, vmin=-1, vmax=1))
            self._dress(panel, side, columns, positives, layout)
            # Three short lines: the panels may be narrow.
            lines = [
                f"mean positive {_signed(self.positive_[-1])}",
                f"mean negative {_signed(self.negative_[-1])}",
            ]
            panel.set_title("\n".join([title, *lines] if title else lines), fontsize="medium")
        self.colorbar_ = self._draw_colorbar(side)
        return self

    def _dress(
        self,
        panel: Axes,
        side: int,
        columns: np.ndarray,
        positives: list[tuple[int, int]],
        layout: Literal["pairs", "batch"],
    ) -> None:
        """Mark the positives, and show the views along the sides."""
        from matplotlib.patches import Rectangle

        for row, column in positives:
            mark = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.2)
            panel.add_patch(mark)
        if layout == "batch":
            panel.axhline(side / 2 - 0.5, color="0.3", linewidth=0.8)
            panel.axvline(side / 2 - 0.5, color="0.3", linewidth=0.8)
        start = -0.5
        if self.views is not None:
            sides = self.views.shape[1:3]
            height, width = (0.92 * length / max(sides) for length in sides)
            for i in range(side):
                extent = (-1.15 - width / 2, -1.15 + width / 2, i + height / 2, i - height / 2)
                show_picture(panel, self.views[i], extent)
                extent = (i - width / 2, i + width / 2, -1.15 + height / 2, -1.15 - height / 2)
                show_picture(panel, self.views[columns[i]], extent)
            start = -1.7
        panel.set(xlim=(start, side - 0.5), ylim=(side - 0.5, start), xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        if layout == "pairs":
            panel.set(xlabel="second views", ylabel="first views")
        else:
            panel.set(xlabel="first views, then second views", ylabel="first views, then second views")

    def _draw_colorbar(self, side: Any) -> Colorbar:
        # A colorbar in its own axes, inside those of the last panel, leaves all panels of one size.
        last = self.axes_[-1]
        height = side / abs(np.diff(last.get_ylim()).item())
        beside = last.inset_axes((1.04, 0.0, 0.045, height))
        return self.figure_.colorbar(self.images_[-1], cax=beside, label="cosine similarity")


def _signed(value: float) -> str:
    # Not "-0.00", and a minus sign as the axes have it.
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _check_matrices(matrices: list[np.ndarray], views: np.ndarray | None) -> None:
    if not matrices:
        raise ValueError("similarities is empty; pass a dict of at least one title and matrix.")
    shape = matrices[0].shape
    for matrix in matrices:
        if matrix.ndim != 2 or matrix.shape != shape or shape[0] != shape[1] or shape[0] % 2 or shape[0] < 4:
            raise ValueError(
                "similarities must be matrices of one shape (2N, 2N), with N of at least 2 images, got "
                f"{[matrix.shape for matrix in matrices]}."
            )
    if views is not None and len(views) != shape[0]:
        raise ValueError(
            f"There are {len(views)} views, but similarities of {shape[0]}; pass one view per row of the "
            "matrices."
        )


def _untrained(step: Any, source: ImageSource, rng: np.random.RandomState) -> list[nn.Module]:
    """Return the modules of an estimator before training; some are initialised from images of the source."""
    rows = sample_rows(len(source), min(len(source), _INITIAL_IMAGES), rng, "n")
    some = source.select(rows)
    if hasattr(step, "classifier_"):  # a classifier may start from a trained encoder
        return untrained_modules(step, some, int(rng.randint(2**31 - 1)))
    untrained = clone(step).set_params(max_epochs=0, memory=None, callbacks=None, verbose=0)
    if untrained.random_state is None:
        untrained.set_params(random_state=int(rng.randint(2**31 - 1)))
    return _modules(untrained.fit(ReadImages(some, step)))


def _modules(step: Any) -> list[nn.Module]:
    """Return the encoder, and the projection head if there is one."""
    return [step.encoder_] + ([step.projector_] if hasattr(step, "projector_") else [])


def _represent(
    step: Any, modules: list[nn.Module], views: ComputedImages, output: Literal["projection", "encoder"]
) -> np.ndarray:
    """Return projections; representations if they are asked for or there is no projection head."""

    def apply(modules: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
        for module in modules:
            images = module(images)
        return images

    return step._infer(apply, modules if output == "projection" else modules[:1], views)
