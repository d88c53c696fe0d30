"""Events: found where they are, none missed, with exact derivatives."""

import math

import pytest
import torch

from companion import Backsolve, FixedStep, solve
from companion.ode import Event, GrazingEvent, NonFiniteState, TooManySteps
from tests.ode.problems import F64


def fall(t, y, gravity):
    _, speed = y
    return speed, -gravity


def touches(t, y, gravity, radius):
    return y[0] - radius


def bounce_times(height, speed, gravity, radius, bounces, restitution=1.0, **options):
    """The time of the last of several bounces of a ball on the ground."""
    t, state = torch.zeros((), dtype=F64), (height, speed)
    ground = Event(lambda t, y, gravity: y[0] - radius, direction=-1)
    for _ in range(bounces):
        sol = solve(
            fall,
            state,
            torch.stack([t, torch.full_like(t, math.inf)]),
            args=(gravity,),
            event=ground,
            **options,
        )
        t, (x, v) = sol.event.t, sol.event.y
        state = (x, -restitution * v)
    return t


def tenth_bounce(height, speed, gravity, radius, restitution):
    """The same in closed form: a fall, and then parabolas whose speeds shrink geometrically."""
    impact = torch.sqrt(speed**2 + 2 * gravity * (height - radius))
    first = (speed + impact) / gravity
    return first + sum(2 * impact * restitution**k / gravity for k in range(1, 10))


@pytest.mark.parametrize("gradient", ["direct", "backsolve"])
@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_the_tenth_bounce_and_its_derivatives(gradient, method):
    values = [
        torch.tensor(v, dtype=F64, requires_grad=True) for v in (10.0, 0.5, 9.81, 0.3, 0.9)
    ]
    height, speed, gravity, radius, restitution = values
    found = bounce_times(
        height, speed, gravity, radius, 10, restitution,
        gradient=gradient, method=method, rtol=1e-10, atol=1e-12,
    )
    expected = tenth_bounce(*values)
    assert abs(float(found - expected)) < 1e-8
    grads, exact = (torch.autograd.grad(t, values) for t in (found, expected))
    for a, b in zip(grads, exact, strict=True):
        assert abs(float(a - b)) < 1e-8 * max(1, abs(float(b)))


def circle(t, y):
    return torch.stack([-y[1], y[0]])


EAST = torch.tensor([1.0, 0.0], dtype=F64)


@pytest.mark.parametrize(
    ("direction", "angle"), [(0, 0.5 * math.pi), (-1, 0.5 * math.pi), (1, 1.5 * math.pi)]
)
@pytest.mark.parametrize("sense", [1, -1])
def test_direction_counts_along_the_march(direction, angle, sense):
    event = Event(lambda t, y: y[0], direction=direction)
    sol = solve(circle, EAST, [0.0, sense * math.inf], event=event, rtol=1e-11, atol=1e-12)
    assert sol.status == "event"
    assert float(sol.event.t) == pytest.approx(sense * angle, abs=1e-9)
    assert abs(float(sol.event.y[0])) < 1e-13


@pytest.mark.parametrize("method", ["rk4", "heun3", "trapezoid", "gl6", "kencarp4"])
def test_every_kind_of_march_stops_at_events(method):
    control = None if method == "kencarp4" else FixedStep(0.05)
    sol = solve(
        circle, EAST, [0.0, math.inf], event=lambda t, y: y[0], method=method, control=control,
        rtol=1e-9, atol=1e-11,
    )
    assert float(sol.event.t) == pytest.approx(math.pi / 2, abs=1e-3)
    assert abs(float(sol.event.y[0])) < 1e-9


def test_outputs_before_the_event_and_none_after():
    sol = solve(circle, EAST, [0.0, 0.5, 1.0, 2.0, 3.0], event=lambda t, y: y[0], rtol=1e-10)
    assert torch.allclose(sol.t, torch.tensor([0.0, 0.5, 1.0, math.pi / 2], dtype=F64))
    exact = torch.stack([torch.cos(sol.t), torch.sin(sol.t)], dim=1)
    assert torch.allclose(sol.y, exact, atol=1e-8)
    assert torch.equal(sol.event.y, sol.y[-1])
    assert torch.equal(sol.event.t, sol.t[-1])


def test_without_an_event_the_solve_ends_at_the_last_time():
    sol = solve(circle, EAST, [0.0, 1.0], event=lambda t, y: y[0])
    assert sol.status == "finished"
    assert sol.event is None
    assert torch.equal(sol.t, torch.tensor([0.0, 1.0], dtype=F64))


def test_the_first_of_several_events_is_named():
    events = [
        lambda t, y: y[0] + 0.5,
        Event(lambda t, y: torch.stack([y[1] - 2, y[1] - 0.6]), direction=1),
        lambda t, y: t - 1,
    ]
    sol = solve(circle, EAST, [0.0, 9.0], event=events, rtol=1e-9)
    assert (sol.event.index, sol.event.component) == (1, 1)
    assert float(sol.event.t) == pytest.approx(math.asin(0.6), abs=1e-7)


