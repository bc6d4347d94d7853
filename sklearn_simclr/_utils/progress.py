"""Progress for those who watch: a bar on a screen or in a notebook, a few lines in a file."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self

from .ranks import speaks

__all__ = ["in_words", "progress_bar", "setting_up"]

# Seconds between two updates of a bar that shows only that time passes.
_REFRESH = 0.5

# What the threads of this process draw under.
_LOCK = threading.RLock()


class _Lines:
    """Progress as lines of text, one for each tenth that is done: a file keeps all that is written to it."""

    def __init__(self, title: str, total: float, layout: str) -> None:
        self.title, self.total, self.layout = title, total, layout
        self.n = self.written = 0.0
        self.postfix = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        """Count what has been done; write a line if it completes a tenth."""
        before = self._percent()
        self.n += n
        if self._percent() // 10 > before // 10:
            self._write_line()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Take note of what stands at the end of the next line."""
        self.postfix = text

    def refresh(self) -> None:
        """Do nothing: a line stays as it was written."""

    def write(self, text: str, file: Any = None) -> None:
        """Write a line."""
        print(text, file=file or sys.stderr, flush=True)

    def close(self) -> None:
        """Write a last line, if more has been done since the line before."""
        if self.n > self.written:
            self._write_line()

    def _write_line(self) -> None:
        self.written = self.n
        amounts = {"n": self.n, "total": self.total, "n_fmt": f"{self.n:g}", "total_fmt": f"{self.total:g}"}
        postfix = self.postfix and f", {self.postfix}"
        self.write(f"{self.title}: {self._percent()}%, {self.layout.format(**amounts, postfix=postfix)}")

    def _percent(self) -> int:
        return int(100 * self.n / self.total + 1e-9) if self.total else 0


class _Silent(_Lines):
    """Progress that nobody watches."""

    def _write_line(self) -> None:
        pass


def progress_bar(
    title: str, total: float, unit: str, *, layout: str | None = None, shown: bool = True
) -> Any:
    """Return a progress bar of tqdm, or an object that writes a line per tenth where nobody sees a bar.

    Parameters
    ----------
    title : str
        Stands before the bar.
    total : float
        What is to be done.
    unit : str
        What is counted.
    layout : str or None, default=None
        What stands behind the bar, with ``{n}``, ``{total}`` and ``{postfix}``; None is tqdm's own.
    shown : bool, default=True
        Whether there is anything to see.

    Returns
    -------
    tqdm, or an object with its methods ``update``, ``set_postfix_str``, ``refresh``, ``write`` and ``close``
        A context manager.
    """
    shown = shown and speaks()
    if not (shown and _on_a_screen()):
        lines = _Lines if shown else _Silent
        return lines(title, total, layout or f"{{n_fmt}} of {{total_fmt}} {unit}{{postfix}}")
    form = None if layout is None else f"{{l_bar}}{{bar}}| {layout}"
    options = {} if layout is None else {"mininterval": 0.0}
    return _bar(total=total, unit=unit, desc=title, bar_format=form, **options)


@contextlib.contextmanager
def setting_up(what: str, shown: bool) -> Iterator[None]:
    """Show what is done in a context; on a screen, show also for how long already.

    Parameters
    ----------
    what : str
        What is done.
    shown : bool
        Whether there is anything to see.
    """
    if not (shown and speaks()):
        yield
        return
    text = f"setting up: {what}"
    if not _on_a_screen():
        print(text, file=sys.stderr, flush=True)
        yield
        return
    over = threading.Event()
    with _bar(bar_format="{desc} [{elapsed}]", desc=text, leave=False) as bar:

        def move() -> None:
            while not over.wait(_REFRESH):
                bar.refresh()

        mover = threading.Thread(target=move, daemon=True)
        mover.start()
        try:
            yield
        finally:
            over.set()
            mover.join()


def in_words(seconds: float) -> str:
    """Return a time as one would say it.

    Parameters
    ----------
    seconds : float
        The time, >= 0.

    Returns
    -------
    str
        The time with two digits, in seconds, minutes or hours.

    Examples
    --------
    >>> from sklearn_simclr._utils.progress import in_words
    >>> [in_words(seconds) for seconds in (0.0123, 8.06, 95, 700, 30_000)]
    ['0.012 s', '8.1 s', '95 s', '12 minutes', '8.3 hours']
    """
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 36_000 else f"{seconds / 3600:,.0f} hours"


def _bar(**options: Any) -> Any:
    """Return a bar of tqdm without what hinders other processes.

    The lock of tqdm is one for all processes that are forked: one that is killed while it has the lock makes
    the others wait for ever. The thread that tqdm starts takes this lock, too; a bar that looks at the clock
    in every update needs no such thread.
    """
    from tqdm import auto

    class Bar(auto.tqdm):
        monitor_interval = 0
        _lock = _LOCK

    return Bar(miniters=1, **options)


def _on_a_screen() -> bool:
    """Return whether somebody sees a bar move: a terminal or a notebook, and no file."""
    from tqdm import auto, std

    notebook = getattr(auto, "notebook_tqdm", std.tqdm) is not std.tqdm
    return notebook or bool(getattr(sys.stderr, "isatty", bool)())
