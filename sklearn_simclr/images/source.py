"""X of any accepted form as a source of images: indexable, of one known shape and pixel range."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .arrays import as_tensor
from .indexing import row_blocks
from .layout import ImageFormat
from .mapped import MappedRows, mapped_rows
from .pixel_range import warn_about_range

__all__ = ["ImageSource", "as_float", "decoded_source", "image_source"]


class ImageSource:
    """Images of one shape, drawn by index; the pixels stay where and as they are until then.

    Parameters
    ----------
    pixels : tensor of shape (n, C, H, W)
        Of any real dtype; may be a strided view of the user's array.
    pixel_range : (float, float)
        The values that are mapped to 0 and 1; what lies outside is clipped.
    rows : int64 tensor of shape (m,) or None, default=None
        Which of the pixels the images are, in their order; None is all of them.
    bad : array-like of int, default=()
        Images that could not be read: others stand in their places.
    file : MappedRows or None, default=None
        Where the pixels are in a file that is mapped into memory.

    Attributes
    ----------
    pixels : tensor-like of shape (m, C, H, W)
        Slices of it are tensors.
    bad : int64 ndarray
        As given.

    See Also
    --------
    image_source : Makes a source of an array.
    decoded_source : Makes a source of decoded images.
    as_array : The images of a source, as an array.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.images import ImageSource
    >>> source = ImageSource(torch.arange(32).view(2, 1, 4, 4), (0, 31))
    >>> source.take(torch.tensor([1])).amax()
    tensor(1.)
    """

    def __init__(
        self,
        pixels: Tensor,
        pixel_range: tuple[float, float],
        *,
        rows: Tensor | None = None,
        bad: ArrayLike = (),
        file: MappedRows | None = None,
    ) -> None:
        self.pixels: Tensor | _ChosenRows = pixels if rows is None else _ChosenRows(pixels, rows)
        self.pixel_range = pixel_range
        self.bad = np.asarray(bad, dtype=np.int64)
        self.file = file
        # The bytes of uint8 images are handed out as they are: a quarter of the memory traffic.
        self._raw = pixels.dtype == torch.uint8 and tuple(pixel_range) == (0.0, 255.0)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        """Bytes of all images, as ``to`` would put them on a device."""
        return len(self) * math.prod(self.shape) * (1 if self._raw else 4)

    def take(self, index: slice | Tensor) -> Tensor:
        """Return some of the images.

        Parameters
        ----------
        index : slice or int64 tensor of shape (m,)
            Rows, on the device of the source.

        Returns
        -------
        tensor of shape (m, C, H, W)
            uint8 as it is, anything else as float32 in [0, 1].
        """
        batch = _gather(self.pixels, index)
        self.seen(len(batch), scattered=not isinstance(index, slice))
        return batch if self._raw else _scale(batch, self.pixel_range)

    def ask(self, index: Tensor) -> None:
        """Have images that are in a file read from the disk while something else is done.

        Parameters
        ----------
        index : int64 tensor of shape (m,)
            Those that will be taken next.
        """
        if self.file is not None:
            rows = self.pixels.rows[index] if isinstance(self.pixels, _ChosenRows) else index
            self.file.ask(rows.tolist())

    def seen(self, n: int, *, scattered: bool = False) -> None:
        """Count images that were read: not all images of a file are to stay in memory.

        Parameters
        ----------
        n : int
            Number of images.
        scattered : bool, default=False
            Whether they were in different places.
        """
        if self.file is not None:
            self.file.seen(n, scattered=scattered or isinstance(self.pixels, _ChosenRows))

    def select(self, rows: ArrayLike) -> ImageSource:
        """Return a source of some of the images; the pixels are not copied.

        Parameters
        ----------
        rows : array-like of int of shape (m,)
            Positions of the images.

        Returns
        -------
        ImageSource
            In the order of ``rows``.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        bad = np.flatnonzero(np.isin(chosen, self.bad))
        index = torch.from_numpy(chosen).to(self.device)
        pixels = self.pixels
        if isinstance(pixels, _ChosenRows):
            index, pixels = pixels.rows[index], pixels.pixels
        return ImageSource(pixels, self.pixel_range, rows=index, bad=bad, file=self.file)

    def content(self) -> str:
        """Return a digest that other images do not have.

        Returns
        -------
        str
            40 hexadecimal digits, of the pixels as they are and of their range.
        """
        pixels = self.pixels
        known = (tuple(pixels.shape), str(pixels.dtype), tuple(self.pixel_range))
        digest = hashlib.blake2b(repr(known).encode(), digest_size=20)
        for rows in row_blocks(len(pixels), math.prod(self.shape) * pixels.dtype.itemsize):
            block = pixels[rows].numpy()
            digest.update(np.ascontiguousarray(block).data)
            self.seen(len(block))
        return digest.hexdigest()

    def without_bad(self) -> ImageSource:
        """Return a source of the images that could be read.

        Returns
        -------
        ImageSource
            Itself if all images could be read.
        """
        return self.select(np.setdiff1d(np.arange(len(self)), self.bad)) if len(self.bad) else self

    def to(self, device: torch.device) -> ImageSource:
        """Return the same images on a device, as bytes or as float32 in [0, 1].

        Parameters
        ----------
        device : torch.device
            Where to.

        Returns
        -------
        ImageSource
            Itself if the images are there already.
        """
        if self.device == device:
            return self
        if self._raw and isinstance(self.pixels, torch.Tensor):
            return ImageSource(self.pixels.to(device), self.pixel_range, bad=self.bad)
        dtype = torch.uint8 if self._raw else torch.float32
        there = torch.empty(self.pixels.shape, dtype=dtype, device=device)
        for rows in row_blocks(len(self), self.nbytes // max(1, len(self))):
            there[rows] = self.take(rows)
        return ImageSource(there, self.pixel_range if self._raw else (0.0, 1.0), bad=self.bad)


class _ChosenRows:
    """Some rows of a tensor, in any order, as far as they are used like a tensor."""

    def __init__(self, pixels: Tensor, rows: Tensor) -> None:
        self.pixels, self.rows = pixels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return _gather(self.pixels, self.rows[index])

    def view(self, dtype: torch.dtype) -> _ChosenRows:
        return _ChosenRows(self.pixels.view(dtype), self.rows)

    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.pixels.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.pixels.dtype

    @property
    def device(self) -> torch.device:
        return self.pixels.device


def _gather(pixels: Tensor | _ChosenRows, index: slice | Tensor) -> Tensor:
    if isinstance(index, slice) or isinstance(pixels, _ChosenRows):
        return pixels[index]
    if pixels.dtype == torch.uint16:  # has no index_select
        return pixels.view(torch.int16).index_select(0, index).view(torch.uint16)
    return pixels.index_select(0, index)


def image_source(X: NDArray, fmt: ImageFormat, *, fitted: bool = False) -> ImageSource:
    """Return the images of X.

    Parameters
    ----------
    X : array
        Finite numbers, of the form that ``fmt`` describes.
    fmt : ImageFormat
        As found in fit.
    fitted : bool, default=False
        Whether X is other data than ``fmt`` was found on; values outside of the range warn.

    Returns
    -------
    ImageSource
        On the CPU; shares memory with X where it can.

    Raises
    ------
    ValueError
        If the images of X have another shape.

    See Also
    --------
    decoded_source : The same for decoded files.
    image_format : The format of such a source.
    as_array : The other direction.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images import image_format
    >>> from sklearn_simclr.images import image_source
    >>> X = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    >>> image_source(X, image_format(X)).shape
    (3, 8, 8)
    """
    expected = (math.prod(fmt.image_shape),) if fmt.flat else fmt.image_shape
    if X.shape[1:] != expected:
        if fmt.flat and X.ndim == 2:
            found = f"X has {X.shape[1]} features, but {expected[0]} features were seen in fit"
        else:
            found = f"X has images of shape {X.shape[1:]}, but images of shape {expected} were seen in fit"
            if fmt.flat and math.prod(X.shape[1:]) == expected[0]:
                raise ValueError(f"{found}. Pass X.reshape(len(X), -1).")
        more = "" if fmt.flat else f" With image_size={fmt.shape[1:]}, arrays of other sizes are resized."
        raise ValueError(f"{found}. Pass images of the same size, channels and layout.{more}")
    if fitted:
        warn_about_range(X, None, fmt.pixel_range)
    pixels = as_tensor(X.reshape(len(X), *fmt.image_shape))
    if fmt.layout == "HW":
        pixels = pixels[:, None]
    elif fmt.layout == "HWC":
        pixels = pixels.permute(0, 3, 1, 2)
    if X.dtype == np.bool_ and fmt.pixel_range == (0.0, 1.0):
        return ImageSource(pixels.to(torch.uint8).mul_(255), (0.0, 255.0))
    file = mapped_rows(X) if pixels.data_ptr() == X.ctypes.data else None  # else they were copied
    return ImageSource(pixels, fmt.pixel_range, file=file)


def decoded_source(
    pixels: NDArray,
    fmt: ImageFormat,
    rows: NDArray[np.int64] | None = None,
    *,
    bad: ArrayLike = (),
    fitted: bool = False,
) -> ImageSource:
    """Return decoded images, of which some may be bad.

    Parameters
    ----------
    pixels : ndarray of shape (m, H, W, C)
        uint8, uint16, int16 or float32.
    fmt : ImageFormat
        As found in fit.
    rows : int64 ndarray of shape (k,) or None, default=None
        Which of the pixels the good images are; None is all of them.
    bad : int64 ndarray of shape (b,), default=()
        Rows of the bad images among all k + b.
    fitted : bool, default=False
        Whether X is other data than ``fmt`` was found on; values outside of the range warn.

    Returns
    -------
    ImageSource
        Of k + b images.

    Raises
    ------
    ValueError
        If the images have another size.

    See Also
    --------
    image_source : The same for arrays that were passed as X.
    decoded_format : The format of such a source.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.images import decoded_format
    >>> from sklearn_simclr.images import decoded_source
    >>> pixels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    >>> len(decoded_source(pixels, decoded_format(pixels), bad=[1]))
    3
    """
    good = len(pixels) if rows is None else len(rows)
    if good == 0:
        channels, height, width = fmt.shape
        pixels, rows = np.zeros((1, height, width, channels), dtype=np.uint8), None
    found = (pixels.shape[3], *pixels.shape[1:3])
    if found != fmt.shape:
        raise ValueError(
            f"X has images of height {found[1]} and width {found[2]} with {found[0]} channels, but images of "
            f"height {fmt.shape[1]} and width {fmt.shape[2]} with {fmt.shape[0]} channels were seen in fit. "
            "Pass image_size='auto' to have all resized to the size of fit."
        )
    pixel_range = fmt.pixel_range
    if not fmt.decoded_dtype and pixel_range == (0.0, 1.0) and pixels.dtype.kind == "u":
        # Fitted on scaled arrays: decoded images are on the scale of their dtype.
        pixel_range = (0.0, float(np.iinfo(pixels.dtype).max))
    elif fitted and good:
        warn_about_range(pixels, rows, pixel_range)
    bad = np.asarray(bad, dtype=np.int64)
    if len(bad):
        full = np.zeros(good + len(bad), dtype=np.int64)
        full[np.setdiff1d(np.arange(len(full)), bad)] = np.arange(good) if rows is None else rows
        rows = full
    return ImageSource(
        as_tensor(pixels).permute(0, 3, 1, 2),
        pixel_range,
        rows=None if rows is None else torch.from_numpy(rows),
        bad=bad,
        file=mapped_rows(pixels),
    )


def _scale(batch: Tensor, pixel_range: tuple[float, float]) -> Tensor:
    low, high = pixel_range
    span = high - low
    most = torch.finfo(batch.dtype if batch.dtype == torch.float32 else torch.float64).max
    if not (span < most and 1.0 / span < most):
        # The span or its inverse is infinite: scale all numbers by powers of two, so that both are finite.
        exponent = math.frexp(max(abs(low), abs(high)))[1]
        for power in (-exponent // 2, -exponent - -exponent // 2):
            batch, low, high = batch.to(torch.float64) * 2.0**power, low * 2.0**power, high * 2.0**power
    if batch.dtype in (torch.float32, torch.float64):
        batch = batch.sub(low)
    else:  # integers of up to 32 bits and half precision are exact in float64
        batch = batch.to(torch.float64).sub_(low)
    return batch.mul_(1.0 / (high - low)).to(torch.float32).clamp_(0.0, 1.0)


def as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1].

    Parameters
    ----------
    images : tensor
        uint8, or float32 in [0, 1].

    Returns
    -------
    tensor
        float32, contiguous.
    """
    if images.dtype == torch.uint8:
        return images.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    return images.contiguous()
