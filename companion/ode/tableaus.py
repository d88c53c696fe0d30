r"""The methods, with coefficients as exact fractions.

Sources: Hairer, Norsett and Wanner, *Solving ODEs I* (HNW), II.1 for the classical methods;
Bogacki and Shampine, *Appl. Math. Lett.* 2 (1989) 321; Dormand and Prince, *J. Comput. Appl.
Math.* 6 (1980) 19, with the fourth-order dense output of HNW, II.6; Tsitouras, *Comput. Math.
Appl.* 62 (2011) 770.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from companion.ode.tableau import Row, Tableau


def _row(text: str) -> Row:
    return tuple(Fraction(entry) for entry in text.split())


def _rows(*texts: str) -> tuple[Row, ...]:
    return tuple(_row(text) for text in texts)


def _difference(b: Row, embedded: Row) -> Row:
    return tuple(x - y for x, y in zip(b, embedded, strict=True))


EULER = Tableau("euler", order=1, a=(), b=_row("1"))

MIDPOINT = Tableau("midpoint", order=2, a=_rows("1/2"), b=_row("0 1"))

#: Heun's second-order method, with Euler's as the embedded one.
HEUN = Tableau(
    "heun",
    order=2,
    a=_rows("1"),
    b=_row("1/2 1/2"),
    error=_row("-1/2 1/2"),
    embedded_order=1,
)

#: The classical fourth-order method.
RK4 = Tableau("rk4", order=4, a=_rows("1/2", "0 1/2", "0 0 1"), b=_row("1/6 1/3 1/3 1/6"))

#: Kutta's 3/8 rule: what torchdiffeq calls "rk4".
RK4_38 = Tableau(
    "rk4_38", order=4, a=_rows("1/3", "-1/3 1", "1 -1 1"), b=_row("1/8 3/8 3/8 1/8")
)

BOSH3 = Tableau(
    "bosh3",
    order=3,
    a=_rows("1/2", "0 3/4", "2/9 1/3 4/9"),
    b=_row("2/9 1/3 4/9 0"),
    error=_difference(_row("2/9 1/3 4/9 0"), _row("7/24 1/4 1/3 1/8")),
    embedded_order=2,
)


def _dopri5_dense(b: Row) -> tuple[Row, ...]:
    r"""Dense weights of DOPRI5, HNW (II.6.12) to (II.6.16), multiplied out.

    With :math:`\Delta = y_1 - y`, :math:`B = h k_1 - \Delta`, :math:`C = \Delta - h k_7 - B` and
    :math:`D = h \sum d_i k_i` the interpolant is
    :math:`y + \theta(\Delta + (1-\theta)(B + \theta(C + (1-\theta) D)))`.
    """
    d = _row(
        "-12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072"
        " 701980252875/199316789632 -1453857185/822651844 69997945/29380423"
    )
    rows = []
    for i, weight in enumerate(b):
        first = Fraction(i == 0) - weight
        second = weight - Fraction(i == 6) - first
        rows.append(
            (
                weight + first,
                second + d[i] - first,
                -second - 2 * d[i],
                d[i],
            )
        )
    return tuple(rows)


_DOPRI5_B = _row("35/384 0 500/1113 125/192 -2187/6784 11/84 0")

DOPRI5 = Tableau(
    "dopri5",
    order=5,
    a=_rows(
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
    ),
    b=_DOPRI5_B,
    error=_difference(
        _DOPRI5_B, _row("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40")
    ),
    embedded_order=4,
    dense=_dopri5_dense(_DOPRI5_B),
)


def _close(nodes: str, *texts: str) -> tuple[Row, ...]:
    """Rows without their first entry, which is what makes the row sum equal the node."""
    rows = [_row(text) for text in texts]
    return tuple((c - sum(row), *row) for c, row in zip(_row(nodes), rows, strict=True))


def _tsit5() -> Tableau:
    """Tsitouras' pair; its coefficients are published as decimals and are taken at face value.

    The order conditions therefore hold to the last published digit, about 1e-16, and not
    exactly.  The first entry of every row is derived from the row sum, and the first dense
    weight from the sum over the stages, so that consistency is exact.
    """
    a = _close(
        "0.161 0.327 0.9 0.9800255409045097 1",
        "",
        "0.3354806554923570",
        "-6.359448489975075 4.362295432869581",
        "-11.74888356406283 7.495539342889836 -0.09249506636175525",
        "-12.92096931784711 8.159367898576159 -0.07158497328140100 -0.02826905039406838",
    )
    (b,) = _close(
        "1",
        "0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774 0",
    )
    (error,) = _close(
        "0",
        "-0.0008164344596567469 0.007880878010261995 -0.1447110071732629 0.5823571654525552"
        " -0.45808210592918697 1/66",
    )
    # Weights of stages 2 to 7: factor * theta^2 * (theta^2 + p theta + q), from the paper.
    quadratics = [
        _row(text)
        for text in (
            "0.1017 -2.1966568338249754 1.2949852507374631",
            "2.490627285651252793 -2.38535645472061657 1.57803468208092486",
            "-16.54810288924490272 -1.83333333333333333 0.749999999999999999",
            "47.37952196281928122 -1.86111850102591615 0.791666666666666667",
            "-34.87065786149660974 -1.86666666666666667 0.8",
            "2.5 -1.6 0.6",
        )
    ]
    later = [_ending((Fraction(0), s * q, s * p, s), end)
             for (s, p, q), end in zip(quadratics, b[1:], strict=True)]
    sums = [sum(column) for column in zip(*later, strict=True)]
    first = (1 - sums[0], -sums[1], -sums[2], -sums[3])
    return Tableau(
        "tsit5",
        order=5,
        a=(*a, b[:-1]),
        b=b,
        error=error,
        embedded_order=4,
        dense=(first, *later),
    )


def _ending(row: Sequence[Fraction], end: Fraction) -> Row:
    """The dense weight with its square term moved, by less than 1e-14, to end in ``end``."""
    linear, square, *rest = row
    return (linear, square + end - sum(row), *rest)


TSIT5 = _tsit5()

#: Every method by the name that ``solve(method=...)`` takes.
METHODS: dict[str, Tableau] = {
    tableau.name: tableau
    for tableau in (EULER, MIDPOINT, HEUN, RK4, RK4_38, BOSH3, DOPRI5, TSIT5)
}
