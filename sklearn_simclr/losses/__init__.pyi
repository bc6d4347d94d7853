from .contrastive import curl_hinge as curl_hinge
from .contrastive import curl_logistic as curl_logistic
from .contrastive import margin_triplet as margin_triplet
from .contrastive import nt_logistic as nt_logistic
from .contrastive import nt_xent as nt_xent
