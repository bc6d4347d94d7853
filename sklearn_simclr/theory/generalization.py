"""Bound the difference of loss on a sample of tuples and expected loss, by Rademacher complexity."""

import math
from typing import Literal

from ._arguments import check_count, check_delta, check_least, check_surrogate

__all__ = ["generalization_error", "largest_loss"]

_LIPSCHITZ = {"hinge": 1.0, "logistic": 1.0 / math.log(2)}


def largest_loss(
    radius: float, n_negatives: int = 1, *, loss: Literal["logistic", "hinge"] = "logistic"
) -> float:
    r"""Return the largest contrastive loss of representations of bounded norm.

    Parameters
    ----------
    radius : float
        R, the largest norm, >= 0.
    n_negatives : int, default=1
        k >= 1.
    loss : {"logistic", "hinge"}, default="logistic"
        Which loss.

    Returns
    -------
    float
        :math:`\log_2(1 + k e^{2 R^2})` or :math:`1 + 2 R^2`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    generalization_error : Takes this number.

    Notes
    -----
    A margin is the inner product of a vector of norm at most R and the difference of two, and lies in
    [-2 R^2, 2 R^2]. Nozawa et al. write [-2 R, 2 R], which holds for R <= 1 only, and is the same for R = 1.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, theorems 7 and 11; Arora et al., 2019, arXiv:1902.09229, lemma A.2.

    Examples
    --------
    >>> from sklearn_simclr.theory import largest_loss
    >>> largest_loss(1.0, loss="hinge"), round(largest_loss(1.0), 3)
    (3.0, 3.069)
    """
    check_least(0, radius=radius)
    check_count("n_negatives", n_negatives)
    check_surrogate(loss)
    margin = 2.0 * radius**2
    if loss == "hinge":
        return 1.0 + margin
    # log(1 + k e^m) without overflow.
    exponent = margin + math.log(n_negatives)
    return (exponent + math.log1p(math.exp(-exponent))) / math.log(2)


def generalization_error(
    radius: float,
    complexity: float,
    n_tuples: int,
    *,
    delta: float = 0.05,
    n_negatives: int = 1,
    loss: Literal["logistic", "hinge"] = "logistic",
) -> float:
    r"""Return by how much the loss of what was learnt may exceed the best there is, with explicit constants.

    With probability at least 1 - delta, the representation of the smallest loss on M tuples has a loss of at
    most that of any other of its class plus

    .. math:: Gen_M = \frac{4 \sqrt 3\, \eta R \sqrt k\, \mathcal R_S(\mathcal F)}{M}
        + 3 B \sqrt{\frac{\log(4 / \delta)}{2 M}} + 3 B \sqrt{\frac{\log(2 / \delta)}{2 M}}

    Parameters
    ----------
    radius : float
        R, the largest norm of a representation, >= 0.
    complexity : float
        :math:`\mathcal R_S(\mathcal F) = E_\sigma \sup_f \langle \sigma, f|_S \rangle` over random signs of
        all (k + 2) d M coordinates, not divided by M; >= 0.
    n_tuples : int
        M >= 1.
    delta : float, default=0.05
        In (0, 1).
    n_negatives : int, default=1
        k >= 1.
    loss : {"logistic", "hinge"}, default="logistic"
        Decides the Lipschitz constant eta, 1 / ln 2 or 1, and the largest loss B, see :func:`largest_loss`.

    Returns
    -------
    float
        :math:`Gen_M`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    pair_bound : Adds this term to the loss of a sample.

    Notes
    -----
    The paper states the order; these are the constants in its proof: 2 of the Rademacher bound, sqrt(2) of
    the vector contraction and sqrt(6) of the margins make 4 sqrt(3). Its Lipschitz constant of the logistic
    loss, 1, is that of the natural logarithm; in base 2 it is 1 / ln 2.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, appendix A.3: eq. 17, theorem A.3 and the lines after eq. 20.

    Examples
    --------
    >>> from sklearn_simclr.theory import generalization_error
    >>> round(generalization_error(1.0, 100.0, 10_000, loss="hinge"), 3)
    0.325
    """
    check_least(0, radius=radius, complexity=complexity)
    check_count("n_tuples", n_tuples)
    check_delta(delta)
    largest = largest_loss(radius, n_negatives, loss=loss)
    contraction = 4 * math.sqrt(3) * _LIPSCHITZ[loss] * radius * math.sqrt(n_negatives)
    tails = math.sqrt(math.log(4 / delta)) + math.sqrt(math.log(2 / delta))
    return contraction * complexity / n_tuples + 3 * largest * tails / math.sqrt(2 * n_tuples)
