"""Tableaus against Butcher's order conditions in exact arithmetic, and against SciPy's tables."""

from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod

import numpy as np
import pytest
from scipy.integrate import RK23, RK45

from companion.ode import tableaus
from companion.ode.tableau import Tableau

EXACT = [t for t in tableaus.METHODS.values() if t.name != "tsit5"]
#: Tsitouras' coefficients are published as decimals with 16 to 17 digits.
ROUNDING = {"tsit5": Fraction(1, 10**13)}


def trees(order):
    """All rooted trees with this many nodes; a tree is the sorted tuple of its branches."""
    if order == 1:
        return [()]
    found = set()
    for sizes in _partitions(order - 1):
        found |= set(_forests(sizes))
    return sorted(found)


def _partitions(total, largest=None):
    largest = total if largest is None else min(largest, total)
    if total == 0:
        yield ()
    for part in range(largest, 0, -1):
        for rest in _partitions(total - part, part):
            yield (part, *rest)


def _forests(sizes):
    if not sizes:
        yield ()
        return
    size, count = sizes[0], sizes.count(sizes[0])
    for branches in combinations_with_replacement(trees(size), count):
        for rest in _forests(sizes[count:]):
            yield tuple(sorted((*branches, *rest)))


def nodes(tree):
    return 1 + sum(map(nodes, tree))


def density(tree):
    return nodes(tree) * prod(map(density, tree))


def elementary_weights(tableau, tree):
    """For every stage, the product over the branches of a row of A with their weights."""
    inner = [elementary_weights(tableau, branch) for branch in tree]
    rows = [(), *tableau.a]
    return [
        prod(
            (sum((a * w for a, w in zip(row, weights, strict=False)), Fraction(0))
             for weights in inner),
            start=Fraction(1),
        )
        for row in rows
    ]


def defects(tableau, weights, order, theta=Fraction(1)):
    """By how much the conditions of exactly this order fail at theta."""
    return [
        sum(b * w for b, w in zip(weights, elementary_weights(tableau, tree), strict=False))
        - theta**order / density(tree)
        for tree in trees(order)
    ]


def largest(values):
    return max(abs(v) for v in values)


def test_number_of_rooted_trees():
    assert [len(trees(n)) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@pytest.mark.parametrize("tableau", tableaus.METHODS.values(), ids=lambda t: t.name)
def test_order_holds_and_the_next_does_not(tableau):
    allowed = ROUNDING.get(tableau.name, 0)
    for order in range(1, tableau.order + 1):
        assert largest(defects(tableau, tableau.b, order)) <= allowed
    assert largest(defects(tableau, tableau.b, tableau.order + 1)) > Fraction(1, 10**4)


@pytest.mark.parametrize(
    "tableau", [t for t in tableaus.METHODS.values() if t.error], ids=lambda t: t.name
)
def test_order_of_the_embedded_method(tableau):
    allowed = ROUNDING.get(tableau.name, 0)
    embedded = [b - e for b, e in zip(tableau.b, tableau.error, strict=True)]
    for order in range(1, tableau.embedded_order + 1):
        assert largest(defects(tableau, embedded, order)) <= allowed
    assert largest(defects(tableau, embedded, tableau.embedded_order + 1)) > Fraction(1, 10**4)


@pytest.mark.parametrize(
    ("tableau", "order"),
    [(tableaus.BOSH3, 3), (tableaus.DOPRI5, 4), (tableaus.TSIT5, 4)],
    ids=lambda x: getattr(x, "name", x),
)
@pytest.mark.parametrize("theta", [Fraction(1, 3), Fraction(5, 7)])
def test_order_of_the_dense_output(tableau, order, theta):
    allowed = ROUNDING.get(tableau.name, 0)
    weights = [sum(c * theta**k for k, c in enumerate(row, 1)) for row in tableau.dense]
    for p in range(1, order + 1):
        assert largest(defects(tableau, weights, p, theta)) <= allowed
    assert largest(defects(tableau, weights, order + 1, theta)) > Fraction(1, 10**5)


@pytest.mark.parametrize(
    ("tableau", "peer"), [(tableaus.DOPRI5, RK45), (tableaus.BOSH3, RK23)], ids=["dopri5", "bosh3"]
)
def test_equal_to_scipy(tableau, peer):
    for row, theirs in zip(tableau.a, peer.A[1:], strict=False):
        np.testing.assert_array_equal(np.array(row, float), theirs[: len(row)])
    np.testing.assert_array_equal(np.array(tableau.b[:-1], float), peer.B)
    np.testing.assert_allclose(np.array(tableau.error, float), -peer.E, atol=1e-16)
    np.testing.assert_allclose(np.array(tableau.dense, float), peer.P, rtol=1e-15)


@pytest.mark.parametrize("tableau", EXACT, ids=lambda t: t.name)
def test_hermite_matches_the_slopes_at_both_ends(tableau):
    """The derivative of the dense weights is e_1 at theta = 0 and the last stage at theta = 1."""
    start = [row[0] for row in tableau.dense]
    end = [sum(k * c for k, c in enumerate(row, 1)) for row in tableau.dense]
    assert start == [1] + [0] * (len(start) - 1)
    assert end == [0] * (len(end) - 1) + [1]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"b": (Fraction(1, 2), Fraction(1, 3))}, "b sums to 5/6"),
        ({"a": ((Fraction(1), Fraction(1)),)}, "rows of length 1 to 1"),
        ({"error": (Fraction(1), Fraction(0)), "embedded_order": 1}, "the sum 0"),
        ({"error": (Fraction(1), Fraction(-1))}, "come together"),
        ({"dense": ((Fraction(1),), (Fraction(1),), (Fraction(0),))}, "sum to theta"),
        ({"dense": ((Fraction(1),), (Fraction(0),), (Fraction(0),))}, "end in b"),
    ],
)
def test_an_inconsistent_tableau_is_refused(change, complaint):
    parts = {
        "name": "bad",
        "order": 2,
        "a": ((Fraction(1),),),
        "b": (Fraction(1, 2), Fraction(1, 2)),
    }
    with pytest.raises(ValueError, match=complaint):
        Tableau(**(parts | change))
