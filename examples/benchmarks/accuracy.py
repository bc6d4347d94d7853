"""Compare accuracy with lightly: in equal steps of one network, and in equal time with its configuration.

Equal steps: a ResNet of 8 layers for images of 32 pixels, trained for the same epochs with the same batch,
optimizer, schedule, temperature and views by ``SimCLRTransformer`` and by a loop as lightly's examples have
it, with lightly's transform, projection head and loss. If our method is SimCLR the accuracies agree within
the noise of the seeds; the seconds may differ. The same network with random weights shows how much there is
to learn. Settings: "paper" (views and temperature of the SimCLR paper for CIFAR-10, SGD with warm-up and
cosine), "sthalles" (the rate and temperature that github.com/sthalles/SimCLR has by default, with AdamW for
its Adam).

Equal time: ``SimCLRTransformer(max_time=...)`` with nothing else set, and what lightly's benchmark of
CIFAR-10 configures (docs/source/getting_started/benchmarks/cifar10_benchmark.py): ResNet-18 with a stem for
small images, its head, SGD with 0.06 for batches of 128, a cosine that here ends with the time.

Both take turns, seed by seed. A logistic regression on the standardised representation of the training
images is scored on images that no encoder has seen, its C chosen on a fifth of the training images. Results
are kept after every training; a run that was interrupted goes on where it was.

    python examples/benchmarks/accuracy.py --folder cifar10 --out docs/benchmarks
"""

import argparse
import csv
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from networks import resnet20
from photographs import GRID, PillowImages, chosen_C, from_folder, probe, some
from run import describe_machine, machine
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from sklearn_simclr import Augmentation, SimCLRTransformer
from sklearn_simclr.training import make_optimizer, warmup_cosine

OURS, LIGHTLY, UNTRAINED = "sklearn-simclr", "lightly", "random weights"
WARMUP = 0.1

# Of equal steps. The rate of the paper's CIFAR-10 runs (B.9) grows with the root of the batch, from 1.0 at
# 1,024 with LARS; with SGD that is too much for a small network, so the rate is lightly's for its batch.
SETTINGS = {
    "paper": {"temperature": 0.5, "optimizer": "sgd", "learning_rate": 0.12, "weight_decay": 1e-4},
    "sthalles": {"temperature": 0.07, "optimizer": "adamw", "learning_rate": 3e-4, "weight_decay": 1e-4},
}


def small_network(in_channels=3, image_size=(32, 32)):
    """Return the ResNet of equal steps."""
    return resnet20(blocks=1)


