"""The scripts on photographs run, and go on where they were."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ESTIMATORS = ["raw pixels", "PCA", "random encoder", "autoencoder", "supervised", "SimCLR"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty images of three classes, which are red, green and blue: pixels tell them apart."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for colour, name in enumerate(["red", "green", "blue"]):
        (folder / name).mkdir()
        for number in range(20):
            image = rng.integers(0, 80, (20, 16, 3))
            image[..., colour] += 150
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def run(folder, output, *options, script="cifar10_label_fractions", table="label_fractions"):
    arguments = ["--folder", folder, "--image-size", 8, "--max-epochs", 1, "--output", output, *options]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{script}.py"), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, pd.read_csv(output / f"{table}.csv")


@pytest.mark.slow
def test_the_study_of_a_folder(folder, tmp_path):
    text, results = run(folder, tmp_path / "study", "--fractions", 1.0, 0.125, "--draws", 2)
    assert "48 training images, 12 test images of 3 classes, (8, 8, 3)" in text
    # A row an estimator, fraction and draw, with the labels that were drawn.
    assert results["estimator"].unique().tolist() == ESTIMATORS
    expected = {(fraction, number): 2 for fraction, number in ((0.125, 6), (1.0, 48))}
    for name in ESTIMATORS:
        rows = results[results["estimator"] == name]
        assert rows.groupby(["fraction", "n_labels"]).size().to_dict() == expected
    assert results["score"].between(0, 1).all()
    pixels = results[results["estimator"] == "raw pixels"]
    assert (pixels["score"] == 1.0).all()

    table = pd.read_csv(tmp_path / "study" / "accuracy.csv", index_col=0)
    assert table.columns.tolist() == ["0.125 (6)", "1 (48)"]
    assert table.loc["raw pixels"].tolist() == ["100.0 ± 0.0"] * 2
    assert "100.0 ± 0.0" in text
    saved = pd.read_csv(tmp_path / "study" / "label_saving.csv", index_col=0)
    assert saved.index.tolist() == ESTIMATORS[:-1]
    with Image.open(tmp_path / "study" / "label_fractions.png") as figure:
        assert min(figure.size) > 300

    # Again with a further draw: what was fitted is not fitted again, as its times tell.
    _, more = run(folder, tmp_path / "study", "--fractions", 1.0, 0.125, "--draws", 3)
    again = more[more["draw"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, results)
    assert len(more) == len(results) * 3 // 2


@pytest.mark.slow
def test_folders_train_and_test_and_fewer_images(folder, tmp_path):
    split = tmp_path / "split"
    for part in ("train", "test"):
        (split / part).mkdir(parents=True)
        for name in ("red", "green"):
            (split / part / name).symlink_to(folder / name)
    text, results = run(
        split, tmp_path / "out", "--n-unlabelled", 20, "--n-test", 10, "--fractions", 1, "--draws", 1
    )
    assert "20 training images, 10 test images of 2 classes" in text
    assert (results["n_labels"] == 20).all()


@pytest.mark.slow
def test_fine_tuning_and_distillation(folder, tmp_path):
    options = ("--fractions", 0.125, 1.0, "--draws", 2, "--tuning-epochs", 3, "--teaching-epochs", 1)
    output = tmp_path / "tuned"
    text, results = run(folder, output, *options, script="cifar10_fine_tuning", table="fine_tuning")
    names = results["estimator"].unique().tolist()
    assert names[:4] == ["supervised", "linear on h", "fine-tuned from layer 0", "fine-tuned from layer 1"]
    assert names[4:] == ["self-distilled", "distilled to compactx0.5"]
    assert len(results) == len(names) * 2 * 2 and results["score"].between(0, 1).all()
    table = pd.read_csv(output / "accuracy.csv", index_col=0)
    assert table.index.tolist() == names
    assert table.columns[:2].tolist() == ["0.125 (6)", "1 (48)"]
    # The gain is that of the means.
    beside = table["1, beside the teacher"].astype(float)
    means = 100 * results[results["fraction"] == 1].groupby("estimator")["score"].mean()
    assert (beside - (means - means["fine-tuned from layer 1"])[names]).abs().max() < 0.06
    with Image.open(output / "fine_tuning.png") as figure:
        assert min(figure.size) > 300
