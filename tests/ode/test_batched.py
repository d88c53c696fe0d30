"""Batches solved sample by sample: nothing in a batch changes what another sample gets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from companion import FixedStep, solve
from companion.ode import PID, NonFiniteState, Stats, StepSizeUnderflow, TooManySteps
from companion.ode.batched import (
    check_batched_method,
    check_batched_state,
    check_batched_times,
    integrate_batched,
)
from companion.ode.batched.control import BatchedPID
from companion.ode.control import PRESETS, START
from companion.ode.field import Field, time_dtype
from companion.ode.method import Method
from tests.ode.operations import Operations
from tests.ode.problems import F64, forced, forced_reference

METHODS = ["heun", "bosh3", "dopri5", "tsit5", "dopri8"]
SPEED = torch.tensor([0.1, 1.0, 2.0, 5.0, 3.0, 0.5, 8.0], dtype=F64)
Y0 = torch.tensor(
    [[1.5, -0.3], [-2.2, 0.6], [0.1, 0.4], [-1.1, 0.8], [0.7, 0.4], [-0.6, 0.2], [0.9, -1.2]],
    dtype=F64,
)


def solve_batch(f, y0, t, *, args=(), method="dopri5", **options):
    leaves, spec = tree_flatten(y0)
    plan = Method(method, **options).of_leaves(leaves, spec)
    check_batched_method(plan)
    _, times = check_batched_times(t, leaves)
    stats = Stats()
    field = Field(f, spec, args, time_dtype(leaves), stats)
    return tree_unflatten(integrate_batched(field, plan, leaves, times, stats), spec), stats


def van_der_pol(t, y, speed):
    """For one sample and for a batch: stiffer, and with more rejected steps, for larger speed."""
    x, v = y[..., 0], y[..., 1]
    return torch.stack((v, speed * (1 - x * x) * v - x + 0.1 * torch.sin(t)), -1)


def decay(t, y):
    return -y


@pytest.mark.parametrize("control", [None, "PI3040", "H312PID", PID(max_step=0.2)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_solved_as_if_it_were_alone(method, control):
    tolerance = 1e-3 if method == "heun" else 1e-5
    options = {"method": method, "control": control, "rtol": tolerance, "atol": tolerance}
    times = torch.linspace(0, 3, 8, dtype=F64)
    y, stats = solve_batch(van_der_pol, Y0, times, args=(SPEED,), **options)
    assert y.shape == (8, 7, 2)
    assert torch.equal(y[0], Y0)
    for i in range(7):
        alone = solve(van_der_pol, Y0[i], times, args=(SPEED[i],), **options)
        torch.testing.assert_close(y[:, i], alone.y, rtol=1e-8, atol=1e-8)
        assert int(stats.accepted[i]) == alone.stats.accepted
        assert int(stats.rejected[i]) == alone.stats.rejected
        only, _ = solve_batch(van_der_pol, Y0[i : i + 1], times, args=(SPEED[i],), **options)
        torch.testing.assert_close(y[:, i], only[:, 0], rtol=1e-9, atol=1e-9)
    assert stats.accepted.unique().numel() > 1
    if control is None and method not in ("heun", "bosh3"):
        assert stats.rejected.max() > 0


RATIOS = st.one_of(st.sampled_from([0.0, 1.0, math.inf, math.nan]), st.floats(0.0, 10.0))


@pytest.mark.parametrize("control", [*PRESETS.values(), PID(max_factor=1e3)], ids=str)
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(RATIOS, RATIOS, RATIOS), min_size=1, max_size=5))
def test_verdicts_are_those_of_one_sample(control, rounds):
    batched, histories = BatchedPID(control, order=4), [START] * 3
    for ratios in rounds:
        accepted, factors = batched.judge(torch.tensor(ratios, dtype=F64))
        for i, ratio in enumerate(ratios):
            one, factor, histories[i] = control.judge(ratio, 4, histories[i])
            assert bool(accepted[i]) == one
            assert float(factors[i]) == pytest.approx(factor, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.001, 2.999), max_size=40, unique=True),
    st.sampled_from(["dopri5", "bosh3", "heun"]),
    st.sampled_from([1.0, -1.0]),
)
def test_output_times_do_not_change_the_steps(inner, method, direction):
    """Many outputs inside of one step, and none in another."""
    tolerance = {"rtol": 1e-3, "atol": 1e-3, "method": method}
    times = [0.0, *(direction * t for t in sorted(inner)), 3 * direction]
    y, stats = solve_batch(forced, Y0, times, **tolerance)
    plain, same = solve_batch(forced, Y0, [0.0, 3 * direction], **tolerance)
    assert torch.equal(y[-1], plain[-1])
    assert torch.equal(stats.accepted, same.accepted)
    reference = forced_reference(Y0[1].numpy(), times)
    assert (y[:, 1] - reference).abs().max() < 0.05


def test_every_sample_has_its_own_times_and_direction():
    times = torch.tensor([[0, 0.3, 1.2, 2.5], [1, 0.8, 0.5, 0.2], [-1, 2.0, 2.1, 2.2]], dtype=F64)
    options = {"rtol": 1e-7, "atol": 1e-7}
    y, stats = solve_batch(van_der_pol, Y0[:3], times, args=(SPEED[:3],), **options)
    for i in range(3):
        alone = solve(van_der_pol, Y0[i], times[i], args=(SPEED[i],), **options)
        torch.testing.assert_close(y[:, i], alone.y, rtol=1e-9, atol=1e-9)
        assert int(stats.accepted[i]) == alone.stats.accepted


def test_a_thousand_outputs_over_many_blocks_of_steps():
    times = torch.linspace(0, 40, 1000, dtype=F64)
    y, stats = solve_batch(lambda t, y: torch.cos(t)[:, None] * y, Y0, times, method="bosh3")
    assert stats.accepted.min() > 100
    exact = Y0 * torch.exp(torch.sin(times))[:, None, None]
    torch.testing.assert_close(y, exact, rtol=1e-3, atol=1e-4)


def test_the_state_may_be_a_tree_with_several_dtypes():
    y0 = {"a": Y0.float(), "b": (torch.ones(7, dtype=torch.complex128), Y0[:, None, :, None])}

    def f(t, y):
        assert t.shape == (7,)
        assert t.dtype == F64
        a, (b, c) = y["a"], y["b"]
        return {"a": -a, "b": (1j * b, torch.cos(t)[:, None, None, None] * c)}

    times = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    y, _ = solve_batch(f, y0, times, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(y["a"][1], y0["a"] / math.e, rtol=1e-5, atol=1e-5)
    assert y["a"].dtype == torch.float32
    rotation = torch.exp(1j * times)[:, None].expand(3, 7)
    torch.testing.assert_close(y["b"][0], rotation, rtol=1e-5, atol=1e-5)
    growth = torch.exp(torch.sin(times)).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(y["b"][1], y0["b"][1] * growth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_time_comes_in_the_dtype_of_the_state(dtype):
    def f(t, y):
        assert t.dtype == y.dtype == dtype
        return -y

    y, _ = solve_batch(f, torch.ones(3, 2, dtype=dtype), [0.0, 0.5, 1.0], rtol=1e-2, atol=1e-2)
    assert y.dtype == dtype
    expected = torch.tensor([1.0, math.exp(-0.5), math.exp(-1)]).view(3, 1, 1).expand(3, 3, 2)
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)


def test_tolerances_of_single_entries():
    tight = torch.full((7, 1), 1e-3, dtype=F64)
    tight[2] = 1e-9
    loose, few = solve_batch(forced, Y0, [0.0, 3.0], rtol=1e-3, atol=1e-3)
    y, stats = solve_batch(forced, Y0, [0.0, 3.0], rtol=tight, atol=tight)
    others = torch.arange(7) != 2
    assert torch.equal(stats.accepted[others], few.accepted[others])
    assert torch.equal(y[:, others], loose[:, others])
    assert stats.accepted[2] > 2 * few.accepted[2]


def gradients(y, inputs, weights):
    return torch.autograd.grad((y * weights).sum(), inputs)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_samples_alone(method):
    tolerance = {"method": method, "rtol": 1e-4, "atol": 1e-4}
    y0, speed = Y0.clone().requires_grad_(), SPEED.clone().requires_grad_()
    times = torch.linspace(0, 1.3, 6, dtype=F64)
    y, stats = solve_batch(van_der_pol, y0, times, args=(speed,), **tolerance)
    with torch.no_grad():
        plain, without = solve_batch(van_der_pol, y0, times, args=(speed,), **tolerance)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    assert torch.equal(stats.accepted, without.accepted)
    weights = torch.linspace(-1, 1, y.numel(), dtype=F64).view(y.shape)
    by_state, by_speed = gradients(y, (y0, speed), weights)
    for i in range(7):
        alone = solve(van_der_pol, y0[i], times, args=(speed[i],), **tolerance)
        state, argument = gradients(alone.y, (y0, speed), weights[:, i])
        torch.testing.assert_close(by_state[i], state[i], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(by_speed[i], argument[i], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "heun"])
def test_gradients_with_respect_to_everything_against_finite_differences(method):
    """With one step an interval the steps do not depend on what is varied."""
    times = torch.tensor([[0, 0.1, 0.15, 0.3], [1, 0.9, 0.8, 0.7]], dtype=F64)
    network = torch.nn.Linear(2, 2, dtype=F64)

    def end(y0, speed, times, weight):
        def f(t, y, speed):
            return van_der_pol(t, y, speed) + torch.nn.functional.linear(y, weight)

        y, stats = solve_batch(
            f, y0, times, args=(speed,), method=method, rtol=1.0, atol=1.0, first_step=1.0
        )
        assert stats.accepted.tolist() == [1, 1]
        return y

    inputs = (Y0[:2], SPEED[:2], times, network.weight)
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(end, inputs, check_forward_ad=True)
    if method == "heun":
        assert torch.autograd.gradgradcheck(end, inputs)


def test_gradients_with_respect_to_common_times_are_the_rates():
    times = torch.linspace(0, 2, 5, dtype=F64, requires_grad=True)
    y, stats = solve_batch(van_der_pol, Y0, times, args=(SPEED,), rtol=1e-8, atol=1e-8)
    assert stats.accepted.min() > 5
    for k in range(1, 5):
        (by_time,) = torch.autograd.grad(y[k, 3, 0], times, retain_graph=True)
        rate = van_der_pol(times[k], y[k, 3], SPEED[3])[0]
        assert float(by_time[k].detach()) == pytest.approx(float(rate.detach()), rel=1e-5)
        assert by_time[0] != 0


def test_parameters_are_found_wherever_f_holds_them():
    network = torch.nn.Linear(2, 2, dtype=F64)
    y, _ = solve_batch(lambda t, y: torch.tanh(network(y)), Y0, [0.0, 1.0, 2.0])
    loss = sum(
        solve(lambda t, y: torch.tanh(network(y)), sample, [0.0, 1.0, 2.0]).y.sum() for sample in Y0
    )
    found = torch.autograd.grad(y.sum(), tuple(network.parameters()))
    expected = torch.autograd.grad(loss, tuple(network.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_parameters_that_matter_only_later_are_found():
    weight = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def f(t, y):
        return weight * y if t.max() > 0.8 else -y

    y, _ = solve_batch(f, Y0, [0.0, 0.5, 1.0], control=PID(max_step=0.1))
    assert torch.autograd.grad(y[-1].sum(), weight)[0].abs() > 0.01


def test_steps_are_chosen_without_a_graph():
    recording = []

    def f(t, y):
        recording.append(torch.is_grad_enabled())
        return -y

    _, stats = solve_batch(f, Y0.clone().requires_grad_(), [0.0, 1.0])
    repeated = 6 * int(stats.accepted.max())
    assert recording == [False] * (stats.evaluations - repeated) + [True] * repeated


def test_without_a_wish_for_gradients_nothing_is_repeated():
    with torch.no_grad():
        _, stats = solve_batch(decay, Y0.clone().requires_grad_(), [0.0, 1.0])
    plain, same = solve_batch(decay, Y0, [0.0, 1.0])
    assert not plain.requires_grad
    trials = int((stats.accepted + stats.rejected).max())
    assert stats.evaluations == same.evaluations == 6 * trials + 2
    _, more = solve_batch(decay, Y0.clone().requires_grad_(), [0.0, 1.0])
    assert more.evaluations == stats.evaluations + 6 * int(more.accepted.max())


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.2, 0.7, 1.0]])
def test_a_nan_of_one_sample_stays_its_own(times):
    """Trial steps leave the domain of the square root; arrived samples sit where its slope is
    infinite: neither reaches a value or a gradient of the others."""
    weight = torch.ones((), dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [1.0], [1.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor([1.99, 0.5, 0.0], dtype=F64)

    def f(t, y):
        # The first sample is (1 - 1.99 t / 2)^2: next to the end of the square root's domain.
        return -weight * rate[:, None] * torch.sqrt(y)

    options = {"first_step": 1.0, "rtol": 1e-8, "atol": 1e-10, "method": "bosh3"}
    y, stats = solve_batch(f, y0, times, **options)
    assert stats.rejected[0] > 0
    by_state, by_weight = torch.autograd.grad(y[-1].sum(), (y0, weight))
    # y = (sqrt(y0) - w r t / 2)^2
    root = 1 - rate / 2
    torch.testing.assert_close(y[-1, :, 0], root**2, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(by_state[:, 0], root, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(by_weight, -(root * rate).sum(), rtol=1e-3, atol=1e-3)


def test_an_arrived_sample_with_an_infinite_slope_does_not_spoil_gradients():
    """f is sqrt(w (1 - t)) y: where the first sample ends, its derivative is infinity times zero.

    Without its last stage no stage of bosh3 is at the end of a step.
    """
    times = torch.tensor([[0.0, 1.0], [-9.0, 0.5]], dtype=F64)
    weight = torch.ones((), dtype=F64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)

    def f(t, y):
        return torch.sqrt(weight * (1 - t))[:, None] * y

    y, stats = solve_batch(f, y0, times, method="bosh3", rtol=1e-5, atol=1e-5)
    assert stats.accepted[1] > stats.accepted[0]
    found = torch.autograd.grad(torch.log(y[-1]).sum(), (weight, y0))
    begin, end = 1 - times[:, 0], 1 - times[:, 1]
    exponent = 2 / 3 * (begin**1.5 - end**1.5)
    torch.testing.assert_close(torch.log(y[-1, :, 0]), exponent, rtol=1e-3, atol=1e-3)
    expected = (exponent.sum() / 2, torch.ones(2, 1, dtype=F64))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("inner", [[], [0.5]])
def test_what_is_differentiated_sees_no_arrived_sample(inner):
    times = torch.tensor([[0.0, *inner, 1.0], [0.0, *inner, 30.0]], dtype=F64)
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
    seen = []

    def f(t, y):
        if y.requires_grad:
            seen.append((float(t[0]), float(y.detach()[0])))
        return -y

    solve_batch(f, y0, times, method="bosh3")
    assert len(seen) > 100
    assert all(t < 1 for t, _ in seen)
    # At the initial time, before and after its own steps, the sample has its initial state.
    assert {y for t, y in seen if t == 0} == {1.0}
    assert sum(t == 0 for t, _ in seen) > 50


def test_forward_mode_agrees_with_reverse_mode():
    times = torch.linspace(0, 1, 4, dtype=F64)

    def end(y0, speed):
        return solve_batch(van_der_pol, y0, times, args=(speed,), rtol=1e-5, atol=1e-5)[0]

    tangents = (torch.ones_like(Y0), torch.linspace(0, 1, 7, dtype=F64))
    _, pushed = torch.func.jvp(end, (Y0, SPEED), tangents)
    inputs = (Y0.clone().requires_grad_(), SPEED.clone().requires_grad_())
    pulled = torch.autograd.grad(end(*inputs)[-1, :, 0].sum(), inputs)
    expected = sum((a * b).sum() for a, b in zip(pulled, tangents, strict=True))
    torch.testing.assert_close(pushed[-1, :, 0].sum(), expected, rtol=1e-9, atol=1e-9)


def test_function_transforms():
    """`torch.func`: gradients, and derivatives of gradients, as autograd has them."""

    def total(y0, speed):
        return solve_batch(van_der_pol, y0, [0.0, 0.2, 0.5], args=(speed,), rtol=1e-4)[0].sum()

    inputs = (Y0[:2].clone().requires_grad_(), SPEED[:2].clone().requires_grad_())
    expected = torch.autograd.grad(total(*inputs), inputs, create_graph=True)
    found = torch.func.grad(total, argnums=(0, 1))(Y0[:2], SPEED[:2])
    torch.testing.assert_close(found, tuple(g.detach() for g in expected))
    (second,) = torch.autograd.grad(expected[0].sum(), inputs[0])
    hessian = torch.func.hessian(total)(Y0[:2], SPEED[:2])
    torch.testing.assert_close(hessian.sum((0, 1)), second)


def test_one_time_and_no_samples():
    y, stats = solve_batch(decay, Y0, [3.0])
    assert torch.equal(y, Y0[None])
    assert stats.evaluations == 0
    assert stats.accepted.tolist() == [0] * 7
    y, stats = solve_batch(decay, Y0[:0], [0.0, 1.0])
    assert y.shape == (2, 0, 2)
    assert stats.rejected.shape == (0,)
    y, _ = solve_batch(decay, Y0[:, :0], [0.0, 0.5, 1.0])
    assert y.shape == (3, 7, 0)


class ReadBacks(TorchFunctionMode):
    """Counts what makes the host wait for the device, but for copies."""

    NAMES = ("tolist", "item", "nonzero", "__bool__", "__float__", "__int__", "__index__")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in self.NAMES
        return func(*args, **(kwargs or {}))


def cost_of_a_trial(mode, measure, **options):
    """What one more trial costs, in solves of one block of steps."""

    def cost(rtol):
        with torch.no_grad(), mode() as counter:
            _, stats = solve_batch(
                lambda t, y: y, Y0.float(), rtol=rtol, atol=1e-8, first_step=1e-3, **options
            )
        return measure(counter), int((stats.accepted + stats.rejected).max())

    few, before = cost(1e-3)
    many, after = cost(1e-6)
    assert before < after < 64
    return (many - few) / (after - before)


def test_a_step_costs_few_operations():
    """Per trial of dopri5, f excluded: six stages, their times, the error and the control."""
    count = cost_of_a_trial(Operations, lambda c: sum(c.counts.values()), t=[0.0, 1.0])
    assert count <= 48


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_a_step_reads_back_once(method):
    times = torch.linspace(0, 1, 20, dtype=F64)
    assert cost_of_a_trial(ReadBacks, lambda c: c.count, t=times, method=method) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "rk4", "control": FixedStep(0.1)}, ValueError, "error estimate, .* 'rk4'"),
        ({"method": "kvaerno3"}, ValueError, "explicit Runge-Kutta"),
        ({"control": FixedStep(0.1)}, ValueError, "got FixedStep"),
        ({"control": PID(min_step=0.1)}, ValueError, r"PID\(min_step\)"),
        ({"step_t": (0.5,)}, ValueError, "step_t"),
        ({"jump_t": (0.5,)}, ValueError, "jump_t"),
        ({"norm": lambda leaves: leaves[0].abs().max()}, ValueError, "norm"),
        ({"y0": torch.ones(())}, ValueError, "batch as their first axis"),
        ({"y0": (torch.ones(2), torch.ones(3))}, ValueError, r"\(2,\), \(3,\)"),
        ({"t": "soon"}, TypeError, "t must be a tensor"),
        ({"t": [0.0, 1.0, 1.0]}, ValueError, "strictly"),
        ({"t": torch.ones(3, 2)}, ValueError, r"shape \(3, 2\) does not fit a batch of 7"),
        ({"t": torch.ones(7, 0)}, ValueError, "T >= 1"),
        ({"t": torch.ones(7, 2, dtype=torch.bool)}, TypeError, "real numbers"),
        ({"t": [[0.0, math.nan]] * 7}, ValueError, r"t\[0, 1\] is nan"),
        ({"t": [[0.0, 1.0]] * 6 + [[0.0, 0.0]]}, ValueError, r"t\[6, 0\] = 0.0 and t\[6, 1\]"),
        ({"t": [[0.0, 1.0, 2.0]] * 6 + [[0.0, 2.0, 1.0]]}, ValueError, r"t\[6, 1\] = 2.0"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        solve_batch(**{"f": decay, "y0": Y0, "t": [0.0, 1.0], **change})


def test_the_batch_is_the_first_axis():
    assert check_batched_state([torch.ones(4), torch.ones(4, 2)]) == 4


def test_a_sample_that_blows_up_is_named():
    """y' = y^2 with y0 = 1 reaches infinity at t = 1; the others do not."""
    y0 = torch.full((6, 1), 0.1, dtype=F64)
    y0[4] = 1.0
    with pytest.raises(StepSizeUnderflow, match=r"^sample 4: the step size") as caught:
        solve_batch(lambda t, y: y**2, y0, [0.0, 2.0])
    assert caught.value.t == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(StepSizeUnderflow) as caught:
        solve_batch(lambda t, y: -(y**2), y0, [0.0, -2.0])
    assert caught.value.t == pytest.approx(-1.0, abs=1e-3)
    assert caught.value.h < 0


