r"""Linear equations whose matrix is known by its products alone: GMRES.

After k products the solution is the vector of the Krylov space
:math:`\operatorname{span}\{b, Ab, \dots, A^{k-1} b\}` with the smallest residual
:math:`\|b - Ax\|_2` (Saad and Schultz, *SIAM J. Sci. Stat. Comput.* 7 (1986) 856).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Vectors kept at a time; then the iteration starts anew from the solution so far.
RESTART = 50
#: How often it may start.
CYCLES = 20
#: A cycle that leaves more than this part of the residual will not be followed by a better one.
STAGNATION = 0.5


def gmres(product: Callable[[Tensor], Tensor], right: Tensor, rtol: float) -> tuple[Tensor, float]:
    """Solve ``product(x) = right``.

    Args:
        product: the matrix times a vector.
        right: shape (n,), real and finite.
        rtol: the residual, relative to the right side, at which x is good enough.

    Returns:
        x, shape (n,), and its relative residual.  Where this is larger than rtol, the iteration
        came no further: rounding forbids it, the matrix is singular or nearly so, or it needs a
        larger Krylov space.
    """
    x, residual = torch.zeros_like(right), right
    size = left = float(torch.linalg.vector_norm(right))
    for _ in range(CYCLES):
        if left <= rtol * size:
            break
        tried = x + _cycle(product, residual, rtol * size)
        # The residual itself, and not what the recurrence makes of it: rounding parts the two.
        residual = right - product(tried)
        before, left = left, float(torch.linalg.vector_norm(residual))
        # Written so that a NaN counts as no progress.
        if not left < before:
            left = before
            break
        x = tried
        if left > STAGNATION * before:
            break
    return x, left / size if size else 0.0


def _cycle(product: Callable[[Tensor], Tensor], residual: Tensor, goal: float) -> Tensor:
    """What at most ``RESTART`` products add to the solution."""
    n = len(residual)
    size = float(torch.linalg.vector_norm(residual))
    basis = residual.new_empty(min(RESTART, n) + 1, n)
    basis[0] = residual / size
    # The small problem is solved on the host, in float64.
    hessenberg = torch.zeros(len(basis), len(basis) - 1, dtype=torch.float64)
    start = torch.zeros(len(basis), 1, dtype=torch.float64)
    start[0] = size
    for k in range(1, len(basis)):
        vector, column = _orthogonal(product(basis[k - 1]), basis[:k])
        hessenberg[: k + 1, k - 1] = column.cpu()
        length = float(hessenberg[k, k - 1])
        if not math.isfinite(length):
            return torch.full_like(residual, math.nan)
        matrix, right = hessenberg[: k + 1, :k], start[: k + 1]
        weights = torch.linalg.lstsq(matrix, right).solution
        # A space that the matrix maps into itself has no next vector, and no better solution.
        if length == 0 or float(torch.linalg.vector_norm(matrix @ weights - right)) <= goal:
            break
        basis[k] = vector / length
    return _combined(weights[:, 0].to(basis), basis[:k])


def _orthogonal(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a vector orthogonal to others, and its components with respect to all.

    Gram-Schmidt, twice: once is not orthogonal to rounding.
    """
    first = _components(vector, basis)
    vector = vector - _combined(first, basis)
    second = _components(vector, basis)
    vector = vector - _combined(second, basis)
    return vector, torch.cat([first + second, torch.linalg.vector_norm(vector)[None]])


# No matrix products, which lose digits under autocast and to TF32.
def _components(vector: Tensor, basis: Tensor) -> Tensor:
    return (basis * vector).sum(-1)


def _combined(coefficients: Tensor, basis: Tensor) -> Tensor:
    return (coefficients[:, None] * basis).sum(0)
