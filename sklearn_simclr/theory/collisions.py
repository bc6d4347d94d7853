"""Class collisions: how often a negative is of the anchor's class, and what that costs."""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .._utils.types import Labels
from ._arguments import check_count, check_prior, check_surrogate, class_numbers, prior_of, representations

__all__ = ["collision_probability", "degenerate_loss", "intraclass_deviation"]


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

    See Also
    --------
    pair_bound : Takes this probability.
    degenerate_loss : What collisions cost at least.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 4.1 and appendix B.1.

    Examples
    --------
    >>> from sklearn_simclr.theory import collision_probability
    >>> round(collision_probability([0.1] * 10), 6), round(collision_probability([0.1] * 10, 4), 4)
    (0.1, 0.3439)
    """
    prior = check_prior(class_prior)
    check_count("n_negatives", n_negatives)
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

    See Also
    --------
    collision_probability : How often collisions occur.
    k_negative_bound : Takes this loss.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, appendix B.1, eq. 23.

    Examples
    --------
    >>> from sklearn_simclr.theory import degenerate_loss
    >>> round(degenerate_loss([0.5, 0.5], 2), 4)  # one collision or, half as often, two
    1.195
    """
    prior = check_prior(class_prior)
    check_count("n_negatives", n_negatives)
    check_surrogate(loss)
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

    See Also
    --------
    no_collision_bound : Takes this spread.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, eq. 9.

    Examples
    --------
    >>> from sklearn_simclr.theory import intraclass_deviation
    >>> intraclass_deviation([[0.0, 1.0], [0.0, 3.0], [5.0, 0.0], [5.0, 0.0]], [0, 0, 1, 1])
    1.0
    """
    codes, n_classes = class_numbers(y)
    H = representations(H, len(codes))
    prior = prior_of(class_prior, codes, n_classes)
    total = 0.0
    for c in range(n_classes):
        rows = H[codes == c]
        # The largest singular value of the centred rows is the root of n times the largest variance.
        largest = np.linalg.norm(rows - rows.mean(axis=0), ord=2) / math.sqrt(len(rows))
        total += prior[c] ** 2 * largest * np.linalg.norm(rows, axis=1).mean()
    return float(total / (prior**2).sum())
