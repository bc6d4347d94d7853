"""LARS, the optimizer of SimCLR's paper."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .foreach import add_scaled, alike, buffers_of, check_ranges, unless_overflown

__all__ = ["LARS"]


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step is scaled to the norm of each parameter tensor.

    For a parameter w with gradient g, momentum m and buffer v (initially 0)::

        g <- g + weight_decay * w
        trust <- eta * |w| / |g|         (1 if either norm is 0)
        v <- m * v + lr * trust * g
        w <- w - v                       (nesterov: w - (m * v + lr * trust * g))

    Parameters
    ----------
    params : iterable of torch.Tensor or of dict
        Parameters, or groups of them. A group with ``adapt=False`` gets plain momentum SGD, without decay and
        without trust ratio: what SimCLR does for BatchNorm parameters and biases, see `parameter_groups`.
    lr : float
        Learning rate, >= 0.
    momentum : float, default=0.9
        m in [0, 1).
    weight_decay : float, default=0.0
        >= 0. V1 uses 1e-6.
    eta : float, default=0.001
        Trust coefficient, > 0.
    nesterov : bool, default=False
        Look one step of the momentum ahead.

    Raises
    ------
    ValueError
        If a number is out of range, or in `step` if a gradient is sparse.

    See Also
    --------
    Muon : The default for small batches.
    make_optimizer : Chooses between them.
    warmup_cosine : The schedule of the learning rate.

    Notes
    -----
    The learning rate is inside the buffer, as in the SimCLR code, so that a change of the learning rate acts
    on new gradients only; `torch.optim.SGD` has it outside.

    References
    ----------
    You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, arXiv:1708.03888; in the
    form of github.com/google-research/simclr, lars_optimizer.py.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.training import LARS
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> optimizer = LARS([w], lr=1.0, eta=0.1)
    >>> (10 * w.sum()).backward()
    >>> optimizer.step()
    >>> w.data
    tensor([[2.6464, 3.6464]])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        nesterov: bool = False,
    ) -> None:
        check_ranges(
            ("lr", lr, lr >= 0, ">= 0"),
            ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
            ("eta", eta, eta > 0, "> 0"),
        )
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta, nesterov=nesterov, adapt=True
        )
        super().__init__(params, defaults)
        self._step_supports_amp_scaling = True

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
        with unless_overflown(self):
            for group in self.param_groups:
                for parameters in alike(group["params"]):
                    self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("LARS found a sparse gradient; pass sparse=False to the layer that made it.")
        buffers = buffers_of(self, parameters, "momentum_buffer")

        if group["adapt"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            weight_norms = torch.stack(torch._foreach_norm(parameters))
            gradient_norms = torch.stack(torch._foreach_norm(gradients))
            defined = (weight_norms > 0) & (gradient_norms > 0)
            trust = torch.where(defined, group["eta"] * weight_norms / gradient_norms, 1.0)
            torch._foreach_mul_(gradients, list(trust.unbind()))

        torch._foreach_mul_(buffers, group["momentum"])
        add_scaled(buffers, gradients, group["lr"])
        if group["nesterov"]:
            torch._foreach_add_(parameters, buffers, alpha=-group["momentum"])
            add_scaled(parameters, gradients, -group["lr"])
        else:
            torch._foreach_sub_(parameters, buffers)
