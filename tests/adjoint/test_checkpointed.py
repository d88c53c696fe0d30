"""Checkpointed: the gradient of Direct to rounding, from a few states and repeated steps."""

import gc
import math
import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn

from companion import Checkpointed, FixedStep, solve
from companion.ode import PID, FixedGrid
from companion.ode.checkpoints import PER_STEP
from tests.adjoint.test_gradients import Net
from tests.ode.problems import F64

Y0 = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
GRID = FixedGrid((0.0, 0.13, 0.3, 0.55, 0.8, 1.1, 1.6, 2.0))
PULL = torch.tensor([1.0, 6.0, 3.0], dtype=F64)


def gradients(gradient, options, times=(0.0, 0.3, 0.75, 2.0), jump=None):
    """States, and gradients with respect to y0, an argument, every time, a jump and parameters."""
    net = Net()
    y0, scale = Y0.clone().requires_grad_(), torch.tensor(0.7, dtype=F64, requires_grad=True)
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    inputs = [y0, scale, t, *(p for p in net.parameters() if p is not net.unused)]
    if jump is not None:
        inputs.append(torch.tensor([jump], dtype=F64, requires_grad=True))
        options = {**options, "jump_t": inputs[-1]}

    def f(t, y, scale):
        turned = 0.0 if jump is None else torch.where(t < jump, 0.0, 1.0)
        return net(t, y) - scale * PULL * (y - torch.cos(3 * t)) + turned

    sol = solve(f, y0, t, args=(scale,), gradient=gradient, **options)
    loss = (sol.y**2 * torch.arange(1, len(times) + 1)[:, None]).sum()
    return [sol.y.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)], sol.stats


def assert_equal_to_rounding(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert float((x - y).abs().max()) <= 1e-12 * float(y.abs().max())


LOOSE = {"rtol": 1e-4, "atol": 1e-6}
METHODS = {
    "dopri5": LOOSE,
    "bosh3": LOOSE,
    "heun": {"rtol": 1e-2, "atol": 1e-3},
    "kvaerno3": {"rtol": 1e-2, "atol": 1e-3},
    "rk4": {"control": FixedStep(0.02)},
    "vern7": {"control": GRID},
    "dopri5 on a grid": {"method": "dopri5", "control": GRID},
    "gl4": {"control": FixedStep(0.1)},
    "radauIIA5": {"control": GRID},
    "explicit_adams": {"control": FixedStep(0.02)},
    "implicit_adams": {"control": FixedStep(0.02)},
}
IMPLICIT = ("kvaerno3", "gl4", "radauIIA5")


@pytest.mark.parametrize("checkpoints", [None, 1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_equal_to_direct_to_rounding(name, checkpoints):
    options = {"method": name, **METHODS[name]}
    expected, stats = gradients("direct", options)
    found, again = gradients(Checkpointed(checkpoints), options)
    assert torch.equal(found[0], expected[0])
    assert_equal_to_rounding(found, expected)
    assert (again.accepted, again.rejected) == (stats.accepted, stats.rejected)
    if name not in IMPLICIT:
        # One to see what f uses.  A graph costs an implicit method evaluations of its own.
        assert again.evaluations == stats.evaluations + 1
    assert again.backward.accepted == stats.accepted
    assert again.backward.rejected == 0


@pytest.mark.parametrize("method", ["dopri5", "kvaerno3"])
@pytest.mark.parametrize("checkpoints", [None, 2])
@pytest.mark.parametrize("jump", [0.5, 0.75, 3.0])
def test_jumps_and_rejected_steps(method, checkpoints, jump):
    # The large first step is rejected more than once, and so are steps before the jump is known.
    options = {"method": method, "rtol": 1e-3, "atol": 1e-4, "first_step": 1.0}
    expected, stats = gradients("direct", options, jump=jump)
    found, _ = gradients(Checkpointed(checkpoints), options, jump=jump)
    assert stats.rejected >= 1
    assert_equal_to_rounding(found, expected)


@pytest.mark.parametrize("options", [LOOSE, {"method": "rk4", "control": FixedStep(0.05)}])
def test_backwards_in_time(options):
    times = (1.0, 0.8, 0.2)
    expected, _ = gradients("direct", options, times)
    assert_equal_to_rounding(gradients("checkpointed", options, times)[0], expected)


def noisy(net):
    """Draws at every evaluation."""
    return lambda t, y: net(t, y) + 1e-3 * torch.randn_like(y)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "rk4", "control": FixedStep(0.05)},
        {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5, "first_step": 1.0},
        {"method": "heun", "rtol": 3e-4, "atol": 3e-4, "first_step": 1.0},
        {"method": "vern7", "rtol": 2e-5, "atol": 2e-5, "first_step": 1.0},
    ],
    ids=lambda options: options["method"],
)
def test_random_numbers_are_drawn_again(options):
    """Also by steps that were rejected first, and where f is evaluated to look inside a step."""

    def run(gradient):
        net = Net()
        torch.manual_seed(3)
        y0 = Y0.clone().requires_grad_()
        sol = solve(noisy(net), y0, [0.0, 0.4, 1.0], gradient=gradient, **options)
        after = torch.rand(1)
        grads = torch.autograd.grad((sol.y**2).sum(), [y0, *net.inner.parameters()])
        return [sol.y.detach(), *grads], after, torch.rand(1), sol.stats

    *expected, stats = run("direct")
    assert stats.rejected >= 1 or "control" in options
    for gradient in (Checkpointed(), Checkpointed(2)):
        found, after, last, _ = run(gradient)
        assert_equal_to_rounding(found, expected[0])
        # The backward pass leaves the generator alone.
        assert (after, last) == tuple(expected[1:])


