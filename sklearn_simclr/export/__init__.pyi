from .files import export_encoder as export_encoder
from .files import load_encoder as load_encoder
from .files import load_estimator as load_estimator
from .files import save_estimator as save_estimator
