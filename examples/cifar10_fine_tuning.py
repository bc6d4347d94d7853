"""
CIFAR-10: fine-tuning and distillation
======================================

What can be done with an encoder that learnt without labels, once some images have labels? This script
compares the steps of SimCLRv2. All get the same draws of labels and are scored on the same test images:

- a logistic regression on the frozen representation;
- fine-tuning: the whole network is trained further with the labels, from the representation (layer 0 of the
  projection head) or from the first layer of the head;
- self-distillation: the same network learns from the predictions of the fine-tuned network for all images;
- distillation: a network of half the width, with a quarter of the weights, learns in the same way;
- for comparison, a network that is trained from scratch on the labels alone.

The first of these commands downloads CIFAR-10 (162 MiB), the second uses a folder of images::

    python cifar10_fine_tuning.py --max-time 600
    python cifar10_fine_tuning.py --folder photos --image-size 32 --max-time 60

An interrupted run goes on where it stopped: networks and scores are kept in the folder ``cache`` next to the
results.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    DistilledClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    label_fraction_curve,
    load_image_paths,
    load_images,
)
from sklearn_simclr.images import fetch_cifar10

TEACHER = "fine-tuned from layer 1"


def add_image_options(parser):
    """Add the options that `load` needs to a parser."""
    data = parser.add_argument_group("images")
    data.add_argument("--data-home", type=Path, help="folder of CIFAR-10 (downloaded if it is missing)")
    data.add_argument(
        "--folder",
        type=Path,
        help="your own images instead: one sub-folder per class, or folders train and test of that form",
    )
    data.add_argument("--image-size", type=int, default=32, help="side to which files are resized (32)")
    data.add_argument(
        "--n-unlabelled", type=int, help="training images, of which a fraction has labels (all)"
    )
    data.add_argument("--n-test", type=int, help="test images (all; without a folder test, a fifth of all)")
    parser.add_argument("--seed", type=int, default=0)


def parse(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Fine-tuning and distillation with few labels.")
    add_image_options(parser)
    study = parser.add_argument_group("study")
    study.add_argument(
        "--fractions", type=float, nargs="+", default=[0.01, 0.1], metavar="FRACTION", help="of labels"
    )
    study.add_argument("--draws", type=int, default=3, help="draws of the labels at each fraction (3)")
    study.add_argument("--encoder", default="auto", help="network of the teacher (auto)")
    study.add_argument("--student", default="compactx0.5", help="smaller network (compactx0.5)")
    budget = study.add_mutually_exclusive_group()
    budget.add_argument("--max-time", type=float, default=600, help="seconds of pretraining (600)")
    budget.add_argument("--max-epochs", type=int, help="epochs of pretraining, instead of --max-time")
    study.add_argument(
        "--tuning-epochs", type=int, help="epochs on the labels, in fine-tuning and in training from scratch"
    )
    study.add_argument(
        "--teaching-epochs", type=int, default=30, help="epochs of distillation, on all images (30)"
    )
    study.add_argument("--temperature", type=float, default=1.0, help="of the distillation (1)")
    parser.add_argument("--output", type=Path, default=Path("cifar10_fine_tuning"), help="folder")
    return parser.parse_args(arguments)


def some(n, most, target, seed):
    """Return the rows of `most` of n images, or of all, with the same shares of the classes."""
    if most is None or most >= n:
        return np.arange(n)
    return np.sort(train_test_split(np.arange(n), train_size=most, stratify=target, random_state=seed)[0])


def load(options):
    """Return training images and labels, then those for testing."""
    if options.folder is None:
        parts = [fetch_cifar10(data_home=options.data_home, subset=part) for part in ("train", "test")]
        names = parts[0].target_names
        (X, y), (X_test, y_test) = ((part.images, part.target) for part in parts)
    elif (options.folder / "train").is_dir() and (options.folder / "test").is_dir():
        train = load_image_paths(options.folder / "train")
        names = train.target_names
        test = load_image_paths(options.folder / "test", categories=names)
        X, y, X_test, y_test = train.data, train.target, test.data, test.target
    else:
        found = load_image_paths(options.folder)
        names = found.target_names
        if found.target is None:
            raise SystemExit(f"{options.folder} needs one sub-folder per class.")
        X, X_test, y, y_test = train_test_split(
            found.data, found.target, test_size=0.2, stratify=found.target, random_state=options.seed
        )
    rows = some(len(X), options.n_unlabelled, y, options.seed)
    test_rows = some(len(X_test), options.n_test, y_test, options.seed)
    X, y, X_test, y_test = X[rows], y[rows], X_test[test_rows], y_test[test_rows]
    if options.folder is not None:
        X, X_test = (load_images(paths, image_size=options.image_size) for paths in (X, X_test))
    print(f"{len(X):,} training images, {len(X_test):,} test images of {len(names)} classes, {X.shape[1:]}")
    return X, y, X_test, y_test


def summarise(results):
    """Return accuracy in percent, mean and standard deviation over draws, one row per estimator."""
    scores = 100 * results.set_index(["estimator", "fraction"])["score"]
    groups = scores.groupby(level=["estimator", "fraction"], sort=False)
    mean, std = groups.mean(), groups.std().fillna(0)
    table = mean.map("{:.1f}".format) + " ± " + std.map("{:.1f}".format)
    labels = results.groupby("fraction")["n_labels"].first()
    table = table.unstack("fraction").loc[results["estimator"].unique()]
    table.columns = [f"{fraction:.3g} ({labels[fraction]:,})" for fraction in table.columns]
    return table


def make_estimators(options, encoder, cache):
    """Return what is compared, by name."""
    labels = {} if options.tuning_epochs is None else {"max_epochs": options.tuning_epochs}
    shared = {"random_state": options.seed, "memory": cache}

    def tuned(layer):
        return SimCLRClassifier(encoder, head_layer=layer, **labels, **shared)

    def taught(student):
        return DistilledClassifier(
            tuned(1),
            student,
            temperature=options.temperature,
            max_epochs=options.teaching_epochs,
            **shared,
        )

    return {
        "supervised": SupervisedTransformer(options.encoder, **labels, **shared),
        "linear on h": make_pipeline(encoder, StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
        "fine-tuned from layer 0": tuned(0),
        TEACHER: tuned(1),
        "self-distilled": taught(encoder),
        f"distilled to {options.student}": taught(SimCLRTransformer(options.student)),
    }


def compare(results):
    """Return the table of accuracies, and the difference of each to the teacher."""
    table = summarise(results)
    # Per draw, since the accuracy depends more on the draw of the labels than on the method.
    scores = results.pivot(index=["fraction", "draw"], columns="estimator", values="score")
    gain = 100 * scores.sub(scores[TEACHER], axis=0).groupby("fraction").mean()
    for fraction in gain.index:
        table[f"{fraction:.3g}, difference to the teacher"] = gain.loc[fraction].map("{:+.1f}".format)
    return table


def draw(results, path):
    """Draw one bar per estimator and fraction, with one point per draw."""
    import matplotlib.pyplot as plt

    names, fractions = results["estimator"].unique(), sorted(results["fraction"].unique())
    figure, ax = plt.subplots(figsize=(8, 0.5 + 0.35 * len(names) * len(fractions)), layout="constrained")
    height = 0.8 / len(fractions)
    for k, fraction in enumerate(fractions):
        for place, name in enumerate(names):
            chosen = results[(results["estimator"] == name) & (results["fraction"] == fraction)]
            y = place + (k - (len(fractions) - 1) / 2) * height
            n_labels = chosen["n_labels"].iloc[0]
            ax.barh(
                y,
                100 * chosen["score"].mean(),
                height=0.9 * height,
                color=f"C{k}",
                label=f"{n_labels:,} labels ({100 * fraction:g}%)" if place == 0 else None,
            )
            ax.plot(100 * chosen["score"], [y] * len(chosen), ".", color="0.2", markersize=5)
            ax.annotate(
                f"{100 * chosen['score'].mean():.1f}",
                (100 * chosen["score"].max(), y),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set_xlabel("Test accuracy in percent (points: draws of the labels)")
    figure.legend(loc="outside upper center", ncols=len(fractions))
    figure.savefig(path, dpi=150)


def main(arguments=None):
    """Pretrain, run the study, and write table and figure."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    cache = str(options.output / "cache")
    X, y, X_test, y_test = load(options)
    n = len(X)
    budget = (
        {"max_time": options.max_time} if options.max_epochs is None else {"max_epochs": options.max_epochs}
    )
    encoder = SimCLRTransformer(
        options.encoder, **budget, memory=cache, verbose=1, random_state=options.seed
    ).fit(X)
    results = label_fraction_curve(
        make_estimators(options, FrozenEstimator(encoder), cache),
        np.concatenate([X, X_test]),
        np.concatenate([y, y_test]),
        fractions=sorted(options.fractions),
        cv=[(np.arange(n), np.arange(n, n + len(X_test)))],
        n_draws=options.draws,
        random_state=options.seed,
        error_score="raise",
        memory=cache,
        verbose=1,
    )
    results.to_csv(options.output / "fine_tuning.csv", index=False)
    table = compare(results)
    table.to_csv(options.output / "accuracy.csv")
    print("\nTest accuracy in percent, mean ± standard deviation over draws; fraction (number) of labels")
    print(table.to_string())
    draw(results, options.output / "fine_tuning.png")
    print(f"\nNumbers and figure are in {options.output}/")


if __name__ == "__main__":
    main()
