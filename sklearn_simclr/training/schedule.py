"""Learning-rate schedules: what the rate is multiplied by at a fraction of the training."""

import math

__all__ = ["step_decay", "warmup_constant", "warmup_cosine"]


def warmup_cosine(fraction: float, warmup: float = 0.0) -> float:
    """Return what the learning rate is multiplied by at a given fraction of the training.

    It rises linearly from 0 to 1 over the warm-up and falls to 0 along half a cosine over the rest.

    Parameters
    ----------
    fraction : float
        How much of the training is done; clipped to [0, 1].
    warmup : float, default=0.0
        Fraction of the training spent warming up, in [0, 1). V1 warms up for 10 of 100 to 1000 epochs, V2 for
        5%.

    Returns
    -------
    multiplier : float
        In [0, 1].

    Raises
    ------
    ValueError
        If `warmup` is outside [0, 1) or `fraction` is NaN.

    See Also
    --------
    warmup_constant : A rate that stays after the warm-up.
    step_decay : A rate that falls in steps.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, section 2.3: linear warm-up, then cosine decay without restarts.

    Examples
    --------
    >>> from sklearn_simclr.training import warmup_cosine
    >>> [round(warmup_cosine(f, warmup=0.2), 3) for f in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup={warmup} is out of range; pass a fraction of the training in [0, 1).")
    if math.isnan(fraction):
        raise ValueError("fraction is NaN; pass the part of the training that is done, in [0, 1].")
    fraction = min(max(float(fraction), 0.0), 1.0)
    if fraction < warmup:
        return fraction / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (fraction - warmup) / (1.0 - warmup)))


def warmup_constant(fraction: float, warmup: float = 0.0, done: float = 0.0) -> float:
    """Return what the learning rate is multiplied by where nobody knows how long the training will be.

    It rises linearly from 0 to 1 over the first epochs and stays.

    Parameters
    ----------
    fraction : float
        How much of the present epoch is done, in [0, 1].
    warmup : float, default=0.0
        Epochs of the warm-up, >= 0.
    done : float, default=0.0
        Epochs before this one.

    Returns
    -------
    multiplier : float
        In [0, 1].

    See Also
    --------
    warmup_cosine : The default schedule.
    step_decay : A rate that falls in steps.

    Examples
    --------
    >>> from sklearn_simclr.training import warmup_constant
    >>> [warmup_constant(0.5, warmup=2, done=epoch) for epoch in range(4)]
    [0.25, 0.75, 1.0, 1.0]
    """
    return min(1.0, (done + fraction) / warmup) if warmup > 0 else 1.0


def step_decay(fraction: float, after: float = 0.75, factor: float = 0.1) -> float:
    """Return what the learning rate is multiplied by where it falls once.

    Parameters
    ----------
    fraction : float
        How much of the training is done, in [0, 1].
    after : float, default=0.75
        Where the rate falls. Nozawa et al. (arXiv:1910.04464, section 5.1) let it fall after three quarters.
    factor : float, default=0.1
        The multiplier from there on.

    Returns
    -------
    multiplier : float
        1 or `factor`.

    See Also
    --------
    warmup_cosine : The default schedule.
    warmup_constant : A rate that stays after the warm-up.

    Examples
    --------
    >>> from sklearn_simclr.training import step_decay
    >>> step_decay(0.5), step_decay(0.8)
    (1.0, 0.1)
    """
    return factor if fraction >= after else 1.0
