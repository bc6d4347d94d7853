"""Trained encoders and whole estimators as files that are read without running code."""

import contextlib
import copy
import errno
import json
import os
import shutil
import stat
import uuid
from pathlib import Path

import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._utils.warn import warn
from .._version import __version__
from ..encoders.networks import (
    PreprocessedNetwork,
    build_network,
    describe_network,
    encoder_name,
    fill_network,
)
from ..encoders.weights.pretrained import Preprocessing, Pretrained, load_pretrained, save_pretrained
from ..estimators.baselines import SupervisedTransformer
from ..estimators.classification import TrainedImageClassifier
from ..estimators.simclr_classifier import SimCLRClassifier
from ..estimators.simclr_transformer import SimCLRTransformer
from ._estimator_files import ESTIMATORS, decode_estimator, digest, encode_estimator
from ._onnx import ServedNetwork, check_onnx, write_onnx

__all__ = ["export_encoder", "load_encoder", "load_estimator", "save_estimator"]

# Keys of our own texts in the headers of safetensors files.
_ENCODER = "sklearn_simclr_encoder"
_ESTIMATOR = "sklearn_simclr_estimator"
_DIGEST = "sha256"

_FORMATS = ("safetensors", "torch", "onnx")
_INPUT_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


def export_encoder(estimator, path, *, format="safetensors", input_dtype="auto"):
    """Write the encoder of a fitted estimator to a file, for this package or for others.

    Parameters
    ----------
    estimator : estimator or Pipeline
        A fitted :class:`SimCLRTransformer`, :class:`SupervisedTransformer`, :class:`AutoencoderTransformer`,
        :class:`SimCLRClassifier` or :class:`DistilledClassifier`, or a pipeline with one of them: of a
        pipeline the other steps are not written.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.
    format : {"safetensors", "torch", "onnx"}, default="safetensors"
        - ``"safetensors"``: weights of the encoder, and of its projection head or classifier, with a
          description of the network and of the images it takes. Read by :func:`load_encoder`, and that of a
          ResNet also by :func:`~sklearn_simclr.encoders.load_pretrained`.
        - ``"torch"``: the encoder's state dict. That of "resnet18" to "resnet152" for images of more than 64
          pixels and three channels fits torchvision's class of that name; with a linear classifier on the
          representation as its ``fc``.
        - ``"onnx"``: a graph from images as in fit (scaled within the graph, any number of them) to what
          ``transform`` gives, or for a classifier ``predict_proba``. Needs the extra ``onnx``.
    input_dtype : {"auto", "uint8", "float32"}, default="auto"
        Type of the images that the ONNX graph takes; "auto" is uint8 for a fitted pixel range of (0, 255).

    Returns
    -------
    how : str
        Lines of Python that read the file.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If `estimator` or `path` is none of these.
    ValueError
        If a pipeline has no such step or several, `format` or `input_dtype` is unknown, or the network cannot
        be an ONNX graph.
    OSError
        If the file cannot be written. What was there before stays.
    ImportError
        If packages that ONNX needs are missing.

    Warns
    -----
    UserWarning
        If the encoder is a module or factory of your own, and `format` is "safetensors": the file then has
        its weights, but not what they are the weights of.

    See Also
    --------
    save_estimator : All of the estimator, to go on with it elsewhere.

    Notes
    -----
    The ONNX graph takes images in the shape that X had in fit; after image files, arrays (n, H, W, C), or
    (n, H, W) for grey ones, in the size that the files were brought to. It is compared with the network, on
    random images, before the file is put in its place.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.export import export_encoder, load_encoder
    >>> X, _ = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(X[:100])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.safetensors")
    ...     how = export_encoder(simclr, path)
    ...     load_encoder(path)
    <Pretrained compact: encoder to 576 features, projector>
    """
    if format not in _FORMATS:
        raise ValueError(f"format must be one of {_FORMATS}, got {format!r}.")
    if input_dtype != "auto" and input_dtype not in _INPUT_DTYPES:
        raise ValueError(f"input_dtype must be 'auto', 'uint8' or 'float32', got {input_dtype!r}.")
    path = _check_path(path)
    estimator = _find_estimator(estimator)
    check_is_fitted(estimator, "encoder_")
    if format == "torch":
        return _export_torch(estimator, path)
    if format == "onnx":
        return _export_onnx(estimator, path, input_dtype)
    return _export_safetensors(estimator, path)


