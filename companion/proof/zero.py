"""The decision on which every proof rests: is the difference of two sides exactly zero?

Only an exact structural zero counts: the rewritten difference *is* the SymPy object 0.  Each
rewriting is an identity wherever both sides are defined; no ``force=True``, no replacing of
symbols by positive ones, no numerical test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sympy as sp
from sympy.core.assumptions import assumptions as assumptions_of
from sympy.core.function import AppliedUndef
from sympy.matrices.expressions.matexpr import MatrixElement

from companion.proof.integrals import BASE
from companion.proof.normal import normal
from companion.proof.statement import Side
from companion.proof.sums import collect, is_infinite
from companion.proof.words import indexed, is_free, words

# What SymPy's simplifier does not look into.
_OPAQUE = (
    AppliedUndef, sp.Indexed, MatrixElement, sp.Derivative, sp.Subs, sp.Limit, sp.Integral,
    sp.Sum, sp.Product, sp.Trace, sp.Determinant,
)  # fmt: skip


def residual(derived: Side, claimed: Side) -> Side:
    """Zero if the two sides are equal, else what is left of their difference.

    Args:
        derived: One side; both sides have the same shape.
        claimed: The other side.

    Returns:
        The SymPy object 0 if equality was reached.  Anything else decides nothing.
    """
    if not derived.is_Matrix:
        return _scalar(derived - claimed)
    if isinstance(derived, sp.MatrixBase) and isinstance(claimed, sp.MatrixBase):
        return _entries(derived, claimed)
    return _matrix(derived, claimed)


def _entries(derived: sp.MatrixBase, claimed: sp.MatrixBase) -> sp.Expr:
    for one, two in zip(derived, claimed, strict=True):
        left = _scalar(one - two)
        if left != 0:
            return left
    return sp.S.Zero


def _matrix(derived: Side, claimed: Side) -> Side:
    if derived == claimed:
        return sp.S.Zero
    combination = words(derived - claimed)
    if all(_scalar(c) == 0 for c in combination.values()):
        return sp.S.Zero
    if all(size.is_Integer for size in map(sp.sympify, derived.shape)):
        explicit = [_explicit(s) for s in (derived, claimed)]
        if None not in explicit:
            return _entries(*explicit)
    if all(is_free(letter) for word in combination for letter in word):
        return derived - claimed  # nothing more can be known about independent symbols
    blocks = [sp.block_collapse(s) for s in (derived, claimed)]
    if all(isinstance(b, sp.BlockMatrix) for b in blocks):
        one, two = blocks
        if one.rowblocksizes == two.rowblocksizes and one.colblocksizes == two.colblocksizes:
            for p, q in zip(one.blocks, two.blocks, strict=True):
                left = _matrix(p, q)
                if left != 0:
                    return left
            return sp.S.Zero
    row = sp.Idx("i", (0, derived.rows - 1))
    column = sp.Idx("j", (0, derived.cols - 1))
    return _scalar(derived[row, column] - claimed[row, column])


def _explicit(expr: Side) -> sp.ImmutableDenseMatrix | None:
    try:
        return expr.as_explicit()
    except (ValueError, AttributeError, NotImplementedError):
        return None


def _scalar(difference: sp.Expr) -> sp.Expr:
    shown = difference
    for form in _forms(difference):
        if form == 0:
            return sp.S.Zero
        if not form.has(BASE):
            shown = form
    return shown


def _forms(difference: sp.Expr) -> Iterator[sp.Expr]:
    """Equal forms of a difference, cheap ones first."""
    yield difference
    expanded = sp.expand(difference)
    yield expanded
    reduced = _attempted(normal, expanded)
    yield reduced
    if reduced.has(sp.Trace):
        reduced = _attempted(normal, indexed(reduced))
        yield reduced
    if not reduced.is_commutative:
        return
    yield collect(_attempted(normal, sp.numer(sp.together(reduced))))
    yield _hidden(reduced, lambda expr: sp.expand(expr.rewrite(sp.exp)))
    yield _hidden(reduced, _simplified)
    yield _attempted(normal, _with_simplified_bodies(reduced))
    if not difference.has(AppliedUndef, sp.Indexed, MatrixElement, sp.Derivative, sp.Trace):
        evaluated = _attempted(normal, sp.expand(_attempted(sp.Expr.doit, difference)))
        yield evaluated
        yield _hidden(evaluated, _simplified)


def _simplified(expr: sp.Expr) -> sp.Expr:
    return _attempted(sp.simplify, expr)


def _attempted(operation: Callable[[sp.Expr], sp.Expr], expr: sp.Expr) -> sp.Expr:
    """What SymPy makes of an expression; the expression itself where it fails."""
    try:
        return operation(expr)
    except (RecursionError, NotImplementedError, ArithmeticError, ValueError, TypeError,
            sp.PolynomialError):  # fmt: skip
        return expr


def _hidden(expr: sp.Expr, operation: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
    """Apply an operation to an expression in which whatever is opaque to it is one symbol.

    SymPy's simplifier would descend into sums and functions, which is slow and sometimes endless.
    An identity in the symbols is an identity in what they stand for.
    """
    names: dict[sp.Expr, sp.Dummy] = {}

    def hide(node: sp.Basic) -> sp.Basic:
        if isinstance(node, _OPAQUE):
            known = {k: v for k, v in assumptions_of(node).items() if k != "commutative"}
            return names.setdefault(node, sp.Dummy("o", **known))
        if not node.args:
            return node
        return node.func(*(hide(a) for a in node.args))

    result = operation(hide(expr))
    return result.xreplace({name: node for node, name in names.items()})


def _with_simplified_bodies(expr: sp.Expr) -> sp.Expr:
    """Sums and integrals with the same limits combined, and their bodies simplified."""
    bodies: dict[tuple, sp.Expr] = {}
    rest = sp.S.Zero
    for term in sp.Add.make_args(expr):
        binders = [f for f in sp.Mul.make_args(term) if isinstance(f, (sp.Sum, sp.Integral))]
        if len(binders) != 1 or is_infinite(binders[0].limits):
            rest += term
            continue
        (binder,) = binders
        key = binder.func, binder.limits
        factor = term.xreplace({binder: sp.S.One})
        bodies[key] = bodies.get(key, sp.S.Zero) + factor * binder.function
    return rest + sp.Add(
        *(func(_hidden(body, _simplified), *limits) for (func, limits), body in bodies.items())
    )
