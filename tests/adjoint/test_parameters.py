"""What f depends on is found wherever it is, or is an error: never a gradient of zero."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from companion import Backsolve, Checkpointed, FixedStep, solve
from companion.adjoint.held import MOST_ENTRIES, held
from tests.ode.problems import F64

Y0 = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
STEPS = {"method": "rk4", "control": FixedStep(0.1)}
OWN = ["checkpointed", "backsolve", "gauss", "reversible"]
GLOBAL = {"rate": torch.tensor(0.7, dtype=F64, requires_grad=True)}


def leaf(value=0.7):
    return torch.tensor(value, dtype=F64, requires_grad=True)


class Ensemble(nn.Module):
    """Tensors in a list, which is no ParameterList."""

    def __init__(self):
        super().__init__()
        self.rates = [leaf(), leaf()]

    def forward(self, t, y):
        first = -self.rates[0] * y
        return first - t * self.rates[1] * y if t > 0 else first


class Plain:
    """Neither callable nor a module."""

    def __init__(self):
        self.rate = leaf()

    def flow(self, t, y):
        return -self.rate * y


class Slotted:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = leaf()

    def flow(self, t, y):
        return -self.rate * y


class Attribute(nn.Module):
    """A tensor that is no parameter."""

    def __init__(self):
        super().__init__()
        self.rate = leaf()

    def forward(self, t, y):
        return -self.rate * y


def of_closure(holder):
    return lambda t, y: -holder.rate * y


def of_global(t, y):
    return -GLOBAL["rate"] * y


def gradient_of(f, rate, gradient, y0=Y0):
    sol = solve(f, y0, [0.0, 1.0], gradient=gradient, **STEPS)
    return torch.autograd.grad(sol.y[-1].sum(), rate)[0]


def holders():
    plain, slotted, module, rate = Plain(), Slotted(), Attribute(), leaf()
    ensemble = Ensemble()
    return {
        "a bound method": (plain.flow, plain.rate),
        "a bound method of slots": (slotted.flow, slotted.rate),
        "an attribute of a module": (module, module.rate),
        "a list of a module": (ensemble, ensemble.rates[1]),
        "an object in the closure": (of_closure(plain), plain.rate),
        "a dictionary among the globals": (of_global, GLOBAL["rate"]),
        "a partial function": (functools.partial(lambda k, t, y: -k * y, rate), rate),
        "a nested namespace": (of_closure(SimpleNamespace(rate=rate)), rate),
    }


@pytest.mark.parametrize("where", holders())
@pytest.mark.parametrize("gradient", OWN)
def test_a_leaf_is_found_though_nothing_else_requires_grad(where, gradient):
    f, rate = holders()[where]
    expected = gradient_of(f, rate, "direct")
    torch.testing.assert_close(gradient_of(f, rate, gradient), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("where", holders())
def test_also_if_it_is_used_later_only(where):
    f, rate = holders()[where]

    def late(t, y):
        return f(t, y) if t > 0.5 else -y

    y0 = Y0.clone().requires_grad_()
    expected = gradient_of(late, rate, "direct", y0)
    assert float(expected) != 0.0
    torch.testing.assert_close(gradient_of(late, rate, "checkpointed", y0), expected)


class Opaque:
    """Shows nothing of what it holds."""

    def __init__(self, rate):
        secret = {"rate": rate}
        Opaque.get = staticmethod(secret.__getitem__)


def test_what_nobody_can_see_is_found_by_evaluating():
    rate = leaf()
    get = Opaque(rate).get
    f = functools.partial(lambda t, y: -get("rate") * y)
    assert held(f, ()) == ([], [])
    for gradient in OWN:
        expected = gradient_of(f, rate, "direct")
        torch.testing.assert_close(gradient_of(f, rate, gradient), expected, rtol=1e-5, atol=0.0)
    # And if it comes into play later and nothing else requires grad, its graph is recorded.
    late = gradient_of(lambda t, y: f(t, y) if t > 0.5 else -y, rate, "checkpointed")
    assert float(late) != 0.0


@pytest.mark.parametrize("gradient", OWN)
def test_a_rate_that_is_a_parameter(gradient):
    rate, y0 = torch.ones(3, dtype=F64, requires_grad=True), Y0.clone().requires_grad_()
    get = Opaque(rate).get
    sol = solve(lambda t, y: get("rate"), y0, [0.0, 2.0], gradient=gradient, **STEPS)
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), rate)
    torch.testing.assert_close(grad, torch.full_like(grad, 2.0))


def test_nothing_to_differentiate_costs_nothing():
    calls = []

    def f(t, y):
        calls.append(1)
        return -y

    sol = solve(f, Y0, [0.0, 1.0], **STEPS)
    assert len(calls) == sol.stats.evaluations == 40
    assert not sol.y.requires_grad


@pytest.mark.parametrize("gradient", OWN)
@pytest.mark.parametrize("late", [False, True])
def test_a_result_of_other_computations_is_an_error(gradient, late):
    derived, y0 = torch.exp(leaf()), Y0.clone().requires_grad_()

    def f(t, y):
        return -derived * y if not late or t > 0.5 else -y

    with pytest.raises(ValueError, match=r"ExpBackward0.*args=.*params="):
        solve(f, y0, [0.0, 1.0], gradient=gradient, **STEPS)


def test_what_a_module_remembers_of_earlier_calls_is_none_of_its_parameters():
    class Remembers(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x)
            return torch.tanh(self.last)

    torch.manual_seed(0)
    net = Remembers(3, 3).double()
    for _ in range(2):
        solve(lambda t, y: net(y), Y0, [0.0, 1.0], **STEPS).y.sum().backward()
    assert net.weight.grad is not None


def test_only_names_that_are_looked_up_among_the_globals():
    function = of_global
    function.__globals__["sin"] = torch.exp(leaf())
    try:
        # An attribute of that name is no such look-up.
        assert held(lambda t, y: torch.sin(y), ())[1] == []
    finally:
        del function.__globals__["sin"]


class Two:
    """Two networks; the flow uses one."""

    def __init__(self):
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()

    def flow(self, t, y):
        return torch.tanh(self.a(y))


@pytest.mark.parametrize("gradient", OWN)
def test_random_numbers_that_are_not_repeated_are_told(gradient):
    y0 = Y0.clone().requires_grad_()

    def f(t, y):
        return -y + 1e-12 * torch.randn_like(y)

    if gradient == "checkpointed":
        solve(f, y0, [0.0, 1.0], gradient=gradient, **STEPS)
        return
    with pytest.warns(UserWarning, match=r"draws random numbers.*'checkpointed' or 'direct'"):
        solve(f, y0, [0.0, 1.0], gradient=gradient, **STEPS)


@pytest.mark.parametrize("gradient", OWN)
def test_what_f_does_not_use_may_be_written_to(gradient):
    two = Two()
    sol = solve(two.flow, Y0, [0.0, 1.0], gradient=gradient, **STEPS)
    with torch.no_grad():
        two.b.weight.mul_(2)
    sol.y.sum().backward()
    assert two.a.weight.grad.isfinite().all()
    sol = solve(two.flow, Y0, [0.0, 1.0], gradient=gradient, **STEPS)
    with torch.no_grad():
        two.a.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sol.y.sum().backward()


def test_nor_may_what_it_uses_later():
    rate, y0 = leaf(), Y0.clone().requires_grad_()
    holder = SimpleNamespace(rate=rate)
    f = lambda t, y: -holder.rate * y if t > 0.5 else -y  # noqa: E731
    sol = solve(f, y0, [0.0, 1.0], gradient="gauss", **STEPS)
    with torch.no_grad():
        rate.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sol.y.sum().backward()


class Shy:
    """Does not let itself be looked into."""

    @property
    def __dict__(self):
        raise RuntimeError("no")


def test_objects_that_refuse_to_be_looked_into():
    rate, shy = leaf(), Shy()
    assert held(lambda t, y: -rate * y if shy else y, ()) == ([rate], [])


def test_a_search_has_an_end():
    class Node:
        looked_at = 0

        def __init__(self, depth):
            self.children = [Node(depth - 1) for _ in range(12)] if depth else []

        def __getattribute__(self, name):
            Node.looked_at += name == "__dict__"
            return super().__getattribute__(name)

    root = Node(4)
    held(lambda t, y: y if root else -y, ())
    assert 100 < Node.looked_at <= MOST_ENTRIES


def test_what_is_near_is_found_before_what_is_far():
    class Trainer:
        def __init__(self):
            self.data = [{"x": i} for i in range(MOST_ENTRIES - 1)]
            self.late = leaf()

        def flow(self, t, y):
            return -self.late * y if t > 0.5 else -y

    trainer = Trainer()
    assert held(trainer.flow, ()) == ([trainer.late], [])


def test_pytorch_itself_is_not_searched(monkeypatch):
    from companion.adjoint import held as module

    looked_at, inside = [], module._inside
    monkeypatch.setattr(module, "_inside", lambda x: looked_at.append(x) or inside(x))
    net = nn.Linear(3, 3)
    compiled = torch.compile(lambda t, y: nn.functional.interpolate(net(y)), backend="eager")
    assert held(compiled, ())[0] == [net.weight, net.bias]
    assert len(looked_at) < 50


def test_a_derived_parameter_that_retains_its_gradient():
    rate, y0 = leaf(), Y0.clone().requires_grad_()
    derived = torch.exp(rate)
    derived.retain_grad()
    sol = solve(lambda t, y: -derived * y, y0, [0.0, 1.0], gradient=Checkpointed(params=(derived,)))
    sol.y[-1].sum().backward()
    torch.testing.assert_close(derived.grad * derived.detach(), rate.grad)


def test_large_containers_are_data():
    many = [leaf()] * MOST_ENTRIES
    assert len(held(lambda t, y: y * many[0], ())[0]) == 1
    assert held(lambda t, y: y * (many + many)[0], ())[0] != []
    more = many + many
    assert held(lambda t, y: y * more[0], ())[0] == []


@pytest.mark.parametrize("strategy", [Checkpointed, Backsolve])
def test_params_must_not_depend_on_each_other(strategy):
    rate = leaf()
    derived = torch.exp(rate)
    with pytest.raises(ValueError, match=r"another that was computed from it \(by ExpBackward0\)"):
        solve(
            lambda t, y: -derived * rate * y,
            Y0,
            [0.0, 1.0],
            gradient=strategy(params=(derived, rate)),
        )


@pytest.mark.parametrize("gradient", OWN)
def test_f_may_ask_whether_its_state_requires_grad(gradient):
    """As flows do that differentiate within f, at the output times as well as between them."""
    t = torch.tensor([0.0, 0.5], dtype=F64, requires_grad=True)
    y0 = Y0.clone().requires_grad_()

    def f(t, y):
        with torch.enable_grad():
            x = y if y.requires_grad else y.detach().requires_grad_()
            (grad,) = torch.autograd.grad((x**2 / 2).sum(), x, create_graph=True)
        return -grad

    y = solve(f, y0, t, gradient=gradient, rtol=1e-9, atol=1e-10).y[-1]
    grads = torch.autograd.grad(y.sum(), (y0, t))
    decay = torch.exp(t.detach()[0] - t.detach()[1])
    torch.testing.assert_close(grads[0], decay.expand(len(Y0)), rtol=1e-6, atol=0.0)
    speed = float((decay * Y0).sum())
    torch.testing.assert_close(grads[1], torch.tensor([speed, -speed], dtype=F64))


@pytest.mark.parametrize("gradient", sorted({*OWN, "implicit"} - {"checkpointed"}))
def test_a_batch_of_losses_is_refused(gradient):
    y0 = torch.zeros(2, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: 1 - y, y0, [0.0, 40.0], gradient=gradient).y[-1]
    with pytest.raises(RuntimeError, match=r"one loss at a time.*'direct' or 'checkpointed'"):
        torch.autograd.grad(y, y0, torch.eye(2, dtype=F64), is_grads_batched=True)


@pytest.mark.parametrize("gradient", OWN)
def test_hooks_of_parameters_see_the_gradient_once(gradient):
    rate, seen = leaf(), []

    def hook(grad):
        seen.append(grad)
        return 2 * grad

    rate.register_hook(hook)
    y0 = Y0.clone().requires_grad_()
    found = gradient_of(lambda t, y: -rate * y, rate, gradient, y0)
    assert len(seen) == 1
    torch.testing.assert_close(found, 2 * seen[0])


def test_weights_that_autocast_has_cast_before():
    torch.manual_seed(0)
    net = nn.Linear(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scale = net(torch.ones(3)).sum()
        first = solve(lambda t, y: torch.tanh(net(y)), Y0.float(), [0.0, 1.0], **STEPS).y.sum()
        second = solve(lambda t, y: torch.tanh(net(y)), Y0.float(), [0.0, 1.0], **STEPS).y.sum()
    (first + second + scale).backward()
    assert net.weight.grad.isfinite().all()


@pytest.mark.parametrize("gradient", OWN)
def test_a_state_of_inference_mode_and_an_empty_leaf(gradient):
    torch.manual_seed(0)
    net = nn.Linear(3, 3).double()
    with torch.inference_mode():
        y0 = {"y": Y0.clone(), "nothing": torch.zeros(0, dtype=F64)}
    sol = solve(lambda t, y: {**y, "y": net(y["y"])}, y0, [0.0, 1.0], gradient=gradient, **STEPS)
    sol.y["y"].sum().backward()
    assert net.weight.grad.isfinite().all()


def test_a_jump_time_that_requires_grad_where_none_is_recorded():
    tau = torch.tensor([0.5], dtype=F64, requires_grad=True)
    with torch.no_grad():
        assert solve(lambda t, y: -y, Y0, [0.0, 1.0], jump_t=tau).y.isfinite().all()


def test_a_second_derivative_where_a_part_of_the_state_is_constant():
    y0 = Y0.clone().requires_grad_()
    state = {"y": y0, "constant": torch.ones(2, dtype=F64)}

    def f(t, y):
        return {"y": torch.sin(y["y"]), "constant": torch.cos(t) * torch.ones(2, dtype=F64)}

    def second(gradient):
        sol = solve(f, state, [0.0, 1.0], gradient=gradient, **STEPS)
        loss = sol.y["y"][-1].pow(2).sum() + sol.y["constant"].sum()
        (grad,) = torch.autograd.grad(loss, y0, create_graph=True)
        return torch.autograd.grad(grad.sum(), y0)[0]

    torch.testing.assert_close(second("checkpointed"), second("direct"), rtol=1e-12, atol=0.0)
