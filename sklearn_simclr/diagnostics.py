"""Numbers that say how a contrastive representation fares without looking at labels.

All but the contrastive accuracy that training follows are computed on the CPU in float64.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch

__all__ = [
    "LossPrediction",
    "alignment",
    "chance_level",
    "contrastive_accuracy",
    "predict_loss",
    "rankme",
    "uniformity",
]

# Similarities are computed in blocks of about so many entries: 32 MB in float64.
_BLOCK_ENTRIES = 2**22

# Two products of the same unit vectors, at different places of a matrix product, differ by a few roundings.
_TIE_ROUNDINGS = 8

# A loss curve tells less than its three coefficients need from fewer epochs.
_FEWEST_EPOCHS = 6

# The start of a training, of which a power of the time says nothing: as a share of the summed learning rates.
_START = 0.2

# Exponents of the time that are tried, and how probable it is that the interval holds the right one.
_EXPONENTS = np.geomspace(0.1, 2.0, 60)
_CONFIDENCE = 0.99


def alignment(x, y):
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

    References
    ----------
    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", 2020, arXiv:2005.10242, with alpha = 2.

    Examples
    --------
    >>> from sklearn_simclr.diagnostics import alignment
    >>> alignment([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [3.0, 0.0]])
    1.0
    """
    x, y = _as_matrix(x, "x", 1), _as_matrix(y, "y", 1)
    if x.shape != y.shape:
        raise ValueError(f"y has shape {tuple(y.shape)} and x {tuple(x.shape)}; pass two views of each row.")
    return float((_unit(x) - _unit(y)).square().sum(1).mean())


def uniformity(x, t=2.0):
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

    Notes
    -----
    The mean is over the n (n - 1) / 2 pairs of different rows. Memory is linear in n, time quadratic.

    References
    ----------
    Wang and Isola, 2020, arXiv:2005.10242.

    Examples
    --------
    >>> from sklearn_simclr.diagnostics import uniformity
    >>> uniformity([[1.0, 0.0], [-1.0, 0.0]])
    -8.0
    """
    if not isinstance(t, Real) or not 0 < t < math.inf:
        raise ValueError(f"t={t!r} is out of range; pass a finite number > 0.")
    x = _unit(_as_matrix(x, "x", 2))
    n, squares = len(x), x.square().sum(1)
    total = torch.tensor(-math.inf, dtype=x.dtype)
    for start, stop in _blocks(n):
        # Of the block's rows with themselves only the pairs above the diagonal, and all the rows after them.
        distances = squares[start:stop, None] + squares[start:] - 2.0 * (x[start:stop] @ x[start:].T)
        lower = torch.ones_like(distances, dtype=torch.bool).tril_()
        potential = distances.clamp_min_(0.0).mul_(-float(t)).masked_fill_(lower, -math.inf)
        total = torch.logaddexp(total, potential.logsumexp((0, 1)))
    return float(total) - math.log(n * (n - 1) / 2)


def rankme(h, eps=1e-7):
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

    References
    ----------
    Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised
    representations by their rank", 2023, arXiv:2210.02885.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.diagnostics import rankme
    >>> round(rankme(np.eye(5)), 3)
    5.0
    """
    if not isinstance(eps, Real) or not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps!r} is out of range; pass a finite number >= 0.")
    values = torch.linalg.svdvals(_as_matrix(h, "h", 1))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return float(torch.special.entr(shares).sum().exp())


