"""The objective of SimCLR: two views of each image, one forward of all of them, one loss over the batch."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._utils.warn import warn
from ..encoders.traits import read_part
from ..images.source import ImageSource
from ..losses.large_batch import cached_backward
from ..losses.measures import contrastive_accuracy_tensor, rankme
from ..views.interface import Views
from .batch import Batch
from .objective import Epoch, Objective, Step
from .plan import Plan
from .probe import OnlineProbe
from .queue import ProjectionQueue, move_average
from .watch import TrainingWatch

__all__ = ["ContrastiveObjective"]

# Views of a large batch take at most this many bytes to be kept for the second time they are needed.
_KEPT_BYTES = 2**26

# Rows that the effective rank and the contrastive accuracy are estimated from, once per epoch.
_ROWS = 256


class ContrastiveObjective(Objective):
    """Tell the views of an image from those of all others (V1, algorithm 1).

    Parameters
    ----------
    encoder : torch.nn.Module
        Images (n, C, H, W) to representations h (n, d).
    projector : torch.nn.Module
        Representations to projections z (n, p).
    augmentation : Augmentation or ExternalViews
        With concrete values.
    loss : callable
        Projections (2N, p), rows i and i + N of one image, to a tensor of shape (). A torch.nn.Module with
        parameters is trained, too.
    labels : int64 tensor of shape (n_images,) or None, default=None
        Numbers of the classes of the images, -1 where there is none: the loss is given those of its N images
        as ``labels``. None: it is given none.
    small : Augmentation or None, default=None
        With concrete values: makes further, smaller views, each of which is compared with the two others.
    n_small : int, default=0
        Small views of each image.
    chance_level : float, callable or None, default=None
        Loss of an encoder that maps all views to one point. A callable takes the number of images of a batch.
    given : iterable of str, default=()
        Which of ``"encoder"`` and ``"projector"`` begin with weights that somebody chose.
    initialize : bool, default=True
        Whether an encoder whose first layer is set from images is to be set.
    queue_size : int, default=0
        How many projections of earlier batches every view is compared with besides. They come from
        ``modules["averaged"]``, an average of encoder and projector over the steps, and carry no gradient.
        The loss is called with them as ``negatives`` (q, p).
    queue_momentum : float, default=0.999
        Part of the average that stays in each step.
    probe : OnlineProbe or None, default=None
        Watches the representations; the modules learn the same without a probe.

    Notes
    -----
    With V small views there are 1 + 2V pairs of views: the two large ones, and each small one with each large
    one. The loss is the mean over the pairs of the loss of their 2N projections, so that a small view has the
    large ones as positives, and views of its pair of all other images as negatives.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, section 2.1 and algorithm 1; the queue: Chen et al., 2020,
    arXiv:2006.10029, section 2; small views: Caron et al., 2020, arXiv:2006.09882, section 3.2.
    """

    title = "SimCLR"
    augmentation: Views
    columns = {
        "train_loss": "loss",
        "chance_level": "chance_level",
        "contrastive_accuracy": "contrastive_accuracy",
        "effective_rank": "effective_rank",
        "images_per_second": "images_per_second",
        "lr": "learning_rate",
        "dur": "seconds",
    }

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        augmentation: Views,
        loss: Callable[..., Tensor],
        *,
        labels: Tensor | None = None,
        small: Views | None = None,
        n_small: int = 0,
        chance_level: float | Callable[[int], float] | None = None,
        given: Iterable[str] = (),
        initialize: bool = True,
        queue_size: int = 0,
        queue_momentum: float = 0.999,
        probe: OnlineProbe | None = None,
    ) -> None:
        modules = {"encoder": encoder, "projector": projector}
        # Kinds of views, each with its number of views per image.
        self.kinds = [(augmentation, 2)]
        if small is not None and n_small:
            self.kinds.append((small, n_small))
        self.n_views = sum(count for _, count in self.kinds)
        self.labels = labels
        self.queue = ProjectionQueue(queue_size) if queue_size else None
        self.queue_momentum = queue_momentum
        # A queue grows, and moves after each step; a probe begins in the first one.
        self.repeats = not queue_size and labels is None and len(self.kinds) == 1 and probe is None
        self.probe = probe
        if probe is not None:
            self.columns = {**self.columns, "probe_accuracy": "probe_accuracy"}
        if queue_size:
            average = copy.deepcopy(nn.ModuleDict(modules)).requires_grad_(False)
            modules["averaged"] = average
        if isinstance(loss, nn.Module) and loss.state_dict():
            modules["loss"] = loss  # its parameters are trained with the others
            given = (*given, "loss")
        super().__init__(modules, augmentation, given=given, initialize=initialize)
        self.loss = loss
        # A head without layers is no head: the loss compares whole representations.
        self.read = read_part(encoder) if getattr(projector, "n_layers", 0) else None
        self._chance = chance_level

    def step(self, batch: Batch) -> Step:
        """Return the loss of two views of each image, and of the small ones."""
        n, sizes = len(batch.images), batch.micro_batches()
        draws = [batch.draw(views, n_views=count) for views, count in self.kinds]
        if len(sizes) == 1:
            views = self.make_views(batch.images, draws)
            averaged = self.project_averaged(batch, [views[0]])
            h, z = self.project_all(batch, views)
            loss = self.compare(batch, z)
            self.enqueue(averaged)
            self.show_probe(h, batch.index)
            return Step(loss, {"h": h.detach(), "z": z[: 2 * n].detach()})

        outputs: dict[str, Tensor] = {}
        kept: dict[int, list[Tensor]] = {}

        def chunk(start: int, size: int) -> list[Tensor]:
            """Return the views of some images, the same ones each time."""
            if start in kept:
                return kept.pop(start)
            part = torch.arange(start, start + size)
            some = [
                drawn.rows((torch.arange(count)[:, None] * n + part).flatten())
                for drawn, (_, count) in zip(draws, self.kinds, strict=True)
            ]
            views = self.make_views(batch.images[start : start + size], some)
            if sum(of_a_size.nbytes for of_a_size in views) * n <= _KEPT_BYTES * size:
                # A copy: an encoder may change its input in place.
                kept[start] = [of_a_size.clone() for of_a_size in views]
            return views

        def forward(views: list[Tensor]) -> Tensor:
            h, z = self.project_all(batch, views)
            outputs["h"] = h.detach()
            return z

        starts = itertools.accumulate(sizes[:-1], initial=0)
        chunks = [partial(chunk, start, size) for start, size in zip(starts, sizes, strict=True)]
        found: list[Tensor] = []

        def scaled_loss(z: Tensor) -> Tensor:
            loss = self.compare(batch, z)
            found.append(loss.detach())
            return batch.scale(loss * batch.weight)

        averaged = self.project_averaged(batch, (chunk()[0] for chunk in chunks))
        _, z = cached_backward(forward, chunks, scaled_loss, module=self.modules, n_views=self.n_views)
        self.enqueue(averaged)
        self.show_probe(outputs["h"], batch.index[-sizes[-1] :])  # of the last micro-batch
        return Step(found[0], {**outputs, "z": z[: 2 * n]}, has_gradients=True)

    def compare(self, batch: Batch, z: Tensor) -> Tensor:
        """Return the loss of projections (v n, p): the mean over the pairs of views that are compared."""
        z, known = batch.gather(z), self.earlier()
        if self.labels is not None:
            known["labels"] = batch.gather(self.labels[batch.index])
        if self.n_views == 2:
            return self.loss(z, **known)
        views = z.chunk(self.n_views)
        pairs = [(0, 1), *((large, small) for small in range(2, self.n_views) for large in (0, 1))]
        losses = [self.loss(torch.cat([views[one], views[other]]), **known) for one, other in pairs]
        return torch.stack(losses).mean()

    def make_views(self, images: Tensor, draws: list[Any]) -> list[Tensor]:
        """Return the views of images: a tensor for each size, in each all first views first."""
        return [views.apply(images, drawn) for (views, _), drawn in zip(self.kinds, draws, strict=True)]

    def project_all(self, batch: Batch, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return representations of the large views, and projections of all views."""
        # One forward of all views of a size: BatchNorm must not tell them apart.
        h, z = self.project(batch, views[0])
        small = [self.project(batch, of_a_size)[1] for of_a_size in views[1:]]
        return h, torch.cat([z, *small]) if small else z

    def project(self, batch: Batch, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return representations h, or what the head reads of them, and projections z of views."""
        views = batch.lay_out(views)
        with batch.precision():
            h = self.modules["encoder"](views) if self.read is None else self.read(views)
            z = self.modules["projector"](h)
        return h, z if z.dtype == torch.float64 else z.float()  # bfloat16 is too coarse for logits

    def earlier(self) -> dict[str, Tensor]:
        """Return the keyword arguments of the loss: negatives of earlier batches."""
        negatives = None if self.queue is None else self.queue.rows()
        return {} if negatives is None else {"negatives": negatives}

    @torch.no_grad()
    def project_averaged(self, batch: Batch, chunks: Iterable[Tensor]) -> Tensor | None:
        """Return projections of the views of all ranks by the averaged network, if there is a queue."""
        if self.queue is None:
            return None
        average = cast(nn.ModuleDict, self.modules["averaged"])
        read = None if self.read is None else read_part(average["encoder"])
        encode = average["encoder"] if read is None else read
        parts = []
        for chunk in chunks:
            with batch.precision():
                # A copy: an encoder may change its input in place.
                parts.append(average["projector"](encode(batch.lay_out(chunk.clone()))).chunk(2))
        views = [torch.cat(part) for part in zip(*parts, strict=True)]
        z = torch.cat(views)
        return batch.gather(z if z.dtype == torch.float64 else z.float())

    def enqueue(self, projections: Tensor | None) -> None:
        """Put projections of this batch into the queue, for the batches to come."""
        if self.queue is not None and projections is not None:
            self.queue.put(projections)

    def show_probe(self, h: Tensor, index: Tensor) -> None:
        """Show representations of some images to the probe, if there is one."""
        if self.probe is not None:
            self.probe.see(h, index)

    def after_step(self) -> None:
        """Move the averaged network, if there is one."""
        if self.queue is not None:
            average = cast(nn.ModuleDict, self.modules["averaged"])
            for name, module in average.items():
                move_average(module, self.modules[name], self.queue_momentum)

    def state(self) -> dict[str, Any]:
        """Return the queue, and what the probe has learnt."""
        return {name: part.state() for name, part in self._beside().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with a queue and a probe, on the device where the modules are."""
        device = next(self.modules.parameters()).device
        for name, part in self._beside().items():
            values = state[name].items()
            part.load_state({k: v.to(device) if isinstance(v, Tensor) else v for k, v in values})

    def _beside(self) -> dict[str, ProjectionQueue | OnlineProbe]:
        """Return the parts besides the modules that change with each step."""
        parts = {"queue": self.queue, "probe": self.probe}
        return {name: part for name, part in parts.items() if part is not None}

    def identity(self) -> dict:
        """Return what the learnt weights depend on: also the loss, and the queue if there is one."""
        found = {**super().identity(), "loss": self.loss, "labels": self.labels}
        found["kinds of views"] = self.kinds[1:]
        if self.queue is not None:
            found |= {"queue_size": self.queue.size, "queue_momentum": self.queue_momentum}
        if self.probe is not None:  # the labels decide what is recorded
            found["probe"] = self.probe.labels
        return found

    def begin(self, images: ImageSource, plan: Plan, generator: torch.Generator) -> None:
        """Set the encoder's first layer from images, and begin to watch the training."""
        super().begin(images, plan, generator)
        if self.labels is not None:
            self.labels = self.labels.to(plan.device)
        if self.queue is not None:
            average = cast(nn.ModuleDict, self.modules["averaged"])
            for name, module in average.items():
                module.load_state_dict(self.modules[name].state_dict())
            if self.queue.size > len(images) and plan.max_epochs > 0:
                warn(
                    f"queue_size={self.queue.size} is larger than the number of images, {len(images)}, so "
                    "that the negatives hold earlier views of the same images. Pass a smaller queue_size."
                )
        self.adapt(plan, len(images))
        if plan.max_epochs > 0 and "encoder" not in self.given:
            self.watch.see_images(len(images), plan.n_steps(len(images)))

    def adapt(self, plan: Plan, n_images: int) -> None:
        """Compute the chance level for the batch of a plan, and begin to watch the training anew."""
        chance = self._chance
        self.chance_level = chance(min(plan.batch_size, n_images)) if callable(chance) else chance
        self.watch = TrainingWatch(
            plan.learning_rate, plan.weight_decay, self.chance_level, timed=plan.max_time is not None
        )

    def end(self) -> None:
        """Warn if the encoder has learnt next to nothing."""
        self.watch.see_end()

    def measure(self, outputs: Mapping[str, Tensor], epoch: Epoch) -> dict[str, float]:
        """Return chance level, contrastive accuracy and effective rank of the last batch; warn of faults."""
        h, z = outputs["h"][:_ROWS], outputs["z"]
        first, second = z[: len(z) // 2], z[len(z) // 2 :]
        views = torch.cat([first[:_ROWS], second[:_ROWS]])
        accuracy = contrastive_accuracy_tensor(views).item()
        self.watch.see_views(h, views, accuracy, epoch.steps)
        self.watch.see_loss(epoch.loss, epoch.steps, epoch.fraction)
        watched = {} if self.probe is None else {"probe_accuracy": self.probe.accuracy()}
        return {
            **watched,
            "chance_level": math.nan if self.chance_level is None else self.chance_level,
            "contrastive_accuracy": accuracy,
            "effective_rank": float(rankme(h.float())),
        }
