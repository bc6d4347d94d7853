"""Facts about `label_subset` and the estimators that train on such a subset that could be false."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris, make_classification
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_simclr._utils.labels import hide_labels, quantile_codes
from sklearn_simclr.evaluation.label_fraction import (
    LabelFractionClassifier,
    LabelFractionRegressor,
    label_subset,
)

few_examples = settings(deadline=None, max_examples=60)


@parametrize_with_checks(
    [
        LabelFractionClassifier(LogisticRegression()),
        LabelFractionClassifier(),
        LabelFractionClassifier(KNeighborsClassifier()),
        # A seed, because one check puts its bad value in a row that an unlucky draw leaves out.
        LabelFractionClassifier(LogisticRegression(), label_fraction=0.9, random_state=0),
        LabelFractionRegressor(Ridge()),
        LabelFractionRegressor(),
        LabelFractionRegressor(KNeighborsRegressor(), n_bins=1),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@st.composite
def labelled_targets(draw):
    """y with 1 to 6 classes of 1 to 40 rows and up to 30 rows of -1, shuffled."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    y = np.repeat(np.arange(len(counts)), counts)
    y = np.concatenate([y, np.full(draw(st.integers(0, 30)), -1)])
    return np.random.RandomState(draw(st.integers(0, 1000))).permutation(y)


def smallest_accepted(y):
    labelled = y[y != -1]
    return len(np.unique(labelled)) / len(labelled)


@st.composite
def targets_and_fractions(draw, n_fractions):
    y = draw(labelled_targets())
    fractions = st.floats(smallest_accepted(y), 1.0)
    return y, *(draw(fractions) for _ in range(n_fractions))


seeds = st.integers(0, 2**32 - 1)


class TestLabelSubset:
    @few_examples
    @given(targets_and_fractions(1), seeds)
    def test_counts_are_those_of_filling_classes_evenly(self, y_fraction, seed):
        y, fraction = y_fraction
        drawn = label_subset(y, fraction, random_state=seed)
        sizes = np.bincount(y[y != -1])
        counts = np.bincount(y[drawn], minlength=len(sizes))

        assert counts.sum() == round(fraction * sizes.sum())
        assert counts.min() >= 1
        level = max(level for level in range(41) if np.minimum(sizes, level).sum() <= counts.sum())
        assert (np.minimum(sizes, level) <= counts).all()
        assert (counts <= np.minimum(sizes, level + 1)).all()

    @few_examples
    @given(targets_and_fractions(2), seeds)
    def test_smaller_fraction_is_a_subset_of_a_larger_one(self, y_fractions, seed):
        y, *fractions = y_fractions
        small, large = (set(label_subset(y, f, random_state=seed)) for f in sorted(fractions))
        assert small <= large

    @few_examples
    @given(targets_and_fractions(1), seeds)
    def test_rows_are_sorted_distinct_labelled_and_repeatable(self, y_fraction, seed):
        y, fraction = y_fraction
        drawn = label_subset(y, fraction, random_state=seed)
        assert drawn.dtype == np.intp
        assert (np.diff(drawn) > 0).all()
        assert (y[drawn] != -1).all()
        np.testing.assert_array_equal(drawn, label_subset(y, fraction, random_state=seed))

    @few_examples
    @given(labelled_targets(), seeds)
    def test_fraction_one_is_every_labelled_row(self, y, seed):
        for one in (1, 1.0, np.float32(1)):
            drawn = label_subset(y, one, random_state=seed)
            np.testing.assert_array_equal(drawn, np.flatnonzero(y != -1))

    @few_examples
    @given(targets_and_fractions(1), seeds, st.permutations(range(6)))
    def test_names_and_types_of_the_classes_do_not_matter(self, y_fraction, seed, names):
        y, fraction = y_fraction
        expected = label_subset(y, fraction, random_state=seed)
        renamed = np.where(y == -1, -1, np.array([*names, 0])[y] + 10)
        as_object = np.array([None if label == -1 else f"class {names[label]}" for label in y], dtype=object)
        as_float = np.where(y == -1, np.nan, y + 10.0)
        for other in (renamed, as_object, list(as_object), as_float):
            np.testing.assert_array_equal(label_subset(other, fraction, random_state=seed), expected)

    @few_examples
    @given(targets_and_fractions(1), seeds)
    def test_unlabelled_rows_do_not_matter(self, y_fraction, seed):
        y, fraction = y_fraction
        labelled = np.flatnonzero(y != -1)
        among_labelled = label_subset(y[labelled], fraction, random_state=seed)
        np.testing.assert_array_equal(label_subset(y, fraction, random_state=seed), labelled[among_labelled])

    def test_seeds_differ_and_reach_every_row(self):
        y = np.repeat([0, 1], 10)
        draws = {tuple(label_subset(y, 0.5, random_state=seed)) for seed in range(40)}
        assert len(draws) > 30
        assert set().union(*draws) == set(range(20))

    def test_no_class_is_favoured_in_an_unfinished_round(self):
        y = np.repeat([0, 1], [90, 10])
        extra = [np.bincount(y[label_subset(y, 0.05, random_state=seed)])[1] - 2 for seed in range(400)]
        # Of five labels, the fifth goes to either class with probability 1/2: three sigma is 0.075.
        assert abs(np.mean(extra) - 0.5) < 0.075

    def test_fractions_are_exact_where_binary_floating_point_is_not(self):
        y = np.arange(100) % 2
        for percent in range(2, 101):
            assert len(label_subset(y, percent / 100, random_state=0)) == percent

    def test_generator_state_advances(self):
        rng = np.random.RandomState(0)
        y = np.arange(100) % 2
        assert set(label_subset(y, 0.1, random_state=rng)) != set(label_subset(y, 0.1, random_state=rng))

    @few_examples
    @given(st.integers(2, 30), st.integers(1, 40))
    def test_message_of_too_small_a_fraction_names_one_that_works(self, n_classes, rows_a_class):
        y = np.repeat(np.arange(n_classes), rows_a_class)
        with pytest.raises(ValueError, match="without a label") as error:
            label_subset(y, 0.4 * n_classes / len(y))
        advised = float(str(error.value).split("Pass fraction=")[1].split()[0])
        counts = np.bincount(y[label_subset(y, advised, random_state=0)])
        assert (counts > 0).sum() == n_classes
        assert advised == pytest.approx(n_classes / len(y), rel=0.01)

    @pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.01, 2, np.nan, np.inf])
    def test_fraction_out_of_range(self, fraction):
        with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
            label_subset([0, 1], fraction)

    @pytest.mark.parametrize("fraction", [True, "0.1", None, [0.1]])
    def test_fraction_of_wrong_type(self, fraction):
        with pytest.raises(TypeError, match=r"fraction must be a number in \(0, 1\]"):
            label_subset([0, 1], fraction)


