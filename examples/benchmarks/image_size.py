"""What a size of images costs and brings: time, memory and accuracy on photographs in a folder.

For each size, photographs are read at this size and an encoder is trained for the same seconds, reading
included. SIZE has the default's views, of at most 48 pixels; SIZE:VIEW has views of VIEW pixels. Each runs
in a process of its own. A logistic regression on the representation is scored on photographs that no encoder
has seen: those in the sub-folder ``validation``, or a part of ``train``.

    python examples/benchmarks/image_size.py --folder clothing --out docs/benchmarks
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from rivals import evaluate, images_of, labelled_rows
from run import describe_machine, machine
from timing import PeakMemory, in_fresh_process

from sklearn_simclr import Augmentation, SimCLRTransformer


def measure(folder, size, view, seed, length, n_images, n_scored):
    """Return speed, peak of memory in MB and accuracies of one training."""
    options = argparse.Namespace(n_images=n_images, n_scored=n_scored, test=False)
    _, X, y, X_new, y_new = images_of(f"photographs={folder}", options)
    views = None if view is None else Augmentation(size=view)
    model = SimCLRTransformer(image_size=size, augmentation=views, random_state=seed, **length)
    with PeakMemory() as memory:
        model.fit(X)
    found = {"speed": float(model.history_["images_per_second"].median()), "memory": memory.bytes / 1e6}
    H, H_new = model.transform(X), model.transform(X_new)
    # The labels of five draws, since few labels differ.
    few = [
        evaluate(H, H_new, labelled_rows(y, 5, draw), y, y_new, draw)["accuracy"]
        for draw in range(5 * seed, 5 * seed + 5)
    ]
    all_labels = evaluate(H, H_new, np.arange(len(y)), y, y_new, seed)["accuracy"]
    return {**found, "few": float(np.mean(few)), "all": all_labels, "read": len(X)}


def mean(values):
    """Return mean and standard deviation as text."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def table(results, time):
    """Return header and lines for what was measured, {(size, view): results of the seeds}."""
    lines = [["images (px)", "views (px)", "images per second", "seconds per 1,000 images and epoch",
              "peak memory (MB)", f"accuracy with 5 labels per class (%), {time}",
              f"accuracy with all labels (%), {time}"]]  # fmt: skip
    for (size, view), found in results.items():
        speed = np.median([result["speed"] for result in found])
        lines.append(
            [size, view or "default", f"{speed:,.0f}", f"{1000 / speed:.1f}",
             f"{max(result['memory'] for result in found):,.0f}",
             *(mean([result[name] for result in found]) for name in ("few", "all"))]
        )  # fmt: skip
    return lines


def setting(text):
    """Return the size of the images and of the views, None for the default's."""
    size, _, view = text.partition(":")
    return int(size), int(view) if view else None


def main(arguments=None):
    """Measure the sizes in turn, seed by seed, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="with train, and perhaps validation")
    parser.add_argument(
        "--sizes",
        type=setting,
        nargs="+",
        metavar="SIZE[:VIEW]",
        default=[(64, None), (96, None), (128, None), (224, None), (224, 112)],
        help="64 96 128 224 224:112",
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="of each fit (40)")
    parser.add_argument("--epochs", type=int, help="of each fit, instead: shows that it runs")
    parser.add_argument("--n-images", type=int, default=3000, help="to train on, at most (3000)")
    parser.add_argument("--n-scored", type=int, default=1000, help="of train, without a folder validation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED")
    parser.add_argument("--out", type=Path, default=Path("image_size"), help="folder for the results")
    options = parser.parse_args(arguments)
    length = {"max_time": options.seconds} if options.epochs is None else {"max_epochs": options.epochs}
    time = f"{options.seconds:g} s" if options.epochs is None else f"{options.epochs} epochs"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "image_size_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")
    results = {}
    for seed in options.seeds:
        for size, view in options.sizes:
            found = in_fresh_process(
                "image_size",
                "measure",
                folder=str(options.folder),
                size=size,
                view=view,
                seed=seed,
                length=length,
                n_images=options.n_images,
                n_scored=options.n_scored,
            )
            results.setdefault((size, view), []).append(found)
            print(f"{size} px, views {view or 'default'}, seed {seed}: {found}", flush=True)
            with (options.out / "image_size.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(table(results, time))


if __name__ == "__main__":
    main()
