"""Facts about `SemiSupervisedKFold` that could be false."""

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    cross_validate,
)

from sklearn_simclr.evaluation.label_fraction import LabelFractionClassifier, LabelFractionRegressor
from sklearn_simclr.evaluation.splitters import SemiSupervisedKFold

few_examples = settings(deadline=None, max_examples=40)


@st.composite
def partly_labelled(draw):
    """y of 2 to 4 classes of 4 to 12 rows, and up to 30 rows of -1."""
    counts = draw(st.lists(st.integers(4, 12), min_size=2, max_size=4))
    y = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(draw(st.integers(0, 30)), -1)])
    return np.random.RandomState(draw(st.integers(0, 1000))).permutation(y)


def folds_of(splitter, y, **options):
    return list(splitter.split(np.zeros((len(y), 1)), y, **options))


@few_examples
@given(partly_labelled(), st.integers(2, 4), st.booleans())
def test_labelled_rows_are_tested_once_and_all_others_trained_on(y, n_splits, shuffle):
    seed = 0 if shuffle else None
    folds = folds_of(SemiSupervisedKFold(n_splits, shuffle=shuffle, random_state=seed), y)
    assert len(folds) == n_splits
    tested = np.concatenate([test for _, test in folds])
    np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(y != -1))
    for train, test in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(y)))
        # Stratified: the counts of a class differ by at most one from fold to fold.
        counts = [np.bincount(y[test], minlength=4) for _, test in folds]
        assert (np.ptp(counts, axis=0) <= 1).all()


@few_examples
@given(partly_labelled(), st.integers(0, 5))
def test_labels_decide_and_the_others_do_not_matter(y, seed):
    labelled = np.flatnonzero(y != -1)
    splitter = SemiSupervisedKFold(3, shuffle=True, random_state=seed)
    alone = StratifiedKFold(3, shuffle=True, random_state=seed).split(y[labelled], y[labelled])
    for (train, test), (train_alone, test_alone) in zip(folds_of(splitter, y), alone, strict=True):
        np.testing.assert_array_equal(test, labelled[test_alone])
        np.testing.assert_array_equal(train[y[train] != -1], labelled[train_alone])


@pytest.mark.parametrize("form", ["object", "list", "series", "float", "categorical"])
def test_forms_of_missing_labels(form):
    pd = pytest.importorskip("pandas")
    codes = np.tile([0, 1, -1], 8)
    names = [None if code == -1 else "ab"[code] for code in codes]
    y = {
        "object": np.array(names, dtype=object),
        "list": names,
        "series": pd.Series(names),
        "float": np.where(codes == -1, np.nan, codes),
        "categorical": pd.Series(names, dtype="category"),
    }[form]
    expected = folds_of(SemiSupervisedKFold(4), codes)
    for (train, test), (train_of_codes, test_of_codes) in zip(
        folds_of(SemiSupervisedKFold(4), y), expected, strict=True
    ):
        np.testing.assert_array_equal(train, train_of_codes)
        np.testing.assert_array_equal(test, test_of_codes)


class TestNumbers:
    def test_continuous_targets_are_not_stratified(self):
        y = np.linspace(-1, 1.5, 12)
        y[::4] = np.nan
        folds = folds_of(SemiSupervisedKFold(3), y)
        assert [test.tolist() for _, test in folds] == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]
        assert all({0, 4, 8} <= set(train) for train, _ in folds)

    def test_minus_one_is_a_number_if_told_so(self):
        y = np.arange(-1, 11)
        tested = np.concatenate([test for _, test in folds_of(SemiSupervisedKFold(3, target="numbers"), y)])
        assert 0 in tested

    def test_regression(self):
        X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60.0)
        y[::3] = np.nan
        result = cross_validate(
            LabelFractionRegressor(Ridge()),
            X,
            y,
            cv=SemiSupervisedKFold(3, target="numbers"),
            scoring="r2",
            error_score="raise",
        )
        assert np.isfinite(result["test_score"]).all()


