r"""A Runge-Kutta method as exact data.

For :math:`y' = f(t, y)` an explicit method with s stages computes

.. math::
    k_i = f\Bigl(t + c_i h,\; y + h \sum_{j<i} a_{ij} k_j\Bigr), \qquad
    y_1 = y + h \sum_i b_i k_i, \qquad
    e = h \sum_i (b_i - \hat b_i) k_i,

and, inside the step, for :math:`0 \le \theta \le 1`,
:math:`y(t + \theta h) = y + h \sum_i b_i(\theta) k_i`
(Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, sections II.1 to II.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

Row = tuple[Fraction, ...]
#: Non-zero weights of a row with their stage, as the solver uses them.
Weights = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method in exact rational arithmetic.

    Args:
        name: the name under which ``solve(method=...)`` knows it.
        order: order of the solution ``b``.
        a: rows 2 to s; row i has the i - 1 entries left of the diagonal.
        b: weights of the solution, one a stage.
        error: ``b`` minus the embedded method's weights; None without an error estimate.
        embedded_order: order of the embedded method; None without one.
        dense: for every stage, and for ``f(t1, y1)`` as one more where the method is not
            first-same-as-last, the coefficients of :math:`\\theta, \\theta^2, \\ldots` of its
            weight inside the step.  None takes the cubic Hermite polynomial through both ends.

    Raises:
        ValueError: if rows have wrong lengths, or if the weights do not sum to what makes the
            method consistent: ``sum(b) = 1``, ``sum(error) = 0``, dense weights that sum to
            :math:`\\theta` and end in ``b`` at :math:`\\theta = 1`.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    error: Row | None = None
    embedded_order: int | None = None
    dense: tuple[Row, ...] | None = None

    def __post_init__(self) -> None:
        if self.dense is None:
            object.__setattr__(self, "dense", hermite(self.b, self.fsal))
        problems = list(self._problems())
        if problems:
            raise ValueError(f"tableau {self.name!r}: " + "; ".join(problems))

    def _problems(self):
        if [len(row) for row in self.a] != list(range(1, self.stages)):
            yield f"a must have rows of length 1 to {self.stages - 1}"
        if sum(self.b) != 1:
            yield f"b sums to {sum(self.b)}, not to 1"
        if (self.error is None) != (self.embedded_order is None):
            yield "error and embedded_order come together"
        if self.error is not None and (len(self.error) != self.stages or sum(self.error) != 0):
            yield "error needs one entry a stage and the sum 0"
        columns = [sum(column) for column in zip(*self.dense, strict=True)]
        if columns != [1] + [0] * (len(columns) - 1):
            yield "the dense weights do not sum to theta"
        ends = tuple(sum(row) for row in self.dense)
        if ends != self.b + (Fraction(0),) * (len(self.dense) - self.stages):
            yield "the dense weights do not end in b at theta = 1"
        if len(self.dense) != self.stages + (not self.fsal):
            yield "dense needs a row a stage, and one for f(t1, y1) without first-same-as-last"

    @property
    def stages(self) -> int:
        return len(self.b)

    @cached_property
    def c(self) -> Row:
        """The nodes, which are the row sums of ``a``."""
        return (Fraction(0), *(sum(row, Fraction(0)) for row in self.a))

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is ``f(t1, y1)``, the first of the next step."""
        return self.stages > 1 and (*self.a[-1], Fraction(0)) == self.b

    @cached_property
    def plain(self) -> Tableau:
        """The method without its error estimate, for steps that nobody judges."""
        if self.error is None:
            return self
        return replace(self, error=None, embedded_order=None)

    # The same numbers as floats, with the zeros left out: what a step multiplies with.

    @cached_property
    def stage_weights(self) -> tuple[Weights, ...]:
        return tuple(_nonzero(row) for row in self.a)

    @cached_property
    def nodes(self) -> tuple[float, ...]:
        return tuple(float(c) for c in self.c)

    @cached_property
    def solution_weights(self) -> Weights:
        return _nonzero(self.b)

    @cached_property
    def error_weights(self) -> Weights | None:
        return None if self.error is None else _nonzero(self.error)

    @cached_property
    def dense_polynomials(self) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(x) for x in row) for row in self.dense)


def _nonzero(row: Sequence[Fraction]) -> Weights:
    return tuple((j, float(x)) for j, x in enumerate(row) if x)


def hermite(b: Row, fsal: bool) -> tuple[Row, ...]:
    r"""Dense weights of the cubic that meets y and y' at both ends of the step.

    :math:`y + \theta^2(3 - 2\theta)(y_1 - y) + \theta(1-\theta)^2 h f_0
    + \theta^2(\theta - 1) h f_1` with :math:`y_1 - y = h \sum_i b_i k_i`; third order.
    """
    rows = [[Fraction(0), 3 * weight, -2 * weight] for weight in b]
    if not fsal:
        rows.append([Fraction(0)] * 3)
    rows[0] = [x + Fraction(d) for x, d in zip(rows[0], (1, -2, 1), strict=True)]
    rows[-1] = [x + Fraction(d) for x, d in zip(rows[-1], (0, -1, 1), strict=True)]
    return tuple(tuple(row) for row in rows)
