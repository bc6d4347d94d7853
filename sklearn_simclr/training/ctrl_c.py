"""End a training by Ctrl-C and keep what was learnt."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from skorch.callbacks import Callback

__all__ = ["KeepOnCtrlC", "noted_ctrl_c"]


class KeepOnCtrlC(Callback):
    """Let Ctrl-C end a training instead of throwing away what was learnt.

    Without this callback Ctrl-C is an error like others: the estimator is as it was before ``fit``. With it,
    the training ends after the step at hand, ``fit`` returns, and a warning says how far it had come. A
    second Ctrl-C is an error again. The signal reaches trainings in the main thread only.

    See Also
    --------
    sklearn_simclr.SimCLRTransformer : Takes callbacks.

    Notes
    -----
    The learning rate has not come down to 0 by then, so that a training that was planned to be as short
    learns more. What Ctrl-C ended is not put into ``memory``. With ``checkpoint_dir`` the next fit goes on
    where the last checkpoint was written.

    Examples
    --------
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.training import KeepOnCtrlC
    >>> simclr = SimCLRTransformer(callbacks=[KeepOnCtrlC()])
    """


@contextlib.contextmanager
def noted_ctrl_c(asked: bool) -> Iterator[list[int]]:
    """Note the first Ctrl-C, instead of raising KeyboardInterrupt; the second does what Ctrl-C did before.

    Parameters
    ----------
    asked : bool
        Whether to do so.

    Yields
    ------
    list
        Empty until Ctrl-C is pressed.
    """
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not asked or threading.current_thread() is not threading.main_thread() or not callable(before):
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> object:
        if pressed:
            return before(number, frame)
        pressed.append(number)
        return None

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
