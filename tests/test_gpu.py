"""What only a GPU can show: the same results as on the CPU, no waiting, little memory. `make gpu` runs it."""

import warnings

import numpy as np
import pytest
import torch
from helpers import fitted_modules
from sklearn.datasets import load_sample_images
from skorch.callbacks import Callback

from sklearn_simclr import (
    AutoencoderTransformer,
    DistilledClassifier,
    LinearEvaluationClassifier,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    WeightedKNNClassifier,
)
from sklearn_simclr.theory import PACBayesContrastiveTransformer
from sklearn_simclr.training import graphs, without_graphs

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]


@pytest.fixture(scope="module")
def images():
    """Crops of two photographs, (128, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    corners = rng.integers(0, 390, (128, 2))
    return np.stack([photographs[k % 2][i : i + 32, j : j + 32] for k, (i, j) in enumerate(corners)])


@pytest.fixture(scope="module")
def labels():
    return np.arange(128) % 2


def simclr(device="cuda", **params):
    params = {"max_epochs": 2, "batch_size": 32, "precision": "float32", "random_state": 0, **params}
    return SimCLRTransformer(device=device, **params)


def close(there, here, share=0.02):
    """Whether the numbers differ by no more than a share of their spread."""
    return np.abs(there - here).max() <= share * np.std(here)


@pytest.mark.parametrize("optimizer", ["muon", "lars", "sgd", "adamw"])
@pytest.mark.parametrize("micro_batch_size", [None, 16])
def test_a_fit_on_the_gpu_is_that_of_the_cpu(images, optimizer, micro_batch_size):
    params = {"optimizer": optimizer, "micro_batch_size": micro_batch_size}
    there, here = simclr(**params).fit(images), simclr("cpu", **params).fit(images)
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=2e-3)
    assert close(there.transform(images), here.transform(images), 0.1)


def test_a_repeated_step_learns_what_a_computed_one_learns(images, monkeypatch):
    repeated = []
    repeat = graphs.Recording.repeat
    monkeypatch.setattr(graphs.Recording, "repeat", lambda self: [repeated.append(self), repeat(self)])
    there = simclr(max_epochs=4).fit(images)
    assert len(repeated) > 8
    with without_graphs():
        computed = simclr(max_epochs=4).fit(images)
    np.testing.assert_allclose(there.loss_curve_, computed.loss_curve_, rtol=2e-3)
    assert close(there.transform(images), computed.transform(images), 0.1)


@pytest.mark.parametrize("encoder", ["compact", "resnet18"])
def test_the_same_network_gives_the_same_features(images, encoder):
    fitted = simclr("cpu", encoder=encoder, max_epochs=0).fit(images)
    here = fitted.transform(images)
    assert close(fitted.set_params(device="cuda").transform(images), here, 1e-3)


def estimators(device):
    common = {"max_epochs": 2, "batch_size": 32, "device": device, "random_state": 0}
    pretrained = SimCLRTransformer(**common)
    tuned = SimCLRClassifier(pretrained, **common)
    return {
        "simclr": pretrained,
        "supervised": SupervisedTransformer(**common),
        "autoencoder": AutoencoderTransformer(**common),
        "fine-tuned": tuned,
        "distilled": DistilledClassifier(tuned, **common),
        "pac-bayes": PACBayesContrastiveTransformer(max_epochs=2, device=device, random_state=0),
        "linear": LinearEvaluationClassifier(device=device, random_state=0),
        "neighbours": WeightedKNNClassifier(device=device),
    }


@pytest.mark.parametrize("name", list(estimators("cpu")))
def test_every_estimator_is_fitted_and_used_there(images, labels, name):
    X = images.reshape(len(images), -1)[:, :121] / 255
    X = X if name in ("pac-bayes", "linear", "neighbours") else images
    fitted = estimators("cuda")[name].fit(X, labels)
    assert all(
        p.device.type == "cpu" for module in fitted_modules(fitted).values() for p in module.parameters()
    )
    method = "transform" if hasattr(fitted, "transform") else "predict_proba"
    there = getattr(fitted, method)(X)
    here = getattr(fitted.set_params(device="cpu"), method)(X)
    assert np.isfinite(there).all() and close(there, here, 0.2)


def syncs(images, batch_size):
    """Return how often the host waits for the GPU in a fit of one epoch."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            simclr(max_epochs=1, batch_size=batch_size).fit(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def test_no_step_waits_for_the_gpu(images):
    syncs(images, 8)  # the first fit waits for what is made once
    assert syncs(images, 4) == syncs(images, 8)  # 32 steps, 16 steps, most of which the device repeats
    with without_graphs():
        assert syncs(images, 8) == syncs(images, 64)  # 16 steps, 2 steps


def test_micro_batches_bound_the_memory_and_a_fit_gives_it_back(images):
    X = np.concatenate([images] * 8)

    def peak(micro_batch_size):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        simclr(encoder="resnet18", max_epochs=1, batch_size=1024, micro_batch_size=micro_batch_size).fit(X)
        taken = torch.cuda.max_memory_allocated() - before
        left.append(torch.cuda.memory_allocated() - before)
        return taken

    left = []
    simclr(max_epochs=1).fit(images)  # what libraries allocate once
    assert peak(128) < 0.5 * peak(None)
    assert max(left) < 32 << 20


class Stop(Exception):
    pass


class StopAfter(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 1:
            raise Stop


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_checkpoint_goes_on_elsewhere(images, tmp_path, first, second):
    whole = simclr("cpu", max_epochs=3).fit(images)
    with pytest.raises(Stop):
        simclr(first, max_epochs=3, checkpoint_dir=tmp_path, callbacks=[StopAfter()]).fit(images)
    resumed = simclr(second, max_epochs=3, checkpoint_dir=tmp_path).fit(images)
    np.testing.assert_allclose(resumed.loss_curve_, whole.loss_curve_, rtol=5e-3)


def test_low_precision_learns_what_float32_does(images):
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no units for bfloat16")
    exact, quick = simclr().fit(images), simclr(precision="auto").fit(images)
    np.testing.assert_allclose(quick.loss_curve_, exact.loss_curve_, rtol=0.05)


def test_exhausted_memory_names_what_to_change(images):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (256 << 20)) / total)
    try:
        with pytest.raises(MemoryError, match="memory of device.*micro_batch_size"):
            simclr(encoder="resnet50", batch_size=128).fit(images)  # takes about 3 GB
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    simclr(max_epochs=1).fit(images)
