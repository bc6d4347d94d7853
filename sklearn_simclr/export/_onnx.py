"""Write a network together with its preprocessing as an ONNX graph."""

import copy
import inspect
import json
import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .._utils.atomic_write import replacing
from .._utils.types import PathLike
from ..estimators.classifier_base import TrainedImageClassifier
from ..estimators.nested import ImageStep
from ..estimators.simclr_transformer import SimCLRTransformer
from ..estimators.supervised_transformer import SupervisedTransformer
from ..images.layout import ImageFormat
from ._about import describe_fitted
from ._onnx_steps import OPSET, Step, answers, later_steps, put_behind, steps_graph
from ._pixels_recipe import pixels_recipe

__all__ = ["INPUT_DTYPES", "ServedNetwork", "check_onnx", "export_onnx", "how_to_run", "write_onnx"]

INPUT_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}

# Key of our description in the file.
_ABOUT = "sklearn_simclr"

# An ONNX file is a message of protobuf, which ends at 2 GiB; the graph itself takes little.
_LARGEST = 2**31 - 2**24

# Largest deviation of the written graph from the network, as a part of the largest output (or of 1).
_TOLERANCE = 1e-4

_INPUT = "images"

# The output of the network if later steps take it as their input.
_ENCODED = "encoded"


class ServedNetwork(nn.Module):
    """Map images as the user has them to the answer of the estimator.

    Parameters
    ----------
    layers : iterable of torch.nn.Module
        Applied one after the other to images (n, C, H, W) in [0, 1]; they are copied.
    fmt : ImageFormat
        Form of the user's images.
    input_dtype : torch.dtype
        torch.uint8 or torch.float32.
    """

    def __init__(self, layers: Iterable[nn.Module], fmt: ImageFormat, input_dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_exportable(copy.deepcopy(layer)) for layer in layers))
        self.layout, self.flat, self.image_shape = fmt.layout, fmt.flat, tuple(fmt.image_shape)
        self.low, self.high = fmt.pixel_range
        self.input_dtype = input_dtype
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the answer for images (n, *input_shape) of the dtype given."""
        images = images.to(torch.float32)
        if self.flat:
            images = images.unflatten(1, self.image_shape)
        if self.layout == "HW":
            images = images.unsqueeze(1)
        elif self.layout == "HWC":
            images = images.permute(0, 3, 1, 2)
        images = ((images - self.low) * (1.0 / (self.high - self.low))).clamp(0.0, 1.0)
        return self.layers(images)

    def example(self, n: int) -> torch.Tensor:
        """Return n random images of the kind that the network takes, some pixels outside of the range.

        The compact network takes the edges of the channel with the longest gradient, and rounding decides
        between two that are equally long. So channels differ in contrast; another one is first in each image.
        """
        sizes = dict(zip(self.layout, self.image_shape, strict=True))
        channels = sizes.get("C", 1)
        generator = torch.Generator().manual_seed(n)
        pixels = torch.rand((n, 1, sizes["H"], sizes["W"]), generator=generator) * 1.2 - 0.1
        order = (torch.arange(channels) + torch.arange(n)[:, None]) % channels
        contrast = (1 - order / channels)[:, :, None, None]
        pixels = torch.where(contrast == 1, pixels, 0.5 + contrast * (pixels.clamp(0, 1) - 0.5))
        pixels = self.low + (self.high - self.low) * pixels
        pixels = pixels.permute(0, 2, 3, 1) if self.layout == "HWC" else pixels
        pixels = pixels.flatten(1) if self.flat else pixels.reshape(n, *self.image_shape)
        if self.input_dtype == torch.uint8:
            return pixels.clamp(0, 255).to(torch.uint8)
        return pixels


class _Leading(nn.Module):
    """The first numbers of every row."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, : self.dim]


