"""Linear evaluation: how well a linear classifier reads the classes off frozen features.

It is a scikit-learn classifier of features, (n_samples, n_features), and knows nothing of images.
"""

from __future__ import annotations

import numbers
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional as F

from .._utils.devices import check_float64, resolve_device
from .._utils.labels import warn_of_marks
from .._utils.pickling import VersionedPickles
from .._utils.scoring import LabelledScoreMixin
from .._utils.seeds import draw_seed
from .._utils.sklearn_private import Interval, StrOptions, fit_context
from .._utils.types import Device, RandomState
from .._utils.warn import warn
from ..images.arrays import as_tensor
from ..training.logistic import LogisticPath
from ._validation import validation_splits

__all__ = ["LinearEvaluationClassifier"]

# Appendix B.8: "45 logarithmically spaced values between 10^-6 and 10^5".
_PENALTIES = (-6, 5, 45)

# The path only has to rank penalties; the chosen one is fitted again with a tolerance smaller by this factor.
_REFIT_TOL = 0.01

# Entries of the rows in a block: 16 MB in float32.
_BLOCK_ENTRIES = 2**22

# With device="auto", X of fewer numbers is evaluated on the CPU: launching thousands of small kernels and
# waiting for their results takes longer than the products.
_ACCELERATOR_FROM = 2**24

# The sum of the squares of such numbers is finite for as many as memory holds.
_LARGEST = 1e100


