"""Training on several ranks: CPU time for each image, summed over the ranks, against that of one process.

Each line is a training by ``torchrun`` of the default estimator on random images; counted is what its steps
take, without the setup. With more ranks than cores the seconds on the clock say nothing, the CPU time does.

    python examples/benchmarks/ranks.py --ranks 1 2 4 --out docs/benchmarks
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
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
    SimCLRTransformer(
        options.encoder,
        batch_size=options.batch_size,
        max_epochs=options.epochs + 1,
        callbacks=[Measure(options.folder)],
        random_state=0,
    ).fit(X)


def measure(ranks, arguments):
    """Return the milliseconds of CPU time for each image that so many ranks take together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    with tempfile.TemporaryDirectory() as folder:
        command += [__file__, *arguments, "--folder", folder]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = [path.read_text().split() for path in Path(folder).iterdir()]
    return 1000 * sum(float(spent) for spent, _ in found) / float(found[0][1])


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
    spent = {ranks: [] for ranks in options.ranks}
    for _ in range(options.repeats):
        for ranks in options.ranks:
            spent[ranks].append(measure(ranks, arguments))
            print(f"{ranks} ranks: {spent[ranks][-1]:.3f} ms of CPU time for each image", flush=True)
    least = {ranks: min(times) for ranks, times in spent.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "ranks.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["ranks", "CPU time per image (ms)", "efficiency (%)"])
        for ranks, time_of_image in least.items():
            efficiency = 100 * least[options.ranks[0]] / time_of_image
            table.writerow([ranks, f"{time_of_image:.3f}", f"{efficiency:.0f}"])
    (options.out / "ranks_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")


if __name__ == "__main__":
    main()
