"""The adjoint along the forward solution: its accuracy, its cost, its limits."""

import math
import warnings

import pytest
import torch
from numpy.polynomial import Polynomial
from torch import nn

from companion import Event, FixedStep, solve
from companion.adjoint import Direct, Gauss
from companion.adjoint.gauss import nodes
from companion.ode import FixedGrid, TooManySteps
from companion.ode.dense import Dense
from companion.ode.observe import Observer
from tests.adjoint.test_backsolve import Y0, saved_bytes
from tests.adjoint.test_gradients import TIGHT, Net
from tests.ode.problems import F64


def gradients(gradient, times=(0.0, 0.4, 1.0), **options):
    """Of a loss that sees every output: y0, times, an argument, two parameters; and statistics."""
    net = Net()
    y0 = Y0.clone().requires_grad_()
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    scale = torch.tensor(1.3, dtype=F64, requires_grad=True)

    def f(t, y, scale):
        return scale * net(t, y)

    sol = solve(f, y0, t, args=(scale,), gradient=gradient, **options)
    weights = torch.linspace(1, -2, len(times), dtype=F64)[:, None]
    inputs = [y0, t, scale, net.inner.weight, net.outer.bias]
    return torch.autograd.grad((weights * sol.y.sin()).sum(), inputs), sol.stats


FIXED = {"control": FixedStep(0.01)}
#: Points of a grid that no output time is on.
GRID = FixedGrid([-0.55 + 0.03 * i for i in range(55)])


@pytest.mark.parametrize("times", [(0.0, 0.4, 1.0), (1.0, 0.7, -0.5)], ids=["forward", "back"])
@pytest.mark.parametrize(
    ("options", "accuracy"),
    [
        ({"method": "dopri5", **TIGHT}, 1e-8),
        ({"method": "tsit5", **TIGHT}, 1e-8),
        ({"method": "dopri8", **TIGHT}, 1e-7),
        ({"method": "bosh3", "rtol": 1e-8, "atol": 1e-9}, 1e-6),
        ({"method": "kvaerno5", "rtol": 1e-8, "atol": 1e-9}, 1e-5),
        ({"method": "rk4", **FIXED}, 1e-8),
        ({"method": "gl4", **FIXED}, 1e-5),
        ({"method": "implicit_adams", **FIXED}, 1e-8),
        ({"method": "explicit_adams", **FIXED}, 1e-8),
        ({"method": "dopri5", "control": GRID}, 1e-8),
    ],
    ids=lambda x: x["method"] if isinstance(x, dict) else "",
)  # fmt: skip
def test_it_agrees_with_an_exact_gradient(options, accuracy, times):
    expected, _ = gradients("direct", times, rtol=1e-12, atol=1e-13)
    found, _ = gradients("gauss", times, **options)
    for grad, value in zip(found, expected, strict=True):
        assert torch.allclose(grad, value, rtol=accuracy, atol=accuracy)


def test_linear_equations_with_known_gradients():
    """y' = A y: the gradients of the matrix exponential, which PyTorch knows."""
    y0 = torch.tensor([1.0, -0.5], dtype=F64, requires_grad=True)
    matrix = torch.tensor([[-0.3, 1.1], [-2.0, 0.2]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.3, 0.8, 2.0], dtype=F64, requires_grad=True)
    weights = torch.tensor([[0.0, 3.0], [1.0, 1.0], [-1.0, 2.0]], dtype=F64)

    y = solve(lambda t, y, a: a @ y, y0, t, args=(matrix,), gradient="gauss", **TIGHT).y
    exact = torch.stack([torch.matrix_exp((time - t[0]) * matrix) @ y0 for time in t])
    inputs = (y0, matrix, t)
    found = torch.autograd.grad((weights * y).sum(), inputs)
    expected = torch.autograd.grad((weights * exact).sum(), inputs)
    for grad, value in zip(found, expected, strict=True):
        assert torch.allclose(grad, value, rtol=1e-8)


