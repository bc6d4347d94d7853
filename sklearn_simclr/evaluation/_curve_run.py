"""Run the fits of a label-fraction study: shared steps first, and of a few folds at a time."""

from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import joblib
from sklearn.utils.parallel import Parallel, delayed

from .._utils.progress import progress_bar
from ._curve_plan import Plan
from ._curve_tasks import Fit, Fold, FoldData, Outcome, SharedStep, is_cached, run_fit, run_shared

__all__ = ["FitId", "Study", "run_fits"]

# Number of the fold, number of the plan, and key of the fit.
FitId: TypeAlias = tuple[int, int, str]

# Chains of shared steps that begin with the same step, by their keys; named by (fold, pairwise, first step).
_Unit: TypeAlias = tuple[Any, ...]
_Chains: TypeAlias = dict[tuple[Any, ...], list[SharedStep]]


class Study(NamedTuple):
    """All that the fits of a study have in common.

    Parameters
    ----------
    X : object
        All rows.
    plans : list of Plan
        One for each estimator.
    folds : list of Fold
        Rows of the folds.
    memory : joblib.Memory
        Where to keep outcomes, and outputs of shared steps.
    n_jobs : int or None
        Processes.
    raise_error : bool
        Whether to raise what a fit raises.
    """

    X: Any
    plans: list[Plan]
    folds: list[Fold]
    memory: Any
    n_jobs: int | None
    raise_error: bool


def run_fits(study: Study, fits: dict[FitId, Fit], *, verbose: int) -> dict[FitId, Outcome]:
    """Run the fits, one fold per job at a time: the outputs of shared steps stay in memory.

    Parameters
    ----------
    study : Study
        All that the fits have in common.
    fits : dict of FitId to Fit
        The fits.
    verbose : int
        Whether to show a progress bar.

    Returns
    -------
    dict of FitId to Outcome
        The outcome of each fit.
    """
    plans, folds, memory = study.plans, study.folds, study.memory
    to_load = {at for at, fit in fits.items() if is_cached(memory, fit)}
    needs_data = {
        at for at, fit in fits.items() if at not in to_load or (fit.return_estimator and plans[at[1]].chain)
    }
    units = _units(plans, needs_data)
    outcomes = {}
    n_together = max(1, joblib.effective_n_jobs(study.n_jobs))
    with progress_bar("label fractions", len(units) + len(fits), "fits", shown=bool(verbose)) as bar:
        for start in range(0, len(folds), n_together):
            batch = range(start, min(start + n_together, len(folds)))
            data = _run_units(study, {u: chains for u, chains in units.items() if u[0] in batch}, bar)
            here = [at for at in fits if at[0] in batch]
            for at in here:
                if at in to_load:
                    outcomes[at] = run_fit(fits[at], folds[at[0]], None, memory)
                    bar.update()
            to_fit = [at for at in here if at not in to_load]
            done = Parallel(n_jobs=study.n_jobs, return_as="generator")(
                delayed(run_fit)(fits[at], folds[at[0]], data[at[0], plans[at[1]].chain_key][0], memory)
                for at in to_fit
            )
            for at, outcome in zip(to_fit, done, strict=True):
                outcomes[at] = outcome
                bar.update()
            for at in here:
                if outcomes[at].estimator is not None and plans[at[1]].chain:
                    _, transformers = data[at[0], plans[at[1]].chain_key]
                    names = [step.name for step in plans[at[1]].chain]
                    outcomes[at].estimator.set_params(**dict(zip(names, transformers, strict=True)))
    return outcomes


def _units(plans: list[Plan], needs_data: set[FitId]) -> dict[_Unit, _Chains]:
    """Return the chains of shared steps that have to be run."""
    units: dict[_Unit, _Chains] = {}
    for number, p, _ in sorted(needs_data):
        chain_key = plans[p].chain_key
        units.setdefault((number, *chain_key[:2]), {})[chain_key] = plans[p].chain
    return units


def _run_units(
    study: Study, units: dict[_Unit, _Chains], bar: Any
) -> dict[tuple[int, tuple[Any, ...]], tuple[FoldData, list[Any]]]:
    """Return the outputs of shared steps, and the fitted steps, by fold and key of the chain."""
    # Without shared steps, a worker would only send the rows back as they came.
    local = [unit for unit in units if len(unit) == 2]
    remote = [unit for unit in units if len(unit) > 2]

    def arguments(unit: _Unit) -> tuple[Any, ...]:
        fold, chains = study.folds[unit[0]], list(units[unit].values())
        return study.X, fold, chains, unit[1], study.memory, study.raise_error

    here = (run_shared(*arguments(unit)) for unit in local)
    there = Parallel(n_jobs=study.n_jobs, return_as="generator")(
        delayed(run_shared)(*arguments(unit)) for unit in remote
    )
    data = {}
    for unit, outputs in zip((*local, *remote), chain(here, there), strict=True):
        for chain_key, output in zip(units[unit], outputs, strict=True):
            bare = FoldData(output.train, output.test, [], output.seconds, output.error)
            data[unit[0], chain_key] = bare, output.transformers
        bar.update()
    return data
