"""Predict the loss of a longer training from the curve of a shorter one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LossPrediction", "predict_loss"]

# Fewer epochs do not determine the three coefficients of the curve.
_FEWEST_EPOCHS = 6

# The start of a training, which no power of the time describes, as a share of the summed learning rates.
_START = 0.2

# Exponents of the time that are tried, and the probability that the interval holds the right one.
_EXPONENTS = np.geomspace(0.1, 2.0, 60)

_CONFIDENCE = 0.99


@dataclass(frozen=True)
class LossPrediction:
    """Prediction for a longer training from a loss curve, made by `predict_loss`.

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

    See Also
    --------
    predict_loss : Makes the prediction.

    Examples
    --------
    >>> from sklearn_simclr.inspection import LossPrediction
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
    def gain(self) -> float:
        """Return how much lower the loss would be."""
        return self.loss - self.predicted

    def __str__(self) -> str:
        """Say it in one line."""
        longer = f"{self.factor:g}x the epochs ({round(self.factor * self.epochs)}) is predicted to "
        digits = f".{_decimals(self.loss)}f"
        span = f"({self.low:{digits}} to {self.high:{digits}})"
        if f"{self.loss:{digits}}" == f"{self.predicted:{digits}}":
            return longer + f"leave the loss at about {self.predicted:{digits}} {span}"
        return longer + f"lower the loss from {self.loss:{digits}} to about {self.predicted:{digits}} {span}"


def predict_loss(history: ArrayLike | pd.DataFrame, factor: float = 2.0) -> LossPrediction:
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

    See Also
    --------
    LossPrediction : What is returned.
    sklearn_simclr.TrainingDisplay : Draws the loss of each epoch.

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
    >>> from sklearn_simclr.inspection import predict_loss
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
    # The mean loss over the steps of an epoch stands for the loss in the middle of the epoch.
    middle, seen = (clock - rates / 2)[kept], losses[kept]
    floor = 0.0 if losses.min() >= 0 else 2 * losses.min() - losses.max()
    tried = []
    for exponent in _EXPONENTS:
        matrix = np.stack([np.ones_like(middle), middle**-exponent, to_anneal[kept]], axis=1)
        (a, b, _), residual = nnls(matrix, seen - floor)
        ends = a + floor + b * (np.array([1.0, factor]) * clock[-1]) ** -exponent
        tried.append((residual**2, *ends))
    fits = np.array(tried)
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


def _loss_curve(history: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return losses and learning rates of the epochs as float64 arrays."""
    rates = None
    if hasattr(history, "columns"):
        if "loss" not in history.columns:
            raise ValueError(
                f"history has the columns {list(history.columns)}, but no 'loss'. Pass the history_ of a "
                "fitted estimator."
            )
        if "learning_rate" in history.columns:
            rates = np.asarray(history["learning_rate"], dtype=np.float64)
        history = history["loss"]
    try:
        losses = np.asarray(history, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"history, of type {type(history).__name__}, cannot be read as numbers; pass the history_ of a "
            "fitted estimator, or one loss per epoch."
        ) from error
    if losses.ndim != 1:
        raise ValueError(f"history has shape {losses.shape}; pass a DataFrame, or one loss per epoch.")
    if len(losses) < _FEWEST_EPOCHS:
        raise ValueError(
            f"history has {len(losses)} epochs; a prediction needs at least {_FEWEST_EPOCHS}. Train longer."
        )
    if not np.isfinite(losses).all():
        raise ValueError(f"history contains {losses[~np.isfinite(losses)][0]} as a loss; pass finite losses.")
    if rates is None or not (np.isfinite(rates).all() and rates.min() >= 0 and rates.max() > 0):
        rates = np.ones(len(losses))
    # A row has the learning rate of the last step of an epoch; the mean with the row before is the epoch's.
    return losses, (rates + np.concatenate([[rates[0] / 2], rates[:-1]])) / 2


def _decimals(value: float) -> int:
    """Return the number of decimals that show three digits of a number, at least two."""
    return 2 if not 0 < abs(value) < 1 else min(8, 2 - math.floor(math.log10(abs(value))))
