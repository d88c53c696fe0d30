"""Choosing the steps: every sample of a batch marches with its own step size."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor

from companion.ode.batched.control import BatchedPID, SampleNorms
from companion.ode.batched.dense import Outputs
from companion.ode.batched.step import FastStepper, column
from companion.ode.errors import NonFiniteState, StepSizeUnderflow, TooManySteps
from companion.ode.field import Field, Leaves
from companion.ode.method import Method

#: Steps between two looks at the outputs and the statistics.
BLOCK = 64
#: Bytes of states and stages that may wait for the outputs between two looks.
WAITING = 2**28


class BatchedMarch:
    """All samples on their way, in lockstep but each with its own time, step size and verdict.

    The algorithm of a sample is that of `companion.ode.adaptive.AdaptiveMarch`.  A sample that
    has arrived goes on with steps of size 0.  One read-back a step tells whether any has still
    to go, and one more a block of steps how many outputs were passed; everything else stays on
    the device.

    Times increase for all samples: where time runs backwards they are negated, and ``direction``
    is -1.

    Args:
        field: ``field(t, leaves)`` with t of shape (B,).
        method: explicit Runge-Kutta method with `PID` control.
        y0: leaves of the initial state, each of shape (B, ...).
        rates: ``field`` at the initial state.
        times: shape (B, T), increasing along each row.
        direction: shape (B,), -1 where times are negated, else 1; None where none are.
        outputs: what collects the states at the times between first and last; None if nobody
            wants them.
        remember: whether to keep ``knots``.

    Attributes:
        y: the state, in the end that at the last times.
        accepted, rejected: numbers of steps, shape (B,).
        knots: times that the samples stood at, one block of them after another, each of shape
            (steps + 1, B); a repeated time is a rejected step, or a sample that has arrived.
    """

    def __init__(
        self,
        field: Field,
        method: Method,
        y0: Leaves,
        rates: Leaves,
        times: Tensor,
        direction: Tensor | None,
        outputs: Outputs | None,
        remember: bool,
    ) -> None:
        self.field = field
        self.method = method
        self.tableau = method.scheme
        self.t, self.end = times[:, 0], times[:, -1]
        self.y, self.rates = y0, rates
        self.direction = direction
        # Without times in between there is nothing to keep the steps for.
        self.outputs = outputs if times.shape[1] > 2 else None
        step = sum(leaf.nbytes for leaf in y0) * (self.tableau.stages + 1)
        self._block = max(1, min(BLOCK, WAITING // max(step, 1)))
        self.tried = 0
        self.accepted = torch.zeros_like(self.t, dtype=torch.int64)
        self.rejected = torch.zeros_like(self.accepted)
        self.knots: list[Tensor] = []
        self._remember = remember
        self._step = FastStepper(self.tableau, field, y0, times.dtype)
        self._norms = SampleNorms(method, y0)
        self._control = BatchedPID(method.control, self.tableau.estimate_order)
        self._bounded = method.control.max_step < math.inf
        self._ratio = torch.zeros_like(self.t)
        #: For every leaf the shape in which a mask of shape (B,) broadcasts to it.
        self._columns = [(-1, *(1,) * (leaf.ndim - 1)) for leaf in y0]
        #: Rows: how far it is to the end, and by how much the step size falls short.
        self._status = self.t.new_empty(2, len(times))
        self._smallest = self._resolution()
        self._open_block()

    def run(self) -> None:
        """March every sample to its end.

        Raises:
            SolverError: if one does not get there.
        """
        self.size = self._first_size()
        left, short = self._status
        while True:
            torch.sub(self.end, self.t, out=left)
            # A step that would leave next to nothing to go takes all of it.
            reach = self.size * 1.01
            torch.sub(torch.minimum(left, self._smallest), reach, out=short)
            to_go, missing = self._status.amax(1).tolist()
            if missing > 0:
                self._require_resolved(left, reach)
            if to_go <= 0:
                break
            if self.tried == self.method.max_steps:
                self._run_out(left > 0)
            self._advance(left, reach)
            if len(self._times) > self._block:
                self._close_block()
                self._open_block()
        self._close_block()

    def _advance(self, left: Tensor, reach: Tensor) -> None:
        """One step of every sample, accepted or not."""
        ends = reach >= left
        if self._bounded:
            ends &= left <= self.method.control.max_step
        # Two equal steps to the end are cheaper than a large one and a remainder.
        t1 = torch.where(ends, self.end, self.t + torch.minimum(self.size, left * 0.5))
        h = t1 - self.t
        y1, error, stages = self._step(self._signed(self.t), self.y, self.rates, self._signed(h))
        magnitudes = [torch.maximum(a.abs(), b.abs()) for a, b in zip(self.y, y1, strict=True)]
        self._ratio = self._norms(error, magnitudes)
        accepted, factor = self._control.judge(self._ratio)
        self.tried += 1
        self.size = h * factor
        if self._bounded:
            self.size.clamp_(max=self.method.control.max_step)
        self.t = torch.where(accepted, t1, self.t)
        self._times.append(self.t)
        if self.outputs is not None:
            self._states.append(self.y)
        masks = [accepted.view(shape) for shape in self._columns]
        self.y = list(map(torch.where, masks, y1, self.y))
        if self.tableau.fsal:
            self.rates = list(map(torch.where, masks, stages[-1], self.rates))
        else:
            self.rates = self.field(self._signed(self.t), self.y)
        if self.outputs is not None:
            if len(self.tableau.dense_polynomials) > len(stages):
                stages = [*stages, self.rates]
            self._stages.append(stages)

    def _signed(self, t: Tensor) -> Tensor:
        return t if self.direction is None else t * self.direction

    def _open_block(self) -> None:
        self._times = [self.t]
        self._states: list[Leaves] = []
        self._stages: list[list[Leaves]] = []

    def _close_block(self) -> None:
        knots = torch.stack(self._times)
        moved = knots[1:] > knots[:-1]
        self.accepted += moved.sum(0)
        self.rejected += (~moved & (knots[:-1] < self.end)).sum(0)
        if self._remember:
            self.knots.append(knots)
        if self._states:
            self.outputs.write(self.tableau, knots, self._states, self._stages)

    def _resolution(self) -> Tensor:
        """The least step sizes: ten units in the last place of the times, and a hundredth."""
        largest = torch.maximum(self.t.abs(), self.end.abs())
        return largest * (10.1 * torch.finfo(largest.dtype).eps)

    def _require_resolved(self, left: Tensor, reach: Tensor) -> None:
        """Raise unless all step sizes are above the resolution of the present times.

        The trials compare with that of an earlier time, which is never finer: on its way a time
        gets no further from zero than its first or its last.
        """
        self._smallest = self._resolution()
        short = torch.minimum(left, self._smallest) > reach
        if short.any():
            self._give_up(short)

    def _first_size(self) -> Tensor:
        """First steps from the size of f and of its change (HNW, II.4, p. 169)."""
        size = self.method.first_step
        if size is not None:
            size = torch.full_like(self.t, size)
        else:
            size = self._guess()
        # A first step is a guess: too small a one is no reason to give up.
        return torch.maximum(size, self._smallest).clamp_(max=self.method.control.max_step)

    def _guess(self) -> Tensor:
        magnitudes = [y.abs() for y in self.y]

        def norms(leaves: Leaves) -> Tensor:
            return self._norms(leaves, magnitudes).to(self.t.dtype)

        d0, d1 = norms(self.y), norms(self.rates)
        self._require_finite_start(d0 + d1)
        tiny = torch.minimum(d0, d1) < 1e-5
        small = torch.where(tiny, 1e-6, 0.01 * d0 / d1)
        small = torch.minimum(small, self.end - self.t)
        signed = self._signed(small)
        there = [
            (y + column(signed, y) * k).to(y.dtype) for y, k in zip(self.y, self.rates, strict=True)
        ]
        change = self.field(self._signed(self.t + small), there)
        d2 = norms([b - a for a, b in zip(self.rates, change, strict=True)]) / small
        largest = torch.maximum(d1, d2)
        power = 1 / (self.tableau.estimate_order + 1)
        size = torch.minimum(100 * small, (0.01 / largest).pow(power))
        size = torch.where(largest <= 1e-15, (1e-3 * small).clamp(min=1e-6), size)
        return torch.where(torch.isfinite(largest), size, small)

    def _require_finite_start(self, norms: Tensor) -> None:
        bad = ~torch.isfinite(norms)
        if not bad.any():
            return
        if all(bool(torch.isfinite(leaf[bad]).all()) for leaf in (*self.y, *self.rates)):
            raise ValueError(
                f"{name_samples(bad)}: rtol = {self.method.rtol} and atol = {self.method.atol} "
                "allow no error, or none that the state's dtype can represent, at the initial "
                "state: make atol larger"
            )
        raise NonFiniteState(
            f"{name_samples(bad)}: the initial state or the value of f there is not finite: "
            "check y0, the parameters and f",
            **self._where(bad, h=torch.zeros_like(self.t)),
        )

    def _run_out(self, unfinished: Tensor) -> NoReturn:
        raise TooManySteps(
            f"{name_samples(unfinished)}: max_steps = {self.method.max_steps} steps did not reach "
            "the last time: raise max_steps, loosen rtol and atol, or check whether f is stiff or "
            "discontinuous",
            **self._where(unfinished),
        )

    def _give_up(self, failed: Tensor) -> NoReturn:
        lost = failed & ~torch.isfinite(self._ratio)
        if not lost.any():
            raise StepSizeUnderflow(
                f"{name_samples(failed)}: the step size fell below the resolution of t: f may be "
                "stiff, discontinuous or diverging; loosen rtol and atol, use float64, or smooth f",
                **self._where(failed),
            )
        raise NonFiniteState(
            f"{name_samples(lost)}: f or the state became infinite or NaN, and smaller steps did "
            "not help: check f near this state, and whether the solution exists this far",
            **self._where(lost),
        )

    def _where(self, samples: Tensor, h: Tensor | None = None) -> dict:
        """What an error reports of the first of the samples."""
        first = int(samples.long().argmax())
        h = self.size if h is None else h
        return {
            "t": float(self._signed(self.t)[first]),
            "h": float(self._signed(h)[first]),
            "steps": self.tried,
        }


def name_samples(mask: Tensor, most: int = 3) -> str:
    """The first few samples of a mask, in words."""
    numbers = mask.nonzero().flatten().tolist()
    names = ", ".join(map(str, numbers[:most]))
    if len(numbers) == 1:
        return f"sample {names}"
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"samples {names}{more}"
