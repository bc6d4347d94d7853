"""Augmentation against torchvision's per-image functions, and its draws against their distributions."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image
from scipy import stats
from sklearn.base import clone

from sklearn_simclr import Augmentation
from sklearn_simclr._utils.devices import pack, unpack
from sklearn_simclr.views import by_rows, make
from sklearn_simclr.views.by_matrices import compute_maps, views_by_matrices
from sklearn_simclr.views.by_rows import views_by_rows

NOTHING = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip_probability": 0.0,
    "jitter_probability": 0.0,
    "grayscale_probability": 0.0,
    "blur_probability": 0.0,
}


# Views that are more than crops and mirror images.
TURNED = [
    {"recipe": "no_up"},
    {"recipe": "imagenet", "rotation": "quarter", "erasing_probability": 0.5},
    {"recipe": "imagenet", "rotation": 180, "vertical_flip_probability": 0.5, "erasing_probability": 1.0},
    {"recipe": "cifar", "rotation": 20.0},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_images(n, channels, height, width, seed=0):
    """Images with structure, in the middle of [0, 1] so that mild operations do not clip."""
    noise = torch.rand(n, channels, height, width, generator=generator(seed))
    return 0.3 + 0.4 * torch.nn.functional.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)


def reference_geometry(image, draw, size):
    box = [int(draw.top), int(draw.left), int(draw.height), int(draw.width)]
    view = TF.resized_crop(image, *box, list(size), antialias=True)
    return TF.hflip(view) if draw.flip else view


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 32, 32), (24, 24)),
        ((3, 32, 32), (48, 40)),
        ((1, 8, 8), (8, 8)),
        ((5, 20, 33), (9, 17)),
        ((3, 96, 96), (96, 96)),
        ((2, 7, 50), (7, 25)),
    ],
)
def test_crop_flip_and_resize_are_torchvisions(shape, size):
    images = smooth_images(16, *shape)
    augmentation = Augmentation(
        **{**NOTHING, "crop_scale": (0.08, 1), "crop_ratio": (3 / 4, 4 / 3)}, size=size
    )
    augmentation.set_params(flip_probability=0.5)
    draws = augmentation.draw(16, shape, generator=generator())
    views = augmentation.apply(images, draws)
    assert 0 < draws.flip.sum() < 16
    for i, view in enumerate(views):
        torch.testing.assert_close(
            view, reference_geometry(images[i], draws.rows(i), size), atol=2e-6, rtol=0
        )


def test_uint8_images_give_the_views_of_the_same_floats():
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(recipe="imagenet")
    draws = augmentation.draw(8, (3, 32, 32), generator=generator(1))
    views = augmentation.apply(images, draws)
    assert views.dtype == torch.float32
    torch.testing.assert_close(views, augmentation.apply(images / 255, draws), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(24, 24), (64, 48)])
@pytest.mark.parametrize("implementation", ["linear", "torchvision"])
def test_blur_is_torchvisions(size, implementation):
    images = smooth_images(8, 3, 40, 40)
    augmentation = Augmentation(
        **{**NOTHING, "blur_probability": 1.0}, size=size, implementation=implementation
    )
    draws = augmentation.draw(8, (3, 40, 40), generator=generator())
    views = augmentation.apply(images, draws)
    kernel = 2 * (min(size) // 20) + 1
    for i, view in enumerate(views):
        expected = TF.resize(images[i], list(size), antialias=True)
        expected = TF.gaussian_blur(expected, [kernel, kernel], [float(draws.sigma[i])] * 2)
        torch.testing.assert_close(view, expected, atol=3e-6, rtol=0)


def test_kernel_of_the_blur_is_a_tenth_of_the_view():
    image = torch.zeros(1, 1, 224, 224)
    image[0, 0, 112, 112] = 1.0
    augmentation = Augmentation(**{**NOTHING, "blur_probability": 1.0}, blur_sigma=(50.0, 50.0), size=224)
    touched = augmentation(image, generator())[0, 0].nonzero()
    assert (touched.amax(dim=0) - touched.amin(dim=0) + 1).tolist() == [23, 23]  # V1 appendix A


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_sequential_colours_are_torchvisions(order, strength):
    images = torch.rand(16, 3, 12, 12, generator=generator())
    images[0] = 0.5  # grey: no hue
    images[1, 0] = images[1, 1]  # two channels tie for the largest
    augmentation = Augmentation(**NOTHING, color_strength=strength, implementation="torchvision", size=12)
    augmentation.set_params(jitter_probability=1.0, grayscale_probability=0.3)
    draws = augmentation.draw(16, (3, 12, 12), generator=generator(2))
    draws = draws._replace(order=torch.tensor(order).expand(16, 4))
    views = augmentation.apply(images, draws)
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    fields = ("brightness", "contrast", "saturation", "hue")
    for i, view in enumerate(views):
        expected = images[i]
        for operation in order:
            expected = adjust[operation](expected, float(getattr(draws, fields[operation])[i]))
        if draws.grayscale[i]:
            expected = TF.rgb_to_grayscale(expected, num_output_channels=3)
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("field", "factor", "adjust"),
    [
        ("brightness", 1.2, TF.adjust_brightness),
        ("contrast", 0.6, TF.adjust_contrast),
        ("saturation", 1.3, TF.adjust_saturation),
        ("saturation", 0.2, TF.adjust_saturation),
    ],
)
def test_linear_colours_are_torchvisions_where_nothing_clips(field, factor, adjust):
    images = smooth_images(4, 3, 16, 16)
    augmentation = Augmentation(**NOTHING, size=16)
    draws = augmentation.draw(4, (3, 16, 16), generator=generator())
    draws = draws._replace(**{field: torch.full((4,), factor)})
    for image, view in zip(images, augmentation.apply(images, draws), strict=True):
        # torchvision's luma weights add up to 0.9999, ours are a base of the colour space
        torch.testing.assert_close(view, adjust(image, factor), atol=2e-4, rtol=0)


def test_linear_greyscale_is_torchvisions():
    images = smooth_images(4, 3, 16, 16)
    views = Augmentation(**{**NOTHING, "grayscale_probability": 1.0}, size=16)(images, generator())
    torch.testing.assert_close(views, TF.rgb_to_grayscale(images, 3), atol=2e-4, rtol=0)


def yiq_reference(image, brightness, contrast, saturation, hue):
    """One image in float64, with the standard library's definition of YIQ's axes."""
    image = np.asarray(image, dtype=np.float64)
    to_yiq = np.array(
        [[0.2989, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
    )
    y, i, q = np.einsum("kc,chw->khw", to_yiq, image)
    chroma = (i + 1j * q) * saturation * np.exp(-2j * np.pi * hue)
    rgb = (
        np.einsum("ck,khw->chw", np.linalg.inv(to_yiq), np.stack([y, chroma.real, chroma.imag])) * brightness
    )
    grey = np.einsum("c,chw->hw", to_yiq[0], rgb).mean()
    return np.clip(contrast * rgb + (1 - contrast) * grey, 0, 1)


def test_linear_colours_are_the_composition_written_naively():
    images = torch.rand(12, 3, 10, 10, generator=generator(3))
    augmentation = Augmentation(**{**NOTHING, "jitter_probability": 1.0}, color_strength=1.0, size=10)
    draws = augmentation.draw(12, (3, 10, 10), generator=generator(4))
    views = augmentation.apply(images, draws)
    for i, view in enumerate(views):
        factors = [float(getattr(draws, f)[i]) for f in ("brightness", "contrast", "saturation", "hue")]
        np.testing.assert_allclose(view, yiq_reference(images[i], *factors), atol=1e-5)


def test_linear_hue_turns_the_way_hsv_does():
    red, yellow, green = (1, 0, 0), (1, 1, 0), (0, 1, 0)
    image = torch.tensor(red, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 4, 4) * 0.5 + 0.2
    augmentation = Augmentation(**NOTHING, size=4)
    draws = augmentation.draw(1, (3, 4, 4), generator=generator())
    for shift, target in ((1 / 6, yellow), (1 / 3, green)):
        turned = augmentation.apply(image, draws._replace(hue=torch.tensor([shift])))[0, :, 0, 0]
        target = torch.tensor(target, dtype=torch.float32)
        assert torch.corrcoef(torch.stack([turned, target]))[0, 1] > 0.9


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("implementation", ["linear", "torchvision"])
def test_other_channel_counts_keep_brightness_and_contrast_only(channels, implementation):
    images = smooth_images(6, channels, 16, 16)
    augmentation = Augmentation(**NOTHING, color_strength=0.5, implementation=implementation, size=16)
    augmentation.set_params(jitter_probability=1.0, grayscale_probability=1.0)
    draws = augmentation.draw(6, (channels, 16, 16), generator=generator())
    draws = draws._replace(order=torch.arange(4).expand(6, 4))
    views = augmentation.apply(images, draws)
    gain, shift = draws.brightness.view(-1, 1, 1, 1), draws.contrast.view(-1, 1, 1, 1)
    bright = (images * gain).clamp(0, 1)
    expected = bright * shift + (1 - shift) * bright.mean(dim=(1, 2, 3), keepdim=True)
    unclipped = (images * gain).amax(dim=(1, 2, 3)) <= 1
    assert unclipped.any()
    torch.testing.assert_close(views[unclipped], expected.clamp(0, 1)[unclipped], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 40, 20), (1, 8, 8), (1, 1, 30)])
def test_boxes_follow_torchvisions_distribution(shape):
    torch.manual_seed(0)
    image = torch.empty(shape)
    ratio = [r * shape[2] / shape[1] for r in (3 / 4, 4 / 3)]  # of the image's own (V1 appendix A)
    expected = np.array([T.RandomResizedCrop.get_params(image, [0.08, 1], ratio) for _ in range(3000)])
    draws = Augmentation(recipe="cifar").draw(3000, shape, generator=generator(1))
    for column, field in enumerate(("top", "left", "height", "width")):
        found = getattr(draws, field).numpy()
        assert (found == found.round()).all()
        if len(np.unique(expected[:, column])) > 1:
            assert stats.ks_2samp(expected[:, column], found).pvalue > 1e-3, field
        else:
            assert (found == expected[0, column]).all(), field
    assert (draws.top + draws.height <= shape[1]).all() and (draws.left + draws.width <= shape[2]).all()
    assert (draws.height >= 1).all() and (draws.width >= 1).all()


@pytest.mark.parametrize("strength", [0.25, 1.0, 1.25, 2.0])
def test_colour_draws_follow_their_distributions(strength):
    n = 20_000
    draws = Augmentation(recipe="imagenet", color_strength=strength).draw(
        n, (3, 64, 64), generator=generator()
    )
    jittered = draws.hue != 0
    assert abs(jittered.float().mean() - 0.8) < 0.015
    low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    for field in ("brightness", "contrast", "saturation"):
        values = getattr(draws, field)
        assert (values[~jittered] == 1).all()
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(values[jittered].numpy(), uniform.cdf).pvalue > 1e-3, field
    hue = stats.uniform(-0.2 * strength, 0.4 * strength)
    assert stats.kstest(draws.hue[jittered].numpy(), hue.cdf).pvalue > 1e-3
    assert abs(draws.flip.float().mean() - 0.5) < 0.015
    assert abs(draws.grayscale.float().mean() - 0.2) < 0.015
    blurred = draws.sigma > 0
    assert abs(blurred.float().mean() - 0.5) < 0.015
    assert stats.kstest(draws.sigma[blurred].numpy(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_orders_are_uniform_over_all_permutations():
    order = Augmentation().draw(24_000, (3, 32, 32), generator=generator()).order
    _, counts = np.unique(order.numpy(), axis=0, return_counts=True)
    assert len(counts) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_image_has_its_own_draw():
    image = torch.rand(1, 3, 32, 32, generator=generator())
    views = Augmentation()(image.expand(64, -1, -1, -1), generator())
    assert len(torch.unique(views.flatten(1), dim=0)) == 64


def test_same_generator_same_views_and_the_global_one_is_left_alone():
    images = torch.rand(8, 3, 32, 32, generator=generator())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (Augmentation()(images, generator(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, Augmentation()(images, generator(8)))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    without_generator = Augmentation()(images)
    torch.manual_seed(5)
    assert torch.equal(without_generator, Augmentation()(images))


@pytest.mark.parametrize("implementation", ["linear", "torchvision", "google_v1"])
@pytest.mark.parametrize("shape", [(3, 224, 224), (3, 65, 90), (3, 32, 32), (1, 8, 8), (4, 1, 12), (1, 1, 1)])
def test_views_are_finite_and_in_range(shape, implementation):
    images = torch.randint(0, 256, (4, *shape), dtype=torch.uint8, generator=generator())
    views = Augmentation(recipe="imagenet", color_strength=2.5, implementation=implementation)(
        images, generator()
    )
    assert views.isfinite().all()
    assert views.amin() >= 0 and views.amax() <= 1
    assert views.shape == images.shape


def test_images_are_not_changed():
    images = torch.rand(4, 3, 32, 32, generator=generator())
    copy = images.clone()
    for implementation in ("linear", "torchvision"):
        Augmentation(**NOTHING, implementation=implementation, size=32)(images, generator())
    assert torch.equal(images, copy)


def test_recipes():
    paper = Augmentation(recipe="imagenet").resolve((3, 224, 224))
    assert (paper.size, paper.crop_scale, paper.color_strength) == ((224, 224), (0.08, 1.0), 1.0)
    assert (paper.blur_probability, paper.blur_sigma, paper.flip_probability) == (0.5, (0.1, 2.0), 0.5)
    assert (paper.jitter_probability, paper.grayscale_probability) == (0.8, 0.2)
    cifar = Augmentation(recipe="cifar").resolve((3, 32, 32))
    assert (cifar.size, cifar.crop_scale) == ((32, 32), (0.08, 1.0))
    assert (cifar.color_strength, cifar.blur_probability) == (0.5, 0.0)
    large = {"size": (168, 168), "crop_scale": (0.2, 1.0), "implementation": "linear"}
    assert Augmentation().resolve((3, 224, 224)).get_params() == paper.get_params() | large
    small = Augmentation().resolve((3, 300, 400), largest=48)
    assert (small.size, small.color_strength, small.blur_probability) == ((42, 55), 0.5, 0.0)
    assert Augmentation().resolve((3, 40, 60), largest=48).size == (30, 45)
    assert Augmentation(recipe="imagenet").resolve((3, 224, 224), largest=48).size == (224, 224)
    assert Augmentation().resolve((3, 32, 32)).blur_probability == 0.0
    assert Augmentation().resolve((1, 8, 8)).flip_probability == 0.0
    assert Augmentation(color_strength=0.1).resolve((3, 224, 224)).color_strength == 0.1
    assert (paper.vertical_flip_probability, paper.rotation, paper.erasing_probability) == (0.0, None, 0.0)
    resolved = Augmentation().resolve((3, 32, 48))
    assert resolved.resolve((3, 32, 48)).get_params() == resolved.get_params()


@pytest.mark.parametrize("shape", [(3, 224, 224), (3, 32, 32), (1, 8, 8), (3, 48, 64)])
def test_no_up_is_the_recipe_of_the_size_and_turns(shape):
    no_up, auto = Augmentation(recipe="no_up").resolve(shape), Augmentation().resolve(shape)
    turns = {"flip_probability": 0.5, "vertical_flip_probability": 0.5, "rotation": "quarter"}
    assert no_up.get_params() == {**auto.get_params(), **turns}
    assert no_up.resolve(shape).get_params() == no_up.get_params()
    assert Augmentation(recipe="no_up", rotation=None).resolve(shape).rotation is None


def test_clone_and_parameters():
    augmentation = Augmentation(color_strength=0.3, size=(8, 9))
    assert clone(augmentation).get_params() == augmentation.get_params()


@pytest.mark.parametrize(
    "params",
    [
        {"recipe": "paper"},
        {"size": 0},
        {"size": (4, 5, 6)},
        {"size": "big"},
        {"size": 2.5},
        {"crop_scale": (0, 1)},
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": (0.5, 1.2)},
        {"crop_scale": 0.5},
        {"crop_ratio": (0, 1)},
        {"crop_ratio": (1, math.inf)},
        {"flip_probability": 1.5},
        {"vertical_flip_probability": -0.1},
        {"rotation": 0},
        {"rotation": 181},
        {"rotation": "half"},
        {"rotation": True},
        {"rotation": float("nan")},
        {"erasing_probability": "auto"},
        {"color_strength": -0.1},
        {"color_strength": 3},
        {"color_strength": float("nan")},
        {"jitter_probability": "auto"},
        {"grayscale_probability": 2},
        {"blur_probability": None},
        {"blur_sigma": (0, 1)},
        {"implementation": "fast"},
    ],
)
def test_bad_parameters_are_named(params):
    (name,) = params
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Augmentation(**params)(torch.rand(2, 3, 8, 8))


def test_bad_images():
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        Augmentation()(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        Augmentation()(torch.rand(3, 8, 8))
    with pytest.raises(TypeError, match="int64"):
        Augmentation()(torch.zeros(2, 3, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize("implementation", ["linear", "torchvision", "google_v1"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 8, 8), (8, 8)),
        ((1, 8, 8), (8, 8)),
        ((3, 32, 32), (32, 32)),
        ((3, 32, 48), (24, 36)),
        ((5, 33, 20), (9, 31)),
        ((3, 96, 96), (96, 96)),
        ((3, 120, 90), (25, 20)),
        ((3, 224, 256), (224, 224)),
        ((3, 1, 1), (1, 1)),
        ((2, 3, 40), (50, 1)),
    ],
)
def test_both_ways_of_computing_give_the_same_views(shape, size, implementation):
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(recipe="imagenet", size=size, implementation=implementation)
    draws = augmentation.draw(12, shape, generator=generator(1))
    assert 0 < (draws.sigma > 0).sum() < 12
    keywords = {"blurs": True, "implementation": implementation}
    by_rows = views_by_rows(images, draws, size, **keywords)
    maps = compute_maps(draws, images.shape, images.dtype, size, **keywords)
    dense = views_by_matrices(images, maps, size, implementation)
    assert by_rows.shape == dense.shape == (12, shape[0], *size)
    if implementation == "linear":
        torch.testing.assert_close(by_rows, dense, atol=1e-5, rtol=0)
    else:
        # Turning the hue magnifies rounding where two channels are nearly equal.
        assert ((by_rows - dense).abs() > 1e-5).float().mean() < 1e-3
        assert (by_rows - dense).abs().mean() < 1e-6


def naive_view(image, draw, size):
    """Crop, turn, flip, resize and blur of one image in float64, from the definition of every weight."""
    if draw.transposed is not None and draw.transposed:
        upright = naive_view(image, draw._replace(transposed=None), size[::-1])
        return upright.transpose(0, 2, 1)

    def resize(start, length, n_in, n_out):
        weights = np.zeros((n_out, n_in))
        scale = length / n_out
        for i in range(n_out):
            for p in range(start, start + length):
                away = abs(p + 0.5 - start - (i + 0.5) * scale) / max(scale, 1.0)
                weights[i, p] = max(0.0, 1.0 - away)
        return weights / weights.sum(axis=1, keepdims=True)

    def blur(n):
        radius = min(max(1, min(size) // 20), n - 1)
        weights = np.zeros((n, n))
        for i in range(n):
            for d in range(-radius, radius + 1):
                j = abs(i + d)
                j = min(j, 2 * (n - 1) - j)
                weights[i, j] += math.exp(-0.5 * (d / float(draw.sigma)) ** 2) if draw.sigma > 0 else d == 0
        return weights / weights.sum(axis=1, keepdims=True)

    top, left, height, width = (int(v) for v in (draw.top, draw.left, draw.height, draw.width))
    rows = resize(top, height, image.shape[1], size[0])
    rows = rows[::-1] if draw.vertical_flip is not None and draw.vertical_flip else rows
    columns = resize(left, width, image.shape[2], size[1])
    columns = blur(size[1]) @ (columns[::-1] if draw.flip else columns)
    rows = blur(size[0]) @ rows
    return np.einsum("ij,cjk,lk->cil", rows, image.numpy().astype(np.float64), columns)


@pytest.mark.parametrize("size", [(12, 16), (60, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_geometry_is_the_definition_written_naively(channels, size):
    images = torch.rand(8, channels, 40, 30, generator=generator(5))
    augmentation = Augmentation(recipe="imagenet", color_strength=0, grayscale_probability=0, size=size)
    draws = augmentation.draw(8, (channels, 40, 30), generator=generator(6))
    assert 0 < (draws.sigma > 0).sum() < 8 and 0 < draws.flip.sum() < 8
    for i, view in enumerate(augmentation.apply(images, draws)):
        np.testing.assert_allclose(view, naive_view(images[i], draws.rows(i), size), atol=5e-6)


def test_every_view_follows_its_own_order_of_colours():
    images = torch.rand(32, 3, 12, 12, generator=generator())
    augmentation = Augmentation(**NOTHING, color_strength=1.0, implementation="torchvision", size=12)
    augmentation.set_params(jitter_probability=1.0)
    draws = augmentation.draw(32, (3, 12, 12), generator=generator(2))
    assert len(torch.unique(draws.order, dim=0)) > 10
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    fields = ("brightness", "contrast", "saturation", "hue")
    for i, view in enumerate(augmentation.apply(images, draws)):
        expected = images[i]
        for operation in draws.order[i].tolist():
            expected = adjust[operation](expected, float(getattr(draws, fields[operation])[i]))
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["linear", "torchvision"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 30), (3, 96, 96)])
def test_a_view_does_not_depend_on_its_company(shape, implementation, monkeypatch):
    images = torch.randint(0, 256, (10, *shape), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(recipe="imagenet", implementation=implementation)
    draws = augmentation.draw(20, shape, generator=generator(1))
    views = augmentation.apply(images, draws)
    assert torch.equal(views, augmentation.apply(torch.cat([images, images]), draws))
    for part in (torch.arange(3), torch.tensor([7]), torch.tensor([9, 2, 4, 0])):
        rows = draws.rows(torch.cat([part, part + 10]))
        assert torch.equal(augmentation.apply(images[part], rows), views[torch.cat([part, part + 10])])
    for group, large in ((1, 0), (50_000, 10**9), (10**9, 0), (10**9, 10**9)):
        monkeypatch.setattr(by_rows, "_GROUP", group)
        monkeypatch.setattr(by_rows, "_LARGE", large)
        assert torch.equal(augmentation.apply(images, draws), views)


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("implementation", ["linear", "torchvision"])
def test_views_do_not_depend_on_the_number_of_threads(implementation, set_threads):
    images = torch.randint(0, 256, (10, 3, 96, 96), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(recipe="imagenet", implementation=implementation)
    draws = augmentation.draw(20, (3, 96, 96), generator=generator(1))
    views = []
    for threads in (1, 2, 4):
        set_threads(threads)
        views.append(augmentation.apply(images, draws))
        assert torch.get_num_threads() == threads
    for others in views[1:]:
        torch.testing.assert_close(others, views[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_any_floating_point_type(dtype):
    images = torch.rand(4, 3, 20, 20, generator=generator()).to(dtype)
    augmentation = Augmentation(recipe="imagenet")
    draws = augmentation.draw(4, (3, 20, 20), generator=generator(1))
    assert torch.equal(augmentation.apply(images, draws), augmentation.apply(images.float(), draws))


def test_memory_format_of_the_images_does_not_matter():
    images = torch.rand(4, 3, 20, 30, generator=generator())
    augmentation = Augmentation(recipe="imagenet")
    draws = augmentation.draw(8, (3, 20, 30), generator=generator(1))
    views = augmentation.apply(images, draws)
    assert views.is_contiguous()
    for same in (images.to(memory_format=torch.channels_last), images.mT.contiguous().mT):
        assert torch.equal(augmentation.apply(same, draws), views)


def test_draws_of_other_images_are_refused():
    augmentation = Augmentation()
    draws = augmentation.draw(5, (3, 32, 32))
    with pytest.raises(ValueError, match="5 views for 3 images"):
        augmentation.apply(torch.rand(3, 3, 32, 32), draws)
    with pytest.raises(ValueError, match="5 views for 0 images"):
        augmentation.apply(torch.rand(0, 3, 32, 32), draws)


@pytest.mark.parametrize("implementation", ["linear", "torchvision", "google_v1"])
def test_no_images_no_views(implementation):
    augmentation = Augmentation(recipe="imagenet", implementation=implementation)
    assert augmentation(torch.rand(0, 3, 32, 48)).shape == (0, 3, 32, 48)


@pytest.mark.parametrize("implementation", ["linear", "torchvision"])
def test_views_can_be_differentiated_with_respect_to_the_images(implementation):
    images = smooth_images(2, 3, 6, 7).requires_grad_()
    augmentation = Augmentation(recipe="imagenet", color_strength=0.2, implementation=implementation, size=5)
    draws = augmentation.draw(2, (3, 6, 7), generator=generator())
    views = augmentation.apply(images, draws)
    (gradient,) = torch.autograd.grad(views.sum(), images)
    step = torch.zeros_like(images)
    step[1, 2, 3, 3] = 1e-3
    with torch.no_grad():
        more, less = (augmentation.apply(x, draws).double().sum() for x in (images + step, images - step))
    assert gradient[1, 2, 3, 3] > 0.1
    assert abs((more - less) / 2e-3 - gradient[1, 2, 3, 3]) < 0.02


@pytest.mark.parametrize("threads", [1, 2])
def test_views_in_inference_mode(threads, set_threads):
    set_threads(threads)
    images = torch.rand(4, 3, 32, 32, generator=generator())
    expected = Augmentation(recipe="imagenet")(images, generator(1))
    with torch.inference_mode():
        assert torch.equal(Augmentation(recipe="imagenet")(images, generator(1)), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("implementation", ["linear", "torchvision", "google_v1"])
def test_an_accelerator_is_never_waited_for(channels, implementation):
    # A meta tensor has no values: reading one, or a shape that depends on one, raises.
    augmentation = Augmentation(recipe="imagenet", implementation=implementation)
    draws = augmentation.draw(8, (channels, 32, 40), device="meta")
    images = torch.empty(4, channels, 32, 40, dtype=torch.uint8, device="meta")
    assert augmentation.apply(images, draws).shape == (8, channels, 32, 40)


@pytest.mark.parametrize("keywords", [{}, {"recipe": "no_up", "erasing_probability": 0.5}, {"rotation": 30}])
def test_draws_go_to_a_device_in_one_piece(keywords):
    draws = Augmentation(**keywords).draw(7, (3, 32, 40), generator=generator())
    there = draws.to("meta")
    fields = [(one, other) for one, other in zip(draws, there, strict=True) if one is not None]
    assert all((one.shape, one.dtype) == (other.shape, other.dtype) for one, other in fields)
    assert len({other.untyped_storage().data_ptr() for _, other in fields}) == 1
    assert [field is None for field in draws] == [field is None for field in there]
    again = unpack(pack([one for one, _ in fields]), [one for one, _ in fields])
    assert all(torch.equal(one, other) for (one, _), other in zip(fields, again, strict=True))


def test_some_rows_of_draws_are_the_draws_of_these_views():
    images, augmentation = smooth_images(6, 3, 32, 32), Augmentation(recipe="no_up", erasing_probability=0.5)
    draws = augmentation.draw(12, (3, 32, 32), generator=generator())
    views = augmentation.apply(images, draws)
    mine = torch.tensor([1, 4, 7, 10])  # the images 1 and 4 and their two views
    torch.testing.assert_close(augmentation.apply(images[[1, 4]], draws.rows(mine)), views[mine])


@pytest.mark.gpu
def test_views_on_a_gpu_are_those_on_the_cpu():
    images = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation()
    draws = augmentation.draw(16, (3, 96, 96), generator=generator())
    views = augmentation.apply(images, draws)
    on_gpu = augmentation.apply(images.cuda(), draws.to("cuda"))
    torch.testing.assert_close(on_gpu.cpu(), views, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("turned", TURNED)
def test_turned_views_on_a_gpu_are_those_on_the_cpu(turned):
    images = torch.randint(0, 256, (16, 3, 60, 80), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(**turned)
    draws = augmentation.draw(32, (3, 60, 80), generator=generator())
    views = augmentation.apply(images, draws)
    on_gpu = augmentation.apply(images.cuda(), draws.to("cuda"))
    torch.testing.assert_close(on_gpu.cpu(), views, atol=1e-4, rtol=0)


def test_views_of_one_call_are_those_of_the_draws():
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    augmentation = Augmentation(size=12)
    views = augmentation(images, torch.Generator().manual_seed(0), n_views=3)
    draws = augmentation.draw(15, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(views, augmentation.apply(images, draws))
    assert torch.equal(views[:5], augmentation.apply(images, draws.rows(slice(0, 5))))


@pytest.mark.parametrize(("n_views", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_number_of_views_is_checked(n_views, error):
    with pytest.raises(error, match="n_views must be"):
        Augmentation()(torch.rand(2, 3, 8, 8), n_views=n_views)


def naive_boxes(numbers, shape, size, scale, ratio, transposed):
    """Crops of rows of numbers in [0, 1), each from its definition in float64."""
    _, height, width = shape
    boxes = []
    for (areas, ratios, down, right), turned in zip(numbers, transposed, strict=True):
        aspect, view_aspect = width / height, size[1] / size[0]
        # Lying on its side, a crop of aspect 1 / c is stretched to that of the view: as much as another one.
        low, high = (r * aspect / (view_aspect**2 if turned else 1) for r in ratio)
        for u, v in zip(areas, ratios, strict=True):
            area = height * width * (scale[0] + u * (scale[1] - scale[0]))
            r = math.exp(math.log(low) + v * (math.log(high) - math.log(low)))
            tall, wide = round(math.sqrt(area / r)), round(math.sqrt(area * r))
            if 0 < tall <= height and 0 < wide <= width:
                top, left = math.floor(down * (height - tall + 1)), math.floor(right * (width - wide + 1))
                break
        else:
            tall, wide = height, width
            if aspect < low:
                tall = max(1, round(width / low))
            elif aspect > high:
                wide = max(1, round(height * high))
            top, left = (height - tall) // 2, (width - wide) // 2
        boxes.append([top, left, tall, wide])
    return np.array(boxes)


@pytest.mark.parametrize("turned", [{}, {"rotation": "quarter"}])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 32, 32), (24, 24)),
        ((3, 40, 53), (40, 53)),
        ((1, 90, 30), (45, 15)),
        ((1, 30, 90), (20, 20)),
        ((3, 30, 31), (64, 32)),
    ],
)
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.2, 2.0), (0.3, 0.6)])
def test_boxes_are_their_definition_written_naively(shape, size, ratio, turned):
    n = 500
    augmentation = Augmentation(size=size, crop_scale=(0.08, 1.0), crop_ratio=ratio, **turned)
    draws = augmentation.draw(n, shape, generator=generator(3))
    numbers = torch.rand(n * 36, generator=generator(3)).double()
    areas, ratios = numbers[: 10 * n].view(n, 10), numbers[10 * n : 20 * n].view(n, 10)
    down, right = numbers[20 * n : 21 * n], numbers[21 * n : 22 * n]
    transposed = draws.transposed.tolist() if turned else [False] * n
    rows = zip(areas.tolist(), ratios.tolist(), down.tolist(), right.tolist(), strict=True)
    expected = naive_boxes(rows, shape, size, (0.08, 1.0), ratio, transposed)
    found = torch.stack([draws.top, draws.left, draws.height, draws.width], dim=1).numpy()
    # In float32 a side may be rounded the other way.
    assert (found == expected).all(axis=1).mean() > 0.99
    assert (found[:, 2] + found[:, 0] <= shape[1]).all() and (found[:, 3] + found[:, 1] <= shape[2]).all()


@pytest.mark.parametrize("turned", [{}, {"recipe": "no_up"}])
@pytest.mark.parametrize("shape", [(3, 400, 533), (3, 200, 60), (1, 28, 28), (3, 48, 64)])
def test_views_are_stretched_by_a_third_at_most(shape, turned):
    augmentation = Augmentation(**turned).resolve(shape)
    draws = augmentation.draw(2000, shape, generator=generator())
    down, right = augmentation.size[0] / draws.height, augmentation.size[1] / draws.width
    if turned:
        down = torch.where(draws.transposed, augmentation.size[1] / draws.height, down)
        right = torch.where(draws.transposed, augmentation.size[0] / draws.width, right)
    # Of a small crop, or a small view, the sides are whole pixels.
    rounding = 1 + 1 / torch.minimum(draws.height, draws.width) + 1 / min(augmentation.size)
    assert ((down / right).log().abs() < math.log(4 / 3) + rounding.log()).all()


@pytest.mark.parametrize("turned", TURNED)
def test_what_is_not_asked_for_takes_no_random_numbers(turned):
    augmentation = Augmentation(**{"recipe": "auto", **turned})
    same = Augmentation(**turned).set_params(
        rotation=None, vertical_flip_probability=0.0, erasing_probability=0.0
    )
    shape = (3, 40, 40)
    draws, plain = (a.draw(50, shape, generator=generator()) for a in (augmentation, same))
    for name in set(draws._fields) - {"flip", "vertical_flip", "transposed", "angle", "erased"}:
        assert torch.equal(getattr(draws, name), getattr(plain, name)), name
    assert (plain.vertical_flip, plain.transposed, plain.angle, plain.erased) == (None,) * 4


def test_quarter_turns_are_numpys():
    image = smooth_images(1, 3, 24, 24)
    augmentation = Augmentation(**NOTHING, size=24, rotation="quarter")
    draws = augmentation.draw(64, (3, 24, 24), generator=generator())
    views = augmentation.apply(image.expand(64, -1, -1, -1), draws)
    turned = [torch.from_numpy(np.rot90(image[0].numpy(), k, (1, 2)).copy()) for k in range(4)]
    found = [[torch.allclose(view, other, atol=1e-6) for other in turned].index(True) for view in views]
    assert stats.chisquare(np.bincount(found, minlength=4)).pvalue > 1e-3


def test_vertical_flips_are_torchvisions():
    images = smooth_images(16, 3, 20, 30)
    augmentation = Augmentation(**NOTHING, size=(20, 30), vertical_flip_probability=0.5)
    draws = augmentation.draw(16, (3, 20, 30), generator=generator())
    assert 0 < draws.vertical_flip.sum() < 16
    for image, flipped, view in zip(
        images, draws.vertical_flip, augmentation.apply(images, draws), strict=True
    ):
        torch.testing.assert_close(view, TF.vflip(image) if flipped else image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(12, 16), (30, 30)])
def test_turned_geometry_is_the_definition_written_naively(size):
    images = torch.rand(16, 2, 40, 30, generator=generator(5))
    augmentation = Augmentation(recipe="no_up", color_strength=0, blur_probability=0.5, size=size)
    draws = augmentation.draw(16, (2, 40, 30), generator=generator(6))
    for flag in (draws.flip, draws.vertical_flip, draws.transposed, draws.sigma > 0):
        assert 0 < flag.sum() < 16
    for i, view in enumerate(augmentation.apply(images, draws)):
        np.testing.assert_allclose(view, naive_view(images[i], draws.rows(i), size), atol=5e-6)


def naive_rotated_view(image, draw, size, most):
    """A crop turned by any angle in float64: the box around it resized, then bilinear, edges reflected."""
    height, width = image.shape[1:]
    angle, half = math.radians(float(draw.angle)), (float(draw.height) / 2, float(draw.width) / 2)
    centre = float(draw.top) + half[0], float(draw.left) + half[1]
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [
        (centre[0] + sin * x + cos * y, centre[1] + cos * x - sin * y)
        for x in (-half[1], half[1])
        for y in (-half[0], half[0])
    ]
    top, left = (max(0, math.floor(min(c[k] for c in corners) + 1e-4)) for k in (0, 1))
    bottom = min(height, math.ceil(max(c[0] for c in corners) - 1e-4))
    right = min(width, math.ceil(max(c[1] for c in corners) - 1e-4))
    angles = np.linspace(0, math.radians(most), 100_001)
    reach = [math.ceil((a * np.cos(angles) + b * np.sin(angles)).max() - 1e-6) for a, b in (size, size[::-1])]
    box = draw._replace(
        top=top, left=left, height=bottom - top, width=right - left, flip=False, vertical_flip=None, sigma=0.0
    )
    around = naive_view(image, box, reach)

    def reflected(i, n):
        i %= 2 * n
        return 2 * n - 1 - i if i >= n else i

    view = np.zeros((image.shape[0], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = (2 * i + 1) / size[0] - 1, (2 * j + 1) / size[1] - 1
            y, x = half[0] * (-y if draw.vertical_flip else y), half[1] * (-x if draw.flip else x)
            row = (centre[0] + sin * x + cos * y - top) / (bottom - top) * reach[0] - 0.5
            column = (centre[1] + cos * x - sin * y - left) / (right - left) * reach[1] - 0.5
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    weight = (1 - abs(row - r)) * (1 - abs(column - c))
                    view[:, i, j] += weight * around[:, reflected(r, reach[0]), reflected(c, reach[1])]
    return view


@pytest.mark.parametrize("rotation", [180, 15.0])
@pytest.mark.parametrize("size", [(12, 16), (25, 20)])
def test_rotation_is_its_definition_written_naively(size, rotation):
    images = smooth_images(12, 2, 40, 30)
    augmentation = Augmentation(
        recipe="imagenet", color_strength=0, blur_probability=0, size=size, rotation=rotation
    )
    augmentation.set_params(vertical_flip_probability=0.5)
    draws = augmentation.draw(12, (2, 40, 30), generator=generator(6))
    assert draws.angle.amin() < -rotation / 2 and draws.angle.amax() > rotation / 2
    for i, view in enumerate(augmentation.apply(images, draws)):
        expected = naive_rotated_view(images[i], draws.rows(i), size, rotation)
        np.testing.assert_allclose(view, expected, atol=2e-5)


@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0, -90.0])
def test_rotation_turns_counterclockwise(angle):
    image = torch.nn.functional.avg_pool2d(smooth_images(1, 3, 40, 40), 5, 1, 2, count_include_pad=False)
    augmentation = Augmentation(**NOTHING, size=40, rotation=180)
    draws = augmentation.draw(1, (3, 40, 40), generator=generator())
    view = augmentation.apply(image, draws._replace(angle=torch.tensor([angle])))
    torch.testing.assert_close(view, torch.rot90(image, round(angle / 90), (2, 3)), atol=0.02, rtol=0)


def test_rotation_fills_corners_with_what_is_there():
    images = torch.ones(32, 3, 20, 60)
    views = Augmentation(**NOTHING, size=(20, 60), rotation=180)(images, generator())
    torch.testing.assert_close(views, images, atol=1e-5, rtol=0)


def test_colours_of_rotated_views_are_those_of_others():
    images = torch.rand(6, 3, 1, 1, generator=generator()).expand(6, 3, 24, 24)
    rotated = Augmentation(recipe="imagenet", size=24, rotation=180)
    plain = Augmentation(recipe="imagenet", size=24)
    views, others = (a(images, generator(2), n_views=2) for a in (rotated, plain))
    torch.testing.assert_close(views, others, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize(
    ("shape", "size"), [((3, 32, 32), (24, 24)), ((3, 30, 40), (15, 20)), ((1, 40, 9), (30, 40))]
)
@pytest.mark.parametrize("implementation", ["linear", "torchvision", "google_v1"])
def test_both_ways_of_computing_give_the_same_turned_views(shape, size, implementation, turned):
    images = torch.rand(6, *shape, generator=generator())
    augmentation = Augmentation(size=size, implementation=implementation, **turned)
    draws = augmentation.draw(12, shape, generator=generator(1))
    by_rows = augmentation.apply(images, draws)
    dense = augmentation.apply(images.clone().requires_grad_(), draws).detach()
    assert by_rows.shape == dense.shape == (12, shape[0], *size)
    # Turning the hue one after the other magnifies rounding where two channels are nearly equal.
    assert ((by_rows - dense).abs() > 2e-5).float().mean() < (
        1e-3 if implementation == "torchvision" else 1e-9
    )


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 30)])
def test_a_turned_view_does_not_depend_on_its_company(shape, turned, monkeypatch):
    images = torch.randint(0, 256, (10, *shape), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(**turned)
    draws = augmentation.draw(20, shape, generator=generator(1))
    views = augmentation.apply(images, draws)
    monkeypatch.setattr(make, "_ROTATED", 1)
    assert torch.equal(augmentation.apply(images, draws), views)
    part = torch.tensor([9, 2, 4, 0])
    rows = draws.rows(torch.cat([part, part + 10]))
    assert torch.equal(augmentation.apply(images[part], rows), views[torch.cat([part, part + 10])])


@pytest.mark.parametrize("turned", TURNED)
def test_no_images_no_turned_views(turned):
    size = Augmentation(**turned).resolve((3, 32, 48)).size
    assert Augmentation(**turned)(torch.rand(0, 3, 32, 48)).shape == (0, 3, *size)


@pytest.mark.parametrize("turned", TURNED)
def test_an_accelerator_is_never_waited_for_by_turned_views(turned):
    augmentation = Augmentation(**turned)
    draws = augmentation.draw(8, (3, 32, 40), device="meta")
    images = torch.empty(4, 3, 32, 40, dtype=torch.uint8, device="meta")
    assert augmentation.apply(images, draws).shape == (8, 3, *augmentation.resolve((3, 32, 40)).size)


@pytest.mark.parametrize("size", [(24, 24), (1, 1), (5, 60)])
def test_erased_rectangles(size):
    images = smooth_images(400, 2, 24, 24)
    plain = Augmentation(**NOTHING, size=size)
    augmentation = Augmentation(**NOTHING, size=size, erasing_probability=0.75)
    draws = augmentation.draw(400, (2, 24, 24), generator=generator())
    views, before = augmentation.apply(images, draws), plain.apply(images, draws._replace(erased=None))
    areas = []
    for view, other, box in zip(views, before.double(), draws.erased.int().tolist(), strict=True):
        top, left, bottom, right = box
        expected = other.clone()
        for channel in expected:
            channel[top:bottom, left:right] = channel.mean()
        torch.testing.assert_close(view.double(), expected, atol=1e-6, rtol=0)
        assert 0 <= top <= bottom <= size[0] and 0 <= left <= right <= size[1]
        areas.append((bottom - top) * (right - left) / (size[0] * size[1]))
    areas = np.array(areas)
    assert abs((areas > 0).mean() - 0.75) < 0.08
    if size == (24, 24):
        assert areas[areas > 0].min() < 0.04 and 0.17 < areas.max() < 0.22


def test_files_are_taken(tmp_path):
    pixels = torch.randint(256, (3, 40, 40, 3), dtype=torch.uint8, generator=generator())
    paths = []
    for i, image in enumerate(pixels.numpy()):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    expected = Augmentation()(pixels.permute(0, 3, 1, 2), generator(), n_views=2)
    assert torch.equal(Augmentation()(paths, generator(), n_views=2), expected)
    with pytest.raises(TypeError, match="must be a torch.Tensor or files, as load_images takes them; got nd"):
        Augmentation()(pixels.numpy())


@pytest.mark.parametrize(
    ("recipe", "mode"),
    [("auto", "linear"), ("no_up", "linear"), ("imagenet", "torchvision"), ("cifar", "torchvision")],
)
def test_recipes_of_the_paper_apply_one_colour_operation_after_the_other(recipe, mode):
    resolved = Augmentation(recipe=recipe).resolve((3, 96, 96))
    assert resolved.implementation == mode and resolved.resolve((3, 96, 96)).implementation == mode
    assert (
        Augmentation(recipe=recipe, implementation="linear").resolve((3, 96, 96)).implementation == "linear"
    )
