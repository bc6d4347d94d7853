"""Turn fitted estimators into JSON and arrays and back; nothing of what is written is code, or names any."""

import builtins
import enum
import math
import numbers
import os
import reprlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._utils.pickling import arrays_to_tensors, tensors_to_arrays
from .._utils.warn import shortened
from ..encoders.decoder import Decoder
from ..encoders.description import MOST_RESIZED, build_network, describe_network, fill_network
from ..encoders.make import make_encoder
from ..encoders.weights.pretrained import torchvision_name
from ..estimators.autoencoder_transformer import AutoencoderTransformer
from ..estimators.distilled_classifier import DistilledClassifier
from ..estimators.fixed_features import HOGTransformer, PixelTransformer
from ..estimators.simclr_classifier import SimCLRClassifier
from ..estimators.simclr_transformer import SimCLRTransformer
from ..estimators.supervised_transformer import SupervisedTransformer
from ..images.layout import ImageFormat
from ..views.augmentation import Augmentation
from ._around import join, split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ESTIMATORS", "decode_estimator", "encode_estimator"]

ESTIMATORS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        AutoencoderTransformer,
        DistilledClassifier,
        HOGTransformer,
        PixelTransformer,
        SimCLRClassifier,
        SimCLRTransformer,
        SupervisedTransformer,
    )
}

# Parameters that name places on a machine. A file must not choose them: the cache in a folder that comes with
# the file may hold pickles, which run code.
_PLACES = ("cache_dir", "checkpoint_dir", "memory")

# Parameters that say how somebody watched a training, not how to train: they have their defaults when read.
_OF_THE_WATCHER = ("verbose",)

# What may be set on an estimator, and of which type it has to be.
_ATTRIBUTES: dict[str, Any] = {
    "encoder_": nn.Module,
    "projector_": nn.Module,
    "classifier_": nn.Module,
    "head_": nn.Module,
    "decoder_": nn.Module,
    "pretrained_": SimCLRTransformer,
    "augmentation_": (Augmentation, type(None)),
    "classes_": np.ndarray,
    "feature_names_in_": np.ndarray,
    "history_": object,
    "image_shape_": tuple,
    "loss_curve_": list,
    "mirror_": bool,
    "n_features_in_": int,
    "n_iter_": int,
    "pixel_range_": tuple,
    "_architecture": dict,
    "_encoder_takes_channels_last": bool,
    "_format": ImageFormat,
    "_n_features_out": int,
    "_optimizer_state": object,
    "_out_dim": int,
    "_seed": int,
    "_sklearn_output_config": dict,
}

# A student that is fitted does not need its teacher.
_NOT_KEPT = ("teacher_",)

_NEEDED = ("_format", "image_shape_", "pixel_range_", "n_features_in_")
_NEEDED_OF_NETWORKS = ("encoder_", "_architecture")
_NEEDED_OF_FEATURES = ("_n_features_out",)

_FEATURES = (HOGTransformer, PixelTransformer)
# One bin per degree of an edge: a file cannot ask for more.
_MOST_ORIENTATIONS = 180

_TIMM = "timm:"

# Pixels of the images that a network of timm is tried with when it is built: a file cannot ask for more.
_MOST_PIXELS = 2**22


# Channels of images as large as a file may have them resized to.
_MOST_CHANNELS = 4


def encode_estimator(
    estimator: BaseEstimator,
) -> tuple[list[dict[str, Any]] | dict[str, Any], dict[str, torch.Tensor | np.ndarray]]:
    """Return an estimator as JSON and arrays.

    Parameters
    ----------
    estimator : estimator
        One of `ESTIMATORS`, fitted, or an estimator of scikit-learn that holds some of them.

    Returns
    -------
    records : list of dict, or dict
        JSON: one record for each estimator that this one is made of, itself the last. For an
        estimator of scikit-learn: these records, which of them it holds, and the name of the array around
        them.
    arrays : dict of str to tensor or ndarray
        What the records refer to.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    TypeError
        If it, a parameter or an attribute is of a class that is not known.
    ValueError
        If a parameter is out of its range.
    """
    writer = _Writer()
    if type(estimator) in ESTIMATORS.values():
        writer.value(estimator, "estimator")
        return writer.estimators, writer.arrays
    around, inner = split(estimator, lambda part: type(part) in ESTIMATORS.values())
    held = [writer.estimator(part, f"the {type(part).__name__}") for part in inner]
    kept = writer.keep(around)
    return {"estimators": writer.estimators, "held": held, "around": kept}, writer.arrays


