r"""The adjoint along the forward solution, with the parameter gradient by Gauss's quadrature.

The forward solve keeps its dense output :math:`\hat y(t)`, so that backwards only a is solved for
(`companion.adjoint.continuous`),

.. math:: \dot a = -a \frac{\partial f}{\partial y}(t, \hat y(t)),

a linear equation with as many components as the state.  After every accepted step from t to t + h
of it, :math:`h < 0`, its share of the parameter gradient is

.. math::
    -h \sum_j w_j\, a(\tau_j) \frac{\partial f}{\partial \theta}(\tau_j, \hat y(\tau_j)), \qquad
    \tau_j = t + x_j h,

with Gauss's nodes x_j and weights w_j on [0, 1] and the dense output of the step for
:math:`a(\tau_j)`.  s nodes have order 2s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from companion.adjoint.continuous import ContinuousAdjoint, ContinuousRecord, Walk
from companion.adjoint.own_backward import Record
from companion.adjoint.products import pulled_back
from companion.adjoint.trajectory import Steps, Trajectory
from companion.ode.adams import Adams
from companion.ode.begin import begin
from companion.ode.dense import Piece
from companion.ode.field import Field, Leaves, Time
from companion.ode.integrate import Path, integrate
from companion.ode.march import March
from companion.ode.method import Method
from companion.ode.problem import Problem
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats


@dataclass(frozen=True, kw_only=True)
class Gauss(ContinuousAdjoint):
    """Solve the adjoint equation backwards along the dense output of the forward solve.

    The state is not reconstructed, so that, unlike `Backsolve`, flows that contract strongly do
    no harm, and the parameters are no part of the equation: their number has no influence on the
    steps, and they cost one vector-Jacobian product a step.  Memory grows with the number of
    steps by the coefficients of their polynomials, a few states a step, and not with the cost
    of f.

    The gradient has the error of the backward solve, and feels that of the dense output: with
    explicit methods it is of the order of the method.  f must return the same for the same
    arguments on the way back: with dropout the gradient is that of no function, and a warning
    says so.

    Args:
        method, rtol, atol, control, first_step, max_steps: of the backward solve, as in
            `companion.solve`; None takes those of the forward solve.  Neither solve can be
            SciPy's.
        step_t, jump_t: as in `companion.solve`; None takes those of the forward solve, as far
            as the method of the backward solve knows them.
        max_iterations: most iterations of an implicit method for its stages.
        observers: told about every step of the backward solve.
        params: exactly the tensors, besides y0, the times and those in args, whose gradients are
            wanted; None finds what f holds and uses.
    """

    def check(self, problem: Problem) -> None:
        super().check(problem)
        schemes = problem.method.scheme, self.method_after(problem, None).scheme
        if any(isinstance(scheme, SciPy) for scheme in schemes):
            raise ValueError(
                "Gauss needs the solution inside the steps, and SciPy's are not kept: use "
                "gradient='backsolve', or one of companion's methods"
            )

    def record(self, problem: Problem, stats: Stats) -> Record:
        path = integrate(replace(problem, dense=True), list(problem.y0), problem.times, stats)
        return _GaussRecord(problem, self.method_after(problem, path.size), path)


class _GaussRecord(ContinuousRecord):
    """Keeps the polynomials of the dense output."""

    def __init__(self, problem: Problem, method: Method, path: Path) -> None:
        kept = [leaf for power in path.dense.coefficients for leaf in power]
        super().__init__(problem, method, replace(path, dense=None), kept)
        self.steps = Steps(path.dense)

    def walk(
        self,
        kept: Sequence[Tensor],
        outputs: Leaves,
        grads: Leaves,
        wanted: Sequence[Tensor],
        stats: Stats,
    ) -> Walk:
        solution = Trajectory(self.steps, kept, len(outputs))
        field = self.problem.field(stats)
        costate = CostateField(field, solution)
        march = begin(costate, self.method, self.times[-1], grads, stats)
        return _AlongSolution(march, field, solution, wanted)


class CostateField:
    """The vector field of a alone, ``-a df/dy`` along a known solution.

    It is linear in a: stages at one time, such as the last ones of a step and the first one after
    a jump of a, share an evaluation of f.
    """

    def __init__(self, field: Field, solution: Trajectory) -> None:
        self.field = field
        self.solution = solution
        #: The last time, y there, and f there with its graph.
        self._last: tuple[Time, Leaves, Leaves] | None = None

    def __call__(self, t: Time, a: Leaves) -> Leaves:
        if self._last is None or self._last[0] != t:
            y = [leaf.requires_grad_() for leaf in self.solution(t)]
            with torch.enable_grad():
                self._last = t, y, self.field(t, y)
        _, y, rates = self._last
        # The Jacobian of this field, which implicit methods want, is that of a vjp.
        twice = torch.is_grad_enabled()
        pulled = pulled_back(rates, y, [-leaf for leaf in a], retain_graph=True, create_graph=twice)
        return [
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(a, pulled, strict=True)
        ]


class _AlongSolution(Walk):
    """The adjoint on its way back, and the integral over the steps that it has made."""

    def __init__(
        self, march: March, field: Field, solution: Trajectory, wanted: Sequence[Tensor]
    ) -> None:
        self._march, self._field, self._solution = march, field, solution
        self._wanted = wanted
        self._nodes = nodes(_order(march.method))
        self._integrals: list[Tensor | None] = [None] * len(wanted)

    @property
    def adjoint(self) -> Leaves:
        return self._march.y

    def to(self, t: float, end: float) -> tuple[Leaves, Leaves]:
        while not self._march.has_passed(t):
            self._march.advance(t, end)
            if self._wanted:
                self._integrate(self._march.piece)
        return self._solution(t), self._march.state(t)

    def jump(self, i: int, grads: Leaves) -> None:
        self._march.restart([a + grad for a, grad in zip(self._march.y, grads, strict=True)])

    def finish(self) -> list[Tensor | None]:
        return self._integrals

    def _integrate(self, piece: Piece) -> None:
        """Add the integral over a step: all its nodes in one vector-Jacobian product."""
        h = piece.t1 - piece.t0
        rates, cotangents = [], []
        for x, weight in self._nodes:
            # Never an end of the step, where f may jump.
            t = piece.t0 + x * h
            y = self._solution(t)
            with torch.enable_grad():
                rates += self._field(t, y)
            cotangents += [(-weight * h) * a for a in piece.at(t)]
        grads = pulled_back(rates, self._wanted, cotangents)
        for i, grad in enumerate(grads):
            if grad is not None:
                if self._integrals[i] is None:
                    self._integrals[i] = torch.zeros_like(self._wanted[i])
                self._integrals[i] += grad


def _order(method: Method) -> int:
    scheme = method.scheme
    return scheme.max_order if isinstance(scheme, Adams) else scheme.order


@lru_cache
def nodes(order: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights on [0, 1] of Gauss's quadrature of at least this order."""
    x, weights = leggauss((order + 1) // 2)
    return tuple(zip(((1 + x) / 2).tolist(), (weights / 2).tolist(), strict=True))
