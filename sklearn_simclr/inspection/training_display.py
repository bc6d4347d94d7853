"""Draw a training epoch by epoch: loss, contrastive accuracy and effective rank."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..estimators.nested import trained_step
from ._plotting import split_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["TrainingDisplay"]

_LABELS = {
    "loss": "Loss",
    "contrastive_accuracy": "Contrastive accuracy",
    "effective_rank": "Effective rank",
    "accuracy": "Accuracy",
    "learning_rate": "Learning rate",
    "images_per_second": "Images per second",
    "seconds": "Seconds per epoch",
}

# Columns to draw if none are chosen and if they were recorded.
_DEFAULT = ("loss", "contrastive_accuracy", "effective_rank", "accuracy", "validation_accuracy")

# With more epochs, a dot for each would hide the line.
_DOTS = 30


class TrainingDisplay:
    """Draw the history of a training, one panel per number.

    Create the display by :meth:`from_estimator` or :meth:`from_history`.

    Parameters
    ----------
    history : DataFrame
        One row per epoch, with the column ``epoch`` and the columns to draw. With ``chance_level``, the loss
        of an encoder that cannot tell images apart is drawn as well.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One panel per column.
    figure_ : matplotlib Figure
        The figure of these axes.
    lines_ : dict of str to matplotlib Line2D
        The curves by column, including ``chance_level``.

    See Also
    --------
    SimCLRTransformer : Records the history as ``history_``.
    representation_report : Says in words whether the encoder has learnt.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.inspection import TrainingDisplay
    >>> simclr = SimCLRTransformer(max_epochs=3, random_state=0).fit(load_digits().images[:300])
    >>> list(TrainingDisplay.from_estimator(simclr).lines_)
    ['loss', 'chance_level', 'contrastive_accuracy', 'effective_rank']
    """

    def __init__(self, history: "pd.DataFrame") -> None:
        self.history = history

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        columns: Sequence[str] | None = None,
        ax: "Axes | Sequence[Axes] | None" = None,
    ) -> Self:
        """Draw the history of an estimator.

        Parameters
        ----------
        estimator : SimCLRTransformer or another estimator with ``history_``, or a Pipeline with one
            Fitted estimator. A search that contains one works, too.
        columns : list of str, default=None
            As in :meth:`plot`.
        ax : matplotlib Axes or sequence of Axes, default=None
            As in :meth:`plot`.

        Returns
        -------
        TrainingDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        step = trained_step(estimator, f"{cls.__name__}.from_estimator").step
        check_is_fitted(step, "history_")
        return cls.from_history(step.history_, columns=columns, ax=ax)

    @classmethod
    def from_history(
        cls,
        history: "pd.DataFrame",
        *,
        columns: Sequence[str] | None = None,
        ax: "Axes | Sequence[Axes] | None" = None,
    ) -> Self:
        """Draw a history.

        Parameters
        ----------
        history : DataFrame
            The ``history_`` of an estimator, perhaps read from a file.
        columns : list of str, default=None
            As in :meth:`plot`.
        ax : matplotlib Axes or sequence of Axes, default=None
            As in :meth:`plot`.

        Returns
        -------
        TrainingDisplay
            The display, drawn.
        """
        return cls(history).plot(ax, columns=columns)

    def plot(
        self, ax: "Axes | Sequence[Axes] | None" = None, *, columns: Sequence[str] | None = None
    ) -> Self:
        """Draw the panels side by side.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of Axes, default=None
            Axes to draw into: one per column, or one Axes that is divided. None makes a new figure.
        columns : list of str, default=None
            Columns to draw. None is ``loss``, ``contrastive_accuracy``, ``effective_rank``, ``accuracy`` and
            ``validation_accuracy``, as far as they were recorded. ``learning_rate`` and
            ``images_per_second`` are other columns.

        Returns
        -------
        TrainingDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the history is not a DataFrame.
        ValueError
            If a column is missing, or the history has no epochs.
        """
        history, columns = self._check(columns)
        n = len(columns)
        self.axes_ = split_axes(ax, n, (3.6 * n + 0.4, 3.2), f"{type(self).__name__}.plot", spacing=0.32)
        self.figure_ = self.axes_[0].figure
        self.lines_ = {}
        epochs = history["epoch"].to_numpy()
        style = {"linewidth": 1.8, "color": "C0"}
        if len(epochs) <= _DOTS:
            style |= {"marker": "o", "markersize": 4}
        for panel, name in zip(self.axes_, columns, strict=True):
            (self.lines_[name],) = panel.plot(epochs, history[name].to_numpy(), label=_label(name), **style)
            if name == "loss" and "chance_level" in history:
                (self.lines_["chance_level"],) = panel.plot(
                    epochs,
                    history["chance_level"].to_numpy(),
                    label="chance level",
                    color="0.45",
                    linestyle="--",
                    linewidth=1.2,
                    # A line of one point would be invisible.
                    marker="_" if len(epochs) == 1 else None,
                    markersize=12,
                )
                panel.legend(frameon=False, loc="center right" if len(epochs) == 1 else "best")
            self._label_panel(panel, name)
        return self

    def _label_panel(self, panel: "Axes", name: str) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        panel.set_xlabel("Epoch")
        panel.set_ylabel(_label(name))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))
        if name.endswith("accuracy"):
            panel.set_ylim(0, 1.02)
            panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        elif name != "loss":
            panel.set_ylim(0, max(1.08 * panel.dataLim.y1, 1e-12))
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.set_axisbelow(True)

    def _check(self, columns: Sequence[str] | None) -> "tuple[pd.DataFrame, list[str]]":
        history = self.history
        if not hasattr(history, "columns"):
            raise TypeError(
                "history must be a DataFrame with one row per epoch, such as history_ after fit, got "
                f"{type(history).__name__}."
            )
        if columns is None:
            columns = [name for name in _DEFAULT if name in history.columns] or ["loss"]
        elif isinstance(columns, str):
            columns = [columns]
        columns = list(columns)
        if not columns or len(set(columns)) < len(columns):
            raise ValueError(f"columns must name at least one column, and each only once, got {columns}.")
        missing = [name for name in ("epoch", *columns) if name not in history.columns]
        if missing:
            raise ValueError(f"history lacks the columns {missing}; it has {list(history.columns)}.")
        if not len(history):
            raise ValueError("history has no epochs. Fit the estimator with max_epochs > 0.")
        return history, columns


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " ").capitalize())
