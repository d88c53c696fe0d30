"""Repeating the steps that the samples of a batch have taken, to differentiate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from companion.ode.batched.dense import interpolate, step_of
from companion.ode.batched.step import GraphStepper
from companion.ode.field import Field, Leaves
from companion.ode.tableau import Tableau


def replay(
    field: Field,
    tableau: Tableau,
    y0: Leaves,
    times: Tensor,
    direction: Tensor | None,
    blocks: Sequence[Tensor],
) -> Leaves:
    """Take the accepted steps again, without writing in place.

    Step number j of the batch is the j-th accepted step of every sample.  A sample that has
    arrived stays, and f is shown its initial state instead of its last: whatever is infinite or
    NaN there would otherwise reach the gradients of the others as zero times infinity.

    Args:
        field: ``field(t, leaves)`` with t of shape (B,).
        tableau: the method.
        y0: leaves of the initial state, each of shape (B, ...).
        times: where the states are wanted, shape (B, T), increasing along each row.
        direction: shape (B,), -1 where times are negated, else 1; None where none are.
        blocks: the times at which the samples stood, see `BatchedMarch.knots`.

    Returns:
        The states at the times, leaves of shape (T, B, ...).
    """
    tableau = without_closing_stage(tableau)
    ends = accepted_ends(blocks)
    moves = ends[1:] > ends[:-1]
    # Ends of steps are constants, but for the first and the last time.
    knots = torch.where(ends == ends[-1], times[:, -1], ends)
    knots = torch.cat([times[None, :, 0], knots[1:]])
    targets = times[:, 1:-1].T
    # Where f is looked at: where a step begins, and where the solution inside one needs its end.
    seen = torch.cat([moves, torch.zeros_like(moves[:1])])
    closing = len(targets) > 0 and len(tableau.dense_polynomials) > tableau.stages
    inside = step_of(ends, targets.detach())
    if closing:
        seen.scatter_(0, inside + 1, True)
    safe = [leaf.detach() for leaf in y0]

    def signed(t: Tensor) -> Tensor:
        return t if direction is None else t * direction

    def rates_at(number: int, y: Leaves) -> Leaves:
        t = torch.where(seen[number], knots[number], ends[0])
        return field(signed(t), _select(seen[number], y, safe))

    stepper = GraphStepper(tableau, field, y0, ends.dtype)
    y, states, stages = y0, [], []
    rates = rates_at(0, y)
    for j, moving in enumerate(moves):
        t = torch.where(moving, knots[j], ends[0])
        begin = _select(moving, y, safe)
        h = signed(knots[j + 1] - knots[j])
        step = stepper(signed(t), begin, rates, h)
        y = _select(moving, step.y, y)
        if closing or j + 1 < len(moves):
            rates = rates_at(j + 1, y)
        if len(targets):
            states.append(begin)
            stages.append([*step.stages, rates] if closing else step.stages)
    if not len(targets):
        return [torch.stack(pair) for pair in zip(y0, y, strict=True)]
    sample = torch.arange(ends.shape[1], device=ends.device).repeat(len(targets))
    inner = interpolate(
        tableau, knots, states, stages, direction, targets.flatten(), inside.flatten(), sample
    )
    return [
        torch.cat([first[None], between.unflatten(0, inside.shape), last[None]])
        for first, between, last in zip(y0, inner, y, strict=True)
    ]


def _select(mask: Tensor, y: Leaves, other: Leaves) -> Leaves:
    return [
        torch.where(mask.view(-1, *(1,) * (a.ndim - 1)), a, b)
        for a, b in zip(y, other, strict=True)
    ]


@torch.no_grad()
def accepted_ends(blocks: Sequence[Tensor]) -> Tensor:
    """The ends of every sample's accepted steps, shape (steps + 1, B).

    A sample with fewer steps than another repeats its last end.

    Args:
        blocks: times that never decrease; each block begins with the end of the one before.
    """
    t = torch.cat([blocks[0], *(block[1:] for block in blocks[1:])])
    number = torch.cat([torch.zeros_like(t[:1], dtype=torch.int64), (t[1:] > t[:-1]).cumsum(0)])
    ends = t[-1].repeat(int(number[-1].max()) + 1, 1)
    # A time that repeats the one before has the same number, and is written over it.
    return ends.scatter_(0, number, t)


def without_closing_stage(tableau: Tableau) -> Tableau:
    """The method without error estimate, and without a last stage that is the next one's first."""
    if not tableau.fsal:
        return tableau.plain
    return replace(tableau, a=tableau.a[:-1], b=tableau.b[:-1], error=None, embedded_order=None)
