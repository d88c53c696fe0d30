"""The decision on which every proof rests: is the difference of two sides exactly zero?

Only an exact structural zero counts: the rewritten difference *is* the SymPy object 0.  Each
rewriting is an identity wherever both sides are defined; no ``force=True``, no replacing of
symbols by positive ones, no numerical test.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from companion.proof.integrals import BASE
from companion.proof.normal import normal
from companion.proof.statement import Side
from companion.proof.sums import collect
from companion.proof.words import indexed, words


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
    if all(_scalar(c) == 0 for c in words(derived - claimed).values()):
        return sp.S.Zero
    if all(size.is_Integer for size in map(sp.sympify, derived.shape)):
        explicit = [_explicit(s) for s in (derived, claimed)]
        if None not in explicit:
            return _entries(*explicit)
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
    reduced = normal(expanded)
    yield reduced
    if reduced.has(sp.Trace):
        reduced = normal(indexed(reduced))
        yield reduced
    if not reduced.is_commutative:
        return
    yield collect(normal(sp.numer(sp.together(reduced))))
    yield sp.expand(reduced.rewrite(sp.exp))
    yield sp.simplify(reduced)
    evaluated = normal(sp.expand(difference.doit()))
    yield evaluated
    yield sp.simplify(evaluated)
