"""SimCLRTransformer: contrastive image representations as a scikit-learn transformer."""

import copy
import time
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, check_memory
from torch import nn

from . import __version__
from ._base import (
    BaseImageTransformer,
    Interval,
    StrOptions,
    arrays_to_tensors,
    as_float,
    draw_seed,
    fit_context,
    isolated_generators,
    resolve_device,
    resolve_precision,
    tensors_to_arrays,
)
from ._cache import content_key, train_once
from .augmentation import Augmentation
from .diagnostics import chance_level, contrastive_accuracy
from .encoders import make_encoder
from .heads import ProjectionHead
from .images import ImageSource
from .losses import margin_triplet, nt_logistic, nt_xent
from .optimizers import default_learning_rate

__all__ = ["SimCLRTransformer"]

# Weight decay by optimizer: V1 section 2.2 for LARS; the others by experiment.
_WEIGHT_DECAY = {"lars": 1e-6, "sgd": 5e-4, "adamw": 0.05, "muon": 0.0}

# From this batch size on the learning rate has to be adapted to each layer (V1 section 2.2).
_LARS_FROM = 1024

# Images that a data-driven first layer is set from.
_STEM_IMAGES = 2048

# Pairs of views among which score looks for the positive one.
_SCORE_PAIRS = 256

# Parameters that do not change what is learnt.
_NOT_LEARNT_FROM = {"callbacks", "device", "memory", "output", "verbose"}

_HISTORY = {
    "train_loss": "loss",
    "chance_level": "chance_level",
    "contrastive_accuracy": "contrastive_accuracy",
    "effective_rank": "effective_rank",
    "images_per_second": "images_per_second",
    "lr": "learning_rate",
    "dur": "seconds",
}


