"""Has a fitted encoder learnt anything? Numbers, pictures and plain words."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._utils.atomic_write import replacing
from .._utils.labels import labelled_rows
from .._utils.types import Images, Labels, PathLike, RandomState
from ..estimators.nested import trained_step
from ..estimators.untrained import untrained_modules
from ..images.indexing import length_mismatch, row_blocks
from ..images.source import ImageSource
from ..training.forecast import predict_loss
from ._course import course_of, steps_of
from ._findings import Finding, judge
from ._measures import Measures, measure_neighbours, measure_views
from ._plotting import check_count, random_numbers, require_matplotlib
from ._report_page import report_page, report_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Finding", "RepresentationReport", "representation_report"]

# Networks with random weights to compare with: a single one may be lucky.
_TWINS = 2

_PANELS = 6

_MEANINGS = {
    "loss": "contrastive loss; chance: an encoder that cannot tell images apart",
    "contrastive_accuracy": "how often the most similar view is the other view of the same image",
    "alignment": "squared distance of two views of an image, 0 to 4: low is good if uniformity is low, too",
    "uniformity": "how evenly the images spread: 0 is one point, -4 is random in many dimensions",
    "rankme": "directions that the representations use",
    "knn_accuracy": "how often the nearest labelled images vote for the class of an image",
    "knn_accuracy_pixels": "the same with raw pixels",
    "predicted_training_loss": "training loss predicted for 2x the epochs",
}


def representation_report(
    estimator: Any,
    X: Images,
    y: Labels | None = None,
    *,
    n_images: int = 1000,
    n_neighbors: int = 20,
    random_state: RandomState = 0,
) -> RepresentationReport:
    """Report whether a fitted encoder has learnt anything.

    Parameters
    ----------
    estimator : estimator
        Fitted :class:`SimCLRTransformer`, :class:`SimCLRClassifier`, :class:`SupervisedTransformer` or
        another estimator of this package with an encoder; or a Pipeline, ColumnTransformer, FeatureUnion,
        search or FrozenEstimator that contains one.
    X : array-like
        At least two images in the form of those for fit, if possible images that fit has not seen.
    y : array-like of shape (n,), default=None
        Classes of the images; -1, None and NaN mark images without a label. A few dozen labels are enough.
    n_images : int, default=1000
        Maximum number of images to examine, and of labelled images to compare. They are drawn at random.
    n_neighbors : int, default=20
        Maximum number of neighbours that vote on the class of an image.
    random_state : int, RandomState or None, default=0
        Seed of the choice of images, of their views and of the weights of the untrained networks.

    Returns
    -------
    report : RepresentationReport
        The report, which can be printed, shown in a notebook, written as HTML or drawn.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator has no encoder.
    ValueError
        If the estimator has several encoders, X cannot be read as images or has fewer than two images, or
        `y` has another length or no label.

    See Also
    --------
    sklearn_simclr.inspection : Has functions for the single numbers.
    SimilarityDisplay : Draws similarities of the views of a few images.
    TrainingDisplay : Draws the history of a training.

    Notes
    -----
    Each image is augmented twice, as in training. The contrastive numbers compare the projections of these
    views, among up to 256 images at a time. The projections are computed as in ``transform``, with the stored
    statistics of BatchNorm, so that the loss differs from the loss in training. If an estimator has no
    projection head, the representations are compared, with NT-Xent at temperature 0.2. The same numbers are
    measured for two networks of the same kind with random weights: even random weights tell some images
    apart, and training has to do better. For this comparison, an encoder that was passed as a module has its
    layers reset, as far as they have a method ``reset_parameters``.

    The vote of the neighbours leaves each labelled image out in turn, and weighs neighbours by cosine
    similarity with temperature 0.07. The accuracy is too high if the encoder was trained on these labels.

    References
    ----------
    .. [1] Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity
           on the hypersphere", ICML 2020. :arxiv:`2005.10242`
    .. [2] Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised
           representations by their rank", ICML 2023. :arxiv:`2210.02885`
    .. [3] Jing, Vincent, LeCun and Tian, "Understanding dimensional collapse in contrastive self-supervised
           learning", ICLR 2022, section 3. :arxiv:`2110.09348`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.inspection import representation_report
    >>> X = load_digits().images[:300]
    >>> simclr = SimCLRTransformer(max_epochs=0, random_state=0).fit(X)
    >>> representation_report(simclr, X).verdict
    'untrained'
    """
    check_count("n_images", n_images, smallest=2)
    check_count("n_neighbors", n_neighbors)
    step, before, *_ = trained_step(estimator, "representation_report")
    check_is_fitted(step, "encoder_")
    for transformer in before:
        X = transformer.transform(X)
    source = step._read_images(X, reset=False)
    labels = _labels(y, len(source))
    good = np.setdiff1d(np.arange(len(source)), source.bad)
    if len(good) < 2:
        raise ValueError(
            f"X has {len(good)} readable image{'s' if len(good) != 1 else ''}. representation_report "
            "compares images with each other; pass at least 2 images."
        )
    rng = random_numbers(random_state)
    seeds = rng.randint(2**31 - 1, size=_TWINS + 1)
    chosen = source.select(_draw(good, n_images, rng))
    if _all_equal(chosen):
        raise ValueError(
            f"The {len(chosen)} images of X are all equal: no encoder can tell them apart. Check how X was "
            "made."
        )
    twins = [untrained_modules(step, chosen, int(seed)) for seed in seeds[1:]]
    own = [step.encoder_] + ([step.projector_] if hasattr(step, "projector_") else [])
    (trained, *untrained), n_pairs, chance = measure_views(step, [own, *twins], chosen, int(seeds[0]))
    neighbours = None
    if labels is not None:
        known, codes = labels
        read = np.isin(known, good)
        known, codes = known[read], codes[read]
        # A lone image of a class has no neighbour of that class.
        kept = np.bincount(codes)[codes] > 1
        known, codes = known[kept], np.unique(codes[kept], return_inverse=True)[1]
        rows = _draw(np.arange(len(known)), n_images, rng)
        known, codes = known[rows], codes[rows]
        if len(np.unique(codes)) > 1:
            encoders = [twin[0] for twin in twins]
            neighbours = measure_neighbours(
                step, step.encoder_, encoders, source.select(known), codes, n_neighbors
            )
    measures = Measures(
        n_images=len(chosen),
        n_pairs=n_pairs,
        has_head=len(own) > 1,
        chance_loss=chance,
        trained=trained,
        untrained=untrained,
        neighbours=neighbours,
    )
    history = getattr(step, "history_", None)
    return RepresentationReport(
        type(step).__name__,
        measures,
        history if history is not None and len(history) else None,
        steps=steps_of(step),
        by_labels=hasattr(step, "classes_") or not getattr(step, "_by_views", True),
        useless_labels=labels is not None and neighbours is None,
    )


class RepresentationReport:
    """Findings about an encoder, returned by `representation_report`.

    Parameters
    ----------
    name : str
        Name of the estimator.
    measures : Measures
        Measurements of the encoder and of untrained networks.
    history : DataFrame or None
        History of the training, one row per epoch.
    steps : int, default=0
        Number of training steps, at least approximately.
    by_labels : bool, default=False
        Whether the encoder was trained on labels.
    useless_labels : bool, default=False
        Whether labels were passed, but fewer than two of each of two classes.

    Attributes
    ----------
    verdict : {"collapsed", "untrained", "undertrained", "trained"}
        ``"collapsed"``: all views have almost the same representation. ``"untrained"``: not better than
        random weights. ``"undertrained"``: better than random weights, and more epochs are predicted to help.
        ``"trained"``: none of these.
    findings : list of Finding
        Findings with ``level`` ("good", "note" or "problem"), ``title`` and ``advice``. The first one
        explains the verdict; the others follow, the worst first.
    values : dict of str to float
        The numbers of the encoder: loss, contrastive_accuracy, alignment, uniformity, rankme; with labels
        also knn_accuracy and knn_accuracy_pixels; predicted_training_loss if it can be predicted.
    prediction : LossPrediction or None
        Predicted loss after twice the epochs. None after fewer than 6 epochs, or if the encoder has
        collapsed.
    spectrum : ndarray of shape (min(n, d),)
        Singular values of the centred representations, the largest first.
    n_images : int
        Number of images examined.

    See Also
    --------
    representation_report : Makes the report.
    TrainingDisplay : Draws the loss of each epoch.
    SimilarityDisplay : Draws the cosines of pairs of views.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.inspection import representation_report
    >>> X, y = load_digits(return_X_y=True)
    >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(X)
    >>> report = representation_report(simclr, X[:200], y[:200])
    >>> report.verdict
    'undertrained'
    >>> list(report.to_frame().columns)
    ['value', 'untrained', 'chance', 'meaning']
    """

    def __init__(
        self,
        name: str,
        measures: Measures,
        history: pd.DataFrame | None = None,
        *,
        steps: int = 0,
        by_labels: bool = False,
        useless_labels: bool = False,
    ) -> None:
        self.name = name
        self.measures = measures
        self.history = history
        self.steps = steps
        self.by_labels = by_labels
        self.n_images = measures.n_images
        self.spectrum = measures.trained.spectrum
        self.prediction = None
        if history is not None:
            with contextlib.suppress(ValueError):  # raised for too few epochs
                self.prediction = predict_loss(history)
        course = course_of(history, measures.chance_loss, steps=steps, by_labels=by_labels)
        self.verdict, self.findings = judge(measures, course, self.prediction, useless_labels=useless_labels)
        if self.verdict == "collapsed":
            self.prediction = None
        self._table = self._compute_table()
        self.values = {measure: row[0] for measure, row in self._table.items()}

    def to_frame(self) -> pd.DataFrame:
        """Return the numbers as a table.

        Returns
        -------
        DataFrame
            One row per number, with the columns ``value``, ``untrained`` (mean of networks with random
            weights), ``chance`` (by guessing, or of an encoder that cannot tell images apart) and
            ``meaning``. NaN means that there is no such number.
        """
        import pandas as pd

        rows = [(*row, self._meaning(measure)) for measure, row in self._table.items()]
        columns = ["value", "untrained", "chance", "meaning"]
        return pd.DataFrame(rows, columns=columns, index=pd.Index(self._table, name="measure"))

    def to_html(self, path: PathLike | None = None) -> str | None:
        """Return the report as a page of HTML that needs no other file.

        Parameters
        ----------
        path : str or os.PathLike, default=None
            File to write the page to; None returns the page. A file or link at this path is replaced when the
            page is complete.

        Returns
        -------
        str or None
            The page, or None if the page was written. If matplotlib is not installed, the page has no
            pictures.

        Raises
        ------
        TypeError
            If `path` is not a path.
        OSError
            If the file cannot be written. An older file is then unchanged.
        """
        page = report_page(self._title(), self.findings, self._rows(), self._picture(), whole=True)
        if path is None:
            return page
        with replacing(path) as unfinished:
            Path(unfinished).write_text(page, encoding="utf-8")
        return None

    def plot(self, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
        """Draw the report.

        Parameters
        ----------
        axes : sequence of six matplotlib Axes, default=None
            Axes to draw into; None makes a new figure.

        Returns
        -------
        ndarray of six matplotlib Axes
            Panels with similarities of views by random weights, the same by this encoder, the contrastive
            accuracy, the loss, the spectrum, and the accuracy of neighbours.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `axes` does not have six Axes.
        """
        plt = require_matplotlib(f"{type(self).__name__}.plot")
        from ._report_figure import FIGURE_SIZE, draw_report

        if axes is None:
            axes = plt.subplots(2, 3, figsize=FIGURE_SIZE, layout="constrained")[1]
        panels = np.asarray(axes, dtype=object).ravel()
        if len(panels) != _PANELS:
            raise ValueError(
                f"axes holds {len(panels)} Axes, but {_PANELS} panels are to be drawn. Pass {_PANELS} Axes, "
                "or None for a new figure."
            )
        draw_report(panels, self.measures, self.history, self.prediction)
        return panels

    def __str__(self) -> str:
        """Return the report as text."""
        return report_text(self._title(), self.findings, self._rows())

    def __repr__(self) -> str:
        """Say which report it is."""
        return f"<RepresentationReport of {self.name}: {self.verdict}>"

    def _repr_html_(self) -> str:
        return report_page(self._title(), self.findings, self._rows(), self._picture(), whole=False)

    def _title(self) -> str:
        return f"Has {self.name} learnt anything? {self.verdict.capitalize()}."

    def _compute_table(self) -> dict[str, tuple[float, float, float]]:
        measures, trained = self.measures, self.measures.trained

        def untrained(name: str) -> float:
            return float(np.mean([getattr(twin, name) for twin in measures.untrained]))

        table = {
            "loss": (trained.loss, untrained("loss"), measures.chance_loss),
            "contrastive_accuracy": (trained.accuracy, untrained("accuracy"), measures.chance_accuracy),
            "alignment": (trained.alignment, untrained("alignment"), math.nan),
            "uniformity": (trained.uniformity, untrained("uniformity"), 0.0),
            "rankme": (trained.rank, untrained("rank"), 1.0),
        }
        votes = measures.neighbours
        if votes is not None:
            table["knn_accuracy"] = (votes.encoder, votes.untrained, votes.guess)
            table["knn_accuracy_pixels"] = (votes.pixels, math.nan, votes.guess)
        if self.prediction is not None:
            table["predicted_training_loss"] = (self.prediction.predicted, math.nan, math.nan)
        return table

    def _meaning(self, measure: str) -> str:
        if measure == "rankme":
            return f"{_MEANINGS[measure]}, of {self.measures.trained.n_dimensions}"
        return _MEANINGS[measure]

    def _rows(self) -> list[tuple[str, ...]]:
        def cell(number: float) -> str:
            return "" if math.isnan(number) else f"{round(number, 9) + 0.0:.3g}"

        rows = self._table.items()
        return [(name.replace("_", " "), *map(cell, row), self._meaning(name)) for name, row in rows]

    def _picture(self) -> bytes | None:
        """Return the figure as PNG without touching figures of the user; None without matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return None
        from ._report_figure import FIGURE_SIZE

        figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
        self.plot(figure.subplots(2, 3))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def _labels(y: Labels | None, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the labelled rows and their class numbers; None without y."""
    if y is None:
        return None
    rows, labels, n_y = labelled_rows(y)
    if n_y != n:
        raise ValueError(length_mismatch(n, n_y))
    return rows, np.unique(labels, return_inverse=True)[1]


def _all_equal(source: ImageSource) -> bool:
    """Return whether there is only one image, perhaps repeated."""
    first = source.take(slice(0, 1))
    return all(
        bool((source.take(rows) == first).all())
        for rows in row_blocks(len(source), source.nbytes // len(source))
    )


def _draw(rows: np.ndarray, size: int, rng: np.random.RandomState) -> np.ndarray:
    return rows if len(rows) <= size else np.sort(rng.permutation(rows)[:size])
