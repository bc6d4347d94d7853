"""Judge representations: label fractions, linear and nearest-neighbour evaluation, transfer, metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
