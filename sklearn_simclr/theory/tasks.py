"""The classification tasks of the theory of contrastive learning, and what a linear classifier loses on them.

A task is to tell some of the latent classes apart. The mean classifier has the mean representations of the
classes as its rows; it is what a contrastive loss bounds.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse
from sklearn.utils import check_random_state

from .._utils.types import Labels, RandomState
from ._arguments import (
    check_choice,
    check_count,
    check_loss,
    check_prior,
    class_numbers,
    prior_of,
    representations,
)
from .contrastive_loss import margin_loss

__all__ = ["mean_classifier", "supervised_loss", "task_distribution"]

_TASKS = ("distinct", "collision_free", "any")

# Tasks are enumerated up to this number, beyond it they have to be sampled.
_MOST_TASKS = 20_000


def mean_classifier(H: ArrayLike, y: Labels) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the mean representation of each class, the rows of the mean classifier.

    Parameters
    ----------
    H : array-like of shape (n, d)
        Representations.
    y : array-like of shape (n,)
        Class of each row.

    Returns
    -------
    W : ndarray of shape (n_classes, d)
        The means; the class predicted for h is that of the largest ``W @ h``.
    classes : ndarray of shape (n_classes,)
        The sorted labels.

    Raises
    ------
    ValueError
        If `H` is not a finite matrix with as many rows as `y`.

    See Also
    --------
    supervised_loss : Its loss over many tasks.
    pair_bound : Bounds that loss without labels.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, definition 2.1.

    Examples
    --------
    >>> from sklearn_simclr.theory import mean_classifier
    >>> W, classes = mean_classifier([[0.0, 2.0], [0.0, 4.0], [1.0, 0.0]], ["b", "b", "a"])
    >>> W
    array([[1., 0.],
           [0., 3.]])
    """
    codes, n_classes = class_numbers(y)
    H = representations(H, len(codes))
    return np.stack([H[codes == c].mean(axis=0) for c in range(n_classes)]), np.unique(np.asarray(y))


def task_distribution(
    class_prior: ArrayLike,
    n_negatives: int = 1,
    tasks: Literal["distinct", "collision_free", "any"] = "distinct",
) -> list[tuple[tuple[int, ...], float, float]]:
    r"""Return the classification tasks that a theorem averages over, with what each counts for.

    Parameters
    ----------
    class_prior : array-like of shape (n_classes,)
        :math:`\rho`, >= 0 and of sum 1.
    n_negatives : int, default=1
        k >= 1: k + 1 classes are drawn.
    tasks : {"distinct", "collision_free", "any"}, default="distinct"
        - ``"distinct"``: k + 1 classes, given that all differ.
        - ``"collision_free"``: the set of the classes drawn, given that the first does not appear again; the
          distribution :math:`\mathcal D` of theorem B.1. The weight is :math:`\rho^+_{min}(T) / p_{max}(T)`.
        - ``"any"``: the same, given that not all the others equal the first; :math:`\mathcal D'` of
          lemma B.2. The weight is :math:`\rho'^+_{max}(T) / p_{min}(T)`.

    Returns
    -------
    list of (tuple of int, float, float)
        For each task its classes as indices of the prior, its probability, and its weight. In a task all the
        classes are equally likely. The weights are 1 if the prior is uniform.

    Raises
    ------
    ValueError
        If an argument is out of range, if there is no task, or if there are more than 20,000 of them.

    See Also
    --------
    supervised_loss : The mean loss over such tasks.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, definition 2.2, section 6.1, appendices B.1 and B.2.

    Examples
    --------
    >>> from sklearn_simclr.theory import task_distribution
    >>> [(task, round(p, 3)) for task, p, weight in task_distribution([0.5, 0.25, 0.25])]
    [((0, 1), 0.4), ((0, 2), 0.4), ((1, 2), 0.2)]
    """
    prior = check_prior(class_prior)
    check_count("n_negatives", n_negatives)
    check_choice("tasks", tasks, _TASKS)
    likely = np.flatnonzero(prior)
    sizes = [n_negatives + 1] if tasks == "distinct" else range(2, min(n_negatives + 1, len(likely)) + 1)
    number = sum(math.comb(len(likely), size) for size in sizes)
    if number > _MOST_TASKS:
        raise ValueError(
            f"{len(likely)} classes and n_negatives={n_negatives} make {number} tasks; at most {_MOST_TASKS} "
            "are enumerated. Pass n_tasks to supervised_loss to average over a sample of the tasks."
        )
    if number == 0:
        raise ValueError(
            f"n_negatives={n_negatives} asks for tasks of {sizes[0] if sizes else 2} different classes, but "
            f"only {len(likely)} can occur. Pass more classes with a positive probability, or fewer "
            "negatives."
        )
    found = []
    for size in sizes:
        for task in itertools.combinations(likely.tolist(), size):
            probability, weight = _weigh_task(prior, task, n_negatives, tasks)
            found.append((task, probability, weight))
    total = math.fsum(probability for _, probability, _ in found)
    return [(task, probability / total, weight) for task, probability, weight in found]


