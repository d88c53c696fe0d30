"""Gradients with respect to times where f jumps in time, and to the times at which it does."""

import math

import pytest
import torch

from companion import solve
from companion.adjoint import STRATEGIES
from tests.adjoint.test_gradients import TIGHT
from tests.ode.problems import F64

EVERY = sorted(STRATEGIES.keys() - {"implicit", "reversible"})
CONTINUOUS = ["backsolve", "gauss"]


def switched(t, y, tau, rates=(0.3, 1.1)):
    """y' = c1 y before tau and c2 y from it on."""
    return torch.where(t < tau, *torch.as_tensor(rates, dtype=t.dtype)) * y


@pytest.mark.parametrize("gradient", EVERY)
@pytest.mark.parametrize("named", [False, True])
def test_the_time_gradient_that_an_integral_over_smooth_parts_misses(gradient, named):
    """dL/dt0 = -c1 y(t1) = -0.604; the integral of a df/dt is zero on both sides of the jump, so
    that from dL/dt1 = 2.215 it would carry -2.215 back."""
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    jump_t = [0.5] if named else []
    y = solve(switched, y0, t, args=(0.5,), gradient=gradient, jump_t=jump_t, **TIGHT).y
    grads = torch.autograd.grad(y[-1].sum(), (t, y0))
    end = math.exp(0.7)
    accuracy = 1e-8 if named else 1e-5
    assert grads[0].tolist() == pytest.approx([-0.3 * end, 1.1 * end], rel=accuracy)
    assert float(grads[0][0]) == pytest.approx(-0.604, abs=5e-4)
    assert float(grads[1]) == pytest.approx(end, rel=accuracy)


@pytest.mark.parametrize("gradient", EVERY)
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "back"])
def test_the_sensitivity_to_a_jump_time(gradient, sign):
    """y(1) = exp(c1 tau + c2 (1 - tau)), or from 1 back to 0 with a minus sign; by tau, by the
    times, by both rates, and by a jump time that the solve does not come to."""
    tau = torch.tensor([0.4, 7.0], dtype=F64, requires_grad=True)
    rates = torch.tensor([0.3, 1.1], dtype=F64, requires_grad=True)
    times = [0.0, 0.25, 1.0] if sign > 0 else [1.0, 0.75, 0.0]
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.5], dtype=F64, requires_grad=True)

    def f(t, y, rates):
        return switched(t, y, 0.4, rates)

    y = solve(f, y0, t, args=(rates,), gradient=gradient, jump_t=tau, **TIGHT).y
    inputs = (tau, rates, t, y0)
    found = torch.autograd.grad((y[:, 0] * torch.tensor([0.0, 2.0, -1.0])).sum(), inputs)

    def exact(time):
        first, last = (t[0], time) if sign > 0 else (time, t[0])
        before = torch.clamp(tau[0], max=last) - first if first < tau[0] else 0
        after = last - torch.clamp(tau[0], min=first) if last > tau[0] else 0
        return y0 * torch.exp(sign * (rates[0] * before + rates[1] * after))

    expected = torch.autograd.grad((2 * exact(t[1]) - exact(t[2])).sum(), inputs)
    for grad, value in zip(found, expected, strict=True):
        assert torch.allclose(grad, value, rtol=1e-6, atol=1e-10)
    assert float(found[0][1]) == 0
    assert abs(float(found[0][0])) > 0.1


@pytest.mark.parametrize("gradient", EVERY)
def test_several_jumps_of_a_state_of_several_parts(gradient):
    """Jump times out of order; the exact gradient is that of the solution in closed form."""
    later, earlier, middle = (
        torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.7, 0.2, 0.5)
    )
    y0 = {"x": torch.tensor([1.0, 2.0], dtype=F64), "n": (torch.tensor(0.5, dtype=F64),)}

    def f(t, y):
        x, n = (1.0, 0.0) if t < 0.2 else (-2.0, 3.0) if t < 0.5 else (0.4, 3.0)
        return {"x": (x if t < 0.7 else 1.5) * y["x"], "n": (n + 0 * t,)}

    options = {"gradient": gradient, "jump_t": [later, 0.9, earlier, middle], **TIGHT}
    y = solve(f, y0, [0.0, 1.0], **options).y
    inputs = (earlier, middle, later)
    found = torch.autograd.grad(y["x"][-1].sum() + y["n"][0][-1] ** 2, inputs)
    growth = earlier - 2 * (middle - earlier) + 0.4 * (later - middle) + 1.5 * (1 - later)
    exact = 3 * torch.exp(growth) + (0.5 + 3 * (1 - earlier)) ** 2
    expected = torch.autograd.grad(exact, inputs)
    assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=1e-7)


@pytest.mark.parametrize("gradient", EVERY)
def test_a_jump_at_an_output_time(gradient):
    """One tensor for both, and the output moves with the jump: y(tau) = exp(c1 tau)."""
    tau = torch.tensor(0.4, dtype=F64, requires_grad=True)
    options = {"gradient": gradient, "jump_t": [tau], "args": (0.4,), **TIGHT}
    y = solve(switched, torch.ones(1, dtype=F64), [0.0, tau, 1.0], **options).y
    (found,) = torch.autograd.grad(y[1, 0] ** 2 + 3 * y[2, 0], tau)
    middle, end = math.exp(0.3 * 0.4), math.exp(0.3 * 0.4 + 1.1 * 0.6)
    assert float(found) == pytest.approx(2 * 0.3 * middle**2 + 3 * (0.3 - 1.1) * end, rel=1e-8)


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_times_at_which_f_jumps_count_from_inside_of_the_solve(gradient):
    """Beginning and end are jump times: outside of the solve f is something else."""

    def f(t, y):
        return torch.where((t > 0) & (t < 1), 0.5, 100.0) * y

    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    jumps = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    y = solve(f, torch.ones(1, dtype=F64), t, jump_t=jumps, gradient=gradient, **TIGHT).y
    found, none = torch.autograd.grad(y[-1].sum(), (t, jumps))
    end = math.exp(0.5)
    assert found.tolist() == pytest.approx([-0.5 * end, 0.5 * end], rel=1e-8)
    assert none.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_a_small_loss_has_its_gradients_of_times(gradient):
    """The backward solve is one of a scaled loss, so that atol does not hide it."""
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    tau = torch.tensor([0.5], dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    y = solve(switched, y0, t, args=(0.5,), gradient=gradient, jump_t=tau, **TIGHT).y
    small = 1e-12 * math.exp(0.7)
    grads = torch.autograd.grad(1e-12 * y[-1].sum(), (t, tau))
    assert torch.cat(grads).tolist() == pytest.approx(
        [-0.3 * small, 1.1 * small, -0.8 * small], rel=1e-7
    )


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_a_single_time_has_no_gradient(gradient):
    t = torch.tensor([0.3], dtype=F64, requires_grad=True)
    tau = torch.tensor([0.4], dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = solve(switched, y0, t, args=(0.4,), gradient=gradient, jump_t=tau).y
    grads = torch.autograd.grad(5 * y.sum(), (t, tau, y0))
    assert [float(grad) for grad in grads] == [0.0, 0.0, 5.0]
