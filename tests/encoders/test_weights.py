"""SimCLRTransformer(weights=...): published and own encoders as they are, trained further, and bad files.

The networks have 8 channels where the published ones have 64.
"""

import dataclasses
import inspect
import os
import pickle
import subprocess
import sys
import textwrap

import bundle_writer as writer
import numpy as np
import pytest
import torch
import torchvision
from helpers import same
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_simclr import (
    Augmentation,
    SimCLRClassifier,
    SimCLRTransformer,
    SupervisedTransformer,
    export_encoder,
    load_encoder,
    load_estimator,
    save_estimator,
)
from sklearn_simclr._utils import container
from sklearn_simclr.encoders import resnet as _resnet
from sklearn_simclr.encoders.heads import ProjectionHead
from sklearn_simclr.encoders.preprocessing import PreprocessedNetwork
from sklearn_simclr.encoders.resnet import ResNet
from sklearn_simclr.encoders.weights._names import google_names
from sklearn_simclr.encoders.weights.pretrained import (
    Preprocessing,
    Pretrained,
    convert_checkpoint,
    load_pretrained,
    save_pretrained,
)

NORMALISED = Preprocessing(20, 0.875, "bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(_resnet, "BASE_CHANNELS", 8)


def draw(module, seed):
    """Give a network numbers, also to its BatchNorm statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            fan_in = max(1, tensor[0].numel() if tensor.ndim > 1 else 1)
            center = 1.0 if name.endswith("var") else 0.0
            tensor.copy_(noise.abs() * 0.3 + center if tensor.ndim == 1 else noise * (2 / fan_in) ** 0.5)
    return module.eval()


def network(seed=0, preprocessing=NORMALISED, head_layers=3, **options):
    encoder = draw(ResNet(18, stem="small", pool_padding="same", **options), seed)
    head = head_layers and draw(ProjectionHead(encoder.out_dim, 16, head_layers), seed + 1)
    return Pretrained(encoder, preprocessing, head or None, name="drawn")


@pytest.fixture
def file(tmp_path):
    """A file of safetensors whose preprocessing cuts, resizes and normalises."""
    save_pretrained(network(), tmp_path / "drawn.safetensors")
    return tmp_path / "drawn.safetensors"


@pytest.fixture
def headless(tmp_path):
    save_pretrained(network(head_layers=0), tmp_path / "headless.safetensors")
    return tmp_path / "headless.safetensors"


@pytest.fixture(scope="module")
def images():
    """float32 in [0, 1], a whole batch of the network."""
    X = np.random.default_rng(0).random((64, 16, 24, 3), dtype=np.float32)
    X[0, 0, 0], X[0, 0, 1] = 0, 1
    X.setflags(write=False)
    return X


def to_torch(X):
    return torch.from_numpy(np.ascontiguousarray(X.transpose(0, 3, 1, 2)))


def as_it_is(weights, **params):
    return SimCLRTransformer(weights=weights, max_epochs=0, random_state=0, **params)


def trained(weights, **params):
    return SimCLRTransformer(weights=weights, random_state=0, **{"max_epochs": 1, "batch_size": 32, **params})


@torch.no_grad()
def reference(pretrained, X, layer=0):
    """What the network gives, batch by batch: roundings depend on the length of a batch."""
    rows = max(16, 2**16 // pretrained.preprocessing.size**2)
    batch = pretrained.preprocessing(to_torch(X), channels=3)
    h = torch.cat([pretrained.encoder(part) for part in batch.split(rows)])
    return (pretrained.projector(h, layer) if layer else h).numpy()


def state(simclr):
    modules = {"encoder": simclr.encoder_, "projector": simclr.projector_}
    return {f"{n}.{k}": v.clone() for n, m in modules.items() for k, v in m.state_dict().items()}


def numbers(simclr):
    """Without the counters of BatchNorm, which only training uses."""
    return {k: v for k, v in state(simclr).items() if not k.endswith("num_batches_tracked")}


def write_checkpoint(prefix, pretrained):
    """Write a network as the authors' TensorFlow would."""
    names = google_names(pretrained.encoder, pretrained.projector, None)
    parts = {"encoder": pretrained.encoder, "projector": pretrained.projector}
    tensors = {f"{n}.{k}": v for n, m in parts.items() for k, v in m.state_dict().items()}
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    variables = {theirs: tensors[ours].numpy() for ours, theirs in names.items()}
    variables = {name: values.transpose(axes[values.ndim]) for name, values in variables.items()}
    writer.write_bundle(prefix, {**variables, "global_step": np.array(7)})


# ---- The published encoder as it is ----------------------------------------------------------


def test_transform_is_the_network_of_the_file_bit_for_bit(file, images):
    # Of this side a batch is 16 images.
    save_pretrained(network(preprocessing=dataclasses.replace(NORMALISED, size=64)), file)
    simclr = as_it_is(file).fit(images)
    pretrained = load_pretrained(file)
    h = simclr.transform(images)
    assert h.dtype == np.float32
    assert np.array_equal(h, reference(pretrained, images))
    assert not np.allclose(h, pretrained.encoder(to_torch(images)).detach().numpy(), atol=0.1)
    assert simclr.n_iter_ == 0
    assert simclr.loss_curve_ == []
    for output, layer in (("projection", 3), (1, 1), (3, 3)):
        simclr.set_params(output=output)
        assert np.array_equal(simclr.transform(images), reference(pretrained, images, layer))
        assert len(simclr.get_feature_names_out()) == simclr.transform(images[:2]).shape[1]


def test_bytes_and_grey_images(file, images):
    X = (images * 255).round().astype(np.uint8)
    pretrained = load_pretrained(file)
    expected = reference(pretrained, X.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(as_it_is(file).fit_transform(X), expected, rtol=1e-4, atol=1e-4)
    grey = X[..., 0]
    expected = as_it_is(file).fit_transform(np.stack([grey] * 3, axis=-1))
    np.testing.assert_allclose(as_it_is(file).fit_transform(grey), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["prefix", "folder", "index"])
def test_a_checkpoint_of_tensorflow(tmp_path, images, form):
    pretrained = network(preprocessing=Preprocessing(32, 1.0))
    folder = tmp_path / "published"
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt-7", pretrained)
    path = {"prefix": folder / "model.ckpt-7", "folder": folder, "index": folder / "model.ckpt-7.index"}[form]
    simclr = as_it_is(str(path)).fit(images)
    assert np.array_equal(simclr.transform(images), reference(pretrained, images))
    assert simclr.projector_.n_layers == 3
    convert_checkpoint(path, tmp_path / "converted.safetensors")
    again = as_it_is(tmp_path / "converted.safetensors").fit(images)
    assert np.array_equal(again.transform(images), simclr.transform(images))


def test_torchvision_weights_by_enum_and_by_name(tmp_path, monkeypatch, images):
    # The smallest of torchvision's networks, of the width it has there.
    monkeypatch.setattr(_resnet, "BASE_CHANNELS", 64)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    member = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    name = "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    (tmp_path / "checkpoints").mkdir()
    net = torchvision.models.resnet18().eval()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / member.url.rpartition("/")[2])
    net.fc = torch.nn.Identity()
    few = images[:16]
    with torch.no_grad():
        preprocess = member.transforms(antialias=True)
        enlarged = load_pretrained(member).preprocessing(to_torch(few))
        expected = net(enlarged).numpy()
    assert enlarged.shape[-1] == preprocess.crop_size[0] == 224
    by_enum, by_name = as_it_is(member).fit(few), as_it_is(name).fit(few)
    np.testing.assert_allclose(by_enum.transform(few), expected, rtol=1e-4, atol=1e-5)
    assert same(state(by_enum), state(by_name))
    save_estimator(by_enum, tmp_path / "saved")
    assert load_estimator(tmp_path / "saved").weights == name


@pytest.mark.parametrize("encoder", ["compact", "compactx0.5", "resnet18", "resnet18-sk"])
@pytest.mark.parametrize("head_layers", [0, 2])
def test_an_exported_encoder_of_ours(tmp_path, digits, encoder, head_layers):
    X = digits[0][:64]
    params = {"batch_size": 32, "max_epochs": 1, "projection_layers": head_layers, "projection_dim": 7}
    first = SimCLRTransformer(encoder, random_state=0, **params).fit(X)
    export_encoder(first, tmp_path / "mine.safetensors")
    second = as_it_is(tmp_path / "mine.safetensors", projection_layers=head_layers).fit(X)
    # The side is that of the images, so that there is nothing to prepare.
    assert type(second.encoder_) is type(first.encoder_)
    assert same(numbers(first), numbers(second))
    second.set_params(output="projection")
    first.set_params(output="projection")
    assert np.array_equal(first.transform(X), second.transform(X))
    # Of another size they are brought to that of the file.
    larger = np.kron(X, np.ones((1, 3, 3)))
    third = as_it_is(tmp_path / "mine.safetensors", projection_layers=head_layers).fit(larger)
    resized = Preprocessing(8, 1.0)(torch.from_numpy(larger[:, None] / 16).float(), channels=1)
    expected = second.set_params(output="encoder", pixel_range=(0, 1)).fit(resized.numpy())
    found = third.transform(larger)
    np.testing.assert_allclose(found, expected.transform(resized.numpy()), rtol=1e-3, atol=1e-4)


def test_load_pretrained_reads_every_exported_encoder(tmp_path, digits, file, images):
    X, y = digits[0][:64], digits[1][:64]
    exported = {
        "compact": SimCLRTransformer(max_epochs=0).fit(X),
        "supervised": SupervisedTransformer(max_epochs=0).fit(X, y),
        "tuned": SimCLRClassifier(SimCLRTransformer(max_epochs=0), max_epochs=0, head_layer=1).fit(X, y),
        "prepared": as_it_is(file).fit(images),
    }
    for name, estimator in exported.items():
        path = tmp_path / f"{name}.safetensors"
        export_encoder(estimator, path)
        loaded, other = load_pretrained(path), load_encoder(path)
        assert type(loaded.encoder) is type(other.encoder) is type(estimator.encoder_)
        assert (loaded.name, loaded.preprocessing) == (other.name, other.preprocessing)
        assert loaded.classifier_layer == other.classifier_layer == int(name == "tuned")
        for part in ("encoder", "projector", "classifier"):
            one, two = getattr(loaded, part), getattr(other, part)
            assert (one is None) == (two is None)
            if one is not None:
                assert same(one.state_dict(), two.state_dict())
        # And the same in the format of save_pretrained.
        convert_checkpoint(path, tmp_path / "converted.safetensors")
        again = load_pretrained(tmp_path / "converted.safetensors")
        assert same(again.encoder.state_dict(), loaded.encoder.state_dict())


def test_the_name_of_the_encoder_may_be_given_and_must_be_right(file, images):
    assert as_it_is(file, encoder="resnet18").fit(images).encoder_.out_dim == 64
    for wrong, shown in (
        ("resnet50", "'resnet50'"),
        ("compact", "'compact'"),
        (torch.nn.Flatten(), "Flatten"),
    ):
        with pytest.raises(ValueError, match=f"is a resnet18, but encoder is {shown}.*encoder='auto'"):
            as_it_is(file, encoder=wrong).fit(images)


def test_features_of_one_image_do_not_depend_on_the_others(file, images):
    simclr = as_it_is(file).fit(images)
    assert np.array_equal(simclr.transform(images)[5:6], simclr.transform(images[5:6]))


def test_large_inputs_go_through_the_network_in_parts(images):
    sizes = []
    encoder = ResNet(18, stem="small").eval()
    encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    whole = PreprocessedNetwork(encoder, Preprocessing(64, 1.0)).eval()
    batch = to_torch(images)
    with torch.no_grad():
        h = whole(batch)
        assert sizes == [16] * 4
        np.testing.assert_allclose(h[:16], whole(batch[:16]), rtol=1e-4, atol=1e-5)
        whole.train()(batch)  # BatchNorm needs all of them at once
    whole.eval()(batch[:20]).sum().backward()
    assert sizes == [16] * 5 + [64, 20]


# ---- Training from the weights ---------------------------------------------------------------


def test_training_begins_with_the_weights_and_changes_them(file, images):
    begun = state(as_it_is(file).fit(images))
    after = state(trained(file).fit(images))
    assert begun.keys() == after.keys()
    moved = {k for k in begun if not torch.equal(begun[k], after[k])}
    assert moved == begun.keys()
    # A step of next to nothing leads next to nowhere: it did begin there.
    near = state(trained(file, learning_rate=1e-9, optimizer="sgd", weight_decay=0).fit(images))
    for name in begun:
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(near[name], begun[name], rtol=1e-5, atol=1e-6)


def test_training_from_weights_is_deterministic(file, images):
    first, second = trained(file).fit(images), trained(file).fit(images)
    assert same(state(first), state(second))
    assert np.array_equal(first.transform(images), second.transform(images))
    assert not same(state(first), state(trained(file).set_params(random_state=1).fit(images)))


@pytest.mark.parametrize("size", [20, (20, 28)])
def test_views_in_training_enter_the_network_whole(tmp_path, images, monkeypatch, size):
    """They are made at its size and normalised; nothing is cut off, as it is from images in transform."""
    given, made = [], []
    forward, apply = ResNet.forward, Augmentation._apply

    def record_batch(self, batch):
        given.append((self.training, batch.detach().clone()))
        return forward(self, batch)

    def record_views(self, X, draws):
        made.append(apply(self, X, draws))
        return made[-1]

    monkeypatch.setattr(ResNet, "forward", record_batch)
    monkeypatch.setattr(Augmentation, "_apply", record_views)
    save_pretrained(network(preprocessing=dataclasses.replace(NORMALISED, size=size)), tmp_path / "file")
    simclr = trained(tmp_path / "file").fit(images)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert simclr.augmentation_.size == (height, width)
    steps = [batch for training, batch in given if training]
    assert len(steps) == len(made) == 2
    mean, std = (torch.tensor(values)[:, None, None] for values in (NORMALISED.mean, NORMALISED.std))
    for batch, views in zip(steps, made, strict=True):
        assert views.shape == (64, 3, height, width)
        torch.testing.assert_close(batch, (views - mean) / std, rtol=1e-5, atol=1e-6)
    # Views of another size that a user asks for are resized whole.
    del given[:], made[:]
    trained(tmp_path / "file", augmentation=Augmentation(size=(10, 12))).fit(images)
    batch, views = next(batch for training, batch in given if training), made[0]
    assert views.shape[2:] == (10, 12)
    whole = torch.nn.functional.interpolate(views, (height, width), mode="bilinear", antialias=True)
    torch.testing.assert_close(batch, (whole - mean) / std, rtol=1e-5, atol=1e-6)
    # score compares such views, too.
    del given[:], made[:]
    simclr.score(images)
    assert [training for training, _ in given] == [False] * len(given)
    found = torch.cat([batch for _, batch in given])[: len(made[0])]
    torch.testing.assert_close(found, (made[0] - mean) / std, rtol=1e-5, atol=1e-6)


def test_a_head_of_the_file_is_kept_whatever_the_parameters_of_new_heads(file, images):
    simclr = trained(file, projection_layers=2, projection_dim=5).fit(images)
    assert (simclr.projector_.n_layers, simclr.projector_.out_dim) == (3, 16)


def test_a_new_head_where_the_file_has_none(headless, images):
    simclr = as_it_is(headless).fit(images)
    assert simclr.projector_.n_layers == 0
    assert 0 <= simclr.score(images) <= 1
    for output in ("projection", 1):
        simclr.set_params(output=output)
        with pytest.raises(ValueError, match="has no projection head.*output='encoder'.*max_epochs"):
            simclr.transform(images)
    simclr.set_params(output="encoder", max_epochs=1, warm_start=True, projection_dim=128).fit(images)
    assert (simclr.projector_.n_layers, simclr.projector_.out_dim) == (2, 128)
    cold = trained(headless, projection_layers=3, projection_dim=9, output="projection").fit(images)
    assert cold.transform(images).shape == (64, 9)
    assert same(state(cold), state(trained(headless, projection_layers=3, projection_dim=9).fit(images)))
    without = as_it_is(headless, projection_layers=0, output="projection").fit(images)
    assert without.transform(images).shape == (64, 64)


def test_partial_fit_goes_on_from_the_weights(headless, images):
    simclr = as_it_is(headless).fit(images)
    first = "encoder.network.conv1.weight"
    before = state(simclr)[first]
    simclr.partial_fit(images).partial_fit(images)
    assert simclr.n_iter_ == 2
    assert simclr.projector_.n_layers == 2
    assert not torch.equal(state(simclr)[first], before)


def test_warm_start_refuses_other_weights(file, headless, images):
    simclr = as_it_is(file, warm_start=True).fit(images)
    simclr.set_params(weights=headless)
    with pytest.raises(ValueError, match="weights changed from .*drawn.*headless"):
        simclr.fit(images)


def test_the_first_layer_of_a_compact_network_is_that_of_the_file(tmp_path, digits):
    X = digits[0]
    export_encoder(SimCLRTransformer(max_epochs=0, random_state=0).fit(X[:50]), tmp_path / "few")
    stem = load_pretrained(tmp_path / "few").encoder.stem.weight
    for simclr in (as_it_is(tmp_path / "few"), trained(tmp_path / "few")):
        assert torch.equal(simclr.fit(X[50:200]).encoder_.stem.weight, stem)


# ---- What else works with every estimator -----------------------------------------------------


def test_clone_params_pickle_and_pandas(file, images, tmp_path):
    simclr = as_it_is(file)
    assert simclr.get_params()["weights"] == clone(simclr).weights == file
    assert "weights" in repr(simclr)
    assert not hasattr(clone(simclr.fit(images)), "encoder_")
    h = simclr.transform(images)
    file.unlink()  # what is fitted does without
    assert np.array_equal(pickle.loads(pickle.dumps(simclr)).transform(images), h)
    save_estimator(simclr, tmp_path / "saved.safetensors")
    loaded = load_estimator(tmp_path / "saved.safetensors")
    assert np.array_equal(loaded.transform(images), h)
    assert loaded.weights == str(file)
    assert loaded.encoder_.preprocessing == NORMALISED
    frame = simclr.set_output(transform="pandas").transform(images)
    assert list(frame.columns[:2]) == ["simclrtransformer0", "simclrtransformer1"]


def test_a_pipeline_with_labels(file, images):
    y = np.arange(64) % 3
    classifier = LogisticRegression(max_iter=5000)
    model = make_pipeline(as_it_is(file), classifier).fit(images, y)
    expected = clone(classifier).fit(reference(load_pretrained(file), images), y)
    np.testing.assert_allclose(model[-1].coef_, expected.coef_, atol=1e-2)


def test_memory_knows_the_numbers_in_a_file_and_not_its_name(file, headless, images, tmp_path):
    params = {"memory": str(tmp_path / "cache"), "max_epochs": 1}
    first = trained(file, **params).fit(images)
    other = tmp_path / "other.safetensors"
    other.write_bytes(file.read_bytes())
    found = trained(other, **params).fit(images)
    assert found.history_["seconds"].tolist() == first.history_["seconds"].tolist()
    save_pretrained(network(seed=5), file)
    changed = trained(file, **params).fit(images)
    assert not same(state(changed), state(first))
    save_pretrained(dataclasses.replace(network(), preprocessing=Preprocessing(16, 1.0)), file)
    assert not same(state(trained(file, **params).fit(images)), state(first))
    # Without a seed, too: the head that is drawn is no part of the key.
    unseeded = [trained(headless, **params).set_params(random_state=None).fit(images) for _ in range(2)]
    assert same(state(unseeded[0]), state(unseeded[1]))


def test_an_interrupted_training_goes_on(file, images, tmp_path):
    class Interrupt(BaseException):
        pass

    from skorch.callbacks import Callback

    class InterruptAfter(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                raise Interrupt

    whole = trained(file, max_epochs=4).fit(images)
    parts = trained(file, max_epochs=4, checkpoint_dir=tmp_path / "state", callbacks=[InterruptAfter()])
    with pytest.raises(Interrupt):
        parts.fit(images)
    assert not hasattr(parts, "encoder_")
    parts.set_params(callbacks=None).fit(images)
    assert same(state(parts), state(whole))
    with pytest.raises(ValueError, match="checkpoint_dir"):
        parts.set_params(max_epochs=3).fit(images)


def test_fine_tuning_published_weights(file, headless, images, tmp_path):
    X = images.copy()
    y = np.arange(64) % 2
    X[y == 1] *= 0.1
    params = {"max_epochs": 15, "batch_size": 32, "start": "zero", "random_state": 0}
    for path in (file, headless):
        classifier = SimCLRClassifier(as_it_is(path), **params).fit(X, y)
        assert classifier.score(X, y) > 0.9
        begun, tuned = classifier.pretrained_.encoder_, classifier.encoder_
        assert same(begun.state_dict(), as_it_is(path).fit(X).encoder_.state_dict())
        assert not same(begun.state_dict(), tuned.state_dict())
        assert tuned.preprocessing == NORMALISED
        shared = SimCLRClassifier(FrozenEstimator(classifier.pretrained_), **params).fit(X, y)
        assert np.array_equal(shared.predict_proba(X), classifier.predict_proba(X))
        save_estimator(classifier, tmp_path / "tuned")
        assert np.array_equal(
            load_estimator(tmp_path / "tuned").predict_proba(X), classifier.predict_proba(X)
        )
    with pytest.raises(ValueError, match="head_layer=1, but the projection head has 0 layers"):
        SimCLRClassifier(as_it_is(headless), head_layer=1).fit(X, y)
    hidden = SimCLRClassifier(as_it_is(file), head_layer=1, max_epochs=1, random_state=0).fit(X, y)
    assert len(hidden.head_) == 1


# ---- Bad files and parameters ----------------------------------------------------------------


def bad_weights(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    save_pretrained(network(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    text = tmp_path / "text.txt"
    text.write_text("no weights")
    pickled = tmp_path / "pickled.pth"
    pickled.write_bytes(pickle.dumps(pickle.Unpickler))
    return [
        (3, (TypeError, ValueError), "'weights' parameter"),
        (torch.zeros(2), (TypeError, ValueError), "'weights' parameter"),
        (tmp_path / "none.safetensors", FileNotFoundError, "none.safetensors"),
        ("https://example.org/weights", ValueError, "is a network address"),
        ("torchvision:ResNet50_Weights.NOT_THERE", ValueError, "no weights"),
        ("torchvision:FCN_ResNet50_Weights.DEFAULT", ValueError, "not of an image classifier"),
        (torch.serialization.LoadEndianness.LITTLE, TypeError, "weights must be a path"),
        (damaged, ValueError, "damaged"),
        (text, ValueError, "text.txt is not a known file of weights"),
        (pickled, ValueError, "pickle"),
    ]


@pytest.mark.parametrize("case", range(10))
def test_bad_weights_leave_the_estimator_as_it_was(tmp_path, file, images, case):
    weights, error, message = bad_weights(tmp_path)[case]
    unfitted = as_it_is(weights)
    with pytest.raises(error, match=message):
        unfitted.fit(images)
    assert not hasattr(unfitted, "encoder_")
    simclr = as_it_is(file).fit(images)
    before, h = dict(vars(simclr)), simclr.transform(images)
    simclr.set_params(weights=weights)
    with pytest.raises(error, match=message):
        simclr.fit(images[:, :10, :10])
    assert vars(simclr).keys() == before.keys()
    assert all(vars(simclr)[name] is before[name] for name in before if name != "weights")
    assert np.array_equal(simclr.transform(images), h)


def test_images_of_other_channels(file, tmp_path, digits):
    """The mean of the first layer's weights sees each channel; a layer made from images is left as it is."""
    X = np.random.default_rng(0).random((8, 16, 16, 4))
    with pytest.warns(UserWarning, match="images of X have 4 channels"):
        simclr = as_it_is(file, image_shape="HWC").fit(X)
    weight = load_pretrained(file).encoder.conv1.weight
    found = simclr.encoder_.network.conv1.weight
    torch.testing.assert_close(found, weight.sum(1, keepdim=True).expand(-1, 4, -1, -1) / 4)
    assert simclr.encoder_.preprocessing.mean == (0.5,) * 4
    save_estimator(simclr, tmp_path / "four")
    assert np.array_equal(load_estimator(tmp_path / "four").transform(X), simclr.transform(X))
    export_encoder(SimCLRTransformer(max_epochs=0).fit(digits[0][:50]), tmp_path / "grey")
    with pytest.raises(
        ValueError, match="takes images of 1 channels.*have 3. Convert the images, since .*CompactNet"
    ):
        as_it_is(tmp_path / "grey").fit(np.random.default_rng(0).random((8, 16, 16, 3)))


def test_heads_that_do_not_fit_the_encoder_are_refused(tmp_path, digits):
    """A head for a wider encoder whose tensors are those of this one's head."""
    path = tmp_path / "mine.safetensors"
    export_encoder(SimCLRTransformer(max_epochs=0).fit(digits[0][:50]), path)
    arrays, meta = container.read(path, "encoder")
    meta["networks"]["projector"]["in_dim"] += 1
    container.write(path, "encoder", arrays, meta)
    with pytest.raises(ValueError, match="takes 433 features, but the encoder gives 432") as caught:
        as_it_is(path).fit(digits[0][:50])
    assert str(path) in str(caught.value)


def test_a_network_of_your_own_is_no_file_of_save_pretrained(tmp_path):
    module = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(TypeError, match="Conv2d, which is not of this package"):
        save_pretrained(Pretrained(module, Preprocessing(8, 1.0)), tmp_path / "mine")
    assert os.listdir(tmp_path) == []


# ---- Memory ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_in_memory_once(tmp_path, monkeypatch):
    """Of a network of 230 MB, fit takes at most 1.3 times that beside the libraries and what it warms up."""
    monkeypatch.setattr(_resnet, "BASE_CHANNELS", 64)
    path = tmp_path / "large.safetensors"
    with torch.device("meta"):
        encoder = ResNet(152, stem="small")
    encoder.to_empty(device="cpu").load_state_dict({k: v.zero_() for k, v in encoder.state_dict().items()})
    save_pretrained(Pretrained(encoder, Preprocessing(4, 1.0)), path)
    save_pretrained(Pretrained(ResNet(18, stem="small"), Preprocessing(4, 1.0)), tmp_path / "small")
    size = path.stat().st_size
    assert size > 2.2e8
    script = f"""
        import numpy as np
        from sklearn_simclr import SimCLRTransformer

        def memory(name):
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

        X = np.zeros((2, 4, 4, 3), np.uint8)
        X[0] = 255
        SimCLRTransformer(weights={str(tmp_path / "small")!r}, max_epochs=0).fit(X)
        before = memory("VmRSS:")
        simclr = SimCLRTransformer(weights={str(path)!r}, max_epochs=0).fit(X)
        print(memory("VmHWM:") - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert 0.9 * size < int(done.stdout) < 1.3 * size


def test_exported_state_fills_the_network_that_the_lines_build(file, images, tmp_path):
    simclr = as_it_is(file).fit(images)
    how = export_encoder(simclr, tmp_path / "encoder.pt", format="torch")
    made = {}
    exec(how, made)
    pretrained = load_pretrained(file)
    assert same(made["state"], pretrained.encoder.state_dict())
    x = pretrained.preprocessing(to_torch(images))
    assert torch.equal(made["model"].eval()(x), pretrained.encoder(x))
    assert "Preprocessing(" in how
    assert "0.875" in how


def test_onnx_export_has_the_preprocessing_inside(file, images, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    simclr = as_it_is(file).fit(images)
    if not inspect.signature(torch.onnx.export).parameters["dynamo"].default:
        # The exporter that torch preferred up to 2.8 has no antialiased resize: it is refused in words.
        with pytest.raises(ValueError, match="cannot be written as an ONNX graph.*upsample.*safetensors"):
            export_encoder(simclr, tmp_path / "encoder.onnx", format="onnx")
        return
    export_encoder(simclr, tmp_path / "encoder.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (h,) = session.run(None, {session.get_inputs()[0].name: images[:5]})
    np.testing.assert_allclose(h, simclr.transform(images[:5]), rtol=1e-4, atol=1e-4)
