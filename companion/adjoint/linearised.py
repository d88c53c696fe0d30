"""A vector field near a state: its Jacobian, and linear equations with it and its transpose."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from companion.adjoint.gmres import gmres
from companion.ode.field import Field
from companion.ode.jacobian import RealSpace, jacobian
from companion.ode.newton import LARGEST
from companion.ode.solution import Stats

#: The Jacobian of a state with at most this many real entries is a matrix at once.
DENSE = 512
#: Condition numbers from this part of 1 / eps on leave a solution no two digits.
SINGULAR = 1e-2
#: Products with a power of a matrix that estimate its spectral radius.
POWER = 8


class SingularJacobian(ArithmeticError):
    """Linear equations with a Jacobian have no solution, many, or none to be trusted."""


class Linearised:
    """``field(t, y)`` near one state.

    A small Jacobian is computed and factorised.  Of a large one only products are computed, for
    GMRES, at one backward pass through f each; where GMRES does not converge, it is made a matrix
    after all if it fits.

    Args:
        field: the vector field.
        space: where a state is a vector.
        t: time.
        x: the state as a vector, shape (n,).
        unit: what to measure its entries in, shape (n,), positive: GMRES minimises a norm, which
            must not depend on the user's choice of units.
        stats: where Jacobians and factorisations are counted.
    """

    def __init__(
        self, field: Field, space: RealSpace, t: float, x: Tensor, unit: Tensor, stats: Stats
    ) -> None:
        self._field, self._space, self._t, self._x = field, space, t, x
        self._unit, self._stats = unit, stats
        #: The LU factorisation and its pivots, once there is one.
        self.factors: tuple[Tensor, Tensor] | None = None
        self._graph: tuple[Tensor, Tensor] | None = None

    def solve(self, right: Tensor) -> Tensor:
        """Solve ``J x = right``.

        Raises:
            SingularJacobian: if J is singular, or nearly so.
        """
        unit = self._unit
        return self._solve(lambda v: self._push(v * unit) / unit, right, unit, transposed=False)

    def solve_transposed(self, right: Tensor) -> Tensor:
        """The same with the transpose of J."""
        unit = self._unit
        return self._solve(lambda v: self._pull(v / unit) * unit, right, 1 / unit, transposed=True)

    def _solve(
        self,
        product: Callable[[Tensor], Tensor],
        right: Tensor,
        unit: Tensor,
        *,
        transposed: bool,
    ) -> Tensor:
        """Args: the matrix in units, the right side, its units."""
        if self.factors is None and self._space.n > DENSE:
            eps = torch.finfo(right.dtype).eps
            # Rounding may forbid the first accuracy, and then the second will do.
            x, residual = gmres(product, right / unit, eps**0.75)
            if residual <= eps**0.5:
                return x * unit
        if self.factors is None:
            self._factorise()
        lu, pivots = self.factors
        return torch.linalg.lu_solve(lu, pivots, right[:, None], adjoint=transposed)[:, 0]

    def _factorise(self) -> None:
        n, size = self._space.n, torch.finfo(self._space.dtype).bits // 8
        if n**2 * size > LARGEST:
            raise SingularJacobian(
                f"GMRES does not converge, and the Jacobian, a matrix of {n} x {n}, is too large "
                "to be factorised"
            )
        self._stats.jacobians += 1
        self._stats.factorisations += 1
        matrix = jacobian(self._field, self._space, self._t, self._x)
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        if not condition(matrix, lu, pivots) <= SINGULAR / torch.finfo(matrix.dtype).eps:
            raise SingularJacobian("the Jacobian df/dy is singular")
        self.factors = lu, pivots

    def _linear(self) -> tuple[Tensor, Tensor]:
        """The state, and the value of f with its graph."""
        if self._graph is None:
            # A solve in inference mode needs derivatives nevertheless.
            with torch.inference_mode(False), torch.enable_grad():
                x = self._x.detach().clone().requires_grad_()
                value = self._space.pack(self._field(self._t, self._space.unpack(x)))
            self._graph = x, value
        return self._graph

    def _pull(self, cotangent: Tensor, *, twice: bool = False) -> Tensor:
        x, value = self._linear()
        if not value.requires_grad:
            return torch.zeros_like(x)
        (product,) = torch.autograd.grad(
            value, x, cotangent, retain_graph=True, create_graph=twice, materialize_grads=True
        )
        return product

    def _push(self, tangent: Tensor) -> Tensor:
        """J times a vector: the derivative of the transposed product, which is linear."""
        with torch.inference_mode(False), torch.enable_grad():
            origin = torch.zeros_like(tangent, requires_grad=True)
            pulled = self._pull(origin, twice=True)
            if not pulled.requires_grad:
                return torch.zeros_like(tangent)
            (product,) = torch.autograd.grad(pulled, origin, tangent, materialize_grads=True)
        return product


def condition(matrix: Tensor, lu: Tensor, pivots: Tensor) -> float:
    r"""The smallest condition number that a scaling of rows and columns can give a matrix.

    It is the spectral radius of :math:`|A^{-1}|\,|A|` (Bauer, *Numer. Math.* 5 (1963) 73), and so
    does not depend on units: those of entries of the state, or slow rates beside fast ones, make
    no matrix singular.  Estimated from above by ``POWER`` products.

    Args:
        matrix: A, shape (n, n).
        lu, pivots: its factorisation.
    """
    n = len(matrix)
    identity = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    inverse = torch.linalg.lu_solve(lu, pivots, identity).abs()
    matrix = matrix.abs()
    vector, logarithm = matrix.new_ones(n), matrix.new_zeros(())
    for _ in range(POWER if n else 0):
        # No matrix products, which lose digits and range under autocast.
        vector = (inverse * (matrix * vector).sum(-1)).sum(-1)
        largest = vector.max()
        vector, logarithm = vector / largest, logarithm + largest.log()
    return math.exp(float(logarithm) / POWER)