class SimCLRTransformer(BaseImageTransformer):
    """Contrastive representations of images (SimCLR), learnt without labels.

    ``fit`` trains an encoder to recognise which two of a batch of randomly augmented views come from the
    same image; ``transform`` returns the encoder's output, on which a simple classifier needs few labels.

    Parameters
    ----------
    encoder : str, torch.nn.Module or callable, default="auto"
        The network that turns images (N, C, H, W) into representations (N, d).

        - ``"auto"``: ``"compact"`` for images of at most 96 pixels, else ``"resnet18"``.
        - ``"compact"``: a small network that learns quickly on a CPU.
        - ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"``, ``"resnet152"``; with a width
          as in ``"resnet50x2"``, with selective kernels as in ``"resnet50-sk"``. Small images get a stem
          that keeps their resolution.
        - ``"timm:NAME"``: a model of timm, untrained; needs the extra ``timm``.
        - a module: a copy is trained from its present weights. A callable: returns a module.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        Shape of one image: (H, W), (H, W, C) or (C, H, W). Needed where X is flat and not square and grey,
        or where the axes are ambiguous; "HWC" and "CHW" say only what the axes of X mean.
    pixel_range : "auto" or (float, float), default="auto"
        Values that are mapped to 0 and 1. ``"auto"``: (0, 255) for uint8, (0, 65535) for uint16,
        (0, 1) for bool and for numbers within it; else the smallest and the largest value of X in fit.
    augmentation : Augmentation or None, default=None
        The random views; None is ``Augmentation()``, a recipe chosen by the size of the images.
    loss : {"nt_xent", "nt_logistic", "margin_triplet"} or callable, default="nt_xent"
        Contrastive loss; a callable takes projections (2N, projection_dim), rows i and i + N of which
        belong together, and returns a scalar tensor.
    temperature : float, default=0.2
        Temperature of NT-Xent and NT-Logistic, > 0.
    projection_dim : int, default=128
        Length of the projections z that the loss compares.
    projection_layers : int, default=2
        Layers of the projection head: 2 as in SimCLR, 3 as in SimCLRv2; 0 compares representations.
    batch_size : int, default=256
        Images a step, at least 2; each is compared with the views of all others. A smaller X is one batch.
        An epoch leaves out what does not fill a batch, other images each time.
    micro_batch_size : int or None, default=None
        Images that go through the encoder at a time. The gradient is that of the whole batch, with
        BatchNorm over the images of a micro-batch; memory is that of a micro-batch, time is about 4/3.
    max_epochs : int, default=100
        Passes over the images. 0 leaves the encoder untrained: the random baseline.
    max_time : float or None, default=None
        Seconds to train for, instead of ``max_epochs``; the learning rate falls over that time.
    optimizer : {"auto", "lars", "sgd", "adamw", "muon"}, default="auto"
        ``"auto"`` is LARS from a batch size of 1024 on, else Muon. See :mod:`sklearn_simclr.optimizers`.
    learning_rate : "auto" or float, default="auto"
        Peak learning rate; ``"auto"`` depends on the optimizer and the batch size.
    weight_decay : "auto" or float, default="auto"
        Weight decay, not on biases and BatchNorm; ``"auto"`` depends on the optimizer.
    warmup : float, default=0.1
        Fraction of the training over which the learning rate rises from 0; then it falls to 0 by half a
        cosine.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the encoder's forward in training; ``"auto"`` is bfloat16 on GPUs, float32 on CPUs. The loss
        is always computed in float32.
    device : str or torch.device, default="auto"
        Where to compute; ``"auto"`` is CUDA where there is one, else the CPU.
    output : {"encoder", "projection"} or int, default="encoder"
        What transform returns: the representation h, the projection z, or the output of the k-th layer
        of the projection head. Can be changed after fit.
    memory : str, joblib.Memory or None, default=None
        Where to keep trained encoders. A fit on the same images with the same parameters (other than
        ``callbacks``, ``device``, ``memory``, ``output`` and ``verbose``) takes the encoder from there,
        also where ``random_state`` is None.
    callbacks : list or None, default=None
        Callbacks of skorch, such as ``EarlyStopping(monitor="train_loss")`` or
        ``Checkpoint(monitor="train_loss_best")``.
    warm_start : bool, default=False
        Whether fit continues from the weights of the last fit.
    verbose : int, default=0
        1 shows a progress bar: images a second, time left, and the loss beside the loss of an encoder that
        cannot tell images apart.
    random_state : int, RandomState or None, default=None
        Seed of weights, views and batches. The same int gives the same numbers, bit by bit on one machine
        with one number of threads. None differs from fit to fit.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The trained encoder, on the CPU.
    projector_ : torch.nn.Module
        The trained projection head, on the CPU.
    augmentation_ : Augmentation
        With the values that were used.
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels of an image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.
    n_iter_ : int
        Epochs done.
    loss_curve_ : list of float
        Mean loss of each epoch.
    history_ : pandas.DataFrame
        A row an epoch: loss, chance_level, contrastive_accuracy, effective_rank, images_per_second,
        learning_rate, seconds. Accuracy and rank are those of its last batch.

    See Also
    --------
    LabelFractionClassifier : Fits a classifier on a fraction of the labels.
    Augmentation : The random views.

    Notes
    -----
    With ``max_time``, two runs with the same seed differ, since the machine's speed decides how many steps
    they take. Only representations of the same fitted encoder can be compared with each other.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020. :arxiv:`2002.05709`
    .. [2] Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong
           Semi-Supervised Learners", NeurIPS 2020. :arxiv:`2006.10029`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_simclr import SimCLRTransformer
    >>> X, y = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer(max_epochs=2, random_state=0)
    >>> model = make_pipeline(simclr, LogisticRegression(max_iter=1000)).fit(X, y)
    >>> model[:-1].transform(X[:5]).shape[0]
    5
    """

    _parameter_constraints = {
        "encoder": [str, nn.Module, callable],
        "image_shape": [StrOptions({"auto", "HWC", "CHW"}), tuple, list],
        "pixel_range": [StrOptions({"auto"}), tuple, list],
        "augmentation": [Augmentation, None],
        "loss": [StrOptions({"nt_xent", "nt_logistic", "margin_triplet"}), callable],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "projection_layers": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "micro_batch_size": [Interval(Integral, 2, None, closed="left"), None],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions({"auto", "lars", "sgd", "adamw", "muon"})],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str, torch.device],
        "output": [StrOptions({"encoder", "projection"}), Interval(Integral, 0, None, closed="left")],
        "memory": [str, None, object],
        "callbacks": [list, tuple, None],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        encoder="auto",
        *,
        image_shape="auto",
        pixel_range="auto",
        augmentation=None,
        loss="nt_xent",
        temperature=0.2,
        projection_dim=128,
        projection_layers=2,
        batch_size=256,
        micro_batch_size=None,
        max_epochs=100,
        max_time=None,
        optimizer="auto",
        learning_rate="auto",
        weight_decay="auto",
        warmup=0.1,
        precision="auto",
        device="auto",
        output="encoder",
        memory=None,
        callbacks=None,
        warm_start=False,
        verbose=0,
        random_state=None,
    ):
        self.encoder = encoder
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.augmentation = augmentation
        self.loss = loss
        self.temperature = temperature
        self.projection_dim = projection_dim
        self.projection_layers = projection_layers
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.precision = precision
        self.device = device
        self.output = output
        self.memory = memory
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    def set_params(self, **params):
        """Set parameters, also those of the augmentation.

        Parameters
        ----------
        **params : dict
            ``augmentation__NAME`` works where ``augmentation`` is None, too: it then becomes an
            :class:`Augmentation` with that parameter.

        Returns
        -------
        SimCLRTransformer
            Itself.
        """
        nested = any(name.startswith("augmentation__") for name in params)
        if nested and self.augmentation is None and params.get("augmentation") is None:
            params = {**params, "augmentation": Augmentation()}
        return super().set_params(**params)

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Train the encoder.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            At least two images; numbers of any real dtype, torch tensors too.
        y : object, default=None
            Ignored.

        Returns
        -------
        SimCLRTransformer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X or a parameter cannot be used, or the training diverges; the estimator is then as it was
            before.
        """
        started = time.perf_counter()
        again = self.warm_start and hasattr(self, "encoder_")
        with self._unchanged_on_error():
            source = self._read_warm_images(X) if again else self._read_images(X, reset=True, smallest=2)
            seed = draw_seed(self.random_state)
            self._train(source, seed, started, warm=again, epochs=self.max_epochs)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Train for one epoch on the images given.

        The learning rate rises over the first ``warmup * max_epochs`` calls and then stays: how many
        calls will follow is not known. The first call decides size and pixel range of the images.

        Parameters
        ----------
        X : array-like
            At least two images, as in fit.
        y : object, default=None
            Ignored.

        Returns
        -------
        SimCLRTransformer
            Itself.
        """
        started = time.perf_counter()
        again = hasattr(self, "encoder_")
        with self._unchanged_on_error():
            source = self._read_warm_images(X) if again else self._read_images(X, reset=True, smallest=2)
            if not again or not hasattr(self, "_seed"):
                self._seed = draw_seed(self.random_state)
            self._train(source, self._seed, started, warm=again, epochs=1, partial=True)
        return self

    def transform(self, X):
        """Return the representations of images.

        Parameters
        ----------
        X : array-like
            Images of the size, channels and layout seen in fit.

        Returns
        -------
        ndarray of shape (n, d)
            float32; a row does not depend on the rows around it.
        """
        check_is_fitted(self, "encoder_")
        output = self._check_output()
        source = self._read_images(X, reset=False)

        def represent(modules, images):
            encoder, projector = modules
            h = encoder(images)
            return h if output == 0 else projector(h, output)

        return self._infer(
            represent, (self.encoder_, self.projector_), source, channels_last=isinstance(self.encoder, str)
        )

    def score(self, X, y=None):
        """Return the contrastive accuracy on views of images, best on images that fit has not seen.

        Each image is augmented twice, always with the same seed. The score is the fraction of the views
        whose most similar projection, among those of up to 256 images, is that of the other view of the
        same image. It needs no labels, and says how well the task was learnt that the encoder was
        trained on; use it to choose between learning rates or batch sizes, not between augmentations,
        which make this task easier or harder.

        Parameters
        ----------
        X : array-like
            At least two images, of the size, channels and layout seen in fit.
        y : object, default=None
            Ignored.

        Returns
        -------
        float
            In [0, 1]; about 1 / (2N - 1) for an encoder that tells nothing apart.
        """
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False)
        if len(source) < 2:
            raise ValueError("score needs at least 2 images to tell apart, got 1.")

        def project(modules, images):
            encoder, projector = modules
            return projector(encoder(images))

        generator = torch.Generator().manual_seed(0)
        hits = 0.0
        parts = np.array_split(np.arange(len(source)), -(-len(source) // _SCORE_PAIRS))
        for part in parts:
            images = source.take(slice(int(part[0]), int(part[-1]) + 1))
            views = self.augmentation_(torch.cat([images, images]), generator)
            z = self._infer(
                project,
                (self.encoder_, self.projector_),
                ImageSource(views, (0.0, 1.0)),
                channels_last=isinstance(self.encoder, str),
            )
            hits += contrastive_accuracy(z) * len(part)
        return hits / len(source)

    @property
    def _n_features_out(self):
        output = self._check_output()
        return self.projector_.layer_dim(output)

    def _check_output(self):
        """Return which layer of the head is the output, 0 for the encoder itself."""
        layers = self.projector_.n_layers
        if self.output == "encoder":
            return 0
        if self.output == "projection":
            return layers
        if not isinstance(self.output, Integral) or not 0 <= self.output <= layers:
            raise ValueError(
                f"output must be 'encoder', 'projection' or a layer of the projection head, 0 to {layers}, "
                f"got {self.output!r}."
            )
        return int(self.output)

    def _read_warm_images(self, X):
        source = self._read_images(X, reset=False)
        if len(source) < 2:
            raise ValueError("Training needs at least 2 images to tell apart, got n_samples=1.")
        return source

    def _train(self, source, seed, started, *, warm, epochs, partial=False):
        """Train on the images, and set the fitted attributes."""
        import pandas as pd

        device = resolve_device(self.device)
        augmentation = (self.augmentation or Augmentation()).resolve(source.shape)
        done = self.n_iter_ if warm else 0
        build_seed, run_seed, loop_seed = np.random.SeedSequence([seed, done]).generate_state(3).tolist()
        with isolated_generators(build_seed, device):
            if warm:
                self._check_same_architecture()
                encoder, projector = copy.deepcopy(self.encoder_), copy.deepcopy(self.projector_)
            else:
                encoder, out_dim = make_encoder(self.encoder, source.shape[0], source.shape[1:])
                layers = self.projection_layers
                projector = ProjectionHead(out_dim, self.projection_dim if layers else out_dim, layers)

        def run():
            with isolated_generators(run_seed, device):
                return self._run(
                    source,
                    encoder,
                    projector,
                    augmentation,
                    generator=torch.Generator(device).manual_seed(loop_seed),
                    device=device,
                    epochs=epochs,
                    deadline=(started, started + self.max_time) if self.max_time and not partial else None,
                    warm=warm,
                    partial=partial,
                )

        def key():
            return content_key(source.pixels, self._describe(augmentation, encoder, projector, seed, warm))

        memory = check_memory(self.memory)
        result = run() if partial or epochs == 0 else train_once(key, run, memory)
        for prefix, module in (("encoder.", encoder), ("projector.", projector)):
            state = {k.removeprefix(prefix): v for k, v in result["arrays"].items() if k.startswith(prefix)}
            module.cpu().load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
        self.encoder_, self.projector_ = encoder.eval(), projector.eval()
        self.augmentation_ = augmentation
        self._architecture = self._describe_architecture()
        rows = pd.DataFrame(result["meta"]["history"], columns=list(_HISTORY.values()), dtype=float)
        rows.insert(0, "epoch", np.arange(done + 1, done + len(rows) + 1))
        self.history_ = pd.concat([self.history_, rows], ignore_index=True) if done else rows
        self.n_iter_ = len(self.history_)
        self.loss_curve_ = [float(loss) for loss in self.history_["loss"]]

    def _run(
        self, source, encoder, projector, augmentation, *, generator, device, epochs, deadline, warm, partial
    ):
        """Train the modules in place; return their weights as arrays, and the history."""
        from ._net import ContrastiveModule, ContrastiveNet

        module = ContrastiveModule(encoder, projector).to(device)
        if not warm and hasattr(encoder, "initialize_from_images"):
            chosen = torch.randperm(len(source), generator=generator, device=device)[:_STEM_IMAGES]
            images = as_float(source.take(chosen.to(source.device)).to(device))
            encoder.initialize_from_images(images, generator)
        history = []
        if epochs > 0:
            batch_size = min(self.batch_size, len(source))
            optimizer = self.optimizer
            if optimizer == "auto":
                optimizer = "lars" if batch_size >= _LARS_FROM else "muon"
            rate, decay, warmup = self.learning_rate, self.weight_decay, self.warmup
            if partial:
                warmup = self.warmup * self.max_epochs
            loss = self._make_loss()
            net = ContrastiveNet(
                module,
                loss,
                augmentation=augmentation,
                generator=generator,
                optimizer=optimizer,
                lr=default_learning_rate(optimizer, batch_size) if rate == "auto" else float(rate),
                weight_decay=_WEIGHT_DECAY[optimizer] if decay == "auto" else float(decay),
                warmup=warmup,
                decay=not partial,
                epochs_before=self.n_iter_ if warm else 0,
                batch_size=self.batch_size,
                micro_batch_size=self.micro_batch_size,
                max_epochs=epochs,
                deadline=deadline,
                autocast=resolve_precision(self.precision, device),
                channels_last=isinstance(self.encoder, str),
                chance_level=_chance_level(loss, self.loss, batch_size),
                callbacks=_check_callbacks(self.callbacks),
                verbose=int(self.verbose),
                device=device,
            )
            state = arrays_to_tensors(getattr(self, "_optimizer_state", None)) if partial and warm else None
            net.train(source, state)
            history = [[float(row[name]) for name in _HISTORY] for row in net.history]
            if partial:
                self._optimizer_state = tensors_to_arrays(net.optimizer_.state_dict())
        arrays = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
        return {"arrays": arrays, "meta": {"history": history}}

    def _describe_architecture(self):
        name = self.encoder if isinstance(self.encoder, str) else None
        layers = self.projection_layers
        return {
            "encoder": name,
            "projection_layers": layers,
            "projection_dim": layers and self.projection_dim,
        }

    def _check_same_architecture(self):
        """Raise if parameters of the network changed since it was built: training on would ignore them."""
        for name, value in self._describe_architecture().items():
            built = self._architecture[name]
            if value != built:
                raise ValueError(
                    f"{name} changed from {built!r} to {value!r}, but training goes on with the network that "
                    "was built for the first. Set it back, or fit a clone (or with warm_start=False)."
                )

    def _make_loss(self):
        if self.loss == "nt_xent":
            return partial(nt_xent, temperature=self.temperature)
        if self.loss == "nt_logistic":
            return partial(nt_logistic, temperature=self.temperature)
        return margin_triplet if self.loss == "margin_triplet" else self.loss

    def _describe(self, augmentation, encoder, projector, seed, warm):
        """Return what the trained weights depend on beside the images."""
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in _NOT_LEARNT_FROM}
        params["version"] = __version__
        params["format"] = tuple(self._format)
        params["augmentation"] = sorted(augmentation.get_params(deep=False).items())
        params["random_state"] = None if self.random_state is None else seed
        params["loss"] = self.loss if isinstance(self.loss, str) else _name(self.loss)
        params["warm_start"] = self.n_iter_ if warm else 0
        if not isinstance(self.encoder, str):
            given = isinstance(self.encoder, nn.Module)
            params["encoder"] = [repr(encoder), None if given else _name(self.encoder)]
        if warm or isinstance(self.encoder, nn.Module):
            modules = [encoder, projector] if warm else [encoder]
            params["weights"] = [[k, v.cpu().numpy()] for m in modules for k, v in m.state_dict().items()]
        return params


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


def _name(function):
    """Return a text that is equal for equal functions, in any process."""
    if isinstance(function, partial):
        return repr((_name(function.func), function.args, sorted(function.keywords.items())))
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
    return name if code is None else repr((name, code.co_code.hex(), code.co_names, repr(code.co_consts)))


def _chance_level(loss, name, n_pairs):
    """Return the loss of an encoder that maps every view to one point."""
    if name == "nt_xent":
        return chance_level(n_pairs)
    return float(loss(torch.ones(2 * min(n_pairs, 1024), 2)))
