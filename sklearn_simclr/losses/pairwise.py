"""NT-Logistic and the margin triplet loss, with which SimCLR compares NT-Xent (V1, table 2)."""

import math
from numbers import Real

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ._rowwise import _mean_over_anchors, _negatives, _partners
from ._tiles import _check_pairs, _check_temperature

__all__ = ["margin_triplet", "nt_logistic"]


def nt_logistic(z: Tensor, temperature: float = 0.5, *, semi_hard: bool = False) -> Tensor:
    r"""Return the normalised temperature-scaled logistic loss.

    Per anchor u with positive v+ and negatives v-,
    :math:`-\log\sigma(u^T v^+ / T) - \mathrm{mean}_{v^-} \log\sigma(-u^T v^- / T)`, averaged over the 2N
    anchors. V1 states the loss for one triple (u, v+, v-); the mean over an anchor's 2N - 2 negatives is the
    mean of that over all triples, so that the balance of the two terms does not depend on the batch size.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    temperature : float, default=0.5
        T > 0 (at least 1e-30). V1 searched 0.1, 0.2, 0.5 and 1.
    semi_hard : bool, default=False
        Use only one negative an anchor: the one closest to it of those farther from it than its positive. An
        anchor that has none keeps the positive term alone.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64).

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor or `temperature` not a number.
    ValueError
        If the shape of `z` or `temperature` is out of range.

    See Also
    --------
    nt_xent : The default loss.
    margin_triplet : The other loss of the paper's table 2.

    Notes
    -----
    V1 takes the negatives from one of the two views for simplicity, "which slightly impairs performance"
    (B.10); here they are all 2N - 2 rows of other images, as in `nt_xent`.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, table 2, section 5.1 and appendix B.10.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import nt_logistic
    >>> views = torch.eye(4)
    >>> round(nt_logistic(torch.cat([views, views]), temperature=0.5).item(), 4)
    0.8201
    """
    _check_temperature(temperature)
    _check_pairs(z, "z", smallest=2)
    scale = 1.0 / float(temperature)

    def anchors(similarity: Tensor, rows: Tensor) -> Tensor:
        positive, negative = _split(similarity, rows)
        attraction = softplus(-scale * positive)
        if semi_hard:
            return attraction + softplus(scale * _closest_farther(similarity, positive, negative))
        return attraction + _mean_over(softplus(scale * similarity), negative)

    return _mean_over_anchors(z, anchors)


def margin_triplet(z: Tensor, margin: float = 0.8, *, semi_hard: bool = False) -> Tensor:
    r"""Return the margin triplet loss on cosine similarities.

    Per anchor u with positive v+ and negatives v-,
    :math:`\mathrm{mean}_{v^-} \max(u^T v^- - u^T v^+ + m, 0)`, averaged over the 2N anchors: the mean of V1's
    loss over all triples (u, v+, v-). Triples that keep the margin count as zeros in that mean.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    margin : float, default=0.8
        m >= 0; similarities lie in [-1, 1], so that beyond 2 no triple keeps it. V1 searched 0, 0.4, 0.8
        and 1.6 and does not say which was best.
    semi_hard : bool, default=False
        Use only one negative an anchor: the one closest to it of those farther from it than its positive
        (and within the margin; elsewhere the loss is zero anyway). An anchor that has none counts as zero.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64).

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor or `margin` not a number.
    ValueError
        If the shape of `z` or `margin` is out of range.

    See Also
    --------
    nt_xent : The default loss.
    nt_logistic : The other loss of the paper's table 2.

    Notes
    -----
    V1 takes the negatives from one of the two views for simplicity, "which slightly impairs performance"
    (B.10); here they are all 2N - 2 rows of other images, as in `nt_xent`.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, table 2, section 5.1 ("within the loss margin and closest in
    distance, but farther than positive examples") and appendix B.10.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import margin_triplet
    >>> views = torch.eye(4)
    >>> round(margin_triplet(torch.cat([views, views]), margin=1.6).item(), 4)
    0.6
    """
    if not isinstance(margin, Real) or isinstance(margin, bool):
        raise TypeError(f"margin must be a number, got {type(margin).__name__}; pass a float >= 0.")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin} is out of range; pass a finite number >= 0.")
    _check_pairs(z, "z", smallest=2)
    margin = float(margin)

    def anchors(similarity: Tensor, rows: Tensor) -> Tensor:
        positive, negative = _split(similarity, rows)
        if semi_hard:
            return torch.relu(_closest_farther(similarity, positive, negative) - positive + margin)
        return _mean_over(torch.relu(similarity - positive[:, None] + margin), negative)

    return _mean_over_anchors(z, anchors)


def _split(similarity: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarities (m,) of anchors with their positives, and a mask (m, 2N) of their negatives."""
    return similarity.gather(1, _partners(rows, similarity))[:, 0], _negatives(rows, similarity)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    # Every anchor has all the rows but itself and its positive as negatives.
    return (values * mask).sum(1) / (values.shape[1] - 2)


def _closest_farther(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the largest similarity below the positive's among the negatives, minus infinity if none."""
    return similarity.where(negative & (similarity < positive[:, None]), -math.inf).amax(1)