class TestLabels:
    """What counts as a label; seen through `label_subset`, which `fit` shares it with."""

    def labelled(self, y):
        return label_subset(y, 1.0).tolist()

    def test_forms_of_a_missing_label(self):
        pd = pytest.importorskip("pandas")
        strings = ["a", None, "b", "a"]
        for y in (
            strings,
            tuple(strings),
            ["a", np.nan, "b", "a"],
            np.array(strings, dtype=object),
            np.array(["a", pd.NA, "b", "a"], dtype=object),
            pd.Series(strings),
            pd.Series(strings, dtype="string"),
            pd.Series(strings, dtype=object),
            pd.Series(strings, dtype="category"),
            pd.Categorical(strings),
            [1, None, 2, 1],
            [1, -1, 2, 1],
            np.array([1, -1, 2, 1], dtype=np.int8),
            np.array([1.0, np.nan, 2.0, 1.0]),
            np.array([1, -1, 2, 1], dtype=object),
            pd.Series([1, None, 2, 1]),
            pd.Series([1, None, 2, 1], dtype="Int64"),
            pd.Series([1, None, 2, 1], dtype="category"),
            [True, None, False, True],
            pd.Series([True, None, False, True], dtype="boolean"),
        ):
            assert self.labelled(y) == [0, 2, 3], repr(y)

    def test_both_marks_in_one_target(self):
        assert self.labelled([1, None, 2, -1]) == [0, 2]

    def test_fully_labelled(self):
        torch = pytest.importorskip("torch")
        for y in (
            [True, False],
            np.array([True, False]),
            np.array([0, 1], dtype=np.uint8),
            ["a", "b"],
            ["-1", "1"],
            torch.tensor([0, 1]),
        ):
            assert self.labelled(y) == [0, 1]

    def test_minus_one_and_one_alone_are_two_classes(self):
        for y in (np.array([-1, 1, 1]), np.array([-1.0, 1.0, 1.0]), [-1, 1, 1]):
            with pytest.warns(UserWarning, match="only -1 and 1"):
                assert self.labelled(y) == [0, 1, 2]

    def test_no_warning_where_another_mark_says_what_minus_one_is(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.labelled([-1, 1, None]) == [0, 1]

    def test_column_vector_is_ravelled_with_a_warning(self):
        with pytest.warns(DataConversionWarning, match="column-vector"):
            assert self.labelled([[0], [-1], [1]]) == [0, 2]

    @pytest.mark.parametrize("y", [[-1, -1], [None, None], [np.nan, np.nan], np.array([]), []])
    def test_no_label(self, y):
        with pytest.raises(ValueError, match="y has no labelled row"):
            label_subset(y, 1.0)

    @pytest.mark.parametrize(
        ("y", "error", "message"),
        [
            (None, ValueError, "the target y is None"),
            ([0.0, 0.5, 1.0], ValueError, r"Unknown label type: continuous. y\[1\] is 0.5"),
            ([np.nan, 0.5, 1.0], ValueError, r"y\[1\] is 0.5"),
            ([0.0, np.inf], ValueError, r"y\[1\] is inf"),
            (np.array([0j, 1j]), ValueError, "Complex data not supported"),
            (np.eye(3, dtype=int), ValueError, r"found shape \(3, 3\)"),
            ([[0, 1], [1, 0]], ValueError, r"found shape \(2, 2\)"),
            ("abc", ValueError, r"found shape \(\)"),
            ([["a"], ["a", "b"]], TypeError, r"y\[0\] is of type list"),
            ([None, {"a"}], TypeError, r"y\[1\] is of type set"),
            ([b"a", b"b"], TypeError, "of type bytes"),
            (["a", None, 1], TypeError, r"y mixes strings \(y\[0\]\) and numbers \(y\[2\]\)"),
            (np.array(["2020-01-01"], dtype="M8[D]"), TypeError, r"datetime64"),
            (sparse.csr_matrix([[0, 1]]), TypeError, "y is sparse"),
        ],
    )
    def test_what_is_no_label(self, y, error, message):
        with pytest.raises(error, match=message):
            label_subset(y, 1.0)

    def test_ragged_arrays(self):
        y = np.empty(2, dtype=object)
        y[:] = [np.arange(2), np.arange(3)]
        with pytest.raises(TypeError, match=r"y\[0\] is of type ndarray"):
            label_subset(y, 1.0)


class Recorder(ClassifierMixin, BaseEstimator):
    """Predicts its first class and keeps what fit was given."""

    def fit(self, X, y, groups=None, extra=None, sample_weight=None):
        self.X_, self.y_ = X, y
        self.params_ = {"groups": groups, "extra": extra, "sample_weight": sample_weight}
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.repeat(self.classes_[:1], len(X))


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    y = y.copy()
    y[::5] = -1
    return X, y


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class TestFit:
    def test_equals_the_estimator_on_the_subset(self, iris):
        X, y = iris
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), 0.25, random_state=3).fit(X, y)
        rows = label_subset(y, 0.25, random_state=3)
        plain = LogisticRegression(max_iter=1000).fit(X[rows], y[rows])

        np.testing.assert_array_equal(clf.indices_, rows)
        assert clf.n_labels_ == len(rows) == 30
        assert clf.classes_.tolist() == [0, 1, 2]
        assert clf.n_features_in_ == 4
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            np.testing.assert_array_equal(getattr(clf, method)(X), getattr(plain, method)(X))

    def test_does_not_touch_the_estimator_it_was_given(self, iris):
        inner = LogisticRegression(max_iter=1000)
        clf = LabelFractionClassifier(inner).fit(*iris)
        assert clf.estimator is inner
        assert not hasattr(inner, "coef_")

    def test_default_estimator(self, iris):
        clf = LabelFractionClassifier().fit(*iris)
        assert isinstance(clf.estimator_, LogisticRegression)
        assert clf.estimator is None

    def test_class_seen_only_unlabelled_does_not_exist(self):
        clf = LabelFractionClassifier(Recorder()).fit(np.zeros((4, 1)), [0, 1, -1, -1])
        assert clf.classes_.tolist() == [0, 1]

    def test_dtype_of_labels(self):
        pd = pytest.importorskip("pandas")
        X = np.zeros((3, 1))
        for y, dtype in [
            (["cat", None, "dog"], "<U3"),
            (np.array(["cat", "cat", "dog"]), "<U3"),
            (np.array(["cat", None, "dog"], dtype=object), object),
            (pd.Series(["cat", None, "dog"]), object),
            (pd.Series(["cat", None, "dog"], dtype="category"), object),
            (pd.Series([1, None, 2], dtype="Int64"), np.int64),
            (pd.Series([1, None, 2], dtype="category"), np.int64),
            (np.array([True, None, False], dtype=object), bool),
            (np.array([5, -1, 2], dtype=np.int16), np.int16),
        ]:
            clf = LabelFractionClassifier(Recorder()).fit(X, y)
            assert clf.classes_.dtype == dtype, repr(y)
            assert clf.estimator_.y_.dtype == dtype

    def test_strings_and_integers_train_on_the_same_rows(self, iris):
        X, y = iris
        names = np.array([None if label == -1 else "zyx"[label] for label in y], dtype=object)
        by_int = LabelFractionClassifier(Recorder(), 0.1, 0).fit(X, y)
        by_name = LabelFractionClassifier(Recorder(), 0.1, 0).fit(X, names)
        np.testing.assert_array_equal(by_int.indices_, by_name.indices_)

    def test_forms_of_X(self, iris):
        pd = pytest.importorskip("pandas")
        torch = pytest.importorskip("torch")
        X, y = iris
        rows = label_subset(y, 0.1, random_state=0)

        class Dataset:
            def __len__(self):
                return len(X)

            def __getitem__(self, i):
                assert isinstance(i, int)
                return X[i]

        frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(len(X))[::-1])
        images = X.reshape(-1, 1, 2, 2)
        cases = [
            (X, np.ndarray),
            (images, np.ndarray),
            (frame, pd.DataFrame),
            (torch.from_numpy(X), torch.Tensor),
            (X.tolist(), list),
            (tuple(X), list),
            (Dataset(), list),
        ]
        for data, kind in cases:
            seen = LabelFractionClassifier(Recorder(), 0.1, 0).fit(data, y).estimator_.X_
            assert isinstance(seen, kind)
            np.testing.assert_array_equal(np.asarray(seen).reshape(-1, 4), X[rows])
        for fmt in ("csr", "csc", "coo", "lil", "dok", "bsr"):
            seen = LabelFractionClassifier(Recorder(), 0.1, 0).fit(sparse.csr_array(X).asformat(fmt), y)
            np.testing.assert_array_equal(seen.estimator_.X_.toarray(), X[rows])

    def test_every_row_is_passed_without_a_copy(self):
        X = np.zeros((4, 1))
        assert LabelFractionClassifier(Recorder()).fit(X, [0, 1, 0, 1]).estimator_.X_ is X

    def test_feature_names_come_and_go(self, iris):
        pd = pytest.importorskip("pandas")
        X, y = iris
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), 0.5, 0)
        clf.fit(pd.DataFrame(X, columns=list("abcd")), y)
        assert clf.feature_names_in_.tolist() == list("abcd")
        assert not hasattr(clf.fit(X, y), "feature_names_in_")

    def test_clone_and_pickle(self, iris):
        X, y = iris
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), 0.5, 0).fit(X, y)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))
        assert clone(clf).get_params()["label_fraction"] == 0.5

    def test_negative_class(self):
        X, y = make_classification(random_state=0)
        with pytest.warns(UserWarning, match="only -1 and 1"):
            clf = LabelFractionClassifier(LogisticRegression()).fit(X, 2 * y - 1)
        assert clf.classes_.tolist() == [-1, 1]
        # That -1 is a class is known after fit, even where it does not occur together with 1.
        negative = y == 0
        share = np.mean(clf.predict(X[negative]) == -1)
        assert clf.score(X[negative], np.full(negative.sum(), -1)) == pytest.approx(share)

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            ([0, 1, 0], "X has 4 rows and y has 3"),
            ([5, 5, 5, 5], r"one class only, \[5\], in 4 labelled of 4"),
            ([5, 5, -1, -1], r"one class only, \[5\], in 2 labelled of 4 rows.*-1 marks"),
            ([-1, -1, -1, -1], "no labelled row: all 4 rows"),
        ],
    )
    def test_targets_that_train_nothing(self, y, message):
        with pytest.raises(ValueError, match=message):
            LabelFractionClassifier(Recorder()).fit(np.zeros((4, 1)), y)

    def test_fraction_that_leaves_a_class_without_a_label(self):
        y = np.repeat([0, 1, 2, 3, -1], [10, 10, 10, 10, 60])
        with pytest.raises(
            ValueError,
            match=r"label_fraction=0.05 draws 2 of 40 labelled.*4 classes.*Pass label_fraction=0.1 or more",
        ):
            LabelFractionClassifier(Recorder(), 0.05).fit(np.zeros((100, 1)), y)

    @pytest.mark.parametrize(
        ("estimator", "message"),
        [
            (Ridge(), "must be a classifier, found Ridge"),
            (StandardScaler(), "must be a classifier"),
            ("svm", "must be a classifier, found 'svm'"),
            (LogisticRegression, r"found the class LogisticRegression. Pass LogisticRegression\(\)"),
        ],
    )
    def test_estimator_of_wrong_type(self, estimator, message):
        with pytest.raises(TypeError, match=message):
            LabelFractionClassifier(estimator).fit(np.zeros((2, 1)), [0, 1])

    @pytest.mark.parametrize("X", [None, 3, "abc", np.array(3), {"a": [1, 2]}])
    def test_X_without_rows(self, X):
        with pytest.raises(TypeError, match="X must hold one entry per row"):
            LabelFractionClassifier(Recorder()).fit(X, [0, 1])

    def test_not_fitted(self):
        clf = LabelFractionClassifier(LogisticRegression())
        for method in (clf.predict, clf.predict_proba, lambda X: clf.score(X, [0])):
            with pytest.raises(NotFittedError):
                method([[0.0]])


