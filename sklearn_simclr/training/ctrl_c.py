"""End a training by Ctrl-C and keep what was learnt; tell Ctrl-C from a callback that ends a training."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

from skorch.callbacks import Callback

__all__ = ["KeepOnCtrlC", "ended_by_callback", "noted_ctrl_c"]

Handler = Callable[[int, FrameType | None], object]


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

    def note(before: Handler, number: int, frame: FrameType | None) -> object:
        if pressed:
            return before(number, frame)
        pressed.append(number)
        return None

    with _handled(note) if asked else contextlib.nullcontext():
        yield pressed


@contextlib.contextmanager
def ended_by_callback() -> Iterator[list[bool]]:
    """Catch the KeyboardInterrupt by which skorch's callbacks end a training, and not the user's Ctrl-C.

    Yields
    ------
    list
        Empty until a callback has ended the training.
    """
    ended: list[bool] = []
    pressed: list[int] = []

    def note(before: Handler, number: int, frame: FrameType | None) -> object:
        pressed.append(number)
        return before(number, frame)

    try:
        with _handled(note):
            yield ended
    except KeyboardInterrupt:
        if pressed:
            raise
        ended.append(True)


@contextlib.contextmanager
def _handled(handle: Callable[[Handler, int, FrameType | None], object]) -> Iterator[None]:
    """Let a function handle Ctrl-C, which also gets the handler that was there before.

    Python handles signals in the main thread only: elsewhere nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, partial(handle, before))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
