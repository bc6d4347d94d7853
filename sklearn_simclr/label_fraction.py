"""Learning from a fraction of the labels: nested balanced subsets and a classifier that trains on one.

How a representation fares when labels are few is measured by training a classifier on 1 %, 10 %, ... of the
labels. Two properties make the numbers comparable: every class has the same share of the labels, and a larger
fraction only adds labels to a smaller one, so that a curve rises for the labels added and not for the luck of
another draw.
"""

import inspect
import numbers
import warnings
from collections.abc import Mapping, Set, Sized

import numpy as np
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone, is_classifier
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

__all__ = ["LabelFractionClassifier", "label_subset"]


def label_subset(y, fraction, *, random_state=None):
    """Draw a class-balanced, nested fraction of the labelled rows.

    The labelled rows are put in one random order in which the classes take turns: each round holds one row
    of every class that has rows left, in random order. The subset at a fraction is a prefix of that order.
    Hence, for one `random_state`,

    - the subset at a fraction contains the subset at every smaller fraction;
    - the counts of any two classes differ by at most one, unless the smaller class has no rows left;
    - every class has at least one row.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        One class label a row: numbers, booleans or strings. Rows without a label are never drawn: those
        where numeric `y` is -1, and those where `y` is None, NaN or ``pandas.NA``. Numeric labels that are
        exactly {-1, 1} are read as two classes, with a warning (see Notes).
    fraction : float in (0, 1]
        The share of the labelled rows to draw, ``round(fraction * n_labelled)`` rows in all.
    random_state : int, RandomState instance or None, default=None
        Seed of the order. Only an int makes the subsets of several calls nested.

    Returns
    -------
    indices : ndarray of shape (n_drawn,), dtype intp
        Sorted positions in `y` of the rows drawn.

    Raises
    ------
    TypeError
        If `fraction` is no number, or `y` holds something that is no label.
    ValueError
        If `fraction` is outside (0, 1] or leaves a class without a row, if `y` is not one-dimensional or
        is continuous, or if no row is labelled.

    See Also
    --------
    LabelFractionClassifier : Trains a classifier on such a subset.

    Notes
    -----
    Where classes are equally frequent this is the protocol of [1]_, section 6, which keeps 1 % or 10 % of
    the labels of ImageNet, about 13 or 128 images of every class. Where they are not, equal counts and equal
    shares of every class differ; this function draws equal counts, as far as the rare classes reach, because
    the question is what a budget of that many labels is worth.

    The draw depends on the order of the labelled rows and on which of them share a class, but neither on
    the names of the classes nor on the unlabelled rows among them.

    scikit-learn uses -1 both as the mark of an unlabelled row (``SelfTrainingClassifier``) and as the
    negative class of {-1, 1}. If -1 and 1 are the only values, taking -1 for the mark would leave one
    class, so they are two classes. Use 0 and 1 for two classes, or None for unlabelled rows, to be explicit.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020. :doi:`10.48550/arXiv.2002.05709`

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.label_fraction import label_subset
    >>> y = np.repeat([0, 1, -1], [60, 40, 100])
    >>> few = label_subset(y, 0.1, random_state=0)
    >>> more = label_subset(y, 0.5, random_state=0)
    >>> np.bincount(y[few]), np.bincount(y[more])
    (array([5, 5]), array([25, 25]))
    >>> bool(np.isin(few, more).all())
    True
    """
    rows, labels, _ = _labelled_rows(y)
    return rows[_balanced_prefix(labels, fraction, random_state, name="fraction")]


def _balanced_prefix(labels, fraction, random_state, name):
    """Sorted positions in `labels`, all of which are labels, of the subset that `label_subset` describes."""
    n = len(labels)
    fraction = _check_fraction(fraction, name)
    # Numbered as they come: the draw does not depend on it, and sorting objects takes ten times as long.
    numbering = {}
    codes = np.array([numbering.setdefault(label, len(numbering)) for label in labels.tolist()])
    n_classes = len(numbering)
    # round, not floor or ceil: 0.29 * 100 < 29 and 0.07 * 100 > 7 in binary floating point.
    n_drawn = round(fraction * n)
    if n_drawn < n_classes:
        raise ValueError(
            f"{name}={fraction:g} of {n} labelled rows is {n_drawn}, which would leave at least one of the "
            f"{n_classes} classes without a label. Pass {name}={_smallest_fraction(n_classes, n)} or "
            "more, or label more rows."
        )
    if n_drawn == n:
        return np.arange(n)

    rng = check_random_state(random_state)
    shuffled = rng.permutation(n)
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    counts = np.bincount(codes)
    turn = np.empty(n, dtype=np.intp)
    turn[by_class] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    # Ties within a turn need a draw of their own: by `shuffled`, a frequent class would tend to come first.
    order = np.lexsort((rng.permutation(n), turn))
    return np.sort(order[:n_drawn])


