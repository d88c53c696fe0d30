"""The solution inside the steps of a batch, where every sample has its own steps and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from companion.ode.batched_step import column
from companion.ode.field import Leaves
from companion.ode.tableau import Tableau


def interpolate(
    tableau: Tableau,
    knots: Tensor,
    states: Sequence[Leaves],
    stages: Sequence[Sequence[Leaves]],
    direction: Tensor | None,
    targets: Tensor,
    step: Tensor,
    sample: Tensor,
) -> Leaves:
    """The states of K samples at times inside of J steps (formula: `companion.ode.tableau`).

    Args:
        tableau: the method.
        knots: ends of the steps, shape (J + 1, B).
        states: for every step the leaves at its beginning, each of shape (B, ...).
        stages: for every step the values of f that the dense output wants.
        direction: shape (B,), -1 where times are negated; None where none are.
        targets: K times, each inside of
        step, sample: this step of this sample.

    Returns:
        Leaves of shape (K, ...).
    """
    begin = knots[step, sample]
    h = knots[step + 1, sample] - begin
    theta = (targets - begin) / h
    powers = torch.tensor(tableau.dense_polynomials, dtype=theta.dtype, device=theta.device)
    weights = torch.zeros((), dtype=theta.dtype, device=theta.device)
    for coefficients in reversed(powers.unbind(1)):
        weights = (weights + coefficients[:, None]) * theta
    weights = weights * (h if direction is None else h * direction[sample])
    place = step * knots.shape[1] + sample
    values = []
    for i, leaf in enumerate(states[0]):
        value = torch.cat([state[i] for state in states]).index_select(0, place)
        for j, row in enumerate(tableau.dense_polynomials):
            if any(row):
                rates = torch.cat([stage[j][i] for stage in stages]).index_select(0, place)
                value = value + column(weights[j], leaf) * rates
        values.append(value.to(leaf.dtype))
    return values


class Outputs:
    """Collects the states at the times asked for, a block of steps at a time.

    Args:
        times: shape (B, T), increasing along each row.
        y0: leaves of the state at the first times.
        direction: see `interpolate`.
    """

    def __init__(self, times: Tensor, y0: Leaves, direction: Tensor | None) -> None:
        self.leaves = [leaf.new_empty((times.shape[1], *leaf.shape)) for leaf in y0]
        self._inner = times.T[1:-1]
        self._y0 = y0
        self._direction = direction

    def write(
        self,
        tableau: Tableau,
        knots: Tensor,
        states: Sequence[Leaves],
        stages: Sequence[Sequence[Leaves]],
    ) -> None:
        """Write what lies inside of these steps; one read-back.  Arguments: see `interpolate`."""
        due = (self._inner > knots[0]) & (self._inner <= knots[-1])
        number, sample = due.nonzero().unbind(1)
        if not len(number):
            return
        targets = self._inner[number, sample]
        # A knot that repeats the one before begins no step that a target can be inside of.
        step = (knots[:, sample] < targets).sum(0) - 1
        values = interpolate(
            tableau, knots, states, stages, self._direction, targets, step, sample
        )
        for leaf, value in zip(self.leaves, values, strict=True):
            leaf[number + 1, sample] = value

    def finish(self, y: Leaves) -> Leaves:
        """All outputs, given the states at the last times."""
        for leaf, first, last in zip(self.leaves, self._y0, y, strict=True):
            leaf[0], leaf[-1] = first, last
        return self.leaves
