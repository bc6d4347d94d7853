r"""The bounds of CURL: a small contrastive loss implies a small loss of the mean classifier.

The functions take numbers, measured with :mod:`sklearn_simclr.theory` or known otherwise, and return the
bound with its terms. Every bound may have a ``generalization`` term, :func:`generalization_error`, which is 0
where the losses are those of the distribution, or of the images at hand taken as the distribution.
"""

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

from ._arguments import check_count, check_least, check_surrogate

__all__ = [
    "Bound",
    "block_bound",
    "competitive_bound",
    "competitive_margin",
    "k_negative_bound",
    "k_negative_deviation_bound",
    "no_collision_bound",
    "pair_bound",
]

# c' of lemma A.1, from its proof: E|z| <= sqrt(2) sqrt(|Sigma|) E|f|; the logistic loss is in bits.
_DEVIATION_CONSTANT = {"hinge": math.sqrt(2), "logistic": math.sqrt(2) / math.log(2)}

# The mean loss of a sample of tuples may fall short of tau by chance, but hardly below this share of it.
_SAMPLED = 0.9


@dataclass(frozen=True)
class Bound:
    """A bound and the terms that it is the sum of.

    Parameters
    ----------
    terms : dict of str to float
        The terms.

    Attributes
    ----------
    total : float
        Their sum, the bound.

    See Also
    --------
    pair_bound : The bound to begin with.

    Examples
    --------
    >>> from sklearn_simclr.theory import pair_bound
    >>> bound = pair_bound(0.55, tau=0.1)
    >>> round(bound.total, 3), {name: round(term, 3) for name, term in bound.terms.items()}
    (0.5, {'loss': 0.611, 'collision': -0.111, 'generalization': 0.0})
    """

    terms: dict[str, float]
    total: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", math.fsum(self.terms.values()))

    def __float__(self) -> float:
        return self.total


def pair_bound(loss: float, tau: float, *, generalization: float = 0.0) -> Bound:
    r"""Bound the mean classifier's loss on pairs of classes by the contrastive loss.

    .. math:: L^\mu_{sup} \le \frac{L_{un} - \tau}{1 - \tau} + \frac{Gen_M}{1 - \tau}

    Parameters
    ----------
    loss : float
        :math:`L_{un}` with one negative, logistic (base 2) or hinge, >= 0.
    tau : float
        Probability that two classes drawn are the same, in [0, 1).
    generalization : float, default=0.0
        :math:`Gen_M`, >= 0.

    Returns
    -------
    Bound
        With the terms loss, collision (negative: what no representation can avoid is taken off) and
        generalization.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    block_bound : Tighter, for blocks of similar images.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, theorem 4.1; lemma 4.3 without the last term.

    Examples
    --------
    >>> from sklearn_simclr.theory import pair_bound
    >>> pair_bound(1.0, tau=0.1).total  # a representation that tells nothing
    1.0
    """
    check_least(0, loss=loss, generalization=generalization)
    rest = _rest("tau", tau)
    _check_possible(loss, tau)
    return Bound({"loss": loss / rest, "collision": -tau / rest, "generalization": generalization / rest})


def block_bound(loss: float, tau: float, *, generalization: float = 0.0) -> Bound:
    r"""Bound the mean classifier's loss on pairs of classes by the contrastive loss of blocks.

    .. math:: L^\mu_{sup} \le \frac{L^{block}_{un} - \tau}{1 - \tau} \le \frac{L_{un} - \tau}{1 - \tau}

    Means of b positives and b negatives are nearer to the class means that the classifier uses, so the bound
    falls as the blocks grow.

    Parameters
    ----------
    loss : float
        :math:`L^{block}_{un}` with one negative block, logistic (base 2) or hinge, >= 0.
    tau : float
        Probability that two classes drawn are the same, in [0, 1).
    generalization : float, default=0.0
        The generalization term of the block loss, >= 0.

    Returns
    -------
    Bound
        With the terms loss, collision and generalization.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    pair_bound : The same for single images.
    mean_classifier : The classifier whose loss is bounded.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, proposition 6.2; its proof bounds the mean classifier's loss.

    Examples
    --------
    >>> from sklearn_simclr.theory import block_bound
    >>> block_bound(0.46, tau=0.1).total
    0.4
    """
    return pair_bound(loss, tau, generalization=generalization)


