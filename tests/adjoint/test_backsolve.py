"""What is particular to the continuous adjoint: its cost, its memory, its limits."""

import functools
import math
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from companion import Backsolve, FixedStep, solve
from companion.adjoint import LostStateWarning
from companion.ode import PID, SolverError, TooManySteps
from tests.adjoint.test_gradients import TIGHT, Net
from tests.ode.problems import F64

Y0 = torch.tensor([0.5, -1.0, 0.2], dtype=F64)


def saved_bytes(run):
    """Bytes that autograd keeps for the backward pass of ``run()``."""
    kept = {}

    def pack(x):
        kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()
    return sum(kept.values()), result


def test_memory_does_not_grow_with_the_steps():
    net = Net()

    def measure(gradient, steps):
        control = FixedStep(1 / steps)
        return saved_bytes(
            lambda: solve(net, Y0, [0.0, 1.0], method="rk4", control=control, gradient=gradient).y
        )[0]

    assert measure("backsolve", 10) == measure("backsolve", 320)
    assert measure("direct", 320) > 25 * measure("direct", 10)


def test_statistics_of_the_backward_solve():
    net, calls = Net(), []

    def f(t, y):
        calls.append(float(t))
        return net(t, y)

    sol = solve(f, Y0, [0.0, 0.3, 1.0], gradient="backsolve")
    assert sol.stats.backward is None
    assert sol.stats.evaluations == len(calls)
    forward = len(calls)
    sol.y.sum().backward()
    backward = sol.stats.backward
    assert backward.evaluations == len(calls) - forward
    # One evaluation at the start, six a step, one after the jump at the inner output time.
    tries = backward.accepted + backward.rejected
    assert backward.evaluations == 2 + 6 * tries
    assert all(0 <= t <= 1 for t in calls)


def test_parameters_do_not_steer_the_steps():
    """The same backward steps whether five or 50 000 parameters want a gradient."""

    def steps(extra):
        net = Net()
        wide = torch.full((extra,), 1e3, dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y: net(t, y) + 0 * wide.sum(), Y0, [0.0, 1.0], gradient="backsolve", **TIGHT
        )
        sol.y.pow(2).sum().backward()
        return sol.stats.backward

    assert steps(5) == steps(50_000)


def test_the_error_of_the_adjoint_is_controlled_too():
    """From y0 = 0 nothing moves but the adjoint, by the factor exp(sin(5 T) / 5)."""
    y0 = torch.zeros(1, dtype=F64, requires_grad=True)
    end = 3.0
    sol = solve(lambda t, y: torch.cos(5 * t) * y, y0, [0.0, end], gradient="backsolve", **TIGHT)
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), y0)
    assert float(grad) == pytest.approx(math.exp(math.sin(5 * end) / 5), rel=1e-8)


@pytest.mark.parametrize("gradient", ["backsolve", "gauss"])
def test_every_leaf_of_the_adjoint_has_the_tolerance_of_its_leaf_of_the_state(gradient):
    """As above, beside a leaf that anything is good enough for."""
    y0 = [torch.zeros(1, dtype=F64, requires_grad=True) for _ in range(2)]
    tolerances = {"rtol": [1e-10, 1.0], "atol": [1e-11, 1.0]}

    def f(t, y):
        return [torch.cos(5 * t) * y[0], 0 * y[1]]

    y = solve(f, y0, [0.0, 3.0], gradient=gradient, **tolerances).y
    (grad,) = torch.autograd.grad(y[0][-1].sum(), y0[0])
    assert float(grad) == pytest.approx(math.exp(math.sin(15) / 5), rel=1e-8)


def test_a_short_interval_between_outputs_does_not_make_the_steps_short():
    def steps(times):
        sol = solve(Net(), Y0, times, gradient="backsolve", **TIGHT)
        sol.y.sum().backward()
        return sol.stats.backward.accepted

    assert steps([0.0, 1 - 1e-9, 1.0]) <= steps([0.0, 1.0]) + 1


