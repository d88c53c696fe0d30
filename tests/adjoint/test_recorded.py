"""The adjoint at any time of one solve, against closed forms, restarted solves and autograd."""

import asyncio
import math
import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline
from torch import nn

from companion import Event, FixedStep, odeint_adjoint, solve
from companion.adjoint import Direct, Recording, recorded
from companion.adjoint.inquiry import NOTHING, Inquiry
from companion.ode import FixedGrid
from companion.ode.observe import Observer
from companion.ode.tableaus import METHODS
from tests.ode.problems import F64

STRATEGIES = ["checkpointed", "reversible", "backsolve", "gauss"]
#: Those that differentiate the steps, and those that solve the adjoint equation.
OF_STEPS, CONTINUOUS = STRATEGIES[:2], STRATEGIES[2:]
TIGHT = {"rtol": 1e-11, "atol": 1e-12}
EXACT = {"rtol": 1e-12, "atol": 1e-12}

A = torch.tensor([[-0.3, 1.1], [-2.0, 0.2]], dtype=F64)
Y0 = torch.tensor([1.0, -0.5], dtype=F64)


def linear(t, y):
    return A @ y


class Net(nn.Module):
    """A smooth field that depends on time."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(2, 6).double(), nn.Linear(6, 2).double()

    def forward(self, t, y):
        return self.outer(torch.tanh(self.inner(y))) * torch.cos(t) - 0.2 * y


def weights_of(count):
    """The gradient of a loss that sees every output."""
    return torch.linspace(1.0, -2.0, 2 * count, dtype=F64).reshape(count, 2).sin()


def record(f, times, asked, *, grads=None, y0=Y0, **options):
    """Adjoints for the last output, or for the gradients given; and the recording."""
    with recorded() as recording:
        solve(f, y0, times, **options)
    if grads is None:
        grads = torch.zeros_like(recording.outputs)
        grads[-1] = weights_of(len(times))[-1]
    return recording.adjoints(grads, asked), recording


class Beginnings(Observer):
    """The times and states at which accepted steps begin, with their graphs."""

    def __init__(self):
        self.times, self.states = [], []

    def accepted(self, t, y, h):
        self.times.append(t)
        self.states.append(y[0])


class Watched:
    """`Direct`, told to an observer."""

    def __init__(self, observer):
        self.observer = observer

    def __call__(self, problem, stats):
        return Direct()(problem.watched_by(self.observer), stats)


def restarted(f, y, tau, times, grads, **options):
    """The derivative of a loss by y at tau: autograd through a solve that begins there."""
    y = y.detach().requires_grad_()
    forward = times[-1] > times[0]
    later = [(t, g) for t, g in zip(times, grads, strict=True) if (t > tau) == forward and t != tau]
    loss = sum((y * g).sum() for t, g in zip(times, grads, strict=True) if t == tau)
    if later:
        t = [tau, *(t for t, _ in later)]
        found = solve(f, y, t, gradient="direct", **{**EXACT, **options}).y
        loss = loss + sum((x * g).sum() for x, (_, g) in zip(found[1:], later, strict=True))
    return torch.autograd.grad(loss, y)[0]


# Values


@pytest.mark.parametrize("times", [[0.0, 2.0], [1.5, -0.5]], ids=["forward", "backward"])
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_a_linear_system(gradient, times):
    """a(t) = a(t1) exp(A (t1 - t)), y(t) = exp(A (t - t0)) y0."""
    t0, t1 = times
    asked = torch.linspace(t0, t1, 24, dtype=F64)
    (t, y, a), recording = record(linear, times, asked, gradient=gradient, **TIGHT)
    end = weights_of(2)[-1]
    assert torch.equal(t, asked)
    assert (recording.t0, recording.t1) == (t0, t1)
    expected = torch.stack([torch.matrix_exp(A.T * (t1 - x)) @ end for x in asked])
    torch.testing.assert_close(a, expected, rtol=0, atol=3e-8)
    expected = torch.stack([torch.matrix_exp(A * (x - t0)) @ Y0 for x in asked])
    torch.testing.assert_close(y, expected, rtol=0, atol=3e-8)
    assert torch.equal(a[-1], end)


@pytest.mark.parametrize("times", [[0.1, 1.3], [1.0, -0.4]], ids=["forward", "backward"])
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_it_is_the_gradient_of_a_restarted_solve(gradient, times):
    f = Net()
    asked = [times[0] + part * (times[1] - times[0]) for part in (0.0, 0.13, 0.5, 0.77, 1.0)]
    (_, y, a), _ = record(f, times, asked, gradient=gradient, **TIGHT)
    grads = torch.stack([torch.zeros(2, dtype=F64), weights_of(2)[-1]])
    for tau, state, found in zip(asked, y, a, strict=True):
        torch.testing.assert_close(found, restarted(f, state, tau, times, grads), rtol=0, atol=1e-7)


def hand_made_steps(method, f, h, count):
    """Explicit Runge-Kutta steps from Butcher's formula: all states, with their graph."""
    tableau = METHODS[method]
    states = [Y0.clone().requires_grad_()]
    for n in range(count):
        rates = []
        for row in tableau.a[: tableau.stages]:
            at = states[-1] + h * sum(float(w) * k for w, k in zip(row, rates, strict=False))
            time = torch.tensor(h * (n + float(sum(row))), dtype=F64)
            rates.append(f(time, at))
        pairs = zip(tableau.b, rates, strict=True)
        states.append(states[-1] + h * sum(float(w) * k for w, k in pairs))
    return states


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
def test_at_the_ends_of_steps_it_is_autograd_through_the_steps(method):
    f, h, count = Net(), 0.125, 24
    states = hand_made_steps(method, f, h, count)
    end = weights_of(2)[-1]
    expected = torch.stack(torch.autograd.grad(states[-1] @ end, states))
    asked = [n * h for n in range(count + 1)]
    (_, y, a), recording = record(
        f, [0.0, h * count], asked, method=method, control=FixedStep(h)
    )  # fmt: skip
    torch.testing.assert_close(y, torch.stack(states).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(a, expected, rtol=0, atol=1e-12)
    # Nothing but the repetition of the steps: no evaluation for the times.
    assert recording.stats.backward.evaluations == recording.stats.evaluations


@pytest.mark.parametrize("times", [[0.0, 2.5], [2.0, -1.0]], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "tsit5", "dopri8"])
def test_the_ends_of_adapted_steps(method, times):
    f, begun = Net(), Beginnings()
    options = {"method": method, "rtol": 1e-7, "atol": 1e-8}
    y0 = Y0.clone().requires_grad_()
    end = solve(f, y0, times, gradient=Watched(begun), **options).y[-1]
    assert len(begun.times) >= 4
    expected = torch.stack(torch.autograd.grad(end @ weights_of(2)[-1], begun.states))
    (_, y, a), _ = record(f, times, begun.times, **options)
    torch.testing.assert_close(y, torch.stack(begun.states).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(a, expected, rtol=0, atol=1e-12)


def reversible_steps(f, h, count, weight=0.999):
    """The scheme of McCallum and Foster round Heun's method, by hand."""

    def psi(t, y, h):
        first = f(torch.tensor(t, dtype=F64), y)
        return h / 2 * (first + f(torch.tensor(t + h, dtype=F64), y + h * first))

    y = z = Y0.clone().requires_grad_()
    pairs = [(y, z)]
    for n in range(count):
        y = weight * y + (1 - weight) * z + psi(n * h, z, h)
        z = z - psi((n + 1) * h, y, -h)
        pairs.append((y, z))
    return pairs


def test_reversible_steps_by_hand():
    """a is the derivative by a state that both columns of the scheme begin from."""
    f, h, count = Net(), 0.125, 12
    pairs = reversible_steps(f, h, count)
    end = weights_of(2)[-1]
    expected = []
    for y, z in pairs[1:-1]:
        of_y, of_z = torch.autograd.grad(pairs[-1][0] @ end, [y, z], retain_graph=True)
        # y is used for z in the step that makes both; take that part out.
        (through,) = torch.autograd.grad(z, y, of_z, retain_graph=True)
        expected.append(of_y - through + of_z)
    (first,) = torch.autograd.grad(pairs[-1][0] @ end, pairs[0][0])
    expected = torch.stack([first, *expected, end])
    (_, y, a), _ = record(
        f, [0.0, h * count], [n * h for n in range(count + 1)], method="heun",
        control=FixedStep(h), gradient="reversible", rtol=1.0, atol=1.0,
    )  # fmt: skip
    torch.testing.assert_close(y, torch.stack([y for y, _ in pairs]).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(a, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "method", ["implicit_euler", "trapezoid", "trbdf2", "kvaerno5", "gl4", "radauIIA5"]
)
def test_steps_of_implicit_methods(method):
    """A state that a step begins from, with the value of f that the step before has handed on."""
    f, h, count = Net(), 0.125, 6
    grads = torch.stack([torch.zeros(2, dtype=F64), weights_of(2)[-1]])
    times, tight = [0.0, h * count], {"rtol": 1e-13, "atol": 1e-13}
    options = {"method": method, "control": FixedStep(h), **tight}
    asked = [n * h for n in range(count + 1)]
    (_, y, a), _ = record(f, times, asked, **options)
    for tau, state, found in zip(asked, y, a, strict=True):
        expected = restarted(f, state, tau, times, grads, **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_a_stage_that_stands_for_f_at_the_end_of_a_step():
    """Heun's method in PEC mode, by hand: what is handed on counts as f of the state there."""
    f, h, count = Net(), 0.125, 6
    y = Y0.clone().requires_grad_()
    rate = f(torch.zeros((), dtype=F64), y)
    states, rates = [y], []
    for n in range(1, count + 1):
        last = f(torch.tensor(n * h, dtype=F64), y + h * rate)
        # The stage itself is a part of the step that ends here, its view of the next.
        y, rate = y + h / 2 * (rate + last), last.view_as(last)
        states.append(y)
        rates.append(rate)
    loss = y @ weights_of(2)[-1]
    (first, *later) = torch.autograd.grad(loss, [*states, *rates[:-1]], retain_graph=True)
    expected = [first]
    for n in range(1, count):
        at = states[n].detach().requires_grad_()
        value = f(torch.tensor(n * h, dtype=F64), at)
        (through,) = torch.autograd.grad(value, at, later[count + n - 1])
        expected.append(later[n - 1] + through)
    expected.append(weights_of(2)[-1])
    method = replace(METHODS["heun"], reuses_last=True)
    (_, _, a), _ = record(
        f, [0.0, h * count], [n * h for n in range(count + 1)], method=method,
        control=FixedStep(h),
    )  # fmt: skip
    torch.testing.assert_close(a, torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_at_the_first_time_it_is_the_gradient_of_the_initial_state(gradient):
    f, y0 = Net(), Y0.clone().requires_grad_()
    options = {"gradient": gradient, "rtol": 1e-7, "atol": 1e-8}
    times = [0.0, 0.4, 1.0]
    plain = solve(f, y0, times, **options)
    if gradient == "checkpointed":
        # Its steps end at the times between when it is recorded.
        plain = solve(f, y0, times, step_t=(0.4,), **options)
    (expected,) = torch.autograd.grad((plain.y * weights_of(3)).sum(), y0)
    (_, y, a), recording = record(f, times, [0.0, 1.0], grads=weights_of(3), **options)
    assert torch.equal(recording.outputs, plain.y)
    torch.testing.assert_close(a[0], expected, rtol=1e-12, atol=0)
    assert torch.equal(y, plain.y[[0, 2]])
    assert torch.equal(a[1], weights_of(3)[2])


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_no_output_time_between_changes_nothing_of_the_solve(gradient):
    plain = solve(Net(), Y0, [0.0, 1.0], gradient=gradient)
    with recorded() as recording:
        again = solve(Net(), Y0, [0.0, 1.0], gradient=gradient)
    assert torch.equal(plain.y, again.y)
    assert recording.stats is again.stats
    assert again.stats.accepted == plain.stats.accepted


# Between the ends of steps


def error_inside(method, h, quantity, gradient):
    f, times = Net(), [0.0, 1.0]
    asked = [(n + part) * h for n in range(round(1 / h)) for part in (0.3, 0.5)]
    found, _ = record(f, times, asked, method=method, control=FixedStep(h), gradient=gradient)
    exact, _ = record(f, times, asked, gradient="gauss", **TIGHT)
    return float((getattr(found, quantity) - getattr(exact, quantity)).abs().max())


@pytest.mark.parametrize("gradient", OF_STEPS)
@pytest.mark.parametrize("quantity", ["y", "a"])
def test_the_polynomial_inside_a_step_is_of_fourth_order(gradient, quantity):
    """Round a method of eighth order, so that no other error is to be seen."""
    errors = [error_inside("dopri8", h, quantity, gradient) for h in (1 / 4, 1 / 8, 1 / 16)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(3.5 < order < 4.5 for order in orders)
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("method", ["midpoint", "rk4"])
@pytest.mark.parametrize("gradient", OF_STEPS)
def test_the_polynomial_inside_a_step_is_hermites(gradient, method):
    """SciPy's, through the values at the ends of the step and f and -a df/dy there."""
    f, ends, inside = Net(), [0.25, 0.5], [0.3, 0.45]
    options = {"method": method, "control": FixedStep(0.25), "gradient": gradient}
    (_, *found), _ = record(f, [0.0, 1.0], ends + inside, **options)
    slopes = [[], []]
    for t, y, a in zip(ends, *found, strict=False):
        rate, pulled = torch.func.vjp(lambda y, t=t: f(torch.tensor(t, dtype=F64), y), y)
        slopes[0].append(rate.detach())
        slopes[1].append(-pulled(a)[0].detach())
    for values, slope in zip(found, slopes, strict=True):
        spline = CubicHermiteSpline(ends, values[:2], torch.stack(slope))
        expected = torch.as_tensor(spline(inside))
        torch.testing.assert_close(values[2:], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("gradient", OF_STEPS)
def test_the_chord_of_a_first_order_method(gradient):
    options = {"method": "euler", "control": FixedStep(0.25), "gradient": gradient}
    (_, y, a), recording = record(Net(), [0.0, 1.0], [0.25, 0.3, 0.5], **options)
    for x in (y, a):
        torch.testing.assert_close(x[1], 0.8 * x[0] + 0.2 * x[2], rtol=1e-13, atol=0)
    cost = {"checkpointed": 4, "reversible": 8}[gradient]
    assert recording.stats.backward.evaluations == cost


@pytest.mark.parametrize("gradient", STRATEGIES)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_jumps_at_output_times(gradient, direction):
    """Also where the time asked for lies in a step that an output time ends or begins."""
    f, times = Net(), [direction * t for t in (0.0, 0.35, 0.8, 1.2)]
    grads = weights_of(4)
    near = 1e-9
    asked = [0.0, near, 0.2, 0.35 - near, 0.35, 0.35 + near, 0.5, 0.8 - near, 0.8, 1.1, 1.2 - near]
    asked = [direction * t for t in asked]
    (_, y, a), _ = record(f, times, asked, grads=grads, gradient=gradient, **TIGHT)
    for tau, state, found in zip(asked, y, a, strict=True):
        expected = restarted(f, state, tau, times, grads)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7, msg=f"{gradient} {tau}")
    # The jump is the gradient of the loss there.
    torch.testing.assert_close(a[4] - a[5], grads[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(a[0] - a[1], grads[0], rtol=0, atol=1e-7)


def test_a_jumps_at_output_times_inside_the_steps_of_a_grid():
    f, times, grads = Net(), [0.0, 0.33, 1.0], weights_of(3)
    options = {"method": "dopri8", "control": FixedGrid([n / 20 for n in range(21)])}
    asked = [0.31, 0.33, 0.34]
    for gradient in OF_STEPS:
        for sign in (1, -1):
            grid = FixedGrid([sign * n / 20 for n in range(21)], one_sided=sign > 0)
            t = [sign * x for x in times]
            there = [sign * x for x in asked]
            (_, y, a), _ = record(
                f, t, there, grads=grads, gradient=gradient, **{**options, "control": grid}
            )
            for tau, state, found in zip(there, y, a, strict=True):
                expected = restarted(f, state, tau, t, grads)
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("later", [torch.gt, torch.ge])
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_f_that_jumps(gradient, later):
    """The slopes at a jump are those of the step's own side, whatever f is at the jump itself."""

    def f(t, y):
        return torch.tanh(A @ y) * torch.where(later(t, 0.4), 3.0, -1.0)

    times, tau = [0.0, 1.0], (0.4,)
    asked = [0.0, 0.1, 0.38, 0.399, 0.4, 0.401, 0.42, 0.9]
    (_, y, a), _ = record(f, times, asked, gradient=gradient, jump_t=tau, **TIGHT)
    grads = torch.stack([torch.zeros(2, dtype=F64), weights_of(2)[-1]])
    for t, state, found in zip(asked, y, a, strict=True):
        expected = restarted(f, state, t, times, grads, jump_t=tau)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7, msg=f"{gradient} {t}")
    exact = solve(f, Y0, [0.0, *asked[1:], 1.0], gradient="direct", jump_t=tau, **EXACT).y[:-1]
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_output_times_at_which_steps_end_anyway(gradient):
    def f(t, y):
        return torch.tanh(A @ y) * torch.where(t > 0.4, 3.0, -1.0)

    times, grads, asked = [0.0, 0.4, 0.7, 1.0], weights_of(4), [0.2, 0.4, 0.5, 0.7, 0.8]
    stops = {"jump_t": (0.4,), "step_t": (0.7,), "gradient": gradient}
    (_, y, a), _ = record(f, times, asked, grads=grads, **stops, **TIGHT)
    for t, state, found in zip(asked, y, a, strict=True):
        expected = restarted(f, state, t, times, grads, jump_t=(0.4,))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("gradient", OF_STEPS)
def test_f_that_jumps_at_a_point_of_a_grid(gradient):
    def f(t, y):
        return torch.tanh(A @ y) * torch.where(t > 0.4, 3.0, -1.0)

    grid = FixedGrid([n / 20 for n in range(21)], one_sided=True)
    options = {"method": "dopri8", "control": grid, "gradient": gradient}
    asked = [0.33, 0.38, 0.42, 0.9]
    (_, y, a), _ = record(f, [0.0, 1.0], asked, **options)
    grads = torch.stack([torch.zeros(2, dtype=F64), weights_of(2)[-1]])
    for t, state, found in zip(asked, y, a, strict=True):
        expected = restarted(f, state, t, [0.0, 1.0], grads, jump_t=(0.4,))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_the_adjoint_of_a_small_loss(gradient):
    """Continuous adjoints scale it up for themselves."""
    grads, asked = weights_of(3), [0.0, 0.2, 0.5, 0.7, 1.0]
    options = {"gradient": gradient, **TIGHT}
    (_, _, large), recording = record(Net(), [0.0, 0.5, 1.0], asked, grads=grads, **options)
    small = recording.adjoints(1e-12 * grads, asked).a
    torch.testing.assert_close(1e12 * small, large, rtol=0, atol=1e-6)


# Costs


class Counted(torch.autograd.Function):
    """The identity; counts the vector-Jacobian products that pass it."""

    products = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Counted.products += 1
        return grad


@pytest.mark.filterwarnings("ignore:the backward solve may have lost its way")
@pytest.mark.parametrize("method", ["dopri5", "rk4", "midpoint", "euler"])
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_twenty_four_times_cost_little_more_than_one_gradient(gradient, method):
    net = Net()
    options = {"method": method, "gradient": gradient}
    adapted = {"rtol": 1e-9, "atol": 1e-10}
    options |= adapted if method == "dopri5" else {"control": FixedStep(1 / 20)}

    def f(t, y):
        return Counted.apply(net(t, y))

    Counted.products = 0
    y0 = Y0.clone().requires_grad_()
    sol = solve(f, y0, [0.0, 2.0], **options)
    (sol.y[-1] @ weights_of(2)[-1]).backward()
    one = [sol.stats.evaluations + sol.stats.backward.evaluations, Counted.products]

    Counted.products = 0
    _, recording = record(f, [0.0, 2.0], torch.linspace(0, 2, 24), **options)
    stats = recording.stats
    all_times = [stats.evaluations + stats.backward.evaluations, Counted.products]
    assert recording.stats.accepted >= 15
    assert all(a <= 1.5 * b for a, b in zip(all_times, one, strict=True))
    if method == "dopri5":
        assert sum(all_times) <= 1.2 * sum(one)


@pytest.mark.parametrize("gradient", OF_STEPS)
def test_times_at_the_ends_of_steps_cost_nothing(gradient):
    """In single precision, too, in which they are not the ends exactly."""
    options = {"method": "rk4", "control": FixedStep(1 / 24), "gradient": gradient}
    _, few = record(Net(), [0.0, 1.0], [0.0], **options)
    for dtype in (torch.float32, F64):
        (t, _, _), many = record(
            Net(), [0.0, 1.0], torch.linspace(0, 1, 25, dtype=dtype), **options
        )
        assert t.dtype == dtype
        assert many.stats.backward.evaluations == few.stats.backward.evaluations
    # One evaluation an end, whether one step needs it or two.
    _, inside = record(Net(), [0.0, 1.0], [0.01, 0.45, 0.47], **options)
    assert inside.stats.backward.evaluations == few.stats.backward.evaluations + 2 + 3


def test_the_first_time_and_the_last_cost_what_a_gradient_costs():
    """Also of a method whose steps hand on a value of f that is no function of the state."""
    options = {"method": "kvaerno5", "control": FixedStep(1 / 8)}
    y0 = Y0.clone().requires_grad_()
    sol = solve(Net(), y0, [0.0, 1.0], **options)
    sol.y[-1].sum().backward()
    _, recording = record(Net(), [0.0, 1.0], [0.0, 1.0], **options)
    assert recording.stats.backward.evaluations == sol.stats.backward.evaluations
    # Where it is handed on, one evaluation makes it a function of the state.
    _, more = record(Net(), [0.0, 1.0], [n / 8 for n in range(9)], **options)
    assert more.stats.backward.evaluations == sol.stats.backward.evaluations + 7


def test_parameters_get_no_gradients_and_neither_does_what_comes_before():
    net, before = Net(), nn.Linear(2, 2).double()
    with recorded() as recording:
        y = solve(net, before(Y0), [0.0, 1.0], gradient="gauss").y
    y[-1].sum().backward()
    recording.adjoints(recording.outputs.grad, [0.5])
    assert all(p.grad is None for p in (*net.parameters(), *before.parameters()))


# Structures, dtypes, modes


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_trees_and_complex_states(gradient):
    """x' = k x, n' = cos(t) n, and z' = 1, which depends on nothing."""
    k = torch.tensor(-0.2 + 2j, dtype=torch.complex128)
    y0 = {
        "x": torch.tensor([1.0 + 0.5j], dtype=torch.complex128),
        "rest": (torch.tensor([2.0, 3.0], dtype=F64), torch.tensor(0.1, dtype=F64)),
    }

    def f(t, y):
        return {"x": k * y["x"], "rest": (torch.cos(t) * y["rest"][0], torch.ones_like(t))}

    with recorded() as recording:
        y = solve(f, y0, [0.0, 1.5], gradient=gradient, **TIGHT).y
    end = {"x": y["x"][-1], "rest": (y["rest"][0][-1], y["rest"][1][-1])}
    loss = end["x"].imag.sum() + (end["rest"][0] ** 2).sum() + 2 * end["rest"][1]
    outputs = recording.outputs
    leaves = [outputs["x"], *outputs["rest"]]
    grads = torch.autograd.grad(loss, leaves)
    asked = torch.tensor([0.0, 0.7, 1.5], dtype=F64)
    t, y, a = recording.adjoints({"x": grads[0], "rest": grads[1:]}, asked)
    growth = torch.exp(math.sin(1.5) - torch.sin(t))[:, None]
    expected = {
        "x": (1j * torch.exp(k.conj() * (1.5 - t)))[:, None],
        "rest": (2 * end["rest"][0].detach() * growth, torch.full((3,), 2.0, dtype=F64)),
    }
    torch.testing.assert_close(a, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(y["x"], y0["x"] * torch.exp(k * t)[:, None], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(y["rest"][1], 0.1 + t, rtol=1e-12, atol=0)
    # As torch.autograd.grad returns them, and None for zero.
    some = recording.adjoints([grads[0], None, None], asked).a
    torch.testing.assert_close(some["x"], expected["x"], rtol=1e-6, atol=1e-7)
    assert not any(leaf.any() for leaf in some["rest"])


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_two_losses_and_one_again(gradient):
    options = {"gradient": gradient, "rtol": 1e-7, "atol": 1e-8}
    asked = [0.9, 0.0, 0.3, 0.3]
    (_, y, first), recording = record(Net(), [0.0, 1.0], asked, **options)
    grads = torch.zeros(2, 2, dtype=F64)
    grads[-1] = torch.tensor([1.0, 3.0])
    other = recording.adjoints(grads, asked).a
    assert not torch.allclose(other, first)
    grads[-1] = weights_of(2)[-1]
    again = recording.adjoints(grads, asked)
    assert torch.equal(again.a, first)
    assert torch.equal(again.y, y)
    # The statistics are those of one pass.
    steps = recording.stats.accepted
    assert gradient in CONTINUOUS or recording.stats.backward.accepted == steps
    # In the order in which they were asked for.
    assert torch.equal(first[2], first[3])
    (_, _, ordered), _ = record(Net(), [0.0, 1.0], [0.0, 0.3, 0.9], **options)
    torch.testing.assert_close(first[[1, 2, 0]], ordered, rtol=1e-14, atol=0)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_the_precision_of_the_forward_solve(gradient):
    """The way back evaluates f as the way there has, though autocast has ended by then."""
    net = nn.Linear(2, 2)
    seen = []

    def f(t, y):
        rate = net(y)
        seen.append(rate.dtype)
        return torch.tanh(rate).float()

    with torch.autocast("cpu", torch.bfloat16), recorded() as recording:
        solve(f, torch.ones(3, 2), [0.0, 1.0], gradient=gradient, rtol=1e-2, atol=1e-2)
    recording.adjoints(torch.ones(2, 3, 2), [0.0, 0.3])
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_without_gradients_in_inference_mode_and_after_something_that_writes(gradient):
    (_, _, expected), _ = record(Net(), [0.0, 1.0], [0.0, 0.3], gradient=gradient)
    net = Net().requires_grad_(False)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y0 = Y0.clone()
            with recorded() as recording:
                y = solve(net, y0, [0.0, 1.0], gradient=gradient).y
        assert y.requires_grad == (mode is torch.no_grad)
        grads = torch.zeros(2, 2, dtype=F64)
        grads[-1] = weights_of(2)[-1]
        assert torch.equal(recording.adjoints(grads, [0.0, 0.3]).a, expected)
    with recorded() as recording:
        end = solve(net, Y0, [0.0, 1.0], gradient=gradient).y[-1]
    kept = recording.outputs.detach().clone()
    loss = end.relu_().sum()
    (grads,) = torch.autograd.grad(loss, recording.outputs)
    assert torch.equal(recording.outputs, kept)
    assert torch.equal(grads[-1], (kept[-1] > 0).double())


def test_times_that_have_gradients_elsewhere():
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    (_, _, expected), _ = record(Net(), [0.0, 1.0], [0.0, 0.3])
    (_, _, a), _ = record(Net(), t, t.detach() * 0.3)
    torch.testing.assert_close(a, expected, rtol=1e-12, atol=0)
    tau = torch.tensor([0.4], dtype=F64, requires_grad=True)
    times, grads = [0.0, 0.4, 1.0], weights_of(3)
    for gradient in STRATEGIES:
        options = {"gradient": gradient, "jump_t": tau, **TIGHT}
        (_, y, a), _ = record(Net(), times, [0.0, 0.4], grads=grads, **options)
        for time, state, found in zip([0.0, 0.4], y, a, strict=True):
            expected = restarted(Net(), state, time, times, grads)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_a_single_time():
    for gradient in STRATEGIES:
        (_, y, a), _ = record(Net(), [0.3], [0.3], grads=weights_of(1), gradient=gradient)
        assert torch.equal(y[0], Y0)
        assert torch.equal(a, weights_of(1))


def test_random_numbers_outside_of_f_are_left_alone():
    torch.manual_seed(1)
    record(Net(), [0.0, 1.0], [0.3])
    found = torch.rand(3)
    torch.manual_seed(1)
    nn.Linear(2, 6), nn.Linear(6, 2)
    torch.manual_seed(0)
    Net()
    assert torch.equal(found, torch.rand(3))


def test_odeint_adjoint():
    with recorded() as recording:
        odeint_adjoint(Net(), Y0, torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-8, atol=1e-9)
    grads = torch.stack([torch.zeros(2, dtype=F64), weights_of(2)[-1]])
    a = recording.adjoints(grads, [0.0, 0.3]).a
    (_, _, expected), _ = record(Net(), [0.0, 1.0], [0.0, 0.3], **TIGHT)
    torch.testing.assert_close(a, expected, rtol=1e-6, atol=0)


def test_a_solve_by_scipy_and_one_by_adams_along_continuous_adjoints():
    (_, y, expected), _ = record(Net(), [0.0, 1.0], [0.0, 0.3, 1.0], gradient="gauss", **TIGHT)
    for gradient, options in (
        ("backsolve", {"method": "scipy_solver", "rtol": 1e-9, "atol": 1e-10}),
        ("backsolve", {"method": "implicit_adams", "control": FixedStep(0.01)}),
        ("gauss", {"method": "explicit_adams", "control": FixedStep(0.01)}),
    ):
        found, _ = record(Net(), [0.0, 1.0], [0.0, 0.3, 1.0], gradient=gradient, **options)
        torch.testing.assert_close(found.a, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.y, y, rtol=1e-6, atol=1e-7)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_on_a_gpu(gradient):
    options = {"gradient": gradient, "rtol": 1e-7, "atol": 1e-8}
    asked = torch.linspace(0, 1, 5, dtype=F64)
    (_, y, a), _ = record(Net(), [0.0, 1.0], asked, **options)
    grads = torch.zeros(2, 2, dtype=F64, device="cuda")
    grads[-1] = weights_of(2)[-1]
    net, y0 = Net().cuda(), Y0.cuda()
    for times in (asked, asked.cuda()):
        found, _ = record(net, [0.0, 1.0], times, grads=grads, y0=y0, **options)
        assert found.a.device == found.y.device == y0.device
        torch.testing.assert_close(found.y.cpu(), y, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.a.cpu(), a, rtol=1e-9, atol=1e-9)


# Which solve


def test_threads_do_not_see_each_other():
    barrier, results = threading.Barrier(2), {}

    def run(scale):
        with recorded() as recording:
            barrier.wait(10)
            solve(lambda t, y: scale * y, Y0, [0.0, 1.0], **TIGHT)
            barrier.wait(10)
        grads = torch.stack([torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)])
        results[scale] = recording.adjoints(grads, [0.0]).a

    threads = [threading.Thread(target=run, args=(scale,)) for scale in (1.0, -1.0)]
    with recorded() as mine:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The solves over there were not this one's.
        solve(Net(), Y0, [0.0, 1.0])
    assert mine.t1 == 1.0
    for scale, a in results.items():
        torch.testing.assert_close(a, torch.full_like(a, math.exp(scale)), rtol=1e-9, atol=0)


def test_tasks_do_not_see_each_other():
    async def run(t1):
        with recorded() as recording:
            await asyncio.sleep(0)
            solve(linear, Y0, [0.0, t1])
            await asyncio.sleep(0)
        return recording.t1

    async def both():
        return await asyncio.gather(run(1.0), run(2.0))

    assert asyncio.run(both()) == [1.0, 2.0]


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_solves_inside_f_are_not_those_that_are_recorded(gradient):
    steps = {"method": "rk4", "control": FixedStep(0.1)}

    def f(t, y):
        return solve(lambda s, x: -x, y, [0.0, 1.0], gradient="direct", **steps).y[-1]

    with recorded() as recording:
        solve(f, Y0, [0.0, 2.0], gradient=gradient, **steps)
        # While it still records, too.
        grads = torch.stack([torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)])
        a = recording.adjoints(grads, [0.0, 1.0]).a
    expected = torch.tensor([[2.0], [1.0]], dtype=F64) * math.exp(-1)
    torch.testing.assert_close(a, expected.exp().expand(2, 2), rtol=1e-5, atol=0)


def test_after_it_solves_are_as_before():
    with pytest.raises(RuntimeError, match="mine"), recorded():
        raise RuntimeError("mine")
    y0 = Y0.clone().requires_grad_()
    solve(linear, y0, [0.0, 1.0]).y.sum().backward()
    assert y0.grad is not None


# Mistakes


def test_no_solve_and_two_of_them():
    with pytest.raises(ValueError, match="no solve has been made"), recorded():
        pass
    with recorded() as recording:
        for ask in (lambda: recording.outputs, lambda: recording.adjoints(Y0, [0.0])):
            with pytest.raises(ValueError, match="no solve has been made"):
                ask()
        solve(linear, Y0, [0.0, 1.0])
        with pytest.raises(ValueError, match="a second solve"):
            solve(linear, Y0, [0.0, 1.0])
    with pytest.raises(ValueError, match="no solve has been made"):
        Recording().stats  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "direct"}, "Direct keeps no path.*checkpointed.*gauss"),
        ({"gradient": "implicit"}, "Implicit keeps no path"),
        ({"gradient": lambda problem, stats: None}, "function keeps no path"),
        ({"batched": True}, "batched=True.*leave it out.*checkpointed"),
        ({"dense": True}, "dense=True"),
        ({"event": Event(lambda t, y: y[0])}, "event"),
        ({"method": "implicit_adams", "control": FixedStep(0.1)}, "Adams.*gauss"),
        ({"method": "scipy_solver"}, "backsolve"),
        ({"method": "gl4", "control": FixedStep(0.1), "gradient": "reversible"}, "explicit"),
    ],
)
def test_what_cannot_be_recorded(options, message):
    y0 = Y0[None] if options.get("batched") else Y0
    f = (lambda t, y: -y) if options.get("batched") else linear
    with pytest.raises(ValueError, match=message), recorded():
        solve(f, y0, [0.0, 1.0], **options)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_dropout_and_transforms(gradient):
    dropout = nn.Dropout(0.5)
    with pytest.raises(ValueError, match=r"random numbers.*eval"), recorded():
        solve(lambda t, y: -dropout(y), Y0, [0.0, 1.0], gradient=gradient, rtol=1.0, atol=1.0)
    dropout.eval()
    with recorded() as recording:
        solve(lambda t, y: -dropout(y), Y0, [0.0, 1.0], gradient=gradient)
    assert recording.t1 == 1.0
    with pytest.raises(ValueError, match=r"torch\.func"), recorded():
        torch.func.vmap(lambda y: solve(lambda t, y: -y, y, [0.0, 1.0], gradient=gradient).y)(
            Y0[None]
        )


@pytest.fixture(scope="module")
def recording():
    with recorded() as recording:
        solve(linear, Y0, [0.0, 1.0])
    return recording


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (None, ValueError, "does not depend on the outputs"),
        ([None], ValueError, "does not depend on the outputs"),
        ([torch.ones(2, 2), torch.ones(2, 2)], ValueError, "holds 2 tensors.*1"),
        (torch.ones(2, dtype=F64), ValueError, r"grads\[0\] is .* shape \(2,\).*\(2, 2\)"),
        (torch.ones(2, 2), ValueError, r"grads\[0\] is torch.float32.*torch.float64"),
        ([3.0], TypeError, r"grads\[0\] must be a tensor or None, got float"),
        (torch.full((2, 2), math.nan, dtype=F64), ValueError, "NaN or infinity"),
        (torch.full((2, 2), math.inf, dtype=F64), ValueError, "NaN or infinity"),
    ],
)
def test_wrong_gradients(recording, grads, error, message):
    with pytest.raises(error, match=message):
        recording.adjoints(grads, [0.5])


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([0.0, 1.1], ValueError, r"times\[1\] is 1.1, which is outside .* from 0 to 1"),
        ([-1e-6], ValueError, r"times\[0\] is -1e-06, which is outside"),
        ([math.nan], ValueError, r"times\[0\] is nan"),
        ([math.inf], ValueError, "outside"),
        ([], ValueError, r"shape \(T,\) with T >= 1, got \(0,\)"),
        (0.5, ValueError, r"shape \(T,\) .* got \(\)"),
        (torch.zeros(2, 2), ValueError, r"got \(2, 2\)"),
        ("half", TypeError, "times must be a tensor or a sequence of numbers, got str"),
        (torch.ones(2, dtype=torch.complex64), TypeError, "real"),
        (torch.ones(2, dtype=torch.bool), TypeError, "real"),
    ],
)
def test_wrong_times(recording, times, error, message):
    with pytest.raises(error, match=message):
        recording.adjoints(torch.ones(2, 2, dtype=F64), times)


