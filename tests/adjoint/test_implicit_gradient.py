"""Gradients at steady states: closed forms, other strategies, and what is none."""

import functools
import math

import pytest
import torch
from torch import nn

from companion import Event, FixedStep, solve
from companion.adjoint import Direct, Implicit, NotSteady, linearised
from companion.ode import SciPy
from tests.ode.problems import F64


@pytest.fixture(params=["matrix", "products"])
def either(request, monkeypatch):
    """Jacobians as matrices, and by products alone."""
    if request.param == "products":
        monkeypatch.setattr(linearised, "DENSE", 0)
        monkeypatch.setattr(linearised, "LARGEST", 0)
    return request.param


def logistic(t, y, r, k):
    return r * y * (1 - y / k)


class Leaky(nn.Module):
    """A contracting network: weights of norm below one against a leak of one."""

    def __init__(self, size=3):
        super().__init__()
        torch.manual_seed(2)
        self.inner = nn.Linear(size, 6, dtype=F64)
        self.outer = nn.Linear(6, size, dtype=F64)
        self.unused = nn.Parameter(torch.ones(2, dtype=F64))

    def forward(self, t, y):
        return torch.tanh(self.outer(torch.tanh(self.inner(y)))) - y


def test_logistic_growth_ends_at_its_capacity(either):
    """y* = K whatever r is; tolerances of 1e-3 limit neither the state nor its gradient."""
    r, k = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (1.3, 2.5))
    y0 = torch.tensor([0.1], dtype=F64, requires_grad=True)
    sol = solve(logistic, y0, [0.0, 20.0], args=(r, k), gradient=Implicit(), rtol=1e-3, atol=1e-3)
    assert float(sol.y[-1].detach()) == pytest.approx(2.5, rel=1e-14)
    grads = torch.autograd.grad(sol.y[-1].sin().sum(), (r, k, y0))
    for grad, exact in zip(grads, (0, math.cos(2.5), 0), strict=True):
        assert float(grad) == pytest.approx(exact, rel=1e-11, abs=1e-12)


