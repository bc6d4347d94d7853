"""Base of the estimators with trained modules: parameters, plan, encoder, adopted results."""

import copy
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._utils.devices import resolve_device, resolve_precision
from .._utils.progress import setting_up
from .._utils.ranks import current
from .._utils.sklearn_private import Checked, Interval, StrOptions, clone_by_parameters
from .._utils.types import Images
from ..encoders.compiled import plain
from ..encoders.libraries import LibraryNetwork
from ..encoders.make import default_encoder, make_encoder
from ..images.source import ImageSource
from ..training.objective import History, Objective
from ..training.optimizers import default_learning_rate
from ..training.plan import Plan
from ..training.schedule import warmup_cosine
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from .base import BaseImageEstimator, BaseImageTransformer
from .views import given_size, resolve_views

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainedImageEstimator", "TrainedImageTransformer", "check_callbacks"]

# Weight decay by optimizer: V1 section 2.3 for LARS; the others by experiment.
_WEIGHT_DECAY = {"lars": 1e-6, "sgd": 5e-4, "adamw": 0.05, "muon": 0.0}

# Speed of an accelerator with a residual network, to estimate how many images fit into some seconds.
_IMAGES_PER_SECOND = 5000

# Images of which a trained encoder has to give finite representations.
_TRIED = 16

# From this batch size on the learning rate has to be adapted to each layer (V1 section 2.2).
_LARS_FROM = 1024


