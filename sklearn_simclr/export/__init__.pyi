from .encoder_files import export_encoder as export_encoder
from .encoder_files import load_encoder as load_encoder
from .estimator_files import load_estimator as load_estimator
from .estimator_files import save_estimator as save_estimator
