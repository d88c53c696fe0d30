r"""Finding events: zeros of functions of the solution, on the way.

A step is sampled at eight points of its dense output.  A change of sign between two samples is a
zero; where the values dip towards zero and turn back, a search for the turning point finds two
zeros in one step.  The earliest zero is bracketed on the dense output, and then corrected with
steps that end there, so that it has the accuracy of the method's steps.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from companion.ode.dense import Piece
from companion.ode.errors import NonFiniteState
from companion.ode.event import Event
from companion.ode.field import Leaves, Time
from companion.ode.march import March
from companion.ode.read_back import read_all

#: Samples of a step; zeros closer together than this part of it need the search for a dip.
SAMPLES = 8
#: Where to look, on the way to the next sample, which way a value leaves zero.
NEAR = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: Most evaluations for a root, for a dip, and most corrections by a step.
ROOT_STEPS, DIP_STEPS, CORRECTIONS = 100, 40, 6


@dataclass(frozen=True)
class Crossing:
    """Where a condition passes through zero.

    Attributes:
        t: the time.
        column: which of the values of all conditions.
        index, component: which event, and which component of its value, that is.
        speed: how fast this value changes between the samples around it: a derivative in time
            that is next to nothing beside it is zero.
    """

    t: float
    column: int
    index: int
    component: int
    speed: float


class Conditions:
    """The conditions of several events as one vector of values.

    Args:
        events: the events.
        spec: structure of the state.
        args: what the conditions take after t and y.
        time_dtype: real dtype of the time that they are given.
    """

    def __init__(
        self, events: Sequence[Event], spec: TreeSpec, args: tuple, time_dtype: torch.dtype
    ) -> None:
        self.events = events
        self.spec = spec
        self.args = args
        self.time_dtype = time_dtype
        #: For every value the event and the component that it belongs to; known after one call.
        self.columns: list[tuple[int, int]] = []

    def __call__(self, t: Time, leaves: Leaves) -> Tensor:
        """All values, shape (number of values,)."""
        first = leaves[0]
        time = torch.as_tensor(t, dtype=self.time_dtype, device=first.device)
        y = tree_unflatten(leaves, self.spec)
        values = [self._value(i, e, time, y) for i, e in enumerate(self.events)]
        columns = [(i, j) for i, v in enumerate(values) for j in range(len(v))]
        if self.columns and columns != self.columns:
            raise ValueError(
                "the conditions of the events returned another number of values than before, "
                f"{len(columns)} instead of {len(self.columns)}: let each return one shape always"
            )
        self.columns = columns
        return values[0] if len(values) == 1 else torch.cat(values)

    def _value(self, i: int, event: Event, t: Tensor, y: Any) -> Tensor:
        before = _versions(y)
        value = event.condition(t, y, *self.args)
        if _versions(y) != before:
            raise ValueError(
                f"the condition of event {i} changed the state y in place: let it work on a "
                "copy, y.clone()"
            )
        if not isinstance(value, Tensor):
            raise TypeError(
                f"event {i} returned {type(value).__name__}, expected a tensor: a real number "
                "as a 0-dim tensor, or several as one of any shape"
            )
        if not value.is_floating_point() or value.numel() == 0:
            raise TypeError(
                f"event {i} returned a tensor of {value.dtype} with shape {tuple(value.shape)}: "
                "the condition must be real and not empty, and change its sign at the event"
            )
        return value.reshape(-1)

    def direction(self, column: int) -> int:
        return self.events[self.columns[column][0]].direction

    def counts_at_start(self, column: int) -> bool:
        return self.events[self.columns[column][0]].at_start


class Watch:
    """Looks at every step of a march for the first crossing."""

    def __init__(self, conditions: Conditions, march: March) -> None:
        self.conditions = conditions
        self.march = march
        self._values: list[float] | None = None

    def look(self) -> Crossing | None:
        """The earliest crossing in the last step, if there is one."""
        # With the graph: f at the end of the step may be evaluated for the solution inside it,
        # and is the first stage of the next one.
        piece = self.march.piece
        with torch.no_grad():
            return self._crossing_in(piece)

    def _crossing_in(self, piece: Piece) -> Crossing | None:
        march = self.march
        first = self._values is None
        steps = range(0 if first else 1, SAMPLES + 1)
        times = [march.begin + (march.t - march.begin) * (i / SAMPLES) for i in steps]
        times[-1] = march.t
        rows = [self.conditions(t, march.y if t == march.t else piece.at(t)) for t in times]
        samples = read_all(torch.stack(rows), "the condition of an event")
        for t, row in zip(times, samples, strict=True):
            if not all(map(math.isfinite, row)):
                raise NonFiniteState(
                    f"a condition of the events is not finite: {row}",
                    t=t,
                    h=march.t - march.begin,
                    steps=march.stats.accepted + march.stats.rejected,
                )
        if not first:
            times, samples = [march.begin, *times], [self._values, *samples]
        self._values = samples[-1]
        found = []
        for column, values in enumerate(zip(*samples, strict=True)):
            t = self._first(column, times, values, first)
            if t is not None:
                found.append((abs(t - march.begin), t, column))
        if not found:
            return None
        _, t, column = min(found)
        speed = _speed_around(t, times, [row[column] for row in samples])
        t = self._corrected(t, column, times)
        return Crossing(t, column, *self.conditions.columns[column], speed)

    def _first(
        self, column: int, times: list[float], values: Sequence[float], first: bool
    ) -> float | None:
        """The time of the first crossing of one of the values in the last step."""
        direction = self.conditions.direction(column)

        def value(t: float) -> float:
            return float(self.conditions(t, self.march.piece.at(t))[column])

        def beside(zero: float, other: float) -> tuple[float, float]:
            return self._beside(column, zero, other)

        if first and values[0] == 0 and self.conditions.counts_at_start(column):
            leaves = next((v for v in (beside(*times[:2])[1], *values) if v), 0.0)
            if direction == 0 or leaves * direction > 0:
                return times[0]
        for a, b, fa, fb in _brackets(times, values, value, beside):
            if direction == 0 or (fb - fa) * direction > 0:
                return _root(value, a, b, fa, fb)
        return None

    def _beside(self, column: int, zero: float, other: float) -> tuple[float, float]:
        """A time next to a zero, on the way to another time, and the value there.

        So near that the value has hardly turned (it may be zero again before the other time), so
        far that it is more than the rounding of the state makes of it.
        """
        state = self.march.piece.at(zero)
        rounded = [leaf * (1 + 8 * torch.finfo(leaf.dtype).eps) for leaf in state]
        rounding = abs(float(self.conditions(zero, rounded)[column]))
        for part in NEAR:
            t = zero + part * (other - zero)
            value = float(self.conditions(t, self.march.piece.at(t))[column])
            if abs(value) > rounding:
                return t, value
        return t, 0.0

    def _corrected(self, t: float, column: int, times: list[float]) -> float:
        """Newton's method on the end of a step, which is more accurate than what is inside."""
        march = self.march
        low, high = sorted((times[0], times[-1]))
        if t == times[0]:
            return t

        def inside(time: float) -> float:
            return float(self.conditions(time, march.piece.at(time))[column])

        # Not less than a difference of times can be.
        width = max(1e-4 * (high - low), 4 * math.ulp(t))
        left, right = max(t - width, low), min(t + width, high)
        before, after = inside(left), inside(right)
        if abs(inside(t)) > max(abs(before), abs(after)):
            return t  # A pole: the sign changes, and there is no zero to come nearer to.
        slope = (after - before) / (right - left)
        best, least = t, math.inf
        for _ in range(CORRECTIONS):
            value = float(self.conditions(t, march.shortened(t))[column])
            # Where the condition jumps or has a pole, it does not come nearer to zero.
            if not abs(value) < least:
                break
            best, least = t, abs(value)
            change = -value / slope if slope else 0.0
            t = min(max(t + change, low), high)
            if abs(change) <= 2 * math.ulp(t):
                break
        return best


