"""The solve loop: a state that marches through time, one accepted step after another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NoReturn

import torch
from torch import Tensor

from companion.ode.control import START, FixedStep
from companion.ode.errors import NonFiniteState, StepSizeUnderflow, TooManySteps
from companion.ode.field import Leaves, Time
from companion.ode.norm import in_tolerances
from companion.ode.problem import Method
from companion.ode.solution import Stats
from companion.ode.step import Step, VectorField, inside, runge_kutta_step


class March(ABC):
    """The solution of ``dy/dt = field(t, y)`` on its way from one time to the next.

    Times are floats on the host.  A time may come with a *node*: the same time as a 0-dim
    tensor that requires grad.  Where a step begins or ends at such a time, or the dense output
    is asked for one, the arithmetic uses the node, and gradients with respect to it are those of
    the discrete solution.

    Attributes:
        t: present time.
        y: state at t.
        rates: ``field(t, y)``, evaluated when it is first needed.
        size: what the next step would be if nothing cut it short; None with fixed steps.
        integrals: where the field returns more tensors than the state has, the integrals of the
            others (the quadratures of an adjoint solve), from the beginning to t.  The field may
            return None for an integrand that vanishes, and None stands for a zero integral.
    """

    size: float | None = None
    #: What a user can do to need fewer steps.
    larger_steps: str

    def __init__(
        self,
        field: VectorField,
        method: Method,
        t: float,
        y: Leaves,
        stats: Stats,
        node: Time | None = None,
    ) -> None:
        self.field = field
        self.method = method
        self.tableau = method.tableau
        self.stats = stats
        self.start = t
        self.t = t
        self.node: Time = t if node is None else node
        self.y = y
        self.integrals: list[Tensor | None] = []
        self._rates: Leaves | None = None

    @property
    def rates(self) -> Leaves:
        if self._rates is None:
            self._rates = self.field(self.node, self.y)
        return self._rates

    def restart(self, y: Leaves) -> None:
        """Go on from another state at the same time: a jump."""
        self.y = y
        self._rates = None

    @abstractmethod
    def to(self, target: float, end: float, node: Time | None = None) -> Leaves:
        """March until ``target`` is reached or passed, never past ``end``.

        Args:
            target: the time wanted.
            end: the last time at which the field may be evaluated.
            node: ``target`` as a tensor that requires grad; None for a constant.

        Returns:
            The state at ``target``; ``self.t`` may lie between ``target`` and ``end``.
        """

    def _try(self, t1: float, node: Time) -> tuple[Step, Time]:
        if self.stats.accepted + self.stats.rejected >= self.method.max_steps:
            raise TooManySteps(
                f"max_steps = {self.method.max_steps} steps did not reach the last time: "
                f"raise max_steps, {self.larger_steps}",
                t=self.t,
                h=t1 - self.t,
                steps=self.method.max_steps,
            )
        h = node - self.node
        if isinstance(h, Tensor):
            h = h.to(self.y[0].device)
        return runge_kutta_step(self.tableau, self.field, self.node, self.y, self.rates, h), h

    def _accept(self, t1: float, node: Time, step: Step, h: Time) -> None:
        self.stats.accepted += 1
        count = len(step.stages[0]) - len(self.y)
        if count and not self.integrals:
            self.integrals = [None] * count
        for i in range(count):
            for j, w in self.tableau.solution_weights:
                rate = step.stages[j][len(self.y) + i]
                if rate is None:
                    continue
                if self.integrals[i] is None:
                    self.integrals[i] = torch.zeros_like(rate)
                self.integrals[i].add_(rate, alpha=w * h)
        self.t, self.node, self.y, self._rates = t1, node, step.y, step.f


class FixedMarch(March):
    """Equal steps between one target and the next; no error control, no read-back."""

    larger_steps = "or take larger steps"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tableau = self.tableau.plain

    def to(self, target: float, end: float, node: Time | None = None) -> Leaves:
        node = target if node is None else node
        t0, node0 = self.t, self.node
        count = self.method.control.count(target - t0)
        for i in range(1, count + 1):
            if i == count:
                self._take(target, node)
            else:
                part = i / count
                self._take(t0 + (target - t0) * part, node0 + (node - node0) * part)
        return self.y

    def _take(self, t1: float, node: Time) -> None:
        step, h = self._try(t1, node)
        self._accept(t1, node, step, h)


class AdaptiveMarch(March):
    """Steps as large as the tolerances allow; targets are met by dense output or as ends."""

    larger_steps = "loosen rtol and atol, or check whether f is stiff or discontinuous"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.size = self.method.first_step
        self._history = START
        #: Where the last step began, for the dense output inside it.
        self._last: tuple[Time, Leaves, Step, Time] | None = None

    def to(self, target: float, end: float, node: Time | None = None) -> Leaves:
        node = target if node is None else node
        forward = target > self.start
        while self.t != target and (target > self.t) == forward:
            # Only a target that is the end can be the end of a step.
            self._advance(end, node if target == end else end)
        if self.t == target:
            return self.y
        node0, y0, step, h = self._last
        stages = step.stages if self.tableau.fsal else [*step.stages, self.rates]
        return inside(self.tableau, y0, stages, h, (node - node0) / h)

    def _advance(self, end: float, end_node: Time) -> None:
        """One accepted step, not past ``end``."""
        left = abs(end - self.t)
        smallest = 10 * math.ulp(max(abs(self.t), abs(end)))
        if self.stats.accepted + self.stats.rejected == 0:
            if self.size is None:
                self.size = self._first_size(self.rates[: len(self.y)], end - self.t)
            # A first step is a guess: too small a one is no reason to give up.
            self.size = max(self.size, smallest)
        ratio = 0.0
        while True:
            # A step that would leave next to nothing to go takes all of it, as in HNW's DOPRI5.
            ends = 1.01 * self.size >= left
            if self.size < smallest and not ends:
                self._give_up(math.copysign(self.size, end - self.t), ratio)
            if ends:
                t1, node = end, end_node
            else:
                # Two equal steps to the end are cheaper than a large one and a remainder.
                size = min(self.size, left / 2)
                t1 = node = self.t + math.copysign(size, end - self.t)
            step, h = self._try(t1, node)
            ratio = self._ratio(step)
            accepted, factor, self._history = self.method.control.judge(
                ratio, self.tableau.embedded_order, self._history
            )
            proposal = abs(t1 - self.t) * factor
            if accepted:
                break
            self.stats.rejected += 1
            self.size = proposal
        # A short step before ``end`` may be so exact that it only says: could be larger.
        capped = factor >= self.method.control.max_factor
        self.size = max(self.size, proposal) if capped else proposal
        self._last = (self.node, self.y, step, h)
        self._accept(t1, node, step, h)

    @torch.no_grad()
    def _ratio(self, step: Step) -> float:
        method = self.method
        return float(
            method.norm(in_tolerances(step.error, method.rtol, method.atol, self.y, step.y))
        )

    @torch.no_grad()
    def _first_size(self, rates: Leaves, interval: float) -> float:
        """A first step from the size of f and of its change (HNW, II.4, p. 169).

        The rates come from outside because they are the first stage, too, and need their graph.
        """
        method = self.method

        def norm(leaves: Leaves) -> Tensor:
            return method.norm(in_tolerances(leaves, method.rtol, method.atol, self.y))

        d0, d1 = torch.stack((norm(self.y), norm(rates))).tolist()
        if not math.isfinite(d0 + d1):
            self._explain(rates)
        small = min(0.01 * d0 / d1 if min(d0, d1) >= 1e-5 else 1e-6, abs(interval))
        signed = math.copysign(small, interval)
        there = [torch.add(y, k, alpha=signed) for y, k in zip(self.y, rates, strict=True)]
        change = self.field(self.t + signed, there)
        d2 = float(norm([b - a for a, b in zip(rates, change, strict=False)])) / small
        largest = max(d1, d2)
        if not math.isfinite(largest):
            return small
        if largest <= 1e-15:
            return max(1e-6, 1e-3 * small)
        return min(100 * small, (0.01 / largest) ** (1 / (self.tableau.embedded_order + 1)))

    def _explain(self, rates: Leaves) -> NoReturn:
        """Why the initial state or f there has no size in units of the tolerances."""
        if all(bool(torch.isfinite(leaf).all()) for leaf in (*self.y, *rates)):
            raise ValueError(
                f"rtol = {self.method.rtol:g} and atol = {self.method.atol:g} allow no error, or "
                "none that the state's dtype can represent, at the initial state: make atol larger"
            )
        raise NonFiniteState(
            "the initial state or the value of f there is not finite: "
            "check y0, the parameters and f",
            t=self.t,
            h=0.0,
            steps=0,
        )

    def _give_up(self, h: float, ratio: float) -> NoReturn:
        where = {
            "t": self.t,
            "h": h,
            "steps": self.stats.accepted + self.stats.rejected,
        }
        if math.isfinite(ratio):
            raise StepSizeUnderflow(
                "the step size fell below the resolution of t: f may be stiff, discontinuous or "
                "diverging; loosen rtol and atol, use float64, or smooth f",
                **where,
            )
        raise NonFiniteState(
            "f or the state became infinite or NaN, and smaller steps did not help: check f near "
            "this state, and whether the solution exists this far",
            **where,
        )


def begin(
    field: VectorField,
    method: Method,
    t: float,
    y: Leaves,
    stats: Stats,
    node: Time | None = None,
) -> March:
    """The march that the method's control asks for."""
    kind = FixedMarch if isinstance(method.control, FixedStep) else AdaptiveMarch
    return kind(field, method, t, y, stats, node)
