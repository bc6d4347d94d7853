"""Learning from a fraction of the labels: nested balanced subsets, and estimators that train on one.

How a representation fares when labels are few is measured by training a classifier on 1 %, 10 %, ... of the
labels. Two properties make the numbers comparable: every class has the same share of the labels, and a larger
fraction only adds labels to a smaller one, so that a curve rises for the labels added and not for the luck of
another draw.
"""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import Tags

from .._utils.labels import labelled_rows, labelled_targets, quantile_codes
from .._utils.types import Images, Labels, RandomState
from ._label_fraction_base import BaseLabelFraction, balanced_prefix, if_inner_has, sorted_prefix

__all__ = ["LabelFractionClassifier", "LabelFractionRegressor", "label_subset"]


def label_subset(y: Labels, fraction: float, *, random_state: RandomState = None) -> NDArray[np.intp]:
    """Draw a class-balanced, nested fraction of the labelled rows.

    The labelled rows are put in one random order in which the classes take turns: each round has one row of
    every class that has rows left, in random order. The subset at a fraction is the beginning of this order.
    So, for one `random_state`,

    - the subset at a fraction contains the subset at every smaller fraction;
    - the counts of any two classes differ by at most one, unless the smaller class has no rows left;
    - every class has at least one row.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        One class label per row: numbers, booleans or strings. None, NaN and ``pandas.NA``, and -1 among
        numbers, mark rows without a label; these are never drawn. If -1 and 1 are the only values, they are
        two classes, with a warning (see Notes).
    fraction : float in (0, 1]
        Share of the labelled rows to draw: ``round(fraction * n_labelled)`` rows in total.
    random_state : int, RandomState instance or None, default=None
        Seed of the order. Only an int makes the subsets of several calls nested.

    Returns
    -------
    indices : ndarray of shape (n_drawn,), dtype intp
        Sorted positions in `y` of the rows drawn.

    Raises
    ------
    TypeError
        If `fraction` is not a number, or `y` has values that cannot be labels.
    ValueError
        If `fraction` is outside (0, 1] or leaves a class without a row, if `y` is not one-dimensional or
        is continuous, or if no row is labelled.

    See Also
    --------
    LabelFractionClassifier : Trains a classifier on such a subset.

    Notes
    -----
    For equally frequent classes, this is the protocol of [1]_, section 6, which keeps 1% or 10% of the labels
    of ImageNet, about 13 or 128 images of every class. For other classes, equal counts differ from equal
    shares. This function draws equal counts, as far as the rare classes allow, since the question is what a
    budget of that many labels is worth.

    The draw depends on the order of the labelled rows and on which of them share a class. It does not depend
    on the names of the classes or on the unlabelled rows in between.

    scikit-learn uses -1 both as the mark of an unlabelled row (``SelfTrainingClassifier``) and as the
    negative class of {-1, 1}. If -1 and 1 are the only values, they are two classes, since taking -1 for the
    mark would leave one class. To be explicit, use 0 and 1 for two classes, or None for unlabelled rows.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020. :doi:`10.48550/arXiv.2002.05709`

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.evaluation import label_subset
    >>> y = np.repeat([0, 1, -1], [60, 40, 100])
    >>> few = label_subset(y, 0.1, random_state=0)
    >>> more = label_subset(y, 0.5, random_state=0)
    >>> np.bincount(y[few]), np.bincount(y[more])
    (array([5, 5]), array([25, 25]))
    >>> bool(np.isin(few, more).all())
    True
    """
    rows, labels, _ = labelled_rows(y)
    return rows[balanced_prefix(labels, fraction, random_state, name="fraction")]


