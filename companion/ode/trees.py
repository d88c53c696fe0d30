r"""Rooted trees and the order conditions of Runge-Kutta methods, in exact arithmetic.

The Taylor series of the solution of :math:`y' = f(y)` and of one Runge-Kutta step have the same
shape: a sum over rooted trees.  A tree :math:`t` with n nodes stands for one way of nesting n
derivatives of f, its elementary differential :math:`F(t)`; both series multiply it by a number of
their own,

.. math::
    y(t_0 + \theta h) = y_0 + \sum_t \frac{(\theta h)^{|t|}}{\sigma(t)\,\gamma(t)} F(t)(y_0),
    \qquad
    y_\theta = y_0 + \sum_t \frac{h^{|t|}}{\sigma(t)} \Bigl(\sum_i b_i(\theta)\,\Phi_i(t)\Bigr)
    F(t)(y_0),

with the symmetry :math:`\sigma`, the density :math:`\gamma` and the elementary weights
:math:`\Phi_i`.  The method therefore has order p exactly if
:math:`\sum_i b_i(\theta)\,\Phi_i(t) = \theta^{|t|} / \gamma(t)` for all trees with at most p nodes.
Since the nodes :math:`c_i` are the row sums of A, this holds for :math:`y' = f(t, y)` too
(Butcher, *Numerical Methods for Ordinary Differential Equations*, chapter 3; Hairer, Norsett and
Wanner, *Solving ODEs I*, II.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from itertools import chain, combinations_with_replacement, count, groupby, zip_longest
from math import factorial, lcm, prod
from string import ascii_lowercase

from companion.ode.algebraic import Algebraic
from companion.ode.tableau import Number, Row, Tableau


@dataclass(frozen=True, repr=False)
class Tree:
    """A rooted tree: its root, and the trees that hang on it, which have no order.

    Args:
        branches: the trees on the root; kept sorted, so that equal trees compare equal.
    """

    branches: tuple[Tree, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "branches", tuple(sorted(self.branches, key=_by_size)))

    @cached_property
    def order(self) -> int:
        """The number of nodes."""
        return 1 + sum(branch.order for branch in self.branches)

    @cached_property
    def density(self) -> int:
        r""":math:`\gamma(t) = |t| \prod \gamma(\text{branch})`."""
        return self.order * prod(branch.density for branch in self.branches)

    @cached_property
    def symmetry(self) -> int:
        r""":math:`\sigma(t)`, the number of ways to map the tree onto itself."""
        return prod(factorial(copies) * branch.symmetry**copies for branch, copies in self.groups)

    @property
    def labellings(self) -> int:
        r""":math:`\alpha(t) = |t|! / (\sigma(t) \gamma(t))`.

        The number of ways to number the nodes upwards from the root, and so the number of times
        that :math:`F(t)` comes up when :math:`y' = f(y)` is differentiated.
        """
        return factorial(self.order) // (self.symmetry * self.density)

    @property
    def groups(self) -> list[tuple[Tree, int]]:
        """Every different branch with its number of copies."""
        return [(branch, len(list(copies))) for branch, copies in groupby(self.branches)]

    def __repr__(self) -> str:
        r"""Butcher's notation: ``τ`` is the single node, ``[τ²,[τ]]`` a root with these on it."""
        if not self.branches:
            return "τ"
        superscript = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
        inner = (
            f"{branch}{str(copies).translate(superscript) if copies > 1 else ''}"
            for branch, copies in self.groups
        )
        return f"[{','.join(inner)}]"

    @property
    def differential(self) -> str:
        r"""LaTeX of the elementary differential, such as ``f''(f, f' f)``."""
        arguments = [branch.differential for branch in self.branches]
        many = len(arguments)
        derivative = "f" + ("'" * many if many < 4 else f"^{{({many})}}")
        if many < 2:
            return " ".join([derivative, *arguments])
        return f"{derivative}({', '.join(arguments)})"

    @property
    def condition(self) -> str:
        r"""LaTeX of the order condition, such as ``\sum_{i,j} b_i a_{ij} c_j = \frac{1}{6}``."""
        letters = iter(ascii_lowercase[8:])
        indices = [next(letters)]
        factors = [f"b_{indices[0]}", *self._factors(indices[0], letters, indices)]
        value = rf"\frac{{1}}{{{self.density}}}" if self.density > 1 else "1"
        return rf"\sum_{{{','.join(indices)}}} {' '.join(factors)} = {value}"

    def _factors(self, index: str, letters: Iterator[str], indices: list[str]) -> Iterator[str]:
        r"""Factors of :math:`\Phi`: a leaf gives a node, any other branch a row of A."""
        for branch, copies in self.groups:
            if branch.order == 1:
                yield f"c_{index}" + (f"^{copies}" if copies > 1 else "")
                continue
            for _ in range(copies):
                inner = next(letters)
                indices.append(inner)
                yield f"a_{{{index}{inner}}}"
                yield from branch._factors(inner, letters, indices)


