"""Training with targets: classes, probabilities that a teacher gives, or the images themselves."""

import copy
import math

import torch
from torch.nn import functional as F

from .loop import TrainingLoop

__all__ = ["ClassificationNet", "ReconstructionNet", "Targets"]

# Images a forward when the loss on the validation images is computed.
_VALIDATION_ROWS = 256


class Targets:
    """What a classifier learns from, a row an image.

    Parameters
    ----------
    labels : int64 tensor of shape (n,)
        Numbers of the classes; -1 where there is none.
    weights : float32 tensor of shape (n,)
        Of the rows in the loss on labels; 0 where there is no label.
    teacher : callable or None, default=None
        ``teacher(index, views)`` returns log-probabilities (m, n_classes) for some rows.
    """

    def __init__(self, labels, weights, teacher=None):
        self.labels = labels
        self.weights = weights
        self.teacher = teacher

    def to(self, device):
        """Return the same targets on a device."""
        return Targets(self.labels.to(device), self.weights.to(device), self.teacher)


class ClassificationNet(TrainingLoop):
    """Trains ``module.encoder`` and the modules after it to predict classes from one view an image.

    Parameters
    ----------
    module : nn.Sequential
        Images (N, C, H, W) to logits (N, n_classes).
    targets : Targets
        Of the images.
    alpha : float, default=0
        Part of the loss that is the cross-entropy with the teacher's probabilities.
    temperature : float, default=1
        Logits of student and teacher are divided by it in that part (V2 section 3).
    patience : int or None, default=None
        Epochs without a better validation loss after which the training ends.
    validation : (ImageSource, Targets) or None, default=None
        Labelled images that are not trained on; the weights that did best on them are kept.
    **options
        Of TrainingLoop.
    """

    def __init__(
        self, module, targets, *, alpha=0.0, temperature=1.0, patience=None, validation=None, **options
    ):
        super().__init__(module, self._cross_entropy, **options)
        self.targets = targets
        self.alpha = alpha
        self.temperature = temperature
        self.patience = patience
        self.validation = validation
        self.best = {"loss": math.inf, "epoch": 0, "module": None}

    def train(self, source, optimizer_state=None):
        """Train on images; end with the best weights if there are validation images."""
        self.targets = self.targets.to(self.device)
        super().train(source, optimizer_state)
        if self.best["module"] is not None:
            self.module_.load_state_dict(self.best["module"])
        return self

    def _cross_entropy(self, logits, labels, weights):
        """Return the weighted mean over the labelled rows."""
        losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
        return (losses * weights).sum() / weights.sum().clamp(min=1e-12)

    def _step(self, index, images, per_step=False):
        self.optimizer_.zero_grad(set_to_none=True)
        draws = self.augmentation.draw(
            len(images), tuple(images.shape[1:]), generator=self.generator, device=self.device
        )
        views = self.augmentation.apply(images, draws).contiguous(memory_format=self.memory_format)
        with self._precision():
            logits = self.module_(views)
        logits = logits.float()
        labels, weights = self.targets.labels[index], self.targets.weights[index]
        loss = logits.new_zeros(())
        if self.alpha < 1:
            loss = (1 - self.alpha) * self._cross_entropy(logits, labels, weights)
        if self.alpha > 0:
            taught = (self.targets.teacher(index, views) / self.temperature).softmax(dim=1)
            known = F.log_softmax(logits / self.temperature, dim=1)
            loss = loss - self.alpha * (taught * known).sum(dim=1).mean()
        self._update(loss, index, per_step)
        return loss.detach(), labels, logits.detach()

    def _record_outputs(self, labels, logits):
        labelled = labels >= 0
        hits = ((logits.argmax(dim=1) == labels) & labelled).sum() / labelled.sum().clamp(min=1)
        self.history.record("train_accuracy", hits.item() if labelled.any() else math.nan)
        if self.validation is None:
            return
        loss, accuracy = self._validate()
        self.history.record("valid_loss", loss)
        self.history.record("valid_accuracy", accuracy)
        if loss < self.best["loss"]:
            state = copy.deepcopy(self.module_.state_dict())
            self.best = {"loss": loss, "epoch": len(self.history), "module": state}

    @torch.inference_mode()
    def _validate(self):
        source, targets = self.validation
        device = torch.device(self.device)
        self.module_.eval()
        loss, hits, weight = 0.0, 0, 0.0
        for start in range(0, len(source), _VALIDATION_ROWS):
            rows = slice(start, start + _VALIDATION_ROWS)
            images = source.take(rows).to(device)
            images = images.float().div_(255) if images.dtype == torch.uint8 else images
            with self._precision():
                logits = self.module_(images.contiguous(memory_format=self.memory_format)).float()
            labels, weights = targets.labels[rows].to(device), targets.weights[rows].to(device)
            losses = F.cross_entropy(logits, labels, reduction="none")
            loss += float((losses * weights).sum())
            weight += float(weights.sum())
            hits += int((logits.argmax(dim=1) == labels).sum())
        self.module_.train()
        return loss / max(weight, 1e-12), hits / len(source)

    def _enough(self):
        return self.patience is not None and len(self.history) - self.best["epoch"] >= self.patience

    def _state(self, position=None):
        return {**super()._state(position), "best": self.best}

    def _take_state(self, state):
        super()._take_state(state)
        self.best = state["best"]


class ReconstructionNet(TrainingLoop):
    """Trains ``module.encoder`` and ``module.decoder`` to give back the images, in the mean squared error.

    Parameters
    ----------
    module : nn.Sequential
        Images (N, C, H, W) to images of the same shape.
    **options
        Of TrainingLoop; without an augmentation the images are learnt as they are.
    """

    def __init__(self, module, **options):
        super().__init__(module, F.mse_loss, **options)

    def _step(self, index, images, per_step=False):
        self.optimizer_.zero_grad(set_to_none=True)
        if self.augmentation is None:
            views = images.float().div_(255) if images.dtype == torch.uint8 else images
        else:
            draws = self.augmentation.draw(
                len(images), tuple(images.shape[1:]), generator=self.generator, device=self.device
            )
            views = self.augmentation.apply(images, draws)
        with self._precision():
            again = self.module_(views.contiguous(memory_format=self.memory_format))
        loss = F.mse_loss(again.float(), views)
        self._update(loss, index, per_step)
        return (loss.detach(),)
