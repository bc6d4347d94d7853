"""SimCLR as a scikit-learn estimator.

Public names and modules are imported on first use, so that ``import sklearn_simclr`` itself loads
neither torch nor scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import diagnostics as diagnostics
    from . import encoders as encoders
    from . import heads as heads
    from . import images as images
    from . import label_fraction as label_fraction
    from . import losses as losses
    from . import optimizers as optimizers
    from .augmentation import Augmentation
    from .baselines import AutoencoderTransformer, SupervisedTransformer
    from .classifier import SimCLRClassifier
    from .distillation import DistilledClassifier
    from .features import HOGTransformer, PixelTransformer
    from .label_fraction import LabelFractionClassifier
    from .transformer import SimCLRTransformer

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "AutoencoderTransformer",
    "DistilledClassifier",
    "HOGTransformer",
    "LabelFractionClassifier",
    "PixelTransformer",
    "SimCLRClassifier",
    "SimCLRTransformer",
    "SupervisedTransformer",
]

_MODULE_OF = {
    "Augmentation": "augmentation",
    "AutoencoderTransformer": "baselines",
    "DistilledClassifier": "distillation",
    "HOGTransformer": "features",
    "LabelFractionClassifier": "label_fraction",
    "PixelTransformer": "features",
    "SimCLRClassifier": "classifier",
    "SimCLRTransformer": "transformer",
    "SupervisedTransformer": "baselines",
}
_SUBMODULES = frozenset(
    {"diagnostics", "encoders", "heads", "images", "label_fraction", "losses", "optimizers"}
)


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
