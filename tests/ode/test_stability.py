"""Stability functions against Taylor polynomials, Pade approximants and linear algebra."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from companion.ode import tableaus
from companion.ode.stability import stability_function

METHODS = list(tableaus.METHODS.values())
each = pytest.mark.parametrize("tableau", METHODS, ids=lambda t: t.name)
A_STABLE = [t for t in METHODS if not t.explicit]
L_STABLE = {
    *("implicit_euler", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2"),
    *("kvaerno3", "kvaerno5", "kencarp4"),
}


def pade(k, j):
    """The Pade approximant of exp with a numerator of degree k, by its closed form."""
    numerator = [
        Fraction(math.comb(k, i) * math.factorial(k + j - i), math.factorial(k + j))
        for i in range(k + 1)
    ]
    denominator = [
        Fraction((-1) ** i * math.comb(j, i) * math.factorial(k + j - i), math.factorial(k + j))
        for i in range(j + 1)
    ]
    return tuple(numerator), tuple(denominator)


@each
def test_against_its_definition(tableau):
    """1 + z b^T (I - zA)^-1 1 in complex floating point."""
    a, b = np.array(tableau.matrix), np.array([float(x) for x in tableau.b])
    function = stability_function(tableau)
    for z in (-0.7, 0.3 + 0.4j, -2 + 1.5j):
        stages = np.linalg.solve(np.eye(len(b)) - z * a, np.ones(len(b)))
        assert function(z) == pytest.approx(1 + z * b @ stages, rel=1e-11)


@each
def test_agrees_with_exp_to_the_order(tableau):
    """P - Q exp = O(z^(p+1)), and the next coefficient differs: R is of no higher order."""
    numerator, denominator = stability_function(tableau)
    for k in range(tableau.order + 1):
        taylor = sum(
            (q * Fraction(1, math.factorial(k - i)) for i, q in enumerate(denominator[: k + 1])),
            Fraction(0),
        )
        p = numerator[k] if k < len(numerator) else 0
        assert abs(float(p - taylor)) <= tableau.rounding


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "heun3", "rk4", "rk4_38"])
def test_explicit_with_as_many_stages_as_orders_is_the_taylor_polynomial(name):
    tableau = tableaus.METHODS[name]
    numerator, denominator = stability_function(tableau)
    assert numerator == tuple(Fraction(1, math.factorial(k)) for k in range(tableau.order + 1))
    assert denominator == (1,)
    assert stability_function(tableau).at_infinity is None


@pytest.mark.parametrize(
    ("name", "k", "j"),
    [
        ("implicit_midpoint", 1, 1),
        ("trapezoid", 1, 1),
        ("gl4", 2, 2),
        ("gl6", 3, 3),
        ("implicit_euler", 0, 1),
        ("radauIIA3", 1, 2),
        ("radauIIA5", 2, 3),
    ],
)
def test_gauss_and_radau_are_pade_approximants(name, k, j):
    numerator, denominator = stability_function(tableaus.METHODS[name])
    assert (numerator, denominator) == pade(k, j)


def on_the_axis(coefficients, length):
    """|P(iy)|^2 as coefficients of 1, y, y^2, ...: p_j p_k i^(j-k) with j + k even."""
    result = [Fraction(0)] * length
    for j, x in enumerate(coefficients):
        for k, z in enumerate(coefficients):
            if (j + k) % 2 == 0:
                result[j + k] += (-1) ** (abs(j - k) // 2) * x * z
    return result


@pytest.mark.parametrize("tableau", A_STABLE, ids=lambda t: t.name)
def test_a_stability(tableau):
    """|R| <= 1 on the imaginary axis and no pole left of it (maximum principle).

    On the axis |Q|^2 - |P|^2 is an even polynomial in y, here with exact coefficients.
    """
    numerator, denominator = stability_function(tableau)
    p, q = on_the_axis(numerator, 13), on_the_axis(denominator, 13)
    difference = [float(x - y) for x, y in zip(q, p, strict=True)]
    y = np.geomspace(1e-4, 1e4, 1000)
    scale = np.polyval([float(x) for x in reversed(q)], y)
    assert (np.polyval(difference[::-1], y) >= -1e-15 * scale).all()
    poles = np.roots([float(q) for q in reversed(denominator)])
    assert (poles.real > 0).all()


@pytest.mark.parametrize("tableau", METHODS, ids=lambda t: t.name)
def test_l_stability(tableau):
    limit = stability_function(tableau).at_infinity
    if tableau.name in L_STABLE:
        assert abs(float(limit)) <= 1e-12
        assert tableau.rounding or limit == 0
    else:
        assert limit is None or abs(limit) == 1


def test_kvaernos_gamma_is_what_makes_it_l_stable():
    """With another gamma the same formulas give a numerator of full degree."""
    numerator, denominator = stability_function(tableaus.KVAERNO3)
    gamma = tableaus.KVAERNO3.singly
    assert gamma**3 - 3 * gamma**2 + 3 * gamma / 2 == Fraction(1, 6)
    assert denominator == (1, -3 * gamma, 3 * gamma**2, -(gamma**3))
    assert len(numerator) == 3


def test_on_tensors_and_arrays():
    function = stability_function(tableaus.RK4)
    z = np.array([[0.1 + 1j, -1.0], [2j, -3.0]])
    expected = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    np.testing.assert_allclose(function(z), expected)
    np.testing.assert_allclose(function(torch.tensor(z)).numpy(), expected)
