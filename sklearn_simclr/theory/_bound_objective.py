"""The objective of PAC-Bayes: the contrastive loss of tuples against the divergence from the prior."""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..images.source import ImageSource, as_float
from ..training.batch import Batch
from ..training.objective import Epoch, Objective, Step
from ..training.plan import Plan
from ._posterior import GRID_FINENESS, LARGEST_PRIOR_VARIANCE, GaussianPosterior
from .gaussians import prior_grid_index
from .pac_bayes import risk_bound

__all__ = ["BoundObjective", "TupleImages", "margins_of"]


class TupleImages:
    """The images of tuples, as a training takes them: one row is a tuple, not an image.

    Parameters
    ----------
    bank : ImageSource
        The images.
    rows : (tensor of shape (m,), tensor of shape (m, b), tensor of shape (m, k, b))
        Rows of the bank: anchors, blocks of positives, and of negatives.
    """

    bad = ()

    def __init__(self, bank: ImageSource, rows: tuple[Tensor, Tensor, Tensor]) -> None:
        self.bank, self.rows = bank, rows
        self.shape, self.device, self.file, self.nbytes = bank.shape, bank.device, bank.file, bank.nbytes

    def __len__(self) -> int:
        return len(self.rows[0])

    def _rows(self, index: Tensor) -> Tensor:
        return torch.cat([part[index].flatten() for part in self.rows])

    def take(self, index: Tensor) -> Tensor:
        """Return the images of tuples: all anchors, then all positives, then all negatives."""
        return self.bank.take(self._rows(index))

    def ask(self, index: Tensor) -> None:
        """Have images that are in a file read from the disk while something else is done."""
        self.bank.ask(self._rows(index))

    def to(self, device: torch.device) -> "TupleImages":
        """Return the same tuples on a device."""
        # The row numbers move, too: an index on the device into numbers on the CPU would be waited for.
        anchors, positives, negatives = (part.to(device) for part in self.rows)
        return TupleImages(self.bank.to(device), (anchors, positives, negatives))

    def content(self) -> str:
        """Return a hash of the images and the tuples, in hexadecimal digits."""
        digest = hashlib.blake2b(self.bank.content().encode(), digest_size=20)
        for part in self.rows:
            digest.update(part.cpu().numpy().tobytes())
        return digest.hexdigest()


class BoundObjective(Objective):
    """Minimise a PAC-Bayes bound (Nozawa et al., arXiv:1910.04464, section 4.1.1).

    Parameters
    ----------
    posterior : GaussianPosterior
        The distribution of the weights that is learnt.
    tuples : TupleImages
        The tuples to train on.
    loss : callable
        Margins (B, k) to losses (B,).
    lam : float
        Weight of the loss against the divergence.
    delta : float
        The bound that is recorded fails with at most this probability.
    """

    title = "PAC-Bayes"
    columns = {
        "objective": "objective",
        "loss": "loss",
        "risk": "risk",
        "kl": "kl",
        "prior_variance": "prior_variance",
        "bound": "bound",
        "dur": "seconds",
    }

    def __init__(
        self,
        posterior: GaussianPosterior,
        tuples: TupleImages,
        loss: Callable[[Tensor], Tensor],
        *,
        lam: float,
        delta: float,
    ) -> None:
        super().__init__({"encoder": posterior}, initialize=False)
        self.shapes = [part.shape[1:] for part in tuples.rows]
        self.n_tuples = len(tuples)
        self.loss, self.lam, self.delta = loss, lam, delta

    @property
    def posterior(self) -> GaussianPosterior:
        """Return the trained network, under the name that all encoders have."""
        return cast(GaussianPosterior, self.modules["encoder"])

    def begin(self, images: Any, plan: Plan, generator: torch.Generator) -> None:
        """Set the sums of objective, loss and risk over the tuples of an epoch to zero."""
        self.sums = torch.zeros(3, dtype=torch.float64, device=plan.device)

    def step(self, batch: Batch) -> Step:
        """Return lambda times the loss of networks drawn from the posterior, plus their complexity."""
        posterior, n = self.posterior, len(batch.index)
        z = posterior(as_float(batch.images), batch.generator).float()
        margins = margins_of(z, *((n, *shape) for shape in self.shapes))
        loss = self.loss(margins).mean()
        objective = self.lam * loss + posterior.complexity() / self.n_tuples
        values = (objective.double(), loss.double(), (margins < 0).double().mean())
        self.sums += batch.total(n * torch.stack(values))
        return Step(objective)

    def after_step(self) -> None:
        """Keep the variance of the prior within its grid."""
        self.posterior.keep_in_range()

    def measure(self, outputs: Mapping[str, Tensor], epoch: Epoch) -> dict[str, float]:
        """Return means over the tuples of the epoch, the divergence, and the bound that follows."""
        objective, loss, risk = (self.sums / self.n_tuples).tolist()
        self.sums.zero_()
        posterior = self.posterior
        with torch.no_grad():
            kl, variance = float(posterior.kl()), float(posterior.prior_log_variance.exp())
        index, _ = prior_grid_index(variance, b=GRID_FINENESS, c=LARGEST_PRIOR_VARIANCE)
        bound = risk_bound(risk, max(kl, 0.0), self.n_tuples, delta=self.delta, prior_index=index).total
        found = {"objective": objective, "loss": loss, "risk": risk, "kl": kl}
        return {**found, "prior_variance": variance, "bound": bound}

    def identity(self) -> dict[str, Any]:
        """Return everything that the learnt weights depend on, here also the loss and its weight."""
        return {**super().identity(), "loss": self.loss, "lam": self.lam}

    def state(self) -> dict[str, Any]:
        """Return the sums of the epoch so far, for a checkpoint."""
        return {"sums": self.sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.sums = state["sums"].to(self.sums.device)


def margins_of(z: Tensor, anchors: tuple, positives: tuple, negatives: tuple) -> Tensor:
    """Return the margins (B, k); z holds the anchors (B,), positives (B, b), negatives (B, k, b) in turn."""
    sizes = [math.prod(shape) for shape in (anchors, positives, negatives)]
    anchor, positive, negative = z.split(sizes)
    positive = positive.view(*positives, -1).mean(1)
    negative = negative.view(*negatives, -1).mean(2)
    return torch.einsum("md,mkd->mk", anchor, positive[:, None] - negative)