def test_times_rounded_to_single_precision_are_not_outside():
    t1 = 0.7
    assert float(torch.tensor(t1, dtype=torch.float32)) < t1
    t0 = float(torch.tensor(0.1, dtype=torch.float32))
    assert t0 > 0.1
    for times in ([0.0, t1], [t1, 0.1], [-0.1, t1]):
        asked = torch.tensor(times, dtype=torch.float32)
        (_, y, a), recording = record(linear, times, asked)
        assert torch.equal(y, recording.outputs)
        assert torch.equal(a[1], weights_of(2)[-1])
    # Nor is what was rounded before the solve.
    (_, y, _), recording = record(linear, torch.tensor([0.0, t1], dtype=torch.float32), [0.0, t1])
    assert torch.equal(y, recording.outputs)
    # Integers are exact.
    (_, y, _), recording = record(linear, [0.0, 1.0], torch.tensor([1, 0]))
    assert torch.equal(y, recording.outputs.flip(0))


# Times among knots


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=12, unique=True),
    st.lists(st.floats(0, 1), max_size=12),
    st.booleans(),
)
def test_times_among_knots(knots, parts, backwards):
    knots = sorted(map(float, knots), reverse=backwards)
    times = [knots[0] + part * (knots[-1] - knots[0]) for part in parts]
    slack = 1e-3
    at, inside = Inquiry(times, slack).among(knots)
    sign = -1 if backwards else 1
    for t in times:
        near = [i for i, knot in enumerate(knots) if abs(knot - t) <= slack]
        places = [i for i, found in at.items() if t in found]
        assert places == near[:1]
        steps = [i for i, found in inside.items() if t in found]
        between = [i for i, (a, b) in enumerate(pairwise(knots)) if sign * a < sign * t < sign * b]
        assert steps == ([] if near else between)
    for found in (*at.values(), *inside.values()):
        assert found == sorted(set(found), reverse=not backwards)


def test_nobody_is_told_nothing():
    assert NOTHING.among([0.0, 1.0]) == ({}, {})
