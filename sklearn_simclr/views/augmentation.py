"""Random views of images, batched and on the device, every image with its own draw."""

import math
from numbers import Integral, Real
from typing import Any, Literal, Self, TypeGuard

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from .._utils.pickling import VersionedPickles
from .._utils.types import Images
from .._utils.usual_settings import usual_settings
from ..images.items import as_rows
from ..images.load import load_images
from .by_matrices import Maps, compute_maps
from .draws import Draws, draw_views
from .make import IMPLEMENTATIONS, make_views

__all__ = ["Augmentation", "maps_of", "turns_freely"]

# Views up to this short side get the colours that SimCLR uses for CIFAR-10 (V1 B.9): half the strength, no
# blur.
_SMALL_VIEW = 64

# From this short side of the images on, views are smaller than images.
_SMALLEST_PART = 28
_VIEW_PART = 0.75


class Augmentation(VersionedPickles, BaseEstimator):
    """Draw the random views of SimCLR, for a whole batch at once.

    A view is a random crop that is resized to ``size``. It may be mirrored or rotated. Its colours are
    jittered; it may also be turned grey, blurred, or have a rectangle erased. Crop, mirroring, antialiased
    resize and blur are linear and separable: one pair of small matrices per view applies them all.
    Brightness, contrast, saturation, hue and greyscale are one 3 x 3 matrix and an offset.

    Parameters
    ----------
    recipe : {"auto", "no_up", "imagenet", "cifar"}, default="auto"
        Values for the parameters left at ``"auto"``.

        - ``"imagenet"`` and ``"cifar"``: the settings of the SimCLR paper. Views have the size of the image,
          crops have 8% to 100% of its area, and colour operations follow one another. The colour strength is
          1 with blur for ImageNet, and 0.5 without blur for CIFAR-10.
        - ``"auto"``: colours and blur of ``"imagenet"`` for images whose shorter side is above 64 pixels, of
          ``"cifar"`` for smaller images. Two changes learn more in a short training: crops have at least 20%
          of the area, and views have three quarters of the side from 28 pixels on. Grey images below 28
          pixels (digits, glyphs, small detector patches) get crops of at least 40% and are not mirrored.
        - ``"no_up"``: ``"auto"`` for images without an up: cells, satellite images, sky. Views are mirrored
          along both axes, and rotated by multiples of 90 degrees.
    size : "auto", int or (int, int), default="auto"
        Height and width of a view in pixels. ``"auto"`` has the aspect ratio of the images. With another
        aspect ratio, all views are stretched by the difference.
    crop_scale : "auto" or (float, float), default="auto"
        Range of the area of the crop, as fractions of the image's area, in (0, 1].
    crop_ratio : (float, float), default=(3/4, 4/3)
        Range of the aspect ratio (width / height) of the crop, relative to that of the image (V1 appendix A).
    flip_probability : "auto" or float, default="auto"
        Probability of a horizontal flip, in [0, 1]. Use 0 where left and right matter. ``"auto"`` is 0.5.
        With ``recipe="auto"`` it is 0 for small grey images. In estimators it is also 0 if a linear
        classifier can tell mirror images from the images.
    vertical_flip_probability : "auto" or float, default="auto"
        Probability of a vertical flip, in [0, 1]. ``"auto"`` is 0, or 0.5 with ``recipe="no_up"``.
    rotation : "auto", None, "quarter" or float, default="auto"
        Rotation of the views: none (None), by a multiple of 90 degrees (``"quarter"``), or by any angle up to
        this number of degrees in either direction, in (0, 180]. ``"auto"`` is None, or ``"quarter"`` with
        ``recipe="no_up"``. Quarter turns cost next to nothing. A view that is not square and is turned by 90
        degrees has a smaller crop, so that it is not stretched. For any angle the crop itself is rotated,
        which takes longer. Where a rotated crop reaches beyond the image, the image is reflected.
    color_strength : "auto" or float, default="auto"
        Strength s of the colour jitter, in [0, 2.5]. Brightness, contrast and saturation are multiplied by
        U(max(0, 1 - 0.8 s), 1 + 0.8 s); the hue is shifted by U(-0.2 s, 0.2 s) of the colour circle.
        Saturation and hue are left out unless the images have three channels.
    jitter_probability : float, default=0.8
        Probability that the colours of a view are jittered, in [0, 1].
    grayscale_probability : float, default=0.2
        Probability that a view is turned grey, in [0, 1]. Only images with three channels are turned grey.
    blur_probability : "auto" or float, default="auto"
        Probability of a Gaussian blur, in [0, 1].
    blur_sigma : (float, float), default=(0.1, 2.0)
        Range of the standard deviation of the blur, in pixels of the view. The width of the kernel is a
        tenth of the view's side.
    erasing_probability : float, default=0.0
        Probability, in [0, 1], that a rectangle of 2% to 20% of the view's area is replaced by the view's
        mean, as the last operation [2]_. The rectangle's aspect ratio is between 0.3 and 1 / 0.3.
    implementation : {"auto", "linear", "torchvision", "google_v1", "google_v2"}, default="auto"
        Exact form of these operations. Published recipes leave the form open, and libraries differ.

        - ``"torchvision"``: as RandomResizedCrop, ColorJitter and GaussianBlur of torchvision. The four
          colour operations follow one another in a random order, drawn for each view, and values are
          clipped to [0, 1] after each operation. Contrast is about the mean grey level, saturation is a blend
          with the grey image, and hue is shifted in HSV space. The logarithm of the crop's aspect ratio is
          uniform, and 10 boxes are tried. Resizing is bilinear and antialiased. The blur reflects at edges.
        - ``"google_v2"``: as google-research/simclr on TensorFlow 1. Contrast is about the mean of each
          channel, and saturation is multiplied in HSV space. The crop's aspect ratio is uniform and relative
          to that of the view, and the height is uniform given the ratio. 100 boxes are tried; boxes below 10%
          of the image's area are drawn again (`min_object_covered`), so that areas of 8% to 10% do not
          occur. Resizing is bicubic without antialiasing. The blur has zeros beyond the edges. Google's code
          draws one sigma for all views of a batch; here each view has its own.
        - ``"google_v1"``: as ``"google_v2"``, but brightness is changed by adding U(-0.8 s, 0.8 s), as in
          the first paper.
        - ``"linear"``: as ``"torchvision"``, but colours are clipped once, after the last operation, and the
          hue is shifted in the (I, Q) plane of YIQ, where the four operations commute: one matrix product.

        ``"auto"`` is ``"torchvision"`` with the recipes of the paper, and ``"linear"`` with ``"auto"`` and
        ``"no_up"``.

    See Also
    --------
    SimCLRTransformer : Trains an encoder on such views.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020, section 3 and appendix A. :arxiv:`2002.05709`
    .. [2] Zhong, Zheng, Kang, Li and Yang, "Random Erasing Data Augmentation", AAAI 2020.
           :arxiv:`1708.04896`

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr import Augmentation
    >>> images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    >>> views = Augmentation(size=24)(images, generator=torch.Generator().manual_seed(0))
    >>> views.shape, views.dtype
    (torch.Size([5, 3, 24, 24]), torch.float32)
    """

    # A parameter may have several types; only `resolve` makes it concrete.
    size: Any
    crop_scale: Any
    flip_probability: Any
    vertical_flip_probability: Any
    rotation: Any
    color_strength: Any
    blur_probability: Any
    implementation: Any

    def __init__(
        self,
        *,
        recipe: Literal["auto", "no_up", "imagenet", "cifar"] = "auto",
        size: Literal["auto"] | int | tuple[int, int] = "auto",
        crop_scale: Literal["auto"] | tuple[float, float] = "auto",
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: Literal["auto"] | float = "auto",
        vertical_flip_probability: Literal["auto"] | float = "auto",
        rotation: Literal["auto", "quarter"] | float | None = "auto",
        color_strength: Literal["auto"] | float = "auto",
        jitter_probability: float = 0.8,
        grayscale_probability: float = 0.2,
        blur_probability: Literal["auto"] | float = "auto",
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        erasing_probability: float = 0.0,
        implementation: Literal["auto", "linear", "torchvision", "google_v1", "google_v2"] = "auto",
    ) -> None:
        self.recipe = recipe
        self.size = size
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.flip_probability = flip_probability
        self.vertical_flip_probability = vertical_flip_probability
        self.rotation = rotation
        self.color_strength = color_strength
        self.jitter_probability = jitter_probability
        self.grayscale_probability = grayscale_probability
        self.blur_probability = blur_probability
        self.blur_sigma = blur_sigma
        self.erasing_probability = erasing_probability
        self.implementation = implementation

    def resolve(self, image_shape: tuple[int, ...], *, largest: int | None = None) -> Self:
        """Return a copy with every ``"auto"`` replaced by the value for images of a shape.

        Parameters
        ----------
        image_shape : (int, int, int)
            Channels, height and width of the images.
        largest : int or None, default=None
            Largest view that ``size="auto"`` chooses, as the side of a square with as many pixels. None sets
            no limit. Each encoder has its own limit.

        Returns
        -------
        Augmentation
            The augmentation with concrete values, all of them checked.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of its range; the message names it.

        Examples
        --------
        >>> from sklearn_simclr import Augmentation
        >>> Augmentation().resolve((3, 224, 224)).size
        (168, 168)
        >>> Augmentation().resolve((3, 224, 224), largest=48).size
        (48, 48)
        """
        channels, height, width = image_shape
        self._check()
        params = self.get_params(deep=False)
        recipe, no_up = self.recipe, self.recipe == "no_up"
        short_training, side = recipe in ("auto", "no_up"), min(height, width)
        part = _VIEW_PART if short_training and side >= _SMALLEST_PART else 1.0
        if largest is not None and short_training:
            part = min(part, largest / math.sqrt(height * width))
        size = (max(1, round(part * height)), max(1, round(part * width)))
        if short_training:
            recipe = "cifar" if min(size) <= _SMALL_VIEW else "imagenet"
        glyphs = short_training and side < _SMALLEST_PART and channels == 1
        auto = {
            "size": size,
            "crop_scale": (0.4, 1.0) if glyphs else (0.2, 1.0) if short_training else (0.08, 1.0),
            "flip_probability": 0.0 if glyphs and not no_up else 0.5,
            "vertical_flip_probability": 0.5 if no_up else 0.0,
            "rotation": "quarter" if no_up else None,
            "color_strength": 1.0 if recipe == "imagenet" else 0.5,
            "blur_probability": 0.5 if recipe == "imagenet" else 0.0,
            "implementation": "linear" if short_training else "torchvision",
        }
        for name, value in auto.items():
            if _is_auto(params[name]):
                params[name] = value
        if not isinstance(params["size"], tuple):
            size = params["size"]
            params["size"] = (int(size),) * 2 if _is_real(size) else tuple(int(s) for s in size)
        params["recipe"] = recipe
        return type(self)(**params)

    def draw(
        self,
        n: int,
        image_shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Draws:
        """Draw the random numbers of n views.

        Parameters
        ----------
        n : int
            Number of views.
        image_shape : (int, int, int)
            Channels, height and width of the images.
        generator : torch.Generator, default=None
            Source of the random numbers; None is torch's global generator.
        device : torch.device or str, default=None
            Device to which the draws are copied; None leaves them on the generator's device. A generator of
            the CPU gives the same views on every device.

        Returns
        -------
        tuple of tensors
            The draws for :meth:`apply`, n rows each. Their method ``rows(index)`` returns the draws of some
            views; ``to(device)`` returns all draws on another device, in one copy.

        Examples
        --------
        >>> import torch
        >>> from sklearn_simclr import Augmentation
        >>> draws = Augmentation().draw(4, (3, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> bool((draws.top + draws.height <= 32).all())
        True
        """
        draws = draw_views(self.resolve(image_shape), n, image_shape, generator)
        return draws if device is None else draws.to(device)

    def apply(self, images: Tensor, draws: Draws | Maps) -> Tensor:
        """Make the views that were drawn.

        Parameters
        ----------
        images : tensor of shape (N, C, H, W)
            uint8, or floating point in [0, 1].
        draws : tuple of tensors
            Output of :meth:`draw` for V views of such images, on the device of the images or on the CPU. V is
            N or a multiple of N; view i shows image i mod N.

        Returns
        -------
        tensor of shape (V, C, S, S)
            float32 in [0, 1].

        Raises
        ------
        ValueError
            If the number of views is not a multiple of the number of images.

        Examples
        --------
        >>> import torch
        >>> from sklearn_simclr import Augmentation
        >>> images, augmentation = torch.rand(4, 3, 32, 32), Augmentation()
        >>> draws = augmentation.draw(4, (3, 32, 32))
        >>> torch.equal(augmentation.apply(images, draws), augmentation.apply(images, draws))
        True
        """
        if isinstance(draws, Maps):
            return make_views(images, draws, self.size, blurs=False, implementation=self.implementation)
        n, n_views = len(images), len(draws.top)
        if n_views % n if n else n_views:
            raise ValueError(
                f"draws must hold one view per image, or a multiple of that; got draws of {n_views} views "
                f"for {n} images. Pass the result of draw(k * len(images), ...)."
            )
        return self.resolve(tuple(images.shape[1:]))._apply(images, draws)

    def _apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Make the views that were drawn; the parameters are concrete."""
        return make_views(
            images,
            draws,
            self.size,
            blurs=self.blur_probability > 0,
            rotation=self.rotation if _is_real(self.rotation) else 0.0,
            implementation=self.implementation,
        )

    @usual_settings()
    def __call__(
        self, images: Tensor | Images, generator: torch.Generator | None = None, n_views: int = 1
    ) -> Tensor:
        """Make random views of each image.

        Parameters
        ----------
        images : tensor of shape (N, C, H, W), or list of files
            uint8, or floating point in [0, 1]; any number of channels. Files, Pillow images and the like are
            read as :func:`load_images` does.
        generator : torch.Generator, default=None
            Where the random numbers come from; None is torch's global generator.
        n_views : int, default=1
            Views of each image; two at once cost less than two calls.

        Returns
        -------
        tensor of shape (n_views * N, C, S, S)
            float32 in [0, 1], on the device of the images. Views i, N + i, 2 N + i, ... are those of
            image i: for two views, the pairs that :func:`~sklearn_simclr.losses.nt_xent` takes.

        Raises
        ------
        ValueError
            If the images are not four-dimensional, or a parameter is out of its range.
        TypeError
            If the images are not a tensor of bytes or floating point numbers, or n_views is not an int.

        Examples
        --------
        >>> import torch
        >>> from sklearn_simclr import Augmentation
        >>> Augmentation()(torch.rand(4, 3, 32, 32), n_views=2).shape
        torch.Size([8, 3, 24, 24])
        """
        if isinstance(n_views, bool) or not isinstance(n_views, Integral):
            raise TypeError(f"n_views must be an int, got {n_views!r}.")
        if n_views < 1:
            raise ValueError(f"n_views must be at least 1, got {n_views}.")
        if not isinstance(images, torch.Tensor):
            rows = None if isinstance(images, np.ndarray) and images.dtype != object else as_rows(images)
            if rows is None:
                found = type(images).__name__
                raise TypeError(
                    f"images must be a torch.Tensor or files, as load_images takes them; got {found}."
                )
            read = load_images(rows)
            read = read / np.float32(65535) if read.dtype == np.uint16 else np.array(read)
            images = torch.from_numpy(read).permute(0, 3, 1, 2)
        if images.ndim != 4:
            raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}.")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floating point in [0, 1], got {images.dtype}.")
        shape = tuple(images.shape[1:])
        resolved = self.resolve(shape)
        draws = draw_views(resolved, n_views * len(images), shape, generator)
        return resolved._apply(images, draws)

    def _check(self) -> None:
        """Raise for a parameter out of its range."""
        if self.recipe not in ("auto", "no_up", "imagenet", "cifar"):
            raise ValueError(f"recipe must be 'auto', 'no_up', 'imagenet' or 'cifar', got {self.recipe!r}.")
        if self.implementation not in ("auto", *IMPLEMENTATIONS):
            raise ValueError(
                f"implementation must be 'auto' or one of {IMPLEMENTATIONS}, got {self.implementation!r}."
            )
        size = self.size
        sizes = () if _is_auto(size) else (size,) if _is_real(size) else size
        if isinstance(sizes, str) or not all(_is_real(s) and s >= 1 and s == int(s) for s in sizes):
            raise ValueError(f"size must be 'auto', a positive int or a pair of such ints, got {size!r}.")
        if not _is_auto(size) and len(sizes) not in (1, 2):
            raise ValueError(f"size must be 'auto', a positive int or a pair of such ints, got {size!r}.")
        _check_range("crop_scale", self.crop_scale, 1.0, auto=True)
        _check_range("crop_ratio", self.crop_ratio, math.inf)
        _check_range("blur_sigma", self.blur_sigma, math.inf)
        _check_number("flip_probability", self.flip_probability, 1.0, auto=True)
        _check_number("vertical_flip_probability", self.vertical_flip_probability, 1.0, auto=True)
        rotation = self.rotation
        if not (rotation is None or rotation in ("auto", "quarter")) and (
            isinstance(rotation, bool) or not _is_real(rotation) or not 0 < rotation <= 180
        ):
            raise ValueError(
                "rotation must be 'auto', None, 'quarter' or a number of degrees in (0, 180], got "
                f"{rotation!r}."
            )
        _check_number("erasing_probability", self.erasing_probability, 1.0)
        _check_number("color_strength", self.color_strength, 2.5, auto=True)
        _check_number("jitter_probability", self.jitter_probability, 1.0)
        _check_number("grayscale_probability", self.grayscale_probability, 1.0)
        _check_number("blur_probability", self.blur_probability, 1.0, auto=True)


def maps_of(
    augmentation: Augmentation, draws: Draws, image_shape: tuple[int, ...], dtype: torch.dtype
) -> Maps:
    """Return the maps of which an accelerator makes views; :meth:`Augmentation.apply` takes them as draws.

    The augmentation has concrete values and does not turn by any angle; draws and maps are on the CPU.
    """
    return compute_maps(
        draws,
        image_shape,
        dtype,
        augmentation.size,
        blurs=augmentation.blur_probability > 0,
        implementation=augmentation.implementation,
    )


def turns_freely(augmentation: Augmentation) -> bool:
    """Return whether an augmentation with concrete values turns views by any angle."""
    return _is_real(augmentation.rotation)


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, Real)


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value == "auto"


def _check_number(name: str, value: float | str, high: float, auto: bool = False) -> None:
    if auto and _is_auto(value):
        return
    if not isinstance(value, Real) or not 0 <= value <= high:
        or_auto = " or 'auto'" if auto else ""
        raise ValueError(f"{name} must be a number in [0, {high:g}]{or_auto}, got {value!r}.")


def _check_range(name: str, value: tuple[float, float] | str, high: float, auto: bool = False) -> None:
    if auto and _is_auto(value):
        return
    auto_or = "'auto' or " if auto else ""
    message = (
        f"{name} must be {auto_or}a pair (low, high) with low <= high, "
        f"both in (0, {high:g}{']' if math.isfinite(high) else ')'}, got {value!r}."
    )
    try:
        first, second = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(message) from None
    if not (0 < first <= second <= high and math.isfinite(second)):
        raise ValueError(message)