def _versions(y: Any) -> list[int]:
    """How often the tensors of a state were written to; those of inference mode do not count."""
    return [0 if leaf.is_inference() else leaf._version for leaf in tree_leaves(y)]


def _speed_around(t: float, times: Sequence[float], values: Sequence[float]) -> float:
    """The largest value over the distance of the samples around t."""
    distances = [abs(time - times[0]) for time in times]
    i = min(max(bisect.bisect_left(distances, abs(t - times[0])), 1), len(times) - 1)
    return max(abs(values[i - 1]), abs(values[i])) / (distances[i] - distances[i - 1])


def _brackets(
    times: list[float],
    values: Sequence[float],
    value: Callable[[float], float],
    beside: Callable[[float, float], tuple[float, float]],
) -> Iterator[tuple[float, float, float, float]]:
    """Intervals at whose ends the values have different signs, in the order of time.

    A sample that is zero itself belongs to the interval that it ends: to the one that it begins
    belongs what follows, close by.
    """
    for i in range(len(times) - 1):
        (a, b), (fa, fb) = times[i : i + 2], values[i : i + 2]
        if fa == 0:
            a, fa = beside(a, b)
        if fa == 0:
            continue
        if fb == 0:
            # There may be another zero just before.
            c, fc = beside(b, a)
            if fc != 0 and (fc < 0) != (fa < 0):
                yield a, c, fa, fc
                a, fa = c, fc
            yield a, b, fa, fb
        elif (fa < 0) != (fb < 0):
            yield a, b, fa, fb
        elif values[i] != 0 and (dip := _dip(times, values, i, value)) is not None:
            t, f = dip
            yield a, t, fa, f
            yield t, b, f, fb


