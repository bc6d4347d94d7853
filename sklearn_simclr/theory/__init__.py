"""Why contrastive learning works: the bounds of CURL and PAC-Bayes, and an encoder trained by a bound."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
