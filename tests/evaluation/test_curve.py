"""Facts about `label_fraction_curve` that could be false."""

import warnings
from collections import Counter

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.feature_selection import SelectFromModel, SelectKBest, SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.metrics.pairwise import linear_kernel
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from sklearn_simclr.evaluation.curve import label_fraction_curve
from sklearn_simclr.evaluation.label_fraction import LabelFractionClassifier, LabelFractionRegressor
from sklearn_simclr.evaluation.splitters import SemiSupervisedKFold

TIMES = ["fit_time", "score_time", "shared_time"]

# What the recording estimators below were received, in the order of the calls.
calls = []


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    y = y.copy()
    y[::5] = -1
    return X, y


class CountingPCA(PCA):
    """PCA that notes its fits and transforms."""

    def fit_transform(self, X, y=None):
        calls.append(("fit", self.n_components, X, y))
        return super().fit_transform(X)

    def transform(self, X):
        calls.append(("transform", self.n_components, X, None))
        return super().transform(X)


class RecordingSelector(TransformerMixin, BaseEstimator):
    """Passes X on; says that it needs labels, and notes which it got."""

    def fit(self, X, y):
        calls.append(("selector", X, y))
        return self

    def transform(self, X):
        return X

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class RecordingClassifier(ClassifierMixin, BaseEstimator):
    """Predicts its first class, and notes what it was received."""

    def __init__(self, kind="classifier"):
        self.kind = kind

    def fit(self, X, y, sample_weight=None):
        calls.append((self.kind, X, y, sample_weight))
        labels = [label for label in np.asarray(y).tolist() if label is not None and label != -1]
        self.classes_ = np.array(sorted(set(labels)))
        return self

    def predict(self, X):
        return np.repeat(self.classes_[:1], len(X))


class SemiSupervised(RecordingClassifier):
    learns_from_unlabelled = True


def scores(results):
    return results.drop(columns=TIMES)


def logistic(**parameters):
    return LogisticRegression(max_iter=1000, **parameters)


