r"""Measure the losses of contrastive theory on representations with known classes.

The framework is that of Arora et al. (2019), "CURL". Each class c has a probability :math:`\rho(c)` and a
distribution of images :math:`D_c`. Contrastive training sees an anchor x and a positive x+ of one class, and
k negatives of classes that are drawn anew, perhaps the same. Here the images at hand stand for the
distributions: :math:`D_c` is the uniform distribution on the rows of class c. Then every inequality of the
paper holds exactly, up to the sampling of tuples. The inequalities themselves are in
:mod:`sklearn_simclr.theory`, the classification tasks that they bound the loss of in
:mod:`sklearn_simclr.theory`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.utils import check_random_state

from .._utils.labels import labelled_rows
from .._utils.types import Labels, RandomState

__all__ = [
    "ContrastiveTuples",
    "UnsupervisedLoss",
    "collision_probability",
    "contrastive_margins",
    "degenerate_loss",
    "intraclass_deviation",
    "margin_loss",
    "sample_tuples",
    "unsupervised_loss",
]

_LOSSES = ("logistic", "hinge", "zero_one")

# Margins of tuples are computed for so many representations at a time.
_ROWS_A_BLOCK = 2**18


class ContrastiveTuples(NamedTuple):
    """Tuples of an anchor, its positives and its negatives, as row numbers.

    Parameters
    ----------
    anchor : ndarray of shape (M,)
        Rows of the anchors x.
    positive : ndarray of shape (M, b)
        Rows of the b positives x+ of each anchor.
    negative : ndarray of shape (M, k, b)
        Rows of the k blocks of b negatives x-.
    positive_class : ndarray of shape (M,)
        Number of the class of anchor and positives, an index of the sorted labels.
    negative_class : ndarray of shape (M, k)
        Numbers of the classes of the negatives.

    See Also
    --------
    sample_tuples : Draws them.

    Examples
    --------
    >>> from sklearn_simclr.theory import sample_tuples
    >>> tuples = sample_tuples([0, 0, 1, 1], 3, n_negatives=2, random_state=0)
    >>> tuples.anchor.shape, tuples.positive.shape, tuples.negative.shape
    ((3,), (3, 1), (3, 2, 1))
    """

    anchor: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    positive_class: np.ndarray
    negative_class: np.ndarray


@dataclass(frozen=True)
class UnsupervisedLoss:
    r"""A contrastive loss, and what class collisions have to do with it.

    Parameters
    ----------
    total : float
        The loss, :math:`L_{un}`.
    standard_error : float
        Of the total, from the spread over the tuples.
    no_collision : float
        :math:`L_{un}^{\neq}`: the loss on the negatives of other classes than the anchor's alone, over the
        tuples that have one; NaN if there is none.
    collision : float
        :math:`L_{un}^{=}`: the loss on the negatives of the anchor's own class alone, over the tuples that
        have one; NaN if there is none.
    collision_rate : float
        Share of tuples with at least one negative of the anchor's class; it estimates :math:`\tau_k`.
    all_collision_rate : float
        Share of tuples all of whose negatives are of the anchor's class; it estimates :math:`\tau'`.

    See Also
    --------
    unsupervised_loss : Computes it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.theory import sample_tuples, unsupervised_loss
    >>> H, y = np.array([[1.0, 0.0], [0.0, 1.0]]), [0, 1]
    >>> loss = unsupervised_loss(H, sample_tuples(y, 1000, random_state=0), loss="hinge")
    >>> loss.collision, loss.no_collision
    (1.0, 0.0)
    """

    total: float
    standard_error: float
    no_collision: float
    collision: float
    collision_rate: float
    all_collision_rate: float


def sample_tuples(
    y: Labels,
    n_tuples: int,
    *,
    n_negatives: int = 1,
    block_size: int = 1,
    class_prior: ArrayLike | None = None,
    random_state: RandomState = None,
) -> ContrastiveTuples:
    r"""Draw anchors, positives and negatives by latent class.

    For each tuple, classes :math:`c^+, c^-_1, \dots, c^-_k` are drawn independently from the prior, then the
    anchor and b positives from the images of :math:`c^+`, and b negatives from those of each :math:`c^-_i`.
    All draws are independent and with replacement, as the theory asks: the positive may be the anchor itself,
    and a negative may be of the anchor's class (a *collision*).

    Parameters
    ----------
    y : array-like of shape (n,)
        Class of each row.
    n_tuples : int
        M >= 1.
    n_negatives : int, default=1
        k >= 1.
    block_size : int, default=1
        b >= 1; 1 is pairs.
    class_prior : array-like of shape (n_classes,) or None, default=None
        :math:`\rho`, in the order of the sorted labels, >= 0 and of sum 1. None is the share of each class in
        `y`.
    random_state : int, RandomState or None, default=None
        Seed.

    Returns
    -------
    ContrastiveTuples
        Row numbers and classes.

    Raises
    ------
    ValueError
        If `y` is no vector of labels, or a number or the prior is out of range.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 2 (pairs), 6.1 (k negatives) and 6.3 (blocks).

    Examples
    --------
    >>> from sklearn_simclr.theory import sample_tuples
    >>> tuples = sample_tuples(["cat", "cat", "dog"], 4, block_size=2, random_state=0)
    >>> tuples.positive.shape, tuples.negative.shape
    ((4, 2), (4, 1, 2))
    """
    codes, n_classes = _classes(y)
    prior = _prior(class_prior, codes, n_classes)
    for name, value in (("n_tuples", n_tuples), ("n_negatives", n_negatives), ("block_size", block_size)):
        _check_count(name, value)
    rng = check_random_state(random_state)
    drawn = rng.choice(n_classes, size=(n_tuples, 1 + n_negatives), p=prior)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=n_classes)
    starts = np.cumsum(counts) - counts

    def rows(classes: np.ndarray) -> np.ndarray:
        return order[starts[classes] + rng.randint(counts[classes])]

    plus, minus = drawn[:, 0], drawn[:, 1:]
    return ContrastiveTuples(
        rows(plus),
        rows(np.repeat(plus[:, None], block_size, axis=1)),
        rows(np.repeat(minus[:, :, None], block_size, axis=2)),
        plus,
        minus,
    )


def contrastive_margins(
    anchors: ArrayLike, positives: ArrayLike, negatives: ArrayLike
) -> NDArray[np.float64]:
    r"""Return by how much each anchor is more similar to its positives than to its negatives.

    Parameters
    ----------
    anchors : array-like of shape (M, d)
        Representations f(x).
    positives : array-like of shape (M, d) or (M, b, d)
        Those of the positives; of a block, the mean is taken.
    negatives : array-like of shape (M, d), (M, k, d) or (M, k, b, d)
        Those of k negatives, or of k blocks of b.

    Returns
    -------
    ndarray of shape (M, k)
        :math:`v_i = f(x)^\top (f(x^+) - f(x^-_i))`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, eq. 5 and eq. 12.

    Examples
    --------
    >>> from sklearn_simclr.theory import contrastive_margins
    >>> contrastive_margins([[2.0, 0.0]], [[1.0, 1.0]], [[[0.0, 1.0], [3.0, 0.0]]])
    array([[ 2., -4.]])
    """
    given = {"anchors": anchors, "positives": positives, "negatives": negatives}
    arrays = {name: _finite(name, values) for name, values in given.items()}
    for (name, array), allowed in zip(arrays.items(), ((2,), (2, 3), (2, 3, 4)), strict=True):
        first = arrays["anchors"].shape
        if array.ndim not in allowed or (array.shape[0], array.shape[-1]) != (first[0], first[-1]):
            beside = "" if name == "anchors" else f" where anchors has {first}"
            raise ValueError(
                f"{name} has shape {array.shape}{beside}; pass anchors (M, d), positives "
                "(M, d) or (M, b, d), negatives (M, d), (M, k, d) or (M, k, b, d)."
            )
    anchor, positive, negative = arrays.values()
    if positive.ndim == 3:
        positive = positive.mean(axis=1)
    if negative.ndim == 2:
        negative = negative[:, None]
    elif negative.ndim == 4:
        negative = negative.mean(axis=2)
    return np.einsum("md,mkd->mk", anchor, positive[:, None] - negative)


def margin_loss(
    margins: ArrayLike, loss: Literal["logistic", "hinge", "zero_one"] = "logistic", *, gamma: float = 1.0
) -> NDArray[np.float64]:
    r"""Return the loss of each row of margins, one number for its k comparisons.

    Parameters
    ----------
    margins : array-like of shape (..., k)
        v, k >= 1.
    loss : {"logistic", "hinge", "zero_one"}, default="logistic"
        :math:`\log_2(1 + \sum_i e^{-v_i})`; :math:`\max(0, 1 + \max_i(-v_i) / \gamma)`; or whether the
        smallest margin is negative, 1 or 0.
    gamma : float, default=1.0
        Width of the margin of the hinge loss, > 0.

    Returns
    -------
    ndarray of shape (...,)
        The losses. At v = 0 they are log2(1 + k), 1 and 0.

    Raises
    ------
    ValueError
        If `loss` or `gamma` is out of range, or k is 0.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 2; section 5.2 for gamma.

    Examples
    --------
    >>> from sklearn_simclr.theory import margin_loss
    >>> margin_loss([[0.0], [2.0]], "hinge")
    array([1., 0.])
    """
    _check_loss(loss)
    if not isinstance(gamma, Real) or not 0 < gamma < math.inf:
        raise ValueError(f"gamma={gamma!r} is out of range; pass a finite number > 0.")
    v = _numbers("margins", margins)
    if np.isnan(v).any():
        raise ValueError(f"margins contains NaN, first at {_first(np.isnan(v))}; pass numbers.")
    if v.ndim == 0 or v.shape[-1] == 0:
        raise ValueError(f"margins has shape {v.shape}; its last axis holds the k >= 1 comparisons.")
    if loss == "hinge":
        return np.maximum(0.0, 1.0 - v.min(axis=-1) / gamma)
    if loss == "zero_one":
        return (v.min(axis=-1) < 0).astype(np.float64)
    smallest = np.minimum(v.min(axis=-1), 0.0)
    # Shifted so that the largest exponential is 1, or less if all the margins are positive.
    sums = np.exp(smallest) + np.exp(smallest[..., None] - v).sum(axis=-1)
    return (np.log(sums) - smallest) / math.log(2)


def unsupervised_loss(
    H: ArrayLike, tuples: ContrastiveTuples, *, loss: Literal["logistic", "hinge", "zero_one"] = "logistic"
) -> UnsupervisedLoss:
    r"""Return the contrastive loss on tuples, and its parts with and without class collision.

    For one negative, :math:`L_{un} = \tau L_{un}^{=} + (1 - \tau) L_{un}^{\neq}`, here with the share of
    collisions for :math:`\tau`. For more,
    :math:`L_{un} \le \tau_k L_{un}^{=} + (1 - \tau') L_{un}^{\neq}`.

    Parameters
    ----------
    H : array-like of shape (n, d)
        Representations.
    tuples : ContrastiveTuples
        Rows of `H`. Blocks (b > 1) give the block loss.
    loss : {"logistic", "hinge", "zero_one"}, default="logistic"
        See :func:`margin_loss`.

    Returns
    -------
    UnsupervisedLoss
        The loss and its parts.

    Raises
    ------
    ValueError
        If `H` is not a finite matrix, or a tuple names a row that `H` lacks.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, eq. 6, eq. 8, eq. 12 and appendix B.1 (eq. 31).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr.theory import sample_tuples, unsupervised_loss
    >>> H, y = load_digits(return_X_y=True)
    >>> tuples = sample_tuples(y, 5000, random_state=0)
    >>> loss = unsupervised_loss(H / 60, tuples)
    >>> loss.no_collision < loss.total < loss.collision
    True
    """
    H = _matrix(H)
    _check_loss(loss)
    if not isinstance(tuples, ContrastiveTuples):
        raise TypeError(f"tuples is of type {type(tuples).__name__}; pass what sample_tuples(y, n) returns.")
    largest = max(int(rows.max()) for rows in tuples[:3])
    if largest >= len(H):
        raise ValueError(f"tuples name row {largest}, but H has {len(H)} rows; draw them from its labels.")
    k, b = tuples.negative.shape[1:]
    step = max(1, _ROWS_A_BLOCK // (k * b))
    margins = np.concatenate(
        [
            contrastive_margins(H[anchor], H[positive], H[negative])
            for anchor, positive, negative in (
                [rows[start : start + step] for rows in tuples[:3]]
                for start in range(0, len(tuples.anchor), step)
            )
        ]
    )
    same = tuples.negative_class == tuples.positive_class[:, None]
    losses = margin_loss(margins, loss)
    spread = losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    return UnsupervisedLoss(
        float(losses.mean()),
        float(spread),
        _mean_where(margins, ~same, loss),
        _mean_where(margins, same, loss),
        float(same.any(axis=1).mean()),
        float(same.all(axis=1).mean()),
    )


def collision_probability(class_prior: ArrayLike, n_negatives: int = 1, *, every: bool = False) -> float:
    r"""Return the probability that a negative is of the anchor's class.

    Parameters
    ----------
    class_prior : array-like of shape (n_classes,)
        :math:`\rho`, >= 0 and of sum 1.
    n_negatives : int, default=1
        k >= 1.
    every : bool, default=False
        Whether all k negatives are to be of the anchor's class, not at least one.

    Returns
    -------
    float
        :math:`\tau_k = 1 - \sum_c \rho(c) (1 - \rho(c))^k`, for k = 1 :math:`\tau = \sum_c \rho(c)^2`; or
        :math:`\tau' = \sum_c \rho(c)^{k + 1}`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 4.1 and appendix B.1.

    Examples
    --------
    >>> from sklearn_simclr.theory import collision_probability
    >>> round(collision_probability([0.1] * 10), 6), round(collision_probability([0.1] * 10, 4), 4)
    (0.1, 0.3439)
    """
    prior = _check_prior(class_prior)
    _check_count("n_negatives", n_negatives)
    if every:
        return float((prior ** (n_negatives + 1)).sum())
    return float((prior * (1.0 - (1.0 - prior) ** n_negatives)).sum())


def degenerate_loss(
    class_prior: ArrayLike, n_negatives: int = 1, *, loss: Literal["logistic", "hinge"] = "logistic"
) -> float:
    r"""Return the loss that collisions cost any representation, on average over the tuples that have one.

    A negative of the anchor's class cannot be told from the positive: its mean margin is 0 whatever the
    representation.

    Parameters
    ----------
    class_prior : array-like of shape (n_classes,)
        :math:`\rho`, >= 0 and of sum 1.
    n_negatives : int, default=1
        k >= 1.
    loss : {"logistic", "hinge"}, default="logistic"
        See :func:`margin_loss`.

    Returns
    -------
    float
        :math:`E[\ell_{|I^+|}(0) \mid I^+ \ne \emptyset]` with :math:`|I^+|` the number of collisions;
        1 for the hinge loss or for k = 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, appendix B.1, eq. 23.

    Examples
    --------
    >>> from sklearn_simclr.theory import degenerate_loss
    >>> round(degenerate_loss([0.5, 0.5], 2), 4)  # one collision or, half as often, two
    1.195
    """
    prior = _check_prior(class_prior)
    _check_count("n_negatives", n_negatives)
    _check_loss(loss, _LOSSES[:2])
    if loss == "hinge":
        return 1.0
    counts = np.arange(1, n_negatives + 1)
    probabilities = prior @ stats.binom.pmf(counts, n_negatives, prior[:, None])
    return float(probabilities @ np.log2(1 + counts) / probabilities.sum())


def intraclass_deviation(H: ArrayLike, y: Labels, *, class_prior: ArrayLike | None = None) -> float:
    r"""Return how far representations spread within their classes.

    Parameters
    ----------
    H : array-like of shape (n, d)
        Representations.
    y : array-like of shape (n,)
        Class of each row.
    class_prior : array-like of shape (n_classes,) or None, default=None
        :math:`\rho` in the order of the sorted labels; None is the share of each class in `y`.

    Returns
    -------
    float
        :math:`s(f) = E_{c \sim \nu}[\sqrt{\|\Sigma(f, c)\|_2}\; E_{x \sim D_c} \|f(x)\|]` with
        :math:`\nu(c) \propto \rho(c)^2` and :math:`\Sigma(f, c)` the covariance within class c; 0 if every
        class is one point.

    Raises
    ------
    ValueError
        If `H` is not a finite matrix with as many rows as `y`, or the prior is out of range.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, eq. 9.

    Examples
    --------
    >>> from sklearn_simclr.theory import intraclass_deviation
    >>> intraclass_deviation([[0.0, 1.0], [0.0, 3.0], [5.0, 0.0], [5.0, 0.0]], [0, 0, 1, 1])
    1.0
    """
    codes, n_classes = _classes(y)
    H = _matrix(H, len(codes))
    prior = _prior(class_prior, codes, n_classes)
    total = 0.0
    for c in range(n_classes):
        rows = H[codes == c]
        # The largest singular value of the centred rows is the root of n times the largest variance.
        largest = np.linalg.norm(rows - rows.mean(axis=0), ord=2) / math.sqrt(len(rows))
        total += prior[c] ** 2 * largest * np.linalg.norm(rows, axis=1).mean()
    return float(total / (prior**2).sum())


def _mean_where(
    margins: np.ndarray, mask: np.ndarray, loss: Literal["logistic", "hinge", "zero_one"]
) -> float:
    """Return the mean loss on the margins where `mask`, over the rows that have one."""
    rows = mask.any(axis=1)
    if not rows.any():
        return math.nan
    # A margin of infinity adds nothing to any of the losses.
    return float(margin_loss(np.where(mask, margins, math.inf)[rows], loss).mean())


def _classes(y: Labels) -> tuple[np.ndarray, int]:
    rows, labels, n = labelled_rows(y)
    if len(rows) < n:
        missing = np.setdiff1d(np.arange(n), rows)
        raise ValueError(
            f"y has no label in row {missing[0]} and {len(missing) - 1} other rows: -1, None or NaN. Leave "
            "them out, y[labelled] and H[labelled]."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    return codes, len(classes)


def _numbers(name: str, values: object) -> NDArray[np.float64]:
    """Return values as a float64 array."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {values!r:.60}, of type {type(values).__name__}; pass numbers."
        ) from error


