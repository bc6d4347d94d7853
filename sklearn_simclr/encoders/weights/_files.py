"""Open files of weights: what they hold, under which names and in which shapes, read one by one."""

import io
import mmap
import os
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from encodings import normalize_encoding
from encodings.aliases import aliases
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
import torch

from ._names import GOOGLE, Dialect, Shapes, find_torch_dialect, google_names_of_objects
from ._tensor_bundle import TensorBundle

__all__ = ["StoredWeights", "find_prefix", "open_bundle", "open_file", "open_torch"]

_MAX_STATE = 1 << 20

# Pickles at the start of a torch file that is no archive: mark, version, system, content, keys.
_PICKLES = 5

# Encodings that turn bytes into bytes, so that they can be applied again and again.
_OF_BYTES = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec"}

# Keys under which programs keep the weights in a file, outer keys first.
_KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "encoder", "backbone")


@dataclass
class StoredWeights:
    """The weights in a file: what they are called, what shape they have, how each is read.

    ``read(name)`` gives a new float32 tensor in torch's order of dimensions, as `shapes` are.
    """

    origin: str
    dialect: Dialect
    shapes: Shapes
    read: Callable[[str], torch.Tensor]
    shown: Callable[[str], str] = str


def open_bundle(prefix: Path, ema: bool) -> StoredWeights:
    bundle = TensorBundle(prefix)
    graph = bundle.object_graph()
    if graph is None:
        scope = _scope(bundle, prefix, ema)
        variables = {name.removeprefix(scope): name for name in bundle if name.startswith(scope)}
    elif ema:
        raise ValueError(f"{prefix} has no moving average of its weights (ema_model/); pass ema=False.")
    else:
        variables = google_names_of_objects(graph)
        if not variables:
            raise ValueError(
                f"{prefix} is a TensorFlow checkpoint, but not one of SimCLR. Pass a checkpoint of "
                "github.com/google-research/simclr."
            )
    shapes = {}
    for name, variable in variables.items():
        # Names of the state that an optimizer keeps for a variable begin with the name of the variable.
        if name.startswith(("base_model/", "head_")) and name.rpartition("/")[0] not in variables:
            entry = bundle.entries.get(variable)
            if entry is not None:
                shapes[name] = tuple(entry.shape[axis] for axis in _axes(len(entry.shape)))

    def read(name: str) -> torch.Tensor:
        values = bundle[variables[name]]
        values = values.transpose(_axes(values.ndim))
        return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))

    return StoredWeights(str(prefix), GOOGLE, shapes, read, shown=lambda name: variables.get(name, name))


def _axes(n_dims: int) -> tuple[int, ...]:
    """Return the order of TensorFlow's dimensions in torch: kernels (H, W, in, out), matrices (in, out)."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(n_dims, tuple(range(n_dims)))


def _scope(bundle: TensorBundle, prefix: Path, ema: bool) -> str:
    """Return the prefix of the names of the network: "", "ema_model/", or the scope of a hub module."""
    first = "base_model/conv2d/kernel"
    scopes = [name.removesuffix(first) for name in bundle if name.endswith(first)]
    chosen = [scope for scope in scopes if ("ema_model/" in scope) == ema]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        names = ", ".join(map(repr, chosen))
        raise ValueError(f"{prefix} holds several networks: {names}. Pass a checkpoint of one of them.")
    if scopes:
        raise ValueError(
            f"{prefix} has {'no' if ema else 'only a'} moving average of its weights; pass ema={not ema}."
        )
    some = ", ".join(list(bundle)[:5]) or "nothing"
    raise ValueError(
        f"{prefix} is a TensorFlow checkpoint, but not one of SimCLR: it has no {first}. It holds {some}, "
        "... Pass a checkpoint of github.com/google-research/simclr."
    )


def open_file(path: Path, ema: bool = False) -> StoredWeights:
    with path.open("rb") as file:
        start = file.read(16)
    length = path.stat().st_size
    if length > 9 and int.from_bytes(start[:8], "little") < length and start[8:9] == b"{":
        return _read_safetensors(path, ema)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return open_torch(path, ema)
    raise ValueError(
        f"{path} is not a known file of weights: it is neither safetensors nor a torch file. For a "
        'TensorFlow checkpoint, pass the path without ".index".'
    )


def _read_safetensors(path: Path, ema: bool) -> StoredWeights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
    except SafetensorError as error:
        raise ValueError(f"{path} is a damaged or truncated safetensors file: {error}.") from None

    def read(name: str) -> torch.Tensor:
        # Opened anew for each tensor: all that one handle has read stays mapped, in the end the whole file.
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name).to(torch.float32, copy=True)

    return StoredWeights(str(path), _dialect(shapes, path, bare=True, ema=ema), shapes, read)


def open_torch(path: Path, ema: bool = False) -> StoredWeights:
    content = _load_torch(path)
    tensors: dict[str, torch.Tensor] = {}
    bare = isinstance(content, dict) and set(content) == {"state_dict"}
    if isinstance(content, dict) and {"resnet", "head"} <= content.keys():
        for part in ("resnet", "head"):
            tensors |= {f"{part}.{key}": value for key, value in _tensors(content[part]).items()}
    else:
        for key in _KEYS:
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
        tensors = _tensors(content)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    length = path.stat().st_size
    if claimed > length:
        raise ValueError(f"{path} has {length} bytes, but its tensors claim to have {claimed}.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(name: str) -> torch.Tensor:
        return tensors[name].to(torch.float32, copy=True).contiguous()

    return StoredWeights(str(path), _dialect(shapes, path, bare=bare, ema=ema), shapes, read)


def _load_torch(path: Path) -> object:
    """Return what a torch file holds, without objects of classes that torch does not know."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        try:
            with zipfile.ZipFile(path) as archive:
                compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is a damaged torch file: {error}.") from None
        if compressed:
            raise ValueError(f"{path} is a compressed archive, not a torch file.")
    try:
        for pickled in _pickles(path, is_zip):
            _check_calls(pickled)
        # Files of PyTorch Lightning hold settings of other classes in addition to the weights.
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
        stands_for: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
        stands_for = [(_Scalar if name.startswith("numpy.") else _Settings, name) for name in unknown]
        with torch.serialization.safe_globals(stands_for):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        # torch begins with general advice; what it found in this file comes after that.
        text = str(error).rpartition("WeightsUnpickler error:")[2]
        reason = text.strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path} could not be read as a torch file of weights alone: {reason[0].rstrip('.')}. The file "
            "is damaged, or is a pickle with other objects, which is not opened because a pickle can run any "
            "code. If you trust it, save its weights alone: "
            'torch.save({"state_dict": torch.load(path, weights_only=False)["state_dict"]}, "weights.pth").'
        ) from None


