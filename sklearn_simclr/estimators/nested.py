"""Find the estimators of images within pipelines, column transformers, searches and other estimators."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline

from .._utils.sklearn_private import columns_of
from .base import BaseImageEstimator
from .trained_base import TrainedImageEstimator

__all__ = ["ImageStep", "image_steps", "trained_step"]

# Attributes in which other estimators hold the estimator that they have fitted, or else are to fit.
_HELD = ("best_estimator_", "estimator_", "classifier_", "regressor_", "estimator", "classifier", "regressor")


class ImageStep(NamedTuple):
    """An estimator of images within another estimator.

    Parameters
    ----------
    step : estimator
        That takes images.
    before : list
        What X goes through first: objects with ``transform``.
    path : str
        How to get at the step, as Python writes it.
    after : list of (str, estimator)
        What its answer goes through next, and how to get at that: later steps of pipelines, and estimators
        that make something else of the answers of those they hold.
    """

    step: Any
    before: list[Any]
    path: str
    after: list[tuple[str, Any]] = []


def image_steps(estimator: Any, path: str = "estimator") -> Iterator[ImageStep]:
    """Find the estimators that read images.

    Parameters
    ----------
    estimator : estimator
        Itself, or a Pipeline, ColumnTransformer, FeatureUnion, search, FrozenEstimator, vote and the like
        around it; fitted or not.
    path : str, default="estimator"
        Name of the estimator in paths.

    Yields
    ------
    ImageStep
        One for each, in their order.

    Raises
    ------
    TypeError
        If the estimator is a class.
    """
    if isinstance(estimator, type):
        name = estimator.__name__
        raise TypeError(f"estimator is the class {name}. Pass a fitted instance of it: {name}().fit(X).")
    if isinstance(estimator, FrozenEstimator):
        yield from image_steps(estimator.estimator, f"{path}.estimator")
    elif isinstance(estimator, BaseImageEstimator):
        yield ImageStep(estimator, [], path)
    elif isinstance(estimator, Pipeline):
        before: list[Any] = []
        for k, (name, step) in enumerate(estimator.steps):
            if _is_estimator(step):
                later = [(f"{path}[{after!r}]", other) for after, other in estimator.steps[k + 1 :]]
                for found in image_steps(step, f"{path}[{name!r}]"):
                    yield found._replace(before=before + found.before, after=found.after + later)
                before = [*before, step]
    elif isinstance(estimator, ColumnTransformer):
        parts = getattr(estimator, "transformers_", estimator.transformers)
        kept = [name for name, step, _ in parts if not (isinstance(step, str) and step == "drop")]
        changed = [] if len(kept) == 1 and not estimator.transformer_weights else [(path, estimator)]
        for name, step, columns in parts:
            if _is_estimator(step):
                for found in image_steps(step, f"{path}.named_transformers_[{name!r}]"):
                    yield found._replace(
                        before=[_Columns(columns), *found.before], after=found.after + changed
                    )
    else:
        changed = [] if _passes_on(estimator) else [(path, estimator)]
        for part, place in _parts(estimator):
            for found in image_steps(part, f"{path}{place}"):
                yield found._replace(after=found.after + changed)


def trained_step(estimator: Any, caller: str) -> ImageStep:
    """Find the one estimator with an encoder.

    Parameters
    ----------
    estimator : estimator
        As for `image_steps`.
    caller : str
        Who needs it, for the messages.

    Returns
    -------
    ImageStep
        The one.

    Raises
    ------
    TypeError
        If there is none.
    ValueError
        If there are several.
    """
    found = [one for one in image_steps(estimator) if isinstance(one.step, TrainedImageEstimator)]
    if not found:
        raise TypeError(
            f"{caller} needs an estimator of images with an encoder, such as SimCLRTransformer, or a "
            f"Pipeline or other estimator that holds one; found {type(estimator).__name__}."
        )
    if len(found) > 1:
        paths = ", ".join(f"{one.path} ({type(one.step).__name__})" for one in found)
        raise ValueError(
            f"The {type(estimator).__name__} has {len(found)} encoders: {paths}. Pass one of "
            "these estimators, with the images for it."
        )
    return found[0]


class _Columns:
    """Columns that a ColumnTransformer gives to one of its transformers."""

    def __init__(self, columns: Any) -> None:
        self.columns = columns

    def transform(self, X: Any) -> Any:
        return columns_of(X, self.columns(X) if callable(self.columns) else self.columns)


def _is_estimator(step: Any) -> bool:
    return step is not None and not isinstance(step, str)


def _passes_on(estimator: Any) -> bool:
    """Return whether an estimator answers as the one that it holds."""
    if isinstance(estimator, FeatureUnion):
        return len(estimator.transformer_list) == 1 and not estimator.transformer_weights
    ours = type(estimator).__module__.startswith("sklearn_simclr.")
    return hasattr(estimator, "best_estimator_") or (ours and hasattr(estimator, "estimator_"))


def _parts(estimator: Any) -> Iterator[tuple[Any, str]]:
    """Yield the estimators that another one gives X as it is, and how to get at them."""
    if isinstance(estimator, FeatureUnion):
        for name, step in estimator.transformer_list:
            if _is_estimator(step):
                yield step, f".named_transformers[{name!r}]"
    elif hasattr(estimator, "named_estimators_"):
        for name, step in estimator.named_estimators_.items():
            if _is_estimator(step):
                yield step, f".named_estimators_[{name!r}]"
    else:
        for name in _HELD:
            held = getattr(estimator, name, None)
            if held is not None and hasattr(held, "get_params") and not isinstance(held, type):
                yield held, f".{name}"
                return
