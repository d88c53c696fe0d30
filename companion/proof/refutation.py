"""Refutation: an exact point at which two sides differ."""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy as sp
from sympy.matrices.exceptions import ShapeError

from companion.proof.errors import Unevaluable
from companion.proof.evaluate import Value, promoted, value
from companion.proof.instantiate import Point, points
from companion.proof.nonzero import is_certainly_nonzero


@dataclass(frozen=True)
class Counterexample:
    """A point that shows two sides to differ.

    Attributes:
        point: The values of the unknowns, as text.
        difference: The exact nonzero difference (of the first entry that differs), as text;
            or why the two sides cannot be compared, when their shapes differ.
        dimensions: The values of the dimensions alone, as text.
    """

    point: str
    difference: str
    dimensions: str


@dataclass
class Evaluated:
    """One side of a statement with its values at the points, each computed at most once.

    Args:
        expr: The side itself.
        others: Further expressions whose unknowns the points must cover.
    """

    expr: sp.Basic
    others: tuple[sp.Basic, ...] = ()
    _points: list[Point] = field(init=False)
    _values: dict[int, Value | Unevaluable | ShapeError] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._points = points((self.expr, *self.others))

    def differs_from(
        self,
        other: sp.Basic,
        entry: tuple[int, int] | None = None,
        *,
        misfit_counts: bool = False,
    ) -> Counterexample | None:
        """A counterexample to ``expr == other``, or None.

        Args:
            other: The other side; one entry of it, if ``entry`` is given.
            entry: Compare this entry of an explicit matrix only.
            misfit_counts: Whether dimensions that do not fit together in ``other`` are a
                difference, too.
        """
        for point in self._points:
            mine = self._value(point, entry)
            if isinstance(mine, Exception):
                continue
            found = _compare(mine, other, point, misfit_counts)
            if found is not None:
                return found
        return None

    @property
    def reasons(self) -> list[str]:
        """Why values could not be computed, one reason for each point that failed."""
        return [str(v) for v in self._values.values() if isinstance(v, Exception)]

    @property
    def evaluated(self) -> bool:
        """Whether the side has an exact value at one of the points at least."""
        return any(not isinstance(self._value(p, None), Exception) for p in self._points)

    def _value(self, point: Point, entry: tuple[int, int] | None):
        key = (point.number, entry)
        if key not in self._values:
            try:
                expr = self.expr if entry is None else self.expr[entry]
                self._values[key] = value(expr, point)
            except (Unevaluable, ShapeError) as error:
                self._values[key] = error
        return self._values[key]


def _compare(
    mine: Value, other: sp.Basic, point: Point, misfit_counts: bool
) -> Counterexample | None:
    dimensions = ", ".join(f"{s.name} = {v}" for s, v in point.dimensions.items())
    try:
        theirs = value(other, point)
    except Unevaluable:
        return None
    except ShapeError as error:
        if not misfit_counts:
            return None
        return Counterexample(point.describe(), f"shapes do not fit: {error}", dimensions)
    if isinstance(mine, sp.MatrixBase) is not isinstance(theirs, sp.MatrixBase):
        mine, theirs = promoted([mine, theirs])
    if isinstance(mine, sp.MatrixBase):
        if mine.shape != theirs.shape:
            reason = f"shapes differ: {mine.shape} and {theirs.shape}"
            return Counterexample(point.describe(), reason, dimensions)
        differences = list(mine - theirs)
    else:
        differences = [mine - theirs]
    for difference in differences:
        if is_certainly_nonzero(difference):
            return Counterexample(point.describe(), sp.sstr(difference), dimensions)
    return None
