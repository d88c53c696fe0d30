"""Normal form of definite integrals: linearity, known primitives, additivity, canonical names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import sympy as sp
from sympy.core.function import AppliedUndef

from companion.proof.partials import origin, with_orders
from companion.proof.smooth import is_smooth
from companion.proof.sums import is_infinite, is_known, normal_sum, renamed_apart

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
        total = next(
            (
                f
                for f in sp.Mul.make_args(middle)
                if isinstance(f, sp.Sum) and not is_infinite(f.limits)
            ),
            None,
        )
        if total is not None and not any(lim.has(variable) for lim in total.limits):
            rest = middle.xreplace({total: sp.S.One})
            summand, limits = renamed_apart(total)
            inner = normal_integral(sp.expand(rest * summand), variable, lower, upper, normal)
            piece = normal_sum(normal(inner), limits)
        else:
            piece = _term(middle, variable, lower, upper, normal)
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


def _term(integrand, variable, lower, upper, normal) -> sp.Expr:
    if not integrand.has(variable):
        return integrand * (upper - lower)
    infinite = any(end.has(sp.oo, -sp.oo) for end in (lower, upper))
    if not infinite:
        if integrand.is_polynomial(variable):
            return _between(sp.integrate(integrand, variable), variable, lower, upper)
        parts = _by_parts(integrand, variable)
        if parts is not None:
            boundary, rest = parts
            remaining = normal_integral(normal(rest), variable, lower, upper, normal)
            return _between(boundary, variable, lower, upper) + remaining
    if is_known(integrand):
        known = sp.integrate(integrand, (variable, lower, upper))
        if not known.has(sp.Integral, sp.Piecewise, sp.nan, sp.zoo, sp.oo, -sp.oo):
            return known
    name = _name(integrand, variable)
    renamed = integrand.xreplace({variable: name})
    if infinite or not is_smooth(integrand, variable):
        return sp.Integral(renamed, (name, lower, upper))
    ends = [sp.Integral(renamed, (name, BASE, end)) for end in (upper, lower)]
    return ends[0] - ends[1]


def _between(primitive: sp.Expr, variable: sp.Symbol, lower: sp.Expr, upper: sp.Expr) -> sp.Expr:
    return primitive.subs(variable, upper).doit() - primitive.subs(variable, lower).doit()


def _by_parts(integrand: sp.Expr, variable: sp.Symbol) -> tuple[sp.Expr, sp.Expr] | None:
    """One integration by parts, as the boundary term and the integrand that remains.

    Of the functions in a product, derivatives of the least one (in SymPy's order) are moved to
    the other factors, so that two integrals that differ by parts get the same form.
    """
    if not is_smooth(integrand, variable):
        return None
    factors = sp.Mul.make_args(integrand)
    roots = {_root(factor, variable) for factor in factors} - {None}
    if not roots:
        return None
    least = min(roots, key=sp.default_sort_key)
    for position, factor in enumerate(factors):
        if _root(factor, variable) != least or factor.as_base_exp()[0] == least:
            continue
        before, after = factors[:position], factors[position + 1 :]
        powers = [f for f in (*before, *after) if f.as_base_exp()[0] == least]
        others = [f for f in (*before, *after) if f not in powers]
        if factor.is_Pow or any(_involves(f, least) for f in others):
            return None
        if powers:
            return _power_rule(factor, powers, others, least, variable)
        lowered = _lowered(factor, variable)
        boundary = sp.Mul(*before, lowered, *after)
        left, right = sp.Mul(*before), sp.Mul(*after)
        rest = left.diff(variable) * lowered * right + left * lowered * right.diff(variable)
        return boundary, -rest
    return None


def _power_rule(factor, powers, others, function, variable):
    """u^m u' c = (u^(m+1) c)'/(m+1) - u^(m+1) c'/(m+1), for commutative u."""
    exponent = sp.Mul(*powers).as_base_exp()[1]
    first_order = _lowered(factor, variable) == function
    if not (first_order and function.is_commutative and exponent.is_Integer and exponent > 0):
        return None
    primitive = function ** (exponent + 1) / (exponent + 1)
    rest = sp.Mul(*others)
    return primitive * rest, -primitive * rest.diff(variable)


def _root(factor: sp.Expr, variable: sp.Symbol) -> AppliedUndef | None:
    """The undefined function u(.., t, ..) of which a factor is a power or a t-derivative."""
    base = factor.as_base_exp()[0]
    if not isinstance(base, AppliedUndef) or base.args.count(variable) != 1:
        return None
    if any(a.has(variable) for a in base.args if a != variable):
        return None
    orders = list(origin(base)[1])
    orders[base.args.index(variable)] = 0
    return with_orders(base, tuple(orders))


def _lowered(derivative: AppliedUndef, variable: sp.Symbol) -> AppliedUndef:
    orders = list(origin(derivative)[1])
    orders[derivative.args.index(variable)] -= 1
    return with_orders(derivative, tuple(orders))


def _involves(factor: sp.Expr, function: AppliedUndef) -> bool:
    """Whether the function or a derivative of it occurs in a factor, at any depth."""
    mine = origin(function)[0]
    return any(origin(applied)[0] == mine and applied.args == function.args
               for applied in factor.atoms(AppliedUndef))  # fmt: skip


def _name(body: sp.Expr, variable: sp.Symbol) -> sp.Dummy:
    """The canonical variable for these assumptions that does not occur in the body."""
    declared = tuple(sorted(variable.assumptions0.items()))
    taken = body.atoms(sp.Dummy) - {variable}
    names = (
        _NAMES.setdefault((declared, level), sp.Dummy(f"s{level}", **dict(declared)))
        for level in count()
    )
    return next(name for name in names if name not in taken)
