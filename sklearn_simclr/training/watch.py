"""Warnings while an encoder is trained: that it has collapsed, or that its loss does not come down."""

import time

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from .._utils.warn import warn
from ..views.augmentation import Augmentation
from ..views.external import ExternalViews
from ..views.interface import Views

__all__ = ["TrainingWatch", "ViewsWatch", "spread"]

# Views that take at least this share of a training and so many seconds are worth a warning.
_SLOW_VIEWS = 0.3
_SLOW_SECONDS = 1.0

# Steps before which nothing is said: a training may begin badly.
_FIRST_STEPS = 50

# Epochs in a row that must be collapsed, and whose losses are compared with others.
_COLLAPSED_EPOCHS = 2
_LOOKED_AT = 3

# From this part of a training on its loss should not be so far above that of a constant encoder, unless it is
# lower than at the beginning: with short projections or a low temperature a good training begins above it.
_LATE = 1 / 3
_ABOVE_CHANCE = 1.05
_LOWER = 0.95

# At the end the loss should be clearly below that of a constant encoder, or of the first epoch; with other
# temperatures it may be neither, and still many views are found.
_CLEARLY_BELOW = 0.95
_MANY_FOUND = 0.5

# Fewer images teach next to nothing: an encoder tells them apart by whatever comes first.
_FEW_IMAGES = 100

# The share of the gain that may be lost again; the rule holds for gains that are large enough.
_LOST = 0.5
_LEAST_GAIN = 0.2

# Rows with less spread than the first number are one point. Up to the second one, as in bfloat16, they are if
# the other view is also found at most so many times as often as by chance.
_ONE_POINT = 1e-6
_NEARLY_ONE_POINT = 1e-3
_BY_CHANCE = 2.0


def spread(x: torch.Tensor) -> float:
    """Return how different the directions of the rows are.

    Parameters
    ----------
    x : torch.Tensor of shape (n, d)
        Rows; a row of zeros has a direction of its own, that of all such rows.

    Returns
    -------
    float
        One minus the squared length of the mean of the unit rows, half their mean squared distance: 0 if all
        rows point one way, about 1 for random directions.
    """
    x = x.detach().cpu().double()  # in this order: MPS has no float64
    unit = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    zeros = (unit.square().sum(1) < 0.5).double().mean()
    # As if zeros were one more axis.
    return float(1 - unit.mean(0).square().sum() - zeros.square())


