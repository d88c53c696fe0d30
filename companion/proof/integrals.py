"""Normal form of definite integrals: linearity, known primitives, additivity, canonical names."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp
from sympy.core.function import AppliedUndef

from companion.proof.smooth import is_smooth
from companion.proof.sums import normal_sum, renamed_apart

#: Common lower limit of smooth integrals; it cancels from whatever does not depend on it.
BASE = sp.Dummy("base")

_NAMES: dict[tuple, sp.Dummy] = {}


def normal_integral(
    body: sp.Expr,
    variable: sp.Symbol,
    lower: sp.Expr,
    upper: sp.Expr,
    normal: Callable[[sp.Expr], sp.Expr],
) -> sp.Expr:
    """Normal form of an integral over one variable; ``body`` is normal already.

    Smooth integrands are integrated from a common base point, so that reversed limits and
    adjacent intervals cancel.  A finite sum inside the integral becomes a sum of integrals.
    """
    if sp.expand(upper - lower) == 0:
        return sp.S.Zero
    pieces = []
    for term in sp.Add.make_args(sp.expand(body)):
        left, middle, right = _split(term, variable)
        total = next((f for f in sp.Mul.make_args(middle) if isinstance(f, sp.Sum)), None)
        if total is not None and not any(lim.has(variable) for lim in total.limits):
            rest = middle.xreplace({total: sp.S.One})
            summand, limits = renamed_apart(total)
            inner = normal_integral(sp.expand(rest * summand), variable, lower, upper, normal)
            piece = normal_sum(normal(inner), limits)
        else:
            piece = _term(middle, variable, lower, upper)
        pieces.append(left * piece * right)
    return sp.Add(*pieces)


def _split(term: sp.Expr, variable: sp.Symbol) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Factors free of the variable: commutative ones and leading ones, the rest, trailing ones."""
    commutative, ordered = term.args_cnc()
    outside = [f for f in commutative if not f.has(variable)]
    inside = [f for f in commutative if f.has(variable)]
    first = next((k for k, f in enumerate(ordered) if f.has(variable)), None)
    if first is None:
        return sp.Mul(*outside, *ordered), sp.Mul(*inside), sp.S.One
    last = max(k for k, f in enumerate(ordered) if f.has(variable))
    middle = sp.Mul(*inside, *ordered[first : last + 1])
    return sp.Mul(*outside, *ordered[:first]), middle, sp.Mul(*ordered[last + 1 :])


def _term(integrand, variable, lower, upper) -> sp.Expr:
    if not integrand.has(variable):
        return integrand * (upper - lower)
    primitive = _primitive(integrand, variable)
    if primitive is not None:
        at_ends = [primitive.subs(variable, end).doit() for end in (upper, lower)]
        return at_ends[0] - at_ends[1]
    if not integrand.has(AppliedUndef, sp.Indexed, sp.Sum) and integrand.is_commutative:
        known = sp.integrate(integrand, (variable, lower, upper))
        if not known.has(sp.Integral, sp.Piecewise, sp.nan, sp.zoo):
            return known
    name = _name(integrand, variable)
    renamed = integrand.xreplace({variable: name})
    infinite = any(end.has(sp.oo, -sp.oo) for end in (lower, upper))
    if infinite or not is_smooth(integrand, variable):
        return sp.Integral(renamed, (name, lower, upper))
    ends = [sp.Integral(renamed, (name, BASE, end)) for end in (upper, lower)]
    return ends[0] - ends[1]


def _primitive(integrand: sp.Expr, variable: sp.Symbol) -> sp.Expr | None:
    """The primitive of a derivative with respect to the variable of integration itself."""
    if integrand.is_polynomial(variable):
        return sp.integrate(integrand, variable)
    if not isinstance(integrand, sp.Derivative) or variable not in integrand.variables:
        return None
    remaining = list(integrand.variables)
    remaining.remove(variable)
    if not all(isinstance(v, sp.Symbol) for v in remaining):
        return None
    return sp.Derivative(integrand.expr, *remaining) if remaining else integrand.expr


def _name(body: sp.Expr, variable: sp.Symbol) -> sp.Dummy:
    """The canonical variable for these assumptions, not bound anywhere inside the body."""
    assumptions = tuple(sorted(variable.assumptions0.items()))
    level = 0
    while _NAMES.setdefault((assumptions, level), sp.Dummy(f"s{level}", **dict(assumptions))) in (
        body.atoms(sp.Dummy)
    ):
        level += 1
    return _NAMES[assumptions, level]
