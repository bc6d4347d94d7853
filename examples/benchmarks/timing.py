"""Times and memory of competitors, measured so that a busy machine hurts all of them alike."""

import gc
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a few measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        values = sorted(values)
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def median_round(first, second):
    """Return the round whose ratio is the median, the lower one of two: columns and ratio then agree."""
    order = sorted(range(len(first)), key=lambda turn: first[turn] / second[turn])
    return order[(len(order) - 1) // 2]


def ratio(numerators, denominators):
    """Return the spread of the ratios of measurements that were taken in the same round."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])


def synchronize(device):
    """Wait until the device has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(competitors, rounds, device="cpu", warm_up=True):
    """Time competitors in turn: A B A B ...

    Parameters
    ----------
    competitors : dict of str to callable
        Each does its work and returns how many items that were.
    rounds : int
        How often each has its turn.
    device : torch.device or str, default="cpu"
        Where they work.
    warm_up : bool, default=True
        Whether all of them run once before the clock does.

    Returns
    -------
    dict of str to list of float
        Seconds an item, a value a round.
    """
    seconds = {name: [] for name in competitors}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, work in competitors.items():
            # What one competitor left to be collected is not charged to the next.
            gc.collect()
            synchronize(device)
            started = time.perf_counter()
            items = work()
            synchronize(device)
            if turn >= 0:
                seconds[name].append((time.perf_counter() - started) / items)
    return seconds


class PeakMemory:
    """Context whose ``bytes`` are the most memory held above what was held at its start.

    On a GPU that of torch's allocator. On Linux the resident set; elsewhere the peak of the process's
    whole life stands in for it, which is why the measurement belongs into a process of its own.
    """

    def __init__(self, device="cpu"):
        self.device = torch.device(device)

    def __enter__(self):
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self.before = _status_bytes("VmRSS")
            except OSError:
                self.before = _lifetime_peak()
        return self

    def __exit__(self, *exception):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            try:
                peak = _status_bytes("VmHWM")
            except OSError:
                peak = _lifetime_peak()
        self.bytes = max(0, peak - self.before)


def _status_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _lifetime_peak():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_fresh_process(module, function, **arguments):
    """Call a function of a module of this folder in a new process; return what it returned.

    Arguments and result travel as JSON.
    """
    program = (
        "import importlib, json, sys; sys.path.insert(0, sys.argv[1]); "
        "f = getattr(importlib.import_module(sys.argv[2]), sys.argv[3]); "
        "print(json.dumps(f(**json.loads(sys.argv[4]))))"
    )
    command = [sys.executable, "-c", program, str(FOLDER), module, function, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module}.{function}({arguments}) failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def optional(name):
    """Return the module of a peer, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        return None
