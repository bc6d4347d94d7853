"""Base of all image estimators: read X, choose devices, infer in batches, hold state without tensors."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from os import PathLike
from typing import Any, Literal

import google_crc32c
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

from .._utils.devices import (
    Copies,
    Mark,
    current_on,
    empty_cache,
    exact_float32,
    is_cpu,
    mark,
    out_of_memory,
    resolve_device,
    total_memory,
)
from .._utils.pickling import VersionedPickles, arrays_to_tensors, tensors_to_arrays
from .._utils.ranks import connected, together
from .._utils.sklearn_private import Checked, StrOptions, check_feature_names
from .._utils.types import Images, ImageShape
from .._utils.usual_settings import usual_settings
from .._utils.warn import shortened
from ..encoders.traits import Traits, traits
from ..images.computed import ComputedImages
from ..images.foreign import naming_errors, without_long_doubles
from ..images.indexing import row_blocks
from ..images.items import as_rows
from ..images.layout import ImageFormat, array_layout, decoded_format, image_format, layout_of_mixed
from ..images.mapped import mapped_rows
from ..images.masks import without_masks
from ..images.reading import read_rows
from ..images.resizing import resize_images
from ..images.sizes import DEFAULT_SIDE, IMAGE_SIZES, Target, check_image_size, choose_target
from ..images.source import ImageSource, as_array, as_arrays, as_float, decoded_source, image_source
from ..images.tables import rows_of_column
from ..training.identity import content_of
from ..training.part import part_of
from .calls import isolate_calls

__all__ = ["BaseImageEstimator", "BaseImageTransformer", "ReadImages", "images_a_forward"]


# Pixels of a forward in inference, on a CPU and elsewhere: few enough for a single row to be answered quickly
# (every batch is padded to one size), enough for full speed.
_PIXELS = 64 * 32 * 32
_PIXELS_ELSEWHERE = 4 * 1024 * 32 * 32

# Bytes that a pixel of a forward may take on an accelerator, and the part of its memory that may be taken.
_BYTES_A_PIXEL = 1024
_MEMORY_PART = 0.25

# As many images as that are better, as long as they have no more pixels than that: a network may hold 1 KB
# for each.
_IMAGES = 16
_MOST_PIXELS = 4 * 224 * 224
_MOST_PIXELS_ELSEWHERE = 16 * 1024 * 1024

# Above so many channels, what a pixel takes grows with them.
_CHANNELS = 8

# Numbers of the images of a forward: they count where a network shrinks the images.
_NUMBERS = 2**23

# What has none of these is neither an array nor a table nor a list.
_OF_ARRAYS = ("__array__", "__array_interface__", "__getitem__", "__len__", "shape")

# Fewer images are transformed before ranks have agreed on who transforms which.
_SHARED_FROM = 1024


# Within a fit_transform, what was read from X, so that it is read but once.
_READ: ContextVar[dict[Any, tuple[ImageSource, Any]] | None] = ContextVar("read", default=None)


class ReadImages:
    """Images that another estimator has read, to be taken for X without being read again.

    Parameters
    ----------
    source : ImageSource
        The images.
    reader : BaseImageEstimator
        What has read them: it knows their form.
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

        A y of another length is refused before files are read.
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
        """Return the images of X that can be read, at least two where nothing is known yet."""
        smallest = smallest if reset else 1
        return self._readable(self._read_images(X, reset=reset, smallest=smallest, max_time=max_time, y=y))

    def _readable(self, images: ImageSource) -> ImageSource:
        """Return the images that can be read, at least two."""
        images = images.without_bad()
        if len(images) < 2:
            raise ValueError("Training needs at least 2 images to tell apart, got n_samples=1.")
        return images

    def _read_rows(
        self, rows: list[Any], *, reset: bool, smallest: int, max_time: float | None
    ) -> ImageSource:
        """Return the images of files, Pillow images and the like."""
        if len(rows) < smallest:
            raise ValueError(
                f"Found {len(rows)} images (n_samples={len(rows)}), at least {smallest} are needed."
            )
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
                    f"Of {len(rows)} images {good} can be read (n_samples={good}), at least {smallest} are "
                    "needed."
                )
            # No names, even of a table: they would be those of columns, not of pixels.
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
        # With "auto", an array has the size that is meant, unless fit has seen files.
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
        """Return an array of images in another size, and what is then to be said about their shape."""
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
        """Return the size that images are brought to: once it is chosen, that of fit."""
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
        X = as_array(rows_of_column(X))
        if isinstance(X, type) or not any(hasattr(X, name) for name in _OF_ARRAYS):
            raise TypeError(
                f"X is {shortened(repr(X))}, of type {type(X).__name__}, which holds no images. Pass an "
                "array of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W), or a list of images."
            )
        if isinstance(X, np.ndarray) and X.dtype.kind == "V":
            raise ValueError(
                f"X must hold real numbers, got dtype {X.dtype}. Pass its fields as channels: "
                "numpy.lib.recfunctions.structured_to_unstructured(X)."
            )
        shape = getattr(X, "shape", ())
        if hasattr(X, "iloc") and 0 in shape:
            raise ValueError(f"X is a table of shape {shape}: it has no images (n_samples=0) or no pixels.")
        if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
            X = X.tolist()
        if isinstance(X, list | tuple):
            X = _nested_lists(X)
        if getattr(X, "ndim", 2) < 2 and not _is_text(X):
            raise ValueError(_no_batch(np.asarray(X)))
        one = None if reset or self._format.flat else self._format.image_shape
        if one is not None and getattr(X, "shape", None) == one:
            raise ValueError(f"X has the shape of one image, {one}. Pass X[None].")
        if _is_text(X):
            raise ValueError(
                "X holds strings or bytes in several columns. Pass one column of paths, or an array of "
                "numbers of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)."
            )
        if getattr(X, "ndim", 2) <= 2:
            X = _without_masks(X)
            array = validate_data(self, X, reset=reset, **options)
        else:
            array = check_array(X, allow_nd=True, estimator=self, input_name="X", **options)
            # Only tables have columns with names.
            check_feature_names(self, array, reset=reset)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"X must hold real numbers, got dtype {array.dtype}.")
        array = without_long_doubles(array)
        _check_finite(array)
        return array

    @usual_settings()
    def _infer(
        self,
        function: Callable[[Sequence[nn.Module], torch.Tensor], torch.Tensor],
        modules: Sequence[nn.Module],
        source: ImageSource | ComputedImages,
    ) -> NDArray[np.float32]:
        """Apply a function of modules and of float images (N, C, H, W) to all of a source, in eval mode.

        Every batch has the same shape, the last is padded: a row's result does not depend on the
        number of rows around it. The first of the modules decides how many images are a batch. Ranks that
        want the same of many images share the work.
        """
        if isinstance(source, ImageSource) and len(source) >= _SHARED_FROM and connected():
            with together() as ranks:
                if ranks.meet(lambda: content_of([type(self).__name__, source, *modules])):
                    part = part_of(len(source), None, ranks)
                    own = self._infer_here(function, modules, source.select(part.rows))
                    return part.gather_forward(torch.from_numpy(own)).numpy()
        return self._infer_here(function, modules, source)

    def _infer_here(
        self,
        function: Callable[[Sequence[nn.Module], torch.Tensor], torch.Tensor],
        modules: Sequence[nn.Module],
        source: ImageSource | ComputedImages,
    ) -> NDArray[np.float32]:
        device = resolve_device(self.device)
        size = images_a_forward(source.shape, device, traits(modules[0]) if modules else Traits())
        while True:
            try:
                with (
                    current_on(device),
                    _in_eval_mode(modules, device) as there,
                    torch.inference_mode(),
                    exact_float32(),
                ):
                    return self._infer_in_batches(function, there, source, device, size)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                said = str(error).partition("\n")[0]
            # Out here nothing holds the tensors of the batch any longer. All rows are computed anew: they
            # must not differ by the batch they were in.
            _ON_DEVICES.clear()
            empty_cache(device)
            if size == 1:
                raise MemoryError(
                    f"The memory of device {str(device)!r} is exhausted by a single image of shape "
                    f"{tuple(source.shape)}: {said} Pass another device, or smaller images (image_size). "
                    "In fit, micro_batch_size and batch_size decide about memory."
                )
            size //= 2

    def _infer_in_batches(
        self,
        function: Callable[[Sequence[nn.Module], torch.Tensor], torch.Tensor],
        modules: Sequence[nn.Module],
        source: ImageSource | ComputedImages,
        device: torch.device,
        size: int,
    ) -> NDArray[np.float32]:
        channels_last = getattr(self, "_encoder_takes_channels_last", False)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        bad = source.bad
        copies = Copies(device)
        waiting: deque[tuple[int, torch.Tensor, Mark]] = deque()
        result: Any = None  # an array, once the shape of a row is known

        def fetch() -> None:
            nonlocal result
            start, rows, done = waiting.popleft()
            done.synchronize()
            if result is None:
                result = np.empty((len(source), *rows.shape[1:]), dtype=np.float32)
            result[start : start + len(rows)] = rows.numpy()

        for start in range(0, len(source), size):
            taken = source.take(slice(start, start + size))
            if taken.device != device:
                taken = copies.receive(*copies.send(taken))
            images = as_float(taken)
            n = len(images)
            grey = bad[(bad >= start) & (bad < start + n)] - start
            if len(grey):
                images = images.index_fill(0, torch.from_numpy(grey).to(device), 0.5)
            if n < size:
                images = torch.cat([images, images.new_zeros(size - n, *images.shape[1:])])
            rows = function(modules, images.contiguous(memory_format=memory_format))[:n].float()
            waiting.append((start, rows.to("cpu", non_blocking=True), mark(device)))
            # The host goes on while the device works on a batch.
            if len(waiting) > 1:
                fetch()
        while waiting:
            fetch()
        if self._reading().on_error != "grey":
            result[bad] = np.nan
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


