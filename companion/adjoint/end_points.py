r"""Gradients with respect to times, from the rates there.

With the adjoint a, which jumps by :math:`g_i = \partial L / \partial y(t_i)` at output times,

.. math::
    \frac{dL}{dt_i} = \langle g_i, f(t_i, y_i)\rangle, \qquad
    \frac{dL}{dt_0} = -\langle a(t_0^+), f(t_0, y_0)\rangle, \qquad
    \frac{dL}{d\tau} = \langle a(\tau^+), f(\tau^-, y(\tau)) - f(\tau^+, y(\tau))\rangle,

the last for a time :math:`\tau` at which f jumps.  Unlike the integral of
:math:`-a\,\partial f/\partial t`, these hold where f jumps in time, too.  Where :math:`t_i` is a
jump time, the output counts as the earlier of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from companion.ode.field import Leaves, time_dtype
from companion.ode.one_sided import OneSided
from companion.ode.problem import Problem
from companion.ode.solution import Stats


class EndPoints:
    """The gradients with respect to times, gathered from the last time to the first.

    Args:
        problem: what was solved.
        times: those of the states.
        stats: where evaluations are counted.
    """

    def __init__(self, problem: Problem, times: Sequence[float], stats: Stats) -> None:
        self._field = problem.field(stats)
        self._dtype = time_dtype(problem.y0)
        self._times = times
        self._later = math.inf if times[-1] > times[0] else -math.inf
        self._outputs: list[Tensor] = []
        #: By jump time; one that the solve does not come to has no influence.
        zero = problem.y0[0].new_zeros((), dtype=torch.float64)
        self._jumps = dict.fromkeys(problem.method.jump_t, zero)

    @property
    def times(self) -> Tensor:
        """The gradients with respect to the times of the states, shape (T,)."""
        return torch.stack(self._outputs[::-1])

    @property
    def jumps(self) -> Tensor:
        """Those with respect to the jump times, in the order of ``method.jump_t``."""
        return torch.stack(list(self._jumps.values()))

    def output(self, t: float, y: Leaves, grads: Leaves) -> None:
        """At an output time after the first: the gradients of the loss there."""
        self._outputs.append(inner(grads, self._rates(t, y, -self._later)))

    def start(self, y: Leaves, a: Leaves) -> None:
        """At the first time: the adjoint before it jumps.

        The value there is y0, whatever the time: the loss's gradient has no part in this.
        """
        self._outputs.append(-inner(a, self._rates(self._times[0], y, self._later)))

    def jump(self, tau: float, y: Leaves, a: Leaves) -> None:
        """At a time at which f jumps."""
        before, after = (self._rates(tau, y, side) for side in (-self._later, self._later))
        self._jumps[tau] = inner(a, before) - inner(a, after)

    def jumps_from(self, t: float, end: float) -> list[float]:
        """The jump times on the way back from t, without it, to ``end``, which is not the first."""
        low, high = min(t, end), max(t, end)
        on_the_way = [tau for tau in self._jumps if low <= tau <= high]
        return sorted(
            (tau for tau in on_the_way if tau not in (t, self._times[0])), reverse=t > end
        )

    def _rates(self, t: float, y: Leaves, side: float) -> Leaves:
        """f at a time, and where it jumps there its limit from this side."""
        field = self._field
        if t in self._jumps:
            field = OneSided(field, t, side, self._dtype)
        return field(t, y)


def inner(a: Leaves, b: Leaves) -> Tensor:
    """Real inner product, in float64."""
    return sum(
        torch.sum((x.conj() * y).real, dtype=torch.float64) for x, y in zip(a, b, strict=True)
    )
