"""Gaussian priors and posteriors: how far apart they are, and the grid of a prior variance that is learnt."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import check_range

__all__ = ["chi2_gaussians", "kl_gaussians", "prior_grid_index"]


def prior_grid_index(prior_variance: float, *, b: float = 100, c: float = 0.1) -> tuple[int, float]:
    r"""Return which of the variances that a learnt prior may have is the nearest.

    Parameters
    ----------
    prior_variance : float
        :math:`\sigma_P^2` > 0.
    b : float, default=100
        Fineness of the grid, > 0.
    c : float, default=0.1
        Upper end of the grid, > 0.

    Returns
    -------
    index : int
        j, the whole number >= 1 nearest to :math:`b \ln(c / \sigma_P^2)`.
    variance : float
        :math:`c\, e^{-j / b}`, with which KL has to be computed.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    risk_bound : Takes the index, to pay for the choice of a prior.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, eq. 14 (Dziugaite and Roy, 2017, section 3.1).

    Examples
    --------
    >>> import math
    >>> from sklearn_simclr.theory import prior_grid_index
    >>> index, variance = prior_grid_index(math.exp(-8))
    >>> index, round(math.log(variance), 4)
    (570, -8.0026)
    """
    check_range(prior_variance=(prior_variance, 0, math.inf), b=(b, 0, math.inf), c=(c, 0, math.inf))
    if 0 in (prior_variance, b, c):
        raise ValueError(f"prior_variance={prior_variance}, b={b} and c={c} must all be > 0.")
    index = max(1, round(b * math.log(c / prior_variance)))
    return index, c * math.exp(-index / b)


def kl_gaussians(mean_q: ArrayLike, variance_q: ArrayLike, mean_p: ArrayLike, variance_p: ArrayLike) -> float:
    r"""Return the Kullback-Leibler divergence KL(Q || P) of Gaussians with diagonal covariance.

    Parameters
    ----------
    mean_q : array-like of shape (N,)
        Mean of Q.
    variance_q : float or array-like of shape (N,)
        Variances of Q, > 0.
    mean_p : float or array-like of shape (N,)
        Mean of P.
    variance_p : float or array-like of shape (N,)
        Variances of P, > 0.

    Returns
    -------
    float
        In nats, >= 0.

    Raises
    ------
    ValueError
        If a variance is not positive.

    See Also
    --------
    risk_bound : Takes this distance.
    chi2_gaussians : The other distance of two Gaussians.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, section 4.1.1.

    Examples
    --------
    >>> from sklearn_simclr.theory import kl_gaussians
    >>> kl_gaussians([1.0, 0.0], 1.0, 0.0, 1.0)
    0.5
    """
    mean_q, variance_q, mean_p, variance_p = _gaussians(mean_q, variance_q, mean_p, variance_p)
    ratio = variance_q / variance_p
    terms = (mean_q - mean_p) ** 2 / variance_p + (ratio - 1 - np.log(ratio))
    return float(0.5 * terms.sum())


def chi2_gaussians(
    mean_q: ArrayLike, variance_q: ArrayLike, mean_p: ArrayLike, variance_p: ArrayLike
) -> float:
    r"""Return the chi-squared divergence of Gaussians with diagonal covariance.

    .. math:: \chi^2(Q \| P) = E_P[(Q / P)^2] - 1 = \prod_i \frac{\sigma_{P, i}^2}{\sigma_{Q, i} \sqrt{v_i}}
        \exp\frac{(\mu_{Q, i} - \mu_{P, i})^2}{v_i} - 1, \quad v_i = 2 \sigma_{P, i}^2 - \sigma_{Q, i}^2

    Parameters
    ----------
    mean_q : array-like of shape (N,)
        Mean of Q.
    variance_q : float or array-like of shape (N,)
        Variances of Q, > 0.
    mean_p : float or array-like of shape (N,)
        Mean of P.
    variance_p : float or array-like of shape (N,)
        Variances of P, > 0.

    Returns
    -------
    float
        >= 0; infinite if a variance of Q is at least twice that of P, or beyond the range of floats.

    Raises
    ------
    ValueError
        If a variance is not positive.

    See Also
    --------
    kl_gaussians : The other distance of two Gaussians.
    f_divergence_bound : The bound that takes this distance.

    Notes
    -----
    The condition for it to be finite follows from the integral; the footnote to eq. 35 of the paper states
    the one for the divergence with P and Q exchanged.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, appendix C.

    Examples
    --------
    >>> from sklearn_simclr.theory import chi2_gaussians
    >>> round(chi2_gaussians([1.0], 1.0, 0.0, 1.0), 4)  # e - 1
    1.7183
    """
    mean_q, variance_q, mean_p, variance_p = _gaussians(mean_q, variance_q, mean_p, variance_p)
    v = 2 * variance_p - variance_q
    if (v <= 0).any():
        return math.inf
    log = (np.log(variance_p) - 0.5 * np.log(variance_q * v) + (mean_q - mean_p) ** 2 / v).sum()
    return float(np.expm1(log)) if log < 700 else math.inf


def _gaussians(*values: ArrayLike) -> Sequence[NDArray[np.float64]]:
    names = ("mean_q", "variance_q", "mean_p", "variance_p")
    arrays: Sequence[NDArray[np.float64]] = [np.asarray(value, dtype=np.float64) for value in values]
    try:
        arrays = np.broadcast_arrays(*arrays)
    except ValueError as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(names, arrays, strict=True))
        raise ValueError(
            f"These shapes cannot be broadcast: {shapes}; pass vectors of one length, or single numbers."
        ) from error
    for name, variance in (("variance_q", arrays[1]), ("variance_p", arrays[3])):
        if not (variance > 0).all():
            raise ValueError(f"{name} must be > 0 everywhere; its smallest value is {variance.min()}.")
    return arrays
