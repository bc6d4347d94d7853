"""Accuracy for the time of training: ours, lightly's example of SimCLR, and features that need no network.

Each trains on the same unlabelled photographs for the same seconds, taking turns; then a logistic regression
on the standardised representation is fitted on the labels, of all images and of 1% of them, and scored on the
test images. With all labels its C is the best on a fifth of them, held out, and once more 0.1; with few it is
0.1. Ours is ``SimCLRTransformer(max_time=...)`` with ``encoder="compactx1.5"`` from ten minutes on and
nothing else, fitted anew for each time, since its schedule depends on it. lightly's is the example of its
documentation, read off while it trains, since its learning rate is constant; it takes images and batches as
that example does. Of the others the time is what their features take.

Results are kept after every measurement; a run that was interrupted goes on where it was.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from photographs import GRID, chosen_C, from_folder, probe, some
from run import describe_machine, machine
from sklearn.cluster import MiniBatchKMeans

from sklearn_simclr import HOGTransformer, PixelTransformer, SimCLRTransformer, label_subset

OURS, LIGHTLY = "SimCLRTransformer", "lightly"
FEW, DRAWS = 0.01, 3
# Seconds from which on the wider network has learnt more (docs/reference/trials.rst).
LONG = 600


def photographs(options):
    """Return training images and labels, then those for testing."""
    if options.folder is None:
        from sklearn_simclr.images import fetch_cifar10

        parts = [fetch_cifar10(subset=part) for part in ("train", "test")]
        found = [(part.images, part.target) for part in parts]
    else:
        found = [from_folder(options.folder / part) for part in ("train", "test")]
    # All are shuffled: the last of the training images are those to validate on.
    (X, y), (X_test, y_test) = (some(*part, n) for part, n in zip(found, (None, options.n_test), strict=True))
    if options.validation:
        # Choices are made on a part of the training images that no encoder sees.
        X_test, y_test = X[-options.n_test :], y[-options.n_test :]
    return X[: options.n_images], y[: options.n_images], X_test, y_test


def scores(H, y, H_test, y_test):
    """Return the accuracy with all labels, by a chosen and by a fixed C, and the mean of that with a few."""
    # One a class at least.
    part = max(FEW, len(np.unique(y)) / len(y))
    draws = [label_subset(y, part, random_state=draw) for draw in range(DRAWS)]
    C = chosen_C(H, y)
    return {
        "all": probe(H, y, H_test, y_test, C),
        "C": C,
        "all_fixed_C": probe(H, y, H_test, y_test),
        "few": float(np.mean([probe(H[rows], y[rows], H_test, y_test) for rows in draws])),
    }


class Lightly:
    """lightly's example of SimCLR for small images, trained on for a while at a time."""

    def __init__(self, images, seed, batch_size):
        import torch
        import torchvision
        from lightly.data import LightlyDataset
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform
        from photographs import PillowImages

        torch.manual_seed(seed)
        self.backbone = torch.nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.head = SimCLRProjectionHead(512, 2048, 2048)
        transform = SimCLRTransform(input_size=images.shape[1], gaussian_blur=0.0)
        dataset = LightlyDataset.from_torch_dataset(PillowImages(images), transform=transform)
        self.loader = torch.utils.data.DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
        )
        self.criterion = NTXentLoss()
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.06)
        self.batches = self._forever()
        self.seconds = 0.0

    def _forever(self):
        while True:
            yield from self.loader

    def train_until(self, seconds):
        """Train on until so many seconds were spent in training."""
        self.backbone.train()
        while self.seconds < seconds:
            started = time.perf_counter()
            (first, second), *_ = next(self.batches)
            z = [self.head(self.backbone(views).flatten(start_dim=1)) for views in (first, second)]
            self.criterion(*z).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.seconds += time.perf_counter() - started

    def transform(self, images):
        """Return the representations of images, normalised as its transform does."""
        import torch
        from lightly.transforms.utils import IMAGENET_NORMALIZE

        mean, std = (torch.tensor(IMAGENET_NORMALIZE[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self.backbone.eval()
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), 250):
                x = torch.from_numpy(images[start : start + 250]).permute(0, 3, 1, 2).float().div_(255)
                found.append(self.backbone((x - mean) / std).flatten(1).numpy())
        return np.concatenate(found)


class PatchKMeans:
    """Features of Coates and Ng (2011): how near the patches of each quarter are to centres of patches."""

    def __init__(self, n_centres=800, side=6, seed=0):
        self.n_centres, self.side, self.seed = n_centres, side, seed

    def _patches(self, images):
        # (n, rows, columns, patch), each patch with mean 0 and deviation 1.
        views = np.lib.stride_tricks.sliding_window_view(images, (self.side, self.side), axis=(1, 2))
        patches = views.reshape(*views.shape[:3], -1).astype(np.float32)
        patches -= patches.mean(axis=-1, keepdims=True)
        patches /= np.sqrt(patches.var(axis=-1, keepdims=True) + 10)
        return patches

    def fit(self, images):
        """Find the whitening and the centres."""
        rng = np.random.default_rng(self.seed)
        some = images[rng.permutation(len(images))[:2000]]
        patches = self._patches(some).reshape(-1, self.side**2 * images.shape[3])
        patches = patches[rng.permutation(len(patches))[:100_000]]
        self.mean = patches.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(patches - self.mean, rowvar=False))
        self.whiten = (vectors / np.sqrt(values + 0.1)) @ vectors.T
        whitened = (patches - self.mean) @ self.whiten
        means = MiniBatchKMeans(self.n_centres, batch_size=4096, n_init=1, random_state=self.seed)
        self.centres = means.fit(whitened).cluster_centers_.astype(np.float32)
        return self

    def transform(self, images):
        """Return four times as many features as there are centres."""
        found = []
        for start in range(0, len(images), 50):
            patches = self._patches(images[start : start + 50])
            x = (patches - self.mean.astype(np.float32)) @ self.whiten.astype(np.float32)
            squares = (x**2).sum(-1, keepdims=True) - 2 * x @ self.centres.T + (self.centres**2).sum(1)
            distances = np.sqrt(np.maximum(squares, 0))
            near = np.maximum(0, distances.mean(-1, keepdims=True) - distances)
            middle = [length // 2 for length in near.shape[1:3]]
            quarters = [
                near[:, rows, columns].sum(axis=(1, 2))
                for rows in (slice(None, middle[0]), slice(middle[0], None))
                for columns in (slice(None, middle[1]), slice(middle[1], None))
            ]
            found.append(np.concatenate(quarters, axis=1))
        return np.concatenate(found)


class Results:
    """What was measured, kept in a file."""

    def __init__(self, folder, stamp):
        self.path = folder / "accuracy.json"
        found = json.loads(self.path.read_text()) if self.path.exists() else {}
        same = all(found.get(name) == value for name, value in stamp.items())
        self.rows = found["rows"] if same and found else []
        self.stamp = stamp

    def has(self, name, seconds, seed):
        """Return whether something was measured already."""
        return any((row["name"], row["budget"], row["seed"]) == (name, seconds, seed) for row in self.rows)

    def add(self, name, budget, seed, seconds, found):
        """Keep a measurement."""
        row = {"name": name, "budget": budget, "seed": seed, "seconds": round(seconds, 2), **found}
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({**self.stamp, "rows": self.rows}, indent=1) + "\n")
        print(f"{name}, {budget or seconds:.0f} s, seed {seed}: {100 * found['all']:.1f}% with all labels, "
              f"{100 * found['few']:.1f}% with {100 * FEW:g}% of them", flush=True)  # fmt: skip


