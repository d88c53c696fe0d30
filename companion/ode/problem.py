"""An initial value problem with the method to solve it: every argument checked once, here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten

from companion.ode.control import PID
from companion.ode.event import Event, check_events
from companion.ode.field import Field, Leaves, time_dtype
from companion.ode.method import Method
from companion.ode.observe import Observer
from companion.ode.read_back import read_all
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats
from companion.ode.tolerance import warn_of_rounding


@dataclass(frozen=True)
class Problem:
    """``dy/dt = f(t, y, *args)`` with y = y0 at the first of the given times.

    Attributes:
        f: the vector field.
        y0: leaves of the initial state.
        spec: structure of the state.
        t: the times, shape (T,).
        times: the same as floats.
        args: what f takes after t and y.
        method: how to step.
        events: what may end the solve early.
        dense: whether to keep every step, for the solution at any time.
        rates: f at the beginning, where it has been evaluated there already.
    """

    f: Callable[..., Any]
    y0: Leaves
    spec: TreeSpec
    t: Tensor
    times: tuple[float, ...]
    args: tuple
    method: Method
    events: tuple[Event, ...] = ()
    dense: bool = False
    rates: Leaves | None = None

    def watched_by(self, *observers: Observer) -> Problem:
        """The same problem with more observers."""
        method = replace(self.method, observers=(*self.method.observers, *observers))
        return replace(self, method=method)

    def field(self, stats: Stats, args: tuple | None = None) -> Field:
        """The vector field on leaves, counting its evaluations in ``stats``."""
        arguments = self.args if args is None else args
        return Field(self.f, self.spec, arguments, time_dtype(self.y0), stats)


def pose(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    args: tuple,
    method: Method,
    *,
    event: Any = None,
    dense: bool = False,
) -> Problem:
    """Check the arguments of a solve.

    Raises:
        TypeError: f is not callable, a part of y0 is no floating-point or complex tensor, t is
            no tensor or sequence of numbers, args is no tuple.
        ValueError: y0 has no tensors or tensors on several devices; t is not 1-D, is empty, has
            a time that is not finite (the last may be infinite where an event ends the solve),
            or is not strictly monotone.
    """
    if not callable(f):
        raise TypeError(f"f must be callable as f(t, y, *args), got {type(f).__name__}")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple, got {type(args).__name__}: write args=(x,)")
    leaves, spec = tree_flatten(y0)
    if not leaves:
        raise ValueError("y0 holds no tensor: there is no state to solve for")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"y0 must consist of tensors, got {type(leaf).__name__}: "
                "convert it with torch.as_tensor"
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise TypeError(f"y0 has dtype {leaf.dtype}: the state must be floating or complex")
    devices = sorted({str(leaf.device) for leaf in leaves})
    if len(devices) > 1:
        raise ValueError(f"the tensors of y0 are on several devices, {devices}: move them to one")
    if dense and isinstance(method.scheme, SciPy):
        raise ValueError(
            "SciPy's solvers keep no dense output here: put the times wanted into t, or take "
            "one of companion's methods"
        )
    events = check_events(event)
    t, times = check_times(t, open_end=bool(events))
    method = method.of_leaves(leaves, spec)
    if isinstance(method.control, PID):
        warn_of_rounding(method.rtol, method.atol, leaves)
    return Problem(f, leaves, spec, t, times, args, method, events, dense)


def check_times(
    t: Tensor | Sequence[float], *, open_end: bool = False
) -> tuple[Tensor, tuple[float, ...]]:
    """The times as a tensor and as floats; integers become float64.

    With an open end the last time may be infinite.

    Raises:
        TypeError, ValueError: see `pose`.
    """
    if not isinstance(t, Tensor):
        try:
            if isinstance(t, Iterable) and any(isinstance(time, Tensor) for time in t):
                # Stacked, they keep their graph.
                t = torch.stack([torch.as_tensor(time, dtype=torch.float64) for time in t])
            else:
                t = torch.as_tensor(t, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"t must be a tensor or a sequence of numbers, got {type(t).__name__}"
            ) from error
    if t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"t has dtype {t.dtype}: times must be real numbers")
    if not t.is_floating_point():
        t = t.to(torch.float64)
    if t.ndim != 1 or t.numel() == 0:
        raise ValueError(
            f"t must have shape (T,) with T >= 1, got {tuple(t.shape)}: give all times at which "
            "y is wanted, the initial time first"
        )
    times = tuple(read_all(t, "t"))
    for i, time in enumerate(times):
        if not math.isfinite(time):
            if open_end and 0 < i == len(times) - 1 and math.isinf(time):
                continue
            cure = "; only with an event may the last be infinite" if math.isinf(time) else ""
            raise ValueError(f"t[{i}] is {time}: all times must be finite{cure}")
    forward = times[-1] > times[0]
    for i, (a, b) in enumerate(pairwise(times)):
        if a == b or (b > a) != forward:
            raise ValueError(
                f"t must be strictly increasing or strictly decreasing, got t[{i}] = {a} and "
                f"t[{i + 1}] = {b}: sort the times and drop repeated ones "
                "(torch.unique does both)"
            )
    return t, times
