"""Trained encoders as files: containers for this package, state dicts for torch, graphs for ONNX."""

import copy
import errno
import os
from typing import Any, Literal

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._utils.atomic_write import replacing
from .._utils.types import PathLike
from .._utils.usual_settings import usual_settings
from .._utils.warn import warn
from ..encoders.description import describe_network, encoder_name
from ..encoders.heads import ProjectionHead
from ..encoders.libraries import LibraryNetwork
from ..encoders.preprocessing import PreprocessedNetwork, Preprocessing
from ..encoders.weights.network_file import Pretrained, read_network, write_network
from ..estimators.nested import trained_step
from ..estimators.simclr_classifier import SimCLRClassifier
from ._about import describe_fitted
from ._onnx import INPUT_DTYPES, export_onnx

__all__ = ["export_encoder", "load_encoder"]

_FORMATS = ("safetensors", "torch", "onnx")


@usual_settings()
def export_encoder(
    estimator: BaseEstimator,
    path: str | os.PathLike,
    *,
    format: Literal["safetensors", "torch", "onnx"] = "safetensors",
    input_dtype: Literal["auto", "uint8", "float32"] = "auto",
) -> str:
    """Write the encoder of a fitted estimator to a file, for this package or for others.

    Parameters
    ----------
    estimator : estimator or Pipeline
        A fitted :class:`SimCLRTransformer`, :class:`SupervisedTransformer`, :class:`AutoencoderTransformer`,
        :class:`SimCLRClassifier`, :class:`DistilledClassifier` or estimator of your own that is derived from
        them or from their base class; or a Pipeline, ColumnTransformer, FeatureUnion, search or
        FrozenEstimator with one of them. Of its other steps only ``"onnx"`` writes those that follow.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.
    format : {"safetensors", "torch", "onnx"}, default="safetensors"
        - ``"safetensors"``: weights of the encoder, and of its projection head or classifier, with a
          description of the network and of the images it takes. Read by :func:`load_encoder`, and that of a
          ResNet also by :func:`~sklearn_simclr.load_pretrained`.
        - ``"torch"``: the encoder's state dict. That of "resnet18" to "resnet152" for images of more than 64
          pixels and three channels fits torchvision's class of that name; with a linear classifier on the
          representation as its ``fc``.
        - ``"onnx"``: a graph from images as in fit (scaled within the graph, any number of them) to what
          ``transform`` gives, or for a classifier ``predict_proba``. Of a Pipeline to what it answers: labels
          and probabilities (or scores), predictions, or what its last transformer gives; skl2onnx writes the
          steps of scikit-learn. Pass the step with the encoder for the encoder alone. Needs the extra
          ``onnx``.
    input_dtype : {"auto", "uint8", "float32"}, default="auto"
        Type of the images that the ONNX graph takes; "auto" is uint8 for a fitted pixel range of (0, 255).

    Returns
    -------
    how : str
        Lines of Python that read the file. Those of a graph begin, where fit has resized images, with the
        lines that bring other images to that size as fit has done.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If `estimator` or `path` is none of these.
    ValueError
        If there are several such estimators in it, `format` or `input_dtype` is unknown, or the network or a
        later step cannot be an ONNX graph. The message names the step.
    OSError
        If the file cannot be written. What was there before stays.
    ImportError
        If packages that ONNX needs are missing.

    Warns
    -----
    UserWarning
        If the encoder is a module or factory of your own, and `format` is "safetensors": the file then has
        its weights, but not what they are the weights of. And if X goes through something before the
        encoder, which is not in an ONNX graph.

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
    <Pretrained compact: encoder to 432 features, projector>
    """
    if format not in _FORMATS:
        raise ValueError(f"format must be one of {_FORMATS}, got {format!r}.")
    if input_dtype != "auto" and input_dtype not in INPUT_DTYPES:
        raise ValueError(f"input_dtype must be 'auto', 'uint8' or 'float32', got {input_dtype!r}.")
    found = trained_step(estimator, "export_encoder")
    check_is_fitted(found.step, "encoder_")
    if format == "torch":
        return _export_torch(found.step, path)
    if format == "onnx":
        return export_onnx(found, path, input_dtype)
    return _export_safetensors(found.step, path)


@usual_settings()
def load_encoder(path: str | os.PathLike) -> Pretrained:
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
    return read_network(path)


