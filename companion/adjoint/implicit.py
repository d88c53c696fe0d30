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

from companion.adjoint.linearised import SingularJacobian
from companion.adjoint.own_backward import Gradients, Incoming, OwnBackward, Record
from companion.adjoint.products import pulled_back
from companion.adjoint.steady import Surroundings
from companion.ode.field import Leaves, time_dtype
from companion.ode.integrate import Path
from companion.ode.problem import Problem
from companion.ode.solution import Stats


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
    to go on just until its transients are as small as its tolerances; implicit methods such as
    "kvaerno5" take few steps to get there.

    The gradient is that of the steady state whether it is stable or not; a solve ends at one that
    is not only if it begins there.

    For states of n <= 512 real entries two or three Jacobians are computed and factorised, at the
    end of the forward solve; the backward pass costs an evaluation of f and a vector-Jacobian
    product.  For larger states both passes take products with the Jacobian, for GMRES, at about
    the cost of one backward pass through f each.

    Args:
        params: exactly the tensors, besides y0, the times and those in args, whose gradients are
            wanted; None finds what f holds and uses.
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
        return _SteadyRecord(problem, super().solve(problem, stats), stats)

    def solve(self, problem: Problem, stats: Stats) -> Path:
        # The same values, checked in the same way, whether a gradient is wanted or not.
        return self.record(problem, stats).path


class _SteadyRecord(Record):
    """Keeps the factors of the Jacobian, where it was factorised."""

    def __init__(self, problem: Problem, path: Path, stats: Stats) -> None:
        y = [leaf[-1] for leaf in path.leaves]
        near = Surroundings(problem, y, stats)
        x, linear = near.steady_state(near.space.pack(y))
        leaves = [
            torch.cat([leaf[:-1], end[None]])
            for leaf, end in zip(path.leaves, near.space.unpack(x), strict=True)
        ]
        super().__init__(replace(path, leaves=leaves), linear.factors or ())
        self.problem = problem

    def pull_back(self, given: Incoming) -> Gradients:
        kept, outputs, grads, wanted, stats, wants_times, wants_jumps, _ = given
        if any(bool(grad[:-1].any()) for grad in grads):
            raise ValueError(
                "Implicit: the loss depends on states before the last, which are not steady and "
                "have no gradient here: use gradient='checkpointed' (Checkpointed), or let the "
                "loss use y[-1] alone"
            )
        y, ends = ([leaf[-1] for leaf in leaves] for leaves in (outputs, grads))
        times, jumps = len(outputs[0]), len(self.problem.method.jump_t)
        zeros = y[0].new_zeros(max(times, jumps), dtype=time_dtype(y))
        return Gradients(
            zeros[:times] if wants_times else None,
            zeros[:jumps] if wants_jumps else None,
            [torch.zeros_like(leaf) for leaf in y],
            self._products(kept, y, ends, wanted, stats) if wanted else (),
        )

    def _products(
        self,
        kept: Sequence[Tensor],
        y: Leaves,
        grads: Leaves,
        wanted: Sequence[Tensor],
        stats: Stats,
    ) -> list[Tensor | None]:
        """The gradients with respect to what f depends on."""
        near = Surroundings(self.problem, y, stats)
        linear = near.linearised(near.space.pack(y))
        linear.factors = tuple(kept) or None
        try:
            costate = linear.solve_transposed(near.space.pack(grads))
        except SingularJacobian as error:
            raise near.singular(error) from error
        with torch.enable_grad():
            rates = self.problem.field(stats)(self.problem.times[-1], y)
        return pulled_back(rates, wanted, near.space.unpack(-costate))