class _PaddedAvgPool(nn.Module):
    """2x2 average pool of stride 2, with zeros that count in the mean right of and below odd maps."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.pad(maps, (0, maps.shape[-1] % 2, 0, maps.shape[-2] % 2)), 2)


def _exportable(module: nn.Module) -> nn.Module:
    """Replace pools that divide by another number than that of their pixels: ONNX has no such operator."""
    if isinstance(module, nn.AvgPool2d) and module.divisor_override == 4 and module.ceil_mode:
        sizes = {str(size) for size in (module.kernel_size, module.stride)}
        return _PaddedAvgPool() if sizes <= {"2", "(2, 2)"} and module.padding in (0, (0, 0)) else module
    for name, part in module.named_children():
        module.add_module(name, _exportable(part))
    return module


def export_onnx(found: ImageStep, path: PathLike, input_dtype: str) -> str:
    """Write what an estimator answers as a graph, and compare the graph with it.

    Parameters
    ----------
    found : ImageStep
        A fitted estimator with an encoder, and the steps of a Pipeline that follow it.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.
    input_dtype : {"auto", "uint8", "float32"}
        Type of the images that the graph takes.

    Returns
    -------
    how : str
        Lines of Python that read the file.
    """
    estimator, later = found.step, later_steps(found)
    layers, outputs = [estimator.encoder_], ["representations"]
    if isinstance(estimator, SimCLRTransformer):
        layers = [estimator._served_encoder()]
        layers += estimator.projector_.layers[: estimator._check_output()]
        means = estimator._means_dim()
        layers += [] if means is None else [_Leading(means)]
    elif isinstance(estimator, TrainedImageClassifier) and not isinstance(estimator, SupervisedTransformer):
        layers = [*estimator._served(), torch.nn.Softmax(dim=1)]
        outputs = ["probabilities"]
    fmt = estimator._format
    if input_dtype == "auto":
        input_dtype = "uint8" if tuple(fmt.pixel_range) == (0.0, 255.0) else "float32"
    network = ServedNetwork(layers, fmt, INPUT_DTYPES[input_dtype])
    about = describe_fitted(estimator)
    behind = None
    if later:
        with torch.no_grad():
            behind = steps_graph(later, network(network.example(8)).numpy())
        outputs = [output.name for output in behind.graph.output]
        if hasattr(later[-1].estimator, "classes_"):
            about["classes"] = np.asarray(later[-1].estimator.classes_).tolist()
    with replacing(path) as unfinished:
        write_onnx(network, unfinished, outputs[0], {_ABOUT: json.dumps(about)}, behind)
        check_onnx(network, unfinished, later)
    return how_to_run(estimator, path, outputs, input_dtype)


def how_to_run(estimator: Any, path: PathLike, outputs: Sequence[str], input_dtype: str) -> str:
    """Return the lines of Python that bring images to the size of fit, and run a graph on them.

    Parameters
    ----------
    estimator : estimator
        Fitted, with what the graph begins with.
    path : str or path-like
        Path of the graph.
    outputs : sequence of str
        Names of the outputs.
    input_dtype : {"uint8", "float32"}
        Type of the images that the graph takes.

    Returns
    -------
    how : str
        They take ``X``; or else ``paths``, or ``images`` of any size.
    """
    lines = [
        *pixels_recipe(estimator),
        "from onnxruntime import InferenceSession",
        f"session = InferenceSession({str(path)!r})",
    ]
    run = f"session.run(None, {{'images': X.astype('{input_dtype}')}})"
    answer = f"{outputs[0]} = {run}[0]" if len(outputs) == 1 else f"{', '.join(outputs)} = {run}"
    return "\n".join([*lines, answer])


def write_onnx(
    network: ServedNetwork,
    path: str,
    output: str,
    metadata: dict[str, str],
    behind: Any = None,
) -> None:
    """Write a network as a file of ONNX.

    Parameters
    ----------
    network : ServedNetwork
        In evaluation mode, on the CPU.
    path : str
        Path of the new file.
    output : str
        Name of the output, if nothing is behind it.
    metadata : dict of str to str
        Kept in the file.
    behind : onnx.ModelProto or None, default=None
        A graph that takes what the network answers.

    Raises
    ------
    ImportError
        If the packages of the extra "onnx" are missing.
    ValueError
        If the network is too large for an ONNX file, or has operations that ONNX does not.
    """
    onnx = _import_onnx()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _LARGEST:
        raise ValueError(
            f"The network takes {size / 2**30:.1f} GiB, but an ONNX file holds at most 2 GiB. Pass "
            "format='safetensors'."
        )
    images = network.example(2)
    options = {
        "input_names": [_INPUT],
        "output_names": [output if behind is None else _ENCODED],
        **_options(),
    }
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The warnings change with the version of torch; the file is compared with the network anyway.
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (images,), path, **options)
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"The network cannot be written as an ONNX graph: {reason[0]} "
            "Pass format='safetensors' or 'torch'."
        ) from error
    finally:
        logger.setLevel(level)
    model = onnx.load(path)
    if behind is not None:
        model = put_behind(model, behind)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _options() -> dict[str, Any]:
    """Return options that leave the batch axis open, for the exporter that this torch prefers."""
    options = {"opset_version": OPSET}
    if _uses_onnxscript():
        batch = {0: torch.export.Dim("n")}
        return {**options, "dynamic_shapes": (batch,), "external_data": False, "verbose": False}
    return {**options, "dynamic_axes": {_INPUT: {0: "n"}}}


def check_onnx(network: ServedNetwork, path: str, later: Sequence[Step] = ()) -> None:
    """Raise unless the graph in a file answers as the network does, for batches of other lengths too.

    Parameters
    ----------
    network : ServedNetwork
        The network that was written.
    path : str
        The file.
    later : sequence of Step, default=()
        Steps that take what the network answers.

    Raises
    ------
    ValueError
        If an answer deviates.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        images = network.example(n)
        with torch.inference_mode():
            expected = {"network": network(images).numpy()}
        if later:
            expected = answers(list(later), expected["network"])
        found = session.run(None, {_INPUT: images.numpy()})
        for (name, right), answer in zip(expected.items(), found, strict=True):
            reason = "" if answer.shape == right.shape else f"shape {answer.shape} instead of {right.shape}"
            if name == "labels" and not reason:
                wrong = (answer != right) & _decided(expected)
                reason = f"{answer[wrong][0]!r} instead of {right[wrong][0]!r}" if wrong.any() else ""
            elif not reason:
                scale, deviation = max(1.0, np.abs(right).max()), np.abs(answer - right).max()
                small = deviation <= _TOLERANCE * scale
                reason = "" if small else f"by {deviation:.2g}, with values up to {scale:.2g}"
            if reason:
                raise ValueError(
                    f"The output {name!r} of the ONNX graph differs from that of the estimator: {reason}. "
                    "Nothing was written; pass format='safetensors' or 'torch'."
                )


def _decided(expected: dict[str, Any]) -> Any:
    """Return a mask of the labels that rounding cannot change."""
    scores = expected.get("probabilities", expected.get("scores"))
    if scores is None:
        return True
    margin = np.abs(scores - (0.5 if "probabilities" in expected else 0.0))
    if expected["labels"].ndim == 1 and scores.ndim == 2:
        margin = np.diff(np.sort(scores, axis=1)[:, -2:], axis=1)[:, 0]
    return margin > _TOLERANCE * max(1.0, np.abs(scores).max())


def _uses_onnxscript() -> bool:
    # Before torch 2.9, the newer of its two exporters was not the default, and fails on these networks.
    return inspect.signature(torch.onnx.export).parameters["dynamo"].default is True


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401 (asked for its presence only)

        if _uses_onnxscript():
            import onnxscript  # noqa: F401 (the exporter imports it)
    except ImportError as error:
        raise ImportError(
            f"format='onnx' needs the package {error.name}; install all it needs with "
            'pip install "sklearn-simclr[onnx]".'
        ) from error
    return onnx
