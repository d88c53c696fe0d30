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
        nodes = torch.tensor(tableau.nodes[1:], dtype=dtype, device=y0[0].device)
        self._nodes = nodes[:, None]
        self._time_dtype = time_dtype(y0)

    def times(self, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """The times of the stages but the first, each of shape (B,)."""
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
        times = dict(zip(self.tableau.nodes[1:], self.times(t, h), strict=True))
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

    Two operations a stage.  Every weighted sum of stages that the method has (one a stage, the
    solution's, the error's) is a row of one tensor; a new stage is added at once to all rows that
    need it, and the next row, now complete, moves the state.
    """

    def __init__(self, tableau: Tableau, field: Field, y0: Leaves, dtype: torch.dtype) -> None:
        super().__init__(tableau, field, y0, dtype)
        sums = [_sums(tableau, leaf) for leaf in y0]
        #: Leaf by leaf the rows that one more stage completes, and at last the error's.
        self._complete = list(zip(*(rows.unbind() for rows, _ in sums), strict=True))
        #: For every stage, leaf by leaf, the rows that need it, with its weights in them.
        self._needing = [
            [(rows[j:], weights[j:, j]) for rows, weights in sums] for j in range(tableau.stages)
        ]
        self._half = any(leaf.dtype in _HALF for leaf in y0)

    def __call__(self, t: Tensor, y: Leaves, rates: Leaves, h: Tensor) -> BatchedStep:
        """A step of every sample; arguments as of `GraphStepper`."""
        sizes = [column(h, leaf) for leaf in y]

        def moved_by(rows: tuple[Tensor, ...]) -> Leaves:
            at = list(map(torch.addcmul, y, sizes, rows))
            return _like(at, y) if self._half else at

        # The first stage overwrites what the last step has left.
        for (rows, weights), k in zip(self._needing[0], rates, strict=True):
            torch.mul(weights, k, out=rows)
        stages = [rates]
        for j, time in enumerate(self.times(t, h), 1):
            at = moved_by(self._complete[j - 1])
            rates = self.field(time, at)
            for (rows, weights), k in zip(self._needing[j], rates, strict=True):
                rows.addcmul_(weights, k)
            stages.append(rates)
        y1 = at if self.tableau.fsal else moved_by(self._complete[-2])
        return BatchedStep(y1, list(map(torch.mul, self._complete[-1], sizes)), stages)


def _sums(tableau: Tableau, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the weighted sums of a leaf's stages, and the weights.

    Returns:
        Rows of shape (R, B, ...), one for every stage from the second on, one for the solution
        where it is not the last stage's state, and the error's; and the weights of shape
        (R, stages, 1, ...).
    """
    weights = list(tableau.matrix[1:])
    if not tableau.fsal:
        weights.append(tuple(map(float, tableau.b)))
    weights.append(tuple(map(float, tableau.error)))
    real = number_dtype(leaf)
    rows = leaf.new_empty(
        (len(weights), *leaf.shape), dtype=leaf.dtype if leaf.is_complex() else real
    )
    numbers = torch.tensor(weights, dtype=real, device=leaf.device)
    return rows, numbers.view(*numbers.shape, *(1,) * leaf.ndim)


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
    return leaf.dtype.to_real()
