"""Multinomial logistic regression along a path of l2 penalties: L-BFGS with a Newton-like preconditioner.

Write f(V, b) = sum_i s_i (log sum_k exp z_ik - z_iy) / S + alpha / 2 |V|^2 with z = V (x - mean) / scale + b,
S = sum_i s_i. Three things make the whole path cost little more than one fit from nothing:

- the first guess of the inverse Hessian in L-BFGS is not a multiple of the identity but the inverse of
  sum_i c_i x_i x_i' + alpha I, c_i = s_i (1 - sum_k p_ik^2) / (K - 1) / S, the same for every class. At V = 0
  and equal priors that is the Hessian itself, so that the first step is a Newton step. The penalty stays
  isotropic: only the metric of the search changes;
- each penalty starts where the previous ones lead to, linearly in log alpha, and the first is come to from a
  strong one;
- the curvature pairs of L-BFGS are carried over: a change of alpha changes the Hessian by a known multiple of
  the identity, so that y becomes y + (alpha' - alpha) s.

Products with the rows are in the dtype of the rows, block by block; sums over blocks and everything else are
in float64.
"""

import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch.nn import functional as F

from .._utils.devices import by_kind

__all__ = ["LogisticPath"]

# Entries of the rows in a block: 8 MB in float32, which stay in the cache between the two products.
_CPU_BLOCK = 2**21
_GPU_BLOCK = 2**26

_MEMORY = 10
_Pair: TypeAlias = tuple[
    torch.Tensor, torch.Tensor, float
]  # a step, the change of the gradient over it, 1 / their product

_ARMIJO = 1e-4
_SHORTEST = 1e-6

# Tolerance for penalties that are only on the way to the wanted one.
_COARSE_TOL = 1e-3


