"""Taking a part of a solve's steps again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from companion.ode.begin import begin
from companion.ode.checkpoints import Checkpoint, Checkpoints
from companion.ode.field import Field, Leaves, Time
from companion.ode.integrate import Path
from companion.ode.method import Method
from companion.ode.observe import Observer
from companion.ode.problem import Problem
from companion.ode.random import set_random_state
from companion.ode.runge_kutta import RungeKuttaMarch
from companion.ode.solution import Stats


class _Dice(Observer):
    """Makes f draw the same random numbers as it did in a step that was accepted."""

    def __init__(self, checkpoints: Checkpoints, first: int) -> None:
        self.checkpoints, self.number = checkpoints, first

    def tried(self, t: float, y: Leaves, h: float) -> None:
        state = self.checkpoints.random[self.number]
        if state is not None:
            set_random_state(self.checkpoints.device, state)
        self.number += 1


class Repetition:
    """A solve whose steps can be taken again, with a graph or without.

    Args:
        problem: what was solved.
        path: the solution.
        checkpoints: what was kept on the way.

    Attributes:
        steps: how many there are.
    """

    def __init__(self, problem: Problem, path: Path, checkpoints: Checkpoints) -> None:
        self.problem, self.crossing, self.checkpoints = problem, path.crossing, checkpoints
        self.steps = len(checkpoints.knots) - 1
        #: How many of the states were asked for; an event adds its own.
        self._asked = len(path.times) - (path.crossing is not None)

    def segment(
        self,
        field: Field,
        method: Method,
        checkpoint: Checkpoint,
        last: int,
        nodes: Sequence[Time],
        stats: Stats,
        look: Callable[[int, RungeKuttaMarch], None] | None = None,
    ) -> tuple[RungeKuttaMarch, list[Leaves]]:
        """The steps from a checkpoint to, but not including, number ``last``.

        Args:
            field: the vector field.
            method: how to step, with the nodes of jump times.
            checkpoint: where to begin; its memory is taken as it is.
            last: where to end.
            nodes: the times asked for.
            stats: where evaluations are counted.
            look: called before every step after the first and at the end, with the number of the
                step and the march that stands there.

        Returns:
            The march where it ended, and the states at the times that it has come by.
        """
        knots, times = self.checkpoints.knots, self.problem.times
        dice = _Dice(self.checkpoints, checkpoint.step)
        t, node, y, *_ = checkpoint.memory
        method = replace(method, observers=(dice,))
        march = begin(field, method, t, y, stats, node, repeated=True)
        march.recall(checkpoint.memory)
        steps = slice(checkpoint.step + 1, last + 1)
        march.follow(knots[steps], self.checkpoints.notes[steps])
        set_random_state(self.checkpoints.device, checkpoint.random)
        states: list[Leaves] = []
        output = checkpoint.output
        for step in range(checkpoint.step, last):
            march.advance(times[output], times[-1], nodes[output])
            while output < self._asked and march.has_passed(times[output]):
                states.append(march.state(times[output], nodes[output]))
                output += 1
            if look is not None:
                look(step + 1, march)
        if self.crossing is not None and last == self.steps:
            states.append(march.shortened(self.crossing.t))
        return march, states
