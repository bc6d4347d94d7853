"""What small views bring: SimCLR with and without them, at equal time of the processor.

A fit of one epoch says how many seconds of the processor an epoch takes with each number of small views; each
then trains for as many epochs as fit into the same seconds. A logistic regression on the representation is
scored on a quarter of the images, which no fit has seen. Other programs on the machine change how long this
takes, and the result little.

    python examples/benchmarks/small_views.py --folder cifar10/train
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from photographs import from_folder, probe
from run import describe_machine, machine
from sklearn.model_selection import train_test_split

from sklearn_simclr import SimCLRTransformer


def seconds_of_fit(model, X):
    """Fit, and return the seconds of the processor that it took."""
    started = time.process_time()
    model.fit(X)
    return time.process_time() - started


def measure(X, y, counts, seeds, seconds):
    """Yield a row for each number of small views and seed."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
    for count in counts:
        settings = {"small_views": count, "device": "cpu"}
        setup = seconds_of_fit(SimCLRTransformer(max_epochs=0, random_state=0, **settings), X_train)
        epoch = seconds_of_fit(SimCLRTransformer(max_epochs=1, random_state=0, **settings), X_train) - setup
        epochs = max(1, round((seconds - setup) / epoch))
        for seed in seeds:
            model = SimCLRTransformer(max_epochs=epochs, random_state=seed, **settings)
            spent = seconds_of_fit(model, X_train)
            accuracy = probe(model.transform(X_train), y_train, model.transform(X_test), y_test)
            yield {
                "small_views": count,
                "seed": seed,
                "epochs": epochs,
                "seconds of the processor": round(spent, 1),
                "accuracy": accuracy,
            }


def main(arguments=None):
    """Measure, print a line for each number of small views, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="images, one sub-folder per class")
    parser.add_argument("--n-images", type=int, default=10_000, help="a quarter of them to score on")
    parser.add_argument("--small-views", type=int, nargs="+", default=[0, 2, 4], metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the processor, for each training")
    parser.add_argument("--out", type=Path, default=Path("small_views.json"), help="file for the rows")
    options = parser.parse_args(arguments)
    X, y = from_folder(options.folder, options.n_images)
    rows = list(measure(X, y, options.small_views, options.seeds, options.seconds))
    found = {"machine": machine("cpu"), "n_images": len(X), "seconds": options.seconds, "rows": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(describe_machine(found["machine"]))
    for count in options.small_views:
        values = [100 * row["accuracy"] for row in rows if row["small_views"] == count]
        epochs = next(row["epochs"] for row in rows if row["small_views"] == count)
        print(f"{count} small views, {epochs} epochs: {np.mean(values):.1f} ± {np.std(values):.1f}%")


if __name__ == "__main__":
    main()