class LogisticPath:
    """Softmax regression of one data set for one penalty after another.

    Parameters
    ----------
    X : tensor of shape (n, d)
        float32 or float64, on the device to compute on; neither copied nor changed.
    codes : tensor of shape (n,)
        Classes 0..K-1, int64.
    weights : tensor of shape (n,)
        float64, >= 0; rows of weight 0 count for nothing.
    n_classes : int
        K >= 2, each with a row of positive weight.
    standardize : bool
        Whether the penalty is on the coefficients of features of unit variance.
    max_iter : int
        Iterations for each penalty.
    tol : float
        Relative suboptimality at which a penalty is done.
    least_scale : float, default=0
        Least spread that a feature is divided by, as a part of the root mean square of all spreads.
    """

    def __init__(
        self,
        X: torch.Tensor,
        codes: torch.Tensor,
        weights: torch.Tensor,
        n_classes: int,
        *,
        standardize: bool,
        max_iter: int,
        tol: float,
        least_scale: float = 0.0,
    ) -> None:
        self.total = float(weights.sum())
        self.codes, self.weights, self.n_classes = codes, weights / self.total, n_classes
        self.max_iter, self.tol = max_iter, tol
        self.mean, self.scale = self._moments(X, standardize, least_scale)
        self.basis = None
        if len(X) < X.shape[1]:
            # The optimum lies in the span of the rows: an orthonormal basis of it keeps the penalty as it is
            # and leaves as many features as rows.
            rows = (X.double() - self.mean) / self.scale
            self.basis, triangle = torch.linalg.qr(rows.T)
            X = triangle.T.to(X.dtype).contiguous()
            self._offset, self._scale = X.new_zeros(len(X), dtype=torch.float64), None
        else:
            self._offset, self._scale = self.mean, self.scale if standardize else None
        self.X = X
        width = X.shape[1]
        # After so many evaluations a new preconditioner, 2 n d^2 operations, has cost no more than they did,
        # 4 n d K; below some 25 classes the time of a product no longer falls with their number.
        self._patience = max(5, width // (2 * max(n_classes, 25)))
        self._gram_age = 0
        self._pairs: list[_Pair] = []
        self._pairs_alpha = 0.0
        self._previous: tuple[torch.Tensor, float] | None = None
        priors = torch.zeros(n_classes, dtype=torch.float64, device=X.device)
        priors = priors.index_add_(0, codes, self.weights).log()
        self.theta = torch.zeros(n_classes, width + 1, dtype=torch.float64, device=X.device)
        self.theta[:, -1] = priors - priors.mean()
        self._alpha: float | None = None
        self._value = 0.0
        self.n_evaluations = 0
        self._gradient_at_zero = self._evaluate(self.theta, 0.0)[1]

    def _blocks(self, X: torch.Tensor, factor: int = 1, all_rows: bool = False) -> Iterator[slice]:
        """Yield slices of the rows, without the blocks whose rows all have weight 0."""
        size = by_kind(X.device, cpu=_CPU_BLOCK, accelerator=_GPU_BLOCK)
        step = max(1, factor * size // max(X.shape[1], self.n_classes))
        for start in range(0, len(X), step):
            block = slice(start, start + step)
            if all_rows or self.weights[block].any():
                yield block

    def _moments(
        self, X: torch.Tensor, standardize: bool, least_scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = torch.zeros(X.shape[1], dtype=torch.float64, device=X.device)
        for block in self._blocks(X):
            first += self.weights[block] @ X[block].double()
        second = torch.zeros_like(first)
        if not standardize:
            return first, torch.ones_like(first)
        for block in self._blocks(X):
            second += self.weights[block] @ (X[block].double() - first).square()
        # Rounding gives a constant feature a variance that is no spread.
        rounding = max(10 * torch.finfo(X.dtype).eps, len(X) * torch.finfo(torch.float64).eps)
        constant = second.sqrt() <= rounding * first.abs()
        least = least_scale * float(second.mean().sqrt())
        return first, second.sqrt().masked_fill(constant, 1.0).clamp(min=least)

    def _linear(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the coefficients and intercepts that apply to the rows as they are."""
        coef = theta[:, :-1] if self._scale is None else theta[:, :-1] / self._scale
        return coef, theta[:, -1] - coef @ self._offset

    def coefficients(self, theta: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coefficients (K, d) and intercepts (K,) for rows of X as they were given."""
        theta = self.theta if theta is None else theta
        coef = theta[:, :-1] if self.basis is None else theta[:, :-1] @ self.basis.T
        coef = coef / self.scale
        return coef, theta[:, -1] - coef @ self.mean

    def _evaluate(self, theta: torch.Tensor, alpha: float) -> tuple[float, torch.Tensor]:
        """Return the objective and its gradient."""
        self.n_evaluations += 1
        coef, intercept = (part.to(self.X.dtype) for part in self._linear(theta))
        value = 0.0
        gradient = torch.zeros_like(theta)
        for block in self._blocks(self.X):
            rows, code = self.X[block], self.codes[block, None]
            weight = self.weights[block, None]
            # Without the row's own class in the sum, a loss of 1e-9 keeps its digits, which log-sum-exp minus
            # the class's logit would lose. With many classes each pass over z counts: these are as few as
            # there can be.
            z = F.linear(rows, coef, intercept)
            top = z.amax(1, keepdim=True)
            above = top - z.gather(1, code)
            odds = z.sub_(top).exp_().scatter_(1, code, 0.0)
            rest = odds.sum(1, keepdim=True)
            total = torch.exp(-above) + rest
            loss = above + torch.where(above > 0, torch.log(total), torch.log1p(rest))
            value += float(torch.sum(loss.double() * weight))
            factor = weight.to(z.dtype) / total
            residual = odds.mul_(factor).scatter_(1, code, -rest * factor)
            gradient[:, :-1] += residual.T @ rows
            gradient[:, -1] += residual.sum(0)
        gradient[:, :-1] -= gradient[:, -1:] * self._offset
        if self._scale is not None:
            gradient[:, :-1] /= self._scale
        gradient[:, :-1] += alpha * theta[:, :-1]
        return value + _penalty(theta, alpha), gradient

    def _curvature(self, theta: torch.Tensor) -> torch.Tensor:
        """Sum over the rows of c_i (x_i, 1) (x_i, 1)', the mean of the classes' blocks of the Hessian."""
        coef, intercept = (part.to(self.X.dtype) for part in self._linear(theta))
        width = self.X.shape[1]
        gram = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=self.X.device)
        for block in self._blocks(self.X, factor=4):
            rows = self.X[block]
            p = torch.softmax(F.linear(rows, coef, intercept), 1)
            c = (p * (1 - p)).sum(1).double() * self.weights[block] / (self.n_classes - 1)
            rows = rows - self._offset.to(rows.dtype)
            if self._scale is not None:
                rows /= self._scale.to(rows.dtype)
            cross = c @ rows.double()
            rows *= c.sqrt().to(rows.dtype)[:, None]
            gram[:-1, :-1] += rows.T @ rows
            gram[:-1, -1] += cross
            gram[-1, :-1] += cross
            gram[-1, -1] += c.sum()
        return gram

    def _renew(self, theta: torch.Tensor) -> None:
        """Take the curvature at this point for the preconditioner from now on."""
        self._gram, self._gram_at = self._curvature(theta), theta
        self._gram_age, self._pairs = 0, []

    def _factor(self, alpha: float) -> torch.Tensor:
        """Return the Cholesky factor of the preconditioner."""
        matrix = self._gram.clone()
        diagonal = matrix.diagonal()
        diagonal[:-1] += alpha
        # The curvature of a float32 product is not positive definite below its rounding.
        jitter = torch.finfo(self.X.dtype).eps * float(diagonal.mean()) * 0.01
        for _ in range(20):
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                return factor
            diagonal += jitter
            jitter *= 10
        return torch.diag(diagonal.clamp(min=jitter).sqrt())

    def _start(self, alpha: float) -> tuple[torch.Tensor, float, torch.Tensor]:
        """Return the point to begin at, with the objective and gradient there."""
        if self._previous is None or self._alpha is None or self._previous[1] == self._alpha:
            return self.theta, *self._evaluate(self.theta, alpha)
        before, alpha_before = self._previous
        stride = math.log(alpha / self._alpha) / math.log(self._alpha / alpha_before)
        guess = self.theta + min(stride, 1.0) * (self.theta - before)
        value, gradient = self._evaluate(guess, alpha)
        if value <= self._value + _penalty(self.theta, alpha) - _penalty(self.theta, self._alpha):
            return guess, value, gradient
        return self.theta, *self._evaluate(self.theta, alpha)

    def fit(self, penalty: float) -> bool:
        """Minimise for ``penalty / 2 |V|^2`` beside the weighted sum of the losses.

        Parameters
        ----------
        penalty : float
            > 0; a path goes from large to small.

        Returns
        -------
        bool
            Whether the optimum was reached to the tolerance; `theta` holds the result in any case.
        """
        alpha = penalty / self.total
        if self._alpha is None:
            # The path begins at a penalty that outweighs all curvature, where one Newton step is enough, and
            # goes on by factors of ten: far from the optimum of a weak penalty the curvature at hand says
            # little about the curvature there.
            self._renew(self.theta)
            strong = float(self._gram.trace())
            for decade in range(int(math.log10(max(strong / alpha, 1))), 0, -1):
                self._minimise(alpha * 10.0**decade, max(self.tol, _COARSE_TOL))
        return self._minimise(alpha, self.tol)

    def _minimise(self, alpha: float, tol: float) -> bool:
        if self._gram_age > self._patience:
            self._renew(self.theta)
        factor = self._factor(alpha)
        change = alpha - self._pairs_alpha if self._pairs else 0.0
        moved = [_pair(s, y + change * _without_intercept(s)) for s, y, _ in self._pairs]
        self._pairs = [pair for pair in moved if pair is not None]
        self._pairs_alpha = alpha
        theta, value, gradient = self._start(alpha)
        if self._alpha is not None:
            self._previous = self.theta, self._alpha
        noise = 2 * torch.finfo(self.X.dtype).eps
        converged = False
        for _ in range(self.max_iter):
            step = self._direction(gradient, factor)
            # Twice the gain that the quadratic model of the objective promises.
            promise = -float((step * gradient).sum())
            if promise <= 2 * tol * self._unit_of_tolerance(theta, value, alpha):
                converged = True
                break
            length = 1.0
            while length > _SHORTEST:
                candidate = theta + length * step
                new_value, new_gradient = self._evaluate(candidate, alpha)
                self._gram_age += 1
                if new_value <= value - _ARMIJO * length * promise + noise * value:
                    break
                length *= 0.3
            else:
                if promise <= 100 * noise * value:
                    converged = True
                    break
                if self._gram_at is theta:
                    break
                self._renew(theta)
                factor = self._factor(alpha)
                continue
            pair = _pair(candidate - theta, new_gradient - gradient)
            if pair is not None:
                self._pairs = [*self._pairs, pair][-_MEMORY:]
            theta, value, gradient = candidate, new_value, new_gradient
            if self._gram_age > 2 * self._patience:
                self._renew(theta)
                factor = self._factor(alpha)
        self.theta, self._alpha, self._value = theta, alpha, value
        return converged

    def _direction(self, gradient: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return minus the approximate inverse Hessian times the gradient, by the two loops of L-BFGS."""
        q, projections = gradient.clone(), []
        for s, y, rho in reversed(self._pairs):
            projections.append(rho * (s * q).sum())
            q -= projections[-1] * y
        q = torch.cholesky_solve(q.T, factor).T
        for (s, y, rho), projection in zip(self._pairs, reversed(projections), strict=True):
            q += (projection - rho * (y * q).sum()) * s
        return -q

    def _unit_of_tolerance(self, theta: torch.Tensor, value: float, alpha: float) -> float:
        """Return the scale of the suboptimality at which to stop.

        Strong convexity bounds the error of V by alpha / 2 |V - V*|^2 <= f - f*: relative to the penalty, tol
        is the squared relative error of V. Where the penalty hardly counts, a hundredth of the loss takes its
        place; and never more than what leaving V = 0 has gained, which is little if the penalty is strong.
        """
        gained = -0.5 * float((self._gradient_at_zero[:, :-1] * theta[:, :-1]).sum())
        penalty = _penalty(theta, alpha)
        return min(max(gained, penalty), max(0.01 * value, penalty))


def _penalty(theta: torch.Tensor, alpha: float) -> float:
    return 0.5 * alpha * float(theta[:, :-1].square().sum())


def _without_intercept(theta: torch.Tensor) -> torch.Tensor:
    theta = theta.clone()
    theta[:, -1] = 0
    return theta


def _pair(s: torch.Tensor, y: torch.Tensor) -> _Pair | None:
    """Return a step, the change of the gradient, and 1 / s'y; None if rounding hides the curvature."""
    curvature = float((s * y).sum())
    if not curvature > 1e-10 * math.sqrt(float(s.square().sum()) * float(y.square().sum())):
        return None
    return s, y, 1 / curvature
