"""A drop-in for torchdiffeq: the same functions, method names and option keys.

``from companion import odeint_adjoint as odeint`` replaces
``from torchdiffeq import odeint_adjoint as odeint``.  This is the only module that knows
torchdiffeq's option dictionaries; `companion.solve` is the interface that the rest uses.

What differs, on purpose: an option that the method does not know raises instead of warning;
fixed steps end at every output time instead of being interpolated there; tolerances are single
numbers; callbacks are not called; without ``adjoint_params`` the tensors that func holds or
closes over are found; the backward solve is one solve with jumps instead of one
solve an interval, and does not control the error of the parameter gradient ("seminorm").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from companion.adjoint import Backsolve, Direct, Gradient
from companion.ode.control import PID, FixedStep, require_number
from companion.ode.field import Leaves
from companion.ode.method import Method
from companion.ode.problem import pose
from companion.ode.solution import Stats

State = Tensor | tuple[Tensor, ...]

#: torchdiffeq's methods by name: the tableau's name here.
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "rk4": "rk4_38"}
ADAPTIVE = {
    "adaptive_heun": "heun",
    "bosh3": "bosh3",
    "dopri5": "dopri5",
    "tsit5": "tsit5",
}

#: torchdiffeq's option keys for step-size control, and the fields of `PID`.
_CONTROL = {"safety": "safety", "ifactor": "max_factor", "dfactor": "min_factor"}
_FIXED_OPTIONS = {"step_size"}
_ADAPTIVE_OPTIONS = {"norm", "first_step", "max_num_steps", *_CONTROL}


def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> State:
    """Solve ``dy/dt = func(t, y)``, ``y(t[0]) = y0``; gradients through the solver's steps.

    Args:
        func: called as ``func(t, y)``, returns dy/dt with the shapes and dtypes of y.
        y0: a tensor of any shape, or a tuple of tensors.
        t: times, shape (T,), strictly increasing or decreasing.
        rtol, atol: relative and absolute tolerance.
        method: "dopri5" (default), "tsit5", "bosh3", "adaptive_heun"; or, with fixed steps,
            "euler", "midpoint", "heun2", "rk4" (the 3/8 rule, as in torchdiffeq).
        options: fixed steps: ``step_size`` (default: one step from each time to the next).
            Adaptive: ``first_step``, ``max_num_steps``, ``safety``, ``ifactor``, ``dfactor``,
            ``norm`` (of a tensor or tuple shaped like y, to a 0-dim tensor).

    Returns:
        The state at the times t, a tensor of shape ``(T, *y0.shape)``, or a tuple of such.

    Raises:
        TypeError, ValueError: for a wrong argument; the message says which.
        SolverError: if the last time cannot be reached.
    """
    plan = _method(method, rtol, atol, options, y0, "options")
    return _solve(func, y0, t, plan, Direct())


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> State:
    """`odeint` with gradients from the continuous adjoint: memory does not grow with the steps.

    Args:
        func, y0, t, rtol, atol, method, options: as in `odeint`.  func need not be a module:
            the tensors that it closes over are found.
        adjoint_rtol, adjoint_atol, adjoint_method: of the backward solve; default: those of
            the forward solve.
        adjoint_options: of the backward solve; default: ``options`` without ``norm``.
            ``norm="seminorm"`` is accepted and is the default.
        adjoint_params: exactly the tensors whose gradients are wanted, besides those of y0
            and t.

    Returns:
        y at the times t, as `odeint`.

    Raises:
        TypeError, ValueError, SolverError: as `odeint`.  A `SolverError` may also come from the
            backward solve, out of ``backward()``.
    """
    plan = _method(method, rtol, atol, options, y0, "options")
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
        y0,
        "adjoint_options",
    )
    strategy = Backsolve(
        method=backward.scheme,
        rtol=backward.rtol,
        atol=backward.atol,
        control=backward.control,
        first_step=backward.first_step,
        max_steps=backward.max_steps,
        params=None if adjoint_params is None else tuple(adjoint_params),
    )
    return _solve(func, y0, t, plan, strategy)


def _solve(
    func: Callable[[Tensor, Any], Any], y0: State, t: Tensor, plan: Method, gradient: Gradient
) -> State:
    problem = pose(func, y0, t, (), plan)
    return tree_unflatten(gradient(problem, Stats()).leaves, problem.spec)


def _method(
    name: str | None,
    rtol: float,
    atol: float,
    options: Mapping[str, Any] | None,
    y0: State,
    argument: str,
) -> Method:
    """torchdiffeq's strings and dictionaries as a `Method`."""
    name = "dopri5" if name is None else name
    if not isinstance(name, str):
        raise TypeError(f"method must be a string, got {type(name).__name__}")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"{argument} must be a dictionary, got {type(options).__name__}")
    # torchdiffeq also takes numbers as 0-dim tensors.
    options = {key: _number(value) for key, value in (options or {}).items()}
    rtol, atol = _number(rtol), _number(atol)
    known = _FIXED_OPTIONS if name in FIXED else _ADAPTIVE_OPTIONS
    if name not in FIXED and name not in ADAPTIVE:
        raise ValueError(
            f"unknown method {name!r}: choose one of {', '.join([*ADAPTIVE, *FIXED])}"
        )
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{argument} has {', '.join(map(repr, unknown))}, which method {name!r} does not "
            f"know: it takes {', '.join(sorted(known))}"
        )
    if name in FIXED:
        step = options.get("step_size")
        if step is not None:
            require_number(f'{argument}["step_size"]', step)
        control = FixedStep() if step is None else FixedStep(step)
        return Method(FIXED[name], rtol, atol, control, max_steps=2**31 - 1)
    choices: dict[str, Any] = {"max_steps": options.get("max_num_steps", 2**31 - 1)}
    if "norm" in options:
        choices["norm"] = _norm_of_state(options["norm"], y0)
    control = PID(**{_CONTROL[key]: options[key] for key in _CONTROL if key in options})
    first_step = options.get("first_step")
    return Method(ADAPTIVE[name], rtol, atol, control, first_step=first_step, **choices)


def _number(value: Any) -> Any:
    """A tensor with one element as the number that it holds; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _norm_of_state(norm: Callable[[Any], Tensor], y0: State) -> Callable[[Leaves], Tensor]:
    """A norm of states as the user sees them, as one of lists of leaves."""
    if not callable(norm):
        raise TypeError(f'options["norm"] must be callable, got {type(norm).__name__}')
    _, spec = tree_flatten(y0)
    return lambda leaves: norm(tree_unflatten(leaves, spec))
