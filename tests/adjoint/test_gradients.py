"""Gradients of a solve: the strategies agree, with each other and with the mathematics."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from companion import Backsolve, Direct, FixedStep, solve
from tests.ode.problems import F64

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
STRATEGIES = ["direct", "checkpointed", "backsolve", "gauss", "reversible"]


class Net(nn.Module):
    """A small time-dependent vector field."""

    def __init__(self, size=3):
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(size + 1, 7, dtype=F64)
        self.outer = nn.Linear(7, size, dtype=F64)
        self.unused = nn.Parameter(torch.ones(2, dtype=F64))

    def forward(self, t, y):
        with_time = torch.cat([y, t.expand(*y.shape[:-1], 1)], -1)
        return self.outer(torch.tanh(self.inner(with_time)))


def central_difference(loss, x, eps=1e-6):
    """The gradient of ``loss(x)`` entry by entry."""
    grad = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x).flatten()
        step[i] = eps
        step = step.reshape(x.shape)
        grad.view(-1)[i] = (loss(x + step) - loss(x - step)) / (2 * eps)
    return grad


@pytest.mark.parametrize("gradient", STRATEGIES)
@pytest.mark.parametrize(
    "method",
    [
        {"method": "dopri5", **TIGHT},
        {"method": "tsit5", **TIGHT},
        {"method": "bosh3", "rtol": 1e-8, "atol": 1e-9},
        {"method": "rk4", "control": FixedStep(0.02)},
    ],
    ids=lambda m: m["method"],
)
@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.7, -0.5]], ids=["forward", "back"])
def test_against_central_differences(gradient, method, times):
    """y0, a tensor in args, a parameter and every time; the loss sees every output."""
    net = Net()
    weights = torch.tensor([[0.3], [1.0], [-2.0]], dtype=F64)

    def loss(y0, t, scale, bias):
        def f(t, y, scale):
            inner = nn.functional.linear(torch.cat([y, t.reshape(1)]), net.inner.weight, bias)
            return scale * net.outer(torch.tanh(inner))

        y = solve(f, y0, t, args=(scale,), gradient=gradient, **method).y
        return (weights * y.sin()).sum()

    inputs = [
        torch.tensor([0.5, -1.0, 0.2], dtype=F64),
        torch.tensor(times, dtype=F64),
        torch.tensor(1.3, dtype=F64),
        net.inner.bias.detach().clone(),
    ]
    live = [x.clone().requires_grad_() for x in inputs]
    grads = torch.autograd.grad(loss(*live), live)
    for i, grad in enumerate(grads):
        with torch.no_grad():
            expected = central_difference(
                lambda x, i=i: loss(*[x if j == i else y for j, y in enumerate(inputs)]),
                inputs[i],
            )
        assert torch.allclose(grad, expected, rtol=1e-5, atol=1e-6), i


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_closed_form(gradient):
    """y' = p y cos t, so y(t) = y0 exp(p (sin t - sin t0))."""
    y0 = torch.tensor([1.5], dtype=F64, requires_grad=True)
    p = torch.tensor(0.8, dtype=F64, requires_grad=True)
    t = torch.tensor([0.2, 1.1, 2.5], dtype=F64, requires_grad=True)
    sol = solve(lambda t, y, p: p * y * torch.cos(t), y0, t, args=(p,), gradient=gradient, **TIGHT)
    weights = torch.tensor([3.0, 1.0, -2.0], dtype=F64)
    grads = torch.autograd.grad((weights * sol.y[:, 0]).sum(), (y0, p, t))

    growth = torch.exp(p * (t.sin() - t[0].sin()))
    exact = (weights * y0 * growth).sum()
    for grad, expected in zip(grads, torch.autograd.grad(exact, (y0, p, t)), strict=True):
        assert torch.allclose(grad, expected, rtol=1e-7)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_time_gradients_where_f_jumps_in_time(gradient):
    """y' = c1 y before t = 1/2 and c2 y after: dL/dt0 = -c1 y(t1), which the integral of
    a df/dt, zero on both sides of the jump, does not see."""
    c1, c2 = 0.7, -1.9
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    sol = solve(
        lambda t, y: torch.where(t < 0.5, c1, c2) * y,
        y0,
        t,
        gradient=gradient,
        rtol=1e-8,
        atol=1e-8,
    )
    end = math.exp(0.5 * c1 + 0.5 * c2)
    grads = torch.autograd.grad(sol.y[-1].sum(), (y0, t))
    assert float(grads[0]) == pytest.approx(end, rel=1e-5)
    assert grads[1].tolist() == pytest.approx([-c1 * end, c2 * end], rel=1e-5)