class TestDelegation:
    def test_methods_are_those_of_the_estimator(self):
        svc, logistic = LabelFractionClassifier(LinearSVC()), LabelFractionClassifier(LogisticRegression())
        knn = LabelFractionClassifier(KNeighborsClassifier())
        assert hasattr(svc, "decision_function") and not hasattr(svc, "predict_proba")
        assert hasattr(knn, "predict_proba") and not hasattr(knn, "decision_function")
        assert hasattr(logistic, "predict_proba") and hasattr(logistic, "decision_function")
        assert hasattr(LabelFractionClassifier(), "predict_proba")

    def test_tags(self):
        knn = get_tags(LabelFractionClassifier(KNeighborsClassifier(metric="precomputed")))
        assert knn.input_tags.pairwise
        # Multilabel targets are refused, whatever the estimator can do.
        assert not knn.classifier_tags.multi_label
        logistic = get_tags(LabelFractionClassifier(LogisticRegression()))
        assert logistic.input_tags.sparse and not logistic.input_tags.pairwise
        assert get_tags(LabelFractionClassifier(DummyClassifier())).no_validation

    def test_precomputed_kernel_equals_the_kernel(self, iris):
        X, y = iris
        linear = LabelFractionClassifier(SVC(kernel="linear"), 0.3, 0).fit(X, y)
        K = X @ X.T
        pre = LabelFractionClassifier(SVC(kernel="precomputed"), 0.3, 0).fit(K, y)
        np.testing.assert_array_equal(pre.predict(K), linear.predict(X))
        assert pre.score(K, y) == linear.score(X, y)
        assert pre.n_features_in_ == 150
        with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 150"):
            pre.predict(K[:, :3])
        with pytest.raises(ValueError, match=r"square kernel or distance matrix, found shape \(150, 3\)"):
            clone(pre).fit(K[:, :3], y)
        precomputed, plain = (
            cross_validate(LabelFractionClassifier(SVC(kernel=k), 0.5, 0), data, y)["test_score"]
            for k, data in (("precomputed", K), ("linear", X))
        )
        np.testing.assert_array_equal(precomputed, plain)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.EfficiencyWarning")
    def test_precomputed_sparse_distances(self, iris):
        X, y = iris
        D = pairwise_distances(X)
        others = np.setdiff1d(np.arange(150), label_subset(y, 0.3, random_state=0))
        plain = LabelFractionClassifier(KNeighborsClassifier(), 0.3, 0).fit(X, y)
        for fmt in ("csr", "coo"):
            graph = sparse.csr_array(D)
            pre = LabelFractionClassifier(KNeighborsClassifier(metric="precomputed"), 0.3, 0)
            pre.fit(graph.asformat(fmt), y)
            predicted = pre.predict(graph[others].asformat(fmt))
            np.testing.assert_array_equal(predicted, plain.predict(X[others]))

    def test_frozen_estimator_keeps_what_it_learned(self, iris):
        X, y = iris
        fitted = LogisticRegression(max_iter=1000).fit(X, load_iris(return_X_y=True)[1])
        clf = LabelFractionClassifier(FrozenEstimator(fitted), 0.1, 0).fit(X[y != 2], y[y != 2])
        assert clf.classes_.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(clf.predict(X), fitted.predict(X))


