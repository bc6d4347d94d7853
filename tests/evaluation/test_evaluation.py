"""Linear evaluation and the weighted nearest-neighbour vote."""

import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import PredefinedSplit, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from sklearn_simclr.evaluation._validation import validation_splits
from sklearn_simclr.evaluation.linear_evaluation import LinearEvaluationClassifier
from sklearn_simclr.evaluation.weighted_knn import WeightedKNNClassifier
from sklearn_simclr.training.logistic import LogisticPath


def features(n, d, n_classes, seed=0, noise=0.5, dtype=np.float64):
    """Features like those of a ReLU network: non-negative, correlated, of classes that overlap."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    centers = rng.normal(size=(n_classes, d // 2))
    mixing = rng.normal(size=(d // 2, d)) * np.arange(1, d // 2 + 1)[:, None] ** -0.7
    latent = 0.5 * centers[y] + rng.normal(size=(n, d // 2))
    X = np.maximum(latent @ mixing + noise * rng.normal(size=(n, d)), 0)
    return X.astype(dtype), y


def objective(coef, intercept, X, y, penalty, weight=None):
    """The documented objective and the gradient for (coef, intercept), in float64 and without any care."""
    weight = np.ones(len(X)) if weight is None else weight
    X = X.astype(np.float64)
    Z = X @ coef.T + intercept
    P = np.exp(Z - logsumexp(Z, axis=1, keepdims=True))
    value = weight @ (logsumexp(Z, axis=1) - Z[np.arange(len(X)), y]) + penalty / 2 * (coef**2).sum()
    R = P.copy()
    R[np.arange(len(X)), y] -= 1
    R *= weight[:, None]
    return value, np.column_stack([R.T @ X + penalty * coef, R.sum(0)])


def scipy_optimum(X, y, penalty, weight=None):
    K, d = y.max() + 1, X.shape[1]

    def f(theta):
        theta = theta.reshape(K, d + 1)
        value, gradient = objective(theta[:, :-1], theta[:, -1], X, y, penalty, weight)
        return value, gradient.ravel()

    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-8, "maxcor": 30}
    theta = minimize(f, np.zeros(K * (d + 1)), jac=True, method="L-BFGS-B", options=options).x.reshape(
        K, d + 1
    )
    return theta[:, :-1], theta[:, -1]


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_the_penalties_are_the_papers():
    X, y = features(60, 5, 3)
    probe = LinearEvaluationClassifier(random_state=0).fit(X, y)
    assert np.array_equal(probe.penalties_, np.logspace(-6, 5, 45))
    assert probe.validation_scores_.shape == (45,)
    best = probe.penalties_[probe.validation_scores_ == probe.validation_scores_.max()]
    assert probe.penalty_ == best.max()
    assert probe.C_ * probe.penalty_ == pytest.approx(1)


@pytest.mark.parametrize("penalty", [1e5, 1e2, 1.0, 1e-3])
@pytest.mark.parametrize("shape", [(400, 30, 4), (40, 60, 3)])
def test_the_fit_is_an_independent_optimum(shape, penalty):
    X, y = features(*shape)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(X))
    probe = LinearEvaluationClassifier(penalties=[penalty], random_state=0, tol=1e-8)
    probe.fit(X, y, sample_weight=weight)
    coef, intercept = scipy_optimum(X, y, penalty, weight)
    assert relative_error(probe.coef_, coef) < 1e-3
    found, gradient = objective(probe.coef_, probe.intercept_, X, y, penalty, weight)
    expected, _ = objective(coef, intercept, X, y, penalty, weight)
    assert found <= expected * (1 + 1e-9)
    _, at_zero = objective(0 * coef, 0 * intercept, X, y, penalty, weight)
    assert np.linalg.norm(gradient) < 1e-4 * np.linalg.norm(at_zero)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("penalty", [100.0, 1.0, 0.01])
def test_the_fit_is_scikit_learns(penalty, n_classes, dtype):
    X, y = features(600, 40, n_classes, dtype=dtype)
    X_test, y_test = X[400:], y[400:]
    X, y = X[:400], y[:400]
    probe = LinearEvaluationClassifier(penalties=[penalty], random_state=0).fit(X, y)
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=100_000).fit(X.astype(np.float64), y)
    assert probe.coef_.shape == theirs.coef_.shape and probe.coef_.dtype == dtype
    assert relative_error(probe.coef_, theirs.coef_) < 2e-3
    np.testing.assert_allclose(probe.predict_proba(X_test), theirs.predict_proba(X_test), atol=2e-3)
    assert abs(probe.score(X_test, y_test) - theirs.score(X_test, y_test)) <= 0.005


@pytest.mark.parametrize("standardize", [False, True])
def test_every_step_of_the_path_is_an_optimum(standardize):
    X, y = features(500, 30, 4, dtype=np.float32)
    rows = torch.from_numpy(X)
    path = LogisticPath(
        rows,
        torch.from_numpy(y),
        torch.ones(len(X)).double(),
        4,
        standardize=standardize,
        max_iter=1000,
        tol=1e-7,
    )
    scale = X.astype(np.float64).std(0) if standardize else np.ones(X.shape[1])
    for penalty in np.logspace(5, -3, 17):
        assert path.fit(penalty)
        coef, intercept = (part.numpy() for part in path.coefficients())
        value, _ = objective(coef * scale, intercept, X / scale, y, penalty)
        expected, expected_intercept = scipy_optimum(X / scale, y, penalty)
        assert value <= objective(expected, expected_intercept, X / scale, y, penalty)[0] * (1 + 1e-5)
        assert relative_error(coef * scale, expected) < 5e-3


def test_the_path_takes_few_evaluations():
    # 45 fits one after the other, each from its neighbour: scikit-learn's single fit at a weak penalty takes
    # hundreds of evaluations on such features.
    X, y = features(2000, 64, 5, dtype=np.float32)
    rows, codes, weights = torch.from_numpy(X), torch.from_numpy(y), torch.ones(len(X)).double()
    path = LogisticPath(rows, codes, weights, 5, standardize=False, max_iter=1000, tol=1e-5)
    assert all(path.fit(penalty) for penalty in np.logspace(5, -6, 45))
    assert path.n_evaluations < 45 * 10


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-5])
def test_separable_classes_and_hardly_any_penalty_reach_the_optimum(penalty):
    # Rows that were held out have large losses at the optimum of the others: no place to begin the final fit.
    X, y = features(500, 100, 40, dtype=np.float32)
    probe = LinearEvaluationClassifier(penalties=[penalty], random_state=0).fit(X, y)
    theirs = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=100_000).fit(X.astype(np.float64), y)
    found, _ = objective(probe.coef_.astype(np.float64), probe.intercept_.astype(np.float64), X, y, penalty)
    expected, _ = objective(theirs.coef_, theirs.intercept_, X, y, penalty)
    assert found <= expected * (1 + 1e-4)
    fresh, _ = features(500, 100, 40, seed=1)
    assert np.mean(probe.predict(fresh) == theirs.predict(fresh)) > 0.99


def test_small_losses_keep_their_digits():
    # Two far classes and hardly any penalty: a loss of 1e-7 a row still goes to its optimum.
    X = np.array([[-1.0], [1.0]] * 50)
    y = np.array([0, 1] * 50)
    for dtype in (np.float32, np.float64):
        probe = LinearEvaluationClassifier(penalties=[1e-6], validation=[0, 1]).fit(X.astype(dtype), y)
        # Stationarity of 100 log(1 + exp(-w)) + 1e-6 w^2 / 2.
        w = float(probe.coef_[0, 0])
        assert 100 / (1 + np.exp(w)) == pytest.approx(1e-6 * w, rel=1e-2)


def test_scores_are_those_of_fits_on_the_training_rows_alone():
    X, y = features(300, 20, 3)
    held_out = np.arange(200, 300)
    penalties = np.logspace(-2, 4, 7)
    probe = LinearEvaluationClassifier(penalties=penalties, validation=held_out, tol=1e-8).fit(X, y)
    expected = [
        LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000)
        .fit(X[:200], y[:200])
        .score(X[200:], y[200:])
        for penalty in penalties
    ]
    np.testing.assert_allclose(probe.validation_scores_, expected, atol=0.0101)
    refitted = LogisticRegression(C=probe.C_, tol=1e-10, max_iter=10_000).fit(X, y)
    assert relative_error(probe.coef_, refitted.coef_) < 1e-3


def test_ways_to_name_the_same_rows_agree():
    X, y = features(120, 8, 3)
    mask = np.zeros(120, dtype=bool)
    mask[::4] = True
    ways = [
        mask,
        np.flatnonzero(mask),
        np.flatnonzero(mask).tolist(),
        PredefinedSplit(np.where(mask, 0, -1)),
        [(np.flatnonzero(~mask), np.flatnonzero(mask))],
    ]
    fits = [LinearEvaluationClassifier(validation=way).fit(X, y) for way in ways]
    for fit in fits[1:]:
        assert np.array_equal(fit.validation_scores_, fits[0].validation_scores_)
        assert fit.penalty_ == fits[0].penalty_


def test_folds_are_averaged():
    X, y = features(150, 8, 3)
    penalties = [10.0, 0.1]
    folds = StratifiedKFold(3, shuffle=True, random_state=5)
    whole = LinearEvaluationClassifier(penalties=penalties, validation=folds).fit(X, y)
    single = [
        LinearEvaluationClassifier(penalties=penalties, validation=[pair]).fit(X, y).validation_scores_
        for pair in folds.split(X, y)
    ]
    np.testing.assert_allclose(whole.validation_scores_, np.mean(single, axis=0))
    seeded = LinearEvaluationClassifier(penalties=penalties, validation=3, random_state=5).fit(X, y)
    np.testing.assert_allclose(seeded.validation_scores_, whole.validation_scores_)


def held_out_rows(X, y, weights=None, **params):
    """The rows that are held out, read off which row's label decides a score."""
    probe = LinearEvaluationClassifier(**params)
    weights = np.ones(len(X)) if weights is None else weights
    codes = np.unique(y, return_inverse=True)[1]
    (pair,) = validation_splits(probe.validation, np.asarray(X), codes, weights, probe.random_state)
    assert not set(pair[1]) & set(np.flatnonzero(pair[0]))
    return pair[1]


