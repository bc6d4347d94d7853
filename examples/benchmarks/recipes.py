"""One recipe of random views, in the words of each library.

Everywhere: crops of 8% to 100% of the area, views of the size of the image, mirrored with probability 1/2,
colours jittered with probability 0.8, grey with probability 0.2. Up to 64 pixels at colour strength 0.5
without blur, above at colour strength 1 with a blur of half of the views: the two settings of the SimCLR
paper. No normalisation.
"""

from timing import optional

from sklearn_simclr import Augmentation

SIGMA = (0.1, 2.0)
RATIO = (3 / 4, 4 / 3)
SCALE = (0.08, 1.0)


def _strength(size):
    return 0.5 if size <= 64 else 1.0


def _blur(size):
    return 0.0 if size <= 64 else 0.5


def _kernel(size):
    """Return the width of the blur: a tenth of the side, odd."""
    return 2 * max(1, size // 20) + 1


def _jitter(size):
    s = _strength(size)
    return {"brightness": 0.8 * s, "contrast": 0.8 * s, "saturation": 0.8 * s, "hue": 0.2 * s}


def ours(size, implementation="torchvision"):
    """Return the augmentation of sklearn-simclr."""
    recipe = "cifar" if size <= 64 else "imagenet"
    return Augmentation(recipe=recipe, size=size, crop_scale=SCALE, implementation=implementation)


def lightly(size):
    """Return lightly's transform of a Pillow image to a list of two views."""
    from lightly.transforms import SimCLRTransform

    return SimCLRTransform(
        input_size=size,
        cj_strength=_strength(size),
        min_scale=SCALE[0],
        gaussian_blur=_blur(size),
        sigmas=SIGMA,
        normalize=None,
    )


def kornia(size):
    """Return kornia's augmentation of a batch (N, C, H, W) of floats, one draw per image."""
    K = optional("kornia").augmentation
    steps = [
        K.RandomResizedCrop((size, size), scale=SCALE, ratio=RATIO),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(**_jitter(size), p=0.8),
        K.RandomGrayscale(p=0.2),
    ]
    if _blur(size):
        steps.append(K.RandomGaussianBlur((_kernel(size),) * 2, SIGMA, p=_blur(size)))
    return K.AugmentationSequential(*steps, data_keys=["input"], same_on_batch=False)


def torchvision(size):
    """Return torchvision's transform of a uint8 tensor (C, H, W) to one view."""
    import torch
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(size, scale=SCALE, ratio=RATIO, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(**_jitter(size))], p=0.8),
        v2.RandomGrayscale(p=0.2),
    ]
    if _blur(size):
        steps.append(v2.RandomApply([v2.GaussianBlur(_kernel(size), SIGMA)], p=_blur(size)))
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
