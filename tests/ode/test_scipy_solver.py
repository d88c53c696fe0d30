"""SciPy's solvers as a method."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from companion import Backsolve, FixedStep, solve
from companion.ode import NonFiniteState, SciPy, StepSizeUnderflow
from companion.ode.scipy_solver import SOLVERS
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_scipys(solver):
    times = [0.0, 0.5, 2.0]
    sol = solve(forced, Y0, times, method=SciPy(solver), rtol=1e-8, atol=1e-10)
    expected = solve_ivp(
        lambda t, y: forced(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy(),
        (0.0, 2.0), Y0.numpy(), t_eval=times, method=solver, rtol=1e-8, atol=1e-10,
    )
    assert torch.allclose(sol.y, torch.from_numpy(expected.y.T), rtol=1e-12)
    assert sol.stats.accepted == len(
        solve_ivp(lambda t, y: forced(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy(),
                  (0.0, 2.0), Y0.numpy(), method=solver, rtol=1e-8, atol=1e-10).t
    ) - 1


def test_trees_complex_numbers_and_backward_time():
    state = {"z": torch.tensor([1 + 1j], dtype=torch.complex128), "x": torch.ones(2, 1, dtype=F64)}
    sol = solve(
        lambda t, y: {"z": 1j * y["z"], "x": -y["x"]}, state, [0.0, -1.0],
        method="scipy_solver", rtol=1e-9, atol=1e-11,
    )
    expected = (1 + 1j) * complex(math.cos(1), -math.sin(1))
    assert abs(complex(sol.y["z"][-1, 0]) - expected) < 1e-7
    assert torch.allclose(sol.y["x"][-1], torch.full((2, 1), math.e, dtype=F64), rtol=1e-7)


def test_gradients_by_the_adjoint_only():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    arguments = (lambda t, y, rate: -rate * y, Y0, [0.0, 0.5, 1.0])
    options = {"args": (rate,), "rtol": 1e-9, "atol": 1e-11}
    sol = solve(*arguments, **options, method="scipy_solver", gradient=Backsolve())
    (grad,) = torch.autograd.grad(sol.y[1:].sum(), rate)
    exact = -0.5 * (0.5 * math.exp(-0.35) + math.exp(-0.7))
    assert float(grad) == pytest.approx(exact, rel=1e-6)
    sol = solve(*arguments, **options, gradient=Backsolve(method="scipy_solver"))
    (grad,) = torch.autograd.grad(sol.y[1:].sum(), rate)
    assert float(grad) == pytest.approx(exact, rel=1e-6)
    with pytest.raises(ValueError, match="no gradient passes through SciPy"):
        solve(*arguments, **options, method="scipy_solver")
    times = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient passes through SciPy"):
        solve(forced, Y0, times, method="scipy_solver")


def test_tolerances_may_differ_by_element():
    rtol = torch.tensor([1e-3, 1e-10], dtype=F64)
    sol = solve(forced, Y0, [0.0, 2.0], method="scipy_solver", rtol=rtol, atol=rtol)
    end = forced_reference(Y0.numpy(), [0.0, 2.0])[-1]
    assert abs(float(sol.y[-1, 1] - end[1])) < 1e-6


def test_events_work_with_scipy():
    sol = solve(
        lambda t, y: torch.stack([-y[1], y[0]]), torch.tensor([1.0, 0.0], dtype=F64),
        [0.0, math.inf], event=lambda t, y: y[0], method="scipy_solver", rtol=1e-10, atol=1e-12,
    )
    assert float(sol.event.t) == pytest.approx(math.pi / 2, abs=1e-7)


def test_failures_and_wrong_arguments():
    with pytest.raises((StepSizeUnderflow, NonFiniteState)):
        solve(lambda t, y: y**2, torch.ones(1, dtype=F64), [0.0, 2.0], method=SciPy("RK45"))
    with pytest.raises(ValueError, match="unknown solver 'RK4'"):
        SciPy("RK4")
    with pytest.raises(ValueError, match="control their steps themselves"):
        solve(forced, Y0, [0.0, 1.0], method="scipy_solver", control=FixedStep(0.1))
    with pytest.raises(ValueError, match="keep no dense output"):
        solve(forced, Y0, [0.0, 1.0], method="scipy_solver", dense=True)