def test_dropout_in_a_network():
    def run(gradient):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Dropout(0.4), nn.Linear(20, 3)).double()
        sol = solve(
            lambda t, y: net(y), Y0, [0.0, 1.0], method="rk4", control=FixedStep(0.1),
            gradient=gradient,
        )  # fmt: skip
        return torch.autograd.grad(sol.y[-1].sum(), list(net.parameters()))

    assert_equal_to_rounding(run("checkpointed"), run("direct"))


@pytest.mark.parametrize("more", [{"event": lambda t, y: y[0] - 0.4}, {"jump_t": [0.5]}])
def test_random_numbers_with_events_or_jumps_are_refused(more):
    net, y0 = Net(), Y0.clone().requires_grad_()
    with pytest.raises(ValueError, match="random numbers together with events or jump times"):
        solve(noisy(net), y0, [0.0, 1.0], rtol=1e-2, atol=1e-2, **more)
    solve(net, y0, [0.0, 1.0], rtol=1e-2, atol=1e-2, **more)


def test_a_random_number_a_step_costs_no_state_of_the_generator():
    y0 = Y0.clone().requires_grad_()
    seen = []

    class Spy(Checkpointed):
        def record(self, problem, stats):
            seen.append(super().record(problem, stats))
            return seen[-1]

    steps = {"method": "rk4", "control": FixedStep(1e-3)}
    solve(noisy(Net()), y0, [0.0, 1.0], gradient=Spy(), **steps)
    random = seen[0].repetition.checkpoints.random
    assert len(random) == 1000
    assert sum(state is not None for state in random) == 1


class Counter:
    """Is not a function of t and y."""

    def __init__(self, rate):
        self.rate, self.calls = rate, 0

    def __call__(self, t, y):
        self.calls += 1
        return -(1 + self.rate * self.calls) * y


@pytest.mark.parametrize("control", [FixedStep(0.1), PID()])
def test_what_does_not_repeat_is_refused(control):
    y0 = Y0.clone().requires_grad_()
    sol = solve(Counter(1e-4), y0, [0.0, 0.5, 1.0], control=control)
    with pytest.raises(ValueError, match="returned something else when the steps were repeated"):
        sol.y.sum().backward()
    solve(Counter(0.0), y0, [0.0, 0.5, 1.0], control=control).y.sum().backward()
    assert y0.grad is not None


