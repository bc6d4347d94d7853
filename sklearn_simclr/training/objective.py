"""Say what is learnt: the modules, a step of their training, what is recorded, what the weights depend on."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..images.source import ImageSource, as_float
from ..views.augmentation import Augmentation
from ..views.linear_maps import Draws
from .identity import architecture
from .plan import Plan

__all__ = ["Batch", "Epoch", "History", "Objective", "Step"]

# Images that a data-driven first layer is set from.
_FIRST_LAYER_IMAGES = 2048


@dataclass(frozen=True)
class Batch:
    """The images of one step, and how the training loop wants them to be computed.

    Parameters
    ----------
    index : int64 tensor of shape (n,)
        Rows of the training images.
    images : tensor of shape (n, C, H, W)
        Their pixels: uint8 in 0 to 255, or float32 in [0, 1].
    generator : torch.Generator
        What views and noise are drawn from, on the device of the images.
    plan : Plan
        Precision, memory format and the size of micro-batches.
    memory_format : torch.memory_format
        The layout in which the encoder is fastest.
    """

    index: Tensor
    images: Tensor
    generator: torch.Generator
    plan: Plan
    memory_format: torch.memory_format = torch.contiguous_format

    def draw(self, augmentation: Augmentation, n_views: int = 1) -> Draws:
        """Draw the random numbers of `n_views` views of each image: those of all first views come first."""
        shape = tuple(self.images.shape[1:])
        return augmentation.draw(
            n_views * len(self.images), shape, generator=self.generator, device=self.images.device
        )

    def views(self, augmentation: Augmentation, n_views: int = 1) -> Tensor:
        """Return views (n_views * n, C, h, w), float32 in [0, 1]; rows i and i + n are of one image."""
        return augmentation.apply(self.images, self.draw(augmentation, n_views))

    def lay_out(self, images: Tensor) -> Tensor:
        """Return images in the memory format of the encoder."""
        return images.contiguous(memory_format=self.memory_format)

    def precision(self) -> contextlib.AbstractContextManager:
        """Return the context in which modules compute, autocast or nothing; losses stay outside of it."""
        return self.plan.autocast()

    def pixels(self) -> Tensor:
        """Return the images themselves, float32 in [0, 1]."""
        return self.images.float().div_(255) if self.images.dtype == torch.uint8 else self.images


class Step(NamedTuple):
    """What one step gives the training loop.

    Attributes
    ----------
    loss : tensor of shape ()
        To be minimised, with its graph.
    outputs : dict of str to tensor
        Detached; what `Objective.measure` looks at, the last one is skorch's ``y_pred``.
    has_gradients : bool
        Whether the gradients have been added to the parameters already.
    """

    loss: Tensor
    outputs: Mapping[str, Tensor] = {}
    has_gradients: bool = False


class Epoch(NamedTuple):
    """How far the training is at the end of an epoch.

    Attributes
    ----------
    number : int
        1 for the first of this training.
    loss : float
        Mean loss of its steps.
    steps : int
        Steps of the training so far.
    fraction : float
        Part of the training that is done, in [0, 1].
    """

    number: int
    loss: float
    steps: int
    fraction: float


class History(NamedTuple):
    """What a training leaves beside the trained modules.

    Attributes
    ----------
    rows : list of dict of str to float
        One for each epoch; the names are those of `Objective.columns`.
    optimizer : dict or None
        State of the optimizer, to go on from; None if the result came from a cache.
    """

    rows: list[dict[str, float]]
    optimizer: dict[str, Any] | None = None


class Objective:
    """What a training minimises. Subclasses write `step`, and the other methods where they need them.

    Parameters
    ----------
    modules : dict of str to torch.nn.Module
        What is trained, in the order in which images go through; ``"encoder"`` comes first.
    augmentation : Augmentation or None, default=None
        With concrete values; what `step` draws views from.
    given : iterable of str, default=()
        The modules that begin with weights that somebody chose. Those of all others follow from the seed.
    initialize : bool, default=True
        Whether an encoder that has ``initialize_from_images(images, generator)`` is to be set by it before
        the first step.

    Attributes
    ----------
    title : str
        Stands before the progress bar.
    columns : dict of str to str
        Names of what is recorded in each epoch, and the columns of ``history_`` for them.
    chance_level : float or None
        Loss of modules that tell nothing apart, shown beside the loss.
    channels_last : bool
        Whether the encoder takes images in that memory format.

    See Also
    --------
    train : Trains an objective.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.training import Objective, Step
    >>> class Autoencoder(Objective):
    ...     def step(self, batch):
    ...         images = batch.images.float() / 255
    ...         with batch.precision():
    ...             again = self.modules["decoder"](self.modules["encoder"](images))
    ...         return Step(torch.nn.functional.mse_loss(again.float(), images))
    """

    title = "Training"
    columns: Mapping[str, str] = {
        "train_loss": "loss",
        "images_per_second": "images_per_second",
        "lr": "learning_rate",
        "dur": "seconds",
    }
    chance_level: float | None = None
    channels_last = False

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        augmentation: Augmentation | None = None,
        *,
        given: Iterable[str] = (),
        initialize: bool = True,
    ) -> None:
        self.modules = nn.ModuleDict(modules)
        self.augmentation = augmentation
        self.given = frozenset(given)
        self.initialize = initialize

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout in which the encoder takes images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def step(self, batch: Batch) -> Step:
        """Return the loss of a batch.

        Parameters
        ----------
        batch : Batch
            Images and how to compute with them.

        Returns
        -------
        Step
            The loss, and what `measure` needs.
        """
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return what the learnt weights depend on, beside the images and the plan.

        Returns
        -------
        dict
            Of arrays, tensors, modules, functions, numbers, strings and containers of them. Cache and
            checkpoint are keyed by its content; subclasses add what they were made with.
        """
        return {
            "objective": type(self),
            "modules": {name: architecture(module) for name, module in self.modules.items()},
            "initialize": self.initialize,
            "augmentation": self.augmentation,
        }

    def begin(self, images: ImageSource, plan: Plan, generator: torch.Generator) -> None:
        """Prepare for the first step: set a first layer that depends on the images.

        Parameters
        ----------
        images : ImageSource
            The training images.
        plan : Plan
            The plan.
        generator : torch.Generator
            On the device, as the modules are; the views are drawn from it afterwards.
        """
        initialize = getattr(self.modules["encoder"], "initialize_from_images", None)
        if not self.initialize or initialize is None:
            return
        chosen = torch.randperm(len(images), generator=generator, device=plan.device)[:_FIRST_LAYER_IMAGES]
        chosen = chosen.to(images.device)
        images.ask(chosen)
        initialize(as_float(images.take(chosen).to(plan.device)), generator)

    def after_step(self) -> None:
        """Do what follows each step of the optimizer, such as moving an average of the weights."""

    def measure(self, outputs: Mapping[str, Tensor], epoch: Epoch) -> Mapping[str, float]:
        """Return what is recorded of an epoch beside its loss; the host may wait for the device here.

        Parameters
        ----------
        outputs : dict of str to tensor
            Of the last step.
        epoch : Epoch
            How far the training is.

        Returns
        -------
        dict of str to float
            Under names of `columns`.
        """
        return {}

    def enough(self, n_epochs: int) -> bool:
        """Return whether training on is of no use, asked after each epoch."""
        return False

    def end(self) -> None:
        """Finish the training, for instance with the best weights instead of the last."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the modules; `load_state` takes it."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
