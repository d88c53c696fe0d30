"""Every Runge-Kutta method of the library, with exact coefficients."""

from __future__ import annotations

from companion.ode.tableau import Tableau
from companion.ode.tableaus.dormand_prince import DOPRI8
from companion.ode.tableaus.esdirk import KENCARP4, KVAERNO3, KVAERNO5
from companion.ode.tableaus.explicit import (
    BOSH3,
    DOPRI5,
    EULER,
    FEHLBERG2,
    HEUN,
    HEUN3,
    MIDPOINT,
    RALSTON,
    RK4,
    RK4_38,
)
from companion.ode.tableaus.implicit import (
    GL4,
    GL6,
    IMPLICIT_EULER,
    IMPLICIT_MIDPOINT,
    RADAU_IIA3,
    RADAU_IIA5,
    SDIRK2,
    TRAPEZOID,
    TRBDF2,
)
from companion.ode.tableaus.tsitouras import TSIT5
from companion.ode.tableaus.verner import VERN7

#: Every method by the name that ``solve(method=...)`` takes.
METHODS: dict[str, Tableau] = {
    tableau.name: tableau
    for tableau in (
        EULER,
        MIDPOINT,
        HEUN,
        RALSTON,
        FEHLBERG2,
        HEUN3,
        RK4,
        RK4_38,
        BOSH3,
        DOPRI5,
        TSIT5,
        VERN7,
        DOPRI8,
        IMPLICIT_EULER,
        IMPLICIT_MIDPOINT,
        TRAPEZOID,
        GL4,
        GL6,
        RADAU_IIA3,
        RADAU_IIA5,
        SDIRK2,
        TRBDF2,
        KVAERNO3,
        KVAERNO5,
        KENCARP4,
    )
}
