r"""Adaptive stiff methods: singly diagonally implicit, the first stage explicit (ESDIRK).

All are stiffly accurate and L-stable, and the last row of the matrix is b, so that the next step's
first stage comes for nothing.  Sources: Kvaerno, *BIT* 44 (2004) 489; Kennedy and Carpenter,
*Appl. Numer. Math.* 44 (2003) 139, of whose ARK4(3)6L[2]SA this is the implicit part.
"""

from __future__ import annotations

from fractions import Fraction

from companion.ode.algebraic import NumberField
from companion.ode.tableau import Row, Tableau
from companion.ode.tableaus.entries import closed, difference, row, rows


def _stiffly_accurate(name: str, order: int, a: tuple[Row, ...], **parts) -> Tableau:
    """The pair whose last two rows are the embedded and the advancing weights."""
    *_, embedded, b = a
    return Tableau(
        name,
        order=order,
        a=a,
        b=b,
        error=difference(b, (*embedded, Fraction(0))),
        embedded_order=order - 1,
        **parts,
    )


def _kvaerno3() -> Tableau:
    """The coefficients follow from stage order 2; L-stability makes gamma a root of a cubic."""
    cubic = tuple(map(Fraction, ("-1/6", "3/2", "-3", "1")))
    g = NumberField(cubic, 0.4358665, "gamma").generator
    return _stiffly_accurate(
        "kvaerno3",
        order=3,
        a=(
            (),
            (g, g),
            ((-4 * g**2 + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g), g),
            (
                (6 * g - 1) / (12 * g),
                -1 / (12 * g * (2 * g - 1)),
                (-6 * g**2 + 6 * g - 1) / (3 * (2 * g - 1)),
                g,
            ),
        ),
    )


KVAERNO3 = _kvaerno3()

#: Published as decimals; the first entries of the last two rows are derived from their sum.
KVAERNO5 = _stiffly_accurate(
    "kvaerno5",
    order=5,
    a=(
        *rows(
            "",
            "0.26 0.26",
            "0.13 0.84033320996790809 0.26",
            "0.22371961478320505 0.47675532319799699 -0.06470895363112615 0.26",
            "0.16648564323248321 0.10450018841591720 0.03631482272098715 -0.13090704451073998 0.26",
        ),
        *closed(
            "1 1",
            "0 -0.04245337201752043 0.02446657898003141 0.61943039072480676 0.26",
            "0 -0.05496908796538376 -0.04118626728321046 0.62993304899016403 0.06962479448202728"
            " 0.26",
        ),
    ),
    rounding=Fraction(1, 10**16),
)

_KENCARP4_B = row("82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4")

KENCARP4 = Tableau(
    "kencarp4",
    order=4,
    a=(
        *rows(
            "",
            "1/4 1/4",
            "8611/62500 -1743/31250 1/4",
            "5012029/34652500 -654441/2922500 174375/388108 1/4",
            "15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4",
        ),
        _KENCARP4_B,
    ),
    b=_KENCARP4_B,
    error=difference(
        _KENCARP4_B,
        row(
            "4586570599/29645900160 0 178811875/945068544 814220225/1159782912"
            " -3700637/11593932 61727/225920"
        ),
    ),
    embedded_order=3,
)
