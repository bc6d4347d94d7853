"""Fits on the pretended device: equal to those on the CPU, and no step waits for the device.

``tests/test_pretended_device.py`` runs these tests in a process of their own.
"""

import numpy as np
import pytest
import torch
from helpers import fitted_modules
from PIL import Image
from pretended.device import DEVICE, OTHER, SETTINGS, SYNCS, Settings
from recorded_graph import RecordedGraph, record
from skorch.callbacks import Callback
from torch import nn

from sklearn_simclr import (
    Augmentation,
    AutoencoderTransformer,
    DistilledClassifier,
    ExternalViews,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    losses,
)
from sklearn_simclr._utils import ranks
from sklearn_simclr._utils.ranks import Ranks
from sklearn_simclr.encoders import Preprocessing
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.encoders.mirror import left_right_accuracy
from sklearn_simclr.encoders.preprocessing import PreprocessedNetwork
from sklearn_simclr.estimators.multilabel_classifier import MultiLabelFineTuning
from sklearn_simclr.estimators.views import drawn_views
from sklearn_simclr.images import ImageSource
from sklearn_simclr.theory import PACBayesContrastiveTransformer
from sklearn_simclr.training import graphs
from sklearn_simclr.training.checkpoint import Checkpoint

torch.set_num_threads(1)

X = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
Y = np.arange(24) % 3
LABELS = np.stack([Y == 0, Y > 0], axis=1).astype(int)


@pytest.fixture(autouse=True)
def usual():
    """Give back what a test changed of the device, and forget what was counted."""
    SYNCS.clear()
    yield
    for name, value in vars(Settings).items():
        if not name.startswith("_"):
            setattr(SETTINGS, name, value)


def tiny(in_channels):
    """Return an encoder that costs nothing.

    It has no bias that a later BatchNorm takes away: Adam would make steps of rounding.
    """
    convolution = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
    pool = nn.AdaptiveAvgPool2d(1)
    norm, last = nn.BatchNorm2d(8), nn.Linear(8, 6, bias=False)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.Dropout(0.1), pool, nn.Flatten(), last)


def preprocessed(in_channels):
    """Return such an encoder behind the preprocessing of published weights."""
    network = tiny(in_channels)
    network.out_dim = 6
    return PreprocessedNetwork(network, Preprocessing(9, mean=(0.5,) * 3, std=(0.2,) * 3))


def new(make, device, **changed):
    known = {"device": device, "batch_size": 8, "max_epochs": 2, "random_state": 0}
    return make(**{**known, **changed})


def simclr(**params):
    return SimCLRTransformer(**{"encoder": tiny, **params})


def pretrained():
    return SimCLRTransformer(tiny, max_epochs=1, batch_size=8, random_state=0, device="cpu").fit(X)


def classifier(**params):
    return SimCLRClassifier(pretrained(), **params)


def several_labels(**params):
    return MultiLabelFineTuning(pretrained(), **params)


def distilled(**params):
    teacher = SimCLRClassifier(pretrained(), max_epochs=1, batch_size=8, random_state=0, device="cpu").fit(
        X, Y
    )
    return DistilledClassifier(teacher, **params)


def plain_loss(z):
    """The cross-view loss in one line, as a user may write it."""
    assert z.dtype == torch.float32
    a, b = nn.functional.normalize(z).chunk(2)
    return nn.functional.cross_entropy(a @ b.T / 0.5, torch.arange(len(a), device=z.device))