class TestWrapped:
    def test_other_splitters(self):
        y = np.tile([0, 1, -1], 10)
        labelled = np.flatnonzero(y != -1)
        cv = ShuffleSplit(4, test_size=0.25, random_state=0)
        folds = folds_of(SemiSupervisedKFold(cv=cv), y)
        for (train, test), (inner_train, inner_test) in zip(folds, cv.split(labelled), strict=True):
            np.testing.assert_array_equal(test, np.sort(labelled[inner_test]))
            np.testing.assert_array_equal(train[y[train] != -1], np.sort(labelled[inner_train]))
            assert (y[train] == -1).sum() == 10

    def test_int_is_a_number_of_folds(self):
        y = np.tile([0, 1, -1], 10)
        for a, b in zip(
            folds_of(SemiSupervisedKFold(cv=4), y), folds_of(SemiSupervisedKFold(4), y), strict=True
        ):
            np.testing.assert_array_equal(a[1], b[1])

    def test_number_of_folds_counts_labelled_rows(self):
        y = np.array([0, 1, -1, 0, 1, -1])
        splitter = SemiSupervisedKFold(cv=LeaveOneOut())
        assert splitter.get_n_splits(np.zeros((6, 1)), y) == 4 == len(folds_of(splitter, y))
        assert SemiSupervisedKFold(7).get_n_splits() == 7
        assert SemiSupervisedKFold(cv=KFold(6)).get_n_splits() == 6

    def test_pairs_speak_of_all_rows(self):
        y = np.array([0, 1, -1, 0, 1, -1])
        mask = np.array([True, False, False, True, True, True])
        pairs = [([3, 4], [0, 1, 2]), (mask, ~mask)]
        expected = [([2, 3, 4, 5], [0, 1]), ([0, 2, 3, 4, 5], [1])]
        for (train, test), (right_train, right_test) in zip(
            folds_of(SemiSupervisedKFold(cv=pairs), y), expected, strict=True
        ):
            assert (train.tolist(), test.tolist()) == (right_train, right_test)

    def test_predefined_split(self):
        y = np.array([0, 1, -1, 0, 1, -1])
        splitter = SemiSupervisedKFold(cv=PredefinedSplit([0, 0, 0, 1, 1, -1]))
        assert [test.tolist() for _, test in folds_of(splitter, y)] == [[0, 1], [3, 4]]
        assert splitter.get_n_splits() == 2

    def test_groups_of_unlabelled_rows_stay_apart(self):
        groups = np.repeat(np.arange(6), 4)
        y = np.tile([0, 1, -1, -1], 6)
        folds = folds_of(SemiSupervisedKFold(cv=GroupKFold(3)), y, groups=groups)
        for train, test in folds:
            assert not set(groups[train]) & set(groups[test])
            assert (y[train] == -1).sum() == 8
        # Where training and test share groups anyway, every unlabelled row is trained on.
        with pytest.warns(UserWarning, match="groups parameter is ignored"):
            folds = folds_of(SemiSupervisedKFold(2), y, groups=np.zeros(24))
        for train, _ in folds:
            assert (y[train] == -1).sum() == 12


class TestInsideScikitLearn:
    @pytest.fixture
    def iris(self):
        X, y = load_iris(return_X_y=True)
        y = y.copy()
        y[::3] = -1
        return X, y

    def test_scorers_by_name_see_labelled_rows_only(self, iris):
        X, y = iris
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000))
        splitter = SemiSupervisedKFold(3, shuffle=True, random_state=0)
        result = cross_validate(clf, X, y, cv=splitter, scoring="accuracy", return_estimator=True)
        for score, fitted, (train, test) in zip(
            result["test_score"], result["estimator"], splitter.split(X, y), strict=True
        ):
            assert score == np.mean(fitted.predict(X[test]) == y[test])
            assert fitted.n_labels_ == (y[train] != -1).sum()

    def test_search(self, iris):
        names = np.array([None if label == -1 else "abc"[label] for label in iris[1]], dtype=object)
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), random_state=0)
        search = GridSearchCV(
            clone(clf), {"label_fraction": [0.1, 1.0]}, cv=SemiSupervisedKFold(3), error_score="raise"
        )
        assert search.fit(iris[0], names).best_score_ > 0.9

    def test_groups_are_routed(self, iris):
        X, y = iris
        groups = np.arange(150) // 2 % 10
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000))
        splitter = SemiSupervisedKFold(cv=GroupKFold(5))
        with sklearn.config_context(enable_metadata_routing=True):
            result = cross_validate(clf, X, y, cv=splitter, params={"groups": groups}, return_indices=True)
        for train, test in zip(*result["indices"].values(), strict=True):
            assert not set(groups[train]) & set(groups[test])

    def test_repr(self):
        assert "n_splits=3" in repr(SemiSupervisedKFold(3))


@pytest.mark.parametrize(
    ("splitter", "y", "error", "message"),
    [
        (SemiSupervisedKFold(1), [0, 1, 0, 1], ValueError, "n_splits must be an int of at least 2, found 1"),
        (SemiSupervisedKFold(2.0), [0, 1, 0, 1], ValueError, "n_splits must be an int"),
        (SemiSupervisedKFold(target="class"), [0, 1], ValueError, "target must be"),
        (SemiSupervisedKFold(2), [-1, -1], ValueError, "no labelled row: all 2 rows"),
        (SemiSupervisedKFold(cv=iter([])), [0, 1], TypeError, r"Pass list\(cv\)"),
        (SemiSupervisedKFold(cv=[([0], [2])]), [0, 1, -1], ValueError, "No row of test set 0 has a label"),
        (SemiSupervisedKFold(cv=[([0], [2])], target="numbers"), [0.5, "a", 1], TypeError, "y mixes"),
    ],
)
def test_errors(splitter, y, error, message):
    with pytest.raises(error, match=message):
        folds_of(splitter, y)


def test_lengths_that_differ():
    with pytest.raises(ValueError, match="X has 2 rows and y has 3"):
        next(SemiSupervisedKFold(2).split(np.zeros((2, 1)), [0, 1, 0]))
    with pytest.raises(ValueError, match="groups has 2 entries and X has 3"):
        next(SemiSupervisedKFold(2).split(np.zeros((3, 1)), [0, 1, 0], groups=[0, 1]))