def test_samples_with_nan_are_named():
    def f(t, y):
        """Undefined beyond 0.5 for the first five samples."""
        return torch.where(torch.arange(7) < 5, torch.sqrt(0.5 - t), 1.0)[:, None] * y

    with pytest.raises(NonFiniteState, match=r"^samples 0, 1, 2 and 2 more: f or") as caught:
        solve_batch(f, torch.ones(7, 2, dtype=F64), [0.0, 1.0])
    assert caught.value.t == pytest.approx(0.5, abs=1e-6)
    start = Y0.clone()
    start[3] = math.nan
    with pytest.raises(NonFiniteState, match=r"^sample 3: the initial state"):
        solve_batch(decay, start, [0.0, 1.0])


def test_an_overflow_that_no_error_estimate_sees():
    """Divided by an infinite state every error is zero."""
    y0 = torch.tensor([[0.0], [3e38]])
    with pytest.raises(NonFiniteState, match=r"^sample 1: .* at output 2") as caught:
        solve_batch(lambda t, y: y0 * (2 / 3), y0, [0.0, 0.1, 1.0])
    assert caught.value.t == 1.0


def test_samples_that_need_too_many_steps_are_named():
    stiffness = torch.tensor([1.0, 1e5, 1.0, 1e5], dtype=F64)[:, None]
    with pytest.raises(TooManySteps, match=r"^samples 1, 3: max_steps = 50") as caught:
        solve_batch(
            lambda t, y: -stiffness * (y - torch.cos(t)[:, None]), Y0[:4], [0.0, 10.0], max_steps=50
        )
    assert caught.value.steps == 50
    assert 0 < caught.value.t < 10
    needed = solve_batch(decay, Y0, [0.0, 1.0])[1].accepted.max()
    solve_batch(decay, Y0, [0.0, 1.0], max_steps=int(needed))