class LinearEvaluationClassifier(LabelledScoreMixin, VersionedPickles, BaseEstimator):
    """Fit a logistic regression whose penalty is chosen on a validation split: linear evaluation.

    ``fit`` fits a multinomial logistic regression on a part of the rows for each of 45 l2 penalties, chooses
    the penalty that is most accurate on the other rows, and fits all rows with this penalty. Features are not
    augmented, and not scaled unless ``standardize=True``.

    Parameters
    ----------
    penalties : array-like of shape (n_penalties,), default=None
        Candidates for lambda in ``lambda / 2 |coef|^2 + sum_i loss_i``, each > 0, in any order; None is
        ``numpy.logspace(-6, 5, 45)``. In scikit-learn's terms lambda is ``1 / C``; see Notes.
    validation : float, int, array-like, splitter or iterable, default=0.2
        Rows on which the penalty is chosen:

        - a float in (0, 1): this share of each class, drawn by `random_state`. Equal rows are never on both
          sides. The draw does not depend on the order of the rows, on repeated rows or on weights;
        - an array of row indices, or a boolean mask of shape (n_samples,): these rows;
        - an int of at least 2: this number of stratified folds, shuffled by `random_state`;
        - a splitter such as :class:`~sklearn.model_selection.PredefinedSplit`, or an iterable of pairs
          (training rows, validation rows).

        With several splits, the mean of the scores decides.
    scoring : {"accuracy", "balanced_accuracy"}, default="accuracy"
        Score that decides: the share of correct rows, or the mean of this share over the classes (mean
        per-class accuracy), which the paper uses for Pets, Caltech-101, Flowers and Aircraft. Rows count by
        their weights.
    standardize : bool, default=False
        Whether the penalty is on the coefficients of features with unit variance over the training rows, so
        that the result does not depend on the features' units. The protocol has False. In both cases `coef_`
        is for the features as passed. Centring would change nothing, since the intercept has no penalty.
    class_weight : dict, "balanced" or None, default=None
        Factors for the weights of the rows by class. "balanced" gives every class the same total weight.
    tol : float, default=1e-5
        Relative suboptimality at which the fit for a penalty stops, > 0. The final fit stops at a hundredth
        of ``tol``. The squared relative error of the coefficients is at most about as large.
    max_iter : int, default=1000
        Maximum number of L-BFGS iterations for each penalty.
    device : "auto", str or torch.device, default="auto"
        Device that computes. "auto" is the accelerator that torch finds if X has 16 million numbers or more,
        else the CPU: a small problem is many small steps.
    random_state : int, RandomState instance or None, default=None
        Seed of the split.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the rows with positive weight, sorted.
    coef_ : ndarray of shape (n_classes, n_features) or (1, n_features)
        Coefficients, in the dtype of X; one row for two classes, as in scikit-learn.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Intercepts, in the dtype of X.
    penalty_ : float
        The chosen penalty, the largest of equally good ones.
    C_ : float
        ``1 / penalty_``.
    penalties_ : ndarray of shape (n_penalties,)
        The candidates.
    validation_scores_ : ndarray of shape (n_penalties,)
        Score on the validation rows for each of `penalties_`.
    n_iter_ : int
        Evaluations of the objective in the final fit.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had any.

    See Also
    --------
    SimCLRClassifier : Linear evaluation of appendix B.6, by SGD on crops: ``start="zero", trainable=0``.
    WeightedKNNClassifier : Classifies by neighbours, without training.
    sklearn.linear_model.LogisticRegression : Fits with one penalty.

    Notes
    -----
    The optimum is that of ``LogisticRegression(C=1 / penalty)``: with K > 2 classes, of

    .. math:: \\sum_i s_i \\Big(\\log \\sum_k e^{z_{ik}} - z_{i y_i}\\Big) + \\frac{\\lambda}{2} \\|W\\|^2,
              \\qquad z_i = W x_i + b,

    with s the weights; with two classes, of the binary logistic loss with a single vector of coefficients.
    The losses are summed, not averaged. The paper leaves this open. The reproduction of its transfer results
    in [3]_, which passes 1 / lambda as C to scikit-learn, sums them, too.

    On the CPU, rows are never copied. float32 features are multiplied in float32; sums and the optimiser are
    in float64. float64 features are computed in float64 throughout. Beside the features, memory holds twice
    ``8 n_features^2`` bytes, and about twenty times the coefficients in float64. With fewer rows than
    features, the problem is solved in the span of the rows.

    Classes that are missing in a training split are never predicted for its validation rows.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, appendix B.8. :doi:`10.48550/arXiv.2002.05709`
    .. [2] S. Kornblith, J. Shlens, Q. V. Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019.
       :doi:`10.48550/arXiv.1805.08974`
    .. [3] L. Ericsson, H. Gouk, T. M. Hospedales, "How Well Do Self-Supervised Models Transfer?", CVPR 2021.
       :doi:`10.48550/arXiv.2011.13377`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr.evaluation import LinearEvaluationClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = LinearEvaluationClassifier(random_state=0).fit(X[:900], y[:900])
    >>> probe.validation_scores_.shape
    (45,)
    >>> probe.score(X[900:], y[900:]) > 0.9
    True
    """

    _parameter_constraints: dict = {
        "penalties": ["array-like", None],
        "validation": [Interval(numbers.Real, 0, 1, closed="neither"), "cv_object", "array-like"],
        "scoring": [StrOptions({"accuracy", "balanced_accuracy"})],
        "standardize": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "tol": [Interval(numbers.Real, 0, None, closed="neither")],
        "max_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        penalties: ArrayLike | None = None,
        validation: Any = 0.2,
        scoring: Literal["accuracy", "balanced_accuracy"] = "accuracy",
        standardize: bool = False,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-5,
        max_iter: int = 1000,
        device: Device = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.penalties = penalties
        self.validation = validation
        self.scoring = scoring
        self.standardize = standardize
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Choose the penalty and fit the classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, finite. float32 and float64 are taken as they are, other types become float64.
        y : array-like of shape (n_samples,)
            Class labels: numbers, booleans or strings; at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0 of the losses and of the validation scores. A row of weight 2 counts as two equal
            rows, a row of weight 0 as none.

        Returns
        -------
        LinearEvaluationClassifier
            The estimator itself, fitted.

        Raises
        ------
        ValueError
            If a parameter, X, y or a weight is invalid, if there is a single class, or if a split has no
            validation row or a single class for training.
        """
        penalties = check_penalties(self.penalties)
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        _check_squares(features)
        check_classification_targets(labels)
        weights = _check_weights(sample_weight, len(features))
        classes, codes = np.unique(labels, return_inverse=True)
        warn_of_marks(classes, "LabelFractionClassifier(LinearEvaluationClassifier())")
        used = np.unique(codes[weights > 0])
        if len(used) < 2:
            raise ValueError(
                f"y contains 1 class, {classes[used].tolist()}, in the rows of positive weight; linear "
                "evaluation needs samples of at least 2 classes."
            )
        renumbered = np.zeros(len(classes), dtype=np.int64)
        renumbered[used] = np.arange(len(used))
        classes, codes = classes[used], renumbered[codes]
        weights = weights * self._class_factors(classes, codes, weights)[codes]
        seed = draw_seed(self.random_state)
        splits = validation_splits(self.validation, features, codes, weights, seed)

        small = isinstance(self.device, str) and self.device == "auto" and features.size < _ACCELERATOR_FROM
        device = resolve_device("cpu" if small else self.device)
        check_float64(device, "the optimiser")
        rows, codes_, weights_ = (as_tensor(array).to(device) for array in (features, codes, weights))
        data = _Data(rows, codes_, weights_, len(classes))
        # One vector w stands for two, -w / 2 and w / 2, whose squared norm is half as large.
        factor = 2.0 if len(classes) == 2 else 1.0

        scores, unfinished = np.zeros(len(penalties)), 0
        for training, held_out in splits:
            split_scores, failed = self._follow_path(data, training, held_out, penalties * factor)
            scores += split_scores / len(splits)
            unfinished += failed
        # Equal scores may differ by rounding, summed in another order.
        best = scores >= scores.max() - 1e-12
        penalty = float(penalties[best].max())

        path = self._path(data, self.tol * _REFIT_TOL)
        unfinished += not path.fit(penalty * factor)
        if unfinished:
            warn(
                f"{unfinished} fits did not reach the optimum to tol={self.tol:g} in "
                f"max_iter={self.max_iter} iterations. Increase max_iter or tol, or leave out the smallest "
                "penalties.",
                ConvergenceWarning,
            )
        coef, intercept = (part.cpu().numpy() for part in path.coefficients())
        if len(classes) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.classes_ = classes
        self.coef_, self.intercept_ = coef.astype(features.dtype), intercept.astype(features.dtype)
        self.penalties_, self.validation_scores_ = penalties, scores
        self.penalty_, self.C_ = penalty, 1 / penalty
        self.n_iter_ = path.n_evaluations
        return self

    def _class_factors(self, classes: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return np.ones(len(classes))
        if isinstance(self.class_weight, str):
            totals = np.bincount(codes, weights=weights, minlength=len(classes))
            return totals.sum() / (len(classes) * totals)
        known = classes[codes[weights > 0]]
        factors = np.asarray(compute_class_weight(self.class_weight, classes=classes, y=known))
        for label, factor in zip(classes, factors, strict=True):
            if not 0 < factor < np.inf:
                raise ValueError(
                    f"class_weight of class {label!r} is {factor}; pass a positive number, or leave the "
                    "rows of the class out."
                )
        return factors

    def _path(self, data: _Data, tol: float) -> LogisticPath:
        return LogisticPath(*data, standardize=self.standardize, max_iter=self.max_iter, tol=tol)

    def _follow_path(
        self, data: _Data, training: np.ndarray, held_out: np.ndarray, penalties: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Return the scores of one split for every penalty, and how many fits did not converge."""
        rows, codes, weights, n_classes = data
        kept, held = as_tensor(training).to(rows.device), as_tensor(held_out).to(rows.device)
        present = torch.bincount(codes[kept > 0], minlength=n_classes) > 0
        names = present.nonzero()[:, 0]
        numbering = (present.cumsum(0) - 1).clamp(min=0)
        path = self._path(_Data(rows, numbering[codes], kept, len(names)), self.tol)
        truth, held_weights = codes[held], weights[held]
        if self.scoring == "balanced_accuracy":
            totals = held_weights.new_zeros(n_classes).index_add_(0, truth, held_weights)
            held_weights = held_weights / totals[truth]
        held_weights = held_weights / held_weights.sum()

        scores, failed = np.zeros(len(penalties)), 0
        for i in np.argsort(-penalties, kind="stable"):
            failed += not path.fit(float(penalties[i]))
            coef, intercept = path.coefficients()
            correct = names[_argmax_logits(rows, held, coef, intercept)] == truth
            scores[i] = float((held_weights * correct).sum())
        return scores, failed

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the logits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples,)
            One logit per class; for two classes, the logit of ``classes_[1]`` only.
        """
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        coef, intercept = (part.astype(rows.dtype, copy=False) for part in (self.coef_, self.intercept_))
        logits = rows @ coef.T + intercept
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`; rows sum to 1.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.stack([expit(-logits), expit(logits)], axis=1)
        return softmax(logits, axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels from `classes_`.
        """
        logits = self.decision_function(X)
        return self.classes_[(logits > 0).astype(np.intp) if logits.ndim == 1 else logits.argmax(axis=1)]


