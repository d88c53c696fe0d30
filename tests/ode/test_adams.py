"""Adams methods: exact weights, observed orders, restarts."""

import math
from fractions import Fraction

import pytest
import torch

from companion import Backsolve, FixedStep, solve
from companion.ode import Adams, FixedGrid, NotConverged
from companion.ode.adams import bashforth, moulton
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)


@pytest.mark.parametrize("order", range(1, 13))
def test_weights_integrate_polynomials_exactly(order):
    """The method of order k is exact for y = t^p with p <= k, and not for p = k + 1."""
    for weights, first in ((bashforth(order), 0), (moulton(order), 1)):
        for power in range(1, order + 2):
            integral = sum(w * power * Fraction(first - j) ** (power - 1)
                           for j, w in enumerate(weights))
            assert (integral == 1) == (power <= order)


def test_published_weights():
    assert bashforth(4) == tuple(Fraction(n, 24) for n in (55, -59, 37, -9))
    assert moulton(4) == tuple(Fraction(n, 24) for n in (9, 19, -5, 1))


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6, 8])
def test_observed_order(implicit, order):
    end = forced_reference(Y0.numpy(), [0.0, 2.0])[-1]
    errors = [
        float((solve(forced, Y0, [0.0, 2.0], method=Adams(implicit, order),
                     control=FixedStep(2 / n), rtol=1e-11, atol=1e-13).y[-1] - end).norm())
        for n in (40, 80)
    ]
    assert order - 0.2 < math.log2(errors[0] / errors[1]) < order + 0.6


def test_explicit_steps_cost_one_evaluation():
    sol = solve(forced, Y0, [0.0, 1.0], method="explicit_adams", control=FixedStep(0.01))
    # Three steps of the 3/8 rule fill the history.
    assert sol.stats.evaluations == 3 * 4 + 97


def test_a_change_of_the_step_size_starts_anew():
    """On a grid with two step sizes the error stays that of order four."""
    def error(n):
        grid = [i / n for i in range(n + 1)] + [1 + 0.5 * i / n for i in range(1, 2 * n + 1)]
        sol = solve(forced, Y0, [0.0, 2.0], method="explicit_adams", control=FixedGrid(grid))
        return float((sol.y[-1] - forced_reference(Y0.numpy(), [0.0, 2.0])[-1]).norm())

    assert 3.5 < math.log2(error(20) / error(40)) < 4.8


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_gradients(method):
    def value(y0, rate, gradient):
        sol = solve(
            lambda t, y, rate: -rate * torch.cos(t) * y, y0, [0.0, 0.4, 1.0], args=(rate,),
            method=method, control=FixedStep(0.01), gradient=gradient, rtol=1e-10, atol=1e-12,
        )
        return sol.y[1].sum() + (sol.y[2] ** 2).sum()

    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = Y0.clone().requires_grad_()
    exact = sum(
        (y0 * torch.exp(-rate * math.sin(t))).pow(p).sum() for t, p in ((0.4, 1), (1.0, 2))
    )
    expected = torch.autograd.grad(exact, (y0, rate))
    for gradient in ("direct", Backsolve()):
        grads = torch.autograd.grad(value(y0, rate, gradient), (y0, rate))
        for a, b in zip(grads, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-6)


def test_a_stiff_problem_does_not_converge():
    with pytest.raises(NotConverged, match="smaller steps"):
        solve(lambda t, y: -1e4 * y, Y0, [0.0, 1.0], method="implicit_adams",
              control=FixedStep(0.01))


@pytest.mark.parametrize(("order", "error"), [(0, ValueError), (13, ValueError), (4.0, TypeError)])
def test_wrong_orders(order, error):
    with pytest.raises(error, match="max_order"):
        Adams(max_order=order)


def test_adams_needs_known_steps():
    with pytest.raises(ValueError, match="no error estimate"):
        solve(forced, Y0, [0.0, 1.0], method="implicit_adams")
