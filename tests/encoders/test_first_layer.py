"""The first layer that is set from images: which patches it is made from, and their components."""

import numpy as np
import pytest
import torch

from sklearn_simclr.encoders import first_layer
from sklearn_simclr.encoders.compact import CompactNet
from sklearn_simclr.encoders.first_layer import patch_components
from sklearn_simclr.images import ImageSource
from sklearn_simclr.images.computed import ComputedImages


def every_patch(images):
    """Return the 3 x 3 patches around all pixels of images (n, C, H, W), with zeros outside, in float64."""
    images = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, _, height, width = images.shape
    return np.array(
        [
            images[k, :, row : row + 3, column : column + 3].ravel()
            for k in range(n)
            for row in range(height - 2)
            for column in range(width - 2)
        ]
    )


def covariance(patches):
    """Return mean and covariance by a loop over the patches."""
    mean = sum(patches) / len(patches)
    return mean, sum(np.outer(patch - mean, patch - mean) for patch in patches) / len(patches)


def rebuilt(found):
    """Return the covariance of components that are complete."""
    return (found.directions.T * found.variances) @ found.directions


def photographs(n, channels, height, width, seed=0):
    """Return smooth uint8 images."""
    noise = torch.rand(n, channels, height // 2, width // 2, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return (255 * smooth).to(torch.uint8)


def generator():
    return torch.Generator().manual_seed(0)


def test_components_of_few_patches_are_those_of_all_patches():
    pixels = photographs(6, 3, 8, 10)
    mean, expected = covariance(every_patch(pixels.numpy() / 255))
    found = patch_components(ImageSource(pixels, (0, 255)), 27, generator())
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(rebuilt(found), expected, atol=1e-7)
    np.testing.assert_allclose(found.total, np.trace(expected), rtol=1e-6)


def test_components_of_drawn_patches_are_those_of_all_patches_in_expectation(monkeypatch):
    monkeypatch.setattr(first_layer, "_PATCHES", 60)
    monkeypatch.setattr(first_layer, "_CHUNK", 150)  # two images at a time
    pixels = photographs(6, 1, 8, 8)
    mean, expected = covariance(every_patch(pixels.numpy() / 255))
    source, draws, covariances, means = ImageSource(pixels, (0, 255)), generator(), [], []
    for _ in range(400):
        found = patch_components(source, 9, draws)
        covariances.append(rebuilt(found))
        means.append(found.mean)
    spread = torch.stack(covariances).std(0) / 20
    # A covariance around the mean of 60 patches is smaller by a sixtieth.
    difference = torch.stack(covariances).mean(0) * 60 / 59 - torch.from_numpy(expected)
    assert (difference.abs() < 4.5 * spread).all()
    assert (
        (torch.stack(means).mean(0) - torch.from_numpy(mean)).abs() < 4.5 * torch.stack(means).std(0) / 20
    ).all()


def test_drawn_patches_are_patches_wherever_they_are(monkeypatch):
    monkeypatch.setattr(first_layer, "_PATCHES", 300)
    monkeypatch.setattr(first_layer, "_CHUNK", 2 * 2 * 5 * 7)
    pixels = torch.arange(1, 9 * 2 * 5 * 7 + 1).view(9, 2, 5, 7)  # no two patches are equal
    found = first_layer._sample_patches(ImageSource(pixels.double(), (0, pixels.max())), generator())
    known = {tuple(patch): k for k, patch in enumerate(np.round(every_patch(pixels.numpy())))}
    rows = [known[tuple(patch)] for patch in np.round(found.double().numpy() * int(pixels.max()))]
    assert len(rows) == 300
    assert {row // 35 for row in rows} == set(range(9)) and len({row % 35 for row in rows}) > 30


def test_few_images_are_taken_at_a_time(monkeypatch):
    taken = []

    def compute(images, index):
        taken.append(len(index))
        return images.float() / 255

    source = ImageSource(photographs(40, 3, 100, 100), (0, 255))
    monkeypatch.setattr(first_layer, "_CHUNK", 3 * 100 * 100 * 6)
    patch_components(ComputedImages(source, compute, source.shape), 27, generator())
    assert max(taken) == 6 and sum(taken) == 40


@pytest.mark.parametrize("channels", [33, 40])
def test_leading_components_of_many_channels(channels):
    # Few causes make all channels: a covariance that has few large variances.
    causes = photographs(20, 6, 12, 12).float() / 255
    turns = torch.randn(channels, 6, generator=generator())
    pixels = torch.einsum("nkhw,ck->nchw", causes, turns)
    low, high = pixels.amin(), pixels.amax()
    patches = every_patch(((pixels - low) / (high - low)).numpy())
    _, expected = covariance(patches)
    found = patch_components(ImageSource(pixels, (float(low), float(high))), 32, generator())
    variances, directions = np.linalg.eigh(expected)
    np.testing.assert_allclose(found.variances[:20], variances[::-1][:20], rtol=1e-2)
    np.testing.assert_allclose(found.variances.sum(), variances[::-1][:32].sum(), rtol=1e-3)
    np.testing.assert_allclose(found.total, np.trace(expected), rtol=1e-4)
    ours, theirs = found.directions[:6].numpy(), directions[:, ::-1][:, :6].T
    np.testing.assert_allclose(np.linalg.svd(ours @ theirs.T)[1], 1, atol=1e-2)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(32), atol=1e-5)


def test_first_layer_whitens():
    pixels = photographs(50, 3, 16, 16)
    network = CompactNet(3, (16, 16))
    network.initialize_from_images(ImageSource(pixels, (0, 255)), generator())
    out = network.stem(pixels.float() / 255).transpose(0, 1).flatten(1).double()
    covered = torch.cov(out)
    # The largest variances are made one; the smallest, which are noise, are not blown up.
    torch.testing.assert_close(out.mean(1), torch.zeros(27, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(covered[:5, :5], torch.eye(5, dtype=torch.float64), atol=0.02, rtol=0)
    assert (covered.diagonal() <= 1.001).all()
