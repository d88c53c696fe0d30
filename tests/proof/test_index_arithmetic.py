"""Sums whose indices are added, stretched and turned round: what a convolution needs."""

from __future__ import annotations

from itertools import product

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.proof.normal import normal
from companion.proof.sums import _in_range
from companion.proof.zero import residual

delta = sp.KroneckerDelta
a, b, i, j, t, u = sp.symbols("a b i j t u", integer=True)
k, m, n, s, d = sp.symbols("k m n s d", integer=True, positive=True)
r = sp.Symbol("r", integer=True, nonnegative=True)
q, w, x = sp.IndexedBase("q"), sp.IndexedBase("w"), sp.IndexedBase("x")
LAST = s * (m - 1) + d * (k - 1)


def equal(one: sp.Expr, two: sp.Expr) -> bool:
    return residual(one, two) == 0


def outputs(position: sp.Expr, last: sp.Expr) -> sp.Expr:
    return sp.Sum(delta(u, position) * w[a] * x[u], (i, 0, m - 1), (a, 0, k - 1), (u, 0, last))


def test_a_delta_picks_a_sum_of_indices_that_stays_in_the_range():
    position = s * i + d * a
    direct = sp.Sum(w[a] * x[position], (i, 0, m - 1), (a, 0, k - 1))
    assert equal(outputs(position, LAST), direct)
    assert equal(outputs(position, LAST + r), direct)


@pytest.mark.parametrize(
    ("position", "last"),
    [
        (s * i + d * a, LAST - 1),
        (s * i + d * a, LAST - r),
        (s * i + d * a - 1, LAST),
        (s * i + d * a + 1, LAST),
        (s * i - d * a, LAST),
        (i * a, (m - 1) * (k - 1)),
        (t * i + d * a, LAST),
    ],
    ids=[
        "too short",
        "perhaps too short",
        "before",
        "after",
        "minus",
        "a product",
        "sign unknown",
    ],
)
def test_a_delta_that_may_point_outside_the_range_stays(position, last):
    direct = sp.Sum(w[a] * x[position], (i, 0, m - 1), (a, 0, k - 1))
    assert not equal(outputs(position, last), direct)


def test_a_curve_is_not_judged_by_its_ends():
    assert _in_range(r * i, sp.S.Zero, r**2, ((i, 0, r),))
    assert not _in_range(r * i - i**2, sp.S.Zero, sp.S.Zero, ((i, 0, r),))


def test_a_falling_index_lies_in_its_range():
    turned = sp.Sum(delta(u, k - 1 - a) * w[a] * x[u], (a, 0, k - 1), (u, 0, k - 1))
    assert equal(turned, sp.Sum(w[a] * x[k - 1 - a], (a, 0, k - 1)))


def test_a_position_between_two_integers_is_none():
    number = sp.Symbol("number", nonnegative=True)
    total = sp.Sum(delta(u, number) * x[u], (u, 0, number))
    assert not equal(total, x[number])


@settings(deadline=None)
@given(
    slopes=st.tuples(*[st.integers(-2, 2)] * 2),
    shift=st.integers(-3, 3),
    ends=st.tuples(*[st.integers(-2, 3)] * 2),
)
def test_what_is_said_to_lie_in_a_range_does(slopes, shift, ends):
    last, end = sp.symbols("last end", integer=True, nonnegative=True)
    lower, upper = ends[0], ends[1] + last + end
    expr = sp.expand(slopes[0] * s * i + slopes[1] * a + shift)
    if not _in_range(expr, sp.Integer(lower), upper, ((i, 0, last), (a, 0, end))):
        return
    for sizes in product((0, 1, 2), (0, 1, 2), (1, 2, 3)):
        at = dict(zip((last, end, s), sizes, strict=True))
        for first, second in product(range(sizes[0] + 1), range(sizes[1] + 1)):
            value = expr.subs({**at, i: first, a: second})
            assert lower <= value <= upper.subs(at)