def load_encoder(path):
    """Return the network that `export_encoder` wrote as safetensors.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Pretrained
        The network in evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is of another kind or damaged, or has the weights of a module that is not of this package.

    See Also
    --------
    export_encoder : Writes such files.
    load_estimator : Reads an estimator, to be used as it was.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.export import export_encoder, load_encoder
    >>> X, _ = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer("resnet18", max_epochs=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.safetensors")
    ...     how = export_encoder(simclr, path)
    ...     load_encoder(path).out_dim
    512
    """
    path = _check_path(path)
    metadata, tensors = _read(path, _ENCODER, "export_encoder")
    try:
        description = json.loads(metadata[_ENCODER])
        network = description["encoder"]["network"]
        if network is None:
            raise ValueError(
                f"it has the weights of a {description['encoder']['class']}, which is not of this package; "
                "build that module and load them with safetensors.torch.load_file"
            )
        if network["kind"] == "resnet":
            return load_pretrained(path)
        parts = {"encoder": network, **description["heads"]}
        modules = {}
        for part, kind in parts.items():
            prefix = f"{part}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module = build_network(kind, len(state))
            # Counters of BatchNorm, which only training uses, are not in such files.
            state.update(
                (k, torch.tensor(0)) for k in module.state_dict() if k.endswith("num_batches_tracked")
            )
            modules[part] = fill_network(module, state)
        if {name.partition(".")[0] for name in tensors} > parts.keys():
            raise ValueError("it has tensors that belong to nothing")
        preprocessing = Preprocessing(**description["resize"])
        name, layer = description["encoder"]["name"], description["classifier_layer"]
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{path} cannot be read as an encoder: {detail}.") from None
    return Pretrained(
        modules["encoder"],
        preprocessing,
        modules.get("projector"),
        modules.get("classifier"),
        layer,
        str(name),
    )


def save_estimator(estimator, path):
    """Write a fitted estimator to a file that holds no code, and that `load_estimator` reads.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`SimCLRTransformer`, :class:`SupervisedTransformer`, :class:`AutoencoderTransformer`,
        :class:`SimCLRClassifier` or :class:`DistilledClassifier`, its encoder given by name.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is of another class, or has a parameter that the file cannot hold: a module or function of your
        own, callbacks, a teacher of another package. The message names it.
    ValueError
        If a parameter was set to what it cannot be: the file could not be read.
    OSError
        If the file cannot be written. What was there before stays.

    See Also
    --------
    load_estimator : Read it back.
    export_encoder : The network alone, for other programs too.

    Notes
    -----
    ``memory``, ``cache_dir`` and ``checkpoint_dir`` name places on this machine and are left out: they are
    None in the estimator that is read. So is the fitted teacher of a :class:`DistilledClassifier`, unless it
    was fitted when it was passed.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.export import load_estimator, save_estimator
    >>> X, _ = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(X[:100])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "simclr.safetensors")
    ...     save_estimator(simclr, path)
    ...     same = load_estimator(path)
    >>> bool((same.transform(X) == simclr.transform(X)).all())
    True
    """
    from safetensors.torch import save_file

    path = _check_path(path)
    if type(estimator) not in ESTIMATORS.values():
        raise TypeError(
            f"estimator must be one of {', '.join(ESTIMATORS)}, got {type(estimator).__name__}. Of a "
            "pipeline or search, pass the step: pipeline['name'], search.best_estimator_['name']."
        )
    check_is_fitted(estimator, "encoder_")
    text, tensors = encode_estimator(estimator)
    with _replacing(path) as unfinished:
        save_file(tensors, unfinished, {_ESTIMATOR: text, _DIGEST: digest(text, tensors)})


