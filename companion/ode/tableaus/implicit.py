r"""Implicit methods.

Sources: Hairer and Wanner, *Solving ODEs II* (HW), IV.5 for the methods of Gauss and Radau IIA
and IV.6 for SDIRK methods; Bank et al., *IEEE Trans. CAD* 4 (1985) 436 for TR-BDF2, with the
embedded third-order method of Hosea and Shampine, *Appl. Numer. Math.* 20 (1996) 21.
"""

from __future__ import annotations

from fractions import Fraction

from companion.ode.algebraic import sqrt
from companion.ode.tableau import Tableau
from companion.ode.tableaus.entries import difference, row, rows

IMPLICIT_EULER = Tableau("implicit_euler", order=1, a=rows("1"), b=row("1"))

#: Gauss's method of order 2.
IMPLICIT_MIDPOINT = Tableau("implicit_midpoint", order=2, a=rows("1/2"), b=row("1"))

TRAPEZOID = Tableau("trapezoid", order=2, a=rows("", "1/2 1/2"), b=row("1/2 1/2"))


def _gauss4() -> Tableau:
    """Gauss's method of order 4, HW table IV.5.1."""
    r = sqrt(3)
    quarter = Fraction(1, 4)
    return Tableau(
        "gl4",
        order=4,
        a=((quarter, quarter - r / 6), (quarter + r / 6, quarter)),
        b=row("1/2 1/2"),
    )


def _gauss6() -> Tableau:
    """Gauss's method of order 6, HW table IV.5.2."""
    r = sqrt(15)
    b = row("5/18 4/9 5/18")
    half = [weight / 2 for weight in b]
    return Tableau(
        "gl6",
        order=6,
        a=(
            (half[0], half[1] - r / 15, half[2] - r / 30),
            (half[0] + r / 24, half[1], half[2] - r / 24),
            (half[0] + r / 30, half[1] + r / 15, half[2]),
        ),
        b=b,
    )


def _radau5() -> Tableau:
    """Radau IIA of order 5, HW table IV.5.6."""
    r = sqrt(6)
    b = ((16 - r) / 36, (16 + r) / 36, Fraction(1, 9))
    return Tableau(
        "radauIIA5",
        order=5,
        a=(
            ((88 - 7 * r) / 360, (296 - 169 * r) / 1800, (-2 + 3 * r) / 225),
            ((296 + 169 * r) / 1800, (88 + 7 * r) / 360, (-2 - 3 * r) / 225),
            b,
        ),
        b=b,
    )


GL4 = _gauss4()
GL6 = _gauss6()
RADAU_IIA3 = Tableau("radauIIA3", order=3, a=rows("5/12 -1/12", "3/4 1/4"), b=row("3/4 1/4"))
RADAU_IIA5 = _radau5()

#: The diagonal entry that makes SDIRK2 and TR-BDF2 L-stable.
_GAMMA = 1 - sqrt(2) / 2

SDIRK2 = Tableau(
    "sdirk2", order=2, a=((_GAMMA,), (1 - _GAMMA, _GAMMA)), b=(1 - _GAMMA, _GAMMA)
)


def _trbdf2() -> Tableau:
    """The trapezoidal rule to 2 gamma, then BDF2 over both parts; written as one method."""
    w = sqrt(2) / 4
    b = (w, w, _GAMMA)
    embedded = ((1 - w) / 3, (1 + 3 * w) / 3, _GAMMA / 3)
    return Tableau(
        "trbdf2",
        order=2,
        a=((), (_GAMMA, _GAMMA), b),
        b=b,
        error=difference(b, embedded),
        embedded_order=3,
    )


TRBDF2 = _trbdf2()