class TrainedImageEstimator(BaseImageEstimator):
    """Base of the estimators that train modules on images.

    ``fit`` of a subclass reads images, makes an objective, trains it and adopts what it has learnt::

        images = self._read_training_images(X, reset=True, max_time=self._time(), y=y)
        plan = self._plan(len(images), draw_seed(self.random_state), started)
        objective = self._new_objective(images, plan)
        history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
        self._adopt(objective, history, plan, images)

    A subclass has the parameters of ``_training_constraints`` (``warm_start`` is optional) and says in
    ``_make_objective`` what is learnt; the objective's modules become fitted attributes: ``encoder_`` and so
    on.
    """

    augmentation: Any
    encoder_: nn.Module
    augmentation_: Augmentation | ExternalViews | None
    history_: "pd.DataFrame"
    n_iter_: int
    loss_curve_: list[float]

    _training_constraints: dict[str, list] = {
        "encoder": [str, nn.Module, callable],
        **BaseImageEstimator._reading_constraints,
        "augmentation": [
            Checked(
                lambda value: value is None or isinstance(value, Augmentation) or callable(value),
                "None, an Augmentation such as Augmentation(recipe='no_up'), or a callable that makes a view",
            )
        ],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions({"auto", "lars", "sgd", "adamw", "muon"})],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "precision": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "device": [str, torch.device],
        "memory": [str, PathLike, None, object],
        "checkpoint_dir": [str, object, None],
        "callbacks": [list, tuple, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also those of the augmentation.

        Parameters
        ----------
        **params : dict
            Parameters by name. ``augmentation__NAME`` also works if ``augmentation`` is None: the parameter
            ``augmentation`` then becomes an :class:`Augmentation` with that value.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        ValueError
            If a parameter does not exist, as ``augmentation__NAME`` for a callable.
        """
        nested = any(name.startswith("augmentation__") for name in params)
        augmentation = params.get("augmentation", self.augmentation)
        if nested and augmentation is not None and not isinstance(augmentation, BaseEstimator):
            raise ValueError(
                f"augmentation is a {type(augmentation).__name__}, which has no parameters to be set. Pass "
                "another augmentation, or Augmentation(), whose parameters can be set."
            )
        if nested and self.augmentation is None and params.get("augmentation") is None:
            params = {**params, "augmentation": self._default_augmentation() or Augmentation()}
        return super().set_params(**params)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return also the parameters of parameters that are estimators.

        Returns
        -------
        dict
            The parameters by name.
        """
        if not deep or not self._has_foreign_augmentation():
            return super().get_params(deep)
        return {**self._without_augmentation().get_params(), "augmentation": self.augmentation}

    def __sklearn_clone__(self) -> Self:
        if not self._has_foreign_augmentation():
            return clone_by_parameters(self)
        twin = clone_by_parameters(self._without_augmentation())
        twin.augmentation = copy.deepcopy(self.augmentation)
        return twin

    def _has_foreign_augmentation(self) -> bool:
        """Return whether the augmentation has a ``get_params`` that is no estimator's, as in torchvision."""
        augmentation = self.augmentation
        return hasattr(augmentation, "get_params") and not isinstance(augmentation, BaseEstimator)

    def _without_augmentation(self) -> Self:
        twin = copy.copy(self)
        twin.augmentation = None
        return twin

    def _default_augmentation(self) -> Augmentation | None:
        """Return the augmentation that None stands for, if any, before its values are resolved."""
        return Augmentation()

    def _make_objective(self, *known: Any, **more: Any) -> Objective:
        """Return the objective of a training; its images and the plan are the first arguments."""
        raise NotImplementedError

    def _new_objective(self, images: ImageSource, plan: Plan, **known: Any) -> Objective:
        """Return the objective of a training; the seed of the plan decides about new weights."""
        if self.memory is None and self.checkpoint_dir is None:  # else there may be a trained network
            plan.check_time()
        with setting_up("network and views", bool(plan.verbose)), plan.building():
            objective = self._make_objective(images, plan, **known)
        objective.channels_last = self._takes_channels_last(objective.modules["encoder"], images)
        return objective

    def _views(
        self,
        images: ImageSource,
        network: nn.Module,
        before: Augmentation | ExternalViews | None = None,
        *,
        look: bool = True,
    ) -> Augmentation | ExternalViews:
        """Return the augmentation with concrete values, those of `before` where the images decide."""
        augmentation = self.augmentation
        if augmentation is None:
            augmentation = self._default_augmentation() or Augmentation()
        return resolve_views(augmentation, images, before, network=network, look=look)

    def _encoder_setting(self) -> Any:
        """Return the ``encoder`` parameter that the network was or will be built by."""
        return self.encoder

    def _build_encoder(self, images: ImageSource) -> tuple[nn.Module, int]:
        """Return a new encoder, and the length of its representations."""
        setting = self._encoder_setting()
        if isinstance(setting, str) and setting == "auto":
            setting = default_encoder(resolve_device(self.device), self._views_in_all(len(images)))
        size = given_size(self.augmentation, images.shape)
        encoder, self._out_dim = make_encoder(setting, images.shape[0], images.shape[1:], size)
        return encoder, self._out_dim

    def _views_in_all(self, n_images: int) -> float:
        """Return how many images a training sees, as often as it does; with max_time an estimate."""
        if self.max_time is not None:
            return _IMAGES_PER_SECOND * self.max_time
        return self._resolve_epochs(n_images) * n_images

    def _given(self, *names: str) -> tuple[str, ...]:
        """Return the names of the modules that the user has given as modules, with weights."""
        return names if isinstance(self._encoder_setting(), nn.Module) else ()

    def _takes_channels_last(self, encoder: nn.Module, images: ImageSource) -> bool:
        """Return whether an encoder takes images in the memory format in which convolutions are faster."""
        # Networks that are given by name do; for others, a trial needs a copy of the network.
        named = isinstance(self._encoder_setting(), str)
        of_a_library = any(isinstance(part, LibraryNetwork) for part in encoder.modules())
        return (named and not of_a_library) or _same_in_channels_last(encoder, images.shape)

    def _time(self) -> float | None:
        """Return the seconds that fit may take, if anything is trained."""
        return self.max_time if self.max_epochs else None

    def _resolve_epochs(self, n_images: int) -> int:
        """Return the passes over the images."""
        return self.max_epochs

    def _resolve_optimizer(self, batch_size: int) -> tuple[str, float, float]:
        """Return the name of the optimizer, its learning rate and its weight decay."""
        name, rate, decay = self.optimizer, self.learning_rate, self.weight_decay
        if name == "auto":
            name = "lars" if batch_size >= _LARS_FROM else "muon"
        return (
            name,
            default_learning_rate(name, batch_size) if rate == "auto" else float(rate),
            _WEIGHT_DECAY[name] if decay == "auto" else float(decay),
        )

    def _plan(self, n_images: int, seed: int, started: float, *, warm: bool = False) -> Plan:
        """Return the plan of a training on so many images, as the parameters say."""
        device, ranks = resolve_device(self.device), current()
        optimizer, rate, decay = self._resolve_optimizer(min(self.batch_size, n_images))
        return Plan(
            max_epochs=self._resolve_epochs(n_images),
            batch_size=self.batch_size,
            micro_batch_size=getattr(self, "micro_batch_size", None),
            optimizer=optimizer,
            learning_rate=rate,
            weight_decay=decay,
            schedule=partial(warmup_cosine, warmup=self.warmup),
            seed=seed,
            max_time=self.max_time,
            started=started,
            precision=resolve_precision(self.precision, device),
            device=device,
            callbacks=check_callbacks(self.callbacks),
            verbose=int(self.verbose) if ranks.rank == 0 else 0,
            epochs_before=self.n_iter_ if warm else 0,
            repeatable=self.random_state is not None,
            resolve_optimizer=self._resolve_optimizer,
        )

    def _adopt(
        self, objective: Objective, history: History, plan: Plan, images: ImageSource | None = None
    ) -> None:
        """Set fitted attributes; raise if the representations of some of the images are not finite."""
        import pandas as pd

        for name, module in objective.modules.items():
            # Without the wrapper of torch.compile, a network can be pickled and saved.
            setattr(self, f"{name}_", plain(module))
        self.augmentation_ = cast("Augmentation | ExternalViews | None", objective.augmentation)
        self._architecture = self._describe_architecture()
        self._encoder_takes_channels_last = objective.channels_last
        columns = objective.columns
        numbers = [[row[name] for name in columns] for row in history.rows]
        rows = pd.DataFrame(numbers, columns=list(columns.values()), dtype=float)
        done = plan.epochs_before
        rows.insert(0, "epoch", np.arange(done + 1, done + len(rows) + 1))
        self.history_ = pd.concat([self.history_, rows], ignore_index=True) if done else rows
        self.n_iter_ = len(self.history_)
        self.loss_curve_ = [float(loss) for loss in self.history_["loss"]]
        if history.rows and images is not None:
            some = images.select(np.arange(min(len(images), _TRIED)))
            if not np.isfinite(self._infer(lambda modules, x: modules[0](x), (self.encoder_,), some)).all():
                raise ValueError(
                    "The training diverged: representations of the training images are not finite. "
                    f"Pass a smaller learning_rate than {plan.learning_rate:g}, or a longer warmup."
                )

    def _describe_architecture(self) -> dict[str, Any]:
        """Return the parameters that the network was built by."""
        encoder = self._encoder_setting()
        return {"encoder": encoder if isinstance(encoder, str) else None}

    def _check_same_architecture(self) -> None:
        """Raise if parameters of the network changed since it was built: training on would ignore them."""
        for name, value in self._describe_architecture().items():
            built = self._architecture.get(name, value)
            if value != built:
                raise ValueError(
                    f"{name} changed from {built!r} to {value!r}, but training goes on with the network that "
                    f"was built for {built!r}. Set {name} back, or fit a clone, or pass warm_start=False."
                )


class TrainedImageTransformer(TrainedImageEstimator, BaseImageTransformer):
    """Base of the transformers that return the output of their trained encoder."""

    def transform(self, X: Images) -> NDArray[np.float32]:
        """Return the representations of images.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, d)
            float32; a row does not depend on the rows around it.
        """
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False)
        return self._infer(lambda modules, images: modules[0](images), (self.encoder_,), source)

    @property
    def _n_features_out(self) -> int:
        return self._out_dim


@torch.no_grad()
def _same_in_channels_last(encoder: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether an encoder gives the same result in channels_last, in which some ``view`` fail."""
    trial = copy.deepcopy(encoder).cpu().eval()
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = trial(images)
        trial = trial.to(memory_format=torch.channels_last)
        found = trial(images.contiguous(memory_format=torch.channels_last))
    except Exception:
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def check_callbacks(callbacks: Any) -> tuple:
    """Return the callbacks, checked."""
    from skorch.callbacks import Callback

    for item in callbacks or ():
        callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if not (
            isinstance(callback, Callback) or isinstance(callback, type) and issubclass(callback, Callback)
        ):
            raise ValueError(
                f"callbacks must hold callbacks of skorch, or pairs (name, callback), got {item!r}."
            )
    return tuple(callbacks or ())
