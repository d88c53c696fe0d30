"""Adams methods: exact weights, observed orders, restarts."""

import math
import random
from fractions import Fraction

import pytest
import torch

from companion import Backsolve, FixedStep, solve
from companion.ode import Adams, FixedGrid, NotConverged, TooManySteps
from companion.ode.adams import inside
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)


def bashforth(order):
    """Weights of the values of f now, one step ago, two steps ago, ..."""
    return tuple(map(sum, inside(tuple(Fraction(-j) for j in range(order)))))


def moulton(order):
    """Weights of the values of f at the end of the step, now, one step ago, ..."""
    return tuple(map(sum, inside(tuple(Fraction(1 - j) for j in range(order)))))


@pytest.mark.parametrize("order", range(1, 13))
def test_weights_integrate_polynomials_exactly(order):
    """The method of order k is exact for y = t^p with p <= k, and not for p = k + 1."""
    for weights, first in ((bashforth(order), 0), (moulton(order), 1)):
        for power in range(1, order + 2):
            integral = sum(
                w * power * Fraction(first - j) ** (power - 1) for j, w in enumerate(weights)
            )
            assert (integral == 1) == (power <= order)


def test_published_weights():
    assert bashforth(4) == tuple(Fraction(n, 24) for n in (55, -59, 37, -9))
    assert moulton(4) == tuple(Fraction(n, 24) for n in (9, 19, -5, 1))


def test_weights_of_uneven_nodes_integrate_polynomials_up_to_every_theta():
    nodes = (Fraction(0), Fraction(-9, 8), Fraction(-2), Fraction(1))
    rows = inside(nodes)
    for power in range(4):
        columns = zip(*rows, strict=True)
        found = [sum(x * s**power for x, s in zip(c, nodes, strict=True)) for c in columns]
        assert found == [Fraction(k == power, power + 1) for k in range(4)]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("order", range(1, 9))
def test_observed_order(implicit, order):
    end = forced_reference(Y0.numpy(), [0.0, 2.0])[-1]
    errors = [
        float(
            (
                solve(
                    forced,
                    Y0,
                    [0.0, 2.0],
                    method=Adams(implicit, order),
                    control=FixedStep(2 / n),
                    rtol=1e-11,
                    atol=1e-13,
                ).y[-1]
                - end
            ).norm()
        )
        for n in (40, 80)
    ]
    assert order - 0.2 < math.log2(errors[0] / errors[1]) < order + 0.6


def test_explicit_steps_cost_one_evaluation():
    sol = solve(forced, Y0, [0.0, 1.0], method="explicit_adams", control=FixedStep(0.01))
    # Three steps of the 3/8 rule fill the history.
    assert sol.stats.evaluations == 3 * 4 + 97


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("order", [9, 10, 11, 12])
def test_high_orders_beside_the_eighth(implicit, order):
    """Rounding hides their order; the start is of order eight, and so is an error of 1e-10."""
    end = forced_reference(Y0.numpy(), [0.0, 0.5])[-1]
    control = FixedStep(0.5 / 40)
    method = Adams(implicit, order)
    sol = solve(forced, Y0, [0.0, 0.5], method=method, control=control, rtol=1e-11, atol=1e-13)
    assert torch.allclose(sol.y[-1], end, rtol=0, atol=1e-11)
    starting = order - 2 if implicit else order - 1
    if not implicit:
        assert sol.stats.evaluations == starting * 13 + 40 - starting


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_order_inside_a_step(implicit, order):
    """Between the steps the error falls as fast as at their ends."""
    times = torch.linspace(1, 2, 23, dtype=F64)
    exact = forced_reference(Y0.numpy(), [0.0, *times.tolist()])[1:]

    def error(n):
        sol = solve(
            forced,
            Y0,
            [0.0, 2.0],
            method=Adams(implicit, order),
            dense=True,
            control=FixedStep(2 / n),
            rtol=1e-11,
            atol=1e-13,
        )
        return float((sol(times) - exact).norm())

    assert order - 0.3 < math.log2(error(40) / error(80)) < order + 0.9


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "method"])
@pytest.mark.parametrize("implicit", [False, True])
def test_output_times_do_not_change_the_steps_of_a_grid(interpolation, implicit):
    grid = FixedGrid(tuple(i / 50 for i in range(101)), interpolation)
    method = Adams(implicit, 5)
    few = solve(forced, Y0, [0.0, 2.0], method=method, control=grid)
    many = solve(forced, Y0, [0.0, 0.013, 1.111, 1.999, 2.0], method=method, control=grid)
    assert torch.equal(few.y[-1], many.y[-1])
    exact = forced_reference(Y0.numpy(), [0.0, 0.013, 1.111, 1.999])[1:]
    tolerance = {"linear": 1e-3, "cubic": 2e-8, "method": 2e-8}[interpolation]
    assert torch.allclose(many.y[1:-1], exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "times",
    [torch.linspace(0, 1, 11), torch.linspace(1e5, 1e5 + 1, 11, dtype=F64)],
    ids=["single precision", "late"],
)
def test_rounded_times_do_not_count_as_a_change_of_the_step_size(times):
    def field(t, y):
        return -y + torch.cos(t - times[0])

    sol = solve(field, Y0, times, method="explicit_adams", control=FixedStep(0.0105))
    assert sol.stats.evaluations == 3 * 4 + 97


