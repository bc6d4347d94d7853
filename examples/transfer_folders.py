"""
Table 8 of the SimCLR paper, on data sets in folders
====================================================

Table 8 compares encoders that have learnt from other images. Each encoder is evaluated on several data sets
in three ways: a linear classifier on frozen features, the whole network fine-tuned, and the same network
trained from random weights. The best number of a column is bold, and so are numbers that the permutation
test of the paper does not find significantly worse (p > 0.05).

A data set is passed as NAME=FOLDER. The folder contains ``train`` and ``test``, each with one sub-folder per
class. ``:mean_per_class`` after the folder measures the mean accuracy over the classes, as the paper does for
Pets, Caltech-101, Flowers and Aircraft. ``--grid paper --steps 20000`` runs the search of the paper, with 112
trainings for each encoder on each data set::

    python transfer_folders.py --data pets=pets:mean_per_class dtd=dtd cifar10=cifar10 --size 224 \\
        --encoders SimCLR=ResNet50_1x supervised=torchvision:ResNet50_Weights.IMAGENET1K_V1
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from sklearn_simclr import (
    SimCLRTransformer,
    compare_transfers,
    load_image_paths,
    load_images,
    transfer_evaluation,
)

WORSE = 0.05


def read(folder, size):
    """Return training images and classes, then those for testing."""
    train = load_image_paths(folder / "train")
    test = load_image_paths(folder / "test", categories=train.target_names)
    return {
        "X": load_images(train.data, image_size=size),
        "y": np.asarray(train.target),
        "X_test": load_images(test.data, image_size=size),
        "y_test": np.asarray(test.target),
    }


def rows_of(options, data, metric):
    """Return {row of the table: (result, protocol)} of a data set; random weights once."""
    rows = {}
    for k, encoder in enumerate(options.encoders):
        name, _, weights = encoder.partition("=")
        fitted = SimCLRTransformer(weights=weights, max_epochs=0, random_state=options.seed).fit(
            data["X"][:2]
        )
        protocols = [p for p in options.protocols if p != "random_init" or k == 0]
        if not protocols:
            continue
        result = transfer_evaluation(
            fitted, **data, metric=metric, protocols=protocols, grid=options.grid, n_steps=options.steps,
            random_state=options.seed, verbose=1,
        )  # fmt: skip
        for protocol in protocols:
            rows["random weights" if protocol == "random_init" else f"{name}, {protocol}"] = result, protocol
    return rows


def bold(rows, seed):
    """Return the rows that are best, or not significantly worse, among those of the same kind of training."""
    found = set()
    for frozen in (True, False):
        inside = {name: row for name, row in rows.items() if (row[1] == "linear") == frozen}
        if not inside:
            continue
        scores = {
            name: result.scores.set_index("protocol")["score"][p] for name, (result, p) in inside.items()
        }
        best = max(scores, key=scores.get)
        for name, (result, protocol) in inside.items():
            pair = protocol, inside[best][1]
            test = None if name == best else compare_transfers(
                result, inside[best][0], pair, random_state=seed
            )  # fmt: skip
            if test is None or test.pvalue > WORSE:
                found.add(name)
    return found


def main(arguments=None):
    """Evaluate all encoders on all data sets, and write the table after each data set."""
    parser = argparse.ArgumentParser(description="Table 8 of the SimCLR paper over folders.")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER[:METRIC]")
    parser.add_argument("--encoders", nargs="+", required=True, metavar="NAME=WEIGHTS")
    parser.add_argument("--size", type=int, default=224, help="side to which images are resized (224)")
    parser.add_argument("--protocols", nargs="+", default=["linear", "fine_tuned", "random_init"])
    parser.add_argument("--grid", choices=["short", "paper"], default="short")
    parser.add_argument(
        "--steps", type=int, default="auto", help="steps of each fine-tuning (as many as 60 epochs)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("transfer_folders"), help="folder")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    columns, scores = {}, []
    for source in options.data:
        name, _, place = source.partition("=")
        place, _, metric = place.partition(":")
        rows = rows_of(options, read(Path(place), options.size), metric or "auto")
        marked = bold(rows, options.seed)
        columns[name] = {}
        for row, (result, protocol) in rows.items():
            known = result.scores.set_index("protocol").loc[protocol]
            scores.append({"data": name, "row": row, **known.to_dict()})
            cell = f"{100 * known['score']:.1f}"
            columns[name][row] = f"**{cell}**" if row in marked else cell
        table = pd.DataFrame(columns)
        table.to_csv(options.output / "table.csv")
        pd.DataFrame(scores).to_csv(options.output / "scores.csv", index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
