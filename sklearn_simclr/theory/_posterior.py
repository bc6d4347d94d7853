"""Networks with random weights: the posterior of PAC-Bayes, and a network small enough for it."""

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from .._utils.devices import send

__all__ = ["GRID_FINENESS", "LARGEST_PRIOR_VARIANCE", "GaussianPosterior", "make_mlp"]

# Nozawa et al., section 5.1: the variances that the prior may have are 0.1 exp(-j / 100), j = 1, 2, ...
GRID_FINENESS = 100
LARGEST_PRIOR_VARIANCE = 0.1


class GaussianPosterior(nn.Module):
    """Gaussian distributions of the weights of a module, and the variance of their prior.

    Parameters
    ----------
    module : torch.nn.Module
        Its weights are the means, of the posterior and for good of the prior.
    prior_variance : float
        Variance of every weight, in the prior and to begin with in the posterior.
    """

    def __init__(self, module: nn.Module, prior_variance: float) -> None:
        super().__init__()
        # In a list, so that its own parameters are not among those to learn.
        self.module = [module]
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        tensors = [p.detach() for p in module.parameters() if p.requires_grad]
        log_variance = math.log(prior_variance)
        self.means = nn.ParameterList(nn.Parameter(t.clone()) for t in tensors)
        self.log_stds = nn.ParameterList(
            nn.Parameter(torch.full_like(t, 0.5 * log_variance)) for t in tensors
        )
        for k, tensor in enumerate(tensors):
            self.register_buffer(f"prior_mean_{k}", tensor.clone())
        self.prior_log_variance = nn.Parameter(tensors[0].new_tensor(log_variance))

    @property
    def prior_means(self) -> list[torch.Tensor]:
        """Means of the prior, in the order of the names."""
        return [getattr(self, f"prior_mean_{k}") for k in range(len(self.names))]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self.module[0]._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return what the module makes of images with weights drawn from the posterior."""
        drawn = [torch.randn(mean.shape, generator=generator, dtype=mean.dtype) for mean in self.means]
        weights = {
            name: mean + log_std.exp() * noise
            for name, mean, log_std, noise in zip(
                self.names, self.means, self.log_stds, send(drawn, images.device), strict=True
            )
        }
        return functional_call(self.module[0], weights, (images,))

    def kl(self) -> torch.Tensor:
        """Return the divergence from the prior, in nats, a float64 tensor."""
        total = torch.zeros((), dtype=torch.float64)
        for mean, log_std, prior in zip(self.means, self.log_stds, self.prior_means, strict=True):
            log_ratio = 2 * log_std - self.prior_log_variance
            squares = (mean - prior).square() * (-self.prior_log_variance).exp()
            # In float64: the terms are many, and small where the posterior is close to the prior.
            total = total + (squares + log_ratio.exp() - 1 - log_ratio).sum(dtype=torch.float64)
        return 0.5 * total

    def complexity(self) -> torch.Tensor:
        """Return KL and the price of choosing the variance of the prior (section 4.1.1)."""
        index = GRID_FINENESS * (math.log(LARGEST_PRIOR_VARIANCE) - self.prior_log_variance)
        return self.kl() + 2 * index.log()

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Keep the prior's variance at most as large as the largest of its grid."""
        self.prior_log_variance.clamp_(max=math.log(LARGEST_PRIOR_VARIANCE) - 1 / GRID_FINENESS)

    def arrays(self) -> list[dict[str, np.ndarray]]:
        """Return means, standard deviations and prior means by name, as arrays."""
        columns = (self.means, [s.detach().exp() for s in self.log_stds], self.prior_means)
        return [
            {name: t.detach().cpu().numpy().copy() for name, t in zip(self.names, column, strict=True)}
            for column in columns
        ]


class _Centred(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2.0 * images.flatten(1) - 1.0


def make_mlp(pixels: int, hidden_dim: int, representation_dim: int) -> nn.Sequential:
    """Return a network with one hidden layer.

    Parameters
    ----------
    pixels : int
        Numbers in an image.
    hidden_dim : int
        Width of the hidden layer.
    representation_dim : int
        Number of outputs.

    Returns
    -------
    torch.nn.Sequential
        Takes images (N, C, H, W) with values in [0, 1].
    """
    return nn.Sequential(
        _Centred(), nn.Linear(pixels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, representation_dim)
    )
