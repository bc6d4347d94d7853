"""What the comparisons share: their options, a row of the table, a point of a curve, the command line."""

import argparse
from dataclasses import dataclass, replace

import torch
from timing import Spread, median_round, ratio


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure, and where."""

    quick: bool = False
    full: bool = False
    device: str = "cpu"

    def rounds(self, usual):
        """Return how often each competitor has its turn: an odd number, so that one is the median."""
        return 1 if self.quick else 2 * usual + 1 if self.full else usual


@dataclass(frozen=True)
class Row:
    """A line of the table: ours, a peer, and the ratio that has a target.

    Ratios are of what was measured in the same round. ours, theirs and ratio are those of the round with the
    median ratio; low and high are quartiles over all rounds. ``unit`` is that of ours and theirs.
    """

    comparison: str
    case: str
    peer: str
    unit: str = ""
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    target: str = ""
    note: str = ""

    @property
    def verdict(self):
        """Return "met", "missed", or "" where there is nothing to meet."""
        if not self.target or self.ratio is None:
            return ""
        sign, bound = self.target.split()
        met = self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)
        return "met" if met else "missed"


@dataclass(frozen=True)
class Point:
    """A point of a curve in the figure."""

    panel: str
    x_label: str
    y_label: str
    series: str
    x: float
    y: float
    low: float
    high: float


def speed_row(comparison, case, peer, ours, theirs, target="", unit="images/s", note=""):
    """Return the row for seconds an item: how many times as fast ours is."""
    turn, spread = median_round(theirs, ours), ratio(theirs, ours)
    return Row(
        comparison, case, peer, unit, 1 / ours[turn], 1 / theirs[turn], theirs[turn] / ours[turn],
        spread.low, spread.high, target, note,
    )  # fmt: skip


def cost_row(comparison, case, peer, unit, ours, theirs, target="", note=""):
    """Return the row for times or memory: what part of theirs ours takes."""
    turn, spread = median_round(ours, theirs), ratio(ours, theirs)
    return Row(
        comparison, case, peer, unit, ours[turn], theirs[turn], ours[turn] / theirs[turn],
        spread.low, spread.high, target, note,
    )  # fmt: skip


def missing_row(comparison, case, package, target=""):
    """Return the row for a peer that is not installed."""
    return Row(comparison, case, package, target=target, note=f"not run: pip install {package}")


def point(panel, x_label, y_label, series, x, values):
    """Return the point for some measurements."""
    spread = Spread.of(values)
    return Point(panel, x_label, y_label, series, x, spread.median, spread.low, spread.high)


def add_options(parser):
    """Add the options of all the scripts."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--full", action="store_true", help="twice the rounds, and what takes minutes")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda")


def settings_of(options):
    """Return the settings that a command line asks for."""
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device.")
    return Settings(quick=options.quick, full=options.full, device=options.device)


def measure(run, settings):
    """Return what a comparison measures; without targets where the sizes are not those they are meant for."""
    measured = run(settings)
    if not settings.quick:
        return measured
    return [replace(item, target="") if isinstance(item, Row) else item for item in measured]


def main(run, description):
    """Run one comparison from the command line and print its table."""
    parser = argparse.ArgumentParser(description=description)
    add_options(parser)
    for line in describe(measure(run, settings_of(parser.parse_args()))):
        print(line)


def describe(measured):
    """Return rows and points as lines of text."""
    lines = []
    for item in measured:
        if isinstance(item, Point):
            where = f"{item.series}, {item.x_label} {item.x:g}"
            lines.append(f"{item.panel}: {where}: {item.y:.4g} {item.y_label}")
            continue
        line = f"{item.comparison}, {item.case}, {item.peer}: "
        if item.ratio is not None:
            line += f"ours {item.ours:.4g}, theirs {item.theirs:.4g} {item.unit}; ours / theirs "
            line += f"{item.ratio:.3g}"
            line += "" if item.low is None else f" ({item.low:.3g} to {item.high:.3g})"
        elif item.ours is not None:
            line += f"ours {item.ours:.4g} {item.unit}"
        if item.target:
            line += f", target {item.target} {item.verdict}".rstrip()
        lines.append(line + (f" [{item.note}]" if item.note else ""))
    return lines
