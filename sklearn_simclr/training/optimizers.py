"""Optimizers of contrastive training: LARS, Muon, parameter groups and default learning rates."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from .._utils.devices import by_kind, has_fused_optimizers
from .._utils.ranks import current
from .part import divide

__all__ = ["LARS", "Muon", "default_learning_rate", "make_optimizer", "never_wait", "parameter_groups"]

_DEFAULT_LEARNING_RATES: dict[str, Callable[[int], float]] = {
    "lars": lambda batch_size: 0.3 * batch_size / 256,  # V1 section 2.2
    "sgd": lambda batch_size: 0.1 * batch_size / 256,
    "adam": lambda batch_size: 0.002 * math.sqrt(batch_size / 256),
    "adamw": lambda batch_size: 0.002 * math.sqrt(batch_size / 256),
    "muon": lambda batch_size: 0.04 * math.sqrt(batch_size / 256),
}

# The quintic whose iterates take singular values in (0, 1] close to 1, and how often it is applied.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 3

# Added to the norm of a matrix before it is divided by it.
_EPS = 1e-7


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
        _check_ranges(
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
        with _unless_overflown(self):
            for group in self.param_groups:
                for parameters in _alike(group["params"]):
                    self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("LARS found a sparse gradient; pass sparse=False to the layer that made it.")
        buffers = _buffers(self, parameters, "momentum_buffer")

        if group["adapt"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            weight_norms = torch.stack(torch._foreach_norm(parameters))
            gradient_norms = torch.stack(torch._foreach_norm(gradients))
            defined = (weight_norms > 0) & (gradient_norms > 0)
            trust = torch.where(defined, group["eta"] * weight_norms / gradient_norms, 1.0)
            torch._foreach_mul_(gradients, list(trust.unbind()))

        torch._foreach_mul_(buffers, group["momentum"])
        _add(buffers, gradients, group["lr"])
        if group["nesterov"]:
            torch._foreach_add_(parameters, buffers, alpha=-group["momentum"])
            _add(parameters, gradients, -group["lr"])
        else:
            torch._foreach_sub_(parameters, buffers)


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
        _check_ranges(
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
        if getattr(self, "found_inf", None) is not None:  # none knows yet whether this step counts
            self.counts_on_device = True
            self._place_counters(counted) if counted else None
        with _unless_overflown(self):
            for group in self.param_groups:
                update = self._orthogonal_step if group["adapt"] else self._adam_step
                for parameters in _alike(group["params"]):
                    update(parameters, [p.grad for p in parameters if p.grad is not None], group)
        return loss

    def _orthogonal_step(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        buffers = _buffers(self, parameters, "momentum_buffer")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        ahead = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
        # Small products of matrices one by one are faster on a CPU; elsewhere each is a kernel to start.
        orthogonalize = by_kind(
            parameters[0].device, cpu=_orthogonalize_each, accelerator=_orthogonalize_together
        )
        # Products with the smaller Gram matrix take the time; of several ranks each computes some of them.
        costs = [w.numel() * min(len(w), w[0].numel()) for w in parameters]

        def updates_of(rows: list[int]) -> list[Tensor]:
            return orthogonalize([ahead[k] for k in rows], [parameters[k] for k in rows], self.dtype)

        updates = divide(current(), parameters, costs, updates_of)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        _add(parameters, updates, -group["lr"])

    def _adam_step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: dict[str, Any],
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        means = _buffers(self, parameters, "mean")
        squares = _buffers(self, parameters, "square")
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - beta2)
        for step, rows in self._count(parameters).items():
            roots = torch._foreach_div([squares[k] for k in rows], 1 - beta2**step)
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, eps)
            rate, mine = -0.1 * group["lr"] / (1 - beta1**step), [parameters[k] for k in rows]
            if isinstance(rate, Tensor):
                _add(mine, torch._foreach_div([means[k] for k in rows], roots), rate)
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
            # Of the CPU: no wait for the device.
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


@contextlib.contextmanager
def _unless_overflown(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo a step whose scaled gradients are not finite, where a GradScaler asks for it; no host waits.

    ``torch.amp.GradScaler`` gives optimizers with ``_step_supports_amp_scaling`` the scale and 0 or 1 as
    attributes for the time of a step.
    """
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    if found is None:
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    scale: Tensor | None = optimizer.grad_scale  # type: ignore[attr-defined]
    if scale is not None:
        torch._foreach_mul_([p.grad for p in parameters], scale.reciprocal())
    known = {p: dict(optimizer.state[p]) for p in parameters}
    kept = [(p, p.clone()) for p in parameters]
    for state in known.values():
        kept += [(value, value.clone()) for value in state.values()]
    yield
    skip = found > 0
    for tensor, before in kept:
        tensor.copy_(torch.where(skip, before, tensor))
    # What a first step has made begins at zero.
    for p in parameters:
        for name, value in optimizer.state[p].items():
            if name not in known[p]:
                value.masked_fill_(skip, 0)


