"""Progress is a bar where somebody sees it move, and a few lines in a file."""

import io
import sys
import threading
import time

import pytest

from sklearn_simclr._utils.progress import in_words, progress_bar, setting_up


class Screen(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self):
        return True


def test_a_file_gets_a_line_for_each_tenth_and_one_for_the_end(capsys):
    with progress_bar("reading", 1000, "images") as bar:
        for k in range(970):
            bar.set_postfix_str(f"number {k}", refresh=False)
            bar.update(1)
            bar.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "reading: 10%, 100 of 1000 images, number 99"
    assert lines[-1] == "reading: 97%, 970 of 1000 images, number 969"


def test_what_is_done_at_once_is_one_line(capsys):
    with progress_bar("reading", 4, "images", layout="{n:.1f}/{total:.0f}{postfix}") as bar:
        bar.update(4)
    assert capsys.readouterr().err == "reading: 100%, 4.0/4\n"
    with progress_bar("reading", 4, "images"):
        pass
    with progress_bar("reading", 0, "images") as bar:
        bar.update(0)
    with progress_bar("reading", 4, "images", shown=False) as bar:
        bar.update(4)
    with setting_up("views", False):
        pass
    assert capsys.readouterr().err == ""


def test_a_screen_gets_a_bar(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_bar("SimCLR", 4, "s", layout="{n:.1f}/{total:.0f} s{postfix}") as bar:
        bar.set_postfix_str("9 images/s", refresh=False)
        bar.update(2)
    assert "\rSimCLR:  50%|" in screen.getvalue() and "| 2.0/4 s, 9 images/s" in screen.getvalue()
    assert "it/s" not in screen.getvalue()


def test_setting_up_moves_on_a_screen_and_is_a_line_in_a_file(monkeypatch, capsys):
    with setting_up("views", True):
        pass
    assert capsys.readouterr().err == "setting up: views\n"
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("sklearn_simclr._utils.progress._REFRESH", 0.01)
    with pytest.raises(KeyError), setting_up("views", True):
        for _ in range(500):
            if screen.getvalue().count("setting up: views [00:00]") > 2:
                break
            time.sleep(0.01)
        raise KeyError
    assert screen.getvalue().count("setting up: views [") > 2


def what_forked_processes_share():
    """Return the threads that tqdm has started, and whether it has made a lock of all processes."""
    sys.stderr = Screen()
    with setting_up("views", True), progress_bar("SimCLR", 4, "s") as bar:
        bar.update(2)
    with progress_bar("SimCLR", 4, "s", shown=False) as bar:
        bar.update(2)
    seen = "SimCLR:  50%|" in sys.stderr.getvalue()
    from tqdm.std import TqdmDefaultWriteLock

    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("tqdm")]
    return seen, threads, hasattr(TqdmDefaultWriteLock, "mp_lock")


def test_a_killed_process_keeps_no_lock_that_others_wait_for(forked):
    assert forked.run_alone(what_forked_processes_share) == (True, [], False)


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "0 s"), (0.00321, "0.0032 s"), (9.96, "10 s"), (119.4, "119 s"), (121, "2 minutes")]
    + [(7100, "118 minutes"), (7300, "2.0 hours"), (400_000, "111 hours")],
)
def test_a_time_in_words(seconds, words):
    assert in_words(seconds) == words
