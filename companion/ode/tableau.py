r"""A Runge-Kutta method as exact data.

For :math:`y' = f(t, y)` a method with s stages computes

.. math::
    k_i = f\Bigl(t + c_i h,\; y + h \sum_j a_{ij} k_j\Bigr), \qquad
    y_1 = y + h \sum_i b_i k_i, \qquad
    e = h \sum_i (b_i - \hat b_i) k_i,

and, inside the step, for :math:`0 \le \theta \le 1`,
:math:`y(t + \theta h) = y + h \sum_i b_i(\theta) k_i`
(Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, sections II.1 to II.7).
It is explicit if :math:`a_{ij} = 0` for :math:`j \ge i`; otherwise the stages solve equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain

from companion.ode.algebraic import Algebraic

Number = Fraction | Algebraic
Row = tuple[Number, ...]
#: Non-zero weights of a row with their stage, as the solver uses them.
Weights = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Tableau:
    r"""A Runge-Kutta method in exact arithmetic.

    Args:
        name: the name under which ``solve(method=...)`` knows it.
        order: order of the solution ``b``.
        a: one row a stage; entries missing at the end of a row are zero, so that the rows of an
            explicit method have 0, 1, ..., s - 1 entries.
        b: weights of the solution, one a stage.
        error: ``b`` minus the embedded method's weights; None without an error estimate.
        embedded_order: order of the embedded method; None without one.
        dense: for every stage, and, where wanted, for ``f(t1, y1)`` as one more (of a method that
            is not first-same-as-last), the coefficients of :math:`\theta, \theta^2, \ldots` of
            its weight inside the step.  None takes the cubic Hermite polynomial through both
            ends, or, where the first stage is not ``f(t0, y0)``, what `interpolatory` gives.
        reuses_last: whether the last stage stands for ``f(t1, y1)`` although it was evaluated at
            another state, so that a step costs one evaluation less: the PEC mode of predictor-
            corrector methods.  The steps are then not those of a Runge-Kutta method: what the
            tableau's orders say holds for a single one.
        rounding: the largest amount by which an order condition of ``b``, of the embedded method
            or of ``dense`` fails, because the source gives rounded coefficients; zero if all hold
            exactly.

    Raises:
        TypeError: if an entry is not an exact number.
        ValueError: if rows have wrong lengths, or if the weights do not sum to what makes the
            method consistent: ``sum(b) = 1``, ``sum(error) = 0``, dense weights that sum to
            :math:`\theta` and end in ``b`` at :math:`\theta = 1`.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    error: Row | None = None
    embedded_order: int | None = None
    dense: tuple[Row, ...] | None = None
    rounding: Fraction = Fraction(0)
    reuses_last: bool = False

    def __post_init__(self) -> None:
        for entry in chain(self.b, self.error or (), *self.a, *(self.dense or ())):
            if not isinstance(entry, (int, Fraction, Algebraic)):
                raise TypeError(
                    f"tableau {self.name!r}: entry {entry!r} is a {type(entry).__name__}; exact "
                    "numbers are expected: int, Fraction or Algebraic"
                )
        self._complain_about(self._wrong_shapes())
        if self.dense is None:
            dense = hermite(self.b, self.fsal) if self.first_explicit else interpolatory(self)
            object.__setattr__(self, "dense", dense)
        self._complain_about(self._inconsistencies())

    def _complain_about(self, problems) -> None:
        problems = list(problems)
        if problems:
            raise ValueError(f"tableau {self.name!r}: " + "; ".join(problems))

    def _wrong_shapes(self):
        if len(self.a) != self.stages or any(len(row) > self.stages for row in self.a):
            yield (
                f"a must have {self.stages} rows, one a stage of b, of at most {self.stages} "
                f"entries; got rows of length {[len(row) for row in self.a]}"
            )
        if (self.error is None) != (self.embedded_order is None):
            yield "error and embedded_order come together"
        if self.error is not None and len(self.error) != self.stages:
            yield f"error needs one entry a stage, got {len(self.error)} for {self.stages}"
        if len({len(row) for row in self.dense or ()}) > 1:
            yield "the rows of dense must have one length, that of the highest power of theta"

    def _inconsistencies(self):
        if sum(self.b) != 1:
            yield f"b sums to {sum(self.b)}, not to 1"
        if self.error is not None and sum(self.error) != 0:
            yield f"error sums to {sum(self.error)}, not to 0"
        columns = [sum(column) for column in zip(*self.dense, strict=True)]
        if columns != [1] + [0] * (len(columns) - 1):
            yield "the dense weights do not sum to theta"
        if self.fsal and len(self.dense) != self.stages:
            yield "dense needs a row a stage"
        if len(self.dense) not in (self.stages, self.stages + 1):
            yield "dense needs a row a stage, and may have one more for f(t1, y1)"
        if tuple(map(sum, self.dense)) != _padded(self.b, len(self.dense)):
            yield "the dense weights do not end in b at theta = 1"

    @property
    def stages(self) -> int:
        return len(self.b)

    @cached_property
    def c(self) -> Row:
        """The nodes, which are the row sums of ``a``."""
        return tuple(sum(row, Fraction(0)) for row in self.a)

    @cached_property
    def explicit(self) -> bool:
        """Whether every stage needs only the ones before it."""
        return all(not any(row[i:]) for i, row in enumerate(self.a))

    @cached_property
    def diagonally_implicit(self) -> bool:
        """Whether the stages can be solved for one after the other, though not all explicitly."""
        return not self.explicit and all(not any(row[i + 1 :]) for i, row in enumerate(self.a))

    @cached_property
    def singly(self) -> Number | None:
        """The one value of all non-zero diagonal entries, if diagonally implicit and alike."""
        diagonal = {row[i] for i, row in enumerate(self.a) if any(row[i:])}
        return diagonal.pop() if self.diagonally_implicit and len(diagonal) == 1 else None

    @cached_property
    def first_explicit(self) -> bool:
        """Whether the first stage is ``f(t0, y0)``."""
        return not any(self.a[0])

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is ``f(t1, y1)``: the next step's first, if that is explicit.

        For implicit methods this is stiff accuracy.
        """
        return _padded(self.a[-1], self.stages) == self.b

    @property
    def embedded(self) -> Row | None:
        """The weights of the embedded method."""
        if self.error is None:
            return None
        return tuple(b - e for b, e in zip(self.b, self.error, strict=True))

    @cached_property
    def estimate_order(self) -> int | None:
        """The error estimate is of size ``h`` to the power of this plus one."""
        return None if self.error is None else min(self.order, self.embedded_order)

    @cached_property
    def plain(self) -> Tableau:
        """The method without its error estimate, for steps that nobody judges."""
        if self.error is None:
            return self
        return replace(self, error=None, embedded_order=None)

    # The same numbers as floats: what a step multiplies with.

    @cached_property
    def stage_weights(self) -> tuple[Weights, ...]:
        """For every stage its non-zero weights."""
        return tuple(_nonzero(row) for row in self.a)

    @cached_property
    def matrix(self) -> tuple[tuple[float, ...], ...]:
        """``a`` as s rows of s floats."""
        return tuple(tuple(map(float, _padded(row, self.stages))) for row in self.a)

    @cached_property
    def nodes(self) -> tuple[float, ...]:
        return tuple(map(float, self.c))

    @cached_property
    def later_stages(self) -> tuple[tuple[Weights, float], ...]:
        """Weights and node of every stage but the first."""
        return tuple(zip(self.stage_weights, self.nodes, strict=True))[1:]

    @cached_property
    def solution_weights(self) -> Weights:
        return _nonzero(self.b)

    @cached_property
    def error_weights(self) -> Weights | None:
        return None if self.error is None else _nonzero(self.error)

    @cached_property
    def dense_polynomials(self) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(map(float, row)) for row in self.dense)


def _nonzero(row: Sequence[Number]) -> Weights:
    return tuple((j, float(x)) for j, x in enumerate(row) if x)


def _padded(row: Row, length: int) -> Row:
    return (*row, *(Fraction(0),) * (length - len(row)))


def hermite(b: Row, fsal: bool) -> tuple[Row, ...]:
    r"""Dense weights of the cubic that meets y and y' at both ends of the step.

    :math:`y + \theta^2(3 - 2\theta)(y_1 - y) + \theta(1-\theta)^2 h f_0
    + \theta^2(\theta - 1) h f_1` with :math:`y_1 - y = h \sum_i b_i k_i`; third order, or the
    method's if that is lower.
    """
    rows = [[Fraction(0), 3 * weight, -2 * weight] for weight in b]
    if not fsal:
        rows.append([Fraction(0)] * 3)
    rows[0] = [x + Fraction(d) for x, d in zip(rows[0], (1, -2, 1), strict=True)]
    rows[-1] = [x + Fraction(d) for x, d in zip(rows[-1], (0, -1, 1), strict=True)]
    return tuple(tuple(row) for row in rows)


def interpolatory(tableau: Tableau) -> tuple[Row, ...]:
    r"""Dense weights that integrate the polynomial through the rates of the stages.

    :math:`b_i(\theta) = \int_0^\theta \prod_{j \ne i} \frac{x - c_j}{c_i - c_j} dx`, for a
    collocation method the collocation polynomial, of order s.  With ``f(t1, y1)`` as one more
    value the order of Gauss's methods would be one higher, but where f is stiff that value is the
    error of y1 times the stiffness, and the polynomial is of no use.
    """
    nodes = tableau.c
    if len(set(nodes)) < len(nodes):
        raise ValueError(f"tableau {tableau.name!r}: give dense, the nodes are not distinct")
    dense = tuple(
        integral(lagrange(node, [c for j, c in enumerate(nodes) if j != i]))
        for i, node in enumerate(nodes)
    )
    if tuple(map(sum, dense)) != tableau.b:
        raise ValueError(
            f"tableau {tableau.name!r}: give dense, b does not integrate the polynomial through "
            "the stages"
        )
    return dense


def lagrange(node: Number, others: Sequence[Number]) -> list[Number]:
    """Coefficients of 1, x, ... of the polynomial that is 1 at the node and 0 at the others."""
    coefficients: list[Number] = [Fraction(1)]
    for other in others:
        shifted = [Fraction(0), *coefficients]
        for k, q in enumerate(coefficients):
            shifted[k] = shifted[k] - other * q
        coefficients = [q / (node - other) for q in shifted]
    return coefficients


def integral(coefficients: Sequence[Number]) -> Row:
    """Coefficients of x, x^2, ... of the integral from 0, given those of 1, x, ..."""
    return tuple(q / (k + 1) for k, q in enumerate(coefficients))