def _check_fraction(fraction, name):
    if isinstance(fraction, (bool, np.bool_)) or not isinstance(fraction, numbers.Real):
        raise TypeError(
            f"{name} must be a number in (0, 1], found {fraction!r}. Pass 0.1 for a tenth of the labels."
        )
    if not 0 < fraction <= 1:
        raise ValueError(
            f"{name} must be in (0, 1], found {fraction!r}. Pass 1.0 for all labels; for a number of labels, "
            "divide it by the number of labelled rows."
        )
    return float(fraction)


def _smallest_fraction(n_classes, n):
    """The shortest decimal near n_classes / n that draws every class."""
    for digits in range(3, 18):
        text = f"{n_classes / n:.{digits}g}"
        if round(float(text) * n) >= n_classes:
            break
    return text


def _labelled_rows(y, known_classes=None):
    """Positions of the labelled rows of `y`, their labels, and the length of `y`.

    `known_classes` says what -1 means where a classifier has been fitted already.
    """
    y, keep_object = _one_dimensional(y)
    rows, labels = np.arange(len(y)), y
    if y.dtype == object:
        rows = np.flatnonzero([not _is_missing(value) for value in y])
        labels = _homogeneous(y[rows], rows, keep_object)
    elif y.dtype.kind == "f":
        rows = np.flatnonzero(~np.isnan(y))
        labels = y[rows]

    if labels.dtype.kind == "f":
        finite = np.isfinite(labels)
        if not finite.all():
            at = np.argmin(finite)
            raise ValueError(
                f"y[{rows[at]}] is {labels[at]}, which is no class label. Pass -1 or NaN where there is none."
            )
        whole = labels == np.floor(labels)
        if not whole.all():
            at = np.argmin(whole)
            raise ValueError(
                f"Unknown label type: continuous. y[{rows[at]}] is {labels[at]}; class labels are whole "
                "numbers or strings. Bin y, or use a regressor."
            )
    if labels.dtype.kind in "if":
        marked = _marked_unlabelled(labels, known_classes, other_marks=len(rows) < len(y))
        rows, labels = rows[~marked], labels[~marked]
    if not len(rows):
        raise ValueError(
            f"y has no labelled row among {len(y)}: each is -1, None or NaN. Pass the class of some rows."
        )
    return rows, labels, len(y)


def _one_dimensional(y):
    """`y` as an ndarray of shape (n,); whether an array of objects is to stay one, if they are strings."""
    if y is None:
        # scikit-learn's own wording, which its estimator checks look for.
        raise ValueError("The classifier requires y to be passed, but the target y is None.")
    if issparse(y):
        raise TypeError("y is sparse; pass a dense one-dimensional array, e.g. y.toarray().ravel().")
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    dtype = getattr(y, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind == "T":
        # np.asarray(y) would make the string "nan" of a NaN in a list of strings; pandas' own conversion is
        # the only one that leaves the integers of a categorical with missing values integers.
        y = np.asarray(y.astype(object) if hasattr(y, "astype") else y, dtype=object)
    elif type(y) is not np.ndarray:
        y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=4,
        )
        y = y.ravel()
    if y.ndim != 1:
        raise ValueError(
            f"y should be a 1d array with one class label a row, found shape {y.shape}. Multilabel and "
            "multioutput targets are not supported: fit one classifier an output (MultiOutputClassifier)."
        )
    if y.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: y has dtype {y.dtype}; pass one class label a row.")
    if y.dtype.kind not in "biufUO":
        raise TypeError(f"y has dtype {y.dtype}; pass numbers, booleans or strings.")
    return y, dtype is not None


