"""The scripts on photographs run, and go on where they were."""

import runpy
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what so few epochs do not learn, and that no screen shows figures
def test_the_lesson_on_photographs_of_clothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "clothing-dataset-small/validation")
    for copy in ("a", "b", "c"):  # 2% of the labels are one per class, at least
        for image in folder.glob("*/*.png"):
            to = tmp_path / "clothing-dataset-small" / "train" / image.parent.name / (copy + image.name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, to)
    lesson = (EXAMPLES / "photographs_of_clothing.py").read_text(encoding="utf-8")
    assert "max_epochs=10" in lesson
    exec(lesson.replace("max_epochs=10", "max_epochs=1"), {"__name__": "__main__"})
    assert "180 photographs for training, 60 for testing\nblue, green, red\n" in capsys.readouterr().out
    assert {"curve", "neighbours"} <= set(plt.get_figlabels())
    plt.close("all")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what so few epochs do not learn
def test_fine_tuning_and_distillation(folder, tmp_path, monkeypatch):
    output = tmp_path / "tuned"
    script = str(EXAMPLES / "cifar10_fine_tuning.py")
    arguments = ["--folder", folder, "--image-size", 8, "--max-epochs", 1, "--output", output, "--fractions",
                 0.125, 1.0, "--draws", 2, "--tuning-epochs", 3, "--teaching-epochs", 1]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(script, run_name="__main__")
    results = pd.read_csv(output / "fine_tuning.csv")
    names = results["estimator"].unique().tolist()
    assert names[:4] == ["supervised", "linear on h", "fine-tuned from layer 0", "fine-tuned from layer 1"]
    assert names[4:] == ["self-distilled", "distilled to compactx0.5"]
    assert len(results) == len(names) * 2 * 2 and results["score"].between(0, 1).all()
    table = pd.read_csv(output / "accuracy.csv", index_col=0)
    assert table.index.tolist() == names
    assert table.columns[:2].tolist() == ["0.125 (6)", "1 (48)"]
    # The gain is that of the means.
    beside = table["1, difference to the teacher"].astype(float)
    means = 100 * results[results["fraction"] == 1].groupby("estimator")["score"].mean()
    assert (beside - (means - means["fine-tuned from layer 1"])[names]).abs().max() < 0.06
    with Image.open(output / "fine_tuning.png") as figure:
        assert min(figure.size) > 300
