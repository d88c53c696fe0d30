"""Systems of linear equations in exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from companion.ode.tableau import Row


def solve(matrix: Sequence[Row], right: Sequence[Row]) -> tuple[Row, ...]:
    """The rows X with ``matrix @ X = right``, by Gauss and Jordan's elimination.

    Args:
        matrix: n rows of n exact numbers: int, Fraction or Algebraic.
        right: n rows, of any one length.

    Raises:
        ValueError: if the matrix is singular.
    """
    size = len(matrix)
    # Quotients of integers would be floats.
    rows = [
        [Fraction(0) + x for x in (*left, *rest)] for left, rest in zip(matrix, right, strict=True)
    ]
    for k in range(size):
        pivot = next((i for i in range(k, size) if rows[i][k]), None)
        if pivot is None:
            raise ValueError("matrix is singular: its equations have no or many solutions")
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(size):
            if i != k and rows[i][k]:
                factor = rows[i][k]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    return tuple(tuple(row[size:]) for row in rows)
