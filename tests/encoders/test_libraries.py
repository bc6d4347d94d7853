"""Random weights in the place of torchvision's and timm's: features, channels, downloads, files."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch
import torchvision
from helpers import same
from sklearn.base import clone
from torch import nn

from sklearn_simclr import (
    SimCLRClassifier,
    SimCLRTransformer,
    export_encoder,
    load_encoder,
    load_estimator,
    load_pretrained,
    representation_report,
    save_estimator,
)
from sklearn_simclr.encoders import convert_checkpoint
from sklearn_simclr.encoders.description import build_network
from sklearn_simclr.encoders.libraries import LibraryNetwork
from sklearn_simclr.encoders.preprocessing import PreprocessedNetwork

SMALL = "torchvision:shufflenet_v2_x0_5"
VIT = "timm:test_vit.r160_in1k"  # of 0.4 million parameters
RESNET = "timm:test_resnet.r160_in1k"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of torch's hub, which no download comes into."""

    def fail(*args, **kwargs):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def draw(net):
    """Give a network other weights than new ones have, also in its BatchNorm statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def put_torchvision(cache, name, content=None, **options):
    """Put random weights where torch keeps its downloads; return the network and the weights' enum."""
    member = torchvision.models.get_model_weights(name).DEFAULT
    torch.manual_seed(0)
    net = draw(torchvision.models.get_model(name, weights=None, **options))
    torch.save(net.state_dict() if content is None else content, cache / member.url.rpartition("/")[2])
    return net, member


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of huggingface.co: a dict (repository, file): path, and a list of what was asked for."""
    pytest.importorskip("timm")
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    files, asked = {}, []

    def download(repository, file, *, revision, local_files_only):
        asked.append((repository, file, local_files_only))
        if (repository, file) not in files:
            raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub.")
        return str(files[repository, file])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return files, asked


def put_timm(hub, weights, folder):
    """Put random weights into the cache; return the network without its classifier."""
    import timm
    from safetensors.torch import save_file

    name = weights.removeprefix("timm:")
    torch.manual_seed(0)
    net = draw(timm.create_model(name, pretrained=False))
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    hub[0][repository, "model.safetensors"] = folder / "model.safetensors"
    save_file(net.state_dict(), folder / "model.safetensors")
    net.reset_classifier(0)
    return net


@pytest.fixture
def images():
    """Smooth images: Pillow clips in between, and rounds to 8 bits."""
    coarse = torch.rand(6, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (60, 80), mode="bilinear")
    return (64 + 127 * smooth.permute(0, 2, 3, 1)).to(torch.uint8).numpy()


def frozen(weights, **params):
    return SimCLRTransformer(weights=weights, max_epochs=0, random_state=0, **params)


def prepared(transform, X):
    to_image = torchvision.transforms.functional.to_pil_image
    return torch.stack([transform(to_image(x)) for x in X])


# ---- torchvision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, head",
    [
        ("shufflenet_v2_x0_5", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
    ],
)
def test_features_of_torchvision(cache, images, name, head):
    net, member = put_torchvision(cache, name)
    net.set_submodule(head, nn.Identity())
    batch = prepared(member.transforms(), images)
    with torch.no_grad():
        expected = net(batch).numpy()
    simclr = frozen(f"torchvision:{name}").fit(images)
    h = simclr.transform(images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(h, expected, atol=0.02 * scale)
    assert same(frozen(member).fit(images).encoder_.state_dict(), simclr.encoder_.state_dict())
    # Exactly those of the network on the same batch.
    with torch.no_grad():
        np.testing.assert_allclose(simclr.encoder_.network(batch), expected, rtol=1e-4, atol=1e-5 * scale)


def test_a_network_with_further_classifiers(cache):
    options = {"init_weights": False, "transform_input": True}
    net, member = put_torchvision(cache, "googlenet", **options)
    batch = torch.rand(2, 3, 96, 96)
    encoder = load_pretrained("torchvision:googlenet").encoder
    net.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch), net(batch))
        assert encoder.train()(batch).shape == (2, 1024)
    # The first layer is not given the image.
    X = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 5), dtype=np.uint8)
    with pytest.raises(
        ValueError, match="takes images of 3 channels.*have 5. Convert the images, since GoogLeNet does not"
    ):
        frozen("torchvision:googlenet", image_shape="HWC").fit(X)


def test_a_linear_classifier_is_kept(cache):
    net, member = put_torchvision(cache, "mobilenet_v3_small")
    batch = torch.rand(2, 3, 240, 300)
    with torch.no_grad():
        expected = net(member.transforms()(batch))
    torch.testing.assert_close(load_pretrained("torchvision:mobilenet_v3_small").logits(batch), expected)


def test_default_weights_and_certain_ones(cache):
    v2 = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    state = {k: v.half() for k, v in torchvision.models.resnet50(weights=None).state_dict().items()}
    torch.save(state, cache / v2.url.rpartition("/")[2])
    for name in ("torchvision:resnet50", "torchvision:ResNet50_Weights.DEFAULT", v2):
        loaded = load_pretrained(name)
        assert loaded.name == "torchvision:ResNet50_Weights.IMAGENET1K_V2"
        assert loaded.preprocessing.crop_fraction == 224 / 232
    with pytest.raises(FileNotFoundError, match="resnet50-0676ba61.pth"):
        load_pretrained("torchvision:ResNet50_Weights.IMAGENET1K_V1")


def test_torchvision_pickles_are_not_opened(cache, capsys):
    class Loud:
        def __reduce__(self):
            return print, ("this ran",)

    put_torchvision(cache, "shufflenet_v2_x0_5", content={"fc.weight": Loud()})
    before = dict(os.environ)
    with pytest.raises(pickle.UnpicklingError):
        load_pretrained(SMALL)
    assert capsys.readouterr().out == ""
    assert dict(os.environ) == before


# ---- timm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [VIT, RESNET])
def test_features_of_timm(hub, tmp_path, images, weights):
    import timm

    net = put_timm(hub, weights, tmp_path)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    batch = prepared(transform, images)
    with torch.no_grad():
        expected = net(batch).numpy()
    simclr = frozen(weights).fit(images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(simclr.transform(images), expected, atol=0.02 * scale)
    with torch.no_grad():
        np.testing.assert_allclose(simclr.encoder_.network(batch), expected, rtol=1e-4, atol=1e-5 * scale)
    assert hub[1][0][2]  # the cache first
    assert clone(simclr).set_params(encoder=weights).fit(images).transform(images).shape == expected.shape
    with pytest.raises(ValueError, match=f"is a {weights}, but encoder is 'compact'"):
        frozen(weights, encoder="compact").fit(images)


@pytest.mark.parametrize(
    "weights, message",
    [
        ("timm:resnet18.nope", r"no weights of that name. For resnet18 it has resnet18\.a1_in1k"),
        ("timm:nope", "has no network 'nope'"),
        ("timm:efficientnet_b8", "no weights of that name. For efficientnet_b8 it has none"),
    ],
)
def test_names_that_timm_does_not_know(hub, weights, message):
    with pytest.raises(ValueError, match=message):
        load_pretrained(weights)


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"sklearn-simclr\[timm\]"):
        load_pretrained(VIT)


def test_files_of_any_size_get_the_pixels_that_the_network_wants(hub, tmp_path, images):
    put_timm(hub, VIT, tmp_path)
    paths = []
    for i, shape in enumerate([(300, 200), (600, 400), (310, 205), (330, 220)]):
        image = torchvision.transforms.functional.to_pil_image(torch.from_numpy(images[i]).permute(2, 0, 1))
        image.resize(shape).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    simclr = frozen(VIT).fit(paths)
    # It resizes the shorter side to 168 pixels, and cuts out 160.
    assert simclr.image_shape_ == (168, 168, 3)
    assert np.isfinite(simclr.transform(paths)).all()


# ---- Downloads ---------------------------------------------------------------------------------------


def test_what_cannot_be_fetched_is_said_with_what_to_do(cache, hub, images):
    advice = r"convert_checkpoint\('{}', 'weights.safetensors'\), and pass the path of that file"
    full = "torchvision:ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    reasons = {full: "Name or service not known", VIT: "locate the file on the Hub"}
    for weights, reason in reasons.items():
        for download, said in ((True, reason), (False, "download=False")):
            with pytest.raises(FileNotFoundError, match=f"{said}.*{advice.format(weights)}"):
                load_pretrained(weights, download=download)
        with pytest.raises(FileNotFoundError, match=f"weights='{weights}': {weights} is not in .*{reason}"):
            frozen(weights).fit(images)
    assert frozen(SMALL).get_params()["weights"] == SMALL


def test_torchvision_weights_are_fetched(cache, images, monkeypatch):
    net, member = put_torchvision(cache, "shufflenet_v2_x0_5")
    path = cache / member.url.rpartition("/")[2]
    content = path.read_bytes()
    path.unlink()

    def fetch(url, place, *, hash_prefix, progress):
        assert (url, place, hash_prefix) == (member.url, str(path), "f707e7126e")
        path.write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert torch.equal(frozen(SMALL).fit(images).encoder_.network.module.conv1[0].weight, net.conv1[0].weight)


# ---- Channels ----------------------------------------------------------------------------------------


def test_grey_images_are_repeated(hub, tmp_path, images):
    put_timm(hub, VIT, tmp_path)
    grey = images[..., 0]
    expected = frozen(VIT).fit_transform(np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_allclose(frozen(VIT).fit_transform(grey), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights, channels", [(VIT, 5), (RESNET, 2), (SMALL, 5)])
def test_other_channels_share_the_weights_of_the_first_layer(hub, cache, tmp_path, images, weights, channels):
    if weights.startswith("timm:"):
        put_timm(hub, weights, tmp_path)
    else:
        put_torchvision(cache, weights.partition(":")[2])
    rgb = frozen(weights).fit(images).encoder_
    X = np.random.default_rng(0).integers(0, 256, (4, 20, 20, channels), dtype=np.uint8)
    with pytest.warns(UserWarning, match=f"X have {channels} channels.*see the mean.*max_epochs"):
        simclr = frozen(weights, image_shape="HWC").fit(X)
    first, other = (
        next(part for part in net.modules() if isinstance(part, nn.Conv2d)) for net in (rgb, simclr.encoder_)
    )
    assert other.in_channels == channels
    expected = first.weight.detach().numpy().sum(axis=1) / channels
    for channel in range(channels):
        np.testing.assert_allclose(other.weight[:, channel].detach(), expected, rtol=1e-5, atol=1e-7)
    # What all channels have in common is seen as a grey image is.
    network = simclr.encoder_.network
    same_everywhere = torch.rand(2, 1, *simclr.encoder_.preprocessing.sides)
    with torch.no_grad():
        found = network(same_everywhere.expand(-1, channels, -1, -1))
        grey = rgb.network(same_everywhere.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, grey, rtol=1e-4, atol=1e-4)
    assert simclr.encoder_.preprocessing.mean == (np.mean(rgb.preprocessing.mean),) * channels
    # Trained further there is nothing to warn of; and it is saved as any other.
    trained = SimCLRTransformer(weights=weights, image_shape="HWC", max_epochs=1, batch_size=4).fit(X)
    save_estimator(trained, tmp_path / "five")
    assert np.array_equal(load_estimator(tmp_path / "five").transform(X), trained.transform(X))


# ---- Training and files ------------------------------------------------------------------------------


def test_a_pretrained_network_is_trained_further(hub, tmp_path, images):
    put_timm(hub, VIT, tmp_path)
    begun = frozen(VIT).fit(images)
    trained = SimCLRTransformer(weights=VIT, max_epochs=1, batch_size=6, random_state=0).fit(images)
    assert trained.augmentation_.size == (160, 160)
    assert not same(begun.encoder_.state_dict(), trained.encoder_.state_dict())
    assert np.isfinite(trained.loss_curve_).all()
    tuned = SimCLRClassifier(begun, max_epochs=1, batch_size=6, random_state=0).fit(images, [0, 1] * 3)
    assert tuned.augmentation_.size == (160, 160)
    assert np.isfinite(tuned.predict_proba(images)).all()
    assert "untrained" in str(representation_report(trained, images, random_state=0))


@pytest.mark.parametrize("weights", [VIT, SMALL])
def test_files_without_the_cache(hub, cache, tmp_path, images, weights):
    if weights == VIT:
        put_timm(hub, weights, tmp_path)
    else:
        put_torchvision(cache, weights.partition(":")[2])
    simclr = frozen(weights).fit(images)
    h = simclr.transform(images)
    convert_checkpoint(weights, tmp_path / "converted.safetensors")
    how = export_encoder(simclr, tmp_path / "exported.safetensors")
    save_estimator(simclr, tmp_path / "saved.safetensors")
    hub[0].clear()
    for path in cache.iterdir():
        path.unlink()
    assert "load_encoder" in how
    assert load_encoder(tmp_path / "exported.safetensors").name == weights
    for file in ("converted.safetensors", "exported.safetensors"):
        again = frozen(tmp_path / file).fit(images)
        assert np.array_equal(again.transform(images), h)
    loaded = load_estimator(tmp_path / "saved.safetensors")
    assert np.array_equal(loaded.transform(images), h)
    assert isinstance(loaded.encoder_, PreprocessedNetwork)
    assert isinstance(loaded.encoder_.network, LibraryNetwork)
    assert np.array_equal(pickle.loads(pickle.dumps(simclr)).transform(images), h)
    made = {}
    exec(export_encoder(simclr, tmp_path / "encoder.pt", format="torch"), made)
    batch = torch.rand(2, 3, *simclr.encoder_.preprocessing.sides)
    with torch.no_grad():
        assert torch.equal(made["model"].eval()(batch), simclr.encoder_.network(batch))


def test_a_network_whose_shapes_torchvision_computes_is_read_too(cache, tmp_path):
    net, _ = put_torchvision(cache, "regnet_y_400mf")
    convert_checkpoint("torchvision:regnet_y_400mf", tmp_path / "converted")
    net.fc = nn.Identity()
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(tmp_path / "converted").encoder(batch), net(batch))


def test_onnx(hub, tmp_path, images):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    put_timm(hub, VIT, tmp_path)
    simclr = frozen(VIT).fit(images)
    export_encoder(simclr, tmp_path / "vit.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "vit.onnx", providers=["CPUExecutionProvider"])
    (h,) = session.run(None, {"images": images[:3]})
    np.testing.assert_allclose(h, simclr.transform(images[:3]), rtol=1e-3, atol=1e-3)


def test_networks_of_a_library_take_no_memory_before_their_arrays_are_counted():
    description = {"kind": "library", "name": "torchvision:regnet_y_400mf", "in_channels": 10**7}
    network = build_network({**description, "image_size": [64, 64]}, 1)
    assert all(parameter.is_meta for parameter in network.parameters())
