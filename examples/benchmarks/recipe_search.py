"""What learns most per second: the default recipe with one thing changed at a time, on five kinds of images.

Every variant trains for the same seconds of the clock, with several seeds; then a logistic regression on
the standardised representation, with the C that is best on a fifth of its images, is scored on images that
nothing has seen before, none of them test images of a published data set. Sources: photographs of CIFAR-10
in colour, and in grey at 16 pixels; photographs of any size in a folder, brought to 64 and to 160 pixels;
scikit-learn's digits; places in its two photographs, told by crops. Results are kept after every training; a
run that was interrupted goes on where it was.

    python examples/benchmarks/recipe_search.py --folder cifar10/train --photographs clothing/train
"""

import argparse
import csv
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from photographs import chosen_C, from_folder, probe, some
from PIL import Image
from run import describe_machine, machine
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

from sklearn_simclr import Augmentation, SimCLRTransformer, load_image_paths, load_images
from sklearn_simclr.encoders import make_encoder
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.losses import hard_nt_xent

# Values of C that the logistic regression is chosen from.
GRID = (0.001, 0.003, 0.01, 0.03)

# Seconds of each training.
SECONDS = {
    "cifar": 40.0,
    "grey": 8.0,
    "photographs 64": 40.0,
    "photographs 160": 40.0,
    "digits": 4.0,
    "places": 10.0,
}


def unpooled(in_channels, image_size):
    """Return the compact network without the pooling before its first trained layer."""
    network = CompactNet(in_channels, image_size)
    network.stem_pool = 1
    return network


def larger(in_channels, image_size):
    """Return the compact network for views of 64 pixels, and images of 85."""
    return make_encoder("compact", in_channels, image_size, view_size=(64, 64))[0]


def views(**changes):
    """Return a function from the shape of the images to the augmentation with something changed."""

    def make(shape):
        found = {name: value(shape) if callable(value) else value for name, value in changes.items()}
        return {"augmentation": Augmentation(**found)}

    return make


def part(share):
    """Return a function from the shape of the images to the size of views of a share of the side."""
    return lambda shape: (round(share * shape[1]), round(share * shape[2]))


def params(**changes):
    """Return a function from the shape of the images to changed parameters."""
    return lambda shape: changes


VARIANTS = {
    "default": params(),
    "optimizer: AdamW": params(optimizer="adamw"),
    "optimizer: SGD": params(optimizer="sgd"),
    "optimizer: LARS": params(optimizer="lars"),
    "learning rate halved": params(learning_rate=0.02),
    "learning rate doubled": params(learning_rate=0.08),
    "no warm-up": params(warmup=0.0),
    "batch 128": params(batch_size=128),
    "batch 512": params(batch_size=512),
    "temperature 0.1": params(temperature=0.1),
    "temperature 0.5": params(temperature=0.5),
    "loss: NT-Logistic": params(loss="nt_logistic"),
    "loss: decoupled": params(loss="dcl"),
    "loss: hard negatives": params(loss=partial(hard_nt_xent, temperature=0.2, beta=0.5)),
    "head of 1 layer": params(projection_layers=1),
    "head of 3 layers": params(projection_layers=3),
    "projection to 64": params(projection_dim=64),
    "crops from 8%": views(crop_scale=(0.08, 1.0)),
    "crops from 40%": views(crop_scale=(0.4, 1.0)),
    "views of the whole side": views(size=part(1.0)),
    "views of 5/8 of the side": views(size=part(0.625)),
    "colours half as strong": views(color_strength=0.25),
    "colours twice as strong": views(color_strength=1.0),
    "grey with probability 0.1": views(grayscale_probability=0.1),
    "encoder of half the width": params(encoder="compactx0.5"),
    "encoder half as wide again": params(encoder="compactx1.5"),
    "encoder of twice the width": params(encoder="compactx2"),
    "encoder without pooling of the first layer": params(encoder=unpooled),
    "encoder for views of 64 pixels": params(encoder=larger),
    "encoder: ResNet-18": params(encoder="resnet18"),
    "without mirror images": params(mirror=False),
    "with mirror images": params(mirror=True),
    "float32 throughout": params(precision="float32"),
}


def grey(X, side=16):
    """Return images in grey, at another size."""
    images = [Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX) for image in X]
    return np.stack([np.asarray(image) for image in images])