def _heads(estimator: Any) -> tuple[ProjectionHead | None, nn.Linear | None, int]:
    """Return projector, classifier, and the layer of the projector that the classifier reads."""
    projector = getattr(estimator, "projector_", None)
    classifier = getattr(estimator, "classifier_", None)
    layer = len(estimator.head_) if isinstance(estimator, SimCLRClassifier) else 0
    if layer == 0:
        return projector if isinstance(projector, ProjectionHead) else None, classifier, 0
    projector = copy.deepcopy(estimator.pretrained_.projector_)
    for k, tuned in enumerate(estimator.head_):
        projector.layers[k] = copy.deepcopy(tuned)
    return projector, classifier, layer


def _export_safetensors(estimator: Any, path: PathLike) -> str:
    about = describe_fitted(estimator)
    encoder = estimator.encoder_
    projector, classifier, layer = _heads(estimator)
    height, width = estimator._format.shape[1:]
    preprocessing = Preprocessing(height if height == width else (height, width), 1.0)
    write_network(
        Pretrained(encoder, preprocessing, projector, classifier, layer, about["encoder"]), path, about
    )
    if describe_network(encoder) is not None:
        return f"from sklearn_simclr.export import load_encoder\npretrained = load_encoder({str(path)!r})"
    if estimator._architecture["encoder"] is None:
        warn(
            f"The encoder is a {about['encoder']}, which is not of this package: {path} holds its weights, "
            "with names that begin with 'encoder.', but no description to build it from. Keep the code that "
            "builds the encoder."
        )
    return _how_to_fill(
        estimator,
        "from safetensors.torch import load_file",
        f"state = {{k[8:]: v for k, v in load_file({str(path)!r}).items() if k.startswith('encoder.')}}",
    )


def _export_torch(estimator: Any, path: PathLike) -> str:
    encoder: Any = estimator.encoder_
    side: int | None = None
    if isinstance(encoder, PreprocessedNetwork):
        encoder, side = encoder.network, max(encoder.preprocessing.sides)
    bare = encoder.module if isinstance(encoder, LibraryNetwork) else encoder
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in bare.state_dict().items()}
    network = describe_network(encoder) or {}
    if side is not None and network.get("stem") == "imagenet":
        side = 224  # a name alone gives this stem to large images only
    options = {key: network.get(key) for key in ("in_channels", "width", "stem", "sk_ratio", "pool_padding")}
    fits = network.get("kind") == "resnet" and not network["convolve_first"]
    fits = fits and tuple(options.values()) == (3, 1, "imagenet", 0.0, "symmetric")
    _, classifier, layer = _heads(estimator)
    imports, load = "import torch", f"state = torch.load({str(path)!r}, weights_only=True)"
    if fits:
        model = f"resnet{network['depth']}"
        lines = [imports, f"from torchvision.models import {model}", load]
        if classifier is not None and layer == 0:
            state |= {
                f"fc.{key}": tensor.detach().cpu().clone() for key, tensor in classifier.state_dict().items()
            }
            lines += [
                f"model = {model}(num_classes={classifier.out_features})",
                "model.load_state_dict(state)",
            ]
        else:
            lines += [
                f"model = {model}()",
                "model.fc = torch.nn.Identity()",
                "model.load_state_dict(state)",
            ]
        how = "\n".join(lines)
    elif isinstance(encoder, LibraryNetwork):
        build = ", ".join(f"{key}={value!r}" for key, value in encoder.options.items())
        lines = [imports, "from sklearn_simclr.encoders.libraries import LibraryNetwork", load]
        lines += [f"model = LibraryNetwork({build}).module", "model.load_state_dict(state)"]
        how = "\n".join(lines)
    else:
        how = _how_to_fill(estimator, imports, load, encoder=encoder, side=side)
    if side is not None:
        how += f"\n# It takes images after {estimator.encoder_.preprocessing}"
    with replacing(path) as unfinished:
        try:
            torch.save(state, unfinished)
        except RuntimeError as error:  # torch raises this for a full disk
            raise OSError(errno.EIO, str(error)) from error
    return how


def _how_to_fill(
    estimator: Any, imports: str, state: str, encoder: nn.Module | None = None, side: int | None = None
) -> str:
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
