"""
Features of SimCLR and of supervised learning on new images
===========================================================

Two encoders have learnt from many images: one by SimCLR without labels, the other from labels. Which of them
has the better features for new images? A linear classifier is fitted on the frozen features of each encoder,
and on those of a network with random weights, and scored on test images. The left panel of the figure shows
the accuracy with all labels; the penalty is chosen on a part of the labels, as in the paper. The right panel
shows the accuracy with fewer labels; there the penalty is fixed, since no labels are left to choose it.

With published weights, you need a network connection. STL-10 has 2.6 GB. SimCLR's checkpoint comes from
github.com/google-research/simclr::

    python transfer_stl10.py --data stl10 --download --simclr-weights r50_1x_sk0 \\
        --supervised-weights torchvision:ResNet50_Weights.IMAGENET1K_V1

Without published weights, both encoders are trained on the images of one half of the classes, and compared on
the other half. Digits take seconds::

    python transfer_stl10.py --data digits
    python transfer_stl10.py --data folder photos --image-size 32 --max-epochs 30
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import (
    LabelFractionDisplay,
    SimCLRTransformer,
    SupervisedTransformer,
    compare_transfers,
    export_encoder,
    label_fraction_curve,
    load_image_paths,
    load_images,
    load_pretrained,
    transfer_evaluation,
)

NAMES = ("SimCLR", "supervised", "random")


def parse(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Linear classifiers on features of several encoders.")
    data = parser.add_argument_group("images")
    data.add_argument(
        "--data",
        nargs="+",
        default=["digits"],
        metavar=("KIND", "PATH"),
        help="digits; stl10; or folder PATH, with one sub-folder per class",
    )
    data.add_argument("--download", action="store_true", help="fetch STL-10 and torchvision's weights")
    data.add_argument("--data-home", type=Path, default=Path("stl10"), help="folder of STL-10")
    data.add_argument("--image-size", type=int, help="side to which files of a folder are resized (32)")
    data.add_argument(
        "--n-source", type=int, help="images on which encoders are trained (half of the classes)"
    )
    data.add_argument("--n-train", type=int, help="labelled images on which classifiers are fitted (all)")
    data.add_argument("--n-test", type=int, help="test images (all)")
    encoders = parser.add_argument_group("encoders")
    encoders.add_argument(
        "--encoders",
        choices=["trained", "published"],
        help="train both here, or read weights (published for stl10, else trained)",
    )
    encoders.add_argument("--simclr-weights", help="as for SimCLRTransformer(weights=...)")
    encoders.add_argument("--supervised-weights", help="likewise")
    encoders.add_argument("--encoder", default="auto", help="network that is trained (auto)")
    encoders.add_argument("--max-epochs", type=int, default=30, help="epochs of each training (30)")
    study = parser.add_argument_group("study")
    study.add_argument(
        "--fractions", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.3, 1.0], metavar="FRACTION"
    )
    study.add_argument("--draws", type=int, default=5, help="draws of the labels at each fraction (5)")
    study.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("transfer"), help="folder")
    options = parser.parse_args(arguments)
    kind, *path = options.data
    if kind not in ("digits", "stl10", "folder") or len(path) != (kind == "folder"):
        parser.error(f"--data is digits, stl10 or folder PATH, got {' '.join(options.data)}")
    if options.encoders is None:
        options.encoders = "published" if kind == "stl10" else "trained"
    if options.encoders == "published" and None in (options.simclr_weights, options.supervised_weights):
        parser.error("--encoders published needs --simclr-weights and --supervised-weights")
    if options.encoders == "trained" and kind == "stl10":
        parser.error("--encoders trained is for digits and folders; for stl10 pass weights")
    return options


def load(options):
    """Return the images of all classes, to be split; or the training and the test images of STL-10."""
    kind, *path = options.data
    if kind == "stl10":
        from torchvision.datasets import STL10

        parts = [STL10(options.data_home, split, download=options.download) for split in ("train", "test")]
        return [(part.data.transpose(0, 2, 3, 1), part.labels) for part in parts]
    if kind == "digits":
        digits = load_digits()
        return digits.images, digits.target
    found = load_image_paths(path[0])
    if found.target is None:
        raise SystemExit(f"{path[0]} needs one sub-folder per class.")
    return load_images(found.data, image_size=options.image_size or 32), np.asarray(found.target)


def some(X, y, most, seed):
    """Return at most so many images, with the same shares of the classes."""
    if most is None or most >= len(y):
        return X, y
    X, _, y, _ = train_test_split(X, y, train_size=most, stratify=y, random_state=seed)
    return X, y


def split(options, data):
    """Return images for encoders, or None; then images and classes for classifiers, training and test."""
    source = None
    if options.data[0] == "stl10":
        (X, y), (X_test, y_test) = data
    else:
        X, y = data
        if options.encoders == "trained":
            classes = np.unique(y)
            # Every other class: neighbours in the order of the names are often alike.
            is_source = np.isin(y, classes[1::2])
            source = some(X[is_source], y[is_source], options.n_source, options.seed)
            X, y = X[~is_source], y[~is_source]
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=options.seed)
    (X, y), (X_test, y_test) = (
        some(X, y, options.n_train, options.seed),
        some(X_test, y_test, options.n_test, options.seed),
    )
    return source, X, y, X_test, y_test


def make_encoders(options, source, X, folder):
    """Return fitted transformers by name."""
    seed = {"random_state": options.seed}
    published = {"SimCLR": options.simclr_weights, "supervised": options.supervised_weights}
    if options.encoders == "trained":
        settings = {"encoder": options.encoder, "max_epochs": options.max_epochs, "verbose": 1, **seed}
        trained = {
            "SimCLR": SimCLRTransformer(**settings).fit(source[0]),
            "supervised": SupervisedTransformer(**settings).fit(*source),
        }
        # As files, like the published encoders.
        for name, estimator in trained.items():
            published[name] = folder / f"{name}.safetensors"
            export_encoder(estimator, published[name])
        random = SimCLRTransformer(options.encoder, max_epochs=0, **seed).fit(source[0])
    else:
        if options.download:
            for weights in published.values():
                load_pretrained(weights, download=str(weights).startswith("torchvision:"))
        # The architecture of torchvision's weights and of the authors' smallest weights.
        random = SimCLRTransformer(
            "resnet50" if X.shape[1] > 64 else options.encoder, max_epochs=0, **seed
        ).fit(X)
    encoders = {
        name: SimCLRTransformer(weights=weights, max_epochs=0, **seed).fit(X)
        for name, weights in published.items()
    }
    return {**encoders, "random": random}


def draw(results, curves, chance, n_train, path):
    """Draw bars with the accuracies, and the curves beside them."""
    import matplotlib.pyplot as plt

    figure, (bars, lines) = plt.subplots(
        1, 2, figsize=(10, 4), sharey=True, width_ratios=[1, 1.8], layout="constrained"
    )
    display = LabelFractionDisplay.from_results(curves, score_name="Test accuracy", ax=lines, chance=chance)
    colours = {line.get_label(): line.get_color() for line in display.ax_.get_lines()}
    top = curves["score"].max()
    for place, (name, result) in enumerate(results.items()):
        score = result.scores["score"][0]
        error = np.sqrt(score * (1 - score) / len(result.y_test))
        bars.bar(place, score, width=0.7, color=colours.get(name, f"C{place}"), yerr=error, capsize=4)
        bars.annotate(
            f"{100 * score:.1f}%",
            (place, score + error),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
        )
        top = max(top, score + error)
    bars.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    bars.set_xticks(range(len(results)), results)
    bars.set_ylim(0, 1.12 * top)
    bars.set_ylabel("Test accuracy (bars: ± standard error)")
    bars.set_title(f"All {n_train:,} labels", fontsize="medium")
    lines.set_ylabel("")
    figure.savefig(path, dpi=150)


def main(arguments=None):
    """Train or read the encoders, compare them, and write tables and figure."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    source, X, y, X_test, y_test = split(options, load(options))
    n = len(X)
    print(f"{n:,} training and {len(X_test):,} test images of {len(np.unique(y))} classes, {X.shape[1:]}")
    with tempfile.TemporaryDirectory() as folder:
        encoders = make_encoders(options, source, X, Path(folder))
    results = {
        name: transfer_evaluation(
            encoder,
            X,
            y,
            X_test=X_test,
            y_test=y_test,
            protocols=("linear",),
            random_state=options.seed,
        )
        for name, encoder in encoders.items()
    }
    tables = [result.scores.assign(encoder=name) for name, result in results.items()]
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(options.output / "transfer.csv", index=False)
    print(table[["encoder", "score", "penalty", "n_train", "n_test"]].to_string(index=False))
    for name in NAMES[1:]:
        test = compare_transfers(results["SimCLR"], results[name])
        print(f"SimCLR - {name}: {100 * test.statistic:+.1f} points, p = {test.pvalue:.2g}")

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    curves = label_fraction_curve(
        {name: make_pipeline(FrozenEstimator(encoder), classifier) for name, encoder in encoders.items()},
        np.concatenate([X, X_test]),
        np.concatenate([y, y_test]),
        fractions=sorted(options.fractions),
        cv=[(np.arange(n), np.arange(n, n + len(X_test)))],
        n_draws=options.draws,
        random_state=options.seed,
        error_score="raise",
    )
    curves.to_csv(options.output / "label_fractions.csv", index=False)
    draw(results, curves, 1 / len(np.unique(y)), n, options.output / "transfer.png")
    print(f"Numbers and figure are in {options.output}/")


if __name__ == "__main__":
    main()