def decode_estimator(
    records: list[dict[str, Any]] | dict[str, Any], arrays: dict[str, torch.Tensor], origin: str
) -> tuple[Any, dict[str, Any]]:
    """Undo `encode_estimator`.

    Parameters
    ----------
    records : list of dict, or dict
        The records that `encode_estimator` returned.
    arrays : dict of str to tensor
        The arrays that `encode_estimator` returned; emptied.
    origin : str
        Name of the file, for messages.

    Returns
    -------
    estimator : estimator
        The estimator that `encode_estimator` was given.
    places : dict of str to object
        Parameters that name places on a machine, with the values that were not taken.

    Raises
    ------
    ValueError
        If records and arrays were not written by `encode_estimator` of this or an earlier version.
    """
    try:
        if isinstance(records, list):
            reader = _Reader(records, arrays)
            return reader.last(), reader.places
        reader = _Reader(records["estimators"], arrays)
        around = reader.array(records["around"])
        reader.read()
        estimator, memory = join(around, [reader.place(k) for k in records["held"]])
        if memory is not None:
            reader.places["memory"] = memory
        check_is_fitted(estimator)
        return estimator, reader.places
    except KeyError as error:
        missing = shortened(str(error))
        raise ValueError(f"{origin} is not a valid file of an estimator: {missing} is missing.") from None
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = shortened(str(error).strip().rstrip("."))
        raise ValueError(f"{origin} is not a valid file of an estimator: {reason}.") from None


