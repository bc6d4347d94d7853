"""Run on a GPU what needs one, and write a report: tests, speed, two processes on two GPUs."""

import argparse
import csv
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from run import describe_machine, machine

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SCRIPT = ROOT / "examples" / "data_parallel.py"


def call(*command):
    """Run a command of this Python, show what it prints, and return its exit status and its lines."""
    print("$ python", *command, flush=True)
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    return process.wait(), lines


def tests():
    """Run the tests that need a GPU, and return lines for the report."""
    status, lines = call("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests")
    bad = [f"- `{line.partition(' - ')[0]}`" for line in lines if line.startswith(("FAILED", "ERROR"))]
    return status == 0, [lines[-1] if lines else f"pytest ended with {status}", "", *bad]


def benchmark(folder, options):
    """Run the benchmarks on the GPU, and return the table as lines of markdown."""
    status, lines = call(FOLDER / "run.py", "--device", "cuda", "--out", folder, *options)
    table = folder / "results.csv"
    if status != 0 or not table.exists():
        return False, [f"The benchmarks failed: `{lines[-1] if lines else status}`"]
    header, *rows = csv.reader(table.read_text().splitlines())
    rule = ["---"] * len(header)
    return True, ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]


def ranks(n_gpus):
    """Train in one process and in two, and return lines that compare them."""
    if n_gpus < 2:
        return True, [f"Not tried: torch finds {n_gpus} GPU."]
    found, text = [], []
    for name, launcher in (
        ("one process", ()),
        ("two", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")),
    ):
        status, lines = call(*launcher, SCRIPT)
        said = re.findall(r"loss ([\d.]+), (\d+) images/s", "\n".join(lines))
        if status != 0 or not said:
            return False, [*text, f"- {name}: failed, `{lines[-1] if lines else status}`"]
        found.append({float(loss) for loss, _ in said})
        text.append(f"- {name}: loss {said[0][0]}, {said[0][1]} images/s")
    # All processes of a training print the same loss, and it is that of one process.
    first, *_ = found[0]
    same = len(found[1]) == 1 and all(abs(loss - first) <= 0.02 * first for loss in found[1])
    return same, [*text, "- same loss: " + ("yes" if same else f"no, {found}")]


def report(sections, where, when):
    """Return the text of the report."""
    lines = ["---", "orphan: true", "---", "", "# On a GPU", "", f"`make gpu`, {when}.", "", where]
    for title, (passed, text) in sections.items():
        lines += ["", f"## {title}: {'passed' if passed else 'FAILED'}", "", *text]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments=None):
    """Run everything, and write the report also where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder for gpu.md")
    parser.add_argument("options", nargs="*", help="options of run.py, after --")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("make gpu: torch finds no CUDA device on this machine, so nothing was run.")
    sections = {
        "Tests": tests(),
        "Two GPUs": ranks(torch.cuda.device_count()),
        "Speed": benchmark(options.out / "gpu", options.options),
    }
    text = report(sections, describe_machine(machine("cuda")), datetime.date.today().isoformat())
    (options.out / "gpu.md").write_text(text)
    print(f"The report is in {options.out / 'gpu.md'}")
    if not all(passed for passed, _ in sections.values()):
        raise SystemExit("make gpu: something failed, see the report.")


if __name__ == "__main__":
    main()