def table(rows):
    """Return the header and the lines of the table: means over seeds."""
    lines = [
        [
            "recipe",
            "seconds",
            "seeds",
            "all labels (%)",
            "all labels, C=0.1 (%)",
            f"{100 * FEW:g}% of labels (%)",
        ]
    ]
    groups = dict.fromkeys((row["name"], row["budget"]) for row in rows)
    for name, budget in sorted(groups, key=lambda group: (group[1] is not None, group[1] or 0, group[0])):
        inside = [row for row in rows if (row["name"], row["budget"]) == (name, budget)]
        seconds = np.mean([row["seconds"] for row in inside])
        cells = []
        for part in ("all", "all_fixed_C", "few"):
            values = [100 * row[part] for row in inside]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        lines.append([name, f"{seconds:.0f}", len(inside), *cells])
    return lines


def measure(options, results, X, y, X_test, y_test):
    """Measure what is not in the results yet."""
    fixed = {
        "raw pixels": lambda seed: PixelTransformer(),
        "HOG": lambda seed: HOGTransformer(),
        "k-means of patches": lambda seed: PatchKMeans(options.n_centres, seed=seed),
    }
    for name, make in fixed.items():
        if not results.has(name, None, 0):
            started = time.perf_counter()
            model = make(0).fit(X)
            H, H_test = model.transform(X), model.transform(X_test)
            results.add(name, None, 0, time.perf_counter() - started, scores(H, y, H_test, y_test))
    for seed in options.seeds:
        theirs = None
        missing = [seconds for seconds in options.times if not results.has(LIGHTLY, seconds, seed)]
        if options.peers and missing:
            theirs = Lightly(X, seed, options.batch_size)
        for seconds in sorted(options.times):
            if not results.has(OURS, seconds, seed):
                started = time.perf_counter()
                encoder = "compactx1.5" if seconds >= LONG else "auto"
                model = SimCLRTransformer(encoder, max_time=seconds, random_state=seed).fit(X)
                spent = time.perf_counter() - started
                found = scores(model.transform(X), y, model.transform(X_test), y_test)
                results.add(OURS, seconds, seed, spent, {**found, "epochs": model.n_iter_})
            if theirs is not None:
                theirs.train_until(seconds)
                if seconds in missing:
                    found = scores(theirs.transform(X), y, theirs.transform(X_test), y_test)
                    results.add(LIGHTLY, seconds, seed, theirs.seconds, found)


def main(arguments=None):
    """Measure, and write table and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder",
        type=Path,
        help="with train and test, in each a sub-folder a class; without it CIFAR-10 is downloaded",
    )
    parser.add_argument(
        "--n-images", type=int, default=10_000, help="unlabelled and labelled training images (10000)"
    )
    parser.add_argument("--n-test", type=int, default=5_000, help="test images (5000)")
    parser.add_argument("--times", type=float, nargs="+", default=[60, 200, 600], metavar="SECONDS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--n-centres", type=int, default=800, help="of the k-means of patches (800)")
    parser.add_argument("--batch-size", type=int, default=256, help="of lightly's recipe (256)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="without lightly")
    parser.add_argument(
        "--validation", action="store_true", help="score on training images that are held out"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder for the results")
    options = parser.parse_args(arguments)
    X, y, X_test, y_test = photographs(options)
    stamp = {
        "machine": machine("cpu"),
        "images": [len(X), len(X_test), *X.shape[1:]],
        "scored_on": "validation" if options.validation else "test",
        "C": list(GRID),
    }
    results = Results(options.out, stamp)
    measure(options, results, X, y, X_test, y_test)
    with (options.out / "accuracy.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table(results.rows))
    (options.out / "accuracy_machine.txt").write_text(describe_machine(stamp["machine"]) + "\n")
    print("\n".join(", ".join(map(str, line)) for line in table(results.rows)))


if __name__ == "__main__":
    main()
