"""Events: found where they are, none missed, with exact derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    values = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (10.0, 0.5, 9.81, 0.3, 0.9)]
    height, speed, gravity, radius, restitution = values
    found = bounce_times(
        height,
        speed,
        gravity,
        radius,
        10,
        restitution,
        gradient=gradient,
        method=method,
        rtol=1e-10,
        atol=1e-12,
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
        circle,
        EAST,
        [0.0, math.inf],
        event=lambda t, y: y[0],
        method=method,
        control=control,
        rtol=1e-9,
        atol=1e-11,
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
            pendulum,
            y0,
            torch.stack([start, end]),
            args=(damping,),
            event=lambda t, y, damping: y[0] - level,
            rtol=1e-11,
            atol=1e-12,
            gradient=gradient,
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
            lambda t, y: speed * torch.ones_like(y),
            torch.zeros((), dtype=F64),
            [0.0, 9.0],
            event=lambda t, y: y - 2,
            method="rk4",
            control=FixedStep(1.0),
        )
        return sol.event.t

    t, pushed = torch.func.jvp(time, (torch.tensor(0.5, dtype=F64),), (torch.ones((), dtype=F64),))
    assert float(t) == pytest.approx(4)
    assert float(pushed) == pytest.approx(-8)


def time_of_two(y0):
    """When exp(t) y0 is two: log(2 / y0), with the derivative -1 / y0."""
    return solve(lambda t, y: y, y0, [0.0, 9.0], event=lambda t, y: y - 2).event.t


def test_a_second_derivative_is_refused():
    y0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(time_of_two(y0), y0, create_graph=True)
    assert float(first) == pytest.approx(-1)
    for value in (first, first**2 + y0):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(value, y0, retain_graph=True)


def test_transforms_of_torch_func():
    y0 = torch.tensor(1.0, dtype=F64)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        assert float(transform(time_of_two)(y0)) == pytest.approx(-1)
    for transform in (torch.func.grad, torch.func.jacfwd):
        with pytest.raises(RuntimeError, match="no second derivative"):
            transform(torch.func.grad(time_of_two))(y0)


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
            circle,
            EAST,
            [0.0, math.inf],
            event=lambda t, y: y[0],
            method="rk4",
            control=FixedStep(),
        )


def one(t, y):
    return torch.ones_like(y)


ZERO = torch.zeros((), dtype=F64)
ONE_STEP = {"method": "rk4", "control": FixedStep(1.0)}


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.002, 0.98),
    st.floats(1e-4, 1e-2),
    st.sampled_from([-1, 0, 1]),
    st.sampled_from([1, -1]),
)
def test_any_two_zeros_of_a_parabola_in_one_step(first, apart, direction, sense):
    """y = t exactly; the condition dips below zero, or rises above it, between the zeros."""
    second = first + apart
    for shape in (1, -1):
        condition = Event(
            lambda t, y, s=shape: s * (sense * y - first) * (sense * y - second), direction
        )
        sol = solve(one, ZERO, [0.0, sense], event=condition, **ONE_STEP)
        expected = second if direction == shape else first
        assert float(sol.event.t) == pytest.approx(sense * expected, abs=1e-12)


@pytest.mark.parametrize("size", [1.0, 0.25])
@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("apart", [1e-2, 1e-3, -1e-2, -1e-3])
def test_a_zero_at_a_sample_does_not_hide_one_beside_it(size, sense, apart):
    """At 0.5 a step is sampled, in the middle or at its end; the other zero is close to that."""
    first, second = sorted((0.5, 0.5 + apart))
    for shape, direction in [(1, -1), (1, 0), (1, 1), (-1, -1), (-1, 0), (-1, 1)]:
        condition = Event(
            lambda t, y, s=shape: s * (sense * y - first) * (sense * y - second), direction
        )
        sol = solve(
            one, ZERO, [0.0, sense], event=condition, method="euler", control=FixedStep(size)
        )
        expected = second if direction == shape else first
        assert float(sol.event.t) == pytest.approx(sense * expected, abs=1e-12)


def test_rest_at_a_zero_is_not_taken_for_a_crossing():
    """A fall from where the condition is zero: at first the height changes by rounding only."""
    for height, gravity in [
        (0.20156934077130942, 9.9454395957156),
        (0.20325741100354022, 9.352763161677494),
        (2.5594647554675665, 2.044652810869849),
        (1.1642729343140825, 3.9302844853798184),
    ]:
        start = torch.tensor([height, 0.0], dtype=F64)
        for direction in (-1, 0, 1):
            sol = solve(
                lambda t, y, g=gravity: torch.stack([y[1], torch.full_like(y[0], -g)]),
                start,
                [0.0, 1.0],
                event=Event(lambda t, y, h=height: y[0] - h, direction, at_start=False),
            )
            assert sol.event is None


@pytest.mark.parametrize(
    ("direction", "at_start", "time"),
    [(0, True, 0.0), (-1, True, 0.0), (1, True, 0.05), (0, False, 0.05), (-1, False, None)],
)
def test_a_zero_right_after_one_at_the_start(direction, at_start, time):
    """A short bounce off the ground, between two samples of a step."""
    condition = Event(lambda t, y: y * (y - 0.05), direction, at_start)
    sol = solve(one, ZERO, [0.0, 1.0], event=condition, **ONE_STEP)
    assert (sol.event is None) == (time is None)
    if time is not None:
        assert float(sol.event.t) == pytest.approx(time, abs=1e-12)


@pytest.mark.parametrize("end", [1.0, 0.5])
@pytest.mark.parametrize("sense", [1, -1])
def test_a_zero_at_the_end_of_a_step(end, sense):
    """The zero is met once, in the step that it ends, also at the last time."""
    times = [0.0, sense * 0.25, sense * end, sense * 2.0]
    for t in (times, times[:3]):
        sol = solve(
            one,
            ZERO,
            t,
            event=lambda t, y: y - sense * end,
            method="euler",
            control=FixedStep(0.25),
        )
        assert sol.status == "event"
        assert sol.t.tolist() == sol.y.tolist() == times[:3]


def test_a_zero_that_does_not_count_does_not_hide_the_next():
    """Rising at 0.25, where a step ends, falling at 0.26, and rising again at 0.7."""

    def condition(t, y):
        return (y - 0.25) * (y - 0.26) * (y - 0.7)

    for direction, time in [(1, 0.25), (-1, 0.26), (0, 0.25)]:
        sol = solve(
            one,
            ZERO,
            [0.0, 1.0],
            event=Event(condition, direction),
            method="rk4",
            control=FixedStep(0.25),
        )
        assert float(sol.event.t) == pytest.approx(time, abs=1e-12)


def test_the_speed_of_a_steep_condition_is_judged_where_it_crosses():
    """At the end of the only step the condition is e^50; where it crosses, its slope is 50."""
    y0 = ZERO.clone().requires_grad_()
    sol = solve(
        one,
        y0,
        [0.0, 2.0],
        event=lambda t, y: torch.expm1(50 * (y - 1)),
        method="rk4",
        control=FixedStep(2.0),
    )
    assert float(sol.event.t) == pytest.approx(1, abs=1e-12)
    assert float(torch.autograd.grad(sol.event.t, y0)[0]) == pytest.approx(-1)


def test_multiple_zeros_are_found_as_exactly_as_simple_ones():
    sol = solve(one, ZERO, [0.0, 3.0], event=lambda t, y: (y - 1.1) ** 5, rtol=1e-9)
    assert float(sol.event.t) == pytest.approx(1.1, abs=1e-10)


def test_times_as_large_as_those_of_a_clock():
    t0 = 1.7e9
    sol = solve(
        lambda t, y: -1000 * y, ZERO + 1, [t0, t0 + 1], event=lambda t, y: y - 0.5, rtol=1e-8
    )
    assert float(sol.event.t) - t0 == pytest.approx(math.log(2) / 1000, abs=math.ulp(t0))


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("offset", [0.0, 30.0, 1000.0])
def test_single_precision_with_an_offset(offset, sense):
    """The zero is as exact as the resolution of the state allows."""
    sol = solve(
        lambda t, y: torch.cos(t) + 0 * y,
        torch.tensor(offset),
        [0.0, sense * 3.0],
        event=lambda t, y: y - offset - sense * 0.6,
        rtol=1e-6,
        atol=1e-6,
    )
    resolution = 2.0**-23 * max(offset, 1.0)
    assert abs(float(sol.event.t) - sense * math.asin(0.6)) < 4 * resolution / 0.8 + 4e-6


def test_a_crossing_next_to_a_stop():
    """f jumps, and the zero lies in the second half of the way."""
    for stops in ({"jump_t": [1.0]}, {"step_t": [1.0, 1.1]}):
        sol = solve(
            lambda t, y: torch.where(t < 1, 1.0, 3.0) * torch.ones_like(y),
            ZERO,
            [0.0, 2.0],
            event=lambda t, y: y - 1.3,
            rtol=1e-9,
            atol=1e-11,
            **stops,
        )
        assert float(sol.event.t) == pytest.approx(1.1, abs=1e-8)


def test_a_condition_must_not_write_to_the_state():
    with pytest.raises(ValueError, match="event 0 changed the state y in place"):
        solve(one, ZERO, [0.0, 3.0], event=lambda t, y: y.sub_(1.0))


@pytest.mark.parametrize("gradient", ["direct", Backsolve(rtol=1e-10, atol=1e-12)])
def test_complex_states_in_a_tree(gradient):
    """exp(i w t) y0 until its imaginary part is w / 4; derivatives of t by hand."""
    y0 = torch.tensor(1 + 0j, dtype=torch.complex128, requires_grad=True)
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)
    sol = solve(
        lambda t, y, p: {"z": 1j * p["w"] * y["z"]},
        {"z": y0},
        [0.0, 9.0],
        args=({"w": w, "name": "rotation"},),
        event=lambda t, y, p: y["z"].imag - p["w"] / 4,
        rtol=1e-10,
        atol=1e-12,
        gradient=gradient,
    )
    t, cosine, sine = math.pi / 12, math.cos(math.pi / 6), math.sin(math.pi / 6)
    slope = 2 * cosine
    assert float(sol.event.t) == pytest.approx(t, abs=1e-9)
    to_y0, to_w = torch.autograd.grad(sol.event.t, (y0, w))
    assert float(to_w) == pytest.approx(-(t * cosine - 0.25) / slope, abs=1e-8)
    # The imaginary part of exp(i w t) y0 changes by sin(w t) dx + cos(w t) dy.
    expected = -(sine + 1j * cosine) / slope
    assert complex(to_y0) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("gradient", ["direct", "backsolve"])
def test_a_condition_that_depends_on_time(gradient):
    """y0 - t meets b t at y0 / (1 + b)."""
    y0, b = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (1.5, 2.0))
    sol = solve(
        lambda t, y: -torch.ones_like(y),
        y0,
        [0.0, 3.0],
        event=lambda t, y: y - b * t,
        gradient=gradient,
    )
    to_y0, to_b = torch.autograd.grad(sol.event.t, (y0, b))
    assert sol.event.t.item() == pytest.approx(0.5)
    assert to_y0.item() == pytest.approx(1 / 3)
    assert to_b.item() == pytest.approx(-1.5 / 9)


@pytest.mark.parametrize("gradient", ["direct", Backsolve(rtol=1e-10, atol=1e-12)])
@pytest.mark.parametrize("sense", [1, -1])
def test_gradients_of_outputs_before_an_event(gradient, sense):
    """Both ways in time, to y0, a parameter of the condition and every time asked for."""

    def states(y0, level, inner):
        t = torch.stack([0 * inner, inner, inner + sense * 9])
        sol = solve(
            lambda t, y: torch.stack([y[1] + 0.2 * torch.sin(t), -y[0]]),
            y0,
            t,
            event=lambda t, y: y[0] - level,
            rtol=1e-11,
            atol=1e-12,
            gradient=gradient,
        )
        assert sol.status == "event"
        return torch.cat([sol.y.reshape(-1), sol.t])

    point = [torch.tensor(v, dtype=F64, requires_grad=True) for v in ([1.0, 0.1], 0.3, sense * 0.5)]
    assert torch.autograd.gradcheck(states, point, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_flights_that_get_shorter_and_shorter():
    """Between bounces the times are geometric; a flight ends long before the step it is in."""
    speed, restitution, bounces = 4.0, 0.5, 25
    t, v = 0.0, torch.tensor(speed, dtype=F64)
    found = []
    for _ in range(bounces):
        sol = solve(
            lambda t, y: torch.stack([y[1], torch.full_like(y[1], -9.81)]),
            torch.stack([torch.zeros((), dtype=F64), v]),
            [t, math.inf],
            event=Event(lambda t, y: y[0], direction=-1),
            rtol=1e-11,
            atol=1e-13,
        )
        found.append(float(sol.event.t) - t)
        t, v = float(sol.event.t), -restitution * sol.event.y[1]
    expected = [2 * speed * restitution**k / 9.81 for k in range(bounces)]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
@pytest.mark.parametrize("condition", [lambda y: y - 0.55, lambda y: (y - 0.5) * (y - 0.51)])
def test_the_scale_of_a_condition_does_not_matter(scale, condition):
    """Products of two values would vanish or overflow."""

    def solved(scale):
        return solve(
            lambda t, y: torch.ones_like(y),
            torch.zeros((), dtype=F64),
            [0.0, 1.0],
            event=lambda t, y: scale * condition(y),
        ).event.t

    assert float(solved(scale)) == pytest.approx(float(solved(1.0)), abs=1e-9)


@pytest.mark.parametrize(("excess", "grazes"), [(0.0, True), (1e-10, False), (1e-6, False)])
def test_a_ball_that_just_reaches_the_ceiling(excess, grazes):
    """z = v t - t^2 has the height v^2 / 4; the ceiling is at 1."""
    v = torch.tensor(math.sqrt(4 + excess), dtype=F64, requires_grad=True)

    def hit():
        return solve(
            lambda t, y: torch.stack([y[1], torch.full_like(y[1], -2.0)]),
            torch.stack([torch.zeros((), dtype=F64), v]),
            [0.0, 3.0],
            event=Event(lambda t, y: y[0] - 1, direction=1),
            rtol=1e-11,
            atol=1e-13,
        )

    if grazes:
        with pytest.raises(GrazingEvent):
            hit()
        return
    (slope,) = torch.autograd.grad(hit().event.t, v)
    exact = (1 - float(v) / math.sqrt(float(v) ** 2 - 4)) / 2
    assert float(slope) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "kvaerno3", "gl4"])
@pytest.mark.parametrize("gradient", ["direct", "backsolve"])
def test_an_event_at_the_start_moves_with_it(gradient, method):
    """Its time and state as functions of t0 and y0: exp(t0 - t) y0 = 1."""
    t = torch.tensor([0.0, 3.0], dtype=F64, requires_grad=True)
    y0 = torch.ones((), dtype=F64, requires_grad=True)
    control = None if method in ("dopri5", "kvaerno3") else FixedStep(0.1)
    sol = solve(
        lambda t, y: -y,
        y0,
        t,
        event=lambda t, y: y - 1,
        gradient=gradient,
        method=method,
        control=control,
    )
    assert sol.event.t.item() == 0
    to_t, to_y = torch.autograd.grad(sol.event.t, (t, y0), retain_graph=True)
    assert torch.allclose(to_t, torch.tensor([1.0, 0.0], dtype=F64))
    assert to_y.item() == pytest.approx(1)
    to_t, to_y = torch.autograd.grad(sol.event.y, (t, y0))
    assert torch.allclose(to_t, torch.zeros(2, dtype=F64))
    assert to_y.item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("method", "control"),
    [(name, FixedStep(0.01)) for name in ("rk4", "vern7", "trapezoid", "implicit_adams")]
    + [(name, "I") for name in ("heun", "vern7", "dopri8", "dopri5", "kencarp4")],
)
def test_looking_for_events_leaves_the_graph_of_the_steps_whole(method, control):
    """Also that of f at the end of a step, which some polynomials want before the next step does.

    The oscillator with frequency w passes cos(w t) = w / 4.
    """
    w = torch.tensor(1.1, dtype=F64, requires_grad=True)
    found = solve(
        lambda t, y, w: torch.stack([y[1], -(w**2) * y[0]]),
        torch.tensor([1.0, 0.0], dtype=F64),
        [0.0, math.inf],
        args=(w,),
        method=method,
        control=control,
        event=lambda t, y, w: y[0] - w / 4,
        rtol=1e-7,
        atol=1e-7,
    ).event.t
    expected = torch.acos(w / 4) / w
    (slope,) = torch.autograd.grad(found, w)
    (exact,) = torch.autograd.grad(expected, w)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(slope, exact, rtol=1e-3, atol=0.0)


def test_a_condition_of_time_alone_in_double_precision():
    """Whatever torch's default dtype is."""
    assert torch.get_default_dtype() == torch.float32
    sol = solve(one, torch.zeros((), dtype=F64), [0.0, 10.0], event=lambda t, y: t - math.e)
    assert float(sol.event.t) == pytest.approx(math.e, abs=1e-15)