def test_tolerances_that_allow_no_error_are_to_blame():
    y0 = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=F64)
    with pytest.raises(ValueError, match=r"sample 1: .* make atol larger"):
        solve_batch(decay, y0, [0.0, 1.0], atol=0.0)


def test_outputs_at_the_ends_of_steps_and_of_blocks_of_steps():
    """y = t, in steps of exactly 1/4."""
    times = torch.arange(0, 20.25, 0.25, dtype=F64)
    control = PID(max_step=0.25)
    for method in ("dopri5", "heun"):
        y, stats = solve_batch(
            lambda t, y: torch.ones_like(y),
            0 * Y0,
            times,
            first_step=0.25,
            control=control,
            method=method,
        )
        assert stats.accepted.tolist() == [80] * 7
        torch.testing.assert_close(y, times.view(-1, 1, 1).expand(81, 7, 2))


@pytest.mark.parametrize(
    ("end", "options"),
    [
        (1e6, {}),
        (1e6, {"control": PID(max_factor=1e4), "first_step": 1e-3}),
        (1.005, {"control": PID(max_step=1.0), "first_step": 1.0}),
        (1.005, {"first_step": 1.0}),
    ],
)
def test_a_constant_solution_takes_the_steps_of_one_alone(end, options):
    _, stats = solve_batch(lambda t, y: 0 * y, Y0, [0.0, end], **options)
    alone = solve(lambda t, y: 0 * y, Y0[0], [0.0, end], **options).stats
    assert stats.accepted.tolist() == [alone.accepted] * 7


