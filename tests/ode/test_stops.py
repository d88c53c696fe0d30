"""Where steps must end: grids, step times, and times at which f jumps."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline

from companion import Backsolve, FixedStep, solve
from companion.ode import PID, FixedGrid
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)
ONE = torch.ones((), dtype=F64)


class Recorder:
    """A field that writes down the times at which it is evaluated."""

    def __init__(self, f):
        self.f, self.times = f, []

    def __call__(self, t, y):
        self.times.append(float(t))
        return self.f(t, y)


# Grids

GRID = (0.0, 0.1, 0.35, 0.5, 1.0)


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "method"])
def test_a_grid_is_honoured(sense, interpolation):
    """Euler's rule by hand, and between the points what the interpolation says."""
    grid = [sense * t for t in GRID]
    f = Recorder(forced)
    times = [0.0, *(sense * t for t in (0.05, 0.1, 0.2, 0.3, 0.7)), grid[-1]]
    control = FixedGrid(tuple(grid), interpolation)
    sol = solve(f, Y0, times, method="euler", control=control)
    y = [Y0]
    for a, b in pairwise(grid):
        y.append(y[-1] + (b - a) * forced(torch.tensor(a, dtype=F64), y[-1]))
    assert set(f.times) <= {*grid}
    assert sol.stats.accepted == 4
    rates = [forced(torch.tensor(t, dtype=F64), z) for t, z in zip(grid, y, strict=True)]
    if interpolation == "linear":
        rows = [torch.stack([a, b]) for a, b in pairwise(y)]

        def between(i, part):
            return rows[i][0] + part * (rows[i][1] - rows[i][0])

        expected = torch.stack(
            [Y0, between(0, 0.5), y[1], between(1, 0.4), between(1, 0.8), between(3, 0.4), y[4]]
        )
    else:
        # The Hermite polynomial is Euler's own, too.
        order = slice(None, None, sense)
        spline = CubicHermiteSpline(
            grid[order], torch.stack(y[order]).numpy(), torch.stack(rates[order]).numpy()
        )
        expected = torch.tensor(spline(times))
    assert torch.allclose(sol.y, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("method", ["rk4", "heun3", "trapezoid", "gl4", "explicit_adams"])
def test_outputs_do_not_change_a_grid(method):
    grid = FixedGrid(tuple(0.1 * i for i in range(11)))
    plain = solve(forced, Y0, [0.0, 1.0], method=method, control=grid)
    dense = solve(forced, Y0, torch.linspace(0, 1, 8), method=method, control=grid)
    assert plain.stats.accepted == dense.stats.accepted == 10
    assert torch.allclose(plain.y[-1], dense.y[-1], rtol=1e-13)


def test_a_grid_that_does_not_reach_the_ends():
    """The first step goes to its first point that is ahead, the last one to the last time."""
    f = Recorder(lambda t, y: -y)
    sol = solve(f, ONE, [0.0, 1.0], method="euler", control=FixedGrid((-0.5, 0.2, 0.6, 0.8)))
    assert f.times == [0.0, 0.2, 0.6, 0.8]
    assert float(sol.y[-1]) == pytest.approx(0.8 * 0.6 * 0.8 * 0.8)
    f.times.clear()
    solve(f, ONE, [0.0, -1.0], method="euler", control=FixedGrid((2.0, -0.25, -3.0)))
    assert f.times == [0.0, -0.25]


# Step times


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 1.99), min_size=1, max_size=6, unique=True),
    st.sampled_from([1, -1]),
)
def test_steps_end_at_step_times(stops, sense):
    """Exactly there, and nowhere near does the accuracy suffer; the order given does not matter."""
    stops = [sense * t for t in stops]
    f = Recorder(forced)
    sol = solve(f, Y0, [0.0, sense * 2.0], step_t=stops, rtol=1e-7, atol=1e-9)
    for stop in stops:
        # To rounding: f is given the beginning of the step plus its size.
        assert min(abs(t - stop) for t in f.times) <= 2 * math.ulp(2.0)
    assert sol.stats.accepted >= len(stops) + 1
    exact = forced_reference(Y0.numpy(), [0.0, sense * 2.0])[-1]
    assert (sol.y[-1] - exact).abs().max() < 1e-5
    shuffled = solve(
        f, Y0, [0.0, sense * 2.0], step_t=torch.tensor(stops[::-1], dtype=F64), rtol=1e-7, atol=1e-9
    )
    assert torch.equal(shuffled.y, sol.y)


