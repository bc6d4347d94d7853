"""Features that are not learnt: pixels, and histograms of oriented gradients."""

from __future__ import annotations

from numbers import Integral
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from .._utils.sklearn_private import Interval, StrOptions, fit_context
from .._utils.types import Images, ImageShape, ImageSize, OnError, PathLike, PixelRange
from ..encoders.edges import edge_votes, normalized_blocks
from .base import BaseImageTransformer

__all__ = ["HOGTransformer", "PixelTransformer"]


class _FixedFeatures(BaseImageTransformer):
    """Base of transformers whose fit only learns the size and the pixel range of images."""

    _parameter_constraints = BaseImageTransformer._reading_constraints
    device = "cpu"

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Images, y: object = None) -> Self:
        """Learn the size and the pixel range of the images.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images.
        y : array-like of shape (n,) or None, default=None
            Not used; another length than that of X raises an error.

        Returns
        -------
        transformer
            Itself.
        """
        source = self._read_images(X, reset=True, y=y)
        self._n_features_out = self._features(torch.zeros(1, *source.shape)).shape[1]
        return self

    def transform(self, X: Images) -> NDArray[np.float32]:
        """Return the features of images.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, d)
            float32; with ``on_error="nan"``, rows of NaN for images that cannot be read.
        """
        check_is_fitted(self, "image_shape_")
        source = self._read_images(X, reset=False)
        return self._infer(lambda modules, images: self._features(images), (), source)


class PixelTransformer(_FixedFeatures):
    """Return the pixels of images as features: the baseline "raw pixels" of a label-fraction study.

    The class accepts the same images as :class:`SimCLRTransformer`, and can take its place in a Pipeline.
    Followed by :class:`sklearn.decomposition.PCA`, the pixels are the baseline "PCA".

    Parameters
    ----------
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        As in :class:`SimCLRTransformer`.
    pixel_range : "auto" or (float, float), default="auto"
        As in :class:`SimCLRTransformer`.
    image_size : "auto", int, (int, int) or None, default="auto"
        As in :class:`SimCLRTransformer`, but with ``"auto"`` images become squares of at most 32 pixels, or
        boxes of that area: a linear classifier learns no more from more pixels.
    cache_dir : str, os.PathLike or None, default=None
        As in :class:`SimCLRTransformer`.
    on_error : {"raise", "nan", "grey"}, default="raise"
        As in :class:`SimCLRTransformer`.

    Attributes
    ----------
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels per image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.

    See Also
    --------
    HOGTransformer : Features of edges.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr import PixelTransformer
    >>> images = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    >>> PixelTransformer().fit_transform(images).shape
    (4, 3072)
    """

    _auto_side = 32

    def __init__(
        self,
        image_shape: ImageShape = "auto",
        pixel_range: PixelRange = "auto",
        image_size: ImageSize = "auto",
        cache_dir: PathLike | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.image_size = image_size
        self.cache_dir = cache_dir
        self.on_error = on_error

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


class HOGTransformer(_FixedFeatures):
    """Compute histograms of oriented gradients (HOG), features that are not learnt.

    The image is cut into cells. Each cell has a histogram of the directions of the gradient, without their
    sign. A pixel counts by the length of its gradient, and is shared between the two nearest bins. Blocks of
    2 x 2 cells are normalised, clipped and normalised again. In images with several channels, each pixel has
    the gradient of the channel in which the gradient is longest, the first one of equals.

    Parameters
    ----------
    n_orientations : int, default=9
        Number of bins for the direction, over 180 degrees.
    cell_size : "auto" or int, default="auto"
        Side of a cell in pixels; ``"auto"`` is an eighth of the shorter side, at least 2.
    block_size : int, default=2
        Side of a block in cells.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        As in :class:`SimCLRTransformer`.
    pixel_range : "auto" or (float, float), default="auto"
        As in :class:`SimCLRTransformer`.
    image_size : "auto", int, (int, int) or None, default="auto"
        As in :class:`SimCLRTransformer`, but with ``"auto"`` images become squares of at most 128 pixels, or
        boxes of that area: edges need more pixels than networks do.
    cache_dir : str, os.PathLike or None, default=None
        As in :class:`SimCLRTransformer`.
    on_error : {"raise", "nan", "grey"}, default="raise"
        As in :class:`SimCLRTransformer`.

    Attributes
    ----------
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels per image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.

    See Also
    --------
    PixelTransformer : The pixels themselves.

    References
    ----------
    .. [1] Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import HOGTransformer
    >>> X = load_digits().images
    >>> HOGTransformer().fit_transform(X).shape
    (1797, 324)
    """

    _auto_side = 128
    _parameter_constraints = {
        **_FixedFeatures._parameter_constraints,
        "n_orientations": [Interval(Integral, 1, None, closed="left")],
        "cell_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "block_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_orientations: int = 9,
        cell_size: Literal["auto"] | int = "auto",
        block_size: int = 2,
        image_shape: ImageShape = "auto",
        pixel_range: PixelRange = "auto",
        image_size: ImageSize = "auto",
        cache_dir: PathLike | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.n_orientations = n_orientations
        self.cell_size = cell_size
        self.block_size = block_size
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.image_size = image_size
        self.cache_dir = cache_dir
        self.on_error = on_error

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        cell = max(2, min(height, width) // 8) if isinstance(self.cell_size, str) else self.cell_size
        cell = min(cell, height, width)
        # The pooling leaves out pixels at the border that do not fill a cell.
        return normalized_blocks(F.avg_pool2d(edge_votes(images, self.n_orientations), cell), self.block_size)