def test_the_drawn_split_is_stratified_and_seeded():
    X, _ = features(1000, 4, 2)
    y = np.repeat(["a", "b", "c"], [700, 250, 50])
    held_out = held_out_rows(X, y, validation=0.1, random_state=0)
    assert np.unique(y[held_out], return_counts=True)[1].tolist() == [70, 25, 5]
    assert np.array_equal(held_out, held_out_rows(X, y, validation=0.1, random_state=0))
    assert not np.array_equal(held_out, held_out_rows(X, y, validation=0.1, random_state=1))


def test_the_drawn_split_does_not_depend_on_the_order_and_keeps_equal_rows_together():
    X, y = features(200, 4, 3)
    order = np.random.default_rng(0).permutation(200)
    rows = held_out_rows(X, y, random_state=0)
    assert set(order[held_out_rows(X[order], y[order], random_state=0)]) == set(rows)
    twice = held_out_rows(np.tile(X, (2, 1)), np.tile(y, 2), random_state=0)
    assert set(twice) == set(rows) | set(rows + 200)


def test_standardize_undoes_units_and_equals_scaling_by_hand():
    X, y = features(300, 12, 3)
    units = 10.0 ** np.arange(-6, 6)
    held_out = np.arange(0, 300, 5)
    penalties = np.logspace(-1, 3, 5)
    probe = LinearEvaluationClassifier(penalties=penalties, standardize=True, validation=held_out, tol=1e-9)
    plain, scaled = clone(probe).fit(X, y), clone(probe).fit(X * units + 3 * units, y)
    np.testing.assert_allclose(scaled.coef_ * units, plain.coef_, rtol=1e-4, atol=1e-6)
    by_hand = LogisticRegression(C=plain.C_, tol=1e-10, max_iter=10_000).fit(
        StandardScaler().fit_transform(X), y
    )
    assert relative_error(plain.coef_ * X.std(0), by_hand.coef_) < 1e-4
    constant = np.column_stack([X, np.full(300, 7.0)])
    assert clone(probe).fit(constant, y).coef_[:, -1] == pytest.approx(0, abs=1e-9)