def test_implicit_steps_begin_with_one_value_less():
    """Two iterations a step, of which the second finds no change, and f at its end."""
    sol = solve(
        lambda t, y: torch.cos(t).expand(2),
        Y0,
        [0.0, 1.0],
        method="implicit_adams",
        control=FixedStep(0.05),
        rtol=1e-12,
        atol=1e-12,
    )
    assert sol.stats.evaluations == 2 * 4 + 18 * 3


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_steps_are_counted_before_they_are_made(method):
    with pytest.raises(TooManySteps, match="max_steps = 7"):
        solve(forced, Y0, [0.0, 1.0], method=method, control=FixedStep(0.05), max_steps=7)


@pytest.mark.parametrize("implicit", [False, True])
def test_one_sided_steps_do_not_see_beyond_their_end(implicit):
    """f at the ends of the grid belongs to the steps after them."""
    seen = []

    def field(t, y):
        seen.append(float(t))
        return -y

    grid = FixedGrid(tuple(i / 10 for i in range(11)), one_sided=True)
    solve(field, Y0, [0.0, 1.0], method=Adams(implicit, 2), control=grid)
    assert 1.0 not in seen


def test_inside_the_first_steps_after_a_change_of_the_step_size():
    times = [0.0, 0.985, 1.0125, 1.0375, 1.0625, 2.0]
    grid = [*(i / 50 for i in range(51)), *(1 + i / 40 for i in range(1, 41))]
    sol = solve(forced, Y0, times, method=Adams(False, 4), control=FixedGrid(tuple(grid)))
    assert torch.allclose(sol.y, forced_reference(Y0.numpy(), times), rtol=0, atol=2e-6)


def test_uneven_steps_have_weights_of_their_own():
    """Steps that differ by a few thousandths: those of equal steps would be off by 1e-4."""
    rng = random.Random(0)
    grid = [0.0, *((i + 0.002 * rng.uniform(-1, 1)) / 50 for i in range(1, 100)), 2.0]
    sol = solve(forced, Y0, [0.0, 2.0], method=Adams(False, 6), control=FixedGrid(tuple(grid)))
    assert sol.stats.evaluations == 5 * 10 + 95
    end = forced_reference(Y0.numpy(), [0.0, 2.0])[-1]
    assert torch.allclose(sol.y[-1], end, rtol=0, atol=2e-7)


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
            lambda t, y, rate: -rate * torch.cos(t) * y,
            y0,
            [0.0, 0.4, 1.0],
            args=(rate,),
            method=method,
            control=FixedStep(0.01),
            gradient=gradient,
            rtol=1e-10,
            atol=1e-12,
        )
        return sol.y[1].sum() + (sol.y[2] ** 2).sum()

    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = Y0.clone().requires_grad_()
    exact = sum((y0 * torch.exp(-rate * math.sin(t))).pow(p).sum() for t, p in ((0.4, 1), (1.0, 2)))
    expected = torch.autograd.grad(exact, (y0, rate))
    for gradient in ("direct", Backsolve()):
        grads = torch.autograd.grad(value(y0, rate, gradient), (y0, rate))
        for a, b in zip(grads, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("tolerances", [(1e-7, 1e-9), (1e-12, 0.0)])
def test_tolerances_below_the_rounding_of_the_state_are_met_as_well_as_it_can(tolerances):
    """In float32 the iteration ends in the last digits, where it may go to and fro."""
    torch.manual_seed(0)
    matrix, y0 = torch.randn(300, 300) / 300**0.5, torch.randn(300)

    def end(y0, matrix, rtol, atol):
        return solve(
            lambda t, y: matrix @ torch.tanh(3 * y) - 2 * y,
            y0,
            [0.0, 1.0],
            rtol=rtol,
            atol=atol,
            method="implicit_adams",
            control=FixedStep(0.05),
        ).y[-1]

    exact = end(y0.double(), matrix.double(), 1e-10, 1e-12)
    assert torch.allclose(end(y0, matrix, *tolerances).double(), exact, rtol=1e-5, atol=1e-5)


def test_a_stiff_problem_does_not_converge():
    with pytest.raises(NotConverged, match="smaller steps"):
        solve(
            lambda t, y: -1e4 * y, Y0, [0.0, 1.0], method="implicit_adams", control=FixedStep(0.01)
        )


@pytest.mark.parametrize(
    ("order", "error"), [(0, ValueError), (13, ValueError), (4.0, TypeError), (True, TypeError)]
)
def test_wrong_orders(order, error):
    with pytest.raises(error, match="max_order"):
        Adams(max_order=order)


def test_adams_needs_known_steps():
    with pytest.raises(ValueError, match="no error estimate"):
        solve(forced, Y0, [0.0, 1.0], method="implicit_adams")