def _dip(
    times: list[float], values: Sequence[float], i: int, value: Callable[[float], float]
) -> tuple[float, float] | None:
    """A point between samples i and i + 1 with the other sign, if the values dip that far.

    A parabola through three samples around tells whether it is worth a search.
    """
    sign = math.copysign(1.0, values[i])
    for j in (i - 1, i):
        if not 0 <= j <= len(times) - 3:
            continue
        f0, f1, f2 = (sign * v for v in values[j : j + 3])
        curvature, slope = f0 - 2 * f1 + f2, (f2 - f0) / 2
        if curvature <= 0:
            continue
        turn = -slope / curvature
        lowest = f1 + slope * turn / 2
        if not (i - j - 1 <= turn <= i - j) or lowest > 0.25 * min(f0, f1, f2):
            continue
        return _search(times[i], times[i + 1], sign, value)
    return None


def _search(
    a: float, b: float, sign: float, value: Callable[[float], float]
) -> tuple[float, float] | None:
    """A golden-section search for a point of the other sign."""
    golden = (math.sqrt(5) - 1) / 2
    c, d = b - golden * (b - a), a + golden * (b - a)
    fc, fd = sign * value(c), sign * value(d)
    for _ in range(DIP_STEPS):
        for t, f in ((c, fc), (d, fd)):
            if f < 0:
                return t, sign * f
        if fc < fd:
            b, d, fd = d, c, fc
            c = b - golden * (b - a)
            fc = sign * value(c)
        else:
            a, c, fc = c, d, fd
            d = a + golden * (b - a)
            fd = sign * value(d)
    return None


def _root(value: Callable[[float], float], a: float, b: float, fa: float, fb: float) -> float:
    """A zero between a and b by the Illinois method, to the resolution of time.

    M. Dowell and P. Jarratt, *BIT* 11 (1971) 168: regula falsi that halves the value at an end
    which stays, and so keeps the bracket and converges faster than linearly.  At a multiple zero
    it does not; there the bracket is halved.
    """
    if fb == 0:
        return _onset(value, a, b, fa)
    side, is_slow, widest = 0, False, math.inf
    for i in range(ROOT_STEPS):
        if abs(b - a) <= 4 * math.ulp(max(abs(a), abs(b))):
            break
        t = b - fb * (b - a) / (fb - fa)
        if i % 3 == 0:
            is_slow, widest = abs(b - a) > widest, abs(b - a) / 2
        if is_slow or not min(a, b) < t < max(a, b):
            t = (a + b) / 2
        f = value(t)
        if f == 0:
            return t
        if (f < 0) == (fb < 0):
            b, fb = t, f
            if side == 1:
                fa /= 2
            side = 1
        else:
            a, fa = t, f
            if side == -1:
                fb /= 2
            side = -1
    return b if abs(fb) <= abs(fa) else a


def _onset(value: Callable[[float], float], a: float, b: float, fa: float) -> float:
    """The first zero where the value at b is exactly zero, by bisection.

    It need not be b: a condition may have been zero for a while, or have changed its sign
    before that.
    """
    while abs(b - a) > 4 * math.ulp(max(abs(a), abs(b))):
        t = (a + b) / 2
        f = value(t)
        if (f < 0) != (fa < 0) and f != 0:
            return _root(value, a, t, fa, f)
        a, b = (a, t) if f == 0 else (t, b)
    return b
