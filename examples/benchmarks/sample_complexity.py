"""How separable digits are in two dimensions, and how the mean classifier errs with few tuples.

The second table: a linear representation of the pixels, of length 1, is trained by the contrastive loss of
CURL on M tuples of training images. For test images: its contrastive loss, the loss and the error of the mean
classifier, and the bound of lemma 4.3 on that loss.

    python examples/benchmarks/sample_complexity.py --out docs/benchmarks
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from run import describe_machine, machine
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.theory import (
    collision_probability,
    mean_classifier,
    pair_bound,
    sample_tuples,
    supervised_loss,
    unsupervised_loss,
)


def accuracy_in_the_plane(H, y, H_test, y_test):
    """Return the test accuracy of a linear classifier of two principal components."""
    model = make_pipeline(StandardScaler(), PCA(2), LogisticRegression(max_iter=1000))
    return model.fit(H, y).score(H_test, y_test)


def train_on_tuples(X, tuples, steps, seed):
    """Return a matrix that maps pixels to 8 dimensions, trained by the logistic loss on tuples."""
    torch.manual_seed(seed)
    weight = (0.1 * torch.randn(X.shape[1], 8)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.01)
    pixels = torch.from_numpy(X).float()
    anchor = torch.from_numpy(tuples.anchor)
    positive, negative = (torch.from_numpy(t) for t in (tuples.positive[:, 0], tuples.negative[:, 0, 0]))
    for _ in range(steps):
        rows = torch.randint(len(anchor), (512,))
        h = 2 * torch.nn.functional.normalize(pixels @ weight, dim=1)
        margin = (h[anchor[rows]] * (h[positive[rows]] - h[negative[rows]])).sum(1)
        optimizer.zero_grad()
        torch.nn.functional.softplus(-margin).mean().backward()
        optimizer.step()
    return weight.detach().numpy()


def represent(X, weight):
    """Return representations of length 2."""
    H = X @ weight
    return 2 * H / np.linalg.norm(H, axis=1, keepdims=True)


def main(arguments=None):
    """Train, and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuples", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--out", type=Path, default=Path("sample_complexity"), help="folder for the results")
    options = parser.parse_args(arguments)
    digits = load_digits()
    images, images_test, y, y_test = train_test_split(
        digits.images, digits.target, test_size=500, stratify=digits.target, random_state=0
    )
    X, X_test = (part.reshape(len(part), -1) for part in (images, images_test))
    plane = [["representation", "accuracy in two dimensions (%)"]]
    plane.append(["pixels", f"{100 * accuracy_in_the_plane(X, y, X_test, y_test):.1f}"])
    for name, epochs in (("untrained network", 0), (f"SimCLR, {options.epochs} epochs", options.epochs)):
        simclr = SimCLRTransformer(max_epochs=epochs, random_state=0).fit(images)
        H, H_test = simclr.transform(images), simclr.transform(images_test)
        plane.append([name, f"{100 * accuracy_in_the_plane(H, y, H_test, y_test):.1f}"])
    scale = StandardScaler(with_std=False).fit(X)
    X, X_test = scale.transform(X) / 16, scale.transform(X_test) / 16
    tau = collision_probability(np.bincount(y_test) / len(y_test))
    pairs = sample_tuples(y_test, 50_000, random_state=0)
    few = [["tuples", "contrastive loss (bits)", "bound (bits)", "loss of the mean classifier (bits)",
            "its error in ten classes (%)"]]  # fmt: skip
    for n_tuples in options.tuples:
        rows = []
        for seed in range(options.seeds):
            tuples = sample_tuples(y, n_tuples, random_state=seed)
            H = represent(X_test, train_on_tuples(X, tuples, options.steps, seed))
            loss = float(unsupervised_loss(H, pairs).total)
            means, classes = mean_classifier(H, y_test)
            error = 100 * float((classes[(H @ means.T).argmax(axis=1)] != y_test).mean())
            rows.append([loss, pair_bound(loss, tau).total, supervised_loss(H, y_test), error])
        *losses, error = np.mean(rows, axis=0)
        few.append([f"{n_tuples:,}", *(f"{loss:.3f}" for loss in losses), f"{error:.1f}"])
    options.out.mkdir(parents=True, exist_ok=True)
    for name, lines in (("two_dimensions", plane), ("tuples", few)):
        print(*(", ".join(line) for line in lines), sep="\n")
        with (options.out / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    (options.out / "tuples_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")


if __name__ == "__main__":
    main()
