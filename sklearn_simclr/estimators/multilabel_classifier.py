"""Fine-tuning on several labels for each image, as the transfer protocol needs it for VOC 2007."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._utils.types import Images, Labels
from ..images.source import ImageSource
from ..training.classification import MultiLabelObjective
from .simclr_classifier import SimCLRClassifier

__all__ = ["MultiLabelFineTuning"]


class MultiLabelFineTuning(SimCLRClassifier):
    """SimCLRClassifier for a matrix y (n, n_labels) of 0 and 1, with one logit for each label.

    The linear layer begins with weights of zero. Without early stopping and class weights.
    """

    _objective = MultiLabelObjective

    def _read_labels(
        self, y: Labels, sample_weight: ArrayLike | None, images: ImageSource
    ) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray(y, dtype=np.float32)
        self.classes_ = np.arange(labels.shape[1])
        readable = np.ones(len(images), dtype=np.float32)
        readable[images.bad] = 0
        return labels, readable

    def decision_function(self, X: Images) -> np.ndarray:
        """Return the logits (n, n_labels)."""
        return self._logits(X)
