"""Updates of Muon: matrices of the same singular vectors, with all singular values near 1."""

import math
from collections import defaultdict

import torch
from torch import Tensor

__all__ = ["orthogonalize_each", "orthogonalize_together"]

# The quintic whose iterates take singular values in (0, 1] close to 1, and how often it is applied.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 3

# Added to the norm of a matrix before it is divided by it.
_EPS = 1e-7


def orthogonalize_each(
    ahead: list[Tensor], parameters: list[Tensor], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return updates of parameters, computed one by one."""
    updates = []
    for tensor, parameter in zip(ahead, parameters, strict=True):
        matrix = tensor.flatten(1)
        tall = matrix.shape[0] > matrix.shape[1]
        u = ((matrix.T if tall else matrix) / (matrix.norm() + _EPS)).to(dtype or matrix.dtype)
        u = _newton_schulz(u).to(matrix.dtype)
        updates.append((u.T * _stretch(parameter) if tall else u).reshape(parameter.shape))
    return updates


def orthogonalize_together(
    ahead: list[Tensor], parameters: list[Tensor], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return updates of parameters; matrices of one shape, upright or not, are computed together."""
    alike = defaultdict(list)
    for k, parameter in enumerate(parameters):
        alike[tuple(sorted((len(parameter), parameter[0].numel())))].append(k)
    order = [k for members in alike.values() for k in members]
    norms = torch.stack(torch._foreach_norm([ahead[k] for k in order])).add_(_EPS)
    updates: dict[int, Tensor] = {}
    start = 0
    for members in alike.values():
        matrices = [_wide(_as_matrix(ahead[k], parameters[k])) for k in members]
        u = torch.stack(matrices) if len(matrices) > 1 else matrices[0][None]
        u = (u / norms[start : start + len(members), None, None]).to(dtype or u.dtype)
        u = _newton_schulz(u).to(norms.dtype)
        updates |= {k: _as_parameter(x, parameters[k]) for k, x in zip(members, u, strict=True)}
        start += len(members)
    found, stretches = [updates[k] for k in range(len(updates))], [_stretch(p) for p in parameters]
    if max(stretches) > 1:
        torch._foreach_mul_(found, stretches)
    return found


def _newton_schulz(u: Tensor) -> Tensor:
    """Return wide matrices (..., r, c) of the same singular vectors, with all singular values near 1."""
    a, b, c = _QUINTIC
    add_product = torch.addmm if u.ndim == 2 else torch.baddbmm
    for _ in range(_QUINTIC_STEPS):
        gram = u @ u.mT
        u = add_product(u, add_product(gram, gram, gram, beta=b, alpha=c), u, beta=a)
    return u


def _stretch(matrix: Tensor) -> float:
    """Return what an orthogonal update of a matrix is multiplied by: tall ones have fewer directions."""
    return math.sqrt(max(1.0, matrix.shape[0] / matrix[0].numel()))


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _is_dense(parameter: Tensor) -> bool:
    """Return whether the rows of a parameter, as a matrix, follow one another in memory."""
    return parameter.is_contiguous() or (
        parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )


def _as_matrix(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor as a matrix whose columns have the order of the parameter's memory: no copy of it."""
    if not _is_dense(parameter):
        return tensor.flatten(1)
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    n = tensor[0].numel()
    return tensor.as_strided((len(tensor), n), (n, 1))


def _as_parameter(u: Tensor, parameter: Tensor) -> Tensor:
    """Return a wide matrix as an update, laid out in memory as the parameter is."""
    u = (u.T if len(parameter) > parameter[0].numel() else u).contiguous()
    if not _is_dense(parameter):
        return u.view(parameter.shape)
    return u.as_strided(parameter.shape, parameter.stride(), u.storage_offset())
