"""The reversible scheme: its order, its stability, and the exactness and cost of its gradient."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from benchmarks.live_bytes import LiveBytes
from companion import FixedStep, solve
from companion.adjoint.reversible import LostState, Reversible
from companion.ode import PID, FixedGrid, NonFiniteState, SciPy, Stats, tableaus
from companion.ode.method import SCHEMES, Method
from companion.ode.observe import Observer
from companion.ode.problem import pose
from companion.ode.reversible import LONGEST_WAIT, without_estimate
from tests.adjoint.test_backsolve import saved_bytes
from tests.adjoint.test_gradients import Net
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
TIMES = torch.tensor([0.0, 0.4, 1.0, 1.3], dtype=F64)


def marched(f, y0, t, *, gradient=None, **method):
    """The ends of the steps, and after how many the two states were made one."""
    strategy = gradient or Reversible()
    problem = pose(f, y0, t, (), Method(**method))
    with torch.no_grad():
        march = strategy.begin(problem, problem.times[0], problem.y0, Stats())
        for time in problem.times[1:]:
            march.to(time, time)
    return list(march.ends), [pair.steps for pair in march.pairs]


def increment(tableau, f, t, y, h):
    """The step of an explicit Runge-Kutta method, stage by stage from its matrix."""
    slopes = []
    for row, node in zip(tableau.matrix, tableau.nodes, strict=True):
        inner = sum((a * k for a, k in zip(row, slopes, strict=False) if a), torch.zeros_like(y))
        slopes.append(f(torch.as_tensor(t + node * h, dtype=F64), y + h * inner))
    return h * sum(float(b) * k for b, k in zip(tableau.b, slopes, strict=True))


def unrolled(f, y0, ends, tableau, coupling, merged=(), outputs=None):
    """The scheme written out for autograd: the states at the ends of the steps."""
    y = z = y0
    states = [y0]
    for n, (t0, t1) in enumerate(pairwise(ends), 1):
        y = coupling * y + (1 - coupling) * z + increment(tableau, f, t0, z, t1 - t0)
        z = z - increment(tableau, f, t1, y, t0 - t1)
        if n in merged:
            z = y
        states.append(y)
    return torch.stack([states[n] for n in outputs]) if outputs else states[-1]


def with_live_times(ends, t, *, divided):
    """The ends of the steps as functions of the output times, and where these are among them."""
    times = t.tolist()
    outputs = [ends.index(time) for time in times]
    live = list(ends)
    for i, (first, last) in enumerate(pairwise(outputs)):
        for n in range(first, last + 1):
            if n in (first, last):
                live[n] = t[i + (n == last)]
            elif divided:
                live[n] = t[i] + (t[i + 1] - t[i]) * ((n - first) / (last - first))
    return live, outputs


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forward", "back"])
@pytest.mark.parametrize("coupling", [0.999, 0.9])
@pytest.mark.parametrize(
    "method",
    [
        {"method": "rk4", "control": FixedStep(0.11)},
        {"method": "heun", "control": FixedGrid((0.0, 0.3, 0.35, 0.8, 1.25, 1.3))},
        {"method": "euler", "control": FixedStep(0.04)},
        {"method": "dopri5", "rtol": 1e-8, "atol": 1e-9},
        {"method": "bosh3", "rtol": 1e-4, "atol": 1e-5, "control": PID(pcoeff=0.3, icoeff=0.4)},
    ],
    ids=lambda m: m["method"],
)
def test_the_gradient_is_that_of_the_unrolled_scheme(method, coupling, times):
    """Of y0, a tensor in args, a parameter and every time, to rounding."""
    net = Net()
    if isinstance(method.get("control"), FixedGrid) and times[0] > times[-1]:
        method = {**method, "control": FixedGrid(method["control"].times[::-1])}
    weights = torch.linspace(-1, 2, 12, dtype=F64).reshape(4, 3)
    y0, t = Y0.clone().requires_grad_(), times.clone().requires_grad_()
    scale = torch.tensor(1.3, dtype=F64, requires_grad=True)
    inputs = [y0, t, scale, net.inner.weight, net.outer.bias]

    def f(t, y, scale):
        return scale * net(t, y)

    strategy = Reversible(coupling=coupling)
    sol = solve(f, y0, t, args=(scale,), gradient=strategy, **method)
    found = torch.autograd.grad((weights * sol.y.sin()).sum(), inputs)

    fixed = lambda t, y: f(t, y, scale)  # noqa: E731
    names = {"method": "scheme"}
    options = {names.get(k, k): v for k, v in method.items()}
    ends, merged = marched(fixed, Y0, times, gradient=strategy, **options)
    divided = isinstance(method.get("control"), FixedStep)
    live, outputs = with_live_times(ends, t, divided=divided)
    tableau = SCHEMES[method["method"]]
    y = unrolled(fixed, y0, live, tableau, coupling, merged, outputs)
    expected = torch.autograd.grad((weights * y.sin()).sum(), inputs)
    assert len(ends) > 5
    assert torch.allclose(sol.y, y, rtol=1e-13, atol=1e-14)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max(), i


def test_the_gradient_stays_exact_where_the_states_are_made_one():
    """A contracting flow, over which z is set to y many times."""
    net = Net()
    f = lambda t, y: net(t, y) - 8 * y  # noqa: E731
    times = torch.tensor([0.0, 1.0, 4.0], dtype=F64)
    control = FixedStep(0.02)
    ends, merged = marched(f, Y0, times, scheme="heun3", control=control)
    assert 5 <= len(merged) < 0.5 * len(ends)
    y0 = Y0.clone().requires_grad_()
    inputs = [y0, *net.inner.parameters(), *net.outer.parameters()]
    sol = solve(f, y0, times, method="heun3", control=control, gradient=Reversible())
    found = torch.autograd.grad(sol.y[1:].sin().sum(), inputs)
    outputs = [ends.index(time) for time in times.tolist()]
    y = unrolled(f, y0, ends, SCHEMES["heun3"], 0.999, merged, outputs)
    expected = torch.autograd.grad(y[1:].sin().sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        # Errors of rounding have grown by what the drift has, from one reset to the next.
        assert (a - b).abs().max() <= 1e-9 * b.abs().max()


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun3", 3), ("rk4", 4)])
def test_the_order_is_that_of_the_method(method, order):
    y0 = torch.tensor([0.3, 1.0], dtype=F64)
    exact = forced_reference([0.3, 1.0], [0.0, 2.0])[-1]
    errors = []
    for steps in (20, 40, 80):
        gradient = Reversible(drift=math.inf)
        sol = solve(
            forced, y0, [0.0, 2.0], method=method, control=FixedStep(2 / steps), gradient=gradient
        )
        errors.append(float((sol.y[-1] - exact).norm()))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates == pytest.approx([order, order], abs=0.25)


def test_adaptive_steps_are_those_of_the_method():
    y0 = torch.tensor([0.3, 1.0], dtype=F64)
    exact = forced_reference([0.3, 1.0], [0.0, 8.0])[-1]
    for rtol in (1e-4, 1e-7):
        options = {"rtol": rtol, "atol": rtol}
        sol = solve(forced, y0, [0.0, 8.0], gradient=Reversible(), **options)
        base = solve(forced, y0, [0.0, 8.0], gradient="direct", **options)
        assert abs(sol.stats.accepted - base.stats.accepted) <= 0.1 * base.stats.accepted
        assert (sol.y[-1] - exact).abs().max() <= 5 * (base.y[-1] - exact).abs().max()


@pytest.mark.parametrize("rate", [1.0, 4.0])
@pytest.mark.parametrize(
    "method",
    [{"method": "rk4", "control": FixedStep(0.05)}, {"method": "dopri5"}],
    ids=["fixed", "adaptive"],
)
def test_a_contracting_flow_does_not_destroy_the_solution(method, rate):
    """The plain scheme multiplies the drift by exp(rate * t)."""
    f = lambda t, y: torch.cos(t) - rate * y  # noqa: E731
    y0, end = torch.ones(1, dtype=F64), 20.0
    tolerances = {"rtol": 1e-6, "atol": 1e-6}
    base = solve(f, y0, [0.0, end], gradient="direct", **method, **tolerances).y[-1]
    sol = solve(f, y0, [0.0, end], gradient=Reversible(), **method, **tolerances)
    assert (sol.y[-1] - base).abs() < 3e-6

    options = {"scheme" if k == "method" else k: v for k, v in method.items()}
    ends, merged = marched(f, y0, [0.0, end], **options, **tolerances)
    plain = unrolled(f, y0, ends, SCHEMES[method["method"]], 0.999)
    assert merged
    assert (plain - base).abs() > 1e-2


def test_without_atol_a_component_at_zero_does_not_hide_the_drift():
    """Nothing is allowed there, nothing is apart, and the quotient of both is no number."""
    rate = torch.tensor(5.0, dtype=F64, requires_grad=True)
    f = lambda t, y: torch.stack([rate * (torch.cos(t) - y[0]), 0 * y[1]])  # noqa: E731
    options = {"method": "rk4", "control": FixedStep(0.02), "atol": 0.0}

    def run(gradient):
        y0 = torch.tensor([1.0, 0.0], dtype=F64)
        y = solve(f, y0, [0.0, 20.0], gradient=gradient, **options).y[-1]
        return y, *torch.autograd.grad(y[0], rate)

    torch.testing.assert_close(run(Reversible()), run("direct"), rtol=1e-4, atol=0.0)


def test_without_atol_a_state_at_zero_is_found_again():
    y0 = torch.zeros(2, dtype=F64, requires_grad=True)
    options = {"method": "rk4", "control": FixedStep(0.1), "atol": 0.0, "gradient": Reversible()}
    y = solve(lambda t, y: -y, y0, [0.0, 1.0], **options).y[-1]
    (grad,) = torch.autograd.grad(y.sum(), y0)
    torch.testing.assert_close(grad, torch.full_like(y0, math.exp(-1)), rtol=1e-5, atol=0.0)


def test_more_drift_saves_memory_and_none_is_the_plain_scheme():
    f = lambda t, y: torch.cos(t) - 2 * y  # noqa: E731
    y0, options = torch.ones(1, dtype=F64), {"scheme": "rk4", "control": FixedStep(0.05)}
    counts = [
        len(marched(f, y0, [0.0, 10.0], gradient=Reversible(drift=drift), **options)[1])
        for drift in (0.1, 1.0, 100.0, math.inf)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[3] == 0


def test_errors_of_rounding_do_not_grow_for_ever():
    """1000 steps with a coupling that doubles them every seven: only a pair now and then helps."""
    f = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    control, strategy = FixedStep(0.01), Reversible(coupling=0.9, drift=1e9)
    sol = solve(f, y0, [0.0, 10.0], method="rk4", control=control, gradient=strategy)
    (grad,) = torch.autograd.grad(sol.y[-1, 0], y0)
    assert grad.tolist() == pytest.approx([math.cos(10), math.sin(10)], abs=1e-8)
    _, merged = marched(f, y0, [0.0, 10.0], scheme="rk4", control=control, gradient=strategy)
    assert 0.9 ** -max(b - a for a, b in pairwise([0, *merged])) < 2.2e-16 ** (-1 / 3)


def test_memory_does_not_grow_with_the_steps():
    net = Net()

    def run(steps):
        control = FixedStep(1 / steps)
        return solve(net, Y0, [0.0, 1.0], method="rk4", control=control, gradient=Reversible())

    def backward(steps):
        run(steps).y[-1].sum().backward()
        net.zero_grad()

    def peak(steps):
        with LiveBytes() as count:
            backward(steps)
        return count.peak

    # Times are not tensors: one float a step.
    assert saved_bytes(lambda: run(10).y)[0] == saved_bytes(lambda: run(320).y)[0]
    backward(5)
    assert peak(80) <= peak(10)


def test_memory_grows_by_two_states_a_reset():
    f = lambda t, y: torch.cos(t) - 4 * y  # noqa: E731
    y0 = torch.ones(1000, dtype=F64, requires_grad=True)

    def bytes_and_resets(end):
        options = {"control": FixedStep(0.05)}
        run = lambda: solve(f, y0, [0.0, end], method="rk4", gradient=Reversible(), **options)  # noqa: E731
        merged = marched(f, y0.detach(), [0.0, end], scheme="rk4", **options)[1]
        return saved_bytes(lambda: run().y)[0], len([n for n in merged if n < round(end / 0.05)])

    (little, few), (much, many) = bytes_and_resets(2.0), bytes_and_resets(6.0)
    assert many > few > 0
    assert much - little == 2 * 8000 * (many - few)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "bosh3"])
def test_evaluations_of_f(method):
    """Two base steps a step, there and back; nothing is evaluated twice on the way back."""
    stages = {"rk4": 4, "dopri5": 6, "bosh3": 3}[method]
    y0 = Y0.clone().requires_grad_()
    control = None if SCHEMES[method].error else FixedStep(0.1)
    sol = solve(Net(), y0, [0.0, 0.6, 1.3], method=method, control=control, gradient=Reversible())
    sol.y.sum().backward()
    stats = sol.stats
    assert stats.backward.accepted == stats.accepted > 3
    assert stats.backward.evaluations == 2 * stages * stats.accepted
    if control is None:
        # One to find the parameters, two for the first step; the error estimate needs one more a
        # step, and a step that is tried again has its first stage already.
        tried = stats.accepted + stats.rejected
        assert stats.evaluations == 2 + tried * stages + stats.accepted * (stages + 1)
    else:
        assert stats.evaluations == 1 + 2 * stages * stats.accepted


def test_where_nothing_is_to_be_differentiated_nothing_is_evaluated_twice():
    calls = []
    f = lambda t, y: calls.append(float(t)) or -y  # noqa: E731
    options = {"method": "rk4", "control": FixedStep(0.5), "gradient": Reversible()}
    sol = solve(f, Y0, [0.0, 1.0], **options)
    assert len(calls) == sol.stats.evaluations == 2 * 2 * 4
    assert calls.count(0.0) == 2


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.0, 4.0])
def test_a_distance_that_grows_is_seen_in_time(monkeypatch, factor):
    """Not once it is twice too large, for the price of no look a step while it is small."""
    f = lambda t, y: -y  # noqa: E731
    problem = pose(f, Y0, [0.0, 1.0], (), Method("rk4", control=FixedStep(1e-3)))
    march, looks = Reversible().begin(problem, 0.0, [Y0], Stats()), []

    def distance(march):
        looks.append(1e-6 * factor**march._apart_for)
        return torch.tensor(looks[-1])

    monkeypatch.setattr(type(march), "_distance", distance)
    while not march.pairs:
        march.advance(1.0, 1.0)
    assert 1 < looks[-1] <= factor
    assert len(looks) <= 0.5 * march.pairs[0].steps + 4


def test_a_component_that_passes_zero_is_not_far_off():
    """A tolerance for its size at that moment would be much smaller than that of the steps."""
    f = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    y0 = torch.tensor([1.0, 0.5], dtype=F64)
    problem = pose(f, y0, [0.0, 40.0], (), Method("rk4", control=FixedStep(0.1)))
    march, distances = Reversible(drift=math.inf).begin(problem, 0.0, [y0], Stats()), []
    while march.t < 40.0:
        march.advance(40.0, 40.0)
        distances.append(float(march._distance()))
    assert 0.1 < max(distances) < 2


def test_fixed_steps_are_not_all_waited_for(monkeypatch):
    looks = []
    read_back = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda x: looks.append(1) or read_back(x))
    f = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    with torch.no_grad():
        solve(f, y0, [0.0, 4.0], method="rk4", control=FixedStep(0.01), gradient=Reversible())
    assert 400 / LONGEST_WAIT <= len(looks) <= 2 * 400 / LONGEST_WAIT


def test_trees_and_dtypes():
    y0 = {
        "x": torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True),
        "n": (torch.tensor(0.5 + 0.1j, dtype=torch.complex128, requires_grad=True),),
    }
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def f(t, y, k):
        return {"x": -k * y["x"] * y["n"][0].abs(), "n": (1j * torch.cos(t) * y["n"][0],)}

    def grads(gradient):
        options = {"rtol": 1e-9, "atol": 1e-10, "gradient": gradient}
        y = solve(f, y0, [0.0, 0.3, 1.0], args=(k,), **options).y
        loss = y["x"].sum() + y["n"][0].imag.pow(2).sum()
        return torch.autograd.grad(loss, (y0["x"], y0["n"][0], k))

    for a, b in zip(grads(Reversible()), grads("direct"), strict=True):
        assert torch.allclose(a, b, rtol=1e-7)


def test_single_precision():
    net = Net().float()
    y0 = Y0.float().requires_grad_()
    inputs = [y0, net.inner.weight]

    def grads(gradient):
        options = {"method": "rk4", "control": FixedStep(0.05), "gradient": gradient, "rtol": 1e-4}
        sol = solve(net, y0, [0.0, 1.0, 10.0], **options)
        return torch.autograd.grad(sol.y.pow(2).sum(), inputs)

    for a, b in zip(grads(Reversible()), grads("direct"), strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_jumps_of_f():
    """y' = -y cos t, times 3 after the jump: the time of the jump, and an output time at it."""
    strength = torch.tensor(3.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.5 + 0.5j], dtype=torch.complex128, requires_grad=True)
    times = torch.tensor([0.1, 0.5, 0.9, 2.0], dtype=F64, requires_grad=True)
    options = {"rtol": 1e-9, "atol": 1e-10}

    def f(t, y):
        return -torch.where(t < 0.5, 1.0, strength) * torch.cos(t) * y

    def exact(y0, t, tau, strength):
        early = t[:2].sin() - t[0].sin()
        late = tau.sin() - t[0].sin() + strength * (t[2:].sin() - tau.sin())
        return y0 * torch.exp(-torch.cat([early, late]))

    tau = torch.tensor([0.5], dtype=F64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, -1.0, 3.0], dtype=F64)
    inputs = (y0, times, tau, strength)
    sol = solve(f, y0, times, jump_t=tau, gradient=Reversible(), **options)
    found = torch.autograd.grad((weights * sol.y[:, 0]).imag.sum(), inputs)
    value = exact(y0, times, tau[0], strength)
    assert torch.allclose(sol.y[:, 0], value, rtol=1e-7)
    expected = torch.autograd.grad((weights * value).imag.sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-6)