@pytest.mark.parametrize(
    ("condition", "time"),
    [
        (lambda t: torch.where(t < 2.3, -1.0, 1.0), 2.3),
        (lambda t: 1 / (t - 2), 2.0),
        (lambda t: torch.sign(t - 2) * torch.sqrt(torch.abs(t - 2)), 2.0),
    ],
    ids=["jump", "pole", "root"],
)
def test_a_change_of_sign_without_a_smooth_zero(condition, time):
    sol = solve(one, torch.zeros((), dtype=F64), [0.0, 10.0], event=lambda t, y: condition(t))
    assert float(sol.event.t) == pytest.approx(time, abs=1e-12)


def test_a_condition_must_keep_its_shape():
    calls = []

    def condition(t, y):
        calls.append(1)
        return (y if len(calls) < 4 else y[:1]) - 0.5

    with pytest.raises(ValueError, match="another number of values than before, 1 instead of 2"):
        solve(lambda t, y: -y, torch.tensor([1.0, 2.0]), [0.0, math.inf], event=condition)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "gauss"])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "gl4"])
def test_an_event_at_the_end_of_a_fixed_step_does_not_move_with_it(method, gradient):
    """The steps divide the time between outputs, and move with these; the event does not."""
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    sol = solve(
        lambda t, y: torch.cos(t) * torch.ones_like(y), torch.ones(1, dtype=F64), t, method=method,
        control=FixedStep(0.125), event=lambda t, y: t - 0.5, gradient=gradient,
    )  # fmt: skip
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), t)
    assert grad.tolist() == pytest.approx([-1, 0], abs=1e-4)
