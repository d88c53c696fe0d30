r"""The continuous adjoint of Chen et al. (2018): one solve backwards in time.

With the row vector :math:`a(t) = dL/dy(t)`, from the last time back to the first,

.. math::
    \dot y = f, \qquad \dot a = -a \frac{\partial f}{\partial y}, \qquad
    \frac{dL}{d\theta} = -\int_{t_1}^{t_0} a \frac{\partial f}{\partial \theta}\, dt,

and a jumps by :math:`g_i = \partial L / \partial y(t_i)` at every output time. The gradients with
respect to the times need no equation of their own:
:math:`dL/dt_i = \langle g_i, f(t_i, y_i)\rangle` and
:math:`dL/dt_0 = -\langle a(t_0^+), f(t_0, y_0)\rangle`, with a before it jumps by :math:`g_0`.
Unlike the integral of :math:`-a\,\partial f/\partial t`, these hold where f jumps in time, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from companion.adjoint.own_backward import Gradients, OwnBackward, Record
from companion.ode.begin import begin
from companion.ode.control import PID
from companion.ode.field import Field, Leaves, Time
from companion.ode.integrate import Path, integrate
from companion.ode.method import Control, Method, Scheme
from companion.ode.norm import Tolerance, of_leaf, rms_norm
from companion.ode.observe import Observer
from companion.ode.problem import Problem
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats
from companion.ode.tolerance import of_leaves, require_allowance

#: A reconstructed state that is off by more than this part of the solution's size, and by more
#: than this many tolerances, makes a gradient unreliable.
LARGEST_DRIFT, MOST_TOLERANCES = 1e-2, 1e3

#: The largest entry of the gradient of the loss is at least this many atol in a backward solve.
SMALLEST_GRADIENT = 1e4


class LostStateWarning(UserWarning):
    """A backward solve did not reproduce the states of the forward solve."""


@dataclass(frozen=True)
class Backsolve(OwnBackward):
    """Optimise, then discretise: solve the adjoint equations backwards in time.

    Memory does not grow with the number of steps: only the states at the output times are kept,
    and the backward solve starts anew from each of them. The gradient has the error of the
    backward solve, and of y reconstructed backwards, which is unstable where the flow contracts
    strongly: `Direct` has neither.  A `LostStateWarning` tells when a reconstructed state is off
    by more than one per cent of the solution and a thousand tolerances.

    The parameters are integrated as a quadrature, outside of the error norm (the seminorm of
    Kidger, Chen and Lyons, ICML 2021): they do not feed back into y and a.  A loss with small
    gradients is scaled up for the backward solve, so that ``atol`` does not hide them.

    Args:
        method, rtol, atol, control, first_step, max_steps: of the backward solve, as in
            `companion.solve`; None takes those of the forward solve.  Its norm is the larger
            of the forward solve's norms of y and of a.
        step_t, jump_t: as in `companion.solve`; None takes those of the forward solve, as far
            as the method of the backward solve knows them.
        max_iterations: most iterations of an implicit method for its stages.
        observers: told about every step of the backward solve.
        params: see `OwnBackward`.
    """

    method: Scheme | str | None = None
    rtol: Any = None
    atol: Any = None
    control: Control | None = None
    first_step: float | None = None
    max_steps: int | None = None
    step_t: Sequence[float] | Tensor | None = None
    jump_t: Sequence[float] | Tensor | None = None
    max_iterations: int | None = None
    observers: tuple[Observer, ...] = ()

    def check(self, problem: Problem) -> None:
        try:
            self.method_after(problem, None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Backsolve: {error}") from error

    def record(self, problem: Problem, stats: Stats) -> Record:
        path = integrate(problem, list(problem.y0), problem.times, stats)
        return _BacksolveRecord(problem, self.method_after(problem, path.size), path)

    def method_after(self, problem: Problem, last_size: float | None) -> Method:
        """How to step backwards after a forward solve that ended with steps of this size."""
        forward = problem.method
        choices = {
            "scheme": self.method,
            "control": self.control,
            "first_step": self.first_step,
            "max_steps": self.max_steps,
            "rtol": self.rtol,
            "atol": self.atol,
            "step_t": self.step_t,
            "jump_t": self.jump_t,
            "max_iterations": self.max_iterations,
        }
        given = {name: value for name, value in choices.items() if value is not None}
        if isinstance(self.method, SciPy) or self.method == "scipy_solver":
            given["control"] = self.control
        if isinstance(given.get("control", forward.control), PID):
            given = {"first_step": last_size, **given}
        else:
            given = {"step_t": (), "jump_t": (), "first_step": None, **given}

        def norm(leaves: Leaves) -> Tensor:
            half = len(leaves) // 2
            return torch.maximum(forward.norm(leaves[:half]), forward.norm(leaves[half:]))

        method = replace(
            forward,
            **given,
            norm=norm,
            observers=self.observers,
        )
        tolerances = {
            # The same for a as for y; the forward solve's are those of its leaves already.
            name: _twice(
                getattr(forward, name)
                if getattr(self, name) is None
                else of_leaves(name, getattr(self, name), problem.y0, problem.spec)
            )
            for name in ("rtol", "atol")
        }
        require_allowance(tolerances["rtol"], tolerances["atol"], [*problem.y0, *problem.y0])
        return replace(method, **tolerances)


def _twice(tolerance: Tolerance) -> Tolerance:
    """A tolerance of the leaves of y as one of those of (y, a)."""
    return tolerance if isinstance(tolerance, float) else (*tolerance, *tolerance)


class _AdjointField:
    """The vector field of (y, a), with the parameter gradient as an integrand.

    The leaves are those of y and then those of a; the value has those of dy/dt, of da/dt and of
    ``-a df/dtheta`` for every wanted tensor, None where f does not depend on it.
    """

    def __init__(self, field: Field, wanted: list[Tensor]) -> None:
        self.field = field
        self.wanted = wanted

    def __call__(self, t: Time, leaves: Leaves) -> list[Tensor | None]:
        half = len(leaves) // 2
        # The Jacobian of this field, which implicit methods want, is that of a vjp.
        twice = torch.is_grad_enabled()
        y = [
            leaf if twice and leaf.requires_grad else leaf.detach().requires_grad_()
            for leaf in leaves[:half]
        ]
        with torch.enable_grad():
            rates = self.field(t, y)
        inputs = [*y, *self.wanted]
        pulled: Sequence[Tensor | None] = [None] * len(inputs)
        # f may be constant in everything, or in some of its leaves.
        live = [i for i, rate in enumerate(rates) if rate.requires_grad]
        if live:
            # The minus sign of da/dt = -a df/dy.
            minus_a = [-leaves[half + i] for i in live]
            pulled = torch.autograd.grad(
                [rates[i] for i in live], inputs, minus_a, allow_unused=True, create_graph=twice
            )
        adjoint_rates = [
            torch.zeros_like(x) if grad is None else grad
            for x, grad in zip(y, pulled, strict=False)
        ]
        if not twice:
            rates = [rate.detach() for rate in rates]
        return [*rates, *adjoint_rates, *pulled[half:]]


class _BacksolveRecord(Record):
    """How to solve backwards; the states at the output times are all that it starts from."""

    def __init__(self, problem: Problem, method: Method, path: Path) -> None:
        super().__init__(path)
        self.problem, self.method, self.times = problem, method, path.times

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
        scale = _scale(grads, self.method)
        found = _solve_backwards(
            self.problem,
            self.times,
            self.method,
            stats,
            outputs,
            [grad / scale for grad in grads],
            wanted,
            wants_times=wants_times,
        )
        t_grad, *others = (x if x is None else x * scale for x in found)
        n = len(outputs)
        return Gradients(t_grad, None, others[:n], others[n:])


def _solve_backwards(
    problem: Problem,
    times: Sequence[float],
    method: Method,
    stats: Stats,
    outputs: Leaves,
    grads: Leaves,
    wanted: list[Tensor],
    *,
    wants_times: bool,
) -> list[Tensor | None]:
    """The gradients with respect to the times, the leaves of y0 and the wanted tensors.

    Args:
        times: those of the outputs.
        outputs: leaves of y at these times.
        grads: the gradients of the loss with respect to them.
    """
    n = len(outputs)
    adjoint = [grad[-1] for grad in grads]
    field = _AdjointField(problem.field(stats), wanted)
    march = begin(field, method, times[-1], [*(leaf[-1] for leaf in outputs), *adjoint], stats)
    sizes = [rms_norm([leaf]) for leaf in outputs]
    drifts: list[Tensor] = []
    time_grads: list[Tensor] = []
    for i in range(len(times) - 1, 0, -1):
        if wants_times:
            time_grads.append(_inner([grad[i] for grad in grads], march.rates))
        arrived = march.to(times[i - 1], end=times[i - 1])
        state, adjoint = [leaf[i - 1] for leaf in outputs], arrived[n:]
        drifts.append(_drift(arrived[:n], state, sizes, method))
        if i > 1:
            adjoint = [a + grad[i - 1] for a, grad in zip(adjoint, grads, strict=True)]
        march.restart([*state, *adjoint])
    _warn_of_drift(drifts)
    integrals = march.integrals or [None] * len(wanted)
    if not time_grads:
        # No step was made (one time only), or nobody asks.
        t_grad = torch.zeros_like(problem.t) if wants_times else None
    else:
        # The value at t0 itself is y0, whatever t0 is: g_0 has no part in dL/dt0.
        time_grads.append(-_inner(adjoint, march.rates))
        t_grad = torch.stack(time_grads[::-1])
    if len(times) > 1:
        adjoint = [a + grad[0] for a, grad in zip(adjoint, grads, strict=True)]
    return [t_grad, *adjoint, *integrals]


def _scale(grads: Leaves, method: Method) -> float:
    """What to divide a small loss by, so that atol does not hide its gradient.

    The adjoint is linear in the gradient of the loss, and the error allowed to it is atol even
    where it is smaller than atol.  It is scaled up to at least ``SMALLEST_GRADIENT`` times atol.
    """
    largest = max((float(grad.abs().max()) for grad in grads if grad.numel()), default=0.0)
    parts = method.atol if isinstance(method.atol, Sequence) else (method.atol,)
    atol = max(float(torch.as_tensor(part).max()) for part in parts)
    return min(1.0, largest / (SMALLEST_GRADIENT * atol)) if largest and atol else 1.0


def _drift(found: Leaves, known: Leaves, sizes: Leaves, method: Method) -> Tensor:
    """How far a reconstructed state is off, in units of what is still tolerable.

    Tolerable is ``LARGEST_DRIFT`` of the solution's size, and ``MOST_TOLERANCES`` in any case.
    """
    rtol, atol = method.rtol, method.atol
    allowed = [
        MOST_TOLERANCES * (y.abs() * of_leaf(rtol, i) + of_leaf(atol, i))
        for i, y in enumerate(known)
    ]
    return rms_norm(
        [
            (x - y) / torch.maximum(most, LARGEST_DRIFT * size)
            for x, y, most, size in zip(found, known, allowed, sizes, strict=True)
        ]
    )


def _warn_of_drift(drifts: list[Tensor]) -> None:
    """Warn if any reconstructed state was off; one read-back for all output times."""
    # Written so that a NaN is a drift, too.
    if drifts and not float(torch.stack(drifts).max()) <= 1:
        warnings.warn(
            "the backward solve may have lost its way: a state that it reconstructed is off by "
            f"more than {LARGEST_DRIFT:.0%} of the solution and {MOST_TOLERANCES:.0f} "
            "tolerances, so the gradient may be wrong.  Flows that contract strongly cannot be "
            "reversed: use gradient='direct', or ask for more output times, at each of which "
            "the backward solve starts from the known state",
            LostStateWarning,
            stacklevel=2,
        )


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Real inner product of the leaves that both have."""
    return sum(torch.sum((x.conj() * y).real) for x, y in zip(a, b, strict=False))
