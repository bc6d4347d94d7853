"""What the queue of SimCLRv2 and small views add to the default: in equal steps, and in equal time.

The default trains for some epochs. Then each other setting trains for as many epochs, and once more for the
seconds that the default took with the same seed. A logistic regression on the standardised representation is
scored on a quarter of the images, which no encoder has seen; its C is the best for the default on a fifth of
the other images. The queue has averages of two lengths: that of SimCLRv2, 0.999, hardly moves in a few
hundred steps. Two more settings: colours as torchvision computes them, one operation after the other, instead
of by one linear map; and micro-batches so small that the statistics of BatchNorm tell which views belong
together.

    python examples/benchmarks/additions.py --folder cifar10/train --out docs/benchmarks
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from photographs import chosen_C, from_folder, probe
from run import describe_machine, machine
from sklearn.model_selection import train_test_split

from sklearn_simclr import Augmentation, SimCLRTransformer

DEFAULT = "default"

# Values of C that the logistic regression is chosen from.
GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
SETTINGS = {
    "queue of 4,096, average of 0.9": {"queue_size": 4096, "queue_momentum": 0.9},
    "queue of 4,096, average of 0.999": {"queue_size": 4096, "queue_momentum": 0.999},
    "4 small views": {"small_views": 4},
    "colours one after the other": {"augmentation": Augmentation(implementation="torchvision")},
    "micro-batches of 4": {"micro_batch_size": 4},
}


def train(parts, C, **params):
    """Return the accuracy of what was learnt, the epochs, the seconds, and C, chosen where it is None."""
    X, X_new, y, y_new = parts
    started = time.perf_counter()
    model = SimCLRTransformer(**params).fit(X)
    spent = time.perf_counter() - started
    H, H_new = model.transform(X), model.transform(X_new)
    C = chosen_C(H, y, GRID) if C is None else C
    accuracy = 100 * probe(H, y, H_new, y_new, C)
    return {"accuracy": accuracy, "epochs": model.n_iter_, "seconds": spent, "C": C}


def measure(parts, options):
    """Yield (setting, what is equal, result) in turn, seed by seed."""
    SimCLRTransformer(max_epochs=1, random_state=0).fit(parts[0][:512])  # what is done once is not counted
    C = None
    for seed in options.seeds:
        default = train(parts, C, max_epochs=options.epochs, random_state=seed)
        C = default["C"]
        for equal in ("steps", "time"):
            yield DEFAULT, equal, default
        for name in options.settings:
            lengths = {"steps": {"max_epochs": options.epochs}, "time": {"max_time": default["seconds"]}}
            for equal, length in lengths.items():
                yield name, equal, train(parts, C, random_state=seed, **length, **SETTINGS[name])


def table(rows):
    """Return header and lines: means over the seeds, and the difference to the default of the same seed."""
    lines = [["equal", "setting", "seeds", "epochs", "seconds", "accuracy (%)", "more than the default"]]
    for equal in ("steps", "time"):
        scores = {}
        for name, what, found in rows:
            if what == equal:
                scores.setdefault(name, []).append(found)
        for name, found in scores.items():
            values = np.array([result["accuracy"] for result in found])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            text = ""
            if name != DEFAULT:
                gains = values - [result["accuracy"] for result in scores[DEFAULT][: len(values)]]
                text = f"{gains.mean():+.1f}"
                if len(gains) > 1:
                    text += f" ± {gains.std(ddof=1) / np.sqrt(len(gains)):.1f}"
            epochs, seconds = (np.mean([result[key] for result in found]) for key in ("epochs", "seconds"))
            cells = [len(found), f"{epochs:.3g}", f"{seconds:.0f}", f"{values.mean():.1f}{spread}", text]
            lines.append([equal, name, *cells])
    return lines


def main(arguments=None):
    """Train, and write the table after each training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="images, one sub-folder per class")
    parser.add_argument("--n-images", type=int, default=10_000, help="a quarter of them to score on (10000)")
    parser.add_argument("--epochs", type=int, default=8, help="of the default (8)")
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME",
        help=f"what is compared with the default (all): {', '.join(SETTINGS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--out", type=Path, default=Path("additions"), help="folder for the results")
    options = parser.parse_args(arguments)
    X, y = from_folder(options.folder, options.n_images)
    parts = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "additions_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")
    rows = []
    for row in measure(parts, options):
        rows.append(row)
        print(*row, sep=", ", flush=True)
        with (options.out / "additions.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table(rows))


if __name__ == "__main__":
    main()