def _pickles(path: Path, is_zip: bool) -> Iterator[IO[bytes]]:
    """Yield the pickles of a torch file; in a file that is no archive they lie one after the other."""
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.lower().endswith(".pkl"):
                    yield io.BytesIO(archive.read(member))
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for _ in range(_PICKLES):
                yield cast(IO[bytes], mapped)


def _check_calls(pickled: IO[bytes]) -> None:
    """Raise for a pickle of a few bytes that makes many bytes by functions that torch lets it call."""
    called, encodings = set(), set()
    for operation, value, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL":
            called.add(str(value).rpartition(" ")[2])
        elif isinstance(value, str) and len(value) < 32:
            encoding = normalize_encoding(value).lower()
            encodings.add(aliases.get(encoding, encoding))
    if "bytearray" in called or "encode" in called and encodings & _OF_BYTES:
        raise ValueError("it makes more bytes than it has, which no file of weights does")


class _Settings:
    """Stands for classes that are not looked up: an object becomes a dict of its items and attributes."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return OrderedDict()  # the only kind that torch sets items and attributes of


class _Scalar:
    """Stands for NumPy's types, which have no dict of attributes: an object that keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _tensors(content: object) -> dict[str, torch.Tensor]:
    items = content.items() if isinstance(content, dict) else ()
    return {
        key: value
        for key, value in items
        if isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
    }


def _dialect(shapes: Shapes, path: Path, *, bare: bool, ema: bool) -> Dialect:
    try:
        dialect = find_torch_dialect(shapes, bare=bare, ema=ema)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if dialect is None:
        some = ", ".join(list(shapes)[:5]) or "no tensors"
        raise ValueError(
            f"{path} holds no known ResNet: it has {some}, ... The documentation of load_pretrained says "
            "which files it reads."
        )
    return dialect


def find_prefix(path: str | os.PathLike) -> Path:
    """Return the prefix of the one checkpoint that a path stands for.

    Parameters
    ----------
    path : str or path-like
        The prefix of the checkpoint, one of its files, its directory (where a file ``checkpoint`` may choose
        one of several), or the directory of a SavedModel.

    Returns
    -------
    pathlib.Path
        The path without ".index".

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a directory has no checkpoint, or several.
    """
    path = Path(path)
    if path.is_dir():
        return _find_in_directory(path)
    if path.suffix == ".index":
        return path.with_suffix("")
    stem, mark, _ = path.name.rpartition(".data-")
    if mark:
        return path.with_name(stem)
    if not Path(f"{path}.index").is_file():
        raise FileNotFoundError(f"{path} does not exist, nor does {path}.index.")
    return path


def _find_in_directory(path: Path) -> Path:
    found = sorted(path.glob("*.index")) or sorted((path / "variables").glob("*.index"))
    if len(found) > 1:
        chosen = _latest(path)
        if chosen is None or Path(f"{chosen}.index") not in found:
            raise ValueError(
                f"{path} holds several checkpoints, {', '.join(index.stem for index in found)}; pass the "
                "path of one of them."
            )
        return chosen
    if not found:
        raise ValueError(f"{path} is a directory without a checkpoint (a file that ends with .index).")
    return found[0].with_suffix("")


def _latest(path: Path) -> Path | None:
    """Return the checkpoint that the text file ``checkpoint`` of a directory names, or None."""
    state = path / "checkpoint"
    if not state.is_file() or state.stat().st_size > _MAX_STATE:
        return None
    for line in state.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            return path / os.path.basename(value.strip().strip('"'))
    return None
