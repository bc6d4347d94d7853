"""SimCLRTransformer: contrastive image representations as a scikit-learn transformer."""

from __future__ import annotations

import copy
import enum
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._utils.labels import labelled_rows
from .._utils.pickling import arrays_to_tensors, tensors_to_arrays
from .._utils.progress import setting_up
from .._utils.ranks import together
from .._utils.seeds import draw_seed
from .._utils.sklearn_private import Interval, StrOptions, fit_context
from .._utils.types import (
    Device,
    Images,
    ImageShape,
    ImageSize,
    Memory,
    OnError,
    OptimizerName,
    PathLike,
    PixelRange,
    Precision,
    RandomState,
)
from ..encoders.compiled import compiled_as
from ..encoders.heads import ProjectionHead
from ..encoders.mirror import MirroredNetwork, mirror_images_fit_in
from ..encoders.preprocessing import network_of_views
from ..encoders.traits import traits
from ..encoders.weights.pretrained import load_pretrained
from ..images.source import ImageSource
from ..losses.by_name import LOSSES, loss_of_one_point, named_loss
from ..losses.labelled import takes_labels
from ..losses.measures import contrastive_accuracy
from ..training.contrastive import ContrastiveObjective
from ..training.objective import Objective
from ..training.plan import Plan
from ..training.probe import OnlineProbe
from ..training.schedule import warmup_constant
from ..training.trainer import train
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from .base import BaseImageTransformer
from .published import published_modules
from .trained_base import TrainedImageEstimator
from .views import drawn_views, is_open, smaller_views

__all__ = ["SimCLRTransformer"]

# Pairs of views among which score looks for the positive one.
_SCORE_PAIRS = 256


