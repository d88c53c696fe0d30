"""Everything a user can get wrong is an exception that says what to do."""

import math

import numpy as np
import pytest
import torch

from companion import Backsolve, FixedStep, solve
from companion.ode import PID, NonFiniteState, SolverError, StepSizeUnderflow, TooManySteps
from tests.ode.problems import F64

Y0 = torch.ones(2, dtype=F64)


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"f": 3}, TypeError, "f must be callable"),
        ({"y0": 1.0}, TypeError, "y0 must consist of tensors, got float"),
        ({"y0": ()}, ValueError, "y0 holds no tensor"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, TypeError, "floating or complex"),
        ({"y0": (Y0, torch.ones(2, device="meta"))}, ValueError, "several devices"),
        ({"t": 1.0}, ValueError, "shape"),
        ({"t": []}, ValueError, "T >= 1"),
        ({"t": torch.ones(2, 2)}, ValueError, "shape"),
        ({"t": "soon"}, TypeError, "t must be a tensor or a sequence"),
        ({"t": torch.tensor([True, False])}, TypeError, "real numbers"),
        ({"t": [0.0, math.nan]}, ValueError, r"t\[1\] is nan"),
        ({"t": [0.0, math.inf]}, ValueError, r"t\[1\] is inf"),
        ({"t": [0.0, 1.0, 1.0]}, ValueError, r"t\[1\] = 1.0 and t\[2\] = 1.0"),
        ({"t": [0.0, 1.0, 0.5]}, ValueError, "strictly increasing or strictly decreasing"),
        ({"t": [0.0, -1.0, -0.5]}, ValueError, "strictly"),
        ({"t": [0.0, 0.0]}, ValueError, "strictly"),
        ({"args": torch.ones(1)}, TypeError, r"args=\(x,\)"),
        ({"method": "rk5"}, ValueError, "unknown method 'rk5': did you mean .*'rk4'"),
        ({"method": 5}, TypeError, "method must be a name or a Tableau"),
        ({"rtol": "small"}, TypeError, "rtol must be a number"),
        ({"rtol": True}, TypeError, "rtol must be a number, got bool"),
        ({"rtol": -1e-3}, ValueError, "not negative"),
        ({"atol": math.nan}, ValueError, "atol must be finite"),
        ({"rtol": 0.0, "atol": 0.0}, ValueError, "both zero"),
        ({"method": "euler"}, ValueError, "FixedStep"),
        ({"method": "rk4", "control": PID()}, ValueError, "no error estimate"),
        ({"control": 0.1}, TypeError, "control must be PID, FixedStep or FixedGrid"),
        ({"first_step": 0.0}, ValueError, "first_step must be positive"),
        ({"first_step": "a"}, TypeError, "first_step"),
        ({"first_step": 0.1, "control": FixedStep(0.1)}, ValueError, "steps that adapt"),
        ({"control": PID}, TypeError, r"write PID\(\.\.\.\)"),
        ({"method": "BDF"}, ValueError, r"SciPy\('BDF'\)"),
        ({"batched": "no"}, TypeError, "batched must be True or False, got 'no'"),
        ({"f": lambda t, y: (y, y)}, TypeError, r"f returned \(tensor, tensor\), the state y0 is"),
        ({"max_steps": 0}, ValueError, "at least 1"),
        ({"max_steps": 1e3}, TypeError, "max_steps must be an int"),
        ({"gradient": "adjoint"}, ValueError, "choose one of direct, checkpointed"),
        ({"gradient": Backsolve}, TypeError, r"such as Backsolve\(\)"),
        ({"gradient": 7}, TypeError, "gradient must be"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        solve(**{"f": decay, "y0": Y0, "t": [0.0, 1.0], **arguments})


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda t, y: y[:1], ValueError, r"shape \(1,\) for a state of shape \(2,\)"),
        (lambda t, y: -y.float(), TypeError, "float32 for a state of torch.float64"),
        (lambda t, y: 0.0, TypeError, "f returned float"),
        (lambda t, y: (y, y), TypeError, "the state y0 is"),
        (lambda t, y: None, TypeError, "f returned"),
    ],
)
def test_f_must_return_what_the_state_is(f, error, message):
    with pytest.raises(error, match=message):
        solve(f, Y0, [0.0, 1.0])


@pytest.mark.parametrize("control", [None, FixedStep(0.1)])
def test_a_nan_from_f(control):
    with pytest.raises(NonFiniteState, match=r"not finite|infinite or NaN"):
        solve(lambda t, y: y * math.nan, Y0, [0.0, 1.0], control=control)


@pytest.mark.parametrize("control", [None, FixedStep(0.01)])
def test_a_nan_on_the_way(control):
    """f is undefined beyond t = 0.5; no smaller step gets past that."""
    with pytest.raises(NonFiniteState) as caught:
        solve(lambda t, y: torch.sqrt(0.5 - t) * y, Y0, [0.0, 0.4, 1.0], control=control)
    if control is None:
        assert caught.value.t == pytest.approx(0.5, abs=1e-6)
    else:
        assert "t[2]" in str(caught.value)


def test_a_solution_that_blows_up():
    """y' = y^2 reaches infinity at t = 1."""
    with pytest.raises(SolverError) as caught:
        solve(lambda t, y: y**2, Y0, [0.0, 2.0])
    assert caught.value.t == pytest.approx(1.0, abs=1e-3)


