"""What a solve returns: status, statistics, and the solution at any time."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from companion import Backsolve, FixedStep, solve
from companion.ode import FixedGrid, TooManySteps
from companion.ode.method import SCHEMES
from companion.ode.scipy_solver import SciPy
from companion.ode.tableau import Tableau
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)


def controls(name):
    """Known steps, for every scheme that takes them, and chosen ones."""
    scheme = SCHEMES[name]
    if isinstance(scheme, SciPy):
        return [None]
    known = [FixedStep(0.1), FixedGrid(tuple(0.1 * i for i in range(21)))]
    return [*known, None] if isinstance(scheme, Tableau) and scheme.error is not None else known


EVERY = [
    pytest.param(name, control, id=f"{name}-{type(control).__name__}")
    for name in SCHEMES
    for control in controls(name)
]


class Counted:
    """A field that counts its calls."""

    def __init__(self, f=forced):
        self.f, self.calls = f, 0

    def __call__(self, t, y, *args):
        self.calls += 1
        return self.f(t, y, *args)


# Statistics and status


@pytest.mark.parametrize(("name", "control"), EVERY)
def test_every_evaluation_is_counted(name, control):
    f = Counted()
    times = [0.0, 0.7, 2.0]
    sol = solve(f, Y0, times, method=name, control=control, rtol=1e-4, atol=1e-4)
    assert sol.stats.evaluations == f.calls > 0
    assert sol.status == "finished"
    assert sol.event is None
    assert sol.stats.backward is None
    if isinstance(control, FixedStep):
        assert (sol.stats.accepted, sol.stats.rejected) == (7 + 13, 0)
    elif isinstance(control, FixedGrid):
        assert (sol.stats.accepted, sol.stats.rejected) == (20, 0)
    scheme = SCHEMES[name]
    is_implicit = isinstance(scheme, Tableau) and not scheme.explicit
    assert (sol.stats.jacobians > 0) == (sol.stats.factorisations > 0) == is_implicit


@pytest.mark.parametrize("name", ["dopri5", "rk4", "kvaerno3", "gl4", "explicit_adams"])
def test_evaluations_for_events_and_for_the_dense_output_count_too(name):
    control = None if name in ("dopri5", "kvaerno3") else FixedStep(0.1)
    f = Counted()
    y0 = Y0.clone().requires_grad_()
    sol = solve(
        f,
        y0,
        [0.0, 9.0],
        method=name,
        control=control,
        rtol=1e-5,
        atol=1e-5,
        event=lambda t, y: y[0],
        dense=True,
    )
    assert sol.status == "event"
    before = f.calls
    sol(torch.linspace(0, float(sol.t[-1].detach()), 5, dtype=F64))
    assert sol.stats.evaluations == f.calls == before


@pytest.mark.parametrize("event", [None, lambda t, y: y[0]])
def test_evaluations_of_the_backward_solve_are_counted_apart(event):
    f = Counted()
    y0 = Y0.clone().requires_grad_()
    sol = solve(f, y0, [0.0, 2.0], gradient="backsolve", event=event)
    assert sol.stats.evaluations == f.calls
    sol.y[-1].sum().backward()
    assert sol.stats.evaluations + sol.stats.backward.evaluations == f.calls
    assert sol.stats.backward.accepted > 0


@pytest.mark.parametrize("name", ["dopri5", "kvaerno3", "rk4", "trapezoid", "implicit_adams"])
def test_max_steps_is_enough_or_it_is_not(name):
    """The number of steps that a solve takes is enough for it, and one less is not."""
    options = {"method": name, "rtol": 1e-6, "atol": 1e-6}
    options["control"] = None if name in ("dopri5", "kvaerno3") else FixedStep(0.1)
    if name == "dopri5":
        options["first_step"] = 2.0
    plain = solve(forced, Y0, [0.0, 1.0, 2.0], **options)
    steps = plain.stats.accepted + plain.stats.rejected
    assert (plain.stats.rejected > 0) == (options["control"] is None)
    exact = solve(forced, Y0, [0.0, 1.0, 2.0], max_steps=steps, **options)
    assert torch.equal(exact.y, plain.y)
    with pytest.raises(TooManySteps, match=f"max_steps = {steps - 1}") as error:
        solve(forced, Y0, [0.0, 1.0, 2.0], max_steps=steps - 1, **options)
    assert error.value.steps == steps - 1
    assert 0 < error.value.t < 2


@pytest.mark.parametrize(
    ("event", "status"), [(lambda t, y: y[0], "event"), (lambda t, y: y[0] + 9, "finished")]
)
def test_status(event, status):
    sol = solve(forced, Y0, [0.0, 1.0, 3.0], event=event)
    assert sol.status == status
    assert (sol.event is None) == (status == "finished")
    assert (float(sol.t[-1]) == 3.0) == (status == "finished")


# The solution at any time

DENSE = ["rk4", "bosh3", "dopri5", "tsit5", "dopri8", "vern7", "kvaerno5", "gl6"]


def dense_solution(name="dopri5", end=2.0, **options):
    control = FixedStep(0.1) if SCHEMES[name].error is None else None
    options = {"rtol": 1e-8, "atol": 1e-10, **options}
    return solve(forced, Y0, [0.0, end], method=name, control=control, dense=True, **options)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("sense", [1, -1])
def test_the_dense_solution_against_scipy(name, sense):
    sol = dense_solution(name, sense * 2.0)
    times = [sense * 0.0625 * i for i in range(33)]
    error = (sol(torch.tensor(times, dtype=F64)) - forced_reference(Y0.numpy(), times)).abs().max()
    assert error < 3e-6
    assert torch.equal(sol(0.0), Y0)
    assert torch.allclose(sol(sense * 2.0), sol.y[-1], rtol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([1, -1]),
    st.randoms(use_true_random=False),
)
def test_times_of_any_shape_in_any_order(shape, sense, random):
    sol = dense_solution(end=sense * 2.0)
    t = torch.tensor(
        [sense * random.uniform(0, 2) for _ in range(math.prod(shape))], dtype=F64
    ).reshape(shape)
    y = sol(t)
    assert y.shape == (*shape, 2)
    one_by_one = [sol(float(time)) for time in t.reshape(-1)]
    for a, b in zip(y.reshape(-1, 2), one_by_one, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", DENSE)
def test_the_dense_solution_is_continuous(name):
    """At every end of a step, from both sides; nowhere does it change faster than f allows."""
    t = torch.linspace(0, 2, 20001, dtype=F64)
    y = dense_solution(name, rtol=1e-4, atol=1e-4)(t)
    rates = torch.stack(
        [forced(time, state) for time, state in zip(t[::100], y[::100], strict=True)]
    )
    fastest = 1.5 * rates.abs().max()
    assert (y[1:] - y[:-1]).abs().max() < fastest * 1e-4
    # Nothing is a step function either.
    assert (y[1:] - y[:-1]).norm(dim=1).min() > 0


def test_what_a_dense_solution_takes_for_a_time():
    sol = dense_solution()
    y = sol(torch.tensor([1.0, 2.0], dtype=F64))
    for t in (torch.tensor([1, 2]), [1, 2.0], torch.tensor([1.0, 2.0])):
        assert torch.equal(sol(t), y)
    assert torch.equal(sol(1), y[0])
    assert sol(torch.ones(0)).shape == (0, 2)


def test_a_dense_tree_of_mixed_dtypes():
    y0 = {"a": torch.ones(3), "z": (torch.ones((), dtype=torch.complex128),)}
    sol = solve(lambda t, y: {"a": -y["a"], "z": (1j * y["z"][0],)}, y0, [0.0, -1.0], dense=True)
    t = torch.tensor([[0.0, -0.3, -1.0]], dtype=F64)
    y = sol(t)
    assert y["a"].shape == (1, 3, 3)
    assert y["a"].dtype == torch.float32
    assert torch.allclose(y["a"][..., 0].double(), torch.exp(-t), rtol=1e-5)
    assert torch.allclose(y["z"][0], torch.exp(1j * t), rtol=1e-6)


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("t", [-1e-9, 2.0 + 1e-9, math.nan, math.inf])
def test_times_outside_of_the_solution(sense, t):
    sol = dense_solution(end=sense * 2.0)
    limits = f"outside of the solution from 0 to {sense * 2}"
    with pytest.raises(ValueError, match=re.escape(f"holds {sense * t:.10g}") + f".*{limits}"):
        sol(torch.tensor([sense * 1.0, sense * t], dtype=F64))


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("ends", [(0.0, 0.1), (0.7, 1.0), (0.3, 1.1)])
def test_the_ends_in_single_precision_are_not_outside(ends, sense):
    """0.1 rounded to float32 is larger than 0.1, and 0.7 is smaller than 0.7."""
    start, end = ends[::sense]
    sol = solve(lambda t, y: -y, Y0, [start, end], dense=True)
    y = sol(torch.tensor([start, end]))
    assert torch.allclose(y, sol.y, rtol=1e-6)
    with pytest.raises(ValueError, match="outside"):
        sol(torch.tensor(end + 1e-5 * sense))
    with pytest.raises(ValueError, match="outside"):
        sol(torch.tensor(start - 1e-5 * sense))


def test_without_dense_there_are_the_asked_times_only():
    with pytest.raises(ValueError, match="solve with dense=True"):
        solve(forced, Y0, [0.0, 1.0])(0.5)


@pytest.mark.parametrize("sense", [1, -1])
def test_gradients_of_the_dense_solution(sense):
    """To y0, a parameter, the times of the solve and the time of the question."""

    def states(y0, rate, ends, t):
        sol = solve(
            lambda t, y, rate: torch.stack([rate * y[1], -torch.sin(y[0]) * (1 + 0.1 * t)]),
            y0,
            ends,
            args=(rate,),
            dense=True,
            rtol=1e-11,
            atol=1e-12,
        )
        return sol(t)

    values = ([1.0, 0.3], 0.8, [0.0, sense * 1.5], [[sense * 0.2, sense * 1.1]])
    point = [torch.tensor(value, dtype=F64, requires_grad=True) for value in values]
    assert torch.autograd.gradcheck(states, point, eps=1e-5, atol=1e-5)


def test_the_slope_of_the_dense_solution_is_f():
    sol = dense_solution()
    t = torch.linspace(0.1, 1.9, 7, dtype=F64, requires_grad=True)
    y = sol(t)
    for i in (0, 1):
        (slope,) = torch.autograd.grad(y[:, i].sum(), t, retain_graph=True)
        expected = torch.stack([forced(time, state)[i] for time, state in zip(t, y, strict=True)])
        assert torch.allclose(slope, expected, atol=1e-5)


def test_the_dense_solution_of_backsolve_is_for_its_values():
    with torch.no_grad():
        sol = solve(forced, Y0, [0.0, 2.0], gradient=Backsolve(), dense=True)
    assert torch.allclose(sol(2.0), sol.y[-1])
    assert not any(leaf.requires_grad for leaf in tree_leaves(sol(1.0)))