class TestResult:
    def test_a_row_each_fit_in_order(self, iris):
        X, y = iris
        results = label_fraction_curve(
            {"b": logistic(), "a": GaussianNB()}, X, y, fractions=[1.0, 0.1], cv=3, n_draws=2, random_state=0
        )
        assert list(results) == ["estimator", "fraction", "n_labels", "fold", "draw", "score", *TIMES]
        keys = results[["estimator", "fraction", "fold", "draw"]].to_numpy().tolist()
        assert keys == [
            [name, fraction, fold, draw]
            for name in "ba"
            for fraction in [1.0, 0.1]
            for fold in range(3)
            for draw in range(2)
        ]
        assert results["n_labels"].tolist() == ([80] * 6 + [8] * 6) * 2
        assert (results[TIMES].iloc[:, :2] > 0).all(axis=None)

    def test_scores_are_those_of_the_naive_loop(self, iris):
        X, y = iris
        pipe = make_pipeline(StandardScaler(), PCA(2), logistic())
        results = label_fraction_curve(
            pipe, X, y, fractions=[0.1, 0.5, 1.0], cv=3, n_draws=2, random_state=0, return_indices=True
        )
        folds = list(SemiSupervisedKFold(3).split(X, y))
        for row in results.itertuples():
            train, test = folds[row.fold]
            np.testing.assert_array_equal(row.test_indices, test)
            assert set(row.train_indices) <= set(train) and (y[row.train_indices] >= 0).all()
            assert len(row.train_indices) == row.n_labels
            embed = make_pipeline(StandardScaler(), PCA(2)).fit(X[train])
            clf = logistic().fit(embed.transform(X[row.train_indices]), y[row.train_indices])
            assert row.score == pytest.approx(clf.score(embed.transform(X[test]), y[test]))

    def test_draws_are_paired_nested_balanced_and_differ(self, iris):
        X, y = iris
        results = label_fraction_curve(
            [logistic(), make_pipeline(PCA(2), logistic())],
            X,
            y,
            fractions=[0.1, 0.2, 0.5],
            cv=2,
            n_draws=3,
            random_state=1,
            return_indices=True,
        )
        sets = {}
        for row in results.itertuples():
            drawn = frozenset(row.train_indices)
            assert sets.setdefault((row.fold, row.draw, row.fraction), drawn) == drawn
            assert np.ptp(np.bincount(y[row.train_indices])) <= 1
        for fold in range(2):
            for draw in range(3):
                assert sets[fold, draw, 0.1] < sets[fold, draw, 0.2] < sets[fold, draw, 0.5]
            assert len({sets[fold, draw, 0.2] for draw in range(3)}) == 3

    @settings(deadline=None, max_examples=15)
    @given(
        st.lists(st.integers(6, 20), min_size=2, max_size=4),
        st.integers(0, 20),
        st.integers(0, 2**32 - 1),
        st.lists(st.floats(0.5, 1), min_size=2, max_size=3, unique=True),
    )
    def test_draws_of_any_labels(self, counts, n_unlabelled, seed, fractions):
        y = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(n_unlabelled, -1)])
        y = np.random.RandomState(seed).permutation(y)
        results = label_fraction_curve(
            DummyClassifier(),
            np.zeros((len(y), 1)),
            y,
            fractions=fractions,
            cv=2,
            n_draws=2,
            random_state=seed,
            return_indices=True,
        )
        for _, group in results.groupby(["fold", "draw"]):
            ordered = group.sort_values("n_labels")["train_indices"].tolist()
            for small, large in zip(ordered, ordered[1:], strict=False):
                assert set(small) <= set(large)
        for row in results.itertuples():
            assert not set(row.train_indices) & set(row.test_indices)
            drawn, tested = y[row.train_indices], y[row.test_indices]
            assert (drawn >= 0).all() and (tested >= 0).all()
            n_drawn = np.bincount(drawn, minlength=len(counts))
            # A class with fewer labels than another has no more to draw.
            there = np.array(counts) - np.bincount(tested, minlength=len(counts))
            assert (n_drawn >= np.minimum(there, n_drawn.max() - 1)).all()
            assert n_drawn.sum() == round(row.fraction * there.sum())

    def test_more_draws_and_fractions_change_no_draw(self, iris):
        X, y = iris
        options = {"cv": 2, "random_state": 0}
        few = label_fraction_curve(logistic(), X, y, fractions=[0.1], n_draws=1, **options)
        many = label_fraction_curve(logistic(), X, y, fractions=[0.3, 0.1], n_draws=3, **options)
        among = many[(many["fraction"] == 0.1) & (many["draw"] == 0)].reset_index(drop=True)
        pd.testing.assert_frame_equal(scores(few), scores(among))

    def test_seeds(self, iris):
        X, y = iris

        def drawn(seed):
            results = label_fraction_curve(
                DummyClassifier(), X, y, fractions=[0.1], cv=2, random_state=seed, return_indices=True
            )
            return np.concatenate(results["train_indices"].tolist()).tolist()

        assert drawn(0) == drawn(0) != drawn(1)
        assert drawn(np.random.RandomState(0)) == drawn(np.random.RandomState(0))

    def test_ints_are_numbers_of_labels(self, iris):
        X, y = iris
        results = label_fraction_curve(DummyClassifier(), X, y, fractions=[3, 60], cv=3)
        assert results["n_labels"].tolist() == [3] * 3 + [60] * 3
        assert results["fraction"].tolist() == [3 / 80] * 3 + [60 / 80] * 3
        # As for learning_curve, one float makes the others floats.
        mixed = label_fraction_curve(DummyClassifier(), X, y, fractions=[0.5, 1], cv=3)
        assert mixed["n_labels"].tolist() == [40] * 3 + [80] * 3

    def test_names(self, iris):
        X, y = iris

        def names(estimators):
            results = label_fraction_curve(estimators, X, y, fractions=[1.0], cv=2)
            return results["estimator"].drop_duplicates().tolist()

        assert names(GaussianNB()) == ["gaussiannb"]
        assert names([make_pipeline(PCA(2), GaussianNB()), GaussianNB()]) == ["pca+gaussiannb", "gaussiannb"]
        assert names([GaussianNB(), GaussianNB(var_smoothing=1)]) == ["gaussiannb-1", "gaussiannb-2"]
        assert names([("x", GaussianNB()), ("a", GaussianNB())]) == ["x", "a"]

    def test_returned_estimators_take_rows_of_X(self, iris):
        X, y = iris
        pipe = Pipeline(
            [("scale", StandardScaler()), ("nothing", None), ("pca", PCA(2)), ("clf", logistic())]
        )
        results = label_fraction_curve(
            {"pipe": pipe, "plain": logistic()},
            X,
            y,
            fractions=[0.3],
            cv=2,
            return_estimator=True,
            return_indices=True,
        )
        for row in results.itertuples():
            accuracy = row.fitted_estimator.score(X[row.test_indices], y[row.test_indices])
            assert accuracy == row.score
        assert not hasattr(pipe[-1], "coef_") and not hasattr(pipe[0], "mean_")

    def test_train_score(self, iris):
        X, y = iris
        options = {"fractions": [0.5], "cv": 2, "return_train_score": True}
        knn = KNeighborsClassifier(1)
        assert (label_fraction_curve(knn, X, y, **options)["train_score"] > 0.95).all()
        several = label_fraction_curve(knn, X, y, scoring=["accuracy", "f1_macro"], **options)
        assert {"train_accuracy", "train_f1_macro"} <= set(several)


