"""Private names of scikit-learn, imported here and nowhere else: when one changes, this module changes."""

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names as check_feature_names

__all__ = ["Interval", "StrOptions", "check_feature_names", "fit_context"]