def test_a_jump_that_no_step_resolves_is_an_underflow():
    """The slope grows without bound towards t = 0.5 and never becomes infinite."""

    def f(t, y):
        return torch.sign(0.5 - t) * torch.abs(0.5 - t) ** -0.99 * torch.ones_like(y) * 1e6

    with pytest.raises(StepSizeUnderflow, match="stiff, discontinuous or diverging") as caught:
        solve(f, Y0, [0.0, 1.0], rtol=1e-10, atol=1e-10, max_steps=100_000)
    assert caught.value.t == pytest.approx(0.5, abs=1e-3)
    assert caught.value.steps > 10


def test_a_stiff_problem_runs_out_of_steps():
    with pytest.raises(TooManySteps, match="max_steps = 50") as caught:
        solve(lambda t, y: -1e5 * (y - torch.cos(t)), Y0, [0.0, 10.0], max_steps=50)
    assert caught.value.steps == 50
    assert 0 < caught.value.t < 10
    assert caught.value.h > 0


@pytest.mark.parametrize("control", [None, FixedStep(0.01)])
def test_max_steps_bounds_all_steps_of_a_solve(control):
    times = [0.1 * i for i in range(11)]
    method = {"control": control, "rtol": 1e-10, "atol": 1e-10}
    used = solve(decay, Y0, times, **method).stats
    count = used.accepted + used.rejected
    solve(decay, Y0, times, max_steps=count, **method)
    with pytest.raises(TooManySteps):
        solve(decay, Y0, times, max_steps=count - 1, **method)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"size": 0}, ValueError),
        ({"size": -0.1}, ValueError),
        ({"size": math.nan}, ValueError),
        ({"size": "0.1"}, TypeError),
        ({"size": None}, TypeError),
    ],
)
def test_fixed_steps_are_positive_numbers(arguments, error):
    with pytest.raises(error, match="size"):
        FixedStep(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"icoeff": 0.0},
        {"icoeff": math.inf},
        {"safety": 0.0},
        {"safety": 1.5},
        {"min_factor": 1.0},
        {"max_factor": 1.0},
        {"min_factor": 0.0},
    ],
)
def test_controllers_refuse_useless_coefficients(arguments):
    with pytest.raises(ValueError, match="PID"):
        PID(**arguments)


def test_errors_are_one_family_and_carry_the_facts():
    assert issubclass(TooManySteps, SolverError)
    assert issubclass(SolverError, RuntimeError)
    error = StepSizeUnderflow("message", t=1.0, h=-0.5, steps=3)
    assert (error.t, error.h, error.steps) == (1.0, -0.5, 3)
    assert "t = 1, h = -0.5, after 3 steps" in str(error)


def test_the_step_size_is_signed():
    """Blowing up on the way back from t = 1 to t = -1."""
    with pytest.raises(SolverError) as caught:
        solve(lambda t, y: -(y**2), Y0, [1.0, -1.0])
    assert caught.value.h < 0


def test_a_tiny_first_step_is_no_reason_to_give_up():
    sol = solve(decay, Y0, [1e9, 1e9 + 1], first_step=1e-12)
    assert torch.allclose(sol.y[-1], Y0 * math.exp(-1), rtol=1e-5)


def test_fixed_steps_without_number():
    with pytest.raises(ValueError, match="too many steps of size"):
        solve(decay, Y0, [0.0, 1.0], control=FixedStep(1e-320))
    with pytest.raises(TooManySteps, match="or take larger steps"):
        solve(decay, Y0, [0.0, 1.0], control=FixedStep(1e-3), max_steps=10)


@pytest.mark.parametrize(
    ("y0", "tolerances"),
    [
        (torch.tensor([1.0, 0.0], dtype=F64), {"atol": 0.0}),
        (torch.tensor([1e31]), {"rtol": 0.0, "atol": 1e-9}),
    ],
)
def test_tolerances_that_allow_no_error_are_to_blame_and_not_the_state(y0, tolerances):
    with pytest.raises(ValueError, match="make atol larger"):
        solve(decay, y0, [0.0, 1.0], **tolerances)


@pytest.mark.filterwarnings("ignore:the tolerances are below the resolution")
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_half_precision_with_default_tolerances(start):
    """y / (rtol * y) = 1e6 is more than float16 can hold; it is formed in float32."""
    y0 = torch.full((2,), start, dtype=torch.float16)
    end = solve(decay, y0, [0.0, 1.0]).y[-1]
    assert torch.allclose(end.double(), y0.double() * math.exp(-1), atol=2e-2)


def test_f_must_not_write_to_the_state():
    with pytest.raises(ValueError, match="changed the state y in place"):
        solve(lambda t, y: y.mul_(-1), Y0.clone(), [0.0, 1.0])


def test_f_must_not_reuse_its_output():
    buffer = torch.empty_like(Y0)
    with pytest.raises(ValueError, match="return a fresh tensor"):
        solve(lambda t, y: torch.mul(y, -1, out=buffer), Y0, [0.0, 1.0])
    constant = torch.ones_like(Y0)
    assert torch.allclose(solve(lambda t, y: constant, Y0, [0.0, 1.0]).y[-1], Y0 + 1)


def test_f_must_stay_on_the_device_of_the_state():
    with pytest.raises(ValueError, match="on meta for a state on cpu"):
        solve(lambda t, y: torch.empty(2, dtype=F64, device="meta"), Y0, [0.0, 1.0])


def test_numbers_of_numpy_are_numbers():
    sol = solve(decay, Y0, [0.0, 1.0], rtol=np.float32(1e-6), max_steps=np.int64(100))
    assert torch.allclose(sol.y[-1], Y0 * math.exp(-1), rtol=1e-5)


def test_a_conjugate_that_is_not_finite_is_named():
    y0 = torch.ones(1, dtype=torch.complex128)
    with pytest.raises(NonFiniteState, match="value of f there is not finite"):
        solve(lambda t, y: (y * math.nan).conj(), y0, [0.0, 1.0])
