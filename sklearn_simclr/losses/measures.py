"""Measure projections and representations without labels: alignment, uniformity, rank, accuracy."""

import math
from numbers import Integral, Real
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = [
    "alignment",
    "chance_level",
    "contrastive_accuracy",
    "contrastive_accuracy_tensor",
    "rankme",
    "uniformity",
]

# Similarities are computed in blocks of about so many entries: 32 MB in float64.
_BLOCK_ENTRIES = 2**22

# Two products of the same unit vectors, at different places of a matrix product, differ by a few roundings.
_TIE_ROUNDINGS = 8


def alignment(x: ArrayLike, y: ArrayLike) -> float:
    """Return the mean squared distance between the two views of each image, on the unit sphere.

    Parameters
    ----------
    x : array-like of shape (n, d)
        First views, an array or a torch tensor on any device; rows are normalised here, n >= 1.
    y : array-like of shape (n, d)
        Second views; row i goes with row i of `x`.

    Returns
    -------
    alignment : float
        In [0, 4]; 0 if both views of every image agree, 2 for unrelated directions in many dimensions.

    Raises
    ------
    ValueError
        If the shapes differ or do not fit, or a value is not finite.

    See Also
    --------
    uniformity : Tells a collapsed encoder from one whose views agree.
    sklearn_simclr.representation_report : Both, with an untrained encoder beside them.

    References
    ----------
    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", 2020, arXiv:2005.10242, with alpha = 2.

    Examples
    --------
    >>> from sklearn_simclr.inspection import alignment
    >>> alignment([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [3.0, 0.0]])
    1.0
    """
    x, y = _as_matrix(x, "x", 1), _as_matrix(y, "y", 1)
    if x.shape != y.shape:
        raise ValueError(
            f"y has shape {tuple(y.shape)} and x has shape {tuple(x.shape)}; pass two views of the same "
            "images, row by row."
        )
    return float((_unit(x) - _unit(y)).square().sum(1).mean())


def uniformity(x: ArrayLike, t: float = 2.0) -> float:
    """Return the log of the mean Gaussian potential between different rows, on the unit sphere.

    Parameters
    ----------
    x : array-like of shape (n, d)
        One view of each of n >= 2 images, an array or a torch tensor on any device; rows are normalised here.
    t : float, default=2.0
        Sharpness of the potential ``exp(-t |x - y|^2)``, > 0.

    Returns
    -------
    uniformity : float
        In [-4 t, 0]; 0 for a collapsed representation, the lower the more evenly spread.

    Raises
    ------
    ValueError
        If the shape does not fit, a value is not finite, or `t` is out of range.

    See Also
    --------
    alignment : How close two views of an image are.
    rankme : How many directions the representations use.

    Notes
    -----
    The mean is over the n (n - 1) / 2 pairs of different rows. Memory is linear in n, time quadratic.

    References
    ----------
    Wang and Isola, 2020, arXiv:2005.10242.

    Examples
    --------
    >>> from sklearn_simclr.inspection import uniformity
    >>> uniformity([[1.0, 0.0], [-1.0, 0.0]])
    -8.0
    """
    if not isinstance(t, Real) or not 0 < t < math.inf:
        raise ValueError(f"t={t!r} is out of range; pass a finite number > 0.")
    x = _unit(_as_matrix(x, "x", 2))
    n, squares = len(x), x.square().sum(1)
    total = torch.tensor(-math.inf, dtype=x.dtype)
    for start, stop in _blocks(n):
        # Each pair counts once: within the block those above the diagonal, and those with all later rows.
        distances = squares[start:stop, None] + squares[start:] - 2.0 * (x[start:stop] @ x[start:].T)
        lower = torch.ones_like(distances, dtype=torch.bool).tril_()
        potential = distances.clamp_min_(0.0).mul_(-float(t)).masked_fill_(lower, -math.inf)
        total = torch.logaddexp(total, potential.logsumexp((0, 1)))
    return float(total) - math.log(n * (n - 1) / 2)


def rankme(h: ArrayLike, eps: float = 1e-7) -> float:
    """Return the effective rank of representations, the exponential of the entropy of singular values.

    Parameters
    ----------
    h : array-like of shape (n, d)
        Representations, not centred, an array or a torch tensor on any device. It cannot exceed n, so that n
        should be well above d.
    eps : float, default=1e-7
        Added to each share of the singular values, >= 0.

    Returns
    -------
    rank : float
        Between 1 and min(n, d), but for `eps`; about 1 if the representation has collapsed to one direction.

    Raises
    ------
    ValueError
        If the shape does not fit, a value is not finite, or `eps` is out of range.

    See Also
    --------
    uniformity : How evenly images are spread over the sphere.
    sklearn_simclr.representation_report : Both, with an untrained encoder beside them.

    References
    ----------
    Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised
    representations by their rank", 2023, arXiv:2210.02885.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.inspection import rankme
    >>> round(rankme(np.eye(5)), 3)
    5.0
    """
    if not isinstance(eps, Real) or not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps!r} is out of range; pass a finite number >= 0.")
    values = torch.linalg.svdvals(_as_matrix(h, "h", 1))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return float(torch.special.entr(shares).sum().exp())


