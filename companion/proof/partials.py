"""Partial derivatives of undefined functions as functions of their own.

SymPy writes the partial derivative of f in its first slot, taken at (z(t), t), in several ways
(``Derivative`` with respect to ``z(t)``, ``Subs`` with one or more dummies, ...).  As a function
``D[1, 0]f`` applied to ``(z(t), t)`` it has one way to be written.
"""

from __future__ import annotations

import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

_ORIGIN: dict[UndefinedFunction, tuple[UndefinedFunction, tuple[int, ...]]] = {}
_PARTIAL: dict[tuple[UndefinedFunction, tuple[int, ...]], UndefinedFunction] = {}


def origin(applied: AppliedUndef) -> tuple[UndefinedFunction, tuple[int, ...]]:
    """The function of which this is a partial derivative, and the orders in its slots."""
    return _ORIGIN.get(applied.func, (applied.func, (0,) * len(applied.args)))


def with_orders(applied: AppliedUndef, orders: tuple[int, ...]) -> AppliedUndef:
    """The partial derivative of these orders of the original function, at the same arguments."""
    function, _ = origin(applied)
    if not any(orders):
        return function(*applied.args)
    if (function, orders) not in _PARTIAL:
        name = f"D{list(orders)}{function.__name__}"
        partial = sp.Function(name, commutative=applied.is_commutative)
        while partial in _ORIGIN:  # of another function with this name but other assumptions
            name += "'"
            partial = sp.Function(name, commutative=applied.is_commutative)
        _ORIGIN[partial] = function, orders
        _PARTIAL[function, orders] = partial
    return _PARTIAL[function, orders](*applied.args)


def as_partial(derivative: sp.Derivative) -> sp.Expr:
    """A derivative of an undefined function with respect to its arguments, in one way."""
    applied = derivative.expr
    if not isinstance(applied, AppliedUndef):
        return derivative
    orders = list(origin(applied)[1])
    for variable, count in derivative.variable_count:
        slots = [k for k, a in enumerate(applied.args) if a.has(variable)]
        if len(slots) != 1 or applied.args[slots[0]] != variable or not count.is_Integer:
            return derivative
        orders[slots[0]] += int(count)
    return with_orders(applied, tuple(orders))