def test_f_may_jump_at_the_first_and_the_last_time():
    """These times are the output times; a jump of f there is not on the way."""
    times = TIMES.clone().requires_grad_()
    f = lambda t, y: torch.where((t <= 0.0) | (t >= 1.3), 7.0, -torch.cos(t)) * y  # noqa: E731
    tau = torch.tensor([0.0, 1.3], dtype=F64, requires_grad=True)
    sol = solve(f, Y0, times, jump_t=tau, gradient=Reversible(), rtol=1e-9, atol=1e-10)
    found = torch.autograd.grad(sol.y[2:].sum(), (times, tau))
    exact = Y0 * torch.exp(times[0].sin() - times.sin())[:, None]
    (expected,) = torch.autograd.grad(exact[2:].sum(), times)
    assert torch.allclose(found[0], expected, rtol=1e-6)
    assert found[1].tolist() == [0.0, 0.0]


def test_f_that_changes_is_noticed():
    dropout = nn.Dropout(0.5)
    y0 = Y0.clone().requires_grad_()
    torch.manual_seed(0)
    f = lambda t, y: dropout(-y)  # noqa: E731
    sol = solve(f, y0, [0.0, 1.0], method="rk4", control=FixedStep(0.1), gradient=Reversible())
    with pytest.raises(LostState, match=r"dropout.*checkpointed"):
        sol.y[-1].sum().backward()


