r"""The continuous adjoint of Chen et al. (2018): one solve backwards in time.

The state y is solved for backwards together with a (`companion.adjoint.continuous`):

.. math::
    \dot y = f, \qquad \dot a = -a \frac{\partial f}{\partial y}, \qquad
    \frac{dL}{d\theta} = -\int_{t_1}^{t_0} a \frac{\partial f}{\partial \theta}\, dt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from companion.adjoint.continuous import ContinuousAdjoint, ContinuousRecord, Walk
from companion.adjoint.own_backward import Record
from companion.adjoint.products import pulled_back
from companion.ode.begin import begin
from companion.ode.field import Field, Leaves, Time
from companion.ode.integrate import integrate
from companion.ode.march import March
from companion.ode.method import Method
from companion.ode.norm import Allowance, Tolerance, rms_norm
from companion.ode.problem import Problem
from companion.ode.solution import Stats

#: A reconstructed state that is off by more than this part of the solution's size, and by more
#: than this many tolerances, makes a gradient unreliable.
LARGEST_DRIFT, MOST_TOLERANCES = 1e-2, 1e3


class LostStateWarning(UserWarning):
    """A backward solve did not reproduce the states of the forward solve."""


@dataclass(frozen=True, kw_only=True)
class Backsolve(ContinuousAdjoint):
    """Optimise, then discretise: solve the adjoint equations backwards in time.

    Memory does not grow with the number of steps: only the states at the output times are kept,
    and the backward solve starts anew from each of them. The gradient has the error of the
    backward solve, and of y reconstructed backwards, which is unstable where the flow contracts
    strongly: `Direct` has neither.  A `LostStateWarning` tells when a reconstructed state is off
    by more than one per cent of the solution and a thousand tolerances.  f must return the same
    for the same arguments on the way back: with dropout the gradient is that of no function, and
    a warning says so.

    The parameters are integrated as a quadrature, outside of the error norm (the seminorm of
    Kidger, Chen and Lyons, ICML 2021): they do not feed back into y and a.  A loss with small
    gradients is scaled up for the backward solve, so that ``atol`` does not hide them.

    Args:
        anchored: whether the backward solve starts anew from the known state at every output
            time.  Without, it goes on from the one that it has reconstructed, and the states
            known only serve the warning.
        method, rtol, atol, control, first_step, max_steps: of the backward solve, as in
            `companion.solve`; None takes those of the forward solve.  Its norm is the larger
            of the forward solve's norms of y and of a.
        step_t, jump_t: as in `companion.solve`; None takes those of the forward solve, as far
            as the method of the backward solve knows them.
        max_iterations: most iterations of an implicit method for its stages.
        observers: told about every step of the backward solve.
        params: exactly the tensors, besides y0, the times and those in args, whose gradients are
            wanted; None finds what f holds and uses.
    """

    anchored: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.anchored, bool):
            raise TypeError(f"Backsolve: anchored must be True or False, got {self.anchored!r}")

    def record(self, problem: Problem, stats: Stats) -> Record:
        path = integrate(problem, list(problem.y0), problem.times, stats)
        method = _of_both(self.method_after(problem, path.size))
        return _BacksolveRecord(problem, method, path, anchored=self.anchored)


def _of_both(method: Method) -> Method:
    """A method for a as one for (y, a), with the same demands on y."""

    def norm(leaves: Leaves) -> Tensor:
        half = len(leaves) // 2
        return torch.maximum(method.norm(leaves[:half]), method.norm(leaves[half:]))

    return replace(method, norm=norm, rtol=_twice(method.rtol), atol=_twice(method.atol))


def _twice(tolerance: Tolerance) -> Tolerance:
    return tolerance if isinstance(tolerance, float) else (*tolerance, *tolerance)


class _BacksolveRecord(ContinuousRecord):
    """The states at the output times are all that the backward solve needs."""

    def __init__(self, *args, anchored: bool) -> None:
        super().__init__(*args)
        self.anchored = anchored

    def walk(
        self,
        kept: Sequence[Tensor],
        outputs: Leaves,
        grads: Leaves,
        wanted: Sequence[Tensor],
        stats: Stats,
    ) -> Walk:
        field = AdjointField(self.problem.field(stats), wanted)
        state = [*(leaf[-1] for leaf in outputs), *grads]
        march = begin(field, self.method, self.times[-1], state, stats)
        return _Reconstruction(march, outputs, len(wanted), anchored=self.anchored)


class AdjointField:
    """The vector field of (y, a), with the parameter gradient as an integrand.

    The leaves are those of y and then those of a; the value has those of dy/dt, of da/dt and of
    ``-a df/dtheta`` for every wanted tensor, None where f does not depend on it.
    """

    def __init__(self, field: Field, wanted: Sequence[Tensor]) -> None:
        self.field = field
        self.wanted = wanted

    def __call__(self, t: Time, leaves: Leaves) -> list[Tensor | None]:
        half = len(leaves) // 2
        # The Jacobian of this field, which implicit methods want, is that of a vjp.
        twice = torch.is_grad_enabled()
        y = [
            leaf if twice and leaf.requires_grad else leaf.detach().requires_grad_()
            for leaf in leaves[:half]
        ]
        with torch.enable_grad():
            rates = self.field(t, y)
        # The minus sign of da/dt = -a df/dy.
        minus_a = [-leaves[half + i] for i in range(half)]
        pulled = pulled_back(rates, [*y, *self.wanted], minus_a, create_graph=twice)
        adjoint_rates = [
            torch.zeros_like(x) if grad is None else grad
            for x, grad in zip(y, pulled, strict=False)
        ]
        if not twice:
            rates = [rate.detach() for rate in rates]
        return [*rates, *adjoint_rates, *pulled[half:]]


class _Reconstruction(Walk):
    """The state and the adjoint on their way back together."""

    def __init__(self, march: March, outputs: Leaves, wanted: int, *, anchored: bool) -> None:
        self._march, self._outputs, self._wanted = march, outputs, wanted
        self._anchored = anchored
        self._count = len(outputs)
        self._sizes = [rms_norm([leaf]) for leaf in outputs]
        self._drifts: list[Tensor] = []

    @property
    def adjoint(self) -> Leaves:
        return self._march.y[self._count :]

    def to(self, t: float, end: float) -> tuple[Leaves, Leaves]:
        leaves = self._march.to(t, end)
        return leaves[: self._count], leaves[self._count :]

    def jump(self, i: int, grads: Leaves) -> None:
        march, n = self._march, self._count
        state, known = march.y[:n], [leaf[i] for leaf in self._outputs]
        self._drifts.append(_drift(state, known, self._sizes, march.method))
        adjoint = [a + grad for a, grad in zip(march.y[n:], grads, strict=True)]
        march.restart([*(known if self._anchored else state), *adjoint])

    def finish(self) -> list[Tensor | None]:
        self._warn_of_drift()
        return self._march.integrals or [None] * self._wanted

    def _warn_of_drift(self) -> None:
        """Warn if any reconstructed state was off; one read-back for all output times."""
        # Written so that a NaN is a drift, too.
        if self._drifts and not float(torch.stack(self._drifts).max()) <= 1:
            cure = (
                "ask for more output times, at each of which the backward solve starts from the "
                "known state"
                if self._anchored
                else "leave out anchored=False"
            )
            warnings.warn(
                "the backward solve may have lost its way: a state that it reconstructed is off "
                f"by more than {LARGEST_DRIFT:.0%} of the solution and {MOST_TOLERANCES:.0f} "
                "tolerances, so the gradient may be wrong.  Flows that contract strongly cannot "
                f"be reversed: use gradient='direct' or 'gauss', or {cure}",
                LostStateWarning,
                stacklevel=2,
            )


def _drift(found: Leaves, known: Leaves, sizes: Leaves, method: Method) -> Tensor:
    """How far a reconstructed state is off, in units of what is still tolerable.

    Tolerable is ``LARGEST_DRIFT`` of the solution's size, and ``MOST_TOLERANCES`` in any case.
    """
    allowed = Allowance(method.rtol, method.atol, known)(known)
    most = [
        torch.maximum(MOST_TOLERANCES * part, LARGEST_DRIFT * size)
        for part, size in zip(allowed, sizes, strict=True)
    ]
    # A solution of zeros is allowed no error without atol, and may have none.
    most = [m.clamp_min(torch.finfo(m.dtype).tiny) for m in most]
    return rms_norm([(x - y) / m for x, y, m in zip(found, known, most, strict=True)])
