"""Find the labelled rows, and draw nested balanced subsets of the labels."""

import numbers

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_random_state

from .types import Labels, RandomState
from .warn import warn

__all__ = [
    "check_fraction",
    "check_n_drawn",
    "class_codes",
    "hide_labels",
    "labelled_rows",
    "labelled_targets",
    "quantile_codes",
    "turns",
    "warn_of_marks",
]


# What numpy and pandas make of -1, NaN and NA where the other labels are strings.
_TEXTS_OF_NONE = ("-1", "-1.0", "nan", "<NA>")


def labelled_rows(
    y: Labels | None, known_classes: NDArray | None = None
) -> tuple[NDArray[np.intp], NDArray, int]:
    """Return the positions (m,) of the labelled rows of `y`, their labels (m,), and the length of `y`.

    `known_classes` says what -1 means where a classifier has been fitted already.
    """
    y, keep_object = _one_dimensional(y, "classifier")
    rows, labels = np.arange(len(y)), y
    if y.dtype == object:
        known = np.array([not _is_missing(value) for value in y], dtype=bool)
        if any(isinstance(value, str) for value in y):
            known &= [not (isinstance(value, numbers.Real) and value == -1) for value in y]
        rows = np.flatnonzero(known)
        labels = _homogeneous(y[rows], rows, keep_object)
    elif y.dtype.kind == "f":
        rows = np.flatnonzero(~np.isnan(y))
        labels = y[rows]

    if labels.dtype.kind == "f":
        finite = np.isfinite(labels)
        if not finite.all():
            at = np.argmin(finite)
            raise ValueError(
                f"y[{rows[at]}] is {labels[at]}, which is not a class label. Pass -1 or NaN for rows without "
                "a label."
            )
        whole = labels == np.floor(labels)
        if not whole.all():
            at = np.argmin(whole)
            raise ValueError(
                f"Unknown label type: continuous. y[{rows[at]}] is {labels[at]}; class labels are whole "
                "numbers or strings. Divide the values of y into classes, or use a regressor."
            )
    if labels.dtype.kind in "if":
        marked = _marked_unlabelled(labels, known_classes, other_marks=len(rows) < len(y))
        rows, labels = rows[~marked], labels[~marked]
    elif labels.dtype.kind in "UO":
        marked = _marked_by_text(labels, known_classes)
        rows, labels = rows[~marked], labels[~marked]
    if not len(rows):
        raise ValueError(
            f"y has no labelled row: all {len(y)} rows are -1, None or NaN. Pass the class of some rows."
        )
    return rows, labels, len(y)


def _one_dimensional(y: Labels | None, fitted: str) -> tuple[NDArray, bool]:
    """Return `y` with shape (n,), and whether an array of objects is to stay one if these are strings."""
    if y is None:
        # scikit-learn's own wording, which its estimator checks look for.
        raise ValueError(f"The {fitted} requires y to be passed, but the target y is None.")
    if issparse(y):
        raise TypeError("y is sparse; pass a dense one-dimensional array, e.g. y.toarray().ravel().")
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    dtype = getattr(y, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind == "T":
        # np.asarray(y) would make the string "nan" of a NaN in a list of strings; pandas' own conversion is
        # the only one that leaves the integers of a categorical with missing values integers.
        y = np.asarray(y.astype(object) if hasattr(y, "astype") else y, dtype=object)
    elif type(y) is not np.ndarray:
        y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples,), for example using ravel().",
            DataConversionWarning,
        )
        y = y.ravel()
    if y.ndim != 1:
        raise ValueError(
            f"y should be a 1d array with one label per row, found shape {y.shape}. "
            "Multilabel and multioutput targets are not supported: "
            f"fit one {fitted} per output (MultiOutput{fitted.title()})."
        )
    if y.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: y has dtype {y.dtype}; pass one label per row.")
    if y.dtype.kind not in "biufUO":
        raise TypeError(f"y has dtype {y.dtype}; pass numbers, booleans or strings.")
    return y, dtype is not None


def _is_missing(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, str):
        return False
    try:
        return bool(value != value)
    except TypeError:
        # The truth of pandas.NA != pandas.NA is not known.
        return True
    except ValueError:
        # Nested arrays, which are refused with a message of their own.
        return False