def test_without_standardize_a_common_scale_is_a_scale_of_the_penalty():
    X, y = features(300, 12, 3)
    held_out = np.arange(0, 300, 5)
    plain = LinearEvaluationClassifier(penalties=[1.0], validation=held_out, tol=1e-9).fit(X, y)
    scaled = LinearEvaluationClassifier(penalties=[1e6], validation=held_out, tol=1e-9).fit(1e3 * X, y)
    np.testing.assert_allclose(scaled.coef_ * 1e3, plain.coef_, rtol=1e-4, atol=1e-6)


def test_far_offsets_do_not_slow_the_fit():
    X, y = features(300, 12, 3)
    held_out = np.arange(0, 300, 5)
    near = LinearEvaluationClassifier(penalties=[1.0], validation=held_out, tol=1e-8).fit(X, y)
    far = LinearEvaluationClassifier(penalties=[1.0], validation=held_out, tol=1e-8).fit(X + 1e3, y)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-3, atol=1e-5)
    assert far.n_iter_ <= near.n_iter_ + 5


def test_weights_are_repetitions():
    X, y = features(150, 10, 3)
    weight = np.random.default_rng(0).integers(0, 4, 150)
    probe = LinearEvaluationClassifier(random_state=0, tol=1e-8)
    weighted = clone(probe).fit(X, y, sample_weight=weight)
    repeated = clone(probe).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.validation_scores_, repeated.validation_scores_, atol=1e-9)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-4, atol=1e-6)


