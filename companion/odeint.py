"""A drop-in for torchdiffeq: the same functions, method names and option keys.

``from companion import odeint_adjoint as odeint`` replaces
``from torchdiffeq import odeint_adjoint as odeint``.  This is the only module that knows
torchdiffeq's option dictionaries; `companion.solve` is the interface that the rest uses.

What differs, on purpose: an option that the method does not know raises instead of warning, and
so does an implicit method that does not converge; ``max_num_steps`` counts the steps of the whole
solve; events are located with the accuracy of the solver's steps, and are differentiable by
themselves; without ``adjoint_params`` the tensors that func holds or closes over are found; the
backward solve is one solve with jumps instead of one solve an interval, and does not control the
error of the parameter gradient ("seminorm").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from companion.adjoint import Backsolve, Direct, Gradient
from companion.ode.adams import Adams
from companion.ode.control import PID, FixedGrid, FixedStep, require_number
from companion.ode.event import Event
from companion.ode.field import Leaves
from companion.ode.method import Control, Method, Scheme, suggestion
from companion.ode.observe import Observer
from companion.ode.problem import check_times, pose
from companion.ode.scipy_solver import SciPy
from companion.ode.tableaus import METHODS
from companion.solve import solution_of

State = Tensor | tuple[Tensor, ...]

#: Methods with steps that are known in advance, by torchdiffeq's name.
FIXED: dict[str, Scheme] = {
    "euler": METHODS["euler"],
    "midpoint": METHODS["midpoint"],
    "heun2": METHODS["heun"],
    "heun3": METHODS["heun3"],
    "rk4": METHODS["rk4_38"],
    "rk4_classical": METHODS["rk4"],
    "explicit_adams": Adams(implicit=False),
    "implicit_adams": Adams(),
    "fixed_adams": Adams(),
    **{
        name: METHODS[name]
        for name in (
            "implicit_euler",
            "implicit_midpoint",
            "trapezoid",
            "radauIIA3",
            "radauIIA5",
            "gl4",
            "gl6",
            "sdirk2",
            "trbdf2",
        )
    },
}
#: Methods that choose their steps; the last four are not torchdiffeq's.
ADAPTIVE: dict[str, Scheme] = {
    "adaptive_heun": METHODS["heun"],
    **{
        name: METHODS[name]
        for name in (
            "fehlberg2",
            "bosh3",
            "dopri5",
            "tsit5",
            "dopri8",
            "vern7",
            "kvaerno3",
            "kvaerno5",
            "kencarp4",
        )
    },
}

#: torchdiffeq's option keys for step-size control, and the fields of `PID`.
_CONTROL = {
    "safety": "safety",
    "ifactor": "max_factor",
    "dfactor": "min_factor",
    "min_step": "min_step",
    "max_step": "max_step",
}
_FIXED_OPTIONS = {"step_size", "grid_constructor", "interp", "perturb"}
_ADAPTIVE_OPTIONS = {
    "norm", "first_step", "max_num_steps", "step_t", "jump_t", "dtype", *_CONTROL,
}  # fmt: skip
_CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> State | tuple[Tensor, State]:
    """Solve ``dy/dt = func(t, y)``, ``y(t[0]) = y0``; gradients through the solver's steps.

    Args:
        func: called as ``func(t, y)``, returns dy/dt with the shapes and dtypes of y.  Its
            attributes ``callback_step``, ``callback_accept_step`` and ``callback_reject_step``
            are called as ``(t0, y0, dt)`` for every step.
        y0: a tensor of any shape, or a tuple of tensors.
        t: times, shape (T,), strictly increasing or decreasing.
        rtol, atol: relative and absolute tolerance: numbers, tensors that broadcast to y0, or a
            tuple of either where y0 is a tuple.
        method: "dopri5" (default) or any other of torchdiffeq's names; "rk4" is the 3/8 rule, as
            there, and "rk4_classical" the other one.
        options: fixed steps: ``step_size`` or ``grid_constructor(func, y0, t)`` (default: one
            step from each time to the next), ``interp`` ("linear" or "cubic": what is between
            the points of such a grid), ``perturb`` (f is evaluated strictly inside a step).
            Adaptive: ``first_step``, ``min_step``, ``max_step``, ``max_num_steps``, ``safety``,
            ``ifactor``, ``dfactor``, ``step_t``, ``jump_t``, ``norm`` (of a tensor or tuple
            shaped like y, to a 0-dim tensor), ``dtype`` (of time, which is float64 here in any
            case).  Adams: ``max_order``, ``max_iters``; implicit methods: ``max_iters``.
            "scipy_solver": ``solver``, ``max_step``.
        event_fn: ends the solve where one of the components of ``event_fn(t, y)`` is zero; of t,
            which has length 2, only the first time and the direction count.

    Returns:
        The state at the times t, a tensor of shape ``(T, *y0.shape)``, or a tuple of such.  With
        ``event_fn`` the time of the event, and y0 with the state at the event, T = 2.

    Raises:
        TypeError, ValueError: for a wrong argument; the message says which.
        SolverError: if the last time cannot be reached.
    """
    plan = _method(method, rtol, atol, options, func, y0, t, "options", event_fn is not None)
    return _solve(func, y0, t, plan, Direct(), event_fn)


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> State | tuple[Tensor, State]:
    """`odeint` with gradients from the continuous adjoint: memory does not grow with the steps.

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as in `odeint`.  func need not be a
            module: the tensors that it closes over are found.  Its attributes
            ``callback_step_adjoint`` and so on are called in the backward solve, with the tuple
            ``(0, y, a)``, or ``(0, *y, *a)``, for the state.
        adjoint_rtol, adjoint_atol, adjoint_method: of the backward solve; default: those of
            the forward solve.
        adjoint_options: of the backward solve; default: ``options`` without ``norm``.
            ``norm="seminorm"`` is accepted and is the default.
        adjoint_params: exactly the tensors whose gradients are wanted, besides those of y0
            and t.

    Returns:
        y at the times t, or the event, as `odeint`.

    Raises:
        TypeError, ValueError, SolverError: as `odeint`.  A `SolverError` may also come from the
            backward solve, out of ``backward()``.
    """
    plan = _method(method, rtol, atol, options, func, y0, t, "options", event_fn is not None)
    method = "dopri5" if method is None else method
    if adjoint_options is None:
        if adjoint_method not in (None, method) and options:
            raise ValueError(
                "adjoint_method differs from method, so that options cannot serve for both: "
                "give adjoint_options as well"
            )
        # The backward solve takes the norm of the forward solve, for y and for a.
        adjoint_options = {k: v for k, v in (options or {}).items() if k != "norm"}
    elif adjoint_options.get("norm") == "seminorm":
        adjoint_options = {k: v for k, v in adjoint_options.items() if k != "norm"}
    elif "norm" in adjoint_options:
        raise ValueError(
            'adjoint_options["norm"] must be "seminorm" or left out: the parameter gradient is '
            "a quadrature here and is not part of the state that a norm would see"
        )
    backward = _method(
        method if adjoint_method is None else adjoint_method,
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        adjoint_options,
        func,
        y0,
        t,
        "adjoint_options",
        event_fn is not None,
    )
    strategy = Backsolve(
        method=backward.scheme,
        rtol=adjoint_rtol,
        atol=adjoint_atol,
        control=backward.control,
        first_step=backward.first_step,
        max_steps=backward.max_steps,
        params=None if adjoint_params is None else tuple(adjoint_params),
        observers=backward.observers,
    )
    return _solve(func, y0, t, plan, strategy, event_fn)


def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """Solve from t0 until ``event_fn(t, y)`` is zero.

    Gradients flow to the time and the state of the event, also with respect to the parameters of
    ``event_fn``, which need not be part of the state.

    Args:
        func, y0, event_fn: as in `odeint`.
        t0: the initial time, a tensor with one element.
        reverse_time: whether to go backwards in time.
        odeint_interface: `odeint` or `odeint_adjoint`.
        kwargs: its other arguments.

    Returns:
        The event's time, 0-dim, and the states at t0 and there, with a leading axis of length 2.

    Raises:
        TypeError, ValueError, SolverError: as `odeint`.
    """
    if not isinstance(t0, Tensor) or t0.numel() != 1:
        raise TypeError("t0 must be a tensor with one element: write torch.tensor(0.0)")
    t0 = t0.reshape(())
    t = torch.stack([t0, t0.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)


def _solve(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    plan: Method,
    gradient: Gradient,
    event_fn: Callable[[Tensor, Any], Tensor] | None,
) -> State | tuple[Tensor, State]:
    if event_fn is None:
        return solution_of(pose(func, y0, t, (), plan), gradient).y
    t, times = check_times(t)
    if len(times) != 2:
        raise ValueError(f"with event_fn, t must have length 2, got {len(times)}")
    end = torch.full_like(t[0], math.copysign(math.inf, times[1] - times[0])).detach()
    t = torch.stack([t[0], end])
    solution = solution_of(pose(func, y0, t, (), plan, event=Event(event_fn)), gradient)
    return solution.event.t, solution.y


def _method(
    name: str | None,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any] | None,
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    argument: str,
    until_event: bool,
) -> Method:
    """torchdiffeq's strings and dictionaries as a `Method`."""
    name = "dopri5" if name is None else name
    if not isinstance(name, str):
        raise TypeError(f"method must be a string, got {type(name).__name__}")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"{argument} must be a dictionary, got {type(options).__name__}")
    known = {**ADAPTIVE, **FIXED, "scipy_solver": SciPy()}
    if name not in known:
        raise ValueError(f"unknown method {name!r}: {suggestion(name, known)}")
    # torchdiffeq also takes numbers as 0-dim tensors.
    options = {
        key: value if key in ("step_t", "jump_t") else _number(value)
        for key, value in (options or {}).items()
    }
    _check_known(argument, name, options)
    common = {
        "rtol": _number(rtol),
        "atol": _number(atol),
        "observers": _callbacks(func, y0, name, argument),
        "max_steps": options.get("max_num_steps", 2**31 - 1),
    }
    if "max_iters" in options:
        common["max_iterations"] = options["max_iters"]
    if name == "scipy_solver":
        return Method(SciPy(**options), **common)
    if name in FIXED:
        scheme = FIXED[name]
        if "max_order" in options:
            scheme = Adams(scheme.implicit, options["max_order"])
        control = _known_steps(argument, options, func, y0, t, until_event)
        return Method(scheme, control=control, **common)
    if "norm" in options:
        common["norm"] = _norm_of_state(options["norm"], y0)
    if "dtype" in options and not getattr(options["dtype"], "is_floating_point", False):
        raise TypeError(f'{argument}["dtype"] must be a floating dtype, got {options["dtype"]}')
    return Method(
        ADAPTIVE[name],
        control=PID(**{_CONTROL[key]: options[key] for key in _CONTROL if key in options}),
        first_step=options.get("first_step"),
        step_t=options.get("step_t", ()),
        jump_t=options.get("jump_t", ()),
        **common,
    )