def test_its_own_tolerances_method_and_control():
    net = Net()

    def run(strategy):
        net.zero_grad()
        sol = solve(net, Y0, [0.0, 1.0], gradient=strategy, **TIGHT)
        sol.y.pow(2).sum().backward()
        return sol.stats.backward, net.inner.weight.grad.clone()

    tight, reference = run(Backsolve())
    loose, rough = run(Backsolve(rtol=1e-3, atol=1e-3))
    assert loose.accepted < tight.accepted
    assert 1e-9 < (rough - reference).abs().max() < 1e-2
    other, third = run(Backsolve(method="bosh3"))
    assert other.accepted > tight.accepted
    assert torch.allclose(third, reference, rtol=1e-6, atol=1e-8)
    fixed, fourth = run(Backsolve(control=FixedStep(0.01)))
    assert fixed.accepted == 100
    assert torch.allclose(fourth, reference, rtol=1e-6, atol=1e-8)
    with pytest.raises(TooManySteps):
        run(Backsolve(max_steps=1, first_step=1e-3))


def test_a_fixed_step_solve_may_have_an_adaptive_backward_solve():
    net = Net()
    control = FixedStep(0.01)
    sol = solve(
        net, Y0, [0.0, 1.0], method="dopri5", control=control, gradient=Backsolve(control=PID())
    )
    sol.y.sum().backward()
    assert sol.stats.accepted == 100
    assert sol.stats.backward.accepted < 50


def test_every_output_time_anchors_the_state():
    """A flow that contracts by e^-60 cannot be reversed in one go, but in sixty: forward it
    forgets its state, so backward any error in the state grows until y^3 tears it away."""
    p = torch.tensor(1.2, dtype=F64, requires_grad=True)

    def grad(gradient, outputs):
        def f(t, y):
            return 60 * (p * torch.cos(t) - y) - y**3

        t = torch.linspace(0, 1, outputs, dtype=F64)
        y = solve(f, torch.zeros(1, dtype=F64), t, gradient=gradient, max_steps=2000, **TIGHT).y
        return torch.autograd.grad(y[-1].sum(), p)[0]

    expected = grad("direct", 2)
    assert torch.allclose(grad("backsolve", 61), expected, rtol=1e-7)
    with pytest.raises(SolverError):
        grad("backsolve", 2)


