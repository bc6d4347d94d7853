"""The scikit-learn estimators: SimCLR, its baselines, fine-tuning and distillation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