ESTIMATORS = {
    "simclr": (SimCLRTransformer, {}, None),
    "simclr, dropout": (simclr, {}, None),
    **{f"simclr, {name}": (simclr, {"optimizer": name}, None) for name in ("lars", "sgd", "adamw", "muon")},
    **{
        f"simclr, {name}": (simclr, {"loss": name}, None)
        for name in ("nt_logistic", "margin_triplet", "curl_logistic", "curl_hinge", "hard_nt_xent", "dcl")
    },
    "simclr, own loss": (simclr, {"loss": plain_loss}, None),
    "simclr, queue": (simclr, {"queue_size": 16}, None),
    "simclr, labels": (simclr, {"loss": "supcon", "small_views": 2, "online_probe": True}, Y),
    "simclr, preprocessed": (simclr, {"encoder": preprocessed}, None),
    "simclr, micro-batches": (simclr, {"micro_batch_size": 2}, None),
    "simclr, sequential": (
        simclr,
        {"augmentation": Augmentation(implementation="google_v1", blur_probability=0.5)},
        None,
    ),
    "simclr, no up": (simclr, {"augmentation": Augmentation(recipe="no_up", blur_probability=0.5)}, None),
    "simclr, turned": (
        simclr,
        {"augmentation": Augmentation(rotation=30.0, erasing_probability=0.5)},
        None,
    ),
    "supervised": (SupervisedTransformer, {"encoder": tiny}, Y),
    "supervised, stopped": (
        SupervisedTransformer,
        {"encoder": tiny, "early_stopping": True, "validation_fraction": 0.5},
        Y,
    ),
    "autoencoder": (AutoencoderTransformer, {"encoder": tiny}, None),
    "autoencoder, views": (AutoencoderTransformer, {"encoder": tiny, "augmentation": Augmentation()}, None),
    "classifier": (classifier, {}, Y),
    "classifier, head": (classifier, {"head_layer": 1}, Y),
    "classifier, several labels": (several_labels, {}, LABELS),
    "distilled": (distilled, {}, None),
    "distilled, labels": (distilled, {"alpha": 0.5}, Y),
    "distilled, images": (distilled, {"teacher_views": "image"}, None),
    "pac-bayes": (PACBayesContrastiveTransformer, {}, None),
    "pac-bayes, labels": (PACBayesContrastiveTransformer, {"encoder": tiny}, Y),
}


def waits_of_steps(make, y=None, **params):
    """Return where the host waits more often in a fit of more steps."""

    def waits(batch_size):
        SYNCS.clear()
        new(make, DEVICE, **{**params, "batch_size": batch_size}).fit(X, y)
        return dict(SYNCS)

    few, many = waits(12), waits(4)
    return {line: n - few.get(line, 0) for line, n in many.items() if n > few.get(line, 0)}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_is_that_of_the_cpu_and_no_step_waits(name):
    make, params, y = ESTIMATORS[name]
    there = new(make, DEVICE, **params).fit(X, y)
    few = dict(SYNCS)  # 3 steps per epoch
    assert any("at training/loop.py" in line for line in few)  # it was trained there
    SYNCS.clear()
    new(make, DEVICE, **{**params, "batch_size": 4}).fit(X, y)
    many = dict(SYNCS)
    assert {line: n - few.get(line, 0) for line, n in many.items() if n > few.get(line, 0)} == {}

    here = new(make, "cpu", **params).fit(X, y)
    method = "predict_proba" if hasattr(here, "predict_proba") else "transform"
    np.testing.assert_allclose(getattr(there, method)(X), getattr(here, method)(X), rtol=1e-3, atol=1e-4)
    for module, known in zip(fitted_modules(there).values(), fitted_modules(here).values(), strict=True):
        for found, expected in zip(module.state_dict().values(), known.state_dict().values(), strict=True):
            assert found.device.type == "cpu"
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("name", ["simclr", "supervised, stopped", "pac-bayes"])
def test_images_may_lie_on_the_device(name):
    make, params, y = ESTIMATORS[name]
    images = torch.from_numpy(X).to(DEVICE)
    there, here = (new(make, DEVICE, **params).fit(x, y).transform(x) for x in (images, X))
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


class LearntOrigin(nn.Module):
    """Supervised contrast of projections from a point that is learnt."""

    def __init__(self):
        super().__init__()
        self.origin = nn.Parameter(torch.zeros(1))

    def forward(self, z, labels):
        return losses.supcon(z - self.origin, labels=labels)


def test_networks_and_losses_may_lie_on_the_device():
    def fitted(place):
        torch.manual_seed(0)
        known = {"encoder": tiny(3).to(place), "loss": LearntOrigin().to(place)}
        return new(SimCLRTransformer, DEVICE, **known).fit(X, Y).transform(X)

    np.testing.assert_array_equal(fitted(DEVICE), fitted("cpu"))


