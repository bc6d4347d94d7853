"""What all estimators with trained modules share: how a training is described, run, cached and resumed."""

import contextlib
import copy
from collections import OrderedDict
from functools import partial
from numbers import Integral, Real
from os import PathLike

import numpy as np
import torch
from sklearn.utils.validation import check_memory
from torch import nn

from .._utils.devices import resolve_device, resolve_precision
from .._utils.seeds import isolated_generators
from .._utils.sklearn_private import Interval, StrOptions
from .._utils.state import arrays_to_tensors, tensors_to_arrays
from .._version import __version__
from ..encoders.make import make_encoder, resolve_name
from ..encoders.mirror import resolve_views
from ..images.source import as_float
from ..training.cache import content_key, train_once
from ..training.checkpoint import Checkpoint
from ..training.optimizers import default_learning_rate
from ..views.augmentation import Augmentation
from .base import BaseImageEstimator

__all__ = ["TrainedImageEstimator", "describe_function"]

# Weight decay by optimizer: V1 section 2.2 for LARS; the others by experiment.
_WEIGHT_DECAY = {"lars": 1e-6, "sgd": 5e-4, "adamw": 0.05, "muon": 0.0}

# From this batch size on the learning rate has to be adapted to each layer (V1 section 2.2).
_LARS_FROM = 1024

# Images that a data-driven first layer is set from.
_STEM_IMAGES = 2048

# Parameters that do not change what is learnt.
_NOT_LEARNT_FROM = {
    *("cache_dir", "callbacks", "checkpoint_dir", "device", "image_size", "memory", "mirror"),
    *("on_error", "output", "verbose"),
}


