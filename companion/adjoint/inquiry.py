"""What somebody wants to know of the way back of a solve: y(t) and a(t) at some times."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from companion.ode.field import Leaves


class Places(NamedTuple):
    """Where times lie among others, the knots.

    Attributes:
        at: by the number of a knot the times that mean this one.
        inside: by the number of a knot those between it and the next, the latest first, as they
            are passed on the way back.
    """

    at: Mapping[int, list[float]]
    inside: Mapping[int, list[float]]


class Inquiry:
    """Times at which y and a are wanted, and what a backward pass has found there.

    Args:
        times: the times, in any order; may repeat.
        slack: how far two times may be apart that mean the same one: the rounding of ``times``.
    """

    def __init__(self, times: Sequence[float], slack: float = 0.0) -> None:
        self.times, self.slack = times, slack
        self._found: dict[float, tuple[Leaves, Leaves]] = {}

    def among(self, knots: Sequence[float]) -> Places:
        """Where the times lie among knots that are strictly monotone and enclose them."""
        at: dict[int, list[float]] = defaultdict(list)
        inside: dict[int, list[float]] = defaultdict(list)
        if not self.times:
            return Places(at, inside)
        sign = 1.0 if knots[-1] >= knots[0] else -1.0
        ordered = [sign * knot for knot in knots]
        for t in sorted(set(self.times), key=lambda t: -sign * t):
            i = bisect.bisect_left(ordered, sign * t - self.slack)
            if i < len(ordered) and ordered[i] <= sign * t + self.slack:
                at[i].append(t)
            else:
                inside[i - 1].append(t)
        return Places(at, inside)

    def answer(self, t: float, y: Leaves, a: Leaves) -> None:
        """Take in the leaves of y and of a at one of the times."""
        self._found[t] = [leaf.detach() for leaf in y], [leaf.detach() for leaf in a]

    def answers(self) -> tuple[Leaves, Leaves]:
        """The leaves of y and of a, with a leading axis over the times."""
        states, adjoints = zip(*(self._found[t] for t in self.times), strict=True)
        return _stacked(states), _stacked(adjoints)


#: Nobody wants to know anything.
NOTHING = Inquiry(())


def _stacked(rows: Sequence[Leaves]) -> Leaves:
    return [torch.stack(leaf) for leaf in zip(*rows, strict=True)]