def load_estimator(path):
    """Return the estimator that `save_estimator` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    estimator
        Fitted, its modules on the CPU: it transforms and predicts, bit by bit, as the one that was written
        does on the same machine.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is of another kind, such as a pickle, is damaged, or has a class that is not known.
    ImportError
        If the encoder is one of timm, and timm is not installed.

    See Also
    --------
    save_estimator : Writes such files.

    Notes
    -----
    No code is in the file, and none of it is run: classes are looked up among those of this package. Still,
    only files of people you trust tell you what their encoders were trained on.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.export import load_estimator, save_estimator
    >>> X, _ = load_digits(return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "simclr.safetensors")
    ...     save_estimator(SimCLRTransformer(max_epochs=1, random_state=0).fit(X[:100]), path)
    ...     load_estimator(path)
    SimCLRTransformer(max_epochs=1, random_state=0)
    """
    path = _check_path(path)
    metadata, tensors = _read(path, _ESTIMATOR, "save_estimator")
    text = metadata[_ESTIMATOR]
    if metadata.get(_DIGEST) != digest(text, tensors):
        raise ValueError(
            f"{path} is damaged: its content does not have the checksum that it was written with."
        )
    return decode_estimator(text, tensors, str(path))


def _find_estimator(estimator):
    """Return the one estimator of ours in a pipeline, or the estimator itself."""
    found = list(_estimators_in(estimator))
    if len(found) == 1:
        return found[0]
    if not found:
        raise (ValueError if isinstance(estimator, Pipeline) else TypeError)(
            f"estimator must be one of {', '.join(ESTIMATORS)}, or a Pipeline that has one; got "
            f"{type(estimator).__name__}. Of a search, pass search.best_estimator_."
        )
    names = ", ".join(type(step).__name__ for step in found)
    raise ValueError(f"The pipeline has {len(found)} encoders ({names}); pass one of its steps.")


def _estimators_in(estimator):
    if isinstance(estimator, FrozenEstimator):
        yield from _estimators_in(estimator.estimator)
    elif isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from _estimators_in(step)
    elif isinstance(estimator, tuple(ESTIMATORS.values())):
        yield estimator


def _check_path(path):
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or path-like, got {type(path).__name__}.")
    return Path(path)


