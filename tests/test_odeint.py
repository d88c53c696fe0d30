"""The face of torchdiffeq, against torchdiffeq."""

import pytest
import torch
import torchdiffeq
from torch import nn

import companion
from companion import odeint, odeint_adjoint
from companion.ode import TooManySteps
from tests.adjoint.test_gradients import Net
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)
TIMES = torch.linspace(0, 3, 11, dtype=F64)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "adaptive_heun", None])
@pytest.mark.parametrize("sign", [1, -1])
def test_adaptive_methods(method, sign):
    tol = {"rtol": 1e-5, "atol": 1e-6} if method == "adaptive_heun" else {}
    ours = odeint(forced, Y0, sign * TIMES, method=method, **tol)
    theirs = torchdiffeq.odeint(forced, Y0, sign * TIMES, method=method, **tol)
    assert ours.shape == theirs.shape
    # torchdiffeq's dense output for bosh3 is the less accurate one (see below).
    assert torch.allclose(ours, theirs, atol={"dopri5": 1e-6, None: 1e-6}.get(method, 3e-4))


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "rk4"])
def test_fixed_grid_methods_step_from_time_to_time(method):
    ours = odeint(forced, Y0, TIMES, method=method)
    assert torch.allclose(ours, torchdiffeq.odeint(forced, Y0, TIMES, method=method), rtol=1e-13)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "rk4"])
def test_step_size_where_the_times_are_on_the_grid(method):
    options = {"step_size": 0.1}
    ours = odeint(forced, Y0, TIMES, method=method, options=options)
    theirs = torchdiffeq.odeint(forced, Y0, TIMES, method=method, options=options)
    assert torch.allclose(ours, theirs, rtol=1e-11)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_no_worse_than_torchdiffeq_for_the_same_work(method):
    calls = []

    def f(t, y):
        calls.append(float(t))
        return forced(t, y)

    reference = forced_reference(Y0.numpy(), TIMES.tolist())
    ours = (odeint(f, Y0, TIMES, method=method) - reference).abs().max()
    count = len(calls)
    theirs = (torchdiffeq.odeint(f, Y0, TIMES, method=method) - reference).abs().max()
    assert count < 1.1 * (len(calls) - count)
    assert ours < 1.1 * theirs


def test_tuples_and_their_norm():
    def f(t, y):
        return -y[0], y[1] * torch.cos(t)

    def norm(state):
        assert isinstance(state, tuple)
        return torch.stack([x.abs().max() for x in state]).max()

    y0 = (torch.ones(3, dtype=F64), torch.ones(2, 2, dtype=F64))
    for options in (None, {"norm": norm}):
        ours = odeint(f, y0, TIMES, options=options)
        theirs = torchdiffeq.odeint(f, y0, TIMES, method="dopri5", options=options)
        assert isinstance(ours, tuple)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-7)


def test_options_for_control():
    options = {"first_step": 0.01, "safety": 0.8, "ifactor": 5.0, "dfactor": 0.3}
    ours = odeint(forced, Y0, TIMES, method="dopri5", options=options)
    assert torch.allclose(ours, odeint(forced, Y0, TIMES), atol=1e-6)
    assert not torch.equal(ours, odeint(forced, Y0, TIMES))
    assert not torch.equal(
        odeint(forced, Y0, TIMES, options={"first_step": 0.01}), odeint(forced, Y0, TIMES)
    )
    with pytest.raises(TooManySteps):
        odeint(forced, Y0, TIMES, options={"max_num_steps": 3})


def test_tolerances_may_be_tensors():
    ours = odeint(forced, Y0, TIMES, rtol=torch.tensor(1e-5), atol=torch.tensor(1e-6))
    assert torch.allclose(ours, odeint(forced, Y0, TIMES), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "rk45"}, "unknown method 'rk45': did you mean 'rk4'"),
        ({"options": {"stepsize": 1}}, "'stepsize', which method 'dopri5' does not know"),
        ({"method": "rk4", "options": {"first_step": 1.0}}, "it takes grid_constructor, interp"),
        ({"adjoint_options": {"norm": max}}, "seminorm"),
        ({"method": "rk4", "options": {"step_size": 0.1}, "adjoint_method": "dopri5"}, "give adj"),
        ({"adjoint_options": {"step_size": 0.1}}, "adjoint_options has 'step_size'"),
    ],
)
def test_wrong_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        odeint_adjoint(forced, Y0, TIMES, **arguments)