def supervised_loss(
    H: ArrayLike,
    y: Labels,
    *,
    n_negatives: int = 1,
    classifier: Literal["mean", "best"] | ArrayLike = "mean",
    loss: Literal["logistic", "hinge", "zero_one"] = "logistic",
    gamma: float = 1.0,
    tasks: Literal["distinct", "collision_free", "any"] = "distinct",
    class_prior: ArrayLike | None = None,
    n_tasks: int | None = None,
    random_state: RandomState = None,
) -> float:
    r"""Return the loss of a linear classifier on representations, on average over classification tasks.

    A task is to tell apart k + 1 of the classes, all equally likely: the classes of the anchor and of the
    negatives are drawn alike, so that each class of a task is the anchor's equally often.

    Parameters
    ----------
    H : array-like of shape (n, d)
        Representations.
    y : array-like of shape (n,)
        Class of each row.
    n_negatives : int, default=1
        k >= 1; 1 is the average over pairs of classes.
    classifier : {"mean", "best"} or array-like of shape (n_classes, d), default="mean"
        ``"mean"`` is :func:`mean_classifier` (:math:`L^\mu_{sup}`), ``"best"`` the linear classifier of the
        smallest loss, found anew for each task (:math:`L_{sup}`; logistic or hinge). An array has one row per
        class, for instance the means of other images.
    loss : {"logistic", "hinge", "zero_one"}, default="logistic"
        See :func:`.theory.margin_loss`; ``"zero_one"`` is the share of errors.
    gamma : float, default=1.0
        Width of the margin of the hinge loss.
    tasks : {"distinct", "collision_free", "any"}, default="distinct"
        Which tasks, and how they are weighted; see :func:`task_distribution`. The bounds for k > 1 are about
        ``"collision_free"``.
    class_prior : array-like of shape (n_classes,) or None, default=None
        :math:`\rho` in the order of the sorted labels; None is the share of each class in `y`.
    n_tasks : int or None, default=None
        Number of tasks to draw at random; None takes them all.
    random_state : int, RandomState or None, default=None
        Seed of the draw.

    Returns
    -------
    float
        The average loss. Without any information in `H` it is log2(1 + k), 1 or 0.

    Raises
    ------
    ValueError
        If an argument is out of range or there are too many tasks to take them all.

    See Also
    --------
    mean_classifier : The classifier.
    task_distribution : The tasks that are averaged over.
    pair_bound : Bounds this loss without labels.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, eq. 4 and definition 2.2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr.theory import supervised_loss
    >>> H, y = load_digits(return_X_y=True)
    >>> print(f"{supervised_loss(H, y, loss='zero_one'):.2f}")
    0.02
    """
    codes, n_classes = class_numbers(y)
    H = representations(H, len(codes))
    prior = prior_of(class_prior, codes, n_classes)
    check_loss(loss)
    W = None
    if not isinstance(classifier, str):
        W = np.asarray(classifier, dtype=np.float64)
        if W.shape != (n_classes, H.shape[1]):
            raise ValueError(
                f"classifier has shape {W.shape}; pass {(n_classes, H.shape[1])}, one row per class."
            )
    elif check_choice("classifier", classifier, ("mean", "best")) == "mean":
        W, _ = mean_classifier(H, y)
    elif loss == "zero_one":
        raise ValueError("classifier='best' needs a convex loss; pass loss='logistic' or 'hinge'.")
    if n_tasks is None:
        chosen = task_distribution(prior, n_negatives, tasks)
    else:
        chosen = _draw_tasks(prior, n_negatives, tasks, n_tasks, random_state)
    members = [H[codes == c] for c in range(n_classes)]
    scores = None if W is None else [rows @ W.T for rows in members]
    total = 0.0
    for task, probability, weight in chosen:
        if scores is None:
            value = _best_loss([members[c] for c in task], loss, gamma)
        else:
            value = _mean_task_loss([scores[c][:, list(task)] for c in task], loss, gamma)
        total += probability * weight * value
    return float(total)


def _mean_task_loss(
    scores: list[np.ndarray], loss: Literal["logistic", "hinge", "zero_one"], gamma: float
) -> float:
    """Average over the classes of a task; `scores` are those of each class's rows, (n_c, n_classes)."""
    return np.mean(
        [
            margin_loss(s[:, [i]] - np.delete(s, i, axis=1), loss, gamma=gamma).mean()
            for i, s in enumerate(scores)
        ]
    )


