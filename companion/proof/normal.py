"""Bottom-up normal form of a scalar expression.

Derivatives are carried out, integrals and sums become linear, limits are taken, divisions with
remainder are carried out where the remainder is certain, and bound variables get canonical names.
Every rewriting here is an identity; whatever is not understood stays as it is, which can make a
proof fail but never succeed.
"""

from __future__ import annotations

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixElement

from companion.proof.floors import normal_division
from companion.proof.integrals import normal_integral
from companion.proof.limits import normal_limit
from companion.proof.partials import as_partial
from companion.proof.sums import canonical_product, collect, is_infinite, is_known, normal_sum
from companion.proof.words import scalar_of_matrix


def normal(expr: sp.Expr) -> sp.Expr:
    """The normal form of a scalar expression, commutative or not."""
    if isinstance(expr, sp.Indexed):  # which counts as an atom, too
        return expr.func(expr.base, *(sp.expand(i) for i in expr.indices))
    if expr.is_Atom or expr.is_Matrix or isinstance(expr, (sp.IndexedBase, sp.Idx)):
        return expr
    if isinstance(expr, sp.KroneckerDelta):
        return sp.KroneckerDelta(*(normal(a) for a in expr.args[:2]))
    if isinstance(expr, sp.Sum):
        return _sum(expr)
    if isinstance(expr, sp.Product):
        return canonical_product(expr.func(normal(expr.function), *expr.limits))
    if isinstance(expr, sp.Integral):
        return _integral(expr)
    if isinstance(expr, sp.Limit):
        return _limit(expr)
    if isinstance(expr, sp.Derivative):
        return _derivative(expr)
    if isinstance(expr, sp.Subs):
        return _subs(expr)
    if isinstance(expr, (sp.Trace, MatrixElement, sp.Determinant)):
        return _of_matrix(expr)
    if isinstance(expr, sp.Piecewise):
        return expr.func(*((normal(e), c) for e, c in expr.args))
    if not isinstance(expr, sp.Expr):
        return expr
    arguments = [normal(a) if isinstance(a, sp.Expr) else a for a in expr.args]
    rebuilt = expr.func(*arguments)
    if isinstance(rebuilt, (sp.Add, sp.Mul, sp.Pow)):
        return collect(rebuilt)
    return normal_division(rebuilt)


def _sum(expr: sp.Sum) -> sp.Expr:
    if any(len(limit) != 3 for limit in expr.limits):
        return expr
    limits = tuple((i, normal(a), normal(b)) for i, a, b in expr.limits)
    if is_infinite(limits):
        total = expr.func(normal(expr.function), *limits)
        return total.doit() if is_known(total.function) else total
    return normal_sum(normal(expr.function), limits)


def _integral(expr: sp.Integral) -> sp.Expr:
    if any(len(limit) != 3 for limit in expr.limits):
        return expr
    body = normal(expr.function)
    for variable, lower, upper in expr.limits:
        body = collect(normal_integral(body, variable, normal(lower), normal(upper), normal))
    return body


def _limit(expr: sp.Limit) -> sp.Expr:
    body, variable, target, direction = expr.args
    taken = normal_limit(normal(body), variable, normal(target), str(direction), normal)
    return taken if isinstance(taken, sp.Limit) else normal(taken)


def _derivative(expr: sp.Derivative) -> sp.Expr:
    body = normal(expr.expr)
    taken = body.diff(*expr.variable_count)
    if isinstance(taken, sp.Derivative):
        return as_partial(taken)
    return normal(taken)


def _subs(expr: sp.Subs) -> sp.Expr:
    body = normal(expr.expr)
    target = [normal(p) for p in expr.point]
    taken = sp.Subs(body, expr.variables, target).doit(deep=False)
    return taken if isinstance(taken, sp.Subs) else normal(taken)


def _of_matrix(expr: sp.Expr) -> sp.Expr:
    taken = scalar_of_matrix(expr)
    if taken == expr:
        return expr
    if isinstance(taken, (sp.Add, sp.Mul)):
        return collect(taken)
    return taken if isinstance(taken, (sp.Trace, sp.Determinant)) else normal(taken)
