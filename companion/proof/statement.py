"""The two sides of a statement: what may stand there, and how they line up."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from numbers import Rational

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from companion.proof.errors import BadStatement, Disproved
from companion.proof.words import check_shapes

Side = sp.Expr | sp.ImmutableDenseMatrix | sp.MatrixExpr

#: Functions with kinks, jumps or branch cuts, and functions of parts of a complex number.
_KINKED = (
    sp.Abs,
    sp.DiracDelta,
    sp.Heaviside,
    sp.Max,
    sp.Min,
    sp.Mod,
    sp.Piecewise,
    sp.arg,
    sp.atan2,
    sp.ceiling,
    sp.conjugate,
    sp.floor,
    sp.im,
    sp.re,
    sp.sign,
)


def side(name: str, given: object) -> Side:
    """Accept one side of a statement.

    Args:
        name: Name of the argument, for messages.
        given: A SymPy scalar, explicit matrix, matrix expression, array of rank 1 or 2, or an
            exact Python number.

    Returns:
        A scalar expression, an immutable explicit matrix or a matrix expression.

    Raises:
        BadStatement: The argument is something else, or is not exact.
    """
    if isinstance(given, bool) or not isinstance(given, (sp.Basic, sp.MatrixBase, Rational)):
        raise BadStatement(
            f"{name} is {type(given).__name__} {given!r}; pass a SymPy expression or matrix, an "
            "int or a Fraction (a float is not exact: write sympy.Rational)"
        )
    if isinstance(given, Fraction):
        given = sp.Rational(given.numerator, given.denominator)
    expr = sp.sympify(given)
    if isinstance(expr, (Relational, sp.logic.boolalg.Boolean)) and not isinstance(expr, sp.Symbol):
        raise BadStatement(f"{name} is the truth value {expr}; pass the two sides separately")
    if isinstance(expr, sp.NDimArray):
        if expr.rank() not in (1, 2):
            raise BadStatement(f"{name} is an array of rank {expr.rank()}; pass a matrix or slices")
        expr = expr.tomatrix() if expr.rank() == 2 else sp.Matrix(expr.tolist())
    if isinstance(expr, sp.MatrixBase):
        expr = expr.as_immutable()
    if not isinstance(expr, (sp.Expr, sp.MatrixBase)):
        raise BadStatement(f"{name} is a {type(expr).__name__}; pass a scalar or a matrix")
    if expr.has(sp.Float):
        raise BadStatement(f"{name} contains the float {min(expr.atoms(sp.Float))}; write "
                           "sympy.Rational, a proof is exact")  # fmt: skip
    if expr.has(sp.nan, sp.zoo):
        raise BadStatement(f"{name} is undefined: it contains {sp.nan} or {sp.zoo}")
    if any(len(limit) != 3 for integral in expr.atoms(sp.Integral) for limit in integral.limits):
        raise BadStatement(
            f"{name} contains an indefinite integral, which is a value only up to a constant; "
            "give both limits"
        )
    check_shapes(expr)
    _require_smooth(name, expr)
    _require_unambiguous(name, expr)
    if expr.has(sp.MatrixExpr) and _has_noncommutative_scalars(expr):
        raise BadStatement(
            f"{name} mixes noncommutative symbols with matrix expressions; use one of the two"
        )
    return _with_own_indices(expr)


def _require_smooth(name: str, expr: Side) -> None:
    """Refuse calculus on functions with kinks and jumps.

    SymPy differentiates and integrates them branch by branch, which is wrong at the seams, and
    the points at which sides are compared are evaluated by the same rules.
    """
    for node in sp.preorder_traversal(expr):
        if not isinstance(node, (sp.Derivative, sp.Integral, sp.Limit)):
            continue
        variables = _variables(node)
        for kinked in node.args[0].atoms(*_KINKED):
            if kinked.free_symbols & variables:
                raise BadStatement(
                    f"{name} has {kinked} inside a {type(node).__name__}; derivatives, integrals "
                    "and limits are for smooth functions here, so treat each smooth piece by "
                    "itself"
                )


def _require_unambiguous(name: str, expr: Side) -> None:
    """Refuse derivatives that SymPy writes alike whether they are partial or total.

    Its chain rule writes the partial derivative of ``c(u(p), v(u(p)))`` in the first slot as
    ``Derivative(c(u(p), v(u(p))), u(p))``, which reads as the total derivative by u.
    """
    for node in expr.atoms(sp.Derivative):
        if not isinstance(node.expr, AppliedUndef):
            continue
        for variable in node.variables:
            slots = [a for a in node.expr.args if a.has(variable)]
            if isinstance(variable, AppliedUndef) and len(slots) > 1:
                raise BadStatement(
                    f"{name} has a derivative of {node.expr} with respect to {variable}, which "
                    "stands in more than one argument: SymPy does not say whether it is partial "
                    "or total; differentiate at symbols, and put the functions in with subs"
                )


def _variables(node: sp.Basic) -> set[sp.Symbol]:
    return {node.args[1]} if isinstance(node, sp.Limit) else set(node.variables)


def _has_noncommutative_scalars(expr: Side) -> bool:
    return any(s.is_commutative is False for s in expr.atoms(sp.Symbol, AppliedUndef))


def _with_own_indices(expr: Side) -> Side:
    """Give every Idx a label of its own.

    ``Idx("j")`` holds the symbol ``j``.  Where a sum runs over a symbol of that name, replacing
    the one would change the other.
    """
    return expr.xreplace({idx: _own_index(idx) for idx in expr.atoms(sp.Idx)})


@cache
def _own_index(idx: sp.Idx) -> sp.Idx:
    label = sp.Dummy(idx.name, integer=True)
    return sp.Idx(label) if idx.lower is None else sp.Idx(label, (idx.lower, idx.upper))


def shape(expr: Side) -> tuple[sp.Expr, sp.Expr] | None:
    """Rows and columns, or None for a scalar."""
    return tuple(map(sp.sympify, expr.shape)) if expr.is_Matrix else None


def same_shape(one: Side, two: Side) -> bool:
    """Whether two sides have the same shape for every value of the dimensions."""
    a, b = shape(one), shape(two)
    if a is None or b is None:
        return a is b
    return all(sp.expand(x - y) == 0 for x, y in zip(a, b, strict=True))


def require_same_shape(one: Side, two: Side) -> None:
    """Raise Disproved if the shapes differ."""
    if not same_shape(one, two):
        described = ["a scalar" if shape(s) is None else f"of shape {shape(s)}" for s in (one, two)]
        raise Disproved(
            f"the left side is {described[0]}, the right side is {described[1]}; transpose one "
            "side, or take the entry [0, 0] of a 1 x 1 matrix"
        )