def grads_of(interface, **kwargs):
    net = Net()
    y0 = torch.linspace(-1, 1, 6, dtype=F64).reshape(2, 3).requires_grad_()
    t = torch.tensor([0.0, 0.5, 1.2], dtype=F64, requires_grad=True)
    y = interface(net, y0, t, **kwargs)
    params = [net.inner.weight, net.outer.bias]
    return torch.autograd.grad((y**2).sum(), [y0, t, *params])


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_gradients_are_those_of_torchdiffeq(interface):
    expected = grads_of(torchdiffeq.odeint_adjoint, rtol=1e-10, atol=1e-11)
    for ours, theirs in zip(grads_of(interface, rtol=1e-10, atol=1e-11), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "arguments",
    [
        {"adjoint_rtol": 1e-9, "adjoint_atol": 1e-10},
        {"adjoint_method": "bosh3"},
        {"adjoint_options": {"norm": "seminorm"}},
        {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.02}},
        {"method": "rk4", "options": {"step_size": 0.02}},
        {"options": {"norm": lambda y: y.abs().max()}},
    ],
)
def test_adjoint_arguments(arguments):
    expected = grads_of(odeint, rtol=1e-10, atol=1e-11)
    for ours, theirs in zip(grads_of(odeint_adjoint, **arguments), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adjoint_rtol", "adjoint_atol"])
def test_adjoint_tolerances_reach_the_backward_solve(name):
    tight = {"rtol": 1e-9, "atol": 1e-9}
    exact = grads_of(odeint_adjoint, **tight)[0]
    loose = grads_of(odeint_adjoint, **tight, **{name: 1e-2})[0]
    assert 1e-8 < (exact - loose).abs().max() < 1e-1


def test_adjoint_options_reach_the_backward_solve():
    exact, other = (
        grads_of(odeint_adjoint, adjoint_options=options)[0]
        for options in (None, {"first_step": 1e-3})
    )
    assert 0 < (exact - other).abs().max() < 1e-5
    with pytest.raises(TooManySteps):
        grads_of(odeint_adjoint, adjoint_options={"max_num_steps": 2})


def test_the_default_method_by_its_name_is_the_default():
    options = {"first_step": 0.1}
    named = grads_of(odeint_adjoint, adjoint_method="dopri5", options=options)
    plain = grads_of(odeint_adjoint, options=options)
    assert all(torch.equal(a, b) for a, b in zip(named, plain, strict=True))


def test_numbers_may_be_tensors_with_one_element():
    by_tensor, by_number = (
        odeint(forced, Y0, TIMES, method="rk4", options={"step_size": step})
        for step in (torch.tensor(0.1, dtype=F64), 0.1)
    )
    assert torch.equal(by_tensor, by_number)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": ("a",)}, "rtol must be a number, got str"),
        ({"method": "rk4", "options": {"step_size": "a"}}, "step_size"),
        ({"options": 5}, "options must be a dictionary, got int"),
        ({"method": ["x"]}, "method must be a string, got list"),
    ],
)
def test_wrong_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        odeint(forced, Y0, TIMES, **arguments)


def test_adjoint_params_choose_whose_gradients_are_wanted():
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    b = torch.exp(a)
    y = odeint_adjoint(lambda t, y: -b * y, Y0, TIMES[:2], adjoint_params=(b,))
    (grad,) = torch.autograd.grad(y[-1].sum(), a)
    expected = (-0.3 * b * Y0 * torch.exp(-0.3 * b)).sum().detach()
    assert torch.allclose(grad, expected, rtol=1e-6)


class OdeNet(nn.Module):
    """How torchdiffeq is used in practice: a block inside a network, in float32."""

    def __init__(self, integrate):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(2, 4), nn.Linear(4, 1)
        self.field = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.integrate = integrate

    def forward(self, x):
        def f(t, y):
            return self.field(y)

        h = self.integrate(
            f,
            self.up(x),
            torch.tensor([0.0, 1.0]),
            rtol=1e-4,
            atol=1e-4,
            adjoint_params=tuple(self.field.parameters()),
        )
        return self.down(h[-1])


def test_a_network_trains_as_with_torchdiffeq():
    x = torch.linspace(-1, 1, 20).reshape(10, 2)
    losses = []
    for interface in (odeint_adjoint, torchdiffeq.odeint_adjoint):
        model = OdeNet(interface)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            loss = (model(x) - x.prod(1, keepdim=True)).pow(2).mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all(p.grad is not None for p in model.parameters())


def test_the_name_is_the_function_whatever_was_imported_before():
    import importlib

    module = importlib.import_module("companion.odeint")
    assert companion.odeint is module.odeint is odeint
    assert companion.solve is importlib.import_module("companion.solve").solve
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        companion.nothing  # noqa: B018
    assert {"odeint", "odeint_adjoint", "solve"} <= set(dir(companion))