def test_a_convolution_commutes():
    one = sp.Sum(w[a] * x[n - a], (a, 0, n))
    assert equal(one, sp.Sum(x[a] * w[n - a], (a, 0, n)))
    assert not equal(one, sp.Sum(x[a] * w[n - 1 - a], (a, 0, n)))
    assert not equal(one, sp.Sum(x[a] * w[n - a], (a, 0, n - 1)))
    assert not equal(one, sp.Sum(w[a] * x[a], (a, 0, n)))


def test_a_sum_may_be_read_from_its_other_end():
    assert equal(sp.Sum(x[n - a], (a, 0, n)), sp.Sum(x[a], (a, 0, n)))
    assert equal(sp.Sum(x[n + 2 - a], (a, 2, n)), sp.Sum(x[a], (a, 2, n)))
    assert not equal(sp.Sum(x[n - a], (a, 1, n)), sp.Sum(x[a], (a, 1, n)))
    both = sp.Sum(w[k - 1 - a, n - b] * x[a, b], (a, 0, k - 1), (b, 0, n))
    assert equal(both, sp.Sum(w[a, b] * x[k - 1 - a, n - b], (a, 0, k - 1), (b, 0, n)))
    assert equal(both, sp.Sum(w[k - 1 - a, b] * x[a, n - b], (a, 0, k - 1), (b, 0, n)))
    assert not equal(both, sp.Sum(w[k - 1 - a, b] * x[a, b], (a, 0, k - 1), (b, 0, n)))
    assert not equal(both, sp.Sum(w[a, b] * x[a, b], (a, 0, k - 1), (b, 0, n)))


def test_a_bound_that_depends_on_another_index_is_not_turned_round():
    below = sp.Sum(w[i - j, j], (j, 0, i), (i, 0, n))
    assert not equal(below, sp.Sum(w[j, i], (j, 0, i), (i, 0, n)))


def test_turning_a_sum_round_captures_nothing():
    # The n of the infinite sum is not the n to which the finite one runs.
    f = sp.Function("f")
    total = sp.Sum(w[n - a] * sp.Sum(f(n, a), (n, 1, sp.oo)), (a, 0, n))
    captured = sp.Sum(w[a] * sp.Sum(f(n, n - a), (n, 1, sp.oo)), (a, 0, n))
    assert not equal(total, captured)


def test_deltas_count_differences_only():
    free, other = sp.Idx("p", (0, n)), sp.Idx("p'", (0, n))
    assert equal(delta(free + 1, other + 1), delta(other, free))
    assert equal(delta(free + s, other), delta(other - s, free))
    assert not equal(delta(free + s, other), delta(free, other + s))
    assert normal(2 * delta(free + s, other)) == normal(2 * delta(other - s, free))
    assert not equal(delta(2 * free, 2 * other), delta(2 * free, other))
    shifted = sp.Sum(delta(free + s, s * i + s + d * a) * w[i, a], (i, 0, m - 1), (a, 0, k - 1))
    assert equal(
        shifted, sp.Sum(delta(d * a + s * i, free) * w[i, a], (i, 0, m - 1), (a, 0, k - 1))
    )
    assert not equal(
        shifted, sp.Sum(delta(d * i + s * a, free) * w[i, a], (i, 0, m - 1), (a, 0, k - 1))
    )


def test_the_order_of_six_sums_does_not_matter():
    limits = [(a, 0, k - 1), (b, 0, k - 1), (i, 0, m - 1), (j, 0, m - 1), (t, 0, n), (u, 0, n)]
    body = q[a, i, t] * w[b, j, u] * x[i + a, j + b]
    there, back = sp.Sum(body, *limits), sp.Sum(body, *reversed(limits))
    assert normal(there) == normal(back)
    swapped = q[a, j, t] * w[b, i, u] * x[i + a, j + b]
    assert normal(sp.Sum(swapped, *limits)) != normal(there)
