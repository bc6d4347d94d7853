"""The transfer protocol of SimCLR: an encoder judged on another set of images, in the paper's three ways."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from .._utils.seeds import draw_seed
from .._utils.types import Device, Images, RandomState
from ..encoders.preprocessing import PreprocessedNetwork
from ..estimators.multilabel_classifier import MultiLabelFineTuning
from ..estimators.simclr_classifier import SimCLRClassifier
from ..estimators.simclr_transformer import SimCLRTransformer
from ..estimators.untrained import untrained_modules
from ..images.indexing import indexable, take
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from ._transfer_checks import (
    PROTOCOLS,
    check_grid,
    check_metric,
    check_n_steps,
    check_protocols,
    check_targets,
)
from ._validation import validation_rows
from .linear_evaluation import LinearEvaluationClassifier, check_penalties
from .metrics import mean_average_precision_11point

__all__ = ["transfer_evaluation"]

# V1 appendix B.8: 40,000 steps from random weights, 20,000 from pretrained ones.
_LONGER = 2


def transfer_evaluation(
    estimator: BaseEstimator,
    X: Images,
    y: ArrayLike,
    *,
    X_test: Images,
    y_test: ArrayLike,
    protocols: Sequence[str] = PROTOCOLS,
    metric: str = "auto",
    validation: float | ArrayLike = 0.2,
    penalties: ArrayLike | None = None,
    grid: Literal["short", "paper"] | Iterable[tuple[float, float]] = "short",
    n_steps: Literal["auto"] | int = "auto",
    batch_size: int = 256,
    augmentation: Augmentation | ExternalViews | Callable[..., Any] | None = None,
    device: Device = "auto",
    verbose: int = 0,
    random_state: RandomState = None,
) -> Bunch:
    """Evaluate an encoder on labelled images: frozen, fine-tuned, and against random weights.

    Each protocol of the paper (table 8 and appendix B.8 of [1]_) chooses its hyperparameters on a part of the
    training rows, fits a model on all training rows, and scores it once on the test rows.

    Parameters
    ----------
    estimator : SimCLRTransformer or FrozenEstimator
        Fitted transformer, for example with published weights:
        ``SimCLRTransformer(weights=..., max_epochs=0)``.
    X : array-like or list of n_samples images
        Training images, as for `estimator`.
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Classes of the training images. If an image may have several labels, a matrix of 0 and 1 with one
        column per label.
    X_test : array-like or list of n_test images
        Test images.
    y_test : array-like of shape (n_test,) or (n_test, n_labels)
        Classes or labels of the test images.
    protocols : tuple of {"linear", "fine_tuned", "random_init"}, default=all three
        - ``"linear"``: :class:`LinearEvaluationClassifier` on the representations. A network with published
          weights sees the whole shorter side of an image, as in the paper, also if ``estimator.transform``
          shows it the central 87.5%;
        - ``"fine_tuned"``: :class:`SimCLRClassifier` with SGD, from the weights of the encoder and a new
          linear layer. Test images are prepared as in ``estimator.transform``;
        - ``"random_init"``: the same from random weights of the same network, for twice as long.
    metric : {"auto", "accuracy", "mean_per_class", "mean_average_precision"}, default="auto"
        Score that chooses the hyperparameters and is reported. The paper has mean per-class accuracy for
        Pets, Caltech-101, Flowers and Aircraft, the 11-point mean average precision for VOC 2007, and
        accuracy for the other data sets. ``"auto"``: mean average precision for a matrix y, else accuracy.
    validation : float or array-like of int, default=0.2
        Share of the training rows that is held out, stratified by class unless y is a matrix; or the numbers
        of the rows to hold out.
    penalties : array-like of float or None, default=None
        Candidates of the linear protocol; None is the paper's 45 from 1e-6 to 1e5.
    grid : {"short", "paper"} or list of (float, float), default="short"
        Pairs of a learning rate and a weight decay for the other two protocols. The decay is divided by the
        rate before SGD gets it, so that it is the share that each step takes off the weights. ``"paper"``: 56
        pairs each; ``"short"``: three of their rates each.
    n_steps : "auto" or int, default="auto"
        Steps of a fine-tuning, at least 1, rounded to whole epochs; the paper has 20,000. ``"auto"``: 60
        epochs, and at least 300 steps.
    batch_size : int, default=256
        Images per step.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The random views in fine-tuning. None is crops and flips only, as in the paper.
    device : str or torch.device, default="auto"
        Device that computes.
    verbose : int, default=0
        1 prints a line for each trial.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, the random weights, and the order of the images.

    Returns
    -------
    result : Bunch
        - ``scores``: DataFrame with one row per protocol: ``protocol``, ``metric``, ``score`` on the test
          rows, ``validation_score`` of the chosen candidate, ``penalty``, ``learning_rate``,
          ``weight_decay``, ``n_epochs``, ``n_train``, ``n_test``, ``seconds``;
        - ``trials``: DataFrame with one row per candidate: ``protocol``, ``penalty``, ``learning_rate``,
          ``weight_decay``, ``n_epochs``, ``validation_score``, ``seconds``. ``weight_decay`` is the value
          before the division. The score is NaN if the training diverged;
        - ``predictions``: dict by protocol: classes (n_test,), or scores (n_test, n_labels);
        - ``estimators``: dict by protocol: the models fitted on all training rows. All take images, and
          predict positions in ``classes``;
        - ``classes``: the sorted classes, or the numbers of the labels; ``y_test`` and ``metric``.

    Raises
    ------
    TypeError
        If `estimator` is not a SimCLRTransformer.
    ValueError
        If the transformer is not fitted, a parameter is out of range, y has no labels or another length than
        X, or the random weights of a network of your own cannot be drawn.

    See Also
    --------
    compare_transfers : Tests whether two encoders differ on the same test rows.
    label_fraction_curve : Scores estimators by the number of labels.

    Notes
    -----
    The linear protocol uses no augmentation. No protocol uses labels of the test set, except for the final
    score. The paper trains BatchNorm with a momentum that depends on the number of steps; here the momentum
    of the network stays.

    With several labels per image, each label has its own sigmoid. The linear protocol has one penalty for all
    labels.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, table 8 and appendix B.8. :arxiv:`2002.05709`
    .. [2] S. Kornblith, J. Shlens, Q. V. Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019.
       :arxiv:`1805.08974`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.evaluation import transfer_evaluation
    >>> X, y = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer(max_epochs=3, random_state=0).fit(X[:600])  # without labels
    >>> result = transfer_evaluation(
    ...     simclr, X[600:800], y[600:800], X_test=X[800:], y_test=y[800:], protocols=("linear",),
    ...     random_state=0,
    ... )
    >>> result.scores["protocol"].tolist(), bool(result.scores["score"][0] > 0.7)
    (['linear'], True)
    """
    import pandas as pd

    estimator = _fitted_transformer(estimator)
    protocols = check_protocols(protocols)
    X, n = indexable(X)
    X_test, n_test = indexable(X_test, "X_test")
    y, y_test, classes = check_targets(y, y_test, n, n_test)
    metric = check_metric(metric, y.ndim)
    grids = check_grid(grid)
    penalties = check_penalties(penalties)
    check_n_steps(n_steps)
    seed = draw_seed(random_state)
    training, held = validation_rows(y, validation, seed)
    task = _Task(X, y, X_test, training, held, metric, _scorer(metric), device, seed, verbose)
    settings = {
        "batch_size": batch_size,
        "augmentation": augmentation,
        "device": device,
        "random_state": seed,
    }

    scores, trials, predictions, estimators = [], [], {}, {}
    for protocol in protocols:
        started = time.perf_counter()
        if protocol == "linear":
            candidates, model, outputs = _linear(task, estimator, penalties)
        else:
            begin, longer = estimator, 1
            if protocol == "random_init":
                begin, longer = _with_random_weights(estimator, X, seed), _LONGER
            classifier = partial(_classifier, begin, n_steps, longer, settings)
            candidates, model, outputs = _tuned(task, grids[protocol], classifier)
        trials += [{"protocol": protocol, **candidate} for candidate in candidates]
        predictions[protocol] = outputs if y.ndim == 2 else classes[outputs]
        estimators[protocol] = model
        best: dict[str, Any] = max(candidates, key=_rank)
        row = {
            **best,
            "protocol": protocol,
            "metric": metric,
            "score": task.score(y_test, outputs),
            "n_train": n,
            "n_test": n_test,
            "seconds": time.perf_counter() - started,
        }
        scores.append(row)
        if verbose:
            print(f"{protocol}: {metric} {row['score']:.4f} after {row['seconds']:.1f} s")
    known = ["penalty", "learning_rate", "weight_decay", "n_epochs"]
    columns = ["protocol", "metric", "score", "validation_score", *known, "n_train", "n_test", "seconds"]
    of_trials = ["protocol", *known, "validation_score", "seconds"]
    return Bunch(
        scores=pd.DataFrame(scores, columns=columns).astype({"n_epochs": "Int64"}),
        trials=pd.DataFrame(trials, columns=of_trials).astype({"n_epochs": "Int64"}),
        predictions=predictions,
        estimators=estimators,
        classes=classes,
        y_test=y_test if y.ndim == 2 else classes[y_test],
        metric=metric,
    )


@dataclass(frozen=True)
class _Task:
    """Labelled images, the rows among them to choose by, and how a choice is scored."""

    X: Any
    y: np.ndarray
    X_test: Any
    training: np.ndarray
    held: np.ndarray
    metric: str
    score: Callable[[np.ndarray, np.ndarray], float]
    device: str | torch.device
    seed: int
    verbose: int


def _linear(
    task: _Task, estimator: Any, penalties: np.ndarray
) -> tuple[list[dict[str, Any]], Any, np.ndarray]:
    """Return the candidates, the model of all rows, and its outputs for the test rows."""
    started = time.perf_counter()
    estimator = _of_whole_images(estimator)
    features, test_features = (np.asarray(estimator.transform(images)) for images in (task.X, task.X_test))
    if task.y.ndim == 2:
        from ._multilabel import MultiLabelProbe

        model = MultiLabelProbe(penalties, task.held).fit(features, task.y)
    else:
        model = LinearEvaluationClassifier(
            penalties=penalties,
            validation=task.held,
            scoring="balanced_accuracy" if task.metric == "mean_per_class" else "accuracy",
            device=task.device,
            random_state=task.seed,
        ).fit(features, task.y)
    outputs = _outputs(model, test_features, task.y)
    seconds = (time.perf_counter() - started) / len(penalties)
    candidates = [
        {"penalty": float(penalty), "validation_score": float(value), "seconds": seconds}
        for penalty, value in zip(penalties, model.validation_scores_, strict=True)
    ]
    return candidates, make_pipeline(FrozenEstimator(estimator), model), outputs


def _of_whole_images(estimator: SimCLRTransformer) -> SimCLRTransformer:
    """Return a transformer whose network sees all of the square on the shorter side of an image.

    V1 appendix B.8 cuts 224 of 256 pixels out to test a network that was fine-tuned, but cuts nothing off for
    a linear classifier.
    """
    encoder = estimator.encoder_
    if not isinstance(encoder, PreprocessedNetwork) or encoder.preprocessing.crop_fraction == 1:
        return estimator
    whole = copy.copy(estimator)
    preprocessing = replace(encoder.preprocessing, crop_fraction=1.0)
    whole.encoder_ = PreprocessedNetwork(encoder.network, preprocessing).eval()
    return whole


def _tuned(
    task: _Task, grid: Iterable[tuple[float, float]], classifier: Callable[..., SimCLRClassifier]
) -> tuple[list[dict[str, Any]], Any, np.ndarray]:
    """Return the same as `_linear` for a network that is trained as a whole, made by `_classifier`."""
    X_train, X_held = take(task.X, task.training), take(task.X, task.held)
    y_train, y_held = task.y[task.training], task.y[task.held]
    candidates: list[dict[str, Any]] = []
    failure = None
    for rate, decay in grid:
        started = time.perf_counter()
        model = classifier(y_train, rate, decay)
        value = math.nan
        try:
            # Some candidates of a search never converge.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(X_train, y_train)
            value = task.score(y_held, _outputs(model, X_held, y_held))
        except ValueError as error:
            failure = error
        candidates.append(
            {
                "learning_rate": float(rate),
                "weight_decay": float(decay),
                "n_epochs": model.max_epochs,
                "validation_score": value,
                "seconds": time.perf_counter() - started,
            }
        )
        if task.verbose:
            print(f"learning rate {rate:.3g}, weight decay {decay:.3g}: {value:.4f}")
    if all(math.isnan(candidate["validation_score"]) for candidate in candidates):
        raise ValueError(
            "There is no score for any pair of grid, because every training failed or no score is a number. "
            "Pass other pairs (learning rate, weight decay), or other validation rows."
        ) from failure
    best = max(candidates, key=_rank)
    model = classifier(task.y, best["learning_rate"], best["weight_decay"]).fit(task.X, task.y)
    return candidates, model, _outputs(model, task.X_test, task.y)


def _classifier(
    begin: SimCLRTransformer,
    n_steps: Any,
    longer: int,
    settings: dict[str, Any],
    y: np.ndarray,
    rate: float,
    decay: float,
) -> SimCLRClassifier:
    """Return the classifier to train on images with labels y, for so many steps times `longer`."""
    kind = SimCLRClassifier if y.ndim == 1 else MultiLabelFineTuning
    model = kind(
        FrozenEstimator(begin),
        start="zero",
        optimizer="sgd",
        learning_rate=float(rate),
        weight_decay=float(decay / rate),
        **settings,
    )
    if n_steps == "auto":
        return model.set_params(max_epochs=longer * model._resolve_epochs(len(y)))
    steps_an_epoch = max(1, len(y) // model.batch_size)
    return model.set_params(max_epochs=max(1, math.ceil(longer * n_steps / steps_an_epoch)))


def _outputs(model: Any, X: Any, y: np.ndarray) -> np.ndarray:
    return model.predict(X) if y.ndim == 1 else model.decision_function(X)


def _rank(candidate: dict[str, Any]) -> tuple[float, ...]:
    """Order by score; ties by the strongest penalty, or by the smallest rate and the largest decay."""
    score = candidate["validation_score"]
    # Equal scores may differ by rounding, averaged in another order.
    first = round(score, 12) if np.isfinite(score) else -np.inf
    if "penalty" in candidate:
        return first, candidate["penalty"]
    return first, -candidate["learning_rate"], candidate["weight_decay"]


def _with_random_weights(estimator: SimCLRTransformer, X: Images, seed: int) -> SimCLRTransformer:
    """Return a transformer that reads images as the given one does; its encoder has random weights."""
    source = estimator._read_images(X, reset=False).without_bad()
    begin = copy.copy(estimator)
    try:
        begin.encoder_ = untrained_modules(estimator, source, seed)[0]
    except ValueError as error:
        raise ValueError(
            f"random_init: {str(error).rstrip('.')}. Leave 'random_init' out of protocols, or define "
            "reset_parameters."
        ) from None
    return begin


def _scorer(metric: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    if metric == "accuracy":
        return accuracy_score
    if metric == "mean_average_precision":
        return mean_average_precision_11point
    # balanced_accuracy_score would warn if a class is predicted that the rows lack.
    return lambda y, codes: float(recall_score(y, codes, labels=np.unique(y), average="macro"))


def _fitted_transformer(estimator: Any) -> SimCLRTransformer:
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    if not isinstance(estimator, SimCLRTransformer):
        raise TypeError(
            f"estimator must be a fitted SimCLRTransformer, got {type(estimator).__name__}. If a Pipeline "
            "holds one, pass this step alone."
        )
    check_is_fitted(estimator, "encoder_")
    return estimator
