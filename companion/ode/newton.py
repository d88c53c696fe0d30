r"""Newton's method for the stages of implicit Runge-Kutta methods.

The stages that depend on each other solve

.. math:: F(z) = z - h\, (A \otimes I)\, f(t + c h,\; Y_0 + z) = 0,

with the increments :math:`z_i = Y_i - Y_{0,i}` as unknowns: where f is stiff, they are small
and suffer less from rounding than the :math:`Y_i` themselves, and than the rates
(Hairer and Wanner, *Solving Ordinary Differential Equations II*, section IV.8, here HW).
The *simplified* Newton method keeps one Jacobian J, taken at the beginning of a step or earlier,

.. math:: (I - h\, A \otimes J)\, \Delta z^k = -F(z^k), \qquad z^{k+1} = z^k + \Delta z^k,

so that a factorisation serves all iterations and stages, and many steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion.ode.control import PID
from companion.ode.field import Leaves
from companion.ode.jacobian import RealSpace, jacobian
from companion.ode.method import Method
from companion.ode.norm import Allowance
from companion.ode.read_back import all_finite, is_differentiated, read_back
from companion.ode.solution import Stats
from companion.ode.step import VectorField

Matrix = tuple[tuple[float, ...], ...]

#: Where the step size follows the error: how small a part of the tolerance the error of the
#: iteration must be, so that it does not disturb the error estimate (HW: 0.1 to 0.01).
KAPPA = 0.05
#: With fixed steps the iteration error is what rtol and atol are for.
KAPPA_FIXED = 1e-3
#: Contraction worse than this asks for a new Jacobian in the next step.
SLOW = 0.05
#: A factorisation serves step sizes that differ by less than this factor.
NEAR = 1.2
#: The largest matrix to be factorised, in bytes.
LARGEST = 2**29


class NewtonFailure(Exception):
    """Newton's method does not converge: the step is too large, or f is not finite."""


class Entry(NamedTuple):
    """What Newton's method went into a step with, besides the Jacobian.

    Attributes:
        rate: theta / (1 - theta) with the rate of convergence theta seen last.
        stale: whether the Jacobian is to be renewed.
        fresh: whether it is of the beginning of this step.
        made_for: by coupling matrix, the step size its factorisation was made for.
    """

    rate: float
    stale: bool
    fresh: bool
    made_for: dict[Matrix, float]


class Factors(NamedTuple):
    """An LU factorisation as `torch.linalg.lu_factor` gives it."""

    lu: Tensor
    pivots: Tensor

    def solve(self, right: Tensor) -> Tensor:
        """Apply the inverse to a tensor with as many entries as rows."""
        solved = torch.linalg.lu_solve(self.lu, self.pivots, right.reshape(-1, 1))
        return solved.reshape(right.shape)


class StageEquations:
    """The equations F(z) = 0 of m coupled stages, in constants.

    Args:
        field: ``field(t, leaves)``.
        space: where a state of n entries is a vector.
        matrix: A, the coefficients that couple the stages, m rows of m.
        h: step size.
        times: of the m stages.
        base: what the increments are added to, shape (m, n).

    Attributes:
        integrands: whether the field returns more leaves than the state has.
        pushed: whether f depends on something that carries a forward-mode tangent; None before
            it was evaluated.
    """

    def __init__(
        self,
        field: VectorField,
        space: RealSpace,
        matrix: Matrix,
        h: float,
        times: Sequence[float],
        base: Tensor,
    ) -> None:
        self.field = field
        self.space = space
        self.matrix = matrix
        self.h = h
        self._weights = tuple(tuple(h * a for a in row) for row in matrix)
        self.times = times
        self.base = base
        self.integrands = False
        self.pushed: bool | None = None

    def residual(self, z: Tensor) -> Tensor:
        """F(z), shape (m, n)."""
        rates = []
        for t, x in zip(self.times, self.base + z, strict=True):
            leaves = self.space.unpack(x)
            value = self.field(t, leaves)
            self.integrands = len(value) > len(leaves)
            rates.append(self.space.pack(value))
        if self.pushed is None:
            self.pushed = any(map(is_differentiated, rates))
        return z - mix(self._weights, [rate.detach() for rate in rates])

    def jacobians(self, z: Tensor) -> list[Tensor]:
        """The Jacobian of the field at each stage."""
        return [
            jacobian(self.field, self.space, t, x)
            for t, x in zip(self.times, self.base + z, strict=True)
        ]


def mix(matrix: Matrix, vectors: Sequence[Tensor]) -> Tensor:
    """The matrix applied to a list of vectors: row i is the sum of ``a_ij`` times vector j.

    The weights stay on the host, and no matrix product could lose digits to TF32.
    """
    rows = []
    for weights in matrix:
        row = vectors[0] * weights[0]
        for weight, vector in zip(weights[1:], vectors[1:], strict=True):
            row = torch.add(row, vector, alpha=weight)
        rows.append(row)
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