class TestSharing:
    def test_shared_steps_are_fitted_once_a_fold_on_all_rows_without_labels(self, iris):
        X, y = iris
        classifiers = [logistic(), logistic(C=0.1), GaussianNB()]
        estimators = [make_pipeline(CountingPCA(2), clf) for clf in classifiers]
        label_fraction_curve(estimators, X, y, fractions=[0.1, 0.2, 0.3, 0.5, 1.0], cv=3, n_draws=5)
        assert Counter(call[0] for call in calls) == {"fit": 3, "transform": 3}
        for kind, _, received, target in calls:
            # 120 labelled rows make 3 folds of 40, and 30 rows without a label are trained on.
            assert len(received) == (110 if kind == "fit" else 40)
            assert target is None

    def test_equal_beginnings_are_shared_and_others_are_not(self, iris):
        X, y = iris
        estimators = {
            "a": make_pipeline(CountingPCA(3), logistic()),
            "b": Pipeline(
                [("other_name", CountingPCA(3)), ("scale", StandardScaler()), ("clf", GaussianNB())]
            ),
            "c": make_pipeline(CountingPCA(3), CountingPCA(2), GaussianNB()),
            "d": make_pipeline("passthrough", CountingPCA(3), CountingPCA(2), logistic()),
            "e": make_pipeline(CountingPCA(2), logistic()),
            "f": make_pipeline(CountingPCA(3, whiten=True), logistic()),
        }
        label_fraction_curve(estimators, X, y, fractions=[0.5, 1.0], cv=2)
        fits = Counter(
            (n_components, received.shape[1]) for kind, n_components, received, _ in calls if kind == "fit"
        )
        assert fits == {(3, 4): 4, (2, 3): 2, (2, 4): 2}

    def test_what_cannot_be_pickled_is_shared_with_itself(self, iris):
        X, y = iris
        function = FunctionTransformer(lambda values: calls.append("call") or values)
        other = FunctionTransformer(lambda values: calls.append("call") or values)
        estimators = [make_pipeline(f, GaussianNB()) for f in (function, function, other)]
        label_fraction_curve(estimators, X, y, fractions=[1.0], cv=2)
        # Two distinct functions, on the training and the test set of two folds.
        assert len(calls) == 8

    def test_frozen_estimators_are_told_apart_by_what_they_learnt(self, iris):
        X, y = iris
        first, second = (FrozenEstimator(PCA(1).fit(part)) for part in (X, X[:, ::-1] * [1, 10, 1, 1]))
        estimators = {"first": make_pipeline(first, logistic()), "second": make_pipeline(second, logistic())}
        results = label_fraction_curve(estimators, X, y, fractions=[1.0], cv=2)
        means = results.groupby("estimator")["score"].mean()
        assert means["first"] != means["second"]

    def test_equal_draws_are_fitted_once(self, iris):
        X, y = iris
        results = label_fraction_curve(RecordingClassifier(), X, y, fractions=[0.5, 1.0], cv=2, n_draws=4)
        assert len(calls) == 2 * (4 + 1)
        assert len(results) == 2 * 8

    def test_unless_the_estimator_is_not_deterministic(self, iris):
        class Random(RecordingClassifier):
            def __sklearn_tags__(self):
                tags = super().__sklearn_tags__()
                tags.non_deterministic = True
                return tags

        label_fraction_curve(Random(), *iris, fractions=[1.0], cv=2, n_draws=4)
        assert len(calls) == 8


class TestLabelsDoNotLeak:
    def check_selector(self, results, y):
        drawn = iter(results["train_indices"])
        for kind, received, target in calls:
            assert kind == "selector"
            rows = next(drawn)
            np.testing.assert_array_equal(received[:, 0], rows)
            np.testing.assert_array_equal(target, y[rows])

    @pytest.mark.parametrize("nested", [False, True])
    def test_supervised_steps_see_the_drawn_rows_only(self, iris, nested):
        y = iris[1]
        X = np.column_stack([np.arange(150.0), iris[0]])
        step = make_union(RecordingSelector()) if nested else RecordingSelector()
        pipe = make_pipeline(FunctionTransformer(), step, GaussianNB())
        results = label_fraction_curve(
            pipe, X, y, fractions=[0.1, 0.5], cv=KFold(2), n_draws=2, return_indices=True
        )
        assert len(calls) == 8
        self.check_selector(results.sort_values(["fold", "fraction", "draw"]), y)

    @pytest.mark.parametrize(
        "step",
        [
            SelectKBest(k=5),
            LinearDiscriminantAnalysis(n_components=1),
            SelectFromModel(logistic()),
            SequentialFeatureSelector(GaussianNB(), n_features_to_select=2, cv=2),
        ],
        ids=lambda step: type(step).__name__,
    )
    def test_noise_cannot_be_learnt(self, step):
        # Selecting among 300 columns of noise by the labels of all rows would predict half of them.
        rng = np.random.RandomState(0)
        n_columns = 6 if isinstance(step, SequentialFeatureSelector) else 300
        X, y = rng.normal(size=(200, n_columns)), np.arange(200) % 2
        results = label_fraction_curve(
            make_pipeline(step, LogisticRegression()),
            X,
            y,
            fractions=[0.2],
            cv=2,
            random_state=0,
            return_estimator=True,
            return_indices=True,
        )
        for row in results.itertuples():
            alone = clone(step).fit(X[row.train_indices], y[row.train_indices])
            fitted = row.fitted_estimator[0]
            np.testing.assert_array_equal(fitted.transform(X[:5]), alone.transform(X[:5]))


