"""The scripts for those who have published weights and data sets run, on small ones that are made here."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from sklearn_simclr.encoders import resnet
from sklearn_simclr.encoders.weights._names import google_names

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(Path(__file__).parent / "encoders"))
import bundle_writer as writer  # noqa: E402


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint as SimCLR's authors write them: a narrow ResNet-18, a classifier of three classes."""
    monkeypatch.setattr(resnet, "BASE_CHANNELS", 4)
    torch.manual_seed(0)
    network, classifier = resnet.ResNet(18, stem="small", convolve_first=True), nn.Linear(32, 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    names = google_names(network, None, classifier)
    parts = {"encoder": network, "classifier": classifier}
    tensors = {f"{n}.{k}": v.detach() for n, m in parts.items() for k, v in m.state_dict().items()}
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    variables = {theirs: tensors[ours].numpy() for ours, theirs in names.items()}
    variables = {name: values.transpose(axes[values.ndim]) for name, values in variables.items()}
    writer.write_bundle(tmp_path / "model.ckpt", {**variables, "global_step": np.array(7)})
    return tmp_path / "model.ckpt"


@pytest.fixture
def photographs(tmp_path):
    """Eight images of each of three classes in train and in test, which are red, green and blue."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for colour, name in enumerate(["n01", "n02", "n03"]):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(8):
                image = rng.integers(0, 100, (32, 32, 3))
                image[..., colour] += 150
                Image.fromarray(image.astype(np.uint8)).save(
                    tmp_path / "data" / part / name / f"{number}.png"
                )
    return tmp_path / "data"


def test_top_1_of_a_checkpoint_is_that_of_its_classifier(checkpoint, photographs, tmp_path, capsys):
    from sklearn_simclr import load_image_paths, load_pretrained
    from sklearn_simclr.images import load_images

    module, out = script("imagenet_top1"), tmp_path / "top1.csv"
    module.main(["--folder", str(photographs / "test"), "--weights", str(checkpoint), "--published", "69.1",
                 "--output", str(out)])  # fmt: skip
    (line,) = csv.DictReader(out.read_text().splitlines())
    pretrained = load_pretrained(checkpoint)
    found = load_image_paths(photographs / "test")
    X = torch.from_numpy(load_images(found.data, image_size=None)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        answers = pretrained.logits(X.float() / 255).argmax(1).numpy()
    y = np.unique(found.target, return_inverse=True)[1]
    assert line["top-1 (%)"] == f"{100 * np.mean(answers == y):.1f}"
    assert (line["images"], line["published (%)"]) == ("24", "69.1") and "top-1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="knows 3 classes, the folder has 2"):
        module.top1(checkpoint, found.data[:16], y[:16])


def test_the_table_of_transfer_over_folders(checkpoint, photographs, tmp_path):
    module, out = script("transfer_folders"), tmp_path / "table"
    module.main(
        ["--data", f"one={photographs}", f"two={photographs}:mean_per_class", "--size", "32", "--steps", "1"]
        + ["--encoders", f"SimCLR={checkpoint}", f"again={checkpoint}", "--output", str(out)]
    )
    table = pd.read_csv(out / "table.csv", index_col=0)
    rows = ["SimCLR, linear", "SimCLR, fine_tuned", "random weights", "again, linear", "again, fine_tuned"]
    assert table.index.tolist() == rows and table.columns.tolist() == ["one", "two"]
    # The same weights have the same numbers, and neither is significantly worse.
    assert table.loc["SimCLR, linear", "one"] == table.loc["again, linear", "one"]
    assert table.loc["SimCLR, linear", "one"].startswith("**")
    scores = pd.read_csv(out / "scores.csv")
    assert scores.groupby("data")["metric"].first().to_dict() == {"one": "accuracy", "two": "mean_per_class"}
