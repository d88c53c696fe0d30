"""Steps of chosen size, once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from companion.ode.adaptive import AdaptiveMarch
from companion.ode.errors import NotConverged
from companion.ode.field import Time
from companion.ode.newton import Entry, NewtonFailure


class RepeatedMarch(AdaptiveMarch):
    """The accepted steps of an `AdaptiveMarch`, without its error control and its read-backs."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tableau = self.tableau.plain
        self._ends: Iterator[float] = iter(())

    def follow(self, ends: Sequence[float], notes: Sequence[Entry | None]) -> None:
        super().follow(ends, notes)
        self._ends = iter(ends)

    def advance(self, target: float, end: float, node: Time | None = None) -> None:
        stop, stop_node = self._next_stop(target, end, node)
        t1 = next(self._ends)
        t1_node = stop_node if t1 == stop else t1
        try:
            step, h = self._try(t1, t1_node)
        except NewtonFailure as failure:
            raise NotConverged(
                "the equations of an implicit step that had been solved could not be solved again "
                f"({failure}): check whether f returns the same for the same t and y",
                t=self.t,
                h=t1 - self.t,
                steps=self.stats.accepted,
            ) from failure
        self._accept(t1, t1_node, step, h)