def _check_known(argument: str, name: str, options: Mapping[str, Any]) -> None:
    """Raise for an option that the method does not know."""
    if name == "scipy_solver":
        known = {"solver", "max_step"}
    elif name in ADAPTIVE:
        known = _ADAPTIVE_OPTIONS | (set() if ADAPTIVE[name].explicit else {"max_iters"})
    elif isinstance(FIXED[name], Adams):
        known = _FIXED_OPTIONS | {"max_order", "max_iters"}
    else:
        known = _FIXED_OPTIONS | (set() if FIXED[name].explicit else {"max_iters"})
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{argument} has {', '.join(map(repr, unknown))}, which method {name!r} does not "
            f"know: it takes {', '.join(sorted(known))}"
        )


def _known_steps(
    argument: str,
    options: Mapping[str, Any],
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    until_event: bool,
) -> Control:
    """Steps from ``step_size`` or ``grid_constructor``, or from each time to the next."""
    size, construct = options.get("step_size"), options.get("grid_constructor")
    interpolation, one_sided = options.get("interp", "linear"), options.get("perturb", False)
    if interpolation not in ("linear", "cubic"):
        raise ValueError(
            f'{argument}["interp"] must be "linear" or "cubic", got {interpolation!r}'
        )
    if not isinstance(one_sided, bool):
        raise TypeError(f'{argument}["perturb"] must be True or False, got {one_sided!r}')
    if size is not None and construct is not None:
        raise ValueError(f"{argument} has both step_size and grid_constructor: give one of them")
    if size is not None:
        require_number(f'{argument}["step_size"]', size)
        steps = FixedStep(size)
    if until_event:
        if size is None:
            raise ValueError(f"with event_fn, a method with fixed steps needs {argument} step_size")
        return steps
    _, times = check_times(t)
    if size is not None:
        grid = _equidistant(times[0], times[-1], steps)
    elif construct is not None:
        points = construct(func, y0, t)
        grid = tuple(map(float, points))
        if not grid or (grid[0], grid[-1]) != (times[0], times[-1]):
            raise ValueError(
                "grid_constructor must return times from the first of t to the last, "
                f"{times[0]} to {times[-1]}"
            )
    elif one_sided:
        grid = times
    else:
        return FixedStep()
    return FixedGrid(grid, interpolation, one_sided)


