"""From an initial value problem to the states at the times asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from companion.ode.errors import NonFiniteState
from companion.ode.field import Leaves, Time
from companion.ode.march import March, begin
from companion.ode.problem import Problem
from companion.ode.solution import Stats


def integrate(
    problem: Problem, y0: Leaves, nodes: Sequence[Time], stats: Stats
) -> tuple[Leaves, March]:
    """Solve, recording a graph or not as the surrounding grad mode says.

    Args:
        problem: what to solve.
        y0: leaves of the initial state.
        nodes: the times, as floats or as 0-dim tensors where they are to have gradients.
        stats: where steps and evaluations are counted.

    Returns:
        The leaves of the states, each with a leading axis of length T, and the march that made
        them, standing at the last time.

    Raises:
        SolverError: if the last time is not reached with a finite state.
    """
    times = problem.times
    march = begin(problem.field(stats), problem.method, times[0], y0, stats, nodes[0])
    states = [y0]
    for time, node in zip(times[1:], nodes[1:], strict=True):
        states.append(march.to(time, times[-1], node))
    leaves = [torch.stack(leaf) for leaf in zip(*states, strict=True)]
    _require_finite(leaves, march)
    return leaves, march


@torch.no_grad()
def _require_finite(leaves: Leaves, march: March) -> None:
    finite = [torch.isfinite(x).reshape(len(x), x[0].numel()).all(1) for x in leaves]
    together = torch.stack([f.to(finite[0].device) for f in finite]).all(0)
    if not together.all():
        first = int(together.long().argmin())
        raise NonFiniteState(
            f"the state is infinite or NaN at t[{first}]: check y0 and f, or take smaller steps",
            t=march.t,
            h=0.0,
            steps=march.stats.accepted + march.stats.rejected,
        )