def test_class_weights_are_scikit_learns():
    X, y = features(400, 10, 3)
    X, y = X[(y != 2) | (np.arange(400) % 5 == 0)], y[(y != 2) | (np.arange(400) % 5 == 0)]
    for class_weight in ("balanced", {0: 1.0, 1: 0.5, 2: 3.0}):
        probe = LinearEvaluationClassifier(penalties=[2.0], class_weight=class_weight, random_state=0).fit(
            X, y
        )
        theirs = LogisticRegression(C=0.5, class_weight=class_weight, tol=1e-10, max_iter=10_000).fit(X, y)
        assert relative_error(probe.coef_, theirs.coef_) < 1e-3


def test_balanced_scoring_is_mean_per_class_accuracy():
    X, y = features(400, 10, 3, noise=2.0)
    kept = (y != 2) | (np.arange(400) % 8 == 0)
    X, y = X[kept], y[kept]
    held_out = np.arange(0, len(X), 3)
    training = np.setdiff1d(np.arange(len(X)), held_out)
    probe = LinearEvaluationClassifier(
        penalties=[50.0], scoring="balanced_accuracy", validation=held_out, tol=1e-8
    )
    score = probe.fit(X, y).validation_scores_[0]
    theirs = LogisticRegression(C=1 / 50, tol=1e-10, max_iter=10_000).fit(X[training], y[training])
    assert score == pytest.approx(balanced_accuracy_score(y[held_out], theirs.predict(X[held_out])))


def test_a_class_without_training_rows_is_not_predicted_in_that_split():
    X, y = features(90, 6, 3)
    held_out = np.flatnonzero(y == 2)
    probe = LinearEvaluationClassifier(penalties=[0.1], validation=held_out).fit(X, y)
    assert not probe.validation_scores_.any()
    assert probe.classes_.tolist() == [0, 1, 2]
    assert (probe.predict(X) == 2).any()


