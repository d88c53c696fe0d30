"""Initial value problems, solved and differentiated: the one entry of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_unflatten

from companion.adjoint import STRATEGIES, Gradient
from companion.ode.problem import Control, Method, pose
from companion.ode.solution import Solution, Stats
from companion.ode.tableau import Tableau


def solve(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *,
    args: tuple = (),
    method: Tableau | str = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    control: Control | None = None,
    gradient: Gradient | str = "direct",
    first_step: float | None = None,
    max_steps: int = 10_000,
) -> Solution:
    r"""Solve :math:`dy/dt = f(t, y, *args)`, :math:`y(t_0) = y_0`.

    Everything follows the device of y0.  Gradients flow to y0, to the tensors in args, to the
    parameters of f and to every time in t.

    Args:
        f: called as ``f(t, y, *args)`` with t a 0-dim tensor of y's real dtype; returns dy/dt
            with the structure, shapes and dtypes of y.
        y0: a floating or complex tensor of any shape, or a pytree (tuples, lists, dictionaries)
            of such tensors on one device.
        t: the times at which y is wanted, shape (T,), strictly increasing or decreasing; the
            first is the initial time.
        args: what f takes after t and y: any pytree.
        method: "euler", "midpoint", "heun", "rk4", "rk4_38", "bosh3", "dopri5", "tsit5", or a
            `companion.ode.Tableau`.
        rtol, atol: tolerances of a step: the root mean square of
            :math:`e_i / (atol + rtol \max(|y_i|, |y_{1,i}|))` is kept at most 1.
        control: `companion.ode.PID` (the default) or `companion.ode.FixedStep`, which the
            methods without an error estimate need.
        gradient: "direct" or "backsolve", or a strategy from `companion.adjoint`.
        first_step: size of the first step; None chooses it.
        max_steps: steps tried before the solve is given up.

    Returns:
        `companion.ode.Solution` with ``t``, ``y`` and ``stats``.

    Raises:
        TypeError, ValueError: for a wrong argument, or when f returns something that does not
            match the state.
        SolverError: when the last time cannot be reached: `StepSizeUnderflow`, `TooManySteps`,
            `NonFiniteState`.

    Example:
        >>> import torch
        >>> from companion import solve
        >>> sol = solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])
        >>> bool(abs(sol.y[-1] - 0.36788) < 1e-4)
        True
    """
    plan = Method(method, rtol, atol, control, first_step=first_step, max_steps=max_steps)
    problem = pose(f, y0, t, args, plan)
    stats = Stats()
    leaves = find_strategy(gradient)(problem, stats)
    return Solution(problem.t, tree_unflatten(leaves, problem.spec), stats)


def find_strategy(gradient: Gradient | str) -> Gradient:
    """The strategy itself, or the one with this name."""
    if isinstance(gradient, str):
        if gradient not in STRATEGIES:
            raise ValueError(
                f"unknown gradient {gradient!r}: choose one of {', '.join(STRATEGIES)}"
            )
        return STRATEGIES[gradient]()
    if isinstance(gradient, type) or not callable(gradient):
        raise TypeError(
            "gradient must be a name or a strategy such as Backsolve(), got "
            f"{getattr(gradient, '__name__', type(gradient).__name__)}"
        )
    return gradient