def linear_system(n, dtype=F64):
    torch.manual_seed(n)
    matrix = torch.randn(n, n, dtype=dtype) / (2 * math.sqrt(n)) + 2 * torch.eye(n, dtype=dtype)
    return matrix.requires_grad_(), torch.randn(n, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("sign", [1, -1], ids=["forward", "back"])
def test_linear_system(either, sign, dtype, rtol):
    """y' = b - A y, so y* = A^-1 b; with the other sign the steady state lies in the past."""
    matrix, b = linear_system(6, dtype)
    weights = torch.arange(1.0, 7.0, dtype=dtype)
    y = solve(
        lambda t, y, matrix, b: sign * (b - matrix @ y),
        torch.zeros(6, dtype=dtype),
        [0.0, sign * 30.0],
        args=(matrix, b),
        gradient=Implicit(),
        rtol=1e-5,
    ).y[-1]
    exact = torch.linalg.solve(matrix, b)
    assert torch.allclose(y, exact, rtol=rtol)
    grads = torch.autograd.grad(y @ weights, (matrix, b))
    for grad, expected in zip(
        grads, torch.autograd.grad(exact @ weights, (matrix, b)), strict=True
    ):
        assert torch.allclose(grad, expected, rtol=rtol, atol=rtol)


def test_large_states_take_products():
    """As many entries as make GMRES the first choice: no Jacobian is computed."""
    matrix, b = linear_system(linearised.DENSE + 1)
    sol = solve(
        lambda t, y: b - matrix @ y,
        torch.zeros(len(b), dtype=F64),
        [0.0, 20.0],
        gradient=Implicit(),
        atol=1e-6,
        rtol=1e-6,
    )
    grads = torch.autograd.grad(sol.y[-1].pow(2).sum(), (matrix, b))
    assert sol.stats.jacobians == sol.stats.backward.jacobians == 0
    exact = torch.autograd.grad(torch.linalg.solve(matrix, b).pow(2).sum(), (matrix, b))
    for grad, expected in zip(grads, exact, strict=True):
        assert (grad - expected).norm() <= 1e-10 * expected.norm()


def test_where_gmres_fails_the_jacobian_is_made_a_matrix(monkeypatch):
    """A shift is the worst matrix for GMRES: no residual decreases before the last product."""
    monkeypatch.setattr(linearised, "DENSE", 0)
    n = 120
    b = torch.linspace(-1, 1, n, dtype=F64).requires_grad_()
    sol = solve(
        lambda t, y: torch.roll(y, 1) - 1e-3 * y + b,
        torch.roll(-b.detach(), -1),
        [0.0, 1e-9],
        gradient=Implicit(),
        rtol=1.0,
        atol=1.0,
    )
    assert sol.stats.jacobians > 0
    (grad,) = torch.autograd.grad(sol.y[-1].pow(2).sum(), b)
    identity = torch.eye(n, dtype=F64)
    exact = torch.linalg.solve(1e-3 * identity - torch.roll(identity, 1, 0), b).pow(2).sum()
    assert torch.allclose(grad, torch.autograd.grad(exact, b)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "method",
    [
        {"method": "dopri5", "rtol": 1e-9, "atol": 1e-10},
        {"method": "rk4", "control": FixedStep(0.25)},
    ],
    ids=lambda m: m["method"],
)
def test_agrees_with_direct_after_a_long_time(either, method):
    """A pytree state of two shapes, args with a dictionary, and the parameters of a module."""
    net = Leaky()

    def f(t, y, given):
        z = net(t, y["z"] + given["shift"])
        return {"z": z - y["w"].sum(), "w": given["rate"] * (y["z"].mean() - y["w"])}

    def grads(gradient):
        inputs = {
            "shift": torch.tensor([0.2, -0.4, 0.1], dtype=F64, requires_grad=True),
            "rate": torch.tensor(0.8, dtype=F64, requires_grad=True),
        }
        y0 = {"z": torch.ones(3, dtype=F64), "w": torch.zeros(2, 1, dtype=F64)}
        y = solve(f, y0, [0.0, 10.0, 40.0], args=(inputs,), gradient=gradient, **method).y
        loss = y["z"][-1].pow(2).sum() + 3 * y["w"][-1].sin().sum()
        used = [*net.inner.parameters(), *net.outer.parameters()]
        wanted = [*inputs.values(), *used, net.unused]
        return torch.autograd.grad(loss, wanted, allow_unused=True)

    (*found, unused), (*expected, _) = grads(Implicit()), grads(Direct())
    assert unused is None
    for grad, other in zip(found, expected, strict=True):
        assert torch.allclose(grad, other, rtol=1e-6, atol=1e-8)


def test_complex_states(either):
    """y' = c - a y with Re a > 0, and a conjugate, which is not holomorphic."""
    a = torch.tensor([1.0 + 2.0j, 2.0 - 1.0j], dtype=torch.complex128, requires_grad=True)
    c = torch.tensor([0.5 - 1.0j, 1.0 + 1.0j], dtype=torch.complex128, requires_grad=True)

    def loss(y):
        return (y.real * torch.tensor([1.0, 2.0]) + y.imag**2).sum()

    y = solve(
        lambda t, y, a, c: c - a * y + 0.1 * y.conj().flip(0),
        torch.zeros(2, dtype=torch.complex128),
        [0.0, 40.0],
        args=(a, c),
        gradient=Implicit(),
    ).y[-1]
    exact = torch.zeros(2, dtype=torch.complex128)
    for _ in range(60):
        exact = (c + 0.1 * exact.conj().flip(0)) / a
    assert torch.allclose(y, exact, rtol=1e-12)
    grads = torch.autograd.grad(loss(y), (a, c))
    for grad, expected in zip(grads, torch.autograd.grad(loss(exact), (a, c)), strict=True):
        assert torch.allclose(grad, expected, rtol=1e-11)


def test_batches_of_steady_states(either):
    k = torch.linspace(0.5, 3.0, 40, dtype=F64).reshape(20, 2).requires_grad_()
    y0 = torch.full((20, 2), 0.2, dtype=F64)
    y = solve(logistic, y0, [0.0, 40.0], args=(1.0, k), gradient=Implicit()).y[-1]
    weights = torch.arange(40.0, dtype=F64).reshape(20, 2)
    (grad,) = torch.autograd.grad((weights * y.log()).sum(), k)
    assert torch.allclose(grad, weights / k, rtol=1e-12)


def test_one_sample_that_is_not_steady_is_enough(either):
    """The root mean square over ten thousand samples would not show it."""
    rates = torch.ones(10_000 if either == "products" else 100, dtype=F64)
    rates[7] = 1e-3
    with pytest.raises(NotSteady, match=r"not steady.*later time.*checkpointed"):
        solve(
            lambda t, y: rates * (1e-6 - y),
            torch.zeros_like(rates),
            [0.0, 30.0],
            gradient=Implicit(),
            rtol=1e-3,
            atol=1e-8,
        )


@pytest.mark.parametrize("speed", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_what_is_steady_does_not_depend_on_units(either, speed, unit):
    """Decay by e^-10 is not steady at 1e-6, by e^-16 it is: whatever time and y are measured in,
    though the rates at the end differ by a factor of 1e36."""
    p = torch.tensor([1.0, 3.0], dtype=F64, requires_grad=True)

    def run(decay):
        return solve(
            lambda t, y: speed * (p * unit - y),
            torch.zeros(2, dtype=F64),
            [0.0, decay / speed],
            gradient=Implicit(),
            rtol=1e-6,
            atol=1e-6 * unit,
        ).y[-1]

    with pytest.raises(NotSteady):
        run(10)
    (grad,) = torch.autograd.grad(run(16).sum(), p)
    assert torch.allclose(grad, torch.full((2,), unit, dtype=F64), rtol=1e-12)


def test_a_slow_component_behind_fast_ones_is_seen(either):
    """At t = 10 all rates are below 1e-3, and y[1] has come one per cent of its way."""

    def f(t, y):
        return torch.stack([1e4 * (y[1] - y[0]), 1e-3 * (1 - y[1])])

    def run(end):
        y0 = torch.zeros(2, dtype=F64)
        return solve(f, y0, [0.0, end], method="kvaerno5", gradient=Implicit()).y[-1]

    with pytest.raises(NotSteady):
        run(10.0)
    assert torch.allclose(run(3e4), torch.ones(2, dtype=F64), rtol=1e-14)


def test_a_moving_state_is_not_steady():
    with pytest.raises(NotSteady, match="keeps changing with t"):
        solve(lambda t, y: t.cos() - y, torch.zeros(1), [0.0, 50.0], gradient=Implicit())


def test_hovering_about_the_steady_state_is_steady():
    """An explicit method on a stiff problem never comes closer than some tolerances."""
    p = torch.tensor([0.7], dtype=F64, requires_grad=True)

    def end(gradient):
        f = lambda t, y: 1000 * (p - y)  # noqa: E731
        return solve(f, torch.ones(1, dtype=F64), [0.0, 1.0], method="tsit5", gradient=gradient).y

    rough, y = end(Direct())[-1], end(Implicit())[-1]
    assert (rough - p).abs() > 1e-7
    assert torch.allclose(y, p, rtol=1e-15)
    assert torch.autograd.grad(y, p)[0].item() == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("rate", [lambda y: -(y**2), lambda y: -((y - 1) ** 3)])
def test_marginal_states_are_refused(either, rate):
    """y' = -y^2 comes to 1e-8, within atol, but with a Jacobian that vanishes on the way."""
    rough = {"rtol": 1e-2, "atol": 1e-2}
    with pytest.raises(NotSteady, match=r"marginal.*checkpointed"):
        solve(
            lambda t, y: rate(y),
            torch.full((2,), 1.0, dtype=F64) * 1.05,
            [0.0, 1e5],
            gradient=Implicit(),
            **rough,
        )


def test_a_marginal_state_is_refused_however_close_it_is(either):
    """Newton's correction is 1e-12 here, and changes nothing, but in the Jacobian."""
    y0 = torch.tensor([1 + 2e-12], dtype=F64)
    with pytest.raises(NotSteady, match="marginal"):
        solve(lambda t, y: -((y - 1) ** 2), y0, [0.0, 1.0], gradient=Implicit())


def test_states_that_stand_still_are_refused():
    with pytest.raises(NotSteady, match=r"singular.*marginal"):
        solve(lambda t, y: 0 * y, torch.ones(2), [0.0, 1.0], gradient=Implicit())


def exchange(t, y, k):
    """A <-> B: y[0] + y[1] is conserved."""
    flow = k * y[0] - y[1]
    return torch.stack([-flow, flow])


def test_conserved_quantities_are_refused():
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    with pytest.raises(NotSteady, match=r"singular.*conserved.*checkpointed"):
        solve(exchange, torch.ones(2, dtype=F64), [0.0, 30.0], args=(k,), gradient=Implicit())


def test_conserved_quantities_that_hide_in_rounding_are_refused():
    """The same in other coordinates: the smallest pivot is 1e-16, not zero."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(30, 30, dtype=F64))[0]
    rates = torch.linspace(1, 3, 30, dtype=F64)
    rates[4] = 0
    with pytest.raises(NotSteady, match="singular"):
        solve(
            lambda t, y: basis @ (rates * (1 - basis.mT @ y)),
            torch.zeros(30, dtype=F64),
            [0.0, 40.0],
            gradient=Implicit(),
        )


def test_conserved_quantities_of_large_states_are_refused(monkeypatch):
    """GMRES finds the steady state, but no derivative of it."""
    monkeypatch.setattr(linearised, "DENSE", 0)
    monkeypatch.setattr(linearised, "LARGEST", 0)
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    y = solve(exchange, torch.ones(2, dtype=F64), [0.0, 30.0], args=(k,), gradient=Implicit()).y
    assert torch.allclose(y[-1], torch.tensor([2 / 3, 4 / 3], dtype=F64), rtol=1e-12)
    with pytest.raises(NotSteady, match=r"GMRES.*too large.*conserved"):
        y[-1, 0].backward()


def test_many_scales_are_not_singular():
    """Rates from 1e-5 to 1e5 and units from 1e8 to 1e-8: scaled, the matrix is the identity."""
    rates, units = torch.logspace(-5, 5, 9, dtype=F64), torch.logspace(8, -8, 9, dtype=F64)
    p = torch.ones(9, dtype=F64, requires_grad=True)

    def f(t, y):
        z = y / units
        return units * rates * (p - z + 0.3 * torch.roll(z, 1))

    y = solve(
        f,
        torch.zeros(9, dtype=F64),
        [0.0, 1e7],
        method="kvaerno5",
        gradient=Implicit(),
        atol=1e-8 * units,
    ).y[-1]
    (grad,) = torch.autograd.grad((y / units).sum(), p)
    assert torch.allclose(grad, torch.full((9,), 1 / 0.7, dtype=F64), rtol=1e-9)


def test_states_before_the_last_carry_no_gradient():
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    times = [0.0, 1.0, 40.0]
    y0 = torch.ones(1, dtype=F64)

    def run(gradient):
        return solve(logistic, y0, times, args=(1.0, k), gradient=gradient).y

    y = run(Implicit())
    assert torch.equal(y[:2], run(Direct())[:2])
    for i in (0, 1):
        with pytest.raises(ValueError, match=r"before the last.*Checkpointed.*y\[-1\]"):
            torch.autograd.grad(y[i].sum(), k, retain_graph=True)
    assert torch.autograd.grad(y[-1].sum(), k)[0].item() == pytest.approx(1, rel=1e-13)


def test_gradients_of_times_and_jumps_are_zero():
    k = torch.tensor([2.0], dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 1.0, 40.0], dtype=F64, requires_grad=True)
    jump = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def f(t, y):
        return torch.where(t < 0.5, 0.3, 1.0) * (k - y)

    y = solve(f, y0, t, gradient=Implicit(), jump_t=[jump]).y
    grads = torch.autograd.grad(3 * y[-1].sum(), (y0, t, jump, k))
    assert [grad.tolist() for grad in grads[:3]] == [[0.0], [0.0, 0.0, 0.0], 0.0]
    assert grads[3].item() == pytest.approx(3)


def test_values_do_not_depend_on_whether_a_gradient_is_wanted():
    k = torch.tensor([2.0], dtype=F64, requires_grad=True)

    def run():
        return solve(logistic, torch.ones(1, dtype=F64), [0.0, 40.0], args=(1.0, k), gradient=i).y

    i = Implicit()
    expected = run()
    with torch.no_grad():
        assert torch.equal(run(), expected)
    with torch.inference_mode():
        assert torch.equal(run(), expected)
        with pytest.raises(NotSteady):
            solve(logistic, torch.ones(1), [0.0, 1.0], args=(1.0, 2.0), gradient=i)


@pytest.mark.parametrize("start", [0.0, 1e-3])
def test_without_atol_a_state_at_zero_must_be_zero(either, start):
    """rtol allows nothing there, but that is no reason to refuse what needs nothing."""
    k = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    solved = functools.partial(
        solve,
        lambda t, y: k - y,
        torch.tensor([start, 0.0], dtype=F64),
        [0.0, 20.0],
        method="rk4",
        control=FixedStep(0.25),
        gradient=Implicit(),
        atol=0.0,
    )
    if start:
        with pytest.raises(NotSteady):
            solved()
        return
    y = solved().y[-1]
    assert y.tolist() == pytest.approx([0, 1])
    assert torch.autograd.grad(y.sum(), k)[0].tolist() == pytest.approx([1, 1])


def test_without_atol_all_of_the_state_may_be_zero(either):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    options = {"method": "rk4", "control": FixedStep(0.25), "gradient": Implicit(), "atol": 0.0}
    y0 = torch.zeros(2, dtype=F64)
    y = solve(lambda t, y: torch.sin(k - 2) - y, y0, [0.0, 20.0], **options).y[-1]
    assert torch.autograd.grad(y.sum(), k)[0].item() == pytest.approx(2)


def test_cost_and_memory_do_not_grow_with_the_steps():
    net = Leaky()

    def run(steps):
        kept = {}

        def pack(x):
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            sol = solve(
                net,
                torch.ones(3, dtype=F64),
                [0.0, 100.0],
                method="rk4",
                control=FixedStep(100 / steps),
                gradient=Implicit(),
            )
            sol.y[-1].sum().backward()
        return sum(kept.values()), sol.stats.backward.evaluations

    assert run(100) == run(1000)
    assert run(100)[1] == 1


def test_solvers_of_scipy():
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    y = solve(logistic, y0, [0.0, 50.0], args=(1.0, k), method=SciPy("BDF"), gradient=Implicit()).y
    assert torch.autograd.grad(y[-1].sum(), k)[0].item() == pytest.approx(1, rel=1e-12)


def test_empty_parts_of_a_state():
    k = torch.tensor([2.0], dtype=F64, requires_grad=True)
    y = solve(
        lambda t, y: (k - y[0], -y[1]),
        (torch.zeros(1, dtype=F64), torch.zeros(0, dtype=F64)),
        [0.0, 50.0],
        gradient=Implicit(),
    ).y
    assert torch.autograd.grad(y[0][-1].sum() + y[1].sum(), k)[0].item() == pytest.approx(1)
    nothing = solve(lambda t, y: -y, torch.zeros(0), [0.0, 1.0], gradient=Implicit()).y
    assert nothing.shape == (2, 0)


def test_autocast_is_for_f_alone(either):
    """float16 has three digits and ends at 65504, less than the entries of this J^-1."""
    a = torch.linspace(1, 2, 40, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        y = solve(
            lambda t, y: 1e-6 * (1 - a * y + 0.3 * torch.roll(y, 1)),
            torch.zeros(40),
            [0.0, 3e7],
            gradient=Implicit(),
            rtol=1e-4,
            atol=1e-4,
        ).y[-1]
    (grad,) = torch.autograd.grad(y.pow(2).sum(), a)
    exact = torch.linalg.solve(
        torch.diag(a) - 0.3 * torch.roll(torch.eye(40), 1, 0), torch.ones(40)
    )
    (expected,) = torch.autograd.grad(exact.pow(2).sum(), a)
    assert (grad - expected).norm() <= 1e-5 * expected.norm()


def test_params_name_what_a_gradient_is_wanted_of():
    k = torch.tensor([2.0], dtype=F64, requires_grad=True)
    scaled = 3 * k
    y = solve(
        lambda t, y: scaled - y,
        torch.zeros(1, dtype=F64),
        [0.0, 50.0],
        gradient=Implicit(params=(scaled,)),
    ).y
    assert torch.autograd.grad(y[-1].sum(), k)[0].item() == pytest.approx(3)


def test_second_derivatives_are_refused():
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    y = solve(logistic, y0, [0.0, 40.0], args=(1.0, k), gradient=Implicit()).y
    (grad,) = torch.autograd.grad(y[-1].pow(3).sum(), k, create_graph=True)
    assert grad.item() == pytest.approx(12)
    with pytest.raises(RuntimeError, match=r"Implicit.*direct.*checkpointed"):
        torch.autograd.grad(grad, k)


@pytest.mark.parametrize("dense", [linearised.DENSE, 0])
def test_a_derivative_that_f_hides_is_missed(monkeypatch, dense):
    monkeypatch.setattr(linearised, "DENSE", dense)
    with pytest.raises(ValueError, match="autograd does not see"):
        solve(lambda t, y: 1 - y.detach(), torch.zeros(1), [0.0, 30.0], gradient=Implicit())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"event": Event(lambda t, y: y.sum() - 1)}, "event.*checkpointed"),
        ({"t": [0.0]}, "last time"),
    ],
)
def test_what_it_cannot_serve(changed, words):
    with pytest.raises(ValueError, match=f"Implicit.*{words}"):
        solve(lambda t, y: -y, torch.ones(1), **{"t": [0.0, 30.0], **changed}, gradient=Implicit())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu(either):
    matrix, b = (x.detach().cuda().requires_grad_() for x in linear_system(6))
    y = solve(lambda t, y: b - matrix @ y, torch.zeros_like(b), [0.0, 30.0], gradient=Implicit()).y[
        -1
    ]
    grads = torch.autograd.grad(y.pow(2).sum(), (matrix, b))
    exact = torch.autograd.grad(torch.linalg.solve(matrix, b).pow(2).sum(), (matrix, b))
    for grad, expected in zip(grads, exact, strict=True):
        assert torch.allclose(grad, expected, rtol=1e-9, atol=1e-12)
