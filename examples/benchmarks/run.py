"""Run all comparisons; write the table, the numbers behind it and the figures.

``results.csv`` is the table, ``results.json`` everything that was measured, ``machine.txt`` where. What is
already in the folder from the same machine and code, and of the same thoroughness, stays for the comparisons
that do not run.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch
from figure import draw
from harness import Point, Row, add_options, describe, measure, settings_of

import sklearn_simclr

COMPARISONS = ("views", "loss", "fit", "transform", "large_batch", "import_time", "files", "kill", "growth")
PACKAGES = (
    "sklearn-simclr", "torch", "torchvision", "scikit-learn", "lightly", "kornia", "pytorch-metric-learning"
)  # fmt: skip


def machine(device):
    """Return what the numbers depend on: processor and its instructions, threads, versions, our own code."""
    processor = platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        processor = names[0].partition(":")[2].strip() if names else processor
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cuda = torch.device(device).type == "cuda"
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        "system": platform.system(),
        "versions": versions,
        "code": code(),
    }


def code():
    """Return a digest of the package: numbers of other code are measured anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(sklearn_simclr.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def describe_machine(found):
    """Return the description of a machine as a line of text."""
    text = f"{found['processor']} ({found['instructions']}), {found['cores']} cores, "
    text += f"{found['threads']} thread{'s' if found['threads'] != 1 else ''} of torch"
    if found["device"] != "CPU":
        text += f", {found['device']}"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{text}; {found['system']}. {versions}."


def number(value):
    """Return a number with three digits that matter."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(measured):
    """Return the header and the lines of the table."""
    header = ["comparison", "case", "compared with", "ours", "theirs", "unit", "ours / theirs", "quartiles",
              "target", "verdict"]  # fmt: skip
    lines = [header]
    for item in measured:
        if isinstance(item, Row):
            spread = "" if item.low is None else f"{number(item.low)} to {number(item.high)}"
            lines.append(
                [item.comparison, item.case, item.peer, number(item.ours), number(item.theirs), item.unit,
                 number(item.ratio), spread, item.target, item.verdict or item.note]
            )  # fmt: skip
    return lines


def items_of(record):
    """Return the rows and points of a comparison's record."""
    return [*(Row(**row) for row in record["rows"]), *(Point(**point) for point in record["points"])]


def save(results, folder):
    """Write the results of all comparisons into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "machine.txt").write_text(describe_machine(results["machine"]) + "\n")
    records = results["comparisons"]
    measured = [item for name in COMPARISONS if name in records for item in items_of(records[name])]
    with (folder / "results.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table(measured))
    return measured


def earlier(folder, stamp):
    """Return the records in a folder that may stand beside new ones."""
    try:
        results = json.loads((folder / "results.json").read_text())
    except FileNotFoundError:
        return {}
    same = all(results.get(name) == value for name, value in stamp.items())
    return results["comparisons"] if same else {}


def main(arguments=None):
    """Run the comparisons that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=COMPARISONS, metavar="NAME",
                        help="comparisons to run: " + ", ".join(COMPARISONS))  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder for the results")
    options = parser.parse_args(arguments)
    settings = settings_of(options)
    stamp = {
        "machine": machine(options.device),
        "thoroughness": "quick" if options.quick else "full" if options.full else "usual",
    }
    records = earlier(options.out, stamp)
    for name in options.only:
        started = time.perf_counter()
        measured = measure(importlib.import_module(name).run, settings)
        records[name] = {
            "seconds": round(time.perf_counter() - started, 1),
            "rows": [asdict(item) for item in measured if isinstance(item, Row)],
            "points": [asdict(item) for item in measured if isinstance(item, Point)],
        }
        save({**stamp, "comparisons": records}, options.out)
        print(f"== {name}, {records[name]['seconds']:.0f} s", *describe(measured), sep="\n", flush=True)
    measured = save({**stamp, "comparisons": records}, options.out)
    for name, drawn in draw(options.out / "results.json").items():
        drawn.savefig(options.out / f"{name}.svg")
    rows = [item for item in measured if isinstance(item, Row)]
    verdicts = [row.verdict for row in rows if row.verdict]
    print(f"{verdicts.count('met')} of {len(verdicts)} targets met; results in {options.out}")


if __name__ == "__main__":
    main()
