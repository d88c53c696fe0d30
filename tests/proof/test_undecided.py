"""A simplification that does not arrive at zero is never taken for a proof."""

from __future__ import annotations

import pytest
import sympy as sp

from companion.proof import Disproved, Theorem, Undecided, zero
from tests.proof.statements import A, B, G, a, t, x

TRUE_BUT_HARD = {
    "arc tangents": (sp.atan(sp.Rational(1, 2)) + sp.atan(sp.Rational(1, 3)), sp.pi / 4),
    "Machin": (4 * sp.atan(sp.Rational(1, 5)) - sp.atan(sp.Rational(1, 239)), sp.pi / 4),
    "inverse of a sum": (A * (A + B).I + B * (A + B).I, sp.Identity(A.rows)),
    "exponential of a noncommuting sum": (sp.exp(G + a), sp.exp(a) * sp.exp(G)),
}


@pytest.mark.parametrize(("derived", "claimed"), TRUE_BUT_HARD.values(), ids=TRUE_BUT_HARD)
def test_what_is_not_reduced_to_zero_is_undecided(derived, claimed):
    theorem = Theorem("hard", "a = b")
    with pytest.raises(Undecided, match=r"^step: no proof and no counterexample"):
        theorem.prove("step", derived, claimed)
    assert theorem.record.evidence == ()


@pytest.mark.parametrize(
    "failure", [RecursionError, NotImplementedError, sp.PolynomialError, ValueError]
)
def test_where_the_algebra_system_fails_nothing_is_proved(monkeypatch, failure):
    def fail(expr):
        raise failure("no")

    monkeypatch.setattr(zero.sp, "simplify", fail)
    monkeypatch.setattr(zero, "normal", fail)
    with pytest.raises(Undecided):
        Theorem("failing", "a = b").prove("step", sp.gamma(x + 1) / sp.gamma(x), x)


def test_undecided_shows_what_is_left():
    with pytest.raises(Undecided, match=r"atan\(1/3\)"):
        Theorem("hard", "a = b").prove("step", *TRUE_BUT_HARD["arc tangents"])


def test_a_simplifier_that_gives_up_proves_nothing(monkeypatch):
    # True, and decided only by simplify: without it, it must be undecided, not proved.
    derived, claimed = sp.gamma(x + 1) / sp.gamma(x), x
    Theorem("gamma", "a = b").prove("step", derived, claimed)
    monkeypatch.setattr(zero.sp, "simplify", lambda expr: expr)
    with pytest.raises(Undecided):
        Theorem("gamma", "a = b").prove("step", derived, claimed)


@pytest.mark.parametrize("answer", [None, False, sp.nan, sp.S.true, sp.Symbol("zero")])
def test_only_the_exact_zero_counts(monkeypatch, answer):
    monkeypatch.setattr(zero, "_forms", lambda difference: iter([sp.sympify(answer)]))
    with pytest.raises((Undecided, AttributeError)):
        Theorem("bogus", "a = b").prove("step", sp.sin(t) ** 2, 1 - sp.cos(t) ** 2)


def test_a_simplifier_that_lies_is_contradicted_by_the_points(monkeypatch):
    monkeypatch.setattr(zero.sp, "simplify", lambda expr: sp.S.Zero)
    monkeypatch.setattr(zero, "normal", lambda expr: sp.S.Zero)
    with pytest.raises(Disproved):
        Theorem("liar", "a = b").prove("step", sp.sqrt(x**2), x)