class TestUnlabelledRows:
    def test_plain_estimators_get_the_drawn_rows(self, iris):
        X, y = iris
        results = label_fraction_curve(
            RecordingClassifier(), X, y, fractions=[0.2, 1.0], cv=2, return_indices=True
        )
        results = results.sort_values(["fold", "fraction"])
        for (_, received, target, _), rows in zip(calls, results["train_indices"], strict=True):
            np.testing.assert_array_equal(received, X[rows])
            np.testing.assert_array_equal(target, y[rows])

    @pytest.mark.parametrize(
        ("form", "mark"),
        [
            (lambda y: y, -1),
            (lambda y: np.where(y == -1, 0, y + 1).astype(np.uint8), -1),
            (lambda y: y.astype(float), -1),
            (lambda y: np.array([None if v == -1 else "xyz"[v] for v in y], dtype=object), None),
            (lambda y: pd.Series([None if v == -1 else "xyz"[v] for v in y], dtype="category"), None),
            (lambda y: np.array([None if v == -1 else v + 5 for v in y], dtype=object), -1),
        ],
    )
    def test_semi_supervised_estimators_get_all_rows_and_the_drawn_labels(self, iris, form, mark):
        X, y = iris
        y = form(y)
        results = label_fraction_curve(
            make_pipeline(StandardScaler(), SemiSupervised()),
            X,
            y,
            fractions=[0.2],
            cv=StratifiedKFold(2),
            n_draws=2,
            return_indices=True,
        )
        values = np.asarray(y, dtype=object)
        assert len(calls) == 4
        for (_, received, target, _), row in zip(calls, results.itertuples(), strict=True):
            train = np.setdiff1d(np.arange(150), row.test_indices)
            assert len(received) == len(target) == len(train)
            shown = np.isin(train, row.train_indices)
            assert target[shown].tolist() == values[train[shown]].tolist()
            assert set(target[~shown].tolist()) == {mark}

    def test_semi_supervised_estimators_of_scikit_learn(self, iris):
        X, y = iris
        names = np.array([None if v == -1 else "xyz"[v] for v in y], dtype=object)
        estimators = {
            "self-training": make_pipeline(StandardScaler(), SelfTrainingClassifier(logistic())),
            "logistic": make_pipeline(StandardScaler(), logistic()),
        }
        for target in (y, names):
            results = label_fraction_curve(
                estimators, X, target, fractions=[0.1], cv=3, random_state=0, error_score="raise"
            )
            assert (results["score"] > 0.6).all()
        spread = label_fraction_curve(
            LabelSpreading("knn"), X, y, fractions=[0.1], cv=3, random_state=0, error_score="raise"
        )
        assert (spread["score"] > 0.6).all()

    def test_scorers_see_labelled_rows_only(self, iris):
        X, y = iris

        def scorer(estimator, X, y):
            assert len(X) == len(y) and (y != -1).all()
            calls.append(len(y))
            return 0.5

        folds = [(np.arange(75), np.arange(75, 150)), (np.arange(75, 150), np.arange(75))]
        label_fraction_curve(GaussianNB(), X, y % 2, fractions=[1.0], cv=2, scoring=scorer)
        label_fraction_curve(
            GaussianNB(), X, np.where(y == -1, -1, y % 2), fractions=[1.0], cv=folds, scoring=scorer
        )
        assert calls[2:] == [60, 60]

    def test_class_that_is_only_unlabelled_and_class_smaller_than_the_draw(self):
        y = np.repeat(["a", "b", "rare", None], [40, 40, 4, 20])
        results = label_fraction_curve(
            RecordingClassifier(), np.zeros((104, 1)), y, fractions=[0.5], cv=2, return_indices=True
        )
        for rows in results["train_indices"]:
            _, counts = np.unique(y[rows].tolist(), return_counts=True)
            assert counts.tolist() == [10, 9, 2] or counts.tolist() == [9, 10, 2]

    def test_regression(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(120, 3))
        y = X @ [1.0, -2.0, 0.5]
        y[::4] = np.nan
        estimators = {
            "ridge": make_pipeline(CountingPCA(3), Ridge(1e-6)),
            "fraction": LabelFractionRegressor(Ridge(1e-6), label_fraction=0.1),
        }
        results = label_fraction_curve(
            estimators, X, y, fractions=[0.2, 1.0], cv=3, random_state=0, return_indices=True
        )
        np.testing.assert_allclose(results["score"], 1)
        assert results["n_labels"].tolist() == [12] * 3 + [60] * 3 + [12] * 3 + [60] * 3
        for row in results[results["fraction"] == 0.2].itertuples():
            train = np.setdiff1d(np.flatnonzero(~np.isnan(y)), row.test_indices)
            bins = np.searchsorted(np.sort(y[train]), y[row.train_indices]) * 10 // len(train)
            assert set(np.bincount(bins, minlength=10).tolist()) <= {1, 2}
        # Whole numbers are targets, too, and -1 is one of them.
        whole = np.round(np.nan_to_num(y))
        assert label_fraction_curve(Ridge(), X, whole, fractions=[1.0], cv=3)["n_labels"].tolist() == [80] * 3

    def test_semi_supervised_regressor(self):
        class Regressor(Ridge):
            learns_from_unlabelled = True

            def fit(self, X, y):
                calls.append(np.isnan(y).sum())
                return super().fit(X[~np.isnan(y)], y[~np.isnan(y)])

        X = np.random.default_rng(0).normal(size=(100, 2))
        label_fraction_curve(Regressor(), X, X[:, 0], fractions=[0.2], cv=2)
        assert calls == [40, 40]


