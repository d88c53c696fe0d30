"""Division with remainder: floors, ceilings and remainders of fractions of polynomials.

``floor(a/b)`` is the integer ``q`` if ``0 <= a - b q < b``.  A quotient is guessed by dividing
polynomials and accepted only where SymPy's assumptions certify the two inequalities for all values
of the symbols: with q, r, t nonnegative integers, ``floor((q s + r)/s)`` is q for s = r + t + 1,
since ``s - r = t + 1`` is positive; for an s without a known distance to r it stays a floor.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp


def normal_division(expr: sp.Expr) -> sp.Expr:
    """The quotient or the remainder that a floor, a ceiling or a Mod is certain to be.

    Args:
        expr: What SymPy left unevaluated of them; anything else is returned as it is.

    Returns:
        A polynomial, or the expression itself where nothing is certain.
    """
    if isinstance(expr, sp.floor):
        found = _quotient(*sp.fraction(sp.together(expr.args[0])))
    elif isinstance(expr, sp.ceiling):
        numerator, divisor = sp.fraction(sp.together(expr.args[0]))
        found = _quotient(-numerator, divisor)
        found = None if found is None else -found
    elif isinstance(expr, sp.Mod):
        found = _quotient(*expr.args)
        found = None if found is None else expr.args[0] - found * expr.args[1]
    else:
        return expr
    return expr if found is None else sp.expand(found)


def _quotient(numerator: sp.Expr, divisor: sp.Expr) -> sp.Expr | None:
    """The floor of a fraction, if one of the guesses is certified."""
    numerator, divisor = sp.expand(numerator), sp.expand(divisor)
    if not divisor.is_positive:
        return None
    for quotient in _guesses(numerator, divisor):
        remainder = sp.expand(numerator - quotient * divisor)
        left = sp.expand(divisor - remainder)
        if quotient.is_integer and remainder.is_nonnegative and left.is_positive:
            return quotient
    return None


def _guesses(numerator: sp.Expr, divisor: sp.Expr) -> Iterator[sp.Expr]:
    """Quotients of polynomials in each symbol of the divisor, with a remainder of either sign."""
    for symbol in sorted(divisor.free_symbols, key=lambda s: s.name):
        try:
            quotient = sp.expand(sp.quo(numerator, divisor, symbol))
        except sp.PolynomialError:
            continue
        yield from (quotient, quotient - 1)