def test_states_of_several_parts_some_of_them_complex():
    """x' = k x, n' = cos(t) n, and z' = 1, which depends on nothing."""
    x = torch.tensor([1.0 + 0.5j], dtype=torch.complex128, requires_grad=True)
    n = torch.tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    z = torch.tensor(0.1, dtype=F64, requires_grad=True)
    k = torch.tensor(-0.2 + 2j, dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 0.7, 1.5], dtype=F64, requires_grad=True)

    def f(t, y, k):
        return {"x": k * y["x"], "rest": (torch.cos(t) * y["rest"][0], torch.ones_like(z))}

    y = solve(f, {"x": x, "rest": (n, z)}, t, args=(k,), gradient="gauss", **TIGHT).y
    loss = (y["x"].imag * y["rest"][0].sum(-1, keepdim=True)).sum() + y["rest"][1].pow(2).sum()
    growth = torch.exp(torch.sin(t) - torch.sin(t[0]))[:, None]
    exact = (x * torch.exp(k * (t - t[0]))[:, None]).imag * (n * growth).sum(-1, keepdim=True)
    inputs = (x, n, z, k, t)
    found = torch.autograd.grad(loss, inputs)
    expected = torch.autograd.grad(exact.sum() + (z + t - t[0]).pow(2).sum(), inputs)
    for grad, value in zip(found, expected, strict=True):
        assert torch.allclose(grad, value, rtol=1e-7)


def test_an_event_ends_the_solve_inside_a_step():
    """A ball thrown up at speed v falls to the ground at 2 v / g with the speed -v."""
    speed, g = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (3.0, 9.81))
    y0 = torch.stack([torch.zeros_like(speed), speed])
    sol = solve(
        lambda t, y, g: torch.stack([y[1], -g * torch.ones_like(y[1])]),
        y0,
        [0.0, 0.2, math.inf],
        args=(g,),
        event=Event(lambda t, y, g: y[0], direction=-1),
        gradient="gauss",
        first_step=0.05,
        **TIGHT,
    )
    assert sol.status == "event"
    time, lift = 2 * speed / g, speed * 0.2 - g * 0.02
    for found, expected in [(sol.event.t, time), (sol.y[1, 0] + sol.event.y[1], lift - speed)]:
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
        grads = torch.autograd.grad(found, (speed, g), retain_graph=True)
        values = torch.autograd.grad(
            expected, (speed, g), allow_unused=True, materialize_grads=True, retain_graph=True
        )
        assert torch.allclose(torch.stack(grads), torch.stack(values), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "order"),
    [("euler", 1), ("heun", 2), ("heun3", 3), ("rk4", 4), ("dopri5", 5), ("gl4", 4)],
)
def test_order_of_the_gradient(method, order):
    """That of the method, though the dense output's is less by one (of gl4 by two, which meets
    the same nodes again on its way back)."""
    expected, _ = gradients("direct", rtol=1e-13, atol=1e-14)

    def error(steps):
        found, _ = gradients("gauss", method=method, control=FixedStep(1 / steps), **TIGHT)
        # The time in the middle has the error of a dense output in its reference.
        return max(float((found[i] - expected[i]).norm()) for i in (0, 2, 3, 4))

    coarse, fine = error(10), error(20)
    assert order - 0.3 < math.log2(coarse / fine) < order + 0.5


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_the_tolerance_controls_the_error_of_the_gradient(tolerance):
    expected, _ = gradients("direct", rtol=1e-13, atol=1e-14)
    found, _ = gradients("gauss", rtol=tolerance, atol=tolerance)
    for grad, value in zip(found, expected, strict=True):
        assert (grad - value).abs().max() < 10 * tolerance * (1 + value.abs().max())


@pytest.mark.parametrize("order", range(1, 10))
def test_nodes_have_the_order_and_no_more_of_them_are_taken(order):
    pairs = nodes(order)
    assert len(pairs) == math.ceil(order / 2)
    for degree in range(2 * len(pairs) + 1):
        error = sum(w * x**degree for x, w in pairs) - 1 / (degree + 1)
        assert (abs(error) < 1e-14) == (degree < 2 * len(pairs)), degree