@pytest.mark.parametrize("order", [1, 2])
def test_nor_in_a_derivative_of_higher_order(order):
    y0 = Y0.clone().requires_grad_()
    sol = solve(Counter(1e-4), y0, [0.0, 0.5, 1.0], control=FixedStep(0.1))
    with pytest.raises(ValueError, match="returned something else"):
        torch.autograd.grad(sol.y.sum(), y0, create_graph=order == 2)


IMPLICIT_METHODS = ["kvaerno3", "trbdf2", "sdirk2", "radauIIA5", "gl4", "trapezoid"]


@pytest.mark.parametrize("interpolation", ["method", "cubic", "linear"])
@pytest.mark.parametrize("method", IMPLICIT_METHODS)
def test_implicit_methods_with_events_and_outputs_between_the_steps(method, interpolation):
    """What looks inside a step must not change how the next equations are solved."""

    def run(gradient):
        y0, w = (
            torch.tensor([1.0, 0.0], dtype=F64),
            torch.tensor(1.3, dtype=F64, requires_grad=True),
        )
        t = torch.tensor([0.0, 0.23, 0.41, 4.0], dtype=F64, requires_grad=True)
        grid = FixedGrid(tuple(0.1 * i for i in range(41)), interpolation=interpolation)
        sol = solve(
            lambda t, y, w: torch.stack([y[1], -(w**2) * torch.sin(y[0])]),
            y0, t, args=(w,), method=method, control=grid, gradient=gradient,
            event=lambda t, y, w: y[0] - w / 4, rtol=1e-3, atol=1e-3,
        )  # fmt: skip
        return torch.autograd.grad(sol.event.t + (sol.y**2).sum(), [w, t])

    expected = run("direct")
    for gradient in (Checkpointed(), Checkpointed(2)):
        assert_equal_to_rounding(run(gradient), expected)


def test_the_time_that_an_event_comes_before_sets_the_size_of_the_steps():
    def run(gradient):
        t = torch.tensor([0.0, 0.5, 3.0], dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y: torch.stack([y[1], -torch.sin(y[0])]), torch.tensor([1.0, 0.0], dtype=F64),
            t, method="rk4", control=FixedStep(0.4), event=lambda t, y: y[0], gradient=gradient,
        )  # fmt: skip
        return torch.autograd.grad(sol.event.t, t)

    (expected,) = run("direct")
    assert float(expected[2]) != 0.0
    assert_equal_to_rounding(run("checkpointed"), [expected])


def test_what_is_kept_is_saved_with_the_graph_and_let_go_with_it():
    """As saved tensors, which count, may be moved elsewhere, and are freed by the backward pass."""
    places = []

    def pack(x):
        places.append(x.data_ptr())
        return x

    net, y0 = Net(), Y0.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        sol = solve(net, y0, [0.0, 1.0], method="rk4", control=FixedStep(0.01))
    assert len(set(places)) > 20
    states = [weakref.ref(x) for x in saved_tensors(sol.y) if x.shape == Y0.shape and x is not y0]
    assert sum(state() is not None for state in states) > 20
    sol.y.sum().backward()
    gc.collect()
    assert sum(state() is not None for state in states) == 0


def saved_tensors(y):
    return [x for x in y.grad_fn.saved_tensors if not x.requires_grad]


def test_an_f_that_enables_gradients_leaves_no_graph_behind():
    net, kept = Net(), []

    class Spy(Checkpointed):
        def record(self, problem, stats):
            record = super().record(problem, stats)
            kept.extend(record.kept)
            return record

    def f(t, y):
        with torch.enable_grad():
            return net(t, y)

    solve(f, Y0.clone().requires_grad_(), [0.0, 1.0], rtol=1e-8, gradient=Spy())
    assert len(kept) > 5
    assert all(x.grad_fn is None for x in kept)


