"""Marching with steps as large as the tolerances allow."""

from __future__ import annotations

import math
from typing import NoReturn

import torch

from companion.ode.control import START
from companion.ode.errors import NonFiniteState, NotConverged, StepSizeUnderflow
from companion.ode.field import Leaves, Time
from companion.ode.newton import NewtonFailure
from companion.ode.norm import Allowance, error_ratio
from companion.ode.read_back import all_finite
from companion.ode.runge_kutta import RungeKuttaMarch
from companion.ode.step import Step


class AdaptiveMarch(RungeKuttaMarch):
    """Error control; targets are met by dense output, the end and stop times by ends of steps."""

    larger_steps = "loosen rtol and atol, or check whether f is stiff or discontinuous"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.size = self.method.first_step
        self._history = START
        self._jumps = frozenset(self.method.jump_t)
        self._stops = sorted({*self.method.step_t, *self._jumps})
        #: Whether time runs forward; None before the first step.
        self._forward: bool | None = None
        self._allowance = Allowance(self.method.rtol, self.method.atol, self.y)
        #: What it allows at the present state, kept from one error to the next.
        self._allowed: Leaves | None = None

    @property
    def rates(self) -> Leaves:
        if self._rates is None:
            field = self.field
            if self._forward is not None:
                field = self._sided(self.t, math.inf if self._forward else -math.inf)
            self._rates = field(self.node, self.y)
        return self._rates

    def restart(self, y: Leaves) -> None:
        super().restart(y)
        self._allowed = None

    def advance(self, target: float, end: float, node: Time | None = None) -> None:
        stop, stop_node = self._next_stop(target, end, node)
        control = self.method.control
        left = abs(stop - self.t)
        smallest = 10 * math.ulp(max(abs(self.t), 0.0 if math.isinf(stop) else abs(stop)))
        if self.size is None:
            self.size = self._first_size(self.rates[: len(self.y)], end - self.t)
        if self.stats.accepted + self.stats.rejected == 0:
            # A first step is a guess: too small a one is no reason to give up.
            self.size = max(self.size, smallest)
        ratio, reason = 0.0, ""
        while True:
            self.size = min(max(self.size, control.min_step), control.max_step)
            # A step that would leave next to nothing to go takes all of it, as in HNW's DOPRI5.
            ends = 1.01 * self.size >= left and left <= control.max_step
            if self.size < smallest and not ends:
                self._give_up(math.copysign(self.size, end - self.t), ratio, reason)
            if ends:
                t1, t1_node = stop, stop_node
            else:
                # Two equal steps to the stop are cheaper than a large one and a remainder.
                size = max(min(self.size, left / 2), min(control.min_step, left))
                t1 = t1_node = self.t + math.copysign(size, end - self.t)
            accepted, factor, ratio, reason = False, 0.25, math.inf, ""
            try:
                step, h = self._try(t1, t1_node)
            except NewtonFailure as failure:
                reason = str(failure)
            else:
                ratio = self._ratio(step)
                accepted, factor, self._history = control.judge(
                    ratio, self.tableau.estimate_order, self._history
                )
            tried = abs(t1 - self.t)
            # Differences of times are rounded.
            is_least = tried <= control.min_step * (1 + 1e-9)
            if accepted or (is_least and math.isfinite(ratio)):
                break
            self.stats.rejected += 1
            for observer in self.method.observers:
                observer.rejected(self.t, self.y, t1 - self.t)
            self.size = tried * factor
            if is_least:
                self._give_up(math.copysign(tried, end - self.t), ratio, reason)
        # A short step before a stop may be so exact that it only says: could be larger.
        capped = factor >= control.max_factor
        self.size = max(self.size, tried * factor) if capped else tried * factor
        self._accept(t1, t1_node, step, h)
        self._allowed = self._next_allowed

    def _accept(self, t1: float, node: Time, step: Step, h: Time) -> None:
        self._take(t1, node, step, h)
        if t1 in self._jumps:
            # What the method evaluated here belongs to the near side of the jump.
            self._rates = None

    def _next_stop(self, target: float, end: float, node: Time | None) -> tuple[float, Time]:
        """The next time at which a step must end, and its node."""
        if self._forward is None:
            self._forward = end > self.t
            if self.t in self._jumps:
                self._rates = None
        stop = self._stop_before(end) if self._stops else end
        # Only a target that ends the solve can be the end of a step, and so can a jump time.
        if stop == target == end and node is not None:
            return stop, node
        return stop, self.method.jump_nodes.get(stop, stop)

    def _stop_before(self, end: float) -> float:
        """The next time at which a step must end."""
        between = [t for t in self._stops if min(self.t, end) < t < max(self.t, end)]
        if not between:
            return end
        return between[0] if end > self.t else between[-1]

    def _is_one_sided(self, t0: float, t1: float) -> bool:
        return t0 in self._jumps or t1 in self._jumps

    def _last_rates(self) -> Leaves:
        if self.t in self._jumps:
            return self._sided(self.begin, self.t)(self.node, self.y)
        return self.rates

    def _ratio(self, step: Step) -> float:
        if self._allowed is None:
            self._allowed = self._allowance(self.y)
        self._next_allowed = self._allowance(step.y)
        larger = list(map(torch.maximum, self._allowed, self._next_allowed))
        # The step size is a constant for the gradient.
        error = [leaf.detach() if leaf.requires_grad else leaf for leaf in step.error]
        return error_ratio(self.method.norm, error, larger)

    @torch.no_grad()
    def _first_size(self, rates: Leaves, interval: float) -> float:
        """A first step from the size of f and of its change (HNW, II.4, p. 169).

        The rates come from outside because they are the first stage, too, and need their graph.
        """
        norm, self._allowed = self.method.norm, self._allowance(self.y)
        d0, d1 = (error_ratio(norm, leaves, self._allowed) for leaves in (self.y, rates))
        if not math.isfinite(d0 + d1):
            self._explain(rates)
        small = min(0.01 * d0 / d1 if min(d0, d1) >= 1e-5 else 1e-6, abs(interval))
        signed = math.copysign(small, interval)
        there = [torch.add(y, k, alpha=signed) for y, k in zip(self.y, rates, strict=True)]
        change = self._sided(self.t, self.t + 2 * signed)(self.t + signed, there)
        change = [b - a for a, b in zip(rates, change, strict=False)]
        d2 = error_ratio(norm, change, self._allowed) / small
        largest = max(d1, d2)
        if not math.isfinite(largest):
            return small
        if largest <= 1e-15:
            return max(1e-6, 1e-3 * small)
        return min(100 * small, (0.01 / largest) ** (1 / (self.tableau.estimate_order + 1)))

    def _explain(self, rates: Leaves) -> NoReturn:
        """Why the initial state or f there has no size in units of the tolerances."""
        if all(map(all_finite, (*self.y, *rates))):
            raise ValueError(
                f"rtol = {self.method.rtol} and atol = {self.method.atol} allow no error, or "
                "none that the state's dtype can represent, at the initial state: make atol larger"
            )
        raise NonFiniteState(
            "the initial state or the value of f there is not finite: "
            "check y0, the parameters and f",
            t=self.t,
            h=0.0,
            steps=0,
        )

    def _give_up(self, h: float, ratio: float, reason: str) -> NoReturn:
        where = {
            "t": self.t,
            "h": h,
            "steps": self.stats.accepted + self.stats.rejected,
        }
        if reason:
            raise NotConverged(
                f"the equations of the implicit step could not be solved ({reason}), and smaller "
                "steps did not help: check f near this state",
                **where,
            )
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
