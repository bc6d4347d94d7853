"""Train an objective: take what an equal training has learnt from a cache, or go through the loop."""

import contextlib
import sys
from collections.abc import Mapping
from functools import cache as cache_result
from typing import Any

from joblib import Memory
from torch import nn

from .._utils.devices import current_on, empty_cache, exact_float32, out_of_memory
from .._utils.ranks import Ranks, current, speaks
from .._utils.seeds import isolated_generators
from ..images.source import ImageSource
from .batch_norm import norms_over
from .cache import train_once
from .checkpoint import Checkpoint
from .identity import content_by_part, content_of
from .objective import History, Objective
from .part import part_of
from .plan import Plan

__all__ = ["train"]


def train(
    objective: Objective,
    images: ImageSource,
    plan: Plan,
    *,
    cache: Memory | str | None = None,
    checkpoint: Any = None,
    optimizer_state: Mapping[str, Any] | None = None,
) -> History:
    """Train the modules of an objective on images.

    Parameters
    ----------
    objective : Objective
        Its modules are trained in place; they end on the CPU, in evaluation mode.
    images : ImageSource
        At least two.
    plan : Plan
        How.
    cache : str, joblib.Memory or None, default=None
        Where trained weights are kept. Equal images, objective and plan are trained on once.
    checkpoint : str, os.PathLike or None, default=None
        Folder in which the state of the training is kept, so that an interrupted one can go on.
    optimizer_state : dict or None, default=None
        State of an optimizer of the same kind, to go on from.

    Returns
    -------
    History
        History of the training, epoch by epoch.

    Raises
    ------
    MemoryError
        If the memory of the device is exhausted.
    ValueError
        If the training diverges, a loss is no scalar, or the checkpoint is of another training.

    See Also
    --------
    Objective : What is trained, by which loss.
    Plan : How long, and in which steps.
    History : What is returned.

    Examples
    --------
    >>> from functools import partial
    >>> import torch
    >>> from torch import nn
    >>> from sklearn_simclr.images import ImageSource
    >>> from sklearn_simclr.training import Objective, Plan, Step, train, warmup_cosine
    >>> class Mean(Objective):
    ...     def step(self, batch):
    ...         h = self.modules["encoder"](batch.images.float() / 255)
    ...         return Step((h - batch.images.float().mean((1, 2, 3))[:, None] / 255).square().mean())
    >>> images = ImageSource(torch.arange(128, dtype=torch.uint8).view(8, 1, 4, 4), (0, 255))
    >>> objective = Mean({"encoder": nn.Sequential(nn.Flatten(), nn.Linear(16, 1))})
    >>> plan = Plan(20, 4, "sgd", 0.1, partial(warmup_cosine, warmup=0.1), seed=0)
    >>> history = train(objective, images, plan)
    >>> history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    True
    """

    @cache_result
    def parts() -> dict[str, str]:
        """Identify the training, before it begins, by all that it begins with."""
        known = objective.modules if plan.repeatable else objective.given
        weights = {name: objective.modules[name].state_dict() for name in sorted(known)}
        return content_by_part(
            images, {**objective.identity(), **plan.identity(), "initial weights": weights}
        )

    trained = False

    def run() -> History:
        nonlocal trained
        from .loop import Loop  # skorch takes a while to import

        trained = True
        # Ranks draw the same views, and dropout of their own.
        seed = plan.seeds[1] + current().rank
        # Memory that is pinned, and what libraries set up, would else take memory of the first device.
        place = current_on(plan.device)
        with place, isolated_generators(seed, plan.device), contextlib.ExitStack() as stack:
            kept = None
            if checkpoint is not None and plan.max_epochs > 0:
                kept = stack.enter_context(Checkpoint(checkpoint, parts()))
            # After parts(), since the identity of a checkpoint must not depend on the number of ranks.
            stack.enter_context(norms_over(current(), objective.modules))
            return Loop(objective, plan, kept).run(images, optimizer_state)

    def key_with_callbacks() -> str:
        """Identify the training also by its callbacks, which may end it early."""
        return content_of([parts(), list(plan.callbacks)])

    _check_parameters(objective)
    _compare(current(), objective, images, plan)
    exhausted = None
    try:
        with exact_float32() if plan.precision is None else contextlib.nullcontext():
            if plan.max_epochs == 0:
                history = run()
            else:
                history = train_once(key_with_callbacks, run, objective.modules, cache, objective.columns)
                if plan.verbose and not trained and speaks():
                    print(f"{objective.title}: weights of an equal training, from memory", file=sys.stderr)
    except Exception as error:
        if not out_of_memory(error):
            raise
        exhausted = str(error).partition("\n")[0]
    # Raised outside of the except block, where nothing holds the tensors of the step any longer.
    if exhausted is not None:
        empty_cache(plan.device)
        raise MemoryError(
            f"The memory of device {str(plan.device)!r} is exhausted in training with "
            f"batch_size={plan.batch_size}, micro_batch_size={plan.micro_batch_size}: {exhausted} Pass a "
            "micro_batch_size (or a smaller one), which learns from the same batches in less memory, or a "
            "smaller batch_size, smaller images or a smaller encoder."
        )
    objective.modules.zero_grad(set_to_none=True)
    objective.modules.cpu().eval()
    return history


def _compare(ranks: Ranks, objective: Objective, images: ImageSource, plan: Plan) -> None:
    """Raise on all ranks if one of them would train something else."""
    if ranks.size == 1:
        return
    weights = {name: module.state_dict() for name, module in objective.modules.items()}
    ranks.compare(
        {
            "what they train": type(objective).__name__,
            "the number of images": str(len(images)),
            "the images": images.content(),
            "the seed": str(plan.seeds),
            "the batch size": f"{plan.batch_size}, micro_batch_size={plan.micro_batch_size}",
            "the kind of device": plan.device.type,
            "the parameters": _described([plan.identity(), objective.identity()]),
            "the weights they begin with": content_of(weights),
        },
        "Each rank runs the same script: give all of them the same data, parameters and random_state.",
    )
    size = min(plan.batch_size, len(images))
    if part_of(size, plan.micro_batch_size, ranks).whole:
        raise ValueError(
            f"batch_size={size} with micro_batch_size={plan.micro_batch_size} leaves a micro-batch of fewer "
            f"images than the {ranks.size} ranks. Pass sizes that leave no such micro-batch, or use fewer "
            "ranks."
        )


def _described(value: Any) -> str:
    """Return a digest of a value; nothing if equal values cannot be recognised."""
    try:
        return content_of(value)
    except TypeError:
        return ""


def _check_parameters(objective: Objective) -> None:
    """Raise if an objective holds parameters that would not be trained."""
    for name, value in vars(objective).items():
        if isinstance(value, nn.Parameter):
            raise ValueError(
                f"{type(objective).__name__}.{name} is a parameter outside of modules, so it would not be "
                "trained. Move the parameter into one of the modules."
            )
