"""The views of google-research/simclr, against naive numpy written from what its operations are."""

import colorsys
import math

import numpy as np
import pytest
import torch

from sklearn_simclr import Augmentation

LUMA = (0.2989, 0.587, 0.114)


def cubic(distance, a=-0.75):
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize(image, size):
    """TensorFlow 1's resize_bicubic of (H, W, C): no half pixels, no antialiasing, edges repeated."""
    for axis, n_out in enumerate(size):
        n_in = image.shape[axis]
        matrix = np.zeros((n_out, n_in))
        for j in range(n_out):
            place = j * n_in / n_out
            base = math.floor(place)
            beyond = np.rint((place - base) * 1024) / 1024  # TensorFlow's kernel is a table
            for k in range(-1, 3):
                matrix[j, min(max(base + k, 0), n_in - 1)] += cubic(k - beyond)
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return image


def in_hsv(image, saturation=1.0, shift=0.0):
    changed = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[place])
        changed[place] = colorsys.hsv_to_rgb((h + shift) % 1, min(1, max(0, s * saturation)), v)
    return changed


def colours(image, draw, additive):
    factors = [float(getattr(draw, name)) for name in ("brightness", "contrast", "saturation", "hue")]
    if factors != [1, 1, 1, 0]:
        for operation in draw.order.tolist():
            factor = factors[operation]
            if operation == 0:
                image = image + factor - 1 if additive else image * factor
            elif operation == 1:
                mean = image.mean(axis=(0, 1))
                image = (image - mean) * factor + mean
            elif operation == 2:
                image = in_hsv(image, saturation=factor)
            else:
                image = in_hsv(image, shift=factor)
            image = image.clip(0, 1)
    if draw.grayscale:
        image = np.repeat((image @ LUMA)[:, :, None], 3, axis=2)
    return image.clip(0, 1)


def blur(image, sigma):
    if sigma == 0:
        return image
    radius = image.shape[0] // 10 // 2
    kernel = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        image = np.apply_along_axis(np.convolve, axis, image, kernel / kernel.sum(), mode="same")
    return image.clip(0, 1)


@pytest.mark.parametrize(
    ("implementation", "recipe", "shape", "size"),
    [
        ("google_v1", "imagenet", (9, 7), (20, 20)),
        ("google_v2", "cifar", (11, 14), (6, 6)),
    ],
)
def test_views_are_googles(implementation, recipe, shape, size):
    n = 8
    # Pixels of hardly any hue would magnify rounding.
    images = torch.rand(n, 3, *shape, generator=torch.Generator().manual_seed(0))
    images = (0.75 * images + torch.tensor([0.25, 0.1, 0.0]).view(3, 1, 1)).clamp(0, 1)
    augmentation = Augmentation(recipe=recipe, size=size, implementation=implementation)
    draws = augmentation.draw(n, (3, *shape), generator=torch.Generator().manual_seed(1))
    assert 0 < draws.flip.sum() < n and 0 < draws.grayscale.sum() < n
    assert bool((draws.sigma > 0).any()) == (recipe == "imagenet")
    views = augmentation.apply(images, draws)
    # On accelerators and where there are gradients to the images, the same views are made by other means.
    dense = augmentation.apply(images.requires_grad_(), draws).detach()
    for i, image in enumerate(images.detach().double().numpy().transpose(0, 2, 3, 1)):
        draw = draws.rows(i)
        top, left, tall, wide = (int(getattr(draw, k)) for k in ("top", "left", "height", "width"))
        expected = resize(image[top : top + tall, left : left + wide], size)
        expected = expected[:, ::-1] if draw.flip else expected
        expected = blur(colours(expected, draw, implementation == "google_v1"), float(draw.sigma))
        expected = torch.from_numpy(np.ascontiguousarray(expected.transpose(2, 0, 1))).float()
        # Where a pixel lies half way between two entries of the table, rounding chooses.
        torch.testing.assert_close(views[i], expected, atol=5e-3, rtol=0)
        torch.testing.assert_close(dense[i], expected, atol=5e-3, rtol=0)
        assert (views[i] - expected).abs().mean() < 3e-4


def naive_crop(height, width, area, ratios, rng):
    """TensorFlow's sample_distorted_bounding_box with min_object_covered=0.1 and the image as the object."""
    for _ in range(100):
        ratio = rng.uniform(*ratios)
        shortest, tallest = (round(math.sqrt(part * height * width / ratio)) for part in area)
        while round(tallest * ratio) > width:
            tallest -= 1
        tallest = min(tallest, height)
        tall = rng.integers(min(shortest, tallest), tallest + 1)
        wide = round(tall * ratio)
        if tall * wide < area[0] * height * width:
            tall, wide = tall + 1, round((tall + 1) * ratio)
        if tall * wide > area[1] * height * width:
            tall, wide = tall - 1, round((tall - 1) * ratio)
        inside = area[0] * height * width <= tall * wide <= area[1] * height * width
        if inside and wide <= width and tall <= height and tall * wide >= 0.1 * height * width:
            return rng.integers(max(1, height - tall)), rng.integers(max(1, width - wide)), tall, wide
    return 0, 0, height, width


def test_crops_are_drawn_as_tensorflow_draws_them():
    n, (height, width) = 20_000, (20, 30)
    augmentation = Augmentation(recipe="imagenet", size=8, implementation="google_v2")
    draws = augmentation.draw(n, (3, height, width), generator=torch.Generator().manual_seed(0))
    ours = torch.stack([draws.top, draws.left, draws.height, draws.width], dim=1).numpy()
    rng = np.random.default_rng(0)
    theirs = np.array([naive_crop(height, width, (0.08, 1), (3 / 4, 4 / 3), rng) for _ in range(n // 8)])
    area = ours[:, 2] * ours[:, 3] / (height * width)
    assert area.min() >= 0.1  # not 0.08: the crop has to cover a tenth of the image
    smaller = ours[:, 2] < height
    assert (ours[smaller, 0] < height - ours[smaller, 2]).all()  # the last row is never reached
    for column in range(4):
        values = np.union1d(ours[:, column], theirs[:, column])
        distance = max(abs((ours[:, column] <= v).mean() - (theirs[:, column] <= v).mean()) for v in values)
        assert distance < 0.041  # Kolmogorov-Smirnov at 0.1%


def test_a_crop_that_cannot_be_is_the_image():
    augmentation = Augmentation(size=8, crop_scale=(0.01, 0.05), implementation="google_v1")
    draws = augmentation.draw(50, (3, 20, 30), generator=torch.Generator().manual_seed(0))
    assert set(draws.height.tolist()) == {20.0} and set(draws.width.tolist()) == {30.0}
    assert set(draws.top.tolist()) == set(draws.left.tolist()) == {0.0}


def test_brightness_of_v1_is_added():
    images = torch.full((200, 3, 8, 8), 0.5)
    augmentation = Augmentation(
        recipe="imagenet", jitter_probability=1.0, grayscale_probability=0.0, blur_probability=0.0
    )
    flat = augmentation.set_params(implementation="google_v1", size=8)
    draws = flat.draw(200, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    expected = (0.5 + draws.brightness - 1).clamp(0, 1)  # nothing else changes a grey image of one value
    torch.testing.assert_close(flat.apply(images, draws).mean(dim=(1, 2, 3)), expected, atol=2e-6, rtol=0)
    assert abs(float(draws.brightness.min()) - 0.2) < 0.05 < float(draws.brightness.max()) - 1.7