def test_direct_is_the_exact_derivative_of_what_was_computed():
    """Coarse fixed steps: gradcheck sees the derivative of the discrete map, twice."""
    a = torch.tensor([[-0.2, 1.0], [-1.0, 0.1]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.3], dtype=F64, requires_grad=True)

    def end(y0, t, a):
        f = lambda t, y, a: torch.tanh(a @ y) * torch.cos(2 * t)  # noqa: E731
        return solve(f, y0, t, args=(a,), method="heun", control=FixedStep(0.35)).y

    assert torch.autograd.gradcheck(end, (y0, t, a))
    assert torch.autograd.gradgradcheck(end, (y0, t, a))


def test_the_first_stage_carries_its_graph():
    """A first step chosen by the solver must not detach f(t0, y0)."""
    y0 = torch.tensor([1.0], dtype=F64, requires_grad=True)
    sol = solve(lambda t, y: -y, y0, [0.0, 1.0], rtol=1e-3, atol=1e-3)
    assert sol.stats.accepted < 6
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), y0)
    assert float(grad) == pytest.approx(float(sol.y[-1].detach()), rel=1e-12)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_parameters_of_a_module(gradient):
    net = Net()
    y0 = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))

    def loss(gradient):
        return solve(net, y0, [0.0, 0.5, 1.0], gradient=gradient, **TIGHT).y.pow(2).sum()

    used = [p for name, p in net.named_parameters() if name != "unused"]
    expected = torch.autograd.grad(loss(Direct()), used)
    loss(gradient).backward()
    for p, grad in zip(used, expected, strict=True):
        assert torch.allclose(p.grad, grad, rtol=1e-6, atol=1e-8)
    assert net.unused.grad is None or not net.unused.grad.any()


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_what_f_closes_over_has_a_gradient(gradient):
    a = torch.tensor(-0.5, dtype=F64, requires_grad=True)
    net = nn.Linear(1, 1, dtype=F64)
    y0 = torch.ones(1, dtype=F64)
    sol = solve(lambda t, y: a * net(y), y0, [0.0, 1.0], gradient=gradient, **TIGHT)
    found = torch.autograd.grad(sol.y[-1].sum(), [a, *net.parameters()])
    sol = solve(lambda t, y: a * net(y), y0, [0.0, 1.0], gradient="direct", **TIGHT)
    expected = torch.autograd.grad(sol.y[-1].sum(), [a, *net.parameters()])
    for grad, value in zip(found, expected, strict=True):
        assert torch.allclose(grad, value, rtol=1e-7)


def test_a_method_of_a_module_brings_its_parameters():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-0.5, dtype=F64))

        def flow(self, t, y):
            return torch.where(t > 0.5, self.rate * y, 0 * y)

    model = Model()
    sol = solve(model.flow, torch.ones(1, dtype=F64), [0.0, 1.0], gradient="backsolve", **TIGHT)
    sol.y[-1].sum().backward()
    assert float(model.rate.grad) == pytest.approx(0.5 * math.exp(-0.25), rel=1e-4)


