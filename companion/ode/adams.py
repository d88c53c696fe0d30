r"""Adams methods: integrals of the polynomial through past values of f.

Bashforth's method of order k integrates the polynomial through the k last values,

.. math:: y_{n+1} = y_n + h \sum_{j=0}^{k-1} \beta_j f_{n-j}, \qquad
    \beta_j = \int_0^1 \prod_{i \ne j} \frac{s + i}{i - j}\, ds;

Moulton's of order k goes through :math:`f_{n+1}` and k - 1 past values, and has to be solved for
:math:`y_{n+1}` (Hairer, Norsett and Wanner, *Solving ODEs I*, III.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from numbers import Integral

from companion.ode.tableau import Row, integral, lagrange

HIGHEST = 12


@dataclass(frozen=True)
class Adams:
    """A linear multistep method for equal steps.

    A Runge-Kutta method of the same order makes the first steps, and those after a change of the
    step size.

    Args:
        implicit: whether Moulton's corrector follows Bashforth's predictor.
        max_order: the order, from 1 to 12.  High orders are stable for tiny steps only.

    Raises:
        TypeError, ValueError: if ``max_order`` is not an integer from 1 to 12.
    """

    implicit: bool = True
    max_order: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.max_order, bool) or not isinstance(self.max_order, Integral):
            raise TypeError(f"max_order must be an int, got {type(self.max_order).__name__}")
        if not 1 <= self.max_order <= HIGHEST:
            raise ValueError(f"max_order must lie between 1 and {HIGHEST}, got {self.max_order}")

    @property
    def name(self) -> str:
        return "implicit_adams" if self.implicit else "explicit_adams"


@cache
def bashforth(order: int) -> Row:
    """Weights of the values of f now, one step ago, two steps ago, ..."""
    return _weights([Fraction(-j) for j in range(order)])


@cache
def moulton(order: int) -> Row:
    """Weights of the values of f at the end of the step, now, one step ago, ..."""
    return _weights([Fraction(1 - j) for j in range(order)])


def _weights(nodes: list[Fraction]) -> Row:
    return tuple(
        sum(integral(lagrange(node, [x for x in nodes if x != node])), Fraction(0))
        for node in nodes
    )