def no_collision_bound(
    no_collision_loss: float,
    deviation: float,
    tau: float,
    *,
    loss: Literal["logistic", "hinge"] = "logistic",
    generalization: float = 0.0,
) -> Bound:
    r"""Bound the mean classifier's loss by the contrast between classes and the spread within them.

    .. math:: L^\mu_{sup} \le L_{un}^{\neq} + c' \frac{\tau}{1 - \tau} s(f) + \frac{Gen_M}{1 - \tau}

    Parameters
    ----------
    no_collision_loss : float
        :math:`L_{un}^{\neq}` with one negative, >= 0.
    deviation : float
        s(f), :func:`.theory.intraclass_deviation`, >= 0.
    tau : float
        Probability that two classes drawn are the same, in [0, 1).
    loss : {"logistic", "hinge"}, default="logistic"
        Which loss it is: c' is sqrt(2) / ln 2 or sqrt(2).
    generalization : float, default=0.0
        :math:`Gen_M`, >= 0.

    Returns
    -------
    Bound
        With the terms loss, deviation and generalization.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    pair_bound : Made of all tuples.
    intraclass_deviation : The spread that the bound takes.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, theorem 4.5; the constant from the proof of lemma A.1.

    Examples
    --------
    >>> from sklearn_simclr.theory import no_collision_bound
    >>> round(no_collision_bound(0.3, 1.0, 0.1, loss="hinge").total, 3)
    0.457
    """
    return k_negative_deviation_bound(
        no_collision_loss, deviation, tau, tau, tau, loss=loss, generalization=generalization
    )


def k_negative_bound(loss: float, tau_k: float, degenerate: float, *, generalization: float = 0.0) -> Bound:
    r"""Bound the mean classifier's loss on tasks of up to k + 1 classes by the loss with k negatives.

    .. math:: E_{T \sim \mathcal D}\left[\frac{\rho^+_{min}(T)}{p_{max}(T)} L^\mu_{sup}(T)\right] \le
        \frac{L_{un} - \tau_k E[\ell_{|I^+|}(0) \mid I^+ \ne \emptyset] + Gen_M}{1 - \tau_k}

    Parameters
    ----------
    loss : float
        :math:`L_{un}` with k negatives, >= 0.
    tau_k : float
        Probability that a negative is of the anchor's class, in [0, 1).
    degenerate : float
        The expectation on the right, :func:`.theory.degenerate_loss`, >= 0.
    generalization : float, default=0.0
        :math:`Gen_M`, >= 0.

    Returns
    -------
    Bound
        On ``supervised_loss(..., tasks="collision_free")``; with the terms loss, collision and
        generalization.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    pair_bound : The same for one negative.
    k_negative_deviation_bound : Made of the tuples without a collision.
    degenerate_loss : What collisions cost at least.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, appendix B.1, eq. 26.

    Examples
    --------
    >>> from sklearn_simclr.theory import k_negative_bound
    >>> round(k_negative_bound(1.2, 0.3, 1.1).total, 3)
    1.243
    """
    check_least(0, loss=loss, degenerate=degenerate, generalization=generalization)
    rest = _rest("tau_k", tau_k)
    return Bound(
        {
            "loss": loss / rest,
            "collision": -tau_k * degenerate / rest,
            "generalization": generalization / rest,
        }
    )


