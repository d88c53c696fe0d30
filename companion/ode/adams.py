r"""Adams methods: integrals of the polynomial through past values of f.

Bashforth's method of order k integrates the polynomial through the k last values,

.. math:: y_{n+1} = y_n + h \sum_{j=0}^{k-1} \beta_j f_{n-j}, \qquad
    \beta_j = \int_0^1 \prod_{i \ne j} \frac{s + i}{i - j}\, ds;

Moulton's of order k goes through :math:`f_{n+1}` and k - 1 past values, and has to be solved for
:math:`y_{n+1}` (Hairer, Norsett and Wanner, *Solving ODEs I*, III.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from companion.ode.tableau import Number, integral, lagrange

HIGHEST = 12


@dataclass(frozen=True)
class Adams:
    """A linear multistep method for equal steps.

    A Runge-Kutta method of the same order (of order eight for all above) makes the first steps,
    and those after a change of the step size by more than a hundredth.  Inside a step the solution
    is the integral of the polynomial, of the order of the method.  Gradients with respect to times
    take the weights, which depend on how even the steps are, for constants.

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


def inside(nodes: tuple[Number | float, ...]) -> tuple[tuple[Number | float, ...], ...]:
    r"""Weights of values of f in the integral of the polynomial through them.

    Args:
        nodes: where the values are, in steps from the beginning of the present one.

    Returns:
        For every value the coefficients of :math:`\theta, \theta^2, \ldots` of its weight
        :math:`\int_0^\theta \prod_{i \ne j} \frac{s - s_i}{s_j - s_i}\, ds`.
    """
    return tuple(
        integral(lagrange(node, [x for i, x in enumerate(nodes) if i != j]))
        for j, node in enumerate(nodes)
    )