def _finite(name: str, values: object) -> NDArray[np.float64]:
    """Return values as a float64 array of finite numbers."""
    array = _numbers(name, values)
    if not np.isfinite(array).all():
        place = _first(~np.isfinite(array))
        raise ValueError(f"{name} contains NaN or infinity, first at {place}; pass finite values.")
    return array


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(place[0]) for place in np.nonzero(mask))


def _matrix(H: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    H = _numbers("H", H)
    if H.ndim != 2 or 0 in H.shape:
        raise ValueError(f"H has shape {H.shape}; pass representations (n, d).")
    if n is not None and len(H) != n:
        raise ValueError(f"H has {len(H)} rows and y {n}; pass the class of each row.")
    if not np.isfinite(H).all():
        row = np.flatnonzero(~np.isfinite(H).all(axis=1))[0]
        raise ValueError(f"H contains NaN or infinity, first in row {row}; pass finite values.")
    return H


def _prior(class_prior: ArrayLike | None, codes: np.ndarray, n_classes: int) -> NDArray[np.float64]:
    if class_prior is None:
        return np.bincount(codes, minlength=n_classes) / len(codes)
    prior = _check_prior(class_prior)
    if len(prior) != n_classes:
        raise ValueError(
            f"class_prior has {len(prior)} entries but y {n_classes} classes; pass one for each."
        )
    return prior


def _check_prior(class_prior: ArrayLike) -> NDArray[np.float64]:
    prior = _numbers("class_prior", class_prior)
    if prior.ndim != 1 or len(prior) == 0 or not (prior >= 0).all() or abs(prior.sum() - 1) > 1e-6:
        raise ValueError(
            f"class_prior={class_prior!r:.60} is not a distribution; pass a vector of numbers >= 0 of sum 1."
        )
    return prior / prior.sum()


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} is out of range; pass an int >= 1.")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; pass one of {', '.join(map(repr, choices))}.")
    return value


def _check_loss(loss: str, choices: Sequence[str] = _LOSSES) -> str:
    return _check_choice("loss", loss, choices)
