"""Code as users write it; type checkers read it, nobody runs it. ``make types`` does.

A mistake that mypy misses leaves an unused "type: ignore", which is an error, too.
"""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import sklearn_simclr
from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    LabelFractionClassifier,
    LabelFractionDisplay,
    LinearEvaluationClassifier,
    RepresentationReport,
    SimCLRClassifier,
    SimCLRTransformer,
    label_fraction_curve,
    load_encoder,
    representation_report,
)
from sklearn_simclr.encoders import Pretrained
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.theory import Bound, pair_bound


def representations(X: NDArray[np.uint8], y: NDArray[np.int64]) -> None:
    simclr = SimCLRTransformer(max_epochs=5, optimizer="lars", augmentation=Augmentation(), random_state=0)
    assert_type(simclr, SimCLRTransformer)
    assert_type(simclr.fit(X), SimCLRTransformer)
    assert_type(simclr.fit(X, y).transform(X), NDArray[np.float32])
    assert_type(simclr.fit_transform(X), NDArray[np.float32])
    assert_type(simclr.score(X), float)
    assert_type(simclr.encoder_, torch.nn.Module)
    assert_type(simclr.image_shape_, tuple[int, ...])
    assert_type(AutoencoderTransformer().fit(X), AutoencoderTransformer)
    assert_type(sklearn_simclr.HOGTransformer().fit_transform(X), NDArray[np.float32])


def forms_of_images(folder: Path, pixels: torch.Tensor, table: pd.DataFrame) -> None:
    simclr = SimCLRTransformer()
    simclr.fit(sorted(folder.iterdir()))
    simclr.fit(["a.png", "b.png"])
    simclr.fit([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))])
    simclr.fit(pixels)
    simclr.fit(table)
    simclr.fit([[0, 1], [1, 0]])


def labels(X: NDArray[np.uint8]) -> None:
    classifier = SimCLRClassifier(SimCLRTransformer(), class_weight="balanced").fit(X, ["cat", None, "dog"])
    assert_type(classifier, SimCLRClassifier)
    assert_type(classifier.predict_proba(X), NDArray[np.float64])
    assert_type(classifier.predict(X), NDArray[Any])
    assert_type(LinearEvaluationClassifier().fit(X, [0, 1, 0]), LinearEvaluationClassifier)
    fraction = LabelFractionClassifier(LogisticRegression(), 0.1).fit(X, [0, 1, 0])
    assert_type(fraction, LabelFractionClassifier)
    assert_type(fraction.predict(X), NDArray[Any])


def studies(X: NDArray[np.uint8], y: NDArray[np.int64]) -> None:
    pipeline = make_pipeline(SimCLRTransformer(), LogisticRegression())
    results = label_fraction_curve({"simclr": pipeline}, X, y, fractions=[0.01, 0.1])
    assert_type(results, pd.DataFrame)
    assert_type(LabelFractionDisplay.from_results(results), LabelFractionDisplay)
    assert_type(representation_report(SimCLRTransformer().fit(X), X), RepresentationReport)


def parts(z: torch.Tensor) -> None:
    assert_type(nt_xent(z, temperature=0.1), torch.Tensor)
    assert_type(load_encoder(Path("digits.safetensors")), Pretrained)
    assert_type(load_encoder("digits.safetensors").encoder, torch.nn.Module)
    assert_type(pair_bound(0.55, tau=0.1), Bound)


def mistakes(X: NDArray[np.uint8]) -> None:
    SimCLRTransformer(optimizer="adam")  # type: ignore[arg-type]  # no such optimizer
    SimCLRTransformer(batch_size="all")  # type: ignore[arg-type]  # an int
    SimCLRTransformer(epochs=5)  # type: ignore[call-arg]  # max_epochs
    SimCLRTransformer().transform(X).fit(X)  # type: ignore[attr-defined]  # an array, not an estimator
    SimCLRClassifier().fit(X)  # type: ignore[call-arg]  # labels are missing
    nt_xent(X)  # type: ignore[arg-type]  # a tensor
    sklearn_simclr.SimCLR()  # type: ignore[attr-defined]  # no such name
