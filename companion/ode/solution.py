"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from companion.ode.event import EventRecord


@dataclass
class Stats:
    """What a solve cost.

    Attributes:
        evaluations: calls of f.
        accepted: steps taken; of ``batched=True`` an int64 tensor of shape (B,), and so rejected.
        rejected: steps tried and thrown away because their error was too large, or because the
            equations of an implicit method could not be solved.
        jacobians: Jacobians of f computed, for implicit methods.
        factorisations: linear systems factorised, for implicit methods.
        backward: the same for the backward solve of a gradient strategy that makes one;
            None until ``backward()`` has run.  A second ``backward()`` replaces it.
    """

    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0
    jacobians: int = 0
    factorisations: int = 0
    backward: Stats | None = None


@dataclass(frozen=True)
class Solution:
    """The solution of an initial value problem at the times asked for.

    Attributes:
        t: the times, shape (T,), as they were given; if an event ended the solve, those before
            it and its time.
        y: the state at these times: the structure of y0, every tensor with a leading axis of
            length T.  ``y[0]`` is y0.
        stats: evaluations of f and steps, forward and backward.
        status: "finished" if the last time was reached, "event" if an event came first.
        event: that event; None without one.
    """

    t: Tensor
    y: Any
    stats: Stats
    status: str = "finished"
    event: EventRecord | None = None
    _dense: Callable[[Tensor], Any] | None = field(default=None, repr=False)

    def __call__(self, t: Tensor | float) -> Any:
        """The state at any times between the first and the last, from the dense output.

        Args:
            t: a number or a tensor of any shape.

        Returns:
            The structure of y0, every tensor with the axes of t before its own.  Gradients flow
            as they do to ``y``, and to t.

        Raises:
            ValueError: if the solve was not asked for ``dense=True``, or for a time outside of it.
        """
        if self._dense is None:
            raise ValueError("this solution was not kept between its times: solve with dense=True")
        if not isinstance(t, Tensor):
            t = torch.as_tensor(t, dtype=torch.float64)
        return self._dense(t)
