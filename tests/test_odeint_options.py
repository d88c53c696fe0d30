"""torchdiffeq's options, callbacks and events, against torchdiffeq itself."""

import collections
import math
import warnings

import numpy as np
import pytest
import torch
import torchdiffeq
from torch import nn

import companion
from companion.odeint.options import ADAPTIVE, FIXED, SCHEMES
from tests.ode.problems import F64, forced, forced_reference

Y0 = torch.tensor([1.0, -0.5], dtype=F64)
TIMES = torch.tensor([0.0, 0.37, 0.5, 1.3, 2.0], dtype=F64)


def both(function="odeint", func=forced, y0=Y0, t=TIMES, **arguments):
    return (
        getattr(library, function)(func, y0, t, **arguments) for library in (companion, torchdiffeq)
    )


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"step_size": 0.3},
        {"step_size": 0.3, "interp": "cubic"},
        {"step_size": 0.25, "perturb": True},
        {"perturb": True},
        {"grid_constructor": lambda f, y, t: torch.linspace(float(t[0]), float(t[-1]), 8).to(t)},
    ],
)
def test_fixed_steps_give_the_same_numbers(method, options, backwards):
    t = TIMES.flip(0) if backwards else TIMES
    ours, theirs = both(t=t, method=method, options=options)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def control_of(**options):
    """The steps tried and the ends of those accepted, with these options."""
    tried, ends = [], [0.0]

    def func(t, y):
        return forced(t, y)

    func.callback_step = lambda t, y, h: tried.append(float(h))
    func.callback_accept_step = lambda t, y, h: ends.append(float(t + h))
    y = companion.odeint(func, Y0, TIMES, rtol=1e-5, atol=1e-7, **options)
    exact = forced_reference(Y0.numpy(), TIMES.tolist())
    assert torch.allclose(y, exact, atol=2e-2)
    return tried, ends


@pytest.mark.parametrize("method", ["fehlberg2", "bosh3", "dopri5", "dopri8", "kvaerno3"])
def test_adaptive_options_reach_the_control_of_steps(method):
    def steps(**options):
        return control_of(method=method, options=options)

    # Differences of times are rounded.
    assert max(steps(max_step=0.05)[0]) <= 0.05 * (1 + 1e-9)
    # The last two steps share what is left.
    assert min(steps(min_step=0.2, first_step=0.2)[0][:-2]) >= 0.2 * (1 - 1e-9)
    assert steps(first_step=0.01)[0][0] == 0.01
    for key in ("step_t", "jump_t"):
        assert {0.2, 1.7} <= set(steps(**{key: torch.tensor([0.2, 1.7], dtype=F64)})[1])
    assert steps(first_step=1e-6, ifactor=2.0)[0][:3] == pytest.approx([1e-6, 2e-6, 4e-6])
    second = steps(first_step=2.0)[0][1]
    assert steps(first_step=2.0, dfactor=0.49)[0][1] == pytest.approx(max(second, 0.98))
    assert len(steps(safety=0.2)[0]) > len(steps()[0])


def test_every_method_of_torchdiffeq_has_its_name_here():
    from torchdiffeq._impl.odeint import SOLVERS

    assert set(SOLVERS) <= set(SCHEMES)


@pytest.mark.parametrize(
    ("method", "function"),
    [
        *((method, "odeint") for method in [*ADAPTIVE, *FIXED]),
        *((method, "odeint_adjoint") for method in SCHEMES),
    ],
)
def test_every_method_solves_and_differentiates(method, function):
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    options = {"step_size": 0.02, "interp": "cubic"} if method in FIXED else None
    y = getattr(companion, function)(
        lambda t, y: -rate * torch.cos(t) * y,
        Y0,
        TIMES,
        method=method,
        options=options,
        rtol=1e-6,
        atol=1e-8,
    )
    exact = Y0 * torch.exp(-rate * torch.sin(TIMES))[:, None]
    tolerance = 2e-2 if "euler" in method else 1e-3
    assert torch.allclose(y, exact, atol=tolerance)
    grads = [torch.autograd.grad(x.sum(), rate)[0] for x in (y, exact)]
    assert abs(float(grads[0] - grads[1])) < 5 * tolerance