class TestScore:
    def test_is_the_accuracy_on_labelled_rows(self, iris):
        X, y = iris
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), 0.1, 0).fit(X, y)
        labelled = y != -1
        right = clf.predict(X[labelled]) == y[labelled]
        assert clf.score(X, y) == right.mean()
        weight = np.arange(150.0)
        expected = np.average(right, weights=weight[labelled])
        for form in (weight, weight.tolist()):
            assert clf.score(X, y, sample_weight=form) == pytest.approx(expected)
        assert clf.score(X.tolist(), y.tolist()) == right.mean()

    def test_string_labels(self):
        clf = LabelFractionClassifier(Recorder()).fit(np.zeros((2, 1)), ["a", "b"])
        assert clf.score(np.zeros((4, 1)), ["a", None, "b", np.nan]) == 0.5

    def test_errors(self, iris):
        X, y = iris
        clf = LabelFractionClassifier().fit(X, y)
        with pytest.raises(ValueError, match="no labelled row: all 2 rows"):
            clf.score(X[:2], [-1, -1])
        with pytest.raises(ValueError, match="X has 150 rows and y has 149"):
            clf.score(X, y[1:])
        with pytest.raises(ValueError, match="sample_weight has 2 entries and X has 150 rows"):
            clf.score(X, y, sample_weight=[1, 2])


