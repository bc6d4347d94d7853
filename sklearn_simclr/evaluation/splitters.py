"""Cross-validation where labels are missing: hold out labelled rows only, and train on all others.

A row without a label cannot be scored, but an encoder can learn from it: it belongs into every training set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator, KFold, PredefinedSplit, StratifiedKFold, check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping

from .._utils.labels import labelled_rows, labelled_targets
from .._utils.types import Images, Labels, RandomState
from ..images.indexing import indexable, length_mismatch, take

__all__ = ["SemiSupervisedKFold"]

TargetKind: TypeAlias = Literal["auto", "classes", "numbers"]


class SemiSupervisedKFold(BaseCrossValidator):
    """Split rows so that test sets have labelled rows only, and training sets all unlabelled rows.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2, if `cv` is None.
    shuffle : bool, default=False
        Whether to shuffle the labelled rows (of each class) before they are split, if `cv` is None.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling.
    cv : cross-validator, int, iterable or None, default=None
        Splits of the labelled rows. None is ``StratifiedKFold`` for classes and ``KFold`` for numbers. A
        splitter sees the labelled rows only. The pairs of an iterable, and a ``PredefinedSplit``, count all
        rows: rows without a label are moved from their test sets to their training sets.
    target : {"auto", "classes", "numbers"}, default="auto"
        Kind of `y`. Among classes, -1, None and NaN mark a row without a label; among numbers, None and NaN.
        ``"auto"`` takes floats that are not all whole for numbers, and anything else for classes.

    See Also
    --------
    sklearn.model_selection.StratifiedKFold : Makes the same folds if every row has a label.
    sklearn_simclr.label_fraction_curve : Splits in this way by itself.

    Notes
    -----
    With `groups`, splitters such as ``GroupKFold`` keep the groups of training and test rows apart. Then a
    row without a label is left out of a training set if its group is in the test set: an encoder should not
    learn from other images of the patients in the test set. In all other cases, every row without a label is
    in every training set.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_validate
    >>> from sklearn_simclr.evaluation import LabelFractionClassifier
    >>> from sklearn_simclr.evaluation import SemiSupervisedKFold
    >>> X, y = load_digits(return_X_y=True)
    >>> y[::3] = -1
    >>> folds = SemiSupervisedKFold(3)
    >>> [(len(train), bool((y[test] == -1).any())) for train, test in folds.split(X, y)]
    [(1397, False), (1398, False), (1398, False)]
    >>> clf = LabelFractionClassifier(LogisticRegression(max_iter=1000))
    >>> cross_validate(clf, X / 16, y, cv=folds, scoring="accuracy")["test_score"].round(1)
    array([0.9, 0.9, 0.9])
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: RandomState = None,
        cv: Any = None,
        target: TargetKind = "auto",
    ) -> None:
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state
        self.cv = cv
        self.target = target

    def split(
        self, X: Images, y: Labels, groups: ArrayLike | None = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Generate the rows to train on and to test on.

        Parameters
        ----------
        X : array-like, DataFrame, list or dataset, with n_samples rows
            Rows to split.
        y : array-like of shape (n_samples,)
            Labels, with -1 (in classes), None or NaN where there is none.
        groups : array-like of shape (n_samples,), default=None
            Groups of all rows, for a `cv` that needs them.

        Yields
        ------
        train : ndarray of int
            Sorted rows to train on.
        test : ndarray of int
            Sorted rows to test on, all of which have a label.

        Raises
        ------
        ValueError
            If a parameter is out of range, `X`, `y` and `groups` differ in length, `y` has no label, or no
            test row of a fold has one.
        """
        rows, labels, is_classes, n = self._labelled(y)
        X, n_X = indexable(X)
        if n_X != n:
            raise ValueError(length_mismatch(n_X, n))
        if groups is not None:
            groups, n_groups = indexable(groups, "groups")
            if n_groups != n:
                raise ValueError(f"groups has {n_groups} entries and X has {n} rows; pass one group per row.")
            groups = np.asarray(groups)
        labelled = np.zeros(n, dtype=bool)
        labelled[rows] = True
        for fold, (train, test) in enumerate(self._inner_splits(X, labels, groups, rows, is_classes)):
            test = test[labelled[test]]
            if not len(test):
                raise ValueError(
                    f"No row of test set {fold} has a label. Pass a cv with labels in each test set."
                )
            in_train = ~labelled
            in_train[train] = True
            if groups is not None:
                in_train &= labelled | ~_tested_groups(groups, train[labelled[train]], test)
            yield np.flatnonzero(in_train), np.sort(test)

    def _inner_splits(
        self, X: Any, labels: np.ndarray, groups: np.ndarray | None, rows: np.ndarray, is_classes: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return pairs of training and test rows of X, as `cv` splits the labelled rows alone."""
        cv = self._inner_cv(labels, is_classes)
        if self._speaks_of_all_rows():
            for train, test in cv.split():
                yield _positions(train), _positions(test)
            return
        if groups is not None:
            groups = groups[rows]
        for train, test in cv.split(_light_rows(X, rows), labels, groups):
            yield rows[train], rows[test]

    def _inner_cv(self, labels: np.ndarray | None, is_classes: bool) -> Any:
        if self.cv is None:
            if not isinstance(self.n_splits, Integral) or self.n_splits < 2:
                raise ValueError(f"n_splits must be an int of at least 2, found {self.n_splits!r}.")
            kind = StratifiedKFold if is_classes else KFold
            return kind(self.n_splits, shuffle=self.shuffle, random_state=self.random_state)
        if isinstance(self.cv, Iterator):
            raise TypeError("cv is an iterator, which can be used once only. Pass list(cv).")
        return check_cv(self.cv, labels, classifier=is_classes)

    def _speaks_of_all_rows(self) -> bool:
        is_splitter = hasattr(self.cv, "split")
        return isinstance(self.cv, PredefinedSplit) or (isinstance(self.cv, Iterable) and not is_splitter)

    def _labelled(self, y: Labels) -> tuple[np.ndarray, np.ndarray, bool, int]:
        if self.target not in ("auto", "classes", "numbers"):
            raise ValueError(f"target must be 'auto', 'classes' or 'numbers', found {self.target!r}.")
        is_classes = self.target == "classes" or (self.target == "auto" and not is_continuous(y))
        rows, labels, n = (labelled_rows if is_classes else labelled_targets)(y)
        return rows, labels, is_classes, n

    def get_n_splits(
        self, X: Images | None = None, y: Labels | None = None, groups: ArrayLike | None = None
    ) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X : array-like of n_samples rows, default=None
            Rows to split; used only if the number of folds of `cv` depends on them.
        y : array-like of shape (n_samples,), default=None
            Labels; with labels, such a `cv` counts labelled rows only.
        groups : array-like of shape (n_samples,), default=None
            Groups, for a `cv` whose number of folds depends on them.

        Returns
        -------
        n_splits : int
            The number of folds.
        """
        if self.cv is None:
            return self.n_splits
        if y is None or self._speaks_of_all_rows():
            return self._inner_cv(None, False).get_n_splits(X, y, groups)
        rows, labels, is_classes, n = self._labelled(y)
        X = np.zeros((n, 1)) if X is None else indexable(X)[0]
        groups = None if groups is None else np.asarray(groups)[rows]
        return self._inner_cv(labels, is_classes).get_n_splits(_light_rows(X, rows), labels, groups)

    def get_metadata_routing(self) -> Any:
        """Get the metadata routing of this object.

        Returns
        -------
        routing : MetadataRouter or MetadataRequest
            Routing of the metadata that `cv` requests, such as `groups`.
        """
        if not hasattr(self.cv, "get_metadata_routing"):
            return super().get_metadata_routing()
        mapping = MethodMapping().add(caller="split", callee="split")
        return MetadataRouter(owner=type(self).__name__).add(cv=self.cv, method_mapping=mapping)


def is_continuous(y: Any) -> bool:
    """Return whether `y` holds floats that are not all whole."""
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    values = np.asarray(y)
    if values.dtype == object:
        values = np.array([value for value in values.ravel().tolist() if isinstance(value, float)])
    if values.dtype.kind != "f":
        return False
    values = values[np.isfinite(values)]
    return bool((values != np.floor(values)).any())


def _positions(rows: ArrayLike) -> np.ndarray:
    """Return the numbers of rows that are given as numbers or as a mask."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp, copy=False)


def _light_rows(X: Any, rows: np.ndarray) -> Any:
    """Return rows for a splitter; zeros stand for the rows of a dataset, which take long to read."""
    if hasattr(X, "shape") or isinstance(X, (list, tuple)):
        return X if len(rows) == indexable(X)[1] else take(X, rows)
    return np.zeros((len(rows), 1))


def _tested_groups(groups: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the rows of a tested group, if training and test rows share no group; none otherwise."""
    tested = np.unique(groups[test])
    if np.isin(groups[train], tested).any():
        return np.zeros(len(groups), dtype=bool)
    return np.isin(groups, tested)
