"""Fitted estimators as files that are read without running code."""

import os
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from .._utils import container
from .._utils.usual_settings import usual_settings
from .._utils.warn import shortened, warn
from ..estimators.nested import image_steps
from ._estimator_values import ESTIMATORS, decode_estimator, encode_estimator

__all__ = ["load_estimator", "save_estimator"]

# Kind of the container.
_KIND = "estimator"


def save_estimator(estimator: BaseEstimator, path: str | os.PathLike) -> None:
    """Write a fitted estimator to a file that holds no code, and that `load_estimator` reads.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`SimCLRTransformer`, :class:`SupervisedTransformer`, :class:`AutoencoderTransformer`,
        :class:`SimCLRClassifier` or :class:`DistilledClassifier`, its encoder given by name; or
        :class:`PixelTransformer` or :class:`HOGTransformer`. Or a Pipeline, ColumnTransformer, FeatureUnion,
        FrozenEstimator and the like that holds some of them; for that, the extra ``skops`` is needed.
    path : str or path-like
        Where to; a file there is replaced when the new one is complete.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is of another class, or has a parameter or a step that the file cannot hold: a module or
        function of your own, callbacks, a teacher or step of another package, a
        :class:`PACBayesContrastiveTransformer`. The message names it.
    ValueError
        If a parameter was set to what it cannot be: the file could not be read.
    OSError
        If the file cannot be written. What was there before stays.
    ImportError
        If skops is needed and not installed.

    See Also
    --------
    load_estimator : Read it back.
    export_encoder : The network alone, for other programs too.

    Notes
    -----
    ``memory``, also that of a Pipeline, ``cache_dir`` and ``checkpoint_dir`` name places on this machine and
    are left out: they are None in the estimator that is read. So is the fitted teacher of a
    :class:`DistilledClassifier`, unless it was fitted when it was passed.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.export import load_estimator, save_estimator
    >>> X, _ = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(X[:100])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "simclr.safetensors")
    ...     save_estimator(simclr, path)
    ...     same = load_estimator(path)
    >>> bool((same.transform(X) == simclr.transform(X)).all())
    True
    """
    steps = list(image_steps(estimator))
    if not steps:
        raise TypeError(
            f"estimator must be one of {', '.join(ESTIMATORS)}, or a Pipeline or another estimator of "
            f"scikit-learn that holds one; got {type(estimator).__name__}."
        )
    for found in steps:
        if type(found.step) not in ESTIMATORS.values():
            raise TypeError(
                f"{found.path} must be one of {', '.join(ESTIMATORS)}; got {type(found.step).__name__}, "
                "which a file without code cannot hold. Pickle this step for your own use, or write its "
                "encoder alone with export_encoder(..., format='onnx')."
            )
    check_is_fitted(estimator, "image_shape_" if type(estimator) in ESTIMATORS.values() else None)
    records, arrays = encode_estimator(estimator)
    container.write(path, _KIND, arrays, records)


@usual_settings()
def load_estimator(path: str | os.PathLike) -> Any:
    """Return the estimator that `save_estimator` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    estimator
        Fitted, its modules on the CPU: it transforms and predicts, bit by bit, as the one that was written
        does on the same machine.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is of another kind, such as a pickle, is damaged, or has a class that is not known.
    ImportError
        If the encoder is one of timm, or the estimator a Pipeline or the like, and timm or skops is not
        installed.

    Warns
    -----
    UserWarning
        If the file names a place on a machine, which `save_estimator` never writes.

    See Also
    --------
    save_estimator : Writes such files.

    Notes
    -----
    No code is in the file, and none of it is run: classes are looked up among those of this package, and by
    skops among those of scikit-learn that it trusts. Still,
    only files of people you trust tell you what their encoders were trained on.

    ``memory``, ``cache_dir`` and ``checkpoint_dir`` are None whatever the file says: a cache in a folder
    that somebody else chose may hold pickles.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.export import load_estimator, save_estimator
    >>> X, _ = load_digits(return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "simclr.safetensors")
    ...     save_estimator(SimCLRTransformer(max_epochs=1, random_state=0).fit(X[:100]), path)
    ...     load_estimator(path)
    SimCLRTransformer(max_epochs=1, random_state=0)
    """
    arrays, records = container.read(path, _KIND)
    estimator, places = decode_estimator(records, arrays, str(path))
    if places:
        named = ", ".join(f"{name}={shortened(repr(value))}" for name, value in sorted(places.items()))
        warn(
            f"{path} has {named}, which is not taken from a file: such a place may hold pickles, which run "
            "code, or files of yours. The loaded estimator has None instead; set a place of your own with "
            "set_params."
        )
    return estimator
