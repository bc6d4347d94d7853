"""
CIFAR-10: what the first labels are worth
=========================================

The study of a label-fraction figure, on photographs: raw pixels, PCA, an untrained encoder, an autoencoder,
a network that is trained on the labels alone, and SimCLR. Those that learn without labels see all training
images; a logistic regression then learns from a fraction of the labels, and is scored on the test images.
The network "supervised" is trained from scratch, end to end, on each of the same draws of labels.

This is a script to be run by itself; the pages beside it, on smaller images, take less time::

    python examples/cifar10_label_fractions.py --max-time 600
    python examples/cifar10_label_fractions.py --folder photos --image-size 32 --max-time 60

The first line downloads CIFAR-10 (162 MiB). A run that was interrupted goes on where it was: encoders and
scores are kept in a folder ``cache`` beside the results.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    AutoencoderTransformer,
    LabelFractionDisplay,
    PixelTransformer,
    SimCLRTransformer,
    SupervisedTransformer,
    label_fraction_curve,
    label_saving,
    load_image_paths,
)
from sklearn_simclr.images import fetch_cifar10

OURS, REFERENCE = "SimCLR", "supervised"


def add_image_options(parser):
    """Add the options that `load` needs to a parser."""
    data = parser.add_argument_group("images")
    data.add_argument("--data-home", type=Path, help="where CIFAR-10 is, or is to be kept")
    data.add_argument(
        "--folder",
        type=Path,
        help="images of your own instead: a sub-folder for each class, or folders train and test with those",
    )
    data.add_argument("--image-size", type=int, default=32, help="side that files are brought to (32)")
    data.add_argument(
        "--n-unlabelled", type=int, help="training images, of which a fraction has labels (all)"
    )
    data.add_argument("--n-test", type=int, help="test images (all; without a folder test, a fifth of all)")
    parser.add_argument("--seed", type=int, default=0)


def parse(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Accuracy on photographs against the fraction of labels.")
    add_image_options(parser)
    study = parser.add_argument_group("study")
    study.add_argument(
        "--fractions", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1, 0.3, 1.0], metavar="FRACTION"
    )
    study.add_argument("--draws", type=int, default=3, help="draws of the labels at each fraction (3)")
    budget = study.add_mutually_exclusive_group()
    budget.add_argument(
        "--max-time", type=float, default=600, help="seconds to train each encoder without labels for (600)"
    )
    budget.add_argument("--max-epochs", type=int, help="epochs of every training, instead of --max-time")
    study.add_argument(
        "--supervised-time",
        type=float,
        help="seconds to train the supervised network for on each draw, instead of 60 epochs or 300 steps",
    )
    parser.add_argument("--output", type=Path, default=Path("cifar10_label_fractions"), help="folder")
    return parser.parse_args(arguments)


def some(n, most, target, seed):
    """Rows of `most` of n images, or of all, with the same shares of the classes."""
    if most is None or most >= n:
        return np.arange(n)
    return np.sort(train_test_split(np.arange(n), train_size=most, stratify=target, random_state=seed)[0])


def read(paths, side):
    """Image files as an array (n, side, side, 3); the largest centred square of each is resized."""
    from PIL import Image, ImageOps

    images = np.empty((len(paths), side, side, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            images[row] = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    return images


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
            raise SystemExit(f"{options.folder} needs a sub-folder for each class.")
        X, X_test, y, y_test = train_test_split(
            found.data, found.target, test_size=0.2, stratify=found.target, random_state=options.seed
        )
    rows = some(len(X), options.n_unlabelled, y, options.seed)
    test_rows = some(len(X_test), options.n_test, y_test, options.seed)
    X, y, X_test, y_test = X[rows], y[rows], X_test[test_rows], y_test[test_rows]
    if options.folder is not None:
        X, X_test = read(X, options.image_size), read(X_test, options.image_size)
    print(f"{len(X):,} training images, {len(X_test):,} test images of {len(names)} classes, {X.shape[1:]}")
    return X, y, X_test, y_test


def make_estimators(options, n_images, n_pixels):
    """Return what is compared, by name. All representations have the same classifier."""
    if options.max_epochs is None:
        budget, supervised_budget = {"max_time": options.max_time}, {}
    else:
        budget = supervised_budget = {"max_epochs": options.max_epochs}
    if options.supervised_time is not None:
        supervised_budget = {"max_time": options.supervised_time}
    seed = {"random_state": options.seed}

    def with_classifier(*steps):
        return make_pipeline(*steps, StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))

    # With nearly as many components as images the last ones are noise, which scaling would blow up.
    n_components = max(1, min(128, n_images // 4, n_pixels))
    return {
        "raw pixels": with_classifier(PixelTransformer()),
        "PCA": with_classifier(PixelTransformer(), PCA(n_components, **seed)),
        "random encoder": with_classifier(SimCLRTransformer(max_epochs=0, **seed)),
        "autoencoder": with_classifier(AutoencoderTransformer(verbose=1, **budget, **seed)),
        REFERENCE: SupervisedTransformer(**supervised_budget, **seed),
        OURS: with_classifier(SimCLRTransformer(verbose=1, **budget, **seed)),
    }


def summarise(results):
    """Return accuracy in percent, mean and standard deviation over draws, a row an estimator."""
    scores = 100 * results.set_index(["estimator", "fraction"])["score"]
    groups = scores.groupby(level=["estimator", "fraction"], sort=False)
    mean, std = groups.mean(), groups.std().fillna(0)
    table = mean.map("{:.1f}".format) + " ± " + std.map("{:.1f}".format)
    labels = results.groupby("fraction")["n_labels"].first()
    table = table.unstack("fraction").loc[results["estimator"].unique()]
    table.columns = [f"{fraction:.3g} ({labels[fraction]:,})" for fraction in table.columns]
    return table


def savings(results):
    """Return how many times fewer labels SimCLR needs than each of the others at each fraction."""
    import pandas as pd

    fractions = sorted(results["fraction"].unique())
    others = [name for name in results["estimator"].unique() if name != OURS]
    cells = [[str(label_saving(results, OURS, name, at=at)) for at in fractions] for name in others]
    return pd.DataFrame(cells, index=others, columns=[f"{fraction:.3g}" for fraction in fractions])


def largest_fraction_reached(results):
    """Return the largest fraction at which SimCLR matches the reference with fewer labels, or None."""
    for at in sorted(results["fraction"].unique(), reverse=True):
        if label_saving(results, OURS, REFERENCE, at=at).factor > 1:
            return at
    return None


def main(arguments=None):
    """Run the study, and write table and figure."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    X, y, X_test, y_test = load(options)
    n = len(X)
    estimators = make_estimators(options, n, X[0].size)
    results = label_fraction_curve(
        estimators,
        np.concatenate([X, X_test]),
        np.concatenate([y, y_test]),
        fractions=sorted(options.fractions),
        cv=[(np.arange(n), np.arange(n, n + len(X_test)))],
        n_draws=options.draws,
        random_state=options.seed,
        error_score="raise",
        memory=str(options.output / "cache"),
        verbose=1,
    )
    results.to_csv(options.output / "label_fractions.csv", index=False)
    table, saved = summarise(results), savings(results)
    table.to_csv(options.output / "accuracy.csv")
    saved.to_csv(options.output / "label_saving.csv")
    print("\nTest accuracy in percent, mean ± standard deviation over draws; fraction (number) of labels")
    print(table.to_string())
    print(f"\nLabels that {OURS} needs, compared with each of the others at a fraction")
    print(saved.to_string())

    at = largest_fraction_reached(results)
    arrow = {} if at is None else {"reference": REFERENCE, "estimator": OURS, "at": at}
    display = LabelFractionDisplay.from_results(results, score_name="Test accuracy", **arrow)
    display.ax_.set_title(f"{n:,} training images")
    display.figure_.savefig(options.output / "label_fractions.png", dpi=150, bbox_inches="tight")
    print(f"\nNumbers and figure are in {options.output}/")


if __name__ == "__main__":
    main()