def test_a_derived_tensor_that_f_closes_over_is_an_error_with_two_cures():
    p = torch.tensor(0.3, dtype=F64, requires_grad=True)
    rate = torch.exp(p)
    y0 = torch.ones(1, dtype=F64)

    def f(t, y):
        return -rate * y

    with pytest.raises(ValueError, match="ExpBackward"):
        solve(f, y0, [0.0, 1.0], gradient="backsolve")
    expected = -math.exp(0.3) * math.exp(-math.exp(0.3))
    by_args = solve(
        lambda t, y, r: -r * y, y0, [0.0, 1.0], args=(rate,), gradient="backsolve", **TIGHT
    )
    by_params = solve(f, y0, [0.0, 1.0], gradient=Backsolve(params=(rate,)), **TIGHT)
    for sol in (by_args, by_params):
        (grad,) = torch.autograd.grad(sol.y[-1].sum(), p, retain_graph=True)
        assert float(grad) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_trees_of_tensors(gradient):
    y0 = {
        "x": torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True),
        "n": (torch.tensor(0.5, dtype=F64, requires_grad=True),),
    }
    args = ({"k": torch.tensor(0.7, dtype=F64, requires_grad=True), "name": "spring"}, 2.0)

    def f(t, y, options, factor):
        assert options["name"] == "spring"
        return {"x": -options["k"] * y["x"] * y["n"][0], "n": (factor * torch.cos(t) * y["n"][0],)}

    sol = solve(f, y0, [0.0, 0.3, 1.0], args=args, gradient=gradient, **TIGHT)
    inputs = (y0["x"], y0["n"][0], args[0]["k"])
    grads = torch.autograd.grad(sol.y["x"].sum() + sol.y["n"][0].pow(2).sum(), inputs)
    direct = solve(f, y0, [0.0, 0.3, 1.0], args=args, **TIGHT)
    expected = torch.autograd.grad(direct.y["x"].sum() + direct.y["n"][0].pow(2).sum(), inputs)
    for grad, value in zip(grads, expected, strict=True):
        assert torch.allclose(grad, value, rtol=1e-7)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_complex_states(gradient):
    """L = Im(y1) for y' = k y: dL/dRe(y0), dL/dIm(y0) and dL/dk by the closed form."""
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128, requires_grad=True)
    k = torch.tensor(-0.2 + 2j, dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    sol = solve(lambda t, y, k: k * y, y0, t, args=(k,), gradient=gradient, **TIGHT)
    grads = torch.autograd.grad(sol.y[-1].imag.sum(), (y0, k, t))
    exact = y0 * torch.exp(k * (t[1] - t[0]))
    expected = torch.autograd.grad(exact.imag.sum(), (y0, k, t))
    for grad, value in zip(grads, expected, strict=True):
        assert torch.allclose(grad, value, rtol=1e-6)


@pytest.mark.parametrize("gradient", STRATEGIES)
@pytest.mark.parametrize(
    "f", [lambda t, y: torch.ones_like(y), lambda t, y: t * torch.ones_like(y)]
)
def test_f_that_depends_on_nothing_differentiable(gradient, f):
    y0 = torch.zeros(2, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 2.0], dtype=F64, requires_grad=True)
    sol = solve(f, y0, t, gradient=gradient)
    grad, time_grad = torch.autograd.grad(sol.y[-1].sum(), (y0, t))
    assert torch.equal(grad, torch.ones(2, dtype=F64))
    at = [float(f(x, y0.detach()).sum()) for x in t.detach()]
    assert time_grad.tolist() == pytest.approx([-at[0], at[1]], abs=1e-8)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_only_the_initial_time(gradient):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    t = torch.tensor([0.5], dtype=F64, requires_grad=True)
    net = Net(2)
    sol = solve(net, y0, t, gradient=gradient)
    grads = torch.autograd.grad(
        3 * sol.y.sum(), (y0, t, net.outer.bias), allow_unused=True, materialize_grads=True
    )
    assert [g.tolist() for g in grads] == [[3.0, 3.0], [0.0], [0.0, 0.0]]