def places(n, side=32, rows=3, columns=4, seed=0):
    """Return crops of two photographs; the class is in which of 24 places the middle of the crop is."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(seed)
    X, y = np.empty((n, side, side, 3), dtype=np.uint8), np.empty(n, dtype=int)
    for k in range(n):
        which = int(rng.integers(len(photographs)))
        width, height = photographs[which].size
        extent = int(rng.integers(48, 96))
        left, top = (int(rng.integers(0, length - extent)) for length in (width, height))
        box = (left, top, left + extent, top + extent)
        X[k] = np.asarray(photographs[which].resize((side, side), Image.Resampling.BILINEAR, box=box))
        row, column = (top + extent / 2) * rows // height, (left + extent / 2) * columns // width
        y[k] = (which * rows + row) * columns + column
    return X, y


def load(options):
    """Return images and labels by source, to be split."""
    digits = load_digits()
    sources = {"digits": (digits.images, digits.target), "places": places(options.n_images)}
    if options.folder is not None:
        X, y = from_folder(options.folder, options.n_images)
        sources |= {"cifar": (X, y), "grey": (grey(X), y)}
    if options.photographs is not None:
        found = load_image_paths(options.photographs)
        paths, y = some(np.asarray(found.data), np.asarray(found.target), options.n_images)
        for side in (64, 160):
            sources[f"photographs {side}"] = load_images(paths, image_size=side), y
    return {name: sources[name] for name in options.sources if name in sources}


def table(rows):
    """Return lines: for each variant the mean difference to the default, over the same seeds."""
    scores = {(row["source"], row["variant"], row["seed"]): 100 * row["accuracy"] for row in rows}
    sources = list(dict.fromkeys(row["source"] for row in rows))
    lines = [["changed", *(f"{source} (points)" for source in sources), "smallest number of seeds"]]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells, counts = [], []
        for source in sources:
            seeds = [s for place, name, s in scores if (place, name) == (source, variant)]
            seeds = [s for s in seeds if (source, "default", s) in scores]
            counts.append(len(seeds))
            values = np.array([scores[source, variant, s] for s in seeds])
            base = np.array([scores[source, "default", s] for s in seeds])
            if variant == "default":
                spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.1f}{spread}" if len(values) else "")
            elif len(values) > 1:
                difference = values - base
                error = difference.std(ddof=1) / np.sqrt(len(difference))
                cells.append(f"{difference.mean():+.1f} ± {error:.1f}")
            else:
                cells.append(f"{(values - base)[0]:+.1f}" if len(values) else "")
        lines.append([variant, *cells, min(counts)])
    return lines


def main(arguments=None):
    """Train what has not been trained, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="training images of CIFAR-10, one sub-folder per class")
    parser.add_argument("--photographs", type=Path, help="photographs, one sub-folder per class")
    parser.add_argument(
        "--n-images", type=int, default=10_000, help="images of a source, a quarter to score on"
    )
    parser.add_argument("--sources", nargs="+", default=list(SECONDS), choices=list(SECONDS))
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--seconds", type=float, default=1.0, help="times as long as usual (1)")
    parser.add_argument("--out", type=Path, default=Path("recipe"), help="folder for the results")
    options = parser.parse_args(arguments)
    stamp = {"machine": machine("cpu"), "n_images": options.n_images, "seconds": options.seconds}
    path = options.out / "recipe.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = found["rows"] if all(found.get(name) == value for name, value in stamp.items()) else []
    done = {(row["source"], row["variant"], row["seed"]) for row in rows}
    sources = load(options)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for variant in options.variants:
            for source, (X, y) in sources.items():
                if (source, variant, seed) in done:
                    continue
                parts = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
                X_train, X_test, y_train, y_test = parts
                shape = (X.shape[3] if X.ndim == 4 else 1, *X.shape[1:3])
                budget = options.seconds * SECONDS[source]
                started = time.perf_counter()
                model = SimCLRTransformer(max_time=budget, random_state=seed, **VARIANTS[variant](shape))
                model.fit(X_train)
                spent = time.perf_counter() - started
                H, H_test = model.transform(X_train), model.transform(X_test)
                accuracy = probe(H, y_train, H_test, y_test, chosen_C(H, y_train, GRID))
                rows.append(
                    {"source": source, "variant": variant, "seed": seed, "accuracy": accuracy,
                     "seconds": round(spent, 2), "epochs": model.n_iter_}
                )  # fmt: skip
                path.write_text(json.dumps({**stamp, "rows": rows}, indent=1) + "\n")
                print(f"{source}, {variant}, seed {seed}: {100 * accuracy:.1f}%", flush=True)
    with (options.out / "recipe.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table(rows))
    (options.out / "recipe_machine.txt").write_text(describe_machine(stamp["machine"]) + "\n")
    print("\n".join(", ".join(map(str, line)) for line in table(rows)))


if __name__ == "__main__":
    main()
