"""Marching by one of SciPy's solvers, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from numpy import isfinite, ndarray
from torch import Tensor

from companion.ode.dense import Piece
from companion.ode.errors import NonFiniteState, StepSizeUnderflow
from companion.ode.field import Leaves, Time
from companion.ode.march import March

NO_GRADIENT = (
    "no gradient passes through SciPy's steps: use gradient='backsolve' (odeint_adjoint), solve "
    "under torch.no_grad(), or take one of companion's methods"
)


@dataclass(frozen=True)
class SciPyPiece:
    """A step of SciPy and the solution inside it."""

    t0: float
    t1: float
    inside: Callable[[float], Leaves]

    def at(self, t: Time) -> Leaves:
        return self.inside(float(t))


class SciPyMarch(March):
    """The state and the integrals, as one real vector in float64, in SciPy's hands."""

    larger_steps = "or loosen rtol and atol"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if torch.is_grad_enabled() and (
            isinstance(self.node, Tensor) or any(x.requires_grad for x in (*self.y, *self.rates))
        ):
            raise ValueError(NO_GRADIENT)
        self._solver = None
        #: The Jacobians and factorisations of this solver that are in the statistics.
        self._counted = 0, 0
        #: Whether f has been finite in this step.
        self._finite = True
        #: The leaves of the state, and of the integrals that do not vanish, with their places.
        self._shapes: list[Tensor] = []
        self._present: list[int] = []

    @property
    def piece(self) -> Piece:
        inside = self._solver.dense_output()
        return SciPyPiece(self.begin, self.t, lambda t: self._leaves(inside(t))[: len(self.y)])

    def restart(self, y: Leaves) -> None:
        super().restart(y)
        self._solver = None

    def advance(self, target: float, end: float, node: Time | None = None) -> None:
        if self._solver is None:
            self._start(end)
        self._begin_step(end)
        self._step()
        leaves = self._leaves(self._solver.y)
        if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves):
            self._give_up_not_finite()
        count = len(self.y)
        for place, value in zip(self._present, leaves[count:], strict=True):
            self.integrals[place] = value
        t1 = float(self._solver.t)
        self._end_step(t1, t1, leaves[:count], None)

    def _step(self) -> None:
        """One accepted step of SciPy's, its reports as errors."""
        solver = self._solver
        self._finite = True
        try:
            message = solver.step()
        except ValueError as error:
            # Its linear algebra does not say where a NaN comes from.
            if self._finite:
                raise
            self._give_up_not_finite(error)
        jacobians, factorisations = self._counted
        # SciPy counts in NumPy's integers.
        self._counted = int(solver.njev), int(solver.nlu)
        self.stats.jacobians += self._counted[0] - jacobians
        self.stats.factorisations += self._counted[1] - factorisations
        if solver.status == "failed":
            if not self._finite:
                self._give_up_not_finite()
            raise StepSizeUnderflow(
                f"SciPy: {message.rstrip('.')}: loosen rtol and atol, or check f", **self._where()
            )

    def _give_up_not_finite(self, cause: Exception | None = None) -> NoReturn:
        raise NonFiniteState(
            "f or the state became infinite or NaN: check f", **self._where()
        ) from cause

    def _where(self) -> dict[str, Any]:
        return {"t": self.t, "h": 0.0, "steps": self.stats.accepted}

    def _start(self, end: float) -> None:
        """Give SciPy the present state, and the integrals as they are."""
        import scipy.integrate

        method, count = self.method, len(self.y)
        extra = self.rates[count:]
        if not self.integrals:
            self.integrals = [None if rate is None else torch.zeros_like(rate) for rate in extra]
        self._present = [i for i, value in enumerate(self.integrals) if value is not None]
        parts = [*self.y, *(self.integrals[i] for i in self._present)]
        self._shapes = [part.detach() for part in parts]
        self._counted = 0, 0
        options = {}
        if method.first_step is not None:
            options["first_step"] = min(method.first_step, abs(end - self.t))
        self._solver = getattr(scipy.integrate, method.scheme.solver)(
            self._rates_of,
            self.t,
            _vector(parts),
            end,
            rtol=self._tolerance(method.rtol),
            atol=self._tolerance(method.atol),
            max_step=method.scheme.max_step,
            **options,
        )

    def _tolerance(self, tolerance) -> float | ndarray:
        """A tolerance as SciPy takes it; that of an integral is the first leaf's."""
        if isinstance(tolerance, float):
            return tolerance
        values = [*tolerance, *(tolerance[0] for _ in self._present)]
        return _vector(
            [torch.zeros_like(x) + abs(v) for x, v in zip(self._shapes, values, strict=True)]
        )

    @torch.no_grad()
    def _rates_of(self, t: float, vector: ndarray) -> ndarray:
        count = len(self.y)
        rates = self.field(float(t), self._leaves(vector)[:count])
        extra = []
        for i, rate in enumerate(rates[count:]):
            if rate is not None and i not in self._present:
                raise ValueError(
                    "the gradient of a parameter that f did not use at the last time cannot be "
                    "integrated by SciPy: take one of companion's methods for the backward solve"
                )
            if i in self._present:
                extra.append(torch.zeros_like(self.integrals[i]) if rate is None else rate)
        values = _vector([*rates[:count], *extra])
        self._finite = self._finite and bool(isfinite(values).all())
        return values

    def _leaves(self, vector: ndarray) -> Leaves:
        leaves, start, flat = [], 0, torch.from_numpy(vector.copy())
        for like in self._shapes:
            real = torch.view_as_real(like.resolve_conj()) if like.is_complex() else like
            part = flat[start : start + real.numel()].reshape(real.shape).to(real)
            leaves.append(torch.view_as_complex(part) if like.is_complex() else part)
            start += real.numel()
        return leaves


def _vector(leaves: Leaves) -> ndarray:
    flat = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in leaves]
    return torch.cat([x.detach().reshape(-1).cpu().double() for x in flat]).numpy()
