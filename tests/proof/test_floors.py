"""Division with remainder: carried out where it is certain, and nowhere else."""

from __future__ import annotations

import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from companion.proof import Disproved, Theorem, Undecided
from companion.proof.floors import normal_division
from companion.proof.zero import residual

q, r, t = sp.symbols("q r t", integer=True, nonnegative=True)
s = r + t + 1  # any divisor that is greater than the remainder
free = sp.Symbol("s", integer=True, positive=True)
some = sp.Symbol("z", integer=True)
real = sp.Symbol("x", real=True)
ratio = sp.Symbol("y", positive=True)
x = sp.IndexedBase("x")


def equal(one, two) -> bool:
    return residual(sp.sympify(one), sp.sympify(two)) == 0


@pytest.mark.parametrize(
    ("division", "value"),
    [
        (sp.floor((q * s + r) / s), q),
        (sp.floor((q * s + r) / s) ** 2, q**2),
        (sp.floor((some * s + r) / s), some),
        (sp.floor((q * free - 1) / free), q - 1),
        (sp.floor((q * s - 1) / s), q - 1),
        (sp.floor((-q * s - r - 1) / s), -q - 1),
        (sp.ceiling((q * s + r + 1) / s), q + 1),
        (sp.ceiling(q * s / s), q),
        (sp.Mod(q * s + r, s), r),
        (sp.Mod(some * free - 1, free), free - 1),
        (sp.floor(real / (real**2 + 1) + q), q + sp.floor(real / (real**2 + 1))),
    ],
    ids=str,
)
def test_certain(division, value):
    assert equal(division, value)
    assert not equal(division, value + 1)


@pytest.mark.parametrize(
    ("division", "value"),
    [
        (sp.floor((q * free + r) / free), q),  # r may be as great as s
        (sp.floor((q * s + r + 1) / s), q),  # r + 1 = s where t = 0
        (sp.floor((q * s - r) / s), q),
        (sp.floor((some * s + some) / s), some),
        (sp.floor(q * some / some), q + 1),
        (sp.floor((q * some + r) / (some + r + 1)), q),  # a divisor of either sign
        (sp.floor((real * s + r) / s), real),  # no integer
        (sp.ceiling((q * s + r) / s), q + 1),  # r may be 0
        (sp.Mod(q * free + r, free), r),
    ],
    ids=str,
)
def test_uncertain(division, value):
    assert not equal(division, value)


def test_where_a_quotient_is_not_whole_the_floor_stays():
    assert normal_division(sp.floor((q * free) / (2 * free))) == sp.floor(q / 2)
    assert normal_division(real + 1) == real + 1


small = st.integers(-2, 2)
polynomials = st.tuples(small, small, small, small, small).map(
    lambda c: c[0] + c[1] * q + c[2] * r + c[3] * t + c[4] * q * r
)


@settings(deadline=None)
@given(quotient=polynomials, remainder=polynomials, divisor=polynomials)
def test_what_is_said_is_true_at_every_small_point(quotient, remainder, divisor):
    assume(divisor.free_symbols)
    for function in (sp.floor, sp.ceiling):
        given_ = function(sp.Mul(quotient * divisor + remainder, 1 / divisor, evaluate=False))
        said = normal_division(given_)
        if said == given_:
            continue
        for values in ((0, 0, 0), (1, 0, 2), (2, 3, 0), (0, 1, 1), (3, 2, 5)):
            at = dict(zip((q, r, t), values, strict=True))
            if divisor.subs(at) != 0:
                exact = sp.Rational((quotient * divisor + remainder).subs(at), divisor.subs(at))
                assert said.subs(at) == function(exact)


def test_proofs():
    theorem = Theorem("starts", "number of starts")
    theorem.prove("count", sp.floor((q * s + r) / s) + 1, q + 1)
    with pytest.raises(Disproved):
        theorem.prove("one too few", sp.floor((q * s + r) / s) + 1, q)
    with pytest.raises(Disproved):
        theorem.prove("without the remainder", sp.ceiling((q * s + r) / s), q)
    with pytest.raises(Undecided):
        theorem.prove("true, but not certain", sp.floor(ratio / (ratio**2 + 1)) + q, q)


def test_indices_are_expanded():
    assert equal(x[free * (some + 1)], x[free * some + free])
    assert not equal(x[free * (some + 1)], x[free * some + 1])
