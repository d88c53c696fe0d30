"""Exact points: admissible, deterministic, and never wrong about a difference."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sympy as sp
from sympy.matrices.exceptions import ShapeError

from companion.proof.errors import Unevaluable
from companion.proof.evaluate import value
from companion.proof.instantiate import SCHEMES, points
from companion.proof.nonzero import is_certainly_nonzero
from companion.proof.refutation import Evaluated
from tests.proof.statements import (
    DF,
    A,
    G,
    I,
    a,
    adjoint,
    epsilon,
    f,
    g,
    i,
    j,
    k,
    m,
    n,
    q,
    s,
    t,
    u,
    w,
    x,
    y,
    z,
)


def first(expr):
    return value(expr, points([expr])[0])


@pytest.mark.parametrize(
    "assumptions",
    [
        {},
        {"real": True},
        {"positive": True},
        {"negative": True},
        {"nonnegative": True},
        {"nonzero": True},
        {"integer": True},
        {"integer": True, "positive": True},
        {"integer": True, "negative": True},
        {"even": True},
        {"odd": True},
        {"odd": True, "negative": True},
        {"prime": True},
        {"composite": True},
        {"zero": True},
        {"imaginary": True},
        {"rational": True, "integer": False},
        {"real": False},
        {"extended_real": True},
    ],
    ids=str,
)
def test_symbols_respect_their_assumptions(assumptions):
    symbol = sp.Symbol("symbol", **assumptions)
    for point in points([symbol]):
        number = point.symbol(symbol)
        for key, truth in symbol.assumptions0.items():
            assert getattr(number, f"is_{key}") is truth, (key, number)


def test_what_no_rational_can_be_is_not_evaluated():
    with pytest.raises(Unevaluable, match="irrational=True"):
        first(sp.Symbol("x", irrational=True))
    with pytest.raises(Unevaluable, match="no polynomial stands for f"):
        first(sp.Function("f", integer=True)(x))


def test_both_signs_and_a_complex_value_are_tried():
    values = [point.symbol(x) for point in points([x])]
    assert any(v.is_positive for v in values)
    assert any(v.is_negative for v in values)
    assert any(v.is_real is False for v in values)


def test_dimensions_differ_first_and_one_is_never_alone():
    chosen = [tuple(point.dimensions[d] for d in (m, n)) for point in points([DF])]
    assert chosen[0] == (2, 3)
    assert chosen[1] == (3, 2)
    assert (1, 1) in chosen
    assert len(chosen) == len(SCHEMES)


def test_bounds_of_sums_and_ranges_of_indices_are_dimensions():
    even = sp.Symbol("even", even=True, positive=True)
    assert points([sp.Sum(q[i], (i, 1, n))])[0].dimensions == {n: 2}
    assert points([q[I]])[0].dimensions == {n: 2}
    assert points([sp.IndexedBase("b", shape=(m,))[k]])[0].dimensions == {m: 2}
    nested = sp.Sum(sp.Sum(w[i, j], (j, 1, i)), (i, 1, even))
    assert [p.dimensions[even] % 2 for p in points([nested])] == [0] * len(SCHEMES)
    assert set(points([nested])[0].dimensions) == {even}


def test_functions_with_a_sign_keep_it():
    positive = sp.Function("f", positive=True)(t, s)
    negative = sp.Function("g", negative=True)(t)
    nonzero = sp.Function("h", nonzero=True)(t)
    for point in points([positive, negative, nonzero]):
        assert value(positive, point) > 0
        assert value(negative, point) < 0
        assert value(nonzero, point) != 0


def test_functions_are_functions():
    # One polynomial for all arguments, with enough derivatives that do not vanish.
    for point in points([f(x).diff(x, 4)]):
        at_two = value(f(sp.Integer(2)), point)
        assert value(sp.Subs(f(x), x, 2), point) == at_two
        assert value(f(x).diff(x, 4), point) != 0


VALUES = {
    "total derivative": (f(z(t), t).diff(t), sp.Derivative(f(z(t), t), t)),
    "derivative by a function": (sp.Derivative(f(z(t)) * t, z(t)), t * f(z(t)).diff(z(t))),
    "derivative with a velocity": (
        sp.Derivative(z(t) * z(t).diff(t), z(t), evaluate=False),
        z(t).diff(t),
    ),
    "derivative by an entry": (
        sp.Derivative(sp.Sum(q[i] ** 2, (i, 1, n)), q[I], evaluate=False),
        2 * q[I],
    ),
    "derivative by a matrix entry": (
        sp.Derivative((u.T * u)[0, 0], u[1, 0], evaluate=False),
        2 * u[1, 0],
    ),
    "second derivative": (sp.Derivative(x**3, (x, 2), evaluate=False), 6 * x),
    "integral with a variable limit": (
        sp.Derivative(sp.Integral(f(s) * t, (s, 0, t)), t),
        t * f(t) + sp.Integral(f(s), (s, 0, t)),
    ),
    "double integral": (
        sp.Integral(f(s, t), (s, 0, t), (t, 0, 1)),
        sp.Integral(f(s, t), (t, s, 1), (s, 0, 1)),
    ),
    "limit": (sp.Limit((f(t + epsilon) - f(t)) / epsilon, epsilon, 0), f(t).diff(t)),
    "noncommutative limit": (sp.Limit((a * epsilon + G * epsilon) / epsilon, epsilon, 0), a + G),
    "noncommutative derivative": (adjoint(t).diff(t), sp.Derivative(adjoint(t), t)),
    "transpose of noncommutative": (sp.transpose(a * G), sp.transpose(G) * sp.transpose(a)),
    "inverse of noncommutative": ((a * G) ** -1, G**-1 * a**-1),
    "trace": (sp.Trace(A), sp.Sum(A[k, k], (k, 0, n - 1))),
    "determinant": (sp.Determinant(A.T * A), sp.Determinant(A) ** 2),
    "inverse": (sp.Inverse(A) * A, sp.Identity(n)),
    "Hadamard": (sp.HadamardProduct(A, sp.OneMatrix(n, n)), A),
    "elementwise": (A.applyfunc(sp.Lambda(x, x**2)), sp.HadamardPower(A, 2)),
    "diagonal": (sp.DiagMatrix(u) * u, sp.HadamardPower(u, 2)),
    "product": (sp.Product(k, (k, 1, n)), sp.factorial(n)),
    "piecewise": (sp.Piecewise((x, n > 0), (y, True)), x),
    "infinite sum": (sp.Sum(x**k / sp.factorial(k), (k, 0, sp.oo)), sp.exp(x)),
    "Euler": (sp.Derivative(f(x * y), x) * x, sp.Derivative(f(x * y), y) * y),
}


@pytest.mark.parametrize(("one", "two"), VALUES.values(), ids=VALUES)
def test_evaluation_agrees_with_itself(one, two):
    found = 0
    for point in points([one, two]):
        try:
            left, right = value(one, point), value(two, point)
        except (Unevaluable, ShapeError):
            continue
        found += 1
        difference = left - right
        entries = difference if isinstance(difference, sp.MatrixBase) else [difference]
        assert all(sp.simplify(entry) == 0 for entry in entries)
    assert found >= 2


NO_VALUE = {
    "pole": sp.Sum(1 / (k - 2), (k, 1, n)),
    "divergent integral": sp.Integral(1 / t, (t, 0, 1)),
    "divergent sum": sp.Sum(1, (k, 1, sp.oo)),
    "singular matrix": sp.Inverse(sp.OneMatrix(n, n)),
    "infinite": sp.oo + x,
    "unknown node": sp.Order(x),
    "index out of an empty range": q[sp.Idx("i", (1, n - 2))],
    "half a term": sp.Sum(q[k], (k, 1, sp.Rational(5, 2))),
}


@pytest.mark.parametrize("expr", NO_VALUE.values(), ids=NO_VALUE)
def test_what_has_no_value_is_not_evaluated(expr):
    with pytest.raises(Unevaluable):
        first(expr)


def test_certainly_nonzero():
    assert is_certainly_nonzero(sp.Rational(1, 10**30))
    assert is_certainly_nonzero(sp.sqrt(2) + sp.sqrt(3) - sp.pi)
    assert is_certainly_nonzero(sp.log(-2) + sp.log(-3) - sp.log(6))
    assert is_certainly_nonzero(sp.exp(-100))
    assert is_certainly_nonzero(sp.I)
    assert not is_certainly_nonzero(sp.S.Zero)
    assert not is_certainly_nonzero(sp.sqrt(6) - sp.sqrt(2) * sp.sqrt(3))
    hidden = sp.atan(sp.Rational(1, 2)) + sp.atan(sp.Rational(1, 3)) - sp.pi / 4
    assert not is_certainly_nonzero(hidden)
    assert not is_certainly_nonzero(hidden * 10**150)
    assert is_certainly_nonzero(hidden + sp.I * (sp.sqrt(2) + sp.sqrt(3) - sp.pi))
    assert not is_certainly_nonzero((1 + sp.I) ** 2 - 2 * sp.I)


def test_two_unknown_numbers_differ():
    assert Evaluated(x).differs_from(y) is not None
    assert Evaluated(f(x)).differs_from(g(x)) is not None
    assert Evaluated(q[1]).differs_from(q[2]) is not None
    assert Evaluated(a).differs_from(G) is not None


def test_values_do_not_depend_on_the_process():
    program = (
        "import sympy as sp\n"
        "from companion.proof.instantiate import points\n"
        "from companion.proof.evaluate import value\n"
        "x, y = sp.symbols('x y'); f = sp.Function('f')\n"
        "n = sp.Symbol('n', integer=True, positive=True); A = sp.MatrixSymbol('A', n, n)\n"
        "e = f(x, y) + sp.Trace(A * A)\n"
        "p = points([e])[0]; print(value(e, p), p.describe())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
