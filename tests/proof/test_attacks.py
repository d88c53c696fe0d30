"""Statements that once got past the kernel, or came close."""

from __future__ import annotations

import pytest
import sympy as sp

from companion.proof import BadStatement, Disproved, ProofError, Theorem, Undecided, VacuousCheck

a, x = sp.symbols("a x", real=True)
i, j = sp.symbols("i j", integer=True)
f = sp.Function("f")


def theorem() -> Theorem:
    return Theorem("attack", "x")


def at(expr: sp.Expr, point: int) -> sp.Expr:
    """The derivative of an expression in x at a point, not carried out."""
    return sp.Subs(sp.Derivative(expr, x), x, point)


KINKS = {
    "isolated point": at(sp.Piecewise((x**3, sp.Ne(x, 1)), (1, True)), 1),
    "jump": at(sp.Piecewise((sp.sin(x) / x, sp.Ne(x, 0)), (7, True)), 0),
    "kink": at(sp.Abs(x), 0),
    "maximum": at(sp.Max(x, 0), 0),
    "integral over a jump": sp.Integral(sp.Derivative(sp.Heaviside(x), x), (x, -1, 1)),
    "limit at a branch cut": sp.Limit(sp.arg(-1 + sp.I * x), x, 0, "-"),
}


@pytest.mark.parametrize("expr", KINKS.values(), ids=KINKS)
def test_calculus_on_functions_with_kinks_is_refused(expr):
    """SymPy goes branch by branch; some of these were "proved" to be any of two values."""
    for attempt in (theorem().prove, theorem().refute):
        with pytest.raises(BadStatement, match="smooth"):
            attempt("value", expr + a, a + sp.Rational(1, 2))


def test_kinks_outside_of_the_variable_are_allowed():
    slope = sp.Derivative(sp.Abs(a) * x**2, x)
    thm = theorem()
    thm.prove("slope", slope, 2 * sp.Abs(a) * x)
    assert thm.record.proofs[0].mutants > 0


def test_a_bound_variable_is_not_captured_by_an_index():
    """delta(i, j) F(j) = delta(i, j) F(i), but not where j is the variable of a limit.

    The cubic agrees with the true value at the indices 1 and 2, which the points take.
    """
    y = sp.Symbol("y")

    def body(u, v):
        return sp.sqrt(v + 1) * (u**3 - 6 * u**2 + 11 * u + 1) * f(y)

    delta = sp.KroneckerDelta(i, j)
    with pytest.raises((Undecided, Disproved)):
        theorem().prove(
            "captured",
            delta * sp.Limit(body(i, j), j, 3),
            delta * sp.Limit(body(j, j), j, 3),
        )


def test_an_infinite_sum_is_not_exchanged_with_an_integral():
    """The two sides are -1 and 0 at b = 1."""
    k, b, y = sp.Symbol("k", integer=True), sp.Symbol("b", positive=True), sp.Symbol("y")
    summand = (k + 1) * x**k - k * x ** (k - 1)
    with pytest.raises(ProofError):
        theorem().prove(
            "exchanged",
            sp.Integral(sp.Sum(summand * f(y), (k, 1, sp.oo)), (x, 0, b)),
            f(y) * sp.Sum(b ** (k + 1) - b**k, (k, 1, sp.oo)),
        )


@pytest.mark.parametrize("expected", [[1000.0, -1e-4], [1000.0, 5e-4], [[1.0], [1e-9]]])
def test_a_wrong_small_entry_does_not_hide_behind_a_large_one(expected):
    measured = [1000.0, 1e-4] if len(expected) == 2 and expected[0] == 1000 else [[1.0], [3e-9]]
    with pytest.raises(VacuousCheck):
        theorem().check("mixed", measured, expected, rtol=1e-7, atol=1e-3)


def test_an_exact_zero_among_others_may_be_checked():
    theorem().check("with a zero", [1.0, 1e-12], [1.0, 0.0], atol=1e-9)


def test_numbers_beyond_float64_are_refused():
    with pytest.raises(BadStatement, match="too large"):
        theorem().check("huge", [10**400], [1.0])


@pytest.mark.parametrize("attribute", ["name", "statement", "hypotheses"])
def test_what_is_proved_cannot_be_exchanged_afterwards(attribute):
    with pytest.raises(AttributeError):
        setattr(theorem(), attribute, "something-else")


def test_a_derivative_that_may_be_partial_or_total_is_refused():
    """SymPy's chain rule writes both alike, and a true statement was refuted."""
    p, x, y = sp.symbols("p x y", real=True)
    u, v, c = (sp.Function(name) for name in "uvc")
    composed = c(u(p), v(u(p))).diff(p)
    at = {x: u(p), y: v(u(p))}
    partials = [c(x, y).diff(s).subs(at) for s in (x, y)]
    claimed = partials[0] * u(p).diff(p) + partials[1] * v(x).diff(x).subs(x, u(p)) * u(p).diff(p)
    theorem = Theorem("chain", "c' = ...", hypotheses="c, u, v in C^1")
    for attempt in (theorem.prove, theorem.refute):
        with pytest.raises(BadStatement, match="more than one argument"):
            attempt("two ways through u", composed, claimed)


def test_a_derivative_by_a_function_in_one_argument_is_no_riddle():
    t = sp.Symbol("t", real=True)
    z, f = sp.Function("z"), sp.Function("f")
    x = sp.Symbol("x", real=True)
    theorem = Theorem("chain", "f' = ...", hypotheses="f, z in C^1")
    along = f(x, t).diff(x).subs(x, z(t)) * z(t).diff(t)
    theorem.prove("one way", f(z(t), t).diff(t), along + f(x, t).diff(t).subs(x, z(t)))
    with pytest.raises(Disproved):
        theorem.prove("the explicit t forgotten", f(z(t), t).diff(t), along)
