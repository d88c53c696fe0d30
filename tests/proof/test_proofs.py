"""True statements of the kinds that the chapters need are proved."""

from __future__ import annotations

import pytest
import sympy as sp

from companion.proof import Theorem
from tests.proof.statements import (
    DF,
    A,
    B,
    G,
    I,
    J,
    R,
    a,
    adjoint,
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
    m,
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
    weight,
    x,
    y,
    z,
)

ODE = linear_ode()
AUGMENTED = augmented()
BLOCKS = block_row()
PARTITION = sp.Sum(sp.exp(q[j]), (j, 1, n))

TRUE = {
    "adjoint, epsilon limit": (
        sp.Limit((a - a * (1 + epsilon * G + epsilon**2 * R)) / epsilon, epsilon, 0),
        -a * G,
    ),
    "adjoint, epsilon limit with a(t + epsilon)": (
        sp.Limit(
            (adjoint(t + epsilon) - adjoint(t + epsilon) * (1 + epsilon * G + epsilon**2 * R))
            / epsilon,
            epsilon,
            0,
        ),
        -adjoint(t) * G,
    ),
    "adjoint, remainder a function of epsilon": (
        sp.Limit((a - a * (1 + epsilon * G + epsilon**2 * weight(epsilon))) / epsilon, epsilon, 0),
        -a * G,
    ),
    "difference quotient": (sp.Limit((f(t + epsilon) - f(t)) / epsilon, epsilon, 0), f(t).diff(t)),
    "bilinear invariant": (invariant(lambda jac, r, c: jac[c, r]), 0),
    "block Jacobian, 2 states and 3 parameters": (AUGMENTED.jacobian, AUGMENTED.claimed),
    "block product, 2 states and 3 parameters": (
        -AUGMENTED.row * AUGMENTED.jacobian,
        -sp.Matrix.hstack(*AUGMENTED.products),
    ),
    "block product, any dimensions": (BLOCKS.product, BLOCKS.claimed),
    "gradient integral": (ODE.gradient, sp.Integral(ODE.integrand, (t, t0, t1))),
    "gradient integral, reversed limits": (ODE.gradient, -sp.Integral(ODE.integrand, (t, t1, t0))),
    "vector-Jacobian product": ((DF.T * v).T * u, v.T * DF * u),
    "vector-Jacobian product transposed": ((v.T * DF * u).T, u.T * DF.T * v),
    "trace of an outer product": (sp.Trace(v.T * DF * u), sp.Trace(DF.T * v * u.T)),
    "entry of a product": ((DF * u)[k, 0], sp.Sum(DF[k, j] * u[j, 0], (j, 0, n - 1))),
    "inverse of a product": ((A * B).I.T, A.T.I * B.T.I),
    "quadratic form": (u.T * A * u, u.T * A.T * u),
    "gradient of a quadratic form": (
        sp.diff(sp.Sum(w[k, j] * q[k] * q[j], (k, 1, n), (j, 1, n)), q[I]),
        sp.Sum((w[I, j] + w[j, I]) * q[j], (j, 1, n)),
    ),
    "softmax": (
        sp.diff(sp.exp(q[I]) / PARTITION, q[J]),
        sp.exp(q[I]) / PARTITION * (sp.KroneckerDelta(I, J) - sp.exp(q[J]) / PARTITION),
    ),
    "contraction": (sp.Sum(sp.KroneckerDelta(I, k) * q[k], (k, 1, n)), q[I]),
    "double sum in the other order": (
        sp.Sum(sp.Sum(w[i, j] * q[j], (j, 1, n)), (i, 1, m)),
        sp.Sum(sp.Sum(w[k, i] * q[i], (k, 1, m)), (i, 1, n)),
    ),
    "square of a sum": (
        sp.Sum(q[i], (i, 1, n)) ** 2,
        sp.Sum(q[j] * q[k], (j, 1, n), (k, 1, n)),
    ),
    "explicit sum": (sp.Sum(q[i] ** 2, (i, 1, 3)), q[1] ** 2 + q[2] ** 2 + q[3] ** 2),
    "sum of squares of integers": (sp.Sum(k**2, (k, 1, n)), n * (n + 1) * (2 * n + 1) / 6),
    "chain rule": (f(z(t)).diff(t), sp.Subs(f(s).diff(s), s, z(t)) * z(t).diff(t)),
    "chain rule, several arguments": (
        f(z(t), theta, t).diff(t),
        sp.Subs(f(s, theta, t1).diff(s), (s, t1), (z(t), t)) * z(t).diff(t)
        + sp.Subs(f(z(t), theta, s).diff(s), s, t),
    ),
    "product rule, noncommutative": (
        (adjoint(t) * weight(t)).diff(t),
        adjoint(t).diff(t) * weight(t) + adjoint(t) * weight(t).diff(t),
    ),
    "fundamental theorem": (sp.Integral(f(t).diff(t), (t, t0, t1)), f(t1) - f(t0)),
    "derivative of an integral": (
        sp.Derivative(sp.Integral(f(s, t), (s, t0, t)), t),
        f(t, t) + sp.Integral(f(s, t).diff(t), (s, t0, t)),
    ),
    "adjacent intervals": (
        sp.Integral(f(t), (t, t0, t1)) + sp.Integral(f(t), (t, t1, s)),
        sp.Integral(f(t), (t, t0, s)),
    ),
    "integration by parts": (
        sp.Integral(f(t).diff(t) * g(t), (t, t0, t1)),
        f(t1) * g(t1) - f(t0) * g(t0) - sp.Integral(f(t) * g(t).diff(t), (t, t0, t1)),
    ),
    "integration by parts, noncommutative": (
        sp.Integral(adjoint(t).diff(t) * weight(t), (t, t0, t1)),
        adjoint(t1) * weight(t1)
        - adjoint(t0) * weight(t0)
        - sp.Integral(adjoint(t) * weight(t).diff(t), (t, t0, t1)),
    ),
    "integral of half a square": (
        sp.Integral(f(t) * f(t).diff(t), (t, t0, t1)),
        (f(t1) ** 2 - f(t0) ** 2) / 2,
    ),
    "Green's second identity": (
        sp.Integral(f(t).diff(t, 2) * g(t) - f(t) * g(t).diff(t, 2), (t, t0, t1)),
        (f(t).diff(t) * g(t) - f(t) * g(t).diff(t)).subs(t, t1)
        - (f(t).diff(t) * g(t) - f(t) * g(t).diff(t)).subs(t, t0),
    ),
    "integral of a total derivative under a sum": (
        sp.Integral(sp.Sum((f(i, t) * g(i, t)).diff(t), (i, 1, n)), (t, t0, t1)),
        sp.Sum(f(i, t1) * g(i, t1) - f(i, t0) * g(i, t0), (i, 1, n)),
    ),
    "partial derivatives commute": (f(x, y).diff(x, y), f(x, y).diff(y, x)),
    "trigonometric": (sp.sin(x + y), sp.sin(x) * sp.cos(y) + sp.cos(x) * sp.sin(y)),
    "hyperbolic": (1 - sp.tanh(x) ** 2, 1 / sp.cosh(x) ** 2),
    "rational": (1 / (x - y) - 1 / (x + y), 2 * y / (x**2 - y**2)),
    "array": (sp.derive_by_array(x * y**2, (x, y)), sp.Matrix([y**2, 2 * x * y])),
}


@pytest.mark.parametrize(("derived", "claimed"), TRUE.values(), ids=TRUE)
def test_true_statement_is_proved(derived, claimed):
    theorem = Theorem("true", "a = b")
    theorem.prove("step", derived, claimed)
    (proof,) = theorem.record.proofs
    assert proof.mutants >= 3
