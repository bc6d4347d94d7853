"""Import time, each import in a new process."""

import subprocess
import sys

from harness import cost_row, main
from timing import interleaved

STATEMENTS = {
    "package": "import sklearn_simclr",
    "estimator": "from sklearn_simclr import SimCLRTransformer",
    "peer": "import torch, sklearn",
}


def importing(statement):
    """Return a function that starts Python for one statement."""

    def work():
        subprocess.run([sys.executable, "-c", statement], check=True)
        return 1

    return work


def run(settings):
    """Return the rows of this comparison."""
    competitors = {name: importing(statement) for name, statement in STATEMENTS.items()}
    seconds = interleaved(competitors, settings.rounds(5))
    return [
        cost_row(
            "import", STATEMENTS[name], STATEMENTS["peer"], "s", seconds[name], seconds["peer"], "<= 1.15"
        )
        for name in ("package", "estimator")
    ]


if __name__ == "__main__":
    main(run, __doc__.splitlines()[0])