def photographs(options):
    """Return training images and labels, then those to score on: others of the training images."""
    if options.folder is None:
        from sklearn_simclr.images import fetch_cifar10

        found = fetch_cifar10(subset="train")
        X, y = some(found.images, found.target, options.n_images + options.n_scored)
    else:
        X, y = from_folder(options.folder / "train", options.n_images + options.n_scored)
    n = len(y) - min(options.n_scored, len(y) // 4)
    return X[:n], y[:n], X[n:], y[n:]


class Lightly:
    """A network trained as lightly's examples of SimCLR do it, with its transform, head and loss."""

    def __init__(self, network, width, hidden, images, seed, options, batch_size, **settings):
        from lightly.data import LightlyDataset
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        torch.manual_seed(seed)
        self.network, self.head = network(), SimCLRProjectionHead(width, hidden, 128)
        # The strength for small images, and no blur, as the paper has it for CIFAR-10.
        transform = SimCLRTransform(input_size=images.shape[1], cj_strength=0.5, gaussian_blur=0.0)
        dataset = LightlyDataset.from_torch_dataset(PillowImages(images), transform=transform)
        self.loader = torch.utils.data.DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, num_workers=options.workers,
            persistent_workers=options.workers > 0,
        )  # fmt: skip
        self.criterion = NTXentLoss(temperature=settings["temperature"])
        self.rate, decay = settings["learning_rate"], settings["weight_decay"]
        modules = [self.network, self.head]
        if settings["optimizer"] == "lightly":
            parameters = [p for module in modules for p in module.parameters()]
            self.optimizer = torch.optim.SGD(parameters, lr=self.rate, momentum=0.9, weight_decay=decay)
        else:
            self.optimizer = make_optimizer(settings["optimizer"], modules, lr=self.rate, weight_decay=decay)

    def fit(self, multiplier, epochs=None, seconds=None):
        """Train for some epochs or seconds; the rate is multiplied by a function of the part that is done."""
        self.network.train()
        started, step, loss = time.perf_counter(), 0, math.nan
        steps = math.inf if epochs is None else epochs * len(self.loader)
        while step < steps:
            for (first, second), *_ in self.loader:
                spent = time.perf_counter() - started
                part = step / steps if seconds is None else spent / seconds
                if part >= 1:
                    return self
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate * multiplier(part)
                z = [self.head(self.network(views).flatten(start_dim=1)) for views in (first, second)]
                loss = self.criterion(*z)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                step += 1
        return self

    def transform(self, images):
        """Return the representations of images, normalised as its transform does."""
        from lightly.transforms.utils import IMAGENET_NORMALIZE

        mean, std = (torch.tensor(IMAGENET_NORMALIZE[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self.network.eval()
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), 250):
                x = torch.from_numpy(images[start : start + 250]).permute(0, 3, 1, 2).float().div_(255)
                found.append(self.network((x - mean) / std).flatten(1).numpy())
        return np.concatenate(found)


def resnet18_of_lightly():
    """Return the network of lightly's benchmark, without its last layer."""
    from lightly.models import ResNetGenerator

    layers = list(ResNetGenerator("resnet-18").children())[:-1]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1))


def cosine(part):
    """Return what the rate is multiplied by without a warm-up."""
    return warmup_cosine(part)


def with_warmup(part):
    """Return what the rate is multiplied by with a warm-up."""
    return warmup_cosine(part, warmup=WARMUP)


def equal_steps(options, X, seed, settings):
    """Yield (library, a function that returns a trained model)."""
    known = SETTINGS[settings]
    size = X.shape[1]

    def ours():
        views = Augmentation(recipe="cifar", size=size, crop_scale=(0.08, 1.0), implementation="torchvision")
        return SimCLRTransformer(
            small_network, augmentation=views, batch_size=options.batch_size, max_epochs=options.epochs,
            warmup=WARMUP, precision="float32", mirror=False, random_state=seed, **known,
        ).fit(X)  # fmt: skip

    def theirs():
        peer = Lightly(small_network, 64, 64, X, seed, options, options.batch_size, **known)
        return peer.fit(with_warmup, epochs=options.epochs)

    def untrained():
        return SimCLRTransformer(small_network, max_epochs=0, mirror=False, random_state=seed).fit(X)

    yield OURS, ours
    yield LIGHTLY, theirs
    yield UNTRAINED, untrained


def equal_time(options, X, seed, seconds):
    """Yield (library, a function that returns a trained model)."""
    yield OURS, lambda: SimCLRTransformer(max_time=seconds, random_state=seed).fit(X)
    # lightly's benchmark: plain SGD, 0.06 for batches of 128, decay 5e-4, the default temperature.
    known = {"temperature": 0.5, "optimizer": "lightly", "learning_rate": 0.06, "weight_decay": 5e-4}
    yield (
        LIGHTLY,
        lambda: Lightly(resnet18_of_lightly, 512, 512, X, seed, options, 128, **known).fit(
            cosine, seconds=seconds
        ),
    )


