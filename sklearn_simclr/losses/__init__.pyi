from .curl import curl_hinge as curl_hinge
from .curl import curl_logistic as curl_logistic
from .ntxent import nt_xent as nt_xent
from .pairwise import margin_triplet as margin_triplet
from .pairwise import nt_logistic as nt_logistic
from .reweighted import dcl as dcl
from .reweighted import hard_nt_xent as hard_nt_xent
from .supervised import supcon as supcon
