"""How the tables of coefficients are written."""

from __future__ import annotations

from fractions import Fraction

from companion.ode.tableau import Row


def row(text: str) -> Row:
    """Fractions or decimals, separated by spaces."""
    return tuple(Fraction(entry) for entry in text.split())


def rows(*texts: str) -> tuple[Row, ...]:
    return tuple(row(text) for text in texts)


def difference(b: Row, embedded: Row) -> Row:
    return tuple(x - y for x, y in zip(b, embedded, strict=True))


def closed(sums: str, *texts: str) -> tuple[Row, ...]:
    """Rows given without their first entry, which follows from their sum."""
    rests = rows(*texts)
    return tuple((x - sum(rest), *rest) for x, rest in zip(row(sums), rests, strict=True))


def ending(weights: Row, end: Fraction) -> Row:
    """A dense weight whose square term takes up the rounding, so that it ends in ``end``."""
    linear, square, *rest = weights
    return (linear, square + end - sum(weights), *rest)