def test_the_solution_may_be_written_to():
    def run(gradient):
        y0 = Y0.clone().requires_grad_()
        y = solve(Net(), y0, [0.0, 0.5, 1.0], gradient=gradient).y
        y[-1] *= 2
        return torch.autograd.grad((y**2).sum(), y0)

    assert_equal_to_rounding(run("checkpointed"), run("direct"))


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 100, 1000, 4097])
def test_the_number_of_checkpoints_grows_like_the_square_root(steps):
    kept = []

    class Spy(Checkpointed):
        def record(self, problem, stats):
            record = super().record(problem, stats)
            kept.append([stored.step for stored in record.stored])
            return record

    def count(limit):
        kept.clear()
        y0 = Y0.clone().requires_grad_()
        control = FixedStep(1 / steps)
        solve(lambda t, y: -y, y0, [0.0, 1.0], method="euler", control=control, gradient=Spy(limit))
        return kept[0]

    places = count(None)
    strides = {b - a for a, b in pairwise(places)} or {1}
    assert len(strides) == 1
    (stride,) = strides
    assert len(places) <= PER_STEP * stride
    # A quarter at the least, or one checkpoint less would have been enough.
    assert stride <= max(1, math.ceil(2 * math.sqrt(steps / PER_STEP)))
    for limit in (1, 2, 7):
        places = count(limit)
        assert len(places) <= limit
        assert places[0] == 0
        assert 2 * len(places) > min(limit, steps)


def loss_of(gradient, options):
    def loss(y0, scale, t):
        def f(t, y, scale):
            return torch.stack([y[1], -scale * torch.sin(y[0]) + torch.cos(t)])

        return solve(f, y0, t, args=(scale,), gradient=gradient, **options).y

    return loss


@pytest.mark.parametrize(
    "options",
    [
        {"method": "rk4", "control": FixedStep(0.23)},
        {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5},
    ],
    ids=["fixed", "adaptive"],
)
@pytest.mark.parametrize("gradient", ["checkpointed", "direct"])
def test_first_and_second_derivatives(gradient, options):
    inputs = (
        torch.tensor([0.5, 0.1], dtype=F64, requires_grad=True),
        torch.tensor(1.3, dtype=F64, requires_grad=True),
        torch.tensor([0.0, 0.4, 1.0], dtype=F64, requires_grad=True),
    )
    # Adaptive steps take their sizes for constants, which differences do not.
    loose = {} if "control" in options else {"atol": 1e-4, "rtol": 1e-3}
    assert torch.autograd.gradcheck(loss_of(gradient, options), inputs, **loose)
    assert torch.autograd.gradgradcheck(loss_of(gradient, options), inputs, **loose)


def test_derivatives_of_any_order_where_the_inputs_depend_on_the_parameters():
    """A gradient counted twice would show: theta is in f, in y0, in args and in the times."""

    def derivatives(gradient):
        theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y, k: torch.sin(theta * y) - k * y,
            theta * Y0,
            torch.stack([0 * theta, theta**2, 1 + theta]),
            args=(theta**3,),
            method="rk4",
            control=FixedStep(0.3),
            gradient=gradient,
        )
        value, found = (sol.y**2).sum(), []
        for _ in range(4):
            (value,) = torch.autograd.grad(value, theta, create_graph=True)
            found.append(value.detach())
        return found

    assert_equal_to_rounding(derivatives("checkpointed"), derivatives("direct"))


