"""Solves inside the transforms of torch.func: vmap, jvp, grad and their compositions."""

import math

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from companion import FixedStep, odeint, solve
from companion.ode import FixedGrid, NonFiniteState
from companion.ode.read_back import all_finite, read_back

F64 = torch.float64
RATES = torch.tensor([0.5, 1.0, 3.0], dtype=F64)
STATES = torch.tensor([[1.0, -2.0], [0.3, 0.0], [4.0, 1.0]], dtype=F64)
TIMES = [0.0, 0.35, 1.0]
STEPS = FixedStep(0.1)


def forced(t, y, k):
    return -k * y + torch.sin(3 * t) * y.flip(-1)


def fixed(y, k, method="rk4"):
    # The tolerances are those of Newton's method.
    options = {"args": (k,), "control": STEPS, "rtol": 1e-10, "atol": 1e-10}
    return solve(forced, y, TIMES, method=method, **options).y


def adaptive(y, k, method="dopri5"):
    return solve(forced, y, TIMES, args=(k,), method=method, rtol=1e-9, atol=1e-9).y


def one_by_one(function, *batches):
    return torch.stack([function(*sample) for sample in zip(*batches, strict=True)])


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "dopri8", "explicit_adams"])
def test_vmap_over_fixed_steps_is_a_loop_over_the_samples(method):
    found = vmap(lambda y, k: fixed(y, k, method))(STATES, RATES)
    expected = one_by_one(lambda y, k: fixed(y, k, method), STATES, RATES)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("method", ["implicit_midpoint", "radauIIA5", "kvaerno3", "implicit_adams"])
def test_vmap_over_implicit_steps_iterates_until_the_worst_sample_has_converged(method):
    found = vmap(lambda y, k: fixed(y, k, method))(STATES, RATES)
    expected = one_by_one(lambda y, k: fixed(y, k, method), STATES, RATES)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dims", [(0, None), (None, 0)])
def test_vmap_over_the_state_or_an_argument_alone(dims):
    pairs = list(zip((STATES, RATES), dims, strict=True))
    batches = [b if d == 0 else b[0] for b, d in pairs]
    whole = [b if d == 0 else b[:1].expand_as(b) for b, d in pairs]
    found = vmap(fixed, dims)(*batches)
    torch.testing.assert_close(found, one_by_one(fixed, *whole), rtol=1e-14, atol=1e-14)


def test_vmap_over_a_grid_with_interpolated_outputs():
    control = FixedGrid(tuple(i / 8 for i in range(9)), interpolation="cubic")

    def run(y, k):
        return solve(forced, y, TIMES, args=(k,), method="heun3", control=control).y

    torch.testing.assert_close(vmap(run)(STATES, RATES), one_by_one(run, STATES, RATES))


def test_vmap_over_states_of_several_leaves():
    def run(y, k):
        start = {"position": y[:1], "velocity": y[1]}

        def f(t, s):
            return {"position": s["velocity"][None], "velocity": -k * s["position"][0]}

        return solve(f, start, [0.0, 1.0], method="rk4", control=STEPS).y["position"][-1]

    torch.testing.assert_close(vmap(run)(STATES, RATES), one_by_one(run, STATES, RATES))


