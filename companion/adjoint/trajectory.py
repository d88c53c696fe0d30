"""The solution of a forward solve, at one time after another."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch
from torch import Tensor

from companion.ode.dense import Dense
from companion.ode.field import Leaves


class Trajectory:
    """A dense output for a solver, which asks for one time after another.

    The step is found on the host, and a state costs one operation a power of theta and leaf.

    Args:
        dense: the solution, computed without a graph.
    """

    def __init__(self, dense: Dense) -> None:
        self._knots: list[float] = dense.knots.tolist()
        self._starts: list[float] = dense.starts.tolist()
        self._sizes: list[float] = dense.sizes.tolist()
        self._sign = -1.0 if self._sizes[0] < 0 else 1.0
        self._degree = len(dense.coefficients) - 1
        #: Of every leaf the powers of theta, the highest first, each as a list over the steps.
        self._leaves: list[list[Sequence[Tensor]]] = []
        self.tensors = [leaf for power in dense.coefficients for leaf in power]

    @property
    def tensors(self) -> list[Tensor]:
        """All that grows with the number of steps, but for three floats a step."""
        return self._tensors

    def __call__(self, t: float) -> Leaves:
        """The state at a time between the first and the last."""
        i = bisect.bisect_right(self._knots, self._sign * t) - 1
        i = min(max(i, 0), len(self._sizes) - 1)
        theta = (t - self._starts[i]) / self._sizes[i]
        return [_horner([power[i] for power in powers], theta) for powers in self._leaves]