@pytest.mark.parametrize("control", [None, FixedStep(0.01)])
def test_a_lost_state_is_told(control):
    """y' = -30 (y - cos t): contracting by e^-30, linear, so that nothing blows up."""

    def run(outputs):
        y0 = torch.zeros(1, dtype=F64, requires_grad=True)
        t = torch.linspace(0, 1, outputs, dtype=F64)
        f = lambda t, y: -30 * (y - torch.cos(t))  # noqa: E731
        solve(f, y0, t, control=control, gradient="backsolve").y[-1].sum().backward()

    with pytest.warns(LostStateWarning, match="may have lost its way.*use gradient='direct'"):
        run(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(41)


def test_without_anchors_the_state_goes_on_from_where_it_was_reconstructed():
    """The same where the flow can be reversed; lost where it cannot, however many outputs."""

    def run(strategy, rate):
        y0 = torch.zeros(1, dtype=F64, requires_grad=True)
        t = torch.linspace(0, 1, 41, dtype=F64)
        f = lambda t, y: -rate * torch.sin(y - torch.cos(t))  # noqa: E731
        (-solve(f, y0, t, gradient=strategy).y.pow(2)).sum().backward()
        return float(y0.grad)

    assert run(Backsolve(anchored=False), 2.0) == pytest.approx(run(Backsolve(), 2.0), rel=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anchored = run(Backsolve(), 40.0)
    with pytest.warns(LostStateWarning, match="leave out anchored=False"):
        assert run(Backsolve(anchored=False), 40.0) != pytest.approx(anchored, rel=1e-4)


def test_a_component_of_its_own_size_may_be_lost():
    """One large component at rest must not hide that a small one is gone."""
    p = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = {"a": torch.tensor([1e4], dtype=F64), "b": torch.zeros(1, dtype=F64)}

    def f(t, y):
        return {"a": 0 * y["a"], "b": -30 * torch.sin(y["b"] - p * torch.cos(t))}

    y = solve(f, y0, [0.0, 1.0], gradient="backsolve").y
    with pytest.warns(LostStateWarning):
        y["b"][-1].sum().backward()


def test_no_warning_where_a_part_stays_zero_and_atol_is_zero():
    y0 = torch.zeros(2, dtype=F64, requires_grad=True)
    options = {"method": "rk4", "control": FixedStep(0.1), "atol": 0.0}
    y = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="backsolve", **options).y
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y[-1].sum().backward()
    assert y0.grad.tolist() == pytest.approx([math.exp(-1)] * 2, rel=1e-5)


@pytest.mark.parametrize(
    ("f", "t", "options"),
    [
        (lambda t, y: torch.cos(t) * torch.ones_like(y), [0.0, 2 * math.pi], {}),
        (lambda t, y: -y, [0.0, 2.0], {"rtol": 1e-2, "atol": 1e-2}),
        (lambda t, y: y.flip(0) * torch.tensor([1.0, -1.0], dtype=F64), [0.0, 9.0],
         {"rtol": 1e-2, "atol": 1e-2}),
    ],
)  # fmt: skip
def test_no_warning_where_the_tolerances_explain_the_difference(f, t, options):
    y0 = torch.zeros(2, dtype=F64) if not options else torch.ones(2, dtype=F64)
    y = solve(f, y0.requires_grad_(), t, gradient="backsolve", **options).y
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y[-1].sum().backward()
    assert y0.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_size_of_the_loss_does_not_matter(scale):
    """The adjoint is linear in the loss; atol must not decide whether it is seen at all."""
    y0 = torch.zeros(1, dtype=F64, requires_grad=True)
    sol = solve(lambda t, y: torch.cos(5 * t) * y, y0, [0.0, 3.0], gradient="backsolve")
    (grad,) = torch.autograd.grad(scale * sol.y[-1].sum(), y0)
    assert float(grad) == pytest.approx(scale * math.exp(math.sin(15) / 5), rel=1e-3)


def test_a_loss_without_influence_has_zero_gradients():
    y0 = Y0.clone().requires_grad_()
    y = solve(Net(), y0, [0.0, 1.0], gradient="backsolve").y
    (grad,) = torch.autograd.grad((0 * y).sum(), y0)
    assert torch.equal(grad, torch.zeros_like(y0))


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_loss_that_overflowed_gives_nan_gradients_and_no_wrong_diagnosis(factor):
    """What a GradScaler needs to see."""
    net, y0 = Net(), Y0.clone().requires_grad_()
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    y = solve(net, y0, t, gradient="backsolve").y
    for grad in torch.autograd.grad(factor * y.sum(), [y0, t, net.outer.bias]):
        assert grad.isnan().all()


class Gate(torch.nn.Module):
    """Uses its parameter only late, where a trace at the initial time does not see it."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(-0.5, dtype=F64))

    def forward(self, t, y):
        return self.rate * y if t > 0.5 else 0 * y


GATE = Gate()


class Caller:
    """A callable object that holds a module."""

    def __init__(self, module):
        self.modules = {"list": [module]}

    def __call__(self, t, y):
        return self.modules["list"][0](t, y)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda g: (g, ()),
        lambda g: (g.forward, ()),
        lambda g: (lambda t, y: g(t, y), ()),
        lambda g: (functools.partial(lambda m, t, y: m(t, y), g), ()),
        lambda g: (lambda t, y, m: m(t, y), (g,)),
        lambda g: (lambda t, y, g=g: g(t, y), ()),
        lambda g: (Caller(g), ()),
        lambda g: (lambda t, y: GATE(t, y), ()),
    ],
    ids=["module", "method", "closure", "partial", "args", "default", "object", "global"],
)
def test_parameters_are_found_wherever_f_holds_them(wrap):
    GATE.rate.grad = None
    f, args = wrap(GATE)
    sol = solve(f, torch.ones(1, dtype=F64), [0.0, 1.0], args=args, gradient="backsolve", **TIGHT)
    sol.y[-1].sum().backward()
    assert float(GATE.rate.grad) == pytest.approx(0.5 * math.exp(-0.25), rel=1e-4)


def test_a_module_that_f_holds_but_does_not_use_has_no_gradient():
    net, other = Net(), torch.nn.Linear(2, 2)

    def f(t, y):
        assert other is not None
        return net(t, y)

    solve(f, Y0, [0.0, 1.0], gradient="backsolve").y.sum().backward()
    assert other.weight.grad is None
    assert net.inner.weight.grad is not None


def test_params_are_taken_literally():
    a, b = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.3, 0.7))
    f = lambda t, y: -a * b * y  # noqa: E731
    y0 = torch.ones(1, dtype=F64)
    exact = -0.7 * math.exp(-0.21)
    strategy = Backsolve(params=iter([a, a]))
    for _ in range(2):
        y = solve(f, y0, [0.0, 1.0], gradient=strategy, **TIGHT).y
        grads = torch.autograd.grad(y[-1].sum(), (a, b), allow_unused=True)
        assert float(grads[0]) == pytest.approx(exact, rel=1e-7)
        assert grads[1] is None
    assert not solve(f, y0, [0.0, 1.0], gradient=Backsolve(params=())).y.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"params": torch.ones(2)}, TypeError, r"params=\(x,\)"),
        ({"params": 5}, TypeError, "iterable of tensors, got int"),
        ({"params": [1.0]}, TypeError, "params holds a float"),
        ({"rtol": "a"}, TypeError, "Backsolve: rtol must be a number"),
        ({"anchored": 1}, TypeError, "Backsolve: anchored must be True or False, got 1"),
        ({"max_steps": 0}, ValueError, "Backsolve: max_steps"),
        ({"observers": None}, TypeError, "Backsolve: observers must be a tuple.*got None"),
        ({"observers": [5]}, TypeError, r"Backsolve: observers must be a tuple.*got \[5\]"),
        ({"max_iterations": 0}, ValueError, "Backsolve: max_iterations"),
        ({"method": "rk4"}, ValueError, "Backsolve: method 'rk4' has no error estimate"),
    ],
)
def test_its_arguments_are_checked_before_anything_is_solved(arguments, error, message):
    def f(t, y):
        raise AssertionError("f was called")

    with pytest.raises(error, match=message):
        solve(f, Y0, [0.0, 1.0], gradient=Backsolve(**arguments))


def test_inside_a_checkpoint():
    y0 = Y0.clone().requires_grad_()
    net = Net()

    def end(y):
        return solve(net, y, [0.0, 1.0], gradient="backsolve", **TIGHT).y[-1].sum()

    (plain,) = torch.autograd.grad(end(y0), y0)
    (again,) = torch.autograd.grad(checkpoint(end, y0, use_reentrant=False), y0)
    assert torch.equal(plain, again)


def test_autocast_is_the_same_forward_and_backward():
    net = torch.nn.Linear(3, 3)
    seen = []

    def f(t, y):
        value = net(y)
        seen.append(value.dtype)
        return value

    with torch.autocast("cpu", torch.bfloat16):
        y = solve(f, Y0.float(), [0.0, 1.0], rtol=1e-2, atol=1e-2, gradient="backsolve").y
    assert y.dtype == torch.float32
    y.sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert net.weight.grad.dtype == torch.float32


def test_a_state_made_in_inference_mode():
    with torch.inference_mode():
        y0 = Y0.clone()
    net = Net()
    solve(net, y0, [0.0, 1.0], gradient="backsolve").y.sum().backward()
    assert net.inner.weight.grad.any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_forward_mode_is_refused(which):
    inputs = [Y0.clone(), torch.tensor([0.0, 1.0], dtype=F64), torch.tensor(0.5, dtype=F64)]

    def end(x):
        y0, t, p = (x if i == which else other for i, other in enumerate(inputs))
        return solve(lambda t, y, p: -p * y, y0, t, args=(p,), gradient="backsolve").y[-1]

    with pytest.raises(ValueError, match="gradient='direct'"):
        torch.func.jvp(end, (inputs[which],), (torch.ones_like(inputs[which]),))


@pytest.mark.parametrize("loss", [lambda y: y.pow(2).sum(), torch.sum], ids=["square", "linear"])
def test_a_second_derivative_is_refused(loss):
    """Of a linear loss, too, where the incoming gradient is a constant."""
    y0 = Y0.clone().requires_grad_()
    sol = solve(Net(), y0, [0.0, 1.0], gradient="backsolve")
    (grad,) = torch.autograd.grad(loss(sol.y[-1]), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_a_backward_solve_needs_a_tolerance():
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="Backsolve: rtol and atol are both zero"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], rtol=1e-6, gradient=Backsolve(rtol=0.0, atol=0.0))
