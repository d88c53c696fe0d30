"""From a method to the march that it asks for."""

from __future__ import annotations

from companion.ode.adams import Adams
from companion.ode.adams_march import AdamsFixedMarch, AdamsGridMarch
from companion.ode.adaptive import AdaptiveMarch
from companion.ode.control import FixedGrid, FixedStep
from companion.ode.field import Leaves, Time
from companion.ode.fixed import FixedMarch, GridMarch
from companion.ode.march import March
from companion.ode.method import Method
from companion.ode.repeated import RepeatedMarch
from companion.ode.scipy_march import SciPyMarch
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats
from companion.ode.step import VectorField


def begin(
    field: VectorField,
    method: Method,
    t: float,
    y: Leaves,
    stats: Stats,
    node: Time | None = None,
    *,
    repeated: bool = False,
) -> March:
    """A march that stands at time t with state y.

    With ``repeated`` steps that adapt do not: the march is told where they ended the first time.
    """
    if isinstance(method.scheme, SciPy):
        kind = SciPyMarch
    elif isinstance(method.control, FixedStep):
        kind = AdamsFixedMarch if isinstance(method.scheme, Adams) else FixedMarch
    elif isinstance(method.control, FixedGrid):
        kind = AdamsGridMarch if isinstance(method.scheme, Adams) else GridMarch
    else:
        kind = RepeatedMarch if repeated else AdaptiveMarch
    return kind(field, method, t, y, stats, node)
