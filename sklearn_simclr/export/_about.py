"""Describe a fitted estimator in the header of a file."""

from typing import Any

from torch import nn

from ..encoders.description import describe_network, encoder_name

__all__ = ["describe_fitted"]


def describe_fitted(estimator: Any) -> dict[str, Any]:
    """Return what a file says about the estimator that a network is from, and the images that it takes.

    Parameters
    ----------
    estimator : estimator
        Fitted.

    Returns
    -------
    about : dict
        JSON.
    """
    fmt, built_by = estimator._format, estimator._architecture["encoder"]
    about = {
        "estimator": type(estimator).__name__,
        "encoder": _encoder_name(estimator.encoder_, built_by),
        "images": {
            "channels": fmt.shape[0],
            "size": list(fmt.shape[1:]),
            "image_shape": list(fmt.image_shape),
            "layout": fmt.layout,
            "flat": fmt.flat,
            "pixel_range": list(fmt.pixel_range),
            "image_size": _as_json(getattr(estimator._reading(), "image_size", None)),
        },
    }
    if hasattr(estimator, "output"):
        about["output"] = _as_json(estimator.output)
    if hasattr(estimator, "classes_"):
        about["classes"] = estimator.classes_.tolist()
    return about


def _encoder_name(encoder: nn.Module, built_by: str | None) -> str:
    if describe_network(encoder) is not None:
        return encoder_name(encoder)
    return built_by or f"{type(encoder).__module__}.{type(encoder).__qualname__}"


def _as_json(value: Any) -> Any:
    """Return a parameter that is a text, a number or several numbers, as JSON has it."""
    if value is None or isinstance(value, str):
        return value
    return int(value) if hasattr(value, "__index__") else [int(item) for item in value]
