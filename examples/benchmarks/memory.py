"""Memory: the peak of fit, transform and the tools above what the process held before, and its bound.

The promise for the defaults and images of up to 512 pixels: 1 GB, and the bytes of the uint8 images if the
package reads them from files. Each case runs in a process of its own.

    python examples/benchmarks/memory.py                  # all cases
    python examples/benchmarks/memory.py transform report # those whose names contain one of the words
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from timing import PeakMemory, in_fresh_process

MB = 1e6

# Name of the case: a function of this module, its arguments, and the bound in MB.
CASES = {
    "untrained fit, 2,048 x 96 px": ("fit", {"n": 2048, "side": 96, "epochs": 0}, 300),
    "untrained fit, 2,048 x 64 px, 13 channels": (
        "fit",
        {"n": 2048, "side": 64, "channels": 13, "epochs": 0},
        300,
    ),
    "untrained fit, 64 x 16 px, 512 channels": (
        "fit",
        {"n": 64, "side": 16, "channels": 512, "epochs": 0},
        500,
    ),
    "untrained fit, 2,048 x 32 px, 100 channels": (
        "fit",
        {"n": 2048, "side": 32, "channels": 100, "epochs": 0},
        500,
    ),
    "untrained fit, 91 x 224 px, 16 channels": (
        "fit",
        {"n": 91, "side": 224, "channels": 16, "epochs": 0},
        300,
    ),
    "untrained fit, 17 x 512 px, 64 channels": (
        "fit",
        {"n": 17, "side": 512, "channels": 64, "epochs": 0},
        500,
    ),
    "untrained fit, 1,024 x 96 px, float64": (
        "fit",
        {"n": 1024, "side": 96, "epochs": 0, "dtype": "float64"},
        300,
    ),
    "fit, 512 x 64 px": ("fit", {"n": 512, "side": 64}, 1000),
    "fit, 512 x 128 px": ("fit", {"n": 512, "side": 128}, 1000),
    "fit, 512 x 224 px": ("fit", {"n": 512, "side": 224}, 1000),
    "fit, 256 x 512 px": ("fit", {"n": 256, "side": 512}, 1000),
    "fit, 512 x 64 px, 13 channels": ("fit", {"n": 512, "side": 64, "channels": 13}, 1000),
    "fit, 3,000 files, 224 px": ("fit_files", {"n": 3000, "side": 224}, 1000 + 3000 * 224 * 224 * 3 / MB),
    "transform, 200 x 224 px": ("transform", {"n": 200, "side": 224}, 300),
    "transform, 1 x 2,048 px, HOG": ("transform", {"n": 1, "side": 2048, "estimator": "hog"}, 1000),
    "transform, 1 x 2,048 px, ResNet-18": ("transform", {"n": 1, "side": 2048, "encoder": "resnet18"}, 1500),
    "transform, 40 x 224 px, ResNet-50": ("transform", {"n": 40, "side": 224, "encoder": "resnet50"}, 700),
    "score, 256 x 224 px": ("score", {"n": 256, "side": 224}, 500),
    "report, 200 x 224 px": ("report", {"n": 200, "side": 224}, 500),
    "autoencoder, 8 x 512 px": ("autoencoder", {"n": 8, "side": 512}, 1000),
    "AugmentationDisplay, 4 x 2,048 px": ("display", {"n": 4, "side": 2048}, 1300),
    "curl_logistic, 2 x 8,192": ("curl", {"n": 8192}, 300),
    "key and check, 4,096 x 96 px, float32": ("key", {"n": 4096, "side": 96}, 100),
    "data set of tensors, 1,024 x 96 px": (
        "dataset",
        {"n": 1024, "side": 96},
        100 + 1024 * 96 * 96 * 3 * 4 / MB,
    ),
    "linear evaluation, 2,000 classes": ("linear", {"n": 10000, "d": 128, "classes": 2000}, 1000),
}


def images(n, side, channels=3, dtype="uint8", seed=0):
    """Return smooth random images."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 8, 8, channels), dtype=np.uint8)
    rows = np.minimum(np.arange(side) * 8 // side, 7)
    X = np.empty((n, side, side, channels), dtype=dtype)
    for image, few in zip(X, small, strict=True):
        image[:] = few[rows][:, rows]
    return X if dtype == "uint8" else np.divide(X, 255, out=X)


def peak(work):
    """Return the peak of a call in MB."""
    with PeakMemory() as memory:
        work()
    return memory.bytes / MB


def simclr(encoder="auto", **parameters):
    """Return the estimator, and import what it needs."""
    import skorch.callbacks  # noqa: F401 (counted among what was there before)

    from sklearn_simclr import SimCLRTransformer

    return SimCLRTransformer(encoder, image_shape="HWC", random_state=0, **parameters)


def fit(n, side, channels=3, dtype="uint8", epochs=1):
    """Fit to arrays."""
    model, X = simclr(max_epochs=epochs), images(n, side, channels, dtype)
    return peak(lambda: model.fit(X))


def fit_files(n, side):
    """Fit to JPEG files of 400 x 533 pixels."""
    from PIL import Image

    model = simclr(max_epochs=1, image_size=side)
    model.set_params(image_shape="auto")
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{k}.jpg")) for k in range(100)]
        for path, image in zip(paths, images(100, 533), strict=True):
            Image.fromarray(image[:400]).save(path)
        return peak(lambda: model.fit(np.resize(np.array(paths, dtype=object), n)))


def fitted(n, side, encoder="auto", estimator="simclr"):
    """Return a fitted estimator and the images."""
    X = images(n, side)
    if estimator == "hog":
        from sklearn_simclr import HOGTransformer

        return HOGTransformer(image_shape="HWC").fit(X), X
    few = images(2, side, seed=1)
    return simclr(encoder, max_epochs=0).fit(few), X


def transform(n, side, encoder="auto", estimator="simclr"):
    """Transform images."""
    model, X = fitted(n, side, encoder, estimator)
    return peak(lambda: model.transform(X))


def score(n, side):
    """Score an encoder on images."""
    model, X = fitted(n, side)
    return peak(lambda: model.score(X))


def report(n, side):
    """Report on an encoder."""
    from sklearn_simclr.inspection import representation_report

    model, X = fitted(n, side)
    return peak(lambda: representation_report(model, X, np.arange(n) % 5))


def autoencoder(n, side):
    """Fit an autoencoder."""
    import skorch.callbacks  # noqa: F401

    from sklearn_simclr import AutoencoderTransformer

    model, X = AutoencoderTransformer(max_epochs=1, image_shape="HWC", random_state=0), images(n, side)
    return peak(lambda: model.fit(X))


def display(n, side):
    """Draw views of images."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot  # noqa: F401

    from sklearn_simclr import Augmentation
    from sklearn_simclr.inspection import AugmentationDisplay

    X = images(n, side)
    return peak(lambda: AugmentationDisplay.from_augmentation(Augmentation(), X, image_shape="HWC"))


def curl(n):
    """Compute a loss of CURL and its gradient."""
    import torch

    from sklearn_simclr.losses import curl_logistic

    z = torch.randn(2 * n, 64, requires_grad=True)
    curl_logistic(z[:512]).backward()
    return peak(lambda: curl_logistic(z).backward())


def key(n, side):
    """Check images and compute the key under which a cache keeps what was learnt from them."""
    from sklearn_simclr.images import image_format, image_source
    from sklearn_simclr.images.arrays import checked_numbers

    X = images(n, side, dtype="float32")

    def work():
        checked_numbers(X)
        image_source(X, image_format(X, image_shape="HWC")).content()

    return peak(work)


def dataset(n, side):
    """Read a data set that gives tensors."""
    import torch

    from sklearn_simclr import PixelTransformer

    class Tensors(torch.utils.data.Dataset):
        def __len__(self):
            return n

        def __getitem__(self, k):
            return torch.full((3, side, side), k / n), 0

    return peak(lambda: PixelTransformer().fit(Tensors()))


def linear(n, d, classes):
    """Choose a penalty among three by linear evaluation."""
    from sklearn_simclr import LinearEvaluationClassifier

    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    X = (rng.normal(size=(classes, d))[y] + 2 * rng.normal(size=(n, d))).astype(np.float32)
    return peak(lambda: LinearEvaluationClassifier(random_state=0).fit(X, y))


def main():
    """Measure the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of the names of cases; none is all cases")
    words = parser.parse_args().words
    print(f"{'case':45} {'peak (MB)':>10} {'bound (MB)':>10}")
    for name, (function, arguments, bound) in CASES.items():
        if words and not any(word.lower() in name.lower() for word in words):
            continue
        found = in_fresh_process("memory", function, **arguments)
        print(f"{name:45} {found:10.0f} {bound:10.0f}{'' if found <= bound else '  above'}", flush=True)


if __name__ == "__main__":
    main()
