"""Contrastive training: pairs of views, one forward of both, one loss over the batch."""

import torch

from ..losses.large_batch import cached_backward
from ..losses.measures import contrastive_accuracy_tensor, rankme
from .loop import TrainingLoop
from .watch import TrainingWatch

__all__ = ["ContrastiveNet"]

# Views of a large batch take at most this many bytes to be kept for the second time they are needed.
_KEPT_BYTES = 2**26

# Rows that the effective rank and the contrastive accuracy are estimated from, once an epoch.
_ROWS = 256


class ContrastiveNet(TrainingLoop):
    """Trains ``module.encoder`` and ``module.projector`` on pairs of views.

    Parameters
    ----------
    module : nn.Module
        With the submodules ``encoder``, images (N, C, H, W) to representations (N, d), and ``projector``,
        representations to projections.
    loss : callable
        Projections (2N, p), rows i and i + N a pair, to a 0-d tensor.
    micro_batch_size : int or None
        Images a forward; None is all of the step's.
    **options
        Of TrainingLoop.
    """

    _title = "SimCLR"

    def __init__(self, module, loss, *, micro_batch_size=None, **options):
        super().__init__(module, loss, **options)
        self.micro_batch_size = micro_batch_size

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Run the epochs, with an eye on them."""
        self.watch_ = TrainingWatch(self.lr, self.weight_decay, self.chance_level)
        return super().fit_loop(X, y, epochs, **fit_params)

    def _step(self, index, images, per_step=False):
        self.optimizer_.zero_grad(set_to_none=True)
        n, micro = len(images), self.micro_batch_size
        draws = self.augmentation.draw(
            2 * n, tuple(images.shape[1:]), generator=self.generator, device=self.device
        )
        kept = {}

        def forward(views):
            with self._precision():
                h = self.module_.encoder(views.contiguous(memory_format=self.memory_format))
                kept["h"] = h.detach()
                return self.module_.projector(h)

        if micro is None or micro >= n:
            z = forward(self.augmentation.apply(images, draws))
            loss = self.loss(z)
            self._update(loss, index, per_step)
        else:
            kept_views = {}

            def chunk(start):
                if start in kept_views:
                    return kept_views.pop(start)
                part = torch.arange(start, min(start + micro, n), device=images.device)
                rows = draws.rows(torch.cat([part, part + n]))
                found = self.augmentation.apply(images[start : start + micro], rows)
                if found.nbytes * n <= _KEPT_BYTES * len(part):
                    kept_views[start] = found.clone()  # an encoder may change its input in place
                return found

            chunks = [lambda start=start: chunk(start) for start in range(0, n, micro)]
            loss, z = cached_backward(forward, chunks, self.loss, module=self.module_)
            self._move(index, per_step)
        return loss.detach(), kept["h"], z.detach()

    def _record_outputs(self, h, z):
        pairs = min(len(z) // 2, _ROWS)
        views = torch.cat([z[: len(z) // 2][:pairs], z[len(z) // 2 :][:pairs]])
        self.history.record("chance_level", self.chance_level)
        accuracy = contrastive_accuracy_tensor(views).item()
        self.history.record("contrastive_accuracy", accuracy)
        self.history.record("effective_rank", float(rankme(h[:_ROWS].float())))
        steps = self.clock_.steps
        self.watch_.see_views(h[:_ROWS], views, accuracy, steps)
        self.watch_.see_loss(self.history[-1]["train_loss"], steps, self.clock_.fraction())