def test_labels_may_be_strings_and_numbers_in_any_order():
    X, y = features(200, 8, 3)
    names = np.array(["zebra", "ant", "mole"])
    numeric = LinearEvaluationClassifier(random_state=0).fit(X, y)
    named = LinearEvaluationClassifier(random_state=0).fit(X, names[y])
    assert named.classes_.tolist() == ["ant", "mole", "zebra"]
    assert np.array_equal(named.predict(X), names[numeric.predict(X)])


def test_nothing_is_written_to_X_and_the_estimator_pickles():
    X, y = features(200, 8, 3, dtype=np.float32)
    X.setflags(write=False)
    probe = LinearEvaluationClassifier(random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(probe))
    assert np.array_equal(again.predict_proba(X), probe.predict_proba(X))
    np.testing.assert_allclose(probe.predict_proba(X).sum(1), 1, rtol=1e-5)


def test_too_few_iterations_are_told():
    X, y = features(300, 20, 4)
    with pytest.warns(ConvergenceWarning, match="max_iter=1 "):
        LinearEvaluationClassifier(max_iter=1, random_state=0).fit(X, y)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"penalties": [1.0, 0.0]}, r"penalties\[1\] is 0"),
        ({"penalties": []}, "penalties has shape"),
        ({"validation": None}, "validation is None"),
        ({"validation": [0, 99]}, "validation names row 99"),
        ({"validation": np.ones(3, dtype=bool)}, "mask of 3 entries for 30 rows"),
        ({"validation": np.zeros(30, dtype=bool)}, "no validation row"),
        ({"validation": np.arange(29)}, "leaves 1 class for training"),
        ({"class_weight": {0: 0.0, 1: 1.0}}, "class_weight of class"),
        ({"device": "nowhere"}, "device='nowhere'"),
    ],
)
def test_errors_of_linear_evaluation_name_the_parameter(params, message):
    X, y = features(30, 4, 2)
    with pytest.raises(ValueError, match=message):
        LinearEvaluationClassifier(**params).fit(X, y)


@pytest.mark.parametrize("params", [{"validation": 1.5}, {"scoring": "f1"}, {"tol": 0}, {"standardize": 2}])
def test_parameters_out_of_range_are_refused(params):
    X, y = features(30, 4, 2)
    with pytest.raises(ValueError, match=next(iter(params))):
        LinearEvaluationClassifier(**params).fit(X, y)


@pytest.mark.parametrize(
    "weight, message",
    [
        (np.ones(3), "sample_weight has shape"),
        (-np.ones(30), r"sample_weight\[0\] is -1"),
        (np.zeros(30), "zero"),
    ],
)
def test_errors_of_weights(weight, message):
    X, y = features(30, 4, 2)
    with pytest.raises(ValueError, match=message):
        LinearEvaluationClassifier().fit(X, y, sample_weight=weight)


def naive_knn(X, y, queries, k, temperature):
    """Shares of the votes by loops in float64; equal similarities in the order of the rows."""
    unit = [row / (np.linalg.norm(row) or 1) for row in X.astype(np.float64)]
    shares = np.zeros((len(queries), y.max() + 1))
    for i, query in enumerate(queries.astype(np.float64)):
        query = query / (np.linalg.norm(query) or 1)
        similarity = [float(query @ row) for row in unit]
        for j in sorted(range(len(X)), key=lambda j: -similarity[j])[:k]:
            shares[i, y[j]] += np.exp(similarity[j] / temperature)
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-9), (np.float32, 1e-3)])
@pytest.mark.parametrize("k, temperature", [(1, 0.1), (20, 0.07), (200, 0.1), (200, 0.01)])
def test_knn_is_its_definition(k, temperature, dtype, rtol):
    X, y = features(300, 16, 4, dtype=dtype)
    queries, _ = features(50, 16, 4, seed=1, dtype=dtype)
    knn = WeightedKNNClassifier(n_neighbors=k, temperature=temperature).fit(X, y)
    expected = naive_knn(X, y, queries, k, temperature)
    np.testing.assert_allclose(knn.predict_proba(queries), expected, rtol=rtol, atol=1e-6)
    assert np.array_equal(knn.predict(queries), knn.classes_[knn.predict_proba(queries).argmax(1)])


