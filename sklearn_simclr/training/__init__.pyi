from .optimizers import LARS as LARS
from .optimizers import Muon as Muon
from .optimizers import default_learning_rate as default_learning_rate
from .optimizers import make_optimizer as make_optimizer
from .optimizers import parameter_groups as parameter_groups
from .optimizers import warmup_cosine as warmup_cosine
