"""Print a digest of the weights that every estimator learns from fixed images: equal digests, equal training.

Run it on two commits, on one machine, with one number of threads::

    OMP_NUM_THREADS=1 python examples/benchmarks/fingerprints.py [FOLDER] > before.txt

FOLDER holds photographs of 32 pixels (CIFAR-10), of which the first 500 are taken; without it only digits.
"""

import argparse
import hashlib
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import sklearn_simclr as ss


def digest(estimator):
    """Return 16 hexadecimal digits of all learnt numbers."""
    sha = hashlib.sha256()
    for name in sorted(vars(estimator)):
        value = getattr(estimator, name)
        if hasattr(value, "state_dict"):
            for key, tensor in value.state_dict().items():
                sha.update(f"{name}.{key}".encode())
                sha.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        elif name in ("bound_", "risk_", "kl_"):
            sha.update(repr((name, value)).encode())
    return sha.hexdigest()[:16]


def estimators(y):
    """Yield (name, a function that fits and returns an estimator)."""
    few = np.where(np.arange(len(y)) < 100, y, -1)
    short = {"random_state": 0, "device": "cpu", "batch_size": 64}

    def pretrained(**options):
        return ss.SimCLRTransformer(max_epochs=1, **{**short, **options})

    def resumed(X):
        return pretrained().partial_fit(X[:128]).partial_fit(X[128:256])

    def warm(X):
        return pretrained(warm_start=True).fit(X).fit(X)

    yield "SimCLRTransformer", lambda X: pretrained().fit(X)
    yield "SimCLRTransformer micro", lambda X: pretrained(micro_batch_size=16).fit(X)
    yield "SimCLRTransformer lars", lambda X: pretrained(optimizer="lars", loss="nt_logistic").fit(X)
    yield "SimCLRTransformer resnet18", lambda X: pretrained(encoder="resnet18").fit(X[:128])
    yield "SimCLRTransformer partial_fit", resumed
    yield "SimCLRTransformer warm_start", warm
    yield "SupervisedTransformer", lambda X: ss.SupervisedTransformer(max_epochs=2, **short).fit(X, y)
    yield (
        "SupervisedTransformer early_stopping",
        lambda X: ss.SupervisedTransformer(max_epochs=3, early_stopping=True, **short).fit(X, y),
    )
    yield "AutoencoderTransformer", lambda X: ss.AutoencoderTransformer(max_epochs=1, **short).fit(X)
    yield (
        "AutoencoderTransformer views",
        lambda X: ss.AutoencoderTransformer(max_epochs=1, augmentation=ss.Augmentation(), **short).fit(X),
    )
    yield "SimCLRClassifier", lambda X: ss.SimCLRClassifier(pretrained(), max_epochs=2, **short).fit(X, few)
    yield (
        "SimCLRClassifier head_layer=1, early_stopping",
        lambda X: ss.SimCLRClassifier(
            pretrained(), head_layer=1, max_epochs=3, early_stopping=True, **short
        ).fit(X, few),
    )
    yield (
        "DistilledClassifier",
        lambda X: ss.DistilledClassifier(
            ss.SimCLRClassifier(pretrained(), max_epochs=2, **short), alpha=0.7, max_epochs=1, **short
        ).fit(X, few),
    )
    yield (
        "DistilledClassifier image",
        lambda X: ss.DistilledClassifier(
            ss.SupervisedTransformer(max_epochs=1, **short), teacher_views="image", max_epochs=1, **short
        ).fit(X, few),
    )
    bound = {"max_epochs": 2, "random_state": 0, "device": "cpu", "n_posterior_samples": 3}
    yield "PACBayesContrastiveTransformer", lambda X: ss.PACBayesContrastiveTransformer(**bound).fit(X, y)
    yield (
        "PACBayesContrastiveTransformer views",
        lambda X: ss.PACBayesContrastiveTransformer(n_negatives=2, block_size=2, **bound).fit(X),
    )


def main():
    """Print one line per data set and estimator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    digits = load_digits()
    sets = {"digits": (digits.images[:600], digits.target[:600])}
    if arguments.folder is not None:
        from PIL import Image

        paths = sorted(Path(arguments.folder).rglob("*.jpg"), key=lambda path: path.name)[:500]
        classes, y = np.unique([path.parent.name for path in paths], return_inverse=True)
        sets["photographs"] = (np.stack([np.asarray(Image.open(path)) for path in paths]), y)
    for data, (X, y) in sets.items():
        for name, fit in estimators(y):
            print(f"{data:12} {name:48} {digest(fit(X))}", flush=True)


if __name__ == "__main__":
    main()
