r"""The stability function of a Runge-Kutta method, in exact arithmetic.

For :math:`y' = \lambda y` one step is :math:`y_1 = R(\lambda h)\, y_0` with

.. math::
    R(z) = 1 + z\, b^T (I - zA)^{-1} \mathbf{1}
    = \frac{\det(I - zA + z \mathbf{1} b^T)}{\det(I - zA)}

(Hairer and Wanner, *Solving ODEs II*, IV.3).  The method damps what the problem damps where
:math:`|R(z)| < 1`; it is A-stable if that holds in the whole left half-plane, and L-stable if in
addition :math:`R(\infty) = 0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from companion.ode.tableau import Number, Row, Tableau


class StabilityFunction(NamedTuple):
    """R as a quotient of polynomials, each as the coefficients of 1, z, z^2, ..."""

    numerator: Row
    denominator: Row

    def __call__(self, z: Any) -> Any:
        """R in floating point, for a complex number or an array or tensor of them."""
        return _horner(self.numerator, z) / _horner(self.denominator, z)

    @property
    def at_infinity(self) -> Number | None:
        """The limit for large z; None if there is none, as for every explicit method."""
        excess = len(self.numerator) - len(self.denominator)
        if excess > 0:
            return None
        return Fraction(0) if excess else self.numerator[-1] / self.denominator[-1]


def stability_function(tableau: Tableau) -> StabilityFunction:
    r"""The stability function of the solution, exactly.

    The denominator Q is :math:`\det(I - zA)`.  The numerator has degree s at most, and so is
    :math:`Q(z) (1 + \sum_k z^k\, b^T A^{k-1} \mathbf{1})` cut off there.
    """
    s = tableau.stages
    denominator = _characteristic(tableau)
    series: list[Number] = [Fraction(1)]
    powers: list[Number] = [Fraction(1)] * s
    for _ in range(s):
        series.append(_dot(tableau.b, powers))
        powers = [_dot(row, powers) for row in tableau.a]
    numerator = [
        sum((denominator[j] * series[k - j] for j in range(k + 1)), Fraction(0))
        for k in range(s + 1)
    ]
    return StabilityFunction(_trimmed(numerator), _trimmed(denominator))


def _characteristic(tableau: Tableau) -> list[Number]:
    r"""Coefficients of :math:`\det(I - zA)`, from the traces of powers by Newton's identities."""
    traces = _traces(tableau)
    coefficients: list[Number] = [Fraction(1)]
    for k in range(1, tableau.stages + 1):
        total = sum((coefficients[k - j] * traces[j - 1] for j in range(1, k + 1)), Fraction(0))
        coefficients.append(-total / k)
    return coefficients


def _traces(tableau: Tableau) -> list[Number]:
    """The traces of A, A^2, ..., A^s; of a triangular matrix its diagonal is enough."""
    s = tableau.stages
    if tableau.explicit or tableau.diagonally_implicit:
        diagonal = [row[i] for i, row in enumerate(tableau.a) if len(row) > i]
        return [sum((x**k for x in diagonal), Fraction(0)) for k in range(1, s + 1)]
    columns = [[Fraction(i == j) for i in range(s)] for j in range(s)]
    traces = []
    for _ in range(s):
        columns = [[_dot(row, column) for row in tableau.a] for column in columns]
        traces.append(sum((column[j] for j, column in enumerate(columns)), Fraction(0)))
    return traces


def _dot(row: Row, values: Sequence[Number]) -> Number:
    return sum((x * y for x, y in zip(row, values, strict=False) if x), Fraction(0))


def _trimmed(coefficients: Sequence[Number]) -> Row:
    last = max(k for k, x in enumerate(coefficients) if x)
    return tuple(coefficients[: last + 1])


def _horner(coefficients: Row, z: Any) -> Any:
    value = 0 * z
    for x in reversed(coefficients):
        value = value * z + float(x)
    return value