class TrainingWatch:
    """Looks at every epoch of a training, and warns once of each thing that goes wrong.

    Parameters
    ----------
    learning_rate : float
        Peak learning rate of the training, for the advice.
    weight_decay : float
        Weight decay, for the advice.
    chance_level : float or None
        Loss of a module that tells nothing apart.
    timed : bool, default=False
        Whether the training was given a time, and not a number of epochs: somebody who asks for a few steps
        knows how few they are.
    """

    def __init__(
        self,
        learning_rate: float,
        weight_decay: float,
        chance_level: float | None = None,
        timed: bool = False,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.chance_level = chance_level
        self.timed = timed
        self.losses: list[float] = []
        self.accuracy = 0.0
        self.steps = 0
        self.collapsed = 0
        self.said: set[str] = set()

    def see_images(self, n_images: int, n_steps: int) -> None:
        """Take note of the images before the training.

        Parameters
        ----------
        n_images : int
            How many there are.
        n_steps : int
            Steps of the training, where it was not given a time.
        """
        if n_images < _FEW_IMAGES and (self.timed or n_steps >= _FIRST_STEPS):
            self._say(
                "images",
                f"X has {n_images} images: from fewer than {_FEW_IMAGES} an encoder learns little that holds "
                "for other images. Pass more images, which need no labels, or start from pretrained weights.",
            )

    def see_loss(self, loss: float, steps: int, fraction: float) -> None:
        """Take note of the mean loss of an epoch.

        Parameters
        ----------
        loss : float
            Finite.
        steps : int
            Steps of the training so far.
        fraction : float
            Part of the training that is done, in [0, 1].
        """
        self.losses.append(loss)
        self.steps = steps
        if steps < _FIRST_STEPS or fraction < _LATE:
            return
        problem = self._too_high() or self._lost()
        if problem:
            self._say(
                "loss",
                f"{problem} Pass a smaller learning_rate than {self.learning_rate:g}"
                + (f", a smaller weight_decay than {self.weight_decay:g}" if self.weight_decay else "")
                + ", or a longer warmup; if the loss hardly moves, a larger learning_rate.",
            )

    def see_views(self, h: torch.Tensor, z: torch.Tensor, accuracy: float, steps: int) -> None:
        """Take note of the last batch of an epoch of contrastive training.

        Parameters
        ----------
        h : torch.Tensor of shape (m, d)
            Representations of views.
        z : torch.Tensor of shape (2N, p)
            Projections, rows i and i + N a pair.
        accuracy : float
            Contrastive accuracy among `z`.
        steps : int
            Steps of the training so far.
        """
        self.accuracy = accuracy
        by_chance = accuracy <= _BY_CHANCE / (len(z) - 1)
        one_point = min(spread(z), spread(h)) < (_NEARLY_ONE_POINT if by_chance else _ONE_POINT)
        self.collapsed = self.collapsed + 1 if one_point else 0
        if self.collapsed >= _COLLAPSED_EPOCHS and steps >= _FIRST_STEPS:
            self._say(
                "collapsed",
                "The encoder has collapsed: it maps every view to one point, and will hardly recover. Pass a "
                f"smaller learning_rate than {self.learning_rate:g}"
                + (f", a smaller weight_decay than {self.weight_decay:g}" if self.weight_decay else "")
                + ", a longer warmup or projection_layers=2. If you pass a loss of your own, make sure that "
                "it pushes the views of different images apart.",
            )

    def see_end(self) -> None:
        """Take note that the training is over."""
        if not self.losses or self.said & {"loss", "collapsed"}:
            return
        if self.steps < _FIRST_STEPS and not self.timed:
            return
        loss, first, chance = self.losses[-1], self.losses[0], self.chance_level
        if not chance or loss < _CLEARLY_BELOW * chance or loss < _LOWER * first:
            return
        if self.accuracy >= _MANY_FOUND:
            return
        self._say(
            "end",
            f"The encoder has learnt next to nothing: after {self.steps} steps the loss is {loss:.3g}; that "
            f"of an encoder that cannot tell images apart is {chance:.3g}. Pass a longer max_time or more "
            "max_epochs; smaller images or a smaller encoder, so that more steps fit into the time; more "
            f"images; or a larger learning_rate than {self.learning_rate:g}.",
        )

    def _too_high(self) -> str | None:
        """Return what is wrong if the loss stays above the chance level and where it began."""
        loss, last = self.losses[-1], self.losses[-_LOOKED_AT:]
        if not self.chance_level or not min(last) > _ABOVE_CHANCE * self.chance_level > 0:
            return None
        if len(self.losses) < 2 * _LOOKED_AT or sum(last) < _LOWER * sum(self.losses[:_LOOKED_AT]):
            return None
        return (
            f"The training is diverging or gets nowhere: the loss of epoch {len(self.losses)} is {loss:.3g}, "
            f"above the {self.chance_level:.3g} of an encoder that cannot tell images apart."
        )

    def _lost(self) -> str | None:
        """Return what is wrong if the loss has gone up again."""
        if len(self.losses) < 2 * _LOOKED_AT:
            return None
        # Means of several epochs are compared: with few images a single loss may be low by chance.
        means = np.convolve(self.losses, np.full(_LOOKED_AT, 1 / _LOOKED_AT), mode="valid")
        loss, first, best = self.losses[-1], self.losses[0], means.min()
        gained = first - best
        if gained <= _LEAST_GAIN * abs(first) or min(self.losses[-_LOOKED_AT:]) - best <= _LOST * gained:
            return None
        return (
            f"The training is diverging: the loss of epoch {len(self.losses)} is {loss:.3g}, but was "
            f"{best:.3g} before."
        )

    def _say(self, what: str, message: str) -> None:
        if what not in self.said:
            self.said.add(what)
            warn(message, ConvergenceWarning)


class ViewsWatch:
    """Warns once if views take much of the time of a training, and says how fast the built-in ones are.

    Parameters
    ----------
    augmentation : Augmentation, ExternalViews or None
        Views of the training.
    """

    def __init__(self, augmentation: Views | None) -> None:
        self.views = augmentation if isinstance(augmentation, ExternalViews) else None
        self.seconds = self.made = 0.0

    def see_epoch(self, images: torch.Tensor, seconds: float) -> None:
        """Take note of an epoch.

        Parameters
        ----------
        images : tensor of shape (n, C, H, W)
            Some of the images.
        seconds : float
            How long it took.
        """
        if self.views is None:
            return
        here, made = self.views.seconds - self.seconds, self.views.n_made - self.made
        self.seconds, self.made = self.views.seconds, self.views.n_made
        if seconds < _SLOW_SECONDS or here < _SLOW_VIEWS * seconds:
            return
        name = type(self.views.transform).__name__
        faster = here / made / _seconds_a_view(images)
        warn(
            f"The views, made by {name}, take {min(1.0, here / seconds):.0%} of the time of the training. "
            f"The built-in Augmentation makes views of these images about {faster:.2g} times as fast; see "
            "its parameters, among them rotation and erasing_probability."
        )
        self.views = None


def _seconds_a_view(images: torch.Tensor) -> float:
    """Return the seconds that the built-in augmentation takes for a view of an image."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # the first call also pays for work that is done only once
        started = time.perf_counter()
        float(Augmentation()(images, generator, n_views=2).sum())  # waits for the device
    return (time.perf_counter() - started) / (2 * len(images))