def chance_level(n_pairs: int) -> float:
    """Return the NT-Xent loss of a representation that cannot tell images apart.

    Parameters
    ----------
    n_pairs : int
        N, the number of images with two views each that are compared, >= 1.

    Returns
    -------
    loss : float
        log(2N - 1), in nats.

    Raises
    ------
    ValueError
        If `n_pairs` is not an int >= 1.

    See Also
    --------
    sklearn_simclr.losses.nt_xent : The loss that has this level.
    contrastive_accuracy : How often a view finds its partner.

    Examples
    --------
    >>> from sklearn_simclr.inspection import chance_level
    >>> round(chance_level(256), 3)
    6.236
    """
    if not isinstance(n_pairs, Integral) or n_pairs < 1:
        raise ValueError(f"n_pairs={n_pairs!r} is out of range; pass the number of images, an int >= 1.")
    return math.log(2 * int(n_pairs) - 1)


def contrastive_accuracy(z: ArrayLike, among: Literal["all", "other_view"] = "all") -> float:
    """Return how often the row most similar to a view is the other view of its image.

    Parameters
    ----------
    z : array-like of shape (2N, d)
        Projections, N >= 2, an array or a torch tensor on any device; rows i and i + N are a pair. Rows are
        normalised here.
    among : {"all", "other_view"}, default="all"
        Among which rows the other view is looked for. ``"all"``: the 2N - 1 other rows, as in the loss, for
        each of the 2N rows. ``"other_view"``: the N second views, for each of the N first views, which is the
        contrastive accuracy of google-research/simclr; with fewer rows to confuse it with, it is higher.

    Returns
    -------
    accuracy : float
        Fraction of the anchors, in [0, 1]. Chance is 1 / (2N - 1), or 1 / N among the other view. A tie of
        the right row with another one (equal similarities but for rounding) counts as wrong: a collapsed
        representation scores 0.

    Raises
    ------
    ValueError
        If the shape does not fit, a value is not finite, or `among` is neither.

    See Also
    --------
    chance_level : The loss of an encoder that tells nothing apart.
    sklearn_simclr.representation_report : Compares the accuracy with that of an untrained encoder.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, table 5 has the contrastive accuracy of several temperatures, with
    N = 4096; ``contrastive_accuracy(z, among="other_view")`` is what their code computes.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.inspection import contrastive_accuracy
    >>> contrastive_accuracy(np.vstack([np.eye(3), np.eye(3)]))
    1.0
    """
    z = _as_matrix(z, "z", 4)
    if len(z) % 2:
        raise ValueError(f"z has {len(z)} rows; pass an even number: all first views, then all second views.")
    if among not in ("all", "other_view"):
        raise ValueError(f"among must be 'all' or 'other_view', got {among!r}.")
    return float(contrastive_accuracy_tensor(z, among))


def contrastive_accuracy_tensor(z: Tensor, among: str = "all") -> Tensor:
    """Return `contrastive_accuracy` of a tensor as a 0-d tensor on its device, without waiting for it."""
    with torch.no_grad(), torch.autocast(device_type=z.device.type, enabled=False):
        unit = _unit(z.to(torch.promote_types(z.dtype, torch.float32)))
        n = len(unit)
        anchors = n if among == "all" else n // 2
        index = torch.arange(n, device=z.device)[:, None]
        partner = index.roll(n // 2, 0)
        tie = _TIE_ROUNDINGS * torch.finfo(unit.dtype).eps
        right = torch.zeros((), dtype=unit.dtype, device=z.device)
        for start, stop in _blocks(n):
            stop = min(stop, anchors)
            if start >= stop:
                break
            similarity = unit[start:stop] @ unit.T
            positive = similarity.gather(1, partner[start:stop])
            similarity.scatter_(1, index[start:stop], -math.inf)
            similarity.scatter_(1, partner[start:stop], -math.inf)
            if among != "all":
                similarity[:, :anchors] = -math.inf
            right += (positive[:, 0] > similarity.amax(1) + tie).sum()
        return right / anchors


def _as_matrix(x: ArrayLike, name: str, smallest: int) -> Tensor:
    """Return x as a finite float64 matrix on the CPU; raise if it is none."""
    x = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x, dtype=np.float64))
    if x.ndim != 2 or len(x) < smallest or x.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; pass a matrix of at least {smallest} rows.")
    x = x.cpu().double()  # in this order: MPS has no float64
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} contains NaN or infinity; pass finite values.")
    return x


def _unit(x: Tensor) -> Tensor:
    """Return the rows at unit length; rows of zeros stay."""
    # Squares of large or small entries would leave the range of float32.
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return torch.nn.functional.normalize(x, dim=1)


def _blocks(n: int) -> list[tuple[int, int]]:
    step = max(_BLOCK_ENTRIES // n, 1)
    return [(start, min(start + step, n)) for start in range(0, n, step)]
