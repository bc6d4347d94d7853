"""Exact gradients of a contrastive loss over a batch that is too large for the memory."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._utils.devices import generator_states, set_generator_states

__all__ = ["cached_backward"]


def cached_backward(
    forward: Callable[[Any], Tensor],
    chunks: Sequence[Callable[[], Any]],
    loss_fn: Callable[[Tensor], Tensor],
    *,
    module: nn.Module,
    n_views: int = 2,
) -> tuple[Tensor, Tensor]:
    """Accumulate the gradients of a loss over all chunks with the memory of one.

    The projections of every chunk are computed first without remembering how; the loss and its gradient with
    respect to them follow; then every chunk is computed once more and that gradient sent through it. The last
    chunk is remembered and not computed again.

    Parameters
    ----------
    forward : callable
        ``forward(x)`` returns the projections of x, of shape (v m, d): the first views of m images, then
        their second views and so on.
    chunks : sequence of callable
        ``chunks[k]()`` returns the input of chunk k, views of its m_k images. Called up to twice, with the
        same random state, and has to return the same.
    loss_fn : callable
        Takes the projections of all images, of shape (v N, d), all first views, then all second views and so
        on, and returns a scalar. It sees them as a leaf and may have parameters of its own.
    module : torch.nn.Module
        The network that `forward` runs (encoder and head), in the mode it is to run in.
    n_views : int, default=2
        v, the views of each image.

    Returns
    -------
    loss : torch.Tensor of shape ()
        Detached. Gradients were added to ``.grad``, as by ``loss.backward()``.
    z : torch.Tensor of shape (v N, d)
        What `loss_fn` was given, detached.

    Raises
    ------
    ValueError
        If there are no chunks, the projections of a chunk are not `n_views` of each image, or the second
        computation of a chunk has another shape than the first.

    Notes
    -----
    What is computed is the gradient of the joint loss of a forward pass in the same chunks: BatchNorm
    normalises within a chunk. Its running statistics move once per chunk. Whatever is drawn from the global
    generators (of the CPU, and of the devices of `module`) is drawn again in the second computation, and
    their states afterwards are those after one pass.

    Under autocast both computations run in the caller's context. With a gradient scaler, let `loss_fn` return
    the scaled loss.

    References
    ----------
    Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021,
    arXiv:2101.06983.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses.large_batch import cached_backward
    >>> net = torch.nn.Linear(3, 2, bias=False)
    >>> parts = [torch.ones(2, 3), torch.ones(4, 3)]
    >>> loss, z = cached_backward(net, [lambda x=x: x for x in parts], torch.sum, module=net)
    >>> z.shape, net.weight.grad
    (torch.Size([6, 2]), tensor([[6., 6., 6.], [6., 6., 6.]]))
    """
    if not len(chunks):
        raise ValueError("chunks is empty; pass at least one callable that returns a chunk of the batch.")
    devices = {torch.device("cpu"), *(p.device for p in module.parameters())}

    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks[:-1]:
            states.append(_random_states(devices))
            parts.append(forward(chunk()))
    # Older versions of torch let autocast hand the copies of weights that it made without a graph to the
    # passes that need one (pytorch/pytorch issue 65766).
    torch.clear_autocast_cache()
    with torch.enable_grad():
        last = forward(chunks[-1]())
    parts.append(last.detach())

    for k, part in enumerate(parts):
        if len(part) % n_views:
            count = "two" if n_views == 2 else n_views
            raise ValueError(f"chunk {k} gave {len(part)} projections; pass {count} views of every image.")
    sizes = [len(part) // n_views for part in parts]
    z = torch.cat([part.unflatten(0, (n_views, -1)) for part in parts], dim=1).flatten(0, 1)
    with torch.enable_grad():
        leaf = z.requires_grad_()
        loss = loss_fn(leaf)
        loss.backward()
    # A loss that depends only on parameters of its own leaves z without a gradient.
    gradient_of_z = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    by_chunk = gradient_of_z.unflatten(0, (n_views, -1)).split(sizes, dim=1)
    gradients = [gradient.flatten(0, 1) for gradient in by_chunk]

    last.backward(gradients[-1])
    del last
    after = _random_states(devices)
    try:
        with _frozen_statistics(module), torch.enable_grad():
            for chunk, state, part, gradient in zip(chunks, states, parts, gradients, strict=False):
                _set_random_states(state)
                again = forward(chunk())
                if again.shape != part.shape:
                    raise ValueError(
                        f"a chunk gave projections of shape {tuple(part.shape)}, and of shape "
                        f"{tuple(again.shape)} when called again; pass callables that return the same input "
                        "each time."
                    )
                again.backward(gradient)
    finally:
        _set_random_states(after)
    return loss.detach(), leaf.detach()


def _random_states(devices: Collection[torch.device]) -> list[tuple[torch.device, dict[str, Tensor]]]:
    return [(device, generator_states(device)) for device in devices]


def _set_random_states(states: list[tuple[torch.device, dict[str, Tensor]]]) -> None:
    for device, known in states:
        set_generator_states(known, device)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of BatchNorm still while it normalises by the batch."""
    norms = (m for m in module.modules() if isinstance(m, _BatchNorm))
    tracking = [norm for norm in norms if norm.training and norm.track_running_stats]
    try:
        for norm in tracking:
            norm.track_running_stats = False
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
