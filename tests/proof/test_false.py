"""False statements are refuted, with the point that refutes them."""

from __future__ import annotations

import pytest
import sympy as sp

from companion.proof import Disproved, Theorem
from companion.proof.zero import residual
from tests.proof.statements import (
    DF,
    A,
    B,
    G,
    I,
    R,
    a,
    augmented,
    block_row,
    epsilon,
    f,
    g,
    i,
    invariant,
    j,
    k,
    linear_ode,
    n,
    q,
    s,
    t,
    t0,
    t1,
    theta,
    u,
    v,
    w,
    x,
    y,
    z,
)

ODE = linear_ode()
AUGMENTED = augmented()
BLOCKS = block_row()
LIMIT = sp.Limit((a - a * (1 + epsilon * G + epsilon**2 * R)) / epsilon, epsilon, 0)

FALSE = {
    "wrong sign": (LIMIT, a * G),
    "wrong sign, matrices": (DF.T * v, -DF.T * v),
    "wrong sign, blocks": (BLOCKS.product, BLOCKS.wrong),
    "wrong sign in one entry": (
        AUGMENTED.jacobian,
        AUGMENTED.claimed - 2 * sp.diag(AUGMENTED.claimed[0, 0], 0, 0, 0, 0, 0),
    ),
    "wrong order of factors": (LIMIT, -G * a),
    "wrong order of matrices": (A * B, B * A),
    "difference of words with opposite coefficients": (A * B * A, A * A * B),
    "missing transpose": ((A * B).T, A.T * B.T),
    "missing transpose, indices": (invariant(lambda jac, r, c: jac[r, c]), sp.S.Zero),
    "factor 2": (sp.diff(x**2, x), x),
    "factor 2, sum": (sp.diff(sp.Sum(q[k] ** 2, (k, 1, n)), q[I]), q[I]),
    "only for symmetric matrices": (A * u, A.T * u),
    "only for symmetric matrices, gradient": (
        sp.diff(sp.Sum(w[k, j] * q[k] * q[j], (k, 1, n), (j, 1, n)), q[I]),
        2 * sp.Sum(w[I, j] * q[j], (j, 1, n)),
    ),
    "only for n = 1, sum": (sp.Sum(q[i], (i, 1, n)) ** 2, sp.Sum(q[i] ** 2, (i, 1, n))),
    "only for n = 1, trace": (sp.Trace(A) * sp.Trace(B), sp.Trace(A * B)),
    "only for n = 1, identity": (sp.Trace(sp.Identity(n)), sp.S.One),
    "only for n > 1": (sp.Sum(sp.KroneckerDelta(k, 2), (k, 1, n)), sp.S.One),
    "limits of the integral swapped": (ODE.gradient, -sp.Integral(ODE.integrand, (t, t0, t1))),
    "limits swapped, undefined function": (
        sp.Integral(f(t), (t, t0, t1)),
        sp.Integral(f(s), (s, t1, t0)),
    ),
    "boundary term with the wrong sign": (
        sp.Integral(f(t).diff(t) * g(t), (t, t0, t1)),
        f(t1) * g(t1) + f(t0) * g(t0) - sp.Integral(f(t) * g(t).diff(t), (t, t0, t1)),
    ),
    "missing factor of the chain rule": (f(z(t)).diff(t), sp.Subs(f(s).diff(s), s, z(t))),
    "missing term of the total derivative": (
        f(z(t), t).diff(t),
        sp.Subs(f(s, t).diff(s), s, z(t)) * z(t).diff(t),
    ),
    "partial derivatives exchanged": (f(x, y).diff(x), f(x, y).diff(y)),
    "square root of a square": (sp.sqrt(x**2), x),
    "absolute value of a real": (sp.Abs(theta), theta),
    "logarithm of a product": (sp.log(x * y), sp.log(x) + sp.log(y)),
    "logarithm of an exponential": (sp.log(sp.exp(s * sp.I)), s * sp.I),
    "power of a power": ((x**2) ** sp.Rational(3, 2), x**3),
    "conjugate of a complex number": (sp.conjugate(x), x),
    "square root of a product": (sp.sqrt(x * y), sp.sqrt(x) * sp.sqrt(y)),
    "shape": (u, u.T),
    "scalar and matrix": (u.T * u, sp.Trace(u.T * u)),
}


@pytest.mark.parametrize(("derived", "claimed"), FALSE.values(), ids=FALSE)
def test_false_statement_is_disproved(derived, claimed):
    theorem = Theorem("false", "a = b")
    with pytest.raises(Disproved):
        theorem.prove("step", derived, claimed)
    assert theorem.record.evidence == ()


SHAPES = {"shape", "scalar and matrix"}


@pytest.mark.parametrize(
    ("derived", "claimed"),
    [pair for name, pair in FALSE.items() if name not in SHAPES],
    ids=[name for name in FALSE if name not in SHAPES],
)
def test_simplification_alone_finds_no_zero_either(derived, claimed):
    # The points catch false statements before anything is rewritten; the rewriting must be
    # sound by itself as well.
    assert residual(derived, sp.sympify(claimed)) != 0


def test_the_message_names_the_step_and_the_point():
    with pytest.raises(Disproved, match=r"the root: false at x = -.*derived - claimed = "):
        Theorem("false", "a = b").prove("the root", sp.sqrt(x**2), x)
    with pytest.raises(Disproved, match=r"n = 2.*A\[0,1\] = "):
        Theorem("false", "a = b").prove("the transpose", A * u, A.T * u)


def test_the_same_identities_hold_under_the_assumptions_that_make_them_true():
    r, c = sp.symbols("r c", positive=True)
    theorem = Theorem("true", "a = b")
    theorem.prove("root", sp.sqrt(r**2), r)
    theorem.prove("logarithm", sp.log(r * c), sp.log(r) + sp.log(c))
    theorem.prove("absolute value", sp.Abs(theta) ** 2, theta**2)
    real = sp.Symbol("x", real=True)
    theorem.prove("conjugate", sp.conjugate(real), real)
    assert len(theorem.record.proofs) == 4
