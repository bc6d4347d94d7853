import numpy as np
import pytest
import torch
from helpers import equal, state
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from sklearn_simclr import (
    DistilledClassifier,
    LabelFractionClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr.training import Batch, Plan
from sklearn_simclr.training.classification import ClassificationObjective, Targets


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(n_class=4, return_X_y=True)
    return X, y


@pytest.fixture(scope="module")
def teacher(digits):
    return LogisticRegression(max_iter=2000).fit(digits[0][:150], digits[1][:150])


def distilled(teacher, **params):
    params = {"max_epochs": 3, "random_state": 0, **params}
    return DistilledClassifier(teacher, **params)


def test_the_student_learns_without_labels(digits, teacher):
    X, y = digits
    student = distilled(teacher, max_epochs=40).fit(X[:500])
    agreement = (student.predict(X[500:]) == teacher.predict(X[500:])).mean()
    assert agreement > 0.9
    assert student.classes_.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.1), (0.6, 3.0)])
def test_the_loss_is_that_of_the_paper(alpha, temperature):
    generator = np.random.default_rng(0)
    student, taught = generator.normal(size=(5, 3)), generator.normal(size=(5, 3))
    labels = np.array([0, -1, 2, -1, 1])

    def log_softmax(row):
        return row - np.log(np.exp(row).sum())

    naive = 0.0
    known = [i for i, label in enumerate(labels) if label >= 0]
    for i in range(5):
        soft = np.exp(log_softmax(taught[i] / temperature))
        naive -= alpha * (soft * log_softmax(student[i] / temperature)).sum() / 5
        if i in known:
            naive -= (1 - alpha) * log_softmax(student[i])[labels[i]] / len(known)

    class Views:
        def draw(self, n, shape, generator):
            return None

        def apply(self, images, draws):
            return images

    objective = ClassificationObjective(
        {"encoder": torch.nn.Identity()},
        Views(),
        Targets(torch.from_numpy(labels), torch.from_numpy((labels >= 0).astype(float))),
        teacher=torch.from_numpy(taught).float(),
        alpha=alpha,
        temperature=temperature,
    )
    plan = Plan(1, 5, "sgd", 0.1, lambda fraction: 1.0, seed=0)
    batch = Batch(torch.arange(5), torch.from_numpy(student).float(), torch.Generator(), plan)
    assert objective.step(batch).loss.item() == pytest.approx(naive, rel=1e-5)


def test_a_network_is_asked_about_the_same_views(digits):
    X, y = digits
    network = SupervisedTransformer(max_epochs=5, random_state=0, image_shape=(8, 8)).fit(X[:200], y[:200])
    same = distilled(network, student=SimCLRTransformer(image_shape=(8, 8))).fit(X[:300])
    image = distilled(network, student=SimCLRTransformer(image_shape=(8, 8)), teacher_views="image").fit(
        X[:300]
    )
    assert not equal(state(same.encoder_), state(image.encoder_))
    assert not same.teacher_.encoder_.training


def test_other_teachers_know_only_images(digits, teacher):
    with pytest.raises(ValueError, match="teacher_views='same' needs a teacher that is a network"):
        distilled(teacher, teacher_views="same").fit(digits[0])


def test_a_teacher_that_is_not_fitted_is_fitted_on_the_labels(digits):
    X, y = digits
    y = np.where(np.arange(len(y)) < 100, y, -1)
    student = distilled(LabelFractionClassifier(LogisticRegression(max_iter=2000))).fit(X, y)
    expected = LogisticRegression(max_iter=2000).fit(X[:100], y[:100])
    np.testing.assert_allclose(student.teacher_.predict_proba(X), expected.predict_proba(X), atol=1e-6)


def test_a_teacher_that_takes_the_mark_for_a_class_is_refused(digits):
    X, y = digits
    y = np.where(np.arange(len(y)) < 100, y, -1)
    with pytest.raises(ValueError, match="took \\[-1\\] in y for classes.*LabelFractionClassifier"):
        distilled(LogisticRegression(max_iter=2000)).fit(X, y)


def test_labels_are_numbered_as_the_teacher_does(digits, teacher):
    X, y = digits
    part = np.isin(y, [1, 3])
    student = distilled(teacher, alpha=0.0, max_epochs=40).fit(X[part], y[part])
    assert student.classes_.tolist() == [0, 1, 2, 3]
    assert set(student.predict(X[part])) == {1, 3}


def test_labels_that_the_teacher_does_not_know(digits, teacher):
    with pytest.raises(ValueError, match="labels \\[7\\], but the teacher knows only"):
        distilled(teacher, alpha=0.5).fit(digits[0], np.where(digits[1] == 2, 7, digits[1]))


def test_self_distillation_starts_from_the_pretrained_encoder(digits, teacher):
    X = digits[0]
    pretrained = SimCLRTransformer(max_epochs=1, random_state=0, image_shape=(8, 8)).fit(X)
    student = distilled(teacher, student=FrozenEstimator(pretrained), max_epochs=0).fit(X)
    assert equal(state(student.encoder_), state(pretrained.encoder_))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"teacher": LinearSVC()}, "classifier with predict_proba"),
        ({"teacher": 3}, "classifier with predict_proba"),
        ({"student": LogisticRegression()}, "student must be a SimCLRTransformer"),
        ({"teacher": LogisticRegression()}, "not fitted requires y"),
        ({"alpha": 0.5}, "alpha=0.5 requires y"),
        ({"early_stopping": True}, "early_stopping=True requires y"),
        ({"temperature": 0}, "'temperature' parameter"),
        ({"alpha": 1.5}, "'alpha' parameter"),
    ],
)
def test_what_cannot_be_distilled(digits, teacher, params, message):
    model = DistilledClassifier(**{"teacher": teacher, **params})
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(digits[0])


def test_zero_probabilities_of_the_teacher(digits):
    from sklearn.tree import DecisionTreeClassifier

    X, y = digits
    student = distilled(DecisionTreeClassifier(random_state=0).fit(X, y), max_epochs=10).fit(X)
    assert np.isfinite(student.loss_curve_).all()


def test_a_student_of_published_weights_has_to_be_fitted(tmp_path):
    student = SimCLRTransformer(weights=tmp_path / "encoder.safetensors")
    X, y = np.zeros((4, 8, 8)), np.array([0, 1, 0, 1])
    teacher = LogisticRegression().fit(np.random.default_rng(0).random((4, 64)), y)
    with pytest.raises(ValueError, match="student has weights=.*max_epochs=0"):
        DistilledClassifier(teacher, student).fit(X, y)
