"""Normal form of sums over indices of any range: Sum, Indexed, KroneckerDelta.

Products of sums become multiple sums, sums distribute over addition, Kronecker deltas are
contracted (only where the remaining index is known to lie in the range of the contracted one),
factors without a bound index leave the sum, and bound indices get canonical names, so that two
sums that differ by renaming, by the order of summation or by its direction become the same
expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, permutations, product
from math import factorial, prod

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.matrices.expressions.matexpr import MatrixElement

Limit = tuple[sp.Symbol, sp.Expr, sp.Expr]

_CANONICAL = [sp.Dummy(f"k{n}", integer=True) for n in range(64)]
_LEVEL = {dummy: n for n, dummy in enumerate(_CANONICAL)}
_MOST_EXPLICIT_TERMS = 50
_MOST_ORDERS = 120
_MOST_REFLECTED = 4


def collect(expr: sp.Expr) -> sp.Expr:
    """Expand an expression whose arguments are normal and bring its sums to normal form."""
    expr = sp.expand(expr)
    if not expr.has(sp.Sum, sp.KroneckerDelta):
        return expr
    return sp.Add(*(piece for term in sp.Add.make_args(expr) for piece in _merge(term, ())))


def normal_sum(body: sp.Expr, limits: tuple[Limit, ...]) -> sp.Expr:
    """Normal form of a finite sum whose body and bounds are normal; innermost limit first."""
    *inner, (index, lower, upper) = limits
    fresh = sp.Dummy(str(index), integer=True)
    body = body.xreplace({index: fresh})
    inner = tuple((i, a.xreplace({index: fresh}), b.xreplace({index: fresh})) for i, a, b in inner)
    if inner:
        body = normal_sum(body, inner)
    if lower.is_Integer and upper.is_Integer and abs(upper - lower) <= _MOST_EXPLICIT_TERMS:
        return collect(_explicit(body, fresh, int(lower), int(upper)))
    body = collect(body)
    limit = ((fresh, lower, upper),)
    return sp.Add(*(piece for term in sp.Add.make_args(body) for piece in _merge(term, limit)))


def _explicit(body: sp.Expr, index: sp.Symbol, lower: int, upper: int) -> sp.Expr:
    # Karr's convention, as in SymPy: a sum from m to n < m is minus the sum from n+1 to m-1.
    sign = 1
    if upper < lower:
        sign, lower, upper = -1, upper + 1, lower - 1
    return sign * sp.Add(*(body.xreplace({index: sp.Integer(k)}) for k in range(lower, upper + 1)))


def _merge(term: sp.Expr, limits: tuple[Limit, ...]) -> Iterator[sp.Expr]:
    """Pull the sums among the factors of one term into one multiple sum."""
    factors, found = [], list(limits)
    for factor in sp.Mul.make_args(term):
        base, exponent = factor.as_base_exp()
        if _is_finite_sum(base) and exponent.is_Integer and exponent > 0:
            for _ in range(int(exponent)):
                body, inner = renamed_apart(base)
                factors.append(body)
                found = [*inner, *found]
        else:
            factors.append(factor)
    if not found:
        yield _contract_free(term)
        return
    for piece in sp.Add.make_args(sp.expand(sp.Mul(*factors))):
        if _has_sum_factor(piece):
            yield from _merge(piece, tuple(found))
        else:
            yield from _single(piece, tuple(found))


def _has_sum_factor(term: sp.Expr) -> bool:
    for factor in sp.Mul.make_args(term):
        base, exponent = factor.as_base_exp()
        if _is_finite_sum(base) and exponent.is_Integer and exponent > 0:
            return True
    return False


def _is_finite_sum(expr: sp.Expr) -> bool:
    # The order of an infinite sum matters, so those stay as they are.
    return isinstance(expr, sp.Sum) and not is_infinite(expr.limits)


def is_infinite(limits: tuple) -> bool:
    """Whether a bound of one of the limits is infinite."""
    return any(bound.has(sp.oo, -sp.oo) for _, *bounds in limits for bound in bounds)


def renamed_apart(total: sp.Sum) -> tuple[sp.Expr, tuple[Limit, ...]]:
    """Summand and limits of a sum with indices that occur nowhere else."""
    names = {limit[0]: sp.Dummy(str(limit[0]), integer=True) for limit in total.limits}
    limits = tuple((names[i], a.xreplace(names), b.xreplace(names)) for i, a, b in total.limits)
    return total.function.xreplace(names), limits


def _single(term: sp.Expr, limits: tuple[Limit, ...]) -> Iterator[sp.Expr]:
    """One product of factors under one multiple sum."""
    if term == 0:
        return
    contracted = _contract(term, limits)
    if contracted is not None:
        term, limits = contracted
        if limits:
            yield from _single(term, limits)
        else:
            yield _contract_free(term)
        return
    for position, (index, lower, upper) in enumerate(limits):
        rest = limits[:position] + limits[position + 1 :]
        if not term.has(index) and not _bounds_have(rest, index):
            counted = sp.expand(term * (upper - lower + 1))
            for piece in sp.Add.make_args(counted):
                if rest:
                    yield from _single(piece, rest)
                else:
                    yield piece
            return
    term = _contract_free(term)
    indices = {limit[0] for limit in limits}
    outside, inside = [], []
    for factor in sp.Mul.make_args(term):
        free = factor.is_commutative and not factor.has(*indices)
        (outside if free else inside).append(factor)
    yield sp.Mul(*outside, _canonical(sp.Mul(*inside), limits))


def _bounds_have(limits: tuple[Limit, ...], index: sp.Symbol) -> bool:
    return any(bound.has(index) for _, *bounds in limits for bound in bounds)


def _contract(term: sp.Expr, limits: tuple[Limit, ...]) -> tuple | None:
    """Remove one bound index that a Kronecker delta ties to an index in the same range."""
    factors = sp.Mul.make_args(term)
    for position, factor in enumerate(factors):
        base, exponent = factor.as_base_exp()
        if not (isinstance(base, sp.KroneckerDelta) and exponent.is_Integer and exponent > 0):
            continue
        difference = sp.expand(base.args[0] - base.args[1])
        for index, lower, upper in limits:
            rest = tuple(limit for limit in limits if limit[0] != index)
            if _bounds_have(rest, index):
                continue
            # If the difference is (index - other) or (other - index), this removes the index.
            other = sp.expand(index - difference.coeff(index) * difference)
            if not other.has(index) and _in_range(other, lower, upper, rest):
                remaining = sp.Mul(*factors[:position], *factors[position + 1 :])
                if _bound_in(remaining) & {index, *other.free_symbols}:
                    continue
                return remaining.xreplace({index: other}), rest
    return None


def _bound_in(expr: sp.Expr) -> set[sp.Basic]:
    """Variables that limits, substitutions, sums and integrals inside bind.

    Renaming one of them, or renaming to one of them, would change what the expression says.
    """
    bound: set[sp.Basic] = set()
    for node in sp.preorder_traversal(expr):
        if isinstance(node, sp.Limit):
            bound.add(node.args[1])
        elif isinstance(node, sp.Subs) or hasattr(node, "limits"):
            bound.update(node.variables)
    return bound


def _in_range(expr: sp.Expr, lower: sp.Expr, upper: sp.Expr, limits: tuple[Limit, ...]) -> bool:
    """Whether lower <= expr <= upper holds for certain; expr is affine in each index it has.

    Each index is replaced by the end of its range at which expr is least, or greatest.
    """
    if not expr.is_integer:
        return False
    known = {index: (a, b) for index, a, b in limits}
    for idx in expr.atoms(sp.Idx):
        if idx.lower is not None and idx.upper is not None:
            known[idx] = (idx.lower, idx.upper)
    least, greatest = {}, {}
    for name in (index for index in known if expr.has(index)):
        slope = expr.coeff(name)
        if sp.expand(expr - slope * name).has(name):
            return False
        if slope.is_nonnegative:
            least[name], greatest[name] = known[name]
        elif slope.is_nonpositive:
            greatest[name], least[name] = known[name]
    below = sp.expand(expr.xreplace(least) - lower)
    above = sp.expand(upper - expr.xreplace(greatest))
    return bool(below.is_nonnegative and above.is_nonnegative)


def _contract_free(term: sp.Expr) -> sp.Expr:
    """Write delta(i, j) F(j) as delta(i, j) F(i), for deltas that stay, and delta^n as delta."""
    if not term.has(sp.KroneckerDelta):
        return term
    factors = list(sp.Mul.make_args(term))
    for position, factor in enumerate(factors):
        base, exponent = factor.as_base_exp()
        if not (isinstance(base, sp.KroneckerDelta) and exponent.is_Integer and exponent > 0):
            continue
        factors[position] = delta = _centred(base)
        if all(isinstance(k, (sp.Symbol, sp.Idx)) for k in delta.args[:2]):
            keep, drop = sorted(delta.args[:2], key=sp.default_sort_key)
            if _bound_in(term) & {keep, drop}:
                continue
            factors = [
                f if k == position else f.xreplace({drop: keep}) for k, f in enumerate(factors)
            ]
    return sp.Mul(*factors)


def _canonical(body: sp.Expr, limits: tuple[Limit, ...]) -> sp.Expr:
    """The sum with canonical index names; deeper sums inside the body keep theirs."""
    start = 1 + max((_LEVEL[d] for d in body.atoms(sp.Dummy) if d in _LEVEL), default=-1)
    if start + len(limits) > len(_CANONICAL):
        return sp.Sum(body, *limits)
    names = _CANONICAL[start : start + len(limits)]
    indices = {limit[0] for limit in limits}
    nested = any(b.has(*indices) for _, *bounds in limits for b in bounds)
    orders = [limits] if nested else _orders(limits)
    bodies = [body] if nested else _reflections(body, limits)
    written = []
    for order, turned in product(orders, bodies):
        renaming = {limit[0]: name for limit, name in zip(order, names, strict=True)}
        renamed = _with_centred_deltas(turned.xreplace(renaming))
        new = [(renaming[i], a.xreplace(renaming), b.xreplace(renaming)) for i, a, b in order]
        written.append((_falling(turned, indices), str(renamed), renamed, new))
    *_, body, limits = min(written, key=lambda item: item[:2])
    return _known(sp.Sum(body, *limits))


def _orders(limits: tuple[Limit, ...]) -> list[tuple[Limit, ...]]:
    """The limits sorted by their bounds, with those of equal bounds in every order."""
    ordered = sorted(limits, key=_bounds)
    groups = [list(group) for _, group in groupby(ordered, key=_bounds)]
    if prod(factorial(len(group)) for group in groups) > _MOST_ORDERS:
        return [tuple(ordered)]
    return [sum(order, ()) for order in product(*map(permutations, groups))]


def _bounds(limit: Limit) -> tuple[str, str]:
    return str(limit[1]), str(limit[2])


def _reflections(body: sp.Expr, limits: tuple[Limit, ...]) -> list[sp.Expr]:
    """The summand with some of its indices run through from the other end.

    Those are tried that an entry has with a minus sign, as in ``w[n - k]``.
    """
    bodies = [body]
    falling = [limit for limit in limits if _falling(body, {limit[0]})]
    for index, lower, upper in falling[:_MOST_REFLECTED]:
        captured = _bound_in(body) & (lower.free_symbols | upper.free_symbols)
        if not captured:
            other_end = {index: lower + upper - index}
            bodies += [_with_expanded_indices(b.xreplace(other_end)) for b in bodies]
    return bodies


def _falling(body: sp.Expr, indices: set[sp.Symbol]) -> int:
    """How often one of the indices has a minus sign in the index of an entry."""
    positions = [sp.expand(p) for entry in body.atoms(sp.Indexed) for p in entry.indices]
    return sum(bool(p.coeff(index).is_negative) for p in positions for index in indices)


def _with_expanded_indices(body: sp.Expr) -> sp.Expr:
    entries = body.atoms(sp.Indexed)
    return body.xreplace({e: e.func(e.base, *map(sp.expand, e.indices)) for e in entries})


def _with_centred_deltas(body: sp.Expr) -> sp.Expr:
    return body.xreplace({delta: _centred(delta) for delta in body.atoms(sp.KroneckerDelta)})


def _centred(delta: sp.KroneckerDelta) -> sp.Expr:
    """Write delta(i + 1, j + 1) as delta(i, j), and delta(i + k, j) as delta(0, i + k - j)."""
    i, j = delta.args[:2]
    difference = sp.expand(i - j)
    if difference.could_extract_minus_sign():
        difference = -difference
    symbols = [s for s in difference.free_symbols if isinstance(s, (sp.Symbol, sp.Idx))]
    if len(symbols) == 2 and any(difference == a - b for a, b in permutations(symbols)):
        return sp.KroneckerDelta(*symbols)
    return sp.KroneckerDelta(0, difference)


def _known(total: sp.Sum) -> sp.Expr:
    """The closed form, for a single sum of known functions of the index (say, of k**2)."""
    if len(total.limits) > 1 or not is_known(total.function):
        return total
    closed = total.doit()
    return total if closed.has(sp.Sum, sp.Piecewise) else closed


def is_known(body: sp.Expr) -> bool:
    """Whether a summand is built from known functions alone."""
    unknown = (sp.Indexed, MatrixElement, AppliedUndef, sp.KroneckerDelta, sp.Sum, sp.Product,
               sp.Integral, sp.Derivative)  # fmt: skip
    return bool(body.is_commutative) and not body.has(*unknown)


def canonical_product(product: sp.Product) -> sp.Product:
    """A product with canonical names for its indices, in the order that it has."""
    body, limits = product.function, product.limits
    others = body.atoms(sp.Dummy) - {limit[0] for limit in limits}
    start = 1 + max((_LEVEL[d] for d in others if d in _LEVEL), default=-1)
    if start + len(limits) > len(_CANONICAL):
        return product
    renaming = dict(zip((limit[0] for limit in limits), _CANONICAL[start:], strict=False))
    return product.func(*(part.xreplace(renaming) for part in (body, *limits)))
