"""One table: every strategy gives the same gradients of every problem."""

import math

import pytest
import torch
from torch import nn

from companion import Event, FixedStep, solve
from companion.adjoint import STRATEGIES
from tests.ode.problems import F64

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
#: The methods that step, with the accuracy of what does not repeat the steps.
STEPS = {
    "adaptive": ({"method": "dopri5", **TIGHT}, 1e-6),
    "fixed": ({"method": "rk4", "control": FixedStep(0.01)}, 1e-5),
    "implicit": ({"method": "kvaerno5", "rtol": 1e-9, "atol": 1e-10}, 1e-4),
}


def swing(options, gradient):
    """A tensor state, an argument, every time, forwards."""
    y0 = torch.tensor([0.5, -0.2], dtype=F64, requires_grad=True)
    g = torch.tensor(2.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.1, 0.4, 1.0, 1.3], dtype=F64, requires_grad=True)
    sol = solve(
        lambda t, y, g: torch.stack([y[1], -g * torch.sin(y[0]) - 0.1 * t * y[1]]),
        y0, t, args=(g,), gradient=gradient, **options,
    )  # fmt: skip
    return (sol.y**2 * torch.arange(1, 5)[:, None]).sum(), [y0, g, t]


def backwards(options, gradient):
    """A network with a parameter in f alone, backwards in time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    y0 = torch.tensor([[0.5, -0.2], [1.0, 0.3]], dtype=F64, requires_grad=True)
    t = torch.tensor([1.0, 0.6, -0.2], dtype=F64, requires_grad=True)
    sol = solve(lambda t, y: net(y) * torch.cos(t), y0, t, gradient=gradient, **options)
    return (sol.y[1:] ** 3).sum(), [y0, t, *net.parameters()]


def trees(options, gradient):
    """A tree for a state and a tree for the arguments, one of whose leaves f does not use."""
    y0 = {
        "a": torch.tensor([0.5, 1.0], dtype=F64, requires_grad=True),
        "b": [torch.tensor(0.3, dtype=F64, requires_grad=True)],
    }
    k = {"rate": torch.tensor(0.7, dtype=F64, requires_grad=True), "n": 2}

    def f(t, y, k):
        return {"a": -k["rate"] * y["a"] * y["b"][0], "b": [torch.sin(k["n"] * t) + y["a"].sum()]}

    sol = solve(f, y0, [0.0, 0.5, 1.0], args=(k,), gradient=gradient, **options)
    return (sol.y["a"] ** 2).sum() + sol.y["b"][0].sum(), [y0["a"], y0["b"][0], k["rate"]]


def event(options, gradient):
    """The time and the state of an event, the state before it, and a parameter of the event."""
    y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)
    level = torch.tensor(0.2, dtype=F64, requires_grad=True)
    sol = solve(
        lambda t, y, w, level: torch.stack([y[1], -(w**2) * y[0]]),
        y0, [0.0, 0.5, math.inf], args=(w, level), gradient=gradient,
        event=Event(lambda t, y, w, level: y[0] - level), **options,
    )  # fmt: skip
    return sol.event.t + (sol.y**2).sum(), [y0, w, level]


def jump(options, gradient):
    """A force that sets in: the sensitivity to its time."""
    y0 = torch.tensor([1.0, 0.3], dtype=F64, requires_grad=True)
    force = torch.tensor(2.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.2], dtype=F64, requires_grad=True)
    tau = torch.tensor([0.3, 0.8], dtype=F64, requires_grad=True)

    def f(t, y, force):
        return -y + force * ((t > 0.3).to(y) + 2 * (t > 0.8).to(y)) * torch.cos(y.flip(0))

    sol = solve(f, y0, t, args=(force,), jump_t=tau, gradient=gradient, **options)
    return (sol.y**2 * torch.arange(1, 4)[:, None]).sum(), [y0, force, t, tau]


PROBLEMS = [swing, backwards, trees, event, jump]


def served(problem, steps, gradient):
    """What a strategy says it does not do; see its own tests for the messages."""
    if problem is jump and steps == "fixed":
        return False
    if gradient == "reversible":
        return problem is not event and steps != "implicit"
    return gradient != "implicit"


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_agreement(problem, steps):
    options, rtol = STEPS[steps]
    if problem is jump and steps == "fixed":
        with pytest.raises(ValueError, match="step_t and jump_t"):
            problem(options, "direct")
        return
    value, inputs = problem(options, "direct")
    expected = torch.autograd.grad(value, inputs)
    for name in STRATEGIES:
        if name == "direct" or not served(problem, steps, name):
            continue
        value, inputs = problem(options, name)
        found = torch.autograd.grad(value, inputs)
        exact = name == "checkpointed"
        for x, y in zip(found, expected, strict=True):
            error = float((x - y).abs().max() / y.abs().max())
            assert error < (1e-12 if exact else rtol), (name, error)


def test_a_steady_state():
    """The problem of the strategy that the table leaves out."""

    def run(gradient):
        k = torch.tensor([[2.0, 0.4], [-0.3, 1.5]], dtype=F64, requires_grad=True)
        b = torch.tensor([1.0, -0.5], dtype=F64, requires_grad=True)
        y0 = torch.zeros(2, dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y, k, b: b - k @ torch.tanh(y), y0, [0.0, 40.0], args=(k, b),
            gradient=gradient, **TIGHT,
        )  # fmt: skip
        return torch.autograd.grad((sol.y[-1] ** 3).sum(), [k, b, y0])

    expected = run("direct")
    for name in STRATEGIES:
        # Forty time units of contraction are nothing to go backwards through.
        if name in ("backsolve", "reversible"):
            continue
        for x, y in zip(run(name), expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)
