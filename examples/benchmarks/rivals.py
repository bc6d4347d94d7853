"""README's tables of photographs: SimCLR and its rivals by the number of labels, each at its best.

Every method sees the same images, and every network is trained for the same seconds: those without labels on
all training images, the supervised one on the labelled rows alone. Answers are means over an image and its
mirror image, for every method. A logistic regression on the numbers of a method has the C and the scaling
that are best by cross-validation on its labelled rows (five folds three times, three folds from 500 rows on,
a fifth of the rows from 2,000 on): all numbers divided by one factor, or each by its own deviation; neither
needs labels. The supervised network answers by its own last layer. The settings of the autoencoder and of
k-means are those that are best in cross-validation on labelled rows of the source, 100 per class where so
many are asked for; SimCLR has its defaults. A seed is a draw of all random weights; with each seed a part of
the labels is drawn ``--draws`` times, once for the supervised network, which is trained anew for each draw.

A source is NAME=FOLDER. Images of its sub-folder ``train`` are trained on; those that are scored are in
``validation``, or without it, others of ``train``, or with ``--test`` in ``test``. ``cifar10`` without a
folder is downloaded. Results are written after each training; a run that was interrupted goes on where it was.

    python examples/benchmarks/rivals.py cifar10=cifar10 clothing=clothing --out docs/benchmarks --readme README.md
    python examples/benchmarks/rivals.py cifar10=cifar10 --methods SimCLR --seconds 60 200 600 --labels all --out rivals
"""  # noqa: E501

import argparse
import csv
import json
import time
import warnings
from pathlib import Path

import numpy as np
from blocks import markdown, put
from joblib import Parallel, delayed
from patch_kmeans import PatchKMeans
from photographs import from_folder, some
from PIL import Image
from run import describe_machine, machine
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedShuffleSplit
from threadpoolctl import threadpool_limits

from sklearn_simclr import (
    AutoencoderTransformer,
    HOGTransformer,
    PixelTransformer,
    SimCLRTransformer,
    SupervisedTransformer,
    load_image_paths,
    load_images,
)

GRID = np.logspace(-5, 0.5, 12)
# Folds, and how often they are drawn, where there are fewer labelled rows than that; else a fifth of the rows
# is held out once. One draw of folds of 50 rows is mostly chance.
FOLDS = {500: (5, 3), 2000: (3, 1)}
# Images up to this side are read as arrays, larger ones by each method at its own size.
SMALL = 64
OURS, SUPERVISED = "SimCLR", "supervised network"
AUTOENCODER, K_MEANS = "autoencoder", "k-means of patches"
# What the settings of a rival are chosen from: of the autoencoder optimizer, learning rate and size of the
# representation, of k-means the number of centres and the side of a patch.
CANDIDATES = {
    AUTOENCODER: ({}, {"optimizer": "adamw"}, {"learning_rate": 0.02}, {"encoder": "compactx0.5"}),
    K_MEANS: ({}, {"n_centres": 400}, {"side": 8}),
}
# Fitted once, and scored on the labels that each seed draws.
SEEDLESS = ("raw pixels", "PCA", "HOG", K_MEANS, "frozen ImageNet features")
COMMAND = "make numbers CIFAR10=folder CLOTHING=folder"


