"""Exact points: every unknown of a statement gets an explicit rational value.

A :class:`Point` is a deterministic instantiation.  Symbols become rationals that respect their
assumptions, undefined functions become polynomials with rational coefficients, matrix symbols and
indexed bases become tables of rationals, dimensions become small integers and noncommutative
symbols become 3 x 3 matrices.  (By Amitsur and Levitzki, an identity between noncommutative
polynomials of degree below 2n that holds for all n x n matrices holds in the free algebra, so
3 x 3 matrices can tell apart any two different polynomials of degree below 6.)

Values are derived from names by SHA-256, so that they are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import sympy as sp
from sympy.core.assumptions import assumptions as assumptions_of
from sympy.matrices.expressions.matexpr import MatrixElement

from companion.proof.errors import Unevaluable

#: Size of the matrices that stand for noncommutative symbols.
NONCOMMUTATIVE_SIZE = 3

_MOST_MONOMIALS = 40

# What a polynomial with rational coefficients can be asked to satisfy at real arguments.
_POLYNOMIAL_TRUE = {
    "commutative", "complex", "real", "finite", "hermitian", "extended_real",
    "positive", "nonnegative", "nonzero", "extended_positive", "extended_nonnegative",
    "extended_nonzero", "negative", "nonpositive", "extended_negative", "extended_nonpositive",
}  # fmt: skip
_POLYNOMIAL_FALSE = _POLYNOMIAL_TRUE - {"complex", "real", "finite", "extended_real"} | {
    "zero", "imaginary", "infinite", "commutative",
}  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """How one point chooses: the sign of symbols, the pattern of dimensions, the field."""

    sign: str
    dimensions: tuple[int, ...]
    gaussian: bool = False


#: The points that are tried, in this order.  Dimensions differ from each other in the first two,
#: so that a missing transpose shows; dimension 1 comes last and never alone.
SCHEMES = (
    Scheme("positive", (2, 3)),
    Scheme("negative", (3, 2)),
    Scheme("mixed", (2,)),
    Scheme("mixed", (3,)),
    Scheme("mixed", (2, 3), gaussian=True),
    Scheme("mixed", (1,)),
)


@dataclass
class Point:
    """One deterministic instantiation of all unknowns.

    Args:
        number: Which of :data:`SCHEMES` is used.
        dimensions: Values of the symbols that stand for dimensions.
        indices: Symbols that occur as an index, with the least value they take.
        degree: Least degree of the polynomials that replace undefined functions.
    """

    number: int
    dimensions: Mapping[sp.Symbol, sp.Integer]
    indices: Mapping[sp.Symbol, int] = field(default_factory=dict)
    degree: int = 3
    used: dict[str, str] = field(default_factory=dict)
    _chosen: dict[tuple, sp.Expr] = field(init=False, repr=False, default_factory=dict)

    @property
    def scheme(self) -> Scheme:
        return SCHEMES[self.number]

    def symbol(self, symbol: sp.Symbol) -> sp.Expr:
        """A value of a plain symbol, or a 3 x 3 matrix for a noncommutative one."""
        if (symbol,) not in self._chosen:
            self._chosen[symbol,] = self._symbol(symbol)
        return self._chosen[symbol,]

    def _symbol(self, symbol: sp.Symbol) -> sp.Expr:
        if symbol in self.dimensions:
            value = self.dimensions[symbol]
        elif symbol in self.indices:
            value = self._index(symbol)
        elif symbol.is_commutative is False:
            size = range(NONCOMMUTATIVE_SIZE)
            value = sp.ImmutableMatrix(
                [[self._rational(f"{symbol.name}[{r},{c}]") for c in size] for r in size]
            )
        else:
            value = self._admissible(symbol.name, symbol.assumptions0, self.scheme.sign)
        self.used[symbol.name] = _written(value)
        return value

    def index(self, name: str, lower: int, upper: int) -> sp.Integer:
        """A value of a free index inside its range."""
        if upper < lower:
            raise Unevaluable(f"the range of the index {name} is empty")
        if (name, lower, upper) in self._chosen:
            return self._chosen[name, lower, upper]
        digit = _draw(f"{self.number}|{name}")[0]
        value = sp.Integer(lower + digit % (upper - lower + 1))
        self.used[name] = sp.sstr(value)
        self._chosen[name, lower, upper] = value
        return value

    def element(self, name: str, indices: tuple[int, ...], assumptions: Mapping) -> sp.Expr:
        """An entry of an indexed base or of a matrix symbol."""
        label = f"{name}[{','.join(map(str, indices))}]"
        value = self._admissible(label, assumptions, "mixed")
        self.used[label] = sp.sstr(value)
        return value

    def function(self, applied: sp.Expr, arguments: tuple[sp.Expr, ...]) -> sp.Expr:
        """The value of an undefined function: a polynomial in its arguments."""
        name = applied.func.__name__
        if applied.is_commutative is False:
            size = range(NONCOMMUTATIVE_SIZE)
            return sp.ImmutableMatrix(
                [[self._polynomial(f"{name}[{r},{c}]", arguments) for c in size] for r in size]
            )
        declared = assumptions_of(applied)
        not_negative = {"prime", "composite"} if declared.get("extended_nonpositive") else set()
        for key, truth in declared.items():
            if key not in (_POLYNOMIAL_TRUE if truth else _POLYNOMIAL_FALSE | not_negative):
                raise Unevaluable(f"no polynomial stands for {name}, declared {key}={truth}")
        if declared.get("extended_real") and any(a.is_real is False for a in arguments):
            raise Unevaluable(f"{name} is declared real but is taken at a complex argument")
        if declared.get("extended_nonpositive"):
            return -self._definite(name, arguments)
        if declared.get("extended_nonnegative") or declared.get("zero") is False:
            return self._definite(name, arguments)
        names = sp.symbols(f"x1:{len(arguments) + 1}")
        if f"{name}({len(arguments)})" not in self.used:
            self.used[f"{name}({len(arguments)})"] = ""
            called = f"{name}({', '.join(map(str, names))})"
            self.used[called] = sp.sstr(self._polynomial(name, names))
        return self._polynomial(name, arguments)

    def describe(self, most: int = 300) -> str:
        """The values that were used, as plain text; long descriptions are cut."""
        dims = {s.name: str(v) for s, v in self.dimensions.items()}
        rest = {k: v for k, v in self.used.items() if v and k not in dims}
        text = ", ".join(f"{k} = {v}" for k, v in [*sorted(dims.items()), *sorted(rest.items())])
        return text if len(text) <= most else text[:most].rsplit(", ", 1)[0] + ", ..."

    def _index(self, symbol: sp.Symbol) -> sp.Expr:
        # Small, to lie within the small dimensions; any integer is admissible.
        least = self.indices[symbol]
        first = _draw(f"{self.number}|{symbol.name}")[0] % 2
        for value in map(sp.Integer, (least + first, least + 1 - first)):
            if _satisfies(value, symbol.assumptions0):
                return value
        return self._admissible(symbol.name, symbol.assumptions0, self.scheme.sign)

    def _polynomial(self, name: str, arguments: tuple[sp.Expr, ...]) -> sp.Expr:
        terms = []
        for monomial in _monomials(len(arguments), self.degree):
            coefficient = self._rational(f"{name}({len(arguments)}){monomial}")
            terms.append(sp.Mul(coefficient, *(arguments[k] for k in monomial)))
        return sp.Add(*terms)

    def _definite(self, name: str, arguments: tuple[sp.Expr, ...]) -> sp.Expr:
        # A positive constant plus positive multiples of squares: positive at real arguments.
        label = f"{name}({len(arguments)})"
        squares = (abs(self._rational(f"{label}{k}")) * x**2 for k, x in enumerate(arguments))
        return sp.Add(abs(self._rational(label)), *squares)

    def _rational(self, label: str) -> sp.Rational:
        p, q, negative, _ = _draw(f"{self.number}|{label}")
        return sp.Rational(-p if negative else p, q)

    def _admissible(self, label: str, assumptions: Mapping, sign: str) -> sp.Expr:
        p, q, negative, other = _draw(f"{self.number}|{label}")
        if sign == "mixed":
            sign = "negative" if negative else "positive"
        s = -1 if sign == "negative" else 1
        ratio = sp.Rational(s * p, q)
        candidates: list[sp.Expr] = [ratio, -ratio]
        if self.scheme.gaussian:
            candidates.insert(0, ratio + sp.I * sp.Rational(other, q))
        integers = (s * p, -s * p, 2 * s * p, -2 * s * p, 2 * s * p + 1, -2 * s * p - 1)
        candidates += [sp.Integer(k) for k in (*integers, 2, 3, 5, 7, 1, -1, 0)]
        candidates += [sp.Rational(1, p + 1), sp.I * ratio, ratio + sp.I, sp.oo, -sp.oo]
        for value in candidates:
            if _satisfies(value, assumptions):
                return value
        declared = ", ".join(f"{k}={v}" for k, v in sorted(assumptions.items()))
        raise Unevaluable(f"no rational value stands for {label}, declared {declared}")


def points(expressions: Iterable[sp.Basic]) -> list[Point]:
    """The points at which a statement about these expressions is evaluated."""
    expressions = list(expressions)
    dimensions = sorted(set().union(*map(_dimensions, expressions)), key=lambda s: s.name)
    indices = _indices(expressions)
    order = max((_order(e) for e in expressions), default=0)
    result = []
    for number, scheme in enumerate(SCHEMES):
        chosen = {}
        for k, symbol in enumerate(dimensions):
            wanted = scheme.dimensions[k % len(scheme.dimensions)]
            value = _dimension(symbol, wanted)
            if value is not None:
                chosen[symbol] = value
        result.append(Point(number, chosen, indices, degree=max(3, order + 2)))
    return result


def _indices(expressions: Iterable[sp.Basic]) -> dict[sp.Symbol, int]:
    """Symbols in index positions; entries of matrices count from 0, sums usually from 1."""
    least: dict[sp.Symbol, int] = {}
    for expr in expressions:
        for node in expr.atoms(sp.Indexed, sp.KroneckerDelta, MatrixElement):
            positions = node.args[1:] if not isinstance(node, sp.KroneckerDelta) else node.args[:2]
            for symbol in _free(positions):
                if isinstance(symbol, sp.Symbol):
                    start = 0 if isinstance(node, MatrixElement) else least.get(symbol, 1)
                    least[symbol] = start
    return least


def _written(value: sp.Expr) -> str:
    return sp.sstr(value.tolist() if isinstance(value, sp.MatrixBase) else value)


def _dimension(symbol: sp.Symbol, wanted: int) -> sp.Integer | None:
    for value in map(sp.Integer, (wanted, 2, 3, 4, 5, 6, 1)):
        if _satisfies(value, symbol.assumptions0):
            return value
    return None


def _satisfies(value: sp.Expr, assumptions: Mapping[str, bool]) -> bool:
    return all(getattr(value, f"is_{k}") is truth for k, truth in assumptions.items())


def _dimensions(expr: sp.Basic) -> set[sp.Symbol]:
    """Symbols that stand for a shape, a range of an index or a bound of a finite sum."""
    found: set[sp.Basic] = set()
    every_bound: set[sp.Basic] = set()
    for node in sp.preorder_traversal(expr):
        if isinstance(node, sp.MatrixExpr) or (isinstance(node, sp.IndexedBase) and node.shape):
            found |= _free(node.shape)
        elif isinstance(node, sp.Idx):
            found |= _free((node.lower, node.upper))
        elif isinstance(node, (sp.Sum, sp.Product)):
            every_bound |= {limit[0] for limit in node.limits}
            found |= _free(part for limit in node.limits for part in limit[1:])
    found -= every_bound - expr.free_symbols
    return {s for s in found if isinstance(s, sp.Symbol) and s.is_commutative}


def _free(parts: Iterable) -> set[sp.Basic]:
    return set().union(*(sp.sympify(p).free_symbols for p in parts if p is not None), set())


def _order(expr: sp.Basic) -> int:
    orders = (int(d.derivative_count) for d in expr.atoms(sp.Derivative) if _numeric_order(d))
    return max(orders, default=0)


def _numeric_order(derivative: sp.Derivative) -> bool:
    return sp.sympify(derivative.derivative_count).is_Integer is True


def _monomials(arity: int, degree: int) -> list[tuple[int, ...]]:
    """Monomials as tuples of argument positions; for many arguments not all mixed ones."""
    if sp.binomial(arity + degree, degree) <= _MOST_MONOMIALS:
        return [
            m for d in range(degree + 1) for m in combinations_with_replacement(range(arity), d)
        ]
    powers = [(k,) * d for k in range(arity) for d in range(1, degree + 1)]
    pairs = [m for m in combinations_with_replacement(range(arity), 2) if m[0] != m[1]]
    return [(), *powers, *pairs]


def _draw(label: str) -> tuple[int, int, bool, int]:
    """A numerator 2..9, a denominator 1..4 that does not divide to 1, a sign, another 1..5."""
    digest = hashlib.sha256(label.encode()).digest()
    p, q = 2 + digest[0] % 8, 1 + digest[1] % 4
    if p == q:
        p += 5
    return p, q, bool(digest[2] & 1), 1 + digest[3] % 5