class _Data(NamedTuple):
    """Features of shape (n, d), the number of the class and the weight of each row; on the device."""

    rows: torch.Tensor
    codes: torch.Tensor
    weights: torch.Tensor
    n_classes: int


def check_penalties(penalties: ArrayLike | None) -> NDArray[np.float64]:
    """Return the candidates as an array; for None, those of the paper."""
    if penalties is None:
        return np.logspace(*_PENALTIES)
    penalties = np.array(penalties, dtype=np.float64)
    if penalties.ndim != 1 or not len(penalties):
        raise ValueError(f"penalties has shape {penalties.shape}; pass a list of at least one number > 0.")
    fits = (penalties > 0) & np.isfinite(penalties)
    if not fits.all():
        at = int(np.argmin(fits))
        raise ValueError(f"penalties[{at}] is {penalties[at]:g}; pass finite numbers > 0.")
    return penalties


def _check_weights(sample_weight: ArrayLike | None, n: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(n)
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.shape != (n,):
        raise ValueError(f"sample_weight has shape {weights.shape}; pass one weight for each of {n} samples.")
    if (weights < 0).any():
        at = int(np.argmin(weights))
        raise ValueError(f"sample_weight[{at}] is {weights[at]:g}; pass weights >= 0.")
    if not weights.any():
        raise ValueError(
            "sample_weight is zero for every row, which leaves no class. Pass some positive weights."
        )
    return weights


def _argmax_logits(
    X: torch.Tensor, rows: torch.Tensor, coef: torch.Tensor, intercept: torch.Tensor
) -> torch.Tensor:
    coef, intercept = coef.to(X.dtype), intercept.to(X.dtype)
    step = max(1, _BLOCK_ENTRIES // max(X.shape[1], len(coef)))
    return torch.cat([F.linear(X[part], coef, intercept).argmax(1) for part in rows.split(step)])


def _check_squares(features: NDArray) -> None:
    """Raise for numbers whose sums of squares exceed the range of float64."""
    largest = np.abs(features).max(axis=1)
    if float(largest.max()) > _LARGEST:
        row = int(largest.argmax())
        raise ValueError(
            f"Row {row} of X has a number of size {largest[row]:.3g}, whose square overflows. Scale X, for "
            f"example with sklearn.preprocessing.RobustScaler, or leave row {row} out."
        )
