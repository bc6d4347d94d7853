"""SimCLR as a scikit-learn estimator.

Public names and rooms are imported on first use, so that ``import sklearn_simclr`` itself loads neither
torch nor scikit-learn; they are listed once, in the stub beside this file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
