"""Mutants of a claim: small changes that a proof of it must be able to tell from the claim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.matrices.exceptions import ShapeError
from sympy.matrices.expressions.matexpr import MatrixElement

from companion.proof.statement import Side

#: At most this many mutants of one claim are tried; more are thinned out evenly.
MOST_MUTANTS = 48

_MOST_SHOWN = 50


@dataclass(frozen=True)
class Mutant:
    """A changed claim.

    Attributes:
        name: What was changed, in words.
        expr: The changed claim (or one changed entry of it); None if it is not even well formed.
        entry: Row and column of the changed entry of an explicit matrix, or None.
        rewriting: Whether the change could turn out to be another way to write the claim (a
            transposed scalar, renamed indices), which is then not a mutant.
    """

    name: str
    expr: sp.Basic | None
    entry: tuple[int, int] | None = None
    rewriting: bool = False


def mutants(claim: Side, *, zero: bool = False) -> list[Mutant]:
    """All mutants of a claim, at most :data:`MOST_MUTANTS`, in a fixed order.

    Args:
        claim: The side to change.
        zero: The claim is that this side vanishes; then changes that keep a zero (the sign or a
            factor of the whole) are left out.
    """
    found: list[Mutant] = []
    seen: set = set()
    for mutant in _all(claim, zero):
        original = claim if mutant.entry is None else claim[mutant.entry]
        key = (mutant.expr, mutant.entry) if mutant.expr is not None else mutant.name
        if mutant.expr == original or key in seen:
            continue
        seen.add(key)
        found.append(mutant)
    if len(found) <= MOST_MUTANTS:
        return found
    return [found[k * len(found) // MOST_MUTANTS] for k in range(MOST_MUTANTS)]


def _all(claim: Side, zero: bool) -> Iterator[Mutant]:
    if not zero:
        yield Mutant("sign of the whole flipped", -claim)
        yield Mutant("whole doubled", 2 * claim)
    if not isinstance(claim, sp.MatrixBase):
        if not zero:
            yield Mutant("whole replaced by zero", 0 * claim)
        yield from _inside(claim)
        return
    if not zero and claim.rows == claim.cols > 1:
        yield Mutant("whole transposed", claim.T)
    for row in range(claim.rows):
        for col in range(claim.cols):
            yield from _entry(claim[row, col], (row, col), zero)


def _entry(expr: sp.Expr, entry: tuple[int, int], zero: bool) -> Iterator[Mutant]:
    where = f" in entry {list(entry)}"
    if not zero and expr != 0:
        yield Mutant("sign flipped" + where, -expr, entry)
        yield Mutant("value doubled" + where, 2 * expr, entry)
        yield Mutant("value replaced by zero" + where, sp.S.Zero, entry)
    for mutant in _inside(expr):
        yield Mutant(mutant.name + where, mutant.expr, entry, mutant.rewriting)


def _inside(expr: sp.Basic) -> Iterator[Mutant]:
    """Every local change of every node, the rest of the expression kept."""
    yield from _local(expr)
    if isinstance(expr, sp.BlockMatrix):
        yield from _blocks(expr)
        return
    for position in _children(expr):
        for mutant in _inside(expr.args[position]):
            if mutant.expr is None:
                yield mutant
                continue
            yield _attempt(
                mutant.name,
                lambda p=position, m=mutant: _with_argument(expr, p, m.expr),
                mutant.rewriting,
            )


def _blocks(expr: sp.BlockMatrix) -> Iterator[Mutant]:
    rows, cols = expr.blockshape
    for row in range(rows):
        for col in range(cols):
            block = expr.blocks[row, col]
            where = f" in block {[row, col]}"
            changed = [] if block.is_ZeroMatrix else [
                Mutant("sign flipped", -block),
                Mutant("value replaced by zero", 0 * block),
            ]  # fmt: skip
            for mutant in (*changed, *_inside(block)):
                if mutant.expr is None:
                    yield Mutant(mutant.name + where, None)
                    continue
                yield _attempt(
                    mutant.name + where,
                    lambda r=row, c=col, m=mutant: _with_block(expr, r, c, m.expr),
                    mutant.rewriting,
                )


def _with_block(expr: sp.BlockMatrix, row: int, col: int, new: sp.Basic) -> sp.BlockMatrix:
    rows, cols = expr.blockshape
    blocks = [[expr.blocks[r, c] for c in range(cols)] for r in range(rows)]
    blocks[row][col] = new
    return sp.BlockMatrix(blocks)


def _with_argument(expr: sp.Basic, position: int, new: sp.Basic) -> sp.Basic:
    args = (*expr.args[:position], new, *expr.args[position + 1 :])
    if isinstance(expr, (sp.MatMul, sp.MatAdd)):
        return expr.func(*args).doit(deep=False)
    return expr.func(*args)


def _attempt(name: str, build, rewriting: bool = False) -> Mutant:
    try:
        return Mutant(name, build(), rewriting=rewriting)
    except (ShapeError, ValueError, TypeError):
        return Mutant(name, None, rewriting=rewriting)


def _children(expr: sp.Basic) -> range | list[int]:
    """Positions of the arguments into which mutation descends."""
    binders = (sp.Sum, sp.Product, sp.Integral, sp.Derivative, sp.Limit, sp.Subs)
    if isinstance(expr, (*binders, sp.Pow)):
        return [0]
    leaves = (sp.Indexed, MatrixElement, sp.KroneckerDelta, sp.MatrixSymbol, sp.MatrixBase,
              sp.Identity, sp.ZeroMatrix, sp.Piecewise)  # fmt: skip
    if isinstance(expr, leaves) or (isinstance(expr, sp.Transpose) and _is_factor(expr.arg)):
        return []
    return [k for k, a in enumerate(expr.args) if isinstance(a, (sp.Expr, sp.MatrixBase))]


def _local(expr: sp.Basic) -> Iterator[Mutant]:
    for kind, rule in _RULES:
        if isinstance(expr, kind):
            yield from rule(expr)


def _terms(expr: sp.Add) -> Iterator[Mutant]:
    for k, term in enumerate(expr.args):
        shown = _shown(term)
        flipped = (*expr.args[:k], -term, *expr.args[k + 1 :])
        dropped = (*expr.args[:k], *expr.args[k + 1 :])
        yield Mutant(f"sign of the term {shown} flipped", _sum(expr, flipped))
        yield Mutant(f"term {shown} dropped", _sum(expr, dropped))


def _sum(expr: sp.Add, terms: tuple) -> sp.Basic:
    return expr.func(*terms).doit(deep=False) if expr.is_Matrix else expr.func(*terms)


def _factors(expr: sp.Mul) -> Iterator[Mutant]:
    """Adjacent factors that need not commute, swapped."""
    args = list(expr.args)
    ordered = [k for k, a in enumerate(args) if a.is_Matrix or not a.is_commutative]
    for one, two in pairwise(ordered):
        swapped = list(args)
        swapped[one], swapped[two] = args[two], args[one]
        name = f"factors {_shown(args[one])} and {_shown(args[two])} swapped"
        yield _attempt(name, lambda s=swapped: _rebuilt_product(expr, s), rewriting=True)


def _rebuilt_product(expr: sp.Mul, args: list) -> sp.Basic:
    return expr.func(*args).doit(deep=False) if expr.is_Matrix else expr.func(*args)


def _is_factor(expr: sp.Basic) -> bool:
    return isinstance(expr, (sp.MatrixSymbol, sp.MatrixBase))


def _transposed(expr: sp.Basic) -> Iterator[Mutant]:
    yield Mutant(f"{_shown(expr)} transposed", expr.T, rewriting=True)


def _untransposed(expr: sp.Transpose) -> Iterator[Mutant]:
    if _is_factor(expr.arg):
        yield Mutant(f"transpose of {_shown(expr.arg)} dropped", expr.arg, rewriting=True)


def _indices(expr: sp.Indexed) -> Iterator[Mutant]:
    indices = list(expr.indices)
    for k in range(len(indices) - 1):
        swapped = [*indices[:k], indices[k + 1], indices[k], *indices[k + 2 :]]
        name = f"indices of {_shown(expr)} swapped"
        base = expr.base if isinstance(expr, sp.Indexed) else expr.parent
        yield _attempt(name, lambda b=base, s=swapped: b[tuple(s)], rewriting=True)


def _bounds(expr: sp.Integral | sp.Sum | sp.Product) -> Iterator[Mutant]:
    for k, limit in enumerate(expr.limits):
        variable, lower, upper = limit
        changes = {
            "lower limit raised by one": (lower + 1, upper),
            "upper limit lowered by one": (lower, upper - 1),
        }
        if isinstance(expr, sp.Integral):
            changes = {"limits reversed": (upper, lower), **changes}
        for what, (a, b) in changes.items():
            if {a, b} & {sp.oo, -sp.oo} and (a, b) in ((lower, upper), (upper, lower)):
                if what != "limits reversed":
                    continue
            limits = [*expr.limits[:k], (variable, a, b), *expr.limits[k + 1 :]]
            yield Mutant(
                f"{what} for {variable} in the {type(expr).__name__.lower()}",
                expr.func(expr.function, *limits),
            )


def _variables(expr: sp.Derivative) -> Iterator[Mutant]:
    """The derivative taken with respect to another argument of the same function."""
    if not isinstance(expr.expr, AppliedUndef):
        return
    candidates = [a for a in expr.expr.args if a._diff_wrt]
    for k, (variable, count) in enumerate(expr.variable_count):
        for other in candidates:
            if other == variable:
                continue
            changed = [*expr.variable_count[:k], (other, count), *expr.variable_count[k + 1 :]]
            name = f"{_shown(expr)} taken with respect to {other} instead of {variable}"
            yield _attempt(name, lambda c=changed: sp.Derivative(expr.expr, *c))


def _shown(expr: sp.Basic) -> str:
    text = " ".join(sp.sstr(expr).split())
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


_RULES = (
    ((sp.Add, sp.MatAdd), _terms),
    ((sp.Mul, sp.MatMul), _factors),
    ((sp.MatrixSymbol, sp.MatrixBase), _transposed),
    (sp.Transpose, _untransposed),
    ((sp.Indexed, MatrixElement), _indices),
    ((sp.Integral, sp.Sum, sp.Product), _bounds),
    (sp.Derivative, _variables),
)
