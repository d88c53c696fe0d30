"""The backward pass over segments of steps that are taken once more, from the last to the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from companion.adjoint.own_backward import Gradients, Incoming, RepeatableRecord
from companion.adjoint.products import pulled_back
from companion.adjoint.step_ends import StepEnds
from companion.ode.checkpoints import Checkpoint, Checkpoints
from companion.ode.field import Leaves, Time
from companion.ode.integrate import Path
from companion.ode.method import Method
from companion.ode.problem import Problem
from companion.ode.random import random_state_kept
from companion.ode.repeat import Repetition
from companion.ode.runge_kutta import RungeKuttaMarch
from companion.ode.solution import Stats
from companion.ode.tableau import Tableau

#: A state that is reached again differs from the first by no more than so many units in the last
#: place, also on a device that adds in an order of its own.
MOST_ROUNDING = 1e4


class Segments(RepeatableRecord):
    """A solve as its checkpoints cut it.

    Args:
        problem: what was solved.
        path: the solution.
        checkpoints: what was kept on the way.
    """

    needs_finite = False
    needs_outputs = False

    def __init__(self, problem: Problem, path: Path, checkpoints: Checkpoints) -> None:
        kept: list[Tensor] = []
        self.stored = [_Stored(checkpoint, kept) for checkpoint in checkpoints.kept]
        # They are kept as saved tensors.
        checkpoints.kept.clear()
        self._end = len(kept)
        # Copies: of the states that are put out a user may write to the last.
        kept += [leaf[-1].clone() for leaf in path.leaves]
        super().__init__(path, kept)
        self.problem = problem
        self.repetition = Repetition(problem, path, checkpoints)

    def pull_back(self, given: Incoming) -> Gradients:
        kept, _, grads, wanted, stats, wants_times, wants_jumps, inquiry = given
        problem, method = self.problem, self.problem.method
        nodes: Sequence[Time] = problem.times
        jumps: Sequence[Tensor] = ()
        if wants_times:
            nodes = _leaves(problem.t.detach().double().unbind())
        if wants_jumps:
            jumps = _leaves(method.jump_nodes.values())
            method = replace(method, jump_nodes=dict(zip(method.jump_t, jumps, strict=True)))
        targets = [*wanted, *(nodes if wants_times else ()), *jumps]
        knots = self.repetition.checkpoints.knots
        ends = StepEnds(inquiry, problem, knots, grads, stats)
        sweep = _Sweep(self, kept, method, nodes, targets, ends, stats)
        with random_state_kept(problem.y0[0].device):
            y0 = sweep.run(grads, kept[self._end :])
            if ends.needs(0):
                ends.put(0, problem.y0, y0)
        found = sweep.sums[: len(wanted)]
        of_times = sweep.sums[len(wanted) :]
        return Gradients(
            _stacked(of_times[: len(nodes)], nodes) if wants_times else None,
            _stacked(of_times[len(of_times) - len(jumps) :], jumps) if wants_jumps else None,
            y0,
            found,
        )

    def solve_again(
        self,
        kept: Sequence[Tensor],
        t: Tensor,
        jumps: Leaves,
        y0: Leaves,
        args: tuple,
        stats: Stats,
    ) -> Leaves:
        problem, method = self.problem, self.problem.method
        nodes = t.double().unbind() if t.requires_grad else problem.times
        if jumps:
            live = dict(zip(method.jump_t, (jump.double() for jump in jumps), strict=True))
            method = replace(method, jump_nodes=live)
        first, steps = self.stored[0].with_start(nodes[0], y0), self.repetition.steps
        with random_state_kept(problem.y0[0].device):
            _, states = self.repetition.segment(
                problem.field(stats, args), method, first, steps, nodes, stats
            )
        if states:
            _require_same([_differ(states[-1], kept[self._end :])])
        return [torch.stack(leaf) for leaf in zip(y0, *states, strict=True)]


class _Stored:
    """A checkpoint whose tensors are kept elsewhere.

    Args:
        checkpoint: what to store.
        tensors: where its tensors are appended.
    """

    def __init__(self, checkpoint: Checkpoint, tensors: list[Tensor]) -> None:
        leaves, self._spec = tree_flatten(checkpoint.memory)
        self._places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        self._first = len(tensors)
        # Those of an f that enables gradients would hold its graph.
        tensors.extend(leaves[i].detach() for i in self._places)
        self._others = [None if isinstance(x, Tensor) else x for x in leaves]
        self._checkpoint = checkpoint._replace(memory=None)
        self.step = checkpoint.step

    def tensors(self, kept: Sequence[Tensor]) -> Sequence[Tensor]:
        """Its own among all that are kept."""
        return kept[self._first :][: len(self._places)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Checkpoint:
        """The checkpoint with these tensors."""
        leaves = list(self._others)
        for i, x in zip(self._places, tensors, strict=True):
            leaves[i] = x
        return self._checkpoint._replace(memory=tree_unflatten(leaves, self._spec))

    def with_start(self, node: Time, y: Leaves) -> Checkpoint:
        """The first checkpoint with another initial state, and a node for the initial time."""
        t, _, _, *others = self.with_tensors([None] * len(self._places)).memory
        return self._checkpoint._replace(memory=(t, node, y, *others))

    def with_leaves(self, checkpoint: Checkpoint, node: Time) -> tuple[Checkpoint, list[Tensor]]:
        """The checkpoint with leaves of a graph for its tensors, and these leaves.

        The node of the first one is that of the first time.
        """
        if self.step == 0:
            leaves = _leaves(checkpoint.memory[2])
            return self.with_start(node, leaves), leaves
        leaves = _leaves(_tensors_of(checkpoint.memory))
        return self.with_tensors(leaves), leaves


class _Sweep:
    """One backward pass.

    Args:
        segments: what to go over.
        kept: the tensors of the checkpoints.
        method: how to step, with the nodes of jump times.
        nodes: the times asked for.
        targets: what gradients are summed for.
        ends: told of the ends of steps that it needs.
        stats: where evaluations are counted.

    Attributes:
        sums: the gradients with respect to the targets; None stands for zero.
    """

    def __init__(
        self,
        segments: Segments,
        kept: Sequence[Tensor],
        method: Method,
        nodes: Sequence[Time],
        targets: Sequence[Tensor],
        ends: StepEnds,
        stats: Stats,
    ) -> None:
        self.segments, self.kept = segments, kept
        self.method, self.nodes, self.stats = method, nodes, stats
        self.field = segments.problem.field(stats)
        self.targets, self.ends = targets, ends
        self.sums: list[Tensor | None] = [None] * len(targets)

    def run(self, grads: Leaves, end: Sequence[Tensor]) -> Leaves:
        """Go from the end to the beginning.

        Args:
            grads: the gradients of the loss with respect to the states put out.
            end: the last of these states.

        Returns:
            The gradients with respect to the leaves of y0.
        """
        last, count = self.segments.repetition.steps, len(grads[0])
        known, after = end, None
        differs = []
        for stored in reversed(self.segments.stored):
            begin = stored.with_tensors(stored.tensors(self.kept))
            # In a function of its own: nothing of a segment is alive while the next is repeated.
            after, count, reached = self._back_over(stored, begin, last, count, grads, after)
            differs.append(_differ(reached, known))
            last, known = stored.step, begin.memory[2]
        _require_same(differs)
        return [
            grad[0] if found is None else found + grad[0]
            for found, grad in zip(after, grads, strict=True)
        ]

    def _back_over(
        self,
        stored: _Stored,
        begin: Checkpoint,
        last: int,
        count: int,
        grads: Leaves,
        after: list[Tensor | None] | None,
    ) -> tuple[list[Tensor | None], int, Leaves]:
        """Go back over one segment.

        Args:
            stored, begin: where it begins.
            last: number of the step before which it ends.
            count: how many states have been put out when it ends.
            grads: the gradients with respect to these.
            after: those with respect to what is remembered where it ends; None at the very end,
                where it only leads to states that are put out.

        Returns:
            The gradients with respect to what is remembered where it begins, how many states have
            been put out there, and the state that its repetition has reached.
        """
        checkpoint, leaves = stored.with_leaves(begin, self.nodes[0])
        seen = _Seen(self.ends, self.method)
        with torch.enable_grad():
            march, states = self.segments.repetition.segment(
                self.field, self.method, checkpoint, last, self.nodes, self.stats, seen.look
            )
        first = count - len(states)
        values = [leaf for state in states for leaf in state]
        cotangents = [grad[i] for i in range(first, count) for grad in grads]
        reached = states[-1] if after is None and states else march.y
        if after is not None:
            values += _tensors_of(march.remember())
            cotangents += after
        before = self._pull_back(values, cotangents, leaves, seen)
        return before, first, [leaf.detach() for leaf in reached]

    def _pull_back(
        self,
        values: Leaves,
        cotangents: list[Tensor | None],
        leaves: Leaves,
        seen: _Seen,
    ) -> list[Tensor | None]:
        """The gradients with respect to the leaves.

        Those of the targets are added to the sums, and the ends of steps are told of theirs.
        """
        found = pulled_back(values, [*leaves, *self.targets, *seen.tensors], cotangents)
        sums = found[len(leaves) :][: len(self.targets)]
        seen.tell(found[len(leaves) + len(sums) :])
        for i, grad in enumerate(sums):
            if grad is not None:
                self.sums[i] = grad if self.sums[i] is None else self.sums[i] + grad
        return found[: len(leaves)]


class _Seen:
    """The ends of steps that a repetition has come by, with their graph.

    Args:
        ends: told of those that it needs.
        method: how the repetition steps.
    """

    def __init__(self, ends: StepEnds, method: Method) -> None:
        self._ends = ends
        tableau = method.scheme
        #: Whether f at the end of a step is handed on that was not computed from the state there:
        #: the solution of equations, or a stage that stands for it.
        self._two_numbers = isinstance(tableau, Tableau) and (
            tableau.reuses_last or (tableau.first_explicit and not tableau.explicit)
        )
        #: Number of the step that begins there, state, and what is handed on apart from it.
        self._places: list[tuple[int, Leaves, Leaves]] = []

    def look(self, n: int, march: RungeKuttaMarch) -> None:
        """Remember the end before step n, where the march stands, if it is needed."""
        if not self._ends.needs(n):
            return
        _, _, y, rates, *_ = march.remember()
        if rates is None or not self._two_numbers:
            self._places.append((n, y, []))
            return
        # Under a name of its own: the state may have been computed from them, too.
        rates = [rate.view_as(rate) for rate in rates]
        march.know(rates)
        self._places.append((n, y, rates))

    @property
    def tensors(self) -> list[Tensor]:
        """Those whose gradients `tell` takes."""
        return [x for _, y, rates in self._places for x in (*y, *rates)]

    def tell(self, grads: Sequence[Tensor | None]) -> None:
        """Hand on the gradients with respect to the tensors, from the last end to the first."""
        found = iter(grads)
        told = []
        for n, y, rates in self._places:
            a = [_or_zero(next(found), leaf) for leaf in y]
            of_rates = [next(found) for _ in rates]
            # At the very end nobody takes what is handed on.
            used = any(grad is not None for grad in of_rates)
            of_rates = [_or_zero(grad, rate) for grad, rate in zip(of_rates, rates, strict=True)]
            told.append((n, y, a, of_rates if used else None))
        for end in reversed(told):
            self._ends.put(*end)


def _or_zero(grad: Tensor | None, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if grad is None else grad


def _leaves(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]


def _tensors_of(memory: tuple) -> list[Tensor]:
    return [x for x in tree_leaves(memory) if isinstance(x, Tensor)]


def _stacked(grads: Sequence[Tensor | None], nodes: Sequence[Tensor]) -> Tensor:
    """Gradients with respect to times as one tensor."""
    pairs = zip(grads, nodes, strict=True)
    return torch.stack([_or_zero(grad, node) for grad, node in pairs])


@torch.no_grad()
def _differ(reached: Leaves, known: Sequence[Tensor]) -> Tensor:
    """Whether a state differs from what it was the first time by more than rounding."""
    flags = [torch.zeros((), dtype=torch.bool, device=known[0].device)]
    for x, y in zip(reached, known, strict=True):
        if y.numel():
            slack = MOST_ROUNDING * torch.finfo(y.dtype).eps * y.abs().amax()
            # Written so that a NaN differs.
            flags.append(~((x - y).abs() <= slack).all())
    return torch.stack(flags).any()


def _require_same(differs: Sequence[Tensor]) -> None:
    if bool(torch.stack(differs).any()):
        raise ValueError(
            "f returned something else when the steps were repeated, so that their gradient "
            "would be wrong: make f a function of t, y and args alone (no counters, no running "
            "averages), or use gradient='direct'"
        )