class TestFinalStep:
    def test_fraction_classifier_takes_the_whole_draw(self, iris):
        X, y = iris
        estimators = {
            "plain": make_pipeline(PCA(2), logistic()),
            "wrapped": make_pipeline(PCA(2), LabelFractionClassifier(logistic(), 0.1)),
        }
        results = label_fraction_curve(
            estimators, X, y, fractions=[0.2, 1.0], cv=3, random_state=0, return_estimator=True
        )
        plain, wrapped = (results[results["estimator"] == name] for name in estimators)
        np.testing.assert_array_equal(plain["score"], wrapped["score"])
        for row in wrapped.itertuples():
            assert row.fitted_estimator[-1].n_labels_ == row.n_labels
        assert estimators["wrapped"][-1].label_fraction == 0.1

    def test_kernel_matrices(self, iris):
        X, y = iris
        kernel = linear_kernel(X)
        options = {"fractions": [0.1, 1.0], "cv": 3, "random_state": 0}
        expected = label_fraction_curve(SVC(kernel="linear"), X, y, **options)
        for clf in (SVC(kernel="precomputed"), LabelFractionClassifier(SVC(kernel="precomputed"))):
            results = label_fraction_curve(clf, kernel, y, **options)
            np.testing.assert_array_equal(results["score"], expected["score"])

    def test_forms_of_X(self, iris):
        X, y = iris
        options = {"fractions": [0.2], "cv": 3, "random_state": 0}
        pipe = make_pipeline(StandardScaler(), GaussianNB())
        expected = scores(label_fraction_curve(pipe, X, y, **options))
        for form in (pd.DataFrame(X, columns=list("abcd")), X.tolist()):
            pd.testing.assert_frame_equal(scores(label_fraction_curve(pipe, form, y, **options)), expected)


class TestParallel:
    def test_results_do_not_depend_on_n_jobs(self, iris):
        X, y = iris
        estimators = {
            "a": make_pipeline(PCA(2), logistic()),
            "b": make_pipeline(PCA(2), SelectKBest(k=1), GaussianNB()),
            "c": KNeighborsClassifier(),
        }
        options = {"fractions": [0.1, 1.0], "cv": 3, "n_draws": 2, "random_state": 0}
        options |= {"return_estimator": True, "return_train_score": True}
        alone = label_fraction_curve(estimators, X, y, **options)
        for n_jobs, backend in [(2, "threading"), (2, "loky")]:
            with joblib.parallel_config(backend=backend):
                together = label_fraction_curve(estimators, X, y, n_jobs=n_jobs, **options)
            columns = [*TIMES, "fitted_estimator"]
            pd.testing.assert_frame_equal(alone.drop(columns=columns), together.drop(columns=columns))
            for one, other in zip(alone["fitted_estimator"], together["fitted_estimator"], strict=True):
                np.testing.assert_array_equal(one.predict(X), other.predict(X))

    def test_progress(self, iris, capsys):
        label_fraction_curve(GaussianNB(), *iris, fractions=[1.0], cv=2)
        assert capsys.readouterr().err == ""
        label_fraction_curve(make_pipeline(PCA(2), GaussianNB()), *iris, fractions=[1.0], cv=2, verbose=1)
        assert "label fractions: 100%, 4 of 4 fits" in capsys.readouterr().err