class Watched(nn.Module):
    """Counts its callbacks, and keeps what they were told."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0, dtype=F64))
        self.seen = {}

    def forward(self, t, y):
        return -self.rate * y * torch.cos(10 * t)

    def note(self, name, t, y, h):
        self.seen.setdefault(name, []).append((float(t), y, float(h)))

    def callback_step(self, t, y, h):
        self.note("step", t, y, h)

    def callback_accept_step(self, t, y, h):
        self.note("accept", t, y, h)

    def callback_reject_step(self, t, y, h):
        self.note("reject", t, y, h)

    def callback_step_adjoint(self, t, y, h):
        self.note("adjoint", t, y, h)


@pytest.mark.parametrize("backwards", [False, True])
def test_callbacks(backwards):
    func = Watched()
    t = TIMES.flip(0) if backwards else TIMES
    companion.odeint_adjoint(func, Y0, t, rtol=1e-5, atol=1e-7)[-1].sum().backward()
    seen = func.seen
    assert len(seen["step"]) == len(seen["accept"]) + len(seen["reject"])
    assert seen["reject"]
    assert all(h > 0 for _, _, h in seen["step"])
    assert torch.equal(seen["step"][0][1], Y0)
    assert sum(h for _, _, h in seen["accept"]) == pytest.approx(2)
    zero, y, a = seen["adjoint"][0][1]
    assert float(zero) == 0
    assert y.shape == a.shape == Y0.shape


def test_fixed_steps_call_what_torchdiffeq_calls():
    counts = []
    for library in (companion, torchdiffeq):
        func = Watched()
        func.callback_accept_step = func.callback_reject_step = None
        del func.callback_accept_step, func.callback_reject_step
        with pytest.warns(UserWarning, match="does not support callbacks"):
            library.odeint(func, Y0, TIMES, method="rk4", options={"step_size": 0.1})
        counts.append([(t, h) for t, _, h in func.seen["step"]])
        assert "accept" not in func.seen
    for ours, theirs in zip(*counts, strict=True):
        assert ours == pytest.approx(theirs)


def test_a_jump_costs_no_accuracy():
    def jumping(t, y):
        return torch.where(t < 0.5, 1.0, -2.0) * y

    exact = Y0 * math.exp(0.5 - 2 * 1.5)
    options = {"jump_t": torch.tensor([0.5], dtype=F64)}
    for dtype, error in ((F64, 1e-8), (torch.float32, 1e-5)):
        evaluations = []

        def counted(t, y, evaluations=evaluations):
            evaluations.append(float(t))
            return jumping(t, y)

        y = companion.odeint(
            counted, Y0.to(dtype), TIMES[[0, -1]], rtol=1e-7, atol=1e-9, options=options
        )[-1]
        assert torch.allclose(y, exact.to(dtype), atol=error)
        assert 0.5 not in evaluations
        assert len(evaluations) < 200


@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("reverse", [False, True])
def test_events_against_torchdiffeq(function, reverse):
    class Ball(nn.Module):
        def __init__(self):
            super().__init__()
            self.gravity = nn.Parameter(torch.tensor(9.81, dtype=F64))

        def forward(self, t, state):
            x, v = state
            return v, -self.gravity * torch.ones_like(x)

    results = []
    for library in (companion, torchdiffeq):
        ball = Ball()
        x0 = torch.tensor([10.0], dtype=F64, requires_grad=True)
        v0 = torch.tensor([2.0], dtype=F64, requires_grad=True)
        t0 = torch.tensor(0.3, dtype=F64)
        t, (x, v) = library.odeint_event(
            ball,
            (x0, v0),
            t0,
            event_fn=lambda t, y: y[0] - 0.5,
            reverse_time=reverse,
            odeint_interface=getattr(library, function),
            rtol=1e-10,
            atol=1e-12,
        )
        assert x.shape == v.shape == (2, 1)
        grads = torch.autograd.grad(t + v[-1].sum(), (x0, v0, ball.gravity))
        results.append([t, x[-1], v[-1], *grads])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_parameters_of_the_event_need_not_be_in_the_state():
    level = torch.tensor(0.25, dtype=F64, requires_grad=True)
    t, _ = companion.odeint_event(
        lambda t, y: -y,
        torch.ones(1, dtype=F64),
        torch.tensor(0.0, dtype=F64),
        event_fn=lambda t, y: y - level,
        odeint_interface=companion.odeint_adjoint,
        rtol=1e-10,
        atol=1e-12,
    )
    assert float(t.detach()) == pytest.approx(math.log(4), abs=1e-8)
    assert float(torch.autograd.grad(t, level)[0]) == pytest.approx(-4, abs=1e-7)


def test_tolerances_of_a_tuple_and_other_states():
    y0 = (torch.ones(2, dtype=F64), torch.ones((), dtype=F64))
    ours, theirs = both(
        func=lambda t, y: (-y[0], y[1] * torch.cos(t)),
        y0=y0,
        rtol=(1e-8, 1e-6),
        atol=(torch.tensor(1e-9), torch.tensor(1e-8)),
    )
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    single = companion.odeint(forced, Y0, TIMES[:1])
    assert torch.equal(single, Y0[None])
    wave = companion.odeint(
        lambda t, y: 1j * y, torch.ones(1, dtype=torch.complex64), TIMES, rtol=1e-5, atol=1e-6
    )
    assert torch.allclose(wave[:, 0], torch.exp(1j * TIMES).to(torch.complex64), atol=1e-4)


Pair = collections.namedtuple("Pair", "first second")


@pytest.mark.parametrize("state", [tuple, lambda y: Pair(*y)])
@pytest.mark.parametrize("rates", [tuple, list, lambda y: Pair(*y)])
def test_f_may_return_any_sequence_for_a_tuple(state, rates):
    def f(t, y):
        assert isinstance(y, tuple)
        return rates((-y[0], y[1] * torch.cos(t)))

    ours, theirs = both(func=f, y0=state((Y0, Y0[:1])))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("rates", [lambda y: [-y[0]], lambda y: {"first": -y[0], "second": -y[1]}])
def test_what_is_not_a_tuple_of_the_same_length_is_refused(rates):
    with pytest.raises(TypeError, match=r"f returned .*, the state y0 is"):
        companion.odeint(lambda t, y: rates(y), (Y0, Y0), TIMES)


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor])
def test_a_tolerance_for_each_entry_of_a_tensor(convert):
    loose_and_tight = convert([1e-2, 1e-9])
    ours, theirs = both(func=lambda t, y: -y * t, rtol=loose_and_tight, atol=convert([1e-2, 1e-9]))
    assert torch.allclose(ours, theirs, atol=1e-3)
    exact = Y0 * torch.exp(-(TIMES**2) / 2)[:, None]
    assert (ours - exact)[:, 1].abs().max() < 1e-6


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize("state", [tuple, lambda y: Pair(*y)])
def test_a_tolerance_for_each_tensor_of_a_tuple(convert, state):
    """Not for each entry of each tensor: the tensors have two entries as well."""
    evaluations = []
    for parts in ([1e-9, 1e3], [1e3, 1e-9]):
        calls = []

        def f(t, y, calls=calls):
            calls.append(t)
            return -y[0], -1e-3 * y[1]

        companion.odeint(f, state((Y0, Y0)), TIMES, rtol=convert(parts), atol=1e-12)
        evaluations.append(len(calls))
    # The first tensor is the fast one: to follow it closely takes many steps.
    assert evaluations[0] > 2 * evaluations[1]


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_there_must_be_a_tolerance_for_every_tensor(name):
    with pytest.raises(ValueError, match=f"{name} has 3 parts, the state y0 has 2 tensors"):
        companion.odeint(lambda t, y: (-y[0], -y[1]), (Y0, Y0), TIMES, **{name: (1e-5,) * 3})


@pytest.mark.parametrize("function", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("as_state", [lambda y: y, lambda y: (y,)])
def test_the_users_state_keeps_its_flags(function, as_state):
    def greedy(t, y):
        leaf = y if isinstance(y, torch.Tensor) else y[0]
        with torch.enable_grad():
            leaf.requires_grad_()
            (slope,) = torch.autograd.grad(torch.sin(leaf).sum(), leaf, create_graph=True)
        return as_state(-slope)

    y0 = Y0.clone()
    getattr(companion, function)(greedy, as_state(y0), TIMES)
    assert not y0.requires_grad


def test_none_is_the_default_of_an_option():
    names = ("first_step", "step_t", "jump_t", "norm", "max_num_steps")
    ours = companion.odeint(forced, Y0, TIMES, options=dict.fromkeys(names))
    assert torch.equal(ours, companion.odeint(forced, Y0, TIMES))
    names = ("step_size", "grid_constructor", "interp", "perturb")
    ours = companion.odeint(forced, Y0, TIMES, method="rk4", options=dict.fromkeys(names))
    assert torch.equal(ours, companion.odeint(forced, Y0, TIMES, method="rk4"))
    with pytest.raises(ValueError, match="'nothing'"):
        companion.odeint(forced, Y0, TIMES, options={"nothing": None})


@pytest.mark.parametrize(
    "options",
    [
        {"step_size": 0.1},
        {"perturb": True},
        {"interp": "cubic"},
        {"grid_constructor": lambda f, y, t: t.repeat(3)},
    ],
)
def test_one_time_needs_no_grid(options):
    ours, theirs = both(t=TIMES[:1], method="rk4", options=options)
    assert torch.equal(ours, theirs)


def test_a_grid_may_be_a_list_or_require_a_gradient():
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    grids = (
        lambda f, y, t: t[0] + (t[1] - t[0]) * torch.linspace(0, 1, 9, dtype=F64),
        lambda f, y, t: [i / 8 for i in range(9)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b = (
            companion.odeint(forced, Y0, t, method="rk4", options={"grid_constructor": grid})
            for grid in grids
        )
    assert torch.equal(a, b)


def test_f_may_ask_for_gradients_of_its_state():
    """A continuous normalizing flow takes the trace of the Jacobian inside f."""

    def flow(t, state):
        z, _ = state
        with torch.enable_grad():
            z.requires_grad_()
            velocity = torch.tanh(z) * torch.cos(t)
            (slope,) = torch.autograd.grad(velocity.sum(), z, create_graph=True)
        return velocity, -slope

    y0 = (torch.linspace(-1, 1, 5, dtype=F64), torch.zeros(5, dtype=F64))
    with torch.no_grad():
        ours, theirs = both(func=flow, y0=y0, rtol=1e-8, atol=1e-10)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": lambda f, y, t: t}},
            ValueError,
            "both step_size and grid_constructor",
        ),
        (
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[1:]}},
            ValueError,
            "from the first of t to the last",
        ),
        ({"method": "rk4", "options": {"interp": "quintic"}}, ValueError, "linear"),
        ({"method": "rk4", "options": {"perturb": 1}}, TypeError, "perturb"),
        ({"options": {"step_t": torch.tensor([0.2, 0.2])}}, ValueError, "repeat"),
        ({"options": {"step_t": [0.2], "jump_t": [0.2]}}, ValueError, "repeat"),
        ({"options": {"dtype": torch.int64}}, TypeError, "dtype"),
        ({"options": {"min_step": 2.0, "max_step": 1.0}}, ValueError, "min_step"),
        ({"options": {"max_order": 4}}, ValueError, "'max_order'"),
        ({"method": "explicit_adams", "options": {"max_order": 40}}, ValueError, "max_order"),
        ({"method": "scipy_solver", "options": {"solver": "RK4"}}, ValueError, "unknown solver"),
        ({"event_fn": lambda t, y: y[0]}, ValueError, "length 2"),
        ({"event_fn": lambda t, y: y[0], "method": "rk4", "t": TIMES[:2]}, ValueError, "step_size"),
        (
            {
                "event_fn": lambda t, y: y[0],
                "method": "rk4",
                "t": TIMES[:2],
                "options": {"step_size": 0.1, "perturb": True},
            },
            ValueError,
            "take an adaptive method",
        ),
        ({"method": "rk4", "options": {"norm": torch.norm}}, ValueError, "'norm'"),
        ({"options": {3: 4}}, ValueError, "'3'"),
    ],
)
def test_wrong_options(arguments, error, message):
    arguments = {"t": TIMES} | arguments
    with pytest.raises(error, match=message):
        companion.odeint(forced, Y0, arguments.pop("t"), **arguments)


def test_min_step_accepts_what_the_tolerance_would_not():
    options = {"min_step": 0.1, "first_step": 0.1}
    ours, theirs = both(t=TIMES[[0, -1]], rtol=1e-12, atol=1e-14, options=options)
    assert torch.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"adjoint_options": 5}, TypeError, "adjoint_options must be a dictionary, got int"),
        ({"adjoint_method": "gl4", "adjoint_options": {"max_iters": 0}}, ValueError, "at least 1"),
        ({"adjoint_method": "euler8", "adjoint_options": {}}, ValueError, "unknown method"),
        ({"adjoint_rtol": (1e-3, 1e-3, 1e-3)}, ValueError, "adjoint_rtol"),
        ({"adjoint_params": 3}, TypeError, "adjoint_params"),
    ],
)
def test_wrong_arguments_of_the_adjoint(arguments, error, message):
    with pytest.raises(error, match=message):
        companion.odeint_adjoint(lambda t, y: (-y[0], -y[1]), (Y0, Y0), TIMES, **arguments)


def test_the_backward_solve_knows_the_jumps_of_the_forward_solve():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    jumps = torch.tensor([0.5], dtype=F64)

    def jumping(t, y):
        return torch.where(t < 0.5, rate, -2 * rate) * y

    grid = {"step_size": 0.05, "perturb": True}
    for options, adjoint_method, adjoint_options in (
        ({"jump_t": jumps}, None, None),
        ({"jump_t": jumps}, None, {}),
        ({}, None, {"jump_t": jumps}),
        ({"jump_t": jumps}, "rk4", grid),
        ({"jump_t": jumps}, "scipy_solver", {"max_step": 0.1}),
    ):
        y = companion.odeint_adjoint(
            jumping,
            Y0,
            TIMES[[0, -1]],
            options=options,
            adjoint_method=adjoint_method,
            adjoint_options=adjoint_options,
        )
        # y(2) = y0 exp(rate (0.5 - 2 * 1.5)).
        (grad,) = torch.autograd.grad(y[-1].sum(), rate)
        assert float(grad) == pytest.approx(float(-2.5 * y[-1].detach().sum()), rel=1e-5)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "rk4"])
def test_perturb_sees_each_step_from_inside(method, backwards):
    """A field that is wrong at the points of the grid themselves."""

    def jumping(t, y):
        return torch.where(t == 0.5, 100.0, torch.where(t < 0.5, 1.0, -2.0)) * torch.ones_like(y)

    t = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    ours, theirs = both(
        func=jumping,
        t=t.flip(0) if backwards else t,
        method=method,
        options={"step_size": 0.5, "perturb": True},
    )
    assert torch.allclose(ours, theirs, rtol=1e-12)
    assert torch.allclose(ours[-1] - ours[0], torch.full_like(Y0, 0.5 if backwards else -0.5))


def test_max_iters_of_the_backward_solve():
    rate = torch.tensor(3.0, dtype=F64, requires_grad=True)
    y = companion.odeint_adjoint(
        lambda t, y: -rate * y**3,
        4 * Y0,
        TIMES[[0, -1]],
        adjoint_method="gl4",
        adjoint_options={"step_size": 1.0, "max_iters": 1},
    )
    with pytest.raises(companion.SolverError, match="could not be solved"):
        y[-1].sum().backward()


@pytest.mark.parametrize(
    "arguments",
    [
        {"rtol": 1e-2, "atol": 1e-2},
        {"method": "rk4", "options": {"step_size": 0.5}},
        {"method": "rk4", "options": {"step_size": 0.5, "interp": "cubic"}},
        {"method": "explicit_adams", "options": {"step_size": 0.1, "interp": "cubic"}},
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_time_has_a_gradient_where_one_step_passes_two_times(arguments, sign):
    t = sign * torch.tensor([0.0, 0.97, 0.98, 0.99, 1.0], dtype=F64)
    t.requires_grad_()
    y = companion.odeint(lambda t, y: -sign * y, Y0[:1], t, **arguments)
    for i in range(1, 5):
        (grad,) = torch.autograd.grad(y[i].sum(), t, retain_graph=True)
        assert float(grad[i]) == pytest.approx(float(-sign * y[i].detach()), rel=0.3)


def test_the_warning_points_to_the_callers_line():
    func = Watched()
    with pytest.warns(UserWarning, match="'callback_accept_step'") as caught:
        companion.odeint(func, Y0, TIMES, method="rk4")
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"options": {"max_num_steps": 0}}, ValueError, r'options\["max_num_steps"\] must be'),
        ({"options": {"ifactor": "2"}}, TypeError, r'options\["ifactor"\] must be a number'),
        ({"options": {"safety": None, "dfactor": math.nan}}, ValueError, r'options\["dfactor"\]'),
        ({"method": "rk4", "options": {"step_size": 0.0}}, ValueError, r'options\["step_size"\]'),
        ({"method": "gl4", "options": {"max_iters": 0}}, ValueError, r'options\["max_iters"\]'),
        ({"method": "rk4", "options": {"grid_constructor": TIMES}}, TypeError, "callable as"),
        (
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: 5}},
            TypeError,
            "must return a tensor",
        ),
        ({"options": {"norm": lambda y: 1.0}}, TypeError, "tensor with one element"),
        ({"options": {"norm": lambda y: y}}, TypeError, "tensor with one element"),
    ],
)
def test_errors_name_the_options_as_the_user_wrote_them(arguments, error, message):
    with pytest.raises(error, match=message):
        companion.odeint(lambda t, y: -y, Y0, TIMES, **arguments)


def test_a_number_of_steps_may_be_written_as_a_float():
    y = companion.odeint(lambda t, y: -y, Y0, TIMES, options={"max_num_steps": 1e4})
    assert y.shape == (len(TIMES), *Y0.shape)


def test_an_event_that_never_comes_ends_by_the_number_of_steps():
    with pytest.raises(companion.SolverError, match="the event may never come"):
        companion.odeint(
            lambda t, y: -y,
            Y0,
            TIMES[:2],
            method="rk4",
            options={"step_size": 0.1, "max_num_steps": 50},
            event_fn=lambda t, y: y.sum() + 1e3,
        )


@pytest.mark.parametrize("method", ["adaptive_heun", "fehlberg2"])
def test_methods_that_take_their_last_stage_for_the_rates_at_the_end(method):
    """They need an evaluation less a step, as torchdiffeq's, and keep their order."""

    def solved(library, tolerance):
        calls = []

        def f(t, y):
            calls.append(1)
            return torch.cos(t) * y

        span = torch.tensor([0.0, 5.0], dtype=F64)
        y = library.odeint(f, Y0, span, method=method, rtol=tolerance, atol=tolerance)
        return float((y[-1] - Y0 * math.exp(math.sin(5.0))).abs().max()), len(calls)

    (rough, few), (fine, many) = (solved(companion, tolerance) for tolerance in (1e-3, 1e-6))
    assert math.log(rough / fine) / math.log(many / few) > 1.8
    (their_error, theirs) = solved(torchdiffeq, 1e-6)
    assert many < 1.1 * theirs
    assert fine < 2 * their_error