def test_a_source_of_images_may_lie_on_the_device():
    here = ImageSource(torch.from_numpy(X).permute(0, 3, 1, 2), (0, 255))
    there, part = here.to(DEVICE), np.arange(12)
    assert left_right_accuracy(there.select(part)) == left_right_accuracy(here.select(part))
    augmentation = Augmentation(blur_probability=0.5).resolve((3, 12, 12))
    views, networks = [], []
    for source in (there, here):
        drawn = drawn_views(augmentation, source, torch.Generator().manual_seed(0), 2)
        views.append(drawn.take(slice(3, 9)).cpu())
        torch.manual_seed(0)
        networks.append(CompactNet(3, (12, 12), width=4))
        networks[-1].initialize_from_images(source, torch.Generator().manual_seed(0))
    torch.testing.assert_close(*views, rtol=0, atol=1e-4)
    for found, expected in zip(*(network.state_dict().values() for network in networks), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_cannot_be_read_is_grey_on_the_device(tmp_path):
    fitted = new(simclr, DEVICE, max_epochs=0, on_error="grey").fit(X)
    rows = [*map(Image.fromarray, X[:3]), tmp_path / "missing.png"]
    with pytest.warns(UserWarning, match="missing.png"):
        there = fitted.transform(rows)
    with pytest.warns(UserWarning, match="missing.png"):
        here = fitted.set_params(device="cpu").transform(rows)
    np.testing.assert_allclose(there, here, atol=1e-6)


def test_labels_of_a_loss_may_lie_on_the_cpu():
    z, labels = torch.from_numpy(X.reshape(24, -1)).float(), torch.arange(12) % 3
    found = losses.supcon(z.to(DEVICE), labels=labels)
    torch.testing.assert_close(found.cpu(), losses.supcon(z, labels=labels))


def mirrored(image):
    return image.flip(2)


def test_views_of_callables_are_those_of_the_cpu():
    there, here = (
        new(simclr, device, augmentation=mirrored).fit(X).transform(X) for device in (DEVICE, "cpu")
    )
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)
    for views in (Augmentation(), ExternalViews(mirrored)):
        assert all(
            part.device == DEVICE for part in views.draw(2, (3, 8, 8), device=DEVICE) if part is not None
        )


@pytest.mark.parametrize("optimizer", ["lars", "muon"])
def test_no_step_in_float16_waits(optimizer):
    assert waits_of_steps(simclr, optimizer=optimizer, precision="float16") == {}


class Twins(Ranks):
    """Two ranks, as one of them sees them; the other has the same images."""

    def __init__(self):
        super().__init__(0, 2)

    def add(self, tensor):
        return tensor.mul_(2)

    def stack(self, tensor):
        return torch.stack([tensor, tensor])

    def broadcast(self, value):
        return value

    lead = copy = broadcast

    def first(self, function):
        return function()

    def compare(self, known, why):
        pass


@pytest.mark.parametrize("name", ["simclr, labels", "simclr, micro-batches"])
def test_no_step_of_a_rank_waits(name, monkeypatch):
    monkeypatch.setattr(ranks, "_active", Twins())
    make, params, y = ESTIMATORS[name]
    assert waits_of_steps(make, y, **params) == {}


def with_norm(**options):
    """Return what makes the tiny encoder with another normalization."""

    def make(in_channels):
        network = tiny(in_channels)
        network[1] = nn.BatchNorm2d(8, **options)
        return network

    return make


def test_norms_over_ranks_may_have_no_weights(monkeypatch):
    monkeypatch.setattr(ranks, "_active", Twins())
    new(simclr, DEVICE, encoder=with_norm(affine=False), max_epochs=1).fit(X)


@pytest.fixture
def records(monkeypatch):
    """Let the device record, as CUDA devices do."""
    module = type(torch.get_device_module(DEVICE))
    monkeypatch.setattr(module, "CUDAGraph", RecordedGraph, raising=False)
    monkeypatch.setattr(module, "graph", record, raising=False)
    RecordedGraph.made.clear()


def test_a_step_for_which_the_host_waits_is_not_recorded(records):
    averaged = with_norm(momentum=None)  # by a count that is asked for
    fitted = [new(simclr, d, encoder=averaged, batch_size=4).fit(X).transform(X) for d in (DEVICE, "cpu")]
    assert RecordedGraph.made == []
    np.testing.assert_allclose(*fitted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["simclr, sequential", "simclr, no up", "classifier", "autoencoder"])
