"""Unknowns and statements that several test files use."""

from __future__ import annotations

from types import SimpleNamespace

import sympy as sp

n, m, p = sp.symbols("n m p", integer=True, positive=True)
i, j, k = sp.symbols("i j k", integer=True)
x, y = sp.symbols("x y")
t, s, t0, t1, epsilon = sp.symbols("t s t0 t1 epsilon", real=True)
theta, z0 = sp.symbols("theta z0", real=True)
f, g, z = sp.Function("f"), sp.Function("g"), sp.Function("z")
I, J = sp.Idx("i", (1, n)), sp.Idx("j", (1, n))
q, w = sp.IndexedBase("q"), sp.IndexedBase("w")

# Matrices of symbolic size: a Jacobian, a square matrix, a row and two columns.
DF = sp.MatrixSymbol("DF", m, n)
A, B = sp.MatrixSymbol("A", n, n), sp.MatrixSymbol("B", n, n)
u, v = sp.MatrixSymbol("u", n, 1), sp.MatrixSymbol("v", m, 1)

# Square matrices of any size, as noncommutative symbols.
a, G, R = sp.symbols("a G R", commutative=False)
adjoint = sp.Function("a", commutative=False)
weight = sp.Function("W", commutative=False)


def invariant(adjoint_matrix) -> sp.Expr:
    """d(sum a_i dz_i)/dt, when da_i/dt = -sum_k a_k adjoint_matrix(i, k)."""
    adj, dz, jac = sp.IndexedBase("a"), sp.IndexedBase("dz"), sp.IndexedBase("J")
    adj_dot = -sp.Sum(adj[k] * adjoint_matrix(jac, i, k), (k, 1, n))
    dz_dot = sp.Sum(jac[i, k] * dz[k], (k, 1, n))
    return sp.Sum(adj_dot * dz[i] + adj[i] * dz_dot, (i, 1, n))


def linear_ode() -> SimpleNamespace:
    """dz/dt = theta z with L = z(t1)^2/2: the gradient and the integrand a df/dtheta."""
    state = z0 * sp.exp(theta * (t - t0))
    final = state.subs(t, t1)
    return SimpleNamespace(
        gradient=sp.diff(final**2 / 2, theta),
        integrand=final * sp.exp(theta * (t1 - t)) * state,
    )


def augmented() -> SimpleNamespace:
    """The vector field [f, 0, 1] of 2 states, 3 parameters and time, and its Jacobian."""
    states = sp.Matrix(sp.symbols("z1:3"))
    parameters = sp.Matrix(sp.symbols("theta1:4"))
    field = sp.Matrix([sp.Function(f"f{r}")(*states, *parameters, t) for r in (1, 2)])
    whole = sp.Matrix([*states, *parameters, t])
    row = [
        sp.Matrix([sp.symbols("a1:3")]),
        sp.Matrix([sp.symbols("b1:4")]),
        sp.Matrix([[sp.Symbol("c")]]),
    ]
    blocks = [field.jacobian(states), field.jacobian(parameters), field.diff(t)]
    return SimpleNamespace(
        row=sp.Matrix.hstack(*row),
        jacobian=sp.Matrix([*field, 0, 0, 0, 1]).jacobian(whole),
        claimed=sp.Matrix.vstack(sp.Matrix.hstack(*blocks), sp.zeros(4, 6)),
        products=[row[0] * block for block in blocks],
    )


def block_row() -> SimpleNamespace:
    """[a, a_theta, a_t] times the block Jacobian, for any number of states and parameters."""
    a_z, a_theta, a_t = (
        sp.MatrixSymbol(name, 1, size)
        for name, size in (("a_z", n), ("a_theta", p), ("a_t", sp.S.One))
    )
    top = [sp.MatrixSymbol(f"F{c}", n, size) for c, size in enumerate((n, p, sp.S.One))]
    zeros = [[sp.ZeroMatrix(r, c) for c in (n, p, 1)] for r in (p, 1)]
    return SimpleNamespace(
        product=-sp.BlockMatrix([[a_z, a_theta, a_t]]) * sp.BlockMatrix([top, *zeros]),
        claimed=-sp.BlockMatrix([[a_z * block for block in top]]),
        wrong=sp.BlockMatrix([[a_z * block for block in top]]),
    )
