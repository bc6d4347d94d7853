"""The path of 45 penalties in linear evaluation: seconds, ours and those of scikit-learn's solvers.

Every solver has a process of its own and goes from the strongest penalty to the weakest, each fit from the
one before it (``warm_start=True``). The solvers take turns at each penalty. A solver of scikit-learn stops
where the largest entry of its gradient is as small as in our solution for the same penalty. A solver whose
fits take longer than the limit is stopped; the ratio is for the penalties that both have finished.

At the full size, 50,000 rows of 2,048 features::

    python examples/benchmarks/logistic.py --limit 3600

In seconds::

    python examples/benchmarks/logistic.py --rows 5000 --features 512 --penalties 9
"""

import argparse
import multiprocessing
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from harness import Row, add_options, describe, measure, settings_of, speed_row
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from sklearn_simclr.training.logistic import LogisticPath

SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")
DTYPES = ("float32", "float64")
RIVALS = tuple(f"{solver} {dtype}" for solver in SOLVERS for dtype in DTYPES)

# Those of LinearEvaluationClassifier.
STRONGEST, WEAKEST = 5, -6
TOL, MAX_ITER = 1e-5, 1000


@dataclass(frozen=True)
class Problem:
    """The size of the features."""

    rows: int
    features: int
    classes: int = 10

    def draw(self):
        """Return features as a ReLU network makes them, and their classes.

        The spectrum of the covariance falls as a power, the columns are correlated, and the classes overlap.
        """
        rng = np.random.default_rng(0)
        rank = max(2, self.features // 2)
        y = rng.integers(0, self.classes, self.rows)
        centers = rng.standard_normal((self.classes, rank), dtype=np.float32)
        spectrum = np.arange(1, rank + 1, dtype=np.float32)[:, None] ** -0.7
        mixing = spectrum * rng.standard_normal((rank, self.features), dtype=np.float32)
        latent = rng.standard_normal((self.rows, rank), dtype=np.float32) + 0.3 * centers[y]
        X = latent @ mixing
        X += 0.1 * rng.standard_normal(X.shape, dtype=np.float32)
        np.maximum(X, 0, out=X)
        X *= 0.5 / X.mean()  # about what the last average pooling of a ResNet gives
        return X, y


class Ours:
    """The path of LinearEvaluationClassifier."""

    def __init__(self, X, y, device):
        self.X, self.y = (torch.from_numpy(array).to(device) for array in (X, y))
        self.path = None

    def fit(self, penalty, tol):
        if self.path is None:
            weights = torch.ones(len(self.X), dtype=torch.float64, device=self.X.device)
            self.path = LogisticPath(
                self.X, self.y, weights, int(self.y.max()) + 1, standardize=False, max_iter=MAX_ITER, tol=TOL
            )
        self.path.fit(penalty)

    def solution(self):
        return tuple(part.cpu().numpy() for part in self.path.coefficients())


class Theirs:
    """LogisticRegression from the last solution."""

    def __init__(self, X, y, solver, dtype):
        self.X, self.y = X.astype(dtype), y
        self.model = LogisticRegression(solver=solver, warm_start=True, max_iter=20_000)

    def fit(self, penalty, tol):
        with warnings.catch_warnings():
            # Rounding may hide the last bit of progress; how far a solver came is measured.
            warnings.simplefilter("ignore")
            self.model.set_params(C=1 / penalty, tol=tol).fit(self.X, self.y)

    def solution(self):
        return self.model.coef_.astype(np.float64), self.model.intercept_.astype(np.float64)


def objective(X, y, coef, intercept, penalty):
    """Return the mean loss with its penalty, and the largest entry of the gradient, in float64."""
    value, gradient = 0.0, np.zeros((len(coef), X.shape[1] + 1))
    for start in range(0, len(X), 2048):
        rows, codes = X[start : start + 2048].astype(np.float64), y[start : start + 2048]
        logits = rows @ coef.T + intercept
        total = logsumexp(logits, axis=1)
        at = np.arange(len(rows)), codes
        value += float((total - logits[at]).sum())
        residual = np.exp(logits - total[:, None])
        residual[at] -= 1
        gradient += residual.T @ np.column_stack([rows, np.ones(len(rows))])
    gradient[:, :-1] += penalty * coef
    return (value + penalty / 2 * float((coef**2).sum())) / len(X), float(np.abs(gradient).max()) / len(X)


def work(name, problem, device, connection):
    """Fit each penalty that comes through the connection; answer with seconds, objective and gradient."""
    X, y = problem.draw()
    solver = Ours(X, y, device) if name == "ours" else Theirs(X, y, *name.split())
    connection.send("ready")
    while True:
        penalty, tol = connection.recv()
        started = time.perf_counter()
        solver.fit(penalty, tol)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        connection.send((seconds, *objective(X, y, *solver.solution(), penalty)))


class Competitor:
    """A solver in a process of its own, that is stopped when its time is over."""

    def __init__(self, name, problem, device, limit):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(name, problem, device, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()
        self.name, self.left = name, limit
        self.seconds, self.values, self.gradients = [], [], []

    def fit(self, penalty, tol):
        """Have the next penalty fitted, if there is time left."""
        if self.process is None:
            return
        self.connection.send((penalty, tol))
        try:
            # Measuring the objective is not charged, but has to be waited for.
            if not self.connection.poll(self.left + 60):
                raise EOFError
            seconds, value, gradient = self.connection.recv()
        except EOFError:  # too slow, or out of memory
            self.stop()
            return
        self.left -= seconds
        self.seconds.append(seconds)
        self.values.append(value)
        self.gradients.append(gradient)
        if self.left <= 0:
            self.stop()

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def compare(problem, n_penalties, rivals, limit, device="cpu"):
    """Return a row for each rival; that of the best rival has the target."""
    penalties = np.logspace(STRONGEST, WEAKEST, n_penalties)
    ours, *theirs = competitors = [Competitor(name, problem, device, limit) for name in ("ours", *rivals)]
    try:
        for penalty in penalties:
            ours.fit(penalty, None)
            if ours.process is None:
                break
            for competitor in theirs:
                competitor.fit(penalty, ours.gradients[-1])
            done = [f"{each.name} {sum(each.seconds):.3g} s" for each in competitors if each.process]
            print(f"to penalty {penalty:.2g}: {', '.join(done)}", flush=True)
    finally:
        for competitor in competitors:
            competitor.stop()
    case = f"{problem.rows:,} x {problem.features:,}, {problem.classes} classes, {n_penalties} penalties"
    finished = [competitor for competitor in theirs if competitor.seconds and ours.seconds]
    best = max(finished, key=lambda each: (len(each.seconds), -sum(each.seconds)), default=None)
    rows = []
    for competitor in theirs:
        n = min(len(competitor.seconds), len(ours.seconds))
        if not n:
            rows.append(Row("penalty path", case, competitor.name, note=f"no penalty in {limit:g} s"))
            continue
        mean = [[sum(each.seconds[:n]) / n] for each in (ours, competitor)]
        excess = np.subtract(competitor.values[:n], ours.values[:n]) / np.array(ours.values[:n])
        note = (
            f"{n} of {n_penalties} penalties; objective {excess.min():+.1e} to {excess.max():+.1e} from ours"
        )
        target = ">= 3" if competitor is best else ""
        rows.append(speed_row("penalty path", case, competitor.name, *mean, target, "fits/s", note))
    return rows


def run(settings):
    """Return the rows of this comparison at its full size, or tiny."""
    if settings.quick:
        return compare(
            Problem(200, 20, 3), 3, ("lbfgs float32", "newton-cholesky float64"), 60, settings.device
        )
    return compare(Problem(50_000, 2048), 45, RIVALS, 3600, settings.device)


def main(arguments=None):
    """Run the comparison from the command line and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--penalties", type=int, default=45, help="how many from 1e5 to 1e-6")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=RIVALS, metavar="RIVAL",
                        help="solvers of scikit-learn: " + ", ".join(RIVALS))  # fmt: skip
    parser.add_argument("--limit", type=float, default=3600, help="seconds of fits for each solver")
    options = parser.parse_args(arguments)
    settings = settings_of(options)
    if settings.quick:
        rows = measure(run, settings)
    else:
        problem = Problem(options.rows, options.features, options.classes)
        rows = compare(problem, options.penalties, options.rivals, options.limit, settings.device)
    print(*describe(rows), sep="\n")


if __name__ == "__main__":
    main()