class SimCLRTransformer(TrainedImageEstimator, BaseImageTransformer):
    """Learn representations of images without labels, by SimCLR.

    ``fit`` trains an encoder to recognise which two of many random views come from the same image.
    ``transform`` returns the encoder's output. A simple classifier on this output needs few labels.

    Parameters
    ----------
    encoder : str, torch.nn.Module or callable, default="auto"
        The network that turns images (N, C, H, W) into representations (N, d).

        - ``"auto"``: ``"compact"`` for images of any size; ``"resnet18"`` only where a GPU trains it on 20
          million images or more. An image counts once per epoch.
        - ``"compact"``: a small network that learns quickly on a CPU. ``"compactx0.5"``,
          ``"compactx1.5"``, ``"compactx2"`` and ``"compactx4"`` are that many times as wide, and pay in
          longer trainings only. The compact network sees views of up to 48 x 48 pixels in training and
          shrinks images to 64 x 64 pixels in transform; a ``size`` of the augmentation changes both in
          proportion. The first ``encoder_.read_dim`` numbers of a representation are means over the image,
          which the projection head reads. The other numbers say where in the image something is;
          ``output="means"`` leaves them out.
        - ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"``, ``"resnet152"``; with a width
          as in ``"resnet50x2"``, with selective kernels as in ``"resnet50-sk"``. Small images get a stem
          that keeps their resolution.
        - ``"timm:NAME"``: a network of timm with random weights; needs the extra ``timm``.
        - a module: a copy is trained from its present weights. A module from ``torch.compile`` is trained
          compiled; ``encoder_`` is the plain module.
        - a callable that returns a module.

        If ``weights`` is given, the file determines the network; leave ``encoder="auto"``.
    weights : str, os.PathLike, torchvision weight enum or None, default=None
        Weights that training starts from; None starts from random weights. ``fit`` trains the network
        further on X; with ``max_epochs=0`` the network stays as published.

        - ``"torchvision:resnet50"``, ``"timm:NAME"``: fetched if they are not on this machine.
        - a path: a checkpoint of SimCLR's authors, lightly, solo-learn or MoCo, or a file of
          :func:`~sklearn_simclr.encoders.convert_checkpoint` or :func:`~sklearn_simclr.export_encoder`.
          :func:`~sklearn_simclr.load_pretrained` lists all formats.

        The preprocessing of the weights, such as a resize and a centre crop to 224 pixels, comes before the
        encoder. In training, views are made at that size and nothing is cut off. Grey images are repeated
        for the three channels. For any other number of channels, each channel gets the mean of the first
        layer's weights over its channels, scaled.
    image_shape : "auto", "HWC", "CHW" or tuple of int, default="auto"
        Shape of one image: (H, W), (H, W, C) or (C, H, W). Needed where rows of X are flat and not square
        grey images, or where the axes are ambiguous. "HWC" and "CHW" say only what the axes of X mean.
    pixel_range : "auto" or (float, float), default="auto"
        Values that are mapped to 0 and 1. ``"auto"``: (0, 255) for uint8, (0, 65535) for uint16,
        (0, 1) for bool and for numbers in [0, 1]; otherwise the smallest and the largest value of X in fit.
    image_size : "auto", int, (int, int) or None, default="auto"
        Size in pixels to which images are resized while they are read, with antialiasing, in fit and in
        transform. Images for transform may have any size.

        - ``"auto"``: files, Pillow images and arrays of mixed sizes become squares of 96 pixels; an array of
          images of one size is taken as it is. The largest centred square of each image is resized, since
          objects in the middle are larger there than in the whole image and are classified better. If the
          median aspect ratio of the images is beyond 3:2, boxes of that ratio and of the same area are
          taken instead. Smaller images are not enlarged beyond their median size. Images of one size of at
          most 96 pixels keep it. Larger images would cost memory and decoding time and teach nothing more,
          since networks learn from small views.
        - int: the side of a square. The largest centred square of each image is resized.
        - (height, width): the whole of each image is resized, and stretched if its aspect ratio differs.
        - None: images are not resized, and must have one size.

        An int or a pair holds for arrays, too.
    cache_dir : str, os.PathLike or None, default=None
        Folder that keeps decoded image files, so that folds, searches and later runs decode each file once.
        A file is known by its path, size and time of change. The folder only grows: remove it when it is
        not needed any more. None decodes the files once per call, into memory, or into a temporary file if
        the images would take more than a quarter of the memory.
    on_error : {"raise", "nan", "grey"}, default="raise"
        Treatment of image files that cannot be read. ``"raise"``: an error lists the files before any
        training. ``"nan"``: fit leaves the files out, transform returns rows of NaN. ``"grey"``: fit leaves
        the files out, transform takes them for grey images, so that a Pipeline goes on. Both warn.
    augmentation : Augmentation, ExternalViews, callable or None, default=None
        The random views. None is ``Augmentation()``, a recipe chosen by the size of the images. A callable,
        such as a transform of torchvision, kornia or albumentations, makes one view of one image; see
        :class:`~sklearn_simclr.ExternalViews`.
    small_views : int, default=0
        Number of further views of each image, with half the side. Each small view is compared with both
        large views; the loss is the mean over these 1 + 2 ``small_views`` pairs [3]_. The area of a small
        crop lies between a third of ``crop_scale[0]`` and ``crop_scale[0]``. A small view takes about a
        quarter of the time of a large one.
    loss : str or callable, default="nt_xent"
        Contrastive loss of :mod:`sklearn_simclr.losses`: ``"nt_xent"``, ``"dcl"`` (for small batches),
        ``"hard_nt_xent"`` (similar negatives count for more), ``"nt_logistic"``, ``"margin_triplet"``,
        ``"curl_logistic"`` or ``"curl_hinge"``; or ``"supcon"``, which also learns from the labels in y.
        A callable takes projections (2N, projection_dim), whose rows i and i + N are the two views of image
        i, and returns a scalar tensor; ``partial(curl_logistic, n_negatives=1)`` sets an argument. If the
        callable has an argument ``labels``, this argument is the class numbers (N,), -1 where there is no
        label. A torch.nn.Module is copied and trained with the encoder. For blocks of several positives see
        :class:`~sklearn_simclr.PACBayesContrastiveTransformer`.
    temperature : float, default=0.2
        Temperature of ``"nt_xent"``, ``"dcl"``, ``"hard_nt_xent"``, ``"supcon"`` and ``"nt_logistic"``, > 0.
    queue_size : int, default=0
        Number of projections of earlier batches that every view is compared with, in addition to those of
        its batch: the memory of MoCo and SimCLRv2, where it is 65536. The projections come from an average
        of the network over the steps and carry no gradient. The queue needs ``loss="nt_xent"`` and a second
        forward pass, about a third more time. Each fit and partial_fit begins with an empty queue. Choose
        fewer than there are images.
    queue_momentum : float, default=0.999
        Weight of the averaged network in each step, in [0, 1); the present network has the rest. Only used
        with a ``queue_size``.
    projection_dim : int, default=128
        Length of the projections z that the loss compares.
    projection_layers : int, default=2
        Layers of the projection head: 2 as in SimCLR, 3 as in SimCLRv2; 0 compares the representations
        themselves. A head in the file of ``weights`` keeps its layers.
    batch_size : int, default=256
        Images per step, at least 2. Each view is compared with the views of all other images of the batch.
        A smaller X is one batch. An epoch leaves out the images that do not fill a batch, other images in
        each epoch.
    micro_batch_size : int or None, default=None
        Images that go through the encoder at a time, to save memory; a step then takes about 4/3 of the
        time. The gradient is that of the whole batch, with BatchNorm over the images of a micro-batch. Below
        about 32 images, these statistics tell the network which views belong together (V1 section 2.2), and
        less is learnt.
    max_epochs : int, default=100
        Passes over the images. 0 trains nothing: the encoder has random weights, or those of ``weights``.
    max_time : float or None, default=None
        Seconds that fit takes, reading included, in place of ``max_epochs``. The learning rate falls over
        that time. If reading files takes most of the time, a warning says so within seconds. If few steps
        fit, the batch becomes smaller and a warning says so; if hardly a step fits, an error says what to
        pass. The last step is kept even if it ends after the time.
    optimizer : {"auto", "lars", "sgd", "adamw", "muon"}, default="auto"
        ``"auto"`` is LARS from a batch size of 1024 on, else Muon. See :mod:`sklearn_simclr.training`.
    learning_rate : "auto" or float, default="auto"
        Peak learning rate; ``"auto"`` depends on the optimizer and the batch size.
    weight_decay : "auto" or float, default="auto"
        Weight decay, not on biases and BatchNorm; ``"auto"`` depends on the optimizer.
    warmup : float, default=0.1
        Fraction of the training over which the learning rate rises from 0. Afterwards the rate falls to 0
        along half a cosine.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Precision of the encoder's forward pass in training. ``"auto"`` is bfloat16 on GPUs and on CPUs with
        AMX, where bfloat16 is quicker. On GPUs with units for float16 only, it is float16 with a gradient
        scaler, which waits for the device in each step. Elsewhere it is float32. The loss and transform are
        always computed in float32.
    device : str or torch.device, default="auto"
        Device that computes; ``"auto"`` is the accelerator that torch finds, else the CPU.
    output : {"encoder", "means", "projection"} or int, default="encoder"
        Output of transform: the representation h, the part of h that the projection head reads
        (``"means"``), the projection z, or the output of the k-th layer of the projection head. For the
        compact encoder, ``"means"`` leaves out the numbers that say where in the image something is:
        compare both if labels are few and objects lie anywhere, as cells do. For other encoders it is h.
        Can be changed after fit.
    mirror : "auto" or bool, default="auto"
        Whether transform averages the representations of an image and of its mirror image, before the
        projection head. This takes twice the time, and with many labels a classifier errs less. True and
        False hold for any encoder. ``"auto"`` averages for the compact encoder if views are mirrored
        (``flip_probability`` above 0) and left and right do not matter: a linear classifier tells at most
        60% of 500 images from their mirror images, or of fewer images no more than chance explains. Can be
        changed after fit.
    memory : str, joblib.Memory or None, default=None
        Folder that keeps trained encoders. A fit on the same images with the same parameters reads the
        encoder from there, even if ``random_state`` is None; ``device``, ``memory``, ``mirror``, ``output``
        and ``verbose`` may differ. In a search with several workers, a worker that wants an encoder waits
        for the worker that trains it; without ``memory`` each worker trains for itself. Remove the folder
        to empty it.
    checkpoint_dir : str, os.PathLike or None, default=None
        Folder in which fit keeps the state of the training, after every epoch and every minute. An
        interrupted fit goes on from there when it is called again with the same images and parameters. On a
        CPU its weights are then, bit by bit, those of an uninterrupted fit. A finished fit is not repeated.
        Each folder belongs to one run; other images or parameters raise an error. Only ``max_epochs`` or
        ``max_time`` may be larger: the training goes on, with the learning rates of the longer run.
        Callbacks start anew.
    callbacks : list or None, default=None
        Callbacks of skorch, such as ``EarlyStopping(monitor="train_loss")`` or
        ``Checkpoint(monitor="train_loss_best")``.
    online_probe : bool, default=False
        Whether a linear classifier learns from y while the encoder learns without y. The classifier reads
        the same numbers as the projection head, on views of the labelled images, and sends no gradient to
        the encoder, which learns the same as without. The column ``probe_accuracy`` of ``history_`` is the
        accuracy on these views, each predicted before the classifier learns from it. ``partial_fit`` trains
        no such classifier.
    warm_start : bool, default=False
        Whether fit continues from the weights of the last fit.
    verbose : int, default=0
        1 prints how long the training will take, and shows a progress bar with images per second, time
        left, and the loss beside its chance level. A file gets one line per tenth of the training.
    random_state : int, RandomState or None, default=None
        Seed of weights, views and batches. The same int gives the same numbers, bit by bit, on one machine
        with one number of threads. With None every fit differs.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The trained encoder, on the CPU. With ``weights``, the encoder takes images as in X and begins with
        their preprocessing where that changes anything.
    projector_ : torch.nn.Module
        The trained projection head, on the CPU. The head has no layers if the file of ``weights`` has none
        and fit did not train.
    augmentation_ : Augmentation or ExternalViews
        The views with all values that were used.
    mirror_ : bool
        Meaning of ``mirror="auto"`` for this encoder, found in the first fit or partial_fit. True or False
        for ``mirror`` override it.
    image_shape_ : tuple of int
        Shape of one image, as in X.
    pixel_range_ : (float, float)
        The values that are mapped to 0 and 1.
    n_features_in_ : int
        Pixels per image, times channels.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X was a DataFrame of pixels.
    n_iter_ : int
        Number of epochs.
    loss_curve_ : list of float
        Mean loss of each epoch.
    history_ : pandas.DataFrame
        One row per epoch: loss, chance_level, contrastive_accuracy, effective_rank, images_per_second,
        learning_rate, seconds. Accuracy and rank are those of the epoch's last batch. With
        ``online_probe=True`` also probe_accuracy, over the epoch.

    See Also
    --------
    LabelFractionClassifier : Fits a classifier on a fraction of the labels.
    Augmentation : The random views.
    sklearn_simclr.load_pretrained : Lists the files that ``weights`` accepts.

    Notes
    -----
    With ``max_time`` the batch may become smaller than ``batch_size``: it is halved until 20 steps fit, not
    below 32 images. ``"auto"`` for optimizer, learning rate and weight decay then means the values for the
    smaller batch.

    Published encoders were trained on pixels in [0, 1]. Use ``weights`` with images of uint8 or of floats in
    [0, 1], or pass black and white as ``pixel_range``; otherwise the extremes of X are black and white.

    A fitted transformer that becomes a step of a Pipeline is fitted again by ``Pipeline.fit``, on the images
    given there. ``make_pipeline(sklearn.frozen.FrozenEstimator(simclr), LogisticRegression())`` keeps what
    was learnt; with ``memory``, a fit on the same images takes it from there.

    With ``max_time``, two runs with the same seed differ, since the machine's speed decides how many steps
    they take. Only representations of the same fitted encoder can be compared with each other.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
           Representations", ICML 2020. :arxiv:`2002.05709`
    .. [2] Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong
           Semi-Supervised Learners", NeurIPS 2020. :arxiv:`2006.10029`
    .. [3] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
           NeurIPS 2020, section 3.2. :arxiv:`2006.09882`

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

    Start from an encoder that was trained elsewhere, here the one above, and take it as it is:

    >>> import os, tempfile
    >>> from sklearn_simclr import export_encoder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.safetensors")
    ...     how = export_encoder(model[0], path)
    ...     again = SimCLRTransformer(weights=path, max_epochs=0).fit(X)
    >>> bool((again.transform(X) == model[0].transform(X)).all())
    True
    """

    projector_: ProjectionHead
    augmentation_: Augmentation | ExternalViews
    mirror_: bool

    _parameter_constraints = {
        **TrainedImageEstimator._training_constraints,
        "weights": [str, os.PathLike, enum.Enum, None],
        "loss": [StrOptions(set(LOSSES)), callable],
        "small_views": [Interval(Integral, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "queue_size": [Interval(Integral, 0, None, closed="left")],
        "queue_momentum": [Interval(Real, 0, 1, closed="left")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "projection_layers": [Interval(Integral, 0, None, closed="left")],
        "micro_batch_size": [Interval(Integral, 2, None, closed="left"), None],
        "output": [
            StrOptions({"encoder", "means", "projection"}),
            Interval(Integral, 0, None, closed="left"),
        ],
        "online_probe": ["boolean"],
        "mirror": [StrOptions({"auto"}), "boolean"],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        encoder: str | nn.Module | Callable[..., nn.Module] = "auto",
        *,
        weights: PathLike | enum.Enum | None = None,
        image_shape: ImageShape = "auto",
        pixel_range: PixelRange = "auto",
        image_size: ImageSize = "auto",
        cache_dir: PathLike | None = None,
        on_error: OnError = "raise",
        augmentation: Augmentation | ExternalViews | Callable[..., Any] | None = None,
        small_views: int = 0,
        loss: str | Callable[..., torch.Tensor] = "nt_xent",
        temperature: float = 0.2,
        queue_size: int = 0,
        queue_momentum: float = 0.999,
        projection_dim: int = 128,
        projection_layers: int = 2,
        batch_size: int = 256,
        micro_batch_size: int | None = None,
        max_epochs: int = 100,
        max_time: float | None = None,
        optimizer: OptimizerName = "auto",
        learning_rate: Literal["auto"] | float = "auto",
        weight_decay: Literal["auto"] | float = "auto",
        warmup: float = 0.1,
        precision: Precision = "auto",
        device: Device = "auto",
        output: Literal["encoder", "means", "projection"] | int = "encoder",
        mirror: Literal["auto"] | bool = "auto",
        memory: Memory = None,
        checkpoint_dir: PathLike | None = None,
        callbacks: Sequence[Any] | None = None,
        online_probe: bool = False,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: RandomState = None,
    ) -> None:
        self.encoder = encoder
        self.weights = weights
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.image_size = image_size
        self.cache_dir = cache_dir
        self.on_error = on_error
        self.augmentation = augmentation
        self.small_views = small_views
        self.loss = loss
        self.temperature = temperature
        self.queue_size = queue_size
        self.queue_momentum = queue_momentum
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
        self.mirror = mirror
        self.memory = memory
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.online_probe = online_probe
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Images, y: object = None) -> Self:
        """Train the encoder.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, d), (n, H, W), (n, H, W, C) or (n, C, H, W)
            At least two images; numbers of any real dtype, torch tensors too. Or a list, array, Series or
            column of paths, Pillow images or bytes of files, or a dataset of them: grey ones become RGB if
            any has colours, transparent parts white, 8 bits 16 if any has 16. See
            :mod:`sklearn_simclr.images`.
        y : array-like of shape (n,) or None, default=None
            Classes, for a ``loss`` that learns from labels and for ``online_probe=True``: -1, None or NaN
            where there is none. Else not used; another length than that of X raises an error.

        Returns
        -------
        SimCLRTransformer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If X, a parameter or a file of ``weights`` cannot be used, or the training diverges; the estimator
            is then as it was before.
        FileNotFoundError
            If there is no such file of ``weights``, or those of torchvision or timm cannot be fetched.
        """
        started = time.perf_counter()
        self._learns_from_labels(y)  # raises, if at all, before files are read
        if self.online_probe and y is None:
            raise ValueError(
                "online_probe=True watches labels, but the target y is None. Pass y, with -1 for images "
                "without a label, or online_probe=False."
            )
        warm = self.warm_start and hasattr(self, "encoder_")
        with together():
            images = self._read_images(
                X, reset=not warm, smallest=1 if warm else 2, max_time=self._time(), y=y
            )
            labels, probe = self._loss_labels(y, images), self._make_probe(y, images)
            images = self._readable(images)
            plan = self._plan(len(images), draw_seed(self.random_state), started, warm=warm)
            objective = self._new_objective(images, plan, warm=warm, labels=labels, probe=probe)
            mirror = self._mirror_pays(objective, images, warm)
            history = train(objective, images, plan, cache=self.memory, checkpoint=self.checkpoint_dir)
            self._adopt(objective, history, plan, images)
            self.mirror_ = mirror
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Images, y: object = None) -> Self:
        """Train for one epoch on the images given.

        The learning rate rises over the first ``warmup * max_epochs`` calls and then stays: how many
        calls will follow is not known. The first call decides size and pixel range of the images.

        Parameters
        ----------
        X : array-like
            At least two images, as in fit.
        y : array-like of shape (n,) or None, default=None
            As in fit. Classes are numbered anew in each call.

        Returns
        -------
        SimCLRTransformer
            Itself.
        """
        started = time.perf_counter()
        warm = hasattr(self, "encoder_")
        with together():
            images = self._read_images(X, reset=not warm, smallest=1 if warm else 2, y=y)
            labels, images = self._loss_labels(y, images), self._readable(images)
            if not warm or not hasattr(self, "_seed"):
                self._seed = draw_seed(self.random_state)
            plan = self._plan(len(images), self._seed, started, warm=warm)
            warmup = self.warmup * self.max_epochs
            schedule = partial(warmup_constant, warmup=warmup, done=plan.epochs_before)
            plan = replace(plan, max_epochs=1, max_time=None, schedule=schedule)
            objective = self._new_objective(images, plan, warm=warm, labels=labels)
            mirror = self._mirror_pays(objective, images, warm)
            state = getattr(self, "_optimizer_state", None) if warm else None
            history = train(objective, images, plan, optimizer_state=arrays_to_tensors(state))
            self._adopt(objective, history, plan, images)
            self.mirror_ = mirror
            self._optimizer_state = tensors_to_arrays(history.optimizer)
        return self

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
        output, means = self._check_output(), self._means_dim()
        source = self._read_images(X, reset=False)

        def represent(modules: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
            encoder, projector = modules
            h = encoder(images)
            return h[:, :means] if output == 0 else projector(h, output)

        encoder = self._served_encoder()
        return self._infer(represent, (encoder, self.projector_), source)

    def score(self, X: Images, y: object = None) -> float:
        """Return the contrastive accuracy on views of images, best on images that fit has not seen.

        Each image is augmented twice, always with the same seed. The score is the fraction of the views
        whose most similar projection, among those of up to 256 images, is that of the other view of the
        same image. It needs no labels, and says how well the task was learnt that the encoder was
        trained on; use it to choose between learning rates or batch sizes, not between augmentations,
        which make this task easier or harder.

        Parameters
        ----------
        X : array-like
            At least two images, as for transform.
        y : object, default=None
            Ignored.

        Returns
        -------
        float
            In [0, 1]; about 1 / (2N - 1) for an encoder that tells nothing apart.
        """
        check_is_fitted(self, "encoder_")
        source = self._read_images(X, reset=False).without_bad()
        if len(source) < 2:
            raise ValueError(f"score compares images; pass at least 2 images, got {len(source)} readable.")

        def project(modules: Sequence[nn.Module], images: torch.Tensor) -> torch.Tensor:
            encoder, projector = modules
            return projector(encoder(images))

        encoder = network_of_views(self.encoder_)
        generator = torch.Generator().manual_seed(0)
        hits = 0.0
        parts = np.array_split(np.arange(len(source)), -(-len(source) // _SCORE_PAIRS))
        for part in parts:
            views = drawn_views(self.augmentation_, source.select(part), generator, n_views=2)
            z = self._infer(project, (encoder, self.projector_), views)
            hits += contrastive_accuracy(z) * len(part)
        return hits / len(source)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        loss = LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss
        tags.target_tags.required = callable(loss) and takes_labels(loss)
        return tags

    @property
    def _n_features_out(self) -> int:
        output, means = self._check_output(), self._means_dim()
        return self.projector_.layer_dim(output) if means is None else means

    def _means_dim(self) -> int | None:
        """Return how many numbers of a representation transform returns, or None for all."""
        return self.projector_.read_dim if self.output == "means" else None

    def _served_encoder(self) -> nn.Module:
        """Return the module by which transform represents images."""
        mirror = self.mirror
        if not isinstance(mirror, (bool, np.bool_)) and mirror != "auto":
            raise ValueError(f"mirror must be 'auto', True or False, got {mirror!r}.")
        if mirror == "auto":
            mirror = getattr(self, "mirror_", False)
        return MirroredNetwork(self.encoder_) if mirror else self.encoder_

    def _check_output(self) -> int:
        """Return which layer of the head is the output, 0 for the encoder itself."""
        layers = self.projector_.n_layers
        if self._lacks_head(self.projector_) and self.output not in ("encoder", "means", 0):
            raise ValueError(
                f"output={self.output!r}, but weights={str(self.weights)!r} has no projection head, and none "
                "was trained. Pass output='encoder', or max_epochs of at least 1 to train one."
            )
        if self.output in ("encoder", "means"):
            return 0
        if self.output == "projection":
            return layers
        if not isinstance(self.output, Integral) or not 0 <= self.output <= layers:
            raise ValueError(
                "output must be 'encoder', 'means', 'projection' or a layer of the projection head, 0 to "
                f"{layers}, got {self.output!r}."
            )
        return int(self.output)

    def _make_objective(
        self,
        images: ImageSource,
        plan: Plan,
        *,
        warm: bool = False,
        labels: torch.Tensor | None = None,
        probe: OnlineProbe | None = None,
    ) -> ContrastiveObjective:
        if warm:
            self._check_same_architecture()
            encoder, projector = copy.deepcopy((self.encoder_, self.projector_))
            encoder = compiled_as(self.encoder, encoder)
            given: tuple[str, ...] = ("encoder", "projector")
        else:
            encoder, projector, given = self._build_modules(images)
        if plan.max_epochs > 0 and self._lacks_head(projector):
            projector = self._make_head(encoder, projector.in_dim)
        # Without training, and if mirror images are out of the question, the views need not see the images.
        look = plan.max_epochs > 0 or traits(encoder).mirror_pays
        views = self._views(images, encoder, self.augmentation_ if warm and self.n_iter_ else None, look=look)
        loss = self._make_loss(trained=warm)
        return ContrastiveObjective(
            encoder,
            projector,
            views,
            loss,
            labels=labels,
            small=smaller_views(views, encoder, images.shape) if self.small_views else None,
            n_small=self.small_views,
            chance_level=partial(loss_of_one_point, loss, self.loss, self.queue_size),
            given=given,
            initialize=not warm and self.weights is None,
            queue_size=self.queue_size,
            queue_momentum=self.queue_momentum,
            probe=probe,
        )

    def _adopt(self, objective: Objective, *args: Any, **kwargs: Any) -> None:
        if "averaged" in objective.modules:  # serves the training only
            del objective.modules["averaged"]
        super()._adopt(objective, *args, **kwargs)

    def _mirror_pays(self, objective: Objective, images: ImageSource, warm: bool) -> bool:
        """Return whether the mean over mirror images is a better representation of these images."""
        views = objective.augmentation
        if not isinstance(views, Augmentation) or views.flip_probability == 0:
            return False
        if not traits(objective.modules["encoder"]).mirror_pays:
            return False
        if warm and hasattr(self, "mirror_"):
            return self.mirror_
        given = Augmentation() if self.augmentation is None else self.augmentation
        if given.recipe == "no_up" or is_open(given):
            return True  # if the views had to find out, they have done so
        with setting_up("mirror images", bool(self.verbose)):
            return mirror_images_fit_in(images)

    @property
    def _auto_side(self) -> int:  # type: ignore[override]  # a constant of the class elsewhere
        """Side of the square whose area image files get at most: enough for the network of the weights."""
        if self.weights is None:
            return BaseImageTransformer._auto_side
        preprocessing = load_pretrained(self.weights).preprocessing
        return round(max(preprocessing.sides) / preprocessing.crop_fraction)

    def _build_modules(self, images: ImageSource) -> tuple[nn.Module, ProjectionHead, tuple[str, ...]]:
        """Return encoder, head, and the names of those that begin with weights that the user chose."""
        if self.weights is not None:
            trained = self.max_epochs > 0
            encoder, head = published_modules(self.weights, self.encoder, images.shape, trained=trained)
            return encoder, head, ("encoder", "projector") if head.n_layers else ("encoder",)
        encoder, out_dim = self._build_encoder(images)
        return encoder, self._make_head(encoder, out_dim), self._given("encoder")

    def _make_head(self, encoder: nn.Module, out_dim: int) -> ProjectionHead:
        layers = self.projection_layers
        width = self.projection_dim if layers else out_dim
        return ProjectionHead(out_dim, width, layers, read_dim=traits(encoder).read_dim)

    def _lacks_head(self, projector: ProjectionHead) -> bool:
        """Return whether a file of weights had no head, and training would make one."""
        return self.weights is not None and projector.n_layers == 0 < self.projection_layers

    def _describe_architecture(self) -> dict[str, Any]:
        layers = self.projection_layers
        return {
            **super()._describe_architecture(),
            "weights": None if self.weights is None else str(self.weights),
            "projection_layers": layers,
            "projection_dim": layers and self.projection_dim,
        }

    def _make_loss(self, *, trained: bool = False) -> Callable[..., torch.Tensor]:
        """Return the loss; of a module, a copy, which is that of the trained module on request."""
        if self.queue_size and self.loss != "nt_xent":
            raise ValueError(
                f"queue_size={self.queue_size} needs loss='nt_xent', the only loss that takes negatives of "
                f"earlier batches; got loss={self.loss!r}. Pass loss='nt_xent', or queue_size=0."
            )
        if isinstance(self.loss, str):
            return named_loss(self.loss, self.temperature)
        if isinstance(self.loss, nn.Module):
            return copy.deepcopy(getattr(self, "loss_", self.loss) if trained else self.loss)
        return self.loss

    def _learns_from_labels(self, y: Any) -> bool:
        """Return whether the loss takes labels; raise if there are none."""
        loss = LOSSES[self.loss] if isinstance(self.loss, str) else self.loss
        if not takes_labels(loss):
            return False
        if y is None:
            name = repr(self.loss) if isinstance(self.loss, str) else type(self.loss).__name__
            raise ValueError(
                f"loss={name} learns from labels, but y is None. Pass y to fit, with -1 for images without a "
                "label, or loss='nt_xent'."
            )
        return True

    def _loss_labels(self, y: Any, images: ImageSource) -> torch.Tensor | None:
        """Return the class number of each readable image, -1 for none, if the loss takes labels."""
        return None if y is None or not self._learns_from_labels(y) else _class_numbers(y, images)

    def _make_probe(self, y: Any, images: ImageSource) -> OnlineProbe | None:
        """Return the online probe of the labels of the readable images; None unless asked for."""
        return OnlineProbe(_class_numbers(y, images)) if self.online_probe else None


def _class_numbers(y: Any, images: ImageSource) -> torch.Tensor:
    """Return the class number of each readable image, -1 for none."""
    rows, labels, n = labelled_rows(y)
    numbers = np.full(n, -1, dtype=np.int64)
    numbers[rows] = np.unique(labels, return_inverse=True)[1]
    return torch.from_numpy(np.delete(numbers, images.bad))