def _alike(parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Return those that have a gradient, in lists of one device and type, as the foreach operations want."""
    alike: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            alike[parameter.device, parameter.dtype].append(parameter)
    return alike.values()


def _buffers(optimizer: torch.optim.Optimizer, parameters: list[Tensor], name: str) -> list[Tensor]:
    """Return what an optimizer keeps for parameters under a name, at first zeros."""
    for parameter in parameters:
        if name not in optimizer.state[parameter]:
            optimizer.state[parameter][name] = torch.zeros_like(parameter)
    return [optimizer.state[parameter][name] for parameter in parameters]


def _add(to: list[Tensor], what: list[Tensor] | tuple[Tensor, ...], rate: float | Tensor) -> None:
    """Add tensors, multiplied by a rate; a tensor of a device is not waited for."""
    if isinstance(rate, Tensor):
        torch._foreach_add_(to, torch._foreach_mul(what, rate))
    else:
        torch._foreach_add_(to, what, alpha=rate)


def _stretch(matrix: Tensor) -> float:
    """Return what an orthogonal update of a matrix is multiplied by: tall ones have fewer directions."""
    return math.sqrt(max(1.0, matrix.shape[0] / matrix[0].numel()))


def _orthogonalize_each(
    ahead: list[Tensor], parameters: list[Tensor], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return updates of parameters, computed one by one."""
    updates = []
    for tensor, parameter in zip(ahead, parameters, strict=True):
        matrix = tensor.flatten(1)
        tall = matrix.shape[0] > matrix.shape[1]
        u = ((matrix.T if tall else matrix) / (matrix.norm() + _EPS)).to(dtype or matrix.dtype)
        u = _newton_schulz(u).to(matrix.dtype)
        updates.append((u.T * _stretch(parameter) if tall else u).reshape(parameter.shape))
    return updates


def _orthogonalize_together(
    ahead: list[Tensor], parameters: list[Tensor], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return updates of parameters; matrices of one shape, upright or not, are computed together."""
    alike = defaultdict(list)
    for k, parameter in enumerate(parameters):
        alike[tuple(sorted((len(parameter), parameter[0].numel())))].append(k)
    order = [k for members in alike.values() for k in members]
    norms = torch.stack(torch._foreach_norm([ahead[k] for k in order])).add_(_EPS)
    updates: dict[int, Tensor] = {}
    start = 0
    for members in alike.values():
        matrices = [_wide(_as_matrix(ahead[k], parameters[k])) for k in members]
        u = torch.stack(matrices) if len(matrices) > 1 else matrices[0][None]
        u = (u / norms[start : start + len(members), None, None]).to(dtype or u.dtype)
        u = _newton_schulz(u).to(norms.dtype)
        updates |= {k: _as_parameter(x, parameters[k]) for k, x in zip(members, u, strict=True)}
        start += len(members)
    found, stretches = [updates[k] for k in range(len(updates))], [_stretch(p) for p in parameters]
    if max(stretches) > 1:
        torch._foreach_mul_(found, stretches)
    return found


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _is_dense(parameter: Tensor) -> bool:
    """Return whether the rows of a parameter, as a matrix, follow one another in memory."""
    return parameter.is_contiguous() or (
        parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )


def _as_matrix(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor as a matrix whose columns have the order of the parameter's memory: no copy of it."""
    if not _is_dense(parameter):
        return tensor.flatten(1)
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    n = tensor[0].numel()
    return tensor.as_strided((len(tensor), n), (n, 1))


def _as_parameter(u: Tensor, parameter: Tensor) -> Tensor:
    """Return a wide matrix as an update, laid out in memory as the parameter is."""
    u = (u.T if len(parameter) > parameter[0].numel() else u).contiguous()
    if not _is_dense(parameter):
        return u.view(parameter.shape)
    return u.as_strided(parameter.shape, parameter.stride(), u.storage_offset())


def _newton_schulz(u: Tensor) -> Tensor:
    """Return wide matrices (..., r, c) of the same singular vectors, with all singular values near 1."""
    a, b, c = _QUINTIC
    add_product = torch.addmm if u.ndim == 2 else torch.baddbmm
    for _ in range(_QUINTIC_STEPS):
        gram = u @ u.mT
        u = add_product(u, add_product(gram, gram, gram, beta=b, alpha=c), u, beta=a)
    return u


def parameter_groups(modules: nn.Module | Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Scalars and vectors (BatchNorm's scale and shift, biases) are left out of weight decay and of the
    adaptation of `LARS`, as in SimCLR.

    Parameters
    ----------
    modules : torch.nn.Module or iterable of torch.nn.Module
        Where the parameters are. One that several modules share is listed once.
    weight_decay : float
        For the group that decays, >= 0.

    Returns
    -------
    groups : list of dict
        At most two, empty ones left out, each with "params", "weight_decay" and "adapt".

    Raises
    ------
    ValueError
        If no parameter requires a gradient.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_simclr.training import parameter_groups
    >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 1e-4)
    >>> [(len(g["params"]), g["weight_decay"], g["adapt"]) for g in groups]
    [(1, 0.0001, True), (3, 0.0, False)]
    """
    if isinstance(modules, nn.Module):
        modules = [modules]
    # A dict and not a set: the order decides how an optimizer's state_dict is numbered.
    parameters = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
    if not parameters:
        raise ValueError("modules has no parameter that requires a gradient; pass one that can be trained.")
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: str,
    modules: nn.Module | Iterable[nn.Module],
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    dtype: torch.dtype | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer for the trainable parameters of modules.

    Parameters
    ----------
    name : {"lars", "sgd", "adam", "adamw", "muon"}
        `LARS`, SGD with Nesterov momentum, Adam, AdamW, or `Muon`.
    modules : torch.nn.Module or iterable of torch.nn.Module
        What is trained; see `parameter_groups` for what is left out of weight decay.
    lr : float
        Learning rate, >= 0; every parameter group also keeps it as "initial_lr", for a schedule to multiply.
    weight_decay : float
        >= 0.
    momentum : float, default=0.9
        In [0, 1), for "lars", "sgd" and "muon"; "adam" and "adamw" have moments of their own.
    dtype : torch.dtype or None, default=None
        For "muon": as in `Muon`.

    Returns
    -------
    optimizer : torch.optim.Optimizer
        With one or two parameter groups.

    Raises
    ------
    ValueError
        If `name` is unknown, a number out of range, or nothing can be trained.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_simclr.training import make_optimizer
    >>> make_optimizer("sgd", nn.Linear(3, 4), lr=0.1, weight_decay=1e-4).param_groups[0]["initial_lr"]
    0.1
    """
    _check_name(name)
    groups = [{**group, "initial_lr": lr} for group in parameter_groups(modules, weight_decay)]
    if name == "lars":
        return LARS(groups, lr, momentum=momentum)
    if name == "muon":
        return Muon(groups, lr, momentum=momentum, dtype=dtype)
    if name == "adam":
        return torch.optim.Adam(groups, lr)
    # One pass over the memory instead of several; not every device has it.
    fused = all(has_fused_optimizers(p.device) for group in groups for p in group["params"])
    if name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    return torch.optim.AdamW(groups, lr, fused=fused)


def never_wait(optimizer: torch.optim.Optimizer, on_device: bool = True) -> None:
    """Let an optimizer keep on the device whatever its steps depend on, or its counters on the CPU as usual.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        As `make_optimizer` returned it, perhaps with another state.
    on_device : bool, default=True
        Whether learning rates may be tensors of the device, and steps be counted there.
    """
    if isinstance(optimizer, Muon):
        optimizer.counts_on_device = on_device
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = on_device


def default_learning_rate(name: str, batch_size: int) -> float:
    """Return the learning rate that goes with an optimizer and a batch size.

    Parameters
    ----------
    name : {"lars", "sgd", "adam", "adamw", "muon"}
        As for `make_optimizer`.
    batch_size : int
        N, the number of images (not of views) a step, >= 1.

    Returns
    -------
    learning_rate : float
        0.3 N / 256 for "lars", 0.1 N / 256 for "sgd", 0.002 sqrt(N / 256) for "adam" and "adamw",
        0.04 sqrt(N / 256) for "muon".

    Raises
    ------
    ValueError
        If `name` is unknown or `batch_size` < 1.

    Notes
    -----
    V1 (section 2.2) uses the linear rule with LARS; for small batches and few epochs it found
    0.075 sqrt(N) better (B.1). V2 uses 0.1 sqrt(N). The other rules are this package's own.

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, section 2.2 and appendix B.1.

    Examples
    --------
    >>> from sklearn_simclr.training import default_learning_rate
    >>> default_learning_rate("lars", 4096)
    4.8
    """
    _check_name(name)
    if not batch_size >= 1:
        raise ValueError(f"batch_size={batch_size} is out of range; pass the images per step, >= 1.")
    return _DEFAULT_LEARNING_RATES[name](batch_size)


def _check_ranges(*checks: tuple[str, float, bool, str]) -> None:
    for name, value, valid, allowed in checks:
        if not (valid and value < math.inf):
            raise ValueError(f"{name}={value} is out of range; pass a finite number {allowed}.")


def _check_name(name: str) -> None:
    if name not in _DEFAULT_LEARNING_RATES:
        raise ValueError(f"optimizer {name!r} is unknown; pass one of {sorted(_DEFAULT_LEARNING_RATES)}.")