class TestMemory:
    options = {"cv": 2, "n_draws": 2, "random_state": 0}

    def run(self, iris, memory, fractions, estimators=None, **more):
        calls.clear()
        if estimators is None:
            estimators = {
                "a": make_pipeline(CountingPCA(2), RecordingClassifier("a")),
                "b": make_pipeline(CountingPCA(2), RecordingClassifier("b")),
            }
        results = label_fraction_curve(
            estimators, *iris, fractions=fractions, memory=memory, **{**self.options, **more}
        )
        return results, Counter(call[0] for call in calls)

    def test_only_what_is_new_is_fitted(self, iris, tmp_path):
        first, counts = self.run(iris, str(tmp_path), [0.1, 1.0])
        assert counts == {"fit": 2, "transform": 2, "a": 6, "b": 6}
        again, counts = self.run(iris, joblib.Memory(str(tmp_path), verbose=0), [0.1, 1.0])
        assert not counts
        # Times, too, are those of the first run.
        pd.testing.assert_frame_equal(first, again)
        longer, counts = self.run(iris, str(tmp_path), [0.1, 0.3, 1.0], n_draws=3)
        assert counts == {"a": 2 * (3 + 1), "b": 2 * (3 + 1)}
        among = longer[(longer["fraction"] != 0.3) & (longer["draw"] < 2)].reset_index(drop=True)
        pd.testing.assert_frame_equal(first, among)

    @pytest.mark.parametrize(
        "change", ["X", "scoring", "params", "parameter", "fold", "labels", "train_score"]
    )
    def test_what_changes_the_outcome_is_fitted_again(self, iris, tmp_path, change):
        self.run(iris, str(tmp_path), [1.0], RecordingClassifier())
        X, y = iris
        data = (X + 1e-9 if change == "X" else X, np.where(y == 2, 3, y) if change == "labels" else y)
        more = {
            "scoring": {"scoring": "f1_macro"},
            "params": {"params": {"sample_weight": np.ones(150)}},
            "fold": {"cv": 3},
            "train_score": {"return_train_score": True},
        }.get(change, {})
        clf = RecordingClassifier("other" if change == "parameter" else "classifier")
        _, counts = self.run(data, str(tmp_path), [1.0], clf, **more)
        assert counts.total() == more.get("cv", 2)

    def test_outcomes_of_other_shared_steps_are_not_mistaken(self, iris, tmp_path):
        def first(n_components, memory):
            pipe = make_pipeline(PCA(n_components), KNeighborsClassifier())
            return scores(self.run(iris, memory, [0.1], pipe)[0])

        for n_components in (1, 2, 1):
            pd.testing.assert_frame_equal(first(n_components, str(tmp_path)), first(n_components, None))
        assert not first(1, None).equals(first(2, None))

    def test_new_labels_leave_the_shared_steps(self, iris, tmp_path):
        X, y = iris
        folds = [(np.arange(0, 150, 2), np.arange(1, 150, 2))]
        pipe = make_pipeline(CountingPCA(2), RecordingClassifier())
        self.run((X, y), str(tmp_path), [1.0], pipe, cv=folds)
        more = y.copy()
        # Row 10 is in the training set and had no label.
        assert y[10] == -1
        more[10] = 0
        _, counts = self.run((X, more), str(tmp_path), [1.0], pipe, cv=folds)
        assert counts == {"classifier": 1}

    def test_interrupted_study_goes_on(self, iris, tmp_path, monkeypatch):
        original = RecordingClassifier.fit

        def fit(self, X, y, sample_weight=None):
            if len(calls) == 5:
                raise KeyboardInterrupt
            return original(self, X, y, sample_weight)

        monkeypatch.setattr(RecordingClassifier, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            self.run(iris, str(tmp_path), [0.1, 1.0])
        # One fold's embedding is two calls.
        assert len(calls) == 5
        monkeypatch.setattr(RecordingClassifier, "fit", original)
        results, counts = self.run(iris, str(tmp_path), [0.1, 1.0])
        assert counts == {"fit": 1, "transform": 1, "a": 3, "b": 6}
        pd.testing.assert_frame_equal(scores(results), scores(self.run(iris, None, [0.1, 1.0])[0]))

    def test_failures_are_not_kept(self, iris, tmp_path, monkeypatch):
        estimators = {"a": RecordingClassifier("a"), "b": RecordingClassifier("b")}
        original = RecordingClassifier.fit

        def fit(self, X, y, sample_weight=None):
            if self.kind == "b":
                raise RuntimeError("out of luck")
            return original(self, X, y, sample_weight)

        monkeypatch.setattr(RecordingClassifier, "fit", fit)
        with pytest.warns(FitFailedWarning):
            self.run(iris, str(tmp_path), [1.0], estimators)
        monkeypatch.setattr(RecordingClassifier, "fit", original)
        results, counts = self.run(iris, str(tmp_path), [1.0], estimators)
        assert counts == {"b": 2}
        assert results["score"].notna().all()

    def test_returned_estimators_of_a_second_run(self, iris, tmp_path):
        X, y = iris
        pipe = make_pipeline(CountingPCA(2), logistic())
        for _ in range(2):
            results, counts = self.run(iris, str(tmp_path), [1.0], pipe, return_estimator=True)
            fitted = results["fitted_estimator"][0]
            assert fitted.score(X[y >= 0], y[y >= 0]) > 0.9
        assert not counts

    def test_what_cannot_be_pickled(self, iris, tmp_path):
        pipe = make_pipeline(FunctionTransformer(lambda X: X), GaussianNB())
        with pytest.raises(
            ValueError, match=r"memory needs estimators that can be pickled, but estimators\['x'\] holds"
        ):
            self.run(iris, str(tmp_path), [1.0], {"x": pipe})


class TestScoring:
    def test_several_metrics(self, iris):
        X, y = iris
        options = {"fractions": [0.5], "cv": 2, "random_state": 0}
        for scoring in (
            ["accuracy", "f1_macro"],
            {"accuracy": "accuracy", "f1_macro": "f1_macro"},
            lambda e, X, y: {"accuracy": e.score(X, y), "f1_macro": 0.0},
        ):
            results = label_fraction_curve(GaussianNB(), X, y, scoring=scoring, **options)
            assert list(results)[5:7] == ["accuracy", "f1_macro"]
            single = label_fraction_curve(GaussianNB(), X, y, **options)
            np.testing.assert_array_equal(results["accuracy"], single["score"])

    def test_name_of_another_column(self, iris):
        with pytest.raises(ValueError, match="metric 'fold'"):
            label_fraction_curve(GaussianNB(), *iris, fractions=[1.0], cv=2, scoring={"fold": "accuracy"})

    def test_no_number(self, iris):
        with pytest.raises(ValueError, match="scoring must return a number, found 'good'"):
            label_fraction_curve(
                GaussianNB(), *iris, fractions=[1.0], cv=2, scoring=lambda estimator, X, y: "good"
            )


class Fussy(GaussianNB):
    """Fails with fewer than 20 labels."""

    def fit(self, X, y):
        if len(y) < 20:
            raise RuntimeError("too few")
        return super().fit(X, y)


class TestFailures:
    def test_scores_of_failed_fits(self, iris):
        for scoring, columns in [(None, ["score"]), (["accuracy", "f1_macro"], ["accuracy", "f1_macro"])]:
            with pytest.warns(
                FitFailedWarning,
                match="2 of 4 fits failed.*\nestimator 'fussy', 2 of 4 fits: RuntimeError: too few$",
            ):
                results = label_fraction_curve(
                    Fussy(), *iris, fractions=[0.1, 1.0], cv=2, scoring=scoring, error_score=-7
                )
            for column in columns:
                assert ((results[column] == -7) == (results["fraction"] == 0.1)).all()

    def test_raise(self, iris):
        with pytest.raises(RuntimeError, match="too few"):
            label_fraction_curve(Fussy(), *iris, fractions=[0.1, 1.0], cv=2, error_score="raise")
        with pytest.raises(TypeError):
            pipe = make_pipeline(FunctionTransformer(len, "nonsense"), GaussianNB())
            label_fraction_curve(
                pipe.set_params(functiontransformer=PCA("x")), *iris, fractions=[1.0], error_score="raise"
            )

    def test_all(self, iris):
        with pytest.raises(ValueError, match="All of the 2 fits failed"):
            label_fraction_curve(Fussy(), *iris, fractions=[0.1], cv=2)

    def test_of_a_shared_step(self, iris):
        estimators = {"bad": make_pipeline(PCA(200), PCA(1), GaussianNB()), "good": GaussianNB()}
        with pytest.warns(FitFailedWarning, match="6 of 12 fits failed.*\nestimator 'bad', 6 of 6") as caught:
            results = label_fraction_curve(estimators, *iris, fractions=[0.2, 1.0], cv=3)
        assert len(caught) == 1 and str(caught[0].message).count("\n") < 3
        assert (results["score"].isna() == (results["estimator"] == "bad")).all()

    def test_of_a_scorer(self, iris):
        def scorer(estimator, X, y):
            if estimator.class_count_.sum() < 20:
                raise RuntimeError("no score")
            return 1.0

        for scoring, column in [(scorer, "score"), ({"mine": scorer, "accuracy": "accuracy"}, "mine")]:
            with pytest.warns(UserWarning, match="Scoring failed.*\nestimator .*, 2 of 4 fits: RuntimeError"):
                results = label_fraction_curve(
                    GaussianNB(), *iris, fractions=[0.1, 1.0], cv=2, scoring=scoring
                )
            assert results[column].isna().tolist() == [True, True, False, False]
        assert results["accuracy"].notna().all()

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"fractions": [0.01]}, ValueError, r"fractions=0.01 draws 1 of 80 labelled.*fractions=0.0375"),
            ({"fractions": [2]}, ValueError, r"fractions=2 draws 2 of 80 labelled.*Pass fractions=3 or"),
            ({"fractions": [81]}, ValueError, r"has 81.*must be in \[1, 80\]"),
            ({"fractions": [1.5]}, ValueError, r"fractions has 1.5 among \[1.5\]. Pass ints only"),
            ({"fractions": [3, 0.5]}, ValueError, r"fractions has 3 among \[3, 0.5\]. Pass ints only"),
            ({"fractions": ["a"]}, TypeError, "fractions must be a number"),
            ({"fractions": []}, ValueError, "at least one"),
            ({"fractions": [0.5, 0.5]}, ValueError, "twice"),
            ({"n_draws": 0}, ValueError, "n_draws must be an int of at least 1, found 0"),
            ({"error_score": "nan"}, ValueError, "error_score must be 'raise' or a number"),
            ({"estimators": {}}, ValueError, "estimators is empty"),
            ({"estimators": GaussianNB}, TypeError, "is the class GaussianNB"),
            (
                {"estimators": ["svm"]},
                ValueError,
                "estimators has 'svm', which names no method. Pass \"imagenet\"",
            ),
            ({"estimators": {1: GaussianNB()}}, TypeError, "names of estimators must be strings"),
            ({"estimators": [("a", GaussianNB()), ("a", GaussianNB())]}, ValueError, "a name twice"),
            ({"estimators": [GaussianNB(), Ridge()]}, ValueError, "mixes classifiers and regressors"),
            ({"y": np.eye(150, 2)}, ValueError, "1d array with one label per row.*Multilabel"),
            ({"y": np.zeros(3)}, ValueError, "X has 150 rows and y has 3"),
            ({"y": np.full(150, -1)}, ValueError, "y has no labelled row"),
            ({"params": {"clf__sample_weight": 1}}, ValueError, r"params has \['clf__sample_weight'\]"),
            ({"cv": [(np.arange(0, 150, 5), np.arange(1, 150, 5))]}, ValueError, "No training row of fold 0"),
            (
                {"estimators": make_pipeline(SelectKBest(), LabelSpreading())},
                ValueError,
                "'labelspreading' learns from unlabelled rows, but 'selectkbest'",
            ),
        ],
    )
    def test_wrong_parameters(self, iris, change, error, message):
        options = {"estimators": Fussy(), "X": iris[0], "y": iris[1], "fractions": [1.0], "cv": 3}
        with pytest.raises(error, match=message):
            label_fraction_curve(**{**options, **change})

    def test_class_minus_one_and_its_mark(self):
        y = np.tile([-1, 1], 30)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y holds only -1 and 1")
            with pytest.raises(ValueError, match="here -1 marks unlabelled rows"):
                label_fraction_curve(
                    LabelSpreading(), np.zeros((60, 1)), y, fractions=[0.5], cv=2, error_score="raise"
                )


