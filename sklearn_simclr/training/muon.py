"""Muon, the default optimizer."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .._utils.devices import by_kind
from .._utils.ranks import current
from .foreach import add_scaled, alike, buffers_of, check_ranges, unless_overflown
from .orthogonal import orthogonalize_each, orthogonalize_together
from .part import divide

__all__ = ["Muon"]


class Muon(torch.optim.Optimizer):
    """Momentum SGD whose step is made orthogonal: all directions of a weight matrix move equally far.

    For a matrix w with gradient g, momentum m and buffer v (initially 0)::

        v <- m * v + g
        u <- orthogonalize(g + m * v)     (three Newton-Schulz steps in place of U V^T)
        w <- (1 - lr * weight_decay) * w - lr * sqrt(max(1, rows / columns)) * u

    The kernels of a convolution are the rows of one matrix.

    Parameters
    ----------
    params : iterable of torch.Tensor or of dict
        Parameters, or groups of them. A group with ``adapt=False`` (see `parameter_groups`) is trained by
        Adam, with a tenth of the learning rate and without decay: vectors have no directions to balance.
    lr : float
        Learning rate, >= 0.
    momentum : float, default=0.9
        m in [0, 1).
    weight_decay : float, default=0.0
        >= 0, decoupled.
    dtype : torch.dtype or None, default=None
        What u is computed in, such as ``torch.bfloat16``, in which the iteration was devised; None is the
        dtype of the parameters, which stay as they are.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    LARS : The default for large batches.
    make_optimizer : Chooses between them.
    warmup_cosine : The schedule of the learning rate.

    References
    ----------
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
    scalable for LLM training", arXiv:2502.16982.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.training import Muon
    >>> w = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = Muon([w], lr=1.0)
    >>> (w * torch.tensor([[1.0, 0.0], [0.0, 0.6]])).sum().backward()
    >>> optimizer.step()
    >>> bool(((w + torch.eye(2)).abs() < 0.35).all())
    True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_ranges(
            ("lr", lr, lr >= 0, ">= 0"),
            ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
        )
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, adapt=True))
        self.counts_on_device = False
        self._step_supports_amp_scaling = True
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable or None, default=None
            Re-evaluates the model and returns the loss.

        Returns
        -------
        loss : object
            What `closure` returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        counted = [p for p, known in self.state.items() if "step" in known]
        if getattr(self, "found_inf", None) is not None:  # it is not known yet whether this step counts
            self.counts_on_device = True
            if counted:
                self._place_counters(counted)
        with unless_overflown(self):
            for group in self.param_groups:
                update = self._orthogonal_step if group["adapt"] else self._adam_step
                for parameters in alike(group["params"]):
                    update(parameters, [p.grad for p in parameters if p.grad is not None], group)
        return loss

    def _orthogonal_step(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        buffers = buffers_of(self, parameters, "momentum_buffer")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        ahead = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
        # Small products of matrices one by one are faster on a CPU; elsewhere each is a kernel to start.
        orthogonalize = by_kind(
            parameters[0].device, cpu=orthogonalize_each, accelerator=orthogonalize_together
        )
        # Products with the smaller Gram matrix take the time; of several ranks each computes some of them.
        costs = [w.numel() * min(len(w), w[0].numel()) for w in parameters]

        def updates_of(rows: list[int]) -> list[Tensor]:
            return orthogonalize([ahead[k] for k in rows], [parameters[k] for k in rows], self.dtype)

        updates = divide(current(), parameters, costs, updates_of)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        add_scaled(parameters, updates, -group["lr"])

    def _adam_step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: dict[str, Any],
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        means = buffers_of(self, parameters, "mean")
        squares = buffers_of(self, parameters, "square")
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - beta2)
        for step, rows in self._count(parameters).items():
            roots = torch._foreach_div([squares[k] for k in rows], 1 - beta2**step)
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, eps)
            rate, mine = -0.1 * group["lr"] / (1 - beta1**step), [parameters[k] for k in rows]
            if isinstance(rate, Tensor):
                add_scaled(mine, torch._foreach_div([means[k] for k in rows], roots), rate)
            else:
                torch._foreach_addcdiv_(mine, [means[k] for k in rows], roots, value=rate)

    def _count(self, parameters: list[Tensor]) -> dict[float | Tensor, list[int]]:
        """Count a step of some parameters; return which of them are at each."""
        self._place_counters(parameters)
        counters = {id(step): step for step in (self.state[parameter]["step"] for parameter in parameters)}
        for counter in counters.values():
            counter += 1
        rows = defaultdict(list)
        for k, parameter in enumerate(parameters):
            step = self.state[parameter]["step"]
            # On the CPU, a counter needs no wait for the device.
            rows[step if self.counts_on_device else float(step)].append(k)
        return rows

    def _place_counters(self, parameters: list[Tensor]) -> None:
        """Bring the counters of steps to the device or to the CPU, one for all parameters of one count."""
        device = parameters[0].device if self.counts_on_device else torch.device("cpu")
        at: dict[float, Tensor] = {}
        for parameter in parameters:
            step = self.state[parameter].get("step")
            if step is None or step.device != device:
                count = 0.0 if step is None else float(step)
                at.setdefault(count, torch.full((), count, device=device))
                self.state[parameter]["step"] = at[count]
