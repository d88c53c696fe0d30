r"""Exact real numbers that are not rational: the elements of :math:`\mathbb{Q}(\alpha)`.

The coefficients of a Gauss or Radau method contain square roots, those of Kvaerno's methods a
root of a cubic.  Every such number is :math:`q_0 + q_1 \alpha + q_2 \alpha^2` with rational
:math:`q_k` and one fixed root :math:`\alpha` of an irreducible polynomial, and sums, products and
quotients are of that form again.  Two of them are equal exactly if all their :math:`q_k` are, so
an order condition can be decided rather than measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import repeat, zip_longest
from math import lcm, prod

#: Binary digits of the root that floats are computed from: far more than a float has.
_DIGITS = 320
#: Modulo one of these an irreducible polynomial of degree 2 or 3 has no root, so it has none in Q.
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)

Coefficients = tuple[Fraction, ...]


@dataclass(frozen=True)
class NumberField:
    r"""The field :math:`\mathbb{Q}(\alpha)` of a real root of a polynomial of degree 2 or 3.

    Args:
        polynomial: coefficients of :math:`1, x, x^2` and, for a cubic, :math:`x^3`; irreducible
            over the rationals.
        near: a number from which Newton's method finds the root.
        name: how the root is printed; an expression that a computer algebra system can read.

    Raises:
        ValueError: if the polynomial has another degree, or cannot be seen to be irreducible.
    """

    polynomial: Coefficients
    near: float
    name: str

    def __post_init__(self) -> None:
        if self.degree not in (2, 3) or not self.polynomial[-1]:
            raise ValueError(f"polynomial must have degree 2 or 3, got {self.polynomial}")
        if not any(_no_root_modulo(p, self.polynomial) for p in _PRIMES):
            raise ValueError(f"polynomial {self.polynomial} is not irreducible over the rationals")

    @property
    def degree(self) -> int:
        return len(self.polynomial) - 1

    @property
    def generator(self) -> Algebraic:
        return Algebraic(self, (Fraction(0), Fraction(1)) + (Fraction(0),) * (self.degree - 2))

    @cached_property
    def root(self) -> Fraction:
        """The root to 320 binary digits."""
        slope = [k * q for k, q in enumerate(self.polynomial)][1:]
        x, scale = Fraction(self.near), 1 << _DIGITS
        for _ in range(100):
            rise = _horner(slope, x)
            if not rise:
                break
            last, x = x, x - _horner(self.polynomial, x) / rise
            x = Fraction(round(x * scale), scale)
            if abs(x - last) <= Fraction(1, scale):
                return x
        raise ValueError(f"near={self.near} does not lead to a root of {self.polynomial}")

    def element(self, coefficients: Sequence[Fraction]) -> Algebraic | Fraction:
        r"""The number with these coefficients of :math:`1, \alpha, \alpha^2, \ldots`.

        Powers from the degree on are reduced; what turns out rational comes as a Fraction.
        """
        q = list(coefficients)
        *low, lead = self.polynomial
        while len(q) > self.degree:
            top = q.pop() / lead
            for k, p in enumerate(low, len(q) - self.degree):
                q[k] -= top * p
        if not any(q[1:]):
            return Fraction(q[0])
        return Algebraic(self, tuple(q) + (Fraction(0),) * (self.degree - len(q)))


@dataclass(frozen=True, repr=False)
class Algebraic:
    """An irrational element of a number field; see `NumberField.element`.

    It adds, multiplies and compares with int, Fraction and elements of the same field.
    """

    field: NumberField
    coefficients: Coefficients

    def _combine(self, other: object, rule: Callable[[Coefficients, Coefficients], list]):
        q = self._coerce(other)
        return NotImplemented if q is None else self.field.element(rule(self.coefficients, q))

    def _coerce(self, other: object) -> Coefficients | None:
        if isinstance(other, (int, Fraction)):
            return (Fraction(other),)
        if not isinstance(other, Algebraic):
            return None
        if other.field != self.field:
            raise ValueError(f"numbers of different fields: {self} and {other}")
        return other.coefficients

    def __add__(self, other: object):
        return self._combine(other, _sum)

    __radd__ = __add__

    def __mul__(self, other: object):
        return self._combine(other, _product)

    __rmul__ = __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other: object):
        return self + -1 * other

    def __rsub__(self, other: object):
        return -self + other

    def __truediv__(self, other: object):
        if isinstance(other, (int, Fraction)):
            return self * Fraction(1, other)
        return self * other.inverse() if isinstance(other, Algebraic) else NotImplemented

    def __rtruediv__(self, other: object):
        return self.inverse() * other

    def __pow__(self, exponent: int):
        base = self if exponent >= 0 else self.inverse()
        return prod(repeat(base, abs(exponent)), start=Fraction(1))

    def __float__(self) -> float:
        return float(_horner(self.coefficients, self.field.root))

    def __repr__(self) -> str:
        powers = ("", f"*{self.field.name}", f"*{self.field.name}**2")
        terms = [f"{q}{power}" for q, power in zip(self.coefficients, powers, strict=False) if q]
        return " + ".join(terms).replace("+ -", "- ")

    def inverse(self) -> Algebraic:
        """One over the number, from Euclid's algorithm for its polynomial and the field's."""
        a, b = list(self.field.polynomial), _trim(self.coefficients)
        # The loop keeps b = v * self modulo the field's polynomial until b is a constant.
        u: list[Fraction] = [Fraction(0)]
        v: list[Fraction] = [Fraction(1)]
        while len(b) > 1:
            quotient, remainder = _divide(a, b)
            negative = [-q for q in _product(quotient, v)]
            a, b, u, v = b, remainder, v, _sum(u, negative)
        return self.field.element([q / b[0] for q in v])


def sqrt(n: int | Fraction) -> Algebraic:
    """The square root of a positive rational number that is not a square.

    Raises:
        ValueError: if ``n`` is negative or its root is rational.
    """
    if n < 0:
        raise ValueError(f"sqrt needs a positive number, got {n}")
    n = Fraction(n)
    return NumberField((-n, Fraction(0), Fraction(1)), float(n) ** 0.5, f"sqrt({n})").generator


def _no_root_modulo(p: int, polynomial: Sequence[Fraction]) -> bool:
    r"""Whether the monic integer polynomial of :math:`L \alpha` has no root modulo p.

    With L the leading coefficient after clearing denominators, :math:`L \alpha` is a root of a
    monic integer polynomial, whose rational roots are integers.
    """
    scale = lcm(*(q.denominator for q in map(Fraction, polynomial)))
    *low, lead = [int(q * scale) for q in polynomial]
    n = len(low)
    monic = [q * lead ** (n - 1 - k) for k, q in enumerate(low)] + [1]
    return all(_horner(monic, x) % p for x in range(p))


def _horner(coefficients: Sequence, x):
    value = 0
    for q in reversed(coefficients):
        value = value * x + q
    return value


def _sum(p: Sequence[Fraction], q: Sequence[Fraction]) -> list[Fraction]:
    return [x + y for x, y in zip_longest(p, q, fillvalue=Fraction(0))]


def _product(p: Sequence[Fraction], q: Sequence[Fraction]) -> list[Fraction]:
    result = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, x in enumerate(p):
        if x:
            for j, y in enumerate(q):
                result[i + j] += x * y
    return result


def _trim(p: Sequence[Fraction]) -> list[Fraction]:
    result = list(p)
    while not result[-1]:
        result.pop()
    return result


def _divide(a: Sequence[Fraction], b: Sequence[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """Quotient and remainder of polynomials."""
    remainder, quotient = list(a), [Fraction(0)] * (len(a) - len(b) + 1)
    for shift in range(len(a) - len(b), -1, -1):
        quotient[shift] = factor = Fraction(remainder[shift + len(b) - 1]) / b[-1]
        for k, y in enumerate(b):
            remainder[shift + k] -= factor * y
    return quotient, _trim(remainder)
