from .baselines import AutoencoderTransformer as AutoencoderTransformer
from .baselines import SupervisedTransformer as SupervisedTransformer
from .distilled_classifier import DistilledClassifier as DistilledClassifier
from .features import HOGTransformer as HOGTransformer
from .features import PixelTransformer as PixelTransformer
from .simclr_classifier import SimCLRClassifier as SimCLRClassifier
from .simclr_transformer import SimCLRTransformer as SimCLRTransformer
