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

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils._pytree import tree_leaves

from companion.adjoint.captured import captured, parameters_of
from companion.adjoint.trees import detached, tensors_in
from companion.ode.begin import begin
from companion.ode.control import PID
from companion.ode.field import Field, Leaves, Time
from companion.ode.final import final
from companion.ode.integrate import Path, integrate
from companion.ode.method import Control, Method, Scheme
from companion.ode.norm import Tolerance, of_leaf, rms_norm
from companion.ode.observe import Observer
from companion.ode.problem import Problem
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats
from companion.ode.tolerance import of_leaves, require_allowance

NO_SECOND_DERIVATIVE = (
    "the continuous adjoint has no second derivative here: use gradient='direct' (odeint), which "
    "has derivatives of every order"
)
#: A reconstructed state that is off by more than this part of the solution's size, and by more
#: than this many tolerances, makes a gradient unreliable.
LARGEST_DRIFT, MOST_TOLERANCES = 1e-2, 1e3

#: The largest entry of the gradient of the loss is at least this many atol in a backward solve.
SMALLEST_GRADIENT = 1e4


class LostStateWarning(UserWarning):
    """A backward solve did not reproduce the states of the forward solve."""


@dataclass(frozen=True)
class Backsolve:
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
        params: exactly the tensors, besides y0 and those in args, whose gradients are wanted;
            they may be results of other computations.  None finds them: what f holds (as a
            module, in closures, attributes, defaults, globals) and what one traced evaluation
            at the initial state uses.
        observers: told about every step of the backward solve.

    Raises:
        TypeError: if ``params`` is not an iterable of tensors.
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
    params: Iterable[Tensor] | None = None
    observers: tuple[Observer, ...] = ()

    def __post_init__(self) -> None:
        if self.params is None:
            return
        if isinstance(self.params, Tensor) or not isinstance(self.params, Iterable):
            raise TypeError(
                "Backsolve: params must be an iterable of tensors, got "
                f"{type(self.params).__name__}: write params=(x,)"
            )
        # A tensor named twice would have twice its gradient.
        params = tuple({id(p): p for p in self.params}.values())
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"Backsolve: params holds a {type(p).__name__}, expected tensors")
        object.__setattr__(self, "params", params)

    def __call__(self, problem: Problem, stats: Stats) -> Path:
        try:
            self.method_after(problem, None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Backsolve: {error}") from error
        inputs = tree_leaves((problem.y0, problem.t, problem.args))
        if any(isinstance(x, Tensor) and unpack_dual(x).tangent is not None for x in inputs):
            raise ValueError(
                "Backsolve runs backwards only: forward-mode derivatives (torch.func.jvp) need "
                "gradient='direct'"
            )
        params: list[Tensor] = []
        if torch.is_grad_enabled():
            if self.params is not None:
                params = [p for p in self.params if p.requires_grad]
            else:
                params = parameters_of(problem.f, problem.args)
                params += captured(problem, params, stats)
        arguments = tensors_in(problem.args)
        # The solves work with arguments of their own, which the graph outside does not reach.
        inner = replace(problem, args=detached(problem.args))
        tensors = [problem.t, *problem.y0, *arguments, *params]
        if problem.dense and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            raise ValueError(
                "Backsolve has no gradient for the dense output: use gradient='direct', leave "
                "dense out and put the times wanted into t, or solve under torch.no_grad()"
            )
        paths: list[Path] = []
        leaves = _Backsolve.apply(inner, self, stats, paths, *tensors)
        return replace(paths[0], leaves=list(leaves))

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


class _Backsolve(torch.autograd.Function):
    """Inputs after t: the leaves of y0, the tensors of args that require grad, parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        strategy: Backsolve,
        stats: Stats,
        paths: list[Path],
        t: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        path = integrate(problem, list(problem.y0), problem.times, stats)
        paths.append(path)
        # The states are outputs of this function: to keep them here, too, would be a cycle.
        ctx.times, ctx.asked = path.times, len(path.times) - (path.crossing is not None)
        ctx.problem, ctx.stats = problem, stats
        ctx.method = strategy.method_after(problem, path.size)
        # The backward solve must evaluate the f that the forward solve evaluated.
        device = problem.y0[0].device.type
        ctx.autocast = torch.autocast(
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
        )
        ctx.save_for_backward(*path.leaves, *inputs[len(problem.y0) :])
        return tuple(path.leaves)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            results = _Backsolve._gradients(ctx, *grads)
        if not torch.is_grad_enabled():
            return results
        # With create_graph=True.
        found = [x for x in results if x is not None]
        finals = iter(final(found, (*grads, *ctx.saved_tensors), NO_SECOND_DERIVATIVE))
        return tuple(x if x is None else next(finals) for x in results)

    @staticmethod
    def _gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem, n = ctx.problem, len(ctx.problem.y0)
        saved = ctx.saved_tensors
        outputs, inputs = saved[:n], saved[n:]
        arguments = tensors_in(problem.args)
        wanted = [*arguments, *inputs[len(arguments) :]]
        largest = [float(grad.abs().max()) for grad in grads if grad.numel()]
        if not all(map(math.isfinite, largest)):
            # What comes after a loss without a gradient has none either.
            lost = [torch.full_like(x, math.nan) for x in (problem.t, *problem.y0, *wanted)]
            return None, None, None, None, *lost
        scale = _scale(max(largest, default=0.0), ctx.method)

        ctx.stats.backward = Stats()
        with ctx.autocast:
            results = _solve_backwards(
                problem,
                ctx.times,
                ctx.method,
                ctx.stats.backward,
                outputs,
                [grad / scale for grad in grads],
                wanted,
                wants_times=ctx.needs_input_grad[4],
            )
        t_grad, *others = (x if x is None else x * scale for x in results)
        if t_grad is not None:
            # An event's time is not one of those asked for, and these may not all be reached.
            t_grad = torch.cat([t_grad[: ctx.asked], t_grad.new_zeros(len(problem.t) - ctx.asked)])
        return None, None, None, None, t_grad, *others


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
        t_grad = torch.stack(time_grads[::-1]).to(problem.t)
    if len(times) > 1:
        adjoint = [a + grad[0] for a, grad in zip(adjoint, grads, strict=True)]
    return [t_grad, *adjoint, *integrals]


def _scale(largest: float, method: Method) -> float:
    """What to divide a small loss by, so that atol does not hide its gradient.

    The adjoint is linear in the gradient of the loss, and the error allowed to it is atol even
    where it is smaller than atol.  It is scaled up to at least ``SMALLEST_GRADIENT`` times atol.
    """
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