def k_negative_deviation_bound(
    no_collision_loss: float,
    deviation: float,
    tau: float,
    tau_k: float,
    tau_all: float,
    *,
    n_negatives: int = 1,
    loss: Literal["logistic", "hinge"] = "logistic",
    generalization: float = 0.0,
) -> Bound:
    r"""Bound the mean classifier's loss by contrast between classes and spread within, for k negatives.

    .. math:: E_{T \sim \mathcal D}\left[\frac{\rho^+_{min}(T)}{p_{max}(T)} L^\mu_{sup}(T)\right] \le
        \frac{1 - \tau'}{1 - \tau_k} L_{un}^{\neq} + c' k \frac{\tau}{1 - \tau_k} s(f) + \frac{Gen_M}{1 -
        \tau_k}

    Parameters
    ----------
    no_collision_loss : float
        :math:`L_{un}^{\neq}` with k negatives, >= 0.
    deviation : float
        s(f), :func:`.theory.intraclass_deviation`, >= 0.
    tau : float
        Probability that one negative is of the anchor's class, in [0, 1).
    tau_k : float
        Probability that at least one of the k is, in [tau, 1).
    tau_all : float
        :math:`\tau'`, the probability that all k are, in [0, tau].
    n_negatives : int, default=1
        k >= 1.
    loss : {"logistic", "hinge"}, default="logistic"
        Which loss it is: c' is sqrt(2) / ln 2 or sqrt(2).
    generalization : float, default=0.0
        :math:`Gen_M`, >= 0.

    Returns
    -------
    Bound
        On ``supervised_loss(..., tasks="collision_free")``; with the terms loss, deviation and
        generalization.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    no_collision_bound : The same for one negative.
    k_negative_bound : Made of all tuples.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, theorem B.1.

    Examples
    --------
    >>> from sklearn_simclr.theory import k_negative_deviation_bound
    >>> round(k_negative_deviation_bound(0.5, 1.0, 0.1, 0.19, 0.01, n_negatives=2, loss="hinge").total, 3)
    0.96
    """
    check_least(0, no_collision_loss=no_collision_loss, deviation=deviation, generalization=generalization)
    check_surrogate(loss)
    check_count("n_negatives", n_negatives)
    rest = _rest("tau_k", tau_k)
    # Sums of floats may differ in the last place.
    if not 0 <= tau_all <= tau * (1 + 1e-9) <= tau_k * (1 + 1e-8) + 1e-15:
        raise ValueError(
            f"tau_all={tau_all}, tau={tau} and tau_k={tau_k} are not in rising order. Pass the probabilities "
            "that all negatives, a given one, and any of them are of the anchor's class: "
            "0 <= tau_all <= tau <= tau_k."
        )
    return Bound(
        {
            "loss": (1 - tau_all) / rest * no_collision_loss,
            "deviation": _DEVIATION_CONSTANT[loss] * n_negatives * tau / rest * deviation,
            "generalization": generalization / rest,
        }
    )


def competitive_margin(radius: float, sigma: float, epsilon: float, *, n_negatives: int = 1) -> float:
    r"""Return the margin with which the contrastive loss competes with the mean classifier's.

    Parameters
    ----------
    radius : float
        R, the largest norm of a representation, > 0.
    sigma : float
        Representations are :math:`\sigma^2`-sub-Gaussian within each class in every direction, >= 0. R will
        do, less if the classes are concentrated.
    epsilon : float
        What is added to the bound, > 0.
    n_negatives : int, default=1
        k >= 1.

    Returns
    -------
    float
        :math:`\gamma = 1 + 2 R \sigma \sqrt{2 \log \max(R, 1) + \log(3 / \epsilon)}` for k = 1. For more,
        :math:`1 + R \sigma (\sqrt{2 \log(k q)} + \sqrt{2 \log q})` with
        :math:`q = 6 \max(R, 1)^2 / \epsilon`.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    competitive_bound : Takes the margin.
    intraclass_deviation : The spread within the classes.

    Notes
    -----
    The paper leaves the constant open for k > 1; this one follows its proof, with each of the two tail
    probabilities at most 1 / q. An epsilon for which a logarithm would be negative counts as one for which it
    is 0.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, proofs of lemmas 5.1 (appendix A.2) and B.2.

    Examples
    --------
    >>> from sklearn_simclr.theory import competitive_margin
    >>> round(competitive_margin(1.0, 0.2, 0.1), 3)
    1.738
    """
    check_least(0, radius=radius, sigma=sigma, epsilon=epsilon)
    if radius == 0 or epsilon == 0:
        raise ValueError(f"radius={radius} and epsilon={epsilon} must be > 0.")
    check_count("n_negatives", n_negatives)
    square = max(radius, 1.0) ** 2
    if n_negatives == 1:
        return 1 + 2 * radius * sigma * math.sqrt(max(math.log(3 * square / epsilon), 0.0))
    tail = max(math.log(6 * square / epsilon), 0.0)
    return 1 + radius * sigma * (math.sqrt(2 * (math.log(n_negatives) + tail)) + math.sqrt(2 * tail))


