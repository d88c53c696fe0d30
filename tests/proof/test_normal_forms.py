"""The rewriting: traps in which a careless one would prove something false."""

from __future__ import annotations

import sympy as sp

from companion.proof.normal import normal
from companion.proof.partials import as_partial
from companion.proof.words import words
from companion.proof.zero import residual
from tests.proof.statements import DF, A, B, I, J, f, g, i, j, k, m, n, p, q, t, t0, t1, u, v, w, x


def equal(one, two) -> bool:
    return residual(sp.sympify(one), sp.sympify(two)) == 0


def test_words_with_opposite_coefficients_do_not_cancel():
    assert not equal(A * B, B * A)
    assert not equal(A * B - B * A, sp.ZeroMatrix(n, n))


def test_a_bound_index_does_not_capture_an_outer_one():
    inner = sp.exp(sp.Sum(w[i, j], (j, 1, n)))
    diagonal = sp.exp(sp.Sum(w[j, j], (j, 1, n)))
    total = sp.Sum(inner, (i, 1, n))
    assert equal(total, sp.Sum(sp.exp(sp.Sum(w[k, i], (i, 1, n))), (k, 1, n)))
    assert not equal(total, sp.Sum(diagonal, (i, 1, n)))
    assert not equal(total, sp.Sum(sp.exp(sp.Sum(w[j, i], (j, 1, n))), (i, 1, n)))


def test_a_bound_index_may_shadow_an_outer_one():
    shadowed = sp.Sum(q[k] * sp.exp(sp.Sum(q[k], (k, 1, n))), (k, 1, n))
    plain = sp.Sum(q[k], (k, 1, n)) * sp.exp(sp.Sum(q[j], (j, 1, n)))
    assert equal(shadowed, plain)


def test_products_of_sums_keep_their_indices_apart():
    square = sp.Sum(q[i], (i, 1, n)) ** 2
    assert not equal(square, sp.Sum(q[i] ** 2, (i, 1, n)))
    assert equal(square, sp.Sum(q[i], (i, 1, n)) * sp.Sum(q[j], (j, 1, n)))


def test_a_delta_is_contracted_only_inside_the_range():
    delta = sp.KroneckerDelta
    assert equal(sp.Sum(delta(I, k) * q[k], (k, 1, n)), q[I])
    assert not equal(sp.Sum(delta(i, k) * q[k], (k, 1, n)), q[i])
    assert not equal(sp.Sum(delta(I, k) * q[k], (k, 2, n)), q[I])
    assert not equal(sp.Sum(delta(I, k) * q[k], (k, 1, n - 1)), q[I])
    assert equal(sp.Sum(delta(I, k) * q[k], (k, 0, n + 1)), q[I])
    assert equal(sp.Sum(delta(I + 1, k) * q[k], (k, 1, n + 1)), q[I + 1])
    assert not equal(sp.Sum(delta(I + 1, k) * q[k], (k, 1, n)), q[I + 1])
    assert not equal(sp.Sum(delta(2 * k, 2 * I) * q[k], (k, 1, n)), 2 * q[I])


def test_a_delta_couples_two_sums_of_different_ranges_correctly():
    coupled = sp.Sum(sp.KroneckerDelta(i, j) * q[i], (i, 1, n), (j, 1, m))
    assert not equal(coupled, sp.Sum(q[i], (i, 1, n)))
    assert not equal(coupled, sp.Sum(q[i], (i, 1, m)))


def test_dependent_bounds_are_not_interchanged():
    below = sp.Sum(w[i, j], (j, 1, i), (i, 1, n))
    above = sp.Sum(w[i, j], (i, 1, j), (j, 1, n))
    assert not equal(below, above)
    assert equal(below, sp.Sum(w[k, i], (i, 1, k), (k, 1, n)))


def test_an_index_object_is_not_the_symbol_of_its_name():
    # Idx("j") holds the symbol j: summing over j must leave the free index alone.
    from companion.proof.statement import side

    partition = sp.Sum(sp.exp(q[j]), (j, 1, n))
    derivative = side("derived", sp.diff(partition, q[J]))
    assert equal(derivative, side("claimed", sp.exp(q[J])))
    assert not equal(
        side("derived", sp.Sum(q[J], (j, 1, n))), side("claimed", sp.Sum(q[k], (k, 1, n)))
    )


def test_dependent_bounds_stay_inside_the_sum_that_binds_them():
    # Sorted by name, the limit 1..N would come before the limit 1..i that depends on it.
    N = sp.Symbol("N", integer=True, positive=True)
    total = normal(sp.Sum(w[i, j], (j, 1, i), (i, 1, N)))
    assert not any(isinstance(symbol, sp.Dummy) for symbol in total.free_symbols)


def test_simplification_assumes_nothing_about_what_it_does_not_look_into():
    for unknown in (f(t), q[1], w[1, 2], A[0, 0], sp.Sum(q[i], (i, 1, n)), f(t).diff(t)):
        assert not equal(sp.sqrt(unknown**2), unknown)
        assert not equal(sp.log(unknown**2), 2 * sp.log(unknown))
    positive = sp.Function("f", positive=True)(t)
    assert equal(sp.sqrt(positive**2), positive)


def test_bodies_are_simplified():
    angle = sp.sin(q[k]) ** 2 + sp.cos(q[k]) ** 2
    assert equal(sp.Sum(angle * w[k, k], (k, 1, n)), sp.Sum(w[k, k], (k, 1, n)))
    angle = sp.sin(f(t)) ** 2 + sp.cos(f(t)) ** 2
    assert equal(sp.Integral(angle * g(t), (t, t0, t1)), sp.Integral(g(t), (t, t0, t1)))


