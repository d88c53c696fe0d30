"""Numerical agreement in float64, with a bound that could have failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Complex

from companion.proof.errors import BadStatement, CheckFailed, VacuousCheck


@dataclass(frozen=True)
class Array:
    """Numbers in row-major order with their shape."""

    shape: tuple[int, ...]
    numbers: tuple[complex, ...]


@dataclass(frozen=True)
class Bound:
    """The bound ``|measured - expected| <= atol + rtol * |expected|``, entry by entry."""

    rtol: float
    atol: float

    def __str__(self) -> str:
        if not self.atol:
            return f"relative error <= {_power(self.rtol)}"
        if not self.rtol:
            return f"absolute error <= {_power(self.atol)}"
        return f"error <= {_power(self.atol)} + {_power(self.rtol)} |expected|"

    def holds(self, measured: complex, expected: complex) -> bool:
        return abs(measured - expected) <= self.atol + self.rtol * abs(expected)


def bound(rtol: float, atol: float) -> Bound:
    """A bound from two tolerances, each a power of ten or zero.

    Raises:
        BadStatement: A tolerance is not a power of ten, or both are zero.
    """
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
            raise BadStatement(f"{name} is {tolerance!r}; pass a power of ten such as 1e-7")
        if tolerance and not _is_power_of_ten(tolerance):
            raise BadStatement(
                f"{name} is {tolerance!r}; the bound is printed as it is, so pass a power of ten "
                "such as 1e-7"
            )
    if not rtol and not atol:
        raise BadStatement("rtol and atol are both zero; floating point needs a tolerance")
    return Bound(float(rtol), float(atol))


def _is_power_of_ten(tolerance: float) -> bool:
    if not math.isfinite(tolerance) or tolerance <= 0:
        return False
    return float(f"1e{round(math.log10(tolerance))}") == tolerance


def _power(tolerance: float) -> str:
    return f"1e{round(math.log10(tolerance))}"


def array(name: str, given: object) -> Array:
    """Read a number, a nested sequence, a SymPy matrix or anything with ``tolist()``.

    Args:
        name: Name of the argument, for messages.
        given: The numbers.

    Raises:
        BadStatement: It is no rectangular array of numbers, is empty or holds NaN or infinity.
    """
    shape, numbers = _flatten(name, given)
    if not numbers:
        raise BadStatement(f"{name} is empty, of shape {shape}; there is nothing to compare")
    for k, number in enumerate(numbers):
        if not (math.isfinite(number.real) and math.isfinite(number.imag)):
            raise BadStatement(
                f"{name} is {number} at index {_index(k, shape)}; only finite numbers compare"
            )
    return Array(shape, tuple(numbers))


def _flatten(name: str, given: object) -> tuple[tuple[int, ...], list[complex]]:
    if isinstance(given, (str, bytes, bool)) or given is None:
        raise BadStatement(f"{name} holds {given!r}; pass numbers")
    if isinstance(given, Complex):
        try:
            return (), [complex(given)]
        except OverflowError:
            raise BadStatement(f"{name} holds a number too large for float64") from None
    if hasattr(given, "tolist"):
        return _flatten(name, given.tolist())
    if isinstance(given, Sequence):
        parts = [_flatten(name, item) for item in given]
        shapes = {shape for shape, _ in parts}
        if len(shapes) > 1:
            raise BadStatement(f"{name} is ragged: it holds parts of shapes {sorted(shapes)}")
        inner = shapes.pop() if shapes else ()
        return (len(parts), *inner), [number for _, numbers in parts for number in numbers]
    try:
        return (), [complex(given)]  # SymPy numbers, Decimal
    except (TypeError, ValueError):
        raise BadStatement(
            f"{name} holds a {type(given).__name__}; pass numbers, nested lists of numbers or "
            "something with tolist()"
        ) from None


def compare(measured: Array, expected: Array, allowed: Bound) -> None:
    """Raise unless two arrays agree, and unless they would disagree if something were wrong.

    Raises:
        CheckFailed: The shapes or the numbers differ.
        VacuousCheck: The check would pass for minus, twice or zero times the expected numbers.
    """
    if measured.shape != expected.shape:
        raise CheckFailed(
            f"measured has shape {measured.shape}, expected has shape {expected.shape}; reshape "
            "one of them"
        )
    excess = _first_largest_failure(measured, expected, allowed)
    if excess is not None:
        index, error, reference = excess
        raise CheckFailed(
            f"the largest error is {error:.2e} at index {index}, where {abs(reference):.2e} in "
            f"absolute value is expected; demanded was {allowed}"
        )
    for what, factor in (("with its sign flipped", -1), ("doubled", 2), ("set to zero", 0)):
        for k, (m, e) in enumerate(zip(measured.numbers, expected.numbers, strict=True)):
            # Entry by entry: a small one must not hide behind the size of the others.
            if (e or not any(expected.numbers)) and allowed.holds(m, factor * e):
                place = "".join(f"[{n}]" for n in _index(k, expected.shape))
                raise VacuousCheck(
                    f"the check would also pass with expected{place} {what}; compare something "
                    "that is not zero, with smaller tolerances"
                )


def _first_largest_failure(measured, expected, allowed):
    pairs = list(zip(measured.numbers, expected.numbers, strict=True))
    if all(allowed.holds(m, e) for m, e in pairs):
        return None
    failing = [k for k, (m, e) in enumerate(pairs) if not allowed.holds(m, e)]
    worst = max(failing, key=lambda k: (abs(pairs[k][0] - pairs[k][1]), -k))
    m, e = pairs[worst]
    return _index(worst, measured.shape), abs(m - e), e


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return tuple(reversed(index))