class TestFitParameters:
    def params(self, n):
        return {
            "sample_weight": np.arange(n, dtype=float),
            "groups": [f"g{i}" for i in range(n)],
            "extra": {"a": 1},
        }

    def check(self, recorder, rows):
        np.testing.assert_array_equal(recorder.params_["sample_weight"], rows.astype(float))
        assert recorder.params_["groups"] == [f"g{i}" for i in rows]
        assert recorder.params_["extra"] == {"a": 1}

    def test_without_routing(self, iris):
        X, y = iris
        clf = LabelFractionClassifier(Recorder(), 0.1, 0).fit(X, y, **self.params(150))
        self.check(clf.estimator_, clf.indices_)

    def test_only_sample_aligned_parameters_are_reduced(self):
        X, y = np.zeros((4, 1)), [0, 1, 0, 1]
        for extra in ([1, 2, 3], "four", {1, 2, 3, 4}, {i: i for i in range(4)}, 4, np.array(4), Recorder):
            clf = LabelFractionClassifier(Recorder(), 0.5, 0).fit(X, y, extra=extra)
            assert clf.estimator_.params_["extra"] is extra

    def test_weights_count(self, iris):
        X, y = iris
        weight = np.where(y == 0, 50.0, 1.0)
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), 0.2, 0)
        clf.fit(X, y, sample_weight=weight)
        plain = LogisticRegression(max_iter=1000).fit(
            X[clf.indices_], y[clf.indices_], sample_weight=weight[clf.indices_]
        )
        np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))

    def test_with_routing(self, iris, routing):
        X, y = iris
        inner = Recorder().set_fit_request(sample_weight=True, groups=True, extra=True)
        clf = LabelFractionClassifier(inner, 0.1, 0).fit(X, y, **self.params(150))
        self.check(clf.estimator_, clf.indices_)

    def test_unrequested_parameters_are_refused(self, iris, routing):
        X, y = iris
        clf = LabelFractionClassifier(Recorder())
        with pytest.raises(ValueError, match="LabelFractionClassifier.fit"):
            clf.fit(X, y, sample_weight=np.ones(150))
        with pytest.raises(TypeError, match="nonsense"):
            clf.fit(X, y, nonsense=1)
        assert clf.fit(X, y).estimator_.params_["sample_weight"] is None

    def test_default_estimator_takes_weights_with_routing(self, iris, routing):
        X, y = iris
        weight = np.where(y == 0, 50.0, 1.0)
        weighted = LabelFractionClassifier().fit(X, y, sample_weight=weight)
        plain = LabelFractionClassifier().fit(X, y)
        assert not np.allclose(weighted.predict_proba(X), plain.predict_proba(X))

    def test_through_a_pipeline(self, iris, routing):
        X, y = iris
        inner = Recorder().set_fit_request(sample_weight=True, groups=True, extra=True)
        pipe = make_pipeline(FunctionTransformer(), LabelFractionClassifier(inner, 0.1, 0))
        clf = pipe.fit(X, y, **self.params(150))[-1]
        self.check(clf.estimator_, clf.indices_)

    def test_through_cross_validation(self, iris, routing):
        X, y = iris
        inner = LogisticRegression(max_iter=1000).set_fit_request(sample_weight=True)
        clf = LabelFractionClassifier(inner, 0.5, 0).set_score_request(sample_weight=True)
        weight = np.random.RandomState(0).uniform(0.1, 10, 150)
        folds = KFold(3, shuffle=True, random_state=0)
        result = cross_validate(clf, X, y, cv=folds, params={"sample_weight": weight})
        for score, (train, test) in zip(result["test_score"], folds.split(X), strict=True):
            rows = train[label_subset(y[train], 0.5, random_state=0)]
            plain = LogisticRegression(max_iter=1000).fit(X[rows], y[rows], sample_weight=weight[rows])
            test = test[y[test] != -1]
            assert score == pytest.approx(plain.score(X[test], y[test], sample_weight=weight[test]))


