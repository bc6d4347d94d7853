"""NT-Xent with other negatives: without the positive among them, or with the hard ones counted for more."""

import math
from numbers import Real

from torch import Tensor
from torch.nn.functional import softplus

from ._rowwise import _mean_over_anchors, _negatives, _partners
from ._tiles import _check_pairs, _check_temperature

__all__ = ["dcl", "hard_nt_xent"]

# Beyond this difference of logits, positives outweigh all negatives.
_LARGEST_EXPONENT = 60.0


def dcl(z: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Return the decoupled contrastive loss: NT-Xent without the positive in the denominator.

    For an anchor i with the other view j of the same image,

    .. math:: \ell_i = -s_{ij} / T + \log \sum_{k \ne i, j} \exp(s_{ik} / T)

    where s is the cosine similarity and T the temperature; the result is the mean over the 2N anchors. In
    NT-Xent, an anchor whose positive is near pushes its negatives less; here it pushes them all the same,
    which learns more from small batches.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    temperature : float, default=0.1
        T > 0 (at least 1e-30).

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64). log(2N - 2) if all rows are equal; it may be below 0.

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor or `temperature` not a number.
    ValueError
        If the shape of `z` or `temperature` is out of range.

    See Also
    --------
    nt_xent : With the positive in the denominator.

    References
    ----------
    Yeh et al., "Decoupled contrastive learning", 2022, arXiv:2110.06848.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import dcl
    >>> views = torch.eye(4)
    >>> round(dcl(torch.cat([views, views]), temperature=0.5).item(), 4)
    -0.2082
    """
    _check_temperature(temperature)
    _check_pairs(z, "z", smallest=2)
    scale = 1.0 / float(temperature)

    def anchors(similarity: Tensor, rows: Tensor) -> Tensor:
        positive, negatives = _scaled(similarity, rows, scale)
        return negatives.logsumexp(1) - positive

    return _mean_over_anchors(z, anchors)


def hard_nt_xent(z: Tensor, temperature: float = 0.5, *, beta: float = 1.0, tau_plus: float = 0.0) -> Tensor:
    r"""Return NT-Xent in which negatives count for more the more similar they are to the anchor.

    For an anchor i with the other view j of the same image and the M = 2N - 2 views of other images,

    .. math:: \ell_i = -\log \frac{e^{s_{ij} / T}}{e^{s_{ij} / T} + g_i}, \qquad
        g_i = \max\left(M e^{-1 / T},\; \frac{M}{1 - \tau^+} \left(
        \frac{\sum_k e^{(1 + \beta) s_{ik} / T}}{\sum_k e^{\beta s_{ik} / T}}
        - \tau^+ e^{s_{ij} / T}\right)\right)

    where s is the cosine similarity and T the temperature; the result is the mean over the 2N anchors. With
    :math:`\beta = \tau^+ = 0` it is NT-Xent.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    temperature : float, default=0.5
        T > 0 (at least 1e-30). The default is that of the authors' code.
    beta : float, default=1.0
        :math:`\beta \ge 0`: how much more similar negatives count. The default is that of the authors' code.
    tau_plus : float, default=0.0
        :math:`\tau^+` in [0, 1): how probable it is that a negative is of the class of the anchor, which is
        one over the number of balanced classes. The authors' code has 0.1.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64). log(2N - 1) if all rows are equal.

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor or a parameter not a number.
    ValueError
        If the shape of `z` or a parameter is out of range.

    See Also
    --------
    nt_xent : All negatives count the same.

    Notes
    -----
    As in the authors' code, :math:`\beta` stands beside similarities over the temperature, and the gradient
    goes through the weights of the negatives, too.

    References
    ----------
    Robinson et al., "Contrastive learning with hard negative samples", 2021, arXiv:2010.04592, section 3 and
    appendix. Chuang et al., "Debiased contrastive learning", 2020, arXiv:2007.00224, for :math:`\tau^+`.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import hard_nt_xent
    >>> views = torch.eye(4)
    >>> round(hard_nt_xent(torch.cat([views, views]), temperature=0.5).item(), 4)  # all equally hard
    0.5944
    """
    _check_temperature(temperature)
    _check_number("beta", beta, math.inf)
    _check_number("tau_plus", tau_plus, 1.0)
    _check_pairs(z, "z", smallest=2)
    scale, beta, tau_plus = 1.0 / float(temperature), float(beta), float(tau_plus)
    floor = math.log(len(z) - 2) - scale

    def anchors(similarity: Tensor, rows: Tensor) -> Tensor:
        positive, negatives = _scaled(similarity, rows, scale)
        # An infinite logit times a beta of 0 would be NaN.
        weights = (beta * negatives).where(negatives > -math.inf, -math.inf)
        mean = (weights + negatives).logsumexp(1) - weights.logsumexp(1)
        if tau_plus > 0:
            kept = 1 - tau_plus * (positive - mean).clamp(max=_LARGEST_EXPONENT).exp()
            some = kept > 0
            mean = mean + kept.where(some, 1.0).log() - math.log1p(-tau_plus)
            mean = mean.where(some, -math.inf)
        return softplus((mean + math.log(len(z) - 2)).clamp(min=floor) - positive)

    return _mean_over_anchors(z, anchors)


def _scaled(similarity: Tensor, rows: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the logits (m,) of the positives and (m, 2N) of the negatives, minus infinity elsewhere."""
    logits = scale * similarity
    positive = logits.gather(1, _partners(rows, similarity))[:, 0]
    return positive, logits.where(_negatives(rows, similarity), -math.inf)


def _check_number(name: str, value: float, end: float) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}; pass a float >= 0.")
    if not 0 <= value < end:
        raise ValueError(f"{name}={value} is out of range; pass a number in [0, {end:g}).")