class TestMetadata:
    weight = np.linspace(1, 2, 150)

    def check_weights(self, results):
        for (*_, received), rows in zip(calls, results["train_indices"], strict=True):
            np.testing.assert_array_equal(received, self.weight[rows])

    def test_without_routing(self, iris):
        options = {"fractions": [0.2], "cv": 3, "return_indices": True}
        for clf, name in [
            (RecordingClassifier(), "sample_weight"),
            (Pipeline([("pca", PCA(2)), ("clf", RecordingClassifier())]), "clf__sample_weight"),
        ]:
            calls.clear()
            self.check_weights(label_fraction_curve(clf, *iris, params={name: self.weight}, **options))

    def test_of_shared_steps(self, iris):
        class Scaler(StandardScaler):
            def fit(self, X, y=None, sample_weight=None):
                calls.append((y, sample_weight))
                return super().fit(X, None, sample_weight)

        pipes = {
            "weighted": Pipeline([("scale", Scaler()), ("clf", GaussianNB())]),
            "plain": Pipeline([("other", Scaler()), ("clf", GaussianNB())]),
        }
        label_fraction_curve(
            pipes, *iris, fractions=[1.0], cv=2, params={"scale__sample_weight": self.weight}
        )
        # Steps are not shared where only one of them is received weights.
        assert sorted(len(received) for _, received in calls if received is not None) == [90, 90]
        assert sum(received is None for _, received in calls) == 2

    def test_with_routing(self, iris):
        X, y = iris
        with sklearn.config_context(enable_metadata_routing=True):
            clf = RecordingClassifier().set_fit_request(sample_weight=True)
            clf.set_score_request(sample_weight=False)
            scaler = StandardScaler().set_fit_request(sample_weight=True)
            pipe = make_pipeline(scaler, clf)
            scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
            groups = np.arange(150) // 2 % 10
            results = label_fraction_curve(
                {"pipe": pipe},
                X,
                y,
                fractions=[0.2, 1.0],
                cv=GroupKFold(5),
                scoring=scorer,
                params={"sample_weight": self.weight, "groups": groups},
                return_indices=True,
                return_estimator=True,
            )
        ordered = results.sort_values(["fold", "fraction"])
        self.check_weights(ordered)
        for row in results.itertuples():
            assert not set(groups[row.train_indices]) & set(groups[row.test_indices])
            mean = row.fitted_estimator[0].mean_
            train = np.flatnonzero(~np.isin(groups, groups[row.test_indices]))
            np.testing.assert_allclose(mean, np.average(X[train], axis=0, weights=self.weight[train]))
            predicted = row.fitted_estimator.predict(X[row.test_indices])
            assert row.score == pytest.approx(
                accuracy_score(y[row.test_indices], predicted, sample_weight=self.weight[row.test_indices])
            )

    def test_routing_refuses_what_nobody_asked_for(self, iris):
        with sklearn.config_context(enable_metadata_routing=True):
            for params, error in [({"sample_weight": self.weight}, ValueError), ({"nonsense": 1}, TypeError)]:
                with pytest.raises(error, match="label_fraction_curve"):
                    label_fraction_curve(GaussianNB(), *iris, fractions=[1.0], cv=2, params=params)
            with pytest.raises(ValueError, match="pass params="):
                label_fraction_curve(GaussianNB(), *iris, fractions=[1.0], cv=2, groups=np.zeros(150))

    def test_groups_without_routing(self, iris):
        groups = np.arange(150) // 2 % 10
        results = label_fraction_curve(
            GaussianNB(), *iris, fractions=[1.0], cv=GroupKFold(5), groups=groups, return_indices=True
        )
        for row in results.itertuples():
            assert not set(groups[row.train_indices]) & set(groups[row.test_indices])


