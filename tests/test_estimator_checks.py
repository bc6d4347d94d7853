"""scikit-learn's own checks for every public estimator; none is expected to fail."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_simclr import LabelFractionClassifier, SimCLRTransformer


@pytest.mark.filterwarnings("ignore:X has .* features, not a square number:UserWarning")
@pytest.mark.filterwarnings("ignore:X has pixels from:UserWarning")
@parametrize_with_checks(
    [
        SimCLRTransformer(max_epochs=1),
        LabelFractionClassifier(LogisticRegression()),
    ]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
