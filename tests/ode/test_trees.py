"""Rooted trees against counting by hand, and order conditions against Taylor series."""

from fractions import Fraction
from itertools import permutations, product
from math import factorial

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.ode.algebraic import sqrt
from companion.ode.tableau import Tableau
from companion.ode.tableaus import BOSH3, DOPRI5, GL4, RK4, TRBDF2
from companion.ode.trees import (
    Tree,
    defects,
    dense_defects,
    dense_order_of,
    elementary_weights,
    embedded_order_of,
    order_of,
    trees,
)

LEAF = Tree()


def from_parents(parents):
    """The tree whose node i + 1 hangs on node parents[i]."""
    children = [[] for _ in range(len(parents) + 1)]
    for child, parent in enumerate(parents, 1):
        children[parent].append(child)

    def tree(node):
        return Tree(tuple(tree(child) for child in children[node]))

    return tree(0)


def numberings(order):
    """All ways to number a tree upwards: every node hangs on one with a smaller number."""
    return list(product(*(range(k) for k in range(1, order))))


def test_number_of_rooted_trees():
    """Sequence A000081 of the encyclopedia of integer sequences."""
    assert [len(trees(n)) for n in range(1, 11)] == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]
    assert all(len(set(trees(n))) == len(trees(n)) for n in range(1, 9))
    assert all(tree.order == n for n in range(1, 9) for tree in trees(n))


@pytest.mark.parametrize("order", range(1, 8))
def test_labellings_by_enumeration(order):
    """n! / (symmetry * density) counts the upward numberings of each tree."""
    found = [from_parents(parents) for parents in numberings(order)]
    assert set(found) == set(trees(order))
    for tree in trees(order):
        assert found.count(tree) == tree.labellings
        assert tree.labellings * tree.symmetry * tree.density == factorial(order)


@pytest.mark.parametrize("order", range(1, 7))
def test_symmetry_by_enumeration(order):
    """The permutations of the nodes that leave every node's parent its parent."""
    for parents in {from_parents(p): p for p in numberings(order)}.values():
        count = sum(
            all(moved[parents[k - 1]] == (0, *parents)[moved[k]] for k in range(1, order))
            for rest in permutations(range(1, order))
            for moved in [(0, *rest)]
        )
        assert from_parents(parents).symmetry == count