def test_images_and_an_encoder():
    from sklearn_simclr import SimCLRTransformer

    digits = load_digits()
    X, y = digits.images[:90], digits.target[:90].copy()
    y[y == 9] = -1
    pipe = make_pipeline(SimCLRTransformer(max_epochs=1, random_state=0), logistic())
    results = label_fraction_curve(pipe, X, y, fractions=[0.3, 1.0], cv=2, n_draws=2, random_state=0)
    assert results["score"].between(0, 1).all()
    assert results["shared_time"].nunique() == 2


def test_an_encoder_that_a_vote_would_train_on_few_rows_warns():
    from sklearn.ensemble import VotingClassifier

    from sklearn_simclr import SimCLRTransformer

    X, y = load_digits().images[:60], load_digits().target[:60] % 2
    encoder = make_pipeline(SimCLRTransformer(max_epochs=1, random_state=0).fit(X), StandardScaler())

    def vote(features):
        return VotingClassifier([("member", make_pipeline(features, LogisticRegression()))], voting="soft")

    with pytest.warns(UserWarning, match=r"'vote'\] has a SimCLRTransformer inside a VotingClassifier"):
        label_fraction_curve({"vote": vote(encoder)}, X, y, fractions=[20], cv=2)
    untrained = make_pipeline(SimCLRTransformer(max_epochs=0, random_state=0), StandardScaler())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = {"frozen": vote(FrozenEstimator(encoder.fit(X))), "untrained": vote(untrained)}
        label_fraction_curve(named, X, y, fractions=[20], cv=2)