@pytest.mark.parametrize("method", ["rk4", "tsit5", "kvaerno5", "gl4", "implicit_adams"])
def test_vmap_over_an_argument_that_a_leaf_feels_only_in_later_stages(method):
    """A throw: the speed depends on k at once, the height from the second stage on."""
    start = (torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64))
    control = None if method in ("tsit5", "kvaerno5") else STEPS

    def run(k):
        def f(t, y):
            return y[1], -k * torch.ones_like(y[1])

        return solve(f, start, TIMES, method=method, control=control, rtol=1e-9).y[0][:, 0]

    times = torch.tensor(TIMES, dtype=F64)
    expected = times - RATES[:, None] * times**2 / 2
    torch.testing.assert_close(vmap(run)(RATES), expected, rtol=1e-9, atol=1e-12)
    slopes = vmap(jacrev(run))(RATES)
    torch.testing.assert_close(slopes, (-(times**2) / 2).expand(3, 3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["dopri5", "kvaerno5"])
def test_adaptive_steps_under_vmap_are_small_enough_for_every_sample(method):
    """One batch shares its steps, and the worst sample decides on them."""
    calls = []

    def run(y, k):
        def f(t, y):
            calls.append(1)
            return forced(t, y, k)

        return solve(f, y, TIMES, method=method, rtol=1e-9, atol=1e-9).y

    found = vmap(run)(STATES, RATES)
    together = len(calls)
    expected = one_by_one(lambda y, k: adaptive(y, k, "dopri8"), STATES, RATES)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    calls.clear()
    run(STATES[2], RATES[2])
    assert together >= len(calls)


def test_vmap_in_vmap():
    grid = vmap(lambda y: vmap(lambda k: adaptive(y, k))(RATES))(STATES)
    expected = torch.stack([torch.stack([adaptive(y, k) for k in RATES]) for y in STATES])
    torch.testing.assert_close(grid, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("run", [fixed, adaptive])
def test_forward_mode_agrees_with_central_differences(run):
    y, k, eps = STATES[0], RATES[0], 1e-5
    along = (torch.tensor([0.3, -1.0], dtype=F64), torch.tensor(0.7, dtype=F64))
    _, pushed = jvp(run, (y, k), along)
    central = (
        run(y + eps * along[0], k + eps * along[1]) - run(y - eps * along[0], k - eps * along[1])
    ) / (2 * eps)
    torch.testing.assert_close(pushed, central, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [fixed, adaptive])
def test_jacobians_in_both_modes_agree_with_autograd(run):
    def end(y):
        return run(y, RATES[0])[-1]

    expected = torch.autograd.functional.jacobian(end, STATES[0])
    torch.testing.assert_close(jacfwd(end)(STATES[0]), expected)
    torch.testing.assert_close(jacrev(end)(STATES[0]), expected)


@pytest.mark.parametrize("run", [fixed, adaptive])
def test_gradients_per_sample(run):
    def loss(k, y):
        return run(y, k)[-1].square().sum()

    found = vmap(grad(loss))(RATES, STATES)
    expected = one_by_one(grad(loss), RATES, STATES)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [fixed, adaptive])
def test_forward_mode_per_sample(run):
    def pushed(y, k):
        return jvp(lambda k: run(y, k), (k,), (torch.ones_like(k),))[1]

    expected = one_by_one(pushed, STATES, RATES)
    torch.testing.assert_close(vmap(pushed)(STATES, RATES), expected, rtol=1e-6, atol=1e-6)


def test_the_hessian_of_a_decay():
    """y = exp(-k t): the second derivative by k at t = 1 is exp(-k)."""

    def end(k):
        return solve(
            lambda t, y: -k * y, torch.ones((), dtype=F64), [0.0, 1.0], rtol=1e-10, atol=1e-10
        ).y[-1]

    assert float(hessian(end)(RATES[1])) == pytest.approx(math.exp(-1), rel=1e-7)


def test_the_drop_in_under_vmap():
    t = torch.tensor([0.0, 1.0], dtype=F64)

    def run(y):
        return odeint(lambda t, y: -y, y, t, method="midpoint", options={"step_size": 0.1})

    torch.testing.assert_close(vmap(run)(STATES), run(STATES).movedim(1, 0))


def test_one_sample_that_explodes_is_an_error_under_vmap():
    y0 = torch.tensor([1.0, 1e200], dtype=F64)

    def run(y):
        return solve(lambda t, y: y * y, y, [0.0, 0.1, 0.5], method="euler", control=STEPS).y

    with pytest.raises(NonFiniteState, match=r"t\[1\]"):
        vmap(run)(y0)


def test_what_is_read_back_under_vmap_is_the_worst():
    seen = []

    def look(x):
        seen.append(read_back(x))
        seen.append(all_finite(x))
        return x

    vmap(vmap(look))(torch.tensor([[1.0, 5.0], [3.0, 2.0]]))
    vmap(look)(torch.tensor([1.0, math.nan]))
    assert seen[:2] == [5.0, True]
    assert math.isnan(seen[2])
    assert seen[3] is False
    assert read_back(torch.tensor(2.5, requires_grad=True)) == 2.5


def test_times_and_events_that_differ_from_sample_to_sample_are_an_error():
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    with pytest.raises(TypeError, match=r"t cannot be read back.*batched=True"):
        vmap(lambda t: solve(lambda t, y: -y, STATES[0], t).y)(times)
    with pytest.raises(TypeError, match="condition of an event cannot be read back"):
        vmap(lambda y: solve(lambda t, y: -y, y, [0.0, 9.0], event=lambda t, y: y[0] - 0.5).y)(
            STATES
        )


@pytest.mark.parametrize("method", ["gl4", "kvaerno3", "implicit_adams"])
def test_derivatives_of_implicit_steps_inside_and_outside_of_vmap(method):
    """Inside of vmap a tensor does not tell that a derivative is wanted outside of it."""

    def run(k):
        def f(t, y):
            return torch.stack([-k * y[0] + y[1] ** 2, -y[1]])

        return solve(
            f, STATES[0], [0.0, 1.0], method=method, control=STEPS, rtol=1e-10, atol=1e-10
        ).y[-1]

    rates = RATES.clone().requires_grad_()
    whole = vmap(run)(rates)
    outside = [
        torch.autograd.grad(whole[:, i].sum(), rates, retain_graph=True)[0] for i in range(2)
    ]
    expected = torch.stack([jacrev(run)(k) for k in RATES])
    for found in (
        vmap(jacrev(run))(RATES),
        vmap(jacfwd(run))(RATES),
        jvp(vmap(run), (RATES,), (torch.ones_like(RATES),))[1],
        torch.stack(outside, 1),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
