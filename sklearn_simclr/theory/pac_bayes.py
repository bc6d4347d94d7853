r"""PAC-Bayes bounds for contrastive learning: from the loss on a sample of tuples to the expected loss.

A network's weights are random: drawn from a prior P that was fixed before the data were seen, or from a
posterior Q that was learnt. The less Q differs from P, the closer the loss on the sample is to the expected
one. The bounds hold for all Q at once, with probability at least :math:`1 - \delta` over the m independent
tuples of the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from ._arguments import check_count, check_delta, check_range

__all__ = [
    "PACBayesBound",
    "catoni_phi",
    "contrastive_risk",
    "dependent_moment",
    "f_divergence_bound",
    "mean_classifier_bound",
    "risk_bound",
]


@dataclass(frozen=True)
class PACBayesBound:
    r"""A PAC-Bayes bound and what it was made from.

    Parameters
    ----------
    total : float
        The bound.
    unsupervised : float
        The bound on the expected contrastive loss or risk, of which `total` is a function.
    empirical : float
        The loss or risk on the sample.
    complexity : float
        What KL and the logarithms add in the exponent, (KL + ln(1 / delta) + ...) / m; or the last term of
        the bound by f-divergence.
    lam : float
        :math:`\lambda`, given or found; NaN where there is none.

    See Also
    --------
    risk_bound : The bound that needs no choice of lambda.

    Examples
    --------
    >>> from sklearn_simclr.theory import risk_bound
    >>> bound = risk_bound(0.1, kl=50.0, m=10_000)
    >>> round(bound.total, 3), round(bound.lam, 3)
    (0.135, 0.344)
    """

    total: float
    unsupervised: float
    empirical: float
    complexity: float
    lam: float


def catoni_phi(risk: float, kl: float, m: int, lam: float, *, delta: float = 0.05) -> float:
    r"""Return Catoni's bound on an expected risk.

    .. math:: \Phi = \frac{1 - \exp(-\lambda r - (KL + \ln(1 / \delta)) / m)}{1 - \exp(-\lambda)}

    Parameters
    ----------
    risk : float
        r, the Q-weighted risk on the sample, in [0, 1].
    kl : float
        KL(Q || P), >= 0.
    m : int
        Size of the sample, >= 1.
    lam : float
        :math:`\lambda` > 0, chosen before the data are seen.
    delta : float, default=0.05
        In (0, 1).

    Returns
    -------
    float
        The bound; it may be above 1 and then says nothing.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    risk_bound : The bound that is made with it.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, theorem 5 (Catoni, 2007) and corollary 6.

    Examples
    --------
    >>> from sklearn_simclr.theory import catoni_phi
    >>> round(catoni_phi(0.1, 50.0, 10_000, 0.35), 4)
    0.1338
    """
    check_range(risk=(risk, 0, 1), kl=(kl, 0, math.inf), lam=(lam, 0, math.inf))
    check_delta(delta)
    check_count("m", m, "the number of tuples, an int >= 1")
    if lam == 0:
        raise ValueError(f"lam={lam} is out of range; pass a number > 0.")
    return _phi(risk, (kl - math.log(delta)) / m, lam)


def mean_classifier_bound(
    loss: float,
    kl: float,
    m: int,
    *,
    largest_loss: float,
    tau: float,
    lam: float | None = None,
    degenerate: float = 1.0,
    delta: float = 0.05,
) -> PACBayesBound:
    r"""Bound the expected loss of the mean classifier by the contrastive loss on a sample.

    .. math:: L^\mu_{sup}(Q) \le \frac{1}{1 - \tau} \left( B
        \frac{1 - \exp(-\frac{\lambda}{B} \hat L_{un}(Q) - \frac{KL + \ln(1 / \delta)}{m})}{1 -
        \exp(-\lambda)}
        - \tau \ell_0 \right)

    Parameters
    ----------
    loss : float
        :math:`\hat L_{un}(Q)`, the Q-weighted logistic (base 2) or hinge loss on the sample, in [0, B]. That
        of blocks gives proposition 9, that of k negatives theorem 11.
    kl : float
        KL(Q || P), >= 0.
    m : int
        Number of tuples, >= 1.
    largest_loss : float
        B, :func:`.theory.largest_loss`, > 0.
    tau : float
        Probability that a negative is of the anchor's class, in [0, 1); :math:`\tau_k` for k negatives.
    lam : float or None, default=None
        :math:`\lambda` > 0, chosen before the data are seen. None takes the best, and
        :math:`2 \sqrt m / \delta` in place of :math:`1 / \delta`, with which the bound holds for all of them.
    degenerate : float, default=1.0
        :math:`\ell_0`, :func:`.theory.degenerate_loss`; 1 for one negative.
    delta : float, default=0.05
        In (0, 1).

    Returns
    -------
    PACBayesBound
        On the average over pairs of classes; for k negatives, on the tasks of theorem B.1 of CURL.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    risk_bound : The bound on the contrastive risk.
    mean_classifier : The classifier whose loss is bounded.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, theorem 7, proposition 9 and theorem 11.

    Examples
    --------
    >>> from sklearn_simclr.theory import mean_classifier_bound
    >>> bound = mean_classifier_bound(0.5, 50.0, 100_000, largest_loss=3.07, tau=0.1)
    >>> round(bound.total, 3), round(bound.unsupervised, 3)
    (0.489, 0.54)
    """
    check_range(
        tau=(tau, 0, 1), degenerate=(degenerate, 0, math.inf), largest_loss=(largest_loss, 0, math.inf)
    )
    if tau == 1 or largest_loss == 0:
        raise ValueError(f"tau={tau} must be < 1, and largest_loss={largest_loss} must be > 0.")
    check_range(loss=(loss, 0, largest_loss))
    if lam is None:
        bound = risk_bound(loss / largest_loss, kl, m, delta=delta)
        phi, complexity, lam = bound.total, bound.complexity, bound.lam
    else:
        phi = catoni_phi(loss / largest_loss, kl, m, lam, delta=delta)
        complexity = (kl - math.log(delta)) / m
    unsupervised = largest_loss * phi
    total = (unsupervised - tau * degenerate) / (1 - tau)
    return PACBayesBound(total, unsupervised, loss, complexity, lam)


def f_divergence_bound(
    loss: float, divergence: float, moment: float, *, tau: float, p: float = 2.0, delta: float = 0.05
) -> PACBayesBound:
    r"""Bound the expected loss of the mean classifier without the assumption that tuples are independent.

    .. math:: L^\mu_{sup}(Q) \le \frac{1}{1 - \tau} \left( \hat L_{un}(Q) - \tau
        + \left(\frac{M_q}{\delta}\right)^{1/q} (D + 1)^{1/p} \right), \quad q = \frac{p}{p - 1}

    Parameters
    ----------
    loss : float
        :math:`\hat L_{un}(Q)`, the Q-weighted loss on the sample, >= 0.
    divergence : float
        :math:`D = E_{f \sim P}[(Q / P)^p] - 1`, >= 0; for p = 2 the :math:`\chi^2` of :func:`chi2_gaussians`.
    moment : float
        :math:`M_q = E_{f \sim P} E|L_{un}(f) - \hat L_{un}(f)|^q`, >= 0; see :func:`dependent_moment` for q =
        2.
    tau : float
        Probability that a negative is of the anchor's class, in [0, 1).
    p : float, default=2.0
        > 1.
    delta : float, default=0.05
        In (0, 1).

    Returns
    -------
    PACBayesBound
        The bound.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    risk_bound : The bound for independent tuples.
    dependent_moment : A moment for tuples that share images.
    chi2_gaussians : The distance that the bound takes.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, theorem 8.

    Examples
    --------
    >>> from sklearn_simclr.theory import f_divergence_bound
    >>> round(f_divergence_bound(0.5, 3.0, 0.0005, tau=0.1).total, 3)
    0.667
    """
    check_range(
        loss=(loss, 0, math.inf),
        divergence=(divergence, 0, math.inf),
        moment=(moment, 0, math.inf),
        tau=(tau, 0, 1),
        p=(p, 1, math.inf),
    )
    check_delta(delta)
    if tau == 1 or p == 1:
        raise ValueError(f"tau={tau} must be < 1, and p={p} must be > 1.")
    complexity = (moment / delta) ** (1 - 1 / p) * (divergence + 1) ** (1 / p)
    unsupervised = loss + complexity
    return PACBayesBound((unsupervised - tau) / (1 - tau), unsupervised, loss, complexity, math.nan)


def dependent_moment(m: int, largest_loss: float, *, dependency: int = 0) -> float:
    r"""Bound the second moment of the difference between expected loss and loss on a sample.

    Parameters
    ----------
    m : int
        Number of tuples, >= 1.
    largest_loss : float
        B, such that losses lie in [0, B]; >= 0.
    dependency : int, default=0
        T >= 0: tuples further than T apart are uncorrelated. 0 is independent tuples.

    Returns
    -------
    float
        :math:`M_2 \le B^2 (1 + 8 T) / (4 m)`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    f_divergence_bound : Takes this moment.

    Notes
    -----
    A loss has a variance of at most B^2 / 4, and a covariance of at most B^2 with each of 2 T others.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, eq. 16 and eq. 17.

    Examples
    --------
    >>> from sklearn_simclr.theory import dependent_moment
    >>> dependent_moment(100, 2.0), dependent_moment(100, 2.0, dependency=2)
    (0.01, 0.17)
    """
    check_count("m", m, "the number of tuples, an int >= 1")
    check_range(largest_loss=(largest_loss, 0, math.inf))
    if not isinstance(dependency, Integral) or dependency < 0:
        raise ValueError(f"dependency={dependency!r} is out of range; pass an int >= 0.")
    return largest_loss**2 * (1 + 8 * int(dependency)) / (4 * m)


def risk_bound(
    risk: float, kl: float, m: int, *, delta: float = 0.05, prior_index: int | None = None
) -> PACBayesBound:
    r"""Bound an expected risk, with the best lambda and, if asked, for a prior variance that was learnt.

    .. math:: \min_{\lambda > 0} \frac{1 - \exp\left(-\lambda r - \frac1m \left[ KL + \ln\frac{\pi^2 j^2}{6}
        + \ln\frac{2 \sqrt m}{\delta} \right]\right)}{1 - \exp(-\lambda)}

    Parameters
    ----------
    risk : float
        r, the Q-weighted zero-one risk on the sample, in [0, 1].
    kl : float
        KL(Q || P), >= 0.
    m : int
        Size of the sample, >= 1.
    delta : float, default=0.05
        In (0, 1).
    prior_index : int or None, default=None
        j >= 1, if the variance of the prior was chosen after the data were seen among
        :math:`c\, e^{-j / b}`, j = 1, 2, ...; see :func:`prior_grid_index`. None if it was fixed before.

    Returns
    -------
    PACBayesBound
        The bound, below 1, and the best lambda, which is infinite for a risk of 0.

    Raises
    ------
    ValueError
        If an argument is out of range.

    See Also
    --------
    kl_gaussians : The distance of posterior and prior.
    contrastive_risk : The risk on the sample.
    f_divergence_bound : For tuples that share images.
    sklearn_simclr.PACBayesContrastiveTransformer : Trains an encoder by such a bound.

    Notes
    -----
    No grid is searched. With K the second part of the exponent, the minimum over lambda is the largest p with
    :math:`r \ln(r / p) + (1 - r) \ln((1 - r) / (1 - p)) \le K`, found by bisection, and
    :math:`\lambda = \ln(p (1 - r) / (r (1 - p)))`.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, eq. 18.

    Examples
    --------
    The bound that table 2 of the paper gives for AUSLAN, selected by the bound:

    >>> from sklearn_simclr.theory import risk_bound
    >>> round(risk_bound(0.267, 2054, 102_600, prior_index=570).total, 3)
    0.361
    """
    check_range(risk=(risk, 0, 1), kl=(kl, 0, math.inf))
    check_delta(delta)
    check_count("m", m, "the number of tuples, an int >= 1")
    logarithms = math.log(2 * math.sqrt(m) / delta)
    if prior_index is not None:
        if not isinstance(prior_index, Integral) or prior_index < 1:
            raise ValueError(f"prior_index={prior_index!r} is out of range; pass an int >= 1.")
        logarithms += math.log((math.pi * int(prior_index)) ** 2 / 6)
    complexity = (kl + logarithms) / m
    risk = float(risk)
    if risk == 0:
        total, lam = -math.expm1(-complexity), math.inf
    elif risk == 1:
        total, lam = 1.0, 0.0
    else:
        lam = _best_lambda(risk, complexity)
        total = _phi(risk, complexity, lam)
    return PACBayesBound(total, total, risk, complexity, lam)


def contrastive_risk(margins: ArrayLike) -> float:
    r"""Return how often a negative is more similar than the positive, the zero-one risk.

    Parameters
    ----------
    margins : array-like of shape (M, k)
        :func:`.theory.contrastive_margins`.

    Returns
    -------
    float
        Mean over tuples and negatives of whether the margin is negative, in [0, 1].

    Raises
    ------
    ValueError
        If `margins` is empty or no matrix.

    See Also
    --------
    risk_bound : Bounds the risk of new tuples.
    contrastive_margins : The margins that are counted.

    References
    ----------
    Nozawa et al., 2020, arXiv:1910.04464, eq. 34.

    Examples
    --------
    >>> from sklearn_simclr.theory import contrastive_risk
    >>> contrastive_risk([[1.0, -1.0], [2.0, 0.0]])
    0.25
    """
    margins = np.asarray(margins, dtype=np.float64)
    if margins.ndim != 2 or margins.size == 0:
        raise ValueError(f"margins has shape {margins.shape}; pass (M, k), one row per tuple.")
    return float((margins < 0).mean())


def _phi(risk: float, complexity: float, lam: float) -> float:
    return math.expm1(-lam * risk - complexity) / math.expm1(-lam)


def _best_lambda(risk: float, complexity: float) -> float:
    """Return the lambda of the smallest bound, for a risk in (0, 1)."""

    # With t = logit(p), as p itself may be closer to 1 than floats can be.
    start = math.log(risk / (1 - risk))

    def excess(t: float) -> float:
        softplus = max(t, 0.0) + math.log1p(math.exp(-abs(t)))
        kl = risk * (math.log(risk) + softplus - t) + (1 - risk) * (math.log1p(-risk) + softplus)
        return kl - complexity

    step = 1.0
    while excess(start + step) < 0:
        step *= 2
    return optimize.brentq(excess, start, start + step, xtol=1e-12) - start
