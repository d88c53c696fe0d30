"""Certified decisions about exact numbers: is this value different from zero?"""

from __future__ import annotations

import sympy as sp

_DIGITS = 20


def is_certainly_nonzero(number: sp.Expr) -> bool:
    """True only if an exact number is certainly different from zero.

    A rational number is compared exactly.  For any other number, SymPy's assumption system or an
    evaluation to 20 correct digits (``evalf(strict=True)``, which raises instead of returning
    digits that it cannot vouch for) decides.  False means "zero or not known".
    """
    number = sp.expand(number)
    if number.is_Rational:
        return number != 0
    return number.is_zero is False or any(
        _is_certainly_nonzero_real(part) for part in number.as_real_imag()
    )


def _is_certainly_nonzero_real(number: sp.Expr) -> bool:
    if number.is_Rational:
        return number != 0
    try:
        digits = number.evalf(_DIGITS, strict=True)
    except (sp.core.evalf.PrecisionExhausted, ValueError, TypeError):
        return False
    return bool(digits.is_Float and digits != 0)
