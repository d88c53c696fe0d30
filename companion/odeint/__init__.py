"""A drop-in for torchdiffeq: the same functions, method names and option keys.

``from companion import odeint_adjoint as odeint`` replaces
``from torchdiffeq import odeint_adjoint as odeint``.  This is the only package that knows
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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from companion.adjoint import Backsolve, Direct, Gradient
from companion.ode.event import Event
from companion.ode.method import Method
from companion.ode.problem import check_times, pose
from companion.odeint.forms import State, of_own, returning_state
from companion.odeint.options import method_of, options_of_adjoint
from companion.solve import solution_of


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
    until_event = event_fn is not None
    plan = method_of(method, rtol, atol, options, func, y0, t, until_event=until_event)
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
            ``norm="seminorm"`` is accepted and is the default.  Without ``step_t`` and
            ``jump_t`` those of ``options`` hold.
        adjoint_params: exactly the tensors whose gradients are wanted, besides those of y0
            and t.

    Returns:
        y at the times t, or the event, as `odeint`.

    Raises:
        TypeError, ValueError, SolverError: as `odeint`.  A `SolverError` may also come from the
            backward solve, out of ``backward()``.
    """
    until_event = event_fn is not None
    plan = method_of(method, rtol, atol, options, func, y0, t, until_event=until_event)
    method = "dopri5" if method is None else method
    adjoint_method = method if adjoint_method is None else adjoint_method
    backward = method_of(
        adjoint_method,
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        options_of_adjoint(adjoint_options, options, same=adjoint_method == method),
        func,
        y0,
        t,
        until_event=until_event,
        backward=True,
    )
    if adjoint_params is not None:
        if isinstance(adjoint_params, Tensor) or not isinstance(adjoint_params, Iterable):
            raise TypeError(
                "adjoint_params must be an iterable of tensors, got "
                f"{type(adjoint_params).__name__}"
            )
        adjoint_params = tuple(adjoint_params)
    strategy = Backsolve(
        method=backward.scheme,
        rtol=backward.rtol,
        atol=backward.atol,
        control=backward.control,
        first_step=backward.first_step,
        max_steps=backward.max_steps,
        # A jump of f is one for the backward solve as well, named or not.
        step_t=backward.step_t or None,
        jump_t=backward.jump_t or None,
        max_iterations=backward.max_iterations,
        params=adjoint_params,
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
    func, y0 = returning_state(func, y0), of_own(y0)
    if event_fn is None:
        return solution_of(pose(func, y0, t, (), plan), gradient).y
    t, times = check_times(t)
    if len(times) != 2:
        raise ValueError(f"with event_fn, t must have length 2, got {len(times)}")
    end = torch.full_like(t[0], math.copysign(math.inf, times[1] - times[0])).detach()
    t = torch.stack([t[0], end])
    solution = solution_of(pose(func, y0, t, (), plan, event=Event(event_fn)), gradient)
    return solution.event.t, solution.y
