r"""Gradients at a steady state, by the implicit function theorem.

A steady state y* solves :math:`f(t, y^*, \theta) = 0`, whatever path the solution took to it.
Where :math:`J = \partial f / \partial y` is regular, y* is a function of :math:`\theta`, and the
row vector :math:`g = \partial L / \partial y^*` gives

.. math:: \frac{dL}{d\theta} = -g\, J^{-1} \frac{\partial f}{\partial \theta},

from one linear system, :math:`J^\top \lambda = g^\top`, and one vector-Jacobian product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from companion.adjoint.continuous import pulled_back
from companion.adjoint.linearised import Linearised, SingularJacobian
from companion.adjoint.own_backward import Gradients, OwnBackward, Record
from companion.ode.errors import SolverError
from companion.ode.field import Leaves, time_dtype
from companion.ode.integrate import Path
from companion.ode.jacobian import RealSpace
from companion.ode.norm import Allowance
from companion.ode.problem import Problem
from companion.ode.solution import Stats

#: How far the last state may be from the steady state, in tolerances.  Explicit methods whose
#: steps adapt hover about a stable steady state at a distance of up to three.
MOST_TOLERANCES = 10.0
#: Newton corrections to the last state at most.
CORRECTIONS = 10
#: A correction that is not this much smaller than the one before has another reason than the
#: curvature of f.
SLOW = 0.3


class NotSteady(SolverError):
    """The last state of a solve is no steady state, or one without a derivative."""


@dataclass(frozen=True)
class Implicit(OwnBackward):
    r"""Take the last state for a steady state, which depends on f alone.

    Nothing of the way to it is remembered or differentiated: memory and cost of the gradient do
    not depend on the number of steps.  The gradients with respect to y0 and the times are zero,
    and the states before the last have none.

    Whether the last state is steady is decided by Newton's correction :math:`-J^{-1} f` to it,
    the distance to the steady state itself.  Unlike the size of the rates, it does not depend on
    units and knows how slow the slowest component is.  Every entry of it may be at most ten times
    ``atol + rtol * abs(y)``.  The corrections are then applied until they vanish in rounding, so
    that neither the last state nor the gradient is limited by the tolerances.  So a solve needs
    to go on just until its transients are as small as its tolerances.

    The gradient is that of the steady state whether it is stable or not; a solve ends at one that
    is not only if it begins there.  Memory and time for the linear systems are those of a matrix
    of :math:`n \times n` for states of n <= 512 real entries; for larger ones GMRES takes over,
    with products at the cost of one backward pass through f each.

    Args:
        params: see `companion.adjoint.own_backward.OwnBackward`.
    """

    def check(self, problem: Problem) -> None:
        if problem.events:
            raise ValueError(
                "Implicit takes the state at the last time for a steady state: leave event out "
                "and let the last time be late enough, or use gradient='checkpointed'"
            )
        if len(problem.times) < 2:
            raise ValueError(
                "Implicit needs a last time at which the solution is steady, got t with the "
                "initial time alone"
            )

    def record(self, problem: Problem, stats: Stats) -> Record:
        return _SteadyState(problem, super().solve(problem, stats), stats)

    def solve(self, problem: Problem, stats: Stats) -> Path:
        # The same values, checked in the same way, whether a gradient is wanted or not.
        return self.record(problem, stats).path


class _SteadyState(Record):
    """Keeps the factors of the Jacobian, where it was factorised."""

    def __init__(self, problem: Problem, path: Path, stats: Stats) -> None:
        self.problem = problem
        y = [leaf[-1] for leaf in path.leaves]
        self.space = RealSpace(y)
        self.unit = self._tolerances(y)
        x, linear = self._polished(self.space.pack(y), stats)
        leaves = [
            torch.cat([leaf[:-1], end[None]])
            for leaf, end in zip(path.leaves, self.space.unpack(x), strict=True)
        ]
        super().__init__(replace(path, leaves=leaves), linear.factors or ())

    def pull_back(
        self,
        kept: Sequence[Tensor],
        outputs: Leaves,
        grads: Leaves,
        wanted: Sequence[Tensor],
        stats: Stats,
        *,
        wants_times: bool,
        wants_jumps: bool,
    ) -> Gradients:
        if any(bool(grad[:-1].any()) for grad in grads):
            raise ValueError(
                "Implicit: the loss depends on states before the last, which are not steady and "
                "have no gradient here: use gradient='checkpointed' (Checkpointed), or let the "
                "loss use y[-1] alone"
            )
        problem = self.problem
        y = [leaf[-1] for leaf in outputs]
        products: Sequence[Tensor | None] = ()
        if wanted:
            linear = self._linearised(self.space.pack(y), stats)
            linear.factors = tuple(kept) or None
            try:
                costate = linear.solve_transposed(self.space.pack([grad[-1] for grad in grads]))
            except SingularJacobian as error:
                raise self._singular(error, stats) from error
            with torch.enable_grad():
                rates = problem.field(stats)(problem.times[-1], y)
            products = pulled_back(rates, wanted, self.space.unpack(-costate))
        dtype = time_dtype(y)
        times, jumps = len(outputs[0]), len(problem.method.jump_t)
        return Gradients(
            y[0].new_zeros(times, dtype=dtype) if wants_times else None,
            y[0].new_zeros(jumps, dtype=dtype) if wants_jumps else None,
            [torch.zeros_like(leaf) for leaf in y],
            products,
        )

    def _polished(self, x: Tensor, stats: Stats) -> tuple[Tensor, Linearised]:
        """The steady state near the last state, and f in its neighbourhood.

        Raises:
            NotSteady: if there is none within the tolerances.
        """
        rate = before = None
        for _ in range(CORRECTIONS):
            linear, last = self._linearised(x, stats), rate
            rate = self._rate(x, stats)
            try:
                correction = linear.solve(-rate)
                size = self._size(correction)
                if before is None:
                    self._require_near(size, stats)
                elif not size <= SLOW * self._size(before):
                    # It is either made of rounding errors, or of a Jacobian that changes much
                    # within the tolerances.
                    self._require_same(linear.solve(-last), before, stats)
                    break
            except SingularJacobian as error:
                raise self._singular(error, stats) from error
            # Rounded to the precision of the state, which is what f is given.
            x = self.space.pack(self.space.unpack(x + correction))
            if before is not None and size <= self._rounding * self._size(x):
                break
            before = correction
        return x, linear

    @property
    def _rounding(self) -> float:
        """After a correction that is relatively smaller, the next would be rounded away."""
        return torch.finfo(self.space.dtype).eps ** 0.75

    def _linearised(self, x: Tensor, stats: Stats) -> Linearised:
        field, t = self.problem.field(stats), self.problem.times[-1]
        return Linearised(field, self.space, t, x, self.unit, stats)

    def _rate(self, x: Tensor, stats: Stats) -> Tensor:
        field = self.problem.field(stats)
        return self.space.pack(field(self.problem.times[-1], self.space.unpack(x)))

    def _tolerances(self, y: Leaves) -> Tensor:
        """What the tolerances allow each entry of the state to be off, shape (n,)."""
        method = self.problem.method
        allowed = Allowance(method.rtol, method.atol, y)(y)
        unit = self.space.pack(
            [
                torch.complex(most, most) if leaf.is_complex() else most
                for most, leaf in zip(allowed, y, strict=True)
            ]
        )
        if not len(unit):
            return unit
        # Without atol nothing is allowed where the state is zero; a unit must be positive.
        return unit.clamp_min(torch.finfo(unit.dtype).eps * float(unit.max()))

    def _size(self, x: Tensor) -> float:
        """The largest entry, in tolerances."""
        return float(torch.linalg.vector_norm(x / self.unit, torch.inf)) if len(x) else 0.0

    def _require_near(self, size: float, stats: Stats) -> None:
        if not size <= MOST_TOLERANCES:
            raise self._error(
                f"the last state is not steady: by Newton's method the steady state is {size:.2g} "
                f"tolerances away, and may be {MOST_TOLERANCES:.0f}. Solve to a later time, or "
                "with larger rtol and atol; if f keeps changing with t, there is no steady state, "
                "and the gradient of the state at this time is that of gradient='checkpointed'",
                stats,
            )

    def _require_same(self, again: Tensor, correction: Tensor, stats: Stats) -> None:
        """The correction of the same rates must not depend on where J is taken nearby."""
        if not self._size(again - correction) <= 0.5 * self._size(correction):
            raise self._error(
                "the Jacobian df/dy changes by its own size within the tolerances: the steady "
                "state is marginal, with a singular Jacobian at it, or f is not smooth there, and "
                "it has no derivative. Make rtol and atol smaller, or use gradient='checkpointed'",
                stats,
            )

    def _singular(self, error: SingularJacobian, stats: Stats) -> NotSteady:
        return self._error(
            f"{error}, so that f does not determine the steady state: it may have a conserved "
            "quantity, whose value comes from y0, or be marginal. Eliminate what is conserved "
            "from the state, or use gradient='checkpointed'",
            stats,
        )

    def _error(self, message: str, stats: Stats) -> NotSteady:
        steps = stats.accepted + stats.rejected
        return NotSteady(f"Implicit: {message}", t=self.problem.times[-1], h=0.0, steps=steps)
