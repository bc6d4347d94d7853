"""Warn with the line of the user's code that led to the warning, and shorten texts for messages."""

import sys
import warnings
from types import FrameType

from .ranks import speaks

__all__ = ["shortened", "warn"]

# Packages whose functions can lie between the user's line and the call of `warn`.
_BETWEEN = {"contextlib", "functools", "joblib", "sklearn", "sklearn_simclr", "skorch"}

# Most characters of a text from a file or another library in a message.
_LONGEST = 300


def shortened(text: str) -> str:
    """Return a text that a message can hold.

    Parameters
    ----------
    text : str
        A text of any length, such as a name in a file.

    Returns
    -------
    str
        Without its middle if it is long.
    """
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Issue a warning about what the user's code does, once where several ranks run that code.

    Parameters
    ----------
    message : str or Warning
        What was found, and what to do.
    category : type, default=UserWarning
        Class of the warning.
    """
    if not speaks():
        return
    level = 2
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=2 if frame is None else level)
