"""From an initial value problem to the states at the times asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from companion.ode.begin import begin
from companion.ode.checkpoints import Checkpoints
from companion.ode.crossing import Conditions, Crossing, Watch
from companion.ode.dense import LINEAR, Dense, Piece
from companion.ode.errors import NonFiniteState
from companion.ode.field import Leaves, Time, time_dtype
from companion.ode.march import March
from companion.ode.problem import Problem
from companion.ode.read_back import all_finite
from companion.ode.solution import Stats


@dataclass(frozen=True)
class Path:
    """A solution as the solve loop leaves it.

    Attributes:
        times: the times of the states: those asked for, or those before an event and its time.
        leaves: the states, leaf by leaf, with a leading axis over the times.
        size: what the next step would have been; None with fixed steps.
        crossing: the event that ended the solve.
        dense: the solution in between, if it was asked for.
    """

    times: tuple[float, ...]
    leaves: Leaves
    size: float | None
    crossing: Crossing | None = None
    dense: Dense | None = None


def integrate(
    problem: Problem,
    y0: Leaves,
    nodes: Sequence[Time],
    stats: Stats,
    checkpoints: Checkpoints | None = None,
) -> Path:
    """Solve, recording a graph or not as the surrounding grad mode says.

    Args:
        problem: what to solve.
        y0: leaves of the initial state.
        nodes: the times, as floats or as 0-dim tensors where they are to have gradients.
        stats: where steps and evaluations are counted.
        checkpoints: filled on the way.

    Raises:
        SolverError: if the last time is not reached with a finite state.
    """
    march = begin(problem.field(stats), problem.method, problem.times[0], y0, stats, nodes[0])
    if problem.rates is not None:
        march.know(problem.rates)
    if math.isinf(problem.times[-1]):
        march.larger_steps = "or give t a finite end: the event may never come"
    try:
        return _path(problem, march, nodes, checkpoints)
    finally:
        for observer in problem.method.observers:
            observer.finished()


def _path(
    problem: Problem, march: March, nodes: Sequence[Time], checkpoints: Checkpoints | None
) -> Path:
    times, end = problem.times, problem.times[-1]
    if checkpoints is not None:
        # Before anybody has f evaluated here: a repetition evaluates it, too.
        checkpoints.look(march, 1)
    watch = Watch(conditions_of(problem), march) if problem.events else None
    states, pieces = [march.y], []
    crossing: Crossing | None = None
    for time, node in zip(times[1:], nodes[1:], strict=True):
        while crossing is None and not march.has_passed(time):
            if checkpoints is not None and march.begin is not None:
                checkpoints.look(march, len(states))
            march.advance(time, end, node)
            if problem.dense:
                pieces.append(march.piece)
            if watch is not None:
                crossing = watch.look()
        if crossing is not None and not _precedes(time, crossing.t, times):
            break
        states.append(march.state(time, node))
    if checkpoints is not None and march.begin is not None:
        checkpoints.close(march)
    if crossing is not None:
        times = (*times[: len(states)], crossing.t)
        states.append(march.shortened(crossing.t))
    leaves = [torch.stack(leaf) for leaf in zip(*states, strict=True)]
    require_finite(leaves, march)
    dense = None
    if problem.dense:
        if not pieces:
            # A single time: no step, but the state and how fast it changes.
            pieces = [Piece(*times, *times, nodes[0], 1.0, march.y, [march.rates], LINEAR)]
        dense = Dense(pieces, times[-1])
    return Path(times, leaves, march.size, crossing, dense)


def conditions_of(problem: Problem) -> Conditions:
    """The conditions of the problem's events."""
    return Conditions(problem.events, problem.spec, problem.args, time_dtype(problem.y0))


def _precedes(time: float, event: float, times: Sequence[float]) -> bool:
    return time < event if times[-1] > times[0] else time > event


def require_finite(leaves: Leaves, march: March) -> None:
    # Detached, which costs less than a change of the grad mode.
    leaves = [leaf.detach() for leaf in leaves]
    if not all(map(all_finite, leaves)):
        states = enumerate(zip(*leaves, strict=True))
        first = next(i for i, state in states if not all(map(all_finite, state)))
        raise NonFiniteState(
            f"the state is infinite or NaN at t[{first}]: check y0 and f, or take smaller steps",
            t=march.t,
            h=0.0,
            steps=march.stats.accepted + march.stats.rejected,
        )
