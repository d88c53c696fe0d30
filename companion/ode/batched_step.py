r"""One Runge-Kutta step in which every sample of a batch has its own beginning and size.

Sample b steps from :math:`t_b` to :math:`t_b + h_b`.  In the time :math:`\theta` with
:math:`t = t_b + \theta h_b` it solves

.. math:: \frac{dy_b}{d\theta} = h_b\, f(t_b + \theta h_b,\, y_b), \qquad 0 \le \theta \le 1,

so that one step of size 1 of the whole batch is a step of its own size for every sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from companion.ode.field import Field, Leaves, time_dtype
from companion.ode.step import runge_kutta_step
from companion.ode.tableau import Tableau

_HALF = (torch.float16, torch.bfloat16)


class BatchedStep(NamedTuple):
    """What a step leaves behind.

    Attributes:
        y: leaves of the state at its end.
        error: the error estimate; None where the method has none.
        stages: the values of f.
    """

    y: Leaves
    error: Leaves | None
    stages: list[Leaves]


class BatchedStepper:
    """Steps of one explicit method, with the sizes and dtypes of one batch.

    Args:
        tableau: the method.
        field: ``field(t, leaves)`` with t of shape (B,).
        y0: leaves of a state, each of shape (B, ...).
        dtype: in which times are computed.
    """

    def __init__(self, tableau: Tableau, field: Field, y0: Leaves, dtype: torch.dtype) -> None:
        self.tableau = tableau
        self.field = field
        self._nodes = torch.tensor(tableau.nodes, dtype=dtype, device=y0[0].device)[:, None]
        self._time_dtype = time_dtype(y0)

    def times(self, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """The times of the stages, each of shape (B,)."""
        return torch.addcmul(t, self._nodes, h).to(self._time_dtype).unbind()


class GraphStepper(BatchedStepper):
    """Steps that autograd can record."""

    def __call__(self, t: Tensor, y: Leaves, rates: Leaves, h: Tensor) -> BatchedStep:
        """A step of every sample.

        Args:
            t: beginnings, shape (B,).
            y: leaves of the state at t.
            rates: ``field(t, y)``.
            h: sizes, shape (B,), negative where time runs backwards; a sample with size 0 stays.
        """
        columns = [column(h, leaf) for leaf in y]
        times = dict(zip(self.tableau.nodes, self.times(t, h), strict=True))
        stages = []

        def scaled(values: Leaves) -> Leaves:
            stages.append(values)
            return [value * size for value, size in zip(values, columns, strict=True)]

        def field(theta: float, leaves: Leaves) -> Leaves:
            return scaled(self.field(times[theta], _like(leaves, y)))

        step = runge_kutta_step(self.tableau, field, 0.0, y, scaled(rates), 1.0)
        return BatchedStep(_like(step.y, y), step.error, stages)


class FastStepper(BatchedStepper):
    """The same steps with fewer operations, but in place: not for autograd.

    Every weighted sum of stages that the method has (one a stage, the solution's, the error's) is
    a row of one tensor; a stage is added to all rows that need it at once.
    """

    def __init__(self, tableau: Tableau, field: Field, y0: Leaves, dtype: torch.dtype) -> None:
        super().__init__(tableau, field, y0, dtype)
        rows = list(tableau.stage_weights[1:])
        if not tableau.fsal:
            rows.append(tableau.solution_weights)
        rows.append(tableau.error_weights)
        weights = torch.zeros(tableau.stages, len(rows), dtype=torch.float64)
        for i, row in enumerate(rows):
            for j, weight in row:
                weights[j, i] = weight
        self._sums = [_Sums(weights, leaf) for leaf in y0]

    def __call__(self, t: Tensor, y: Leaves, rates: Leaves, h: Tensor) -> BatchedStep:
        """A step of every sample; arguments as of `GraphStepper`."""
        parts = [(leaf, column(h, leaf), s) for leaf, s in zip(y, self._sums, strict=True)]
        stages = [rates]
        for j, time in enumerate(self.times(t, h)):
            if j:
                at = [s.after(leaf, h, j - 1) for leaf, h, s in parts]
                stages.append(self.field(time, at))
            for k, (_, _, s) in zip(stages[j], parts, strict=True):
                s.add(j, k)
        y1 = at if self.tableau.fsal else [s.after(leaf, h, -2) for leaf, h, s in parts]
        return BatchedStep(y1, [s.rows[-1] * h for _, h, s in parts], stages)


class _Sums:
    """The weighted sums of the stages of one leaf.

    Args:
        weights: of every stage in every row; a row is complete after as many stages as its number.
        leaf: of the state.
    """

    def __init__(self, weights: Tensor, leaf: Tensor) -> None:
        shape = (*weights.shape, *(1,) * leaf.ndim)
        numbers = weights.reshape(shape).to(device=leaf.device, dtype=number_dtype(leaf))
        dtype = leaf.dtype if leaf.is_complex() else numbers.dtype
        self._all = leaf.new_empty((weights.shape[1], *leaf.shape), dtype=dtype)
        self.rows = self._all.unbind()
        #: For every stage its weights, and the rows that still need it.
        self._open = [(column[j:], self._all[j:]) for j, column in enumerate(numbers)]

    def add(self, number: int, stage: Tensor) -> None:
        weights, rows = self._open[number]
        if number:
            rows.addcmul_(weights, stage)
        else:
            torch.mul(weights, stage, out=rows)

    def after(self, y: Tensor, h: Tensor, row: int) -> Tensor:
        """The state moved by h times a row."""
        moved = torch.addcmul(y, h, self.rows[row])
        return moved if moved.dtype == y.dtype else moved.to(y.dtype)


def _like(values: Leaves, y: Leaves) -> Leaves:
    """The values in the dtype of the state; sums of half precision are formed in float32."""
    return [
        value if value.dtype == leaf.dtype else value.to(leaf.dtype)
        for value, leaf in zip(values, y, strict=True)
    ]


def column(numbers: Tensor, leaf: Tensor) -> Tensor:
    """Numbers of shape (..., B), one a sample, so that they multiply a leaf of shape (B, ...)."""
    return numbers.to(number_dtype(leaf)).view(*numbers.shape, *(1,) * (leaf.ndim - 1))


def number_dtype(leaf: Tensor) -> torch.dtype:
    """The real dtype in which numbers multiply a leaf: its own, but float32 for half precision.

    In half precision a step size would have three digits.
    """
    if leaf.dtype in _HALF:
        return torch.float32
    return leaf.dtype.to_real() if leaf.is_complex() else leaf.dtype
