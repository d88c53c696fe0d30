"""Marching by an Adams method."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch

from companion.ode.adams import Adams, bashforth, moulton
from companion.ode.errors import NotConverged
from companion.ode.field import Leaves, Time
from companion.ode.fixed import FixedMarch, GridMarch, KnownSteps
from companion.ode.norm import error_ratio
from companion.ode.step import Step, combine
from companion.ode.tableau import Tableau
from companion.ode.tableaus import DOPRI5, DOPRI8, RK4_38, VERN7

#: Steps whose sizes agree to this are equal.
SAME = 1e-9


def _starter(order: int) -> Tableau:
    """The Runge-Kutta method for the first steps, of the same order as far as there is one."""
    return next((t for t in (RK4_38, DOPRI5, VERN7) if order <= t.order), DOPRI8)


class _AdamsSteps(KnownSteps):
    """Known steps by an Adams method, as soon as there are enough equally spaced values of f."""

    def __init__(self, field, method, *args, **kwargs) -> None:
        self.scheme: Adams = method.scheme
        starter = replace(method, scheme=_starter(self.scheme.max_order))
        super().__init__(field, starter, *args, **kwargs)
        # A multistep method has no stages to interpolate with; slopes it has.
        if self.interpolation == "method":
            self.interpolation = "cubic"
        #: Values of f at the beginning of this step and of those before it, the newest first.
        self._history: deque[Leaves] = deque(maxlen=self.scheme.max_order)
        self._size = 0.0

    def restart(self, y: Leaves) -> None:
        super().restart(y)
        self._history.clear()

    def shortened(self, t: float) -> Leaves:
        return self.state(t)

    def _try(self, t1: float, node: Time) -> tuple[Step, Time]:
        size = t1 - self.t
        if abs(size - self._size) > SAME * abs(size):
            self._history.clear()
            self._size = size
        self._history.appendleft(self.rates)
        order = self.scheme.max_order
        past = order - 1 if self.scheme.implicit and order > 1 else order
        if len(self._history) < past:
            self._solution_weights = self.tableau.solution_weights
            return super()._try(t1, node)
        self._begin_step(t1)
        h = node - self.node
        stages = list(self._history)
        predictor = list(enumerate(map(float, bashforth(len(stages)))))
        y = combine(self.y, stages, predictor, h)
        if not self.scheme.implicit:
            self._solution_weights = predictor
            return Step(y, None, None, stages), h
        return self._correct(t1, node, y, h), h

    def _correct(self, t1: float, node: Time, y: Leaves, h: Time) -> Step:
        """Moulton's equation by functional iteration, to a part of the tolerances."""
        method, field = self.method, self._sided(self.t, t1)
        newest, *others = map(float, moulton(self.scheme.max_order))
        stages = list(self._history)[: len(others)]
        known = combine(self.y, stages, list(enumerate(others)), h)
        sizes = [leaf.detach().abs() for leaf in self.y]
        for _ in range(method.max_iterations):
            end = field(node, y)
            corrected = combine(known, [end], [(0, newest)], h)
            with torch.no_grad():
                change = [b - a for a, b in zip(y, corrected, strict=True)]
                ratio = error_ratio(method.norm, change, method.rtol, method.atol, sizes)
            y = corrected
            if ratio <= 0.1:
                self._solution_weights = [*enumerate(others), (len(others), newest)]
                return Step(y, None, None, [*stages, end])
        raise NotConverged(
            "the functional iteration of the Adams method did not converge: take smaller steps, "
            "allow more iterations, or take a method for stiff problems such as 'kencarp4'",
            t=self.t,
            h=t1 - self.t,
            steps=self.stats.accepted,
        )


class AdamsFixedMarch(_AdamsSteps, FixedMarch):
    """Equal steps between one target and the next."""


class AdamsGridMarch(_AdamsSteps, GridMarch):
    """Steps from one point of a grid to the next."""
