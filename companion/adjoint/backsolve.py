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
from torch.autograd.function import once_differentiable

from companion.adjoint.captured import captured, parameters_of
from companion.adjoint.trees import detached, tensors_in
from companion.ode.field import Field, Leaves, Time
from companion.ode.integrate import integrate
from companion.ode.march import begin
from companion.ode.norm import rms_norm
from companion.ode.problem import Control, Method, Problem
from companion.ode.solution import Stats
from companion.ode.tableau import Tableau


#: Error of a reconstructed state, relative to the solution's size, beyond which a gradient is called unreliable.
LARGEST_DRIFT = 1e-2


class LostStateWarning(UserWarning):
    """A backward solve did not reproduce the states of the forward solve."""


@dataclass(frozen=True)
class Backsolve:
    """Optimise, then discretise: solve the adjoint equations backwards in time.

    Memory does not grow with the number of steps: only the states at the output times are kept,
    and the backward solve starts anew from each of them. The gradient has the error of the
    backward solve, and of y reconstructed backwards, which is unstable where the flow contracts
    strongly: `Direct` has neither.  A `LostStateWarning` tells when a reconstructed state is off
    by more than one per cent.

    The parameters are integrated as a quadrature, outside of the error norm (the seminorm of
    Kidger, Chen and Lyons, ICML 2021): they do not feed back into y and a.

    Args:
        method, rtol, atol, control, first_step, max_steps: of the backward solve, as in
            `companion.solve`; None takes those of the forward solve.  Its norm is the larger
            of the forward solve's norms of y and of a.
        params: tensors that f uses, besides its arguments, and whose gradients are wanted.
            None finds them: the parameters of a module, and what else f closes over.
    """

    method: Tableau | str | None = None
    rtol: float | None = None
    atol: float | None = None
    control: Control | None = None
    first_step: float | None = None
    max_steps: int | None = None
    params: Sequence[Tensor] | None = None

    def __call__(self, problem: Problem, stats: Stats) -> Leaves:
        params: list[Tensor] = []
        if torch.is_grad_enabled():
            known = parameters_of(problem.f) if self.params is None else list(self.params)
            params = [p for p in known if p.requires_grad]
            params += captured(problem, params, stats)
        arguments = tensors_in(problem.args)
        # The solves work with arguments of their own, which the graph outside does not reach.
        inner = replace(problem, args=detached(problem.args))
        return list(
            _Backsolve.apply(
                inner, self, stats, problem.t, *problem.y0, *arguments, *params
            )
        )

    def method_after(self, forward: Method, last_size: float | None) -> Method:
        """How to step backwards after a forward solve that ended with steps of this size."""
        choices = {
            "tableau": self.method,
            "rtol": self.rtol,
            "atol": self.atol,
            "control": self.control,
            "max_steps": self.max_steps,
        }
        given = {name: value for name, value in choices.items() if value is not None}
        first_step = last_size if self.first_step is None else self.first_step

        def norm(leaves: Leaves) -> Tensor:
            half = len(leaves) // 2
            return torch.maximum(forward.norm(leaves[:half]), forward.norm(leaves[half:]))

        return replace(forward, **given, norm=norm, first_step=first_step)


class _AdjointField:
    """The vector field of (y, a), with the parameter gradient as an integrand.

    The leaves are those of y and then those of a; the value has those of dy/dt, of da/dt and of
    ``-a df/dtheta`` for every wanted tensor.
    """

    def __init__(self, field: Field, wanted: list[Tensor]) -> None:
        self.field = field
        self.wanted = wanted

    def __call__(self, t: Time, leaves: Leaves) -> Leaves:
        half = len(leaves) // 2
        y = [leaf.detach().requires_grad_() for leaf in leaves[:half]]
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
                [rates[i] for i in live], inputs, minus_a, allow_unused=True
            )
        filled = (
            torch.zeros_like(x) if grad is None else grad
            for x, grad in zip(inputs, pulled, strict=True)
        )
        return [*(rate.detach() for rate in rates), *filled]


class _Backsolve(torch.autograd.Function):
    """Inputs after t: the leaves of y0, the tensors of args that require grad, parameters."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, strategy: Backsolve, stats: Stats, t: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        leaves, march = integrate(problem, list(problem.y0), problem.times, stats)
        ctx.problem, ctx.stats = problem, stats
        ctx.method = strategy.method_after(problem.method, getattr(march, "size", None))
        ctx.save_for_backward(*leaves, *inputs[len(problem.y0) :])
        return tuple(leaves)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem, times, n = ctx.problem, ctx.problem.times, len(ctx.problem.y0)
        outputs, inputs = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        arguments = tensors_in(problem.args)
        wanted = [*arguments, *inputs[len(arguments) :]]
        wants_times = ctx.needs_input_grad[3]
        time_grads: list[Tensor] = []

        ctx.stats.backward = stats = Stats()
        field = _AdjointField(problem.field(stats), wanted)
        adjoint = [grad[-1] for grad in grads]
        march = begin(
            field, ctx.method, times[-1], [*(leaf[-1] for leaf in outputs), *adjoint], stats
        )
        drifts: list[Tensor] = []
        for i in range(len(times) - 2, -1, -1):
            if wants_times:
                time_grads.append(_inner([grad[i + 1] for grad in grads], march.rates))
            arrived = march.to(times[i], end=times[i])
            state, adjoint = [leaf[i] for leaf in outputs], arrived[n:]
            drifts.append(
                rms_norm([x - y for x, y in zip(arrived[:n], state, strict=True)])
            )
            if i > 0:
                adjoint = [a + grad[i] for a, grad in zip(adjoint, grads, strict=True)]
            march.restart([*state, *adjoint])
        _warn_of_drift(drifts, rms_norm(outputs))
        if wants_times:
            # The value at t0 itself is y0, whatever t0 is: g_0 has no part in dL/dt0.
            moves = len(times) > 1
            time_grads.append(-_inner(adjoint, march.rates) if moves else torch.zeros(()))
        y0_grads = [
            a + grad[0] if len(times) > 1 else a for a, grad in zip(adjoint, grads, strict=True)
        ]
        others = march.integrals or [torch.zeros_like(x) for x in wanted]
        t_grad = torch.stack(time_grads[::-1]).to(problem.t) if wants_times else None
        return None, None, None, t_grad, *y0_grads, *others


def _warn_of_drift(drifts: list[Tensor], size: Tensor) -> None:
    """Look at the largest error of the reconstructed states, once for all output times."""
    if not drifts:
        return
    worst, size = torch.stack((torch.stack(drifts).max(), size)).tolist()
    # Written so that a NaN is a drift, too.
    if not worst <= LARGEST_DRIFT * size:
        warnings.warn(
            "the backward solve did not find its way back: the state it reconstructed at an "
            f"output time is off by {worst:.1e}, where the solution has the size {size:.1e}, so "
            "that this gradient is not to be trusted.  The flow contracts too strongly to be reversed: use gradient='direct', or ask for more output "
            "times, at each of which the backward solve starts from the known state",
            LostStateWarning,
            stacklevel=2,
        )


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Real inner product of the leaves that both have."""
    return sum(torch.sum((x.conj() * y).real) for x, y in zip(a, b, strict=False))
