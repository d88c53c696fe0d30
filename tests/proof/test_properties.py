"""Random statements: what is true is proved, what is changed is refuted."""

from __future__ import annotations

import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from companion.proof import Disproved, Theorem
from companion.proof.refutation import Evaluated
from companion.proof.zero import residual
from tests.proof.statements import A, B, G, R, a, i, j, k, n, q, w, x, y

quick = settings(max_examples=25, deadline=None, derandomize=True)

coefficients = st.integers(-4, 4).filter(bool)
polynomials = st.lists(
    st.tuples(coefficients, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4
).map(lambda terms: sp.Add(*(c * (x + 1) ** d * (y - x) ** e for c, d, e in terms)))
monomials = st.tuples(coefficients, st.integers(0, 4), st.integers(0, 4)).map(
    lambda term: term[0] * x ** term[1] * y ** term[2]
)


@quick
@given(polynomials, monomials)
def test_polynomials(polynomial, monomial):
    expanded = sp.expand(polynomial)
    assume(expanded != 0)
    Theorem("polynomial", "p = p").prove("expanded", polynomial, expanded)
    with pytest.raises(Disproved):
        Theorem("polynomial", "p = q").prove("one more term", polynomial, expanded + monomial)


letters = st.sampled_from([a, G, R])
noncommutative = st.lists(
    st.tuples(coefficients, st.lists(letters, min_size=1, max_size=3)), min_size=1, max_size=3
).map(lambda terms: sp.Add(*(c * sp.Mul(*word) for c, word in terms)))


@quick
@given(noncommutative, noncommutative)
def test_noncommutative_polynomials(one, two):
    product = one * two
    residue = residual(product, sp.expand(product))
    assert residue == 0
    same = sp.expand(one * two - two * one) == 0
    assert (residual(one * two, two * one) == 0) is same
    assert (Evaluated(one * two).differs_from(two * one) is None) is same


factors = st.sampled_from(
    [q[i], q[j], q[k], w[i, j], w[j, i], w[j, k], w[k, k], sp.KroneckerDelta(i, j), sp.Integer(2)]
)
summands = st.lists(st.lists(factors, min_size=1, max_size=3), min_size=1, max_size=2).map(
    lambda terms: sp.Add(*(sp.Mul(*term) for term in terms))
)
limits = st.permutations([(i, 1, n), (j, 1, n), (k, 1, n)])
renamings = st.permutations([i, j, k]).map(lambda names: dict(zip([i, j, k], names, strict=True)))


@quick
@given(summands, limits, limits, renamings)
def test_sums_do_not_depend_on_names_and_order(summand, one, two, names):
    left = sp.Sum(summand, *one)
    right = sp.Sum(summand.xreplace(names), *two)
    assert residual(left, right) == 0


@quick
@given(summands, summands, limits)
def test_a_zero_is_never_contradicted_by_a_point(one, two, order):
    left, right = sp.Sum(one, *order), sp.Sum(two, *order)
    equal = residual(left, right) == 0
    assert (Evaluated(left, (right,)).differs_from(right) is None) is equal


words = st.lists(st.sampled_from([A, B, A.T, B.T]), min_size=1, max_size=3)


@quick
@given(words, words)
def test_transposes_of_products(one, two):
    left, right = sp.MatMul(*one, *two), sp.MatMul(*two, *one)
    assert residual(left.T, sp.MatMul(*(m.T for m in reversed([*one, *two])))) == 0
    equal = residual(left, right) == 0
    assert (Evaluated(left, (right,)).differs_from(right) is None) is equal
