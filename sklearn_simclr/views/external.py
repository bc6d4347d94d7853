"""Views by a transform of another library, or by any callable, with the interface of `Augmentation`."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .._utils.devices import out_of_memory, synchronize
from .._utils.seeds import isolated_global_generators, seed_global_generators
from .augmentation import Augmentation

__all__ = ["ExternalViews", "as_views"]

_TAKES = ("auto", "image", "batch", "array", "pillow")

# How far views may be outside of [0, 1], as bicubic interpolation and noise leave them; further means that
# they were standardised.
_OUTSIDE = 0.25


class Seeds(NamedTuple):
    """Seeds of the global generators, one for each of N views."""

    seed: Tensor

    def rows(self, index: Tensor | slice) -> "Seeds":
        """Return the draws of some of the views."""
        return Seeds(self.seed[index])


class ExternalViews:
    """Draw random views by a transform of torchvision, kornia or albumentations, or by your own callable.

    Estimators wrap a callable that is passed as ``augmentation`` in this class. Wrap it yourself to set what
    the callable takes. :class:`Augmentation` is many times as fast: it computes all views of a batch at once,
    while most transforms are called for one view at a time.

    The global generators of torch, NumPy and Python are seeded before each call and restored afterwards, so
    that equal draws give equal views. A transform with a method ``set_random_seed``, as in albumentations, is
    seeded by this method. In the grid of a search, put a single transform of torchvision or albumentations
    into a ``Compose`` or into this class: otherwise scikit-learn takes the transform for an estimator,
    because of its ``get_params``.

    Parameters
    ----------
    transform : callable
        Function that returns one random view, in [0, 1] (uint8: 0 to 255), with the channels of the image.
        All views have one size. Standardised views (``Normalize``) raise an error, since ``transform`` of the
        estimator sees images in [0, 1]. A pair of views raises an error, too.
    takes : {"auto", "image", "batch", "array", "pillow"}, default="auto"
        Input of the transform:

        - ``"image"``: ``transform(image)``, a float32 tensor (C, H, W) in [0, 1];
        - ``"batch"``: ``transform(images)``, a float32 tensor (N, C, H, W) in [0, 1] on the device of the
          training. The transform must make a new draw for each image, as in kornia, not in torchvision;
        - ``"array"``: ``transform(image=image)``, an ndarray (H, W, C) of uint8, or of float32 in [0, 1] for
          images of more than 8 bits. The result is an array, or a dict with an array as ``"image"``;
        - ``"pillow"``: ``transform(image)``, a Pillow image.

        ``"auto"`` is ``"batch"`` for torch modules that are, or contain, modules of kornia; ``"array"`` for
        albumentations; ``"pillow"`` for torchvision's ``Compose`` with ``ToTensor`` or ``PILToTensor``,
        unless ``ToPILImage`` comes before; and ``"image"`` for all others.

    Raises
    ------
    TypeError
        If the transform cannot be called.
    ValueError
        If ``takes`` has another value, or kornia draws once for a whole batch.

    See Also
    --------
    Augmentation : The views of SimCLR, for a whole batch at once.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr import ExternalViews
    >>> from torchvision.transforms import v2
    >>> transform = v2.Compose([v2.RandomResizedCrop(24), v2.RandomHorizontalFlip()])
    >>> images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    >>> ExternalViews(transform)(images, torch.Generator().manual_seed(0), n_views=2).shape
    torch.Size([10, 3, 24, 24])
    """

    def __init__(
        self,
        transform: Callable[..., Any],
        *,
        takes: Literal["auto", "image", "batch", "array", "pillow"] = "auto",
    ) -> None:
        if isinstance(transform, type) or not callable(transform):
            what = f"the class {transform.__name__}" if isinstance(transform, type) else repr(transform)
            raise TypeError(
                f"augmentation must be an Augmentation, a callable that makes a view, or None, got {what}."
            )
        if takes not in _TAKES:
            raise ValueError(f"takes must be one of {list(_TAKES)}, got {takes!r}.")
        self.transform = transform
        self.takes = _find_out(transform) if takes == "auto" else takes
        if self.takes == "batch" and any(
            m.same_on_batch is True for m in _modules(transform, "same_on_batch")
        ):
            raise ValueError(
                "augmentation draws once for all images of a batch (same_on_batch=True), but each view needs "
                "a draw of its own. Pass same_on_batch=False to the transforms of kornia."
            )
        self.size: Any = None  # known after the transform has been tried
        self.seconds = 0.0
        self.n_made = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.transform!r}, takes={self.takes!r})"

    def resolve(self, image_shape: tuple[int, ...]) -> Self:
        """Return a copy for images of a shape, with a copy of the transform.

        The transform is tried on an image of noise, so that an error appears before the training.

        Parameters
        ----------
        image_shape : (int, int, int)
            Channels, height and width of the images.

        Returns
        -------
        ExternalViews
            With a copy of the transform, and the height and width of a view as ``size``.

        Raises
        ------
        TypeError, ValueError
            If the transform cannot be used, as for :meth:`apply`.
        """
        if self.takes == "pillow" and image_shape[0] not in (1, 3, 4):
            raise ValueError(
                f"augmentation takes Pillow images, which have 1, 3 or 4 channels, but the images have "
                f"{image_shape[0]}. Pass a transform that takes tensors, without ToTensor and PILToTensor."
            )
        noise = torch.randint(256, (1, *image_shape), generator=torch.Generator().manual_seed(0))
        trial = copy.copy(self)
        trial.transform, trial.size = copy.deepcopy(self.transform), None
        height, width = trial.apply(noise.to(torch.uint8), Seeds(torch.zeros(1, dtype=torch.int64))).shape[2:]
        resolved = copy.copy(self)
        resolved.transform, resolved.size = copy.deepcopy(self.transform), (height, width)
        resolved.seconds, resolved.n_made = 0.0, 0
        if hasattr(resolved.transform, "set_random_seed"):
            resolved.transform.set_random_seed(0)  # equal transforms are to be equal copies
        return resolved

    def draw(
        self,
        n: int,
        image_shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Seeds:
        """Draw the seeds of n views.

        Parameters
        ----------
        n : int
            Number of views.
        image_shape : (int, int, int)
            Channels, height and width of the images.
        generator : torch.Generator, default=None
            Source of the random numbers; None is torch's global generator.
        device : torch.device or str, default=None
            Device to which the seeds are copied; None leaves them on the generator's device.

        Returns
        -------
        tuple of tensors
            The draws for :meth:`apply`, n rows.
        """
        drawn = torch.randint(
            2**31, (n,), generator=generator, device=None if generator is None else generator.device
        )
        return Seeds(drawn if device is None else drawn.to(device))

    def apply(self, images: Tensor, draws: Seeds) -> Tensor:
        """Make the views that were drawn.

        Parameters
        ----------
        images : tensor of shape (N, C, H, W)
            uint8, or floating point in [0, 1].
        draws : tuple of tensors
            Output of :meth:`draw` for V views of such images. V is N or a multiple of N; view i shows image
            i mod N. A transform that takes batches gives equal views for equal batches only.

        Returns
        -------
        tensor of shape (V, C, h, w)
            float32 in [0, 1], on the device of the images.

        Raises
        ------
        TypeError
            If the transform returns something else than an image.
        ValueError
            If the views differ in size, are not in [0, 1], or have other channels than the images; or if the
            number of views is not a multiple of the number of images.
        """
        n, seeds = len(images), draws.seed.tolist()
        if len(seeds) % n if n else seeds:
            raise ValueError(
                f"draws must hold one view per image, or a multiple of that; got draws of {len(seeds)} views "
                f"for {n} images. Pass the result of draw(k * len(images), ...)."
            )
        if not seeds:
            return images.float()
        synchronize(images.device)  # earlier work of the device is no time of the views
        started = time.perf_counter()
        with isolated_global_generators(images.device), torch.no_grad():
            views = self._batch(images, seeds) if self.takes == "batch" else self._one_by_one(images, seeds)
        views = views.to(images.device)
        if self.size is not None and views.shape[2:] != self.size:
            raise _different_sizes(self.size, views.shape[2:])
        low, high = torch.stack(views.aminmax()).tolist()
        if not (low >= -_OUTSIDE and high <= 1 + _OUTSIDE):
            raise ValueError(
                f"augmentation makes views in [{low:.3g}, {high:.3g}], but views must be in [0, 1] like the "
                "images that transform represents. Leave out Normalize and similar steps."
            )
        views = views.clamp(0, 1)
        self.seconds += time.perf_counter() - started
        self.n_made += len(views)
        return views

    def __call__(self, images: Tensor, generator: torch.Generator | None = None, n_views: int = 1) -> Tensor:
        """Make random views of each image.

        Parameters
        ----------
        images : tensor of shape (N, C, H, W)
            uint8, or floating point in [0, 1].
        generator : torch.Generator, default=None
            Where the seeds come from; None is torch's global generator.
        n_views : int, default=1
            Views of each image.

        Returns
        -------
        tensor of shape (n_views * N, C, h, w)
            float32 in [0, 1]; views i, N + i, 2 N + i, ... are those of image i.
        """
        draws = self.draw(n_views * len(images), tuple(images.shape[1:]), generator=generator)
        return self.apply(images, draws)

    def content(self) -> Any:
        """Return what distinguishes these views from others, for the key of a cache.

        Returns
        -------
        object
            The transform. For albumentations, which number their parts by place in memory, the dict that they
            write to files, and the parts.
        """
        to_dict = getattr(self.transform, "to_dict", None)
        if self.takes == "array" and to_dict is not None:
            return [to_dict(), list(_parts(self.transform))]
        return self.transform

    def _one_by_one(self, images: Tensor, seeds: list[int]) -> Tensor:
        """Call the transform for one view after the other, on the CPU."""
        images = images.cpu()
        views: list[Tensor] = []
        for i, seed in enumerate(seeds):
            seed_global_generators(seed)
            if hasattr(self.transform, "set_random_seed"):
                self.transform.set_random_seed(seed)
            image = images[i % len(images)]
            view = _as_tensor(self._call(_IMAGES[self.takes](image)))
            _check_view(view, image)
            if views and view.shape != views[0].shape:
                raise _different_sizes(views[0].shape[1:], view.shape[1:])
            views.append(view)
        return torch.stack(views)

    def _batch(self, images: Tensor, seeds: list[int]) -> Tensor:
        """Call the transform for all views at once."""
        # A copy: the transform may change it.
        images = _as_float(images).repeat(len(seeds) // len(images), 1, 1, 1)
        seed_global_generators(seeds[0], images.device)
        views = self._call(images)
        if not isinstance(views, Tensor) or views.ndim != 4 or len(views) != len(images):
            raise TypeError(
                f"augmentation must return one view per image of a batch, a tensor ({len(images)}, C, h, w), "
                f"got {_shown(views)}."
            )
        _check_view(views[0], images[0])
        return _as_float(views)

    def _call(self, images: Any) -> Any:
        try:
            return self.transform(image=images) if self.takes == "array" else self.transform(images)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise ValueError(
                f"augmentation: {self._failed(error)} fails on {_shown(images)}: {type(error).__name__}: "
                f"{error}. Pass a transform that takes such images, or say what the transform takes: "
                "ExternalViews(transform, takes=...)."
            ) from error

    def _failed(self, error: Exception) -> str:
        """Return the name of the transform that failed: of several, the last one that was called."""
        name = type(self.transform).__name__
        parts = list(_parts(self.transform))
        trace = error.__traceback__
        while trace is not None:
            caller = trace.tb_frame.f_locals.get("self")
            if any(caller is part for part in parts):
                name = type(caller).__name__
            trace = trace.tb_next
        return name


def as_views(augmentation: Any) -> Augmentation | ExternalViews:
    """Return an object that draws views by an augmentation.

    Parameters
    ----------
    augmentation : Augmentation, ExternalViews or callable
        As estimators take it.

    Returns
    -------
    Augmentation or ExternalViews
        `augmentation` itself, or views that call it.

    Raises
    ------
    TypeError
        If `augmentation` cannot be called.
    """
    if isinstance(augmentation, Augmentation | ExternalViews):
        return augmentation
    return ExternalViews(augmentation)


def _find_out(transform: Any) -> str:
    """Return the value of ``takes`` that suits a transform."""
    if any(_library(module) == "kornia" for module in _modules(transform)):
        return "batch"
    if _library(transform) == "albumentations":
        return "array"
    if _library(transform) == "torchvision":
        for part in _parts(transform):
            if type(part).__name__ == "ToPILImage":
                break
            if type(part).__name__ in ("ToTensor", "PILToTensor"):
                return "pillow"
    return "image"


def _library(transform: Any) -> str:
    """Return the name of the library of image transforms that the class of a transform comes from."""
    names = {cls.__module__.partition(".")[0] for cls in type(transform).__mro__}
    return next((name for name in ("kornia", "albumentations", "torchvision") if name in names), "")


def _modules(transform: Any, attribute: str | None = None) -> Iterator[Any]:
    """Yield the torch modules of a transform; with an attribute, those that have it."""
    for module in transform.modules() if isinstance(transform, nn.Module) else ():
        if attribute is None or hasattr(module, attribute):
            yield module


def _parts(transform: Any) -> Iterator[Any]:
    """Yield the transforms that a composition is made of, in their order."""
    parts = getattr(transform, "transforms", None)
    if not isinstance(parts, list | tuple):
        yield transform
        return
    for part in parts:
        yield from _parts(part)


def _as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return images / 255 if images.dtype == torch.uint8 else images.float()


def _as_image(image: Tensor) -> Tensor:
    """Return an image that may be changed in place."""
    return _as_float(image).clone()


def _as_array(image: Tensor) -> np.ndarray:
    """Return an image (H, W, C), uint8 or float32 in [0, 1]."""
    image = image.permute(1, 2, 0)
    image = image if image.dtype == torch.uint8 else image.float()
    return image.contiguous().clone().numpy()


def _as_pillow(image: Tensor) -> Image.Image:
    """Return an image of 8 bits."""
    if image.dtype != torch.uint8:
        image = (image * 255).round().to(torch.uint8)
    array = _as_array(image)
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


_IMAGES: dict[str, Callable[[Tensor], Any]] = {
    "image": _as_image,
    "array": _as_array,
    "pillow": _as_pillow,
}


def _as_tensor(view: Any) -> Tensor:
    """Return the result of a transform as a float32 tensor (C, h, w)."""
    found = view["image"] if isinstance(view, dict) and "image" in view else view
    if isinstance(found, Image.Image | np.ndarray):
        array = np.atleast_3d(np.asarray(found))
        found = torch.from_numpy(array.transpose(2, 0, 1).copy())
    if not isinstance(found, Tensor) or found.ndim != 3:
        advice = " Pass the transform that makes one view." if isinstance(view, list | tuple) else ""
        raise TypeError(f"augmentation must return one view (C, h, w), got {_shown(view)}.{advice}")
    return _as_float(found.as_subclass(torch.Tensor).cpu())


def _check_view(view: Tensor, image: Tensor) -> None:
    """Raise if a view does not have the channels of its image."""
    if len(view) != len(image):
        raise ValueError(
            f"augmentation must keep the {len(image)} channels of the images, but returns views of shape "
            f"{tuple(view.shape)} for images of shape {tuple(image.shape)}."
        )


def _different_sizes(first: Sequence[int], second: Sequence[int]) -> ValueError:
    """Return an error about views of two sizes (height, width)."""
    return ValueError(
        "augmentation makes views of different sizes: {} x {} and {} x {} pixels. End the transform "
        "with a resize or a crop to one size.".format(*first, *second)
    )


def _shown(value: Any) -> str:
    """Return a description of a value, for messages."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, Image.Image):
        return f"a Pillow image of {value.size[0]} x {value.size[1]} pixels"
    return f"a {type(value).__name__}"
