"""Explain numbers about an encoder in plain words."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ..training.forecast import LossPrediction
from ._course import Course

if TYPE_CHECKING:
    from ._measures import Measures, Neighbours

__all__ = ["Finding", "judge"]

Verdict: TypeAlias = Literal["collapsed", "untrained", "undertrained", "trained"]

# The thresholds were chosen by hand, between the numbers of networks whose state is known:
# examples/benchmarks/thresholds.py writes these numbers beside the verdicts.

# Below the first spread all views count as one point. Below the second one they do if the other view of an
# image is found at most _BY_CHANCE times as often as by guessing.
_ONE_POINT = 1e-6
_NEARLY_ONE_POINT = 1e-3
_BY_CHANCE = 2.0

# An encoder that is no better than an untrained one has collapsed, too, if the spread of its representations
# is below this share of an untrained network's. Networks trained only to pull views together are far below.
# The spread of projections would not do: it shrinks in the first steps of any training.
_SHRUNK = 0.05

# Margins from which an encoder counts as better than an untrained one: in loss, as a share of the chance
# level; in contrastive accuracy, absolute and in standard errors; in votes of neighbours, in standard errors.
_BETTER_LOSS = 0.02
_BETTER_ACCURACY = 0.02
_BETTER_ERRORS = 2.0
_BETTER_VOTES = 2.0

# A loss stood still if it moved by less than this share of its first value over at least so many epochs.
_STILL_EPOCHS = 5
_STILL = 0.05

# Predicted gain from twice the epochs, as a share of the gain so far: much, and something.
_MUCH = 0.15
_SOMETHING = 0.04

# Fewer steps and epochs than the first two are too few to learn anything; _MANY_STEPS are enough even if
# there is no loss curve to judge by.
_FEW_STEPS = 300
_FEW_EPOCHS = 20
_MANY_STEPS = 1000

# Share of the directions below which a representation is narrow; accuracy from which the task is solved.
_NARROW = 0.05
_SOLVED = 0.98

# With fewer images all numbers are rough; with fewer than the second number directions cannot be counted.
_FEW_IMAGES = 100
_FEWEST_FOR_DIRECTIONS = 20

_LEVELS = ("problem", "note", "good")


@dataclass(frozen=True)
class Finding:
    """One finding of a report.

    Parameters
    ----------
    level : {"good", "note", "problem"}
        Severity of the finding.
    title : str
        Short description.
    advice : str
        Explanation, and what to do.

    See Also
    --------
    sklearn_simclr.RepresentationReport : Lists findings.

    Examples
    --------
    >>> from sklearn_simclr.inspection import Finding
    >>> print(Finding("note", "few images", "Pass more."))
    note: few images. Pass more.
    """

    level: str
    title: str
    advice: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.level}: {self.title}. {self.advice}"


def judge(
    measures: "Measures", course: Course, prediction: LossPrediction | None, *, useless_labels: bool
) -> tuple[Verdict, list[Finding]]:
    """Judge an encoder.

    Parameters
    ----------
    measures : Measures
        Numbers of the encoder and of untrained ones.
    course : Course
        Course of the training of the encoder.
    prediction : LossPrediction or None
        For twice the epochs.
    useless_labels : bool
        Whether labels were given, but not two of each of two classes.

    Returns
    -------
    verdict : {"collapsed", "untrained", "undertrained", "trained"}
        The first that applies.
    findings : list of Finding
        The verdict's, then the others, the worst first.
    """
    verdict, first = _verdict(measures, course, prediction)
    more = []
    if verdict == "trained" and prediction is not None:
        more.append(_outlook(prediction, course))
    if verdict == "trained" and measures.trained.accuracy >= _SOLVED:
        more.append(_solved(measures))
    if verdict in ("trained", "undertrained") and measures.n_images >= _FEWEST_FOR_DIRECTIONS:
        more.append(_on_directions(measures))
    if _diverged(course) and verdict in ("trained", "undertrained"):
        more.append(
            Finding(
                "problem",
                "the loss ended above that of an encoder that cannot tell images apart",
                "The training diverged. Lower learning_rate, or raise warmup.",
            )
        )
    if measures.neighbours is not None and verdict != "collapsed":
        more.append(_on_neighbours(measures.neighbours, course))
    if useless_labels:
        more.append(
            Finding(
                "note",
                "the labels say nothing about neighbours",
                "At least two classes need two or more labelled images each. Pass more labels.",
            )
        )
    if not measures.has_head:
        more.append(
            Finding(
                "note",
                "there is no projection head",
                "The contrastive numbers are computed from the representations. Projections, which are "
                "trained for the contrastive task, would do better.",
            )
        )
    if measures.n_images < _FEW_IMAGES:
        more.append(
            Finding(
                "note",
                f"only {measures.n_images} images were used",
                "All numbers are rough, and the contrastive task is easier among few images. Pass more "
                "images.",
            )
        )
    return verdict, [first, *sorted(more, key=lambda finding: _LEVELS.index(finding.level))]


def _verdict(
    measures: "Measures", course: Course, prediction: LossPrediction | None
) -> tuple[Verdict, Finding]:
    trained = measures.trained
    found = _found(measures)
    by_chance = trained.accuracy <= _BY_CHANCE * measures.chance_accuracy
    limit = _NEARLY_ONE_POINT if by_chance else _ONE_POINT
    if min(trained.spread, trained.spread_representations) < limit:
        if trained.spread_representations < limit:
            return _collapsed("every view maps to one point", "The encoder cannot tell images apart.")
        return _collapsed("every projection is one point", "The projections cannot tell images apart.")
    if not _is_better(measures, course):
        shrunk = _shrunk(measures) if course.epochs > 0 else None
        if shrunk is not None:
            title = (
                f"all images lie {1 / max(shrunk, 1e-9):,.0f} times as close together as with random weights"
            )
            return _collapsed(title, found)
        return _no_better(course, found)
    epochs, steps = course.epochs, course.steps
    trained_for = _epochs(course)
    # By the better end of the range: a short curve leaves much open.
    much = _SOMETHING if steps < _FEW_STEPS else _MUCH
    if prediction is not None and prediction.loss - prediction.low > much * _gained(course):
        return "undertrained", Finding(
            "note",
            f"still learning after {trained_for}: 2x the epochs is predicted to help",
            f"{found} {_sentence(prediction)} Raise max_epochs or max_time.",
        )
    falling = steps < _MANY_STEPS or course.last_fall > _SOMETHING * _gained(course)
    if prediction is None and epochs > 0 and falling:
        return "undertrained", Finding(
            "note",
            f"hardly begun to learn after {trained_for} ({steps} steps)",
            f"{found} The training is too short to predict anything from its loss"
            + ("" if course.by_labels else "; on a small data set SimCLR takes a hundred epochs or more")
            + ". Raise max_epochs or max_time.",
        )
    return "trained", Finding("good", "the encoder has learnt to tell images apart", found)


def _collapsed(title: str, found: str) -> tuple[Verdict, Finding]:
    return "collapsed", Finding(
        "problem",
        f"collapsed: {title}",
        f"{found} Lower learning_rate or weight_decay, raise warmup, use projection_layers=2, and fit again. "
        "If you pass a loss of your own, make sure that it pushes views of different images apart.",
    )


def _shrunk(measures: "Measures") -> float | None:
    """Return the spread as a share of that of untrained networks; None unless the share is small."""
    before = min(twin.spread_representations for twin in measures.untrained)
    part = measures.trained.spread_representations / max(before, _ONE_POINT)
    return part if part < _SHRUNK else None


def _no_better(course: Course, found: str) -> tuple[Verdict, Finding]:
    """Return the verdict on an encoder that is no better than an untrained one."""
    if course.epochs == 0:
        return "untrained", Finding(
            "problem",
            "untrained: the encoder is no better than one with random weights",
            f"{found} Fit the estimator with max_epochs > 0.",
        )
    no_better = f"{found} The encoder is not clearly better than random weights."
    epochs, steps = course.epochs, course.steps
    if epochs >= _STILL_EPOCHS and course.moved < _STILL:
        return "untrained", Finding(
            "problem",
            f"learnt nothing in {_epochs(course)}: the loss stood still",
            f"{no_better} Raise learning_rate.",
        )
    if _diverged(course):
        return "untrained", Finding(
            "problem",
            f"learnt nothing in {_epochs(course)}: the training diverged",
            f"{no_better} The loss ended above that of an encoder that cannot tell images apart. Lower "
            "learning_rate or weight_decay, or raise warmup.",
        )
    counted = f"{steps} step{'' if steps == 1 else 's'}"
    if steps < _FEW_STEPS and epochs < _FEW_EPOCHS:
        return "undertrained", Finding(
            "problem",
            f"hardly begun to learn: {_epochs(course)} of training, only {counted}",
            f"{no_better} Raise max_epochs or max_time, or lower batch_size for more steps per epoch.",
        )
    more = (
        "Raise max_epochs or max_time, or lower batch_size for more steps per epoch. "
        if steps < _FEW_STEPS
        else ""
    )
    return "untrained", Finding(
        "problem",
        f"learnt nothing in {_epochs(course)}" + (f", which are {counted}" if more else ""),
        f"{no_better} {more}Lower learning_rate if the loss went up and down. Draw the views with "
        "AugmentationDisplay: if you cannot tell which two show the same image, weaken the augmentation.",
    )


def _diverged(course: Course) -> bool:
    # In the first steps of a training the loss may be anywhere.
    return course.ended_high and course.steps >= 50


def _is_better(measures: "Measures", course: Course) -> bool:
    trained, twins = measures.trained, measures.untrained
    accuracy = max(twin.accuracy for twin in twins)
    between = (trained.accuracy + accuracy) / 2
    error = np.sqrt(between * (1 - between) / measures.n_images)
    gain = trained.accuracy - accuracy
    if gain > max(_BETTER_ACCURACY, _BETTER_ERRORS * error):
        return True
    # Random weights can have a higher loss than a single point: coming closer to a point is no merit.
    if measures.chance_loss > 0 and gain > -_BETTER_ERRORS * error and not _diverged(course):
        margin = _BETTER_LOSS * measures.chance_loss
        if trained.loss < min(measures.chance_loss, *(twin.loss for twin in twins)) - margin:
            return True
    votes = measures.neighbours
    return votes is not None and votes.encoder > votes.untrained + _BETTER_VOTES * votes.error


def _found(measures: "Measures") -> str:
    untrained = np.mean([twin.accuracy for twin in measures.untrained])
    return (
        f"Shown a view, the encoder finds the other view of the same image among {2 * measures.n_pairs - 1} "
        f"in {measures.trained.accuracy:.0%} of cases; with random weights, in {untrained:.0%}; by guessing, "
        f"in {measures.chance_accuracy:.1%}."
    )


def _epochs(course: Course) -> str:
    return f"{course.epochs} epoch{'s' if course.epochs != 1 else ''}"


def _gained(course: Course) -> float:
    return max(course.start - course.end, 1e-12)


def _sentence(prediction: LossPrediction) -> str:
    return str(prediction)[0].upper() + str(prediction)[1:] + "."


def _outlook(prediction: LossPrediction, course: Course) -> Finding:
    more = "The loss does not tell whether a classifier gains, too: test that before you train longer."
    if prediction.gain > _SOMETHING * _gained(course):
        title = "2x the epochs is predicted to help a little"
        return Finding("note", title, _said(prediction, more))
    return Finding(
        "good",
        "nearly done: 2x the epochs is predicted to change little",
        _said(prediction, "A larger encoder or more images would help more."),
    )


def _said(prediction: LossPrediction, more: str) -> str:
    return f"{_sentence(prediction)} {more}"


def _on_directions(measures: "Measures") -> Finding:
    trained = measures.trained
    possible = min(trained.n_dimensions, measures.n_images)
    used = f"the representations use about {trained.rank:.0f} of {possible} directions"
    before = np.mean([twin.rank for twin in measures.untrained])
    if trained.rank < _NARROW * possible or trained.rank < before / 2:
        return Finding(
            "note",
            f"dimensional collapse: {used}",
            f"With random weights about {before:.0f} are used. A classifier has little to choose from. Use a "
            "lower temperature.",
        )
    return Finding("good", used, f"With random weights about {before:.0f} are used.")


def _solved(measures: "Measures") -> Finding:
    return Finding(
        "note",
        "the contrastive task is solved",
        f"The encoder finds the other view in {measures.trained.accuracy:.1%} of cases: the views teach "
        "nothing more. Use a stronger augmentation or a larger batch_size.",
    )


def _on_neighbours(votes: "Neighbours", course: Course) -> Finding:
    numbers = (
        f"The {votes.n_neighbors} nearest of {votes.n_labels} labelled images vote for the right class in "
        f"{votes.encoder:.1%} of cases; with random weights, in {votes.untrained:.1%}; with raw pixels, in "
        f"{votes.pixels:.1%}. Always guessing the most frequent class is right in {votes.guess:.1%}."
    )
    if course.by_labels:
        numbers += (
            " The encoder was trained on labels: if y holds the same ones, the first number is too high."
        )
    gap = _BETTER_VOTES * votes.error
    if votes.encoder < max(votes.pixels, votes.untrained) - gap:
        better = "raw pixels" if votes.pixels >= votes.untrained else "random weights"
        return Finding("problem", f"{better} tell the classes apart better", numbers)
    if votes.encoder > max(votes.pixels, votes.untrained) + gap:
        return Finding("good", "neighbours share a class more often than with raw pixels", numbers)
    return Finding("note", "neighbours share a class about as often as with raw pixels", numbers)