def test_recorded_steps_are_computed_steps(name, records, monkeypatch):
    make, params, y = ESTIMATORS[name]
    params = {**params, "batch_size": 4, "optimizer": "muon"}
    places, compared = [], graphs.RepeatedStep._compared

    def noted(self, *known):
        # What a recording reads: a number of the host would be the same for ever.
        places.extend([self.rates.device, *(views.packed.device for views in self.views)])
        return compared(self, *known)

    with monkeypatch.context() as patched:
        patched.setattr(graphs.RepeatedStep, "_compared", noted)
        with torch.get_device_module(DEVICE).device(OTHER):  # which is not where it records
            fitted = [new(make, DEVICE, **params).fit(X, y)]
    assert set(places) == {DEVICE}
    assert [graph.replays for graph in RecordedGraph.made] == [2 * 6 - 3]
    monkeypatch.setattr(graphs, "_STEPS_BEFORE", 1000)
    fitted.append(new(make, DEVICE, **params).fit(X, y))
    assert len(RecordedGraph.made) == 1
    for found, other in zip(*(fitted_modules(f).values() for f in fitted), strict=True):
        for tensor, expected in zip(found.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("encoder", [tiny, preprocessed])
def test_inference_waits_once_for_all_batches(encoder, monkeypatch):
    from sklearn_simclr.estimators import inference

    monkeypatch.setattr(inference, "_PIXELS_ELSEWHERE", 5 * 12 * 12)
    monkeypatch.setattr(inference, "_IMAGES", 5)
    fitted = new(simclr, DEVICE, encoder=encoder).fit(X)
    expected = fitted.set_params(device="cpu").transform(X)
    fitted.set_params(device=DEVICE).transform(X)
    SYNCS.clear()
    np.testing.assert_allclose(fitted.transform(X), expected, atol=1e-6)
    assert SYNCS == {}  # the copy on the device is there already, and rows arrive while others are computed


def test_the_copy_on_the_device_follows_the_network():
    fitted = new(simclr, DEVICE).fit(X)
    first = fitted.transform(X)
    fitted.encoder_[-1].weight.data.mul_(2)  # leaves no version
    np.testing.assert_allclose(fitted.transform(X), 2 * first, rtol=1e-5)
    fitted.partial_fit(X)
    np.testing.assert_allclose(
        fitted.transform(X), fitted.set_params(device="cpu").transform(X), rtol=1e-3, atol=1e-5
    )


def test_exhausted_memory_halves_the_batch_in_inference_and_names_parameters_in_training():
    fitted = new(simclr, DEVICE).fit(X)
    expected = fitted.transform(X)
    SETTINGS.largest = 6 * 8 * 12 * 12 * 4  # of activations of six images
    np.testing.assert_allclose(fitted.transform(X), expected, atol=1e-6)
    with pytest.raises(MemoryError, match="batch_size=8, micro_batch_size=None"):
        new(simclr, DEVICE).fit(X)
    new(simclr, DEVICE, micro_batch_size=2).fit(X)


def test_exhausted_memory_is_no_score_in_silence():
    from sklearn.model_selection import cross_validate

    SETTINGS.largest = 6 * 8 * 12 * 12 * 4
    probe = new(SimCLRClassifier, DEVICE, pretrained=pretrained())
    with pytest.raises(ValueError, match="All the 2 fits failed[^$]*micro_batch_size"):
        cross_validate(probe, X, Y, cv=2)


def test_exhausted_memory_in_some_fits_of_a_search_is_a_warning_that_says_what_to_pass():
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection import GridSearchCV

    SETTINGS.largest = 6 * 8 * 12 * 12 * 4
    probe = new(SimCLRClassifier, DEVICE, pretrained=pretrained(), max_epochs=1)
    search = GridSearchCV(probe, {"batch_size": [4, 12]}, cv=2, refit=False, scoring="accuracy")
    with (
        pytest.warns(
            FitFailedWarning, match="batch_size=12, micro_batch_size=None[^$]*Pass a micro_batch_size"
        ),
        pytest.warns(UserWarning, match="non-finite"),
    ):
        search.fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).tolist() == [True, False]


@pytest.mark.parametrize(
    "make, first, second",
    [(simclr, DEVICE, "cpu"), (simclr, "cpu", DEVICE), (PACBayesContrastiveTransformer, "cpu", DEVICE)],
)
def test_a_checkpoint_of_one_device_goes_on_on_another(tmp_path, monkeypatch, make, first, second):
    class Stop(Exception):
        pass

    class Interrupt(Callback):
        def on_batch_begin(self, net, **kwargs):
            if len(net.history) == 2 and len(net.history[-1]["batches"]) == 2:
                raise Stop

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)  # also within an epoch
    known = {"max_epochs": 3, **({"queue_size": 16, "online_probe": True} if make is simclr else {})}
    whole = new(make, "cpu", **known).fit(X, Y)
    with pytest.raises(Stop):
        new(make, first, **known, checkpoint_dir=tmp_path, callbacks=[Interrupt()]).fit(X, Y)
    resumed = new(make, second, **known, checkpoint_dir=tmp_path).fit(X, Y)
    assert resumed.n_iter_ == 3
    np.testing.assert_allclose(resumed.transform(X), whole.transform(X), rtol=0.05, atol=0.02)


