"""The benchmarks run at tiny sizes, and their arithmetic of ratios, targets and memory is right."""

import csv
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch

from sklearn_simclr import SimCLRTransformer

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("lightly", "kornia", "pytorch_metric_learning")


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    """Import the scripts as they import each other, and without the peers: they cost seconds and warn."""
    import importlib

    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    timing = importlib.import_module("timing")
    present = timing.optional
    monkeypatch.setattr(timing, "optional", lambda name: None if name in PEERS else present(name))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "examples")):
            del sys.modules[name]


@pytest.fixture
def quick():
    from harness import Settings

    return Settings(quick=True)


def test_interleaved_takes_turns_and_warms_up():
    from timing import interleaved

    turns = []
    seconds = interleaved({name: lambda name=name: turns.append(name) or 2 for name in "ab"}, 3)
    assert turns == list("ab" * 4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_interleaved_divides_by_the_items():
    from timing import interleaved

    def work():
        time.sleep(0.05)
        return 100

    (value,) = interleaved({"a": work}, 1, warm_up=False)["a"]
    assert 0.05 / 100 <= value < 0.05


def test_spread_is_of_ratios_within_rounds():
    from timing import ratio

    # A machine twice as slow in the second round changes no ratio.
    spread = ratio([3.0, 6.0, 3.0], [1.0, 2.0, 1.0])
    assert (spread.low, spread.median, spread.high) == (3.0, 3.0, 3.0)
    values = np.arange(1.0, 8.0)
    spread = ratio(values, np.ones(7))
    assert (spread.low, spread.median, spread.high) == pytest.approx(
        tuple(np.quantile(values, (0.25, 0.5, 0.75)))
    )
    assert ratio([5.0], [2.0]).high == 2.5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the peak of the whole life is known")
def test_peak_memory_sees_what_was_freed_again(forked):
    # In a process of its own: what other tests held and give back now would hide it.
    first, second, logits = forked.run_alone(peaks)
    assert 45e6 < first < 75e6
    assert second < 5e6
    # Logits of 2048 x 2048 in float32 are 16 MiB.
    assert logits > 16 * 2**20


def peaks():
    """Return the peaks of an array of 50 MB, of one of 8 bytes, and of a dense loss of 1,024 pairs."""
    sys.path.insert(0, str(ROOT / "examples" / "benchmarks"))
    from loss import peak_memory
    from timing import PeakMemory

    found = []
    for size in (50_000_000, 8):
        with PeakMemory() as memory:
            np.ones(size // 8).sum()
        found.append(memory.bytes)
    return [*found, peak_memory(name="dense torch", n=1024, device="cpu")]


def test_rows_know_whether_the_target_is_met():
    from harness import cost_row, missing_row, speed_row

    faster = speed_row("c", "case", "peer", ours=[1.0], theirs=[3.0], target=">= 2")
    assert (faster.ratio, faster.ours, faster.verdict) == (3.0, 1.0, "met")
    assert speed_row("c", "case", "peer", [1.0], [1.5], ">= 2").verdict == "missed"
    cheaper = cost_row("c", "case", "peer", "s", ours=[1.0], theirs=[4.0], target="<= 0.25")
    assert (cheaper.ratio, cheaper.verdict) == (0.25, "met")
    assert cost_row("c", "case", "peer", "s", [1.1], [4.0], "<= 0.25").verdict == "missed"
    assert cost_row("c", "case", "peer", "s", [1.1], [4.0]).verdict == ""
    row = missing_row("c", "case", "lightly", ">= 2")
    assert row.verdict == "" and row.note == "not run: pip install lightly"


def test_margins_are_above_one_where_targets_are_met():
    from dataclasses import asdict

    from figure import margins
    from harness import cost_row, missing_row, speed_row

    rows = [
        speed_row("c", "case", "peer", [1.0], [3.0], ">= 2"),
        cost_row("c", "case", "peer", "s", [1.0], [2.0], "<= 0.25"),
        missing_row("c", "case", "peer", ">= 2"),
    ]
    assert [round(margin, 3) for _, margin, *_ in margins([asdict(row) for row in rows])] == [1.5, 0.5]


def test_crops_are_photographs():
    from photographs import crops

    images = crops(4, 16)
    assert images.shape == (4, 16, 16, 3) and images.dtype == np.uint8
    assert np.array_equal(images, crops(4, 16)) and not np.array_equal(images, crops(4, 16, seed=1))
    # Neighbouring pixels of noise would differ by 85 on average.
    assert np.abs(np.diff(images.astype(int), axis=2)).mean() < 40


@pytest.mark.parametrize("size", [32, 96])
def test_recipe_of_torchvision_matches_ours(size):
    import recipes

    resolved = recipes.ours(size).resolve((3, size, size))
    steps = recipes.torchvision(size).transforms
    assert tuple(steps[0].scale) == resolved.crop_scale and tuple(steps[0].ratio) == resolved.crop_ratio
    assert steps[2].p == resolved.jitter_probability and steps[3].p == resolved.grayscale_probability
    hue = 0.2 * resolved.color_strength
    assert steps[2].transforms[0].hue == pytest.approx((-hue, hue))
    assert resolved.size == (size, size)
    assert (len(steps) == 6) == (resolved.blur_probability > 0)
    if len(steps) == 6:
        assert steps[4].transforms[0].kernel_size == (9, 9) and resolved.blur_probability == steps[4].p == 0.5


def test_resnet20_has_the_size_of_the_paper():
    from networks import resnet20

    network = resnet20()
    # 269,722 with the classifier of 650; the projections of the two shortcuts add 2,752.
    assert sum(p.numel() for p in network.parameters()) == 269_722 - 650 + 2_752
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_dense_loss_is_ours():
    from loss import losses, projections

    first, second = projections(8, "cpu")
    found = losses()
    assert sorted(found) == ["dense torch", "ours"]
    assert found["ours"](first, second).item() == pytest.approx(
        found["dense torch"](first, second).item(), abs=1e-5
    )


@pytest.mark.parametrize("name", ["fit", "transform"])
def test_comparisons_run(name, quick):
    import importlib

    from harness import describe

    rows = importlib.import_module(name).run(quick)
    assert len(describe(rows)) == len(rows) >= 1
    for row in rows:
        assert (row.ratio is None) == bool(row.note)
        assert row.ratio is None or 0 < row.low <= row.ratio <= row.high
        if not row.note:
            assert row.ours > 0 and row.theirs > 0
    if name == "fit":
        assert [row.peer for row in rows if row.note] == ["lightly"]


def test_import_times_are_those_of_the_statements(quick, monkeypatch):
    import import_time

    statements = {"package": "pass", "estimator": "import time; time.sleep(0.6)", "peer": "pass"}
    assert statements.keys() == import_time.STATEMENTS.keys()
    monkeypatch.setattr(import_time, "STATEMENTS", statements)
    light, heavy = import_time.run(quick)
    assert heavy.ours > max(0.6, heavy.theirs) and heavy.ratio > light.ratio


def test_views_name_the_missing_peers(quick, monkeypatch):
    import views

    # Workers take seconds to start on some systems; without them the same code runs.
    monkeypatch.setattr(views, "loader", lambda data, size: torch.utils.data.DataLoader(data, size))
    monkeypatch.setattr(views, "CASES", {32: views.CASES[32]})
    rows = {row.peer: row for row in views.run(quick)}
    assert rows["torchvision"].ratio > 0
    for peer in ("lightly", "kornia"):
        assert rows[peer].ratio is None and rows[peer].note == f"not run: pip install {peer}"


def test_large_batch_trains_both_ways(quick, monkeypatch):
    import large_batch

    calls = []

    def here(module, function, **arguments):
        calls.append(arguments)
        return getattr(large_batch, function)(**arguments)

    monkeypatch.setattr(large_batch, "in_fresh_process", here)
    monkeypatch.setattr(type(quick), "rounds", lambda settings, usual: 1)
    memory, duration = large_batch.run(quick)
    assert [(call["batch_size"], call["micro_batch_size"]) for call in calls] == [(32, 8), (8, None)]
    assert (memory.target, duration.target) == ("<= 1.3", "<= 1.4")
    assert duration.ratio > 0 and duration.ours > 0


@pytest.mark.slow
def test_losses_and_curves(quick, monkeypatch):
    import growth
    import loss

    # The processes of their own would import the peers that are installed.
    def here(module, function, **arguments):
        return getattr(loss, function)(**arguments)

    monkeypatch.setattr(loss, "in_fresh_process", here)
    monkeypatch.setattr(growth, "in_fresh_process", here)
    rows = loss.run(quick)
    assert {row.peer for row in rows if row.note} == {"lightly", "pytorch-metric-learning"}
    assert all(row.ratio > 0 for row in rows if row.peer == "dense torch")
    panels = {point.panel for point in growth.run(quick)}
    assert panels == {"n", "batch size", "image size", "loss time", "loss memory"}


def test_fresh_process_returns_the_result_and_tells_of_errors():
    from timing import in_fresh_process

    # This module imports no torch, which takes seconds.
    table = in_fresh_process("blocks", "markdown", header=["a", "b"], rows=[[1, "2"]])
    assert table == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    with pytest.raises(RuntimeError, match="no attribute 'nothing'"):
        in_fresh_process("blocks", "nothing")


def test_run_writes_table_numbers_and_figures_and_keeps_what_it_does_not_rerun(tmp_path, monkeypatch, capsys):
    import matplotlib.pyplot as plt
    import run
    import transform
    from harness import point, speed_row

    row = speed_row("transform", "a case", "a peer", [1.0, 2.0], [3.0, 6.0], ">= 2")
    monkeypatch.setattr(transform, "run", lambda settings: [row])
    run.main(["--only", "transform", "--out", str(tmp_path)])
    import import_time

    monkeypatch.setattr(import_time, "run", lambda settings: [point("p", "x", "y", "s", 2.0, [1.0, 2.0])])
    run.main(["--only", "import_time", "--out", str(tmp_path)])
    plt.close("all")
    results = json.loads((tmp_path / "results.json").read_text())
    assert sorted(results["comparisons"]) == ["import_time", "transform"]
    header, line = csv.reader((tmp_path / "results.csv").read_text().splitlines())
    assert dict(zip(header, line, strict=True))["ours / theirs"] == "3"
    assert line[-1] == "met"
    assert {path.name for path in tmp_path.glob("*.svg")} == {"targets.svg", "growth.svg"}
    assert "1 of 1 targets met" in capsys.readouterr().out
    assert str(Path.home()) not in (tmp_path / "machine.txt").read_text()
    # Numbers of another thoroughness do not stand beside these.
    run.main(["--quick", "--only", "transform", "--out", str(tmp_path)])
    plt.close("all")
    assert sorted(json.loads((tmp_path / "results.json").read_text())["comparisons"]) == ["transform"]
    # At tiny sizes there is nothing to meet.
    assert "0 of 0 targets met" in capsys.readouterr().out


@pytest.fixture
def photographs(tmp_path):
    """Forty images of two classes, bright and dark, in train and in test."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, low in (("dark", 0), ("bright", 150)):
            place = tmp_path / "photographs" / part / name
            place.mkdir(parents=True)
            for number in range(100 if part == "train" else 10):
                image = rng.integers(low, low + 100, (12, 12, 3)).astype(np.uint8)
                Image.fromarray(image).save(place / f"{number}.png")
    return tmp_path / "photographs"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_accuracy_is_measured_once_and_has_an_error(photographs, tmp_path, capsys):
    import accuracy

    out = tmp_path / "out"
    arguments = ["--folder", str(photographs), "--times", "--n-images", "60", "--n-scored", "20", "--epochs",
                 "1", "--no-peers", "--batch-size", "20", "--out", str(out)]  # fmt: skip
    # Threads: processes that another test has started do not find the scripts.
    with joblib.parallel_config(backend="threading"):
        accuracy.main([*arguments, "--seeds", "0"])
        (first,) = json.loads((out / "accuracy.json").read_text())["rows"]
        accuracy.main([*arguments, "--seeds", "0", "1"])
    found = json.loads((out / "accuracy.json").read_text())
    assert found["rows"][0] == first and [row["seed"] for row in found["rows"]] == [0, 1]
    assert found["images"] == [60, 20, 12, 12, 3]
    _, line = csv.reader((out / "accuracy.csv").read_text().splitlines())
    assert line[:3] == ["equal steps, settings: paper, 1 epochs", "sklearn-simclr", "2"]

    key = {"equal": "steps", "case": "paper", "epochs": 1, "seconds": 1.0}
    values = {"sklearn-simclr": (50.0, 52.0, 54.0), "lightly": (51.0, 52.0, 50.0)}
    rows = [{**key, "library": name, "accuracy": x} for name, found in values.items() for x in found]
    _, ours, theirs = accuracy.table(rows)
    assert ours[4:] == ["52.0 ± 2.0", "", ""]
    assert theirs[4] == "51.0 ± 1.0" and theirs[5] == f"+1.0 ± {np.sqrt(4 / 3 + 1 / 3):.1f}"


def test_the_loop_of_lightly_takes_the_steps_and_rates_of_ours():
    pytest.importorskip("lightly")
    import argparse

    from accuracy import SETTINGS, Lightly, small_network, with_warmup
    from photographs import crops

    options = argparse.Namespace(workers=0)
    peer = Lightly(small_network, 64, 64, crops(8, 12), 0, options, 4, **SETTINGS["paper"])
    rates = []
    peer.optimizer.register_step_pre_hook(
        lambda optimizer, *args: rates.append(optimizer.param_groups[0]["lr"])
    )
    peer.fit(with_warmup, epochs=3)
    np.testing.assert_allclose(rates, [0.12 * with_warmup(step / 6) for step in range(6)])
    assert peer.transform(crops(2, 12)).shape == (2, 64)


def test_rivals_have_the_accuracy_of_a_plain_classifier_with_what_was_chosen():
    import rivals
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y, y_new = np.repeat([0, 1, 2], 20), np.repeat([0, 1, 2], 30)
    centres = 5 * rng.normal(size=(3, 90))
    H, H_new = (centres[c] + 20 * rng.normal(size=(len(c), 90)) * np.linspace(0.1, 3, 90) for c in (y, y_new))
    rows = rivals.labelled_rows(y, 5, 0)
    assert set(rows) <= set(rivals.labelled_rows(y, 9, 0)) and np.bincount(y[rows]).tolist() == [5, 5, 5]
    found = rivals.evaluate(H, H_new, rows, y, y_new, 0)
    mean, deviation = H.mean(0), H.std(0)
    if found["scaling"] == "one":
        deviation = np.sqrt(np.mean(deviation**2))
    model = LogisticRegression(C=found["C"], tol=1e-8, max_iter=2000).fit(
        (H[rows] - mean) / deviation, y[rows]
    )
    assert found["accuracy"] == pytest.approx(100 * model.score((H_new - mean) / deviation, y_new), abs=1.2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rivals_write_the_tables_of_the_readme(photographs, tmp_path, monkeypatch):
    import rivals

    from sklearn_simclr.export import export_encoder

    monkeypatch.setattr(rivals, "GRID", np.array([1e-3, 1e-1]))
    candidates = {"autoencoder": ({}, {"encoder": "compactx0.5"}), "k-means of patches": ({}, {"side": 4})}
    monkeypatch.setattr(rivals, "CANDIDATES", candidates)
    weights = tmp_path / "published.safetensors"
    X = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3)).astype(np.uint8)
    export_encoder(SimCLRTransformer("compactx0.5", max_epochs=0, random_state=0).fit(X), weights)
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- rivals sea: x -->\nbefore\n<!-- end of rivals sea -->\nb\n")
    arguments = [f"sea={photographs}", "--epochs", "0", "--labels", "2", "all", "--n-images", "24",
                 "--n-scored", "12", "--n-centres", "3", "--draws", "2",
                 "--imagenet", str(weights), "--out", str(tmp_path), "--readme", str(readme)]  # fmt: skip
    rivals.main([*arguments, "--seeds", "0", "--methods", "raw", "SimCLR", "supervised"])
    rivals.main([*arguments, "--seeds", "0", "1"])
    rows = json.loads((tmp_path / "rivals.json").read_text())["rows"]
    keys = [(row["method"], row["labels"], row["seed"], row["draw"]) for row in rows]
    # All labels are the same for every seed: what depends on no other random numbers is scored on them once.
    # The supervised network is trained for one draw.
    assert len(set(keys)) == len(keys) == 4 * 6 + 5 * 5 + 4
    for method, settings in candidates.items():
        found = [row["setting"] for row in rows if row["method"] == method]
        assert found[0] in settings and found.count(found[0]) == len(found)
    text = readme.read_text()
    assert (
        text.startswith("a\n<!-- rivals sea: x -->\n|  | 2 per class | all (24) |\n") and "before" not in text
    )
    assert text.endswith("<!-- end of rivals sea -->\nb\n")
    header, *lines = csv.reader((tmp_path / "rivals_sea.csv").read_text().splitlines())
    assert header == ["method", "training (s)", "2 per class", "all (24)"]
    assert lines[0][0] == "raw pixels" and lines[0][2].startswith("100.0")
    for line in lines:
        assert "| " + " | ".join([line[0], *line[2:]]) + " |" in text
    assert "Settings chosen by cross-validation: k-means of patches " in text and "; autoencoder " in text


def test_savings_are_quoted_at_counts_that_were_measured():
    from rivals import conclusions

    found = {
        "SimCLR": {5: (40.0, 42.0), 20: (49.0, 51.0), None: (60.0, 60.0)},
        "supervised network": {5: (30.0, 31.0), 20: (40.0, 40.5), None: (70.0, 70.5)},
        "HOG": {5: (41.0, 42.0), 20: (55.0, 58.0), None: (61.0,)},
        "untrained network": {5: (39.0, 43.5)},
    }
    rows = [
        {"method": method, "seconds": 40, "labels": count, "seed": seed, "draw": 0, "accuracy": value}
        for method, cells in found.items()
        for count, values in cells.items()
        for seed, value in enumerate(values)
    ]
    text = conclusions(rows, 40, 1000)
    assert (
        "The supervised network reaches 40.2% with 20 labels per class, SimCLR 41.0% with 5 per class."
        in text
    )
    assert text.count("The supervised network reaches") == 1
    # Differences of 1 and 0, and of -1 and 1.5, are less than two standard errors.
    assert (
        "With 5 labels per class, no method is ahead of SimCLR (41.0%), and HOG (41.5%) and the untrained "
        "network (41.2%) are level with it." in text
    )
    assert "With 20 labels per class, HOG (56.5%) is ahead of SimCLR (50.0%)." in text
    # All labels are the same for every seed.
    assert "HOG (61.0%) and the supervised network (70.2%) are ahead of SimCLR (60.0%)." in text


@pytest.mark.parametrize(
    "name, file, hidden", [("digits", "digits", []), ("rivals cifar10", "rivals_cifar10", [1]),
                           ("rivals clothing", "rivals_clothing", [1])]
)  # fmt: skip
def test_tables_of_the_readme_are_those_of_the_files(name, file, hidden):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    block = page.partition(f"<!-- {name}: ")[2].partition(f"<!-- end of {name} -->")[0]
    shown = [line.strip("| ").split("|") for line in block.splitlines() if line.startswith("|")]
    shown = [[cell.strip() for cell in line] for line in shown if set(line[0].strip()) != {"-"}]
    assert block and (shown or "make numbers" in block)
    with (ROOT / "docs" / "benchmarks" / f"{file}.csv").open(newline="") as table:
        written = [[cell for k, cell in enumerate(line) if k not in hidden] for line in csv.reader(table)]
    for line in shown[1:]:
        assert line in written


def test_the_forecast_is_compared_with_what_comes(tmp_path, monkeypatch):
    import forecast

    class Trained:
        """Its loss is 1 / epoch, and is foreseen to fall to 3/4 of that."""

        def __init__(self, max_epochs, **settings):
            self.history_ = max_epochs

        def fit(self, X):
            return self

    def predict(epochs):
        loss = 1 / epochs
        return SimpleNamespace(loss=loss, predicted=0.75 * loss, low=0.7 * loss, high=0.8 * loss)

    monkeypatch.setattr(forecast, "SimCLRTransformer", Trained)
    monkeypatch.setattr(forecast, "predict_loss", predict)
    forecast.main(["--epochs", "1", "--seeds", "0", "--n-images", "4", "--out", str(tmp_path)])
    _, digits, crops = csv.reader((tmp_path / "forecast.csv").read_text().splitlines())
    assert digits == ["digits", "1", "0", "1.00", "0.75", "0.50", "50", "no"]
    assert crops[0] == "crops of photographs"


def test_a_row_shows_the_round_of_its_ratio():
    from harness import cost_row, speed_row

    row = speed_row("c", "case", "peer", ours=[1.0, 2.0, 4.0], theirs=[2.0, 1.0, 8.0])
    assert row.ratio == row.ours / row.theirs == 2.0
    row = cost_row("c", "case", "peer", "s", ours=[1.0, 2.0, 9.0], theirs=[2.0, 1.0, 9.0])
    assert row.ratio == row.ours / row.theirs == 1.0 and row.ours == 9.0


def test_ratios_of_the_table_are_those_of_its_columns_or_the_page_says_that_they_are_not():
    measured = json.loads((ROOT / "docs/benchmarks/results.json").read_text(encoding="utf-8"))["comparisons"]
    rows = [row for found in measured.values() for row in found["rows"] if row["ours"] and row["theirs"]]
    agree = all(row["ours"] / row["theirs"] == pytest.approx(row["ratio"], rel=1e-9) for row in rows)
    page = (ROOT / "docs/reference/benchmarks.rst").read_text(encoding="utf-8")
    assert agree != ("medians over all rounds" in page), "the sentence goes once `make bench` has run"


def test_patch_features_are_those_of_loops():
    from patch_kmeans import PatchKMeans
    from photographs import crops

    images = crops(60, 12)
    model = PatchKMeans(n_centres=5).fit(images)
    found = model.transform(images[:2])
    expected = np.zeros((2, 4, 5))
    for n, image in enumerate(images[:2].astype(np.float64)):
        for row in range(7):
            for column in range(7):
                patch = image[row : row + 6, column : column + 6].transpose(2, 0, 1).ravel()
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10)
                x = (patch - model.mean) @ model.whiten
                distances = np.linalg.norm(x - model.centres, axis=1)
                expected[n, 2 * (row >= 3) + (column >= 3)] += np.maximum(0, distances.mean() - distances)
    np.testing.assert_allclose(found.reshape(2, 4, 5), expected, rtol=1e-3, atol=1e-3)


def test_files_are_decoded_and_trained_on(quick, monkeypatch):
    import files
    import growth

    asked = []

    def here(module, function, **arguments):
        asked.append(function)
        if function == "decode_theirs":  # would start workers, which takes seconds on some systems
            return 2 * files.decode_ours(**arguments)
        return getattr(files, function)(**arguments)

    monkeypatch.setattr(files, "in_fresh_process", here)
    monkeypatch.setattr(files, "speeds", lambda X, *args, **kwargs: growth.speeds(X, *args, **kwargs))
    rows = files.run(quick)
    assert asked == ["decode_ours", "decode_theirs"] + ["decode_large"] * 3
    assert [(row.peer, row.target) for row in rows] == [
        ("ImageFolder", ">= 1"), ("Pillow", ">= 1"), ("torchvision", ">= 1"), ("array", ">= 0.95"),
        ("array", ">= 0.95")
    ]  # fmt: skip
    assert all(row.ratio > 0 for row in rows)
    assert "cache_dir" in rows[4].case


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at how the processes end")
def test_kills_are_counted(quick, monkeypatch):
    import kill

    found = {"landed": 2, "equal": 3, "duration": 1.0}
    monkeypatch.setattr(kill, "in_fresh_process", lambda *args, **kwargs: found)
    (row,) = kill.run(quick)
    assert (row.ratio, row.verdict) == (1.0, "met")
    monkeypatch.setitem(found, "equal", 2)
    (row,) = kill.run(quick)
    assert row.verdict == "missed"


def test_solvers_of_the_penalty_path_stop_at_the_same_gradient():
    from logistic import Ours, Problem, Theirs, objective
    from sklearn.metrics import log_loss

    X, y = Problem(300, 20, 3).draw()
    ours, theirs = Ours(X, y, "cpu"), Theirs(X, y, "lbfgs", "float64")
    for penalty in (100.0, 1.0):
        ours.fit(penalty, None)
        value, gradient = objective(X, y, *ours.solution(), penalty)
        theirs.fit(penalty, gradient)
        coef, intercept = theirs.solution()
        found, smaller = objective(X, y, coef, intercept, penalty)
        loss = log_loss(y, theirs.model.predict_proba(X.astype(np.float64)))
        assert found == pytest.approx(loss + penalty / 2 * (coef**2).sum() / len(X), rel=1e-9)
        assert smaller <= gradient * 1.001
        assert found == pytest.approx(value, rel=1e-3)


def test_solvers_are_compared_on_the_penalties_that_both_finished(monkeypatch):
    import logistic

    class Fake:
        """Takes 1 s a fit, the slow one 6 s until its time is over."""

        def __init__(self, name, problem, device, limit):
            self.name, self.process, self.left = name, True, limit
            self.seconds, self.values, self.gradients = [], [], []

        def fit(self, penalty, tol):
            if self.left > 0 and "newton-cg" not in self.name:
                self.seconds.append(6.0 if "lbfgs" in self.name else 1.0)
                self.values.append(2.0)
                self.gradients.append(0.1)
                self.left -= self.seconds[-1]

        def stop(self):
            self.process = None

    monkeypatch.setattr(logistic, "Competitor", Fake)
    rivals = ("lbfgs float32", "newton-cg float32", "newton-cholesky float64")
    slow, none, equal = logistic.compare(logistic.Problem(10, 2), 20, rivals, 12)
    assert (slow.ratio, slow.target) == (6.0, "") and slow.note.startswith("2 of 20 penalties")
    assert none.ratio is None and none.note == "no penalty in 12 s"
    assert (equal.ratio, equal.verdict) == (1.0, "missed") and equal.note.startswith("12 of 20")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a second or two are too short
def test_the_recipe_search_keeps_what_it_has_and_compares_equal_seeds(tmp_path, monkeypatch):
    import recipe_search

    monkeypatch.setattr(recipe_search, "SECONDS", dict.fromkeys(recipe_search.SECONDS, 3.0))
    arguments = ["--n-images", "300", "--sources", "digits", "--out", str(tmp_path)]
    names = ["default", "loss: decoupled", "views of 5/8 of the side"]
    recipe_search.main([*arguments, "--variants", *names, "--seeds", "0"])
    first = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert len(first) == 3 and all(0 < row["accuracy"] <= 1 for row in first)
    recipe_search.main([*arguments, "--variants", *names[:2], "--seeds", "0", "1"])
    second = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert second[:3] == first and len(second) == 5
    header, default, *others = csv.reader((tmp_path / "recipe.csv").read_text().splitlines())
    assert header[1] == "digits (points)"
    assert [line[-1] for line in (default, *others)] == ["2", "2", "1"]
    score = {(row["source"], row["variant"], row["seed"]): 100 * row["accuracy"] for row in second}
    gains = [score["digits", names[1], s] - score["digits", "default", s] for s in (0, 1)]
    assert others[0][1].startswith(f"{np.mean(gains):+.1f}")


def test_a_step_asks_a_device_for_few_kernels_and_never_waits():
    import kernels

    for case, most in {("compact", 32, "muon"): 250, ("resnet18", 32, "muon"): 600}.items():
        code, *_, copies, waits = kernels.row("now", case, counter := kernels.count(*case))[:6]
        assert (code, copies, waits) == ("now", 1, 0)
        assert 0 < sum(counter.kernels.values()) <= most


def test_kernels_are_counted_as_they_are_started():
    import kernels

    x, images = torch.empty(3, 4, device="meta"), torch.empty(5, 4)
    lists = [torch.empty(2, k % 3 + 1, device="meta") for k in range(200)]
    with kernels.Counter() as counter:
        (x.T.view(4, 3)[1:] * 2).relu_()  # views of x ask for nothing
        torch.ones(3) + 1  # nor does the CPU
        torch.empty(5, 4, device="meta").copy_(images)
        images.to("meta")
        assert float(x.sum()) == 1.0
        torch._foreach_add_(lists, 1.0)
        torch._foreach_mul_(lists[:6], [x[0, 0]] * 6)
    assert counter.names["other"] == {"mul": 1, "relu_": 1, "sum": 1, "_foreach_add_": 2, "_foreach_mul_": 6}
    assert (counter.copies, counter.waits) == (2, 1)


def test_make_gpu_says_in_a_line_that_there_is_none(tmp_path, monkeypatch):
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="^make gpu: torch finds no CUDA device on this machine.*$"):
        gpu.main(["--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("second", ["1.001", "1.5"])
def test_make_gpu_reports_what_passed_and_what_failed(tmp_path, monkeypatch, second):
    import gpu

    def call(*command):
        if "pytest" in command:
            return 1, ["FAILED tests/test_gpu.py::test_one - AssertionError", "1 failed, 20 passed in 3 s"]
        if "--device" in command:
            (tmp_path / "gpu").mkdir()
            (tmp_path / "gpu" / "results.csv").write_text("comparison,ours\nfit,900\n")
            return 0, []
        two = "torch.distributed.run" in command
        loss = second if two else "1.000"
        return 0, [f"loss {loss}, 500 images/s in the last epoch"] * (2 if two else 1)

    monkeypatch.setattr(gpu, "call", call)
    monkeypatch.setattr(gpu, "machine", lambda device: {})
    monkeypatch.setattr(gpu, "describe_machine", lambda found: "A machine.")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit, match="something failed"):
        gpu.main(["--out", str(tmp_path), "--", "--quick"])
    text = (tmp_path / "gpu.md").read_text()
    assert "## Tests: FAILED\n\n1 failed, 20 passed in 3 s\n\n- `FAILED tests/test_gpu.py::test_one`" in text
    assert "## Speed: passed\n\n| comparison | ours |\n| --- | --- |\n| fit | 900 |" in text
    assert f"## Two GPUs: {'passed' if second == '1.001' else 'FAILED'}" in text
    assert f"- two: loss {second}, 500 images/s" in text


def test_two_gpus_are_not_tried_where_there_is_one():
    import gpu

    passed, text = gpu.ranks(1)
    assert passed and text == ["Not tried: torch finds 1 GPU."]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_vote_is_the_mean_of_the_probabilities_of_its_members(photographs, tmp_path, monkeypatch):
    import rivals
    import votes

    monkeypatch.setattr(rivals, "GRID", np.array([1e-2]))
    probabilities = []

    def recorded(*args, made=votes.answers):
        probabilities.append(made(*args))
        return probabilities[-1]

    monkeypatch.setattr(votes, "answers", recorded)
    votes.main([f"sea={photographs}", "--epochs", "1", "--labels", "2", "--seeds", "0", "--draws", "2",
                "--n-images", "24", "--n-scored", "12", "--out", str(tmp_path)])  # fmt: skip
    header, *lines = csv.reader((tmp_path / "votes.csv").read_text().splitlines())
    assert header == ["images", "method", "2 per class"]
    assert [line[1] for line in lines[:4]] == ["HOG", "untrained network", "SimCLR", votes.VOTE]
    assert [line[1] for line in lines[4:]] == [
        votes.JOINED,
        "vote - SimCLR, with standard error",
        "one classifier - SimCLR, with standard error",
    ]
    options = SimpleNamespace(test=False, n_images=24, n_scored=12)
    y_new = rivals.images_of(f"sea={photographs}", options)[4]
    names = np.unique(y_new)
    found = [
        100 * np.mean(names[np.add.reduce(probabilities[k : k + 3]).argmax(axis=1)] == y_new) for k in (0, 4)
    ]
    assert lines[3][2] == f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}"


def test_additions_are_compared_with_the_default_of_their_seed(photographs, tmp_path, monkeypatch):
    import additions

    trained = []

    class Trained:
        """Learns as well as its parameters say, in an instant."""

        n_iter_ = 1

        def __init__(self, **params):
            trained.append(params)

        def fit(self, X):
            return self

        def transform(self, X):
            return X

    scores = iter(np.arange(22) / 100)
    monkeypatch.setattr(additions, "SimCLRTransformer", Trained)
    monkeypatch.setattr(additions, "chosen_C", lambda *args: 0.01)
    monkeypatch.setattr(additions, "probe", lambda *args: next(scores))
    arguments = ["--folder", str(photographs / "train"), "--n-images", "40", "--seeds", "0", "1"]
    additions.main([*arguments, "--out", str(tmp_path)])
    # The first is not counted.
    lengths = [name for params in trained[1:] for name in params if name.startswith("max_")]
    assert lengths == 2 * (["max_epochs"] + ["max_epochs", "max_time"] * 5)
    header, *lines = csv.reader((tmp_path / "additions.csv").read_text().splitlines())
    assert [line[:3] for line in lines[::6]] == [["steps", "default", "2"], ["time", "default", "2"]]
    assert [line[-1] for line in lines[1:6]] == [f"+{gain}.0 ± 0.0" for gain in (1, 3, 5, 7, 9)]
    assert [line[-1] for line in lines[7:]] == [f"+{gain}.0 ± 0.0" for gain in (2, 4, 6, 8, 10)]
    for params in additions.SETTINGS.values():
        SimCLRTransformer(**params).get_params()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sizes_are_measured_on_photographs(photographs, tmp_path, monkeypatch):
    import image_size
    import rivals

    monkeypatch.setattr(rivals, "GRID", np.array([1e-2]))
    monkeypatch.setattr(image_size, "in_fresh_process", lambda module, name, **kw: image_size.measure(**kw))
    image_size.main(
        ["--folder", str(photographs), "--sizes", "12:8", "--epochs", "1", "--n-images", "16",
         "--n-scored", "20", "--seeds", "0", "--out", str(tmp_path)]
    )  # fmt: skip
    header, *lines = csv.reader((tmp_path / "image_size.csv").read_text().splitlines())
    assert header[-1] == "accuracy with all labels (%), 1 epochs"
    assert [line[:2] for line in lines] == [["12", "8"]]
    assert all(float(line[-1]) == 100 and float(line[3]) > 0 for line in lines)


def test_the_thresholds_are_beside_the_verdicts(tmp_path, monkeypatch):
    import thresholds

    monkeypatch.setattr(thresholds, "TEMPERATURES", (0.2,))
    monkeypatch.setattr(thresholds, "BATCH_SIZES", (32,))
    every = thresholds.networks
    monkeypatch.setattr(thresholds, "networks", lambda *args: list(every(*args))[:2])
    thresholds.main(["--n-images", "12", "--epochs", "1", "--seeds", "1", "--out", str(tmp_path)])
    header, *lines = csv.reader((tmp_path / "thresholds.csv").read_text().splitlines())
    assert [line[3] for line in lines] == ["collapsed", "untrained"]
    random = dict(zip(header, lines[1], strict=True))
    assert random["verdict"] == "untrained" and 0.5 < float(random["spread / random weights"]) < 2
    _, (images, temperature, *found) = csv.reader((tmp_path / "temperatures.csv").read_text().splitlines())
    assert (images, temperature) == ("digits", "0.2") and all(1 < float(rank) < 36 for rank in found)


def test_few_tuples_are_measured(tmp_path):
    import sample_complexity

    sample_complexity.main(
        ["--epochs", "0", "--steps", "20", "--seeds", "1", "--tuples", "50", "--out", str(tmp_path)]
    )
    _, pixels, *_ = csv.reader((tmp_path / "two_dimensions.csv").read_text().splitlines())
    assert pixels[0] == "pixels" and 30 < float(pixels[1]) < 80
    _, (tuples, loss, bound, mean, error) = csv.reader((tmp_path / "tuples.csv").read_text().splitlines())
    # The bound holds, and is (loss - tau) / (1 - tau) with the tau of ten about equally frequent classes.
    assert tuples == "50" and float(mean) < float(bound) < 2 and 0 < float(error) < 100
    assert float(bound) == pytest.approx((float(loss) - 0.1) / 0.9, abs=2e-3)


def test_every_table_of_the_pages_is_written_by_a_script_that_make_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").glob("*/*.rst"), *(ROOT / "docs").glob("*/*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    scripts = {path.name: path.read_text("utf-8") for path in (ROOT / "examples/benchmarks").glob("*.py")}
    run = [code for name, code in scripts.items() if f"benchmarks/{name}" in makefile]
    tables = set(re.findall(r"\.\./benchmarks/(\w+)\.(?:csv|txt)", text))
    assert len(tables) > 10
    for table in tables:
        file = table.replace("_machine", "")
        names = (f'"{file}', f"{file}.csv", f'"{file.partition("_")[0]}_{{')
        assert any(name in code for code in run for name in names), table
        assert list((ROOT / "docs" / "benchmarks").glob(f"{table}.*")), table
