"""The objectives of classifiers: cross-entropy with labels, with a teacher's answers, with several labels."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..images.source import ImageSource, as_float
from ..views.interface import Views
from .batch import Batch
from .objective import Epoch, Objective, Step
from .plan import Plan

__all__ = ["ClassificationObjective", "MultiLabelObjective", "Targets", "Validation"]

# Images per forward when the loss on the validation images is computed.
_VALIDATION_ROWS = 256


@dataclass(frozen=True)
class Targets:
    """Training data of a classifier, one row per image.

    Parameters
    ----------
    labels : tensor of shape (n,), or of shape (n, n_labels)
        Numbers of the classes, int64, -1 where there is none; or 0 and 1 for several labels, float32.
    weights : float32 tensor of shape (n,)
        Weights of the rows in the loss on labels; 0 where there is no label.
    """

    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> "Targets":
        """Return the same targets on a device."""
        return Targets(self.labels.to(device), self.weights.to(device))


@dataclass(frozen=True)
class Validation:
    """Labelled images that are not trained on: the weights that did best on them are kept.

    Parameters
    ----------
    images : ImageSource
        The images.
    targets : Targets
        Their labels.
    patience : int
        Epochs without a better loss after which the training ends.
    """

    images: ImageSource
    targets: Targets
    patience: int


class ClassificationObjective(Objective):
    """Predict classes from one view of each image.

    Parameters
    ----------
    modules : dict of str to torch.nn.Module
        The encoder and what comes after it; the last one gives logits (n, n_classes).
    augmentation : Augmentation or ExternalViews
        With concrete values.
    targets : Targets
        Labels and weights of the images.
    teacher : Tensor, torch.nn.Module or None, default=None
        Log-probabilities (n_images, n_classes), or a network from views to logits.
    alpha : float, default=0
        Part of the loss that is the cross-entropy with the teacher's probabilities.
    temperature : float, default=1
        Logits of student and teacher are divided by it in that part (V2, equation 2).
    validation : Validation or None, default=None
        Images by which training is stopped early.
    n_classes : int, default=2
        For the chance level.
    given : iterable of str, default=()
        The modules that begin with weights that somebody chose.
    initialize : bool, default=True
        Whether an encoder whose first layer is set from images is to be set.
    frozen : iterable of torch.nn.Module, default=()
        Parts of the modules whose own parameters and statistics stay as they are.
    start_counts : bool, default=False
        Whether the modules are a trained classifier as they are, which is kept if no epoch does better on the
        validation images.
    """

    augmentation: Views
    repeats = True

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        augmentation: Views,
        targets: Targets,
        *,
        teacher: Tensor | nn.Module | None = None,
        alpha: float = 0.0,
        temperature: float = 1.0,
        validation: Validation | None = None,
        n_classes: int = 2,
        given: Iterable[str] = (),
        initialize: bool = True,
        frozen: Iterable[nn.Module] = (),
        start_counts: bool = False,
    ) -> None:
        super().__init__(modules, augmentation, given=given, initialize=initialize)
        self.frozen = list(frozen)
        self.start_counts = start_counts
        self.thawed: list[nn.Parameter] = []  # parameters that are trainable again in the end
        self.targets = targets
        self.teacher = teacher
        self.alpha = alpha
        self.temperature = temperature
        self.validation = validation
        self.chance_level = math.log(max(2, n_classes))
        columns = {"train_loss": "loss", "train_accuracy": "accuracy"}
        if validation is not None:
            columns.update(valid_loss="validation_loss", valid_accuracy="validation_accuracy")
        self.columns = {**columns, **{k: v for k, v in Objective.columns.items() if k != "train_loss"}}
        self.best: dict[str, Any] = {"loss": math.inf, "epoch": 0, "module": None}

    def step(self, batch: Batch) -> Step:
        """Return the cross-entropy of a view of each image, with the labels and with the teacher."""
        views = batch.lay_out(batch.views(self.augmentation))
        for module in self.frozen:
            module.training = False  # eval() would also change the modules within, which may be trained
        with batch.precision():
            logits = self.predict(views)
        logits = logits.float()
        labels, weights = self.targets.labels[batch.index], self.targets.weights[batch.index]
        loss = logits.new_zeros(())
        if self.alpha < 1:
            loss = (1 - self.alpha) * batch.mean(self.cross_entropy(logits, labels), weights)
        if self.alpha > 0:
            taught = (self.teach(batch.index, views) / self.temperature).softmax(dim=1)
            known = F.log_softmax(logits / self.temperature, dim=1)
            loss = loss - self.alpha * (taught * known).sum(dim=1).mean()
        return Step(loss, {"labels": labels, "logits": logits.detach()})

    def predict(self, views: Tensor) -> Tensor:
        """Return the logits of views."""
        for module in self.modules.values():
            views = module(views)
        return views

    @torch.no_grad()
    def teach(self, index: Tensor, views: Tensor) -> Tensor:
        """Return the teacher's logits (m, n_classes) for views of the images of some rows."""
        if self.teacher is None:
            raise ValueError(
                f"alpha={self.alpha} weighs the answers of a teacher, but teacher is None. Pass a teacher, "
                "or alpha=0."
            )
        return self.teacher(views).float() if isinstance(self.teacher, nn.Module) else self.teacher[index]

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, 0 without a label."""
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")

    def identity(self) -> dict[str, Any]:
        """Return what the learnt weights depend on: also targets, teacher and validation images."""
        teacher, held = self.teacher, self.validation
        known = {
            "labels": self.targets.labels,
            "weights": self.targets.weights,
            "teacher": teacher,
            "alpha": self.alpha,
            "temperature": self.temperature,
            "frozen": [name for name, part in self.modules.named_modules() if part in self.frozen],
            "validation": held and [held.images, held.targets.labels, held.targets.weights, held.patience],
        }
        return {**super().identity(), **known}

    def begin(self, images: ImageSource, plan: Plan, generator: torch.Generator) -> None:
        """Bring targets and teacher to the device; set a new encoder's first layer from images."""
        self.targets = self.targets.to(plan.device)
        if self.teacher is not None:
            self.teacher = self.teacher.to(plan.device)
        if self.validation is not None:
            self.validation = replace(self.validation, targets=self.validation.targets.to(plan.device))
        self.plan = plan
        own = (parameter for part in self.frozen for parameter in part.parameters(recurse=False))
        self.thawed = [parameter for parameter in own if parameter.requires_grad]
        for parameter in self.thawed:
            parameter.requires_grad_(False)
        super().begin(images, plan, generator)
        if self.validation is not None and self.start_counts:
            self._note_if_best(self._validate(self.validation)[0], 0)

    def measure(self, outputs: Mapping[str, Tensor], epoch: Epoch) -> dict[str, float]:
        """Return the accuracy in the last batch and, with validation images, loss and accuracy on these."""
        labels, logits = outputs["labels"], outputs["logits"]
        labelled = labels >= 0
        hits = ((logits.argmax(dim=1) == labels) & labelled).sum() / labelled.sum().clamp(min=1)
        found = {"train_accuracy": hits.item() if labelled.any() else math.nan}
        if self.validation is None:
            return found
        loss, accuracy = self._validate(self.validation)
        self._note_if_best(loss, epoch.number)
        return {**found, "valid_loss": loss, "valid_accuracy": accuracy}

    def _note_if_best(self, loss: float, epoch: int) -> None:
        """Keep the present weights if none before had so small a loss on the validation images."""
        if loss < self.best["loss"]:
            state = copy.deepcopy(self.modules.state_dict())
            self.best = {"loss": loss, "epoch": epoch, "module": state}

    @torch.no_grad()
    def _validate(self, held: Validation) -> tuple[float, float]:
        """Return loss and accuracy on the validation images."""
        self.modules.eval()
        loss, hits, weight = 0.0, 0, 0.0
        for start in range(0, len(held.images), _VALIDATION_ROWS):
            rows = slice(start, start + _VALIDATION_ROWS)
            images = as_float(held.images.take(rows).to(self.plan.device))
            with self.plan.autocast():
                logits = self.predict(images.contiguous(memory_format=self.memory_format)).float()
            labels, weights = held.targets.labels[rows], held.targets.weights[rows]
            losses = F.cross_entropy(logits, labels, reduction="none")
            loss += float((losses * weights).sum())
            weight += float(weights.sum())
            hits += int((logits.argmax(dim=1) == labels).sum())
        self.modules.train()
        return loss / max(weight, 1e-12), hits / len(held.images)

    def enough(self, n_epochs: int) -> bool:
        """Return whether the loss on the validation images has not become smaller for a while."""
        return self.validation is not None and n_epochs - self.best["epoch"] >= self.validation.patience

    def end(self) -> None:
        """Take the weights that did best on the validation images, if any; all parts can be trained again."""
        if self.best["module"] is not None:
            self.modules.load_state_dict(self.best["module"])
        for parameter in self.thawed:
            parameter.requires_grad_(True)

    def state(self) -> dict[str, Any]:
        """Return the best weights so far, for a checkpoint."""
        return {"best": self.best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.best = state["best"]


class MultiLabelObjective(ClassificationObjective):
    """Predict labels that do not exclude each other, by sigmoids and their cross-entropy."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.chance_level = math.log(2)  # the loss of an even guess

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the labels of each row."""
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)

    def measure(self, outputs: Mapping[str, Tensor], epoch: Epoch) -> dict[str, float]:
        """Return the share of the labels in the last batch that are predicted."""
        hits = (outputs["logits"] > 0) == (outputs["labels"] > 0)
        return {"train_accuracy": hits.float().mean().item()}