def test_the_quadrature_is_exact_where_everything_is_a_polynomial():
    """y' = sum of c_k t^k: a is constant, and dL/dc_k an integral that Gauss's nodes have."""
    c = torch.ones(6, dtype=F64, requires_grad=True)
    powers = torch.arange(6, dtype=F64)
    y = solve(
        lambda t, y: (c * t**powers).sum() + 0 * y,
        torch.zeros(1, dtype=F64),
        [1.0, 3.0],
        control=FixedStep(2.0),
        gradient="gauss",
    ).y
    (grad,) = torch.autograd.grad(y[-1].sum(), c)
    exact = [Polynomial.basis(k).integ()(3.0) - Polynomial.basis(k).integ()(1.0) for k in range(6)]
    assert grad.tolist() == pytest.approx(exact, rel=1e-14)


def test_the_steps_do_not_depend_on_the_number_of_parameters():
    """A state of two components; 50 or 50 000 parameters of any size."""

    def steps(extra):
        net = Net(2)
        wide = torch.full((extra,), 1e3, dtype=F64, requires_grad=True)
        sol = solve(
            lambda t, y: net(t, y) + 1e-3 * torch.sin(wide.sum()) * y,
            Y0[:2],
            [0.0, 5.0],
            gradient="gauss",
            rtol=1e-6,
            atol=1e-8,
        )
        sol.y.pow(2).sum().backward()
        assert wide.grad.any()
        return sol.stats.backward

    few, many = steps(50), steps(50_000)
    assert few == many
    assert few.accepted > 2


def test_what_a_step_costs():
    """Five evaluations a try, since two stages are at one time, and three nodes where parameters
    want a gradient; none at an output, where the last stage was."""
    net = Net()
    calls = []

    def f(t, y):
        calls.append(float(t))
        return net(t, y)

    def backward(params):
        calls.clear()
        y0 = Y0.clone().requires_grad_()
        strategy = Gauss(params=params)
        sol = solve(f, y0, [0.0, 0.3, 1.0], gradient=strategy, rtol=1e-9, atol=1e-9)
        assert len(calls) == sol.stats.evaluations
        sol.y.sum().backward()
        stats = sol.stats.backward
        assert len(calls) == sol.stats.evaluations + stats.evaluations
        assert all(0 <= t <= 1 for t in calls)
        return stats

    stats = backward(())
    tries = stats.accepted + stats.rejected
    # A rejected try ends where nothing begins, and the next one begins where it was.
    assert 1 + 5 * tries <= stats.evaluations <= 1 + 5 * tries + stats.rejected
    assert backward([net.inner.weight]).evaluations == stats.evaluations + 3 * stats.accepted


def test_memory_grows_with_the_steps_but_not_with_f():
    def measure(gradient, steps, width):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(3, width, dtype=F64), nn.Tanh(), nn.Linear(width, 3, dtype=F64)
        )
        params = tuple(net.parameters())
        options = {"method": "rk4", "control": FixedStep(1 / steps), "gradient": gradient(params)}
        kept, _ = saved_bytes(lambda: solve(lambda t, y: net(y), Y0, [0.0, 1.0], **options).y)
        # The parameters are there in any case.
        return kept - sum(p.numel() * p.element_size() for p in params)

    def gauss(params):
        return Gauss(params=params)

    def direct(params):
        return Direct()

    # The state and the coefficients of a cubic, three components of eight bytes each.
    assert measure(gauss, 320, 7) - measure(gauss, 10, 7) == 310 * 4 * 3 * 8
    assert measure(gauss, 320, 700) == measure(gauss, 320, 7)
    assert measure(direct, 320, 700) > 50 * measure(gauss, 320, 700)


def test_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch):
    made = []
    monkeypatch.setattr(
        "companion.ode.integrate.Dense", lambda *args: made.append(Dense(*args)) or made[-1]
    )
    with torch.no_grad():
        solve(Net(), Y0, [0.0, 1.0], gradient="gauss")
    assert made == []
    solve(Net(), Y0, [0.0, 1.0], gradient="gauss")
    assert len(made) == 1


