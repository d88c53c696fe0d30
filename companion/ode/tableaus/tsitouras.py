r"""Tsitouras' pair of orders 5 and 4, *Comput. Math. Appl.* 62 (2011) 770.

Its coefficients are published as decimals and are taken at face value, so the order conditions
hold to the last published digit and not exactly: those of the two solutions to 1.3e-15, those of
the dense output, whose weights are large, to 2.9e-13.  The first entry of every row is derived
from the row sum, so that consistency is exact.
"""

from __future__ import annotations

from fractions import Fraction

from companion.ode.tableau import Row, Tableau
from companion.ode.tableaus.entries import closed, ending, rows

_A = (
    (),
    *closed(
        "0.161 0.327 0.9 0.9800255409045097 1",
        "",
        "0.3354806554923570",
        "-6.359448489975075 4.362295432869581",
        "-11.74888356406283 7.495539342889836 -0.09249506636175525",
        "-12.92096931784711 8.159367898576159 -0.07158497328140100 -0.02826905039406838",
    ),
)

_B, _ERROR = closed(
    "1 0",
    "0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774 0",
    "-0.0008164344596567469 0.007880878010261995 -0.1447110071732629 0.5823571654525552"
    " -0.45808210592918697 1/66",
)


def _dense() -> tuple[Row, ...]:
    r"""The fourth-order dense output of the paper.

    The weights of stages 2 to 7 are :math:`s\,\theta^2 (\theta^2 + p\,\theta + q)`; the first
    follows from the sum over the stages, so that consistency is exact.
    """
    factors = rows(
        "0.1017 -2.1966568338249754 1.2949852507374631",
        "2.490627285651252793 -2.38535645472061657 1.57803468208092486",
        "-16.54810288924490272 -1.83333333333333333 0.749999999999999999",
        "47.37952196281928122 -1.86111850102591615 0.791666666666666667",
        "-34.87065786149660974 -1.86666666666666667 0.8",
        "2.5 -1.6 0.6",
    )
    later = [
        ending((Fraction(0), s * q, s * p, s), end)
        for (s, p, q), end in zip(factors, _B[1:], strict=True)
    ]
    _, square, cube, fourth = (sum(column) for column in zip(*later, strict=True))
    return ((Fraction(1), -square, -cube, -fourth), *later)


TSIT5 = Tableau(
    "tsit5",
    order=5,
    a=(*_A, _B[:-1]),
    b=_B,
    error=_ERROR,
    embedded_order=4,
    dense=_dense(),
    rounding=Fraction(3, 10**13),
)
