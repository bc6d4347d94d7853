"""An encoder that is trained by a PAC-Bayes bound, and comes with a guarantee."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d
from torch import nn
from torch.func import functional_call

from .._utils.devices import check_float64, resolve_device, send
from .._utils.ranks import together
from .._utils.seeds import draw_seed, isolated_generators
from .._utils.sklearn_private import Interval, StrOptions, fit_context
from .._utils.types import (
    Device,
    Images,
    ImageShape,
    ImageSize,
    Memory,
    OnError,
    PathLike,
    PixelRange,
    RandomState,
)
from ..encoders.make import make_encoder
from ..encoders.traits import traits
from ..estimators.inference import images_a_forward
from ..estimators.trained_base import TrainedImageTransformer, check_callbacks
from ..estimators.views import resolve_views
from ..images.indexing import row_blocks
from ..images.source import ImageSource, as_float
from ..losses.curl import hinge_of_margins, logistic_of_margins
from ..training.objective import History, Objective
from ..training.plan import Plan
from ..training.schedule import step_decay
from ..training.trainer import train
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from ._bound_objective import BoundObjective, TupleImages, margins_of
from ._posterior import GRID_FINENESS, LARGEST_PRIOR_VARIANCE, GaussianPosterior, make_mlp
from .gaussians import kl_gaussians, prior_grid_index
from .pac_bayes import contrastive_risk, risk_bound
from .tuples import ContrastiveTuples, sample_tuples

__all__ = ["PACBayesContrastiveTransformer"]

_LOSSES = {"logistic": logistic_of_margins, "hinge": hinge_of_margins}

_TUPLES_AT_A_TIME = 1024

_TUPLES_AN_IMAGE = 10


class PACBayesContrastiveTransformer(TrainedImageTransformer):
    r"""Representations learnt by minimising a PAC-Bayes bound on the contrastive risk.

    Every weight of the encoder has a Gaussian distribution, the posterior Q; training learns its mean and its
    variance. It trades the contrastive loss on m tuples (an anchor, b positives, k blocks of b negatives) for
    the divergence from the prior P, a Gaussian around the random initial weights. The result is an encoder
    and a number, ``bound_``: with probability at least ``1 - delta`` over the tuples, an encoder drawn from Q
    finds a negative more similar than the positive in at most that share of new comparisons.

    Parameters
    ----------
    encoder : "mlp", str, torch.nn.Module or callable, default="mlp"
        ``"mlp"`` has one hidden layer; the others are those of :func:`.encoders.make_encoder`. Networks run
        in evaluation mode throughout, BatchNorm with its initial statistics: the theory is about functions of
        one image. The fewer weights, the tighter the bound.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        Shape of one image; needed for rows of pixels.
    pixel_range : "auto" or (float, float), default="auto"
        The values that stand for black and white.
    image_size : "auto", int, (int, int) or None, default="auto"
        As in :class:`SimCLRTransformer`, but ``"auto"`` is the area of a square of 32 pixels at most: the
        more pixels, the more weights ``"mlp"`` has, and the looser is the bound.
    cache_dir : str, os.PathLike or None, default=None
        As in :class:`SimCLRTransformer`.
    on_error : {"raise", "nan", "grey"}, default="raise"
        As in :class:`SimCLRTransformer`; score leaves images that cannot be read out, too.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The views, where pairs are made of them; of the size of the images. None is ``Augmentation()``. A
        callable makes one view: see :class:`~sklearn_simclr.ExternalViews`.
    pairs : {"auto", "labels", "views"}, default="auto"
        Where positives come from: images of the same label, as in the paper, or views of the same image.
        ``"auto"`` is labels if fit is given them.
    loss : {"logistic", "hinge"}, default="logistic"
        The loss that is trained with.
    n_negatives : int, default=1
        k, the negatives (or blocks of them) of each tuple.
    block_size : int, default=1
        b, the images in a block of positives or negatives.
    n_tuples : int or None, default=None
        m, the number of tuples that are drawn, once, before training. None is ten for each image.
    hidden_dim : int, default=50
        Width of the hidden layer of ``"mlp"``.
    representation_dim : int, default=50
        Length of the representations of ``"mlp"``.
    lam : float, default=0.3
        :math:`\lambda`, what the loss weighs against the divergence: small is a tight bound on a large risk.
        Compare values by ``bound_``.
    prior_variance : float, default=3.35e-4
        Initial variance of the prior, in (0, 0.1); training changes it. The default is about exp(-8).
    delta : float, default=0.05
        The bound fails with at most this probability.
    batch_size : int, default=256
        Tuples a step.
    max_epochs : int, default=30
        Passes over the tuples. With 0, Q is P, but for its variance on the grid that a prior may have.
    learning_rate : float, default=0.01
        Of Adam; a tenth in the last quarter.
    n_posterior_samples : int, default=10
        Networks drawn from Q to estimate ``risk_``, and in ``score``.
    device : str or torch.device, default="auto"
        Device that computes; ``"auto"`` is CUDA where there is one.
    memory : str, joblib.Memory or None, default=None
        Where to keep trained weights, keyed by images, tuples and parameters.
    checkpoint_dir : str, os.PathLike or None, default=None
        Folder in which the state of the training is kept, as in :class:`SimCLRTransformer`.
    callbacks : list or None, default=None
        Callbacks of skorch.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of initial weights, tuples, views, batches and draws from Q.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The encoder with the mean of the posterior as weights.
    posterior_std_ : dict of str to ndarray
        Standard deviation of every weight, by the names of ``encoder_.named_parameters()``.
    prior_mean_ : dict of str to ndarray
        Mean of the prior: the initial weights.
    prior_variance_ : float
        Variance of the prior, on the grid ``0.1 * exp(-j / 100)``.
    prior_index_ : int
        The j of the grid.
    bound_ : float
        Bound on the contrastive risk of Q, from ``risk_`` and ``kl_``.
    lambda_ : float
        The lambda that gives the bound, found after training; not the parameter ``lam``.
    risk_ : float
        Contrastive risk of Q on the tuples that were trained on.
    risk_std_ : float
        Standard deviation of the risk between networks drawn from Q; 0 for one draw.
    kl_ : float
        KL(Q || P), in nats.
    tuples_ : ContrastiveTuples
        What was trained on, rows of X; for pairs from views, the anchors' images and those of the others.
    n_tuples_ : int
        m.
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels of an image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.
    n_iter_ : int
        Number of epochs.
    history_ : pandas.DataFrame
        One row for each epoch: objective and loss and risk while training, kl, prior_variance, bound (from
        these) and seconds.

    See Also
    --------
    SimCLRTransformer : Better representations, without a guarantee.
    sklearn_simclr.theory.risk_bound : The bound.

    Notes
    -----
    The bound is about new tuples of the distribution that the m were drawn from independently: here, tuples
    of the images of X, drawn with replacement. That is exact. For images that X does not hold, it is exact
    only as far as the tuples are independent draws of that larger distribution; they share images, so it is
    then the customary approximation. Compare ``1 - score(X_test, y_test)``. The average over
    ``n_posterior_samples`` networks stands for that over Q; its Monte Carlo error is not part of the
    probability ``delta``, as in the paper. For views the tuples of an epoch share a fixed
    set of views of each image.

    The bound is on the zero-one risk of contrastive comparisons. It does not carry over to the errors of the
    mean classifier, for which a convex loss is needed: :func:`.theory.mean_classifier_bound`.

    References
    ----------
    .. [1] Nozawa, Germain and Guedj, "PAC-Bayesian contrastive unsupervised representation learning",
           UAI 2020, sections 4.1.1 and 4.2. :arxiv:`1910.04464`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr.theory import PACBayesContrastiveTransformer
    >>> X, y = load_digits(return_X_y=True)
    >>> model = PACBayesContrastiveTransformer(max_epochs=3, random_state=0).fit(X, y)
    >>> model.transform(X).shape
    (1797, 50)
    >>> 0 < model.risk_ < model.bound_ < 1
    True
    """

    _auto_side = 32
    _parameter_constraints = {
        "encoder": [str, nn.Module, callable],
        **TrainedImageTransformer._reading_constraints,
        "augmentation": TrainedImageTransformer._training_constraints["augmentation"],
        "pairs": [StrOptions({"auto", "labels", "views"})],
        "loss": [StrOptions(set(_LOSSES))],
        "n_negatives": [Interval(Integral, 1, None, closed="left")],
        "block_size": [Interval(Integral, 1, None, closed="left")],
        "n_tuples": [Interval(Integral, 1, None, closed="left"), None],
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
        "representation_dim": [Interval(Integral, 1, None, closed="left")],
        "lam": [Interval(Real, 0, None, closed="neither")],
        "prior_variance": [Interval(Real, 0, LARGEST_PRIOR_VARIANCE, closed="neither")],
        "delta": [Interval(Real, 0, 1, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "n_posterior_samples": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "memory": [str, os.PathLike, None, object],
        "checkpoint_dir": [str, os.PathLike, None],
        "callbacks": [list, tuple, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        encoder: str | nn.Module | Callable[..., nn.Module] = "mlp",
        *,
        image_shape: ImageShape = "auto",
        pixel_range: PixelRange = "auto",
        image_size: ImageSize = "auto",
        cache_dir: PathLike | None = None,
        on_error: OnError = "raise",
        augmentation: Augmentation | ExternalViews | Callable[..., Any] | None = None,
        pairs: Literal["auto", "labels", "views"] = "auto",
        loss: Literal["logistic", "hinge"] = "logistic",
        n_negatives: int = 1,
        block_size: int = 1,
        n_tuples: int | None = None,
        hidden_dim: int = 50,
        representation_dim: int = 50,
        lam: float = 0.3,
        prior_variance: float = 3.35e-4,
        delta: float = 0.05,
        batch_size: int = 256,
        max_epochs: int = 30,
        learning_rate: float = 0.01,
        n_posterior_samples: int = 10,
        device: Device = "auto",
        memory: Memory = None,
        checkpoint_dir: PathLike | None = None,
        callbacks: Sequence[Any] | None = None,
        verbose: int = 0,
        random_state: RandomState = None,
    ) -> None:
        self.encoder = encoder
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.image_size = image_size
        self.cache_dir = cache_dir
        self.on_error = on_error
        self.augmentation = augmentation
        self.pairs = pairs
        self.loss = loss
        self.n_negatives = n_negatives
        self.block_size = block_size
        self.n_tuples = n_tuples
        self.hidden_dim = hidden_dim
        self.representation_dim = representation_dim
        self.lam = lam
        self.prior_variance = prior_variance
        self.delta = delta
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.n_posterior_samples = n_posterior_samples
        self.device = device
        self.memory = memory
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Images, y: ArrayLike | None = None) -> Self:
        """Learn the posterior.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            At least two images.
        y : array-like of shape (n,) or None, default=None
            Latent class of each image, of at least two; ignored if ``pairs="views"``.

        Returns
        -------
        PACBayesContrastiveTransformer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X, y or a parameter cannot be used, or the training diverges; the estimator is then as it was
            before.
        """
        started = time.perf_counter()
        with together():
            images = self._read_images(X, reset=True, smallest=2, y=y)
            self._by_views = self.pairs == "views" or (self.pairs == "auto" and y is None)
            readable, labels = self._check_labels(y, images)
            seeds = np.random.SeedSequence(draw_seed(self.random_state)).generate_state(5).tolist()
            build_seed, tuple_seed, view_seed, train_seed, risk_seed = seeds
            n_tuples = self.n_tuples or _TUPLES_AN_IMAGE * len(labels)
            tuples = self._draw_tuples(readable, labels, n_tuples, tuple_seed)
            drawn = self._bank(images, tuples, view_seed)
            plan = self._plan(len(drawn), build_seed, started, loop_seed=train_seed)
            objective = self._make_objective(drawn, plan)
            # train uses only what a source of tuples shares with a source of images.
            history = train(
                objective, cast(ImageSource, drawn), plan, cache=self.memory, checkpoint=self.checkpoint_dir
            )
            self._adopt(objective, history, plan)
            self.tuples_, self.n_tuples_ = tuples, len(drawn)
            risks = self._risks(drawn, torch.Generator().manual_seed(risk_seed))
            self.risk_ = float(np.mean(risks))
            self.risk_std_ = float(np.std(risks, ddof=1)) if len(risks) > 1 else 0.0
            bound = risk_bound(
                self.risk_, self.kl_, self.n_tuples_, delta=self.delta, prior_index=self.prior_index_
            )
            self.bound_, self.lambda_ = bound.total, bound.lam
        return self

    def transform(self, X: Images) -> NDArray[np.float32]:
        """Return the representations of images, computed with the mean of the posterior as weights.

        Parameters
        ----------
        X : array-like
            Images with the channels and layout seen in fit: files of any size, arrays as ``image_size`` says.

        Returns
        -------
        ndarray of shape (n, d)
            float32; a row does not depend on the rows around it.
        """
        return super().transform(X)

    def score(self, X: Images, y: ArrayLike | None = None) -> float:
        """Return one minus the contrastive risk of the posterior, which ``bound_`` is about.

        As many tuples as there are images, ``n_negatives`` and ``block_size`` as in fit, are drawn with a
        fixed seed from these images.

        Parameters
        ----------
        X : array-like
            At least two images, as for transform.
        y : array-like of shape (n,) or None, default=None
            Latent class of each image, if fit was given classes.

        Returns
        -------
        float
            Share of comparisons in which the positive is at least as similar as the negative, averaged over
            ``n_posterior_samples`` networks; in [0, 1].
        """
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False)
        n_readable = len(source) - len(source.bad)
        if n_readable < 2:
            raise ValueError(f"score compares images; pass at least 2 images, got {n_readable} readable.")
        readable, labels = self._check_labels(y, source)
        tuples = self._draw_tuples(readable, labels, len(labels), 0)
        drawn = self._bank(source, tuples, 0)
        return 1.0 - float(np.mean(self._risks(drawn, torch.Generator().manual_seed(0))))

    def _check_labels(self, y: ArrayLike | None, images: ImageSource) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the images that could be read, and the latent class of each."""
        n = len(images)
        readable = np.setdiff1d(np.arange(n), images.bad)
        if self._by_views:
            return readable, readable
        if y is None:
            raise ValueError("y is None, but pairs come from labels; pass the class of each image.")
        labels: np.ndarray = column_or_1d(y)
        if len(labels) != n:
            check_consistent_length(np.empty(n), labels)
        labels = labels[readable]
        if len(np.unique(labels)) < 2:
            raise ValueError(
                "y holds a single class, so there are no negatives. Pass labels of two or more classes."
            )
        return readable, labels

    def _draw_tuples(
        self, rows: np.ndarray, labels: np.ndarray, n_tuples: int, seed: int
    ) -> ContrastiveTuples:
        tuples = sample_tuples(
            labels, n_tuples, n_negatives=self.n_negatives, block_size=self.block_size, random_state=seed
        )
        images = {name: rows[getattr(tuples, name)] for name in ("anchor", "positive", "negative")}
        return ContrastiveTuples(*tuples)._replace(**images)

    def _plan(
        self, n_images: int, seed: int, started: float, *, warm: bool = False, loop_seed: int | None = None
    ) -> Plan:
        device = resolve_device(self.device)
        check_float64(device, "the bound")
        return Plan(
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            keep_last=True,  # the bound is about every tuple
            optimizer="adam",
            learning_rate=float(self.learning_rate),
            schedule=step_decay,  # after three quarters, section 5.1
            seed=seed,
            loop_seed=loop_seed,
            started=started,
            device=device,
            callbacks=check_callbacks(self.callbacks),
            verbose=int(self.verbose),
            repeatable=self.random_state is not None,
        )

    def _make_objective(self, images: TupleImages, plan: Plan) -> BoundObjective:
        channels, height, width = images.shape
        with isolated_generators(plan.seed, plan.device):
            if isinstance(self.encoder, str) and self.encoder == "mlp":
                self._out_dim = int(self.representation_dim)
                module: nn.Module = make_mlp(channels * height * width, self.hidden_dim, self._out_dim)
            else:
                module, self._out_dim = make_encoder(self.encoder, channels, (height, width))
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                "encoder has no parameter that requires a gradient, so there is nothing to learn. Pass an "
                "encoder with trainable weights."
            )
        posterior = GaussianPosterior(module.eval(), self.prior_variance)
        return BoundObjective(posterior, images, _LOSSES[self.loss], lam=self.lam, delta=self.delta)

    def _describe_architecture(self) -> dict:
        return {"encoder": self.encoder if isinstance(self.encoder, str) else None}

    def _bank(self, source: ImageSource, tuples: ContrastiveTuples, seed: int) -> TupleImages:
        """Return the images of the tuples: themselves, or views of them."""
        anchors, positives, negatives = (
            torch.from_numpy(np.ascontiguousarray(index)) for index in tuples[:3]
        )
        if not self._by_views:
            return TupleImages(source, (anchors, positives, negatives))
        # Each image has one view as an anchor, b as positives and b as negatives, so that all views of
        # a tuple are independent draws even if a negative is of the anchor's image.
        n, b = len(source), self.block_size
        augmentation = Augmentation() if self.augmentation is None else self.augmentation
        if isinstance(augmentation, Augmentation) and isinstance(augmentation.size, str):
            augmentation = Augmentation(**{**augmentation.get_params(), "size": source.shape[1:]})
        augmentation = resolve_views(augmentation, source)
        if tuple(augmentation.size) != tuple(source.shape[1:]):
            raise ValueError(
                f"augmentation makes views of {augmentation.size} pixels from images of {source.shape[1:]}; "
                "pass an Augmentation with size='auto', or a transform that keeps the size of the images."
            )
        generator = torch.Generator().manual_seed(seed)
        views = torch.empty((1 + 2 * b) * n, *source.shape, dtype=torch.uint8)
        for view in range(1 + 2 * b):
            for some in row_blocks(n, source.nbytes // n):
                made = augmentation(source.take(some), generator).mul_(255).round_()
                views[view * n + some.start : view * n + some.stop] = made.to(torch.uint8)
        order = torch.arange(b) * n
        rows = (anchors, positives + n + order, negatives + (1 + b) * n + order)
        return TupleImages(ImageSource(views, (0.0, 255.0)), rows)

    def _adopt(
        self, objective: Objective, history: History, plan: Plan, images: ImageSource | None = None
    ) -> None:
        super()._adopt(objective, history, plan)
        posterior = cast(GaussianPosterior, objective.modules["encoder"])
        means, stds, prior_means = posterior.arrays()
        variance = float(posterior.prior_log_variance.detach().exp())
        self.prior_index_, self.prior_variance_ = prior_grid_index(
            variance, b=GRID_FINENESS, c=LARGEST_PRIOR_VARIANCE
        )
        self.posterior_std_, self.prior_mean_ = stds, prior_means
        self.kl_ = max(
            0.0,
            sum(
                kl_gaussians(
                    means[name], stds[name].astype(np.float64) ** 2, prior_means[name], self.prior_variance_
                )
                for name in means
            ),
        )
        module = posterior.module[0].cpu()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in means:
                    parameter.copy_(torch.from_numpy(means[name]))
        self.encoder_ = module

    def _risks(self, drawn: TupleImages, generator: torch.Generator) -> list[float]:
        """Return the contrastive risk on tuples of networks drawn from the posterior."""
        device = resolve_device(self.device)
        weights = {name: p.detach().to(device) for name, p in self.encoder_.named_parameters()}
        buffers = {name: buffer.to(device) for name, buffer in self.encoder_.named_buffers()}
        stds = {name: torch.from_numpy(std).to(device) for name, std in self.posterior_std_.items()}
        forward = images_a_forward(drawn.bank.shape, device, traits(self.encoder_))
        risks = []
        with torch.inference_mode():
            for _ in range(self.n_posterior_samples):
                sample = dict(weights)
                noise = [torch.randn(std.shape, generator=generator) for std in stds.values()]
                for (name, std), drawn_here in zip(stds.items(), send(noise, device), strict=True):
                    sample[name] = weights[name] + std * drawn_here
                parts = []
                for some in torch.arange(len(drawn.bank)).split(forward):
                    images = as_float(drawn.bank.take(some).to(device))
                    parts.append(functional_call(self.encoder_, {**sample, **buffers}, (images,)))
                z = torch.cat(parts).float().cpu()
                margins = []
                for start in range(0, len(drawn), _TUPLES_AT_A_TIME):
                    rows = [part[start : start + _TUPLES_AT_A_TIME] for part in drawn.rows]
                    flat = torch.cat([z[part.flatten()] for part in rows])
                    margins.append(margins_of(flat, *(part.shape for part in rows)))
                risks.append(contrastive_risk(torch.cat(margins).numpy()))
        return risks
