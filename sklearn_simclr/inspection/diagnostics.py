"""Numbers that say how a contrastive representation fares without looking at labels."""

from ..losses.measures import alignment, chance_level, contrastive_accuracy, rankme, uniformity
from ..training.forecast import LossPrediction, predict_loss

__all__ = [
    "LossPrediction",
    "alignment",
    "chance_level",
    "contrastive_accuracy",
    "predict_loss",
    "rankme",
    "uniformity",
]
