"""Images that people own: what the default learns in minutes, beside HOG, pixels and other networks.

Every method reads the same files and gets the C of a logistic regression that is best on a fifth of the
training images, held out; the table holds its accuracy on other images: with all labels, and with five labels
per class (the mean of ten draws; not for the supervised network, which has learnt from all of them). Nothing
but ``max_time`` and ``random_state`` is set.

    python examples/benchmarks/owned.py clothing/train clothing/validation --seconds 60 200 --out owned
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from run import describe_machine, machine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    HOGTransformer,
    PixelTransformer,
    SimCLRTransformer,
    SupervisedTransformer,
    load_image_paths,
)

GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
LABELS, DRAWS = 5, 10


def score(H, y, H_new, y_new, C):
    """Return the accuracy on new images of a logistic regression, in percent."""
    return 100 * LogisticRegression(C=C, max_iter=1000).fit(H, y).score(H_new, y_new)


def best(H, y):
    """Return the C that is best on a fifth of the rows, held out."""
    H, H_held, y, y_held = train_test_split(H, y, test_size=0.2, stratify=y, random_state=0)
    return GRID[int(np.argmax(Parallel(n_jobs=-1)(delayed(score)(H, y, H_held, y_held, C) for C in GRID)))]


def few(H, y, H_new, y_new, draw):
    """Return the accuracy with five labels a class, and the C that is best on the other training images."""
    rng = np.random.default_rng(draw)
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == name))[:LABELS] for name in np.unique(y)])
    others = np.setdiff1d(np.arange(len(y)), rows)
    return [
        (score(H[rows], y[rows], H[others], y[others], C), score(H[rows], y[rows], H_new, y_new, C))
        for C in GRID
    ]


def evaluate(H, y, H_new, y_new):
    """Return the accuracies with all labels and with few; one C for all draws of the few."""
    scaler = StandardScaler().fit(H)  # of images, no labels
    H, H_new = scaler.transform(H), scaler.transform(H_new)
    draws = np.array(
        Parallel(n_jobs=-1)(delayed(few)(H, y, H_new, y_new, draw) for draw in range(DRAWS))
    ).mean(axis=0)
    return score(H, y, H_new, y_new, best(H, y)), draws[np.argmax(draws[:, 0]), 1]


def methods(options):
    """Yield (name, seconds, an estimator for each seed)."""
    yield "raw pixels", "", [PixelTransformer()]
    yield "HOG", "", [HOGTransformer()]
    yield "untrained network", "", [SimCLRTransformer(max_epochs=0, random_state=s) for s in options.seeds]
    for seconds in options.seconds:
        settings = [{"max_time": seconds, "random_state": seed} for seed in options.seeds]
        yield "supervised network", seconds, [SupervisedTransformer(**known) for known in settings]
        yield "SimCLR", seconds, [SimCLRTransformer(**known) for known in settings]
    for size in options.image_sizes:
        settings = [{"max_time": options.seconds[-1], "random_state": seed} for seed in options.seeds]
        name = f"SimCLR, image_size={size}"
        yield name, options.seconds[-1], [SimCLRTransformer(image_size=size, **known) for known in settings]


def row(name, seconds, spent, found):
    """Return a row of the table: means over the seeds, and their standard deviations."""
    cells = [f"{np.mean(column):.1f}" for column in np.transpose(found)]
    if len(found) > 1:
        spread = np.std(found, axis=0, ddof=1)
        cells = [f"{cell} ± {value:.1f}" for cell, value in zip(cells, spread, strict=True)]
    if name.startswith("supervised"):
        cells[1] = ""
    return [name, f"{seconds:g}" if seconds else "", f"{np.mean(spent):.0f}", *cells]


def write(path, rows):
    """Write the table; rows that an earlier run wrote, and this one has not measured, stay."""
    header = ["method", "max_time (s)", "fit (s)", "all labels (%)", f"{LABELS} labels per class (%)"]
    table = {}
    if path.exists():
        with path.open(newline="") as file:
            table = {tuple(row[:2]): row for row in list(csv.reader(file))[1:]}
    table |= {tuple(row[:2]): row for row in rows}
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *table.values()])


def main(arguments=None):
    """Train, score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="training images, one sub-folder per class")
    parser.add_argument("new", type=Path, help="images to score on, one sub-folder per class")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 200.0])
    parser.add_argument("--image-sizes", type=int, nargs="*", default=[224], help="sizes to be given (224)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", help="only those that begin with one of these words")
    parser.add_argument("--out", type=Path, default=Path("owned"), help="folder for the results")
    options = parser.parse_args(arguments)
    train, new = load_image_paths(options.train), load_image_paths(options.new)
    y, y_new = np.asarray(train.target), np.asarray(new.target)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, seconds, estimators in methods(options):
        if options.methods and not name.startswith(tuple(options.methods)):
            continue
        found, learnt, spent = [], [], []
        for estimator in estimators:
            started = time.perf_counter()
            estimator.fit(train.data, y)
            spent.append(time.perf_counter() - started)
            H, H_new = estimator.transform(train.data), estimator.transform(new.data)
            found.append(evaluate(H, y, H_new, y_new))
            print(f"{name} {seconds}: {found[-1][0]:.1f} {found[-1][1]:.1f}, {spent[-1]:.1f} s", flush=True)
            if name == "SimCLR":
                part = estimator.encoder_.read_dim
                learnt.append(evaluate(H[:, :part], y, H_new[:, :part], y_new))
        rows.append(row(name, seconds, spent, found))
        if learnt:
            rows.append(row("SimCLR, only the means over the image", seconds, spent, learnt))
        write(options.out / "owned.csv", rows)
    (options.out / "owned_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")


if __name__ == "__main__":
    main()
