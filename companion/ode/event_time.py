r"""Derivatives of an event's time and state, by the implicit function theorem.

The event time t* solves :math:`c(t, y(t), \varphi) = 0`.  Where
:math:`\dot c = c_t + c_y f(t^*, y^*)` is not zero,

.. math::
    dt^* = -\frac{c_y\, \delta y + c_\varphi\, \delta\varphi}{\dot c}, \qquad
    dy^* = \delta y + f(t^*, y^*)\, dt^*,

with the change :math:`\delta y` of the solution at the fixed time t*.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from companion.ode.crossing import Conditions, Crossing
from companion.ode.errors import GrazingEvent
from companion.ode.field import Field, Leaves
from companion.ode.final import final
from companion.ode.read_back import is_differentiated

NO_SECOND_DERIVATIVE = "the time of an event has no second derivative here: differentiate it once"


def event_time(
    crossing: Crossing, conditions: Conditions, field: Field, y: Leaves, steps: int
) -> tuple[Tensor, Leaves]:
    """The time and the state of an event, with their derivatives.

    Args:
        crossing: where it is.
        conditions: what crosses zero; its arguments carry their graph.
        field: the vector field.
        y: the state at the crossing, whose graph takes the time as a constant.
        steps: number of steps made, for the error.

    Returns:
        The time in float64 on the CPU, and the leaves of the state.

    Raises:
        GrazingEvent: if derivatives are wanted and the condition only touches zero.
    """
    t = torch.tensor(crossing.t, dtype=torch.float64)
    value = conditions(t, y)[crossing.column].to(device="cpu", dtype=torch.float64)
    if not is_differentiated(value):
        return t, y
    with torch.no_grad():
        rates = field(crossing.t, y)
    # Newton's step from the zero: it has no value, and the derivative of the zero.
    change = -(value - value.detach()) / _speed(crossing, conditions, y, rates, steps)
    time, *state = _Once.apply(
        t + change,
        *(leaf + rate * change.to(leaf.real) for leaf, rate in zip(y, rates, strict=True)),
    )
    return time, state


def _speed(
    crossing: Crossing, conditions: Conditions, y: Leaves, rates: Leaves, steps: int
) -> float:
    """The total derivative of the condition in time, along the solution."""
    t = torch.tensor(crossing.t, dtype=torch.float64)
    # Of torch.func, because a transform of torch.func may be going on around.
    value, pull_back = torch.func.vjp(
        lambda t, *leaves: conditions(t, list(leaves))[crossing.column],
        t,
        *(leaf.detach() for leaf in y),
    )
    partial_t, *partials = pull_back(torch.ones_like(value))
    parts = [
        partial_t,
        *(torch.sum((g.conj() * rate).real) for g, rate in zip(partials, rates, strict=True)),
    ]
    # Constants: what the condition uses may require grad.
    speed = sum(float(part.detach()) for part in parts)
    if abs(speed) <= 100 * torch.finfo(value.dtype).eps ** 0.5 * crossing.speed:
        raise GrazingEvent(
            "the condition touches zero with a derivative in time of "
            f"{speed:.1e}, so the event time has no derivative: solve under torch.no_grad() for "
            "its value, or take a condition that crosses zero",
            t=crossing.t,
            h=0.0,
            steps=steps,
        )
    return speed


class _Once(torch.autograd.Function):
    """The identity, refusing a second derivative: the formula above holds for the first only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.clone() for value in values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        if not torch.is_grad_enabled():
            return grads
        # With create_graph=True, which torch.func.grad always sets.
        return final(grads, ctx.saved_tensors, NO_SECOND_DERIVATIVE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, ...]:
        return tuple(tangent.clone() for tangent in tangents)
