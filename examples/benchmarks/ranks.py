"""Training on several ranks: CPU time for each image, summed over the ranks, against that of one process.

Each line is a training by ``torchrun`` of the default estimator on random images; counted is what its steps
take, without the setup. With more ranks than cores the seconds on the clock say nothing, the CPU time does.
As many processes that train at the same time, each for itself, show what sharing the machine costs. The
weights are compared with those of one process, as are those of one process with two threads.

    python examples/benchmarks/ranks.py --ranks 1 2 4 --out docs/benchmarks
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from run import describe_machine, machine
from skorch.callbacks import Callback

from sklearn_simclr import SimCLRTransformer


class Measure(Callback):
    """Write down the CPU time of the steps, without the first epoch, in which everything is done once."""

    def __init__(self, folder):
        self.folder = folder

    def on_epoch_end(self, net, **known):
        if len(net.history) == 1:
            self.begun = time.process_time()

    def on_train_end(self, net, X, **known):
        images = len(X) // net.batch_size * net.batch_size * (len(net.history) - 1)
        spent = time.process_time() - self.begun
        Path(self.folder, os.environ["RANK"]).write_text(f"{spent} {images}")


def train(options):
    """Train on this rank."""
    X = np.random.default_rng(0).integers(0, 256, (options.images, options.size, options.size, 3), np.uint8)
    fitted = SimCLRTransformer(
        options.encoder,
        batch_size=options.batch_size,
        max_epochs=options.epochs + 1,
        callbacks=[Measure(options.folder)],
        random_state=0,
    ).fit(X)
    if os.environ["RANK"] == "0":
        weights = [parameter.detach().numpy().ravel() for parameter in fitted.encoder_.parameters()]
        np.save(Path(options.folder, "weights.npy"), np.concatenate(weights))


def measure(n, arguments, launcher=True, threads=1):
    """Return the milliseconds of CPU time for each image that n processes take together, and the weights."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(n)] if launcher else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *torchrun, __file__, *arguments, "--folder", folder]
        known = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        ranks = [{}] if launcher else [{"RANK": str(rank)} for rank in range(n)]
        processes = [subprocess.Popen(command, env={**known, **rank}) for rank in ranks]
        if any([process.wait() for process in processes]):
            raise SystemExit(f"{n} processes: the training failed.")
        found = [path.read_text().split() for path in Path(folder).iterdir() if path.suffix != ".npy"]
        weights = np.load(Path(folder, "weights.npy"))
    images = sum(float(images) for _, images in found) / (n if launcher else 1)
    return 1000 * sum(float(spent) for spent, _ in found) / images, weights


def main(arguments=None):
    """Measure each number of ranks several times in turn, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--encoder", default="compact")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("ranks"), help="folder for the results")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        train(options)
        return
    arguments = sys.argv[1:] if arguments is None else arguments
    spent, weights = defaultdict(list), {}
    for _ in range(options.repeats):
        for n in options.ranks:
            for launcher in (True, False):
                milliseconds, weights[n, launcher] = measure(n, arguments, launcher)
                spent[n, launcher].append(milliseconds)
                kind = "ranks" if launcher else "processes on their own"
                print(f"{n} {kind}: {milliseconds:.3f} ms of CPU time for each image", flush=True)
    _, with_threads = measure(1, arguments, threads=2)
    least = {key: min(times) for key, times in spent.items()}
    alone = weights[options.ranks[0], True]

    def difference(other):
        return f"{np.linalg.norm(other - alone) / np.linalg.norm(alone):.1e}"

    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "ranks.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            [
                "ranks",
                "CPU time per image (ms)",
                "efficiency (%)",
                "processes on their own (ms)",
                "weights differ by",
            ]
        )
        for n in options.ranks:
            efficiency = 100 * least[options.ranks[0], True] / least[n, True]
            times = f"{least[n, True]:.3f}", f"{efficiency:.0f}", f"{least[n, False]:.3f}"
            table.writerow([n, *times, difference(weights[n, True])])
        table.writerow(["1, two threads", "", "", "", difference(with_threads)])
    (options.out / "ranks_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")


if __name__ == "__main__":
    main()
