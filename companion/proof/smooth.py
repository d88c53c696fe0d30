"""Which expressions are smooth in a variable, whatever the values of everything else."""

from __future__ import annotations

import sympy as sp
from sympy.core.function import AppliedUndef

_ENTIRE = (sp.exp, sp.sin, sp.cos, sp.sinh, sp.cosh)


def is_smooth(expr: sp.Expr, variable: sp.Symbol) -> bool:
    """Whether ``expr`` is built from the variable by operations that keep it smooth everywhere.

    Undefined functions count as smooth: that is what they stand for here.
    """
    if not expr.has(variable):
        return True
    if expr == variable:
        return True
    if isinstance(expr, (sp.Add, sp.Mul, *_ENTIRE, AppliedUndef)):
        return all(is_smooth(a, variable) for a in expr.args)
    if isinstance(expr, sp.Pow):
        base, exponent = expr.args
        if exponent.is_Integer and exponent >= 0:
            return is_smooth(base, variable)
        return base.is_positive is True and not base.has(variable) and is_smooth(exponent, variable)
    if isinstance(expr, sp.Derivative):
        return is_smooth(expr.expr, variable)
    if isinstance(expr, sp.Subs):
        return is_smooth(expr.expr, variable) and all(is_smooth(p, variable) for p in expr.point)
    if isinstance(expr, sp.Sum):
        bounds = [b for limit in expr.limits for b in limit[1:]]
        finite = not any(b.has(variable, sp.oo, -sp.oo) for b in bounds)
        return finite and is_smooth(expr.function, variable)
    return False