class Results:
    """What was measured, kept in a file."""

    def __init__(self, folder, stamp):
        self.path = folder / "accuracy.json"
        found = json.loads(self.path.read_text()) if self.path.exists() else {}
        same = all(found.get(name) == value for name, value in stamp.items())
        self.rows = found["rows"] if same and found else []
        self.stamp = stamp

    def has(self, **key):
        """Return whether something was measured already."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, **row):
        """Keep a measurement."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({**self.stamp, "rows": self.rows}, indent=1) + "\n")
        print(", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)


def measure(options, results, X, y, X_new, y_new):
    """Measure what is not in the results yet."""
    libraries = (OURS, LIGHTLY, UNTRAINED) if options.peers else (OURS,)
    for seed in options.seeds:
        parts = [("steps", name, equal_steps(options, X, seed, name)) for name in options.settings]
        parts += [("time", seconds, equal_time(options, X, seed, seconds)) for seconds in options.times]
        for equal, case, competitors in parts:
            for library, train in competitors:
                key = {"equal": equal, "case": case, "library": library, "seed": seed}
                if equal == "steps":
                    key["epochs"] = options.epochs
                if library not in libraries or results.has(**key):
                    continue
                started = time.perf_counter()
                model = train()
                seconds = round(time.perf_counter() - started, 2)
                H, H_new = model.transform(X), model.transform(X_new)
                C = chosen_C(H, y)
                results.add(**key, seconds=seconds, C=C, accuracy=100 * probe(H, y, H_new, y_new, C))


def table(rows):
    """Return header and lines of the table: means over the seeds, and the difference with its error."""
    lines = [
        ["comparison", "library", "seeds", "training (s)", "accuracy (%)", "ours - theirs (points)", "p"]
    ]
    for equal, case, epochs in dict.fromkeys((row["equal"], row["case"], row.get("epochs")) for row in rows):
        found = {}
        for library in (UNTRAINED, OURS, LIGHTLY):
            inside = [
                row
                for row in rows
                if (row["equal"], row["case"], row["library"]) == (equal, case, library)
                and row.get("epochs") == epochs
            ]
            if not inside:
                continue
            values = found[library] = [row["accuracy"] for row in inside]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            seconds = "" if library == UNTRAINED else f"{np.mean([row['seconds'] for row in inside]):.0f}"
            length = f"settings: {case}, {epochs} epochs" if equal == "steps" else f"{case:g} s"
            name = f"equal {equal}, {length}"
            lines.append([name, library, len(values), seconds, f"{np.mean(values):.1f}{spread}", "", ""])
        found.pop(UNTRAINED, None)
        if len(found) == 2 and min(map(len, found.values())) > 1:
            ours, theirs = found.values()
            error = math.sqrt(sum(np.var(values, ddof=1) / len(values) for values in (ours, theirs)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # equal accuracies in tiny runs
                p = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
            lines[-1][-2:] = [f"{np.mean(ours) - np.mean(theirs):+.1f} ± {error:.1f}", f"{p:.2g}"]
    return lines


def main(arguments=None):
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="with train, in it a sub-folder a class (download)")
    parser.add_argument("--n-images", type=int, default=4000, help="training images (4000)")
    parser.add_argument("--n-scored", type=int, default=3000, help="others to score on (3000)")
    parser.add_argument(
        "--settings", nargs="*", choices=SETTINGS, default=["paper"], help="of equal steps (paper)"
    )
    parser.add_argument("--epochs", type=int, default=12, help="of equal steps (12)")
    parser.add_argument("--batch-size", type=int, default=256, help="of equal steps (256)")
    parser.add_argument(
        "--times", type=float, nargs="*", default=[60.0], metavar="SECONDS", help="equal time (60)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--workers", type=int, default=2, help="processes of lightly's loader (2)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="without lightly")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder for the results")
    options = parser.parse_args(arguments)
    X, y, X_new, y_new = photographs(options)
    stamp = {
        "machine": machine("cpu"),
        "images": [len(X), len(X_new), *X.shape[1:]],
        "batch_size": options.batch_size,
        "C": list(GRID),
    }
    results = Results(options.out, stamp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a logistic regression that overfits
        measure(options, results, X, y, X_new, y_new)
    lines = table(results.rows)
    with (options.out / "accuracy.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    (options.out / "accuracy_machine.txt").write_text(describe_machine(stamp["machine"]) + "\n")
    print("\n".join(", ".join(map(str, line)) for line in lines))


if __name__ == "__main__":
    main()
