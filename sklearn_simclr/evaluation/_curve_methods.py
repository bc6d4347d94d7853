"""Methods of a label-fraction study that are given by name: features of a pretrained network, classified."""

from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

from ..estimators.simclr_transformer import SimCLRTransformer
from .linear_evaluation import LinearEvaluationClassifier

__all__ = ["named_method"]

# "imagenet" stands for a network of torchvision, which is always installed.
_IMAGENET = "imagenet"
_WEIGHTS = "torchvision:resnet50"
_LIBRARIES = ("torchvision:", "timm:")

# Candidates for 1 / C, for features of unit variance.
_PENALTIES = np.logspace(-2, 5, 15)
_FOLDS = 5


class UpToFiveFolds:
    """Stratified folds, as many as the smallest class allows; all rows if a class has a single one."""

    def split(self, X: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (training rows, validation rows)."""
        n_folds = min(_FOLDS, int(np.unique(y, return_counts=True)[1].min()))
        if n_folds > 1:
            yield from StratifiedKFold(n_folds, shuffle=True, random_state=0).split(X, y)
        else:
            yield np.arange(len(y)), np.arange(len(y))

    def get_n_splits(self, X: object = None, y: object = None) -> int:
        """Return the largest possible number of folds."""
        return _FOLDS

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def named_method(name: str) -> Pipeline:
    """Return the estimator that a name stands for in a label-fraction study.

    Parameters
    ----------
    name : str
        "imagenet", "torchvision:NAME" or "timm:NAME".

    Returns
    -------
    Pipeline
        The frozen network, and logistic regression on its features, the penalty chosen on the labels drawn.

    Raises
    ------
    ValueError
        If the name is another.
    """
    weights = _WEIGHTS if name == _IMAGENET else name
    if not weights.startswith(_LIBRARIES):
        raise ValueError(
            f'estimators has {name!r}, which names no method. Pass "imagenet", "torchvision:NAME" or '
            '"timm:NAME", for logistic regression on the features of a pretrained network, or an estimator.'
        )
    features = SimCLRTransformer(weights=weights, max_epochs=0)
    classifier = LinearEvaluationClassifier(
        penalties=_PENALTIES, standardize=True, validation=UpToFiveFolds(), random_state=0
    )
    return Pipeline([("features", features), ("classifier", classifier)])
