from .augmentation import Augmentation as Augmentation