class TrainedImageEstimator(BaseImageEstimator):
    """Base of the estimators that train modules on images.

    A subclass has the parameters of ``_training_constraints`` (``warm_start`` is optional), and says which
    modules there are (``_build_modules``, ``_fitted_modules``, ``_adopt_modules``) and which training loop
    they go through (``_make_loop``). ``_history`` maps the names that the loop records to the columns of
    ``history_``.
    """

    _training_constraints = {
        "encoder": [str, nn.Module, callable],
        "image_shape": [StrOptions({"auto", "HWC", "CHW"}), tuple, list],
        "pixel_range": [StrOptions({"auto"}), tuple, list],
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "cache_dir": [str, PathLike, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "augmentation": [Augmentation, None],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions({"auto", "lars", "sgd", "adamw", "muon"})],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str, torch.device],
        "memory": [str, None, object],
        "checkpoint_dir": [str, object, None],
        "callbacks": [list, tuple, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    _history = {
        "train_loss": "loss",
        "images_per_second": "images_per_second",
        "lr": "learning_rate",
        "dur": "seconds",
    }

    def set_params(self, **params):
        """Set parameters, also those of the augmentation.

        Parameters
        ----------
        **params : dict
            ``augmentation__NAME`` works where ``augmentation`` is None, too: it then becomes an
            :class:`Augmentation` with that parameter.

        Returns
        -------
        estimator
            Itself.
        """
        nested = any(name.startswith("augmentation__") for name in params)
        if nested and self.augmentation is None and params.get("augmentation") is None:
            params = {**params, "augmentation": self._default_augmentation() or Augmentation()}
        return super().set_params(**params)

    def _default_augmentation(self):
        """Return the augmentation that None stands for, if any, before its values are resolved."""
        return Augmentation()

    def _resolve_epochs(self, n_images):
        return self.max_epochs

    def _columns(self):
        return self._history

    def _build_modules(self, source, targets):
        """Return new modules by name; ``"encoder"`` is the one that takes the images."""
        raise NotImplementedError

    def _fitted_modules(self):
        """Return the modules of the last fit by name."""
        raise NotImplementedError

    def _complete_modules(self, modules):
        """Return the modules by name, with those that only training needs."""
        return modules

    def _adopt_modules(self, modules):
        """Make trained modules fitted attributes."""
        raise NotImplementedError

    def _make_loop(self, module, targets, options, batch_size):
        """Return the TrainingLoop for a module that holds the others, with the options that all share."""
        raise NotImplementedError

    def _describe_more(self):
        """Return what the trained weights depend on beside images, targets and parameters."""
        return {}

    def _encoder_setting(self):
        """Return the ``encoder`` parameter that the network was or will be built by."""
        return self.encoder

    def _build_encoder(self, source):
        setting, size = self._encoder_setting(), source.shape[1:]
        if isinstance(setting, str):
            setting = resolve_name(setting, size, self.max_time)
        return make_encoder(setting, source.shape[0], size)

    @property
    def _channels_last(self):
        """Whether the encoder is given images in the memory format in which convolutions are faster."""
        if isinstance(self._encoder_setting(), str):
            return True
        return getattr(self, "_encoder_takes_channels_last", False)

    def _set_first_layer(self, encoder, source, generator, device):
        """Set a data-driven first layer from some of the images."""
        if not hasattr(encoder, "initialize_from_images"):
            return
        chosen = torch.randperm(len(source), generator=generator, device=device)[:_STEM_IMAGES]
        chosen = chosen.to(source.device)
        source.ask(chosen)
        images = as_float(source.take(chosen).to(device))
        encoder.initialize_from_images(images, generator)

    def _train(self, source, seed, started, *, targets=None, warm=False, epochs=None, single=False):
        """Train on the images, and set the fitted attributes.

        Parameters
        ----------
        source : ImageSource
            The images.
        seed : int
            Of weights, order and views.
        started : float
            When fit began, on time.perf_counter's clock.
        targets : array or None, default=None
            What the loop learns to predict, a row an image.
        warm : bool, default=False
            Whether to go on from the modules of the last fit.
        epochs : int or None, default=None
            Passes over the images; None is ``max_epochs``.
        single : bool, default=False
            Whether this is an epoch of partial_fit: the learning rate does not fall, the optimizer's
            state is kept, and nothing is cached.
        """
        epochs = self._resolve_epochs(len(source)) if epochs is None else epochs
        device = resolve_device(self.device)
        augmentation = self.augmentation or self._default_augmentation()
        if augmentation is not None:
            augmentation = resolve_views(augmentation, source, self.augmentation_ if warm else None)
        done = self.n_iter_ if warm else 0
        build_seed, run_seed, loop_seed = np.random.SeedSequence([seed, done]).generate_state(3).tolist()
        with isolated_generators(build_seed, device):
            if warm:
                self._check_same_architecture()
                modules = copy.deepcopy(self._fitted_modules())
            else:
                modules = self._build_modules(source, targets)
                # Those that are given by name do, and a trial takes a copy.
                self._encoder_takes_channels_last = isinstance(
                    self._encoder_setting(), str
                ) or _takes_channels_last(modules["encoder"], source.shape)
            begun = modules
            if epochs > 0:
                modules = self._complete_modules(modules)

        def key():
            return content_key(source, self._describe(augmentation, begun, targets, seed, warm))

        def run():
            with isolated_generators(run_seed, device), self._checkpoint(key, single, epochs) as checkpoint:
                return self._run(
                    source,
                    targets,
                    modules,
                    {
                        "augmentation": augmentation,
                        "generator": torch.Generator(device).manual_seed(loop_seed),
                        "device": device,
                        "max_epochs": epochs,
                        "deadline": (started, started + self.max_time)
                        if self.max_time and not single
                        else None,
                        "checkpoint": checkpoint,
                    },
                    warm,
                    single,
                )

        memory = check_memory(self.memory)
        result = run() if single or epochs == 0 else train_once(key, run, memory)
        for name, module in modules.items():
            prefix = f"{name}."
            state = {k.removeprefix(prefix): v for k, v in result["arrays"].items() if k.startswith(prefix)}
            _take_arrays(module.cpu(), state)
            module.eval()
        self._adopt_modules(modules)
        self.augmentation_ = augmentation
        self._architecture = self._describe_architecture()
        self._set_history(result["meta"]["history"], done)

    def _set_history(self, rows, done):
        import pandas as pd

        rows = pd.DataFrame(rows, columns=list(self._columns().values()), dtype=float)
        rows.insert(0, "epoch", np.arange(done + 1, done + len(rows) + 1))
        self.history_ = pd.concat([self.history_, rows], ignore_index=True) if done else rows
        self.n_iter_ = len(self.history_)
        self.loss_curve_ = [float(loss) for loss in self.history_["loss"]]

    @contextlib.contextmanager
    def _checkpoint(self, key, single, epochs):
        folder = self.checkpoint_dir
        if folder is None or single or epochs == 0:
            yield None
            return
        with Checkpoint(folder, key()) as checkpoint:
            yield checkpoint

    def _run(self, source, targets, modules, options, warm, single):
        """Train the modules in place; return their weights as arrays, and the history."""
        device = options["device"]
        module = nn.Sequential(OrderedDict(modules)).to(device)
        if not warm:
            self._set_first_layer(modules["encoder"], source, options["generator"], device)
        history = []
        if options["max_epochs"] > 0:
            batch_size = min(self.batch_size, len(source))
            optimizer = self._resolve_optimizer(batch_size)
            rate, decay = self._resolve_rates(optimizer, batch_size)
            options = {
                **options,
                "optimizer": optimizer,
                "lr": rate,
                "weight_decay": decay,
                "warmup": self.warmup * self._resolve_epochs(len(source)) if single else self.warmup,
                "decay": not single,
                "epochs_before": self.n_iter_ if warm else 0,
                "batch_size": self.batch_size,
                "autocast": resolve_precision(self.precision, device),
                "channels_last": self._channels_last,
                "callbacks": _check_callbacks(self.callbacks),
                "verbose": int(self.verbose),
            }
            loop = self._make_loop(module, targets, options, batch_size)
            state = getattr(self, "_optimizer_state", None) if single and warm else None
            loop.train(source, arrays_to_tensors(state))
            history = [[float(row[name]) for name in self._columns()] for row in loop.history]
            if single:
                self._optimizer_state = tensors_to_arrays(loop.optimizer_.state_dict())
        arrays = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
        return {"arrays": arrays, "meta": {"history": history}}

    def _resolve_optimizer(self, batch_size):
        if self.optimizer != "auto":
            return self.optimizer
        return "lars" if batch_size >= _LARS_FROM else "muon"

    def _resolve_rates(self, optimizer, batch_size):
        """Return learning rate and weight decay."""
        rate, decay = self.learning_rate, self.weight_decay
        return (
            default_learning_rate(optimizer, batch_size) if rate == "auto" else float(rate),
            _WEIGHT_DECAY[optimizer] if decay == "auto" else float(decay),
        )

    def _describe_architecture(self):
        """Return the parameters that the network was built by."""
        encoder = self._encoder_setting()
        return {"encoder": encoder if isinstance(encoder, str) else None}

    def _check_same_architecture(self):
        """Raise if parameters of the network changed since it was built: training on would ignore them."""
        for name, value in self._describe_architecture().items():
            built = self._architecture.get(name, value)
            if value != built:
                raise ValueError(
                    f"{name} changed from {built!r} to {value!r}, but training goes on with the network that "
                    "was built for the first. Set it back, or fit a clone (or with warm_start=False)."
                )

    def _describe(self, augmentation, modules, targets, seed, warm):
        """Return what the trained weights depend on beside the images."""
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in _NOT_LEARNT_FROM}
        params["class"] = type(self).__name__
        params["version"] = __version__
        params["format"] = tuple(self._format)
        params["augmentation"] = augmentation and sorted(augmentation.get_params(deep=False).items())
        params["random_state"] = None if self.random_state is None else seed
        params["warm_start"] = self.n_iter_ if warm else 0
        if targets is not None:
            params["targets"] = targets
        encoder = self._encoder_setting()
        loaded = params.get("weights") is not None
        if isinstance(encoder, str):
            params["encoder"] = encoder
        else:
            given = isinstance(encoder, nn.Module)
            params["encoder"] = [repr(modules["encoder"]), None if given else describe_function(encoder)]
        if loaded:
            params["network"] = repr(modules["encoder"])
        if warm or loaded or isinstance(encoder, nn.Module):
            known = modules.values() if warm or loaded else [modules["encoder"]]
            # The numbers, and not where they were read: a file may change.
            params["weights"] = [[k, v.cpu().numpy()] for m in known for k, v in m.state_dict().items()]
        params.update(self._describe_more())
        return params


