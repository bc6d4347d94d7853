"""Run an example of the gallery with few epochs: ``python tests/quick_lesson.py SCRIPT EPOCHS``."""

import runpy
import sys

from sklearn_simclr import theory
from sklearn_simclr.training.plan import Plan


def shorten(cls: type, **most: int) -> None:
    """Let instances of a class have attributes of at most these values, whatever they are made with."""
    made = cls.__init__

    def __init__(self, *args, **kwargs):
        made(self, *args, **kwargs)
        for name, value in most.items():
            object.__setattr__(self, name, min(getattr(self, name), value))

    cls.__init__ = __init__


if __name__ == "__main__":
    script, epochs = sys.argv[1], int(sys.argv[2])
    shorten(Plan, max_epochs=epochs)
    sample_tuples = theory.sample_tuples
    theory.sample_tuples = lambda y, n, **options: sample_tuples(y, min(n, 2_000), **options)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")
