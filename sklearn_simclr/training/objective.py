"""Define what is learnt: modules, a step of their training, recorded values, what the weights depend on."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..images.source import ImageSource
from ..views.interface import Views
from .batch import Batch
from .identity import architecture
from .plan import Plan

__all__ = ["Epoch", "History", "Objective", "Step"]


class Step(NamedTuple):
    """Result of one step for the training loop.

    Parameters
    ----------
    loss : tensor of shape ()
        To be minimised, with its graph.
    outputs : dict of str to tensor, default={}
        Detached; what `Objective.measure` looks at. The last one is skorch's ``y_pred``.
    has_gradients : bool, default=False
        Whether the gradients have been added to the parameters already.

    See Also
    --------
    Objective : Its step returns a Step.
    Batch : What the step is given.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.training import Step
    >>> z = torch.ones(4, 2, requires_grad=True)
    >>> Step(z.square().mean(), {"z": z.detach()}).loss.item()
    1.0
    """

    loss: Tensor
    outputs: Mapping[str, Tensor] = {}
    has_gradients: bool = False


class Epoch(NamedTuple):
    """State of a training at the end of an epoch.

    Parameters
    ----------
    number : int
        1 for the first of this training.
    loss : float
        Mean loss of its steps.
    steps : int
        Steps of the training so far.
    fraction : float
        Part of the training that is done, in [0, 1].

    See Also
    --------
    Objective : Its measure gets an epoch.
    History : A row for each epoch.

    Examples
    --------
    >>> from sklearn_simclr.training import Epoch
    >>> Epoch(number=2, loss=3.1, steps=14, fraction=0.2).steps
    14
    """

    number: int
    loss: float
    steps: int
    fraction: float


class History(NamedTuple):
    """Results of a training besides the trained modules.

    Parameters
    ----------
    rows : list of dict of str to float
        One for each epoch; the names are those of `Objective.columns`.
    optimizer : dict or None, default=None
        State of the optimizer, to go on from; None if the result came from a cache.
    repeatable : bool, default=True
        Whether the same training would learn the same again: not one that Ctrl-C has ended, and not one that
        went on from a shorter one. Only what is repeatable is put into a cache.

    See Also
    --------
    train : Returns the history.
    sklearn_simclr.TrainingDisplay : Draws it.

    Examples
    --------
    >>> from sklearn_simclr.training import History
    >>> [row["train_loss"] for row in History([{"train_loss": 5.2}, {"train_loss": 4.7}]).rows]
    [5.2, 4.7]
    """

    rows: list[dict[str, float]]
    optimizer: dict[str, Any] | None = None
    repeatable: bool = True


# Modules become attributes of an estimator, which has other attributes under these names.
_RESERVED = {
    *(
        "augmentation",
        "bound",
        "classes",
        "feature_names_in",
        "history",
        "image_shape",
        "lambda",
        "loss_curve",
    ),
    *("mirror", "n_features_in", "n_iter", "pixel_range", "pretrained", "teacher"),
}


def _named_modules(modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Return modules as torch keeps them, if their names and kinds allow it."""
    if not isinstance(modules, Mapping) or "encoder" not in modules:
        found = sorted(modules) if isinstance(modules, Mapping) else type(modules).__name__
        raise ValueError(f"modules must be a dict with an 'encoder', got {found}.")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules[{name!r}] must be a torch.nn.Module, got {module!r}.")
        if not name.isidentifier() or name in _RESERVED or hasattr(nn.ModuleDict, name) or name == "training":
            raise ValueError(
                f"A module cannot have the name {name!r}, which is in use or no identifier. Rename the "
                "module."
            )
    return nn.ModuleDict(modules)


class Objective:
    """Objective of a training. Subclasses write `step`, and the other methods where they need them.

    Parameters
    ----------
    modules : dict of str to torch.nn.Module
        What is trained, in the order in which images go through; ``"encoder"`` comes first.
    augmentation : Augmentation, ExternalViews or None, default=None
        With concrete values; what `step` draws views from.
    given : iterable of str, default=()
        The modules that begin with weights that somebody chose. Those of all others follow from the seed.
    initialize : bool, default=True
        Whether an encoder that has ``initialize_from_images(images, generator)`` is to be set by it before
        the first step. The images are an ImageSource, of which the encoder takes as many as it needs.

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
    repeats : bool
        Whether a step does the same with tensors of the same shapes, whatever their numbers are, and never
        waits for a number, and `after_step` does nothing: a GPU then records it once. Only asked of
        objectives of this package.

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
    repeats = False

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        augmentation: Views | None = None,
        *,
        given: Iterable[str] = (),
        initialize: bool = True,
    ) -> None:
        self.modules = _named_modules(modules)
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
            Arrays, tensors, modules, functions, numbers, strings and containers of them. Their content is
            the key of cache and checkpoint. For a class of your own, all attributes are in it; subclasses in
            this package add what they were made with.
        """
        own = type(self).__module__.partition(".")[0] != __name__.partition(".")[0]
        return {
            "objective": type(self),
            "modules": {name: architecture(module) for name, module in self.modules.items()},
            "initialize": self.initialize,
            "augmentation": self.augmentation,
            "attributes": {
                k: v for k, v in vars(self).items() if own and k not in ("modules", "augmentation")
            },
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
            On the CPU; the order of the images and the views are drawn from this generator afterwards.
        """
        initialize = getattr(self.modules["encoder"], "initialize_from_images", None)
        if self.initialize and initialize is not None:
            initialize(images, generator)

    def adapt(self, plan: Plan, n_images: int) -> None:
        """Take note that the batch is smaller than that of the plan that `begin` was given.

        Parameters
        ----------
        plan : Plan
            With the batch size that is used, because few steps of the former would fit into ``max_time``.
        n_images : int
            How many images there are.
        """

    def after_step(self) -> None:
        """Do what follows each step of the optimizer, such as moving an average of the weights.

        What is moved belongs into `modules`, without gradients, or into `state`: else a training that is
        resumed begins with another.
        """

    def measure(self, outputs: Mapping[str, Tensor], epoch: Epoch) -> Mapping[str, float]:
        """Return what is recorded of an epoch beside its loss, under names that `columns` has.

        The host may wait for the device here.

        Parameters
        ----------
        outputs : dict of str to tensor
            Outputs of the last step.
        epoch : Epoch
            How far the training is.

        Returns
        -------
        dict of str to float
            Under names of `columns`.
        """
        return {}

    def enough(self, n_epochs: int) -> bool:
        """Return whether training on is of no use, asked after each epoch.

        Parameters
        ----------
        n_epochs : int
            Epochs done in this training.

        Returns
        -------
        bool
            Whether the training ends here.
        """
        return False

    def end(self) -> None:
        """Finish the training, for instance with the best weights instead of the last."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the modules; `load_state` takes it.

        Returns
        -------
        dict
            Holds tensors, numbers, strings, None, and dicts, lists and tuples of these.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As `state` returned it, with tensors on the CPU.
        """