def test_f_may_ask_for_gradients_of_its_own():
    """A Hamiltonian system by autograd inside f."""

    def f(t, y):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            energy = 0.5 * (y**2).sum()
            (grad,) = torch.autograd.grad(energy, y, create_graph=True)
        return torch.stack((grad[1], -grad[0]))

    y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    t = [0.0, 1.0]
    for gradient in STRATEGIES:
        sol = solve(f, y0, t, gradient=gradient, **TIGHT)
        (grad,) = torch.autograd.grad(sol.y[-1, 0], y0)
        assert grad.tolist() == pytest.approx([math.cos(1), math.sin(1)], abs=1e-8)


def test_no_graph_is_made_when_none_is_asked_for():
    net = Net()
    y0 = torch.zeros(3, dtype=F64)
    for gradient in STRATEGIES:
        with torch.no_grad():
            assert not solve(net, y0, [0.0, 1.0], gradient=gradient).y.requires_grad
        net.requires_grad_(False)
        assert not solve(net, y0, [0.0, 1.0], gradient=gradient).y.requires_grad
        net.requires_grad_(True)
        assert solve(net, y0, [0.0, 1.0], gradient=gradient).y.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("control", [None, FixedStep(0.3)])
def test_asking_for_time_gradients_does_not_change_the_solution(dtype, control):
    t = torch.tensor([100.0, 100.5, 101.25, 102.0], dtype=dtype)
    y0 = torch.ones(2, dtype=F64)
    f = lambda t, y: torch.cos(3 * t) * y  # noqa: E731
    plain = solve(f, y0, t, control=control, **TIGHT).y
    live = solve(f, y0, t.requires_grad_(), control=control, **TIGHT).y
    assert live.requires_grad
    assert torch.allclose(plain, live, rtol=1e-13)


@pytest.mark.parametrize("control", [None, FixedStep(0.1)])
def test_forward_mode_through_the_times(control):
    t = torch.tensor([0.0, 0.4, 1.0], dtype=F64)
    y0 = torch.tensor([1.0], dtype=F64)

    def end(t):
        return solve(lambda t, y: torch.cos(t) * y, y0, t, control=control, **TIGHT).y[-1]

    direction = torch.tensor([0.5, 1.0, -2.0], dtype=F64)
    value, pushed = torch.func.jvp(end, (t,), (direction,))
    expected = (-0.5 * math.cos(0) - 2.0 * math.cos(1)) * value
    assert torch.allclose(pushed, expected, rtol=1e-3 if control else 1e-8)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_a_parameter_changed_in_between_is_noticed(gradient):
    net = Net()
    sol = solve(net, torch.ones(3, dtype=F64), [0.0, 1.0], gradient=gradient)
    with torch.no_grad():
        net.inner.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sol.y.sum().backward()


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_nothing_is_kept_alive_once_the_solution_is_gone(gradient):
    net, y0 = Net(), torch.ones(3, dtype=F64, requires_grad=True)
    sol = solve(net, y0, [0.0, 1.0], gradient=gradient)
    sol.y.sum().backward()
    witness = weakref.ref(net.inner.weight)
    gc.disable()
    try:
        del sol, net
        assert witness() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_times_may_be_a_list_with_tensors(gradient):
    end = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: -y, torch.ones(1, dtype=F64), [0.0, end], gradient=gradient, **TIGHT).y
    (grad,) = torch.autograd.grad(y[-1].sum(), end)
    assert float(grad) == pytest.approx(-math.exp(-1), rel=1e-7)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_gradients_on_a_gpu_equal_those_on_the_cpu(gradient):
    def grads(device):
        net = Net().to(device)
        y0 = torch.ones(4, 3, dtype=F64, device=device)
        t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
        loss = solve(net, y0, t, gradient=gradient, **TIGHT).y.pow(2).sum()
        return torch.autograd.grad(loss, [t, net.inner.weight, net.outer.bias])

    for here, there in zip(grads("cpu"), grads("cuda"), strict=True):
        assert torch.allclose(here, there.cpu(), rtol=1e-8)