@contextlib.contextmanager
def _replacing(path):
    """Give the name of a file that takes the place of `path` when all has gone well."""
    from safetensors import SafetensorError

    # Beside the target, so that the last step is a rename.
    unfinished = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        try:
            with open(unfinished, "xb") as file:
                permissions = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield str(unfinished)
            # Those of any new file: safetensors makes its own private.
            os.chmod(unfinished, permissions)
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            reason = f"path cannot be written to: {error.strerror or error}"
            raise type(error)(error.errno or errno.EIO, reason, str(path)) from None
        except SafetensorError as error:  # its own error for a full disk
            raise OSError(errno.EIO, f"path cannot be written to: {error}", str(path)) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path, key, writer):
    """Return the texts and tensors of a safetensors file that has a key of ours."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    with open(path, "rb") as file:
        start = file.read(9)
    # The first bytes of safetensors are a length, and may be those of a pickle by chance.
    if start[8:] != b"{" and start.startswith((b"\x80", b"PK\x03\x04")):
        raise ValueError(
            f"{path} is a pickle or a torch file, which can run any code when it is read: it is not opened. "
            f"Pass a file of {writer}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if key not in metadata:
                other = {_ENCODER: "load_encoder", _ESTIMATOR: "load_estimator"}
                advice = next((f"; {name} reads it" for text, name in other.items() if text in metadata), "")
                raise ValueError(f"{path} was not written by {writer}{advice}.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no file of safetensors, or a damaged or truncated one: {error}."
        ) from None
    return metadata, tensors


def _describe(estimator):
    """Return what a file says of the network and of the images it takes."""
    fmt = estimator._format
    encoder = estimator.encoder_
    built_by = estimator._architecture["encoder"]
    network = describe_network(encoder)
    name = encoder_name(encoder) if built_by is None or network is not None else built_by
    channels, *size = fmt.shape
    description = {
        "version": __version__,
        "estimator": type(estimator).__name__,
        "encoder": {
            "name": name,
            "class": f"{type(encoder).__module__}.{type(encoder).__qualname__}",
            "in_channels": channels,
            "image_size": size,
            "network": network,
        },
        "preprocessing": {
            "image_shape": list(fmt.image_shape),
            "layout": fmt.layout,
            "flat": fmt.flat,
            "pixel_range": list(fmt.pixel_range),
            "image_size": _as_json(getattr(estimator._reading(), "image_size", None)),
        },
    }
    if isinstance(estimator, SimCLRTransformer):
        description["projection_layers"] = estimator.projector_.n_layers
        description["output"] = _as_json(estimator.output)
    if hasattr(estimator, "classes_"):
        description["classes"] = estimator.classes_.tolist()
    return description


def _as_json(value):
    """Return a parameter that is a text, a number or several numbers, as JSON has it."""
    if value is None or isinstance(value, str):
        return value
    return int(value) if hasattr(value, "__index__") else [int(item) for item in value]


def _heads(estimator):
    """Return projector, classifier, and the layer of the projector that the classifier reads."""
    if isinstance(estimator, SimCLRTransformer):
        return estimator.projector_, None, 0
    classifier = getattr(estimator, "classifier_", None)
    layer = len(estimator.head_) if isinstance(estimator, SimCLRClassifier) else 0
    if layer == 0:
        return None, classifier, 0
    projector = copy.deepcopy(estimator.pretrained_.projector_)
    for k, tuned in enumerate(estimator.head_):
        projector.layers[k] = copy.deepcopy(tuned)
    return projector, classifier, layer


def _export_safetensors(estimator, path):
    from safetensors.torch import save_file

    description = _describe(estimator)
    encoder = estimator.encoder_
    projector, classifier, layer = _heads(estimator)
    heads = {
        name: describe_network(head)
        for name, head in (("projector", projector), ("classifier", classifier))
        if head is not None
    }
    # Only squares are cut out of images of other sizes.
    resize = {"size": min(description["encoder"]["image_size"]), "crop_fraction": 1.0}
    description |= {"heads": heads, "classifier_layer": layer, "resize": resize}
    name, network = description["encoder"]["name"], description["encoder"]["network"]
    text = {_ENCODER: json.dumps(description, default=str)}
    with _replacing(path) as unfinished:
        if network is not None and network["kind"] == "resnet":
            pretrained = Pretrained(encoder, Preprocessing(**resize), projector, classifier, layer, name)
            plain = f"{unfinished}.plain"
            try:
                save_pretrained(pretrained, plain)
                _copy_with_metadata(plain, unfinished, text)
            finally:
                Path(plain).unlink(missing_ok=True)
        else:
            parts = {"encoder": encoder, "projector": projector, "classifier": classifier}
            tensors = {
                f"{part}.{key}": tensor.detach().cpu().contiguous().clone()
                for part, module in parts.items()
                if module is not None
                for key, tensor in module.state_dict().items()
                if network is None or not key.endswith("num_batches_tracked")
            }
            save_file(tensors, unfinished, text)
    if network is not None:
        return f"from sklearn_simclr.export import load_encoder\npretrained = load_encoder({str(path)!r})"
    if estimator._architecture["encoder"] is None:
        warn(
            f"The encoder is a {description['encoder']['class']}, which is not of this package: {path} has "
            "its weights, under names that begin with 'encoder.', but no description it could be built from.",
        )
    return _how_to_fill(
        estimator,
        "from safetensors.torch import load_file",
        f"state = {{k[8:]: v for k, v in load_file({str(path)!r}).items() if k.startswith('encoder.')}}",
    )


def _copy_with_metadata(source, target, texts):
    """Copy a safetensors file, with more texts in its header."""
    with open(source, "rb") as old, open(target, "wb") as new:
        length = int.from_bytes(old.read(8), "little")
        header = json.loads(old.read(length))
        header["__metadata__"] = {**header.get("__metadata__", {}), **texts}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # so that the tensors stay aligned
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new, 2**20)


def _export_torch(estimator, path):
    encoder, side = estimator.encoder_, None
    if isinstance(encoder, PreprocessedNetwork):
        encoder, side = encoder.network, encoder.preprocessing.size
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in encoder.state_dict().items()}
    network = describe_network(encoder) or {}
    if side is not None and network.get("stem") == "imagenet":
        side = 224  # a name alone gives this stem to large images only
    options = {key: network.get(key) for key in ("in_channels", "width", "stem", "sk_ratio", "pool_padding")}
    fits = network.get("kind") == "resnet" and not network["convolve_first"]
    fits = fits and tuple(options.values()) == (3, 1, "imagenet", 0.0, "symmetric")
    _, classifier, layer = _heads(estimator)
    how = ["import torch", f"state = torch.load({str(path)!r}, weights_only=True)"]
    if fits:
        model = f"resnet{network['depth']}"
        how.insert(1, f"from torchvision.models import {model}")
        if classifier is not None and layer == 0:
            state |= {
                f"fc.{key}": tensor.detach().cpu().clone() for key, tensor in classifier.state_dict().items()
            }
            how += [f"model = {model}(num_classes={classifier.out_features})", "model.load_state_dict(state)"]
        else:
            how += [
                f"model = {model}()",
                "model.fc = torch.nn.Identity()",
                "model.load_state_dict(state)",
            ]
        how = "\n".join(how)
    else:
        how = _how_to_fill(estimator, *how, encoder=encoder, side=side)
    if side is not None:
        how += f"\n# It takes images after {estimator.encoder_.preprocessing}"
    with _replacing(path) as unfinished:
        torch.save(state, unfinished)
    return how


def _how_to_fill(estimator, imports, state, encoder=None, side=None):
    """Return the lines that build an encoder and fill it with ``state``."""
    encoder = estimator.encoder_ if encoder is None else encoder
    built_by = estimator._architecture["encoder"]
    channels, *size = estimator._format.shape
    if side is not None:
        size = [side, side]
    if built_by is not None:
        name = built_by if describe_network(encoder) is None else encoder_name(encoder)
        imports += "\nfrom sklearn_simclr.encoders import make_encoder"
        build = f"model, _ = make_encoder({name!r}, in_channels={channels}, image_size={tuple(size)})"
    else:
        build = f"model = ...  # the {type(encoder).__qualname__} that was passed as encoder"
    return "\n".join([imports, state, build, "model.load_state_dict(state)"])


def _export_onnx(estimator, path, input_dtype):
    layers, output = [estimator.encoder_], "representations"
    if isinstance(estimator, SimCLRTransformer):
        layers = [estimator._served_encoder()]
        layers += estimator.projector_.layers[: estimator._check_output()]
    elif isinstance(estimator, TrainedImageClassifier) and not isinstance(estimator, SupervisedTransformer):
        layers = [*estimator._fitted_modules().values(), torch.nn.Softmax(dim=1)]
        output = "probabilities"
    fmt = estimator._format
    if input_dtype == "auto":
        input_dtype = "uint8" if tuple(fmt.pixel_range) == (0.0, 255.0) else "float32"
    network = ServedNetwork(layers, fmt, _INPUT_DTYPES[input_dtype])
    text = json.dumps(_describe(estimator), default=str)
    with _replacing(path) as unfinished:
        write_onnx(network, unfinished, output, {_ENCODER: text})
        check_onnx(network, unfinished)
    return "\n".join(
        [
            "from onnxruntime import InferenceSession",
            f"session = InferenceSession({str(path)!r})",
            f"{output} = session.run(None, {{'images': X.astype('{input_dtype}')}})[0]",
        ]
    )