def _homogeneous(labels: NDArray, rows: NDArray[np.intp], keep_object: bool) -> NDArray:
    """Return an object array of labels with the dtype that they would have had without missing ones."""
    types = list(map(type, labels))
    found: dict[str, np.intp] = {}
    # bool before Real, of which it is a subclass.
    kinds: dict[str, type | tuple[type, ...]] = {
        "strings": str,
        "booleans": (bool, np.bool_),
        "numbers": numbers.Real,
    }
    for label_type in dict.fromkeys(types):
        row = rows[types.index(label_type)]
        kind = next((kind for kind, base in kinds.items() if issubclass(label_type, base)), None)
        if kind is None:
            raise TypeError(
                f"y[{row}] is of type {label_type.__name__}; pass one number, boolean or string per row, and "
                "None, NaN or -1 where the label is unknown."
            )
        found.setdefault(kind, row)
    if len(found) > 1:
        where = " and ".join(f"{kind} (y[{row}])" for kind, row in found.items())
        raise TypeError(f"y mixes {where}; pass labels of one type.")
    return labels if keep_object and "strings" in found else np.array(labels.tolist())


def _marked_unlabelled(
    labels: NDArray, known_classes: NDArray | None, other_marks: bool
) -> NDArray[np.bool_]:
    """Return a mask of the numeric labels that are -1 and mark a row without a label."""
    marked = labels == -1
    if known_classes is not None:
        is_class = known_classes.dtype.kind in "if" and -1 in known_classes
        return marked & (not is_class)
    if marked.any() and not marked.all() and (labels[~marked] == 1).all():
        if not other_marks:
            warn(
                "y holds only -1 and 1. They are read as the two classes of a binary problem, although "
                "otherwise -1 marks an unlabelled row. Pass 0 and 1 for two classes. If -1 is meant to mark "
                "unlabelled rows, label rows of at least one more class.",
            )
        return np.zeros(len(labels), dtype=bool)
    return marked


def _marked_by_text(labels: NDArray, known_classes: NDArray | None) -> NDArray[np.bool_]:
    """Return a mask of the strings that were -1 or NaN before a library made strings of them."""
    marks = [mark for mark in _TEXTS_OF_NONE if known_classes is None or mark not in known_classes]
    found = {mark: labels == mark for mark in marks}
    found = {mark: rows for mark, rows in found.items() if rows.any()}
    marked = np.logical_or.reduce(list(found.values())) if found else np.zeros(len(labels), dtype=bool)
    if known_classes is not None or not found:
        return marked
    if list(found) == ["-1"] and not marked.all() and (labels[~marked] == "1").all():
        return np.zeros(len(labels), dtype=bool)
    warn(
        f"y has the strings {', '.join(map(repr, found))} in {marked.sum()} of {len(labels)} rows. NumPy and "
        "pandas write -1 and NaN like this among strings, so these rows count as unlabelled. Pass None for "
        "rows without a label. If such a string is the name of a class, rename the class.",
    )
    return marked


def warn_of_marks(classes: NDArray, instead: str) -> None:
    """Warn if a classifier that takes every label for a class is given what marks rows without a label.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The distinct labels.
    instead : str
        The classifier to use where some rows have no label.
    """
    marks = [label for label in classes.tolist() if label == -1 or label in _TEXTS_OF_NONE]
    if marks and len(classes) > 2:
        warn(
            f"y has the label {marks[0]!r}, which counts as a class here. If it marks rows without a label, "
            f"use {instead}, which leaves these rows out.",
        )


def labelled_targets(y: Labels | None) -> tuple[NDArray[np.intp], NDArray, int]:
    """Return the positions (m,) of the numbers in `y`, their values (m,), and the length of `y`.

    Rows of None and NaN are left out.
    """
    y, _ = _one_dimensional(y, "regressor")
    rows = np.arange(len(y))
    if y.dtype == object:
        rows = np.flatnonzero([not _is_missing(value) for value in y])
        y_known = _homogeneous(y[rows], rows, keep_object=False)
    elif y.dtype.kind == "f":
        rows = np.flatnonzero(~np.isnan(y))
        y_known = y[rows]
    else:
        y_known = y
    if y_known.dtype.kind not in "biuf":
        raise TypeError(
            f"y has dtype {y_known.dtype}; pass numbers, and NaN or None for rows without a target."
        )
    finite = np.isfinite(y_known)
    if not finite.all():
        raise ValueError(
            f"Input y contains infinity: y[{rows[np.argmin(finite)]}]. Pass NaN for rows without a target."
        )
    if not len(rows):
        raise ValueError(f"y has no labelled row: all {len(y)} rows are None or NaN. Pass some targets.")
    return rows, y_known, len(y)