class _Writer:
    """Turns values into JSON; ``{kind: content}`` is what JSON has no type for."""

    def __init__(self) -> None:
        self.arrays: dict[str, torch.Tensor | np.ndarray] = {}
        self.estimators: list[dict[str, Any]] = []
        self.places: dict[int, tuple[int, BaseEstimator]] = {}

    def value(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (tuple, list):
            items = [self.value(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return {type(value).__name__: items}
        if type(value) is dict:
            items = [[self.value(k, where), self.value(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return {"dict": items}
        if type(value) is ImageFormat:
            return {"format": self.value(tuple(value), where)}
        if isinstance(value, np.ndarray):
            return self.array(value, where)
        if isinstance(value, np.generic):
            return {"scalar": self.array(np.asarray(value), where)}
        if isinstance(value, torch.Tensor):
            return {"tensor": self.keep(value)}
        # As text, a path names the same weights.
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, enum.Enum) and type(value).__module__.startswith("torchvision."):
            return torchvision_name(value)
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if isinstance(value, np.random.RandomState):
            return {"random_state": self.value(value.get_state(), where)}
        if type(value) is Augmentation:
            return {"augmentation": self.params(value, where)}
        if type(value) is FrozenEstimator:
            return {"frozen": self.value(value.estimator, where)}
        if type(value) in ESTIMATORS.values():
            return {"estimator": self.estimator(value, where)}
        if isinstance(value, nn.Module):
            return {"network": self.network(value, where)}
        if (type(value).__module__.partition(".")[0], type(value).__name__) == ("pandas", "DataFrame"):
            columns = {str(name): value[name].to_numpy() for name in value.columns}
            return {"frame": self.value(columns, where)}
        raise TypeError(f"{where} is {_shown(value)}, which a file without code cannot hold. {_ADVICE}")

    def array(self, value: np.ndarray, where: str) -> dict[str, Any]:
        if value.dtype.kind == "O":
            return {"objects": [list(value.shape), self.value(value.ravel().tolist(), where)]}
        if value.dtype.kind == "U":
            # As code points, an array in the file is as large as the one that is made of it.
            text = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
            codes = text.reshape(-1).view(np.int32).reshape(*value.shape, value.dtype.itemsize // 4)
            return {"strings": self.keep(codes)}
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise TypeError(f"{where} is an array of {value.dtype}, which cannot be saved. {_ADVICE}")
        return {"array": self.keep(value)}

    def keep(self, value: torch.Tensor | np.ndarray) -> str:
        name = str(len(self.arrays))
        self.arrays[name] = value
        return name

    def network(self, module: nn.Module, where: str, timm: dict[str, Any] | None = None) -> dict[str, Any]:
        if timm is not None:
            description: dict[str, Any] | None = {"kind": "timm", **timm}
        elif type(module) is Decoder:
            shape = [module.last.out_channels, *module.sides[-1]]
            description = {"kind": "decoder", "in_dim": module.in_dim, "image_shape": shape}
        else:
            description = describe_network(module)
        if description is None:
            raise TypeError(
                f"{where} is a {type(module).__name__}, a network of another package or of your own, which a "
                "file without code cannot build again. Pass format='torch' to export_encoder for its weights "
                "alone, or give the encoder by name."
            )
        state = {name: self.keep(tensor) for name, tensor in module.state_dict().items()}
        return {"of": description, "state": state}

    def params(self, estimator: BaseEstimator, where: str) -> dict[str, Any]:
        params = estimator.get_params(deep=False)
        loss = params.get("loss")
        if isinstance(loss, nn.Module):
            raise TypeError(
                f"{where}.loss is a {type(loss).__name__}, a module, which a file without code cannot "
                "build again. Call set_params(loss='nt_xent') before saving: transform does not need the "
                "loss, and the file leaves its weights in loss_ out."
            )
        return {
            name: None if name in _PLACES else self.value(value, f"{where}.{name}")
            for name, value in params.items()
            if name not in _OF_THE_WATCHER
        }

    def estimator(self, estimator: BaseEstimator, where: str) -> int:
        """Write an estimator, once, and return its place among all."""
        # The estimator itself is kept too: its id must not be taken by another object meanwhile.
        if id(estimator) in self.places:
            return self.places[id(estimator)][0]
        # Parameters that are not valid would give a file that cannot be read.
        estimator._validate_params()
        record = {"class": type(estimator).__name__, "params": self.params(estimator, where)}
        fitted = vars(estimator).keys() - estimator.get_params(deep=False).keys() - {*_NOT_KEPT}
        if "loss_" in fitted:
            # loss_ is of a module that is no longer the loss: another loss trains without its weights.
            fitted -= {"loss_", "_optimizer_state"}
        unknown = sorted(fitted - _ATTRIBUTES.keys())
        if unknown:
            raise TypeError(
                f"{where} has the attribute {unknown[0]!r}, which {type(estimator).__name__} does not have: "
                "the file would lose it. Delete the attribute before saving."
            )
        record["attributes"] = {
            name: self.attribute(estimator, name, f"{where}.{name}") for name in sorted(fitted)
        }
        self.estimators.append(record)
        self.places[id(estimator)] = (len(self.estimators) - 1, estimator)
        return len(self.estimators) - 1

    def attribute(self, estimator: Any, name: str, where: str) -> Any:
        value = getattr(estimator, name)
        if name == "encoder_":
            built_by = estimator._architecture["encoder"]
            if built_by is not None and built_by.startswith(_TIMM) and describe_network(value) is None:
                channels, *size = estimator._format.shape
                timm = {"name": built_by, "in_channels": channels, "image_size": size}
                return {"network": self.network(value, where, timm)}
        if name == "_optimizer_state":
            value = arrays_to_tensors(value)
        return self.value(value, where)


_ADVICE = "Set another value with set_params, or pickle the estimator for your own use."


def _shown(value: Any) -> str:
    return f"{reprlib.repr(value)} of type {type(value).__name__}"


class _Reader:
    """Turns what `_Writer` wrote into values."""

    def __init__(self, records: list[dict[str, Any]], arrays: dict[str, torch.Tensor]) -> None:
        self.records = records
        self.arrays = arrays
        self.estimators: list[Any] = []
        self.places: builtins.dict[str, Any] = {}

    def read(self) -> None:
        for record in self.records:
            self.estimators.append(self.estimator(record))
        if self.arrays:
            raise ValueError(f"{len(self.arrays)} of its arrays belong to no estimator")

    def last(self) -> Any:
        self.read()
        estimator = self.estimators[-1]
        try:
            check_is_fitted(estimator, "image_shape_")
        except NotFittedError as error:
            raise ValueError(str(error)) from None
        return estimator

    def value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            if isinstance(value, list):
                raise ValueError("a list stands where a value should")
            return value
        ((kind, content),) = value.items()
        read = _KINDS.get(kind)
        if read is None:
            raise ValueError(f"it has a value of the unknown kind {kind!r}")
        return read(self, content)

    def items(self, content: Any) -> list[Any]:
        return [self.value(item) for item in content]

    def tuple(self, content: Any) -> builtins.tuple[Any, ...]:
        return tuple(self.items(content))

    def dict(self, content: Any) -> builtins.dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in content}

    def array(self, name: str) -> np.ndarray:
        return self.tensor(name).numpy()

    def strings(self, name: str) -> np.ndarray:
        codes = np.ascontiguousarray(self.array(name))
        if codes.dtype != np.int32 or codes.shape[-1] == 0:
            raise ValueError("one of its arrays of strings is not valid")
        if codes.size and not 0 <= codes.min() <= codes.max() <= sys.maxunicode:
            raise ValueError("one of its arrays of strings has characters that do not exist")
        # The strings of an empty array have a length, too, however small the file is.
        length = codes.shape[-1] if codes.size else 1
        return codes.reshape(-1).view(f"=U{length}").reshape(codes.shape[:-1])

    def objects(self, content: Any) -> np.ndarray:
        shape, items = content
        items = self.value(items)
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array.reshape(shape)

    def scalar(self, content: Any) -> np.generic:
        return self.value(content)[()]

    def tensor(self, name: str) -> torch.Tensor:
        # Each array is used once: a small file cannot make a large estimator of one array.
        return self.arrays.pop(name)

    def format(self, content: Any) -> ImageFormat:
        layout, shape, flat, pixel_range, decoded_dtype = self.value(content)
        low, high = pixel_range
        right = (
            layout in ("HW", "HWC", "CHW")
            and len(shape) == len(layout)
            and all(type(size) is int and size >= 1 for size in shape)
            and math.prod(shape) <= MOST_RESIZED * _MOST_CHANNELS
            and type(flat) is bool
            and all(isinstance(v, numbers.Real) and math.isfinite(v) for v in pixel_range)
            and low < high
            and decoded_dtype in ("", "uint8", "uint16", "int16", "float32")
        )
        if not right:
            raise ValueError("its description of the images is not valid")
        return ImageFormat(layout, shape, flat, pixel_range, decoded_dtype)

    def device(self, content: Any) -> torch.device:
        return torch.device(content)

    def random_state(self, content: Any) -> np.random.RandomState:
        random_state = np.random.RandomState()
        state = self.value(content)
        # NumPy reads on from this place, even beyond the end of the numbers.
        if type(state[2]) is not int or not 0 <= state[2] <= len(state[1]):
            raise ValueError(f"its random_state is at the place {state[2]!r} of {len(state[1])} numbers")
        random_state.set_state(state)
        return random_state

    def augmentation(self, content: Any) -> Augmentation:
        return Augmentation(**{name: self.value(value) for name, value in content.items()})

    def frozen(self, content: Any) -> FrozenEstimator:
        value = self.value(content)
        if type(value) not in ESTIMATORS.values():
            raise ValueError("one of its FrozenEstimators holds no estimator")
        return FrozenEstimator(value)

    def place(self, content: Any) -> Any:
        if type(content) is not int or not 0 <= content < len(self.estimators):
            raise ValueError(f"there is no estimator {content!r} before the reference to it")
        return self.estimators[content]

    def network(self, content: Any) -> nn.Module:
        state = {name: self.tensor(place) for name, place in content["state"].items()}
        description = content["of"]
        kind = description["kind"]
        if kind == "timm":
            module = self.timm(description, state)
        elif kind == "decoder":
            with torch.device("meta"):
                module = Decoder(description["in_dim"], tuple(description["image_shape"]))
        else:
            module = build_network(description, len(state))
        return fill_network(module, state)

    def timm(self, description: Any, state: Any) -> nn.Module:
        name, channels, size = (
            description["name"],
            description["in_channels"],
            tuple(description["image_size"]),
        )
        if not name.startswith(_TIMM):
            raise ValueError(f"{name!r} is no network of timm")
        if math.prod(size) > _MOST_PIXELS:
            raise ValueError(f"its encoder is for images of {size[0]} x {size[1]} pixels, which is too many")
        # Without memory at first: a name and a number may stand for any size.
        with torch.device("meta"):
            fill_network(make_encoder(name, channels, size)[0], state)
        # Then on the CPU: networks of timm compute more than their state when they are built.
        with torch.random.fork_rng(devices=[]):
            return make_encoder(name, channels, size)[0]

    def frame(self, content: Any) -> "pd.DataFrame":
        import pandas as pd

        columns = self.value(content)
        if any(type(column) is not np.ndarray or column.ndim != 1 for column in columns.values()):
            raise ValueError("one of its tables holds something other than columns")
        return pd.DataFrame(columns)

    def estimator(self, record: Any) -> Any:
        name = record["class"]
        if name not in ESTIMATORS:
            raise ValueError(f"it holds a {name!r}, and only {', '.join(ESTIMATORS)} are read")
        cls = ESTIMATORS[name]
        params = {k: self.value(value) for k, value in record["params"].items() if k not in _OF_THE_WATCHER}
        for place in params.keys() & set(_PLACES):
            if params[place] is not None:
                self.places[place], params[place] = params[place], None
        unknown = sorted(params.keys() - set(cls._get_param_names()))
        if unknown:
            raise ValueError(f"{name} has no parameter {unknown[0]!r} here; update sklearn-simclr to read it")
        estimator: Any = cls(**params)
        estimator._validate_params()
        attributes = {}
        for key, content in record["attributes"].items():
            value = self.value(content)
            if key not in _ATTRIBUTES or not isinstance(value, _ATTRIBUTES[key]):
                raise ValueError(f"{name} cannot have {_shown(value)} as {key!r}")
            attributes[key] = tensors_to_arrays(value) if key == "_optimizer_state" else value
        needed = _NEEDED + (_NEEDED_OF_FEATURES if cls in _FEATURES else _NEEDED_OF_NETWORKS)
        missing = [key for key in needed if key not in attributes]
        if attributes and missing:
            raise ValueError(f"{name} lacks {missing[0]!r}")
        if not 0 <= attributes.get("_n_features_out", 0) <= MOST_RESIZED * _MOST_CHANNELS:
            raise ValueError(f"{name} gives {attributes['_n_features_out']} features, which is too many")
        if getattr(estimator, "n_orientations", 1) > _MOST_ORIENTATIONS:
            raise ValueError(f"{name} has n_orientations={estimator.n_orientations}, which is too many")
        vars(estimator).update(attributes)
        return estimator


_KINDS = {
    "array": _Reader.array,
    "augmentation": _Reader.augmentation,
    "device": _Reader.device,
    "dict": _Reader.dict,
    "estimator": _Reader.place,
    "format": _Reader.format,
    "frame": _Reader.frame,
    "frozen": _Reader.frozen,
    "list": _Reader.items,
    "network": _Reader.network,
    "objects": _Reader.objects,
    "random_state": _Reader.random_state,
    "scalar": _Reader.scalar,
    "strings": _Reader.strings,
    "tensor": _Reader.tensor,
    "tuple": _Reader.tuple,
}
