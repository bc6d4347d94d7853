"""README's table of digits: what ``make demo`` prints, written into README between its markers."""

import csv
import runpy
import sys
from pathlib import Path

import matplotlib as mpl
from blocks import markdown, put
from run import describe_machine, machine

ROOT = Path(__file__).resolve().parents[2]


def main(readme=ROOT / "README.md", out=ROOT / "docs" / "benchmarks"):
    """Run the lesson, and write its table as a file and into README."""
    mpl.use("agg")
    known = runpy.run_path(str(ROOT / "examples" / "plot_label_fractions.py"))
    table = known["table"].loc[list(known["models"])]
    # A draw of all labels is always the same.
    lines = [[name, *(cell.removesuffix(" ± nan") for cell in row)] for name, *row in table.itertuples()]
    header = ["", *table.columns]
    with (Path(out) / "digits.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    text = f"{markdown(header, lines)}\n\n`make demo` on {describe_machine(machine('cpu'))}"
    put(Path(readme), "digits", text)


if __name__ == "__main__":
    main(*sys.argv[1:])
