"""The parameters with which the SimCLR papers trained."""

import math
from typing import Any, Literal

from ..views.augmentation import Augmentation

__all__ = ["paper_settings"]

# Sections are those of arXiv:2002.05709 (V1) and arXiv:2006.10029 (V2).
_VIEWS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "imagenet"): {"recipe": "imagenet", "implementation": "google_v1"},  # V1 section 3 and appendix A
    ("v1", "cifar10"): {"recipe": "cifar", "implementation": "google_v1"},  # V1 B.9: strength 0.5, no blur
    ("v2", "imagenet"): {"recipe": "imagenet", "implementation": "google_v2"},  # V2 section 3: those of V1
}
_COMMON: dict[str, Any] = {
    "encoder": "resnet50",  # V1 section 2.1; V2 section 3 goes up to "resnet152x3-sk"
    "loss": "nt_xent",  # V1 equation 1
    "projection_dim": 128,  # V1 section 2.3
    "optimizer": "lars",  # V1 section 2.2, V2 section 3
}
_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "imagenet"): {
        "image_size": 224,  # V1 appendix A
        "temperature": 0.1,  # V1 table 5
        "projection_layers": 2,  # V1 section 2.1
        "batch_size": 4096,  # V1 section 2.3
        "max_epochs": 100,  # V1 section 2.3; 1000 in table 6
        "weight_decay": 1e-6,  # V1 section 2.3
    },
    ("v1", "cifar10"): {
        "temperature": 0.5,  # V1 B.9
        "projection_layers": 2,  # V1 section 2.1
        "batch_size": 1024,  # V1 B.9
        "max_epochs": 1000,  # the command for CIFAR-10 in the README of Google's code
        "weight_decay": 1e-6,  # V1 B.9: as for ImageNet
    },
    ("v2", "imagenet"): {
        "image_size": 224,
        "temperature": 0.1,  # the default of Google's code; V2 does not say
        "projection_layers": 3,  # V2 section 2
        "batch_size": 4096,  # V2 section 3
        "max_epochs": 800,  # V2 section 3
        "weight_decay": 1e-4,  # V2 section 3
        "queue_size": 65536,  # V2 section 3
        "queue_momentum": 0.999,  # V2 section 3
    },
}

_WARMUP_EPOCHS = 10  # V1 section 2.3
_WARMUP_V2 = 0.05  # V2 section 3: of the epochs
_CIFAR_RATE = 1.0  # V1 B.9 tries 0.5, 1.0 and 1.5, Google's README has 1.0; here at every batch size


def paper_settings(
    paper: Literal["v1", "v2"] = "v1",
    data: Literal["imagenet", "cifar10"] = "imagenet",
    *,
    batch_size: int | None = None,
    max_epochs: int | None = None,
    rate: Literal["linear", "sqrt"] | None = None,
) -> dict[str, Any]:
    """Return the parameters of SimCLRTransformer with which a paper trained.

    The defaults of :class:`SimCLRTransformer` learn as much as possible in minutes; these are for many
    epochs on accelerators. The dict can be read, changed, passed to ``SimCLRTransformer(**settings)`` or
    ``set_params``, and searched over.

    Parameters
    ----------
    paper : {"v1", "v2"}, default="v1"
        SimCLR [1]_ or SimCLRv2 [2]_.
    data : {"imagenet", "cifar10"}, default="imagenet"
        Whose settings; those for CIFAR-10 are of the first paper (appendix B.9).
    batch_size : int or None, default=None
        Images per step, >= 2; the learning rate follows it. None is the paper's.
    max_epochs : int or None, default=None
        Epochs, >= 1; the fraction of warm-up follows it. None is the paper's.
    rate : {"linear", "sqrt"} or None, default=None
        How the learning rate follows the batch size N. ``"linear"``: 0.3 N / 256 (V1 section 2.3).
        ``"sqrt"``: 0.075 sqrt(N) for V1, which is better for small batches and few epochs (B.1), and
        0.1 sqrt(N) for V2. None: linear for V1, square root for V2; for CIFAR-10, 1.0 at every batch size.

    Returns
    -------
    dict
        Parameters of :class:`SimCLRTransformer`, ``augmentation`` among them.

    Raises
    ------
    ValueError
        If there are no such settings, or a number is out of its range.

    See Also
    --------
    SimCLRTransformer : Takes the settings.
    Augmentation : Its recipes are those of the papers.

    Notes
    -----
    Google's code crops the original image; here the centred square of each file is first resized to 224
    pixels (``image_size``). V1 trained for 1,000 epochs in its table 6. At batches of 4,096 both rates of V1
    are 4.8.

    For CIFAR-10, V1 tries rates of 0.5, 1.0 and 1.5, finds a temperature of 0.5 best after more than 300
    epochs, and leaves the rest as for ImageNet (B.9). The rate and the number of epochs are those of the
    command in the README of Google's code, which has a ResNet-18, batches of 512 and a weight decay of 1e-4.
    V2 names no temperature; 0.1 is the default of Google's code.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, 2020. :arxiv:`2002.05709`
    .. [2] Chen, Kornblith, Swersky, Norouzi and Hinton, 2020. :arxiv:`2006.10029`

    Examples
    --------
    >>> from sklearn_simclr import SimCLRTransformer, paper_settings
    >>> settings = paper_settings("v1", data="cifar10", batch_size=256, rate="sqrt")
    >>> settings["learning_rate"], settings["temperature"], settings["warmup"]
    (1.2, 0.5, 0.01)
    >>> simclr = SimCLRTransformer(**settings, random_state=0)
    """
    known = [key for key in _SETTINGS if isinstance(paper, str) and key == (paper, data)]
    if not known:
        raise ValueError(
            f"There are no settings of paper={paper!r} for data={data!r}. Pass 'v1' or 'v2' with 'imagenet', "
            "or 'v1' with 'cifar10'."
        )
    for name, value, least in (("batch_size", batch_size, 2), ("max_epochs", max_epochs, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an int of at least {least} or None, got {value!r}.")
    if rate not in (None, "linear", "sqrt"):
        raise ValueError(f"rate must be 'linear', 'sqrt' or None, got {rate!r}.")
    settings = {
        **_COMMON,
        **_SETTINGS[known[0]],
        "augmentation": Augmentation(**_VIEWS[known[0]]),
    }
    settings["batch_size"] = n = batch_size or settings["batch_size"]
    settings["max_epochs"] = epochs = max_epochs or settings["max_epochs"]
    settings["warmup"] = _WARMUP_V2 if paper == "v2" else min(1.0, _WARMUP_EPOCHS / epochs)
    if rate is None and data == "cifar10":
        settings["learning_rate"] = _CIFAR_RATE
    elif rate == "sqrt" or rate is None and paper == "v2":
        settings["learning_rate"] = (0.1 if paper == "v2" else 0.075) * math.sqrt(n)  # V2 section 3, V1 B.1
    else:
        settings["learning_rate"] = 0.3 * n / 256  # V1 section 2.3
    return settings