def test_step_times_outside_of_the_solve_and_at_its_ends_do_nothing():
    plain = solve(forced, Y0, [0.0, 2.0])
    for name in ("step_t", "jump_t"):
        stops = solve(forced, Y0, [0.0, 2.0], **{name: [-1.0, 3.0]})
        assert torch.equal(stops.y, plain.y)
        assert stops.stats == plain.stats
    ends = solve(forced, Y0, [0.0, 2.0], step_t=[0.0, 2.0])
    assert torch.equal(ends.y, plain.y)


def test_a_short_step_before_a_stop_does_not_make_the_next_one_short():
    calm = solve(lambda t, y: -y, Y0, [0.0, 20.0], rtol=1e-4)
    stopped = solve(lambda t, y: -y, Y0, [0.0, 20.0], rtol=1e-4, step_t=[5.0, 5.001])
    assert stopped.stats.accepted <= calm.stats.accepted + 2


# Jumps of f

TAU = 0.3 + 0.1 * math.sqrt(2)


def jumps(t, y, before=1.0, after=-3.0):
    return torch.where(t < TAU, before, after) * y + torch.sin(t)


def jumping_reference(end):
    """In two smooth pieces."""
    y = ONE
    for a, b, rate in ((0.0, TAU, 1.0), (TAU, end, -3.0)):
        y = solve(
            lambda t, y, r=rate: r * y + torch.sin(t),
            y,
            [a, b],
            rtol=1e-13,
            atol=1e-14,
            method="dopri8",
        ).y[-1]
    return y


def steps_of(size):
    """Control that takes steps of this size, whatever their error."""
    return {"control": PID(max_step=size), "first_step": size, "rtol": 1e9, "atol": 1e9}


@pytest.mark.parametrize(("method", "order"), [("bosh3", 3), ("dopri5", 5), ("tsit5", 5)])
def test_a_jump_costs_no_order(method, order):
    exact = jumping_reference(1.0)

    def errors(**stops):
        return [
            abs(
                float(
                    solve(jumps, ONE, [0.0, 1.0], method=method, **steps_of(h), **stops).y[-1]
                    - exact
                )
            )
            for h in (0.1, 0.05)
        ]

    coarse, fine = errors(jump_t=[TAU])
    assert order - 0.5 < math.log2(coarse / fine) < order + 1.5
    assert min(errors()) > 20 * fine


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "kvaerno3"])
def test_each_step_sees_its_own_side_of_a_jump(method, sense):
    """Also where f jumps at the first and at the last time."""
    stops = [0.0, sense * 0.7, sense * 1.5]
    f = Recorder(forced)
    solve(f, Y0, [stops[0], stops[-1]], method=method, jump_t=stops, rtol=1e-5)
    # Before anything is known about the direction of the solve, f is evaluated at the start.
    assert not {*f.times[1:]} & {*stops}
    for stop in stops[1:]:
        assert math.nextafter(stop, 0) in f.times
    for stop in stops[:2]:
        assert math.nextafter(stop, sense * 9) in f.times
    assert all(0 <= sense * t <= 1.5 for t in f.times)