def test_a_contracting_flow_is_no_harder_than_others():
    """Backwards it grows by e^60: what loses `Backsolve` is nothing to the adjoint alone."""
    p = torch.tensor(1.2, dtype=F64, requires_grad=True)

    def grad(gradient):
        def f(t, y):
            return 60 * (p * torch.cos(t) - y) - y**3

        y0 = torch.zeros(1, dtype=F64)
        y = solve(f, y0, [0.0, 1.0], gradient=gradient, max_steps=2000, **TIGHT).y
        return torch.autograd.grad(y[-1].sum(), p)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(grad("gauss"), grad("direct"), rtol=1e-7)


def test_a_stiff_problem_with_implicit_steps():
    """Van der Pol's equation, mu = 50: few implicit steps forward and backward."""
    mu = torch.tensor(50.0, dtype=F64, requires_grad=True)

    def run(gradient, **options):
        def f(t, y, mu):
            return torch.stack([y[1], mu * ((1 - y[0] ** 2) * y[1] - y[0])])

        y0 = torch.tensor([2.0, 0.0], dtype=F64)
        sol = solve(f, y0, [0.0, 0.6], args=(mu,), gradient=gradient, **options)
        return torch.autograd.grad(sol.y[-1, 0], mu)[0], sol.stats

    expected, _ = run("direct", rtol=1e-10, atol=1e-12)
    found, stats = run("gauss", method="kvaerno5", rtol=1e-7, atol=1e-9)
    assert torch.allclose(found, expected, rtol=1e-4)
    assert stats.backward.accepted < 60
    assert stats.backward.jacobians > 0


def test_its_own_tolerances_method_and_control():
    expected, tight = gradients("gauss", **TIGHT)
    rough, loose = gradients(Gauss(rtol=1e-3, atol=1e-3), **TIGHT)
    assert loose.backward.accepted < tight.backward.accepted
    assert 1e-9 < (rough[3] - expected[3]).abs().max() < 1e-2
    third, other = gradients(Gauss(method="bosh3"), **TIGHT)
    assert other.backward.accepted > tight.backward.accepted
    assert torch.allclose(third[3], expected[3], rtol=1e-6, atol=1e-8)
    fourth, fixed = gradients(Gauss(control=FixedStep(0.01)), **TIGHT)
    assert fixed.backward.accepted == 100
    assert torch.allclose(fourth[3], expected[3], rtol=1e-8, atol=1e-8)
    with pytest.raises(TooManySteps):
        gradients(Gauss(max_steps=1, first_step=1e-3), **TIGHT)


def test_fixed_steps_backward_leave_out_what_only_adaptive_ones_know():
    """First step, step and jump times of the forward solve."""
    options = {"first_step": 0.1, "step_t": [0.3], "jump_t": [0.6], **TIGHT}
    found, stats = gradients(Gauss(control=FixedStep(0.01)), **options)
    expected, _ = gradients("direct", **TIGHT)
    assert stats.backward.accepted == 100
    assert torch.allclose(found[3], expected[3], rtol=1e-8, atol=1e-9)


def test_observers_see_the_adjoint_go_back():
    seen = []

    class Witness(Observer):
        def accepted(self, t, y, h):
            seen.append((t, h, [leaf.shape for leaf in y]))

        def finished(self):
            ends.append(len(seen))

    ends = []
    _, stats = gradients(Gauss(observers=[Witness()]))
    assert len(seen) == stats.backward.accepted
    assert ends == [len(seen)]
    assert seen[0][0] == 1.0
    assert all(h < 0 and shapes == [Y0.shape] for _, h, shapes in seen)


def test_observers_hear_of_the_end_of_a_solve_that_fails():
    ends = []

    class Witness(Observer):
        def finished(self):
            ends.append(True)

    with pytest.raises(TooManySteps):
        gradients(Gauss(observers=(Witness(),), max_steps=1))
    assert ends == [True]