class LabelFractionClassifier(ClassifierMixin, BaseLabelFraction):
    """Train a classifier on a class-balanced, nested fraction of the labels.

    This classifier is meant as the last step of a Pipeline whose first steps learn from all rows, labelled or
    not. `fit` drops the unlabelled rows, draws a fraction of the others as `label_subset` does, and fits a
    clone of `estimator` on this fraction. A search over `label_fraction` is a label-fraction study.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Classifier to train. None is ``LogisticRegression(max_iter=1000)``.
    label_fraction : float in (0, 1], default=1.0
        Share of the labelled rows to train on: ``round(label_fraction * n_labelled)`` rows in total. Classes
        have equal counts, as far as the rare classes allow.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw; `estimator` does not get it. With an int, the labels at one fraction are among the
        labels at every larger fraction.

    Attributes
    ----------
    estimator_ : classifier
        The fitted clone of `estimator`.
    classes_ : ndarray of shape (n_classes,)
        The classes of `estimator_`. The mark of an unlabelled row is not one of them.
    indices_ : ndarray of shape (n_labels_,), dtype intp
        Sorted positions of the rows trained on, among the rows given to `fit`.
    n_labels_ : int
        Number of rows trained on.
    n_features_in_ : int
        Number of features seen during fit, if `estimator_` has it. For a precomputed kernel, the number of
        rows given to `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, if `estimator_` has it.

    See Also
    --------
    LabelFractionRegressor : Fits a regressor on a fraction of the targets.
    label_subset : Makes the draw, and explains its choices.
    sklearn.semi_supervised.SelfTrainingClassifier : Learns also from its own predictions for unlabelled rows.

    Notes
    -----
    -1, None, NaN and ``pandas.NA`` in `y` mark rows without a label, also among strings. numpy and pandas
    turn these marks into strings such as ``"-1"`` and ``"nan"``, which count as unlabelled with a warning.
    If -1 and 1 are the only values, they are two classes, with a warning; see `label_subset`.

    `score` ignores unlabelled rows. A scorer given by name, such as ``scoring="accuracy"``, counts -1 as a
    class, and a warning says so. Pass ``cv=SemiSupervisedKFold(...)``, which holds out labelled rows only.

    The draw ignores sample weights: a weight of zero does not make a row unlabelled.

    An estimator of precomputed kernels or distances (the tag ``input_tags.pairwise``) gets the columns of the
    rows that it is trained on, in `fit` and afterwards.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, section 6. :doi:`10.48550/arXiv.2002.05709`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_simclr.evaluation import LabelFractionClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), random_state=0)
    >>> study = GridSearchCV(clf, {"label_fraction": [0.02, 0.1, 1.0]}, cv=3).fit(X / 16, y)
    >>> study.cv_results_["mean_test_score"].round(1)
    array([0.8, 0.9, 0.9])
    >>> clf.set_params(label_fraction=0.1).fit(X / 16, y).n_labels_
    180
    """

    _kind, _example, _is_kind = "classifier", "LogisticRegression()", staticmethod(is_classifier)
    _default = staticmethod(partial(LogisticRegression, max_iter=1000))

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        label_fraction: float = 1.0,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.label_fraction = label_fraction
        self.random_state = random_state

    def _labelled(self, y: Labels, fitted: bool = False) -> tuple[np.ndarray, np.ndarray, int]:
        return labelled_rows(y, known_classes=np.asarray(self.classes_) if fitted else None)

    def _draw(self, labels: np.ndarray, n: int) -> np.ndarray:
        if (labels == labels[0]).all():
            raise ValueError(
                f"y has labels of one class only, {labels[:1].tolist()}, in {len(labels)} labelled of {n} "
                "rows. Pass labels of at least two classes; in numeric y, -1 marks an unlabelled row."
            )
        return balanced_prefix(labels, self.label_fraction, self.random_state, name="label_fraction")

    def _set_learnt(self, labels: np.ndarray) -> None:
        self.classes_ = getattr(self.estimator_, "classes_", None)
        if self.classes_ is None:
            self.classes_ = np.unique(labels)

    @if_inner_has("predict_proba")
    def predict_proba(self, X: Images) -> NDArray[Any]:
        """Predict the probabilities of the classes with the fitted estimator, if it has them.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Probabilities in [0, 1], the columns in the order of `classes_`.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._delegate("predict_proba", X)

    @if_inner_has("predict_log_proba")
    def predict_log_proba(self, X: Images) -> NDArray[Any]:
        """Predict the log-probabilities of the classes with the fitted estimator, if it has them.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            Natural logarithms of probabilities, the columns in the order of `classes_`.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._delegate("predict_log_proba", X)

    @if_inner_has("decision_function")
    def decision_function(self, X: Images) -> NDArray[Any]:
        """Compute the decision function of the fitted estimator, if it has one.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.

        Returns
        -------
        decisions : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column per class in the order of `classes_`; for two classes, one number per row that is
            positive for ``classes_[1]``.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._delegate("decision_function", X)

    def score(self, X: Images, y: Labels, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy on the labelled rows.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.
        y : array-like of shape (n_samples,)
            True labels, with -1, None or NaN where there is none. Where `classes_` has -1, it is a class.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            Share in [0, 1] of the labelled rows that are predicted correctly.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If `X`, `y` and `sample_weight` differ in length, or if `y` has no labelled row.
        """
        return self._score_labelled(accuracy_score, X, y, sample_weight)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
        return tags