def test_two_zeros_in_one_step_are_noticed():
    """y = t, exactly, in one huge step; the condition is negative on an interval of 1e-3."""
    def parabola(t, y):
        return (y - 0.5) * (y - 0.501)

    zero = torch.zeros((), dtype=F64)
    options = {"method": "rk4", "control": FixedStep(1.0)}
    sol = solve(lambda t, y: torch.ones_like(y), zero, [0.0, 1.0], event=parabola, **options)
    assert float(sol.event.t) == pytest.approx(0.5, abs=1e-12)
    rising = Event(parabola, direction=1)
    sol = solve(lambda t, y: torch.ones_like(y), zero, [0.0, 1.0], event=rising, **options)
    assert float(sol.event.t) == pytest.approx(0.501, abs=1e-12)


@pytest.mark.parametrize(
    ("event", "time"),
    [
        (Event(lambda t, y: y[1]), 0.0),
        (Event(lambda t, y: y[1], direction=1), 0.0),
        (Event(lambda t, y: y[1], direction=-1), math.pi),
        (Event(lambda t, y: y[1], at_start=False), math.pi),
        (Event(lambda t, y: y[1], direction=1, at_start=False), 2 * math.pi),
    ],
)
def test_a_zero_at_the_start(event, time):
    sol = solve(circle, EAST, [0.0, math.inf], event=event, rtol=1e-10, atol=1e-12)
    assert float(sol.event.t) == pytest.approx(time, abs=1e-8)


def test_gradients_of_time_and_state_by_differences():
    """A pendulum until it hangs down; with respect to y0, args, t0 and the condition's own."""
    def pendulum(t, y, damping):
        return torch.stack([y[1], -torch.sin(y[0]) - damping * y[1] + 0.1 * torch.cos(t)])

    def until(angle, damping, start, level, gradient):
        y0 = torch.stack([angle, torch.zeros_like(angle)])
        end = torch.full_like(start, math.inf)
        sol = solve(
            pendulum, y0, torch.stack([start, end]), args=(damping,),
            event=lambda t, y, damping: y[0] - level, rtol=1e-11, atol=1e-12, gradient=gradient,
        )
        return torch.cat([sol.event.t[None], sol.event.y])

    point = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (1.2, 0.3, 0.2, 0.1)]
    for gradient in ("direct", Backsolve(rtol=1e-11, atol=1e-13)):
        def function(*x, gradient=gradient):
            return until(*x, gradient)
        assert torch.autograd.gradcheck(function, point, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_forward_mode_through_an_event():
    def time(speed):
        sol = solve(
            lambda t, y: speed * torch.ones_like(y), torch.zeros((), dtype=F64), [0.0, 9.0],
            event=lambda t, y: y - 2, method="rk4", control=FixedStep(1.0),
        )
        return sol.event.t

    t, pushed = torch.func.jvp(
        time, (torch.tensor(0.5, dtype=F64),), (torch.ones((), dtype=F64),)
    )
    assert float(t) == pytest.approx(4)
    assert float(pushed) == pytest.approx(-8)


def test_a_second_derivative_is_refused():
    y0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    sol = solve(lambda t, y: y, y0, [0.0, 9.0], event=lambda t, y: y - 2)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(sol.event.t, y0, create_graph=True)
    assert float(torch.autograd.grad(sol.event.t, y0)[0]) == pytest.approx(-1)


def test_grazing_has_a_time_but_no_derivative():
    """The condition (y - 1)^3 passes through zero with zero speed."""
    y0 = torch.zeros((), dtype=F64, requires_grad=True)
    arguments = (lambda t, y: torch.ones_like(y), y0, [0.0, 3.0])
    with torch.no_grad():
        sol = solve(*arguments, event=lambda t, y: (y - 1) ** 3)
    assert float(sol.event.t) == pytest.approx(1, abs=1e-4)
    with pytest.raises(GrazingEvent, match="touches zero"):
        solve(*arguments, event=lambda t, y: (y - 1) ** 3)


def test_dense_output_ends_at_the_event():
    sol = solve(circle, EAST, [0.0, 9.0], event=lambda t, y: y[0], dense=True, rtol=1e-10)
    middle = sol(0.7)
    assert torch.allclose(middle, torch.tensor([math.cos(0.7), math.sin(0.7)], dtype=F64))
    with pytest.raises(ValueError, match=r"outside of the solution from 0 to 1\.57"):
        sol(1.6)


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (3, TypeError, "condition must be callable"),
        ([], ValueError, "event is empty"),
        (lambda t, y: 1.0, TypeError, "event 0 returned float"),
        (lambda t, y: y > 0, TypeError, "torch.bool"),
        (lambda t, y: y[:0], TypeError, "not empty"),
        (lambda t, y: y[0] / 0 * 0, NonFiniteState, "not finite"),
    ],
)
def test_wrong_events(event, error, message):
    with pytest.raises(error, match=message):
        solve(circle, EAST, [0.0, 1.0], event=event)


@pytest.mark.parametrize("direction", [2, "up", True])
def test_wrong_directions(direction):
    with pytest.raises(ValueError, match="direction must be -1, 0 or 1"):
        Event(lambda t, y: y[0], direction=direction)


def test_an_event_that_never_comes():
    with pytest.raises(TooManySteps):
        solve(circle, EAST, [0.0, math.inf], event=lambda t, y: y[0] + 2, max_steps=50)
    with pytest.raises(ValueError, match="size"):
        solve(
            circle, EAST, [0.0, math.inf], event=lambda t, y: y[0], method="rk4",
            control=FixedStep(),
        )
