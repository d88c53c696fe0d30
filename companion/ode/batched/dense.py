"""The solution inside the steps of a batch, where every sample has its own steps and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from companion.ode.batched.step import column
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
        direction: shape (B,), -1 where times are negated, else 1; None where none are.
        targets: K times.
        step, sample: for every target the step and the sample that it is inside of.

    Returns:
        Leaves of shape (K, ...).
    """
    # One index into flattened tensors: much faster than two.
    place = step * knots.shape[1] + sample
    begin = knots.flatten().index_select(0, place)
    h = knots[1:].flatten().index_select(0, place) - begin
    theta = (targets - begin) / h
    needed = [j for j, row in enumerate(tableau.dense_polynomials) if any(row)]
    weights = _weights(tableau, needed, theta) * (h if direction is None else h * direction[sample])
    values = []
    for i, leaf in enumerate(states[0]):
        value = torch.cat([state[i] for state in states]).index_select(0, place)
        for j, weight in zip(needed, weights, strict=True):
            rates = torch.cat([stage[j][i] for stage in stages]).index_select(0, place)
            value = torch.addcmul(value, column(weight, leaf), rates)
        values.append(value.to(leaf.dtype))
    return values


def _weights(tableau: Tableau, stages: Sequence[int], theta: Tensor) -> Tensor:
    """The dense weights of some stages at K places inside steps, shape (stages, K)."""
    rows = [tableau.dense_polynomials[j] for j in stages]
    powers = torch.tensor(rows, dtype=theta.dtype, device=theta.device)[..., None].unbind(1)
    value = powers[-1] * theta
    for coefficients in reversed(powers[:-1]):
        value = (value + coefficients) * theta
    return value


class Outputs:
    """Collects the states at the times asked for, a block of steps at a time.

    Args:
        times: shape (B, T), increasing along each row.
        y0: leaves of the state at the first times.
        direction: see `interpolate`.
    """

    def __init__(self, times: Tensor, y0: Leaves, direction: Tensor | None) -> None:
        self.leaves = [leaf.new_empty((times.shape[1], *leaf.shape)) for leaf in y0]
        self._inner = times[:, 1:-1].T.contiguous()
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
        inside = step_of(knots, self._inner)
        number, sample = ((inside >= 0) & (inside < len(states))).nonzero().unbind(1)
        if not len(sample):
            return
        place = number * inside.shape[1] + sample
        targets, step = (x.flatten().index_select(0, place) for x in (self._inner, inside))
        values = interpolate(tableau, knots, states, stages, self._direction, targets, step, sample)
        for leaf, value in zip(self.leaves, values, strict=True):
            leaf[1:].flatten(0, 1).index_copy_(0, place, value)

    def finish(self, y: Leaves) -> Leaves:
        """All outputs, given the states at the last times."""
        for leaf, first, last in zip(self.leaves, self._y0, y, strict=True):
            leaf[0], leaf[-1] = first, last
        return self.leaves


def step_of(knots: Tensor, targets: Tensor) -> Tensor:
    """The number of the step that a time is inside of, its end included; shape (T, B).

    It is -1 for a time that is not after the first knot, J for one after the last.

    Args:
        knots: ends of J steps, shape (J + 1, B), never decreasing.  One that repeats the one
            before begins no step that a time could be inside of.
        targets: times, shape (T, B).
    """
    return torch.searchsorted(knots.T.contiguous(), targets.T.contiguous()).T - 1
