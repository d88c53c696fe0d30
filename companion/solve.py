"""Initial value problems, solved and differentiated: the one entry of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from companion.adjoint import STRATEGIES, Checkpointed, Direct, Gradient
from companion.adjoint.recorded import refuse_batched, watched
from companion.ode.batched import (
    check_batched_method,
    check_batched_times,
    integrate_batched,
)
from companion.ode.event import Event, EventRecord
from companion.ode.event_time import event_time
from companion.ode.field import Leaves
from companion.ode.integrate import Path, conditions_of
from companion.ode.method import Control, Method, Scheme, suggestion
from companion.ode.observe import ProgressBar
from companion.ode.problem import Problem, pose
from companion.ode.solution import Solution, Stats

#: Strategies whose gradients, those of the steps, ``batched=True`` gives.
BATCHED = (Checkpointed, Direct)


def solve(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *,
    args: tuple = (),
    method: Scheme | str = "dopri5",
    rtol: Any = 1e-6,
    atol: Any = 1e-8,
    control: Control | str | None = None,
    gradient: Gradient | str = "checkpointed",
    event: Event | Callable[..., Tensor] | Sequence[Event | Callable[..., Tensor]] | None = None,
    dense: bool = False,
    step_t: Sequence[float] | Tensor = (),
    jump_t: Sequence[float] | Tensor = (),
    first_step: float | None = None,
    max_steps: int = 10_000,
    batched: bool = False,
    progress: bool = False,
) -> Solution:
    r"""Solve :math:`dy/dt = f(t, y, *args)`, :math:`y(t_0) = y_0`.

    Everything follows the device of y0.  Gradients flow to y0, to the tensors in args, to the
    parameters of f, to every time in t, and to what the conditions of events use.

    Under `torch.func.vmap` the samples share their steps, which are small enough for the worst of
    them (``batched=True`` gives each its own); `torch.func.jvp`, ``grad`` and their compositions
    work with gradient="checkpointed" and "direct".

    Args:
        f: called as ``f(t, y, *args)`` with t a 0-dim tensor of y's real dtype; returns dy/dt
            with the structure, shapes and dtypes of y.
        y0: a floating or complex tensor of any shape, or a pytree (tuples, lists, dictionaries)
            of such tensors on one device.
        t: the times at which y is wanted, shape (T,), strictly increasing or decreasing; the
            first is the initial time.  With an event the last may be infinite.
        args: what f takes after t and y: any pytree.
        method: a name, or a `companion.ode.Tableau`, `companion.ode.Adams` or
            `companion.ode.SciPy`.  Explicit: "euler", "midpoint", "heun", "ralston", "fehlberg2",
            "heun3", "rk4", "rk4_38", "bosh3", "dopri5", "tsit5", "vern7", "dopri8"; implicit:
            "implicit_euler", "implicit_midpoint", "trapezoid", "gl4", "gl6", "radauIIA3",
            "radauIIA5", "sdirk2", "trbdf2", "kvaerno3", "kvaerno5", "kencarp4"; multistep:
            "explicit_adams", "implicit_adams"; "scipy_solver".
        rtol, atol: tolerances of a step: the root mean square of
            :math:`e_i / (atol + rtol \max(|y_i|, |y_{1,i}|))` is kept at most 1.  Numbers, tensors
            that broadcast to the state, or such in the structure of y0.
        control: `companion.ode.PID` (the default), the name of a preset such as "PI3040", or
            `companion.ode.FixedStep` or `companion.ode.FixedGrid`, one of which the methods
            without an error estimate need.
        gradient: "checkpointed", "direct", "backsolve", "gauss", "reversible" or "implicit", or a
            strategy from `companion.adjoint`.
        event: a function ``condition(t, y, *args)``, a `companion.ode.Event` or several of them:
            the solve ends at the first zero, whose time and state are differentiable once.
        dense: keep every step, so that ``solution(t)`` gives the state at any time; not with
            SciPy's solvers.
        step_t: times at which a step must end; for Runge-Kutta methods with steps that adapt.
        jump_t: times at which f jumps: steps end there, and each sees f on its own side only.
            Tensors that require grad get the sensitivity to the time of the jump,
            :math:`\langle a(\tau), f(\tau^-) - f(\tau^+) \rangle`.
        first_step: size of the first of steps that adapt; None chooses it.
        max_steps: steps tried before the solve is given up.
        batched: whether the first axis of the state is a batch whose samples are independent:
            each then has its own step sizes, so that its result does not depend on the others.
            f gets t of shape (B,), which broadcasts with states of shape (B, n) as
            ``t[:, None]``; t may have shape (B, T), with times of each sample's own.
            Explicit methods with an error estimate only.  Gradients are those of gradient="direct".
        progress: show a progress bar.

    Returns:
        `companion.ode.Solution` with ``t``, ``y``, ``stats``, ``status`` and ``event``.

    Raises:
        TypeError, ValueError: for a wrong argument, or when f returns something that does not
            match the state.
        SolverError: when the last time cannot be reached: `StepSizeUnderflow`, `TooManySteps`,
            `NonFiniteState`, `NotConverged`; or `GrazingEvent`, when a derivative is wanted
            of an event that only touches zero.

    Example:
        >>> import torch
        >>> from companion import solve
        >>> sol = solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])
        >>> bool(abs(sol.y[-1] - 0.36788) < 1e-4)
        True
    """
    plan = Method(
        method,
        rtol,
        atol,
        control,
        first_step=first_step,
        max_steps=max_steps,
        step_t=step_t,
        jump_t=jump_t,
    )
    strategy = find_strategy(gradient)
    for name, flag in (("dense", dense), ("batched", batched), ("progress", progress)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    if batched:
        if event is not None or dense or progress or not isinstance(strategy, BATCHED):
            raise ValueError(
                "batched=True goes without event, dense and progress, and with "
                "gradient='direct' or the default: leave one of them out"
            )
        refuse_batched()
        return _solve_batched(f, y0, t, args, plan)
    problem = pose(f, y0, t, args, plan, event=event, dense=dense)
    if progress:
        problem = problem.watched_by(ProgressBar(problem.times[0], problem.times[-1]))
    return solution_of(problem, strategy)


def _solve_batched(f: Callable[..., Any], y0: Any, t: Any, args: tuple, method: Method) -> Solution:
    """Every sample of the batch with step sizes of its own."""
    # The times are checked on their own: they may have an axis more.
    problem = pose(f, y0, [0.0], args, method)
    check_batched_method(problem.method)
    times, own = check_batched_times(t, problem.y0)
    stats = Stats()
    leaves = integrate_batched(problem.field(stats), problem.method, problem.y0, own, stats)
    return Solution(times, tree_unflatten(leaves, problem.spec), stats)


def solution_of(problem: Problem, strategy: Gradient) -> Solution:
    """Solve a problem that is posed already."""
    stats = Stats()
    path = watched(strategy)(problem, stats)
    t, leaves, record = problem.t, path.leaves, None
    if path.crossing is not None:
        t, leaves, record = _with_event(problem, path, stats)

    def dense(times: Tensor) -> Any:
        return tree_unflatten(path.dense(times), problem.spec)

    return Solution(
        t,
        tree_unflatten(leaves, problem.spec),
        stats,
        "finished" if record is None else "event",
        record,
        None if path.dense is None else dense,
    )


def _with_event(problem: Problem, path: Path, stats: Stats) -> tuple[Tensor, Leaves, EventRecord]:
    """Times, states and the event, the last of each with the derivatives of the event's time."""
    conditions = conditions_of(problem)
    last = [leaf[-1] for leaf in path.leaves]
    steps = stats.accepted + stats.rejected
    time, state = event_time(path.crossing, conditions, problem.field(stats), last, steps)
    time = time.to(problem.t)
    t = torch.cat([problem.t[: len(path.times) - 1], time[None]])
    leaves = [
        torch.cat([leaf[:-1], end[None]]) for leaf, end in zip(path.leaves, state, strict=True)
    ]
    y = tree_unflatten(state, problem.spec)
    return t, leaves, EventRecord(time, y, path.crossing.index, path.crossing.component)


def find_strategy(gradient: Gradient | str) -> Gradient:
    """The strategy itself, or the one with this name."""
    if isinstance(gradient, str):
        if gradient not in STRATEGIES:
            raise ValueError(f"unknown gradient {gradient!r}: {suggestion(gradient, STRATEGIES)}")
        return STRATEGIES[gradient]()
    if isinstance(gradient, type) or not callable(gradient):
        raise TypeError(
            "gradient must be a name or a strategy such as Backsolve(), got "
            f"{getattr(gradient, '__name__', type(gradient).__name__)}"
        )
    return gradient