@pytest.mark.parametrize("order", range(1, 10))
def test_cayleys_formula(order):
    """There are n^(n-1) rooted trees with n numbered nodes."""
    total = sum(factorial(order) // tree.symmetry for tree in trees(order))
    assert total == order ** (order - 1)


@st.composite
def shuffled(draw):
    """A tree, built twice with the branches in different orders."""

    def build(tree):
        branches = draw(st.permutations(tree.branches))
        return Tree(tuple(build(branch) for branch in branches))

    tree = draw(st.sampled_from(trees(draw(st.integers(1, 7)))))
    return tree, build(tree)


@settings(deadline=None)
@given(shuffled())
def test_branches_have_no_order(pair):
    tree, other = pair
    assert tree == other
    assert hash(tree) == hash(other)
    assert repr(tree) == repr(other)


def test_names():
    tree = Tree((LEAF, Tree((Tree((LEAF,)),)), LEAF))
    assert repr(tree) == "[τ²,[[τ]]]"
    assert tree.differential == "f'''(f, f, f' f' f)"
    assert tree.condition == r"\sum_{i,j,k} b_i c_i^2 a_{ij} a_{jk} c_k = \frac{1}{36}"
    assert (repr(LEAF), LEAF.differential, LEAF.condition) == ("τ", "f", r"\sum_{i} b_i = 1")
    assert Tree((LEAF,) * 4).differential == "f^{(4)}(f, f, f, f)"
    assert Tree((Tree((LEAF,)),) * 2).condition == (
        r"\sum_{i,j,k} b_i a_{ij} c_j a_{ik} c_k = \frac{1}{20}"
    )


def test_condition_reads_as_the_sum_it_stands_for():
    """The printed sum, evaluated term by term with loops over its own indices."""
    c, s = RK4.c, RK4.stages
    a = [[*row, *[Fraction(0)] * (s - len(row))] for row in RK4.a]
    for tree in [tree for n in range(1, 7) for tree in trees(n)]:
        left, right = tree.condition.split(" = ")
        indices, *factors = left.removeprefix(r"\sum_{").replace("}", "", 1).split(" ")
        indices = indices.split(",")
        total = Fraction(0)
        for values in product(range(s), repeat=len(indices)):
            at = dict(zip(indices, values, strict=True))
            term = Fraction(1)
            for factor in factors:
                name, _, subscript = factor.replace("{", "").replace("}", "").partition("_")
                letters, _, power = subscript.partition("^")
                entry = {"a": a, "b": RK4.b, "c": c}[name]
                for letter in letters:
                    entry = entry[at[letter]]
                term *= entry ** int(power or 1)
            total += term
        weights = elementary_weights(RK4, tree)
        assert total == sum(b * w for b, w in zip(RK4.b, weights, strict=False))
        assert right == ("1" if tree.order == 1 else rf"\frac{{1}}{{{tree.density}}}")


# An elementary differential of y' = f(y) with one component is a product of derivatives of f.
# With f polynomial, a step of an explicit method is a polynomial in h, without approximation.

H, Y = sympy.symbols("h y")
F = 1 + 2 * Y + 3 * Y**2 / 2 - Y**3 + Y**4 / 8


def differential(tree):
    value = sympy.diff(F, Y, len(tree.branches)).subs(Y, 0)
    for branch in tree.branches:
        value *= differential(branch)
    return value


@pytest.mark.parametrize("order", range(1, 6))
def test_the_series_of_the_solution(order):
    """Its n-th derivative is the sum over the trees of labellings times differential."""
    derivative = Y
    for _ in range(order):
        derivative = sympy.diff(derivative, Y) * F
    total = sum(tree.labellings * differential(tree) for tree in trees(order))
    assert derivative.subs(Y, 0) == total


@settings(deadline=None)
@given(st.lists(st.fractions(-2, 2, max_denominator=6), min_size=5, max_size=5))
def test_the_series_of_a_step(entries):
    """The coefficient of h^n is the sum over the trees of weight times differential / symmetry."""
    x, y, z, u, v = entries
    tableau = Tableau("any", order=1, a=((), (x,), (y, z)), b=(1 - u - v, u, v))
    stages = []
    for row in tableau.a:
        at = sum(sympy.Rational(q) * k for q, k in zip(row, stages, strict=True))
        series = sympy.Poly(F.subs(Y, H * at), H)
        stages.append(sum(series.coeff_monomial(H**n) * H**n for n in range(4)))
    step = sympy.Poly(
        H * sum(sympy.Rational(q) * k for q, k in zip(tableau.b, stages, strict=True)), H
    )
    for order in range(1, 5):
        total = 0
        for tree in trees(order):
            weights = elementary_weights(tableau, tree)
            total += (
                sympy.Rational(sum(b * p for b, p in zip(tableau.b, weights, strict=False)))
                * differential(tree)
                / tree.symmetry
            )
        assert step.coeff_monomial(H**order) == total


def test_elementary_weights_of_the_last_row_are_those_at_the_end():
    """f(t1, y1) is a stage whose weights are b; a first-same-as-last method has it already."""
    for tree in trees(5):
        *stages, end = elementary_weights(DOPRI5, tree)
        assert end == stages[-1]


def test_orders_of_methods_everybody_knows():
    assert order_of(RK4) == 4
    assert (order_of(BOSH3), embedded_order_of(BOSH3), dense_order_of(BOSH3)) == (3, 2, 3)
    assert (order_of(TRBDF2), embedded_order_of(TRBDF2)) == (2, 3)
    assert order_of(GL4) == 4
    with pytest.raises(ValueError, match="'rk4' has no embedded"):
        embedded_order_of(RK4)


@pytest.mark.parametrize("entry", [(1, 0), (2, 1), (3, 2)])
def test_a_wrong_entry_lowers_the_order(entry):
    """A change that keeps the row sums, so that consistency does not give it away."""
    i, j = entry
    a = [[*row, *[Fraction(0)] * (4 - len(row))] for row in RK4.a]
    a[i][j] += Fraction(1, 10**30)
    a[i][3] -= Fraction(1, 10**30)
    assert order_of(Tableau("wrong", order=4, a=tuple(map(tuple, a)), b=RK4.b)) < 4


def test_rounding_allows_what_it_says_and_no_more():
    nudge = Fraction(1, 10**12)
    b = (RK4.b[0] + nudge, *RK4.b[1:3], RK4.b[3] - nudge)
    for rounding, order in ((Fraction(0), 1), (nudge, 4), (nudge / 2, 1)):
        assert order_of(Tableau("near", order=4, a=RK4.a, b=b, rounding=rounding)) == order


@pytest.mark.parametrize("tableau", [DOPRI5, BOSH3, GL4], ids=lambda t: t.name)
@pytest.mark.parametrize("theta", [Fraction(1, 3), Fraction(5, 7), 1 - sqrt(3) / 4])
def test_dense_defects_are_the_defects_at_every_theta(tableau, theta):
    weights = [
        sum((x * theta**k for k, x in enumerate(row, 1)), Fraction(0)) for row in tableau.dense
    ]
    for order in range(1, 7):
        polynomials = list(dense_defects(tableau, order))
        values = [
            sum((x * theta**k for k, x in enumerate(row, 1)), Fraction(0)) for row in polynomials
        ]
        assert values == list(defects(tableau, weights, order, theta))
        assert any(values) == (order > dense_order_of(tableau))


def test_order_of_a_tree():
    with pytest.raises(ValueError, match="1 or more"):
        trees(0)
