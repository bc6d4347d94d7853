"""Few labels: SimCLR, the same network with random weights and HOG, each alone and all three together.

Each member is a logistic regression on the features of one method, whose C and scaling are chosen by
cross-validation on the labelled rows, as in `rivals.py`. A vote is the mean of their probabilities; one
classifier of the features of all three, standardised and side by side, is compared with it. Sources, draws of
labels and means over mirror images are those of `rivals.py`, too.

    python examples/benchmarks/votes.py cifar10=cifar10 clothing=clothing --out docs/benchmarks
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import rivals
from run import describe_machine, machine
from sklearn.linear_model import LogisticRegression

from sklearn_simclr import HOGTransformer, SimCLRTransformer

VOTE = "vote of the three"
JOINED = "features of the three, one classifier"


def answers(H, H_new, rows, y, seed):
    """Return the probabilities (n, classes) that a member gives to new images."""
    A, B, C, *_ = rivals.settled(H, H_new, rows, y, seed)
    return LogisticRegression(C=C, max_iter=1000).fit(A, y[rows]).predict_proba(B)


def measure(source, options):
    """Yield (method, labels per class, seed, draw, accuracy in percent)."""
    _, X, y, X_new, y_new = source
    classes = np.unique(y)
    for seed in options.seeds:
        members = {
            "HOG": HOGTransformer(),
            "untrained network": SimCLRTransformer(max_epochs=0, mirror=False, random_state=seed),
            rivals.OURS: SimCLRTransformer(mirror=False, **rivals.budget_of(options, options.seconds, seed)),
        }
        known = {}
        for name, model in members.items():
            model.fit(X)
            known[name] = rivals.both_sides(model, X), rivals.both_sides(model, X_new)
        pairs = [rivals.scaled(H, H_new, each=True) for H, H_new in known.values()]
        joined = [np.hstack([pair[k] for pair in pairs]) for k in (0, 1)]
        for count in options.labels:
            for draw in range(options.draws):
                rows = rivals.labelled_rows(y, count, seed, draw)
                found = {name: answers(H, H_new, rows, y, seed) for name, (H, H_new) in known.items()}
                found[VOTE] = sum(found.values()) / len(found)
                found[JOINED] = answers(*joined, rows, y, seed)
                for name, probabilities in found.items():
                    right = classes[probabilities.argmax(axis=1)] == y_new
                    yield name, count, seed, draw, 100 * float(np.mean(right))


def table(found, counts):
    """Return header and lines: mean and deviation over seeds and draws, and what both add to SimCLR."""
    lines = [["images", "method", *(f"{count} per class" for count in counts)]]
    for source, rows in found.items():
        by_method = {}
        for name, count, *_, accuracy in rows:
            by_method.setdefault(name, {}).setdefault(count, []).append(accuracy)
        for name, cells in by_method.items():
            texts = [f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" for values in cells.values()]
            lines.append([source, name, *texts])
        for name, short in ((VOTE, "vote"), (JOINED, "one classifier")):
            gains = []
            for both, ours in zip(by_method[name].values(), by_method[rivals.OURS].values(), strict=True):
                gain = np.subtract(both, ours)
                gains.append(f"{gain.mean():+.1f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.1f}")
            lines.append([source, f"{short} - SimCLR, with standard error", *gains])
    return lines


def main(arguments=None):
    """Measure all sources, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="NAME=FOLDER", help="images; cifar10 is downloaded")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 20, 100], help="per class (5 20 100)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of training (40)")
    parser.add_argument("--epochs", type=int, help="of training, instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--draws", type=int, default=5, help="of the labels, with each seed (5)")
    parser.add_argument("--n-images", type=int, default=10_000, help="training images at most (10000)")
    parser.add_argument("--n-scored", type=int, default=4_000, help="of train, held out (4000)")
    parser.add_argument("--out", type=Path, default=Path("votes"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.test, found = False, {}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "votes_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")
    for source in options.sources:
        name, *parts = rivals.images_of(source, options)
        found[name] = []
        for row in measure((name, *parts), options):
            found[name].append(row)
            print(name, *row, sep=", ", flush=True)
        with (options.out / "votes.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table(found, options.labels))


if __name__ == "__main__":
    main()
