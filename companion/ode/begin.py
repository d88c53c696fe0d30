"""From a method to the march that it asks for."""

from __future__ import annotations

from companion.ode.adaptive import AdaptiveMarch
from companion.ode.control import FixedGrid, FixedStep
from companion.ode.field import Leaves, Time
from companion.ode.fixed import FixedMarch, GridMarch
from companion.ode.march import March
from companion.ode.method import Method
from companion.ode.solution import Stats
from companion.ode.step import VectorField


def begin(
    field: VectorField,
    method: Method,
    t: float,
    y: Leaves,
    stats: Stats,
    node: Time | None = None,
) -> March:
    """A march that stands at time t with state y."""
    if isinstance(method.control, FixedStep):
        kind = FixedMarch
    elif isinstance(method.control, FixedGrid):
        kind = GridMarch
    else:
        kind = AdaptiveMarch
    return kind(field, method, t, y, stats, node)
