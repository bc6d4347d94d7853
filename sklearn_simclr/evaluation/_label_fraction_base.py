"""Base of the classifier and the regressor that learn from a fraction of the labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._utils.labels import check_fraction, check_n_drawn, class_codes, turns
from .._utils.pickling import VersionedPickles
from .._utils.scoring import warn_if_scored
from .._utils.sklearn_private import Method
from .._utils.types import Images, Labels, RandomState
from ..images.indexing import indexable, length_mismatch, take, take_columns, take_if_aligned

__all__ = ["BaseLabelFraction", "balanced_prefix", "if_inner_has", "sorted_prefix"]


def sorted_prefix(
    codes: np.ndarray, fraction: float, random_state: RandomState, n_needed: int, name: str
) -> np.ndarray:
    """Return the sorted positions of the first `fraction` of the rows, which take turns by their `codes`."""
    n = len(codes)
    fraction = check_fraction(fraction, name)
    # round, not floor or ceil: 0.29 * 100 < 29 and 0.07 * 100 > 7 in binary floating point.
    n_drawn = round(fraction * n)
    check_n_drawn(n_drawn, n_needed, n, fraction, name)
    if n_drawn == n:
        return np.arange(n)
    return np.sort(turns(codes, random_state)[:n_drawn])


def balanced_prefix(labels: np.ndarray, fraction: float, random_state: RandomState, name: str) -> np.ndarray:
    """Return the sorted positions, in `labels` without missing ones, of the draw of `label_subset`."""
    codes = class_codes(labels)
    return sorted_prefix(codes, fraction, random_state, int(codes.max()) + 1, name)


def if_inner_has(name: str) -> Callable[[Method], Method]:
    """Make a method available if the estimator, the fitted one after fit, has the method `name`."""

    def check(estimator: Any) -> bool:
        inner = estimator.estimator_ if hasattr(estimator, "estimator_") else estimator._inner()
        # Raises the estimator's own AttributeError, which may say why the method is missing.
        getattr(inner, name)
        return True

    decorator: Callable[[Method], Method] = available_if(check)
    return decorator


class BaseLabelFraction(MetaEstimatorMixin, VersionedPickles, BaseEstimator):
    """Fit a clone of the estimator on a nested fraction of the labelled rows.

    Subclasses say what is labelled (``_labelled``), which of it to draw (``_draw``), which estimator
    None stands for (``_default``), which kind they accept (``_kind``, ``_is_kind``, ``_example``) and what
    else is learnt (``_set_learnt``).
    """

    def fit(self, X: Any, y: Labels, **params: Any) -> Self:
        """Fit the estimator on the fraction of the labelled rows.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts. It is passed on as it is when every row is used; otherwise its rows
            are taken, from an object without a shape as a list.
        y : array-like of shape (n_samples,)
            Labels. For classes, -1, None or NaN is none; for numbers, NaN or None.
        **params : dict
            Parameters for the `fit` of `estimator`, such as `sample_weight`; with metadata routing enabled,
            those that it requests. What has one entry per row is reduced to the rows trained on.

        Returns
        -------
        self : object
            The fitted instance.

        Raises
        ------
        TypeError
            If `estimator` is of another kind, if `label_fraction` is no number, or if `X` or `y` holds
            something unusable.
        ValueError
            If `label_fraction` is outside (0, 1] or leaves a class without a label, if `X` and `y` differ in
            length, or if `y` has no labelled row, labels of one class only, or is no vector of labels.
        """
        inner = self._checked_inner()
        X, n = indexable(X)
        rows, labels, n_y = self._labelled(y)
        if n != n_y:
            raise ValueError(length_mismatch(n, n_y))
        drawn = self._draw(labels, n)
        indices = rows[drawn]

        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params)["estimator"]["fit"]
        pairwise = get_tags(inner).input_tags.pairwise
        if len(indices) == n:
            # A copy of X could take most of the memory.
            X_drawn = X
        else:
            X_drawn = take(X, indices)
            params = {name: take_if_aligned(value, indices, n) for name, value in params.items()}
            shape = np.shape(X)
            if pairwise and len(shape) == 2:
                if shape[1] != n:
                    raise ValueError(f"X should be a square kernel or distance matrix, found shape {shape}.")
                X_drawn = take_columns(X_drawn, indices)

        self.estimator_ = clone(inner).fit(X_drawn, labels[drawn], **params)
        self.indices_ = indices
        self.n_labels_ = len(indices)
        self._set_learnt(labels)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
            elif hasattr(self, name):
                # Left by an earlier fit on other data.
                delattr(self, name)
        if pairwise:
            self.n_features_in_ = n
        return self

    def _inner(self) -> Any:
        if self.estimator is not None:
            return self.estimator
        default = self._default()
        if get_config()["enable_metadata_routing"]:
            # Nobody can set a request on an estimator that they did not pass.
            default.set_fit_request(sample_weight=True)
        return default

    def _checked_inner(self) -> Any:
        inner = self._inner()
        if inspect.isclass(inner):
            raise TypeError(
                f"estimator must be an instance, found the class {inner.__name__}. Pass {inner.__name__}()."
            )
        usable = hasattr(inner, "fit") and hasattr(inner, "predict")
        if not usable or not self._is_kind(inner):
            raise TypeError(f"estimator must be a {self._kind}, found {inner!r}. Pass {self._example}.")
        return inner

    def _fitted_input(self, X: Any) -> Any:
        """Return X as `estimator_` expects it: a precomputed kernel keeps the columns of the training "
        "rows."""
        check_is_fitted(self)
        if not get_tags(self.estimator_).input_tags.pairwise or self.n_labels_ == self.n_features_in_:
            return X
        X, _ = indexable(X)
        shape = np.shape(X)
        if len(shape) != 2:
            # The estimator's own error says best what it takes.
            return X
        if shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input: the kernel or distance to each row given to fit."
            )
        return take_columns(X, self.indices_)

    def _delegate(self, method: str, X: Images) -> Any:
        X = self._fitted_input(X)
        if hasattr(self, "classes_"):
            warn_if_scored(self.classes_)
        return getattr(self.estimator_, method)(X)

    @if_inner_has("predict")
    def predict(self, X: Images) -> NDArray[Any]:
        """Predict the label of each row with the fitted estimator.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
            The labels predicted.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._delegate("predict", X)

    def _score_labelled(
        self, metric: Callable[..., Any], X: Images, y: Labels, sample_weight: ArrayLike | None
    ) -> float:
        check_is_fitted(self)
        X, n = indexable(X)
        rows, labels, n_y = self._labelled(y, fitted=True)
        if n != n_y:
            raise ValueError(length_mismatch(n, n_y))
        if sample_weight is not None:
            sample_weight, n_weights = indexable(sample_weight, "sample_weight")
            if n_weights != n:
                raise ValueError(
                    f"sample_weight has {n_weights} entries and X has {n} rows; pass one weight per row."
                )
            sample_weight = take(sample_weight, rows)
        predicted = self.predict(X if len(rows) == n else take(X, rows))
        return float(metric(labels, predicted, sample_weight=sample_weight))

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the metadata routing of this object.

        Returns
        -------
        routing : MetadataRouter
            `fit` routes to the `fit` of `estimator`; `score` itself takes `sample_weight`.
        """
        return (
            MetadataRouter(owner=type(self).__name__)
            .add_self_request(self)
            .add(estimator=self._inner(), method_mapping=MethodMapping().add(caller="fit", callee="fit"))
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self._inner())
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        tags.no_validation = inner.no_validation
        # For an estimator of the wrong kind, fit raises.
        tags.classifier_tags = tags.classifier_tags and inner.classifier_tags or tags.classifier_tags
        tags.regressor_tags = tags.regressor_tags and inner.regressor_tags or tags.regressor_tags
        return tags