def test_batches_of_gradients():
    y0 = Y0.clone().requires_grad_()
    y = solve(Net(), y0, [0.0, 1.0]).y[-1]
    rows = torch.eye(3, dtype=F64)
    (found,) = torch.autograd.grad(y, y0, rows, is_grads_batched=True, retain_graph=True)
    expected = torch.stack([torch.autograd.grad(y, y0, row, retain_graph=True)[0] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_is_not_finite_spoils_nothing_else():
    y0 = Y0.clone().requires_grad_()
    y = solve(lambda t, y: -y, y0, [0.0, 1.0]).y
    (found,) = torch.autograd.grad(y[-1], y0, torch.tensor([1.0, math.nan, 1.0], dtype=F64))
    assert found.isfinite().tolist() == [True, False, True]


def test_the_cost_of_a_derivative_of_higher_order_is_counted():
    y0 = Y0.clone().requires_grad_()
    sol = solve(Net(), y0, [0.0, 1.0])
    torch.autograd.grad(sol.y.sum(), y0, create_graph=True)
    assert sol.stats.backward.accepted == sol.stats.accepted


def test_hooks_see_derivatives_of_higher_order_once():
    def second(gradient):
        torch.manual_seed(0)
        net, seen = Net(), []
        weight = net.outer.weight
        weight.register_hook(lambda grad: seen.append(1) or 2 * grad)
        y0 = Y0.clone().requires_grad_()
        sol = solve(net, y0, [0.0, 1.0], gradient=gradient)
        (grad,) = torch.autograd.grad(sol.y[-1].pow(2).sum(), y0, create_graph=True)
        return torch.autograd.grad(grad.sum(), weight), len(seen)

    (found, count), (expected, _) = second("checkpointed"), second("direct")
    assert count == 1
    assert_equal_to_rounding(found, expected)


def test_hessian_vector_product_of_parameters():
    def product(gradient):
        net = Net()
        params = list(net.outer.parameters())
        sol = solve(net, Y0, [0.0, 1.0], gradient=gradient)
        grads = torch.autograd.grad(sol.y[-1].pow(2).sum(), params, create_graph=True)
        return torch.autograd.grad(sum(g.sum() for g in grads), params)

    assert_equal_to_rounding(product("checkpointed"), product("direct"))


def test_a_second_backward_pass_through_the_same_graph():
    y0 = Y0.clone().requires_grad_()
    loss = solve(Net(), y0, [0.0, 1.0]).y.sum()
    (first,) = torch.autograd.grad(loss, y0, retain_graph=True)
    (second,) = torch.autograd.grad(loss, y0)
    assert torch.equal(first, second)


def test_dense_output_and_transforms_are_those_of_direct():
    def end(y0):
        return solve(lambda t, y: -y, y0, [0.0, 1.0]).y[-1]

    _, pushed = torch.func.jvp(end, (Y0,), (torch.ones(3, dtype=F64),))
    torch.testing.assert_close(pushed, torch.full_like(pushed, math.exp(-1)), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.func.vmap(end)(Y0[:, None])[:, 0], end(Y0))
    y0 = Y0.clone().requires_grad_()
    sol = solve(lambda t, y: -y, y0, [0.0, 1.0], dense=True)
    (grad,) = torch.autograd.grad(sol(0.5).sum(), y0)
    torch.testing.assert_close(grad, torch.full_like(grad, math.exp(-0.5)), rtol=1e-5, atol=0)


def test_an_event_and_what_comes_before_it():
    def run(gradient):
        y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
        w = torch.tensor(1.3, dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y, w: torch.stack([y[1], -(w**2) * y[0]]),
            y0,
            [0.0, 0.5, math.inf],
            args=(w,),
            event=lambda t, y, w: y[0] - w / 4,
            gradient=gradient,
        )
        loss = sol.event.t + (sol.y**2).sum()
        return [sol.event.t.detach(), *torch.autograd.grad(loss, [y0, w])]

    for gradient in (Checkpointed(), Checkpointed(2)):
        assert_equal_to_rounding(run(gradient), run("direct"))


def test_one_time_only():
    y0 = Y0.clone().requires_grad_()
    (grad,) = torch.autograd.grad(solve(Net(), y0, [0.3]).y.sum(), y0)
    assert torch.equal(grad, torch.ones_like(grad))


def test_autocast_of_the_forward_solve_holds_in_the_backward_pass():
    net, modes = nn.Linear(3, 3), []

    def f(t, y):
        modes.append(torch.is_autocast_enabled("cpu"))
        return torch.tanh(net(y))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        sol = solve(f, Y0.float(), [0.0, 1.0], rtol=1e-2)
    count = len(modes)
    sol.y.sum().backward()
    assert len(modes) > count
    assert all(modes)
    assert net.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"checkpoints": 0}, ValueError, "checkpoints must be at least 1, got 0"),
        ({"checkpoints": 2.5}, TypeError, "checkpoints must be an int, got float"),
        ({"checkpoints": True}, TypeError, "checkpoints must be an int, got bool"),
        ({"params": torch.ones(1)}, TypeError, r"write params=\(x,\)"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Checkpointed(**arguments)


def test_a_captured_result_is_named():
    rate = torch.tensor(0.3, dtype=F64, requires_grad=True)
    derived = torch.exp(rate)
    with pytest.raises(ValueError, match=r"ExpBackward0.*args="):
        solve(lambda t, y: -derived * y, Y0, [0.0, 1.0])
    sol = solve(lambda t, y: -derived * y, Y0, [0.0, 1.0], gradient=Checkpointed(params=(derived,)))
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), rate)
    exact = -(Y0.sum() * torch.exp(-derived) * derived).detach()
    torch.testing.assert_close(grad, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("checkpoints", [None, 1, 5, 40])
def test_newton_goes_into_every_step_as_before(checkpoints):
    """Van der Pol's equation: rejected steps, Jacobians kept over many others."""

    def run(gradient):
        y0 = torch.tensor([2.0, 0.0], dtype=F64, requires_grad=True)
        mu = torch.tensor(100.0, dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y, mu: torch.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]),
            y0, [0.0, 81.0, 150.0], args=(mu,), method="trbdf2", rtol=1e-2, atol=1e-2,
            gradient=gradient,
        )  # fmt: skip
        assert sol.stats.rejected > 5
        return torch.autograd.grad(sol.y[:, 0].pow(2).sum(), [y0, mu])

    assert_equal_to_rounding(run(Checkpointed(checkpoints)), run("direct"))


