"""Marching with steps that are known in advance."""

from __future__ import annotations

import bisect
import math

from companion.ode.errors import NotConverged
from companion.ode.field import Leaves, Time
from companion.ode.newton import NewtonFailure
from companion.ode.runge_kutta import RungeKuttaMarch


class KnownSteps(RungeKuttaMarch):
    """Steps without error control and, for explicit methods, without a read-back."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tableau = self.tableau.plain

    def _take_step_to(self, t1: float, node: Time) -> None:
        try:
            step, h = self._try(t1, node)
        except NewtonFailure as failure:
            raise NotConverged(
                f"the equations of the implicit step could not be solved ({failure}): take "
                "smaller steps, allow more iterations, or check f",
                t=self.t,
                h=t1 - self.t,
                steps=self.stats.accepted,
            ) from failure
        self._take(t1, node, step, h)


class FixedMarch(KnownSteps):
    """Equal steps between one target and the next, which are ends of steps."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        #: The steps to the target: where the first began, its node, how many, how many are done.
        self._plan: tuple[float, float, Time, int] | None = None
        self._done = 0

    def remember(self) -> tuple:
        return *super().remember(), self._plan, self._done

    def recall(self, memory: tuple) -> None:
        *memory, self._plan, self._done = memory
        super().recall(memory)

    def advance(self, target: float, end: float, node: Time | None = None) -> None:
        node = target if node is None else node
        if self._plan is None or self._plan[0] != target:
            count = 0 if math.isinf(target) else self.method.control.count(target - self.t)
            self._plan, self._done = (target, self.t, self.node, count), 0
        _, t0, node0, count = self._plan
        self._done += 1
        if math.isinf(target):
            if math.isinf(self.method.control.size):
                raise ValueError("FixedStep: a solve without a last time needs a finite size")
            t1 = t0 + math.copysign(self._done * self.method.control.size, target)
            self._take_step_to(t1, t1)
        elif self._done == count:
            self._take_step_to(target, node)
        else:
            part = self._done / count
            self._take_step_to(t0 + (target - t0) * part, node0 + (node - node0) * part)


class GridMarch(KnownSteps):
    """Steps from one point of a grid to the next; targets in between are interpolated."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.interpolation = self.method.control.interpolation
        self._one_sided = self.method.control.one_sided
        self._grid = sorted(self.method.control.times)

    def advance(self, target: float, end: float, node: Time | None = None) -> None:
        t1 = self._next_point(end)
        if math.isinf(t1):
            raise ValueError(
                f"FixedGrid: its times end at {self.t:g} and no event came until then: add "
                "times, or give the solve a last time"
            )
        if self._one_sided:
            # What is known of f here belongs to the step before.
            self._rates = self._sided(self.t, t1)(self.node, self.y)
        self._take_step_to(t1, node if t1 == target and node is not None else t1)

    def _last_rates(self) -> Leaves:
        if self._one_sided:
            return self._sided(self.begin, self.t)(self.node, self.y)
        return super()._last_rates()

    def _next_point(self, end: float) -> float:
        """The next point of the grid, or the end where there is none before it."""
        if end > self.t:
            i = bisect.bisect_right(self._grid, self.t)
            return min(self._grid[i], end) if i < len(self._grid) else end
        i = bisect.bisect_left(self._grid, self.t)
        return max(self._grid[i - 1], end) if i else end

    def _is_one_sided(self, t0: float, t1: float) -> bool:
        return self._one_sided
