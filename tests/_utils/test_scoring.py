"""Rows without a label are not scored; scikit-learn's scorers, which score them, lead to a warning."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_simclr import (
    DistilledClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
)
from sklearn_simclr._utils.labels import labelled_rows
from sklearn_simclr.evaluation import (
    LabelFractionClassifier,
    LinearEvaluationClassifier,
    SemiSupervisedKFold,
    WeightedKNNClassifier,
)

X = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
Y = np.arange(24) % 3
KNOWN = np.arange(24) < 12
UNKNOWN = np.where(KNOWN, Y, -1)
QUICK = {"encoder": "compact", "max_epochs": 0, "random_state": 0}


FEW = {"max_epochs": 1, "random_state": 0}
NETWORKS = [
    SupervisedTransformer(**FEW),
    SimCLRClassifier(SimCLRTransformer(**QUICK), **FEW),
    DistilledClassifier(SupervisedTransformer(**QUICK), student=SimCLRTransformer(**QUICK), **FEW),
]


@pytest.mark.parametrize("classifier", NETWORKS, ids=lambda c: type(c).__name__)
def test_score_is_the_accuracy_on_labelled_rows(classifier):
    classifier.fit(X, UNKNOWN)
    expected = np.mean(classifier.predict(X)[KNOWN] == Y[KNOWN])
    assert classifier.score(X, UNKNOWN) == expected == classifier.score(X[KNOWN], Y[KNOWN])
    missing = pd.Series(UNKNOWN, dtype="Int64").where(KNOWN)
    assert classifier.score(X, missing) == expected
    H = classifier.transform(X)
    logits = (
        H @ classifier.classifier_.weight.detach().numpy().T + classifier.classifier_.bias.detach().numpy()
    )
    np.testing.assert_array_equal(classifier.classes_[logits.argmax(axis=1)], classifier.predict(X))
    assert len(classifier.get_feature_names_out()) == H.shape[1]
    weights = np.arange(24.0)
    right = classifier.predict(X)[KNOWN] == Y[KNOWN]
    assert classifier.score(X, UNKNOWN, weights) == pytest.approx(np.average(right, weights=weights[KNOWN]))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        classifier.score(X, UNKNOWN[1:])
    with pytest.raises(ValueError, match="no labelled row"):
        classifier.score(X, np.full(24, -1))


@pytest.mark.parametrize("classifier", [LinearEvaluationClassifier(), WeightedKNNClassifier()])
def test_classifiers_of_features_score_by_the_same_rule_and_warn_of_a_class_that_marks(classifier):
    H = X.reshape(24, -1) / 255
    classifier.fit(H[KNOWN], Y[KNOWN])
    assert classifier.score(H, UNKNOWN) == classifier.score(H[KNOWN], Y[KNOWN])
    with pytest.warns(UserWarning, match="LabelFractionClassifier"):
        classifier.fit(H, UNKNOWN)
    # It was learnt as a class, and is scored as one.
    assert classifier.score(H, UNKNOWN) == np.mean(classifier.predict(H) == UNKNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.fit(H, np.where(Y == 0, -1, 1))


@pytest.mark.parametrize(
    ("texts", "warns"),
    [
        (np.where(KNOWN, Y.astype(str), "-1"), True),
        (np.where(KNOWN, np.array(["a", "b", "c"])[Y], "nan"), True),
        (np.array(["a", "b", "c", -1])[UNKNOWN], True),
        (np.where(KNOWN, Y, np.nan).astype(str), True),
        ([f"class {y}" if known else -1 for y, known in zip(Y, KNOWN, strict=True)], False),
        ([f"class {y}" if known else -1.0 for y, known in zip(Y, KNOWN, strict=True)], False),
        ([f"class {y}" if known else None for y, known in zip(Y, KNOWN, strict=True)], False),
        (pd.Series([f"{y}" if known else pd.NA for y, known in zip(Y, KNOWN, strict=True)]), False),
    ],
)
def test_marks_among_strings_are_no_class(texts, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows, labels, n = labelled_rows(texts)
    assert rows.tolist() == np.flatnonzero(KNOWN).tolist() and n == 24
    assert len(set(labels.tolist())) == 3
    assert [str(w.message).startswith("y has the strings") for w in caught] == [True] * warns
    # A classifier that knows them as classes scores them.
    if warns:
        mark = (set(np.asarray(texts).tolist()) - set(labels.tolist())).pop()
        assert len(labelled_rows(texts, known_classes=np.array([*set(labels.tolist()), mark]))[0]) == 24


def test_strings_minus_one_and_one_are_two_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(labelled_rows(np.array(["1", "-1", "1"]))[0]) == 3


def test_scorers_that_see_unlabelled_rows_lead_to_a_warning():
    H = X.reshape(24, -1) / 255
    classifier = LabelFractionClassifier(KNeighborsClassifier(1))
    for model in (classifier, make_pipeline(FunctionTransformer(), classifier)):
        with pytest.warns(UserWarning, match=r"of 12 rows as wrong.*SemiSupervisedKFold"):
            cross_val_score(model, H, UNKNOWN, cv=2, scoring="accuracy")
        with pytest.warns(UserWarning, match="SemiSupervisedKFold"):
            GridSearchCV(model, {}, scoring=["accuracy", "f1_macro"], refit=False, cv=2).fit(H, UNKNOWN)
    with pytest.warns(UserWarning, match="SemiSupervisedKFold"):
        get_scorer("balanced_accuracy")(classifier.fit(H, UNKNOWN), H, UNKNOWN)
    network = SupervisedTransformer(**QUICK).fit(X, UNKNOWN)
    with pytest.warns(UserWarning, match="SemiSupervisedKFold"):
        get_scorer("accuracy")(network, X, UNKNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cross_val_score(classifier, H, UNKNOWN, cv=SemiSupervisedKFold(2), scoring="accuracy")
        cross_val_score(classifier, H, UNKNOWN, cv=2)
        cross_val_score(LogisticRegression(), H, Y, cv=2, scoring="accuracy")
        network.predict(X)
