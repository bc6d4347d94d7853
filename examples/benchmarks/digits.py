"""README's table of digits: what ``make demo`` prints, written into README between its markers."""

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
from blocks import markdown, put
from run import describe_machine, machine

ROOT = Path(__file__).resolve().parents[2]


def main(readme=ROOT / "README.md", lesson=ROOT / "examples" / "plot_label_fractions.py"):
    """Run the lesson, and write its table."""
    mpl.use("agg")
    known = runpy.run_path(str(lesson))
    table = known["table"].loc[list(known["models"])]
    # A draw of all labels is always the same.
    lines = [[name, *(cell.removesuffix(" ± nan") for cell in row)] for name, *row in table.itertuples()]
    text = f"{markdown(['', *table.columns], lines)}\n\n`make demo` on {describe_machine(machine('cpu'))}"
    put(Path(readme), "digits", text)


if __name__ == "__main__":
    main(*sys.argv[1:])
