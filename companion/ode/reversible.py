r"""Steps that can be taken back: the reversible scheme of McCallum and Foster.

Around any explicit Runge-Kutta method, whose step from y at t adds :math:`\Psi_h(t, y)`, and with
a second state z, the scheme computes

.. math::
    y_{n+1} &= \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n), \\
    z_{n+1} &= z_n - \Psi_{-h}(t_{n+1}, y_{n+1}),

from :math:`z_0 = y_0`.  Each line changes one state by a function of the other, and so can be
undone without solving equations (arXiv 2410.11648).  The order is that of the method.

The two states drift apart: slowly by the local errors, and, where the flow contracts at a rate
:math:`\alpha`, like :math:`e^{\alpha t}`, which destroys the solution. Here z is set to y again
before that, and the pair is kept for the way back.  The same pair gives the way back, on which
errors of rounding grow as the drift does on the way there, a point to start anew from.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from array import array
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from companion.ode.adaptive import AdaptiveMarch
from companion.ode.control import FixedGrid, FixedStep
from companion.ode.field import Leaves, Time
from companion.ode.fixed import FixedMarch, GridMarch
from companion.ode.method import Method
from companion.ode.norm import Allowance, quotients
from companion.ode.read_back import read_back
from companion.ode.runge_kutta import RungeKuttaMarch
from companion.ode.solution import Stats
from companion.ode.step import Step, VectorField, runge_kutta_step
from companion.ode.tableau import Tableau

#: Most steps between two looks at the drift.
LONGEST_WAIT = 16


class Pair(NamedTuple):
    """Both states of the scheme after so many steps."""

    steps: int
    y: Leaves
    z: Leaves


def without_estimate(tableau: Tableau) -> Tableau:
    """The method without the stages that only its error estimate or the next step uses."""
    stages = max(j for j, weight in enumerate(tableau.b) if weight) + 1
    return replace(
        tableau,
        a=tableau.a[:stages],
        b=tableau.b[:stages],
        error=None,
        embedded_order=None,
        dense=None,
    )


class ReversibleMarch(RungeKuttaMarch):
    r"""The reversible scheme, to be mixed into a march with fixed or with adapted steps.

    ``y`` of the march is z, from which the method makes its steps and estimates their errors.
    It does not look inside a step: a target has to be the end as well, ``march.to(t, t)``.

    Args:
        coupling: :math:`\lambda`.
        drift: largest distance of y and z, in units of the tolerances.

    Attributes:
        solution: y of the scheme.
        ends: the times between the steps, from the first to the present.
        pairs: y and z as they were when z was set to y.
    """

    def __init__(self, *args, coupling: float, drift: float) -> None:
        super().__init__(*args)
        self.coupling, self.drift = coupling, drift
        self.solution = self.y
        self.ends = array("d", [self.t])
        self.pairs: list[Pair] = []
        self._increment = without_estimate(self.tableau)
        if self.tableau.error is None:
            # Nobody judges the steps, nor is a stage the next step's first.
            self.tableau = self._increment
        self._allowance = Allowance(self.method.rtol, self.method.atol, self.y)
        # Errors of rounding grow by 1 / coupling with every step back, whatever the flow does.
        # The way back starts anew before that takes more than a third of the digits.
        eps = max(torch.finfo(leaf.dtype).eps for leaf in self.y)
        self._longest = max(1, int(math.log(eps) / math.log(coupling) / 3))
        #: Steps since y and z were one.
        self._apart_for = 0

    def state(self, t: float, node: Time | None = None) -> Leaves:
        return self.solution

    def moved(self, y: Leaves, t0: float, t1: float, start: Time, end: Time) -> Leaves:
        r"""A step of the method: the state y plus :math:`\Psi_{t_1 - t_0}(t_0, y)`.

        Args:
            y: state at the beginning.
            t0, t1: where the step begins and ends.
            start, end: the same, or tensors that require grad.
        """
        field = self._sided(t0, t1)
        return runge_kutta_step(self._increment, field, start, y, field(start, y), end - start).y

    def rates_before(self, t0: float, t: float, y: Leaves) -> Leaves:
        """The rates at the end of a step from t0 to t."""
        return self._sided(t0, t)(t, y)

    def _take(self, t1: float, node: Time, step: Step, h: Time) -> None:
        z, weight = self.y, self.coupling
        y = [
            torch.add(moved, torch.sub(a, b), alpha=weight)
            for moved, a, b in zip(step.y, self.solution, z, strict=True)
        ]
        back = self.moved(y, t1, self.t, t1, self.t)
        z = [b - (moved - a) for a, b, moved in zip(y, z, back, strict=True)]
        self.ends.append(t1)
        self._before, self.solution = self.solution, y
        self._end_step(t1, node, z, None)
        self._apart_for += 1
        if self._apart_for == self._longest or self._too_far():
            self.pairs.append(Pair(len(self.ends) - 1, y, z))
            self.y, self._apart_for = y, 0

    @abstractmethod
    def _too_far(self) -> bool:
        """Whether y and z have to be made one; asked after every step."""

    def _distance(self) -> Tensor:
        """The distance of y and z in units of the tolerances, still on the device.

        As for the error of a step, what is allowed is the larger at the two ends of it.
        """
        apart = [a - b for a, b in zip(self.solution, self.y, strict=True)]
        ends = self._allowance(self._before), self._allowance(self.solution)
        # Without atol nothing is allowed where the solution is zero, and there may be no distance.
        allowed = [torch.maximum(*pair) for pair in zip(*ends, strict=True)]
        allowed = [most.clamp_min(torch.finfo(most.dtype).tiny) for most in allowed]
        return self.method.norm(quotients(apart, allowed))


class ReversibleAdaptiveMarch(ReversibleMarch, AdaptiveMarch):
    """Error control by the first of the two increments of a step.

    The distance of y and z is read back with the error of the next step: the host waits for the
    device once a step, as it does without the scheme, and knows the distance one step late.
    """

    def _ratio(self, step: Step) -> float:
        watched = self._apart_for > 0 and not math.isinf(self.drift)
        distance = self._distance() if watched else None
        ratio = super()._ratio(step)
        self._far = watched and read_back(distance) > self.drift
        return ratio

    def _too_far(self) -> bool:
        return self._far


class ReversibleKnownSteps(ReversibleMarch):
    """Without error control the host need not wait, and a look at the distance costs a wait.

    It looks after the first step, and then after half of the steps that the distance would need
    to become too large, if it went on to grow by the same factor, but after no more than before.
    """

    def _too_far(self) -> bool:
        n = self._apart_for
        if n == 1:
            self._next_look, self._last_look = 1, (0, 0.0)
        if n < self._next_look or math.isinf(self.drift):
            return False
        before, last = self._last_look
        now = max(read_back(self._distance()), last)
        if now > self.drift:
            return True
        wait = min(n, LONGEST_WAIT)
        if now > last > 0:
            wait = min(wait, 0.5 * (n - before) * math.log(self.drift / now) / math.log(now / last))
        self._next_look, self._last_look = n + max(1, int(wait)), (n, now)
        return False


class ReversibleFixedMarch(ReversibleKnownSteps, FixedMarch):
    """Equal steps between one target and the next."""


class ReversibleGridMarch(ReversibleKnownSteps, GridMarch):
    """Steps from one point of a grid, or target, to the next."""


def begin_reversible(
    field: VectorField,
    method: Method,
    t: float,
    y: Leaves,
    stats: Stats,
    *,
    coupling: float,
    drift: float,
) -> ReversibleMarch:
    """A march by the reversible scheme that stands at time t with state y."""
    kind: type[ReversibleMarch] = ReversibleAdaptiveMarch
    if isinstance(method.control, FixedStep):
        kind = ReversibleFixedMarch
    elif isinstance(method.control, FixedGrid):
        kind = ReversibleGridMarch
    return kind(field, method, t, y, stats, coupling=coupling, drift=drift)