def _by_size(tree: Tree):
    """Small trees first; among those of one size, the order of their branches."""
    return (tree.order, [_by_size(branch) for branch in tree.branches])


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with this many nodes: 1, 1, 2, 4, 9, 20, 48, 115, 286, ... of them.

    Raises:
        ValueError: if ``order`` is less than one.
    """
    if order < 1:
        raise ValueError(f"order must be 1 or more, the number of nodes of a tree; got {order}")
    found = (Tree(branches) for branches in _forests(order - 1, order - 1))
    return tuple(sorted(found, key=_by_size))


def _forests(total: int, largest: int) -> Iterator[tuple[Tree, ...]]:
    """All multisets of trees with together ``total`` nodes, none with more than ``largest``."""
    if total == 0:
        yield ()
        return
    for size in range(min(total, largest), 0, -1):
        for copies in range(1, total // size + 1):
            for rest in _forests(total - size * copies, size - 1):
                for branches in combinations_with_replacement(trees(size), copies):
                    yield (*branches, *rest)


class ElementaryWeights:
    r"""The elementary weights :math:`\Phi_i(t)` of a method's stages.

    .. math::
        \Phi_i(\tau) = 1, \qquad
        \Phi_i([t_1, \ldots, t_m]) = \prod_{k=1}^m \sum_j a_{ij} \Phi_j(t_k).

    The inner sums are remembered: the conditions of order 9 share almost all of their work.
    All numbers are kept as integers over a common denominator, which for long fractions is much
    faster than reducing every intermediate one.

    Args:
        a: rows of weights, as in `Tableau`; they may be more than the stages: then the last ones
            belong to points at which f is evaluated as well.
    """

    def __init__(self, a: Sequence[Row]) -> None:
        self._denominator, self._rows = _over_common_denominator(a)
        self._sums: dict[Tree, list] = {}

    def integers(self, tree: Tree) -> tuple[list, int]:
        """The weight of every row times a common denominator, and that denominator."""
        weights: list = [1] * len(self._rows)
        for branch in tree.branches:
            weights = [w * x for w, x in zip(weights, self._summed(branch), strict=True)]
        return weights, self._denominator ** (tree.order - 1)

    def _summed(self, branch: Tree) -> list:
        if branch not in self._sums:
            inner, _ = self.integers(branch)
            self._sums[branch] = [_dot(row, inner) for row in self._rows]
        return self._sums[branch]


@lru_cache(maxsize=32)
def _weights_of(tableau: Tableau) -> ElementaryWeights:
    return ElementaryWeights((*tableau.a, tableau.b))


def elementary_weights(tableau: Tableau, tree: Tree) -> list[Number]:
    r""":math:`\Phi_i(t)` for every stage i, and for ``f(t1, y1)`` as one more."""
    integers, denominator = _weights_of(tableau).integers(tree)
    return [x * Fraction(1, denominator) for x in integers]


def defects(
    tableau: Tableau, weights: Row, order: int, theta: Number = Fraction(1)
) -> Iterator[Number]:
    r"""By how much the conditions of exactly this order fail.

    Args:
        tableau: the method, of which only the stages matter.
        weights: one a stage, and possibly one more for ``f(t1, y1)``: ``tableau.b``, those of an
            embedded method, or dense weights at one theta.
        order: the number of nodes of the trees.
        theta: the part of the step that the weights go.

    Yields:
        :math:`\sum_i w_i \Phi_i(t) - \theta^{|t|} / \gamma(t)`, exactly, for the trees in the
        order of `trees`.
    """
    target = theta**order
    for tree, total in _totals(tableau, weights, order):
        yield total - target / tree.density


def dense_defects(tableau: Tableau, order: int) -> Iterator[Row]:
    r"""The defects of the dense output, for all :math:`\theta` at once.

    Yields:
        for the trees of exactly this order, in the order of `trees`, the coefficients of
        :math:`\theta, \theta^2, \ldots` of
        :math:`\sum_i b_i(\theta) \Phi_i(t) - \theta^{|t|} / \gamma(t)`.
    """
    # The row of zeros makes sure that there is a column for theta to the order.
    zeros = [Fraction(0)] * order
    columns = zip_longest(*tableau.dense, zeros, fillvalue=Fraction(0))
    sums = [_totals(tableau, column, order) for column in columns]
    for totals in zip(*sums, strict=True):
        row = [total for _, total in totals]
        row[order - 1] -= Fraction(1, totals[0][0].density)
        yield tuple(row)


def _totals(tableau: Tableau, weights: Row, order: int) -> Iterator[tuple[Tree, Number]]:
    scale, (row,) = _over_common_denominator([weights])
    elementary = _weights_of(tableau)
    for tree in trees(order):
        integers, denominator = elementary.integers(tree)
        yield tree, _dot(row, integers) * Fraction(1, denominator * scale)


def order_of(tableau: Tableau) -> int:
    """The order of the solution, found from the order conditions.

    A condition counts as fulfilled if it holds exactly, or, for rounded coefficients, to
    ``tableau.rounding``.
    """
    return _order(tableau, lambda p: defects(tableau, tableau.b, p))


def embedded_order_of(tableau: Tableau) -> int:
    """The order of the embedded method.

    Raises:
        ValueError: if the method has none.
    """
    if tableau.error is None:
        raise ValueError(f"tableau {tableau.name!r} has no embedded method")
    return _order(tableau, lambda p: defects(tableau, tableau.embedded, p))


def dense_order_of(tableau: Tableau) -> int:
    """The order of the dense output, for all theta."""
    return _order(tableau, lambda p: chain.from_iterable(dense_defects(tableau, p)))


def _order(tableau: Tableau, failures: Callable[[int], Iterable[Number]]) -> int:
    """The last order none of whose conditions fails; an s-stage method has order 2s at most."""
    return next(
        p - 1 for p in count(1) if any(_more_than(tableau.rounding, x) for x in failures(p))
    )


def _more_than(rounding: Fraction, defect: Number) -> bool:
    return bool(defect) and (not rounding or abs(float(defect)) > rounding)


def _over_common_denominator(rows: Sequence[Row]) -> tuple[int, list[list[tuple[int, object]]]]:
    """The least common denominator, and for every row its non-zero numerators and their places."""
    denominator = lcm(*(_denominator(x) for row in rows for x in row))
    return denominator, [
        [(j, _numerator(x, denominator)) for j, x in enumerate(row) if x] for row in rows
    ]


def _denominator(x: Number) -> int:
    return lcm(*(q.denominator for q in getattr(x, "coefficients", (x,))))


def _numerator(x: Number, denominator: int):
    return x * denominator if isinstance(x, Algebraic) else int(x * denominator)


def _dot(row: list[tuple[int, object]], values: list):
    return sum(x * values[j] for j, x in row)
