r"""The exact gradient of a solve whose steps are taken back: memory does not grow with them.

A step of the reversible scheme (`companion.ode.reversible`) and its transpose, for the cotangents
:math:`\bar y, \bar z` of both states, from the last step to the first:

.. math::
    z_n &= z_{n+1} + \Psi_{-h}(t_{n+1}, y_{n+1}), &
    \bar y &\leftarrow \bar y - \partial_y \Psi_{-h}^T\, \bar z, \\
    y_n &= z_n + \lambda^{-1} (y_{n+1} - z_n - \Psi_h(t_n, z_n)), &
    \bar z &\leftarrow \bar z + (1 - \lambda) \bar y + \partial_z \Psi_h^T\, \bar y,
    \quad \bar y \leftarrow \lambda \bar y.

Each increment is evaluated once, for both columns.  Where z was set to y on the way there,
:math:`\bar y \leftarrow \bar y + \bar z, \bar z \leftarrow 0` on the way back, so that the gradient
is that of the numbers the solver returned, exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.adjoint.end_points import inner
from companion.adjoint.own_backward import Gradients, Incoming, OwnBackward, Record
from companion.adjoint.step_ends import StepEnds
from companion.ode.control import FixedStep, require_number
from companion.ode.errors import SolverError
from companion.ode.field import Leaves, Time
from companion.ode.integrate import Path, require_finite
from companion.ode.norm import Allowance, rms_norm
from companion.ode.problem import Problem
from companion.ode.read_back import read_back
from companion.ode.reversible import Pair, ReversibleMarch, begin_reversible
from companion.ode.solution import Stats
from companion.ode.tableau import Tableau

#: A state that is found again with an error of more than this part of the solution's size, and of
#: more than this many tolerances, is lost.
LARGEST_ERROR, MOST_TOLERANCES = 1e-4, 10.0


class LostState(SolverError):
    """The way back did not lead through the states of the way there."""


@dataclass(frozen=True, kw_only=True)
class Reversible(OwnBackward):
    r"""Discretise, then optimise, with steps that can be taken back.

    The solve is made by the reversible scheme of McCallum and Foster (arXiv 2410.11648) round any
    explicit Runge-Kutta method: of the same order, for about twice the evaluations of f.  Its
    gradient is that of the numbers the solver returned, exact but for rounding; every state is
    computed again on the way back, for two steps of the method a step.  The memory does not grow
    with the number of steps, except for one float a step.

    The scheme carries two states, y and z, which drift apart where the flow contracts.  When they
    are further apart than the tolerances allow (which fixed steps use for nothing else), z is set
    to y, and both are kept for the way back: memory grows by two states each time, and the
    gradient stays exact.  A flow that contracts strongly, or tolerances close to the error of a
    step, make that frequent; `Checkpointed` is then the better choice.

    f must return the same for the same arguments on the way back: no dropout, and no layer that
    changes when it is called.

    Args:
        coupling: :math:`\lambda`, between 0 and 1.  Errors of rounding grow by
            :math:`1 / \lambda` a step on the way back, which starts anew from a pair that is kept
            before they take more than a third of the digits: with the default in float64 every
            12,000 steps, with one half every 17.
        drift: how far the two states may be apart, in units of the tolerances.  More saves memory
            and costs accuracy; infinity leaves them alone.
        params: exactly the tensors, besides y0, the times and those in args, whose gradients are
            wanted; None finds what f holds and uses.

    Raises:
        TypeError, ValueError: if an argument is not such a number.
        LostState: by ``backward()``, if a state is not found again.
    """

    coupling: float = 0.999
    drift: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("Reversible: coupling", self.coupling)
        if not 0 < self.coupling < 1:
            raise ValueError(
                f"Reversible: coupling must lie strictly between 0 and 1, got {self.coupling}"
            )
        require_number("Reversible: drift", self.drift)
        if not self.drift > 0:
            raise ValueError(f"Reversible: drift must be positive, got {self.drift}")

    def check(self, problem: Problem) -> None:
        scheme = problem.method.scheme
        if not isinstance(scheme, Tableau) or not scheme.explicit:
            raise ValueError(
                f"Reversible needs an explicit Runge-Kutta method, got {scheme.name!r}: take one "
                "such as 'dopri5', or gradient='checkpointed'"
            )
        if problem.events:
            raise ValueError(
                "Reversible takes steps that end at the times in t and finds no events: use "
                "gradient='checkpointed'"
            )
        if problem.dense:
            raise ValueError(
                "Reversible has no dense output: put the times wanted into t, or use "
                "gradient='direct'"
            )

    def solve(self, problem: Problem, stats: Stats) -> Path:
        # The numbers must not depend on whether somebody wants a gradient of them.
        march = self.begin(problem, problem.times[0], problem.y0, stats)
        if problem.rates is not None:
            march.know(problem.rates)
        return _path(problem, march)

    def record(self, problem: Problem, stats: Stats) -> Record:
        march = self.begin(problem, problem.times[0], problem.y0, stats)
        path = _path(problem, march)
        pairs = march.pairs
        if not pairs or pairs[-1].steps < len(march.ends) - 1:
            # Where the way back begins.
            pairs = [*pairs, Pair(len(march.ends) - 1, march.solution, march.y)]
        return _ReversibleRecord(self, problem, path, march.ends, pairs)

    def begin(self, problem: Problem, t: float, y: Leaves, stats: Stats) -> ReversibleMarch:
        """A march that stands at time t with state y."""
        return begin_reversible(
            problem.field(stats),
            problem.method,
            t,
            y,
            stats,
            coupling=self.coupling,
            drift=self.drift,
        )


def _path(problem: Problem, march: ReversibleMarch) -> Path:
    """Solve with a march that stands at the first time."""
    states = [march.solution]
    try:
        for time in problem.times[1:]:
            states.append(march.to(time, time))
    finally:
        for observer in problem.method.observers:
            observer.finished()
    leaves = [torch.stack(leaf) for leaf in zip(*states, strict=True)]
    require_finite(leaves, march)
    return Path(problem.times, leaves, march.size)


class _ReversibleRecord(Record):
    """The times between the steps, and the pairs of states that the way back starts from."""

    def __init__(
        self,
        strategy: Reversible,
        problem: Problem,
        path: Path,
        ends: Sequence[float],
        pairs: Sequence[Pair],
    ) -> None:
        super().__init__(path, [leaf for pair in pairs for leaf in (*pair.y, *pair.z)])
        self.strategy, self.problem, self.ends = strategy, problem, ends
        self._steps = [pair.steps for pair in pairs]

    def pull_back(self, given: Incoming) -> Gradients:
        kept, outputs, grads, wanted, stats, wants_times, wants_jumps, inquiry = given
        ends, times = self.ends, self.problem.times
        last = [leaf[-1] for leaf in outputs]
        march = self.strategy.begin(self.problem, times[-1], last, stats)
        clock = _TimeGradients(self.problem, last) if wants_times or wants_jumps else None
        back = _WayBack(march, last, wanted, clock)
        check = _Check(self.problem, outputs)
        step_ends = StepEnds(inquiry, self.problem, ends, grads, stats)
        pairs, i = self._pairs(kept, len(outputs)), len(times) - 1
        for step in range(len(ends) - 1, -1, -1):
            if step + 1 < len(ends):
                back.step(ends[step], ends[step + 1], i)
                stats.accepted += 1
            if ends[step] == times[i]:
                state, cotangent = [leaf[i] for leaf in outputs], [grad[i] for grad in grads]
                check(back.y, state)
                if clock is not None and clock.is_split(i):
                    rates = march.rates_before(ends[step - 1], times[i], state)
                    clock.split(i, inner(cotangent, rates))
                back.meet(state, cotangent)
                i -= 1
            if step in pairs:
                check(back.y, pairs[step].y)
                back.divide(pairs[step])
            if step_ends.needs(step):
                step_ends.put(step, back.y, back.total)
        # The two states began as one.
        check(back.z, back.y)
        check.finish(times[0], stats.accepted)
        return Gradients(
            torch.stack(clock.times) if wants_times else None,
            torch.stack(list(clock.jumps.values())) if wants_jumps else None,
            back.total,
            back.sums,
        )

    def _pairs(self, kept: Sequence[Tensor], n: int) -> dict[int, Pair]:
        """The pairs by the number of steps before them."""
        pairs = {}
        for i, steps in enumerate(self._steps):
            leaves = kept[2 * n * i : 2 * n * (i + 1)]
            pairs[steps] = Pair(steps, list(leaves[:n]), list(leaves[n:]))
        return pairs


class _WayBack:
    """Both states of the scheme and their cotangents, from the last step to the first.

    Attributes:
        y, z: the states.
        y_bar, z_bar: the gradients of the loss with respect to them, of what comes after.
        sums: those with respect to the wanted tensors, so far; None stands for zero.
    """

    def __init__(
        self,
        march: ReversibleMarch,
        y: Leaves,
        wanted: Sequence[Tensor],
        clock: _TimeGradients | None,
    ) -> None:
        self.y = self.z = y
        self.y_bar = self.z_bar = [torch.zeros_like(leaf) for leaf in y]
        self.sums: list[Tensor | None] = [None] * len(wanted)
        self._march, self._wanted, self._clock = march, wanted, clock

    @property
    def total(self) -> Leaves:
        """The gradient of the loss with respect to a state that both begin from."""
        return [a + b for a, b in zip(self.y_bar, self.z_bar, strict=True)]

    def meet(self, y: Leaves, grads: Leaves) -> None:
        """Pass a time at which y is known and the loss depends on it."""
        self.y = y
        self.y_bar = [a + grad for a, grad in zip(self.y_bar, grads, strict=True)]

    def divide(self, pair: Pair) -> None:
        """Undo that z was set to y."""
        self.y, self.z = pair.y, pair.z
        self.y_bar = [a + b for a, b in zip(self.y_bar, self.z_bar, strict=True)]
        self.z_bar = [torch.zeros_like(b) for b in self.z_bar]

    def step(self, t0: float, t1: float, interval: int) -> None:
        """Undo one step, which lies between output times number ``interval`` and the next."""
        weight = self._march.coupling
        minus = [-b for b in self.z_bar]
        moved, pulled = self._moved(self.y, t1, t0, minus, interval)
        self.z = [b + (m - a) for a, b, m in zip(self.y, self.z, moved, strict=True)]
        y_bar = [a + b + g for a, b, g in zip(self.y_bar, self.z_bar, pulled, strict=True)]

        moved, pulled = self._moved(self.z, t0, t1, y_bar, interval)
        self.y = [b + (a - m) / weight for a, b, m in zip(self.y, self.z, moved, strict=True)]
        self.y_bar = [weight * a for a in y_bar]
        self.z_bar = [b + g - a for a, b, g in zip(self.y_bar, self.z_bar, pulled, strict=True)]

    def _moved(
        self, y: Leaves, t0: float, t1: float, cotangent: Leaves, interval: int
    ) -> tuple[Leaves, Sequence[Tensor]]:
        """A step of the method, and the cotangent of its state y from that of its result."""
        nodes: list[Time] = [t0, t1]
        if self._clock is not None:
            nodes = [y[0].new_tensor(t, dtype=torch.float64).requires_grad_() for t in nodes]
        with torch.enable_grad():
            y = [leaf.detach().requires_grad_() for leaf in y]
            moved = self._march.moved(y, t0, t1, *nodes)
        live = nodes if self._clock is not None else []
        inputs = [*y, *live, *self._wanted]
        pulled = torch.autograd.grad(moved, inputs, cotangent, allow_unused=True)
        for t, grad in zip((t0, t1), pulled[len(y) :][: len(live)], strict=False):
            self._clock.add(t, grad, interval)
        for i, grad in enumerate(pulled[len(y) + len(live) :]):
            if grad is not None:
                self.sums[i] = grad if self.sums[i] is None else self.sums[i] + grad
        return [leaf.detach() for leaf in moved], pulled[: len(y)]


class _TimeGradients:
    """The gradients with respect to the output times and the jump times.

    A step begins or ends at an output time, at a jump time, at a time that divides the interval
    between two output times in a fixed proportion, or at one that is a constant.
    """

    def __init__(self, problem: Problem, y: Leaves) -> None:
        self._ends = ends = problem.times
        low, high = min(ends[0], ends[-1]), max(ends[0], ends[-1])
        self._divided = isinstance(problem.method.control, FixedStep)
        zero = y[0].new_zeros((), dtype=torch.float64)
        self.times = [zero] * len(ends)
        self.jumps = dict.fromkeys(problem.method.jump_t, zero)
        #: The first time and the last are ends of steps also where f jumps.
        self._moving = {t for t in self.jumps if low < t < high}

    def add(self, t: float, grad: Tensor, interval: int) -> None:
        """Take in the gradient with respect to an end of a step in this interval."""
        t0, t1 = self._ends[interval : interval + 2]
        if t in self._moving:
            self.jumps[t] = self.jumps[t] + grad
        elif t in (t0, t1):
            self._add(interval + (t == t1), grad)
        elif self._divided:
            part = (t - t0) / (t1 - t0)
            self._add(interval, (1 - part) * grad)
            self._add(interval + 1, part * grad)

    def is_split(self, i: int) -> bool:
        """Whether output time i is a jump time, too, so that only one of the two is meant."""
        return self._ends[i] in self._moving

    def split(self, i: int, slope: Tensor) -> None:
        """Take the change of the loss with output time i alone from that of the jump time."""
        self._add(i, slope)
        self.jumps[self._ends[i]] = self.jumps[self._ends[i]] - slope

    def _add(self, i: int, grad: Tensor) -> None:
        self.times[i] = self.times[i] + grad


class _Check:
    """Whether the states that are found again are those of the way there."""

    def __init__(self, problem: Problem, outputs: Leaves) -> None:
        self._norm = problem.method.norm
        self._allowance = Allowance(problem.method.rtol, problem.method.atol, outputs)
        self._sizes = [LARGEST_ERROR * rms_norm([leaf]) for leaf in outputs]
        #: The largest error in units of what is still tolerable; on the device until the end.
        self._worst: Tensor | None = None

    def __call__(self, found: Leaves, known: Leaves) -> None:
        most = [
            torch.maximum(MOST_TOLERANCES * allowed, size)
            for allowed, size in zip(self._allowance(known), self._sizes, strict=True)
        ]
        # A solution of zeros is allowed no error without atol, and may have none.
        most = [m.clamp_min(torch.finfo(m.dtype).tiny) for m in most]
        worst = self._norm([(a - b) / m for a, b, m in zip(found, known, most, strict=True)])
        self._worst = worst if self._worst is None else torch.maximum(self._worst, worst)

    def finish(self, t: float, steps: int) -> None:
        # Written so that a NaN is an error, too.
        if not read_back(self._worst) <= 1:
            raise LostState(
                "Reversible: a state that was computed again differs from the one of the forward "
                f"solve by more than {LARGEST_ERROR:.2%} of the solution and {MOST_TOLERANCES:.0f} "
                "tolerances, so the gradient would be wrong. Either f does not return the same "
                "for the same arguments (dropout, batch normalisation), or errors of rounding "
                "grew too large: make coupling larger or drift smaller, use float64, or "
                "gradient='checkpointed'",
                t=t,
                h=0.0,
                steps=steps,
            )
