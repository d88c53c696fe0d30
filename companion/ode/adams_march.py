"""Marching by an Adams method."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import torch

from companion.ode.adams import Adams, inside
from companion.ode.dense import Piece
from companion.ode.errors import NotConverged
from companion.ode.field import Leaves, Time
from companion.ode.fixed import FixedMarch, GridMarch, KnownSteps
from companion.ode.norm import Allowance, error_ratio
from companion.ode.step import Step, combine
from companion.ode.tableau import Tableau
from companion.ode.tableaus import DOPRI5, DOPRI8, RK4_38, VERN7

#: By what part steps may differ from the present one to count as equal, as those between times
#: in single precision do; the weights allow for it.
NEAR = 0.01
#: A part that is rounding, and for which the weights are those of equal steps.
SAME = 1e-9
#: The functional iteration ends when a change is this part of the tolerances.
ENOUGH = 0.1

#: Where values of f are, in steps from the beginning of the present one.
Nodes = tuple[Fraction | float, ...]
#: For every value of f the coefficients of theta, theta^2, ... of its weight.
Polynomials = tuple[tuple[float, ...], ...]


def _starter(order: int) -> Tableau:
    """The Runge-Kutta method for the first steps, of the same order as far as there is one."""
    return next((t for t in (RK4_38, DOPRI5, VERN7) if order <= t.order), DOPRI8)


@lru_cache
def _weights(nodes: Nodes) -> tuple[Polynomials, list[tuple[int, float]]]:
    """The weights of values of f inside the step, and at its end with their places."""
    rows = inside(nodes)
    ends = [(j, float(sum(row))) for j, row in enumerate(rows)]
    return tuple(tuple(map(float, row)) for row in rows), ends


class _AdamsSteps(KnownSteps):
    """Known steps by an Adams method, as soon as there are enough values of f behind it."""

    def __init__(self, field, method, *args, **kwargs) -> None:
        self.scheme: Adams = method.scheme
        starter = replace(method, scheme=_starter(self.scheme.max_order))
        super().__init__(field, starter, *args, **kwargs)
        #: The beginning of this step and of those before it, and f there, the newest first.
        self._history: deque[tuple[float, Leaves]] = deque(maxlen=self.scheme.max_order)
        #: Of the last step the weights inside it; None if it was the starter's.
        self._inside: Polynomials | None = None

    def restart(self, y: Leaves) -> None:
        super().restart(y)
        self._history.clear()

    def remember(self) -> tuple:
        return *super().remember(), list(self._history)

    def recall(self, memory: tuple) -> None:
        *memory, history = memory
        super().recall(memory)
        self._history.clear()
        self._history.extend(history)

    def shortened(self, t: float) -> Leaves:
        return self.state(t)

    def _inside_last_step(self) -> Piece:
        if self.interpolation != "method":
            return super()._inside_last_step()
        start, y, step, h = self._last
        rates, weights = step.stages, self._inside
        if weights is None:
            *_, rates, weights = super()._inside_last_step()
        # The polynomials of a solution are of one degree, those of the starter and these.
        degree = max(self.scheme.max_order, len(self.tableau.dense_polynomials[0]))
        weights = tuple(row + (0.0,) * (degree - len(row)) for row in weights)
        return Piece(self.begin, self.t, start, h, y, rates, weights)

    def _try(self, t1: float, node: Time) -> tuple[Step, Time]:
        nodes = self._nodes_for(t1 - self.t)
        order = self.scheme.max_order
        past = order - 1 if self.scheme.implicit and order > 1 else order
        if len(nodes) < past:
            self._inside, self._solution_weights = None, self.tableau.solution_weights
            return super()._try(t1, node)
        self._begin_step(t1)
        h = node - self.node
        stages = [rates for _, rates in self._history]
        self._inside, self._solution_weights = _weights(nodes)
        y = combine(self.y, stages, self._solution_weights, h)
        if not self.scheme.implicit:
            return Step(y, None, None, stages), h
        self._inside, self._solution_weights = _weights((*nodes[: order - 1], Fraction(1)))
        return self._correct(t1, node, y, h), h

    def _nodes_for(self, size: float) -> Nodes:
        """Where f is known, in steps of this size from here; what is too uneven is forgotten."""
        nodes = [(t - self.t) / size for t, _ in self._history]
        gaps = [abs(node + j) / j for j, node in enumerate(nodes, 1)]
        if any(gap > NEAR for gap in gaps):
            self._history.clear()
            nodes = []
        elif all(gap <= SAME for gap in gaps):
            nodes = [Fraction(-j) for j in range(1, len(nodes) + 1)]
        self._history.appendleft((self.t, self.rates))
        return (Fraction(0), *nodes)[: self.scheme.max_order]

    def _correct(self, t1: float, node: Time, y: Leaves, h: Time) -> Step:
        """Moulton's equation by functional iteration, to a part of the tolerances."""
        method, field = self.method, self._sided(self.t, t1)
        *others, (_, newest) = self._solution_weights
        stages = [rates for _, rates in self._history][: len(others)]
        known = combine(self.y, stages, others, h)
        allowed = Allowance(method.rtol, method.atol, self.y)(self.y)

        def in_tolerances(change: Leaves) -> float:
            return error_ratio(method.norm, change, allowed)

        ratio = math.inf
        for _ in range(method.max_iterations):
            end = field(node, y)
            corrected = combine(known, [end], [(0, newest)], h)
            with torch.no_grad():
                change = [b - a for a, b in zip(y, corrected, strict=True)]
                last, ratio = ratio, in_tolerances(change)
                # Below the rounding of the state it cannot fall, whatever the tolerances.
                stuck = ratio >= last and ratio <= in_tolerances(_rounding(corrected))
            y = corrected
            if ratio <= ENOUGH or stuck:
                return Step(y, None, None, [*stages, end])
        raise NotConverged(
            "the functional iteration of the Adams method did not converge: take smaller steps, "
            "allow more iterations, or take a method for stiff problems such as 'kencarp4'",
            t=self.t,
            h=t1 - self.t,
            steps=self.stats.accepted,
        )


def _rounding(y: Leaves) -> Leaves:
    """A few units in the last place of a state."""
    return [10 * torch.finfo(leaf.dtype).eps * leaf.abs() for leaf in y]


class AdamsFixedMarch(_AdamsSteps, FixedMarch):
    """Equal steps between one target and the next."""


class AdamsGridMarch(_AdamsSteps, GridMarch):
    """Steps from one point of a grid to the next."""
