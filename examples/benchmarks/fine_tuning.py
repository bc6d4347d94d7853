"""Fine-tuning and its start: accuracy by the number of labels, with nothing set but the seed.

For each source an encoder is pretrained without labels. Then, with some labels per class: logistic regression
on the representation (its C by cross-validation on the labels), SimCLRClassifier as it is, trained for some
epochs, and from layer 1 of the projection head, and a student of the first.

    python examples/benchmarks/fine_tuning.py digits cifar10=cifar10/train clothing=clothing/train --out docs/benchmarks
"""  # noqa: E501

import argparse
import csv
from pathlib import Path

import numpy as np
from photographs import some
from run import describe_machine, machine
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import DistilledClassifier, SimCLRClassifier, SimCLRTransformer, load_image_paths

HELD_OUT = 1000
EPOCHS = 20


def images_of(source, n_images):
    """Return the name of a source, its images and their classes, in random order."""
    name, _, folder = source.partition("=")
    if not folder:
        digits = load_digits()
        return name, digits.images, digits.target
    found = load_image_paths(folder)
    return name, *some(np.asarray(found.data), np.asarray(found.target), n_images + HELD_OUT)


def accuracies(pretrained, X, y, X_new, y_new, rows, student):
    """Yield (method, accuracy in percent) of classifiers that know the labels of some rows."""
    known = np.full(len(y), -1)
    known[rows] = y[rows]
    most = np.bincount(y[rows]).min()
    linear = make_pipeline(
        StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 1, 6), cv=int(min(5, most)), max_iter=1000)
    )
    linear.fit(pretrained.transform(X[rows]), y[rows])
    yield "logistic regression on h", linear.score(pretrained.transform(X_new), y_new)
    tuned = SimCLRClassifier(pretrained, random_state=0).fit(X, known)
    yield "SimCLRClassifier()", tuned.score(X_new, y_new)
    trained = SimCLRClassifier(pretrained, max_epochs=EPOCHS, random_state=0).fit(X, known)
    yield f"SimCLRClassifier(max_epochs={EPOCHS})", trained.score(X_new, y_new)
    from_hidden = SimCLRClassifier(pretrained, head_layer=1, random_state=0).fit(X, known)
    yield "SimCLRClassifier(head_layer=1)", from_hidden.score(X_new, y_new)
    if student:
        yield (
            "student of SimCLRClassifier()",
            DistilledClassifier(tuned, random_state=0).fit(X).score(X_new, y_new),
        )


def write(path, found):
    """Write one row per source and method, one column per number of labels per class."""
    labels = sorted({key[2] for key in found}, key=lambda n: n or np.inf)
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["images", "classifier", *(f"{n} per class" if n else "all labels" for n in labels)])
        for source, method in dict.fromkeys(key[:2] for key in found):
            values = [found.get((source, method, n)) for n in labels]
            out.writerow([source, method, *("" if v is None else f"{100 * np.mean(v):.1f}" for v in values)])


def main(arguments=None):
    """Pretrain, classify, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", help="digits, or NAME=FOLDER with one sub-folder per class")
    parser.add_argument("--n-images", type=int, default=2000, help="to pretrain on, at most (2000)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each pretraining (40)")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 20, 0], help="per class; 0 is all")
    parser.add_argument("--draws", type=int, default=2, help="of few labels (2)")
    parser.add_argument("--no-student", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("fine_tuning"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for source in options.sources:
        name, X, y = images_of(source, options.n_images)
        y = np.unique(y, return_inverse=True)[1]
        parts = train_test_split(X, y, test_size=min(HELD_OUT, len(X) // 3), stratify=y, random_state=0)
        X, X_new, y, y_new = parts
        pretrained = SimCLRTransformer(max_time=options.seconds, random_state=0).fit(X)
        for n in options.labels:
            for draw in range(options.draws if n else 1):
                rng = np.random.default_rng(draw)
                rows = np.arange(len(y))
                if n:
                    rows = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:n] for c in np.unique(y)])
                for method, score in accuracies(pretrained, X, y, X_new, y_new, rows, not options.no_student):
                    found.setdefault((name, method, n), []).append(score)
                    print(f"{name}, {n or 'all'} labels per class, {method}: {100 * score:.1f}", flush=True)
                write(options.out / "fine_tuning.csv", found)
    (options.out / "fine_tuning_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")


if __name__ == "__main__":
    main()
