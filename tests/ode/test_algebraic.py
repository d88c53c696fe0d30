"""Exact irrational numbers and linear systems against SymPy and floating point."""

from fractions import Fraction
from operator import add, mul, sub, truediv

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.ode.algebraic import Algebraic, NumberField, sqrt
from companion.ode.linear import solve

#: A root of the cubic of Kvaerno's third-order method; SymPy knows it as the middle one.
CUBIC = NumberField(tuple(map(Fraction, ("-1/6", "3/2", "-3", "1"))), 0.4358665, "gamma")
FIELDS = [sqrt(2).field, sqrt(Fraction(15, 7)).field, CUBIC]
fractions = st.fractions(min_value=-5, max_value=5, max_denominator=40)


@st.composite
def pairs(draw):
    field = draw(st.sampled_from(FIELDS))
    entries = st.lists(fractions, min_size=field.degree, max_size=field.degree)
    return field.element(draw(entries)), field.element(draw(entries))


def to_sympy(x):
    """The number as SymPy's polynomial in the root."""
    return polynomial(x.coefficients if isinstance(x, Algebraic) else (x,))


def polynomial(coefficients):
    numbers = [sympy.Rational(q) for q in reversed(coefficients)]
    return sympy.Poly(numbers, sympy.Symbol("x"), domain="QQ")


@settings(deadline=None)
@given(pairs())
def test_sums_and_products_against_sympy(pair):
    a, b = pair
    field = next((x.field for x in pair if isinstance(x, Algebraic)), None)
    if field is None:
        return
    modulus = polynomial(field.polynomial)
    for rule in (add, sub, mul):
        assert to_sympy(rule(a, b)) == rule(to_sympy(a), to_sympy(b)).rem(modulus)
    if b:
        inverse = to_sympy(b).invert(modulus)
        assert to_sympy(a / b) == (to_sympy(a) * inverse).rem(modulus)


@settings(deadline=None)
@given(pairs())
def test_arithmetic_against_floats(pair):
    a, b = pair
    for rule in (add, sub, mul):
        assert float(rule(a, b)) == pytest.approx(rule(float(a), float(b)), abs=1e-11)
    if b:
        assert float(a / b) == pytest.approx(float(a) / float(b), rel=1e-9, abs=1e-9)
        assert a / b * b == a


@settings(deadline=None)
@given(pairs(), fractions, st.integers(-4, 4))
def test_mixes_with_rational_numbers(pair, q, n):
    a, _ = pair
    assert q + a == a + q
    assert n * a == a * n
    assert (q - a) + a == q
    assert (n - a) + a == n
    assert a + q - q == a
    if a:
        assert q / a * a == q
        assert n / a * a == n


def test_equality_and_hash_are_those_of_the_number():
    r = sqrt(3)
    assert r * r == 3
    assert isinstance(r * r, Fraction)
    assert {1 + r, r + 1} == {1 + r}
    assert sqrt(3) == r
    assert hash(sqrt(3)) == hash(r)
    assert r != sqrt(5)
    assert r != Fraction(1)
    assert (1 + r) ** 3 == 10 + 6 * r
    assert r**0 == 1
    assert (1 + r) ** -2 * (1 + r) ** 2 == 1
    assert r**-1 == r / 3


def test_floats_survive_cancellation():
    r = sqrt(2)
    small = (r - 1) ** 30
    # Coefficients of thirteen digits cancel; the same number from a formula that does not:
    assert float(small) == pytest.approx((2**0.5 - 1) ** 30, rel=1e-13)
    assert float(CUBIC.generator) == pytest.approx(0.435866521508459, abs=1e-15)


def test_prints_what_sympy_reads():
    x = Fraction(1, 4) - sqrt(3) / 6
    assert repr(x) == "1/4 - 1/6*sqrt(3)"
    assert sympy.sympify(repr(x)) == sympy.Rational(1, 4) - sympy.sqrt(3) / 6


def test_root_that_newton_does_not_find():
    field = NumberField((Fraction(-2), Fraction(0), Fraction(1)), 0.0, "x")
    with pytest.raises(ValueError, match=r"near=0\.0"):
        float(field.generator)


def product_of(p, q):
    return [
        sum(p[i] * q[k - i] for i in range(len(p)) if 0 <= k - i < len(q))
        for k in range(len(p) + len(q) - 1)
    ]


@settings(deadline=None)
@given(st.lists(fractions, min_size=5, max_size=5))
def test_reducible_polynomials_are_refused(entries):
    a, b, c, d, e = entries
    for other in ([c, d or 1], [c, d, e or 1]):
        with pytest.raises(ValueError, match="irreducible"):
            NumberField(tuple(product_of([a, b or 1], other)), 1.0, "x")


@pytest.mark.parametrize("polynomial", [("-1", "1"), ("-2", "0", "1", "0"), ("1",) * 5])
def test_other_degrees_are_refused(polynomial):
    with pytest.raises(ValueError, match="degree 2 or 3"):
        NumberField(tuple(map(Fraction, polynomial)), 1.0, "x")


def test_irreducible_with_a_leading_coefficient():
    half = NumberField((Fraction(-1), Fraction(0), Fraction(2)), 0.7, "x").generator
    assert half * half == Fraction(1, 2)


def test_wrong_operands():
    with pytest.raises(ValueError, match="different fields"):
        sqrt(2) + sqrt(3)
    with pytest.raises(TypeError):
        sqrt(2) + 0.5
    for rule in (mul, truediv, pow):
        with pytest.raises(TypeError):
            rule(sqrt(2), 0.5)
    with pytest.raises(TypeError):
        0.5 / sqrt(2)
    with pytest.raises(ZeroDivisionError):
        sqrt(2) / 0
    with pytest.raises(ValueError, match="positive"):
        sqrt(-2)
    with pytest.raises(ValueError, match="irreducible"):
        sqrt(Fraction(9, 4))


@settings(deadline=None)
@given(st.lists(fractions, min_size=15, max_size=15))
def test_linear_systems_against_sympy(entries):
    matrix = [entries[3 * i : 3 * i + 3] for i in range(3)]
    right = [entries[9 + 2 * i : 11 + 2 * i] for i in range(3)]
    theirs = sympy.Matrix(3, 3, [sympy.Rational(x) for x in entries[:9]])
    if theirs.det() == 0:
        with pytest.raises(ValueError, match="singular"):
            solve(matrix, right)
        return
    expected = theirs.LUsolve(sympy.Matrix(3, 2, [sympy.Rational(x) for x in entries[9:]]))
    assert sympy.Matrix(solve(matrix, right)) == expected


def test_a_linear_system_of_integers_stays_exact():
    third = Fraction(1, 3)
    assert solve([[3, 0], [1, 1]], [[1], [1]]) == ((third,), (2 * third,))


def test_linear_system_over_a_number_field():
    """The inverse of a matrix, whose first pivot is zero, times the matrix."""
    r = sqrt(5)
    matrix = [[Fraction(0), r, Fraction(1)], [1 + r, Fraction(2), r], [Fraction(3), r / 2, -r]]
    unit = [[Fraction(i == j) for j in range(3)] for i in range(3)]
    inverse = solve(matrix, unit)
    columns = list(zip(*inverse, strict=True))
    product = [
        [sum(x * y for x, y in zip(row, column, strict=True)) for column in columns]
        for row in matrix
    ]
    assert product == unit
    with pytest.raises(ValueError, match="singular"):
        solve([[r, Fraction(5)], [Fraction(1), r]], [[r], [r]])