class Newton:
    """Solves for stages, and remembers from step to step what that took.

    The Jacobian is kept while the iteration converges well, factorisations while, in addition,
    the step size hardly changes.  An iteration is stopped when the error that it leaves, as
    estimated from its rate of convergence, is a small part of the tolerances in the norm of the
    error control (HW (8.10)); each costs one read-back from the device.

    With fixed steps there is no smaller step to fall back upon, and an iteration that fails is
    repeated by the full Newton method, with a new Jacobian at every stage and iterate.

    Args:
        method: tolerances, norm and the number of iterations allowed.
        stats: where Jacobians and factorisations are counted.

    Attributes:
        entry: of the last step that was tried.
    """

    def __init__(self, method: Method, stats: Stats) -> None:
        self.method = method
        self.stats = stats
        self.entry: Entry | None = None
        self._entries: Iterator[Entry] = iter(())
        self._adapts = isinstance(method.control, PID)
        self._kappa = KAPPA if self._adapts else KAPPA_FIXED
        self._limit = method.max_iterations
        self._jacobian: Tensor | None = None
        #: By coupling matrix: the factorisation, and the step size it was made for.
        self._factors: dict[Matrix, tuple[Factors, float]] = {}
        #: theta / (1 - theta) with the rate of convergence theta seen last.
        self._eta = 1.0
        self._stale = True
        self._fresh = False
        self._start: tuple[VectorField, float, Leaves] | None = None

    def begin(self, field: VectorField, t: float, y: Leaves) -> RealSpace:
        """Go to the beginning of a step, or again to the same one with another step size."""
        start = self._start
        if start is None:
            self.space = RealSpace(y)
        if start is None or start[1] != t or start[2] is not y:
            self._fresh = False
            self._units = self._per_tolerance(y)
        self._start = (field, t, y)
        again = next(self._entries, None)
        if again is not None:
            self._enter(again)
        made_for = {matrix: h for matrix, (_, h) in self._factors.items()}
        self.entry = Entry(self._eta, self._stale, self._fresh, made_for)
        return self.space

    def repeat(self, jacobian: Tensor | None, entries: Iterable[Entry]) -> None:
        """Go into the next steps as it went into them before.

        Args:
            jacobian: what was known before the first of these steps.
            entries: one for every step.
        """
        self._jacobian, self._entries = jacobian, iter(entries)
        self._factors.clear()

    @property
    def jacobian(self) -> Tensor | None:
        return self._jacobian

    @torch.no_grad()
    def _enter(self, entry: Entry) -> None:
        if entry.fresh and not self._fresh:
            # It was renewed for a step that was rejected.
            self._renew()
        self._eta, self._stale, self._fresh = entry.rate, entry.stale, entry.fresh
        factors = {}
        for matrix, h in entry.made_for.items():
            known = self._factors.get(matrix)
            if known is None or known[1] != h:
                known = self._factorised(matrix, h, [self._jacobian] * len(matrix)), h
            factors[matrix] = known
        self._factors = factors

    def solve(self, equations: StageEquations, z: Tensor) -> Tensor:
        """The solution of the equations, from the guess z.

        Raises:
            NewtonFailure: if the iteration diverges, is too slow, or leaves the finite numbers.
            ValueError: if the matrix of the equations is too large to be stored.
        """
        self._require_small(len(equations.matrix))
        while True:
            if self._stale and not self._fresh:
                self._renew()
            try:
                return self._iterate(equations, z)
            except NewtonFailure:
                if self._fresh and self._adapts:
                    raise
                self._stale = True
                # It may be the guess that is bad: where f is stiff, rates before may be anything.
                z = torch.zeros_like(z)
                if self._fresh:
                    return self._iterate(equations, z, full=True)

    def _iterate(self, equations: StageEquations, z: Tensor, full: bool = False) -> Tensor:
        """The solution by the simplified or the full Newton method."""
        size = rounding = math.nan
        off = 0.0
        for left in reversed(range(self._limit)):
            if full:
                change = self.exact(equations, z).solve(equations.residual(z))
            else:
                factors, relaxation = self._frozen(equations.matrix, equations.h)
                off = abs(1 - relaxation)
                change = factors.solve(equations.residual(z)) * relaxation
            z = z - change
            last, first = size, math.isnan(size)
            if first:
                size, rounding = self._measure(change, equations.base + z)
                # The last rate stands in for one that is not known yet (HW, after (8.10)).
                # It is no better than the step size of the factors allows, and where f has become
                # another it may be bad: a change larger than the tolerances asks for a second one.
                self._eta **= 0.8
                rate, eta = 0.0, max(self._eta, off / (1 - off), self._kappa)
            else:
                (size,) = self._measure(change)
                rate = size / last
                eta = rate / (1 - rate) if rate < 1 else math.inf
            if not math.isfinite(size):
                raise NewtonFailure(self._not_finite())
            if size <= rounding:
                # The rate may be that of rounding errors: only a good one is a lesson.
                self._eta = min(self._eta, eta)
                return z
            if eta * size <= self._kappa:
                if not first:
                    self._eta = eta
                if rate > SLOW and not full:
                    self._improve(equations.matrix, equations.h)
                return z
            if full or first:
                continue
            if rate >= 1:
                raise NewtonFailure("Newton's method diverges")
            if rate**left * eta * size > self._kappa:
                break
        raise NewtonFailure(f"Newton's method needs more than {self._limit} iterations")

    def _not_finite(self) -> str:
        """Why an iterate has no size in units of the tolerances."""
        if all(map(all_finite, self._units)):
            return "a value of f, or an iterate, is not finite"
        return "where the state is zero rtol allows no error, and atol is zero: make atol larger"

    def filtered(self, equations: StageEquations, error: Tensor) -> Tensor:
        r"""The error estimate times :math:`(I - h \gamma J)^{-1}`."""
        factors, _ = self._frozen(equations.matrix, equations.h)
        return factors.solve(error)

    def exact(self, equations: StageEquations, z: Tensor) -> Factors:
        """The derivative of F at z, factorised."""
        self.stats.jacobians += len(equations.matrix)
        return self._factorised(equations.matrix, equations.h, equations.jacobians(z))

    def _frozen(self, matrix: Matrix, h: float) -> tuple[Factors, float]:
        """A factorisation for about this step size, and by what to multiply its solutions.

        With r the ratio of the step sizes, the inverse is off by the factor r in the stiff
        components and by 1 in the others; 2 / (1 + r) balances the two, as in CVODE: the error
        falls by abs(r - 1) / (r + 1) at most.
        """
        if matrix in self._factors:
            factors, made_for = self._factors[matrix]
            ratio = h / made_for
            if 1 / NEAR < ratio < NEAR:
                return factors, 2 / (1 + ratio)
        factors = self._factorised(matrix, h, [self._jacobian] * len(matrix))
        self._factors[matrix] = factors, h
        return factors, 1.0

    def _improve(self, matrix: Matrix, h: float) -> None:
        """Converge better next time: by the right step size first, then by a new Jacobian."""
        if self._factors[matrix][1] == h:
            self._stale = True
        else:
            del self._factors[matrix]

    def _factorised(self, matrix: Matrix, h: float, jacobians: Sequence[Tensor]) -> Factors:
        """The LU factorisation of the matrix of blocks ``(i == j) I - h a_ij J_j``."""
        self.stats.factorisations += 1
        rows = [
            torch.cat([(-h * a) * j for a, j in zip(row, jacobians, strict=True)], 1)
            for row in matrix
        ]
        system = torch.cat(rows)
        system.diagonal().add_(1)
        # Where it is singular, the solution is not finite, which is noticed without a check here.
        lu, pivots, _ = torch.linalg.lu_factor_ex(system)
        return Factors(lu, pivots)

    def _renew(self) -> None:
        field, t, y = self._start
        self.stats.jacobians += 1
        self._jacobian = jacobian(field, self.space, t, self.space.pack(y))
        self._factors.clear()
        self._fresh, self._stale, self._eta = True, False, 1.0

    def _per_tolerance(self, y: Leaves) -> Leaves:
        """The reciprocals of the tolerances at a state."""
        allowance = Allowance(self.method.rtol, self.method.atol, y)
        return [1 / most for most in allowance(y)]

    def _measure(self, change: Tensor, stages: Tensor | None = None) -> list[float]:
        """The size of a change in units of the tolerances, and that of the stages' rounding."""
        sizes = [self._norm(change)]
        if stages is not None:
            sizes.append(self._norm(stages * self.space.rounding))
        return [read_back(size) for size in torch.stack(sizes).cpu()]

    def _norm(self, vectors: Tensor) -> Tensor:
        """The largest norm of several states."""
        norms = [
            self.method.norm(
                [x * unit for x, unit in zip(self.space.split(row), self._units, strict=True)]
            )
            for row in vectors
        ]
        return norms[0] if len(norms) == 1 else torch.stack(norms).max()

    def _require_small(self, stages: int) -> None:
        size = torch.finfo(self.space.dtype).bits // 8
        n = stages * self.space.n
        if n**2 * size > LARGEST:
            raise ValueError(
                f"the state has n = {self.space.n} real entries, and the implicit method would "
                f"store and factorise a matrix of {n} x {n}, {n**2 * size / 2**30:.1f} GiB: take "
                "an explicit method such as 'dopri5', or solve for independent parts of the "
                "state one after the other"
            )
