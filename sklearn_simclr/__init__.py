"""SimCLR as a scikit-learn estimator.

Public names and modules are imported on first use, so that ``import sklearn_simclr`` itself loads
neither torch nor scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import curl_bounds as curl_bounds
    from . import datasets as datasets
    from . import diagnostics as diagnostics
    from . import encoders as encoders
    from . import export as export
    from . import files as files
    from . import heads as heads
    from . import image_formats as image_formats
    from . import images as images
    from . import label_fraction as label_fraction
    from . import label_savings as label_savings
    from . import losses as losses
    from . import metrics as metrics
    from . import optimizers as optimizers
    from . import pac_bayes as pac_bayes
    from . import pretrained as pretrained
    from . import report as report
    from . import tasks as tasks
    from . import theory as theory
    from . import transfer as transfer
    from .augmentation import Augmentation
    from .augmentation_display import AugmentationDisplay
    from .baselines import AutoencoderTransformer, SupervisedTransformer
    from .classifier import SimCLRClassifier
    from .curve import label_fraction_curve
    from .distillation import DistilledClassifier
    from .embedding_display import EmbeddingDisplay
    from .export import export_encoder, load_encoder, load_estimator, save_estimator
    from .features import HOGTransformer, PixelTransformer
    from .files import image_rows, load_image_paths
    from .label_fraction import LabelFractionClassifier, LabelFractionRegressor, label_subset
    from .label_fraction_display import LabelFractionDisplay
    from .label_savings import label_saving
    from .linear_evaluation import LinearEvaluationClassifier
    from .pac_bayes_encoder import PACBayesContrastiveTransformer
    from .pretrained import load_pretrained
    from .report import RepresentationReport, representation_report
    from .similarity_display import SimilarityDisplay
    from .splitters import SemiSupervisedKFold
    from .training_display import TrainingDisplay
    from .transfer import compare_transfers, transfer_evaluation
    from .transformer import SimCLRTransformer
    from .weighted_knn import WeightedKNNClassifier

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "AugmentationDisplay",
    "AutoencoderTransformer",
    "DistilledClassifier",
    "EmbeddingDisplay",
    "HOGTransformer",
    "LabelFractionClassifier",
    "LabelFractionDisplay",
    "LabelFractionRegressor",
    "LinearEvaluationClassifier",
    "PACBayesContrastiveTransformer",
    "PixelTransformer",
    "RepresentationReport",
    "SemiSupervisedKFold",
    "SimCLRClassifier",
    "SimCLRTransformer",
    "SimilarityDisplay",
    "SupervisedTransformer",
    "TrainingDisplay",
    "WeightedKNNClassifier",
    "compare_transfers",
    "export_encoder",
    "image_rows",
    "label_fraction_curve",
    "label_saving",
    "label_subset",
    "load_encoder",
    "load_estimator",
    "load_image_paths",
    "load_pretrained",
    "representation_report",
    "save_estimator",
    "transfer_evaluation",
]

_MODULE_OF = {
    "Augmentation": "augmentation",
    "AugmentationDisplay": "augmentation_display",
    "AutoencoderTransformer": "baselines",
    "DistilledClassifier": "distillation",
    "EmbeddingDisplay": "embedding_display",
    "HOGTransformer": "features",
    "LabelFractionClassifier": "label_fraction",
    "LabelFractionDisplay": "label_fraction_display",
    "LabelFractionRegressor": "label_fraction",
    "LinearEvaluationClassifier": "linear_evaluation",
    "PACBayesContrastiveTransformer": "pac_bayes_encoder",
    "PixelTransformer": "features",
    "RepresentationReport": "report",
    "SemiSupervisedKFold": "splitters",
    "SimCLRClassifier": "classifier",
    "SimCLRTransformer": "transformer",
    "SimilarityDisplay": "similarity_display",
    "SupervisedTransformer": "baselines",
    "TrainingDisplay": "training_display",
    "WeightedKNNClassifier": "weighted_knn",
    "compare_transfers": "transfer",
    "export_encoder": "export",
    "image_rows": "files",
    "label_fraction_curve": "curve",
    "label_saving": "label_savings",
    "label_subset": "label_fraction",
    "load_encoder": "export",
    "load_estimator": "export",
    "load_image_paths": "files",
    "load_pretrained": "pretrained",
    "representation_report": "report",
    "save_estimator": "export",
    "transfer_evaluation": "transfer",
}
_SUBMODULES = frozenset(
    {
        "curl_bounds",
        "datasets",
        "diagnostics",
        "encoders",
        "export",
        "files",
        "heads",
        "image_formats",
        "images",
        "label_fraction",
        "label_savings",
        "losses",
        "metrics",
        "optimizers",
        "pac_bayes",
        "pretrained",
        "report",
        "tasks",
        "theory",
        "transfer",
    }
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
