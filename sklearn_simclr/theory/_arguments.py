"""Check the arguments of the functions of the theory, and bring arrays to one form."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._utils.labels import labelled_rows
from .._utils.types import Labels

__all__ = [
    "as_numbers",
    "check_choice",
    "check_count",
    "check_delta",
    "check_least",
    "check_loss",
    "check_prior",
    "check_range",
    "check_surrogate",
    "class_numbers",
    "finite_numbers",
    "first_place",
    "prior_of",
    "representations",
]

# Losses that bound the zero-one loss from above, which the bounds of CURL are about.
_SURROGATES = ("logistic", "hinge")


def check_least(low: float, **numbers: Any) -> None:
    """Raise for a number that is not finite or below `low`."""
    for name, value in numbers.items():
        if not isinstance(value, Real):
            hint = "its .total" if hasattr(value, "total") else f"a finite number >= {low}"
            raise TypeError(f"{name} is of type {type(value).__name__}; pass {hint}.")
        if not low <= float(value) < math.inf:
            raise ValueError(f"{name}={value!r} is out of range; pass a finite number >= {low}.")


def check_range(**numbers: tuple[Any, float, float]) -> None:
    """Raise for a (value, low, high) that is not finite or out of its range."""
    for name, (value, low, high) in numbers.items():
        if not isinstance(value, Real) or not low <= float(value) <= high or math.isinf(value):
            raise ValueError(f"{name}={value!r} is out of range; pass a finite number in [{low}, {high}].")


def check_delta(delta: Any) -> None:
    """Raise unless delta is a probability in (0, 1)."""
    if not isinstance(delta, Real) or not 0 < float(delta) < 1:
        raise ValueError(f"delta={delta!r} is out of range; pass a probability in (0, 1).")


def check_count(name: str, value: object, wanted: str = "an int >= 1") -> None:
    """Raise unless a value is a whole number from 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} is out of range; pass {wanted}.")


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return a value that is one of the choices, raise for another."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; pass one of {', '.join(map(repr, choices))}.")
    return value


def check_loss(loss: str) -> None:
    """Raise unless a loss is one of those of tuples."""
    check_choice("loss", loss, (*_SURROGATES, "zero_one"))


def check_surrogate(loss: str) -> None:
    """Raise unless a loss is the logistic or the hinge loss."""
    check_choice("loss", loss, _SURROGATES)


def check_prior(class_prior: ArrayLike) -> NDArray[np.float64]:
    """Return the probabilities of classes, which sum to 1."""
    prior = as_numbers("class_prior", class_prior)
    if prior.ndim != 1 or len(prior) == 0 or not (prior >= 0).all() or abs(prior.sum() - 1) > 1e-6:
        raise ValueError(
            f"class_prior={class_prior!r:.60} is not a distribution; pass a vector of numbers >= 0 that sum "
            "to 1."
        )
    return prior / prior.sum()


def prior_of(class_prior: ArrayLike | None, codes: np.ndarray, n_classes: int) -> NDArray[np.float64]:
    """Return the given probabilities of the classes, or else the share of each class in `codes`."""
    if class_prior is None:
        return np.bincount(codes, minlength=n_classes) / len(codes)
    prior = check_prior(class_prior)
    if len(prior) != n_classes:
        raise ValueError(
            f"class_prior has {len(prior)} entries but y has {n_classes} classes; pass one probability per "
            "class."
        )
    return prior


def class_numbers(y: Labels) -> tuple[np.ndarray, int]:
    """Return the number of the class of each row, and how many classes there are."""
    rows, labels, n = labelled_rows(y)
    if len(rows) < n:
        missing = np.setdiff1d(np.arange(n), rows)
        raise ValueError(
            f"y has no label (-1, None or NaN) in {len(missing)} of {n} rows, the first one row "
            f"{missing[0]}. Leave these rows out: pass y[labelled] and, if there is one, H[labelled]."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    return codes, len(classes)


def representations(H: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """Return a finite float64 matrix of n rows, or of any number."""
    H = as_numbers("H", H)
    if H.ndim != 2 or 0 in H.shape:
        raise ValueError(f"H has shape {H.shape}; pass representations (n, d).")
    if n is not None and len(H) != n:
        raise ValueError(f"H has {len(H)} rows and y has {n}; pass one label per row of H.")
    if not np.isfinite(H).all():
        row = np.flatnonzero(~np.isfinite(H).all(axis=1))[0]
        raise ValueError(f"H contains NaN or infinity, first in row {row}; pass finite values.")
    return H


def finite_numbers(name: str, values: object) -> NDArray[np.float64]:
    """Return values as a float64 array of finite numbers."""
    array = as_numbers(name, values)
    if not np.isfinite(array).all():
        place = first_place(~np.isfinite(array))
        raise ValueError(f"{name} contains NaN or infinity, first at {place}; pass finite values.")
    return array


def as_numbers(name: str, values: object) -> NDArray[np.float64]:
    """Return values as a float64 array."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {values!r:.60}, of type {type(values).__name__}; pass numbers."
        ) from error


def first_place(mask: np.ndarray) -> tuple[int, ...]:
    """Return the first index at which a mask is true."""
    return tuple(int(place[0]) for place in np.nonzero(mask))
