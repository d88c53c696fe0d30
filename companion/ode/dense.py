r"""The solution inside a step, and from one step to the next.

In a step from t to t + h the solution is a polynomial in :math:`\theta \in [0, 1]`,

.. math:: y(t + \theta h) = y + h \sum_j w_j(\theta) k_j, \qquad
    w_j(\theta) = w_{j1} \theta + w_{j2} \theta^2 + \dots,

with rates :math:`k_j` that the step has left: its stages, the slopes at its ends, or its chord.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion.ode.field import Leaves, Time
from companion.ode.step import combine

#: Weights of the chord (y1 - y) / h: a straight line.
LINEAR = ((1.0,),)
#: Weights of the slope at the start, the chord and the slope at the end: the cubic through both
#: ends with their slopes.
CUBIC = ((1.0, -2.0, 1.0), (0.0, 3.0, -2.0), (0.0, -1.0, 1.0))


class Piece(NamedTuple):
    """One accepted step and the solution inside it.

    Attributes:
        t0, t1: its ends.
        start, h: beginning and size as the arithmetic of the step had them: floats, or 0-dim
            tensors where gradients with respect to time are wanted.
        y: the state at the beginning.
        rates: the k above, each with the leaves of the state.
        weights: for every rate the coefficients of theta, theta^2, ...
    """

    t0: float
    t1: float
    start: Time
    h: Time
    y: Leaves
    rates: list[Leaves]
    weights: tuple[tuple[float, ...], ...]

    def at(self, t: Time) -> Leaves:
        """The state at a time inside the step."""
        theta = (t - self.start) / self.h
        weights = []
        for j, row in enumerate(self.weights):
            if any(row):
                # c_1 theta + c_2 theta^2 + ... by Horner's rule.
                weight: Time = 0.0
                for c in row[::-1]:
                    weight = (weight + c) * theta
                weights.append((j, weight))
        return combine(self.y, self.rates, weights, self.h)

    def coefficients(self) -> list[Leaves]:
        """The state's coefficients of theta, theta^2, ..."""
        zero = [torch.zeros_like(leaf) for leaf in self.y]
        return [
            combine(zero, self.rates, [(j, w) for j, w in enumerate(column) if w], self.h)
            for column in zip(*self.weights, strict=True)
        ]


class Dense:
    """The solution at any time between the first and the last: piecewise polynomials.

    Args:
        pieces: the steps from first to last, without a gap.
        end: where the solution ends, the end of the last step or a time inside it.

    Attributes:
        knots: ends of the steps in increasing order, negated where time runs backwards.
        starts, sizes: of every step its beginning and its size, float64 of shape (N,).
        coefficients: for every power of theta the leaves, each with a leading axis over the
            steps.
    """

    def __init__(self, pieces: Sequence[Piece], end: float) -> None:
        self._backwards = pieces[-1].t1 < pieces[0].t0
        knots = [*(p.t0 for p in pieces), end]
        self.knots = torch.tensor(
            [-t for t in knots] if self._backwards else knots, dtype=torch.float64
        )
        self.starts = _stacked([p.start for p in pieces])
        self.sizes = _stacked([p.h for p in pieces])
        polynomials = [[p.y, *p.coefficients()] for p in pieces]
        self.coefficients = [
            [torch.stack(leaves) for leaves in zip(*power, strict=True)]
            for power in zip(*polynomials, strict=True)
        ]

    def __call__(self, t: Tensor) -> Leaves:
        """The state at the times t of any shape: leaves of shape ``(*t.shape, *leaf.shape)``.

        Raises:
            ValueError: for a time outside of the solve.
        """
        times = t.to(torch.float64)
        ordered = (-times if self._backwards else times).detach().to("cpu").contiguous()
        if t.numel():
            low, high = float(ordered.min()), float(ordered.max())
            first, last = float(self.knots[0]), float(self.knots[-1])
            # The end of the solve, rounded to the dtype of t, is not outside.
            slack = _resolution(t.dtype) * max(abs(first), abs(last))
            if not (first - slack <= low and high <= last + slack):
                sign = -1 if self._backwards else 1
                outside = high if high > last + slack else low
                raise ValueError(
                    f"t holds {sign * outside:.10g}, which is outside of the solution from "
                    f"{sign * first:.10g} to {sign * last:.10g}"
                )
        index = torch.searchsorted(self.knots, ordered, right=True) - 1
        index = index.clamp(min=0, max=len(self.knots) - 2)
        device = self.coefficients[0][0].device
        theta = (times.to(self.starts.device) - self.starts[index]) / self.sizes[index]
        index, theta = index.to(device), theta.to(device)
        powers = reversed(self.coefficients)
        values = [leaf[index] for leaf in next(powers)]
        for leaves in powers:
            values = [
                _columns(theta, value) * value + leaf[index]
                for value, leaf in zip(values, leaves, strict=True)
            ]
        return values


def _resolution(dtype: torch.dtype) -> float:
    """The relative rounding of a time that was meant to be a float64 number."""
    is_exact = dtype == torch.float64 or not dtype.is_floating_point
    return 0.0 if is_exact else torch.finfo(dtype).eps


def _stacked(times: Sequence[Time]) -> Tensor:
    """Times as one float64 tensor; those that require grad keep their graph."""
    return torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in times])


def _columns(theta: Tensor, value: Tensor) -> Tensor:
    """Theta with axes of length 1 for those of the state, in the state's real dtype."""
    shape = theta.shape + (1,) * (value.ndim - theta.ndim)
    return theta.reshape(shape).to(value.abs().dtype if value.is_complex() else value.dtype)
