"""Explicit methods up to order five with rational coefficients.

Sources: Hairer, Norsett and Wanner, *Solving ODEs I* (HNW), II.1 for the classical methods;
Ralston, *Math. Comp.* 16 (1962) 431; Fehlberg, NASA Technical Report R-315 (1969);
Bogacki and Shampine, *Appl. Math. Lett.* 2 (1989) 321; Dormand and Prince, *J. Comput. Appl.
Math.* 6 (1980) 19, with the fourth-order dense output of HNW, II.6.
"""

from __future__ import annotations

from fractions import Fraction

from companion.ode.tableau import Row, Tableau
from companion.ode.tableaus.entries import difference, row, rows

EULER = Tableau("euler", order=1, a=rows(""), b=row("1"))

MIDPOINT = Tableau("midpoint", order=2, a=rows("", "1/2"), b=row("0 1"))

#: Heun's second-order method, with Euler's as the embedded one.
HEUN = Tableau(
    "heun",
    order=2,
    a=rows("", "1"),
    b=row("1/2 1/2"),
    error=row("-1/2 1/2"),
    embedded_order=1,
)

#: Ralston's second-order method, whose error bound is the least; with Euler's as the embedded one.
RALSTON = Tableau(
    "ralston",
    order=2,
    a=rows("", "2/3"),
    b=row("1/4 3/4"),
    error=row("-3/4 3/4"),
    embedded_order=1,
)

#: Fehlberg's RKF1(2), advanced with its second-order weights.
FEHLBERG2 = Tableau(
    "fehlberg2",
    order=2,
    a=rows("", "1/2", "1/256 255/256"),
    b=row("1/512 255/256 1/512"),
    error=difference(row("1/512 255/256 1/512"), row("1/256 255/256 0")),
    embedded_order=1,
)

#: Heun's third-order method.
HEUN3 = Tableau("heun3", order=3, a=rows("", "1/3", "0 2/3"), b=row("1/4 0 3/4"))

#: The classical fourth-order method.
RK4 = Tableau("rk4", order=4, a=rows("", "1/2", "0 1/2", "0 0 1"), b=row("1/6 1/3 1/3 1/6"))

#: Kutta's 3/8 rule: what torchdiffeq calls "rk4".
RK4_38 = Tableau(
    "rk4_38", order=4, a=rows("", "1/3", "-1/3 1", "1 -1 1"), b=row("1/8 3/8 3/8 1/8")
)

BOSH3 = Tableau(
    "bosh3",
    order=3,
    a=rows("", "1/2", "0 3/4", "2/9 1/3 4/9"),
    b=row("2/9 1/3 4/9 0"),
    error=difference(row("2/9 1/3 4/9 0"), row("7/24 1/4 1/3 1/8")),
    embedded_order=2,
)


def _dopri5_dense(b: Row) -> tuple[Row, ...]:
    r"""Dense weights of DOPRI5, HNW (II.6.12) to (II.6.16), multiplied out.

    With :math:`\Delta = y_1 - y`, :math:`B = h k_1 - \Delta`, :math:`C = \Delta - h k_7 - B` and
    :math:`D = h \sum d_i k_i` the interpolant is
    :math:`y + \theta(\Delta + (1-\theta)(B + \theta(C + (1-\theta) D)))`.
    """
    d = row(
        "-12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072"
        " 701980252875/199316789632 -1453857185/822651844 69997945/29380423"
    )
    result = []
    for i, weight in enumerate(b):
        first = Fraction(i == 0) - weight
        second = weight - Fraction(i == 6) - first
        result.append(
            (
                weight + first,
                second + d[i] - first,
                -second - 2 * d[i],
                d[i],
            )
        )
    return tuple(result)


_DOPRI5_B = row("35/384 0 500/1113 125/192 -2187/6784 11/84 0")

DOPRI5 = Tableau(
    "dopri5",
    order=5,
    a=rows(
        "",
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
    ),
    b=_DOPRI5_B,
    error=difference(
        _DOPRI5_B, row("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40")
    ),
    embedded_order=4,
    dense=_dopri5_dense(_DOPRI5_B),
)