def test_a_parameter_used_only_for_a_part_of_the_time():
    early, late, never = (torch.tensor(-0.5, dtype=F64, requires_grad=True) for _ in range(3))

    def f(t, y):
        return early * y if t < 0.5 else late * y if t < 2 else never * y

    strategy = Gauss(params=(early, late, never))
    y0 = torch.ones(1, dtype=F64)
    y = solve(f, y0, [0.0, 1.0], jump_t=[0.5], gradient=strategy, **TIGHT).y
    y[-1].sum().backward()
    for p in (early, late):
        assert float(p.grad) == pytest.approx(0.5 * math.exp(-0.5), rel=1e-8)
    assert never.grad is None or float(never.grad) == 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_size_of_the_loss_does_not_matter(scale):
    y0 = torch.zeros(1, dtype=F64, requires_grad=True)
    sol = solve(lambda t, y: torch.cos(5 * t) * y, y0, [0.0, 3.0], gradient="gauss")
    (grad,) = torch.autograd.grad(scale * sol.y[-1].sum(), y0)
    assert float(grad) == pytest.approx(scale * math.exp(math.sin(15) / 5), rel=1e-3)


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_loss_that_overflowed_gives_nan_gradients(factor):
    net, y0 = Net(), Y0.clone().requires_grad_()
    y = solve(net, y0, [0.0, 1.0], gradient="gauss").y
    for grad in torch.autograd.grad(factor * y.sum(), [y0, net.outer.bias]):
        assert grad.isnan().all()


def test_autocast_is_the_same_forward_and_backward():
    net = nn.Linear(3, 3)
    seen = []

    def f(t, y):
        value = net(y)
        seen.append(value.dtype)
        return value

    with torch.autocast("cpu", torch.bfloat16):
        y = solve(f, Y0.float(), [0.0, 1.0], rtol=1e-2, atol=1e-2, gradient="gauss").y
    y.sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert net.weight.grad.dtype == torch.float32


def test_forward_mode_and_second_derivatives_are_refused():
    with pytest.raises(ValueError, match=r"Gauss.*gradient='direct' or 'checkpointed'"):
        torch.func.jvp(
            lambda y: solve(Net(), y, [0.0, 1.0], gradient="gauss").y,
            (Y0,),
            (torch.ones_like(Y0),),
        )
    y0 = Y0.clone().requires_grad_()
    y = solve(Net(), y0, [0.0, 1.0], gradient="gauss").y
    (grad,) = torch.autograd.grad(y[-1].sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match=r"Gauss has no second derivative.*'checkpointed'"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("strategy", "options", "error", "message"),
    [
        (Gauss(), {"method": "scipy_solver"}, ValueError, "use gradient='backsolve'"),
        (
            Gauss(method="dopri5"),
            {"method": "scipy_solver"},
            ValueError,
            "use gradient='backsolve'",
        ),
        (Gauss(method="scipy_solver"), {}, ValueError, "use gradient='backsolve'"),
        (Gauss(rtol="a"), {}, TypeError, "Gauss: rtol must be a number"),
        (Gauss(rtol=0.0, atol=0.0), {}, ValueError, "Gauss: rtol and atol are both zero"),
        (Gauss(max_steps=0), {}, ValueError, "Gauss: max_steps"),
        (Gauss(method="rk4"), {}, ValueError, "Gauss: method 'rk4' has no error estimate"),
        (Gauss(atol={"a": 1.0}), {}, ValueError, "Gauss: atol is"),
    ],
)
def test_bad_input_is_refused_before_anything_is_solved(strategy, options, error, message):
    def f(t, y):
        raise AssertionError("f was called")

    y0 = Y0.clone().requires_grad_()
    with pytest.raises(error, match=message):
        solve(f, y0, [0.0, 1.0], gradient=strategy, **options)


def test_a_dense_output_is_for_its_values():
    y0 = Y0.clone().requires_grad_()
    with pytest.raises(ValueError, match="solve with dense=True"):
        solve(Net(), y0, [0.0, 1.0], gradient="gauss")(0.5)
    with pytest.raises(ValueError, match="Gauss has no gradient for the dense output"):
        solve(Net(), y0, [0.0, 1.0], gradient="gauss", dense=True)
    with torch.no_grad():
        sol = solve(Net(), y0, [0.0, 1.0], gradient="gauss", dense=True)
        assert torch.allclose(sol(1.0), sol.y[-1])


def test_params_must_be_tensors():
    with pytest.raises(TypeError, match=r"Gauss: params must be.*params=\(x,\)"):
        Gauss(params=torch.ones(2))
