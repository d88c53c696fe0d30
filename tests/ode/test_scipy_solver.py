"""SciPy's solvers as a method."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import solve_ivp

from companion import Backsolve, FixedStep, solve
from companion.ode import NonFiniteState, SciPy, Stats, StepSizeUnderflow, TooManySteps
from companion.ode.integrate import integrate
from companion.ode.method import Method
from companion.ode.observe import Observer
from companion.ode.problem import pose
from companion.ode.scipy_solver import SOLVERS
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_scipys(solver):
    times = [0.0, 0.5, 2.0]
    sol = solve(forced, Y0, times, method=SciPy(solver), rtol=1e-8, atol=1e-10)
    expected = solve_ivp(
        lambda t, y: forced(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy(),
        (0.0, 2.0),
        Y0.numpy(),
        t_eval=times,
        method=solver,
        rtol=1e-8,
        atol=1e-10,
    )
    assert torch.allclose(sol.y, torch.from_numpy(expected.y.T), rtol=1e-12)
    assert (
        sol.stats.accepted
        == len(
            solve_ivp(
                lambda t, y: forced(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy(),
                (0.0, 2.0),
                Y0.numpy(),
                method=solver,
                rtol=1e-8,
                atol=1e-10,
            ).t
        )
        - 1
    )


def test_trees_complex_numbers_and_backward_time():
    state = {"z": torch.tensor([1 + 1j], dtype=torch.complex128), "x": torch.ones(2, 1, dtype=F64)}
    sol = solve(
        lambda t, y: {"z": 1j * y["z"], "x": -y["x"]},
        state,
        [0.0, -1.0],
        method="scipy_solver",
        rtol=1e-9,
        atol=1e-11,
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
        solve(lambda t, y: -y, Y0, times, method="scipy_solver")
    with torch.no_grad():
        assert not solve(forced, Y0, times, method="scipy_solver").y.requires_grad


def test_tolerances_may_differ_by_element():
    rtol = torch.tensor([1e-3, 1e-10], dtype=F64)
    sol = solve(forced, Y0, [0.0, 2.0], method="scipy_solver", rtol=rtol, atol=rtol)
    end = forced_reference(Y0.numpy(), [0.0, 2.0])[-1]
    assert abs(float(sol.y[-1, 1] - end[1])) < 1e-6


def test_events_work_with_scipy():
    sol = solve(
        lambda t, y: torch.stack([-y[1], y[0]]),
        torch.tensor([1.0, 0.0], dtype=F64),
        [0.0, math.inf],
        event=lambda t, y: y[0],
        method="scipy_solver",
        rtol=1e-10,
        atol=1e-12,
    )
    assert float(sol.event.t) == pytest.approx(math.pi / 2, abs=1e-7)


@pytest.mark.parametrize("solver", ["RK45", "Radau", "BDF"])
def test_costs_are_scipys(solver):
    """Its count of evaluations leaves out those for its Jacobians, ours does not."""
    calls = []

    def field(t, y):
        calls.append(float(t))
        return -50 * (y - torch.cos(t))

    sol = solve(field, Y0, [0.0, 1.0], method=SciPy(solver))
    assert sol.stats.evaluations == len(calls)
    peer = solve_ivp(
        lambda t, y: -50 * (y - math.cos(t)),
        (0.0, 1.0),
        Y0.numpy(),
        method=solver,
        rtol=1e-6,
        atol=1e-8,
    )
    assert (sol.stats.jacobians, sol.stats.factorisations) == (peer.njev, peer.nlu)
    assert sol.stats.evaluations >= peer.nfev


def steps_of(method, **options):
    """The times at which the steps of a solve end."""
    seen = []

    class Watcher(Observer):
        def accepted(self, t, y, h):
            seen.append(t)

    plan = Method(method, observers=(Watcher(),), **options)
    problem = pose(lambda t, y: -y, Y0, torch.tensor([0.0, 1.0], dtype=F64), (), plan)
    integrate(problem, [Y0], [0.0, 1.0], Stats())
    return [*seen, 1.0]


def test_step_sizes_are_scipys_options():
    times = steps_of(SciPy("RK45", max_step=0.05), rtol=1e-2, atol=1e-2)
    assert max(b - a for a, b in pairwise(times)) <= 0.05 + 1e-12
    times = steps_of(SciPy("RK45"), first_step=0.003)
    assert times[1] == pytest.approx(0.003)
    # A first step that is larger than the interval is the interval.
    assert solve(forced, Y0, [0.0, 0.01], method="scipy_solver", first_step=1.0).y.shape == (2, 2)


def test_steps_are_counted():
    with pytest.raises(TooManySteps, match=r"max_steps = 5 .*loosen rtol"):
        solve(forced, Y0, [0.0, 9.0], method="scipy_solver", max_steps=5)


def test_the_state_of_f_is_its_own():
    """f may keep what it is given, and change it where autograd allows: SciPy's are copies."""
    kept = []

    def field(t, y):
        kept.append((y, y.clone()))
        return -y

    solve(field, Y0, [0.0, 2.0], method="scipy_solver")
    assert all(torch.equal(a, b) for a, b in kept)