def test_knn_in_blocks_is_knn_at_once(monkeypatch):
    X, y = features(120, 8, 3)
    whole = WeightedKNNClassifier().fit(X, y).predict_proba(X)
    monkeypatch.setattr("sklearn_simclr.evaluation.weighted_knn._BLOCK_ENTRIES", 7 * 120)
    np.testing.assert_allclose(WeightedKNNClassifier().fit(X, y).predict_proba(X), whole, rtol=1e-12)


def test_knn_uses_all_rows_if_there_are_fewer_than_k():
    X, y = features(30, 8, 3)
    many, all_rows = WeightedKNNClassifier().fit(X, y), WeightedKNNClassifier(n_neighbors=30).fit(X, y)
    assert many.n_neighbors_ == 30 and many.n_neighbors == 200
    assert np.array_equal(many.predict_proba(X), all_rows.predict_proba(X))


def test_knn_ties_go_to_the_first_rows_and_the_first_class():
    # Whole numbers of exact length: similarities are 0.6 four times, and 0.
    X = np.array([[0, 5], [3, 4], [3, 4], [3, 4], [3, 4]], dtype=float)
    y = np.array(["far", "b", "b", "a", "a"])
    query = np.array([[1.0, 0.0]])
    three = WeightedKNNClassifier(n_neighbors=3).fit(X, y)
    np.testing.assert_allclose(three.predict_proba(query), [[1 / 3, 2 / 3, 0]])
    assert three.predict(query) == ["b"]
    assert WeightedKNNClassifier(n_neighbors=4).fit(X, y).predict(query) == ["a"]
    backwards = WeightedKNNClassifier(n_neighbors=3).fit(X[::-1], y[::-1])
    assert backwards.predict(query) == ["a"]


def test_knn_knows_directions_only():
    X, y = features(200, 8, 3)
    queries, _ = features(40, 8, 3, seed=1)
    lengths = 10.0 ** np.random.default_rng(0).uniform(-150, 150, (200, 1))
    plain, scaled = WeightedKNNClassifier().fit(X, y), WeightedKNNClassifier().fit(X * lengths, y)
    np.testing.assert_allclose(scaled.predict_proba(queries), plain.predict_proba(1e9 * queries), rtol=1e-9)


def test_knn_with_rows_of_zeros_and_tiny_temperatures_stays_finite():
    X, y = features(50, 8, 3)
    X[0] = 0
    knn = WeightedKNNClassifier(temperature=1e-4).fit(X, y)
    assert np.isfinite(knn.predict_proba(X)).all()
    # A query without a direction is equally near to all rows: the classes' frequencies.
    np.testing.assert_allclose(knn.predict_proba(X[:1])[0], np.bincount(y) / 50)


def test_knn_pickles_and_refuses_to_predict_unfitted():
    X, y = features(60, 8, 3, dtype=np.float32)
    knn = WeightedKNNClassifier().fit(X, y)
    assert np.array_equal(pickle.loads(pickle.dumps(knn)).predict_proba(X), knn.predict_proba(X))
    with pytest.raises(NotFittedError):
        WeightedKNNClassifier().predict(X)
    with pytest.raises(ValueError, match="temperature"):
        WeightedKNNClassifier(temperature=0).fit(X, y)


@pytest.mark.gpu
def test_gpu_and_cpu_agree():
    X, y = features(500, 32, 5, dtype=np.float32)
    for make in (
        lambda device: LinearEvaluationClassifier(random_state=0, device=device),
        lambda device: WeightedKNNClassifier(device=device),
    ):
        there, here = make("cuda").fit(X, y), make("cpu").fit(X, y)
        np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=5e-3)
