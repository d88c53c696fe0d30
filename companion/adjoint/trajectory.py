"""The solution of a forward solve at one time after another, as a backward solve asks for it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch
from torch import Tensor

from companion.ode.dense import Dense
from companion.ode.field import Leaves


class Steps:
    """Where the steps of a dense output are: floats on the host.

    Args:
        dense: the solution, computed without a graph.
    """

    def __init__(self, dense: Dense) -> None:
        self.starts: list[float] = dense.starts.tolist()
        self.sizes: list[float] = dense.sizes.tolist()
        #: In increasing order: negated where time runs backwards.
        self._knots: list[float] = dense.knots.tolist()
        self._sign = -1.0 if self.sizes[0] < 0 else 1.0

    def index(self, t: float) -> int:
        """The step in which a time lies."""
        i = bisect.bisect_right(self._knots, self._sign * t) - 1
        return min(max(i, 0), len(self.sizes) - 1)


class Trajectory:
    """The polynomials of a dense output; a value costs an operation a leaf and power of theta.

    Args:
        steps: where the steps are.
        coefficients: those of the dense output, power after power, leaf after leaf.
        count: number of leaves.
    """

    def __init__(self, steps: Steps, coefficients: Sequence[Tensor], count: int) -> None:
        self._steps = steps
        #: For every leaf the powers of theta, the highest first, as lists over the steps.
        self._leaves = [
            [power.unbind() for power in reversed(coefficients[i::count])] for i in range(count)
        ]

    def __call__(self, t: float) -> Leaves:
        """The state at a time between the first and the last."""
        i = self._steps.index(t)
        theta = (t - self._steps.starts[i]) / self._steps.sizes[i]
        leaves = []
        for powers in self._leaves:
            # Horner's rule.  Every polynomial has a linear term at least, so that the sum is a
            # tensor of its own.
            value = powers[0][i]
            for power in powers[1:]:
                value = torch.add(power[i], value, alpha=theta)
            leaves.append(value)
        return leaves