@torch.no_grad()
def _takes_channels_last(encoder, shape):
    """Return whether an encoder gives the same in that memory format, in which some ``view`` fail."""
    trial = copy.deepcopy(encoder).cpu().eval()
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = trial(images)
        trial = trial.to(memory_format=torch.channels_last)
        found = trial(images.contiguous(memory_format=torch.channels_last))
    except Exception:
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def _take_arrays(module, arrays):
    """Give a module its whole state, one array at a time: beside it there is never a second copy of all."""
    own = module.state_dict()
    if own.keys() != arrays.keys():
        raise ValueError(f"The state is of another network: {sorted(own.keys() ^ arrays.keys())[:5]}.")
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(np.array(arrays[name])))


def _check_callbacks(callbacks):
    """Return the callbacks as a list."""
    from skorch.callbacks import Callback

    for item in callbacks or ():
        callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if not (
            isinstance(callback, Callback) or isinstance(callback, type) and issubclass(callback, Callback)
        ):
            raise ValueError(f"callbacks must hold callbacks of skorch, or (name, callback), got {item!r}.")
    return list(callbacks) if callbacks else None


def describe_function(function):
    """Return a text that is equal for equal functions, in any process.

    Parameters
    ----------
    function : callable
        A function, a class or a partial of one.

    Returns
    -------
    str
        Names, code and constants.
    """
    if isinstance(function, partial):
        return repr((describe_function(function.func), function.args, sorted(function.keywords.items())))
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
    return name if code is None else repr((name, code.co_code.hex(), code.co_names, repr(code.co_consts)))
