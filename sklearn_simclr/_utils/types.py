"""Types of what users pass, named once: images, labels, seeds and the options that many estimators share."""

import os
from typing import Any, Literal, Protocol, TypeAlias

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike

__all__ = [
    "Device",
    "ImageShape",
    "ImageSize",
    "Images",
    "Labels",
    "Memory",
    "OnError",
    "OptimizerName",
    "PathLike",
    "PixelRange",
    "Precision",
    "RandomState",
    "Rows",
]


class Rows(Protocol):
    """Rows taken by index: lists of paths or Pillow images, data sets, frames and series, tensors."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


# ArrayLike leaves out paths, Pillow images and data sets, and labels of None.
Images: TypeAlias = ArrayLike | Rows
Labels: TypeAlias = ArrayLike | Rows

PathLike: TypeAlias = str | os.PathLike[str]
RandomState: TypeAlias = int | np.random.RandomState | None
Device: TypeAlias = str | torch.device
Memory: TypeAlias = str | joblib.Memory | None

ImageShape: TypeAlias = Literal["auto", "HWC", "CHW"] | tuple[int, ...] | list[int]
PixelRange: TypeAlias = Literal["auto"] | tuple[float, float] | list[float]
ImageSize: TypeAlias = Literal["auto"] | int | tuple[int, ...] | None
OnError: TypeAlias = Literal["raise", "nan", "grey"]
OptimizerName: TypeAlias = Literal["auto", "lars", "sgd", "adamw", "muon"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
