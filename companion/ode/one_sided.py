"""Evaluating f next to a time at which it jumps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from companion.ode.field import Leaves, Time
from companion.ode.step import VectorField


class OneSided:
    """A field that sees only times strictly between two others.

    At a time where f jumps, the step before it and the step after it must not see the same
    value: times at the ends, or rounded to them, are moved inside by one unit in the last place
    of the dtype in which f is given the time.  Where that dtype has no number inside, the first
    one after t0 stands for all.

    Args:
        field: what to evaluate.
        t0, t1: where the interval begins and ends, in the direction of time; t1 may be infinite.
        dtype: in which the field is given the time.
    """

    def __init__(self, field: VectorField, t0: float, t1: float, dtype: torch.dtype) -> None:
        self.field = field
        sign = math.copysign(1.0, t1 - t0)
        ends = torch.tensor([t0, t1], dtype=dtype)
        inwards = torch.tensor([sign * math.inf, -sign * math.inf], dtype=dtype)
        first, last = torch.nextafter(ends, inwards).tolist()
        if sign * first > sign * last:
            last = first
        self.low, self.high = min(first, last), max(first, last)

    def __call__(self, t: Time, leaves: Leaves) -> Leaves:
        if isinstance(t, Tensor):
            # The move is a constant: the gradient with respect to t passes.
            t = t + (t.detach().clamp(self.low, self.high) - t.detach())
        else:
            t = min(max(t, self.low), self.high)
        return self.field(t, leaves)