@contextlib.contextmanager
def _in_eval_mode(modules: Sequence[nn.Module], device: torch.device) -> Iterator[Sequence[nn.Module]]:
    """Give modules in eval mode, on a device; what the estimator holds stays on the CPU."""
    modes = [[(m, m.training) for m in module.modules()] for module in modules]
    if is_cpu(device):
        try:
            for module in modules:
                module.eval()
            yield modules
        finally:
            for mode in modes:
                for module, training in mode:
                    module.training = training
    else:
        yield [_on_device(module, device) for module in modules]


# Copies of fitted networks on other devices, as long as these are there and have not changed.
_ON_DEVICES: weakref.WeakKeyDictionary[nn.Module, dict[torch.device, tuple[Any, nn.Module]]] = (
    weakref.WeakKeyDictionary()
)


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a module in eval mode on a device: the one made before, if nothing has changed."""
    state, copies = _state_of(module), _ON_DEVICES.setdefault(module, {})
    if device not in copies or copies[device][0] != state:
        copies.pop(device, None)  # gives its memory back before the new one takes it
        copies[device] = state, copy.deepcopy(module).to(device).eval()
    return copies[device][1]


def _state_of(module: nn.Module) -> tuple:
    """Return what differs where a module computes something else: its parts, its hooks and its numbers."""
    parts = [
        (id(part), repr(part) if not list(part.children()) else "", len(part._forward_hooks))
        for part in module.modules()
    ]
    # Numbers and not versions of tensors: who writes to .data or to a view of numpy leaves no trace in these.
    tensors = [tensor.detach() for tensor in itertools.chain(module.parameters(), module.buffers())]
    held = [(tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors]
    return (*parts, *held, *(_checksum(tensor) for tensor in tensors))


def _checksum(tensor: torch.Tensor) -> int:
    """Return what bytes of a tensor that were changed have not in common, all but one in 4 billion times."""
    array = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()
    array.setflags(write=False)
    return google_crc32c.value(array)


def images_a_forward(shape: tuple[int, int, int], device: torch.device, network: Traits) -> int:
    """Return how many images go through a network at a time in inference.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width of the images: the number depends on nothing else of them.
    device : torch.device
        Where the network is, and how much memory there is in all.
    network : Traits
        Of the network.

    Returns
    -------
    int
        1 to 1,024.
    """
    channels, height, width = shape
    pixels = height * width if network.shrinks_to is None else min(height * width, network.shrinks_to**2)
    cost = pixels * max(1.0, channels / _CHANNELS)
    here = is_cpu(device)
    # All of the memory and not the free part: the same row is to be computed in the same batch each time.
    room = math.inf if here else _MEMORY_PART * total_memory(device) / _BYTES_A_PIXEL
    usual = min(room, network.batch_scale * (_PIXELS if here else _PIXELS_ELSEWHERE)) // cost
    most = (_MOST_PIXELS if here else _MOST_PIXELS_ELSEWHERE) // cost
    held = _NUMBERS // math.prod(shape) if here else math.inf
    return int(max(1, min(1024, held, max(usual, min(_IMAGES, most)))))


def _without_masks(X: Any) -> Any:
    """Return a table of pandas' nullable numbers with numpy's: its dtype tells the range of the pixels."""
    dtypes = set(getattr(X, "dtypes", ()))
    kind = getattr(next(iter(dtypes)), "numpy_dtype", None) if len(dtypes) == 1 else None
    if not isinstance(kind, np.dtype) or kind.kind not in "iufb" or X.isna().to_numpy().any():
        return X
    return X.astype(kind)


def _nested_lists(X: Sequence[Any]) -> np.ndarray:
    try:
        return np.asarray(X)
    except ValueError as error:
        shapes = [np.shape(row) if _has_shape(row) else None for row in X]
        for i, shape in enumerate(shapes):
            if shape is None and isinstance(X[i], tuple):
                kinds = ", ".join(type(part).__name__ for part in X[i][:5])
                raise TypeError(
                    f"Row {i} of X is a tuple of {kinds}. Pass a list of images, or of tuples that begin "
                    "with the image."
                ) from error
            if shape == ():
                raise ValueError(
                    f"Row {i} of X is {X[i]!r:.60}, not an image. Leave it out of X, or put an image there."
                ) from error
        odd = next((i for i, shape in enumerate(shapes) if shape is None or shape != shapes[0]), 0)
        raise ValueError(
            f"Images of mixed sizes: row {odd} of X differs in shape from row 0. "
            "Resize or crop them to one size and stack them into one array."
        ) from error


def _no_batch(X: np.ndarray) -> str:
    """Return what is to be said of an array of fewer than two axes."""
    if X.size == 0:
        return "X has no images (n_samples=0). Check where they were looked for."
    if X.dtype.hasobject and X.ndim:
        return (
            f"X is a list of objects such as {shortened(repr(X[0]))}, of type {type(X[0]).__name__}, which "
            "are no images. Pass arrays, Pillow images, paths, or what the files hold (file.read())."
        )
    return (
        f"X is a {X.ndim}D array of {X.size} numbers, without an axis of images. Pass X[None] for one image "
        "that is a row of pixels, else an array of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W), or "
        "a list of images. Reshape your data."
    )


def _check_length(y: Any, n: int) -> None:
    """Raise if there are labels, of another number than there are images."""
    shape = getattr(y, "shape", None)
    found = shape[0] if shape else len(y) if hasattr(y, "__len__") else n
    if found != n:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n, found]}. Pass one label an "
            "image, -1 or None where there is none."
        )


def _has_shape(row: Any) -> bool:
    try:
        np.shape(row)
    except ValueError:
        return False
    return True


def _is_text(X: Any) -> bool:
    if hasattr(X, "iloc"):
        return any(isinstance(value, str | bytes) for value in np.asarray(X.iloc[:1], dtype=object).flat)
    if not isinstance(X, np.ndarray):
        return isinstance(X, str | bytes)
    if X.dtype.kind == "O":
        return X.size > 0 and isinstance(X.flat[0], str | bytes)
    return X.dtype.kind in "US"


def _check_finite(array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    bad: list[int] = []
    file = mapped_rows(array)
    for block in row_blocks(len(array), array[:1].nbytes):
        rows = array[block]
        finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
        if file is not None:
            file.seen(len(rows))
        if not finite.all():
            bad.extend(block.start + np.flatnonzero(~finite))
    if bad:
        kind = "NaN" if np.isnan(array[bad[0]]).any() else "infinity"
        more = f" and {len(bad) - 1} other rows" if len(bad) > 1 else ""
        raise ValueError(
            f"Input X contains {kind}: row {bad[0]}{more}. Leave these images out, or replace the values."
        )
