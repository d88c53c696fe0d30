r"""One step of an explicit Runge-Kutta method as a pure function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion.ode.field import Leaves, Time
from companion.ode.tableau import Tableau

VectorField = Callable[[Time, Leaves], Leaves]


class Step(NamedTuple):
    """What a step leaves behind: enough to go on, to judge it, and to look inside it.

    ``f`` is ``f(t1, y1)`` where the method has it for nothing (first same as last), ``error`` is
    the error estimate where the method has one; otherwise they are None.  Stages may have more
    leaves than the state: integrands, which the step evaluates but which do not feed back.
    """

    y: Leaves
    f: Leaves | None
    error: Leaves | None
    stages: list[Leaves]


def runge_kutta_step(
    tableau: Tableau, field: VectorField, t: Time, y: Leaves, f0: Leaves, h: Time
) -> Step:
    """One step of an explicit Runge-Kutta method (formula: `companion.ode.tableau`).

    No branch depends on the value of a tensor and nothing is read back from the device, so a
    step can be differentiated, compiled, captured and replayed.

    Args:
        tableau: the method.
        field: ``field(t, leaves)``.
        t: time at the beginning.
        y: state at the beginning.
        f0: ``field(t, y)``.
        h: step size, negative when time runs backwards.
    """
    stages = [f0]
    for row, node in zip(tableau.stage_weights[1:], tableau.nodes[1:], strict=True):
        at = combine(y, stages, row, h)
        stages.append(field(t + node * h, at))
    last = stages[-1] if tableau.fsal else None
    # With first same as last, the last stage was evaluated at y1: no need to form it again.
    y1 = at if tableau.fsal else combine(y, stages, tableau.solution_weights, h)
    error = None
    if tableau.error_weights is not None:
        error = [
            weighted_sum([stage[i] for stage in stages], tableau.error_weights, h)
            for i in range(len(y))
        ]
    return Step(y1, last, error, stages)


def combine(
    y: Leaves, stages: Sequence[Leaves], weights: Sequence[tuple[int, Time]], h: Time
) -> Leaves:
    """``y + h * sum(w_j * stages[j])``, leaf by leaf."""
    return [
        _add_weighted(leaf, [stage[i] for stage in stages], weights, h) for i, leaf in enumerate(y)
    ]


def weighted_sum(rates: Leaves, weights: Sequence[tuple[int, float]], h: Time) -> Tensor:
    """``h * sum(w_j * rates[j])`` for the leaves of one tensor of the state."""
    (j, w), *rest = weights
    return _add_weighted(rates[j] * (w * h), rates, rest, h)


def _add_weighted(
    start: Tensor, rates: Leaves, weights: Sequence[tuple[int, Time]], h: Time
) -> Tensor:
    if not weights:
        return start
    (j, w), *rest = weights
    if isinstance(h, Tensor) or isinstance(w, Tensor):
        for j, w in weights:
            start = start + (w * h).to(start.device) * rates[j]
        return start
    # A chain of fused multiply-adds.  It is as fast as stacking the stages for a matrix product,
    # whose result would lose digits wherever TF32 is allowed.
    total = torch.add(start, rates[j], alpha=w * h)
    for j, w in rest:
        total.add_(rates[j], alpha=w * h)
    return total