def test_auto_is_the_freest_device_or_the_one_of_the_rank(monkeypatch):
    from sklearn_simclr._utils import devices

    devices._freest.cache_clear()
    assert devices.resolve_device("auto") == DEVICE  # equally free
    devices._freest.cache_clear()
    SETTINGS.free = {0: 2**29, 1: 2**30}
    assert devices.resolve_device("auto") == OTHER
    SETTINGS.free = {0: 2**30, 1: 2**29}
    assert devices.resolve_device("auto") == OTHER  # chosen once
    devices._freest.cache_clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    asked, known = [], devices._has_float64
    with monkeypatch.context() as patched:
        patched.setattr(devices, "_has_float64", lambda device: asked.append(device) or known(device))
        assert devices.resolve_device("auto") == OTHER
    assert asked == [OTHER]  # nothing is done on the first device
    monkeypatch.setattr(devices, "in_worker", lambda: True)
    assert devices.resolve_device("auto") == DEVICE
    monkeypatch.setattr(devices, "in_worker", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="found only 2 devices .* LOCAL_RANK=2"):
        devices.resolve_device("auto")
    SETTINGS.float64 = False
    assert devices.resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["simclr", "simclr, labels", "supervised, stopped", "autoencoder, views", "distilled, labels"]
)
def test_what_trains_by_steps_needs_no_float64(name):
    SETTINGS.float64 = False
    make, params, y = ESTIMATORS[name]
    new(make, DEVICE, **{**params, "max_epochs": 1}).fit(X, y)


def test_what_needs_float64_names_the_parameter():
    from sklearn_simclr import LinearEvaluationClassifier, WeightedKNNClassifier

    SETTINGS.float64 = False
    features = X.reshape(24, -1).astype(np.float32)
    with pytest.raises(ValueError, match=r"device='pretended:0' has no float64, .* Pass device='cpu'"):
        LinearEvaluationClassifier(device=DEVICE).fit(features, Y)
    with pytest.raises(ValueError, match="has no float64"):
        WeightedKNNClassifier(device=DEVICE).fit(features, Y).predict(features)
    with pytest.raises(ValueError, match="has no float64, which the bound needs"):
        new(PACBayesContrastiveTransformer, DEVICE).fit(X)


def test_generators_are_those_of_the_device():
    from sklearn_simclr._utils.seeds import isolated_generators

    before = [torch.get_device_module(DEVICE).get_rng_state(device) for device in (DEVICE, OTHER)]
    with isolated_generators(3, OTHER):
        drawn = torch.rand(3, device=OTHER).cpu()
        assert torch.equal(torch.get_device_module(DEVICE).get_rng_state(DEVICE), before[0])
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(3)))
    after = [torch.get_device_module(DEVICE).get_rng_state(device) for device in (DEVICE, OTHER)]
    assert all(map(torch.equal, before, after))


def test_precision_of_gpus_without_bfloat16_is_float16_with_a_scaler():
    from sklearn_simclr._utils.devices import resolve_precision

    assert resolve_precision("auto", DEVICE) is None
    SETTINGS.capability = (7, 5)
    assert resolve_precision("auto", DEVICE) is torch.float16
    half = new(simclr, DEVICE).fit(X)
    whole = new(simclr, DEVICE, precision="float32").fit(X)
    np.testing.assert_allclose(half.loss_curve_, whole.loss_curve_, rtol=0.05)
    SETTINGS.bfloat16 = True
    assert resolve_precision("auto", DEVICE) is torch.bfloat16


def test_the_device_is_the_current_one_in_fit_and_transform():
    module, found = torch.get_device_module(DEVICE), []

    class Noting(nn.Module):
        def forward(self, x):
            if x.device == DEVICE:
                found.append(module.current_device())
            return x

    encoder = nn.Sequential(*tiny(3), Noting())
    with module.device(OTHER):
        new(simclr, DEVICE, encoder=encoder, max_epochs=1).fit(X).transform(X)
        assert set(found) == {0} and module.current_device() == 1


