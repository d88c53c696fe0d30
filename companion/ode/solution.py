"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Stats:
    """What a solve cost.

    Attributes:
        evaluations: calls of f.
        accepted: steps taken.
        rejected: steps tried and thrown away because their error was too large.
        backward: the same for the backward solve of a gradient strategy that makes one;
            None until ``backward()`` has run.  A second ``backward()`` replaces it.
    """

    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0
    backward: Stats | None = None


@dataclass(frozen=True)
class Solution:
    """The solution of an initial value problem at the times asked for.

    Attributes:
        t: the T times, shape (T,), as they were given.
        y: the state at these times: the structure of y0, every tensor with a leading axis of
            length T.  ``y[0]`` is y0.
        stats: evaluations of f and steps, forward and backward.
    """

    t: Tensor
    y: Any
    stats: Stats
