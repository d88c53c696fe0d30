"""An initial value problem with the method to solve it: every argument checked once, here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten

from companion.ode.control import PID, FixedStep, require_number
from companion.ode.field import Field, Leaves
from companion.ode.norm import Norm, rms_norm
from companion.ode.solution import Stats
from companion.ode.tableau import Tableau
from companion.ode.tableaus import METHODS

Control = FixedStep | PID


@dataclass(frozen=True)
class Method:
    """How to step: the tableau, what controls the step size, and how far to go.

    Args:
        tableau: a tableau, or the name of one.
        rtol, atol: tolerances; a step is accepted if the norm of its error divided by
            ``atol + rtol * max(|y|, |y1|)`` is at most 1.
        control: None takes `PID` for methods with an error estimate.
        norm: from the leaves of that quotient to a 0-dim tensor.
        first_step: size of the first step; None chooses it from f.
        max_steps: number of steps tried before `TooManySteps`.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """

    tableau: Tableau | str
    rtol: float = 1e-6
    atol: float = 1e-8
    control: Control | None = None
    norm: Norm = rms_norm
    first_step: float | None = None
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "tableau", find_tableau(self.tableau))
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            require_number(name, value)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if self.rtol == self.atol == 0:
            raise ValueError("rtol and atol are both zero: no step has an error that small")
        if self.control is None:
            object.__setattr__(self, "control", PID())
        if not isinstance(self.control, FixedStep | PID):
            raise TypeError(
                f"control must be FixedStep or PID, got {type(self.control).__name__}"
            )
        if isinstance(self.control, PID) and self.tableau.error is None:
            raise ValueError(
                f"method {self.tableau.name!r} has no error estimate to choose steps by: give "
                "the step size with control=FixedStep(size), or take a method with an error "
                "estimate such as 'dopri5'"
            )
        if self.first_step is not None:
            require_number("first_step", self.first_step)
            if not (math.isfinite(self.first_step) and self.first_step > 0):
                raise ValueError(f"first_step must be positive, got {self.first_step}")
        if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, Integral):
            raise TypeError(f"max_steps must be an int, got {type(self.max_steps).__name__}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")


def find_tableau(method: Tableau | str) -> Tableau:
    """The tableau itself, or the one with this name."""
    if isinstance(method, Tableau):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method must be a name or a Tableau, got {type(method).__name__}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    return METHODS[method]


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
    """

    f: Callable[..., Any]
    y0: Leaves
    spec: TreeSpec
    t: Tensor
    times: tuple[float, ...]
    args: tuple
    method: Method

    def field(self, stats: Stats, args: tuple | None = None) -> Field:
        """The vector field on leaves, counting its evaluations in ``stats``."""
        dtype = self.y0[0].dtype
        for leaf in self.y0[1:]:
            dtype = torch.promote_types(dtype, leaf.dtype)
        real = torch.empty((), dtype=dtype).abs().dtype
        return Field(self.f, self.spec, self.args if args is None else args, real, stats)


def pose(
    f: Callable[..., Any], y0: Any, t: Tensor | Sequence[float], args: tuple, method: Method
) -> Problem:
    """Check the arguments of a solve.

    Raises:
        TypeError: f is not callable, a part of y0 is no floating-point or complex tensor, t is
            no tensor or sequence of numbers, args is no tuple.
        ValueError: y0 has no tensors or tensors on several devices; t is not 1-D, is empty, has
            a time that is not finite, or is not strictly monotone.
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
    t, times = check_times(t)
    return Problem(f, leaves, spec, t, times, args, method)


def check_times(t: Tensor | Sequence[float]) -> tuple[Tensor, tuple[float, ...]]:
    """The times as a tensor and as floats; integers become float64.

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
    times = tuple(t.detach().tolist())
    for i, time in enumerate(times):
        if not math.isfinite(time):
            raise ValueError(f"t[{i}] is {time}: all times must be finite")
    forward = times[-1] > times[0]
    for i, (a, b) in enumerate(pairwise(times)):
        if a == b or (b > a) != forward:
            raise ValueError(
                f"t must be strictly increasing or strictly decreasing, got t[{i}] = {a} and "
                f"t[{i + 1}] = {b}: sort the times and drop repeated ones "
                "(torch.unique does both)"
            )
    return t, times