def competitive_bound(
    margin_loss: float,
    deviation: float,
    tau: float,
    *,
    gamma: float,
    epsilon: float,
    n_negatives: int = 1,
    tau_k: float | None = None,
    tau_all: float | None = None,
    generalization: float = 0.0,
) -> Bound:
    r"""Bound the hinge loss of what contrastive learning finds by that of any other representation.

    .. math:: L^\mu_{sup}(\hat f) \le \frac{1 - \tau'}{1 - \tau_k} \gamma L^\mu_{\gamma, sup}(f)
        + c' k \frac{\tau}{1 - \tau_k} s(f) + \frac{Gen_M}{1 - \tau_k} + \frac{1 - \tau'}{1 - \tau_k} \epsilon

    where f is any representation of the class, concentrated within the classes, and :math:`\hat f` is that of
    the smallest contrastive loss. For one negative the fractions before gamma and epsilon are 1.

    Parameters
    ----------
    margin_loss : float
        :math:`L^\mu_{\gamma, sup}(f)`, ``supervised_loss(loss="hinge", gamma=gamma)``, with ``tasks="any"``
        if k > 1; >= 0.
    deviation : float
        s(f), :func:`.theory.intraclass_deviation`, >= 0.
    tau : float
        Probability that one negative is of the anchor's class, in [0, 1).
    gamma : float
        :func:`competitive_margin`, >= 1.
    epsilon : float
        That of the margin, >= 0.
    n_negatives : int, default=1
        k >= 1.
    tau_k : float or None, default=None
        Probability that at least one of the k negatives is of the anchor's class; needed for k > 1.
    tau_all : float or None, default=None
        Probability that all are; needed for k > 1.
    generalization : float, default=0.0
        :math:`Gen_M`, >= 0.

    Returns
    -------
    Bound
        With the terms loss, deviation, generalization and epsilon.

    Raises
    ------
    ValueError
        If a number is out of range or missing.

    See Also
    --------
    competitive_margin : The margin that the bound takes.
    pair_bound : The bound to begin with.

    Notes
    -----
    Corollary 5.1.1 prints tau / (1 - tau) before the generalization term and lemma B.2 leaves out c' and the
    factor of epsilon; the terms here are those that follow from theorems 4.5 and B.1.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, corollary 5.1.1 and lemma B.2.

    Examples
    --------
    >>> from sklearn_simclr.theory import competitive_bound
    >>> round(competitive_bound(0.1, 0.2, 0.1, gamma=1.7, epsilon=0.1).total, 3)
    0.301
    """
    check_least(0, margin_loss=margin_loss, epsilon=epsilon)
    check_least(1, gamma=gamma)
    if n_negatives == 1:
        tau_k, tau_all = tau, tau
    elif tau_k is None or tau_all is None:
        raise ValueError(
            f"n_negatives={n_negatives} needs tau_k and tau_all. Pass "
            "tau_k=collision_probability(class_prior, n_negatives), and the same with every=True as tau_all."
        )
    bound = k_negative_deviation_bound(
        gamma * margin_loss,
        deviation,
        tau,
        tau_k,
        tau_all,
        n_negatives=n_negatives,
        loss="hinge",
        generalization=generalization,
    )
    return Bound({**bound.terms, "epsilon": (1 - tau_all) / (1 - tau_k) * epsilon})


def _check_possible(loss: float, tau: float) -> None:
    # Tuples whose classes collide cost 1 or more in expectation; their mean in a sample may be a little less.
    if loss < _SAMPLED * tau:
        raise ValueError(
            f"loss={loss:g} is below tau={tau:g}, but no contrastive loss is smaller than the share of "
            "tuples with a negative of the anchor's class. Pass the loss and tau of the same classes."
        )


def _rest(name: str, tau: float) -> float:
    if not isinstance(tau, Real) or not 0 <= tau < 1:
        all_same = isinstance(tau, Real) and tau == 1
        why = " If all images are of one class, there is nothing to contrast." if all_same else ""
        raise ValueError(
            f"{name}={tau!r:.60} is out of range; pass a probability in [0, 1), such as "
            f"collision_probability returns.{why}"
        )
    return 1.0 - tau
