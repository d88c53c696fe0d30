"""Limits of quotients of smooth functions by Taylor's formula, noncommutative ones included."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp
from sympy.core.function import AppliedUndef

from companion.proof.smooth import is_smooth

_HIGHEST_POLE = 6


def normal_limit(
    body: sp.Expr,
    variable: sp.Symbol,
    target: sp.Expr,
    direction: str,
    normal: Callable[[sp.Expr], sp.Expr],
) -> sp.Expr:
    r"""The limit of ``body``, or an unevaluated Limit if it cannot be taken for certain.

    If :math:`N(h) = h^k\,\text{body}` is smooth at 0 and its derivatives below the k-th vanish
    there, Taylor's formula gives the limit :math:`N^{(k)}(0)/k!`.  SymPy's own ``limit`` is asked
    only when no undefined function and no noncommutative symbol is involved.
    """
    if not body.has(variable):
        return body
    if target.is_finite is not False and not target.has(sp.oo, -sp.oo):
        taken = _taylor(body, variable, target, normal)
        if taken is not None:
            return taken
    if body.is_commutative and not body.has(AppliedUndef, sp.Indexed, sp.Sum, sp.Integral):
        return sp.limit(body, variable, target, direction)
    return sp.Limit(body, variable, target, direction)


def _taylor(body, variable, target, normal) -> sp.Expr | None:
    h = sp.Dummy("h")
    body = body.subs(variable, target + h).doit()
    for order in range(_HIGHEST_POLE + 1):
        numerator = sp.expand(body * h**order)
        if is_smooth(numerator, h):
            break
    else:
        return None
    for power in range(order):
        coefficient = normal(_at_zero(numerator, h, power))
        if coefficient != 0:
            return None
    return _at_zero(numerator, h, order) / sp.factorial(order)


def _at_zero(expr: sp.Expr, h: sp.Symbol, order: int) -> sp.Expr:
    return expr.diff(h, order).subs(h, 0).doit() if order else expr.subs(h, 0)
