"""Write encoders and estimators to files that are read without running code, and to ONNX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