def test_parameters_that_f_uses_for_a_part_of_the_time():
    """A gradient that vanishes for a while is integrated as zero; one that begins is refused."""
    early = torch.tensor(0.7, dtype=F64, requires_grad=True)
    late = torch.tensor(0.4, dtype=F64, requires_grad=True)
    adjoint = Backsolve(method=SciPy("RK45", max_step=0.01))

    def field(t, y, early, late):
        return -early * y if t < 0.5 else -late * y

    args, options = (early, late), {"rtol": 1e-8, "atol": 1e-10, "gradient": adjoint}
    y0 = torch.ones(1, dtype=F64)
    sol = solve(field, y0, [0.0, 0.4], args=args, **options)
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), early)
    assert float(grad) == pytest.approx(-0.4 * math.exp(-0.28), rel=1e-5)
    sol = solve(field, y0, [0.0, 1.0], args=args, **options)
    with pytest.raises(ValueError, match="did not use at the last time"):
        torch.autograd.grad(sol.y[-1].sum(), (early, late))

    def fading(t, y, early, late):
        return -late * y - (early * y if t > 0.5 else 0)

    sol = solve(fading, y0, [0.0, 1.0], args=args, **options)
    grads = torch.autograd.grad(sol.y[-1].sum(), (early, late))
    end = math.exp(-0.4 - 0.35)
    for grad, time in zip(grads, (0.5, 1.0), strict=True):
        assert float(grad) == pytest.approx(-time * end, rel=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_not_finite_is_named(solver):
    with pytest.raises(NonFiniteState, match="became infinite or NaN: check f"):
        solve(
            lambda t, y: torch.where(t < 0.5, -y, y * math.nan),
            Y0,
            [0.0, 2.0],
            method=SciPy(solver),
        )


def test_a_message_of_scipys_is_passed_on():
    with pytest.raises(StepSizeUnderflow, match="SciPy: Required step size is less than spacing"):
        solve(lambda t, y: y**2, torch.ones(1, dtype=F64), [0.0, 2.0], method=SciPy("RK45"))


def test_an_error_of_f_is_its_own():
    def broken(t, y):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), torch.no_grad():
        solve(broken, Y0, [0.0, 1.0], method=SciPy("BDF"))


def test_wrong_arguments():
    for step, error in ((0.0, ValueError), (-1.0, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="max_step"):
            SciPy(max_step=step)
    with pytest.raises(ValueError, match="unknown solver 'RK4'"):
        SciPy("RK4")
    with pytest.raises(ValueError, match="control their steps themselves"):
        solve(forced, Y0, [0.0, 1.0], method="scipy_solver", control=FixedStep(0.1))
    with pytest.raises(ValueError, match="keep no dense output"):
        solve(forced, Y0, [0.0, 1.0], method="scipy_solver", dense=True)


def test_a_conjugate_that_is_not_yet_formed():
    """y' = conj(y): the real part grows, the imaginary part decays."""
    y0 = torch.tensor([1 - 1j], dtype=torch.complex128).conj()
    sol = solve(lambda t, y: y.conj(), y0, [0.0, 1.0], method="scipy_solver", rtol=1e-9)
    torch.testing.assert_close(
        sol.y[-1], torch.tensor([math.e + 1j / math.e], dtype=y0.dtype), rtol=1e-6, atol=0.0
    )