class LabelFractionRegressor(RegressorMixin, BaseLabelFraction):
    """Train a regressor on a nested fraction of the targets, spread evenly over their range.

    This regressor is meant as the last step of a Pipeline whose first steps learn from all rows, labelled or
    not. `fit` drops the rows without a target, draws a fraction of the others, and fits a clone of
    `estimator` on this fraction. A search over `label_fraction` is a label-fraction study.

    Parameters
    ----------
    estimator : regressor or None, default=None
        Regressor to train. None is ``Ridge()``.
    label_fraction : float in (0, 1], default=1.0
        Share of the rows with a target to train on: ``round(label_fraction * n_labelled)`` rows in total.
    n_bins : int, default=10
        Number of quantile bins of the targets, at least 1. The draw takes equal counts from each bin, give or
        take one. With 1 it is a simple random draw.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw; `estimator` does not get it. With an int, the targets at one fraction are among the
        targets at every larger fraction.

    Attributes
    ----------
    estimator_ : regressor
        The fitted clone of `estimator`.
    indices_ : ndarray of shape (n_labels_,), dtype intp
        Sorted positions of the rows trained on, among the rows given to `fit`.
    n_labels_ : int
        Number of rows trained on.
    n_features_in_ : int
        Number of features seen during fit, if `estimator_` has it. For a precomputed kernel, the number of
        rows given to `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, if `estimator_` has it.

    See Also
    --------
    LabelFractionClassifier : Fits a classifier on a fraction of the labels.
    sklearn_simclr.label_fraction_curve : Runs the whole study.

    Notes
    -----
    NaN, None and ``pandas.NA`` in `y` mark rows without a target, which `score` ignores. -1 is a number like
    any other.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import RidgeCV
    >>> from sklearn_simclr.evaluation import LabelFractionRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y[::2] = np.nan
    >>> reg = LabelFractionRegressor(RidgeCV(), label_fraction=0.5, random_state=0).fit(X, y)
    >>> reg.n_labels_
    110
    >>> round(reg.score(X, y), 1)
    0.5
    """

    _kind, _example, _is_kind = "regressor", "Ridge()", staticmethod(is_regressor)
    _default = Ridge

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        label_fraction: float = 1.0,
        n_bins: int = 10,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.label_fraction = label_fraction
        self.n_bins = n_bins
        self.random_state = random_state

    def _labelled(self, y: Labels, fitted: bool = False) -> tuple[np.ndarray, np.ndarray, int]:
        return labelled_targets(y)

    def _draw(self, targets: np.ndarray, n: int) -> np.ndarray:
        if not isinstance(self.n_bins, Integral) or isinstance(self.n_bins, bool) or self.n_bins < 1:
            raise ValueError(f"n_bins must be an int of at least 1, found {self.n_bins!r}.")
        codes = quantile_codes(targets, self.n_bins)
        return sorted_prefix(codes, self.label_fraction, self.random_state, 1, name="label_fraction")

    def _set_learnt(self, targets: np.ndarray) -> None:
        pass

    def score(self, X: Images, y: Labels, sample_weight: ArrayLike | None = None) -> float:
        """Return the coefficient of determination on the rows that have a target.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.
        y : array-like of shape (n_samples,)
            True targets, with NaN or None where there is none.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            R^2, at most 1, on the rows with a target.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If `X`, `y` and `sample_weight` differ in length, or if `y` has no target.
        """
        return self._score_labelled(r2_score, X, y, sample_weight)