def _is_missing(value):
    if value is None:
        return True
    if isinstance(value, str):
        return False
    try:
        return bool(value != value)
    except TypeError:
        # The truth of pandas.NA != pandas.NA is not known.
        return True
    except ValueError:
        # Nested arrays, which are refused with a message of their own.
        return False


def _homogeneous(labels, rows, keep_object):
    """An object array of labels with the dtype that the labels would have had without the missing ones."""
    types = list(map(type, labels))
    found = {}
    for label_type in dict.fromkeys(types):
        row = rows[types.index(label_type)]
        # bool before Real, of which it is a subclass.
        kinds = {"strings": str, "booleans": (bool, np.bool_), "numbers": numbers.Real}
        kind = next((kind for kind, base in kinds.items() if issubclass(label_type, base)), None)
        if kind is None:
            raise TypeError(
                f"y[{row}] is of type {label_type.__name__}; pass one number, boolean or string a row, and "
                "None, NaN or -1 where the label is unknown."
            )
        found.setdefault(kind, row)
    if len(found) > 1:
        where = " and ".join(f"{kind} (y[{row}])" for kind, row in found.items())
        raise TypeError(f"y mixes {where}; pass labels of one type.")
    return labels if keep_object and "strings" in found else np.array(labels.tolist())


def _marked_unlabelled(labels, known_classes, other_marks):
    """Where numeric labels say with -1 that there is no label."""
    marked = labels == -1
    if known_classes is not None:
        is_class = known_classes.dtype.kind in "if" and -1 in known_classes
        return marked & (not is_class)
    if marked.any() and not marked.all() and (labels[~marked] == 1).all():
        if not other_marks:
            warnings.warn(
                "y holds only -1 and 1: read as the two classes of a binary problem, although -1 marks an "
                "unlabelled row otherwise. Pass 0 and 1 for two classes; if -1 is meant as unlabelled, label "
                "rows of at least one more class.",
                UserWarning,
                stacklevel=4,
            )
        return np.zeros(len(labels), dtype=bool)
    return marked


def _indexable(X, name="X"):
    """`X` with a length, and that length."""
    if not hasattr(X, "shape") and not isinstance(X, Sized) and hasattr(X, "__array__"):
        X = np.asarray(X)
    # Shape before length: sparse containers have no length, and one of them is a dict.
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape):
        return X, shape[0]
    if shape is not None or not isinstance(X, Sized) or isinstance(X, (str, bytes, Mapping, Set)):
        raise TypeError(
            f"{name} must hold one entry a row, found {type(X).__name__}. Pass an array, a DataFrame or a "
            "list."
        )
    return X, len(X)