def test_higher_derivatives_leave_the_generator_alone():
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    y0 = Y0.clone().requires_grad_()
    y = solve(lambda t, y: net(y), y0, [0.0, 1.0], method="rk4", control=FixedStep(0.1)).y
    torch.rand(5)
    before = torch.get_rng_state()
    torch.autograd.grad(y.pow(2).sum(), y0, create_graph=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_in_higher_derivatives():
    net, modes = nn.Linear(3, 3), []

    def f(t, y):
        modes.append(torch.is_autocast_enabled("cpu"))
        return torch.tanh(net(y))

    y0 = Y0.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = solve(f, y0, [0.0, 1.0], method="rk4", control=FixedStep(0.25)).y
    count = len(modes)
    (grad,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    grad.sum().backward()
    assert len(modes) > count
    assert all(modes)


@pytest.mark.parametrize("backward", [False, True])
def test_no_reference_cycle(backward):
    y0 = Y0.clone().requires_grad_()
    solve(lambda t, y: -y, y0, [0.0, 1.0])
    gc.collect()
    gc.disable()
    try:
        y = solve(lambda t, y: -y, y0, [0.0, 1.0]).y
        gone = weakref.ref(y)
        if backward:
            y.sum().backward()
        del y
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("when", [0.95, 0.5, 0.05])
def test_a_small_change_in_one_step_is_noticed(when):
    factor = [1.0]

    def f(t, y):
        return -y * (factor[0] if abs(float(t) - when) < 0.02 else 1.0)

    y0 = Y0.clone().requires_grad_()
    y = solve(f, y0, [0.0, 1.0], method="euler", control=FixedStep(0.01)).y
    factor[0] = 1 + 1e-8
    with pytest.raises(ValueError, match="returned something else"):
        y.sum().backward()