def _best_loss(
    members: list[np.ndarray], loss: Literal["logistic", "hinge", "zero_one"], gamma: float
) -> float:
    H = np.concatenate(members)
    codes = np.repeat(np.arange(len(members)), [len(rows) for rows in members])
    weights = 1.0 / (len(members) * np.bincount(codes)[codes])
    (n, d), k = H.shape, len(members)
    if loss == "hinge":
        return _best_hinge(H, codes, weights, gamma)
    target = np.eye(k)[codes]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = H @ flat.reshape(k, d).T
        scores -= scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores)
        sums = exponentials.sum(axis=1)
        value = weights @ (np.log(sums) - scores[np.arange(n), codes])
        slope = (exponentials / sums[:, None] - target) * weights[:, None]
        return value / math.log(2), (slope.T @ H).ravel() / math.log(2)

    start = np.stack([rows.mean(axis=0) for rows in members])
    # Starting from the means, the result is never above the loss of the mean classifier.
    options = {"maxiter": 5000, "ftol": 1e-12, "gtol": 1e-8}
    return optimize.minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options).fun


def _best_hinge(H: np.ndarray, codes: np.ndarray, weights: np.ndarray, gamma: float) -> float:
    """Solve the linear programme: min weights @ xi, xi_i >= 1 - (W_y - W_c) h_i / gamma, xi >= 0."""
    (n, d), k = H.shape, codes.max() + 1
    blocks, rows = [], np.arange(n)
    for c in range(k):
        chosen = rows[codes != c]
        zero = sparse.csr_matrix((len(chosen), d))
        own = [sparse.csr_matrix(H[chosen] * (codes[chosen] == j)[:, None] / -gamma) for j in range(k)]
        parts = [sparse.csr_matrix(H[chosen] / gamma) if j == c else own[j] for j in range(k)]
        parts = [part if part.nnz else zero for part in parts]
        slack = sparse.csr_matrix((-np.ones(len(chosen)), (np.arange(len(chosen)), chosen)), (len(chosen), n))
        blocks.append(sparse.hstack([*parts, slack]))
    constraints = sparse.vstack(blocks).tocsr()
    cost = np.concatenate([np.zeros(k * d), weights])
    bounds = [(None, None)] * (k * d) + [(0, None)] * n
    result = optimize.linprog(cost, constraints, -np.ones(constraints.shape[0]), bounds=bounds)
    return result.fun


def _weigh_task(
    prior: NDArray[np.float64],
    task: tuple[int, ...],
    k: int,
    tasks: Literal["distinct", "collision_free", "any"],
) -> tuple[float, float]:
    """Return the probability of a task, not normalised, and its weight in the theorem."""
    if tasks == "distinct":
        return float(prior[list(task)].prod()), 1.0
    firsts = []
    prior = prior.tolist()
    for first in task:
        others = [c for c in task if c != first]
        more = prior[first] if tasks == "any" else 0.0
        # Inclusion and exclusion: k negatives among the task's classes that leave none of the others out.
        covered = math.fsum(
            (-1) ** (len(others) - size) * (more + math.fsum(prior[c] for c in subset)) ** k
            for size in range(len(others) + 1)
            for subset in itertools.combinations(others, size)
        )
        firsts.append(prior[first] * max(covered, 0.0))
    probability = math.fsum(firsts)
    if probability == 0.0:
        return 0.0, 1.0
    extreme = max(firsts) if tasks == "any" else min(firsts)
    return probability, extreme / probability * len(task)


def _draw_tasks(
    prior: NDArray[np.float64],
    k: int,
    tasks: Literal["distinct", "collision_free", "any"],
    n_tasks: int,
    random_state: RandomState,
) -> list[tuple[tuple[int, ...], float, float]]:
    check_count("n_tasks", n_tasks)
    check_count("n_negatives", k)
    check_choice("tasks", tasks, _TASKS)
    if np.count_nonzero(prior) < (k + 1 if tasks == "distinct" else 2):
        raise ValueError(
            f"n_negatives={k} asks for more classes than have a positive probability. Pass more classes, or "
            "fewer negatives."
        )
    rng = check_random_state(random_state)
    found: list[tuple[int, ...]] = []
    weights = {}
    while len(found) < n_tasks:
        for drawn in rng.choice(len(prior), size=(n_tasks, k + 1), p=prior):
            if tasks == "distinct":
                fits = len(set(drawn.tolist())) == k + 1
            else:
                same = drawn[1:] == drawn[0]
                fits = not (same.all() if tasks == "any" else same.any())
            if fits and len(found) < n_tasks:
                found.append(tuple(sorted(set(drawn.tolist()))))
    for task in set(found):
        weights[task] = _weigh_task(prior, task, k, tasks)[1]
    return [(task, 1.0 / n_tasks, weights[task]) for task in found]