def _take(X, rows):
    """Rows of anything that scikit-learn estimators accept; a sequence without a shape gives a list."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    if issparse(X):
        return X.tocsr()[rows]
    if hasattr(X, "shape"):
        return X[rows]
    return [X[row] for row in rows.tolist()]


def _take_columns(X, columns):
    if hasattr(X, "iloc"):
        return X.iloc[:, columns]
    return (X.tocsr() if issparse(X) else np.asarray(X))[:, columns]


def _length_mismatch(n, n_y):
    return f"X has {n} rows and y has {n_y}; pass one label a row, with -1 or None where it is unknown."


def _take_if_aligned(value, rows, n):
    """The `rows` of a fit parameter that has one entry for each of n samples; any other as it is."""
    try:
        value_indexable, length = _indexable(value)
    except TypeError:
        return value
    return _take(value_indexable, rows) if length == n else value


def _inner_has(name):
    """For `available_if`: the estimator, fitted where it is, has the method `name`."""

    def check(self):
        inner = self.estimator_ if hasattr(self, "estimator_") else self._inner()
        # Raises the estimator's own AttributeError, which may say why the method is missing.
        getattr(inner, name)
        return True

    return check


class LabelFractionClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Train a classifier on a class-balanced, nested fraction of the labels.

    Meant as the last step of a Pipeline whose first steps learn from all rows, labelled or not. Of the rows
    given to `fit` it drops the unlabelled ones, draws a fraction of the rest as `label_subset` does, and fits
    a clone of `estimator` on it. Searching over `label_fraction` is then a label-fraction study.

    Parameters
    ----------
    estimator : classifier or None, default=None
        What to train. None is ``LogisticRegression(max_iter=1000)``.
    label_fraction : float in (0, 1], default=1.0
        The share of the labelled rows to train on, ``round(label_fraction * n_labelled)`` rows in all, with
        equal counts a class as far as the rare classes reach.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw; not passed on to `estimator`. Only with an int are the labels at one fraction
        among the labels at every larger one.

    Attributes
    ----------
    estimator_ : classifier
        The fitted clone of `estimator`.
    classes_ : ndarray of shape (n_classes,)
        The classes that `estimator_` knows. The mark of an unlabelled row is not one of them.
    indices_ : ndarray of shape (n_labels_,), dtype intp
        Sorted positions, among the rows given to `fit`, of the rows trained on.
    n_labels_ : int
        How many rows were trained on.
    n_features_in_ : int
        Number of features seen during fit, if `estimator_` has it; of a precomputed kernel, the number of
        rows given to `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, if `estimator_` has it.

    See Also
    --------
    label_subset : The draw by itself, and the choices behind it.
    sklearn.semi_supervised.SelfTrainingClassifier : Learns from the unlabelled rows too, by its own guesses.

    Notes
    -----
    A row is unlabelled if numeric `y` is -1 there, or if `y` is None, NaN or ``pandas.NA``. Labels that are
    exactly {-1, 1} are read as two classes, with a warning; see `label_subset`.

    `score` ignores unlabelled rows. A scorer given by name, such as ``scoring="accuracy"``, knows nothing of
    them and counts -1 as a class: use the default scoring where held-out rows may be unlabelled.
    scikit-learn's stratified splitters, the default for classifiers, accept -1 but refuse None and NaN:
    pass ``cv=KFold(...)`` with those.

    The draw does not look at sample weights: a weight of zero does not make a row unlabelled.

    An estimator of precomputed kernels or distances (the tag ``input_tags.pairwise``) is given the columns
    of the rows it is trained on, at `fit` and afterwards.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, section 6. :doi:`10.48550/arXiv.2002.05709`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_simclr.label_fraction import LabelFractionClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), random_state=0)
    >>> study = GridSearchCV(clf, {"label_fraction": [0.02, 0.1, 1.0]}, cv=3).fit(X / 16, y)
    >>> study.cv_results_["mean_test_score"].round(1)
    array([0.8, 0.9, 0.9])
    >>> clf.set_params(label_fraction=0.1).fit(X / 16, y).n_labels_
    180
    """

    def __init__(self, estimator=None, label_fraction=1.0, random_state=None):
        self.estimator = estimator
        self.label_fraction = label_fraction
        self.random_state = random_state

    def _inner(self):
        if self.estimator is not None:
            return self.estimator
        default = LogisticRegression(max_iter=1000)
        if get_config()["enable_metadata_routing"]:
            # Nobody can set a request on an estimator that they did not pass.
            default.set_fit_request(sample_weight=True)
        return default

    def fit(self, X, y, **params):
        """Fit the estimator on the fraction of the labelled rows.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts. It is passed on as it is when every row is used; otherwise its rows
            are taken, from an object without a shape as a list.
        y : array-like of shape (n_samples,)
            Class labels, with -1, None or NaN where there is none.
        **params : dict
            Parameters for the `fit` of `estimator`, such as `sample_weight`; with metadata routing enabled,
            those that it requests. What has one entry a row is reduced to the rows trained on.

        Returns
        -------
        self : LabelFractionClassifier
            The fitted instance.

        Raises
        ------
        TypeError
            If `estimator` is no classifier, if `label_fraction` is no number, or if `X` or `y` holds
            something unusable.
        ValueError
            If `label_fraction` is outside (0, 1] or leaves a class without a label, if `X` and `y` differ in
            length, or if `y` has no labelled row, labels of one class only, or is no vector of class labels.
        """
        inner = self._checked_inner()
        X, n = _indexable(X)
        rows, labels, n_y = _labelled_rows(y)
        if n != n_y:
            raise ValueError(_length_mismatch(n, n_y))
        if (labels == labels[0]).all():
            raise ValueError(
                f"y has labels of one class only, {labels[:1].tolist()}, in {len(labels)} labelled of {n} "
                "rows. Pass labels of at least two classes; in numeric y, -1 marks an unlabelled row."
            )
        drawn = _balanced_prefix(labels, self.label_fraction, self.random_state, name="label_fraction")
        indices = rows[drawn]

        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params)["estimator"]["fit"]
        pairwise = get_tags(inner).input_tags.pairwise
        if len(indices) == n:
            # No copy of what may be most of the memory.
            X_drawn = X
        else:
            X_drawn = _take(X, indices)
            params = {name: _take_if_aligned(value, indices, n) for name, value in params.items()}
            shape = np.shape(X)
            if pairwise and len(shape) == 2:
                if shape[1] != n:
                    raise ValueError(f"X should be a square kernel or distance matrix, found shape {shape}.")
                X_drawn = _take_columns(X_drawn, indices)

        self.estimator_ = clone(inner).fit(X_drawn, labels[drawn], **params)
        self.indices_ = indices
        self.n_labels_ = len(indices)
        self.classes_ = getattr(self.estimator_, "classes_", None)
        if self.classes_ is None:
            self.classes_ = np.unique(labels)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
            elif hasattr(self, name):
                # Of an earlier fit on other data.
                delattr(self, name)
        if pairwise:
            self.n_features_in_ = n
        return self

    def _checked_inner(self):
        inner = self._inner()
        if inspect.isclass(inner):
            raise TypeError(
                f"estimator must be an instance, found the class {inner.__name__}. Pass {inner.__name__}()."
            )
        if not hasattr(inner, "fit") or not hasattr(inner, "predict") or not is_classifier(inner):
            raise TypeError(f"estimator must be a classifier, found {inner!r}. Pass LogisticRegression().")
        return inner

    def _fitted_input(self, X):
        """`X` as `estimator_` saw it in fit: of a precomputed kernel, the columns of the rows trained on."""
        check_is_fitted(self)
        if not get_tags(self.estimator_).input_tags.pairwise or self.n_labels_ == self.n_features_in_:
            return X
        X, _ = _indexable(X)
        shape = np.shape(X)
        if len(shape) != 2:
            # The estimator says best what it takes.
            return X
        if shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input: the kernel or distance to each row given to fit."
            )
        return _take_columns(X, self.indices_)

    def _delegate(self, method, X):
        X = self._fitted_input(X)
        return getattr(self.estimator_, method)(X)

    @available_if(_inner_has("predict"))
    def predict(self, X):
        """Predict the class of each row with the fitted estimator.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
            The classes predicted.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._delegate("predict", X)

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X):
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

    @available_if(_inner_has("predict_log_proba"))
    def predict_log_proba(self, X):
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

    @available_if(_inner_has("decision_function"))
    def decision_function(self, X):
        """Compute the decision function of the fitted estimator, if it has one.

        Parameters
        ----------
        X : array-like, sparse matrix, DataFrame, tensor or list, with n_samples rows
            Whatever `estimator` accepts.

        Returns
        -------
        decisions : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column a class in the order of `classes_`; for two classes, one number a row that is
            positive for ``classes_[1]``.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self._delegate("decision_function", X)

    def score(self, X, y, sample_weight=None):
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
            Share in [0, 1] of the labelled rows that are predicted right; the others are ignored.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If `X`, `y` and `sample_weight` differ in length, or if `y` has no labelled row.
        """
        check_is_fitted(self)
        X, n = _indexable(X)
        rows, labels, n_y = _labelled_rows(y, known_classes=np.asarray(self.classes_))
        if n != n_y:
            raise ValueError(_length_mismatch(n, n_y))
        if sample_weight is not None:
            sample_weight, n_weights = _indexable(sample_weight, "sample_weight")
            if n_weights != n:
                raise ValueError(f"sample_weight has {n_weights} entries and X has {n} rows; pass one a row.")
            sample_weight = _take(sample_weight, rows)
        predicted = self.predict(X if len(rows) == n else _take(X, rows))
        return float(accuracy_score(labels, predicted, sample_weight=sample_weight))

    def get_metadata_routing(self):
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self._inner())
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        tags.no_validation = inner.no_validation
        if inner.classifier_tags is not None:
            tags.classifier_tags = inner.classifier_tags
            tags.classifier_tags.multi_label = False
        return tags