def images_of(source, options):
    """Return name, training images and labels, then those to score on."""
    name, _, folder = source.partition("=")
    if not folder:
        if name != "cifar10":
            raise SystemExit(f"{name} needs a folder: {name}=FOLDER")
        from sklearn_simclr.images import fetch_cifar10

        parts = {part: fetch_cifar10(subset=part) for part in ("train", "test")}
        parts = {part: (found.images, found.target) for part, found in parts.items()}
    else:
        parts = {path.name: path for path in Path(folder).iterdir()}
    scored = "test" if options.test else "validation"
    n_train = options.n_images
    if scored in parts:
        train, new = (
            read(parts["train"], n_train),
            read(parts[scored], options.n_scored if options.test else None),
        )
    elif options.test:
        raise SystemExit(f"{source} has no folder test")
    else:
        X, y = read(parts["train"], n_train + options.n_scored)
        n_train = min(n_train, len(y) - min(options.n_scored, len(y) // 4))
        train, new = (X[:n_train], y[:n_train]), (X[n_train:], y[n_train:])
    return name, *train, *new


def read(part, n):
    """Return at most n images, in random order: arrays where they are small and alike, else paths."""
    if isinstance(part, tuple):
        return some(*part, n)
    found = load_image_paths(part)
    paths, y = np.asarray(found.data), np.asarray(found.target)
    with Image.open(paths[0]) as first:
        small = max(first.size) <= SMALL
    return from_folder(part, n) if small else some(paths, y, n)


def labelled_rows(y, count, seed, draw=0):
    """Return `count` rows of each class, or all; those of a smaller count are among those of a larger one."""
    if count is None:
        return np.arange(len(y))
    rng = np.random.default_rng([seed, draw])
    return np.concatenate([rng.permutation(np.flatnonzero(y == name))[:count] for name in np.unique(y)])


def both_sides(model, images, method="transform"):
    """Return what a fitted model makes of images, mean over image and mirror image."""
    if np.asarray(images[:1]).ndim < 4:
        images = load_images(images, image_size=tuple(model.image_shape_[:2]))
    work = getattr(model, method)
    return 0.5 * (work(images) + work(np.ascontiguousarray(images[:, :, ::-1])))


def scaled(H, H_new, each):
    """Return centred numbers, divided by one factor, or each by its own deviation."""
    mean, deviation = H.mean(axis=0), H.std(axis=0)
    if not each:
        deviation = np.sqrt(np.mean(deviation**2))
    deviation = np.where(deviation > 0, deviation, 1)
    return (H - mean) / deviation, (H_new - mean) / deviation


def accuracies(H, y, H_new, y_new, grid):
    """Yield the accuracy on new rows for each C, each fit from the one before."""
    model = LogisticRegression(max_iter=200, tol=1e-3, warm_start=True)
    for C in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties overfit long before
            yield model.set_params(C=C).fit(H, y).score(H_new, y_new)


def chosen(H, y, seed):
    """Return the best accuracy in cross-validation and its C; with many rows, worse values end the search."""
    n_folds, n_repeats = next((n for rows, n in FOLDS.items() if len(y) < rows), (1, 1))
    if n_folds == 1:
        folds = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
    else:
        n_folds = int(np.clip(np.unique(y, return_counts=True)[1].min(), 2, n_folds))
        folds = RepeatedStratifiedKFold(n_splits=n_folds, n_repeats=n_repeats, random_state=seed)
    paths = [accuracies(H[a], y[a], H[b], y[b], GRID) for a, b in folds.split(H, y)]
    best, best_C, worse = -1.0, GRID[0], 0
    for C in GRID:
        found = float(np.mean([next(path) for path in paths]))
        best, best_C, worse = (found, C, 0) if found > best else (best, best_C, worse + (found < best))
        if n_repeats == 1 and worse == min(n_folds, 2):
            break
    return best, float(best_C)


def settled(H, H_new, rows, y, seed):
    """Return what a classifier of some rows is fitted on and answers for, scaled as is best, and its C.

    Returns
    -------
    A, B : arrays
        Numbers of the rows, and of the new images.
    C : float
        As cross-validation on the rows has chosen it.
    validation : float
        The accuracy in this cross-validation.
    each : bool
        Whether each number was divided by its own deviation.
    """

    def prepared(each):
        A, B = scaled(H, H_new, each)
        A = A[rows]
        if len(rows) < A.shape[1]:
            # The span of the rows holds every solution: the same problem in as many numbers as rows.
            _, _, axes = np.linalg.svd(A, full_matrices=False)
            A, B = A @ axes.T, B @ axes.T
        return A, B

    choices = [prepared(each) for each in (False, True)]
    # Threads share one interpreter: fits on few rows would wait for each other.
    workers = Parallel(n_jobs=1 if len(rows) < min(FOLDS) else 2, prefer="threads")
    with threadpool_limits(1):
        found = workers(delayed(chosen)(A, y[rows], seed) for A, _ in choices)
    each = found[1][0] > found[0][0]
    validation, C = found[each]
    return *choices[each], C, validation, each


def evaluate(H, H_new, rows, y, y_new, seed):
    """Return the accuracy on new images with the labels of some rows, and how C and scaling were chosen."""
    A, B, C, validation, each = settled(H, H_new, rows, y, seed)
    *_, accuracy = accuracies(A, y[rows], B, y_new, GRID[GRID <= C][-3:])
    scaling = "each" if each else "one"
    return {"accuracy": 100 * accuracy, "validation": 100 * validation, "C": C, "scaling": scaling}


def fitted(model, candidates, X, y, count):
    """Return the fitted model whose setting is best in cross-validation on labelled rows, and the setting."""
    if len(candidates) == 1:
        return model.set_params(**candidates[0]).fit(X), candidates[0]
    rows, best = labelled_rows(y, count, 0), (-1.0, None, None)
    for setting in candidates:
        tried = clone(model).set_params(**setting).fit(X)
        H = both_sides(tried, X)
        found = evaluate(H, H[rows], rows, y, y[rows], 0)["validation"]
        print(f"{type(model).__name__}, {setting}: {found:.1f}% in cross-validation", flush=True)
        best = max(best, (found, tried, setting), key=lambda choice: choice[0])
    return best[1:]


class Results:
    """What was measured, kept in a file."""

    def __init__(self, folder, stamp):
        self.path, self.stamp, self.rows = folder / "rivals.json", stamp, []
        self.clock = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = json.loads(self.path.read_text())
            if kept["stamp"] == stamp:
                self.rows = kept["rows"]

    def lacks(self, **key):
        """Return whether something has not been measured."""
        return not any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, **row):
        """Keep a measurement, with the seconds since the one before."""
        now = time.perf_counter()
        row["took"], self.clock = round(now - self.clock, 1), now
        self.rows.append(row)
        self.path.write_text(json.dumps({"stamp": self.stamp, "rows": self.rows}, indent=1) + "\n")
        print(", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)


def budget_of(options, seconds, seed):
    """Return how long and from which random numbers a network is trained, as its parameters."""
    length = {"max_time": seconds} if options.epochs is None else {"max_epochs": options.epochs}
    return {**length, "random_state": seed}


def methods(options, X, seed):
    """Yield (name, seconds, estimator) of what needs no labels; what depends on no seed for the first one."""
    if seed == options.seeds[0]:
        yield "raw pixels", None, PixelTransformer()
        yield "HOG", None, HOGTransformer()
        yield K_MEANS, None, PatchKMeans(options.n_centres)
        if options.imagenet:
            frozen = SimCLRTransformer(weights=options.imagenet, max_epochs=0, mirror=False, random_state=0)
            yield "frozen ImageNet features", None, frozen
    yield "untrained network", None, SimCLRTransformer(max_epochs=0, mirror=False, random_state=seed)
    for seconds in options.seconds:
        # Of photographs it would see less than all in that time; SimCLR's views are of 48 pixels, too.
        size = "auto" if X.ndim == 4 else 48
        known = budget_of(options, seconds, seed)
        yield AUTOENCODER, seconds, AutoencoderTransformer(image_size=size, **known)
        # Of all methods alike the answers are means over mirror images: both_sides.
        yield OURS, seconds, SimCLRTransformer(mirror=False, **budget_of(options, seconds, seed))


def measure(options, results, source):
    """Measure a source, but not what is in the results already; yield after each method."""
    name, X, y, X_new, y_new = source

    def missing(method, seconds, seeds):
        known = {"source": name, "images": [len(y), len(y_new)], "method": method, "seconds": seconds}
        draws = 1 if method == SUPERVISED else options.draws
        keys = [
            {**known, "labels": count, "seed": seed, "draw": draw}
            for seed in seeds
            for count in options.labels
            # With all labels there is nothing to draw.
            for draw in range(1 if count is None else draws)
        ]
        if method in SEEDLESS:
            keys = [key for key in keys if key["labels"] is not None or key["seed"] == options.seeds[0]]
        return [key for key in keys if results.lacks(**key)]

    def wanted(method):
        return not options.methods or method.startswith(tuple(options.methods))

    for seed in options.seeds:
        for method, seconds, model in methods(options, X, seed):
            seeds = options.seeds if method in SEEDLESS else [seed]
            if not wanted(method) or not missing(method, seconds, seeds):
                continue
            here = (row for row in results.rows if (row["source"], row["method"]) == (name, method))
            known = [row["setting"] for row in here if "setting" in row]
            candidates = known[-1:] or CANDIDATES.get(method, ({},))
            started = time.perf_counter()
            try:
                count = max((count for count in options.labels if count is not None), default=None)
                model, setting = fitted(model, candidates, X, y, count)
            except ValueError as error:  # a step takes longer than the time
                print(f"{method} is left out: {error}", flush=True)
                continue
            spent = round(time.perf_counter() - started, 1)
            H, H_new = both_sides(model, X), both_sides(model, X_new)
            found = {method: (H, H_new)}
            if method == "raw pixels":
                pca = PCA(max(1, min(128, len(H) // 4, H.shape[1])), random_state=0).fit(H)
                found["PCA"] = pca.transform(H), pca.transform(H_new)
            if method == OURS:
                width = model.encoder_.read_dim
                found[f"{OURS}, learnt means only"] = H[:, :width], H_new[:, :width]
            for part, (A, B) in found.items():
                for key in missing(part, seconds, seeds):
                    rows = labelled_rows(y, key["labels"], key["seed"], key["draw"])
                    scores = evaluate(A, B, rows, y, y_new, key["seed"])
                    results.add(**key, setting=setting, fit=spent, **scores)
            yield
        for seconds in options.seconds if wanted(SUPERVISED) else ():
            for key in missing(SUPERVISED, seconds, [seed]):
                rows = labelled_rows(y, key["labels"], seed, key["draw"])
                started = time.perf_counter()
                model = SupervisedTransformer(**budget_of(options, seconds, seed)).fit(X[rows], y[rows])
                spent = round(time.perf_counter() - started, 1)
                answers = model.classes_[both_sides(model, X_new, "predict_proba").argmax(axis=1)]
                accuracy = 100 * float(np.mean(answers == y_new))
                results.add(**key, setting={}, fit=spent, accuracy=accuracy, C=None, scaling=None)
                yield


def means(rows):
    """Return {(method, seconds): {labels: accuracies of seeds and draws}}, in the order of the table."""
    table = {}
    for row in rows:
        cells = table.setdefault((row["method"], row["seconds"]), {})
        cells.setdefault(row["labels"], []).append(row["accuracy"])
    means_only = f"{OURS}, learnt means only"
    order = [*SEEDLESS, "untrained network", AUTOENCODER, SUPERVISED, means_only, OURS]
    return dict(sorted(table.items(), key=lambda item: (item[0][1] or 0, order.index(item[0][0]))))


def counts_of(table):
    """Return the numbers of labels, all of them (None) last."""
    return sorted({count for cells in table.values() for count in cells}, key=lambda c: (c is None, c))


def wide(rows, n_train):
    """Return header and lines of a table: mean and deviation over seeds and draws."""
    table = means(rows)
    counts = counts_of(table)
    header = ["method", "training (s)", *("all" if c is None else f"{c} per class" for c in counts)]
    header = [*header[:2], *(f"{h} ({n_train:,})" if h == "all" else h for h in header[2:])]
    lines = []
    for (method, seconds), cells in table.items():
        texts = [""] * len(counts)
        for place, count in enumerate(counts):
            values = cells.get(count, [])
            if values:
                texts[place] = f"{np.mean(values):.1f}"
                if len(values) > 1:
                    texts[place] += f" ± {np.std(values, ddof=1):.1f}"
        lines.append([method, "" if seconds is None else f"{seconds:g}", *texts])
    return header, lines


def conclusions(rows, seconds, n_train):
    """Return sentences: how many labels SimCLR saves, at counts that were measured, and what is better."""
    table = {
        method: {count: np.mean(values) for count, values in cells.items()}
        for (method, spent), cells in means(rows).items()
        if spent in (None, seconds)
    }
    if OURS not in table:
        return ""
    ours, text = table[OURS], []
    for at, reached in table.get(SUPERVISED, {}).items():
        fewer = [count for count, value in ours.items() if value >= reached and count is not None]
        if fewer and (at is None or min(fewer) < at):
            few, known = min(fewer), "all labels" if at is None else f"{at} labels per class"
            text.append(
                f"The supervised network reaches {reached:.1f}% with {known}, "
                f"SimCLR {ours[few]:.1f}% with {few} per class."
            )
    for count, value in ours.items():
        known = f"all {n_train:,} labels" if count is None else f"{count} labels per class"
        ahead, level = [], []
        for method, cells in table.items():
            if method.startswith(OURS) or count not in cells:
                continue
            difference, error = paired(rows, method, seconds, count)
            article = "the " if method.endswith(("network", "encoder")) else ""
            if abs(difference) <= 2 * error:
                level.append(f"{article}{method} ({cells[count]:.1f}%)")
            elif difference > 0:
                ahead.append(f"{article}{method} ({cells[count]:.1f}%)")
        found = f"{listed(ahead)} {'are' if len(ahead) > 1 else 'is'} ahead of SimCLR ({value:.1f}%)"
        if level:
            found += f", and {listed(level)} {'are' if len(level) > 1 else 'is'} level with it"
        text.append(f"With {known}, {found}.")
    text.append("Level means that the difference is less than two of its standard errors.")
    return " ".join(text)


def paired(rows, method, seconds, count):
    """Return by how much a method is ahead of SimCLR with equal labels, and the standard error of that."""
    known = {
        name: {
            (row["seed"], row["draw"]): row["accuracy"]
            for row in rows
            if (row["method"], row["labels"]) == (name, count) and row["seconds"] in (None, seconds)
        }
        for name in (method, OURS)
    }
    theirs = known[method]
    # With all labels, what depends on no random numbers is scored once.
    once = next(iter(theirs.values())) if count is None and method in SEEDLESS else None
    pairs = [(theirs.get(key, once), ours) for key, ours in known[OURS].items()]
    differences = [value - ours for value, ours in pairs if value is not None]
    error = np.std(differences, ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return float(np.mean(differences)), float(error)


def listed(names):
    """Return names as a part of a sentence."""
    *most, last = names or ["no method"]
    return f"{', '.join(most)} and {last}" if most else last


def chosen_settings(rows):
    """Return a sentence that names the settings that were chosen by cross-validation."""
    found = {row["method"]: row.get("setting") for row in rows if row["method"] in CANDIDATES}
    texts = [
        f"{method} {', '.join(f'{name}={value}' for name, value in setting.items()) or 'as it is by default'}"
        for method, setting in found.items()
        if setting is not None
    ]
    return f"Settings chosen by cross-validation: {'; '.join(texts)}. " if texts else ""


def write(options, results, sources):
    """Write a table for each source, and README's where asked."""
    where = describe_machine(results.stamp["machine"])
    (options.out / "rivals_machine.txt").write_text(where + "\n")
    for name, (n_train, n_new) in sources.items():
        rows = [row for row in results.rows if row["source"] == name]
        if not rows:
            continue
        header, lines = wide(rows, n_train)
        with (options.out / f"rivals_{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])
        if options.readme:
            seconds = min(options.seconds)
            kept = [[line[0], *line[2:]] for line in lines if line[1] in ("", f"{seconds:g}")]
            seeds = len({row["seed"] for row in rows})
            draws = max(row["draw"] for row in rows) + 1
            minutes = sum(row["took"] for row in rows) / 60
            text = [
                markdown(["", *header[2:]], kept),
                conclusions(rows, seconds, n_train),
                f"Accuracy in percent on {n_new:,} other images: mean ± standard deviation over {seeds} "
                f"seeds of the weights, each with {draws} draws of the labels (supervised network: one). "
                f"{seconds:g} s of training for each network, {minutes:.0f} minutes for the table. "
                f"{chosen_settings(rows)}`{COMMAND}` on {where}",
            ]
            text = "\n\n".join(text)
            put(options.readme, f"rivals {name}", text)


def main(arguments=None):
    """Measure all sources, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sources", nargs="+", metavar="NAME=FOLDER", help="images; cifar10 alone is downloaded"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        default=["5", "20", "100", "all"],
        help='labels per class; "all" (5 20 100 all)',
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[40.0], help="for each training (40)")
    parser.add_argument("--epochs", type=int, help="of each training, instead: shows that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--draws", type=int, default=5, help="of a part of the labels, with each seed (5)")
    parser.add_argument("--methods", nargs="*", help="only those that begin with one of these words")
    parser.add_argument("--n-images", type=int, default=10_000, help="training images at most (10000)")
    parser.add_argument("--n-scored", type=int, default=4_000, help="of train, held out; or of test (4000)")
    parser.add_argument("--n-centres", type=int, default=200, help="of the k-means of patches (200), or 400")
    parser.add_argument("--test", action="store_true", help="score on the folder test")
    parser.add_argument(
        "--imagenet",
        metavar="WEIGHTS",
        help="frozen features to compare with: torchvision:NAME, timm:NAME, or a checkpoint",
    )
    parser.add_argument("--readme", type=Path, help="file whose tables between markers are written anew")
    parser.add_argument("--out", type=Path, default=Path("rivals"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.labels = [None if count == "all" else int(count) for count in options.labels]
    stamp = {"machine": machine("cpu"), "scored_on": "test" if options.test else "validation"}
    results, sizes = Results(options.out, stamp), {}
    for source in options.sources:
        name, X, y, X_new, y_new = images_of(source, options)
        sizes[name] = len(y), len(y_new)
        print(f"{name}: {len(y):,} training images, {len(y_new):,} to score on", flush=True)
        for _ in measure(options, results, (name, X, y, X_new, y_new)):
            write(options, results, sizes)
    write(options, results, sizes)  # also where everything had been measured


if __name__ == "__main__":
    main()
