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
    tableau: Tableau,
    field: VectorField,
    t: Time,
    y: Leaves,
    f0: Leaves,
    h: Time,
    zeros: Leaves | None = None,
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
        zeros: what `zeros_of` gives for y, for callers that take many steps.
    """
    stages = [f0]
    add = _add_out_of_place if isinstance(h, Tensor) else _add
    for row, node in tableau.later_stages:
        at = add(y, stages, row, h)
        stages.append(field(t + node * h, at))
    last = stages[-1] if tableau.fsal or tableau.reuses_last else None
    # With first same as last, the last stage was evaluated at y1: no need to form it again.
    y1 = at if tableau.fsal else combine(y, stages, tableau.solution_weights, h)
    error = None
    if tableau.error_weights is not None:
        zeros = zeros_of(y) if zeros is None else zeros
        error = combine(zeros, stages, tableau.error_weights, h)
    return Step(y1, last, error, stages)


def combine(
    y: Leaves, stages: Sequence[Leaves], weights: Sequence[tuple[int, Time]], h: Time
) -> Leaves:
    """``y + h * sum(w_j * stages[j])``, leaf by leaf."""
    live = isinstance(h, Tensor) or (weights and isinstance(weights[0][1], Tensor))
    return (_add_out_of_place if live else _add)(y, stages, weights, h)


def _add(
    y: Leaves, stages: Sequence[Leaves], weights: Sequence[tuple[int, float]], h: float
) -> Leaves:
    # Chains of fused multiply-adds.  They are as fast as stacking the stages for a matrix
    # product, whose result would lose digits wherever TF32 is allowed.  This is the innermost
    # loop of a solve, where a function call for every leaf would be felt.
    try:
        sums = []
        for i, leaf in enumerate(y):
            total = leaf
            for j, w in weights:
                if total is leaf:
                    total = torch.add(leaf, stages[j][i], alpha=w * h)
                else:
                    total.add_(stages[j][i], alpha=w * h)
            sums.append(total)
        return sums
    except RuntimeError:
        # Under vmap a later stage may have the hidden axis where the first has not, and a sum
        # without it cannot take it in.  Where something else is wrong, it is so again.
        return _add_out_of_place(y, stages, weights, h)


def _add_out_of_place(
    y: Leaves, stages: Sequence[Leaves], weights: Sequence[tuple[int, Time]], h: Time
) -> Leaves:
    """The same where the size of the step, or a time inside it, may have a gradient."""
    sums = list(y)
    for j, w in weights:
        size = w * h
        sums = [
            total + (size.to(total.device) if isinstance(size, Tensor) else size) * rate
            for total, rate in zip(sums, stages[j], strict=False)
        ]
    return sums


def zeros_of(y: Leaves) -> Leaves:
    """For every leaf a 0-dim zero: what a sum of rates alone begins with in `combine`.

    The first term is then a multiply-add like the others, at half the cost of a product with a
    number, which torch makes a tensor of.
    """
    return [leaf.new_zeros(()) for leaf in y]