def hide_labels(
    labels: NDArray, shown: NDArray[np.integer], rows: NDArray[np.integer], n: int, mark: float | None = None
) -> NDArray:
    """Return a target of n rows in which only some of the labels show.

    Parameters
    ----------
    labels : ndarray of shape (n_labelled,)
        The labels there are.
    shown : ndarray of int
        Positions in `labels` of those to show.
    rows : ndarray of shape (n_labelled,)
        Which of the n rows `labels` belong to.
    n : int
        Rows in all.
    mark : -1, NaN or None, default=None
        What stands where no label shows: NaN among numbers; or -1 or None where the labels are no numbers or
        -1 is one of them, and -1 otherwise.

    Returns
    -------
    ndarray of shape (n,)
        The target.

    Raises
    ------
    ValueError
        If `mark` is -1, and -1 is a class.
    """
    if mark is not None and mark != mark:
        y = np.full(n, np.nan)
        y[rows[shown]] = labels[shown]
        return y
    is_class = labels.dtype.kind in "if" and bool((labels == -1).any())
    if is_class and mark is not None:
        raise ValueError("y has a class -1, but here -1 marks unlabelled rows. Rename this class.")
    if labels.dtype.kind in "iuf" and not is_class:
        y = np.full(n, -1, dtype=np.int64 if labels.dtype.kind == "u" else labels.dtype)
    else:
        y = np.full(n, mark, dtype=object)
    y[rows[shown]] = labels[shown]
    return y


def check_fraction(fraction: float, name: str) -> float:
    """Return `fraction` as a float in (0, 1], or say what is wrong with it."""
    if isinstance(fraction, (bool, np.bool_)) or not isinstance(fraction, numbers.Real):
        raise TypeError(
            f"{name} must be a number in (0, 1], found {fraction!r}. Pass 0.1 for a tenth of the labels."
        )
    if not 0 < fraction <= 1:
        raise ValueError(
            f"{name} must be in (0, 1], found {fraction!r}. Pass 1.0 for all labels. For a certain number of "
            "labels, pass that number divided by the number of labelled rows."
        )
    return float(fraction)


def check_n_drawn(n_drawn: int, n_classes: int, n: int, given: float, name: str) -> None:
    """Raise if `n_drawn` of `n` labels, which the user passed as `given`, are fewer than `n_classes`."""
    if n_drawn >= n_classes:
        return
    if isinstance(given, numbers.Integral):
        least = f"{name}={n_classes}"
        found = f"{name}={given} draws {n_drawn} of {n} labelled rows"
    else:
        least = f"{name}={_smallest_fraction(n_classes, n)}"
        found = f"{name}={given:g} draws {n_drawn} of {n} labelled rows"
    lost = f"at least one of the {n_classes} classes without a label" if n_classes > 1 else "no label"
    raise ValueError(f"{found}, which would leave {lost}. Pass {least} or more, or label more rows.")


def _smallest_fraction(n_classes: int, n: int) -> str:
    """Return the shortest decimal near n_classes / n that draws every class."""
    for digits in range(3, 18):
        text = f"{n_classes / n:.{digits}g}"
        if round(float(text) * n) >= n_classes:
            break
    return text


def class_codes(labels: NDArray) -> NDArray[np.intp]:
    """Return a number for each label: 0, 1, ... in the order in which labels first occur."""
    # The draw does not depend on the order, and sorting objects takes longer.
    numbering: dict[object, int] = {}
    return np.array([numbering.setdefault(label, len(numbering)) for label in labels.tolist()])


def quantile_codes(targets: NDArray, n_bins: int) -> NDArray[np.intp]:
    """Return the bin of each target: at most `n_bins` bins by rank, whose sizes differ by one at most.

    The bins go by rank, not by quantile: ties would make bins of quantiles very unequal in size.
    """
    n = len(targets)
    codes = np.empty(n, dtype=np.intp)
    codes[np.argsort(targets, kind="stable")] = np.arange(n) * min(n_bins, n) // n
    return codes


def turns(codes: NDArray[np.integer], random_state: RandomState) -> NDArray[np.intp]:
    """Return a random order of the rows in which the classes take turns.

    Each round holds one row of every class that has rows left, in random order. A prefix of it is a balanced
    draw, and contains every shorter prefix.

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Class of each row: 0, 1, ..., each of which occurs.
    random_state : int, RandomState instance or None
        Seed of the order.

    Returns
    -------
    ndarray of shape (n,), dtype intp
        The rows in that order.
    """
    n = len(codes)
    rng = check_random_state(random_state)
    shuffled = rng.permutation(n)
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    counts = np.bincount(codes)
    turn = np.empty(n, dtype=np.intp)
    turn[by_class] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    # Ties within a turn need a draw of their own: by `shuffled`, a frequent class would tend to come first.
    return np.lexsort((rng.permutation(n), turn))
