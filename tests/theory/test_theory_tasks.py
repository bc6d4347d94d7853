"""Classification tasks and the losses on them against enumeration, and against scikit-learn."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sklearn_simclr.theory import margin_loss, mean_classifier, supervised_loss, task_distribution

PRIOR = np.array([0.4, 0.3, 0.2, 0.1])


def points(seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), [12, 9, 6, 3])
    return rng.normal(size=(4, 3))[y] + spread * rng.normal(size=(30, 3)), y


def enumerate_tasks(prior, k, tasks):
    """Return {task: (probability, weight)} from all the draws of k + 1 classes."""
    firsts = {}
    for drawn in itertools.product(range(len(prior)), repeat=k + 1):
        same = sum(c == drawn[0] for c in drawn[1:])
        fits = {
            "distinct": len(set(drawn)) == k + 1,
            "collision_free": same == 0,
            "any": same < k,
        }[tasks]
        if fits:
            counts = firsts.setdefault(tuple(sorted(set(drawn))), Counter())
            counts[drawn[0]] += math.prod(prior[c] for c in drawn)
    total = sum(sum(c.values()) for c in firsts.values())
    found = {}
    for task, counts in firsts.items():
        shares = [counts[c] / sum(counts.values()) for c in task]
        weight = {"distinct": 1 / len(task), "collision_free": min(shares), "any": max(shares)}[tasks]
        found[task] = sum(counts.values()) / total, weight * len(task)
    return found


@pytest.mark.parametrize("tasks", ["distinct", "collision_free", "any"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_tasks_are_those_of_all_draws(tasks, k):
    expected = enumerate_tasks(PRIOR, k, tasks)
    found = {task: (p, w) for task, p, w in task_distribution(PRIOR, k, tasks)}
    assert found.keys() == expected.keys()
    for task in expected:
        assert found[task] == pytest.approx(expected[task], rel=1e-9)


@pytest.mark.parametrize("tasks", ["collision_free", "any"])
def test_a_uniform_prior_gives_all_tasks_weight_one(tasks):
    found = task_distribution(np.full(6, 1 / 6), 4, tasks)
    assert [w for *_, w in found] == pytest.approx([1.0] * len(found), rel=1e-9)
    assert sum(p for _, p, _ in found) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "zero_one"])
@pytest.mark.parametrize("tasks, k", [("distinct", 1), ("distinct", 2), ("collision_free", 3), ("any", 2)])
def test_the_mean_classifiers_loss_is_a_loop(loss, tasks, k):
    H, y = points()
    means = [H[y == c].mean(axis=0) for c in range(4)]
    expected = 0.0
    for task, (probability, weight) in enumerate_tasks(PRIOR, k, tasks).items():
        losses = []
        for c in task:
            rows = H[y == c]
            losses.append(
                np.mean(
                    [margin_loss([h @ (means[c] - means[o]) for o in task if o != c], loss) for h in rows]
                )
            )
        expected += probability * weight * np.mean(losses)
    found = supervised_loss(H, y, n_negatives=k, loss=loss, tasks=tasks, class_prior=PRIOR)
    assert found == pytest.approx(expected, rel=1e-10)


def test_gamma_widens_the_margin():
    H, y = points()
    assert supervised_loss(H, y, loss="hinge", gamma=2.0) == pytest.approx(
        supervised_loss(H / math.sqrt(2), y, loss="hinge"), rel=1e-12
    )


@pytest.mark.parametrize("tasks", ["distinct", "collision_free", "any"])
def test_a_sample_of_tasks_estimates_the_average(tasks):
    H, y = points()
    options = {"n_negatives": 2, "tasks": tasks, "class_prior": PRIOR}
    exact = supervised_loss(H, y, **options)
    sampled = supervised_loss(H, y, n_tasks=3000, random_state=0, **options)
    assert sampled == pytest.approx(exact, rel=0.03)
    assert sampled == supervised_loss(H, y, n_tasks=3000, random_state=0, **options)


def test_means_of_other_images_can_be_the_classifier():
    H, y = points()
    W, classes = mean_classifier(H, y)
    assert classes.tolist() == [0, 1, 2, 3]
    assert supervised_loss(H, y, classifier=W) == supervised_loss(H, y)
    assert supervised_loss(H, y, classifier=0 * W) == 1.0


def test_the_best_logistic_classifier_is_scikit_learns():
    H, y = points(spread=2.0)
    pair = y < 2
    model = LogisticRegression(C=1e10, fit_intercept=False, tol=1e-10, max_iter=5000, class_weight="balanced")
    scores = model.fit(H[pair], y[pair]).decision_function(H[pair]) * np.where(y[pair] == 1, 1, -1)
    expected = np.mean([margin_loss(scores[y[pair] == c][:, None]).mean() for c in (0, 1)])
    found = supervised_loss(H[pair], y[pair], classifier="best")
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_best_hinge_classifier_beats_subgradient_steps_and_the_mean():
    H, y = points(spread=2.0)
    found = supervised_loss(H, y, classifier="best", loss="hinge", n_negatives=3)
    # Independent: subgradient descent from several starts never gets below, and comes close.
    rng = np.random.default_rng(0)
    weights = 0.25 / np.bincount(y)[y]
    best = math.inf
    for _ in range(3):
        W = rng.normal(size=(4, 3))
        for step in range(4000):
            scores = H @ W.T
            rival = np.where(np.eye(4, dtype=bool)[y], -math.inf, scores)
            worst = rival.argmax(axis=1)
            gap = 1 - scores[np.arange(30), y] + rival.max(axis=1)
            best = min(best, weights @ np.maximum(gap, 0))
            active = weights * (gap > 0)
            slope = np.zeros_like(W)
            np.add.at(slope, worst, active[:, None] * H)
            np.add.at(slope, y, -active[:, None] * H)
            W -= 2.0 / math.sqrt(1 + step) * slope
    assert found <= best + 1e-9
    assert found == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_best_classifier_is_at_least_as_good_as_the_mean_classifier(loss, k):
    for seed in range(3):
        H, y = points(seed)
        options = {"loss": loss, "n_negatives": k}
        assert supervised_loss(H, y, classifier="best", **options) <= supervised_loss(H, y, **options) + 1e-9


def test_separable_classes_have_a_best_loss_of_zero():
    H, y = np.eye(3)[[0, 0, 1, 2]], [0, 0, 1, 2]
    assert supervised_loss(H, y, classifier="best", loss="hinge", n_negatives=2) == pytest.approx(0, abs=1e-9)
    assert supervised_loss(H, y, classifier="best", n_negatives=2) < 1e-4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda H, y: supervised_loss(H, y, classifier="svm"), "classifier='svm' is unknown"),
        (lambda H, y: supervised_loss(H, y, classifier="best", loss="zero_one"), "convex"),
        (lambda H, y: supervised_loss(H, y, classifier=np.ones((2, 3))), r"pass \(4, 3\)"),
        (lambda H, y: supervised_loss(H, y, n_negatives=4), "tasks of 5 different classes, but only 4"),
        (lambda H, y: supervised_loss(H, y, n_negatives=4, n_tasks=3), "more classes than"),
        (lambda H, y: supervised_loss(H, y, tasks="all"), "tasks='all' is unknown"),
        (lambda H, y: supervised_loss(H, y, n_tasks=0), "n_tasks=0"),
        (lambda H, y: task_distribution(np.full(100, 0.01), 3), "Pass n_tasks"),
        (lambda H, y: task_distribution([1.0], 1, "collision_free"), "different classes"),
        (lambda H, y: mean_classifier(H, y[:-1]), "H has 30 rows and y has 29"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*points())
