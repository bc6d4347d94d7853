"""Base of all image estimators: read X as images of one form, apply networks to them, keep no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import validate_data
from torch import nn

from .._utils.devices import resolve_device
from .._utils.pickling import VersionedPickles, arrays_to_tensors, tensors_to_arrays
from .._utils.sklearn_private import Checked, StrOptions, check_feature_names
from .._utils.types import Images, ImageShape
from .._utils.usual_settings import usual_settings
from ..images.arrays import array_like, as_arrays, checked_numbers
from ..images.computed import ComputedImages
from ..images.foreign import naming_errors
from ..images.items import as_rows
from ..images.layout import ImageFormat, array_layout, decoded_format, image_format, layout_of_mixed
from ..images.masks import without_masks
from ..images.reading import read_rows
from ..images.resizing import resize_images
from ..images.sizes import DEFAULT_SIDE, IMAGE_SIZES, Target, check_image_size, choose_target
from ..images.source import ImageSource, decoded_source, image_source
from .calls import isolate_calls
from .inference import Inference, infer

__all__ = ["BaseImageEstimator", "BaseImageTransformer", "ReadImages"]


# What fit_transform has read from X, so that its transform does not read X again.
_READ: ContextVar[dict[Any, tuple[ImageSource, Any]] | None] = ContextVar("read", default=None)


class ReadImages:
    """Images that another estimator has read, to be taken for X without being read again.

    Parameters
    ----------
    source : ImageSource
        The images.
    reader : BaseImageEstimator
        The estimator that has read the images, and knows their form.
    """

    def __init__(self, source: ImageSource, reader: BaseImageEstimator) -> None:
        self.source = source
        self.reader = reader

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> ReadImages:
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        return ReadImages(self.source.select(chosen), self.reader)


class BaseImageEstimator(VersionedPickles, BaseEstimator):
    """Base of the estimators that take images.

    A subclass has the parameter ``device`` and perhaps ``verbose``, and those of ``_reading_constraints``; or
    ``_reading`` returns an estimator that has them.
    """

    # Side of the square whose area images get at most with ``image_size="auto"``.
    _auto_side = DEFAULT_SIDE

    # How messages say where a parameter of reading is passed.
    _reading_setting = "{}"

    _reading_constraints: dict[str, list] = {
        "image_shape": [StrOptions({"auto", "HWC", "CHW"}), tuple, list],
        "pixel_range": [StrOptions({"auto"}), tuple, list],
        "image_size": [Checked(check_image_size, IMAGE_SIZES)],
        "cache_dir": [str, PathLike, None],
        "on_error": [StrOptions({"raise", "nan", "grey"})],
    }

    image_shape_: tuple[int, ...]
    pixel_range_: tuple[float, float]
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        isolate_calls(cls)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: tensors_to_arrays(value) for name, value in super().__getstate__().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: arrays_to_tensors(value) for name, value in state.items()})

    def _reading(self) -> BaseEstimator:
        """Return the estimator whose parameters say how images are read."""
        return self

    @usual_settings()
    def _read_images(
        self,
        X: Images | ReadImages,
        *,
        reset: bool,
        smallest: int = 1,
        max_time: float | None = None,
        y: object = None,
    ) -> ImageSource:
        """Return the images of X, checked; with ``reset`` X decides what images look like.

        A y of another length raises an error before files are read.
        """
        if isinstance(X, ReadImages):
            self._take_format(X.reader)
            return X.source
        known = _READ.get()
        if known is not None and not reset and (found := known.get(self._reading_key(X))) is not None:
            return found[0]
        rows = as_rows(X)
        if rows is None or all(isinstance(row, np.ndarray) for row in rows):
            with naming_errors(X):
                images = self._read_arrays(X if rows is None else rows, reset=reset, smallest=smallest)
            _check_length(y, len(images))
            return images
        _check_length(y, len(rows))
        with naming_errors(X):
            source = self._read_rows(rows, reset=reset, smallest=smallest, max_time=max_time)
        if known is not None:
            # X itself is kept too: its id must not be taken by another object meanwhile.
            known[self._reading_key(X)] = source, X
        return source

    def _reading_key(self, X: Images) -> tuple[Any, ...]:
        """Return what the images that are read from X depend on, once their form is known."""
        how = self._reading()
        return id(X), str(how.image_size), how._auto_side, how.on_error, str(how.cache_dir), self._format

    def _read_training_images(
        self,
        X: Images | ReadImages,
        *,
        reset: bool,
        smallest: int = 2,
        max_time: float | None = None,
        y: object = None,
    ) -> ImageSource:
        """Return the images of X that can be read, at least two."""
        smallest = smallest if reset else 1
        return self._readable(self._read_images(X, reset=reset, smallest=smallest, max_time=max_time, y=y))

    def _readable(self, images: ImageSource) -> ImageSource:
        """Return the images that can be read, at least two."""
        images = images.without_bad()
        if len(images) < 2:
            raise ValueError(
                f"Training needs at least 2 images that can be read, got n_samples={len(images)}. Pass more "
                "images."
            )
        return images

    def _read_rows(
        self, rows: list[Any], *, reset: bool, smallest: int, max_time: float | None
    ) -> ImageSource:
        """Return the images of files, Pillow images and the like."""
        if len(rows) < smallest:
            raise ValueError(f"X has too few images (n_samples={len(rows)}); pass at least {smallest}.")
        how = self._reading()
        fmt = None if reset else self._format
        decoded = read_rows(
            rows,
            image_size=self._target(reset=reset),
            side=how._auto_side,
            cache_dir=how.cache_dir,
            kind=None if fmt is None else (fmt.shape[0], fmt.decoded_dtype),
            on_error=how.on_error,
            verbose=getattr(how, "verbose", 0),
            max_time=max_time,
            setting=self._reading_setting,
        )
        good = len(rows) - len(decoded.bad)
        if reset:
            if good < smallest:
                raise ValueError(
                    f"Only {good} of {len(rows)} images can be read (n_samples={good}); pass at least "
                    f"{smallest} images that can be read."
                )
            # The names of a table of files are of columns, not of pixels: none are kept.
            check_feature_names(self, np.empty((0, 0)), reset=True)
            self._take(
                decoded_format(
                    decoded.pixels, decoded.rows, image_shape=how.image_shape, pixel_range=how.pixel_range
                )
            )
        return decoded_source(decoded.pixels, self._format, decoded.rows, bad=decoded.bad, fitted=not reset)

    def _read_arrays(self, X: Images, *, reset: bool, smallest: int) -> ImageSource:
        """Return the images of an array, or of a list of arrays, which may have several sizes."""
        how = self._reading()
        image_shape, target = how.image_shape, self._target(reset=reset)
        X = without_masks(X, None if reset else self._format.pixel_range[0])
        listed = as_arrays(X)
        if listed is not None and target is not None and len({image.shape for image in listed}) > 1:
            shapes = [image.shape for image in listed]
            layout = layout_of_mixed(shapes, image_shape if reset else self._format.layout)
            if target == "auto":
                first = layout.index("H")
                target = choose_target([shape[first : first + 2] for shape in shapes], how._auto_side)
            X = resize_images(listed, layout, target)
            image_shape = layout if len(layout) == 3 and isinstance(image_shape, str) else image_shape
        array = self._read_array(X, reset=reset, smallest=smallest)
        n_columns = array.shape[1] if array.ndim == 2 else None
        # With "auto", an array keeps its size, unless fit has seen files.
        resized = how.image_size != "auto" or listed is not None or (not reset and self._format.decoded_dtype)
        if isinstance(target, Target) and resized:
            array, image_shape = self._to_size(array, target, image_shape, reset=reset)
        if reset:
            self._take(image_format(array, image_shape=image_shape, pixel_range=how.pixel_range))
            if n_columns is not None:
                self.n_features_in_ = n_columns
        return image_source(array, self._format, fitted=not reset)

    def _to_size(
        self, array: np.ndarray, target: Target, image_shape: ImageShape, *, reset: bool
    ) -> tuple[np.ndarray, Any]:
        """Return an array of images in another size, and the ``image_shape`` to read the array with."""
        if reset or array.ndim == 2:
            layout, shape = array_layout(array.shape, image_shape)
        else:
            layout, shape, channels = self._format.layout, array.shape[1:], self._format.shape[0]
            if len(shape) != len(layout) or dict(zip(layout, shape, strict=True)).get("C", 1) != channels:
                return array, image_shape  # image_source says what is wrong
        images = array.reshape(len(array), *shape)
        first = layout.index("H")
        if shape[first : first + 2] == target[:2]:
            return array if reset or self._format.flat else images, image_shape
        images = resize_images(images, layout, target)
        return images, layout if len(layout) == 3 else images.shape[1:]

    def _target(self, *, reset: bool) -> Target | Literal["auto"] | None:
        """Return the size that images are brought to; after fit, the size that fit has chosen."""
        target = check_image_size(self._reading().image_size)
        return Target(*self._format.shape[1:], crop=True) if target == "auto" and not reset else target

    def _take(self, fmt: ImageFormat) -> None:
        self._format = fmt
        self.image_shape_ = fmt.image_shape
        self.pixel_range_ = fmt.pixel_range
        self.n_features_in_ = int(np.prod(fmt.image_shape))

    def _take_format(self, other: BaseImageEstimator) -> None:
        """Read images as another estimator does."""
        for name in ("_format", "image_shape_", "pixel_range_", "n_features_in_"):
            setattr(self, name, getattr(other, name))
        if hasattr(other, "feature_names_in_"):
            self.feature_names_in_ = other.feature_names_in_
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _read_array(self, X: Images, *, reset: bool, smallest: int) -> np.ndarray:
        options = {"dtype": "numeric", "ensure_all_finite": False, "ensure_min_samples": smallest}
        X = array_like(X, None if reset or self._format.flat else self._format.image_shape)
        if getattr(X, "ndim", 2) <= 2:
            array = validate_data(self, X, reset=reset, **options)
        else:
            array = check_array(X, allow_nd=True, estimator=self, input_name="X", **options)
            # Only tables have columns with names.
            check_feature_names(self, array, reset=reset)
        return checked_numbers(array)

    @usual_settings()
    def _infer(
        self, function: Inference, modules: Sequence[nn.Module], source: ImageSource | ComputedImages
    ) -> NDArray[np.float32]:
        """Apply a function of modules and images to all images of a source, as `infer` does."""
        channels_last = getattr(self, "_encoder_takes_channels_last", False)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        device = resolve_device(self.device)
        result = infer(function, modules, source, device, layout, key=type(self).__name__)
        if self._reading().on_error != "grey":
            result[source.bad] = np.nan
        return result


class BaseImageTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseImageEstimator):
    """Base of the estimators that turn images into representations."""

    def fit_transform(self, X: Images, y: Any = None, **fit_params: Any) -> NDArray[np.float32]:
        """Fit to images, then return their representations. Files are decoded once for both.

        Parameters
        ----------
        X : array-like
            Images, as for fit.
        y : array-like of shape (n,), default=None
            Labels, for estimators that learn from labels.
        **fit_params : dict
            Further arguments of fit.

        Returns
        -------
        ndarray of shape (n, d)
            float32, as from transform.
        """
        token = _READ.set({})
        try:
            return super().fit_transform(X, y, **fit_params)
        finally:
            _READ.reset(token)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the columns of transform.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns of X; checked only where X is a table of pixels.

        Returns
        -------
        ndarray of str
            The class in lower case, with a number.
        """
        flat = getattr(getattr(self, "_format", None), "flat", True)
        return super().get_feature_names_out(input_features if flat else None)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags


def _check_length(y: Any, n: int) -> None:
    """Raise if there are labels, of another number than there are images."""
    shape = getattr(y, "shape", None)
    found = shape[0] if shape else len(y) if hasattr(y, "__len__") else n
    if found != n:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n, found]}. Pass one label per "
            "image, with -1 or None for images without a label."
        )
