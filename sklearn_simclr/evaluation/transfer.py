"""The transfer protocol of SimCLR: an encoder judged on another set of images, in the paper's three ways."""

import copy
import math
import time
import warnings

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from .._utils.seeds import draw_seed, isolated_generators
from ..encoders.networks import renewed_network
from ..estimators.simclr_classifier import SimCLRClassifier
from ..estimators.simclr_transformer import SimCLRTransformer
from ..images.rows import indexable, take
from ..images.source import as_float
from ._transfer_checks import (
    PROTOCOLS,
    check_grid,
    check_metric,
    check_penalties,
    check_protocols,
    check_targets,
    is_count,
    split_rows,
)
from .linear_evaluation import LinearEvaluationClassifier
from .metrics import (
    PermutationTestResult,
    mean_average_precision_11point,
    mean_per_class_accuracy,
    paired_permutation_test,
)

__all__ = ["compare_transfers", "transfer_evaluation"]

# V1 appendix B.8: 40,000 steps from random weights, 20,000 from pretrained ones.
_LONGER = 2

# Images that a layer of a random encoder is set from.
_STEM_IMAGES = 2048


def transfer_evaluation(
    estimator,
    X,
    y,
    *,
    X_test,
    y_test,
    protocols=PROTOCOLS,
    metric="auto",
    validation=0.2,
    penalties=None,
    grid="short",
    n_steps="auto",
    batch_size=256,
    augmentation=None,
    device="auto",
    verbose=0,
    random_state=None,
):
    """Evaluate an encoder on labelled images: frozen, fine-tuned, and against random weights.

    In each of the paper's ways (table 8 and appendix B.8 of [1]_) the hyperparameters are chosen on a part of
    the training rows, the model is fitted again on all of them, and scored on the test rows once.

    Parameters
    ----------
    estimator : SimCLRTransformer or FrozenEstimator
        A fitted one; also one of published weights, ``SimCLRTransformer(weights=..., max_epochs=0)``.
    X : array-like or list of n_samples images
        Training images, as `estimator` takes them.
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Their classes; or a matrix of 0 and 1, a column a label, where labels do not exclude each other.
    X_test : array-like or list of n_test images
        Test images.
    y_test : array-like of shape (n_test,) or (n_test, n_labels)
        Their classes or labels.
    protocols : tuple of {"linear", "fine_tuned", "random_init"}, default=all three
        - ``"linear"``: :class:`LinearEvaluationClassifier` on what ``estimator.transform`` gives;
        - ``"fine_tuned"``: :class:`SimCLRClassifier` from the weights of the encoder, with SGD;
        - ``"random_init"``: the same from random weights of the same network, for twice as long.
    metric : {"auto", "accuracy", "mean_per_class", "mean_average_precision"}, default="auto"
        What is chosen by and reported. The paper's is mean per-class accuracy for Pets, Caltech-101, Flowers
        and Aircraft, the 11-point mean average precision for VOC 2007 and accuracy elsewhere. ``"auto"``:
        mean average precision for a matrix y, else accuracy.
    validation : float or array-like of int, default=0.2
        The share of the training rows that is held out, stratified by class where y is one, or these rows
        themselves.
    penalties : array-like of float or None, default=None
        Candidates of the linear protocol; None is the paper's 45 from 1e-6 to 1e5.
    grid : {"short", "paper"} or list of (float, float), default="short"
        Pairs of a learning rate and a weight decay for the other protocols, where the decay is divided by the
        rate before SGD takes it, so that it is what a step takes off the weights. ``"paper"``: 56 pairs each;
        ``"short"``: three of their rates each.
    n_steps : "auto" or int, default="auto"
        Steps of a fine-tuning, at least 1, in whole epochs; the paper's are 20,000. ``"auto"``: 60 epochs,
        and at least 300 steps.
    batch_size : int, default=256
        Images a step.
    augmentation : Augmentation or None, default=None
        The random views in these protocols; None is crops and flips only, as in the paper.
    device : str or torch.device, default="auto"
        Where to compute.
    verbose : int, default=0
        1 prints a line for each trial.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, the random weights, and the order of the images.

    Returns
    -------
    result : Bunch
        - ``scores``: DataFrame, a row a protocol: ``protocol``, ``metric``, ``score`` on the test rows,
          ``validation_score`` of what was chosen, ``penalty``, ``learning_rate``, ``weight_decay``,
          ``n_epochs``, ``n_train``, ``n_test``, ``seconds``;
        - ``trials``: DataFrame, a row a candidate: ``protocol``, ``penalty``, ``learning_rate``,
          ``weight_decay``, ``n_epochs``, ``validation_score``, ``seconds``. ``weight_decay`` is before the
          division; the score is NaN where training diverged;
        - ``predictions``: dict, by protocol: classes (n_test,), or scores (n_test, n_labels);
        - ``estimators``: dict, by protocol: the models that were fitted on all training rows. Of classes they
          predict places in ``classes``;
        - ``classes``: the sorted classes, or numbers of the labels; ``y_test`` and ``metric``.

    Raises
    ------
    TypeError
        If `estimator` is no SimCLRTransformer.
    ValueError
        If it is not fitted, a parameter is out of range, y lacks labels or does not go with X, or the random
        weights of a network of your own cannot be drawn.

    See Also
    --------
    compare_transfers : Whether two encoders differ on the same test rows.
    label_fraction_curve : Scores against the number of labels.

    Notes
    -----
    The linear protocol uses no augmentation and takes no labels of the test set; nor do the others. The paper
    trains BatchNorm with a momentum that depends on the number of steps; here that of the network stays.

    Several labels an image are learnt by a sigmoid each: in the linear protocol with one penalty for all.

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
    if n_steps != "auto" and not is_count(n_steps):
        raise ValueError(f"n_steps must be 'auto' or an int of at least 1, got {n_steps!r}.")
    seed = draw_seed(random_state)
    training, held = split_rows(y, validation, seed)
    score = _scorer(metric)

    scores, trials, predictions, estimators = [], [], {}, {}
    for protocol in protocols:
        started = time.perf_counter()
        if protocol == "linear":
            candidates, model, outputs = _linear(
                estimator, X, y, X_test, held, penalties, metric, device, seed
            )
        else:
            begin = estimator if protocol == "fine_tuned" else _with_random_weights(estimator, X, seed)
            settings = {
                "batch_size": batch_size,
                "augmentation": augmentation,
                "device": device,
                "random_state": seed,
            }
            longer = _LONGER if protocol == "random_init" else 1
            candidates, model, outputs = _tuned(
                begin,
                X,
                y,
                X_test,
                (training, held),
                grids[protocol],
                n_steps,
                longer,
                score,
                settings,
                verbose,
            )
        trials += [{"protocol": protocol, **candidate} for candidate in candidates]
        best = max(candidates, key=_rank)
        predictions[protocol], estimators[protocol] = outputs, model
        row = {
            **best,
            "protocol": protocol,
            "metric": metric,
            "score": score(y_test, outputs),
            "n_train": n,
            "n_test": n_test,
            "seconds": time.perf_counter() - started,
        }
        scores.append(row)
        if verbose:
            print(f"{protocol}: {metric} {row['score']:.4f} after {row['seconds']:.1f} s")
    if y.ndim == 1:
        predictions = {name: classes[codes] for name, codes in predictions.items()}
    known = ["penalty", "learning_rate", "weight_decay", "n_epochs"]
    columns = ["protocol", "metric", "score", "validation_score", *known, "n_train", "n_test", "seconds"]
    scores, trials = (
        pd.DataFrame(scores, columns=columns),
        pd.DataFrame(trials, columns=["protocol", *known, "validation_score", "seconds"]),
    )
    return Bunch(
        scores=scores.astype({"n_epochs": "Int64"}),
        trials=trials.astype({"n_epochs": "Int64"}),
        predictions=predictions,
        estimators=estimators,
        classes=classes,
        y_test=y_test if y.ndim == 2 else classes[y_test],
        metric=metric,
    )


def compare_transfers(first, second, protocol="linear", *, n_resamples=10_000, random_state=None):
    """Test whether two results of `transfer_evaluation` differ, as the bold numbers of the paper's table do.

    Parameters
    ----------
    first : Bunch
        A result, on some test rows.
    second : Bunch
        Another, on the same test rows and by the same metric; or the same one, for two of its protocols.
    protocol : str or (str, str), default="linear"
        What to compare; of a pair the first is of `first`, the second of `second`.
    n_resamples : int, default=10_000
        Samples of the null distribution where it cannot be enumerated, at least 1. The paper takes 100,000.
    random_state : int, RandomState instance or None, default=None
        Seed of these samples.

    Returns
    -------
    PermutationTestResult
        The named tuple (statistic, pvalue, exact); the statistic is the score of the first minus that of the
        second. The paper calls p > 0.05 not significantly worse.

    Raises
    ------
    ValueError
        If the results are of other test rows, metrics or protocols.

    See Also
    --------
    sklearn_simclr.evaluation.paired_permutation_test : The test of accuracies.

    Notes
    -----
    Under the null hypothesis the predictions of the two models for an image are exchangeable. Of mean average
    precision, what is exchanged is the place of the image in each label's ranking: the scores themselves of
    two models have no common unit.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
       Visual Representations", ICML 2020, table 8 and appendix B.8. :arxiv:`2002.05709`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.evaluation import compare_transfers, transfer_evaluation
    >>> X, y = load_digits(return_X_y=True)
    >>> results = [
    ...     transfer_evaluation(
    ...         SimCLRTransformer(max_epochs=epochs, random_state=0).fit(X[:600]),
    ...         X[600:700], y[600:700], X_test=X[700:], y_test=y[700:], protocols=("linear",), random_state=0,
    ...     )
    ...     for epochs in (3, 0)
    ... ]
    >>> test = compare_transfers(*results)
    >>> test.exact, bool(0 <= test.pvalue <= 1)
    (True, True)
    """
    names = (protocol, protocol) if isinstance(protocol, str) else tuple(protocol)
    if len(names) != 2:
        raise ValueError(f"protocol must be a name or a pair of names, got {protocol!r}.")
    for which, result, name in zip(("first", "second"), (first, second), names, strict=True):
        if name not in result["predictions"]:
            raise ValueError(
                f"{which} has no protocol {name!r}, but {', '.join(result['predictions'])}. Pass one of "
                "these."
            )
    if first["metric"] != second["metric"]:
        raise ValueError(f"first is of {first['metric']}, second of {second['metric']}; pass one metric.")
    y_test = first["y_test"]
    if not np.array_equal(y_test, second["y_test"]):
        raise ValueError("first and second are of other test rows; pass results on the same.")
    if not is_count(n_resamples):
        raise ValueError(f"n_resamples must be an int of at least 1, got {n_resamples!r}.")
    one, other = first["predictions"][names[0]], second["predictions"][names[1]]
    if first["metric"] == "mean_average_precision":
        return _test_of_rankings(one, other, y_test, n_resamples, random_state)
    return paired_permutation_test(
        one == y_test,
        other == y_test,
        y_true=y_test if first["metric"] == "mean_per_class" else None,
        n_resamples=n_resamples,
        random_state=random_state,
    )


def _linear(estimator, X, y, X_test, held, penalties, metric, device, seed):
    """Candidates, the model of all rows, and its outputs for the test rows."""
    started = time.perf_counter()
    features, test_features = (np.asarray(estimator.transform(images)) for images in (X, X_test))
    if y.ndim == 2:
        from ._multilabel import MultiLabelProbe

        model = MultiLabelProbe(penalties, held).fit(features, y)
        outputs = model.decision_function(test_features)
    else:
        model = LinearEvaluationClassifier(
            penalties=penalties,
            validation=held,
            scoring="balanced_accuracy" if metric == "mean_per_class" else "accuracy",
            device=device,
            random_state=seed,
        ).fit(features, y)
        outputs = model.predict(test_features)
    seconds = (time.perf_counter() - started) / len(penalties)
    return (
        [
            {"penalty": float(penalty), "validation_score": float(value), "seconds": seconds}
            for penalty, value in zip(penalties, model.validation_scores_, strict=True)
        ],
        model,
        outputs,
    )


def _tuned(begin, X, y, X_test, rows, grid, n_steps, longer, score, settings, verbose):
    """The same for a network that is trained whole."""
    training, held = rows
    X_train, X_held = take(X, training), take(X, held)
    candidates, failure = [], None
    for rate, decay in grid:
        started = time.perf_counter()
        model = _classifier(begin, y, rate, decay, settings)
        model.set_params(max_epochs=_epochs(model, len(training), n_steps, longer))
        value = math.nan
        try:
            # Of a search, candidates that do not converge are a part.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(X_train, y[training])
            value = score(y[held], _outputs(model, X_held, y))
        except ValueError as error:
            failure = error
        candidate = {
            "learning_rate": float(rate),
            "weight_decay": float(decay),
            "n_epochs": model.max_epochs,
            "validation_score": value,
            "seconds": time.perf_counter() - started,
        }
        candidates.append(candidate)
        if verbose:
            print(f"learning rate {rate:.3g}, weight decay {decay:.3g}: {value:.4f}")
    if all(math.isnan(candidate["validation_score"]) for candidate in candidates):
        raise ValueError(
            "There is no score for any pair of grid; pass others, or other validation rows."
        ) from failure
    best = max(candidates, key=_rank)
    model = _classifier(begin, y, best["learning_rate"], best["weight_decay"], settings)
    epochs = _epochs(model, len(y), n_steps, longer)
    model.set_params(max_epochs=epochs).fit(X, y)
    return candidates, model, _outputs(model, X_test, y)


def _classifier(begin, y, rate, decay, settings):
    kind = SimCLRClassifier
    if y.ndim == 2:
        from ._multilabel import MultiLabelFineTuning as kind
    return kind(
        FrozenEstimator(begin),
        optimizer="sgd",
        learning_rate=float(rate),
        weight_decay=float(decay / rate),
        **settings,
    )


def _epochs(model, n, n_steps, longer):
    if n_steps == "auto":
        return longer * model._resolve_epochs(n)
    return max(1, math.ceil(longer * n_steps / max(1, n // model.batch_size)))


def _outputs(model, X, y):
    return model.predict(X) if y.ndim == 1 else model.decision_function(X)


def _rank(candidate):
    """Of equally good ones the strongest penalty, or the smallest rate and the largest decay."""
    score = candidate["validation_score"]
    # Up to rounding: means of the same numbers in another order.
    first = round(score, 12) if np.isfinite(score) else -np.inf
    if "penalty" in candidate:
        return first, candidate["penalty"]
    return first, -candidate["learning_rate"], candidate["weight_decay"]


def _with_random_weights(estimator, X, seed):
    """A transformer that reads images as a fitted one does, its encoder the same with random weights."""
    source = estimator._read_images(X, reset=False).without_bad()
    device = torch.device("cpu")
    with isolated_generators(seed, device):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(source), generator=generator)[:_STEM_IMAGES]
        try:
            encoder = renewed_network(estimator.encoder_, as_float(source.take(chosen)), generator)
        except ValueError as error:
            raise ValueError(
                f"random_init: {str(error).rstrip('.')}. Leave 'random_init' out of protocols, or define it."
            ) from None
    begin = clone(estimator)
    vars(begin).update(vars(estimator))
    begin.encoder_ = encoder
    begin.projector_ = copy.deepcopy(estimator.projector_)
    return begin


def _scorer(metric):
    if metric == "accuracy":
        return lambda y, codes: float(np.mean(y == codes))
    if metric == "mean_per_class":
        return mean_per_class_accuracy
    return mean_average_precision_11point


def _test_of_rankings(one, other, y_test, n_resamples, random_state):
    """Exchange the places of images in the rankings of two models."""
    ranks = [np.argsort(np.argsort(-scores, axis=0, kind="stable"), axis=0) for scores in (one, other)]
    first, second = (-places.astype(np.float64) for places in ranks)

    def difference(exchanged):
        swap = exchanged[:, None]
        pair = np.where(swap, second, first), np.where(swap, first, second)
        return float(np.subtract(*(mean_average_precision_11point(y_test, scores) for scores in pair)))

    rng = check_random_state(random_state)
    observed = difference(np.zeros(len(y_test), dtype=bool))
    extreme = sum(
        abs(difference(rng.random_sample(len(y_test)) < 0.5)) >= abs(observed) - 1e-12
        for _ in range(n_resamples)
    )
    return PermutationTestResult(observed, (extreme + 1) / (int(n_resamples) + 1), False)


def _fitted_transformer(estimator):
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    if not isinstance(estimator, SimCLRTransformer):
        raise TypeError(
            f"estimator must be a fitted SimCLRTransformer, got {type(estimator).__name__}. Of a pipeline, "
            "pass its step."
        )
    check_is_fitted(estimator, "encoder_")
    return estimator
