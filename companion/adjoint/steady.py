"""The steady state next to a state: is there one, and where exactly?"""

from __future__ import annotations

import torch
from torch import Tensor

from companion.adjoint.linearised import Linearised, SingularJacobian
from companion.ode.errors import SolverError
from companion.ode.field import Leaves
from companion.ode.jacobian import RealSpace
from companion.ode.norm import Allowance
from companion.ode.problem import Problem
from companion.ode.solution import Stats

#: How far the last state may be from the steady state, in tolerances.  Explicit methods such as
#: dopri5, tsit5 and bosh3 come no nearer to a stable one than about three: the nearer they are,
#: the larger are their steps, until these are no longer stable.
MOST_TOLERANCES = 10.0
#: Newton corrections to the last state at most.
CORRECTIONS = 10
#: A correction that is not this much smaller than the one before has another reason than the
#: curvature of f.
SLOW = 0.3


class NotSteady(SolverError):
    """The last state of a solve is no steady state, or one without a derivative."""


class Surroundings:
    """The vector field at the last time, near the last state.

    Args:
        problem: what was solved.
        y: the last state.
        stats: where evaluations, Jacobians and factorisations are counted.

    Attributes:
        space: where the state is a vector.
    """

    def __init__(self, problem: Problem, y: Leaves, stats: Stats) -> None:
        self.space = RealSpace(y)
        self._field, self._t, self._stats = problem.field(stats), problem.times[-1], stats
        allowed = Allowance(problem.method.rtol, problem.method.atol, y)(y)
        unit = self.space.pack(
            [
                torch.complex(most, most) if leaf.is_complex() else most
                for most, leaf in zip(allowed, y, strict=True)
            ]
        )
        if len(unit):
            # Without atol nothing is allowed where the state is zero; a unit must be positive.
            limits = torch.finfo(unit.dtype)
            unit = unit.clamp_min(limits.eps * float(unit.max()) or limits.tiny**0.5)
        #: What the tolerances allow each entry to be off, shape (n,).
        self._unit = unit

    def rate(self, x: Tensor) -> Tensor:
        """f at a state, both as vectors."""
        return self.space.pack(self._field(self._t, self.space.unpack(x)))

    def linearised(self, x: Tensor) -> Linearised:
        """f near a state, a vector."""
        return Linearised(self._field, self.space, self._t, x, self._unit, self._stats)

    def size(self, x: Tensor) -> float:
        """The largest entry of a vector, in tolerances."""
        return float(torch.linalg.vector_norm(x / self._unit, torch.inf)) if len(x) else 0.0

    def steady_state(self, x: Tensor) -> tuple[Tensor, Linearised]:
        """The steady state near a state, by Newton's method, and f in its neighbourhood.

        Raises:
            NotSteady: if there is none within the tolerances, or it has no derivative.
        """
        # After a correction that is relatively smaller, the next would be rounded away.
        rounding = torch.finfo(self.space.dtype).eps ** 0.75
        rate = before = None
        for _ in range(CORRECTIONS):
            linear, last = self.linearised(x), rate
            rate = self.rate(x)
            try:
                correction = linear.solve(-rate)
                size = self.size(correction)
                if before is None:
                    self._require_near(size)
                elif not size <= SLOW * self.size(before):
                    # It is either made of rounding errors, or of a Jacobian that changes much
                    # within the tolerances.
                    self._require_same(linear.solve(-last), before)
                    break
            except SingularJacobian as error:
                raise self.singular(error) from error
            # Rounded to the precision of the state, which is what f is given.
            x = self.space.pack(self.space.unpack(x + correction))
            if before is not None and size <= rounding * self.size(x):
                break
            before = correction
        return x, linear

    def singular(self, error: SingularJacobian) -> NotSteady:
        """What to raise when linear equations with the Jacobian cannot be solved."""
        return self._error(
            f"{error}, so that f does not determine the steady state: it may have a conserved "
            "quantity, whose value comes from y0, or be marginal. Eliminate what is conserved "
            "from the state, or use gradient='checkpointed'"
        )

    def _require_near(self, size: float) -> None:
        if not size <= MOST_TOLERANCES:
            raise self._error(
                f"the last state is not steady: by Newton's method the steady state is {size:.2g} "
                f"tolerances away, and may be {MOST_TOLERANCES:.0f}. Solve to a later time, or "
                "with larger rtol and atol; if f keeps changing with t, there is no steady state, "
                "and the gradient of the state at this time is that of gradient='checkpointed'"
            )

    def _require_same(self, again: Tensor, correction: Tensor) -> None:
        """The correction of the same rates must not depend on where J is taken nearby."""
        if not self.size(again - correction) <= 0.5 * self.size(correction):
            raise self._error(
                "the Jacobian df/dy changes by its own size within the tolerances: the steady "
                "state is marginal, with a singular Jacobian at it, or f is not smooth there, and "
                "it has no derivative. Make rtol and atol smaller, or use gradient='checkpointed'"
            )

    def _error(self, message: str) -> NotSteady:
        steps = self._stats.accepted + self._stats.rejected
        return NotSteady(f"Implicit: {message}", t=self._t, h=0.0, steps=steps)