def test_counting_a_constant():
    assert equal(sp.Sum(1, (k, 1, n)), n)
    assert equal(sp.Sum(x, (k, 0, n)), (n + 1) * x)
    assert not equal(sp.Sum(x, (k, 0, n)), n * x)


def test_infinite_sums_are_not_torn_apart():
    telescoping = x * sp.Sum(f(k) - f(k + 1), (k, 1, sp.oo))
    assert normal(telescoping).has(sp.Sum)
    torn = x * sp.Sum(f(k), (k, 1, sp.oo)) - x * sp.Sum(f(k + 1), (k, 1, sp.oo))
    assert not equal(telescoping, torn)


def test_functions_of_one_name_and_different_assumptions_stay_apart():
    real = sp.Function("f", real=True)
    assert not equal(f(t).diff(t), real(t).diff(t))


def test_partial_derivatives_of_different_slots_stay_apart():
    assert not equal(f(x, t).diff(x), f(x, t).diff(t))
    assert not equal(f(x, t).diff(x, 2), f(x, t).diff(x, t))
    assert not equal(f(x, x).diff(x), sp.Subs(f(x, t).diff(x), t, x))
    for twice in (f(x, x), f(x, x + t)):
        unevaluated = sp.Derivative(twice, x, evaluate=False)
        assert as_partial(unevaluated) is unevaluated


def test_an_integral_over_a_singularity_is_not_split():
    tear = sp.Integral(f(t) / t, (t, t0, t1)) + sp.Integral(f(t) / t, (t, t1, x))
    assert not equal(tear, sp.Integral(f(t) / t, (t, t0, x)))
    assert equal(2 * sp.Integral(f(t) / t, (t, t0, t1)), sp.Integral(2 * f(t) / t, (t, t0, t1)))


def test_the_derivative_of_a_step_has_no_smooth_primitive():
    step = sp.Integral(sp.Derivative(sp.floor(t), t), (t, t0, t1))
    assert not equal(step, sp.floor(t1) - sp.floor(t0))


def test_integration_by_parts_ends():
    composed = sp.Integral(f(g(t)).diff(t), (t, t0, t1))
    assert normal(composed).has(sp.Integral) or equal(composed, f(g(t1)) - f(g(t0)))
    assert not equal(composed, sp.S.Zero)


def test_a_limit_needs_a_vanishing_numerator():
    h = sp.Symbol("h")
    assert not equal(sp.Limit(f(h) / h, h, 0), f(h).diff(h).subs(h, 0))
    second = (f(t + h) - 2 * f(t) + f(t - h)) / h**2
    assert equal(sp.Limit(second, h, 0), f(t).diff(t, 2))
    assert not equal(sp.Limit(sp.sqrt(h**2) * f(t) / h, h, 0), f(t))


def test_transposition_reverses_and_scalars_move():
    assert equal((A * DF.T * v).T, v.T * DF * A.T)
    assert equal(sp.Transpose(sp.MatMul(A, B)), B.T * A.T)
    assert not equal(sp.Transpose(sp.MatMul(A, B)), A.T * B.T)
    assert equal(u * u.T * A * u, u * (u.T * A.T * u))
    assert not equal(u * u.T * A, u * u.T * A.T)
    assert not equal(A * u * u.T, u * u.T * A)


def test_words_of_inverses():
    assert equal(A.I * A, sp.Identity(n))
    assert equal((A * B).I, B.I * A.I)
    assert not equal((A * B).I, A.I * B.I)
    assert equal(sp.Inverse(sp.MatMul(A, B)), B.I * A.I)
    assert not equal(sp.Inverse(sp.MatMul(A, B)), A.I * B.I)
    assert equal(sp.Inverse(sp.Transpose(sp.MatMul(A, B))), A.T.I * B.T.I)
    assert equal(sp.Inverse(2 * A), A.I / 2)
    assert equal((A.T).I, A.I.T)
    assert words(A * B * B.I * A.I) == {(): 1}


def test_words_of_unevaluated_products():
    # SymPy reverses these by itself when it evaluates them; so must we where it does not.
    product = sp.MatMul(A, B)
    assert words(sp.Transpose(product)) == {(B.T, A.T): 1}
    assert words(sp.Inverse(product)) == {(B.I, A.I): 1}
    assert words(sp.Inverse(sp.Transpose(product))) == {(A.T.I, B.T.I): 1}
    assert words(sp.MatPow(product, -2)) == {(B.I, A.I, B.I, A.I): 1}


def test_traces_are_cyclic_and_nothing_more():
    C = sp.MatrixSymbol("C", n, n)
    assert equal(sp.Trace(A * B * C), sp.Trace(C * A * B))
    assert equal(sp.Trace(A * B * C), sp.Trace(C.T * B.T * A.T))
    assert not equal(sp.Trace(A * B * C), sp.Trace(A * C * B))


def test_matrix_expressions_beyond_words_fall_back_to_entries():
    assert equal(sp.HadamardProduct(A, B), sp.HadamardProduct(B, A))
    assert equal(sp.HadamardProduct(A, A + B), sp.HadamardProduct(A, A) + sp.HadamardProduct(A, B))
    assert not equal(sp.HadamardProduct(A, B), A * B)
    wide = sp.MatrixSymbol("W", n, p)
    assert equal(sp.Trace(wide.T * A * wide), sp.Trace(A * wide * wide.T))