class TestInsideScikitLearn:
    def test_grid_search_over_fractions_is_nested(self, iris):
        X, y = iris
        pipe = make_pipeline(StandardScaler(), LabelFractionClassifier(LogisticRegression(), random_state=0))
        grid = {
            "labelfractionclassifier__label_fraction": [0.1, 0.5, 1.0],
            "labelfractionclassifier__estimator__C": [0.1, 1.0],
        }
        search = GridSearchCV(pipe, grid, cv=3, error_score="raise").fit(X, y)
        assert search.best_score_ > 0.9
        assert search.classes_.tolist() == [0, 1, 2]

    def test_missing_string_labels_with_plain_folds(self, iris):
        X, y = iris
        names = np.array([None if label == -1 else "abc"[label] for label in y], dtype=object)
        folds = KFold(5, shuffle=True, random_state=0)
        clf = LabelFractionClassifier(LogisticRegression(max_iter=1000), 0.5, 0)
        by_name, by_int = (
            cross_validate(clf, X, target, cv=folds, error_score="raise")["test_score"]
            for target in (names, y)
        )
        np.testing.assert_array_equal(by_name, by_int)

    def test_scorers_by_name(self):
        X, y = make_classification(random_state=0)
        for inner in (LogisticRegression(), LinearSVC()):
            clf = LabelFractionClassifier(inner, 0.5, 0)
            result = cross_validate(clf, X, y, scoring=["roc_auc", "accuracy", "f1"], error_score="raise")
            assert result["test_roc_auc"].mean() > 0.8

    def test_calibration(self):
        X, y = make_classification(n_samples=200, random_state=0)
        clf = CalibratedClassifierCV(LabelFractionClassifier(LinearSVC(), 0.5, 0), cv=3).fit(X, y)
        np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
        assert clf.score(X, y) > 0.8

    def test_nested_in_itself(self, iris):
        X, y = iris
        once = LabelFractionClassifier(Recorder(), 0.5, 0)
        twice = LabelFractionClassifier(once, 0.5, 0).fit(X, y)
        assert twice.n_labels_ == 60 and twice.estimator_.n_labels_ == 30


