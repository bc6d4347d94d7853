"""Print what the thresholds of `representation_report` are compared with, for networks whose state is known.

Networks that are pulled in learn to bring two views together and nothing else, which ends in collapse: RankMe
is near 1 long before all views are one point. Others have random weights, or were trained briefly, or for
long. For each there are the verdict and the numbers behind it. A second
table has the effective rank (RankMe) of representations for several temperatures and batch sizes.
Digits are those of scikit-learn; `--folder` adds photographs, in a sub-folder for each class:

    python examples/benchmarks/thresholds.py --folder cifar10/train
"""

import argparse

import torch
from photographs import from_folder
from sklearn.datasets import load_digits
from torch import nn

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.inspection import rankme, representation_report

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)


def only_together(z):
    """Return the distance of the two views: without negatives, all become one point."""
    first, second = torch.nn.functional.normalize(z, dim=1).chunk(2)
    return (first - second).square().sum(1).mean()


def networks(epochs, channels):
    """Yield the name of each state, and parameters that lead to it."""
    # BatchNorm would keep it from collapsing.
    plain = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(288, 64))
    )
    pulled = {"encoder": plain, "projection_layers": 0, "loss": only_together, "optimizer": "adamw"}
    yield "pulled in", {**pulled, "max_epochs": epochs}
    yield "untrained", {"max_epochs": 0}
    yield "undertrained", {"max_epochs": max(1, epochs // 20)}
    yield "undertrained", {"max_epochs": max(1, epochs // 6)}
    yield "trained", {"max_epochs": epochs}


def main():
    """Print both tables for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder")
    parser.add_argument("--n-images", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    data = {"digits": load_digits().images[: args.n_images]}
    if args.folder:
        data["photographs"] = from_folder(args.folder, args.n_images)[0]
    for name, X in data.items():
        print(f"{name}: expected, found; loss / chance, that of random weights; accuracy, RankMe, alignment")
        for expected, params in networks(args.epochs, X.shape[3] if X.ndim == 4 else 1):
            for seed in range(args.seeds):
                report = representation_report(SimCLRTransformer(**params, random_state=seed).fit(X), X[:500])
                table = report.to_frame()
                value, chance = table["value"], table["chance"]["loss"] or float("nan")
                print(
                    f"{expected:>13} {report.verdict:>13} {value['loss'] / chance:7.3f} "
                    f"{table['untrained']['loss'] / chance:7.3f} {value['contrastive_accuracy']:7.3f} "
                    f"{value['rankme']:7.1f} {value['alignment']:.1e}",
                    flush=True,
                )
        print(f"{name}: temperature, batch size, RankMe of the representations")
        for batch_size in (64, 256):
            for temperature in TEMPERATURES:
                simclr = SimCLRTransformer(
                    temperature=temperature, batch_size=batch_size, max_epochs=args.epochs, random_state=0
                )
                rank = rankme(simclr.fit_transform(X[:1000]))
                print(f"{temperature:13.2f} {batch_size:13d} {rank:7.1f}", flush=True)


if __name__ == "__main__":
    main()
