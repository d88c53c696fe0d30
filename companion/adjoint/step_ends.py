r"""The adjoint of the steps at their ends, and between these.

A backward pass through the steps gives :math:`a_n = dL/dy_n` at the end of every step, exactly.
Inside a step, y and a are the cubic Hermite polynomials of their values and slopes at its ends,

.. math:: \dot y_n = f(t_n, y_n), \qquad \dot a_n = -a_n \frac{\partial f}{\partial y}(t_n, y_n),

whose error is of fourth order in the size of the step (Hairer, Nørsett and Wanner, *Solving ODEs
I*, II.6); those of a method of first order, whose steps say nothing of curvature, are chords.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from companion.adjoint.inquiry import Inquiry
from companion.adjoint.products import pulled_back
from companion.ode.dense import CUBIC, LINEAR, Piece
from companion.ode.field import Leaves, time_dtype
from companion.ode.one_sided import OneSided
from companion.ode.problem import Problem
from companion.ode.solution import Stats
from companion.ode.step import VectorField


class _End(NamedTuple):
    """One end of a step, as this step sees it.

    Attributes:
        y, a: the leaves of the state and of the adjoint.
        slopes: those of both, f(t, y) and -a df/dy, if they have been computed.
    """

    y: Leaves
    a: Leaves
    slopes: tuple[Leaves, Leaves] | None = None


class StepEnds:
    """Answers an inquiry from the ends of the steps, which come from the last to the first.

    At an output time a jumps by the gradient of the loss there: the step before sees it with the
    jump, the step after without.

    Args:
        inquiry: what is wanted.
        problem: what was solved.
        knots: the times between the steps, from the first to the last; the output times are
            among them.
        grads: the gradients of the loss with respect to the states at the output times.
        stats: where the evaluations for slopes are counted.
    """

    def __init__(
        self,
        inquiry: Inquiry,
        problem: Problem,
        knots: Sequence[float],
        grads: Leaves,
        stats: Stats,
    ) -> None:
        self._inquiry, self._knots, self._grads = inquiry, knots, grads
        self._places = inquiry.among(knots)
        self._field, self._dtype = problem.field(stats), time_dtype(problem.y0)
        self._outputs = {t: i for i, t in enumerate(problem.times)}
        self._jumps = frozenset(problem.method.jump_t)
        self._one_sided = getattr(problem.method.control, "one_sided", False)
        self._scheme = problem.method.scheme
        #: The end that came before this one, as the step that ends there sees it.
        self._last: _End | None = None

    def needs(self, n: int) -> bool:
        """Whether anything depends on the end before step n."""
        at, inside = self._places
        return n in at or n in inside or n - 1 in inside

    def put(self, n: int, y: Leaves, a: Leaves, of_rates: Leaves | None = None) -> None:
        """Take in the end before step n, which `needs` asked for.

        Args:
            n: number of the step.
            y: the state there.
            a: the gradient of the loss with respect to it, the jump at an output time included.
            of_rates: where the step takes f(t, y) for another number than a function of y, the
                gradient with respect to it, which is no part of ``a``.
        """
        if of_rates is not None:
            _, pulled = self._slopes(n, n, y, of_rates)
            a = [x - slope for x, slope in zip(a, pulled, strict=True)]
        at, inside = self._places
        for t in at.get(n, ()):
            self._inquiry.answer(t, y, a)
        slopes = None
        if n in inside:
            slopes = self._interpolate(n, _End(y, self._without_jump(n, a)))
            # The step before sees the same, unless a or f jumps between the two.
            t = self._knots[n]
            if self._one_sided or t in self._jumps or t in self._outputs:
                slopes = None
        self._last = _End(y, a, slopes)

    def _without_jump(self, n: int, a: Leaves) -> Leaves:
        """The adjoint just after the end before step n."""
        i = self._outputs.get(self._knots[n])
        return a if i is None else [x - g[i] for x, g in zip(a, self._grads, strict=True)]

    def _interpolate(self, n: int, first: _End) -> tuple[Leaves, Leaves] | None:
        """Answer what is asked inside step n, which begins here; the slopes here, if needed."""
        last = self._last
        if self._scheme.order >= 2:
            first = first._replace(slopes=self._slopes(n, n, first.y, first.a))
            if last.slopes is None:
                last = last._replace(slopes=self._slopes(n, n + 1, last.y, last.a))
        y, a = (self._polynomial(n, first, last, which) for which in (0, 1))
        for t in self._places.inside[n]:
            self._inquiry.answer(t, y.at(t), a.at(t))
        return first.slopes

    def _polynomial(self, n: int, first: _End, last: _End, which: int) -> Piece:
        """The polynomial inside step n for y (0) or a (1)."""
        t0, t1 = self._knots[n], self._knots[n + 1]
        pairs = zip(first[which], last[which], strict=True)
        chord = [(b - a) / (t1 - t0) for a, b in pairs]
        rates, weights = [chord], LINEAR
        if first.slopes is not None:
            rates, weights = [first.slopes[which], chord, last.slopes[which]], CUBIC
        return Piece(t0, t1, t0, t1 - t0, first[which], rates, weights)

    def _slopes(self, step: int, n: int, y: Leaves, a: Leaves) -> tuple[Leaves, Leaves]:
        """dy/dt and da/dt at the end before step n, which is one of the ends of a step."""
        y = [leaf.detach().requires_grad_() for leaf in y]
        with torch.enable_grad():
            rates = self._sided(step)(self._knots[n], y)
        pulled = pulled_back(rates, y, [-leaf for leaf in a])
        adjoint_rates = [
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(a, pulled, strict=True)
        ]
        return [rate.detach() for rate in rates], adjoint_rates

    def _sided(self, step: int) -> VectorField:
        """The field as a step sees it."""
        t0, t1 = self._knots[step], self._knots[step + 1]
        if not (self._one_sided or t0 in self._jumps or t1 in self._jumps):
            return self._field
        return OneSided(self._field, t0, t1, self._dtype)
