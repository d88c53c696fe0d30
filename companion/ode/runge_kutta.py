"""Marching by a Runge-Kutta method, explicit or implicit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from companion.ode.dense import CUBIC, LINEAR, Piece
from companion.ode.field import Leaves, Time, time_dtype
from companion.ode.implicit import implicit_step
from companion.ode.march import March
from companion.ode.newton import Entry, Newton
from companion.ode.one_sided import OneSided
from companion.ode.step import Step, VectorField, combine, runge_kutta_step, zeros_of
from companion.ode.tableau import Tableau


class RungeKuttaMarch(March):
    """What steps of fixed and of chosen size have in common.

    Attributes:
        tableau: the method.
        interpolation: "method", "cubic" or "linear": what is between the ends of a step.
    """

    interpolation = "method"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tableau: Tableau = self.method.scheme
        #: What a step adds the rates of its stages with.
        self._solution_weights = self.tableau.solution_weights
        self._zeros = zeros_of(self.y)
        self._newton = None if self.tableau.explicit else Newton(self.method, self.stats)
        #: The last step with its beginning: start, state there, size.
        self._last: tuple[Time, Leaves, Step, Time] | None = None
        self._piece: Piece | None = None
        #: Whether the last step has left f at its end.
        self._handed_on = False

    def remember(self) -> tuple:
        t, node, y, _ = super().remember()
        # Not those that somebody asked for, who may not ask again.
        return t, node, y, self._guess, None if self._newton is None else self._newton.jacobian

    def recall(self, memory: tuple) -> None:
        *memory, self._jacobian = memory
        super().recall(memory)
        self._handed_on = self._rates is not None

    @property
    def note(self) -> Entry | None:
        """What, besides the memory before it, the last step depended on."""
        return None if self._newton is None else self._newton.entry

    def follow(self, ends: Sequence[float], notes: Sequence[Entry | None]) -> None:
        """Take steps again.

        Args:
            ends: where they end.
            notes: the note of each.
        """
        if self._newton is not None:
            self._newton.repeat(self._jacobian, notes)

    @property
    def piece(self) -> Piece:
        if self._piece is None:
            self._piece = self._inside_last_step()
        return self._piece

    def _inside_last_step(self) -> Piece:
        start, y, step, h = self._last
        rates, weights = step.stages, self.tableau.dense_polynomials
        if self.interpolation == "method":
            if len(weights) > self.tableau.stages:
                rates = [*rates, self._last_rates()]
        else:
            slope = [(b - a) / h for a, b in zip(y, self.y, strict=True)]
            rates, weights = [slope], LINEAR
            if self.interpolation == "cubic":
                first = step.stages[0]
                if not self.tableau.first_explicit:
                    first = self._sided(self.begin, self.t)(start, y)
                rates, weights = [first, slope, self._last_rates()], CUBIC
        return Piece(self.begin, self.t, start, h, y, rates, weights)

    def _last_rates(self) -> Leaves:
        """The rates at the end of the last step, as the step sees them."""
        return self.rates

    def shortened(self, t: float) -> Leaves:
        start, y, step, _ = self._last
        # The end of a step may move with a time that was asked for, while t is a constant.
        if t == self.t and not isinstance(self.node, Tensor):
            return self.y
        if t == self.begin and isinstance(start, Tensor):
            # A step of size zero, which changes with where it begins.
            first = self._sided(self.begin, self.t)(start, y)
            return combine(y, [first], [(0, 1.0)], t - start)
        if t == self.begin:
            return y
        first = step.stages[0] if self.tableau.first_explicit else None
        # Newton's method begins anew: the result depends on nothing but the step.
        newton = None if self._newton is None else Newton(self.method, self.stats)
        tableau = self.tableau.plain
        return self._step(tableau, self.begin, t, start, y, first, t - start, newton).y

    @property
    def _guess(self) -> Leaves | None:
        """The rates at the present time, if the last step has left them."""
        return self._rates if self._handed_on else None

    def _try(self, t1: float, node: Time) -> tuple[Step, Time]:
        # Where no stage is f(t, y), it is a guess, if the last step has left it.
        first = self.rates if self.tableau.first_explicit else self._guess
        self._begin_step(t1)
        h = node - self.node
        step = self._step(self.tableau, self.t, t1, self.node, self.y, first, h, self._newton)
        return step, h

    def _step(
        self,
        tableau: Tableau,
        t0: float,
        t1: float,
        start: Time,
        y: Leaves,
        first: Leaves | None,
        h: Time,
        newton: Newton | None,
    ) -> Step:
        field = self._sided(t0, t1)
        if tableau.explicit:
            return runge_kutta_step(tableau, field, start, y, first, h, self._zeros)
        return implicit_step(tableau, field, start, y, first, h, newton)

    def _sided(self, t0: float, t1: float) -> VectorField:
        """The field as a step from t0 to t1 may see it."""
        if not self._is_one_sided(t0, t1):
            return self.field
        return OneSided(self.field, t0, t1, time_dtype(self.y))

    def _is_one_sided(self, t0: float, t1: float) -> bool:
        """Whether a step from t0 to t1 must not see f outside of it."""
        return False

    def _take(self, t1: float, node: Time, step: Step, h: Time) -> None:
        """Accept a step."""
        self._integrate(step.stages, self._solution_weights, h)
        self._last, self._piece = (self.node, self.y, step, h), None
        self._handed_on = step.f is not None
        self._end_step(t1, node, step.y, step.f)