def test_a_slow_change_is_noticed():
    """Every output is found again from the next one, but the second state goes astray."""
    extra = [0.0]
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    times = torch.linspace(0, 1, 101, dtype=F64)
    options = {"method": "rk4", "control": FixedStep(), "gradient": Reversible()}
    sol = solve(lambda t, y: extra[0] - y, y0, times, **options)
    sol.y[-1].sum().backward(retain_graph=True)
    extra[0] = 1e-3
    with pytest.raises(LostState):
        sol.y[-1].sum().backward()


@pytest.mark.parametrize(
    ("change", "since", "outputs"), [(1.0, 1.5, 2), (3e-3, 1.94, 41)], ids=["pair", "output"]
)
def test_a_change_before_a_known_state_is_noticed(change, since, outputs):
    """A pair, or an output, from which the way back goes on as if nothing had happened."""
    extra = [0.0]
    f = lambda t, y: torch.cos(t) - 4 * y + extra[0] * (t > since)  # noqa: E731
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    options = {"method": "rk4", "control": FixedStep(0.05), "gradient": Reversible()}
    sol = solve(f, y0, torch.linspace(0, 2, outputs, dtype=F64), **options)
    extra[0] = change
    with pytest.raises(LostState):
        sol.y[-1].sum().backward()


def test_a_state_that_is_not_finite_is_an_error():
    options = {"method": "rk4", "control": FixedStep(0.1), "gradient": Reversible()}
    with pytest.raises(NonFiniteState, match=r"t\[1\]"):
        solve(lambda t, y: y**3, 10 * torch.ones(1, dtype=F64), [0.0, 1.0], **options)


