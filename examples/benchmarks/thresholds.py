"""Numbers that the thresholds of `representation_report` lie between: of networks whose state is known.

Networks that are pulled together learn to bring two views of an image together and nothing else, which ends
in collapse: all images become one point. Others have random weights, or were trained briefly, or for long.
The first table has the verdict on each and the numbers behind it, the second the directions (RankMe) that
representations use after trainings with several temperatures and batch sizes. The images are those of
scikit-learn's digits; ``--folder`` adds photographs, in a sub-folder for each class:

    python examples/benchmarks/thresholds.py --folder cifar10/train --out docs/benchmarks
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from photographs import from_folder
from run import describe_machine, machine
from sklearn.datasets import load_digits
from torch import nn

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.inspection import rankme, representation_report

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
BATCH_SIZES = (64, 256)
VERDICTS = ["images", "network", "seed", "expected", "verdict", "loss / chance", "with random weights",
            "contrastive accuracy (%)", "with random weights (%)", "spread / random weights", "RankMe",
            "RankMe with random weights"]  # fmt: skip


def only_together(z):
    """Return the distance of the two views: without negatives, all become one point."""
    first, second = torch.nn.functional.normalize(z, dim=1).chunk(2)
    return (first - second).square().sum(1).mean()


def networks(epochs, channels):
    """Yield the name of each network, the verdicts that are right, and parameters that lead to it."""
    # BatchNorm would keep it from collapsing.
    plain = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(288, 64))
    )
    pulled = {"encoder": plain, "projection_layers": 0, "loss": only_together}
    pulled |= {"optimizer": "adamw", "learning_rate": 0.01, "max_epochs": epochs}
    yield "pulled together", "collapsed", pulled
    yield "random weights", "untrained", {"max_epochs": 0}
    for count in (max(1, epochs // 20), max(2, epochs // 6)):
        yield f"trained, epochs: {count}", "undertrained", {"max_epochs": count}
    yield f"trained, epochs: {epochs}", "trained or undertrained", {"max_epochs": epochs}


def verdicts(name, X, epochs, seeds):
    """Yield a line of the first table for each network and seed."""
    for network, expected, params in networks(epochs, X.shape[3] if X.ndim == 4 else 1):
        for seed in range(seeds):
            report = representation_report(SimCLRTransformer(**params, random_state=seed).fit(X), X[:500])
            trained, twins = report.measures.trained, report.measures.untrained
            spread = min(twin.spread_representations for twin in twins)
            chance = report.measures.chance_loss
            losses = [x.loss / chance if chance > 0.1 else None for x in (trained, *twins)]
            yield [
                *(name, network, seed, expected, report.verdict),
                *(["", ""] if losses[0] is None else [f"{losses[0]:.3f}", f"{np.mean(losses[1:]):.3f}"]),
                f"{100 * trained.accuracy:.1f}",
                f"{100 * max(twin.accuracy for twin in twins):.1f}",
                f"{trained.spread_representations / spread:.4f}",
                f"{trained.rank:.1f}",
                f"{np.mean([twin.rank for twin in twins]):.1f}",
            ]


def ranks(name, X, epochs):
    """Yield a line of the second table for each temperature."""
    for temperature in TEMPERATURES:
        line = [name, temperature]
        for batch_size in BATCH_SIZES:
            simclr = SimCLRTransformer(
                temperature=temperature, batch_size=batch_size, max_epochs=epochs, random_state=0
            )
            line.append(f"{rankme(simclr.fit_transform(X)):.1f}")
        yield line


def main(arguments=None):
    """Train, and write a line after each training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="photographs, one sub-folder per class")
    parser.add_argument(
        "--n-images", type=int, default=600, help="photographs, of digits three times as many"
    )
    parser.add_argument("--epochs", type=int, default=15, help="on photographs, on digits four times as many")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("thresholds"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "thresholds_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")
    sources = {"digits": (load_digits().images[: 3 * options.n_images], 4 * options.epochs)}
    if options.folder:
        sources["photographs"] = from_folder(options.folder, options.n_images)[0], options.epochs
    header = ["images", "temperature", *(f"RankMe, batches of {size}" for size in BATCH_SIZES)]
    tables = {"thresholds": [VERDICTS], "temperatures": [header]}
    for name, (X, epochs) in sources.items():
        parts = {
            "thresholds": verdicts(name, X, epochs, options.seeds),
            "temperatures": ranks(name, X[:1000], epochs),
        }
        for table, lines in parts.items():
            for line in lines:
                print(*line, sep=", ", flush=True)
                tables[table].append(line)
                with (options.out / f"{table}.csv").open("w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows(tables[table])


if __name__ == "__main__":
    main()
