"""The contrastive losses of the theory, on margins and on tuples of representations."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import as_numbers, check_loss, finite_numbers, first_place, representations
from .tuples import ContrastiveTuples

__all__ = ["UnsupervisedLoss", "contrastive_margins", "margin_loss", "unsupervised_loss"]

# Margins of more representations at a time would take too much memory.
_ROWS_A_BLOCK = 2**18


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

    See Also
    --------
    margin_loss : The loss of such margins.
    contrastive_risk : How often a margin is negative.

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
    arrays = {name: finite_numbers(name, values) for name, values in given.items()}
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

    See Also
    --------
    contrastive_margins : The margins of tuples.
    unsupervised_loss : The mean loss over tuples.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 2; section 5.2 for gamma.

    Examples
    --------
    >>> from sklearn_simclr.theory import margin_loss
    >>> margin_loss([[0.0], [2.0]], "hinge")
    array([1., 0.])
    """
    check_loss(loss)
    if not isinstance(gamma, Real) or not 0 < gamma < math.inf:
        raise ValueError(f"gamma={gamma!r} is out of range; pass a finite number > 0.")
    v = as_numbers("margins", margins)
    if np.isnan(v).any():
        raise ValueError(f"margins contains NaN, first at {first_place(np.isnan(v))}; pass no NaN.")
    if v.ndim == 0 or v.shape[-1] == 0:
        raise ValueError(
            f"margins has shape {v.shape}; pass an array whose last axis holds the k >= 1 comparisons."
        )
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

    See Also
    --------
    sample_tuples : Draws the tuples.
    supervised_loss : The loss of the mean classifier.
    pair_bound : Bounds the one by the other.

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
    H = representations(H)
    check_loss(loss)
    if not isinstance(tuples, ContrastiveTuples):
        raise TypeError(
            f"tuples is of type {type(tuples).__name__}; pass the result of sample_tuples(y, n_tuples)."
        )
    largest = max(int(rows.max()) for rows in tuples[:3])
    if largest >= len(H):
        raise ValueError(
            f"tuples name row {largest}, but H has only {len(H)} rows; draw the tuples from the labels of "
            "the rows of H."
        )
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


def _mean_where(
    margins: np.ndarray, mask: np.ndarray, loss: Literal["logistic", "hinge", "zero_one"]
) -> float:
    """Return the mean loss on the margins where `mask`, over the rows that have one."""
    rows = mask.any(axis=1)
    if not rows.any():
        return math.nan
    # A margin of infinity adds nothing to any of the losses.
    return float(margin_loss(np.where(mask, margins, math.inf)[rows], loss).mean())