@pytest.mark.parametrize("method", ["heun", "dopri5", "dopri8", "vern7"])
def test_the_solution_around_a_jump(method):
    """The dense output on both sides and at the jump, also where it takes f at a step's end."""

    def f(t, y):
        return torch.where(t < TAU, 1.0, -1.0) * torch.ones_like(y)

    sol = solve(f, 0 * ONE, [0.0, 1.0], method=method, jump_t=[TAU], dense=True)
    t = torch.linspace(0, 1, 50, dtype=F64)
    assert torch.allclose(sol(t), TAU - (t - TAU).abs(), atol=1e-14)
    assert float(sol(TAU)) == pytest.approx(TAU)
    assert sol.stats.rejected == 0


@pytest.mark.parametrize("gradient", ["direct", Backsolve(rtol=1e-10, atol=1e-12)])
def test_gradients_across_a_jump(gradient):
    """y = y0 exp(a (tau - t0) + b (t1 - tau)), with respect to everything but tau."""
    a, b, y0 = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.7, -1.3, 2.0))
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)

    def f(t, y, a, b):
        return torch.where(t < TAU, a, b) * y

    sol = solve(f, y0, t, args=(a, b), jump_t=[TAU], rtol=1e-10, atol=1e-12, gradient=gradient)
    exact = y0 * torch.exp(a * (TAU - t[0]) + b * (t[1] - TAU))
    assert sol.y[-1].item() == pytest.approx(exact.item(), rel=1e-9)
    inputs = (a, b, y0, t)
    for found, expected in zip(
        torch.autograd.grad(sol.y[-1], inputs), torch.autograd.grad(exact, inputs), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"step_t": [1.0, 1.0]}, ValueError, "must not repeat a time"),
        ({"jump_t": [1.0, 0.5, 1.0]}, ValueError, "must not repeat a time"),
        ({"step_t": [1.0], "jump_t": [1.0]}, ValueError, "a jump time is a step time already"),
        ({"step_t": 1.0}, TypeError, r"write step_t=\(t,\)"),
        ({"jump_t": "soon"}, TypeError, "jump_t must be a sequence of times, got str"),
        ({"jump_t": [None]}, TypeError, "jump_t must be a number, got NoneType"),
        ({"step_t": [math.nan]}, ValueError, "step_t holds nan"),
        ({"step_t": [math.inf]}, ValueError, "step_t holds inf"),
        ({"step_t": torch.ones(1, requires_grad=True)}, ValueError, "where a step ends"),
        ({"step_t": [0.5], "method": "rk4", "control": FixedStep(0.1)}, ValueError, "FixedGrid"),
        ({"jump_t": [0.5], "method": "rk4", "control": FixedGrid((0, 1))}, ValueError, "adapt"),
        ({"step_t": [0.5], "method": "scipy_solver"}, ValueError, "for Runge-Kutta methods"),
    ],
)
def test_wrong_stops(arguments, error, message):
    with pytest.raises(error, match=message):
        solve(forced, Y0, [0.0, 2.0], **arguments)


@pytest.mark.parametrize(
    ("times", "interpolation", "error", "message"),
    [
        ((), "method", ValueError, "strictly increasing or strictly decreasing"),
        ((0.0, 1.0, 1.0), "method", ValueError, "strictly increasing"),
        ((0.0, 1.0, 0.5), "method", ValueError, "strictly increasing"),
        ((0.0, math.inf), "method", ValueError, "must be finite"),
        ((0.0, "1"), "method", TypeError, "FixedGrid: times must be a number, got str"),
        ((0.0, 1.0), "spline", ValueError, "choose one of linear, cubic, method"),
    ],
)
def test_wrong_grids(times, interpolation, error, message):
    with pytest.raises(error, match=message):
        FixedGrid(times, interpolation)


def test_a_grid_that_ends_before_the_event():
    grid = FixedGrid((0.0, 0.5, 1.0))
    with pytest.raises(ValueError, match="FixedGrid: its times end at 1 and no event came"):
        solve(
            lambda t, y: -y,
            ONE,
            [0.0, math.inf],
            method="euler",
            control=grid,
            event=lambda t, y: y + 99,
        )