def test_rounding_that_grew_too_large_is_noticed():
    """A strong contraction without resets: the way back is an expansion by exp(40)."""
    f = lambda t, y: torch.cos(t) - 10 * y  # noqa: E731
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    options = {"method": "rk4", "control": FixedStep(0.05)}
    plain = Reversible(drift=math.inf)
    sol = solve(f, y0, [0.0, 4.0], gradient=plain, **options)
    with pytest.raises(LostState, match=r"computed again differs .*drift smaller"):
        sol.y[-1].sum().backward()
    solve(f, y0, [0.0, 4.0], gradient=Reversible(), **options).y[-1].sum().backward()
    # A state that is known from the outputs is as good as one that was kept.
    times = torch.linspace(0, 4, 81, dtype=F64)
    solve(f, y0, times, gradient=plain, **options).y[-1].sum().backward()


def test_the_solution_does_not_depend_on_whether_a_gradient_is_wanted():
    net, observed = Net(), []

    class Counter(Observer):
        def accepted(self, t, y, h):
            observed.append(t)

        def finished(self):
            observed.append("end")

    y = solve(net, Y0, TIMES, gradient=Reversible()).y
    assert y.requires_grad
    with torch.no_grad():
        assert torch.equal(solve(net, Y0, TIMES, gradient=Reversible()).y, y)
    problem = pose(net, Y0, TIMES, (), Method("dopri5", observers=(Counter(),)))
    path = Reversible()(problem, stats := Stats())
    assert torch.equal(path.leaves[0], y)
    assert observed[-1] == "end"
    assert len(observed) == stats.accepted + 1


