from .augmentation import Augmentation as Augmentation
from .external import ExternalViews as ExternalViews