def test_a_training_of_some_seconds_waits_for_marks():
    from sklearn_simclr.training import Plan
    from sklearn_simclr.training.clock import Clock

    plan = Plan(1, 4, "sgd", 0.1, lambda fraction: 1.0, seed=0, max_time=1000.0, device=OTHER)
    with Clock(plan, 8, "Training") as clock:
        for _ in range(5):
            clock.tick(torch.zeros(()))
    assert [mark.device for mark in clock.marks] == [OTHER, OTHER]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_pace_is_measured_on_the_device():
    class End(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    assert new(simclr, DEVICE, max_time=600.0, callbacks=[End()]).fit(X).n_iter_ == 1


def test_tensors_go_from_one_device_to_another(monkeypatch):
    from sklearn_simclr._utils import devices

    assert devices.send([torch.ones(2, device=OTHER)], DEVICE)[0].device == DEVICE
    monkeypatch.setattr(devices, "pins_memory", lambda device: False)
    copies = devices.Copies(OTHER)
    assert copies.receive(*copies.send(torch.ones(2))).device == OTHER
    with pytest.raises(ValueError, match="cannot be used here: pretended: invalid device ordinal 2"):
        devices.resolve_device("pretended:2")


def test_marks_copies_and_states_are_those_of_the_device():
    from sklearn_simclr._utils import devices

    assert devices.mark(OTHER).device == OTHER
    copies = devices.Copies(OTHER)
    assert copies.receive(*copies.send(torch.ones(2))).device == OTHER
    assert set(devices.generator_states(OTHER)) == {"cpu", OTHER.type}


def test_report_export_and_cache(tmp_path):
    from sklearn_simclr import (
        export_encoder,
        load_encoder,
        load_estimator,
        representation_report,
        save_estimator,
    )

    known = {"encoder": "compact", "memory": str(tmp_path / "cache"), "max_epochs": 1}
    fitted = new(SimCLRTransformer, DEVICE, **known).fit(X)
    again = new(SimCLRTransformer, DEVICE, **known).fit(X)
    expected = fitted.transform(X)
    np.testing.assert_array_equal(again.transform(X), expected)
    assert str(representation_report(fitted, X))
    save_estimator(fitted, tmp_path / "estimator.safetensors")
    loaded = load_estimator(tmp_path / "estimator.safetensors")
    np.testing.assert_allclose(loaded.set_params(device="cpu").transform(X), expected, atol=1e-5)
    export_encoder(fitted, tmp_path / "encoder.safetensors")
    assert load_encoder(tmp_path / "encoder.safetensors") is not None


def test_images_that_do_not_fit_are_brought_batch_by_batch():
    SETTINGS.free = {0: 1000, 1: 1000}
    there, here = (new(simclr, device).fit(X) for device in (DEVICE, "cpu"))
    np.testing.assert_allclose(there.transform(X), here.transform(X), rtol=1e-3, atol=1e-4)


def test_evaluation_is_that_of_the_cpu():
    from sklearn_simclr import LinearEvaluationClassifier, WeightedKNNClassifier

    F = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    labels = np.arange(60) % 3
    F[np.arange(60), labels] += 2
    known = {"penalties": [1e-2, 1e-1], "random_state": 0, "standardize": True}
    linear = [LinearEvaluationClassifier(device=DEVICE, **known).fit(F, labels)]
    assert SYNCS  # it is computed there
    linear.append(LinearEvaluationClassifier(device="cpu", **known).fit(F, labels))
    np.testing.assert_allclose(linear[0].coef_, linear[1].coef_, rtol=1e-3, atol=1e-4)
    votes = [
        WeightedKNNClassifier(n_neighbors=5, device=d).fit(F, labels).predict_proba(F)
        for d in (DEVICE, "cpu")
    ]
    np.testing.assert_allclose(*votes, atol=1e-5)


def test_transformers_and_classifiers_within_others_have_their_device():
    from sklearn_simclr import transfer_evaluation

    assert SimCLRClassifier(device=DEVICE)._transformer()[0].device == DEVICE
    known = {"protocols": ["linear"], "validation": np.arange(6), "penalties": [0.1], "random_state": 0}
    found = transfer_evaluation(pretrained(), X, Y, X_test=X, y_test=Y, device=DEVICE, **known)
    assert found.estimators["linear"][-1].device == DEVICE