def _equidistant(start: float, end: float, steps: FixedStep) -> tuple[float, ...]:
    """Times of distance ``steps.size``, the last of which is the end."""
    count = steps.count(end - start) if end != start else 0
    step = math.copysign(steps.size, end - start)
    return (*(start + i * step for i in range(count)), end)


def _number(value: Any) -> Any:
    """A tensor with one element as the number that it holds; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _norm_of_state(norm: Callable[[Any], Tensor], y0: State) -> Callable[[Leaves], Tensor]:
    """A norm of states as the user sees them, as one of lists of leaves."""
    if not callable(norm):
        raise TypeError(f'options["norm"] must be callable, got {type(norm).__name__}')
    _, spec = tree_flatten(y0)
    return lambda leaves: norm(tree_unflatten(leaves, spec))


class _Callbacks(Observer):
    """The callbacks of func, with the state as the user knows it."""

    def __init__(self, callbacks: Mapping[str, Callable], spec: TreeSpec | None) -> None:
        self._callbacks = callbacks
        #: Structure of the state; None for the flat state of the adjoint.
        self._spec = spec

    def _call(self, name: str, t: float, y: Leaves, h: float) -> None:
        if name in self._callbacks:
            if self._spec is None:
                state = (y[0].new_zeros(()), *y)
            else:
                state = tree_unflatten(y, self._spec)
            times = torch.tensor([t, abs(h)], dtype=torch.float64, device=y[0].device)
            self._callbacks[name](times[0], state, times[1])

    def tried(self, t: float, y: Leaves, h: float) -> None:
        self._call("callback_step", t, y, h)

    def accepted(self, t: float, y: Leaves, h: float) -> None:
        self._call("callback_accept_step", t, y, h)

    def rejected(self, t: float, y: Leaves, h: float) -> None:
        self._call("callback_reject_step", t, y, h)


def _callbacks(
    func: Callable[[Tensor, Any], Any], y0: State, method: str, argument: str
) -> tuple[Observer, ...]:
    """The observers for the callbacks that func has, with torchdiffeq's warning for the rest."""
    backward = argument == "adjoint_options"
    suffix = "_adjoint" if backward else ""
    found = {name: getattr(func, name + suffix, None) for name in _CALLBACKS}
    found = {name: callback for name, callback in found.items() if callback is not None}
    if method in ADAPTIVE:
        allowed = set(_CALLBACKS)
    else:
        allowed = {"callback_step"} if method in FIXED else set()
    if unknown := sorted(set(found) - allowed):
        warnings.warn(
            f"method {method!r} does not support callbacks {unknown}: they are not called",
            stacklevel=4,
        )
    used = {name: callback for name, callback in found.items() if name in allowed}
    spec = None if backward else tree_flatten(y0)[1]
    return (_Callbacks(used, spec),) if used else ()
