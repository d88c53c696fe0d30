"""The solve loop: accuracy, outputs, statistics, structures."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import FixedStep, solve
from companion.ode import PID, Stats, tableaus
from companion.ode.begin import begin
from companion.ode.method import Method
from companion.ode.problem import pose
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)
ADAPTIVE = ["heun", "bosh3", "dopri5", "tsit5"]


@pytest.mark.parametrize("name", [t.name for t in tableaus.METHODS.values() if t.explicit])
def test_observed_order_on_a_non_autonomous_problem(name):
    end = forced_reference(Y0.numpy(), [0.0, 2.0])[-1]
    errors = []
    order = tableaus.METHODS[name].order
    # High orders meet rounding, and the reference's own error, with few steps.
    for steps in (40, 80) if order < 4 else (12, 24) if order < 7 else (4, 8):
        sol = solve(forced, Y0, [0.0, 2.0], method=name, control=FixedStep(2 / steps))
        errors.append(float((sol.y[-1] - end).norm()))
    # Not much less than the order; more is luck (that it is not larger is proved in exact
    # arithmetic, in test_tableaus.py).
    assert order - 0.3 < math.log2(errors[0] / errors[1]) < order + 2


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("direction", [1, -1])
def test_dense_output_against_scipy(name, direction):
    times = [direction * 0.11 * i for i in range(28)]
    rtol = 1e-4 if name == "heun" else 1e-7
    sol = solve(forced, Y0, times, method=name, rtol=rtol, atol=rtol)
    error = (sol.y - forced_reference(Y0.numpy(), times)).abs().max()
    assert error < 300 * rtol
    assert torch.equal(sol.y[0], Y0)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_smaller_tolerance_gives_a_smaller_error(name):
    end = forced_reference(Y0.numpy(), [0.0, 3.0])[-1]
    tolerances = (1e-3, 1e-5) if name == "heun" else (1e-4, 1e-8)
    errors = [
        float((solve(forced, Y0, [0.0, 3.0], method=name, rtol=r, atol=r).y[-1] - end).norm())
        for r in tolerances
    ]
    assert errors[1] < errors[0] / 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 2.99), max_size=12, unique=True),
    st.sampled_from(["dopri5", "bosh3", "heun"]),
)
def test_output_times_do_not_change_the_steps(inner, name):
    """Also where all outputs lie inside one step, the last one included."""
    times = [0.0, *sorted(inner), 3.0]
    tol = {"rtol": 1e-3, "atol": 1e-3, "method": name}
    plain = solve(forced, Y0, [0.0, 3.0], **tol)
    sol = solve(forced, Y0, times, **tol)
    assert torch.equal(sol.y[-1], plain.y[-1])
    assert sol.stats.accepted == plain.stats.accepted
    assert (sol.y - forced_reference(Y0.numpy(), times)).abs().max() < 0.05


def test_outputs_inside_the_last_of_few_steps():
    sol = solve(lambda t, y: -y, Y0, [0.0, 0.1, 0.2, 0.9, 1.0], rtol=1e-2, atol=1e-2)
    assert sol.stats.accepted < 4
    exact = Y0 * torch.exp(-sol.t)[:, None]
    assert (sol.y - exact).abs().max() < 1e-2


def test_fixed_steps_end_at_every_output_time():
    seen = []

    def f(t, y):
        seen.append(float(t))
        return -y

    sol = solve(f, Y0, [0.0, 0.25, 1.0], method="euler", control=FixedStep(0.1))
    assert sol.stats.accepted == 3 + 8
    assert seen == pytest.approx([0, 0.25 / 3, 0.5 / 3, *(0.25 + 0.75 * i / 8 for i in range(8))])
    expected = Y0 * (1 - 0.25 / 3) ** 3 * (1 - 0.75 / 8) ** 8
    assert torch.allclose(sol.y[-1], expected, rtol=1e-14)


def test_a_step_that_divides_the_interval_is_not_split_by_rounding():
    assert FixedStep(0.1).count(0.3) == 3
    assert FixedStep(0.1).count(0.1 + 0.2) == 3
    assert FixedStep(0.1).count(-1.0) == 10
    assert FixedStep().count(7.0) == 1


@pytest.mark.parametrize("control", [None, FixedStep(0.3)])
@pytest.mark.parametrize("end", [2.0, -2.0])
def test_statistics_count_what_happens_and_f_stays_inside_the_interval(control, end):
    seen = []

    def f(t, y):
        seen.append(float(t))
        return forced(t, y)

    sol = solve(f, Y0, [0.0, end], control=control, rtol=1e-9, atol=1e-9)
    assert sol.stats.evaluations == len(seen)
    assert 0 <= min(x / end for x in seen) <= max(x / end for x in seen) <= 1
    # dopri5 evaluates six times a step, once at the start, once to choose the first step.
    steps = sol.stats.accepted + sol.stats.rejected
    assert len(seen) == 6 * steps + (1 if control else 2)


def test_rejected_steps_are_counted():
    sol = solve(forced, Y0, [0.0, 2.0], first_step=2.0, rtol=1e-8, atol=1e-8)
    assert sol.stats.rejected >= 1
    assert (sol.y[-1] - forced_reference(Y0.numpy(), [0.0, 2.0])[-1]).abs().max() < 1e-6


def test_the_integral_controller_is_the_default_and_pi_control_works():
    default = solve(forced, Y0, [0.0, 9.0])
    integral = solve(forced, Y0, [0.0, 9.0], control=PID(0.0, 1.0, 0.0))
    assert torch.equal(default.y, integral.y)
    pi = solve(forced, Y0, [0.0, 9.0], control=PID(pcoeff=0.4, icoeff=0.3))
    assert pi.stats != default.stats
    assert (pi.y[-1] - forced_reference(Y0.numpy(), [0.0, 9.0])[-1]).abs().max() < 1e-4


def test_a_state_may_be_a_tree_of_tensors():
    y0 = {"a": torch.ones(3, dtype=F64), "b": (torch.zeros((), dtype=F64), torch.ones(2, 2))}

    def f(t, y):
        return {"a": -y["a"], "b": (torch.cos(t), 2 * y["b"][1])}

    sol = solve(f, y0, [0.0, 0.5, 1.0], rtol=1e-7, atol=1e-9)
    t = sol.t
    assert torch.allclose(sol.y["a"], torch.exp(-t)[:, None].expand(3, 3), rtol=1e-6)
    assert torch.allclose(sol.y["b"][0], torch.sin(t), atol=1e-6)
    assert sol.y["b"][1].dtype == torch.float32
    assert torch.allclose(sol.y["b"][1][-1], torch.full((2, 2), math.exp(2)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (0,), (1, 2, 3)])
def test_states_of_any_shape(shape):
    sol = solve(lambda t, y: -y, torch.ones(shape, dtype=F64), [0.0, 1.0])
    assert sol.y.shape == (2, *shape)
    assert torch.allclose(sol.y[-1], torch.full(shape, math.exp(-1), dtype=F64), rtol=1e-6)


def test_complex_states_rotate():
    y0 = torch.tensor([1.0 + 0j, 2.0j], dtype=torch.complex128)
    times = []

    def f(t, y):
        times.append(t.dtype)
        return 1j * y

    sol = solve(f, y0, [0.0, math.pi], rtol=1e-9, atol=1e-9)
    assert set(times) == {F64}
    assert torch.allclose(sol.y[-1], -y0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_time_comes_in_the_dtype_of_the_state(dtype):
    def f(t, y):
        assert t.dtype == y.dtype == dtype
        assert t.ndim == 0
        return -y

    tol = 1e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-5
    sol = solve(f, torch.ones(2, dtype=dtype), torch.linspace(0, 1, 3), rtol=tol, atol=tol)
    assert sol.y.dtype == dtype
    assert sol.y[-1].float() == pytest.approx(math.exp(-1), abs=5 * tol)


def test_one_time_is_the_initial_state():
    sol = solve(forced, Y0, [3.0])
    assert torch.equal(sol.y, Y0[None])
    assert sol.stats.evaluations == 0


def test_integer_times_and_arguments_of_f():
    sol = solve(
        lambda t, y, a, b: a * y + b["c"],
        Y0,
        torch.tensor([0, 1]),
        args=(torch.tensor(-1.0, dtype=F64), {"c": 0.0}),
    )
    assert torch.allclose(sol.y[-1], Y0 * math.exp(-1), rtol=1e-6)


def test_a_constant_solution_takes_few_steps():
    sol = solve(lambda t, y: torch.zeros_like(y), Y0, [0.0, 1e6])
    assert torch.equal(sol.y[-1], Y0)
    assert sol.stats.accepted < 20


@pytest.mark.parametrize(("t0", "length"), [(1e9, 1.0), (0.0, 1e-9), (-5.0, 1e7)])
def test_any_scale_of_time(t0, length):
    sol = solve(lambda t, y: -y / length, Y0, [t0, t0 + length], rtol=1e-8, atol=1e-10)
    assert torch.allclose(sol.y[-1], Y0 * math.exp(-1), rtol=1e-6)


def test_a_first_step_below_the_resolution_of_time_is_not_an_underflow():
    """From rest, the first step is chosen tiny: 1e-4, where t = 1e12 resolves 1e-3."""
    sol = solve(lambda t, y: torch.ones_like(y), 0 * Y0, [1e12, 1e12 + 10])
    assert torch.allclose(sol.y[-1], 0 * Y0 + 10)


@pytest.mark.parametrize(
    ("first_step", "ends"), [(0.6, [0.5, 1.0]), (0.995, [1.0]), (0.985, [0.5, 1.0]), (2.0, [1.0])]
)
def test_the_way_to_the_end_is_cut_into_equal_steps(first_step, ends):
    """Not a large step and a remainder; and nothing is left over for less than one per cent."""
    seen = []

    def f(t, y):
        seen.append(float(t))
        return torch.zeros_like(y)

    solve(f, Y0, [0.0, 1.0], first_step=first_step)
    assert seen[6::6] == ends


def test_y0_is_not_written_to():
    y0 = Y0.clone()
    solve(forced, y0, [0.0, 1.0])
    assert torch.equal(y0, Y0)


def test_a_tableau_of_ones_own():
    ralston = tableaus.Tableau(
        "ralston", order=2, a=((), (Fraction(2, 3),)), b=(Fraction(1, 4), Fraction(3, 4))
    )
    sol = solve(lambda t, y: -y, Y0, [0.0, 1.0], method=ralston, control=FixedStep(0.01))
    assert torch.allclose(sol.y[-1], Y0 * math.exp(-1), rtol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("control", [None, FixedStep(0.1)])
def test_everything_follows_the_device_of_the_state(control):
    def f(t, y):
        assert t.device == y.device
        return forced(t, y)

    sol = solve(f, Y0.cuda(), [0.0, 1.0, 2.0], control=control)
    assert sol.y.device.type == "cuda"
    reference = solve(forced, Y0, [0.0, 1.0, 2.0], control=control)
    assert torch.allclose(sol.y.cpu(), reference.y, rtol=1e-9)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_march_of_fixed_steps_does_not_wait_for_the_device():
    y0 = Y0.cuda()
    problem = pose(forced, y0, [0.0, 1.0], (), Method("rk4", control=FixedStep(0.1)))
    march = begin(problem.field(Stats()), problem.method, 0.0, [y0], Stats())
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        march.to(1.0, end=1.0)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert march.stats.accepted == 10


def test_dense_output_of_a_single_time():
    """The state there, which changes with the time as f says."""
    t = torch.tensor(2.0, dtype=F64, requires_grad=True)
    sol = solve(forced, Y0, [2.0], dense=True)
    assert torch.equal(sol(2.0), Y0)
    assert sol(torch.full((3, 1), 2.0)).shape == (3, 1, *Y0.shape)
    (slope,) = torch.autograd.grad(sol(t).flatten()[0], t)
    torch.testing.assert_close(slope, forced(t, Y0).flatten()[0].detach())
    with pytest.raises(ValueError, match="outside of the solution"):
        sol(2.1)