def chance_level(n_pairs):
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

    Examples
    --------
    >>> from sklearn_simclr.diagnostics import chance_level
    >>> round(chance_level(256), 3)
    6.236
    """
    if not isinstance(n_pairs, Integral) or n_pairs < 1:
        raise ValueError(f"n_pairs={n_pairs!r} is out of range; pass the number of images, an int >= 1.")
    return math.log(2 * int(n_pairs) - 1)


def contrastive_accuracy(z):
    """Return how often the row most similar to a view is the other view of its image.

    Parameters
    ----------
    z : array-like of shape (2N, d)
        Projections, N >= 2, an array or a torch tensor on any device; rows i and i + N are a pair. Rows are
        normalised here.

    Returns
    -------
    accuracy : float
        Fraction of the 2N anchors, in [0, 1]. Chance is 1 / (2N - 1). A tie of the other view with another
        row (equal similarities but for rounding) counts as wrong: a collapsed representation scores 0.

    Raises
    ------
    ValueError
        If the shape does not fit or a value is not finite.

    References
    ----------
    The "contrastive accuracy" of Chen et al., 2020, arXiv:2002.05709, table 5.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.diagnostics import contrastive_accuracy
    >>> contrastive_accuracy(np.vstack([np.eye(3), np.eye(3)]))
    1.0
    """
    z = _as_matrix(z, "z", 4)
    if len(z) % 2:
        raise ValueError(f"z has {len(z)} rows; pass an even number, all first views and then all second.")
    return float(_contrastive_accuracy_tensor(z))


@dataclass(frozen=True)
class LossPrediction:
    """What a loss curve says about a longer training; `predict_loss` makes it.

    Parameters
    ----------
    factor : float
        How many times as long the other training is.
    epochs : int
        Epochs of the training that was seen.
    loss : float
        Loss at its end, smoothed.
    predicted : float
        Loss at the end of the longer training.
    low : float
        Lower end of the range that the curve leaves open.
    high : float
        Upper end of that range.

    Attributes
    ----------
    gain : float
        ``loss - predicted``, >= 0.

    Examples
    --------
    >>> from sklearn_simclr.diagnostics import LossPrediction
    >>> print(LossPrediction(factor=2.0, epochs=20, loss=2.96, predicted=2.63, low=2.55, high=2.71))
    2x the epochs (40) is predicted to lower the loss from 2.96 to about 2.63 (2.55 to 2.71)
    """

    factor: float
    epochs: int
    loss: float
    predicted: float
    low: float
    high: float

    @property
    def gain(self):
        """How much lower the loss would be."""
        return self.loss - self.predicted

    def __str__(self):
        """Say it in one line."""
        longer = f"{self.factor:g}x the epochs ({round(self.factor * self.epochs)}) is predicted to "
        digits = f".{_decimals(self.loss)}f"
        span = f"({self.low:{digits}} to {self.high:{digits}})"
        if f"{self.loss:{digits}}" == f"{self.predicted:{digits}}":
            return longer + f"leave the loss at about {self.predicted:{digits}} {span}"
        return longer + f"lower the loss from {self.loss:{digits}} to about {self.predicted:{digits}} {span}"


def predict_loss(history, factor=2.0):
    """Predict the loss that a longer training of the same kind would end with.

    Parameters
    ----------
    history : DataFrame or array-like of shape (n_epochs,)
        The ``history_`` of a fitted estimator, whose columns ``loss`` and, if it is there, ``learning_rate``
        are used; or losses alone, of a training with a constant learning rate. At least 6 epochs.
    factor : float, default=2.0
        How many times as long the longer training is, > 1. Of more than about 4 nothing is known.

    Returns
    -------
    prediction : LossPrediction
        With the loss at the end of both trainings.

    Raises
    ------
    ValueError
        If there are too few epochs, a loss is not finite, or `factor` is out of range.

    Notes
    -----
    With :math:`S_t` the sum of the learning rates up to epoch t and :math:`\\eta_t` that of epoch t, both in
    units of the largest, the curve

    .. math:: L_t = a + b\\, S_t^{-c} + d\\, (\\eta_t - \\eta_{end})

    is fitted by least squares with nonnegative a, b and d, without the first fifth of the training;
    :math:`\\eta_t` is 1 during the warm-up. A cosine schedule flattens the end of any curve, since steps get
    smaller: the sum of the learning rates is a clock that slows down with them, and the last term is the loss
    that a fall of the learning rate saves once. The longer training is the same schedule, stretched: its sum
    is `factor` times as large, its end the same.

    The range holds the predictions of all exponents c that fit not much worse than the best, by an F test at
    99%. It takes the form of the curve for granted. It knows nothing of another learning rate or batch size,
    of overfitting, or of how well a classifier will do: a lower loss mostly means better features, up to a
    point. Of trainings in several parts (``warm_start``) all epochs are seen as one.

    References
    ----------
    Tissue et al., "Scaling law with learning rate annealing", 2024, arXiv:2408.11029, equation 1, with
    a simpler last term.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.diagnostics import predict_loss
    >>> epochs = np.arange(1, 21)
    >>> prediction = predict_loss(2 + 4 / np.sqrt(epochs - 0.5))
    >>> round(prediction.loss, 2), round(prediction.predicted, 2)
    (2.9, 2.63)
    """
    from scipy.optimize import nnls
    from scipy.stats import f as f_distribution

    if not isinstance(factor, Real) or not 1 < factor < math.inf:
        raise ValueError(f"factor={factor!r} is out of range; pass a finite number > 1.")
    losses, rates = _loss_curve(history)
    rates = rates / rates.max()
    clock = np.cumsum(rates)
    falling = np.arange(len(rates)) > np.argmax(rates)
    to_anneal = np.where(falling, rates, 1.0) - (rates[-1] if falling[-1] else 1.0)
    kept = clock >= _START * clock[-1]
    # An epoch's loss is the mean over its steps: that of its middle.
    middle, seen = (clock - rates / 2)[kept], losses[kept]
    floor = 0.0 if losses.min() >= 0 else 2 * losses.min() - losses.max()
    fits = []
    for exponent in _EXPONENTS:
        matrix = np.stack([np.ones_like(middle), middle**-exponent, to_anneal[kept]], axis=1)
        (a, b, _), residual = nnls(matrix, seen - floor)
        ends = a + floor + b * (np.array([1.0, factor]) * clock[-1]) ** -exponent
        fits.append((residual**2, *ends))
    fits = np.array(fits)
    best = fits[np.argmin(fits[:, 0])]
    freedom = max(len(seen) - 4, 1)
    limit = best[0] * (1 + f_distribution.ppf(_CONFIDENCE, 1, freedom) / freedom)
    near = fits[fits[:, 0] <= limit]
    return LossPrediction(
        factor=float(factor),
        epochs=len(losses),
        loss=float(best[1]),
        predicted=float(best[2]),
        low=float(near[:, 2].min()),
        high=float(near[:, 2].max()),
    )


def _loss_curve(history):
    """Return losses and learning rates of the epochs as float64 arrays."""
    rates = None
    if hasattr(history, "columns"):
        if "loss" not in history.columns:
            raise ValueError(f"history has the columns {list(history.columns)}; 'loss' is not among them.")
        if "learning_rate" in history.columns:
            rates = np.asarray(history["learning_rate"], dtype=np.float64)
        history = history["loss"]
    try:
        losses = np.asarray(history, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"history is of type {type(history).__name__} or holds something else than numbers; pass the "
            "history_ of a fitted estimator, or a loss an epoch."
        ) from error
    if losses.ndim != 1:
        raise ValueError(f"history has shape {losses.shape}; pass a DataFrame, or a loss an epoch.")
    if len(losses) < _FEWEST_EPOCHS:
        raise ValueError(
            f"history has {len(losses)} epochs; a curve can be seen from {_FEWEST_EPOCHS} on. Train for more."
        )
    if not np.isfinite(losses).all():
        raise ValueError(f"history contains {losses[~np.isfinite(losses)][0]} as a loss; pass finite losses.")
    if rates is None or not (np.isfinite(rates).all() and rates.min() >= 0 and rates.max() > 0):
        rates = np.ones(len(losses))
    # The rate that a row has is that of the epoch's last step, 0 at the end.
    return losses, (rates + np.concatenate([[rates[0] / 2], rates[:-1]])) / 2


def _decimals(value):
    """Return how many decimals show three digits of a number, two at least."""
    return 2 if not 0 < abs(value) < 1 else min(8, 2 - math.floor(math.log10(abs(value))))


def _contrastive_accuracy_tensor(z):
    """Return `contrastive_accuracy` of a tensor as a 0-d tensor on its device, without waiting for it."""
    with torch.no_grad(), torch.autocast(device_type=z.device.type, enabled=False):
        unit = _unit(z.to(torch.promote_types(z.dtype, torch.float32)))
        n = len(unit)
        index = torch.arange(n, device=z.device)[:, None]
        partner = index.roll(n // 2, 0)
        tie = _TIE_ROUNDINGS * torch.finfo(unit.dtype).eps
        right = torch.zeros((), dtype=unit.dtype, device=z.device)
        for start, stop in _blocks(n):
            similarity = unit[start:stop] @ unit.T
            positive = similarity.gather(1, partner[start:stop])
            similarity.scatter_(1, index[start:stop], -math.inf)
            similarity.scatter_(1, partner[start:stop], -math.inf)
            right += (positive[:, 0] > similarity.amax(1) + tie).sum()
        return right / n


def _as_matrix(x, name, smallest):
    """Return x as a float64 CPU tensor, or say what is wrong with it."""
    x = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x, dtype=np.float64))
    if x.ndim != 2 or len(x) < smallest or x.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; pass a matrix of at least {smallest} rows.")
    x = x.to("cpu", torch.float64)
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} contains NaN or infinity; pass finite values.")
    return x


def _unit(x):
    """Return the rows at unit length; rows of zeros stay."""
    # Squares of large or small entries would leave the range of float32.
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return torch.nn.functional.normalize(x, dim=1)


def _blocks(n):
    step = max(_BLOCK_ENTRIES // n, 1)
    return [(start, min(start + step, n)) for start in range(0, n, step)]