@st.composite
def partial_targets(draw):
    """y of 10 to 80 numbers, some of them equal, and up to 30 NaN."""
    n = draw(st.integers(10, 80))
    y = np.random.RandomState(draw(st.integers(0, 1000))).choice(draw(st.integers(2, 200)), n) / 4
    at = draw(st.lists(st.integers(0, n), max_size=30))
    return np.insert(y, at, np.nan)


class TestRegressor:
    def drawn(self, y, fraction, seed, **parameters):
        reg = LabelFractionRegressor(DummyRegressor(), fraction, random_state=seed, **parameters)
        return reg.fit(np.zeros((len(y), 1)), y).indices_

    @few_examples
    @given(partial_targets(), st.floats(0.1, 1), st.floats(0.1, 1), seeds, st.integers(1, 12))
    def test_draws_are_nested_and_spread_over_the_quantiles(self, y, one, other, seed, n_bins):
        small, large = (self.drawn(y, f, seed, n_bins=n_bins) for f in sorted([one, other]))
        known = np.flatnonzero(~np.isnan(y))
        assert set(small) <= set(large) <= set(known)
        assert len(small) == round(min(one, other) * len(known))
        np.testing.assert_array_equal(small, self.drawn(y, min(one, other), seed, n_bins=n_bins))
        # Row i of the sorted ones is in the last bin that begins at or before it.
        order = known[np.argsort(y[known], kind="stable")]
        n, n_bins = len(known), min(n_bins, len(known))
        starts = [-(-i * n // n_bins) for i in range(n_bins + 1)]
        bins = [order[start:stop] for start, stop in zip(starts, starts[1:], strict=False)]
        counts = np.array([np.isin(rows, small).sum() for rows in bins])
        assert (counts >= np.minimum([len(rows) for rows in bins], counts.max() - 1)).all()

    @few_examples
    @given(st.integers(1, 60), st.integers(1, 20))
    def test_bins_are_of_equal_size_and_in_order(self, n, n_bins):
        targets = np.random.RandomState(n).normal(size=n)
        codes = quantile_codes(targets, n_bins)
        sizes = np.bincount(codes)
        assert len(sizes) == min(n, n_bins) and np.ptp(sizes) <= 1
        assert (np.diff(codes[np.argsort(targets)]) >= 0).all()

    def test_equals_the_estimator_on_the_rows_drawn(self):
        rng = np.random.RandomState(0)
        X = rng.normal(size=(90, 3))
        y = X @ [1.0, 2.0, 3.0] + rng.normal(size=90)
        y[::3] = np.nan
        reg = LabelFractionRegressor(Ridge(), 0.3, random_state=0).fit(X, y)
        plain = Ridge().fit(X[reg.indices_], y[reg.indices_])
        assert reg.n_labels_ == 18
        np.testing.assert_array_equal(reg.predict(X), plain.predict(X))
        known = ~np.isnan(y)
        assert reg.score(X, y) == pytest.approx(plain.score(X[known], y[known]))
        weight = rng.uniform(size=90)
        expected = plain.score(X[known], y[known], sample_weight=weight[known])
        assert reg.score(X, y, sample_weight=weight) == pytest.approx(expected)

    def test_forms_of_missing_targets(self):
        pd = pytest.importorskip("pandas")
        torch = pytest.importorskip("torch")
        values = [1.5, None, -1, 2.0]
        for y in (
            values,
            np.array(values, dtype=object),
            np.array(values, dtype=float),
            pd.Series(values),
            pd.Series(values, dtype="Float64"),
            torch.tensor([1.5, torch.nan, -1, 2.0]),
        ):
            # -1 is a number as any other.
            assert self.drawn(y, 1.0, 0).tolist() == [0, 2, 3]

    def test_one_bin_is_a_simple_random_draw(self):
        y = np.arange(40.0)
        halves = [(self.drawn(y, 0.1, seed, n_bins=1) < 20).sum() for seed in range(200)]
        assert set(halves) == {0, 1, 2, 3, 4}
        assert {(self.drawn(y, 0.1, seed, n_bins=2) < 20).sum() for seed in range(200)} == {2}

    def test_default_estimator_and_weights(self, routing):
        X, y = np.arange(20.0)[:, None], np.arange(20.0) ** 2
        weight = np.linspace(0.1, 10, 20)
        reg = LabelFractionRegressor().fit(X, y, sample_weight=weight)
        np.testing.assert_allclose(reg.predict(X), Ridge().fit(X, y, sample_weight=weight).predict(X))

    def test_search(self):
        X, y = make_classification(n_samples=100, random_state=0)
        target = X[:, 0] + y
        reg = make_pipeline(StandardScaler(), LabelFractionRegressor(random_state=0))
        grid = {"labelfractionregressor__label_fraction": [0.2, 1.0]}
        assert GridSearchCV(reg, grid, cv=3, error_score="raise").fit(X, target).best_score_ > 0.5

    @pytest.mark.parametrize(
        ("parameters", "y", "error", "message"),
        [
            ({"estimator": LogisticRegression()}, [1, 2], TypeError, r"must be a regressor.*Pass Ridge\(\)"),
            ({"n_bins": 0}, [1, 2], ValueError, "n_bins must be an int of at least 1, found 0"),
            ({"n_bins": 2.0}, [1, 2], ValueError, "n_bins must be"),
            ({"label_fraction": 0.1}, [1, 2], ValueError, "draws 0 of 2 .*would leave no label. Pass .*=0.5"),
            ({"label_fraction": 2}, [1, 2], ValueError, r"label_fraction must be in \(0, 1\]"),
            ({}, [np.nan, None], ValueError, "no labelled row: all 2 rows"),
            ({}, [np.inf, 1], ValueError, r"infinity: y\[0\]"),
            ({}, ["a", "b"], TypeError, "pass numbers"),
            ({}, np.eye(2), ValueError, r"found shape \(2, 2\).*MultiOutputRegressor"),
            ({}, None, ValueError, "The regressor requires y"),
            ({}, [1, 2, 3], ValueError, "X has 2 rows and y has 3"),
        ],
    )
    def test_errors(self, parameters, y, error, message):
        with pytest.raises(error, match=message):
            LabelFractionRegressor(**parameters).fit(np.zeros((2, 1)), y)


class TestHiddenLabels:
    def hidden(self, labels, mark=None):
        return hide_labels(np.asarray(labels), np.array([1]), np.array([0, 2, 3]), 5, mark)

    def test_marks(self):
        assert self.hidden([5, 6, 7]).tolist() == [-1, -1, 6, -1, -1]
        assert self.hidden(np.array([5, 6, 7], dtype=np.uint8)).tolist() == [-1, -1, 6, -1, -1]
        assert self.hidden([5.0, 6.0, 7.0]).dtype == float
        assert self.hidden(["a", "b", "c"]).tolist() == [None, None, "b", None, None]
        assert self.hidden([True, False, True]).tolist() == [None, None, False, None, None]
        assert self.hidden(["a", "b", "c"], mark=-1).tolist() == [-1, -1, "b", -1, -1]
        np.testing.assert_array_equal(
            self.hidden([5, 6, 7], mark=np.nan), [np.nan, np.nan, 6, np.nan, np.nan]
        )

    def test_class_minus_one_is_never_mistaken_for_the_mark(self):
        assert self.hidden([-1, 1, 2]).tolist() == [None, None, 1, None, None]
        with pytest.raises(ValueError, match="has a class -1"):
            self.hidden([-1, 1, 2], mark=-1)