def test_a_first_step_below_the_resolution_of_time_is_not_an_underflow():
    y, _ = solve_batch(lambda t, y: torch.ones_like(y), 0 * Y0, [1e12, 1e12 + 10])
    torch.testing.assert_close(y[-1], torch.full_like(Y0, 10.0))


def test_the_resolution_of_time_becomes_finer_on_the_way():
    """y = 1 / t^2: the steps shrink with |t|, below what could be told apart at t0."""
    times = [-1e6, -1e-10]
    y0 = torch.full((2, 1), 1e-12, dtype=F64)
    y, _ = solve_batch(
        lambda t, y: -2 / t[:, None] * y, y0, times, method="dopri8", rtol=1e-3, atol=0.0
    )
    torch.testing.assert_close(y[-1], torch.full_like(y0, 1e20), rtol=0.5, atol=0.0)


@pytest.mark.parametrize(("t0", "length"), [(1e9, 1.0), (0.0, 1e-9), (-5.0, 1e7)])
def test_any_scale_of_time(t0, length):
    times = [t0, t0 + length]
    y, _ = solve_batch(lambda t, y: -y / length, Y0, times, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(y[-1], Y0 / math.e, rtol=1e-6, atol=1e-8)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_everything_follows_the_device_of_the_state():
    times = torch.linspace(0, 2, 9)
    y0, speed = (x.cuda().requires_grad_() for x in (Y0, SPEED))
    y, stats = solve_batch(van_der_pol, y0, times, args=(speed,))
    assert y.device.type == stats.accepted.device.type == "cuda"
    expected, _ = solve_batch(van_der_pol, Y0, times, args=(SPEED,))
    torch.testing.assert_close(y.detach().cpu(), expected, rtol=1e-8, atol=1e-8)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (y0, speed)))