@pytest.mark.parametrize(
    ("tableau", "stages"), [(tableaus.DOPRI5, 6), (tableaus.BOSH3, 3), (tableaus.RK4, 4)]
)
def test_stages_that_the_increment_does_not_use_are_left_out(tableau, stages):
    short = without_estimate(tableau)
    assert short.stages == stages
    assert short.b == tableau.b[:stages]
    assert short.error is None


@pytest.mark.parametrize("coupling", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_coupling_lies_between_zero_and_one(coupling):
    with pytest.raises(ValueError, match="coupling must lie strictly between 0 and 1"):
        Reversible(coupling=coupling)


def test_bad_arguments():
    with pytest.raises(TypeError, match="coupling must be a number, got str"):
        Reversible(coupling="0.9")
    with pytest.raises(ValueError, match="drift must be positive, got 0"):
        Reversible(drift=0)
    with pytest.raises(ValueError, match="drift must be positive, got nan"):
        Reversible(drift=math.nan)
    with pytest.raises(TypeError, match="Reversible: params must be an iterable"):
        Reversible(params=torch.ones(1))


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "kvaerno3"},
        {"method": "gl4", "control": FixedStep(0.1)},
        {"method": "implicit_adams", "control": FixedStep(0.1)},
        {"method": SciPy("RK45")},
        {"event": lambda t, y: y[0]},
    ],
)
def test_what_it_cannot_serve_names_checkpointed(request_):
    with pytest.raises(ValueError, match=r"Reversible .*checkpointed"):
        solve(lambda t, y: -y, Y0, [0.0, 1.0], gradient=Reversible(), **request_)


def test_there_is_no_dense_output():
    with pytest.raises(ValueError, match=r"Reversible has no dense output.*direct"):
        solve(lambda t, y: -y, Y0, [0.0, 1.0], gradient=Reversible(), dense=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("control", [None, FixedStep(0.1)])
def test_on_a_gpu(control):
    def grads(device):
        net = Net().to(device)
        t = TIMES.to(device).requires_grad_()
        sol = solve(net, Y0.to(device), t, control=control, gradient=Reversible())
        return torch.autograd.grad(sol.y.pow(2).sum(), [t, net.inner.weight])

    for here, there in zip(grads("cpu"), tree_map(torch.Tensor.cpu, grads("cuda")), strict=True):
        assert torch.allclose(here, there, rtol=1e-8)
