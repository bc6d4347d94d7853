from .heads import ProjectionHead as ProjectionHead
from .make import make_encoder as make_encoder
from .preprocessing import Preprocessing as Preprocessing
from .weights.network_file import Pretrained as Pretrained
from .weights.network_file import save_pretrained as save_pretrained
from .weights.pretrained import convert_checkpoint as convert_checkpoint
from .weights.pretrained import load_pretrained as load_pretrained
