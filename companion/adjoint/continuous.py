r"""What the continuous adjoints have in common: how to step, and what is done at which time.

With the row vector :math:`a(t) = dL/dy(t)`, from the last time back to the first,

.. math::
    \dot a = -a \frac{\partial f}{\partial y}, \qquad
    \frac{dL}{d\theta} = -\int_{t_1}^{t_0} a \frac{\partial f}{\partial \theta}\, dt,

and a jumps by :math:`g_i = \partial L / \partial y(t_i)` at every output time.  The gradients with
respect to times need no equation: `companion.adjoint.end_points`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from companion.adjoint.end_points import EndPoints
from companion.adjoint.own_backward import Gradients, Incoming, OwnBackward, Record
from companion.ode.control import PID
from companion.ode.field import Leaves
from companion.ode.integrate import Path
from companion.ode.method import Control, Method, Scheme
from companion.ode.observe import Observer
from companion.ode.problem import Problem
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats
from companion.ode.tolerance import check_tolerance, of_leaves, require_allowance

#: The largest entry of the gradient of the loss is at least this many atol in a backward solve.
SMALLEST_GRADIENT = 1e4


@dataclass(frozen=True, kw_only=True)
class ContinuousAdjoint(OwnBackward):
    """A strategy that solves the adjoint equation backwards in time, with steps of its own.

    A loss with small gradients is scaled up for the backward solve, so that ``atol`` does not
    hide them.

    Args:
        method, rtol, atol, control, first_step, max_steps: of the backward solve, as in
            `companion.solve`; None takes those of the forward solve.
        step_t, jump_t: as in `companion.solve`; None takes those of the forward solve, as far
            as the method of the backward solve knows them.
        max_iterations: most iterations of an implicit method for its stages.
        observers: told about every step of the backward solve.
        params: exactly the tensors, besides y0, the times and those in args, whose gradients are
            wanted; None finds what f holds and uses.
    """

    method: Scheme | str | None = None
    rtol: Any = None
    atol: Any = None
    control: Control | str | None = None
    first_step: float | None = None
    max_steps: int | None = None
    step_t: Sequence[float] | Tensor | None = None
    jump_t: Sequence[float] | Tensor | None = None
    max_iterations: int | None = None
    observers: Sequence[Observer] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        watching = self.observers
        if not isinstance(watching, Sequence) or not all(isinstance(x, Observer) for x in watching):
            raise TypeError(
                f"{type(self).__name__}: observers must be a tuple of companion.ode.observe."
                f"Observer, got {watching!r}"
            )
        object.__setattr__(self, "observers", tuple(watching))

    def check(self, problem: Problem) -> None:
        try:
            self.method_after(problem, None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{type(self).__name__}: {error}") from error

    def method_after(self, problem: Problem, last_size: float | None) -> Method:
        """How to solve for a after a forward solve that ended with steps of this size."""
        forward = problem.method
        choices = {
            "scheme": self.method,
            "control": self.control,
            "first_step": self.first_step,
            "max_steps": self.max_steps,
            "step_t": self.step_t,
            "jump_t": self.jump_t,
            "max_iterations": self.max_iterations,
        }
        given = {name: value for name, value in choices.items() if value is not None}
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is not None:
                check_tolerance(name, value)
                # The forward solve's are those of its leaves already.
                given[name] = of_leaves(name, value, problem.y0, problem.spec)
        if isinstance(self.method, SciPy) or self.method == "scipy_solver":
            given["control"] = self.control
        if isinstance(given.get("control", forward.control), PID):
            given = {"first_step": last_size, **given}
        else:
            given = {"step_t": (), "jump_t": (), "first_step": None, **given}
        method = replace(forward, **given, observers=self.observers)
        require_allowance(method.rtol, method.atol, problem.y0)
        return method


class Walk(ABC):
    """An adjoint on its way back through the times of a solve.

    Attributes:
        adjoint: the leaves of a, at the time where it stands.
    """

    adjoint: Leaves

    @abstractmethod
    def to(self, t: float, end: float) -> tuple[Leaves, Leaves]:
        """Go back to a time t, evaluating nothing beyond ``end``.

        Returns:
            The leaves of y and of a at t.
        """

    @abstractmethod
    def jump(self, i: int, grads: Leaves) -> None:
        """At output time i, where it stands: a jumps by the gradients of the loss there."""

    @abstractmethod
    def finish(self) -> list[Tensor | None]:
        """The gradients with respect to the wanted tensors; None stands for zero."""


class ContinuousRecord(Record):
    """A forward solve, and how to go back.

    Args:
        problem: what was solved.
        method: of the backward solve.
        path: the solution.
        kept: tensors that `walk` needs.
    """

    def __init__(
        self, problem: Problem, method: Method, path: Path, kept: Sequence[Tensor] = ()
    ) -> None:
        super().__init__(path, kept)
        self.problem, self.method, self.times = problem, method, path.times
        #: Of these the times that were asked for: not that of an event.
        self._asked = len(path.times) - (path.crossing is not None)

    @abstractmethod
    def walk(
        self,
        kept: Sequence[Tensor],
        outputs: Leaves,
        grads: Leaves,
        wanted: Sequence[Tensor],
        stats: Stats,
    ) -> Walk:
        """Stand at the last time, where a is the gradient of the loss with respect to y there."""

    def pull_back(self, given: Incoming) -> Gradients:
        kept, outputs, grads, wanted, stats, wants_times, wants_jumps, inquiry = given
        scale = _scale(grads, self.method)
        grads = [grad / scale for grad in grads]
        try:
            walk = self.walk(kept, outputs, [grad[-1] for grad in grads], wanted, stats)
            ends = EndPoints(self.problem, self.times, stats)
            # Without a step nothing comes back to y0 but the gradient there.
            a = [torch.zeros_like(grad[0]) for grad in grads]
            at, inside = inquiry.among(self.times)

            def tell(i: int) -> None:
                """At output time i, where a has jumped."""
                for tau in at.get(i, ()):
                    adjoint = [scale * leaf for leaf in walk.adjoint]
                    inquiry.answer(tau, [leaf[i] for leaf in outputs], adjoint)

            tell(len(self.times) - 1)
            for i in range(len(self.times) - 1, 0, -1):
                t, end = self.times[i], self.times[i - 1]
                if wants_times:
                    ends.output(t, [leaf[i] for leaf in outputs], [grad[i] for grad in grads])
                for tau in ends.jumps_from(t, end) if wants_jumps else ():
                    ends.jump(tau, *walk.to(tau, end))
                for tau in inside.get(i - 1, ()):
                    y, a = walk.to(tau, end)
                    inquiry.answer(tau, y, [scale * leaf for leaf in a])
                _, a = walk.to(end, end)
                walk.jump(i - 1, [grad[i - 1] for grad in grads])
                tell(i - 1)
            if wants_times:
                ends.start([leaf[0] for leaf in outputs], a)
            found = Gradients(
                ends.times[: self._asked] if wants_times else None,
                ends.jumps if wants_jumps else None,
                walk.adjoint,
                walk.finish(),
            )
        finally:
            for observer in self.method.observers:
                observer.finished()
        return _times(scale, found)


def _scale(grads: Leaves, method: Method) -> float:
    """What to divide a small loss by, so that atol does not hide its gradient.

    The adjoint is linear in the gradient of the loss, and the error allowed to it is atol even
    where it is smaller than atol.  It is scaled up to at least ``SMALLEST_GRADIENT`` times atol.
    """
    largest = max((float(grad.abs().max()) for grad in grads if grad.numel()), default=0.0)
    parts = method.atol if isinstance(method.atol, Sequence) else (method.atol,)
    atol = max(float(torch.as_tensor(part).max()) for part in parts)
    return min(1.0, largest / (SMALLEST_GRADIENT * atol)) if largest and atol else 1.0


def _times(scale: float, found: Gradients) -> Gradients:
    """Gradients of the loss from those of the scaled one."""
    return Gradients(
        None if found.times is None else found.times * scale,
        None if found.jumps is None else found.jumps * scale,
        [grad * scale for grad in found.y0],
        [None if grad is None else grad * scale for grad in found.wanted],
    )
