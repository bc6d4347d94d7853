"""The supervised contrastive loss: images of one class are positives of each other."""

import math

import torch
from torch import Tensor

from ._rowwise import _mean_over_anchors, _partners
from ._tiles import _check_pairs, _check_temperature

__all__ = ["supcon"]


def supcon(z: Tensor, labels: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    r"""Return the supervised contrastive loss, of images of which some or all have labels.

    For an anchor i with the positives P(i),

    .. math:: \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{\exp(s_{ip} / T)}{\sum_{k \ne i} \exp(s_{ik} / T)}

    where s is the cosine similarity and T the temperature; the result is the mean over the 2N anchors. The
    positives of an image with a label are its other view and both views of all images with the same label.
    The only positive of an image without a label is its other view. Every row is in the denominator.

    Parameters
    ----------
    z : torch.Tensor of shape (2N, d)
        Projections, floating point, N >= 2; rows i and i + N are a pair. They need not be normalised.
    labels : int64 torch.Tensor of shape (N,) or None, default=None
        Numbers of the classes, -1 where there is none. None: no image has a label, and the loss is NT-Xent.
    temperature : float, default=0.1
        T > 0 (at least 1e-30). The paper has 0.1.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Float32 (float64 if `z` is float64). log(2N - 1) if all rows are equal.

    Raises
    ------
    TypeError
        If `z` is not a floating-point tensor, `labels` not a tensor of ints or `temperature` not a number.
    ValueError
        If the shape of `z` or `labels`, or `temperature`, is out of range.

    See Also
    --------
    nt_xent : The loss without labels.

    Notes
    -----
    This is the loss "out" of the paper, which is better than the one with the sum inside the logarithm. The
    authors' code multiplies it by T / 0.07, which only changes the learning rate.

    Memory is linear in N; the result is exact and cannot be differentiated twice.

    References
    ----------
    Khosla et al., "Supervised contrastive learning", 2020, arXiv:2004.11362, eq. 2.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import supcon
    >>> views = torch.eye(4)
    >>> z = torch.cat([views, views])
    >>> round(supcon(z, temperature=0.5).item(), 4)  # that of nt_xent
    0.5944
    >>> round(supcon(z, torch.tensor([0, 0, -1, -1]), temperature=0.5).item(), 4)
    1.2611
    """
    _check_temperature(temperature)
    _check_pairs(z, "z", smallest=2)
    n, scale = len(z) // 2, 1.0 / float(temperature)
    if labels is None:
        labels = z.new_full((n,), -1, dtype=torch.int64)
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.is_complex():
        found = f"a tensor of {labels.dtype}" if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise TypeError(
            f"labels must be a torch.Tensor of ints (-1 for images without a label), got {found}."
        )
    if labels.shape != (n,):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; pass ({n},), one label per image: z has two rows per "
            "image."
        )
    of_rows = labels.to(z.device).repeat(2)

    def anchors(similarity: Tensor, rows: Tensor) -> Tensor:
        logits = (scale * similarity).scatter(1, rows[:, None], -math.inf)
        own = of_rows[rows, None]
        positive = (own == of_rows) & (own >= 0)
        positive = positive.scatter(1, _partners(rows, similarity), True).scatter(1, rows[:, None], False)
        attraction = (similarity * positive).sum(1) / positive.sum(1)
        return logits.logsumexp(1) - scale * attraction

    return _mean_over_anchors(z, anchors)
